//! Finding the batches of one use in the octets of its segment, and judging them. FORMAT.md, "Recovery".
//!
//! Applies nothing: what follows from a batch is `recovery`'s.

use crate::format::{BatchHeader, HEADER_OCTETS, PAGE, PAGE_OCTETS, Salt, append_crc, split_record};
use zerocopy::IntoBytes;

/// How much of a batch's body is as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// All of it.
    Whole,
    /// The headers of the records, and not the bodies of some.
    Parts,
    /// Where the records are is not known.
    Lost,
}

/// One batch found in a segment.
pub(crate) struct Found {
    pub(crate) header: BatchHeader,
    pub(crate) crc: u32,
    pub(crate) body: Body,
}

impl Found {
    /// The records of the batch in the octets of its segment.
    pub(crate) fn body_in<'a>(&self, octets: &'a [u8]) -> &'a [u8] {
        let start = self.header.offset as usize + HEADER_OCTETS;
        &octets[start..start + self.header.body_octets as usize]
    }
}

/// What a segment holds of one use.
pub(crate) struct Scan {
    /// Batches with a valid header, ascending; the last one's body is whole.
    pub(crate) batches: Vec<Found>,
    /// Ranges in which no batch was found although there is a valid header behind them.
    pub(crate) gaps: Vec<(u32, u32)>,
    /// Batches behind the last whole one.
    pub(crate) trailing: Vec<Found>,
    /// The octet behind the last whole one.
    pub(crate) end: u32,
}

/// Finds the batches of one use in the octets of its segment. `before`: sequence and CRC that the first one follows,
/// if the segment's header is there to tell.
pub(crate) fn scan(
    octets: &[u8],
    salt: Salt,
    segment: u32,
    use_number: u64,
    before: Option<(u64, u32)>,
) -> Scan {
    let length = crate::batch::to_u32(octets.len());
    let mut before = before;
    let decode = |offset: u32, before: Option<(u64, u32)>| {
        BatchHeader::decode(octets, salt, segment, use_number, offset).filter(|(header, _)| match before {
            None => true,
            Some((sequence, crc)) => {
                header.sequence > sequence
                    && (header.sequence - 1 != sequence || header.predecessor_crc == crc)
            }
        })
    };
    let mut found = Scan { batches: Vec::new(), gaps: Vec::new(), trailing: Vec::new(), end: PAGE };
    let mut offset = PAGE;
    while offset < length {
        let Some((header, crc)) = decode(offset, before) else {
            let next = (offset..length).step_by(PAGE_OCTETS).skip(1).find(|at| decode(*at, before).is_some());
            let Some(next) = next else { break };
            found.gaps.push((offset, next));
            offset = next;
            continue;
        };
        let batch = found_at(octets, header, crc, salt);
        let behind = offset.saturating_add(header.octets());
        if batch.body == Body::Whole {
            before = Some((header.sequence, crc));
            offset = behind;
            found.batches.append(&mut found.trailing);
            found.batches.push(batch);
            found.end = offset.min(length);
            continue;
        }
        // It may be what is left of an older write, over which others were written since: its length and its name say nothing
        // then.
        let inside = (offset..behind.min(length)).step_by(PAGE_OCTETS).skip(1);
        let newer = inside
            .filter_map(|at| decode(at, before))
            .find(|(header, crc)| found_at(octets, *header, *crc, salt).body == Body::Whole);
        if let Some((newer, _)) = newer {
            found.gaps.push((offset, newer.offset));
            offset = newer.offset;
        } else {
            found.trailing.push(batch);
            offset = behind;
        }
    }
    found
}

fn found_at(octets: &[u8], header: BatchHeader, crc: u32, salt: Salt) -> Found {
    let mut found = Found { header, crc, body: Body::Lost };
    found.body = judge(found.body_in(octets), &header, salt);
    found
}

/// Compares a batch's body with its CRCs.
pub(crate) fn judge(body: &[u8], header: &BatchHeader, salt: Salt) -> Body {
    let (mut rest, mut records, mut crc) = (body, 0_u32, salt.crc(&[]));
    let mut bodies_are_whole = true;
    while let Some((record, octets, taken)) = split_record(rest) {
        records += 1;
        crc = append_crc(crc, record.as_bytes());
        bodies_are_whole &= record.body_crc.get() == salt.crc(octets);
        rest = &rest[taken..];
    }
    let headers_are_whole = rest.is_empty() && records == header.records && crc == header.records_crc;
    match (headers_are_whole, bodies_are_whole) {
        (true, true) => Body::Whole,
        (true, false) => Body::Parts,
        (false, _) => Body::Lost,
    }
}
