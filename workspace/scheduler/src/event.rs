//! What the scheduler is told and what it answers: two closed enums and the limits that an operator sets.

use std::sync::Arc;

use sternpost_message::{ErrorScope, MlistId, Precedence, RecipientRange, UnixMillis};

/// A channel process. Numbers are given by the scheduler ([`Action::StartProcess`]) and never twice; a process that
/// QMGR meets with a number of its own (one that outlived the last QMGR) keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId(pub u64);

/// The operator's limits. Any value is safe; those outside the bounds only serve badly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Channel processes in total, those that start or drain included. 1 … 1,000; default 20.
    pub qmgr_maxchans: u32,
    /// Processes of `qmgr_maxchans` that only urgent mail may start. 0 … `qmgr_maxchans`; default 2.
    pub qmgr_reserve_urgent: u32,
    /// Processes of `qmgr_maxchans` that only normal and urgent mail may start. 0 … `qmgr_maxchans`; default 2.
    pub qmgr_reserve_normal: u32,
    /// Back-off: the time added with each failed attempt, milliseconds. 1,000 … 86,400,000; default 300,000.
    pub retry_step_ms: u64,
    /// Back-off: the longest time between two attempts, milliseconds. `retry_step_ms` … 604,800,000;
    /// default 3,600,000.
    pub retry_max_ms: u64,
    /// The channels that are configured. Mail for any other waits.
    pub channels: Vec<ChannelLimits>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            qmgr_maxchans: 20,
            qmgr_reserve_urgent: 2,
            qmgr_reserve_normal: 2,
            retry_step_ms: 300_000,
            retry_max_ms: 3_600_000,
            channels: Vec::new(),
        }
    }
}

/// The limits of one channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelLimits {
    /// The channel's name.
    pub name: String,
    /// Processes of this channel at a time. 1 … `qmgr_maxchans`; default 2.
    pub processes_max: u32,
    /// Mlists that one process is expected to work on at a time; its handshake says how many it does.
    /// 1 … 1,000; default 50.
    pub slots_per_process: u32,
    /// Slots kept free for urgent mail, of the `processes_max` × `slots_per_process` that the channel has when all
    /// its processes run. 0 … that product; default 5. While fewer slots are there the reserve shrinks in
    /// proportion (rounded up), and never takes the last slot: a channel of capacity 1 still serves everybody, and
    /// urgent mail gets its own process there, from `qmgr_reserve_urgent`.
    pub slots_reserve_urgent: u32,
    /// Slots kept free for normal and urgent mail, counted like `slots_reserve_urgent`. Default 5.
    pub slots_reserve_normal: u32,
    /// Mlists in progress for one peer MTA at a time. 1 … 1,000; default 20.
    pub peer_slots_max: u32,
    /// A process without work for this long is stopped, milliseconds. 1 … 86,400,000; default 60,000.
    pub idle_stop_ms: u64,
    /// The peer MTAs that are configured on the channel. Mail for any other waits.
    pub peers: Vec<PeerLimits>,
}

impl ChannelLimits {
    /// A channel with default limits that reaches these peers.
    #[must_use]
    pub fn new<'a>(name: &str, peers: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            name: name.into(),
            processes_max: 2,
            slots_per_process: 50,
            slots_reserve_urgent: 5,
            slots_reserve_normal: 5,
            peer_slots_max: 20,
            idle_stop_ms: 60_000,
            peers: peers.into_iter().map(|peer| PeerLimits { name: peer.into(), slots_max: None }).collect(),
        }
    }
}

/// The limits of one peer MTA on a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerLimits {
    /// The peer's name.
    pub name: String,
    /// Mlists in progress at a time, instead of the channel's `peer_slots_max`.
    pub slots_max: Option<u32>,
}

/// An Mlist as it comes from the log.
#[derive(Clone, Debug, PartialEq, Eq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// A channel's immediate word: the peer does not answer. Attempts that began before the peer's present delay
    /// and fail later do not prolong it.
    PeerFailed {
        /// The channel.
        channel: String,
        /// The peer.
        peer: String,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start a process. It counts against the limits from now until `StartFailed` or `ProcessGone`.
    StartProcess {
        /// Its new number.
        process: ProcessId,
        /// The channel that it is to serve.
        channel: String,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// It had nothing to do for the channel's `idle_stop_ms`.
    Idle,
    /// It has nothing to do, and another channel needs its place under `qmgr_maxchans`.
    MakeRoom,
    /// A limit was lowered.
    OverLimit,
    /// Its channel is no longer configured.
    NotConfigured,
}
