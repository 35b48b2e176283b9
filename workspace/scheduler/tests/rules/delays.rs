//! What a failure delays, for how long, and when an Mlist's time is over.

use crate::switch::{START, Switch, channel, id, limits, mlist, one, peer_failed, range};
use sternpost_message::ErrorScope::{Message, Peer};
use sternpost_message::Precedence::Routine;
use sternpost_message::UnixMillis;
use sternpost_scheduler::{Action, Event, ProcessId, Reason};

/// One attached process with 9 slots, and the peers a and b.
fn going() -> Switch {
    let mut switch = Switch::going(limits(vec![channel("smtp", 1, 9, &["a", "b"])]));
    switch.attach(1, "smtp", 9);
    switch
}

#[test]
fn a_messages_error_delays_that_mlist_alone_linearly_up_to_the_maximum() {
    let mut switch = going();
    switch.queue(1, "smtp", "a", Routine);
    for wait_ms in [1_000, 2_000, 3_000, 4_000, 5_000, 5_000] {
        assert_eq!(switch.assigned(), [1]);
        switch.finish(1, 1);
        switch.defer(1, Message);
        assert_eq!(switch.why(1), Reason::MessageDelay);
        assert_eq!(switch.until(1), Some(switch.now + wait_ms));
        assert!(switch.scheduler.wake_at().is_some_and(|at| at.0 <= switch.now + wait_ms));
        switch.queue(2, "smtp", "a", Routine);
        assert_eq!(switch.assigned(), [2]);
        switch.settle(2);
        switch.finish(1, 2);
        switch.wait_ms(wait_ms - 1);
        assert!(switch.assigned().is_empty());
        switch.wait_ms(1);
    }
    assert!(matches!(switch.actions[..], [Action::Assign { attempts: 6, .. }]));
}

#[test]
fn a_peers_error_delays_every_mlist_of_that_peer_and_no_other() {
    let mut switch = going();
    switch.queue(1, "smtp", "a", Routine);
    for wait_ms in [1_000, 2_000, 3_000, 4_000, 5_000, 5_000] {
        assert_eq!(switch.assigned(), [1]);
        switch.defer(1, Peer);
        switch.finish(1, 1);
        switch.queue(2, "smtp", "a", Routine);
        assert!(switch.assigned().is_empty());
        assert_eq!((switch.why(1), switch.why(2)), (Reason::PeerDelay, Reason::PeerDelay));
        assert_eq!(switch.until(2), Some(switch.now + wait_ms));
        assert_eq!(switch.scheduler.counts().runnable, 0);
        switch.tell(Event::Remove { mlist: id(2) });
        switch.queue(3, "smtp", "b", Routine);
        assert_eq!(switch.assigned(), [3]);
        switch.settle(3);
        switch.finish(1, 3);
        switch.wait_ms(wait_ms - 1);
        assert!(switch.assigned().is_empty());
        switch.wait_ms(1);
    }
}

#[test]
fn failures_of_attempts_that_began_before_the_peers_delay_count_as_one() {
    let mut switch = going();
    for message in 1..=4 {
        switch.queue(message, "smtp", "a", Routine);
    }
    switch.tell(peer_failed("a"));
    switch.defer(1, Peer);
    switch.finish(1, 1);
    switch.tell(peer_failed("a"));
    switch.wait_ms(500);
    switch.defer(2, Peer);
    switch.finish(1, 2);
    let errors = |switch: &Switch| switch.scheduler.status().channels[0].peers[0].errors;
    assert_eq!(errors(&switch), 1);
    assert_eq!(switch.until(1), Some(START + 1_000));
    switch.wait_ms(500);
    assert_eq!(switch.assigned(), [1, 2]);
    // 3 began before the delay that is over; 1 after it.
    switch.defer(3, Peer);
    switch.finish(1, 3);
    assert_eq!(errors(&switch), 1);
    switch.defer(1, Peer);
    assert_eq!(errors(&switch), 2);
    assert_eq!(switch.scheduler.wake_at(), Some(UnixMillis(switch.now + 2_000)));
}

#[test]
fn a_peer_that_works_has_no_delay_any_more() {
    let mut switch = going();
    for worked in [
        Event::PeerWorked { channel: "smtp".into(), peer: "a".into() },
        Event::Settled { mlist: id(1), recipients: one(), worked: true },
    ] {
        switch.queue(1, "smtp", "a", Routine);
        switch.queue(2, "smtp", "a", Routine);
        switch.tell(peer_failed("a"));
        switch.defer(2, Peer);
        switch.finish(1, 2);
        assert!(switch.assigned().is_empty());
        switch.tell(worked);
        assert_eq!(switch.assigned(), [2]);
        switch.settle(1);
        switch.finish(1, 1);
        switch.settle(2);
        switch.finish(1, 2);
    }
    // A failed recipient is settled too, but says nothing for the peer.
    switch.queue(1, "smtp", "a", Routine);
    switch.tell(peer_failed("a"));
    switch.tell(Event::Settled { mlist: id(1), recipients: one(), worked: false });
    switch.queue(2, "smtp", "a", Routine);
    assert_eq!(switch.why(2), Reason::PeerDelay);
}

#[test]
fn outcomes_may_come_in_parts_before_and_after_the_end_of_the_attempt() {
    let mut switch = going();
    let mut spec = mlist(1, "smtp", "a", Routine);
    spec.recipients = range(0, 4);
    switch.tell(Event::Queue(spec));
    switch.tell(Event::Settled { mlist: id(1), recipients: range(0, 1), worked: true });
    switch.tell(Event::Deferred { mlist: id(1), recipients: range(1, 1), scope: Message });
    assert_eq!(switch.why(1), Reason::InProgress(ProcessId(1)));
    switch.finish(1, 1);
    assert_eq!(switch.why(1), Reason::AwaitingOutcome(ProcessId(1)));
    switch.tell(Event::Settled { mlist: id(1), recipients: range(2, 1), worked: true });
    assert_eq!(switch.why(1), Reason::AwaitingOutcome(ProcessId(1)));
    switch.tell(Event::Deferred { mlist: id(1), recipients: range(3, 1), scope: Message });
    assert_eq!(switch.why(1), Reason::MessageDelay);
    switch.wait_ms(1_000);
    let wanted = [range(1, 1), range(3, 1)].concat();
    assert!(
        matches!(&switch.actions[..], [Action::Assign { recipients, attempts: 1, .. }] if *recipients == wanted)
    );
}

#[test]
fn outcomes_of_recipients_that_nobody_assigned_are_applied() {
    let mut switch = Switch::reading(limits(vec![channel("smtp", 1, 9, &["a"])]));
    for message in 1..=3 {
        let mut spec = mlist(message, "smtp", "a", Routine);
        spec.recipients = range(0, 2);
        switch.tell(Event::Queue(spec));
    }
    switch.tell(Event::Settled { mlist: id(1), recipients: range(0, 2), worked: true });
    switch.tell(Event::Settled { mlist: id(2), recipients: range(0, 1), worked: true });
    // One attempt whose outcome comes in two parts.
    switch.tell(Event::Deferred { mlist: id(3), recipients: range(0, 1), scope: Message });
    switch.tell(Event::Deferred { mlist: id(3), recipients: range(1, 1), scope: Message });
    switch.tell(Event::Go);
    switch.attach(1, "smtp", 9);
    assert!(matches!(&switch.actions[..], [Action::Assign { mlist, recipients, attempts: 0, .. }]
        if *mlist == id(2) && *recipients == range(1, 1)));
    assert_eq!((switch.until(3), switch.scheduler.mlists_count()), (Some(START + 1_000), 2));
}

#[test]
fn an_mlist_past_its_time_expires_unless_it_is_in_progress() {
    let mut switch = going();
    for (message, peer) in [(1, "a"), (2, "gone")] {
        let mut spec = mlist(message, "smtp", peer, Routine);
        spec.expires_at = UnixMillis(START + 100);
        spec.recipients = range(0, 2);
        switch.tell(Event::Queue(spec));
    }
    assert_eq!(switch.scheduler.wake_at(), Some(UnixMillis(START + 100)));
    switch.wait_ms(100);
    assert_eq!(switch.actions, [Action::Expired { mlist: id(2), recipients: range(0, 2) }]);
    switch.tell(Event::Settled { mlist: id(1), recipients: range(0, 1), worked: true });
    assert!(switch.finish(1, 1).is_empty());
    switch.tell(Event::Deferred { mlist: id(1), recipients: range(1, 1), scope: Message });
    assert_eq!(switch.actions, [Action::Expired { mlist: id(1), recipients: range(1, 1) }]);
    assert_eq!(switch.scheduler.mlists_count(), 0);
}

#[test]
fn a_delay_report_is_due_once_while_the_mlist_waits() {
    let mut switch = going();
    for (message, peer) in [(1, "a"), (2, "gone")] {
        let mut spec = mlist(message, "smtp", peer, Routine);
        spec.delay_report_at = Some(UnixMillis(START + 100));
        switch.tell(Event::Queue(spec));
    }
    switch.wait_ms(100);
    assert_eq!(switch.actions, [Action::DelayReportDue { mlist: id(2), recipients: one() }]);
    switch.finish(1, 1);
    switch.defer(1, Message);
    assert_eq!(switch.actions, [Action::DelayReportDue { mlist: id(1), recipients: one() }]);
    assert_eq!(switch.wait_ms(900).len(), 0);
    switch.wait_ms(100);
    assert_eq!(switch.assigned(), [1]);
    switch.finish(1, 1);
    assert!(switch.defer(1, Message).is_empty());
}

#[test]
fn an_mlist_is_not_attempted_before_its_time() {
    let mut switch = going();
    let mut spec = mlist(1, "smtp", "a", Routine);
    spec.not_before = UnixMillis(START + 50);
    assert!(switch.tell(Event::Queue(spec)).is_empty());
    assert!(switch.wait_ms(49).is_empty());
    switch.wait_ms(1);
    assert_eq!(switch.assigned(), [1]);
}

#[test]
fn a_clock_that_goes_back_counts_as_one_that_stands() {
    let mut switch = going();
    switch.queue(1, "smtp", "a", Routine);
    switch.now = 5;
    switch.defer(1, Message);
    switch.finish(1, 1);
    assert_eq!(switch.until(1), Some(START + 1_000));
}
