//! Names of hosts and of mail domains, as they are asked for.

use hickory_resolver::proto::rr::Name;
use std::fmt;

/// Octets of a name without its last dot: 255 on the wire (RFC 1035, 2.3.4) less the first length and the root.
const NAME_OCTETS_MAX: usize = 253;
/// RFC 1035, 2.3.4.
const LABEL_OCTETS_MAX: usize = 63;

/// Why a text is not the name of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostNameError {
    /// Nothing, or the root alone.
    #[error("it is empty")]
    Empty,
    /// Longer than a name may be.
    #[error("it has more than {NAME_OCTETS_MAX} octets")]
    TooLong,
    /// Two dots in a row, or a dot in front.
    #[error("a label is empty")]
    EmptyLabel,
    /// A label is longer than it may be.
    #[error("a label has more than {LABEL_OCTETS_MAX} octets")]
    LabelTooLong,
    /// A hyphen at the wrong place.
    #[error("a label begins or ends with a hyphen")]
    Hyphen,
    /// Something other than letters, digits, hyphens and underscores, also after the rules of IDNA.
    #[error("it has characters that no host name has")]
    Characters,
    /// The last label is a number, as in an address.
    #[error("it looks like an address: the last label of a host name is no number")]
    Number,
}

/// The name of a host or of a mail domain: lower case, A-labels (RFC 5890), without the dot at the end.
///
/// The syntax is that of RFC 1123, 2.1. An underscore is no part of it, but is in use, and is borne here as in mailboxes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(Box<str>);

impl HostName {
    /// Reads a name, with or without its last dot; U-labels become A-labels (UTS 46).
    ///
    /// # Errors
    /// `HostNameError` says what is wrong.
    pub fn parse(text: &str) -> Result<Self, HostNameError> {
        if text.is_ascii() {
            return Self::from_ascii(text);
        }
        // A backslash begins an escape of zone files for the library: never part of a host name.
        let name = Some(text).filter(|text| !text.contains('\\')).and_then(|text| Name::from_utf8(text).ok());
        Self::from_ascii(&name.ok_or(HostNameError::Characters)?.to_ascii())
    }

    fn from_ascii(text: &str) -> Result<Self, HostNameError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Err(HostNameError::Empty);
        }
        if text.len() > NAME_OCTETS_MAX {
            return Err(HostNameError::TooLong);
        }
        for label in text.split('.') {
            if label.is_empty() {
                return Err(HostNameError::EmptyLabel);
            }
            if label.len() > LABEL_OCTETS_MAX {
                return Err(HostNameError::LabelTooLong);
            }
            if label.starts_with('-') || label.ends_with('-') {
                return Err(HostNameError::Hyphen);
            }
            if !label.bytes().all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_')) {
                return Err(HostNameError::Characters);
            }
        }
        // RFC 1123, 2.1: the top-level label is alphabetic, which tells a name from an address.
        let last = text.rsplit('.').next().unwrap_or_default();
        if last.bytes().all(|octet| octet.is_ascii_digit()) {
            return Err(HostNameError::Number);
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }

    /// The name without the dot at its end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is `parent` or a name below it.
    #[must_use]
    pub fn is_in(&self, parent: &str) -> bool {
        self.0.strip_suffix(parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_is_kept_in_lower_case_with_a_labels_and_without_its_last_dot() {
        let rows = [
            ("MX1.Example.ORG.", "mx1.example.org"),
            ("localhost", "localhost"),
            ("a_b.example", "a_b.example"),
            ("1.2.3.4.example", "1.2.3.4.example"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("почта.рф", "xn--80a1acny.xn--p1ai"),
        ];
        for (text, name) in rows {
            assert_eq!(HostName::parse(text).map(|name| name.to_string()), Ok(name.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_no_host_name_is_refused_with_the_reason() {
        let long = format!("{}example", "abcdefgh.".repeat(30));
        let label = format!("{}.example", "a".repeat(64));
        let rows = [
            ("", HostNameError::Empty),
            (".", HostNameError::Empty),
            ("a..b", HostNameError::EmptyLabel),
            (".a", HostNameError::EmptyLabel),
            ("-a.example", HostNameError::Hyphen),
            ("a-.example", HostNameError::Hyphen),
            ("a b.example", HostNameError::Characters),
            ("a\\.b.example", HostNameError::Characters),
            ("ü\\000.example", HostNameError::Characters),
            ("*.example", HostNameError::Characters),
            ("192.0.2.1", HostNameError::Number),
            ("192.0.2.1.", HostNameError::Number),
            (&long, HostNameError::TooLong),
            (&label, HostNameError::LabelTooLong),
        ];
        for (text, error) in rows {
            assert_eq!(HostName::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn a_name_is_in_a_domain_by_whole_labels() {
        let is_in = |name: &str, parent| HostName::parse(name).unwrap().is_in(parent);
        assert!(is_in("localhost", "localhost") && is_in("a.localhost", "localhost"));
        assert!(!is_in("notlocalhost", "localhost") && !is_in("localhost.example", "localhost"));
    }

    proptest! {
        #[test]
        fn any_text_gives_a_name_that_reads_back_or_an_error(text in ".{0,80}") {
            if let Ok(name) = HostName::parse(&text) {
                prop_assert_eq!(HostName::parse(name.as_str()), Ok(name));
            }
        }
    }
}
