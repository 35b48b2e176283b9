//! The store's process without a supervisor: started with the arguments that a supervisor would give it, on a log that is
//! made anew, and asked as an operator asks it.

use rustix::fs::OFlags;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use sternpost_link::store::{FromStore, MessageFacts, StoreStatus, ToStore};
use sternpost_link::{DATAGRAM_OCTETS_MAX, DatagramError, Frames, Hello, PROTOCOL_VERSION, Role};
use sternpost_message::MessageSequence;
use sternpost_platform::disk::{DiskBackend, DiskOpenError, open_log_disk};
use sternpost_platform::link::{Link, connect_patiently, listen};
use sternpost_platform::process::{give_to_children, keep_from_children, random};
use sternpost_platform::sandbox::{Limits, confine};
use sternpost_queue::{CreateError, DiskError, Geometry, Log};
use tokio::task::LocalSet;

/// Time for an answer: the first one comes when the log is recovered.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Time for a store that has closed its link to end.
const LAST_WORDS_MAX: Duration = Duration::from_secs(5);
/// What image/roles.toml leaves the store.
const LIMITS: Limits = Limits { open_files: 4096, locked_octets: 64 << 20, data_octets: None };

/// Why the store cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum LoneError {
    /// The log's file.
    #[error("the log's file cannot be opened")]
    Open(#[from] DiskOpenError),
    /// Zeroes could not be written.
    #[error("the log's file cannot be written with zeroes")]
    Zero(#[source] DiskError),
    /// The log could not be made.
    #[error("the log cannot be made")]
    Create(#[from] CreateError),
    /// A step of starting or asking.
    #[error("cannot {step} {}", path.display())]
    Step {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It ended, or it never began; the end of its log.
    #[error("the store gives no answer; the end of its log:{0}")]
    NoAnswer(String),
    /// It does not speak our protocol.
    #[error("the store was not understood: program and bench must come from one build")]
    NotUnderstood(#[from] DatagramError),
}

/// The file of a log, written with zeroes once, on which logs are made one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPlace {
    /// The file.
    pub path: PathBuf,
    /// The log's geometry.
    pub geometry: Geometry,
    /// How the store writes it.
    pub backend: DiskBackend,
    /// Octets of the largest batch; none: as the store has it.
    pub batch_octets_max: Option<u32>,
}

impl LogPlace {
    /// Makes the file and writes it full of zeroes.
    ///
    /// # Errors
    /// `Open`; `Zero` when the device refuses, for example for want of room.
    pub fn zero(&self) -> Result<(), LoneError> {
        let mut disk = open_log_disk(&self.path, DiskBackend::Dsync, self.geometry.octets())?;
        disk.zero(&mut |_, _| true).map_err(LoneError::Zero)
    }

    /// Makes an empty log of it, whatever was there: stale octets are no records of a log with another secret.
    ///
    /// # Errors
    /// `Open`, `Create`.
    pub fn make(&self) -> Result<(), LoneError> {
        let disk = open_log_disk(&self.path, DiskBackend::Dsync, self.geometry.octets())?;
        Log::create(disk, self.geometry, random())?;
        Ok(())
    }

    /// The section of the bootstrap, as the supervisor hands it to the store.
    fn section(&self) -> String {
        let Geometry { segment_octets, segments } = self.geometry;
        serde_json::json!({
            "path": self.path,
            "segment_octets": segment_octets,
            "segments": segments,
            "backend": self.backend.name(),
            "batch_octets_max": self.batch_octets_max,
        })
        .to_string()
    }
}

/// A running store. Dropping it kills it, as a store may be killed at any time.
#[derive(Debug)]
pub struct LoneStore {
    child: Child,
    home: PathBuf,
    log: PathBuf,
}

impl LoneStore {
    /// Starts `program` as the store of the log at `place` and waits until it answers. Its socket and its own words
    /// (`store.log`) lie in `home`.
    ///
    /// # Errors
    /// `Step`, `NoAnswer`.
    pub fn start(program: &Path, home: &Path, place: &LogPlace) -> Result<Self, LoneError> {
        let step = |step, path: &Path| {
            let path = path.to_owned();
            move |source| LoneError::Step { step, path, source }
        };
        let socket_path = home.join("store.sock");
        let socket = listen(&socket_path).map_err(step("listen at", &socket_path))?;
        let words = File::create(home.join("store.log")).map_err(step("write in", home))?;
        let number = give_to_children(socket.as_fd()).map_err(step("hand on", &socket_path))?;
        let mut command = Command::new(program);
        command
            .args(["role", "store"])
            .arg(format!("--supervisor={}", std::process::id()))
            .arg("--run-directory")
            .arg(home)
            .arg(format!("--queue={}", place.section()))
            .arg("--role-users=same")
            .arg(format!("--supervisor-user={}", rustix::process::geteuid().as_raw()))
            .arg(format!("--listen-fd={number}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(words);
        // The role ends itself when this thread does, and bears the limits that it has in a switch.
        confine(&mut command, None, LIMITS);
        let spawned = command.spawn().map_err(step("start", program));
        keep_from_children(socket.as_fd()).map_err(step("keep", &socket_path))?;
        // From here on nobody but the store listens: where it has ended, nothing waits for an answer.
        drop(socket);
        let mut store = Self { child: spawned?, home: home.to_owned(), log: place.path.clone() };
        match store.status() {
            Err(LoneError::NoAnswer(_)) => {
                store.wait_for_end();
                Err(LoneError::NoAnswer(store.last_words()))
            }
            status => status.map(|_| store),
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.home.join("store.sock")
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The figures of its log.
    ///
    /// # Errors
    /// `Step`, `NoAnswer`, `NotUnderstood`.
    pub fn status(&self) -> Result<StoreStatus, LoneError> {
        self.ask(&ToStore::Status, |frame| match frame {
            FromStore::Status(status) => Some(status),
            _ => None,
        })
    }

    /// Every living message, in the order of the log.
    ///
    /// # Errors
    /// `Step`, `NoAnswer`, `NotUnderstood`.
    pub fn messages(&self) -> Result<Vec<MessageFacts>, LoneError> {
        let mut all = Vec::new();
        let mut from = Some(MessageSequence(0));
        while let Some(first) = from {
            let (messages, next) =
                self.ask(&ToStore::List { from: first, count_max: 256 }, |frame| match frame {
                    FromStore::Listed { messages, next } => Some((messages, next)),
                    _ => None,
                })?;
            all.extend(messages);
            from = next;
        }
        Ok(all)
    }

    /// Whether it has opened its log so that reads go past the page cache. None where /proc does not tell.
    #[must_use]
    pub fn reads_directly(&self) -> Option<bool> {
        let process = PathBuf::from(format!("/proc/{}", self.pid()));
        let log = self.log.canonicalize().ok()?;
        let entries = fs::read_dir(process.join("fd")).ok()?.flatten();
        let descriptor =
            entries.into_iter().find(|entry| fs::read_link(entry.path()).is_ok_and(|to| to == log))?;
        let text = fs::read_to_string(process.join("fdinfo").join(descriptor.file_name())).ok()?;
        let flags = text.lines().find_map(|line| line.strip_prefix("flags:"))?;
        Some(u32::from_str_radix(flags.trim(), 8).ok()? & OFlags::DIRECT.bits() != 0)
    }

    fn ask<T>(
        &self,
        question: &ToStore<'_>,
        wanted: impl FnMut(FromStore) -> Option<T>,
    ) -> Result<T, LoneError> {
        let path = self.socket();
        let step = |step| move |source: io::Error| LoneError::Step { step, path: self.socket(), source };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(step("start an event loop to ask"))?;
        let socket = match connect_patiently(&path, ANSWER_MAX) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                return Err(LoneError::NoAnswer(self.last_words()));
            }
            connected => connected.map_err(step("connect to"))?,
        };
        let asking = async {
            let link = Link::new(socket).map_err(step("use"))?;
            tokio::time::timeout(ANSWER_MAX, answer(&link, question, wanted))
                .await
                .unwrap_or(Ok(None))?
                .ok_or_else(|| LoneError::NoAnswer(self.last_words()))
        };
        LocalSet::new().block_on(&runtime, asking)
    }

    /// A store that fails closes its links before it says why.
    fn wait_for_end(&mut self) {
        let until = Instant::now() + LAST_WORDS_MAX;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.home.join("store.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(8).collect();
        lines.into_iter().rev().fold(String::new(), |text, line| text + "\n  " + line)
    }
}

/// None when the store has ended the link.
async fn answer<T>(
    link: &Link,
    question: &ToStore<'_>,
    mut wanted: impl FnMut(FromStore) -> Option<T>,
) -> Result<Option<T>, LoneError> {
    for frame in [&ToStore::Hello(hello(Role::Operator)), question] {
        link.push(frame).expect("a question is smaller than a datagram");
    }
    let mut buffer = vec![0; DATAGRAM_OCTETS_MAX];
    while let Ok(received) = link.receive(&mut buffer).await {
        let mut frames = Frames::open(&buffer[..received.octets])?;
        while let Some(frame) = frames.next_frame::<FromStore>()? {
            if let Some(answer) = wanted(frame) {
                return Ok(Some(answer));
            }
        }
    }
    Ok(None)
}

/// What this process says that it is.
pub(super) fn hello(role: Role) -> Hello {
    Hello {
        version: PROTOCOL_VERSION,
        role,
        pid: std::process::id(),
        process: 0,
        channel: String::new(),
        capacity: 0,
    }
}

impl Drop for LoneStore {
    fn drop(&mut self) {
        // It may have ended by itself; its lock is free when it was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
