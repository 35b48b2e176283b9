//! What is being measured, on a terminal: one line on standard error, with the time that is left at most.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// Dropping it takes the line away, so that an error begins a line of its own.
pub(super) struct Meter {
    is_terminal: bool,
    began: Instant,
    total: Duration,
}

impl Meter {
    /// For a test of so long at most.
    pub(super) fn new(total: Duration) -> Self {
        Self { is_terminal: io::stderr().is_terminal(), began: Instant::now(), total }
    }

    /// This comes next.
    pub(super) fn show(&self, what: &str) {
        if self.is_terminal {
            let left = self.total.saturating_sub(self.began.elapsed()).as_secs();
            let _ = write!(io::stderr(), "\rself test: {what} ({left} s left at most)\x1b[K");
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if self.is_terminal {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
