//! The switch under test: its bootstrap file and tables, its start, its processes, its end.

use rustix::process::Signal;
use serde::Deserialize;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::guarded::{Guarded, GuardedError, signal};

/// Time that the switch has to be ready: it writes its log's file first.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Wait between two looks at a switch that is not ready.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Lines of its log that are told of a switch that did not start.
const LOG_LINES_SHOWN: usize = 8;

/// Where mail for a domain goes.
#[derive(Clone, Debug)]
pub struct Hop {
    /// The domain.
    pub domain: &'static str,
    /// `smtp` or `lmtp`: name and kind of the channel.
    pub channel: &'static str,
    /// The peer.
    pub address: SocketAddr,
}

/// Room for the queue.
#[derive(Clone, Copy, Debug)]
pub struct QueueRoom {
    /// Octets of a segment of the log.
    pub segment_octets: u64,
    /// Segments.
    pub segments_count: u32,
}

/// The log of a switch.
#[derive(Clone, Debug)]
pub struct Queue {
    /// A file, or a block device that is marked as blank or holds a log.
    pub path: PathBuf,
    /// How large a new log is made.
    pub room: QueueRoom,
    /// `auto`, `dsync` or `io_uring`.
    pub backend: &'static str,
}

/// Why a switch does not run, or does not say how it is.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    /// Nobody has built it.
    #[error("{} is not there: build it first", .0.display())]
    NoProgram(PathBuf),
    /// A file or folder of its home.
    #[error("{}", path.display())]
    Home {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It was not started, or has ended.
    #[error(transparent)]
    Process(#[from] GuardedError),
    /// It is not ready for mail.
    #[error("the switch did not start; the end of its log:{log}")]
    Start {
        /// Lines, each behind a line feed.
        log: String,
        /// What was waited for.
        source: Box<SwitchError>,
    },
    /// It has no listener.
    #[error("the switch has no listener")]
    NoListener,
    /// `sternpost status` gave no JSON.
    #[error("sternpost status: {0}")]
    Status(String),
    /// No process has this role.
    #[error("the switch has no process {0}")]
    NoProcess(String),
    /// A process took no signal.
    #[error("the process {pid} cannot be killed")]
    Kill {
        /// The process.
        pid: u32,
        /// What the system said.
        source: io::Error,
    },
}

fn home_error(path: &Path) -> impl FnOnce(io::Error) -> SwitchError {
    let path = path.to_owned();
    move |source| SwitchError::Home { path, source }
}

/// The tables of a site: any client of this machine may send, each domain has one peer.
#[must_use]
pub fn tables(hops: &[Hop]) -> String {
    let mut text = "[node]\nhostname = \"switch.load.test\"\n\n[[listener]]\nname = \"inbound\"\n\
        addresses = [\"127.0.0.1:0\"]\nclient_networks = [\"127.0.0.0/8\"]\n"
        .to_owned();
    let mut channels: Vec<&str> = hops.iter().map(|hop| hop.channel).collect();
    channels.sort_unstable();
    channels.dedup();
    // Writing to a String cannot fail.
    for channel in channels {
        let _ = write!(text, "\n[[channel]]\nname = \"{channel}\"\nkind = \"{channel}\"\n");
    }
    for (number, Hop { domain, channel, address }) in hops.iter().enumerate() {
        let _ = write!(
            text,
            "\n[[peer]]\nname = \"peer{number}\"\nchannel = \"{channel}\"\naddress = \"{address}\"\n\
             \n[[route]]\ndomain = \"{domain}\"\npeer = \"peer{number}\"\n"
        );
    }
    text
}

/// The bootstrap of a switch in `home` with its log there; `source` is its `[tables]` or `[directory]`, and what else it has.
#[must_use]
pub fn bootstrap_of(home: &Path, room: QueueRoom, source: &str) -> String {
    bootstrap(home, &Queue { path: home.join("state/log"), room, backend: "auto" }, source)
}

/// The bootstrap file; `source` is its `[tables]` or `[directory]`.
fn bootstrap(home: &Path, queue: &Queue, source: &str) -> String {
    let Queue { path, room: QueueRoom { segment_octets, segments_count }, backend } = queue;
    let (home, path) = (home.display(), path.display());
    format!(
        "run_directory = \"{home}/run\"\nstate_directory = \"{home}/state\"\n\n[queue]\npath = \"{path}\"\n\
         segment_octets = {segment_octets}\nsegments = {segments_count}\nbackend = \"{backend}\"\n\n{source}"
    )
}

/// A running switch.
#[derive(Debug)]
pub struct Switch {
    guarded: Guarded,
    program: PathBuf,
    home: PathBuf,
    listener: SocketAddr,
}

/// What `sternpost status --json` says, as far as it matters here.
#[derive(Debug, Deserialize)]
pub struct Status {
    /// Its processes.
    #[serde(default)]
    pub roles: Vec<Role>,
    #[serde(default)]
    listeners: Vec<Listener>,
    /// The log, when the store answers.
    #[serde(default)]
    pub store: StoreStatus,
}

/// A process of the switch.
#[derive(Debug, Deserialize)]
pub struct Role {
    /// What it is.
    pub role: String,
    /// Its process id.
    pub pid: u32,
}

#[derive(Debug, Deserialize)]
struct Listener {
    address: SocketAddr,
}

/// What the store says of the log; without values when it does not answer.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct StoreStatus {
    /// Messages that live.
    pub messages: Option<u64>,
    /// Writes that failed since the store has started.
    pub write_errors: Option<u64>,
    /// What of the log lives.
    pub living_octets: u64,
    /// Its size.
    pub log_octets: u64,
    /// Segments that hold nothing.
    pub segments_free: u64,
}

impl Switch {
    /// Starts the switch with tables, in an empty `home`; its log goes to `home/switch.log`.
    ///
    /// # Errors
    /// `SwitchError` says which step failed.
    pub fn start(program: &Path, home: &Path, room: QueueRoom, hops: &[Hop]) -> Result<Self, SwitchError> {
        let queue = Queue { path: home.join("state/log"), room, backend: "auto" };
        Self::start_on(program, home, &queue, &tables(hops))
    }

    /// The same with the text of its tables and with the log where `queue` says.
    ///
    /// # Errors
    /// As `start`.
    pub fn start_on(program: &Path, home: &Path, queue: &Queue, tables: &str) -> Result<Self, SwitchError> {
        empty(home)?;
        let path = home.join("tables.toml");
        fs::write(&path, tables).map_err(home_error(&path))?;
        Self::launch(program, home, queue, &format!("[tables]\npath = \"{}\"\n", path.display()))
    }

    /// Starts the switch in `home` with whatever configuration `source` names.
    ///
    /// # Errors
    /// As `start`.
    pub fn start_with(
        program: &Path,
        home: &Path,
        room: QueueRoom,
        source: &str,
    ) -> Result<Self, SwitchError> {
        let queue = Queue { path: home.join("state/log"), room, backend: "auto" };
        Self::launch(program, home, &queue, source)
    }

    /// Puts a certificate chain with its key where the running switch finds it under this name, and says so.
    ///
    /// # Errors
    /// `Home` when it cannot be written, or the command that reads it again cannot be run.
    pub fn put_credential(&self, name: &str, pem: &str) -> Result<(), SwitchError> {
        let path = self.home.join(format!("state/credentials/{name}.pem"));
        fs::write(&path, pem).map_err(home_error(&path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(home_error(&path))?;
        Command::new(&self.program)
            .args(["credentials", "--reload", "--run-directory"])
            .arg(self.home.join("run"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .map_err(home_error(&self.program))?;
        Ok(())
    }

    fn launch(program: &Path, home: &Path, queue: &Queue, source: &str) -> Result<Self, SwitchError> {
        if !program.is_file() {
            return Err(SwitchError::NoProgram(program.to_owned()));
        }
        for directory in ["run", "state"].map(|name| home.join(name)) {
            fs::create_dir_all(&directory).map_err(home_error(&directory))?;
        }
        let bootstrap_path = home.join("sternpost.toml");
        fs::write(&bootstrap_path, bootstrap(home, queue, source)).map_err(home_error(&bootstrap_path))?;
        let log_path = home.join("switch.log");
        let log = fs::File::create(&log_path).map_err(home_error(&log_path))?;
        let arguments = [OsStr::new("run"), OsStr::new("--bootstrap"), bootstrap_path.as_os_str()];
        let guarded = Guarded::start(program, &arguments, |command| {
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        })?;
        let (program, home) = (program.to_owned(), home.to_owned());
        let listener = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut switch = Self { guarded, program, home, listener };
        switch.listener = switch.wait_until_ready().map_err(|source| {
            let log = switch.log();
            let lines: Vec<&str> = log.lines().rev().take(LOG_LINES_SHOWN).collect();
            let log = lines.into_iter().rev().fold(String::new(), |text, line| text + "\n  " + line);
            SwitchError::Start { log, source: Box::new(source) }
        })?;
        Ok(switch)
    }

    fn wait_until_ready(&mut self) -> Result<SocketAddr, SwitchError> {
        let until = Instant::now() + START_LIMIT;
        loop {
            self.guarded.check()?;
            let status = self.status();
            if let Ok(Some(listener)) = status.as_ref().map(|status| status.listeners.first()) {
                let address = listener.address;
                self.guarded.wait_for_greeting(address, START_LIMIT)?;
                return Ok(address);
            }
            if Instant::now() > until {
                status?;
                return Err(SwitchError::NoListener);
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Asks the switch how it is.
    ///
    /// # Errors
    /// `Status` when it says nothing that is JSON.
    pub fn status(&self) -> Result<Status, SwitchError> {
        let output = Command::new(&self.program)
            .args(["status", "--json", "--run-directory"])
            .arg(self.home.join("run"))
            .stdin(Stdio::null())
            .output()
            .map_err(home_error(&self.program))?;
        // It says 1 when a part does not answer, which may have been killed just now: the rest is said all the same.
        serde_json::from_slice(&output.stdout)
            .map_err(|_| SwitchError::Status(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        // A log that cannot be read has nothing to tell.
        fs::read_to_string(self.home.join("switch.log")).unwrap_or_default()
    }

    /// Kills the process of a role (SIGKILL) and returns its pid.
    ///
    /// # Errors
    /// `Status`, `NoProcess` and `Kill`.
    pub fn kill(&self, role: &str) -> Result<u32, SwitchError> {
        let roles = self.status()?.roles;
        let pid = roles.iter().find(|process| process.role == role).map(|process| process.pid);
        let pid = pid.ok_or_else(|| SwitchError::NoProcess(role.to_owned()))?;
        signal(pid, Signal::KILL).map_err(|source| SwitchError::Kill { pid, source })?;
        Ok(pid)
    }

    /// Puts other tables in the place of the present ones, at once.
    ///
    /// # Errors
    /// `Home`.
    pub fn replace_tables(&self, tables: &str) -> Result<(), SwitchError> {
        let new = self.home.join("tables.toml.new");
        fs::write(&new, tables).map_err(home_error(&new))?;
        fs::rename(&new, self.home.join("tables.toml")).map_err(home_error(&new))
    }

    /// Where it takes mail.
    #[must_use]
    pub fn listener(&self) -> SocketAddr {
        self.listener
    }

    /// The supervisor's pid: all other processes of the switch descend from it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.guarded.pid()
    }

    /// Whether it runs.
    ///
    /// # Errors
    /// `Process` when the switch is gone.
    pub fn check(&mut self) -> Result<(), SwitchError> {
        Ok(self.guarded.check()?)
    }
}

/// Makes a directory anew: what an earlier run left there is not of this one.
///
/// # Errors
/// `Home`.
pub fn empty(directory: &Path) -> Result<(), SwitchError> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(home_error(directory)(error));
        }
        _ => {}
    }
    fs::create_dir_all(directory).map_err(home_error(directory))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_channel_stands_once_in_the_tables_and_each_hop_has_its_route() {
        let address = SocketAddr::from(([127, 0, 0, 1], 2525));
        let hop = |domain, channel| Hop { domain, channel, address };
        let text = tables(&[hop("a.test", "smtp"), hop("b.test", "smtp"), hop("c.test", "lmtp")]);
        assert_eq!(text.matches("[[channel]]").count(), 2);
        assert_eq!(text.matches("[[route]]").count(), 3);
        assert!(text.contains("domain = \"b.test\"\npeer = \"peer1\""));
    }
}
