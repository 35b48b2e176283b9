//! Dialogues as text: what the two ends say and what the driver does, line by line.
//!
//! `#` begins a comment. `C: ` and `S: ` are a line of the client or the server, with CR LF behind it; `c: ` and `s: `
//! are octets as they stand, with the escapes `\r \n \0 \t \\ \xNN`. `* ` is something that happens to the machine,
//! `? ` something that it wants from its driver. `policy name value` at the top changes a limit.

use std::path::{Path, PathBuf};

/// One line of a dialogue; consecutive octets of the same end are one item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    Client(Vec<u8>),
    Server(Vec<u8>),
    /// `* word rest`
    Happens(String),
    /// `? word rest`
    Wants(String),
}

/// One file.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) path: PathBuf,
    pub(crate) policy: Vec<(String, String)>,
    pub(crate) items: Vec<Item>,
}

/// All dialogues of a folder beside this crate's tests.
pub(crate) fn scripts(folder: &str) -> Vec<Script> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogues").join(folder);
    let mut paths: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", folder.display());
    paths.into_iter().map(|path| parse(&path)).collect()
}

fn parse(path: &Path) -> Script {
    let mut script = Script { path: path.to_owned(), policy: Vec::new(), items: Vec::new() };
    for line in std::fs::read_to_string(path).unwrap().lines() {
        let octets_of = |rest: &str| [rest.as_bytes(), b"\r\n"].concat();
        match line.split_once(' ').unwrap_or((line, "")) {
            ("" | "#", _) => {}
            ("policy", rest) => {
                let (name, value) = rest.split_once(' ').unwrap();
                script.policy.push((name.to_owned(), value.to_owned()));
            }
            ("C:", rest) => script.push_octets(Item::Client(octets_of(rest))),
            ("S:", rest) => script.push_octets(Item::Server(octets_of(rest))),
            ("c:", rest) => script.push_octets(Item::Client(unescape(rest))),
            ("s:", rest) => script.push_octets(Item::Server(unescape(rest))),
            ("*", rest) => script.items.push(Item::Happens(rest.to_owned())),
            ("?", rest) => script.items.push(Item::Wants(rest.to_owned())),
            _ => panic!("{}: what is {line:?}?", path.display()),
        }
    }
    script
}

impl Script {
    fn push_octets(&mut self, item: Item) {
        match (self.items.last_mut(), item) {
            (Some(Item::Client(before)), Item::Client(octets))
            | (Some(Item::Server(before)), Item::Server(octets)) => before.extend(octets),
            (_, item) => self.items.push(item),
        }
    }
}

/// The octets that a text with escapes stands for.
pub(crate) fn unescape(text: &str) -> Vec<u8> {
    let mut octets = Vec::new();
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        octets.push(match octet {
            b'\\' => match rest.next().unwrap() {
                b'r' => b'\r',
                b'n' => b'\n',
                b'0' => 0,
                b't' => b'\t',
                b'\\' => b'\\',
                b'x' => {
                    let digits = [rest.next().unwrap(), rest.next().unwrap()];
                    u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
                }
                other => panic!("no escape \\{}", char::from(other)),
            },
            octet => octet,
        });
    }
    octets
}

/// Octets as a text with escapes.
pub(crate) fn escape(octets: &[u8]) -> String {
    octets
        .iter()
        .map(|&octet| match octet {
            b'\r' => "\\r".to_owned(),
            b'\n' => "\\n".to_owned(),
            0 => "\\0".to_owned(),
            b'\t' => "\\t".to_owned(),
            b'\\' => "\\\\".to_owned(),
            32..=126 => char::from(octet).to_string(),
            _ => format!("\\x{octet:02x}"),
        })
        .collect()
}

/// How the octets of the other end are cut into reads.
#[derive(Clone, Debug)]
pub(crate) enum Cut {
    Nowhere,
    Everywhere,
    /// Once, before this octet of all.
    Before(usize),
    /// Into pieces of these sizes, in turn.
    Pieces(Vec<usize>),
}

impl Cut {
    /// The pieces of `octets`, of which the first is the `offset`th of all.
    pub(crate) fn pieces<'a>(&self, octets: &'a [u8], offset: usize) -> Vec<&'a [u8]> {
        match self {
            Self::Nowhere => vec![octets],
            Self::Everywhere => octets.chunks(1).collect(),
            Self::Before(at) if *at > offset && *at < offset + octets.len() => {
                let (head, tail) = octets.split_at(at - offset);
                vec![head, tail]
            }
            Self::Before(_) => vec![octets],
            Self::Pieces(sizes) => {
                let mut rest = octets;
                let mut pieces = Vec::new();
                for size in sizes.iter().cycle() {
                    let (piece, behind) = rest.split_at((*size).clamp(1, rest.len().max(1)).min(rest.len()));
                    pieces.push(piece);
                    rest = behind;
                    if rest.is_empty() {
                        break;
                    }
                }
                pieces
            }
        }
    }
}
