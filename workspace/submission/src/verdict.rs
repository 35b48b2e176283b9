//! Yes, or no with a reply.

use std::fmt;
use sternpost_message::EnhancedStatus;

/// A refusal, ready to be sent as a reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Rejection {
    /// The reply code, 4yz or 5yz. RFC 5321, section 4.2.
    pub code: u16,
    /// The enhanced status; its class is the code's first digit. RFC 3463.
    pub status: EnhancedStatus,
    /// One line of printable US-ASCII, ≤ 400 octets: with its codes it fits into a reply line of 512 octets (RFC 5321,
    /// section 4.5.3.1.5).
    pub text: String,
}

impl Rejection {
    /// The largest `text`.
    pub const TEXT_OCTETS_MAX: usize = 400;

    /// A refusal. Whatever is not printable US-ASCII in `text` becomes `?`, and the text is cut at its bound.
    #[must_use]
    pub fn new(code: u16, status: EnhancedStatus, text: &str) -> Self {
        let text = text.chars().take(Self::TEXT_OCTETS_MAX).map(printable_or_mark).collect();
        Self { code, status, text }
    }
}

const fn printable_or_mark(c: char) -> char {
    if matches!(c, ' '..='~') { c } else { '?' }
}

impl fmt::Display for Rejection {
    /// The reply as it goes out, without its line end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.code, self.status, self.text)
    }
}

/// The answer to one fact.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// The transaction goes on with it.
    Accept,
    /// The transaction goes on as if it had not been said.
    Reject(Rejection),
}

impl Verdict {
    pub(crate) fn reject(code: u16, status: EnhancedStatus, text: &str) -> Self {
        Self::Reject(Rejection::new(code, status, text))
    }

    /// Whether it is [`Verdict::Accept`].
    #[must_use]
    pub const fn is_accept(&self) -> bool {
        matches!(self, Self::Accept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejection_is_one_bounded_line_of_us_ascii() {
        let rejection = Rejection::new(550, EnhancedStatus::new(5, 1, 2), &"é\r\n x".repeat(300));
        assert!(rejection.text.len() <= Rejection::TEXT_OCTETS_MAX);
        assert!(rejection.to_string().bytes().all(|octet| (32..127).contains(&octet)));
        assert!(rejection.to_string().starts_with("550 5.1.2 ??? x"));
    }
}
