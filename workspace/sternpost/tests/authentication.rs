//! Who clients are: with swaks, gsasl and openssl against the real switch.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here, with the place")]

mod switch;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};
use sternpost_load::sink::Sink;
use switch::client::Client;
use switch::mail::sink;
use switch::site::Site;
use switch::{PATIENCE, Switch, program, text, wait_for};

const PASSWORD: &str = "correct horse";

/// Somebody who certifies.
struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// Certificate and private key for a name; an address, where one is given, is an rfc822Name.
    fn credential(&self, name: &str, address: Option<&str>) -> String {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let address = address.map(|address| SanType::Rfc822Name(address.try_into().unwrap()));
        params.subject_alt_names.extend(address);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        params.signed_by(&key, &self.issuer).unwrap().pem() + &key.serialize_pem()
    }

    fn trust(&self) -> String {
        format!(
            "\n[[trust]]\nname = \"authority\"\ntrust_certificates = [\"\"\"\n{}\"\"\"]\n",
            self.certificate
        )
    }
}

/// What `sternpost verifier` makes of a password.
fn verifier(password: &str, arguments: &[&str]) -> Output {
    let mut child = Command::new(program())
        .arg("verifier")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(password.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn user(name: &str, password: &str, lines: &str) -> String {
    let verifier = text(&verifier(password, &[]).stdout).trim().to_owned();
    format!("\n[[user]]\nname = \"{name}\"\nuser_verifiers = [\"{verifier}\"]\n{lines}\n")
}

fn alice() -> String {
    user("alice", PASSWORD, "user_name = \"alice@sender.test\"\nuser_senders = [\"alice@sender.test\"]")
}

/// A switch that lists no client, whose listener has these lines, and a sink behind a route that only who is known may use.
struct Stage {
    authority: Authority,
    switch: Switch,
    sink: Sink,
}

impl Stage {
    fn new(listener: &str, users: &str) -> Self {
        let (authority, sink) = (Authority::new(), sink());
        let site = Site::new().without_client_networks().listener(listener);
        let site = site.peer("mta", "smtp", sink.address(), &["*"]);
        let switch = Switch::start(&(site.tables() + &authority.trust() + users));
        let folder = switch.home().join("s/credentials");
        let new = folder.join(".default.new");
        fs::write(&new, authority.credential("switch.test", None)).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(new, folder.join("default.pem")).unwrap();
        switch.command(&["credentials", "--reload"]);
        wait_for("the credential", || switch.log().contains("usable=\"default\"").then_some(()));
        Self { authority, switch, sink }
    }

    fn swaks(&self, arguments: &[&str]) -> (bool, String) {
        let output = Command::new("swaks")
            .args(["--server", &self.address().to_string(), "--helo", "client.test"])
            .args(["--to", "b@smtp.test", "--body", "over the line"])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("swaks is installed by .ci/packages");
        (output.status.success(), text(&output.stdout) + &text(&output.stderr))
    }

    /// The same as the user alice.
    fn swaks_as_alice(&self, mechanism: &str, password: &str, sender: &str, more: &[&str]) -> (bool, String) {
        let auth = ["--auth", mechanism, "--auth-user", "alice@sender.test", "--auth-password", password];
        self.swaks(&[&auth[..], &["--from", sender], more].concat())
    }

    fn address(&self) -> SocketAddr {
        self.switch.address()
    }

    /// The header and the body of the message that came last.
    fn content(&self) -> String {
        let received = self.sink.received();
        let content = received.last().unwrap().content.clone().expect("the sink keeps content");
        String::from_utf8(content).unwrap()
    }

    /// No secret has come into the log.
    fn assert_nothing_was_told(&self) {
        let log = self.switch.log();
        let shown = text(&self.switch.command(&["config", "show", "--json"]).stdout);
        let base64 = ["Y29ycmVjdCBob3JzZQ", "Y29ycmVjdA"];
        for told in [log, shown] {
            assert!(
                !told.contains("correct horse") && base64.iter().all(|part| !told.contains(part)),
                "{told}"
            );
            assert!(!told.contains("SCRAM-SHA-256$"), "{told}");
        }
    }
}

#[test]
fn a_user_submits_by_plain_and_login_under_tls_and_the_trace_and_the_queue_say_so() {
    let stage = Stage::new("submission = true", &alice());
    for (count, mechanism) in [(1, "PLAIN"), (2, "LOGIN")] {
        let (is_good, dialogue) = stage.swaks_as_alice(mechanism, PASSWORD, "alice@sender.test", &["--tls"]);
        assert!(is_good && dialogue.contains("235 2.7.0"), "{dialogue}");
        assert!(stage.sink.wait_for(count, PATIENCE));
        assert!(stage.content().contains("with ESMTPSA id "), "{}", stage.content());
    }
    // The names of mechanisms and users have no case.
    let (is_good, dialogue) = stage.swaks(&[
        "--tls",
        "--auth",
        "plain",
        "--auth-user",
        "ALICE@sender.test",
        "--auth-password",
        PASSWORD,
        "--from",
        "alice@sender.test",
    ]);
    assert!(is_good, "{dialogue}");
    stage.assert_nothing_was_told();
}

#[test]
fn who_a_message_is_from_is_shown_in_the_queue() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let site = Site::new().without_client_networks().listener("auth = \"offered\"");
    let site = site.peer("mta", "smtp", closed, &["*"]);
    let switch = Switch::start(&(site.tables() + &alice()));
    let output = gsasl(switch.address(), "SCRAM-SHA-256", PASSWORD, "alice@sender.test");
    assert!(output.contains("235 2.7.0"), "{output}");
    let mut client = Client::greet(switch.address());
    let accepted = switch::scram::authenticate(&mut client, "alice@sender.test", PASSWORD);
    assert!(accepted.starts_with("235 2.7.0"), "{accepted}");
    let queued = client.message("<alice@sender.test>", &["b@smtp.test"], b"Subject: x\r\n\r\nx\r\n");
    let id = queued.split(' ').next_back().unwrap();
    let shown = text(&switch.command(&["queue", "show", id]).stdout);
    assert!(shown.lines().any(|line| line.contains("identity") && line.contains("alice")), "{shown}");
}

/// What gsasl says: it authenticates and no more.
fn gsasl(address: SocketAddr, mechanism: &str, password: &str, name: &str) -> String {
    let mut child = Command::new("gsasl")
        .args(["--smtp", "--verbose", "--no-starttls", "--no-cb", "--mechanism", mechanism])
        .args(["--connect", &address.to_string(), "--authentication-id", name, "--authorization-id", name])
        .args(["--password", password, "--hostname", "client.test", "--service", "smtp"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("gsasl is installed by .ci/packages");
    child.stdin.take().unwrap().write_all(b"QUIT\r\n").unwrap();
    let output = child.wait_with_output().unwrap();
    text(&output.stdout) + &text(&output.stderr)
}

#[test]
fn another_implementation_of_scram_is_accepted_with_the_password_and_refused_without() {
    let both = ["sha-256", "sha-512"]
        .map(|hash| text(&verifier(PASSWORD, &["--hash", hash]).stdout).trim().to_owned());
    let users = format!("\n[[user]]\nname = \"alice\"\nuser_verifiers = {both:?}\n");
    let stage = Stage::new("auth = \"offered\"", &users);
    for (name, password, reply) in
        [("alice", PASSWORD, "235 2.7.0"), ("alice", "wrong", "535 5.7.8"), ("nobody", PASSWORD, "535 5.7.8")]
    {
        let said = gsasl(stage.address(), "SCRAM-SHA-256", password, name);
        assert!(said.contains(reply), "{name} {password}: {said}");
    }
    stage.assert_nothing_was_told();
}

#[test]
fn what_a_listener_offers_follows_tls_and_the_certificate_of_the_client() {
    let stage = Stage::new("auth = \"offered\"\ntls_client_certificates = \"requested\"", &alice());
    let (_, clear) = stage.swaks(&["--from", "a@sender.test", "--quit-after", "EHLO"]);
    assert!(clear.contains("250-AUTH SCRAM-SHA-256\n"), "{clear}");
    let (_, secured) = stage.swaks(&["--from", "a@sender.test", "--quit-after", "EHLO", "--tls"]);
    assert!(secured.contains("250-AUTH SCRAM-SHA-256 PLAIN LOGIN\n"), "{secured}");
    let file = stage.switch.home().join("client.pem");
    fs::write(&file, stage.authority.credential("client.test", None)).unwrap();
    let file = file.display().to_string();
    let certificate = ["--tls-cert", &file, "--tls-key", &file];
    let arguments =
        [&["--from", "a@sender.test", "--quit-after", "EHLO", "--tls"][..], &certificate].concat();
    let (_, certified) = stage.swaks(&arguments);
    assert!(certified.contains("250-AUTH EXTERNAL SCRAM-SHA-256 PLAIN LOGIN\n"), "{certified}");
    // Asked for all the same.
    let mut client = Client::greet(stage.address());
    client.expect("AUTH PLAIN AGEAYg==", "538 5.7.11");
    client.expect("AUTH EXTERNAL =", "538 5.7.11");
    client.expect("AUTH CRAM-MD5", "504 5.5.4");
}

#[test]
fn a_certificate_is_the_user_whom_it_names_and_another_one_is_nobody() {
    let users = "\n[[user]]\nname = \"machine\"\nuser_certificates = [\"email:robot@sender.test\"]\nuser_senders = [\"@sender.test\"]\n";
    let stage =
        Stage::new("submission = true\ntls = \"immediate\"\ntls_client_certificates = \"requested\"", users);
    let with = |address: Option<&str>| {
        let file = stage.switch.home().join("client.pem");
        fs::write(&file, stage.authority.credential("client.test", address)).unwrap();
        let mut client = Command::new("openssl")
            .args(["s_client", "-quiet", "-crlf", "-connect", &stage.address().to_string(), "-cert"])
            .arg(&file)
            .arg("-key")
            .arg(&file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl is installed by .ci/packages");
        let dialogue =
            b"EHLO client.test\nAUTH EXTERNAL =\nMAIL FROM:<x@sender.test>\nRCPT TO:<b@smtp.test>\nDATA\n";
        let mut input = client.stdin.take().unwrap();
        input.write_all(dialogue).unwrap();
        input.write_all(b"Subject: x\n\nx\n.\nQUIT\n").unwrap();
        // s_client ends with its input: the end of the dialogue is waited for.
        let output = std::thread::spawn(move || client.wait_with_output().unwrap());
        wait_for("the end of the dialogue", || output.is_finished().then_some(()));
        drop(input);
        text(&output.join().unwrap().stdout)
    };
    let said = with(Some("ROBOT@sender.test"));
    assert!(said.contains("235 2.7.0") && said.contains("queued as"), "{said}");
    assert!(stage.sink.wait_for(1, PATIENCE));
    assert!(stage.content().contains("with ESMTPSA id "), "{}", stage.content());
    for other in [None, Some("somebody@sender.test")] {
        let said = with(other);
        assert!(said.contains("535 5.7.8") && said.contains("530 5.7.0"), "{said}");
    }
    assert_eq!(stage.sink.counts().received, 1);
}

#[test]
fn where_users_submit_nobody_else_sends_and_nobody_sends_as_another() {
    let stage = Stage::new("submission = true", &alice());
    let (is_good, dialogue) = stage.swaks(&["--tls", "--from", "alice@sender.test"]);
    assert!(!is_good && dialogue.contains("530 5.7.0 Authentication required"), "{dialogue}");
    let (is_good, dialogue) = stage.swaks_as_alice("PLAIN", PASSWORD, "bob@sender.test", &["--tls"]);
    assert!(!is_good && dialogue.contains("550 5.7.1 You may not send as this address"), "{dialogue}");
    assert_eq!(stage.switch.status()["store"]["messages"], 0);
    let (is_good, dialogue) = stage.swaks_as_alice("PLAIN", PASSWORD, "alice@sender.test", &["--tls"]);
    assert!(is_good, "{dialogue}");
    assert!(stage.sink.wait_for(1, PATIENCE));
}

#[test]
fn a_message_that_is_submitted_without_date_and_message_id_gets_them_once() {
    let stage = Stage::new("submission = true", &alice());
    let mut client = Client::greet(stage.address());
    switch::scram::authenticate(&mut client, "alice@sender.test", PASSWORD);
    for (count, content) in [
        (1, "Subject: bare\r\n\r\nx\r\n"),
        (
            2,
            "Date: Mon, 23 Nov 2026 15:00:00 +0000\r\nMessage-ID: <own@sender.test>\r\nSubject: whole\r\n\r\nx\r\n",
        ),
    ] {
        let reply = client.message("<alice@sender.test>", &["b@smtp.test"], content.as_bytes());
        assert!(reply.starts_with("250 "), "{reply}");
        assert!(stage.sink.wait_for(count, PATIENCE));
        let header = stage.content();
        let fields = |name: &str| header.lines().filter(|line| line.starts_with(name)).count();
        assert_eq!((fields("Date: "), fields("Message-ID: <")), (1, 1), "{header}");
        assert!(header.contains("with ESMTPA id ") && header.ends_with(content), "{header}");
    }
}

#[test]
fn an_unknown_client_opens_no_route_by_trying_and_a_known_one_opens_all() {
    let stage =
        Stage::new("auth = \"offered\"\nauth_mechanisms = [\"scram-sha-256\", \"anonymous\"]", &alice());
    let mut client = Client::greet(stage.address());
    client.expect("MAIL FROM:<alice@sender.test>", "250");
    client.expect("RCPT TO:<b@smtp.test>", "550 5.7.1");
    client.expect("RSET", "250");
    client.expect("AUTH ANONYMOUS =", "235");
    client.expect("MAIL FROM:<alice@sender.test>", "250");
    client.expect("RCPT TO:<b@smtp.test>", "550 5.7.1");
    let mut client = Client::greet(stage.address());
    switch::scram::authenticate(&mut client, "alice@sender.test", PASSWORD);
    client.expect("MAIL FROM:<alice@sender.test>", "250");
    client.expect("RCPT TO:<b@smtp.test>", "250");
    // A handshake makes void who it was.
    client.expect("RSET", "250");
    client.expect("STARTTLS", "220");
}

#[test]
fn who_fails_too_often_is_refused_for_a_while_whatever_the_password() {
    let stage = Stage::new("auth = \"offered\"", &alice());
    for _ in 0..5 {
        let mut client = Client::greet(stage.address());
        let said = switch::scram::authenticate(&mut client, "alice@sender.test", "wrong");
        assert!(said.starts_with("535 5.7.8"), "{said}");
    }
    let mut client = Client::greet(stage.address());
    let said = switch::scram::authenticate(&mut client, "alice@sender.test", PASSWORD);
    assert!(said.starts_with("454 4.7.0"), "{said}");
    // Others are served meanwhile.
    Client::greet(stage.address()).expect("NOOP", "250");
}

#[test]
fn a_user_that_is_taken_out_of_the_configuration_sends_nothing_more() {
    let users = alice() + &user("bob", PASSWORD, "user_senders = [\"bob@sender.test\"]");
    let stage = Stage::new("auth = \"offered\"", &users);
    let mut client = Client::greet(stage.address());
    switch::scram::authenticate(&mut client, "alice@sender.test", PASSWORD);
    client.expect("MAIL FROM:<alice@sender.test>", "250");
    client.expect("RSET", "250");
    let site = Site::new().without_client_networks().listener("auth = \"offered\"");
    let site = site.peer("mta", "smtp", stage.sink.address(), &["*"]);
    let without = site.tables() + &stage.authority.trust() + &user("bob", PASSWORD, "");
    stage.switch.replace_tables(&without);
    wait_for("the user is gone", || {
        let reply = client.command("MAIL FROM:<alice@sender.test>");
        client.expect("RSET", "250");
        reply.starts_with("550 5.7.1").then_some(())
    });
    let mut client = Client::greet(stage.address());
    let said = switch::scram::authenticate(&mut client, "alice@sender.test", PASSWORD);
    assert!(said.starts_with("535 5.7.8"), "{said}");
}

#[test]
fn an_unknown_user_has_the_same_salt_after_a_restart() {
    let stage = Stage::new("auth = \"offered\"", &alice());
    let salt = |address| {
        let mut client = Client::greet(address);
        switch::scram::salt_of(&mut client, "nobody")
    };
    let before = salt(stage.address());
    for role in ["smtp-server", "qmgr"] {
        let old = stage.switch.kill(role);
        wait_for("another process", || {
            let found = stage.switch.processes().into_iter().find(|process| process.role == role);
            found.filter(|process| process.pid != old)
        });
    }
    wait_for("an answer", || stage.switch.status_if_any());
    assert_eq!(salt(stage.address()), before);
}

#[test]
fn a_verifier_is_made_of_a_line_and_of_no_other_input() {
    let made = verifier("pencil\r\n", &["--hash", "sha-512", "--iterations", "5000"]);
    assert!(made.status.success() && text(&made.stdout).starts_with("SCRAM-SHA-512$5000:"), "{made:?}");
    for (input, arguments) in [("\n", &[][..]), ("a\u{7}b", &[]), ("x", &["--iterations", "100"])] {
        let made = verifier(input, arguments);
        assert!(!made.status.success() && made.stdout.is_empty() && !made.stderr.is_empty(), "{made:?}");
    }
}
