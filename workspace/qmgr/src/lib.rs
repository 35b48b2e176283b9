//! The queue manager: holds the whole queue in memory, decides what is processed when, and leads the channels.
//!
//! It drives `scheduler` with what the store, the supervisor, the channels and the directory role say. Not here: disks
//! (the store's), processes (the supervisor's), the configuration directory (the directory role's), decisions
//! (`scheduler`). PROTOCOL.md has the frames and their order.
#![forbid(unsafe_code)]

mod answers;
mod concealment;
mod generations;
mod lived;
mod manager;
mod messages;
mod processes;
mod reasons;
mod record;
mod servers;

pub use generations::Generations;
pub use lived::Clocks;
pub use manager::{Manager, Tree};
pub use record::{NoRoom, Record, RecordError, recorded_files};

use crate::manager::send;
use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use sternpost_link::qmgr::{FromQmgr, ToQmgr};
use sternpost_link::store::FromStore;
use sternpost_link::supervisor::FromSupervisor;
use sternpost_link::{Frames, Hello, Role};
use sternpost_platform::clock::SystemClocks;
use sternpost_platform::door::{Door, Users};
use sternpost_platform::link::{Link, LinkEnd, Listener, connect};
use sternpost_platform::memory;
use tokio::sync::Notify;
use tokio::task::{LocalSet, spawn_local};

/// What QMGR is started with.
#[derive(Debug)]
pub struct Options {
    /// The listening socket of `qmgr.sock`.
    pub listening: OwnedFd,
    /// Where the sockets of the other processes are.
    pub run_directory: PathBuf,
    /// Where the last known good configuration is kept.
    pub state_directory: PathBuf,
    /// The identity by which the node finds its own entry in the directory.
    pub node: String,
    /// Who may connect as what.
    pub users: Users,
    /// Where the scheduler's events are recorded, if somebody wants them; or why they are not.
    pub record: Option<Result<Record, RecordError>>,
    /// What the self test found.
    pub found: Found,
}

/// What the self test found, for an operator who says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Channel processes in all.
    pub channel_processes_max: Option<u32>,
    /// Associations of one of them.
    pub slots_per_process: Option<u32>,
    /// Connections on all listeners together.
    pub connections_max: Option<u32>,
}

/// Why QMGR could not run.
#[derive(Debug, thiserror::Error)]
pub enum QmgrError {
    /// The event loop could not be made.
    #[error("cannot start the event loop")]
    Runtime(#[source] io::Error),
    /// The listening socket could not be used.
    #[error("cannot listen for the other processes")]
    Listen(#[source] io::Error),
    /// The supervisor has closed its link: it has ended or replaces this process.
    #[error("the supervisor has gone")]
    SupervisorGone,
}

/// Runs QMGR until the supervisor ends it.
///
/// # Errors
/// `QmgrError`.
pub fn run(options: Options) -> Result<(), QmgrError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(QmgrError::Runtime)?;
    LocalSet::new().block_on(&runtime, drive(options))
}

/// The manager between real links, by the machine's clocks.
type RealManager = Manager<Link, SystemClocks>;

/// The manager, and the bell that rings when something has happened in it.
#[derive(Clone)]
struct Shared {
    door: Rc<Door>,
    manager: Rc<RefCell<RealManager>>,
    changed: Rc<Notify>,
}

impl Shared {
    /// Does something with the manager and lets the timers look at what follows.
    fn with<R>(&self, act: impl FnOnce(&mut RealManager) -> R) -> R {
        let result = act(&mut self.manager.borrow_mut());
        self.changed.notify_one();
        result
    }
}

async fn drive(options: Options) -> Result<(), QmgrError> {
    let mut generations = Generations::new(options.node, &options.state_directory, options.found);
    generations.load_last_known_good();
    let clocks = Clocks::new(&options.state_directory, SystemClocks);
    let mut manager = Manager::new(generations, clocks, std::process::id());
    if let Some(record) = options.record {
        manager.record_into(record);
    }
    let door = Rc::new(Door::new(options.users));
    let shared = Shared { door, manager: Rc::new(RefCell::new(manager)), changed: Rc::new(Notify::new()) };
    let listener = Listener::new(options.listening).map_err(QmgrError::Listen)?;
    spawn_local(keep_time(shared.clone()));
    spawn_local(keep_store(shared.clone(), options.run_directory.join("store.sock")));
    spawn_local(accept(shared.clone(), listener));
    follow_supervisor(&shared, &options.run_directory.join("supervisor.sock")).await;
    Err(QmgrError::SupervisorGone)
}

async fn keep_time(shared: Shared) {
    loop {
        let wait = {
            let mut manager = shared.manager.borrow_mut();
            manager.tell_deliverable();
            let record = manager.keep_record().unwrap_or(Duration::MAX);
            Duration::from_millis(manager.wake_at().since_ms(manager.clocks.now())).min(record)
        };
        tokio::select! {
            () = shared.changed.notified() => {
                // What the rest of this turn of the event loop brings is looked at together.
                tokio::task::yield_now().await;
            }
            () = tokio::time::sleep(wait) => {}
        }
        let is_due = {
            let manager = shared.manager.borrow();
            manager.wake_at() <= manager.clocks.now()
        };
        if is_due {
            shared.manager.borrow_mut().wake();
        }
    }
}

async fn follow_supervisor(shared: &Shared, path: &Path) {
    let link = connect_soon(path).await;
    shared.with(|manager| manager.supervisor_connected(Rc::clone(&link)));
    let end = link
        .read_until_end(|datagram, _| {
            let mut frames = Frames::open(datagram)?;
            while let Some(frame) = frames.next_frame::<FromSupervisor>()? {
                shared.with(|manager| manager.supervisor_said(frame));
            }
            Ok(())
        })
        .await;
    log_end("supervisor", &end);
}

async fn keep_store(shared: Shared, path: PathBuf) {
    loop {
        let link = connect_soon(&path).await;
        shared.with(|manager| manager.store_connected(Rc::clone(&link)));
        let end = link
            .read_until_end(|datagram, _| {
                let mut frames = Frames::open(datagram)?;
                while let Some(frame) = frames.next_frame::<FromStore>()? {
                    if let FromStore::Stream(frame) = frame {
                        shared.with(|manager| manager.stream(frame));
                    }
                }
                Ok(())
            })
            .await;
        log_end("store", &end);
        shared.with(Manager::store_lost);
    }
}

/// Tries until the socket answers; the supervisor keeps it open while the process behind it restarts.
async fn connect_soon(path: &Path) -> Rc<Link> {
    loop {
        match connect(path).and_then(Link::new) {
            Ok(link) => return link,
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, path = %path.display(), "not there yet");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

async fn accept(shared: Shared, listener: Listener) {
    loop {
        match listener.accept().await.and_then(Link::new) {
            Ok(link) => {
                spawn_local(serve(shared.clone(), link));
            }
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "cannot accept a link");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// One link to a role or an operator.
async fn serve(shared: Shared, link: Rc<Link>) {
    let mut greeted: Option<Hello> = None;
    let end = link
        .read_until_end(|datagram, attached| {
            let mut attached = attached;
            let mut frames = Frames::open(datagram)?;
            while let Some(frame) = frames.next_frame::<ToQmgr>()? {
                match (&greeted, frame) {
                    (None, ToQmgr::Hello(hello)) => {
                        let Some(hello) = shared.door.admit(&*link, hello) else { return Ok(()) };
                        if let Err(why) = greet(&shared, &hello, &link) {
                            shared.door.refuse(&*link, why);
                            return Ok(());
                        }
                        greeted = Some(hello);
                    }
                    (Some(hello), frame) if frame.is_business_of(hello.role) => {
                        shared.with(|manager| take(manager, hello, frame, attached.take(), &link));
                    }
                    (hello, _) => {
                        let who = hello
                            .as_ref()
                            .map_or("a process that has not said who it is", |hello| hello.role.name());
                        shared.door.refuse(&*link, &format!("{who} has sent what is not its business"));
                        return Ok(());
                    }
                }
            }
            Ok(())
        })
        .await;
    let Some(hello) = greeted else { return };
    if hello.role != Role::Operator {
        log_end(hello.role.name(), &end);
    }
    shared.with(|manager| match hello.role {
        Role::Channel | Role::Housekeeper => manager.channel_lost(&hello),
        Role::SmtpServer => manager.server_lost(&link),
        Role::Directory => {
            manager.directory_says(false, "the directory process is being restarted".to_owned());
        }
        Role::Operator | Role::Supervisor | Role::Store | Role::Qmgr | Role::Signer => {}
    });
}

/// # Errors
/// Why the link is not taken.
fn greet(shared: &Shared, hello: &Hello, link: &Rc<Link>) -> Result<(), &'static str> {
    shared.with(|manager| {
        match hello.role {
            Role::Channel | Role::Housekeeper => return manager.channel_connected(hello, link),
            Role::SmtpServer => return manager.server_connected(hello, link),
            Role::Directory | Role::Operator => send(&**link, &FromQmgr::Welcome(manager.hello())),
            Role::Supervisor | Role::Store | Role::Qmgr | Role::Signer => {
                return Err("its role has no business with QMGR");
            }
        }
        Ok(())
    })
}

fn take(manager: &mut RealManager, hello: &Hello, frame: ToQmgr, attached: Option<OwnedFd>, link: &Link) {
    match (hello.role, frame) {
        (Role::Channel | Role::Housekeeper, frame) => manager.channel_said(hello, frame),
        (Role::Directory, ToQmgr::Entries { .. }) => match attached {
            Some(memory) => manager.entries(
                memory::unseal(memory, memory::ENTRIES_OCTETS_MAX).map_err(|error| error.to_string()),
            ),
            None => tracing::error!(event = "configuration.unreadable", "entries came without their memory"),
        },
        (Role::Directory, ToQmgr::DirectoryStatus { connected, text }) => {
            tracing::info!(event = "directory.status", connected, text, "the directory");
            manager.directory_says(connected, text);
        }
        (Role::SmtpServer, ToQmgr::Connections { listeners }) => manager.server_said(link, listeners),
        (Role::Operator, ToQmgr::Ask(question)) => {
            let sent = answers::answer(manager, &question).and_then(|value| {
                let memory = memory::seal(value.to_string().as_bytes()).map_err(|error| error.to_string())?;
                link.push_with(&FromQmgr::Answer, memory).map_err(|error| error.to_string())
            });
            if let Err(why) = sent {
                send(link, &FromQmgr::NoAnswer { why });
            }
        }
        // The rest is no role's business that can be here, or, as a server's Pong, asks for nothing.
        _ => {}
    }
}

fn log_end(peer: &str, end: &LinkEnd) {
    match end {
        LinkEnd::Closed => tracing::info!(peer, "{end}"),
        LinkEnd::Nonsense(_) | LinkEnd::Failed(_) => {
            tracing::error!(peer, error = end as &dyn std::error::Error, "a link has ended");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sternpost_link::PROTOCOL_VERSION;
    use sternpost_link::qmgr::ListenerConnections;

    const TABLES: &str = r#"
        [node]
        name = "north"
        hostname = "mx.example.org"
        [[listener]]
        name = "in"
        addresses = ["127.0.0.1:25"]
    "#;

    fn qmgr(state_directory: &Path) -> Shared {
        let mut generations = Generations::new("north".into(), state_directory, Found::default());
        assert!(generations.begin_with(sternpost_config::entries_from_tables(TABLES).unwrap()));
        let manager = Manager::new(generations, Clocks::new(state_directory, SystemClocks), 1);
        let door = Rc::new(Door::new(Users::Same(0)));
        Shared { door, manager: Rc::new(RefCell::new(manager)), changed: Rc::new(Notify::new()) }
    }

    fn server(pid: u32) -> Hello {
        let channel = String::new();
        Hello { version: PROTOCOL_VERSION, role: Role::SmtpServer, pid, process: 0, channel, capacity: 0 }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_smtp_server_has_one_link_and_says_nothing_of_listeners_that_are_not_in_force() {
        let here = async {
            let folder = tempfile::tempdir().unwrap();
            let shared = qmgr(folder.path());
            let path = folder.path().join("qmgr.sock");
            let listener = Listener::new(sternpost_platform::link::listen(&path).unwrap()).unwrap();
            let mut links = Vec::new();
            for _ in 0..3 {
                let theirs = Link::new(connect(&path).unwrap()).unwrap();
                links.push((theirs, Link::new(listener.accept().await.unwrap()).unwrap()));
            }
            let says = |link: &Link, names: &[&str]| {
                let connections = |name: &&str| ListenerConnections {
                    listener: (*name).to_owned(),
                    urgent: 1,
                    ..ListenerConnections::default()
                };
                let listeners = names.iter().map(connections).collect();
                let frame = ToQmgr::Connections { listeners };
                shared.with(|manager| take(manager, &server(7), frame, None, link));
                shared.with(|manager| manager.servers.connections())
            };
            let [(first, a), (_, b), (_, c)] = &links[..] else { unreachable!() };
            assert_eq!(greet(&shared, &server(7), a), Ok(()));
            let kept = says(a, &["in", "x", "in", "y"]);
            assert_eq!(kept.iter().map(|one| one.listener.as_str()).collect::<Vec<_>>(), ["in"]);
            assert_eq!(greet(&shared, &server(7), b), Ok(()));
            // The first one is over: its end is seen, and its words are nobody's.
            assert!(matches!(first.read_until_end(|_, _| Ok(())).await, LinkEnd::Closed));
            assert_eq!(says(a, &["in"]), []);
            assert_eq!(says(b, &["in"]).len(), 1);
            for pid in 100..115 {
                // Whose link it is makes no difference to the count.
                assert_eq!(greet(&shared, &server(pid), b), Ok(()), "{pid}");
            }
            assert_eq!(greet(&shared, &server(115), c), Err(servers::TOO_MANY));
        };
        LocalSet::new().run_until(here).await;
    }
}
