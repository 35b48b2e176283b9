//! Channels that share too few processes.

use crate::switch::{Switch, channel, limits};
use sternpost_message::Precedence::{Flash, Priority, Routine};
use sternpost_scheduler::{Limits, Reason, StopReason};

/// Channels of capacity 1 that could each take all places.
fn config(maxchans: u32, names: &[&str]) -> Limits {
    let channels = names.iter().map(|name| channel(name, maxchans, 1, &["a"])).collect();
    Limits { qmgr_maxchans: maxchans, ..limits(channels) }
}

fn processes(switch: &Switch) -> Vec<u32> {
    switch.scheduler.status().channels.iter().map(|channel| channel.processes).collect()
}

/// What started attaches, until nothing more starts.
fn settle_down(switch: &mut Switch) {
    loop {
        let started: Vec<(u64, String)> =
            switch.started().into_iter().map(|(process, name)| (process, name.to_owned())).collect();
        if started.is_empty() {
            return;
        }
        for (process, name) in started {
            switch.attach(process, &name, 1);
        }
    }
}

#[test]
fn a_channel_with_two_more_gives_one_at_a_message_boundary() {
    let mut switch = Switch::going(config(4, &["x", "y"]));
    for message in 1..=20 {
        switch.queue(message, "x", "a", Routine);
        settle_down(&mut switch);
    }
    assert_eq!(processes(&switch), [4, 0]);
    let busy = switch.scheduler.counts().in_progress;
    switch.queue(100, "y", "a", Routine);
    assert_eq!((switch.stopped().len(), switch.why(100)), (0, Reason::Turn), "they have just begun");
    switch.wait_ms(1_000);
    // The youngest is asked; it keeps what it has in progress, and nobody else is asked meanwhile.
    assert_eq!(switch.stopped(), [(4, StopReason::Balance)]);
    assert_eq!(switch.scheduler.counts().in_progress, busy);
    assert_eq!(switch.why(100), Reason::MakingRoom);
    switch.queue(101, "y", "a", Routine);
    assert!(switch.stopped().is_empty());
    switch.settle(4);
    switch.finish(4, 4);
    assert!(switch.assigned().is_empty(), "it takes nothing new");
    switch.gone(4);
    assert_eq!(switch.started(), [(5, "y")]);
    // y has one, x three, and two wait for y: one more is given, then they are even.
    assert_eq!(switch.stopped(), [(3, StopReason::Balance)]);
    switch.attach(5, "y", 1);
    assert!(switch.stopped().is_empty());
    switch.settle(3);
    switch.finish(3, 3);
    switch.gone(3);
    assert_eq!(switch.started(), [(6, "y")]);
    switch.attach(6, "y", 1);
    switch.queue(102, "y", "a", Routine);
    assert!(switch.stopped().is_empty());
    assert_eq!(processes(&switch), [2, 2]);
}

#[test]
fn urgent_mail_takes_the_process_of_a_channel_where_only_lower_mail_waits() {
    let mut switch = Switch::going(config(1, &["x", "y"]));
    for message in 1..=3 {
        switch.queue(message, "x", "a", Routine);
        settle_down(&mut switch);
    }
    switch.queue(4, "y", "a", Flash);
    assert_eq!(switch.stopped(), [(1, StopReason::Balance)]);
    switch.settle(1);
    switch.finish(1, 1);
    switch.gone(1);
    assert_eq!(switch.started(), [(2, "y")]);
}

#[test]
fn lower_mail_takes_nothing_from_a_channel_where_higher_mail_waits() {
    let mut switch = Switch::going(config(3, &["x", "y"]));
    for message in 1..=9 {
        switch.queue(message, "x", "a", Priority);
        settle_down(&mut switch);
    }
    switch.queue(10, "y", "a", Routine);
    for _ in 0..10 {
        switch.wait_ms(1_000);
        assert!(switch.stopped().is_empty());
    }
    assert_eq!(switch.why(10), Reason::Maxchans);
}

#[test]
fn a_place_that_was_made_for_a_channel_is_not_taken_back_by_the_giver() {
    let mut switch = Switch::going(config(2, &["x", "y"]));
    for message in 1..=2 {
        switch.queue(message, "x", "a", Priority);
        settle_down(&mut switch);
    }
    switch.wait_ms(1_000);
    switch.queue(3, "y", "a", Routine);
    assert_eq!(switch.stopped(), [(2, StopReason::Balance)]);
    // While it finishes, higher mail comes for its own channel.
    switch.queue(4, "x", "a", Priority);
    switch.settle(2);
    switch.finish(2, 2);
    switch.gone(2);
    assert_eq!(switch.started(), [(3, "y")]);
}

#[test]
fn a_channel_that_may_take_nothing_does_not_keep_others_from_it() {
    let mut switch = Switch::going(config(8, &["x", "y", "z"]));
    for message in 1..=4 {
        switch.queue(message, "x", "a", Priority);
        settle_down(&mut switch);
        switch.queue(10 + message, "y", "a", Priority);
        settle_down(&mut switch);
    }
    switch.wait_ms(1_000);
    // x has more than it can do, and no right to what y has; z has.
    switch.queue(20, "x", "a", Priority);
    assert!(switch.stopped().is_empty());
    switch.queue(30, "z", "a", Routine);
    assert_eq!(switch.stopped().len(), 1, "{:?}", switch.why(30));
}

#[test]
fn urgent_mail_does_not_wait_for_a_process_that_finishes_while_another_is_idle() {
    let mut switch = Switch::going(config(2, &["x", "y", "z"]));
    for message in 1..=2 {
        switch.queue(message, "x", "a", Routine);
        settle_down(&mut switch);
    }
    switch.wait_ms(1_000);
    switch.queue(3, "y", "a", Routine);
    assert_eq!(switch.stopped(), [(2, StopReason::Balance)]);
    switch.settle(1);
    switch.finish(1, 1);
    assert!(switch.stopped().is_empty(), "a place is coming");
    switch.queue(4, "z", "a", Flash);
    assert_eq!(switch.stopped(), [(1, StopReason::MakeRoom)]);
    switch.gone(1);
    assert_eq!(switch.started(), [(3, "z")]);
}

#[test]
fn a_process_that_does_not_finish_is_waited_for_no_longer_than_a_second() {
    let mut switch = Switch::going(config(3, &["x", "y"]));
    for message in 1..=3 {
        switch.queue(message, "x", "a", Routine);
        settle_down(&mut switch);
    }
    switch.wait_ms(1_000);
    switch.queue(4, "y", "a", Routine);
    assert_eq!(switch.stopped(), [(3, StopReason::Balance)]);
    switch.wait_ms(999);
    assert!(switch.stopped().is_empty());
    switch.wait_ms(1);
    assert_eq!(switch.stopped(), [(2, StopReason::Balance)]);
}

#[test]
fn urgent_mail_of_a_channel_whose_processes_all_finish_gets_one_more() {
    let mut switch = Switch::going(Limits { qmgr_reserve_urgent: 1, ..config(2, &["x", "y"]) });
    let mut limits = config(2, &["x", "y"]);
    limits.qmgr_reserve_urgent = 1;
    limits.channels[0].processes_max = 1;
    switch.tell(sternpost_scheduler::Event::Configure(limits));
    switch.queue(1, "x", "a", Routine);
    settle_down(&mut switch);
    switch.wait_ms(1_000);
    switch.queue(2, "y", "a", Routine);
    assert_eq!(switch.stopped(), [(1, StopReason::Balance)]);
    switch.queue(3, "x", "a", Flash);
    assert_eq!(switch.started(), [(2, "x")]);
}

#[test]
fn the_only_process_of_a_channel_is_idle_for_a_while_before_an_equal_gets_one_more() {
    let mut switch = Switch::going(config(2, &["x", "y"]));
    for (message, name) in [(1, "x"), (2, "y")] {
        switch.queue(message, name, "a", Routine);
        settle_down(&mut switch);
    }
    switch.wait_ms(5_000);
    switch.queue(3, "x", "a", Routine);
    switch.settle(2);
    switch.finish(2, 2);
    assert!(switch.stopped().is_empty());
    switch.wait_ms(1_000);
    assert_eq!(switch.stopped(), [(2, StopReason::MakeRoom)]);
}

#[test]
fn a_process_that_takes_nothing_is_one_that_finishes() {
    let mut switch = Switch::reading(config(1, &["x"]));
    switch.tell(sternpost_scheduler::Event::Go);
    switch.queue(1, "x", "a", Routine);
    assert_eq!(switch.started(), [(1, "x")]);
    switch.attach(1, "x", 0);
    assert!(switch.actions.is_empty());
    switch.gone(1);
    assert_eq!(switch.started(), [(2, "x")], "its end was no failure");
}

#[test]
fn channels_that_share_one_process_take_turns() {
    let names = ["x", "y", "z"];
    let mut switch = Switch::reading(config(1, &names));
    for (message, name) in (0..300).zip(names.iter().cycle()) {
        switch.queue(message, name, "a", Routine);
    }
    switch.tell(sternpost_scheduler::Event::Go);
    // Each message takes 100 ms; a process that was asked to stop exits when it is done.
    let mut turns: Vec<(String, u32)> = Vec::new();
    let (mut process, mut at_work) = (0, None);
    for _ in 0..120 {
        if let [(started, name)] = switch.started()[..] {
            process = started;
            let name = name.to_owned();
            turns.push((name.clone(), 0));
            switch.attach(started, &name, 1);
        }
        if let [message] = switch.assigned()[..] {
            at_work = Some(message);
        }
        switch.wait_ms(100);
        let is_leaving =
            switch.scheduler.status().channels.iter().any(|channel| channel.processes_draining > 0);
        if let Some(message) = at_work.take() {
            switch.settle(message);
            switch.finish(process, message);
            turns.last_mut().unwrap().1 += 1;
            at_work = switch.assigned().first().copied();
        }
        if is_leaving {
            switch.gone(process);
        }
    }
    let order: Vec<&str> = turns.iter().map(|turn| turn.0.as_str()).collect();
    assert!(order.len() >= 9 && order.chunks(3).all(|round| names.starts_with(round)), "{turns:?}");
    // A turn is a second or so, and not one message.
    assert!(turns[..9].iter().all(|turn| (9..=12).contains(&turn.1)), "{turns:?}");
}
