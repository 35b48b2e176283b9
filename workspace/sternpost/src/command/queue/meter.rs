//! How far a long piece of work is, on a terminal: four times a second on standard error, and nowhere else.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// Between two showings.
const SHOW_AGAIN: Duration = Duration::from_millis(250);

/// See the module.
pub(super) struct Meter {
    what: &'static str,
    shown_at: Option<Instant>,
    started: Instant,
    is_terminal: bool,
}

impl Meter {
    /// A meter of `what` is done.
    pub(super) fn new(what: &'static str) -> Self {
        Self { what, shown_at: None, started: Instant::now(), is_terminal: io::stderr().is_terminal() }
    }

    /// So many are done.
    pub(super) fn show(&mut self, done: u64, total: u64) {
        if self.is_due() {
            self.line(&format!("{done} of {total} {}", self.what));
        }
    }

    /// So many are done, of which nobody knows how many there will be, with so many octets of content.
    pub(super) fn count(&mut self, done: u64, octets: u64) {
        if self.is_due() {
            let rate = per_second(octets, self.started.elapsed()) >> 20;
            self.line(&format!("{done} {}, {} MiB, {rate} MiB/s", self.what, octets >> 20));
        }
    }

    /// Takes the line away.
    pub(super) fn clear(&self) {
        if self.shown_at.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }

    fn is_due(&self) -> bool {
        self.is_terminal && self.shown_at.unwrap_or(self.started).elapsed() >= SHOW_AGAIN
    }

    fn line(&mut self, text: &str) {
        self.shown_at = Some(Instant::now());
        let _ = write!(io::stderr(), "\r{text}\x1b[K");
    }
}

/// Octets in a second.
pub(super) fn per_second(octets: u64, elapsed: Duration) -> u64 {
    let milliseconds = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
    octets.saturating_mul(1_000) / milliseconds
}
