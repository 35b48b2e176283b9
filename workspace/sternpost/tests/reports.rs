//! What a sender is told: failures, delays, expiry and successes, each once, in the sender's language, and never about a report.

mod switch;

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Command;
use std::thread::JoinHandle;
use sternpost_load::sink::{Extension, Protocol, RejectRule, Sink};
use switch::client::Client;
use switch::mail::{lmtp_sink, nobody, sink, sink_with};
use switch::message_store::MessageStore;
use switch::report::{Bounces, StatusReport, read_by_flufl, read_by_sisimai};
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

/// Sends one message to one recipient who wants to hear of everything.
fn send_with_wishes(switch: &Switch, mail: &str, recipient: &str, content: &[u8]) {
    let mut client = Client::greet(switch.address());
    client.expect(&format!("MAIL FROM:{mail}"), "250");
    client.expect(
        &format!("RCPT TO:<{recipient}> NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;joe+2Bx@old.test"),
        "250",
    );
    client.expect("DATA", "354");
    client.send(content);
    client.send(b".\r\n");
    let reply = client.reply();
    assert!(reply.starts_with("250 "), "{reply}");
}

/// The site of most tests below: who sends is at `senders`, and `refusing` takes nothing.
fn site_with_refusals(senders: &Sink) -> (Site, Sink) {
    let refusing = sink_with(|options| {
        options.reject_recipients = vec![RejectRule { pattern: "@refusing.test".into(), code: 550 }];
    });
    let site = Site::new().peer("senders", "smtp", senders.address(), &["sender.test"]).peer(
        "refusing",
        "smtp",
        refusing.address(),
        &["refusing.test"],
    );
    (site, refusing)
}

#[test]
fn what_a_message_store_keeps_is_reported_as_delivered_where_the_sender_asks() {
    let (senders, store) = (sink(), lmtp_sink());
    let site = Site::new().peer("senders", "smtp", senders.address(), &["sender.test"]).peer(
        "store",
        "lmtp",
        store.address(),
        &["lmtp.test"],
    );
    // A sink that knew DSN would have to report by itself.
    let plain = sink_with(|options| {
        options.protocol = Protocol::Lmtp;
        options.without = vec![Extension::Dsn];
    });
    let site = site.peer("plain", "lmtp", plain.address(), &["plain.test"]);
    let switch = Switch::start(&site.tables());
    send(&switch, SENDER, &["quiet@plain.test"], HELLO);
    send_with_wishes(&switch, SENDER, "with-dsn@lmtp.test", HELLO);
    send_with_wishes(&switch, "<>", "null@plain.test", HELLO);
    send_with_wishes(&switch, "<sender@sender.test> RET=FULL ENVID=Q+2B1", "kept@plain.test", HELLO);
    let report = only_report(&senders);
    let (action, status) = report.about("kept@plain.test");
    assert!(action == "delivered" && status.starts_with("2."), "{report:?}");
    assert_eq!(report.message["original-envelope-id"], "Q+1", "{report:?}");
    assert_eq!(report.recipients[0]["original-recipient"].replace("; ", ";"), "rfc822;joe+x@old.test");
    switch.wait_until_empty();
    assert_eq!((senders.counts().received, store.counts().received, plain.counts().received), (1, 1, 3));
}

#[test]
fn dovecot_keeps_a_message_and_the_sender_is_told_of_it_and_of_who_is_unknown() {
    let senders = sink();
    let store = MessageStore::start(&["ann@store.test"]);
    let site = Site::new().peer("senders", "smtp", senders.address(), &["sender.test"]).peer(
        "store",
        "lmtp",
        store.address(),
        &["store.test"],
    );
    let switch = Switch::start(&site.tables());
    send_with_wishes(&switch, SENDER, "ann@store.test", HELLO);
    let report = only_report(&senders);
    let (action, status) = report.about("ann@store.test");
    assert!(action == "delivered" && status.starts_with("2."), "{report:?}");
    let kept = store.messages("ann@store.test");
    assert_eq!(kept.len(), 1);
    assert!(kept[0].ends_with(b"hello\r\n") || kept[0].ends_with(b"hello\n"));
    send_with_wishes(&switch, SENDER, "bob@store.test", HELLO);
    assert!(senders.wait_for(2, PATIENCE));
    let received = senders.received();
    let report = StatusReport::read(received[1].content.as_ref().expect("the sink keeps content"));
    assert_eq!(report.about("bob@store.test"), ("failed", "5.1.1"));
    switch.wait_until_empty();
}

/// An MTA with DSN that takes one message. Gives the commands that it heard.
fn mta_with_dsn() -> (SocketAddr, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has free ports");
    let address = listener.local_addr().expect("a listener has an address");
    let heard = std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("the switch connects");
        let mut stream = BufReader::new(stream);
        let say = |stream: &mut BufReader<std::net::TcpStream>, reply: &str| {
            stream.get_mut().write_all(reply.as_bytes()).expect("the switch reads");
        };
        say(&mut stream, "220 mta.test\r\n");
        let (mut heard, mut in_content) = (Vec::new(), false);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).unwrap_or(0) == 0 {
                return heard;
            }
            let line = line.trim_end().to_owned();
            match line.split([' ', ':']).next().unwrap_or_default() {
                "." => {
                    in_content = false;
                    say(&mut stream, "250 2.0.0 taken\r\n");
                }
                _ if in_content => {}
                "EHLO" => say(&mut stream, "250-mta.test\r\n250 DSN\r\n"),
                "DATA" => {
                    in_content = true;
                    say(&mut stream, "354 go\r\n");
                }
                "QUIT" => {
                    say(&mut stream, "221 bye\r\n");
                    return heard;
                }
                _ => {
                    heard.push(line);
                    say(&mut stream, "250 2.0.0 ok\r\n");
                }
            }
        }
    });
    (address, heard)
}

#[test]
fn an_mta_with_dsn_is_told_what_the_sender_wants_and_one_without_is_reported_as_relayed() {
    let senders = sink();
    let old = sink_with(|options| options.without = vec![Extension::Dsn]);
    let (modern, heard) = mta_with_dsn();
    let site = Site::new()
        .peer("senders", "smtp", senders.address(), &["sender.test"])
        .peer("old", "smtp", old.address(), &["old.test"])
        .peer("modern", "smtp", modern, &["modern.test"]);
    let switch = Switch::start(&site.tables());
    let mail = "<sender@sender.test> RET=FULL ENVID=Q+2B1";
    send_with_wishes(&switch, mail, "a@modern.test", HELLO);
    send_with_wishes(&switch, mail, "a@old.test", HELLO);
    let report = only_report(&senders);
    let (action, status) = report.about("a@old.test");
    assert!(action == "relayed" && status.starts_with("2."), "{report:?}");
    assert!(report.text.contains("does not report deliveries"), "{report:?}");
    switch.wait_until_empty();
    assert_eq!(senders.counts().received, 1);
    drop(switch);
    assert_eq!(
        heard.join().expect("the MTA comes to its end"),
        [
            "MAIL FROM:<sender@sender.test> RET=FULL ENVID=Q+2B1",
            "RCPT TO:<a@modern.test> NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;joe+2Bx@old.test"
        ]
    );
}

#[test]
fn a_success_is_reported_once_although_the_housekeeper_and_qmgr_are_killed() {
    let senders = sink();
    let old = sink_with(|options| options.without = vec![Extension::Dsn]);
    let site = Site::new().peer("senders", "smtp", senders.address(), &["sender.test"]).peer(
        "old",
        "smtp",
        old.address(),
        &["old.test"],
    );
    let switch = Switch::start(&site.tables());
    send_with_wishes(&switch, SENDER, "first@old.test", HELLO);
    assert!(senders.wait_for(1, PATIENCE));
    for (round, role) in (0..).zip(["housekeeper", "qmgr", "housekeeper"]) {
        for number in 0..10 {
            if number == 5 {
                switch.kill(role);
            }
            send_with_wishes(&switch, SENDER, &format!("r{round}-{number}@old.test"), HELLO);
        }
        assert!(senders.wait_for(1 + 10 * (round + 1), PATIENCE), "{:?}", senders.counts());
    }
    switch.wait_until_empty();
    let received = senders.received();
    let reported: BTreeSet<String> = received
        .iter()
        .map(|receipt| StatusReport::read(receipt.content.as_ref().expect("the sink keeps content")))
        .flat_map(|report| report.recipients.into_iter().map(|fields| fields["final-recipient"].clone()))
        .collect();
    assert_eq!((received.len(), reported.len()), (31, 31), "{reported:?}");
}

#[test]
fn reports_are_read_by_flufl_bounce_and_by_sisimai() {
    let senders = sink();
    let (site, _refusing) = site_with_refusals(&senders);
    let old = sink_with(|options| options.without = vec![Extension::Dsn]);
    let site = site
        .qmgr("retry_step_s = 1\nretry_max_s = 1\ndelay_report_after_s = 1\n")
        .reports("report_language = \"de\"\n")
        .peer("absent", "smtp", nobody(), &["absent.test"])
        .peer("old", "smtp", old.address(), &["old.test"]);
    let switch = Switch::start(&site.tables());
    let content = b"From: sender@sender.test\r\nTo: joe@example.org\r\nSubject: hello\r\nMessage-ID: <1@sender.test>\r\n\r\nhello\r\n";
    // Who reads by addresses goes by that which the sender has used: ORCPT.
    let none = Vec::<String>::new;
    let asked = || vec!["joe+x@old.test".to_owned()];
    let rows = [
        ("a@refusing.test", none(), asked(), "failed\t5.1.1\t550\tuserunknown"),
        ("a@old.test", none(), none(), "relayed\t2."),
        ("a@absent.test", asked(), none(), "delayed\t4.4.1\t"),
    ];
    for (count, (recipient, temporary, permanent, read)) in (1..).zip(rows) {
        send_with_wishes(&switch, SENDER, recipient, content);
        assert!(senders.wait_for(count, PATIENCE), "no report on {recipient}");
        let received = senders.received().pop().expect("one has come");
        let report = received.content.expect("the sink keeps content");
        let shown = String::from_utf8_lossy(&report);
        assert_eq!(read_by_flufl(&report), Bounces { temporary, permanent }, "{shown}");
        let lines = read_by_sisimai(&report);
        let wanted = format!("{recipient}\t{read}");
        assert!(lines.len() == 1 && lines[0].starts_with(&wanted), "{lines:?} is not {wanted:?} of {shown}");
    }
}

#[test]
fn swaks_in_a_german_network_gets_a_german_report() {
    let senders = sink();
    let (site, _refusing) = site_with_refusals(&senders);
    let site = site.reports("report_language_from_mail = true\n");
    let switch = Switch::start(&site.tables());
    let output = Command::new("swaks")
        .args(["--server", &switch.address().to_string(), "--helo", "client.test"])
        .args(["--from", "sender@sender.test", "--to", "b@refusing.test"])
        .args(["--add-header", "Accept-Language: de-DE, en;q=0.5"])
        .output()
        .expect("swaks is installed by .ci/packages");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let report = only_report(&senders);
    assert_eq!(report.header["subject"], "Ihre Nachricht konnte nicht zugestellt werden");
    assert!(report.text.contains("Was Sie tun können: Prüfen Sie die Adresse"), "{report:?}");
    assert_eq!(report.about("b@refusing.test"), ("failed", "5.1.1"));
}

#[test]
fn a_report_has_the_words_that_the_configuration_gives_it() {
    let senders = sink();
    let (site, _refusing) = site_with_refusals(&senders);
    let site = site.reports(
        "report_language = \"fr\"\n\n[[report_text]]\nname = \"fr-failure\"\nreport_text_kind = \"failure\"\n\
         report_text_language = \"fr\"\nreport_text_subject = \"Échec de la remise\"\nreport_text_body = \"\"\"\n\
         {hostname} n'a pas pu remettre votre message à :\n{recipients}\n\"\"\"\n\
         report_text_recipient = \"  {address} ({reply})\"\n",
    );
    let switch = Switch::start(&site.tables());
    send(&switch, SENDER, &["a@refusing.test"], HELLO);
    let report = only_report(&senders);
    assert_eq!(report.header["subject"], "Échec de la remise");
    assert!(report.text.starts_with("switch.test n'a pas pu remettre votre message à :"), "{report:?}");
    assert!(report.text.contains("  a@refusing.test (550 5.1.1 "), "{report:?}");
}

#[test]
fn the_postmaster_gets_a_copy_without_the_body_also_of_what_nobody_else_is_told() {
    let (senders, desk) = (sink(), sink());
    let (site, _refusing) = site_with_refusals(&senders);
    let site = site.reports("report_copies = \"pm@desk.test\"\n").peer(
        "desk",
        "smtp",
        desk.address(),
        &["desk.test"],
    );
    let switch = Switch::start(&site.tables());
    send(&switch, "<sender@sender.test> RET=FULL", &["a@refusing.test"], b"Subject: x\r\n\r\nsecret\r\n");
    let report = only_report(&senders);
    assert_eq!(report.about("a@refusing.test"), ("failed", "5.1.1"));
    assert!(desk.wait_for(1, PATIENCE));
    send(&switch, "<>", &["b@refusing.test"], HELLO);
    assert!(desk.wait_for(2, PATIENCE));
    let copies: Vec<_> =
        desk.received().into_iter().map(|copy| copy.content.expect("the sink keeps content")).collect();
    for (copy, address, words) in [
        (&copies[0], "a@refusing.test", "The report below went to <sender@sender.test>"),
        (&copies[1], "b@refusing.test", "the sender of what failed is null"),
    ] {
        assert!(!String::from_utf8_lossy(copy).contains("secret"));
        let copy = StatusReport::read(copy);
        assert_eq!((copy.about(address).0, copy.header["to"].as_str()), ("failed", "pm@desk.test"));
        assert!(copy.text.split_whitespace().collect::<Vec<_>>().join(" ").contains(words), "{copy:?}");
    }
    switch.wait_until_empty();
    assert_eq!((senders.counts().received, desk.counts().received), (1, 2));
}

#[test]
fn a_domain_gets_so_many_reports_in_an_hour_and_the_rest_is_counted_in_the_log() {
    let senders = sink();
    let (site, refusing) = site_with_refusals(&senders);
    let switch = Switch::start(&site.reports("reports_per_domain_hour_max = 1\n").tables());
    for number in 0..4 {
        send(&switch, SENDER, &[&format!("r{number}@refusing.test")], HELLO);
    }
    switch::wait_for("four refusals", || (refusing.counts().rejected >= 4).then_some(()));
    switch.wait_until_empty();
    // The test may have begun in the last seconds of an hour.
    let made = senders.counts().received;
    assert!((1..=2).contains(&made), "{made}");
    assert_eq!(
        switch.log().matches("event=\"report.suppressed\"").count(),
        usize::try_from(4 - made).expect("a small number")
    );
}

#[test]
fn a_stranger_whose_mail_fails_is_told_nothing_where_the_listener_says_so() {
    let senders = sink();
    let (site, refusing) = site_with_refusals(&senders);
    let site = site.without_client_networks().listener("reports_to = \"client-networks\"");
    let switch = Switch::start(&site.tables());
    send(&switch, SENDER, &["a@refusing.test"], HELLO);
    switch::wait_for("the refusal", || (refusing.counts().rejected >= 1).then_some(()));
    switch.wait_until_empty();
    assert_eq!(senders.counts().received, 0);
    assert!(switch.log().contains("report.not-made"), "{}", switch.log());
}
