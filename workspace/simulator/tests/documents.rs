//! The documents speak of what exists: each test, file and dialogue that README.md, ARCHITECTURE.md and the table of DSN.md name is
//! there.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here, with the place")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const DOCUMENTS: [&str; 3] = ["README.md", "ARCHITECTURE.md", "workspace/channels/DSN.md"];

/// A word in backticks with so many underscores is the name of a test.
const UNDERSCORES_MIN: usize = 4;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Every function in the workspace.
fn functions() -> BTreeSet<String> {
    let mut functions = BTreeSet::new();
    let mut folders = vec![root().join("workspace"), root().join("hw-tests")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(path).unwrap();
                functions.extend(text.split("fn ").skip(1).map(|rest| {
                    rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>()
                }));
            }
        }
    }
    functions
}

/// What stands between two `mark`s, line by line.
fn marked(text: &str, mark: char) -> impl Iterator<Item = &str> {
    text.lines().flat_map(move |line| line.split(mark).skip(1).step_by(2))
}

#[test]
fn every_test_that_the_documents_name_exists() {
    let functions = functions();
    for document in DOCUMENTS {
        let text = fs::read_to_string(root().join(document)).unwrap();
        let names = marked(&text, '`').filter(|word| {
            word.matches('_').count() >= UNDERSCORES_MIN
                && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        });
        let missing: Vec<&str> = names.filter(|name| !functions.contains(*name)).collect();
        assert!(missing.is_empty(), "{document} names tests that are not there: {missing:#?}");
    }
}

#[test]
fn every_file_that_the_documents_link_to_exists() {
    for document in DOCUMENTS {
        let text = fs::read_to_string(root().join(document)).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            assert!(root().join(link).exists(), "{document} links to {link}");
        }
    }
}

#[test]
fn every_dialogue_that_the_documents_name_exists() {
    let text: String =
        DOCUMENTS.iter().map(|document| fs::read_to_string(root().join(document)).unwrap()).collect();
    let dialogues = root().join("workspace/smtp/tests/dialogues");
    let names: Vec<_> = marked(&text, '*')
        .filter(|word| word.starts_with("server/") || word.starts_with("client/"))
        .collect();
    assert!(!names.is_empty(), "the documents name dialogues");
    for name in names {
        assert!(dialogues.join(format!("{name}.txt")).exists(), "{name}");
    }
}
