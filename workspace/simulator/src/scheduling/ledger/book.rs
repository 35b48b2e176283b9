//! The account itself: what waits where, who has what, and who may have more.

use std::collections::BTreeSet;

use sternpost_message::{CivilPriority, MlistId, Precedence, RecipientRange};
use sternpost_scheduler::{ChannelLimits, ProcessId, Reserves};

use super::{LEVELS, Ledger};

/// Where an Mlist is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Waiting,
    InProgress(ProcessId),
    /// Its process is done with it; the outcome of some recipients is to come.
    Awaiting(ProcessId),
}

/// One Mlist.
#[derive(Debug)]
pub(super) struct Leaf {
    pub(super) peer: usize,
    pub(super) level: Precedence,
    /// Recipients that need an attempt, and those of them that are under way.
    pub(super) pending: Vec<u32>,
    pub(super) open: Vec<u32>,
    pub(super) place: Place,
    pub(super) expires_at: u64,
    pub(super) late_at: Option<u64>,
    pub(super) retry_at: u64,
    pub(super) attempts: u16,
    pub(super) wave: u32,
    pub(super) has_failed: bool,
    pub(super) has_failed_by_message: bool,
    pub(super) has_failed_by_peer: bool,
    /// Its process has said that the peer ended it.
    pub(super) is_judged: bool,
    /// And that the association had carried mail.
    pub(super) has_hung_up: bool,
}

/// An instant at which what waits may become able to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    Peer(usize),
    Leaf(MlistId),
    Order,
}

/// Who of those with the same level is first: fewest in progress, served longest ago, oldest message.
pub(super) type Turn = (u32, u64, MlistId, usize);

/// One peer of one channel.
#[derive(Debug)]
pub(super) struct PeerBook {
    pub(super) channel: usize,
    pub(super) name: String,
    /// Its slots and what is kept free of them; `None` when it is not configured.
    pub(super) slots: Option<(u32, Reserves)>,
    /// The fewest and the most slots between which what it bears is found.
    pub(super) bounds: (u32, u32),
    /// It has failed, and has not worked since.
    pub(super) is_down: bool,
    /// The lowest level that no order makes wait.
    pub(super) lowest: Precedence,
    /// Waiting Mlists without a delay of their own.
    pub(super) queues: [BTreeSet<MlistId>; LEVELS],
    /// Waiting Mlists with one.
    pub(super) delayed: u64,
    pub(super) in_progress: u32,
    pub(super) served: u64,
    pub(super) errors: u32,
    pub(super) retry_at: u64,
    pub(super) wave: u32,
    pub(super) is_tried: bool,
    /// What it has in its channel's account.
    turns: [Option<Turn>; LEVELS],
    assignable: [u64; LEVELS],
    runnable: u64,
}

impl PeerBook {
    pub(super) fn new(channel: usize, name: String) -> Self {
        Self {
            channel,
            name,
            slots: None,
            bounds: (0, 0),
            is_down: false,
            lowest: Precedence::Deferred,
            queues: Default::default(),
            delayed: 0,
            in_progress: 0,
            served: 0,
            errors: 0,
            retry_at: 0,
            wave: 0,
            is_tried: false,
            turns: [None; LEVELS],
            assignable: [0; LEVELS],
            runnable: 0,
        }
    }

    /// Whether the operator leaves open how many it is given.
    pub(super) const fn is_governed(&self) -> bool {
        self.bounds.0 < self.bounds.1
    }

    /// Mlists in progress up to which one of this level may be added. Of a peer's slots the reserves take the smaller
    /// half, the urgent one first.
    pub(super) fn slots_for(&self, level: Precedence) -> u32 {
        let Some((total, reserve)) = self.slots else { return 0 };
        let half = total.saturating_sub(1) / 2;
        let urgent = reserve.urgent.min(half);
        left_for(level, total, urgent, reserve.normal.min(half - urgent))
    }
}

/// What a level may have of `total` places of which so many are kept for higher ones.
pub(super) fn left_for(level: Precedence, total: u32, urgent: u32, normal: u32) -> u32 {
    let kept = match level.civil() {
        CivilPriority::Urgent => 0,
        CivilPriority::Normal => urgent,
        CivilPriority::NonUrgent => urgent.saturating_add(normal),
    };
    total.saturating_sub(kept)
}

/// Where a process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Starting,
    Attached,
    Stopping,
    Gone,
}

/// One process.
#[derive(Debug)]
pub(super) struct ProcessBook {
    pub(super) id: ProcessId,
    pub(super) life: Life,
    pub(super) capacity: u32,
    /// Mlists in progress there.
    pub(super) used: u32,
    /// Those, and the ones whose outcome is to come.
    pub(super) held: BTreeSet<MlistId>,
    /// Since when it has nothing in progress.
    pub(super) idle_since: u64,
}

/// One channel.
#[derive(Debug)]
pub(super) struct ChannelBook {
    pub(super) name: String,
    /// Without the peers; `None` when it is not configured.
    pub(super) limits: Option<ChannelLimits>,
    pub(super) processes: Vec<ProcessBook>,
    /// By level, the peers that have an Mlist of it which waits for nothing but a slot or a process.
    pub(super) turns: [BTreeSet<Turn>; LEVELS],
    /// Mlists of this level and above that wait for nothing but a slot or a process.
    pub(super) assignable: [u64; LEVELS],
    pub(super) failures: u64,
    pub(super) held_off_until: u64,
    pub(super) last_start: Option<(u64, ProcessId)>,
    pub(super) emptied_at: Option<u64>,
    pub(super) age_credit: u32,
}

impl ChannelBook {
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            limits: None,
            processes: Vec::new(),
            turns: Default::default(),
            assignable: [0; LEVELS],
            failures: 0,
            held_off_until: 0,
            last_start: None,
            emptied_at: None,
            age_credit: 0,
        }
    }

    /// How many of its processes, of those that are not gone.
    pub(super) fn processes(&self, which: impl Fn(&ProcessBook) -> bool) -> u32 {
        let living = self.processes.iter().filter(|process| process.life != Life::Gone);
        u32::try_from(living.filter(|process| which(process)).count()).unwrap_or(u32::MAX)
    }

    pub(super) fn process(&mut self, id: ProcessId) -> Option<&mut ProcessBook> {
        self.processes.iter_mut().find(|process| process.id == id)
    }

    pub(super) fn attached(&self) -> impl Iterator<Item = &ProcessBook> {
        self.processes.iter().filter(|process| process.life == Life::Attached)
    }

    /// The highest level that waits for nothing but a slot or a process.
    pub(super) fn highest(&self) -> Option<Precedence> {
        Precedence::ALL.into_iter().rev().find(|&level| !self.turns[level as usize].is_empty())
    }

    /// Slots in use of its attached processes, and up to how many of them this level may fill.
    pub(super) fn slots_for(&self, level: Precedence) -> (u32, u32) {
        let Some(limits) = &self.limits else { return (0, 0) };
        let (mut total, mut used) = (0_u32, 0_u32);
        for process in self.attached() {
            total += process.capacity;
            used += process.used;
        }
        let full = limits.processes_max.saturating_mul(limits.slots_per_process).max(total).max(1);
        // The reserve shrinks with the slots, rounded up, and never takes the last one.
        let share = |kept: u32| {
            let share = (u64::from(kept) * u64::from(total)).div_ceil(u64::from(full));
            u32::try_from(share).unwrap_or(u32::MAX)
        };
        let spare = total.saturating_sub(1);
        let urgent = share(limits.slots_reserve.urgent).min(spare);
        let normal = share(limits.slots_reserve.normal).min(spare - urgent);
        (used, left_for(level, total, urgent, normal))
    }
}

/// The recipients of ranges, one by one.
pub(super) fn recipients_of(ranges: &[RecipientRange]) -> Vec<u32> {
    let mut all: Vec<u32> = ranges.iter().flat_map(|range| range.first..range.end()).collect();
    all.sort_unstable();
    all.dedup();
    all
}

impl Ledger {
    /// An Mlist that nobody has begins to wait.
    pub(super) fn enter(&mut self, id: MlistId) {
        let leaf = self.leaves.get_mut(&id).expect("what enters is in the ledger");
        leaf.place = Place::Waiting;
        let peer = &mut self.peers[leaf.peer];
        if leaf.retry_at > self.now {
            self.due.insert((leaf.retry_at, Due::Leaf(id)));
            peer.delayed += 1;
        } else {
            peer.queues[leaf.level as usize].insert(id);
        }
        self.deadlines.insert((leaf.expires_at, id));
        self.deadlines.extend(leaf.late_at.map(|at| (at, id)));
        self.waiting[leaf.level as usize] += 1;
        let peer = leaf.peer;
        self.refresh(peer);
    }

    /// A waiting Mlist ends to wait.
    pub(super) fn leave(&mut self, id: MlistId) {
        let leaf = &self.leaves[&id];
        let peer = &mut self.peers[leaf.peer];
        if !peer.queues[leaf.level as usize].remove(&id) {
            self.due.remove(&(leaf.retry_at, Due::Leaf(id)));
            peer.delayed -= 1;
        }
        self.deadlines.remove(&(leaf.expires_at, id));
        if let Some(at) = leaf.late_at {
            self.deadlines.remove(&(at, id));
        }
        self.waiting[leaf.level as usize] -= 1;
        let peer = leaf.peer;
        self.refresh(peer);
    }

    /// What has become due by now.
    pub(super) fn go_on(&mut self) {
        while let Some(&(at, due)) = self.due.first().filter(|(at, _)| *at <= self.now) {
            self.due.remove(&(at, due));
            match due {
                Due::Peer(peer) => self.refresh(peer),
                Due::Order => self.minimise(),
                Due::Leaf(id) => {
                    let leaf = &self.leaves[&id];
                    let peer = &mut self.peers[leaf.peer];
                    peer.delayed -= 1;
                    peer.queues[leaf.level as usize].insert(id);
                    let peer = leaf.peer;
                    self.refresh(peer);
                }
            }
        }
    }

    /// What each peer may be given by the orders of this instant.
    pub(super) fn minimise(&mut self) {
        let orders = &self.limits.minimise;
        for peer in &mut self.peers {
            let channel = &self.channels[peer.channel].name;
            let holds = orders.iter().filter(|order| {
                order.from.0 <= self.now
                    && self.now < order.until.0
                    && order.channel == *channel
                    && order.peer.as_ref().is_none_or(|name| *name == peer.name)
            });
            peer.lowest = holds.map(|order| order.lowest).max().unwrap_or(Precedence::Deferred);
        }
        let turns = orders.iter().flat_map(|order| [order.from.0, order.until.0]);
        self.due.retain(|(_, due)| *due != Due::Order);
        self.due.extend(turns.filter(|&at| at > self.now).map(|at| (at, Due::Order)));
        for peer in 0..self.peers.len() {
            self.refresh(peer);
        }
    }

    /// Brings a channel's account up to date with one of its peers.
    pub(super) fn refresh(&mut self, at: usize) {
        let peer = &mut self.peers[at];
        let channel = &mut self.channels[peer.channel];
        let is_open = channel.limits.is_some() && peer.slots.is_some() && peer.retry_at <= self.now;
        let (mut runnable, mut taken) = (0, 0_u64);
        for level in Precedence::ALL.into_iter().rev() {
            let place = level as usize;
            let queue = &peer.queues[place];
            let mut turn = None;
            if is_open && level >= peer.lowest && !queue.is_empty() {
                let room = u64::from(peer.slots_for(level).saturating_sub(peer.in_progress));
                runnable += queue.len() as u64;
                taken += (queue.len() as u64).min(room.saturating_sub(taken));
                let oldest = queue.first().copied().filter(|_| room > 0);
                turn = oldest.map(|id| (peer.in_progress, peer.served, id, at));
            }
            channel.assignable[place] = channel.assignable[place] + taken - peer.assignable[place];
            peer.assignable[place] = taken;
            if turn != peer.turns[place] {
                if let Some(old) = peer.turns[place] {
                    channel.turns[place].remove(&old);
                }
                channel.turns[place].extend(turn);
                peer.turns[place] = turn;
            }
        }
        self.runnable = self.runnable + runnable - peer.runnable;
        peer.runnable = runnable;
    }
}
