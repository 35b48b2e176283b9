//! Reads the header section as it streams by: where it ends, and how many `Received` fields it has.
//!
//! RFC 5322, section 2.1: the header section is fields, an empty line ends it. A line that is neither a field nor the
//! continuation of one ends it as well (a body without a header section, or a broken one): trace fields are
//! prepended, so a looping message has them above whatever is broken.

/// What is counted, in lower case.
const COUNTED_NAME: &[u8] = b"received";

/// A reader of header sections in constant memory. Cutting its input anywhere gives the same result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderScan {
    place: Place,
    octets: u64,
    /// Where the line that is being read starts.
    line_start: u64,
    body_start: Option<u64>,
    received_count: u32,
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
    /// The rest of a field's name, whose first `matched` octets are those of [`COUNTED_NAME`]; none when they differ.
    Name { matched: Option<usize> },
    /// The colon behind blanks behind a name (RFC 5322, section 4.5).
    Colon { is_counted: bool },
    /// The end of a line of a field's value.
    Value,
    /// Nothing more: the header section has ended.
    Body,
}

impl HeaderScan {
    /// A scan before the first octet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the next octets of the content, as many as there are. Once the header section has ended, they are only
    /// counted.
    pub fn feed(&mut self, octets: &[u8]) {
        let mut at = 0;
        while self.place != Place::Body {
            if self.place == Place::Value {
                // Most octets of a header section are here: one fast search a line.
                match octets[at..].iter().position(|&octet| octet == b'\n') {
                    Some(line_end) => {
                        at += line_end + 1;
                        self.line_start = self.octets + at as u64;
                        self.place = Place::LineStart;
                    }
                    None => break,
                }
            }
            let Some(&octet) = octets.get(at) else { break };
            self.step(octet, self.octets + at as u64);
            at += 1;
        }
        self.octets += octets.len() as u64;
    }

    /// Takes one octet that stands `at` octets behind the start of the content.
    fn step(&mut self, octet: u8, at: u64) {
        self.place = match (self.place, octet) {
            (Place::LineStart, b' ' | b'\t') => Place::Value,
            (Place::First | Place::LineStart, b'\r') => Place::EmptyLineEnd,
            (Place::First | Place::LineStart | Place::EmptyLineEnd, b'\n') => self.end(at + 1),
            (Place::First | Place::LineStart, _) if is_name(octet) => {
                Place::Name { matched: matched_after(Some(0), octet) }
            }
            (Place::Name { matched }, _) if is_name(octet) => {
                Place::Name { matched: matched_after(matched, octet) }
            }
            (Place::Name { matched }, b':') => self.field(matched == Some(COUNTED_NAME.len())),
            (Place::Name { matched }, b' ' | b'\t') => {
                Place::Colon { is_counted: matched == Some(COUNTED_NAME.len()) }
            }
            (Place::Colon { is_counted }, b' ' | b'\t') => Place::Colon { is_counted },
            (Place::Colon { is_counted }, b':') => self.field(is_counted),
            // The line is no field: the body starts with it.
            _ => self.end(self.line_start),
        };
    }

    const fn field(&mut self, is_counted: bool) -> Place {
        if is_counted {
            self.received_count = self.received_count.saturating_add(1);
        }
        Place::Value
    }

    const fn end(&mut self, at: u64) -> Place {
        self.body_start = Some(at);
        Place::Body
    }

    /// Octets of the content read so far.
    #[must_use]
    pub const fn octets(&self) -> u64 {
        self.octets
    }

    /// `Received` fields seen so far; final when the header section has ended.
    #[must_use]
    pub const fn received_count(&self) -> u32 {
        self.received_count
    }

    /// Whether the header section has ended.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        self.body_start.is_some()
    }

    /// How many octets the header section has, with the empty line that ends it (but without a line that is no field
    /// and ends it thereby). None while it has not ended.
    #[must_use]
    pub const fn header_octets(&self) -> Option<u64> {
        self.body_start
    }
}

/// ftext of RFC 5322, section 3.6.8: printable US-ASCII without the colon.
const fn is_name(octet: u8) -> bool {
    matches!(octet, 33..=57 | 59..=126)
}

fn matched_after(matched: Option<usize>, octet: u8) -> Option<usize> {
    let matched = matched?;
    (COUNTED_NAME.get(matched) == Some(&octet.to_ascii_lowercase())).then_some(matched + 1)
}

/// Checks what holds for any octets: cutting them in two, at a place that the first of them chooses, changes nothing,
/// and the header section lies within them. For fuzzing.
///
/// # Panics
/// When it does not hold.
pub fn fuzz_header_scan(octets: &[u8]) {
    let mut whole = HeaderScan::new();
    whole.feed(octets);
    let place = octets.first().map_or(0, |&octet| usize::from(octet) % octets.len());
    let (before, behind) = octets.split_at(place);
    let mut cut = HeaderScan::new();
    cut.feed(before);
    cut.feed(behind);
    assert_eq!(cut, whole);
    assert!(whole.header_octets().is_none_or(|header_octets| header_octets <= whole.octets()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scan(content: &str) -> HeaderScan {
        let mut scan = HeaderScan::new();
        scan.feed(content.as_bytes());
        scan
    }

    #[test]
    fn the_header_section_ends_at_the_first_line_that_is_no_field() {
        let rows: [(&str, u32, Option<u64>); 15] = [
            ("", 0, None),
            ("\r\nReceived: x\r\n", 0, Some(2)),
            ("Received: x\r\n\r\nReceived: y\r\n", 1, Some(15)),
            ("RECEIVED:x\r\nreceived : y\r\nReceived\t :z\r\n", 3, None),
            ("X-Received: x\r\nReceived-SPF: y\r\nReceive: z\r\nReceivedd: z\r\n\r\n", 0, Some(60)),
            ("A: b\r\n Received: folded\r\n\tReceived: too\r\n\r\n", 0, Some(43)),
            ("A: b\r\n \r\nReceived: x\r\n\r\n", 1, Some(24)),
            (" Received: x\r\n\r\n", 0, Some(0)),
            ("no field\r\nReceived: x\r\n\r\n", 0, Some(0)),
            ("A: b\r\nno field\r\nReceived: x\r\n\r\n", 0, Some(6)),
            ("A: b\r\nReceived\r\nReceived: x\r\n\r\n", 0, Some(6)),
            ("A: b\r\n: no name\r\n", 0, Some(6)),
            ("A: b\r\n\rB: c", 0, Some(6)),
            ("A: b\nReceived: x\n\nbody", 1, Some(18)),
            ("A: b\r\né: c\r\n", 0, Some(6)),
        ];
        for (content, received_count, header_octets) in rows {
            let scan = scan(content);
            assert_eq!(
                (scan.received_count(), scan.header_octets()),
                (received_count, header_octets),
                "{content:?}"
            );
            assert_eq!(scan.octets(), content.len() as u64);
        }
    }

    proptest! {
        #[test]
        fn any_octets_have_one_header_section(octets: Vec<u8>) {
            fuzz_header_scan(&octets);
        }

        #[test]
        fn cutting_the_content_anywhere_gives_the_same_result(
            pieces in proptest::collection::vec("(Received|A|RECEIVED| |\t|:|é|x|\r\n|\r\n|\n|\r){0,6}", 0..12),
        ) {
            let content = pieces.concat();
            let whole = scan(&content);
            let mut cut = HeaderScan::new();
            pieces.iter().for_each(|piece| cut.feed(piece.as_bytes()));
            fuzz_header_scan(content.as_bytes());
            prop_assert_eq!(&cut, &whole);
            let mut octet_by_octet = HeaderScan::new();
            content.as_bytes().chunks(1).for_each(|octet| octet_by_octet.feed(octet));
            prop_assert_eq!(&octet_by_octet, &whole);
        }
    }
}
