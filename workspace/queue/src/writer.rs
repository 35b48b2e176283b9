//! Writing: when a batch starts, and what follows from its end. What goes into it is in `filling`.
//!
//! One batch is written while the next one is filled, which takes what comes at once as long as it has room. When the write has
//! ended, the next one starts first, and only then is told what the ended one has changed: the disk does not wait for that. A
//! batch that fails takes those along that were to follow, because they may build upon it.

use sternpost_message::UnixMillis;

use crate::append::{AppendError, Lane};
use crate::batch::{Batch, Need, Seal, SealedBatch, StagedSet};
use crate::event::{Alarm, LogEvent};
use crate::format::{Follows, PAGE};
use crate::pace::Share;
use crate::reader::Shelf;
use crate::recent::RecentBatches;
use crate::recovery::Head;
use crate::seal::Gathered;
use crate::set::WaitingSet;
use crate::{AlignedBuffer, Disk, DiskError, Log};

/// The batch that is being written.
pub(crate) struct Flight {
    pub(crate) batch: Batch,
    name: Follows,
    start_use: u64,
    octets: u64,
    disk_offset: u64,
    pub(crate) gathered: Gathered,
    /// It opens a segment: the last good batch before it.
    opened_behind: Option<Follows>,
}

impl Flight {
    /// Keeps what was written for those who read it in a moment. Nobody reads soon what was only moved.
    fn remember(&self, octets: &[u8], recent: &mut RecentBatches) {
        if !self.batch.sets.is_empty() {
            let berth = self.batch.berth;
            let skipped = if berth.opens { PAGE as usize } else { 0 };
            recent.add(berth.segment, berth.offset, &octets[skipped..]);
        }
    }
}

/// The part of an index that is being written.
pub(crate) struct Part {
    segment: u32,
    disk_offset: u64,
    octets: u64,
}

/// How often abandoned content is looked for.
const SWEEP_INTERVAL_MS: u64 = 1000;

impl<D: Disk> Log<D> {
    /// Takes the end of a write, if it has come, and tells what follows from it; fills and starts the next batch.
    ///
    /// Before survivors are read for the next one it returns, so that nobody waits for that who waits for the ended one:
    /// `goes_on`.
    pub fn drive(&mut self, now: UnixMillis) {
        self.goes_on_at = None;
        self.shelf.unread.turn(now);
        self.moves_rest_until = self.moves_rest_until.filter(|until| now < *until);
        if self.is_writing() {
            let Some((buffer, result)) = self.shelf.disk.finish_write() else {
                self.stage(now);
                return;
            };
            match self.part.take() {
                Some(part) => {
                    self.finish_part(&part, result);
                    self.buffers.push(buffer);
                }
                None => {
                    let result = result.and_then(|()| self.read_back(&buffer));
                    self.finish(now, buffer, result);
                    if self.owes_moves() && !self.events.is_empty() {
                        self.goes_on_at = Some(now);
                        return;
                    }
                }
            }
        }
        self.sweep(now);
        if self.flight.is_some() {
            self.stage(now);
        } else {
            self.begin(now);
        }
    }

    /// Whether survivors go into the next batch, which takes its time.
    fn owes_moves(&self) -> bool {
        self.flight.is_none() && self.probe_at.is_none() && self.moves.is_some() && !self.hurries()
    }

    /// Looks whether the first write of a segment stands where it should. Recovery finds all others by that one; if a device
    /// has lost it or put it elsewhere, nothing may be built upon it.
    fn read_back(&mut self, buffer: &AlignedBuffer) -> Result<(), DiskError> {
        let Some(flight) = self.flight.as_ref().filter(|flight| flight.batch.berth.opens) else {
            return Ok(());
        };
        let mut pages = [0; 2 * PAGE as usize];
        self.shelf.disk.read(flight.disk_offset, &mut pages)?;
        if buffer.as_slice().starts_with(&pages) {
            return Ok(());
        }
        let reason = "what was written is not there".to_owned();
        Err(DiskError::Device { action: "write", offset: flight.disk_offset, reason })
    }

    /// Starts the next batch if there is reason for one.
    fn begin(&mut self, now: UnixMillis) {
        if let Some(probe_at) = self.probe_at {
            if probe_at <= now && self.plan(Need::default()) {
                self.start(now);
            }
            return;
        }
        self.make_way();
        self.stage(now);
        let sets_are_due = self.sets_are_due(now);
        let hurries = self.hurries();
        // Parts of an index and batches take turns: neither waits for more than one of the other.
        if !hurries && self.part_is_next(sets_are_due) && self.start_part() {
            return;
        }
        let moved = !hurries && self.stage_moves();
        if sets_are_due || moved || (self.start_waits() && self.plan(Need::default())) {
            self.start(now);
        } else {
            self.refuse_what_has_no_room();
        }
    }

    /// Whether the next batch may go without survivors and before a part of an index, if something urgent is in it: not twice in
    /// a row, so that these come to their end, and not while moves are so late that mail would be refused soon.
    pub(crate) fn may_hurry(&self) -> bool {
        !self.has_hurried && self.moves.is_none_or(Share::can_wait_for_one_batch)
    }

    /// Whether the next batch does.
    pub(crate) fn hurries(&self) -> bool {
        self.express.is_some()
            || (self.may_hurry() && self.filling.as_ref().is_some_and(|batch| batch.is_urgent))
    }

    /// Whether something in the next batch waits for no other.
    fn sets_are_due(&self, now: UnixMillis) -> bool {
        let delay_ms_max = self.parameters.outcome_delay_ms_max;
        let is_due = |set: &StagedSet| set.lazy_since.is_none_or(|since| since.plus_ms(delay_ms_max) <= now);
        self.express.is_some()
            || self.filling.as_ref().is_some_and(|batch| {
                batch.sets.iter().any(is_due) || batch.room() < self.batch_octets_max / 2
            })
    }

    /// Whether the next batch can go as it is. Moves need to know what the one before has changed.
    fn can_go_on(&self, now: UnixMillis) -> bool {
        let sets_are_due = self.sets_are_due(now);
        let is_alone = || self.moves.is_none() && !self.part_is_next(sets_are_due);
        sets_are_due && self.probe_at.is_none() && (self.express.is_some() || is_alone())
    }

    /// The start passes what is dead, and survivors move if they should.
    fn make_way(&mut self) {
        self.advance_start();
        self.moves = self.share_of_moves();
    }

    fn part_is_next(&self, sets_are_due: bool) -> bool {
        self.seals.waits() && (!sets_are_due || !self.part_was_last)
    }

    /// Starts the write of a part of an index. False when there is none.
    fn start_part(&mut self) -> bool {
        let Some(buffer) = self.buffers.pop() else { return false };
        let Shelf { geometry, secret, .. } = self.shelf;
        let space = &self.space;
        let lives = |segment, use_number| space.lives(segment, use_number);
        let (segment, offset, buffer) =
            match self.seals.next_part(&self.index, geometry, &secret, lives, buffer) {
                Ok(part) => part,
                Err(buffer) => {
                    self.buffers.push(buffer);
                    return false;
                }
            };
        let disk_offset = geometry.offset_of(segment, offset);
        let part = Part { segment, disk_offset, octets: buffer.len() as u64 };
        self.part_was_last = true;
        match self.shelf.disk.start_write(disk_offset, buffer) {
            Ok(()) => self.part = Some(part),
            Err(error) => self.finish_part(&part, Err(error)),
        }
        true
    }

    /// An index that was not written is missed by nobody but the next recovery, which reads the segment instead.
    fn finish_part(&mut self, part: &Part, result: Result<(), DiskError>) {
        match result {
            Ok(()) => self.counts.written_octets += part.octets,
            Err(error) => {
                self.counts.write_errors += 1;
                self.seals.part_failed(part.segment);
                let (segment, offset, reason) = (part.segment, part.disk_offset, words_of(&error));
                self.events.push_back(LogEvent::Alarm(Alarm::IndexFailed { segment, offset, reason }));
            }
        }
    }

    pub(crate) fn refuse(&mut self, ticket: Option<u64>, error: AppendError) {
        if let Some(ticket) = ticket {
            self.events.push_back(LogEvent::Refused { ticket, error });
        }
    }

    /// Starts the write of the batch that is being filled.
    fn start(&mut self, now: UnixMillis) {
        if let Err(error) = self.start_write(now) {
            self.not_started(&error, now);
        }
    }

    /// The same. An error leaves a flight that nobody will end.
    fn start_write(&mut self, now: UnixMillis) -> Result<(), DiskError> {
        self.has_hurried = self.hurries();
        let express = self.express.take();
        let is_express = express.is_some();
        let Some(mut batch) = express.or_else(|| self.filling.take()) else { return Ok(()) };
        self.part_was_last = false;
        let berth = batch.berth;
        if berth.opens {
            self.space.open(berth.segment, berth.use_number);
            self.shelf.uses[berth.segment as usize] = berth.use_number;
            self.shelf.forget_segment(berth.segment);
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
        let SealedBatch { buffer, name, offset, end, gathered } = batch.seal(&self.shelf.secret, &seal);
        self.head = Some(Head { segment: berth.segment, use_number: berth.use_number, offset: end });
        let disk_offset = self.shelf.geometry.offset_of(berth.segment, offset);
        let octets = buffer.len() as u64;
        let opened_behind = berth.opens.then_some(self.last);
        if is_express {
            let fits = self.move_filling(end, gathered.entries.len());
            debug_assert!(fits, "the express takes no more than its strip");
        }
        self.flight = Some(Flight { batch, name, start_use, octets, disk_offset, gathered, opened_behind });
        self.shelf.disk.start_write(disk_offset, buffer)
    }

    /// Draws the conclusions from the end of a write, and starts the next one if it is ready.
    fn finish(&mut self, now: UnixMillis, buffer: AlignedBuffer, result: Result<(), DiskError>) {
        let Some(flight) = self.flight.take() else { return };
        if let Err(error) = result {
            self.buffers.push(buffer);
            return self.give_up(flight, &error, now);
        }
        self.go_behind(&flight);
        let started = if self.can_go_on(now) { self.start_write(now) } else { Ok(()) };
        flight.remember(buffer.as_slice(), &mut self.shelf.recent);
        self.buffers.push(buffer);
        self.publish(flight, now);
        if let Err(error) = started {
            self.not_started(&error, now);
        } else if self.flight.is_some() {
            self.make_way();
        }
    }

    /// The batch is durable: the next one follows it.
    fn go_behind(&mut self, flight: &Flight) {
        self.last = flight.name;
        self.space.fill(flight.gathered.segment, flight.gathered.end);
        self.space.release(flight.start_use);
        self.counts.batches += 1;
        self.counts.written_octets += flight.octets;
        self.counts.moved_records += u64::from(flight.batch.moved);
        self.failures_in_row = 0;
        if self.probe_at.take().is_some() {
            self.events.push_back(LogEvent::Alarm(Alarm::Reopened));
        }
    }

    /// Tells what a durable batch has changed.
    fn publish(&mut self, flight: Flight, now: UnixMillis) {
        let Flight { batch, gathered, opened_behind, .. } = flight;
        self.seals.batch(gathered, opened_behind);
        for effect in batch.effects {
            self.index.apply(effect, now, &mut Some(&mut self.events));
        }
        for ticket in batch.sets.iter().filter_map(|set| set.ticket) {
            self.events.push_back(LogEvent::Committed { ticket });
        }
        if self.full && self.has_room_for(Need { octets: self.batch_octets_max / 4, entry_octets: 0 }) {
            self.full = false;
            self.events.push_back(LogEvent::Alarm(Alarm::Resumed));
        }
    }

    fn not_started(&mut self, error: &DiskError, now: UnixMillis) {
        if let Some(flight) = self.flight.take() {
            self.give_up(flight, error, now);
        }
    }

    /// The write of a batch failed: final for its sets, and no batch goes into its segment any more. Its index, which ends at the last
    /// good batch, still may.
    fn give_up(&mut self, flight: Flight, error: &DiskError, now: UnixMillis) {
        let berth = flight.batch.berth;
        self.head = None;
        self.space.fill(berth.segment, self.shelf.geometry.segment_octets);
        if berth.opens {
            self.space.abandon(berth.segment);
        }
        self.counts.write_errors += 1;
        self.failures_in_row += 1;
        let (segment, offset, reason) = (berth.segment, flight.disk_offset, words_of(error));
        self.events.push_back(LogEvent::Alarm(Alarm::WriteFailed { segment, offset, reason }));
        let (_, mut sets) = flight.batch.into_parts();
        // What was put into the next ones meanwhile may build upon this one.
        for batch in self.express.take().into_iter().chain(self.filling.take()) {
            let (buffer, more) = batch.into_parts();
            self.buffers.push(buffer);
            sets.extend(more);
        }
        for set in sets {
            self.refuse(set.ticket, AppendError::Disk(error.clone()));
        }
        if self.failures_in_row >= 2 {
            if self.probe_at.is_none() {
                self.events.push_back(LogEvent::Alarm(Alarm::Closed));
            }
            self.probe_at = Some(now.plus_ms(self.parameters.probe_interval_ms));
            for set in self.lanes.take_all(|_| true) {
                self.refuse(set.ticket, AppendError::Closed);
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
        let is_late = |(id, at): &(_, _)| over(*at) && !self.kept_partials.contains(id);
        let late: Vec<_> = self.index.partial_changes().filter(is_late).map(|(id, _)| id).collect();
        for message in late {
            let records = vec![crate::Append::DiscardPartial { message }];
            let set = crate::AppendSet { records };
            if let Ok(set) = WaitingSet::new(set, Lane::Outcome, None, now, &self.empty_berth()) {
                self.lanes.push_back(set);
            }
        }
    }

    /// Whether mail of `need` may come in now.
    pub(crate) fn has_room_for(&self, need: Need) -> bool {
        let total = u128::from(self.shelf.geometry.octets());
        let share_max = u128::from(self.parameters.accept_share_max_percent.clamp(1, 90));
        let living = u128::from(self.index.living_octets() + self.lanes.octets()) + need.octets as u128;
        let opens = self.berth(need).is_none_or(|berth| berth.opens);
        living * 100 <= total * share_max && self.space.will_permit(opens)
    }

    /// Mail that waits while there is neither room nor hope of it gets its answer.
    fn refuse_what_has_no_room(&mut self) {
        if !self.lanes.mail_waits() || self.start_waits() || self.moves.is_some() {
            return;
        }
        for set in self.lanes.take_all(|set| set.accepts) {
            self.refuse(set.ticket, AppendError::Full);
        }
        self.tell_full();
    }
}

/// What the driver said of a write, without where: that is said beside it.
fn words_of(error: &DiskError) -> String {
    match error {
        DiskError::Device { action: "write", reason, .. } => reason.clone(),
        other => other.to_string(),
    }
}
