//! The field `MT-Priority` of a message on its way to a peer that does not offer MT-PRIORITY (RFC 6758, section 3.3).
//!
//! Every such field that the message has is taken out: its author may have been nobody whose word counts here. What
//! counts, the priority that the message was accepted with, goes in its place:
//!
//! | somebody has asked for a priority | the message has the field | what the peer gets |
//! |---|---|---|
//! | yes | or not | our field on top |
//! | no | yes | our field in the place of the first one |
//! | no | no | the message as it is |
//!
//! The edit is done as the content streams by: what is stored stays as it is, and no more is held than the beginning of a
//! name. A signature is broken by it only if it names the field (`h=` of DKIM); this switch has none to sign with again
//! (RFC 6758, section 7.1).

use super::{Extensions, Transaction};
use sternpost_message::{GAP_OCTETS_MAX, HeaderPart, HeaderReader};

const NAME: &[u8] = b"MT-Priority";

/// The edit of one content. Cutting its input anywhere gives the same output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HeaderEdit {
    reader: HeaderReader,
    /// Our field with its line end, until it is said; empty when there is none.
    field: Vec<u8>,
    is_on_top: bool,
    /// Octets of a line that may be such a field: at most the name and [`GAP_OCTETS_MAX`].
    held: Vec<u8>,
    place: Place,
}

/// What becomes of the octets that come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// They go out.
    Passing,
    /// They are the beginning of a name that may be the field's.
    Name,
    /// They are of a field that is taken out.
    Dropping,
}

impl HeaderEdit {
    /// The edit that a transaction needs with a peer, if any.
    pub(super) fn new(transaction: &Transaction, extensions: &Extensions) -> Option<Self> {
        if extensions.mt_priority {
            return None;
        }
        let field = transaction.mt_priority.map(|priority| format!("MT-Priority: {priority}\r\n"));
        let fits = |field: &String| {
            let octets = transaction.content_octets.saturating_add(field.len() as u64);
            extensions.size_octets_max.is_none_or(|octets_max| octets <= octets_max)
        };
        // A message that is as large as the peer takes goes without rather than not at all.
        let field = field.filter(fits).unwrap_or_default().into_bytes();
        Some(Self {
            reader: HeaderReader::new(),
            field,
            is_on_top: transaction.mt_priority_is_given,
            held: Vec::new(),
            place: Place::Passing,
        })
    }

    /// By how much the content may grow.
    pub(super) fn added_octets_max(&self) -> u64 {
        self.field.len() as u64
    }

    /// Whether everything that comes goes out as it is.
    pub(super) const fn is_done(&self) -> bool {
        self.reader.has_ended()
    }

    /// Takes the next piece and appends what becomes of it.
    pub(super) fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        out.reserve(piece.len() + self.field.len() + self.held.len());
        if self.is_on_top {
            out.append(&mut self.field);
        }
        let mut rest = piece;
        while !self.reader.has_ended() {
            let (line, behind) = rest.split_at(self.reader.value_line(rest));
            if self.place != Place::Dropping {
                out.extend_from_slice(line);
            }
            rest = behind;
            let Some((&octet, behind)) = rest.split_first() else { return };
            rest = behind;
            self.step(octet, out);
        }
        out.extend_from_slice(rest);
    }

    fn step(&mut self, octet: u8, out: &mut Vec<u8>) {
        match (self.reader.step(octet), self.place) {
            (HeaderPart::NameStart, _) => {
                self.place = Place::Name;
                self.name(octet, out);
            }
            (HeaderPart::Name, Place::Name) => self.name(octet, out),
            (HeaderPart::Gap, Place::Name) if self.held.len() >= NAME.len() => self.held.push(octet),
            (HeaderPart::Colon, Place::Name) if self.held.len() >= NAME.len() => {
                self.held.clear();
                self.place = Place::Dropping;
                out.append(&mut self.field);
            }
            (HeaderPart::Value, Place::Dropping) => {}
            // Another field, the empty line, or a line that is no field and belongs to the body.
            _ => {
                self.place = Place::Passing;
                out.append(&mut self.held);
                out.push(octet);
            }
        }
    }

    /// Takes an octet of a name that was ours so far.
    fn name(&mut self, octet: u8, out: &mut Vec<u8>) {
        if NAME.get(self.held.len()).is_some_and(|wanted| wanted.eq_ignore_ascii_case(&octet)) {
            self.held.push(octet);
        } else {
            self.place = Place::Passing;
            out.append(&mut self.held);
            out.push(octet);
        }
    }

    /// Appends what was held back: there is no more content.
    pub(super) fn end(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.held);
    }
}

/// Checks what holds for any content: cutting it in two, at a place that the first octet chooses, changes nothing; no field
/// is left but ours, once; the body is untouched; an edit changes nothing the second time. For fuzzing.
///
/// # Panics
/// When it does not hold.
pub(crate) fn fuzz(octets: &[u8]) {
    let [choice, content @ ..] = octets else { return };
    let edit = |content: &[u8], cut: usize| {
        let mut edit = HeaderEdit {
            reader: HeaderReader::new(),
            field: b"MT-Priority: 3\r\n".to_vec(),
            is_on_top: choice & 1 == 0,
            held: Vec::new(),
            place: Place::Passing,
        };
        let mut out = Vec::new();
        let (before, behind) = content.split_at(cut);
        edit.push(before, &mut out);
        assert!(edit.held.len() <= NAME.len() + usize::from(GAP_OCTETS_MAX));
        edit.push(behind, &mut out);
        edit.end(&mut out);
        out
    };
    let whole = edit(content, 0);
    assert_eq!(edit(content, usize::from(*choice) % (content.len() + 1)), whole);
    let (had, has) = (fields(content), fields(&whole));
    assert!(whole.ends_with(body(content)), "the body is untouched");
    let wanted = if choice & 1 == 0 || had > 0 { 1 } else { 0 };
    // A field put on top of a body without a header section makes one of what begins like fields there.
    if choice & 1 == 1 || had > 0 {
        assert_eq!(has, wanted, "{had} fields before");
        assert_eq!(edit(&whole, 0), whole, "an edit has nothing to do the second time");
    }
    assert!(whole.len() <= content.len() + 16, "the content grows by our field at most");
}

/// What stands behind the header section, a line that is no field included.
fn body(content: &[u8]) -> &[u8] {
    let mut reader = HeaderReader::new();
    let mut line_start = 0;
    for (at, &octet) in content.iter().enumerate() {
        if reader.is_at_line_start() {
            line_start = at;
        }
        match reader.step(octet) {
            HeaderPart::End => return &content[at + 1..],
            HeaderPart::NoField => return &content[line_start..],
            _ => {}
        }
    }
    &[]
}

/// How many of the fields a content has, read without the code above: line by line.
fn fields(content: &[u8]) -> usize {
    let mut reader = HeaderReader::new();
    let (mut name, mut count) = (Vec::new(), 0);
    for &octet in content {
        if reader.has_ended() {
            break;
        }
        match reader.step(octet) {
            HeaderPart::NameStart => name = vec![octet],
            HeaderPart::Name => name.push(octet),
            HeaderPart::Colon if name.eq_ignore_ascii_case(NAME) => count += 1,
            _ => {}
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sternpost_message::{BodyType, MtPriority, ReversePath};

    fn transaction(priority: i8, is_given: bool) -> Transaction {
        Transaction {
            id: 1,
            sender: ReversePath::Null,
            recipients: Vec::new(),
            content_octets: 1_000,
            body: BodyType::SevenBit,
            smtputf8: false,
            ret: None,
            envelope_id: None,
            mt_priority: MtPriority::new(priority).ok(),
            mt_priority_is_given: is_given,
        }
    }

    fn edited(content: &str, priority: i8, is_given: bool) -> String {
        let edit = HeaderEdit::new(&transaction(priority, is_given), &Extensions::default()).unwrap();
        let by_pieces = |octets: usize| {
            let (mut edit, mut out) = (edit.clone(), Vec::new());
            content.as_bytes().chunks(octets).for_each(|piece| edit.push(piece, &mut out));
            edit.end(&mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(by_pieces(1), by_pieces(content.len().max(1)), "{content:?}");
        by_pieces(1)
    }

    #[test]
    fn a_priority_that_was_asked_for_stands_on_top_and_no_other_is_left() {
        let rows = [
            ("A: b\r\n\r\nc", "MT-Priority: 3\r\nA: b\r\n\r\nc"),
            ("MT-Priority: 9\r\nA: b\r\n\r\nc", "MT-Priority: 3\r\nA: b\r\n\r\nc"),
            (
                "A: b\r\nmt-priority \t:\r\n 9\r\n (x)\r\nB: c\r\nMT-PRIORITY:1\r\n\r\nMT-Priority: 1\r\n",
                "MT-Priority: 3\r\nA: b\r\nB: c\r\n\r\nMT-Priority: 1\r\n",
            ),
            ("A: b\r\nMT-Priority: 9", "MT-Priority: 3\r\nA: b\r\n"),
            ("A: b\nMT-Priority: 9\n\nc", "MT-Priority: 3\r\nA: b\n\nc"),
        ];
        for (content, wanted) in rows {
            assert_eq!(edited(content, 3, true), wanted);
        }
    }

    #[test]
    fn a_field_that_nobody_believed_is_replaced_and_a_message_without_one_stays_as_it_is() {
        let rows = [
            (
                "A: b\r\nMT-Priority: 9\r\nB: c\r\nMT-Priority: 8\r\n\r\nd",
                "A: b\r\nMT-Priority: -2\r\nB: c\r\n\r\nd",
            ),
            ("A: b\r\n\r\nMT-Priority: 9\r\n", "A: b\r\n\r\nMT-Priority: 9\r\n"),
            (
                "MT-Priorities: 9\r\nMT-Priorit: 9\r\nX-MT-Priority: 9\r\n\r\n",
                "MT-Priorities: 9\r\nMT-Priorit: 9\r\nX-MT-Priority: 9\r\n\r\n",
            ),
            ("A: b\r\nMT-Priority no field\r\nc", "A: b\r\nMT-Priority no field\r\nc"),
            ("A: b\r\nMT-Pri", "A: b\r\nMT-Pri"),
            ("MT-Priority", "MT-Priority"),
            ("", ""),
        ];
        for (content, wanted) in rows {
            assert_eq!(edited(content, -2, false), wanted);
        }
    }

    #[test]
    fn no_blanks_before_the_colon_save_a_field_and_where_they_make_it_none_nothing_of_it_is_lost() {
        let line = |blanks: u16| format!("MT-Priority{}: 9\r\n\r\n", " ".repeat(blanks.into()));
        assert_eq!(edited(&line(GAP_OCTETS_MAX), -2, false), "MT-Priority: -2\r\n\r\n");
        let body = line(GAP_OCTETS_MAX + 1);
        assert_eq!(edited(&body, -2, false), body);
    }

    #[test]
    fn a_peer_that_offers_mt_priority_gets_the_message_as_it_is() {
        let extensions = Extensions { mt_priority: true, ..Extensions::default() };
        assert_eq!(HeaderEdit::new(&transaction(4, true), &extensions), None);
    }

    #[test]
    fn a_message_as_large_as_the_peer_takes_goes_without_our_field() {
        let to = |octets_max| Extensions { size_octets_max: Some(octets_max), ..Extensions::default() };
        let added =
            |octets_max| HeaderEdit::new(&transaction(4, true), &to(octets_max)).unwrap().added_octets_max();
        assert_eq!((added(1_016), added(1_015), added(1_000)), (16, 0, 0));
    }

    proptest! {
        #[test]
        fn any_content_is_edited_the_same_however_it_is_cut(octets: Vec<u8>) {
            fuzz(&octets);
        }

        #[test]
        fn any_fields_are_edited_the_same_however_they_are_cut(
            choice: u8,
            pieces in proptest::collection::vec("(MT-Priority|mt-prio|A| |\t|:|9|\r\n|\r\n|\n|\r){0,6}", 0..12),
        ) {
            let mut octets = vec![choice];
            octets.extend_from_slice(pieces.concat().as_bytes());
            fuzz(&octets);
        }
    }
}
