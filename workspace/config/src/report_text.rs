//! The texts of reports: templates with named placeholders, by language and by what they say.
//!
//! A template is lines. `{name}` stands for a value that the report fills in, `{{` and `}}` for braces. A line in which a
//! placeholder has nothing to say is left out; so one template serves recipients of whom more is known and less.
//! Not here: the values (the housekeeper's), who reads which language ([`LanguageTag::answers`] compares).

mod built_in;

use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// The longest template, in octets: the part for people stays small beside the others.
pub const TEMPLATE_OCTETS_MAX: usize = 8 * 1024;
/// The longest subject, in octets.
pub const SUBJECT_OCTETS_MAX: usize = 200;
/// RFC 5646, section 4.4.1: nobody needs longer ones.
const LANGUAGE_OCTETS_MAX: usize = 35;

/// What a report says. RFC 3464, section 2.3.3 without `expanded`, for there are no distribution lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ReportEvent {
    /// Recipients were not reached.
    Failure,
    /// Recipients were not reached yet.
    Delay,
    /// Recipients' message store has the message.
    Delivered,
    /// An MTA has it that tells nobody of a success.
    Relayed,
}

impl ReportEvent {
    /// All of them, in the order in which the directory names them.
    pub const ALL: [Self; 4] = [Self::Failure, Self::Delay, Self::Delivered, Self::Relayed];

    /// Its name in the directory.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Failure => "failure",
            Self::Delay => "delay",
            Self::Delivered => "delivered",
            Self::Relayed => "relayed",
        }
    }
}

impl FromStr for ReportEvent {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|event| event.name() == text).ok_or(())
    }
}

/// A language tag of RFC 5646, in lower case: letters, and further subtags of letters and digits behind hyphens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LanguageTag(String);

impl LanguageTag {
    /// English: what is said where nobody asks for anything else.
    #[must_use]
    pub fn english() -> Self {
        Self("en".to_owned())
    }

    /// The tag.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The language without script, country and variant.
    #[must_use]
    pub fn primary(&self) -> &str {
        self.0.split('-').next().unwrap_or_default()
    }

    /// How well a text in this language serves who asks for `wanted`: the number of subtags that agree, from the first on.
    /// None when the languages differ. RFC 4647, 3.4 shortens the wish until something fits; this gives the same first choice
    /// and takes `de-AT` for `de` besides.
    #[must_use]
    pub fn answers(&self, wanted: &Self) -> Option<usize> {
        let agreeing = self.0.split('-').zip(wanted.0.split('-')).take_while(|(own, wanted)| own == wanted);
        Some(agreeing.count()).filter(|&count| count > 0)
    }
}

impl FromStr for LanguageTag {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut subtags = text.split('-');
        let is_subtag = |subtag: &str| {
            (1..=8).contains(&subtag.len()) && subtag.bytes().all(|octet| octet.is_ascii_alphanumeric())
        };
        let primary = subtags.next().unwrap_or_default();
        let is_good = text.len() <= LANGUAGE_OCTETS_MAX
            && is_subtag(primary)
            && primary.bytes().all(|octet| octet.is_ascii_alphabetic())
            && subtags.all(is_subtag);
        if is_good { Ok(Self(text.to_ascii_lowercase())) } else { Err(()) }
    }
}

impl fmt::Display for LanguageTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the report fills in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Placeholder {
    /// The switch.
    Hostname,
    /// When the message came.
    AcceptedAt,
    /// Until when the switch tries. Of a delay.
    RetryUntil,
    /// The recipients, each by its own template. Alone on its line.
    Recipients,
    /// A sentence: what of the message is attached.
    Attached,
    /// Whom to ask.
    Postmaster,
    /// By what the postmaster finds the message.
    QueueId,
    /// The recipient's address.
    Address,
    /// Who answered for the recipient.
    Remote,
    /// What that one said.
    Reply,
    /// What the switch found by itself.
    Reason,
    /// How often a transfer was attempted.
    Attempts,
    /// A sentence: the time is over, if it is.
    Expired,
    /// A sentence: what the sender can do about a failure.
    Advice,
}

impl Placeholder {
    /// What may stand in a subject.
    pub const OF_SUBJECT: &'static [Self] = &[Self::Hostname, Self::QueueId];
    /// What may stand in the text of a report.
    pub const OF_BODY: &'static [Self] = &[
        Self::Hostname,
        Self::AcceptedAt,
        Self::RetryUntil,
        Self::Recipients,
        Self::Attached,
        Self::Postmaster,
        Self::QueueId,
    ];
    /// What may stand in the text of one recipient.
    pub const OF_RECIPIENT: &'static [Self] = &[
        Self::Address,
        Self::Remote,
        Self::Reply,
        Self::Reason,
        Self::Attempts,
        Self::Expired,
        Self::Advice,
    ];

    /// Its name between the braces.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hostname => "hostname",
            Self::AcceptedAt => "accepted_at",
            Self::RetryUntil => "retry_until",
            Self::Recipients => "recipients",
            Self::Attached => "attached",
            Self::Postmaster => "postmaster",
            Self::QueueId => "queue_id",
            Self::Address => "address",
            Self::Remote => "remote",
            Self::Reply => "reply",
            Self::Reason => "reason",
            Self::Attempts => "attempts",
            Self::Expired => "expired",
            Self::Advice => "advice",
        }
    }
}

/// Why a text is no template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// Something in braces that nobody fills in.
    #[error("line {line}: {{{name}}} is no placeholder of it")]
    Unknown {
        /// From 1.
        line: usize,
        /// What stands between the braces.
        name: String,
    },
    /// A brace that opens or closes nothing.
    #[error("line {line}: a brace stands alone")]
    LoneBrace {
        /// From 1.
        line: usize,
    },
    /// A control character.
    #[error("line {line}: it has a control character")]
    Control {
        /// From 1.
        line: usize,
    },
    /// Too many octets.
    #[error("it has {octets} octets; {octets_max} are the most")]
    TooLong {
        /// How many it has.
        octets: usize,
        /// How many it may have.
        octets_max: usize,
    },
    /// Nothing.
    #[error("it is empty")]
    Empty,
    /// A subject of several lines.
    #[error("it has more than one line")]
    SeveralLines,
    /// Without them nobody learns whom the report is about.
    #[error("it does not have {{recipients}} once, on a line of its own")]
    NoRecipients,
}

/// A part of a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Piece {
    Text(String),
    Place(Placeholder),
}

/// One line: what stands before it, and its pieces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Line {
    indent: u8,
    pieces: Vec<Piece>,
}

/// A line that is filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilledLine {
    /// Text, with so many blanks in front.
    Text {
        /// 0 to 40.
        indent: usize,
        /// Without line ends. May be empty.
        text: String,
    },
    /// The place of the recipients.
    Recipients,
}

/// A text with placeholders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template(Vec<Line>);

impl Template {
    /// The subject of a report: one line.
    ///
    /// # Errors
    /// `TemplateError`.
    pub fn subject(text: &str) -> Result<Self, TemplateError> {
        let template = Self::parse(text, Placeholder::OF_SUBJECT, SUBJECT_OCTETS_MAX)?;
        if template.0.len() == 1 { Ok(template) } else { Err(TemplateError::SeveralLines) }
    }

    /// The text for people, with the place of the recipients.
    ///
    /// # Errors
    /// `TemplateError`.
    pub fn body(text: &str) -> Result<Self, TemplateError> {
        let template = Self::parse(text, Placeholder::OF_BODY, TEMPLATE_OCTETS_MAX)?;
        let place = Piece::Place(Placeholder::Recipients);
        let of_line = |line: &Line| line.pieces.iter().filter(|piece| **piece == place).count();
        let is_alone = |line: &Line| line.pieces.len() == 1 && line.pieces[0] == place;
        let is_good = template.0.iter().map(of_line).sum::<usize>() == 1 && template.0.iter().any(is_alone);
        if is_good { Ok(template) } else { Err(TemplateError::NoRecipients) }
    }

    /// What is said of one recipient.
    ///
    /// # Errors
    /// `TemplateError`.
    pub fn recipient(text: &str) -> Result<Self, TemplateError> {
        Self::parse(text, Placeholder::OF_RECIPIENT, TEMPLATE_OCTETS_MAX)
    }

    fn parse(text: &str, known: &[Placeholder], octets_max: usize) -> Result<Self, TemplateError> {
        if text.len() > octets_max {
            return Err(TemplateError::TooLong { octets: text.len(), octets_max });
        }
        let text = text.trim_end();
        if text.is_empty() {
            return Err(TemplateError::Empty);
        }
        let lines = (1..).zip(text.lines()).map(|(number, line)| Line::parse(number, line.trim_end(), known));
        lines.collect::<Result<_, _>>().map(Self)
    }

    /// The lines with what `value` gives for each placeholder. A line with a placeholder for which it gives nothing is not
    /// among them.
    pub fn fill<'a>(
        &'a self,
        value: impl Fn(Placeholder) -> Option<Cow<'a, str>> + 'a,
    ) -> impl Iterator<Item = FilledLine> + 'a {
        self.0.iter().filter_map(move |line| {
            if line.pieces == [Piece::Place(Placeholder::Recipients)] {
                return Some(FilledLine::Recipients);
            }
            let mut text = String::new();
            for piece in &line.pieces {
                match piece {
                    Piece::Text(words) => text.push_str(words),
                    Piece::Place(placeholder) => text.push_str(&value(*placeholder)?),
                }
            }
            Some(FilledLine::Text { indent: usize::from(line.indent), text })
        })
    }
}

impl Line {
    fn parse(number: usize, line: &str, known: &[Placeholder]) -> Result<Self, TemplateError> {
        const INDENT_MAX: usize = 40;
        let lone = || TemplateError::LoneBrace { line: number };
        let words = line.trim_start_matches(' ');
        let indent = u8::try_from((line.len() - words.len()).min(INDENT_MAX)).unwrap_or_default();
        if words.chars().any(char::is_control) {
            return Err(TemplateError::Control { line: number });
        }
        let (mut pieces, mut text, mut rest) = (Vec::new(), String::new(), words);
        while let Some(at) = rest.find(['{', '}']) {
            let (before, brace) = rest.split_at(at);
            text.push_str(before);
            if brace.starts_with("{{") || brace.starts_with("}}") {
                text.push_str(&brace[..1]);
                rest = &brace[2..];
                continue;
            }
            let (name, behind) =
                brace.strip_prefix('{').and_then(|open| open.split_once('}')).ok_or_else(lone)?;
            if name.contains('{') {
                return Err(lone());
            }
            let placeholder = known.iter().find(|placeholder| placeholder.name() == name);
            let unknown = || TemplateError::Unknown { line: number, name: name.to_owned() };
            if !text.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut text)));
            }
            pieces.push(Piece::Place(*placeholder.ok_or_else(unknown)?));
            rest = behind;
        }
        text.push_str(rest);
        if !text.is_empty() {
            pieces.push(Piece::Text(text));
        }
        Ok(Self { indent, pieces })
    }
}

/// The words of one kind of report in one language.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportText {
    /// The language.
    pub language: LanguageTag,
    /// Of which reports.
    pub event: ReportEvent,
    /// The subject.
    pub subject: Template,
    /// The text.
    pub body: Template,
    /// The text of each recipient.
    pub recipient: Template,
}

/// The texts that are there without a word of configuration: English and German.
#[must_use]
pub fn built_in_report_texts() -> Vec<ReportText> {
    built_in::all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(template: &Template) -> Vec<FilledLine> {
        let value = |placeholder| match placeholder {
            Placeholder::Address => Some(Cow::Borrowed("joe@example.org")),
            Placeholder::Hostname => Some(Cow::Borrowed("mx.example.org")),
            _ => None,
        };
        template.fill(value).collect()
    }

    #[test]
    fn a_line_of_which_a_placeholder_says_nothing_is_left_out() {
        let template = Template::recipient("  <{address}>\n      {remote} said: {reply}\n\nx {{y}}").unwrap();
        let text = |indent, text: &str| FilledLine::Text { indent, text: text.to_owned() };
        assert_eq!(filled(&template), [text(2, "<joe@example.org>"), text(0, ""), text(0, "x {y}")]);
        let body = Template::body("From {hostname}:\n  {recipients}\nend").unwrap();
        assert_eq!(filled(&body), [text(0, "From mx.example.org:"), FilledLine::Recipients, text(0, "end")]);
    }

    #[test]
    fn what_is_no_template_is_said_with_its_line() {
        let unknown = |line, name: &str| TemplateError::Unknown { line, name: name.to_owned() };
        let rows = [
            ("{recipients}\n{sender}", unknown(2, "sender")),
            ("{address}\n{recipients}", unknown(1, "address")),
            ("{recipients}\n{}", unknown(2, "")),
            ("{recipients}\na { b", TemplateError::LoneBrace { line: 2 }),
            ("{recipients}\na } b", TemplateError::LoneBrace { line: 2 }),
            ("{recipients}\n{a {hostname}", TemplateError::LoneBrace { line: 2 }),
            ("{recipients}\na\u{7}", TemplateError::Control { line: 2 }),
            ("hello", TemplateError::NoRecipients),
            ("to {recipients}", TemplateError::NoRecipients),
            ("{recipients}\n{recipients}", TemplateError::NoRecipients),
            (" \n", TemplateError::Empty),
        ];
        for (text, error) in rows {
            assert_eq!(Template::body(text), Err(error), "{text:?}");
        }
        assert_eq!(Template::subject("a\nb"), Err(TemplateError::SeveralLines));
        assert_eq!(Template::subject("{address}"), Err(unknown(1, "address")));
        let octets = SUBJECT_OCTETS_MAX + 1;
        let error = TemplateError::TooLong { octets, octets_max: SUBJECT_OCTETS_MAX };
        assert_eq!(Template::subject(&"x".repeat(octets)), Err(error));
        assert_eq!(
            Template::recipient("{sender}").unwrap_err().to_string(),
            "line 1: {sender} is no placeholder of it"
        );
    }

    #[test]
    fn a_language_answers_who_asks_for_it_or_for_one_that_is_like_it() {
        let tag = |text: &str| text.parse::<LanguageTag>().unwrap();
        let rows = [("de", "de", Some(1)), ("de", "de-AT", Some(1)), ("de-at", "de-AT", Some(2))];
        for (own, wanted, answers) in rows {
            assert_eq!(tag(own).answers(&tag(wanted)), answers, "{own} for {wanted}");
        }
        assert_eq!(tag("de-AT").answers(&tag("de")), Some(1));
        assert_eq!(tag("de").answers(&tag("den")), None);
        for bad in ["", "*", "d1", "de_AT", "de-", "abcdefghi", "de-123456789"] {
            assert_eq!(bad.parse::<LanguageTag>(), Err(()), "{bad:?}");
        }
    }

    #[test]
    fn every_report_has_a_text_in_english_and_in_german() {
        let texts = built_in_report_texts();
        for language in ["en", "de"] {
            for event in ReportEvent::ALL {
                let is_it = |text: &&ReportText| text.language.as_str() == language && text.event == event;
                assert_eq!(texts.iter().filter(is_it).count(), 1, "{language} {event:?}");
            }
        }
    }
}
