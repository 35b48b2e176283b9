//! The fields that say a priority, of a message on its way to a peer that does not offer MT-PRIORITY (RFC 6758, section 3.3).
//!
//! Who wrote them may be nobody whose word counts here, and the peer may believe them all the same. What counts is the
//! priority that the message was accepted with:
//!
//! | a field of the message | what becomes of it |
//! |---|---|
//! | `MT-Priority` | is taken out, always |
//! | `MMHS-Primary-Precedence`, `MMHS-Copy-Precedence`, `Priority` | is taken out where it says a higher level, or cannot be read |
//! | `X-Priority` | stays, for it is what readers look at; it is too much where it says a higher level, and more than "normal" |
//! | any other | stays |
//!
//! Our own field `MT-Priority` stands on top where somebody has asked for a priority, else in the place of the first
//! that is taken out or before the first that is too much. A conforming server goes by it and by no other (RFC 6758, section 3.1).
//!
//! The edit is done as the content streams by: what is stored stays as it is, and no more is held than one field of these. A
//! signature is broken by it only if it names the field (`h=` of DKIM); this switch has none to sign with again
//! (RFC 6758, section 7.1).

use super::{Extensions, Transaction};
use sternpost_message::{
    FIELD_VALUE_OCTETS_MAX, GAP_OCTETS_MAX, HeaderPart, HeaderReader, MtPriority, Precedence, PriorityField,
    PriorityPolicy,
};

/// What is held at most: a name with blanks, its colon, and a value.
const HELD_OCTETS_MAX: usize =
    PriorityField::NAME_OCTETS_MAX + GAP_OCTETS_MAX as usize + 1 + FIELD_VALUE_OCTETS_MAX;

/// The edit of one content. Cutting its input anywhere gives the same output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HeaderEdit {
    reader: HeaderReader,
    /// Our field with its line end, until it is said; empty when there is none.
    field: Vec<u8>,
    is_on_top: bool,
    /// What the message was accepted with.
    priority: MtPriority,
    /// Octets of a field that may have to be taken out: at most [`HELD_OCTETS_MAX`].
    held: Vec<u8>,
    place: Place,
}

/// What becomes of the octets that come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// They go out.
    Passing,
    /// They are the beginning of a name that may be a field's that says a priority.
    Name,
    /// They are blanks behind the name of this one.
    Gap(PriorityField),
    /// They are its value, which begins here in what is held.
    Value(PriorityField, usize),
    /// They are of a field that is taken out.
    Dropping,
}

/// The level of a priority. A value means the same level in each policy; this one has all of them.
fn level(priority: MtPriority) -> Precedence {
    PriorityPolicy::Stanag4406.precedence(priority)
}

/// Whether a field says more than a message of this priority may, or what nobody here can read.
fn is_too_much(field: PriorityField, value: &[u8], priority: MtPriority) -> bool {
    let most = match field {
        // "Normal" is what it says of ordinary mail everywhere.
        PriorityField::XPriority => level(priority).max(Precedence::Priority),
        _ => level(priority),
    };
    field.read(value).is_none_or(|said| level(said) > most)
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
            priority: transaction.mt_priority.unwrap_or_default(),
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
            match self.place {
                Place::Dropping => {}
                Place::Value(field, start) => self.value(field, start, line, out),
                Place::Passing | Place::Name | Place::Gap(_) => out.extend_from_slice(line),
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
                self.settle(out);
                self.place = Place::Name;
                self.name(octet, out);
            }
            (HeaderPart::Name, Place::Name) => self.name(octet, out),
            (HeaderPart::Gap, Place::Gap(_)) => self.held.push(octet),
            (part @ (HeaderPart::Gap | HeaderPart::Colon), Place::Name) => {
                let field = PriorityField::of_name(&self.held);
                self.held.push(octet);
                match field {
                    None => self.pass(out),
                    Some(field) if part == HeaderPart::Gap => self.place = Place::Gap(field),
                    Some(field) => self.named(field, out),
                }
            }
            (HeaderPart::Colon, Place::Gap(field)) => {
                self.held.push(octet);
                self.named(field, out);
            }
            (HeaderPart::Value, Place::Dropping) => {}
            (HeaderPart::Value, Place::Value(field, start)) => self.value(field, start, &[octet], out),
            // Another field, the empty line, or a line that is no field and belongs to the body.
            _ => {
                self.settle(out);
                self.pass(out);
                out.push(octet);
            }
        }
    }

    /// Lets out what is held.
    fn pass(&mut self, out: &mut Vec<u8>) {
        self.place = Place::Passing;
        out.append(&mut self.held);
    }

    /// Takes out what is held and what belongs to it, and says ours in its place.
    fn drop_field(&mut self, out: &mut Vec<u8>) {
        self.place = Place::Dropping;
        self.held.clear();
        out.append(&mut self.field);
    }

    /// Takes an octet of a name that may still become that of a field that says a priority.
    fn name(&mut self, octet: u8, out: &mut Vec<u8>) {
        self.held.push(octet);
        let begins_so = |field: &PriorityField| {
            let name = field.name().as_bytes().get(..self.held.len());
            name.is_some_and(|name| name.eq_ignore_ascii_case(&self.held))
        };
        if !PriorityField::ALL.iter().any(begins_so) {
            self.pass(out);
        }
    }

    /// A field that says a priority has its name and its colon.
    fn named(&mut self, field: PriorityField, out: &mut Vec<u8>) {
        if field == PriorityField::MtPriority {
            self.drop_field(out);
        } else {
            self.place = Place::Value(field, self.held.len());
        }
    }

    /// Takes octets of its value.
    fn value(&mut self, field: PriorityField, start: usize, octets: &[u8], out: &mut Vec<u8>) {
        if self.held.len() - start + octets.len() <= FIELD_VALUE_OCTETS_MAX {
            self.held.extend_from_slice(octets);
            return;
        }
        // Too long to be read.
        self.too_much(field, out);
        if self.place == Place::Passing {
            out.extend_from_slice(octets);
        }
    }

    /// The field before, if it was one that says a priority, has its whole value.
    fn settle(&mut self, out: &mut Vec<u8>) {
        let Place::Value(field, start) = self.place else { return };
        if is_too_much(field, &self.held[start..], self.priority) {
            self.too_much(field, out);
        } else {
            self.pass(out);
        }
    }

    fn too_much(&mut self, field: PriorityField, out: &mut Vec<u8>) {
        if field == PriorityField::XPriority {
            out.append(&mut self.field);
            self.pass(out);
        } else {
            self.drop_field(out);
        }
    }

    /// Appends what was held back: there is no more content.
    pub(super) fn end(&mut self, out: &mut Vec<u8>) {
        self.settle(out);
        out.append(&mut self.held);
    }
}

/// Checks what holds for any content: cutting it in two, at a place that the first octet chooses, changes nothing; of the
/// fields that are taken out for saying too much none is left, and where something was edited ours stands there once; the body is untouched; an edit changes nothing the
/// second time. For fuzzing.
///
/// # Panics
/// When it does not hold.
pub(crate) fn fuzz(octets: &[u8]) {
    let [choice, content @ ..] = octets else { return };
    let priority = MtPriority::new(3).unwrap_or_default();
    let edit = |content: &[u8], cut: usize| {
        let mut edit = HeaderEdit {
            reader: HeaderReader::new(),
            field: b"MT-Priority: 3\r\n".to_vec(),
            is_on_top: choice & 1 == 0,
            priority,
            held: Vec::new(),
            place: Place::Passing,
        };
        let mut out = Vec::new();
        let (before, behind) = content.split_at(cut);
        edit.push(before, &mut out);
        assert!(edit.held.len() <= HELD_OCTETS_MAX);
        edit.push(behind, &mut out);
        edit.end(&mut out);
        out
    };
    let whole = edit(content, 0);
    assert_eq!(edit(content, usize::from(*choice) % (content.len() + 1)), whole);
    assert!(whole.ends_with(body(content)), "the body is untouched");
    assert!(whole.len() <= content.len() + 16, "the content grows by our field at most");
    let (had, has) = (fields(content), fields(&whole));
    let is_ours = |(field, _): &&(PriorityField, Vec<u8>)| *field == PriorityField::MtPriority;
    let is_loud = |(field, value): &&(PriorityField, Vec<u8>)| {
        value.len() > FIELD_VALUE_OCTETS_MAX || is_too_much(*field, value, priority)
    };
    let is_edited = had.iter().any(|one| is_ours(&one) || is_loud(&one));
    // A field put on top of a body without a header section makes one of what begins like fields there.
    if choice & 1 == 1 || !had.is_empty() {
        let wanted = usize::from(choice & 1 == 0 || is_edited);
        assert_eq!(has.iter().filter(is_ours).count(), wanted, "{had:?}");
        let mut loud = has.iter().filter(is_loud);
        assert!(loud.all(|(field, _)| *field == PriorityField::XPriority), "{has:?}");
        assert_eq!(edit(&whole, 0), whole, "an edit has nothing to do the second time");
    }
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

/// The fields of a content that say a priority, read without the code above: line by line.
fn fields(content: &[u8]) -> Vec<(PriorityField, Vec<u8>)> {
    let mut reader = HeaderReader::new();
    let (mut name, mut found) = (Vec::new(), Vec::<(PriorityField, Vec<u8>)>::new());
    let mut is_in_one = false;
    for &octet in content {
        if reader.has_ended() {
            break;
        }
        match reader.step(octet) {
            HeaderPart::NameStart => (name, is_in_one) = (vec![octet], false),
            HeaderPart::Name => name.push(octet),
            HeaderPart::Colon => {
                let field = PriorityField::of_name(&name);
                is_in_one = field.is_some();
                found.extend(field.map(|field| (field, Vec::new())));
            }
            HeaderPart::Value if is_in_one => {
                if let Some((_, value)) = found.last_mut() {
                    value.push(octet);
                }
            }
            _ => {}
        }
    }
    found
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
    fn a_field_that_says_more_than_was_granted_is_taken_out_and_one_that_does_not_stays() {
        let ours = "MT-Priority: -2\r\n";
        // Ordinary mail: what a stranger wrote, and what goes on of it.
        let rows = [
            ("MMHS-Primary-Precedence: 5\r\n", ours.to_owned()),
            ("mmhs-copy-precedence :\r\n flash (now)\r\n", ours.to_owned()),
            ("MMHS-Primary-Precedence: 2\r\nMMHS-Copy-Precedence: 5\r\n", ours.to_owned()),
            ("MMHS-Primary-Precedence: 1\r\n", "MMHS-Primary-Precedence: 1\r\n".to_owned()),
            ("MMHS-Copy-Precedence: deferred\r\n", "MMHS-Copy-Precedence: deferred\r\n".to_owned()),
            // Another reader might make something of what nobody here can read.
            ("MMHS-Primary-Precedence: 7\r\n", ours.to_owned()),
            ("MMHS-Primary-Precedence:\r\n", ours.to_owned()),
            ("Priority: urgent\r\n", ours.to_owned()),
            ("PRIORITY: non-urgent\r\n", "PRIORITY: non-urgent\r\n".to_owned()),
            ("Priority: urgent\r\nMT-Priority: 9\r\nPriority: urgent\r\n", ours.to_owned()),
            ("X-Priority: 1 (Highest)\r\n", format!("{ours}X-Priority: 1 (Highest)\r\n")),
            ("X-Priority: high\r\nMT-Priority: 9\r\n", format!("{ours}X-Priority: high\r\n")),
            ("X-Priority: 3\r\n", "X-Priority: 3\r\n".to_owned()),
            ("Importance: high\r\n", "Importance: high\r\n".to_owned()),
            // What follows a line that is no field is body already.
            ("MMHS-Primary: 5\r\nPrior\r\n", "MMHS-Primary: 5\r\nPrior\r\n".to_owned()),
        ];
        for (fields, wanted) in rows {
            let content =
                |fields: &str| format!("A: b\r\n{fields}B: c\r\n\r\nMMHS-Primary-Precedence: 5\r\n");
            assert_eq!(edited(&content(fields), -2, false), content(&wanted), "{fields:?}");
        }
        let at_the_end = "A: b\r\nPriority: urgent";
        assert_eq!(edited(at_the_end, -2, false), format!("A: b\r\n{ours}"));
    }

    #[test]
    fn a_field_that_says_what_was_granted_goes_on_beside_ours() {
        // 3 is handled as flash, and all say flash or less.
        let fields = "MMHS-Primary-Precedence: 4\r\nMMHS-Copy-Precedence: 1\r\nPriority: urgent\r\nX-Priority: 1\r\n\r\n";
        assert_eq!(edited(fields, 3, true), format!("MT-Priority: 3\r\n{fields}"));
        let more = "MMHS-Primary-Precedence: 5\r\n\r\n";
        assert_eq!(edited(more, 3, true), "MT-Priority: 3\r\n\r\n");
    }

    #[test]
    fn a_value_that_is_too_long_to_be_read_is_too_much() {
        let long = |name: &str, octets: usize| format!("{name}:{}-2\r\n\r\n", " ".repeat(octets - 4));
        let max = FIELD_VALUE_OCTETS_MAX;
        for name in ["Priority", "MMHS-Copy-Precedence"] {
            assert_eq!(edited(&long(name, max + 1), 9, false), "MT-Priority: 9\r\n\r\n", "{name}");
        }
        let one = |octets: usize| format!("Priority:{}urgent\r\n\r\n", " ".repeat(octets - 8));
        assert_eq!(edited(&one(max), 4, false), one(max));
        assert_eq!(edited(&one(max + 1), 4, false), "MT-Priority: 4\r\n\r\n");
        let for_readers = long("X-Priority", max + 1);
        assert_eq!(edited(&for_readers, 9, false), format!("MT-Priority: 9\r\n{for_readers}"));
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
            pieces in proptest::collection::vec("(MT-Priority|mt-prio|MMHS-Primary-Precedence|Priority|X-Priority|A| |\t|:|9|5|4|urgent|\r\n|\r\n|\n|\r){0,6}", 0..12),
        ) {
            let mut octets = vec![choice];
            octets.extend_from_slice(pieces.concat().as_bytes());
            fuzz(&octets);
        }
    }
}
