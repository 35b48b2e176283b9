//! After an event: nothing that should have been done was left undone, and the scheduler says what the account says.

use sternpost_message::{CivilPriority, Precedence, UnixMillis};
use sternpost_scheduler::{Reason, Scheduler};

use super::actions::ensure;
use super::book::{Life, Place};
use super::{Kept, Ledger};

impl Ledger {
    /// O(channels).
    pub(super) fn rest(&self, scheduler: &Scheduler, wake_at: Option<u64>) -> Kept {
        self.counts(scheduler)?;
        if !self.is_going {
            return Ok(());
        }
        ensure(wake_at.is_none_or(|at| at > self.now), || {
            format!("the scheduler wants to be woken at {wake_at:?}, which is now or before")
        })?;
        for at in 0..self.channels.len() {
            self.no_slot_is_free_beside_work(at)?;
            self.what_is_needed_starts(at)?;
        }
        if let Some((at, id)) = self.deadlines.first().filter(|(at, _)| *at <= self.now) {
            return Err(format!("late: {id} should have expired or been reported as late at {at}"));
        }
        let next = self.due.first().map(|due| due.0).into_iter();
        let next = next.chain(self.deadlines.first().map(|deadline| deadline.0)).min();
        ensure(next.is_none_or(|next| wake_at.is_some_and(|at| at <= next)), || {
            format!("late: something is due at {next:?} and the scheduler wants to be woken at {wake_at:?}")
        })?;
        self.starts_are_awaited(wake_at)
    }

    fn counts(&self, scheduler: &Scheduler) -> Kept {
        let counts = scheduler.counts();
        let theirs = [
            scheduler.mlists_count() as u64,
            counts.waiting as u64,
            counts.in_progress as u64,
            counts.awaiting_outcome as u64,
        ];
        let waiting = self.waiting.iter().sum();
        let ours = [self.leaves.len() as u64, waiting, self.in_progress, self.awaiting];
        ensure(theirs == ours, || {
            format!(
                "lost or doubled: of Mlists, waiting, in progress and awaiting the tree has {theirs:?}, and there are {ours:?}"
            )
        })?;
        let runnable = counts.runnable as u64;
        ensure(!self.is_going || runnable == self.runnable, || {
            format!("the tree has {runnable} runnable Mlists, and there are {}", self.runnable)
        })
    }

    fn no_slot_is_free_beside_work(&self, at: usize) -> Kept {
        let channel = &self.channels[at];
        let Some(highest) = channel.highest() else { return Ok(()) };
        let (used, limit) = channel.slots_for(highest);
        let free = channel.attached().find(|process| process.used < process.capacity);
        ensure(used >= limit || free.is_none(), || {
            let next = channel.turns[highest as usize].first();
            format!(
                "left undone: {free:?} has a free slot and {next:?} ({highest}) waits on {}",
                channel.name
            )
        })
    }

    fn what_is_needed_starts(&self, at: usize) -> Kept {
        let count = self.processes();
        let needed = Precedence::ALL
            .into_iter()
            .find(|&level| self.needs_process(at, level) && count < self.places(level));
        ensure(needed.is_none(), || {
            format!(
                "left undone: {} needs a process for {needed:?}, and there are {count}",
                self.channels[at].name
            )
        })
    }

    /// A channel that has to wait before it starts a process is looked at when that ends.
    fn starts_are_awaited(&self, wake_at: Option<u64>) -> Kept {
        for at in 0..self.channels.len() {
            let wanting = Precedence::ALL.into_iter().filter(|&level| self.wants_process(at, level));
            let next = wanting.map(|level| self.start_at(at, level)).filter(|at| *at > self.now).min();
            ensure(next.is_none_or(|next| wake_at.is_some_and(|at| at <= next)), || {
                let name = &self.channels[at].name;
                format!(
                    "late: {name} may start a process at {next:?}; the scheduler wants to be woken at {wake_at:?}"
                )
            })?;
        }
        Ok(())
    }

    /// O(Mlists + peers).
    pub(super) fn status(&self, scheduler: &Scheduler) -> Kept {
        let status = scheduler.status();
        ensure(u64::from(status.processes) == self.processes(), || {
            format!("the tree has {} processes, and there are {}", status.processes, self.processes())
        })?;
        for told in &status.channels {
            let at = self.channel_by_name.get(&*told.name);
            let at = *at.ok_or_else(|| format!("the tree has a channel {}", told.name))?;
            let channel = &self.channels[at];
            let (used, for_non_urgent) = channel.slots_for(Precedence::Deferred);
            let theirs = [
                told.slots_used,
                told.slots_for_non_urgent,
                told.processes_starting,
                told.processes_draining,
            ];
            let starting = channel.processes(|process| process.life == Life::Starting);
            let stopping = channel.processes(|process| process.life == Life::Stopping);
            let ours = [used, for_non_urgent, starting, stopping];
            ensure(!told.is_configured || theirs == ours, || {
                format!(
                    "of slots in use, for non-urgent mail, processes that start and stop {} has {theirs:?}, and there are {ours:?}",
                    told.name
                )
            })?;
            for told in &told.peers {
                let at = self.peer_by_name.get(&(at, told.name.to_string()));
                let at = *at.ok_or_else(|| format!("the tree has a peer {}", told.name))?;
                let peer = &self.peers[at];
                let theirs =
                    (told.in_progress, told.errors, told.delayed_until, told.lowest, told.delayed as u64);
                let until = Some(peer.retry_at).filter(|at| *at > self.now).map(UnixMillis);
                let ours = (peer.in_progress, peer.errors, until, peer.lowest, peer.delayed);
                ensure(theirs == ours, || {
                    format!("of the peer {} the tree says {theirs:?}, and it is {ours:?}", told.name)
                })?;
            }
        }
        self.leaves.iter().try_for_each(|(&id, leaf)| {
            let told = scheduler.why(id).ok_or_else(|| format!("{id} is lost: the tree does not know it"))?;
            let peer = &self.peers[leaf.peer];
            let until = leaf.retry_at.max(peer.retry_at);
            let is_configured = self.channels[peer.channel].limits.is_some() && peer.slots.is_some();
            let is_right = match told.reason {
                Reason::InProgress(process) => leaf.place == Place::InProgress(process),
                Reason::AwaitingOutcome(process) => leaf.place == Place::Awaiting(process),
                Reason::Snapshot => !self.is_going,
                Reason::ChannelNotConfigured | Reason::PeerNotConfigured => !is_configured,
                Reason::Minimised => leaf.level < peer.lowest,
                Reason::MessageDelay | Reason::PeerDelay => {
                    until > self.now && told.until == Some(UnixMillis(until))
                }
                Reason::PeerSlots | Reason::PeerBears => {
                    peer.in_progress >= peer.slots_for(Precedence::Override)
                }
                Reason::PeerReserve => peer.in_progress >= peer.slots_for(leaf.level),
                Reason::StartHoldOff | Reason::ChanTime1 | Reason::ChanTime2 | Reason::ChanTime3 => {
                    told.until == Some(UnixMillis(self.start_at(peer.channel, leaf.level)))
                }
                Reason::ChannelProcesses | Reason::Maxchans | Reason::MakingRoom | Reason::Turn => {
                    leaf.level.civil() == CivilPriority::Urgent
                        || self.processes() > 0
                        || self.places(leaf.level) == 0
                }
                Reason::Slots | Reason::ProcessStart => until <= self.now,
            };
            let waits = leaf.place == Place::Waiting;
            let is_of_waiting = !matches!(told.reason, Reason::InProgress(_) | Reason::AwaitingOutcome(_));
            ensure(is_right && waits == is_of_waiting, || {
                format!("of {id} the tree says {told:?}, and it is {leaf:?}")
            })
        })
    }
}
