//! What is wrong in a file of the site: line, key, what, and what to do.

use std::fmt;
use std::ops::Range;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Where the text came from, for people.
    pub(crate) source: String,
    /// Counted from 1.
    pub(crate) line: usize,
    /// The key with its table; empty when the text has none there.
    pub(crate) key: String,
    /// What is wrong.
    pub(crate) what: String,
    /// What to do, a sentence.
    pub(crate) what_to_do: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, line, key, what, what_to_do } = self;
        let colon = if key.is_empty() { "" } else { ": " };
        write!(f, "{source}:{line}: {key}{colon}{what}. {what_to_do}")
    }
}

/// A text that is being read, and what was found wrong in it so far.
#[derive(Debug)]
pub(crate) struct Reading<'a> {
    source: &'a str,
    text: &'a str,
    problems: Vec<Problem>,
}

impl<'a> Reading<'a> {
    pub(crate) const fn new(source: &'a str, text: &'a str) -> Self {
        Self { source, text, problems: Vec::new() }
    }

    /// Notes a problem that begins where `span` does.
    pub(crate) fn wrong(
        &mut self,
        span: Range<usize>,
        key: &str,
        what: impl Into<String>,
        what_to_do: impl Into<String>,
    ) {
        let before = self.text.as_bytes().iter().take(span.start);
        self.problems.push(Problem {
            source: self.source.to_owned(),
            line: before.filter(|octet| **octet == b'\n').count() + 1,
            key: key.to_owned(),
            what: what.into(),
            what_to_do: what_to_do.into(),
        });
    }

    /// The value, if nothing is wrong.
    ///
    /// # Errors
    /// Everything that is.
    pub(crate) fn finish<T>(self, value: Option<T>) -> Result<T, Vec<Problem>> {
        match value {
            Some(value) if self.problems.is_empty() => Ok(value),
            _ => Err(self.problems),
        }
    }
}
