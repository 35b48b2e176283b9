//! Making and reaping processes: this executable again, with the arguments of a role.

use super::Input;
use super::family::{Event, Start};
use super::listening::{Listening, Served};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::Stdio;
use sternpost_link::Role;
use sternpost_platform::process;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

/// What every start needs.
#[derive(Debug)]
pub(super) struct Spawner {
    pub(super) bootstrap: PathBuf,
    pub(super) run_directory: PathBuf,
    /// The listening socket behind `store.sock`.
    pub(super) store: OwnedFd,
    /// The listening socket behind `qmgr.sock`.
    pub(super) qmgr: OwnedFd,
}

impl Spawner {
    /// Starts a process and gives it the sockets that it works on, and no other descriptor.
    ///
    /// # Errors
    /// Those of `fcntl`, `fork` and `exec`.
    pub(super) fn spawn(&self, start: &Start, listening: &Listening) -> io::Result<(u32, Child)> {
        let (arguments, descriptors) = self.arguments(start, listening);
        let name = match start {
            Start::Kept(role) => role.name(),
            Start::Channel(order) => &order.channel,
        };
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0(format!("sternpost: {name}"))
            .args(arguments)
            // What the service manager has told the supervisor is meant for it alone.
            .env_remove("NOTIFY_SOCKET")
            .env_remove("WATCHDOG_USEC")
            .env_remove("WATCHDOG_PID")
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_FDNAMES")
            .env_remove("LISTEN_PID")
            .stdin(Stdio::null())
            // Ctrl-C at a terminal is the supervisor's alone: it stops the others in order.
            .process_group(0);
        let given = descriptors.iter().try_for_each(|descriptor| {
            process::give_to_children(*descriptor)?;
            Ok(())
        });
        let spawned = given.and_then(|()| command.spawn());
        for descriptor in descriptors {
            process::keep_from_children(descriptor)?;
        }
        let child = spawned?;
        let pid = child.id().ok_or_else(|| io::Error::other("the process ended before it had a number"))?;
        Ok((pid, child))
    }

    fn arguments<'a>(
        &'a self,
        start: &Start,
        listening: &'a Listening,
    ) -> (Vec<OsString>, Vec<BorrowedFd<'a>>) {
        let pair = |name: &str, value: OsString| {
            let mut argument = OsString::from(name);
            argument.push("=");
            argument.push(value);
            argument
        };
        let mut arguments: Vec<OsString> = vec!["role".into()];
        let mut descriptors = Vec::new();
        let role = match start {
            Start::Kept(role) => *role,
            Start::Channel(_) => Role::Channel,
        };
        arguments.push(role.name().into());
        arguments.push(pair("--supervisor", std::process::id().to_string().into()));
        arguments.push(pair("--run-directory", self.run_directory.clone().into()));
        if matches!(role, Role::Store | Role::Qmgr | Role::Directory) {
            arguments.push(pair("--bootstrap", self.bootstrap.clone().into()));
        }
        match start {
            Start::Kept(Role::Store) => descriptors.push(self.store.as_fd()),
            Start::Kept(Role::Qmgr) => descriptors.push(self.qmgr.as_fd()),
            Start::Kept(Role::SmtpServer) => {
                for Served { listener, only, descriptor } in listening.served() {
                    let number = descriptor.as_raw_fd();
                    arguments.push(match only {
                        None => pair("--listen", format!("{listener}={number}").into()),
                        Some(address) => pair("--listen-at", format!("{listener}@{address}={number}").into()),
                    });
                    descriptors.push(descriptor);
                }
            }
            Start::Kept(_) => {}
            Start::Channel(order) => {
                arguments.push(pair("--name", order.channel.clone().into()));
                arguments.push(pair("--kind", order.kind.clone().into()));
                arguments.push(pair("--process", order.process.to_string().into()));
                arguments.push(pair("--capacity", order.capacity.to_string().into()));
            }
        }
        if matches!(role, Role::Store | Role::Qmgr) {
            for descriptor in &descriptors {
                arguments.push(pair("--listen-fd", descriptor.as_raw_fd().to_string().into()));
            }
        }
        (arguments, descriptors)
    }
}

/// What a child can be told.
#[derive(Clone, Copy, Debug)]
pub(super) enum Signal {
    /// SIGTERM.
    Terminate,
    /// SIGKILL.
    Kill,
}

/// Waits for a child's end and passes signals to it until then: a number that the system has given to another process
/// since is never signalled.
pub(super) async fn reap(
    pid: u32,
    mut child: Child,
    mut signals: mpsc::UnboundedReceiver<Signal>,
    inputs: mpsc::Sender<Input>,
) {
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            Some(signal) = signals.recv() => {
                if child.id().is_none() {
                    continue;
                }
                let sent = match signal {
                    Signal::Terminate => process::terminate(pid),
                    Signal::Kill => process::kill(pid),
                };
                if let Err(error) = sent {
                    tracing::error!(child = pid, %error, "a signal was not sent");
                }
            }
        }
    };
    let status = match status {
        Ok(status) => status.to_string(),
        Err(error) => format!("its end was missed: {error}"),
    };
    let _ = inputs.send(Input::Family(Event::Ended { pid, status })).await;
}

#[cfg(test)]
mod tests {
    use super::super::family::ChannelOrder;
    use super::*;

    fn spawner() -> Spawner {
        let socket = || std::net::UdpSocket::bind("127.0.0.1:0").unwrap().into();
        Spawner { bootstrap: "/b".into(), run_directory: "/r".into(), store: socket(), qmgr: socket() }
    }

    fn words(start: &Start) -> (Vec<String>, usize) {
        let spawner = spawner();
        let listening = Listening::default();
        let (arguments, descriptors) = spawner.arguments(start, &listening);
        (arguments.into_iter().map(|word| word.into_string().unwrap()).collect(), descriptors.len())
    }

    #[test]
    fn each_role_gets_what_it_works_on_and_nothing_else() {
        let supervisor = format!("--supervisor={}", std::process::id());
        let (store, count) = words(&Start::Kept(Role::Store));
        assert_eq!(store[..5], ["role", "store", &supervisor, "--run-directory=/r", "--bootstrap=/b"]);
        assert!(store[5].starts_with("--listen-fd=") && store.len() == 6 && count == 1);
        let (directory, count) = words(&Start::Kept(Role::Directory));
        assert_eq!((directory.len(), count), (5, 0));
        let order =
            ChannelOrder { process: 7, channel: "-odd name".into(), kind: "smtp".into(), capacity: 64 };
        let (channel, count) = words(&Start::Channel(order));
        assert_eq!(
            channel[3..],
            ["--run-directory=/r", "--name=-odd name", "--kind=smtp", "--process=7", "--capacity=64"]
        );
        assert_eq!(count, 0);
    }
}
