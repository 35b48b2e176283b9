//! Making and reaping processes: this executable again, with the arguments of a role.

use super::Input;
use super::family::{Event, Start};
use super::limits::WATCH_RETRY;
use super::listening::{Listening, Served};
use super::successor::OF_THE_MANAGER;
use crate::bootstrap::{Bootstrap, Record, RoleUsers};
use crate::output;
use crate::profile::{self, Chosen};
use crate::roles::Roles;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;
use sternpost_link::Role;
use sternpost_platform::child::{Child, Order};
use sternpost_platform::process;
use sternpost_platform::sandbox;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

/// What is read of the words that a process leaves.
const LAST_WORDS_OCTETS_MAX: u64 = 1_024;
/// What it has written is there when it has ended; only a descriptor that it handed on could keep the pipe open.
const LAST_WORDS_WAIT: Duration = Duration::from_millis(100);

/// What every start needs.
#[derive(Debug)]
pub(super) struct Spawner {
    /// For the directory role alone: the others get what they need of it as arguments.
    pub(super) bootstrap_path: PathBuf,
    pub(super) run_directory: PathBuf,
    pub(super) given: Given,
    /// The listening socket behind `store.sock`.
    pub(super) store: OwnedFd,
    /// The listening socket behind `qmgr.sock`.
    pub(super) qmgr: OwnedFd,
    /// The listening socket behind `signer.sock`.
    pub(super) signer: OwnedFd,
}

/// What roles need of the bootstrap, without its secrets.
#[derive(Debug)]
pub(super) struct Given {
    /// The section of the log, in JSON.
    queue: String,
    state_of_qmgr: PathBuf,
    node: String,
    record: Option<Record>,
    /// The folder of certificates and private keys.
    credentials: PathBuf,
    role_users: RoleUsers,
    /// What the self test found; read once, so that a role that is started again works as before.
    found: Option<Chosen>,
}

impl Given {
    /// # Errors
    /// When the path of the log is no UTF-8, in words.
    pub(super) fn of(bootstrap: &Bootstrap) -> Result<Self, serde_json::Error> {
        Ok(Self {
            queue: serde_json::to_string(&bootstrap.queue)?,
            state_of_qmgr: bootstrap.state_directory.join(super::paths::QMGR_STATE),
            node: bootstrap.node.clone(),
            record: bootstrap.record.clone(),
            credentials: bootstrap.credentials.clone(),
            role_users: bootstrap.role_users,
            found: profile::in_force(&bootstrap.self_test, &bootstrap.queue.path),
        })
    }
}

impl Given {
    /// Whether the roles have users of their own.
    pub(super) const fn role_users(&self) -> RoleUsers {
        self.role_users
    }
}

impl Spawner {
    /// Starts a process and gives it the sockets that it works on, and no other descriptor.
    ///
    /// # Errors
    /// Those of `fcntl`, `fork` and `exec`, and of becoming the role's user.
    pub(super) fn spawn(
        &self,
        start: &Start,
        listening: &Listening,
    ) -> io::Result<(u32, Option<ChildStdout>)> {
        let (arguments, descriptors) = self.arguments(start, listening);
        let name = match start {
            Start::Kept(role) => role.name(),
            Start::Channel(order) => &order.channel,
        };
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0(format!("sternpost: {name}"))
            .args(arguments)
            .stdin(Stdio::null())
            // Why it ends, in the words of `main`; its log goes to stderr.
            .stdout(Stdio::piped())
            // Ctrl-C at a terminal is the supervisor's alone: it stops the others in order.
            .process_group(0);
        for name in OF_THE_MANAGER {
            command.env_remove(name);
        }
        self.confine(&mut command, start)?;
        let given = descriptors.iter().try_for_each(|descriptor| {
            process::give_to_children(*descriptor)?;
            Ok(())
        });
        let spawned = given.and_then(|()| command.spawn());
        for descriptor in descriptors {
            // A child that was made is there whatever becomes of this.
            if let Err(error) = process::keep_from_children(descriptor) {
                tracing::error!(%error, "a descriptor stays open for children");
            }
        }
        let mut child = spawned?;
        Ok((child.id(), child.stdout.take()))
    }

    /// By the role's row in the table; of a channel, the kind is the role.
    fn confine(&self, command: &mut Command, start: &Start) -> io::Result<()> {
        let role = match start {
            Start::Kept(role) => role.name(),
            Start::Channel(order) => order.kind.name(),
        };
        let roles = Roles::of_this_build();
        let (Some(identity), Some(limits)) = (roles.identity(role), roles.limits(role)) else {
            return Err(io::Error::other(format!("{role} is no role of image/roles.toml")));
        };
        let identity = (self.given.role_users == RoleUsers::Separate).then_some(identity);
        sandbox::confine(command, identity, limits);
        Ok(())
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
            Start::Channel(order) => order.kind.role(),
        };
        // Channel processes of all kinds are one subcommand.
        arguments.push(if role.is_channel() { Role::Channel } else { role }.name().into());
        arguments.push(pair("--supervisor", std::process::id().to_string().into()));
        arguments.push(pair("--run-directory", self.run_directory.clone().into()));
        match start {
            Start::Kept(Role::Store) => {
                arguments.push(pair("--queue", self.given.queue.clone().into()));
                if let Some(found) = &self.given.found {
                    arguments.push(pair("--found-method", found.method.value.name().into()));
                    arguments.push(pair("--found-batch-octets", found.batch_octets.value.to_string().into()));
                }
                descriptors.push(self.store.as_fd());
            }
            Start::Kept(Role::Qmgr) => {
                arguments.push(pair("--state", self.given.state_of_qmgr.clone().into()));
                arguments.push(pair("--node", self.given.node.clone().into()));
                if let Some(found) = &self.given.found {
                    let numbers = [
                        ("--found-channel-processes", Some(&found.channel_processes_max)),
                        ("--found-slots-per-process", found.slots_per_process.as_ref()),
                        ("--found-connections", found.connections_max.as_ref()),
                    ];
                    for (name, number) in numbers {
                        arguments.extend(number.map(|number| pair(name, number.value.to_string().into())));
                    }
                }
                if let Some(Record { path, octets_max }) = &self.given.record {
                    arguments.push(pair("--record", path.clone().into()));
                    arguments.push(pair("--record-octets-max", octets_max.to_string().into()));
                }
                descriptors.push(self.qmgr.as_fd());
            }
            Start::Kept(Role::Directory) => {
                arguments.push(pair("--bootstrap", self.bootstrap_path.clone().into()));
                arguments.push(pair("--node", self.given.node.clone().into()));
            }
            Start::Kept(Role::Signer) => {
                arguments.push(pair("--credentials", self.given.credentials.clone().into()));
                descriptors.push(self.signer.as_fd());
            }
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
                arguments.push(pair("--kind", order.kind.name().into()));
                arguments.push(pair("--process", order.process.to_string().into()));
                arguments.push(pair("--capacity", order.capacity.to_string().into()));
            }
        }
        if matches!(role, Role::Store | Role::Qmgr | Role::Signer) {
            arguments.push(pair("--role-users", self.given.role_users.name().into()));
            let own = rustix::process::geteuid().as_raw();
            arguments.push(pair("--supervisor-user", own.to_string().into()));
            for descriptor in &descriptors {
                arguments.push(pair("--listen-fd", descriptor.as_raw_fd().to_string().into()));
            }
        }
        (arguments, descriptors)
    }
}

/// Waits for a child's end and passes orders to it until then.
pub(super) async fn reap(
    pid: u32,
    child: io::Result<Child>,
    words: Option<pipe::Receiver>,
    mut orders: mpsc::UnboundedReceiver<Order>,
    inputs: mpsc::Sender<Input>,
) {
    let mut child = child;
    let mut status = loop {
        let error = match child {
            Ok(child) => match watch(pid, &child, &mut orders).await {
                Ok(status) => break status.to_string(),
                Err(error) => error,
            },
            Err(error) => error,
        };
        if has_gone(&error) {
            break format!("its end was missed: {error}");
        }
        // It lives, or waits to be reaped: what is told of it as an end would have another one started beside it.
        tracing::error!(event = "child.unwatched", child = pid, %error, "a child cannot be watched (descriptors or memory are short); tried again every second");
        tokio::time::sleep(WATCH_RETRY).await;
        child = Child::of(pid);
    };
    let words = last_words(words).await;
    if !words.is_empty() {
        status = format!("{status}: {words}");
    }
    let _ = inputs.send(Input::Family(Event::Ended { pid, status })).await;
}

async fn watch(
    pid: u32,
    child: &Child,
    orders: &mut mpsc::UnboundedReceiver<Order>,
) -> io::Result<ExitStatus> {
    loop {
        tokio::select! {
            status = child.ended() => return status,
            Some(order) = orders.recv() => {
                if let Err(error) = child.tell(order) {
                    tracing::error!(child = pid, %error, "a signal was not sent");
                }
            }
        }
    }
}

/// Whether the error says that there is no such child. No other does: descriptors or memory can be short for a time.
fn has_gone(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let is = |errno: Errno| error.raw_os_error() == Some(errno.raw_os_error());
    is(Errno::CHILD) || is(Errno::SRCH) || error.kind() == io::ErrorKind::InvalidInput
}

async fn last_words(pipe: Option<pipe::Receiver>) -> String {
    let Some(pipe) = pipe else { return String::new() };
    let mut words = Vec::new();
    // Cut short or not: what was read by then is all that there is.
    let _ =
        tokio::time::timeout(LAST_WORDS_WAIT, pipe.take(LAST_WORDS_OCTETS_MAX).read_to_end(&mut words)).await;
    output::printable(String::from_utf8_lossy(&words).trim())
}

#[cfg(test)]
mod tests {
    use super::super::family::ChannelOrder;
    use super::*;
    use sternpost_link::ChannelKind;

    fn spawner(found: Option<Chosen>) -> Spawner {
        let socket = || std::net::UdpSocket::bind("127.0.0.1:0").unwrap().into();
        let given = Given {
            queue: "{}".into(),
            state_of_qmgr: "/s/qmgr".into(),
            node: "n".into(),
            record: None,
            credentials: "/s/credentials".into(),
            role_users: RoleUsers::Same,
            found,
        };
        Spawner {
            bootstrap_path: "/b".into(),
            run_directory: "/r".into(),
            given,
            store: socket(),
            qmgr: socket(),
            signer: socket(),
        }
    }

    fn words(start: &Start) -> (Vec<String>, usize) {
        words_after(start, None)
    }

    fn words_after(start: &Start, found: Option<Chosen>) -> (Vec<String>, usize) {
        let spawner = spawner(found);
        let listening = Listening::default();
        let (arguments, descriptors) = spawner.arguments(start, &listening);
        (arguments.into_iter().map(|word| word.into_string().unwrap()).collect(), descriptors.len())
    }

    #[test]
    fn each_role_gets_what_it_works_on_and_nothing_else() {
        let supervisor = format!("--supervisor={}", std::process::id());
        let (store, count) = words(&Start::Kept(Role::Store));
        assert_eq!(store[..5], ["role", "store", &supervisor, "--run-directory=/r", "--queue={}"]);
        let own = format!("--supervisor-user={}", rustix::process::geteuid().as_raw());
        assert_eq!(store[5..7], ["--role-users=same", &own]);
        assert!(store[7].starts_with("--listen-fd=") && store.len() == 8 && count == 1);
        let (qmgr, count) = words(&Start::Kept(Role::Qmgr));
        assert_eq!(qmgr[3..6], ["--run-directory=/r", "--state=/s/qmgr", "--node=n"]);
        assert_eq!(qmgr[6..8], ["--role-users=same", &own]);
        assert!(qmgr[8].starts_with("--listen-fd=") && qmgr.len() == 9 && count == 1);
        let (signer, count) = words(&Start::Kept(Role::Signer));
        assert_eq!(signer[3..5], ["--run-directory=/r", "--credentials=/s/credentials"]);
        assert!(signer[7].starts_with("--listen-fd=") && signer.len() == 8 && count == 1);
        let (directory, count) = words(&Start::Kept(Role::Directory));
        assert_eq!(directory[3..], ["--run-directory=/r", "--bootstrap=/b", "--node=n"]);
        assert_eq!(count, 0);
        let order =
            ChannelOrder { process: 7, channel: "-odd name".into(), kind: ChannelKind::Smtp, capacity: 64 };
        let (channel, count) = words(&Start::Channel(order));
        assert_eq!(
            channel[3..],
            ["--run-directory=/r", "--name=-odd name", "--kind=smtp", "--process=7", "--capacity=64"]
        );
        assert_eq!(count, 0);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_child_that_cannot_be_watched_for_a_time_is_not_taken_for_dead() {
        let child = Command::new("sleep").arg("60").spawn().unwrap().id();
        let (inputs, mut input) = mpsc::channel(1);
        let (orders, receiver) = mpsc::unbounded_channel();
        let short = Err(io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error()));
        let meanwhile = async {
            tokio::time::sleep(WATCH_RETRY / 2).await;
            assert!(input.try_recv().is_err(), "it lives");
            // What it is told meanwhile it hears later.
            orders.send(Order::Kill).unwrap();
        };
        tokio::join!(reap(child, short, None, receiver, inputs.clone()), meanwhile);
        let Some(Input::Family(Event::Ended { pid, status })) = input.recv().await else { panic!("its end") };
        assert_eq!((pid, status.as_str()), (child, "signal: 9 (SIGKILL)"));
        // One that is not there is not waited for.
        reap(child, Child::of(child), None, mpsc::unbounded_channel().1, inputs).await;
        let Some(Input::Family(Event::Ended { status, .. })) = input.recv().await else { panic!("its end") };
        assert!(status.starts_with("its end was missed"), "{status}");
    }

    #[test]
    fn qmgr_alone_is_told_where_to_record() {
        let mut spawner = spawner(None);
        spawner.given.record = Some(Record { path: "/r/e".into(), octets_max: 2_000_000 });
        let listening = Listening::default();
        for (role, is_told) in [(Role::Qmgr, true), (Role::Store, false), (Role::Directory, false)] {
            let (arguments, _) = spawner.arguments(&Start::Kept(role), &listening);
            let has = |word: &str| arguments.iter().any(|argument| argument == word);
            assert_eq!(has("--record=/r/e") && has("--record-octets-max=2000000"), is_told, "{role:?}");
        }
    }

    #[test]
    fn the_store_and_qmgr_are_told_what_the_self_test_found() {
        let number = |value| profile::Value { value, reason: String::new() };
        let found = Chosen {
            method: profile::Value { value: profile::Method::IoUring, reason: String::new() },
            batch_octets: number(262_144),
            channel_processes_max: number(7),
            association_slots_max: Some(number(350)),
            slots_per_process: Some(number(50)),
            connections_max: None,
        };
        let (store, _) = words_after(&Start::Kept(Role::Store), Some(found.clone()));
        assert_eq!(store[5..7], ["--found-method=io_uring", "--found-batch-octets=262144"]);
        let (qmgr, _) = words_after(&Start::Kept(Role::Qmgr), Some(found));
        assert_eq!(qmgr[6..8], ["--found-channel-processes=7", "--found-slots-per-process=50"]);
        assert!(!qmgr.iter().any(|word| word.starts_with("--found-connections")), "none was found");
    }
}
