//! The log in use: what its owner calls. Writing is in `writer`, making room in `reclaim`.

use std::collections::VecDeque;

use sternpost_message::{MessageId, MessageSequence, UnixMillis};

use crate::append::{AppendError, AppendSet, Lane, Parameters};
use crate::batch::{Batch, Need};
use crate::by_message::MessageIds;
use crate::entry::CONTENT_ENTRY_OCTETS_MAX;
use crate::event::{Alarm, LogEvent, LogStatus, MessageDetail, MessageFacts, PartialFacts, ReadError};
use crate::format::{
    Follows, Geometry, HEADER_OCTETS, PAGE_OCTETS, SEGMENT_OCTETS_MIN, SUPERBLOCK_B_OFFSET, Superblock,
};
use crate::index::{Index, Resident};
use crate::lanes::Lanes;
use crate::pace::Share;
use crate::reader::Shelf;
use crate::reclaim::Space;
use crate::recovery::{Head, OpenError, Reading, Recovered, RecoveryReport, recover};
use crate::seal::Seals;
use crate::set::WaitingSet;
use crate::source::Source;
use crate::writer::{Flight, Part};
use crate::{AlignedBuffer, Disk, DiskError, Progress, stand_in};

/// Why no log was made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CreateError {
    /// Out of bounds, or larger than the disk.
    #[error("the geometry ({0:?}) is out of bounds or does not fit a disk of {1} octets")]
    Geometry(Geometry, u64),
    /// The disk did not write.
    #[error("the log cannot be written")]
    Disk(#[from] DiskError),
}

/// One log with one writer.
///
/// Call `append` at will, `drive` after appends, when the disk has finished a write and at `wake_at`; then drain `poll`, and
/// begin again if it `goes_on`.
pub struct Log<D: Disk> {
    pub(crate) shelf: Shelf<D>,
    pub(crate) index: Index,
    pub(crate) parameters: Parameters,
    /// Octets of the largest batch, with the header page of a segment that it opens.
    pub(crate) batch_octets_max: usize,
    pub(crate) lanes: Lanes,
    pub(crate) space: Space,
    pub(crate) head: Option<Head>,
    pub(crate) last: Follows,
    pub(crate) next_use: u64,
    pub(crate) next_sequence: u64,
    pub(crate) next_message: u64,
    pub(crate) filling: Option<Batch>,
    /// What goes before that one.
    pub(crate) express: Option<Batch>,
    pub(crate) flight: Option<Flight>,
    /// The indexes of segments, and the part of one that is being written.
    pub(crate) seals: Seals,
    pub(crate) part: Option<Part>,
    pub(crate) part_was_last: bool,
    /// The batch before was urgent: it went before a part of an index, and without survivors.
    pub(crate) has_hurried: bool,
    /// Since when the next batch waits until the owner has answered for the last one.
    pub(crate) goes_on_at: Option<UnixMillis>,
    /// Who has still to be moved out of the oldest segment: its use, and whoever has a record in it.
    pub(crate) residents: Option<(u64, VecDeque<Resident>)>,
    pub(crate) buffers: Vec<AlignedBuffer>,
    pub(crate) events: VecDeque<LogEvent>,
    pub(crate) failures_in_row: u32,
    /// Set while the log is closed.
    pub(crate) probe_at: Option<UnixMillis>,
    /// The share that moves have of the next batch, if survivors should move.
    pub(crate) moves: Option<Share>,
    /// When reclaim goes on, if it could move nothing because the disk did not read it.
    pub(crate) moves_rest_until: Option<UnixMillis>,
    pub(crate) full: bool,
    pub(crate) sweep_at: UnixMillis,
    /// Partial messages that are not swept, for an envelope that was found damaged may have been that of one of them.
    pub(crate) kept_partials: MessageIds,
    pub(crate) counts: Counts,
}

/// What may wait for the disk, of messages of any kind, before those who send them are held back: ten thousand sessions with a
/// message of 4 KiB each are 40 MiB. The share of the log that mail may take is no bound for memory: of 64 GiB it is 45.
const WAITING_OCTETS_SATURATED: u64 = 64 << 20;

/// The smallest batch that can be asked for: no segment is smaller.
const BATCH_OCTETS_MIN: usize = SEGMENT_OCTETS_MIN as usize;
/// The largest batch that can be asked for: 10 ms of a device that writes 1.6 GB/s.
pub(crate) const BATCH_OCTETS_MAX: usize = 16 << 20;
const _: () = assert!(BATCH_OCTETS_MAX <= crate::place::RECORD_OCTETS_MAX);

/// Message sequences that stay unused for each opening: more than the envelopes of a whole segment.
const SEQUENCES_SKIPPED: u64 = 1 << 20;
/// An opening skips as many times so many as the instant says, modulo 17 minutes: no two skip the same.
const SKIP_INSTANTS: u64 = 1 << 20;

/// The first sequence for new messages. An acknowledged last batch that the device has damaged looks like a torn tail, and the
/// sequences of its messages look free. But a channel may be at work on one of them, and its outcome must not end another.
fn next_message(recovered: &Recovered, now: UnixMillis) -> u64 {
    if recovered.ring.is_empty() {
        return recovered.next_message;
    }
    recovered.next_message.saturating_add((now.0 % SKIP_INSTANTS + 1) * SEQUENCES_SKIPPED)
}

/// Since the log was opened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) batches: u64,
    pub(crate) written_octets: u64,
    pub(crate) moved_records: u64,
    pub(crate) write_errors: u64,
}

impl<D: Disk> Log<D> {
    /// Makes an empty log of a disk and gives the disk back. A log that was there is gone.
    ///
    /// The rest of the disk need not be zero; overwriting it with zeroes, ahead of use, is for speed alone.
    ///
    /// # Errors
    /// `Geometry` before anything was written; `Disk`.
    pub fn create(mut disk: D, geometry: Geometry, secret: [u8; 16]) -> Result<D, CreateError> {
        if !geometry.is_sound() || geometry.octets() > disk.octets() {
            return Err(CreateError::Geometry(geometry, disk.octets()));
        }
        let page = AlignedBuffer::from_octets(&Superblock::new(geometry, secret).encode());
        disk.write_now(SUPERBLOCK_B_OFFSET, &page)?;
        disk.write_now(0, &page)?;
        Ok(disk)
    }

    /// Opens the log on `disk`: finds what lives and where to go on.
    ///
    /// # Errors
    /// `OpenError` when this is no log, or the disk cannot be read. Damage is no error: it is in the report.
    pub fn open(
        disk: D,
        parameters: Parameters,
        now: UnixMillis,
    ) -> Result<(Self, RecoveryReport), OpenError> {
        Self::open_with_progress(disk, parameters, now, &mut |_| {})
    }

    /// The same; `progress` is told of each segment that is done.
    ///
    /// # Errors
    /// As `open`.
    pub fn open_with_progress(
        mut disk: D,
        parameters: Parameters,
        now: UnixMillis,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Self, RecoveryReport), OpenError> {
        let recovered = {
            let mut source = Source::new(&mut disk, parameters.isolates_unreadable);
            recover(&mut source, &parameters, Reading::ByIndex, progress)?
        };
        let superblock = recovered.superblock;
        if let Some(offset) = recovered.lost_superblock {
            let repaired = Superblock { generation: superblock.generation.saturating_add(1), ..superblock };
            disk.write_now(offset, &AlignedBuffer::from_octets(&repaired.encode()))?;
        }
        let next_message = next_message(&recovered, now);
        let geometry = superblock.geometry;
        if let Some(header) = recovered.lost_header {
            let page = AlignedBuffer::from_octets(&header.encode(&superblock.secret));
            // If it fails, the next opening finds the header lost again and knows as much as this one.
            drop(disk.write_now(geometry.offset_of(header.segment, 0), &page));
        }
        let segment_octets = geometry.segment_octets as usize;
        let batch_octets_max =
            parameters.batch_octets_max.clamp(BATCH_OCTETS_MIN, segment_octets.min(BATCH_OCTETS_MAX))
                / PAGE_OCTETS
                * PAGE_OCTETS;
        let mut shelf = Shelf::new(disk, geometry, superblock.secret, &parameters);
        let ring = recovered.ring.iter().map(|(segment, _)| *segment).collect();
        let mut space = Space::new(geometry, ring, &recovered.uses, recovered.start_use);
        for (segment, end) in recovered.ring {
            space.fill(segment, end);
        }
        shelf.uses = recovered.uses;
        let log = Self {
            shelf,
            index: recovered.index,
            parameters,
            batch_octets_max,
            lanes: Lanes::default(),
            space,
            head: recovered.head,
            last: recovered.last,
            next_use: recovered.next_use,
            next_sequence: recovered.next_sequence,
            next_message,
            filling: None,
            express: None,
            flight: None,
            seals: recovered.seals,
            part: None,
            part_was_last: false,
            has_hurried: false,
            goes_on_at: None,
            residents: None,
            buffers: (0..3).map(|_| AlignedBuffer::with_capacity(batch_octets_max)).collect(),
            events: VecDeque::new(),
            failures_in_row: 0,
            probe_at: None,
            moves: None,
            moves_rest_until: None,
            full: false,
            sweep_at: now,
            kept_partials: recovered.kept_partials.into_iter().collect(),
            counts: Counts::default(),
        };
        Ok((log, recovered.report))
    }

    /// Shows the disk the memory that batches are written from, before the first one is.
    pub fn with_buffers(&mut self, show: impl FnOnce(&mut D, &[AlignedBuffer])) {
        show(&mut self.shelf.disk, &self.buffers);
    }

    /// Octets of the largest batch, with the header page of a segment that it opens.
    #[must_use]
    pub const fn batch_octets_max(&self) -> usize {
        self.batch_octets_max
    }

    /// Octets of the largest set: what fits into a batch that opens a segment.
    #[must_use]
    pub(crate) fn set_octets_max(&self) -> usize {
        self.empty_berth().octets_for(CONTENT_ENTRY_OCTETS_MAX) - PAGE_OCTETS - HEADER_OCTETS
    }

    /// Gives a set to the log. `Committed` or `Refused` with its ticket follows, unless an error is returned here.
    ///
    /// # Errors
    /// `Full` for mail, never for outcomes; `Closed` after two failed writes; `Invalid` for what can be seen at once.
    pub fn append(
        &mut self,
        now: UnixMillis,
        lane: Lane,
        set: AppendSet<'_>,
        ticket: u64,
    ) -> Result<(), AppendError> {
        if self.probe_at.is_some() {
            return Err(AppendError::Closed);
        }
        let set = WaitingSet::new(set, lane, Some(ticket), now, &self.empty_berth())?;
        if set.accepts && !self.has_room_for(set.need) {
            self.tell_full();
            return Err(AppendError::Full);
        }
        if set.only_content && !self.has_room_for_partial(set.need.octets as u64) {
            return Err(AppendError::Full);
        }
        if !self.stage_at_once(&set, now) {
            self.lanes.push_back(set.into_owned());
        }
        Ok(())
    }

    /// Whether half of the content without envelope waits that may, or as much of all sets as memory is meant for: the time to
    /// hold back who sends content. It ends by itself.
    #[must_use]
    pub fn content_is_saturated(&self) -> bool {
        self.lanes.content_octets() * 2 >= self.waiting_content_octets_max()
            || self.lanes.octets() >= WAITING_OCTETS_SATURATED
    }

    fn waiting_content_octets_max(&self) -> u64 {
        self.parameters.waiting_content_octets_max.max(self.set_octets_max() as u64)
    }

    /// Whether `octets` of content may come in without their envelope, so that a client that is faster than the disk fills
    /// neither the log nor the memory.
    fn has_room_for_partial(&self, octets: u64) -> bool {
        let waiting = self.lanes.content_octets() + octets;
        let total = u128::from(self.shelf.geometry.octets());
        let partial_max = total * u128::from(self.parameters.partial_share_max_percent) / 100;
        waiting <= self.waiting_content_octets_max()
            && u128::from(self.partial_octets() + octets) <= partial_max
    }

    /// Octets of content without envelope that count in its share of the log: what is durable, what is in the batches under way,
    /// and what waits.
    #[must_use]
    pub fn partial_octets(&self) -> u64 {
        let batches = self.before_filling().chain(&self.filling);
        let under_way: u64 = batches.map(|batch| batch.partial_octets).sum();
        self.index.partial_octets() + under_way + self.lanes.content_octets()
    }

    /// The next event, in log order.
    pub fn poll(&mut self) -> Option<LogEvent> {
        self.events.pop_front()
    }

    /// When `drive` has something to do even if nothing is appended and no write finishes.
    #[must_use]
    pub fn wake_at(&self) -> Option<UnixMillis> {
        // Nothing goes on before the write under way has ended, however long the device takes.
        if self.is_writing() {
            return None;
        }
        if let Some(at) = self.goes_on_at.or(self.probe_at) {
            return Some(at);
        }
        // What is not in the next batch yet waits for room, not for time.
        let staged = self.filling.iter().flat_map(|batch| &batch.sets);
        let lazy = staged
            .filter_map(|set| Some(set.lazy_since?.plus_ms(self.parameters.outcome_delay_ms_max)))
            .min();
        let sweep = (self.index.partials_count() > 0).then_some(self.sweep_at);
        lazy.into_iter().chain(sweep).chain(self.moves_rest_until).min()
    }

    /// Whether `drive` has returned so that its owner answers first, and is to be called again at once.
    #[must_use]
    pub const fn goes_on(&self) -> bool {
        self.goes_on_at.is_some()
    }

    /// Whether a write is under way.
    #[must_use]
    pub const fn is_writing(&self) -> bool {
        self.flight.is_some() || self.part.is_some()
    }

    /// Batches that became durable since the log was opened.
    #[must_use]
    pub const fn batches_count(&self) -> u64 {
        self.counts.batches
    }

    /// The living messages from `sequence` on, ascending. A message of which a part is lost, content or envelope, is not
    /// among them.
    pub fn messages_from(&self, sequence: MessageSequence) -> impl Iterator<Item = MessageFacts> + '_ {
        self.index.facts_from(sequence.0)
    }

    /// The scheduler's view of one living message.
    #[must_use]
    pub fn facts(&self, sequence: MessageSequence) -> Option<MessageFacts> {
        self.index.facts(sequence)
    }

    /// Envelope and recipients of a living message; none when it does not live.
    ///
    /// # Errors
    /// `ReadError` when its records cannot be read back.
    pub fn message(&mut self, sequence: MessageSequence) -> Result<Option<MessageDetail>, ReadError> {
        self.shelf.detail(&self.index, sequence).and_then(stand_in::refuse)
    }

    /// The living message of this id.
    #[must_use]
    pub fn find(&self, id: MessageId) -> Option<MessageSequence> {
        self.index.find(id)
    }

    /// Whether a message of this id lives, or died not long ago.
    #[must_use]
    pub fn knows(&self, id: MessageId) -> bool {
        self.index.knows(id)
    }

    /// Copies content from `offset` on; gives how many octets, fewer than asked only at the end.
    ///
    /// # Errors
    /// `Unknown` when the message does not live; otherwise why its content cannot be read back.
    pub fn read_content(
        &mut self,
        sequence: MessageSequence,
        offset: u64,
        into: &mut [u8],
    ) -> Result<usize, ReadError> {
        self.shelf.content(&self.index, sequence, offset, into)
    }

    /// Messages that have content and no envelope, in no order.
    pub fn partials(&self) -> impl Iterator<Item = PartialFacts> + '_ {
        self.index.partials()
    }

    /// The state of the log in numbers.
    #[must_use]
    pub fn status(&self) -> LogStatus {
        LogStatus {
            geometry: self.shelf.geometry,
            free_segments: self.space.free_count(),
            live_segments: self.space.live_count(),
            living_octets: self.index.living_octets(),
            living_messages: self.index.living_count(),
            living_memory_octets: self.index.memory_octets(),
            partials: self.index.partials_count(),
            waiting_octets: self.lanes.octets(),
            batches: self.counts.batches,
            written_octets: self.counts.written_octets,
            moved_records: self.counts.moved_records,
            write_errors: self.counts.write_errors,
            accepts: self.probe_at.is_none() && !self.full && self.has_room_for(Need::default()),
            sequence: self.last.sequence,
        }
    }

    /// The disk, for its driver's own calls (readiness).
    pub const fn disk(&self) -> &D {
        &self.shelf.disk
    }

    /// The disk, for its driver's own calls.
    pub const fn disk_mut(&mut self) -> &mut D {
        &mut self.shelf.disk
    }

    /// Ends the use of the log and gives the disk back. What waits is lost, what is being written may be either.
    pub fn into_disk(self) -> D {
        self.shelf.disk
    }

    pub(crate) fn tell_full(&mut self) {
        if !self.full {
            self.full = true;
            let total = self.shelf.geometry.octets();
            let living_percent = u8::try_from(self.index.living_octets() * 100 / total).unwrap_or(100);
            let free_segments = self.space.free_count();
            self.events.push_back(LogEvent::Alarm(Alarm::Full { living_percent, free_segments }));
        }
    }
}
