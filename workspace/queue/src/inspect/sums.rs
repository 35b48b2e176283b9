//! Finds whole records in a damaged range in a time that its content has no say in.
//!
//! Any eight octets may be the beginning of a record, and content can be made so that all of them say that a long body
//! follows. The CRC of each would be as much work as reading that body. So the CRCs from the beginning of the segment are kept
//! once, and that of a body follows from the two at its ends.

use std::cell::OnceCell;

use crate::format::{RECORD_ALIGNMENT, RECORD_HEADER_OCTETS, Salt, split_record};
use crate::log::BATCH_OCTETS_MAX;

/// A segment's octets, and when they are asked for the CRCs of what stands before each place where a record may begin.
pub(super) struct Sums<'a> {
    octets: &'a [u8],
    before: OnceCell<Vec<u32>>,
}

impl<'a> Sums<'a> {
    pub(super) const fn new(octets: &'a [u8]) -> Self {
        Self { octets, before: OnceCell::new() }
    }

    /// Whether what stands at `offset` of the segment, `octets` up to the end of the range, has the CRC that its header tells,
    /// and room in a batch.
    pub(super) fn may_be_whole(&self, salt: Salt, offset: usize, octets: &[u8]) -> bool {
        let Some((header, body, taken)) = split_record(octets) else { return false };
        if header.kind.get() == 0 || body.is_empty() || taken > BATCH_OCTETS_MAX {
            return false;
        }
        let begin = offset + RECORD_HEADER_OCTETS;
        // CRCs are linear: what stood before the body is taken away from both ends, and the salt put in its place.
        let before = crc32c::crc32c_combine(self.up_to(begin) ^ salt.crc(&[]), 0, body.len());
        header.body_crc.get() == before ^ self.up_to(begin + body.len())
    }

    /// The CRC of the segment's octets before `end`.
    fn up_to(&self, end: usize) -> u32 {
        let before = self.before.get_or_init(|| {
            let mut crc = 0;
            let mut before = vec![crc];
            before.extend(self.octets.chunks(RECORD_ALIGNMENT).map(|octets| {
                crc = crc32c::crc32c_append(crc, octets);
                crc
            }));
            before
        });
        let at = end / RECORD_ALIGNMENT;
        crc32c::crc32c_append(before[at], &self.octets[at * RECORD_ALIGNMENT..end])
    }
}
