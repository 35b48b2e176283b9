//! What operators do with what is in a queue: verify, export, import.

mod switch;

use serde_json::Value;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use switch::client::Client;
use switch::mail::{nobody, sink, sink_at};
use switch::site::Site;
use switch::{PATIENCE, Room, SMALL_ROOM, Switch, program, run, text, wait_for};

const TABLES: &str = "[tables]\npath = \"tables.toml\"\n";

fn sternpost(arguments: &[&str]) -> Output {
    run(Command::new(program()).args(arguments))
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output.stdout)))
}

/// The output of a command that must end so.
fn ends(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{}{}", text(&output.stdout), text(&output.stderr));
}

fn path(path: &Path) -> &str {
    path.to_str().expect("the folder of a test has a plain name")
}

fn site(address: std::net::SocketAddr) -> String {
    Site::new().peer("mta", "smtp", address, &["smtp.test"]).tables()
}

/// A message with a line for each 32 octets, each of them unlike all others.
fn lines(subject: &str, octets: usize) -> Vec<u8> {
    let mut content = format!("Subject: {subject}\r\n\r\n").into_bytes();
    for number in 0.. {
        if content.len() >= octets {
            return content;
        }
        content.extend_from_slice(line(subject, number).as_bytes());
    }
    unreachable!("there are more numbers than octets")
}

fn line(subject: &str, number: usize) -> String {
    format!("{subject:->14} {number:010} line\r\n")
}

fn accept(client: &mut Client, recipients: &[&str], content: &[u8]) {
    let reply = client.message("<a@sender.test>", recipients, content);
    assert!(reply.starts_with("250 "), "{reply}");
}

/// The places of a text in a log.
fn places(log: &Path, needle: &[u8]) -> Vec<u64> {
    let octets = fs::read(log).expect("the log can be read");
    let found = octets.windows(needle.len()).enumerate().filter(|(_, window)| *window == needle);
    found.map(|(at, _)| at as u64).collect()
}

/// Changes one octet of a log, also under a running store.
fn flip(log: &Path, at: u64) {
    use std::os::unix::fs::FileExt;
    let mut file = fs::File::options().read(true).write(true).open(log).expect("the log can be opened");
    let mut octet = [0];
    file.read_exact_at(&mut octet, at).expect("the log can be read");
    file.seek(SeekFrom::Start(at)).expect("the log can be written");
    file.write_all(&[octet[0] ^ 1]).expect("the log can be written");
    file.sync_all().expect("the log can be written");
}

/// The one place of a line of a message's content in a log.
fn place(log: &Path, subject: &str, number: usize) -> u64 {
    let found = places(log, line(subject, number).as_bytes());
    assert_eq!(found.len(), 1, "{subject} {number}");
    found[0]
}

fn listed(switch: &Switch, arguments: &[&str]) -> Vec<Value> {
    let listed = switch.ask(&[&["queue", "list"], arguments].concat());
    listed.as_array().expect("a list").clone()
}

fn id(value: &Value) -> String {
    value["id"].as_str().expect("an id").to_owned()
}

/// The ids of the living messages, in the order of acceptance.
fn ids(switch: &Switch) -> Vec<String> {
    listed(switch, &[]).iter().map(id).collect()
}

/// The same in any order: what is urgent overtakes the rest.
fn set_of(mut ids: Vec<String>) -> Vec<String> {
    ids.sort_unstable();
    ids
}

fn sha256(octets: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(octets).iter().map(|octet| format!("{octet:02x}")).collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .expect("the folder is there")
        .map(|entry| entry.expect("a file").path())
        .collect();
    files.sort();
    files
}

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
    assert!(switch.log().contains("message.imported"));
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
    assert!(text(&busy.stderr).contains("in use by another store"), "{}", text(&busy.stderr));
    let home = other.stop();
    let log = home.path().join("log");
    let imported = sternpost(&["queue", "import", "--path", path(&log), path(&to), "--json"]);
    ends(&imported, 0);
    assert_eq!(json(&imported)["messages"].as_array().map(Vec::len), Some(3));
    ends(&sternpost(&["queue", "verify", "--path", path(&log)]), 0);
    let again = sternpost(&["queue", "import", "--path", path(&log), path(&to), "--json"]);
    assert_eq!(json(&again)["messages"][0]["result"], "living");
    let other = Switch::start_at(home, SMALL_ROOM, "auto", TABLES);
    assert_eq!(set_of(self::ids(&other)), set_of(ids));
    // There must be a log: none is made.
    let nothing = folder.path().join("nothing");
    let output = sternpost(&["queue", "import", "--path", path(&nothing), path(&to)]);
    ends(&output, 1);
    assert!(
        !nothing.exists() && text(&output.stderr).contains("there is no log at"),
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
    assert!(text(&left_out.stderr).contains("isolated messages were left out"), "{}", text(&left_out.stderr));
    ends(
        &sternpost(&["queue", "export", "--path", path(&log), "--to", path(&to), "--damaged", "--force"]),
        0,
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
