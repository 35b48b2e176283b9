//! One batch while it is filled: records go into the buffer, what they will do is kept beside it.
//!
//! Knows nothing of lanes, space or moves; it is told where it will stand, and says when a record does not fit.

use std::collections::HashSet;
use std::sync::Arc;

use rustc_hash::FxHashSet;
use sternpost_message::{Envelope, MessageId, MessageSequence, Outcome, RecipientRange, UnixMillis};
use zerocopy::IntoBytes;

use crate::AlignedBuffer;
use crate::buffer::BufferFull;
use crate::by_message::{ByMessage, MessageIds};
use crate::entry::{
    CONTENT_ENTRY_OCTETS_MAX, DISCARDED_ENTRY_OCTETS_MAX, Entry, WRITTEN_ENTRY_OCTETS_MAX,
    message_entry_octets_max, outcome_entry_octets_max,
};
use crate::format::{
    BatchHeader, CONTENT_OVERHEAD_OCTETS, ContentHead, Follows, HEADER_OCTETS, Kind, MessageHead,
    OutcomeHead, PAGE, PAGE_OCTETS, RECORD_ALIGNMENT, RECORD_HEADER_OCTETS, RecordHeader, Salt,
    SegmentHeader, append_crc, split_record,
};
use crate::index::{Effect, MessageEffect, Resident};
use crate::place::Place;
use crate::runs::Runs;
use crate::seal::{Gathered, index_room};

/// What a set or a record takes: octets in a batch, and octets in the index of its segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Need {
    pub(crate) octets: usize,
    pub(crate) entry_octets: usize,
}

impl std::ops::AddAssign for Need {
    fn add_assign(&mut self, other: Self) {
        self.octets += other.octets;
        self.entry_octets += other.entry_octets;
    }
}

/// Where a batch will stand, and in which use of its segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Berth {
    pub(crate) segment: u32,
    pub(crate) use_number: u64,
    /// Of the batch header.
    pub(crate) offset: u32,
    /// The segment's header page is written with the batch.
    pub(crate) opens: bool,
    /// What may be written from the start of the buffer: whole pages.
    pub(crate) octets_max: usize,
    /// From where it begins to the end of the segment.
    pub(crate) segment_rest: usize,
    /// Octets of the entries that the segment's index has already.
    pub(crate) entries_octets: usize,
}

impl Berth {
    /// Octets that headers and records may take, if the batch adds `entries_octets` to the index.
    pub(crate) fn octets_for(&self, entries_octets: usize) -> usize {
        let entries = self.entries_octets + WRITTEN_ENTRY_OCTETS_MAX + entries_octets;
        self.octets_max.min(self.segment_rest.saturating_sub(index_room(entries)))
    }

    /// Whether records fit into an empty batch.
    pub(crate) fn takes(&self, need: Need) -> bool {
        let head = HEADER_OCTETS + if self.opens { PAGE_OCTETS } else { 0 };
        self.octets_for(need.entry_octets) >= head + need.octets
    }
}

/// What only the instant of writing knows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seal {
    pub(crate) sequence: u64,
    pub(crate) follows: Follows,
    pub(crate) start_use: u64,
    pub(crate) next_message: u64,
    pub(crate) now: UnixMillis,
}

/// A set whose records are in a batch.
pub(crate) struct StagedSet {
    /// None: the log's own.
    pub(crate) ticket: Option<u64>,
    /// It may wait for others so long; none: it may not.
    pub(crate) lazy_since: Option<UnixMillis>,
}

/// A batch that is being filled, or written.
pub(crate) struct Batch {
    buffer: AlignedBuffer,
    pub(crate) berth: Berth,
    salt: Salt,
    records: u32,
    /// Of the headers of the records so far.
    records_crc: u32,
    /// What the records will do, in their order.
    pub(crate) effects: Vec<Effect>,
    /// What the segment's index will say of them.
    entries: Vec<u8>,
    /// The sets that commit with it, in order.
    pub(crate) sets: Vec<StagedSet>,
    /// A set of the urgent lane is in it.
    pub(crate) is_urgent: bool,
    /// Octets of the sets in it that bring content without an envelope.
    pub(crate) partial_octets: u64,
    /// Chunks of messages whose envelope is not in the batch: index and octets.
    pub(crate) chunks: ByMessage<Vec<(u32, u32)>>,
    /// Messages whose envelope is in it.
    pub(crate) accepted: MessageIds,
    /// Messages with an outcome in it: these are not moved in the same batch.
    pub(crate) touched: FxHashSet<u64>,
    /// Partial messages that end in it: not moved either.
    pub(crate) discarded: MessageIds,
    /// Whose records were moved into it: a resident may be listed twice.
    pub(crate) residents: HashSet<Resident>,
    pub(crate) moved: u32,
}

impl Batch {
    /// An empty batch at `berth`.
    pub(crate) fn new(mut buffer: AlignedBuffer, berth: Berth, secret: &[u8; 16]) -> Self {
        let head = HEADER_OCTETS + if berth.opens { PAGE_OCTETS } else { 0 };
        buffer.clear();
        buffer.resize(head).expect("a buffer holds more than two pages");
        let salt = Salt::of_use(secret, berth.segment, berth.use_number);
        Self {
            buffer,
            berth,
            salt,
            records: 0,
            records_crc: salt.crc(&[]),
            effects: Vec::new(),
            entries: Vec::new(),
            sets: Vec::new(),
            is_urgent: false,
            partial_octets: 0,
            chunks: ByMessage::default(),
            accepted: MessageIds::default(),
            touched: FxHashSet::default(),
            discarded: MessageIds::default(),
            residents: HashSet::default(),
            moved: 0,
        }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.records == 0 && self.sets.is_empty()
    }

    /// Octets of its headers and records so far.
    pub(crate) fn octets(&self) -> usize {
        self.buffer.len()
    }

    /// Whether it brings something of a message, or ends it.
    pub(crate) fn speaks_of(&self, message: MessageId) -> bool {
        self.chunks.contains_key(&message)
            || self.accepted.contains(&message)
            || self.discarded.contains(&message)
    }

    /// Puts it elsewhere in its segment: at `offset`, behind batches that add `entries_octets` to the index. False when it has
    /// less room there than it takes.
    pub(crate) fn move_to(&mut self, offset: u32, entries_octets: usize) -> bool {
        let from = self.berth.offset;
        let segment_end = self.berth.segment_rest + from as usize;
        let Some(segment_rest) = segment_end.checked_sub(offset as usize) else { return false };
        self.berth = Berth { offset, segment_rest, entries_octets, ..self.berth };
        let mut entries = Vec::with_capacity(self.entries.len());
        for effect in &mut self.effects {
            effect.move_places(|place| place.at(place.offset() - from + offset));
            entries = Entry::of(effect).write(entries);
        }
        self.entries = entries;
        self.berth.octets_for(self.entries.len()) >= self.buffer.len()
    }

    pub(crate) const fn records(&self) -> u32 {
        self.records
    }

    /// Octets that records can still take.
    pub(crate) fn room(&self) -> usize {
        self.room_beside(0)
    }

    /// Whether records fit, and `kept` octets beside them.
    pub(crate) fn takes(&self, need: Need, kept: usize) -> bool {
        self.room_beside(need.entry_octets) >= need.octets + kept
    }

    fn room_beside(&self, entry_octets: usize) -> usize {
        let octets_max = self.berth.octets_for(self.entries.len() + entry_octets);
        octets_max.min(self.buffer.capacity()).saturating_sub(self.buffer.len())
    }

    /// Gives the buffer back, unwritten.
    pub(crate) fn into_parts(self) -> (AlignedBuffer, Vec<StagedSet>) {
        (self.buffer, self.sets)
    }

    fn add(&mut self, kind: Kind, parts: [&[u8]; 4]) -> Result<Place, BufferFull> {
        let body: usize = parts.iter().map(|part| part.len()).sum();
        let octets = RECORD_HEADER_OCTETS + body;
        if octets.next_multiple_of(RECORD_ALIGNMENT) > self.room() {
            return Err(BufferFull);
        }
        let at = self.buffer.len();
        let header_at = at + RECORD_HEADER_OCTETS;
        self.buffer.resize(header_at)?;
        for part in parts {
            self.buffer.extend(part)?;
        }
        let crc = self.salt.crc(&self.buffer.as_slice()[header_at..]);
        let header = RecordHeader::new(kind, to_u32(body), crc);
        self.buffer.as_mut_slice()[at..header_at].copy_from_slice(header.as_bytes());
        self.buffer.pad_to(RECORD_ALIGNMENT);
        self.records += 1;
        self.records_crc = append_crc(self.records_crc, header.as_bytes());
        let base = self.berth.offset - if self.berth.opens { PAGE } else { 0 };
        Ok(Place::new(self.berth.segment, base + to_u32(at), to_u32(octets)))
    }

    fn push(&mut self, effect: Effect) {
        self.entries = Entry::of(&effect).write(std::mem::take(&mut self.entries));
        self.effects.push(effect);
    }

    pub(crate) fn add_content(
        &mut self,
        message: MessageId,
        index: u32,
        owner: u64,
        octets: &[u8],
    ) -> Result<(), BufferFull> {
        let head =
            ContentHead { message: message.0, owner: owner.into(), index: index.into(), reserved: 0.into() };
        let place = self.add(Kind::Content, [head.as_bytes(), octets, &[], &[]])?;
        self.push(Effect::Content { message, index, owner, place });
        Ok(())
    }

    /// Adds a chunk of a message whose envelope comes in the same set, and will tell of it.
    pub(crate) fn add_told(
        &mut self,
        message: MessageId,
        index: u32,
        octets: &[u8],
    ) -> Result<Place, BufferFull> {
        let head =
            ContentHead { message: message.0, owner: 0.into(), index: index.into(), reserved: 0.into() };
        let place = self.add(Kind::Content, [head.as_bytes(), octets, &[], &[]])?;
        self.push(Effect::Told { message, index, place });
        Ok(place)
    }

    /// Adds an envelope, or a moved one with its states. `told`: its chunks, if they were added by `add_told`.
    pub(crate) fn add_message(
        &mut self,
        kind: Kind,
        head: &MessageHead,
        envelope: (&Arc<Envelope>, &[u8]),
        states: (Runs, &[u8]),
        told: Vec<Place>,
    ) -> Result<(), BufferFull> {
        let place = self.add(kind, [head.as_bytes(), envelope.1, states.1, &[]])?;
        self.push(Effect::Message(Box::new(MessageEffect {
            message: MessageId(head.message),
            sequence: MessageSequence(head.sequence.get()),
            envelope: Arc::clone(envelope.0),
            content_octets: head.content_octets.get(),
            chunks: head.chunks.get(),
            place,
            runs: states.0,
            moved: kind == Kind::Moved,
            told,
        })));
        Ok(())
    }

    pub(crate) fn add_outcome(
        &mut self,
        sequence: MessageSequence,
        at: UnixMillis,
        outcomes: &Arc<[(RecipientRange, Outcome)]>,
        encoded: &[u8],
    ) -> Result<(), BufferFull> {
        let head = OutcomeHead { sequence: sequence.0.into(), at_ms: at.0.into() };
        let place = self.add(Kind::Outcome, [head.as_bytes(), encoded, &[], &[]])?;
        self.touched.insert(sequence.0);
        self.push(Effect::Outcome { sequence, outcomes: Arc::clone(outcomes), place });
        Ok(())
    }

    pub(crate) fn add_discarded(&mut self, message: MessageId) -> Result<(), BufferFull> {
        self.add(Kind::Discarded, [&message.0, &[], &[], &[]])?;
        self.discarded.insert(message);
        self.chunks.remove(&message);
        self.push(Effect::Discarded { message });
        Ok(())
    }

    /// Puts octets where records belong and gives them good CRCs, for fuzzing.
    pub(crate) fn add_raw(&mut self, octets: &[u8]) {
        let begin = self.buffer.len();
        self.buffer.extend(octets).expect("fuzzing gives half a segment at most");
        self.buffer.pad_to(RECORD_ALIGNMENT);
        let mut rest = &mut self.buffer.as_mut_slice()[begin..];
        while let Some((header, body, taken)) = split_record(rest) {
            let header = header.with_crc(self.salt.crc(body));
            self.records_crc = append_crc(self.records_crc, header.as_bytes());
            self.records += 1;
            rest[..RECORD_HEADER_OCTETS].copy_from_slice(header.as_bytes());
            rest = &mut rest[taken..];
        }
    }

    /// Ends the batch: headers, CRCs, zeroes to the end of the page.
    pub(crate) fn seal(&mut self, secret: &[u8; 16], seal: &Seal) -> SealedBatch {
        let berth = self.berth;
        let header_at = if berth.opens { PAGE_OCTETS } else { 0 };
        let body_at = header_at + HEADER_OCTETS;
        let header = BatchHeader {
            records: self.records,
            sequence: seal.sequence,
            use_number: berth.use_number,
            segment: berth.segment,
            offset: berth.offset,
            body_octets: to_u32(self.buffer.len() - body_at),
            records_crc: self.records_crc,
            predecessor_crc: seal.follows.crc,
            start_use: seal.start_use,
            next_message: seal.next_message,
            written_at_ms: seal.now.0,
        };
        let (octets, crc) = header.encode(self.salt);
        self.buffer.as_mut_slice()[header_at..body_at].copy_from_slice(&octets);
        if berth.opens {
            let opening = SegmentHeader {
                segment: berth.segment,
                use_number: berth.use_number,
                first_sequence: seal.sequence,
                follows: seal.follows,
                start_use: seal.start_use,
                next_message: seal.next_message,
                opened_at_ms: seal.now.0,
            };
            self.buffer.as_mut_slice()[..HEADER_OCTETS].copy_from_slice(&opening.encode(secret));
        }
        self.buffer.pad_to(PAGE_OCTETS);
        let buffer = std::mem::replace(&mut self.buffer, AlignedBuffer::with_capacity(0));
        let name = Follows { use_number: berth.use_number, sequence: seal.sequence, crc };
        let end = berth.offset + header.octets();
        let mut entries = Entry::Written { at_ms: seal.now.0 }
            .write(Vec::with_capacity(WRITTEN_ENTRY_OCTETS_MAX + self.entries.len()));
        entries.append(&mut self.entries);
        let gathered = Gathered {
            segment: berth.segment,
            use_number: berth.use_number,
            first_sequence: seal.sequence,
            end,
            next_message: seal.next_message,
            entries,
        };
        let offset = if berth.opens { berth.offset - PAGE } else { berth.offset };
        SealedBatch { buffer, name, offset, end, gathered }
    }
}

/// A batch that is ready to be written.
pub(crate) struct SealedBatch {
    pub(crate) buffer: AlignedBuffer,
    /// By this its successor names it.
    pub(crate) name: Follows,
    /// Where in the segment it is written.
    pub(crate) offset: u32,
    /// The octet behind it.
    pub(crate) end: u32,
    /// For the segment's index.
    pub(crate) gathered: Gathered,
}

/// What a chunk takes.
pub(crate) const fn content_need(octets: usize) -> Need {
    Need {
        octets: (CONTENT_OVERHEAD_OCTETS + octets).next_multiple_of(RECORD_ALIGNMENT),
        entry_octets: CONTENT_ENTRY_OCTETS_MAX,
    }
}

/// What an envelope takes whose encoding, with that of its states if it has any, is so long.
pub(crate) fn message_need(envelope: &Envelope, encoded_octets: usize) -> Need {
    let octets = RECORD_HEADER_OCTETS + size_of::<MessageHead>() + encoded_octets;
    let routes_octets = envelope.routes.iter().map(|route| route.channel.len() + route.peer.len()).sum();
    let entry_octets =
        message_entry_octets_max(envelope.routes.len(), routes_octets, envelope.recipients.len());
    Need { octets: octets.next_multiple_of(RECORD_ALIGNMENT), entry_octets }
}

/// What an outcome takes.
pub(crate) const fn outcome_need(ranges: usize, encoded_octets: usize) -> Need {
    let octets = RECORD_HEADER_OCTETS + size_of::<OutcomeHead>() + encoded_octets;
    Need { octets: octets.next_multiple_of(RECORD_ALIGNMENT), entry_octets: outcome_entry_octets_max(ranges) }
}

/// What the end of a partial message takes.
pub(crate) const DISCARDED_NEED: Need =
    Need { octets: RECORD_HEADER_OCTETS + 16, entry_octets: DISCARDED_ENTRY_OCTETS_MAX };

/// A length within a segment, which has at most 64 MiB.
pub(crate) fn to_u32(octets: usize) -> u32 {
    u32::try_from(octets).expect("a buffer is no longer than a segment")
}
