//! When a channel process is started, stopped, and what becomes of its Mlists when it goes.

use crate::switch::{START, Switch, channel, id, limits, mlist};
use sternpost_message::ErrorScope::Message;
use sternpost_message::Precedence::{Flash, Immediate, Routine};
use sternpost_message::UnixMillis;
use sternpost_scheduler::{Action, Event, ProcessId, Reason, StopReason};

#[test]
fn a_channel_without_a_process_gets_one_for_its_first_mlist() {
    let mut switch =
        Switch::going(limits(vec![channel("smtp", 2, 5, &["a"]), channel("lmtp", 2, 5, &["b"])]));
    switch.queue(1, "lmtp", "b", Routine);
    assert_eq!(switch.started(), [(1, "lmtp")]);
}

#[test]
fn while_processes_start_another_is_started_only_for_more_than_they_are_expected_to_take() {
    let mut switch = Switch::going(limits(vec![channel("smtp", 5, 3, &["a"])]));
    let starts: Vec<usize> = (1..=8)
        .map(|message| {
            switch.queue(message, "smtp", "a", Routine);
            switch.started().len()
        })
        .collect();
    assert_eq!(starts, [1, 0, 0, 1, 0, 0, 1, 0]);
    switch.attach(1, "smtp", 8);
    assert_eq!((switch.assigned().len(), switch.started().len()), (8, 0));
}

#[test]
fn maxchans_and_both_reserves_hold_for_processes() {
    let mut config = limits(vec![channel("smtp", 20, 1, &["a", "b"])]);
    (config.qmgr_maxchans, config.qmgr_reserve_urgent, config.qmgr_reserve_normal) = (6, 1, 2);
    config.channels[0].peer_slots_max = 100;
    let mut switch = Switch::going(config);
    for (level, total) in [(Routine, 3), (Immediate, 5), (Flash, 6)] {
        for message in 0..10 {
            switch.queue(u64::from(level as u8) * 100 + message, "smtp", "a", level);
        }
        assert_eq!(switch.scheduler.status().processes, total, "{level}");
        for process in 1..=u64::from(total) {
            switch.attach(process, "smtp", 1);
        }
        assert_eq!(switch.why(u64::from(level as u8) * 100 + 9), Reason::Maxchans);
    }
    assert_eq!(switch.scheduler.counts().in_progress, 6);
}

#[test]
fn a_flash_does_not_lend_its_right_to_the_routine_behind_it() {
    let mut config = limits(vec![channel("smtp", 20, 1, &["a"])]);
    (config.qmgr_maxchans, config.qmgr_reserve_urgent) = (6, 4);
    let mut switch = Switch::reading(config);
    for message in 1..=9 {
        switch.queue(message, "smtp", "a", Routine);
    }
    switch.queue(10, "smtp", "a", Flash);
    switch.tell(Event::Go);
    assert_eq!(switch.started().len(), 2);
    // The flash takes the first that attaches; a routine has the second, and the others wait.
    switch.attach(1, "smtp", 1);
    assert_eq!(switch.assigned(), [10]);
    switch.attach(2, "smtp", 1);
    assert_eq!((switch.assigned(), switch.started().len()), (vec![1], 0));
    switch.queue(11, "smtp", "a", Flash);
    assert_eq!(switch.started().len(), 1);
}

#[test]
fn the_channel_with_the_highest_precedence_gets_the_process_that_is_left() {
    let mut config = limits(vec![channel("x", 5, 1, &["a"]), channel("y", 5, 1, &["a"])]);
    config.qmgr_maxchans = 1;
    let mut switch = Switch::reading(config);
    switch.queue(1, "x", "a", Routine);
    switch.queue(2, "y", "a", Immediate);
    switch.tell(Event::Go);
    assert_eq!(switch.started(), [(1, "y")]);
}

#[test]
fn among_equals_the_channel_with_the_fewest_processes_gets_one() {
    let mut config = limits(vec![channel("x", 9, 1, &["a"]), channel("y", 9, 1, &["a"])]);
    config.qmgr_maxchans = 4;
    let mut switch = Switch::reading(config);
    for message in 1..=10 {
        switch.queue(message, if message < 9 { "x" } else { "y" }, "a", Routine);
    }
    switch.tell(Event::Go);
    assert_eq!(switch.started(), [(1, "x"), (2, "y"), (3, "x"), (4, "y")]);
}

#[test]
fn an_idle_process_stops_after_its_time_and_not_before() {
    let mut config = limits(vec![channel("smtp", 1, 1, &["a"])]);
    config.channels[0].idle_stop_ms = 100;
    let mut switch = Switch::going(config);
    switch.queue(1, "smtp", "a", Routine);
    switch.attach(1, "smtp", 1);
    switch.wait_ms(500);
    assert!(switch.actions.is_empty());
    switch.settle(1);
    switch.finish(1, 1);
    assert_eq!(switch.scheduler.wake_at(), Some(UnixMillis(START + 600)));
    assert!(switch.wait_ms(99).is_empty());
    switch.wait_ms(1);
    assert_eq!(switch.stopped(), [(1, StopReason::Idle)]);
    // It takes nothing any more, and another one starts when it is gone.
    switch.queue(2, "smtp", "a", Routine);
    assert!(switch.actions.is_empty());
    assert_eq!(switch.why(2), Reason::ChannelProcesses);
    switch.tell(Event::ProcessGone { process: ProcessId(1) });
    assert_eq!(switch.started(), [(2, "smtp")]);
}

#[test]
fn an_idle_process_that_is_the_reserve_of_a_busy_channel_stays() {
    let mut config = limits(vec![channel("smtp", 2, 1, &["a"])]);
    config.channels[0].slots_reserve.urgent = 1;
    config.channels[0].idle_stop_ms = 100;
    let mut switch = Switch::going(config);
    switch.attach(1, "smtp", 1);
    switch.attach(2, "smtp", 1);
    switch.queue(1, "smtp", "a", Routine);
    switch.queue(2, "smtp", "a", Routine);
    assert_eq!(switch.why(2), Reason::ChannelProcesses);
    for _ in 0..5 {
        assert!(switch.wait_ms(100).is_empty());
    }
    switch.tell(Event::Remove { mlist: id(2) });
    switch.wait_ms(100);
    assert_eq!(switch.stopped().len(), 1);
}

#[test]
fn idle_processes_of_other_channels_make_room() {
    let mut config = limits(vec![channel("x", 5, 1, &["a"]), channel("y", 5, 1, &["a"])]);
    config.qmgr_maxchans = 2;
    let mut switch = Switch::going(config);
    switch.attach(1, "x", 1);
    switch.wait_ms(10);
    switch.attach(2, "x", 1);
    switch.queue(1, "y", "a", Routine);
    assert_eq!(switch.stopped(), [(1, StopReason::MakeRoom)]);
    // While it drains no other has to go.
    switch.tell(Event::Wake);
    assert!(switch.actions.is_empty());
    assert_eq!(switch.why(1), Reason::MakingRoom);
    switch.tell(Event::ProcessGone { process: ProcessId(1) });
    assert_eq!(switch.started(), [(3, "y")]);
}

#[test]
fn no_idle_process_stops_for_a_level_that_would_not_get_its_place() {
    let mut config = limits(vec![channel("x", 5, 1, &["a"]), channel("y", 5, 1, &["a"])]);
    (config.qmgr_maxchans, config.qmgr_reserve_urgent) = (3, 2);
    let mut switch = Switch::going(config);
    for (process, message) in [(1, 1), (2, 2)] {
        switch.queue(message, "x", "a", Flash);
        switch.attach(process, "x", 1);
    }
    switch.attach(3, "x", 1);
    switch.queue(3, "y", "a", Routine);
    assert!(switch.actions.is_empty(), "{:?}", switch.actions);
    switch.queue(4, "y", "a", Flash);
    assert_eq!(switch.stopped(), [(3, StopReason::MakeRoom)]);
}

#[test]
fn a_process_that_fails_to_start_holds_the_next_start_off_a_little_longer_each_time() {
    let mut switch = Switch::going(limits(vec![channel("smtp", 1, 1, &["a"])]));
    switch.queue(1, "smtp", "a", Routine);
    for (process, wait_ms) in (1..).zip([1_000, 2_000, 3_000]) {
        assert_eq!(switch.started(), [(process, "smtp")]);
        assert!(switch.tell(Event::StartFailed { process: ProcessId(process) }).is_empty());
        assert_eq!((switch.why(1), switch.until(1)), (Reason::StartHoldOff, Some(switch.now + wait_ms)));
        assert!(switch.wait_ms(wait_ms - 1).is_empty());
        switch.wait_ms(1);
    }
    switch.attach(4, "smtp", 1);
    switch.settle(1);
    switch.finish(4, 1);
    assert_eq!(switch.scheduler.status().channels[0].failures, 0);
}

#[test]
fn what_a_dead_process_holds_waits_for_its_outcomes_and_no_attempt_is_counted() {
    let mut switch = Switch::going(limits(vec![channel("smtp", 2, 3, &["a"])]));
    switch.attach(1, "smtp", 3);
    for message in 1..=3 {
        switch.queue(message, "smtp", "a", Routine);
    }
    switch.finish(1, 1);
    switch.tell(Event::ProcessGone { process: ProcessId(1) });
    assert_eq!(switch.why(2), Reason::InProgress(ProcessId(1)));
    switch.attach(2, "smtp", 3);
    assert!(switch.assigned().is_empty());
    switch.settle(1);
    switch.defer(3, Message);
    switch.tell(Event::Returned { process: ProcessId(1) });
    assert!(matches!(switch.actions[..], [Action::Assign { mlist, attempts: 0, .. }] if mlist == id(2)));
    assert_eq!(switch.why(3), Reason::MessageDelay);
    assert_eq!(switch.scheduler.mlists_count(), 2);
}

#[test]
fn an_mlist_given_back_untouched_waits_again_without_an_attempt() {
    let mut switch = Switch::going(limits(vec![channel("smtp", 1, 1, &["a"])]));
    switch.attach(1, "smtp", 1);
    switch.queue(1, "smtp", "a", Routine);
    switch.tell(Event::Unassigned { process: ProcessId(2), mlist: id(1) });
    assert!(switch.actions.is_empty());
    switch.tell(Event::Unassigned { process: ProcessId(1), mlist: id(1) });
    assert!(matches!(switch.actions[..], [Action::Assign { attempts: 0, .. }]));
}

#[test]
fn an_mlist_that_a_surviving_process_holds_is_not_assigned_again() {
    let mut switch = Switch::reading(limits(vec![channel("smtp", 2, 1, &["a"])]));
    for message in [1, 2] {
        let mut spec = mlist(message, "smtp", "a", Routine);
        spec.held_by = Some(ProcessId(70 + message));
        switch.tell(Event::Queue(spec));
    }
    switch.attach(71, "smtp", 1);
    switch.tell(Event::Go);
    assert!(switch.actions.is_empty());
    // 72 stayed silent and was killed.
    switch.tell(Event::ProcessGone { process: ProcessId(72) });
    switch.tell(Event::Returned { process: ProcessId(72) });
    assert_eq!(switch.why(1), Reason::InProgress(ProcessId(71)));
    assert_eq!(switch.started(), [(73, "smtp")]);
    switch.settle(1);
    switch.finish(71, 1);
    assert_eq!(switch.assigned(), [2]);
}

#[test]
fn processes_beyond_a_lowered_limit_are_asked_to_stop_the_idlest_first() {
    let mut config = limits(vec![channel("x", 3, 2, &["a"]), channel("y", 3, 2, &["a"])]);
    let mut switch = Switch::going(config.clone());
    for process in 1..=3 {
        switch.attach(process, "x", 2);
    }
    switch.attach(4, "y", 2);
    switch.queue(1, "x", "a", Routine);
    config.channels[0].processes_max = 2;
    switch.tell(Event::Configure(config.clone()));
    assert_eq!(switch.stopped(), [(3, StopReason::OverLimit)]);
    config.qmgr_maxchans = 2;
    switch.tell(Event::Configure(config.clone()));
    assert_eq!(switch.stopped(), [(4, StopReason::OverLimit)]);
    config.channels.remove(0);
    switch.tell(Event::Configure(config));
    assert_eq!(switch.stopped(), [(2, StopReason::NotConfigured), (1, StopReason::NotConfigured)]);
}

#[test]
fn a_start_by_the_supervisor_counts_at_once() {
    let mut config = limits(vec![channel("smtp", 5, 1, &["a"])]);
    config.qmgr_maxchans = 1;
    let mut switch = Switch::going(config);
    switch.tell(Event::ProcessStarted { process: ProcessId(9), channel: "smtp".into() });
    switch.queue(1, "smtp", "a", Routine);
    assert_eq!(switch.why(1), Reason::ProcessStart);
    assert!(switch.actions.is_empty());
}
