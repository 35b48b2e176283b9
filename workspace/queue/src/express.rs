//! The express: a small batch of urgent messages that goes before the one that is being filled.
//!
//! The batch that is being filled while another is written may hold a megabyte of content already. What is urgent would
//! wait for the write of that, too. So it gets a batch of its own, which is written first, and the other one stands behind
//! it: a strip of the segment before that one is kept for the express while there is one. No two go without another batch
//! between them, and nothing overtakes what it builds upon.

use sternpost_message::UnixMillis;

use crate::append::Lane;
use crate::batch::{Batch, Berth, Need, to_u32};
use crate::format::PAGE_OCTETS;
use crate::set::{WaitingRecord, WaitingSet};
use crate::{Disk, Log};

/// The part of a batch that an express takes at most, with what it adds to the index.
const STRIP_DIVISOR: usize = 8;
/// A batch that holds more than this part of the largest is worth overtaking: a smaller one takes hardly longer than a sync.
const WORTH_DIVISOR: usize = 4;

impl<D: Disk> Log<D> {
    /// Puts a set into the express, if there is one for it. False when it goes the way of all others.
    pub(crate) fn stage_express(&mut self, set: &WaitingSet<'_>, now: UnixMillis) -> bool {
        if !self.may_overtake(set) {
            return false;
        }
        let Some(express) = self.express.take().or_else(|| self.new_express(set.need)) else { return false };
        let has_room = express.takes(set.need, 0);
        let express = if has_room { self.put(express, set, now) } else { express };
        if express.is_empty() {
            self.move_filling(express.berth.offset, 0);
            self.buffers.push(express.into_parts().0);
        } else {
            self.express = Some(express);
        }
        has_room
    }

    /// Octets of the batch that is being filled from which on it is worth overtaking, and that it may hold when it is urgent itself
    /// beside what is not.
    pub(crate) const fn worth_overtaking(&self) -> usize {
        self.batch_octets_max / WORTH_DIVISOR
    }

    /// Whether a set may be written before the batch that is being filled: a part of a message of which that one holds nothing.
    /// Outcomes may not, nor what stands behind something urgent.
    fn may_overtake(&self, set: &WaitingSet<'_>) -> bool {
        let Some(filling) = self.filling.as_ref().filter(|filling| !filling.is_urgent) else { return false };
        let is_apart = |record: &WaitingRecord<'_>| match record {
            WaitingRecord::Content { message, .. } => !filling.speaks_of(*message),
            WaitingRecord::Envelope(new) => !filling.speaks_of(new.message),
            WaitingRecord::Outcome { .. } | WaitingRecord::Discard { .. } => false,
        };
        set.lane == Lane::Urgent
            && (self.express.is_some() || (self.may_hurry() && filling.octets() > self.worth_overtaking()))
            && self.space.permits(set.accepts, false)
            && set.records.iter().all(is_apart)
    }

    /// An empty express in front of the batch that is being filled; none where there is no room for both.
    fn new_express(&mut self, need: Need) -> Option<Batch> {
        let strip = self.batch_octets_max / STRIP_DIVISOR / PAGE_OCTETS * PAGE_OCTETS;
        let filling = self.filling.as_ref()?.berth;
        // Behind the head, if the other one opens a segment; else where that one was to stand.
        let berth = if filling.opens {
            Berth { octets_max: strip, ..self.berth_behind_head()? }
        } else {
            Berth { octets_max: strip, segment_rest: strip, entries_octets: 0, ..filling }
        };
        if !berth.takes(need) || !self.move_filling(berth.offset + to_u32(strip), 0) {
            self.move_filling(berth.offset, 0);
            return None;
        }
        Some(Batch::new(self.take_buffer(), berth, &self.shelf.secret))
    }

    /// The express departs, or was for nothing: the batch that is being filled stands at `offset`, behind `entries_octets`
    /// more of the segment's index. False when it has no room there.
    pub(crate) fn move_filling(&mut self, offset: u32, entries_octets: usize) -> bool {
        self.filling.as_mut().filter(|batch| !batch.berth.opens).is_none_or(|batch| {
            let is_there = batch.berth.offset == offset && entries_octets == 0;
            is_there || batch.move_to(offset, batch.berth.entries_octets + entries_octets)
        })
    }
}
