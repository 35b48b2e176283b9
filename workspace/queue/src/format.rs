//! The bytes of FORMAT.md as structs: encoding, decoding, salts. No I/O, no state.

use serde::{Deserialize, Serialize};
use sternpost_message::{Diagnostic, MessageId, RecipientState};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::log::BATCH_OCTETS_MAX;
use crate::place::SEGMENTS_MAX;

/// The unit in which the log is aligned and written.
pub const PAGE_OCTETS: usize = 4096;
/// [`PAGE_OCTETS`] where a place within a segment is meant.
pub(crate) const PAGE: u32 = 4096;
/// Where superblock B stands; A stands at 0.
pub(crate) const SUPERBLOCK_B_OFFSET: u64 = 32_768;
/// Where segment 0 begins.
pub const HEAD_OCTETS: u64 = 65_536;
/// The largest content chunk.
pub const CHUNK_OCTETS_MAX: usize = 65_536;
/// The smallest segment. Below 1 MiB is for tests: a batch with one chunk takes half of it.
pub const SEGMENT_OCTETS_MIN: u32 = 128 * 1024;
/// The largest segment.
pub const SEGMENT_OCTETS_MAX: u32 = 64 * 1024 * 1024;
/// The fewest segments: three in reserve, one at the head, some between.
pub const SEGMENTS_MIN: u32 = 8;

/// The version that this code reads and writes.
pub(crate) const VERSION: u32 = 3;
const SUPERBLOCK_MAGIC: [u8; 8] = *b"STERNLOG";
const SEGMENT_MAGIC: [u8; 8] = *b"STERNSEG";
const BATCH_MAGIC: [u8; 8] = *b"STERNBAT";
const FOOTER_MAGIC: [u8; 8] = *b"STERNIDX";

/// Octets of every header that has a CRC at its end.
pub(crate) const HEADER_OCTETS: usize = 128;
/// The same where a place within a segment is meant.
pub(crate) const HEADER: u32 = 128;
const CRC_OFFSET: usize = HEADER_OCTETS - 4;
/// Octets before a record's body.
pub(crate) const RECORD_HEADER_OCTETS: usize = 16;
/// Records begin at multiples of this.
pub(crate) const RECORD_ALIGNMENT: usize = 8;

/// How the device is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Octets of a segment: 1 MiB to 64 MiB (tests: from 128 KiB), a multiple of 4,096.
    pub segment_octets: u32,
    /// Segments: 8 to 65,536.
    pub segments: u32,
}

impl Geometry {
    /// Octets of the device that the log uses.
    #[must_use]
    pub fn octets(&self) -> u64 {
        HEAD_OCTETS + u64::from(self.segment_octets) * u64::from(self.segments)
    }

    /// Whether the bounds hold.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        (SEGMENT_OCTETS_MIN..=SEGMENT_OCTETS_MAX).contains(&self.segment_octets)
            && self.segment_octets.is_multiple_of(PAGE)
            && (SEGMENTS_MIN..=SEGMENTS_MAX).contains(&self.segments)
    }

    /// No log holds more chunks than headers of chunks.
    pub(crate) fn chunks_max(&self) -> u64 {
        self.octets() / CONTENT_OVERHEAD_OCTETS as u64
    }

    /// Where the last page of a segment is in it.
    pub(crate) const fn footer_offset(&self) -> u32 {
        self.segment_octets - PAGE
    }

    /// Where a place in a segment is on the device.
    pub(crate) fn offset_of(&self, segment: u32, offset: u32) -> u64 {
        HEAD_OCTETS + u64::from(segment) * u64::from(self.segment_octets) + u64::from(offset)
    }
}

/// The first page of the log, twice.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct SuperblockOctets {
    magic: [u8; 8],
    version: U32,
    page_octets: U32,
    generation: U64,
    secret: [u8; 16],
    segment_octets: U32,
    segments: U32,
    reserved: [u8; 76],
    crc: U32,
}
const _: () = assert!(size_of::<SuperblockOctets>() == HEADER_OCTETS);

/// What a superblock says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub(crate) generation: u64,
    pub(crate) secret: [u8; 16],
    pub(crate) geometry: Geometry,
    pub(crate) version: u32,
}

impl Superblock {
    pub(crate) fn new(geometry: Geometry, secret: [u8; 16]) -> Self {
        Self { generation: 1, secret, geometry, version: VERSION }
    }

    pub(crate) fn encode(&self) -> [u8; HEADER_OCTETS] {
        let mut octets = SuperblockOctets {
            magic: SUPERBLOCK_MAGIC,
            version: self.version.into(),
            page_octets: PAGE.into(),
            generation: self.generation.into(),
            secret: self.secret,
            segment_octets: self.geometry.segment_octets.into(),
            segments: self.geometry.segments.into(),
            reserved: [0; 76],
            crc: 0.into(),
        };
        octets.crc = crc32c::crc32c(&octets.as_bytes()[..CRC_OFFSET]).into();
        zerocopy::transmute!(octets)
    }

    /// The superblock in `page`, of whatever version; none when magic or CRC are wrong.
    pub(crate) fn decode(page: &[u8]) -> Option<Self> {
        let (octets, _) = SuperblockOctets::read_from_prefix(page).ok()?;
        let crc = crc32c::crc32c(page.get(..CRC_OFFSET)?);
        (octets.magic == SUPERBLOCK_MAGIC && octets.crc.get() == crc).then(|| Self {
            generation: octets.generation.get(),
            secret: octets.secret,
            geometry: Geometry {
                segment_octets: octets.segment_octets.get(),
                segments: octets.segments.get(),
            },
            version: octets.version.get(),
        })
    }

    pub(crate) const fn version_is_known(&self) -> bool {
        self.version == VERSION
    }
}

/// The start values of CRCs, see FORMAT.md.
#[derive(Clone, Copy)]
pub(crate) struct Salt(u32);

impl Salt {
    pub(crate) fn of_segment_header(secret: &[u8; 16], segment: u32) -> Self {
        let crc = crc32c::crc32c_append(crc32c::crc32c(secret), b"segment");
        Self(crc32c::crc32c_append(crc, &segment.to_le_bytes()))
    }

    pub(crate) fn of_use(secret: &[u8; 16], segment: u32, use_number: u64) -> Self {
        let crc = crc32c::crc32c_append(crc32c::crc32c(secret), b"batch");
        let crc = crc32c::crc32c_append(crc, &segment.to_le_bytes());
        Self(crc32c::crc32c_append(crc, &use_number.to_le_bytes()))
    }

    pub(crate) fn of_index(secret: &[u8; 16], segment: u32, use_number: u64) -> Self {
        let crc = crc32c::crc32c_append(crc32c::crc32c(secret), b"index");
        let crc = crc32c::crc32c_append(crc, &segment.to_le_bytes());
        Self(crc32c::crc32c_append(crc, &use_number.to_le_bytes()))
    }

    pub(crate) fn crc(self, octets: &[u8]) -> u32 {
        crc32c::crc32c_append(self.0, octets)
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct SegmentHeaderOctets {
    magic: [u8; 8],
    version: U32,
    segment: U32,
    use_number: U64,
    first_sequence: U64,
    follows_use: U64,
    follows_sequence: U64,
    follows_crc: U32,
    reserved_a: U32,
    start_use: U64,
    next_message: U64,
    opened_at_ms: U64,
    reserved_b: [u8; 44],
    crc: U32,
}
const _: () = assert!(size_of::<SegmentHeaderOctets>() == HEADER_OCTETS);

/// The last good batch before some place of the log. All zero: there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Follows {
    pub(crate) use_number: u64,
    pub(crate) sequence: u64,
    pub(crate) crc: u32,
}

/// What a segment's first page says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) segment: u32,
    pub(crate) use_number: u64,
    pub(crate) first_sequence: u64,
    pub(crate) follows: Follows,
    pub(crate) start_use: u64,
    pub(crate) next_message: u64,
    pub(crate) opened_at_ms: u64,
}

impl SegmentHeader {
    pub(crate) fn encode(&self, secret: &[u8; 16]) -> [u8; HEADER_OCTETS] {
        let mut octets = SegmentHeaderOctets {
            magic: SEGMENT_MAGIC,
            version: VERSION.into(),
            segment: self.segment.into(),
            use_number: self.use_number.into(),
            first_sequence: self.first_sequence.into(),
            follows_use: self.follows.use_number.into(),
            follows_sequence: self.follows.sequence.into(),
            follows_crc: self.follows.crc.into(),
            reserved_a: 0.into(),
            start_use: self.start_use.into(),
            next_message: self.next_message.into(),
            opened_at_ms: self.opened_at_ms.into(),
            reserved_b: [0; 44],
            crc: 0.into(),
        };
        octets.crc =
            Salt::of_segment_header(secret, self.segment).crc(&octets.as_bytes()[..CRC_OFFSET]).into();
        zerocopy::transmute!(octets)
    }

    pub(crate) fn decode(page: &[u8], secret: &[u8; 16], segment: u32) -> Option<Self> {
        let (octets, _) = SegmentHeaderOctets::read_from_prefix(page).ok()?;
        let valid = octets.magic == SEGMENT_MAGIC
            && octets.version.get() == VERSION
            && octets.segment.get() == segment
            && octets.use_number.get() != 0
            && octets.crc.get() == Salt::of_segment_header(secret, segment).crc(page.get(..CRC_OFFSET)?);
        valid.then(|| Self {
            segment,
            use_number: octets.use_number.get(),
            first_sequence: octets.first_sequence.get(),
            follows: Follows {
                use_number: octets.follows_use.get(),
                sequence: octets.follows_sequence.get(),
                crc: octets.follows_crc.get(),
            },
            start_use: octets.start_use.get(),
            next_message: octets.next_message.get(),
            opened_at_ms: octets.opened_at_ms.get(),
        })
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct FooterOctets {
    magic: [u8; 8],
    version: U32,
    segment: U32,
    use_number: U64,
    first_sequence: U64,
    last_sequence: U64,
    last_crc: U32,
    end: U32,
    next_message: U64,
    entries: U32,
    offset: U32,
    body_octets: U32,
    body_crc: U32,
    reserved: [u8; 52],
    crc: U32,
}
const _: () = assert!(size_of::<FooterOctets>() == HEADER_OCTETS);

/// What the last page of a sealed segment says: where its index is, and what that covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) segment: u32,
    pub(crate) use_number: u64,
    pub(crate) first_sequence: u64,
    /// The last good batch of the use.
    pub(crate) last: Follows,
    /// The octet behind it.
    pub(crate) end: u32,
    pub(crate) next_message: u64,
    pub(crate) entries: u32,
    /// Where in the segment the entries begin.
    pub(crate) offset: u32,
    pub(crate) body_octets: u32,
    pub(crate) body_crc: u32,
}

impl Footer {
    pub(crate) fn encode(&self, salt: Salt) -> [u8; HEADER_OCTETS] {
        let mut octets = FooterOctets {
            magic: FOOTER_MAGIC,
            version: VERSION.into(),
            segment: self.segment.into(),
            use_number: self.use_number.into(),
            first_sequence: self.first_sequence.into(),
            last_sequence: self.last.sequence.into(),
            last_crc: self.last.crc.into(),
            end: self.end.into(),
            next_message: self.next_message.into(),
            entries: self.entries.into(),
            offset: self.offset.into(),
            body_octets: self.body_octets.into(),
            body_crc: self.body_crc.into(),
            reserved: [0; 52],
            crc: 0.into(),
        };
        octets.crc = salt.crc(&octets.as_bytes()[..CRC_OFFSET]).into();
        zerocopy::transmute!(octets)
    }

    /// The footer in the last page of a segment; none when anything about it is wrong.
    pub(crate) fn decode(
        page: &[u8],
        salt: Salt,
        segment: u32,
        use_number: u64,
        geometry: Geometry,
    ) -> Option<Self> {
        let (octets, _) = FooterOctets::read_from_prefix(page).ok()?;
        let end_of_body = octets.offset.get().checked_add(octets.body_octets.get())?;
        let valid = octets.magic == FOOTER_MAGIC
            && octets.version.get() == VERSION
            && octets.crc.get() == salt.crc(page.get(..CRC_OFFSET)?)
            && octets.segment.get() == segment
            && octets.use_number.get() == use_number
            && octets.offset.get() >= octets.end.get()
            && octets.end.get() > PAGE
            && end_of_body <= geometry.footer_offset();
        valid.then(|| Self {
            segment,
            use_number,
            first_sequence: octets.first_sequence.get(),
            last: Follows { use_number, sequence: octets.last_sequence.get(), crc: octets.last_crc.get() },
            end: octets.end.get(),
            next_message: octets.next_message.get(),
            entries: octets.entries.get(),
            offset: octets.offset.get(),
            body_octets: octets.body_octets.get(),
            body_crc: octets.body_crc.get(),
        })
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct BatchHeaderOctets {
    magic: [u8; 8],
    version: U32,
    records: U32,
    sequence: U64,
    use_number: U64,
    segment: U32,
    page: U32,
    body_octets: U32,
    records_crc: U32,
    predecessor_crc: U32,
    reserved_a: U32,
    start_use: U64,
    next_message: U64,
    written_at_ms: U64,
    reserved_b: [u8; 44],
    crc: U32,
}
const _: () = assert!(size_of::<BatchHeaderOctets>() == HEADER_OCTETS);

/// What stands before the records of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    pub(crate) records: u32,
    pub(crate) sequence: u64,
    pub(crate) use_number: u64,
    pub(crate) segment: u32,
    /// Where the batch begins in its segment, in octets (in pages on disk).
    pub(crate) offset: u32,
    pub(crate) body_octets: u32,
    /// Of the headers of its records, which hold the CRCs of their bodies.
    pub(crate) records_crc: u32,
    pub(crate) predecessor_crc: u32,
    pub(crate) start_use: u64,
    pub(crate) next_message: u64,
    pub(crate) written_at_ms: u64,
}

impl BatchHeader {
    /// The header's octets and their CRC, by which the next batch names this one.
    pub(crate) fn encode(&self, salt: Salt) -> ([u8; HEADER_OCTETS], u32) {
        let mut octets = BatchHeaderOctets {
            magic: BATCH_MAGIC,
            version: VERSION.into(),
            records: self.records.into(),
            sequence: self.sequence.into(),
            use_number: self.use_number.into(),
            segment: self.segment.into(),
            page: (self.offset / PAGE).into(),
            body_octets: self.body_octets.into(),
            records_crc: self.records_crc.into(),
            predecessor_crc: self.predecessor_crc.into(),
            reserved_a: 0.into(),
            start_use: self.start_use.into(),
            next_message: self.next_message.into(),
            written_at_ms: self.written_at_ms.into(),
            reserved_b: [0; 44],
            crc: 0.into(),
        };
        let crc = salt.crc(&octets.as_bytes()[..CRC_OFFSET]);
        octets.crc = crc.into();
        (zerocopy::transmute!(octets), crc)
    }

    /// The use of which a batch header at the front of `page` claims to be; its CRC is not looked at.
    pub(crate) fn claimed_use(page: &[u8]) -> Option<u64> {
        let (header, _) = BatchHeaderOctets::read_from_prefix(page).ok()?;
        (header.magic == BATCH_MAGIC && header.version.get() == VERSION).then(|| header.use_number.get())
    }

    /// The header that stands at `offset` of the segment whose octets are given, with its CRC; none when anything about
    /// it is wrong, or when its body would leave the segment or has more octets than a batch may have.
    pub(crate) fn decode(
        octets: &[u8],
        salt: Salt,
        segment: u32,
        use_number: u64,
        offset: u32,
    ) -> Option<(Self, u32)> {
        let at = octets.get(usize::try_from(offset).ok()?..)?;
        let (header, _) = BatchHeaderOctets::read_from_prefix(at).ok()?;
        if header.magic != BATCH_MAGIC || header.version.get() != VERSION {
            return None;
        }
        let crc = salt.crc(at.get(..CRC_OFFSET)?);
        let body_octets = usize::try_from(header.body_octets.get()).ok()?;
        let valid = header.crc.get() == crc
            && header.segment.get() == segment
            && header.use_number.get() == use_number
            && header.page.get() == offset / PAGE
            && HEADER_OCTETS.checked_add(body_octets)? <= at.len().min(BATCH_OCTETS_MAX);
        valid.then(|| {
            let header = Self {
                records: header.records.get(),
                sequence: header.sequence.get(),
                use_number,
                segment,
                offset,
                body_octets: header.body_octets.get(),
                records_crc: header.records_crc.get(),
                predecessor_crc: header.predecessor_crc.get(),
                start_use: header.start_use.get(),
                next_message: header.next_message.get(),
                written_at_ms: header.written_at_ms.get(),
            };
            (header, crc)
        })
    }

    /// Octets of the batch on disk: whole pages.
    pub(crate) fn octets(&self) -> u32 {
        (self.body_octets + HEADER).next_multiple_of(PAGE)
    }
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Kind {
    Content = 1,
    Envelope = 2,
    Outcome = 3,
    Moved = 4,
    Discarded = 5,
}

impl Kind {
    pub(crate) const fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Content,
            2 => Self::Envelope,
            3 => Self::Outcome,
            4 => Self::Moved,
            5 => Self::Discarded,
            _ => return None,
        })
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct RecordHeader {
    pub(crate) kind: U16,
    reserved_a: U16,
    pub(crate) body_octets: U32,
    pub(crate) body_crc: U32,
    reserved_b: U32,
}
const _: () = assert!(size_of::<RecordHeader>() == RECORD_HEADER_OCTETS);

impl RecordHeader {
    /// The same header for a body of this CRC.
    pub(crate) fn with_crc(self, body_crc: u32) -> Self {
        Self { body_crc: body_crc.into(), ..self }
    }

    pub(crate) fn new(kind: Kind, body_octets: u32, body_crc: u32) -> Self {
        Self {
            kind: (kind as u16).into(),
            reserved_a: 0.into(),
            body_octets: body_octets.into(),
            body_crc: body_crc.into(),
            reserved_b: 0.into(),
        }
    }
}

/// Before the octets of a content chunk.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct ContentHead {
    pub(crate) message: [u8; 16],
    pub(crate) owner: U64,
    pub(crate) index: U32,
    pub(crate) reserved: U32,
}
/// Octets of a content record before its content.
pub(crate) const CONTENT_OVERHEAD_OCTETS: usize = RECORD_HEADER_OCTETS + size_of::<ContentHead>();
const _: () = assert!(size_of::<ContentHead>() == 32);

/// Before the postcard bodies of an envelope or a moved record.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct MessageHead {
    pub(crate) message: [u8; 16],
    pub(crate) sequence: U64,
    pub(crate) content_octets: U64,
    pub(crate) chunks: U32,
    pub(crate) envelope_octets: U32,
    pub(crate) states_octets: U32,
    pub(crate) reserved: U32,
    pub(crate) content_sha256: [u8; 32],
}
const _: () = assert!(size_of::<MessageHead>() == 80);

/// Before the postcard body of an outcome.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct OutcomeHead {
    pub(crate) sequence: U64,
    pub(crate) at_ms: U64,
}
const _: () = assert!(size_of::<OutcomeHead>() == 16);

impl ContentHead {
    pub(crate) const fn id(&self) -> MessageId {
        MessageId(self.message)
    }
}

/// All that the log knows about one recipient's way. In a moved record and in [`crate::MessageDetail`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipientRecord {
    /// Where it stands.
    pub state: RecipientState,
    /// How many outcomes of attempts were recorded (delivered, transferred, deferred, failed).
    pub attempts: u16,
    /// The diagnostic of the last of them.
    pub last: Option<Diagnostic>,
    /// Whether the sender was told of the delay.
    pub delay_reported: bool,
}

/// The CRC of what `crc` covers and `octets` behind it.
pub(crate) fn append_crc(crc: u32, octets: &[u8]) -> u32 {
    crc32c::crc32c_append(crc, octets)
}

/// Splits the record at the front of a batch's body: its header, its body, and the octets that it takes with padding.
pub(crate) fn split_record(octets: &[u8]) -> Option<(RecordHeader, &[u8], usize)> {
    let (header, rest) = RecordHeader::read_from_prefix(octets).ok()?;
    let length = usize::try_from(header.body_octets.get()).ok()?;
    let body = rest.get(..length)?;
    let taken = (RECORD_HEADER_OCTETS + length).next_multiple_of(RECORD_ALIGNMENT);
    (taken <= octets.len()).then_some((header, body, taken))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_superblock_reads_back_and_every_flipped_bit_is_seen() {
        let superblock = Superblock::new(Geometry { segment_octets: 1 << 20, segments: 8 }, [3; 16]);
        let octets = superblock.encode();
        assert_eq!(Superblock::decode(&octets), Some(superblock));
        for bit in 0..octets.len() * 8 {
            let mut flipped = octets;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Superblock::decode(&flipped), None, "bit {bit}");
        }
    }

    #[test]
    fn a_batch_header_is_valid_in_its_own_use_segment_and_page_alone() {
        let salt = Salt::of_use(&[1; 16], 2, 3);
        let header = BatchHeader {
            records: 0,
            sequence: 9,
            use_number: 3,
            segment: 2,
            offset: 0,
            body_octets: 0,
            records_crc: 0,
            predecessor_crc: 0,
            start_use: 1,
            next_message: 1,
            written_at_ms: 0,
        };
        let (octets, crc) = header.encode(salt);
        assert_eq!(BatchHeader::decode(&octets, salt, 2, 3, 0), Some((header, crc)));
        assert_eq!(BatchHeader::decode(&octets, Salt::of_use(&[1; 16], 2, 4), 2, 4, 0), None);
        assert_eq!(BatchHeader::decode(&octets, Salt::of_use(&[2; 16], 2, 3), 2, 3, 0), None);
        let mut moved = vec![0; PAGE_OCTETS];
        moved.extend_from_slice(&octets);
        assert_eq!(BatchHeader::decode(&moved, salt, 2, 3, PAGE), None);
    }

    #[test]
    fn a_batch_header_that_claims_more_than_a_batch_may_have_is_none() {
        let salt = Salt::of_use(&[1; 16], 2, 3);
        let mut octets = vec![0; BATCH_OCTETS_MAX + 1];
        let body_octets_max = u32::try_from(BATCH_OCTETS_MAX - HEADER_OCTETS).unwrap();
        for (body_octets, is_valid) in [(body_octets_max, true), (body_octets_max + 1, false)] {
            let header = BatchHeader {
                records: 0,
                sequence: 9,
                use_number: 3,
                segment: 2,
                offset: 0,
                body_octets,
                records_crc: 0,
                predecessor_crc: 0,
                start_use: 1,
                next_message: 1,
                written_at_ms: 0,
            };
            octets[..HEADER_OCTETS].copy_from_slice(&header.encode(salt).0);
            assert_eq!(BatchHeader::decode(&octets, salt, 2, 3, 0).is_some(), is_valid);
        }
    }

    #[test]
    fn a_segment_header_belongs_to_one_log_and_one_segment() {
        let header = SegmentHeader {
            segment: 4,
            use_number: 7,
            first_sequence: 20,
            follows: Follows { use_number: 6, sequence: 19, crc: 5 },
            start_use: 2,
            next_message: 8,
            opened_at_ms: 1,
        };
        let octets = header.encode(&[1; 16]);
        assert_eq!(SegmentHeader::decode(&octets, &[1; 16], 4), Some(header));
        assert_eq!(SegmentHeader::decode(&octets, &[2; 16], 4), None);
        assert_eq!(SegmentHeader::decode(&octets, &[1; 16], 5), None);
    }
}
