//! What an operator can ask: how much waits, where, and why.

use std::fmt;
use std::sync::Arc;

use sternpost_message::{CivilPriority, MlistId, Precedence, RecipientRange, UnixMillis};

use crate::peer::PeerIndex;
use crate::process::{Channel, ChannelIndex, limit};
use crate::tree::Place;
use crate::{ProcessId, Scheduler};

/// Sums that are kept up to date: asking costs nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Mlists that no process has.
    pub waiting: usize,
    /// Of those, the ones that wait for nothing but a slot or a process: no delay, and a peer that is configured and
    /// has none either. The intake follows this.
    pub runnable: usize,
    /// Of those, the ones that their peer's own limit lets go.
    pub assignable: usize,
    /// Mlists that a process works on.
    pub in_progress: usize,
    /// Mlists that a process is done with and whose durable outcome is still to come.
    pub awaiting_outcome: usize,
}

/// Why an Mlist is not further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// What it waits for.
    pub reason: Reason,
    /// Until when, if that is known.
    pub until: Option<UnixMillis>,
}

/// What an Mlist waits for. The first that applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It does not wait: the process works on it.
    InProgress(ProcessId),
    /// The process is done with it; the outcome is being made durable.
    AwaitingOutcome(ProcessId),
    /// The snapshot of the log is not complete yet.
    Snapshot,
    /// Its channel is not configured.
    ChannelNotConfigured,
    /// Its peer is not configured on the channel.
    PeerNotConfigured,
    /// Its own back-off.
    MessageDelay,
    /// Its peer's back-off.
    PeerDelay,
    /// The peer has as many Mlists in progress as it may have.
    PeerSlots,
    /// A higher precedence, a peer with fewer in progress or an older message is before it, or a slot is reserved
    /// for a higher level; no process can be added.
    Slots,
    /// A process that is being started.
    ProcessStart,
    /// Processes of the channel failed; the next start is held off.
    StartHoldOff,
    /// The channel has its `processes_max`, all slots that this level may use are taken.
    ChannelProcesses,
    /// `qmgr_maxchans`, less the reserves that this level may not use, is reached.
    Maxchans,
}

impl fmt::Display for Reason {
    /// A sentence for the operator.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InProgress(process) => write!(f, "in progress in process {}", process.0),
            Self::AwaitingOutcome(process) => {
                write!(f, "done in process {}, the outcome is being recorded", process.0)
            }
            Self::Snapshot => f.write_str("the queue is still being read"),
            Self::ChannelNotConfigured => f.write_str(
                "the channel is not configured: configure one of this name (sternpost config show lists those in force)",
            ),
            Self::PeerNotConfigured => f.write_str(
                "the peer MTA is not configured on the channel: configure one of this name there (sternpost config show lists those in \
                 force)",
            ),
            Self::MessageDelay => f.write_str("an attempt failed for this message; it is tried again later"),
            Self::PeerDelay => f.write_str("the peer MTA failed; it is tried again later"),
            Self::PeerSlots => f.write_str("the peer MTA has as many messages in progress as it may have"),
            Self::Slots => f.write_str("its turn has not come: others are before it for the channel's slots"),
            Self::ProcessStart => f.write_str("a process for the channel is being started"),
            Self::StartHoldOff => {
                f.write_str("processes of the channel failed; the next one is started later")
            }
            Self::ChannelProcesses => f.write_str(
                "the channel has as many processes as it may have, and no slot free for this precedence",
            ),
            Self::Maxchans => {
                f.write_str("qmgr_maxchans, less the reserves for higher precedence, is reached")
            }
        }
    }
}

/// The whole tree without its leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Whether the snapshot is complete.
    pub is_going: bool,
    /// The sums.
    pub counts: Counts,
    /// Processes that exist.
    pub processes: u32,
    /// `qmgr_maxchans`.
    pub processes_max: u32,
    /// The channels, in the order in which they were first named.
    pub channels: Vec<ChannelStatus>,
}

/// A channel and its peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelStatus {
    /// Its name.
    pub name: Arc<str>,
    /// Whether it is configured.
    pub is_configured: bool,
    /// Mlists that no process has.
    pub waiting: usize,
    /// Of those, the ones that wait for a slot or a process only.
    pub runnable: usize,
    /// Mlists that a process works on.
    pub in_progress: usize,
    /// Slots of the attached processes.
    pub slots: u32,
    /// How many of them are in use.
    pub slots_used: u32,
    /// How many of them non-urgent mail may fill.
    pub slots_for_non_urgent: u32,
    /// How many of them normal mail may fill.
    pub slots_for_normal: u32,
    /// Processes that exist.
    pub processes: u32,
    /// Of those, the ones that have not attached.
    pub processes_starting: u32,
    /// Of those, the ones that were asked to stop.
    pub processes_draining: u32,
    /// Processes that failed in a row.
    pub failures: u32,
    /// No process is started before this.
    pub start_held_off_until: Option<UnixMillis>,
    /// Its peers, in the order in which they were first named.
    pub peers: Vec<PeerStatus>,
}

/// A peer MTA on a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its name.
    pub name: Arc<str>,
    /// Whether it is configured.
    pub is_configured: bool,
    /// Mlists that no process has.
    pub waiting: usize,
    /// Of those, the ones that wait for their own back-off.
    pub delayed: usize,
    /// Mlists that a process works on.
    pub in_progress: u32,
    /// Mlists in progress at a time; 0 when it is not configured.
    pub slots_max: u32,
    /// Failures in a row.
    pub errors: u32,
    /// Its delay ends then.
    pub delayed_until: Option<UnixMillis>,
    /// When the oldest Mlist that has no delay of its own was accepted.
    pub oldest_accepted_at: Option<UnixMillis>,
}

/// An Mlist of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MlistStatus {
    /// Its name.
    pub id: MlistId,
    /// Its channel.
    pub channel: Arc<str>,
    /// Its peer MTA.
    pub peer: Arc<str>,
    /// How it is ranked.
    pub precedence: Precedence,
    /// Who still needs an attempt, those under way included.
    pub pending: Vec<RecipientRange>,
    /// Attempts that failed so far.
    pub attempts: u16,
    /// The process that has it, or whose outcome it waits for.
    pub holder: Option<ProcessId>,
}

impl Scheduler {
    /// Every Mlist, in no order. O(Mlists).
    pub fn mlists(&self) -> impl Iterator<Item = MlistStatus> + '_ {
        self.mlists.iter().map(|mlist| {
            let peer = &self.peers[mlist.peer.0 as usize];
            let is_held = matches!(mlist.place, Place::InProgress | Place::AwaitingOutcome);
            MlistStatus {
                id: mlist.id,
                channel: Arc::clone(&self.channels[peer.channel.0 as usize].name),
                peer: Arc::clone(&peer.name),
                precedence: mlist.precedence,
                pending: mlist.pending.as_slice().to_vec(),
                attempts: mlist.attempts,
                holder: is_held.then_some(mlist.holder),
            }
        })
    }

    /// The sums of the tree. O(1).
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// Mlists in the tree.
    #[must_use]
    pub fn mlists_count(&self) -> usize {
        self.mlists.len()
    }

    /// Why the Mlist is not further; `None` when it is not in the tree.
    #[must_use]
    pub fn why(&self, mlist: MlistId) -> Option<Waiting> {
        let mlist = self.mlists.get(self.mlists.find(mlist)?);
        let peer = &self.peers[mlist.peer.0 as usize];
        let channel = &self.channels[peer.channel.0 as usize];
        let at = |reason, until: u64| Some(Waiting { reason, until: Some(UnixMillis(until)) });
        let reason = match mlist.place {
            Place::InProgress => Reason::InProgress(mlist.holder),
            Place::AwaitingOutcome => Reason::AwaitingOutcome(mlist.holder),
            _ if !self.is_going => Reason::Snapshot,
            _ if channel.limits.is_none() => Reason::ChannelNotConfigured,
            _ if peer.slots_max.is_none() => Reason::PeerNotConfigured,
            // The later of both delays is the one that counts.
            Place::Delayed if mlist.retry_at >= peer.retry_at => {
                return at(Reason::MessageDelay, mlist.retry_at);
            }
            _ if peer.retry_at > self.now => return at(Reason::PeerDelay, peer.retry_at),
            _ if peer.slots_free() == 0 => Reason::PeerSlots,
            _ => return Some(self.why_no_slot(channel, mlist.precedence)),
        };
        Some(Waiting { reason, until: None })
    }

    /// Why an Mlist of this level gets no slot: by what stands against one more process.
    fn why_no_slot(&self, channel: &Channel, precedence: Precedence) -> Waiting {
        let places = limit(
            self.limits.qmgr_maxchans,
            self.limits.qmgr_reserve_urgent,
            self.limits.qmgr_reserve_normal,
            precedence.civil(),
        );
        let mut until = None;
        let reason = if channel.starting_count > 0 {
            Reason::ProcessStart
        } else if !channel.may_have_one_more() {
            Reason::ChannelProcesses
        } else if channel.start_at > self.now {
            until = Some(UnixMillis(channel.start_at));
            Reason::StartHoldOff
        } else if self.processes_count >= places {
            Reason::Maxchans
        } else {
            Reason::Slots
        };
        Waiting { reason, until }
    }

    /// The tree without its leaves. O(channels + peers).
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            is_going: self.is_going,
            counts: self.counts,
            processes: self.processes_count,
            processes_max: self.limits.qmgr_maxchans,
            channels: (0..self.channels.len())
                .map(|at| self.channel_status(ChannelIndex(crate::index_of(at))))
                .collect(),
        }
    }

    fn channel_status(&self, index: ChannelIndex) -> ChannelStatus {
        let channel = &self.channels[index.0 as usize];
        let mut peers: Vec<PeerIndex> = channel.peer_by_name.values().copied().collect();
        peers.sort_unstable();
        let peers: Vec<PeerStatus> = peers.into_iter().map(|peer| self.peer_status(peer)).collect();
        ChannelStatus {
            name: Arc::clone(&channel.name),
            is_configured: channel.limits.is_some(),
            waiting: peers.iter().map(|peer| peer.waiting).sum(),
            runnable: channel.runnable_count,
            in_progress: peers.iter().map(|peer| peer.in_progress as usize).sum(),
            slots: channel.slots_total,
            slots_used: channel.slots_used,
            slots_for_non_urgent: channel.slots_limit(CivilPriority::NonUrgent),
            slots_for_normal: channel.slots_limit(CivilPriority::Normal),
            processes: channel.processes_count,
            processes_starting: channel.starting_count,
            processes_draining: channel.draining_count,
            failures: channel.failures,
            start_held_off_until: (channel.start_at > self.now).then_some(UnixMillis(channel.start_at)),
            peers,
        }
    }

    fn peer_status(&self, index: PeerIndex) -> PeerStatus {
        let peer = &self.peers[index.0 as usize];
        PeerStatus {
            name: Arc::clone(&peer.name),
            is_configured: peer.slots_max.is_some(),
            waiting: peer.queued_count + peer.delayed_count,
            delayed: peer.delayed_count,
            in_progress: peer.in_progress,
            slots_max: peer.slots_max.unwrap_or(0),
            errors: peer.errors,
            delayed_until: (peer.retry_at > self.now).then_some(UnixMillis(peer.retry_at)),
            oldest_accepted_at: peer.oldest().map(|mlist| self.mlists.get(mlist).accepted_at),
        }
    }
}
