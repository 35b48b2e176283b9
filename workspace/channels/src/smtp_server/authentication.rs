//! Who clients are: the users of the configuration as `sasl` asks for them, and the gate through which every step of an
//! authentication goes.
//!
//! What a step costs is not the client's to choose, yet PLAIN and LOGIN cost a derivation of a key: a millisecond for 4,096
//! iterations, 20 at the most that the configuration allows. So one step is done at a time, in the order in which they came, and
//! behind each the gate is shut for three times as long as it took: all authentications together have a quarter of the process at
//! most, however many ask, and other sessions wait for one derivation and no more. Who would have to wait behind too many others
//! is told to come again.

use rustc_hash::FxHashMap;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;
use sternpost_config::{
    AuthenticationPolicy, CertificateName, ConcealmentSecret, ListenerAuthentication, User,
};
use sternpost_message::{EnhancedStatus, PeerCertificate};
use sternpost_sasl as sasl;
use sternpost_sasl::{
    Attempts, AttemptsPolicy, Authenticator, ConcealmentKey, Hash, Mechanism, Name, Refusal, Step, Users,
    Verifier,
};
use sternpost_smtp::reply::Reply;
use sternpost_smtp::server::{Answer, Authentication};
use sternpost_submission::Identity;
use tokio::sync::Mutex;

/// Steps that wait at the gate: at a millisecond and the pause behind it, a second's worth.
const WAITING_MAX: usize = 256;
/// The pause behind a step, in times of the step.
const PAUSE_FACTOR: u32 = 3;

/// Where all authentications pass, one step at a time.
#[derive(Debug)]
pub(super) struct Gate {
    /// The failures that are remembered, of all listeners.
    attempts: RefCell<Attempts>,
    /// When the next step may be done.
    opens_at: Mutex<Instant>,
    waiting: Cell<usize>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            attempts: RefCell::new(Attempts::new(AttemptsPolicy::default())),
            opens_at: Mutex::new(Instant::now()),
            waiting: Cell::new(0),
        }
    }
}

/// Somebody who waits, until he does not.
struct Waiter<'a>(&'a Cell<usize>);

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Gate {
    /// Does a step when its turn comes. None: too many wait.
    pub(super) async fn step(&self, step: impl FnOnce(Instant, &mut Attempts) -> Step) -> Option<Step> {
        if self.waiting.get() >= WAITING_MAX {
            return None;
        }
        self.waiting.set(self.waiting.get() + 1);
        let waiter = Waiter(&self.waiting);
        let mut opens_at = self.opens_at.lock().await;
        tokio::time::sleep_until((*opens_at).into()).await;
        let begin = Instant::now();
        let done = step(begin, &mut self.attempts.borrow_mut());
        *opens_at = Instant::now() + begin.elapsed() * PAUSE_FACTOR;
        drop(waiter);
        Some(done)
    }
}

/// The users of a generation of the configuration.
#[derive(Debug)]
pub(super) struct UserTable {
    users: Vec<(sasl::User, Arc<Identity>)>,
    by_name: FxHashMap<Name, usize>,
    by_entry: FxHashMap<String, usize>,
    /// None for what is said of two users: then it is neither.
    by_certificate: BTreeMap<CertificateName, Option<usize>>,
}

impl UserTable {
    /// What cannot be used is said, and left out.
    pub(super) fn new(users: &[User]) -> Self {
        let mut table = Self {
            users: Vec::with_capacity(users.len()),
            by_name: FxHashMap::default(),
            by_entry: FxHashMap::default(),
            by_certificate: BTreeMap::new(),
        };
        for user in users {
            table.add(user);
        }
        table
    }

    fn add(&mut self, user: &User) {
        let name = match Name::prepare(&user.user_name) {
            Ok(name) if !self.by_name.contains_key(&name) => name,
            Ok(_) => return say(user, "another user has the same name"),
            Err(error) => return say(user, &format!("its name cannot be used: {error}")),
        };
        let mut verifiers = Vec::new();
        for verifier in &user.verifiers {
            match Verifier::parse(verifier.secret_text()) {
                Ok(verifier) => verifiers.push(verifier),
                Err(error) => say(user, &error.to_string()),
            }
        }
        let index = self.users.len();
        for certificate in &user.certificates {
            let of = self.by_certificate.entry(certificate.clone()).or_insert(Some(index));
            if *of != Some(index) {
                *of = None;
                say(user, "another user has the same certificate, so it is neither's");
            }
        }
        self.by_name.insert(name.clone(), index);
        self.by_entry.insert(user.name.clone(), index);
        let identity = Identity { name: user.name.clone(), senders: user.senders.clone() };
        self.users.push((sasl::User { name, verifiers }, Arc::new(identity)));
    }

    /// Who that is, as far as mail is concerned.
    pub(super) fn identity(&self, name: &Name) -> Option<Arc<Identity>> {
        self.by_name.get(name).map(|&index| Arc::clone(&self.users[index].1))
    }

    /// The same by the name of the entry.
    pub(super) fn identity_of(&self, entry: &str) -> Option<Arc<Identity>> {
        self.by_entry.get(entry).map(|&index| Arc::clone(&self.users[index].1))
    }

    fn verifiers(&self) -> impl Iterator<Item = &Verifier> {
        self.users.iter().flat_map(|(user, _)| &user.verifiers)
    }

    /// Whether all users that have a password have a verifier of this hash: a client that is offered it tries no other one.
    fn all_have(&self, hash: Hash) -> bool {
        let has = |user: &sasl::User| user.verifiers.iter().any(|verifier| verifier.hash() == hash);
        self.users.iter().all(|(user, _)| user.verifiers.is_empty() || has(user))
    }

    /// The hash and the iterations that most verifiers have: those that unknown users seem to have.
    fn prevailing(&self) -> Option<(Hash, u32)> {
        let mut counts: BTreeMap<(Hash, u32), usize> = BTreeMap::new();
        for verifier in self.verifiers() {
            *counts.entry((verifier.hash(), verifier.iterations())).or_default() += 1;
        }
        counts.into_iter().max_by_key(|&(kind, count)| (count, kind)).map(|(kind, _)| kind)
    }
}

fn say(user: &User, why: &str) {
    tracing::error!(event = "user.wrong", user = user.name, why, "something of a user cannot be used");
}

impl Users for UserTable {
    fn find(&self, name: &Name) -> Option<sasl::User> {
        self.by_name.get(name).map(|&index| self.users[index].0.clone())
    }

    fn find_by_certificate(&self, certificate: &PeerCertificate, names: &[String]) -> Option<sasl::User> {
        let named = names.iter().filter_map(|name| name.parse().ok());
        let mut found: Vec<usize> = named
            .chain([CertificateName::Sha256(certificate.fingerprint)])
            .filter_map(|name| self.by_certificate.get(&name).copied())
            // One of nobody in particular stands against all others.
            .map(|index| index.unwrap_or(usize::MAX))
            .collect();
        found.dedup();
        match found.as_slice() {
            [index] => self.users.get(*index).map(|(user, _)| user.clone()),
            _ => None,
        }
    }
}

/// What the session says of AUTH.
pub(super) const fn of(wanted: &ListenerAuthentication) -> Authentication {
    match wanted.policy {
        AuthenticationPolicy::None => Authentication::Absent,
        AuthenticationPolicy::Offered => Authentication::Offered,
        AuthenticationPolicy::Required => Authentication::Required,
    }
}

/// What finds out who the clients of a listener are; none where nobody asks.
pub(super) fn authenticator(
    wanted: &ListenerAuthentication,
    users: &Arc<UserTable>,
    concealment: &ConcealmentSecret,
) -> Option<Arc<Authenticator>> {
    if wanted.policy == AuthenticationPolicy::None {
        return None;
    }
    let is_offered = |mechanism: &Mechanism| mechanism.hash().is_none_or(|hash| users.all_have(hash));
    let mechanisms = wanted.mechanisms.iter().filter_map(|mechanism| Mechanism::from_name(mechanism.name()));
    let mut policy = sasl::ServerPolicy {
        mechanisms: mechanisms.filter(is_offered).collect(),
        ..sasl::ServerPolicy::default()
    };
    if let Some((hash, iterations)) = users.prevailing() {
        (policy.hash, policy.iterations) = (hash, iterations);
    }
    let telling = users.verifiers().filter(|verifier| policy.tells_apart(verifier)).count();
    if telling > 0 {
        tracing::warn!(
            event = "user.tells-apart",
            verifiers = telling,
            iterations = policy.iterations,
            "verifiers with other iterations or salts than most let a stranger find out that their users exist; make them anew"
        );
    }
    let users: Arc<dyn Users> = Arc::clone(users) as _;
    Some(Arc::new(Authenticator::new(policy, users, ConcealmentKey::new(&concealment.0))))
}

/// How a refusal is said. RFC 4954, section 6, and RFC 5248.
pub(super) fn reply(why: Refusal) -> Answer {
    let (code, class, subject, detail, text) = match why {
        Refusal::Mechanism => (504, 5, 5, 4, "This mechanism is not offered"),
        Refusal::NeedsTls => (538, 5, 7, 11, "This mechanism is offered under TLS alone"),
        Refusal::Malformed => (501, 5, 5, 2, "The response is malformed"),
        Refusal::TooLong => (500, 5, 5, 6, "The response is too long"),
        Refusal::Credentials => (535, 5, 7, 8, "The credentials are not valid"),
        Refusal::TooManyFailures => (454, 4, 7, 0, "Too many attempts have failed, try again later"),
    };
    Answer::Reject(Reply::new(code, Some(EnhancedStatus::new(class, subject, detail)), text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use sternpost_sasl::Password;

    fn users(tables: &str) -> Vec<User> {
        let text = format!("[node]\nhostname = \"relay.example\"\n{tables}");
        let entries = sternpost_config::entries_from_tables(&text).unwrap();
        sternpost_config::load(&entries, "").configuration.unwrap().users
    }

    fn verifier(hash: Hash, iterations: u32) -> String {
        Verifier::new(hash, iterations, &Password::prepare("pencil").unwrap()).unwrap().to_text()
    }

    fn user(name: &str, verifiers: &[String], more: &str) -> String {
        format!("[[user]]\nname = \"{name}\"\nuser_verifiers = {verifiers:?}\n{more}\n")
    }

    /// The configuration reads the form for itself: what it takes must be what is understood here.
    #[test]
    fn every_verifier_that_is_made_passes_the_configuration_and_is_understood_behind_it() {
        let both = [verifier(Hash::Sha256, 4096), verifier(Hash::Sha512, 100_000)];
        let table = UserTable::new(&users(&user("alice", &both, "")));
        let found = table.find(&Name::prepare("ALICE").unwrap()).unwrap();
        assert_eq!(found.verifiers.iter().map(Verifier::to_text).collect::<Vec<_>>(), both);
    }

    #[test]
    fn a_scram_is_offered_where_all_who_have_a_password_can_use_it() {
        let (short, long) = (verifier(Hash::Sha256, 4096), verifier(Hash::Sha512, 4096));
        let offered = |tables: &str| {
            let table = Arc::new(UserTable::new(&users(tables)));
            let wanted = ListenerAuthentication {
                policy: AuthenticationPolicy::Offered,
                ..ListenerAuthentication::default()
            };
            let made = authenticator(&wanted, &table, &ConcealmentSecret([1; 32])).unwrap();
            made.policy().offered(false, false)
        };
        let certified = "[[user]]\nname = \"c\"\nuser_certificates = [\"dns:c.example\"]\n";
        let one = user("a", std::slice::from_ref(&short), "");
        assert_eq!(offered(&format!("{one}{certified}")), [Mechanism::ScramSha256]);
        assert_eq!(
            offered(&user("a", &[short, long.clone()], "")),
            [Mechanism::ScramSha512, Mechanism::ScramSha256]
        );
        assert!(offered(&(one + &user("b", &[long], ""))).is_empty());
    }

    #[test]
    fn a_certificate_is_one_users_or_nobodys() {
        let tables = "[[user]]\nname = \"a\"\nuser_certificates = [\"email:a@x.example\", \"dns:both.example\"]\n\
                      [[user]]\nname = \"b\"\nuser_certificates = [\"email:b@x.example\", \"dns:both.example\"]\n";
        let table = UserTable::new(&users(tables));
        let find = |names: &[&str]| {
            let certificate =
                PeerCertificate { subject: "CN=a".to_owned(), fingerprint: [0; 32], is_verified: true };
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            table.find_by_certificate(&certificate, &names).map(|user| user.name.as_str().to_owned())
        };
        assert_eq!(find(&["email:a@x.example"]).as_deref(), Some("a"));
        assert_eq!(find(&["dns:other.example", "email:b@x.example"]).as_deref(), Some("b"));
        for names in [
            &[][..],
            &["dns:a@x.example"],
            &["dns:both.example"],
            &["email:a@x.example", "email:b@x.example"],
            &["email:a@x.example", "dns:both.example"],
        ] {
            assert_eq!(find(names), None, "{names:?}");
        }
    }

    #[test]
    fn every_refusal_has_the_codes_of_its_rfc() {
        let rows = [
            (Refusal::Mechanism, "504 5.5.4"),
            (Refusal::NeedsTls, "538 5.7.11"),
            (Refusal::Malformed, "501 5.5.2"),
            (Refusal::TooLong, "500 5.5.6"),
            (Refusal::Credentials, "535 5.7.8"),
            (Refusal::TooManyFailures, "454 4.7.0"),
        ];
        for (why, codes) in rows {
            let Answer::Reject(said) = reply(why) else { panic!("a refusal is said") };
            let mut octets = Vec::new();
            said.encode_into(&mut octets);
            assert!(String::from_utf8(octets).unwrap().starts_with(codes), "{why}");
        }
    }

    #[tokio::test]
    async fn the_gate_lets_one_step_through_at_a_time_and_turns_away_whoever_would_wait_too_long() {
        let gate = Gate::default();
        let refused =
            || Step::Done(sasl::Outcome::Refused { why: Refusal::Credentials, reply_delay: Duration::ZERO });
        let held = gate.opens_at.lock().await;
        let waiting: Vec<_> = (0..WAITING_MAX).map(|_| Box::pin(gate.step(|_, _| refused()))).collect();
        let mut waiting: Vec<_> = waiting.into_iter().map(tokio_test_poll).collect();
        assert_eq!(gate.waiting.get(), WAITING_MAX);
        assert!(gate.step(|_, _| refused()).await.is_none(), "one too many");
        // One of them goes away, and there is room for another.
        waiting.pop();
        assert_eq!(gate.waiting.get(), WAITING_MAX - 1);
        drop(held);
        for step in waiting {
            assert!(step.await.is_some());
        }
        assert_eq!(gate.waiting.get(), 0);
        let before = Instant::now();
        gate.step(|_, _| {
            std::thread::sleep(Duration::from_millis(2));
            refused()
        })
        .await;
        assert!(
            *gate.opens_at.lock().await >= before + Duration::from_millis(8),
            "three times as long it is shut"
        );
    }

    /// Polls a future once, so that it waits.
    fn tokio_test_poll<F: Future + Unpin>(mut future: F) -> F {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(std::pin::Pin::new(&mut future).poll(&mut context).is_pending());
        future
    }
}
