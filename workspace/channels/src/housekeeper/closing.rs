//! What the housekeeper writes into the log: the report, if one is owed, and the outcomes that close what it reports on,
//! as one set of records. Decides and composes; reads nothing, sends nothing.

use crate::report::{self, Original, Owed, ReportKind, ReportRequest, ReportedRecipient};
use sha2::{Digest, Sha256};
use sternpost_config::HousekeeperView;
use sternpost_link::qmgr::Assignment;
use sternpost_link::store::{Append, CHUNK_OCTETS_MAX, MessageDetail, RecipientRecord};
use sternpost_message::{
    BodyType, Diagnostic, EnhancedStatus, Envelope, MessageId, MessageSequence, Outcome, Recipient,
    RecipientIndex, RecipientRange, RecipientState, ReversePath, Route, RouteIndex, UnixMillis,
};

/// Recipients of one report: with their diagnostics and the original's header it stays well below a datagram, so that
/// it commits with what it reports on.
pub const RECIPIENTS_PER_REPORT: usize = 24;
/// Octets of the original that are read: its header section, or the whole of a small message.
pub const ORIGINAL_OCTETS_MAX: u64 = report::FULL_OCTETS_MAX as u64;

/// What a report is about.
#[derive(Clone, Copy, Debug)]
pub struct Reporting<'a> {
    /// Who reports, and the routes of reports.
    pub view: &'a HousekeeperView,
    /// The message.
    pub detail: &'a MessageDetail,
    /// The beginning of its content, up to [`ORIGINAL_OCTETS_MAX`].
    pub original: &'a [u8],
    /// A delay, not a failure.
    pub is_delay: bool,
    /// When the report is made.
    pub now: UnixMillis,
}

/// A report as a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// Its name.
    pub id: MessageId,
    /// What it says.
    pub content: Vec<u8>,
    /// To whom.
    pub envelope: Envelope,
}

/// A recipient that may be reported on.
#[derive(Clone, Debug)]
pub struct Candidate<'a> {
    index: RecipientIndex,
    recipient: &'a Recipient,
    record: &'a RecipientRecord,
    diagnostic: Diagnostic,
}

impl Reporting<'_> {
    /// Makes one report, or notes why none is made, with the outcomes that close the recipients.
    /// `id` is that of the report, if there is one.
    #[must_use]
    pub fn compose(
        &self,
        candidates: &[Candidate<'_>],
        id: MessageId,
    ) -> (Option<Made>, Vec<(RecipientRange, Outcome)>) {
        let Reporting { view, detail, original, is_delay, now } = *self;
        let kind = if is_delay {
            let after_ms = u64::from(view.qmgr.expire_after_s) * 1_000;
            ReportKind::Delay { will_retry_until: detail.envelope.accepted_at.plus_ms(after_ms) }
        } else {
            ReportKind::Failure
        };
        let close = |report: Option<MessageId>, why: &str| {
            if is_delay { Outcome::DelayReported } else { Outcome::Reported { report, why: why.to_owned() } }
        };
        let mut outcomes: Vec<(RecipientRange, Outcome)> = Vec::new();
        let mut reported = Vec::new();
        let mut reported_ranges = Vec::new();
        for candidate in candidates {
            let range = RecipientRange { first: candidate.index.0, count: 1 };
            match report::is_owed(&detail.envelope, candidate.recipient, kind) {
                Owed::No(why) => outcomes.push((range, close(None, why))),
                Owed::Yes => {
                    reported_ranges.push(range);
                    reported.push(ReportedRecipient {
                        recipient: candidate.recipient,
                        diagnostic: &candidate.diagnostic,
                        expired: candidate.record.state == RecipientState::Pending && !is_delay,
                        attempts: u32::from(candidate.record.attempts),
                    });
                }
            }
        }
        let mut report = None;
        if !reported.is_empty() {
            match route(view, &detail.envelope.sender) {
                Some((recipient, route)) => {
                    let whole = original.len() as u64 == detail.content_octets;
                    let made = report::make(&ReportRequest {
                        reporting_mta: &view.node.hostname,
                        postmaster: &view.node.postmaster,
                        envelope: &detail.envelope,
                        original_id: detail.id,
                        kind,
                        recipients: &reported,
                        original: if whole {
                            Original::Whole(original)
                        } else {
                            Original::Beginning(original)
                        },
                        report_id: id,
                        now,
                    });
                    let envelope = Envelope {
                        sender: ReversePath::Null,
                        recipients: vec![recipient],
                        routes: vec![route],
                        accepted_at: now,
                        precedence: detail.envelope.precedence,
                        mt_priority: detail.envelope.mt_priority,
                        body: if made.eight_bit { BodyType::EightBitMime } else { BodyType::SevenBit },
                        smtputf8: made.smtputf8,
                        ret: None,
                        envelope_id: None,
                        source: "housekeeper".to_owned(),
                        client: String::new(),
                        tls: None,
                        identity: None,
                    };
                    outcomes.extend(reported_ranges.iter().map(|range| (*range, close(Some(id), ""))));
                    report = Some(Made { id, content: made.content, envelope });
                }
                None => {
                    let why = format!("no route for a report to {}", detail.envelope.sender);
                    tracing::error!(event = "report.no-route", id = %detail.id, sender = %detail.envelope.sender, "a report is owed and there is no route to the sender");
                    outcomes.extend(reported_ranges.iter().map(|range| (*range, close(None, &why))));
                }
            }
        }
        (report, outcomes)
    }
}

/// The records that commit together: the report, and what it closes.
#[must_use]
pub fn records<'a>(
    message: MessageSequence,
    report: Option<&'a Made>,
    outcomes: &[(RecipientRange, Outcome)],
) -> Vec<Append<'a>> {
    let mut records = Vec::with_capacity(4);
    if let Some(Made { id, content, envelope }) = report {
        let chunks = content.chunks(CHUNK_OCTETS_MAX);
        records.extend((0..).zip(chunks).map(|(index, octets)| Append::Content {
            message: *id,
            index,
            octets,
        }));
        records.push(Append::Envelope {
            message: *id,
            envelope: Box::new(envelope.clone()),
            content_octets: content.len() as u64,
            content_sha256: Sha256::digest(content).into(),
        });
    }
    records.push(Append::Outcome { message, outcomes: outcomes.to_vec() });
    records
}

/// The assigned recipients that still need the report: failed or expired ones, or late ones.
#[must_use]
pub fn candidates<'a>(
    assignment: &Assignment,
    detail: &'a MessageDetail,
    is_delay: bool,
) -> Vec<Candidate<'a>> {
    assignment
        .recipients
        .iter()
        .flat_map(|range| range.first..range.end())
        .filter_map(|index| {
            let at = usize::try_from(index).ok()?;
            let record = detail.recipients.get(at)?;
            let recipient = detail.envelope.recipients.get(at)?;
            let is_late = record.state == RecipientState::Pending && !record.delay_reported;
            let is_closed = if is_delay { !is_late } else { record.state.is_terminal() };
            let diagnostic = record.last.clone().unwrap_or_else(|| {
                Diagnostic::own(EnhancedStatus::new(4, 4, 7), "the message was not attempted in time")
            });
            (!is_closed).then_some(Candidate { index: RecipientIndex(index), recipient, record, diagnostic })
        })
        .collect()
}

/// The way to the sender, if the configuration has one.
fn route(view: &HousekeeperView, sender: &ReversePath) -> Option<(Recipient, Route)> {
    let address = sender.mailbox()?.clone();
    let destination = view.routes.destination(address.domain())?;
    let route = Route { channel: destination.channel.to_owned(), peer: destination.peer.to_owned() };
    let recipient = Recipient { address, route: RouteIndex(0), notify: None, original_recipient: None };
    Some((recipient, route))
}
