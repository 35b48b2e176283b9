//! Dialogues that other people's clients cannot speak, from text files, with the whole switch.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here, with the place")]

mod switch;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use sternpost_load::dialogue::{PlayOptions, Script, content, play};
use sternpost_load::sink::Sink;
use sternpost_message::chain;
use switch::credentials::{Authority, switch_with};
use switch::mail::{send, sink, to};
use switch::site::Site;
use switch::{PATIENCE, text};

/// Speaks a file; all of it must go as it stands there.
fn speak(path: &Path, address: SocketAddr) {
    let script = Script::parse(&fs::read_to_string(path).unwrap(), &BTreeMap::new());
    let script = script.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let options = PlayOptions { reply_timeout: PATIENCE, ..PlayOptions::to(address) };
    let mut said = String::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let played = runtime.block_on(play(&script, &options, |line| {
        said.push_str(line);
        said.push('\n');
    }));
    if let Err(departure) = played {
        panic!("{said}{}: {}", path.display(), chain(&departure));
    }
}

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogues");
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// Recipient and content behind the switch's own header lines, of everything that came.
fn arrived(sink: &Sink) -> BTreeMap<String, String> {
    let receipts = sink.received();
    receipts
        .iter()
        .map(|receipt| {
            let content = text(receipt.content.as_deref().unwrap());
            let own = content.find("Subject: ").unwrap_or(0);
            (receipt.recipients[0].clone(), content[own..].to_owned())
        })
        .collect()
}

#[test]
fn every_dialogue_goes_as_it_is_written_and_what_was_accepted_arrives_and_nothing_else() {
    let (authority, smtp) = (Authority::new("authority"), sink());
    let switch = switch_with(&authority, &Site::new().peer("mta", "smtp", smtp.address(), &["smtp.test"]));
    for path in files() {
        speak(&path, switch.address());
    }
    send(to(switch.address(), "last@smtp.test"));
    assert!(smtp.wait_for(4, PATIENCE), "{:?}", arrived(&smtp).keys());
    let mut arrived = arrived(&smtp);
    arrived.remove("last@smtp.test").unwrap();
    let chunks = format!("Subject: chunks\r\n\r\n.{}", &content().repeat(3)[..100_000]);
    let wanted = [
        // Content that ends inside a line gets a line ending when it goes on by DATA; 100,000 octets are whole lines.
        ("chunks@smtp.test", chunks.as_str()),
        ("half@smtp.test", "Subject: half\r\n\r\nbody\r\n"),
        ("starttls@smtp.test", "Subject: inside\r\n\r\nx\r\n"),
    ];
    let names: BTreeSet<_> = arrived.keys().map(String::as_str).collect();
    assert_eq!(names, wanted.iter().map(|(recipient, _)| *recipient).collect());
    for (recipient, content) in wanted {
        assert!(arrived[recipient] == content, "{recipient}");
    }
}
