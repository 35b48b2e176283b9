//! Time as the queue has lived it: it passes as the kernel counts it, and a wall clock that is set does not move it.
//!
//! Mail is given up by its age, and its age follows from the wall-clock stamp of its acceptance. A device without a battery
//! learns the time late, and one whose battery is wrong learns it late too: if age were the difference of two wall
//! clocks, everything that waits would expire at that instant, or never. So the scheduler's instants are *lived* ones:
//! those of the wall clock when this process began, carried on by the kernel's count. A jump of the wall clock is noted with the newest
//! message before it, and the stamps of the messages up to there are corrected by it, also after a restart.
//! A stamp from the future counts as now. Not here: clocks, and where the jumps are kept (`qmgr`).

use sternpost_message::{MessageSequence, UnixMillis};

/// A wall clock that is ahead or behind by more than this was set; by less, it is disciplined or drifts.
pub const JUMP_MS_MIN: u64 = 10_000;
/// Jumps that are remembered: a clock that is set more often than that within the life of a message is no clock.
pub const JUMPS_COUNT_MAX: usize = 64;
/// Stamps of the time before a jump that is so old are none of messages which were on their way.
const ON_THE_WAY_MS_MAX: u64 = 60_000;

/// The wall clock was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jump {
    /// The newest message that had been accepted before.
    pub through: MessageSequence,
    /// What the clock said before.
    pub before: UnixMillis,
    /// The stamps from here to `before` are those of the clock that was set. Forward, all earlier ones are: nothing else
    /// makes stamps from before the time. Backward, those since the kernel started: earlier ones may well be right.
    pub counted_from: UnixMillis,
    /// What it said after.
    pub after: UnixMillis,
}

impl Jump {
    fn delta_ms(&self) -> i64 {
        difference_ms(self.after, self.before)
    }

    fn is_forward(&self) -> bool {
        self.after > self.before
    }

    /// Whether a stamp is of the clock that was set.
    fn is_of_its_clock(&self, at: UnixMillis) -> bool {
        (self.counted_from..=self.before).contains(&at)
    }
}

/// Lived time, and how it stands to the wall clock.
#[derive(Clone, Debug)]
pub struct LivedTime {
    started: UnixMillis,
    /// The kernel's count at the start, in milliseconds.
    counted_at_start_ms: u64,
    /// What the wall clock is ahead of lived time.
    offset_ms: i64,
    jumps: Vec<Jump>,
    /// When the last of them was seen, in lived time; none when that was in an earlier life.
    jumped_at: Option<UnixMillis>,
}

impl LivedTime {
    /// Begins at this instant of the wall clock, with the kernel's count (`CLOCK_BOOTTIME`) and the jumps of earlier lives.
    #[must_use]
    pub fn new(wall: UnixMillis, counted_ms: u64, mut jumps: Vec<Jump>) -> Self {
        jumps.drain(..jumps.len().saturating_sub(JUMPS_COUNT_MAX));
        Self { started: wall, counted_at_start_ms: counted_ms, offset_ms: 0, jumps, jumped_at: None }
    }

    /// When this life began.
    #[must_use]
    pub const fn started(&self) -> UnixMillis {
        self.started
    }

    /// Now, in lived time.
    #[must_use]
    pub const fn now(&self, counted_ms: u64) -> UnixMillis {
        self.started.plus_ms(counted_ms.saturating_sub(self.counted_at_start_ms))
    }

    /// Compares the wall clock with the kernel's count. A jump is given back when there was one; `newest` is the newest
    /// message accepted so far.
    pub fn observe(&mut self, wall: UnixMillis, counted_ms: u64, newest: MessageSequence) -> Option<Jump> {
        let now = self.now(counted_ms);
        let before = shifted(now, self.offset_ms);
        let delta_ms = difference_ms(wall, before);
        self.offset_ms = self.offset_ms.saturating_add(delta_ms);
        if delta_ms.unsigned_abs() <= JUMP_MS_MIN {
            return None;
        }
        let counted_from =
            if delta_ms > 0 { UnixMillis(0) } else { UnixMillis(before.0.saturating_sub(counted_ms)) };
        let jump = Jump { through: newest, before, counted_from, after: wall };
        if self.jumps.len() == JUMPS_COUNT_MAX {
            self.jumps.remove(0);
        }
        self.jumps.push(jump);
        self.jumped_at = Some(now);
        Some(jump)
    }

    /// When a message was accepted, in lived time; never later than now. True beside it when the jumps have changed: the
    /// message was on its way when the clock was set.
    pub fn accepted(
        &mut self,
        message: MessageSequence,
        stamp: UnixMillis,
        counted_ms: u64,
    ) -> (UnixMillis, bool) {
        let now = self.now(counted_ms);
        let mut has_changed = false;
        if let (Some(jump), Some(jumped_at)) = (self.jumps.last_mut(), self.jumped_at)
            && now.since_ms(jumped_at) <= ON_THE_WAY_MS_MAX
            && jump.is_forward()
            && jump.through < message
            && jump.is_of_its_clock(stamp)
        {
            jump.through = message;
            has_changed = true;
        }
        let mut at = stamp;
        for jump in &self.jumps {
            if message <= jump.through && jump.is_of_its_clock(at) {
                at = shifted(at, jump.delta_ms());
            }
        }
        (shifted(at, self.offset_ms.saturating_neg()).min(now), has_changed)
    }

    /// The wall clock's name for a lived instant, as the clock stands now.
    #[must_use]
    pub fn wall_of(&self, lived: UnixMillis) -> UnixMillis {
        shifted(lived, self.offset_ms)
    }

    /// The lived instant that the wall clock gives this name, as it stands now.
    #[must_use]
    pub fn lived_of(&self, wall: UnixMillis) -> UnixMillis {
        shifted(wall, self.offset_ms.saturating_neg())
    }

    /// Forgets the jumps that concern no message from `oldest` on. True when there were some.
    pub fn forget_before(&mut self, oldest: MessageSequence) -> bool {
        let count = self.jumps.len();
        self.jumps.retain(|jump| jump.through >= oldest);
        self.jumps.len() != count
    }

    /// The jumps that are to be kept for the next life, in their order.
    #[must_use]
    pub fn jumps(&self) -> &[Jump] {
        &self.jumps
    }
}

fn shifted(at: UnixMillis, by_ms: i64) -> UnixMillis {
    UnixMillis(at.0.saturating_add_signed(by_ms))
}

fn difference_ms(a: UnixMillis, b: UnixMillis) -> i64 {
    let difference = i128::from(a.0) - i128::from(b.0);
    i64::try_from(difference).unwrap_or(if difference > 0 { i64::MAX } else { i64::MIN })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR_MS: u64 = 3_600_000;
    const YEAR_MS: u64 = 365 * 24 * HOUR_MS;

    /// A device with its clocks, and what it stamps.
    struct Device {
        wall: u64,
        counted: u64,
        lived: LivedTime,
        newest: MessageSequence,
    }

    impl Device {
        fn started_at(wall: u64) -> Self {
            let counted = 5_000;
            let lived = LivedTime::new(UnixMillis(wall), counted, Vec::new());
            Self { wall, counted, lived, newest: MessageSequence(0) }
        }

        fn lives(&mut self, milliseconds: u64) {
            self.wall += milliseconds;
            self.counted += milliseconds;
        }

        fn is_set_to(&mut self, wall: u64) -> Option<Jump> {
            self.wall = wall;
            self.lived.observe(UnixMillis(self.wall), self.counted, self.newest)
        }

        fn accepts(&mut self) -> (MessageSequence, UnixMillis) {
            self.newest.0 += 1;
            (self.newest, UnixMillis(self.wall))
        }

        fn age_ms(&mut self, (message, stamp): (MessageSequence, UnixMillis)) -> u64 {
            let (at, _) = self.lived.accepted(message, stamp, self.counted);
            self.lived.now(self.counted).since_ms(at)
        }

        /// The process begins anew; the kernel goes on.
        fn restarts(&mut self) {
            self.lived = LivedTime::new(UnixMillis(self.wall), self.counted, self.lived.jumps().to_vec());
        }
    }

    #[test]
    fn mail_accepted_before_the_device_learned_the_time_keeps_its_age() {
        let mut device = Device::started_at(1_000);
        let early = device.accepts();
        device.lives(HOUR_MS);
        let jump = device.is_set_to(56 * YEAR_MS).unwrap();
        assert_eq!((jump.through, jump.before), (early.0, UnixMillis(1_000 + HOUR_MS)));
        let late = device.accepts();
        for _ in 0..3 {
            device.lives(HOUR_MS);
            device.restarts();
        }
        assert_eq!((device.age_ms(early), device.age_ms(late)), (4 * HOUR_MS, 3 * HOUR_MS));
    }

    #[test]
    fn mail_that_was_on_its_way_when_the_clock_was_set_is_corrected_too() {
        let mut device = Device::started_at(1_000);
        let on_its_way = device.accepts();
        device.newest = MessageSequence(0);
        device.lives(50);
        assert!(device.is_set_to(56 * YEAR_MS).is_some());
        let (_, has_changed) = device.lived.accepted(on_its_way.0, on_its_way.1, device.counted);
        assert!(has_changed);
        device.restarts();
        assert_eq!(device.age_ms(on_its_way), 50);
    }

    #[test]
    fn a_clock_that_was_ahead_and_is_set_back_makes_no_mail_immortal_and_none_too_old() {
        let mut device = Device::started_at(60 * YEAR_MS);
        let right = (MessageSequence(1), UnixMillis(56 * YEAR_MS - HOUR_MS));
        device.newest = MessageSequence(1);
        let ahead = device.accepts();
        device.lives(HOUR_MS);
        device.is_set_to(56 * YEAR_MS).unwrap();
        // Stamped by a clock that was right, in an earlier life: the stamp stands.
        device.restarts();
        assert_eq!((device.age_ms(right), device.age_ms(ahead)), (HOUR_MS, HOUR_MS));
        device.lives(HOUR_MS);
        assert_eq!(device.age_ms(ahead), 2 * HOUR_MS);
    }

    #[test]
    fn a_stamp_from_the_future_counts_as_now_and_ages_from_there() {
        let mut device = Device::started_at(1_000);
        let future = (MessageSequence(1), UnixMillis(56 * YEAR_MS));
        let (at, _) = device.lived.accepted(future.0, future.1, device.counted);
        assert_eq!(at, device.lived.now(device.counted));
    }

    #[test]
    fn a_clock_that_is_disciplined_does_not_jump_and_names_of_instants_follow_it() {
        let mut device = Device::started_at(56 * YEAR_MS);
        for _ in 0..100 {
            device.lives(5_000);
            assert_eq!(device.is_set_to(device.wall + 900), None);
        }
        let now = device.lived.now(device.counted);
        assert_eq!(device.lived.wall_of(now), UnixMillis(device.wall));
        assert!(device.lived.jumps().is_empty());
    }

    #[test]
    fn jumps_are_forgotten_with_the_last_message_before_them_and_never_grow_without_bound() {
        let mut device = Device::started_at(56 * YEAR_MS);
        for _ in 0..JUMPS_COUNT_MAX + 9 {
            device.accepts();
            let to = device.wall + HOUR_MS;
            assert!(device.is_set_to(to).is_some());
        }
        assert_eq!(device.lived.jumps().len(), JUMPS_COUNT_MAX);
        assert!(device.lived.forget_before(MessageSequence(device.newest.0 + 1)));
        assert!(device.lived.jumps().is_empty() && !device.lived.forget_before(MessageSequence(0)));
    }

    proptest! {
        /// However the clock is set while the kernel counts, the age is the time that was lived since.
        #[test]
        fn the_age_of_mail_is_the_time_that_it_has_lived(
            steps in prop::collection::vec((0..HOUR_MS, prop::option::of(0..90 * YEAR_MS), any::<bool>()), 1..40)
        ) {
            let mut device = Device::started_at(50 * YEAR_MS);
            let mut mail = Vec::new();
            for (lives_ms, set_to, restarts) in steps {
                mail.push((device.accepts(), device.counted));
                device.lives(lives_ms);
                if let Some(wall) = set_to {
                    // A clock that says less than the kernel has counted would have stamps from before 1970.
                    device.is_set_to(wall + 2 * device.counted);
                }
                if restarts {
                    device.restarts();
                }
            }
            // Steps that are no jump are not corrected: 10 s each at most.
            let slack_ms = JUMP_MS_MIN * 40;
            for (message, counted) in mail {
                let age_ms = device.age_ms(message);
                prop_assert!(age_ms.abs_diff(device.counted - counted) <= slack_ms, "{age_ms}");
            }
        }
    }
}
