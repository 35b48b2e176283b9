//! Reads the header section as it streams by: where it ends, how many `Received` fields it has, and what its fields say of
//! the message's priority.
//!
//! Where a header section ends is what [`HeaderReader`] says: trace fields are prepended, so a looping message has them
//! above whatever is broken.

use sternpost_message::{FIELD_VALUE_OCTETS_MAX, HeaderPart, HeaderReader, MtPriority, PriorityField};

/// What is counted, in lower case.
const COUNTED_NAME: &[u8] = b"received";
/// What a message has that is submitted, in lower case. RFC 5322, section 3.6.
const DATE_NAME: &[u8] = b"date";
const MESSAGE_ID_NAME: &[u8] = b"message-id";
/// A field that does not end within so many octets of the content says no priority. So the rank of a message is known
/// when this has gone by, whatever a client makes of its header section.
pub const RANK_OCTETS_MAX: u64 = 32 << 10;

/// A reader of header sections in constant memory. Cutting its input anywhere gives the same result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderScan {
    reader: HeaderReader,
    octets: u64,
    /// Where the line that is being read starts.
    line_start: u64,
    body_start: Option<u64>,
    received_count: u32,
    has_date: bool,
    has_message_id: bool,
    name: Name,
    /// The field whose value is being collected.
    collecting: Option<PriorityField>,
    /// What came of the value so far, one octet more than can be read at most.
    value: Vec<u8>,
    said: [Said; PriorityField::ALL.len()],
}

/// What the header section says by one kind of field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Said {
    /// The field is not there.
    #[default]
    Nothing,
    /// It is there once, with a value that is one.
    Once(MtPriority),
    /// It is there more than once, or what it says is no value of the field.
    Nonsense,
}

/// The name that is being read, as far as it may be one of ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Name {
    octets: [u8; PriorityField::NAME_OCTETS_MAX],
    /// May be larger than what is kept: then it is none of ours.
    len: usize,
}

impl Name {
    fn push(&mut self, octet: u8) {
        if let Some(slot) = self.octets.get_mut(self.len) {
            *slot = octet;
        }
        self.len = self.len.saturating_add(1);
    }

    fn text(&self) -> &[u8] {
        self.octets.get(..self.len).unwrap_or_default()
    }
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
        while !self.reader.has_ended() {
            let rest = octets.get(at..).unwrap_or_default();
            let taken = self.reader.value_line(rest);
            self.collect(rest.get(..taken).unwrap_or_default());
            at += taken;
            let Some(&octet) = octets.get(at) else { break };
            if self.reader.is_at_line_start() {
                self.line_start = self.octets + at as u64;
            }
            self.step(octet, self.octets + at as u64);
            at += 1;
        }
        self.octets += octets.len() as u64;
    }

    /// Takes one octet that stands `at` octets behind the start of the content.
    fn step(&mut self, octet: u8, at: u64) {
        match self.reader.step(octet) {
            HeaderPart::NameStart => {
                self.end_field(at);
                self.name = Name::default();
                self.name.push(octet);
            }
            HeaderPart::Name => self.name.push(octet),
            HeaderPart::Gap => {}
            HeaderPart::Colon => self.begin_field(),
            HeaderPart::Value => self.collect(&[octet]),
            HeaderPart::EmptyLine => self.end_field(at),
            HeaderPart::End => self.end(at + 1),
            // The line is no field: the body starts with it.
            HeaderPart::NoField => self.end(self.line_start),
        }
    }

    fn begin_field(&mut self) {
        let name = self.name.text();
        if name.eq_ignore_ascii_case(COUNTED_NAME) {
            self.received_count = self.received_count.saturating_add(1);
        }
        self.has_date |= name.eq_ignore_ascii_case(DATE_NAME);
        self.has_message_id |= name.eq_ignore_ascii_case(MESSAGE_ID_NAME);
        self.collecting = PriorityField::of_name(name).filter(|_| self.line_start < RANK_OCTETS_MAX);
        self.value.clear();
    }

    fn collect(&mut self, octets: &[u8]) {
        if self.collecting.is_some() {
            let room = (FIELD_VALUE_OCTETS_MAX + 1).saturating_sub(self.value.len());
            self.value.extend_from_slice(&octets[..octets.len().min(room)]);
        }
    }

    /// The field that was read, if any, ends before the octet at `at`.
    fn end_field(&mut self, at: u64) {
        let value = std::mem::take(&mut self.value);
        let Some(field) = self.collecting.take().filter(|_| at <= RANK_OCTETS_MAX) else { return };
        let said = &mut self.said[field.index()];
        let value = Some(value).filter(|value| value.len() <= FIELD_VALUE_OCTETS_MAX);
        *said = match (*said, value.and_then(|value| field.read(&value))) {
            (Said::Nothing, Some(priority)) => Said::Once(priority),
            _ => Said::Nonsense,
        };
    }

    /// The header section ends, and the body starts at `at`.
    fn end(&mut self, at: u64) {
        self.end_field(at);
        self.body_start = Some(at);
    }

    /// There is no more content: a field that was being read has ended.
    pub fn finish(&mut self) {
        self.end_field(self.octets);
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

    /// Whether a `Date` was seen; final when the header section has ended.
    #[must_use]
    pub const fn has_date(&self) -> bool {
        self.has_date
    }

    /// Whether a `Message-ID` was seen; final when the header section has ended.
    #[must_use]
    pub const fn has_message_id(&self) -> bool {
        self.has_message_id
    }

    /// What this field says; final when [`Self::has_said_all`]. A field counts once the next line has begun.
    #[must_use]
    pub fn said(&self, field: PriorityField) -> Said {
        self.said[field.index()]
    }

    /// Whether no further field can say a priority.
    #[must_use]
    pub const fn has_said_all(&self) -> bool {
        self.has_ended() || self.octets > RANK_OCTETS_MAX
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

/// Checks what holds for any octets: cutting them in two, at a place that the first of them chooses, changes nothing,
/// the header section lies within them, and no value is kept beyond its bound. For fuzzing.
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
    assert!(whole.value.len() <= FIELD_VALUE_OCTETS_MAX + 1);
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

    #[test]
    fn a_field_says_a_priority_once_and_within_the_bound() {
        let once = |value| Said::Once(MtPriority::new(value).unwrap());
        let long = format!("MT-Priority: 4 ({})\r\n\r\n", "x".repeat(FIELD_VALUE_OCTETS_MAX));
        let bound = usize::try_from(RANK_OCTETS_MAX).unwrap();
        let late = format!("A: {}\r\nMT-Priority: 4\r\n\r\n", "x".repeat(bound - 20));
        let in_time = format!("A: {}\r\nMT-Priority: 4\r\n\r\n", "x".repeat(bound - 21));
        let rows: [(&str, Said); 14] = [
            ("MT-Priority: 4\r\n\r\n", once(4)),
            ("A: b\r\nmt-priority : \r\n -9 (low)\r\n\r\n", once(-9)),
            ("MT-Priority: 4\n\n", once(4)),
            ("MT-Priority: 4\r\nno field", once(4)),
            ("MT-Priority: 4\r\n", once(4)),
            ("MT-Priority: 4", once(4)),
            ("\r\nMT-Priority: 4\r\n", Said::Nothing),
            ("X-MT-Priority: 4\r\nMT-Priorit: 4\r\nMT-Priority-: 4\r\n\r\n", Said::Nothing),
            ("MT-Priority: 4\r\nMT-Priority: 4\r\n\r\n", Said::Nonsense),
            ("MT-Priority: x\r\nMT-Priority: 4\r\n\r\n", Said::Nonsense),
            ("MT-Priority: 4 4\r\n\r\n", Said::Nonsense),
            (&long, Said::Nonsense),
            (&in_time, once(4)),
            (&late, Said::Nothing),
        ];
        for (content, said) in rows {
            let mut scan = scan(content);
            scan.finish();
            assert_eq!(scan.said(PriorityField::MtPriority), said, "{:.60}", content);
        }
    }

    #[test]
    fn all_is_said_when_the_header_section_or_the_bound_has_gone_by() {
        assert!(!scan("MT-Priority: 4\r\n").has_said_all());
        assert!(scan("MT-Priority: 4\r\n\r\n").has_said_all());
        let long = "A: b\r\n".repeat(usize::try_from(RANK_OCTETS_MAX).unwrap() / 6 + 1);
        assert!(scan(&long).has_said_all() && !scan(&long).has_ended());
    }

    proptest! {
        #[test]
        fn any_octets_have_one_header_section(octets: Vec<u8>) {
            fuzz_header_scan(&octets);
        }

        #[test]
        fn cutting_the_content_anywhere_gives_the_same_result(
            pieces in proptest::collection::vec("(Received|A|RECEIVED|MT-Priority|Priority|urgent|4|\\(|\\)| |\t|:|é|x|\r\n|\r\n|\n|\r){0,6}", 0..12),
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
