//! The housekeeper: makes the reports that are owed, and closes what it reports on in the same append set, so that no
//! failure and no success is reported twice or forgotten because a process died in between.
//!
//! Its Mlists have the routes [`ROUTE_FINAL_REPORT`](sternpost_message::ROUTE_FINAL_REPORT) and [`ROUTE_DELAY_REPORT`]. Not here: when a report is due
//! (QMGR), what goes into the set ([`closing`]), what a report says (`report`).

pub mod closing;
mod limit;

use crate::RoleError;
use crate::channel::{self, Channel, ChannelOptions, Work};
use crate::store_client::FetchError;
use closing::{Candidate, Composed, Ids, Reporting};
use limit::{Admission, Limits};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use sternpost_config::HousekeeperView;
use sternpost_link::Appended;
use sternpost_link::qmgr::Assignment;
use sternpost_link::store::{Lane, MessageDetail};
use sternpost_message::{MessageId, ROUTE_DELAY_REPORT, ReversePath, UnixMillis};
use sternpost_platform::process;

/// Wait before a report that the log had no room for is made again.
const AGAIN: Duration = Duration::from_secs(1);

/// Runs a housekeeper process until it has drained.
///
/// # Errors
/// `RoleError`.
pub fn run(options: &ChannelOptions) -> Result<(), RoleError> {
    channel::run(options, |channel| {
        Rc::new_cyclic(|own| Housekeeper {
            own: own.clone(),
            channel,
            view: RefCell::default(),
            limits: RefCell::default(),
        })
    })
}

#[derive(Debug)]
struct Housekeeper {
    own: std::rc::Weak<Self>,
    channel: Rc<Channel>,
    view: RefCell<Option<Rc<HousekeeperView>>>,
    limits: RefCell<Limits>,
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

/// How the log took a report and what it closes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Commit {
    Done,
    Refused,
    /// It does not fit one append set.
    TooLarge,
}

impl Housekeeper {
    async fn process(&self, assignment: Assignment) {
        let mlist = assignment.mlist;
        let fetched = self.channel.store.fetch(mlist.message, closing::ORIGINAL_OCTETS_MAX);
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
        let candidates = closing::candidates(&assignment, &detail, is_delay);
        for part in closing::parts(&candidates) {
            let some = &candidates[part];
            let now = self.channel.clock.now();
            let report =
                Reporting { view: &view, detail: &detail, original: &original, is_limited: false, now };
            let is_limited = report.may_write(some) && !self.admit(&detail, &view, now);
            let report = Reporting { is_limited, ..report };
            if !self.report_fitting(&report, some).await {
                tokio::time::sleep(AGAIN).await;
                return self.channel.unassigned(mlist, "the log did not take a report");
            }
        }
        self.channel.done_durably(mlist);
    }

    /// Whether the sender of a message may get one more report in this hour.
    fn admit(&self, detail: &MessageDetail, view: &HousekeeperView, now: UnixMillis) -> bool {
        let mut limits = self.limits.borrow_mut();
        for limit::Suppressed { domain, count } in limits.turn(now) {
            tracing::warn!(
                event = "report.suppressed-in-hour",
                domain,
                count,
                "reports were not made in the hour before, for there were too many"
            );
        }
        match limits.admit(&detail.envelope.sender, view.reports.per_domain_hour_max) {
            Admission::Made => true,
            Admission::Suppressed(limit::Suppressed { domain, count }) => {
                tracing::warn!(event = "report.suppressed", id = %detail.id, domain, count, "a report is not made, for the domain has had its reports of this hour");
                false
            }
        }
    }

    /// Reports on these recipients, in as many reports as it takes for each to fit one append set. False when the log
    /// refused one: nothing of it is recorded.
    async fn report_fitting(&self, reporting: &Reporting<'_>, candidates: &[Candidate<'_>]) -> bool {
        let ids = || Ids { report: MessageId(process::random()), copy: MessageId(process::random()) };
        let mut parts = vec![candidates];
        while let Some(part) = parts.pop() {
            let committed = match self.commit(reporting.detail, &reporting.compose(part, ids())).await {
                Commit::TooLarge if part.len() > 1 => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                    continue;
                }
                Commit::TooLarge => {
                    // One recipient whose words and header do not fit together: the words are what matters.
                    let bare = Reporting { original: &[], ..*reporting };
                    self.commit(reporting.detail, &bare.compose(part, ids())).await
                }
                other => other,
            };
            if committed != Commit::Done {
                return false;
            }
        }
        true
    }

    async fn commit(&self, detail: &MessageDetail, composed: &Composed) -> Commit {
        let records = closing::records(detail.sequence, composed);
        let Ok(answer) = self.channel.store.append(Lane::Outcome, &records) else { return Commit::TooLarge };
        match answer.await {
            Ok(Appended::Committed) => {
                note(detail, composed);
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

/// What was said to whom, and who is told nothing, for the records of the site.
fn note(detail: &MessageDetail, composed: &Composed) {
    let id = detail.id;
    if let Some(made) = &composed.report {
        tracing::info!(event = "report.made", %id, report = %made.id, "a report was made");
    }
    if let Some(made) = &composed.copy {
        tracing::info!(event = "report.copied", %id, copy = %made.id, "the postmaster gets a copy");
    }
    if composed.has_no_route {
        tracing::error!(event = "report.no-route", %id, sender = %detail.envelope.sender, "a report is owed and there is no route to the sender");
    }
    if composed.dropped.is_empty() {
        return;
    }
    let (sender, recipients) = (&detail.envelope.sender, composed.dropped.join("; "));
    let postmaster_knows = composed.copy.is_some();
    if *sender == ReversePath::Null && !postmaster_knows {
        tracing::warn!(event = "report.dropped", %id, recipients, "mail without a sender has failed; it is dropped");
    } else {
        tracing::info!(event = "report.not-made", %id, %sender, recipients, postmaster_knows, "the sender is not told of a failure");
    }
}
