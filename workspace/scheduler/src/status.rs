//! What an operator can ask: how much waits, where, and why.

use std::fmt;
use std::sync::Arc;

use sternpost_message::{CivilPriority, MlistId, Precedence, RecipientRange, UnixMillis};

use crate::peer::{Peer, PeerIndex};
use crate::process::{Channel, ChannelIndex, Process, Start, StartRule, State};
use crate::timer::NEVER;
use crate::tree::Place;
use crate::{ProcessId, Scheduler};

/// Sums that are kept up to date: asking costs nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Mlists that no process has.
    pub waiting: usize,
    /// Of those, the ones that wait for nothing but a slot or a process: no delay, no order to wait, and a peer that is
    /// configured and has no delay either.
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
    /// An operator's order that mail of its precedence waits, unless a delay ends later.
    Minimised,
    /// Its own back-off.
    MessageDelay,
    /// Its peer's back-off.
    PeerDelay,
    /// The peer has as many Mlists in progress as it may have.
    PeerSlots,
    /// The peer has as many Mlists in progress as it was found to bear.
    PeerBears,
    /// The slots that the peer has free are in reserve for a higher precedence.
    PeerReserve,
    /// A higher precedence, a peer with fewer in progress or an older message is before it, or a slot is reserved
    /// for a higher level; no process can be added.
    Slots,
    /// A process that is being started.
    ProcessStart,
    /// Processes of the channel failed; the next start is held off.
    StartHoldOff,
    /// The channel's last process has gone shortly ago.
    ChanTime1,
    /// The channel has started a process shortly ago.
    ChanTime2,
    /// The same, and fewer Mlists wait than the channel's processes have slots.
    ChanTime3,
    /// A process of another channel that finishes what it has, to make room.
    MakingRoom,
    /// The end of another channel's turn with a process.
    Turn,
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
            Self::Minimised => f.write_str("an order makes mail of its precedence wait (class sternpostMinimise, table minimise)"),
            Self::MessageDelay => f.write_str("an attempt failed for this message; it is tried again later"),
            Self::PeerDelay => f.write_str("the peer MTA failed; it is tried again later"),
            Self::PeerSlots => f.write_str("the peer MTA has as many messages in progress as it may have"),
            Self::PeerBears => f.write_str(
                "the peer MTA has as many messages in progress as it was found to bear (slots_borne of sternpost status --json)",
            ),
            Self::PeerReserve => {
                f.write_str("the slots that the peer MTA has free are in reserve for higher precedence")
            }
            Self::Slots => f.write_str("its turn has not come: others are before it for the channel's slots"),
            Self::ProcessStart => f.write_str("a process for the channel is being started"),
            Self::StartHoldOff => {
                f.write_str("processes of the channel failed; the next one is started later")
            }
            Self::ChanTime1 => f.write_str(
                "the channel's last process has gone; the next one is started after qmgr_chan_time1, for all that has come by then",
            ),
            Self::ChanTime2 => {
                f.write_str("the channel has started a process; the next one is started after qmgr_chan_time2")
            }
            Self::ChanTime3 => f.write_str(
                "the channel has started a process and little waits; the next one is started after qmgr_chan_time3",
            ),
            Self::Turn => f.write_str("all processes are with other channels, which keep them for a while; then one gives way"),
            Self::MakingRoom => f.write_str(
                "a process of another channel finishes what it has, to make room for one of this channel",
            ),
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
    /// Of those, the ones that another has asked, see [`crate::Scheduler`]'s rules: as many as the channel may have
    /// processes do not count.
    pub processes_leaving: u32,
    /// When the first of those is killed, unless it makes progress.
    pub drain_until: Option<UnixMillis>,
    /// When the first of those is killed whatever progress it makes; its last outcome may be waited for
    /// `drain_timeout_ms` more.
    pub drain_until_max: Option<UnixMillis>,
    /// Processes that failed in a row.
    pub failures: u32,
    /// The last start of a process, and what it was for.
    pub last_start: Option<Start>,
    /// Whether another one is started, and what stands against it.
    pub next_process: NextProcess,
    /// Its peers, in the order in which they were first named.
    pub peers: Vec<PeerStatus>,
}

/// Where an Mlist stands in the tree, and what is decided about the processes there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whereabouts {
    /// Its channel.
    pub channel: Arc<str>,
    /// Its peer MTA.
    pub peer: Arc<str>,
    /// The names of the orders that make it wait, if it is not in progress.
    pub orders: Vec<Arc<str>>,
    /// The last start of a process of the channel, and what it was for.
    pub last_start: Option<Start>,
    /// Whether another one is started, and what stands against it.
    pub next_process: NextProcess,
}

/// What is decided about one more process of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextProcess {
    /// None is needed: nothing waits that its peer lets go, or what waits is expected to find a slot in the processes
    /// that exist or start.
    NotNeeded,
    /// One is needed for this level and those above, and this stands against it.
    Waits {
        /// The highest level that needs it.
        precedence: Precedence,
        /// How many Mlists of that level and above find no slot.
        waiting: u64,
        /// What stands against it.
        waiting_for: Waiting,
    },
}

/// Processes of a channel have failed, and the next one is held off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldOff {
    /// Processes that failed in a row.
    pub failures: u32,
    /// None is started before this.
    pub until: UnixMillis,
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
    /// How many of them it was found to bear.
    pub slots_borne: u32,
    /// How many of them non-urgent mail may fill.
    pub slots_for_non_urgent: u32,
    /// How many of them normal mail may fill.
    pub slots_for_normal: u32,
    /// The lowest level that is not ordered to wait.
    pub lowest: Precedence,
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

    /// How many Mlists a peer is given at a time, by what it was found to bear; `None` when it is not configured. O(1).
    #[must_use]
    pub fn slots_borne(&self, channel: &str, peer: &str) -> Option<u32> {
        let channel = &self.channels[self.channel_by_name.get(channel)?.0 as usize];
        let peer = &self.peers[channel.peer_by_name.get(peer)?.0 as usize];
        peer.slots.map(|slots| peer.governor.slots().min(slots.max))
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
            Place::InProgress => {
                let drain_until =
                    self.processes.get(&mlist.holder).map_or(NEVER, |holder| holder.drain_until);
                let until = (drain_until != NEVER).then_some(UnixMillis(drain_until));
                return Some(Waiting { reason: Reason::InProgress(mlist.holder), until });
            }
            Place::AwaitingOutcome => Reason::AwaitingOutcome(mlist.holder),
            _ if !self.is_going => Reason::Snapshot,
            _ if channel.limits.is_none() => Reason::ChannelNotConfigured,
            _ if peer.slots.is_none() => Reason::PeerNotConfigured,
            Place::Delayed | Place::Queued => {
                // What ends last is what counts.
                let retry_at = if mlist.place == Place::Delayed { mlist.retry_at } else { 0 };
                let delayed_until = retry_at.max(peer.retry_at);
                let orders = self.orders_to_wait(peer, mlist.precedence);
                return match orders.map(|order| order.until.0).max() {
                    Some(NEVER) => Some(Waiting { reason: Reason::Minimised, until: None }),
                    Some(until) if until >= delayed_until => at(Reason::Minimised, until),
                    _ if delayed_until > self.now && retry_at >= peer.retry_at => {
                        at(Reason::MessageDelay, retry_at)
                    }
                    _ if delayed_until > self.now => at(Reason::PeerDelay, peer.retry_at),
                    _ => Some(self.why_not_assigned(channel, peer, mlist.precedence)),
                };
            }
        };
        Some(Waiting { reason, until: None })
    }

    /// Where the Mlist stands; `None` when it is not in the tree.
    #[must_use]
    pub fn whereabouts(&self, mlist: MlistId) -> Option<Whereabouts> {
        let mlist = self.mlists.get(self.mlists.find(mlist)?);
        let peer = &self.peers[mlist.peer.0 as usize];
        let waits = matches!(mlist.place, Place::Delayed | Place::Queued);
        let channel = &self.channels[peer.channel.0 as usize];
        Some(Whereabouts {
            channel: Arc::clone(&channel.name),
            peer: Arc::clone(&peer.name),
            orders: self
                .orders_to_wait(peer, mlist.precedence)
                .filter(|_| waits)
                .map(|order| Arc::clone(&order.name))
                .collect(),
            last_start: channel.last_start,
            next_process: self.next_process(channel),
        })
    }

    /// Why an Mlist without a delay and without an order to wait is not assigned.
    fn why_not_assigned(&self, channel: &Channel, peer: &Peer, precedence: Precedence) -> Waiting {
        if peer.room(precedence.civil()) == 0 {
            let is_full = peer.room(CivilPriority::Urgent) == 0;
            let is_bound = peer.slots.is_some_and(|slots| peer.in_progress >= slots.max);
            let reason = match (is_full, is_bound) {
                (true, true) => Reason::PeerSlots,
                (true, false) => Reason::PeerBears,
                (false, _) => Reason::PeerReserve,
            };
            return Waiting { reason, until: None };
        }
        if channel.starting_count > 0 {
            return Waiting { reason: Reason::ProcessStart, until: None };
        }
        let nothing = Waiting { reason: Reason::Slots, until: None };
        self.against_one_more(channel, precedence).unwrap_or(nothing)
    }

    /// What stands against one more process of the channel for this level.
    fn against_one_more(&self, channel: &Channel, precedence: Precedence) -> Option<Waiting> {
        let (start_at, rule) = channel.start_at(precedence.civil(), &self.limits);
        if !self.is_going {
            return Some(Waiting { reason: Reason::Snapshot, until: None });
        }
        let mut until = None;
        let reason = if !channel.may_have_one_more(precedence.civil()) {
            until = self.place_until(Some(channel));
            Reason::ChannelProcesses
        } else if start_at > self.now {
            until = Some(UnixMillis(start_at));
            match rule {
                StartRule::HoldOff => Reason::StartHoldOff,
                StartRule::ChanTime1 => Reason::ChanTime1,
                StartRule::ChanTime2 => Reason::ChanTime2,
                StartRule::ChanTime3 => Reason::ChanTime3,
            }
        } else if self.counted() >= self.places(precedence) {
            let draining: u32 = self.channels.iter().map(|channel| channel.draining_count).sum();
            let is_room_coming = self.processes_count - draining < self.places(precedence);
            if is_room_coming {
                until = self.place_until(None);
                Reason::MakingRoom
            } else if channel.turn_at > self.now {
                until = Some(UnixMillis(channel.turn_at));
                Reason::Turn
            } else {
                Reason::Maxchans
            }
        } else {
            return None;
        };
        Some(Waiting { reason, until })
    }

    /// When the first of the channel's processes that finish has gone at the latest if it makes no more progress.
    fn drain_until(&self, channel: &Channel) -> Option<UnixMillis> {
        self.first_drain(|process| self.is_of(process, channel), |process| process.drain_until)
    }

    /// The same of those whose end frees a place, on this channel or on all: what leaves does that only where some of it
    /// counts.
    fn place_until(&self, channel: Option<&Channel>) -> Option<UnixMillis> {
        let counted = channel.map_or_else(|| self.counted(), Channel::counted);
        let staying =
            channel.map_or_else(|| self.channels.iter().map(Channel::staying).sum(), Channel::staying);
        let own_count = channel.map_or_else(
            || self.channels.iter().map(|channel| channel.draining_count - channel.leaving_count).sum(),
            |channel| channel.draining_count - channel.leaving_count,
        );
        let leaving_counts = counted > staying + own_count;
        self.first_drain(
            |process| {
                channel.is_none_or(|channel| self.is_of(process, channel))
                    && (leaving_counts || !process.is_leaving)
            },
            |process| process.drain_until,
        )
    }

    fn is_of(&self, process: &Process, channel: &Channel) -> bool {
        std::ptr::eq(channel, &self.channels[process.channel.0 as usize])
    }

    fn first_drain(
        &self,
        is_one: impl Fn(&Process) -> bool,
        until: impl Fn(&Process) -> u64,
    ) -> Option<UnixMillis> {
        let all = self.processes.values().filter(|process| process.state == State::Draining);
        all.filter(|process| is_one(process)).map(|process| UnixMillis(until(process))).min()
    }

    /// What is decided about one more process of the channel.
    fn next_process(&self, channel: &Channel) -> NextProcess {
        let mut wanting = Precedence::ALL.into_iter().rev().filter(|&level| channel.wants_process(level));
        wanting
            .find_map(|precedence| {
                let waiting = channel.assignable[precedence as usize];
                let waiting_for = self.against_one_more(channel, precedence)?;
                Some(NextProcess::Waits { precedence, waiting, waiting_for })
            })
            .unwrap_or(NextProcess::NotNeeded)
    }

    /// Until when the next start on the channel is held off, because processes failed; `None` when it is not. O(1).
    #[must_use]
    pub fn held_off(&self, channel: &str) -> Option<HoldOff> {
        let channel = &self.channels[self.channel_by_name.get(channel)?.0 as usize];
        let until = UnixMillis(channel.held_off_until);
        (until.0 > self.now).then_some(HoldOff { failures: channel.failures, until })
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
            processes_leaving: channel.leaving_count,
            drain_until: self.drain_until(channel),
            drain_until_max: self
                .first_drain(|process| self.is_of(process, channel), |process| self.drain_until_max(process)),
            failures: channel.failures,
            last_start: channel.last_start,
            next_process: self.next_process(channel),
            peers,
        }
    }

    fn peer_status(&self, index: PeerIndex) -> PeerStatus {
        let peer = &self.peers[index.0 as usize];
        PeerStatus {
            name: Arc::clone(&peer.name),
            is_configured: peer.slots.is_some(),
            waiting: peer.queued_count + peer.delayed_count,
            delayed: peer.delayed_count,
            in_progress: peer.in_progress,
            slots_max: peer.slots.map_or(0, |slots| slots.max),
            slots_borne: peer.slots.map_or(0, |slots| peer.governor.slots().min(slots.max)),
            slots_for_non_urgent: peer.slots_limit(CivilPriority::NonUrgent),
            slots_for_normal: peer.slots_limit(CivilPriority::Normal),
            lowest: peer.lowest,
            errors: peer.errors,
            delayed_until: (peer.retry_at > self.now).then_some(UnixMillis(peer.retry_at)),
            oldest_accepted_at: peer.oldest().map(|mlist| self.mlists.get(mlist).accepted_at),
        }
    }
}
