//! A child process by its pidfd: waited for, signalled, and found again by a program that has taken this one's place.
//!
//! A number that the system has given to another process since is never signalled. Not here: how a child is started.

use crate::link::Readiness;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// What a child can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// End (SIGTERM).
    Terminate,
    /// Take nothing new, and end when what is there has ended by itself (SIGUSR1).
    Leave,
    /// SIGKILL.
    Kill,
}

/// A child of this process that was not waited for yet.
#[derive(Debug)]
pub struct Child {
    pidfd: OwnedFd,
    ended: Readiness,
}

impl Child {
    /// The child of that number. As long as it was not waited for, the number is its own, whether it has ended or not.
    /// Called on a tokio runtime.
    ///
    /// # Errors
    /// When there is no such child, or no descriptor left.
    pub fn of(pid: u32) -> io::Result<Self> {
        let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "not a process id");
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(invalid)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        // Says whether it is a child of ours, and changes nothing.
        waitid(
            WaitId::PidFd(pidfd.as_fd()),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT,
        )?;
        let ended = Readiness::new(pidfd.try_clone()?)?;
        Ok(Self { pidfd, ended })
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// Those of `waitid`.
    pub async fn ended(&self) -> io::Result<ExitStatus> {
        loop {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            if let Some(status) = waitid(WaitId::PidFd(self.pidfd.as_fd()), options)? {
                // As `wait` would have put it.
                let core = if status.dumped() { 0x80 } else { 0 };
                let raw = match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => (code & 0xff) << 8,
                    (None, signal) => signal.unwrap_or(0) | core,
                };
                return Ok(ExitStatus::from_raw(raw));
            }
            self.ended.changed().await?;
        }
    }

    /// Tells it something. One that has ended hears nothing.
    ///
    /// # Errors
    /// When this process may not.
    pub fn tell(&self, order: Order) -> io::Result<()> {
        let signal = match order {
            Order::Terminate => Signal::TERM,
            Order::Leave => Signal::USR1,
            Order::Kill => Signal::KILL,
        };
        match pidfd_send_signal(&self.pidfd, signal) {
            Err(rustix::io::Errno::SRCH) => Ok(()),
            result => Ok(result?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn ends(line: &str, order: Option<Order>) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let child = Child::of(Command::new("sh").args(["-c", line]).spawn().unwrap().id()).unwrap();
            if let Some(order) = order {
                child.tell(order).unwrap();
            }
            child.ended().await.unwrap().to_string()
        })
    }

    #[test]
    fn how_a_child_has_ended_is_said_as_the_standard_library_says_it() {
        assert_eq!(ends("exit 3", None), "exit status: 3");
        assert_eq!(ends("exit 0", None), "exit status: 0");
        assert_eq!(ends("exec sleep 60", Some(Order::Kill)), "signal: 9 (SIGKILL)");
        assert_eq!(ends("exec sleep 60", Some(Order::Terminate)), "signal: 15 (SIGTERM)");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_process_that_is_no_child_is_refused() {
        assert!(Child::of(std::os::unix::process::parent_id()).is_err());
        assert!(Child::of(0).is_err());
    }
}
