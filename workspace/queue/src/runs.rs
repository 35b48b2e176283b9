//! The recipients of one message, packed: consecutive recipients that share route and state are one run.
//!
//! Nearly every message has one run; it stands in 24 octets without memory of its own.

use std::collections::BTreeMap;

use sternpost_message::{Envelope, OutcomeKind, RecipientRange, RecipientState, RouteIndex};

use crate::format::RecipientRecord;
use crate::place::Place;

/// Where the last diagnostic of a recipient stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Last {
    /// There was no attempt yet.
    #[default]
    None,
    /// In the moved record of the message.
    Moved,
    /// In an outcome record. It is there as long as the message's envelope is not moved, because segments are
    /// reclaimed in order and the outcome came later.
    Outcome(Place),
}

/// [`Last`] in 8 octets: two places that no record can have stand for the other two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct PackedLast(Place);

impl PackedLast {
    fn moved() -> Place {
        Place::new(u32::from(u16::MAX), 0, 1)
    }

    fn of(last: Last) -> Self {
        Self(match last {
            Last::None => Place::default(),
            Last::Moved => Self::moved(),
            Last::Outcome(place) => place,
        })
    }

    fn get(self) -> Last {
        match self.0 {
            place if place.is_missing() => Last::None,
            place if place == Self::moved() => Last::Moved,
            place => Last::Outcome(place),
        }
    }
}

/// Consecutive recipients of whom the same is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: u32,
    pub(crate) count: u32,
    pub(crate) route: u16,
    /// Beyond 65,535 nobody counts.
    pub(crate) attempts: u16,
    pub(crate) state: RecipientState,
    pub(crate) delay_reported: bool,
    last: PackedLast,
}

impl Run {
    pub(crate) fn last(&self) -> Last {
        self.last.get()
    }

    const fn end(&self) -> u32 {
        self.first + self.count
    }

    const fn range(&self) -> RecipientRange {
        RecipientRange { first: self.first, count: self.count }
    }

    fn continues(&self, before: &Self) -> bool {
        before.end() == self.first && Self { first: before.first, count: before.count, ..*self } == *before
    }

    /// The run after `outcome`; none when nothing changes.
    fn after(&self, outcome: OutcomeKind, last: Last) -> Option<Self> {
        let state = self.state.after(outcome);
        let last = PackedLast::of(last);
        let attempted = Self { state, attempts: self.attempts.saturating_add(1), last, ..*self };
        match outcome {
            _ if self.state.is_terminal() => None,
            _ if self.state.owes_success_report()
                && !matches!(outcome, OutcomeKind::Reported | OutcomeKind::Discarded) =>
            {
                None
            }
            OutcomeKind::Deferred => (self.state == RecipientState::Pending).then_some(attempted),
            OutcomeKind::DelayReported => (self.state == RecipientState::Pending && !self.delay_reported)
                .then_some(Self { delay_reported: true, ..*self }),
            OutcomeKind::Failed if self.state == RecipientState::Failed => None,
            OutcomeKind::Failed
            | OutcomeKind::Delivered
            | OutcomeKind::Transferred
            | OutcomeKind::DeliveredReportOwed
            | OutcomeKind::RelayedReportOwed => Some(attempted),
            OutcomeKind::Reported | OutcomeKind::Discarded => Some(Self { state, ..*self }),
        }
    }
}

/// What is known of a recipient when its run is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) state: RecipientState,
    pub(crate) attempts: u16,
    pub(crate) delay_reported: bool,
    /// The moved record has words about it.
    pub(crate) has_words: bool,
}

/// The runs of a message, ascending and without gap.
#[expect(clippy::box_collection, reason = "a list of its own would make each message 8 octets larger")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Runs {
    One(Run),
    /// None, or more than one.
    Many(Box<Vec<Run>>),
}
const _: () = assert!(size_of::<Runs>() == 24);

impl Default for Runs {
    fn default() -> Self {
        Self::Many(Box::default())
    }
}

impl Runs {
    /// Of a message that was just accepted.
    pub(crate) fn new(envelope: &Envelope) -> Self {
        Self::from_recipients(envelope, |_| Known::default())
    }

    /// Of a message that was moved with these states.
    pub(crate) fn restored(envelope: &Envelope, states: &[(RecipientRange, RecipientRecord)]) -> Self {
        let mut states = states.iter().peekable();
        Self::from_recipients(envelope, |recipient| {
            while states.peek().is_some_and(|(range, _)| range.end() <= recipient) {
                states.next();
            }
            match states.peek() {
                Some((range, record)) if range.first <= recipient => Known {
                    state: record.state,
                    attempts: record.attempts,
                    delay_reported: record.delay_reported,
                    has_words: record.last.is_some(),
                },
                _ => Known::default(),
            }
        })
    }

    fn from_recipients(envelope: &Envelope, mut known: impl FnMut(u32) -> Known) -> Self {
        let mut all = Self::default();
        for (recipient, to) in (0..).zip(&envelope.recipients) {
            all.add(1, to.route.0, known(recipient));
        }
        all
    }

    /// Adds recipients at the end.
    pub(crate) fn add(&mut self, count: u32, route: u16, known: Known) {
        let first = self.as_slice().last().map_or(0, Run::end);
        let Known { state, attempts, delay_reported, has_words } = known;
        let last = PackedLast::of(if has_words { Last::Moved } else { Last::None });
        self.push(Run { first, count, route, attempts, state, delay_reported, last });
    }

    fn push(&mut self, run: Run) {
        match self {
            Self::One(last) if run.continues(last) => last.count += run.count,
            Self::One(last) => *self = Self::Many(Box::new(vec![*last, run])),
            Self::Many(runs) => match runs.last_mut() {
                Some(last) if run.continues(last) => last.count += run.count,
                Some(_) => runs.push(run),
                None => *self = Self::One(run),
            },
        }
    }

    fn as_slice(&self) -> &[Run] {
        match self {
            Self::One(run) => std::slice::from_ref(run),
            Self::Many(runs) => runs,
        }
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.iter().all(|run| run.state.is_terminal())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Run> {
        self.as_slice().iter()
    }

    /// Records `outcome` for the recipients in `range`; gives those for whom it changed something.
    pub(crate) fn apply(
        &mut self,
        range: RecipientRange,
        outcome: OutcomeKind,
        last: Last,
    ) -> Vec<RecipientRange> {
        if let Self::One(run) = self
            && range.first <= run.first
            && run.end() <= range.end()
        {
            let Some(new) = run.after(outcome, last) else { return Vec::new() };
            *run = new;
            return vec![new.range()];
        }
        let mut changed: Vec<RecipientRange> = Vec::new();
        for run in std::mem::take(self).iter() {
            let start = run.first.max(range.first);
            let end = run.end().min(range.end());
            let part = Run { first: start, count: end.saturating_sub(start), ..*run };
            let new = if start < end { part.after(outcome, last) } else { None };
            let Some(new) = new else {
                self.push(*run);
                continue;
            };
            if start > run.first {
                self.push(Run { count: start - run.first, ..*run });
            }
            self.push(new);
            if end < run.end() {
                self.push(Run { first: end, count: run.end() - end, ..*run });
            }
            extend(&mut changed, part.range());
        }
        changed
    }

    /// Routes with pending recipients: index, recipients, most attempts.
    pub(crate) fn pending_by_route(&self) -> Vec<(RouteIndex, Vec<RecipientRange>, u16)> {
        if let Self::One(run) = self {
            let is_pending = run.state == RecipientState::Pending;
            let only = (RouteIndex(run.route), vec![run.range()], run.attempts);
            return if is_pending { vec![only] } else { Vec::new() };
        }
        let mut routes: BTreeMap<u16, (Vec<RecipientRange>, u16)> = BTreeMap::new();
        for run in self.iter().filter(|run| run.state == RecipientState::Pending) {
            let (ranges, attempts) = routes.entry(run.route).or_default();
            extend(ranges, run.range());
            *attempts = run.attempts.max(*attempts);
        }
        routes.into_iter().map(|(route, (ranges, attempts))| (RouteIndex(route), ranges, attempts)).collect()
    }

    /// Recipients for whom nothing but a report remains to be made.
    pub(crate) fn report_owed(&self) -> Vec<RecipientRange> {
        let mut ranges = Vec::new();
        for run in self.iter().filter(|run| run.state.owes_report()) {
            extend(&mut ranges, run.range());
        }
        ranges
    }

    pub(crate) fn delay_was_reported(&self) -> bool {
        self.iter().any(|run| run.delay_reported)
    }
}

fn extend(ranges: &mut Vec<RecipientRange>, range: RecipientRange) {
    match ranges.last_mut() {
        Some(last) if last.end() == range.first => last.count += range.count,
        _ => ranges.push(range),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sternpost_message::UnixMillis;

    fn envelope(routes: &[u16]) -> Envelope {
        let mut envelope = crate::tests::envelope(routes.len(), UnixMillis(0));
        for (recipient, route) in envelope.recipients.iter_mut().zip(routes) {
            recipient.route = RouteIndex(*route);
        }
        envelope
    }

    #[test]
    fn recipients_of_one_route_are_one_run_and_split_by_their_outcomes() {
        let mut runs = Runs::new(&envelope(&[0, 0, 0, 0]));
        assert_eq!(runs.iter().count(), 1);
        let changed = runs.apply(RecipientRange { first: 1, count: 2 }, OutcomeKind::Deferred, Last::None);
        assert_eq!(changed, [RecipientRange { first: 1, count: 2 }]);
        assert_eq!(runs.iter().count(), 3);
        let pending = runs.pending_by_route();
        assert_eq!(pending, [(RouteIndex(0), vec![RecipientRange { first: 0, count: 4 }], 1)]);
    }

    #[test]
    fn an_outcome_for_a_terminal_recipient_changes_nothing() {
        let mut runs = Runs::new(&envelope(&[0, 1]));
        let all = RecipientRange::EVERYBODY;
        let one = RecipientRange { first: 0, count: 1 };
        assert_eq!(runs.apply(one, OutcomeKind::Delivered, Last::None), [one]);
        let two = RecipientRange { first: 1, count: 1 };
        assert_eq!(runs.apply(all, OutcomeKind::Failed, Last::None), [two]);
        assert_eq!(runs.report_owed(), [two]);
        assert!(!runs.is_dead());
        runs.apply(all, OutcomeKind::Reported, Last::None);
        assert!(runs.is_dead());
        assert!(runs.apply(all, OutcomeKind::Failed, Last::None).is_empty());
    }

    #[test]
    fn a_success_that_is_to_be_reported_waits_for_its_report_and_for_nothing_else() {
        let mut runs = Runs::new(&envelope(&[0, 0]));
        let all = RecipientRange { first: 0, count: 2 };
        assert_eq!(runs.apply(all, OutcomeKind::DeliveredReportOwed, Last::None), [all]);
        assert!(runs.pending_by_route().is_empty() && !runs.is_dead());
        assert_eq!(runs.report_owed(), [all]);
        for repeated in [OutcomeKind::DeliveredReportOwed, OutcomeKind::Delivered, OutcomeKind::Failed] {
            assert!(runs.apply(all, repeated, Last::None).is_empty(), "{repeated:?}");
        }
        assert_eq!(runs.apply(all, OutcomeKind::Reported, Last::None), [all]);
        assert!(runs.is_dead() && runs.iter().all(|run| run.state == RecipientState::Delivered));
    }

    #[test]
    fn runs_that_become_alike_again_are_one_run_without_memory_of_its_own() {
        let mut runs = Runs::new(&envelope(&[0, 0]));
        let (first, second) = (RecipientRange { first: 0, count: 1 }, RecipientRange { first: 1, count: 1 });
        runs.apply(first, OutcomeKind::Deferred, Last::Moved);
        assert!(matches!(&runs, Runs::Many(runs) if runs.len() == 2));
        runs.apply(second, OutcomeKind::Deferred, Last::Moved);
        assert!(matches!(runs, Runs::One(run) if run.count == 2 && run.attempts == 1), "{runs:?}");
    }

    #[test]
    fn where_the_last_words_stand_is_told_apart() {
        for last in [Last::None, Last::Moved, Last::Outcome(Place::new(3, 4096, 77))] {
            assert_eq!(PackedLast::of(last).get(), last);
        }
    }
}
