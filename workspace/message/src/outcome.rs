//! What became of a recipient, and the words that a report will use for it.

use crate::MessageId;
use serde::{Deserialize, Serialize};
use std::fmt;

/// An enhanced mail system status code: class.subject.detail. RFC 3463, section 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EnhancedStatus {
    /// 2 success, 4 persistent transient failure, 5 permanent failure.
    pub class: u8,
    /// 0 to 999.
    pub subject: u16,
    /// 0 to 999.
    pub detail: u16,
}

impl EnhancedStatus {
    /// The code `class.subject.detail`.
    #[must_use]
    pub const fn new(class: u8, subject: u16, detail: u16) -> Self {
        Self { class, subject, detail }
    }

    /// Reads the code at the start of a reply's text; the rest of the text comes back without it.
    /// None when the text does not begin with a code of class 2, 4 or 5.
    #[must_use]
    pub fn split_from(text: &str) -> Option<(Self, &str)> {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        let mut parts = word.split('.');
        let mut number = |digits_max: usize| {
            parts
                .next()
                .filter(|part| {
                    !part.is_empty() && part.len() <= digits_max && part.bytes().all(|o| o.is_ascii_digit())
                })
                .and_then(|part| part.parse::<u16>().ok())
        };
        let (class, subject, detail) = (number(1)?, number(3)?, number(3)?);
        let class = u8::try_from(class).ok().filter(|class| matches!(class, 2 | 4 | 5))?;
        parts.next().is_none().then_some((Self { class, subject, detail }, rest))
    }
}

impl fmt::Display for EnhancedStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

/// Why an outcome is what it is, in the words of whoever decided it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// The code for the report's `Status` field. RFC 3464, section 2.3.4.
    pub status: EnhancedStatus,
    /// The three-digit reply of the peer; none when the switch decided without one.
    pub reply_code: Option<u16>,
    /// The peer's reply without its codes, or our own sentence. One line, no control characters, ≤ 512 octets.
    pub text: String,
    /// Who said it: the peer's name and address; empty when the switch decided by itself.
    pub remote: String,
}

impl Diagnostic {
    /// The largest `text` that is kept.
    pub const TEXT_OCTETS_MAX: usize = 512;

    /// A diagnostic of our own, without a peer. Control characters become spaces and the text is cut at the bound.
    #[must_use]
    pub fn own(status: EnhancedStatus, text: &str) -> Self {
        Self { status, reply_code: None, text: Self::one_line(text), remote: String::new() }
    }

    /// One line without control characters, cut at [`Self::TEXT_OCTETS_MAX`] on a character boundary.
    #[must_use]
    pub fn one_line(text: &str) -> String {
        let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let mut end = line.len().min(Self::TEXT_OCTETS_MAX);
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        line.truncate(end);
        line
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(code) = self.reply_code {
            write!(f, "{code} ")?;
        }
        write!(f, "{} {}", self.status, self.text)
    }
}

/// Whom a transient error delays. Row M12 of the feature map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ErrorScope {
    /// The peer MTA did not answer, refused the session or broke it: every Mlist for it waits.
    Peer,
    /// The peer refused this message for now: only this Mlist waits.
    Message,
}

/// What became of one recipient in one attempt. Recorded in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Handed to a message store (LMTP).
    Delivered(Diagnostic),
    /// Handed to another MTA (SMTP), which is now responsible.
    Transferred(Diagnostic),
    /// Not now; try again.
    Deferred {
        /// Whom the error delays.
        scope: ErrorScope,
        /// Why.
        diagnostic: Diagnostic,
    },
    /// Never; a report is owed.
    Failed(Diagnostic),
    /// The sender was told of the delay; the attempts go on.
    DelayReported,
    /// The failure or the success was reported by the message `report`, or there is none (null sender, NOTIFY=NEVER, no
    /// route for the report): then the reason stands in `why`.
    Reported {
        /// The report, if one was made.
        report: Option<MessageId>,
        /// Why no report was made; empty when one was.
        why: String,
    },
    /// Thrown away by an operator.
    Discarded {
        /// Who and why.
        why: String,
    },
    /// As `Delivered`, and the sender is to be told.
    DeliveredReportOwed(Diagnostic),
    /// As `Transferred`, to an MTA that tells nobody of a success, and the sender is to be told. RFC 3461, 5.2.2.
    RelayedReportOwed(Diagnostic),
}

/// An outcome without its words: what it does to a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum OutcomeKind {
    /// [`Outcome::Delivered`]
    Delivered,
    /// [`Outcome::Transferred`]
    Transferred,
    /// [`Outcome::Deferred`]
    Deferred,
    /// [`Outcome::Failed`]
    Failed,
    /// [`Outcome::DelayReported`]
    DelayReported,
    /// [`Outcome::Reported`]
    Reported,
    /// [`Outcome::Discarded`]
    Discarded,
    /// [`Outcome::DeliveredReportOwed`]
    DeliveredReportOwed,
    /// [`Outcome::RelayedReportOwed`]
    RelayedReportOwed,
}

impl Outcome {
    /// What it does to a recipient.
    #[must_use]
    pub const fn kind(&self) -> OutcomeKind {
        match self {
            Self::Delivered(_) => OutcomeKind::Delivered,
            Self::Transferred(_) => OutcomeKind::Transferred,
            Self::Deferred { .. } => OutcomeKind::Deferred,
            Self::Failed(_) => OutcomeKind::Failed,
            Self::DelayReported => OutcomeKind::DelayReported,
            Self::Reported { .. } => OutcomeKind::Reported,
            Self::Discarded { .. } => OutcomeKind::Discarded,
            Self::DeliveredReportOwed(_) => OutcomeKind::DeliveredReportOwed,
            Self::RelayedReportOwed(_) => OutcomeKind::RelayedReportOwed,
        }
    }

    /// What was said, where the outcome is that of an attempt.
    #[must_use]
    pub const fn diagnostic(&self) -> Option<&Diagnostic> {
        match self {
            Self::Delivered(diagnostic)
            | Self::Transferred(diagnostic)
            | Self::DeliveredReportOwed(diagnostic)
            | Self::RelayedReportOwed(diagnostic)
            | Self::Failed(diagnostic)
            | Self::Deferred { diagnostic, .. } => Some(diagnostic),
            Self::DelayReported | Self::Reported { .. } | Self::Discarded { .. } => None,
        }
    }
}

impl OutcomeKind {
    /// Whether somebody else has the message for the recipient now.
    #[must_use]
    pub const fn is_handed_over(self) -> bool {
        matches!(
            self,
            Self::Delivered | Self::Transferred | Self::DeliveredReportOwed | Self::RelayedReportOwed
        )
    }
}

/// Where a recipient stands. A function of the outcomes recorded for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RecipientState {
    /// Not attempted yet, or deferred: still to be transferred.
    #[default]
    Pending,
    /// Failed; its report is not durable yet.
    Failed,
    /// Terminal: handed to a message store.
    Delivered,
    /// Terminal: handed to another MTA.
    Transferred,
    /// Terminal: failed and reported (or no report was needed).
    Reported,
    /// Terminal: thrown away by an operator.
    Discarded,
    /// Handed to a message store; the report of that is not durable yet.
    DeliveredReportOwed,
    /// Handed to another MTA; the report of that is not durable yet.
    RelayedReportOwed,
}

impl RecipientState {
    /// Whether nothing remains to be done for the recipient. A message is dead when this holds for all of them.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Delivered | Self::Transferred | Self::Reported | Self::Discarded)
    }

    /// Whether the message was handed over for the recipient and only the report of that remains to be made.
    #[must_use]
    pub const fn owes_success_report(self) -> bool {
        matches!(self, Self::DeliveredReportOwed | Self::RelayedReportOwed)
    }

    /// Whether nothing but a report remains to be made.
    #[must_use]
    pub const fn owes_report(self) -> bool {
        matches!(self, Self::Failed) || self.owes_success_report()
    }

    /// The state after `outcome`. A terminal state is final: an outcome that comes twice changes nothing. What was handed
    /// over stays so, whether its report is made or thrown away.
    #[must_use]
    pub const fn after(self, outcome: OutcomeKind) -> Self {
        if self.is_terminal() {
            return self;
        }
        match (self, outcome) {
            (Self::DeliveredReportOwed, OutcomeKind::Reported | OutcomeKind::Discarded) => Self::Delivered,
            (Self::RelayedReportOwed, OutcomeKind::Reported | OutcomeKind::Discarded) => Self::Transferred,
            (Self::DeliveredReportOwed | Self::RelayedReportOwed, _) => self,
            (_, OutcomeKind::Delivered) => Self::Delivered,
            (_, OutcomeKind::Transferred) => Self::Transferred,
            (_, OutcomeKind::DeliveredReportOwed) => Self::DeliveredReportOwed,
            (_, OutcomeKind::RelayedReportOwed) => Self::RelayedReportOwed,
            (_, OutcomeKind::Deferred | OutcomeKind::DelayReported) => self,
            (_, OutcomeKind::Failed) => Self::Failed,
            (_, OutcomeKind::Reported) => Self::Reported,
            (_, OutcomeKind::Discarded) => Self::Discarded,
        }
    }

    /// The state's name in lower case, as output has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Failed => "failed",
            Self::Delivered => "delivered",
            Self::Transferred => "transferred",
            Self::Reported => "reported",
            Self::Discarded => "discarded",
            Self::DeliveredReportOwed => "delivered-report-owed",
            Self::RelayedReportOwed => "relayed-report-owed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_enhanced_status_is_split_from_the_text_behind_it() {
        let (status, rest) = EnhancedStatus::split_from("5.1.1 No such user").unwrap();
        assert_eq!((status.to_string().as_str(), rest), ("5.1.1", "No such user"));
        for text in ["Ok", "3.0.0 no", "5.1 no", "5.1.1.1 no", "5.1.1000 no", "5..1 no", ""] {
            assert!(EnhancedStatus::split_from(text).is_none(), "{text:?}");
        }
    }

    #[test]
    fn a_terminal_recipient_stays_as_it_is() {
        let failed = Outcome::Failed(Diagnostic::own(EnhancedStatus::new(5, 0, 0), "late"));
        assert_eq!(RecipientState::Delivered.after(failed.kind()), RecipientState::Delivered);
        assert_eq!(RecipientState::Pending.after(failed.kind()), RecipientState::Failed);
    }

    #[test]
    fn what_was_handed_over_stays_so_and_is_terminal_when_its_report_is_made() {
        use OutcomeKind::{Deferred, Delivered, Discarded, Failed, RelayedReportOwed, Reported};
        let owing = RecipientState::Pending.after(RelayedReportOwed);
        assert!(owing.owes_report() && !owing.is_terminal());
        for other in [Deferred, Failed, Delivered, OutcomeKind::DeliveredReportOwed] {
            assert_eq!(owing.after(other), owing, "{other:?}");
        }
        assert_eq!(owing.after(Reported), RecipientState::Transferred);
        assert_eq!(RecipientState::DeliveredReportOwed.after(Discarded), RecipientState::Delivered);
    }

    #[test]
    fn a_diagnostic_is_one_bounded_line() {
        let line = Diagnostic::one_line(&"é\r\n".repeat(400));
        assert!(line.len() <= Diagnostic::TEXT_OCTETS_MAX && !line.contains(['\r', '\n']));
    }
}
