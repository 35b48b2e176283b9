//! Who may ask for which precedence and how, where it is seen, and what the next hop hears of it.

mod switch;

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;
use sternpost_load::sink::{Extension, Sink};
use sternpost_load::source::SourceOptions;
use switch::client::Client;
use switch::mail::{nobody, send, sink, sink_with, to};
use switch::site::Site;
use switch::{PATIENCE, Switch, wait_for};

/// The fields that the sites of these tests read.
const FIELDS: &str =
    "priority_fields = \"mt-priority mmhs-primary-precedence mmhs-copy-precedence priority\"";

/// An SMTP hop that knows no MT-PRIORITY.
fn plain_sink() -> Sink {
    sink_with(|options| options.without = vec![Extension::MtPriority])
}

fn one_peer(address: SocketAddr) -> Site {
    Site::new().peer("mta", "smtp", address, &["smtp.test"])
}

fn submit(switch: &Switch, parameters: &str, header: &str) -> String {
    let content = format!("Subject: hello\r\n{header}\r\nhello\r\n");
    let mut client = Client::greet(switch.address());
    let reply = client.message(&format!("<a@sender.test>{parameters}"), &["b@smtp.test"], content.as_bytes());
    assert!(reply.starts_with("250 "), "{reply}");
    reply
}

/// What the sink has got, as text.
fn contents(sink: &Sink) -> Vec<String> {
    let text = |content: Option<Vec<u8>>| String::from_utf8(content.expect("the sink keeps content"));
    let received = sink.received();
    received.iter().map(|one| text(one.content.clone()).expect("mail of a test is ASCII")).collect()
}

/// The values of the field MT-Priority.
fn fields_of(content: &str) -> Vec<&str> {
    let (header, _) = content.split_once("\r\n\r\n").expect("a message has a body");
    header.lines().filter_map(|line| line.strip_prefix("MT-Priority: ")).collect()
}

/// The precedence of the message that was accepted with this reply and waits.
fn precedence_of(switch: &Switch, reply: &str) -> String {
    let (_, id) = reply.rsplit_once("queued as ").expect("the reply names the message");
    let shown = switch.ask(&["queue", "show", id]);
    shown["precedence"].as_str().expect("a message has a precedence").to_owned()
}

#[test]
fn a_hop_without_mt_priority_gets_the_priority_as_a_field_and_no_other() {
    let (plain, knowing) = (plain_sink(), sink());
    let site = Site::new().listener(FIELDS).peer("plain", "smtp", plain.address(), &["smtp.test"]).peer(
        "knowing",
        "smtp",
        knowing.address(),
        &["knowing.test"],
    );
    let switch = Switch::start(&site.tables());
    // Parameter and field, what the sink then has, and what our trace header says.
    let rows = [
        (" MT-PRIORITY=3", "", Some("3"), "PRIORITY 3 (flash)"),
        ("", "MT-Priority: 5 (ultra)\r\n", Some("5"), "(override by mt-priority 5)"),
        (" MT-PRIORITY=-4", "mt-priority : 9\r\n", Some("-4"), "PRIORITY -4 (deferred)"),
        ("", "MMHS-Primary-Precedence: FLASH\r\n", Some("4"), "(flash by mmhs-primary-precedence 4)"),
        // Two of them ask for nothing; they go all the same, and what holds stands in their place.
        ("", "MT-Priority: 9\r\nMT-Priority: 9\r\n", Some("-2"), "for <b@smtp.test>;"),
        ("", "Importance: high\r\n", None, "for <b@smtp.test>;"),
    ];
    for (count, (parameter, field, wanted, trace)) in (1..).zip(rows) {
        submit(&switch, parameter, field);
        assert!(plain.wait_for(count, PATIENCE));
        let content = contents(&plain).pop().expect("it has come");
        assert_eq!(fields_of(&content), Vec::from_iter(wanted), "{content}");
        assert!(content.contains(trace), "{content}");
        assert!(plain.received().iter().all(|receipt| receipt.priority.is_none()));
    }
    // RFC 6710, 4.2: also ordinary mail goes with its priority to who knows the extension, and stays as it is.
    let mut client = Client::greet(switch.address());
    let field = b"MT-Priority: 4\r\nSubject: x\r\n\r\nx\r\n";
    client.message("<a@sender.test>", &["b@knowing.test"], field);
    client.message("<a@sender.test>", &["b@knowing.test"], b"Subject: x\r\n\r\nx\r\n");
    assert!(knowing.wait_for(2, PATIENCE));
    let mut priorities: Vec<_> = knowing.received().iter().map(|receipt| receipt.priority).collect();
    priorities.sort_unstable();
    assert_eq!(priorities, [Some(-2), Some(4)]);
    assert_eq!(contents(&knowing).iter().flat_map(|content| fields_of(content)).collect::<Vec<_>>(), ["4"]);
}

#[test]
fn a_strangers_fields_say_nothing_to_a_hop_without_mt_priority() {
    let plain = plain_sink();
    // 127.0.0.1 is a stranger, 127.0.0.2 may ask for flash.
    let site = one_peer(plain.address())
        .without_client_networks()
        .listener("precedence_networks = [\"127.0.0.2 flash\"]")
        .listener(FIELDS);
    let switch = Switch::start(&site.tables());
    let header =
        "MMHS-Primary-Precedence: 5\r\nMMHS-Copy-Precedence: 1\r\nPriority: urgent\r\nX-Priority: 1\r\n";
    let content = format!("{header}Subject: x\r\n\r\nPriority: urgent\r\n");
    // Who sends it; what the hop is told and by which fields; what our trace header says.
    let rows = [
        (1, "-2", ["MMHS-Copy-Precedence: 1", "X-Priority: 1"].as_slice(), "for <b@smtp.test>;"),
        (
            2,
            "4",
            ["MMHS-Copy-Precedence: 1", "Priority: urgent", "X-Priority: 1"].as_slice(),
            "(flash by mmhs-primary-precedence 6, lowered)",
        ),
    ];
    for (count, (client, priority, fields, trace)) in (1..).zip(rows) {
        let (mut client, greeting) = Client::connect_from(Ipv4Addr::new(127, 0, 0, client), switch.address());
        assert!(greeting.starts_with("220 "), "{greeting}");
        client.expect("EHLO a.test", "250");
        client.message("<a@sender.test>", &["b@smtp.test"], content.as_bytes());
        assert!(plain.wait_for(count, PATIENCE));
        let content = contents(&plain).pop().expect("it has come");
        assert_eq!(fields_of(&content), [priority], "{content}");
        let (header, body) = content.split_once("\r\n\r\n").expect("a message has a body");
        let is_kept =
            |line: &&str| line.starts_with("MMHS-") || line.contains("riority:") && !line.starts_with("MT-");
        assert_eq!(header.lines().filter(is_kept).collect::<Vec<_>>(), fields, "{content}");
        assert!(content.contains(trace) && body == "Priority: urgent\r\n", "{content}");
    }
}

#[test]
fn a_large_message_by_bdat_keeps_its_priority_and_every_octet_of_its_body() {
    let plain = plain_sink();
    let site = one_peer(plain.address()).channel("bdat_octets_min = 0").listener(FIELDS);
    let switch = Switch::start(&site.tables());
    let body = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd\r\n".repeat(4_000);
    let content = format!("MT-Priority: 4\r\nSubject: large\r\n\r\n{body}");
    let reply =
        Client::greet(switch.address()).message("<a@sender.test>", &["b@smtp.test"], content.as_bytes());
    assert!(reply.starts_with("250 "), "{reply}");
    assert!(plain.wait_for(1, PATIENCE));
    let content = contents(&plain).remove(0);
    assert_eq!(fields_of(&content), ["4"]);
    assert!(content.starts_with("MT-Priority: 4\r\nReceived: "), "{:.200}", content);
    assert!(content.split_once("\r\n\r\n").is_some_and(|(_, rest)| rest == body));
    switch.wait_until_empty();
}

#[test]
fn a_flash_by_header_overtakes_and_that_of_a_stranger_does_not() {
    let slow = sink_with(|options| {
        options.delay = Duration::from_millis(60);
        options.without = vec![Extension::MtPriority];
    });
    let site = |networks: &str| {
        Site::new()
            .without_client_networks()
            .listener(networks)
            .listener(FIELDS)
            .peer_with("slow", "smtp", slow.address(), &["smtp.test"], "associations_max = 1\n")
            .tables()
    };
    let switch = Switch::start(&site("precedence_networks = [\"127.0.0.1/32 flash\"]"));
    let flash_comes_after = |routine: &str, wanted: u64| {
        let before = slow.counts().received;
        send(SourceOptions { messages_count: 40, ..to(switch.address(), &format!("{routine}%d@smtp.test")) });
        submit(&switch, "", "MT-Priority: 4\r\n");
        assert!(slow.wait_for(before + 41, PATIENCE));
        let received = slow.received();
        let place = received.iter().rposition(|receipt| receipt.recipients == ["b@smtp.test"]);
        let behind = received.len() - 1 - place.expect("it has come");
        u64::try_from(behind).is_ok_and(|behind| behind >= wanted)
    };
    assert!(flash_comes_after("trusted", 20), "the flash has overtaken half of the routine mail at least");
    switch.replace_tables(&site(""));
    wait_for("no grant", || {
        let shown = switch.ask(&["config", "show"]);
        let grants = &shown["configuration"]["listeners"][0]["precedence_networks"];
        grants.as_array().is_some_and(Vec::is_empty).then_some(())
    });
    assert!(!flash_comes_after("strange", 5), "a stranger's flash waits for its turn");
    let content = contents(&slow).pop().expect("it has come");
    assert_eq!(fields_of(&content), ["-2"], "what a stranger says of its mail goes to nobody: {content}");
}

#[test]
fn a_priority_goes_through_a_chain_of_switches_as_it_was_asked_for() {
    let last = plain_sink();
    let second = Switch::start(&one_peer(last.address()).tables());
    let first = Switch::start(&one_peer(second.address()).listener(FIELDS).tables());
    for (count, (parameter, field, wanted)) in (1..).zip([
        (" MT-PRIORITY=3", "", "3"),
        ("", "MT-Priority: -9\r\n", "-9"),
        (" MT-PRIORITY=9", "", "9"),
    ]) {
        submit(&first, parameter, field);
        assert!(last.wait_for(count, PATIENCE));
        let content = contents(&last).pop().expect("it has come");
        assert_eq!(fields_of(&content), [wanted], "{content}");
        // Both switches heard it by MAIL.
        let heard = content.matches(&format!("PRIORITY {wanted} (")).count();
        assert_eq!(heard, if parameter.is_empty() { 1 } else { 2 }, "{content}");
    }
}

#[test]
fn a_client_that_gets_less_than_it_has_asked_for_is_told_so() {
    let site = |lines: &str| one_peer(nobody()).listener(FIELDS).listener(lines).tables();
    let switch = Switch::start(&site("precedence_max = \"immediate\""));
    let rows = [
        (" MT-PRIORITY=6", "", "250 2.3.6 2 is the priority here", "immediate"),
        ("", "MT-Priority: 9\r\n", "250 2.3.6 2 is the priority here", "immediate"),
        (" MT-PRIORITY=1", "", "250 2.0.0 Ok: queued as ", "immediate"),
        ("", "Priority: non-urgent\r\n", "250 2.0.0 Ok: queued as ", "deferred"),
        ("", "", "250 2.0.0 Ok: queued as ", "routine"),
    ];
    for (parameter, field, reply, precedence) in rows {
        let said = submit(&switch, parameter, field);
        assert!(said.starts_with(reply) && said.contains("queued as "), "{said}");
        assert_eq!(precedence_of(&switch, &said), precedence, "{parameter} {field}");
    }
}

#[test]
fn another_policy_is_announced_and_has_its_own_levels_while_the_switch_runs() {
    let tables = one_peer(nobody()).tables();
    let with =
        |policy: &str| tables.replace("[node]\n", &format!("[node]\npriority_policy = \"{policy}\"\n"));
    let switch = Switch::start(&tables);
    let announced = || {
        let (mut client, _) = Client::connect(switch.address());
        let reply = client.expect("EHLO client.test", "250");
        reply.lines().last().map(str::to_owned).expect("EHLO has a reply")
    };
    assert_eq!(announced(), "250 MT-PRIORITY STANAG4406");
    // Policy, what MT-PRIORITY=1 is by it, and what is ordinary.
    for (policy, level, ordinary) in [("MIXER", "flash", "priority"), ("NSEP", "immediate", "priority")] {
        switch.replace_tables(&with(policy));
        wait_for("another policy", || announced().ends_with(policy).then_some(()));
        for (parameter, wanted) in [(" MT-PRIORITY=1", level), ("", ordinary)] {
            let said = submit(&switch, parameter, "");
            assert_eq!(precedence_of(&switch, &said), wanted, "{policy}{parameter}");
        }
    }
}

#[test]
fn swaks_asks_by_header_and_the_next_hop_sees_it() {
    let plain = plain_sink();
    let switch = Switch::start(&one_peer(plain.address()).listener(FIELDS).tables());
    let output = Command::new("swaks")
        .args(["--server", &switch.address().to_string(), "--helo", "client.test"])
        .args(["--from", "a@sender.test", "--to", "b@smtp.test"])
        .args(["--header", "MMHS-Primary-Precedence: 5 (override)"])
        .output()
        .expect("swaks is installed by .ci/packages");
    let dialogue = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{dialogue}");
    assert!(dialogue.contains("MT-PRIORITY STANAG4406"), "{dialogue}");
    assert!(plain.wait_for(1, PATIENCE));
    let content = contents(&plain).remove(0);
    assert_eq!(fields_of(&content), ["6"]);
    assert!(content.contains("(override by mmhs-primary-precedence 6)"), "{content}");
}

/// The connections of the only listener.
fn connections(switch: &Switch, keys: [&str; 4]) -> Option<[u64; 4]> {
    let status = switch.status_if_any()?;
    let listener = &status["qmgr"]["connections"][0];
    let numbers: Option<Vec<u64>> = keys.iter().map(|key| listener[*key].as_u64()).collect();
    numbers?.try_into().ok()
}

#[test]
fn connections_are_kept_for_who_may_ask_for_more_and_how_many_changes_while_the_switch_runs() {
    // 127.0.0.1 is a stranger, 127.0.0.2 may ask for flash and 127.0.0.3 for immediate.
    let site = |urgent: u32, normal: u32| {
        Site::new()
            .without_client_networks()
            .listener("precedence_networks = [\"127.0.0.2 flash\", \"127.0.0.3 immediate\"]")
            .listener("connections_max = 8")
            .listener(&format!(
                "connections_reserve_urgent = {urgent}\nconnections_reserve_normal = {normal}"
            ))
            .peer("mta", "smtp", nobody(), &["smtp.test"])
            .tables()
    };
    let switch = Switch::start(&site(2, 1));
    let server = switch.pid("smtp-server");
    let connect = |last: u8| Client::connect_from(Ipv4Addr::new(127, 0, 0, last), switch.address());
    let is_let_in = |greeting: &str| greeting.starts_with("220 ");
    let refusal = "421 4.3.2 too many connections, try again later";
    let mut open: Vec<_> = (0..5).map(|_| connect(1)).collect();
    assert!(open.iter().all(|(_, greeting)| is_let_in(greeting)));
    assert_eq!(connect(1).1, refusal);
    open.push(connect(3));
    assert!(is_let_in(&open[5].1), "the reserve for normal mail");
    assert_eq!((connect(1).1.as_str(), connect(3).1.as_str()), (refusal, refusal));
    open.push(connect(2));
    assert!(is_let_in(&open[6].1), "the reserve for urgent mail");
    let keys = ["non_urgent", "normal", "urgent", "refused"];
    wait_for("count of connections", || (connections(&switch, keys)? == [5, 1, 1, 3]).then_some(()));
    let keys = ["max", "max_for_normal", "max_for_non_urgent", "refused"];
    assert_eq!(connections(&switch, keys), Some([8, 6, 5, 3]));
    // Without reserves the last place is for anybody; nobody is disconnected for a change.
    switch.replace_tables(&site(0, 0));
    let stranger = wait_for("no reserve", || Some(connect(1)).filter(|(_, greeting)| is_let_in(greeting)));
    assert_eq!(connect(2).1, refusal);
    switch.replace_tables(&site(4, 0));
    wait_for("larger reserve", || (connections(&switch, keys)?[..3] == [8, 4, 4]).then_some(()));
    drop(stranger);
    wait_for("place", || Some(connect(2)).filter(|(_, greeting)| is_let_in(greeting)));
    assert_eq!(connect(1).1, refusal);
    open[0].0.expect("NOOP", "250");
    assert_eq!(switch.pid("smtp-server"), server);
    // Where nobody may ask for flash any more, nothing is kept for it, and status says so.
    switch.replace_tables(&site(4, 0).replace("\"127.0.0.2 flash\", ", ""));
    let not_kept = wait_for("listener without a reserve", || {
        let status = switch.status_if_any()?;
        let listener = &status["qmgr"]["connections"][0];
        let is_so = listener["max_for_non_urgent"] == 8;
        is_so.then(|| listener["not_kept"].as_str().unwrap_or_default().to_owned())
    });
    let wanted = "connections_reserve_urgent would help nobody: no client of this listener may ask for more than immediate";
    assert_eq!(not_kept, wanted);
    let problems = switch.status()["qmgr"]["configuration"]["problems"].to_string();
    assert!(problems.contains("sternpostConnectionsReserveUrgent"), "{problems}");
}
