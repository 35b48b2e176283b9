//! The housekeeper: makes the reports that are owed, and closes what it reports on in the same append set, so that no
//! failure is reported twice or forgotten because a process died in between.
//!
//! Its Mlists have the routes [`ROUTE_FAILURE_REPORT`](sternpost_message::ROUTE_FAILURE_REPORT) and [`ROUTE_DELAY_REPORT`]. Not here: when a report is due
//! (QMGR), what it says (`report`).

use crate::RoleError;
use crate::channel::{self, Channel, ChannelOptions, Work};
use crate::report::{self, Original, Owed, ReportKind, ReportRequest, ReportedRecipient};
use crate::store_client::FetchError;
use sha2::{Digest, Sha256};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use sternpost_config::HousekeeperView;
use sternpost_link::Appended;
use sternpost_link::qmgr::Assignment;
use sternpost_link::store::{Append, Lane, MessageDetail, RecipientRecord};
use sternpost_message::{
    BodyType, Diagnostic, EnhancedStatus, Envelope, MessageId, Outcome, ROUTE_DELAY_REPORT, Recipient,
    RecipientIndex, RecipientRange, RecipientState, ReversePath, Route, RouteIndex,
};
use sternpost_platform::process;

/// Recipients of one report: with their diagnostics and the original's header it stays well below a datagram, so that
/// it commits with what it reports on.
const RECIPIENTS_PER_REPORT: usize = 24;
/// Octets of the original that are read: its header section, or the whole of a small message.
const ORIGINAL_OCTETS_MAX: u64 = report::FULL_OCTETS_MAX as u64;
/// Wait before a report that the log had no room for is made again.
const AGAIN: Duration = Duration::from_secs(1);

/// Runs a housekeeper process until it has drained.
///
/// # Errors
/// `RoleError`.
pub fn run(options: &ChannelOptions) -> Result<(), RoleError> {
    channel::run(options, |channel| {
        Rc::new_cyclic(|own| Housekeeper { own: own.clone(), channel, view: RefCell::default() })
    })
}

#[derive(Debug)]
struct Housekeeper {
    own: std::rc::Weak<Self>,
    channel: Rc<Channel>,
    view: RefCell<Option<Rc<HousekeeperView>>>,
}

impl Work for Housekeeper {
    fn view(&self, octets: &[u8]) -> bool {
        let Ok(view) = postcard::from_bytes::<HousekeeperView>(octets) else { return false };
        *self.view.borrow_mut() = Some(Rc::new(view));
        true
    }

    fn assign(&self, assignment: Assignment) {
        if let Some(own) = self.own.upgrade() {
            tokio::task::spawn_local(async move { own.process(assignment).await });
        }
    }

    fn drain(&self) {
        // Every report is begun at once; what was begun is finished.
    }
}

/// What a report is about.
#[derive(Clone, Copy)]
struct Reporting<'a> {
    view: &'a HousekeeperView,
    detail: &'a MessageDetail,
    original: &'a [u8],
    is_delay: bool,
}

/// A report as a message.
struct Made {
    id: MessageId,
    content: Vec<u8>,
    envelope: Envelope,
}

/// How the log took a report and what it closes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Commit {
    Done,
    Refused,
    /// It does not fit one append set.
    TooLarge,
}

/// A recipient that may be reported on.
struct Candidate<'a> {
    index: RecipientIndex,
    recipient: &'a Recipient,
    record: &'a RecipientRecord,
    diagnostic: Diagnostic,
}

impl Housekeeper {
    async fn process(&self, assignment: Assignment) {
        let mlist = assignment.mlist;
        let fetched = self.channel.store.fetch(mlist.message, ORIGINAL_OCTETS_MAX);
        let read = async {
            let detail = fetched.detail().await?;
            let mut original = Vec::new();
            loop {
                match fetched.piece().await {
                    Ok(Some(piece)) => original.extend_from_slice(&piece),
                    Ok(None) => return Ok((detail, original)),
                    Err(FetchError::Gone) => return Err(FetchError::Gone),
                    Err(FetchError::Unreadable(why)) => {
                        // What failed matters more than the words that it is about.
                        tracing::error!(event = "report.without-original", %mlist, why, "a report is made without the original");
                        return Ok((detail, Vec::new()));
                    }
                }
            }
        };
        let (detail, original) = match read.await {
            Ok(read) => read,
            // The word of its end is on its way to QMGR.
            Err(FetchError::Gone) => return self.channel.done_durably(mlist),
            Err(FetchError::Unreadable(why)) => {
                tracing::error!(event = "report.unreadable", %mlist, why, "a message to report on cannot be read");
                tokio::time::sleep(AGAIN).await;
                return self.channel.unassigned(mlist, &why);
            }
        };
        let Some(view) = self.view.borrow().clone() else {
            return self.channel.unassigned(mlist, "no view yet");
        };
        let is_delay = mlist.route == ROUTE_DELAY_REPORT;
        let candidates = candidates(&assignment, &detail, is_delay);
        for some in candidates.chunks(RECIPIENTS_PER_REPORT) {
            let report = Reporting { view: &view, detail: &detail, original: &original, is_delay };
            if !self.report_fitting(&report, some).await {
                tokio::time::sleep(AGAIN).await;
                return self.channel.unassigned(mlist, "the log did not take a report");
            }
        }
        self.channel.done_durably(mlist);
    }

    /// Reports on these recipients, in as many reports as it takes for each to fit one append set. False when the log
    /// refused one: nothing of it is recorded.
    async fn report_fitting(&self, reporting: &Reporting<'_>, candidates: &[Candidate<'_>]) -> bool {
        let mut parts = vec![candidates];
        while let Some(part) = parts.pop() {
            let (report, outcomes) = self.compose(reporting, part);
            let committed = match self.commit(reporting.detail, report.as_ref(), &outcomes).await {
                Commit::TooLarge if part.len() > 1 => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                    continue;
                }
                Commit::TooLarge => {
                    // One recipient whose words and header do not fit together: the words are what matters.
                    let bare = Reporting { original: &[], ..*reporting };
                    let (report, outcomes) = self.compose(&bare, part);
                    self.commit(reporting.detail, report.as_ref(), &outcomes).await
                }
                other => other,
            };
            if committed != Commit::Done {
                return false;
            }
        }
        true
    }

    /// Makes one report, or notes why none is made, with the outcomes that close the recipients.
    fn compose(
        &self,
        reporting: &Reporting<'_>,
        candidates: &[Candidate<'_>],
    ) -> (Option<Made>, Vec<(RecipientRange, Outcome)>) {
        let Reporting { view, detail, original, is_delay } = *reporting;
        let now = self.channel.clock.now();
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
                    let id = MessageId(process::random());
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

    async fn commit(
        &self,
        detail: &MessageDetail,
        report: Option<&Made>,
        outcomes: &[(RecipientRange, Outcome)],
    ) -> Commit {
        let mut records = Vec::with_capacity(4);
        if let Some(Made { id, content, envelope }) = report {
            let chunks = content.chunks(sternpost_link::store::CHUNK_OCTETS_MAX);
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
        records.push(Append::Outcome { message: detail.sequence, outcomes: outcomes.to_vec() });
        let Ok(answer) = self.channel.store.append(Lane::Outcome, &records) else { return Commit::TooLarge };
        match answer.await {
            Ok(Appended::Committed) => {
                if let Some(Made { id: report, .. }) = report {
                    tracing::info!(event = "report.made", id = %detail.id, %report, "a report was made");
                }
                Commit::Done
            }
            Ok(Appended::Refused(refusal)) => {
                tracing::error!(event = "report.refused", id = %detail.id, ?refusal, "the log refused a report");
                Commit::Refused
            }
            Err(_) => Commit::Refused,
        }
    }
}

/// The assigned recipients that still need the report: failed or expired ones, or late ones.
fn candidates<'a>(assignment: &Assignment, detail: &'a MessageDetail, is_delay: bool) -> Vec<Candidate<'a>> {
    assignment
        .recipients
        .iter()
        .flat_map(|range| range.first..range.end())
        .filter_map(|index| {
            let at = usize::try_from(index).ok()?;
            let record = detail.recipients.get(at)?;
            let recipient = detail.envelope.recipients.get(at)?;
            let is_closed = record.state.is_terminal() || (is_delay && record.delay_reported);
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
