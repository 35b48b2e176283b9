//! The manual: pages of every command and of the configuration, which groff takes without a word, and help on a terminal.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here, with the place")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use sternpost_config::{ATTRIBUTES, Syntax};

fn sternpost(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sternpost")).args(arguments).output().unwrap()
}

fn text(octets: &[u8]) -> String {
    String::from_utf8(octets.to_vec()).unwrap()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// A page as a terminal shows it, in lines that are never broken; groff must have nothing to say about it.
fn set(page: &Path) -> String {
    // As man(1) calls it, which reads a page as UTF-8.
    let arguments = ["-ww", "-man", "-Kutf8", "-Tutf8", "-P-cbou", "-rLL=9000n", "-rHY=0"];
    let output = Command::new("groff").args(arguments).arg(page).output().unwrap();
    assert_eq!((output.status.success(), text(&output.stderr)), (true, String::new()), "{}", page.display());
    text(&output.stdout)
}

#[test]
fn groff_takes_every_manual_page_and_every_attribute_stands_there_with_its_bounds() {
    let folder = tempfile::tempdir().unwrap();
    let output = sternpost(&["man", "--to", folder.path().to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let commands = files(&folder.path().join("man1"));
    let names: Vec<&str> = commands.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    for name in ["sternpost.1", "sternpost-queue.1", "sternpost-queue-replay.1", "sternpost-provision-init.1"]
    {
        assert!(names.contains(&name), "{names:?}");
    }
    let hidden = |name: &&&str| name.contains("role") || name.contains("device") || name.contains("help");
    assert!(names.iter().find(hidden).is_none(), "what nobody types has no page: {names:?}");
    for page in &commands {
        assert!(set(page).contains("sternpost"), "{}", page.display());
    }
    // How far words stand apart is groff's to say.
    let page = set(&folder.path().join("man5/sternpost-configuration.5"));
    let words = page.split_whitespace().collect::<Vec<_>>().join(" ");
    for attribute in ATTRIBUTES {
        let mut wanted = vec![
            format!("{} ({})", attribute.name, attribute.key()),
            attribute.description.split_whitespace().collect::<Vec<_>>().join(" "),
        ];
        if attribute.syntax == Syntax::Integer {
            wanted
                .push(format!("A number from {} to {}, in {}", attribute.min, attribute.max, attribute.unit));
        }
        for wanted in wanted {
            // A hyphen is set as U+2010 or U+2212.
            let words = words.replace(['\u{2010}', '\u{2212}'], "-").replace('\u{2019}', "'");
            assert!(words.contains(&wanted), "{wanted}: {words}");
        }
    }
}

#[test]
fn an_attribute_is_shown_by_its_name_its_key_or_its_class() {
    let one = text(&sternpost(&["config", "attributes", "retry_step_s"]).stdout);
    assert!(one.starts_with("sternpostRetryStepS (key retry_step_s of table qmgr"), "{one}");
    assert!(one.contains("A number from 1 to 86400, in seconds; the default is 60."), "{one}");
    assert_eq!(one, text(&sternpost(&["config", "attributes", "sternpostretrysteps"]).stdout));
    let all = sternpost(&["config", "attributes", "--json"]).stdout;
    let all: Vec<serde_json::Value> = serde_json::from_slice(&all).unwrap();
    assert_eq!(all.len(), ATTRIBUTES.len());
    let class = sternpost(&["config", "attributes", "sternpostQmgr", "--json"]).stdout;
    let class: Vec<serde_json::Value> = serde_json::from_slice(&class).unwrap();
    assert!(class.len() > 5 && class.iter().all(|attribute| attribute["table"] == "qmgr"), "{class:?}");
    let other = sternpost(&["config", "attributes", "retry"]);
    let error = text(&other.stderr);
    assert_eq!(other.status.code(), Some(1));
    assert!(error.contains("Like it are: sternpostRetryStepS, sternpostRetryMaxS."), "{error}");
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let output = sternpost(&["man", "--to", "/proc/sternpost"]);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(error.starts_with("error: /proc/sternpost/man1/"), "{error}");
}
