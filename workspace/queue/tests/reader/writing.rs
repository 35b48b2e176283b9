//! A log that is written as the store writes it, and where in its octets something stands.

use std::ops::Range;

use sternpost_message::{MessageSequence, Outcome, RecipientRange, UnixMillis};
use sternpost_queue::memory::MemoryDisk;
use sternpost_queue::{
    Append, AppendSet, Geometry, HEAD_OCTETS, Lane, Log, LogEvent, PAGE_OCTETS, Parameters,
    SEGMENT_OCTETS_MIN,
};

use super::mail::{every_outcome, id, message, own, partial, plain, range, rich};

pub(crate) const SEGMENT_OCTETS: usize = SEGMENT_OCTETS_MIN as usize;
const SEGMENTS: u32 = 10;
/// What the disk is full of before there is a log.
pub(crate) const UNWRITTEN: u8 = 0xa5;
/// So few that an id that comes back is soon taken for a new one.
const RECENT_IDS_MAX: usize = 8;
const SECRET: [u8; 16] = *b"a secret of ours";

/// A log that is open, and the time.
pub(crate) struct Writing {
    pub(crate) log: Log<MemoryDisk>,
    pub(crate) now: UnixMillis,
    /// The number of the next message that comes and goes: none is given twice, for it is the message's id.
    next: u32,
}

impl Writing {
    /// An empty log of ten segments.
    pub(crate) fn new() -> Self {
        Self::with_segments(SEGMENTS)
    }

    /// An empty log on a disk that is full of something else.
    pub(crate) fn with_segments(segments: u32) -> Self {
        let geometry = Geometry { segment_octets: SEGMENT_OCTETS_MIN, segments };
        let octets = vec![UNWRITTEN; usize::try_from(geometry.octets()).unwrap()];
        let disk = Log::create(MemoryDisk::new(octets), geometry, SECRET).unwrap();
        Self::open(disk.octets)
    }

    /// A log that was made before.
    pub(crate) fn open(octets: Vec<u8>) -> Self {
        let now = UnixMillis(1_700_000_000_000);
        let parameters = Parameters { recent_ids_max: RECENT_IDS_MAX, ..Parameters::default() };
        let (log, _) = Log::open(MemoryDisk::new(octets), parameters, now).unwrap();
        let next = 10_000 + u32::try_from(log.status().sequence).unwrap();
        Self { log, now, next }
    }

    pub(crate) fn into_octets(self) -> Vec<u8> {
        self.log.into_disk().octets
    }

    /// Appends a set and drives until nothing happens any more.
    pub(crate) fn put(&mut self, lane: Lane, set: AppendSet<'_>) -> Vec<LogEvent> {
        self.log.append(self.now, lane, set, 1).unwrap();
        self.settle()
    }

    /// Outcomes that may wait do not have to.
    pub(crate) fn settle(&mut self) -> Vec<LogEvent> {
        self.now = self.now.plus_ms(150);
        let mut events = Vec::new();
        loop {
            self.log.drive(self.now);
            let before = events.len();
            events.extend(std::iter::from_fn(|| self.log.poll()));
            if events.len() == before && !self.log.is_writing() {
                return events;
            }
        }
    }

    /// Appends a message and gives its number in the order of acceptance.
    pub(crate) fn accept(&mut self, set: AppendSet<'_>) -> MessageSequence {
        let events = self.put(Lane::Normal, set);
        let accepted = |event: &LogEvent| match event {
            LogEvent::Accepted { sequence, .. } => Some(*sequence),
            _ => None,
        };
        events.iter().find_map(accepted).unwrap_or_else(|| panic!("{events:?}, {:?}", self.log.status()))
    }

    pub(crate) fn conclude(&mut self, message: MessageSequence, outcomes: Vec<(RecipientRange, Outcome)>) {
        let record = Append::Outcome { message, outcomes };
        self.put(Lane::Outcome, AppendSet { records: vec![record] });
    }

    pub(crate) fn discard_partial(&mut self, number: u32) {
        let record = Append::DiscardPartial { message: id(number) };
        self.put(Lane::Outcome, AppendSet { records: vec![record] });
    }

    /// One message of 30,000 octets comes and goes.
    pub(crate) fn pass_one(&mut self) {
        self.next += 1;
        let sequence = self.accept(message(self.next, 30_000, plain(self.next)));
        self.conclude(sequence, vec![(range(0, 1), Outcome::Delivered(own(2, "kept")))]);
    }

    /// The use number of the segment that was opened last.
    pub(crate) fn head_use(&self) -> u64 {
        let octets = &self.log.disk().octets;
        segments_by_age(octets).last().map_or(0, |segment| use_of(octets, *segment))
    }

    /// Messages come and go until so many segments more were opened.
    pub(crate) fn pass_segments(&mut self, segments: u64) {
        let end = self.head_use() + segments;
        while self.head_use() < end {
            self.pass_one();
        }
    }
}

/// Messages of every shape, none of which is over: of no chunk, one and three, with all fields and with none, with every
/// outcome; partial messages, one of which is discarded.
pub(crate) fn every_shape(writing: &mut Writing) {
    let mut sequences = Vec::new();
    for (number, octets) in [(1, 0), (2, 1), (3, 20_000), (4, 47_311)] {
        sequences.push(writing.accept(message(number, octets, plain(number))));
        sequences.push(writing.accept(message(
            100 + number,
            octets,
            rich(100 + number, 16 * (number % 3 + 1)),
        )));
    }
    for (number, octets) in [(201, 700), (202, 25_000), (203, 30)] {
        writing.put(Lane::NonUrgent, partial(number, octets));
    }
    writing.discard_partial(202);
    for sequence in sequences.iter().skip(1).step_by(2) {
        writing.conclude(*sequence, every_outcome());
    }
    writing.conclude(sequences[2], vec![(range(0, 1), Outcome::Failed(own(5, "too old")))]);
    writing.conclude(sequences[4], vec![(range(0, 1), Outcome::Delivered(own(2, "kept")))]);
}

/// A log in which all of that was moved, and has new company: every segment was used more than once, and what came last is
/// in sealed segments too.
pub(crate) fn well_used() -> Vec<u8> {
    let mut writing = Writing::new();
    every_shape(&mut writing);
    writing.pass_segments(16);
    let mut late = Vec::new();
    for (number, octets) in [(301, 61_000), (302, 9), (303, 0)] {
        late.push(writing.accept(message(number, octets, rich(number, 16))));
        writing.put(Lane::Normal, partial(number + 10, octets + 1));
        writing.pass_segments(1);
    }
    writing.discard_partial(201);
    writing.conclude(late[1], every_outcome());
    writing.conclude(late[2], vec![(range(0, 16), Outcome::Discarded { why: "too late".to_owned() })]);
    writing.pass_segments(2);
    writing.conclude(late[0], every_outcome());
    assert!(writing.log.status().moved_records > 10, "{:?}", writing.log.status());
    writing.into_octets()
}

/// Where segment 0 begins.
const HEAD: usize = 65_536;
const _: () = assert!(HEAD as u64 == HEAD_OCTETS);

/// Where a segment begins.
pub(crate) const fn segment_at(segment: usize) -> usize {
    HEAD + segment * SEGMENT_OCTETS
}

fn number_at(octets: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(octets[at..at + 8].try_into().unwrap())
}

/// The use number that a segment's header names; 0 if it has none.
pub(crate) fn use_of(octets: &[u8], segment: usize) -> u64 {
    let at = segment_at(segment);
    if octets[at..].starts_with(b"STERNSEG") { number_at(octets, at + 16) } else { 0 }
}

/// The segments of the log, oldest use first; those that were never written are not among them.
pub(crate) fn segments_by_age(octets: &[u8]) -> Vec<usize> {
    let count = (octets.len() - segment_at(0)) / SEGMENT_OCTETS;
    let mut segments: Vec<usize> = (0..count).filter(|segment| use_of(octets, *segment) != 0).collect();
    segments.sort_unstable_by_key(|segment| use_of(octets, *segment));
    segments
}

/// Where the batches of a segment's present use begin.
pub(crate) fn batches_of(octets: &[u8], segment: usize) -> Vec<usize> {
    let first = segment_at(segment) + PAGE_OCTETS;
    let use_number = number_at(octets, first + 24);
    let end = segment_at(segment + 1);
    let mut batches = Vec::new();
    let mut at = first;
    while at < end && octets[at..].starts_with(b"STERNBAT") && number_at(octets, at + 24) == use_number {
        batches.push(at);
        let body_octets = u32::from_le_bytes(octets[at + 40..at + 44].try_into().unwrap()) as usize;
        at += (128 + body_octets).next_multiple_of(PAGE_OCTETS);
    }
    batches
}

/// The last place at which some octets stand.
pub(crate) fn find(octets: &[u8], wanted: &[u8]) -> Range<usize> {
    let at = octets.windows(wanted.len()).rposition(|window| window == wanted);
    let at = at.unwrap_or_else(|| panic!("{} is not in the log", wanted.escape_ascii()));
    at..at + wanted.len()
}
