//! The client's end of appending: numbers each append set, remembers it until the store has answered, and repeats
//! what a store that died had not answered. The message id in the set lets the store recognise a repetition.

use crate::store::{Append, Lane, Refusal, ToStore};
use crate::{FRAME_OCTETS_MAX, FrameError};
use std::collections::VecDeque;
use sternpost_message::MessageId;

/// How an append ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Appended {
    /// Durable: it survives the loss of power.
    Committed,
    /// Not stored.
    Refused(Refusal),
}

/// What one client has under way. `T` is what the client wants back with each answer.
#[derive(Debug)]
pub struct Appender<T> {
    lanes: [LaneState<T>; Lane::COUNT],
    octets: usize,
}

#[derive(Debug)]
struct LaneState<T> {
    next: u64,
    open: VecDeque<Open<T>>,
}

#[derive(Debug)]
struct Open<T> {
    number: u64,
    frame: Vec<u8>,
    context: T,
}

impl<T> Default for Appender<T> {
    fn default() -> Self {
        Self { lanes: std::array::from_fn(|_| LaneState { next: 1, open: VecDeque::new() }), octets: 0 }
    }
}

impl<T> Appender<T> {
    /// Numbers a set of records that commit together and gives the encoded frame to send
    /// (with [`crate::Outbox::push_encoded`]).
    ///
    /// # Errors
    /// `TooLarge` when the set does not fit one datagram: nothing was taken.
    pub fn append(&mut self, lane: Lane, records: &[Append<'_>], context: T) -> Result<&[u8], FrameError> {
        self.append_from(lane, records, None, context)
    }

    /// The same for content that a peer sends, while its envelope is not there.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn append_from(
        &mut self,
        lane: Lane,
        records: &[Append<'_>],
        peer: Option<&str>,
        context: T,
    ) -> Result<&[u8], FrameError> {
        let number = self.lanes[lane.index()].next;
        self.number(lane, &ToStore::Append { lane, number, records: records.into(), peer }, context)
    }

    /// Numbers the discard of an isolated or partial message.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn discard(&mut self, message: MessageId, why: &str, context: T) -> Result<&[u8], FrameError> {
        let number = self.lanes[Lane::Outcome.index()].next;
        self.number(Lane::Outcome, &ToStore::Discard { number, message, why }, context)
    }

    fn number(&mut self, lane: Lane, frame: &ToStore<'_>, context: T) -> Result<&[u8], FrameError> {
        let state = &mut self.lanes[lane.index()];
        let frame = postcard::to_stdvec(frame).map_err(|_| FrameError::TooLarge)?;
        if frame.len() > FRAME_OCTETS_MAX {
            return Err(FrameError::TooLarge);
        }
        self.octets += frame.len();
        state.open.push_back(Open { number: state.next, frame, context });
        state.next += 1;
        Ok(state.open.back().map_or(&[], |open| open.frame.as_slice()))
    }

    /// The store has committed every set of `lane` up to `number` that it did not refuse.
    pub fn committed(&mut self, lane: Lane, number: u64, mut answer: impl FnMut(T)) {
        let open = &mut self.lanes[lane.index()].open;
        while open.front().is_some_and(|first| first.number <= number) {
            if let Some(done) = open.pop_front() {
                self.octets -= done.frame.len();
                answer(done.context);
            }
        }
    }

    /// The store has refused set `number` of `lane`. None when it was answered before.
    pub fn refused(&mut self, lane: Lane, number: u64) -> Option<T> {
        let open = &mut self.lanes[lane.index()].open;
        let at = open.iter().position(|open| open.number == number)?;
        let refused = open.remove(at)?;
        self.octets -= refused.frame.len();
        Some(refused.context)
    }

    /// Every frame without an answer, in the order of each lane: to be sent again to a store that has restarted.
    pub fn unanswered(&self) -> impl Iterator<Item = &[u8]> {
        self.lanes.iter().flat_map(|lane| lane.open.iter().map(|open| open.frame.as_slice()))
    }

    /// What the client attached to every set without an answer.
    pub fn contexts(&self) -> impl Iterator<Item = &T> {
        self.lanes.iter().flat_map(|lane| lane.open.iter().map(|open| &open.context))
    }

    /// Octets of all frames without an answer, for back-pressure.
    #[must_use]
    pub const fn octets(&self) -> usize {
        self.octets
    }

    /// Whether everything was answered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lanes.iter().all(|lane| lane.open.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Append<'static> {
        Append::Content { message: MessageId([1; 16]), index: 0, octets: b"x" }
    }

    #[test]
    fn a_cumulative_answer_completes_what_was_not_refused() {
        let mut appender = Appender::default();
        for context in 1..=4 {
            appender.append(Lane::Normal, &[record()], context).unwrap();
        }
        assert_eq!(appender.refused(Lane::Normal, 2), Some(2));
        let mut done = Vec::new();
        appender.committed(Lane::Normal, 3, |context| done.push(context));
        assert_eq!(done, [1, 3]);
        assert_eq!(appender.unanswered().count(), 1);
        appender.committed(Lane::Normal, 4, |context| done.push(context));
        assert!(appender.is_empty() && appender.octets() == 0);
    }

    #[test]
    fn lanes_are_answered_apart() {
        let mut appender = Appender::default();
        appender.append(Lane::NonUrgent, &[record()], "slow").unwrap();
        appender.append(Lane::Urgent, &[record()], "flash").unwrap();
        let mut done = Vec::new();
        appender.committed(Lane::Urgent, 1, |context| done.push(context));
        assert_eq!(done, ["flash"]);
        assert_eq!(appender.contexts().collect::<Vec<_>>(), [&"slow"]);
    }
}
