//! Reads a header section as it streams by, octet by octet: which octets are names, which are values, where it ends.
//!
//! RFC 5322, section 2.1: the header section is fields, an empty line ends it. A line that is neither a field nor the
//! continuation of one ends it as well (a body without a header section, or a broken one). Nothing is kept: what a name
//! or a value says is for the caller to collect.

/// Blanks between a name and its colon. With more the line is no field: a whole line of RFC 5322 has no more octets.
pub const GAP_OCTETS_MAX: u16 = 998;

/// What an octet of a header section is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderPart {
    /// The first octet of a name: the field before it, if any, has ended.
    NameStart,
    /// A further octet of the name.
    Name,
    /// A blank between a name and its colon (RFC 5322, section 4.5): [`GAP_OCTETS_MAX`] of them at most.
    Gap,
    /// The colon: the value begins behind it.
    Colon,
    /// Of the value, with its line ends and the blanks of its continuations.
    Value,
    /// A carriage return that begins the empty line, unless no line feed follows.
    EmptyLine,
    /// The line feed that ends the empty line: the body starts behind it.
    End,
    /// The first octet by which a line is seen to be no field: the body has started where that line started.
    NoField,
}

/// A reader of one header section in constant memory. Cutting its input anywhere gives the same parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeaderReader {
    place: Place,
}

/// Where the next octet stands. Named by what is awaited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// The first octet of the content: a blank here does not continue anything.
    #[default]
    First,
    /// The first octet of a later line.
    LineStart,
    /// The line feed behind a carriage return that began a line.
    EmptyLineEnd,
    /// The rest of a name.
    Name,
    /// The colon behind so many blanks behind a name.
    Colon(u16),
    /// The end of a line of a value.
    Value,
    /// Nothing more: the header section has ended.
    Body,
}

impl HeaderReader {
    /// A reader before the first octet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one octet. To be asked until [`Self::has_ended`].
    pub fn step(&mut self, octet: u8) -> HeaderPart {
        let (place, part) = match (self.place, octet) {
            (Place::LineStart, b' ' | b'\t') => (Place::Value, HeaderPart::Value),
            (Place::First | Place::LineStart, b'\r') => (Place::EmptyLineEnd, HeaderPart::EmptyLine),
            (Place::First | Place::LineStart | Place::EmptyLineEnd, b'\n') => (Place::Body, HeaderPart::End),
            (Place::First | Place::LineStart, _) if is_name(octet) => (Place::Name, HeaderPart::NameStart),
            (Place::Name, _) if is_name(octet) => (Place::Name, HeaderPart::Name),
            (Place::Name, b' ' | b'\t') => (Place::Colon(1), HeaderPart::Gap),
            (Place::Colon(blanks), b' ' | b'\t') if blanks < GAP_OCTETS_MAX => {
                (Place::Colon(blanks + 1), HeaderPart::Gap)
            }
            (Place::Name | Place::Colon(_), b':') => (Place::Value, HeaderPart::Colon),
            (Place::Value, b'\n') => (Place::LineStart, HeaderPart::Value),
            (Place::Value, _) => (Place::Value, HeaderPart::Value),
            _ => (Place::Body, HeaderPart::NoField),
        };
        self.place = place;
        part
    }

    /// Takes octets of a value up to the end of its line, or as many as there are, and gives their count: none when
    /// something else is awaited. Most of a header section is values, and this is one search a line.
    pub fn value_line(&mut self, octets: &[u8]) -> usize {
        if self.place != Place::Value {
            return 0;
        }
        match octets.iter().position(|&octet| octet == b'\n') {
            Some(line_end) => {
                self.place = Place::LineStart;
                line_end + 1
            }
            None => octets.len(),
        }
    }

    /// Whether the next octet begins a line.
    #[must_use]
    pub const fn is_at_line_start(&self) -> bool {
        matches!(self.place, Place::First | Place::LineStart)
    }

    /// Whether the header section has ended.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        matches!(self.place, Place::Body)
    }
}

/// ftext of RFC 5322, section 3.6.8: printable US-ASCII without the colon.
const fn is_name(octet: u8) -> bool {
    matches!(octet, 33..=57 | 59..=126)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One letter for each octet: N n g : v e E x.
    fn parts(content: &str) -> String {
        let mut reader = HeaderReader::new();
        let mut out = String::new();
        for &octet in content.as_bytes() {
            if reader.has_ended() {
                break;
            }
            out.push(match reader.step(octet) {
                HeaderPart::NameStart => 'N',
                HeaderPart::Name => 'n',
                HeaderPart::Gap => 'g',
                HeaderPart::Colon => ':',
                HeaderPart::Value => 'v',
                HeaderPart::EmptyLine => 'e',
                HeaderPart::End => 'E',
                HeaderPart::NoField => 'x',
            });
        }
        out
    }

    #[test]
    fn each_octet_of_a_header_section_is_a_part_of_it() {
        let rows = [
            ("Ab: c\r\n d\r\n\r\nbody", "Nn:vvvvvvvveE"),
            ("A \t:\nB:\n\nbody", "Ngg:vN:vE"),
            ("\r\n", "eE"),
            ("A: b\r\n\rB", "N:vvvvex"),
            ("no field", "Nngx"),
            (" A: b", "x"),
            ("A: b\r\nAé", "N:vvvvNx"),
            (": b", "x"),
        ];
        for (content, wanted) in rows {
            assert_eq!(parts(content), wanted, "{content:?}");
        }
    }

    #[test]
    fn a_line_with_too_many_blanks_before_its_colon_is_no_field() {
        let blanks = |count: u16| format!("A{}:", " ".repeat(count.into()));
        assert!(parts(&blanks(GAP_OCTETS_MAX)).ends_with("g:"));
        assert!(parts(&blanks(GAP_OCTETS_MAX + 1)).ends_with("gx"));
    }

    #[test]
    fn a_line_of_a_value_is_taken_at_once() {
        let mut reader = HeaderReader::new();
        assert_eq!(reader.value_line(b"A: b\r\n"), 0);
        reader.step(b'A');
        reader.step(b':');
        assert_eq!(reader.value_line(b" b"), 2);
        assert_eq!(reader.value_line(b"c\r\nD: e"), 3);
        assert!(reader.is_at_line_start());
        assert_eq!(reader.step(b'D'), HeaderPart::NameStart);
    }
}
