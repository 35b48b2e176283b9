//! Which senders somebody may use: one mailbox, or all of a domain. RFC 6409, section 6.1.

use crate::{AddressError, Mailbox};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A mailbox, or `@domain` for every mailbox of exactly that domain. Domains are compared without regard to case, local parts
/// octet by octet (RFC 5321, section 2.4).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SenderPattern {
    /// This sender.
    Mailbox(Mailbox),
    /// Every sender of this domain, in lower case.
    Domain(String),
}

impl SenderPattern {
    /// Whether a sender is one of these.
    #[must_use]
    pub fn holds(&self, sender: &Mailbox) -> bool {
        match self {
            Self::Mailbox(mailbox) => {
                mailbox.local_part() == sender.local_part()
                    && mailbox.domain().to_lowercase() == sender.domain().to_lowercase()
            }
            Self::Domain(domain) => sender.domain().to_lowercase() == *domain,
        }
    }
}

impl FromStr for SenderPattern {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text.strip_prefix('@') {
            None => Mailbox::parse(text).map(Self::Mailbox),
            Some(domain) => {
                // The grammar of a domain is that of a mailbox's.
                let mailbox = Mailbox::parse(&format!("x@{domain}"))?;
                Ok(Self::Domain(mailbox.domain().to_lowercase()))
            }
        }
    }
}

impl TryFrom<String> for SenderPattern {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<SenderPattern> for String {
    fn from(pattern: SenderPattern) -> Self {
        pattern.to_string()
    }
}

impl fmt::Display for SenderPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mailbox(mailbox) => mailbox.fmt(f),
            Self::Domain(domain) => write!(f, "@{domain}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_holds_its_mailbox_or_its_domain_and_nothing_that_looks_like_it() {
        let rows = [
            ("alice@example.org", "alice@EXAMPLE.org", true),
            ("alice@example.org", "Alice@example.org", false),
            ("alice@example.org", "alice@example.org.evil", false),
            ("@Example.ORG", "bob@example.org", true),
            ("@example.org", "\"a@b\"@example.org", true),
            ("@example.org", "bob@sub.example.org", false),
            ("@example.org", "bob@notexample.org", false),
            ("@[192.0.2.1]", "bob@[192.0.2.1]", true),
        ];
        for (pattern, sender, holds) in rows {
            let pattern: SenderPattern = pattern.parse().unwrap();
            assert_eq!(pattern.holds(&Mailbox::parse(sender).unwrap()), holds, "{pattern} {sender}");
            assert_eq!(pattern.to_string().parse(), Ok(pattern));
        }
    }

    #[test]
    fn what_is_neither_a_mailbox_nor_a_domain_is_no_pattern() {
        for text in ["", "@", "*", "alice", "@a@b", "@.org", "alice@", "@exa mple.org"] {
            assert!(text.parse::<SenderPattern>().is_err(), "{text}");
        }
    }
}
