//! The decisions: who gets a slot, which channel gets a process, which process has to go.

use std::cmp::Reverse;
use std::sync::Arc;

use sternpost_message::{CivilPriority, Precedence, UnixMillis};

use crate::backoff::delay_ms;
use crate::limits::Reserves;
use crate::peer::Eldest;
use crate::process::{
    CAPACITY_MAX, Channel, ChannelIndex, Process, START_HOLD_OFF_MAX_MS, START_HOLD_OFF_STEP_MS, Start, State,
};
use crate::timer::{Due, NEVER};
use crate::tree::Place;
use crate::{Action, KillReason, ProcessId, Scheduler, StopReason};

/// What one assignment by age costs a channel of its credit, hundredths.
const AGE_CREDIT_OF_ONE: u32 = 100;
/// Pause between two looks at a process whose time to finish is over while an outcome of it is being recorded.
/// Milliseconds: outcomes wait a tenth of that for a shared sync.
const OUTCOME_MS: u64 = 1_000;
/// For so long a channel keeps a process that another one wants, at least, and one that finishes is waited for.
/// Milliseconds: the cost of starting a process is a small part of it.
const TURN_MS_MIN: u64 = 1_000;

/// Processes whose places are about to be free.
#[derive(Clone, Copy, Debug, Default)]
struct Coming {
    /// They were asked to stop and have nothing to do.
    exiting: u32,
    /// They finish what they have, and have done so for a short time.
    finishing: u32,
}

impl Scheduler {
    /// Everything that can be decided now.
    pub(crate) fn decide(&mut self, actions: &mut Vec<Action>) {
        if std::mem::take(&mut self.is_surplus_possible) {
            self.stop_surplus(actions);
        }
        loop {
            while let Some(channel) = self.dirty.pop() {
                self.channels[channel.0 as usize].is_dirty = false;
                while self.assign_one(channel, actions) {}
            }
            if self.counts.assignable > 0 {
                self.start_processes(actions);
            }
            // With a process that stops the reserves of its channel shrink as well.
            if self.dirty.is_empty() {
                return;
            }
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
        // The slot is one that the highest may have; the reserve for urgent mail is not age's.
        let may_by_age = |eldest: &&Eldest| {
            let shared = highest.civil().min(CivilPriority::Normal);
            channel.slots_used < channel.slots_limit(eldest.precedence.civil().max(shared))
        };
        let eldest = channel.eldest.first().filter(may_by_age).copied();
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
        self.take_out(index);
        self.hold(index, process, recipients);
        true
    }

    /// Starts processes for Mlists that found no slot while there is a place, and makes room where there is none.
    fn start_processes(&mut self, actions: &mut Vec<Action>) {
        while self.start_one(actions) {}
        self.await_starts();
    }

    /// Starts one process, if one is needed and there is a place; else makes room for the first that may have some.
    fn start_one(&mut self, actions: &mut Vec<Action>) -> bool {
        let mut is_room_coming = false;
        for (channel, precedence) in self.needy_channels() {
            let places = self.places(precedence);
            if self.counted() < places {
                self.start(channel, precedence, actions);
                return true;
            }
            // One at a time: whoever comes behind asks when that has its place.
            is_room_coming = is_room_coming || self.make_room(channel, precedence, places, actions);
        }
        false
    }

    fn start(&mut self, channel_index: ChannelIndex, precedence: Precedence, actions: &mut Vec<Action>) {
        if self.promised == Some(channel_index) {
            self.promised = None;
        }
        let process = self.new_process_id();
        let channel = &mut self.channels[channel_index.0 as usize];
        let waiting = channel.assignable[precedence as usize];
        let need = Some((precedence, waiting));
        channel.last_start = Some(Start { process, at: UnixMillis(self.now), need });
        actions.push(Action::StartProcess {
            process,
            channel: channel.name.to_string(),
            precedence,
            waiting,
        });
        let is_own = true;
        self.add_process(process, Process { is_own, ..Process::new(channel_index, State::Starting) });
    }

    /// Processes that count against `qmgr_maxchans`: of those that leave, as many as that do not. So an upgrade hinders no
    /// start, and any number of them one after the other leaves no more than twice as many processes.
    pub(crate) fn counted(&self) -> u32 {
        self.processes_count - self.leaving_count().min(self.limits.qmgr_maxchans)
    }

    fn leaving_count(&self) -> u32 {
        self.channels.iter().map(|channel| channel.leaving_count).sum()
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
            if !channel.wants_process(Precedence::ALL[0]) {
                continue;
            }
            let wanting = Precedence::ALL
                .into_iter()
                .filter(|&level| channel.wants_process(level) && channel.may_have_one_more(level.civil()));
            let starts = wanting.map(|level| channel.start_at(level.civil(), &self.limits).0);
            if let Some(next) = starts.filter(|&at| at > self.now).min() {
                let due = Due::Channel(ChannelIndex(crate::index_of(at)));
                let first = next.min(channel.timer_at);
                self.timers.change(due, &mut channel.timer_at, first);
            }
        }
    }

    /// The channels that need one more process and may have it, each with the highest level that needs it, in the order of
    /// their right to it: urgent levels, the channel for which a place was made, the other levels; in a level the channel
    /// with the fewest processes, then the one whose last start is longest ago.
    ///
    /// The processes that are being started are taken to serve the highest levels, so that a flash does not lend its
    /// right to the places in reserve to the routine behind it.
    fn needy_channels(&self) -> Vec<(ChannelIndex, Precedence)> {
        let mut needy: Vec<_> = (0..self.channels.len())
            .filter_map(|at| {
                let (index, channel) = (ChannelIndex(crate::index_of(at)), &self.channels[at]);
                let levels = Precedence::ALL.into_iter().rev();
                let precedence = levels.into_iter().find(|&level| self.needs_process(channel, level))?;
                let urgent = Some(precedence).filter(|level| level.civil() == CivilPriority::Urgent);
                let is_promised = self.promised == Some(index);
                let last_start = channel.last_start.map(|start| start.process);
                let right = (
                    Reverse(urgent),
                    Reverse(is_promised),
                    Reverse(precedence),
                    channel.counted(),
                    last_start,
                );
                Some((right, index, precedence))
            })
            .collect();
        needy.sort_unstable();
        needy.into_iter().map(|(_, index, precedence)| (index, precedence)).collect()
    }

    /// Whether the channel needs, and may start at this instant, one more process for this level and those above.
    fn needs_process(&self, channel: &Channel, precedence: Precedence) -> bool {
        channel.wants_process(precedence)
            && channel.may_have_one_more(precedence.civil())
            && channel.start_at(precedence.civil(), &self.limits).0 <= self.now
    }

    /// Stops processes of other channels until one more of this level will fit, idle ones before busy ones; none, if
    /// they do not suffice. Whether there will be room.
    fn make_room(
        &mut self,
        needy: ChannelIndex,
        level: Precedence,
        places: u32,
        actions: &mut Vec<Action>,
    ) -> bool {
        if places == 0 {
            return false;
        }
        let short = self.counted() + 1 - places;
        let (exiting, finishing) = self.places_that_come(needy);
        // Urgent mail does not wait for what finishes first while somebody is idle.
        let is_urgent = level.civil() == CivilPriority::Urgent;
        let sure = if is_urgent { exiting } else { exiting + finishing };
        if sure >= short {
            return true;
        }
        let mut going: Vec<(ProcessId, StopReason)> = self
            .idle_processes(needy, level)
            .into_iter()
            .take((short - sure) as usize)
            .map(|process| (process, StopReason::MakeRoom))
            .collect();
        if going.len() < (short - sure) as usize {
            let wanted = short.saturating_sub(exiting + finishing) as usize;
            going.truncate(wanted);
            while going.len() < wanted {
                let Some(process) = self.next_to_give(needy, level, &going) else { return false };
                going.push((process, StopReason::Balance));
            }
        }
        for (process, reason) in going {
            self.stop(process, reason, actions);
            self.promised = Some(needy);
        }
        true
    }

    /// The places that are about to be free: of processes that were asked to stop and have nothing to do, and of those that
    /// have been finishing for a short time. One that takes longer is not waited for: its peer may never end. One that leaves
    /// frees a place only where so many leave that some of them count.
    fn places_that_come(&mut self, needy: ChannelIndex) -> (u32, u32) {
        if self.channels.iter().all(|channel| channel.draining_count == 0) {
            return (0, 0);
        }
        let (mut own, mut leaving, mut look_at) = (Coming::default(), Coming::default(), NEVER);
        for process in self.processes.values().filter(|process| process.state == State::Draining) {
            let over_at = process.drain_since.saturating_add(TURN_MS_MIN);
            let kind = if process.is_leaving { &mut leaving } else { &mut own };
            if process.used == 0 {
                kind.exiting += 1;
            } else if over_at > self.now {
                kind.finishing += 1;
                look_at = look_at.min(over_at);
            }
        }
        self.look_again(needy, look_at);
        let counting = self.leaving_count().saturating_sub(self.limits.qmgr_maxchans);
        let exiting = counting.min(leaving.exiting);
        let finishing = (counting - exiting).min(leaving.finishing);
        (own.exiting + exiting, own.finishing + finishing)
    }

    /// Looks at the channel again at that instant at the latest.
    fn look_again(&mut self, index: ChannelIndex, at: u64) {
        let channel = &mut self.channels[index.0 as usize];
        let first = at.min(channel.timer_at);
        self.timers.change(Due::Channel(index), &mut channel.timer_at, first);
    }

    /// The idle processes of other channels, idle for longest first; not those that are a reserve for mail below
    /// which this level is. A channel's only one has been idle for a while, unless the other has none or its mail is urgent.
    fn idle_processes(&mut self, needy: ChannelIndex, level: Precedence) -> Vec<ProcessId> {
        let takes_any =
            level.civil() == CivilPriority::Urgent || self.channels[needy.0 as usize].staying() == 0;
        let mut idle: Vec<(u64, ProcessId)> = Vec::new();
        let mut look_at = NEVER;
        for (at, channel) in self.channels.iter().enumerate() {
            let is_reserve = channel.highest_waiting().is_some_and(|highest| highest >= level);
            if at == needy.0 as usize || is_reserve {
                continue;
            }
            for &(_, Reverse(id)) in channel.attached.iter().take_while(|(used, _)| *used == 0) {
                let idle_since = self.processes[&id].idle_since;
                let free_at = idle_since.saturating_add(TURN_MS_MIN);
                if takes_any || channel.staying() > 1 || free_at <= self.now {
                    idle.push((idle_since, id));
                } else {
                    look_at = look_at.min(free_at);
                }
            }
        }
        self.look_again(needy, look_at);
        idle.sort_unstable();
        idle.into_iter().map(|(_, id)| id).collect()
    }

    /// The process that gives way, besides those that are `going` already: of the channel with the most that stay and may
    /// give one, the one with the least to do, among equals the youngest, of those that have served for long enough.
    fn next_to_give(
        &mut self,
        needy: ChannelIndex,
        level: Precedence,
        going: &[(ProcessId, StopReason)],
    ) -> Option<ProcessId> {
        let mut givers: Vec<(u32, Reverse<u32>)> = Vec::with_capacity(self.channels.len());
        for (at, channel) in self.channels.iter().enumerate() {
            if at != needy.0 as usize {
                let is_of = |process: &ProcessId| self.processes[process].channel.0 as usize == at;
                let leaving = going.iter().filter(|(process, _)| is_of(process)).count();
                givers.push((channel.staying() - crate::index_of(leaving), Reverse(crate::index_of(at))));
            }
        }
        givers.sort_unstable();
        let mut look_at = NEVER;
        for (staying, Reverse(at)) in givers.into_iter().rev() {
            let giver = ChannelIndex(at);
            let attached = self.channels[at as usize].attached.iter().map(|&(_, Reverse(id))| id);
            for id in attached.filter(|id| !going.iter().any(|(process, _)| process == id)) {
                match self.may_take(level, needy, giver, staying, id) {
                    Some(at) if at <= self.now => return Some(id),
                    Some(at) => look_at = look_at.min(at),
                    None => break,
                }
            }
        }
        if look_at != NEVER {
            self.channels[needy.0 as usize].turn_at = look_at;
        }
        self.look_again(needy, look_at);
        None
    }

    /// From when on a channel that needs a process for this level may have this one, of a channel of which so many stay;
    /// `None` as long as nothing changes.
    fn may_take(
        &self,
        level: Precedence,
        needy: ChannelIndex,
        giver: ChannelIndex,
        staying: u32,
        process: ProcessId,
    ) -> Option<u64> {
        let highest = self.channels[giver.0 as usize].highest_waiting();
        let needy_count = self.channels[needy.0 as usize].staying();
        let is_urgent = level.civil() == CivilPriority::Urgent;
        let after = |turn_ms: u64| Some(self.processes[&process].attached_at.saturating_add(turn_ms));
        if staying == 0 || highest > Some(level) {
            return None;
        }
        if is_urgent && highest < Some(level) {
            let has_better_right = highest.is_some() || needy_count == 0 || staying > needy_count;
            return if has_better_right { Some(self.now) } else { after(TURN_MS_MIN) };
        }
        if staying >= needy_count.saturating_add(2) {
            return after(TURN_MS_MIN);
        }
        if needy_count > 0 {
            return None;
        }
        // They take turns.
        let economy_ms = if is_urgent { 0 } else { self.limits.qmgr_chan_time1_ms };
        after(economy_ms.max(TURN_MS_MIN))
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
        let now = self.now;
        self.with_process(process, |process| {
            process.state = State::Draining;
            process.drain_since = now;
        });
        self.progressed(process);
        actions.push(Action::StopProcess { process, reason });
    }

    /// At least 1 ms: a process must not be killed in the instant in which it is asked to stop.
    fn drain_timeout_ms(&self) -> u64 {
        self.limits.drain_timeout_ms.max(1)
    }

    /// When the time of a process that was asked to stop is over, whatever progress it makes.
    pub(crate) fn drain_until_max(&self, process: &Process) -> u64 {
        process.drain_since.saturating_add(self.limits.drain_time_max_ms.max(self.drain_timeout_ms()))
    }

    /// The time of a process to finish begins anew, if it was asked to stop and its longest time is not over.
    pub(crate) fn progressed(&mut self, id: ProcessId) {
        let Some(process) = self.processes.get(&id).filter(|process| process.state == State::Draining) else {
            return;
        };
        let until_max = self.drain_until_max(process);
        if self.now < until_max {
            let until = self.now.saturating_add(self.drain_timeout_ms()).min(until_max);
            self.with_process(id, |process| process.drain_until = until);
        }
    }

    /// The time of a process is over: to be idle, or to finish what it has.
    pub(crate) fn process_is_due(&mut self, id: ProcessId, actions: &mut Vec<Action>) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        process.timer_at = NEVER;
        if process.state == State::Draining {
            self.drain_is_over(id, actions);
        } else {
            self.process_is_idle(id, actions);
        }
    }

    /// It is killed, unless what a peer has taken is on its way to the log: that would be sent again. Nor is that waited for
    /// for ever: a process can say that it has finished what it never records.
    fn drain_is_over(&mut self, id: ProcessId, actions: &mut Vec<Action>) {
        let process = &self.processes[&id];
        let until_max = self.drain_until_max(process);
        let outcome_until = until_max.saturating_add(self.drain_timeout_ms());
        let is_recording =
            process.held.iter().any(|mlist| self.mlists.get(*mlist).place == Place::AwaitingOutcome);
        let until = if is_recording && self.now < outcome_until {
            self.now.saturating_add(OUTCOME_MS).min(outcome_until)
        } else {
            let is_late = self.now >= until_max;
            let reason = if is_late { KillReason::TimeIsOver } else { KillReason::NoProgress };
            actions.push(Action::KillProcess { process: id, reason });
            self.now.saturating_add(self.drain_timeout_ms())
        };
        self.with_process(id, |process| process.drain_until = until);
    }

    fn process_is_idle(&mut self, id: ProcessId, actions: &mut Vec<Action>) {
        let now = self.now;
        let Some(process) = self.processes.get(&id) else { return };
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
            process.attached_at = process.attached_at.min(now);
            process.capacity = capacity.min(CAPACITY_MAX);
            // One that takes nothing is finishing: somebody else has asked it to stop, before the tree was built or now.
            if capacity == 0 {
                process.is_leaving |= process.state != State::Draining && !process.is_own;
                process.state = State::Draining;
                process.drain_since = process.drain_since.min(now);
            } else if process.state != State::Draining {
                process.state = State::Attached;
            }
        });
        if self.processes.get(&id).is_some_and(|process| process.drain_until == NEVER) {
            self.progressed(id);
        }
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
        let mut due_at = if process.state == State::Draining { process.drain_until } else { NEVER };
        if is_idle {
            process.idle_since = process.idle_since.min(self.now);
            if let Some(limits) = &channel.limits {
                // At least 1 ms: a process must not be stopped in the instant in which it attaches.
                due_at = process.idle_since.saturating_add(limits.idle_stop_ms.max(1));
            }
        } else {
            process.idle_since = NEVER;
        }
        self.timers.change(Due::Process(id), &mut process.timer_at, due_at);
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
