//! Child processes that never outlive whoever started them, and what is asked of them from outside.

use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsStr;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus};
use std::time::{Duration, Instant};

use crate::process;

/// Time that a child has between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(10);

/// What a child did instead of what it was started for.
#[derive(Debug, thiserror::Error)]
pub enum GuardedError {
    /// It was not started.
    #[error("{} cannot be started by setpriv", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It cannot be waited for.
    #[error("{} cannot be waited for", program.display())]
    Wait {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It has ended already.
    #[error("{} ended: {status}", program.display())]
    Ended {
        /// The program.
        program: PathBuf,
        /// How it ended.
        status: ExitStatus,
    },
    /// Nothing greets at its address.
    #[error("{address} did not say 220 within {} s", limit.as_secs())]
    NoGreeting {
        /// The address.
        address: SocketAddr,
        /// How long it was asked.
        limit: Duration,
    },
}

/// A child process that is ended with this value: SIGTERM first, SIGKILL after the grace.
#[derive(Debug)]
pub struct Guarded {
    child: Child,
    program: PathBuf,
}

impl Guarded {
    /// Starts a command so that the kernel ends it when we die without a word (`setpriv --pdeathsig`): whatever happens
    /// to a driver, nothing that it started stays behind.
    ///
    /// # Errors
    /// `Start`.
    pub fn start(
        program: &Path,
        arguments: &[&OsStr],
        adjust: impl FnOnce(&mut Command),
    ) -> Result<Self, GuardedError> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--"]).arg(program).args(arguments);
        adjust(&mut command);
        let program = program.to_owned();
        match command.spawn() {
            Ok(child) => Ok(Self { child, program }),
            Err(source) => Err(GuardedError::Start { program, source }),
        }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its standard input, if that is a pipe; once.
    pub fn stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Its standard output, if that is a pipe; once.
    pub fn stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    fn status(&mut self) -> Result<Option<ExitStatus>, GuardedError> {
        let program = &self.program;
        self.child.try_wait().map_err(|source| GuardedError::Wait { program: program.clone(), source })
    }

    /// Whether it lives.
    ///
    /// # Errors
    /// `Ended` when it does not.
    pub fn check(&mut self) -> Result<(), GuardedError> {
        match self.status()? {
            None => Ok(()),
            Some(status) => Err(GuardedError::Ended { program: self.program.clone(), status }),
        }
    }

    /// Waits for the child to end by itself; false when the time is over.
    ///
    /// # Errors
    /// `Wait`.
    pub fn wait(&mut self, limit: Duration) -> Result<bool, GuardedError> {
        let until = Instant::now() + limit;
        while self.status()?.is_none() {
            if Instant::now() > until {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(true)
    }

    /// Waits until something at the address says 220.
    ///
    /// # Errors
    /// `Ended` when the child has, `NoGreeting` when the time is over.
    pub fn wait_for_greeting(&mut self, address: SocketAddr, limit: Duration) -> Result<(), GuardedError> {
        let until = Instant::now() + limit;
        loop {
            self.check()?;
            if greets(address) {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(GuardedError::NoGreeting { address, limit });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Whether something at the address says 220 at once.
fn greets(address: SocketAddr) -> bool {
    let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else { return false };
    let mut line = String::new();
    let mut reader = BufReader::new(stream);
    if reader.get_ref().set_read_timeout(Some(Duration::from_secs(2))).is_err()
        || reader.read_line(&mut line).is_err()
        || !line.starts_with("220")
    {
        return false;
    }
    // Whether it hears that we go changes nothing.
    let _ = reader.get_mut().write_all(b"QUIT\r\n");
    true
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        let family = process::family(self.child.id());
        let _ = signal(self.child.id(), Signal::TERM);
        let ended = self.wait(GRACE).unwrap_or(false);
        // Those that stayed, by pid: not every parent takes its children along (Postfix's master does not).
        for pid in family.into_iter().filter(|&pid| !ended || pid != self.child.id()) {
            let _ = signal(pid, Signal::KILL);
        }
        if !ended {
            let _ = self.child.wait();
        }
    }
}

/// Sends a signal to one process.
///
/// # Errors
/// What the system said; `NotFound` for what is no process id.
pub fn signal(pid: u32, signal: Signal) -> io::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
    Ok(kill_process(pid, signal)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guarded_child_ends_with_its_guard() {
        let guarded = Guarded::start(Path::new("sleep"), &[OsStr::new("60")], |_| {}).unwrap();
        let pid = guarded.pid();
        assert_eq!(process::family(pid).len(), 1);
        drop(guarded);
        assert!(process::family(pid).is_empty());
    }
}
