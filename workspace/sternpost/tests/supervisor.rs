//! The real supervisor with its real processes: what starts, what is started again, and what is left at the end.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here, with the place")]

use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The longest that a test waits for anything. Far more than is needed: only a failing test takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// A switch in a folder of its own.
struct Switch {
    folder: tempfile::TempDir,
    supervisor: Child,
}

impl Switch {
    fn start() -> Self {
        Self::start_with(|_| ())
    }

    /// Starts a switch in a folder that was prepared.
    fn start_with(prepare: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bootstrap = "run_directory = \"run\"\nstate_directory = \"state\"\n\
                         [queue]\npath = \"queue.log\"\nsegment_octets = 1048576\nsegments = 8\n\
                         [tables]\npath = \"tables.toml\"\n";
        fs::write(folder.path().join("boot.toml"), bootstrap).unwrap();
        let tables = "[node]\nname = \"n\"\nhostname = \"n.example\"\n\
                      [[listener]]\nname = \"in\"\naddresses = [\"127.0.0.1:0\"]\n";
        fs::write(folder.path().join("tables.toml"), tables).unwrap();
        prepare(folder.path());
        let log = fs::File::create(folder.path().join("stderr")).unwrap();
        let supervisor = run(folder.path()).stderr(log).spawn().unwrap();
        let switch = Self { folder, supervisor };
        until("the supervisor answers", || switch.pid_of("directory").is_some());
        switch
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What runs, as `status` says it. Store and QMGR may be silent; the supervisor is not.
    fn roles(&self) -> Vec<Value> {
        self.status()["roles"].as_array().cloned().unwrap_or_default()
    }

    fn status(&self) -> Value {
        let output = Command::new(env!("CARGO_BIN_EXE_sternpost"))
            .args(["status", "--json", "--bootstrap"])
            .arg(self.path("boot.toml"))
            .output()
            .unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    fn pid_of(&self, role: &str) -> Option<u64> {
        self.roles().iter().find(|running| running["role"] == role)?["pid"].as_u64()
    }

    fn terminate(&mut self) -> Option<i32> {
        sternpost_platform::process::terminate(self.supervisor.id()).unwrap();
        let mut code = None;
        until("the supervisor ends", || {
            let status = self.supervisor.try_wait().unwrap();
            code = status.and_then(|status| status.code());
            status.is_some()
        });
        code
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        // Its children end with it.
        let _ = self.supervisor.kill();
        let _ = self.supervisor.wait();
    }
}

fn run(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sternpost"));
    command.args(["run", "--bootstrap", "boot.toml"]).current_dir(folder);
    command
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether the process is there and not only waits to be reaped.
fn is_alive(pid: u64) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| !rest.starts_with(['Z', 'X'])))
}

/// What the server says first; empty when the connection ends before.
fn first_line(stream: &TcpStream) -> String {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut line = String::new();
    let _ = BufReader::new(stream).read_line(&mut line);
    line
}

#[test]
fn a_stopped_switch_leaves_no_process_and_no_socket() {
    let mut switch = Switch::start();
    let pids: Vec<u64> = switch.roles().iter().filter_map(|running| running["pid"].as_u64()).collect();
    assert!(!pids.is_empty());
    assert_eq!(switch.terminate(), Some(0));
    assert!(!pids.iter().any(|pid| is_alive(*pid)));
    let sockets = ["store.sock", "qmgr.sock", "signer.sock", "supervisor.sock"];
    assert!(!sockets.iter().any(|name| switch.path("run").join(name).exists()));
}

#[test]
fn a_second_switch_in_the_same_folder_is_refused_and_harms_nothing() {
    let switch = Switch::start();
    let second = run(switch.folder.path()).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let error = String::from_utf8_lossy(&second.stderr);
    assert!(error.contains("error: a switch already runs in "), "{error}");
    assert!(switch.pid_of("directory").is_some());
}

#[test]
fn a_killed_role_is_started_again() {
    let switch = Switch::start();
    let first = switch.pid_of("directory").unwrap();
    sternpost_platform::process::kill(u32::try_from(first).unwrap()).unwrap();
    until("another directory process runs", || {
        switch.pid_of("directory").is_some_and(|second| second != first)
    });
    let roles = switch.roles();
    let directory = roles.iter().find(|running| running["role"] == "directory").unwrap();
    assert!(directory["starts"].as_u64().unwrap() >= 2, "{directory}");
}

#[test]
fn a_role_that_ends_again_and_again_is_told_by_status_by_one_alarm_and_by_health() {
    let switch = Switch::start_with(|folder| fs::write(folder.join("queue.log"), "something else").unwrap());
    let failing = || switch.status()["roles_failing"][0].clone();
    until("the store has ended three times", || failing()["ends"].as_u64().is_some_and(|ends| ends >= 3));
    assert_eq!(failing()["role"], "store");
    assert!(failing()["ends_in_hour"].as_u64().is_some_and(|ends| ends >= 3), "{}", failing());
    until("the time of the next start is told", || {
        failing()["next_start_at"].as_str().is_some_and(|at| at.ends_with('Z') && at.contains('T'))
    });
    // One alarm for three ends, the next one for ten.
    let log = fs::read_to_string(switch.path("stderr")).unwrap();
    let alarms: Vec<_> = log.lines().filter(|line| line.contains("role.loop")).collect();
    assert!(alarms.len() == 1 && alarms[0].contains("ends_in_hour=3"), "{alarms:?}");
    let health = Command::new(env!("CARGO_BIN_EXE_sternpost"))
        .args(["health", "--json", "--bootstrap"])
        .arg(switch.path("boot.toml"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&health.stdout);
    assert!(health.status.code() == Some(1) && said.contains("\"role store\""), "{said}");
    let why = failing()["why"].as_str().unwrap().to_owned();
    assert!(why.starts_with("exit status: 1: ") && why.contains("queue.log"), "{why}");
    assert_eq!(fs::read(switch.path("queue.log")).unwrap(), b"something else");
}

#[test]
fn a_client_that_connects_while_the_server_restarts_is_served() {
    let switch = Switch::start();
    until("the server runs", || switch.pid_of("smtp-server").is_some());
    let address = switch.status()["listeners"][0]["address"].as_str().unwrap().to_owned();
    let first = switch.pid_of("smtp-server").unwrap();
    sternpost_platform::process::kill(u32::try_from(first).unwrap()).unwrap();
    // The socket is the supervisor's: nobody is refused, whether the server is there or not.
    let client = TcpStream::connect(&address).unwrap();
    until("another server runs", || switch.pid_of("smtp-server").is_some_and(|second| second != first));
    let later = TcpStream::connect(&address).unwrap();
    let line = first_line(&later);
    assert!(line.starts_with("220 n.example"), "{line}");
    // The dying server may have taken the earlier one with its last breath: then it ends, empty.
    let line = first_line(&client);
    assert!(line.starts_with("220 n.example") || line.is_empty(), "{line}");
    assert_eq!(switch.status()["listeners"][0]["address"], address.as_str());
}

#[test]
fn a_killed_supervisor_leaves_nothing_running_and_can_be_started_again() {
    let mut switch = Switch::start();
    let pids: Vec<u64> = switch.roles().iter().filter_map(|running| running["pid"].as_u64()).collect();
    switch.supervisor.kill().unwrap();
    switch.supervisor.wait().unwrap();
    until("its children end", || !pids.iter().any(|pid| is_alive(*pid)));
    switch.supervisor = run(switch.folder.path()).stderr(Stdio::null()).spawn().unwrap();
    until("the next supervisor answers", || switch.pid_of("directory").is_some());
}
