//! The housekeeper: makes the reports that are owed, and closes what it reports on in the same append set, so that no
//! failure is reported twice or forgotten because a process died in between.
//!
//! Its Mlists have the routes [`ROUTE_FAILURE_REPORT`](sternpost_message::ROUTE_FAILURE_REPORT) and [`ROUTE_DELAY_REPORT`]. Not here: when a report is due
//! (QMGR), what goes into the set ([`closing`]), what a report says (`report`).

pub mod closing;

use crate::RoleError;
use crate::channel::{self, Channel, ChannelOptions, Work};
use crate::store_client::FetchError;
use closing::{Candidate, Made, Reporting};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use sternpost_config::HousekeeperView;
use sternpost_link::Appended;
use sternpost_link::qmgr::Assignment;
use sternpost_link::store::{Lane, MessageDetail};
use sternpost_message::{MessageId, Outcome, ROUTE_DELAY_REPORT, RecipientRange};
use sternpost_platform::process;

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
        for some in candidates.chunks(closing::RECIPIENTS_PER_REPORT) {
            let now = self.channel.clock.now();
            let report = Reporting { view: &view, detail: &detail, original: &original, is_delay, now };
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
            let (report, outcomes) = reporting.compose(part, MessageId(process::random()));
            let committed = match self.commit(reporting.detail, report.as_ref(), &outcomes).await {
                Commit::TooLarge if part.len() > 1 => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                    continue;
                }
                Commit::TooLarge => {
                    // One recipient whose words and header do not fit together: the words are what matters.
                    let bare = Reporting { original: &[], ..*reporting };
                    let (report, outcomes) = bare.compose(part, MessageId(process::random()));
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

    async fn commit(
        &self,
        detail: &MessageDetail,
        report: Option<&Made>,
        outcomes: &[(RecipientRange, Outcome)],
    ) -> Commit {
        let records = closing::records(detail.sequence, report, outcomes);
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
