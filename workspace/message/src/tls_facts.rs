//! What is known of a TLS connection: for the trace header, the envelope and policy.

use serde::{Deserialize, Serialize};

/// A TLS connection after its handshake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsFacts {
    /// The version as it is written: `TLSv1.3`, `TLSv1.2`.
    pub version: String,
    /// The cipher suite's name in IANA's registry.
    pub cipher_suite: String,
    /// The name in IANA's registry of the group in which keys were agreed on, where it is known.
    pub group: Option<String>,
    /// The other end's certificate, if it has shown one.
    pub peer: Option<PeerCertificate>,
}

/// The certificate of the other end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerCertificate {
    /// Its subject by RFC 4514, cut to [`Self::SUBJECT_OCTETS_MAX`]. Whoever made the certificate has chosen it.
    pub subject: String,
    /// SHA-256 of the certificate in DER.
    pub fingerprint: [u8; 32],
    /// Whether it comes from a trust anchor that was configured for the connection, and is in force.
    pub is_verified: bool,
}

impl PeerCertificate {
    /// The longest subject that is kept, in octets.
    pub const SUBJECT_OCTETS_MAX: usize = 256;
}
