//! What stands where: every write that the device has taken, by place, and so whom a damaged place may concern.
//!
//! Exact on purpose: a message that is not among those which a damage may hit must not notice it, whatever else the log
//! makes of it. Learns from the octets of the writes alone (`format`). Not here: what was promised (the models).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use sternpost_message::MessageId;

use crate::disk::Landed;
use crate::format::{self, Record, Spoken};

/// See the module.
#[derive(Clone, Default)]
pub struct Ledger {
    /// Batches by their place on the disk.
    entries: BTreeMap<u64, Entry>,
    sequences: BTreeMap<u64, MessageId>,
    /// The newest batch that is certain.
    newest: u64,
    /// Batches that were not certain and over which others were written in the same use: what comes to light again when those
    /// are damaged, because they went elsewhere.
    buried: Vec<(u64, Entry)>,
    /// Places that were damaged and not written since.
    harmed: Vec<Range<u64>>,
}

#[derive(Clone)]
struct Entry {
    octets: u64,
    use_number: u64,
    sequence: u64,
    records: Vec<Record>,
    /// It is durable. Otherwise its sets were refused, or nobody heard what became of them.
    is_certain: bool,
    /// The page before it is the header of its segment, which says what of the segment before was refused.
    opens: bool,
    start_use: u64,
    is_harmed: bool,
}

/// Whom a damage may concern.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hit {
    /// The messages.
    pub messages: BTreeSet<MessageId>,
    /// The newest batch is among them: its loss looks like a torn tail, or like nothing at all.
    pub is_tail: bool,
}

impl Ledger {
    /// Notes a write. Gives what its records speak of, in their order.
    pub fn wrote(&mut self, landed: &Landed) -> Vec<Spoken> {
        let write = format::read_write(&landed.octets);
        let mut offset = landed.offset + write.header_octets as u64;
        self.forget(landed.offset..landed.offset + landed.octets.len() as u64);
        let mut spoken = Vec::new();
        for (number, batch) in write.batches.into_iter().enumerate() {
            for record in &batch.records {
                if let Spoken::Message { id, sequence, .. } = &record.spoken {
                    self.sequences.insert(*sequence, *id);
                }
                spoken.push(record.spoken.clone());
            }
            if landed.is_certain {
                self.newest = self.newest.max(batch.sequence);
            }
            let octets = batch.octets as u64;
            let entry = Entry {
                octets,
                use_number: batch.use_number,
                sequence: batch.sequence,
                records: batch.records,
                is_certain: landed.is_certain,
                opens: number == 0 && write.header_octets > 0,
                start_use: batch.start_use,
                is_harmed: false,
            };
            self.entries.insert(offset, entry);
            offset += octets;
        }
        spoken
    }

    /// What stood there is overwritten.
    fn forget(&mut self, place: Range<u64>) {
        self.harmed.retain(|harmed| harmed.start < place.start || place.end < harmed.end);
        let gone: Vec<u64> = self
            .entries
            .range(..place.end)
            .rev()
            .take_while(|(offset, _)| **offset + (1 << 26) > place.start)
            .filter(|(offset, entry)| **offset + entry.octets > place.start)
            .map(|(offset, _)| *offset)
            .collect();
        for offset in gone {
            if let Some(entry) = self.entries.remove(&offset).filter(|entry| !entry.is_certain) {
                self.buried.push((offset, entry));
            }
        }
        let start = self.start();
        self.buried.retain(|(_, entry)| entry.use_number >= start);
    }

    /// The message that has this sequence, as far as a write said so.
    #[must_use]
    pub fn id_of(&self, sequence: u64) -> Option<MessageId> {
        self.sequences.get(&sequence).copied()
    }

    /// The places of the living batches: where damage matters.
    #[must_use]
    pub fn living(&self) -> Vec<Range<u64>> {
        let start = self.start();
        let living = self.entries.iter().filter(|(_, entry)| entry.use_number >= start);
        living.map(|(offset, entry)| *offset..offset + entry.octets).collect()
    }

    /// The message that a record speaks of.
    fn named(&self, spoken: &Spoken) -> Option<MessageId> {
        match spoken {
            Spoken::Message { id, .. } | Spoken::Chunk { id, .. } | Spoken::Discarded { id } => Some(*id),
            Spoken::Outcome { sequence, .. } => self.id_of(*sequence),
            Spoken::Other { .. } => None,
        }
    }

    /// The place of the newest batch.
    #[must_use]
    pub fn tail(&self) -> Option<Range<u64>> {
        let certain = self.entries.iter().filter(|(_, entry)| entry.is_certain);
        let (offset, entry) = certain.max_by_key(|(_, entry)| entry.sequence)?;
        Some(*offset..*offset + entry.octets)
    }

    /// A place was damaged. Gives whom all damage so far may concern: the messages of which the newest copy of some record
    /// stands in such a place, and those of which an outcome does that no later copy of the message includes.
    ///
    /// All so far, because the loss of the newest batches lets the log begin where it began before them, and then what was
    /// damaged there matters again.
    pub fn harm(&mut self, place: &Range<u64>) -> Hit {
        for (offset, entry) in self.entries.range_mut(..place.end) {
            entry.is_harmed |= place.start < *offset + entry.octets;
        }
        self.harmed.push(place.clone());
        let start = self.start();
        let mut living: Vec<(&u64, &Entry)> =
            self.entries.iter().filter(|(_, entry)| entry.use_number >= start).collect();
        living.sort_unstable_by_key(|(_, entry)| entry.sequence);
        let newest = Newest::of(&living);
        let mut hit = Hit::default();
        let buried = self.buried.iter();
        let uncovered = buried.filter(|(offset, old)| {
            self.harmed.iter().any(|place| meets(place, *offset, offset + old.octets))
        });
        let records = uncovered.flat_map(|(_, old)| &old.records);
        hit.messages.extend(records.filter_map(|record| self.named(&record.spoken)));
        for (offset, entry) in &living {
            // Without the header and the batch behind it nobody can tell what stood last before: what was refused may come
            // back.
            let header = **offset - if entry.opens { format::PAGE_OCTETS as u64 } else { 0 };
            if entry.opens && self.harmed.iter().any(|place| meets(place, header, **offset + entry.octets)) {
                let refused =
                    living.iter().filter(|(_, old)| !old.is_certain && old.sequence < entry.sequence);
                let records = refused.flat_map(|(_, old)| &old.records);
                hit.messages.extend(records.filter_map(|record| self.named(&record.spoken)));
            }
            if entry.is_harmed {
                hit.is_tail |= entry.sequence >= self.newest;
                let concerned =
                    entry.records.iter().filter(|record| newest.is_in(entry, &record.spoken, self));
                hit.messages.extend(concerned.filter_map(|record| self.named(&record.spoken)));
            }
        }
        hit
    }

    /// The lowest living use, as the newest batch says that is not damaged.
    fn start(&self) -> u64 {
        let told = self.entries.values().filter(|entry| entry.is_certain && !entry.is_harmed);
        told.max_by_key(|entry| entry.sequence).map_or(0, |entry| entry.start_use)
    }
}

fn meets(place: &Range<u64>, start: u64, end: u64) -> bool {
    start < place.end && place.start < end
}

/// For each record the newest batch that surely has it. A write whose end is not known stands beside, not above the others.
#[derive(Default)]
struct Newest {
    messages: BTreeMap<MessageId, u64>,
    chunks: BTreeMap<(MessageId, u32), u64>,
}

impl Newest {
    fn of(living: &[(&u64, &Entry)]) -> Self {
        let mut newest = Self::default();
        for (_, entry) in living.iter().filter(|(_, entry)| entry.is_certain) {
            for record in &entry.records {
                match &record.spoken {
                    Spoken::Message { id, .. } => drop(newest.messages.insert(*id, entry.sequence)),
                    Spoken::Chunk { id, index, .. } => {
                        newest.chunks.insert((*id, *index), entry.sequence);
                    }
                    Spoken::Outcome { .. } | Spoken::Discarded { .. } | Spoken::Other { .. } => {}
                }
            }
        }
        newest
    }

    /// Whether no later batch has what this record of `entry` says.
    fn is_in(&self, entry: &Entry, spoken: &Spoken, ledger: &Ledger) -> bool {
        let is_last = |newest: Option<&u64>| newest.is_none_or(|newest| *newest <= entry.sequence);
        match spoken {
            Spoken::Message { id, .. } => is_last(self.messages.get(id)),
            Spoken::Chunk { id, index, .. } => is_last(self.chunks.get(&(*id, *index))),
            Spoken::Outcome { sequence, .. } => {
                ledger.id_of(*sequence).is_some_and(|id| is_last(self.messages.get(&id)))
            }
            Spoken::Discarded { .. } => true,
            Spoken::Other { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sternpost_message::{
        Diagnostic, EnhancedStatus, MessageSequence, Outcome, RecipientRange, UnixMillis,
    };
    use sternpost_queue::{
        Append, AppendSet, Geometry, Lane, Log, Parameters, SEGMENT_OCTETS_MIN, SEGMENTS_MIN,
    };

    use crate::disk::Medium;
    use crate::model::envelope;

    const NOW: UnixMillis = UnixMillis(1000);

    /// A log with three batches: two messages, and the end of the first one.
    fn three_batches() -> Vec<Landed> {
        let geometry = Geometry { segment_octets: SEGMENT_OCTETS_MIN, segments: SEGMENTS_MIN };
        let medium = Medium::new(usize::try_from(geometry.octets()).unwrap(), 1);
        let disk = Log::create(medium.open().unwrap(), geometry, [1; 16]).unwrap();
        let (mut log, _) = Log::open(disk, Parameters::default(), NOW).unwrap();
        let content = |id| Append::Content { message: id, index: 0, octets: b"words"[..].into() };
        let message = |id| {
            let envelope = Append::Envelope {
                message: id,
                envelope: envelope(1, NOW),
                content_octets: 5,
                content_sha256: [0; 32],
            };
            AppendSet { records: vec![content(id), envelope] }
        };
        let diagnostic = Diagnostic::own(EnhancedStatus::new(5, 0, 0), "no");
        let outcomes = vec![(RecipientRange { first: 0, count: 1 }, Outcome::Failed(diagnostic))];
        let end = AppendSet { records: vec![Append::Outcome { message: MessageSequence(1), outcomes }] };
        let sets = [message(MessageId([1; 16])), message(MessageId([2; 16])), end];
        let mut landed = Vec::new();
        for (set, step) in sets.into_iter().zip(1..) {
            log.append(NOW, Lane::Normal, set, step).unwrap();
            log.drive(NOW);
            medium.advance(NOW.plus_ms(step * 100));
            log.drive(NOW);
            landed.extend(medium.take_landed().0);
        }
        landed
    }

    #[test]
    fn a_place_concerns_the_messages_of_its_batch_and_no_other() {
        let landed = three_batches();
        assert_eq!(landed.len(), 3);
        let fresh = || {
            let mut ledger = Ledger::default();
            landed.iter().for_each(|write| drop(ledger.wrote(write)));
            ledger
        };
        let mut ledger = Ledger::default();
        let spoken: Vec<usize> = landed.iter().map(|write| ledger.wrote(write).len()).collect();
        assert_eq!(spoken, [2, 2, 1]);
        let concerned = |place: Range<u64>| {
            let hit = fresh().harm(&place);
            let messages: Vec<u8> = hit.messages.iter().map(|id| id.0[0]).collect();
            (messages, hit.is_tail)
        };
        let at = |batch: usize| landed[batch].offset;
        assert_eq!(concerned(at(0)..at(0) + 512), (vec![], false), "the segment's header");
        assert_eq!(concerned(at(0) + 4096..at(0) + 4608), (vec![1], false));
        assert_eq!(concerned(at(1)..at(1) + 1), (vec![2], false));
        assert_eq!(concerned(at(2) + 4095..at(2) + 4096), (vec![1], true));
        assert_eq!(concerned(0..at(0)), (vec![], false));
        assert_eq!(ledger.living().len(), 3);
    }
}
