//! The same rules once more, slowly and plainly: what the scheduler is compared with after every event. Nothing is
//! kept that can be counted.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use sternpost_message::{
    CivilPriority, ErrorScope, MlistId, Precedence, RecipientIndex, RecipientRange, UnixMillis,
};
use sternpost_scheduler::{
    Action, ChannelLimits, Event, Limits, MlistSpec, ProcessId, Scheduler, StopReason,
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
}

#[derive(Clone, Debug, Default)]
struct Trouble {
    errors: u32,
    retry_at: u64,
    wave: u32,
    tried: bool,
    served: u64,
}

#[derive(Clone, Debug, Default)]
struct HoldOff {
    failures: u64,
    until: u64,
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
    hold_offs: BTreeMap<String, HoldOff>,
    served: u64,
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

    fn peer_limit(&self, channel: &str, peer: &str) -> Option<u32> {
        let channel = self.channel(channel)?;
        let peer = channel.peers.iter().find(|limits| limits.name == peer)?;
        Some(peer.slots_max.unwrap_or(channel.peer_slots_max))
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
            && self.peer_limit(&leaf.spec.channel, &leaf.spec.peer).is_some()
    }

    fn peer_has_room(&self, leaf: &Leaf) -> bool {
        let max = self.peer_limit(&leaf.spec.channel, &leaf.spec.peer).unwrap_or(0);
        self.peer_in_progress(&leaf.spec.channel, &leaf.spec.peer) < max
    }

    /// What decides who is next on a channel: the smallest goes first.
    fn rank(&self, leaf: &Leaf) -> (Reverse<Precedence>, u32, u64, MlistId) {
        let in_progress = self.peer_in_progress(&leaf.spec.channel, &leaf.spec.peer);
        (Reverse(leaf.spec.precedence), in_progress, self.trouble(leaf).served, leaf.spec.id)
    }

    fn next_on(&self, channel: &str) -> Option<&Leaf> {
        self.leaves
            .values()
            .filter(|leaf| leaf.spec.channel == channel && self.is_runnable(leaf) && self.peer_has_room(leaf))
            .min_by_key(|leaf| self.rank(leaf))
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
        let urgent = (limits.slots_reserve_urgent * total).div_ceil(full).min(spare);
        let normal = (limits.slots_reserve_normal * total).div_ceil(full).min(spare - urgent);
        used < limit(total, urgent, normal, level)
    }

    fn living(&self) -> impl Iterator<Item = &Worker> {
        self.workers.values().filter(|worker| worker.life != Life::Gone)
    }

    /// Whether a channel needs, and by its own limits may have, one more process for a level and those above.
    fn needs_process(&self, channel: &ChannelLimits, level: Precedence) -> bool {
        let mut by_peer: BTreeMap<&str, u32> = BTreeMap::new();
        for leaf in self.leaves.values() {
            if leaf.spec.channel == channel.name && leaf.spec.precedence >= level && self.is_runnable(leaf) {
                *by_peer.entry(&leaf.spec.peer).or_default() += 1;
            }
        }
        let assignable: u32 = by_peer
            .iter()
            .map(|(peer, &count)| {
                let max = self.peer_limit(&channel.name, peer).unwrap_or(0);
                count.min(max.saturating_sub(self.peer_in_progress(&channel.name, peer)))
            })
            .sum();
        let mine = || self.living().filter(|worker| worker.channel == channel.name);
        let starting = mine().filter(|worker| worker.life == Life::Starting).count();
        let held_off = self.hold_offs.get(&channel.name).is_some_and(|hold_off| hold_off.until > self.now);
        assignable as usize > starting * channel.slots_per_process as usize
            && mine().count() < channel.processes_max as usize
            && !held_off
    }

    /// The highest level for which some channel needs a process, and which channels.
    fn neediest(&self) -> Option<(Precedence, Vec<&str>)> {
        Precedence::ALL.into_iter().rev().find_map(|level| {
            let channels = self.limits.channels.iter().filter(|channel| self.needs_process(channel, level));
            let names: Vec<&str> = channels.map(|channel| channel.name.as_str()).collect();
            (!names.is_empty()).then_some((level, names))
        })
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
            leaf.spec.attempts += 1;
            if leaf.failed_by_message {
                let attempts = u64::from(leaf.spec.attempts);
                let at = now + self.delay_ms(attempts);
                self.leaves.get_mut(&id).expect("it was there a line ago").retry_at = at;
            }
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
        trouble.errors = 0;
        trouble.retry_at = 0;
    }

    fn begin(&mut self, id: MlistId, process: ProcessId) {
        let leaf = self.leaves.get_mut(&id).expect("the caller has just looked at it");
        let trouble = self.peers.entry((leaf.spec.channel.clone(), leaf.spec.peer.clone())).or_default();
        trouble.tried = true;
        trouble.served = self.served;
        leaf.wave = trouble.wave;
        leaf.place = Place::InProgress(process);
        leaf.open = leaf.pending.clone();
        (leaf.failed, leaf.failed_by_message) = (false, false);
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
                    spec,
                };
                self.leaves.insert(leaf.spec.id, leaf);
            }
            Event::ProcessStarted { process, channel } => {
                self.workers.entry(process).or_insert(Worker { channel, life: Life::Starting, capacity: 0 });
            }
            Event::ProcessAttached { process, channel, capacity } => {
                self.workers.insert(process, Worker { channel, life: Life::Attached, capacity });
            }
            Event::ProcessGone { process } | Event::StartFailed { process } => {
                let Some(worker) = self.workers.get_mut(&process) else { return };
                if matches!(worker.life, Life::Starting | Life::Attached) {
                    let hold_off = self.hold_offs.entry(worker.channel.clone()).or_default();
                    hold_off.failures += 1;
                    hold_off.until = self.now + (hold_off.failures * 1_000).min(60_000);
                }
                worker.life = Life::Gone;
            }
            Event::Returned { process } => {
                for id in self.held_by(process) {
                    self.conclude(id);
                }
            }
            Event::Finished { process, mlist } => {
                let Some(leaf) = self.leaves.get_mut(&mlist) else { return };
                leaf.place = Place::Awaiting(process);
                if let Some(hold_off) = self.hold_offs.get_mut(&leaf.spec.channel) {
                    hold_off.failures = 0;
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
            Event::PeerFailed { channel, peer } => drop(self.peer_failed((channel, peer), None)),
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
        if matches!(leaf.place, Place::Awaiting(_)) && leaf.open.is_empty() {
            self.conclude(id);
        }
        if scope == ErrorScope::Peer {
            self.peer_failed(key, Some(wave));
        }
    }

    pub(crate) fn held_by(&self, process: ProcessId) -> Vec<MlistId> {
        let is_held =
            |leaf: &&Leaf| leaf.place == Place::InProgress(process) || leaf.place == Place::Awaiting(process);
        self.leaves.values().filter(is_held).map(|leaf| leaf.spec.id).collect()
    }

    /// One action: it has to be right at this point, and then it is done.
    pub(crate) fn check(&mut self, action: &Action) {
        assert!(self.is_going, "before Go: {action:?}");
        match action {
            Action::Assign { process, mlist, channel, peer, recipients, attempts } => {
                let leaf = self.leaves.get(mlist).expect("an Mlist of the tree is assigned");
                let next = self.next_on(channel).expect("something is runnable");
                assert_eq!(self.rank(next), self.rank(leaf), "invariant_precedence_order: {action:?}");
                assert!(self.may_have_a_slot(channel, leaf.spec.precedence), "invariant_slot_reserves");
                let free = |(_, capacity, used): (ProcessId, u32, u32)| capacity.saturating_sub(used);
                let most = self.attached(channel).map(free).max().unwrap_or(0);
                let here = self.attached(channel).find(|worker| worker.0 == *process).map(free);
                assert!(most > 0 && here == Some(most), "invariant_most_free_slots: {action:?}");
                assert_eq!(*recipients, ranges_of(&leaf.pending));
                assert_eq!((&**peer, *attempts), (leaf.spec.peer.as_str(), leaf.spec.attempts));
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
            Action::StartProcess { process, channel } => {
                let (level, channels) = self.neediest().expect("a channel needs a process");
                assert!(channels.contains(&channel.as_str()), "invariant_neediest_channel_first: {action:?}");
                assert!(self.living().count() < self.places(level), "invariant_process_limits: {action:?}");
                assert!(self.workers.keys().all(|known| known < process));
                let worker = Worker { channel: channel.clone(), life: Life::Starting, capacity: 0 };
                self.workers.insert(*process, worker);
            }
            Action::StopProcess { process, reason } => {
                let is_idle = self.in_progress_at(*process) == 0;
                let worker = self.workers.get_mut(process).expect("a process that is known stops");
                assert_eq!(worker.life, Life::Attached);
                worker.life = Life::Draining;
                assert!(is_idle || matches!(reason, StopReason::OverLimit | StopReason::NotConfigured));
            }
        }
    }

    /// Nothing that should have been done was left undone, and the scheduler says what the oracle knows.
    pub(crate) fn check_rest(&self, scheduler: &Scheduler) {
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
            if self.peer_limit(&leaf.spec.channel, &leaf.spec.peer).is_some() && until > self.now {
                assert_eq!(waiting.until, Some(UnixMillis(until)), "invariant_back_off_exact: {waiting:?}");
                assert!(scheduler.wake_at().is_some_and(|at| at.0 <= until && at.0 > self.now));
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
        if let Some((level, channels)) = self.neediest() {
            assert!(
                self.living().count() >= self.places(level),
                "invariant_needed_process_starts: {channels:?}"
            );
        }
    }
}
