//! The part that shows what was sent: the header section, or the whole message where the sender asked for it (RFC 3461,
//! section 4.3) and it is small.

use super::encoding::{is_clean, quoted_printable};
use super::{Original, Part, ReportKind, ReportRequest};
use sternpost_message::Ret;
use sternpost_submission::HeaderScan;

/// The largest message that a report carries whole, in octets: reports must not fill the store that the failing mail
/// already strains.
pub const FULL_OCTETS_MAX: usize = 32 * 1024;
/// The largest header section that a report carries, in octets. What is longer is cut behind a field.
pub const HEADER_OCTETS_MAX: usize = 16 * 1024;

pub(super) fn part(request: &ReportRequest<'_>) -> Part {
    match (whole_message(request), request.original) {
        (Some(content), _) => message_part(content, request.envelope.smtputf8),
        (None, Original::Whole(content) | Original::Beginning(content)) => {
            header_part(header_section(content), request.envelope.smtputf8)
        }
    }
}

/// The whole message, when it may and can be shown: what is no failure, and a copy for others, shows the header section
/// only, and a content that no part
/// can hold as it is (`message/rfc822` may not be encoded, RFC 2046, section 5.2.1) as well.
pub(super) fn whole_message<'a>(request: &ReportRequest<'a>) -> Option<&'a [u8]> {
    match request.original {
        Original::Whole(content)
            if request.envelope.ret == Some(Ret::Full)
                && request.copy.is_none()
                && request.kind == ReportKind::Failure
                && content.len() <= FULL_OCTETS_MAX
                && is_clean(content) =>
        {
            Some(content)
        }
        Original::Whole(_) | Original::Beginning(_) => None,
    }
}

fn message_part(content: &[u8], smtputf8: bool) -> Part {
    let is_global = smtputf8 && !header_section(content).is_ascii();
    let media_type = if is_global { "message/global" } else { "message/rfc822" };
    let encoding = if content.is_ascii() { "7bit" } else { "8bit" };
    Part { fields: fields("Original message", media_type, encoding), body: content.to_vec() }
}

fn header_part(header: &[u8], smtputf8: bool) -> Part {
    let is_global = smtputf8 && !header.is_ascii() && str::from_utf8(header).is_ok();
    let media_type = if is_global { "message/global-headers" } else { "text/rfc822-headers" };
    // RFC 6522, section 4: a header section that is not 7bit must be encoded.
    let (encoding, body) = match is_clean(header) {
        true if header.is_ascii() => ("7bit", header.to_vec()),
        true if is_global => ("8bit", header.to_vec()),
        _ => ("quoted-printable", quoted_printable(header)),
    };
    Part { fields: fields("Original message's header", media_type, encoding), body }
}

fn fields(description: &str, media_type: &str, encoding: &str) -> String {
    format!(
        "Content-Description: {description}\r\nContent-Type: {media_type}\r\nContent-Transfer-Encoding: {encoding}\r\n"
    )
}

/// The header section at the start of `content`, without the empty line behind it, cut behind the last field that ends
/// within [`HEADER_OCTETS_MAX`] (in front of a single longer one: within it).
pub(super) fn header_section(content: &[u8]) -> &[u8] {
    let beginning = &content[..content.len().min(HEADER_OCTETS_MAX)];
    let mut scan = HeaderScan::new();
    scan.feed(beginning);
    match scan.header_octets() {
        Some(octets) => {
            let section =
                &beginning[..usize::try_from(octets).unwrap_or(beginning.len()).min(beginning.len())];
            without_empty_line(section)
        }
        None if beginning.len() < HEADER_OCTETS_MAX => beginning,
        None => &beginning[..last_field_end(beginning).unwrap_or(beginning.len())],
    }
}

fn without_empty_line(section: &[u8]) -> &[u8] {
    match section {
        b"\r\n" | b"\n" => &[],
        [fields @ .., b'\n', b'\r', b'\n'] | [fields @ .., b'\n', b'\n'] => &section[..fields.len() + 1],
        _ => section,
    }
}

/// Where the last line starts that is not the continuation of a field.
fn last_field_end(section: &[u8]) -> Option<usize> {
    let starts_field = |pair: &[u8]| pair[0] == b'\n' && !matches!(pair[1], b' ' | b'\t');
    section.windows(2).rposition(starts_field).map(|position| position + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_section_is_what_stands_before_the_empty_line() {
        let rows = [
            ("A: b\r\nC: d\r\n\r\nbody\r\n", "A: b\r\nC: d\r\n"),
            ("A: b\r\n", "A: b\r\n"),
            ("A: b", "A: b"),
            ("\r\nbody", ""),
            ("A: b\r\nno field\r\n", "A: b\r\n"),
            ("A: b\n\nbody", "A: b\n"),
            ("", ""),
        ];
        for (content, header) in rows {
            assert_eq!(str::from_utf8(header_section(content.as_bytes())), Ok(header), "{content:?}");
        }
    }

    #[test]
    fn a_long_header_section_is_cut_behind_a_field() {
        let field = "X-Field: value\r\n continued\r\n";
        let content = field.repeat(1000);
        let header = header_section(content.as_bytes());
        assert!(header.len() <= HEADER_OCTETS_MAX && header.len() > HEADER_OCTETS_MAX - 2 * field.len());
        assert_eq!(header.len() % field.len(), 0);
        let one_field = "A".repeat(2 * HEADER_OCTETS_MAX);
        assert_eq!(header_section(one_field.as_bytes()).len(), HEADER_OCTETS_MAX);
    }
}
