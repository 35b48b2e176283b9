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
        let used_end = self.used_end(&range);
        let mut offset = range.start;
        let mut has_missed = false;
        while offset < used_end {
            let rest = self.octets(offset..range.end);
            // A log without damage does without the sums.
            let asks = has_missed;
            if let Some((what, body, taken)) = self.whole_record(offset, rest, asks) {
                let octets = crate::batch::to_u32(RECORD_HEADER_OCTETS + body.len());
                see(Sight::Record(Record { offset, octets, what, body, is_whole: true, holds }));
                offset += crate::batch::to_u32(taken);
                continue;
            }
            has_missed = true;
            let (what, body, taken) = self.damaged_record(offset, rest, holds, used_end);
            let octets = crate::batch::to_u32(taken);
            see(Sight::Record(Record { offset, octets, what, body, is_whole: false, holds }));
            offset += crate::batch::to_u32(taken.next_multiple_of(RECORD_ALIGNMENT));
        }
    }

    /// Where the zeroes at the end of a range begin.
    fn used_end(&self, range: &Range<u32>) -> u32 {
        let last = self.octets(range.clone()).iter().rposition(|octet| *octet != 0);
        last.map_or(range.start, |last| range.start + crate::batch::to_u32(last) + 1)
    }

    fn octets(&self, range: Range<u32>) -> &'a [u8] {
        &self.octets[range.start as usize..range.end as usize]
    }

    /// The record at the front, which is `offset` of the segment, if its CRC is right: what it is, body, and octets with its
    /// padding. The sums are asked first where one header after the other may claim the same body.
    fn whole_record(&self, offset: u32, octets: &'a [u8], asks: bool) -> Option<(What, &'a [u8], usize)> {
        if asks && !self.sums.may_be_whole(self.salt, offset as usize, octets) {
            return None;
        }
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
    fn damaged_record(
        &self,
        offset: u32,
        octets: &'a [u8],
        holds: bool,
        used_end: u32,
    ) -> (What, &'a [u8], usize) {
        let is_whole =
            |at: usize| self.whole_record(offset + crate::batch::to_u32(at), &octets[at..], true).is_some();
        if let Some((header, body, taken)) = split_record(octets) {
            let ends_here = holds || offset + crate::batch::to_u32(taken) >= used_end || is_whole(taken);
            match Kind::from_number(header.kind.get()) {
                Some(kind) if ends_here => return (What::Record(kind), body, taken),
                None if holds => return (What::Unknown, &[], taken),
                _ => {}
            }
        }
        let next = (RECORD_ALIGNMENT..octets.len()).step_by(RECORD_ALIGNMENT).find(|at| is_whole(*at));
        (What::Unknown, &[], next.unwrap_or(octets.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{HEADER_OCTETS, RecordHeader};
    use std::time::{Duration, Instant};
    use zerocopy::IntoBytes;

    fn salt() -> Salt {
        Salt::of_use(&[9; 16], 0, 1)
    }

    /// Walks over octets that look like more than they are; gives how many sights there were.
    fn walk(octets: &[u8]) -> usize {
        let segment =
            Segment { octets, salt: salt(), number: 0, use_number: 1, limit: None, sums: Sums::new(octets) };
        let damage = PAGE..crate::batch::to_u32(octets.len());
        let mut seen = 0;
        let started = Instant::now();
        segment.walk(&[damage], &mut |_| seen += 1);
        // Reading every body that is claimed takes minutes.
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        seen
    }

    #[test]
    fn content_of_which_each_eight_octets_claim_a_long_body_is_searched_once() {
        let mut octets = vec![0; 8 << 20];
        for (at, piece) in octets.chunks_mut(8).enumerate() {
            let length = crate::batch::to_u32((4 << 20) - 64 + at % 1024 * 8);
            piece[..2].copy_from_slice(&1_u16.to_le_bytes());
            piece[4..].copy_from_slice(&length.to_le_bytes());
        }
        assert_eq!(walk(&octets), 2);
    }

    #[test]
    fn records_between_which_headers_claim_all_that_is_left_are_found_in_one_search() {
        let mut octets = vec![0; 4 << 20];
        let length = octets.len();
        let whole = RecordHeader::new(Kind::Discarded, 1, salt().crc(&[7]));
        let mut at = PAGE_OCTETS + HEADER_OCTETS;
        let mut count = 0;
        // What follows the last of them is zero, but for the last octet of all.
        while at < length / 2 {
            let claimed = if count % 2 == 0 { length - at } else { length / 2 + 4_096 - at };
            let claim = RecordHeader::new(Kind::Content, crate::batch::to_u32(claimed - 24), 0);
            octets[at..at + 16].copy_from_slice(claim.as_bytes());
            // Of a kind that nobody knows.
            octets[at] = 99;
            octets[at + 16..at + 32].copy_from_slice(whole.as_bytes());
            octets[at + 32] = 7;
            at += 40;
            count += 1;
        }
        octets[length - 1] = 1;
        // Header, each claim and each record, and what is left.
        assert_eq!(walk(&octets), 1 + 2 * count + 1);
    }
}
