//! The files of the queue's commands when they are not what the operator takes them for: logs that are damaged, cut short or none,
//! folders with other files than messages, a file system that is full.

mod switch;

use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use switch::client::Client;
use switch::mail::nobody;
use switch::queue::{
    TABLES, accept, ends, files, flip, ids, json as json_of, lines, path, place, sha256, site, sternpost,
};
use switch::{Room, Switch, new_home, program, run, text};
use tempfile::TempDir;

const ROOM: Room = Room { segment_octets: 1 << 20, segments: 8 };
/// Superblocks and all segments.
const LOG_OCTETS: u64 = 65_536 + 8 * (1 << 20);

/// The folder of a switch that was stopped with these messages in its queue, and their ids.
fn stopped_with(contents: &[Vec<u8>]) -> (TempDir, Vec<String>) {
    let switch = Switch::start_in(&site(nobody()), ROOM, "auto");
    for content in contents {
        accept(&mut Client::greet(switch.address()), &["b@smtp.test"], content);
    }
    let ids = ids(&switch);
    (switch.stop(), ids)
}

/// Ten messages, strewn over three segments.
fn ten() -> Vec<Vec<u8>> {
    (0..10).map(|number| lines(&format!("number {number}"), 300_000)).collect()
}

fn said(output: &Output) -> String {
    text(&output.stderr)
}

#[test]
fn commands_on_a_log_with_a_lost_segment_say_that_mail_is_missing() {
    let (home, ids) = stopped_with(&ten());
    let log = home.path().join("log");
    let file = fs::File::options().write(true).open(&log).expect("the log can be opened");
    file.write_all_at(&vec![0; 1 << 20], 65_536 + (1 << 20)).expect("the log can be written");
    let warning = |not_done: &str| {
        format!(
            "damaged; what stood there is not {not_done}; sternpost queue verify --path {} names",
            path(&log)
        )
    };
    for (number, arguments) in [&[][..], &["--damaged"]].iter().enumerate() {
        let to = home.path().join(format!("mail {number}"));
        let export = ["queue", "export", "--json", "--path", path(&log), "--to", path(&to)];
        let output = sternpost(&[&export[..], *arguments].concat());
        ends(&output, 1);
        assert!(said(&output).contains(&warning("exported")), "{}", said(&output));
        let done = json_of(&output);
        assert!(done["damaged_places"].as_u64() > Some(0), "{done}");
        assert!(!done["exported"].as_array().expect("a list").is_empty(), "{done}");
    }
    // Who asks for a message that is whole has got all that was asked for.
    let to = home.path().join("one");
    ends(&sternpost(&["queue", "export", "--path", path(&log), "--to", path(&to), &ids[0]]), 0);
    for arguments in [&[][..], &["--isolated"], &["--partials"]] {
        let output = sternpost(&[&["queue", "list", "--path", path(&log)], arguments].concat());
        ends(&output, 0);
        assert!(said(&output).contains(&warning("listed")), "{arguments:?}: {}", said(&output));
    }
}

#[test]
fn a_log_that_has_lost_its_newest_segments_says_so_to_the_commands_and_to_the_switch() {
    let (home, all) = stopped_with(&ten());
    let log = home.path().join("log");
    let verify = || sternpost(&["queue", "verify", "--json", "--path", path(&log)]);
    let living = json_of(&verify())["segments_living"].as_u64().expect("a number");
    assert!(living >= 3, "{living}");
    let file = fs::File::options().write(true).open(&log).expect("the log can be opened");
    let kept = 65_536 + (1 << 20);
    file.write_all_at(&vec![0; usize::try_from(LOG_OCTETS - kept).expect("it is small")], kept)
        .expect("the log can be written");
    let output = verify();
    ends(&output, 1);
    let place = &json_of(&output)["damage"][0];
    assert_eq!((&place["what"], &place["offset"]), (&json!("whole segment"), &Value::Null));
    let output = sternpost(&["queue", "verify", "--path", path(&log)]);
    assert!(text(&output.stdout).contains("unknown"), "{}", text(&output.stdout));
    let switch = Switch::start_at(home, ROOM, "auto", TABLES);
    let left = ids(&switch);
    assert!(!left.is_empty() && left.len() < all.len() && left.iter().all(|id| all.contains(id)));
    ends(&switch.command(&["status"]), 1);
    assert_eq!(switch.status()["store"]["damaged_places"], 1);
    accept(&mut Client::greet(switch.address()), &["b@smtp.test"], &lines("after it", 300_000));
    assert_eq!(ids(&switch).len(), left.len() + 1);
}

/// What every command that takes a log says of this one: it must be the same, and nothing is written.
fn refusals(log: &Path) -> Vec<String> {
    let folder = new_home();
    let to = folder.path().join("mail");
    let rows: [(&[&str], &[&str], i32); 4] = [
        (&["queue", "verify"], &[], 2),
        (&["queue", "list"], &[], 1),
        (&["queue", "export", "--to", path(&to)], &[], 1),
        (&["queue", "import"], &[path(folder.path())], 1),
    ];
    let refusal = |(before, behind, code): &(&[&str], &[&str], i32)| {
        let mut command = Command::new("timeout");
        command.arg("30").arg(program()).args(*before).arg("--path").arg(log).args(*behind);
        let output = run(&mut command);
        ends(&output, *code);
        said(&output)
    };
    rows.iter().map(refusal).collect()
}

#[test]
fn what_is_no_log_is_told_as_such_and_never_with_a_command_that_writes_over_it() {
    let folder = new_home();
    let place = |name: &str| folder.path().join(name);
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, place("pipe"), rustix::fs::FileType::Fifo, mode, 0)
        .expect("the folder of a test can be written");
    symlink("circle", place("circle")).expect("the folder of a test can be written");
    fs::write(place("text"), "minutes of the meeting").expect("the folder of a test can be written");
    fs::write(place("zeroes"), vec![0; 200_000]).expect("the folder of a test can be written");
    let kind = "it is neither a file nor a block device. Is the path right?";
    let rows = [
        (place("absent"), "nothing is there. Is the path right? It is the file or device that [queue] path"),
        (place("."), kind),
        (place("pipe"), kind),
        (PathBuf::from("/dev/null"), kind),
        (place("circle"), "Too many levels of symbolic links"),
        (place("text"), "this is no log. Is the path right? It is the file or device that [queue] path"),
        (place("zeroes"), "this is no log. Is the path right?"),
    ];
    for (log, words) in rows {
        for refusal in refusals(&log) {
            assert!(refusal.contains(words) && refusal.contains(path(&log)), "{words}: {refusal}");
            assert!(!refusal.contains("dd of="), "{refusal}");
        }
    }
    assert!(!place("absent").exists());
    assert_eq!(fs::read(place("zeroes")).expect("a file"), vec![0; 200_000]);
}

#[test]
fn a_log_that_is_cut_short_says_so_and_is_read_when_it_is_lengthened() {
    let (home, ids) = stopped_with(&[lines("only", 300)]);
    let log = home.path().join("log");
    let cut = |octets: u64| {
        let file = fs::File::options().write(true).open(&log).expect("the log can be opened");
        file.set_len(octets).expect("the log can be cut");
    };
    for octets in [LOG_OCTETS - 1, 40_000] {
        cut(octets);
        let words = format!(
            "the log has {LOG_OCTETS} octets, and this file or device {} fewer: it is cut short",
            LOG_OCTETS - octets
        );
        for refusal in refusals(&log) {
            assert!(refusal.contains(&words), "{words}: {refusal}");
            assert!(refusal.contains(&format!("truncate -s {LOG_OCTETS} COPY")), "{refusal}");
        }
        if octets > 40_000 {
            cut(LOG_OCTETS);
            let listed = json_of(&sternpost(&["queue", "list", "--json", "--path", path(&log)]));
            assert_eq!(listed[0]["id"], ids[0].as_str());
        }
    }
}

#[test]
fn a_last_batch_that_is_torn_is_explained() {
    let (home, ids) = stopped_with(&[lines("first", 300), lines("second", 300)]);
    let (empty, _) = stopped_with(&[]);
    let (log, mail) = (empty.path().join("log"), home.path().join("mail"));
    ends(&sternpost(&["queue", "export", "--path", path(&home.path().join("log")), "--to", path(&mail)]), 0);
    // A command for each: the second message is alone in the last batch.
    for id in &ids {
        let json = mail.join(format!("{id}.json"));
        ends(&sternpost(&["queue", "import", "--path", path(&log), path(&json)]), 0);
    }
    let whole = sternpost(&["queue", "verify", "--path", path(&log)]);
    assert!(text(&whole.stdout).contains("as it was written\n"), "{}", text(&whole.stdout));
    flip(&log, place(&log, "second", 3));
    let torn = sternpost(&["queue", "verify", "--path", path(&log)]);
    ends(&torn, 0);
    let torn = text(&torn.stdout);
    assert!(torn.contains("as it was written, but for a last batch that is not complete\n"), "{torn}");
    assert!(torn.contains("Nobody was told that") && torn.contains("would look the same"), "{torn}");
}

/// Two exported messages and a log without any, with their switches stopped.
struct Exported {
    home: TempDir,
    mail: PathBuf,
    ids: Vec<String>,
    empty: TempDir,
}

impl Exported {
    fn new() -> Self {
        let (home, ids) = stopped_with(&[lines("first", 300), lines("second", 300)]);
        let mail = home.path().join("mail");
        let log = home.path().join("log");
        ends(&sternpost(&["queue", "export", "--path", path(&log), "--to", path(&mail)]), 0);
        Self { home, mail, ids, empty: stopped_with(&[]).0 }
    }

    /// Imports into a log in which nothing is.
    fn import(&self, arguments: &[&Path]) -> Output {
        let log = self.home.path().join("copy");
        fs::copy(self.empty.path().join("log"), &log).expect("the folder of a test can be written");
        run(Command::new(program()).args(["queue", "import", "--path"]).arg(&log).args(arguments))
    }

    fn file(&self, ending: &str) -> PathBuf {
        self.mail.join(format!("{}.{ending}", self.ids[0]))
    }

    /// A folder with the first message alone, under its id, and with `content` in the place of its own.
    fn folder_with(&self, name: &str, content: &[u8]) -> PathBuf {
        let folder = self.home.path().join(name);
        fs::create_dir(&folder).expect("the folder of a test can be written");
        let words = fs::read(self.file("json")).expect("a file");
        let mut words: Value = serde_json::from_slice(&words).expect("it is JSON");
        words["content_sha256"] = sha256(content).into();
        words["content_octets"] = content.len().into();
        let place = |ending: &str| folder.join(format!("{}.{ending}", self.ids[0]));
        fs::write(place("json"), words.to_string()).expect("the folder of a test can be written");
        fs::write(place("eml"), content).expect("the folder of a test can be written");
        folder
    }
}

#[test]
fn what_an_import_does_not_take_is_named() {
    let exported = Exported::new();
    let damaged = exported.file("damaged.json");
    fs::write(&damaged, json!({ "format": "sternpost message 1", "missing": [] }).to_string())
        .expect("the folder of a test can be written");
    fs::remove_file(exported.file("json")).expect("the file is there");
    let output = exported.import(&[&exported.mail]);
    ends(&output, 1);
    let error = said(&output);
    assert!(
        error.contains(&format!("{}: its JSON (ID.json) is not beside it", path(&exported.file("eml")))),
        "{error}"
    );
    assert!(
        error.contains(&format!("{}: missing: a part of this message is lost", path(&damaged))),
        "{error}"
    );
    assert!(text(&output.stdout).contains("1 message imported, 2 not\n"), "{}", text(&output.stdout));
    // A name stands for itself, and for no other file.
    fs::write(exported.mail.join("random"), "not mail").expect("the folder of a test can be written");
    fs::write(exported.mail.join("random.json"), "not mail").expect("the folder of a test can be written");
    let rows = [
        ("absent", "absent: No such file or directory"),
        ("random", "random: an exported message is ID.json"),
    ];
    for (name, words) in rows {
        let output = exported.import(&[&exported.mail.join(name)]);
        ends(&output, 1);
        let error = said(&output);
        assert!(error.contains(words) && error.matches(name).count() == 1, "{words}: {error}");
    }
    let other = exported.mail.join(format!("{}.eml", exported.ids[1]));
    fs::remove_file(&other).expect("the file is there");
    let output = exported.import(&[&other.with_extension("json")]);
    let words = format!("error: {}: it cannot be read: No such file", path(&other));
    assert!(said(&output).contains(&words), "{}", said(&output));
}

#[test]
fn an_id_that_is_named_twice_is_imported_once() {
    let exported = Exported::new();
    let content = fs::read(exported.file("eml")).expect("a file");
    let (copy, other) = (
        exported.folder_with("copy of it", &content),
        exported.folder_with("other", b"Subject: x\r\n\r\nx\r\n"),
    );
    let output = exported.import(&[&exported.mail, &copy]);
    ends(&output, 0);
    let words = text(&output.stdout);
    assert!(
        words.contains(&format!("{}: is named twice; the first was taken\n", exported.ids[0])),
        "{words}"
    );
    assert!(words.ends_with("2 messages imported, 0 not\n"), "{words}");
    let output = exported.import(&[&copy, &other]);
    ends(&output, 1);
    assert!(said(&output).contains("its id is that of another message"), "{}", said(&output));
    assert!(text(&output.stdout).ends_with("1 message imported, 1 not\n"), "{}", text(&output.stdout));
}

#[test]
fn an_export_that_fills_the_file_system_keeps_what_is_complete_and_says_how_to_go_on() {
    let (home, _) = stopped_with(&ten());
    let (log, to) = (home.path().join("log"), home.path().join("mail"));
    fs::create_dir(&to).expect("the folder of a test can be written");
    // 1 MiB: three messages and a piece of the next one.
    let line = "mount -t tmpfs -o size=1m none \"$3\"; code=0
        \"$1\" queue export --path \"$2\" --to \"$3\" || code=$?
        ls -A \"$3\"; exit $code";
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    let output = run(command.args(["--mount", "sh", "-ec", line, "sh"]).arg(program()).args([&log, &to]));
    ends(&output, 1);
    let (error, words) = (said(&output), text(&output.stdout));
    assert!(
        error.contains("No space left on device") && error.contains("; the rest is not exported: make room"),
        "{error}"
    );
    assert!(error.contains("--force overwrites what is there"), "{error}");
    let (first, listed) = words.split_once('\n').expect("a line and the files");
    assert!(first.starts_with("3 messages with "), "{words}");
    assert_eq!(listed.lines().count(), 6, "{words}");
    assert!(listed.lines().all(|name| name.ends_with(".eml") || name.ends_with(".json")), "{words}");
    assert!(files(&to).is_empty(), "it was mounted for the command alone");
}
