//! Filling: which sets go into the next batch, and where that one will stand.
//!
//! Lanes are taken in their order; each leaves room for what is more urgent and for survivors. Not here: how a set gets in
//! (`staging`), what overtakes a batch (`express`), when a batch starts (`writer`).

use sternpost_message::UnixMillis;

use crate::append::Lane;
use crate::batch::{Batch, Berth, Need};
use crate::format::PAGE;
use crate::recovery::Head;
use crate::set::WaitingSet;
use crate::{AlignedBuffer, Disk, Log};

impl<D: Disk> Log<D> {
    /// Fills the next batches with what waits, lane by lane.
    pub(crate) fn stage(&mut self, now: UnixMillis) {
        if self.probe_at.is_some() {
            return;
        }
        for lane in Lane::ALL {
            let kept = self.kept_octets(lane, self.flight.is_some());
            while let Some(set) = self.lanes.pop_front(lane) {
                if !self.stage_next(&set, kept, now) {
                    self.lanes.push_front(set);
                    break;
                }
            }
        }
    }

    /// Puts a set that comes just now into the next batch, if none waits before it and it leaves room for what is urgent. False
    /// when it has to wait.
    pub(crate) fn stage_at_once(&mut self, set: &WaitingSet<'_>, now: UnixMillis) -> bool {
        self.lanes.is_next(set.lane) && self.stage_next(set, self.kept_octets(set.lane, true), now)
    }

    /// Puts the first set of a lane into a batch, or refuses it. False when it has to wait.
    fn stage_next(&mut self, set: &WaitingSet<'_>, kept: usize, now: UnixMillis) -> bool {
        if self.stage_express(set, now) {
            return true;
        }
        let may = self.may_take(set.accepts, set.need, kept)
            && !self.conclusion_is_open(set)
            && self.plan(set.need);
        if may {
            self.stage_set(set, now);
        }
        may
    }

    /// What sets of this lane leave free in a batch: for moves, and for what is urgent, if `more_comes` before it is written. What
    /// is urgent itself leaves room for moves in a batch that may not go without them, and otherwise waits for little else.
    fn kept_octets(&self, lane: Lane, more_comes: bool) -> usize {
        match self.moves {
            _ if lane < Lane::Urgent => 0,
            _ if lane > Lane::Urgent && self.hurries() && self.express.is_none() => {
                self.batch_octets_max - self.worth_overtaking()
            }
            Some(_) if lane == Lane::Urgent && self.may_hurry() => 0,
            Some(share) => share.octets_of(self.batch_octets_max),
            None if lane > Lane::Urgent && more_comes => self.batch_octets_max / 4,
            None => 0,
        }
    }

    /// Whether the next batch may take a set, by what must be kept free in it and by the segments in reserve. Asked before
    /// a batch is begun: a segment that may not be used must not be opened either.
    fn may_take(&self, accepts: bool, need: Need, kept: usize) -> bool {
        match self.filling.as_ref().filter(|batch| !batch.is_empty()) {
            Some(batch) => {
                let room_is_kept = batch.sets.is_empty() || batch.takes(need, kept);
                room_is_kept && self.space.permits(accepts, batch.berth.opens)
            }
            None => self.berth(need).is_some_and(|berth| self.space.permits(accepts, berth.opens)),
        }
    }

    /// Makes sure that a batch with room for `need` is being filled; a batch that holds something is left as it is.
    /// False when no segment is free.
    pub(crate) fn plan(&mut self, need: Need) -> bool {
        match self.filling.take() {
            Some(batch) if batch.is_empty() => self.buffers.push(batch.into_parts().0),
            Some(batch) => {
                let fits = batch.takes(need, 0);
                self.filling = Some(batch);
                return fits;
            }
            None => {}
        }
        let Some(berth) = self.berth(need) else { return false };
        self.filling = Some(Batch::new(self.take_buffer(), berth, &self.shelf.secret));
        true
    }

    pub(crate) fn take_buffer(&mut self) -> AlignedBuffer {
        self.buffers.pop().unwrap_or_else(|| AlignedBuffer::with_capacity(self.batch_octets_max))
    }

    /// Where a batch with `need` goes: behind the last one, or into a fresh segment.
    pub(crate) fn berth(&self, need: Need) -> Option<Berth> {
        self.berth_behind_head().filter(|berth| berth.takes(need)).or_else(|| {
            let segment = self.space.next_free()?;
            Some(Berth { segment, use_number: self.next_use, ..self.empty_berth() })
        })
    }

    pub(crate) fn berth_behind_head(&self) -> Option<Berth> {
        self.head.map(|Head { segment, use_number, offset }| {
            let segment_rest = self.shelf.geometry.segment_octets as usize - offset as usize;
            let (octets_max, entries_octets) = (self.batch_octets_max, self.open_entries_octets());
            Berth { segment, use_number, offset, opens: false, octets_max, segment_rest, entries_octets }
        })
    }

    /// Octets of the entries of the segment that the next batch goes into, with those that are being written.
    pub(crate) fn open_entries_octets(&self) -> usize {
        let (opens, under_way) = self
            .flight
            .as_ref()
            .map_or((false, 0), |flight| (flight.batch.berth.opens, flight.gathered.entries.len()));
        if opens { under_way } else { self.seals.open_octets() + under_way }
    }

    /// A batch at the front of a segment.
    pub(crate) fn empty_berth(&self) -> Berth {
        Berth {
            segment: 0,
            use_number: 0,
            offset: PAGE,
            opens: true,
            octets_max: self.batch_octets_max,
            segment_rest: self.shelf.geometry.segment_octets as usize,
            entries_octets: 0,
        }
    }
}
