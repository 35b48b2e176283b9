//! What the processes of a running switch may not do, as the kernel says it of each of them, beside mail that passes.
//!
//! Run by root, the roles have users of their own here; run by anybody else, what needs root is shown to be refused.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here, with the place")]

mod switch;

use rustix::process::geteuid;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use sternpost_load::sink::{Protocol, RejectRule, Sink};
use sternpost_load::source::SourceOptions;
use switch::client::Client;
use switch::mail::{compare, send, sink, sink_with, to};
use switch::site::Site;
use switch::{SMALL_ROOM, Switch, new_home, program, run, text};
use tempfile::TempDir;

const GROUP: u32 = 900;
const STORE: u32 = 901;
const QMGR: u32 = 902;
const SEPARATE: &str = "role_users = \"separate\"\n";

/// The users of `image/roles.toml`, by what `status` calls the process.
const USERS: [(&str, u32); 7] = [
    ("store", STORE),
    ("qmgr", QMGR),
    ("directory", 903),
    ("smtp-server", 904),
    ("smtp", 905),
    ("lmtp", 905),
    ("housekeeper", 906),
];

/// The lines of `/proc/PID/status`.
fn kernel_says(pid: u32) -> BTreeMap<String, String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_owned(), value.split_whitespace().collect::<Vec<_>>().join(" ")))
    };
    status.lines().filter_map(line).collect()
}

/// Every process is without capabilities, behind its filter, and `uid` with one group.
fn assert_confined(role: &str, pid: u32, uid: u32, gid: u32) {
    let says = kernel_says(pid);
    let of = |name: &str| says[name].as_str();
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(of(set), "0000000000000000", "{role} {set}");
    }
    if geteuid().is_root() {
        assert_eq!(of("CapBnd"), "0000000000000000", "{role}");
    }
    assert_eq!(of("NoNewPrivs"), "1", "{role}");
    if cfg!(target_arch = "x86_64") {
        assert_eq!(of("Seccomp"), "2", "{role}");
    }
    assert_eq!(of("Uid"), format!("{uid} {uid} {uid} {uid}"), "{role}");
    assert_eq!(of("Gid"), format!("{gid} {gid} {gid} {gid}"), "{role}");
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert!(core.split_whitespace().eq("Max core file size 0 0 bytes".split_whitespace()), "{role} {core}");
}

/// Mail to both kinds of peers and a report, so that every kind of process is there.
fn exercise(switch: &Switch, sinks: &[&Sink]) {
    let report = send(SourceOptions {
        messages_count: 40,
        octets: vec![512, 300_000],
        recipients: vec!["a%d@smtp.test".into(), "b%d@lmtp.test".into()],
        recipients_count: 2,
        ..to(switch.address(), "")
    });
    let compared = compare(&[report], sinks);
    assert_eq!((compared.lost, compared.duplicated), (0, 0), "{compared}");
    let reply = Client::greet(switch.address()).message(
        "<a@sender.test>",
        &["refused@lmtp.test"],
        b"Subject: x\r\n\r\n",
    );
    assert!(reply.starts_with("250 "), "{reply}");
    for (role, _) in USERS {
        // Waits for it.
        switch.pid(role);
    }
    switch.wait_until_empty();
}

/// A message store that refuses one recipient, so that a report is owed.
fn refusing() -> Sink {
    sink_with(|options| {
        options.protocol = Protocol::Lmtp;
        options.reject_recipients = vec![RejectRule { pattern: "refused@".into(), code: 550 }];
    })
}

fn site(smtp: &Sink, lmtp: &Sink) -> Site {
    Site::new().peer("mta", "smtp", smtp.address(), &["smtp.test", "sender.test"]).peer(
        "store",
        "lmtp",
        lmtp.address(),
        &["lmtp.test"],
    )
}

/// A folder that every role may pass through, with tables, and a log that belongs to the store.
fn shared_home(tables: &str) -> TempDir {
    let home = new_home();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o711)).unwrap();
    fs::write(home.path().join("tables.toml"), tables).unwrap();
    fs::write(home.path().join("log"), "").unwrap();
    fs::set_permissions(home.path().join("log"), fs::Permissions::from_mode(0o600)).unwrap();
    home
}

const TABLES: &str = "[tables]\npath = \"tables.toml\"\n";

#[test]
fn every_role_is_without_capabilities_and_behind_a_filter_in_every_run() {
    let (smtp, lmtp) = (sink(), refusing());
    let switch = Switch::start(&site(&smtp, &lmtp).tables());
    exercise(&switch, &[&smtp, &lmtp]);
    let (uid, gid) = (geteuid().as_raw(), rustix::process::getegid().as_raw());
    for (role, _) in USERS {
        assert_confined(role, switch.pid(role), uid, gid);
    }
}

#[test]
fn with_users_of_their_own_the_roles_switch_mail_and_share_nothing_but_sockets() {
    if !geteuid().is_root() {
        let refused = separate_as(None, &shared_home(""));
        return assert!(refused.contains("CAP_SETUID, CAP_SETGID, CAP_KILL"), "{refused}");
    }
    let (smtp, lmtp) = (sink(), refusing());
    let home = shared_home(&site(&smtp, &lmtp).tables());
    chown(home.path().join("log"), Some(STORE), Some(GROUP)).unwrap();
    let switch = Switch::start_with(home, SMALL_ROOM, "auto", SEPARATE, TABLES);
    exercise(&switch, &[&smtp, &lmtp]);
    for (role, uid) in USERS {
        assert_confined(role, switch.pid(role), uid, GROUP);
    }
    let home = switch.home();
    let owner_group_mode = |path: &Path| {
        let metadata = fs::metadata(path).unwrap();
        (metadata.uid(), metadata.gid(), metadata.mode() & 0o777)
    };
    assert_eq!(owner_group_mode(&home.join("r")), (0, GROUP, 0o750));
    for socket in ["store.sock", "qmgr.sock", "supervisor.sock"] {
        assert_eq!(owner_group_mode(&home.join("r").join(socket)), (0, GROUP, 0o660));
    }
    assert_eq!(owner_group_mode(&home.join("s/qmgr")), (QMGR, GROUP, 0o700));
    let kept = home.join("s/qmgr/configuration.last-known-good");
    assert_eq!(fs::metadata(&kept).unwrap().uid(), QMGR);
    for (path, owner) in [(home.join("log"), STORE), (kept, QMGR)] {
        for (role, uid) in USERS {
            let reading = run(Command::new("head").args(["-c", "1"]).arg(&path).uid(uid).gid(GROUP));
            assert_eq!(reading.status.success(), uid == owner, "{role} reads {}", path.display());
        }
    }
    // A role of another user is killed and started again like any other, and stops in order.
    let first = switch.kill("qmgr");
    switch::wait_for("another QMGR", || (switch.pid("qmgr") != first).then_some(()));
    let pids: Vec<_> = USERS.iter().map(|(role, _)| switch.pid(role)).collect();
    drop(switch.stop());
    assert!(pids.into_iter().all(|pid| !switch::lives(pid)));
}

#[test]
fn a_killed_supervisor_takes_the_roles_of_other_users_with_it() {
    if !geteuid().is_root() {
        let refused = separate_as(None, &shared_home(""));
        return assert!(refused.contains("role_users"), "{refused}");
    }
    let smtp = sink();
    let home = shared_home(&Site::new().peer("mta", "smtp", smtp.address(), &["smtp.test"]).tables());
    chown(home.path().join("log"), Some(STORE), Some(GROUP)).unwrap();
    let mut switch = Switch::start_with(home, SMALL_ROOM, "auto", SEPARATE, TABLES);
    let pids: Vec<_> = switch.processes().iter().map(|process| process.pid).collect();
    assert!(pids.len() >= 4);
    switch.kill_supervisor();
    switch::wait_for("end of every role", || pids.iter().all(|pid| !switch::lives(*pid)).then_some(()));
}

/// What a supervisor says that is asked for users and refuses; root runs it as `uid`.
fn separate_as(uid: Option<u32>, home: &TempDir) -> String {
    let bootstrap = home.path().join("boot.toml");
    let lines = format!(
        "run_directory = \"r\"\nstate_directory = \"s\"\n{SEPARATE}[queue]\npath = \"log\"\n{TABLES}"
    );
    fs::write(&bootstrap, lines).unwrap();
    // The build may lie where root alone can go.
    let reachable = home.path().join("sternpost");
    fs::copy(program(), &reachable).unwrap();
    let mut command = Command::new(reachable);
    command.args(["run", "--bootstrap"]).arg(bootstrap);
    if let Some(uid) = uid {
        command.uid(uid).gid(uid);
    }
    let refused = run(&mut command);
    assert_eq!(refused.status.code(), Some(1));
    text(&refused.stderr)
}

#[test]
fn a_supervisor_that_cannot_give_users_says_what_it_lacks() {
    let nobody = geteuid().is_root().then_some(65_534);
    let refused = separate_as(nobody, &shared_home(""));
    let expected =
        "role_users = \"separate\" needs CAP_SETUID, CAP_SETGID, CAP_KILL: start the switch as root";
    assert!(refused.contains(expected), "{refused}");
}

#[test]
fn a_log_that_is_not_the_stores_is_refused_with_the_remedy() {
    if !geteuid().is_root() {
        let refused = separate_as(None, &shared_home(""));
        return assert!(refused.contains("CAP_SETUID"), "{refused}");
    }
    let refused = separate_as(None, &shared_home(""));
    let expected = "belongs to the user 0 and not to the store's, 901; hand it over with chown";
    assert!(refused.contains(expected), "{refused}");
}
