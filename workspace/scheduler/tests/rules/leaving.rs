//! Processes that were asked to stop before the tree was built, or by somebody else: an upgrade leaves as many as there were.

use crate::switch::{Switch, channel, limits, mlist};
use sternpost_message::Precedence::{Flash, Routine};
use sternpost_message::UnixMillis;
use sternpost_scheduler::{Event, Limits, ProcessId, Reason, StopReason};

/// Numbers of processes that leave begin here.
const LEAVING: u64 = 70;

/// A tree over this many processes of `smtp` that leave, each with a message under way.
fn behind_leaving(config: Limits, count: u64) -> Switch {
    let mut switch = Switch::reading(config);
    for at in 0..count {
        let mut spec = mlist(at + 1, "smtp", "a", Routine);
        spec.held_by = Some(ProcessId(LEAVING + at));
        switch.tell(Event::ProcessStarted { process: ProcessId(LEAVING + at), channel: "smtp".into() });
        switch.tell(Event::Queue(spec));
        switch.attach(LEAVING + at, "smtp", 0);
    }
    switch.tell(Event::Go);
    switch
}

#[test]
fn processes_that_leave_hinder_no_new_ones_of_their_channel() {
    let mut switch = behind_leaving(limits(vec![channel("smtp", 2, 1, &["a"])]), 2);
    for (message, process) in [(11, LEAVING + 2), (12, LEAVING + 3)] {
        switch.queue(message, "smtp", "a", Routine);
        assert_eq!(switch.started(), [(process, "smtp")]);
        switch.attach(process, "smtp", 1);
        assert_eq!(switch.assigned(), [message]);
    }
    switch.queue(13, "smtp", "a", Routine);
    // No place comes with the end of one that leaves, so nothing is said of it.
    let waiting = switch.scheduler.why(mlist(13, "smtp", "a", Routine).id).unwrap();
    assert_eq!((waiting.reason, waiting.until), (Reason::ChannelProcesses, None));
    let status = &switch.scheduler.status().channels[0];
    assert_eq!((status.processes, status.processes_draining, status.processes_leaving), (4, 2, 2));
}

#[test]
fn as_many_leaving_ones_as_a_channel_may_have_do_not_count_and_no_more() {
    let mut switch = behind_leaving(limits(vec![channel("smtp", 2, 1, &["a"])]), 4);
    let until = switch.now + Limits::default().drain_timeout_ms;
    switch.queue(11, "smtp", "a", Routine);
    let waiting = switch.scheduler.why(mlist(11, "smtp", "a", Routine).id).unwrap();
    assert_eq!((waiting.reason, waiting.until), (Reason::ChannelProcesses, Some(UnixMillis(until))));
    switch.gone(LEAVING);
    assert_eq!(switch.started(), [(LEAVING + 4, "smtp")]);
    switch.queue(12, "smtp", "a", Routine);
    assert!(switch.started().is_empty());
    switch.gone(LEAVING + 1);
    assert_eq!(switch.started(), [(LEAVING + 5, "smtp")]);
}

#[test]
fn as_many_leaving_ones_as_maxchans_do_not_count_against_it_and_no_more() {
    let mut config = limits(vec![channel("smtp", 9, 1, &["a"]), channel("lmtp", 9, 1, &["b"])]);
    config.qmgr_maxchans = 2;
    let mut switch = behind_leaving(config, 3);
    // One of the three counts: the second new one finds no place, not even for a flash.
    switch.queue(11, "lmtp", "b", Routine);
    assert_eq!(switch.started(), [(LEAVING + 3, "lmtp")]);
    switch.attach(LEAVING + 3, "lmtp", 1);
    switch.queue(12, "lmtp", "b", Flash);
    assert!(switch.actions.is_empty(), "{:?}", switch.actions);
    assert_eq!(switch.why(12), Reason::MakingRoom);
    switch.gone(LEAVING);
    assert_eq!(switch.started(), [(LEAVING + 4, "lmtp")]);
    // The two that are left free no place when they go: it is made elsewhere.
    switch.attach(LEAVING + 4, "lmtp", 1);
    switch.queue(13, "smtp", "a", Flash);
    assert_eq!(switch.stopped(), [(LEAVING + 4, StopReason::Balance)]);
}

#[test]
fn a_process_that_was_attached_and_says_that_it_stops_leaves_too() {
    let mut switch = Switch::reading(limits(vec![channel("smtp", 1, 2, &["a"])]));
    switch.attach(LEAVING, "smtp", 2);
    switch.tell(Event::Go);
    switch.queue(1, "smtp", "a", Routine);
    assert_eq!(switch.assigned(), [1]);
    switch.attach(LEAVING, "smtp", 0);
    switch.queue(2, "smtp", "a", Routine);
    assert_eq!(switch.started(), [(LEAVING + 1, "smtp")]);
}

#[test]
fn a_process_of_this_tree_that_takes_nothing_counts() {
    let mut switch = Switch::going(limits(vec![channel("smtp", 1, 2, &["a"])]));
    switch.queue(1, "smtp", "a", Routine);
    assert_eq!(switch.started(), [(1, "smtp")]);
    switch.attach(1, "smtp", 0);
    assert!(switch.started().is_empty());
    assert_eq!(switch.why(1), Reason::ChannelProcesses);
    assert_eq!(switch.scheduler.status().channels[0].processes_leaving, 0);
}
