//! Mail through the real switch: what arrives, what is refused, what is tried again, and what overtakes what.

mod switch;

use std::net::TcpListener;
use std::time::{Duration, Instant};
use sternpost_load::sink::{Extension, RejectRule};
use sternpost_load::source::{Pipelining, SourceOptions};
use switch::client::Client;
use switch::mail::{compare, lmtp_sink, nobody, send, sink, sink_at, sink_with, start, to};
use switch::site::Site;
use switch::{PATIENCE, Room, SMALL_ROOM, Switch, pss_octets, wait_for};

/// A small message with its dots doubled.
const HELLO: &[u8] = b"Subject: hello\r\n\r\nhello\r\n";

#[test]
fn mail_passes_through_the_switch() {
    let (smtp, lmtp) = (sink(), lmtp_sink());
    let site = Site::new().peer("mta", "smtp", smtp.address(), &["smtp.test", ".smtp.test"]).peer(
        "store",
        "lmtp",
        lmtp.address(),
        &["lmtp.test"],
    );
    let switch = Switch::start(&site.tables());
    for pipelining in [Pipelining::Off, Pipelining::Group, Pipelining::Chain] {
        let report = send(SourceOptions {
            sessions_count: 4,
            messages_count: 60,
            octets: vec![0, 1, 512, 4_096, 61_440, 65_536, 300_000, 1 << 20],
            recipients: vec!["a%d@smtp.test".into(), "b%d@lmtp.test".into(), "c%d@deep.smtp.test".into()],
            recipients_count: 2,
            pipelining,
            ..to(switch.address(), "")
        });
        assert_eq!(report.accepted_count, 120);
        let compared = compare(&[report], &[&smtp, &lmtp]);
        assert_eq!((compared.lost, compared.duplicated), (0, 0), "{compared}");
        drop((smtp.take_report(), lmtp.take_report()));
    }
    switch.wait_until_empty();
}

#[test]
fn a_message_of_no_octets_arrives_with_its_trace_header_alone() {
    let smtp = sink();
    let switch = Switch::start(&Site::new().peer("mta", "smtp", smtp.address(), &["smtp.test"]).tables());
    let reply = Client::greet(switch.address()).message("<a@sender.test>", &["b@smtp.test"], b"");
    assert!(reply.starts_with("250 2.0.0 "), "{reply}");
    assert!(smtp.wait_for(1, PATIENCE));
    let content = smtp.received()[0].content.clone().expect("the sink keeps content");
    let content = String::from_utf8(content).expect("a trace header is ASCII here");
    assert!(content.starts_with("Received: from client.test ([127.0.0.1])"), "{content}");
    assert!(content.contains("by switch.test"), "{content}");
    assert_eq!(content.matches("\r\n\r\n").count(), 0, "{content}");
}

#[test]
fn a_message_in_chunks_arrives_octet_by_octet() {
    let smtp = sink();
    let switch = Switch::start(&Site::new().peer("mta", "smtp", smtp.address(), &["smtp.test"]).tables());
    let content = b"Subject: chunks\r\n\r\n.\r\n..two dots\r\nthe end\r\n";
    let mut client = Client::greet(switch.address());
    client.expect("MAIL FROM:<a@sender.test>", "250");
    client.expect("RCPT TO:<b@smtp.test>", "250");
    // The first chunk ends between CR and LF.
    for (chunk, last) in [(&content[..21], ""), (&content[21..22], ""), (&content[22..], " LAST")] {
        client.send(format!("BDAT {}{last}\r\n", chunk.len()).as_bytes());
        client.send(chunk);
        let reply = client.reply();
        assert!(reply.starts_with("250 "), "{reply}");
    }
    assert!(smtp.wait_for(1, PATIENCE));
    let arrived = smtp.received()[0].content.clone().expect("the sink keeps content");
    assert!(arrived.ends_with(content), "{}", switch::text(&arrived));
}

#[test]
fn a_message_of_100_mib_passes_in_bounded_memory() {
    // Content without its envelope may take a fifth of the log.
    const LARGE_ROOM: Room = Room { segment_octets: 32 << 20, segments: 20 };
    const ROLES: [&str; 3] = ["smtp-server", "store", "smtp"];
    const GROWTH_OCTETS_MAX: u64 = 8 << 20;
    let smtp = sink_with(|options| options.keep_content = false);
    let tables = Site::new().peer("mta", "smtp", smtp.address(), &["smtp.test"]).tables();
    let switch = Switch::start_in(&tables, LARGE_ROOM, "auto");
    // All processes have worked before the measurement: what is left idle is theirs, not the message's.
    send(SourceOptions {
        messages_count: 20,
        octets: vec![1 << 20],
        ..to(switch.address(), "a%d@smtp.test")
    });
    assert!(smtp.wait_for(20, PATIENCE));
    let pids = ROLES.map(|role| switch.pid(role));
    let idle = pids.map(pss_octets);
    let sending = start(SourceOptions { octets: vec![100 << 20], ..to(switch.address(), "large@smtp.test") });
    let mut most = idle;
    let deadline = Instant::now() + PATIENCE;
    while smtp.counts().distinct < 21 && sending.progress.troubles_count() == 0 && Instant::now() < deadline {
        for (most, pid) in most.iter_mut().zip(pids) {
            *most = pss_octets(pid).max(*most);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let compared = compare(&[sending.end()], &[&smtp]);
    assert_eq!((compared.accepted, compared.lost), (1, 0), "{compared}");
    for ((role, idle), most) in ROLES.iter().zip(idle).zip(most) {
        println!("{role}: {} KiB idle, {} KiB at most", idle >> 10, most >> 10);
        assert!(idle > 0 && most - idle <= GROWTH_OCTETS_MAX, "{role}: {idle} idle, {most} at most");
    }
    assert_eq!(ROLES.map(|role| switch.pid(role)), pids);
}

#[test]
fn a_slow_peer_does_not_delay_the_others() {
    let slow = sink_with(|options| options.delay = Duration::from_secs(4));
    let (second, third) = (sink(), lmtp_sink());
    let site = Site::new()
        .peer("slow", "smtp", slow.address(), &["slow.test"])
        .peer("second", "smtp", second.address(), &["second.test"])
        .peer("third", "lmtp", third.address(), &["third.test"]);
    let switch = Switch::start(&site.tables());
    // The first mail starts the channels' processes.
    for domain in ["second.test", "third.test"] {
        send(to(switch.address(), &format!("first@{domain}")));
    }
    assert!(second.wait_for(1, PATIENCE) && third.wait_for(1, PATIENCE));
    let recipients = ["a@slow.test", "a@second.test", "a@third.test"].map(String::from).to_vec();
    let report = send(SourceOptions {
        messages_count: 30,
        recipients,
        recipients_count: 3,
        ..to(switch.address(), "")
    });
    let begin = Instant::now();
    assert!(second.wait_for(31, PATIENCE) && third.wait_for(31, PATIENCE));
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
    drop((second.take_report(), third.take_report()));
    let accepted = report.accepted_count;
    assert_eq!(accepted, 90);
    assert!(slow.wait_for(30, PATIENCE));
}

#[test]
fn a_peer_that_never_says_a_word_delays_neither_the_others_nor_the_end() {
    let mute = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let (address, present) = (mute.local_addr().expect("a listener has an address"), sink());
    let site = Site::new().peer("mute", "smtp", address, &["mute.test"]).peer(
        "present",
        "smtp",
        present.address(),
        &["present.test"],
    );
    let switch = Switch::start(&site.tables());
    let recipients = ["a%d@mute.test", "b%d@present.test"].map(String::from).to_vec();
    send(SourceOptions { messages_count: 60, recipients, ..to(switch.address(), "") });
    assert!(present.wait_for(30, PATIENCE));
    let home = switch.stop();
    // What waits for the mute one is still there.
    let switch = Switch::start_at(home, SMALL_ROOM, "auto", "[tables]\npath = \"tables.toml\"\n");
    assert_eq!(switch.status()["store"]["messages"], 30);
}

#[test]
fn a_peer_that_refuses_connections_delays_its_own_mail_alone_and_gets_it_when_it_is_back() {
    let (absent, present) = (nobody(), sink());
    let site = Site::new().peer("absent", "smtp", absent, &["absent.test"]).peer(
        "present",
        "smtp",
        present.address(),
        &["present.test"],
    );
    let switch = Switch::start(&site.tables());
    let recipients = ["a%d@absent.test", "b%d@present.test"].map(String::from).to_vec();
    let report = send(SourceOptions { messages_count: 20, recipients, ..to(switch.address(), "") });
    assert!(present.wait_for(10, PATIENCE));
    let peer_errors = |status: &serde_json::Value| {
        let channels = status["qmgr"]["scheduler"]["channels"].as_array()?;
        let mut peers = channels.iter().filter_map(|channel| channel["peers"].as_array()).flatten();
        peers.find(|peer| peer["name"] == "absent")?["errors"].as_u64().filter(|errors| *errors >= 2)
    };
    switch.wait_for_status("second error of the absent peer", peer_errors);
    let returned = sink_at(absent);
    let compared = compare(&[report], &[&present, &returned]);
    assert_eq!((compared.lost, compared.duplicated), (0, 0), "{compared}");
    switch.wait_until_empty();
}

#[test]
fn a_peer_that_goes_away_in_the_middle_gets_the_rest_when_it_is_back() {
    let first = sink_with(|options| options.delay = Duration::from_millis(20));
    let address = first.address();
    let switch = Switch::start(&Site::new().peer("mta", "smtp", address, &["smtp.test"]).tables());
    let report = send(SourceOptions {
        sessions_count: 4,
        messages_count: 200,
        ..to(switch.address(), "a%d@smtp.test")
    });
    assert!(first.wait_for(20, PATIENCE));
    let before = first.stop();
    let second = sink_at(address);
    let until = Instant::now() + PATIENCE;
    let merged = || {
        let reports = [before.clone(), second.report()];
        sternpost_load::matching::tally(std::slice::from_ref(&report), &reports)
    };
    while merged().lost > 0 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(50));
    }
    let compared = merged();
    assert_eq!(compared.lost, 0, "{compared}");
    // What the first one took and had no time to answer comes again: at most one message for each association.
    assert!(compared.duplicated <= 20, "{compared}");
    switch.wait_until_empty();
}

#[test]
fn a_recipient_refused_for_a_while_is_tried_again() {
    let refusing = sink_with(|options| {
        options.reject_recipients = vec![RejectRule { pattern: "later@".into(), code: 450 }];
    });
    let address = refusing.address();
    let switch = Switch::start(&Site::new().peer("mta", "smtp", address, &["smtp.test"]).tables());
    let reply = Client::greet(switch.address()).message(
        "<a@smtp.test>",
        &["later@smtp.test", "now@smtp.test"],
        HELLO,
    );
    assert!(reply.starts_with("250 "), "{reply}");
    wait_for("second refusal", || (refusing.counts().rejected >= 2).then_some(()));
    let received = refusing.stop().receipts;
    assert_eq!(received.len(), 1);
    assert_eq!(received[0].recipients, ["now@smtp.test"]);
    let willing = sink_at(address);
    assert!(willing.wait_for(1, PATIENCE));
    assert_eq!(willing.received()[0].recipients, ["later@smtp.test"]);
    switch.wait_until_empty();
    assert_eq!(willing.counts().received, 1);
}

#[test]
fn a_client_that_is_not_listed_may_use_open_routes_and_no_others() {
    let smtp = sink();
    let site = Site::new()
        .without_client_networks()
        .peer("mta", "smtp", smtp.address(), &["open.test"])
        .peer("hub", "smtp", smtp.address(), &["*"]);
    let switch = Switch::start(&site.tables());
    let mut client = Client::greet(switch.address());
    client.expect("MAIL FROM:<a@sender.test>", "250");
    client.expect("RCPT TO:<b@elsewhere.test>", "550 5.7.1 ");
    client.expect("RCPT TO:<b@open.test>", "250");
    client.expect("DATA", "354");
    client.send(HELLO);
    client.send(b".\r\n");
    let reply = client.reply();
    assert!(reply.starts_with("250 "), "{reply}");
    assert!(smtp.wait_for(1, PATIENCE));
    assert_eq!(smtp.received()[0].recipients, ["b@open.test"]);
}

#[test]
fn a_connection_beyond_the_most_is_refused_until_another_ends() {
    let smtp = sink();
    let site =
        Site::new().listener("connections_max = 2").peer("mta", "smtp", smtp.address(), &["smtp.test"]);
    let switch = Switch::start(&site.tables());
    let (_first, mut second) = (Client::greet(switch.address()), Client::greet(switch.address()));
    let (_, greeting) = Client::connect(switch.address());
    assert!(greeting.starts_with("421 4.3.2 "), "{greeting}");
    second.expect("QUIT", "221");
    let free = || Client::connect(switch.address()).1.starts_with("220 ").then_some(());
    wait_for("free connection", free);
}

#[test]
fn a_message_that_loops_is_refused() {
    let smtp = sink();
    let site =
        Site::new().listener("received_headers_max = 10").peer("mta", "smtp", smtp.address(), &["smtp.test"]);
    let switch = Switch::start(&site.tables());
    let looped = |count| ["Received: from a by b; today\r\n".repeat(count), "\r\nhello\r\n".into()].concat();
    let mut client = Client::greet(switch.address());
    let reply = client.message("<a@sender.test>", &["b@smtp.test"], looped(11).as_bytes());
    assert!(reply.starts_with("554 5.4.6 "), "{reply}");
    let reply = client.message("<a@sender.test>", &["b@smtp.test"], looped(10).as_bytes());
    assert!(reply.starts_with("250 "), "{reply}");
    assert!(smtp.wait_for(1, PATIENCE));
    switch.wait_until_empty();
    assert_eq!(smtp.counts().received, 1);
}

#[test]
fn a_smuggled_second_message_is_refused_with_the_first() {
    let smtp = sink();
    let switch = Switch::start(&Site::new().peer("mta", "smtp", smtp.address(), &["smtp.test"]).tables());
    for ending in ["\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r\n.\r"] {
        let mut client = Client::greet(switch.address());
        client.expect("MAIL FROM:<a@sender.test>", "250");
        client.expect("RCPT TO:<first@smtp.test>", "250");
        client.expect("DATA", "354");
        let smuggled = "MAIL FROM:<evil@sender.test>\r\nRCPT TO:<second@smtp.test>\r\nDATA\r\nevil\r\n.\r\n";
        client.send(format!("Subject: one\r\n\r\none{ending}{smuggled}").as_bytes());
        let reply = client.reply();
        assert!(reply.starts_with("550 5.5.2 "), "{ending:?}: {reply}");
        // Nothing of what followed was taken for a command: the next reply is that to the next command.
        client.expect("NOOP", "250 2.0.0 Still here");
    }
    let reply = Client::greet(switch.address()).message("<a@sender.test>", &["good@smtp.test"], HELLO);
    assert!(reply.starts_with("250 "), "{reply}");
    assert!(smtp.wait_for(1, PATIENCE));
    switch.wait_until_empty();
    let received: Vec<_> = smtp.received().into_iter().flat_map(|receipt| receipt.recipients).collect();
    assert_eq!(received, ["good@smtp.test"]);
}

#[test]
fn a_full_log_refuses_mail_until_it_is_drained() {
    let address = nobody();
    let site = Site::new().peer("mta", "smtp", address, &["smtp.test"]);
    let switch = Switch::start_in(&site.tables(), Room { segment_octets: 1 << 20, segments: 8 }, "auto");
    let large = [
        b"Subject: large\r\n\r\n".to_vec(),
        b"seventy octets of filler on each line of this text\r\n".repeat(4_000),
    ]
    .concat();
    let mut client = Client::greet(switch.address());
    let (mut accepted, mut refused) = (0, 0);
    // A refusal may pass, while the log makes room; three in a row do not.
    while refused < 3 {
        let reply = client.message("<a@sender.test>", &[&format!("a{accepted}@smtp.test")], &large);
        if reply.starts_with("452 4.3.1 ") {
            refused += 1;
        } else {
            assert!(reply.starts_with("250 ") && accepted < 60, "{accepted}: {reply}");
            (accepted, refused) = (accepted + 1, 0);
        }
    }
    assert!(accepted >= 5, "{accepted}");
    assert!(switch.log().contains("the log is full"));
    let smtp = sink_at(address);
    assert!(smtp.wait_for(accepted, PATIENCE), "{:?}", smtp.counts());
    switch.wait_until_empty();
    let is_free = |status: &serde_json::Value| (status["store"]["full"] == false).then_some(());
    switch.wait_for_status("room", is_free);
    for number in 0..8 {
        let reply = client.message("<a@sender.test>", &[&format!("b{number}@smtp.test")], &large);
        assert!(reply.starts_with("250 "), "{number}: {reply}");
        assert!(smtp.wait_for(accepted + 1 + number, PATIENCE));
    }
    assert_eq!((smtp.counts().duplicated, smtp.counts().damaged), (0, 0));
}

#[test]
fn a_flash_overtakes_routine_mail_that_waits_for_a_slow_peer() {
    let slow = sink_with(|options| options.delay = Duration::from_millis(60));
    let site =
        Site::new().peer_with("slow", "smtp", slow.address(), &["slow.test"], "associations_max = 1\n");
    let switch = Switch::start(&site.tables());
    let routine = send(SourceOptions { messages_count: 60, ..to(switch.address(), "routine%d@slow.test") });
    let before = slow.counts().received;
    let priorities = vec![4, 6];
    let flash =
        send(SourceOptions { messages_count: 2, priorities, ..to(switch.address(), "flash%d@slow.test") });
    let compared = compare(&[routine, flash], &[&slow]);
    assert_eq!((compared.lost, compared.duplicated), (0, 0), "{compared}");
    let received = slow.received();
    let positions: Vec<u64> = (0..)
        .zip(&received)
        .filter(|(_, receipt)| receipt.recipients[0].starts_with("flash"))
        .map(|(position, _)| position)
        .collect();
    // One is under way, one may be chained behind it, and some pass while the flash is being sent.
    assert!(
        before < 40 && positions.iter().all(|position| *position <= before + 6),
        "{before}: {positions:?}"
    );
    let priorities: Vec<_> = received.iter().filter_map(|receipt| receipt.priority).collect();
    assert!(priorities.contains(&4) && priorities.contains(&6), "{priorities:?}");
}

#[test]
fn messages_of_many_recipients_reach_each_of_them_once() {
    let (smtp, lmtp) = (
        sink_with(|options| options.without = vec![Extension::Pipelining, Extension::Chunking]),
        lmtp_sink(),
    );
    let site = Site::new().peer("mta", "smtp", smtp.address(), &["smtp.test"]).peer(
        "store",
        "lmtp",
        lmtp.address(),
        &["lmtp.test"],
    );
    let switch = Switch::start(&site.tables());
    let recipients = ["u%d-%r@smtp.test", "u%d-%r@lmtp.test"].map(String::from).to_vec();
    let report = send(SourceOptions {
        messages_count: 5,
        recipients,
        recipients_count: 300,
        octets: vec![2_000, 200_000],
        ..to(switch.address(), "")
    });
    assert_eq!(report.accepted_count, 1_500);
    let compared = compare(&[report], &[&smtp, &lmtp]);
    assert_eq!((compared.lost, compared.duplicated), (0, 0), "{compared}");
    switch.wait_until_empty();
}
