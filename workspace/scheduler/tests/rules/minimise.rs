//! Mail that is ordered to wait for a time.

use crate::switch::{START, Switch, channel, limits};
use sternpost_message::Precedence::{self, Flash, Immediate, Routine};
use sternpost_message::UnixMillis;
use sternpost_scheduler::{Action, Event, Limits, Minimise, Reason};

fn order(peer: Option<&str>, lowest: Precedence, from: u64, until: u64) -> Minimise {
    Minimise {
        name: "exercise".into(),
        channel: "smtp".into(),
        peer: peer.map(str::to_owned),
        lowest,
        from: UnixMillis(START + from),
        until: UnixMillis(START + until),
    }
}

fn config(minimise: Vec<Minimise>) -> Limits {
    let channels = vec![channel("smtp", 2, 9, &["a", "b"]), channel("lmtp", 2, 9, &["a"])];
    Limits { minimise, ..limits(channels) }
}

#[test]
fn only_mail_of_the_level_and_above_goes_until_the_order_ends_by_itself() {
    let mut switch = Switch::going(config(vec![order(None, Immediate, 1_000, 5_000)]));
    switch.queue(1, "smtp", "a", Routine);
    switch.attach(1, "smtp", 9);
    assert_eq!(switch.assigned(), [1], "it has not begun");
    switch.wait_ms(1_000);
    switch.queue(2, "smtp", "a", Routine);
    switch.queue(3, "smtp", "b", Immediate);
    assert_eq!(switch.assigned(), [3]);
    switch.queue(4, "smtp", "a", Flash);
    assert_eq!(switch.assigned(), [4]);
    assert_eq!((switch.why(2), switch.until(2)), (Reason::Minimised, Some(START + 5_000)));
    let counts = switch.scheduler.counts();
    assert_eq!((counts.waiting, counts.runnable), (1, 0), "intake does not wait for what may not go");
    assert_eq!(switch.scheduler.wake_at(), Some(UnixMillis(START + 5_000)));
    switch.wait_ms(3_999);
    assert!(switch.assigned().is_empty());
    switch.wait_ms(1);
    assert_eq!(switch.assigned(), [2]);
}

#[test]
fn an_order_for_a_channel_or_a_peer_holds_there_alone_and_the_strictest_holds() {
    let orders = vec![order(None, Immediate, 0, u64::MAX - START), order(Some("b"), Flash, 0, 60_000)];
    let mut switch = Switch::going(config(orders));
    switch.attach(1, "smtp", 9);
    switch.attach(2, "lmtp", 9);
    switch.queue(1, "lmtp", "a", Routine);
    assert_eq!(switch.assigned(), [1]);
    switch.queue(2, "smtp", "a", Routine);
    assert_eq!((switch.why(2), switch.until(2)), (Reason::Minimised, None), "until it is taken back");
    switch.queue(3, "smtp", "b", Immediate);
    assert_eq!((switch.why(3), switch.until(3)), (Reason::Minimised, Some(START + 60_000)));
    let there = switch.scheduler.whereabouts(crate::switch::id(3)).unwrap();
    assert_eq!((&*there.peer, there.orders.len()), ("b", 1));
    switch.queue(4, "smtp", "a", Immediate);
    assert_eq!(switch.assigned(), [4]);
    switch.tell(Event::Configure(config(Vec::new())));
    assert_eq!(switch.assigned(), [3, 2]);
}

#[test]
fn of_a_delay_and_an_order_the_one_that_ends_last_is_the_reason() {
    let mut switch = Switch::going(config(vec![order(None, Flash, 100, 3_000)]));
    switch.attach(1, "smtp", 9);
    switch.queue(1, "smtp", "a", Routine);
    switch.defer(1, sternpost_message::ErrorScope::Message);
    switch.finish(1, 1);
    assert_eq!((switch.why(1), switch.until(1)), (Reason::MessageDelay, Some(START + 1_000)));
    switch.wait_ms(100);
    assert_eq!((switch.why(1), switch.until(1)), (Reason::Minimised, Some(START + 3_000)));
    switch.tell(Event::Configure(config(vec![order(None, Flash, 100, 500)])));
    assert_eq!((switch.why(1), switch.until(1)), (Reason::MessageDelay, Some(START + 1_000)));
}

#[test]
fn mail_that_waits_for_an_order_still_grows_old() {
    let mut switch = Switch::going(config(vec![order(None, Flash, 0, 60_000)]));
    let mut spec = crate::switch::mlist(1, "smtp", "a", Routine);
    spec.delay_report_at = Some(UnixMillis(START + 10));
    spec.expires_at = UnixMillis(START + 20);
    switch.tell(Event::Queue(spec));
    switch.wait_ms(10);
    assert!(matches!(switch.actions[..], [Action::DelayReportDue { .. }]));
    switch.wait_ms(10);
    assert!(matches!(switch.actions[..], [Action::Expired { .. }]));
}
