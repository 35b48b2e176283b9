//! TLS for the protocols (RFC 8446, RFC 5246, RFC 9325).
//!
//! What an operator has configured becomes configurations of rustls here ([`Inbound`], [`Outbound`]), and what a handshake has
//! come to becomes facts ([`sternpost_message::TlsFacts`]). A process that talks to strangers holds no private key: it has the
//! certificates ([`PublicCredential`](sternpost_link::signer::PublicCredential)), and asks the role `signer` for each signature
//! ([`Signatures`]). Not here: files ([`Credential::parse`] takes text), sockets between our own processes, which protocol begins
//! TLS when.
#![forbid(unsafe_code)]

mod credential;
mod facts;
mod inbound;
mod key;
mod outbound;
mod stream;
mod trust;

pub use credential::{Credential, CredentialError};
pub use inbound::{ClientCertificates, Inbound};
pub use key::{KeyUnavailable, Signatures};
pub use outbound::{Authentication, Outbound};
pub use stream::TlsStream;
pub use trust::{Trust, TrustError};

pub use rustls::pki_types::ServerName;

use rustls::SupportedProtocolVersion;
use rustls::crypto::CryptoProvider;
use std::sync::{Arc, LazyLock};

/// The oldest version that is spoken. TLS 1.0 and 1.1 are not (RFC 8996).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VersionMin {
    /// TLS 1.2 with forward secrecy and authenticated encryption alone (RFC 9325, 4.2), and TLS 1.3.
    #[default]
    Tls12,
    /// TLS 1.3 alone.
    Tls13,
}

impl VersionMin {
    const fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        static BOTH: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];
        match self {
            Self::Tls12 => &BOTH,
            Self::Tls13 => BOTH.split_at(1).0,
        }
    }
}

/// Why a policy makes no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    /// A certificate of the credential or of a trust anchor that TLS cannot use.
    #[error("TLS cannot use this configuration")]
    Tls(#[from] rustls::Error),
    /// No trust anchor, where a certificate is to be verified.
    #[error("no trust anchor is there by which a certificate could be verified")]
    NoTrust,
    /// The verifier.
    #[error("certificates cannot be verified by these trust anchors")]
    Verifier(#[from] rustls::client::VerifierBuilderError),
}

/// The algorithms of this build.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
    Arc::clone(&PROVIDER)
}
