//! Replies: three digits, an enhanced status code, and text. RFC 5321, section 4.2; RFC 2034; RFC 3463.
//!
//! The server writes them, the client reads them: in pieces of any size, and never more than a bound.

use memchr::memchr;
use sternpost_message::EnhancedStatus;

/// Longest line that is read from a peer, with its end. RFC 5321, 4.5.3.1.5 allows 512.
pub const LINE_OCTETS_MAX: usize = 4096;
/// Longest text of one reply that is read from a peer: EHLO replies of today have less than 1 KiB.
pub const TEXT_OCTETS_MAX: usize = 32 * 1024;
/// Longest text of one line that we write: 512 octets less code, enhanced status code (at most 10) and CRLF.
const WRITTEN_TEXT_OCTETS_MAX: usize = 490;

/// One reply, of one or more lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Three digits, 200 to 599.
    pub code: u16,
    /// The enhanced status code, which stands at the start of each line.
    pub enhanced: Option<EnhancedStatus>,
    /// The text without its codes; lines are separated by `\n`.
    pub text: String,
}

impl Reply {
    /// A reply of ours.
    #[must_use]
    pub fn new(code: u16, enhanced: Option<EnhancedStatus>, text: impl Into<String>) -> Self {
        Self { code, enhanced, text: text.into() }
    }

    /// Whether the peer did what it was asked to do.
    #[must_use]
    pub const fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }

    /// The enhanced status code, or what the three digits alone say: `class.0.0`, and 4.3.2 for 421.
    #[must_use]
    pub fn status(&self) -> EnhancedStatus {
        self.enhanced.unwrap_or(match self.code {
            421 => EnhancedStatus::new(4, 3, 2),
            200..=399 => EnhancedStatus::new(2, 0, 0),
            400..=499 => EnhancedStatus::new(4, 0, 0),
            _ => EnhancedStatus::new(5, 0, 0),
        })
    }

    /// Appends the reply as it goes over the wire. Control characters become spaces, and a line that is too long for
    /// RFC 5321, 4.5.3.1.5 becomes several.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        let mut rest = self.text.as_str();
        loop {
            let (line, behind) = split_line(rest);
            out.extend_from_slice(self.code.to_string().as_bytes());
            out.push(if behind.is_some() { b'-' } else { b' ' });
            if let Some(enhanced) = self.enhanced {
                out.extend_from_slice(enhanced.to_string().as_bytes());
                out.push(b' ');
            }
            out.extend(line.bytes().map(|octet| if octet.is_ascii_control() { b' ' } else { octet }));
            out.extend_from_slice(b"\r\n");
            match behind {
                Some(behind) => rest = behind,
                None => return,
            }
        }
    }

    /// The reply as it goes over the wire.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.text.len() + 16);
        self.encode_into(&mut out);
        out
    }
}

/// The first line of a text and what is behind it.
fn split_line(text: &str) -> (&str, Option<&str>) {
    let (line, behind) = match text.split_once('\n') {
        Some((line, behind)) => (line, Some(behind)),
        None => (text, None),
    };
    if line.len() <= WRITTEN_TEXT_OCTETS_MAX {
        return (line.strip_suffix('\r').unwrap_or(line), behind);
    }
    let mut end = WRITTEN_TEXT_OCTETS_MAX;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    (&text[..end], Some(&text[end..]))
}

/// How the octets of a peer are no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// A line over [`LINE_OCTETS_MAX`].
    #[error("a reply line has more than {LINE_OCTETS_MAX} octets")]
    LineTooLong,
    /// A reply over [`TEXT_OCTETS_MAX`].
    #[error("a reply has more than {TEXT_OCTETS_MAX} octets")]
    TooLong,
    /// No three digits at the start of a line, or digits that mean nothing.
    #[error("a reply line does not begin with a reply code")]
    NoCode,
    /// The lines of one reply carry different codes.
    #[error("the lines of a reply carry different codes")]
    CodesDiffer,
}

/// Reads replies from octets that come in pieces of any size. Holds at most one line and one text.
#[derive(Debug, Default)]
pub struct ReplyReader {
    /// The start of a line whose end has not come yet; at most [`LINE_OCTETS_MAX`].
    line: Vec<u8>,
    /// The lines of a reply whose last line has not come yet.
    begun: Option<Reply>,
}

impl ReplyReader {
    /// Takes octets up to the end of the next reply: how many were taken, and the reply if it is complete.
    /// After an error the reader is of no further use.
    ///
    /// # Errors
    /// `ReplyError` when the octets are no reply.
    pub fn read(&mut self, octets: &[u8]) -> Result<(usize, Option<Reply>), ReplyError> {
        let mut taken = 0;
        while let Some(length) = memchr(b'\n', &octets[taken..]) {
            let piece = &octets[taken..taken + length];
            taken += length + 1;
            if self.line.len() + piece.len() >= LINE_OCTETS_MAX {
                return Err(ReplyError::LineTooLong);
            }
            let complete = if self.line.is_empty() {
                self.take_line(piece)?
            } else {
                let mut line = std::mem::take(&mut self.line);
                line.extend_from_slice(piece);
                self.take_line(&line)?
            };
            if complete.is_some() {
                return Ok((taken, complete));
            }
        }
        let rest = &octets[taken..];
        if self.line.len() + rest.len() >= LINE_OCTETS_MAX {
            return Err(ReplyError::LineTooLong);
        }
        self.line.extend_from_slice(rest);
        Ok((octets.len(), None))
    }

    /// Octets held. For invariants in tests.
    #[must_use]
    pub fn held_octets(&self) -> usize {
        self.line.len() + self.begun.as_ref().map_or(0, |reply| reply.text.len())
    }

    fn take_line(&mut self, line: &[u8]) -> Result<Option<Reply>, ReplyError> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let code = line.get(..3).and_then(code_of).ok_or(ReplyError::NoCode)?;
        let is_last = match line.get(3) {
            None | Some(b' ') => true,
            Some(b'-') => false,
            Some(_) => return Err(ReplyError::NoCode),
        };
        let text = String::from_utf8_lossy(line.get(4..).unwrap_or_default());
        let (enhanced, text) = match EnhancedStatus::split_from(&text) {
            Some((status, rest)) if u16::from(status.class) == code / 100 => (Some(status), rest),
            _ => (None, &*text),
        };
        let reply = match &mut self.begun {
            None => self.begun.insert(Reply { code, enhanced, text: text.to_owned() }),
            Some(reply) if reply.code != code => return Err(ReplyError::CodesDiffer),
            Some(reply) => {
                reply.text.push('\n');
                reply.text.push_str(text);
                reply
            }
        };
        if reply.text.len() > TEXT_OCTETS_MAX {
            return Err(ReplyError::TooLong);
        }
        Ok(if is_last { self.begun.take() } else { None })
    }
}

/// RFC 5321, 4.2: the first digit is 2 to 5, the second 0 to 5.
fn code_of(digits: &[u8]) -> Option<u16> {
    match digits {
        [a @ b'2'..=b'5', b @ b'0'..=b'5', c @ b'0'..=b'9'] => {
            Some(u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0'))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_text_of_several_lines_becomes_a_reply_of_several_lines() {
        let reply = Reply::new(550, Some(EnhancedStatus::new(5, 1, 1)), "No such user\nhere\t!");
        assert_eq!(reply.encode(), b"550-5.1.1 No such user\r\n550 5.1.1 here !\r\n");
    }

    #[test]
    fn a_written_line_never_exceeds_512_octets() {
        let encoded = Reply::new(554, Some(EnhancedStatus::new(5, 999, 999)), "é".repeat(900)).encode();
        let lines: Vec<_> = encoded.split_inclusive(|&octet| octet == b'\n').collect();
        assert!(lines.len() > 1 && lines.iter().all(|line| line.len() <= 512));
    }

    #[test]
    fn what_is_no_reply_is_an_error_that_says_why() {
        let rows: [(&[u8], ReplyError); 6] = [
            (b"hello\r\n", ReplyError::NoCode),
            (b"2x0 ok\r\n", ReplyError::NoCode),
            (b"250_ok\r\n", ReplyError::NoCode),
            (b"999 ok\r\n", ReplyError::NoCode),
            (b"\r\n", ReplyError::NoCode),
            (b"250-a\r\n251 b\r\n", ReplyError::CodesDiffer),
        ];
        for (octets, error) in rows {
            assert_eq!(ReplyReader::default().read(octets), Err(error), "{octets:?}");
        }
        assert_eq!(ReplyReader::default().read(&[b'2'; LINE_OCTETS_MAX]), Err(ReplyError::LineTooLong));
        let endless = "250-".to_owned() + &"x".repeat(1000) + "\r\n";
        assert_eq!(ReplyReader::default().read(endless.repeat(40).as_bytes()), Err(ReplyError::TooLong));
    }

    #[test]
    fn an_enhanced_code_of_another_class_is_text() {
        let (_, reply) = ReplyReader::default().read(b"250 5.1.1 odd\r\n").unwrap();
        assert_eq!(reply.unwrap(), Reply::new(250, None, "5.1.1 odd"));
    }

    proptest! {
        #[test]
        fn a_reply_reads_back_however_it_is_cut(
            code in 200u16..560,
            lines in proptest::collection::vec("[a-zA-Z .é]{0,40}", 1..5),
            cut in any::<prop::sample::Index>(),
        ) {
            prop_assume!(code % 100 < 60);
            let reply = Reply::new(code, Some(EnhancedStatus::new(u8::try_from(code / 100).unwrap(), 1, 2)), lines.join("\n"));
            prop_assume!(code / 100 != 3);
            let wire = reply.encode();
            let (head, tail) = wire.split_at(cut.index(wire.len()));
            let mut reader = ReplyReader::default();
            prop_assert_eq!(reader.read(head).unwrap(), (head.len(), None));
            prop_assert_eq!(reader.read(tail).unwrap(), (tail.len(), Some(reply)));
        }
    }
}
