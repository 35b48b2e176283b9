//! Priority and precedence. Three civilian levels (X.411), six military ones (STANAG 4406), and MT-PRIORITY
//! (RFC 6710), which maps onto both.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The six military levels, in ascending order of importance. The scheduler orders by this and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[repr(u8)]
pub enum Precedence {
    /// The lowest level.
    Deferred = 0,
    /// Ordinary mail.
    #[default]
    Routine = 1,
    /// Above routine. (The level's own name; not to be confused with priority in general.)
    Priority = 2,
    /// Third from the top.
    Immediate = 3,
    /// Second from the top.
    Flash = 4,
    /// Overtakes everything.
    Override = 5,
}

impl Precedence {
    /// Every level, lowest first.
    pub const ALL: [Self; 6] =
        [Self::Deferred, Self::Routine, Self::Priority, Self::Immediate, Self::Flash, Self::Override];

    /// The civilian level that this one is scheduled as, where only three are known (`qmgr_reserve_urgent` and
    /// `qmgr_reserve_normal`).
    #[must_use]
    pub const fn civil(self) -> CivilPriority {
        match self {
            Self::Deferred | Self::Routine => CivilPriority::NonUrgent,
            Self::Priority | Self::Immediate => CivilPriority::Normal,
            Self::Flash | Self::Override => CivilPriority::Urgent,
        }
    }

    /// The level's name in lower case, as tables and output have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deferred => "deferred",
            Self::Routine => "routine",
            Self::Priority => "priority",
            Self::Immediate => "immediate",
            Self::Flash => "flash",
            Self::Override => "override",
        }
    }
}

impl FromStr for Precedence {
    type Err = PriorityError;

    fn from_str(text: &str) -> Result<Self, PriorityError> {
        Self::ALL.into_iter().find(|level| level.name() == text).ok_or(PriorityError::Precedence)
    }
}

impl fmt::Display for Precedence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The three civilian levels, in ascending order of importance. X.411 numbers them otherwise on the wire
/// (normal 0, non-urgent 1, urgent 2); never sort by that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CivilPriority {
    /// Low.
    NonUrgent,
    /// Middle.
    Normal,
    /// High.
    Urgent,
}

/// An MT-PRIORITY value, −9 to 9. RFC 6710, section 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
pub struct MtPriority(i8);

/// Why a priority was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PriorityError {
    /// Not a number, or outside the bounds.
    #[error("an MT-PRIORITY is a whole number from -9 to 9")]
    MtPriority,
    /// Not a level's name.
    #[error("a precedence is one of deferred, routine, priority, immediate, flash and override")]
    Precedence,
    /// Not a policy's name.
    #[error("a priority policy is one of STANAG4406, MIXER and NSEP")]
    Policy,
    /// Not a field that can say a priority.
    #[error(
        "the fields that can say a priority are mt-priority, mmhs-primary-precedence, mmhs-copy-precedence, priority and \
         x-priority; Importance is for the reader alone (RFC 6758, 3.1)"
    )]
    Field,
}

impl MtPriority {
    /// # Errors
    /// [`PriorityError::MtPriority`] outside −9 … 9.
    pub const fn new(value: i8) -> Result<Self, PriorityError> {
        if value < -9 || value > 9 { Err(PriorityError::MtPriority) } else { Ok(Self(value)) }
    }

    /// The value, −9 to 9.
    #[must_use]
    pub const fn get(self) -> i8 {
        self.0
    }
}

impl fmt::Display for MtPriority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for MtPriority {
    type Err = PriorityError;

    /// RFC 6710, section 7: `0`, or `[-]` and one other digit.
    fn from_str(text: &str) -> Result<Self, PriorityError> {
        let digits = text.strip_prefix('-').unwrap_or(text);
        if digits.len() != 1 || !digits.bytes().all(|octet| octet.is_ascii_digit()) || text == "-0" {
            return Err(PriorityError::MtPriority);
        }
        text.parse().map_err(|_| PriorityError::MtPriority).and_then(Self::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precedence_orders_from_deferred_to_override() {
        assert!(Precedence::ALL.is_sorted());
        assert_eq!(Precedence::ALL.len(), 6);
    }

    #[test]
    fn a_precedence_is_read_by_its_name() {
        for level in Precedence::ALL {
            assert_eq!(level.name().parse(), Ok(level));
        }
        assert_eq!("FLASH".parse::<Precedence>(), Err(PriorityError::Precedence));
    }

    #[test]
    fn a_priority_out_of_range_or_form_is_refused() {
        for text in ["10", "-10", "+1", "", "-", "1.0", "01", "-0"] {
            assert!(text.parse::<MtPriority>().is_err(), "{text:?}");
        }
        assert_eq!("-9".parse::<MtPriority>().unwrap().get(), -9);
    }
}
