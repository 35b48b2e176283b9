//! The part for people: the template of the configuration, filled in with what happened, to whom, what was said, and what to do.
//!
//! A template's words are the configuration's; the sentences that depend on what happened (what is attached, what to do) are
//! here, in the languages of the box.

use super::encoding::{quoted_printable, wrapped};
use super::original::whole_message;
use super::status::shown_status;
use super::{Part, ReportKind, ReportRequest, ReportedRecipient};
use std::borrow::Cow;
use sternpost_config::{FilledLine, LanguageTag, Placeholder};
use sternpost_message::{Diagnostic, EnhancedStatus};
use sternpost_submission::internet_date;

/// A language in which the sentences below are there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tongue {
    English,
    German,
}

impl Tongue {
    fn of(language: &LanguageTag) -> Self {
        match language.primary() {
            "de" => Self::German,
            _ => Self::English,
        }
    }

    const fn either(self, english: &'static str, german: &'static str) -> &'static str {
        match self {
            Self::English => english,
            Self::German => german,
        }
    }
}

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
         Content-Language: {}\r\n\
         Content-Transfer-Encoding: {encoding}\r\n",
        request.text.language
    );
    Part { fields, body }
}

/// The subject, one line.
pub(super) fn subject(request: &ReportRequest<'_>) -> String {
    let lines = request.text.subject.fill(|placeholder| value(request, placeholder));
    let text = lines.filter_map(|line| match line {
        FilledLine::Text { text, .. } => Some(text),
        FilledLine::Recipients => None,
    });
    Diagnostic::one_line(&text.collect::<String>())
}

fn text(request: &ReportRequest<'_>) -> String {
    let mut text = String::new();
    if let Some(note) = request.copy {
        let tongue = Tongue::of(&request.text.language);
        let opening = tongue.either("A copy for the postmaster.", "Eine Kopie für den Postmaster.");
        text += &wrapped(&format!("{opening} {}", Diagnostic::one_line(&note.said(tongue))), 0);
        text += "\r\n";
    }
    for line in request.text.body.fill(|placeholder| value(request, placeholder)) {
        match line {
            FilledLine::Text { indent, text: words } => text += &wrapped(&words, indent),
            FilledLine::Recipients => {
                for (number, reported) in request.recipients.iter().enumerate() {
                    text += if number == 0 { "" } else { "\r\n" };
                    text += &recipient_text(request, reported);
                }
            }
        }
    }
    text
}

fn recipient_text(request: &ReportRequest<'_>, reported: &ReportedRecipient<'_>) -> String {
    let lines = request.text.recipient.fill(|placeholder| recipient_value(request, reported, placeholder));
    let lines = lines.filter_map(|line| match line {
        FilledLine::Text { indent, text } => Some(wrapped(&text, indent)),
        FilledLine::Recipients => None,
    });
    lines.collect()
}

/// What stands for a placeholder of the whole text.
fn value<'a>(request: &ReportRequest<'a>, placeholder: Placeholder) -> Option<Cow<'a, str>> {
    let tongue = Tongue::of(&request.text.language);
    match placeholder {
        Placeholder::Hostname => Some(Diagnostic::one_line(request.reporting_mta).into()),
        Placeholder::AcceptedAt => Some(internet_date(request.envelope.accepted_at).into()),
        Placeholder::RetryUntil => match request.kind {
            ReportKind::Delay { will_retry_until } => Some(internet_date(will_retry_until).into()),
            ReportKind::Failure | ReportKind::Delivered | ReportKind::Relayed => None,
        },
        Placeholder::Attached if whole_message(request).is_some() => Some(Cow::Borrowed(tongue.either(
            "Your message is attached, and a status report for programs.",
            "Angehängt sind Ihre Nachricht und ein Bericht für Programme.",
        ))),
        Placeholder::Attached => Some(Cow::Borrowed(tongue.either(
            "The header of your message is attached, and a status report for programs.",
            "Angehängt sind der Kopf Ihrer Nachricht und ein Bericht für Programme.",
        ))),
        Placeholder::Postmaster => Some(request.postmaster.as_str().into()),
        Placeholder::QueueId => Some(request.original_id.to_string().into()),
        Placeholder::Recipients
        | Placeholder::Address
        | Placeholder::Remote
        | Placeholder::Reply
        | Placeholder::Reason
        | Placeholder::Attempts
        | Placeholder::Expired
        | Placeholder::Advice => None,
    }
}

/// What stands for a placeholder of one recipient's text.
fn recipient_value<'a>(
    request: &ReportRequest<'a>,
    reported: &ReportedRecipient<'a>,
    placeholder: Placeholder,
) -> Option<Cow<'a, str>> {
    let tongue = Tongue::of(&request.text.language);
    let diagnostic = reported.diagnostic;
    let said = || Cow::Owned(Diagnostic::one_line(&diagnostic.to_string()));
    let is_of_a_peer = !diagnostic.remote.is_empty();
    match placeholder {
        Placeholder::Address => Some(reported.recipient.address.as_str().into()),
        Placeholder::Remote => is_of_a_peer.then(|| Diagnostic::one_line(&diagnostic.remote).into()),
        Placeholder::Reply => is_of_a_peer.then(said),
        Placeholder::Reason => (!is_of_a_peer).then(said),
        Placeholder::Attempts => (reported.attempts > 0).then(|| reported.attempts.to_string().into()),
        Placeholder::Expired => reported.expired.then(|| {
            Cow::Borrowed(tongue.either(
                "The time for further attempts is over.",
                "Die Zeit für weitere Versuche ist abgelaufen.",
            ))
        }),
        Placeholder::Advice => (request.kind == ReportKind::Failure)
            .then(|| Cow::Borrowed(advice(shown_status(request.kind, reported), tongue))),
        Placeholder::Hostname
        | Placeholder::AcceptedAt
        | Placeholder::RetryUntil
        | Placeholder::Recipients
        | Placeholder::Attached
        | Placeholder::Postmaster
        | Placeholder::QueueId => None,
    }
}

/// What has become of the report of which somebody gets a copy.
#[derive(Clone, Copy, Debug)]
pub enum CopyNote<'a> {
    /// The sender has it.
    SaidTo(&'a str),
    /// There is no sender.
    NullSender,
    /// There is no route to this one.
    NoRoute(&'a str),
}

impl CopyNote<'_> {
    fn said(&self, tongue: Tongue) -> String {
        match (self, tongue) {
            (Self::SaidTo(sender), Tongue::English) => format!("The report below went to {sender}."),
            (Self::SaidTo(sender), Tongue::German) => format!("Der Bericht unten ging an {sender}."),
            (Self::NullSender, _) => tongue
                .either(
                    "Nobody else is told, for the sender of what failed is null.",
                    "Sonst erfährt es niemand, denn der Absender des Gescheiterten ist leer.",
                )
                .to_owned(),
            (Self::NoRoute(sender), Tongue::English) => {
                format!("Nobody else is told, for there is no route to {sender}.")
            }
            (Self::NoRoute(sender), Tongue::German) => {
                format!("Sonst erfährt es niemand, denn zu {sender} führt kein Weg.")
            }
        }
    }
}

/// What the sender of a message that failed with `status` can do. The rows of RFC 3463, section 3 that a sender can do
/// something about, each in one sentence.
const fn advice(status: EnhancedStatus, tongue: Tongue) -> &'static str {
    match (status.subject, status.detail) {
        (1, 0..=3 | 5 | 6) => tongue.either(
            "check the address for typing errors, or ask the recipient for the current one.",
            "Prüfen Sie die Adresse auf Tippfehler, oder fragen Sie den Empfänger nach der heutigen.",
        ),
        (1, 7 | 8) => tongue.either(
            "the other side does not accept your own address as a sender: check it.",
            "Die andere Seite nimmt Ihre eigene Adresse nicht als Absender an: Prüfen Sie sie.",
        ),
        (2, 1) => tongue.either(
            "the mailbox is closed: reach the recipient in another way.",
            "Das Postfach ist geschlossen: Erreichen Sie den Empfänger auf anderem Weg.",
        ),
        (2, 2) => tongue.either(
            "the mailbox is full: ask the recipient in another way to make room, then send again.",
            "Das Postfach ist voll: Bitten Sie den Empfänger auf anderem Weg um Platz und senden Sie dann noch einmal.",
        ),
        (2, 3) | (3, 4) => tongue.either(
            "send a smaller message, or send it in parts.",
            "Senden Sie eine kleinere Nachricht, oder mehrere Teile.",
        ),
        (4, 6) => tongue.either(
            "the message went in a circle: tell your postmaster.",
            "Die Nachricht lief im Kreis: Sagen Sie es Ihrem Postmaster.",
        ),
        (4, 7) => tongue.either(
            "the recipient's system did not take it in time: send again later, or use another way.",
            "Das System des Empfängers hat sie nicht rechtzeitig angenommen: Senden Sie später noch einmal, oder auf anderem Weg.",
        ),
        (6, 7) | (6, 8) => tongue.either(
            "the way to the recipient does not carry international addresses: use one without them.",
            "Der Weg zum Empfänger trägt keine internationalen Adressen: Nehmen Sie einen ohne sie.",
        ),
        (6, _) => tongue.either(
            "the recipient's system does not take this form of content: send it in another form.",
            "Das System des Empfängers nimmt Inhalte dieser Form nicht an: Senden Sie sie in einer anderen.",
        ),
        (7, _) => tongue.either(
            "the message was refused by a rule: ask the recipient or the recipient's postmaster in another way.",
            "Eine Regel hat die Nachricht abgewiesen: Fragen Sie den Empfänger oder seinen Postmaster auf anderem Weg.",
        ),
        _ => tongue.either(
            "send again later; if it fails again, ask your postmaster.",
            "Senden Sie später noch einmal; wenn es wieder misslingt, fragen Sie Ihren Postmaster.",
        ),
    }
}
