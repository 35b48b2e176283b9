//! The resolver against a real name server (BIND) on loopback, and against servers that do not answer as they should.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here, with the place")]

mod name_server;

use name_server::{NameServer, file, tool};
use std::fmt::Write as _;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};
use sternpost_dns::{
    Answer, CacheBounds, Destinations, HostName, LookupFailure, NoDestination, Policy, Question, Reason,
    RecordKind, Remark, Resolver, SecurityStatus, Settings, SettingsError, Validation,
};

/// Head of a zone: negative answers hold for 60 s.
const SOA: &str = "$TTL 300\n@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\nns A 127.0.0.1\n";

const EXAMPLE: &str = "
two MX 20 b.two
two MX 10 a.two
a.two A 192.0.2.1
a.two AAAA 2001:db8::1
b.two A 192.0.2.2
host A 192.0.2.3
null MX 0 .
alias CNAME two
mxalias MX 10 hostalias
hostalias CNAME host
self MX 10 a.two
self MX 5 switch
switch A 192.0.2.4
literal MX 10 192.0.2.9.
far CNAME host.other.
text TXT \"neither MX nor address\"
loop1 CNAME loop2
loop2 CNAME loop1
dangling CNAME gone
short 1 MX 10 host
";

fn settings(name_servers: &[SocketAddr]) -> Settings {
    Settings { name_servers: name_servers.to_vec(), ..Settings::default() }
}

/// For servers that do not answer: what a test waits for is their silence.
fn impatient(name_servers: &[SocketAddr]) -> Settings {
    Settings { attempt_timeout: Duration::from_millis(200), attempts: 2, ..settings(name_servers) }
}

fn policy() -> Policy {
    Policy { own_names: [HostName::parse("switch.example").unwrap()].into(), ..Policy::default() }
}

fn question(name: &str, kind: RecordKind) -> Question {
    Question { name: HostName::parse(name).unwrap(), kind }
}

/// `10 mx.example 192.0.2.1; 20 …`, or status and reason.
fn told(result: &Result<Destinations, NoDestination>) -> String {
    match result {
        Err(nowhere) => format!("{} {nowhere}", nowhere.status()),
        Ok(found) => {
            let mut hosts = Vec::new();
            for exchanger in &found.exchangers {
                let name = exchanger.name.as_ref().map_or("literal", HostName::as_str);
                let mut host = format!("{} {name}", exchanger.origin.preference());
                exchanger.addresses.iter().for_each(|address| write!(host, " {address}").unwrap());
                hosts.push(host);
            }
            hosts.join("; ")
        }
    }
}

#[tokio::test]
async fn a_real_name_server_leads_mail_where_its_zones_say() {
    let example = format!("{SOA}{EXAMPLE}");
    let other = format!("{SOA}host A 192.0.2.5\n");
    let server = NameServer::start(&[("example.", &example), ("other.", &other), ("broken.", "")]);
    let resolver = Resolver::new(&settings(&[server.address])).unwrap();
    let rows = [
        ("two.example", "10 a.two.example 2001:db8::1 192.0.2.1; 20 b.two.example 192.0.2.2"),
        ("host.example", "0 host.example 192.0.2.3"),
        ("null.example", "5.1.10 the domain takes no mail (null MX)"),
        ("alias.example", "10 a.two.example 2001:db8::1 192.0.2.1; 20 b.two.example 192.0.2.2"),
        ("mxalias.example", "10 hostalias.example 192.0.2.3"),
        ("far.example", "0 far.example 192.0.2.5"),
        (
            "self.example",
            "5.4.6 mail would loop: by its records this switch takes the mail of the domain, and has no route for it",
        ),
        ("literal.example", "5.4.4 no mail exchanger of the domain can be used"),
        ("text.example", "5.4.4 the domain has neither a mail exchanger nor an address"),
        ("gone.example", "5.1.2 the domain does not exist"),
        ("dangling.example", "5.1.2 the domain does not exist"),
    ];
    for (domain, expected) in rows {
        assert_eq!(told(&resolver.destinations(domain, &policy(), 0).await), expected, "{domain}");
    }
    for domain in ["a.broken", "not.served"] {
        let nowhere = resolver.destinations(domain, &policy(), 0).await.unwrap_err();
        assert!(nowhere.is_transient(), "{domain}: {nowhere}");
        let Reason::LookupFailed(_, LookupFailure::Refused(code)) = &nowhere.reason else {
            panic!("{domain}: {nowhere:?}")
        };
        assert!(!code.is_empty());
    }
    // Two names that stand for each other have no records; that it ends is what counts.
    let nowhere = resolver.destinations("loop1.example", &policy(), 0).await.unwrap_err();
    assert!(matches!(nowhere.status().class, 4 | 5), "{nowhere:?}");
}

#[tokio::test]
async fn an_alias_is_told_with_the_name_that_has_the_records() {
    let server = NameServer::start(&[("example.", &format!("{SOA}{EXAMPLE}"))]);
    let resolver = Resolver::new(&settings(&[server.address])).unwrap();
    let found = resolver.destinations("mxalias.example", &policy(), 0).await.unwrap();
    assert_eq!(found.exchangers[0].canonical.as_deref(), Some("host.example"));
    let name = HostName::parse("hostalias.example").unwrap();
    assert_eq!(found.remarks, [Remark::Alias { name, canonical: "host.example".to_owned() }]);
}

#[tokio::test]
async fn an_answer_is_asked_for_once_while_it_holds_and_again_when_it_is_stale() {
    let server = NameServer::start(&[("example.", &format!("{SOA}{EXAMPLE}")), ("broken.", "")]);
    let resolver = Resolver::new(&settings(&[server.address])).unwrap();
    let ask = async |name| resolver.ask(&question(name, RecordKind::Mx)).await;
    for name in ["two.example", "gone.example", "host.example", "a.broken"] {
        let first = ask(name).await;
        let (asked, _) = server.questions(name, "MX", 1);
        for _ in 0..5 {
            assert_eq!(ask(name).await, first);
        }
        assert_eq!(server.questions(name, "MX", 1).0, asked, "{name}");
    }
    // Its TTL is 1 s.
    ask("short.example").await;
    assert_eq!(server.questions("short.example", "MX", 1).0, 1);
    let start = Instant::now();
    while server.questions("short.example", "MX", 1).0 == 1 {
        assert!(start.elapsed() < Duration::from_secs(60), "the answer is never stale");
        tokio::time::sleep(Duration::from_millis(100)).await;
        ask("short.example").await;
    }
}

#[tokio::test]
async fn an_answer_that_is_truncated_is_asked_for_again_by_tcp_and_its_best_records_are_kept() {
    let mut zone = SOA.to_owned();
    for number in (0..90).rev() {
        writeln!(zone, "big MX {number} a-mail-exchanger-with-a-long-name-{number}.big").unwrap();
        writeln!(zone, "a-mail-exchanger-with-a-long-name-{number}.big A 192.0.2.{number}").unwrap();
    }
    let server = NameServer::start(&[("example.", &zone)]);
    let resolver = Resolver::new(&settings(&[server.address])).unwrap();
    let found = resolver.destinations("big.example", &policy(), 0).await.unwrap();
    let preferences: Vec<_> = found.exchangers.iter().map(|host| host.origin.preference()).collect();
    assert_eq!(preferences, Vec::from_iter(0..16));
    assert_eq!(server.questions("big.example", "MX", 2), (2, 1));
}

#[tokio::test]
async fn a_server_that_never_answers_makes_the_mail_wait_after_every_attempt() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    silent.set_nonblocking(true).unwrap();
    let resolver = Resolver::new(&impatient(&[silent.local_addr().unwrap()])).unwrap();
    let nowhere = resolver.destinations("host.example", &policy(), 0).await.unwrap_err();
    let asked = question("host.example", RecordKind::Mx);
    assert_eq!(nowhere.reason, Reason::LookupFailed(asked, LookupFailure::Timeout));
    assert_eq!(nowhere.status().to_string(), "4.4.3");
    let mut datagrams = 0;
    while silent.recv(&mut [0; 512]).is_ok() {
        datagrams += 1;
    }
    assert!(datagrams >= 2, "{datagrams}");
}

#[tokio::test]
async fn the_time_for_a_question_ends_it_whatever_the_attempts_may_take() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let settings = Settings {
        attempt_timeout: Duration::from_secs(3600),
        question_timeout: Duration::from_millis(200),
        ..settings(&[silent.local_addr().unwrap()])
    };
    let answer = Resolver::new(&settings).unwrap().ask(&question("host.example", RecordKind::A)).await;
    assert_eq!(answer, Answer::Failed(LookupFailure::Timeout));
}

#[tokio::test]
async fn a_second_name_server_answers_when_the_first_one_is_silent() {
    let silent = UdpSocket::bind("127.0.0.2:0").unwrap();
    let server = NameServer::start(&[("example.", &format!("{SOA}{EXAMPLE}"))]);
    let servers = [silent.local_addr().unwrap(), server.address];
    let resolver = Resolver::new(&settings(&servers)).unwrap();
    let told = told(&resolver.destinations("host.example", &policy(), 0).await);
    assert_eq!(told, "0 host.example 192.0.2.3");
}

#[tokio::test]
async fn a_server_that_nobody_runs_makes_the_mail_wait() {
    let gone = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let resolver = Resolver::new(&impatient(&[gone])).unwrap();
    let nowhere = resolver.destinations("host.example", &policy(), 0).await.unwrap_err();
    assert!(nowhere.is_transient(), "{nowhere:?}");
}

/// Answers each question with what `damage` makes of it.
fn damaging_server(damage: fn(&mut Vec<u8>)) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut octets = [0; 4096];
        while let Ok((length, client)) = socket.recv_from(&mut octets) {
            let mut answer = octets[..length].to_vec();
            damage(&mut answer);
            drop(socket.send_to(&answer, client));
        }
    });
    address
}

#[tokio::test]
async fn what_is_no_answer_makes_the_mail_wait_and_stops_nobody() {
    let damages: [fn(&mut Vec<u8>); 6] = [
        // The question itself; an answer without octets; one that is cut; another identifier; an answer that counts more records
        // than it has; one whose records are noise.
        |_| {},
        Vec::clear,
        |answer| answer.truncate(9),
        |answer| answer[0] ^= 0xff,
        |answer| {
            answer[2] |= 0x80;
            answer[7] = 200;
        },
        |answer| {
            answer[2] |= 0x80;
            answer[7] = 1;
            answer.extend([0xc0, 0x0c, 0, 15, 0, 1, 0, 0, 0, 9, 0xff, 0xff, 1, 2, 3]);
        },
    ];
    for (number, damage) in damages.into_iter().enumerate() {
        let resolver = Resolver::new(&impatient(&[damaging_server(damage)])).unwrap();
        let answer = resolver.ask(&question("host.example", RecordKind::Mx)).await;
        assert!(matches!(answer, Answer::Failed(_)), "{number}: {answer:?}");
    }
}

#[tokio::test]
async fn rfc_6761_a_question_for_localhost_leaves_this_host_never() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    silent.set_nonblocking(true).unwrap();
    let resolver = Resolver::new(&impatient(&[silent.local_addr().unwrap()])).unwrap();
    for (domain, status) in [("localhost", "5.4.6"), ("a.localhost", "5.4.6"), ("mail.invalid", "5.1.2")] {
        let nowhere = resolver.destinations(domain, &policy(), 0).await.unwrap_err();
        assert_eq!(nowhere.status().to_string(), status, "{domain}");
    }
    assert!(silent.recv(&mut [0; 512]).is_err(), "nothing was asked");
}

/// Runs a program of BIND in `folder` and gives what it prints.
fn run(folder: &Path, name: &str, arguments: &[&str]) -> String {
    let output = tool(name)
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap_or_else(|error| panic!("{name}: {error}; run .ci/packages"));
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Makes keys for a zone, signs it, and gives the DNSKEY record that is the key of its keys.
fn sign(folder: &Path, origin: &str, zone: &str) -> String {
    fs::write(folder.join("unsigned"), zone).unwrap();
    let key = ["-q", "-a", "ECDSAP256SHA256", "-n", "ZONE"];
    run(folder, "dnssec-keygen", &[&key[..], &[origin]].concat());
    let name = run(folder, "dnssec-keygen", &[&key[..], &["-f", "KSK", origin]].concat());
    run(folder, "dnssec-signzone", &["-q", "-S", "-g", "-o", origin, "-f", &file(origin), "unsigned"]);
    let text = fs::read_to_string(folder.join(format!("{name}.key"))).unwrap();
    text.lines().filter(|line| !line.starts_with(';')).collect()
}

#[tokio::test]
async fn answers_are_proven_from_the_trust_anchor_and_bogus_ones_make_the_mail_wait() {
    let folder = tempfile::tempdir().unwrap();
    let zone = |address| format!("{SOA}two MX 10 host\nhost A {address}\ntext TXT \"no mail\"\n");
    sign(folder.path(), "signed.", &zone("192.0.2.1"));
    sign(folder.path(), "forged.", &zone("192.0.2.66"));
    let forged = folder.path().join(file("forged."));
    let text = fs::read_to_string(&forged).unwrap();
    assert!(text.contains("192.0.2.66"));
    fs::write(&forged, text.replace("192.0.2.66", "192.0.2.67")).unwrap();
    fs::write(folder.path().join(file("plain.")), zone("192.0.2.3")).unwrap();
    let mut root = SOA.to_owned();
    for child in ["signed", "forged", "plain"] {
        writeln!(root, "{child} NS ns.{child}.\nns.{child}. A 127.0.0.1").unwrap();
    }
    let anchor = sign(folder.path(), ".", &root);
    let server = NameServer::start_in(folder, &[".", "signed.", "forged.", "plain."]);

    let validating = Settings { validation: Validation::TrustAnchors(anchor), ..settings(&[server.address]) };
    let resolver = Resolver::new(&validating).unwrap();
    let statuses = |found: &Destinations| {
        let exchanger = &found.exchangers[0];
        (exchanger.exchanger_status, exchanger.address_status)
    };
    for (domain, status) in [
        ("two.signed", SecurityStatus::Secure),
        // Here it is the proof that there is no MX record which is secure.
        ("host.signed", SecurityStatus::Secure),
        ("two.plain", SecurityStatus::Insecure),
        ("host.plain", SecurityStatus::Insecure),
    ] {
        let found = resolver.destinations(domain, &policy(), 0).await;
        let found = found.unwrap_or_else(|nowhere| panic!("{domain}: {nowhere:?}"));
        assert_eq!(statuses(&found), (status, status), "{domain}");
    }
    for domain in ["gone.signed", "gone.plain"] {
        let nowhere = resolver.destinations(domain, &policy(), 0).await.unwrap_err();
        assert_eq!(nowhere.reason, Reason::NoSuchDomain, "{domain}");
    }
    let nowhere = resolver.destinations("two.forged", &policy(), 0).await.unwrap_err();
    let asked = question("host.forged", RecordKind::A);
    assert_eq!(nowhere.reason, Reason::LookupFailed(asked, LookupFailure::Bogus));
    // The proof that a signed name does not exist is kept like any other answer.
    let (asked, _) = server.questions("gone.signed", "MX", 1);
    resolver.ask(&question("gone.signed", RecordKind::Mx)).await;
    assert_eq!(server.questions("gone.signed", "MX", 1).0, asked);

    let trusting = Resolver::new(&settings(&[server.address])).unwrap();
    let found = trusting.destinations("two.forged", &policy(), 0).await.unwrap();
    assert_eq!(statuses(&found), (SecurityStatus::Indeterminate, SecurityStatus::Indeterminate));
}

#[test]
fn settings_that_make_no_resolver_say_what_is_wrong_and_what_to_give() {
    let server = SocketAddr::from(([127, 0, 0, 1], 53));
    let good = settings(&[server]);
    let zero = Duration::ZERO;
    let cache = |cache| Settings { cache, ..good.clone() };
    let anchors =
        |text: &str| Settings { validation: Validation::TrustAnchors(text.to_owned()), ..good.clone() };
    let rows = [
        (settings(&[]), "no name server is configured: give the address of at least one"),
        (
            settings(&[SocketAddr::from(([127, 0, 0, 1], 0))]),
            "127.0.0.1:0 cannot be a name server: give an address and a port that are not 0",
        ),
        (Settings { attempt_timeout: zero, ..good.clone() }, "attempt_timeout is 0: give at least 1"),
        (Settings { attempts: 0, ..good.clone() }, "attempts is 0: give at least 1"),
        (Settings { question_timeout: zero, ..good.clone() }, "question_timeout is 0: give at least 1"),
        (Settings { questions_max: 0, ..good.clone() }, "questions_max is 0: give at least 1"),
        (
            cache(CacheBounds { ttl_max: zero, ttl_min: Duration::from_secs(1), ..CacheBounds::default() }),
            "ttl_min is larger than ttl_max: no time would be within both",
        ),
        (
            cache(CacheBounds { failure_ttl: Duration::from_secs(301), ..CacheBounds::default() }),
            "failure_ttl is 301 s: give 1 s to 300 s (RFC 9520)",
        ),
        (
            anchors(""),
            "there is no trust anchor: give DNSKEY records of the root zone, or switch validation off",
        ),
        (
            anchors(". IN DS 20326 8 2 E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D"),
            "the trust anchors cannot be read: give DNSKEY records of the root zone, one a line",
        ),
    ];
    for (settings, expected) in rows {
        let error: SettingsError = Resolver::new(&settings).map(drop).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}
