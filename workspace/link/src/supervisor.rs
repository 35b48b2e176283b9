//! Frames between the supervisor and QMGR (or an operator).

use crate::{ChannelKind, Hello, Role};
use serde::{Deserialize, Serialize};

/// A process that the supervisor has started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Its role.
    pub role: Role,
    /// For a channel its name, else the role's name.
    pub name: String,
    /// For a channel the scheduler's number, else 0.
    pub process: u64,
    /// The operating system's number.
    pub pid: u32,
    /// How often the role was started.
    pub starts_count: u32,
}

/// A role that is always there and has ended by itself soon after its start, perhaps again and again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failing {
    /// Its role.
    pub role: Role,
    /// How often in a row, from 1 on; 0 when it has lived long the last time, and ends too often all the same.
    pub ends_count: u32,
    /// How often in the last hour.
    pub ends_in_hour: u32,
    /// In how many milliseconds it is started again, while it is not there.
    pub next_start_ms: Option<u64>,
    /// How it has ended the last time, and the first KiB of what it has said of that itself, without control characters.
    pub why: String,
}

/// A listening socket of the `smtp-server`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListeningSocket {
    /// The listener's name in the configuration.
    pub listener: String,
    /// Where it should listen, as configured.
    pub configured: std::net::SocketAddr,
    /// Where it listens: another port than configured when that was 0.
    pub bound: std::net::SocketAddr,
}

/// A listening socket that is wanted and is not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedListener {
    /// The listener's name in the configuration.
    pub listener: String,
    /// Where it should listen, as configured.
    pub configured: std::net::SocketAddr,
    /// Why it does not.
    pub why: String,
}

/// Frames to the supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToSupervisor {
    /// First. The answer is [`FromSupervisor::Running`].
    Hello(Hello),
    /// Start a channel process.
    StartChannel {
        /// The scheduler's number for it.
        process: u64,
        /// The channel's name.
        channel: String,
        /// What it does; with that, as which user and behind which filter it runs.
        kind: ChannelKind,
        /// How many Mlists it may take at a time.
        capacity: u32,
    },
    /// Kill a channel process.
    KillChannel {
        /// The scheduler's number.
        process: u64,
    },
    /// Open these listening sockets, close all others, and keep an `smtp-server` running on them.
    Listen {
        /// Listener and address.
        listeners: Vec<(String, std::net::SocketAddr)>,
    },
    /// An operator asks what runs.
    Status,
}

impl ToSupervisor {
    /// Whether this is a role's business. A Hello is for who may say it, and once.
    #[must_use]
    pub const fn is_business_of(&self, role: Role) -> bool {
        match self {
            Self::Hello(_) => false,
            Self::Status => matches!(role, Role::Qmgr | Role::Operator),
            Self::StartChannel { .. } | Self::KillChannel { .. } | Self::Listen { .. } => {
                matches!(role, Role::Qmgr)
            }
        }
    }
}

/// Frames from the supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromSupervisor {
    /// What runs now.
    Running {
        /// The version of the executable that the supervisor is.
        version: String,
        /// The processes.
        processes: Vec<Running>,
        /// The listening sockets.
        listening: Vec<ListeningSocket>,
        /// Those that could not be opened.
        failed: Vec<FailedListener>,
        /// The roles that do not stay.
        failing: Vec<Failing>,
    },
    /// A channel process runs.
    Started {
        /// The scheduler's number.
        process: u64,
        /// The operating system's number.
        pid: u32,
    },
    /// A channel process could not be started.
    StartFailed {
        /// The scheduler's number.
        process: u64,
        /// Why.
        why: String,
    },
    /// A channel process has ended.
    Exited {
        /// The scheduler's number.
        process: u64,
        /// The operating system's number.
        pid: u32,
        /// How, in words.
        status: String,
    },
    /// Sockets that could not be opened.
    ListenFailed {
        /// The listener's name.
        listener: String,
        /// Why.
        why: String,
    },
}
