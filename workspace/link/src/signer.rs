//! Frames between the role `signer`, which holds the private keys, and those who need signatures.

use crate::{Hello, Role};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// The longest message that is signed, in octets: what fits a datagram beside the rest of its frame. A server signs some hundred
/// (RFC 8446, 4.4.3: a context and a hash; RFC 5246, 7.4.3: two random values and the parameters of a key agreement), a client of
/// TLS 1.2 all that was said in the handshake, both certificate chains included (RFC 5246, 7.4.8).
pub const SIGNED_OCTETS_MAX: usize = 60 << 10;

/// A key, by the SHA-256 of its public half (`SubjectPublicKeyInfo` in DER). So a signature is never made by another key than the
/// one whose certificate was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyId(pub [u8; 32]);

/// A credential without its private key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicCredential {
    /// Its name in the configuration.
    pub name: String,
    /// The key.
    pub key: KeyId,
    /// Certificates in DER, the owner's first, each certified by the next one.
    pub chain: Vec<ByteBuf>,
    /// The subject of the first certificate by RFC 4514.
    pub subject: String,
    /// By which schemes the key signs (RFC 8446, 4.2.3), the preferred one first.
    pub schemes: Vec<u16>,
    /// When the first certificate ends, in seconds since 1970.
    pub not_after_s: i64,
}

/// A credential that is there and cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrongCredential {
    /// Its name.
    pub name: String,
    /// Why, and what to do.
    pub why: String,
}

/// What there is to sign with. Travels in sealed memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// By name; each name once.
    pub usable: Vec<PublicCredential>,
    /// By name.
    pub wrong: Vec<WrongCredential>,
}

/// Frames to the signer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToSigner {
    /// First.
    Hello(Hello),
    /// Say what credentials there are, now and whenever that changes.
    Watch,
    /// Sign. The answer is [`FromSigner::Signed`] or [`FromSigner::Refused`], in the order of the questions.
    Sign {
        /// The asker's own number.
        number: u64,
        /// By which key.
        key: KeyId,
        /// By which scheme (RFC 8446, 4.2.3).
        scheme: u16,
        /// What: at most [`SIGNED_OCTETS_MAX`].
        message: ByteBuf,
    },
    /// Read the files again now, and not when it is time for that.
    Reload,
}

impl ToSigner {
    /// Whether this is a role's business. A Hello is for who may say it, and once.
    #[must_use]
    pub const fn is_business_of(&self, role: Role) -> bool {
        match self {
            Self::Hello(_) => false,
            Self::Sign { .. } => matches!(role, Role::SmtpServer | Role::Channel),
            Self::Watch => matches!(role, Role::SmtpServer | Role::Channel | Role::Operator),
            Self::Reload => matches!(role, Role::Operator),
        }
    }
}

/// Frames from the signer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromSigner {
    /// What credentials there are: [`Credentials`] in the sealed memory that comes along.
    Credentials,
    /// A signature.
    Signed {
        /// The asker's number.
        number: u64,
        /// The signature in the form that the scheme has.
        signature: ByteBuf,
    },
    /// No signature.
    Refused {
        /// The asker's number.
        number: u64,
        /// Why.
        why: String,
    },
}
