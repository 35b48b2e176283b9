//! What an action must keep at the point at which it is done, and what it changes in the account.

use sternpost_message::{CivilPriority, MlistId, Precedence};
use sternpost_scheduler::{Action, ProcessId, StopReason};

use super::book::{Life, Place, ProcessBook, Turn, left_for, recipients_of};
use super::{Kept, Ledger};

/// An assignment as the scheduler orders it.
struct Assignment<'a> {
    process: ProcessId,
    id: MlistId,
    channel: &'a str,
    peer: &'a str,
    recipients: Vec<u32>,
    attempts: u16,
}

impl Ledger {
    pub(super) fn judge(&mut self, action: &Action) -> Kept {
        match action {
            Action::Assign { process, mlist, channel, peer, recipients, attempts } => {
                let assignment = Assignment {
                    process: *process,
                    id: *mlist,
                    channel,
                    peer,
                    recipients: recipients_of(recipients),
                    attempts: *attempts,
                };
                self.assign(&assignment)
            }
            Action::StartProcess { process, channel, .. } => self.start(*process, channel),
            Action::StopProcess { process, reason } => self.stop(*process, *reason),
            Action::KillProcess { process, .. } => {
                let channel = self.channel_of.get(process).copied();
                let life = channel.and_then(|at| self.channels[at].process(*process)).map(|known| known.life);
                ensure(life == Some(Life::Stopping), || {
                    format!("{process:?} is killed, which was not asked to stop: {life:?}")
                })
            }
            Action::Expired { mlist, recipients } => {
                self.is_waiting(*mlist, &recipients_of(recipients))?;
                ensure(self.leaves[mlist].expires_at <= self.now, || {
                    format!("{mlist} expires before its time")
                })?;
                self.leave(*mlist);
                self.leaves.remove(mlist);
                Ok(())
            }
            Action::DelayReportDue { mlist, recipients } => {
                self.is_waiting(*mlist, &recipients_of(recipients))?;
                let leaf = self.leaves.get_mut(mlist).expect("it waits");
                let late_at = leaf.late_at.take().filter(|at| *at <= self.now);
                let Some(at) = late_at else {
                    return Err(format!("the delay of {mlist} is reported before its time, or twice"));
                };
                self.deadlines.remove(&(at, *mlist));
                Ok(())
            }
        }
    }

    fn is_waiting(&self, id: MlistId, recipients: &[u32]) -> Kept {
        let Some(leaf) = self.leaves.get(&id) else {
            return Err(format!("{id} is lost or doubled: it is not in the tree (any more)"));
        };
        ensure(leaf.place == Place::Waiting, || format!("{id} is doubled: it is {:?}", leaf.place))?;
        ensure(leaf.pending == recipients, || {
            format!("{id} has the recipients {:?} and not {recipients:?}", leaf.pending)
        })
    }

    fn assign(&mut self, order: &Assignment<'_>) -> Kept {
        let id = order.id;
        self.is_waiting(id, &order.recipients)?;
        let leaf = &self.leaves[&id];
        let (peer, level) = (&self.peers[leaf.peer], leaf.level);
        let channel = &self.channels[peer.channel];
        ensure((channel.name.as_str(), peer.name.as_str()) == (order.channel, order.peer), || {
            format!("{id} goes to {} on {}", order.peer, order.channel)
        })?;
        ensure(leaf.attempts == order.attempts, || {
            format!("back-off: {id} has {} failed attempts, not {}", leaf.attempts, order.attempts)
        })?;
        let until = leaf.retry_at.max(peer.retry_at);
        ensure(until <= self.now, || format!("back-off: {id} is tried {} ms too early", until - self.now))?;
        let known = channel.processes.iter().find(|process| process.id == order.process);
        let Some(process) = known.filter(|process| process.life == Life::Attached) else {
            return Err(format!("{id} goes to {:?}, which takes nothing: {known:?}", order.process));
        };
        ensure(process.used < process.capacity, || {
            format!("limits: {:?} has {} of {} already", process.id, process.used, process.capacity)
        })?;
        ensure(peer.in_progress < peer.slots_for(level), || {
            let (used, limit) = (peer.in_progress, peer.slots_for(level));
            format!("limits: {} has {used} in progress; for {level} there are {limit} slots", peer.name)
        })?;
        let free = |process: &ProcessBook| process.capacity.saturating_sub(process.used);
        let most = channel.attached().map(free).max();
        ensure(Some(free(process)) == most, || {
            format!(
                "{id} goes to {:?}, which has {} free slots: another has {most:?}",
                process.id,
                free(process)
            )
        })?;
        let (highest, turn, age_credit) = self.next(peer.channel)?;
        let (used, limit) = channel.slots_for(highest);
        ensure(used < limit, || {
            format!("limits: {} has {used} slots in use; for {highest} there are {limit}", channel.name)
        })?;
        ensure(turn.2 == id, || {
            let (next, next_level) = (turn.2, self.leaves[&turn.2].level);
            let order =
                format!("{id} ({level}) is assigned before {next} ({next_level}) on {}", channel.name);
            if next_level > level {
                format!("precedence order: {order}")
            } else {
                format!("order of equals: {order}")
            }
        })?;
        let at = peer.channel;
        self.channels[at].age_credit = age_credit;
        self.begin(order);
        Ok(())
    }

    /// The Mlist that a slot of the channel has to go to: the highest level that waits there, whose turn it is, and the credit of
    /// age after that.
    fn next(&self, at: usize) -> Result<(Precedence, Turn, u32), String> {
        let channel = &self.channels[at];
        let highest =
            channel.highest().ok_or_else(|| format!("nothing may be assigned on {}", channel.name))?;
        let first = channel.turns[highest as usize].first().copied().expect("the level is not empty");
        let share = self.limits.age_share_percent;
        let credit = channel.age_credit.saturating_add(share);
        let eldest = channel.turns.iter().flatten().min_by_key(|turn| turn.2).filter(|_| share > 0);
        // A slot that is free for normal mail is; one that is kept for urgent mail is not age's.
        let may_have_it = |turn: &&Turn| {
            let level = self.leaves[&turn.2].level.max(highest.min(Precedence::Immediate));
            let (used, limit) = channel.slots_for(level);
            used < limit
        };
        Ok(match eldest.filter(|_| credit >= 100).filter(may_have_it) {
            Some(eldest) => (highest, *eldest, credit - 100),
            None => (highest, first, credit.min(100)),
        })
    }

    fn begin(&mut self, order: &Assignment<'_>) {
        self.leave(order.id);
        self.served += 1;
        self.in_progress += 1;
        let leaf = self.leaves.get_mut(&order.id).expect("an assignment of an Mlist that is there");
        let peer = &mut self.peers[leaf.peer];
        leaf.place = Place::InProgress(order.process);
        leaf.open = leaf.pending.clone();
        leaf.wave = peer.wave;
        (leaf.has_failed_by_peer, leaf.is_judged, leaf.has_hung_up) = (false, false, false);
        (leaf.has_failed, leaf.has_failed_by_message) = (false, false);
        peer.in_progress += 1;
        peer.is_tried = true;
        peer.served = self.served;
        let at = leaf.peer;
        if let Some(process) = self.channels[peer.channel].process(order.process) {
            process.used += 1;
            process.held.insert(order.id);
        }
        self.refresh(at);
    }

    /// A process starts for the highest level for which the channel needs one and there is a place. Other channels with a
    /// better right have none to start.
    fn start(&mut self, process: ProcessId, name: &str) -> Kept {
        let Some(&at) = self.channel_by_name.get(name) else {
            return Err(format!("a process starts for {name}, which nobody has named"));
        };
        let is_new = !self.channel_of.contains_key(&process);
        ensure(is_new, || format!("{process:?} is started twice"))?;
        let count = self.processes();
        let levels = Precedence::ALL.into_iter().rev();
        let level =
            levels.into_iter().find(|&level| self.needs_process(at, level) && count < self.places(level));
        let Some(level) = level else {
            let limits = &self.limits;
            return Err(format!(
                "limits: {name} starts a process beside {count} of {} (reserves {} and {}), its own are {}, and what waits there by level \
                 is {:?}",
                limits.qmgr_maxchans,
                limits.qmgr_reserve_urgent,
                limits.qmgr_reserve_normal,
                self.channels[at].processes(|_| true),
                self.channels[at].assignable,
            ));
        };
        let rival = (0..self.channels.len())
            .flat_map(|rival| Precedence::ALL.map(|level| (rival, level)))
            .filter(|&(rival, rivals_level)| rivals_level > level && self.needs_process(rival, rivals_level))
            .find(|(_, rivals_level)| rivals_level.civil() == CivilPriority::Urgent || !self.has_made_room);
        ensure(rival.is_none(), || {
            format!("precedence order: {name} starts a process for {level} before {rival:?}")
        })?;
        self.begin_process(at, process);
        Ok(())
    }

    fn stop(&mut self, id: ProcessId, reason: StopReason) -> Kept {
        let at = self.channel_of.get(&id).copied();
        let all: u32 = self.channels.iter().map(|channel| channel.processes(is_staying)).sum();
        let (now, maxchans) = (self.now, self.limits.qmgr_maxchans);
        let needs_one = |level| {
            (0..self.channels.len()).any(|other| Some(other) != at && self.needs_process(other, level))
        };
        let is_needed = Precedence::ALL.into_iter().any(needs_one);
        let Some(channel) = at.map(|at| &mut self.channels[at]) else {
            return Err(format!("{id:?} is stopped and not known"));
        };
        let idle_stop_ms = channel.limits.as_ref().map(|limits| limits.idle_stop_ms.max(1));
        let processes_max = channel.limits.as_ref().map_or(0, |limits| limits.processes_max);
        let mine = channel.processes(is_staying);
        let process = channel.process(id).expect("a process is in its channel's account");
        ensure(process.life == Life::Attached, || format!("{process:?} is stopped"))?;
        let is_right = match reason {
            StopReason::Idle => {
                process.used == 0 && idle_stop_ms.is_some_and(|ms| process.idle_since + ms <= now)
            }
            StopReason::MakeRoom => process.used == 0 && is_needed,
            StopReason::Balance => is_needed,
            StopReason::OverLimit => mine > processes_max || all > maxchans,
            StopReason::NotConfigured => idle_stop_ms.is_none(),
        };
        ensure(is_right, || format!("{process:?} is stopped for {reason:?} at {now}"))?;
        process.life = Life::Stopping;
        self.has_made_room |= matches!(reason, StopReason::MakeRoom | StopReason::Balance);
        Ok(())
    }

    /// Processes that may exist for one more of this level to start.
    pub(super) fn places(&self, level: Precedence) -> u64 {
        let limits = &self.limits;
        let places =
            left_for(level, limits.qmgr_maxchans, limits.qmgr_reserve_urgent, limits.qmgr_reserve_normal);
        places.into()
    }

    /// Whether a channel needs one more process for this level and those above, and may by its own limits have it, at some time.
    pub(super) fn wants_process(&self, at: usize, level: Precedence) -> bool {
        let channel = &self.channels[at];
        let Some(limits) = &channel.limits else { return false };
        // Urgent mail does not wait for processes that finish.
        let is_urgent = level.civil() == CivilPriority::Urgent;
        let counted = channel.processes(|process| !is_urgent || is_staying(process));
        channel.assignable[level as usize] > self.expected(at) && counted < limits.processes_max
    }

    /// Mlists that the processes which start are expected to take.
    fn expected(&self, at: usize) -> u64 {
        let channel = &self.channels[at];
        let each = channel.limits.as_ref().map_or(1, |limits| limits.slots_per_process.max(1));
        u64::from(channel.processes(|process| process.life == Life::Starting)) * u64::from(each)
    }

    /// The same, now.
    pub(super) fn needs_process(&self, at: usize, level: Precedence) -> bool {
        self.wants_process(at, level) && self.start_at(at, level) <= self.now
    }

    /// From when on a channel may start a process for this level. Urgent mail waits for no economy.
    pub(super) fn start_at(&self, at: usize, level: Precedence) -> u64 {
        let (channel, limits) = (&self.channels[at], &self.limits);
        if level.civil() == CivilPriority::Urgent {
            return channel.held_off_until;
        }
        let slots: u64 = channel.attached().map(|process| u64::from(process.capacity)).sum();
        let is_light = channel.assignable[Precedence::Deferred as usize] < slots + self.expected(at);
        let time2 = limits.qmgr_chan_time2_ms;
        let apart = if is_light { limits.qmgr_chan_time3_ms.max(time2) } else { time2 };
        let after_start = channel.last_start.map_or(0, |(at, _)| at + apart);
        let is_empty = channel.processes(|_| true) == 0;
        let emptied_at = channel.emptied_at.filter(|_| is_empty);
        let after_last = emptied_at.map_or(0, |at| at + limits.qmgr_chan_time1_ms);
        channel.held_off_until.max(after_start).max(after_last)
    }
}

fn is_staying(process: &ProcessBook) -> bool {
    process.life != Life::Stopping
}

pub(super) fn ensure(holds: bool, words: impl FnOnce() -> String) -> Kept {
    if holds { Ok(()) } else { Err(words()) }
}
