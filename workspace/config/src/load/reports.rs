//! What is said to senders, and to whom not: the entries of the classes `sternpostReports` and `sternpostReportText`.

use crate::model::{Reports, ReportsTo};
use crate::reader::Reader;
use crate::report_text::{
    LanguageTag, Placeholder, ReportEvent, ReportText, Template, TemplateError, built_in_report_texts,
};
use std::collections::BTreeSet;
use std::str::FromStr;
use sternpost_message::Mailbox;

const LANGUAGE: &str = "Give a language tag of RFC 5646, such as en, de or pt-BR.";

pub(super) fn reports(reader: &mut Reader<'_>) -> Option<Reports> {
    let copies: Option<CopiesText> =
        reader.one_if_any("report_copies", "Give a mailbox, such as postmaster@example.org.");
    Some(Reports {
        language: reader.one("report_language", LANGUAGE)?,
        language_from_mail: reader.one("report_language_from_mail", "Say TRUE or FALSE.").unwrap_or_default(),
        copies: copies.map(|CopiesText(mailbox)| mailbox),
        per_domain_hour_max: reader.number32("reports_per_domain_hour_max"),
        unauthenticated: reader.one("reports_unauthenticated", "Say TRUE or FALSE.").unwrap_or_default(),
        texts: Vec::new(),
    })
}

/// Which texts there are already: each language has one for each kind of report.
pub(super) type Seen = BTreeSet<(LanguageTag, ReportEvent)>;

/// One text. None too when another one counts for the same reports, which is said.
pub(super) fn text(reader: &mut Reader<'_>, seen: &mut Seen) -> Option<ReportText> {
    reader.name();
    let event: Option<ReportEvent> =
        reader.one("report_text_kind", "Say failure, delay, delivered or relayed.");
    let language: Option<LanguageTag> = reader.one("report_text_language", LANGUAGE);
    let subject = template(reader, "report_text_subject", Placeholder::OF_SUBJECT, Template::subject);
    let body = template(reader, "report_text_body", Placeholder::OF_BODY, Template::body);
    let recipient = if reader.says("report_text_recipient") {
        template(reader, "report_text_recipient", Placeholder::OF_RECIPIENT, Template::recipient)
    } else {
        language.as_ref().map(of_recipient)
    };
    let (language, event) = (language?, event?);
    if !seen.insert((language.clone(), event)) {
        reader.wrong_key(
            "report_text_kind",
            format!("there is another text for {} in {language}", event.name()),
            "Remove one of the two.",
        );
        return None;
    }
    Some(ReportText { language, event, subject: subject?, body: body?, recipient: recipient? })
}

/// The text of recipients in the box: of that language, else English.
fn of_recipient(language: &LanguageTag) -> Template {
    let texts = built_in_report_texts();
    let own = texts.iter().find(|text| text.language.primary() == language.primary());
    own.unwrap_or(&texts[0]).recipient.clone()
}

fn template(
    reader: &mut Reader<'_>,
    key: &str,
    known: &[Placeholder],
    parse: fn(&str) -> Result<Template, TemplateError>,
) -> Option<Template> {
    let text: String = reader.one(key, "Give the text.")?;
    match parse(&text) {
        Ok(template) => Some(template),
        Err(error) => {
            let names: Vec<String> =
                known.iter().map(|placeholder| format!("{{{}}}", placeholder.name())).collect();
            let what_to_do = format!("It may have {}; write {{{{ and }}}} for braces.", names.join(", "));
            reader.wrong_key(key, error.to_string(), &what_to_do);
            None
        }
    }
}

struct CopiesText(Mailbox);

impl FromStr for CopiesText {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Mailbox::parse(text).map(Self).map_err(|_| ())
    }
}

impl FromStr for ReportsTo {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "everybody" => Ok(Self::Everybody),
            "client-networks" => Ok(Self::ClientNetworks),
            "nobody" => Ok(Self::Nobody),
            _ => Err(()),
        }
    }
}
