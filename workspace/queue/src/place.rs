//! Where a record is, in 8 octets: a million living messages keep two of these each.

/// The longest record: 25 bits. A batch is no longer either.
pub(crate) const RECORD_OCTETS_MAX: usize = (1 << OCTETS_BITS) - 1;
/// Segments that a place can name: 65,536 of 64 MiB are 4 TiB.
pub(crate) const SEGMENTS_MAX: u32 = 1 << SEGMENT_BITS;

const SEGMENT_BITS: u32 = 16;
/// A segment has at most 64 MiB, and records begin at multiples of 8.
const OFFSET_BITS: u32 = 23;
const OCTETS_BITS: u32 = 25;
const _: () = assert!(SEGMENT_BITS + OFFSET_BITS + OCTETS_BITS == 64);
const _: () = assert!(crate::format::SEGMENT_OCTETS_MAX as u64 / ALIGNMENT as u64 <= 1 << OFFSET_BITS);

/// Records begin at multiples of this.
pub(crate) const ALIGNMENT: u32 = 8;
const _: () = assert!(ALIGNMENT as usize == crate::format::RECORD_ALIGNMENT);

/// Segment, octet in the segment, octets of header and body. The default has no octets: the record is missing.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Place(u64);

impl Place {
    /// `offset` is a multiple of 8 within a segment, `octets` at most [`RECORD_OCTETS_MAX`].
    pub(crate) fn new(segment: u32, offset: u32, octets: u32) -> Self {
        debug_assert!(segment < SEGMENTS_MAX && offset.is_multiple_of(ALIGNMENT));
        debug_assert!(octets as usize <= RECORD_OCTETS_MAX);
        let offset = u64::from(offset / ALIGNMENT);
        Self(
            (u64::from(segment) << (OFFSET_BITS + OCTETS_BITS)) | (offset << OCTETS_BITS) | u64::from(octets),
        )
    }

    pub(crate) const fn segment(self) -> u32 {
        self.bits(OFFSET_BITS + OCTETS_BITS, SEGMENT_BITS)
    }

    pub(crate) const fn offset(self) -> u32 {
        self.bits(OCTETS_BITS, OFFSET_BITS) * ALIGNMENT
    }

    pub(crate) const fn octets(self) -> u32 {
        self.bits(0, OCTETS_BITS)
    }

    #[expect(clippy::cast_possible_truncation, reason = "a part has 25 bits at most")]
    const fn bits(self, from: u32, count: u32) -> u32 {
        ((self.0 >> from) & ((1 << count) - 1)) as u32
    }

    /// A record as long in the same segment.
    pub(crate) fn at(self, offset: u32) -> Self {
        Self::new(self.segment(), offset, self.octets())
    }

    /// What the record takes in its batch.
    pub(crate) fn padded_octets(self) -> u64 {
        u64::from(self.octets()).next_multiple_of(u64::from(ALIGNMENT))
    }

    pub(crate) const fn is_missing(self) -> bool {
        self.octets() == 0
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} octets at {} of segment {}", self.octets(), self.offset(), self.segment())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_holds_the_largest_of_everything() {
        for (segment, offset, octets) in
            [(0, 0, 1), (65_535, (64 << 20) - 8, (32 << 20) - 1), (7, 4096 + 128, 65_536 + 48)]
        {
            let place = Place::new(segment, offset, octets);
            assert_eq!((place.segment(), place.offset(), place.octets()), (segment, offset, octets));
            assert!(!place.is_missing());
        }
        assert!(Place::default().is_missing());
    }
}
