//! A journal's events again, into a fresh scheduler: does it decide the same?

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashMap;
use sternpost_message::{MlistId, Precedence, UnixMillis};

use super::Entry;
use crate::{Action, Event, Scheduler, StopReason};

/// An event to which the scheduler gave other actions than it did when it was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The event's number in the journal, from 1.
    pub number: u64,
    /// When it came, in lived time.
    pub now: UnixMillis,
    /// What happened.
    pub event: Event,
    /// The actions of the journal.
    pub recorded: Vec<Action>,
    /// Those of the replay.
    pub replayed: Vec<Action>,
}

impl Difference {
    /// The first action that differs, counted from 0; where one side has fewer, the first that the other has more.
    #[must_use]
    pub fn first_action(&self) -> usize {
        self.recorded.iter().zip(&self.replayed).take_while(|(one, other)| one == other).count()
    }
}

/// Why a replay does not go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// Other actions.
    #[error("the actions of event {} differ", .0.number)]
    Different(Box<Difference>),
    /// Entries that no recording writes in this order.
    #[error("behind {events} events: {what}")]
    Order {
        /// Events in front of it.
        events: u64,
        /// What is out of order.
        what: &'static str,
    },
}

/// Starts of processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Started {
    /// How many.
    pub count: u64,
    /// The most Mlists that found no slot at one of them.
    pub waiting_max: u64,
}

/// What a journal holds, as far as it was replayed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Events.
    pub events: u64,
    /// Actions of the replay.
    pub actions: u64,
    /// Schedulers that began.
    pub begins: u64,
    /// The builds that have recorded.
    pub builds: BTreeSet<String>,
    /// What the wall clock said when the first scheduler began.
    pub began_at: Option<UnixMillis>,
    /// From the first to the last event of each scheduler, added up, milliseconds of lived time.
    pub lived_ms: u64,
    /// The recording has reached its bound.
    pub is_full: bool,
    /// Events behind which QMGR has ended, or the recording, before the actions: there was nothing to compare.
    pub unanswered: u64,
    /// Assignments by channel and precedence, highest first.
    pub assignments: BTreeMap<(String, Reverse<Precedence>), u64>,
    /// Starts by channel and the precedence that needed them, highest first.
    pub starts: BTreeMap<(String, Reverse<Precedence>), Started>,
    /// Processes that were asked to stop, by reason.
    pub stops: BTreeMap<StopReason, u64>,
    /// Processes killed that were asked to stop and did not get on.
    pub kills: u64,
    /// Mlists that expired.
    pub expired: u64,
    /// Delay reports that became due.
    pub delay_reports: u64,
}

/// An event whose recorded actions are still to come.
#[derive(Debug)]
struct Answered {
    now: UnixMillis,
    event: Event,
    actions: Vec<Action>,
}

/// A replay under way.
#[derive(Debug, Default)]
pub struct Replay {
    scheduler: Option<Scheduler>,
    answered: Option<Answered>,
    /// Of the Mlists that were queued.
    precedences: FxHashMap<MlistId, Precedence>,
    last_at: Option<UnixMillis>,
    summary: Summary,
}

impl Replay {
    /// Takes the next entry.
    ///
    /// # Errors
    /// The first difference; then the scheduler is no longer the one that was recorded, and the replay is over.
    pub fn take(&mut self, entry: Entry) -> Result<(), Mismatch> {
        match entry {
            Entry::Begin { build, wall } => {
                // The QMGR before may have ended between the event and its actions.
                self.give_up_the_last();
                self.scheduler = Some(Scheduler::new());
                self.precedences.clear();
                self.last_at = None;
                self.summary.begins += 1;
                self.summary.builds.insert(build);
                self.summary.began_at.get_or_insert(wall);
            }
            Entry::Event { now, event } => {
                self.compare(Vec::new())?;
                self.apply(now, event)?;
            }
            Entry::Actions(recorded) => {
                if self.answered.is_none() {
                    return Err(self.order("actions without their event"));
                }
                self.compare(recorded)?;
            }
            Entry::Full => {
                // The bound may have come between the last event and its actions.
                self.give_up_the_last();
                self.summary.is_full = true;
                self.scheduler = None;
            }
        }
        Ok(())
    }

    /// The journal has ended.
    #[must_use]
    pub fn end(mut self) -> Summary {
        self.give_up_the_last();
        self.summary
    }

    /// What was found until now.
    #[must_use]
    pub const fn summary(&self) -> &Summary {
        &self.summary
    }

    /// If the last event has actions, nothing can be compared with them.
    fn give_up_the_last(&mut self) {
        let has_actions = |answered: &Answered| !answered.actions.is_empty();
        self.summary.unanswered += u64::from(self.answered.take().as_ref().is_some_and(has_actions));
    }

    fn apply(&mut self, now: UnixMillis, event: Event) -> Result<(), Mismatch> {
        let Some(scheduler) = &mut self.scheduler else {
            return Err(self.order("an event before a scheduler has begun"));
        };
        if let Event::Queue(spec) = &event {
            self.precedences.entry(spec.id).or_insert(spec.precedence);
        }
        let mut actions = Vec::new();
        scheduler.apply(now, event.clone(), &mut actions);
        self.summary.events += 1;
        self.summary.actions += actions.len() as u64;
        let passed_ms = now.since_ms(self.last_at.unwrap_or(now));
        self.summary.lived_ms = self.summary.lived_ms.saturating_add(passed_ms);
        self.last_at = Some(now.max(self.last_at.unwrap_or(now)));
        for action in &actions {
            self.count(action);
        }
        if let Event::Remove { mlist } = &event {
            self.precedences.remove(mlist);
        }
        self.answered = Some(Answered { now, event, actions });
        Ok(())
    }

    fn count(&mut self, action: &Action) {
        let summary = &mut self.summary;
        match action {
            Action::Assign { mlist, channel, .. } => {
                let precedence = self.precedences.get(mlist).copied().unwrap_or_default();
                *summary.assignments.entry((channel.to_string(), Reverse(precedence))).or_default() += 1;
            }
            Action::StartProcess { channel, precedence, waiting, .. } => {
                let started = summary.starts.entry((channel.clone(), Reverse(*precedence))).or_default();
                started.count += 1;
                started.waiting_max = started.waiting_max.max(*waiting);
            }
            Action::StopProcess { reason, .. } => *summary.stops.entry(*reason).or_default() += 1,
            Action::Expired { mlist, .. } => {
                self.precedences.remove(mlist);
                summary.expired += 1;
            }
            Action::KillProcess { .. } => summary.kills += 1,
            Action::DelayReportDue { .. } => summary.delay_reports += 1,
        }
    }

    /// Compares the last event's actions with those that were recorded.
    fn compare(&mut self, recorded: Vec<Action>) -> Result<(), Mismatch> {
        let Some(Answered { now, event, actions: replayed }) = self.answered.take() else { return Ok(()) };
        if recorded == replayed {
            return Ok(());
        }
        let number = self.summary.events;
        Err(Mismatch::Different(Box::new(Difference { number, now, event, recorded, replayed })))
    }

    const fn order(&self, what: &'static str) -> Mismatch {
        Mismatch::Order { events: self.summary.events, what }
    }
}
