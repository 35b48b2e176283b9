//! The batches that were written last, in memory: most messages leave within milliseconds and are read from here.
//!
//! One ring of fixed size; a batch is copied into it as a whole, so that a message costs nothing of its own.

use std::collections::{BTreeMap, VecDeque};

use crate::place::Place;

/// Where something stands in the log: segment, offset in it.
type Spot = (u32, u32);

/// See the module.
pub(crate) struct RecentBatches {
    ring: Vec<u8>,
    octets_max: usize,
    /// Where the next batch goes.
    next: usize,
    /// Oldest first.
    order: VecDeque<Spot>,
    /// Where each batch stands in the ring, and its octets.
    kept: BTreeMap<Spot, (usize, usize)>,
}

impl RecentBatches {
    pub(crate) fn new(octets_max: usize) -> Self {
        Self { ring: Vec::new(), octets_max, next: 0, order: VecDeque::new(), kept: BTreeMap::new() }
    }

    /// Keeps what was written at `offset` of a segment.
    pub(crate) fn add(&mut self, segment: u32, offset: u32, octets: &[u8]) {
        if octets.is_empty() || octets.len() > self.octets_max {
            return;
        }
        if self.next + octets.len() > self.octets_max {
            self.make_room(self.next, self.octets_max);
            self.next = 0;
        }
        let (begin, end) = (self.next, self.next + octets.len());
        self.make_room(begin, end);
        if self.ring.len() < end {
            self.ring.resize(end, 0);
        }
        self.ring[begin..end].copy_from_slice(octets);
        self.next = end;
        if self.kept.insert((segment, offset), (begin, octets.len())).is_none() {
            self.order.push_back((segment, offset));
        }
    }

    /// Forgets the oldest batches until none stands in a range of the ring.
    fn make_room(&mut self, begin: usize, end: usize) {
        while let Some(oldest) = self.order.front() {
            let is_there = self.kept.get(oldest).is_some_and(|(at, octets)| *at < end && begin < at + octets);
            if !is_there && self.kept.contains_key(oldest) {
                return;
            }
            self.kept.remove(oldest);
            self.order.pop_front();
        }
    }

    /// The octets of a record that was written not long ago.
    pub(crate) fn get(&self, place: Place) -> Option<&[u8]> {
        let (segment, offset) = (place.segment(), place.offset());
        let ((kept_segment, kept_offset), (at, octets)) =
            self.kept.range(..=(segment, offset)).next_back()?;
        if *kept_segment != segment {
            return None;
        }
        let from = (offset - kept_offset) as usize;
        let to = from + place.octets() as usize;
        (to <= *octets).then(|| &self.ring[at + from..at + to])
    }

    /// A segment is written anew: nothing that stood there is there any more.
    pub(crate) fn forget_segment(&mut self, segment: u32) {
        self.kept.retain(|(kept, _), _| *kept != segment);
        self.order.retain(|(kept, _)| *kept != segment);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_last_is_there_and_the_oldest_goes_first() {
        let mut recent = RecentBatches::new(10_000);
        let octets: Vec<u8> = (0..=255).cycle().take(4096).collect();
        for batch in 0..7_u32 {
            recent.add(1, batch * 4096, &octets);
            for older in 0..=batch {
                let found = recent.get(Place::new(1, older * 4096 + 8, 100));
                assert_eq!(found.is_some(), older + 2 > batch, "batch {older} after {batch}");
                assert!(found.is_none_or(|found| found == &octets[8..108]));
            }
        }
        assert!(recent.get(Place::new(1, 6 * 4096 + 4000, 100)).is_none(), "it ends in another batch");
        assert!(recent.get(Place::new(0, 8, 8)).is_none() && recent.get(Place::new(2, 8, 8)).is_none());
        recent.forget_segment(1);
        assert!(recent.get(Place::new(1, 6 * 4096, 100)).is_none() && recent.order.is_empty());
    }

    #[test]
    fn a_batch_larger_than_the_ring_is_not_kept_and_one_written_again_is_the_new_one() {
        let mut recent = RecentBatches::new(8192);
        recent.add(1, 0, &[1; 9000]);
        assert!(recent.get(Place::new(1, 0, 8)).is_none());
        recent.add(1, 0, &[1; 4096]);
        recent.add(1, 0, &[2; 4096]);
        assert_eq!(recent.get(Place::new(1, 0, 8)), Some(&[2; 8][..]));
        recent.add(1, 4096, &[3; 4096]);
        recent.add(1, 8192, &[4; 4096]);
        for (offset, octet) in [(0, None), (4096, Some(3)), (8192, Some(4))] {
            let found = recent.get(Place::new(1, offset, 8)).map(|octets| octets[0]);
            assert_eq!(found, octet, "{offset}");
        }
    }
}
