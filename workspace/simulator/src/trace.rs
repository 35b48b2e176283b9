//! What happened in a history, line by line: nothing by default, for a history is lived through again when somebody wants to
//! know.

use std::collections::VecDeque;
use std::fmt::Display;

use sternpost_message::UnixMillis;

/// What is kept of the lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tracing {
    /// Nothing.
    #[default]
    Off,
    /// So many of the last.
    Last(usize),
    /// Each is printed at once.
    Print,
}

/// The lines of one history.
#[derive(Debug, Default)]
pub struct Trace {
    tracing: Tracing,
    lines: VecDeque<String>,
}

impl Trace {
    /// No lines yet.
    #[must_use]
    pub const fn new(tracing: Tracing) -> Self {
        Self { tracing, lines: VecDeque::new() }
    }

    /// Something happens. The line is made if somebody wants it.
    pub fn note<D: Display>(&mut self, now: UnixMillis, line: impl FnOnce() -> D) {
        match self.tracing {
            Tracing::Off => {}
            Tracing::Print => println!("{:>9} {}", now.0, line()),
            Tracing::Last(count) => {
                if self.lines.len() == count {
                    self.lines.pop_front();
                }
                self.lines.push_back(format!("{:>9} {}", now.0, line()));
            }
        }
    }

    /// The lines that were kept.
    pub fn into_lines(self) -> impl Iterator<Item = String> {
        self.lines.into_iter()
    }
}
