//! Entry points for fuzzing, which plain tests also run over `tests/corpus`. Each asserts what must hold whatever the octets
//! are.

use crate::{
    Attempts, AttemptsPolicy, Authenticator, ClientExchange, ClientNetwork, ClientPolicy, ClientStep,
    ConcealmentKey, Connection, Credentials, Hash, Identity, MESSAGE_OCTETS_MAX, Mechanism, Name, Outcome,
    Password, Said, ServerPolicy, Step, User, Users, Verifier,
};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, LazyLock};
use std::time::Instant;
use sternpost_message::{PeerCertificate, TlsFacts};

/// What stands in the octets for the nonce of the other end, which they cannot know.
const NONCE: &[u8] = b"{nonce}";

struct OneUser(User);

impl Users for OneUser {
    fn find(&self, name: &Name) -> Option<User> {
        (*name == self.0.name).then(|| self.0.clone())
    }

    fn find_by_certificate(&self, _: &PeerCertificate, _: &[String]) -> Option<User> {
        Some(self.0.clone())
    }
}

/// The user `user` with the password `pencil`, as the examples of RFC 7677 have him.
fn authenticator() -> Arc<Authenticator> {
    static AUTHENTICATOR: LazyLock<Arc<Authenticator>> = LazyLock::new(|| {
        let password = Password::prepare("pencil").expect("it is ASCII");
        let verifier =
            |hash| Verifier::derive(hash, 4096, &[7; 16], &password).expect("it is within the bounds");
        let user = User {
            name: Name::prepare("user").expect("it is ASCII"),
            verifiers: vec![verifier(Hash::Sha256), verifier(Hash::Sha512)],
        };
        let policy = ServerPolicy { mechanisms: Mechanism::ALL.to_vec(), ..ServerPolicy::default() };
        Arc::new(Authenticator::new(policy, Arc::new(OneUser(user)), ConcealmentKey::new(&[7; 32])))
    });
    Arc::clone(&AUTHENTICATOR)
}

fn tls(is_verified: bool) -> TlsFacts {
    TlsFacts {
        version: "TLSv1.3".to_owned(),
        cipher_suite: "TLS_AES_128_GCM_SHA256".to_owned(),
        group: None,
        peer: Some(PeerCertificate { subject: "CN=user".to_owned(), fingerprint: [7; 32], is_verified }),
    }
}

/// The messages in `octets`, one a line. `{nonce}` becomes what the other end has said last as `r=`.
fn messages(octets: &[u8]) -> impl Iterator<Item = &[u8]> {
    octets.split(|&octet| octet == b'\n')
}

fn with_nonce(message: &[u8], nonce: &[u8]) -> Vec<u8> {
    match message.windows(NONCE.len()).position(|window| window == NONCE) {
        Some(at) => [&message[..at], nonce, &message[at + NONCE.len()..]].concat(),
        None => message.to_vec(),
    }
}

fn nonce_of(message: &[u8]) -> Option<Vec<u8>> {
    let part = message.split(|&octet| octet == b',').find_map(|part| part.strip_prefix(b"r="));
    part.map(<[u8]>::to_vec)
}

/// Plays a client against the server: the first octet chooses the mechanism, the TLS and whether the first message comes with
/// AUTH, each line of the rest is a message.
///
/// # Panics
/// When an invariant is broken.
pub fn fuzz_server(data: &[u8]) {
    let [choice, lines @ ..] = data else { return };
    let mechanism = Mechanism::ALL[usize::from(*choice) % Mechanism::ALL.len()];
    let tls = tls(choice & 0x20 != 0);
    let tls = (choice & 0x40 != 0).then_some(&tls);
    let network = ClientNetwork::from(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let connection = Connection { network, tls, names: &[] };
    let (authenticator, now) = (authenticator(), Instant::now());
    let mut attempts = Attempts::new(AttemptsPolicy::default());
    let mut lines = messages(lines);
    let initial_response = if choice & 0x80 == 0 { None } else { lines.next() };
    let is_offered = connection.offered(authenticator.policy()).contains(&mechanism);
    let mut step = authenticator.begin(now, &mut attempts, &connection, mechanism.name(), initial_response);
    let mut nonce = Vec::new();
    let mut challenges = 0;
    loop {
        match step {
            Step::Challenge { challenge, exchange } => {
                assert!(is_offered, "what is not offered does not begin");
                challenges += 1;
                assert!(challenges <= 4, "an exchange ends");
                assert!(challenge.len() <= MESSAGE_OCTETS_MAX, "a challenge is short");
                nonce = nonce_of(&challenge).unwrap_or(nonce);
                let Some(line) = lines.next() else { return };
                step = exchange.respond(now, &mut attempts, &with_nonce(line, &nonce));
            }
            Step::Done(Outcome::Accepted(Identity::User { name, mechanism: shown })) => {
                assert!(is_offered && shown == mechanism && name.as_str() == "user");
                return;
            }
            Step::Done(Outcome::Accepted(Identity::Anonymous { trace })) => {
                assert!(mechanism == Mechanism::Anonymous && !trace.chars().any(char::is_control));
                return;
            }
            Step::Done(Outcome::Refused { .. }) => return,
        }
    }
}

/// Plays a server against the client: the first octet chooses the mechanism, each line of the rest is a challenge, or that
/// the client is accepted where it is `235`.
///
/// # Panics
/// When an invariant is broken.
pub fn fuzz_client(data: &[u8]) {
    let [choice, lines @ ..] = data else { return };
    let offered = ["SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN", "EXTERNAL"][usize::from(*choice) % 4];
    // So many that a fuzzer is not kept busy by a count of the peer's.
    let policy = ClientPolicy { mechanism_min: Mechanism::Plain, iterations_max: 5000 };
    let credentials = Credentials::of_password("user", "pencil").expect("both are ASCII").with_certificate();
    let (mut exchange, initial_response) =
        ClientExchange::begin(&policy, &credentials, true, [offered]).expect("each of them can be chosen");
    let mut nonce = nonce_of(&initial_response).unwrap_or_default();
    let is_scram = exchange.mechanism().hash().is_some();
    for (round, line) in messages(lines).enumerate() {
        let challenge = with_nonce(line, &nonce);
        let said = if line == b"235" { Said::Accepted } else { Said::Challenge(&challenge) };
        match exchange.handle(said) {
            Ok(ClientStep::Respond { response, exchange: next }) => {
                assert!(is_scram && round < 2, "an exchange ends");
                nonce = nonce_of(&response).unwrap_or(nonce);
                exchange = next;
            }
            Ok(ClientStep::Accepted) => {
                assert!(!is_scram, "nobody makes up the signature of a server");
                return;
            }
            Err(_) => return,
        }
    }
}

/// Reads a verifier, as the directory has it. What is one is written and reads as the same.
///
/// # Panics
/// When an invariant is broken.
pub fn fuzz_verifier(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(verifier) = Verifier::parse(text) {
        assert_eq!(Verifier::parse(&verifier.to_text()), Ok(verifier));
    }
}
