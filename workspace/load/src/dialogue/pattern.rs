//! What a line has to be: text in which `*` stands for anything.

use std::fmt;

/// A text with any number of `*`, each of which stands for any characters or none. There is no way to ask for a star alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// A pattern as it stands in a file.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Whether all of `line` is as the pattern says, case included. Takes time in proportion to the product of the two lengths at most.
    #[must_use]
    pub fn fits(&self, line: &str) -> bool {
        let Some((head, rest)) = self.0.split_once('*') else { return self.0 == line };
        let Some(mut line) = line.strip_prefix(head) else { return false };
        let (middle, tail) = rest.rsplit_once('*').unwrap_or(("", rest));
        // The first place for each piece leaves the most room for those behind it.
        for piece in middle.split('*') {
            let Some(at) = line.find(piece) else { return false };
            line = &line[at + piece.len()..];
        }
        line.ends_with(tail)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything_and_nothing() {
        let rows = [
            ("250 OK", "250 OK", true),
            ("250 OK", "250 OK ", false),
            ("250 ok", "250 OK", false),
            ("*", "", true),
            ("250 *", "250 ", true),
            ("250 *", "250", false),
            ("*IZE", "SIZE", true),
            ("S*E", "SIZE", true),
            ("S*IZ*E", "SIZE", true),
            ("SI*IZE", "SIZE", false),
            ("*a*b*a", "xaybza", true),
            ("*a*b*a", "xaybz", false),
            ("ab*ba", "aba", false),
            ("**", "x", true),
            ("*ä*", "xäx", true),
        ];
        for (pattern, line, fits) in rows {
            assert_eq!(Pattern::new(pattern).fits(line), fits, "{pattern} {line}");
        }
    }
}
