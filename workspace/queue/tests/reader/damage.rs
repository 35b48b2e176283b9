//! What a device can do to what was written on it.

use std::ops::Range;

use sternpost_queue::PAGE_OCTETS;

use super::random::Random;
use super::writing::{SEGMENT_OCTETS, UNWRITTEN, batches_of, segment_at, segments_by_age};

const HEADER_OCTETS: usize = 128;
const RECORD_HEADER_OCTETS: usize = 16;

/// Damages one place of a log that was written to, and never the second superblock. Gives what, and where, in words.
pub(crate) fn damage(octets: &mut [u8], random: &mut Random) -> String {
    let segment = random.one_of(&segments_by_age(octets));
    let (start, end) = (segment_at(segment), segment_at(segment + 1));
    let batches = batches_of(octets, segment);
    let batch = if batches.is_empty() { start + PAGE_OCTETS } else { random.one_of(&batches) };
    let header = |at: usize| at..at + HEADER_OCTETS;
    let (what, place) = match random.below(9) {
        0 => ("superblock", header(0)),
        1 => ("segment header", header(start)),
        2 => ("batch header", header(batch)),
        3 => ("record header", batch + HEADER_OCTETS..batch + HEADER_OCTETS + RECORD_HEADER_OCTETS),
        4 => ("batch", batch + HEADER_OCTETS..(batch + 4 * PAGE_OCTETS).min(end)),
        5 => ("footer", header(end - PAGE_OCTETS)),
        6 => ("entries", end - 2 * PAGE_OCTETS..end - PAGE_OCTETS),
        7 => {
            let page = page(octets, random);
            return lose(octets, random, page, PAGE_OCTETS);
        }
        _ => return lose(octets, random, start, SEGMENT_OCTETS),
    };
    flip_bit(octets, random, what, place)
}

/// Where a page of a segment begins that was written to; the first ones, which tell most, more often than others.
pub(crate) fn page(octets: &[u8], random: &mut Random) -> usize {
    let pages = random.one_of(&[2, SEGMENT_OCTETS / PAGE_OCTETS]);
    segment_at(random.one_of(&segments_by_age(octets))) + random.below(pages) * PAGE_OCTETS
}

fn flip_bit(octets: &mut [u8], random: &mut Random, what: &str, place: Range<usize>) -> String {
    let at = place.start + random.below(place.len());
    octets[at] ^= 1 << random.below(8);
    format!("{what}: a bit of octet {at}")
}

/// Pages or a segment hold nothing any more, or what was meant for another place.
fn lose(octets: &mut [u8], random: &mut Random, at: usize, count: usize) -> String {
    if random.chance(50) {
        octets[at..at + count].fill(random.one_of(&[0, UNWRITTEN]));
        return format!("{count} octets at {at} are gone");
    }
    let places = (octets.len() - segment_at(0)) / count;
    let from = segment_at(0) + random.below(places) * count;
    octets.copy_within(from..from + count, at);
    format!("{count} octets at {at} are those of {from}")
}
