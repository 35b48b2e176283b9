//! The top of the tree: a channel, its processes and their slots, and the arithmetic of the reserves.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use sternpost_message::CivilPriority;

use crate::event::{ChannelLimits, ProcessId};
use crate::peer::{LEVELS, PeerIndex, Rank};
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
    /// The sum of what the peers offer, see [`crate::peer::Offer::assignable`].
    pub(crate) assignable: [u64; LEVELS],
    pub(crate) runnable_count: usize,
    /// Attached processes with free slots, and how many.
    pub(crate) free: BTreeSet<(u32, Reverse<ProcessId>)>,
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
    /// Processes that failed in a row.
    pub(crate) failures: u32,
    /// No process is started before this.
    pub(crate) start_at: u64,
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
            assignable: [0; LEVELS],
            runnable_count: 0,
            free: BTreeSet::new(),
            slots_total: 0,
            slots_used: 0,
            processes_count: 0,
            starting_count: 0,
            draining_count: 0,
            failures: 0,
            start_at: 0,
            timer_at: NEVER,
            is_dirty: false,
        }
    }

    /// How many slots may be in use for an Mlist of this level to take one more.
    pub(crate) fn slots_limit(&self, priority: CivilPriority) -> u32 {
        let Some(limits) = &self.limits else { return 0 };
        let full = limits.processes_max.saturating_mul(limits.slots_per_process);
        let (urgent, normal) =
            slot_reserves(self.slots_total, full, limits.slots_reserve_urgent, limits.slots_reserve_normal);
        limit(self.slots_total, urgent, normal, priority)
    }

    /// Mlists that the processes that start are expected to take.
    pub(crate) fn slots_expected(&self) -> u64 {
        let each = self.limits.as_ref().map_or(1, |limits| limits.slots_per_process.max(1));
        u64::from(self.starting_count) * u64::from(each)
    }

    /// Whether one more process may exist on this channel.
    pub(crate) fn may_have_one_more(&self) -> bool {
        self.limits.as_ref().is_some_and(|limits| self.processes_count < limits.processes_max)
    }
}

/// How far mail of this level may fill `total` places: non-urgent leaves both reserves free, normal one, urgent
/// none.
pub(crate) const fn limit(
    total: u32,
    reserve_urgent: u32,
    reserve_normal: u32,
    priority: CivilPriority,
) -> u32 {
    match priority {
        CivilPriority::Urgent => total,
        CivilPriority::Normal => total.saturating_sub(reserve_urgent),
        CivilPriority::NonUrgent => total.saturating_sub(reserve_urgent).saturating_sub(reserve_normal),
    }
}

/// The reserves (urgent, normal) of a channel that has `total` of its `full` slots: the configured ones in
/// proportion, rounded up, the urgent one first, and never the last slot.
pub(crate) fn slot_reserves(total: u32, full: u32, urgent: u32, normal: u32) -> (u32, u32) {
    let scaled = |reserve: u32| {
        let full = u64::from(full.max(total).max(1));
        let scaled = (u64::from(reserve) * u64::from(total)).div_ceil(full);
        u32::try_from(scaled).unwrap_or(u32::MAX)
    };
    let spare = total.saturating_sub(1);
    let urgent = scaled(urgent).min(spare);
    (urgent, scaled(normal).min(spare - urgent))
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
    pub(crate) capacity: u32,
    /// Slots in use.
    pub(crate) used: u32,
    /// The Mlists in progress there or awaiting an outcome from there.
    pub(crate) held: FxHashSet<MlistIndex>,
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
    pub(crate) is_draining: bool,
    pub(crate) slots_total: u32,
    pub(crate) slots_used: u32,
    pub(crate) slots_free: u32,
}

impl Process {
    pub(crate) fn new(channel: ChannelIndex, state: State) -> Self {
        Self {
            channel,
            state,
            capacity: 0,
            used: 0,
            held: FxHashSet::default(),
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
            is_draining: matches!(self.state, State::Draining),
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
        self.slots_total = self.slots_total + new.slots_total - old.slots_total;
        self.slots_used = self.slots_used + new.slots_used - old.slots_used;
        if old.slots_free > 0 {
            self.free.remove(&(old.slots_free, Reverse(process)));
        }
        if new.slots_free > 0 {
            self.free.insert((new.slots_free, Reverse(process)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn non_urgent_leaves_both_reserves_normal_one_and_urgent_none() {
        let row = |priority| limit(10, 2, 3, priority);
        assert_eq!(row(CivilPriority::NonUrgent), 5);
        assert_eq!(row(CivilPriority::Normal), 8);
        assert_eq!(row(CivilPriority::Urgent), 10);
        assert_eq!(limit(3, 2, 3, CivilPriority::NonUrgent), 0);
    }

    #[test]
    fn slot_reserves_shrink_with_the_slots_and_never_take_the_last_one() {
        // (slots now, slots with all processes, urgent, normal) → (urgent, normal)
        let rows = [
            ((100, 100, 10, 5), (10, 5)),
            ((50, 100, 10, 5), (5, 3)),
            ((200, 100, 10, 5), (10, 5)),
            ((2, 8, 1, 1), (1, 0)),
            ((3, 8, 1, 1), (1, 1)),
            ((1, 8, 1, 1), (0, 0)),
            ((0, 8, 1, 1), (0, 0)),
            ((4, 4, 9, 9), (3, 0)),
            ((4, 0, 1, 0), (1, 0)),
        ];
        for ((total, full, urgent, normal), wanted) in rows {
            assert_eq!(slot_reserves(total, full, urgent, normal), wanted, "{total} of {full}");
        }
    }
}
