//! An attempt from its assignment to its last durable outcome, and what its failure delays.

use sternpost_message::{ErrorScope, MlistId, RecipientRange};

use crate::backoff::delay_ms;
use crate::governor::Ending;
use crate::peer::PeerIndex;
use crate::process::{Process, State};
use crate::ranges::Ranges;
use crate::timer::Due;
use crate::tree::{Failure, Judged, MlistIndex, Place};
use crate::{ProcessId, Scheduler};

/// A peer that refuses an association while others with it have nothing to do gets nothing for so long, milliseconds: these
/// end by themselves in a few seconds.
const REFUSED_PAUSE_MS: u64 = 1_000;

impl Scheduler {
    /// An Mlist that waits nowhere goes to a process, which is made known if it is not.
    pub(crate) fn hold(&mut self, index: MlistIndex, process: ProcessId, recipients: Ranges) {
        let mlist = self.mlists.get_mut(index);
        let peer_index = mlist.peer;
        let peer = &mut self.peers[peer_index.0 as usize];
        mlist.place = Place::InProgress;
        mlist.open = recipients;
        mlist.holder = process;
        mlist.wave = peer.wave;
        mlist.failure = Failure::None;
        mlist.judged = Judged::No;
        peer.governor.occupied(self.now, peer.in_progress);
        peer.in_progress += 1;
        peer.tried = true;
        let channel = peer.channel;
        self.counts.in_progress += 1;
        if !self.processes.contains_key(&process) {
            self.add_process(process, Process::new(channel, State::Announced));
        }
        self.with_process(process, |process| {
            process.held.insert(index);
            process.used += 1;
        });
        self.refresh_peer(peer_index);
    }

    pub(crate) fn finished(&mut self, process: ProcessId, id: MlistId) {
        let Some(index) = self.held_index(process, id) else { return };
        if self.mlists.get(index).place != Place::InProgress {
            return;
        }
        if let Some(channel) = self.processes.get(&process).map(|process| process.channel) {
            self.channels[channel.0 as usize].failures = 0;
        }
        self.free_slot(index);
        self.progressed(process);
        let mlist = self.mlists.get_mut(index);
        mlist.place = Place::AwaitingOutcome;
        self.counts.awaiting_outcome += 1;
        if mlist.open.is_empty() {
            self.conclude(index);
        }
    }

    pub(crate) fn unassigned(&mut self, process: ProcessId, id: MlistId) {
        if let Some(index) = self.held_index(process, id) {
            self.conclude(index);
        }
    }

    pub(crate) fn returned(&mut self, process: ProcessId) {
        let Some(known) = self.processes.get(&process) else { return };
        let is_over = matches!(known.state, State::Gone | State::Announced);
        let mut held: Vec<MlistIndex> = known.held.iter().copied().collect();
        held.sort_unstable();
        for index in held {
            self.conclude(index);
        }
        if is_over {
            self.drop_process(process);
        }
    }

    pub(crate) fn settled(&mut self, id: MlistId, recipients: &[RecipientRange], worked: bool) {
        let Some(index) = self.mlists.find(id) else { return };
        let mlist = self.mlists.get_mut(index);
        mlist.pending.remove_all(recipients);
        mlist.open.remove_all(recipients);
        let peer = mlist.peer;
        let departs = mlist.pending.is_empty();
        match mlist.place {
            Place::Delayed | Place::Queued if mlist.pending.is_empty() => {
                self.leave(index);
                self.forget(index);
            }
            Place::AwaitingOutcome if mlist.open.is_empty() => self.conclude(index),
            _ => {}
        }
        if worked {
            if departs {
                self.flow.departed(self.now);
                let passed = &mut self.peers[peer.0 as usize].passed;
                passed.departed = passed.departed.saturating_add(1);
            }
            self.peer_worked(peer);
        }
    }

    pub(crate) fn deferred(&mut self, id: MlistId, recipients: &[RecipientRange], scope: ErrorScope) {
        let Some(index) = self.mlists.find(id) else { return };
        let now = self.now;
        let mlist = self.mlists.get_mut(index);
        let peer = mlist.peer;
        let by_message = scope == ErrorScope::Message;
        if matches!(mlist.place, Place::InProgress | Place::AwaitingOutcome) {
            if !mlist.open.remove_all(recipients) {
                return;
            }
            mlist.failure = mlist.failure.and(scope);
            let (wave, judged) = (mlist.wave, mlist.judged);
            if mlist.place == Place::AwaitingOutcome && mlist.open.is_empty() {
                self.conclude(index);
            }
            if !by_message && judged == Judged::No {
                self.peer_failed(peer, Some(wave));
            }
        } else if mlist.pending.meets(recipients) {
            // Nobody here assigned it: an attempt from before a restart. Its outcome may come in parts; the first
            // one begins the delay, and the others find it delayed.
            if by_message {
                if mlist.retry_at <= now {
                    self.leave(index);
                    self.count_attempt(index, true);
                    self.enter(index);
                }
            } else if self.peer_failed(peer, None) {
                self.count_attempt(index, false);
            }
        }
    }

    /// The attempt is over as far as it ever will be: what remains of the Mlist waits again.
    pub(crate) fn conclude(&mut self, index: MlistIndex) {
        match self.mlists.get(index).place {
            Place::InProgress => self.free_slot(index),
            Place::AwaitingOutcome => self.counts.awaiting_outcome -= 1,
            Place::Delayed | Place::Queued => return,
        }
        let mlist = self.mlists.get_mut(index);
        let is_whole = std::mem::take(&mut mlist.open).is_empty();
        let (holder, peer, failure) = (mlist.holder, mlist.peer, mlist.failure);
        let is_over = mlist.pending.is_empty();
        if is_whole && !failure.is_by_peer() {
            self.attempt_ended(peer, failure);
        }
        self.with_process(holder, |process| {
            process.held.remove(&index);
        });
        if is_over {
            self.forget(index);
            return;
        }
        if failure != Failure::None {
            // A peer that hung up is not delayed. A message at which it does so again may be the cause.
            let mlist = self.mlists.get(index);
            let has_hung_up_again = mlist.judged == Judged::HungUp && mlist.attempts > 0;
            self.count_attempt(index, failure.is_by_message() || has_hung_up_again);
        }
        self.enter(index);
    }

    /// Counts a failed attempt; one that failed by the message's own fault delays the Mlist, which then has to
    /// [`Scheduler::enter`] again.
    fn count_attempt(&mut self, index: MlistIndex, by_message: bool) {
        let mlist = self.mlists.get_mut(index);
        mlist.attempts = mlist.attempts.saturating_add(1);
        if by_message {
            let wait_ms =
                delay_ms(u32::from(mlist.attempts), self.limits.retry_step_ms, self.limits.retry_max_ms);
            mlist.retry_at = self.now.saturating_add(wait_ms);
        }
    }

    /// A channel has lost an association with the peer, or got none.
    pub(crate) fn association_lost(
        &mut self,
        index: PeerIndex,
        mlists: &[MlistId],
        holding: u32,
        has_carried: bool,
    ) {
        let mut wave = None;
        let mut refused_count = 0;
        for &id in mlists {
            let Some(at) = self.mlists.find(id) else { continue };
            let mlist = self.mlists.get_mut(at);
            if mlist.peer == index && matches!(mlist.place, Place::InProgress | Place::AwaitingOutcome) {
                mlist.judged = if has_carried { Judged::HungUp } else { Judged::Yes };
                refused_count += u32::from(mlist.place == Place::InProgress);
                wave = Some(wave.map_or(mlist.wave, |wave: u32| wave.max(mlist.wave)));
            }
        }
        if has_carried {
            return;
        }
        let now = self.now;
        let peer = &mut self.peers[index.0 as usize];
        if peer.slots.is_some() && peer.governor.refused(now, holding) {
            // With fewer under way than the peer holds, the number would let the same Mlist go again at once, and be refused
            // at once: another process holds what has nothing to do.
            if refused_count > 0 && peer.in_progress - refused_count < holding {
                peer.retry_at = peer.retry_at.max(now.saturating_add(REFUSED_PAUSE_MS));
            }
            self.refresh_peer(index);
            self.set_peer_timer(index);
        } else {
            self.peer_failed(index, wave);
        }
    }

    /// A failure of the peer. It counts unless the attempt began before the peer's present delay: `wave` tells for
    /// an attempt that is known; the word of a channel without one counts when an attempt has begun since the last
    /// failure that counted. Says whether it counted.
    pub(crate) fn peer_failed(&mut self, index: PeerIndex, wave: Option<u32>) -> bool {
        let peer = &mut self.peers[index.0 as usize];
        let counts = wave.map_or(peer.errors == 0 || peer.tried, |wave| wave == peer.wave);
        if counts {
            peer.errors = peer.errors.saturating_add(1);
            peer.wave = peer.wave.wrapping_add(1);
            peer.tried = false;
            peer.governor.failed();
            let wait_ms = delay_ms(peer.errors, self.limits.retry_step_ms, self.limits.retry_max_ms);
            peer.retry_at = self.now.saturating_add(wait_ms);
            self.refresh_peer(index);
            self.set_peer_timer(index);
        }
        counts
    }

    /// Wakes the peer when its delay ends, or else when it may be given one more than it refused.
    pub(crate) fn set_peer_timer(&mut self, index: PeerIndex) {
        let peer = &mut self.peers[index.0 as usize];
        let due_at = if peer.retry_at > self.now { peer.retry_at } else { peer.governor.look_at(self.now) };
        self.timers.change(Due::Peer(index), &mut peer.timer_at, due_at);
    }

    /// An attempt at the peer has ended by the peer's word.
    fn attempt_ended(&mut self, index: PeerIndex, failure: Failure) {
        let peer = &mut self.peers[index.0 as usize];
        let ending = Ending {
            in_progress: peer.in_progress,
            is_pressed: peer.offered.is_pressed,
            is_deferred: failure == Failure::Message,
        };
        if peer.governor.ended(self.now, ending) {
            self.refresh_peer(index);
        }
    }

    /// The peer works: its delay ends.
    pub(crate) fn peer_worked(&mut self, index: PeerIndex) {
        let peer = &mut self.peers[index.0 as usize];
        if peer.errors > 0 {
            peer.errors = 0;
            peer.retry_at = 0;
            peer.governor.works_again();
            self.refresh_peer(index);
            self.set_peer_timer(index);
        }
    }

    /// The Mlist that the process holds by this name.
    fn held_index(&self, process: ProcessId, id: MlistId) -> Option<MlistIndex> {
        let index = self.mlists.find(id)?;
        let mlist = self.mlists.get(index);
        let is_held = matches!(mlist.place, Place::InProgress | Place::AwaitingOutcome);
        (is_held && mlist.holder == process).then_some(index)
    }

    /// The slot of an Mlist in progress is free again, in its process and at its peer.
    fn free_slot(&mut self, index: MlistIndex) {
        let mlist = self.mlists.get(index);
        let (holder, peer) = (mlist.holder, mlist.peer);
        self.with_process(holder, |process| process.used -= 1);
        let served = &mut self.peers[peer.0 as usize];
        served.governor.occupied(self.now, served.in_progress);
        served.in_progress -= 1;
        self.counts.in_progress -= 1;
        self.refresh_peer(peer);
    }
}
