//! Queues as operators meet them: the commands with their exit statuses, logs that are damaged on purpose, and mail that is told
//! apart in them.

use super::client::Client;
use super::site::Site;
use super::{Switch, program, run, text};
use serde_json::Value;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Where the configuration of these switches stands.
pub(crate) const TABLES: &str = "[tables]\npath = \"tables.toml\"\n";

pub(crate) fn sternpost(arguments: &[&str]) -> Output {
    run(Command::new(program()).args(arguments))
}

pub(crate) fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output.stdout)))
}

/// The output of a command that must end so.
pub(crate) fn ends(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{}{}", text(&output.stdout), text(&output.stderr));
}

pub(crate) fn path(path: &Path) -> &str {
    path.to_str().expect("the folder of a test has a plain name")
}

pub(crate) fn site(address: std::net::SocketAddr) -> String {
    Site::new().peer("mta", "smtp", address, &["smtp.test"]).tables()
}

/// A message with a line for each 32 octets, each of them unlike all others.
pub(crate) fn lines(subject: &str, octets: usize) -> Vec<u8> {
    let mut content = format!("Subject: {subject}\r\n\r\n").into_bytes();
    for number in 0.. {
        if content.len() >= octets {
            return content;
        }
        content.extend_from_slice(line(subject, number).as_bytes());
    }
    unreachable!("there are more numbers than octets")
}

pub(crate) fn line(subject: &str, number: usize) -> String {
    format!("{subject:->14} {number:010} line\r\n")
}

pub(crate) fn accept(client: &mut Client, recipients: &[&str], content: &[u8]) {
    let reply = client.message("<a@sender.test>", recipients, content);
    assert!(reply.starts_with("250 "), "{reply}");
}

/// The places of a text in a log.
pub(crate) fn places(log: &Path, needle: &[u8]) -> Vec<u64> {
    let octets = fs::read(log).expect("the log can be read");
    let found = octets.windows(needle.len()).enumerate().filter(|(_, window)| *window == needle);
    found.map(|(at, _)| at as u64).collect()
}

/// Changes one octet of a log, also under a running store.
pub(crate) fn flip(log: &Path, at: u64) {
    use std::os::unix::fs::FileExt;
    let mut file = fs::File::options().read(true).write(true).open(log).expect("the log can be opened");
    let mut octet = [0];
    file.read_exact_at(&mut octet, at).expect("the log can be read");
    file.seek(SeekFrom::Start(at)).expect("the log can be written");
    file.write_all(&[octet[0] ^ 1]).expect("the log can be written");
    file.sync_all().expect("the log can be written");
}

/// The one place of a line of a message's content in a log.
pub(crate) fn place(log: &Path, subject: &str, number: usize) -> u64 {
    let found = places(log, line(subject, number).as_bytes());
    assert_eq!(found.len(), 1, "{subject} {number}");
    found[0]
}

pub(crate) fn listed(switch: &Switch, arguments: &[&str]) -> Vec<Value> {
    let listed = switch.ask(&[&["queue", "list"], arguments].concat());
    listed.as_array().expect("a list").clone()
}

pub(crate) fn id(value: &Value) -> String {
    value["id"].as_str().expect("an id").to_owned()
}

/// The ids of the living messages, in the order of acceptance.
pub(crate) fn ids(switch: &Switch) -> Vec<String> {
    listed(switch, &[]).iter().map(id).collect()
}

/// The same in any order: what is urgent overtakes the rest.
pub(crate) fn set_of(mut ids: Vec<String>) -> Vec<String> {
    ids.sort_unstable();
    ids
}

pub(crate) fn sha256(octets: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(octets).iter().map(|octet| format!("{octet:02x}")).collect()
}

pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .expect("the folder is there")
        .map(|entry| entry.expect("a file").path())
        .collect();
    files.sort();
    files
}
