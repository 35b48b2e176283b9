//! A set on its way into the batch that is being filled: compared with what the log knows, then added record by record.
//!
//! Decides nothing about room or order; that is `filling`'s.

use sternpost_message::{MessageId, MessageSequence, UnixMillis};

use crate::append::{AppendError, Lane};
use crate::batch::{Batch, StagedSet, to_u32};
use crate::format::{Kind, MessageHead};
use crate::living::content_octets;
use crate::place::Place;
use crate::runs::Runs;
use crate::set::{WaitingEnvelope, WaitingRecord, WaitingSet};
use crate::{Disk, Log};

const FITS: &str = "the set was measured before it was taken";

/// How much of a message is in the log, or on its way into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Its envelope: it is a message, or was one.
    Accepted,
    /// Chunks.
    Partial,
    /// Nothing.
    New,
}

/// A message of which a set brings content or the envelope.
struct Planned {
    message: MessageId,
    standing: Standing,
    /// Chunks of the whole message, once its envelope was seen.
    chunks: Option<u32>,
    /// Where they were put, if all of them stand in order in this set.
    told: Vec<Place>,
    is_whole: bool,
}

impl Planned {
    const fn new(message: MessageId, standing: Standing) -> Self {
        Self { message, standing, chunks: None, told: Vec::new(), is_whole: false }
    }
}

impl<D: Disk> Log<D> {
    /// Puts one set into the batch that is being filled, or refuses it.
    pub(crate) fn stage_set(&mut self, set: &WaitingSet<'_>, now: UnixMillis) {
        let Some(batch) = self.filling.take() else { return };
        self.filling = Some(self.put(batch, set, now));
    }

    /// Puts one set into a batch that has room for it, or refuses it.
    pub(crate) fn put(&mut self, mut batch: Batch, set: &WaitingSet<'_>, now: UnixMillis) -> Batch {
        match self.check_set(&batch, set) {
            Ok(mut plan) => {
                self.add_set(&mut batch, set, &mut plan, now);
                batch.is_urgent |= set.lane == Lane::Urgent;
                let lazy_since = set.lazy.then_some(set.came_at);
                batch.partial_octets += if set.only_content { set.need.octets as u64 } else { 0 };
                batch.sets.push(StagedSet { ticket: set.ticket, lazy_since });
            }
            Err(error) => self.refuse(set.ticket, error),
        }
        batch
    }

    /// The batches under way that are written before the one that is being filled, in order.
    pub(crate) fn before_filling(&self) -> impl DoubleEndedIterator<Item = &Batch> {
        self.flight.as_ref().map(|flight| &flight.batch).into_iter().chain(&self.express)
    }

    pub(crate) fn is_accepted(&self, batch: Option<&Batch>, id: MessageId) -> bool {
        self.before_filling().chain(batch).any(|staged| staged.accepted.contains(&id)) || self.index.knows(id)
    }

    fn standing(&self, batch: &Batch, id: MessageId) -> Standing {
        if self.is_accepted(Some(batch), id) {
            return Standing::Accepted;
        }
        let is_known = self.before_filling().chain([batch]).any(|staged| staged.speaks_of(id))
            || self.index.partial(id).is_some();
        if is_known { Standing::Partial } else { Standing::New }
    }

    /// Chunks of `id` that are durable, or will be no later than `batch`: index and octets.
    fn known_chunks(&self, batch: &Batch, id: MessageId) -> Vec<(u32, u32)> {
        let octets = |place| u32::try_from(content_octets(place)).unwrap_or(u32::MAX);
        let durable = self.index.partial(id).into_iter().flat_map(|partial| &partial.chunks);
        let mut chunks: Vec<(u32, u32)> = durable.map(|(index, place)| (*index, octets(*place))).collect();
        for staged in self.before_filling().chain([batch]) {
            if staged.discarded.contains(&id) {
                chunks.clear();
            }
            chunks.extend(staged.chunks.get(&id).into_iter().flatten());
        }
        chunks
    }

    fn knows_chunk(&self, batch: &Batch, id: MessageId, index: u32) -> bool {
        for staged in self.before_filling().chain([batch]).rev() {
            let mut chunks = staged.chunks.get(&id).into_iter().flatten();
            if chunks.any(|(known, _)| *known == index) {
                return true;
            }
            if staged.discarded.contains(&id) {
                return false;
            }
        }
        self.index.partial(id).is_some_and(|partial| partial.chunks.contains_key(&index))
    }

    /// Checks what only the state of the log can tell; gives the messages that the set brings something of.
    fn check_set(&self, batch: &Batch, set: &WaitingSet<'_>) -> Result<Vec<Planned>, AppendError> {
        let mut plan: Vec<Planned> = Vec::new();
        for (at, record) in set.records.iter().enumerate() {
            let message = match record {
                WaitingRecord::Content { message, .. } => *message,
                WaitingRecord::Envelope(new) => new.message,
                WaitingRecord::Outcome { message, .. } if message.0 >= self.next_message => {
                    return Err(AppendError::Invalid("no message has this sequence yet"));
                }
                WaitingRecord::Outcome { .. } | WaitingRecord::Discard { .. } => continue,
            };
            let place = plan.iter().position(|planned| planned.message == message).unwrap_or_else(|| {
                plan.push(Planned::new(message, self.standing(batch, message)));
                plan.len() - 1
            });
            if let WaitingRecord::Envelope(new) = record
                && plan[place].standing != Standing::Accepted
            {
                let (chunks, is_whole) =
                    self.count_chunks(batch, new, plan[place].standing, &set.records[..at])?;
                (plan[place].chunks, plan[place].is_whole) = (Some(chunks), is_whole);
            }
        }
        if self.was_concluded(Some(batch), set) {
            return Err(AppendError::Invalid(
                "its outcomes change no recipient: what follows from them is known",
            ));
        }
        Ok(plan)
    }

    /// The chunks of a message whose envelope comes now, behind `before` in its set; all of them must be there. Also, whether
    /// they all stand there in order.
    fn count_chunks(
        &self,
        batch: &Batch,
        new: &WaitingEnvelope,
        standing: Standing,
        before: &[WaitingRecord<'_>],
    ) -> Result<(u32, bool), AppendError> {
        let own = before.iter().filter_map(|record| match record {
            WaitingRecord::Content { message, index, octets } if *message == new.message => {
                Some((*index, to_u32(octets.len())))
            }
            _ => None,
        });
        let is_alone = standing == Standing::New && own.clone().is_sorted_by(|one, next| one.0 < next.0);
        let whole = if is_alone {
            sum(own)
        } else {
            let mut chunks = self.known_chunks(batch, new.message);
            chunks.extend(own);
            chunks.sort_unstable();
            if chunks.windows(2).any(|pair| pair[0].0 == pair[1].0 && pair[0].1 != pair[1].1) {
                return Err(AppendError::Invalid("two chunks of one index have different lengths"));
            }
            chunks.dedup_by_key(|(index, _)| *index);
            sum(chunks.into_iter())
        };
        whole
            .filter(|(_, octets)| *octets == new.content_octets)
            .map(|(count, _)| (count, is_alone))
            .ok_or(AppendError::Invalid("a part of the content is unknown"))
    }

    fn add_set(&mut self, batch: &mut Batch, set: &WaitingSet<'_>, plan: &mut [Planned], now: UnixMillis) {
        for record in &set.records {
            match record {
                WaitingRecord::Content { message, index, octets } => {
                    let planned = plan.iter_mut().find(|planned| planned.message == *message);
                    let Some(planned) = planned.filter(|planned| planned.standing != Standing::Accepted)
                    else {
                        continue;
                    };
                    if planned.is_whole {
                        // Nobody will ask for the chunks of a message that is whole in this set.
                        planned.told.push(batch.add_told(*message, *index, octets).expect(FITS));
                    } else if !self.knows_chunk(batch, *message, *index) {
                        batch.add_content(*message, *index, 0, octets).expect(FITS);
                        batch.chunks.entry(*message).or_default().push((*index, to_u32(octets.len())));
                    }
                }
                WaitingRecord::Envelope(new) => {
                    let planned = plan.iter_mut().find(|planned| planned.message == new.message);
                    if let Some(planned) = planned.filter(|planned| planned.standing != Standing::Accepted) {
                        let told = std::mem::take(&mut planned.told);
                        self.add_envelope(batch, new, planned.chunks.unwrap_or_default(), told);
                        planned.standing = Standing::Accepted;
                    }
                }
                WaitingRecord::Outcome { message, outcomes, encoded } => {
                    batch.add_outcome(*message, now, outcomes, encoded).expect(FITS);
                }
                WaitingRecord::Discard { message } => {
                    batch.add_discarded(*message).expect(FITS);
                }
            }
        }
    }

    fn add_envelope(&mut self, batch: &mut Batch, new: &WaitingEnvelope, chunks: u32, told: Vec<Place>) {
        let sequence = MessageSequence(self.next_message);
        self.next_message += 1;
        let head = MessageHead {
            message: new.message.0,
            sequence: sequence.0.into(),
            content_octets: new.content_octets.into(),
            chunks: chunks.into(),
            envelope_octets: to_u32(new.encoded.len()).into(),
            states_octets: 0.into(),
            reserved: 0.into(),
            content_sha256: new.content_sha256,
        };
        let states = (Runs::new(&new.envelope), &[][..]);
        batch.add_message(Kind::Envelope, &head, (&new.envelope, &new.encoded), states, told).expect(FITS);
        batch.accepted.insert(new.message);
        batch.chunks.remove(&new.message);
    }
}

/// How many chunks there are and their octets; none when one is missing before another.
fn sum(chunks: impl Iterator<Item = (u32, u32)>) -> Option<(u32, u64)> {
    chunks.zip(0..).try_fold((0, 0), |(count, sum), ((index, octets), expected)| {
        (index == expected).then_some((count + 1, sum + u64::from(octets)))
    })
}
