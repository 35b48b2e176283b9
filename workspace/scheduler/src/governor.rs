//! How many Mlists a peer MTA bears at a time, found while it is served: between the operator's bounds, from what it does.
//!
//! Only what came and went is looked at: Mlists in progress, those that ended, and refusals. By Little's law an
//! interval gives the mean number in progress and the rate, and no Mlist has to be timed by itself. Not here: who is
//! assigned (`decide`), and the back-off of a peer that does not work at all (`attempt`).
//!
//! # The rule
//! - **Start.** A peer begins with [`START_SLOTS`], and while more waits each Mlist that it takes adds one, until the operator's
//!   maximum or a refusal: the number doubles in one service time. After its failure a peer is tried by as many as it begins
//!   with, for one message alone may be what it always fails at, and starts again when it has worked.
//! - **Gradient.** Then half as many are tried. Where the rate hardly falls, half as many do; where it does, twice as many are
//!   tried after a rest. More stay only if twice as many give [`GAIN_UP_PERCENT`] more, and fewer only if the others gave less than
//!   [`GAIN_DOWN_PERCENT`]: between the two everything stays as it is. Each trial that changes nothing doubles the
//!   rest, and a rate that has changed by itself ends it.
//! - **Refusals.** A peer that fails one association while it holds others has refused one too many. What it holds stays,
//!   and is the number from then on, be it below the operator's minimum, and one more is tried after a time that
//!   doubles with each refusal. When that one is held, the refusal is forgotten. A peer that fails and holds nothing does
//!   not work, which is no business of this module. A refusal after a long time without one changes nothing. When what was refused
//!   goes again is `attempt`'s.
//! - **Deferrals.** Where most Mlists end in an error of the message, the number is halved, to [`START_SLOTS`] at least, and none are
//!   added: some peers say in this way that there are too many.
//! - Rates are compared only where more waited nearly all the time than was let go: else the number was no limit.
//!
//! # Why a gradient, and additive increase only behind refusals
//! Additive increase with multiplicative decrease needs a signal of loss. A mail system that is overloaded gives none: it
//! takes longer. An increase without a signal ends at the operator's maximum, which is what is to be found. A service time
//! compared with the shortest one ever seen would be a signal, but that differs with the size of messages. The rate is what the
//! switch is for, and two rates at two numbers say whether more associations carry more mail. Where a peer does refuse, it
//! names its limit, and additive increase with a long memory is what finds it anew when it has moved.

/// With so many a peer begins, if the bounds allow.
pub(crate) const START_SLOTS: u32 = 4;
/// Twice as many must give so much more of the rate to stay, percent.
const GAIN_UP_PERCENT: i128 = 7;
/// Half as many stay if the other half gave less than this, percent of the rate.
const GAIN_DOWN_PERCENT: i128 = 4;
/// Mlists that a measurement counts for each one in progress: they end in groups, and one group more or less may be in it.
const ROUNDS: u32 = 4;
/// Mlists that a measurement counts at least.
const ENDED_MIN: u32 = 32;
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
    refusal: Option<Refusal>,
    /// Mlists that have ended since the last change or refusal.
    ended: u32,
}

/// How an attempt has ended, and what was going on then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ending {
    /// Mlists in progress with the peer.
    pub(crate) in_progress: u32,
    /// More wait than may be added to them.
    pub(crate) is_pressed: bool,
    /// It ended in an error of the message.
    pub(crate) is_deferred: bool,
}

/// What is done at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The peer has failed, and has not worked since.
    Down,
    /// Each Mlist that ends adds one.
    Start,
    /// The number is measured, and then another one is tried.
    Rest,
    /// This is a trial; before, the number was this one.
    Trial { before: u32 },
}

/// So many were refused.
#[derive(Clone, Copy, Debug)]
struct Refusal {
    slots: u32,
    /// Before this not so many are tried.
    until: u64,
    ms: u64,
    /// One more is being tried.
    is_tried: bool,
}

/// What went through in an interval.
#[derive(Clone, Copy, Debug, Default)]
struct Measured {
    since: u64,
    elapsed_ms: u64,
    /// The number in progress, summed over the milliseconds.
    slot_ms: u64,
    /// Mlists that have ended.
    ended: u32,
    /// Of those, the ones that ended in an error of the message.
    deferred: u32,
    /// Of those, the ones at whose end more waited than was let go.
    pressed: u32,
}

impl Measured {
    /// Whether this one has the rate that makes its larger number in progress worth while against `fewer`: so many percent
    /// for twice as many, in proportion for less than that.
    fn is_worth(&self, fewer: &Self, gain_percent: i128) -> bool {
        let [more_ms, fewer_ms, more_slots, fewer_slots] =
            [self.elapsed_ms, fewer.elapsed_ms, self.slot_ms, fewer.slot_ms]
                .map(|sum| i128::from(sum.min(SUM_MAX)));
        let [more_count, fewer_count] = [self.ended, fewer.ended].map(i128::from);
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

    /// Whether the number was what held mail back.
    const fn is_limit(&self) -> bool {
        self.pressed.saturating_mul(4) >= self.ended.saturating_mul(3)
    }

    const fn is_mostly_deferred(&self) -> bool {
        self.deferred.saturating_mul(2) > self.ended
    }

    /// This rate and that of `other`, in the same unit.
    fn rates(&self, other: &Self) -> (u128, u128) {
        let over = |ended: u32, elapsed_ms: u64| u128::from(ended) * u128::from(elapsed_ms);
        (over(self.ended, other.elapsed_ms), over(other.ended, self.elapsed_ms))
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
            refusal: None,
            ended: 0,
        }
    }

    /// How many Mlists may be in progress.
    pub(crate) const fn slots(&self) -> u32 {
        self.slots
    }

    /// The operator's bounds.
    pub(crate) const fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Whether the bounds leave something to find.
    const fn is_governed(&self) -> bool {
        self.bounds.min < self.bounds.max
    }

    /// The operator's bounds are these now.
    pub(crate) fn bound(&mut self, now: u64, bounds: Bounds) {
        if bounds == self.bounds {
            return;
        }
        if bounds.min == bounds.max || !self.is_governed() {
            *self = Self::new(bounds);
            return;
        }
        let was_at_max = self.slots == self.bounds.max;
        self.bounds = bounds;
        if was_at_max && bounds.max > self.slots && self.stage != Stage::Down {
            // What held it back was the bound.
            self.stage = Stage::Start;
        } else if matches!(self.stage, Stage::Trial { .. }) {
            self.stage = Stage::Rest;
        }
        let fewest = if self.refusal.is_some() { 1 } else { bounds.min };
        self.set(self.slots.max(fewest));
        self.rest = None;
        self.settle(now);
    }

    /// The number in progress, which has been `in_progress` since the last call, changes now.
    pub(crate) fn occupied(&mut self, now: u64, in_progress: u32) {
        let elapsed_ms = now.saturating_sub(self.changed_at);
        self.changed_at = now;
        let slot_ms = elapsed_ms.saturating_mul(in_progress.into());
        self.measured.slot_ms = self.measured.slot_ms.saturating_add(slot_ms);
    }

    /// An attempt has ended by the peer's word. Says whether the number has changed.
    pub(crate) fn ended(&mut self, now: u64, ending: Ending) -> bool {
        let Ending { in_progress, is_pressed, is_deferred } = ending;
        self.occupied(now, in_progress);
        if !self.is_governed() {
            return false;
        }
        let before = self.slots;
        self.ended = self.ended.saturating_add(1);
        if self.stage == Stage::Down {
            *self = Self::new(self.bounds);
            self.measure_from(now);
        } else if self.stage == Stage::Start {
            let most = self.bounds.max.min(self.unrefused());
            if is_pressed && !is_deferred && self.slots < most {
                self.set(self.slots + 1);
            }
            if self.slots >= most {
                self.stage = Stage::Rest;
                self.settle(now);
            }
        } else if self.settling > 0 {
            self.settling -= 1;
            if self.settling == 0 {
                self.measure_from(now);
            }
        } else {
            self.measured.ended += 1;
            self.measured.deferred += u32::from(is_deferred);
            self.measured.pressed += u32::from(is_pressed);
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
                measured.ended >= self.slots.max(ENDED_MIN / 2) && measured.is_clearly_less(rest)
            }
            _ => false,
        };
        is_clear || measured.ended >= self.enough() && measured.elapsed_ms >= MEASURE_MS_MIN
    }

    /// Mlists that tell something of the number.
    fn enough(&self) -> u32 {
        ENDED_MIN.max(self.slots.saturating_mul(ROUNDS))
    }

    fn measure_from(&mut self, now: u64) {
        self.measured = Measured { since: now, ..Measured::default() };
        self.changed_at = self.changed_at.max(now);
    }

    /// The most that were not refused.
    fn unrefused(&self) -> u32 {
        self.refusal.map_or(u32::MAX, |refusal| refusal.slots.saturating_sub(1)).max(1)
    }

    /// An association has failed while the peer holds, or has still to answer, so many others. True
    /// when that was one too many, and says nothing else about the peer.
    pub(crate) fn refused(&mut self, now: u64, holding: u32) -> bool {
        if !self.is_governed() || holding == 0 || self.stage == Stage::Down {
            return false;
        }
        let is_the_first_for_long = self.refusal.is_none() && self.ended >= self.enough();
        self.ended = 0;
        if is_the_first_for_long {
            return true;
        }
        let ms = match self.refusal {
            // Those that were refused together are one refusal.
            Some(refusal) if !refusal.is_tried => refusal.ms,
            Some(refusal) => (refusal.ms * 2).min(REFUSED_MS_MAX),
            None => REFUSED_MS_MIN,
        };
        self.set(self.slots.min(holding));
        let slots = self.slots.saturating_add(1);
        self.refusal = Some(Refusal { slots, until: now.saturating_add(ms), ms, is_tried: false });
        (self.stage, self.rest) = (Stage::Rest, None);
        self.settle(now);
        true
    }

    /// When the time comes to try one more than was refused, or to look whether mail waits for that.
    pub(crate) fn look_at(&self, now: u64) -> u64 {
        match self.refusal {
            Some(refusal) if refusal.until > now => refusal.until,
            Some(_) => now.saturating_add(REFUSED_MS_MIN),
            None => u64::MAX,
        }
    }

    /// More waits than may be added: where the time after a refusal has passed, one more is tried; and where that one was held
    /// for the least such time, the refusal is forgotten.
    pub(crate) fn time_has_passed(&mut self, now: u64) {
        let Some(refusal) = self.refusal.as_mut().filter(|refusal| refusal.until <= now) else { return };
        if refusal.is_tried {
            self.refusal = None;
            self.set(self.slots.max(self.bounds.min));
            return;
        }
        refusal.is_tried = true;
        refusal.until = now.saturating_add(REFUSED_MS_MIN);
        let before = if let Stage::Trial { before } = self.stage { before } else { self.slots };
        self.set(self.slots.max(before).saturating_add(1));
        (self.stage, self.rest) = (Stage::Rest, None);
        self.settle(now);
    }

    /// The peer does not work: when it is tried again, it is by as few as it begins with. What seemed to be refusals before
    /// the last association had failed were none.
    pub(crate) fn failed(&mut self) {
        if self.is_governed() {
            *self = Self { stage: Stage::Down, changed_at: self.changed_at, ..Self::new(self.bounds) };
        }
    }

    /// It works again.
    pub(crate) fn works_again(&mut self) {
        if self.stage == Stage::Down {
            *self = Self { changed_at: self.changed_at, ..Self::new(self.bounds) };
        }
    }

    fn set(&mut self, slots: u32) {
        self.slots = slots.clamp(self.bounds.max.min(1), self.bounds.max);
    }

    /// What ends next began before the change.
    fn settle(&mut self, now: u64) {
        self.settling = self.slots;
        self.ended = 0;
        self.measure_from(now);
    }

    /// Decides by what was measured.
    fn judge(&mut self, now: u64, measured: Measured) {
        match self.stage {
            Stage::Trial { before } => {
                let is_up = self.slots > before;
                // More that could not be used change nothing; fewer are always used if more were.
                let stays = match self.rest {
                    _ if is_up && (!measured.is_limit() || measured.is_mostly_deferred()) => false,
                    Some(rest) if is_up => measured.is_worth(&rest, GAIN_UP_PERCENT),
                    Some(rest) => !rest.is_worth(&measured, GAIN_DOWN_PERCENT),
                    None => false,
                };
                self.stage = Stage::Rest;
                if stays {
                    (self.rest, self.rest_ms, self.is_next_up) = (Some(measured), REST_MS_MIN, is_up);
                    self.begin_trial();
                } else {
                    self.set(before);
                    self.is_next_up = !is_up;
                    self.rest_until = now.saturating_add(self.rest_ms);
                    self.rest_ms = (self.rest_ms * 2).min(REST_MS_MAX);
                }
            }
            Stage::Rest if measured.is_limit() => {
                if measured.is_mostly_deferred() && self.slots > START_SLOTS {
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
                    self.begin_trial();
                }
            }
            Stage::Rest | Stage::Start | Stage::Down => {}
        }
    }

    /// Tries the next number, if there is one in this direction or else in the other.
    fn begin_trial(&mut self) {
        let before = self.slots;
        let up = before.saturating_mul(2).min(self.unrefused()).min(self.bounds.max);
        let down = (before / 2).max(self.bounds.min);
        let slots = match (up > before, down < before) {
            (true, _) if self.is_next_up => up,
            (true, false) => up,
            (_, true) => down,
            (false, false) => return,
        };
        self.set(slots);
        self.stage = Stage::Trial { before };
    }
}

#[cfg(test)]
mod tests;
