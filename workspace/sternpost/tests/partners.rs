//! The switch among programs that others wrote.

mod switch;

use std::process::Command;
use switch::client::Client;
use switch::mail::{sink, sink_with};
use switch::site::Site;
use switch::{PATIENCE, Switch, wait_for};

#[test]
fn swaks_hands_in_a_message_with_pipelining_and_its_dots_arrive() {
    let smtp = sink();
    let switch = Switch::start(&Site::new().peer("mta", "smtp", smtp.address(), &["smtp.test"]).tables());
    let output = Command::new("swaks")
        .args(["--server", &switch.address().to_string(), "--pipeline", "--helo", "client.test"])
        .args(["--from", "a@sender.test", "--to", "b@smtp.test,c@smtp.test", "--body", "one\n.\n..two\n"])
        .output()
        .expect("swaks is installed by .ci/packages");
    let dialogue = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{dialogue}");
    assert!(dialogue.contains("250 2.0.0 Ok: queued as "), "{dialogue}");
    assert!(smtp.wait_for(1, PATIENCE));
    let received = smtp.received();
    let content = received[0].content.clone().expect("the sink keeps content");
    let content = String::from_utf8(content).expect("what swaks sends is ASCII");
    assert!(content.contains("\r\none\r\n.\r\n..two\r\n"), "{content}");
    assert_eq!(received[0].recipients.len(), 2);
}

#[test]
fn swaks_is_told_that_a_stranger_relays_nothing() {
    let smtp = sink();
    let site = Site::new().peer("mta", "smtp", smtp.address(), &["smtp.test"]).without_client_networks();
    let switch = Switch::start(&site.tables());
    let output = Command::new("swaks")
        .args([
            "--server",
            &switch.address().to_string(),
            "--from",
            "a@sender.test",
            "--to",
            "b@elsewhere.test",
        ])
        .output()
        .expect("swaks is installed by .ci/packages");
    let dialogue = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success() && dialogue.contains("550 5.7.1 "), "{dialogue}");
}

#[test]
fn a_report_without_a_route_is_recorded_and_raises_an_event() {
    let smtp = sink_with(|options| {
        options.reject_recipients = vec!["550:b@*".parse().expect("a rule for recipients")];
    });
    let switch = Switch::start(&Site::new().peer("mta", "smtp", smtp.address(), &["smtp.test"]).tables());
    let reply = Client::greet(switch.address()).message(
        "<a@nowhere.test>",
        &["b@smtp.test"],
        b"Subject: x\r\n\r\nx\r\n",
    );
    assert!(reply.starts_with("250 "), "{reply}");
    wait_for("the event", || switch.log().contains("report.no-route").then_some(()));
    switch.wait_until_empty();
    assert_eq!(smtp.counts().received, 0);
}
