//! How fast mail leaves: what the flow control of intake goes by.

use sternpost_message::UnixMillis;

/// How many Mlists have left lately.
#[derive(Debug, Default)]
pub(crate) struct Departures {
    /// The interval that is being counted, and its count.
    interval: u64,
    count: u64,
    /// The count of the interval before.
    last_count: u64,
}

impl Departures {
    const INTERVAL_MS: u64 = 250;

    pub(crate) fn count(&mut self, now: UnixMillis) {
        self.roll(now);
        self.count += 1;
    }

    pub(crate) fn per_second(&mut self, now: UnixMillis) -> u64 {
        self.roll(now);
        self.last_count.max(self.count) * (1_000 / Self::INTERVAL_MS)
    }

    fn roll(&mut self, now: UnixMillis) {
        let interval = now.0 / Self::INTERVAL_MS;
        if interval != self.interval {
            self.last_count = if interval == self.interval + 1 { self.count } else { 0 };
            (self.interval, self.count) = (interval, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn departures_are_those_of_the_last_quarter_second() {
        let mut departures = Departures::default();
        for ms in 0..100 {
            departures.count(UnixMillis(10_000 + ms));
        }
        assert_eq!(departures.per_second(UnixMillis(10_100)), 400);
        assert_eq!(departures.per_second(UnixMillis(10_260)), 400);
        assert_eq!(departures.per_second(UnixMillis(10_600)), 0);
    }
}
