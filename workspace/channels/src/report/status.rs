//! The part for programs: `message/delivery-status` (RFC 3464), or `message/global-delivery-status` (RFC 6533) when an
//! address has UTF-8.

use super::encoding::{
    folded_field, printable_ascii, utf8_address_decoded, utf8_address_in_ascii, utf8_address_in_utf8,
    xtext_decoded,
};
use super::{Part, ReportKind, ReportRequest, ReportedRecipient};
use sternpost_message::{Diagnostic, EnhancedStatus, Mailbox};
use sternpost_submission::internet_date;

/// "Delivery time expired". RFC 3463, section 3.5 keeps it for persistent transient errors: the class is 4 although
/// the action is final.
const EXPIRED: EnhancedStatus = EnhancedStatus::new(4, 4, 7);

/// The longest `Original-Recipient`: `ORCPT` has at most 500 octets (RFC 3461, section 4.2), and a line 998.
const ORIGINAL_RECIPIENT_OCTETS_MAX: usize = 900;

/// What may stand in the part.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Charset {
    Ascii,
    Utf8,
}

pub(super) fn part(request: &ReportRequest<'_>) -> Part {
    let is_ascii = |reported: &ReportedRecipient<'_>| {
        let recipient = reported.recipient;
        recipient.address.is_ascii() && recipient.original_recipient.as_deref().is_none_or(str::is_ascii)
    };
    let charset = if request.recipients.iter().all(is_ascii) { Charset::Ascii } else { Charset::Utf8 };
    let mut body = message_fields(request);
    for reported in request.recipients {
        body.push_str("\r\n");
        body.push_str(&recipient_fields(request, reported, charset));
    }
    let fields = match charset {
        Charset::Ascii => {
            "Content-Description: Delivery report\r\nContent-Type: message/delivery-status\r\n".to_owned()
        }
        Charset::Utf8 => "Content-Description: Delivery report\r\n\
             Content-Type: message/global-delivery-status\r\n\
             Content-Transfer-Encoding: 8bit\r\n"
            .to_owned(),
    };
    Part { fields, body: body.into_bytes() }
}

/// RFC 3464, section 2.2.
fn message_fields(request: &ReportRequest<'_>) -> String {
    let mut fields = String::new();
    if let Some(envelope_id) = &request.envelope.envelope_id {
        // One that does not decode to printable text is shown as it was received.
        let envelope_id = xtext_decoded(envelope_id).unwrap_or_else(|| printable_ascii(envelope_id));
        fields += &format!("Original-Envelope-Id: {envelope_id}\r\n");
    }
    fields += &format!("Reporting-MTA: dns; {}\r\n", printable_ascii(request.reporting_mta));
    fields += &format!("X-Sternpost-Queue-Id: {}\r\n", request.original_id);
    fields + &format!("Arrival-Date: {}\r\n", internet_date(request.envelope.accepted_at))
}

/// RFC 3464, section 2.3.
fn recipient_fields(
    request: &ReportRequest<'_>,
    reported: &ReportedRecipient<'_>,
    charset: Charset,
) -> String {
    let mut fields = String::new();
    if let Some(original) = reported.recipient.original_recipient.as_deref()
        && let Some(original) = original_recipient(original, charset)
    {
        fields += &format!("Original-Recipient: {original}\r\n");
    }
    fields += &format!("Final-Recipient: {}\r\n", final_recipient(&reported.recipient.address));
    let action = match request.kind {
        ReportKind::Failure => "failed",
        ReportKind::Delay { .. } => "delayed",
        ReportKind::Delivered => "delivered",
        ReportKind::Relayed => "relayed",
    };
    fields += &format!("Action: {action}\r\n");
    fields += &format!("Status: {}\r\n", shown_status(request.kind, reported));
    if let Some(remote) = remote_name(&reported.diagnostic.remote) {
        fields += &format!("Remote-MTA: dns; {remote}\r\n");
    }
    fields += &folded_field("Diagnostic-Code", &diagnostic_code(reported, charset));
    if let ReportKind::Delay { will_retry_until } = request.kind {
        fields += &format!("Will-Retry-Until: {}\r\n", internet_date(will_retry_until));
    }
    fields
}

/// The status of one recipient: 4.4.7 when time is over, else what was diagnosed; a class that contradicts the action
/// gives way to the general code.
pub(super) fn shown_status(kind: ReportKind, reported: &ReportedRecipient<'_>) -> EnhancedStatus {
    let status = reported.diagnostic.status;
    match kind {
        ReportKind::Failure if reported.expired => EXPIRED,
        ReportKind::Failure if matches!(status.class, 4 | 5) => status,
        ReportKind::Failure => EnhancedStatus::new(5, 0, 0),
        ReportKind::Delay { .. } if status.class == 4 => status,
        ReportKind::Delay { .. } => EnhancedStatus::new(4, 0, 0),
        ReportKind::Delivered | ReportKind::Relayed if status.class == 2 => status,
        ReportKind::Delivered | ReportKind::Relayed => EnhancedStatus::new(2, 0, 0),
    }
}

/// The address with its type.
fn final_recipient(address: &Mailbox) -> String {
    if address.is_ascii() {
        format!("rfc822; {address}")
    } else {
        format!("utf-8; {}", utf8_address_in_utf8(address.as_str()))
    }
}

/// The value of `Original-Recipient` for an `ORCPT` as received. RFC 3461, section 4.2: the type stays and the xtext is
/// decoded. None when it is no `type;address`, or too long for a line.
fn original_recipient(orcpt: &str, charset: Charset) -> Option<String> {
    let (address_type, address) = orcpt.split_once(';')?;
    let is_type = |octet: u8| octet.is_ascii_alphanumeric() || octet == b'-';
    if address_type.is_empty() || !address_type.bytes().all(is_type) {
        return None;
    }
    let address = match charset {
        _ if !address_type.eq_ignore_ascii_case("utf-8") => {
            xtext_decoded(address).unwrap_or_else(|| printable_ascii(address))
        }
        Charset::Ascii => utf8_address_in_ascii(&utf8_address_decoded(address)),
        Charset::Utf8 => utf8_address_in_utf8(&utf8_address_decoded(address)),
    };
    Some(format!("{address_type};{address}")).filter(|value| value.len() <= ORIGINAL_RECIPIENT_OCTETS_MAX)
}

/// What the peer said, or what the switch found by itself (a type of our own, RFC 3464, section 2.3.6).
fn diagnostic_code(reported: &ReportedRecipient<'_>, charset: Charset) -> String {
    let diagnostic = reported.diagnostic;
    let text = match charset {
        Charset::Ascii => printable_ascii(&diagnostic.text),
        Charset::Utf8 => Diagnostic::one_line(&diagnostic.text),
    };
    match diagnostic.reply_code {
        Some(code) => format!("smtp; {code} {} {text}", diagnostic.status),
        None => format!("x-sternpost; {text}"),
    }
}

/// The name (or address) of the peer without what is said behind it. None when there was no peer.
fn remote_name(remote: &str) -> Option<String> {
    remote.split_whitespace().next().map(printable_ascii)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_original_recipient_is_decoded_and_cannot_write_a_field() {
        let rows = [
            ("rfc822;joe+2Bx@a.example", Charset::Ascii, Some("rfc822;joe+x@a.example")),
            ("rfc822;a+0D+0AX-Y:z", Charset::Ascii, Some("rfc822;a+0D+0AX-Y:z")),
            ("x400;/g=a/s=b/", Charset::Ascii, Some("x400;/g=a/s=b/")),
            ("UTF-8;\\x{E9}@a.example", Charset::Utf8, Some("UTF-8;é@a.example")),
            ("utf-8;\\x{E9}@a.example", Charset::Ascii, Some("utf-8;\\x{E9}@a.example")),
            ("utf-8;é@a.example", Charset::Ascii, Some("utf-8;\\x{E9}@a.example")),
            ("utf-8;a\r\nX: y", Charset::Utf8, Some("utf-8;a\\x{0D}\\x{0A}X:\\x{20}y")),
            ("joe@a.example", Charset::Ascii, None),
            ("a b;c", Charset::Ascii, None),
            (";c", Charset::Ascii, None),
        ];
        for (orcpt, charset, value) in rows {
            assert_eq!(original_recipient(orcpt, charset).as_deref(), value, "{orcpt:?}");
        }
        assert_eq!(original_recipient(&format!("utf-8;{}", "é".repeat(200)), Charset::Ascii), None);
    }

    #[test]
    fn a_final_recipient_has_the_type_of_its_address() {
        let rows = [
            ("joe@a.example", "rfc822; joe@a.example"),
            ("é@a.example", "utf-8; é@a.example"),
            ("a\u{85}b@a.example", "utf-8; a\\x{85}b@a.example"),
        ];
        for (address, value) in rows {
            assert_eq!(final_recipient(&Mailbox::parse(address).unwrap()), value);
        }
    }

    #[test]
    fn the_remote_is_named_without_what_is_said_of_it() {
        assert_eq!(remote_name("mx.example.org [192.0.2.1]").as_deref(), Some("mx.example.org"));
        assert_eq!(remote_name("[192.0.2.1]").as_deref(), Some("[192.0.2.1]"));
        assert_eq!(remote_name(""), None);
    }
}
