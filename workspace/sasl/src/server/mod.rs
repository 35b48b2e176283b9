//! The server: who is at the other end of a connection, by which mechanism.
//!
//! [`Authenticator::begin`] takes the mechanism and the initial response of AUTH, [`Exchange::respond`] each response that
//! follows, until a [`Step::Done`]. A client that cancels (`*`, RFC 4954, section 4) has its exchange dropped.
//!
//! Nobody is told whether a name is known. An unknown one has a verifier made from an HMAC of the name, with the iterations
//! of the policy, and everything is done with it that is done with a real one. A name that is known but has no verifier of
//! the mechanism's hash, a wrong password, and an identity that one is not give the same refusal after the same steps.
//! What remains visible is a verifier with other parameters than the policy's: [`ServerPolicy::tells_apart`].

mod concealment;
mod exchange;
mod mechanisms;

pub use concealment::ConcealmentKey;
pub use exchange::{Exchange, Outcome, Refusal, Step};

use crate::{Attempts, ClientNetwork, Hash, Mechanism, Name, SALT_OCTETS, Verifier};
use std::fmt;
use std::sync::Arc;
use std::time::Instant;
use sternpost_message::{PeerCertificate, TlsFacts};

/// A user as the store knows him.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name by which he is known from here on. It may be another one than that which the client has said.
    pub name: Name,
    /// Verifiers of his password, one for each hash. Empty for a user without a password.
    pub verifiers: Vec<Verifier>,
}

/// Where users are found. To find one takes as long as to find none.
pub trait Users: Send + Sync {
    /// The user of that name. None: there is none, or he may not use this switch.
    fn find(&self, name: &Name) -> Option<User>;

    /// The user to whom a certificate belongs that was verified, with the names of [`Connection::names`]. A subject of [`PeerCertificate::SUBJECT_OCTETS_MAX`] octets
    /// may have been cut, so no user is to be found by it.
    fn find_by_certificate(&self, certificate: &PeerCertificate, names: &[String]) -> Option<User>;
}

/// What a listener allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerPolicy {
    /// The mechanisms that may be offered. PLAIN and LOGIN are only under TLS whatever stands here, EXTERNAL only to whom has
    /// shown a certificate that was verified. A mechanism of SCRAM stands here only if users have verifiers of its hash:
    /// clients choose the strongest, and none of them tries another one with the same password.
    pub mechanisms: Vec<Mechanism>,
    /// The hash by which PLAIN and LOGIN check, where a user has a verifier of it. Unknown users are checked by it, so that a
    /// user who has only another one can be told apart by the time that it takes.
    pub hash: Hash,
    /// The iterations that unknown users have: those of the users that are known, which should all have the same.
    pub iterations: u32,
}

impl Default for ServerPolicy {
    fn default() -> Self {
        Self {
            mechanisms: vec![Mechanism::External, Mechanism::ScramSha256, Mechanism::Plain, Mechanism::Login],
            hash: Hash::Sha256,
            iterations: crate::ITERATIONS_MIN,
        }
    }
}

impl ServerPolicy {
    /// The mechanisms that a connection is offered, the strongest first.
    #[must_use]
    pub fn offered(&self, is_under_tls: bool, has_verified_certificate: bool) -> Vec<Mechanism> {
        let is_offered = |mechanism: &Mechanism| {
            self.mechanisms.contains(mechanism)
                && match mechanism {
                    Mechanism::Plain | Mechanism::Login => is_under_tls,
                    Mechanism::External => is_under_tls && has_verified_certificate,
                    Mechanism::ScramSha256 | Mechanism::ScramSha512 | Mechanism::Anonymous => true,
                }
        };
        Mechanism::ALL.into_iter().filter(is_offered).collect()
    }

    /// Whether a client could tell the user of this verifier from an unknown one, by its iterations or the length of its
    /// salt. The reader of the directory warns of it.
    #[must_use]
    pub fn tells_apart(&self, verifier: &Verifier) -> bool {
        verifier.iterations() != self.iterations || verifier.salt().len() != SALT_OCTETS
    }
}

/// The connection on which somebody authenticates.
#[derive(Clone, Copy, Debug)]
pub struct Connection<'a> {
    /// Where its client is.
    pub network: ClientNetwork,
    /// Its TLS, after the handshake.
    pub tls: Option<&'a TlsFacts>,
    /// The names in the subjectAltName of its certificate, in the form that the store of users has.
    pub names: &'a [String],
}

impl Connection<'_> {
    /// The client's certificate, if it was verified.
    fn verified_certificate(&self) -> Option<&PeerCertificate> {
        self.tls?.peer.as_ref().filter(|certificate| certificate.is_verified)
    }

    /// The mechanisms that it is offered by a policy.
    #[must_use]
    pub fn offered(&self, policy: &ServerPolicy) -> Vec<Mechanism> {
        policy.offered(self.tls.is_some(), self.verified_certificate().is_some())
    }
}

/// Who somebody has turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// A user, who acts as himself.
    User {
        /// The name that the store has for him.
        name: Name,
        /// How he has shown it.
        mechanism: Mechanism,
    },
    /// Nobody in particular.
    Anonymous {
        /// What the client says of itself, at most 255 characters, none of control (RFC 4505, section 2). Proves nothing.
        trace: String,
    },
}

/// Finds out who clients are: a policy, the users and the key by which unknown users are concealed.
pub struct Authenticator {
    policy: ServerPolicy,
    users: Arc<dyn Users>,
    concealment: ConcealmentKey,
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl Authenticator {
    /// An authenticator of a listener. The key is the switch's own and stays the same for its life.
    #[must_use]
    pub fn new(policy: ServerPolicy, users: Arc<dyn Users>, concealment: ConcealmentKey) -> Self {
        Self { policy, users, concealment }
    }

    /// What the listener allows.
    #[must_use]
    pub const fn policy(&self) -> &ServerPolicy {
        &self.policy
    }

    /// Begins an exchange by a client's AUTH: the mechanism that it names, and its initial response, decoded, if it has sent
    /// one (`=` is an empty one).
    pub fn begin(
        self: &Arc<Self>,
        now: Instant,
        attempts: &mut Attempts,
        connection: &Connection<'_>,
        mechanism: &str,
        initial_response: Option<&[u8]>,
    ) -> Step {
        Exchange::begin(self, now, attempts, connection, mechanism, initial_response)
    }

    /// The user of a name with a verifier of a hash, or one that nobody's password fits. Without a hash: of the policy's if
    /// the user has one, else of another.
    fn look_up(&self, name: &Name, hash: Option<Hash>) -> (Option<User>, Verifier) {
        let concealing =
            self.concealment.verifier(name, hash.unwrap_or(self.policy.hash), self.policy.iterations);
        let user = self.users.find(name);
        let of_hash = |hash| {
            let verifiers = &user.as_ref()?.verifiers;
            verifiers.iter().find(|verifier| verifier.hash() == hash).cloned()
        };
        let real = match hash {
            Some(hash) => of_hash(hash),
            None => {
                of_hash(self.policy.hash).or_else(|| of_hash(Hash::Sha512)).or_else(|| of_hash(Hash::Sha256))
            }
        };
        match real {
            Some(verifier) => (user, verifier),
            None => (None, concealing),
        }
    }
}
