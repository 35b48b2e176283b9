//! Names and passwords as they are compared: prepared by SASLprep (RFC 4013).

use std::fmt;
use stringprep::saslprep;

/// Why a text can be no name or no password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PreparationError {
    /// Nothing, or nothing that SASLprep leaves.
    #[error("it is empty")]
    Empty,
    /// More octets than are kept.
    #[error("it has more than {octets_max} octets")]
    TooLong {
        /// The bound that was passed.
        octets_max: usize,
    },
    /// Octets that are no UTF-8.
    #[error("it is not UTF-8")]
    NotUtf8,
    /// Characters that SASLprep prohibits: control characters, unassigned ones, left and right mixed.
    #[error("it has characters that RFC 4013 prohibits")]
    Prohibited,
}

/// The name of a user as it is compared and looked for: SASLprep, then in lower case. A directory compares names without
/// regard to case, so a client must not have as many attempts as a name can be written in ways.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// The longest name, in octets (RFC 4616, section 2).
    pub const OCTETS_MAX: usize = 255;

    /// How often lower case and SASLprep may change what the other has made. No known text needs more than twice.
    const ROUNDS_MAX: usize = 4;

    /// Prepares what a client or the directory says. What is prepared stays as it is when it is prepared again.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn prepare(text: &str) -> Result<Self, PreparationError> {
        let mut name = prepared(text, Self::OCTETS_MAX)?;
        for _ in 0..Self::ROUNDS_MAX {
            let next = prepared(&name.to_lowercase(), Self::OCTETS_MAX)?;
            if next == name {
                return Ok(Self(name));
            }
            name = next;
        }
        Err(PreparationError::Prohibited)
    }

    /// The prepared name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A password, prepared by SASLprep. It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// The longest password, in octets.
    pub const OCTETS_MAX: usize = 1024;

    /// Prepares what a client or an operator says.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn prepare(text: &str) -> Result<Self, PreparationError> {
        prepared(text, Self::OCTETS_MAX).map(Self)
    }

    /// The same of octets.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn prepare_octets(octets: &[u8]) -> Result<Self, PreparationError> {
        Self::prepare(str::from_utf8(octets).map_err(|_| PreparationError::NotUtf8)?)
    }

    pub(crate) fn as_octets(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// SASLprep between two bounds: normalisation makes some characters several.
fn prepared(text: &str, octets_max: usize) -> Result<String, PreparationError> {
    if text.len() > octets_max {
        return Err(PreparationError::TooLong { octets_max });
    }
    let prepared = saslprep(text).map_err(|_| PreparationError::Prohibited)?;
    match prepared.len() {
        0 => Err(PreparationError::Empty),
        octets if octets > octets_max => Err(PreparationError::TooLong { octets_max }),
        _ => Ok(prepared.into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The examples of RFC 4013, section 3.
    #[test]
    fn passwords_are_prepared_as_the_examples_of_rfc_4013() {
        for (text, prepared) in
            [("I\u{ad}X", "IX"), ("user", "user"), ("USER", "USER"), ("\u{aa}", "a"), ("\u{2168}", "IX")]
        {
            assert_eq!(Password::prepare(text), Ok(Password(prepared.to_owned())));
        }
        for text in ["\u{7}", "\u{627}1"] {
            assert_eq!(Password::prepare(text), Err(PreparationError::Prohibited));
        }
    }

    #[test]
    fn names_are_the_same_in_any_case_and_composition() {
        let name = Name::prepare("müller@example.org").unwrap();
        for text in ["MÜLLER@example.org", "mu\u{308}ller@EXAMPLE.ORG", "m\u{ad}üller@example.org"] {
            assert_eq!(Name::prepare(text).as_ref(), Ok(&name));
        }
    }

    #[test]
    fn a_name_is_neither_empty_nor_long_nor_of_control_characters() {
        assert_eq!(Name::prepare(""), Err(PreparationError::Empty));
        assert_eq!(Name::prepare("\u{ad}"), Err(PreparationError::Empty));
        assert_eq!(Name::prepare(&"x".repeat(256)), Err(PreparationError::TooLong { octets_max: 255 }));
        assert_eq!(Name::prepare("a\r\nb"), Err(PreparationError::Prohibited));
        assert_eq!(Password::prepare_octets(b"\xff"), Err(PreparationError::NotUtf8));
    }

    #[test]
    fn a_password_is_not_printed() {
        assert!(!format!("{:?}", Password::prepare("pencil").unwrap()).contains("pencil"));
    }

    proptest! {
        #[test]
        fn what_is_prepared_stays_as_it_is(text in "\\PC{0,40}") {
            if let Ok(name) = Name::prepare(&text) {
                prop_assert_eq!(Name::prepare(name.as_str()), Ok(name));
            }
        }
    }
}
