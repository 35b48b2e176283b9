//! `sternpost device bootstrap` over folders that stand for stick, credentials, state partition and run folder.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here, with the place")]

mod switch;

use serde_json::Value;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use switch::{new_home, program, run, text, wait_for};

/// The part that the image carries.
const DEVICE: &str = "run_directory = \"/run/sternpost\"\nstate_directory = \"/var/lib/sternpost\"\n\
                      [queue]\npath = \"/dev/sternpost/queue\"\n";

/// A machine with a serial number and nothing else.
struct Machine(tempfile::TempDir);

/// A good bootstrap for this directory.
fn site(base_dn: &str) -> String {
    format!(
        "[directory]\nuris = [\"ldap://127.0.0.1:10389\"]\nallow_plaintext = true\nbase_dn = \"{base_dn}\"\n\
         bind = {{ simple = {{ dn = \"cn=n\", password = \"the secret\" }} }}\n"
    )
}

impl Machine {
    fn new() -> Self {
        let machine = Self(new_home());
        for folder in ["usb", "credentials", "kept", "net", "block", "data"] {
            fs::create_dir(machine.path(folder)).unwrap();
        }
        machine.write("device.toml", DEVICE);
        machine.write("serial", "SP-0001\n");
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn give_on_stick(&self, text: &str) {
        self.write("usb/sternpost.toml", text);
    }

    fn give_as_credential(&self, text: &str) {
        self.write("credentials/sternpost.bootstrap", text);
    }

    fn command(&self) -> Command {
        let mut command = Command::new(program());
        command.args(["device", "bootstrap", "--usb-wait-ms=0"]).env_remove("CREDENTIALS_DIRECTORY");
        for (option, name) in [
            ("--usb", "usb"),
            ("--credentials", "credentials"),
            ("--kept", "kept"),
            ("--device", "device.toml"),
            ("--out", "out"),
            ("--network", "net"),
            ("--serial", "serial"),
            ("--block-devices", "block"),
            ("--device-data", "data"),
        ] {
            command.arg(option).arg(self.path(name));
        }
        command
    }

    /// Looks once at all sources.
    fn start(&self) -> Output {
        run(self.command().arg("--once"))
    }

    /// As `start`, where there must be a bootstrap in the end. Where it came from, and what was wrong with the others.
    fn start_well(&self) -> (String, Vec<String>) {
        let output = self.start();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let state = self.state();
        let problems = state["problems"].as_array().unwrap().iter().map(|p| p.as_str().unwrap().to_owned());
        (state["source"].as_str().unwrap().to_owned(), problems.collect())
    }

    fn state(&self) -> Value {
        serde_json::from_str(&self.read("out/state.json")).unwrap()
    }

    /// The base DN in force.
    fn base_dn(&self) -> String {
        let joined: toml::Table = toml::from_str(&self.read("out/bootstrap.toml")).unwrap();
        joined["directory"]["base_dn"].as_str().unwrap().to_owned()
    }
}

#[test]
fn a_stick_is_enough_and_what_it_holds_is_kept() {
    let machine = Machine::new();
    machine.give_on_stick(&format!(
        "{}[network]\nhostname = \"mx\"\ndns = [\"192.0.2.53\"]\n[[network.interface]]\nname = \"eth0\"\naddresses = [\"192.0.2.10/24\"]\n",
        site("dc=stick").replace("password = \"the secret\"", "password_file = \"pw.txt\"")
    ));
    machine.write("usb/pw.txt", "the secret\n");
    machine.write("net/70-sternpost-009.network", "of another bootstrap");
    // Not ours: it stays.
    machine.write("net/10-other.network", "");
    assert_eq!(machine.start_well(), ("USB stick".to_owned(), vec![]));
    let joined: toml::Table = toml::from_str(&machine.read("out/bootstrap.toml")).unwrap();
    assert_eq!(joined["node"].as_str(), Some("SP-0001"));
    assert_eq!(joined["queue"]["path"].as_str(), Some("/dev/sternpost/queue"));
    let password = machine.path("out/directory/password");
    assert_eq!(joined["directory"]["bind"]["simple"]["password_file"].as_str(), password.to_str());
    assert_eq!(machine.read("out/directory/password"), "the secret\n");
    assert!(machine.read("net/70-sternpost-000.network").contains("Address=192.0.2.10/24"));
    assert!(!machine.path("net/70-sternpost-009.network").exists());
    assert!(machine.path("net/10-other.network").exists());
    assert_eq!(machine.state()["ports"], serde_json::json!([{"name": "eth0", "mac": null}]));
    assert!(machine.read("out/resolv.conf").contains("nameserver 192.0.2.53"));
    // The stick is gone at the next start.
    fs::remove_file(machine.path("usb/sternpost.toml")).unwrap();
    fs::remove_dir_all(machine.path("out")).unwrap();
    assert_eq!(machine.start_well(), ("kept bootstrap".to_owned(), vec![]));
    assert_eq!(machine.base_dn(), "dc=stick");
    assert_eq!(machine.read("out/directory/password"), "the secret\n");
}

#[test]
fn a_secret_is_readable_for_the_directory_role_alone() {
    let machine = Machine::new();
    machine.give_as_credential(&site("dc=secret"));
    machine.start_well();
    let mode = |name: &str| fs::metadata(machine.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("out/directory"), 0o750);
    assert_eq!(mode("out/directory/password"), 0o400);
    assert_eq!(mode("out/bootstrap.toml"), 0o640);
    assert_eq!(mode("kept/sternpost.toml"), 0o600);
    assert_eq!(mode("kept"), 0o700);
    assert!(!machine.read("out/bootstrap.toml").contains("the secret"));
    assert!(!machine.read("out/state.json").contains("the secret"));
    assert!(!machine.path("out/.trial").exists());
    if rustix::process::geteuid().is_root() {
        let owner = |name: &str| {
            let metadata = fs::metadata(machine.path(name)).unwrap();
            (metadata.uid(), metadata.gid())
        };
        assert_eq!(owner("out/directory"), (0, 900));
        assert_eq!(owner("out/directory/password"), (903, 900));
        assert_eq!(owner("out/bootstrap.toml"), (0, 900));
    }
}

#[test]
fn the_stick_goes_before_a_credential_which_does_not_come_back_behind_it() {
    let machine = Machine::new();
    machine.give_as_credential(&site("dc=credential"));
    machine.give_on_stick(&site("dc=stick"));
    assert_eq!(machine.start_well().0, "USB stick");
    fs::remove_file(machine.path("usb/sternpost.toml")).unwrap();
    assert_eq!(machine.start_well().0, "kept bootstrap");
    assert_eq!(machine.base_dn(), "dc=stick");
    // Another one is news.
    machine.give_as_credential(&site("dc=newer"));
    assert_eq!(machine.start_well().0, "credential");
    assert_eq!(machine.base_dn(), "dc=newer");
    assert_eq!(machine.start_well().0, "kept bootstrap");
    // The state partition was lost: the one that is there is taken again.
    fs::remove_file(machine.path("kept/sternpost.toml")).unwrap();
    assert_eq!(machine.start_well().0, "credential");
}

#[test]
fn a_wrong_bootstrap_never_replaces_a_good_one_that_was_kept() {
    let machine = Machine::new();
    machine.give_as_credential(&site("dc=good"));
    machine.start_well();
    let kept = machine.read("kept/sternpost.toml");
    let wrong = [
        (site("dc=x").replace("base_dn", "bas_dn"), "USB stick:4: unknown field `bas_dn`"),
        (site(" "), "USB stick:4: directory.base_dn: it is empty. Name the entry"),
        (
            site("dc=x").replace("ldap://127.0.0.1:10389", "ldaps://ldap.example"),
            "USB stick:2: directory.trust_anchor: TLS needs",
        ),
        (
            site("dc=x").replace("127.0.0.1", "192.0.2.1"),
            "USB stick:2: directory.uris: ldap://192.0.2.1:10389 has no TLS",
        ),
        (
            format!("{}[network]\nhostname = \"a b\"\n", site("dc=x")),
            "USB stick:7: network.hostname: \"a b\" is no host name.",
        ),
        ("x".repeat(300_000), "the USB stick cannot be read: it is larger than 262144 octets"),
    ];
    for (text, message) in wrong {
        machine.give_on_stick(&text);
        let (source, problems) = machine.start_well();
        assert_eq!(source, "kept bootstrap");
        assert!(problems.len() == 1 && problems[0].starts_with(message), "{problems:?}\nwanted: {message}");
        let remedy = "he kept bootstrap is in force; correct the USB stick and start the machine again";
        assert!(problems[0].ends_with(remedy), "{problems:?}");
        assert_eq!(machine.base_dn(), "dc=good");
        assert_eq!(machine.read("kept/sternpost.toml"), kept);
    }
    machine.give_on_stick(&site("dc=better"));
    assert_eq!(machine.start_well(), ("USB stick".to_owned(), vec![]));
}

#[test]
fn without_any_the_network_stays_silent_and_the_ways_to_give_one_are_named() {
    let machine = Machine::new();
    let output = machine.start();
    assert_eq!(output.status.code(), Some(1));
    let state = machine.state();
    let needs = state["needs"].to_string();
    for word in ["labelled STERNPOST", "sternpost.toml", "credential sternpost.bootstrap", "SP-0001", "kept"]
    {
        assert!(needs.contains(word), "{word}: {needs}");
        assert!(text(&output.stderr).contains(word), "{word}");
    }
    assert_eq!(fs::read_dir(machine.path("net")).unwrap().count(), 0);
    assert!(!machine.path("out/bootstrap.toml").exists());
}

#[test]
fn a_stick_of_the_wrong_kind_leaves_a_word_as_long_as_there_is_no_bootstrap() {
    let machine = Machine::new();
    fs::create_dir(machine.path("block/sdb1")).unwrap();
    machine.write("block/sdb1/dev", "8:17\n");
    machine.write("block/sdb1/size", "4096\n");
    machine.write("block/sdb1/partition", "1\n");
    machine.write("data/b8:17", "E:ID_BUS=usb\nE:ID_TYPE=disk\nE:ID_FS_TYPE=ntfs\nE:ID_FS_LABEL=STERNPOST\n");
    assert_eq!(machine.start().status.code(), Some(1));
    let word = "a USB stick is there, but no FAT file system labelled STERNPOST on it; it has: sdb1 ntfs with label STERNPOST";
    assert_eq!(machine.state()["problems"], serde_json::json!([word]));
    machine.give_as_credential(&site("dc=x"));
    assert_eq!(machine.start_well(), ("credential".to_owned(), vec![]));
}

/// Ends the command that still waits when a test fails.
struct Waiting(Child);

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_stick_that_is_put_in_later_is_found() {
    let machine = Machine::new();
    let mut waiting = Waiting(machine.command().stderr(Stdio::null()).spawn().unwrap());
    wait_for("a word that it waits", || machine.path("out/state.json").exists().then_some(()));
    assert_eq!(machine.state()["source"], Value::Null);
    // As a file system that appears does it: the file is there whole.
    machine.write("usb/new", &site("dc=late"));
    fs::rename(machine.path("usb/new"), machine.path("usb/sternpost.toml")).unwrap();
    let status = wait_for("its end", || waiting.0.try_wait().unwrap());
    assert!(status.success());
    assert_eq!(machine.state()["source"], "USB stick");
    assert_eq!(machine.base_dn(), "dc=late");
}

#[test]
fn a_machine_without_a_serial_number_needs_a_name() {
    let machine = Machine::new();
    machine.write("serial", "To be filled by O.E.M.\n");
    machine.give_as_credential(&site("dc=x"));
    let output = machine.start();
    assert_eq!(output.status.code(), Some(1));
    let problems = machine.state()["problems"].to_string();
    assert!(problems.contains("no serial number") && problems.contains("write node = "), "{problems}");
    machine.give_as_credential(&format!("node = \"north\"\n{}", site("dc=x")));
    machine.start_well();
    assert_eq!(machine.state()["node"], "north");
}

#[test]
fn a_switch_accepts_what_was_joined() {
    let machine = Machine::new();
    machine.give_as_credential(&site("dc=x"));
    // Folders of this test in the place of the device's.
    let home = machine.0.path().display();
    machine.write(
        "device.toml",
        &format!("run_directory = \"{home}/r\"\nstate_directory = \"{home}/s\"\n[queue]\npath = \"{home}/log\"\nsegment_octets = 1048576\nsegments = 8\n"),
    );
    machine.start_well();
    let log = fs::File::create(machine.path("stderr")).unwrap();
    let mut command = Command::new(program());
    command.args(["run", "--bootstrap"]).arg(machine.path("out/bootstrap.toml")).stderr(log);
    let _switch = Waiting(command.spawn().unwrap());
    // No directory is there: the role says so, and goes on trying.
    wait_for("a word of the directory role", || {
        machine
            .read("stderr")
            .lines()
            .any(|line| line.contains("directory[") && line.contains("127.0.0.1:10389"))
            .then_some(())
    });
}
