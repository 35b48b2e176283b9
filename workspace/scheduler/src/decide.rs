//! The decisions: who gets a slot, which channel gets a process, which process has to go.

use std::cmp::Reverse;
use std::sync::Arc;

use sternpost_message::Precedence;

use crate::backoff::delay_ms;
use crate::process::{
    CAPACITY_MAX, Channel, ChannelIndex, Process, START_HOLD_OFF_MAX_MS, START_HOLD_OFF_STEP_MS, State, limit,
};
use crate::timer::{Due, NEVER};
use crate::{Action, ProcessId, Scheduler, StopReason};

impl Scheduler {
    /// Everything that can be decided now.
    pub(crate) fn decide(&mut self, actions: &mut Vec<Action>) {
        if std::mem::take(&mut self.is_surplus_possible) {
            self.stop_surplus(actions);
        }
        while let Some(channel) = self.dirty.pop() {
            self.channels[channel.0 as usize].is_dirty = false;
            while self.assign_one(channel, actions) {}
        }
        if self.counts.assignable > 0 {
            self.start_processes(actions);
        }
    }

    /// Gives the best Mlist of the channel to a process. If it may not have a slot, no other Mlist of the channel
    /// may: a lower level leaves more of them free.
    fn assign_one(&mut self, channel_index: ChannelIndex, actions: &mut Vec<Action>) -> bool {
        let channel = &self.channels[channel_index.0 as usize];
        let Some(&rank) = channel.runnable.first() else { return false };
        let Some(&(_, Reverse(process))) = channel.free.last() else { return false };
        let Reverse(precedence) = rank.top;
        if channel.slots_used >= channel.slots_limit(precedence.civil()) {
            return false;
        }
        let channel_name = Arc::clone(&channel.name);
        let peer = &mut self.peers[rank.peer.0 as usize];
        let index = peer.oldest_of(precedence).expect("a peer's rank names a level that is not empty");
        self.served += 1;
        peer.served = self.served;
        let peer_name = Arc::clone(&peer.name);
        let mlist = self.mlists.get(index);
        let recipients = mlist.pending.clone();
        actions.push(Action::Assign {
            process,
            mlist: mlist.id,
            channel: channel_name,
            peer: peer_name,
            recipients: recipients.as_slice().to_vec(),
            attempts: mlist.attempts,
        });
        self.leave(index);
        self.hold(index, process, recipients);
        true
    }

    /// Starts processes for Mlists that found no slot, the highest precedence first, while there is a place; makes
    /// room where there is none.
    fn start_processes(&mut self, actions: &mut Vec<Action>) {
        while let Some((channel, precedence)) = self.neediest_channel() {
            let limits = &self.limits;
            let places = limit(
                limits.qmgr_maxchans,
                limits.qmgr_reserve_urgent,
                limits.qmgr_reserve_normal,
                precedence.civil(),
            );
            if self.processes_count >= places {
                self.make_room(channel, precedence, places, actions);
                return;
            }
            let process = self.new_process_id();
            self.add_process(process, Process::new(channel, State::Starting));
            let name = self.channels[channel.0 as usize].name.to_string();
            actions.push(Action::StartProcess { process, channel: name });
        }
    }

    /// The channel that needs one more process and may have it, and the level that needs it: the highest level
    /// first, then the channel with the fewest processes.
    ///
    /// The processes that are being started are taken to serve the highest levels, so that a flash does not lend its
    /// right to the places in reserve to the routine behind it.
    fn neediest_channel(&self) -> Option<(ChannelIndex, Precedence)> {
        Precedence::ALL.into_iter().rev().find_map(|precedence| {
            (0..self.channels.len())
                .filter(|&at| needs_process(&self.channels[at], precedence, self.now))
                .min_by_key(|&at| self.channels[at].processes_count)
                .map(|at| (ChannelIndex(crate::index_of(at)), precedence))
        })
    }

    /// Stops idle processes of other channels until one more process of this level will fit; none, if they do not
    /// suffice.
    fn make_room(
        &mut self,
        for_channel: ChannelIndex,
        level: Precedence,
        places: u32,
        actions: &mut Vec<Action>,
    ) {
        if places == 0 {
            return;
        }
        let draining: u32 = self.channels.iter().map(|channel| channel.draining_count).sum();
        let wanted = (self.processes_count + 1).saturating_sub(places).saturating_sub(draining) as usize;
        if wanted == 0 {
            return;
        }
        let mut idle: Vec<(u64, ProcessId)> = self
            .processes
            .iter()
            .filter(|(_, process)| {
                let channel = &self.channels[process.channel.0 as usize];
                let waits_higher = channel.runnable.first().is_some_and(|rank| rank.top.0 >= level);
                process.idle_since != NEVER && process.channel != for_channel && !waits_higher
            })
            .map(|(&id, process)| (process.idle_since, id))
            .collect();
        if idle.len() < wanted {
            return;
        }
        idle.sort_unstable();
        for &(_, process) in &idle[..wanted] {
            self.stop(process, StopReason::MakeRoom, actions);
        }
    }

    /// Stops processes beyond the limits: of channels that are not configured, beyond a channel's `processes_max`,
    /// beyond `qmgr_maxchans`. Only those that have attached; others are looked at when they have.
    fn stop_surplus(&mut self, actions: &mut Vec<Action>) {
        let mut attached: Vec<(u32, Reverse<ProcessId>)> = self
            .processes
            .iter()
            .filter(|(_, process)| process.state == State::Attached)
            .map(|(&id, process)| (process.used, Reverse(id)))
            .collect();
        // Those with the least to do first, then the youngest.
        attached.sort_unstable();
        for (_, Reverse(process)) in attached {
            let Some(channel) = self.processes.get(&process).map(|process| process.channel) else { continue };
            let draining: u32 = self.channels.iter().map(|channel| channel.draining_count).sum();
            let channel = &self.channels[channel.0 as usize];
            let staying = channel.processes_count - channel.draining_count;
            match &channel.limits {
                None => self.stop(process, StopReason::NotConfigured, actions),
                Some(limits)
                    if staying > limits.processes_max
                        || self.processes_count - draining > self.limits.qmgr_maxchans =>
                {
                    self.stop(process, StopReason::OverLimit, actions);
                }
                Some(_) => {}
            }
        }
    }

    fn stop(&mut self, process: ProcessId, reason: StopReason, actions: &mut Vec<Action>) {
        self.with_process(process, |process| process.state = State::Draining);
        actions.push(Action::StopProcess { process, reason });
    }

    /// The idle time of a process is over.
    pub(crate) fn process_is_idle(&mut self, id: ProcessId, actions: &mut Vec<Action>) {
        let now = self.now;
        let Some(process) = self.processes.get_mut(&id) else { return };
        process.timer_at = NEVER;
        if self.channels[process.channel.0 as usize].runnable.is_empty() {
            self.stop(id, StopReason::Idle, actions);
        } else {
            // It is the reserve for a higher level; without it another would have to be started for what waits.
            self.with_process(id, |process| process.idle_since = now);
        }
    }

    pub(crate) fn process_started(&mut self, id: ProcessId, channel: &str) {
        if !self.processes.contains_key(&id) {
            let channel = self.channel(channel);
            self.add_process(id, Process::new(channel, State::Starting));
        }
    }

    pub(crate) fn process_attached(&mut self, id: ProcessId, channel: &str, capacity: u32) {
        self.process_started(id, channel);
        self.with_process(id, |process| {
            process.capacity = capacity.min(CAPACITY_MAX);
            if process.state != State::Draining {
                process.state = State::Attached;
            }
        });
        self.is_surplus_possible = true;
    }

    /// A process has exited, or never came to be. Unless it was asked to, the channel waits before it starts another.
    pub(crate) fn process_gone(&mut self, id: ProcessId) {
        let Some(process) = self.processes.get(&id) else { return };
        let channel_index = process.channel;
        let holds_nothing = process.held.is_empty();
        if matches!(process.state, State::Starting | State::Attached) {
            let channel = &mut self.channels[channel_index.0 as usize];
            channel.failures = channel.failures.saturating_add(1);
            let wait_ms = delay_ms(channel.failures, START_HOLD_OFF_STEP_MS, START_HOLD_OFF_MAX_MS);
            channel.start_at = self.now.saturating_add(wait_ms);
            self.timers.change(Due::Channel(channel_index), &mut channel.timer_at, channel.start_at);
        }
        self.with_process(id, |process| process.state = State::Gone);
        if holds_nothing {
            self.drop_process(id);
        }
    }

    /// Changes a process and brings everything that is counted about it up to date.
    pub(crate) fn with_process(&mut self, id: ProcessId, change: impl FnOnce(&mut Process)) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        change(process);
        let share = process.share();
        let before = std::mem::replace(&mut process.shared, share);
        let channel_index = process.channel;
        let channel = &mut self.channels[channel_index.0 as usize];
        if share != before {
            channel.exchange(id, before, share);
            self.processes_count = self.processes_count + u32::from(share.exists) - u32::from(before.exists);
        }
        let is_idle = process.state == State::Attached && process.used == 0;
        let mut idle_until = NEVER;
        if is_idle {
            process.idle_since = process.idle_since.min(self.now);
            if let Some(limits) = &channel.limits {
                // At least 1 ms: a process must not be stopped in the instant in which it attaches.
                idle_until = process.idle_since.saturating_add(limits.idle_stop_ms.max(1));
            }
        } else {
            process.idle_since = NEVER;
        }
        self.timers.change(Due::Process(id), &mut process.timer_at, idle_until);
        self.mark_dirty(channel_index);
    }

    /// A number that no process has: the one behind the largest seen, and from the start again at the end of them.
    fn new_process_id(&mut self) -> ProcessId {
        loop {
            self.process_last = self.process_last.wrapping_add(1);
            let id = ProcessId(self.process_last);
            if !self.processes.contains_key(&id) {
                return id;
            }
        }
    }

    pub(crate) fn add_process(&mut self, id: ProcessId, process: Process) {
        self.process_last = self.process_last.max(id.0);
        self.processes.insert(id, process);
        self.with_process(id, |_| {});
    }

    pub(crate) fn drop_process(&mut self, id: ProcessId) {
        self.with_process(id, |process| process.state = State::Gone);
        self.processes.remove(&id);
    }
}

/// Whether Mlists of this level or above wait for more than the processes that are being started will take.
fn needs_process(channel: &Channel, precedence: Precedence, now: u64) -> bool {
    channel.assignable[precedence as usize] > channel.slots_expected()
        && channel.may_have_one_more()
        && channel.start_at <= now
}
