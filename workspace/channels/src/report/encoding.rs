//! The encodings that a report needs: quoted-printable, xtext, the UTF-8 addresses of RFC 6533, folding and wrapping.
//! Each takes any text and gives text that cannot start a line or a field of its own.

use sternpost_message::Diagnostic;

/// Octets of a line of quoted-printable, with the `=` of a soft break. RFC 2045, section 6.7.
const QUOTED_LINE_OCTETS_MAX: usize = 76;

/// `text` with `?` for whatever is not printable US-ASCII, cut at the bound of [`Diagnostic::one_line`], which does the
/// same for text that may have UTF-8: so no field and no word can fill a line of 998 octets.
pub(super) fn printable_ascii(text: &str) -> String {
    text.chars()
        .take(Diagnostic::TEXT_OCTETS_MAX)
        .map(|c| if matches!(c, ' '..='~') { c } else { '?' })
        .collect()
}

/// Quoted-printable of any octets. CRLF stays a line end; a lone CR or LF is data. The result ends as `octets` do.
pub(super) fn quoted_printable(octets: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut quoted = Vec::with_capacity(octets.len() + octets.len() / 8);
    let mut line_octets = 0;
    let mut at = 0;
    while let Some(&octet) = octets.get(at) {
        let rest = &octets[at + 1..];
        if octet == b'\r' && rest.first() == Some(&b'\n') {
            quoted.extend_from_slice(b"\r\n");
            (line_octets, at) = (0, at + 2);
            continue;
        }
        // A blank at a line's end would be lost on the way.
        let is_last_of_line = rest.is_empty() || rest.starts_with(b"\r\n");
        let is_plain =
            matches!(octet, b'!'..=b'<' | b'>'..=b'~') || matches!(octet, b' ' | b'\t') && !is_last_of_line;
        let width = if is_plain { 1 } else { 3 };
        // One column stays free for the `=` of a soft break.
        if line_octets + width > QUOTED_LINE_OCTETS_MAX - 1 {
            quoted.extend_from_slice(b"=\r\n");
            line_octets = 0;
        }
        if is_plain {
            quoted.push(octet);
        } else {
            let digits = [DIGITS[usize::from(octet >> 4)], DIGITS[usize::from(octet & 15)]];
            quoted.extend_from_slice(&[b'=', digits[0], digits[1]]);
        }
        (line_octets, at) = (line_octets + width, at + 1);
    }
    quoted
}

/// Whether octets may stand as they are in a 7bit or 8bit part: CRLF line ends, no NUL, lines of at most 998 octets.
pub(super) fn is_clean(octets: &[u8]) -> bool {
    let mut rest = octets;
    while !rest.is_empty() {
        let (line, behind) = match rest.windows(2).position(|pair| pair == b"\r\n") {
            Some(end) => (&rest[..end], &rest[end + 2..]),
            None => (rest, &[][..]),
        };
        if line.len() > 998 || line.iter().any(|octet| matches!(octet, b'\r' | b'\n' | 0)) {
            return false;
        }
        rest = behind;
    }
    true
}

/// The text that an xtext stands for (RFC 3461, section 4). None when the encoding is broken, when the text has
/// anything but printable US-ASCII (such a value may not stand in a delivery status), or above 512 octets.
pub(super) fn xtext_decoded(xtext: &str) -> Option<String> {
    if xtext.len() > Diagnostic::TEXT_OCTETS_MAX {
        return None;
    }
    let mut text = String::with_capacity(xtext.len());
    let mut octets = xtext.bytes();
    while let Some(octet) = octets.next() {
        let decoded = match octet {
            b'+' => {
                let digits = [octets.next()?, octets.next()?];
                let digits = str::from_utf8(&digits).ok().filter(|digits| !digits.starts_with('+'))?;
                u8::from_str_radix(digits, 16).ok()?
            }
            octet => octet,
        };
        text.push(Some(char::from(decoded)).filter(|c| matches!(c, ' '..='~'))?);
    }
    Some(text)
}

/// An address of RFC 6533's type utf-8 as US-ASCII (utf-8-addr-xtext): `\x{…}` for whatever is not printable
/// US-ASCII, and for `\`, `+` and `=`.
pub(super) fn utf8_address_in_ascii(address: &str) -> String {
    utf8_address(address, |c| matches!(c, '!'..='~'))
}

/// An address of RFC 6533's type utf-8 (utf-8-addr-unitext): like [`utf8_address_in_ascii`], but characters beyond
/// US-ASCII stay as they are, unless somebody could take them for a blank or a line end (U+0085, U+2028).
pub(super) fn utf8_address_in_utf8(address: &str) -> String {
    utf8_address(address, |c| !c.is_control() && !c.is_whitespace())
}

fn utf8_address(address: &str, is_plain: impl Fn(char) -> bool) -> String {
    let mut encoded = String::with_capacity(address.len());
    for c in address.chars() {
        if is_plain(c) && !matches!(c, '\\' | '+' | '=') {
            encoded.push(c);
        } else {
            encoded += &format!("\\x{{{:02X}}}", u32::from(c));
        }
    }
    encoded
}

/// The address that [`utf8_address_in_ascii`] or [`utf8_address_in_utf8`] encoded; what is no encoding of a printable
/// character stays as it is.
pub(super) fn utf8_address_decoded(encoded: &str) -> String {
    let mut address = String::with_capacity(encoded.len());
    let mut rest = encoded;
    while let Some(at) = rest.find("\\x{") {
        let (before, escape) = rest.split_at(at);
        address.push_str(before);
        let decoded = escape[3..].split_once('}').and_then(|(digits, behind)| {
            let is_hexadecimal =
                (2..=6).contains(&digits.len()) && digits.bytes().all(|o| o.is_ascii_hexdigit());
            let code = u32::from_str_radix(digits, 16).ok().filter(|_| is_hexadecimal)?;
            Some((char::from_u32(code).filter(|c| !c.is_control())?, behind))
        });
        match decoded {
            Some((c, behind)) => {
                address.push(c);
                rest = behind;
            }
            None => {
                address.push_str(&escape[..3]);
                rest = &escape[3..];
            }
        }
    }
    address + rest
}

/// One line of text as a header field has it: as it is where that is printable US-ASCII, else in encoded words (RFC 2047), of
/// which each has whole characters and 75 octets at most.
pub(super) fn header_text(text: &str) -> String {
    const ROOM: usize = 75 - "=?utf-8?Q??=".len();
    if text.chars().all(|c| matches!(c, ' '..='~')) && !text.contains("=?") {
        return text.to_owned();
    }
    let mut words: Vec<String> = vec![String::new()];
    for c in text.chars() {
        let mut octets = [0; 4];
        let encoded: String = match c {
            ' ' => "_".to_owned(),
            c if c.is_ascii_alphanumeric() => c.to_string(),
            c => c.encode_utf8(&mut octets).bytes().map(|octet| format!("={octet:02X}")).collect(),
        };
        match words.last_mut() {
            Some(word) if word.len() + encoded.len() <= ROOM => word.push_str(&encoded),
            _ => words.push(encoded),
        }
    }
    let words: Vec<String> = words.iter().map(|word| format!("=?utf-8?Q?{word}?=")).collect();
    words.join(" ")
}

/// A field with its line end, folded at spaces so that its lines have 78 octets where the words allow (RFC 5322,
/// section 2.2.3). The value is one line already.
pub(super) fn folded_field(name: &str, value: &str) -> String {
    let mut field = format!("{name}:");
    let mut line_octets = field.len();
    for word in value.split(' ').filter(|word| !word.is_empty()) {
        if line_octets + 1 + word.len() > 78 && line_octets > name.len() + 1 {
            field.push_str("\r\n");
            line_octets = 0;
        }
        field.push(' ');
        field.push_str(word);
        line_octets += 1 + word.len();
    }
    field + "\r\n"
}

/// `text` as lines of at most 72 characters where the words allow, each with `indent` spaces in front and its line end.
pub(super) fn wrapped(text: &str, indent: usize) -> String {
    let mut lines = String::new();
    let mut column = 0;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let width = word.chars().count();
        if column > 0 && column + 1 + width > 72 {
            lines.push_str("\r\n");
            column = 0;
        }
        let blanks = if column == 0 { indent } else { 1 };
        lines.extend(std::iter::repeat_n(' ', blanks));
        lines.push_str(word);
        column += blanks + width;
    }
    lines + "\r\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_printable_keeps_line_ends_and_quotes_the_rest() {
        let rows: [(&[u8], &[u8]); 7] = [
            (b"plain\r\n", b"plain\r\n"),
            (b"a=b", b"a=3Db"),
            ("é".as_bytes(), b"=C3=A9"),
            (b"blank \r\nend\t", b"blank=20\r\nend=09"),
            (b"a\rb\nc\0", b"a=0Db=0Ac=00"),
            (b"", b""),
            (b"\r\r\n", b"=0D\r\n"),
        ];
        for (octets, quoted) in rows {
            assert_eq!(quoted_printable(octets), quoted, "{octets:?}");
        }
        let long = quoted_printable(&[b'x'; 2000]);
        assert!(long.split(|&octet| octet == b'\n').all(|line| line.len() <= 77));
        assert!(is_clean(&long));
    }

    #[test]
    fn clean_octets_have_short_lines_that_end_in_crlf() {
        let long = [b'x'; 999];
        let rows: [(&[u8], bool); 8] = [
            (b"", true),
            (b"a\r\nb", true),
            (b"\r\n\r\n", true),
            ("é\r\n".as_bytes(), true),
            (b"a\nb", false),
            (b"a\rb", false),
            (b"a\0", false),
            (&long, false),
        ];
        for (octets, is_good) in rows {
            assert_eq!(is_clean(octets), is_good, "{octets:?}");
        }
        assert!(is_clean(&long[1..]));
    }

    #[test]
    fn xtext_decodes_to_printable_us_ascii_or_not_at_all() {
        assert_eq!(xtext_decoded(&"x".repeat(513)), None);
        let rows = [
            ("QQ+2B314", Some("QQ+314")),
            ("a+20b", Some("a b")),
            ("a+0D+0AX:b", None),
            ("a+C3+A9", None),
            ("é", None),
            ("a+2", None),
            ("a+zz", None),
            ("a++2b", None),
        ];
        for (xtext, text) in rows {
            assert_eq!(xtext_decoded(xtext).as_deref(), text, "{xtext}");
        }
    }

    #[test]
    fn utf8_addresses_survive_us_ascii() {
        for address in ["пример@пример.рф", "a+b=c\\d@e", "a@b"] {
            let encoded = utf8_address_in_ascii(address);
            assert!(encoded.is_ascii() && !encoded.contains('+'));
            assert_eq!(utf8_address_decoded(&encoded), address);
            assert_eq!(utf8_address_decoded(&utf8_address_in_utf8(address)), address);
        }
        for broken in ["a\\x{", "\\x{}", "\\x{0D}", "\\x{D800}", "\\x{+1}", "\\x{1234567}"] {
            assert_eq!(utf8_address_decoded(broken), broken);
        }
    }

    #[test]
    fn header_text_beyond_us_ascii_is_encoded_in_words_of_whole_characters() {
        assert_eq!(header_text("Not delivered"), "Not delivered");
        assert_eq!(header_text("Für =?x"), "=?utf-8?Q?F=C3=BCr_=3D=3Fx?=");
        let long = header_text(&"é".repeat(100));
        assert!(long.split(' ').all(|word| word.len() <= 75 && word.ends_with("=A9?=")), "{long}");
    }

    #[test]
    fn folding_and_wrapping_break_at_words() {
        let value = "smtp; 550 ".to_owned() + &"word ".repeat(40);
        let field = folded_field("Diagnostic-Code", &value);
        assert!(field.starts_with("Diagnostic-Code: smtp; 550 word ") && field.ends_with("word\r\n"));
        assert!(field.split("\r\n").all(|line| line.len() <= 78 && !line.ends_with(' ')));
        assert_eq!(field.matches("word").count(), 40);
        let lines = wrapped(&"word ".repeat(40), 4);
        assert!(lines.lines().all(|line| line.len() <= 72 && line.starts_with("    word")));
        assert_eq!(folded_field("A", ""), "A:\r\n");
    }
}
