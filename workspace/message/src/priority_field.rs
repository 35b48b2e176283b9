//! Header fields that say how urgent a message is, and what their values say.
//!
//! | field | source | value |
//! |---|---|---|
//! | `MT-Priority` | RFC 6758, section 4 | −9 to 9 |
//! | `MMHS-Primary-Precedence`, `MMHS-Copy-Precedence` | RFC 6477, sections 3.8 and 3.9 | 0 to 5, or a level's name |
//! | `Priority` | RFC 2156, section 5.3.6; RFC 6710, appendix B | `non-urgent`, `normal`, `urgent` |
//! | `X-Priority` | nowhere; what mail programs do | 1 (highest) to 5 |
//!
//! `Importance` is not here: it is for the reader, and must not rank a message in transfer (RFC 6758, section 3.1).

use crate::{MtPriority, Precedence, PriorityError, PriorityPolicy};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The most octets of a value that are read, behind the colon and with its folding. A longer one cannot be read.
pub const FIELD_VALUE_OCTETS_MAX: usize = 256;
/// Comments within comments. RFC 5322, section 3.2.2, has no bound.
const COMMENT_DEPTH_MAX: u32 = 16;

/// A header field that may say a priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum PriorityField {
    /// RFC 6758: what an MT-PRIORITY was behind servers that do not know it.
    MtPriority,
    /// RFC 6477: the precedence for action recipients.
    MmhsPrimaryPrecedence,
    /// RFC 6477: the precedence for information recipients.
    MmhsCopyPrecedence,
    /// RFC 2156.
    Priority,
    /// A habit of mail programs.
    XPriority,
}

impl PriorityField {
    /// Every field, in the order in which they are listed.
    pub const ALL: [Self; 5] = [
        Self::MtPriority,
        Self::MmhsPrimaryPrecedence,
        Self::MmhsCopyPrecedence,
        Self::Priority,
        Self::XPriority,
    ];
    /// The longest name.
    pub const NAME_OCTETS_MAX: usize = 23;

    /// The field's name, in lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MtPriority => "mt-priority",
            Self::MmhsPrimaryPrecedence => "mmhs-primary-precedence",
            Self::MmhsCopyPrecedence => "mmhs-copy-precedence",
            Self::Priority => "priority",
            Self::XPriority => "x-priority",
        }
    }

    /// Its place in [`Self::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The field of that name, in any case.
    #[must_use]
    pub fn of_name(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|field| name.eq_ignore_ascii_case(field.name().as_bytes()))
    }

    /// What a value says: the octets behind the colon, which may be folded and have comments. None when it is not one
    /// of the field's values.
    #[must_use]
    pub fn read(self, value: &[u8]) -> Option<MtPriority> {
        let word = only_word(value)?;
        let (low, normal, high) = (-4, 0, 4);
        let number = match self {
            Self::MtPriority => return word.parse().ok(),
            Self::MmhsPrimaryPrecedence | Self::MmhsCopyPrecedence => {
                let is_number = word.bytes().all(|octet| octet.is_ascii_digit());
                let level = if is_number {
                    word.parse().ok().and_then(|number: usize| Precedence::ALL.get(number).copied())?
                } else {
                    word.to_ascii_lowercase().parse().ok()?
                };
                return Some(PriorityPolicy::Stanag4406.value(level));
            }
            Self::Priority => match word.to_ascii_lowercase().as_str() {
                "non-urgent" => low,
                "normal" => normal,
                "urgent" => high,
                _ => return None,
            },
            Self::XPriority => match word {
                "1" | "2" => high,
                "3" => normal,
                "4" | "5" => low,
                _ => return None,
            },
        };
        MtPriority::new(number).ok()
    }
}

/// The one word of a value between blanks, line ends and comments (CFWS of RFC 5322, section 3.2.2).
fn only_word(value: &[u8]) -> Option<&str> {
    let mut depth = 0_u32;
    let mut is_quoted = false;
    let mut word: Option<(usize, usize)> = None;
    for (at, &octet) in value.iter().enumerate() {
        match octet {
            _ if is_quoted => is_quoted = false,
            b'\\' if depth > 0 => is_quoted = true,
            b'(' if depth < COMMENT_DEPTH_MAX => depth += 1,
            b'(' => return None,
            b')' => depth = depth.checked_sub(1)?,
            _ if depth > 0 => {}
            b' ' | b'\t' | b'\r' | b'\n' => {}
            _ => {
                word = match word {
                    None => Some((at, at + 1)),
                    Some((start, end)) if end == at => Some((start, at + 1)),
                    Some(_) => return None,
                }
            }
        }
    }
    let (start, end) = word.filter(|_| depth == 0 && !is_quoted)?;
    std::str::from_utf8(value.get(start..end)?).ok()
}

impl FromStr for PriorityField {
    type Err = PriorityError;

    /// By its name in lower case.
    fn from_str(text: &str) -> Result<Self, PriorityError> {
        Self::ALL.into_iter().find(|field| field.name() == text).ok_or(PriorityError::Field)
    }
}

impl TryFrom<String> for PriorityField {
    type Error = PriorityError;

    fn try_from(text: String) -> Result<Self, PriorityError> {
        text.parse()
    }
}

impl From<PriorityField> for String {
    fn from(field: PriorityField) -> Self {
        field.name().to_owned()
    }
}

impl fmt::Display for PriorityField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_says_what_its_standard_says() {
        use PriorityField::{MmhsCopyPrecedence, MmhsPrimaryPrecedence, MtPriority, Priority, XPriority};
        let rows: &[(PriorityField, &str, Option<i8>)] = &[
            (MtPriority, " -3\r\n", Some(-3)),
            (MtPriority, " 4 (ultra)\r\n", Some(4)),
            (MtPriority, "(a(b)\\)) 9 (\r\n c)\r\n", Some(9)),
            (MtPriority, " 10\r\n", None),
            (MtPriority, " +4\r\n", None),
            (MtPriority, " -0\r\n", None),
            (MtPriority, " 4 4\r\n", None),
            (MtPriority, " 4(a)4\r\n", None),
            (MtPriority, " 4 (open\r\n", None),
            (MtPriority, " 4)\r\n", None),
            (MtPriority, "\r\n", None),
            (MtPriority, " flash\r\n", None),
            (MtPriority, " 4\u{e9}\r\n", None),
            (MmhsPrimaryPrecedence, " 0 (Deferred)\r\n", Some(-4)),
            (MmhsPrimaryPrecedence, " 1\r\n", Some(-2)),
            (MmhsPrimaryPrecedence, " Priority\r\n", Some(0)),
            (MmhsPrimaryPrecedence, " 3\r\n", Some(2)),
            (MmhsPrimaryPrecedence, " FLASH\r\n", Some(4)),
            (MmhsPrimaryPrecedence, " 5\r\n", Some(6)),
            // Reserved by ACP 123: no level of ours.
            (MmhsPrimaryPrecedence, " 7\r\n", None),
            (MmhsPrimaryPrecedence, " -1\r\n", None),
            (MmhsPrimaryPrecedence, " +1\r\n", None),
            (MmhsCopyPrecedence, " immediate (to copy)\r\n", Some(2)),
            (Priority, " non-urgent\r\n", Some(-4)),
            (Priority, " Normal\r\n", Some(0)),
            (Priority, "\r\n\turgent\r\n", Some(4)),
            (Priority, " high\r\n", None),
            (XPriority, " 1 (Highest)\r\n", Some(4)),
            (XPriority, " 2\r\n", Some(4)),
            (XPriority, " 3\r\n", Some(0)),
            (XPriority, " 5 (Lowest)\r\n", Some(-4)),
            (XPriority, " 0\r\n", None),
        ];
        for (field, value, wanted) in rows {
            assert_eq!(field.read(value.as_bytes()).map(|read| read.get()), *wanted, "{field}:{value:?}");
        }
    }

    #[test]
    fn fields_are_known_by_their_names_and_importance_is_none() {
        for (index, field) in PriorityField::ALL.into_iter().enumerate() {
            assert_eq!((field.index(), field.name().parse()), (index, Ok(field)));
            assert_eq!(PriorityField::of_name(field.name().to_uppercase().as_bytes()), Some(field));
            assert!(field.name().len() <= PriorityField::NAME_OCTETS_MAX);
        }
        assert_eq!("importance".parse::<PriorityField>(), Err(PriorityError::Field));
    }

    #[test]
    fn comments_within_comments_have_a_bound() {
        let nested = |depth: usize| format!("{}{} 4", "(".repeat(depth), ")".repeat(depth));
        assert!(PriorityField::MtPriority.read(nested(16).as_bytes()).is_some());
        assert!(PriorityField::MtPriority.read(nested(17).as_bytes()).is_none());
    }
}
