//! Sets whose envelope follows from their outcomes: a report with the failure that it reports, the children of a list
//! with the outcome of their parent.
//!
//! Two processes may draw the same conclusion: one was taken for dead and its set was on its way. The second one comes
//! with another message id, so that only its outcomes tell: they change no recipient any more. Such a set is refused.
//! Not here: repetitions of one set, which the message id tells.

use sternpost_message::MessageSequence;

use crate::batch::Batch;
use crate::index::Effect;
use crate::runs::{Last, Runs};
use crate::set::{WaitingRecord, WaitingSet};
use crate::{Disk, Log};

impl<D: Disk> Log<D> {
    /// Whether what the set concludes was concluded before, by all that is durable. `batch` is the one being filled.
    pub(crate) fn was_concluded(&self, batch: Option<&Batch>, set: &WaitingSet<'_>) -> bool {
        self.is_new_consequence(batch, set) && !self.changes_recipients(set, &[])
    }

    /// Whether the set must wait until the batches under way are durable, because its answer depends on them: nothing
    /// is refused for the sake of an outcome whose own write may still fail.
    pub(crate) fn conclusion_is_open(&self, set: &WaitingSet<'_>) -> bool {
        if !set.is_consequence {
            return false;
        }
        let batches = self.before_filling().chain(&self.filling);
        let batches: Vec<&Batch> = batches.filter(|batch| !batch.effects.is_empty()).collect();
        !batches.is_empty()
            && self.is_new_consequence(self.filling.as_ref(), set)
            && self.changes_recipients(set, &batches) != self.changes_recipients(set, &[])
    }

    fn is_new_consequence(&self, batch: Option<&Batch>, set: &WaitingSet<'_>) -> bool {
        set.is_consequence
            && set.records.iter().any(|record| match record {
                WaitingRecord::Envelope(new) => !self.is_accepted(batch, new.message),
                _ => false,
            })
    }

    /// Whether the set changes any recipient, once `batches` are durable too.
    fn changes_recipients(&self, set: &WaitingSet<'_>, batches: &[&Batch]) -> bool {
        set.records.iter().any(|record| {
            let WaitingRecord::Outcome { message, outcomes, .. } = record else { return false };
            let Some(mut runs) = self.runs_after(*message, batches) else { return false };
            outcomes.iter().any(|(range, outcome)| !runs.apply(*range, outcome.kind(), Last::None).is_empty())
        })
    }

    fn runs_after(&self, message: MessageSequence, batches: &[&Batch]) -> Option<Runs> {
        let mut runs = self.index.get(message).map(|living| living.runs.clone());
        let is_new = runs.is_none();
        // A batch has thousands of effects; it is searched only if it can speak of the message.
        let speaks_of = |batch: &&&Batch| is_new || batch.touched.contains(&message.0);
        for effect in batches.iter().filter(speaks_of).flat_map(|batch| &batch.effects) {
            match (effect, &mut runs) {
                (Effect::Message(new), runs) if new.sequence == message => {
                    *runs = Some(new.runs.clone());
                }
                (Effect::Outcome { sequence, outcomes, .. }, Some(runs)) if *sequence == message => {
                    for (range, outcome) in outcomes.iter() {
                        runs.apply(*range, outcome.kind(), Last::None);
                    }
                }
                _ => {}
            }
        }
        runs
    }
}
