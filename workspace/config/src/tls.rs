//! What is asked of TLS, typed: of clients by a listener, of a peer by whoever sends to it.
//!
//! No key and no certificate of ours stands here. A credential is a name; what it stands for (the certificate chain and
//! the private key) lies on the device, where the role `signer` alone reads it.

use crate::TrustScope;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::str::FromStr;

/// The name of the credential where none is given.
const CREDENTIAL_DEFAULT: &str = "default";

/// The lowest version of TLS that is used. Versions before 1.2 are no choice (RFC 8996).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TlsVersion {
    /// RFC 5246.
    #[default]
    Tls12,
    /// RFC 8446.
    Tls13,
}

/// Whether clients of a listener speak TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ListenerTlsPolicy {
    /// Never.
    None,
    /// Those that ask for it by STARTTLS (RFC 3207), as long as the credential is there.
    #[default]
    Offered,
    /// All, by STARTTLS before any mail.
    Required,
    /// All, from the first octet: RFC 8314, 3.3.
    Immediate,
}

impl ListenerTlsPolicy {
    /// Whether no mail comes in without TLS.
    #[must_use]
    pub const fn is_required(self) -> bool {
        matches!(self, Self::Required | Self::Immediate)
    }
}

/// Whether a client is asked for a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientCertificates {
    /// It is not.
    #[default]
    None,
    /// It is; without one, or with one for which nobody vouches, it is a client like others.
    Requested,
    /// It is, and sends no mail without one for which somebody vouches.
    Required,
}

/// TLS of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerTls {
    /// Default offered; one that cannot be read is required. At least required where client certificates are.
    pub policy: ListenerTlsPolicy,
    /// The credential that clients are shown: 1 to 64 letters, digits, dots, hyphens and underscores, no dot first.
    /// Default `default`. Whether it is there only the device knows.
    pub credential: String,
    /// Default none; one that cannot be read is required.
    pub client_certificates: ClientCertificates,
    /// Who vouches for clients. Default every trust entry.
    pub client_trust: TrustScope,
    /// Default 1.2; one that cannot be read is 1.3.
    pub version_min: TlsVersion,
}

impl Default for ListenerTls {
    /// What holds where the entry says nothing.
    fn default() -> Self {
        Self {
            policy: ListenerTlsPolicy::default(),
            credential: CREDENTIAL_DEFAULT.to_owned(),
            client_certificates: ClientCertificates::default(),
            client_trust: TrustScope::default(),
            version_min: TlsVersion::default(),
        }
    }
}

/// Whether mail goes to a peer by TLS, each one protecting against more than those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PeerTlsPolicy {
    /// Never.
    None,
    /// Where the peer offers it, whoever it is; else in clear. RFC 7435.
    #[default]
    Opportunistic,
    /// Always, whoever the peer is: against those that listen, not against one that stands between.
    Required,
    /// Always, and somebody trusted vouches for a certificate with one of the reference names. RFC 9525.
    Verified,
    /// As verified, and the peer is shown a certificate of ours.
    Mutual,
}

impl PeerTlsPolicy {
    /// Whether no mail goes without TLS.
    #[must_use]
    pub fn is_required(self) -> bool {
        self >= Self::Required
    }

    /// Whether the peer must prove who it is.
    #[must_use]
    pub fn is_verified(self) -> bool {
        self >= Self::Verified
    }

    /// The word of the directory.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Opportunistic => "opportunistic",
            Self::Required => "required",
            Self::Verified => "verified",
            Self::Mutual => "mutual",
        }
    }
}

/// A name of a peer that its certificate may have. RFC 9525, 6.1: it comes from the configuration, never from the net.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PeerReference {
    /// A domain name in small letters, for a dNSName. No wildcard; one in the certificate may stand for it.
    Domain(String),
    /// An address, for an iPAddress.
    Address(IpAddr),
}

/// TLS with a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerTls {
    /// Default opportunistic; one that cannot be read is verified. At least required where TLS is immediate.
    pub policy: PeerTlsPolicy,
    /// Whether TLS begins with the first octet and not after STARTTLS. Default false.
    pub immediate: bool,
    /// The certificate of a verified peer must have one of these. Default the peer's address. Empty where none can be read:
    /// no peer is verified then.
    pub references: Vec<PeerReference>,
    /// The credential that a mutual peer is shown, and no other: 1 to 64 letters, digits, dots, hyphens and underscores,
    /// no dot first. Default `default`.
    pub credential: String,
    /// Who vouches for a verified peer. Default every trust entry.
    pub trust: TrustScope,
    /// Default 1.2; one that cannot be read is 1.3.
    pub version_min: TlsVersion,
}

impl Default for PeerTls {
    /// What holds where the entry says nothing, but for the references: those need the peer's address.
    fn default() -> Self {
        Self {
            policy: PeerTlsPolicy::default(),
            immediate: false,
            references: Vec::new(),
            credential: CREDENTIAL_DEFAULT.to_owned(),
            trust: TrustScope::default(),
            version_min: TlsVersion::default(),
        }
    }
}

impl FromStr for TlsVersion {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "1.2" => Ok(Self::Tls12),
            "1.3" => Ok(Self::Tls13),
            _ => Err(()),
        }
    }
}

impl FromStr for ListenerTlsPolicy {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "none" => Ok(Self::None),
            "offered" => Ok(Self::Offered),
            "required" => Ok(Self::Required),
            "immediate" => Ok(Self::Immediate),
            _ => Err(()),
        }
    }
}

impl FromStr for ClientCertificates {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "none" => Ok(Self::None),
            "requested" => Ok(Self::Requested),
            "required" => Ok(Self::Required),
            _ => Err(()),
        }
    }
}

impl FromStr for PeerTlsPolicy {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let all = [Self::None, Self::Opportunistic, Self::Required, Self::Verified, Self::Mutual];
        all.into_iter().find(|policy| policy.name() == text).ok_or(())
    }
}
