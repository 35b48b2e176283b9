//! The top of the tree: a channel, its processes and their slots.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use sternpost_message::{CivilPriority, Precedence, UnixMillis};

use crate::event::ProcessId;
use crate::limits::{ChannelLimits, Limits};
use crate::peer::{Eldest, LEVELS, PeerIndex, Rank};
use crate::timer::NEVER;
use crate::tree::MlistIndex;

/// Where a channel is in the scheduler's list. Never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ChannelIndex(pub(crate) u32);

/// Time added with each process of a channel that failed in a row before the next is started, milliseconds.
pub(crate) const START_HOLD_OFF_STEP_MS: u64 = 1_000;
/// The longest such time, milliseconds.
pub(crate) const START_HOLD_OFF_MAX_MS: u64 = 60_000;

/// The largest capacity of a process that is believed: a handshake's number must not overflow a channel's sum.
pub(crate) const CAPACITY_MAX: u32 = 10_000;

/// One channel.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) name: Arc<str>,
    /// Its limits (with an empty list of peers: each peer knows its own); `None` when it is not configured.
    pub(crate) limits: Option<ChannelLimits>,
    pub(crate) peer_by_name: FxHashMap<Arc<str>, PeerIndex>,
    /// Peers that have something to assign, best first.
    pub(crate) runnable: BTreeSet<Rank>,
    /// Peers by the Mlist that age would choose; empty while age has no share.
    pub(crate) eldest: BTreeSet<Eldest>,
    /// Hundredths of an assignment that age has to its credit.
    pub(crate) age_credit: u32,
    /// The sum of what the peers offer, see [`crate::peer::Offer::assignable`].
    pub(crate) assignable: [u64; LEVELS],
    pub(crate) runnable_count: usize,
    /// Attached processes with free slots, and how many.
    pub(crate) free: BTreeSet<(u32, Reverse<ProcessId>)>,
    /// Attached processes by the slots in use; among equals the youngest first.
    pub(crate) attached: BTreeSet<(u32, Reverse<ProcessId>)>,
    /// Slots of the attached processes.
    pub(crate) slots_total: u32,
    /// How many of them are in use.
    pub(crate) slots_used: u32,
    /// Processes that exist.
    pub(crate) processes_count: u32,
    /// Those of them that were started and have not attached.
    pub(crate) starting_count: u32,
    /// Those of them that were asked to stop.
    pub(crate) draining_count: u32,
    /// Those of these that leave, see [`Process::is_leaving`].
    pub(crate) leaving_count: u32,
    /// Processes that failed in a row.
    pub(crate) failures: u32,
    /// No process is started before this: processes failed.
    pub(crate) held_off_until: u64,
    /// When another channel has had a process that it needs for long enough.
    pub(crate) turn_at: u64,
    /// When its last process has gone; `None` before the first one.
    pub(crate) emptied_at: Option<u64>,
    /// The last start, by the scheduler or by another.
    pub(crate) last_start: Option<Start>,
    /// Its entry in the timers.
    pub(crate) timer_at: u64,
    /// Whether something changed since Mlists were assigned last.
    pub(crate) is_dirty: bool,
}

impl Channel {
    pub(crate) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            limits: None,
            peer_by_name: FxHashMap::default(),
            runnable: BTreeSet::new(),
            eldest: BTreeSet::new(),
            age_credit: 0,
            assignable: [0; LEVELS],
            runnable_count: 0,
            free: BTreeSet::new(),
            attached: BTreeSet::new(),
            slots_total: 0,
            slots_used: 0,
            processes_count: 0,
            starting_count: 0,
            draining_count: 0,
            leaving_count: 0,
            failures: 0,
            held_off_until: 0,
            turn_at: 0,
            emptied_at: None,
            last_start: None,
            timer_at: NEVER,
            is_dirty: false,
        }
    }

    /// How many slots may be in use for an Mlist of this level to take one more.
    pub(crate) fn slots_limit(&self, priority: CivilPriority) -> u32 {
        let Some(limits) = &self.limits else { return 0 };
        let full = limits.processes_max.saturating_mul(limits.slots_per_process);
        limits.slots_reserve.scaled(self.slots_total, full).limit(self.slots_total, priority)
    }

    /// Mlists that the processes that start are expected to take.
    pub(crate) fn slots_expected(&self) -> u64 {
        let each = self.limits.as_ref().map_or(1, |limits| limits.slots_per_process.max(1));
        u64::from(self.starting_count) * u64::from(each)
    }

    /// Whether Mlists of this level or above wait for more than the processes that are being started will take.
    pub(crate) fn wants_process(&self, precedence: Precedence) -> bool {
        self.assignable[precedence as usize] > self.slots_expected()
    }

    /// The highest level that waits for nothing but a slot.
    pub(crate) fn highest_waiting(&self) -> Option<Precedence> {
        self.runnable.first().map(|rank| rank.top.0)
    }

    /// From when on a process may be started for Mlists of this level, and by which rule; the latest of them.
    ///
    /// The three times of the model are about the cost of processes. They do not hold for urgent mail, which must not
    /// wait for the sake of economy; the hold-off after failures holds for all.
    pub(crate) fn start_at(&self, priority: CivilPriority, limits: &Limits) -> (u64, StartRule) {
        let held_off = (self.held_off_until, StartRule::HoldOff);
        if priority == CivilPriority::Urgent {
            return held_off;
        }
        let emptied = match self.emptied_at {
            Some(at) if self.processes_count == 0 => at.saturating_add(limits.qmgr_chan_time1_ms),
            _ => 0,
        };
        let (after_start, rule) = self.last_start.as_ref().map_or((0, StartRule::ChanTime2), |start| {
            let time2 = limits.qmgr_chan_time2_ms;
            let (time, rule) = if self.is_lightly_loaded() && limits.qmgr_chan_time3_ms > time2 {
                (limits.qmgr_chan_time3_ms, StartRule::ChanTime3)
            } else {
                (time2, StartRule::ChanTime2)
            };
            (start.at.0.saturating_add(time), rule)
        });
        [(emptied, StartRule::ChanTime1), (after_start, rule), held_off]
            .into_iter()
            .max_by_key(|(at, _)| *at)
            .unwrap_or(held_off)
    }

    /// Fewer Mlists wait than the channel's processes have slots, those that start included.
    fn is_lightly_loaded(&self) -> bool {
        self.assignable[0] < u64::from(self.slots_total) + self.slots_expected()
    }

    /// Processes that exist and were not asked to stop.
    pub(crate) const fn staying(&self) -> u32 {
        self.processes_count - self.draining_count
    }

    /// Processes that count against the channel's limit: of those that leave, as many as the limit do not.
    pub(crate) fn counted(&self) -> u32 {
        let processes_max = self.limits.as_ref().map_or(0, |limits| limits.processes_max);
        self.processes_count - self.leaving_count.min(processes_max)
    }

    /// Whether one more process may exist on this channel for mail of this level. Urgent mail does not wait for those that
    /// finish.
    pub(crate) fn may_have_one_more(&self, priority: CivilPriority) -> bool {
        let count = if priority == CivilPriority::Urgent { self.staying() } else { self.counted() };
        self.limits.as_ref().is_some_and(|limits| count < limits.processes_max)
    }
}

/// Why a process is not started before an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StartRule {
    /// Processes of the channel failed.
    HoldOff,
    /// `qmgr_chan_time1`.
    ChanTime1,
    /// `qmgr_chan_time2`.
    ChanTime2,
    /// `qmgr_chan_time3`.
    ChanTime3,
}

/// What a process was started for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Which process.
    pub process: ProcessId,
    /// When.
    pub at: UnixMillis,
    /// The level that needed it, and how many Mlists of it and above found no slot; `None` when it was started by
    /// another, or has outlived the last QMGR.
    pub need: Option<(Precedence, u64)>,
}

/// Where a process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Known only because an Mlist is held by it: it has outlived the last QMGR and is still to say so.
    Announced,
    /// Started, not attached.
    Starting,
    /// Takes Mlists.
    Attached,
    /// Asked to stop: finishes what it has.
    Draining,
    /// Exited; what it holds waits for [`crate::Event::Returned`].
    Gone,
}

/// One channel process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) channel: ChannelIndex,
    pub(crate) state: State,
    /// It was started by this tree.
    pub(crate) is_own: bool,
    /// Another than this tree has asked it to stop: the QMGR before, or the supervisor when another executable took over.
    /// Many are then told at the same time, each of them with the work of a whole process, so they are not waited for.
    pub(crate) is_leaving: bool,
    pub(crate) capacity: u32,
    /// Slots in use.
    pub(crate) used: u32,
    /// The Mlists in progress there or awaiting an outcome from there.
    pub(crate) held: FxHashSet<MlistIndex>,
    /// When it attached; [`NEVER`] before.
    pub(crate) attached_at: u64,
    /// When it was asked to stop; [`NEVER`] before.
    pub(crate) drain_since: u64,
    /// When it is killed, unless it makes progress before its longest time is over; [`NEVER`] as long as it was not asked to
    /// stop.
    pub(crate) drain_until: u64,
    /// Since when it has nothing to do, while it is attached; [`NEVER`] when it has.
    pub(crate) idle_since: u64,
    /// Its entry in the timers.
    pub(crate) timer_at: u64,
    /// What it has in its channel's sums.
    pub(crate) shared: Share,
}

/// What a process adds to its channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) exists: bool,
    pub(crate) is_starting: bool,
    pub(crate) is_attached: bool,
    pub(crate) is_draining: bool,
    pub(crate) is_leaving: bool,
    pub(crate) slots_total: u32,
    pub(crate) slots_used: u32,
    pub(crate) slots_free: u32,
}

impl Process {
    pub(crate) fn new(channel: ChannelIndex, state: State) -> Self {
        Self {
            channel,
            state,
            is_own: false,
            is_leaving: false,
            capacity: 0,
            used: 0,
            held: FxHashSet::default(),
            attached_at: NEVER,
            drain_since: NEVER,
            drain_until: NEVER,
            idle_since: NEVER,
            timer_at: NEVER,
            shared: Share::default(),
        }
    }

    /// What it adds to its channel at this instant.
    pub(crate) const fn share(&self) -> Share {
        let attached = matches!(self.state, State::Attached);
        Share {
            exists: !matches!(self.state, State::Gone),
            is_starting: matches!(self.state, State::Starting),
            is_attached: attached,
            is_draining: matches!(self.state, State::Draining),
            is_leaving: matches!(self.state, State::Draining) && self.is_leaving,
            slots_total: if attached { self.capacity } else { 0 },
            slots_used: if attached { self.used } else { 0 },
            slots_free: if attached { self.capacity.saturating_sub(self.used) } else { 0 },
        }
    }
}

impl Channel {
    /// Replaces what a process adds.
    pub(crate) fn exchange(&mut self, process: ProcessId, old: Share, new: Share) {
        self.processes_count = self.processes_count + u32::from(new.exists) - u32::from(old.exists);
        self.starting_count = self.starting_count + u32::from(new.is_starting) - u32::from(old.is_starting);
        self.draining_count = self.draining_count + u32::from(new.is_draining) - u32::from(old.is_draining);
        self.leaving_count = self.leaving_count + u32::from(new.is_leaving) - u32::from(old.is_leaving);
        self.slots_total = self.slots_total + new.slots_total - old.slots_total;
        self.slots_used = self.slots_used + new.slots_used - old.slots_used;
        if old.is_attached {
            self.attached.remove(&(old.slots_used, Reverse(process)));
        }
        if new.is_attached {
            self.attached.insert((new.slots_used, Reverse(process)));
        }
        if old.slots_free > 0 {
            self.free.remove(&(old.slots_free, Reverse(process)));
        }
        if new.slots_free > 0 {
            self.free.insert((new.slots_free, Reverse(process)));
        }
    }
}
