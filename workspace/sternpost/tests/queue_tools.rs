//! What operators do with what is in a queue: verify, export, import, restore, discard.

mod switch;

use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use switch::client::Client;
use switch::mail::{nobody, sink, sink_at};
use switch::queue::{
    TABLES, accept, ends, files, flip, id, ids, json, line, lines, listed, path, place, places, set_of,
    sha256, site, sternpost,
};
use switch::site::Site;
use switch::{PATIENCE, Room, SMALL_ROOM, Switch, program, text, wait_for};

/// A switch whose peer is away, with three messages of which one is large.
fn with_three_messages() -> (Switch, Vec<Vec<u8>>) {
    let switch = Switch::start_in(&site(nobody()), Room { segment_octets: 4 << 20, segments: 16 }, "auto");
    let mut client = Client::greet(switch.address());
    let contents = vec![lines("small", 400), lines("large", 8 << 20), lines("flash", 90_000)];
    accept(&mut client, &["b@smtp.test", "c@smtp.test"], &contents[0]);
    accept(&mut client, &["b@smtp.test"], &contents[1]);
    client.expect("MAIL FROM:<a@sender.test> MT-PRIORITY=4 RET=HDRS ENVID=Q+2B", "250");
    client.expect("RCPT TO:<b@smtp.test> NOTIFY=FAILURE,DELAY ORCPT=rfc822;x@y.test", "250");
    client.expect("DATA", "354");
    client.send(&contents[2]);
    client.send(b".\r\n");
    let reply = client.reply();
    assert!(reply.starts_with("250 "), "{reply}");
    (switch, contents)
}

#[test]
fn what_is_exported_is_imported_octet_for_octet_and_only_once() {
    let (switch, contents) = with_three_messages();
    let folder = switch::new_home();
    let to = folder.path().join("mail");
    let exported = switch.ask(&["queue", "export", "--to", path(&to)]);
    let ids = ids(&switch);
    assert_eq!(exported["exported"], Value::from(ids.clone()), "{exported}");
    assert_eq!(files(&to).len(), 6);
    for (id, content) in ids.iter().zip(&contents) {
        let eml = fs::read(to.join(format!("{id}.eml"))).expect("the content is there");
        assert!(eml.ends_with(content) && eml.starts_with(b"Received: "), "{id}");
        let envelope = fs::read(to.join(format!("{id}.json"))).expect("the envelope is there");
        let envelope: Value = serde_json::from_slice(&envelope).expect("it is JSON");
        assert_eq!(envelope["content_sha256"], sha256(&eml).as_str());
        assert_eq!(envelope["content_octets"], eml.len());
    }
    // Nothing is overwritten unless that is asked for, and nothing is left of the attempt.
    let again = switch.command(&["queue", "export", "--to", path(&to), &ids[0]]);
    ends(&again, 1);
    assert!(text(&again.stderr).contains("--force overwrites it"), "{}", text(&again.stderr));
    ends(&switch.command(&["queue", "export", "--force", "--to", path(&to), &ids[0]]), 0);
    assert_eq!(files(&to).len(), 6);
    let unknown = "00000000000000000000000000000000";
    ends(&switch.command(&["queue", "export", "--to", path(&to), unknown]), 1);
    // The queue keeps what is exported, and knows it again.
    let known = switch.ask(&["queue", "import", path(&to)]);
    let results: Vec<_> =
        known["messages"].as_array().expect("a list").iter().map(|one| &one["result"]).collect();
    assert_eq!(results, ["living"; 3]);
    // The log says the same without the switch.
    let home = switch.stop();
    let log = home.path().join("log");
    let offline = folder.path().join("offline");
    ends(&sternpost(&["queue", "export", "--path", path(&log), "--to", path(&offline)]), 0);
    for file in files(&to).iter().filter(|file| file.extension().is_some_and(|extension| extension == "eml"))
    {
        let name = file.file_name().expect("it has a name");
        assert!(fs::read(file).expect("a file") == fs::read(offline.join(name)).expect("a file"), "{name:?}");
    }
    arrives_in_another_queue(&offline, &ids, &contents);
}

fn arrives_in_another_queue(from: &Path, ids: &[String], contents: &[Vec<u8>]) {
    let address = nobody();
    let switch = Switch::start_in(&site(address), Room { segment_octets: 4 << 20, segments: 16 }, "auto");
    let imported = switch.ask(&["queue", "import", path(from)]);
    assert_eq!(imported["failed"], Value::Array(Vec::new()), "{imported}");
    assert_eq!(set_of(self::ids(&switch)), set_of(ids.to_vec()), "ids are those that they had");
    let shown = switch.ask(&["queue", "show", &ids[2]]);
    assert_eq!(
        (&shown["precedence"], &shown["envelope_id"], &shown["ret"]),
        (&"flash".into(), &"Q+2B".into(), &"HDRS".into())
    );
    let smtp = sink_at(address);
    assert!(smtp.wait_for(4, PATIENCE), "{:?}", smtp.counts());
    switch.wait_until_empty();
    for receipt in smtp.received() {
        let content = receipt.content.expect("the sink keeps content");
        assert!(contents.iter().any(|sent| content.ends_with(sent)), "{:?}", receipt.recipients);
    }
    let log = switch.log();
    let imported: Vec<_> = log.lines().filter(|line| line.contains("message.imported")).collect();
    assert!(imported.len() == 3 && imported.iter().all(|line| !line.contains("why=")), "{imported:?}");
    // What is over is remembered, and taken again only by another name.
    let again = switch.ask(&["queue", "import", path(from)]);
    let messages = again["messages"].as_array().expect("a list");
    assert!(messages.iter().all(|one| one["result"] == "dead"), "{again}");
    let json = from.join(format!("{}.json", ids[0]));
    let new = switch.ask(&["queue", "import", "--as-new", path(&json)]);
    assert_eq!(new["messages"][0]["result"], "imported", "{new}");
    assert_ne!(new["messages"][0]["new_id"], ids[0].as_str());
    assert!(smtp.wait_for(6, PATIENCE), "{:?}", smtp.counts());
}

#[test]
fn messages_are_imported_into_a_log_that_no_store_has() {
    let (switch, _) = with_three_messages();
    let folder = switch::new_home();
    let to = folder.path().join("mail");
    ends(&switch.command(&["queue", "export", "--to", path(&to)]), 0);
    let ids = ids(&switch);
    let other = Switch::start_in(&site(nobody()), Room { segment_octets: 4 << 20, segments: 16 }, "auto");
    let log = other.log_path();
    let busy = sternpost(&["queue", "import", "--path", path(&log), path(&to)]);
    ends(&busy, 1);
    assert!(
        text(&busy.stderr).contains("a switch runs on it; ask that one without --path, or stop it"),
        "{}",
        text(&busy.stderr)
    );
    let home = other.stop();
    let log = home.path().join("log");
    let imported = sternpost(&["queue", "import", "--path", path(&log), path(&to), "--json"]);
    ends(&imported, 0);
    assert_eq!(json(&imported)["messages"].as_array().map(Vec::len), Some(3));
    ends(&sternpost(&["queue", "verify", "--path", path(&log)]), 0);
    let again = sternpost(&["queue", "import", "--path", path(&log), path(&to), "--json"]);
    assert_eq!(json(&again)["messages"][0]["result"], "living");
    // Another peer is configured there: the messages wait, and it is said for what.
    let tables = Site::new().peer("other", "smtp", nobody(), &["smtp.test"]).tables();
    fs::write(home.path().join("tables.toml"), tables).expect("the folder can be written");
    let other = Switch::start_at(home, SMALL_ROOM, "auto", TABLES);
    assert_eq!(set_of(self::ids(&other)), set_of(ids.clone()));
    wait_for("reason", || {
        let why = text(&other.command(&["queue", "why", &ids[0]]).stdout);
        why.contains("not configured on the channel: configure one of this name there").then_some(())
    });
    // There must be a log: none is made.
    let nothing = folder.path().join("nothing");
    let output = sternpost(&["queue", "import", "--path", path(&nothing), path(&to)]);
    ends(&output, 1);
    assert!(
        !nothing.exists() && text(&output.stderr).contains("nothing is there. Is the path right?"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn a_recipient_that_is_terminal_is_not_attempted_again_after_an_import() {
    let (absent, present) = (nobody(), sink());
    let tables = Site::new()
        .peer("absent", "smtp", absent, &["absent.test"])
        .peer("present", "smtp", present.address(), &["present.test"])
        .tables();
    let switch = Switch::start(&tables);
    accept(&mut Client::greet(switch.address()), &["a@absent.test", "b@present.test"], &lines("half", 300));
    assert!(present.wait_for(1, PATIENCE));
    let is_half = || (listed(&switch, &[]).first()?["recipients_pending"] == 1).then_some(());
    wait_for("outcome of the first recipient", is_half);
    let folder = switch::new_home();
    ends(&switch.command(&["queue", "export", "--to", path(folder.path())]), 0);
    let home = switch.stop();
    fs::remove_file(home.path().join("log")).expect("the log is there");
    let switch = Switch::start_at(home, SMALL_ROOM, "auto", TABLES);
    ends(&switch.command(&["queue", "import", path(folder.path())]), 0);
    let returned = sink_at(absent);
    assert!(returned.wait_for(1, PATIENCE));
    switch.wait_until_empty();
    assert_eq!(
        (returned.received()[0].recipients.as_slice(), present.counts().received),
        (&["a@absent.test".to_owned()][..], 1)
    );
}

#[test]
fn what_is_wrong_with_an_import_is_named_and_nothing_of_it_is_taken() {
    let switch = Switch::start(&site(nobody()));
    accept(&mut Client::greet(switch.address()), &["b@smtp.test"], &lines("good", 100_000));
    let folder = switch::new_home();
    ends(&switch.command(&["queue", "export", "--to", path(folder.path())]), 0);
    let id = ids(&switch).remove(0);
    let (eml, envelope) = (folder.path().join(format!("{id}.eml")), folder.path().join(format!("{id}.json")));
    let (content, words) = (fs::read(&eml).expect("a file"), fs::read_to_string(&envelope).expect("a file"));
    let home = switch.stop();
    fs::remove_file(home.path().join("log")).expect("the log is there");
    let switch = Switch::start_at(home, SMALL_ROOM, "auto", TABLES);
    let refused = |wanted: &str| {
        let output = switch.command(&["queue", "import", path(folder.path())]);
        ends(&output, 1);
        let said = text(&output.stderr);
        assert!(said.contains(wanted) && said.contains(&id), "{wanted}: {said}");
        let status = switch.status();
        assert_eq!(
            (&status["store"]["messages"], &status["store"]["partials"]),
            (&0.into(), &0.into()),
            "{wanted}"
        );
    };
    let mut changed = content.clone();
    changed[90_000] ^= 1;
    fs::write(&eml, changed).expect("a file can be written");
    refused("content_sha256: the content has another SHA-256. Bring");
    fs::write(&eml, &content[..50]).expect("a file can be written");
    refused("content_octets: the content has 50 octets");
    fs::remove_file(&eml).expect("a file can be removed");
    refused("cannot be read");
    fs::write(&eml, &content).expect("a file can be written");
    fs::write(&envelope, words.replace("b@smtp.test", "b")).expect("a file can be written");
    refused("recipients[0].address: is not a mailbox. Leave");
    fs::write(&envelope, &words[..words.len() / 2]).expect("a file can be written");
    refused("is no JSON");
    fs::write(&envelope, &words).expect("a file can be written");
    let empty = switch::new_home();
    let output = switch.command(&["queue", "import", path(empty.path())]);
    ends(&output, 1);
    assert!(text(&output.stderr).contains("no exported message (ID.json)"), "{}", text(&output.stderr));
    ends(&switch.command(&["queue", "import", path(folder.path())]), 0);
    assert_eq!(ids(&switch), [id]);
}

#[test]
fn verify_names_the_damaged_record_and_export_saves_what_is_left() {
    let switch = Switch::start(&site(nobody()));
    let mut client = Client::greet(switch.address());
    accept(&mut client, &["b@smtp.test"], &lines("first", 300));
    accept(&mut client, &["b@smtp.test"], &lines("second", 200_000));
    accept(&mut client, &["b@smtp.test"], &lines("third", 300));
    let ids = ids(&switch);
    let home = switch.stop();
    let log = home.path().join("log");
    let whole = json(&sternpost(&["queue", "verify", "--path", path(&log), "--json"]));
    assert_eq!((&whole["damage"], &whole["isolated"]), (&Value::Array(vec![]), &Value::Array(vec![])));
    assert_eq!((&whole["messages"], &whole["records_by_kind"]["envelope"]), (&3.into(), &3.into()));
    assert!(whole["read_octets"].as_u64() > Some(200_000) && whole["segments_free"] == 31, "{whole}");
    let at = place(&log, "second", 1_000);
    flip(&log, at);
    let output = sternpost(&["queue", "verify", "--path", path(&log), "--json"]);
    ends(&output, 1);
    let found = json(&output);
    let damage = found["damage"].as_array().expect("a list");
    assert_eq!(damage.len(), 1, "{found}");
    let records = damage[0]["records"].as_array().expect("a list");
    let hit: Vec<_> = records.iter().filter(|record| record["is_whole"] == false).collect();
    assert_eq!(hit.len(), 1, "{found}");
    let (offset, octets) =
        (hit[0]["offset"].as_u64().expect("a number"), hit[0]["octets"].as_u64().expect("a number"));
    assert!((offset..offset + octets).contains(&at), "{at}: {found}");
    assert_eq!((&hit[0]["what"], &hit[0]["message"]), (&"content chunk 0".into(), &ids[1].as_str().into()));
    let isolated: Vec<_> = found["isolated"].as_array().expect("a list").iter().map(id).collect();
    assert!(isolated.contains(&ids[1]), "{found}");
    let people = sternpost(&["queue", "verify", "--path", path(&log)]);
    ends(&people, 1);
    assert!(text(&people.stdout).contains(&format!("{offset}")), "{}", text(&people.stdout));
    // What the damage has not hit is exported as it was, and what is left of the other one as what it is.
    let to = home.path().join("saved");
    let left_out = sternpost(&["queue", "export", "--path", path(&log), "--to", path(&to)]);
    ends(&left_out, 1);
    assert!(text(&left_out.stderr).contains("1 isolated message was left out"), "{}", text(&left_out.stderr));
    let all =
        sternpost(&["queue", "export", "--path", path(&log), "--to", path(&to), "--damaged", "--force"]);
    ends(&all, 1);
    assert!(
        text(&all.stderr).contains("1 place of this log is damaged; what stood there"),
        "{}",
        text(&all.stderr)
    );
    assert!(to.join(format!("{}.eml", ids[0])).exists() && to.join(format!("{}.eml", ids[2])).exists());
    let remains = fs::read(to.join(format!("{}.damaged.eml", ids[1]))).expect("a file");
    let envelope = fs::read(to.join(format!("{}.damaged.json", ids[1]))).expect("a file");
    let envelope: Value = serde_json::from_slice(&envelope).expect("it is JSON");
    assert_eq!(
        (&envelope["missing"][0]["first_chunk"], &envelope["missing"][0]["octets"]),
        (&0.into(), &61_440.into())
    );
    assert_eq!(envelope["content_found_octets"], remains.len());
    assert!(remains.ends_with(&lines("second", 200_000)[190_000..]));
    let damaged = to.join(format!("{}.damaged.json", ids[1]));
    let output = sternpost(&["queue", "import", "--path", path(&log), path(&damaged)]);
    ends(&output, 1);
    assert!(text(&output.stderr).contains("a part of this message is lost"), "{}", text(&output.stderr));
    // No log at all.
    ends(&sternpost(&["queue", "verify", "--path", path(&home.path().join("tables.toml"))]), 2);
}

/// A line in a segment that is full: a start reads its index, and not what is in it.
const IN_A_SEALED_SEGMENT: usize = 60_000;
/// A line in the newest segment, which a start reads in full.
const IN_THE_NEWEST_SEGMENT: usize = 150_000;

/// A switch with two messages of several batches, of which the first one lost the chunk with a line while the switch was stopped.
fn with_a_damaged_message(address: std::net::SocketAddr, at: usize) -> (Switch, Vec<String>) {
    let room = Room { segment_octets: 4 << 20, segments: 16 };
    let switch = Switch::start_in(&site(address), room, "auto");
    let mut client = Client::greet(switch.address());
    accept(&mut client, &["b@smtp.test", "c@smtp.test"], &lines("damaged", 5 << 20));
    accept(&mut client, &["b@smtp.test"], &lines("whole", 1 << 20));
    let ids = ids(&switch);
    let home = switch.stop();
    let log = home.path().join("log");
    flip(&log, place(&log, "damaged", at));
    (Switch::start_at(home, room, "auto", TABLES), ids)
}

/// The isolated messages, as soon as there is one.
fn isolated(switch: &Switch) -> Vec<Value> {
    switch.wait_for_status("isolated message", |status| (status["store"]["isolated"] == 1).then_some(()));
    listed(switch, &["--isolated"])
}

#[test]
fn a_message_that_was_damaged_on_the_disk_is_isolated_and_the_rest_delivered() {
    let address = nobody();
    let (switch, ids) = with_a_damaged_message(address, IN_A_SEALED_SEGMENT);
    // It is found at the latest when a channel reads it.
    let smtp = sink_at(address);
    let isolated = isolated(&switch);
    assert_eq!(isolated.iter().map(id).collect::<Vec<_>>(), [ids[0].clone()]);
    assert!(isolated[0]["why"].as_str().is_some_and(|why| !why.is_empty()), "{isolated:?}");
    let list = switch.command(&["queue", "list"]);
    assert!(text(&list.stderr).contains("1 isolated message is not listed"), "{}", text(&list.stderr));
    assert!(switch.log().contains("message.isolated"));
    assert!(smtp.wait_for(1, PATIENCE));
    let is_alone = |status: &Value| (status["store"]["messages"] == 1).then_some(());
    switch.wait_for_status("outcome of the other one", is_alone);
    assert_eq!(switch.status()["store"]["isolated"], 1);
    ends(&switch.command(&["status"]), 1);
    let why = switch.ask(&["queue", "why", &ids[0]]);
    assert!(why["why"].as_str().is_some_and(|why| why.contains("isolated")), "{why}");
    assert_eq!(switch.ask(&["queue", "show", &ids[0]])["recipients"][1]["state"], "pending");
    // It cannot be restored as it was, and what is left is sent on only if that is meant.
    for (arguments, words) in [(vec![], "--as-is sends on"), (vec!["--as-is"], "add --yes")] {
        let output = switch.command(&[&["queue", "restore", &ids[0]], &arguments[..]].concat());
        ends(&output, 1);
        assert!(text(&output.stderr).contains(words), "{}", text(&output.stderr));
    }
    let output = switch.command(&["queue", "restore", "--as-is", "--yes", &ids[0]]);
    ends(&output, 0);
    assert!(smtp.wait_for(3, PATIENCE));
    switch.wait_until_empty();
    assert_eq!(listed(&switch, &["--isolated"]), Vec::<Value>::new());
    let received = smtp.received();
    let sent_on =
        received.iter().find(|receipt| receipt.recipients.len() == 2).expect("what is left arrives");
    let content = text(sent_on.content.as_ref().expect("the sink keeps content"));
    assert!(content.starts_with("X-Sternpost-Damaged: message"), "{}", &content[..300]);
    assert!(
        content.contains(" are lost;\r\n") && content.contains("Subject: damaged"),
        "{}",
        &content[..600]
    );
    assert!(
        !content.contains(&line("damaged", IN_A_SEALED_SEGMENT))
            && content.contains(&line("damaged", 100_000))
    );
    assert!(content.split("\r\n").all(|line| !line.contains(['\r', '\n']) && line.len() < 998));
    assert!(switch.log().contains("message.discarded"));
}

#[test]
fn an_isolated_message_is_discarded_by_a_word_that_is_kept() {
    let (switch, ids) = with_a_damaged_message(nobody(), IN_THE_NEWEST_SEGMENT);
    // No channel has read it: the start has found it.
    isolated(&switch);
    let whole = switch.command(&["queue", "discard", &ids[1], "--why", "a mistake"]);
    ends(&whole, 1);
    assert!(text(&whole.stderr).contains("it is whole"), "{}", text(&whole.stderr));
    ends(&switch.command(&["queue", "discard", &ids[0]]), 2);
    ends(&switch.command(&["queue", "discard", &ids[0], "--why", "its sender knows"]), 0);
    assert_eq!(listed(&switch, &["--isolated"]), Vec::<Value>::new());
    assert!(switch.log().lines().any(|line| {
        line.contains("message.discarded") && line.contains(&ids[0]) && line.contains("its sender knows")
    }));
    assert_eq!(self::ids(&switch), ids[1..]);
    // It stays so.
    let home = switch.stop();
    let switch = Switch::start_at(home, SMALL_ROOM, "auto", TABLES);
    assert_eq!(switch.status()["store"]["isolated"], 0);
    ends(&switch.command(&["queue", "discard", &ids[0], "--why", "once more"]), 1);
}

/// A message that is longer than all that the store has read last and keeps.
const LONGER_THAN_A_WINDOW: usize = 4 << 20;

/// Lets the store forget what it has read last, by reading another message: the next reader gets what the disk has now.
fn read_elsewhere(switch: &Switch, id: &str) {
    let folder = switch::new_home();
    ends(&switch.command(&["queue", "export", "--to", path(folder.path()), id]), 0);
}

#[test]
fn damage_that_is_found_while_the_switch_runs_isolates_its_message_until_it_can_be_read() {
    let address = nobody();
    let switch = Switch::start(&site(address));
    let mut client = Client::greet(switch.address());
    accept(&mut client, &["b@smtp.test"], &lines("damaged", 20_000));
    accept(&mut client, &["b@smtp.test"], &lines("whole", LONGER_THAN_A_WINDOW));
    let ids = ids(&switch);
    // What was written a moment ago is in the store's memory, and would be read from there.
    let old = switch.kill("store");
    let log = switch.log_path();
    wait_for("new store", || new_store(&switch, old));
    switch.wait_for_status("two messages", |status| (status["store"]["messages"] == 2).then_some(()));
    let at = place(&log, "damaged", 300);
    flip(&log, at);
    read_elsewhere(&switch, &ids[1]);
    let smtp = sink_at(address);
    assert_eq!(isolated(&switch).iter().map(id).collect::<Vec<_>>(), [ids[0].clone()]);
    assert!(smtp.wait_for(1, PATIENCE));
    let received = smtp.received();
    assert!(text(received[0].content.as_ref().expect("the sink keeps content")).contains("Subject: whole"));
    assert_eq!(listed(&switch, &["--isolated"]).iter().map(id).collect::<Vec<_>>(), [ids[0].clone()]);
    let log_lines = switch.log();
    assert_eq!(log_lines.lines().filter(|line| line.contains("kept apart and not attempted")).count(), 1);
    // A new QMGR does not hear of it either.
    switch.kill("qmgr");
    switch.wait_for_status("tree", |status| (status["qmgr"]["tree"] == "going").then_some(()));
    assert_eq!(switch.status()["qmgr"]["scheduler"]["waiting"], 0);
    ends(&switch.command(&["queue", "restore", &ids[0]]), 1);
    // The disk reads what was written again.
    flip(&log, at);
    ends(&switch.command(&["queue", "restore", &ids[0]]), 0);
    assert!(smtp.wait_for(2, PATIENCE));
    switch.wait_until_empty();
    assert_eq!((smtp.counts().duplicated, smtp.counts().received), (0, 2));
    assert!(switch.log().contains("message.restored"));
}

#[test]
fn what_is_found_damaged_by_an_export_is_exported_once() {
    let switch = Switch::start(&site(nobody()));
    let mut client = Client::greet(switch.address());
    accept(&mut client, &["b@smtp.test"], &lines("damaged", 20_000));
    accept(&mut client, &["b@smtp.test"], &lines("damaged too", 20_000));
    accept(&mut client, &["b@smtp.test"], &lines("whole", LONGER_THAN_A_WINDOW));
    let ids = ids(&switch);
    let old = switch.kill("store");
    wait_for("new store", || new_store(&switch, old));
    for subject in ["damaged", "damaged too"] {
        flip(&switch.log_path(), place(&switch.log_path(), subject, 300));
    }
    read_elsewhere(&switch, &ids[2]);
    assert_eq!(switch.status()["store"]["isolated"], 0);
    let folder = switch::new_home();
    let exported = switch.ask(&["queue", "export", "--damaged", "--to", path(folder.path())]);
    assert_eq!((&exported["exported"], &exported["damaged"]), (&ids[2..].into(), &ids[..2].into()));
    assert_eq!(switch.status()["store"]["isolated"], 2);
    assert_eq!(files(folder.path()).len(), 6);
}

#[test]
fn a_message_whose_envelope_is_damaged_is_exported_without_it_and_discarded() {
    let switch = Switch::start(&site(nobody()));
    let content = lines("damaged", 20_000);
    let mut client = Client::greet(switch.address());
    let reply = client.message("<once-only@sender.test>", &["b@smtp.test"], &content);
    assert!(reply.starts_with("250 "), "{reply}");
    accept(&mut client, &["b@smtp.test"], &lines("whole", LONGER_THAN_A_WINDOW));
    let ids = ids(&switch);
    let old = switch.kill("store");
    wait_for("new store", || new_store(&switch, old));
    let log = switch.log_path();
    let at = places(&log, b"once-only@sender.test");
    assert_eq!(at.len(), 1);
    flip(&log, at[0]);
    read_elsewhere(&switch, &ids[1]);
    assert_eq!(isolated(&switch).iter().map(id).collect::<Vec<_>>(), ids[..1]);
    let output = switch.command(&["queue", "show", &ids[0]]);
    ends(&output, 1);
    assert!(text(&output.stderr).contains("is damaged"), "{}", text(&output.stderr));
    let output = switch.command(&["queue", "restore", "--as-is", "--yes", &ids[0]]);
    ends(&output, 1);
    assert!(text(&output.stderr).contains("its envelope cannot be read"), "{}", text(&output.stderr));
    let folder = switch::new_home();
    ends(&switch.command(&["queue", "export", "--to", path(folder.path()), &ids[0]]), 1);
    assert_eq!(files(folder.path()).len(), 0);
    ends(&switch.command(&["queue", "export", "--damaged", "--to", path(folder.path()), &ids[0]]), 0);
    let saved = fs::read(folder.path().join(format!("{}.damaged.eml", ids[0]))).expect("a file");
    assert!(saved.ends_with(&content));
    let words = fs::read(folder.path().join(format!("{}.damaged.json", ids[0]))).expect("a file");
    let words: Value = serde_json::from_slice(&words).expect("it is JSON");
    assert!(words["envelope_lost"].as_str().is_some_and(|why| why.contains("damaged")), "{words}");
    ends(&switch.command(&["queue", "discard", &ids[0], "--why", "nobody knows whose it is"]), 0);
    assert_eq!(self::ids(&switch), ids[1..]);
    assert_eq!(switch.status()["store"]["isolated"], 0);
}

#[test]
fn a_message_whose_envelope_was_damaged_when_it_was_moved_stays_isolated_until_it_is_exported_and_discarded()
{
    let smtp = sink();
    let tables = Site::new().peer("away", "smtp", nobody(), &["away.test"]).peer(
        "mta",
        "smtp",
        smtp.address(),
        &["smtp.test"],
    );
    let switch = Switch::start(&tables.tables());
    let content = lines("damaged", 20_000);
    let mut client = Client::greet(switch.address());
    let reply = client.message("<once-only@sender.test>", &["b@away.test"], &content);
    assert!(reply.starts_with("250 "), "{reply}");
    let id = ids(&switch).remove(0);
    let at = places(&switch.log_path(), b"once-only@sender.test");
    flip(&switch.log_path(), at[0]);
    // Mail that passes, until the log is written anew from its beginning and the message has to move.
    for number in 0..2 * SMALL_ROOM.segments {
        accept(&mut client, &["b@smtp.test"], &lines(&format!("passing {number}"), 1 << 20));
    }
    let why = |switch: &Switch| isolated(switch)[0]["why"].as_str().expect("a reason").to_owned();
    assert!(why(&switch).contains("envelope"), "{}", why(&switch));
    let log = switch.log();
    assert!(log.contains("log.alarm") && log.contains(&id), "{log}");
    let home = switch.stop();
    let switch = Switch::start_at(home, SMALL_ROOM, "auto", TABLES);
    isolated(&switch);
    ends(&switch.command(&["queue", "restore", "--as-is", "--yes", &id]), 1);
    let folder = switch::new_home();
    ends(&switch.command(&["queue", "export", "--damaged", "--to", path(folder.path()), &id]), 0);
    let saved = fs::read(folder.path().join(format!("{id}.damaged.eml"))).expect("a file");
    assert!(saved.ends_with(&content));
    let words = fs::read(folder.path().join(format!("{id}.damaged.json"))).expect("a file");
    let words: Value = serde_json::from_slice(&words).expect("it is JSON");
    assert!(words["envelope_lost"].as_str().is_some_and(|why| why.contains("envelope")), "{words}");
    ends(&switch.command(&["queue", "discard", &id, "--why", "nobody knows whose it is"]), 0);
    assert_eq!(switch.status()["store"]["isolated"], 0);
}

/// A client in the middle of a message, of which so many octets were sent.
fn in_the_middle(switch: &Switch, octets: usize) -> Client {
    let mut client = Client::greet(switch.address());
    client.expect("MAIL FROM:<a@sender.test>", "250");
    client.expect("RCPT TO:<b@smtp.test>", "250");
    client.expect("DATA", "354");
    client.send(&lines("partial", octets));
    client
}

/// Whether another store answers than the one that was killed.
fn new_store(switch: &Switch, old: u32) -> Option<()> {
    let is_new = switch.processes().iter().any(|one| one.role == "store" && one.pid != old);
    (is_new && switch.status_if_any()?["store"]["messages"].is_u64()).then_some(())
}

fn partial(switch: &Switch) -> Value {
    wait_for("partial message", || listed(switch, &["--partials"]).pop())
}

#[test]
fn a_partial_message_is_listed_with_its_sender_and_killed_without_ending_the_session() {
    let smtp = sink();
    let switch = Switch::start(&site(smtp.address()));
    let mut client = in_the_middle(&switch, 200_000);
    let first = partial(&switch);
    assert!(first["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")), "{first}");
    assert!(first["octets"].as_u64() >= Some(61_440) && first["age_s"].is_u64(), "{first}");
    let list = switch.command(&["queue", "list", "--partials"]);
    assert!(text(&list.stdout).contains(&id(&first)), "{}", text(&list.stdout));
    // A store that is started again does not know the sender before its next words: all that it has sent is answered.
    wait_for("three chunks", || (partial(&switch)["octets"] == 3 * 61_440).then_some(()));
    let old = switch.kill("store");
    wait_for("new store", || new_store(&switch, old));
    assert_eq!(partial(&switch)["peer"], Value::Null);
    client.send(&lines("more", 100_000));
    wait_for("sender", || partial(&switch)["peer"].as_str().map(drop));
    let id = id(&partial(&switch));
    let shown = switch.command(&["queue", "show", &id]);
    ends(&shown, 1);
    assert!(text(&shown.stdout).contains("it is partial: its sender"), "{}", text(&shown.stdout));
    let folder = switch::new_home();
    let exported = switch.command(&["queue", "export", "--to", path(folder.path()), &id]);
    ends(&exported, 1);
    assert!(text(&exported.stderr).contains("it is partial: its sender"), "{}", text(&exported.stderr));
    ends(&switch.command(&["queue", "discard", &id, "--why", "it fills the queue"]), 0);
    // Nothing of what still comes begins it anew.
    client.send(&lines("still more", 300_000));
    client.send(b".\r\n");
    let reply = client.reply();
    assert!(reply.starts_with("554 5.3.0 "), "{reply}");
    assert_eq!(listed(&switch, &["--partials"]), Vec::<Value>::new());
    accept(&mut client, &["b@smtp.test"], &lines("after", 100_000));
    assert!(smtp.wait_for(1, PATIENCE));
    switch.wait_until_empty();
    assert!(
        switch
            .log()
            .lines()
            .any(|line| line.contains("message.discarded") && line.contains("it fills the queue"))
    );
    assert!(!switch.log().contains("append.invalid"));
    ends(&switch.command(&["queue", "discard", &id, "--why", "once more"]), 1);
}

#[test]
fn a_partial_message_whose_sender_the_store_does_not_know_is_killed_as_others_are() {
    let smtp = sink();
    let switch = Switch::start(&site(smtp.address()));
    let mut client = in_the_middle(&switch, 200_000);
    wait_for("three chunks", || (partial(&switch)["octets"] == 3 * 61_440).then_some(()));
    let old = switch.kill("store");
    wait_for("new store", || new_store(&switch, old));
    let id = id(&partial(&switch));
    ends(&switch.command(&["queue", "discard", &id, "--why", "nobody knows whose it is"]), 0);
    assert_eq!(listed(&switch, &["--partials"]), Vec::<Value>::new());
    client.send(&lines("more", 300_000));
    client.send(b".\r\n");
    let reply = client.reply();
    assert!(reply.starts_with("554 5.3.0 "), "{reply}");
    accept(&mut client, &["b@smtp.test"], &lines("after", 100_000));
    assert!(smtp.wait_for(1, PATIENCE));
    switch.wait_until_empty();
    assert!(!switch.log().contains("append.invalid"));
}

#[test]
fn an_import_takes_nothing_over_from_a_partial_message_of_its_id() {
    let switch = Switch::start(&site(nobody()));
    accept(&mut Client::greet(switch.address()), &["b@smtp.test"], &lines("exported", 100_000));
    let folder = switch::new_home();
    let exported = ids(&switch).remove(0);
    ends(&switch.command(&["queue", "export", "--to", path(folder.path())]), 0);
    let client = in_the_middle(&switch, 200_000);
    let id = id(&partial(&switch));
    let file = |name: &str, ending: &str| folder.path().join(format!("{name}.{ending}"));
    let content = fs::read(file(&exported, "eml")).expect("a file");
    let words = fs::read_to_string(file(&exported, "json")).expect("a file");
    fs::write(file(&id, "eml"), &content).expect("a file can be written");
    fs::write(file(&id, "json"), words.replace(&exported, &id)).expect("a file can be written");
    ends(&switch.command(&["queue", "import", path(&file(&id, "json"))]), 0);
    let again = switch::new_home();
    ends(&switch.command(&["queue", "export", "--to", path(again.path()), &id]), 0);
    assert!(fs::read(again.path().join(format!("{id}.eml"))).expect("a file") == content);
    drop(client);
}

#[test]
fn content_of_which_nothing_more_comes_is_swept_after_the_time_that_the_bootstrap_says() {
    let smtp = sink();
    let home = switch::new_home();
    fs::write(home.path().join("tables.toml"), site(smtp.address())).expect("the folder can be written");
    let switch = Switch::start_at(home, SMALL_ROOM, "auto", &format!("partial_timeout_s = 2\n{TABLES}"));
    let mut data = in_the_middle(&switch, 200_000);
    let mut chunks = Client::greet(switch.address());
    chunks.expect("MAIL FROM:<a@sender.test>", "250");
    chunks.expect("RCPT TO:<b@smtp.test>", "250");
    let content = lines("chunks", 200_000);
    chunks.send(format!("BDAT {}\r\n", content.len()).as_bytes());
    chunks.send(&content);
    let reply = chunks.reply();
    assert!(reply.starts_with("250 "), "{reply}");
    wait_for("two partial messages", || (listed(&switch, &["--partials"]).len() == 2).then_some(()));
    wait_for("no partial message", || listed(&switch, &["--partials"]).is_empty().then_some(()));
    // Who goes on after all hears that it was in vain, and may try again at once.
    data.send(b".\r\n");
    chunks.send(b"BDAT 3 LAST\r\nend");
    for mut client in [data, chunks] {
        let reply = client.reply();
        assert!(reply.starts_with("451 4.4.2 "), "{reply}");
        accept(&mut client, &["b@smtp.test"], &lines("again", 100_000));
    }
    assert!(smtp.wait_for(2, PATIENCE));
    switch.wait_until_empty();
    assert!(!switch.log().contains("append.invalid"));
}

#[test]
fn partial_messages_that_fill_their_share_raise_one_alarm_and_the_room_ends_it() {
    let smtp = sink();
    let switch =
        Switch::start_in(&site(smtp.address()), Room { segment_octets: 1 << 20, segments: 8 }, "auto");
    let alarms = |words: &str| switch.log().lines().filter(|line| line.contains(words)).count();
    // A fifth of 8 MiB.
    let mut clients =
        [in_the_middle(&switch, 1 << 20), in_the_middle(&switch, 1 << 20), in_the_middle(&switch, 1 << 20)];
    switch.wait_for_status("full share", |status| (status["store"]["partials_full"] == true).then_some(()));
    ends(&switch.command(&["status"]), 1);
    // Mail that comes as a whole is taken all the same.
    accept(&mut Client::greet(switch.address()), &["b@smtp.test"], &lines("small", 300));
    assert!(smtp.wait_for(1, PATIENCE));
    let mut refused = 0;
    for client in &mut clients {
        client.send(b".\r\n");
        let reply = client.reply();
        refused += usize::from(reply.starts_with("452 4.3.1 "));
        assert!(reply.starts_with("250 ") || reply.starts_with("452 4.3.1 "), "{reply}");
    }
    assert!(refused >= 1);
    switch.wait_for_status("room", |status| (status["store"]["partials_full"] == false).then_some(()));
    wait_for("word of it", || (alarms("have room again") == 1).then_some(()));
    assert_eq!(alarms("messages that are not complete fill"), 1);
    switch.wait_until_empty();
}

#[test]
fn a_message_of_many_mib_is_exported_and_imported_in_bounded_memory() {
    const OCTETS: usize = 48 << 20;
    const ROOM: Room = Room { segment_octets: 16 << 20, segments: 20 };
    let switch = Switch::start_in(&site(nobody()), ROOM, "auto");
    let mut client = Client::greet(switch.address());
    accept(&mut client, &["b@smtp.test"], &lines("large", OCTETS));
    let folder = switch::new_home();
    let store = switch.pid("store");
    let idle = switch::pss_octets(store);
    let peaks = |arguments: &[&str], switch: &Switch| {
        let mut command = Command::new(program());
        command.args(arguments).arg("--bootstrap").arg(switch.bootstrap());
        let mut command =
            command.stdout(std::process::Stdio::null()).spawn().expect("the binary can be started");
        let (mut own, mut of_store) = (0, 0);
        let pid = switch.pid("store");
        let ended = loop {
            if let Some(ended) = command.try_wait().expect("a child can be waited for") {
                break ended;
            }
            own = switch::pss_octets(command.id()).max(own);
            of_store = switch::pss_octets(pid).max(of_store);
            std::thread::sleep(Duration::from_millis(5));
        };
        assert!(ended.success());
        (own, of_store)
    };
    let (own, of_store) = peaks(&["queue", "export", "--to", path(folder.path())], &switch);
    println!(
        "export: {} KiB in the command, {} KiB more in the store",
        own >> 10,
        of_store.saturating_sub(idle) >> 10
    );
    assert!(own < 8 << 20 && of_store < idle + (8 << 20), "{own} {of_store} {idle}");
    let other = Switch::start_in(&site(nobody()), ROOM, "auto");
    let idle = switch::pss_octets(other.pid("store"));
    let (own, of_store) = peaks(&["queue", "import", path(folder.path())], &other);
    println!(
        "import: {} KiB in the command, {} KiB more in the store",
        own >> 10,
        of_store.saturating_sub(idle) >> 10
    );
    assert!(own < 24 << 20 && of_store < idle + (24 << 20), "{own} {of_store} {idle}");
    assert_eq!(ids(&other), ids(&switch));
}
