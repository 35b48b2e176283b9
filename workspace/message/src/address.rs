//! Mailboxes and reverse-paths. RFC 5321, section 4.1.2, with the UTF-8 of RFC 6531, section 3.3.

use serde::{Deserialize, Serialize};
use std::fmt;

/// RFC 5321, 4.5.3.1.1.
pub const LOCAL_PART_OCTETS_MAX: usize = 64;
/// RFC 5321, 4.5.3.1.2.
pub const DOMAIN_OCTETS_MAX: usize = 255;
/// A path has 256 octets with its angle brackets (RFC 5321, 4.5.3.1.3), so a mailbox has 254.
pub const ADDRESS_OCTETS_MAX: usize = 254;

/// Why a mailbox was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Longer than a path may be.
    #[error("an address has at most {ADDRESS_OCTETS_MAX} octets")]
    TooLong,
    /// The part before the `@` is longer than 64 octets.
    #[error("the part before the @ has at most {LOCAL_PART_OCTETS_MAX} octets")]
    LocalPartTooLong,
    /// No `@` behind the local part.
    #[error("an address has a local part, an @ and a domain")]
    NoDomain,
    /// The local part is neither a dot-string nor a quoted string.
    #[error("the part before the @ is neither dot-separated atoms nor a quoted string")]
    LocalPart,
    /// The domain is neither a sequence of labels nor an address literal.
    #[error("the part behind the @ is neither a domain name nor an address literal")]
    Domain,
}

/// A mailbox as it was received: `local-part@domain`, without angle brackets or source route.
///
/// The local part keeps its quotes and case; two mailboxes are equal when their octets are.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mailbox {
    text: Box<str>,
    /// Where the `@` is; at most [`LOCAL_PART_OCTETS_MAX`].
    at: u8,
}

impl Mailbox {
    /// Reads a whole mailbox.
    ///
    /// # Errors
    /// `AddressError` names the part that is wrong.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text.len() > ADDRESS_OCTETS_MAX {
            return Err(AddressError::TooLong);
        }
        let at = local_part_end(text)?;
        if at > LOCAL_PART_OCTETS_MAX {
            return Err(AddressError::LocalPartTooLong);
        }
        let domain = &text[at + 1..];
        let literal = domain.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if !literal.map_or_else(|| is_domain_name(domain), is_address_literal) {
            return Err(AddressError::Domain);
        }
        Ok(Self { text: text.into(), at: u8::try_from(at).map_err(|_| AddressError::LocalPartTooLong)? })
    }

    /// The whole address.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The part before the `@`, with its quotes.
    #[must_use]
    pub fn local_part(&self) -> &str {
        &self.text[..usize::from(self.at)]
    }

    /// The part behind the `@`, as received.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.text[usize::from(self.at) + 1..]
    }

    /// Whether the address needs SMTPUTF8 on its way.
    #[must_use]
    pub fn is_ascii(&self) -> bool {
        self.text.is_ascii()
    }
}

/// The octet of the `@` that ends the local part.
fn local_part_end(text: &str) -> Result<usize, AddressError> {
    let octets = text.as_bytes();
    if octets.first() == Some(&b'"') {
        let mut at = 1;
        loop {
            match octets.get(at) {
                Some(b'"') => break,
                // quoted-pairSMTP: a backslash and one printable US-ASCII octet.
                Some(b'\\') if octets.get(at + 1).is_some_and(|octet| matches!(octet, 32..=126)) => at += 2,
                Some(b'\\') | Some(0..=31 | 127) | None => return Err(AddressError::LocalPart),
                Some(_) => at += 1,
            }
        }
        return if octets.get(at + 1) == Some(&b'@') { Ok(at + 1) } else { Err(AddressError::NoDomain) };
    }
    let at = octets.iter().position(|&octet| octet == b'@').ok_or(AddressError::NoDomain)?;
    let atoms_are_good = text[..at].split('.').all(|atom| !atom.is_empty() && atom.bytes().all(is_atext));
    if atoms_are_good { Ok(at) } else { Err(AddressError::LocalPart) }
}

/// RFC 5322, 3.2.3, and every octet of a UTF-8 character beyond US-ASCII (RFC 6531, 3.3).
const fn is_atext(octet: u8) -> bool {
    octet.is_ascii_alphanumeric()
        || octet >= 0x80
        || matches!(octet, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'/' | b'=' | b'?' | b'^'..=b'`' | b'{'..=b'~')
}

fn is_domain_name(domain: &str) -> bool {
    domain.len() <= DOMAIN_OCTETS_MAX
        && domain.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-' || octet == b'_' || octet >= 0x80)
                // U+0080–U+009F are control characters and U+00A0 a space: never part of a name.
                && label.chars().all(|c| !c.is_control() && !c.is_whitespace())
        })
}

fn is_address_literal(literal: &str) -> bool {
    match literal.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("IPv6:") => literal[5..].parse::<std::net::Ipv6Addr>().is_ok(),
        _ => literal.parse::<std::net::Ipv4Addr>().is_ok(),
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.text)
    }
}

impl Serialize for Mailbox {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Mailbox {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// The reverse-path of MAIL FROM: nobody (`<>`), to whom no report ever goes, or a mailbox.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ReversePath {
    /// `<>`. RFC 5321, 4.5.5.
    Null,
    /// Who is told when something goes wrong.
    Mailbox(Mailbox),
}

impl ReversePath {
    /// The mailbox, if there is one.
    #[must_use]
    pub const fn mailbox(&self) -> Option<&Mailbox> {
        match self {
            Self::Null => None,
            Self::Mailbox(mailbox) => Some(mailbox),
        }
    }
}

impl fmt::Display for ReversePath {
    /// The path as it stands in MAIL FROM, with its angle brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("<>"),
            Self::Mailbox(mailbox) => write!(f, "<{mailbox}>"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn good_mailboxes_split_into_local_part_and_domain() {
        let rows = [
            ("a@b", "a", "b"),
            ("first.last@example.org", "first.last", "example.org"),
            ("\"a b\"@example.org", "\"a b\"", "example.org"),
            ("\"a\\\"@b\"@example.org", "\"a\\\"@b\"", "example.org"),
            ("joe+x@[127.0.0.1]", "joe+x", "[127.0.0.1]"),
            ("joe@[IPv6:::1]", "joe", "[IPv6:::1]"),
            ("пример@пример.рф", "пример", "пример.рф"),
        ];
        for (text, local_part, domain) in rows {
            let mailbox = Mailbox::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((mailbox.local_part(), mailbox.domain()), (local_part, domain));
        }
    }

    #[test]
    fn bad_mailboxes_name_the_part_that_is_wrong() {
        let rows = [
            ("a", AddressError::NoDomain),
            ("@b", AddressError::LocalPart),
            (".a@b", AddressError::LocalPart),
            ("a..b@c", AddressError::LocalPart),
            ("a b@c", AddressError::LocalPart),
            ("\"a@b", AddressError::LocalPart),
            ("\"a\"b@c", AddressError::NoDomain),
            ("\"a\r\"@b", AddressError::LocalPart),
            ("a@", AddressError::Domain),
            ("a@-b", AddressError::Domain),
            ("a@b c", AddressError::Domain),
            ("a@b\u{85}c", AddressError::Domain),
            ("a@[300.0.0.1]", AddressError::Domain),
            ("a@[IPv6:x]", AddressError::Domain),
        ];
        for (text, error) in rows {
            assert_eq!(Mailbox::parse(text), Err(error), "{text:?}");
        }
        assert_eq!(Mailbox::parse(&format!("{}@b", "a".repeat(65))), Err(AddressError::LocalPartTooLong));
        assert_eq!(Mailbox::parse(&format!("a@{}", "b.".repeat(140))), Err(AddressError::TooLong));
    }

    proptest! {
        #[test]
        fn any_text_gives_a_mailbox_that_reads_back_or_an_error(text in ".{0,300}") {
            if let Ok(mailbox) = Mailbox::parse(&text) {
                prop_assert_eq!(mailbox.as_str(), text);
                let octets = postcard::to_stdvec(&mailbox).unwrap();
                prop_assert_eq!(postcard::from_bytes::<Mailbox>(&octets).unwrap(), mailbox);
            }
        }
    }
}
