//! What commands print: aligned tables and indented values for people, JSON for programs, and the chain of an error.

use serde_json::Value;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::OnceLock;
pub(crate) use sternpost_message::chain;

/// Why something that was to be printed was not.
static UNPRINTED: OnceLock<io::Error> = OnceLock::new();

/// Prints to stdout. A reader that went away (`| head`) is no error; any other is kept for [`judged`].
pub(crate) fn print(text: &str) {
    if let Err(error) = write(text)
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        let _ = UNPRINTED.set(error);
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// The exit status of a command that ends with `code`: what was not printed is an error, said here.
pub(crate) fn judged(code: ExitCode) -> ExitCode {
    let Some(error) = UNPRINTED.get() else { return code };
    eprintln!("error: standard output does not take what was found: {error}; print it somewhere else");
    if code == ExitCode::SUCCESS { ExitCode::FAILURE } else { code }
}

/// How many of something, in words.
pub(crate) fn counted(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// Prints a value as JSON.
pub(crate) fn print_json(value: &Value) {
    print(&json(value));
}

/// A value as indented JSON. It is read at terminals too: control characters that may stand in a JSON text as they are (U+007F to
/// U+009F, and those of direction) are escaped like the others.
pub(crate) fn json(value: &Value) -> String {
    let text = format!("{value:#}");
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if drives_terminals(character) && character != '\n' {
            let _ = write!(out, "\\u{:04x}", u32::from(character));
        } else {
            out.push(character);
        }
    }
    out
}

/// Rows below a header, in columns as wide as their widest cell. Control characters are shown as `\u{…}`: what came
/// from outside must not drive a terminal.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([header[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let mut out = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (cell, width) in cells.zip(&widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    };
    line(&mut header.iter().copied());
    rows.iter().for_each(|row| line(&mut row.iter().map(String::as_str)));
    out
}

/// Pieces of at most so many characters, cut between words where that is possible.
pub(crate) fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut pieces = vec![String::new()];
    for word in text.split(' ') {
        let mut word: Vec<char> = word.chars().collect();
        loop {
            let last = pieces.last_mut().expect("there is one piece at least");
            let used = last.chars().count();
            let gap = usize::from(used > 0);
            if used + gap + word.len() <= columns {
                if gap == 1 {
                    last.push(' ');
                }
                last.extend(&word);
                break;
            }
            if used > 0 {
                pieces.push(String::new());
            } else {
                last.extend(word.drain(..columns));
                pieces.push(String::new());
            }
        }
    }
    pieces
}

/// A value as indented lines `key: value`.
pub(crate) fn indented(value: &Value) -> String {
    let mut out = String::new();
    push_value(&mut out, value, 0);
    out
}

fn push_value(out: &mut String, value: &Value, depth: usize) {
    let pad = "  ".repeat(depth);
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                push_pair(out, &format!("{pad}{}:", printable(key)), value, depth);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| push_pair(out, &format!("{pad}-"), item, depth)),
        scalar => {
            let _ = writeln!(out, "{pad}{}", scalar_text(scalar));
        }
    }
}

fn push_pair(out: &mut String, label: &str, value: &Value, depth: usize) {
    let is_empty = match value {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        scalar => {
            let _ = writeln!(out, "{label} {}", scalar_text(scalar));
            return;
        }
    };
    if is_empty {
        let _ = writeln!(out, "{label} none");
    } else {
        let _ = writeln!(out, "{label}");
        push_value(out, value, depth + 1);
    }
}

fn scalar_text(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => printable(text),
        other => other.to_string(),
    }
}

/// Whether a terminal does something else with a character than show it. Those of direction (Unicode, UAX #9, 2.1 to 2.4) show
/// what stands behind them in another order.
fn drives_terminals(character: char) -> bool {
    character.is_control() || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text without characters that drive a terminal.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if drives_terminals(character) {
            out.extend(character.escape_unicode());
        } else {
            out.push(character);
        }
    }
    out
}

/// Octets as hexadecimal digits.
pub(crate) fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_long_word_is_cut_and_others_are_kept_whole() {
        assert_eq!(wrapped("ab cd efghijkl m", 5), ["ab cd", "efghi", "jkl m"]);
        assert_eq!(wrapped("", 5), [""]);
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["store".into(), "1".into()], vec!["x".into(), "2345".into()]];
        assert_eq!(table(&["ROLE", "PID"], &rows), "ROLE   PID\nstore  1\nx      2345\n");
    }

    #[test]
    fn what_came_from_outside_does_not_drive_the_terminal() {
        assert_eq!(table(&["A"], &[vec!["\u{1b}[2J".into()]]), "A\n\\u{1b}[2J\n");
        assert_eq!(indented(&json!({"a": "x\ny"})), "a: x\\u{a}y\n");
        let value = json!({"a\u{9b}2J": "\u{1b}[2J\u{7f}\u{9b}2J\n\u{e9}"});
        let text = json(&value);
        assert_eq!(text, "{\n  \"a\\u009b2J\": \"\\u001b[2J\\u007f\\u009b2J\\n\u{e9}\"\n}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }

    #[test]
    fn what_came_from_outside_is_read_in_the_order_in_which_it_stands() {
        assert_eq!(printable("a\u{202e}b\u{2066}c\u{2069}"), "a\\u{202e}b\\u{2066}c\\u{2069}");
        let value = json!({"a": "\u{202a}x\u{2069}"});
        assert_eq!(json(&value), "{\n  \"a\": \"\\u202ax\\u2069\"\n}");
        assert_eq!(serde_json::from_str::<Value>(&json(&value)).unwrap(), value);
        assert_eq!(printable("\u{200f}\u{5d0}"), "\u{200f}\u{5d0}", "a letter's own direction");
    }

    #[test]
    fn nested_values_are_indented() {
        let value = json!({"a": 1, "b": {"c": [true, {"d": null}], "e": []}});
        assert_eq!(indented(&value), "a: 1\nb:\n  c:\n    - true\n    -\n      d: none\n  e: none\n");
    }

    #[test]
    fn an_error_is_said_with_each_of_its_causes_once() {
        let cause = io::Error::from_raw_os_error(2);
        let error = crate::supervisor::SupervisorError::Folder { path: "/x".into(), source: cause };
        let text = chain(&error);
        assert_eq!(text, "the folder /x cannot be used: No such file or directory (os error 2)");
    }
}
