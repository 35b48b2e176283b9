//! The client: shows a server who we are, by the strongest mechanism that both have, and no weaker one than the policy's.
//!
//! A server that takes SCRAM has to prove that it has the verifier. One that accepts before that is not believed.

use crate::syntax::{self, Malformed, ServerFinal};
use crate::{ITERATIONS_MAX, ITERATIONS_MIN, MESSAGE_OCTETS_MAX, Mechanism, Password, PreparationError};
use rsasl::callback::{Context, Request, SessionCallback, SessionData};
use rsasl::prelude::{SASLClient, SASLConfig, Session, SessionError};
use rsasl::property;
use std::fmt;

/// How many names of mechanisms are looked at. Servers have a dozen.
const OFFERED_MAX: usize = 64;

/// What a peer may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientPolicy {
    /// The weakest mechanism that is used. PLAIN is never used without TLS, LOGIN and ANONYMOUS are not used at all.
    pub mechanism_min: Mechanism,
    /// The most iterations that a server may ask for, at most [`ITERATIONS_MAX`]. It may not ask for fewer than
    /// [`ITERATIONS_MIN`].
    pub iterations_max: u32,
}

impl Default for ClientPolicy {
    fn default() -> Self {
        Self { mechanism_min: Mechanism::ScramSha256, iterations_max: 200_000 }
    }
}

/// Who we are for a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Name and password, prepared. None: only the certificate is shown.
    password: Option<(String, Password)>,
    /// Whether a certificate is shown in the handshake by which the peer knows us.
    has_certificate: bool,
}

impl Credentials {
    /// A name, which is used as it is written but for SASLprep, and its password.
    ///
    /// # Errors
    /// Name or password can be none.
    pub fn of_password(name: &str, password: &str) -> Result<Self, ClientError> {
        // The name's own rules are those of a password: it is prepared, and not in lower case, for it is the peer's.
        let prepared = Password::prepare(name).map_err(ClientError::Name)?;
        let name = str::from_utf8(prepared.as_octets()).unwrap_or_default().to_owned();
        let password = Password::prepare(password).map_err(ClientError::Password)?;
        Ok(Self { password: Some((name, password)), has_certificate: false })
    }

    /// The certificate of the handshake alone.
    #[must_use]
    pub const fn of_certificate() -> Self {
        Self { password: None, has_certificate: true }
    }

    /// The certificate of the handshake too.
    #[must_use]
    pub fn with_certificate(self) -> Self {
        Self { has_certificate: true, ..self }
    }
}

/// Why an exchange of ours has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The name of our own credentials.
    #[error("the name cannot be used")]
    Name(#[source] PreparationError),
    /// The password of our own credentials.
    #[error("the password cannot be used")]
    Password(#[source] PreparationError),
    /// Nothing that is offered is strong enough and fits what we have.
    #[error(
        "the peer offers no mechanism that is allowed and fits the credentials (TLS: {is_under_tls}, at least {mechanism_min})"
    )]
    NoMechanism {
        /// Whether the connection is under TLS.
        is_under_tls: bool,
        /// The weakest that the policy allows.
        mechanism_min: Mechanism,
    },
    /// A challenge that is not of the mechanism's grammar, or where none is due.
    #[error("the peer's challenge is malformed or out of order")]
    Challenge,
    /// A count that would make us weak or busy.
    #[error("the peer asks for {count} iterations; {ITERATIONS_MIN} to {max} are allowed")]
    Iterations {
        /// What it asks for.
        count: u64,
        /// What the policy allows.
        max: u32,
    },
    /// The peer says by SCRAM that it refuses.
    #[error("the peer refuses the credentials")]
    Refused,
    /// It has not shown that it knows the password, or that it does not.
    #[error("the peer has not proven that it knows the password: it may be another one than it says")]
    NotProven,
    /// The mechanism itself.
    #[error("the mechanism {0} cannot begin")]
    Begin(Mechanism),
}

impl From<Malformed> for ClientError {
    fn from(_: Malformed) -> Self {
        Self::Challenge
    }
}

/// The strongest mechanism of those that a peer offers that the policy allows and our credentials have. None: there is none.
/// Names that are not known are passed over; so is what stands behind the 64th.
#[must_use]
pub fn choose<'a>(
    policy: &ClientPolicy,
    credentials: &Credentials,
    is_under_tls: bool,
    offered: impl IntoIterator<Item = &'a str>,
) -> Option<Mechanism> {
    let is_usable = |mechanism: &Mechanism| {
        let has_password = credentials.password.is_some();
        *mechanism >= policy.mechanism_min
            && match mechanism {
                Mechanism::External => is_under_tls && credentials.has_certificate,
                Mechanism::ScramSha512 | Mechanism::ScramSha256 => has_password,
                Mechanism::Plain => is_under_tls && has_password,
                Mechanism::Login | Mechanism::Anonymous => false,
            }
    };
    offered.into_iter().take(OFFERED_MAX).filter_map(Mechanism::from_name).filter(is_usable).max()
}

/// What the peer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said<'a> {
    /// A challenge (334), decoded.
    Challenge(&'a [u8]),
    /// That we are accepted (235).
    Accepted,
}

/// What is to be done next.
#[derive(Debug)]
pub enum ClientStep {
    /// The peer is to be sent a response, and what it says goes to the exchange.
    Respond {
        /// What is sent, without base64.
        response: Vec<u8>,
        /// What awaits the peer.
        exchange: Box<ClientExchange>,
    },
    /// We are accepted, by whom has proven what the mechanism proves.
    Accepted,
}

/// An exchange that awaits the peer. When the peer refuses (a reply of 4 or 5), or an error says that nothing more can be
/// believed, it is dropped; after an error the session cancels (`*`) or ends.
pub struct ClientExchange {
    mechanism: Mechanism,
    iterations_max: u32,
    awaits: Awaits,
    session: Session,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaits {
    ServerFirst,
    ServerFinal,
    Acceptance,
}

impl fmt::Debug for ClientExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientExchange")
            .field("mechanism", &self.mechanism)
            .field("awaits", &self.awaits)
            .finish_non_exhaustive()
    }
}

/// The credentials, as `rsasl` asks for them.
struct Answers(Credentials);

impl SessionCallback for Answers {
    fn callback(
        &self,
        _session: &SessionData,
        _context: &Context<'_>,
        request: &mut Request<'_>,
    ) -> Result<(), SessionError> {
        if let Some((name, password)) = &self.0.password {
            request.satisfy::<property::AuthId>(name)?.satisfy::<property::Password>(password.as_octets())?;
        }
        Ok(())
    }
}

impl ClientExchange {
    /// Chooses a mechanism and begins. The result has the exchange and the initial response, which the session sends with
    /// AUTH, or as the response to a first, empty challenge where it does not fit there.
    ///
    /// # Errors
    /// `NoMechanism`, `Begin`.
    pub fn begin<'a>(
        policy: &ClientPolicy,
        credentials: &Credentials,
        is_under_tls: bool,
        offered: impl IntoIterator<Item = &'a str>,
    ) -> Result<(Box<Self>, Vec<u8>), ClientError> {
        let mechanism = choose(policy, credentials, is_under_tls, offered)
            .ok_or(ClientError::NoMechanism { is_under_tls, mechanism_min: policy.mechanism_min })?;
        let config = SASLConfig::builder().with_defaults().with_callback(Answers(credentials.clone()));
        let config = config.map_err(|_| ClientError::Begin(mechanism))?;
        let session = SASLClient::new(config).start_suggested(&[mechanism.mechname()]);
        let mut session = session.map_err(|_| ClientError::Begin(mechanism))?;
        let mut initial_response = Vec::new();
        session.step(None, &mut initial_response).map_err(|_| ClientError::Begin(mechanism))?;
        let awaits = if mechanism.hash().is_some() { Awaits::ServerFirst } else { Awaits::Acceptance };
        let iterations_max = policy.iterations_max.min(ITERATIONS_MAX);
        Ok((Box::new(Self { mechanism, iterations_max, awaits, session }), initial_response))
    }

    /// The mechanism that was chosen.
    #[must_use]
    pub const fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// Takes what the peer says.
    ///
    /// # Errors
    /// The peer is not to be believed or not understood.
    pub fn handle(mut self: Box<Self>, said: Said<'_>) -> Result<ClientStep, ClientError> {
        let challenge = match (self.awaits, said) {
            (Awaits::Acceptance, Said::Accepted) => return Ok(ClientStep::Accepted),
            (Awaits::ServerFirst | Awaits::ServerFinal, Said::Accepted) => {
                return Err(ClientError::NotProven);
            }
            (_, Said::Challenge(challenge)) if challenge.len() <= MESSAGE_OCTETS_MAX => challenge,
            (_, Said::Challenge(_)) => return Err(ClientError::Challenge),
        };
        let mut response = Vec::new();
        self.awaits = match (self.awaits, self.mechanism.hash()) {
            (Awaits::ServerFirst, Some(_)) => {
                let count = syntax::server_first(challenge)?;
                let max = self.iterations_max;
                if !(u64::from(ITERATIONS_MIN)..=u64::from(max)).contains(&count) {
                    return Err(ClientError::Iterations { count, max });
                }
                self.session.step(Some(challenge), &mut response).map_err(|_| ClientError::Challenge)?;
                Awaits::ServerFinal
            }
            (Awaits::ServerFinal, Some(hash)) => {
                if ServerFinal::parse(challenge, hash)? == ServerFinal::Error {
                    return Err(ClientError::Refused);
                }
                self.session.step(Some(challenge), &mut response).map_err(|_| ClientError::NotProven)?;
                // The signature is right; what remains is to say so with an empty response.
                response.clear();
                Awaits::Acceptance
            }
            _ => return Err(ClientError::Challenge),
        };
        Ok(ClientStep::Respond { response, exchange: self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both() -> Credentials {
        Credentials::of_password("relay", "pencil").unwrap().with_certificate()
    }

    #[test]
    fn the_strongest_mechanism_is_chosen_that_both_have_and_the_policy_allows() {
        let password = Credentials::of_password("relay", "pencil").unwrap();
        let certificate = Credentials::of_certificate();
        let all =
            ["LOGIN", "PLAIN", "SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512", "EXTERNAL", "ANONYMOUS"];
        let (plain, sha256, sha512) = (Mechanism::Plain, Mechanism::ScramSha256, Mechanism::ScramSha512);
        for (credentials, minimum, is_under_tls, offered, chosen) in [
            (both(), plain, true, &all[..], Some(Mechanism::External)),
            (both(), plain, false, &all, Some(sha512)),
            (password.clone(), plain, true, &all, Some(sha512)),
            (password.clone(), plain, true, &all[..4], Some(sha256)),
            (password.clone(), plain, true, &all[..2], Some(plain)),
            (password.clone(), plain, false, &all[..2], None),
            (password.clone(), Mechanism::Anonymous, true, &["LOGIN", "ANONYMOUS"], None),
            (password.clone(), sha256, true, &all[..2], None),
            (password.clone(), sha512, true, &all[..4], None),
            (password, plain, true, &["external"], None),
            (certificate.clone(), plain, true, &all, Some(Mechanism::External)),
            (certificate.clone(), plain, true, &all[..5], None),
            (certificate, plain, false, &all, None),
            (both(), plain, true, &[], None),
        ] {
            let policy = ClientPolicy { mechanism_min: minimum, ..ClientPolicy::default() };
            assert_eq!(
                choose(&policy, &credentials, is_under_tls, offered.iter().copied()),
                chosen,
                "{offered:?}"
            );
        }
    }

    #[test]
    fn a_long_list_of_mechanisms_is_not_read_to_its_end() {
        let offered = std::iter::repeat_n("X", OFFERED_MAX).chain(["SCRAM-SHA-256"]);
        assert_eq!(choose(&ClientPolicy::default(), &both(), false, offered), None);
    }

    #[test]
    fn credentials_that_cannot_be_used_say_which_part_is_wrong() {
        assert_eq!(Credentials::of_password("", "x"), Err(ClientError::Name(PreparationError::Empty)));
        assert_eq!(
            Credentials::of_password("x", "\n"),
            Err(ClientError::Password(PreparationError::Prohibited))
        );
        assert!(!format!("{:?}", both()).contains("pencil"));
    }
}
