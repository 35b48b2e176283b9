//! Another executable takes over a running switch: what clients notice of it, and what becomes of one that is no good.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here, with the place")]

mod switch;

use rustix::process::{Signal, geteuid};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};
use sternpost_load::sink::Sink;
use sternpost_load::source::SourceOptions;
use switch::client::Client;
use switch::mail::{compare, lmtp_sink, sink, sink_with, start, to};
use switch::site::Site;
use switch::stage::{ROOM, verify};
use switch::{SMALL_ROOM, Switch, new_home, program, signal, text, wait_for};
use tempfile::TempDir;

/// A new executable is on trial for so long.
const TRIAL: Duration = Duration::from_secs(60);
const TABLES: &str = "[tables]\npath = \"tables.toml\"\n";

/// A folder with an executable of its own.
fn home(tables: &str) -> TempDir {
    let home = new_home();
    fs::write(home.path().join("tables.toml"), tables).unwrap();
    fs::copy(program(), home.path().join("sternpost")).unwrap();
    home
}

/// Puts a file into the place of the executable, as `install` does: by renaming.
fn install(switch: &Switch, write: impl FnOnce(&Path)) {
    let new = switch.home().join("sternpost.new");
    write(&new);
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(new, switch.home().join("sternpost")).unwrap();
}

fn install_another(switch: &Switch) {
    install(switch, |new| {
        fs::copy(program(), new).unwrap();
    });
}

/// Whether it could take over it is asked with the right bootstrap, and then it is run with another one.
fn install_one_that_cannot_begin(switch: &Switch) {
    let lines = fs::read_to_string(switch.bootstrap()).unwrap();
    let other = switch.home().join("other.toml");
    fs::write(&other, format!("node = \"another\"\n{lines}")).unwrap();
    let script = format!(
        "#!/bin/sh\nfor last; do :; done\ncase \"$last\" in --check) exec {0} \"$@\";; esac\nexec {0} run --bootstrap {1} \"$last\"\n",
        program(),
        other.display()
    );
    install(switch, |new| fs::write(new, script).unwrap());
}

/// Kills the store until its executable is given up.
fn kill_the_stores(switch: &Switch) {
    let mut dead = 0;
    for _ in 0..3 {
        // One that has just died may still be listed.
        let store = wait_for("next store", || Some(switch.pid("store")).filter(|store| *store != dead));
        signal(store, Signal::KILL);
        dead = store;
    }
}

/// Until another executable is in force, or not.
fn upgrade(switch: &Switch) -> Output {
    switch.command(&["upgrade", "--no-wait", "--json"])
}

/// Until that is decided.
fn upgrade_for_good(switch: &Switch) -> thread::JoinHandle<Output> {
    let bootstrap = switch.bootstrap();
    thread::spawn(move || {
        let mut command = Command::new(program());
        switch::run(command.args(["upgrade", "--bootstrap"]).arg(bootstrap))
    })
}

/// The file that a process runs; none when it has ended.
fn executable(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/exe")).ok()
}

fn is_of_the_new_file(switch: &Switch, pid: u32) -> bool {
    executable(pid) == Some(switch.home().join("sternpost"))
}

fn site(smtp: &Sink, lmtp: &Sink) -> Site {
    Site::new().peer("mta", "smtp", smtp.address(), &["smtp.test"]).peer(
        "store",
        "lmtp",
        lmtp.address(),
        &["lmtp.test"],
    )
}

#[test]
fn an_upgrade_under_load_refuses_nobody_and_every_message_comes_once() {
    const UPGRADES: usize = 3;
    let few = |options: &mut sternpost_load::sink::SinkOptions| {
        (options.keep_content, options.delay) = (false, Duration::from_millis(10));
    };
    let smtp = sink_with(few);
    let lmtp = sink_with(|options| {
        few(options);
        options.protocol = sternpost_load::sink::Protocol::Lmtp;
    });
    let switch = Switch::start_at(home(&site(&smtp, &lmtp).tables()), ROOM, "auto", TABLES);
    // One connects anew for each message, the other keeps its sessions.
    let load = |messages_per_connection| {
        start(SourceOptions {
            sessions_count: 6,
            messages_count: u64::MAX,
            octets: vec![1_000, 4_096, 200_000],
            recipients: vec!["a%d@smtp.test".into(), "b%d@lmtp.test".into()],
            recipients_count: 2,
            messages_per_connection,
            rate_per_s: Some(60.0),
            reply_timeout: Duration::from_secs(30),
            ..to(switch.address(), "")
        })
    };
    let (connecting, staying) = (load(Some(1)), load(None));
    let accepted = || connecting.progress.accepted_count().min(staying.progress.accepted_count());
    let supervisor = switch.supervisor_pid();
    for _ in 0..UPGRADES {
        let goal = accepted() + 30;
        wait_for("some mail", || (accepted() > goal).then_some(()));
        let before: Vec<u32> = switch.processes().iter().map(|process| process.pid).collect();
        install_another(&switch);
        assert!(!is_of_the_new_file(&switch, supervisor));
        let upgraded = upgrade(&switch);
        assert_eq!(upgraded.status.code(), Some(0), "{}{}", text(&upgraded.stdout), text(&upgraded.stderr));
        assert!(is_of_the_new_file(&switch, supervisor), "the process is the same, its program another");
        for role in ["store", "qmgr", "directory", "smtp-server"] {
            let pid = switch.pid(role);
            assert!(is_of_the_new_file(&switch, pid) && !before.contains(&pid), "{role}");
        }
        wait_for("transfers by the new executable alone", || {
            let mut channels = switch.processes();
            channels.retain(|process| ["smtp", "lmtp"].contains(&process.role.as_str()));
            let are_new = channels.iter().all(|process| !before.contains(&process.pid));
            (channels.len() >= 2 && are_new).then_some(())
        });
    }
    let goal = accepted() + 30;
    wait_for("some mail", || (accepted() > goal).then_some(()));
    let reports = [connecting.stop(), staying.stop()];
    for report in &reports {
        assert!(report.troubles.is_empty() && report.refused.is_empty(), "{:?}", report.troubles);
        assert_eq!(report.retries_count, 0);
    }
    let compared = compare(&reports, &[&smtp, &lmtp]);
    println!("{compared}");
    assert_eq!((compared.lost, compared.duplicated), (0, 0), "{compared}");
    wait_for("end of every process of the executables before", || {
        switch.processes().iter().all(|process| is_of_the_new_file(&switch, process.pid)).then_some(())
    });
    switch.wait_until_empty();
    verify(switch);
}

/// A session in the middle of a message, and one in whose transfer the peer takes its time, over an upgrade.
fn goes_on_over_an_upgrade(switch: &Switch, slow: &Sink) {
    let submit = |client: &mut Client, subject: &str| {
        let content = format!("Subject: {subject}\r\n\r\n{subject}\r\n");
        let reply = client.message("<a@sender.test>", &["one@smtp.test"], content.as_bytes());
        assert!(reply.starts_with("250 "), "{reply}");
    };
    submit(&mut Client::greet(switch.address()), "in transfer");
    switch.wait_for_status("transfer", |status| {
        let mut channels = status["qmgr"]["scheduler"]["channels"].as_array()?.iter();
        channels.any(|channel| channel["in_progress"] == 1).then_some(())
    });
    let server = switch.pid("smtp-server");
    let mut client = Client::greet(switch.address());
    client.expect("MAIL FROM:<a@sender.test>", "250");
    client.expect("RCPT TO:<two@smtp.test>", "250");
    client.expect("DATA", "354");
    client.send(b"Subject: half\r\n\r\nhalf");
    install_another(switch);
    let upgraded = upgrade(switch);
    assert_eq!(upgraded.status.code(), Some(0), "{}{}", text(&upgraded.stdout), text(&upgraded.stderr));
    let status = switch.status();
    let is_leaving =
        |role: &serde_json::Value| role["name"] == "smtp-server (leaving)" && role["pid"] == server;
    assert!(status["roles"].as_array().unwrap().iter().any(is_leaving), "{status}");
    assert_ne!(switch.pid("smtp-server"), server);
    // A new client is served by the new process, and the old session goes on as if nothing had happened.
    submit(&mut Client::greet(switch.address()), "new");
    let _new = Client::greet(switch.address());
    switch.wait_for_status("sum of the connections of both processes", |status| {
        let listener = &status["qmgr"]["connections"][0];
        let open = ["urgent", "normal", "non_urgent"].iter().filter_map(|kind| listener[kind].as_u64());
        (open.sum::<u64>() == 2).then_some(())
    });
    client.expect(" and the rest\r\n.", "250");
    submit(&mut client, "one more");
    assert!(switch::lives(server));
    client.expect("QUIT", "221");
    drop(client);
    wait_for("end of the process before", || (!switch::lives(server)).then_some(()));
    assert!(slow.wait_for(4, switch::PATIENCE));
    switch.wait_until_empty();
    assert_eq!((slow.counts().received, slow.counts().duplicated), (4, 0));
}

#[test]
fn a_peer_that_holds_the_only_process_of_a_channel_over_an_upgrade_delays_no_other_mail() {
    // It takes the message and then says nothing.
    let tarpit = sink_with(|options| options.delay = Duration::from_secs(3_600));
    let (good, store) = (sink(), lmtp_sink());
    let site = site(&good, &store).peer("tarpit", "smtp", tarpit.address(), &["held.test"]);
    let tables = site.channel("processes_max = 1").tables();
    let switch = Switch::start_at(home(&tables), SMALL_ROOM, "auto", TABLES);
    let submit = |recipient: &str| {
        let content = b"Subject: x\r\n\r\nx\r\n";
        let reply = Client::greet(switch.address()).message("<a@sender.test>", &[recipient], content);
        assert!(reply.starts_with("250 "), "{reply}");
    };
    submit("one@held.test");
    let smtp = |status: &serde_json::Value| {
        let channels = status["qmgr"]["scheduler"]["channels"].as_array().cloned().unwrap_or_default();
        channels.into_iter().find(|channel| channel["name"] == "smtp").unwrap_or_default()
    };
    switch.wait_for_status("transfer", |status| (smtp(status)["in_progress"] == 1).then_some(()));
    install_another(&switch);
    let upgraded = upgrade(&switch);
    assert_eq!(upgraded.status.code(), Some(0), "{}{}", text(&upgraded.stdout), text(&upgraded.stderr));
    submit("two@smtp.test");
    assert!(good.wait_for(1, switch::PATIENCE));
    let channel = smtp(&switch.status());
    assert_eq!((&channel["processes"], &channel["processes_leaving"]), (&2.into(), &1.into()), "{channel}");
}

#[test]
fn a_server_that_leaves_and_breaks_the_sockets_is_killed_and_the_new_executable_stays() {
    let smtp = sink();
    let switch = Switch::start_at(home(&site(&smtp, &lmtp_sink()).tables()), SMALL_ROOM, "auto", TABLES);
    // Its session keeps the server of the executable before.
    let _client = Client::greet(switch.address());
    let leaving = switch.pid("smtp-server");
    install_another(&switch);
    let upgraded = upgrade(&switch);
    assert_eq!(upgraded.status.code(), Some(0), "{}{}", text(&upgraded.stdout), text(&upgraded.stderr));
    assert!(switch::lives(leaving));
    // What it could do if strangers had taken it over, with sockets that it shares with everybody.
    let first = switch.pid("smtp-server");
    let held = switch::listening_sockets_of(switch.supervisor_pid());
    assert!(!held.is_empty());
    let shut = || {
        let shut = |socket: &&OwnedFd| rustix::net::shutdown(socket, rustix::net::Shutdown::Read).is_ok();
        held.iter().filter(shut).count()
    };
    assert!(shut() > 0);
    wait_for("end of the process before", || (!switch::lives(leaving)).then_some(()));
    wait_for("another smtp-server", || (switch.pid("smtp-server") != first).then_some(()));
    let second = switch.pid("smtp-server");
    // What is done to the old sockets is done to nobody any more.
    assert_eq!(shut(), 0);
    let reply =
        Client::greet(switch.address()).message("<a@sender.test>", &["b@smtp.test"], b"Subject: x\r\n\r\n");
    assert!(reply.starts_with("250 ") && smtp.wait_for(1, switch::PATIENCE), "{reply}");
    assert_eq!(switch.pid("smtp-server"), second);
    assert!(is_of_the_new_file(&switch, switch.supervisor_pid()));
    let log = switch.log();
    assert!(
        log.contains("listener.broken") && log.contains("listener.kill") && !log.contains("upgrade.back")
    );
    // Nor does one who waits with all its sessions stay: O_NONBLOCK is set again where it is missing.
    for socket in switch::listening_sockets_of(switch.supervisor_pid()) {
        std::net::TcpListener::from(socket).set_nonblocking(false).unwrap();
    }
    signal(second, Signal::KILL);
    wait_for("another smtp-server", || (switch.pid("smtp-server") != second).then_some(()));
    Client::greet(switch.address()).expect("NOOP", "250");
    assert!(switch.log().contains("O_NONBLOCK was off"));
}

fn slow() -> Sink {
    sink_with(|options| options.delay = Duration::from_secs(4))
}

#[test]
fn what_is_under_way_in_the_executable_before_is_let_finish() {
    let slow = slow();
    let switch = Switch::start_at(home(&site(&slow, &lmtp_sink()).tables()), SMALL_ROOM, "auto", TABLES);
    goes_on_over_an_upgrade(&switch, &slow);
}

#[test]
fn an_upgrade_keeps_the_users_of_the_roles() {
    if !geteuid().is_root() {
        return println!("needs root");
    }
    let slow = slow();
    let home = home(&site(&slow, &lmtp_sink()).tables());
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o711)).unwrap();
    fs::write(home.path().join("log"), "").unwrap();
    chown(home.path().join("log"), Some(901), Some(900)).unwrap();
    let switch = Switch::start_with(home, SMALL_ROOM, "auto", "role_users = \"separate\"\n", TABLES);
    goes_on_over_an_upgrade(&switch, &slow);
    for (role, uid) in [("store", 901), ("qmgr", 902), ("directory", 903), ("smtp-server", 904)] {
        let status = fs::read_to_string(format!("/proc/{}/status", switch.pid(role))).unwrap();
        assert!(status.contains(&format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}\n")), "{role}: {status}");
    }
}

#[test]
fn an_executable_that_is_no_good_is_not_taken_and_the_one_before_goes_on() {
    let smtp = sink();
    let switch = Switch::start_at(home(&site(&smtp, &lmtp_sink()).tables()), SMALL_ROOM, "auto", TABLES);
    let before = switch.processes();
    let whole = fs::read(program()).unwrap();
    let wrong: [(&str, &[u8], &str); 5] = [
        ("a script that fails", b"#!/bin/sh\necho cannot >&2\nexit 1\n", "exit status: 1: cannot"),
        ("another program", b"#!/bin/sh\necho hello\n", "it is no sternpost that can take over: it says "),
        // The second half is what debuggers read, and not missed.
        ("a part of it", &whole[..whole.len() / 8], "it "),
        ("nothing", b"", "it cannot be run"),
        ("a program of long ago", b"#!/bin/sh\necho unexpected argument >&2\nexit 2\n", "exit status: 2"),
    ];
    for (what, octets, expected) in wrong {
        install(&switch, |new| fs::write(new, octets).unwrap());
        let refused = upgrade(&switch);
        assert_eq!(refused.status.code(), Some(1), "{what}");
        let said = text(&refused.stdout);
        assert!(said.contains(expected) && said.contains("goes on as before"), "{what}: {said}");
        assert_eq!(switch.processes(), before, "{what}");
    }
    assert_eq!(switch.log().matches("upgrade.refused").count(), 5);
    fs::remove_file(switch.home().join("sternpost")).unwrap();
    let refused = upgrade(&switch);
    assert!(
        refused.status.code() == Some(1) && text(&refused.stdout).contains("No such file"),
        "{refused:?}"
    );
    // Another bootstrap is for a start of the switch.
    install_another(&switch);
    let lines = fs::read_to_string(switch.bootstrap()).unwrap();
    fs::write(switch.bootstrap(), lines.replace("path = \"log\"", "path = \"other\"")).unwrap();
    let refused = upgrade(&switch);
    assert!(text(&refused.stdout).contains("[queue] of the bootstrap is another one"), "{refused:?}");
    assert_eq!(switch.processes(), before);
    let reply =
        Client::greet(switch.address()).message("<a@sender.test>", &["b@smtp.test"], b"Subject: x\r\n\r\n");
    assert!(reply.starts_with("250 ") && smtp.wait_for(1, switch::PATIENCE), "{reply}");
}

#[test]
fn an_executable_whose_roles_do_not_stay_is_given_up_for_the_one_before() {
    let smtp = sink();
    let switch = Switch::start_at(home(&site(&smtp, &lmtp_sink()).tables()), SMALL_ROOM, "auto", TABLES);
    install_another(&switch);
    let upgrading = upgrade_for_good(&switch);
    let supervisor = switch.supervisor_pid();
    wait_for("trial", || switch.log().contains("upgrade.done").then_some(()));
    assert!(is_of_the_new_file(&switch, supervisor));
    // A second attempt meanwhile makes the executable on trial not the one to go back to.
    install_another(&switch);
    assert_eq!(upgrade(&switch).status.code(), Some(0));
    kill_the_stores(&switch);
    wait_for("the executable before", || (!is_of_the_new_file(&switch, supervisor)).then_some(()));
    let said = wait_for("a word about it", || {
        let said = fs::read_to_string(switch.home().join("r/upgrade.json")).ok()?;
        said.contains("is in force again").then_some(said)
    });
    assert!(said.contains("store of the new executable does not stay: signal: 9 (SIGKILL)"), "{said}");
    let upgraded = upgrading.join().unwrap();
    assert_eq!(upgraded.status.code(), Some(1), "{upgraded:?}");
    assert!(text(&upgraded.stdout).contains("is in force again"), "{upgraded:?}");
    assert!(
        text(&upgraded.stderr).contains("waiting: version") && text(&upgraded.stderr).contains("on trial")
    );
    assert!(switch.log().contains("upgrade.gone-back"));
    let reply =
        Client::greet(switch.address()).message("<a@sender.test>", &["b@smtp.test"], b"Subject: x\r\n\r\n");
    assert!(reply.starts_with("250 ") && smtp.wait_for(1, switch::PATIENCE), "{reply}");
    assert!(!is_of_the_new_file(&switch, switch.pid("store")));
}

#[test]
fn the_command_waits_until_the_trial_is_over_and_says_that_the_new_executable_stays() {
    let smtp = sink();
    let switch = Switch::start_at(home(&site(&smtp, &lmtp_sink()).tables()), SMALL_ROOM, "auto", TABLES);
    install_another(&switch);
    let begin = Instant::now();
    let upgraded = upgrade_for_good(&switch).join().unwrap();
    assert_eq!(upgraded.status.code(), Some(0), "{upgraded:?}");
    assert!(text(&upgraded.stdout).contains("is in force, and its roles have stayed"), "{upgraded:?}");
    assert!(begin.elapsed() > TRIAL, "it did not wait");
    assert!(text(&upgraded.stderr).matches("waiting: version").count() > 2, "{upgraded:?}");
    assert!(is_of_the_new_file(&switch, switch.supervisor_pid()));
}

#[test]
fn what_another_run_has_left_sends_no_signal_to_the_one_that_runs() {
    let smtp = sink();
    let mut switch = Switch::start_at(home(&site(&smtp, &lmtp_sink()).tables()), SMALL_ROOM, "auto", TABLES);
    let file = switch.home().join("r/upgrade.json");
    let left = fs::read(&file).unwrap();
    switch.kill_supervisor();
    assert_eq!(fs::read(&file).unwrap(), left, "it is killed, and leaves it");
    switch.launch();
    // As if the one that runs knew nothing of upgrades, and so had not replaced it: the signal would end that one.
    fs::write(&file, left).unwrap();
    let (supervisor, before) = (switch.supervisor_pid(), switch.processes());
    let refused = upgrade(&switch);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let said = text(&refused.stderr);
    assert!(said.contains("left by another run") && said.contains("restart it instead"), "{said}");
    assert_eq!((switch.supervisor_pid(), switch.processes()), (supervisor, before));
    assert!(!switch.log().contains("upgrade.check"));
}

#[test]
fn an_executable_that_cannot_begin_is_given_up_for_the_one_before_and_nobody_is_refused() {
    let smtp = sink();
    let switch = Switch::start_at(home(&site(&smtp, &lmtp_sink()).tables()), SMALL_ROOM, "auto", TABLES);
    let supervisor = switch.supervisor_pid();
    install_one_that_cannot_begin(&switch);
    let sending = start(SourceOptions {
        sessions_count: 4,
        messages_count: u64::MAX,
        messages_per_connection: Some(1),
        rate_per_s: Some(50.0),
        reply_timeout: Duration::from_secs(30),
        ..to(switch.address(), "b@smtp.test")
    });
    wait_for("some mail", || (sending.progress.accepted_count() > 20).then_some(()));
    let upgraded = upgrade(&switch);
    let said = text(&upgraded.stdout);
    assert_eq!(upgraded.status.code(), Some(1), "{said}{}", text(&upgraded.stderr));
    assert!(
        said.contains("cannot begin: this executable cannot take over: node of the bootstrap is another one")
            && said.contains("is in force again"),
        "{said}"
    );
    let goal = sending.progress.accepted_count() + 50;
    wait_for("mail again", || (sending.progress.accepted_count() > goal).then_some(()));
    let report = sending.stop();
    assert!(report.troubles.is_empty() && report.refused.is_empty(), "{:?}", report.troubles);
    let compared = compare(&[report], &[&smtp]);
    assert_eq!((compared.lost, compared.duplicated), (0, 0), "{compared}");
    assert_eq!(switch.supervisor_pid(), supervisor);
    // Nothing that was copied on the way comes to a role.
    assert!(switch::listening_sockets_of(switch.pid("store")).is_empty());
    assert!(executable(supervisor).is_some_and(|path| path.starts_with(switch.home())));
    assert!(switch.log().contains("upgrade.gone-back"));
}

#[test]
fn one_that_cannot_begin_gives_everything_back_to_the_executable_on_trial_and_that_stays_on_trial() {
    let smtp = sink();
    let switch = Switch::start_at(home(&site(&smtp, &lmtp_sink()).tables()), SMALL_ROOM, "auto", TABLES);
    let supervisor = switch.supervisor_pid();
    // The file that is run, whether it has a name or not.
    let runs = || fs::metadata(format!("/proc/{supervisor}/exe")).unwrap().ino();
    let first = runs();
    install_another(&switch);
    assert_eq!(upgrade(&switch).status.code(), Some(0));
    let on_trial = runs();
    assert_ne!(on_trial, first);
    install_one_that_cannot_begin(&switch);
    let upgraded = upgrade(&switch);
    let said = text(&upgraded.stdout);
    assert_eq!(upgraded.status.code(), Some(1), "{said}{}", text(&upgraded.stderr));
    assert!(
        said.contains("cannot begin: ") && said.contains("is in force again, and on trial as before"),
        "{said}"
    );
    assert_eq!(runs(), on_trial);
    kill_the_stores(&switch);
    wait_for("the first executable", || (runs() == first).then_some(()));
    let reply =
        Client::greet(switch.address()).message("<a@sender.test>", &["b@smtp.test"], b"Subject: x\r\n\r\n");
    assert!(reply.starts_with("250 ") && smtp.wait_for(1, switch::PATIENCE), "{reply}");
    assert!(!switch.log().contains("upgrade.no-way-back") && !switch.log().contains("upgrade.lost"));
}

#[test]
fn before_an_executable_of_another_protocol_everything_ends_in_order_and_clients_wait() {
    let smtp = sink();
    let switch = Switch::start_at(home(&site(&smtp, &lmtp_sink()).tables()), SMALL_ROOM, "auto", TABLES);
    let before = switch.processes();
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *--check) echo '{{\"version\": \"9\", \"link\": 999}}';; *) exec {} \"$@\";; esac\n",
        program()
    );
    install(&switch, |new| fs::write(new, script).unwrap());
    let sending = start(SourceOptions {
        sessions_count: 4,
        messages_count: u64::MAX,
        messages_per_connection: Some(1),
        rate_per_s: Some(50.0),
        reply_timeout: Duration::from_secs(30),
        ..to(switch.address(), "b@smtp.test")
    });
    wait_for("some mail", || (sending.progress.accepted_count() > 20).then_some(()));
    let upgraded = upgrade(&switch);
    assert_eq!(upgraded.status.code(), Some(0), "{}{}", text(&upgraded.stdout), text(&upgraded.stderr));
    let goal = sending.progress.accepted_count() + 50;
    wait_for("mail again", || (sending.progress.accepted_count() > goal).then_some(()));
    let report = sending.stop();
    assert!(report.troubles.is_empty() && report.refused.is_empty(), "{:?}", report.troubles);
    let compared = compare(&[report], &[&smtp]);
    assert_eq!((compared.lost, compared.duplicated), (0, 0), "{compared}");
    assert!(switch.processes().iter().all(|process| before.iter().all(|old| old.pid != process.pid)));
    assert_eq!(executable(switch.supervisor_pid()).as_deref(), Some(Path::new(program())));
}
