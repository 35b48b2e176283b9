//! What a listener asks of clients about who they are, typed. Who they may be is [`User`](crate::User).

use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// Whether clients authenticate (RFC 4954).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuthenticationPolicy {
    /// Never: AUTH is not there.
    #[default]
    None,
    /// Those that wish to.
    Offered,
    /// All, before any mail.
    Required,
}

/// A mechanism of SASL (RFC 4422) that a listener may offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Mechanism {
    /// The certificate of the TLS connection.
    External,
    /// RFC 7677 with SHA-512.
    ScramSha512,
    /// RFC 7677.
    ScramSha256,
    /// RFC 4616; under TLS alone.
    Plain,
    /// For old clients; under TLS alone.
    Login,
    /// RFC 4505: nobody in particular.
    Anonymous,
}

impl Mechanism {
    /// Every mechanism, the strongest first.
    pub const ALL: [Self; 6] =
        [Self::External, Self::ScramSha512, Self::ScramSha256, Self::Plain, Self::Login, Self::Anonymous];

    /// The word of the directory: the name in IANA's registry, in small letters.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::External => "external",
            Self::ScramSha512 => "scram-sha-512",
            Self::ScramSha256 => "scram-sha-256",
            Self::Plain => "plain",
            Self::Login => "login",
            Self::Anonymous => "anonymous",
        }
    }

    /// Whether it is for a connection under TLS alone.
    #[must_use]
    pub const fn needs_tls(self) -> bool {
        matches!(self, Self::External | Self::Plain | Self::Login)
    }
}

/// Authentication of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerAuthentication {
    /// Default none; one that cannot be read is required. Always required on a listener for submission.
    pub policy: AuthenticationPolicy,
    /// What may be offered, each once. Default all but anonymous; empty where no value can be read.
    pub mechanisms: Vec<Mechanism>,
    /// Whether the listener is for submission by users (RFC 6409) and not for transfer. Default false; what cannot be read is true.
    pub is_submission: bool,
}

impl Default for ListenerAuthentication {
    /// What holds where the entry says nothing.
    fn default() -> Self {
        let mechanisms =
            Mechanism::ALL.into_iter().filter(|mechanism| *mechanism != Mechanism::Anonymous).collect();
        Self { policy: AuthenticationPolicy::None, mechanisms, is_submission: false }
    }
}

impl FromStr for AuthenticationPolicy {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "none" => Ok(Self::None),
            "offered" => Ok(Self::Offered),
            "required" => Ok(Self::Required),
            _ => Err(()),
        }
    }
}

impl FromStr for Mechanism {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|mechanism| mechanism.name() == text).ok_or(())
    }
}
