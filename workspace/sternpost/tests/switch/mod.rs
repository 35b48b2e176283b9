//! The real switch between sources and sinks: started in a folder of its own, watched, killed and stopped.
//!
//! Everything binds port 0 of the loopback address, and every wait is for a condition and has an end. Not here: the
//! source and the sinks (`sternpost-load`), which know nothing of the switch's own protocol code.
#![allow(dead_code, reason = "each file of tests uses its own part of the harness")]

pub(crate) mod client;
pub(crate) mod credentials;
pub(crate) mod loop_device;
pub(crate) mod mail;
pub(crate) mod message_store;
pub(crate) mod queue;
pub(crate) mod report;
pub(crate) mod scram;
pub(crate) mod site;
pub(crate) mod stage;

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, kill_process, pidfd_getfd, pidfd_open};
use serde_json::Value;
use std::fs;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longer than anything takes that works; a condition that holds is never waited for so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(50);
/// Wait between two looks at a condition.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Time from SIGTERM to SIGKILL: more than the supervisor gives any role.
const STOP_MAX: Duration = Duration::from_secs(30);
/// Lines of the switch's log that a failed test shows.
const LOG_LINES_SHOWN: usize = 120;

/// Room for the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    pub(crate) segment_octets: u32,
    pub(crate) segments: u32,
}

/// 32 MiB: enough for thousands of small messages, and made in no time.
pub(crate) const SMALL_ROOM: Room = Room { segment_octets: 1 << 20, segments: 32 };

/// A running switch with its folder. Dropping it stops the switch; a failed test shows the end of its log.
#[derive(Debug)]
pub(crate) struct Switch {
    home: TempDir,
    supervisor: Option<Child>,
    address: SocketAddr,
}

/// A process of the switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    /// The role; of a channel process its channel.
    pub(crate) role: String,
    pub(crate) pid: u32,
    pub(crate) starts: u64,
}

impl Switch {
    /// Starts a switch with these tables and a small log, and waits until it is ready for mail.
    pub(crate) fn start(tables: &str) -> Self {
        Self::start_in(tables, SMALL_ROOM, "auto")
    }

    /// Starts a switch that will not be ready for mail with these tables, and waits until it answers.
    pub(crate) fn start_unready(tables: &str) -> Self {
        let home = new_home();
        fs::write(home.path().join("tables.toml"), tables).expect("the folder of a test can be written");
        write_bootstrap(&home, SMALL_ROOM, "auto", "", "[tables]\npath = \"tables.toml\"\n");
        let mut switch = Self::of(home);
        switch.spawn();
        wait_for("answer of every part", || switch.status_if_any());
        switch
    }

    /// As `start`, with a log of this size, written by this backend.
    pub(crate) fn start_in(tables: &str, room: Room, backend: &str) -> Self {
        let home = new_home();
        fs::write(home.path().join("tables.toml"), tables).expect("the folder of a test can be written");
        Self::start_at(home, room, backend, "[tables]\npath = \"tables.toml\"\n")
    }

    /// Starts a switch in a folder that may hold the log of an earlier one; `source` is `[tables]` or `[directory]`.
    pub(crate) fn start_at(home: TempDir, room: Room, backend: &str, source: &str) -> Self {
        Self::start_with(home, room, backend, "", source)
    }

    /// The same, with lines before the first section of the bootstrap.
    pub(crate) fn start_with(home: TempDir, room: Room, backend: &str, lines: &str, source: &str) -> Self {
        write_bootstrap(&home, room, backend, lines, source);
        Self::start_from(home)
    }

    /// Starts a switch in a folder that has its bootstrap, `boot.toml`, with the run directory `r`.
    pub(crate) fn start_from(home: TempDir) -> Self {
        let mut switch = Self::of(home);
        switch.launch();
        switch
    }

    fn of(home: TempDir) -> Self {
        Self { home, supervisor: None, address: SocketAddr::from(([127, 0, 0, 1], 0)) }
    }

    /// Starts the supervisor and waits until the switch is ready for mail.
    pub(crate) fn launch(&mut self) {
        self.spawn();
        self.address = self.wait_until_ready();
    }

    fn spawn(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.home.path().join("stderr"));
        // A test that puts another executable into force has one of its own in its folder.
        let own = self.home.path().join("sternpost");
        let executable = if own.exists() { own } else { program().into() };
        let supervisor = Command::new(executable)
            .args(["run", "--bootstrap"])
            .arg(self.bootstrap())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("the folder of a test can be written"))
            .spawn()
            .expect("the binary under test can be started");
        self.supervisor = Some(supervisor);
    }

    /// Waits until the tree goes and a listener is bound.
    pub(crate) fn wait_until_ready(&mut self) -> SocketAddr {
        let is_ready = |switch: &Self| {
            let status = switch.status_if_any()?;
            if status["qmgr"]["tree"] != "going" || status["store"]["messages"].is_null() {
                return None;
            }
            status["listeners"][0]["address"].as_str()?.parse().ok()
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(address) = is_ready(self) {
                return address;
            }
            let supervisor = self.supervisor.as_mut().expect("it was started");
            let ended = supervisor.try_wait().expect("a child can be waited for");
            assert!(ended.is_none(), "the switch has ended: {ended:?}");
            assert!(Instant::now() < deadline, "the switch is not ready: {:?}", self.status_if_any());
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Where it takes mail.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its folder.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// Its bootstrap.
    pub(crate) fn bootstrap(&self) -> PathBuf {
        self.home.path().join("boot.toml")
    }

    /// The log.
    pub(crate) fn log_path(&self) -> PathBuf {
        self.home.path().join("log")
    }

    /// A socket of the run directory.
    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        self.home.path().join("r").join(name)
    }

    /// Puts other tables in the place of the present ones, at once.
    pub(crate) fn replace_tables(&self, tables: &str) {
        let new = self.home.path().join("tables.new");
        fs::write(&new, tables).expect("the folder of a test can be written");
        fs::rename(new, self.home.path().join("tables.toml")).expect("the folder of a test can be written");
    }

    /// Runs a command of the binary on this switch: its arguments, then `--bootstrap FILE`.
    pub(crate) fn command(&self, arguments: &[&str]) -> Output {
        run(Command::new(program()).args(arguments).arg("--bootstrap").arg(self.bootstrap()))
    }

    /// What a command of the binary says with `--json`; it must succeed.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Value {
        let output = self.command(&[arguments, &["--json"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("--json gives JSON")
    }

    /// `sternpost status --json`, of which every part must answer. What else is wrong is for the test to judge.
    pub(crate) fn status(&self) -> Value {
        self.status_if_any().expect("every part of the switch answers")
    }

    /// The same, if every part answers.
    pub(crate) fn status_if_any(&self) -> Option<Value> {
        let output = self.command(&["status", "--json"]);
        let status: Value = serde_json::from_slice(&output.stdout).ok()?;
        ["qmgr", "store"].iter().all(|part| status[part]["error"].is_null()).then_some(status)
    }

    /// What runs now. Nothing when the supervisor does not answer.
    pub(crate) fn processes(&self) -> Vec<Process> {
        let output = self.command(&["status", "--json"]);
        // Also a status in which a part is missing names the processes.
        let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let process = |process: &Value| {
            Some(Process {
                role: process["role"].as_str()?.to_owned(),
                pid: u32::try_from(process["pid"].as_u64()?).ok()?,
                starts: process["starts"].as_u64()?,
            })
        };
        status["roles"].as_array().map_or(Vec::new(), |roles| roles.iter().filter_map(process).collect())
    }

    /// The pid of a role that must run by the end of our patience.
    pub(crate) fn pid(&self, role: &str) -> u32 {
        let found = || self.processes().into_iter().find(|process| process.role == role);
        wait_for(&format!("a process {role}"), || found().map(|process| process.pid))
    }

    /// The supervisor's pid.
    pub(crate) fn supervisor_pid(&self) -> u32 {
        self.supervisor.as_ref().expect("the switch runs").id()
    }

    /// Kills the process of a role (SIGKILL) and gives its pid.
    pub(crate) fn kill(&self, role: &str) -> u32 {
        let pid = self.pid(role);
        signal(pid, Signal::KILL);
        pid
    }

    /// Kills the supervisor and waits for its end.
    pub(crate) fn kill_supervisor(&mut self) {
        let mut supervisor = self.supervisor.take().expect("the switch runs");
        supervisor.kill().expect("a child can be killed");
        supervisor.wait().expect("a child can be waited for");
    }

    /// Waits until no message lives.
    pub(crate) fn wait_until_empty(&self) {
        wait_for("an empty queue", || (self.status_if_any()?["store"]["messages"] == 0).then_some(()));
    }

    /// Waits until QMGR or the store say something in `status`.
    pub(crate) fn wait_for_status<T>(&self, what: &str, mut look: impl FnMut(&Value) -> Option<T>) -> T {
        wait_for(what, || look(&self.status_if_any()?))
    }

    /// Stops the switch in order and gives its folder, with the log.
    pub(crate) fn stop(mut self) -> TempDir {
        self.end();
        std::mem::replace(&mut self.home, new_home())
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("stderr")).unwrap_or_default()
    }

    fn end(&mut self) {
        let Some(mut supervisor) = self.supervisor.take() else { return };
        signal(supervisor.id(), Signal::TERM);
        let deadline = Instant::now() + STOP_MAX;
        while supervisor.try_wait().is_ok_and(|status| status.is_none()) {
            if Instant::now() > deadline {
                // Errors are of no use here: the process is gone then.
                let _ = supervisor.kill();
                let _ = supervisor.wait();
                assert!(std::thread::panicking(), "the switch did not stop within {STOP_MAX:?}");
                return;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let from = lines.len().saturating_sub(LOG_LINES_SHOWN);
            eprintln!("---- the end of the switch's log ----\n{}\n----", lines[from..].join("\n"));
        }
        self.end();
    }
}

/// Writes the bootstrap of a switch with its folders and its log in `home`.
fn write_bootstrap(home: &TempDir, room: Room, backend: &str, lines: &str, source: &str) {
    let Room { segment_octets, segments } = room;
    let text = format!(
        "run_directory = \"r\"\nstate_directory = \"s\"\n{lines}[queue]\npath = \"log\"\n\
         segment_octets = {segment_octets}\nsegments = {segments}\nbackend = \"{backend}\"\n{source}"
    );
    fs::write(home.path().join("boot.toml"), text).expect("the folder of a test can be written");
}

/// The binary under test.
pub(crate) fn program() -> &'static str {
    env!("CARGO_BIN_EXE_sternpost")
}

/// A private folder with a short path: the path of a socket has 107 octets at most.
pub(crate) fn new_home() -> TempDir {
    tempfile::Builder::new().prefix("sp").tempdir().expect("the folder for temporary files can be written")
}

/// Runs a program to its end.
pub(crate) fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().expect("the program can be started")
}

/// Output as text, for messages.
pub(crate) fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

/// Sends a signal to a process of the switch under test. One that has just ended needs none.
pub(crate) fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id is a small number");
    let _ = kill_process(pid, signal);
}

/// Whether a process lives; one that waits to be reaped does not.
pub(crate) fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
}

/// Proportional set size of a process, in octets; 0 when it is gone.
pub(crate) fn pss_octets(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let kib = text.lines().find_map(|line| line.strip_prefix("Pss:")?.split_ascii_whitespace().next());
    kib.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Looks until there is something.
pub(crate) fn wait_for<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    wait_at_most(PATIENCE, what, look)
}

/// Looks until there is something or the time is over.
pub(crate) fn wait_at_most<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "there was no {what} within {limit:?}");
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// The sockets on which a process listens for TCP connections, in the process's own state: what is done to them is done to it.
pub(crate) fn listening_sockets_of(pid: u32) -> Vec<OwnedFd> {
    use rustix::net::{AddressFamily, sockopt};
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    let process = pidfd_open(number, PidfdFlags::empty()).expect("the process lives");
    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("the process is ours");
    let numbers = open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let copies = numbers.filter_map(|number| pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).ok());
    let listens = |socket: &OwnedFd| {
        sockopt::socket_domain(socket) == Ok(AddressFamily::INET)
            && sockopt::socket_acceptconn(socket) == Ok(true)
    };
    copies.filter(listens).collect()
}
