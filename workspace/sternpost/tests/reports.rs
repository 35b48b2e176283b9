//! What a sender is told: failures, delays and expiry, each once, and never about a report.

mod switch;

use sternpost_load::sink::{Extension, Protocol, RejectRule, Sink};
use switch::client::Client;
use switch::mail::{nobody, sink, sink_with};
use switch::report::StatusReport;
use switch::site::Site;
use switch::{PATIENCE, Switch};

const SENDER: &str = "<sender@sender.test>";
const HELLO: &[u8] = b"Subject: hello\r\n\r\nhello\r\n";

/// The only report that has come to the sender's sink by now.
fn only_report(senders: &Sink) -> StatusReport {
    assert!(senders.wait_for(1, PATIENCE), "no report");
    let received = senders.received();
    assert_eq!(received.len(), 1, "{received:?}");
    assert_eq!(
        (received[0].sender.as_str(), received[0].recipients.as_slice()),
        ("", &["sender@sender.test".to_owned()][..])
    );
    StatusReport::read(received[0].content.as_ref().expect("the sink keeps content"))
}

/// Sends one message, which must be accepted.
fn send(switch: &Switch, mail: &str, recipients: &[&str], content: &[u8]) {
    let reply = Client::greet(switch.address()).message(mail, recipients, content);
    assert!(reply.starts_with("250 "), "{reply}");
}

#[test]
fn a_recipient_refused_by_lmtp_is_reported_and_the_others_are_delivered() {
    let senders = sink();
    let store = sink_with(|options| {
        options.protocol = Protocol::Lmtp;
        options.reject_recipients = vec![RejectRule { pattern: "bad@".into(), code: 550 }];
    });
    let site = Site::new().peer("senders", "smtp", senders.address(), &["sender.test"]).peer(
        "store",
        "lmtp",
        store.address(),
        &["lmtp.test"],
    );
    let switch = Switch::start(&site.tables());
    send(&switch, SENDER, &["one@lmtp.test", "bad@lmtp.test", "two@lmtp.test"], HELLO);
    assert!(store.wait_for(2, PATIENCE));
    let mut recipients: Vec<_> =
        store.received().into_iter().flat_map(|receipt| receipt.recipients).collect();
    recipients.sort();
    assert_eq!(recipients, ["one@lmtp.test", "two@lmtp.test"]);
    let report = only_report(&senders);
    assert_eq!(report.recipients.len(), 1, "{report:?}");
    let (action, status) = report.about("bad@lmtp.test");
    assert_eq!(action, "failed");
    assert!(status.starts_with("5."), "{report:?}");
    assert!(report.message["reporting-mta"].contains("switch.test"), "{report:?}");
    assert!(report.header["from"].contains("postmaster@sender.test"), "{report:?}");
    assert!(report.text.contains("bad@lmtp.test"), "{report:?}");
    switch.wait_until_empty();
    assert_eq!((senders.counts().received, store.counts().duplicated), (1, 0));
}

#[test]
fn eight_bit_content_for_a_peer_without_8bitmime_is_reported() {
    let (senders, old) = (sink(), sink_with(|options| options.without = vec![Extension::EightBitMime]));
    let site = Site::new().peer("senders", "smtp", senders.address(), &["sender.test"]).peer(
        "old",
        "smtp",
        old.address(),
        &["old.test"],
    );
    let switch = Switch::start(&site.tables());
    let content = "Subject: eight bit\r\n\r\nGrüße\r\n";
    send(&switch, "<sender@sender.test> BODY=8BITMIME", &["a@old.test"], content.as_bytes());
    let report = only_report(&senders);
    assert_eq!(report.about("a@old.test"), ("failed", "5.6.3"));
    switch.wait_until_empty();
    assert_eq!(old.counts().received, 0);
}

#[test]
fn a_message_that_expires_is_reported() {
    let senders = sink();
    let site = Site::new()
        .qmgr("retry_step_s = 1\nretry_max_s = 1\nexpire_after_s = 3\ndelay_report_after_s = 0\n")
        .peer("senders", "smtp", senders.address(), &["sender.test"])
        .peer("absent", "smtp", nobody(), &["absent.test"]);
    let switch = Switch::start(&site.tables());
    send(&switch, SENDER, &["a@absent.test"], HELLO);
    let report = only_report(&senders);
    assert_eq!(report.about("a@absent.test"), ("failed", "4.4.7"));
    switch.wait_until_empty();
    assert_eq!(senders.counts().received, 1);
}

#[test]
fn a_delay_is_reported_once_and_the_message_goes_on_waiting() {
    let senders = sink();
    let absent = nobody();
    let site = Site::new()
        .qmgr("retry_step_s = 1\nretry_max_s = 1\ndelay_report_after_s = 2\n")
        .peer("senders", "smtp", senders.address(), &["sender.test"])
        .peer("absent", "smtp", absent, &["absent.test"]);
    let switch = Switch::start(&site.tables());
    send(&switch, SENDER, &["a@absent.test"], HELLO);
    let report = only_report(&senders);
    let (action, status) = report.about("a@absent.test");
    assert_eq!(action, "delayed");
    assert!(status.starts_with("4."), "{report:?}");
    assert!(report.recipients[0].contains_key("will-retry-until"), "{report:?}");
    let returned = switch::mail::sink_at(absent);
    assert!(returned.wait_for(1, PATIENCE));
    switch.wait_until_empty();
    assert_eq!((senders.counts().received, returned.counts().received), (1, 1));
}

#[test]
fn the_null_sender_and_those_who_asked_for_nothing_get_no_report() {
    let senders = sink();
    let refusing = sink_with(|options| {
        options.reject_recipients = vec![RejectRule { pattern: "@refusing.test".into(), code: 550 }];
    });
    let site = Site::new().peer("senders", "smtp", senders.address(), &["sender.test"]).peer(
        "refusing",
        "smtp",
        refusing.address(),
        &["refusing.test"],
    );
    let switch = Switch::start(&site.tables());
    send(&switch, "<>", &["a@refusing.test"], HELLO);
    let mut client = Client::greet(switch.address());
    client.expect("MAIL FROM:<sender@sender.test>", "250");
    client.expect("RCPT TO:<b@refusing.test> NOTIFY=NEVER", "250");
    client.expect("DATA", "354");
    client.send(HELLO);
    client.send(b".\r\n");
    assert!(client.reply().starts_with("250 "));
    switch::wait_for("both refusals", || (refusing.counts().rejected >= 2).then_some(()));
    switch.wait_until_empty();
    assert_eq!((senders.counts().received, refusing.counts().rejected), (0, 2));
}

#[test]
fn a_failure_is_reported_once_although_the_housekeeper_is_killed() {
    let senders = sink();
    let refusing = sink_with(|options| {
        options.reject_recipients = vec![RejectRule { pattern: "@refusing.test".into(), code: 550 }];
    });
    let site = Site::new().peer("senders", "smtp", senders.address(), &["sender.test"]).peer(
        "refusing",
        "smtp",
        refusing.address(),
        &["refusing.test"],
    );
    let switch = Switch::start(&site.tables());
    send(&switch, SENDER, &["first@refusing.test"], HELLO);
    assert!(senders.wait_for(1, PATIENCE));
    for round in 0..3 {
        switch.kill("housekeeper");
        for number in 0..10 {
            send(&switch, SENDER, &[&format!("r{round}-{number}@refusing.test")], HELLO);
        }
        assert!(senders.wait_for(1 + 10 * (round + 1), PATIENCE), "{:?}", senders.counts());
    }
    switch.wait_until_empty();
    let mut reported: Vec<String> = senders
        .received()
        .iter()
        .map(|receipt| StatusReport::read(receipt.content.as_ref().expect("the sink keeps content")))
        .flat_map(|report| report.recipients.into_iter().map(|fields| fields["final-recipient"].clone()))
        .collect();
    reported.sort();
    let count = reported.len();
    reported.dedup();
    assert_eq!((count, reported.len()), (31, 31), "{reported:?}");
}
