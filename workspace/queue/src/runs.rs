//! The recipients of one message, packed: consecutive recipients that share route and state are one run.

use sternpost_message::{Envelope, Outcome, RecipientRange, RecipientState, RouteIndex};

use crate::format::RecipientRecord;
use crate::index::Place;

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

/// Consecutive recipients of whom the same is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: u32,
    pub(crate) count: u32,
    pub(crate) attempts: u32,
    pub(crate) route: u16,
    pub(crate) state: RecipientState,
    pub(crate) delay_reported: bool,
    pub(crate) last: Last,
}

impl Run {
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
    fn after(&self, outcome: &Outcome, last: Last) -> Option<Self> {
        let state = self.state.after(outcome);
        let attempted = Self { state, attempts: self.attempts.saturating_add(1), last, ..*self };
        match outcome {
            _ if self.state.is_terminal() => None,
            Outcome::Deferred { .. } => (self.state == RecipientState::Pending).then_some(attempted),
            Outcome::DelayReported => (self.state == RecipientState::Pending && !self.delay_reported)
                .then_some(Self { delay_reported: true, ..*self }),
            Outcome::Failed(_) if self.state == RecipientState::Failed => None,
            Outcome::Failed(_) | Outcome::Delivered(_) | Outcome::Transferred(_) => Some(attempted),
            Outcome::Reported { .. } | Outcome::Discarded { .. } => Some(Self { state, ..*self }),
        }
    }
}

/// The runs of a message, ascending and without gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Runs {
    runs: Vec<Run>,
    /// Recipients that are not terminal.
    open: u32,
}

impl Runs {
    /// Of a message that was just accepted.
    pub(crate) fn new(envelope: &Envelope) -> Self {
        Self::from_recipients(envelope, |_| (RecipientState::Pending, 0, false, Last::None))
    }

    /// Of a message that was moved with these states.
    pub(crate) fn restored(envelope: &Envelope, states: &[(RecipientRange, RecipientRecord)]) -> Self {
        let mut states = states.iter().peekable();
        Self::from_recipients(envelope, |recipient| {
            while states.peek().is_some_and(|(range, _)| range.end() <= recipient) {
                states.next();
            }
            match states.peek() {
                Some((range, record)) if range.first <= recipient => {
                    let last = if record.last.is_some() { Last::Moved } else { Last::None };
                    (record.state, record.attempts, record.delay_reported, last)
                }
                _ => (RecipientState::Pending, 0, false, Last::None),
            }
        })
    }

    fn from_recipients(
        envelope: &Envelope,
        mut known: impl FnMut(u32) -> (RecipientState, u32, bool, Last),
    ) -> Self {
        let mut all = Self { runs: Vec::with_capacity(1), open: 0 };
        for (first, recipient) in (0..).zip(&envelope.recipients) {
            let (state, attempts, delay_reported, last) = known(first);
            let run =
                Run { first, count: 1, attempts, route: recipient.route.0, state, delay_reported, last };
            all.open += u32::from(!state.is_terminal());
            all.push(run);
        }
        all.runs.shrink_to_fit();
        all
    }

    fn push(&mut self, run: Run) {
        match self.runs.last_mut() {
            Some(last) if run.continues(last) => last.count += run.count,
            _ => self.runs.push(run),
        }
    }

    pub(crate) const fn is_dead(&self) -> bool {
        self.open == 0
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter()
    }

    /// Records `outcome` for the recipients in `range`; gives those for whom it changed something.
    pub(crate) fn apply(
        &mut self,
        range: RecipientRange,
        outcome: &Outcome,
        last: Last,
    ) -> Vec<RecipientRange> {
        let from = self.runs.partition_point(|run| run.end() <= range.first);
        let to = self.runs.partition_point(|run| run.first < range.end());
        if from >= to {
            return Vec::new();
        }
        let mut changed: Vec<RecipientRange> = Vec::new();
        let tail = self.runs.split_off(to);
        let middle = self.runs.split_off(from);
        for run in middle {
            let start = run.first.max(range.first);
            let end = run.end().min(range.end());
            let part = Run { first: start, count: end - start, ..run };
            match part.after(outcome, last) {
                None => self.push(run),
                Some(new) => {
                    if start > run.first {
                        self.push(Run { count: start - run.first, ..run });
                    }
                    self.push(new);
                    if end < run.end() {
                        self.push(Run { first: end, count: run.end() - end, ..run });
                    }
                    if new.state.is_terminal() {
                        self.open -= new.count;
                    }
                    match changed.last_mut() {
                        Some(before) if before.end() == start => before.count += part.count,
                        _ => changed.push(part.range()),
                    }
                }
            }
        }
        for run in tail {
            self.push(run);
        }
        changed
    }

    /// The moved record holds everything now.
    pub(crate) fn settle(&mut self) {
        for run in &mut self.runs {
            if matches!(run.last, Last::Outcome(_)) {
                run.last = Last::Moved;
            }
        }
    }

    /// Routes with pending recipients: index, recipients, most attempts.
    pub(crate) fn pending_by_route(&self) -> Vec<(RouteIndex, Vec<RecipientRange>, u32)> {
        let mut routes: std::collections::BTreeMap<u16, (Vec<RecipientRange>, u32)> =
            std::collections::BTreeMap::new();
        for run in self.runs.iter().filter(|run| run.state == RecipientState::Pending) {
            let (ranges, attempts) = routes.entry(run.route).or_default();
            extend(ranges, run.range());
            *attempts = run.attempts.max(*attempts);
        }
        routes.into_iter().map(|(route, (ranges, attempts))| (RouteIndex(route), ranges, attempts)).collect()
    }

    pub(crate) fn failed(&self) -> Vec<RecipientRange> {
        let mut ranges = Vec::new();
        for run in self.runs.iter().filter(|run| run.state == RecipientState::Failed) {
            extend(&mut ranges, run.range());
        }
        ranges
    }

    pub(crate) fn delay_was_reported(&self) -> bool {
        self.runs.iter().any(|run| run.delay_reported)
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
    use sternpost_message::{Diagnostic, EnhancedStatus, ErrorScope, UnixMillis};

    fn envelope(routes: &[u16]) -> Envelope {
        let mut envelope = crate::tests::envelope(routes.len(), UnixMillis(0));
        for (recipient, route) in envelope.recipients.iter_mut().zip(routes) {
            recipient.route = RouteIndex(*route);
        }
        envelope
    }

    fn diagnostic() -> Diagnostic {
        Diagnostic::own(EnhancedStatus::new(4, 0, 0), "later")
    }

    #[test]
    fn recipients_of_one_route_are_one_run_and_split_by_their_outcomes() {
        let mut runs = Runs::new(&envelope(&[0, 0, 0, 0]));
        assert_eq!(runs.iter().count(), 1);
        let deferred = Outcome::Deferred { scope: ErrorScope::Message, diagnostic: diagnostic() };
        let changed = runs.apply(RecipientRange { first: 1, count: 2 }, &deferred, Last::None);
        assert_eq!(changed, [RecipientRange { first: 1, count: 2 }]);
        assert_eq!(runs.iter().count(), 3);
        let pending = runs.pending_by_route();
        assert_eq!(pending, [(RouteIndex(0), vec![RecipientRange { first: 0, count: 4 }], 1)]);
    }

    #[test]
    fn an_outcome_for_a_terminal_recipient_changes_nothing() {
        let mut runs = Runs::new(&envelope(&[0, 1]));
        let all = RecipientRange { first: 0, count: u32::MAX };
        let one = RecipientRange { first: 0, count: 1 };
        assert_eq!(runs.apply(one, &Outcome::Delivered(diagnostic()), Last::None), [one]);
        let two = RecipientRange { first: 1, count: 1 };
        assert_eq!(runs.apply(all, &Outcome::Failed(diagnostic()), Last::None), [two]);
        assert_eq!(runs.failed(), [two]);
        assert!(!runs.is_dead());
        runs.apply(all, &Outcome::Reported { report: None, why: String::new() }, Last::None);
        assert!(runs.is_dead());
        assert!(runs.apply(all, &Outcome::Failed(diagnostic()), Last::None).is_empty());
    }
}
