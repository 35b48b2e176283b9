//! Which precedence a message gets: what was asked for, by whom, and how much of it the client may have.
//!
//! RFC 6710, section 4.1, with RFC 6758, section 3.1:
//!
//! | step | asked for by | when |
//! |---|---|---|
//! | 4 | `MT-PRIORITY` of MAIL FROM | always goes first |
//! | 4a | the field `MT-Priority` | no parameter; the field is there once and can be read |
//! | 4b | other fields | neither of the two is there |
//! | 5 | the policy's ordinary level | nobody has asked |
//!
//! Of the fields that count for the client, the first that is there decides. One that says nonsense asks for nothing, and
//! no later one steps in for it. Whatever was asked for, nobody gets more than the client may ask for; one that is not
//! trusted gets no more than ordinary mail has, but may ask for less.

use crate::header::{HeaderScan, Said};
use crate::routing::Policy;
use sternpost_message::{MtPriority, Precedence, PriorityField};

/// Who has asked for a priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskedBy {
    /// `MT-PRIORITY` of MAIL FROM.
    Parameter,
    /// A field of the header section.
    Field(PriorityField),
}

impl AskedBy {
    /// Its name, as logs have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Parameter => "parameter",
            Self::Field(field) => field.name(),
        }
    }
}

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Who asked.
    pub by: AskedBy,
    /// For what.
    pub priority: MtPriority,
}

/// How a message is ranked, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rank {
    /// How the scheduler ranks it.
    pub precedence: Precedence,
    /// The priority that goes on with the message; none when nobody has asked for one. RFC 6710, section 5: as it was
    /// asked for, not as it was rounded.
    pub priority: Option<MtPriority>,
    /// What was asked for, if anything.
    pub asked: Option<Asked>,
}

impl Rank {
    pub(crate) fn new(policy: &Policy, parameter: Option<MtPriority>, scan: &HeaderScan) -> Self {
        let asked = parameter
            .map(|priority| Asked { by: AskedBy::Parameter, priority })
            .or_else(|| by_field(&policy.priority_fields, scan));
        let levels = policy.priority_policy;
        let most = levels.value(policy.precedence_max);
        match asked {
            Some(asked) if levels.precedence(asked.priority) <= policy.precedence_max => Self {
                precedence: levels.precedence(asked.priority),
                priority: Some(asked.priority),
                asked: Some(asked),
            },
            Some(_) => Self { precedence: levels.precedence(most), priority: Some(most), asked },
            None => Self {
                precedence: levels.ordinary().min(levels.precedence(most)),
                priority: None,
                asked: None,
            },
        }
    }

    /// Whether the client got less than it has asked for.
    #[must_use]
    pub fn is_lowered(&self) -> bool {
        self.asked.is_some_and(|asked| Some(asked.priority) != self.priority)
    }
}

/// The first of these fields that is there, if it says something.
fn by_field(fields: &[PriorityField], scan: &HeaderScan) -> Option<Asked> {
    let first = fields.iter().find(|field| scan.said(**field) != Said::Nothing)?;
    match scan.said(*first) {
        Said::Once(priority) => Some(Asked { by: AskedBy::Field(*first), priority }),
        Said::Nothing | Said::Nonsense => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sternpost_message::PriorityPolicy;

    fn policy(precedence_max: Precedence, priority_fields: &[PriorityField]) -> Policy {
        Policy {
            is_submission: false,
            hostname: "mx.example.net".into(),
            listener: "in".into(),
            client_is_listed: true,
            recipients_max: 100,
            received_headers_max: 50,
            message_octets_max: u64::MAX,
            postmaster: None,
            priority_policy: PriorityPolicy::Stanag4406,
            precedence_max,
            priority_fields: priority_fields.to_vec(),
        }
    }

    fn rank(policy: &Policy, parameter: Option<i8>, header: &str) -> Rank {
        let mut scan = HeaderScan::new();
        scan.feed(header.as_bytes());
        scan.finish();
        Rank::new(policy, parameter.map(|value| MtPriority::new(value).unwrap()), &scan)
    }

    #[test]
    fn the_parameter_goes_before_the_fields_and_the_first_field_that_is_there_decides() {
        use AskedBy::{Field, Parameter};
        use Precedence::{Deferred, Flash, Immediate, Routine};
        use PriorityField::{MmhsCopyPrecedence, MmhsPrimaryPrecedence, MtPriority, Priority};
        let all = &[MtPriority, MmhsPrimaryPrecedence, MmhsCopyPrecedence, Priority][..];
        let mmhs_first = &[MmhsPrimaryPrecedence, MtPriority][..];
        type Row<'a> = (&'a [PriorityField], Option<i8>, &'a str, Precedence, Option<AskedBy>);
        let rows: &[Row<'_>] = &[
            (all, Some(-4), "MT-Priority: 4\r\n\r\n", Deferred, Some(Parameter)),
            (
                all,
                None,
                "MT-Priority: 4\r\nMMHS-Primary-Precedence: 0\r\n\r\n",
                Flash,
                Some(Field(MtPriority)),
            ),
            (
                all,
                None,
                "MMHS-Primary-Precedence: flash\r\nMMHS-Copy-Precedence: 1\r\n\r\n",
                Flash,
                Some(Field(MmhsPrimaryPrecedence)),
            ),
            (
                all,
                None,
                "MMHS-Copy-Precedence: 3\r\nPriority: urgent\r\n\r\n",
                Immediate,
                Some(Field(MmhsCopyPrecedence)),
            ),
            (all, None, "Priority: urgent\r\n\r\n", Flash, Some(Field(Priority))),
            // RFC 6758, 4a: a single one that is valid; 4b: others in the absence of it.
            (all, None, "MT-Priority: 4\r\nMT-Priority: 4\r\nPriority: urgent\r\n\r\n", Routine, None),
            (all, None, "MT-Priority: high\r\nPriority: urgent\r\n\r\n", Routine, None),
            // Never: RFC 6758, 4b.
            (all, None, "Importance: high\r\nX-Priority: 1\r\n\r\n", Routine, None),
            (
                mmhs_first,
                None,
                "MT-Priority: -4\r\nMMHS-Primary-Precedence: 4\r\n\r\n",
                Flash,
                Some(Field(MmhsPrimaryPrecedence)),
            ),
            (&[], None, "MT-Priority: 4\r\nPriority: urgent\r\n\r\n", Routine, None),
            (&[], None, "\r\nMT-Priority: 4\r\n\r\n", Routine, None),
        ];
        for (fields, parameter, header, precedence, by) in rows {
            let rank = rank(&policy(Precedence::Override, fields), *parameter, header);
            assert_eq!((rank.precedence, rank.asked.map(|asked| asked.by)), (*precedence, *by), "{header:?}");
        }
    }

    #[test]
    fn nobody_gets_more_than_the_client_may_ask_for() {
        let fields = [PriorityField::MtPriority];
        // Most, asked for, got, goes on.
        let rows = [
            (Precedence::Override, 9, Precedence::Override, 9),
            (Precedence::Override, 3, Precedence::Flash, 3),
            (Precedence::Flash, 6, Precedence::Flash, 4),
            (Precedence::Flash, 5, Precedence::Flash, 4),
            (Precedence::Immediate, 1, Precedence::Immediate, 1),
            (Precedence::Routine, -1, Precedence::Routine, -2),
            (Precedence::Routine, -2, Precedence::Routine, -2),
            (Precedence::Routine, -9, Precedence::Deferred, -9),
            (Precedence::Deferred, 6, Precedence::Deferred, -4),
        ];
        for (most, asked, got, goes_on) in rows {
            for (parameter, header) in
                [(Some(asked), String::new()), (None, format!("MT-Priority: {asked}\r\n\r\n"))]
            {
                let rank = rank(&policy(most, &fields), parameter, &header);
                assert_eq!(
                    (rank.precedence, rank.priority.map(MtPriority::get)),
                    (got, Some(goes_on)),
                    "{most} {asked}"
                );
                assert_eq!(rank.is_lowered(), asked != goes_on);
            }
        }
    }

    #[test]
    fn mail_without_a_priority_is_ordinary() {
        let rows = [
            (PriorityPolicy::Stanag4406, Precedence::Override, Precedence::Routine),
            (PriorityPolicy::Mixer, Precedence::Override, Precedence::Priority),
            (PriorityPolicy::Nsep, Precedence::Override, Precedence::Priority),
            (PriorityPolicy::Stanag4406, Precedence::Deferred, Precedence::Deferred),
            (PriorityPolicy::Mixer, Precedence::Routine, Precedence::Deferred),
        ];
        for (priority_policy, most, wanted) in rows {
            let rank = rank(&Policy { priority_policy, ..policy(most, &[]) }, None, "A: b\r\n\r\n");
            assert_eq!((rank.precedence, rank.priority), (wanted, None), "{}", priority_policy.name());
            assert!(!rank.is_lowered());
        }
    }
}
