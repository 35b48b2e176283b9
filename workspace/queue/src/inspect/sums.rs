//! Finds whole records in a damaged range in a time that its content has no say in.
//!
//! Any eight octets may be the beginning of a record, and content can be made so that all of them say that a long body
//! follows. The CRC of each would be as much work as reading that body. So the CRCs from the beginning of the segment are kept
//! once, and that of a body follows from the two at its ends: with one product for the length of the body, of two powers that
//! stand in tables.

use std::cell::OnceCell;
use std::sync::LazyLock;

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
        let before = pass_zeroes(self.up_to(begin) ^ salt.crc(&[]), body.len());
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

/// The polynomial of CRC32C, the coefficient of x^0 in the highest bit.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// Entries of each table of powers: two of them reach to every body that fits a batch.
const POWERS: usize = 4096;
const _: () = assert!(BATCH_OCTETS_MAX <= POWERS * POWERS);

/// x^8 to the powers 0 to 4,095, and to 4,096 times those.
static POWERS_OF_OCTETS: LazyLock<[Vec<u32>; 2]> = LazyLock::new(|| {
    let one = 1 << 31;
    let powers = |base| -> Vec<u32> {
        std::iter::successors(Some(one), |power| Some(product(*power, base))).take(POWERS + 1).collect()
    };
    let low = powers(one >> 8);
    let high = powers(low[POWERS]);
    [low, high]
});

/// What becomes of the state of a CRC by so many zero octets, fewer than fit a batch.
fn pass_zeroes(state: u32, octets: usize) -> u32 {
    let [low, high] = &*POWERS_OF_OCTETS;
    product(product(low[octets % POWERS], high[octets / POWERS]), state)
}

/// The product of two polynomials modulo that of CRC32C.
const fn product(a: u32, mut b: u32) -> u32 {
    let (mut bit, mut product) = (1_u32 << 31, 0);
    while bit != 0 {
        if a & bit != 0 {
            product ^= b;
        }
        b = if b & 1 == 1 { b >> 1 ^ POLYNOMIAL } else { b >> 1 };
        bit >>= 1;
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroes_are_passed_as_if_they_were_read() {
        for octets in [0, 1, 7, 8, 4_095, 4_096, 4_097, 65_536, 1_234_567, BATCH_OCTETS_MAX - 1] {
            for state in [0, 1, 0xffff_ffff, 0x1234_5678] {
                assert_eq!(pass_zeroes(state, octets), crc32c::crc32c_combine(state, 0, octets), "{octets}");
            }
        }
    }
}
