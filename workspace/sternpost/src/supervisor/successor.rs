//! The executable that is to take the supervisor's place: whether it is sound, and the step.
//!
//! It is opened once, so that what was checked is what is run. The check has it read the very handover that it will get,
//! in a child that ends at once. Not here: what is handed over (`handover`).

use super::handover::Given;
use super::limits::CHECK_MAX;
use crate::output;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use sternpost_platform::child::{Child, Order};
use sternpost_platform::process;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

/// What is read of what a check says.
const WORDS_OCTETS_MAX: u64 = 4_096;
/// What the service manager has told the supervisor is meant for it alone.
pub(super) const OF_THE_MANAGER: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID"];

/// What an executable says of itself when it could take over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sound {
    /// Its version, for people.
    pub(crate) version: String,
    /// The version of the protocol between its processes.
    pub(crate) link: u16,
}

/// An executable.
#[derive(Debug)]
pub(super) struct Successor {
    program: OwnedFd,
}

impl Successor {
    /// # Errors
    /// Those of `open`.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let program = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { program })
    }

    pub(super) const fn of(program: OwnedFd) -> Self {
        Self { program }
    }

    /// Its descriptor, for a handover.
    pub(super) fn number(&self) -> RawFd {
        self.program.as_raw_fd()
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }

    fn command(&self, bootstrap: &Path, handover: &OwnedFd) -> Command {
        let mut command = Command::new(format!("/proc/self/fd/{}", self.number()));
        command.args(["run", "--bootstrap"]).arg(bootstrap);
        command.arg(format!("--take-over={}", handover.as_raw_fd()));
        command
    }

    /// Has it say whether it could take over.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub(super) async fn check(&self, bootstrap: &Path, handover: &OwnedFd) -> Result<Sound, String> {
        let mut command = self.command(bootstrap, handover);
        command.arg("--check").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for name in OF_THE_MANAGER {
            command.env_remove(name);
        }
        let spawned = {
            // The file itself too: a script is opened once more by whatever runs it.
            let given = Given::to_children(vec![handover.as_fd(), self.program.as_fd()]);
            given.and_then(|_given| command.spawn())
        };
        let mut child = spawned.map_err(|error| format!("it cannot be run: {error}"))?;
        let (said, complained) = (child.stdout.take(), child.stderr.take());
        let child = Child::of(child.id()).map_err(|error| format!("it cannot be watched: {error}"))?;
        let ended = async {
            let (status, said, complained) =
                tokio::join!(child.ended(), words(said.map(Into::into)), words(complained.map(Into::into)));
            (status, said, complained)
        };
        let Ok((status, said, complained)) = tokio::time::timeout(CHECK_MAX, ended).await else {
            let killed = child.tell(Order::Kill);
            let reaped = child.ended().await;
            tracing::debug!(?killed, ?reaped, "an executable that did not answer is killed");
            return Err(format!("it does not answer within {} s", CHECK_MAX.as_secs()));
        };
        let status = status.map_err(|error| format!("its end was missed: {error}"))?;
        if !status.success() {
            return Err(format!("it cannot take over: {status}: {}", output::printable(&complained))
                .trim_end_matches(": ")
                .to_owned());
        }
        serde_json::from_str(&said).map_err(|_| {
            format!("it is no sternpost that can take over: it says \"{}\"", output::printable(&said))
        })
    }

    /// Puts it into the place of this program, with these descriptors. Returns only when that failed.
    pub(super) fn step_over(
        &self,
        bootstrap: &Path,
        handover: &OwnedFd,
        descriptors: Vec<BorrowedFd<'_>>,
    ) -> io::Error {
        let given = match Given::to_children(descriptors) {
            Ok(given) => given,
            Err(error) => return error,
        };
        let mut command = self.command(bootstrap, handover);
        let name = std::env::args_os().next().unwrap_or_else(|| OsString::from("sternpost"));
        std::os::unix::process::CommandExt::arg0(&mut command, name);
        for name in ["LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID"] {
            command.env_remove(name);
        }
        let error = process::replace_by(&mut command);
        drop(given);
        error
    }
}

async fn words(pipe: Option<OwnedFd>) -> String {
    let mut words = Vec::new();
    if let Some(pipe) = pipe.and_then(|pipe| pipe::Receiver::from_owned_fd(pipe).ok()) {
        // Cut short or not: what was read is all that there is.
        let _ = pipe.take(WORDS_OCTETS_MAX).read_to_end(&mut words).await;
    }
    String::from_utf8_lossy(&words).trim().to_owned()
}

/// The file of this executable, by the name that it has now.
///
/// # Errors
/// When the kernel does not say it.
pub(super) fn own_path() -> io::Result<PathBuf> {
    std::env::current_exe()
}
