//! How many Mlists a peer is given, where the operator leaves that open.

use crate::switch::{Switch, channel, id, limits};
use sternpost_message::ErrorScope::{Message, Peer};
use sternpost_message::Precedence::Routine;
use sternpost_scheduler::{ChannelLimits, Event, Reason};

/// Two peers that bear between 1 and 16, and room for all of that.
fn governed() -> Switch {
    let smtp =
        ChannelLimits { peer_slots_min: 1, peer_slots_max: 16, ..channel("smtp", 1, 100, &["a", "b"]) };
    let mut switch = Switch::going(limits(vec![smtp]));
    switch.attach(1, "smtp", 100);
    switch
}

fn borne(switch: &Switch, peer: &str) -> u32 {
    let status = switch.scheduler.status();
    status.channels[0].peers.iter().find(|known| *known.name == *peer).expect("it is configured").slots_borne
}

/// An attempt at `a` fails by the peer while the peer holds so many other associations, in the words of a channel: at once,
/// and when it is durable.
fn fail(switch: &mut Switch, message: u64, holding: u32) {
    switch.tell(lost(message, holding, false));
    switch.finish(1, message);
    switch.defer(message, Peer);
}

fn lost(message: u64, holding: u32, has_carried: bool) -> Event {
    let (channel, peer) = ("smtp".into(), "a".into());
    Event::PeerFailed { channel, peer, mlists: vec![id(message)], holding, has_carried }
}

fn queue_for_a(switch: &mut Switch, messages: std::ops::RangeInclusive<u64>) {
    for message in messages {
        switch.queue(message, "smtp", "a", Routine);
    }
}

#[test]
fn a_peer_begins_with_four_and_each_mlist_that_it_takes_adds_one_up_to_the_operators_maximum() {
    let mut switch = governed();
    queue_for_a(&mut switch, 1..=100);
    assert_eq!((borne(&switch, "a"), switch.scheduler.counts().in_progress), (4, 4));
    assert_eq!(switch.why(5), Reason::PeerBears);
    let mut expected = 4;
    for message in 1..=20 {
        switch.wait_ms(10);
        switch.settle(message);
        switch.finish(1, message);
        expected = (expected + 1).min(16);
        assert_eq!(switch.scheduler.counts().in_progress, expected, "after {message}");
    }
    assert_eq!(switch.why(100), Reason::PeerSlots);
    assert_eq!(borne(&switch, "b"), 4, "what one peer bears says nothing about another");
}

#[test]
fn a_peer_that_refuses_one_too_many_keeps_what_it_has_and_is_not_delayed() {
    let mut switch = governed();
    queue_for_a(&mut switch, 1..=10);
    for message in [3, 4] {
        fail(&mut switch, message, 2);
        assert!(switch.assigned().is_empty(), "{message}");
    }
    assert_eq!((borne(&switch, "a"), switch.scheduler.counts().in_progress), (2, 2));
    // What was refused waits for its turn, and for no time.
    assert_eq!((switch.why(3), switch.until(3)), (Reason::PeerBears, None));
    switch.settle(1);
    switch.finish(1, 1);
    assert_eq!(switch.assigned(), [3]);
}

#[test]
fn what_is_refused_while_others_have_nothing_to_do_waits_a_second_and_the_peer_is_not_put_off() {
    let mut switch = governed();
    queue_for_a(&mut switch, 1..=1);
    assert_eq!(switch.assigned(), [1]);
    // Another process holds two associations without work.
    fail(&mut switch, 1, 2);
    assert!(switch.assigned().is_empty());
    assert_eq!(switch.until(1), Some(switch.now + 1_000));
    switch.wait_ms(999);
    assert!(switch.assigned().is_empty());
    switch.wait_ms(1);
    assert_eq!(switch.assigned(), [1]);
    assert_eq!(switch.scheduler.status().channels[0].peers[0].errors, 0);
}

#[test]
fn a_refusal_in_the_word_of_the_log_alone_is_judged_once() {
    let mut switch = governed();
    queue_for_a(&mut switch, 1..=10);
    switch.tell(lost(4, 3, false));
    switch.finish(1, 4);
    // The others end before the outcome of the refused one is durable.
    for message in [1, 2, 3] {
        switch.finish(1, message);
        switch.settle(message);
    }
    switch.defer(4, Peer);
    assert_eq!((switch.why(4), borne(&switch, "a")), (Reason::PeerBears, 3));
}

#[test]
fn a_peer_that_does_not_work_at_all_is_delayed_at_once_and_then_tried_by_as_many_as_it_begins_with() {
    let mut switch = governed();
    queue_for_a(&mut switch, 1..=10);
    fail(&mut switch, 1, 0);
    assert_eq!((switch.why(10), switch.until(10)), (Reason::PeerDelay, Some(switch.now + 1_000)));
    for message in 2..=4 {
        fail(&mut switch, message, 0);
    }
    assert_eq!(switch.until(10), Some(switch.now + 1_000), "they began before the delay");
    switch.wait_ms(1_000);
    assert_eq!(switch.assigned(), [1, 2, 3, 4], "what it fails at may be one of them alone");
    fail(&mut switch, 1, 0);
    assert_eq!(switch.until(10), Some(switch.now + 2_000));
    switch.settle(2);
    switch.finish(1, 2);
    assert_ne!(switch.why(10), Reason::PeerDelay, "and another one is taken");
}

#[test]
fn a_peer_that_ends_an_association_which_has_carried_mail_is_neither_delayed_nor_given_fewer() {
    let mut switch = governed();
    queue_for_a(&mut switch, 1..=10);
    switch.tell(lost(1, 0, true));
    switch.finish(1, 1);
    assert_eq!(switch.assigned(), [5]);
    switch.defer(1, Peer);
    assert_eq!((switch.why(1), borne(&switch, "a")), (Reason::PeerBears, 4));
    // It is tried again at once, but once: a message at which the peer always hangs up must not go round and round.
    switch.settle(2);
    switch.finish(1, 2);
    assert_eq!(switch.assigned()[0], 1);
    switch.tell(lost(1, 0, true));
    switch.finish(1, 1);
    switch.defer(1, Peer);
    assert_eq!((switch.why(1), switch.until(1)), (Reason::MessageDelay, Some(switch.now + 2_000)));
    assert_ne!(switch.why(10), Reason::PeerDelay);
}

#[test]
fn after_a_refusal_one_more_is_tried_by_time_even_if_what_is_in_progress_hangs() {
    let mut switch = governed();
    queue_for_a(&mut switch, 1..=10);
    for message in [2, 3, 4] {
        fail(&mut switch, message, 1);
    }
    assert_eq!((borne(&switch, "a"), switch.scheduler.counts().in_progress), (1, 1));
    switch.wait_ms(29_999);
    assert_eq!(borne(&switch, "a"), 1);
    switch.wait_ms(1);
    assert_eq!(switch.assigned(), [2]);
    // It is refused as well: the next time is twice as far.
    fail(&mut switch, 2, 1);
    assert_eq!(borne(&switch, "a"), 1);
    switch.wait_ms(59_999);
    assert!(switch.assigned().is_empty());
    switch.wait_ms(1);
    assert_eq!(switch.assigned(), [2]);
    // This one is held: the refusal is over.
    switch.wait_ms(30_000);
    for message in 2..=9 {
        switch.settle(message);
        switch.finish(1, message);
    }
    assert_eq!(
        (borne(&switch, "a"), switch.why(10)),
        (2, Reason::InProgress(sternpost_scheduler::ProcessId(1)))
    );
}

#[test]
fn an_error_of_a_message_says_nothing_about_how_many_a_peer_bears() {
    let mut switch = governed();
    queue_for_a(&mut switch, 1..=10);
    switch.finish(1, 1);
    switch.defer(1, Message);
    assert_eq!((switch.why(1), borne(&switch, "a")), (Reason::MessageDelay, 4));
}

#[test]
fn reserves_are_kept_of_what_a_peer_bears() {
    let mut config = limits(vec![ChannelLimits {
        peer_slots_min: 1,
        peer_slots_reserve: sternpost_scheduler::Reserves { urgent: 1, normal: 0 },
        ..channel("smtp", 1, 100, &["a"])
    }]);
    config.channels[0].peer_slots_max = 16;
    let mut switch = Switch::going(config);
    switch.attach(1, "smtp", 100);
    queue_for_a(&mut switch, 1..=10);
    assert_eq!((switch.scheduler.counts().in_progress, switch.why(5)), (3, Reason::PeerReserve));
    switch.queue(11, "smtp", "a", sternpost_message::Precedence::Flash);
    assert_eq!(switch.assigned(), [11]);
}
