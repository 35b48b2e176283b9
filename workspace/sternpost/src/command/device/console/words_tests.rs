//! The console's words for each stage of a boot, and for what can go wrong.

use super::super::super::ports::{LinkState, Port};
use super::super::super::state::{PortName, State};
use super::*;
use crate::command::health::lacking::Lacking;
use serde_json::json;

fn at(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// A device with its bootstrap, whose switch has got this far.
fn facts(status: Value) -> Facts {
    Facts {
        device: Some(State {
            source: Some("USB stick".into()),
            node: Some("SP-0001".into()),
            serial: Some("SP-0001".into()),
            directory: vec!["ldaps://192.0.2.20".into()],
            ..State::default()
        }),
        status: Some(status),
        self_test: Some((profile(), at(1.0))),
        serial: Some("SP-0001".into()),
        ports: vec![port("eth0")],
        addresses: [("eth0".to_owned(), vec!["192.0.2.10/24".to_owned()])].into(),
        ..Facts::default()
    }
}

fn port(name: &str) -> Port {
    let (name, other_names) = (name.to_owned(), ["enp1s0".to_owned()].into());
    Port { name, other_names, mac: "52:54:00:12:34:56".into(), link: LinkState::Up }
}

fn running() -> Value {
    json!({
        "listeners": [{"name": "inbound", "address": "0.0.0.0:25"}],
        "qmgr": {
            "configuration": {"generation": 1, "problems": [], "unusable": [], "held": null},
            "directory": "ldaps://192.0.2.20: 12 entries", "directory_connected": true,
            "scheduler": {"waiting": 3},
        },
        "store": {"messages": 1234, "full": false, "write_errors": 0, "segments": 64, "segments_free": 60},
    })
}

fn without_configuration(directory: &str) -> Value {
    json!({
        "listeners": [],
        "qmgr": {
            "configuration": {"generation": 0, "problems": null, "unusable": [], "held": null},
            "directory": directory, "directory_connected": false,
        },
        "store": {"messages": 0, "full": false},
    })
}

fn profile() -> Value {
    json!({
        "commits": [
            {"method": "dsync", "batch_octets": 4_096, "p10_us": 300.0, "p50_us": 312.5, "p99_us": 21_900.0, "per_s": 3_000.4},
            {"method": "io_uring", "batch_octets": 1_048_576},
        ],
        "values": {
            "method": {"value": "dsync", "reason": "faster here"},
            "batch_octets": {"value": 524_288, "reason": "10 ms of the disk"},
            "channel_processes_max": {"value": 8, "reason": "2 cores"},
            "connections_max": {"value": 5_000, "reason": "one second each"},
            "slots_per_process": null,
        },
    })
}

/// What was told when the self test was.
fn behind_the_self_test() -> Told {
    Told { self_test: true, ..Told::default() }
}

#[test]
fn a_trouble_of_the_disk_is_told_before_the_switch_runs() {
    let facts = Facts { storage: vec!["the disk has 900 MiB".to_owned()], ..Facts::default() };
    assert_eq!(
        Told::default().milestones(&facts, at(7.0)),
        ["sternpost: 7.00 s: problem: the disk has 900 MiB"]
    );
    assert!(
        status(&facts).contains(&"Problem        the disk has 900 MiB".to_owned()),
        "{:?}",
        status(&facts)
    );
}

#[test]
fn each_milestone_is_said_once_with_seconds_that_never_go_back() {
    let mut told = Told::default();
    let mut facts = Facts { self_test: Some((profile(), at(1.5))), ..Facts::default() };
    let self_test = "sternpost: 8.50 s: self test: batches of 524,288 octets, written by dsync, at most 8 channel processes";
    assert_eq!(told.milestones(&facts, at(10.0)), [self_test]);
    assert!(told.milestones(&facts, at(10.1)).is_empty());
    facts.status = Some(running());
    let lines = told.milestones(&facts, at(11.0));
    let wanted = [
        "sternpost: 11.00 s: configured: generation 1 from the directory (ldaps://192.0.2.20: 12 entries)",
        "sternpost: 11.00 s: listening: inbound on 0.0.0.0:25",
    ];
    assert_eq!(lines, wanted);
    facts.good_at_s = Some(10.9);
    assert_eq!(told.milestones(&facts, at(12.0)), ["sternpost: 11.00 s: boot is good"]);
    // A switch that is started again is not configured for the first time, and nobody stopped listening.
    facts.status = None;
    assert!(told.milestones(&facts, at(13.0)).is_empty());
    facts.status = Some(running());
    assert!(told.milestones(&facts, at(14.0)).is_empty());
}

#[test]
fn messages_that_are_kept_apart_are_a_problem_and_a_full_share_of_partial_ones_too() {
    let mut running = running();
    running["store"]["isolated"] = json!(2);
    running["store"]["partials_full"] = json!(true);
    let problems = problems(&facts(running));
    let wanted =
        ["2 messages are damaged on the disk and kept apart", "mail that is not complete fills its share"];
    for words in wanted {
        assert!(problems.iter().any(|problem| problem.starts_with(words)), "{words}: {problems:?}");
    }
}

#[test]
fn a_configuration_of_an_earlier_day_is_called_so() {
    let mut status = running();
    status["qmgr"]["directory_connected"] = json!(false);
    status["qmgr"]["directory"] = json!("ldaps://192.0.2.20: cannot connect");
    let lines = behind_the_self_test().milestones(&facts(status), at(9.0));
    let wanted = "sternpost: 9.00 s: configured: generation 1 from the last known good configuration (the directory: ldaps://192.0.2.20: cannot connect)";
    assert_eq!(lines[0], wanted);
}

#[test]
fn what_is_missing_is_said_when_it_stays_missing() {
    let mut told = behind_the_self_test();
    let refused = facts(without_configuration("ldap://10.0.2.2:389: cannot connect: refused"));
    assert!(told.milestones(&refused, at(5.0)).is_empty());
    let lines = told.milestones(&refused, at(7.0));
    assert_eq!(lines.len(), 1);
    assert!(
        lines[0].starts_with(
            "sternpost: 7.00 s: waiting: no configuration from the directory for the node SP-0001"
        ),
        "{lines:?}"
    );
    assert!(lines[0].contains("10.0.2.2"));
    // Other words for the same thing come at their time.
    let silent = facts(without_configuration("ldap://10.0.2.2:389: silent"));
    assert!(told.milestones(&silent, at(8.0)).is_empty());
    assert!(told.milestones(&silent, at(17.0))[0].contains("silent"));
    assert!(told.milestones(&silent, at(40.0)).is_empty());
}

#[test]
fn entries_that_are_on_their_way_are_not_waited_for_at_once() {
    let mut told = behind_the_self_test();
    let mut status = without_configuration("ldap://10.0.2.2:389: connected");
    status["qmgr"]["directory_connected"] = json!(true);
    let mut facts = facts(status);
    assert!(told.milestones(&facts, at(5.0)).is_empty() && told.milestones(&facts, at(15.0)).is_empty());
    // The directory has answered, and has no entry for this node: that is for a person.
    if let Some(status) = &mut facts.status {
        status["qmgr"]["configuration"]["unusable"] = json!([{"dn": "ou=s", "attribute": null, "reason": "has no node SP-0001", "what_to_do": "Add it."}]);
    }
    let lines = told.milestones(&facts, at(16.0));
    assert!(lines[0].contains("waiting: ") && lines[0].contains("has no node SP-0001. Add it."), "{lines:?}");
}

#[test]
fn without_a_bootstrap_the_ways_to_give_one_are_said_at_once() {
    let mut facts = Facts::default();
    let state = State { needs: vec!["there is none".into(), "put a stick in".into()], ..State::default() };
    facts.device = Some(State { problems: vec!["USB stick:3: x".into()], ..state });
    let lines = Told::default().milestones(&facts, at(6.0));
    assert_eq!(lines, ["sternpost: 6.00 s: waiting: USB stick:3: x; there is none; put a stick in"]);
    assert!(status(&facts).contains(&"State          WAITING: for a bootstrap".to_owned()));
}

#[test]
fn a_problem_is_said_once_with_what_to_do() {
    let mut status = running();
    status["qmgr"]["configuration"]["problems"] = json!([{"dn": "cn=in", "attribute": "sternpostAddress", "reason": "is no address", "what_to_do": "Write one."}]);
    status["listeners_failed"] = json!([{"name": "in", "why": "192.0.2.1:25: in use"}]);
    let facts = facts(status);
    let mut told = Told::default();
    let lines: Vec<_> =
        told.milestones(&facts, at(9.0)).into_iter().filter(|line| line.contains("problem")).collect();
    let wanted = [
        "sternpost: 9.00 s: problem: the listener in cannot listen: 192.0.2.1:25: in use",
        "sternpost: 9.00 s: problem: cn=in: sternpostAddress is no address. Write one.",
    ];
    assert_eq!(lines, wanted);
    assert!(told.milestones(&facts, at(10.0)).is_empty());
}

#[test]
fn a_full_queue_names_the_peer_that_fills_it() {
    let mut status = running();
    status["store"]["full"] = json!(true);
    status["qmgr"]["scheduler"]["channels"] = json!([
        {"peers": [{"name": "near", "waiting": 3}]}, {"peers": [{"name": "far", "waiting": 900}, {"name": "box", "waiting": 0}]},
    ]);
    let shown = super::status(&facts(status)).join(" ").replace("                ", " ");
    assert!(shown.contains("most waits for the peer far: look whether"), "{shown}");
}

#[test]
fn a_change_that_is_held_says_what_can_be_done_without_a_login() {
    let mut status = running();
    status["qmgr"]["configuration"]["held"] = json!({"reason": "4 of 9 peers are gone"});
    let lines = behind_the_self_test().milestones(&facts(status), at(9.0));
    let line = lines.iter().find(|line| line.contains("problem: ")).unwrap();
    assert!(
        line.contains(
            "4 of 9 peers are gone; undo it there; if it is meant, remove the entries one at a time"
        ),
        "{line}"
    );
    assert!(!line.contains("confirm"), "{line}");
}

#[test]
fn the_ports_are_shown_before_there_is_a_bootstrap() {
    let facts = Facts { ports: vec![port("eth0")], ..Facts::default() };
    assert!(status(&facts).contains(&"Ports          eth0 52:54:00:12:34:56 link up".to_owned()));
}

#[test]
fn a_port_that_the_machine_does_not_have_is_a_problem() {
    let mut facts = facts(running());
    let named = |name: &str| PortName { name: Some(name.into()), mac: None };
    facts.device.as_mut().unwrap().ports = vec![named("eth0"), named("enp1s0"), named("enp9s0")];
    let lines = behind_the_self_test().milestones(&facts, at(9.0));
    let wanted = "sternpost: 9.00 s: problem: this device has no port enp9s0, which [network] of the bootstrap names; it has: eth0 52:54:00:12:34:56; correct the bootstrap and start the machine again";
    assert_eq!(lines.iter().filter(|line| line.contains("problem: ")).collect::<Vec<_>>(), [wanted]);
}

#[test]
fn a_directory_that_is_away_for_a_minute_is_a_problem() {
    let mut status = running();
    status["qmgr"]["directory"] = json!("ldaps://192.0.2.20: cannot connect");
    status["qmgr"]["directory_away"] = json!({"since": "2026-01-02T03:04:05Z", "for_s": 59});
    let mut told = behind_the_self_test();
    let problem = |lines: Vec<String>| lines.into_iter().find(|line| line.contains("problem: "));
    assert_eq!(problem(told.milestones(&facts(status.clone()), at(9.0))), None);
    status["qmgr"]["directory_away"]["for_s"] = json!(60);
    let line = problem(told.milestones(&facts(status.clone()), at(10.0))).unwrap();
    let wanted = "the directory does not answer since 2026-01-02T03:04:05Z (ldaps://192.0.2.20: cannot connect): the switch runs by what it knew";
    assert!(line.contains(wanted), "{line}");
    // Once for each time that it is away.
    status["qmgr"]["directory_away"]["for_s"] = json!(61);
    assert_eq!(problem(told.milestones(&facts(status.clone()), at(11.0))), None);
    // Without any configuration that is what the switch waits for.
    status["qmgr"]["configuration"]["generation"] = json!(0);
    assert!(!super::status(&facts(status)).join(" ").contains("Problem"));
}

#[test]
fn what_keeps_the_boot_from_being_good_is_a_problem_after_a_while() {
    let mut facts = facts(running());
    let listener = Lacking {
        what: "listener inbound".into(),
        says: "192.0.2.99:25 does not greet: No route to host".into(),
        since_kernel_start_s: 5.0,
    };
    let mut told = behind_the_self_test();
    facts.lacking = vec![(listener.clone(), at(14.0))];
    assert!(told.milestones(&facts, at(19.0)).iter().all(|line| !line.contains("not good yet")));
    assert!(status(&facts).contains(&"State          STARTING: the health check is under way".to_owned()));
    facts.lacking = vec![(listener, at(15.0))];
    let wanted = "sternpost: 20.00 s: problem: not good yet: listener inbound: 192.0.2.99:25 does not greet: No route to host";
    assert_eq!(told.milestones(&facts, at(20.0)), [wanted]);
    let shown = status(&facts).join("\n");
    assert!(shown.contains("STARTING: the health check does not pass, see below"), "{shown}");
    assert!(shown.contains("Problem        not good yet: listener inbound: "), "{shown}");
    // What is told of the listener itself, or of the directory, is not told again.
    let mut failed = running();
    failed["listeners_failed"] = json!([{"name": "inbound", "why": "192.0.2.99:25 does not greet"}]);
    facts.status = Some(failed);
    assert!(!status(&facts).join("").contains("not good yet"));
    facts.status = Some(without_configuration("ldap://10.0.2.2:389: silent"));
    assert!(!status(&facts).join("").contains("not good yet"));
}

#[test]
fn a_role_that_ends_again_and_again_is_a_problem_with_its_own_words() {
    let mut status = running();
    status["store"] = json!({"error": "the store did not answer"});
    status["roles_failing"] = json!([{"role": "store", "ends": 2, "why": "exit status: 1: no log"}]);
    let mut told = behind_the_self_test();
    let shown = super::status(&facts(status.clone())).join("\n");
    assert!(shown.contains("STARTING: store or queue manager do not answer yet"), "{shown}");
    status["roles_failing"][0]["ends"] = json!(3);
    let mut facts = facts(status);
    let lacking = Lacking { what: "queue".into(), says: "silent".into(), since_kernel_start_s: 5.0 };
    facts.lacking = vec![(lacking, at(15.0))];
    let wanted = "sternpost: 20.00 s: problem: the part store of the switch ends again and again: exit status: 1: no log";
    assert_eq!(told.milestones(&facts, at(20.0)).last().unwrap(), wanted);
    let shown = super::status(&facts).join("\n");
    assert!(shown.contains("STOPPED: a part of the switch ends again and again, see below"), "{shown}");
    assert!(!shown.contains("not good yet"), "{shown}");
}

#[test]
fn the_self_test_shows_what_it_measured_and_why_it_chose() {
    let wanted = [
        "DURABLE WRITE  BATCH     P10      P50      P99       RATE",
        "dsync          4 KiB     0.30 ms  0.31 ms  21.90 ms  3000/s",
        "io_uring       1024 KiB  ?        ?        ?         ?",
        "method dsync: faster here",
        "batch_octets 524,288: 10 ms of the disk",
        "channel_processes_max 8: 2 cores",
        "connections_max 5,000: one second each",
        "",
    ];
    assert_eq!(self_test_table(&profile()), wanted);
}

#[test]
fn a_self_test_that_gave_nothing_is_a_problem() {
    let mut facts = facts(running());
    facts.self_test = None;
    facts.self_test_failure = Some("cannot test /dev/vdb: Input/output error\n".into());
    let lines = Told::default().milestones(&facts, at(9.0));
    let wanted = "sternpost: 9.00 s: problem: the self test has given no values, the built-in ones hold: cannot test /dev/vdb: Input/output error; look at the disk, and start the device again";
    assert_eq!(lines.last().unwrap(), wanted);
    assert!(status(&facts).contains(&"State          RUNNING: one problem, see below".to_owned()));
}

#[test]
fn the_status_can_be_read_out_on_the_telephone() {
    let mut facts = facts(running());
    facts.good_at_s = Some(12.0);
    let wanted = [
        &format!("Sternpost {}", env!("CARGO_PKG_VERSION")),
        "State          RUNNING: all is well",
        "Node           SP-0001",
        "Serial number  SP-0001",
        "Bootstrap      USB stick",
        "Ports          eth0 52:54:00:12:34:56 link up",
        "Addresses      eth0 192.0.2.10/24",
        "Directory      ldaps://192.0.2.20: 12 entries",
        "Configuration  generation 1 from the directory",
        "Listening      inbound on 0.0.0.0:25",
        "Self test      batches of 524,288 octets, written by dsync, at most 8 channel",
        "               processes",
        "Queue          1,234 messages, 3 lists waiting, 60 of 64 segments free",
    ];
    assert_eq!(status(&facts), wanted);
    facts.status = None;
    assert!(status(&facts).contains(&"State          STOPPED: the switch does not answer".to_owned()));
}

#[test]
fn the_counts_of_the_queue_are_no_news() {
    let before = status(&facts(running()));
    let mut more = running();
    more["store"]["messages"] = json!(1235);
    assert!(!differ(&status(&facts(more)), &before));
    let mut full = running();
    full["store"]["full"] = json!(true);
    assert!(differ(&status(&facts(full)), &before));
}

#[test]
fn answers_of_any_form_are_survived() {
    for odd in [
        json!(null),
        json!([]),
        json!({"qmgr": 7, "store": "x", "listeners": {"a": 1}}),
        json!({"listeners": [1, {}]}),
    ] {
        let facts = Facts { self_test: Some((odd.clone(), at(99.0))), status: Some(odd), ..Facts::default() };
        let lines = Told::default().milestones(&facts, at(1.0));
        assert!(lines[0].starts_with("sternpost: 0.00 s: self test: batches of ? octets"), "{lines:?}");
        assert!(!status(&facts).is_empty());
    }
}

#[test]
fn what_came_from_outside_does_not_drive_the_terminal() {
    let mut status = running();
    status["qmgr"]["directory"] = json!("x\u{1b}[2J\ny");
    let facts = facts(status);
    let said = Told::default().milestones(&facts, at(1.0)).concat() + &super::status(&facts).concat();
    assert!(!said.contains('\u{1b}') && !said.contains('\n'), "{said:?}");
}

#[test]
fn the_state_is_never_moved_off_a_small_screen() {
    let status = || vec!["State".to_owned(), "Node".to_owned(), "Problem".to_owned()];
    let milestones = ["one", "two", "three"].map(str::to_owned);
    assert_eq!(fitted(status(), &milestones, 24), ["State", "Node", "Problem", "", "one", "two", "three"]);
    assert_eq!(fitted(status(), &milestones, 6), ["State", "Node", "Problem", "", "three"]);
    assert_eq!(fitted(status(), &milestones, 5), ["State", "Node", "Problem"]);
    assert_eq!(fitted(status(), &milestones, 3), ["State", "Node"]);
    assert_eq!(fitted(status(), &[], 24), ["State", "Node", "Problem"]);
}
