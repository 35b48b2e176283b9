//! Whole exchanges: our client with our server, and each of them with a partner written from RFC 5802 alone.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac, pbkdf2};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};
use sternpost_message::{PeerCertificate, TlsFacts};
use sternpost_sasl::{
    Attempts, AttemptsPolicy, Authenticator, ClientError, ClientExchange, ClientNetwork, ClientPolicy,
    ClientStep, ConcealmentKey, Connection, Credentials, Exchange, Hash, Identity, Mechanism, Name, Outcome,
    Password, Refusal, Said, ServerPolicy, Step, User, Users, Verifier,
};

const SALT: &[u8; 16] = b"sixteen octets !";

struct Directory(Vec<(User, [u8; 32])>);

impl Users for Directory {
    fn find(&self, name: &Name) -> Option<User> {
        self.0.iter().find(|(user, _)| user.name == *name).map(|(user, _)| user.clone())
    }

    fn find_by_certificate(&self, certificate: &PeerCertificate, _: &[String]) -> Option<User> {
        let of_certificate = self.0.iter().find(|(_, fingerprint)| *fingerprint == certificate.fingerprint);
        of_certificate.map(|(user, _)| user.clone())
    }
}

fn name(text: &str) -> Name {
    Name::prepare(text).unwrap()
}

fn user(text: &str, password: &str, hashes: &[Hash]) -> User {
    let password = Password::prepare(password).unwrap();
    let verifier = |hash: &Hash| Verifier::derive(*hash, 4096, SALT, &password).unwrap();
    User { name: name(text), verifiers: hashes.iter().map(verifier).collect() }
}

fn server() -> Arc<Authenticator> {
    let both = [Hash::Sha256, Hash::Sha512];
    let users = vec![
        (user("alice", "pencil", &both), [1; 32]),
        (user("a,b=c", "pencil", &both), [2; 32]),
        (user("müller", "crayon", &both), [3; 32]),
        (user("carol", "pencil", &[]), [4; 32]),
        (user("dave", "pencil", &[Hash::Sha512]), [5; 32]),
    ];
    let policy = ServerPolicy { mechanisms: Mechanism::ALL.to_vec(), ..ServerPolicy::default() };
    Arc::new(Authenticator::new(policy, Arc::new(Directory(users)), ConcealmentKey::new(&[9; 32])))
}

fn tls(certificate: Option<(u8, bool)>) -> TlsFacts {
    let peer = certificate.map(|(number, is_verified)| PeerCertificate {
        subject: "CN=somebody".to_owned(),
        fingerprint: [number; 32],
        is_verified,
    });
    TlsFacts {
        version: "TLSv1.3".to_owned(),
        cipher_suite: "TLS_AES_128_GCM_SHA256".to_owned(),
        group: None,
        peer,
    }
}

fn network(address: &str) -> ClientNetwork {
    ClientNetwork::from(address.parse::<IpAddr>().unwrap())
}

/// A client that talks to [`server`], with the failures that it remembers.
struct Client {
    server: Arc<Authenticator>,
    attempts: Attempts,
    tls: Option<TlsFacts>,
    now: Instant,
    network: ClientNetwork,
}

impl Client {
    fn new(tls: Option<TlsFacts>) -> Self {
        Self {
            server: server(),
            attempts: Attempts::new(AttemptsPolicy::default()),
            tls,
            now: Instant::now(),
            network: network("192.0.2.1"),
        }
    }

    fn begin(&mut self, mechanism: &str, initial_response: Option<&[u8]>) -> Step {
        let connection = Connection { network: self.network, tls: self.tls.as_ref(), names: &[] };
        self.server.begin(self.now, &mut self.attempts, &connection, mechanism, initial_response)
    }

    fn respond(&mut self, exchange: Box<Exchange>, response: &[u8]) -> Step {
        exchange.respond(self.now, &mut self.attempts, response)
    }

    /// AUTH with an initial response that ends the exchange.
    fn once(&mut self, mechanism: &str, initial_response: &[u8]) -> Outcome {
        done(self.begin(mechanism, Some(initial_response)))
    }

    /// SCRAM as a client does it that was written from the RFC: the challenges, and how it ends.
    fn scram(&mut self, hash: Hash, said: &str, password: &str) -> (Vec<Vec<u8>>, Outcome) {
        let bare = format!("n={said},r=fyko+d2lbbFgONRv9qkxdawL");
        let first = format!("n,,{bare}");
        let (challenge, exchange) = challenge(self.begin(hash.mechanism().name(), Some(first.as_bytes())));
        let server_first = String::from_utf8(challenge.clone()).unwrap();
        let keys = Keys::from_server_first(hash, &server_first, password);
        let without_proof = format!("c=biws,{}", server_first.split(',').next().unwrap());
        let signed = format!("{bare},{server_first},{without_proof}");
        let last = format!("{without_proof},p={}", STANDARD.encode(keys.proof(&signed)));
        match self.respond(exchange, last.as_bytes()) {
            Step::Challenge { challenge: signature, exchange } => {
                assert_eq!(signature, format!("v={}", STANDARD.encode(keys.signature(&signed))).into_bytes());
                (vec![challenge, signature], done(self.respond(exchange, b"")))
            }
            Step::Done(outcome) => (vec![challenge], outcome),
        }
    }
}

/// The keys of RFC 5802, section 3.
struct Keys {
    hash: Hash,
    client: Vec<u8>,
    server: Vec<u8>,
}

impl Keys {
    fn from_server_first(hash: Hash, server_first: &str, password: &str) -> Self {
        let parts: Vec<&str> = server_first.split(',').collect();
        let salt = STANDARD.decode(parts[1].strip_prefix("s=").unwrap()).unwrap();
        let iterations: NonZeroU32 = parts[2].strip_prefix("i=").unwrap().parse().unwrap();
        let (derivation, mut salted) = match hash {
            Hash::Sha256 => (pbkdf2::PBKDF2_HMAC_SHA256, vec![0; 32]),
            Hash::Sha512 => (pbkdf2::PBKDF2_HMAC_SHA512, vec![0; 64]),
        };
        pbkdf2::derive(derivation, iterations, &salt, password.as_bytes(), &mut salted);
        let mac = |text: &str| hmac::sign(&Self::key(hash, &salted), text.as_bytes()).as_ref().to_vec();
        Self { hash, client: mac("Client Key"), server: mac("Server Key") }
    }

    fn key(hash: Hash, octets: &[u8]) -> hmac::Key {
        let algorithm = if hash == Hash::Sha256 { hmac::HMAC_SHA256 } else { hmac::HMAC_SHA512 };
        hmac::Key::new(algorithm, octets)
    }

    fn proof(&self, signed: &str) -> Vec<u8> {
        let algorithm = if self.hash == Hash::Sha256 { &digest::SHA256 } else { &digest::SHA512 };
        let stored = digest::digest(algorithm, &self.client);
        let signature = hmac::sign(&Self::key(self.hash, stored.as_ref()), signed.as_bytes());
        self.client.iter().zip(signature.as_ref()).map(|(key, octet)| key ^ octet).collect()
    }

    fn signature(&self, signed: &str) -> Vec<u8> {
        hmac::sign(&Self::key(self.hash, &self.server), signed.as_bytes()).as_ref().to_vec()
    }
}

fn challenge(step: Step) -> (Vec<u8>, Box<Exchange>) {
    match step {
        Step::Challenge { challenge, exchange } => (challenge, exchange),
        Step::Done(outcome) => panic!("{outcome:?}"),
    }
}

fn done(step: Step) -> Outcome {
    match step {
        Step::Done(outcome) => outcome,
        Step::Challenge { challenge, .. } => panic!("{}", String::from_utf8_lossy(&challenge)),
    }
}

fn why(outcome: &Outcome) -> Refusal {
    match outcome {
        Outcome::Refused { why, .. } => *why,
        Outcome::Accepted(identity) => panic!("{identity:?}"),
    }
}

fn accepted(text: &str, mechanism: Mechanism) -> Outcome {
    Outcome::Accepted(Identity::User { name: name(text), mechanism })
}

#[test]
fn what_is_offered_follows_from_the_policy_tls_and_the_certificate() {
    use Mechanism::{Anonymous, External, Login, Plain, ScramSha256, ScramSha512};
    let all = ServerPolicy { mechanisms: Mechanism::ALL.to_vec(), ..ServerPolicy::default() };
    let some = ServerPolicy { mechanisms: vec![Plain, ScramSha256], ..ServerPolicy::default() };
    for (policy, is_under_tls, has_certificate, offered) in [
        (&all, false, false, &[ScramSha512, ScramSha256, Anonymous][..]),
        (&all, false, true, &[ScramSha512, ScramSha256, Anonymous]),
        (&all, true, false, &[ScramSha512, ScramSha256, Plain, Login, Anonymous]),
        (&all, true, true, &[External, ScramSha512, ScramSha256, Plain, Login, Anonymous]),
        (&some, false, false, &[ScramSha256]),
        (&some, true, true, &[ScramSha256, Plain]),
    ] {
        assert_eq!(policy.offered(is_under_tls, has_certificate), offered);
    }
    assert!(
        !ServerPolicy::default().mechanisms.contains(&Anonymous),
        "nobody is anonymous unless somebody has said so"
    );
}

#[test]
fn what_is_not_offered_is_refused_and_needs_tls_is_said_where_tls_would_help() {
    let mut client = Client::new(None);
    for (mechanism, expected) in [
        ("PLAIN", Refusal::NeedsTls),
        ("LOGIN", Refusal::NeedsTls),
        ("EXTERNAL", Refusal::NeedsTls),
        ("CRAM-MD5", Refusal::Mechanism),
        ("", Refusal::Mechanism),
    ] {
        assert_eq!(why(&client.once(mechanism, b"\0alice\0pencil")), expected, "{mechanism}");
    }
    let mut client = Client::new(Some(tls(Some((1, false)))));
    assert_eq!(why(&client.once("EXTERNAL", b"")), Refusal::Mechanism, "the certificate was not verified");
}

#[test]
fn plain_accepts_the_right_password_and_refuses_all_others() {
    let mut client = Client::new(Some(tls(None)));
    for message in
        ["\0alice\0pencil", "alice\0ALICE\0pencil", "\0m\u{fc}ller\0crayon", "\0mu\u{308}ller\0cray\u{ad}on"]
    {
        let outcome = client.once("plain", message.as_bytes());
        assert!(
            matches!(outcome, Outcome::Accepted(Identity::User { mechanism: Mechanism::Plain, .. })),
            "{outcome:?}"
        );
    }
    let (challenge, exchange) = challenge(client.begin("PLAIN", None));
    assert!(challenge.is_empty());
    assert_eq!(done(client.respond(exchange, b"\0alice\0pencil")), accepted("alice", Mechanism::Plain));
    for message in
        ["\0alice\0pencel", "\0alice\0Pencil", "bob\0alice\0pencil", "\0carol\0pencil", "\0nobody\0pencil"]
    {
        assert_eq!(why(&client.once("PLAIN", message.as_bytes())), Refusal::Credentials, "{message}");
    }
    for message in
        ["", "alice", "\0alice", "\0alice\0", "\0\0pencil", "\0alice\0pencil\0", "\0al\nice\0pencil"]
    {
        assert_eq!(why(&client.once("PLAIN", message.as_bytes())), Refusal::Malformed, "{message}");
    }
    assert_eq!(why(&client.once("PLAIN", &[b'x'; 4097])), Refusal::TooLong);
}

#[test]
fn login_asks_for_the_name_and_the_password_and_takes_a_name_that_comes_with_auth() {
    let mut client = Client::new(Some(tls(None)));
    for (said, expected) in [("pencil", None), ("pencel", Some(Refusal::Credentials))] {
        let (ask_name, exchange) = challenge(client.begin("LOGIN", None));
        let (ask_password, exchange) = challenge(client.respond(exchange, b"alice"));
        assert_eq!((&ask_name[..], &ask_password[..]), (&b"Username:"[..], &b"Password:"[..]));
        let outcome = done(client.respond(exchange, said.as_bytes()));
        match expected {
            None => assert_eq!(outcome, accepted("alice", Mechanism::Login)),
            Some(expected) => assert_eq!(why(&outcome), expected),
        }
    }
    let (ask_password, exchange) = challenge(client.begin("LOGIN", Some(b"alice")));
    assert_eq!(ask_password, b"Password:");
    assert_eq!(done(client.respond(exchange, b"pencil")), accepted("alice", Mechanism::Login));
}

#[test]
fn a_client_written_from_the_rfc_proves_its_password_by_both_hashes() {
    let mut client = Client::new(None);
    for hash in [Hash::Sha256, Hash::Sha512] {
        for (said, password, who) in
            [("alice", "pencil", "alice"), ("Alice", "pencil", "alice"), ("a=2Cb=3Dc", "pencil", "a,b=c")]
        {
            assert_eq!(client.scram(hash, said, password).1, accepted(who, hash.mechanism()));
        }
        assert_eq!(why(&client.scram(hash, "alice", "pencel").1), Refusal::Credentials);
    }
    assert_eq!(client.scram(Hash::Sha512, "dave", "pencil").1, accepted("dave", Mechanism::ScramSha512));
    assert_eq!(why(&client.scram(Hash::Sha256, "dave", "pencil").1), Refusal::Credentials);
}

#[test]
fn who_proves_a_password_and_asks_to_be_somebody_else_is_refused() {
    for (authorization, is_accepted) in [("", true), ("a=alice", true), ("a=ALICE", true), ("a=bob", false)] {
        let mut client = Client::new(None);
        let bare = "n=alice,r=fyko+d2lbbFgONRv9qkxdawL";
        let header = format!("n,{authorization},");
        let first = format!("{header}{bare}");
        let (challenge, exchange) = challenge(client.begin("SCRAM-SHA-256", Some(first.as_bytes())));
        let server_first = String::from_utf8(challenge).unwrap();
        let keys = Keys::from_server_first(Hash::Sha256, &server_first, "pencil");
        let without_proof =
            format!("c={},{}", STANDARD.encode(header), server_first.split(',').next().unwrap());
        let proof = STANDARD.encode(keys.proof(&format!("{bare},{server_first},{without_proof}")));
        match client.respond(exchange, format!("{without_proof},p={proof}").as_bytes()) {
            Step::Challenge { .. } => assert!(is_accepted, "{authorization}"),
            Step::Done(outcome) => {
                assert!(!is_accepted && why(&outcome) == Refusal::Credentials, "{authorization}");
            }
        }
    }
}

#[test]
fn a_proof_counts_only_with_the_nonce_and_the_header_that_were_agreed_on() {
    for (binding, nonce) in [("biws", Some("another")), ("eSws", None)] {
        let mut client = Client::new(None);
        let bare = "n=alice,r=fyko+d2lbbFgONRv9qkxdawL";
        let (challenge, exchange) =
            challenge(client.begin("SCRAM-SHA-256", Some(format!("n,,{bare}").as_bytes())));
        let server_first = String::from_utf8(challenge).unwrap();
        let keys = Keys::from_server_first(Hash::Sha256, &server_first, "pencil");
        let agreed = server_first.split(',').next().unwrap().strip_prefix("r=").unwrap();
        let without_proof = format!("c={binding},r={}", nonce.unwrap_or(agreed));
        let proof = STANDARD.encode(keys.proof(&format!("{bare},{server_first},{without_proof}")));
        let outcome = done(client.respond(exchange, format!("{without_proof},p={proof}").as_bytes()));
        assert_eq!(why(&outcome), Refusal::Credentials);
    }
}

#[test]
fn an_unknown_user_and_a_wrong_password_have_the_same_dialogue() {
    for hash in [Hash::Sha256, Hash::Sha512] {
        let dialogues: Vec<_> = ["alice", "bob", "carol", "eve"]
            .into_iter()
            .map(|who| {
                let mut client = Client::new(None);
                let (challenges, outcome) = client.scram(hash, who, "wrong");
                let first = String::from_utf8(challenges[0].clone()).unwrap();
                let shape: Vec<(char, usize)> =
                    first.split(',').map(|part| (part.chars().next().unwrap(), part.len())).collect();
                let iterations = first.rsplit(',').next().unwrap().to_owned();
                (challenges.len(), shape, iterations, outcome)
            })
            .collect();
        assert!(dialogues.iter().all(|dialogue| *dialogue == dialogues[0]), "{dialogues:?}");
    }
    let outcomes = |mechanism: &'static str| {
        ["alice", "bob", "carol"].map(|who| {
            let mut client = Client::new(Some(tls(None)));
            if mechanism == "PLAIN" {
                return client.once("PLAIN", format!("\0{who}\0wrong").as_bytes());
            }
            let (asked, exchange) = challenge(client.begin("LOGIN", Some(who.as_bytes())));
            assert_eq!(asked, b"Password:");
            done(client.respond(exchange, b"wrong"))
        })
    };
    for mechanism in ["PLAIN", "LOGIN"] {
        let [known, unknown, without_password] = outcomes(mechanism);
        assert_eq!(why(&known), Refusal::Credentials);
        assert_eq!((&known, &known), (&unknown, &without_password));
    }
}

#[test]
fn an_unknown_user_has_the_same_salt_each_time_and_another_than_others() {
    let salt = |who: &str| {
        let (challenges, _) = Client::new(None).scram(Hash::Sha256, who, "wrong");
        String::from_utf8(challenges[0].clone()).unwrap().split(',').nth(1).unwrap().to_owned()
    };
    assert_eq!(salt("bob"), salt("bob"));
    assert_eq!(salt("bob"), salt("BOB"));
    assert_ne!(salt("bob"), salt("eve"));
}

#[test]
fn a_verifier_that_tells_its_user_apart_is_known_as_one() {
    let policy = ServerPolicy::default();
    let password = Password::prepare("pencil").unwrap();
    assert!(!policy.tells_apart(&Verifier::new(Hash::Sha256, 4096, &password).unwrap()));
    assert!(policy.tells_apart(&Verifier::new(Hash::Sha256, 4097, &password).unwrap()));
    assert!(policy.tells_apart(&Verifier::derive(Hash::Sha256, 4096, b"eight oc", &password).unwrap()));
}

#[test]
fn external_is_whoever_the_verified_certificate_says_and_nobody_else() {
    let mut client = Client::new(Some(tls(Some((1, true)))));
    for authorization in ["", "alice", "ALICE"] {
        assert_eq!(client.once("EXTERNAL", authorization.as_bytes()), accepted("alice", Mechanism::External));
    }
    assert_eq!(why(&client.once("EXTERNAL", b"dave")), Refusal::Credentials);
    assert_eq!(why(&client.once("EXTERNAL", b"\xff")), Refusal::Malformed);
    let (challenge, exchange) = challenge(client.begin("EXTERNAL", None));
    assert!(challenge.is_empty());
    assert_eq!(done(client.respond(exchange, b"")), accepted("alice", Mechanism::External));
    let mut stranger = Client::new(Some(tls(Some((77, true)))));
    for authorization in ["", "alice"] {
        assert_eq!(why(&stranger.once("EXTERNAL", authorization.as_bytes())), Refusal::Credentials);
    }
}

#[test]
fn anonymous_is_whoever_says_nothing_that_harms_a_log() {
    let mut client = Client::new(None);
    let trace = "sirhc@example.org".to_owned();
    assert_eq!(client.once("ANONYMOUS", trace.as_bytes()), Outcome::Accepted(Identity::Anonymous { trace }));
    for trace in ["a\r\nb".to_owned(), "\0".to_owned(), "x".repeat(256)] {
        assert_eq!(why(&client.once("ANONYMOUS", trace.as_bytes())), Refusal::Malformed);
    }
}

#[test]
fn five_failures_refuse_a_name_from_its_network_by_every_mechanism_and_nowhere_else() {
    let mut client = Client::new(Some(tls(Some((1, true)))));
    let delays: Vec<u64> = (0..5)
        .map(|_| match client.once("PLAIN", b"\0alice\0wrong") {
            Outcome::Refused { why: Refusal::Credentials, reply_delay } => reply_delay.as_secs(),
            outcome => panic!("{outcome:?}"),
        })
        .collect();
    assert_eq!(delays, [1, 2, 4, 8, 8]);
    assert_eq!(why(&client.once("PLAIN", b"\0alice\0pencil")), Refusal::TooManyFailures);
    assert_eq!(why(&client.once("LOGIN", b"alice")), Refusal::TooManyFailures);
    assert_eq!(why(&client.once("SCRAM-SHA-256", b"n,,n=alice,r=abc")), Refusal::TooManyFailures);
    assert_eq!(
        client.once("EXTERNAL", b""),
        accepted("alice", Mechanism::External),
        "a certificate is not guessed"
    );
    let own = client.network;
    client.network = network("192.0.2.2");
    assert_eq!(client.once("PLAIN", b"\0alice\0pencil"), accepted("alice", Mechanism::Plain));
    client.network = own;
    client.now += Duration::from_secs(15 * 60);
    assert_eq!(client.once("PLAIN", b"\0alice\0pencil"), accepted("alice", Mechanism::Plain));
}

#[test]
fn unknown_names_are_refused_after_as_many_failures_as_known_ones() {
    for who in ["alice", "bob"] {
        let mut client = Client::new(None);
        let outcomes: Vec<Refusal> =
            (0..5).map(|_| why(&client.scram(Hash::Sha256, who, "wrong").1)).collect();
        assert_eq!(outcomes, [Refusal::Credentials; 5]);
        let first = format!("n,,n={who},r=abc");
        assert_eq!(why(&client.once("SCRAM-SHA-256", first.as_bytes())), Refusal::TooManyFailures);
    }
}

#[test]
fn exchanges_that_run_side_by_side_are_no_more_attempts() {
    let mut client = Client::new(Some(tls(None)));
    let exchanges: Vec<_> = (0..20).map(|_| challenge(client.begin("LOGIN", Some(b"alice"))).1).collect();
    let refusals: Vec<Refusal> =
        exchanges.into_iter().map(|exchange| why(&done(client.respond(exchange, b"wrong")))).collect();
    assert_eq!(refusals[..5], [Refusal::Credentials; 5]);
    assert_eq!(refusals[5..], [Refusal::TooManyFailures; 15]);
}

#[test]
fn what_is_malformed_is_no_failure_of_a_name() {
    let mut client = Client::new(None);
    for _ in 0..50 {
        let (_, exchange) = challenge(client.begin("SCRAM-SHA-256", Some(b"n,,n=alice,r=abc")));
        assert_eq!(why(&done(client.respond(exchange, b"c=biws"))), Refusal::Malformed);
    }
    assert_eq!(client.scram(Hash::Sha256, "alice", "pencil").1, accepted("alice", Mechanism::ScramSha256));
}

/// `rsasl` indexes parts of these messages without looking how long they are.
#[test]
fn messages_on_which_rsasl_panics_do_not_get_there() {
    let mut client = Client::new(None);
    for message in ["n,,", "n,a,n=alice,r=abc", "n,,n", "n,,n=alice,", "n,,,r=abc"] {
        assert_eq!(why(&client.once("SCRAM-SHA-256", message.as_bytes())), Refusal::Malformed, "{message}");
    }
    for message in ["", "c", "c=biws,", "c=biws,r=x,", "c=biws,r=x,p=eA==,"] {
        let (_, exchange) = challenge(client.begin("SCRAM-SHA-256", Some(b"n,,n=alice,r=abc")));
        assert_eq!(why(&done(client.respond(exchange, message.as_bytes()))), Refusal::Malformed, "{message}");
    }
}

fn begin_client(mechanism: &str) -> (Box<ClientExchange>, Vec<u8>) {
    let policy = ClientPolicy { mechanism_min: Mechanism::Plain, ..ClientPolicy::default() };
    let credentials = Credentials::of_password("alice", "pencil").unwrap().with_certificate();
    ClientExchange::begin(&policy, &credentials, true, [mechanism]).unwrap()
}

#[test]
fn our_client_is_accepted_by_our_server_by_every_mechanism_that_it_has() {
    for mechanism in [Mechanism::Plain, Mechanism::ScramSha256, Mechanism::ScramSha512, Mechanism::External] {
        let mut peer = Client::new(Some(tls(Some((1, true)))));
        let (mut exchange, initial_response) = begin_client(mechanism.name());
        let mut step = peer.begin(mechanism.name(), Some(&initial_response));
        let outcome = loop {
            match step {
                Step::Done(outcome) => break outcome,
                Step::Challenge { challenge, exchange: theirs } => {
                    let ClientStep::Respond { response, exchange: ours } =
                        exchange.handle(Said::Challenge(&challenge)).unwrap()
                    else {
                        panic!("nobody has accepted yet");
                    };
                    exchange = ours;
                    step = peer.respond(theirs, &response);
                }
            }
        };
        assert_eq!(outcome, accepted("alice", mechanism));
        assert!(matches!(exchange.handle(Said::Accepted), Ok(ClientStep::Accepted)));
    }
}

#[test]
fn our_client_escapes_its_name_and_prepares_its_password() {
    let policy = ClientPolicy { mechanism_min: Mechanism::Plain, ..ClientPolicy::default() };
    let credentials = Credentials::of_password("a,b=\u{aa}", "pen\u{ad}cil").unwrap();
    let (_, first) = ClientExchange::begin(&policy, &credentials, true, ["SCRAM-SHA-256"]).unwrap();
    assert!(first.starts_with(b"n,,n=a=2Cb=3Da,r="), "{}", String::from_utf8_lossy(&first));
    let (_, plain) = ClientExchange::begin(&policy, &credentials, true, ["PLAIN"]).unwrap();
    assert_eq!(plain, b"\0a,b=a\0pencil");
}

/// A server written from the RFC, up to the client's proof: what it has signed.
fn up_to_the_proof(count: u32) -> (Result<Box<ClientExchange>, ClientError>, Keys, String) {
    let (exchange, initial_response) = begin_client("SCRAM-SHA-256");
    let first = String::from_utf8(initial_response).unwrap();
    let bare = first.strip_prefix("n,,").unwrap();
    let nonce = bare.rsplit_once("r=").unwrap().1;
    let server_first = format!("r={nonce}3rfcNHYJY1ZVvWVs7j,s={},i={count}", STANDARD.encode(SALT));
    let keys = Keys::from_server_first(Hash::Sha256, &server_first, "pencil");
    match exchange.handle(Said::Challenge(server_first.as_bytes())) {
        Ok(ClientStep::Respond { response, exchange }) => {
            let last = String::from_utf8(response).unwrap();
            let (without_proof, proof) = last.rsplit_once(",p=").unwrap();
            let signed = format!("{bare},{server_first},{without_proof}");
            assert_eq!(proof, STANDARD.encode(keys.proof(&signed)));
            (Ok(exchange), keys, signed)
        }
        Ok(ClientStep::Accepted) => panic!("nobody has accepted"),
        Err(error) => (Err(error), keys, String::new()),
    }
}

#[test]
fn our_client_proves_its_password_and_wants_the_proof_of_the_server() {
    let (exchange, keys, signed) = up_to_the_proof(4096);
    let signature = format!("v={}", STANDARD.encode(keys.signature(&signed)));
    let step = exchange.unwrap().handle(Said::Challenge(signature.as_bytes())).unwrap();
    let ClientStep::Respond { response, exchange } = step else { panic!("235 has not come") };
    assert!(response.is_empty());
    assert!(matches!(exchange.handle(Said::Accepted), Ok(ClientStep::Accepted)));

    let (exchange, keys, _) = up_to_the_proof(4096);
    let wrong = format!("v={}", STANDARD.encode(keys.signature("something else")));
    assert_eq!(
        exchange.unwrap().handle(Said::Challenge(wrong.as_bytes())).unwrap_err(),
        ClientError::NotProven
    );
    let (exchange, ..) = up_to_the_proof(4096);
    assert_eq!(exchange.unwrap().handle(Said::Accepted).unwrap_err(), ClientError::NotProven);
    let (exchange, ..) = up_to_the_proof(4096);
    let error = exchange.unwrap().handle(Said::Challenge(b"e=invalid-proof")).unwrap_err();
    assert_eq!(error, ClientError::Refused);
    let (exchange, _) = begin_client("SCRAM-SHA-256");
    assert_eq!(exchange.handle(Said::Accepted).unwrap_err(), ClientError::NotProven);
}

#[test]
fn our_client_derives_neither_too_little_nor_too_much() {
    for (count, is_allowed) in [(1, false), (4095, false), (4096, true), (10_000, true), (200_001, false)] {
        let (exchange, ..) = up_to_the_proof(count);
        match exchange {
            Ok(_) => assert!(is_allowed, "{count}"),
            Err(error) => {
                assert!(!is_allowed, "{count}");
                assert_eq!(error, ClientError::Iterations { count: count.into(), max: 200_000 });
            }
        }
    }
    let (exchange, first) = begin_client("SCRAM-SHA-256");
    let nonce = String::from_utf8(first).unwrap().rsplit_once("r=").unwrap().1.to_owned();
    let endless = format!("r={nonce}x,s={},i=4294967296", STANDARD.encode(SALT));
    let error = exchange.handle(Said::Challenge(endless.as_bytes())).unwrap_err();
    assert_eq!(error, ClientError::Iterations { count: 1 << 32, max: 200_000 });
}

#[test]
fn our_client_does_not_answer_a_server_that_repeats_nothing_or_only_its_nonce() {
    for make in
        [|_: &str| "another".to_owned(), |nonce: &str| nonce.to_owned(), |nonce: &str| nonce[1..].to_owned()]
    {
        let (exchange, first) = begin_client("SCRAM-SHA-256");
        let nonce = String::from_utf8(first).unwrap().rsplit_once("r=").unwrap().1.to_owned();
        let server_first = format!("r={},s={},i=4096", make(&nonce), STANDARD.encode(SALT));
        let error = exchange.handle(Said::Challenge(server_first.as_bytes())).unwrap_err();
        assert_eq!(error, ClientError::Challenge);
    }
    let (exchange, _) = begin_client("PLAIN");
    assert_eq!(exchange.handle(Said::Challenge(b"more")).unwrap_err(), ClientError::Challenge);
}

#[test]
fn our_client_goes_no_lower_than_its_policy() {
    let credentials = Credentials::of_password("alice", "pencil").unwrap();
    let error =
        ClientExchange::begin(&ClientPolicy::default(), &credentials, true, ["PLAIN", "LOGIN"]).unwrap_err();
    assert_eq!(error, ClientError::NoMechanism { is_under_tls: true, mechanism_min: Mechanism::ScramSha256 });
}
