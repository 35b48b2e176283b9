//! The store: the one process that opens the log while a switch runs.
//!
//! It takes append sets from `smtp-server` and the channels, answers them when they are durable, streams what happened
//! to QMGR in the order of the log, and shows content to the channels. Not here: the log's format and recovery
//! (`queue`), devices (`platform`), any decision about mail (QMGR and the submission library).
#![forbid(unsafe_code)]

mod client;
mod device;
mod isolated;
mod manner;
pub mod offline;
mod service;
#[cfg(test)]
mod told;
pub mod translate;
mod uploads;

pub use client::ClientId;
pub use manner::Manner;
pub use service::Service;

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use sternpost_platform::clock::Clock;
use sternpost_platform::disk::{DiskBackend, DiskOpenError, LogDisk};
use sternpost_platform::door::{Door, Users};
use sternpost_platform::link::{Link, LinkEnd, Listener, Readiness};
use sternpost_platform::sandbox::{Filter, FilterError};
use tokio::sync::Notify;
use tokio::task::{LocalSet, spawn_local};

/// What the store is started with.
#[derive(Debug)]
pub struct Options {
    /// The listening socket of `store.sock`.
    pub listening: OwnedFd,
    /// The log: a file, or a block device.
    pub disk_path: PathBuf,
    /// How it is written.
    pub backend: DiskBackend,
    /// Octets of a segment: 1 MiB to 64 MiB. An existing log keeps its own. None: 64 MiB, on a small device less.
    pub segment_octets: Option<u32>,
    /// Segments, at least 8. An existing log keeps its own. None: 16 in a file; those that fill a device.
    pub segments: Option<u32>,
    /// Octets of the largest batch, if the operator says.
    pub batch_octets_max: Option<u32>,
    /// When content whose message is not complete, and of which nothing more comes, is thrown away, if the operator says.
    pub partial_timeout_s: Option<u32>,
    /// Who may connect as what.
    pub users: Users,
    /// What holds where the operator says nothing.
    pub recommended: Recommended,
    /// The system calls that are left to it once the log is open and its ring is made.
    pub filter: Filter,
}

/// What the self test found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recommended {
    /// How the log is written.
    pub backend: Option<DiskBackend>,
    /// Octets of the largest batch.
    pub batch_octets_max: Option<u32>,
}

/// Why the store could not run.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The event loop could not be made.
    #[error("cannot start the event loop")]
    Runtime(#[source] io::Error),
    /// The device could not be opened.
    #[error("cannot open the log")]
    Device(#[source] DiskOpenError),
    /// A new log could not be written.
    #[error("cannot create the log")]
    Create(#[source] sternpost_queue::CreateError),
    /// The log could not be recovered.
    #[error("cannot recover the log {}", path.display())]
    Recover {
        /// File or device.
        path: PathBuf,
        /// Why not.
        source: sternpost_queue::OpenError,
    },
    /// At the start: what is there is neither blank nor a log.
    #[error(
        "cannot recover the log {}: this is no log. If it held one, somebody has to look at it before it is lost for good. If \
         nothing on it is wanted, write the mark of a blank queue to it: {{ echo STERNPOST QUEUE BLANK 1; head -c 65512 \
         /dev/zero; }} | dd of=PATH bs=64K count=1 iflag=fullblock conv=notrunc",
        path.display()
    )]
    Foreign {
        /// File or device.
        path: PathBuf,
    },
    /// A blank device has no room for the log.
    #[error(
        "the device {} has {octets} octets: too few for the log. Make it larger (10 MiB at least), or ask for less in \
         [queue] segments and segment_octets of the bootstrap",
        path.display()
    )]
    TooSmall {
        /// The device.
        path: PathBuf,
        /// Its size.
        octets: u64,
    },
    /// Where a log should be, there is nothing.
    #[error(
        "there is nothing at {}; name the file or device that [queue] path of the bootstrap names",
        path.display()
    )]
    NoLog {
        /// File or device.
        path: PathBuf,
    },
    /// The listening socket could not be used.
    #[error("cannot listen for the other processes")]
    Listen(#[source] io::Error),
    /// The filter of system calls could not be installed.
    #[error("cannot give up what is needed no more")]
    Filter(#[source] FilterError),
    /// The device's completions cannot be watched.
    #[error("cannot watch the log's device")]
    Watch(#[source] io::Error),
}

/// Runs the store until it is ended.
///
/// # Errors
/// `StoreError`.
pub fn run(options: Options) -> Result<(), StoreError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StoreError::Runtime)?;
    LocalSet::new().block_on(&runtime, drive(options))
}

/// A log with nothing due is looked at this often anyway.
const NOTHING_DUE_MS: u64 = 60_000;

/// The service, and the bell that rings when the log has something to do.
struct Shared {
    service: RefCell<Service<LogDisk, Link>>,
    clock: Clock,
    appended: Notify,
    subscribed: Notify,
    /// The log takes content again that waits for its envelope.
    drained: Notify,
}

async fn drive(options: Options) -> Result<(), StoreError> {
    let clock = Clock::default();
    let device::Opened { log, manner, parameters, report } = device::open(&options, &clock)?;
    options.filter.install().map_err(StoreError::Filter)?;
    let readiness = log.disk().readiness().try_clone_to_owned().map_err(StoreError::Watch)?;
    let mut service = Service::new(log, std::process::id(), manner, Door::new(options.users));
    service.recovered(clock.now(), &report, &parameters);
    let shared = Rc::new(Shared {
        service: RefCell::new(service),
        clock,
        appended: Notify::new(),
        subscribed: Notify::new(),
        drained: Notify::new(),
    });
    let listener = Listener::new(options.listening).map_err(StoreError::Listen)?;
    spawn_local(accept(Rc::clone(&shared), listener));
    spawn_local(stream(Rc::clone(&shared)));
    drive_log(&shared, readiness).await
}

async fn drive_log(shared: &Shared, readiness: OwnedFd) -> Result<(), StoreError> {
    let readiness = Readiness::new(readiness).map_err(StoreError::Watch)?;
    loop {
        let wait = {
            let mut service = shared.service.borrow_mut();
            service.drive(shared.clock.now());
            shared.drained.notify_waiters();
            let now = shared.clock.now();
            service.wake_at(now).map_or(NOTHING_DUE_MS, |at| at.since_ms(now))
        };
        tokio::select! {
            // Everything that the event loop has found in the sockets is appended before this task has its turn.
            () = shared.appended.notified() => {}
            ready = readiness.changed() => ready.map_err(StoreError::Watch)?,
            () = tokio::time::sleep(Duration::from_millis(wait)) => {}
        }
    }
}

async fn accept(shared: Rc<Shared>, listener: Listener) {
    loop {
        match listener.accept().await.and_then(Link::new) {
            Ok(link) => {
                let id = shared.service.borrow_mut().connected(shared.clock.now(), Rc::clone(&link));
                // It has so much time to say who it is.
                shared.appended.notify_one();
                spawn_local(serve(Rc::clone(&shared), id, link));
            }
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "cannot accept a link");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(shared: Rc<Shared>, id: ClientId, link: Rc<Link>) {
    let take = |datagram: &[u8], _| {
        let (mut service, now) = (shared.service.borrow_mut(), shared.clock.now());
        if service.datagram(now, id, datagram)? {
            shared.subscribed.notify_one();
        }
        shared.appended.notify_one();
        // The disk does not wait until all sockets are empty, nor do those who wait for its answers.
        Ok(service.take_end_of_write(now) || service.holds_back(id) || service.owes_answers(id))
    };
    let between = async || {
        // The flushers send the answers, and the others have their turn.
        tokio::task::yield_now().await;
        // Content that comes faster than the disk takes it stays in the sockets.
        while shared.service.borrow().holds_back(id) {
            shared.drained.notified().await;
        }
        // So do the questions of a client that does not read its answers.
        while shared.service.borrow().owes_answers(id) {
            link.flushed().await;
            shared.service.borrow_mut().answer_fetches(id);
            shared.appended.notify_one();
            tokio::task::yield_now().await;
        }
    };
    let end = link.read_in_turns(take, between).await;
    if !matches!(end, LinkEnd::Closed) {
        tracing::error!(error = &end as &dyn std::error::Error, "a client's link has ended");
    }
    shared.service.borrow_mut().lost(id);
    shared.appended.notify_one();
}

/// Sends QMGR a snapshot when it asks for one, and again when its link could not keep up.
async fn stream(shared: Rc<Shared>) {
    loop {
        if !shared.service.borrow().wants_snapshot() {
            tokio::select! {
                () = shared.subscribed.notified() => {}
                () = tokio::time::sleep(Duration::from_millis(500)) => {}
            }
            continue;
        }
        let Some(link) = shared.service.borrow_mut().begin_snapshot() else { continue };
        link.flushed().await;
        while !shared.service.borrow_mut().step_snapshot() {
            link.flushed().await;
        }
    }
}
