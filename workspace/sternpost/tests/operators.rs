//! What operators ask a running switch, or its log: exit codes, JSON that parses, and errors that say what to do.

mod switch;

use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use switch::client::Client;
use switch::mail::nobody;
use switch::site::Site;
use switch::{Switch, program, run, text};

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

fn good_tables() -> String {
    Site::new().peer("mta", "smtp", nobody(), &["smtp.test"]).tables()
}

#[test]
fn the_configuration_in_force_is_shown_and_nothing_waits_to_be_confirmed() {
    let switch = Switch::start(&good_tables());
    let shown = switch.ask(&["config", "show"]);
    assert_eq!(shown["configuration"]["node"]["hostname"], "switch.test", "{shown}");
    assert!(shown["generation"].as_u64().is_some_and(|generation| generation >= 1), "{shown}");
    let output = switch.command(&["config", "confirm"]);
    ends(&output, 1);
    assert!(text(&output.stderr).contains("no change waits"), "{}", text(&output.stderr));
}

#[test]
fn tables_that_change_while_the_switch_runs_come_into_force() {
    let switch = Switch::start(&good_tables());
    switch.replace_tables(&Site::new().peer("other", "smtp", nobody(), &["other.test"]).tables());
    switch::wait_for("new tables", || {
        let shown = switch.ask(&["config", "show"]);
        (shown["configuration"]["peers"][0]["name"] == "other").then_some(())
    });
}

#[test]
fn a_message_that_waits_is_listed_shown_and_explained() {
    let switch = Switch::start(&good_tables());
    let mut client = Client::greet(switch.address());
    for number in 0..3 {
        let mail = format!("<a{number}@sender.test>");
        let reply =
            client.message(&mail, &["b@smtp.test", "c@smtp.test"], b"Subject: waits\r\n\r\nhello\r\n");
        assert!(reply.starts_with("250 "), "{reply}");
    }
    let list = switch.ask(&["queue", "list"]);
    let list = list.as_array().expect("a list");
    assert_eq!(list.len(), 3, "{list:?}");
    assert_eq!((&list[0]["recipients_pending"], &list[0]["routes"][0]), (&2.into(), &"smtp/mta".into()));
    let limited = switch.ask(&["queue", "list", "--limit", "2"]);
    assert_eq!(limited.as_array().map(Vec::len), Some(2));
    let id = list[0]["id"].as_str().expect("an id");
    let output = switch.command(&["queue", "list"]);
    ends(&output, 0);
    assert!(text(&output.stdout).contains(id), "{}", text(&output.stdout));
    let shown = switch.ask(&["queue", "show", id]);
    assert_eq!(shown["sender"], "<a0@sender.test>", "{shown}");
    assert_eq!(shown["recipients"][1]["address"], "c@smtp.test", "{shown}");
    let why = switch.ask(&["queue", "why", id]);
    assert!(why["mlists"][0]["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{why}");
    let unknown = "00000000000000000000000000000000";
    ends(&switch.command(&["queue", "show", unknown]), 1);
    let output = switch.command(&["queue", "why", unknown]);
    ends(&output, 1);
    assert!(text(&output.stderr).contains(unknown), "{}", text(&output.stderr));
    ends(&switch.command(&["queue", "show", "xyz"]), 2);
    // The log says the same without the switch.
    let home = switch.stop();
    let log = home.path().join("log");
    let output = sternpost(&["queue", "list", "--path", path(&log), "--json"]);
    ends(&output, 0);
    assert_eq!(json(&output).as_array().map(Vec::len), Some(3));
    let output = sternpost(&["queue", "show", id, "--path", path(&log), "--json"]);
    ends(&output, 0);
    assert_eq!(json(&output)["sender"], "<a0@sender.test>");
}

#[test]
fn verify_finds_an_octet_that_has_changed() {
    let switch = Switch::start(&good_tables());
    // The last batch of a log may be torn and nobody's: what is damaged here has another one behind it.
    let mut client = Client::greet(switch.address());
    for content in [&b"Subject: here-it-is\r\n\r\n"[..], b"Subject: behind\r\n\r\n"] {
        let reply = client.message("<>", &["b@smtp.test"], content);
        assert!(reply.starts_with("250 "), "{reply}");
    }
    let output = switch.command(&["status", "--json"]);
    assert_eq!(json(&output)["store"]["messages"], 2);
    let log = switch.log_path();
    // A log that a store holds is not verified.
    let output = sternpost(&["queue", "verify", "--path", path(&log)]);
    ends(&output, 2);
    let home = switch.stop();
    let log = home.path().join("log");
    let output = sternpost(&["queue", "verify", "--path", path(&log), "--json"]);
    ends(&output, 0);
    assert_eq!((&json(&output)["messages"], &json(&output)["damage"]), (&2.into(), &Value::Array(vec![])));
    let mut octets = fs::read(&log).expect("the log can be read");
    let needle = b"here-it-is";
    let at =
        octets.windows(needle.len()).position(|octets| octets == needle).expect("the content is in the log");
    octets[at] ^= 1;
    fs::write(&log, octets).expect("the log can be written");
    let output = sternpost(&["queue", "verify", "--path", path(&log), "--json"]);
    ends(&output, 1);
    let found = json(&output);
    // The record that is damaged, and the message whose content is not whole without it; the envelope beside it is.
    let parts: Vec<_> =
        found["damage"].as_array().into_iter().flatten().map(|damage| &damage["what"]).collect();
    assert_eq!(parts, ["record"], "{found}");
    assert_eq!(found["messages"], 2, "{found}");
    assert_eq!(found["isolated"].as_array().map(Vec::len), Some(1), "{found}");
}

#[test]
fn status_names_processes_listeners_and_the_state_of_qmgr_and_store() {
    let switch = Switch::start(&good_tables());
    let status = switch.status();
    let roles: Vec<&str> =
        status["roles"].as_array().expect("a list").iter().filter_map(|role| role["role"].as_str()).collect();
    for role in ["store", "qmgr", "directory", "smtp-server"] {
        assert!(roles.contains(&role), "{roles:?}");
    }
    assert_eq!(status["listeners"][0]["name"], "inbound");
    assert_eq!(status["qmgr"]["tree"], "going");
    assert_eq!(status["store"]["full"], false);
    let output = switch.command(&["status"]);
    ends(&output, 0);
    assert!(text(&output.stdout).contains("ROLE"), "{}", text(&output.stdout));
    let home = switch.stop();
    let output = sternpost(&["status", "--run-directory", path(&home.path().join("r"))]);
    ends(&output, 1);
    let error = text(&output.stderr);
    assert!(error.contains("not running") && error.contains("sternpost run"), "{error}");
}

#[test]
fn a_second_switch_on_the_same_folders_is_refused() {
    let switch = Switch::start(&good_tables());
    let output = switch.command(&["run"]);
    ends(&output, 1);
    assert_eq!(switch.status()["store"]["messages"], 0);
}
