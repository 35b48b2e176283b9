//! What is wrong in a file of the site: line, key, what, and what to do.

use std::fmt;
use std::ops::Range;

/// What is told of one text: an installer mends a handful at a time, and a console has so many lines.
const PROBLEMS_MAX: usize = 20;
/// Characters of what is wrong, which may repeat a value.
const WHAT_CHARACTERS_MAX: usize = 300;

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
    /// Those beyond [`PROBLEMS_MAX`].
    more_count: usize,
}

impl<'a> Reading<'a> {
    pub(crate) const fn new(source: &'a str, text: &'a str) -> Self {
        Self { source, text, problems: Vec::new(), more_count: 0 }
    }

    /// Notes a problem that begins where `span` does.
    pub(crate) fn wrong(
        &mut self,
        span: Range<usize>,
        key: &str,
        what: impl Into<String>,
        what_to_do: impl Into<String>,
    ) {
        if self.problems.len() == PROBLEMS_MAX {
            self.more_count += 1;
            return;
        }
        let mut what = what.into();
        if let Some((end, _)) = what.char_indices().nth(WHAT_CHARACTERS_MAX) {
            what.truncate(end);
            what.push('…');
        }
        let before = self.text.as_bytes().iter().take(span.start);
        self.problems.push(Problem {
            source: self.source.to_owned(),
            line: before.filter(|octet| **octet == b'\n').count() + 1,
            key: key.to_owned(),
            what,
            what_to_do: what_to_do.into(),
        });
    }

    /// The value, if nothing is wrong.
    ///
    /// # Errors
    /// Everything that is.
    pub(crate) fn finish<T>(mut self, value: Option<T>) -> Result<T, Vec<Problem>> {
        if let (Some(last), 1..) = (self.problems.last().cloned(), self.more_count) {
            let what = format!("and {} more", self.more_count);
            let what_to_do = "Mend these first.".to_owned();
            self.problems.push(Problem { key: String::new(), what, what_to_do, ..last });
        }
        match value {
            Some(value) if self.problems.is_empty() => Ok(value),
            _ => Err(self.problems),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_with_many_problems_tells_twenty_and_how_many_more_there_are() {
        let text = "\n".repeat(100_000);
        let mut reading = Reading::new("a stick", &text);
        for line in 0..85_000 {
            reading.wrong(line..line, "network.dns", "\"\" is no address", "Write one.");
        }
        let problems = reading.finish::<()>(None).unwrap_err();
        assert_eq!(problems.len(), 21);
        assert_eq!(problems[20].to_string(), "a stick:20: and 84980 more. Mend these first.");
    }

    #[test]
    fn a_value_of_any_length_makes_a_short_sentence() {
        let mut reading = Reading::new("a stick", "");
        reading.wrong(0..0, "node", "é".repeat(200_000), "Shorten it.");
        let problems = reading.finish::<()>(None).unwrap_err();
        assert_eq!(problems[0].what.chars().count(), WHAT_CHARACTERS_MAX + 1);
    }
}
