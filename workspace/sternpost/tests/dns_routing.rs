//! Mail that goes where the DNS says, and to groups of hosts: a real name server (BIND) on loopback, and a sink for each host that it names.

#[path = "../../dns/tests/name_server/mod.rs"]
#[allow(dead_code, reason = "each file of tests uses its own part of the name server")]
mod name_server;
mod switch;

use name_server::NameServer;
use serde_json::Value;
use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr};
use sternpost_load::sink::{Sink, SinkOptions};
use switch::client::Client;
use switch::mail::{sink, sink_with};
use switch::report::StatusReport;
use switch::site::Site;
use switch::{PATIENCE, Switch, wait_for};

/// Head of a zone: negative answers hold for 1 s, all others as long.
const SOA: &str = "$TTL 1\n@ SOA ns hostmaster 1 3600 600 86400 1\n@ NS ns\nns A 127.0.0.1\n";
const HELLO: &[u8] = b"Subject: hello\r\n\r\nhello\r\n";
const HOSTS: [Ipv4Addr; 3] =
    [Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3), Ipv4Addr::new(127, 0, 0, 4)];

/// A free port of the first host that is free at the others too: mail exchangers all have one port.
fn common_port() -> u16 {
    wait_for("port that is free everywhere", || {
        let first = std::net::TcpListener::bind((HOSTS[0], 0)).ok()?;
        let port = first.local_addr().ok()?.port();
        HOSTS[1..].iter().all(|host| std::net::TcpListener::bind((*host, port)).is_ok()).then_some(port)
    })
}

/// A mail exchanger.
fn exchanger(host: Ipv4Addr, port: u16, change: impl Fn(&mut SinkOptions)) -> Sink {
    wait_for("port that is free again", || {
        let listen = SocketAddr::from((host, port));
        let mut options = SinkOptions { listen, keep_content: true, ..SinkOptions::default() };
        change(&mut options);
        Sink::start(options).ok()
    })
}

/// The zone `test.` with `mx1`, `mx2` and `mx3` at the hosts.
fn zone(lines: &str) -> String {
    let mut zone = SOA.to_owned();
    for (number, host) in (1..).zip(HOSTS) {
        writeln!(zone, "mx{number} A {host}").expect("a String takes every text");
    }
    zone + lines
}

/// Everything goes by DNS but what other peers have routes for.
fn by_dns(name_server: SocketAddr, port: u16) -> Site {
    Site::new().peer_by_dns(
        "internet",
        name_server,
        &["*"],
        &format!("dns_port = {port}\ndns_loopback = true\npeer_tls = \"none\""),
    )
}

fn send(switch: &Switch, recipients: &[&str]) {
    let reply = Client::greet(switch.address()).message("<sender@sender.test>", recipients, HELLO);
    assert!(reply.starts_with("250 "), "{reply}");
}

/// The only message of the queue in full, once its recipient has been tried.
fn tried(switch: &Switch) -> Value {
    wait_for("attempt that has ended", || {
        let list = switch.ask(&["queue", "list"]);
        let id = list[0]["id"].as_str()?.to_owned();
        let shown = switch.ask(&["queue", "show", &id]);
        (!shown["recipients"][0]["last"].is_null()).then_some(shown)
    })
}

/// The peers of the channel that stand for a domain.
fn domains(status: &Value) -> Vec<String> {
    let channels = status["qmgr"]["scheduler"]["channels"].as_array().expect("QMGR has channels");
    let smtp = channels.iter().find(|channel| channel["name"] == "smtp").expect("the channel is configured");
    let names = smtp["peers"].as_array().expect("a channel has peers").iter();
    let names = names.filter_map(|peer| peer["name"].as_str());
    names.filter(|name| name.starts_with("internet:") && *name != "internet:").map(str::to_owned).collect()
}

#[test]
fn mail_goes_to_the_best_exchanger_and_to_the_next_one_when_that_does_not_work() {
    let server = NameServer::start(&[("test.", &zone("far MX 20 mx2\nfar MX 10 mx1\nfar MX 30 mx3\n"))]);
    let port = common_port();
    let (first, second) = (exchanger(HOSTS[0], port, |_| {}), exchanger(HOSTS[1], port, |_| {}));
    let switch = Switch::start(&by_dns(server.address, port).tables());
    send(&switch, &["a@far.test"]);
    assert!(first.wait_for(1, PATIENCE));
    switch.wait_until_empty();
    assert_eq!((first.counts().received, second.counts().received), (1, 0));
    // Nobody listens there.
    drop(first);
    send(&switch, &["b@far.test"]);
    assert!(second.wait_for(1, PATIENCE));
    // It listens, and greets with 421.
    let first = exchanger(HOSTS[0], port, |options| options.connections_max = Some(0));
    send(&switch, &["c@far.test"]);
    assert!(second.wait_for(2, PATIENCE));
    switch.wait_until_empty();
    assert_eq!((first.counts().received, second.counts().received), (0, 2));
    // None of it was an attempt that failed.
    assert!(!switch.log().contains("event=\"peer.failed\""), "a peer with a host that works has not failed");
}

#[test]
fn mail_waits_with_the_words_of_every_host_and_of_the_record_that_led_there() {
    let server = NameServer::start(&[("test.", &zone("far MX 10 mx1\nfar MX 20 mx2\n"))]);
    let port = common_port();
    let switch = Switch::start(&by_dns(server.address, port).tables());
    send(&switch, &["a@far.test"]);
    let shown = tried(&switch);
    let recipient = &shown["recipients"][0];
    let last = recipient["last"].as_str().expect("it was tried");
    for (host, preference) in [("mx1", 10), ("mx2", 20)] {
        let address = if host == "mx1" { HOSTS[0] } else { HOSTS[1] };
        let words = format!("{host}.test ({address}:{port}, MX {preference} of far.test)");
        assert!(last.contains(&words), "{last}");
    }
    assert_eq!(recipient["peer"], "internet:far.test");
    assert!(recipient["remote"].as_str().is_some_and(|remote| remote.starts_with("mx2.test (")), "{shown}");
    let (first, _second) = (exchanger(HOSTS[0], port, |_| {}), exchanger(HOSTS[1], port, |_| {}));
    assert!(first.wait_for(1, PATIENCE));
    switch.wait_until_empty();
}

#[test]
fn exchangers_of_equal_preference_share_the_domains_and_names_are_forgotten_with_their_mail() {
    let server = NameServer::start(&[("test.", &zone("*.equal MX 10 mx1\n*.equal MX 10 mx2\n"))]);
    let port = common_port();
    let switch = Switch::start(&by_dns(server.address, port).tables());
    // 24 domains: that one host gets them all is as likely as 23 equal throws of a coin.
    let recipients: Vec<String> = (0..24).map(|number| format!("a@d{number}.equal.test")).collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    send(&switch, &recipients);
    let named = switch.wait_for_status("24 domains in the tree", |status| {
        let named = domains(status);
        (named.len() == recipients.len()).then_some(named)
    });
    assert!(named.contains(&"internet:d7.equal.test".to_owned()), "{named:?}");
    let (first, second) = (exchanger(HOSTS[0], port, |_| {}), exchanger(HOSTS[1], port, |_| {}));
    switch.wait_until_empty();
    let counts = (first.counts().received, second.counts().received);
    assert_eq!(counts.0 + counts.1, 24);
    assert!(counts.0 > 0 && counts.1 > 0, "{counts:?}");
    switch.wait_for_status("tree without domains", |status| domains(status).is_empty().then_some(()));
}

#[test]
fn a_domain_without_mx_is_its_own_host_and_an_address_literal_is_the_host() {
    let server = NameServer::start(&[("test.", &zone("alias CNAME mx1\n"))]);
    let port = common_port();
    let host = exchanger(HOSTS[0], port, |_| {});
    let switch = Switch::start(&by_dns(server.address, port).tables());
    send(&switch, &["a@mx1.test", "b@alias.test", "c@[127.0.0.2]"]);
    assert!(host.wait_for(3, PATIENCE));
    let mut recipients: Vec<_> = host.received().into_iter().flat_map(|receipt| receipt.recipients).collect();
    recipients.sort();
    assert_eq!(recipients, ["a@mx1.test", "b@alias.test", "c@[127.0.0.2]"]);
}

#[test]
fn a_domain_that_takes_no_mail_or_does_not_exist_or_leads_back_here_is_reported_at_once() {
    let lines = "null MX 0 .\nloop MX 10 switch\nself MX 10 here\nhere A 127.0.0.1\nbare TXT \"neither MX nor address\"\n";
    let server = NameServer::start(&[("test.", &zone(lines))]);
    let senders = sink();
    let site = by_dns(server.address, common_port());
    let site = site.peer("senders", "smtp", senders.address(), &["sender.test"]);
    let switch = Switch::start(&site.tables());
    let rows = [
        ("a@null.test", "5.1.10", "null MX"),
        ("a@gone.test", "5.1.2", "does not exist"),
        ("a@loop.test", "5.4.6", "switch.test is a name of this switch"),
        ("a@self.test", "5.4.6", "127.0.0.1"),
        ("a@bare.test", "5.4.4", "neither a mail exchanger nor an address"),
    ];
    for (count, (recipient, status, words)) in (1..).zip(rows) {
        send(&switch, &[recipient]);
        assert!(senders.wait_for(count, PATIENCE), "no report on {recipient}");
        let received = senders.received();
        let content = received.last().and_then(|receipt| receipt.content.clone());
        let report = StatusReport::read(&content.expect("the sink keeps content"));
        assert_eq!(report.about(recipient), ("failed", status));
        // The text is folded.
        let text = report.text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(words), "{text}");
    }
    switch.wait_until_empty();
    assert!(!switch.log().contains("event=\"peer.failed\""), "no peer has failed");
}

#[test]
fn mail_waits_while_the_dns_fails_and_goes_when_it_works_again() {
    let port = common_port();
    let host = exchanger(HOSTS[0], port, |_| {});
    // A zone without text has no file: every question gives SERVFAIL.
    let broken = NameServer::start(&[("test.", "")]);
    let switch = Switch::start(&by_dns(broken.address, port).tables());
    send(&switch, &["a@far.test"]);
    let last = tried(&switch)["recipients"][0]["last"].as_str().map(str::to_owned);
    let last = last.expect("it was tried");
    assert!(
        last.contains("4.4.3") && last.contains("MX of far.test") && last.contains("Server Failure"),
        "{last}"
    );
    let server = NameServer::start(&[("test.", &zone("far MX 10 mx1\n"))]);
    switch.replace_tables(&by_dns(server.address, port).tables());
    assert!(host.wait_for(1, PATIENCE));
    switch.wait_until_empty();
}

#[test]
fn a_route_of_the_site_goes_before_the_dns_and_strangers_may_not_use_the_dns() {
    let lines = "pinned MX 10 mx1\nfar MX 10 mx1\n";
    let server = NameServer::start(&[("test.", &zone(lines))]);
    let port = common_port();
    let (host, pinned) = (exchanger(HOSTS[0], port, |_| {}), sink_with(|_| {}));
    let site = by_dns(server.address, port).peer("pinned", "smtp", pinned.address(), &["pinned.test"]);
    let switch = Switch::start(&site.tables());
    send(&switch, &["a@pinned.test", "b@far.test"]);
    assert!(pinned.wait_for(1, PATIENCE) && host.wait_for(1, PATIENCE));
    switch.wait_until_empty();
    assert_eq!((pinned.counts().received, host.counts().received), (1, 1));
    switch.replace_tables(&site.without_client_networks().tables());
    wait_for("refusal", || {
        let mut client = Client::greet(switch.address());
        client.expect("MAIL FROM:<sender@sender.test>", "250");
        client.send(b"RCPT TO:<c@far.test>\r\n");
        client.reply().starts_with("550 5.7.1 ").then_some(())
    });
}

#[test]
fn what_is_asked_of_tls_for_the_peer_holds_for_every_host_of_every_domain() {
    let server = NameServer::start(&[("test.", &zone("far MX 10 mx1\nfar MX 20 mx2\n"))]);
    let port = common_port();
    // Neither offers STARTTLS.
    let (first, second) = (exchanger(HOSTS[0], port, |_| {}), exchanger(HOSTS[1], port, |_| {}));
    let lines = format!("dns_port = {port}\ndns_loopback = true\npeer_tls = \"required\"");
    let site = Site::new().peer_by_dns("internet", server.address, &["*"], &lines);
    let switch = Switch::start(&site.tables());
    send(&switch, &["a@far.test"]);
    let shown = tried(&switch);
    let (last, remote) = (&shown["recipients"][0]["last"], &shown["recipients"][0]["remote"]);
    assert!(last.as_str().is_some_and(|last| last.contains("TLS")), "{shown}");
    assert!(remote.as_str().is_some_and(|remote| remote.starts_with("mx2.test (")), "{shown}");
    assert_eq!((first.counts().received, second.counts().received), (0, 0));
    switch.replace_tables(&by_dns(server.address, port).tables());
    assert!(first.wait_for(1, PATIENCE));
}

#[test]
fn a_group_falls_back_as_its_hosts_die_and_says_what_each_of_them_said_when_none_is_left() {
    let port = common_port();
    let first = exchanger(HOSTS[0], port, |_| {});
    let second = exchanger(HOSTS[1], port, |_| {});
    let host = |preference, at: usize| format!("{preference} 1 {}:{port}", HOSTS[at]);
    let site = Site::new().group("smart", &["*"], &[host(20, 1), host(10, 0)]);
    let switch = Switch::start(&site.tables());
    for (number, takes) in (0..).zip([&first, &first]) {
        send(&switch, &[&format!("a{number}@far.test")]);
        assert!(takes.wait_for(number + 1, PATIENCE));
    }
    assert_eq!(second.counts().received, 0);
    drop(first);
    send(&switch, &["b@far.test"]);
    assert!(second.wait_for(1, PATIENCE));
    switch.wait_until_empty();
    assert!(!switch.log().contains("event=\"peer.failed\""), "a group with a host that works has not failed");
    drop(second);
    send(&switch, &["c@far.test"]);
    let last = tried(&switch)["recipients"][0]["last"].as_str().map(str::to_owned);
    let last = last.expect("it was tried");
    for (preference, at) in [(10, 0), (20, 1)] {
        let words = format!("smart ({}:{port}, preference {preference}, weight 1)", HOSTS[at]);
        assert!(last.contains(&words), "{last}");
    }
    let second = exchanger(HOSTS[1], port, |_| {});
    assert!(second.wait_for(1, PATIENCE));
}
