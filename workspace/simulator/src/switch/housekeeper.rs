//! The housekeeper's process: what it decides and writes is the product's ([`closing`]), in sets that commit together.

use sternpost_channels::housekeeper::closing::{self, Composed, Ids, Reporting};
use sternpost_channels::report::{Owed, ReportKind, is_owed};
use sternpost_message::{MessageId, Outcome, ROUTE_DELAY_REPORT, RecipientRange, UnixMillis};

use super::channel::{Channel, Recorded, Stage};
use super::{Kept, Mistake, World};
use crate::model::{Message, ReportOf};

/// What is left to report: places among the candidates, and whether a set has no answer.
pub(crate) struct Closing {
    parts: Vec<(usize, usize)>,
    is_open: bool,
    /// What should have been in the set that was answered last: a mistake.
    torn: Option<Vec<(RecipientRange, Outcome)>>,
}

impl Closing {
    pub(crate) const fn due(&self) -> Option<UnixMillis> {
        if self.is_open { None } else { Some(UnixMillis(0)) }
    }
}

impl World {
    pub(crate) fn housekeeper_begins(&mut self, channel: &mut Channel, number: u32) -> Kept {
        let now = self.now();
        let Some(job) = channel.jobs.get_mut(&number) else { return Ok(()) };
        match job.failed.clone() {
            // The word of its end is on its way to QMGR.
            Some((true, _)) => {
                channel.done_durably(number);
                return Ok(());
            }
            // What failed matters more than the words that it is about.
            Some((false, _)) if job.detail.is_some() => job.content.clear(),
            Some((false, _)) => {
                job.stage = Stage::GivingBack { at: now.plus_ms(1_000), why: "it cannot be read" };
                return Ok(());
            }
            None => {}
        }
        let Some(detail) = &job.detail else { return Ok(()) };
        let is_delay = job.assignment.mlist.route == ROUTE_DELAY_REPORT;
        let candidates = closing::candidates(&job.assignment, detail, is_delay);
        let parts =
            closing::parts(&candidates).into_iter().map(|part| (part.start, part.end)).rev().collect();
        job.stage = Stage::Closing(Closing { parts, is_open: false, torn: None });
        self.housekeeper_goes_on(channel, number)
    }

    /// The next set, or the end.
    pub(crate) fn housekeeper_goes_on(&mut self, channel: &mut Channel, number: u32) -> Kept {
        let Some(job) = channel.jobs.get_mut(&number) else { return Ok(()) };
        let Stage::Closing(work) = &mut job.stage else { return Ok(()) };
        if let Some(outcomes) = work.torn.take() {
            let alone = Composed { outcomes, ..Composed::default() };
            let records = closing::records(job.assignment.mlist.message, &alone);
            return channel
                .append(&records, Recorded::of_report(number, None))
                .map_err(|error| error.to_string());
        }
        let Some((first, end)) = work.parts.pop() else {
            channel.done_durably(number);
            return Ok(());
        };
        work.is_open = true;
        let (Some(detail), Some(view)) = (job.detail.clone(), channel.view.clone()) else {
            job.stage = Stage::GivingBack { at: self.now(), why: "no view yet" };
            return Ok(());
        };
        let (assignment, original) = (job.assignment.clone(), job.content.clone());
        let is_delay = assignment.mlist.route == ROUTE_DELAY_REPORT;
        let candidates = closing::candidates(&assignment, &detail, is_delay);
        let part = candidates.get(first..end).unwrap_or_default();
        let ids = Ids { report: self.new_message_id(), copy: self.new_message_id() };
        let reporting = Reporting {
            view: &view,
            detail: &detail,
            original: &original,
            is_limited: false,
            now: self.now(),
        };
        for reporting in [reporting, Reporting { original: &[], ..reporting }] {
            let composed = reporting.compose(part, ids);
            self.expect_report(&composed, detail.id, &detail.envelope, is_delay);
            let recorded = Recorded::of_report(number, composed.report.as_ref().map(|made| made.id));
            let records = closing::records(detail.sequence, &composed);
            let is_torn = self.mistake == Some(Mistake::TornReport) && composed.report.is_some();
            let outcomes = &composed.outcomes;
            if let Some(Stage::Closing(work)) = channel.jobs.get_mut(&number).map(|job| &mut job.stage) {
                work.torn = is_torn.then(|| outcomes.clone());
            }
            let records = &records[..records.len() - usize::from(is_torn)];
            match channel.append(records, recorded) {
                Ok(()) => return Ok(()),
                Err(_) if part.len() > 1 => {
                    let middle = first + part.len() / 2;
                    if let Some(Stage::Closing(work)) =
                        channel.jobs.get_mut(&number).map(|job| &mut job.stage)
                    {
                        work.parts.extend([(middle, end), (first, middle)]);
                        work.is_open = false;
                    }
                    return Ok(());
                }
                // One recipient whose words and header do not fit together: the words are what matters.
                Err(_) => {}
            }
        }
        Err("a report of one recipient without its original does not fit a datagram".to_owned())
    }

    /// The model hears of a report that is about to be appended.
    fn expect_report(
        &mut self,
        composed: &Composed,
        of: MessageId,
        envelope: &sternpost_message::Envelope,
        is_delay: bool,
    ) {
        let Some(made) = &composed.report else { return };
        let kind = ReportKind::Delay { will_retry_until: UnixMillis(0) };
        let recipients = composed.outcomes.iter().flat_map(|(range, outcome)| {
            let is_reported = matches!(outcome, Outcome::Reported { report: Some(_), .. });
            let is_delayed = matches!(outcome, Outcome::DelayReported);
            (range.first..range.end()).filter_map(move |recipient| {
                let at = usize::try_from(recipient).ok()?;
                let is_owed = is_owed(envelope, envelope.recipients.get(at)?, kind) == Owed::Yes;
                (is_reported || (is_delayed && is_owed)).then_some(at)
            })
        });
        let reports =
            recipients.map(|recipient| ReportOf { message: of, recipient, is_delay }).collect::<Vec<_>>();
        self.note(|| format!("the housekeeper makes {} of {of}: {reports:?}", made.id));
        self.model.messages.insert(made.id, Message::new(made.content.clone(), made.envelope.clone()));
        self.model.appended(made.id);
        self.model.reports(made.id, reports);
    }
}
