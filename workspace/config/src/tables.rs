//! The same model as text: TOML tables for small static sites.
//!
//! `[node]`, `[[trust]]`, `[[listener]]`, `[[channel]]`, `[[peer]]`, `[[route]]`, `[qmgr]`, `[[minimise]]` and `[[user]]` hold the
//! attributes of their classes under the keys of [`crate::Attribute::key`]; `name` is the `cn`. Tables become entries, so that everything behind
//! (bounds, last good versions, problems) is the same for both. Only the form is judged here.

use crate::load::{own_node, visible};
use crate::{Attribute, Class, Entry, Syntax};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// What is wrong with the form of the tables. Nothing of the text is used then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {place}{reason}")]
pub struct TableError {
    /// Counted from 1.
    pub line: usize,
    /// The table and the key, followed by a colon and a blank; empty where there is neither.
    pub place: String,
    /// What is wrong.
    pub reason: String,
}

/// Reads tables as entries. The uuid of an entry is `table/name`, its DN `table "name"`.
///
/// # Errors
/// `TableError` names the first line, table and key that is not of the right form: bad TOML, an unknown table or key,
/// a value of the wrong type, a name that two tables of a kind have.
pub fn entries_from_tables(toml: &str) -> Result<Vec<Entry>, TableError> {
    let line_of =
        |offset: usize| toml.as_bytes().iter().take(offset).filter(|octet| **octet == b'\n').count() + 1;
    let document = DeTable::parse(toml).map_err(|error| TableError {
        line: line_of(error.span().map_or(0, |span| span.start)),
        place: String::new(),
        reason: error.message().to_owned(),
    })?;
    let mut reading = Reading { line_of: &line_of, entries: Vec::new(), uuids: BTreeSet::new() };
    // TOML allows the tables in any order; the entries come in the order of the text.
    let mut tables: Vec<_> = document.get_ref().iter().collect();
    tables.sort_by_key(|(name, _)| name.span().start);
    for (name, value) in tables {
        reading.table(name, value)?;
    }
    Ok(reading.entries)
}

struct Reading<'a> {
    line_of: &'a dyn Fn(usize) -> usize,
    entries: Vec<Entry>,
    uuids: BTreeSet<String>,
}

impl Reading<'_> {
    fn error<T>(&self, at: usize, place: String, reason: String) -> Result<T, TableError> {
        Err(TableError { line: (self.line_of)(at), place, reason })
    }

    fn table(
        &mut self,
        name: &Spanned<std::borrow::Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<(), TableError> {
        let at = name.span().start;
        let Some(class) = Class::ALL.into_iter().find(|class| class.table() == name.get_ref()) else {
            let known: Vec<&str> = Class::ALL.iter().map(|class| class.table()).collect();
            let reason = format!("there is no such table; there are {}", known.join(", "));
            return self.error(at, format!("{}: ", name.get_ref()), reason);
        };
        match (value.get_ref(), class.is_single()) {
            (DeValue::Table(table), true) => self.entry(class, at, table),
            (DeValue::Array(tables), false) => tables.iter().try_for_each(|value| match value.get_ref() {
                DeValue::Table(table) => self.entry(class, value.span().start, table),
                _ => self.error(value.span().start, format!("{}: ", class.table()), "is not a table".into()),
            }),
            (_, true) => {
                self.error(at, format!("{}: ", class.table()), format!("write it as [{}]", class.table()))
            }
            (_, false) => {
                self.error(at, format!("{}: ", class.table()), format!("write it as [[{}]]", class.table()))
            }
        }
    }

    fn entry(&mut self, class: Class, at: usize, table: &DeTable<'_>) -> Result<(), TableError> {
        let mut attributes: BTreeMap<String, Vec<String>> = BTreeMap::new();
        attributes.insert("objectclass".into(), vec![class.name().into()]);
        if class.is_single() {
            attributes.insert("cn".into(), vec![class.table().into()]);
        }
        for (key, value) in table {
            let place = || format!("{}: {}: ", class.table(), key.get_ref());
            let attribute =
                Attribute::find(class, key.get_ref()).filter(|a| a.key() == key.get_ref().as_ref());
            let (ldap_name, syntax, is_single) = match (key.get_ref().as_ref(), attribute) {
                ("name", _) => ("cn", Syntax::Text, true),
                (_, Some(attribute)) => (attribute.name, attribute.syntax, attribute.values.single()),
                (_, None) => return self.error(key.span().start, place(), "there is no such key".into()),
            };
            let values = match value.get_ref() {
                DeValue::Array(values) if !is_single => values.iter().collect(),
                DeValue::Array(_) => {
                    return self.error(value.span().start, place(), "takes one value".into());
                }
                _ => vec![value],
            };
            let values: Result<Vec<String>, &str> =
                values.into_iter().map(|value| text(syntax, value.get_ref())).collect();
            match values {
                Ok(values) => attributes.insert(ldap_name.to_ascii_lowercase(), values),
                Err(wanted) => return self.error(value.span().start, place(), wanted.into()),
            };
        }
        attributes.retain(|_, values| !values.is_empty());
        let name = match (attributes.get("cn"), class) {
            (Some(names), _) => names[0].clone(),
            (None, Class::Route) => {
                attributes.get("sternpostdomain").map_or(String::new(), |domains| domains[0].clone())
            }
            (None, _) => return self.error(at, format!("{}: ", class.table()), "has no name".into()),
        };
        let (uuid, dn) = (format!("{}/{name}", class.table()), format!("{} {name:?}", class.table()));
        if !self.uuids.insert(uuid.clone()) {
            return self.error(at, format!("{dn}: "), "there is another one of that name".into());
        }
        self.entries.push(Entry { uuid, dn, attributes });
        Ok(())
    }
}

/// The value as the directory would have it.
fn text(syntax: Syntax, value: &DeValue<'_>) -> Result<String, &'static str> {
    match (syntax, value) {
        (Syntax::Integer, DeValue::Integer(number)) if number.radix() == 10 => Ok(number.as_str().to_owned()),
        (Syntax::Integer, _) => Err("takes a whole decimal number"),
        (Syntax::Boolean, DeValue::Boolean(truth)) => Ok(if *truth { "TRUE" } else { "FALSE" }.into()),
        (Syntax::Boolean, _) => Err("takes true or false"),
        (_, DeValue::String(text)) => Ok(text.as_ref().to_owned()),
        (_, _) => Err("takes a text in quotes"),
    }
}

/// Writes the entries that count for a node as tables. Attributes that are not ours are left out, and so are entries
/// of other nodes and shared entries that give way to own ones.
#[must_use]
pub fn entries_to_tables(entries: &[Entry], node_identity: &str) -> String {
    let mut out = String::new();
    let mut names = BTreeSet::new();
    let counting = match own_node(entries, node_identity) {
        Ok(own) => visible(entries, own),
        // Without a node of its own the set is still worth being read by a person.
        Err(_) => entries.iter().filter_map(|entry| Some((entry.class()?, entry))).collect(),
    };
    for class in Class::ALL {
        for (_, entry) in counting.iter().filter(|(of, _)| *of == class) {
            let is_first = match class {
                Class::Route => true,
                Class::Qmgr | Class::Reports => names.insert((class, String::new())),
                _ => names.insert((class, entry.name().to_owned())),
            };
            if is_first {
                write_table(&mut out, class, entry);
            }
        }
    }
    out
}

fn write_table(out: &mut String, class: Class, entry: &Entry) {
    const FITS: &str = "a String takes every text";
    if !out.is_empty() {
        out.push('\n');
    }
    let (open, close) = if class.is_single() { ("[", "]") } else { ("[[", "]]") };
    writeln!(out, "{open}{}{close}", class.table()).expect(FITS);
    let is_implied = entry.name().is_empty() || (class.is_single() && entry.name() == class.table());
    if !is_implied {
        writeln!(out, "name = {}", quoted(entry.name())).expect(FITS);
    }
    for attribute in class.attributes() {
        let values: Vec<String> = entry
            .values(attribute.name)
            .iter()
            .map(|value| match (attribute.syntax, value.as_str()) {
                // Leading zeros are no TOML; such a number is written as the number that it is.
                (Syntax::Integer, digits) => {
                    digits.parse::<u64>().map_or(quoted(digits), |number| number.to_string())
                }
                (Syntax::Boolean, "TRUE") => "true".into(),
                (Syntax::Boolean, "FALSE") => "false".into(),
                (_, text) => quoted(text),
            })
            .collect();
        match values.as_slice() {
            [] => continue,
            [value] if attribute.values.single() => writeln!(out, "{} = {value}", attribute.key()),
            values => writeln!(out, "{} = [{}]", attribute.key(), values.join(", ")),
        }
        .expect(FITS);
    }
}

/// A basic string of TOML; of many lines, as PEM is, where the text has them.
fn quoted(text: &str) -> String {
    let (open, close) = if text.contains('\n') { ("\"\"\"\n", "\"\"\"") } else { ("\"", "\"") };
    let mut out = String::with_capacity(text.len() + 8);
    out.push_str(open);
    for character in text.chars() {
        match character {
            // A line's end is in a string of many lines alone.
            '\n' => out.push('\n'),
            '"' | '\\' => out.extend(['\\', character]),
            control if control.is_control() => {
                write!(out, "\\u{:04X}", u32::from(control)).expect("a String takes every text");
            }
            other => out.push(other),
        }
    }
    out.push_str(close);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_line_table_and_key() {
        let rows = [
            ("[node]\nhostname = \"a\"\nhostnam = \"b\"", "line 3: node: hostnam: there is no such key"),
            (
                "[[channel]]\nname = \"c\"\nprocesses_max = \"4\"",
                "line 3: channel: processes_max: takes a whole decimal number",
            ),
            ("[[channel]]\nname = \"c\"\nkind = [\"smtp\"]", "line 3: channel: kind: takes one value"),
            (
                "[[route]]\npeer = \"p\"\nclient_networks_only = 1",
                "line 3: route: client_networks_only: takes true or false",
            ),
            (
                "\n[[peer]]\nname = \"p\"\n[[peer]]\nname = \"p\"",
                "line 4: peer \"p\": there is another one of that name",
            ),
            ("[[peer]]\nchannel = \"smtp\"", "line 1: peer: has no name"),
            ("[peer]\nname = \"p\"", "line 1: peer: write it as [[peer]]"),
            ("[[node]]\nname = \"p\"", "line 1: node: write it as [node]"),
            (
                "[peers]",
                "line 1: peers: there is no such table; there are node, trust, listener, channel, peer, route, qmgr, minimise, user, reports, report_text",
            ),
            (
                "[[listener]]\nname = \"l\"\naddresses = [1]",
                "line 3: listener: addresses: takes a text in quotes",
            ),
        ];
        for (toml, error) in rows {
            assert_eq!(entries_from_tables(toml).unwrap_err().to_string(), error, "{toml}");
        }
        assert_eq!(entries_from_tables("[node]\nhostname = ").unwrap_err().line, 2);
    }

    #[test]
    fn a_text_of_many_lines_is_written_on_many_lines_and_comes_back() {
        let texts = ["a\nb\n", "\n", "\n\n\"\"\"\\ \r\n\t", "-----BEGIN X-----\r\nMA==\r\n"];
        for text in texts {
            let written =
                format!("[node]\nhostname = {}\nidentity = [{}, \"x\"]", quoted(text), quoted(text));
            let entries = entries_from_tables(&written).unwrap();
            assert_eq!(entries[0].values("sternpostHostname"), [text], "{written}");
            assert_eq!(entries[0].values("sternpostIdentity"), [text, "x"], "{written}");
        }
        assert_eq!(quoted("a\nb\n"), "\"\"\"\na\nb\n\"\"\"");
    }

    #[test]
    fn one_value_and_a_list_of_one_are_the_same() {
        let one = entries_from_tables("[[route]]\ndomain = \"a.example\"\npeer = \"p\"").unwrap();
        let list = entries_from_tables("[[route]]\ndomain = [\"a.example\"]\npeer = \"p\"").unwrap();
        assert_eq!(one, list);
        assert_eq!(one[0].uuid, "route/a.example");
    }
}
