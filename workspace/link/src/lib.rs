//! The links between the processes of the switch: frames, datagrams, and the machines at both ends.
//!
//! PROTOCOL.md describes the bytes. A link is a `SOCK_SEQPACKET` socket; a datagram carries up to 64 KiB of frames,
//! because one system call for sixty-four frames moves ten times as many as one for each.
//! Not here: sockets and file descriptors (`platform`), what a frame makes a process do (the roles).
#![forbid(unsafe_code)]

mod appender;
mod datagram;
pub mod fuzz;
pub mod qmgr;
pub mod signer;
pub mod store;
pub mod supervisor;

pub use appender::{Appended, Appender};
pub use datagram::{
    DATAGRAM_OCTETS_MAX, DatagramError, FRAME_OCTETS_MAX, FrameError, Frames, Outbox, read_frame,
};

use serde::{Deserialize, Serialize};

/// The version of the protocol that this build speaks. A peer that says another one is refused: all processes come
/// from one executable, and after an update the supervisor replaces them all.
pub const PROTOCOL_VERSION: u16 = 7;

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Role {
    /// The small parent of all.
    Supervisor,
    /// The one writer of the log.
    Store,
    /// The queue manager.
    Qmgr,
    /// The client of the configuration directory.
    Directory,
    /// The SMTP server.
    SmtpServer,
    /// A channel process that transfers: `smtp`, `lmtp`.
    Channel,
    /// The channel process that makes reports.
    Housekeeper,
    /// The holder of the private keys.
    Signer,
    /// A command at a terminal.
    Operator,
}

impl Role {
    /// The role's name as `ps`, the journal and `status` show it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Supervisor => "supervisor",
            Self::Store => "store",
            Self::Qmgr => "qmgr",
            Self::Directory => "directory",
            Self::SmtpServer => "smtp-server",
            Self::Channel => "channel",
            Self::Housekeeper => "housekeeper",
            Self::Signer => "signer",
            Self::Operator => "operator",
        }
    }

    /// Whether it is a process that QMGR starts and gives Mlists to.
    #[must_use]
    pub const fn is_channel(self) -> bool {
        matches!(self, Self::Channel | Self::Housekeeper)
    }
}

/// What a channel process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ChannelKind {
    /// Transfers by SMTP.
    Smtp,
    /// Delivers by LMTP.
    Lmtp,
    /// Makes reports.
    Housekeeper,
}

impl ChannelKind {
    /// Its name, which is that of its row in `image/roles.toml` too.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Smtp => "smtp",
            Self::Lmtp => "lmtp",
            Self::Housekeeper => "housekeeper",
        }
    }

    /// What a process of this kind says that it is.
    #[must_use]
    pub const fn role(self) -> Role {
        match self {
            Self::Smtp | Self::Lmtp => Role::Channel,
            Self::Housekeeper => Role::Housekeeper,
        }
    }
}

/// The first frame on every link, in both directions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`] of the sender.
    pub version: u16,
    /// What the sender is.
    pub role: Role,
    /// Its operating system process id. The receiver puts the kernel's word in its place.
    pub pid: u32,
    /// For a channel process: the number that the scheduler gave it; else 0.
    pub process: u64,
    /// For a channel process: the name of its channel; else empty.
    pub channel: String,
    /// For a channel process: how many Mlists it takes at a time; else 0.
    pub capacity: u32,
}
