//! Frames between QMGR and the roles that it leads: channels, `smtp-server`, `directory`, operators.

use crate::{Hello, Role};
use serde::{Deserialize, Serialize};
use sternpost_message::{MessageId, MlistId, RecipientRange};

/// Frames to QMGR.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToQmgr {
    /// First.
    Hello(Hello),
    /// A channel that attaches says which Mlists it holds; may come several times before [`Self::Attached`].
    Held {
        /// The Mlists, each with the recipients that were assigned.
        mlists: Vec<(MlistId, Vec<RecipientRange>)>,
    },
    /// A channel has said all that it holds and takes assignments.
    Attached,
    /// A channel has done with an Mlist: its slot is free; the durable outcome comes from the store.
    Finished {
        /// The Mlist.
        mlist: MlistId,
    },
    /// A channel gives an Mlist back untouched.
    Unassigned {
        /// The Mlist.
        mlist: MlistId,
        /// Why.
        why: String,
    },
    /// A peer did not answer, refused the session or broke it.
    PeerFailed {
        /// The peer's name.
        peer: String,
        /// What happened.
        why: String,
        /// The Mlists whose attempts have ended by it; two at most.
        mlists: Vec<MlistId>,
        /// Associations of this process that the peer has neither let in nor refused yet.
        opening: u32,
        /// The association had carried a message before.
        has_carried: bool,
    },
    /// So many associations of this process a peer holds now: it has let them in, and neither side has ended them. Said whenever
    /// that changes, before a [`Self::PeerFailed`] for which it counts, and anew behind [`Self::Attached`].
    PeerHolds {
        /// The peer's name.
        peer: String,
        /// How many.
        associations: u32,
    },
    /// A peer took a message.
    PeerWorked {
        /// The peer's name.
        peer: String,
    },
    /// The directory role hands over a complete set of entries, encoded in the attached sealed memory.
    Entries {
        /// How many entries it has.
        entries_count: u32,
    },
    /// The directory role says how it stands with the directory.
    DirectoryStatus {
        /// Whether the set is being watched now.
        connected: bool,
        /// In words.
        text: String,
    },
    /// A channel takes no more, of its own accord: it was told to end.
    Draining,
    /// The answer to [`FromQmgr::Recount`], behind the [`Self::Held`] that belong to it.
    Counted {
        /// Its token.
        token: u64,
    },
    /// The answer to [`FromQmgr::Ping`].
    Pong {
        /// Its token.
        token: u64,
        /// Octets that a channel process has sent to peers since its start.
        sent_octets: u64,
    },
    /// An operator asks.
    Ask(Question),
    /// `smtp-server` says how it stands with connections.
    Connections {
        /// Each listener in force.
        listeners: Vec<ListenerConnections>,
    },
}

/// The connections of one listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerConnections {
    /// The listener's name.
    pub listener: String,
    /// Open ones of clients that may ask for flash or override.
    pub urgent: u32,
    /// Open ones of clients that may ask for priority or immediate.
    pub normal: u32,
    /// Open ones of all other clients.
    pub non_urgent: u32,
    /// How many there may be.
    pub max: u32,
    /// How many there may be when one of the second kind is let in.
    pub max_for_normal: u32,
    /// How many there may be when one of the third kind is let in.
    pub max_for_non_urgent: u32,
    /// Refused since the process began.
    pub refused: u64,
}

impl ToQmgr {
    /// Whether this is a role's business. A Hello is for who may say it, and once.
    #[must_use]
    pub const fn is_business_of(&self, role: Role) -> bool {
        match self {
            Self::Hello(_) => false,
            Self::Held { .. }
            | Self::Attached
            | Self::Finished { .. }
            | Self::Unassigned { .. }
            | Self::PeerFailed { .. }
            | Self::PeerHolds { .. }
            | Self::PeerWorked { .. }
            | Self::Draining
            | Self::Counted { .. } => role.is_channel(),
            Self::Pong { .. } => role.is_channel() || matches!(role, Role::SmtpServer),
            Self::Connections { .. } => matches!(role, Role::SmtpServer),
            Self::Entries { .. } | Self::DirectoryStatus { .. } => matches!(role, Role::Directory),
            Self::Ask(_) => matches!(role, Role::Operator),
        }
    }
}

/// What an operator may ask. The answer is JSON in sealed memory, attached to [`FromQmgr::Answer`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// The tree, the processes, the configuration's state.
    Status,
    /// The configuration in force.
    Configuration,
    /// Why the Mlists of a message wait.
    Why {
        /// The message.
        message: MessageId,
    },
    /// Puts a held change of the directory into force.
    ConfirmConfiguration,
}

/// Frames from QMGR.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromQmgr {
    /// First.
    Welcome(Hello),
    /// The role's view of the configuration, encoded in the attached sealed memory.
    View {
        /// The generation, from 1.
        generation: u64,
    },
    /// Process this Mlist.
    Assign(Assignment),
    /// Finish what you hold, take nothing more, then exit.
    Drain,
    /// Say once more which Mlists you hold: a tree was built anew, and outcomes that became durable meanwhile are in it
    /// without having been told.
    Recount {
        /// Comes back.
        token: u64,
    },
    /// Say that you live.
    Ping {
        /// Comes back.
        token: u64,
    },
    /// The answer to an operator, in the attached sealed memory.
    Answer,
    /// The question could not be answered.
    NoAnswer {
        /// Why.
        why: String,
    },
}

/// An Mlist for a channel process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The Mlist.
    pub mlist: MlistId,
    /// Its peer MTA's name.
    pub peer: String,
    /// The recipients to attempt.
    pub recipients: Vec<RecipientRange>,
    /// Attempts before this one.
    pub attempts: u16,
}
