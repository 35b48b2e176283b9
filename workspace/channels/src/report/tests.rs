//! The reports as another program reads them: each is parsed by Python's `email`, an independent reader.

use super::*;
use std::io::Write;
use std::process::{Command, Stdio};
use sternpost_config::{ReportEvent, Template, built_in_report_texts};
use sternpost_message::sample::{self, recipient};
use sternpost_message::{EnhancedStatus, Notify, Ret, ReversePath};

const NOW: UnixMillis = UnixMillis(1_795_301_110_000);
const LATER: UnixMillis = UnixMillis(1_795_301_110_000 + 86_400_000);
const ORIGINAL: &[u8] =
    b"Received: from a\r\n\tby b; today\r\nSubject: lunch\r\nMessage-ID: <1@client.example>\r\n\r\nAt noon?\r\n";

const WHOLE: Original<'static> = Original::Whole(ORIGINAL);

/// Prints what the parser sees, one `place: value` a line, and refuses a report with defects.
const READER: &str = r#"
import email, email.policy, sys
raw = sys.stdin.buffer.read()
report = email.message_from_bytes(raw, policy=email.policy.default)
def out(place, value):
    sys.stdout.buffer.write(f"{place}: {value}\n".encode())
for part in report.walk():
    assert not part.defects, (part.get_content_type(), part.defects)
# To this reader UTF-8 in a header section is a defect, although RFC 6532 allows it.
is_ascii = raw.split(b"\r\n\r\n")[0].isascii()
for name in report.keys():
    out(name, str(report[name]).replace("\n", " "))
    assert not (is_ascii and report[name].defects), (name, report[name].defects)
out("type", report.get_content_type())
out("report-type", report.get_param("report-type"))
text, status, original = report.get_payload()
out("text", " ".join(text.get_content().split()))
out("status-type", status.get_content_type())
blocks = status.get_payload()
if status.get_content_type() == "message/global-delivery-status":
    # The library reads the first block as a header section and leaves the others as text.
    raw_blocks = raw.split(b"message/global-delivery-status")[1].split(b"\r\n--=_")[0].split(b"\r\n\r\n")[1:]
    blocks = [email.message_from_bytes(b, policy=email.policy.SMTPUTF8) for b in raw_blocks]
for place, block in enumerate(blocks):
    for name, value in block.items():
        out(f"{place} {name}", " ".join(str(value).split()))
out("original-type", original.get_content_type())
if original.get_content_type() == "message/rfc822":
    inner = original.get_payload()[0]
    out("original", repr(inner["Subject"]) + repr(inner.get_payload()))
elif original.get_content_type() == "text/rfc822-headers":
    out("original", repr(original.get_payload(decode=True)))
"#;

/// What [`READER`] says of a report.
struct Reading(String);

impl Reading {
    fn of(report: &Report) -> Self {
        let mut python = Command::new("python3")
            .args(["-c", READER])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("python3 is on every machine that builds the switch");
        let mut stdin = python.stdin.take().unwrap();
        stdin.write_all(&report.content).unwrap();
        drop(stdin);
        let output = python.wait_with_output().unwrap();
        let content = String::from_utf8_lossy(&report.content);
        assert!(output.status.success(), "{}\n{content}", String::from_utf8_lossy(&output.stderr));
        Self(String::from_utf8(output.stdout).unwrap())
    }

    fn get(&self, place: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.strip_prefix(place)?.strip_prefix(": "))
    }

    #[track_caller]
    fn expect(&self, rows: &[(&str, &str)]) {
        for (place, value) in rows {
            assert_eq!(self.get(place), Some(*value), "{place} in\n{}", self.0);
        }
    }
}

fn mailbox(text: &str) -> Mailbox {
    Mailbox::parse(text).unwrap()
}

fn envelope(recipients: Vec<Recipient>) -> Envelope {
    Envelope {
        sender: ReversePath::Mailbox(mailbox("ann@client.example")),
        recipients,
        accepted_at: UnixMillis(NOW.0 - 3_600_000),
        source: "public".into(),
        ..sample::envelope(&[], ("smtp", "far"))
    }
}

fn refused(text: &str) -> Diagnostic {
    Diagnostic {
        status: EnhancedStatus::new(5, 1, 1),
        reply_code: Some(550),
        text: text.into(),
        remote: "mx.far.example [192.0.2.25]".into(),
    }
}

/// The report of a failure of every recipient of `envelope`.
fn report(envelope: &Envelope, diagnostic: &Diagnostic, original: Original<'_>) -> Report {
    report_of_kind(ReportKind::Failure, envelope, diagnostic, original)
}

fn report_of_kind(
    kind: ReportKind,
    envelope: &Envelope,
    diagnostic: &Diagnostic,
    original: Original<'_>,
) -> Report {
    let texts = built_in_report_texts();
    report_in(&texts, "en", None, kind, envelope, diagnostic, original)
}

fn report_in(
    texts: &[ReportText],
    language: &str,
    copy: Option<CopyNote<'_>>,
    kind: ReportKind,
    envelope: &Envelope,
    diagnostic: &Diagnostic,
    original: Original<'_>,
) -> Report {
    let event = match kind {
        ReportKind::Failure => ReportEvent::Failure,
        ReportKind::Delay { .. } => ReportEvent::Delay,
        ReportKind::Delivered => ReportEvent::Delivered,
        ReportKind::Relayed => ReportEvent::Relayed,
    };
    let postmaster = mailbox("postmaster@mx.example.net");
    let reported = |recipient| ReportedRecipient { recipient, diagnostic, expired: false, attempts: 2 };
    let recipients: Vec<_> = envelope.recipients.iter().map(reported).collect();
    let report = make(&ReportRequest {
        reporting_mta: "mx.example.net",
        postmaster: &postmaster,
        to: envelope.sender.mailbox().unwrap_or(&postmaster),
        text: wishes::text_for(texts, event, &[language.parse().unwrap()]).unwrap(),
        copy,
        envelope,
        original_id: MessageId([1; 16]),
        kind,
        recipients: &recipients,
        original,
        report_id: MessageId([2; 16]),
        now: NOW,
    });
    invariant_a_report_is_mail(&report);
    report
}

fn invariant_a_report_is_mail(report: &Report) {
    assert!(encoding::is_clean(&report.content) && report.content.ends_with(b"\r\n"));
    assert_eq!(report.eight_bit, !report.content.is_ascii());
    let header_end = report.content.windows(4).position(|octets| octets == b"\r\n\r\n").unwrap();
    assert_eq!(report.smtputf8, !report.content[..header_end].is_ascii());
    let text = String::from_utf8_lossy(&report.content);
    let boundary = text.split("boundary=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    assert_eq!(text.matches(&format!("--{boundary}")).count(), 4, "three parts and an end");
}

#[test]
fn a_failure_is_reported_with_all_that_is_known() {
    let mut envelope = envelope(vec![recipient("joe@far.example"), recipient("\"j m\"@far.example")]);
    envelope.envelope_id = Some("QQ+2B314".into());
    envelope.recipients[0].original_recipient = Some("rfc822;joe+2Bold@old.example".into());
    let report = report(&envelope, &refused("No such user"), WHOLE);
    assert!(!report.eight_bit && !report.smtputf8);
    let reading = Reading::of(&report);
    reading.expect(&[
        ("From", "Mail Delivery System <postmaster@mx.example.net>"),
        ("To", "ann@client.example"),
        ("Subject", "Your message could not be delivered"),
        ("Date", "Sat, 21 Nov 2026 22:45:10 +0000"),
        ("Message-ID", "<02020202020202020202020202020202@mx.example.net>"),
        ("Auto-Submitted", "auto-replied"),
        ("MIME-Version", "1.0"),
        ("type", "multipart/report"),
        ("report-type", "delivery-status"),
        ("status-type", "message/delivery-status"),
        ("0 Original-Envelope-Id", "QQ+314"),
        ("0 Reporting-MTA", "dns; mx.example.net"),
        ("0 X-Sternpost-Queue-Id", "01010101010101010101010101010101"),
        ("0 Arrival-Date", "Sat, 21 Nov 2026 21:45:10 +0000"),
        ("1 Original-Recipient", "rfc822;joe+old@old.example"),
        ("1 Final-Recipient", "rfc822; joe@far.example"),
        ("1 Action", "failed"),
        ("1 Status", "5.1.1"),
        ("1 Remote-MTA", "dns; mx.far.example"),
        ("1 Diagnostic-Code", "smtp; 550 5.1.1 No such user"),
        ("2 Final-Recipient", "rfc822; \"j m\"@far.example"),
        ("original-type", "text/rfc822-headers"),
    ]);
    assert!(reading.get("1 Will-Retry-Until").is_none() && reading.get("2 Original-Recipient").is_none());
    let text = reading.get("text").unwrap();
    for sentence in [
        "could not be delivered",
        "<joe@far.example> mx.far.example [192.0.2.25] said: 550 5.1.1 No such user",
        "Attempts: 2",
        "check the address for typing errors",
        "The header of your message is attached",
        "write to postmaster@mx.example.net and mention the queue id 01010101010101010101010101010101.",
    ] {
        assert!(text.contains(sentence), "{sentence:?} in {text}");
    }
    let original = reading.get("original").unwrap();
    assert!(original.contains("Subject: lunch") && !original.contains("noon"), "{original}");
}

#[test]
fn a_delay_says_until_when_the_switch_tries() {
    let envelope = Envelope { ret: Some(Ret::Full), ..envelope(vec![recipient("joe@far.example")]) };
    let diagnostic = Diagnostic::own(EnhancedStatus::new(4, 4, 1), "No answer from the peer");
    let kind = ReportKind::Delay { will_retry_until: LATER };
    let reading = Reading::of(&report_of_kind(kind, &envelope, &diagnostic, WHOLE));
    reading.expect(&[
        ("Subject", "Your message has not been delivered yet"),
        ("1 Action", "delayed"),
        ("1 Status", "4.4.1"),
        ("1 Will-Retry-Until", "Sun, 22 Nov 2026 22:45:10 +0000"),
        ("1 Diagnostic-Code", "x-sternpost; No answer from the peer"),
        // RET=FULL is for failures.
        ("original-type", "text/rfc822-headers"),
    ]);
    assert!(reading.get("1 Remote-MTA").is_none());
    let text = reading.get("text").unwrap();
    assert!(text.contains("you need not send it again") && !text.contains("What to do"), "{text}");
    assert!(text.contains("until Sun, 22 Nov 2026 22:45:10 +0000, and tells you"), "{text}");
}

#[test]
fn a_success_is_reported_with_its_action_and_without_the_body() {
    let envelope = Envelope { ret: Some(Ret::Full), ..envelope(vec![recipient("joe@far.example")]) };
    let kept = Diagnostic {
        status: EnhancedStatus::new(2, 1, 5),
        reply_code: Some(250),
        text: "kept".into(),
        remote: "store.far.example [192.0.2.24]".into(),
    };
    let rows = [
        (ReportKind::Delivered, "Your message was delivered", "delivered"),
        (ReportKind::Relayed, "Your message was handed on", "relayed"),
    ];
    for (kind, subject, action) in rows {
        let reading = Reading::of(&report_of_kind(kind, &envelope, &kept, WHOLE));
        reading.expect(&[
            ("Subject", subject),
            ("1 Action", action),
            ("1 Status", "2.1.5"),
            ("1 Remote-MTA", "dns; store.far.example"),
            ("1 Diagnostic-Code", "smtp; 250 2.1.5 kept"),
            // RFC 3461, 4.3: RET=FULL is for failures.
            ("original-type", "text/rfc822-headers"),
        ]);
        assert!(reading.get("1 Will-Retry-Until").is_none());
        let text = reading.get("text").unwrap();
        assert!(text.contains("said: 250 2.1.5 kept") && !text.contains("What to do"), "{text}");
    }
}

#[test]
fn a_report_in_german_says_so_and_keeps_its_part_for_programs() {
    let envelope = envelope(vec![recipient("joe@far.example")]);
    let texts = built_in_report_texts();
    let report =
        report_in(&texts, "de-AT", None, ReportKind::Failure, &envelope, &refused("No such user"), WHOLE);
    let reading = Reading::of(&report);
    reading.expect(&[
        ("Subject", "Ihre Nachricht konnte nicht zugestellt werden"),
        ("1 Action", "failed"),
        ("1 Diagnostic-Code", "smtp; 550 5.1.1 No such user"),
    ]);
    let text = reading.get("text").unwrap();
    for words in ["konnte den folgenden Empfängern nicht", "Versuche: 2", "Was Sie tun können: Prüfen Sie"]
    {
        assert!(text.contains(words), "{words:?} in {text}");
    }
    assert!(String::from_utf8(report.content).unwrap().contains("Content-Language: de\r\n"));
}

#[test]
fn the_words_of_a_site_stand_in_the_place_of_those_in_the_box() {
    let mut texts = built_in_report_texts();
    let own = ReportText {
        subject: Template::subject("Échec {queue_id}").unwrap(),
        body: Template::body("{hostname} regrette.\n{retry_until} jamais\n\n{recipients}\n{{fin}}").unwrap(),
        recipient: Template::recipient(" - {address} : {reason}{reply}\n - {address}, {reply}").unwrap(),
        ..texts[0].clone()
    };
    texts.insert(0, own);
    let envelope = envelope(vec![recipient("joe@far.example"), recipient("ann@far.example")]);
    let report = report_in(&texts, "en", None, ReportKind::Failure, &envelope, &refused("no"), WHOLE);
    let reading = Reading::of(&report);
    reading.expect(&[
        ("Subject", &format!("Échec {}", MessageId([1; 16]))),
        (
            "text",
            "mx.example.net regrette. - joe@far.example, 550 5.1.1 no - ann@far.example, 550 5.1.1 no {fin}",
        ),
    ]);
    assert!(report.content.starts_with(b"Date: ") && !report.smtputf8);
}

#[test]
fn a_copy_says_whom_it_is_a_copy_for_and_has_no_body() {
    let envelope = Envelope { ret: Some(Ret::Full), ..envelope(vec![recipient("joe@far.example")]) };
    let texts = built_in_report_texts();
    let rows = [
        (CopyNote::SaidTo("<ann@client.example>"), "The report below went to <ann@client.example>."),
        (CopyNote::NullSender, "the sender of what failed is null"),
        (CopyNote::NoRoute("<ann@client.example>"), "there is no route to <ann@client.example>"),
    ];
    for (note, words) in rows {
        let (failure, diagnostic) = (ReportKind::Failure, refused("no"));
        let report = report_in(&texts, "en", Some(note), failure, &envelope, &diagnostic, WHOLE);
        let reading = Reading::of(&report);
        reading.expect(&[("original-type", "text/rfc822-headers")]);
        let text = reading.get("text").unwrap();
        assert!(text.starts_with("A copy for the postmaster.") && text.contains(words), "{text}");
    }
}

#[test]
fn the_status_agrees_with_the_action() {
    let recipient = recipient("joe@far.example");
    let delay = ReportKind::Delay { will_retry_until: LATER };
    let rows = [
        (ReportKind::Failure, false, (5, 1, 1), "5.1.1"),
        (ReportKind::Failure, false, (4, 2, 2), "4.2.2"),
        (ReportKind::Failure, false, (2, 0, 0), "5.0.0"),
        (ReportKind::Failure, true, (4, 2, 2), "4.4.7"),
        (delay, false, (4, 2, 2), "4.2.2"),
        (delay, false, (5, 1, 1), "4.0.0"),
        (ReportKind::Delivered, false, (2, 1, 5), "2.1.5"),
        (ReportKind::Relayed, false, (5, 1, 1), "2.0.0"),
    ];
    for (kind, expired, (class, subject, detail), shown) in rows {
        let diagnostic = Diagnostic::own(EnhancedStatus::new(class, subject, detail), "x");
        let (recipient, diagnostic) = (&recipient, &diagnostic);
        let reported = ReportedRecipient { recipient, diagnostic, expired, attempts: 1 };
        assert_eq!(status::shown_status(kind, &reported).to_string(), shown, "{kind:?} {diagnostic:?}");
    }
}

#[test]
fn ret_full_brings_a_small_whole_message_back() {
    let envelope = Envelope { ret: Some(Ret::Full), ..envelope(vec![recipient("joe@far.example")]) };
    let large = [ORIGINAL, "long line\r\n".repeat(7000).as_bytes()].concat();
    let rows = [
        (Original::Whole(ORIGINAL), "message/rfc822"),
        (Original::Beginning(ORIGINAL), "text/rfc822-headers"),
        (Original::Whole(&large), "text/rfc822-headers"),
        (Original::Whole(b"Subject: lunch\r\n\r\nbare\nline feed\r\n"), "text/rfc822-headers"),
    ];
    for (original, media_type) in rows {
        let diagnostic = refused("No such user");
        let report = report(&envelope, &diagnostic, original);
        Reading::of(&report).expect(&[("original-type", media_type)]);
    }
    let diagnostic = refused("No such user");
    let original = Original::Whole("Subject: lunch\r\n\r\nCafé?\r\n".as_bytes());
    let report = report(&envelope, &diagnostic, original);
    assert!(report.eight_bit && !report.smtputf8);
    let reading = Reading::of(&report);
    reading.expect(&[("original-type", "message/rfc822"), ("Content-Transfer-Encoding", "8bit")]);
    assert!(reading.get("text").unwrap().contains("Your message is attached"));
}

#[test]
fn a_header_section_that_is_not_7bit_is_quoted() {
    let envelope = envelope(vec![recipient("joe@far.example")]);
    for header in ["Subject: Mittagessen um zwölf\r\n".as_bytes(), b"Subject: \xe9\0\rx\r\n", &[b'A'; 3000]]
    {
        let original = Original::Beginning(header);
        let report = report(&envelope, &refused("no"), original);
        assert!(!report.eight_bit);
        let reading = Reading::of(&report);
        let python = |octets: &[u8]| octets.escape_ascii().to_string();
        let shown = reading.get("original").unwrap().to_owned();
        assert_eq!(shown, format!("b'{}'", python(header)), "quoted-printable is undone");
    }
}

#[test]
fn addresses_with_utf_8_are_reported_as_rfc_6533_has_them() {
    let mut envelope = envelope(vec![recipient("пример@far.example"), recipient("joe@far.example")]);
    envelope.smtputf8 = true;
    envelope.sender = ReversePath::Mailbox(mailbox("ánn@client.example"));
    envelope.recipients[0].original_recipient = Some("utf-8;\\x{43F}@old.example".into());
    let original = Original::Whole("Subject: обед\r\n\r\nbody\r\n".as_bytes());
    let report = report(&envelope, &refused("нет"), original);
    assert!(report.eight_bit && report.smtputf8);
    let reading = Reading::of(&report);
    reading.expect(&[
        ("status-type", "message/global-delivery-status"),
        ("0 Reporting-MTA", "dns; mx.example.net"),
        ("1 Original-Recipient", "utf-8;п@old.example"),
        ("1 Final-Recipient", "utf-8; пример@far.example"),
        ("1 Diagnostic-Code", "smtp; 550 5.1.1 нет"),
        ("2 Final-Recipient", "rfc822; joe@far.example"),
        ("original-type", "message/global-headers"),
    ]);
    assert!(reading.get("text").unwrap().contains("<пример@far.example>"));
}

#[test]
fn words_of_a_peer_with_utf_8_stay_in_the_text_for_people() {
    let envelope = envelope(vec![recipient("joe@far.example")]);
    let report = report(&envelope, &refused("Boîte pleine"), WHOLE);
    assert!(!report.eight_bit && !report.smtputf8);
    let reading = Reading::of(&report);
    reading.expect(&[("1 Diagnostic-Code", "smtp; 550 5.1.1 Bo?te pleine")]);
    assert!(reading.get("text").unwrap().contains("550 5.1.1 Boîte pleine"));
}

#[test]
fn nothing_from_outside_writes_a_line_of_its_own() {
    let mut envelope = envelope(vec![recipient("joe@far.example")]);
    envelope.envelope_id = Some("a+0D+0AX-Evil: b\r\nX-Evil: c".into());
    envelope.recipients[0].original_recipient = Some("rfc822;a\r\nX-Evil: d".into());
    let diagnostic = Diagnostic {
        text: format!("a\r\nX-Evil: e\r\n\r\n--=_0_{}--\r\n{}", MessageId([2; 16]), "x".repeat(400)),
        remote: "mx\r\nX-Evil: f".into(),
        ..refused("")
    };
    let report = report(&envelope, &diagnostic, WHOLE);
    let text = String::from_utf8(report.content.clone()).unwrap();
    assert!(!text.split("\r\n").any(|line| line.starts_with("X-Evil")), "{text}");
    let reading = Reading::of(&report);
    assert!(!reading.0.contains("\n1 X-Evil") && !reading.0.contains("\n0 X-Evil"));
}

/// Octets without pattern from a linear congruential generator (Knuth's MMIX), so that a failure repeats itself.
fn noise(seed: u64, octets: usize) -> Vec<u8> {
    let next = |state: &u64| {
        Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407))
    };
    std::iter::successors(Some(seed), next).skip(1).take(octets).map(|state| state.to_be_bytes()[0]).collect()
}

#[test]
fn a_report_is_mail_whatever_it_is_made_from() {
    for seed in 0..200 {
        let octets = noise(seed, 3000);
        let text = String::from_utf8_lossy(&octets).into_owned();
        // Every second one has text in which characters that matter are more frequent.
        let text = if seed % 2 == 0 { text } else { text.replace(char::REPLACEMENT_CHARACTER, "\r\n--=_ ") };
        let mut recipient =
            recipient(if seed % 3 == 0 { "é+\u{85}@far.example" } else { "joe@far.example" });
        recipient.original_recipient =
            Some(format!("{};{text}", if seed % 5 == 0 { "utf-8" } else { "rfc822" }));
        let mut envelope = envelope(vec![recipient]);
        envelope.envelope_id = Some(text.clone());
        envelope.smtputf8 = seed % 4 == 0;
        envelope.ret = (seed % 7 < 4).then_some(Ret::Full);
        let diagnostic = Diagnostic { text: text.clone(), remote: text.clone(), ..refused("") };
        let original = if seed % 2 == 0 { octets } else { text.into_bytes() };
        let report = report(&envelope, &diagnostic, Original::Whole(&original));
        assert!(
            report.content.len() < 4 * original.len() + 8000,
            "the parts that a client fills are bounded"
        );
    }
}

#[test]
fn the_boundary_avoids_an_original_that_quotes_it() {
    let envelope = Envelope { ret: Some(Ret::Full), ..envelope(vec![recipient("joe@far.example")]) };
    let id = MessageId([2; 16]);
    let content = format!("Subject: lunch\r\n\r\n--=_0_{id}\r\n\r\n--=_1_{id}--\r\n");
    let original = Original::Whole(content.as_bytes());
    let report = report(&envelope, &refused("no"), original);
    assert!(String::from_utf8_lossy(&report.content).contains(&format!("boundary=\"=_2_{id}\"")));
    Reading::of(&report).expect(&[("original-type", "message/rfc822")]);
}

#[test]
fn the_null_sender_is_owed_nothing_and_others_what_they_asked_for() {
    let delay = ReportKind::Delay { will_retry_until: LATER };
    let notify = |success, failure, delay| Some(Notify { success, failure, delay });
    let rows = [
        (None, true, true),
        (Some(Notify::NEVER), false, false),
        (notify(true, false, false), false, false),
        (notify(false, true, false), true, false),
        (notify(false, false, true), false, true),
        (notify(true, true, true), true, true),
    ];
    for (notify, failure_owed, delay_owed) in rows {
        let recipient = Recipient { notify, ..recipient("joe@far.example") };
        let mut envelope = envelope(vec![recipient.clone()]);
        let success_owed = notify.is_some_and(|notify| notify.success);
        let rows = [
            (ReportKind::Failure, failure_owed),
            (delay, delay_owed),
            (ReportKind::Delivered, success_owed),
            (ReportKind::Relayed, success_owed),
        ];
        for (kind, owed) in rows {
            assert_eq!(is_owed(&envelope, &recipient, kind) == Owed::Yes, owed, "{notify:?} {kind:?}");
        }
        envelope.sender = ReversePath::Null;
        for kind in [ReportKind::Failure, delay] {
            assert_eq!(is_owed(&envelope, &recipient, kind), Owed::No("the sender is null"));
        }
    }
}
