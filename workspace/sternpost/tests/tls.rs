//! TLS in both directions: with swaks and openssl, and between two switches.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here, with the place")]

mod switch;

use rcgen::KeyPair;
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use sternpost_load::sink::Sink;
use switch::client::Client;
use switch::credentials::{Authority, put, switch_with, wait_for_log};
use switch::mail::sink;
use switch::site::Site;
use switch::{PATIENCE, Switch, signal, text, wait_for};

fn swaks(address: SocketAddr, arguments: &[&str]) -> Output {
    Command::new("swaks")
        .args(["--server", &address.to_string(), "--helo", "client.test", "--from", "a@sender.test"])
        .args(["--to", "b@smtp.test", "--body", "over the line"])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("swaks is installed by .ci/packages")
}

/// What `openssl s_client` finds; it says QUIT inside TLS.
fn s_client(address: SocketAddr, ca: &Path, arguments: &[&str]) -> Output {
    let mut client = Command::new("openssl")
        .args(["s_client", "-connect", &address.to_string(), "-servername", "switch.test"])
        .args(["-verify_hostname", "switch.test", "-verify_return_error", "-ign_eof", "-CAfile"])
        .arg(ca)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl is installed by .ci/packages");
    client.stdin.take().unwrap().write_all(b"QUIT\r\n").unwrap();
    client.wait_with_output().unwrap()
}

fn header_of(sink: &Sink) -> String {
    let received = sink.received();
    let content = received.last().unwrap().content.clone().expect("the sink keeps content");
    String::from_utf8(content).unwrap()
}

#[test]
fn a_client_that_asks_for_tls_gets_it_and_the_trace_header_says_so() {
    let (authority, smtp) = (Authority::new("authority"), sink());
    let switch = switch_with(&authority, &Site::new().peer("mta", "smtp", smtp.address(), &["smtp.test"]));
    let output = swaks(switch.address(), &["--tls"]);
    let dialogue = text(&output.stdout);
    assert!(output.status.success() && dialogue.contains("TLS started"), "{dialogue}");
    assert!(smtp.wait_for(1, PATIENCE));
    let header = header_of(&smtp);
    assert!(header.contains("with ESMTPS id ") && header.contains("tls TLS_"), "{header}");
    // In the clear as before: nobody is forced.
    let output = swaks(switch.address(), &[]);
    assert!(output.status.success(), "{}", text(&output.stdout));
    assert!(smtp.wait_for(2, PATIENCE));
    assert!(header_of(&smtp).contains("with ESMTP id "));
}

#[test]
fn openssl_verifies_the_chain_and_the_name_in_both_versions_by_starttls_and_from_the_first_octet() {
    let authority = Authority::new("authority");
    for (line, start) in [("tls = \"offered\"", &["-starttls", "smtp"][..]), ("tls = \"immediate\"", &[])] {
        let switch = switch_with(&authority, &Site::new().listener(line));
        let ca = switch.home().join("ca.pem");
        fs::write(&ca, &authority.certificate).unwrap();
        for version in ["-tls1_2", "-tls1_3"] {
            let output = s_client(switch.address(), &ca, &[start, &[version]].concat());
            let said = text(&output.stdout);
            assert!(
                said.contains("Verify return code: 0 (ok)") && said.contains("221 2.0.0"),
                "{line} {version}: {said}"
            );
        }
        let output = s_client(switch.address(), &ca, &[start, &["-tls1_1"]].concat());
        assert!(!text(&output.stdout).contains("221 2.0.0"));
    }
}

#[test]
fn a_listener_that_requires_tls_takes_no_mail_without() {
    let (authority, smtp) = (Authority::new("authority"), sink());
    let site = Site::new().listener("tls = \"required\"").peer("mta", "smtp", smtp.address(), &["smtp.test"]);
    let switch = Switch::start(&(site.tables() + &authority.trust()));
    // The credential is not there: nobody gets in, and is told to come again.
    let mut client = Client::greet(switch.address());
    client.expect("MAIL FROM:<a@sender.test>", "530 5.7.0");
    client.expect("STARTTLS", "454 4.7.0");
    client.expect("MAIL FROM:<a@sender.test>", "451 4.7.0");
    drop(client);
    put(&switch, "default", &authority.credential("switch.test"));
    wait_for_log(&switch, "usable=\"default\"");
    let output = swaks(switch.address(), &[]);
    assert!(
        !output.status.success() && text(&output.stdout).contains("530 5.7.0"),
        "{}",
        text(&output.stdout)
    );
    let output = swaks(switch.address(), &["--tls"]);
    assert!(output.status.success(), "{}", text(&output.stdout));
    assert!(smtp.wait_for(1, PATIENCE));
}

#[test]
fn a_listener_that_requires_certificates_takes_those_of_its_trust_and_no_other() {
    let (authority, stranger, smtp) = (Authority::new("authority"), Authority::new("stranger"), sink());
    let line = "tls = \"required\"\ntls_client_certificates = \"required\"";
    let site = Site::new().listener(line).peer("mta", "smtp", smtp.address(), &["smtp.test"]);
    let switch = switch_with(&authority, &site);
    let home = switch.home();
    for (name, of) in [("good", &authority), ("bad", &stranger)] {
        fs::write(home.join(name), of.credential("client.test")).unwrap();
    }
    let with = |name: &str| {
        let file = home.join(name).display().to_string();
        swaks(switch.address(), &["--tls", "--tls-cert", &file, "--tls-key", &file])
    };
    for refused in [with("bad"), swaks(switch.address(), &["--tls"])] {
        assert!(!refused.status.success(), "{}", text(&refused.stdout));
    }
    let taken = with("good");
    assert!(taken.status.success(), "{}", text(&taken.stdout));
    assert!(smtp.wait_for(1, PATIENCE));
    assert_eq!(smtp.counts().received, 1);
    assert!(header_of(&smtp).contains("client certificate verified: CN=client.test"), "{}", header_of(&smtp));
}

/// Two switches: mail to `smtp.test` goes from the first to the second, and from there to the sink.
struct Pair {
    first: Switch,
    second: Switch,
    sink: Sink,
}

impl Pair {
    fn new(authority: &Authority, first_trusts: &Authority, listener: &str, peer: &str) -> Self {
        let sink = sink();
        let behind = Site::new().listener(listener).peer("sink", "smtp", sink.address(), &["smtp.test"]);
        let second = switch_with(authority, &behind);
        let site = Site::new().peer_with("second", "smtp", second.address(), &["smtp.test"], peer);
        let first = Switch::start(&(site.tables() + &first_trusts.trust()));
        Self { first, second, sink }
    }

    fn submit(&self) {
        let reply = Client::greet(self.first.address()).message(
            "<a@sender.test>",
            &["b@smtp.test"],
            b"Subject: x\r\n\r\nx\r\n",
        );
        assert!(reply.starts_with("250 "), "{reply}");
    }
}

#[test]
fn mail_goes_to_a_verified_peer_by_its_name_and_by_mutual_certificates() {
    let authority = Authority::new("authority");
    let rows = [
        ("tls = \"offered\"", "peer_tls = \"opportunistic\""),
        ("tls = \"offered\"", "peer_tls = \"required\"\npeer_tls_version_min = \"1.3\""),
        ("tls = \"required\"", "peer_tls = \"verified\"\npeer_tls_names = [\"other.test\", \"switch.test\"]"),
        (
            "tls = \"immediate\"",
            "peer_tls = \"verified\"\npeer_tls_immediate = true\npeer_tls_names = [\"switch.test\"]",
        ),
        (
            "tls = \"required\"\ntls_client_certificates = \"required\"",
            "peer_tls = \"mutual\"\npeer_tls_names = [\"switch.test\"]\npeer_tls_credential = \"mine\"",
        ),
    ];
    for (listener, peer) in rows {
        let pair = Pair::new(&authority, &authority, listener, peer);
        put(&pair.first, "mine", &authority.credential("first.test"));
        wait_for_log(&pair.first, "usable=\"mine\"");
        pair.submit();
        assert!(pair.sink.wait_for(1, PATIENCE), "{listener} {peer}: {}", pair.first.log());
        assert!(
            header_of(&pair.sink).contains("with ESMTPS id "),
            "{listener} {peer}: {}",
            header_of(&pair.sink)
        );
    }
}

#[test]
fn to_a_peer_that_is_not_who_it_must_be_nothing_goes_and_the_diagnostic_says_why() {
    let (authority, stranger) = (Authority::new("authority"), Authority::new("stranger"));
    let rows = [
        (
            &stranger,
            "tls = \"offered\"",
            "peer_tls = \"verified\"\npeer_tls_names = [\"switch.test\"]",
            "UnknownIssuer",
        ),
        (
            &authority,
            "tls = \"offered\"",
            "peer_tls = \"verified\"\npeer_tls_names = [\"other.test\"]",
            "not valid for name",
        ),
        (&authority, "tls = \"none\"", "peer_tls = \"required\"", "does not offer"),
        (
            &authority,
            "tls = \"offered\"",
            "peer_tls = \"mutual\"\npeer_tls_names = [\"switch.test\"]",
            "default.pem",
        ),
    ];
    for (trusted, listener, peer, why) in rows {
        let pair = Pair::new(&authority, trusted, listener, peer);
        pair.submit();
        wait_for("a deferral", || pair.first.log().contains("peer.failed").then_some(()));
        assert!(pair.first.log().contains(why), "{peer}: {}", pair.first.log());
        let status = pair.second.status();
        assert_eq!((pair.sink.counts().received, &status["store"]["messages"]), (0, &0.into()), "{peer}");
    }
}

/// A peer that offers STARTTLS and then breaks the handshake; without it, it passes on what it hears to `sink`.
fn breaks_handshakes(sink: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.write_all(b"220 broken.test\r\n").unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            stream.write_all(b"250-broken.test\r\n250 STARTTLS\r\n").unwrap();
            let mut next = String::new();
            reader.read_line(&mut next).unwrap();
            if next.starts_with("STARTTLS") {
                stream.write_all(b"220 go on\r\n").unwrap();
                let _ = reader.read(&mut [0; 512]);
                stream.write_all(b"this is no ServerHello\r\n").unwrap();
                continue;
            }
            let mut behind = TcpStream::connect(sink).unwrap();
            let mut replies = BufReader::new(behind.try_clone().unwrap());
            let mut greeting = String::new();
            replies.read_line(&mut greeting).unwrap();
            behind.write_all(b"HELO broken.test\r\n").unwrap();
            replies.read_line(&mut greeting).unwrap();
            behind.write_all(next.as_bytes()).unwrap();
            let mut back = stream.try_clone().unwrap();
            std::thread::spawn(move || std::io::copy(&mut replies, &mut back));
            std::thread::spawn(move || std::io::copy(&mut reader, &mut behind));
        }
    });
    address
}

#[test]
fn a_peer_whose_tls_is_broken_gets_its_mail_in_the_clear_where_nobody_asked_for_more() {
    let smtp = sink();
    let broken = breaks_handshakes(smtp.address());
    let switch = Switch::start(&Site::new().peer("mta", "smtp", broken, &["smtp.test"]).tables());
    let reply =
        Client::greet(switch.address()).message("<a@sender.test>", &["b@smtp.test"], b"Subject: x\r\n\r\n");
    assert!(reply.starts_with("250 "), "{reply}");
    assert!(smtp.wait_for(1, PATIENCE), "{}", switch.log());
    assert!(switch.log().contains("tls.failed") && !switch.log().contains("peer.failed"));
    switch.wait_until_empty();
}

#[test]
fn a_new_certificate_is_shown_without_a_restart_and_a_broken_one_is_said_and_never_shown() {
    let (authority, next) = (Authority::new("authority"), Authority::new("next"));
    let switch = switch_with(&authority, &Site::new());
    let server = switch.pid("smtp-server");
    let files = [("old", &authority), ("new", &next)].map(|(name, of)| {
        let file = switch.home().join(name);
        fs::write(&file, &of.certificate).unwrap();
        file
    });
    let shows = |ca: &Path| {
        text(&s_client(switch.address(), ca, &["-starttls", "smtp"]).stdout).contains("return code: 0")
    };
    assert!(shows(&files[0]) && !shows(&files[1]));
    put(&switch, "default", "-----BEGIN CERTIFICATE-----\n");
    wait_for_log(&switch, "credential.wrong");
    assert!(shows(&files[0]));
    put(&switch, "default", &next.credential("switch.test"));
    wait_for("the new certificate", || shows(&files[1]).then_some(()));
    assert_eq!(switch.pid("smtp-server"), server);
}

#[test]
fn without_the_signer_nobody_waits_and_with_it_tls_is_there_again() {
    let authority = Authority::new("authority");
    let switch = switch_with(&authority, &Site::new().listener("tls = \"required\""));
    let ca = switch.home().join("ca.pem");
    fs::write(&ca, &authority.certificate).unwrap();
    let works = || {
        text(&s_client(switch.address(), &ca, &["-starttls", "smtp", "-no_ticket"]).stdout)
            .contains("221 2.0.0")
    };
    assert!(works());
    let signer = switch.pid("signer");
    signal(signer, Signal::STOP);
    assert!(!works());
    // It hangs, and that is known now.
    let mut client = Client::greet(switch.address());
    client.expect("STARTTLS", "454 4.7.0");
    client.expect("QUIT", "221");
    signal(signer, Signal::CONT);
    wait_for("TLS with a signer that goes on", || works().then_some(()));
    signal(signer, Signal::KILL);
    wait_for("TLS with another signer", || works().then_some(()));
}

#[test]
fn health_and_status_say_what_is_wrong_with_the_credential_that_a_listener_needs() {
    let (authority, smtp) = (Authority::new("authority"), sink());
    let site = Site::new().listener("tls = \"immediate\"");
    let switch = Switch::start(&site.peer("mta", "smtp", smtp.address(), &["smtp.test"]).tables());
    let look = |command: &[&str]| {
        let output = switch.command(&[command, &["--json"]].concat());
        let value: Value = serde_json::from_slice(&output.stdout).unwrap();
        (value.to_string(), output.status.success())
    };
    let (health, is_good) = look(&["health"]);
    assert!(!is_good && health.contains("put default.pem into the folder"), "{health}");
    put(&switch, "default", &authority.credential("switch.test"));
    let (health, is_good) = look(&["health", "--wait", "30"]);
    assert!(is_good && health.contains("answers 220"), "{health}");
    let (status, is_well) = look(&["status"]);
    assert!(is_well && status.contains("CN=switch.test"), "{status}");
    put(&switch, "default", "no certificate");
    let (status, is_well) = look(&["status"]);
    assert!(!is_well && status.contains("the one that was read before stays in force"), "{status}");
    assert!(look(&["health"]).1);
}

/// Whether the memory of a process holds these octets.
fn memory_holds(pid: u32, wanted: &[u8]) -> bool {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    maps.lines().filter(|line| line.contains(" rw")).any(|line| {
        let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let [from, to] = [from, to].map(|end| u64::from_str_radix(end, 16).unwrap());
        let mut octets = vec![0; usize::try_from(to - from).unwrap()];
        // What cannot be read at once is looked at up to there.
        let read = std::os::unix::fs::FileExt::read_at(&memory, &mut octets, from).unwrap_or(0);
        memchr::memmem::find(&octets[..read], wanted).is_some()
    })
}

/// Twice this number modulo the order of P-256; four words, the lowest first.
fn doubled(number: [u64; 4]) -> [u64; 4] {
    const ORDER: [u64; 4] =
        [0xf3b9_cac2_fc63_2551, 0xbce6_faad_a717_9e84, 0xffff_ffff_ffff_ffff, 0xffff_ffff_0000_0000];
    let mut carry = 0;
    let twice = number.map(|word| {
        let shifted = word << 1 | carry;
        carry = word >> 63;
        shifted
    });
    let mut borrow = false;
    let mut reduced = [0; 4];
    for at in 0..4 {
        let (less, first) = twice[at].overflowing_sub(ORDER[at]);
        let (less, second) = less.overflowing_sub(u64::from(borrow));
        (reduced[at], borrow) = (less, first || second);
    }
    if borrow && carry == 0 { twice } else { reduced }
}

/// The secret number of a P-256 key as it may lie in memory: as it is in the file, turned round, and as the library that signs
/// keeps it, multiplied by 2^256 modulo the order.
fn forms(secret: &[u8]) -> [Vec<u8>; 3] {
    let turned: Vec<u8> = secret.iter().rev().copied().collect();
    let words = [0, 1, 2, 3].map(|at| u64::from_le_bytes(turned[at * 8..at * 8 + 8].try_into().unwrap()));
    let multiplied = (0..256).fold(words, |number, _| doubled(number));
    let multiplied = multiplied.iter().flat_map(|word| word.to_le_bytes()).collect();
    [secret.to_vec(), turned, multiplied]
}

#[test]
fn no_process_but_the_signer_has_a_private_key_in_its_memory() {
    let (authority, smtp) = (Authority::new("authority"), sink());
    let switch = switch_with(&authority, &Site::new().peer("mta", "smtp", smtp.address(), &["smtp.test"]));
    let pem = fs::read_to_string(switch.home().join("s/credentials/default.pem")).unwrap();
    let key = KeyPair::from_pem(&pem[pem.find("-----BEGIN PRIVATE KEY").unwrap()..]).unwrap();
    // PKCS #8 of P-256 has the secret number behind 36 octets (RFC 5915, 3).
    let forms = forms(&key.serialized_der()[36..68]);
    assert!(swaks(switch.address(), &["--tls"]).status.success());
    assert!(smtp.wait_for(1, PATIENCE));
    let holds = |pid: u32| forms.iter().any(|form| memory_holds(pid, form));
    let holders: Vec<_> = switch.processes().into_iter().filter(|process| holds(process.pid)).collect();
    let roles: Vec<_> = holders.iter().map(|process| process.role.as_str()).collect();
    assert_eq!(roles, ["signer"]);
    assert!(!holds(switch.supervisor_pid()));
}
