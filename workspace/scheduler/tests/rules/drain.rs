//! A process that was asked to stop: how long it may take, and what becomes of what it has.

use crate::switch::{Switch, channel, limits, mlist};
use sternpost_message::{ErrorScope, Precedence::Routine, UnixMillis};
use sternpost_scheduler::{Action, Event, KillReason, NextProcess, ProcessId, Reason, StopReason};

const TIMEOUT_MS: u64 = 60_000;
const PROCESS: ProcessId = ProcessId(1);

/// The one process of a channel has two messages under way and is asked to stop: its channel may have none any more.
fn finishing() -> Switch {
    let mut config = limits(vec![channel("smtp", 1, 2, &["a"])]);
    config.drain_timeout_ms = TIMEOUT_MS;
    let mut switch = Switch::going(config.clone());
    switch.attach(1, "smtp", 2);
    switch.queue(1, "smtp", "a", Routine);
    switch.queue(2, "smtp", "a", Routine);
    config.channels[0].processes_max = 0;
    switch.tell(Event::Configure(config.clone()));
    assert_eq!(switch.stopped(), [(1, StopReason::OverLimit)]);
    config.channels[0].processes_max = 1;
    switch.tell(Event::Configure(config));
    switch
}

fn is_killed(switch: &Switch) -> bool {
    is_killed_for(switch, KillReason::NoProgress)
}

fn is_killed_for(switch: &Switch, reason: KillReason) -> bool {
    switch.actions.contains(&Action::KillProcess { process: PROCESS, reason })
}

/// As `finishing`, and no process may take longer than two and a half of its times.
fn finishing_within_bounds() -> Switch {
    let mut switch = finishing();
    let mut config = limits(vec![channel("smtp", 1, 2, &["a"])]);
    (config.drain_timeout_ms, config.drain_time_max_ms) = (TIMEOUT_MS, 5 * TIMEOUT_MS / 2);
    switch.tell(Event::Configure(config));
    switch
}

#[test]
fn a_process_that_finishes_without_progress_is_killed_and_what_it_has_waits_again() {
    let mut switch = finishing();
    switch.wait_ms(TIMEOUT_MS - 1);
    assert!(!is_killed(&switch));
    switch.wait_ms(1);
    assert!(is_killed(&switch));
    // Until the kernel says so it has its place and its messages.
    assert_eq!(switch.why(1), Reason::InProgress(PROCESS));
    switch.tell(Event::ProcessGone { process: PROCESS });
    switch.tell(Event::Returned { process: PROCESS });
    assert_eq!(switch.started(), [(2, "smtp")]);
    switch.attach(2, "smtp", 2);
    assert_eq!(switch.assigned(), [1, 2]);
    assert!(switch.actions.iter().all(|action| matches!(action, Action::Assign { attempts: 0, .. })));
}

#[test]
fn progress_and_each_message_that_is_finished_give_the_process_its_time_once_more() {
    let mut switch = finishing();
    switch.wait_ms(TIMEOUT_MS - 1);
    switch.tell(Event::Progress { process: PROCESS });
    switch.wait_ms(TIMEOUT_MS - 1);
    switch.finish(1, 1);
    switch.settle(1);
    switch.wait_ms(TIMEOUT_MS - 1);
    assert!(!is_killed(&switch));
    switch.wait_ms(1);
    assert!(is_killed(&switch));
}

#[test]
fn a_kill_that_was_not_heard_is_ordered_again() {
    let mut switch = finishing();
    for _ in 0..3 {
        switch.wait_ms(TIMEOUT_MS);
        assert!(is_killed(&switch));
    }
}

#[test]
fn a_process_is_not_killed_while_an_outcome_of_it_is_being_recorded() {
    let mut switch = finishing();
    switch.finish(1, 1);
    for _ in 0..10 {
        switch.wait_ms(TIMEOUT_MS);
        assert!(!is_killed(&switch));
    }
    switch.defer(1, ErrorScope::Message);
    switch.wait_ms(1_000);
    assert!(is_killed(&switch));
}

#[test]
fn no_progress_gives_a_process_more_than_its_longest_time() {
    let mut switch = finishing_within_bounds();
    let until_max = switch.now + 5 * TIMEOUT_MS / 2;
    for _ in 0..2 {
        assert_eq!(switch.scheduler.status().channels[0].drain_until_max, Some(UnixMillis(until_max)));
        switch.wait_ms(TIMEOUT_MS - 1);
        assert!(switch.actions.is_empty());
        switch.tell(Event::Progress { process: PROCESS });
    }
    switch.wait_ms(until_max - 1 - switch.now);
    assert!(switch.actions.is_empty());
    switch.wait_ms(1);
    assert!(is_killed_for(&switch, KillReason::TimeIsOver));
    // What it says now changes nothing; a kill that was not heard is ordered again.
    switch.tell(Event::Progress { process: PROCESS });
    assert!(switch.actions.is_empty());
    switch.wait_ms(TIMEOUT_MS);
    assert!(is_killed_for(&switch, KillReason::TimeIsOver));
}

#[test]
fn an_outcome_that_never_comes_keeps_no_process_for_ever() {
    let mut switch = finishing_within_bounds();
    let until_max = switch.now + 5 * TIMEOUT_MS / 2;
    switch.finish(1, 1);
    switch.finish(1, 2);
    while switch.now < until_max + TIMEOUT_MS {
        assert!(switch.actions.is_empty());
        switch.wait_ms(1_000);
    }
    assert!(is_killed_for(&switch, KillReason::TimeIsOver));
}

#[test]
fn a_longest_time_below_the_other_counts_as_that() {
    let mut switch = finishing();
    let mut config = limits(vec![channel("smtp", 1, 2, &["a"])]);
    (config.drain_timeout_ms, config.drain_time_max_ms) = (TIMEOUT_MS, 1);
    switch.tell(Event::Configure(config));
    switch.wait_ms(TIMEOUT_MS - 1);
    assert!(switch.actions.is_empty());
    switch.wait_ms(1);
    assert!(is_killed_for(&switch, KillReason::TimeIsOver));
}

#[test]
fn until_when_a_process_may_finish_can_be_asked() {
    let mut switch = finishing();
    let until = Some(UnixMillis(switch.now + TIMEOUT_MS));
    let waiting = switch.scheduler.why(mlist(1, "smtp", "a", Routine).id).unwrap();
    assert_eq!((waiting.reason, waiting.until), (Reason::InProgress(PROCESS), until));
    switch.queue(3, "smtp", "a", Routine);
    let waiting = switch.scheduler.why(mlist(3, "smtp", "a", Routine).id).unwrap();
    assert_eq!((waiting.reason, waiting.until), (Reason::ChannelProcesses, until));
    let status = &switch.scheduler.status().channels[0];
    assert_eq!((status.processes_draining, status.drain_until), (1, until));
    let NextProcess::Waits { waiting_for, .. } = status.next_process else {
        panic!("{status:?}");
    };
    assert_eq!(waiting_for.until, until);
}
