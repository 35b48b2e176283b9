//! The part for people: what happened, to whom, what was said, and what to do, in plain English.

use super::encoding::{quoted_printable, wrapped};
use super::original::whole_message;
use super::status::shown_status;
use super::{Part, ReportKind, ReportRequest, ReportedRecipient};
use sternpost_message::{Diagnostic, EnhancedStatus};
use sternpost_submission::internet_date;

pub(super) fn part(request: &ReportRequest<'_>) -> Part {
    let text = text(request);
    let (charset, encoding, body) = if text.is_ascii() {
        ("us-ascii", "7bit", text.into_bytes())
    } else {
        ("utf-8", "quoted-printable", quoted_printable(text.as_bytes()))
    };
    let fields = format!(
        "Content-Description: What happened\r\n\
         Content-Type: text/plain; charset={charset}\r\n\
         Content-Transfer-Encoding: {encoding}\r\n"
    );
    Part { fields, body }
}

fn text(request: &ReportRequest<'_>) -> String {
    let mut text =
        wrapped(&format!("This is the mail switch {}.", Diagnostic::one_line(request.reporting_mta)), 0);
    let accepted_at = internet_date(request.envelope.accepted_at);
    let opening = match request.kind {
        ReportKind::Failure => format!(
            "Your message of {accepted_at} could not be delivered to the following recipients. \
             Nothing more will be tried for them."
        ),
        ReportKind::Delay { will_retry_until } => format!(
            "Your message of {accepted_at} has not been delivered to the following recipients yet. This is a warning \
             only: you need not send it again. The switch goes on trying until {}, and tells you if it gives up.",
            internet_date(will_retry_until)
        ),
    };
    text += &paragraph(&opening);
    for reported in request.recipients {
        text += "\r\n";
        text += &recipient_text(request.kind, reported);
    }
    let part_name =
        if whole_message(request).is_some() { "Your message" } else { "The header of your message" };
    let closing = format!(
        "{part_name} is attached, and a status report for programs. If you need help, write to {} and mention the \
         queue id {}.",
        request.postmaster, request.original_id
    );
    text + &paragraph(&closing)
}

fn paragraph(text: &str) -> String {
    format!("\r\n{}", wrapped(text, 0))
}

/// Who, what was said by whom, how often it was tried, and what to do.
fn recipient_text(kind: ReportKind, reported: &ReportedRecipient<'_>) -> String {
    let diagnostic = reported.diagnostic;
    let mut text = wrapped(&format!("<{}>", reported.recipient.address), 2);
    let said = Diagnostic::one_line(&diagnostic.to_string());
    let said = if diagnostic.remote.is_empty() {
        format!("Reason: {said}")
    } else {
        format!("{} said: {said}", Diagnostic::one_line(&diagnostic.remote))
    };
    text += &wrapped(&said, 6);
    if reported.attempts > 0 {
        let times =
            if reported.attempts == 1 { "once".to_owned() } else { format!("{} times", reported.attempts) };
        text += &wrapped(&format!("Tried {times}."), 6);
    }
    if reported.expired {
        text += &wrapped("The time for further attempts is over.", 6);
    }
    if kind == ReportKind::Failure {
        text += &wrapped(&format!("What to do: {}", advice(shown_status(kind, reported))), 6);
    }
    text
}

/// What the sender of a message that failed with `status` can do. The rows of RFC 3463, section 3 that a sender can do
/// something about, each in one sentence.
const fn advice(status: EnhancedStatus) -> &'static str {
    match (status.subject, status.detail) {
        (1, 0..=3 | 5 | 6) => {
            "check the address for typing errors, or ask the recipient for the current one."
        }
        (1, 7 | 8) => "the other side does not accept your own address as a sender: check it.",
        (2, 1) => "the mailbox is closed: reach the recipient in another way.",
        (2, 2) => "the mailbox is full: ask the recipient in another way to make room, then send again.",
        (2, 3) | (3, 4) => "send a smaller message, or send it in parts.",
        (4, 6) => "the message went in a circle: tell your postmaster.",
        (4, 7) => "the recipient's system did not take it in time: send again later, or use another way.",
        (6, 7) | (6, 8) => {
            "the way to the recipient does not carry international addresses: use one without them."
        }
        (6, _) => "the recipient's system does not take this form of content: send it in another form.",
        (7, _) => {
            "the message was refused by a rule: ask the recipient or the recipient's postmaster in another way."
        }
        _ => "send again later; if it fails again, ask your postmaster.",
    }
}
