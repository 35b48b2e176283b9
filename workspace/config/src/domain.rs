//! The domains that a route speaks for.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use sternpost_message::Mailbox;

/// Which domains a route is for. Always lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DomainPattern {
    /// One domain (or address literal), written `example.org`.
    Exact(String),
    /// Every domain below one, at any depth, but not that one. Written `.example.org` and kept with its dot.
    Below(String),
    /// Every domain: a smart host. Written `*`.
    Any,
}

/// Why a pattern was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a route is for a domain (example.org), for all domains below one (.example.org) or for every domain (*)"
)]
pub struct DomainPatternError;

impl DomainPattern {
    /// Whether the pattern is for `domain`, which must be lower case.
    #[must_use]
    pub fn matches(&self, domain: &str) -> bool {
        match self {
            Self::Exact(exact) => domain == exact,
            Self::Below(suffix) => domain.len() > suffix.len() && domain.ends_with(suffix.as_str()),
            Self::Any => true,
        }
    }
}

impl FromStr for DomainPattern {
    type Err = DomainPatternError;

    fn from_str(text: &str) -> Result<Self, DomainPatternError> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let domain = text.strip_prefix('.').unwrap_or(text);
        // The address grammar knows what a domain is; one octet of local part leaves it all its room.
        if domain.contains('@') || Mailbox::parse(&format!("x@{domain}")).is_err() {
            return Err(DomainPatternError);
        }
        match text.starts_with('.') {
            true if domain.starts_with('[') => Err(DomainPatternError),
            true => Ok(Self::Below(text.to_lowercase())),
            false => Ok(Self::Exact(text.to_lowercase())),
        }
    }
}

impl fmt::Display for DomainPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exact(text) | Self::Below(text) => text,
            Self::Any => "*",
        })
    }
}

impl TryFrom<String> for DomainPattern {
    type Error = DomainPatternError;

    fn try_from(text: String) -> Result<Self, DomainPatternError> {
        text.parse()
    }
}

impl From<DomainPattern> for String {
    fn from(pattern: DomainPattern) -> Self {
        pattern.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_for_its_domains_and_no_others() {
        let rows = [
            ("Example.org", "example.org", true),
            ("example.org", "a.example.org", false),
            (".example.org", "a.b.example.org", true),
            (".example.org", "example.org", false),
            (".example.org", "notexample.org", false),
            ("*", "anything", true),
            ("[127.0.0.1]", "[127.0.0.1]", true),
        ];
        for (pattern, domain, matches) in rows {
            assert_eq!(
                pattern.parse::<DomainPattern>().unwrap().matches(domain),
                matches,
                "{pattern} {domain}"
            );
        }
    }

    #[test]
    fn what_is_not_a_domain_is_refused() {
        for text in ["", ".", "..a", "a..b", "*.example.org", "a b", ".[127.0.0.1]", "x@y", "a@b@c"] {
            assert!(text.parse::<DomainPattern>().is_err(), "{text:?}");
        }
    }
}
