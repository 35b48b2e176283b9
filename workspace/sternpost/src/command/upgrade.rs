//! `sternpost upgrade`: has a running switch put its executable's file, as it is now, into force, and waits for what comes
//! of it.
//!
//! It may be of another version than the switch. So it says nothing over a link: it sends the supervisor SIGUSR2 and
//! reads `upgrade.json` in the run directory. Not here: the upgrade itself (`supervisor`).

use super::{CommandResult, exit_code};
use crate::ask::Which;
use crate::output;
use crate::supervisor::SUPERVISOR_SOCKET;
use crate::supervisor::upgrade_file::{self, Upgraded};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};
use sternpost_platform::link::{connect, peer};

/// Pause between two looks at what has become of it.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Which switch, and how long it may take.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  install -m 755 sternpost.new /usr/local/bin/sternpost && sternpost upgrade\n  sternpost upgrade --bootstrap /etc/sternpost/bootstrap.toml --json\n\nExit status: 0 the new executable is in force, 1 the one before goes on, or nobody knows."
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    which: Which,
    /// The longest wait
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    wait: u64,
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
    #[error("the switch that runs cannot be upgraded ({} is not there): restart it instead", path.display())]
    Older {
        /// The file that it would have written.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The signal was not sent.
    #[error("the supervisor, process {pid}, cannot be told; ask as root or as its user")]
    Tell {
        /// Its number.
        pid: u32,
        /// Why.
        source: io::Error,
    },
    /// It takes longer.
    #[error("the switch has not said within {} s what became of the upgrade; see its log", wait.as_secs())]
    Silent {
        /// How long it was waited for.
        wait: Duration,
    },
}

/// Asks, waits and prints.
///
/// # Errors
/// `UpgradeError`, and those of the bootstrap.
pub(crate) fn run(arguments: &Arguments) -> CommandResult {
    let run_directory = arguments.which.run_directory()?;
    let before = read(&run_directory)?;
    tell(&run_directory)?;
    let wait = Duration::from_secs(arguments.wait);
    let deadline = Instant::now() + wait;
    let upgraded = loop {
        let upgraded = read(&run_directory)?;
        if upgraded.attempts_count != before.attempts_count {
            break upgraded;
        }
        if Instant::now() > deadline {
            return Err(UpgradeError::Silent { wait }.into());
        }
        thread::sleep(LOOK_AGAIN);
    };
    if arguments.json {
        output::print_json(&json!({ "in_force": upgraded.has_taken_over, "says": upgraded.says }));
    } else {
        output::print(&upgraded.says);
    }
    Ok(exit_code(upgraded.has_taken_over))
}

fn read(run_directory: &Path) -> Result<Upgraded, UpgradeError> {
    upgrade_file::read(run_directory).map_err(|source| UpgradeError::Older {
        path: run_directory.join(upgrade_file::UPGRADE_FILE),
        source,
    })
}

/// The kernel says who listens at the socket of the supervisor.
fn tell(run_directory: &Path) -> Result<(), UpgradeError> {
    let path = run_directory.join(SUPERVISOR_SOCKET);
    let listening = connect(&path).and_then(|socket| peer(socket.as_fd()));
    let supervisor = listening.map_err(|source| UpgradeError::NotRunning { path, source })?.pid;
    let pid = i32::try_from(supervisor).ok().and_then(Pid::from_raw);
    let told = pid.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound)).and_then(|pid| {
        kill_process(pid, Signal::USR2)?;
        Ok(())
    });
    told.map_err(|source| UpgradeError::Tell { pid: supervisor, source })
}
