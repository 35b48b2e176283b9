//! The end of content by a lone dot, and its transparency (RFC 5321, 4.5.2), without I/O.

/// Takes content as it stands on the wire and gives it back without the added dots; knows where it ends.
///
/// Only CRLF ends a line and only CRLF.CRLF ends content: a bare LF or CR is content like any other octet.
#[derive(Debug)]
pub struct DotReader {
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    LineStart,
    AfterDot,
    AfterDotCr,
    InLine,
    AfterCr,
}

impl Default for DotReader {
    fn default() -> Self {
        Self { state: State::LineStart }
    }
}

/// How far [`DotReader::take`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Octets of the input that belong to this content, its final dot included.
    pub octets_count: usize,
    /// Whether the final dot is among them.
    pub ended: bool,
}

impl DotReader {
    /// Takes input up to the final dot or the input's end; `content` gets the octets without transparency, in order.
    pub fn take(&mut self, input: &[u8], mut content: impl FnMut(&[u8])) -> Taken {
        // `run..at` is content that was seen but not handed out yet: long runs keep the hash behind `content` fast.
        let mut run = 0;
        let mut at = 0;
        while let Some(&octet) = input.get(at) {
            match (self.state, octet) {
                (State::LineStart, b'.') => {
                    content(&input[run..at]);
                    at += 1;
                    run = at;
                    self.state = State::AfterDot;
                }
                (State::AfterDot, b'\r') => {
                    at += 1;
                    run = at;
                    self.state = State::AfterDotCr;
                }
                (State::AfterDotCr, b'\n') => {
                    self.state = State::LineStart;
                    return Taken { octets_count: at + 1, ended: true };
                }
                (State::AfterDotCr, _) => {
                    // The CR was held back because it might have ended the content. It did not.
                    content(b"\r");
                    self.state = State::AfterCr;
                }
                (State::AfterCr, b'\n') => {
                    at += 1;
                    self.state = State::LineStart;
                }
                (_, b'\r') => {
                    at += 1;
                    self.state = State::AfterCr;
                }
                _ => {
                    let rest = &input[at..];
                    at += rest.iter().position(|&octet| octet == b'\r').unwrap_or(rest.len());
                    self.state = State::InLine;
                }
            }
        }
        content(&input[run..at]);
        Taken { octets_count: input.len(), ended: false }
    }
}

/// Content as it goes onto the wire: a dot before each leading dot, and the final dot. Content that does not end in CRLF
/// gets one.
#[must_use]
pub fn with_dots(content: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(content.len() + content.len() / 64 + 5);
    let mut line_start = true;
    for line in content.split_inclusive(|&octet| octet == b'\n') {
        if line_start && line.starts_with(b".") {
            wire.push(b'.');
        }
        wire.extend_from_slice(line);
        line_start = line.ends_with(b"\r\n");
    }
    if !line_start && !wire.is_empty() {
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b".\r\n");
    wire
}

/// The first line of `input` without its CRLF (or bare LF), and the octets that it takes with it.
#[must_use]
pub fn line(input: &[u8]) -> Option<(&[u8], usize)> {
    let end = input.iter().position(|&octet| octet == b'\n')?;
    let line = &input[..end];
    Some((line.strip_suffix(b"\r").unwrap_or(line), end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pieces: &[&[u8]]) -> (Vec<u8>, usize, bool) {
        let mut reader = DotReader::default();
        let mut content = Vec::new();
        let mut count = 0;
        for piece in pieces {
            let taken = reader.take(piece, |octets| content.extend_from_slice(octets));
            count += taken.octets_count;
            if taken.ended {
                return (content, count, true);
            }
        }
        (content, count, false)
    }

    const CASES: [(&[u8], &[u8]); 8] = [
        (b".\r\n", b""),
        (b"a\r\n.\r\n", b"a\r\n"),
        (b"..\r\n.\r\n", b".\r\n"),
        (b"..a\r\n..b\r\n.\r\n", b".a\r\n.b\r\n"),
        (b"a\n.\nb\r\n.\r\n", b"a\n.\nb\r\n"),
        (b".\ra\r\n.\r\n", b"\ra\r\n"),
        (b"a\r\r\n.\r\n", b"a\r\r\n"),
        (b"\r\n\r\n.\r\n", b"\r\n\r\n"),
    ];

    #[test]
    fn cutting_content_at_every_octet_reads_the_same() {
        for (wire, content) in CASES {
            let mut longer = wire.to_vec();
            longer.extend_from_slice(b"QUIT\r\n");
            assert_eq!(read(&[&longer]), (content.to_vec(), wire.len(), true));
            for cut in 0..=wire.len() {
                assert_eq!(
                    read(&[&wire[..cut], &wire[cut..]]),
                    (content.to_vec(), wire.len(), true),
                    "{cut}"
                );
            }
            let octets: Vec<&[u8]> = wire.chunks(1).collect();
            assert_eq!(read(&octets), (content.to_vec(), wire.len(), true));
        }
    }

    #[test]
    fn content_comes_back_from_the_wire_as_it_was() {
        for content in [&b""[..], b".\r\n", b"a\r\n..\r\n.b\r\n", b"x\r\n\r\n.\r\n", b"a\n.\n\r\n"] {
            assert_eq!(read(&[&with_dots(content)]).0, content);
        }
        assert_eq!(read(&[&with_dots(b"no end")]).0, b"no end\r\n");
    }

    #[test]
    fn a_line_ends_at_lf_with_or_without_cr() {
        assert_eq!(line(b"QUIT\r\nx"), Some((&b"QUIT"[..], 6)));
        assert_eq!(line(b"QUIT\nx"), Some((&b"QUIT"[..], 5)));
        assert_eq!(line(b"QUIT\r"), None);
    }
}
