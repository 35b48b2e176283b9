//! The same rules once more, slowly and plainly: what the scheduler is compared with after every event. Nothing is
//! kept that can be counted.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use sternpost_message::{
    CivilPriority, ErrorScope, MlistId, Precedence, RecipientIndex, RecipientRange, UnixMillis,
};
use sternpost_scheduler::{
    Action, ChannelLimits, Event, KillReason, Limits, MlistSpec, ProcessId, Reason, Scheduler, StopReason,
    Waiting,
};

/// Where an Mlist is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Waiting,
    InProgress(ProcessId),
    Awaiting(ProcessId),
}

/// An Mlist as the oracle sees it.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    pub(crate) spec: MlistSpec,
    pub(crate) pending: BTreeSet<u32>,
    pub(crate) open: BTreeSet<u32>,
    pub(crate) place: Place,
    retry_at: u64,
    wave: u32,
    failed: bool,
    failed_by_message: bool,
    /// The channel has said that the attempt ended by the peer.
    is_judged: bool,
    /// And that the association had carried mail.
    has_hung_up: bool,
}

impl Leaf {
    pub(crate) fn key(&self) -> (String, String) {
        (self.spec.channel.clone(), self.spec.peer.clone())
    }
}

/// A process's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Starting,
    Attached,
    Draining,
    Gone,
}

/// A process as the oracle sees it.
#[derive(Clone, Debug)]
pub(crate) struct Worker {
    pub(crate) channel: String,
    pub(crate) life: Life,
    capacity: u32,
    /// Started by the scheduler itself.
    is_own: bool,
    /// Another has asked it to stop.
    is_leaving: bool,
    attached_at: u64,
    /// When it was asked to stop.
    drain_since: u64,
    /// From when on it may be killed, once it was asked to stop.
    drain_until: u64,
}

#[derive(Clone, Debug, Default)]
struct Trouble {
    errors: u32,
    retry_at: u64,
    wave: u32,
    tried: bool,
    served: u64,
}

/// What a channel remembers of its processes.
#[derive(Clone, Debug, Default)]
struct Past {
    failures: u64,
    held_off_until: u64,
    /// When and which.
    last_start: Option<(u64, ProcessId)>,
    emptied_at: Option<u64>,
    age_credit: u32,
}

/// The whole oracle.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) now: u64,
    pub(crate) is_going: bool,
    pub(crate) limits: Limits,
    pub(crate) leaves: BTreeMap<MlistId, Leaf>,
    pub(crate) workers: BTreeMap<ProcessId, Worker>,
    peers: BTreeMap<(String, String), Trouble>,
    /// What each configured peer is found to bear, by the scheduler's own word: the oracle checks its bounds and what follows.
    borne: BTreeMap<(String, String), u32>,
    pasts: BTreeMap<String, Past>,
    served: u64,
    /// A process was stopped in favour of another channel.
    has_made_room: bool,
}

pub(crate) fn set_of(ranges: &[RecipientRange]) -> BTreeSet<u32> {
    ranges.iter().flat_map(|range| range.first..range.end()).collect()
}

pub(crate) fn ranges_of(set: &BTreeSet<u32>) -> Vec<RecipientRange> {
    RecipientRange::pack(set.iter().copied().map(RecipientIndex))
}

fn limit(total: u32, urgent: u32, normal: u32, level: Precedence) -> u32 {
    match level.civil() {
        CivilPriority::Urgent => total,
        CivilPriority::Normal => total.saturating_sub(urgent),
        CivilPriority::NonUrgent => total.saturating_sub(urgent + normal),
    }
}

fn count_u32(count: usize) -> u32 {
    u32::try_from(count).expect("the tests are small")
}

impl Model {
    fn channel(&self, name: &str) -> Option<&ChannelLimits> {
        self.limits.channels.iter().find(|channel| channel.name == name)
    }

    /// Mlists of this level that may be in progress for a peer; `None` when it is not configured.
    fn peer_limit(&self, channel: &str, peer: &str, level: Precedence) -> Option<u32> {
        let channel = self.channel(channel)?;
        let peer = channel.peers.iter().find(|limits| limits.name == peer)?;
        let total = self.borne[&(channel.name.clone(), peer.name.clone())];
        let reserve = peer.slots_reserve.unwrap_or(channel.peer_slots_reserve);
        let spare = total.saturating_sub(1) / 2;
        let urgent = reserve.urgent.min(spare);
        Some(limit(total, urgent, reserve.normal.min(spare - urgent), level))
    }

    /// The fewest and the most of a peer; `None` when it is not configured.
    fn peer_bounds(&self, key: &(String, String)) -> Option<(u32, u32)> {
        let channel = self.channel(&key.0)?;
        let peer = channel.peers.iter().find(|limits| limits.name == key.1)?;
        let max = peer.slots_max.unwrap_or(channel.peer_slots_max);
        Some((peer.slots_min.unwrap_or(channel.peer_slots_min).max(1).min(max), max))
    }

    /// Takes over what the scheduler says that its peers bear.
    pub(crate) fn hear(&mut self, scheduler: &Scheduler) {
        self.borne.clear();
        for channel in scheduler.status().channels {
            for peer in channel.peers.iter().filter(|peer| channel.is_configured && peer.is_configured) {
                self.borne.insert((channel.name.to_string(), peer.name.to_string()), peer.slots_borne);
            }
        }
    }

    /// The end of the order that keeps the Mlist waiting.
    fn minimised_until(&self, leaf: &Leaf) -> Option<u64> {
        let orders = self.limits.minimise.iter().filter(|order| {
            (order.from.0..order.until.0).contains(&self.now)
                && leaf.spec.precedence < order.lowest
                && order.channel == leaf.spec.channel
                && order.peer.as_ref().is_none_or(|peer| *peer == leaf.spec.peer)
        });
        orders.map(|order| order.until.0).max()
    }

    fn past(&self, channel: &str) -> Past {
        self.pasts.get(channel).cloned().unwrap_or_default()
    }

    pub(crate) fn in_progress_at(&self, process: ProcessId) -> u32 {
        count_u32(self.leaves.values().filter(|leaf| leaf.place == Place::InProgress(process)).count())
    }

    fn peer_in_progress(&self, channel: &str, peer: &str) -> u32 {
        let is_here = |leaf: &&Leaf| leaf.spec.channel == channel && leaf.spec.peer == peer;
        let leaves = self.leaves.values().filter(is_here);
        count_u32(leaves.filter(|leaf| matches!(leaf.place, Place::InProgress(_))).count())
    }

    fn trouble(&self, leaf: &Leaf) -> Trouble {
        self.peers.get(&(leaf.spec.channel.clone(), leaf.spec.peer.clone())).cloned().unwrap_or_default()
    }

    /// Waits for a slot or a process only.
    fn is_runnable(&self, leaf: &Leaf) -> bool {
        leaf.place == Place::Waiting
            && leaf.retry_at <= self.now
            && self.trouble(leaf).retry_at <= self.now
            && self.peer_limit(&leaf.spec.channel, &leaf.spec.peer, leaf.spec.precedence).is_some()
            && self.minimised_until(leaf).is_none()
    }

    fn peer_has_room(&self, leaf: &Leaf) -> bool {
        let max = self.peer_limit(&leaf.spec.channel, &leaf.spec.peer, leaf.spec.precedence).unwrap_or(0);
        self.peer_in_progress(&leaf.spec.channel, &leaf.spec.peer) < max
    }

    /// What decides who is next on a channel: the smallest goes first.
    fn rank(&self, leaf: &Leaf) -> (Reverse<Precedence>, u32, u64, MlistId) {
        let in_progress = self.peer_in_progress(&leaf.spec.channel, &leaf.spec.peer);
        (Reverse(leaf.spec.precedence), in_progress, self.trouble(leaf).served, leaf.spec.id)
    }

    fn assignable_on(&self, channel: &str) -> impl Iterator<Item = &Leaf> {
        self.leaves.values().filter(move |leaf| {
            leaf.spec.channel == channel && self.is_runnable(leaf) && self.peer_has_room(leaf)
        })
    }

    /// Who is next by precedence.
    fn next_on(&self, channel: &str) -> Option<&Leaf> {
        self.assignable_on(channel).min_by_key(|leaf| self.rank(leaf))
    }

    /// Who is next by age, beside `highest` which may have the slot: the oldest, unless the slot is one for urgent mail.
    fn eldest_on(&self, channel: &str, highest: Precedence) -> Option<&Leaf> {
        let highest = highest.min(Precedence::Immediate);
        self.assignable_on(channel)
            .min_by_key(|leaf| leaf.spec.id)
            .filter(|leaf| self.may_have_a_slot(channel, leaf.spec.precedence.max(highest)))
    }

    fn attached(&self, channel: &str) -> impl Iterator<Item = (ProcessId, u32, u32)> {
        self.workers
            .iter()
            .filter(move |(_, worker)| worker.channel == channel && worker.life == Life::Attached)
            .map(|(&id, worker)| (id, worker.capacity, self.in_progress_at(id)))
    }

    fn may_have_a_slot(&self, channel: &str, level: Precedence) -> bool {
        let Some(limits) = self.channel(channel) else { return false };
        let total: u32 = self.attached(channel).map(|(_, capacity, _)| capacity).sum();
        let used: u32 = self.attached(channel).map(|(_, _, used)| used).sum();
        let full = (limits.processes_max * limits.slots_per_process).max(total).max(1);
        let spare = total.saturating_sub(1);
        let urgent = (limits.slots_reserve.urgent * total).div_ceil(full).min(spare);
        let normal = (limits.slots_reserve.normal * total).div_ceil(full).min(spare - urgent);
        used < limit(total, urgent, normal, level)
    }

    fn living(&self) -> impl Iterator<Item = &Worker> {
        self.workers.values().filter(|worker| worker.life != Life::Gone)
    }

    /// Mlists of a level and above that their peers let go.
    fn assignable(&self, channel: &ChannelLimits, lowest: Precedence) -> u32 {
        let count = |peer: &str| {
            let mut taken = 0;
            for level in Precedence::ALL.into_iter().rev().filter(|&level| level >= lowest) {
                let here = self.leaves.values().filter(|leaf| {
                    (leaf.spec.channel.as_str(), leaf.spec.peer.as_str(), leaf.spec.precedence)
                        == (&channel.name, peer, level)
                        && self.is_runnable(leaf)
                });
                let max = self.peer_limit(&channel.name, peer, level).unwrap_or(0);
                let room = max.saturating_sub(self.peer_in_progress(&channel.name, peer) + taken);
                taken += count_u32(here.count()).min(room);
            }
            taken
        };
        channel.peers.iter().map(|peer| count(&peer.name)).sum()
    }

    fn processes_of(&self, channel: &str) -> usize {
        self.living().filter(|worker| worker.channel == channel).count()
    }

    /// Processes that count against the limit of a channel.
    fn counted_of(&self, channel: &ChannelLimits) -> usize {
        let mine = || self.living().filter(|worker| worker.channel == channel.name);
        let leaving = mine().filter(|worker| worker.is_leaving).count();
        mine().count() - leaving.min(channel.processes_max as usize)
    }

    /// Processes that count against `qmgr_maxchans`.
    fn counted(&self) -> usize {
        let leaving = self.living().filter(|worker| worker.is_leaving).count();
        self.living().count() - leaving.min(self.limits.qmgr_maxchans as usize)
    }

    fn expected_by(&self, channel: &ChannelLimits) -> u32 {
        let mine = self.living().filter(|worker| worker.channel == channel.name);
        count_u32(mine.filter(|worker| worker.life == Life::Starting).count()) * channel.slots_per_process
    }

    /// From when on a process may be started for a level.
    fn start_at(&self, channel: &ChannelLimits, level: Precedence) -> u64 {
        let (past, limits) = (self.past(&channel.name), &self.limits);
        if level.civil() == CivilPriority::Urgent {
            return past.held_off_until;
        }
        let total: u32 = self.attached(&channel.name).map(|(_, capacity, _)| capacity).sum();
        let is_light = self.assignable(channel, Precedence::ALL[0]) < total + self.expected_by(channel);
        let time2 = limits.qmgr_chan_time2_ms;
        let time = if is_light { limits.qmgr_chan_time3_ms.max(time2) } else { time2 };
        let after_start = past.last_start.map_or(0, |(at, _)| at + time);
        let emptied = past.emptied_at.filter(|_| self.processes_of(&channel.name) == 0);
        let after_last = emptied.map_or(0, |at| at + limits.qmgr_chan_time1_ms);
        past.held_off_until.max(after_start).max(after_last)
    }

    /// The same, at whatever instant.
    fn wants_process(&self, channel: &ChannelLimits, level: Precedence) -> bool {
        let is_urgent = level.civil() == CivilPriority::Urgent;
        let counted = if is_urgent { self.staying(&channel.name) } else { self.counted_of(channel) };
        self.assignable(channel, level) > self.expected_by(channel)
            && counted < channel.processes_max as usize
    }

    fn staying(&self, channel: &str) -> usize {
        let mine = self.living().filter(|worker| worker.channel == channel);
        mine.filter(|worker| worker.life != Life::Draining).count()
    }

    /// Whether a channel needs, and by its own limits may have, one more process for a level and those above.
    fn needs_process(&self, channel: &ChannelLimits, level: Precedence) -> bool {
        self.wants_process(channel, level) && self.start_at(channel, level) <= self.now
    }

    /// The highest level for which some channel needs a process, and which channels have the best right to it.
    fn neediest(&self) -> Option<(Precedence, Vec<&str>)> {
        Precedence::ALL.into_iter().rev().find_map(|level| {
            let needy = || self.limits.channels.iter().filter(|channel| self.needs_process(channel, level));
            let right = |channel: &ChannelLimits| {
                let last_start = self.past(&channel.name).last_start.map(|start| start.1);
                (self.counted_of(channel), last_start)
            };
            let best = needy().map(right).min()?;
            let names = needy().filter(|channel| right(channel) == best).map(|channel| channel.name.as_str());
            Some((level, names.collect()))
        })
    }

    /// The highest level that waits on a channel for a slot alone.
    fn highest_waiting(&self, channel: &str) -> Option<Precedence> {
        self.next_on(channel).map(|leaf| leaf.spec.precedence)
    }

    /// Whether a busy process may be asked to make room for a process of this level on another channel.
    fn may_give(&self, process: ProcessId, level: Precedence, to: &str) -> bool {
        let worker = &self.workers[&process];
        let (staying, needy) = (self.staying(&worker.channel), self.staying(to));
        let highest = self.highest_waiting(&worker.channel);
        if worker.channel == to || worker.life != Life::Attached || highest > Some(level) {
            return false;
        }
        let served_ms = self.now - worker.attached_at;
        if level.civil() == CivilPriority::Urgent {
            let is_better = highest < Some(level) && (highest.is_some() || needy == 0 || staying > needy);
            let is_lower = highest < Some(level);
            return is_better || served_ms >= 1_000 && (is_lower || staying >= needy + 2 || needy == 0);
        }
        let turn_ms = self.limits.qmgr_chan_time1_ms.max(1_000);
        served_ms >= 1_000 && staying >= needy + 2 || needy == 0 && served_ms >= turn_ms
    }

    fn places(&self, level: Precedence) -> usize {
        let limits = &self.limits;
        limit(limits.qmgr_maxchans, limits.qmgr_reserve_urgent, limits.qmgr_reserve_normal, level) as usize
    }

    fn delay_ms(&self, failed: u64) -> u64 {
        (failed * self.limits.retry_step_ms).min(self.limits.retry_max_ms)
    }

    fn conclude(&mut self, id: MlistId) {
        let now = self.now;
        let Some(leaf) = self.leaves.get_mut(&id) else { return };
        if leaf.pending.is_empty() {
            self.leaves.remove(&id);
            return;
        }
        leaf.place = Place::Waiting;
        leaf.open.clear();
        if leaf.failed {
            let has_hung_up_again = leaf.has_hung_up && leaf.spec.attempts > 0;
            leaf.spec.attempts += 1;
            if leaf.failed_by_message || has_hung_up_again {
                let attempts = u64::from(leaf.spec.attempts);
                let at = now + self.delay_ms(attempts);
                self.leaves.get_mut(&id).expect("it was there a line ago").retry_at = at;
            }
        }
    }

    pub(crate) fn has_failed(&self, key: &(String, String)) -> bool {
        self.peers.get(key).is_some_and(|trouble| trouble.errors > 0)
    }

    fn association_lost(
        &mut self,
        key: (String, String),
        mlists: &[MlistId],
        holding: u32,
        has_carried: bool,
    ) {
        let mut wave = None;
        let mut refused = BTreeSet::new();
        for id in mlists {
            let Some(leaf) = self.leaves.get_mut(id) else { continue };
            if leaf.key() == key && leaf.place != Place::Waiting {
                (leaf.is_judged, leaf.has_hung_up) = (true, has_carried);
                wave = wave.max(Some(leaf.wave));
                if matches!(leaf.place, Place::InProgress(_)) {
                    refused.insert(*id);
                }
            }
        }
        // A peer that holds others, and whose number is open, has refused one too many.
        let is_governed = self.peer_bounds(&key).is_some_and(|(min, max)| min < max);
        let has_refused_one_more = is_governed && holding > 0;
        if has_carried {
            return;
        }
        if !has_refused_one_more {
            self.peer_failed(key, wave);
            return;
        }
        // What was refused does not go again at once where others that the peer holds have nothing to do.
        let is_under_way = |(id, leaf): &(&MlistId, &Leaf)| {
            leaf.key() == key && matches!(leaf.place, Place::InProgress(_)) && !refused.contains(*id)
        };
        let under_way = self.leaves.iter().filter(is_under_way).count();
        if !refused.is_empty() && under_way < usize::try_from(holding).unwrap_or(usize::MAX) {
            let trouble = self.peers.entry(key).or_default();
            trouble.retry_at = trouble.retry_at.max(self.now + 1_000);
        }
    }

    fn peer_failed(&mut self, key: (String, String), wave: Option<u32>) -> bool {
        let mut trouble = self.peers.get(&key).cloned().unwrap_or_default();
        let counts = wave.map_or(trouble.errors == 0 || trouble.tried, |wave| wave == trouble.wave);
        if counts {
            trouble.errors += 1;
            trouble.wave += 1;
            trouble.tried = false;
            trouble.retry_at = self.now + self.delay_ms(u64::from(trouble.errors));
            self.peers.insert(key, trouble);
        }
        counts
    }

    fn peer_worked(&mut self, key: (String, String)) {
        let trouble = self.peers.entry(key).or_default();
        if trouble.errors > 0 {
            (trouble.errors, trouble.retry_at) = (0, 0);
        }
    }

    fn begin_process(&mut self, process: ProcessId, channel: String, life: Life, capacity: u32) {
        let is_new = !self.workers.contains_key(&process);
        if is_new {
            self.pasts.entry(channel.clone()).or_default().last_start = Some((self.now, process));
        }
        let known = self.workers.get(&process).filter(|known| known.life != Life::Starting);
        let attached_at = known.map_or(self.now, |known| known.attached_at);
        let drain_until = known.map_or(u64::MAX, |known| known.drain_until);
        let before = self.workers.get(&process);
        let is_own = before.is_some_and(|before| before.is_own);
        let was_stopped = before.is_some_and(|before| before.life == Life::Draining && !before.is_leaving);
        let is_leaving = life == Life::Draining && !is_own && !was_stopped;
        let drain_since = known.map_or(u64::MAX, |known| known.drain_since);
        let worker =
            Worker { channel, life, capacity, is_own, is_leaving, attached_at, drain_since, drain_until };
        self.workers.insert(process, worker);
        if life == Life::Draining && drain_until == u64::MAX {
            self.progressed(process);
        }
    }

    fn progressed(&mut self, process: ProcessId) {
        let (now, limits) = (self.now, &self.limits);
        if let Some(worker) = self.workers.get_mut(&process).filter(|worker| worker.life == Life::Draining) {
            worker.drain_since = worker.drain_since.min(now);
            let until_max = worker.drain_since + limits.drain_time_max_ms;
            if now < until_max {
                worker.drain_until = (now + limits.drain_timeout_ms).min(until_max);
            }
        }
    }

    fn begin(&mut self, id: MlistId, process: ProcessId) {
        let leaf = self.leaves.get_mut(&id).expect("the caller has just looked at it");
        let trouble = self.peers.entry((leaf.spec.channel.clone(), leaf.spec.peer.clone())).or_default();
        trouble.tried = true;
        trouble.served = self.served;
        leaf.wave = trouble.wave;
        leaf.place = Place::InProgress(process);
        leaf.open = leaf.pending.clone();
        (leaf.failed, leaf.failed_by_message, leaf.is_judged) = (false, false, false);
        leaf.has_hung_up = false;
    }

    /// What the event means.
    pub(crate) fn take(&mut self, event: &Event) {
        match event.clone() {
            Event::Configure(limits) => self.limits = limits,
            Event::Go => self.is_going = true,
            Event::Queue(spec) => {
                let pending = set_of(&spec.recipients);
                if let Some(leaf) = self.leaves.get_mut(&spec.id) {
                    leaf.pending.extend(pending);
                    return;
                }
                let leaf = Leaf {
                    pending,
                    open: BTreeSet::new(),
                    place: Place::Waiting,
                    retry_at: spec.not_before.0,
                    wave: 0,
                    failed: false,
                    failed_by_message: false,
                    is_judged: false,
                    has_hung_up: false,
                    spec,
                };
                self.leaves.insert(leaf.spec.id, leaf);
            }
            Event::ProcessStarted { process, channel } => {
                if !self.workers.contains_key(&process) {
                    self.begin_process(process, channel, Life::Starting, 0);
                }
            }
            Event::ProcessAttached { process, channel, capacity } => {
                let is_draining =
                    self.workers.get(&process).is_some_and(|known| known.life == Life::Draining);
                let life = if is_draining || capacity == 0 { Life::Draining } else { Life::Attached };
                self.begin_process(process, channel, life, capacity);
            }
            Event::ProcessGone { process } | Event::StartFailed { process } => {
                let now = self.now;
                let Some(worker) = self.workers.get_mut(&process) else { return };
                let past = self.pasts.entry(worker.channel.clone()).or_default();
                if matches!(worker.life, Life::Starting | Life::Attached) {
                    past.failures += 1;
                    past.held_off_until = now + (past.failures * 1_000).min(60_000);
                }
                let channel = worker.channel.clone();
                let was_there = std::mem::replace(&mut worker.life, Life::Gone) != Life::Gone;
                if was_there && self.processes_of(&channel) == 0 {
                    self.pasts.entry(channel).or_default().emptied_at = Some(now);
                }
            }
            Event::Returned { process } => {
                for id in self.held_by(process) {
                    self.conclude(id);
                }
            }
            Event::Progress { process } => self.progressed(process),
            Event::Finished { process, mlist } => {
                self.progressed(process);
                let Some(leaf) = self.leaves.get_mut(&mlist) else { return };
                leaf.place = Place::Awaiting(process);
                if let Some(past) = self.pasts.get_mut(&leaf.spec.channel) {
                    past.failures = 0;
                }
                if leaf.open.is_empty() {
                    self.conclude(mlist);
                }
            }
            Event::Unassigned { mlist, .. } => self.conclude(mlist),
            Event::Settled { mlist, recipients, worked } => {
                let Some(leaf) = self.leaves.get_mut(&mlist) else { return };
                let key = (leaf.spec.channel.clone(), leaf.spec.peer.clone());
                for index in set_of(&recipients) {
                    leaf.pending.remove(&index);
                    leaf.open.remove(&index);
                }
                match leaf.place {
                    Place::Waiting if leaf.pending.is_empty() => drop(self.leaves.remove(&mlist)),
                    Place::Awaiting(_) if leaf.open.is_empty() => self.conclude(mlist),
                    _ => {}
                }
                if worked {
                    self.peer_worked(key);
                }
            }
            Event::Deferred { mlist, recipients, scope } => self.deferred(mlist, &set_of(&recipients), scope),
            Event::PeerFailed { channel, peer, mlists, holding, has_carried } => {
                self.association_lost((channel, peer), &mlists, holding, has_carried);
            }
            Event::PeerWorked { channel, peer } => self.peer_worked((channel, peer)),
            Event::Remove { mlist } => {
                let Some(leaf) = self.leaves.get_mut(&mlist) else { return };
                leaf.pending.clear();
                leaf.open.clear();
                if !matches!(leaf.place, Place::InProgress(_)) {
                    self.leaves.remove(&mlist);
                }
            }
            Event::Wake => {}
        }
    }

    fn deferred(&mut self, id: MlistId, recipients: &BTreeSet<u32>, scope: ErrorScope) {
        let Some(leaf) = self.leaves.get_mut(&id) else { return };
        let key = (leaf.spec.channel.clone(), leaf.spec.peer.clone());
        if leaf.place == Place::Waiting {
            let now = self.now;
            if leaf.pending.is_disjoint(recipients) {
                return;
            }
            let by_message = scope == ErrorScope::Message;
            let counts = if by_message { leaf.retry_at <= now } else { self.peer_failed(key, None) };
            if counts {
                let leaf = self.leaves.get_mut(&id).expect("it was there a line ago");
                (leaf.failed, leaf.failed_by_message) = (true, by_message);
                self.conclude(id);
            }
            return;
        }
        let before = leaf.open.len();
        leaf.open.retain(|index| !recipients.contains(index));
        if leaf.open.len() == before {
            return;
        }
        leaf.failed = true;
        leaf.failed_by_message |= scope == ErrorScope::Message;
        let wave = leaf.wave;
        let is_judged = leaf.is_judged;
        if matches!(leaf.place, Place::Awaiting(_)) && leaf.open.is_empty() {
            self.conclude(id);
        }
        if scope == ErrorScope::Peer && !is_judged {
            self.peer_failed(key, Some(wave));
        }
    }

    pub(crate) fn held_by(&self, process: ProcessId) -> Vec<MlistId> {
        let is_held =
            |leaf: &&Leaf| leaf.place == Place::InProgress(process) || leaf.place == Place::Awaiting(process);
        self.leaves.values().filter(is_held).map(|leaf| leaf.spec.id).collect()
    }

    /// A process may start on this channel: it needs one and there is a place, no urgent mail elsewhere has a better right
    /// to it, and, as long as no place was made for anybody, no other mail either.
    fn check_start(&self, channel: &str) {
        let counted = self.counted();
        let limits = self.channel(channel).expect("a channel that is configured starts a process");
        let mut levels = Precedence::ALL.into_iter().rev();
        let may = |level: &Precedence| self.needs_process(limits, *level) && counted < self.places(*level);
        let level = levels.find(may).expect("invariant_process_limits");
        let (neediest, channels) = self.neediest().expect("a channel needs a process");
        if neediest.civil() == CivilPriority::Urgent || !self.has_made_room {
            assert_eq!(level, neediest, "invariant_neediest_channel_first: {channel}");
            let is_best = channels.contains(&channel) || self.has_made_room;
            assert!(is_best, "invariant_neediest_channel_first: {channel} {channels:?}");
        }
    }

    /// One action: it has to be right at this point, and then it is done.
    pub(crate) fn check(&mut self, action: &Action) {
        assert!(self.is_going, "before Go: {action:?}");
        match action {
            Action::Assign { process, mlist, channel, peer, recipients, attempts } => {
                let leaf = self.leaves.get(mlist).expect("an Mlist of the tree is assigned");
                let next = self.next_on(channel).expect("something is runnable");
                let credit = self.past(channel).age_credit + self.limits.age_share_percent;
                let eldest = if self.limits.age_share_percent == 0 {
                    None
                } else {
                    self.eldest_on(channel, next.spec.precedence)
                };
                let credit_after = if let Some(eldest) = eldest.filter(|_| credit >= 100) {
                    assert_eq!(eldest.spec.id, *mlist, "invariant_age_has_its_share: {action:?}");
                    credit - 100
                } else {
                    assert_eq!(self.rank(next), self.rank(leaf), "invariant_precedence_order: {action:?}");
                    credit.min(100)
                };
                assert!(
                    self.may_have_a_slot(channel, next.spec.precedence),
                    "invariant_slot_reserves: {action:?}"
                );
                let free = |(_, capacity, used): (ProcessId, u32, u32)| capacity.saturating_sub(used);
                let most = self.attached(channel).map(free).max().unwrap_or(0);
                let here = self.attached(channel).find(|worker| worker.0 == *process).map(free);
                assert!(most > 0 && here == Some(most), "invariant_most_free_slots: {action:?}");
                assert_eq!(*recipients, ranges_of(&leaf.pending));
                assert_eq!((&**peer, *attempts), (leaf.spec.peer.as_str(), leaf.spec.attempts));
                self.pasts.entry(channel.to_string()).or_default().age_credit = credit_after;
                self.served += 1;
                self.begin(*mlist, *process);
            }
            Action::Expired { mlist, recipients } => {
                let leaf = self.leaves.remove(mlist).expect("an Mlist of the tree expires");
                assert_eq!(leaf.place, Place::Waiting);
                assert!(leaf.spec.expires_at.0 <= self.now);
                assert_eq!(*recipients, ranges_of(&leaf.pending));
            }
            Action::DelayReportDue { mlist, recipients } => {
                let leaf = self.leaves.get_mut(mlist).expect("an Mlist of the tree is late");
                assert!(leaf.spec.delay_report_at.take().is_some_and(|at| at.0 <= self.now));
                assert_eq!(leaf.place, Place::Waiting);
                assert_eq!(*recipients, ranges_of(&leaf.pending));
            }
            Action::StartProcess { process, channel, .. } => {
                self.check_start(channel);
                assert!(self.workers.keys().all(|known| known < process));
                self.begin_process(*process, channel.clone(), Life::Starting, 0);
                self.workers.get_mut(process).expect("it has just begun").is_own = true;
            }
            Action::KillProcess { process, reason } => {
                let worker = &self.workers[process];
                assert_eq!(worker.life, Life::Draining);
                assert!(worker.drain_until <= self.now, "invariant_progress_is_time: {action:?}");
                let awaited = Place::Awaiting(*process);
                let is_recording = self.leaves.values().any(|leaf| leaf.place == awaited);
                let over_at = worker.drain_since + self.limits.drain_time_max_ms;
                let is_given_up = over_at + self.limits.drain_timeout_ms <= self.now;
                assert!(!is_recording || is_given_up, "invariant_no_outcome_is_killed: {action:?}");
                assert_eq!(*reason == KillReason::TimeIsOver, over_at <= self.now, "{action:?}");
                let again_at = self.now + self.limits.drain_timeout_ms;
                self.workers.get_mut(process).expect("it was there a line ago").drain_until = again_at;
            }
            Action::StopProcess { process, reason } => {
                let is_idle = self.in_progress_at(*process) == 0;
                if *reason == StopReason::Balance {
                    let may = self.limits.channels.iter().any(|needy| {
                        let mut levels = Precedence::ALL.into_iter().rev();
                        let level = levels.find(|&level| self.needs_process(needy, level));
                        level.is_some_and(|level| self.may_give(*process, level, &needy.name))
                    });
                    assert!(may, "invariant_balance: {action:?}");
                }
                self.has_made_room |= matches!(reason, StopReason::Balance | StopReason::MakeRoom);
                let worker = self.workers.get_mut(process).expect("a process that is known stops");
                assert_eq!(worker.life, Life::Attached);
                worker.life = Life::Draining;
                self.progressed(*process);
                let idle_only = matches!(reason, StopReason::Idle | StopReason::MakeRoom);
                assert!(is_idle || !idle_only, "invariant_no_busy_process_stops_as_idle: {action:?}");
            }
        }
    }

    /// Nothing that should have been done was left undone, and the scheduler says what the oracle knows.
    pub(crate) fn check_rest(&self, scheduler: &Scheduler) {
        for (key, &borne) in &self.borne {
            let (min, max) = self.peer_bounds(key).expect("the scheduler is configured as the oracle is");
            let fewest = if min == max { max } else { 1 };
            assert!(
                (fewest..=max).contains(&borne),
                "invariant_below_the_operators_maximum: {key:?} {borne}"
            );
        }
        for (&id, leaf) in &self.leaves {
            let waiting = scheduler.why(id).expect("invariant_no_mlist_lost");
            let trouble = self.trouble(leaf);
            if leaf.place != Place::Waiting || !self.is_going {
                continue;
            }
            assert!(leaf.spec.expires_at.0 > self.now, "invariant_expiry: {id}");
            assert!(
                leaf.spec.delay_report_at.is_none_or(|at| at.0 > self.now),
                "invariant_delay_report: {id}"
            );
            let until = leaf.retry_at.max(trouble.retry_at);
            let (channel, peer) = (&leaf.spec.channel, &leaf.spec.peer);
            let is_configured = self.peer_limit(channel, peer, leaf.spec.precedence).is_some();
            match self.minimised_until(leaf).filter(|order| *order >= until) {
                _ if !is_configured => {}
                Some(until) => {
                    let wanted = Waiting { reason: Reason::Minimised, until: Some(UnixMillis(until)) };
                    assert_eq!(waiting, wanted, "invariant_minimise");
                    assert!(scheduler.wake_at().is_some_and(|at| at.0 > self.now));
                }
                None if until > self.now => {
                    assert_eq!(
                        waiting.until,
                        Some(UnixMillis(until)),
                        "invariant_back_off_exact: {waiting:?}"
                    );
                    assert!(scheduler.wake_at().is_some_and(|at| at.0 <= until && at.0 > self.now));
                }
                None => {}
            }
        }
        let counts = scheduler.counts();
        let count = |test: &dyn Fn(&Leaf) -> bool| self.leaves.values().filter(|leaf| test(leaf)).count();
        assert_eq!(scheduler.mlists_count(), self.leaves.len(), "invariant_no_mlist_doubled");
        assert_eq!(counts.waiting, count(&|leaf| leaf.place == Place::Waiting));
        assert_eq!(counts.in_progress, count(&|leaf| matches!(leaf.place, Place::InProgress(_))));
        assert_eq!(counts.awaiting_outcome, count(&|leaf| matches!(leaf.place, Place::Awaiting(_))));
        assert_eq!(scheduler.status().processes as usize, self.living().count());
        if !self.is_going {
            return;
        }
        assert_eq!(counts.runnable, count(&|leaf| self.is_runnable(leaf)));
        for channel in &self.limits.channels {
            if let Some(next) = self.next_on(&channel.name) {
                let has_free = self.attached(&channel.name).any(|(_, capacity, used)| capacity > used);
                let may = self.may_have_a_slot(&channel.name, next.spec.precedence);
                assert!(!has_free || !may, "invariant_no_free_slot_beside_runnable_work: {next:?}");
            }
        }
        for channel in &self.limits.channels {
            self.check_next_start(scheduler, channel);
        }
        self.check_drains(scheduler);
        let Some((level, channels)) = self.neediest() else { return };
        assert!(self.counted() >= self.places(level), "invariant_needed_process_starts: {channels:?}");
        // One place more would do, none is coming, and no other channel may give it.
        let is_one_short = self.counted() == self.places(level);
        let staying = self.living().filter(|worker| worker.life != Life::Draining).count();
        let is_draining = self.counted() > staying;
        if is_one_short && !is_draining && self.places(level) > 0 {
            let giver = self.workers.keys().find(|&&process| self.may_give(process, level, channels[0]));
            assert!(giver.is_none(), "invariant_processes_are_balanced: {giver:?} for {channels:?}");
        }
    }

    /// No process that was asked to stop is there for longer than the longest time, and that of an outcome, but one whose kill
    /// was ordered and not heard.
    fn check_drains(&self, scheduler: &Scheduler) {
        for (id, worker) in self.workers.iter().filter(|(_, worker)| worker.life == Life::Draining) {
            let over_at = worker.drain_since + self.limits.drain_time_max_ms + self.limits.drain_timeout_ms;
            let look_at = over_at.max(worker.drain_until).max(self.now + 1);
            let wake_at = scheduler.wake_at();
            assert!(
                wake_at.is_some_and(|at| at.0 <= look_at),
                "invariant_a_drain_ends: {id:?} {over_at} {wake_at:?}"
            );
            assert!(
                worker.drain_until > self.now || over_at > self.now,
                "invariant_a_drain_ends: {id:?} {over_at}"
            );
        }
    }

    /// A channel that has to wait before it starts a process is looked at again when that ends.
    fn check_next_start(&self, scheduler: &Scheduler, channel: &ChannelLimits) {
        for level in Precedence::ALL {
            let at = self.start_at(channel, level);
            if self.wants_process(channel, level) && at > self.now {
                let wake_at = scheduler.wake_at();
                assert!(wake_at.is_some_and(|wake| wake.0 <= at), "invariant_wakes: {at} {wake_at:?}");
            }
        }
    }
}
