//! The configuration directory of a running switch: read, changed, broken, killed and away.

mod switch;

use std::time::{Duration, Instant};
use sternpost_config::{DomainPattern, ExampleParameters, example_tree};
use sternpost_directory::Bootstrap;
use sternpost_directory::testing::{BASE_DN, Slapd};
use sternpost_load::sink::Sink;
use sternpost_load::source::SourceOptions;
use switch::mail::{RETRY, compare, lmtp_sink, send, sink, start, to};
use switch::{PATIENCE, SMALL_ROOM, Switch, new_home, wait_for};
use tempfile::TempDir;

/// A change of the directory is in force after this at the latest.
const CHANGE_MAX: Duration = Duration::from_secs(2);

/// A directory with the example tree, and the two next hops that it names.
struct Lab {
    slapd: Slapd,
    smtp: Sink,
    lmtp: Sink,
    _folder: TempDir,
}

impl Lab {
    fn new() -> Self {
        let folder = new_home();
        let slapd = Slapd::start(folder.path(), false);
        let (smtp, lmtp) = (sink(), lmtp_sink());
        let pattern = |text: &str| vec![text.parse::<DomainPattern>().expect("the domain of a test is one")];
        let parameters = ExampleParameters {
            node: "switch-1".into(),
            hostname: "switch.test".into(),
            listener: "127.0.0.1:0".parse().expect("an address"),
            smtp_peer: smtp.address(),
            lmtp_peer: lmtp.address(),
            smtp_domains: pattern("smtp.test"),
            lmtp_domains: pattern("lmtp.test"),
        };
        slapd.add_ldif(&example_tree(BASE_DN, &parameters));
        Self { slapd, smtp, lmtp, _folder: folder }
    }

    fn start(&self) -> Switch {
        self.start_at(new_home())
    }

    /// A switch that is configured by this directory, in a folder that may hold the state of an earlier one.
    fn start_at(&self, home: TempDir) -> Switch {
        #[derive(serde::Serialize)]
        struct Source {
            directory: Bootstrap,
        }
        let source = Source { directory: self.slapd.bootstrap("switch-1") };
        let source = toml::to_string(&source).expect("a bootstrap can be written");
        Switch::start_at(home, SMALL_ROOM, "auto", &source)
    }

    /// Replaces an attribute of a shared entry.
    fn set(&self, name: &str, attribute: &str, value: &str) {
        self.slapd.modify_ldif(&format!(
            "dn: cn={name},ou=shared,ou=sternpost,{BASE_DN}\nchangetype: modify\nreplace: {attribute}\n{attribute}: {value}\n"
        ));
    }

    /// One message to a domain; it must come to this sink.
    fn passes(&self, switch: &Switch, recipient: &str, sink: &Sink) {
        let before = sink.counts().distinct;
        send(to(switch.address(), recipient));
        assert!(sink.wait_for(before + 1, PATIENCE), "no mail for {recipient}");
    }
}

fn problem_dn(status: &serde_json::Value) -> Option<String> {
    Some(status["qmgr"]["configuration"]["problems"][0]["dn"].as_str()?.to_owned())
}

#[test]
fn a_switch_boots_from_the_example_tree_and_mail_passes() {
    let lab = Lab::new();
    let switch = lab.start();
    lab.passes(&switch, "a@smtp.test", &lab.smtp);
    lab.passes(&switch, "b@lmtp.test", &lab.lmtp);
    let status = switch.status();
    assert_eq!(status["qmgr"]["configuration"]["problems"], serde_json::json!([]), "{status:#}");
    assert_eq!(switch.ask(&["config", "show"])["configuration"]["node"]["hostname"], "switch.test");
}

#[test]
fn a_route_that_is_changed_is_used_within_two_seconds() {
    let lab = Lab::new();
    let switch = lab.start();
    lab.passes(&switch, "a@smtp.test", &lab.smtp);
    lab.set("to-next-hop", "sternpostPeer", "store");
    let changed = Instant::now();
    for number in 0.. {
        send(to(switch.address(), &format!("b{number}@smtp.test")));
        if lab.lmtp.wait_for(1, Duration::from_millis(50)) {
            break;
        }
        assert!(changed.elapsed() < CHANGE_MAX, "the old route is still in use");
    }
}

#[test]
fn an_address_that_is_changed_is_used_although_an_association_to_the_old_one_is_open() {
    let lab = Lab::new();
    let switch = lab.start();
    lab.passes(&switch, "a@smtp.test", &lab.smtp);
    let moved = sink();
    lab.set("next-hop", "sternpostAddress", &moved.address().to_string());
    let changed = Instant::now();
    // Steady mail keeps the old association from falling idle.
    for number in 0.. {
        send(to(switch.address(), &format!("b{number}@smtp.test")));
        if moved.wait_for(1, Duration::from_millis(50)) {
            break;
        }
        assert!(changed.elapsed() < 2 * CHANGE_MAX, "the old address is still in use");
    }
}

#[test]
fn mail_flows_while_the_directory_is_killed_twenty_times_and_a_later_change_arrives() {
    let mut lab = Lab::new();
    let switch = lab.start();
    let pids: Vec<u32> = switch.processes().iter().map(|process| process.pid).collect();
    let sending = start(SourceOptions {
        sessions_count: 2,
        messages_count: u64::MAX,
        recipients: vec!["a%d@smtp.test".into(), "b%d@lmtp.test".into()],
        rate_per_s: Some(100.0),
        retry: Some(RETRY),
        ..to(switch.address(), "")
    });
    for _ in 0..20 {
        let accepted = sending.progress.accepted_count();
        lab.slapd.kill();
        lab.slapd.restart();
        wait_for("mail after a death of the directory", || {
            (sending.progress.accepted_count() > accepted + 5).then_some(())
        });
    }
    let report = sending.stop();
    assert_eq!((report.retries_count, report.refused.len()), (0, 0), "{:?}", report.troubles);
    let compared = compare(&[report], &[&lab.smtp, &lab.lmtp]);
    assert_eq!((compared.lost, compared.duplicated), (0, 0), "{compared}");
    let alive: Vec<u32> = switch.processes().iter().map(|process| process.pid).collect();
    assert!(pids.iter().all(|pid| alive.contains(pid)), "{pids:?} {alive:?}");
    lab.set("qmgr", "sternpostRetryStepS", "7");
    wait_for("change after all that", || {
        (switch.ask(&["config", "show"])["configuration"]["qmgr"]["retry_step_s"] == 7).then_some(())
    });
}

#[test]
fn a_switch_starts_from_the_last_known_good_configuration_when_the_directory_is_away() {
    let mut lab = Lab::new();
    let switch = lab.start();
    lab.passes(&switch, "a@smtp.test", &lab.smtp);
    let home = switch.stop();
    lab.slapd.stop();
    let switch = lab.start_at(home);
    lab.passes(&switch, "b@smtp.test", &lab.smtp);
    assert!(switch.log().contains("configuration.last-known-good"));
    // That is what the switch is for: nobody is woken, and whoever looks sees since when.
    let output = switch.command(&["status", "--json"]);
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &status["qmgr"]["directory_connected"]), (Some(0), &false.into()));
    assert!(status["qmgr"]["directory_away"]["for_s"].is_u64(), "{status:#}");
    assert!(status["qmgr"]["directory_away"]["since"].is_string(), "{status:#}");
    lab.slapd.restart();
    switch.wait_for_status("end of the directory's absence", |status| {
        status["qmgr"]["directory_away"].is_null().then_some(())
    });
    lab.set("qmgr", "sternpostRetryStepS", "9");
    wait_for("change of the directory that is back", || {
        (switch.ask(&["config", "show"])["configuration"]["qmgr"]["retry_step_s"] == 9).then_some(())
    });
}

#[test]
fn a_wrong_entry_keeps_its_last_good_version_and_is_reported() {
    let lab = Lab::new();
    let switch = lab.start();
    lab.set("next-hop", "sternpostAddress", "nowhere");
    let dn = switch.wait_for_status("problem", problem_dn);
    assert_eq!(dn, format!("cn=next-hop,ou=shared,ou=sternpost,{BASE_DN}"));
    let problem = &switch.status()["qmgr"]["configuration"]["problems"][0];
    assert_eq!(problem["attribute"], "sternpostAddress", "{problem}");
    lab.passes(&switch, "a@smtp.test", &lab.smtp);
    // Also another QMGR knows the good version.
    switch.kill("qmgr");
    switch.wait_for_status("problem that another QMGR reports too", problem_dn);
    lab.passes(&switch, "b@smtp.test", &lab.smtp);
    lab.set("next-hop", "sternpostAddress", &lab.smtp.address().to_string());
    switch.wait_for_status("end of the problem", |status| {
        (status["qmgr"]["configuration"]["problems"] == serde_json::json!([])).then_some(())
    });
}
