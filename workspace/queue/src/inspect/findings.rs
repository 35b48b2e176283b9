//! What a search through every record has found: how many there are, what damage has hit, and the messages that only
//! damaged batches know.
//!
//! A batch whose header, or a header of whose records, is damaged does not count for the log, whole records in it included. A
//! *stray* message that stands in such batches is not lost yet: its envelope, chunks and outcomes are kept here, so that it can
//! be exported.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use sternpost_message::{
    Diagnostic, Envelope, MessageId, MessageSequence, Outcome, RecipientRange, RecipientState, UnixMillis,
};
use zerocopy::FromBytes;

use crate::event::MessageDetail;
use crate::format::{ContentHead, Geometry, Kind, MessageHead, OutcomeHead, RecipientRecord};
use crate::index::Index;
use crate::place::Place;
use crate::reader::{decode_message, decode_outcome, is_sound};
use crate::recovery::Damage;

use super::walk::{Record, What};

/// How many records of each kind a log holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordCounts {
    /// Content chunks.
    pub chunks: u64,
    /// Envelopes.
    pub envelopes: u64,
    /// Outcomes.
    pub outcomes: u64,
    /// Envelopes with states, as reclaim has moved them.
    pub moved: u64,
    /// Ends of partial messages.
    pub discarded: u64,
    /// Of kinds that this version does not know.
    pub others: u64,
}

/// What a record is, or was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// The header of a batch.
    BatchHeader,
    /// This chunk of the message's content.
    Chunk(u32),
    /// An envelope.
    Envelope,
    /// An outcome.
    Outcome,
    /// An envelope with states.
    Moved,
    /// The end of a partial message.
    Discarded,
    /// Nothing can be told of it.
    Unknown,
}

/// One record in a damaged place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DamagedRecord {
    /// Where on the disk.
    pub offset: u64,
    /// How long.
    pub octets: u64,
    /// What it was, as far as it still says so.
    pub kind: RecordKind,
    /// The message that it belongs to, as far as it still says so.
    pub message: Option<MessageId>,
    /// Whether it is whole, and out of force only because its batch is damaged.
    pub is_whole: bool,
}

/// One damaged place with the records in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedPlace {
    /// Where, how long, and what it held.
    pub damage: Damage,
    /// In the order of the disk.
    pub records: Vec<DamagedRecord>,
}

/// A message that no batch in force knows.
struct Stray {
    detail: MessageDetail,
    chunks: u32,
}

/// See the module.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) batches: u64,
    pub(super) records: RecordCounts,
    pub(super) read_octets: u64,
    /// When the first and the last batch were written.
    pub(super) written: Option<(UnixMillis, UnixMillis)>,
    pub(super) damaged: Vec<DamagedRecord>,
    strays: BTreeMap<u64, Stray>,
    /// Chunks that are whole in damaged batches.
    chunks: FxHashMap<(MessageId, u32), Place>,
}

impl Findings {
    pub(super) fn batch(&mut self, written_at_ms: u64) {
        let at = UnixMillis(written_at_ms);
        self.batches += 1;
        self.written = Some(self.written.map_or((at, at), |(first, last)| (first.min(at), last.max(at))));
    }

    /// Takes one record at a place of the log, which is `disk_offset` on the disk.
    pub(super) fn record(&mut self, record: &Record<'_>, place: Place, geometry: Geometry, index: &Index) {
        if record.holds && record.is_whole {
            self.count(record.what);
        } else {
            let disk_offset = geometry.offset_of(place.segment(), place.offset());
            self.damaged.push(self.damaged_record(record, disk_offset, index));
        }
        if !record.is_whole {
            return;
        }
        match record.what {
            What::Record(Kind::Content) if !record.holds => {
                if let Some(head) = chunk_head(record.body) {
                    self.chunks.insert((head.id(), head.index.get()), place);
                }
            }
            What::Record(Kind::Envelope | Kind::Moved) if !record.holds => {
                self.stray(record.body, geometry);
            }
            What::Record(Kind::Outcome) if !self.strays.is_empty() => {
                if let Some((head, outcomes)) = decode_outcome(record.body) {
                    self.outcome(head.sequence.get(), &outcomes);
                }
            }
            _ => {}
        }
    }

    fn count(&mut self, what: What) {
        let count = match what {
            What::Record(Kind::Content) => &mut self.records.chunks,
            What::Record(Kind::Envelope) => &mut self.records.envelopes,
            What::Record(Kind::Outcome) => &mut self.records.outcomes,
            What::Record(Kind::Moved) => &mut self.records.moved,
            What::Record(Kind::Discarded) => &mut self.records.discarded,
            What::BatchHeader | What::Unknown => &mut self.records.others,
        };
        *count += 1;
    }

    fn damaged_record(&self, record: &Record<'_>, disk_offset: u64, index: &Index) -> DamagedRecord {
        let id = || <[u8; 16]>::read_from_prefix(record.body).ok().map(|(id, _)| MessageId(id));
        let (kind, message) = match record.what {
            What::Record(Kind::Content) => {
                let head = chunk_head(record.body);
                (RecordKind::Chunk(head.map_or(0, |head| head.index.get())), id())
            }
            What::Record(Kind::Envelope) => (RecordKind::Envelope, id()),
            What::Record(Kind::Moved) => (RecordKind::Moved, id()),
            What::Record(Kind::Discarded) => (RecordKind::Discarded, id()),
            What::Record(Kind::Outcome) => {
                let head = OutcomeHead::read_from_prefix(record.body).ok();
                let sequence = head.map(|(head, _)| MessageSequence(head.sequence.get()));
                let id = sequence.and_then(|sequence| {
                    let living = index.get(sequence).map(|living| living.id);
                    living.or_else(|| self.get(sequence).map(|stray| stray.id))
                });
                (RecordKind::Outcome, id)
            }
            What::BatchHeader => (RecordKind::BatchHeader, None),
            What::Unknown => (RecordKind::Unknown, None),
        };
        let octets = u64::from(record.octets);
        DamagedRecord { offset: disk_offset, octets, kind, message, is_whole: record.is_whole }
    }

    fn stray(&mut self, body: &[u8], geometry: Geometry) {
        let Some((head, envelope, states)) = decode_message(body) else { return };
        if !is_sound(&head, &envelope, geometry) {
            return;
        }
        let detail = detail(&head, envelope, &states);
        self.strays.insert(detail.sequence.0, Stray { detail, chunks: head.chunks.get() });
    }

    fn outcome(&mut self, sequence: u64, outcomes: &[(RecipientRange, Outcome)]) {
        let Some(stray) = self.strays.get_mut(&sequence) else { return };
        for (range, outcome) in outcomes {
            let (first, end) = (range.first as usize, range.end() as usize);
            for record in stray.detail.states.iter_mut().take(end).skip(first) {
                apply(record, outcome);
            }
        }
    }

    /// Ends the search: what lives by a later record is no stray, and what is over is none any more.
    pub(super) fn settle(&mut self, index: &Index) {
        self.strays.retain(|sequence, stray| {
            let is_open = stray.detail.states.iter().any(|record| !record.state.is_terminal());
            let is_known =
                index.get(MessageSequence(*sequence)).is_some() || index.find(stray.detail.id).is_some();
            is_open && !is_known
        });
    }

    pub(super) fn strays(&self) -> impl Iterator<Item = &MessageDetail> {
        self.strays.values().map(|stray| &stray.detail)
    }

    pub(super) fn find(&self, id: MessageId) -> Option<MessageSequence> {
        self.strays().find(|detail| detail.id == id).map(|detail| detail.sequence)
    }

    pub(super) fn get(&self, sequence: MessageSequence) -> Option<&MessageDetail> {
        self.strays.get(&sequence.0).map(|stray| &stray.detail)
    }

    pub(super) fn chunks_of(&self, sequence: MessageSequence) -> Option<u32> {
        self.strays.get(&sequence.0).map(|stray| stray.chunks)
    }

    /// Where a chunk stands that is whole in a damaged batch.
    pub(super) fn chunk(&self, id: MessageId, index: u32) -> Option<Place> {
        self.chunks.get(&(id, index)).copied()
    }

    /// The damaged places of a log with what was seen in each.
    pub(super) fn places(&self, damage: &[Damage]) -> Vec<DamagedPlace> {
        let mut places: Vec<DamagedPlace> = damage
            .iter()
            .map(|damage| DamagedPlace { damage: damage.clone(), records: Vec::new() })
            .collect();
        places.sort_by_key(|place| place.damage.offset);
        // Where a place begins in a longer one, what stands behind both is found by how far those before it reach.
        let mut reached = 0;
        let reach = |place: &DamagedPlace| {
            reached = end_of(&place.damage).max(reached);
            reached
        };
        let reaches: Vec<u64> = places.iter().map(reach).collect();
        let mut others = BTreeMap::<u64, DamagedPlace>::new();
        for record in &self.damaged {
            let begun = places.partition_point(|place| place.damage.offset <= record.offset);
            let within = (0..begun)
                .rev()
                .take_while(|at| record.offset < reaches[*at])
                .find(|at| record.offset < end_of(&places[*at].damage));
            if let Some(at) = within {
                places[at].records.push(*record);
                continue;
            }
            let before = others.range_mut(..=record.offset).next_back();
            match before.filter(|(_, place)| record.offset < end_of(&place.damage)) {
                Some((_, place)) => place.records.push(*record),
                // The disk gives other octets than a moment ago, when recovery read the same batch.
                None => {
                    let what = crate::DamagedPart::Record;
                    let damage = Damage { offset: record.offset, octets: record.octets, what };
                    others.insert(record.offset, DamagedPlace { damage, records: vec![*record] });
                }
            }
        }
        places.extend(others.into_values());
        places.sort_by_key(|place| place.damage.offset);
        places
    }
}

const fn end_of(damage: &Damage) -> u64 {
    damage.offset + damage.octets
}

fn chunk_head(body: &[u8]) -> Option<ContentHead> {
    let (head, octets) = ContentHead::read_from_prefix(body).ok()?;
    (!octets.is_empty()).then_some(head)
}

fn detail(
    head: &MessageHead,
    envelope: Envelope,
    states: &[(RecipientRange, RecipientRecord)],
) -> MessageDetail {
    let mut records = vec![RecipientRecord::default(); envelope.recipients.len()];
    for (range, record) in states {
        for known in records.iter_mut().take(range.end() as usize).skip(range.first as usize) {
            known.clone_from(record);
        }
    }
    MessageDetail {
        id: MessageId(head.message),
        sequence: MessageSequence(head.sequence.get()),
        envelope: Arc::new(envelope),
        content_octets: head.content_octets.get(),
        content_sha256: head.content_sha256,
        states: records,
    }
}

/// What an outcome does to a recipient: the same as in the index of a log in use.
fn apply(record: &mut RecipientRecord, outcome: &Outcome) {
    if record.state.is_terminal() {
        return;
    }
    if record.state.owes_success_report() {
        record.state = record.state.after(outcome.kind());
        return;
    }
    let was_failed = record.state == RecipientState::Failed;
    let mut attempted = |diagnostic: &Diagnostic| {
        record.attempts = record.attempts.saturating_add(1);
        record.last = Some(diagnostic.clone());
    };
    match outcome {
        Outcome::Deferred { diagnostic, .. } if !was_failed => attempted(diagnostic),
        Outcome::Failed(diagnostic) if !was_failed => attempted(diagnostic),
        Outcome::Delivered(diagnostic)
        | Outcome::Transferred(diagnostic)
        | Outcome::DeliveredReportOwed(diagnostic)
        | Outcome::RelayedReportOwed(diagnostic) => attempted(diagnostic),
        Outcome::DelayReported => record.delay_reported |= !was_failed,
        Outcome::Deferred { .. }
        | Outcome::Failed(_)
        | Outcome::Reported { .. }
        | Outcome::Discarded { .. } => {}
    }
    record.state = record.state.after(outcome.kind());
}

#[cfg(test)]
mod tests {
    use super::*;
    use sternpost_message::{RouteIndex, sample};
    use zerocopy::IntoBytes;

    const GEOMETRY: Geometry = Geometry { segment_octets: 1 << 20, segments: 8 };

    fn body(envelope: &Envelope, chunks: u32) -> Vec<u8> {
        let encoded = postcard::to_stdvec(envelope).unwrap();
        let head = MessageHead {
            message: [7; 16],
            sequence: 1.into(),
            content_octets: 0.into(),
            chunks: chunks.into(),
            envelope_octets: u32::try_from(encoded.len()).unwrap().into(),
            states_octets: 0.into(),
            reserved: 0.into(),
            content_sha256: [0; 32],
        };
        [head.as_bytes(), &encoded].concat()
    }

    #[test]
    fn an_envelope_of_a_damaged_batch_is_a_stray_only_if_the_log_would_take_it() {
        let good = sample::envelope(&["a@b.example", "c@d.example"], ("smtp", "hub"));
        let mut lost_on_its_way = good.clone();
        lost_on_its_way.recipients[1].route = RouteIndex(1);
        let to_nobody = Envelope { recipients: Vec::new(), ..good.clone() };
        let rows = [(&good, 1, 1), (&good, u32::MAX, 0), (&lost_on_its_way, 1, 0), (&to_nobody, 1, 0)];
        for (envelope, chunks, strays_count) in rows {
            let mut findings = Findings::default();
            findings.stray(&body(envelope, chunks), GEOMETRY);
            assert_eq!(findings.strays().count(), strays_count, "{envelope:?}");
        }
    }

    fn damaged(offset: u64) -> DamagedRecord {
        DamagedRecord { offset, octets: 24, kind: RecordKind::Unknown, message: None, is_whole: false }
    }

    #[test]
    fn a_damaged_record_belongs_to_the_place_in_which_it_begins_also_behind_a_shorter_one() {
        let place = |offset, octets, what| Damage { offset, octets, what };
        let damage = [
            place(20_000, 100, crate::DamagedPart::Record),
            place(8_192, 4_096, crate::DamagedPart::Unreadable),
            place(8_300, 24, crate::DamagedPart::Record),
        ];
        let records = [8_192, 8_300, 9_000, 12_288, 12_300, 20_099, 20_100].map(damaged);
        let findings = Findings { damaged: records.to_vec(), ..Findings::default() };
        let places = findings.places(&damage);
        let found: Vec<(u64, Vec<u64>)> = places
            .iter()
            .map(|place| (place.damage.offset, place.records.iter().map(|record| record.offset).collect()))
            .collect();
        let wanted = [
            (8_192, vec![8_192, 9_000]),
            (8_300, vec![8_300]),
            (12_288, vec![12_288, 12_300]),
            (20_000, vec![20_099]),
            (20_100, vec![20_100]),
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn a_million_damaged_records_find_their_places_in_seconds() {
        let offsets = (0..1_000_000).map(|number| 65_536 + number * 24);
        let damage: Vec<Damage> = offsets
            .clone()
            .map(|offset| Damage { offset, octets: 24, what: crate::DamagedPart::Record })
            .collect();
        let findings = Findings { damaged: offsets.map(damaged).collect(), ..Findings::default() };
        let started = std::time::Instant::now();
        assert!(findings.places(&damage).iter().all(|place| place.records.len() == 1));
        assert!(started.elapsed() < std::time::Duration::from_secs(10), "{:?}", started.elapsed());
    }
}
