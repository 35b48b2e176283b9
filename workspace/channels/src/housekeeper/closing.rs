//! What the housekeeper writes into the log: the report, if one is owed, a copy of it for the postmaster, and the outcomes that
//! close what it reports on, as one set of records. Decides and composes; reads nothing, sends nothing.

use crate::report::{self, CopyNote, Original, Owed, ReportKind, ReportRequest, ReportedRecipient, wishes};
use sha2::{Digest, Sha256};
use std::net::IpAddr;
use std::ops::Range;
use sternpost_config::{HousekeeperView, LanguageTag, ReportEvent, ReportText, ReportsTo};
use sternpost_link::qmgr::Assignment;
use sternpost_link::store::{Append, CHUNK_OCTETS_MAX, MessageDetail, RecipientRecord};
use sternpost_message::{
    BodyType, Diagnostic, EnhancedStatus, Envelope, Mailbox, MessageId, MessageSequence, NullHop, Outcome,
    Recipient, RecipientIndex, RecipientRange, RecipientState, ReversePath, Route, RouteIndex, UnixMillis,
};

/// Recipients of one report: with their diagnostics and the original's header it stays well below a datagram, so that
/// it commits with what it reports on.
pub const RECIPIENTS_PER_REPORT: usize = 24;
/// Octets of the original that are read: its header section, or the whole of a small message.
pub const ORIGINAL_OCTETS_MAX: u64 = report::FULL_OCTETS_MAX as u64;

/// What a report is about.
#[derive(Clone, Copy, Debug)]
pub struct Reporting<'a> {
    /// Who reports, what is said to whom, and the routes of reports.
    pub view: &'a HousekeeperView,
    /// The message.
    pub detail: &'a MessageDetail,
    /// The beginning of its content, up to [`ORIGINAL_OCTETS_MAX`].
    pub original: &'a [u8],
    /// The sender's domain has had as many reports as it may have.
    pub is_limited: bool,
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

/// What commits together, but for the names of the records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Composed {
    /// The report to the sender.
    pub report: Option<Made>,
    /// The copy for the postmaster.
    pub copy: Option<Made>,
    /// What closes the recipients.
    pub outcomes: Vec<(RecipientRange, Outcome)>,
    /// A report is owed and there is no route to the sender.
    pub has_no_route: bool,
    /// Why recipients of a failure are reported on to nobody but, at most, the postmaster; empty when all are.
    pub dropped: Vec<String>,
}

/// The names of the messages that may be made.
#[derive(Clone, Copy, Debug)]
pub struct Ids {
    /// Of the report.
    pub report: MessageId,
    /// Of the copy.
    pub copy: MessageId,
}

/// A recipient that may be reported on.
#[derive(Clone, Debug)]
pub struct Candidate<'a> {
    said: ReportEvent,
    index: RecipientIndex,
    recipient: &'a Recipient,
    record: &'a RecipientRecord,
    diagnostic: Diagnostic,
}

impl Reporting<'_> {
    /// Makes the report on one part (see [`parts`]), or notes why none is made, with the outcomes that close the recipients.
    ///
    /// Whom the sender wants to hear of is the sender's word (RFC 3461), and whether this sender is told anything the
    /// configuration's. A copy goes to the postmaster of a report on a failure, and of a failure that nobody can be told of: a
    /// report that failed itself, or one without a route. But not of the failure of a copy.
    #[must_use]
    pub fn compose(&self, part: &[Candidate<'_>], ids: Ids) -> Composed {
        let said = part.first().map_or(ReportEvent::Failure, |candidate| candidate.said);
        let envelope = &self.detail.envelope;
        let kind = self.kind(said);
        let route = route(self.view, envelope.sender.mailbox());
        let silence = self.silence();
        let mut composed = Composed::default();
        let mut reported = Vec::new();
        let mut unreported = Vec::new();
        for candidate in part {
            let range = RecipientRange { first: candidate.index.0, count: 1 };
            let why = match (report::is_owed(envelope, candidate.recipient, kind), &silence, &route) {
                // Only a failure that somebody should hear of is worth the postmaster's time.
                (Owed::No(why), ..) => {
                    if envelope.sender == ReversePath::Null {
                        unreported.push(self.reported(candidate));
                    }
                    Some(why.to_owned())
                }
                (Owed::Yes, Some(why), _) => Some((*why).to_owned()),
                (Owed::Yes, None, None) => {
                    composed.has_no_route = true;
                    unreported.push(self.reported(candidate));
                    Some(format!("no route for a report to {}", envelope.sender))
                }
                (Owed::Yes, None, Some(_)) => None,
            };
            if why.is_none() {
                reported.push(self.reported(candidate));
            }
            if let (ReportEvent::Failure, Some(why)) = (said, &why)
                && !self.is_probe()
            {
                composed.dropped.push(format!("{}: {why}", candidate.recipient.address));
            }
            let report = why.is_none().then_some(ids.report);
            let outcome = match said {
                ReportEvent::Delay => Outcome::DelayReported,
                ReportEvent::Failure | ReportEvent::Delivered | ReportEvent::Relayed => {
                    Outcome::Reported { report, why: why.unwrap_or_default() }
                }
            };
            composed.outcomes.push((range, outcome));
        }
        if let Some(to) = route.filter(|_| !reported.is_empty()) {
            let text = self.text(said, &self.languages());
            composed.report = Some(self.made(kind, text, &reported, None, to, ids.report));
        }
        if said == ReportEvent::Failure && !self.is_probe() {
            composed.copy = self.copy(kind, &reported, &unreported, ids.copy);
        }
        composed
    }

    /// Whether the message is the switch's own: what becomes of a probe concerns nobody but who has sent it.
    fn is_probe(&self) -> bool {
        self.detail.envelope.routes.iter().any(|route| NullHop::of_peer(&route.peer).is_some())
    }

    fn kind(&self, said: ReportEvent) -> ReportKind {
        match said {
            ReportEvent::Failure => ReportKind::Failure,
            ReportEvent::Delay => {
                let after_ms = u64::from(self.view.qmgr.expire_after_s) * 1_000;
                ReportKind::Delay { will_retry_until: self.detail.envelope.accepted_at.plus_ms(after_ms) }
            }
            ReportEvent::Delivered => ReportKind::Delivered,
            ReportEvent::Relayed => ReportKind::Relayed,
        }
    }

    /// Why this sender is told nothing at all, whatever happens.
    fn silence(&self) -> Option<&'static str> {
        let envelope = &self.detail.envelope;
        let source = self.view.sources.iter().find(|source| source.name == envelope.source);
        let is_client = || {
            let client = envelope.client.parse::<IpAddr>().ok();
            source.zip(client).is_some_and(|(source, client)| {
                source.client_networks.iter().any(|network| network.contains(client))
            })
        };
        match source.map(|source| source.reports_to) {
            Some(ReportsTo::Nobody) => Some("the listener's mail is reported on to nobody"),
            Some(ReportsTo::ClientNetworks) if !is_client() => {
                Some("the listener reports on the mail of its client networks alone")
            }
            _ if !self.view.reports.unauthenticated
                && wishes::has_failed_authentication(self.original, &self.view.node.hostname) =>
            {
                Some("the mail has failed authentication")
            }
            _ if self.is_limited => Some("the sender's domain has had its reports of this hour"),
            _ => None,
        }
    }

    /// Whether anybody may be written to about these, so that it counts towards the limit of the sender's domain.
    #[must_use]
    pub fn may_write(&self, part: &[Candidate<'_>]) -> bool {
        let said = part.first().map_or(ReportEvent::Failure, |candidate| candidate.said);
        let kind = self.kind(said);
        let is_null = self.detail.envelope.sender == ReversePath::Null;
        let is_owed = |candidate: &Candidate<'_>| {
            report::is_owed(&self.detail.envelope, candidate.recipient, kind) == Owed::Yes
        };
        let is_copied =
            is_null && said == ReportEvent::Failure && self.view.reports.copies.is_some() && !self.is_probe();
        (is_copied || part.iter().any(is_owed)) && self.silence().is_none()
    }

    /// The languages of the sender, the best first.
    fn languages(&self) -> Vec<LanguageTag> {
        let reports = &self.view.reports;
        let mut wanted =
            if reports.language_from_mail { wishes::languages(self.original) } else { Vec::new() };
        let source = self.view.sources.iter().find(|source| source.name == self.detail.envelope.source);
        wanted.extend(source.and_then(|source| source.language.clone()));
        wanted.push(reports.language.clone());
        wanted
    }

    fn text(&self, said: ReportEvent, wanted: &[LanguageTag]) -> &ReportText {
        wishes::text_for(&self.view.texts, said, wanted)
            .expect("a view has the texts in the box for every report")
    }

    fn reported<'b>(&self, candidate: &'b Candidate<'_>) -> ReportedRecipient<'b> {
        let is_pending = candidate.record.state == RecipientState::Pending;
        ReportedRecipient {
            recipient: candidate.recipient,
            diagnostic: &candidate.diagnostic,
            expired: candidate.said == ReportEvent::Failure && is_pending,
            attempts: u32::from(candidate.record.attempts),
        }
    }

    /// The copy for the postmaster, if there is one who wants it.
    fn copy(
        &self,
        kind: ReportKind,
        reported: &[ReportedRecipient<'_>],
        unreported: &[ReportedRecipient<'_>],
        id: MessageId,
    ) -> Option<Made> {
        let sender = &self.detail.envelope.sender;
        let address = self.view.reports.copies.as_ref()?;
        if self.is_limited {
            return None;
        }
        let is_of_copy = |one: &&ReportedRecipient<'_>| {
            *sender == ReversePath::Null && is_same(&one.recipient.address, address)
        };
        let all: Vec<_> = reported.iter().chain(unreported).filter(|one| !is_of_copy(one)).copied().collect();
        if all.is_empty() {
            return None;
        }
        let Some(route) = route(self.view, Some(address)) else {
            tracing::error!(event = "report.no-route-for-copy", id = %self.detail.id, %address, "there is no route to who gets copies of reports");
            return None;
        };
        let to = sender.to_string();
        let note = match (reported, sender) {
            ([_, ..], _) => CopyNote::SaidTo(&to),
            (_, ReversePath::Null) => CopyNote::NullSender,
            (_, ReversePath::Mailbox(_)) => CopyNote::NoRoute(&to),
        };
        let text = self.text(ReportEvent::Failure, std::slice::from_ref(&self.view.reports.language));
        Some(self.made(kind, text, &all, Some(note), route, id))
    }

    fn made(
        &self,
        kind: ReportKind,
        text: &ReportText,
        recipients: &[ReportedRecipient<'_>],
        copy: Option<CopyNote<'_>>,
        (to, route): (Recipient, Route),
        id: MessageId,
    ) -> Made {
        let Reporting { view, detail, original, now, .. } = *self;
        let is_whole = original.len() as u64 == detail.content_octets;
        let made = report::make(&ReportRequest {
            reporting_mta: &view.node.hostname,
            postmaster: &view.node.postmaster,
            to: &to.address,
            text,
            copy,
            envelope: &detail.envelope,
            original_id: detail.id,
            kind,
            recipients,
            original: if is_whole { Original::Whole(original) } else { Original::Beginning(original) },
            report_id: id,
            now,
        });
        let envelope = Envelope {
            // RFC 3461, 6.1: null, without RET; who is told wants to hear nothing of the report itself.
            sender: ReversePath::Null,
            recipients: vec![to],
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
        Made { id, content: made.content, envelope }
    }
}

/// Domains are the same in any case; of local parts nobody knows.
fn is_same(one: &Mailbox, other: &Mailbox) -> bool {
    one.local_part() == other.local_part() && one.domain().eq_ignore_ascii_case(other.domain())
}

/// The records that commit together: the report and its copy, and what they close.
#[must_use]
pub fn records<'a>(message: MessageSequence, composed: &'a Composed) -> Vec<Append<'a>> {
    let mut records = Vec::with_capacity(6);
    for Made { id, content, envelope } in composed.report.iter().chain(&composed.copy) {
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
    records.push(Append::Outcome { message, outcomes: composed.outcomes.clone() });
    records
}

/// The assigned recipients that still need the report: failed, expired and handed over ones, or late ones. Those of whom the
/// same is to be said stand together.
#[must_use]
pub fn candidates<'a>(
    assignment: &Assignment,
    detail: &'a MessageDetail,
    is_delay: bool,
) -> Vec<Candidate<'a>> {
    let said_of = |record: &RecipientRecord| match record.state {
        RecipientState::Pending if is_delay => (!record.delay_reported).then_some(ReportEvent::Delay),
        _ if is_delay => None,
        RecipientState::Pending | RecipientState::Failed => Some(ReportEvent::Failure),
        RecipientState::DeliveredReportOwed => Some(ReportEvent::Delivered),
        RecipientState::RelayedReportOwed => Some(ReportEvent::Relayed),
        RecipientState::Delivered
        | RecipientState::Transferred
        | RecipientState::Reported
        | RecipientState::Discarded => None,
    };
    let mut candidates: Vec<_> = assignment
        .recipients
        .iter()
        .flat_map(|range| range.first..range.end())
        .filter_map(|index| {
            let at = usize::try_from(index).ok()?;
            let record = detail.recipients.get(at)?;
            let recipient = detail.envelope.recipients.get(at)?;
            let said = said_of(record)?;
            let diagnostic = record.last.clone().unwrap_or_else(|| {
                Diagnostic::own(EnhancedStatus::new(4, 4, 7), "the message was not attempted in time")
            });
            Some(Candidate { said, index: RecipientIndex(index), recipient, record, diagnostic })
        })
        .collect();
    candidates.sort_by_key(|candidate| candidate.said);
    candidates
}

/// Cuts candidates into the parts of one report each: of whom one thing is to be said, and not too many.
#[must_use]
pub fn parts(candidates: &[Candidate<'_>]) -> Vec<Range<usize>> {
    let mut parts: Vec<Range<usize>> = Vec::new();
    for (at, candidate) in candidates.iter().enumerate() {
        match parts.last_mut() {
            Some(part)
                if part.len() < RECIPIENTS_PER_REPORT && candidates[part.start].said == candidate.said =>
            {
                part.end = at + 1;
            }
            _ => parts.push(at..at + 1),
        }
    }
    parts
}

/// The way to an address, if the configuration has one.
fn route(view: &HousekeeperView, address: Option<&Mailbox>) -> Option<(Recipient, Route)> {
    let address = address?.clone();
    let destination = view.routes.destination(address.domain())?;
    let route = Route { channel: destination.channel.to_owned(), peer: destination.peer.into_owned() };
    let recipient = Recipient { address, route: RouteIndex(0), notify: None, original_recipient: None };
    Some((recipient, route))
}

#[cfg(test)]
#[path = "closing_tests.rs"]
mod tests;
