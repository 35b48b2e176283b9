//! What senders are told, as the tables and the directory say it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

use sternpost_config::{
    Effect, HousekeeperView, Loaded, ReportEvent, ReportsTo, built_in_report_texts, entries_from_tables, load,
};

fn loaded(tables: &str) -> Loaded {
    let node = "[node]\nname = \"north\"\nhostname = \"mx.example.org\"\n";
    load(&entries_from_tables(&format!("{node}{tables}")).unwrap(), "")
}

fn text(lines: &str) -> String {
    format!(
        "[[report_text]]\nname = \"fr\"\nreport_text_kind = \"failure\"\nreport_text_language = \"fr\"\n{lines}\n"
    )
}

const SUBJECT: &str = "report_text_subject = \"Échec\"";
const BODY: &str = "report_text_body = \"{recipients}\"";

#[test]
fn without_a_word_reports_are_english_unlimited_by_nobody_and_copied_to_nobody() {
    let reports = loaded("").configuration.unwrap().reports;
    assert_eq!((reports.language.as_str(), reports.per_domain_hour_max), ("en", 1_000));
    assert!(!reports.language_from_mail && reports.copies.is_none() && reports.unauthenticated);
    assert!(reports.texts.is_empty());
}

#[test]
fn the_texts_of_the_configuration_stand_before_those_in_the_box() {
    let loaded = loaded(&text(&format!("{SUBJECT}\n{BODY}")));
    assert_eq!(loaded.problems, []);
    let view = HousekeeperView::new(&loaded.configuration.unwrap()).unwrap();
    assert_eq!((view.texts[0].language.as_str(), view.texts[0].event), ("fr", ReportEvent::Failure));
    assert_eq!(view.texts[1..], built_in_report_texts());
    let octets = postcard::to_stdvec(&view).unwrap();
    assert_eq!(postcard::from_bytes::<HousekeeperView>(&octets).unwrap(), view);
    // Its language has no text of recipients in the box: that of English stands in its place.
    assert_eq!(view.texts[0].recipient, built_in_report_texts()[0].recipient);
}

#[test]
fn an_unknown_placeholder_is_a_problem_that_names_it_its_line_and_those_that_there_are() {
    let body = "report_text_body = \"\"\"hello\n{recipients}\n{sender_name}\"\"\"";
    let loaded = loaded(&text(&format!("{SUBJECT}\n{body}")));
    assert!(loaded.configuration.unwrap().reports.texts.is_empty());
    let problem = &loaded.problems[0];
    assert_eq!(loaded.problems.len(), 1, "{:?}", loaded.problems);
    assert_eq!(
        (problem.attribute.as_deref(), problem.effect),
        (Some("sternpostReportTextBody"), Effect::Dropped)
    );
    assert_eq!(problem.reason, "line 3: {sender_name} is no placeholder of it");
    assert!(
        problem.what_to_do.starts_with("It may have {hostname}, {accepted_at}, {retry_until}, {recipients}"),
        "{}",
        problem.what_to_do
    );
}

#[test]
fn each_thing_wrong_with_a_text_is_said() {
    let rows = [
        ("report_text_subject = \"a\\nb\"", BODY, "sternpostReportTextSubject", "it has more than one line"),
        (
            SUBJECT,
            "report_text_body = \"x\"",
            "sternpostReportTextBody",
            "it does not have {recipients} once, on a line of its own",
        ),
        (
            SUBJECT,
            "report_text_body = \"{recipients} {\"",
            "sternpostReportTextBody",
            "line 1: a brace stands alone",
        ),
    ];
    for (subject, body, attribute, reason) in rows {
        let loaded = loaded(&text(&format!("{subject}\n{body}")));
        let said: Vec<_> = loaded
            .problems
            .iter()
            .map(|problem| (problem.attribute.as_deref(), problem.reason.as_str()))
            .collect();
        assert_eq!(said, [(Some(attribute), reason)]);
    }
    let good = text(&format!("{SUBJECT}\n{BODY}"));
    let loaded =
        loaded(&format!("{good}{}", good.replace("\"fr\"\nreport_text_kind", "\"fr2\"\nreport_text_kind")));
    assert_eq!(loaded.problems[0].reason, "there is another text for failure in fr");
    assert_eq!(loaded.configuration.unwrap().reports.texts.len(), 1);
}

#[test]
fn a_listener_has_its_language_and_says_whose_mail_is_reported_on() {
    let listener = |line: &str| {
        let tables = format!("[[listener]]\nname = \"in\"\naddresses = [\"127.0.0.1:25\"]\n{line}\n");
        loaded(&tables).configuration.unwrap().listeners.pop()
    };
    let plain = listener("").unwrap();
    assert_eq!((plain.report_language, plain.reports_to), (None, ReportsTo::Everybody));
    let own = listener("listener_report_language = \"de-AT\"\nreports_to = \"client-networks\"").unwrap();
    assert_eq!(own.report_language.unwrap().as_str(), "de-at");
    assert_eq!(own.reports_to, ReportsTo::ClientNetworks);
    assert!(listener("reports_to = \"friends\"").is_none());
}
