//! Makes reports: the message that tells a sender that a recipient was not reached, or not yet, or was.
//!
//! A report is a `multipart/report` (RFC 6522) of three parts: a text for people, a delivery status for programs (RFC
//! 3464), and the header section (or all) of the original message. Whether one is owed at all is RFC 3461's question,
//! see [`is_owed`]. Addresses with UTF-8 are reported as RFC 6533 asks.
//!
//! Pure: no clock, no store. The caller decides which recipients one report speaks of, and sends it from the null
//! sender, so that a report about a report can never be owed.

mod encoding;
mod original;
mod owed;
mod status;
mod text;
pub mod wishes;

pub use original::{FULL_OCTETS_MAX, HEADER_OCTETS_MAX};
pub use owed::{Owed, is_owed};
pub use text::CopyNote;

use sternpost_config::ReportText;
use sternpost_message::{Diagnostic, Envelope, Mailbox, MessageId, Recipient, UnixMillis};
use sternpost_submission::internet_date;

/// What a report says. RFC 3464, section 2.3.3 has one action more, `expanded`, which needs distribution lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportKind {
    /// The recipients were not reached and nothing more will be tried.
    Failure,
    /// The recipients were not reached yet.
    Delay {
        /// When the switch will give up.
        will_retry_until: UnixMillis,
    },
    /// The recipients' message store has the message.
    Delivered,
    /// An MTA has the message that tells nobody of a success: this is the last that the sender hears of it.
    Relayed,
}

/// One recipient that a report speaks of.
#[derive(Clone, Copy, Debug)]
pub struct ReportedRecipient<'a> {
    /// Who.
    pub recipient: &'a Recipient,
    /// Why, in the words of the last attempt.
    pub diagnostic: &'a Diagnostic,
    /// Whether the time for attempts is over; false when somebody refused for good.
    pub expired: bool,
    /// How often a transfer was attempted.
    pub attempts: u32,
}

/// What the caller has of the original content, from its first octet on.
#[derive(Clone, Copy, Debug)]
pub enum Original<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// Its beginning: at least [`HEADER_OCTETS_MAX`] octets of it are worth having.
    Beginning(&'a [u8]),
}

/// What a report is made from.
#[derive(Clone, Copy, Debug)]
pub struct ReportRequest<'a> {
    /// The name of this switch.
    pub reporting_mta: &'a str,
    /// From whom the report comes, and whom to ask about it.
    pub postmaster: &'a Mailbox,
    /// To whom the report is addressed.
    pub to: &'a Mailbox,
    /// Its words.
    pub text: &'a ReportText,
    /// Of a copy for the postmaster: what the report itself has come to. A copy never has the body of the original.
    pub copy: Option<CopyNote<'a>>,
    /// The original message's envelope.
    pub envelope: &'a Envelope,
    /// The original message's id.
    pub original_id: MessageId,
    /// What is reported.
    pub kind: ReportKind,
    /// About whom; at least one.
    pub recipients: &'a [ReportedRecipient<'a>],
    /// The original content, as much as the caller has. What goes into the report is decided here.
    pub original: Original<'a>,
    /// The id of the report, of which its `Message-ID` is made.
    pub report_id: MessageId,
    /// When the report is made.
    pub now: UnixMillis,
}

/// A report, ready to be stored as content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The whole content: lines ending in CRLF, of at most 998 octets (RFC 5322, section 2.1.1).
    pub content: Vec<u8>,
    /// Whether an octet above 127 occurs: the report's body type is 8BITMIME.
    pub eight_bit: bool,
    /// Whether the report's own header section has UTF-8: it needs SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
}

/// One part of the multipart.
struct Part {
    /// Its header fields with their line ends, without the empty line.
    fields: String,
    body: Vec<u8>,
}

/// Makes the report.
#[must_use]
pub fn make(request: &ReportRequest<'_>) -> Report {
    let parts = [text::part(request), status::part(request), original::part(request)];
    let boundary = boundary(request.report_id, &parts);
    let is_eight_bit = parts.iter().any(|part| !part.body.is_ascii());
    let mut content = header_section(request, &boundary, is_eight_bit).into_bytes();
    content.extend_from_slice(b"This is a report in MIME format (RFC 6522).\r\n");
    for part in &parts {
        // The line end before a boundary belongs to the boundary (RFC 2046, section 5.1.1).
        content.extend_from_slice(format!("\r\n--{boundary}\r\n{}\r\n", part.fields).as_bytes());
        content.extend_from_slice(&part.body);
    }
    content.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    let smtputf8 = !request.to.is_ascii() || !request.postmaster.is_ascii();
    Report { eight_bit: !content.is_ascii(), content, smtputf8 }
}

fn header_section(request: &ReportRequest<'_>, boundary: &str, is_eight_bit: bool) -> String {
    let date = internet_date(request.now);
    let (postmaster, to) = (request.postmaster, request.to);
    let subject = encoding::folded_field("Subject", &encoding::header_text(&text::subject(request)));
    let report_id = request.report_id;
    let host = encoding::printable_ascii(request.reporting_mta);
    let transfer_encoding = if is_eight_bit { "8bit" } else { "7bit" };
    format!(
        "Date: {date}\r\n\
         From: Mail Delivery System <{postmaster}>\r\n\
         To: <{to}>\r\n\
         {subject}\
         Message-ID: <{report_id}@{host}>\r\n\
         Auto-Submitted: auto-replied\r\n\
         MIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=delivery-status;\r\n\
         \tboundary=\"{boundary}\"\r\n\
         Content-Transfer-Encoding: {transfer_encoding}\r\n\
         \r\n"
    )
}

/// A boundary that occurs in no part. `=_` cannot stand in quoted-printable, and the id is random; the numbers are for
/// an original that quotes an earlier report of the same id.
fn boundary(report_id: MessageId, parts: &[Part]) -> String {
    let is_free = |boundary: &String| {
        let occurs_in =
            |part: &Part| part.body.windows(boundary.len()).any(|octets| octets == boundary.as_bytes());
        !parts.iter().any(occurs_in)
    };
    (0_u64..)
        .map(|number| format!("=_{number}_{report_id}"))
        .find(is_free)
        .expect("the parts are too short to hold every numbered boundary")
}

#[cfg(test)]
mod tests;
