//! Peers that nobody has configured by name: each belongs to a family, `NAME:`, which has limits for all of them.

use crate::switch::{START, Switch, channel, limits, peer_failed};
use sternpost_message::Precedence::{Flash, Routine};
use sternpost_message::{ErrorScope, UnixMillis};
use sternpost_scheduler::{ChannelLimits, Event, Limits, Minimise, PeerLimits, Reason};

fn config() -> Limits {
    let family = PeerLimits { slots_max: Some(2), ..PeerLimits::new("net:") };
    let smtp = channel("smtp", 1, 9, &["a"]);
    limits(vec![ChannelLimits { peers: smtp.peers.iter().cloned().chain([family]).collect(), ..smtp }])
}

fn names(switch: &Switch) -> Vec<String> {
    switch.scheduler.status().channels[0].peers.iter().map(|peer| peer.name.to_string()).collect()
}

#[test]
fn each_peer_of_a_family_has_its_limits_and_its_own_slots() {
    let mut switch = Switch::going(config());
    switch.attach(1, "smtp", 9);
    let mut assigned = Vec::new();
    for message in 1..=6 {
        switch.queue(message, "smtp", if message <= 3 { "net:x.test" } else { "net:y.test" }, Routine);
        assigned.extend(switch.assigned());
    }
    assert_eq!(assigned, [1, 2, 4, 5]);
    assert_eq!(switch.why(3), Reason::PeerSlots);
    switch.queue(7, "smtp", "other:z.test", Routine);
    assert_eq!(switch.why(7), Reason::PeerNotConfigured, "nobody has configured its family");
}

#[test]
fn a_peer_of_a_family_is_forgotten_with_its_last_mlist_and_not_before() {
    let mut switch = Switch::going(config());
    switch.attach(1, "smtp", 9);
    switch.queue(1, "smtp", "net:x.test", Routine);
    switch.queue(2, "smtp", "net:x.test", Routine);
    for message in [1, 2] {
        assert_eq!(names(&switch), ["a", "net:", "net:x.test"]);
        switch.finish(1, message);
        assert!(switch.scheduler.has_peer("smtp", "net:x.test"), "an outcome of it is still to come");
        switch.settle(message);
    }
    assert_eq!(names(&switch), ["a", "net:"]);
    // The same place serves the next name, without what was known of the last one.
    for message in 3..1_000 {
        let name = format!("net:{message}.test");
        switch.queue(message, "smtp", &name, Routine);
        assert_eq!(switch.assigned(), [message]);
        switch.finish(1, message);
        switch.settle(message);
    }
    assert_eq!(names(&switch), ["a", "net:"]);
}

#[test]
fn a_peer_of_a_family_that_fails_is_delayed_as_long_as_its_mail_waits() {
    let mut switch = Switch::going(config());
    switch.attach(1, "smtp", 9);
    switch.queue(1, "smtp", "net:x.test", Routine);
    switch.defer(1, ErrorScope::Peer);
    switch.finish(1, 1);
    assert_eq!((switch.why(1), switch.until(1)), (Reason::PeerDelay, Some(START + 1_000)));
    switch.queue(2, "smtp", "net:y.test", Routine);
    assert_eq!(switch.assigned(), [2], "the other one is not");
    switch.wait_ms(1_000);
    assert_eq!(switch.assigned(), [1]);
}

#[test]
fn a_word_of_a_channel_about_a_peer_without_mail_leaves_no_name() {
    let mut switch = Switch::going(config());
    for number in 0..100 {
        switch.tell(peer_failed(&format!("net:{number}.test")));
    }
    assert_eq!(names(&switch), ["a", "net:"]);
}

#[test]
fn an_order_for_a_family_holds_for_each_peer_of_it() {
    let order = Minimise {
        name: "exercise".into(),
        channel: "smtp".into(),
        peer: Some("net:".into()),
        lowest: Flash,
        from: UnixMillis(0),
        until: UnixMillis(u64::MAX),
    };
    let mut switch = Switch::going(Limits { minimise: vec![order], ..config() });
    switch.attach(1, "smtp", 9);
    switch.queue(1, "smtp", "net:x.test", Routine);
    assert_eq!(switch.why(1), Reason::Minimised);
    switch.queue(2, "smtp", "a", Routine);
    assert_eq!(switch.assigned(), [2]);
    switch.tell(Event::Configure(config()));
    assert_eq!(switch.assigned(), [1]);
}

#[test]
fn mail_of_a_family_that_vanishes_waits_and_runs_when_it_is_back() {
    let mut switch = Switch::going(limits(vec![channel("smtp", 1, 9, &["a"])]));
    switch.attach(1, "smtp", 9);
    switch.queue(1, "smtp", "net:x.test", Routine);
    assert_eq!(switch.why(1), Reason::PeerNotConfigured);
    switch.tell(Event::Configure(config()));
    assert_eq!(switch.assigned(), [1]);
}
