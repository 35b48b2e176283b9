//! One batch while it is filled: records go into the buffer, what they will do is kept beside it.
//!
//! Knows nothing of lanes, space or moves; it is told where it will stand, and says when a record does not fit.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use sternpost_message::{MessageId, MessageSequence, Outcome, RecipientRange, UnixMillis};
use zerocopy::IntoBytes;

use crate::AlignedBuffer;
use crate::buffer::BufferFull;
use crate::format::{
    BatchHeader, CONTENT_OVERHEAD_OCTETS, ContentHead, Follows, HEADER_OCTETS, Kind, MessageHead,
    OutcomeHead, PAGE, PAGE_OCTETS, RECORD_ALIGNMENT, RECORD_HEADER_OCTETS, RecordHeader, Salt,
    SegmentHeader,
};
use crate::index::{Effect, Place, Resident};
use crate::set::WaitingSet;

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

/// A batch that is being filled, or written.
pub(crate) struct Batch {
    buffer: AlignedBuffer,
    pub(crate) berth: Berth,
    salt: Salt,
    records: u32,
    /// What the records will do, in their order.
    pub(crate) effects: Vec<Effect>,
    /// The sets that commit with it, in order.
    pub(crate) sets: Vec<WaitingSet>,
    /// Octets of the sets in it.
    pub(crate) set_octets: usize,
    /// Chunks of messages whose envelope is not in the batch: index and octets.
    pub(crate) chunks: FxHashMap<MessageId, Vec<(u32, u32)>>,
    /// Messages whose envelope is in it.
    pub(crate) accepted: FxHashSet<MessageId>,
    /// Messages with an outcome in it: these are not moved in the same batch.
    pub(crate) touched: FxHashSet<u64>,
    /// Partial messages that end in it: not moved either.
    pub(crate) discarded: FxHashSet<MessageId>,
    /// Whose records were moved into it: a resident may be listed twice.
    pub(crate) residents: FxHashSet<Resident>,
    pub(crate) moved: u32,
}

impl Batch {
    /// An empty batch at `berth`.
    pub(crate) fn new(mut buffer: AlignedBuffer, berth: Berth, secret: &[u8; 16]) -> Self {
        let head = HEADER_OCTETS + if berth.opens { PAGE_OCTETS } else { 0 };
        buffer.clear();
        buffer.resize(head).expect("a buffer holds more than two pages");
        Self {
            buffer,
            berth,
            salt: Salt::of_use(secret, berth.segment, berth.use_number),
            records: 0,
            effects: Vec::new(),
            sets: Vec::new(),
            set_octets: 0,
            chunks: FxHashMap::default(),
            accepted: FxHashSet::default(),
            touched: FxHashSet::default(),
            discarded: FxHashSet::default(),
            residents: FxHashSet::default(),
            moved: 0,
        }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.records == 0 && self.sets.is_empty()
    }

    pub(crate) const fn records(&self) -> u32 {
        self.records
    }

    /// Octets that records can still take.
    pub(crate) fn room(&self) -> usize {
        self.berth.octets_max.min(self.buffer.capacity()) - self.buffer.len()
    }

    /// Gives the buffer back, unwritten.
    pub(crate) fn into_parts(self) -> (AlignedBuffer, Vec<WaitingSet>) {
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
        let base = self.berth.offset - if self.berth.opens { PAGE } else { 0 };
        Ok(Place { segment: self.berth.segment, offset: base + to_u32(at), octets: to_u32(octets) })
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
        self.effects.push(Effect::Content { message, index, owner, place });
        Ok(())
    }

    /// Adds an envelope record, without its effect.
    pub(crate) fn add_envelope(&mut self, head: &MessageHead, envelope: &[u8]) -> Result<Place, BufferFull> {
        self.add(Kind::Envelope, [head.as_bytes(), envelope, &[], &[]])
    }

    pub(crate) fn add_moved(
        &mut self,
        head: &MessageHead,
        envelope: &[u8],
        states: &[u8],
    ) -> Result<(), BufferFull> {
        let place = self.add(Kind::Moved, [head.as_bytes(), envelope, states, &[]])?;
        self.effects.push(Effect::Moved { sequence: MessageSequence(head.sequence.get()), place });
        self.moved += 1;
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
        self.effects.push(Effect::Outcome { sequence, outcomes: Arc::clone(outcomes), place });
        Ok(())
    }

    pub(crate) fn add_discarded(&mut self, message: MessageId) -> Result<(), BufferFull> {
        self.add(Kind::Discarded, [&message.0, &[], &[], &[]])?;
        self.discarded.insert(message);
        self.chunks.remove(&message);
        self.effects.push(Effect::Discarded { message });
        Ok(())
    }

    /// Puts octets where records belong, for fuzzing.
    pub(crate) fn add_raw(&mut self, octets: &[u8]) {
        self.buffer.extend(octets).expect("fuzzing gives half a segment at most");
        self.buffer.pad_to(RECORD_ALIGNMENT);
    }

    /// Ends the batch: headers, CRCs, zeroes to the end of the page. The buffer is ready to be written at the offset
    /// in the segment that comes first; the CRC names the batch to its successor; the last is the octet behind it.
    pub(crate) fn seal(&mut self, secret: &[u8; 16], seal: &Seal) -> (AlignedBuffer, Follows, u32, u32) {
        let berth = self.berth;
        let header_at = if berth.opens { PAGE_OCTETS } else { 0 };
        let body_at = header_at + HEADER_OCTETS;
        let body = &self.buffer.as_slice()[body_at..];
        let header = BatchHeader {
            records: self.records,
            sequence: seal.sequence,
            use_number: berth.use_number,
            segment: berth.segment,
            offset: berth.offset,
            body_octets: to_u32(body.len()),
            body_crc: self.salt.crc(body),
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
        let start = if berth.opens { berth.offset - PAGE } else { berth.offset };
        (buffer, name, start, berth.offset + header.octets())
    }
}

/// Octets that a chunk takes in a batch.
pub(crate) const fn content_record_octets(octets: usize) -> usize {
    (CONTENT_OVERHEAD_OCTETS + octets).next_multiple_of(RECORD_ALIGNMENT)
}

/// Octets that an envelope takes in a batch.
pub(crate) const fn envelope_record_octets(encoded: usize) -> usize {
    (RECORD_HEADER_OCTETS + size_of::<MessageHead>() + encoded).next_multiple_of(RECORD_ALIGNMENT)
}

/// Octets that an outcome takes in a batch.
pub(crate) const fn outcome_record_octets(encoded: usize) -> usize {
    (RECORD_HEADER_OCTETS + size_of::<OutcomeHead>() + encoded).next_multiple_of(RECORD_ALIGNMENT)
}

/// Octets that the end of a partial message takes in a batch.
pub(crate) const DISCARDED_RECORD_OCTETS: usize = RECORD_HEADER_OCTETS + 16;

/// A length within a segment, which has at most 64 MiB.
pub(crate) fn to_u32(octets: usize) -> u32 {
    u32::try_from(octets).expect("a buffer is no longer than a segment")
}
