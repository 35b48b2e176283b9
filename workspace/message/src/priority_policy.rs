//! Priority assignment policies (RFC 6710, section 9.2 and appendices A to C): which of the 19 values of MT-PRIORITY are
//! levels of their own.
//!
//! A value means the same level in each of the three: −4 is deferred, −2 routine, 0 priority, 2 immediate, 4 flash and
//! 6 override. What differs is which of them there are, and so how a value between two is rounded.

use crate::{MtPriority, Precedence, PriorityError};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// A policy that a server announces behind `MT-PRIORITY` in its reply to EHLO. All servers of one administrative domain
/// have the same one (RFC 6710, section 9.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PriorityPolicy {
    /// Six military levels. RFC 6710, appendix A.
    #[default]
    Stanag4406,
    /// Three civilian levels. RFC 6710, appendix B.
    Mixer,
    /// Five levels for emergencies. RFC 6710, appendix C.
    Nsep,
}

impl PriorityPolicy {
    /// Every policy.
    pub const ALL: [Self; 3] = [Self::Stanag4406, Self::Mixer, Self::Nsep];

    /// The registered name, as the server announces it: 1 to 20 letters and digits.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stanag4406 => "STANAG4406",
            Self::Mixer => "MIXER",
            Self::Nsep => "NSEP",
        }
    }

    /// The levels with their values, lowest first; at least one.
    const fn levels(self) -> &'static [(i8, Precedence)] {
        use Precedence::{Deferred, Flash, Immediate, Override, Priority, Routine};
        const STANAG4406: &[(i8, Precedence)] =
            &[(-4, Deferred), (-2, Routine), (0, Priority), (2, Immediate), (4, Flash), (6, Override)];
        match self {
            Self::Stanag4406 => STANAG4406,
            // Non-urgent, normal and urgent.
            Self::Mixer => &[(-4, Deferred), (0, Priority), (4, Flash)],
            Self::Nsep => STANAG4406.split_at(1).1,
        }
    }

    /// The level at which a message of this priority is handled: that of the next value that is a level, the highest
    /// level for all above it. RFC 6710, section 5.
    #[must_use]
    pub fn precedence(self, priority: MtPriority) -> Precedence {
        let levels = self.levels();
        let level = levels.iter().find(|(value, _)| priority.get() <= *value).or(levels.last());
        level.map_or_else(|| self.ordinary(), |(_, precedence)| *precedence)
    }

    /// The value of the highest level that is not above `precedence`; that of the lowest level if all are.
    #[must_use]
    pub fn value(self, precedence: Precedence) -> MtPriority {
        let levels = self.levels();
        let level = levels.iter().rev().find(|(_, level)| *level <= precedence).or(levels.first());
        level.and_then(|(value, _)| MtPriority::new(*value).ok()).unwrap_or_default()
    }

    /// The level of mail of which nobody has said a priority. RFC 6710, section 4.1, gives it the priority 0 unless
    /// the server's own policy says otherwise: in a military network it is routine.
    #[must_use]
    pub const fn ordinary(self) -> Precedence {
        match self {
            Self::Stanag4406 => Precedence::Routine,
            Self::Mixer | Self::Nsep => Precedence::Priority,
        }
    }
}

impl FromStr for PriorityPolicy {
    type Err = PriorityError;

    fn from_str(text: &str) -> Result<Self, PriorityError> {
        Self::ALL.into_iter().find(|policy| policy.name() == text).ok_or(PriorityError::Policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Precedence::{Deferred, Flash, Immediate, Override, Priority, Routine};

    fn levels_of(policy: PriorityPolicy) -> Vec<Precedence> {
        (-9..=9).map(|value| policy.precedence(MtPriority::new(value).unwrap())).collect()
    }

    #[test]
    fn each_value_has_the_level_that_rfc_6710_gives_it() {
        let (d, r, p, i, f, o) = (Deferred, Routine, Priority, Immediate, Flash, Override);
        // From −9 to 9.
        let rows = [
            (PriorityPolicy::Stanag4406, [d, d, d, d, d, d, r, r, p, p, i, i, f, f, o, o, o, o, o]),
            (PriorityPolicy::Mixer, [d, d, d, d, d, d, p, p, p, p, f, f, f, f, f, f, f, f, f]),
            (PriorityPolicy::Nsep, [r, r, r, r, r, r, r, r, p, p, i, i, f, f, o, o, o, o, o]),
        ];
        for (policy, levels) in rows {
            assert_eq!(levels_of(policy), levels, "{}", policy.name());
        }
    }

    #[test]
    fn each_level_of_a_policy_has_its_own_value() {
        let rows = [
            (PriorityPolicy::Stanag4406, [-4, -2, 0, 2, 4, 6]),
            (PriorityPolicy::Mixer, [-4, -4, 0, 0, 4, 4]),
            (PriorityPolicy::Nsep, [-2, -2, 0, 2, 4, 6]),
        ];
        for (policy, values) in rows {
            assert_eq!(Precedence::ALL.map(|level| policy.value(level).get()), values, "{}", policy.name());
            for (value, level) in policy.levels() {
                assert_eq!(policy.precedence(MtPriority::new(*value).unwrap()), *level);
                assert_eq!(policy.value(*level).get(), *value);
            }
        }
    }

    #[test]
    fn ordinary_mail_is_of_a_level_and_never_raised() {
        for policy in PriorityPolicy::ALL {
            assert!(policy.levels().iter().any(|(_, level)| *level == policy.ordinary()));
            assert!(
                policy.value(policy.ordinary()).get() <= 0,
                "RFC 6710, 4.1: positive values are for the trusted"
            );
        }
    }

    #[test]
    fn a_policy_is_read_by_its_registered_name() {
        for policy in PriorityPolicy::ALL {
            assert_eq!(policy.name().parse(), Ok(policy));
        }
        assert_eq!("mixer".parse::<PriorityPolicy>(), Err(PriorityError::Policy));
    }
}
