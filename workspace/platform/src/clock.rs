//! The clock of a process: wall-clock milliseconds that never go back.

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use sternpost_message::UnixMillis;

/// Wall-clock time at its start, carried on by the monotonic clock, and moved forward when the wall clock jumps ahead
/// by more than a second (a device without a battery learns the time late). A jump back is ignored until restart.
#[derive(Debug)]
pub struct Clock {
    started: Instant,
    base: Cell<u64>,
}

impl Default for Clock {
    fn default() -> Self {
        Self { started: Instant::now(), base: Cell::new(wall()) }
    }
}

impl Clock {
    /// Now.
    pub fn now(&self) -> UnixMillis {
        let elapsed = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let here = self.base.get().saturating_add(elapsed);
        let ahead = wall().saturating_sub(here);
        if ahead > 1_000 {
            self.base.set(self.base.get() + ahead);
            return UnixMillis(here + ahead);
        }
        UnixMillis(here)
    }
}

/// The two clocks that QMGR lives by.
pub trait Timepiece: std::fmt::Debug {
    /// The wall clock as it stands; it may be set at any time.
    fn wall(&self) -> UnixMillis;

    /// Milliseconds since some instant, what the machine slept included; nobody sets it.
    fn counted_ms(&self) -> u64;
}

/// The clocks of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClocks;

impl Timepiece for SystemClocks {
    fn wall(&self) -> UnixMillis {
        wall_now()
    }

    fn counted_ms(&self) -> u64 {
        u64::try_from(since_kernel_start().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Time since the kernel was started, what it slept included (`CLOCK_BOOTTIME`).
#[must_use]
pub fn since_kernel_start() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The wall clock as it stands; it may be set at any time.
#[must_use]
pub fn wall_now() -> UnixMillis {
    UnixMillis(wall())
}

fn wall() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_never_goes_back() {
        let clock = Clock::default();
        let times: Vec<_> = (0..1_000).map(|_| clock.now()).collect();
        assert!(times.is_sorted());
    }
}
