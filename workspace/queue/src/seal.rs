//! The index of a sealed segment: gathered while the segment is filled, written to its end when the next one has begun.
//!
//! It spares recovery the reading of content. It is a function of durable records, so nothing depends on it: where it is
//! missing, the segment is read in full. Not here: what an entry says (`entry`), when a part is written (`writer`).

use std::collections::VecDeque;

use crate::AlignedBuffer;
use crate::batch::to_u32;
use crate::entry::condense;
use crate::format::{Follows, Footer, Geometry, PAGE_OCTETS, Salt};
use crate::index::Index;

/// Octets at the end of a segment that batches leave free for an index of `entries_octets`.
pub(crate) const fn index_room(entries_octets: usize) -> usize {
    PAGE_OCTETS + entries_octets.next_multiple_of(PAGE_OCTETS)
}

/// The entries of one use of a segment, in the order of its records.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gathered {
    pub(crate) segment: u32,
    pub(crate) use_number: u64,
    pub(crate) first_sequence: u64,
    /// The octet behind the last good batch.
    pub(crate) end: u32,
    /// The next message sequence, by the last good batch.
    pub(crate) next_message: u64,
    pub(crate) entries: Vec<u8>,
}

/// A sealed segment whose index is not written yet.
struct Sealed {
    gathered: Gathered,
    last: Follows,
}

/// An index on its way to its segment.
struct Image {
    segment: u32,
    use_number: u64,
    /// Where in the segment the rest begins.
    offset: u32,
    rest: VecDeque<u8>,
}

/// The open segment's entries, and the indexes that are still to be written.
#[derive(Default)]
pub(crate) struct Seals {
    open: Gathered,
    waiting: VecDeque<Sealed>,
    image: Option<Image>,
}

impl Seals {
    /// The log goes on in a segment that has these entries.
    pub(crate) fn go_on(&mut self, open: Gathered) {
        self.open = open;
    }

    /// Octets of the entries of the open segment.
    pub(crate) fn open_octets(&self) -> usize {
        self.open.entries.len()
    }

    /// A batch is durable. If it opened a segment, the one before is sealed behind the batch that it follows.
    pub(crate) fn batch(&mut self, mut added: Gathered, opened_behind: Option<Follows>) {
        if let Some(last) = opened_behind {
            let sealed = std::mem::replace(&mut self.open, added);
            self.seal(sealed, last);
            return;
        }
        self.open.entries.append(&mut added.entries);
        self.open.end = added.end;
        self.open.next_message = added.next_message;
    }

    /// A segment that is sealed and has no index.
    pub(crate) fn seal(&mut self, gathered: Gathered, last: Follows) {
        if gathered.use_number != 0 && gathered.use_number == last.use_number {
            self.waiting.push_back(Sealed { gathered, last });
        }
    }

    pub(crate) fn waits(&self) -> bool {
        self.image.is_some() || !self.waiting.is_empty()
    }

    /// The next part that is to be written: its segment, where in the segment, and its octets in `buffer`, which is given back
    /// if there is none. `lives` tells whether a use of a segment still counts.
    pub(crate) fn next_part(
        &mut self,
        index: &Index,
        geometry: Geometry,
        secret: &[u8; 16],
        lives: impl Fn(u32, u64) -> bool,
        mut buffer: AlignedBuffer,
    ) -> Result<(u32, u32, AlignedBuffer), AlignedBuffer> {
        loop {
            if let Some(image) = self.image.as_mut().filter(|image| lives(image.segment, image.use_number)) {
                let octets = image.rest.len().min(buffer.capacity());
                buffer.clear();
                let part: Vec<u8> = image.rest.drain(..octets).collect();
                buffer.extend(&part).expect("a part is no longer than the buffer");
                let (segment, offset) = (image.segment, image.offset);
                image.offset += to_u32(octets);
                if image.rest.is_empty() {
                    self.image = None;
                }
                return Ok((segment, offset, buffer));
            }
            self.image = None;
            let Some(Sealed { gathered, last }) = self.waiting.pop_front() else { return Err(buffer) };
            if lives(gathered.segment, gathered.use_number) {
                self.image = image(&gathered, last, index, geometry, secret);
            }
        }
    }

    /// A part was not written: its segment stays without an index.
    pub(crate) fn part_failed(&mut self, segment: u32) {
        self.image = self.image.take().filter(|image| image.segment != segment);
    }
}

/// The octets of an index: entries, zeroes to the end of their page, footer. None when they do not fit, which the writer sees to.
fn image(
    gathered: &Gathered,
    last: Follows,
    index: &Index,
    geometry: Geometry,
    secret: &[u8; 16],
) -> Option<Image> {
    let (mut octets, entries) = condense(&gathered.entries, index);
    let body_octets = octets.len();
    let salt = Salt::of_index(secret, gathered.segment, gathered.use_number);
    let body_crc = salt.crc(&octets);
    octets.resize(body_octets.next_multiple_of(PAGE_OCTETS), 0);
    let offset = geometry.segment_octets.checked_sub(to_u32(octets.len() + PAGE_OCTETS))?;
    // Batches leave room for it. Only what is said of a damaged envelope (`claim`) may be longer than what was said of it before.
    if offset < gathered.end {
        return None;
    }
    let footer = Footer {
        segment: gathered.segment,
        use_number: gathered.use_number,
        first_sequence: gathered.first_sequence,
        last,
        next_message: gathered.next_message,
        end: gathered.end,
        entries,
        offset,
        body_octets: to_u32(body_octets),
        body_crc,
    };
    octets.extend_from_slice(&footer.encode(salt));
    octets.resize(octets.len().next_multiple_of(PAGE_OCTETS), 0);
    Some(Image { segment: gathered.segment, use_number: gathered.use_number, offset, rest: octets.into() })
}
