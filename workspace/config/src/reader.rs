//! Reads the attributes of one entry by the table, and notes what is wrong with them.

use crate::attribute::NOBODY;
use crate::load::{Effect, Problem};
use crate::trust::{CERTIFICATES_MAX, CertificateError, certificates};
use crate::{Attribute, Class, Closed, Entry, Syntax, Verifier};
use std::collections::HashSet;
use std::str::FromStr;

/// One entry that is being read.
pub(crate) struct Reader<'a> {
    pub(crate) entry: &'a Entry,
    class: Class,
    problems: &'a mut Vec<Problem>,
    wrong: bool,
}

impl<'a> Reader<'a> {
    /// Begins to read an entry; attributes of ours that its class does not have are noted and ignored.
    pub(crate) fn new(entry: &'a Entry, class: Class, problems: &'a mut Vec<Problem>) -> Self {
        for name in entry.attributes.keys().filter(|name| name.starts_with("sternpost")) {
            if Attribute::find(class, name).is_none() {
                problems.push(Problem {
                    uuid: entry.uuid.clone(),
                    dn: entry.dn.clone(),
                    attribute: Some(name.clone()),
                    reason: format!("{} has no such attribute", class.name()),
                    what_to_do: "Remove it, or update the switch if it is newer than the software.".into(),
                    effect: Effect::Ignored,
                });
            }
        }
        Self { entry, class, problems, wrong: false }
    }

    /// Notes that the entry is wrong.
    pub(crate) fn wrong(&mut self, attribute: Option<&str>, reason: String, what_to_do: &str) {
        self.wrong = true;
        self.note(attribute, reason, what_to_do, Effect::Dropped);
    }

    /// Notes a problem; the entry itself stays good (but see `wrong`).
    pub(crate) fn note(&mut self, attribute: Option<&str>, reason: String, what_to_do: &str, effect: Effect) {
        self.problems.push(Problem {
            uuid: self.entry.uuid.clone(),
            dn: self.entry.dn.clone(),
            attribute: attribute.map(str::to_owned),
            reason,
            what_to_do: what_to_do.to_owned(),
            effect,
        });
    }

    /// As `wrong`, for an attribute by its key.
    pub(crate) fn wrong_key(&mut self, key: &str, reason: String, what_to_do: &str) {
        let attribute = self.attribute(key);
        self.wrong(Some(attribute.name), reason, what_to_do);
    }

    /// The same for an attribute by its key.
    pub(crate) fn note_key(&mut self, key: &str, reason: String, what_to_do: &str, effect: Effect) {
        let attribute = self.attribute(key);
        self.note(Some(attribute.name), reason, what_to_do, effect);
    }

    /// `Some(value)` when nothing was wrong with the entry.
    pub(crate) fn finish<T>(self, value: Option<T>) -> Option<T> {
        if self.wrong { None } else { value }
    }

    /// The entry's name: 1 to 64 letters, digits, dots, hyphens and underscores. No colon: a name with one is the
    /// switch's own, see [`sternpost_message::NullHop`].
    pub(crate) fn name(&mut self) -> String {
        let name = self.entry.name();
        if !is_name(name) {
            self.wrong(
                Some("cn"),
                format!("{name:?} is no name"),
                "Give the entry a cn of 1 to 64 letters, digits, dots, hyphens and underscores.",
            );
        }
        name.to_owned()
    }

    /// All values that can be read.
    pub(crate) fn many<T: FromStr>(&mut self, key: &str, wanted: &str) -> Vec<T> {
        let attribute = self.attribute(key);
        let entry = self.entry;
        let values = entry.values(attribute.name);
        if values.is_empty() && attribute.values.required() {
            self.wrong(Some(attribute.name), "is missing".into(), wanted);
        }
        values.iter().filter_map(|value| self.parsed(attribute, value, wanted)).collect()
    }

    /// All values that can be read, if there is any value: for attributes in which no value is another thing than none that
    /// can be read ([`Closed::Only`]).
    pub(crate) fn many_if_any<T: FromStr>(&mut self, key: &str, wanted: &str) -> Option<Vec<T>> {
        let (attribute, entry) = (self.attribute(key), self.entry);
        let values = entry.values(attribute.name);
        let said = || values.iter().filter(|value| *value != NOBODY);
        (!values.is_empty())
            .then(|| said().filter_map(|value| self.parsed(attribute, value, wanted)).collect())
    }

    /// The certificates of all values that can be read, in DER, each once. What stands in a value is never repeated: it could
    /// be a private key that somebody took for a certificate.
    pub(crate) fn certificates(&mut self, key: &str) -> Vec<Vec<u8>> {
        const WANTED: &str = "Give certificates in PEM, or the base64 of one in DER.";
        let (attribute, entry) = (self.attribute(key), self.entry);
        let values = entry.values(attribute.name);
        if values.is_empty() {
            self.wrong(Some(attribute.name), "is missing".into(), WANTED);
        }
        let mut all: Vec<Vec<u8>> = Vec::new();
        let mut seen: HashSet<Vec<u8>> = HashSet::new();
        for (number, value) in (1..).zip(values) {
            match certificates(value) {
                Ok(read) => all.extend(read.into_iter().filter(|der| seen.insert(der.clone()))),
                Err(error) => {
                    let what_to_do = match error {
                        CertificateError::PrivateKey => {
                            "Remove it, and make a new key and certificate: who can read the directory has had this one. Keys are credentials on the device."
                        }
                        _ => WANTED,
                    };
                    let reason = format!("value {number} of {} {error}", values.len());
                    self.unreadable(attribute, reason, what_to_do);
                }
            }
        }
        if all.len() > CERTIFICATES_MAX {
            self.wrong(
                Some(attribute.name),
                format!("has {} certificates; {CERTIFICATES_MAX} are the most", all.len()),
                "Leave out those that nobody needs, or spread them over several trust entries.",
            );
        }
        all
    }

    /// The verifiers of all values that can be read, one for each mechanism. What stands in a value is never repeated: it is a
    /// secret, and could be a password.
    pub(crate) fn verifiers(&mut self, key: &str) -> Vec<Verifier> {
        const WANTED: &str = "Make one with sternpost verifier, and copy the whole of it. A password that stood there is known to whoever reads the directory: have another one chosen.";
        let (attribute, entry) = (self.attribute(key), self.entry);
        let values = entry.values(attribute.name);
        let mut all: Vec<Verifier> = Vec::new();
        for (number, value) in (1..).zip(values) {
            let number = format!("value {number} of {}", values.len());
            match value.parse::<Verifier>() {
                Ok(read) if all.iter().any(|other| other.mechanism() == read.mechanism()) => {
                    let reason = format!("{number} is a second verifier for {}", read.mechanism());
                    self.unreadable(attribute, reason, "Leave the one of the password that counts.");
                }
                Ok(read) => all.push(read),
                Err(why) => self.unreadable(attribute, format!("{number} {why}"), WANTED),
            }
        }
        all
    }

    /// Whether the entry itself says something about the attribute.
    pub(crate) fn says(&self, key: &str) -> bool {
        !self.entry.values(self.attribute(key).name).is_empty()
    }

    /// The one value, or the default of the table; none when neither is there or can be read.
    pub(crate) fn one<T: FromStr>(&mut self, key: &str, wanted: &str) -> Option<T> {
        let attribute = self.attribute(key);
        let entry = self.entry;
        let read = match entry.values(attribute.name) {
            [] if attribute.values.required() => {
                self.wrong(Some(attribute.name), "is missing".into(), wanted);
                return None;
            }
            [] => return parse(attribute.syntax, attribute.default),
            [value] => self.parsed(attribute, value, wanted),
            values => {
                self.unreadable(attribute, format!("has {} values", values.len()), "Leave one value.");
                None
            }
        };
        match attribute.closed {
            Closed::At(value) => read.or_else(|| parse(attribute.syntax, value)),
            _ => read,
        }
    }

    /// The one value, if there is one that can be read. For attributes that are neither required nor have a default.
    pub(crate) fn one_if_any<T: FromStr>(&mut self, key: &str, wanted: &str) -> Option<T> {
        if self.says(key) { self.one(key, wanted) } else { None }
    }

    /// A number within the bounds of the table. A value that cannot be read makes the entry wrong, and zero.
    pub(crate) fn number(&mut self, key: &str) -> u64 {
        self.number_if_any(key).unwrap_or(0)
    }

    /// A number within the bounds of the table, if there is a value or a default.
    pub(crate) fn number_if_any(&mut self, key: &str) -> Option<u64> {
        let attribute = self.attribute(key);
        let wanted =
            format!("Give a whole number from {} to {} ({}).", attribute.min, attribute.max, attribute.unit);
        let number: u64 = self.one(key, &wanted)?;
        if (attribute.min..=attribute.max).contains(&number) {
            return Some(number);
        }
        self.wrong(Some(attribute.name), format!("{number} is out of bounds"), &wanted);
        None
    }

    /// The same for a number whose largest value fits 32 bits.
    pub(crate) fn number32(&mut self, key: &str) -> u32 {
        self.number32_if_any(key).unwrap_or(0)
    }

    /// The same, if there is a value or a default.
    pub(crate) fn number32_if_any(&mut self, key: &str) -> Option<u32> {
        let fits = |number| {
            u32::try_from(number).expect("the bounds in the table fit 32 bits: a test reads them all")
        };
        self.number_if_any(key).map(fits)
    }

    fn attribute(&self, key: &str) -> &'static Attribute {
        Attribute::find(self.class, key)
            .expect("the keys that are read stand in the table: a test reads them all")
    }

    fn parsed<T: FromStr>(&mut self, attribute: &'static Attribute, value: &str, wanted: &str) -> Option<T> {
        if value.contains(char::REPLACEMENT_CHARACTER) {
            self.unreadable(attribute, format!("{} is not UTF-8", shown(value)), wanted);
            return None;
        }
        let parsed = parse(attribute.syntax, value);
        if parsed.is_none() {
            self.unreadable(attribute, format!("{} cannot be read", shown(value)), wanted);
        }
        parsed
    }

    fn unreadable(&mut self, attribute: &'static Attribute, reason: String, wanted: &str) {
        match attribute.closed {
            Closed::Not => self.wrong(Some(attribute.name), reason, wanted),
            Closed::Grant | Closed::Only { .. } => {
                self.note(Some(attribute.name), reason, wanted, Effect::FailsClosed);
            }
            Closed::At(value) => {
                let reason = format!("{reason}, so {value} holds");
                self.note(Some(attribute.name), reason, wanted, Effect::FailsClosed);
            }
        }
    }
}

/// A value as a message may have it. Messages go where the directory is not read: a key or a verifier that was pasted into the
/// wrong place stays out of them.
pub(crate) fn shown(value: &str) -> String {
    match value {
        _ if value.contains("PRIVATE KEY") => "a private key".to_owned(),
        _ if value.contains("SCRAM-SHA-") && value.contains('$') => "a verifier of a password".to_owned(),
        _ => format!("{value:?}"),
    }
}

/// 1 to 64 letters, digits, dots, hyphens and underscores.
pub(crate) fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'.' | b'-' | b'_'))
}

/// RFC 4517 writes numbers without a plus sign (3.3.16) and truth in two words (3.3.3); Rust's own parsers differ.
fn parse<T: FromStr>(syntax: Syntax, value: &str) -> Option<T> {
    match (syntax, value) {
        (Syntax::Integer, _) if !value.bytes().all(|octet| octet.is_ascii_digit()) => None,
        (Syntax::Boolean, "TRUE") => "true".parse().ok(),
        (Syntax::Boolean, "FALSE") => "false".parse().ok(),
        (Syntax::Boolean, _) => None,
        _ => value.parse().ok(),
    }
}
