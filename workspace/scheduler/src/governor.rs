//! How many Mlists a peer MTA bears at a time, found while it is served: between the operator's bounds, from what it does.
//!
//! Only what came and went is looked at: Mlists in progress, those that ended, and refusals. By Little's law an
//! interval gives the mean number in progress and the rate, and no Mlist has to be timed by itself. Not here: who is
//! assigned (`decide`), and the back-off of a peer that does not work at all (`attempt`).
//!
//! # The rule
//! - **Start.** A peer begins with [`START_SLOTS`], and while they are used each Mlist that it takes adds one, until the operator's
//!   maximum or a refusal: the number doubles in one service time. After its failures a peer is tried by the minimum, and
//!   starts again when it has worked.
//! - **Gradient.** Then half as many are tried. Where the rate hardly falls, half as many do; where it does, twice as many are
//!   tried after a rest. More stay only if twice as many give [`GAIN_UP_PERCENT`] more, and fewer only if the others gave less than
//!   [`GAIN_DOWN_PERCENT`]: between the two everything stays as it is. Each trial that changes nothing doubles the
//!   rest, and a rate that has changed by itself ends it.
//! - **Refusals.** A peer that fails while others of its Mlists are in progress has refused one too many. What it has stays,
//!   the number becomes that of those in progress, and one more is tried after a time that doubles with each
//!   refusal. A peer that fails with nothing else in progress does not work, which is no business of this module. A refusal
//!   after a long time without one changes nothing: many peers end an association now and then.
//! - **Deferrals.** Where most Mlists end in an error of the message, the number is halved, to [`START_SLOTS`] at least:
//!   some peers say in this way that there are too many.
//! - Nothing is learnt while less than three quarters of the number are in progress: then it is no limit.
//!
//! # Why a gradient, and additive increase only behind refusals
//! Additive increase with multiplicative decrease needs a signal of loss. A mail system that is overloaded gives none: it
//! takes longer. An increase without a signal ends at the operator's maximum, which is what is to be found. A service time
//! compared with the shortest one ever seen would be a signal, but that differs with the size of messages. The rate is what the
//! switch is for, and two rates at two numbers say whether more associations carry more mail. Where a peer does refuse, it
//! names its limit, and additive increase with a long memory is what finds it anew when it has moved.
//!
//! What it does to peers of several kinds, and what it costs against the best fixed number, is plotted by
//! `make simulate-scheduler`.

/// With so many a peer begins, if the bounds allow.
pub(crate) const START_SLOTS: u32 = 4;
/// Twice as many must give so much more of the rate to stay, percent.
const GAIN_UP_PERCENT: i128 = 7;
/// Half as many stay if the other half gave less than this, percent of the rate.
const GAIN_DOWN_PERCENT: i128 = 4;
/// Mlists that a measurement counts for each one in progress: they end in groups, and one group more or less may be in it.
const ROUNDS: u32 = 4;
/// Mlists that a measurement counts at least.
const COMPLETED_MIN: u32 = 32;
/// A measurement takes so long at least, milliseconds: the clock has whole ones.
const MEASURE_MS_MIN: u64 = 250;
/// A trial of fewer is over at once when they carry less than this, percent of the rate: a trial must cost little.
const CLEARLY_LESS_PERCENT: u128 = 75;
/// The rest after a trial that changed nothing, milliseconds; doubled each time.
const REST_MS_MIN: u64 = 10_000;
/// The longest rest, milliseconds.
const REST_MS_MAX: u64 = 300_000;
/// The time after a refusal until one more is tried, milliseconds; doubled each time.
const REFUSED_MS_MIN: u64 = 30_000;
/// The longest such time, milliseconds.
const REFUSED_MS_MAX: u64 = 600_000;
/// A rate that is so far from the last one ends a rest, percent.
const CHANGE_PERCENT: u128 = 25;
/// Sums beyond this, 35 years of one Mlist, are not told apart: products of three must not overflow.
const SUM_MAX: u64 = 1 << 40;

/// The operator's bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    min: u32,
    max: u32,
}

impl Bounds {
    /// `min` counts as `max` where it is more, and nothing is governed then; 0 counts as 1, or a peer that has failed would
    /// never be tried again.
    pub(crate) fn new(min: u32, max: u32) -> Self {
        Self { min: min.max(1).min(max), max }
    }
}

/// The number of one peer, and what is known about it.
#[derive(Clone, Debug)]
pub(crate) struct Governor {
    bounds: Bounds,
    slots: u32,
    stage: Stage,
    /// Mlists that still end from before the last change: they are not measured.
    settling: u32,
    measured: Measured,
    /// When the number in progress changed last.
    changed_at: u64,
    /// The last measurement at rest.
    rest: Option<Measured>,
    /// The next trial is of more.
    is_next_up: bool,
    /// No trial before this.
    rest_until: u64,
    rest_ms: u64,
    /// So many were refused last; until `refused_until` not so many are tried.
    refused_slots: Option<u32>,
    refused_until: u64,
    refused_ms: u64,
    /// Mlists that have ended since the last change or refusal.
    worked: u32,
}

/// What is done at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Each Mlist that ends adds one.
    Start,
    /// The number is measured, and then another one is tried.
    Rest,
    /// This is a trial; before, the number was this one.
    Trial { before: u32 },
}

/// What went through in an interval.
#[derive(Clone, Copy, Debug, Default)]
struct Measured {
    since: u64,
    elapsed_ms: u64,
    /// The number in progress, summed over the milliseconds.
    slot_ms: u64,
    completed: u32,
    /// Of those, the ones that ended in an error of the message.
    deferred: u32,
}

impl Measured {
    /// Whether this one has the rate that makes its larger number in progress worth while against `fewer`: so many percent
    /// for twice as many, in proportion for less than that.
    fn is_worth(&self, fewer: &Self, gain_percent: i128) -> bool {
        let [more_ms, fewer_ms, more_slots, fewer_slots] =
            [self.elapsed_ms, fewer.elapsed_ms, self.slot_ms, fewer.slot_ms]
                .map(|sum| i128::from(sum.min(SUM_MAX)));
        let [more_count, fewer_count] = [self.completed, fewer.completed].map(i128::from);
        // (rate − fewer.rate) / fewer.rate × 100 ≥ gain × (slots − fewer.slots) / fewer.slots, without a fraction.
        let rate_gain = more_count * fewer_ms - fewer_count * more_ms;
        let slots_gain = more_slots * fewer_ms - fewer_slots * more_ms;
        rate_gain * fewer_slots * 100 >= gain_percent * slots_gain * fewer_count
    }

    /// Whether the rate is clearly below that of `other`.
    fn is_clearly_less(&self, other: &Self) -> bool {
        let (this, that) = self.rates(other);
        this * 100 < that * CLEARLY_LESS_PERCENT
    }

    /// Whether the rate is another than that of `other`.
    fn has_changed(&self, other: &Self) -> bool {
        let (this, that) = self.rates(other);
        this.abs_diff(that) * 100 > that * CHANGE_PERCENT
    }

    /// This rate and that of `other`, in the same unit.
    fn rates(&self, other: &Self) -> (u128, u128) {
        let over = |completed: u32, elapsed_ms: u64| u128::from(completed) * u128::from(elapsed_ms);
        (over(self.completed, other.elapsed_ms), over(other.completed, self.elapsed_ms))
    }
}

impl Governor {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            slots: START_SLOTS.clamp(bounds.min, bounds.max),
            stage: Stage::Start,
            settling: 0,
            measured: Measured::default(),
            changed_at: 0,
            rest: None,
            is_next_up: false,
            rest_until: 0,
            rest_ms: REST_MS_MIN,
            refused_slots: None,
            refused_until: 0,
            refused_ms: REFUSED_MS_MIN,
            worked: 0,
        }
    }

    /// How many Mlists may be in progress.
    pub(crate) const fn slots(&self) -> u32 {
        self.slots
    }

    /// Whether the bounds leave something to find.
    const fn is_governed(&self) -> bool {
        self.bounds.min < self.bounds.max
    }

    /// The operator's bounds are these now.
    pub(crate) fn bound(&mut self, bounds: Bounds) {
        if bounds == self.bounds {
            return;
        }
        let was_at_max = self.slots == self.bounds.max;
        self.bounds = bounds;
        if was_at_max && bounds.max > self.slots && self.stage != Stage::Start {
            // What held it back was the bound.
            (self.stage, self.rest) = (Stage::Start, None);
        }
        if let Stage::Trial { before } = self.stage {
            self.stage = Stage::Trial { before: before.clamp(bounds.min, bounds.max) };
        }
        let start = if self.stage == Stage::Start { self.slots.max(START_SLOTS) } else { self.slots };
        self.set(start);
    }

    /// The number in progress, which has been `in_progress` since the last call, changes now.
    pub(crate) fn occupied(&mut self, now: u64, in_progress: u32) {
        let elapsed_ms = now.saturating_sub(self.changed_at);
        self.changed_at = now;
        self.measured.slot_ms =
            self.measured.slot_ms.saturating_add(elapsed_ms.saturating_mul(in_progress.into()));
    }

    /// An Mlist has ended by the peer's word, while so many are in progress. Says whether the number has changed.
    pub(crate) fn completed(&mut self, now: u64, in_progress: u32) -> bool {
        if !self.is_governed() {
            return false;
        }
        self.worked = self.worked.saturating_add(1);
        let before = self.slots;
        if self.stage == Stage::Start {
            if in_progress.saturating_mul(2) >= self.slots {
                self.set(self.slots.saturating_add(1).min(self.unrefused()));
            }
            if self.slots == self.bounds.max.min(self.unrefused()) {
                self.stage = Stage::Rest;
                self.settle(now);
            }
        } else if self.settling > 0 {
            self.settling -= 1;
            if self.settling == 0 {
                self.measure_from(now);
            }
        } else {
            self.measured.completed += 1;
            self.measured.elapsed_ms = now.saturating_sub(self.measured.since);
            if self.is_measured() {
                let measured = self.measured;
                self.measure_from(now);
                self.judge(now, measured);
            }
            if before != self.slots {
                self.settle(now);
            }
        }
        before != self.slots
    }

    /// Whether enough has gone through to decide.
    fn is_measured(&self) -> bool {
        let measured = &self.measured;
        let is_clear = match (self.stage, &self.rest) {
            (Stage::Trial { before }, Some(rest)) if self.slots < before => {
                measured.completed >= self.slots.max(COMPLETED_MIN / 2) && measured.is_clearly_less(rest)
            }
            _ => false,
        };
        let enough = COMPLETED_MIN.max(self.slots.saturating_mul(ROUNDS));
        is_clear || measured.completed >= enough && measured.elapsed_ms >= MEASURE_MS_MIN
    }

    fn measure_from(&mut self, now: u64) {
        self.measured = Measured { since: now, ..Measured::default() };
        self.changed_at = self.changed_at.max(now);
    }

    /// The most that were not refused.
    fn unrefused(&self) -> u32 {
        self.refused_slots.map_or(u32::MAX, |slots| slots.saturating_sub(1)).max(1)
    }

    /// Of the Mlists that have ended, one had an error of its own.
    pub(crate) fn deferred(&mut self) {
        self.measured.deferred = self.measured.deferred.saturating_add(1);
    }

    /// The peer has failed while so many other Mlists are in progress there. True when that was one too many, and says
    /// nothing about the peer.
    pub(crate) fn refused(&mut self, now: u64, others: u32) -> bool {
        if !self.is_governed() || others == 0 {
            return false;
        }
        if self.slots <= self.bounds.min {
            // Nothing is tried before one of the others has ended, and that one tells more.
            return others >= self.slots;
        }
        let has_worked_long = self.worked >= COMPLETED_MIN.max(self.slots.saturating_mul(ROUNDS));
        self.worked = 0;
        if has_worked_long {
            return true;
        }
        // Those that were refused together are one refusal.
        if self.refused_until <= now {
            let again = self.refused_slots.is_some();
            self.refused_ms = if again { (self.refused_ms * 2).min(REFUSED_MS_MAX) } else { REFUSED_MS_MIN };
            self.refused_until = now.saturating_add(self.refused_ms);
        }
        self.refused_slots = Some(others.saturating_add(1));
        self.set(self.slots.min(others));
        (self.stage, self.rest) = (Stage::Rest, None);
        self.settle(now);
        true
    }

    /// The peer does not work: when it is tried again, it is by as few as may be. What seemed to be refusals before the last
    /// Mlist had failed were none.
    pub(crate) fn failed(&mut self) {
        self.set(self.bounds.min);
        (self.stage, self.rest, self.refused_slots) = (Stage::Rest, None, None);
    }

    /// It works again.
    pub(crate) fn works_again(&mut self) {
        self.set(START_SLOTS);
        self.stage = Stage::Start;
    }

    fn set(&mut self, slots: u32) -> u32 {
        std::mem::replace(&mut self.slots, slots.clamp(self.bounds.min, self.bounds.max))
    }

    /// What ends next began before the change.
    fn settle(&mut self, now: u64) {
        self.settling = self.slots;
        self.worked = 0;
        self.measure_from(now);
    }

    /// Decides by what was measured.
    fn judge(&mut self, now: u64, measured: Measured) {
        let is_limit =
            u128::from(measured.slot_ms) * 4 >= u128::from(measured.elapsed_ms) * u128::from(self.slots) * 3;
        match self.stage {
            Stage::Trial { before } => {
                let is_up = self.slots > before;
                // More that could not be used change nothing; fewer are always used if more were.
                let stays = match self.rest {
                    Some(rest) if is_up => is_limit && measured.is_worth(&rest, GAIN_UP_PERCENT),
                    Some(rest) => !rest.is_worth(&measured, GAIN_DOWN_PERCENT),
                    None => false,
                };
                self.stage = Stage::Rest;
                if stays {
                    (self.rest, self.rest_ms, self.is_next_up) = (Some(measured), REST_MS_MIN, is_up);
                    if self.slots > self.unrefused() {
                        self.refused_slots = Some(self.slots.saturating_add(1));
                    }
                    self.begin_trial(now);
                } else {
                    self.set(before);
                    self.is_next_up = !is_up;
                    self.rest_until = now.saturating_add(self.rest_ms);
                    self.rest_ms = (self.rest_ms * 2).min(REST_MS_MAX);
                }
            }
            Stage::Rest if is_limit => {
                let mostly_deferred = measured.deferred.saturating_mul(2) > measured.completed;
                if mostly_deferred && self.slots > START_SLOTS {
                    self.set((self.slots / 2).max(START_SLOTS));
                    self.rest = None;
                    self.rest_until = now.saturating_add(self.rest_ms);
                    return;
                }
                if self.rest.is_some_and(|rest| measured.has_changed(&rest)) {
                    (self.rest_until, self.rest_ms) = (now, REST_MS_MIN);
                }
                self.rest = Some(measured);
                if now >= self.rest_until {
                    self.begin_trial(now);
                }
            }
            Stage::Rest | Stage::Start => {}
        }
    }

    /// Tries the next number, if there is one in this direction or else in the other.
    fn begin_trial(&mut self, now: u64) {
        let before = self.slots;
        let up = self.more(now).clamp(self.bounds.min, self.bounds.max);
        let down = (before / 2).clamp(self.bounds.min.max(1), self.bounds.max);
        let slots = match (up > before, down < before) {
            (true, _) if self.is_next_up => up,
            (true, false) => up,
            (_, true) => down,
            (false, false) => return,
        };
        self.set(slots);
        self.stage = Stage::Trial { before };
    }

    /// Twice as many; where so many were refused, what is below that, and when that is long ago one more.
    fn more(&self, now: u64) -> u32 {
        let double = self.slots.saturating_mul(2);
        match self.refused_slots {
            Some(_) if now >= self.refused_until => self.slots.saturating_add(1),
            Some(_) => double.min(self.unrefused()),
            None => double,
        }
    }
}

#[cfg(test)]
mod tests;
