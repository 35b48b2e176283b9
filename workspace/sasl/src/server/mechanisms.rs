//! The mechanisms of `rsasl`, and what they ask of the server.

use crate::syntax::Malformed;
use crate::{Mechanism, Password, Verifier};
use rsasl::callback::{Context, Request, SessionCallback, SessionData};
use rsasl::mechanisms::scram::properties::ScramStoredPassword;
use rsasl::prelude::{SASLConfig, SASLServer, Session, SessionError, State, Validation};
use rsasl::property;
use rsasl::validate::{Validate, ValidationError};

/// What a mechanism has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Accept,
    Reject,
}

/// The verdict as `rsasl` hands it out.
struct Judgement;

impl Validation for Judgement {
    type Value = Verdict;
}

/// What is known of a client before its mechanism has run.
pub(super) struct Facts {
    /// What its password or its proof must fit. None for mechanisms that know neither.
    pub(super) verifier: Option<Verifier>,
    /// What the verdict is if the mechanism succeeds: `Reject` for who is not known or asks to be somebody else.
    pub(super) if_proven: Verdict,
}

/// `Facts` with the mechanism, as `rsasl` asks them.
struct Oracle {
    mechanism: Mechanism,
    facts: Facts,
}

impl Oracle {
    fn verdict(&self, password: Option<&[u8]>) -> Verdict {
        let is_proven = match self.mechanism {
            // `rsasl` asks for a verdict when the proof was right, and not otherwise.
            Mechanism::ScramSha256 | Mechanism::ScramSha512 => self.facts.verifier.is_some(),
            Mechanism::Plain | Mechanism::Login => {
                let password = password.map(Password::prepare_octets);
                match (&self.facts.verifier, password) {
                    (Some(verifier), Some(Ok(password))) => verifier.fits(&password),
                    _ => false,
                }
            }
            Mechanism::External | Mechanism::Anonymous => true,
        };
        if is_proven { self.facts.if_proven } else { Verdict::Reject }
    }
}

impl SessionCallback for Oracle {
    fn callback(
        &self,
        _session: &SessionData,
        _context: &Context<'_>,
        request: &mut Request<'_>,
    ) -> Result<(), SessionError> {
        if let Some(verifier) = &self.facts.verifier {
            request.satisfy::<ScramStoredPassword<'static>>(&ScramStoredPassword::new(
                verifier.iterations(),
                verifier.salt(),
                verifier.stored_key(),
                verifier.server_key(),
            ))?;
        }
        Ok(())
    }

    fn validate(
        &self,
        _session: &SessionData,
        context: &Context<'_>,
        validate: &mut Validate<'_>,
    ) -> Result<(), ValidationError> {
        let password = context.get_ref::<property::Password>();
        validate.with::<Judgement, _>(|| Ok(self.verdict(password)))?;
        Ok(())
    }
}

/// A mechanism of `rsasl` that runs.
pub(super) struct Running {
    session: Session<Judgement>,
}

/// What a message has led to.
pub(super) enum Stepped {
    /// A message to the client.
    Challenge(Vec<u8>),
    /// The end, with a last message that is to be sent if it is not empty.
    Done(Verdict, Vec<u8>),
}

impl Running {
    pub(super) fn new(mechanism: Mechanism, facts: Facts) -> Self {
        let config = SASLConfig::builder().with_defaults().with_callback(Oracle { mechanism, facts });
        let config = config.expect("a configuration of built-in mechanisms is made");
        let session = SASLServer::new(config).start_suggested(mechanism.mechname());
        Self { session: session.expect("every mechanism here is built into rsasl") }
    }

    /// Hands a message on. A step that succeeds says nothing: PLAIN ends well with a wrong password. No verdict is a refusal.
    /// After an error nothing may be handed on any more; so a mechanism is consumed by each step.
    pub(super) fn step(mut self, message: Option<&[u8]>) -> Result<(Stepped, Self), Malformed> {
        let mut sent = Vec::new();
        match self.session.step(message, &mut sent) {
            Ok(State::Running) => Ok((Stepped::Challenge(sent), self)),
            Ok(State::Finished(_)) => {
                let verdict = self.session.validation().unwrap_or(Verdict::Reject);
                Ok((Stepped::Done(verdict, sent), self))
            }
            Err(_) => Err(Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Hash;

    fn facts() -> Facts {
        let password = Password::prepare("pencil").unwrap();
        Facts {
            verifier: Some(Verifier::new(Hash::Sha256, 4096, &password).unwrap()),
            if_proven: Verdict::Accept,
        }
    }

    /// If this fails because the step is an error, `rsasl` has changed, and the verdict may be read from the step.
    #[test]
    fn the_step_of_plain_succeeds_with_a_wrong_password_and_only_the_verdict_tells() {
        for (message, expected) in
            [(b"\0user\0pencil", Verdict::Accept), (b"\0user\0pencel", Verdict::Reject)]
        {
            let oracle = Oracle { mechanism: Mechanism::Plain, facts: facts() };
            let config = SASLConfig::builder().with_defaults().with_callback(oracle).unwrap();
            let mut session =
                SASLServer::<Judgement>::new(config).start_suggested(Mechanism::Plain.mechname()).unwrap();
            let state = session.step(Some(message), &mut Vec::new());
            assert!(matches!(state, Ok(State::Finished(_))), "the step succeeds: {state:?}");
            assert_eq!(session.validation(), Some(expected));
        }
    }

    /// If this fails, `rsasl` reads what strangers send without a panic, and [`crate::syntax`] has one reason less.
    #[test]
    fn rsasl_alone_panics_on_what_a_stranger_may_send() {
        for message in [&b"n,,"[..], b"n,a,n=user,r=abc", b"n,,n=user,"] {
            let running = Running::new(Mechanism::ScramSha256, facts());
            let step = std::panic::AssertUnwindSafe(|| running.step(Some(message)).is_ok());
            assert!(std::panic::catch_unwind(step).is_err(), "{}", String::from_utf8_lossy(message));
        }
    }

    #[test]
    fn who_is_not_to_be_accepted_is_rejected_although_the_password_is_right() {
        let facts = Facts { if_proven: Verdict::Reject, ..facts() };
        let (stepped, _) = Running::new(Mechanism::Plain, facts).step(Some(b"\0user\0pencil")).unwrap();
        assert!(matches!(stepped, Stepped::Done(Verdict::Reject, _)));
    }

    #[test]
    fn a_mechanism_of_passwords_without_a_verifier_accepts_nobody() {
        let facts = Facts { verifier: None, if_proven: Verdict::Accept };
        let (stepped, _) = Running::new(Mechanism::Plain, facts).step(Some(b"\0user\0pencil")).unwrap();
        assert!(matches!(stepped, Stepped::Done(Verdict::Reject, _)));
    }
}
