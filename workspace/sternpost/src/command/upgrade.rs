//! `sternpost upgrade`: has a running switch put its executable's file, as it is now, into force, and waits until it is
//! decided whether that stays.
//!
//! It may be of another version than the switch. So it says nothing over a link: it sends the supervisor SIGUSR2 and
//! reads `upgrade.json` in the run directory. Not here: the upgrade itself (`supervisor`).

use super::{CommandResult, exit_code};
use crate::ask::Which;
use crate::output;
use crate::supervisor::SUPERVISOR_SOCKET;
use crate::supervisor::upgrade_file::{self, Instance, UPGRADE_FILE, Upgraded};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::json;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};
use sternpost_platform::link::{connect, peer};

/// Pause between two looks at what has become of it.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// What is waited for is said again after this time.
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// Which switch, and how long it may take.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  install -m 755 sternpost.new /usr/local/bin/sternpost && sternpost upgrade\n  sternpost upgrade --no-wait\n  sternpost upgrade --bootstrap /etc/sternpost/bootstrap.toml --json\n\nExit status: 0 the new executable is in force and stays (with --no-wait: is in force), 1 the one before goes on, or nobody knows."
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    which: Which,
    /// The longest wait; the trial of a new executable takes 60 seconds of it
    #[arg(long, value_name = "SECONDS", default_value_t = 180)]
    wait: u64,
    /// Wait until the new executable is in force, and not until its trial is over
    #[arg(long)]
    no_wait: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Why nothing was asked for, or nobody knows what has come of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpgradeError {
    /// Nobody is behind the socket.
    #[error("the switch is not running (nobody answers at {}); start it with sternpost run --bootstrap FILE", path.display())]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A switch that does not know upgrades would take the signal for its end.
    #[error("the switch that runs cannot be upgraded, because {} cannot be read or is of another version: restart it instead (systemctl restart sternpost)", path.display())]
    Older {
        /// The file that it would have written.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The same, and the file of another run is still there.
    #[error(
        "the switch that runs, process {pid}, cannot be upgraded: {} was left by another run; restart it instead \
         (systemctl restart sternpost)",
        path.display()
    )]
    Stale {
        /// The file.
        path: PathBuf,
        /// The supervisor.
        pid: u32,
    },
    /// The signal was not sent.
    #[error("the supervisor, process {pid}, cannot be told; ask as root or as its user")]
    Tell {
        /// Its number.
        pid: u32,
        /// Why.
        source: io::Error,
    },
    /// The supervisor is not there any more.
    #[error("the switch has ended before the upgrade was decided; see its log")]
    Ended,
    /// It takes longer.
    #[error("the switch has not said within {} s what became of the upgrade ({last}); see its log", wait.as_secs())]
    Silent {
        /// How long it was waited for.
        wait: Duration,
        /// What it said last.
        last: String,
    },
}

/// Asks, waits and prints.
///
/// # Errors
/// `UpgradeError`, and those of the bootstrap.
pub(crate) fn run(arguments: &Arguments) -> CommandResult {
    let run_directory = arguments.which.run_directory()?;
    let supervisor = Supervisor::of(&run_directory)?;
    let before = supervisor.read()?;
    // Somebody else has asked already: what comes of that is what comes of this.
    let is_under_way = !before.is_decided && !before.has_taken_over;
    if !is_under_way {
        supervisor.tell()?;
    }
    let wait = Duration::from_secs(arguments.wait);
    let deadline = Instant::now() + wait;
    let mut said = (String::new(), Instant::now());
    let upgraded = loop {
        let upgraded = supervisor.read_again()?;
        if is_under_way || upgraded.attempts_count != before.attempts_count {
            if upgraded.is_decided || (arguments.no_wait && upgraded.has_taken_over) {
                break upgraded;
            }
            if !arguments.json && (said.0 != upgraded.says || said.1.elapsed() >= SAY_AGAIN) {
                said = (upgraded.says.clone(), Instant::now());
                eprintln!("waiting: {}", output::printable(&said.0));
            }
        }
        if Instant::now() > deadline {
            return Err(UpgradeError::Silent { wait, last: output::printable(&upgraded.says) }.into());
        }
        thread::sleep(LOOK_AGAIN);
    };
    if arguments.json {
        output::print_json(&json!({
            "in_force": upgraded.has_taken_over,
            "is_decided": upgraded.is_decided,
            "says": upgraded.says,
        }));
    } else {
        output::print(&output::printable(&upgraded.says));
    }
    Ok(exit_code(upgraded.has_taken_over))
}

/// Who listens at the socket of the supervisor, by the kernel's word.
struct Supervisor<'a> {
    run_directory: &'a Path,
    pid: u32,
    instance: Instance,
    /// What is told by it is told to this process and to no other that gets its number.
    pidfd: OwnedFd,
}

impl<'a> Supervisor<'a> {
    fn of(run_directory: &'a Path) -> Result<Self, UpgradeError> {
        let path = run_directory.join(SUPERVISOR_SOCKET);
        let find = || {
            let pid = peer(connect(&path)?.as_fd())?.pid;
            let number = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
            let pidfd = pidfd_open(number, PidfdFlags::empty())?;
            Ok(Self { run_directory, pid, instance: Instance::of(pid)?, pidfd })
        };
        find().map_err(|source| UpgradeError::NotRunning { path: path.clone(), source })
    }

    fn read(&self) -> Result<Upgraded, UpgradeError> {
        let path = || self.run_directory.join(UPGRADE_FILE);
        let upgraded = upgrade_file::read(self.run_directory)
            .map_err(|source| UpgradeError::Older { path: path(), source })?;
        if upgraded.by != Some(self.instance) {
            return Err(UpgradeError::Stale { path: path(), pid: self.pid });
        }
        Ok(upgraded)
    }

    /// The same, of one that has been there.
    fn read_again(&self) -> Result<Upgraded, UpgradeError> {
        let read = self.read();
        if self.instance.lives() { read } else { Err(UpgradeError::Ended) }
    }

    fn tell(&self) -> Result<(), UpgradeError> {
        pidfd_send_signal(&self.pidfd, Signal::USR2)
            .map_err(|error| UpgradeError::Tell { pid: self.pid, source: error.into() })
    }
}
