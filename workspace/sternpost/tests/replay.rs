//! What QMGR records of a real run is what its scheduler decides again; and what the log says of its processes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here, with the place")]

mod switch;

use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;
use sternpost_load::source::SourceOptions;
use sternpost_message::Precedence;
use sternpost_scheduler::Event;
use sternpost_scheduler::journal::{Decoder, Encoder, Entry};
use switch::client::Client;
use switch::mail::{lmtp_sink, nobody, send, sink, to};
use switch::site::Site;
use switch::{PATIENCE, SMALL_ROOM, Switch, new_home, program, run, text, wait_for};
use tempfile::TempDir;

const HELLO: &[u8] = b"Subject: hello\r\n\r\nhello\r\n";
/// In the folder of a test: where QMGR may write on a device too. Its files have a number behind it.
const RECORD: &str = "s/qmgr/events";

/// A switch that records, with these lines behind `record`.
fn recording(tables: &str, lines: &str) -> Switch {
    let home = new_home();
    fs::write(home.path().join("tables.toml"), tables).unwrap();
    again(home, lines)
}

fn again(home: TempDir, lines: &str) -> Switch {
    let source = format!("[tables]\npath = \"tables.toml\"\n[qmgr]\nrecord = \"{RECORD}\"\n{lines}");
    Switch::start_at(home, SMALL_ROOM, "auto", &source)
}

/// `queue replay`: its exit status and its JSON, or what it has said.
fn replay(path: &Path) -> (Option<i32>, Result<Value, String>) {
    let output = run(Command::new(program()).args(["queue", "replay", "--json"]).arg(path));
    let value = serde_json::from_slice(&output.stdout).map_err(|_| text(&output.stderr));
    (output.status.code(), value)
}

fn entries(path: &Path) -> Vec<Entry> {
    let mut decoder = Decoder::default();
    decoder.feed(&fs::read(path).unwrap());
    std::iter::from_fn(|| decoder.next_entry().transpose()).collect::<Result<_, _>>().unwrap()
}

/// Writes a recording with right CRCs.
fn write(path: &Path, entries: &[Entry]) {
    let mut encoder = Encoder::new(u64::MAX);
    for entry in entries {
        match entry {
            Entry::Begin { build, wall } => encoder.begin(build, *wall),
            Entry::Event { now, event } => encoder.event(*now, event),
            Entry::Actions(actions) => encoder.actions(actions),
            Entry::Full => panic!("the recording has its end"),
        }
        .unwrap();
    }
    fs::write(path, encoder.octets()).unwrap();
}

/// What a row of the summary says.
fn count(rows: &Value, channel: &str, level: &str, key: &str) -> u64 {
    let row = |row: &&Value| row["channel"] == channel && row[key] == level;
    rows.as_array().and_then(|rows| rows.iter().find(row)?["count"].as_u64()).unwrap_or(0)
}

/// Assignments of ordinary mail by SMTP.
fn assigned(found: &Value) -> u64 {
    count(&found["assignments"], "smtp", "routine", "precedence")
}

fn flash(switch: &Switch, recipient: &str) {
    let mut client = Client::greet(switch.address());
    let reply = client.message("<a@sender.test> MT-PRIORITY=4", &[recipient], HELLO);
    assert!(reply.starts_with("250 "), "{reply}");
}

fn many(switch: &Switch, recipient: &str, messages_count: u64) {
    let report = send(SourceOptions { messages_count, ..to(switch.address(), recipient) });
    assert_eq!(report.accepted_count, messages_count);
}

#[test]
fn a_recorded_run_is_replayed_to_the_same_decisions() {
    let (smtp, lmtp) = (sink(), lmtp_sink());
    let site = Site::new()
        .peer("mta", "smtp", smtp.address(), &["smtp.test"])
        .peer("dead", "smtp", nobody(), &["dead.test"])
        .peer("store", "lmtp", lmtp.address(), &["lmtp.test"]);
    let switch = recording(&site.tables(), "");
    many(&switch, "a%d@smtp.test", 100);
    flash(&switch, "flash@smtp.test");
    many(&switch, "b%d@lmtp.test", 50);
    // A peer that defers, then a channel and QMGR that die while its mail waits.
    many(&switch, "c%d@dead.test", 5);
    wait_for("a failed attempt", || {
        let status = switch.status_if_any()?;
        let channels = status["qmgr"]["scheduler"]["channels"].as_array()?.clone();
        let mut peers = channels.iter().filter_map(|channel| channel["peers"].as_array()).flatten();
        peers.any(|peer| peer["name"] == "dead" && peer["errors"].as_u64() > Some(0)).then_some(())
    });
    switch.kill("smtp");
    many(&switch, "d%d@smtp.test", 20);
    assert!(smtp.wait_for(121, PATIENCE) && lmtp.wait_for(50, PATIENCE));
    let path = switch.home().join(RECORD);
    wait_for("record of it", || (assigned(&replay(&path).1.ok()?) >= 125).then_some(()));
    switch.kill("qmgr");
    many(&switch, "e%d@smtp.test", 20);
    assert!(smtp.wait_for(141, PATIENCE));
    wait_for("record of it", || (assigned(&replay(&path).1.ok()?) >= 145).then_some(()));
    let log = switch.log();
    let home = switch.stop();
    let path = home.path().join(RECORD);

    let (code, found) = replay(&path);
    let found = found.unwrap();
    assert_eq!(code, Some(0), "{found:#}");
    assert!(found["difference"].is_null() && found["damage"].is_null(), "{found:#}");
    // One scheduler when QMGR starts and one for each snapshot.
    assert!(found["schedulers"].as_u64() >= Some(4) && found["events"].as_u64() > Some(500), "{found:#}");
    let count = |rows: &str, channel: &str, level: &str, key: &str| count(&found[rows], channel, level, key);
    assert_eq!(count("assignments", "smtp", "flash", "precedence"), 1);
    assert_eq!(count("assignments", "lmtp", "routine", "precedence"), 50);
    assert!(count("starts", "smtp", "routine", "for_precedence") >= 2, "{found:#}");
    assert!(log.contains("event=\"record.begun\""), "{log}");
    // It tells of no person and of no content.
    assert_eq!(found["files"], 2, "one for each life of QMGR: {found:#}");
    let [first, second] = [1, 2].map(|number| home.path().join(format!("{RECORD}.{number}")));
    let octets = [&first, &second].map(|file| fs::read(file).unwrap()).concat();
    for secret in ["sender.test", "smtp.test", "dead.test", "Subject", "hello"] {
        assert!(!octets.windows(secret.len()).any(|part| part == secret.as_bytes()), "{secret}");
    }

    let words = run(Command::new(program()).args(["queue", "replay"]).arg(&path));
    let words = text(&words.stdout);
    assert!(words.starts_with(&format!("{}: the same decisions\n", path.display())), "{words}");

    let events = [&first, &second].map(|file| replay(file).1.unwrap()["events"].as_u64().unwrap());
    assert_eq!(events[0] + events[1], found["events"].as_u64().unwrap(), "each can be replayed alone");
    one_that_was_changed_is_found(&first);
    the_next_life_records_beside(home, found["events"].as_u64().unwrap());
}

fn one_that_was_changed_is_found(path: &Path) {
    let copy = path.with_extension("copy");
    let recorded = entries(path);
    let is_flash = |entry: &Entry| matches!(entry, Entry::Event { event: Event::Queue(spec), .. } if spec.precedence == Precedence::Flash);
    let at = recorded.iter().position(is_flash).unwrap();
    let events = |entries: &[Entry]| {
        entries.iter().filter(|entry| matches!(entry, Entry::Event { .. })).count() as u64
    };
    write(&copy, &recorded);
    assert_eq!(replay(&copy).0, Some(0));

    // Changed or left out with right CRCs: the decisions show it, at that event or at the next that has consequences.
    let mut changed = recorded.clone();
    let Entry::Event { event: Event::Queue(spec), .. } = &mut changed[at] else { unreachable!("as found") };
    spec.attempts += 1;
    write(&copy, &changed);
    let (code, found) = replay(&copy);
    let found = found.unwrap();
    assert_eq!(code, Some(1), "{found:#}");
    assert_eq!(found["difference"]["event"].as_u64(), Some(events(&recorded[..=at])), "{found:#}");
    let side = |name: &str| found["difference"][name][0].as_str().unwrap().to_owned();
    assert!(
        side("recorded").contains("attempts: 0") && side("replayed").contains("attempts: 1"),
        "{found:#}"
    );
    let mut left_out = recorded;
    left_out.remove(at);
    write(&copy, &left_out);
    let (code, found) = replay(&copy);
    assert!(code == Some(1) && found.unwrap()["difference"]["event"].is_u64());

    // Changed, or taken out, as octets: damaged.
    let octets = fs::read(path).unwrap();
    let mut flipped = octets.clone();
    flipped[octets.len() / 2] ^= 1;
    let without = [&octets[..1_000], &octets[1_100..]].concat();
    for damaged in [flipped, without] {
        fs::write(&copy, damaged).unwrap();
        let (code, found) = replay(&copy);
        let damage = found.unwrap()["damage"].clone();
        assert!(code == Some(1) && damage.as_str().unwrap().contains("damaged at octet"), "{damage}");
    }
    // Torn: what is whole is replayed.
    fs::write(&copy, &octets[..octets.len() - 3]).unwrap();
    let (code, found) = replay(&copy);
    assert!(code == Some(0) && found.unwrap()["torn_octets"].as_u64() > Some(0));
    fs::write(&copy, "minutes of a meeting").unwrap();
    let (code, found) = replay(&copy);
    assert!(code == Some(1) && found.unwrap_err().contains("this is no journal of events"));
    assert_eq!(replay(&path.with_extension("absent")).0, Some(1));
}

/// Also beside one that a kill has torn, and one that is damaged: what stands there is in nobody's way.
fn the_next_life_records_beside(home: TempDir, events: u64) {
    let path = home.path().join(RECORD);
    let second = path.with_extension("2");
    let octets = fs::read(&second).unwrap();
    fs::write(&second, &octets[..octets.len() - 3]).unwrap();
    let switch = again(home, "");
    wait_for("record of it", || (replay(&path).1.ok()?["events"].as_u64() > Some(events)).then_some(()));
    let home = switch.stop();
    let path = home.path().join(RECORD);
    let (code, found) = replay(&path);
    let found = found.unwrap();
    assert_eq!(code, Some(0), "{found:#}");
    assert!(found["files"] == 3 && found["torn_octets"].as_u64() > Some(0), "{found:#}");
    fs::write(&second, "minutes of a meeting").unwrap();
    let switch = again(home, "");
    let fourth = path.with_extension("4");
    wait_for("record of it", || (replay(&fourth).0 == Some(0)).then_some(()));
    let _home = switch.stop();
    let (code, found) = replay(&path);
    let found = found.unwrap();
    assert!(code == Some(1) && found["stopped_in"] == second.display().to_string(), "{found:#}");
}

#[test]
fn a_recording_ends_at_its_bound_and_mail_goes_on() {
    const OCTETS_MAX: u64 = 1 << 20;
    let smtp = sink();
    let site = Site::new().peer("mta", "smtp", smtp.address(), &["smtp.test"]);
    let switch = recording(&site.tables(), &format!("record_octets_max = {OCTETS_MAX}\n"));
    let path = switch.home().join(RECORD);
    let mut sent = 0;
    wait_for("end of the recording", || {
        many(&switch, "a%d@smtp.test", 1_000);
        sent += 1_000;
        switch.log().contains("event=\"record.ended\"").then_some(())
    });
    many(&switch, "b%d@smtp.test", 100);
    assert!(smtp.wait_for(sent + 100, PATIENCE));
    assert!(fs::metadata(path.with_extension("1")).unwrap().len() <= OCTETS_MAX);
    assert_eq!(switch.status()["qmgr"]["recording"]["state"], "full");
    let (code, found) = replay(&path);
    let found = found.unwrap();
    assert!(code == Some(0) && found["is_full"] == true, "{found:#}");
    println!("{} octets, {} events, {sent} messages", found["octets"], found["events"]);
    // The next life finds no room, says so, and works.
    switch.kill("qmgr");
    many(&switch, "c%d@smtp.test", 100);
    assert!(smtp.wait_for(sent + 200, PATIENCE));
    wait_for("word of it", || switch.log().contains("event=\"record.not-begun\"").then_some(()));
    assert!(!path.with_extension("2").exists());
}

#[test]
fn the_log_says_why_processes_start_and_stop_and_until_when_a_start_is_held_off() {
    let smtp = sink();
    let site = Site::new().channel("idle_stop_s = 1").peer("mta", "smtp", smtp.address(), &["smtp.test"]);
    let switch = Switch::start(&site.tables());
    let line_of = |event: &str| {
        let is_it =
            |line: &&str| line.contains(&format!("event=\"{event}\"")) && line.contains("channel=\"smtp\"");
        switch.log().lines().find(is_it).map(str::to_owned)
    };
    flash(&switch, "flash@smtp.test");
    assert!(smtp.wait_for(1, PATIENCE));
    let start = wait_for("start", || line_of("channel.start"));
    assert!(start.contains("precedence=\"flash\" waiting=1 running=0"), "{start}");
    let stop = wait_for("stop", || line_of("channel.stop"));
    assert!(stop.contains("reason=it had nothing to do for its channel's idle_stop_s"), "{stop}");
    many(&switch, "a%d@smtp.test", 1);
    switch.kill("smtp");
    let held_off = wait_for("hold-off", || line_of("channel.start-held-off"));
    assert!(held_off.contains("failures=1 until=\"20"), "{held_off}");
}
