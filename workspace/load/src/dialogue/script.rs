//! A dialogue as it stands in a file.

use super::pattern::Pattern;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// The longest pause and silence: who writes more has missed a unit.
const WAIT_MAX: Duration = Duration::from_secs(15 * 60);

/// A dialogue.
#[derive(Clone, Debug)]
pub struct Script {
    pub(super) steps: Vec<Numbered>,
}

/// A step and the line that it begins at, from 1.
#[derive(Clone, Debug)]
pub(super) struct Numbered {
    pub(super) line: usize,
    pub(super) step: Step,
}

/// What one line says.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Say(Vec<u8>),
    Octets(u64),
    File(PathBuf),
    Line(Pattern),
    Reply(Expected),
    Tls,
    Pause(Duration),
    Silence(Duration),
    Shut,
    Close,
    End,
    Repeat { count: u64, steps: Vec<Numbered> },
}

/// A reply.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    pub(super) code: u16,
    pub(super) first: Option<Pattern>,
    pub(super) has: Vec<Pattern>,
    pub(super) lacks: Vec<Pattern>,
}

/// A line that is none of a dialogue.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct ScriptError {
    /// From 1.
    pub line: usize,
    what: String,
}

impl Script {
    /// Reads a file. `values` is what stands for `{name}`.
    ///
    /// # Errors
    /// The first line that is none, with what it should be.
    pub fn parse(text: &str, values: &BTreeMap<String, String>) -> Result<Self, ScriptError> {
        // What is open: the dialogue itself, and each `repeat` in it with its line and count.
        let mut steps = Vec::new();
        let mut open: Vec<(usize, u64, Vec<Numbered>)> = Vec::new();
        for (index, written) in text.lines().enumerate() {
            let line = index + 1;
            let at = |what: String| ScriptError { line, what };
            if written.is_empty() || written.starts_with('#') {
                continue;
            }
            let written = with_values(written, values).map_err(at)?;
            let (word, rest) = written.split_once(' ').unwrap_or((&written, ""));
            let step = match word {
                "C:" => Step::Say([rest.as_bytes(), b"\r\n"].concat()),
                "c:" => Step::Say(unescape(rest).map_err(at)?),
                "S:" => Step::Line(Pattern::new(rest)),
                "R:" => Step::Reply(reply(rest).map_err(at)?),
                "+" | "-" => {
                    let Some(Numbered { step: Step::Reply(expected), .. }) = steps.last_mut() else {
                        return Err(at(format!("{word} belongs behind R:")));
                    };
                    let list = if word == "+" { &mut expected.has } else { &mut expected.lacks };
                    list.push(Pattern::new(rest));
                    continue;
                }
                "*" => action(rest).map_err(at)?,
                "?" => wish(rest).map_err(at)?,
                "repeat" => {
                    let count = rest.parse().map_err(|_| at(format!("{rest:?} is no number of times")))?;
                    open.push((line, count, std::mem::take(&mut steps)));
                    continue;
                }
                "again" => {
                    let (begin, count, before) =
                        open.pop().ok_or_else(|| at("again without repeat".to_owned()))?;
                    let inner = std::mem::replace(&mut steps, before);
                    steps.push(Numbered { line: begin, step: Step::Repeat { count, steps: inner } });
                    continue;
                }
                _ => return Err(at(format!("{word:?} begins no line of a dialogue"))),
            };
            if let Some(Numbered { line: closed, step: Step::Close }) = steps.last() {
                return Err(at(format!("nothing can follow * close in line {closed}")));
            }
            steps.push(Numbered { line, step });
        }
        match open.pop() {
            Some((line, ..)) => Err(ScriptError { line, what: "repeat without again".to_owned() }),
            None => Ok(Self { steps }),
        }
    }
}

/// `code` or `code text`.
fn reply(rest: &str) -> Result<Expected, String> {
    let (code, text) = rest.split_once(' ').map_or((rest, None), |(code, text)| (code, Some(text)));
    let digits = (code.len() == 3).then(|| code.parse().ok()).flatten();
    // RFC 5321, 4.2: the first digit is 2 to 5, the second 0 to 5.
    let code = digits.filter(|code| (200..600).contains(code) && code % 100 < 60);
    Ok(Expected {
        code: code.ok_or_else(|| format!("{rest:?} begins with no reply code"))?,
        first: text.map(Pattern::new),
        has: Vec::new(),
        lacks: Vec::new(),
    })
}

/// What the client does.
fn action(rest: &str) -> Result<Step, String> {
    let (word, argument) = rest.split_once(' ').unwrap_or((rest, ""));
    match (word, argument) {
        ("octets", _) => argument.parse().map(Step::Octets).map_err(|_| format!("{argument:?} is no number")),
        ("file", "") => Err("file of what name?".to_owned()),
        ("file", _) => Ok(Step::File(argument.into())),
        ("pause", _) => wait(argument).map(Step::Pause),
        ("tls", "") => Ok(Step::Tls),
        ("shut", "") => Ok(Step::Shut),
        ("close", "") => Ok(Step::Close),
        _ => Err(format!("* {rest}: a client does octets N, file PATH, tls, pause N ms, shut and close")),
    }
}

/// What the server shall do besides replying.
fn wish(rest: &str) -> Result<Step, String> {
    match rest.split_once(' ').unwrap_or((rest, "")) {
        ("end", "") => Ok(Step::End),
        ("silence", time) => wait(time).map(Step::Silence),
        _ => Err(format!("? {rest}: what is waited for is end or silence N ms")),
    }
}

fn wait(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix(" ms").and_then(|number| number.parse().ok());
    let time = number.map(Duration::from_millis).filter(|&time| time <= WAIT_MAX);
    time.ok_or_else(|| format!("{text:?} is no time: a number and ms, at most {}", WAIT_MAX.as_millis()))
}

/// The text with what stands for its names.
fn with_values(text: &str, values: &BTreeMap<String, String>) -> Result<String, String> {
    let mut whole = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('{') {
        whole.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(behind) = rest.strip_prefix('{') {
            whole.push('{');
            rest = behind;
            continue;
        }
        let (name, behind) =
            rest.split_once('}').ok_or("a brace is not closed; a brace of the text is written {{")?;
        let value = values.get(name).ok_or_else(|| format!("nothing was given for {{{name}}}"))?;
        whole.push_str(value);
        rest = behind;
    }
    whole.push_str(rest);
    Ok(whole)
}

/// The octets that a text with escapes stands for.
fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut octets = Vec::new();
    let mut rest = text.as_bytes();
    while let [octet, behind @ ..] = rest {
        rest = behind;
        if *octet != b'\\' {
            octets.push(*octet);
            continue;
        }
        let (escaped, behind) = match rest {
            [b'r', behind @ ..] => (b'\r', behind),
            [b'n', behind @ ..] => (b'\n', behind),
            [b'0', behind @ ..] => (0, behind),
            [b't', behind @ ..] => (b'\t', behind),
            [b'\\', behind @ ..] => (b'\\', behind),
            [b'x', high, low, behind @ ..] => {
                let digit = |octet: &u8| char::from(*octet).to_digit(16).and_then(|it| u8::try_from(it).ok());
                let value = digit(high).zip(digit(low)).map(|(high, low)| high << 4 | low);
                (value.ok_or(r"behind \x stand two hexadecimal digits")?, behind)
            }
            _ => return Err(r"an escape is \r, \n, \0, \t, \\ or \xNN".to_owned()),
        };
        octets.push(escaped);
        rest = behind;
    }
    Ok(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values() -> BTreeMap<String, String> {
        BTreeMap::from([("name".to_owned(), "client.test".to_owned())])
    }

    #[test]
    fn a_line_of_each_kind_is_read() {
        let text = "# all\n\nC: EHLO {name}\nR: 250 mx *\n+ SIZE *\n- STARTTLS\nc: {{\\x41\\r\\n\nS: 250 *\n* tls\n* octets 5\n\
                    * file a b\n* pause 10 ms\n? silence 10 ms\n? end\n* shut\nrepeat 3\nrepeat 2\nC: NOOP\nagain\nagain\n* close\n";
        let script = Script::parse(text, &values()).unwrap();
        let lines: Vec<usize> = script.steps.iter().map(|it| it.line).collect();
        assert_eq!(lines, [3, 4, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 21]);
        assert!(matches!(&script.steps[0].step, Step::Say(octets) if octets == b"EHLO client.test\r\n"));
        let Step::Reply(expected) = &script.steps[1].step else { panic!("{:?}", script.steps[1]) };
        assert_eq!((expected.code, expected.has.len(), expected.lacks.len()), (250, 1, 1));
        assert!(matches!(&script.steps[2].step, Step::Say(octets) if octets == b"{A\r\n"));
        assert!(matches!(&script.steps[6].step, Step::File(path) if path.as_os_str() == "a b"));
        let Step::Repeat { count: 3, steps } = &script.steps[11].step else {
            panic!("{:?}", script.steps[11])
        };
        assert!(matches!(&steps[..], [Numbered { line: 17, step: Step::Repeat { count: 2, .. } }]));
    }

    #[test]
    fn what_is_no_line_is_named_with_what_it_should_be() {
        let rows = [
            ("QUIT", "\"QUIT\" begins no line of a dialogue"),
            ("+ SIZE", "+ belongs behind R:"),
            ("C: {who}", "nothing was given for {who}"),
            ("C: {who", "a brace is not closed; a brace of the text is written {{"),
            ("c: \\q", r"an escape is \r, \n, \0, \t, \\ or \xNN"),
            ("c: \\x4", r"an escape is \r, \n, \0, \t, \\ or \xNN"),
            ("c: \\xé", r"behind \x stand two hexadecimal digits"),
            ("R: 99", "\"99\" begins with no reply code"),
            ("R: 290 x", "\"290 x\" begins with no reply code"),
            ("* pause 3 s", "\"3 s\" is no time: a number and ms, at most 900000"),
            ("* octets many", "\"many\" is no number"),
            ("* file", "file of what name?"),
            ("* dance", "* dance: a client does octets N, file PATH, tls, pause N ms, shut and close"),
            ("? more", "? more: what is waited for is end or silence N ms"),
            ("again", "again without repeat"),
            ("repeat often", "\"often\" is no number of times"),
            ("repeat 2", "repeat without again"),
            ("* close\n? end", "nothing can follow * close in line 2"),
        ];
        for (line, what) in rows {
            let error = Script::parse(&format!("# first\n{line}\n"), &values()).unwrap_err();
            let last = 1 + line.lines().count();
            assert_eq!((error.line, error.what.as_str()), (last, what));
        }
    }
}
