//! FORMAT.md, read a second time: what a write to the log holds, without the log's own code.
//!
//! The histories learn from it which message stands where, and the tests of damage which octets are which field. A test
//! compares the offsets with those of FORMAT.md. Not here: what follows from what was read (`ledger`).

use std::ops::Range;

use sternpost_message::{MessageId, Outcome, RecipientRange};

/// Octets of a page.
pub const PAGE_OCTETS: usize = 4096;
/// Where segment 0 begins.
pub const HEAD_OCTETS: u64 = 65_536;
/// Octets of a header of segment or batch.
pub const HEADER_OCTETS: usize = 128;
/// Octets before a record's body.
pub const RECORD_HEADER_OCTETS: usize = 16;
/// Where the two superblocks stand.
pub const SUPERBLOCKS: [u64; 2] = [0, 32_768];

/// Magic of a segment header.
pub const SEGMENT_MAGIC: &[u8; 8] = b"STERNSEG";
/// Magic of an index's footer.
pub const FOOTER_MAGIC: &[u8; 8] = b"STERNIDX";
/// Magic of a batch.
pub const BATCH_MAGIC: &[u8; 8] = b"STERNBAT";

/// Offsets within the superblock.
pub mod superblock {
    /// The log's secret, 16 octets.
    pub const SECRET: usize = 24;
}

/// Offsets within a batch's header.
pub mod batch {
    /// Log sequence, 8 octets.
    pub const SEQUENCE: usize = 16;
    /// Use number, 8 octets.
    pub const USE_NUMBER: usize = 24;
    /// Segment index, 4 octets.
    pub const SEGMENT: usize = 32;
    /// Page within the segment, 4 octets.
    pub const PAGE: usize = 36;
    /// Octets of the body, 4.
    pub const BODY_OCTETS: usize = 40;
    /// CRC of the headers of the records, 4 octets.
    pub const RECORDS_CRC: usize = 44;
    /// CRC of the predecessor's header, 4 octets.
    pub const PREDECESSOR_CRC: usize = 48;
    /// The lowest living use, 8 octets.
    pub const START: usize = 56;
    /// CRC of the header, 4 octets.
    pub const CRC: usize = 124;
}

/// Offsets within an index's footer, which is the last page of its segment.
pub mod footer {
    /// Where in the segment the entries begin, 4 octets.
    pub const ENTRIES: usize = 60;
    /// Octets of the entries, 4.
    pub const ENTRIES_OCTETS: usize = 64;
}

/// What a record speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// Content: chunk `index` of a message; `owner` is 0 unless reclaim has moved it.
    Chunk {
        /// The message.
        id: MessageId,
        /// Its sequence, if reclaim wrote the chunk.
        owner: u64,
        /// Which chunk.
        index: u32,
    },
    /// An envelope, or one that was moved with its states.
    Message {
        /// The message.
        id: MessageId,
        /// Its place in the order of acceptance.
        sequence: u64,
        /// It was moved.
        is_moved: bool,
    },
    /// Outcomes of a message.
    Outcome {
        /// The message.
        sequence: u64,
        /// What became of whom.
        outcomes: Vec<(RecipientRange, Outcome)>,
    },
    /// The end of a partial message.
    Discarded {
        /// The message.
        id: MessageId,
    },
    /// A record that is not one of mail.
    Other {
        /// Its kind.
        kind: u16,
    },
}

/// A record of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where header and body stand, from the batch's first octet.
    pub place: Range<usize>,
    /// Its kind.
    pub kind: u16,
    /// What it speaks of.
    pub spoken: Spoken,
}

/// A batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Octets of the whole batch: whole pages.
    pub octets: usize,
    /// Its log sequence.
    pub sequence: u64,
    /// The use of its segment.
    pub use_number: u64,
    /// The lowest living use, as it says.
    pub start_use: u64,
    /// Its records.
    pub records: Vec<Record>,
}

/// What one write holds: batches, with the segment's header page before them if it opens the segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Octets before the first batch: 0 or a page.
    pub header_octets: usize,
    /// The batches, one behind the other.
    pub batches: Vec<Batch>,
}

/// Reads what was given to the disk to write.
#[must_use]
pub fn read_write(octets: &[u8]) -> Write {
    let header_octets = if octets.starts_with(SEGMENT_MAGIC) { PAGE_OCTETS } else { 0 };
    let mut batches = Vec::new();
    let mut rest = octets.get(header_octets..).unwrap_or_default();
    while let Some(batch) = read_batch(rest) {
        rest = rest.get(batch.octets..).unwrap_or_default();
        batches.push(batch);
    }
    Write { header_octets, batches }
}

/// Reads the batch at the front of `octets`, without looking at any CRC.
#[must_use]
pub fn read_batch(octets: &[u8]) -> Option<Batch> {
    if !octets.starts_with(BATCH_MAGIC) {
        return None;
    }
    let body_octets = usize::try_from(u32_at(octets, batch::BODY_OCTETS)?).ok()?;
    let end = HEADER_OCTETS.checked_add(body_octets)?;
    octets.get(..end)?;
    let mut records = Vec::new();
    let mut at = HEADER_OCTETS;
    while at < end {
        let record = read_record(octets, at, end)?;
        at = record.place.end.next_multiple_of(8);
        records.push(record);
    }
    Some(Batch {
        octets: end.next_multiple_of(PAGE_OCTETS),
        sequence: u64_at(octets, batch::SEQUENCE)?,
        use_number: u64_at(octets, batch::USE_NUMBER)?,
        start_use: u64_at(octets, batch::START)?,
        records,
    })
}

fn read_record(octets: &[u8], at: usize, end: usize) -> Option<Record> {
    let kind = u16::from_le_bytes(octets.get(at..at + 2)?.try_into().ok()?);
    let length = usize::try_from(u32_at(octets, at + 4)?).ok()?;
    let body_at = at + RECORD_HEADER_OCTETS;
    let place = at..body_at.checked_add(length).filter(|after| *after <= end)?;
    let body = &octets[body_at..place.end];
    let id = |octets: &[u8]| Some(MessageId(octets.get(..16)?.try_into().ok()?));
    let spoken = match kind {
        1 => Spoken::Chunk { id: id(body)?, owner: u64_at(body, 16)?, index: u32_at(body, 24)? },
        2 | 4 => Spoken::Message { id: id(body)?, sequence: u64_at(body, 16)?, is_moved: kind == 4 },
        3 => Spoken::Outcome {
            sequence: u64_at(body, 0)?,
            outcomes: postcard::from_bytes(body.get(16..)?).ok()?,
        },
        5 => Spoken::Discarded { id: id(body)? },
        kind => Spoken::Other { kind },
    };
    Some(Record { place, kind, spoken })
}

/// Four octets as a number.
#[must_use]
pub fn u32_at(octets: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(octets.get(at..at + 4)?.try_into().ok()?))
}

/// Eight octets as a number.
#[must_use]
pub fn u64_at(octets: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(octets.get(at..at + 8)?.try_into().ok()?))
}

/// The start of a batch's CRCs: CRC32C(secret ‖ `"batch"` ‖ segment index ‖ use number).
#[must_use]
pub fn batch_salt(secret: &[u8], segment: u32, use_number: u64) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(secret), b"batch");
    let crc = crc32c::crc32c_append(crc, &segment.to_le_bytes());
    crc32c::crc32c_append(crc, &use_number.to_le_bytes())
}

/// Makes every whole batch that stands behind the last good one of a segment its continuation: use, place, sequence and CRCs
/// are what they would have to be.
pub fn revive(octets: &mut [u8], secret: &[u8], segment: usize) {
    let Ok(segment) = u32::try_from(segment) else { return };
    let Some(mut last) = last_batch(octets, secret, segment) else { return };
    let mut at = last.end;
    while at + PAGE_OCTETS <= octets.len() {
        match read_batch(&octets[at..]).filter(|batch| batch.octets <= octets.len() - at) {
            Some(batch) if is_whole(&octets[at..], secret) => {
                last = continued(octets, at, batch.octets, &last, secret, segment);
                at = last.end;
            }
            _ => at += PAGE_OCTETS,
        }
    }
}

/// The last good batch of a segment.
struct LastBatch {
    use_number: u64,
    sequence: u64,
    crc: u32,
    end: usize,
}

fn last_batch(octets: &[u8], secret: &[u8], segment: u32) -> Option<LastBatch> {
    let mut last: Option<LastBatch> = None;
    let mut at = PAGE_OCTETS;
    while let Some(batch) = octets.get(at..).and_then(read_batch) {
        let is_next = last
            .as_ref()
            .is_none_or(|last| batch.use_number == last.use_number && batch.sequence > last.sequence);
        if !is_next
            || !is_whole(&octets[at..], secret)
            || u32_at(octets, at + batch::SEGMENT) != Some(segment)
        {
            break;
        }
        let (use_number, sequence) = (batch.use_number, batch.sequence);
        let crc = u32_at(octets, at + batch::CRC)?;
        at += batch.octets;
        last = Some(LastBatch { use_number, sequence, crc, end: at });
    }
    last
}

/// Whether header and body at the front have the CRCs of the place and use that they name.
fn is_whole(octets: &[u8], secret: &[u8]) -> bool {
    let numbers = || {
        let segment = u32_at(octets, batch::SEGMENT)?;
        let salt = batch_salt(secret, segment, u64_at(octets, batch::USE_NUMBER)?);
        let body_octets = usize::try_from(u32_at(octets, batch::BODY_OCTETS)?).ok()?;
        let end = HEADER_OCTETS.checked_add(body_octets)?;
        octets.get(..end)?;
        let (records_crc, bodies_are_whole) = sum_records(octets, end, salt)?;
        let header_is_whole =
            u32_at(octets, batch::CRC)? == crc32c::crc32c_append(salt, &octets[..batch::CRC]);
        Some(u32_at(octets, batch::RECORDS_CRC)? == records_crc && bodies_are_whole && header_is_whole)
    };
    numbers().unwrap_or(false)
}

/// The CRC of the headers of a batch's records, and whether each body has the CRC that its header names.
fn sum_records(octets: &[u8], end: usize, salt: u32) -> Option<(u32, bool)> {
    let (mut at, mut crc, mut are_whole) = (HEADER_OCTETS, salt, true);
    while at < end {
        let place = read_record(octets, at, end)?.place;
        crc = crc32c::crc32c_append(crc, &octets[at..at + RECORD_HEADER_OCTETS]);
        let body = &octets[at + RECORD_HEADER_OCTETS..place.end];
        are_whole &= u32_at(octets, at + 8)? == crc32c::crc32c_append(salt, body);
        at = place.end.next_multiple_of(8);
    }
    Some((crc, are_whole))
}

/// Rewrites the batch at `at` as the one that follows `last`.
fn continued(
    octets: &mut [u8],
    at: usize,
    batch_octets: usize,
    last: &LastBatch,
    secret: &[u8],
    segment: u32,
) -> LastBatch {
    let salt = batch_salt(secret, segment, last.use_number);
    let batch = &mut octets[at..at + batch_octets];
    let body_octets = u32_at(batch, batch::BODY_OCTETS).and_then(|octets| usize::try_from(octets).ok());
    let body_end = HEADER_OCTETS + body_octets.unwrap_or(0);
    let (mut record, mut records_crc) = (HEADER_OCTETS, salt);
    while record < body_end {
        let length = u32_at(batch, record + 4).and_then(|octets| usize::try_from(octets).ok()).unwrap_or(0);
        let body = record + RECORD_HEADER_OCTETS..record + RECORD_HEADER_OCTETS + length;
        let crc = crc32c::crc32c_append(salt, &batch[body.clone()]);
        batch[record + 8..record + 12].copy_from_slice(&crc.to_le_bytes());
        records_crc = crc32c::crc32c_append(records_crc, &batch[record..record + RECORD_HEADER_OCTETS]);
        record = body.end.next_multiple_of(8);
    }
    let sequence = last.sequence + 1;
    let page = u32::try_from(at / PAGE_OCTETS).expect("a segment has few pages");
    batch[batch::SEQUENCE..][..8].copy_from_slice(&sequence.to_le_bytes());
    batch[batch::USE_NUMBER..][..8].copy_from_slice(&last.use_number.to_le_bytes());
    batch[batch::SEGMENT..][..4].copy_from_slice(&segment.to_le_bytes());
    batch[batch::PAGE..][..4].copy_from_slice(&page.to_le_bytes());
    batch[batch::RECORDS_CRC..][..4].copy_from_slice(&records_crc.to_le_bytes());
    batch[batch::PREDECESSOR_CRC..][..4].copy_from_slice(&last.crc.to_le_bytes());
    let crc = crc32c::crc32c_append(salt, &batch[..batch::CRC]);
    batch[batch::CRC..][..4].copy_from_slice(&crc.to_le_bytes());
    LastBatch { use_number: last.use_number, sequence, crc, end: at + batch_octets }
}

/// Records in a few words each.
#[must_use]
pub fn speech(spoken: &[Spoken]) -> String {
    let words = spoken.iter().map(|spoken| match spoken {
        Spoken::Chunk { id, index, owner } => format!("chunk {id}/{index} of {owner}"),
        Spoken::Message { id, sequence, is_moved } => {
            format!("{} {id} as {sequence}", if *is_moved { "moved" } else { "envelope" })
        }
        Spoken::Outcome { sequence, outcomes } => {
            let of: Vec<_> = outcomes
                .iter()
                .map(|(range, outcome)| format!("{}+{} {}", range.first, range.count, outcome_name(outcome)))
                .collect();
            format!("outcome of {sequence}: {}", of.join(" "))
        }
        Spoken::Discarded { id } => format!("discarded {id}"),
        Spoken::Other { kind } => format!("kind {kind}"),
    });
    words.collect::<Vec<_>>().join(", ")
}

const fn outcome_name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Delivered(_) => "delivered",
        Outcome::Transferred(_) => "transferred",
        Outcome::Deferred { .. } => "deferred",
        Outcome::Failed(_) => "failed",
        Outcome::DelayReported => "delay reported",
        Outcome::Reported { .. } => "reported",
        Outcome::Discarded { .. } => "discarded",
        Outcome::DeliveredReportOwed(_) => "delivered, report owed",
        Outcome::RelayedReportOwed(_) => "relayed, report owed",
    }
}
