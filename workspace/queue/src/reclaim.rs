//! Making room: survivors of the oldest segment move to the head, then the log's start advances. How fast, says `pace`.
//!
//! Moves go into a batch only while no other is being written, so that a moved record holds the state of all batches
//! before its own; a message with an outcome in the same batch waits for the next one (FORMAT.md, rule 3). What the disk
//! does not read rests for a moment while the others move; when it is given up (`unread`), the start goes on without it.

use std::collections::VecDeque;

use sternpost_message::{MessageId, MessageSequence, RecipientRange, UnixMillis};

use crate::batch::{Need, content_need, message_need, to_u32};
use crate::event::{Alarm, LogEvent, MessageDetail, ReadError};
use crate::format::{CONTENT_OVERHEAD_OCTETS, Geometry, Kind, MessageHead, RecipientRecord};
use crate::index::Resident;
use crate::living::Living;
use crate::pace::{Sealed, Share};
use crate::place::Place;
use crate::runs::{Last, Runs};
use crate::seal::index_room;
use crate::{Disk, Log, stand_in};

/// How much of a segment is read at once for those who move out of it.
const READ_AHEAD_OCTETS: u32 = 512 << 10;

/// Of the index of a segment that is nearly full, so much is still to come.
const INDEX_GROWTH_DIVISOR: u64 = 16;

/// Segments that only moves may open. Outcomes stop before them, mail one segment earlier still.
const RESERVE_SEGMENTS: usize = 2;

/// Which segments live, which can be written, and which will be once a batch excludes them.
pub(crate) struct Space {
    /// Living segments, oldest first, with the numbers of their uses.
    ring: VecDeque<(u32, u64)>,
    free: VecDeque<u32>,
    excluded: Vec<(u32, u64)>,
    /// How far each segment is filled. What is behind that cannot be won by moving.
    filled_octets: Vec<u32>,
}

impl Space {
    pub(crate) fn new(geometry: Geometry, ring: VecDeque<u32>, uses: &[u64], start_use: u64) -> Self {
        let ring: VecDeque<_> = ring.into_iter().map(|segment| (segment, uses[segment as usize])).collect();
        debug_assert!(ring.iter().all(|(_, use_number)| *use_number >= start_use));
        // Free segments in the order of the disk, from behind the head on: a circle, as long as nothing fails.
        let after_head = ring.back().map_or(0, |(segment, _)| segment + 1);
        let free = (0..geometry.segments)
            .map(|step| (after_head + step) % geometry.segments)
            .filter(|segment| ring.iter().all(|(living, _)| living != segment))
            .collect();
        Self { ring, free, excluded: Vec::new(), filled_octets: vec![0; geometry.segments as usize] }
    }

    /// A segment is filled up to `octets`; all of it, when nothing more will be written to it because a write failed.
    pub(crate) fn fill(&mut self, segment: u32, octets: u32) {
        self.filled_octets[segment as usize] = octets;
    }

    #[cfg(test)]
    pub(crate) fn filled_octets(&self, segment: u32) -> u32 {
        self.filled_octets[segment as usize]
    }

    pub(crate) fn free_count(&self) -> u32 {
        to_u32(self.free.len())
    }

    pub(crate) fn live_count(&self) -> u32 {
        to_u32(self.ring.len())
    }

    pub(crate) fn next_free(&self) -> Option<u32> {
        self.free.front().copied()
    }

    /// Whether a batch may take outcomes (mail if `accepts`), given that it opens a segment.
    pub(crate) fn permits(&self, accepts: bool, opens: bool) -> bool {
        self.free.len() >= RESERVE_SEGMENTS + usize::from(accepts) + usize::from(opens)
    }

    /// Whether mail will be permitted when what is excluded is free.
    pub(crate) fn will_permit(&self, opens: bool) -> bool {
        self.free.len() + self.excluded.len() > RESERVE_SEGMENTS + usize::from(opens)
    }

    /// Segments that mail may open, now or when what is excluded is free.
    fn open_to_mail(&self) -> u64 {
        (self.free.len() + self.excluded.len()).saturating_sub(RESERVE_SEGMENTS + 1) as u64
    }

    /// The lowest living use; the next one when nothing lives.
    pub(crate) fn start_use(&self, next_use: u64) -> u64 {
        self.ring.front().map_or(next_use, |(_, use_number)| *use_number)
    }

    /// A segment becomes the head.
    pub(crate) fn open(&mut self, segment: u32, use_number: u64) {
        self.free.retain(|free| *free != segment);
        self.ring.push_back((segment, use_number));
    }

    /// A segment whose first write failed holds nothing; it is taken again last.
    pub(crate) fn abandon(&mut self, segment: u32) {
        self.ring.retain(|(living, _)| *living != segment);
        self.free.push_back(segment);
    }

    /// Whether a use of a segment is part of the log.
    pub(crate) fn lives(&self, segment: u32, use_number: u64) -> bool {
        self.ring.contains(&(segment, use_number))
    }

    /// A durable batch names `start_use`: what is below may be written.
    pub(crate) fn release(&mut self, start_use: u64) {
        let free = &mut self.free;
        self.excluded.retain(|(segment, use_number)| {
            let stays = *use_number >= start_use;
            if !stays {
                free.push_back(*segment);
            }
            stays
        });
    }

    /// So few segments are free that room must be made.
    fn is_short(&self) -> bool {
        self.free.len() + self.excluded.len() < (self.filled_octets.len() / 8).max(RESERVE_SEGMENTS + 3)
    }

    fn oldest_sealed(&self, head: Option<u32>) -> Option<u32> {
        self.ring.front().map(|(segment, _)| *segment).filter(|segment| Some(*segment) != head)
    }
}

/// What became of an attempt to move one resident.
enum Moved {
    /// Nothing of it is in the segment.
    Gone,
    /// All of it is in the batch now, or must wait for the next one.
    Done,
    /// The batch is full.
    NoRoom,
}

impl<D: Disk> Log<D> {
    /// Lets the start pass segments in which nothing lives.
    pub(crate) fn advance_start(&mut self) {
        let head = self.head.map(|head| head.segment);
        while let Some(oldest) = self.space.oldest_sealed(head) {
            if self.index.living_octets_in(oldest) != 0 {
                return;
            }
            self.space.excluded.extend(self.space.ring.pop_front());
        }
    }

    /// A batch is needed for no other reason than to say that the start advanced.
    pub(crate) fn start_waits(&self) -> bool {
        !self.space.excluded.is_empty() && self.space.free.len() <= RESERVE_SEGMENTS + 2
    }

    /// The share that moves have of a batch that others wait for; none when survivors should not move. They should when room
    /// is short or the living are strewn thin, and there is something to gain: more than what is lost again in the pages of
    /// the batches that they move into.
    pub(crate) fn share_of_moves(&self) -> Option<Share> {
        let head = self.head.map(|head| head.segment);
        let segment_octets = u64::from(self.shelf.geometry.segment_octets);
        let sealed = self.space.ring.iter().filter(|(segment, _)| Some(*segment) != head);
        let sealed = sealed.map(|(segment, _)| Sealed {
            filled_octets: u64::from(self.space.filled_octets[*segment as usize]),
            living_octets: self.index.living_octets_in(*segment),
        });
        // What a batch moves wins room when that batch is durable.
        let room = (self.space.open_to_mail() * segment_octets + self.head_rest())
            .saturating_sub(self.batch_octets_max as u64);
        let living = self.index.living_octets();
        let range = self.space.ring.len() as u64 * segment_octets;
        let is_thin = range > (4 * living).max(16 * segment_octets);
        if living <= room / 2 && !is_thin && !self.space.is_short() {
            return None;
        }
        let share = Share::needed(room, sealed.clone());
        let dead_in = |sealed: Sealed| sealed.filled_octets.saturating_sub(sealed.living_octets);
        let is_worth_it = || sealed.map(dead_in).sum::<u64>() >= segment_octets.max(range / 6);
        ((is_thin || share.is_urgent() || self.space.is_short()) && is_worth_it()).then_some(share)
    }

    /// Octets of the head that mail and moves may still take: the room of its index is kept from both, and grows with what comes.
    fn head_rest(&self) -> u64 {
        let Some(head) = self.head else { return 0 };
        let kept = index_room(self.open_entries_octets()) as u64;
        let rest = u64::from(self.shelf.geometry.segment_octets - head.offset);
        rest.saturating_sub(kept + kept / INDEX_GROWTH_DIVISOR)
    }

    /// Puts survivors of the oldest segment into the batch. Whether there were any.
    pub(crate) fn stage_moves(&mut self) -> bool {
        let Some(share) = self.moves.filter(|_| self.moves_rest_until.is_none()) else { return false };
        let head = self.head.map(|head| head.segment);
        let Some(oldest) = self.space.oldest_sealed(head).filter(|_| self.plan(Need::default())) else {
            return false;
        };
        let Some(batch) = &self.filling else { return false };
        // A batch that others wait for carries a share of moves; one of its own carries as many as fit.
        let octets_max = self.batch_octets_max;
        let moves_max = if batch.sets.is_empty() { octets_max } else { share.octets_of(octets_max) };
        let floor = batch.room().saturating_sub(moves_max);
        let before = batch.records();
        let use_number = self.shelf.uses[oldest as usize];
        let known =
            self.residents.take().filter(|(known, residents)| *known == use_number && !residents.is_empty());
        let mut residents = known.map_or_else(|| self.index.residents(oldest), |(_, residents)| residents);
        let (mut at, mut is_full) = (0, false);
        while let Some(resident) = residents.get(at).copied() {
            match self.move_resident(resident, oldest, floor) {
                Moved::Gone if at == 0 => drop(residents.pop_front()),
                Moved::Gone | Moved::Done => at += 1,
                Moved::NoRoom => {
                    is_full = true;
                    break;
                }
            }
        }
        self.residents = Some((use_number, residents));
        let moved = self.filling.as_ref().is_some_and(|batch| batch.records() > before);
        if moved || is_full {
            // The next batch is the next occasion.
            self.moves_rest_until = None;
        }
        moved
    }

    /// Something was not moved because the disk does not read it; it may do so at `until`.
    fn rest_until(&mut self, until: UnixMillis) {
        self.moves_rest_until = Some(self.moves_rest_until.map_or(until, |earlier| earlier.min(until)));
    }

    /// A part of the message is lost. Reclaim goes on in the next turn, even if it moved nothing in this one.
    fn give_up_part(&mut self, message: MessageId, reason: String) {
        self.alarm(Alarm::Unreadable { message, reason });
    }

    fn alarm(&mut self, alarm: Alarm) {
        self.events.push_back(LogEvent::Alarm(alarm));
        self.rest_until(self.shelf.unread.now());
    }

    fn move_resident(&mut self, resident: Resident, segment: u32, floor: usize) -> Moved {
        if self.filling.as_ref().is_some_and(|batch| batch.residents.contains(&resident)) {
            return Moved::Done;
        }
        let moved = self.stage_resident(resident, segment, floor);
        if let (Moved::Done, Some(batch)) = (&moved, &mut self.filling) {
            batch.residents.insert(resident);
        }
        moved
    }

    /// Survivors stand in the order of the segment: one long read serves many of them.
    fn read_ahead(&mut self, place: Place) {
        let (segment, offset) = (place.segment(), place.offset());
        let end = self.space.filled_octets[segment as usize];
        let octets = end.saturating_sub(offset).min(READ_AHEAD_OCTETS);
        if !self.shelf.has(place) && octets > place.octets() {
            // If it fails, each record is read by itself, and the failure is that record's.
            drop(self.shelf.read_ahead(segment, offset, octets));
        }
    }

    fn stage_resident(&mut self, resident: Resident, segment: u32, floor: usize) -> Moved {
        let here = |place: &Place| place.segment() == segment && !place.is_missing();
        match resident {
            Resident::Message(sequence) => {
                let Some(living) = self.index.get(MessageSequence(sequence)) else { return Moved::Gone };
                let envelope_is_here = here(&living.place);
                let envelope_place = envelope_is_here.then_some(living.place);
                let chunks = living.chunks().iter().zip(0..).filter(|(place, _)| here(place));
                let chunks: Vec<(u32, Place)> = chunks.map(|(place, index)| (index, *place)).collect();
                let id = living.id;
                if !envelope_is_here && chunks.is_empty() {
                    return Moved::Gone;
                }
                if self.filling.as_ref().is_some_and(|batch| batch.touched.contains(&sequence)) {
                    return Moved::Done;
                }
                let sequence = MessageSequence(sequence);
                let first = chunks
                    .iter()
                    .map(|(_, place)| *place)
                    .chain(envelope_place)
                    .min_by_key(|place| place.offset());
                first.into_iter().for_each(|first| self.read_ahead(first));
                if envelope_is_here && !self.move_envelope(sequence, floor) {
                    return Moved::NoRoom;
                }
                self.move_chunks(sequence, id, &chunks, floor)
            }
            Resident::Partial(id) => {
                let Some(partial) = self.index.partial(id) else { return Moved::Gone };
                let chunks = partial.chunks.iter().filter(|(_, place)| here(place));
                let chunks: Vec<(u32, Place)> = chunks.map(|(index, place)| (*index, *place)).collect();
                if chunks.is_empty() {
                    return Moved::Gone;
                }
                let ends = |batch: &crate::batch::Batch| {
                    batch.discarded.contains(&id) || batch.accepted.contains(&id)
                };
                if self.filling.as_ref().is_some_and(ends) {
                    return Moved::Done;
                }
                self.move_chunks(MessageSequence(0), id, &chunks, floor)
            }
        }
    }

    /// Makes sure that `need` fits into the batch, above what is kept for others.
    fn has_room_to_move(&mut self, need: Need, floor: usize) -> bool {
        let is_empty = self.filling.as_ref().is_none_or(crate::batch::Batch::is_empty);
        if is_empty {
            return self.plan(need);
        }
        self.filling.as_ref().is_some_and(|batch| batch.takes(need, floor))
    }

    fn move_chunks(
        &mut self,
        owner: MessageSequence,
        id: MessageId,
        chunks: &[(u32, Place)],
        floor: usize,
    ) -> Moved {
        for (index, place) in chunks {
            let octets = (place.octets() as usize).saturating_sub(CONTENT_OVERHEAD_OCTETS);
            if !self.has_room_to_move(content_need(octets), floor) {
                return Moved::NoRoom;
            }
            if let Some(until) = self.shelf.unread.rests_until(*place) {
                self.rest_until(until);
                continue;
            }
            match self.shelf.chunk(owner, id, *index, *place) {
                Ok(octets) => {
                    let Some(batch) = &mut self.filling else { return Moved::NoRoom };
                    if batch.add_content(id, *index, owner.0, octets).is_err() {
                        return Moved::NoRoom;
                    }
                    batch.moved += 1;
                }
                Err(ReadError::Disk(_)) => {
                    if let Some(until) = self.shelf.unread.rests_until(*place) {
                        self.rest_until(until);
                    }
                }
                Err(error) => {
                    self.give_up_part(id, error.to_string());
                    self.index.lose_chunk(owner, id, *index);
                }
            }
        }
        Moved::Done
    }

    /// Puts the envelope with its states into the batch, if the disk reads it. False when the batch is full.
    fn move_envelope(&mut self, sequence: MessageSequence, floor: usize) -> bool {
        let Some(living) = self.index.get(sequence) else { return true };
        let (chunks, id) = (to_u32(living.chunks().len()), living.id);
        let detail = match self.shelf.detail_rests_until(living) {
            Some(until) => {
                self.rest_until(until);
                return true;
            }
            None => self.shelf.detail(&self.index, sequence),
        };
        let detail = match detail {
            Ok(Some(detail)) => detail,
            Ok(None) => return true,
            Err(ReadError::Disk(_)) => {
                if let Some(until) = self.shelf.detail_rests_until(living) {
                    self.rest_until(until);
                }
                return true;
            }
            Err(error) => return self.replace_envelope(sequence, &error, floor),
        };
        let words_are_lost = lost_words(living, &detail.states);
        let moved = self.stage_moved(&detail, chunks, floor);
        if moved && words_are_lost {
            let reason = "the words of its last outcomes are lost; its recipients' states are not".to_owned();
            self.give_up_part(id, reason);
        }
        moved
    }

    /// Puts what stands for a lost envelope into the batch. False when the batch is full.
    fn replace_envelope(&mut self, sequence: MessageSequence, error: &ReadError, floor: usize) -> bool {
        let Some(living) = self.index.get(sequence) else { return true };
        let (message, octets) = (living.id, living.content_octets());
        let octets_left = stand_in::octets_left(living);
        // One that there is not: whoever opens the log misses it.
        let chunks = to_u32(living.chunks().len()).saturating_add(1);
        let mut detail = stand_in::detail(sequence, living, self.index.routes_of(living));
        let Ok(encoded) = postcard::to_stdvec(&(&*detail.envelope, pack(&detail.states))) else {
            return false;
        };
        if !self.empty_berth().takes(message_need(&detail.envelope, encoded.len())) {
            detail = stand_in::shortened(detail);
        }
        let moved = self.stage_moved(&detail, chunks, floor);
        if moved {
            self.index.lose_envelope(sequence);
            let reason = error.to_string();
            self.alarm(Alarm::EnvelopeLost { message, octets_left, octets, reason });
        }
        moved
    }

    /// Puts a moved record into the batch. False when the batch is full.
    fn stage_moved(&mut self, detail: &MessageDetail, chunks: u32, floor: usize) -> bool {
        let Ok(envelope) = postcard::to_stdvec(detail.envelope.as_ref()) else { return false };
        let mut states = pack(&detail.states);
        let need = |states: &[u8]| message_need(&detail.envelope, envelope.len() + states.len());
        let mut encoded = postcard::to_stdvec(&states).unwrap_or_default();
        if !self.empty_berth().takes(need(&encoded)) {
            // Thousands of long diagnostics: their words are given up, the states never.
            states.iter_mut().for_each(|(_, record)| record.last = None);
            states = pack_again(states);
            encoded = postcard::to_stdvec(&states).unwrap_or_default();
        }
        if !self.has_room_to_move(need(&encoded), floor) {
            return false;
        }
        let head = MessageHead {
            message: detail.id.0,
            sequence: detail.sequence.0.into(),
            content_octets: detail.content_octets.into(),
            chunks: chunks.into(),
            envelope_octets: to_u32(envelope.len()).into(),
            states_octets: to_u32(encoded.len()).into(),
            reserved: 0.into(),
            content_sha256: detail.content_sha256,
        };
        let runs = Runs::restored(&detail.envelope, &states);
        let envelope = (&detail.envelope, &*envelope);
        self.filling.as_mut().is_some_and(|batch| {
            let added = batch.add_message(Kind::Moved, &head, envelope, (runs, &encoded), Vec::new()).is_ok();
            batch.moved += u32::from(added);
            added
        })
    }
}

/// Whether a diagnostic that the log had was not found again: every outcome that an index remembers has one.
fn lost_words(living: &Living, states: &[RecipientRecord]) -> bool {
    living.runs.iter().any(|run| {
        matches!(run.last(), Last::Outcome(_))
            && states.get(run.first as usize).is_some_and(|record| record.last.is_none())
    })
}

/// Equal neighbours as one.
fn pack(states: &[RecipientRecord]) -> Vec<(RecipientRange, RecipientRecord)> {
    let ranges =
        (0..).zip(states).map(|(first, record)| (RecipientRange { first, count: 1 }, record.clone()));
    pack_again(ranges.collect())
}

fn pack_again(states: Vec<(RecipientRange, RecipientRecord)>) -> Vec<(RecipientRange, RecipientRecord)> {
    let mut packed: Vec<(RecipientRange, RecipientRecord)> = Vec::new();
    for (range, record) in states {
        match packed.last_mut() {
            Some((last, same)) if *same == record && last.end() == range.first => last.count += range.count,
            _ => packed.push((range, record)),
        }
    }
    packed
}
