//! What is composed for whom: reports, copies, and reasons for silence.

use super::*;
use sternpost_config::{Configuration, entries_from_tables, load};
use sternpost_message::{MlistId, Notify, ROUTE_FINAL_REPORT, sample};

const IDS: Ids = Ids { report: MessageId([7; 16]), copy: MessageId([8; 16]) };
const NOW: UnixMillis = UnixMillis(1_795_301_110_000);

const SITE: &str = r#"
[node]
name = "north"
hostname = "mx.example.org"

[[listener]]
name = "inbound"
addresses = ["127.0.0.1:25"]
client_networks = ["192.0.2.0/24"]

[[channel]]
name = "smtp"
kind = "smtp"

[[peer]]
name = "a"
channel = "smtp"
address = "192.0.2.1:25"

[[route]]
domain = "example.org"
peer = "a"
"#;

/// The view of a site with further lines of the listener's table, and tables behind.
fn view(listener: &str, tables: &str) -> HousekeeperView {
    let site = SITE.replace("\n[[channel]]", &format!("{listener}\n\n[[channel]]"));
    let loaded = load(&entries_from_tables(&format!("{site}\n{tables}")).unwrap(), "");
    assert_eq!(loaded.problems, []);
    let configuration: Configuration = loaded.configuration.unwrap();
    HousekeeperView::new(&configuration).unwrap()
}

fn refused() -> Diagnostic {
    Diagnostic {
        reply_code: Some(550),
        remote: "mx.far.example".into(),
        ..Diagnostic::own(EnhancedStatus::new(5, 1, 1), "no")
    }
}

/// A message of this sender to recipients in these states.
fn detail(sender: &str, states: &[RecipientState]) -> MessageDetail {
    let mut envelope = sample::envelope(&[], ("smtp", "a"));
    envelope.recipients =
        (0..states.len()).map(|n| sample::recipient(&format!("r{n}@far.example"))).collect();
    envelope.sender = match sender {
        "" => ReversePath::Null,
        address => ReversePath::Mailbox(Mailbox::parse(address).unwrap()),
    };
    let record = |state: &RecipientState| RecipientRecord {
        state: *state,
        attempts: 1,
        last: Some(refused()),
        delay_reported: false,
    };
    MessageDetail {
        id: MessageId([1; 16]),
        sequence: MessageSequence(5),
        envelope,
        content_octets: 20,
        content_sha256: [0; 32],
        recipients: states.iter().map(record).collect(),
    }
}

fn assignment(detail: &MessageDetail) -> Assignment {
    Assignment {
        mlist: MlistId { message: detail.sequence, route: ROUTE_FINAL_REPORT },
        peer: "reports".into(),
        attempts: 0,
        recipients: vec![RecipientRange { first: 0, count: u32::try_from(detail.recipients.len()).unwrap() }],
    }
}

fn reporting<'a>(view: &'a HousekeeperView, detail: &'a MessageDetail) -> Reporting<'a> {
    Reporting { view, detail, original: b"Subject: lunch\r\n\r\n..\r\n", is_limited: false, now: NOW }
}

fn composed(view: &HousekeeperView, detail: &MessageDetail) -> Composed {
    composed_by(&reporting(view, detail))
}

fn composed_by(reporting: &Reporting<'_>) -> Composed {
    reporting.compose(&candidates(&assignment(reporting.detail), reporting.detail, false), IDS)
}

fn recipient_of(made: Option<&Made>) -> Option<String> {
    made.map(|made| {
        // RFC 3461, 6.1.
        assert_eq!((&made.envelope.sender, made.envelope.ret), (&ReversePath::Null, None));
        assert!(made.envelope.recipients.iter().all(|recipient| recipient.notify.is_none()));
        made.envelope.recipients[0].address.to_string()
    })
}

fn why(composed: &Composed) -> &str {
    match &composed.outcomes[0].1 {
        Outcome::Reported { report: None, why } => why,
        other => panic!("{other:?}"),
    }
}

const COPIES: &str = "[reports]\nreport_copies = \"pm@example.org\"\n";

#[test]
fn what_is_to_be_said_of_recipients_is_said_in_one_report_for_each_kind() {
    use RecipientState::{Delivered, DeliveredReportOwed, Failed, Pending, RelayedReportOwed, Reported};
    let mut detail = detail(
        "ann@example.org",
        &[RelayedReportOwed, Failed, DeliveredReportOwed, Delivered, Pending, Reported, DeliveredReportOwed],
    );
    for recipient in &mut detail.envelope.recipients {
        recipient.notify = Some(Notify { success: true, failure: true, delay: false });
    }
    let view = view("", "");
    let assignment = assignment(&detail);
    let candidates = candidates(&assignment, &detail, false);
    let parts = parts(&candidates);
    let actions: Vec<(String, Vec<u32>)> = parts
        .into_iter()
        .map(|part| {
            let composed = reporting(&view, &detail).compose(&candidates[part], IDS);
            let report = composed.report.unwrap();
            assert_eq!(recipient_of(Some(&report)).as_deref(), Some("ann@example.org"));
            let content = String::from_utf8(report.content).unwrap();
            let action = content.split("Action: ").nth(1).unwrap().split("\r\n").next().unwrap();
            let is_reported = |outcome: &Outcome| {
                *outcome == Outcome::Reported { report: Some(IDS.report), why: String::new() }
            };
            assert!(composed.outcomes.iter().all(|(_, outcome)| is_reported(outcome)));
            (action.to_owned(), composed.outcomes.iter().map(|(range, _)| range.first).collect())
        })
        .collect();
    let wanted = [("failed", vec![1, 4]), ("delivered", vec![2, 6]), ("relayed", vec![0])];
    assert_eq!(actions, wanted.map(|(action, recipients)| (action.to_owned(), recipients)));
    assert!(super::candidates(&assignment, &detail, true).iter().all(|one| one.said == ReportEvent::Delay));
}

#[test]
fn a_part_has_no_more_recipients_than_a_report() {
    let detail = detail("ann@example.org", &[RecipientState::Failed; 60]);
    let assignment = assignment(&detail);
    let parts = parts(&candidates(&assignment, &detail, false));
    assert_eq!(parts, [0..24, 24..48, 48..60]);
}

#[test]
fn the_postmaster_gets_a_copy_of_failures_and_of_nothing_else() {
    let view = view("", COPIES);
    let failed = composed(&view, &detail("ann@example.org", &[RecipientState::Failed]));
    assert_eq!(recipient_of(failed.report.as_ref()).as_deref(), Some("ann@example.org"));
    assert_eq!(recipient_of(failed.copy.as_ref()).as_deref(), Some("pm@example.org"));
    assert_eq!(records(MessageSequence(5), &failed).len(), 5, "two messages of one chunk, and the outcomes");
    let mut detail = detail("ann@example.org", &[RecipientState::DeliveredReportOwed]);
    detail.envelope.recipients[0].notify = Some(Notify { success: true, failure: true, delay: true });
    let delivered = composed(&view, &detail);
    assert!(delivered.report.is_some() && delivered.copy.is_none());
}

#[test]
fn what_nobody_can_be_told_of_goes_to_the_postmaster_or_is_dropped_and_said() {
    for (sender, reason) in
        [("", "the sender is null"), ("ann@elsewhere.example", "no route for a report to")]
    {
        let detail = detail(sender, &[RecipientState::Failed]);
        let with = composed(&view("", COPIES), &detail);
        assert!(with.report.is_none());
        assert_eq!(recipient_of(with.copy.as_ref()).as_deref(), Some("pm@example.org"));
        let without = composed(&view("", ""), &detail);
        assert!(without.report.is_none() && without.copy.is_none());
        for composed in [with, without] {
            assert!(why(&composed).starts_with(reason), "{composed:?}");
            assert_eq!(composed.dropped.len(), 1);
            assert!(composed.dropped[0].starts_with("r0@far.example: "), "{composed:?}");
        }
    }
}

#[test]
fn a_copy_that_fails_is_not_copied_again() {
    let mut detail = detail("", &[RecipientState::Failed]);
    detail.envelope.recipients[0].address = Mailbox::parse("pm@Example.org").unwrap();
    let composed = composed(&view("", COPIES), &detail);
    assert!(composed.report.is_none() && composed.copy.is_none());
    assert_eq!(why(&composed), "the sender is null");
}

#[test]
fn the_postmaster_hears_nothing_of_the_probes_of_the_switch() {
    let mut detail = detail("", &[RecipientState::Failed]);
    detail.envelope.routes[0].peer = "null:2525".to_owned();
    let composed = composed(&view("", COPIES), &detail);
    assert!(composed.copy.is_none() && composed.dropped.is_empty());
}

#[test]
fn a_sender_who_wants_no_report_gets_none_and_neither_does_the_postmaster() {
    let mut detail = detail("ann@example.org", &[RecipientState::Failed]);
    detail.envelope.recipients[0].notify = Some(Notify::NEVER);
    let composed = composed(&view("", COPIES), &detail);
    assert!(composed.report.is_none() && composed.copy.is_none());
}

#[test]
fn a_listener_says_whose_mail_is_reported_on() {
    let rows = [
        ("", "198.51.100.1", true),
        ("reports_to = \"everybody\"", "198.51.100.1", true),
        ("reports_to = \"client-networks\"", "192.0.2.9", true),
        ("reports_to = \"client-networks\"", "198.51.100.1", false),
        ("reports_to = \"client-networks\"", "", false),
        ("reports_to = \"nobody\"", "192.0.2.9", false),
    ];
    for (line, client, is_told) in rows {
        let mut detail = detail("ann@example.org", &[RecipientState::Failed]);
        detail.envelope.client = client.to_owned();
        let composed = composed(&view(line, COPIES), &detail);
        assert_eq!(composed.report.is_some(), is_told, "{line} {client}");
        assert_eq!(composed.copy.is_some(), is_told, "{line} {client}");
    }
    // What came another way than by a listener is reported on.
    let mut detail = detail("ann@example.org", &[RecipientState::Failed]);
    detail.envelope.source = "import".to_owned();
    assert!(composed(&view("reports_to = \"nobody\"", ""), &detail).report.is_some());
}

#[test]
fn mail_that_has_failed_authentication_is_not_reported_on_where_the_site_says_so() {
    let detail = detail("ann@example.org", &[RecipientState::Failed]);
    let original = b"Authentication-Results: mx.example.org; dmarc=fail\r\nSubject: x\r\n\r\n";
    for (tables, is_told) in [("", true), ("[reports]\nreports_unauthenticated = false\n", false)] {
        let view = view("", tables);
        let composed = composed_by(&Reporting { original, ..reporting(&view, &detail) });
        assert_eq!(composed.report.is_some(), is_told, "{tables}");
    }
}

#[test]
fn beyond_the_limit_neither_report_nor_copy_is_made_and_the_recipient_is_closed() {
    let view = view("", COPIES);
    let detail = detail("ann@example.org", &[RecipientState::Failed]);
    let composed = composed_by(&Reporting { is_limited: true, ..reporting(&view, &detail) });
    assert!(composed.report.is_none() && composed.copy.is_none());
    assert_eq!(why(&composed), "the sender's domain has had its reports of this hour");
}

#[test]
fn a_report_has_the_language_of_the_mail_the_listener_or_the_switch() {
    let subject = |view: &HousekeeperView, original: &[u8]| {
        let detail = detail("ann@example.org", &[RecipientState::Failed]);
        let report = composed_by(&Reporting { original, ..reporting(view, &detail) }).report.unwrap();
        let content = String::from_utf8(report.content).unwrap();
        content.split("Subject: ").nth(1).unwrap().split("\r\n").next().unwrap().to_owned()
    };
    let (english, german) =
        ("Your message could not be delivered", "Ihre Nachricht konnte nicht zugestellt werden");
    let plain: &[u8] = b"Subject: x\r\n\r\n";
    let french = "[[report_text]]\nname = \"fr\"\nreport_text_kind = \"failure\"\nreport_text_language = \"fr\"\n\
                  report_text_subject = \"Échec\"\nreport_text_body = \"\"\"{recipients}\n\"\"\"\n";
    let from_mail = "[reports]\nreport_language_from_mail = true\n";
    let rows: [(&str, String, &[u8], &str); 8] = [
        ("", String::new(), plain, english),
        ("", "[reports]\nreport_language = \"de\"\n".into(), plain, german),
        ("listener_report_language = \"de\"", String::new(), plain, german),
        ("", from_mail.into(), b"Accept-Language: de;q=0.9, xx\r\n\r\n", german),
        ("", from_mail.into(), b"Content-Language: de\r\n\r\n", german),
        ("listener_report_language = \"de\"", from_mail.into(), b"Accept-Language: en\r\n\r\n", english),
        ("", String::new(), b"Accept-Language: de\r\n\r\n", english),
        ("listener_report_language = \"fr\"", french.into(), plain, "=?utf-8?Q?=C3=89chec?="),
    ];
    for (listener, tables, original, wanted) in rows {
        assert_eq!(subject(&view(listener, &tables), original), wanted, "{listener} {tables}");
    }
}
