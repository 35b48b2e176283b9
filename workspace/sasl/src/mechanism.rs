//! The mechanisms, and how strong each is.

use std::fmt;

/// A mechanism, the weakest first: the order is the one by which a client chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mechanism {
    /// Nobody in particular (RFC 4505).
    Anonymous,
    /// Name and password, one by one (draft-murchison-sasl-login). For old clients; ours never uses it.
    Login,
    /// Name and password in one message (RFC 4616).
    Plain,
    /// Proof of a password, of both sides (RFC 5802, RFC 7677).
    ScramSha256,
    /// The same with SHA-512.
    ScramSha512,
    /// Whoever the certificate of the TLS connection says (RFC 4422, appendix A).
    External,
}

/// The hash function of a SCRAM mechanism, and so of a verifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hash {
    /// SHA-256: keys of 32 octets.
    Sha256,
    /// SHA-512: keys of 64 octets.
    Sha512,
}

impl Mechanism {
    /// Every mechanism, the strongest first.
    pub const ALL: [Self; 6] =
        [Self::External, Self::ScramSha512, Self::ScramSha256, Self::Plain, Self::Login, Self::Anonymous];

    /// The longest name that a mechanism can have, in octets (RFC 4422, section 3.1).
    pub const NAME_OCTETS_MAX: usize = 20;

    /// The name in IANA's registry.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Anonymous => "ANONYMOUS",
            Self::Login => "LOGIN",
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
            Self::External => "EXTERNAL",
        }
    }

    /// The mechanism of that name, in whatever case. None for one that is not there.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mechanism| mechanism.name().eq_ignore_ascii_case(name))
    }

    /// The hash function, where it is SCRAM.
    #[must_use]
    pub const fn hash(self) -> Option<Hash> {
        match self {
            Self::ScramSha256 => Some(Hash::Sha256),
            Self::ScramSha512 => Some(Hash::Sha512),
            Self::Anonymous | Self::Login | Self::Plain | Self::External => None,
        }
    }

    /// Whether whoever hears the exchange has the password in the end.
    #[must_use]
    pub const fn shows_password(self) -> bool {
        matches!(self, Self::Plain | Self::Login)
    }

    /// What `rsasl` calls it.
    pub(crate) fn mechname(self) -> &'static rsasl::prelude::Mechname {
        rsasl::prelude::Mechname::parse(self.name().as_bytes()).expect("names of mechanisms are well formed")
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Hash {
    /// The mechanism that proves a password by it.
    #[must_use]
    pub const fn mechanism(self) -> Mechanism {
        match self {
            Self::Sha256 => Mechanism::ScramSha256,
            Self::Sha512 => Mechanism::ScramSha512,
        }
    }

    /// The length of its keys.
    #[must_use]
    pub const fn key_octets(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mechanism_is_found_by_its_name_in_any_case() {
        for mechanism in Mechanism::ALL {
            assert_eq!(Mechanism::from_name(mechanism.name()), Some(mechanism));
            assert_eq!(Mechanism::from_name(&mechanism.name().to_lowercase()), Some(mechanism));
            assert_eq!(mechanism.mechname().as_str(), mechanism.name());
        }
        for unknown in ["", "SCRAM-SHA-1", "SCRAM-SHA-256-PLUS", "PLAIN ", "CRAM-MD5"] {
            assert_eq!(Mechanism::from_name(unknown), None);
        }
    }

    #[test]
    fn the_list_of_all_begins_with_the_strongest() {
        assert!(Mechanism::ALL.is_sorted_by(|stronger, weaker| stronger > weaker));
    }
}
