//! Why channel processes are started, stopped and not started, in the log: in detail up to a number of lines a minute,
//! beyond that as one count.
//!
//! `sternpost status` and `queue why` have the present; the log has what was. Not here: the decisions (`scheduler`).

use rustc_hash::FxHashMap;
use sternpost_message::{Precedence, UnixMillis};
use sternpost_scheduler::{HoldOff, ProcessId, StopReason};

/// Lines in detail. A switch that starts and stops more in a minute is better understood by the counts.
const LINES_PER_MINUTE_MAX: u32 = 60;
const MINUTE_MS: u64 = 60_000;

/// What a process is started for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Need {
    /// The level that needs it.
    pub(crate) precedence: Precedence,
    /// Mlists of that level and above that found no slot.
    pub(crate) waiting: u64,
    /// Processes that the channel has already.
    pub(crate) running: usize,
}

/// The lines of this minute, and what was too much for it.
#[derive(Debug, Default)]
pub(crate) struct Reasons {
    minute: u64,
    lines: u32,
    starts: u64,
    stops: u64,
    hold_offs: u64,
    /// Until when each channel was said to be held off.
    held_off: FxHashMap<String, UnixMillis>,
}

impl Reasons {
    /// A process is being started.
    pub(crate) fn started(&mut self, now_ms: u64, channel: &str, process: ProcessId, need: Need) {
        if !self.may_tell(now_ms) {
            self.starts += 1;
            return;
        }
        let Need { precedence, waiting, running } = need;
        tracing::info!(
            event = "channel.start",
            channel,
            process = process.0,
            precedence = precedence.name(),
            waiting,
            running,
            "a channel process is started: mail of this precedence and above waits for a slot"
        );
    }

    /// A process is asked to stop.
    pub(crate) fn stopped(&mut self, now_ms: u64, channel: &str, process: ProcessId, reason: StopReason) {
        if !self.may_tell(now_ms) {
            self.stops += 1;
            return;
        }
        tracing::info!(
            event = "channel.stop",
            channel,
            process = process.0,
            %reason,
            "a channel process is asked to stop"
        );
    }

    /// Processes of the channel have failed. `until` is the end of the hold-off in words.
    pub(crate) fn held_off(&mut self, now_ms: u64, channel: &str, hold_off: HoldOff, until: &str) {
        if self.held_off.get(channel) == Some(&hold_off.until) {
            return;
        }
        self.held_off.insert(channel.to_owned(), hold_off.until);
        if !self.may_tell(now_ms) {
            self.hold_offs += 1;
            return;
        }
        let words = "processes of the channel failed: none is started before that";
        let failures = hold_off.failures;
        // One that dies is an accident, and all do when the switch is stopped.
        if failures == 1 {
            tracing::info!(event = "channel.start-held-off", channel, failures, until, "{words}");
        } else {
            tracing::warn!(event = "channel.start-held-off", channel, failures, until, "{words}");
        }
    }

    /// Tells the count of what the last minute had no line for, once that is over.
    pub(crate) fn tell_the_rest(&mut self, now_ms: u64) {
        if now_ms / MINUTE_MS == self.minute {
            return;
        }
        let (starts, stops, hold_offs) = (
            std::mem::take(&mut self.starts),
            std::mem::take(&mut self.stops),
            std::mem::take(&mut self.hold_offs),
        );
        if starts + stops + hold_offs > 0 {
            tracing::info!(
                event = "channel.many",
                starts,
                stops,
                hold_offs,
                "channel processes beyond the {LINES_PER_MINUTE_MAX} lines of a minute"
            );
        }
        (self.minute, self.lines) = (now_ms / MINUTE_MS, 0);
    }

    fn may_tell(&mut self, now_ms: u64) -> bool {
        self.tell_the_rest(now_ms);
        self.lines += 1;
        self.lines <= LINES_PER_MINUTE_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_has_sixty_lines_and_the_rest_is_counted_until_it_is_over() {
        let mut reasons = Reasons::default();
        for process in 0..100 {
            reasons.stopped(59_999, "smtp", ProcessId(process), StopReason::Idle);
        }
        assert_eq!((reasons.lines, reasons.stops), (100, 40));
        let need = Need { precedence: Precedence::Flash, waiting: 1, running: 0 };
        reasons.started(60_000, "smtp", ProcessId(100), need);
        assert_eq!((reasons.lines, reasons.stops, reasons.starts), (1, 0, 0));
    }

    #[test]
    fn a_hold_off_is_told_once() {
        let mut reasons = Reasons::default();
        let hold_off = |until| HoldOff { failures: 1, until: UnixMillis(until) };
        for until in [5, 5, 7, 7] {
            reasons.held_off(0, "smtp", hold_off(until), "then");
        }
        reasons.held_off(0, "lmtp", hold_off(7), "then");
        assert_eq!(reasons.lines, 3);
    }
}
