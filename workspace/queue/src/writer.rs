//! Writing: which sets go into the next batch, when it starts, and what follows from its end.
//!
//! One batch is written while the next one is filled. A batch that fails takes the half-filled one apart again, because
//! that one may build upon it.

use std::sync::Arc;

use sternpost_message::{MessageId, MessageSequence, UnixMillis};

use crate::append::{AppendError, Lane};
use crate::batch::{Batch, Berth, Seal};
use crate::event::{Alarm, LogEvent};
use crate::format::{Follows, HEADER_OCTETS, MessageHead, PAGE, PAGE_OCTETS};
use crate::index::{Effect, MessageEffect, content_octets};
use crate::recovery::Head;
use crate::set::{WaitingRecord, WaitingSet};
use crate::{AlignedBuffer, Disk, DiskError, Log};

/// The batch that is being written.
pub(crate) struct Flight {
    pub(crate) batch: Batch,
    name: Follows,
    start_use: u64,
    octets: u64,
    disk_offset: u64,
}

/// How often abandoned content is looked for.
const SWEEP_INTERVAL_MS: u64 = 1000;

impl<D: Disk> Log<D> {
    /// Takes the end of a write, if it has come, and tells what follows from it; fills and starts the next batch.
    pub fn drive(&mut self, now: UnixMillis) {
        self.shelf.unread.turn(now);
        self.moves_rest_until = self.moves_rest_until.filter(|until| now < *until);
        if self.flight.is_some() {
            let Some((buffer, result)) = self.shelf.disk.finish_write() else {
                self.stage(now);
                return;
            };
            self.buffers.push(buffer);
            self.finish(now, result);
        }
        self.sweep(now);
        self.begin(now);
    }

    /// Starts the next batch if there is reason for one.
    fn begin(&mut self, now: UnixMillis) {
        if let Some(probe_at) = self.probe_at {
            if probe_at <= now && self.plan(0) {
                self.start(now);
            }
            return;
        }
        self.advance_start();
        self.stage(now);
        let delay_ms_max = self.parameters.outcome_delay_ms_max;
        let is_due = |set: &WaitingSet| !set.lazy || set.came_at.plus_ms(delay_ms_max) <= now;
        let sets_are_due = self
            .filling
            .as_ref()
            .is_some_and(|batch| batch.sets.iter().any(is_due) || batch.room() < self.batch_octets_max / 2);
        let moved = self.stage_moves();
        if sets_are_due || moved || (self.start_waits() && self.plan(0)) {
            self.start(now);
        } else {
            self.refuse_what_has_no_room();
        }
    }

    /// Makes sure that a batch with room for `octets` is being filled; a batch that holds something is left as it is.
    /// False when no segment is free.
    pub(crate) fn plan(&mut self, octets: usize) -> bool {
        match self.filling.take() {
            Some(batch) if batch.is_empty() => self.buffers.push(batch.into_parts().0),
            Some(batch) => {
                let fits = batch.room() >= octets;
                self.filling = Some(batch);
                return fits;
            }
            None => {}
        }
        let Some(berth) = self.berth(octets) else { return false };
        let buffer =
            self.buffers.pop().unwrap_or_else(|| AlignedBuffer::with_capacity(self.batch_octets_max));
        self.filling = Some(Batch::new(buffer, berth, &self.shelf.secret));
        true
    }

    fn berth(&self, octets: usize) -> Option<Berth> {
        let segment_octets = self.shelf.geometry.segment_octets as usize;
        if let Some(head) = self.head {
            let octets_max = self.batch_octets_max.min(segment_octets - head.offset as usize);
            if octets_max >= HEADER_OCTETS + octets {
                let Head { segment, use_number, offset } = head;
                return Some(Berth { segment, use_number, offset, opens: false, octets_max });
            }
        }
        let segment = self.space.next_free()?;
        let octets_max = self.batch_octets_max.min(segment_octets);
        Some(Berth { segment, use_number: self.next_use, offset: PAGE, opens: true, octets_max })
    }

    /// Fills the next batch with what waits, lane by lane.
    fn stage(&mut self, now: UnixMillis) {
        if self.probe_at.is_some() {
            return;
        }
        // Room is kept for what is urgent and comes while the present batch is written, and for moves.
        let keeps_room = self.flight.is_some() || self.reclaim_is_wanted();
        for lane in Lane::ALL {
            let kept = if keeps_room && lane > Lane::Urgent { self.batch_octets_max / 4 } else { 0 };
            while let Some(set) = self.lanes.front(lane) {
                let (octets, accepts) = (set.octets, set.accepts);
                if !self.may_take(accepts, octets, kept) || self.conclusion_is_open(set) || !self.plan(octets)
                {
                    break;
                }
                let Some(set) = self.lanes.pop_front(lane) else { break };
                self.stage_set(set, now);
            }
        }
    }

    /// Whether the next batch may take a set, by what must be kept free in it and by the segments in reserve. Asked before
    /// a batch is begun: a segment that may not be used must not be opened either.
    fn may_take(&self, accepts: bool, octets: usize, kept: usize) -> bool {
        match self.filling.as_ref().filter(|batch| !batch.is_empty()) {
            Some(batch) => {
                let room_is_kept = batch.sets.is_empty() || batch.room() >= octets + kept;
                room_is_kept && self.space.permits(accepts, batch.berth.opens)
            }
            None => self.berth(octets).is_some_and(|berth| self.space.permits(accepts, berth.opens)),
        }
    }

    /// Puts one set into the batch, or refuses it.
    fn stage_set(&mut self, set: WaitingSet, now: UnixMillis) {
        let Some(mut batch) = self.filling.take() else { return };
        match self.check_set(&batch, &set) {
            Ok(chunk_counts) => {
                self.add_set(&mut batch, &set, &chunk_counts, now);
                batch.set_octets += set.octets;
                batch.sets.push(set);
            }
            Err(error) => self.refuse(&set, error),
        }
        self.filling = Some(batch);
    }

    fn refuse(&mut self, set: &WaitingSet, error: AppendError) {
        if let Some(ticket) = set.ticket {
            self.events.push_back(LogEvent::Refused { ticket, error });
        }
    }

    pub(crate) fn is_accepted(&self, batch: Option<&Batch>, id: MessageId) -> bool {
        let flight = self.flight.as_ref().map(|flight| &flight.batch);
        self.index.knows(id) || flight.into_iter().chain(batch).any(|staged| staged.accepted.contains(&id))
    }

    /// Chunks of `id` that are durable, or will be no later than `batch`: index and octets.
    fn known_chunks(&self, batch: &Batch, id: MessageId) -> Vec<(u32, u32)> {
        let flight = self.flight.as_ref().map(|flight| &flight.batch);
        if batch.discarded.contains(&id) {
            return batch.chunks.get(&id).cloned().unwrap_or_default();
        }
        let mut chunks: Vec<(u32, u32)> = Vec::new();
        if !flight.is_some_and(|flight| flight.discarded.contains(&id))
            && let Some(partial) = self.index.partial(id)
        {
            let octets = |place| u32::try_from(content_octets(place)).unwrap_or(u32::MAX);
            chunks.extend(partial.chunks.iter().map(|(index, place)| (*index, octets(*place))));
        }
        for staged in flight.into_iter().chain([batch]) {
            chunks.extend(staged.chunks.get(&id).into_iter().flatten());
        }
        chunks
    }

    fn knows_chunk(&self, batch: &Batch, id: MessageId, index: u32) -> bool {
        let staged_in = |batch: &Batch| {
            batch.chunks.get(&id).is_some_and(|chunks| chunks.iter().any(|(known, _)| *known == index))
        };
        if staged_in(batch) || batch.discarded.contains(&id) {
            return staged_in(batch);
        }
        let flight = self.flight.as_ref().map(|flight| &flight.batch);
        if flight.is_some_and(|flight| staged_in(flight) || flight.discarded.contains(&id)) {
            return flight.is_some_and(staged_in);
        }
        self.index.partial(id).is_some_and(|partial| partial.chunks.contains_key(&index))
    }

    /// Checks what only the state of the log can tell; gives the number of chunks of each envelope in the set.
    fn check_set(&self, batch: &Batch, set: &WaitingSet) -> Result<Vec<u32>, AppendError> {
        let mut own: Vec<(MessageId, u32, u32)> = Vec::new();
        let mut counts = Vec::new();
        for record in &set.records {
            match record {
                WaitingRecord::Content { message, index, octets } => {
                    own.push((*message, *index, crate::batch::to_u32(octets.len())));
                }
                WaitingRecord::Envelope(new) if self.is_accepted(Some(batch), new.message) => counts.push(0),
                WaitingRecord::Envelope(new) => {
                    let mut chunks = self.known_chunks(batch, new.message);
                    let mine = own.iter().filter(|(id, ..)| *id == new.message);
                    chunks.extend(mine.map(|(_, index, octets)| (*index, *octets)));
                    chunks.sort_unstable();
                    chunks.dedup_by_key(|(index, _)| *index);
                    let is_whole = (0..).zip(&chunks).all(|(expected, (index, _))| expected == *index);
                    let octets: u64 = chunks.iter().map(|(_, octets)| u64::from(*octets)).sum();
                    if !is_whole || octets != new.content_octets {
                        return Err(AppendError::Invalid("a part of the content is unknown"));
                    }
                    counts.push(crate::batch::to_u32(chunks.len()));
                }
                WaitingRecord::Outcome { message, .. } if message.0 >= self.next_message => {
                    return Err(AppendError::Invalid("no message has this sequence yet"));
                }
                WaitingRecord::Outcome { .. } | WaitingRecord::Discard { .. } => {}
            }
        }
        if self.was_concluded(Some(batch), set) {
            return Err(AppendError::Invalid(
                "its outcomes change no recipient: what follows from them is known",
            ));
        }
        Ok(counts)
    }

    fn add_set(&mut self, batch: &mut Batch, set: &WaitingSet, chunk_counts: &[u32], now: UnixMillis) {
        const FITS: &str = "the set was measured before it was taken";
        let mut chunk_counts = chunk_counts.iter();
        for record in &set.records {
            match record {
                WaitingRecord::Content { message, index, octets } => {
                    let is_there =
                        self.is_accepted(Some(batch), *message) || self.knows_chunk(batch, *message, *index);
                    if !is_there {
                        batch.add_content(*message, *index, 0, octets).expect(FITS);
                        let length = crate::batch::to_u32(octets.len());
                        batch.chunks.entry(*message).or_default().push((*index, length));
                    }
                }
                WaitingRecord::Envelope(new) => {
                    let chunks = chunk_counts.next().copied().unwrap_or_default();
                    if self.is_accepted(Some(batch), new.message) {
                        continue;
                    }
                    let sequence = MessageSequence(self.next_message);
                    self.next_message += 1;
                    let head = MessageHead {
                        message: new.message.0,
                        sequence: sequence.0.into(),
                        content_octets: new.content_octets.into(),
                        chunks: chunks.into(),
                        envelope_octets: crate::batch::to_u32(new.encoded.len()).into(),
                        states_octets: 0.into(),
                        reserved: 0.into(),
                        content_sha256: new.content_sha256,
                    };
                    let place = batch.add_envelope(&head, &new.encoded).expect(FITS);
                    batch.accepted.insert(new.message);
                    batch.chunks.remove(&new.message);
                    batch.effects.push(Effect::Message(Box::new(MessageEffect {
                        message: new.message,
                        sequence,
                        envelope: Arc::clone(&new.envelope),
                        content_octets: new.content_octets,
                        chunks,
                        place,
                        states: None,
                    })));
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

    /// Starts the write of the batch that is being filled.
    fn start(&mut self, now: UnixMillis) {
        let Some(mut batch) = self.filling.take() else { return };
        let berth = batch.berth;
        if berth.opens {
            self.space.open(berth.segment, berth.use_number);
            self.shelf.uses[berth.segment as usize] = berth.use_number;
            self.shelf.forget_segment(berth.segment);
            self.index.segments[berth.segment as usize].residents.clear();
            self.next_use += 1;
        }
        let start_use = self.space.start_use(self.next_use);
        let seal = Seal {
            sequence: self.next_sequence,
            follows: self.last,
            start_use,
            next_message: self.next_message,
            now,
        };
        self.next_sequence += 1;
        let (buffer, name, offset, end) = batch.seal(&self.shelf.secret, &seal);
        self.head = Some(Head { segment: berth.segment, use_number: berth.use_number, offset: end });
        let disk_offset = self.shelf.geometry.offset_of(berth.segment, offset);
        let octets = buffer.len() as u64;
        self.flight = Some(Flight { batch, name, start_use, octets, disk_offset });
        if let Err(error) = self.shelf.disk.start_write(disk_offset, buffer) {
            self.finish(now, Err(error));
        }
    }

    /// Draws the conclusions from the end of a write.
    fn finish(&mut self, now: UnixMillis, result: Result<(), DiskError>) {
        let Some(flight) = self.flight.take() else { return };
        match result {
            Ok(()) => self.publish(flight, now),
            Err(error) => self.give_up(flight, &error, now),
        }
    }

    fn publish(&mut self, flight: Flight, now: UnixMillis) {
        let Flight { batch, name, start_use, octets, .. } = flight;
        self.last = name;
        self.space.release(start_use);
        self.counts.batches += 1;
        self.counts.written_octets += octets;
        self.counts.moved_records += u64::from(batch.moved);
        self.failures_in_row = 0;
        if self.probe_at.take().is_some() {
            self.events.push_back(LogEvent::Alarm(Alarm::Reopened));
        }
        for set in &batch.sets {
            self.remember(set);
        }
        for effect in batch.effects {
            let speaks_of = match &effect {
                Effect::Outcome { sequence, .. } => {
                    self.index.get(*sequence).map(|living| (*sequence, living.id))
                }
                _ => None,
            };
            self.index.apply(effect, now, &mut Some(&mut self.events));
            if let Some((sequence, id)) = speaks_of
                && self.index.get(sequence).is_none()
            {
                self.shelf.recent.forget(id);
            }
        }
        for ticket in batch.sets.iter().filter_map(|set| set.ticket) {
            self.events.push_back(LogEvent::Committed { ticket });
        }
        if self.full && self.has_room_for(self.batch_octets_max / 4) {
            self.full = false;
            self.events.push_back(LogEvent::Alarm(Alarm::Resumed));
        }
    }

    /// Keeps what was written for those who read it in a moment.
    fn remember(&mut self, set: &WaitingSet) {
        for record in &set.records {
            match record {
                WaitingRecord::Content { message, index, octets } if !self.index.knows(*message) => {
                    self.shelf.recent.add_chunk(*message, *index, Arc::clone(octets));
                }
                WaitingRecord::Envelope(new) if !self.index.knows(new.message) => {
                    self.shelf.recent.add_envelope(
                        new.message,
                        Arc::clone(&new.envelope),
                        new.content_sha256,
                    );
                }
                WaitingRecord::Discard { message } => self.shelf.recent.forget(*message),
                _ => {}
            }
        }
    }

    /// A write failed: final for its segment and for its sets.
    fn give_up(&mut self, flight: Flight, error: &DiskError, now: UnixMillis) {
        let berth = flight.batch.berth;
        self.head = None;
        if berth.opens {
            self.space.abandon(berth.segment);
        }
        self.counts.write_errors += 1;
        self.failures_in_row += 1;
        let reason = error.to_string();
        let alarm = Alarm::WriteFailed { segment: berth.segment, offset: flight.disk_offset, reason };
        self.events.push_back(LogEvent::Alarm(alarm));
        let (_, sets) = flight.batch.into_parts();
        for set in sets {
            self.refuse(&set, AppendError::Disk(error.clone()));
        }
        if let Some(batch) = self.filling.take() {
            let (buffer, sets) = batch.into_parts();
            self.buffers.push(buffer);
            for set in sets.into_iter().rev() {
                self.lanes.push_front(set);
            }
        }
        if self.failures_in_row >= 2 {
            if self.probe_at.is_none() {
                self.events.push_back(LogEvent::Alarm(Alarm::Closed));
            }
            self.probe_at = Some(now.plus_ms(self.parameters.probe_interval_ms));
            for set in self.lanes.take_all(|_| true) {
                self.refuse(&set, AppendError::Closed);
            }
        }
    }

    /// Ends partial messages that nobody goes on with.
    fn sweep(&mut self, now: UnixMillis) {
        if now < self.sweep_at || self.index.partials_count() == 0 || self.probe_at.is_some() {
            return;
        }
        self.sweep_at = now.plus_ms(SWEEP_INTERVAL_MS);
        let timeout_ms = self.parameters.partial_timeout_ms;
        let over = |changed_at: UnixMillis| now.since_ms(changed_at) >= timeout_ms;
        let late: Vec<_> =
            self.index.partial_changes().filter(|(_, at)| over(*at)).map(|(id, _)| id).collect();
        for message in late {
            let records = vec![crate::Append::DiscardPartial { message }];
            let set = crate::AppendSet { records };
            if let Ok(set) = WaitingSet::new(set, Lane::Outcome, None, now, self.set_octets_max()) {
                self.lanes.push_back(set);
            }
        }
    }

    /// Whether mail of `octets` may come in now.
    pub(crate) fn has_room_for(&self, octets: usize) -> bool {
        let total = u128::from(self.shelf.geometry.segment_octets) * u128::from(self.shelf.geometry.segments);
        let share_max = u128::from(self.parameters.accept_share_max_percent.clamp(1, 90));
        let living = u128::from(self.index.living_octets() + self.lanes.octets()) + octets as u128;
        let segment_octets = self.shelf.geometry.segment_octets as usize;
        let head_room = self.head.map_or(0, |head| segment_octets - head.offset as usize);
        let opens = head_room < octets + HEADER_OCTETS + PAGE_OCTETS;
        living * 100 <= total * share_max && self.space.will_permit(opens)
    }

    /// Mail that waits while there is neither room nor hope of it gets its answer.
    fn refuse_what_has_no_room(&mut self) {
        if !self.lanes.mail_waits() || self.start_waits() || self.reclaim_is_wanted() {
            return;
        }
        for set in self.lanes.take_all(|set| set.accepts) {
            self.refuse(&set, AppendError::Full);
        }
        self.tell_full();
    }
}
