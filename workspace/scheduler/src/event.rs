//! What the scheduler is told and what it answers: two closed enums.
//!
//! They are also what a journal holds: the order of variants and fields is part of JOURNAL.md.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sternpost_message::{ErrorScope, MlistId, Precedence, RecipientRange, UnixMillis};

use crate::Limits;

/// A channel process. Numbers are given by the scheduler ([`Action::StartProcess`]) and never twice; a process that
/// QMGR meets with a number of its own (one that outlived the last QMGR) keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProcessId(pub u64);

/// An Mlist as it comes from the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MlistSpec {
    /// Its name.
    pub id: MlistId,
    /// The channel that processes it.
    pub channel: String,
    /// The peer MTA that it goes to.
    pub peer: String,
    /// Its rank.
    pub precedence: Precedence,
    /// The recipients that still need an attempt; an Mlist without any is ignored.
    pub recipients: Vec<RecipientRange>,
    /// When the switch accepted the message.
    pub accepted_at: UnixMillis,
    /// From when on no further attempt is made.
    pub expires_at: UnixMillis,
    /// When the sender is to be told of the delay; `None` when that is done or not wanted.
    pub delay_report_at: Option<UnixMillis>,
    /// Attempts that failed so far.
    pub attempts: u16,
    /// No attempt before this.
    pub not_before: UnixMillis,
    /// The process that works on it already, when it survived a restart of QMGR.
    pub held_by: Option<ProcessId>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// These limits hold from now on. What is in progress stays so; Mlists of channels or peers that vanish wait.
    Configure(Limits),
    /// A new Mlist; if the id is known, its recipients are added to the Mlist that exists.
    Queue(MlistSpec),
    /// The snapshot of the log is complete. Before this nothing is assigned, started, stopped or expired.
    Go,
    /// The supervisor started a process: it counts against the limits.
    ProcessStarted {
        /// Which.
        process: ProcessId,
        /// The channel that it serves.
        channel: String,
    },
    /// A process has shaken hands and takes Mlists.
    ProcessAttached {
        /// Which.
        process: ProcessId,
        /// The channel that it serves.
        channel: String,
        /// Mlists that it works on at a time.
        capacity: u32,
    },
    /// A process has exited. What it holds stays in progress until [`Event::Returned`].
    ProcessGone {
        /// Which.
        process: ProcessId,
    },
    /// Everything that the process reported is durable and known: what it still holds waits again, and no attempt
    /// is counted for it.
    Returned {
        /// Which.
        process: ProcessId,
    },
    /// A process could not be started, or did not shake hands.
    StartFailed {
        /// Which.
        process: ProcessId,
    },
    /// A process that was asked to stop has moved enough since the last such word: its time to finish begins anew.
    Progress {
        /// Which.
        process: ProcessId,
    },
    /// The process is done with the Mlist and its slot is free. The durable outcome follows, or came before.
    Finished {
        /// Which process.
        process: ProcessId,
        /// Which Mlist.
        mlist: MlistId,
    },
    /// The process gave the Mlist back untouched: it waits again, and no attempt is counted.
    Unassigned {
        /// Which process.
        process: ProcessId,
        /// Which Mlist.
        mlist: MlistId,
    },
    /// Durable: these recipients need no further attempt.
    Settled {
        /// Which Mlist.
        mlist: MlistId,
        /// Which recipients of it.
        recipients: Vec<RecipientRange>,
        /// Whether the peer took the message; that ends the peer's delay.
        worked: bool,
    },
    /// Durable: the attempt failed for now.
    Deferred {
        /// Which Mlist.
        mlist: MlistId,
        /// Which recipients of it.
        recipients: Vec<RecipientRange>,
        /// Whom the error delays: the Mlist alone, or the peer (and not the Mlist beyond it).
        scope: ErrorScope,
    },
    /// A channel's immediate word: the peer does not answer, or has ended an association. Attempts that began before
    /// the peer's present delay and fail later do not prolong it.
    PeerFailed {
        /// The channel.
        channel: String,
        /// The peer.
        peer: String,
        /// The Mlists whose attempts have ended by it. What becomes durable of these attempts says no more about the peer.
        mlists: Vec<MlistId>,
        /// Associations that the peer holds all the same, of all processes, and those that it has not answered yet: it works, and
        /// refuses one too many. 0 when it holds none.
        holding: u32,
        /// The association had carried a message before: the peer has ended it, and says nothing about the next one.
        has_carried: bool,
    },
    /// A channel's immediate word: the peer answers.
    PeerWorked {
        /// The channel.
        channel: String,
        /// The peer.
        peer: String,
    },
    /// The Mlist was discarded. A process that works on it keeps its slot until it says so.
    Remove {
        /// Which Mlist.
        mlist: MlistId,
    },
    /// The time that [`crate::Scheduler::wake_at`] gave has come.
    Wake,
}

/// Something to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Start a process. It counts against the limits from now until `StartFailed` or `ProcessGone`.
    StartProcess {
        /// Its new number.
        process: ProcessId,
        /// The channel that it is to serve.
        channel: String,
        /// The level that needs it.
        precedence: Precedence,
        /// How many Mlists of that level and above found no slot.
        waiting: u64,
    },
    /// Give the Mlist to the process.
    Assign {
        /// Which process.
        process: ProcessId,
        /// Which Mlist.
        mlist: MlistId,
        /// The channel's name.
        channel: Arc<str>,
        /// The peer's name.
        peer: Arc<str>,
        /// The recipients that need an attempt.
        recipients: Vec<RecipientRange>,
        /// Attempts that failed before this one.
        attempts: u16,
    },
    /// Ask the process to finish what it has and exit.
    StopProcess {
        /// Which.
        process: ProcessId,
        /// Why.
        reason: StopReason,
    },
    /// Kill the process: it was asked to stop and has not ended. It counts until `ProcessGone`; said again after
    /// `drain_timeout_ms`.
    KillProcess {
        /// Which.
        process: ProcessId,
        /// Why.
        reason: KillReason,
    },
    /// The Mlist is not in progress and past its time. It is gone from the tree; a failure report is owed.
    Expired {
        /// Which Mlist.
        mlist: MlistId,
        /// The recipients that were still waiting.
        recipients: Vec<RecipientRange>,
    },
    /// The sender is to be told that the Mlist is late. Once for each Mlist.
    DelayReportDue {
        /// Which Mlist.
        mlist: MlistId,
        /// The recipients that are still waiting.
        recipients: Vec<RecipientRange>,
    },
}

/// Why a process is asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum StopReason {
    /// It had nothing to do for the channel's `idle_stop_ms`.
    Idle,
    /// It has nothing to do, and another channel needs its place under `qmgr_maxchans`.
    MakeRoom,
    /// Another channel has the better right to its place under `qmgr_maxchans`: it finishes what it has, and takes
    /// nothing new.
    Balance,
    /// A limit was lowered.
    OverLimit,
    /// Its channel is no longer configured.
    NotConfigured,
}

/// Why a process that was asked to stop is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum KillReason {
    /// It has neither finished an Mlist nor made other progress for `drain_timeout_ms`.
    NoProgress,
    /// It was asked `drain_time_max_ms` ago.
    TimeIsOver,
}

impl fmt::Display for KillReason {
    /// Half a sentence for the operator.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoProgress => {
                "it has finished no message, and its peers took less than 64 KiB, for drain_timeout_s"
            }
            Self::TimeIsOver => {
                "it was asked to stop drain_time_max_s ago; raise that if its line is so slow"
            }
        })
    }
}

impl fmt::Display for StopReason {
    /// Half a sentence for the operator.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "it had nothing to do for its channel's idle_stop_s",
            Self::MakeRoom => "it has nothing to do, and another channel needs its place under qmgr_maxchans",
            Self::Balance => "another channel has the better right to its place under qmgr_maxchans",
            Self::OverLimit => "a limit was lowered",
            Self::NotConfigured => "its channel is no longer configured",
        })
    }
}
