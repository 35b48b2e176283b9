//! Whether the sender is to be told. RFC 3461, sections 4.1, 5.2 and 6.2.

use super::ReportKind;
use sternpost_message::{Envelope, Notify, Recipient, ReversePath};

/// Whether a report is owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owed {
    /// The sender is to be told.
    Yes,
    /// Nobody is told, for this reason (the `why` of [`sternpost_message::Outcome::Reported`]).
    No(&'static str),
}

/// Whether the sender of `envelope` is to be told what has become of `recipient`. Without `NOTIFY`, failures and delays are
/// reported, and successes are not.
#[must_use]
pub fn is_owed(envelope: &Envelope, recipient: &Recipient, kind: ReportKind) -> Owed {
    if envelope.sender == ReversePath::Null {
        return Owed::No("the sender is null");
    }
    match (recipient.notify, kind) {
        (Some(Notify::NEVER), _) => Owed::No("the sender asked for no reports (NOTIFY=NEVER)"),
        (Some(Notify { failure: false, .. }), ReportKind::Failure) => {
            Owed::No("the sender asked for no failure reports (NOTIFY without FAILURE)")
        }
        (Some(Notify { delay: false, .. }), ReportKind::Delay { .. }) => {
            Owed::No("the sender asked for no delay reports (NOTIFY without DELAY)")
        }
        (Some(Notify { success: false, .. }) | None, ReportKind::Delivered | ReportKind::Relayed) => {
            Owed::No("the sender did not ask for reports of success (NOTIFY without SUCCESS)")
        }
        (Some(_) | None, _) => Owed::Yes,
    }
}
