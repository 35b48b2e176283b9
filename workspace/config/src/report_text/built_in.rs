//! The texts in the box.

use super::{LanguageTag, ReportEvent, ReportText, Template};
use ReportEvent::{Delay, Delivered, Failure, Relayed};

/// A language with the text of a recipient, and the subject and the text of each report.
type Texts = (&'static str, &'static str, [(ReportEvent, &'static str, &'static str); 4]);

const ENGLISH: Texts = (
    "en",
    "  <{address}>
      {remote} said: {reply}
      Reason: {reason}
      Attempts: {attempts}
      {expired}
      What to do: {advice}",
    [
        (
            Failure,
            "Your message could not be delivered",
            "This is the mail switch {hostname}.

Your message of {accepted_at} could not be delivered to the following recipients. Nothing more will be tried for them.

{recipients}

{attached} If you need help, write to {postmaster} and mention the queue id {queue_id}.",
        ),
        (
            Delay,
            "Your message has not been delivered yet",
            "This is the mail switch {hostname}.

Your message of {accepted_at} has not been delivered to the following recipients yet. This is a warning only: you need not send it again. The switch goes on trying until {retry_until}, and tells you if it gives up.

{recipients}

{attached} If you need help, write to {postmaster} and mention the queue id {queue_id}.",
        ),
        (
            Delivered,
            "Your message was delivered",
            "This is the mail switch {hostname}.

Your message of {accepted_at} was delivered to the mailboxes of the following recipients, as you asked to be told. That says nothing of whether they have read it.

{recipients}

{attached} If you need help, write to {postmaster} and mention the queue id {queue_id}.",
        ),
        (
            Relayed,
            "Your message was handed on",
            "This is the mail switch {hostname}.

Your message of {accepted_at} was handed on for the following recipients, to a system that does not report deliveries. Unless it fails there, you will hear nothing more of it.

{recipients}

{attached} If you need help, write to {postmaster} and mention the queue id {queue_id}.",
        ),
    ],
);

const GERMAN: Texts = (
    "de",
    "  <{address}>
      Antwort von {remote}: {reply}
      Grund: {reason}
      Versuche: {attempts}
      {expired}
      Was Sie tun können: {advice}",
    [
        (
            Failure,
            "Ihre Nachricht konnte nicht zugestellt werden",
            "Hier ist der Mailserver {hostname}.

Ihre Nachricht vom {accepted_at} konnte den folgenden Empfängern nicht zugestellt werden. Es werden keine weiteren Versuche unternommen.

{recipients}

{attached} Wenn Sie Hilfe brauchen, schreiben Sie an {postmaster} und nennen Sie die Kennung {queue_id}.",
        ),
        (
            Delay,
            "Ihre Nachricht ist noch nicht zugestellt",
            "Hier ist der Mailserver {hostname}.

Ihre Nachricht vom {accepted_at} ist den folgenden Empfängern noch nicht zugestellt. Dies ist nur ein Hinweis: Sie brauchen sie nicht noch einmal zu senden. Der Server versucht es weiter bis {retry_until} und sagt Ihnen, wenn er aufgibt.

{recipients}

{attached} Wenn Sie Hilfe brauchen, schreiben Sie an {postmaster} und nennen Sie die Kennung {queue_id}.",
        ),
        (
            Delivered,
            "Ihre Nachricht wurde zugestellt",
            "Hier ist der Mailserver {hostname}.

Ihre Nachricht vom {accepted_at} liegt nun, wie Sie wissen wollten, in den Postfächern der folgenden Empfänger. Ob sie gelesen wurde, ist damit nicht gesagt.

{recipients}

{attached} Wenn Sie Hilfe brauchen, schreiben Sie an {postmaster} und nennen Sie die Kennung {queue_id}.",
        ),
        (
            Relayed,
            "Ihre Nachricht wurde weitergegeben",
            "Hier ist der Mailserver {hostname}.

Ihre Nachricht vom {accepted_at} wurde für die folgenden Empfänger an ein System weitergegeben, das Zustellungen nicht meldet. Wenn dort nichts schiefgeht, hören Sie nichts mehr davon.

{recipients}

{attached} Wenn Sie Hilfe brauchen, schreiben Sie an {postmaster} und nennen Sie die Kennung {queue_id}.",
        ),
    ],
);

const GOOD: &str = "a test makes a report of each text in the box";

pub(super) fn all() -> Vec<ReportText> {
    [ENGLISH, GERMAN]
        .iter()
        .flat_map(|(language, recipient, texts)| {
            texts.iter().map(move |(event, subject, body)| ReportText {
                language: language.parse::<LanguageTag>().expect(GOOD),
                event: *event,
                subject: Template::subject(subject).expect(GOOD),
                body: Template::body(body).expect(GOOD),
                recipient: Template::recipient(recipient).expect(GOOD),
            })
        })
        .collect()
}
