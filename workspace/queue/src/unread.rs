//! Places that the disk did not read, and how often: one bad sector must not hold the log's start for ever.
//!
//! A failed read may be an accident of the path to the device; it becomes damage when it goes on for some time. Reads
//! nothing and knows no clock: it is told when a turn begins.

use rustc_hash::FxHashMap;
use sternpost_message::UnixMillis;

use crate::place::Place;

/// Failed reads of one place, in as many turns, after which it is taken as damaged. With the default pause of 1 s a
/// device has 7 s to come back, more than the reset of a controller takes.
pub(crate) const FAILED_READS_MAX: u32 = 8;

/// See the module.
pub(crate) struct Unread {
    places: FxHashMap<Place, FailedReads>,
    /// Between two failures of one place that count.
    pause_ms: u64,
    now: UnixMillis,
}

#[derive(Clone, Copy)]
struct FailedReads {
    count: u32,
    last_at: UnixMillis,
}

impl Unread {
    pub(crate) fn new(pause_ms: u64) -> Self {
        // Two failures in one turn are one.
        Self { places: FxHashMap::default(), pause_ms: pause_ms.max(1), now: UnixMillis(0) }
    }

    /// A turn of the log begins.
    pub(crate) const fn turn(&mut self, now: UnixMillis) {
        self.now = now;
    }

    /// When the present turn began.
    pub(crate) const fn now(&self) -> UnixMillis {
        self.now
    }

    /// The disk did not read the place. Whether it is given up.
    pub(crate) fn failed(&mut self, place: Place) -> bool {
        let FailedReads { count, last_at } =
            self.places.entry(place).or_insert(FailedReads { count: 0, last_at: self.now });
        if *count == 0 || self.now.since_ms(*last_at) >= self.pause_ms {
            *count = count.saturating_add(1);
            *last_at = self.now;
        }
        *count >= FAILED_READS_MAX
    }

    /// The disk read the place.
    pub(crate) fn succeeded(&mut self, place: Place) {
        self.places.remove(&place);
    }

    /// Whether the disk did not read the place when it was asked last.
    pub(crate) fn knows(&self, place: Place) -> bool {
        self.places.contains_key(&place)
    }

    /// When it is worth while to read the place again; none if it is now, or if the place is given up.
    pub(crate) fn rests_until(&self, place: Place) -> Option<UnixMillis> {
        let failed = self.places.get(&place).filter(|failed| failed.count < FAILED_READS_MAX)?;
        Some(failed.last_at.plus_ms(self.pause_ms)).filter(|until| self.now < *until)
    }

    /// The segment is written anew.
    pub(crate) fn forget_segment(&mut self, segment: u32) {
        self.places.retain(|place, _| place.segment() != segment);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place::new(1, 4096, 100)
    }

    fn fail(unread: &mut Unread, at_ms: u64) -> bool {
        unread.turn(UnixMillis(at_ms));
        unread.failed(place())
    }

    #[test]
    fn a_place_is_given_up_when_it_fails_in_enough_turns_that_lie_apart() {
        let mut unread = Unread::new(1000);
        for turn in 1..u64::from(FAILED_READS_MAX) {
            assert!(!fail(&mut unread, turn * 1000));
            assert!(!fail(&mut unread, turn * 1000 + 999), "the same turn, or nearly");
            assert_eq!(unread.rests_until(place()), Some(UnixMillis((turn + 1) * 1000)));
        }
        assert!(fail(&mut unread, u64::from(FAILED_READS_MAX) * 1000));
        assert_eq!(unread.rests_until(place()), None);
    }

    #[test]
    fn one_good_read_or_a_new_use_of_the_segment_forgets_the_failures() {
        let mut unread = Unread::new(1000);
        assert!((1..8).all(|turn| !fail(&mut unread, turn * 1000)));
        unread.succeeded(place());
        assert!(!fail(&mut unread, 8000));
        unread.forget_segment(place().segment());
        assert_eq!(unread.rests_until(place()), None);
    }
}
