//! What a supervisor hands to the program that takes its place in the same process: which descriptors are what, and
//! which children run as what. It travels in sealed memory, as JSON, to a program of another version.
//!
//! [`HANDOVER_VERSION`] changes with the meaning of anything here, also with the signals by which children are asked to
//! leave. Not here: whether the program is sound (`successor`).

use super::family::Adopted;
use super::paths::QMGR_STATE;
use crate::bootstrap::{Bootstrap, Queue};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;
use sternpost_link::PROTOCOL_VERSION;
use sternpost_platform::{memory, process};

/// The version of [`Handover`].
pub(crate) const HANDOVER_VERSION: u32 = 2;
/// A thousand channel processes with long names, and as many listeners, fit many times.
const OCTETS_MAX: u64 = 16 << 20;

/// Why a handover cannot be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandoverError {
    /// No descriptor, or no sealed memory behind it.
    #[error("what the supervisor hands over cannot be read")]
    Read(#[source] std::io::Error),
    /// Not what this version writes.
    #[error("what the supervisor hands over is not understood")]
    Parse(#[source] serde_json::Error),
    /// Another version.
    #[error("the supervisor hands over by version {theirs} and not {HANDOVER_VERSION}; restart the switch")]
    Version {
        /// What was handed over.
        theirs: u32,
    },
    /// The bootstrap has changed.
    #[error("{what} of the bootstrap is another one than the switch was started with; restart the switch")]
    Changed {
        /// Which key.
        what: &'static str,
    },
    /// What could be gone back to understands nothing that runs.
    #[error(
        "the executable before speaks version {theirs} of the protocol between processes, and those that run {PROTOCOL_VERSION}"
    )]
    Protocol {
        /// What it speaks.
        theirs: u16,
    },
    /// A descriptor is not there.
    #[error("descriptor {number} was not handed over")]
    Descriptor {
        /// Its number.
        number: RawFd,
        /// Why.
        source: std::io::Error,
    },
}

/// Everything. Numbers are those of descriptors that stay open while the program changes.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Handover {
    pub(super) version: u32,
    pub(super) settings: Settings,
    /// The file of the executable, for the next upgrade.
    pub(super) executable: PathBuf,
    /// The executable that takes over: open, for what runs a script opens it once more.
    pub(super) successor: Option<RawFd>,
    /// The executable before, which can be gone back to.
    pub(super) before: Option<RawFd>,
    /// The version of the protocol between the processes of `before`; none from an executable that did not say it, which then
    /// spoke ours.
    #[serde(default)]
    pub(super) before_link: Option<u16>,
    /// The executable that hands over, where it is on trial itself, so that `before` is another one. To it a successor that cannot
    /// begin gives everything back.
    #[serde(default)]
    pub(super) on_trial: Option<RawFd>,
    /// The bootstrap with which the switch runs.
    #[serde(default)]
    pub(super) bootstrap: Option<PathBuf>,
    /// Upgrades and attempts at them, this one included.
    pub(super) attempts_count: u32,
    /// Why the executable before was gone back to, if this is what happens.
    pub(super) went_back: Option<String>,
    pub(super) lock: RawFd,
    pub(super) store: RawFd,
    pub(super) qmgr: RawFd,
    pub(super) signer: RawFd,
    pub(super) supervisor: RawFd,
    /// Sockets of the service manager.
    pub(super) given: Vec<RawFd>,
    pub(super) listeners: Vec<HandedListener>,
    pub(super) processes: Vec<HandedProcess>,
}

/// What of the bootstrap cannot change while the switch runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Settings {
    run_directory: PathBuf,
    state_of_qmgr: PathBuf,
    queue: serde_json::Value,
    node: String,
    role_users: String,
}

/// A listener that is wanted.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HandedListener {
    pub(super) listener: String,
    pub(super) configured: SocketAddr,
    /// Its socket, where it can be reached, and the one address that it serves of a socket for all; none when it could
    /// not be opened.
    pub(super) open: Option<(RawFd, SocketAddr, Option<IpAddr>)>,
}

/// A child.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HandedProcess {
    #[serde(flatten)]
    pub(super) adopted: Adopted,
    /// The pipe of its last words.
    pub(super) words: Option<RawFd>,
}

impl Settings {
    /// # Errors
    /// When the path of the log is no UTF-8.
    pub(super) fn of(bootstrap: &Bootstrap) -> Result<Self, serde_json::Error> {
        Ok(Self {
            run_directory: bootstrap.run_directory.clone(),
            state_of_qmgr: bootstrap.state_directory.join(QMGR_STATE),
            queue: serde_json::to_value(&bootstrap.queue)?,
            node: bootstrap.node.clone(),
            role_users: bootstrap.role_users.name().to_owned(),
        })
    }

    /// # Errors
    /// `Changed`, with the first key that differs.
    fn compare(&self, now: &Self) -> Result<(), HandoverError> {
        let parts = [
            ("run_directory", self.run_directory == now.run_directory),
            ("state_directory", self.state_of_qmgr == now.state_of_qmgr),
            ("[queue]", queue_of(&self.queue).is_some_and(|queue| Some(queue) == queue_of(&now.queue))),
            ("node", self.node == now.node),
            ("role_users", self.role_users == now.role_users),
        ];
        match parts.into_iter().find(|(_, is_same)| !is_same) {
            Some((what, _)) => Err(HandoverError::Changed { what }),
            None => Ok(()),
        }
    }
}

/// What another version has said of the log: a key of which nobody says anything may be absent as well as null. None when
/// it says something that this version does not know.
fn queue_of(said: &serde_json::Value) -> Option<Queue> {
    let said = said.as_object()?.iter().filter(|(_, value)| !value.is_null());
    let said: serde_json::Map<_, _> = said.map(|(key, value)| (key.clone(), value.clone())).collect();
    let queue: Queue = serde_json::from_value(said.clone().into()).ok()?;
    let known = serde_json::to_value(&queue).ok()?;
    said.keys().all(|key| known.get(key).is_some()).then_some(queue)
}

impl Handover {
    /// # Errors
    /// Those of memory that can be sealed.
    pub(super) fn seal(&self) -> std::io::Result<OwnedFd> {
        memory::seal(&serde_json::to_vec(self)?)
    }

    /// Takes what was handed over by this number, for a switch of this bootstrap.
    ///
    /// # Errors
    /// `HandoverError`.
    pub(super) fn take(number: RawFd, bootstrap: &Bootstrap) -> Result<Self, HandoverError> {
        let handover = Self::read(process::inherited(number).map_err(HandoverError::Read)?)?;
        let now = Settings::of(bootstrap).map_err(HandoverError::Parse)?;
        handover.settings.compare(&now)?;
        Ok(handover)
    }

    /// What stands in the memory.
    ///
    /// # Errors
    /// `Read`, `Parse`, `Version`.
    pub(super) fn read(memory: OwnedFd) -> Result<Self, HandoverError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let octets = memory::unseal(memory, OCTETS_MAX).map_err(HandoverError::Read)?;
        let Versioned { version } = serde_json::from_slice(&octets).map_err(HandoverError::Parse)?;
        if version != HANDOVER_VERSION {
            return Err(HandoverError::Version { theirs: version });
        }
        serde_json::from_slice(&octets).map_err(HandoverError::Parse)
    }

    /// The number of each descriptor of the switch's own, and of the executable before; one that serves several listeners comes
    /// several times. Not those of the other executables.
    pub(super) fn numbers(&mut self) -> impl Iterator<Item = &mut RawFd> {
        let own = [&mut self.lock, &mut self.store, &mut self.qmgr, &mut self.signer, &mut self.supervisor];
        let listeners = self.listeners.iter_mut().filter_map(|listener| Some(&mut listener.open.as_mut()?.0));
        let words = self.processes.iter_mut().filter_map(|process| process.words.as_mut());
        own.into_iter().chain(&mut self.before).chain(&mut self.given).chain(listeners).chain(words)
    }
}

/// A descriptor that was handed over, once.
///
/// # Errors
/// `Descriptor`.
pub(super) fn descriptor(number: RawFd) -> Result<OwnedFd, HandoverError> {
    process::inherited(number).map_err(|source| HandoverError::Descriptor { number, source })
}

/// Descriptors that the program in this one's place is to have, as long as this lives.
#[derive(Debug)]
pub(super) struct Given<'a>(Vec<BorrowedFd<'a>>);

impl<'a> Given<'a> {
    /// # Errors
    /// Those of `fcntl`.
    pub(super) fn to_children(descriptors: Vec<BorrowedFd<'a>>) -> std::io::Result<Self> {
        let given = Self(descriptors);
        given.0.iter().try_for_each(|descriptor| process::give_to_children(*descriptor).map(drop))?;
        Ok(given)
    }
}

impl Drop for Given<'_> {
    fn drop(&mut self) {
        for descriptor in &self.0 {
            if let Err(error) = process::keep_from_children(*descriptor) {
                tracing::error!(%error, "a descriptor stays open for children");
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::family::{ChannelOrder, Start};
    use super::*;
    use std::os::fd::IntoRawFd;
    use sternpost_link::{ChannelKind, Role};

    pub(in super::super) fn bootstrap(folder: &std::path::Path, queue: &str) -> Bootstrap {
        let path = folder.join("boot.toml");
        let text = format!(
            "run_directory = \"r\"\nstate_directory = \"s\"\nnode = \"n\"\n[queue]\npath = \"{queue}\"\n[tables]\npath = \"t\"\n"
        );
        std::fs::write(&path, text).unwrap();
        Bootstrap::read(&path).unwrap()
    }

    pub(in super::super) fn handover(bootstrap: &Bootstrap) -> Handover {
        let order = ChannelOrder { process: 4, channel: "out".into(), kind: ChannelKind::Lmtp, capacity: 9 };
        let adopted = |start, pid| Adopted { start, pid, starts_count: 2, leaves_within_ms: None };
        Handover {
            version: HANDOVER_VERSION,
            settings: Settings::of(bootstrap).unwrap(),
            executable: "/usr/bin/sternpost".into(),
            successor: None,
            before: Some(20),
            before_link: None,
            on_trial: None,
            bootstrap: None,
            attempts_count: 1,
            went_back: None,
            lock: 3,
            store: 4,
            qmgr: 5,
            signer: 11,
            supervisor: 6,
            given: vec![7],
            listeners: vec![HandedListener {
                listener: "in".into(),
                configured: "127.0.0.1:0".parse().unwrap(),
                open: Some((7, "127.0.0.1:25".parse().unwrap(), None)),
            }],
            processes: vec![
                HandedProcess { adopted: adopted(Start::Kept(Role::Store), 9), words: Some(8) },
                HandedProcess { adopted: adopted(Start::Channel(order), 10), words: None },
            ],
        }
    }

    #[test]
    fn what_is_handed_over_is_taken_by_a_switch_of_the_same_bootstrap_alone() {
        let folder = tempfile::tempdir().unwrap();
        let own = bootstrap(folder.path(), "log");
        let first = handover(&own);
        let taken = Handover::take(first.seal().unwrap().into_raw_fd(), &own).unwrap();
        assert_eq!((&taken.listeners, &taken.processes), (&first.listeners, &first.processes));
        assert_eq!((taken.lock, taken.before, &taken.executable), (3, Some(20), &first.executable));
        let other = bootstrap(folder.path(), "another");
        let error = Handover::take(first.seal().unwrap().into_raw_fd(), &other).unwrap_err();
        assert!(error.to_string().starts_with("[queue] of the bootstrap is another one"), "{error}");
    }

    #[test]
    fn the_log_of_another_version_is_compared_by_what_is_said_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let own = bootstrap(folder.path(), "log");
        let taken = |change: &dyn Fn(&mut serde_json::Map<String, serde_json::Value>)| {
            let mut first = handover(&own);
            change(first.settings.queue.as_object_mut().unwrap());
            Handover::take(first.seal().unwrap().into_raw_fd(), &own)
        };
        taken(&|queue| drop(queue.remove("segments"))).unwrap();
        taken(&|queue| drop(queue.remove("backend"))).unwrap();
        taken(&|queue| drop(queue.insert("of_tomorrow".into(), serde_json::Value::Null))).unwrap();
        for key in ["of_tomorrow", "segments"] {
            let error = taken(&|queue| drop(queue.insert(key.into(), 7.into()))).unwrap_err();
            assert!(error.to_string().starts_with("[queue] of the bootstrap"), "{key}: {error}");
        }
        assert!(taken(&|queue| drop(queue.remove("path"))).is_err());
    }

    #[test]
    fn another_version_is_refused_before_anything_else_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let memory = memory::seal(b"{\"version\": 9, \"more\": true}").unwrap();
        let error = Handover::take(memory.into_raw_fd(), &bootstrap(folder.path(), "log")).unwrap_err();
        assert!(error.to_string().contains("by version 9 and not 2; restart"), "{error}");
    }
}
