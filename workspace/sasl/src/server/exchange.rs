//! One exchange with a client, named by what it awaits.

use super::mechanisms::{Facts, Running, Stepped, Verdict};
use super::{Authenticator, Connection, Identity, User};
use crate::syntax::{self, ClientFirst, Malformed, Plain};
use crate::{Attempts, ClientNetwork, MESSAGE_OCTETS_MAX, Mechanism, Name};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What LOGIN asks for. Clients in the field look at these words, which are other ones than those of the draft.
const LOGIN_NAME: &[u8] = b"Username:";
const LOGIN_PASSWORD: &[u8] = b"Password:";

/// The longest trace of ANONYMOUS, in characters (RFC 4505, section 2).
const TRACE_CHARACTERS_MAX: usize = 255;

/// What is to be done next.
#[derive(Debug)]
pub enum Step {
    /// The client is to be sent a challenge (334, it may be empty), and its response goes to the exchange.
    Challenge {
        /// What is sent, without base64.
        challenge: Vec<u8>,
        /// What awaits the response.
        exchange: Box<Exchange>,
    },
    /// The exchange is over.
    Done(Outcome),
}

/// How an exchange has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The client is who it says (235).
    Accepted(Identity),
    /// It is not, or cannot be asked.
    Refused {
        /// Why, as far as the client may know.
        why: Refusal,
        /// How long to wait before it is told.
        reply_delay: Duration,
    },
}

/// Why a client is refused. With the replies of RFC 4954, section 6, and RFC 5248.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A mechanism that is not there or not allowed: 504 5.5.4.
    #[error("the mechanism is not offered")]
    Mechanism,
    /// One that is allowed only under TLS: 538 5.7.11.
    #[error("the mechanism is offered only under TLS")]
    NeedsTls,
    /// A message that is not of the mechanism's grammar, or a name that can be none: 501 5.5.2.
    #[error("the response is malformed")]
    Malformed,
    /// A message longer than [`MESSAGE_OCTETS_MAX`]: 500 5.5.6.
    #[error("the response is too long")]
    TooLong,
    /// Name and password, proof or certificate do not fit, or the client may not act as whom it asks to: 535 5.7.8.
    #[error("the credentials are not valid")]
    Credentials,
    /// Too many have failed: 454 4.7.0.
    #[error("too many attempts have failed, try again later")]
    TooManyFailures,
}

/// An exchange that awaits a response.
pub struct Exchange {
    authenticator: Arc<Authenticator>,
    network: ClientNetwork,
    mechanism: Mechanism,
    /// The user of the certificate, for EXTERNAL.
    certified: Option<User>,
    awaits: Awaits,
}

enum Awaits {
    /// The client's first message, which did not come with AUTH.
    First,
    /// LOGIN's name.
    Name,
    /// LOGIN's password.
    Password(Trial),
    /// The proof of SCRAM.
    Proof(Trial),
    /// The empty response to the server's signature, which goes out as a challenge because 235 cannot carry it.
    Acknowledgement(Identity),
}

/// Somebody with a name, who has to show that it is his.
struct Trial {
    /// What the client calls himself: failures are counted under it.
    name: Name,
    /// The user of the name, where there is one who can be accepted.
    user: Option<User>,
    running: Running,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("mechanism", &self.mechanism).finish_non_exhaustive()
    }
}

/// The time and the failures that are remembered: what every step is given.
struct Watch<'a> {
    now: Instant,
    attempts: &'a mut Attempts,
}

impl From<Malformed> for Refusal {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl Exchange {
    pub(super) fn begin(
        authenticator: &Arc<Authenticator>,
        now: Instant,
        attempts: &mut Attempts,
        connection: &Connection<'_>,
        mechanism: &str,
        initial_response: Option<&[u8]>,
    ) -> Step {
        let offered = connection.offered(&authenticator.policy);
        let Some(mechanism) = Mechanism::from_name(mechanism) else {
            return refused(Refusal::Mechanism, Duration::ZERO);
        };
        if !offered.contains(&mechanism) {
            let is_allowed = authenticator.policy.mechanisms.contains(&mechanism);
            let needs_tls = is_allowed && connection.tls.is_none() && mechanism != Mechanism::Anonymous;
            let why = if needs_tls { Refusal::NeedsTls } else { Refusal::Mechanism };
            return refused(why, Duration::ZERO);
        }
        let certified = connection
            .verified_certificate()
            .filter(|_| mechanism == Mechanism::External)
            .and_then(|certificate| authenticator.users.find_by_certificate(certificate, connection.names));
        let awaits = if mechanism == Mechanism::Login { Awaits::Name } else { Awaits::First };
        let exchange = Box::new(Self {
            authenticator: Arc::clone(authenticator),
            network: connection.network,
            mechanism,
            certified,
            awaits,
        });
        match initial_response {
            // RFC 4954 has no initial response for LOGIN; clients send the name nevertheless.
            Some(response) => exchange.respond(now, attempts, response),
            None => {
                let challenge = if mechanism == Mechanism::Login { LOGIN_NAME } else { b"" };
                Step::Challenge { challenge: challenge.to_vec(), exchange }
            }
        }
    }

    /// Takes the client's response, decoded.
    #[must_use]
    pub fn respond(self: Box<Self>, now: Instant, attempts: &mut Attempts, response: &[u8]) -> Step {
        let mut watch = Watch { now, attempts };
        if response.len() > MESSAGE_OCTETS_MAX {
            return refused(Refusal::TooLong, Duration::ZERO);
        }
        self.take(&mut watch, response).unwrap_or_else(|why| {
            let reply_delay = match why {
                Refusal::TooManyFailures => watch.attempts.refusal_reply_delay(),
                _ => Duration::ZERO,
            };
            refused(why, reply_delay)
        })
    }

    fn take(self: Box<Self>, watch: &mut Watch<'_>, response: &[u8]) -> Result<Step, Refusal> {
        match (&self.awaits, self.mechanism) {
            (Awaits::First, Mechanism::Plain) => self.take_plain(watch, response),
            (Awaits::First, Mechanism::External) => self.take_external(watch, response),
            (Awaits::First, Mechanism::Anonymous) => self.take_anonymous(response),
            (Awaits::First, _) => self.take_client_first(watch, response),
            (Awaits::Name, _) => self.take_login_name(watch, response),
            _ => self.take_last(watch, response),
        }
    }

    fn take_plain(self: Box<Self>, watch: &mut Watch<'_>, response: &[u8]) -> Result<Step, Refusal> {
        let Plain { authorization, name } = Plain::parse(response)?;
        let trial = self.trial(watch, name, authorization)?;
        let (stepped, _) = trial.running.step(Some(response))?;
        Ok(self.concluded(watch, &trial.name, trial.user, stepped))
    }

    fn take_external(self: Box<Self>, watch: &mut Watch<'_>, response: &[u8]) -> Result<Step, Refusal> {
        let authorization = str::from_utf8(response).map_err(|_| Refusal::Malformed)?;
        let is_himself = |user: &User| authorizes(authorization, &[&user.name]);
        let if_proven =
            if self.certified.as_ref().is_some_and(is_himself) { Verdict::Accept } else { Verdict::Reject };
        let running = Running::new(self.mechanism, Facts { verifier: None, if_proven });
        let (stepped, _) = running.step(Some(response))?;
        // Nothing was guessed, so nothing is counted: the certificate was verified.
        let (Stepped::Done(Verdict::Accept, _), Some(user)) = (stepped, &self.certified) else {
            return Ok(refused(Refusal::Credentials, watch.attempts.nameless_reply_delay()));
        };
        let identity = Identity::User { name: user.name.clone(), mechanism: self.mechanism };
        Ok(Step::Done(Outcome::Accepted(identity)))
    }

    fn take_anonymous(self: Box<Self>, response: &[u8]) -> Result<Step, Refusal> {
        let trace = str::from_utf8(response).map_err(|_| Refusal::Malformed)?;
        if trace.chars().count() > TRACE_CHARACTERS_MAX || trace.chars().any(char::is_control) {
            return Err(Refusal::Malformed);
        }
        let running = Running::new(self.mechanism, Facts { verifier: None, if_proven: Verdict::Accept });
        match running.step(Some(response))? {
            (Stepped::Done(Verdict::Accept, _), _) => {
                Ok(Step::Done(Outcome::Accepted(Identity::Anonymous { trace: trace.to_owned() })))
            }
            _ => Err(Refusal::Malformed),
        }
    }

    fn take_client_first(self: Box<Self>, watch: &mut Watch<'_>, response: &[u8]) -> Result<Step, Refusal> {
        let ClientFirst { authorization, name } = ClientFirst::parse(response)?;
        let Trial { name, user, running } = self.trial(watch, &name, &authorization)?;
        let (Stepped::Challenge(challenge), running) = running.step(Some(response))? else {
            return Err(Refusal::Malformed);
        };
        Ok(self.awaiting(challenge, Awaits::Proof(Trial { name, user, running })))
    }

    fn take_login_name(self: Box<Self>, watch: &mut Watch<'_>, response: &[u8]) -> Result<Step, Refusal> {
        let said = str::from_utf8(response).map_err(|_| Refusal::Malformed)?;
        let Trial { name, user, running } = self.trial(watch, said, "")?;
        let (_, running) = running.step(None)?;
        let (_, running) = running.step(Some(response))?;
        Ok(self.awaiting(LOGIN_PASSWORD.to_vec(), Awaits::Password(Trial { name, user, running })))
    }

    fn take_last(mut self: Box<Self>, watch: &mut Watch<'_>, response: &[u8]) -> Result<Step, Refusal> {
        match std::mem::replace(&mut self.awaits, Awaits::First) {
            Awaits::Acknowledgement(identity) if response.is_empty() => {
                Ok(Step::Done(Outcome::Accepted(identity)))
            }
            Awaits::Password(trial) | Awaits::Proof(trial) => {
                if let Some(hash) = self.mechanism.hash() {
                    syntax::client_final(response, hash)?;
                }
                // Others may have failed since the name was said: exchanges run side by side.
                admitted(watch, &trial.name, self.network)?;
                let (stepped, _) = trial.running.step(Some(response))?;
                Ok(self.concluded(watch, &trial.name, trial.user, stepped))
            }
            Awaits::First | Awaits::Name | Awaits::Acknowledgement(_) => Err(Refusal::Malformed),
        }
    }

    /// Begins the trial of who says a name, if the name may try.
    fn trial(&self, watch: &mut Watch<'_>, name: &str, authorization: &str) -> Result<Trial, Refusal> {
        let name = Name::prepare(name).map_err(|_| Refusal::Malformed)?;
        admitted(watch, &name, self.network)?;
        let (user, verifier) = self.authenticator.look_up(&name, self.mechanism.hash());
        let user = user.filter(|user| authorizes(authorization, &[&name, &user.name]));
        let if_proven = if user.is_some() { Verdict::Accept } else { Verdict::Reject };
        let running = Running::new(self.mechanism, Facts { verifier: Some(verifier), if_proven });
        Ok(Trial { name, user, running })
    }

    fn awaiting(mut self: Box<Self>, challenge: Vec<u8>, awaits: Awaits) -> Step {
        self.awaits = awaits;
        Step::Challenge { challenge, exchange: self }
    }

    /// The end of a trial: what SCRAM has to say in the end goes out only if it is a signature.
    fn concluded(
        self: Box<Self>,
        watch: &mut Watch<'_>,
        name: &Name,
        user: Option<User>,
        stepped: Stepped,
    ) -> Step {
        let (Stepped::Done(Verdict::Accept, signature), Some(user)) = (stepped, user) else {
            return refused(Refusal::Credentials, watch.attempts.failed(watch.now, name, self.network));
        };
        watch.attempts.succeeded(name, self.network);
        let identity = Identity::User { name: user.name, mechanism: self.mechanism };
        if signature.is_empty() {
            return Step::Done(Outcome::Accepted(identity));
        }
        self.awaiting(signature, Awaits::Acknowledgement(identity))
    }
}

fn refused(why: Refusal, reply_delay: Duration) -> Step {
    Step::Done(Outcome::Refused { why, reply_delay })
}

fn admitted(watch: &Watch<'_>, name: &Name, network: ClientNetwork) -> Result<(), Refusal> {
    match watch.attempts.refusal(watch.now, name, network) {
        Some(_) => Err(Refusal::TooManyFailures),
        None => Ok(()),
    }
}

/// Whether somebody may act as whom he asks to: nobody in particular, or himself.
fn authorizes(authorization: &str, own: &[&Name]) -> bool {
    authorization.is_empty() || Name::prepare(authorization).is_ok_and(|name| own.contains(&&name))
}
