//! The switch under test: its bootstrap file and tables, its start, its processes, its end.

use rustix::process::Signal;
use serde::Deserialize;
use std::error::Error;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::tool::{self, Guarded};

/// Time that the switch has to be ready: it writes its log's file first.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Where mail for a domain goes.
#[derive(Clone, Debug)]
pub(super) struct Hop {
    pub(super) domain: &'static str,
    /// `smtp` or `lmtp`: name and kind of the channel.
    pub(super) channel: &'static str,
    pub(super) address: SocketAddr,
}

/// Room for the queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueRoom {
    pub(super) segment_octets: u64,
    pub(super) segments_count: u32,
}

/// The tables of a site: any client of this machine may send, each domain has one peer.
pub(super) fn tables(hops: &[Hop]) -> String {
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

/// The bootstrap file; `source` is its `[tables]` or `[directory]`.
fn bootstrap(home: &Path, room: QueueRoom, source: &str) -> String {
    let QueueRoom { segment_octets, segments_count } = room;
    let home = home.display();
    format!(
        "run_directory = \"{home}/run\"\nstate_directory = \"{home}/state\"\n\n[queue]\npath = \"{home}/state/log\"\n\
         segment_octets = {segment_octets}\nsegments = {segments_count}\nbackend = \"auto\"\n\n{source}"
    )
}

/// A running switch.
#[derive(Debug)]
pub(super) struct Switch {
    guarded: Guarded,
    program: PathBuf,
    home: PathBuf,
    listener: SocketAddr,
}

/// What `sternpost status --json` says, as far as it matters here.
#[derive(Debug, Deserialize)]
pub(super) struct Status {
    #[serde(default)]
    pub(super) roles: Vec<Role>,
    #[serde(default)]
    listeners: Vec<Listener>,
}

/// A process of the switch.
#[derive(Debug, Deserialize)]
pub(super) struct Role {
    pub(super) role: String,
    pub(super) pid: u32,
}

#[derive(Debug, Deserialize)]
struct Listener {
    address: SocketAddr,
}

impl Switch {
    /// Starts the switch with tables, in an empty `home`; its log goes to `home/switch.log`.
    pub(super) fn start(
        program: &Path,
        home: &Path,
        room: QueueRoom,
        hops: &[Hop],
    ) -> Result<Self, Box<dyn Error>> {
        empty(home)?;
        let path = home.join("tables.toml");
        fs::write(&path, tables(hops))?;
        Self::start_with(program, home, room, &format!("[tables]\npath = \"{}\"\n", path.display()))
    }

    /// Starts the switch in `home` with whatever configuration `source` names.
    pub(super) fn start_with(
        program: &Path,
        home: &Path,
        room: QueueRoom,
        source: &str,
    ) -> Result<Self, Box<dyn Error>> {
        if !program.is_file() {
            return Err(format!("{} is not there: build it first", program.display()).into());
        }
        for directory in ["run", "state"] {
            fs::create_dir_all(home.join(directory))?;
        }
        let bootstrap_path = home.join("sternpost.toml");
        fs::write(&bootstrap_path, bootstrap(home, room, source))?;
        let log = fs::File::create(home.join("switch.log"))?;
        let arguments = [OsStr::new("run"), OsStr::new("--bootstrap"), bootstrap_path.as_os_str()];
        let guarded = Guarded::start(program, &arguments, |command| {
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        })?;
        let (program, home) = (program.to_owned(), home.to_owned());
        let listener = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut switch = Self { guarded, program, home, listener };
        switch.listener = switch.wait_until_ready().map_err(|error| {
            let log = fs::read_to_string(switch.home.join("switch.log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().rev().take(8).collect();
            let last = lines.into_iter().rev().fold(String::new(), |text, line| text + "\n  " + line);
            format!("the switch did not start: {error}; the end of its log:{last}")
        })?;
        Ok(switch)
    }

    fn wait_until_ready(&mut self) -> Result<SocketAddr, Box<dyn Error>> {
        let until = Instant::now() + START_LIMIT;
        loop {
            self.guarded.check()?;
            let status = self.status();
            if let Ok(Some(listener)) = status.as_ref().map(|status| status.listeners.first()) {
                let address = listener.address;
                tool::wait_for_greeting(address, &mut self.guarded, START_LIMIT)?;
                return Ok(address);
            }
            if Instant::now() > until {
                status?;
                return Err("it has no listener".into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Asks the switch which processes it has.
    pub(super) fn status(&self) -> Result<Status, Box<dyn Error>> {
        let output = Command::new(&self.program)
            .args(["status", "--json", "--run-directory"])
            .arg(self.home.join("run"))
            .stdin(Stdio::null())
            .output()?;
        // It says 1 when a part does not answer, which may have been killed just now: the rest is said all the same.
        serde_json::from_slice(&output.stdout).map_err(|_| {
            format!("sternpost status: {}", String::from_utf8_lossy(&output.stderr).trim()).into()
        })
    }

    /// Kills the process of a role (SIGKILL) and returns its pid.
    pub(super) fn kill(&self, role: &str) -> Result<u32, Box<dyn Error>> {
        let roles = self.status()?.roles;
        let pid = roles.iter().find(|process| process.role == role).map(|process| process.pid);
        let pid = pid.ok_or_else(|| format!("the switch has no process {role}"))?;
        tool::signal(pid, Signal::KILL)?;
        Ok(pid)
    }

    /// Puts other tables in the place of the present ones, at once.
    pub(super) fn replace_tables(&self, hops: &[Hop]) -> Result<(), Box<dyn Error>> {
        let new = self.home.join("tables.toml.new");
        let hops = tables(hops);
        fs::write(&new, hops)?;
        Ok(fs::rename(new, self.home.join("tables.toml"))?)
    }

    /// Where it takes mail.
    pub(super) fn listener(&self) -> SocketAddr {
        self.listener
    }

    /// The supervisor's pid: all other processes of the switch descend from it.
    pub(super) fn pid(&self) -> u32 {
        self.guarded.pid()
    }

    /// An error when the switch is gone.
    pub(super) fn check(&mut self) -> Result<(), Box<dyn Error>> {
        self.guarded.check()
    }
}

/// Makes a directory anew: what an earlier run left there is not of this one.
pub(super) fn empty(directory: &Path) -> Result<(), Box<dyn Error>> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(format!("{}: {error}", directory.display()).into());
        }
        _ => {}
    }
    Ok(fs::create_dir_all(directory)?)
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
