//! Every record of a segment, one after the other, and what is left of those in a damaged range. Bytes in, sights out.
//!
//! Each record has a CRC of its own, salted as that of its batch: it tells the records that are whole from those that the
//! damage has hit. Where the headers of a batch's records are good, the log knows the batch, and its damage is that of single
//! records; where they are not, whole records are looked for. Which of it is damage and which is a tail that nobody was
//! promised, recovery has decided.

use std::ops::Range;

use crate::format::{
    BatchHeader, HEADER, Kind, PAGE, PAGE_OCTETS, RECORD_ALIGNMENT, RECORD_HEADER_OCTETS, Salt, split_record,
};
use crate::scan::{Body, judge};

use super::sums::Sums;

/// A segment in memory, and what makes it readable.
pub(super) struct Segment<'a> {
    pub(super) octets: &'a [u8],
    pub(super) salt: Salt,
    pub(super) number: u32,
    pub(super) use_number: u64,
    /// Batches with a higher sequence were refused, and count for nothing.
    pub(super) limit: Option<u64>,
    pub(super) sums: Sums<'a>,
}

/// What a stretch of octets is, or was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// The header of a batch.
    BatchHeader,
    /// A record of this kind.
    Record(Kind),
    /// A record of a kind that is not known, or, where it is damaged, one or more of which nothing can be told.
    Unknown,
}

/// What is seen on the way.
pub(super) enum Sight<'a> {
    /// A batch that the log knows. Its records follow.
    Batch(BatchHeader),
    /// A record.
    Record(Record<'a>),
}

/// A record, or what is left of some.
pub(super) struct Record<'a> {
    /// In the segment.
    pub(super) offset: u32,
    /// Header and body, without padding; of what is damaged as far as it is.
    pub(super) octets: u32,
    pub(super) what: What,
    /// Empty where nothing can be told.
    pub(super) body: &'a [u8],
    /// Its own CRC is right.
    pub(super) is_whole: bool,
    /// The log knows its batch.
    pub(super) holds: bool,
}

impl<'a> Segment<'a> {
    /// Looks at everything, in the order of the log. `damage`: the ranges of the segment in which recovery has missed batches or
    /// records, ascending. Those of batches begin where a batch would, those of records never do.
    pub(super) fn walk(&self, damage: &[Range<u32>], see: &mut dyn FnMut(Sight<'a>)) {
        let length = crate::batch::to_u32(self.octets.len());
        let mut offset = PAGE;
        while offset < length {
            if let Some(range) = damage.iter().find(|range| range.contains(&offset)) {
                let end = range.end.min(length);
                self.salvage(offset..end, see);
                offset = end;
                continue;
            }
            match self.batch(offset) {
                Some(header) if self.limit.is_none_or(|limit| header.sequence <= limit) => {
                    let body = offset + HEADER..offset + HEADER + header.body_octets;
                    let is_known = match judge(self.octets(body.clone()), &header, self.salt) {
                        Body::Whole => true,
                        // A torn tail looks the same, but recovery has missed no record in it.
                        Body::Parts => damage.iter().any(|range| body.contains(&range.start)),
                        Body::Lost => false,
                    };
                    if is_known {
                        see(Sight::Batch(header));
                        self.records(body, true, see);
                    }
                    offset += header.octets();
                }
                Some(header) => offset += header.octets(),
                None => offset += PAGE,
            }
        }
    }

    fn batch(&self, offset: u32) -> Option<BatchHeader> {
        let found = BatchHeader::decode(self.octets, self.salt, self.number, self.use_number, offset);
        found.map(|(header, _)| header)
    }

    /// Looks for records in a range in which batches are damaged.
    fn salvage(&self, range: Range<u32>, see: &mut dyn FnMut(Sight<'a>)) {
        let mut offset = range.start;
        while offset < range.end {
            let end = match self.batch(offset) {
                Some(header) => {
                    let end = (offset + HEADER + header.body_octets).min(range.end);
                    self.records(offset + HEADER..end, false, see);
                    offset + header.octets()
                }
                None => {
                    let next = (offset..range.end).step_by(PAGE_OCTETS).skip(1);
                    let end = next.clone().find(|at| self.batch(*at).is_some()).unwrap_or(range.end);
                    let header = Record {
                        offset,
                        octets: HEADER,
                        what: What::BatchHeader,
                        body: &[],
                        is_whole: false,
                        holds: false,
                    };
                    see(Sight::Record(header));
                    self.records((offset + HEADER).min(end)..end, false, see);
                    end
                }
            };
            offset = end;
        }
    }

    /// Looks at the records of a range in which the first one begins; behind the last there may be zeroes.
    fn records(&self, range: Range<u32>, holds: bool, see: &mut dyn FnMut(Sight<'a>)) {
        let mut offset = range.start;
        while offset < range.end {
            let rest = self.octets(offset..range.end);
            if let Some((what, body, taken)) = self.whole_record(rest) {
                let octets = crate::batch::to_u32(RECORD_HEADER_OCTETS + body.len());
                see(Sight::Record(Record { offset, octets, what, body, is_whole: true, holds }));
                offset += crate::batch::to_u32(taken);
                continue;
            }
            if rest.iter().all(|octet| *octet == 0) {
                return;
            }
            let (what, body, taken) = self.damaged_record(offset, rest, holds);
            let octets = crate::batch::to_u32(taken);
            see(Sight::Record(Record { offset, octets, what, body, is_whole: false, holds }));
            offset += crate::batch::to_u32(taken.next_multiple_of(RECORD_ALIGNMENT));
        }
    }

    fn octets(&self, range: Range<u32>) -> &'a [u8] {
        &self.octets[range.start as usize..range.end as usize]
    }

    /// The record at the front, if its CRC is right: what it is, body, and octets with its padding.
    fn whole_record(&self, octets: &'a [u8]) -> Option<(What, &'a [u8], usize)> {
        let (header, body, taken) = split_record(octets)?;
        let number = header.kind.get();
        // What is zero is no record: it would be one without a body.
        if number == 0 || body.is_empty() {
            return None;
        }
        if header.body_crc.get() != self.salt.crc(body) {
            return None;
        }
        Some((Kind::from_number(number).map_or(What::Unknown, What::Record), body, taken))
    }

    /// What can be told of a record that is damaged, and how many octets it takes: as many as its header says if the header
    /// `holds`, or if a record begins behind them or nothing is left there; else up to the next one that is whole.
    fn damaged_record(&self, offset: u32, octets: &'a [u8], holds: bool) -> (What, &'a [u8], usize) {
        if let Some((header, body, taken)) = split_record(octets) {
            let rest = &octets[taken..];
            let ends_here =
                holds || self.whole_record(rest).is_some() || rest.iter().all(|octet| *octet == 0);
            match Kind::from_number(header.kind.get()) {
                Some(kind) if ends_here => return (What::Record(kind), body, taken),
                None if holds => return (What::Unknown, &[], taken),
                _ => {}
            }
        }
        let is_whole = |at: &usize| {
            let here = &octets[*at..];
            self.sums.may_be_whole(self.salt, offset as usize + at, here) && self.whole_record(here).is_some()
        };
        let next = (RECORD_ALIGNMENT..octets.len()).step_by(RECORD_ALIGNMENT).find(is_whole);
        (What::Unknown, &[], next.unwrap_or(octets.len()))
    }
}
