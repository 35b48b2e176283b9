//! The command line as people and scripts meet it: help, exit statuses, and what is said when something is missing.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here, with the place")]

use std::path::Path;
use std::process::{Command, Output, Stdio};

fn sternpost(arguments: &[&str], folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sternpost"))
        .args(arguments)
        .current_dir(folder)
        .env_remove("STERNPOST_RUN_DIRECTORY")
        .output()
        .unwrap()
}

fn text(octets: &[u8]) -> String {
    String::from_utf8(octets.to_vec()).unwrap()
}

const TABLES: &str = "[node]\nname = \"north\"\nhostname = \"north.example\"\n";

#[test]
fn a_wrong_command_line_ends_with_status_two() {
    let folder = tempfile::tempdir().unwrap();
    let id = "0f0e0d0c0b0a09080706050403020100";
    let rows: [&[&str]; 11] = [
        &["queue", "export", id],
        &["queue", "import"],
        &["queue", "restore"],
        &["queue", "restore", "--yes", id],
        &["queue", "discard", id],
        &["queue", "discard", id, "--why", " "],
        &[],
        &["queue", "show", "0f"],
        &["check-config"],
        &["queue", "list", "--limit", "x"],
        &["config", "show", "--node", "n"],
    ];
    for arguments in rows {
        assert_eq!(sternpost(arguments, folder.path()).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn every_command_has_help_with_an_example() {
    let folder = tempfile::tempdir().unwrap();
    let rows: [&[&str]; 18] = [
        &["run"],
        &["check-config"],
        &["config", "show"],
        &["config", "confirm"],
        &["config", "attributes"],
        &["man"],
        &["status"],
        &["queue", "list"],
        &["queue", "show"],
        &["queue", "why"],
        &["queue", "verify"],
        &["queue", "replay"],
        &["queue", "export"],
        &["queue", "import"],
        &["queue", "restore"],
        &["queue", "discard"],
        &["provision", "schema"],
        &["provision", "init"],
    ];
    for arguments in rows {
        let output = sternpost(&[arguments, &["--help"]].concat(), folder.path());
        assert!(text(&output.stdout).contains("\nExample"), "{arguments:?}");
    }
    let help = text(&sternpost(&["--help"], folder.path()).stdout);
    assert!(!help.contains("role"), "what the supervisor starts is nobody's business: {help}");
}

#[test]
fn without_a_switch_the_error_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let id = "0f0e0d0c0b0a09080706050403020100";
    let rows: [&[&str]; 10] = [
        &["status"],
        &["queue", "list"],
        &["queue", "list", "--isolated"],
        &["queue", "list", "--partials"],
        &["queue", "show", id],
        &["queue", "why", id],
        &["queue", "export", "--to", "mail"],
        &["queue", "import", "mail"],
        &["queue", "restore", id],
        &["queue", "discard", id, "--why", "it is lost"],
    ];
    for arguments in rows {
        let output = sternpost(&[arguments, &["--run-directory", "run"]].concat(), folder.path());
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(error.starts_with("error: the switch is not running (no socket at run/"), "{error}");
        assert!(error.contains("start it with sternpost run --bootstrap FILE"), "{error}");
    }
}

#[test]
fn good_tables_pass_and_bad_ones_are_explained() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("good.toml"), TABLES).unwrap();
    std::fs::write(folder.path().join("bad.toml"), TABLES.replace("north.example", "-")).unwrap();
    std::fs::write(folder.path().join("broken.toml"), "[node\n").unwrap();
    let good = sternpost(&["check-config", "--tables", "good.toml"], folder.path());
    assert_eq!(good.status.code(), Some(0), "{}", text(&good.stdout));
    let bad = sternpost(&["check-config", "--tables", "bad.toml", "--json"], folder.path());
    assert_eq!(bad.status.code(), Some(1));
    let found: serde_json::Value = serde_json::from_slice(&bad.stdout).unwrap();
    assert_eq!(found["problems"][0]["attribute"], "sternpostHostname", "{found}");
    let broken = sternpost(&["check-config", "--tables", "broken.toml"], folder.path());
    assert_eq!(broken.status.code(), Some(1));
    assert!(text(&broken.stderr).starts_with("error: broken.toml cannot be used: line 1: "));
    let shown = sternpost(&["config", "show", "--tables", "good.toml", "--json"], folder.path());
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["configuration"]["node"]["hostname"], "north.example");
    assert_eq!(shown["problems"], serde_json::json!([]));
    let shown = sternpost(&["config", "show", "--tables", "bad.toml"], folder.path());
    assert_eq!(shown.status.code(), Some(1));
    assert!(text(&shown.stdout).contains("attribute: sternpostHostname"), "{}", text(&shown.stdout));
}

const SITE: &str = "[directory]\nuris = [\"ldap://127.0.0.1\"]\nallow_plaintext = true\nbase_dn = \"dc=x\"\n\
                    bind = { simple = { dn = \"cn=n\", password_file = \"pw.txt\" } }\n";

#[test]
fn the_file_of_a_device_is_judged_on_a_desk_and_nothing_is_changed() {
    let folder = tempfile::tempdir().unwrap();
    let (scratch, site) = (folder.path().join("scratch"), folder.path().join("site"));
    std::fs::create_dir(&scratch).unwrap();
    std::fs::create_dir(&site).unwrap();
    std::fs::write(site.join("pw.txt"), "secret\n").unwrap();
    std::fs::write(
        site.join("good.toml"),
        format!("{SITE}[[network.interface]]\nname = \"enp1s0\"\ndhcp = true\n"),
    )
    .unwrap();
    std::fs::write(site.join("key.toml"), SITE.replace("base_dn", "basedn")).unwrap();
    std::fs::write(site.join("tls.toml"), SITE.replace("ldap://127.0.0.1", "ldaps://[2001:db8::20]"))
        .unwrap();
    std::fs::write(site.join("file.toml"), SITE.replace("pw.txt", "no.txt")).unwrap();
    let check = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sternpost"));
        let output = command
            .arg("check-config")
            .args(arguments)
            .current_dir(&site)
            .env("TMPDIR", &scratch)
            .output()
            .unwrap();
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    let good = check(&["--site", "good.toml"]);
    let wanted = "good.toml: good. Node by the serial number of the device, directory ldap://127.0.0.1, interfaces enp1s0\n";
    assert_eq!(good, (Some(0), wanted.to_owned()));
    assert!(check(&["--site", "good.toml", "--serial", "SP-0001"]).1.contains("good. Node SP-0001,"));
    let rows: [(&[&str], &str); 5] = [
        (&["--site", "key.toml"], "key.toml:4: unknown field `basedn`"),
        (
            &["--site", "tls.toml"],
            "tls.toml:2: directory.uris: ldaps://[2001:db8::20] names an address of IPv6",
        ),
        (&["--site", "file.toml"], "directory.bind.simple.password: the file \"no.txt\" is not there."),
        (&["--site", "good.toml", "--serial", "Not Present"], "gave it no serial number"),
        // What belongs to a device is not judged as a bootstrap of a host.
        (&["--bootstrap", "good.toml"], "check it with sternpost check-config --site good.toml"),
    ];
    for (arguments, words) in rows {
        let (code, said) = check(arguments);
        assert!(code == Some(1) && said.contains(words), "{arguments:?}: {said}");
        assert!(!said.contains("secret"), "{said}");
    }
    assert_eq!(std::fs::read_dir(&scratch).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(&site).unwrap().count(), 5);
}

#[test]
fn a_bootstrap_that_is_wrong_is_named_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("boot.toml"),
        "[queue]\npath = \"q\"\nsegments = 1\n[tables]\npath = \"t\"\n",
    )
    .unwrap();
    let output = sternpost(&["run", "--bootstrap", "boot.toml"], folder.path());
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("error: boot.toml:3: queue.segments: 1 is out of bounds. Write"), "{error}");
}

#[test]
fn the_example_tree_has_the_values_that_were_given() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = "provision init --base-dn dc=example --node north --hostname mx.example --smtp-peer 192.0.2.1:25 \
                     --lmtp-peer 127.0.0.1:24 --smtp-domain example.net --lmtp-domain example.org";
    let arguments: Vec<&str> = arguments.split_whitespace().collect();
    let output = sternpost(&arguments, folder.path());
    let ldif = text(&output.stdout);
    assert!(output.status.success() && ldif.contains("192.0.2.1") && !ldif.contains('@'), "{ldif}");
    assert!(!ldif.contains("sternpostIdentity"), "{ldif}");
    let more = "--identity SP-0001 --listener 0.0.0.0:25 --listener [::]:25 --client-network 192.0.2.0/24";
    let more: Vec<&str> = more.split_whitespace().collect();
    let ldif = text(&sternpost(&[&arguments[..], &more].concat(), folder.path()).stdout);
    for line in [
        "sternpostIdentity: SP-0001",
        "sternpostAddresses: 0.0.0.0:25\nsternpostAddresses: [::]:25",
        "sternpostClientNetworks: 192.0.2.0/24\n",
    ] {
        assert!(ldif.contains(line), "{line}: {ldif}");
    }
    let schema = sternpost(&["provision", "schema"], folder.path());
    assert!(text(&schema.stdout).contains("dn: cn=sternpost,cn=schema,cn=config"));
}

#[test]
fn what_is_found_and_not_printed_is_an_error_unless_nobody_reads_it_any_more() {
    let schema = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sternpost"));
        command.args(["provision", "schema"]).stderr(Stdio::piped());
        command
    };
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = schema().stdout(full).spawn().unwrap().wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(
        error.starts_with("error: standard output does not take what was found: No space left"),
        "{error}"
    );
    let mut gone = schema().stdout(Stdio::piped()).spawn().unwrap();
    drop(gone.stdout.take());
    let output = gone.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
}
