//! What an event changes in the account.

use std::collections::BTreeSet;

use sternpost_message::{ErrorScope, MlistId};
use sternpost_scheduler::{Event, Limits, MlistSpec, ProcessId, Reserves};

use super::Ledger;
use super::book::{ChannelBook, Due, Leaf, Life, PeerBook, Place, ProcessBook, recipients_of};

/// The next start waits so much longer with each process that failed in a row, and not longer than that, milliseconds.
const HOLD_OFF_STEP_MS: u64 = 1_000;
const HOLD_OFF_MAX_MS: u64 = 60_000;
const REFUSED_PAUSE_MS: u64 = 1_000;

impl Ledger {
    pub(super) fn take(&mut self, event: &Event) {
        match event {
            Event::Configure(limits) => self.configure(limits),
            Event::Queue(spec) => self.queue(spec),
            Event::Go => self.is_going = true,
            Event::ProcessStarted { process, channel } => {
                let channel = self.channel_at(channel);
                self.begin_process(channel, *process);
            }
            Event::ProcessAttached { process, channel, capacity } => {
                let channel = self.channel_at(channel);
                let now = self.now;
                if let Some(process) = self.channels[channel].process(*process) {
                    process.capacity = *capacity;
                    process.idle_since = now;
                    if process.life == Life::Starting {
                        process.life = Life::Attached;
                    }
                }
            }
            Event::ProcessGone { process } | Event::StartFailed { process } => self.process_gone(*process),
            Event::Returned { process } => {
                let Some(&channel) = self.channel_of.get(process) else { return };
                let held = self.channels[channel].process(*process).map(|known| known.held.clone());
                for id in held.unwrap_or_default() {
                    self.conclude(id);
                }
                self.forget_if_over(channel, *process);
            }
            Event::Finished { process, mlist } => self.finished(*process, *mlist),
            Event::Unassigned { process, mlist } => {
                let is_held =
                    |place| matches!(place, Place::InProgress(by) | Place::Awaiting(by) if by == *process);
                if self.leaves.get(mlist).is_some_and(|leaf| is_held(leaf.place)) {
                    self.conclude(*mlist);
                }
            }
            Event::Settled { mlist, recipients, worked } => {
                self.settled(*mlist, &recipients_of(recipients), *worked);
            }
            Event::Deferred { mlist, recipients, scope } => {
                self.deferred(*mlist, &recipients_of(recipients), *scope);
            }
            Event::PeerFailed { channel, peer, mlists, holding, has_carried } => {
                let channel = self.channel_at(channel);
                let peer = self.peer_at(channel, peer);
                self.association_lost(peer, mlists, *holding, *has_carried);
            }
            Event::Progress { .. } => {}
            Event::PeerWorked { channel, peer } => {
                let channel = self.channel_at(channel);
                let peer = self.peer_at(channel, peer);
                self.peer_worked(peer);
            }
            Event::Remove { mlist } => self.removed(*mlist),
            Event::Wake => {}
        }
    }

    fn channel_at(&mut self, name: &str) -> usize {
        if let Some(&at) = self.channel_by_name.get(name) {
            return at;
        }
        self.channels.push(ChannelBook::new(name.to_owned()));
        self.channel_by_name.insert(name.to_owned(), self.channels.len() - 1);
        self.channels.len() - 1
    }

    fn peer_at(&mut self, channel: usize, name: &str) -> usize {
        let key = (channel, name.to_owned());
        if let Some(&at) = self.peer_by_name.get(&key) {
            return at;
        }
        self.peers.push(PeerBook::new(channel, name.to_owned()));
        self.peer_by_name.insert(key, self.peers.len() - 1);
        self.peers.len() - 1
    }

    fn configure(&mut self, limits: &Limits) {
        for channel in &mut self.channels {
            channel.limits = None;
        }
        for peer in &mut self.peers {
            peer.slots = None;
        }
        self.governed.clear();
        for channel_limits in &limits.channels {
            let channel = self.channel_at(&channel_limits.name);
            for peer_limits in &channel_limits.peers {
                let peer = self.peer_at(channel, &peer_limits.name);
                let max = peer_limits.slots_max.unwrap_or(channel_limits.peer_slots_max);
                let reserve: Reserves =
                    peer_limits.slots_reserve.unwrap_or(channel_limits.peer_slots_reserve);
                let min = peer_limits.slots_min.unwrap_or(channel_limits.peer_slots_min).max(1).min(max);
                let book = &mut self.peers[peer];
                let was_governed = book.is_governed();
                if book.bounds != (min, max) && !(was_governed && min < max) {
                    book.is_down = false;
                }
                book.bounds = (min, max);
                book.slots = Some((max, reserve));
                if book.is_governed() {
                    self.governed.push(peer);
                }
            }
            let mut own = channel_limits.clone();
            own.peers.clear();
            self.channels[channel].limits = Some(own);
        }
        self.limits = limits.clone();
        self.limits.channels.clear();
        self.minimise();
    }

    fn queue(&mut self, spec: &MlistSpec) {
        let channel = self.channel_at(&spec.channel);
        let peer = self.peer_at(channel, &spec.peer);
        let leaf = Leaf {
            peer,
            level: spec.precedence,
            pending: recipients_of(&spec.recipients),
            open: Vec::new(),
            place: Place::Waiting,
            expires_at: spec.expires_at.0,
            late_at: spec.delay_report_at.map(|at| at.0),
            retry_at: spec.not_before.0,
            attempts: spec.attempts,
            wave: 0,
            has_failed: false,
            has_failed_by_message: false,
            has_failed_by_peer: false,
            is_judged: false,
            has_hung_up: false,
        };
        self.leaves.insert(spec.id, leaf);
        self.enter(spec.id);
    }

    pub(super) fn begin_process(&mut self, channel: usize, id: ProcessId) {
        let book = &mut self.channels[channel];
        book.last_start = Some((self.now, id));
        book.processes.push(ProcessBook {
            id,
            life: Life::Starting,
            capacity: 0,
            used: 0,
            held: BTreeSet::new(),
            idle_since: self.now,
        });
        self.channel_of.insert(id, channel);
    }

    fn process_gone(&mut self, id: ProcessId) {
        let Some(&channel) = self.channel_of.get(&id) else { return };
        let now = self.now;
        let book = &mut self.channels[channel];
        let Some(process) = book.process(id) else { return };
        let before = std::mem::replace(&mut process.life, Life::Gone);
        if matches!(before, Life::Starting | Life::Attached) {
            book.failures += 1;
            book.held_off_until = now + (book.failures * HOLD_OFF_STEP_MS).min(HOLD_OFF_MAX_MS);
        }
        if before != Life::Gone && book.processes(|_| true) == 0 {
            book.emptied_at = Some(now);
        }
        self.forget_if_over(channel, id);
    }

    /// A process is forgotten when it is gone and nothing of it is to come.
    fn forget_if_over(&mut self, channel: usize, id: ProcessId) {
        let is_over = |process: &ProcessBook| process.life == Life::Gone && process.held.is_empty();
        let book = &mut self.channels[channel];
        if book.process(id).is_some_and(|process| is_over(process)) {
            book.processes.retain(|process| process.id != id);
            self.channel_of.remove(&id);
        }
    }

    fn finished(&mut self, process: ProcessId, id: MlistId) {
        let Some(leaf) = self.leaves.get(&id) else { return };
        if leaf.place != Place::InProgress(process) {
            return;
        }
        self.free_slot(id);
        let leaf = self.leaves.get_mut(&id).expect("it was there a line ago");
        leaf.place = Place::Awaiting(process);
        let (channel, is_over) = (self.peers[leaf.peer].channel, leaf.open.is_empty());
        self.awaiting += 1;
        self.channels[channel].failures = 0;
        if is_over {
            self.conclude(id);
        }
    }

    /// An Mlist in progress gives its slot back, at its process and at its peer.
    fn free_slot(&mut self, id: MlistId) {
        let leaf = &self.leaves[&id];
        let (at, now) = (leaf.peer, self.now);
        let Place::InProgress(holder) = leaf.place else { return };
        let peer = &mut self.peers[at];
        peer.in_progress -= 1;
        self.in_progress -= 1;
        if let Some(process) = self.channels[peer.channel].process(holder) {
            process.used -= 1;
            process.idle_since = now;
        }
        self.refresh(at);
    }

    /// The attempt is over: what is left of the Mlist waits again.
    fn conclude(&mut self, id: MlistId) {
        let holder = match self.leaves[&id].place {
            Place::Waiting => return,
            Place::InProgress(holder) => {
                self.free_slot(id);
                holder
            }
            Place::Awaiting(holder) => {
                self.awaiting -= 1;
                holder
            }
        };
        if let Some(&channel) = self.channel_of.get(&holder)
            && let Some(process) = self.channels[channel].process(holder)
        {
            process.held.remove(&id);
        }
        let leaf = self.leaves.get_mut(&id).expect("it was there a line ago");
        if leaf.open.is_empty() && !leaf.has_failed_by_peer {
            self.peers[leaf.peer].is_down = false;
        }
        leaf.open.clear();
        if leaf.pending.is_empty() {
            self.leaves.remove(&id);
            return;
        }
        if leaf.has_failed {
            let by_message = leaf.has_failed_by_message || (leaf.has_hung_up && leaf.attempts > 0);
            self.count_attempt(id, by_message);
        }
        self.enter(id);
    }

    fn count_attempt(&mut self, id: MlistId, by_message: bool) {
        let leaf = self.leaves.get_mut(&id).expect("an attempt of an Mlist that is there");
        leaf.attempts = leaf.attempts.saturating_add(1);
        if by_message {
            let failed = u64::from(leaf.attempts);
            leaf.retry_at = self.now + (failed * self.limits.retry_step_ms).min(self.limits.retry_max_ms);
        }
    }

    fn settled(&mut self, id: MlistId, recipients: &[u32], worked: bool) {
        let Some(leaf) = self.leaves.get_mut(&id) else { return };
        leaf.pending.retain(|recipient| !recipients.contains(recipient));
        leaf.open.retain(|recipient| !recipients.contains(recipient));
        let peer = leaf.peer;
        match leaf.place {
            Place::Waiting if leaf.pending.is_empty() => {
                self.leave(id);
                self.leaves.remove(&id);
            }
            Place::Awaiting(_) if leaf.open.is_empty() => self.conclude(id),
            _ => {}
        }
        if worked {
            self.peer_worked(peer);
        }
    }

    fn deferred(&mut self, id: MlistId, recipients: &[u32], scope: ErrorScope) {
        let Some(leaf) = self.leaves.get_mut(&id) else { return };
        let (peer, wave) = (leaf.peer, leaf.wave);
        let by_message = scope == ErrorScope::Message;
        if leaf.place == Place::Waiting {
            // An attempt that nobody here knows of.
            if !leaf.pending.iter().any(|recipient| recipients.contains(recipient)) {
                return;
            }
            let counts = if by_message { leaf.retry_at <= self.now } else { self.peer_failed(peer, None) };
            if counts {
                self.leave(id);
                self.count_attempt(id, by_message);
                self.enter(id);
            }
            return;
        }
        let before = leaf.open.len();
        leaf.open.retain(|recipient| !recipients.contains(recipient));
        if leaf.open.len() == before {
            return;
        }
        leaf.has_failed = true;
        leaf.has_failed_by_message |= by_message;
        leaf.has_failed_by_peer |= !by_message;
        let is_judged = leaf.is_judged;
        if matches!(leaf.place, Place::Awaiting(_)) && leaf.open.is_empty() {
            self.conclude(id);
        }
        if !by_message && !is_judged {
            self.peer_failed(peer, Some(wave));
        }
    }

    /// A peer that holds others has refused one too many, where that is open; one that has carried before says nothing.
    fn association_lost(&mut self, at: usize, mlists: &[MlistId], holding: u32, has_carried: bool) {
        let mut wave = None;
        let mut refused = 0;
        for id in mlists {
            let Some(leaf) = self.leaves.get_mut(id) else { continue };
            if leaf.peer == at && leaf.place != Place::Waiting {
                (leaf.is_judged, leaf.has_hung_up) = (true, has_carried);
                wave = wave.max(Some(leaf.wave));
                refused += u32::from(matches!(leaf.place, Place::InProgress(_)));
            }
        }
        if has_carried {
            return;
        }
        let peer = &mut self.peers[at];
        let is_one_too_many = peer.slots.is_some() && peer.is_governed() && holding > 0 && !peer.is_down;
        if !is_one_too_many {
            self.peer_failed(at, wave);
        } else if refused > 0 && peer.in_progress - refused < holding {
            // Others that it holds have nothing to do, and elsewhere.
            self.due.remove(&(peer.retry_at, Due::Peer(at)));
            peer.retry_at = peer.retry_at.max(self.now + REFUSED_PAUSE_MS);
            self.due.insert((peer.retry_at, Due::Peer(at)));
            self.refresh(at);
        }
    }

    /// A failure counts once for all attempts that began before the delay that it begins.
    fn peer_failed(&mut self, at: usize, wave: Option<u32>) -> bool {
        let peer = &mut self.peers[at];
        let counts = wave.map_or(peer.errors == 0 || peer.is_tried, |wave| wave == peer.wave);
        if counts {
            peer.errors += 1;
            peer.wave += 1;
            peer.is_tried = false;
            peer.is_down = peer.is_governed();
            self.due.remove(&(peer.retry_at, Due::Peer(at)));
            let failed = u64::from(peer.errors);
            peer.retry_at = self.now + (failed * self.limits.retry_step_ms).min(self.limits.retry_max_ms);
            self.due.insert((peer.retry_at, Due::Peer(at)));
            self.refresh(at);
        }
        counts
    }

    fn peer_worked(&mut self, at: usize) {
        let peer = &mut self.peers[at];
        if peer.errors > 0 {
            self.due.remove(&(peer.retry_at, Due::Peer(at)));
            (peer.errors, peer.retry_at, peer.is_down) = (0, 0, false);
            self.refresh(at);
        }
    }

    fn removed(&mut self, id: MlistId) {
        let Some(leaf) = self.leaves.get_mut(&id) else { return };
        match leaf.place {
            Place::Waiting => {
                self.leave(id);
                self.leaves.remove(&id);
            }
            Place::InProgress(_) => {
                leaf.pending.clear();
                leaf.open.clear();
            }
            Place::Awaiting(_) => {
                leaf.pending.clear();
                self.conclude(id);
            }
        }
    }
}
