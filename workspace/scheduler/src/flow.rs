//! The flow control of intake: whether mail leaves as fast as it comes, and how long the acknowledgements of new mail should
//! wait for it.
//!
//! Intake costs less than delivery. Where both share a machine, senders that are as fast as they can leave too little of it for
//! delivery; what waits then has left the store's memory, its delivery has to read it from the disk and becomes slower still,
//! and a queue that once grew for a second grows until it is full. So intake is slowed a little:
//! - while what waits, but for peers that are behind, would leave within a second: by the shortest delay;
//! - while most of what comes is for peers that take at least a quarter of it and are behind all the same: by a
//!   delay that doubles each second until they get ahead.
//!
//! What waits for a peer that is behind does not count, so that a dead or slow next hop slows nobody down: it takes less than
//! a quarter of what comes for it, or gets less than half of all that comes.

use sternpost_message::UnixMillis;

use crate::Scheduler;

/// The shortest delay, milliseconds.
const DELAY_MS_MIN: u32 = 20;
/// The longest delay, milliseconds.
const DELAY_MS_MAX: u32 = 160;
/// Departures are counted in intervals of so many milliseconds.
const INTERVAL_MS: u64 = 250;
/// Peers are compared with what came for them each so many milliseconds.
const LOOK_MS: u64 = 1_000;

/// What the store needs for the flow control of intake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intake {
    /// Mlists that wait and are about to leave; 0 when intake has no reason to wait for them.
    pub leaving: u64,
    /// The longest that an acknowledgement of new mail should wait for them, milliseconds: 20 to 160.
    pub delay_ms: u32,
}

/// What has come and gone of a peer since the last look.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Passed {
    pub(crate) arrived: u32,
    pub(crate) departed: u32,
}

/// What is known of all peers together.
#[derive(Debug)]
pub(crate) struct Flow {
    /// The interval that is being counted, its departures, and those of the interval before.
    interval: u64,
    departed: u64,
    departed_before: u64,
    /// When the peers were looked at last.
    looked_at: u64,
    /// What could run for the peers that were behind at that time.
    pub(crate) behind_count: usize,
    /// Most of what comes is for peers that take much and are behind.
    is_outrun: bool,
    delay_ms: u32,
}

impl Default for Flow {
    fn default() -> Self {
        Self {
            interval: 0,
            departed: 0,
            departed_before: 0,
            looked_at: 0,
            behind_count: 0,
            is_outrun: false,
            delay_ms: DELAY_MS_MIN,
        }
    }
}

impl Flow {
    pub(crate) fn departed(&mut self, now: u64) {
        self.roll(now);
        self.departed += 1;
    }

    fn departures_per_second(&mut self, now: u64) -> u64 {
        self.roll(now);
        self.departed_before.max(self.departed) * (1_000 / INTERVAL_MS)
    }

    fn roll(&mut self, now: u64) {
        let interval = now / INTERVAL_MS;
        if interval != self.interval {
            self.departed_before = if interval == self.interval + 1 { self.departed } else { 0 };
            (self.interval, self.departed) = (interval, 0);
        }
    }
}

impl Scheduler {
    /// How much mail waits that intake should wait for, and how long. O(1), and O(peers) once a second.
    pub fn intake(&mut self, now: UnixMillis) -> Intake {
        self.now = self.now.max(now.0);
        if !self.is_going {
            return Intake { leaving: 0, delay_ms: DELAY_MS_MIN };
        }
        if self.now.saturating_sub(self.flow.looked_at) >= LOOK_MS {
            self.look_at_the_peers();
        }
        let elsewhere = (self.counts.runnable - self.flow.behind_count) as u64;
        let leaving = if self.flow.is_outrun {
            self.counts.runnable as u64
        } else if elsewhere <= self.flow.departures_per_second(self.now) {
            elsewhere
        } else {
            0
        };
        Intake { leaving, delay_ms: self.flow.delay_ms }
    }

    fn look_at_the_peers(&mut self) {
        let elapsed_ms = self.now - std::mem::replace(&mut self.flow.looked_at, self.now);
        let (mut arrived, mut behind) = (0, Passed::default());
        self.flow.behind_count = 0;
        for peer in &mut self.peers {
            let passed = std::mem::take(&mut peer.passed);
            arrived += u64::from(passed.arrived);
            let departed_per_second = u64::from(passed.departed) * 1_000 / elapsed_ms.max(1);
            peer.is_behind = peer.offered.runnable_count as u64 > departed_per_second;
            if peer.is_behind {
                self.flow.behind_count += peer.offered.runnable_count;
            }
            if peer.is_behind && passed.departed.saturating_mul(4) >= passed.arrived {
                behind.arrived = behind.arrived.saturating_add(passed.arrived);
                behind.departed = behind.departed.saturating_add(passed.departed);
            }
        }
        let flow = &mut self.flow;
        flow.is_outrun = behind.arrived > 0 && u64::from(behind.arrived) * 2 >= arrived;
        if !flow.is_outrun {
            flow.delay_ms = DELAY_MS_MIN;
        } else if behind.arrived > behind.departed {
            flow.delay_ms = (flow.delay_ms * 2).min(DELAY_MS_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn departures_are_those_of_the_last_quarter_second() {
        let mut flow = Flow::default();
        for ms in 0..100 {
            flow.departed(10_000 + ms);
        }
        assert_eq!(flow.departures_per_second(10_100), 400);
        assert_eq!(flow.departures_per_second(10_260), 400);
        assert_eq!(flow.departures_per_second(10_600), 0);
    }
}
