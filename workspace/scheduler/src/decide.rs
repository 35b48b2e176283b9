//! The decisions: who gets a slot, which channel gets a process, which process has to go.

use std::cmp::Reverse;
use std::sync::Arc;

use sternpost_message::{CivilPriority, Precedence, UnixMillis};

use crate::backoff::delay_ms;
use crate::limits::Reserves;
use crate::process::{
    CAPACITY_MAX, Channel, ChannelIndex, Process, START_HOLD_OFF_MAX_MS, START_HOLD_OFF_STEP_MS, Start, State,
};
use crate::timer::{Due, NEVER};
use crate::{Action, ProcessId, Scheduler, StopReason};

/// What one assignment by age costs a channel of its credit, hundredths.
const AGE_CREDIT_OF_ONE: u32 = 100;
/// For so long a channel keeps its only process while another one of the same level has none, at least.
/// Milliseconds: the cost of starting a process is a small part of it.
const TURN_MS_MIN: u64 = 1_000;

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
        let share = self.limits.age_share_percent;
        let channel = &mut self.channels[channel_index.0 as usize];
        let Some(&rank) = channel.runnable.first() else { return false };
        let Some(&(_, Reverse(process))) = channel.free.last() else { return false };
        let may = |precedence: Precedence| channel.slots_used < channel.slots_limit(precedence.civil());
        let Reverse(highest) = rank.top;
        if !may(highest) {
            return false;
        }
        let eldest = channel.eldest.first().filter(|eldest| may(eldest.precedence)).copied();
        let credit = channel.age_credit.saturating_add(share);
        let (peer_index, precedence) = match eldest {
            Some(eldest) if credit >= AGE_CREDIT_OF_ONE => {
                channel.age_credit = credit - AGE_CREDIT_OF_ONE;
                (eldest.peer, eldest.precedence)
            }
            _ => {
                // What age could not use is not kept for a burst.
                channel.age_credit = credit.min(AGE_CREDIT_OF_ONE);
                (rank.peer, highest)
            }
        };
        let channel_name = Arc::clone(&channel.name);
        let peer = &mut self.peers[peer_index.0 as usize];
        let index = peer.oldest_of(precedence).expect("a peer offers a level that is not empty");
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
        while let Some((channel_index, precedence)) = self.neediest_channel() {
            let places = self.places(precedence);
            if self.processes_count >= places {
                self.make_room(channel_index, precedence, places, actions);
                break;
            }
            let process = self.new_process_id();
            let channel = &mut self.channels[channel_index.0 as usize];
            let need = Some((precedence, channel.assignable[precedence as usize]));
            channel.last_start = Some(Start { process, at: UnixMillis(self.now), need });
            actions.push(Action::StartProcess { process, channel: channel.name.to_string() });
            self.add_process(process, Process::new(channel_index, State::Starting));
        }
        self.await_starts();
    }

    /// How many processes may exist for one more of this level to be started.
    pub(crate) fn places(&self, precedence: Precedence) -> u32 {
        let limits = &self.limits;
        let reserves = Reserves { urgent: limits.qmgr_reserve_urgent, normal: limits.qmgr_reserve_normal };
        reserves.limit(limits.qmgr_maxchans, precedence.civil())
    }

    /// Wakes each channel that wants a process when it may start one, by the first rule that ends.
    fn await_starts(&mut self) {
        for at in 0..self.channels.len() {
            let channel = &mut self.channels[at];
            if !channel.may_have_one_more() || !channel.wants_process(Precedence::ALL[0]) {
                continue;
            }
            let wanting = Precedence::ALL.into_iter().filter(|&level| channel.wants_process(level));
            let starts = wanting.map(|level| channel.start_at(level.civil(), &self.limits).0);
            if let Some(next) = starts.filter(|&at| at > self.now).min() {
                let due = Due::Channel(ChannelIndex(crate::index_of(at)));
                let first = next.min(channel.timer_at);
                self.timers.change(due, &mut channel.timer_at, first);
            }
        }
    }

    /// The channel that needs one more process and may have it, and the level that needs it: the highest level
    /// first, then the channel with the fewest processes, then the one whose last start is longest ago.
    ///
    /// The processes that are being started are taken to serve the highest levels, so that a flash does not lend its
    /// right to the places in reserve to the routine behind it.
    fn neediest_channel(&self) -> Option<(ChannelIndex, Precedence)> {
        Precedence::ALL.into_iter().rev().find_map(|precedence| {
            (0..self.channels.len())
                .filter(|&at| self.needs_process(&self.channels[at], precedence))
                .min_by_key(|&at| {
                    let channel = &self.channels[at];
                    (channel.processes_count, channel.last_start.map(|start| start.process))
                })
                .map(|at| (ChannelIndex(crate::index_of(at)), precedence))
        })
    }

    /// Whether the channel needs, and may start at this instant, one more process for this level and those above.
    fn needs_process(&self, channel: &Channel, precedence: Precedence) -> bool {
        channel.wants_process(precedence)
            && channel.may_have_one_more()
            && channel.start_at(precedence.civil(), &self.limits).0 <= self.now
    }

    /// Stops processes of other channels until one more of this level will fit, idle ones before busy ones; none, if
    /// they do not suffice.
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
        let mut going: Vec<(ProcessId, StopReason)> = self
            .idle_processes(for_channel, level)
            .into_iter()
            .take(wanted)
            .map(|process| (process, StopReason::MakeRoom))
            .collect();
        while going.len() < wanted {
            let Some(process) = self.next_to_give(for_channel, level, &going) else { return };
            going.push((process, StopReason::Balance));
        }
        for (process, reason) in going {
            self.stop(process, reason, actions);
        }
    }

    /// The idle processes of other channels, idle for longest first; not those that are a reserve for mail below
    /// which this level is.
    fn idle_processes(&self, for_channel: ChannelIndex, level: Precedence) -> Vec<ProcessId> {
        let mut idle: Vec<(u64, ProcessId)> = Vec::new();
        for (at, channel) in self.channels.iter().enumerate() {
            let is_reserve = channel.highest_waiting().is_some_and(|highest| highest >= level);
            if at == for_channel.0 as usize || is_reserve {
                continue;
            }
            let unused = channel.attached.iter().take_while(|(used, _)| *used == 0);
            idle.extend(unused.map(|&(_, Reverse(id))| (self.processes[&id].idle_since, id)));
        }
        idle.sort_unstable();
        idle.into_iter().map(|(_, id)| id).collect()
    }

    /// The process that gives way, besides those that are `going` already: of the channel with the most that stay,
    /// the one with the least to do, among equals the youngest.
    fn next_to_give(
        &mut self,
        for_channel: ChannelIndex,
        level: Precedence,
        going: &[(ProcessId, StopReason)],
    ) -> Option<ProcessId> {
        let mut givers: Vec<(u32, Reverse<u32>)> = Vec::with_capacity(self.channels.len());
        for (at, channel) in self.channels.iter().enumerate() {
            if at != for_channel.0 as usize {
                let is_of = |process: &ProcessId| self.processes[process].channel.0 as usize == at;
                let leaving = going.iter().filter(|(process, _)| is_of(process)).count();
                let staying = channel.processes_count - channel.draining_count - crate::index_of(leaving);
                givers.push((staying, Reverse(crate::index_of(at))));
            }
        }
        givers.sort_unstable();
        let needy_count = self.channels[for_channel.0 as usize].processes_count;
        for (staying, Reverse(at)) in givers.into_iter().rev() {
            let giver = ChannelIndex(at);
            let mut attached = self.channels[at as usize].attached.iter().map(|&(_, Reverse(id))| id);
            let is_going = |id: &ProcessId| going.iter().any(|(process, _)| process == id);
            let Some(id) = attached.find(|id| !is_going(id)) else { continue };
            match self.may_take(level, needy_count, giver, staying, id) {
                Take::Now => return Some(id),
                Take::At(at) => {
                    let channel = &mut self.channels[for_channel.0 as usize];
                    let next = at.min(channel.timer_at);
                    self.timers.change(Due::Channel(for_channel), &mut channel.timer_at, next);
                }
                Take::Never => {}
            }
        }
        None
    }

    /// Whether a channel that has `needy_count` processes and needs one for this level may have this one, of a channel
    /// of which so many stay.
    fn may_take(
        &self,
        level: Precedence,
        needy_count: u32,
        giver: ChannelIndex,
        staying: u32,
        process: ProcessId,
    ) -> Take {
        let highest = self.channels[giver.0 as usize].highest_waiting();
        if level.civil() == CivilPriority::Urgent && highest < Some(level) {
            return Take::Now;
        }
        if highest > Some(level) {
            return Take::Never;
        }
        if staying >= needy_count.saturating_add(2) {
            return Take::Now;
        }
        if needy_count > 0 || staying == 0 {
            return Take::Never;
        }
        // They take turns: its only one has served for a while.
        let turn_ms = self.limits.qmgr_chan_time1_ms.max(TURN_MS_MIN);
        let over_at = self.processes[&process].attached_at.saturating_add(turn_ms);
        if over_at <= self.now { Take::Now } else { Take::At(over_at) }
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
            let start = Start { process: id, at: UnixMillis(self.now), need: None };
            self.channels[channel.0 as usize].last_start = Some(start);
            self.add_process(id, Process::new(channel, State::Starting));
        }
    }

    pub(crate) fn process_attached(&mut self, id: ProcessId, channel: &str, capacity: u32) {
        self.process_started(id, channel);
        let now = self.now;
        self.with_process(id, |process| {
            process.attached_at = now;
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
            channel.held_off_until = self.now.saturating_add(wait_ms);
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
            if before.exists && channel.processes_count == 0 {
                channel.emptied_at = Some(self.now);
            }
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

/// When a channel may take the process of another.
enum Take {
    /// At once.
    Now,
    /// Then, if nothing changes.
    At(u64),
    /// Not as things are.
    Never,
}
