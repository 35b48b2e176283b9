//! Content on its way in: ends, dots, line endings and limits. RFC 5321, sections 2.3.8 and 4.5.2; RFC 3030.
//!
//! The octets are searched once and copied once. Only CR LF . CR LF ends DATA, in every mode: whoever takes another
//! sequence for the end can be made to see two messages where the next hop sees one.

use super::BareLineEndings;
use super::replies;
use memchr::memchr3;

/// Why content is refused. The first fault in the order of the octets counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    TooLarge,
    BareLineEnding,
    Nul,
    LineTooLong,
}

impl Fault {
    pub(crate) const fn reply(self) -> &'static str {
        match self {
            Self::TooLarge => replies::TOO_LARGE,
            Self::BareLineEnding => replies::CONTENT_ENDS_BARE,
            Self::Nul => replies::CONTENT_NUL,
            Self::LineTooLong => replies::CONTENT_LINE_TOO_LONG,
        }
    }
}

/// How the end of the content is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// DATA: lines, a dot doubled at the start of a line, a line with one dot at the end.
    Dots,
    /// BDAT: by counting, elsewhere.
    Counted,
}

/// Where the next octet stands. CR and a leading dot are held back until it is clear what they belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Behind CR LF, or at the very beginning.
    LineStart,
    InLine,
    /// Behind a CR that is not yet copied.
    Cr,
    /// Behind a dot at the start of a line, not copied.
    Dot,
    /// Behind such a dot and a CR, neither copied.
    DotCr,
}

/// Reads the content of one message.
#[derive(Debug)]
pub(crate) struct ContentReader {
    framing: Framing,
    place: Place,
    bare: BareLineEndings,
    octets_max: u64,
    line_octets_max: usize,
    /// Octets of the current line so far.
    line_octets: usize,
    octets: u64,
    eight_bit: bool,
    fault: Option<Fault>,
    /// Octets that may still come over the wire before patience ends.
    allowance: u64,
}

/// What a piece of the wire led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    More,
    /// The line with the one dot has come.
    End,
    /// Twice the limit has come and no end.
    TooMuch,
}

impl ContentReader {
    pub(crate) const fn new(
        framing: Framing,
        bare: BareLineEndings,
        octets_max: u64,
        line_octets_max: usize,
    ) -> Self {
        Self {
            framing,
            place: Place::LineStart,
            bare,
            octets_max,
            line_octets_max,
            line_octets: 0,
            octets: 0,
            eight_bit: false,
            fault: None,
            allowance: wire_octets_max(octets_max),
        }
    }

    pub(crate) const fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Octets of the content so far, as they will be stored.
    pub(crate) const fn octets(&self) -> u64 {
        self.octets
    }

    /// Whether any octet is 0x80 or above.
    pub(crate) const fn eight_bit(&self) -> bool {
        self.eight_bit
    }

    /// Reads octets of the wire and appends what is content to `out`; nothing is appended from a fault on. Gives the
    /// octets taken: all, unless the content ended or patience did.
    pub(crate) fn read(&mut self, wire: &[u8], out: &mut Vec<u8>) -> (usize, Progress) {
        let allowed = usize::try_from(self.allowance).map_or(wire.len(), |octets| octets.min(wire.len()));
        let (taken, ended) = self.scan(&wire[..allowed], out);
        self.allowance -= taken as u64;
        let progress = match () {
            () if ended => Progress::End,
            () if taken == allowed && allowed < wire.len() => Progress::TooMuch,
            () => Progress::More,
        };
        (taken, progress)
    }

    fn scan(&mut self, wire: &[u8], out: &mut Vec<u8>) -> (usize, bool) {
        let mut at = 0;
        // wire[from..at] is content that is not copied yet.
        let mut from = 0;
        while at < wire.len() {
            let octet = wire[at];
            match self.place {
                Place::LineStart if octet == b'.' && self.framing == Framing::Dots => {
                    self.keep(&wire[from..at], out);
                    at += 1;
                    from = at;
                    self.place = Place::Dot;
                }
                Place::LineStart => self.place = Place::InLine,
                Place::InLine => {
                    let length = memchr3(b'\r', b'\n', 0, &wire[at..]).unwrap_or(wire.len() - at);
                    self.lengthen_line(wire, from, at, length, out);
                    at += length;
                    match wire.get(at..) {
                        Some([b'\r', b'\n', ..]) => {
                            at += 2;
                            self.line_octets = 0;
                            self.place = Place::LineStart;
                        }
                        Some([special, ..]) => {
                            self.keep(&wire[from..at], out);
                            at += 1;
                            from = at;
                            match special {
                                b'\r' => self.place = Place::Cr,
                                b'\n' => self.end_line_bare(out),
                                _ => self.refuse(Fault::Nul, out),
                            }
                        }
                        Some([]) | None => {}
                    }
                }
                Place::Cr if octet == b'\n' => {
                    at += 1;
                    from = at;
                    self.keep(b"\r\n", out);
                    self.line_octets = 0;
                    self.place = Place::LineStart;
                }
                Place::Cr => self.end_line_bare(out),
                Place::Dot if octet == b'\r' => {
                    at += 1;
                    from = at;
                    self.place = Place::DotCr;
                }
                Place::Dot if octet == b'\n' => {
                    at += 1;
                    from = at;
                    self.keep(b".", out);
                    self.end_line_bare(out);
                }
                // The dot was there to be taken away.
                Place::Dot => self.place = Place::InLine,
                Place::DotCr if octet == b'\n' => return (at + 1, true),
                Place::DotCr => {
                    self.keep(b".", out);
                    self.end_line_bare(out);
                }
            }
        }
        self.keep(&wire[from..at], out);
        (at, false)
    }

    /// Ends content that came in chunks: a CR without its LF is bare, and the last line gets its end.
    pub(crate) fn end_chunks(&mut self, out: &mut Vec<u8>) {
        if self.place == Place::Cr {
            self.end_line_bare(out);
        } else if self.place == Place::InLine {
            self.keep(b"\r\n", out);
        }
        self.place = Place::LineStart;
    }

    /// Counts `length` octets of a line from `at` on. On a line that is too long, what stands before the octet too
    /// many is copied first, so that the faults come in the order of the octets.
    fn lengthen_line(&mut self, wire: &[u8], from: usize, at: usize, length: usize, out: &mut Vec<u8>) {
        let room = self.line_octets_max.saturating_sub(self.line_octets);
        self.line_octets = self.line_octets.saturating_add(length);
        if length > room && self.fault.is_none() {
            self.keep(&wire[from..=at + room], out);
            self.refuse(Fault::LineTooLong, out);
        }
    }

    fn keep(&mut self, octets: &[u8], out: &mut Vec<u8>) {
        if self.fault.is_some() || octets.is_empty() {
            return;
        }
        self.octets += octets.len() as u64;
        if self.octets > self.octets_max {
            self.refuse(Fault::TooLarge, out);
            return;
        }
        self.eight_bit = self.eight_bit || !octets.is_ascii();
        out.extend_from_slice(octets);
    }

    /// A line ended with CR or LF alone. What follows is no start of a line for the dots: only behind CR LF are they
    /// doubled, and only there does one end the content.
    fn end_line_bare(&mut self, out: &mut Vec<u8>) {
        self.place = Place::InLine;
        self.line_octets = 0;
        match self.bare {
            BareLineEndings::Refuse => self.refuse(Fault::BareLineEnding, out),
            BareLineEndings::Normalise => {
                self.keep(b"\r\n", out);
                // A counted message may end here: then its last line has its end already.
                if self.framing == Framing::Counted {
                    self.place = Place::LineStart;
                }
            }
        }
    }

    fn refuse(&mut self, fault: Fault, out: &mut Vec<u8>) {
        self.fault.get_or_insert(fault);
        out.clear();
    }
}

/// Octets that a session reads of one message at most: twice the limit, for what is refused is read to its end, and
/// something for the messages of a very small limit.
pub(crate) const fn wire_octets_max(octets_max: u64) -> u64 {
    octets_max.saturating_mul(2).saturating_add(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bare: BareLineEndings, wire: &[u8]) -> (Vec<u8>, Option<Fault>, Progress) {
        let mut reader = ContentReader::new(Framing::Dots, bare, 100, 20);
        let mut out = Vec::new();
        let (_, progress) = reader.read(wire, &mut out);
        (out, reader.fault(), progress)
    }

    #[test]
    fn a_doubled_dot_loses_one_and_a_lonely_one_ends_the_content() {
        let (out, fault, progress) = read(BareLineEndings::Refuse, b"..a\r\n...\r\nb.\r\n.c\r\n.\r\n");
        assert_eq!((out.as_slice(), fault, progress), (&b".a\r\n..\r\nb.\r\nc\r\n"[..], None, Progress::End));
    }

    #[test]
    fn content_may_be_empty() {
        assert_eq!(read(BareLineEndings::Refuse, b".\r\n"), (vec![], None, Progress::End));
    }

    #[test]
    fn no_other_sequence_ends_the_content_and_a_lonely_dot_stays_a_line() {
        for wire in [&b"a\n.\n"[..], b"a\n.\r\n", b"a\r\n.\n", b"a\r.\r\n", b"a\r\n.\rb", b"a\r.\r"] {
            let (_, fault, progress) = read(BareLineEndings::Refuse, wire);
            let is_held = wire.ends_with(b"\r") || fault == Some(Fault::BareLineEnding);
            assert!(is_held && progress == Progress::More, "{wire:?}");
            let (out, fault, progress) = read(BareLineEndings::Normalise, wire);
            assert!(
                out.starts_with(b"a\r\n.") && fault.is_none() && progress == Progress::More,
                "{wire:?} {out:?}"
            );
        }
    }

    #[test]
    fn the_first_fault_in_the_order_of_the_octets_counts() {
        let line = b"0123456789abcdef\r\n".repeat(5);
        let rows = [
            ([&line[..], b"12345678901\0"].concat(), Fault::TooLarge),
            ([&line[..], b"1234\x00567890123"].concat(), Fault::Nul),
            (b"123456789012345678901\0".to_vec(), Fault::LineTooLong),
            (b"12345678901234567890\n".to_vec(), Fault::BareLineEnding),
        ];
        for (wire, fault) in rows {
            assert_eq!(read(BareLineEndings::Refuse, &wire).1, Some(fault), "{wire:?}");
        }
    }
}
