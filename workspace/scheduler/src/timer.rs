//! When something is due. Each Mlist, peer, channel and process has at most one instant here; its owner remembers
//! which, so that it can take it out again.
//!
//! Nearly every Mlist goes long before its delay report is due, so its timer is set and taken out and never fires. Timers
//! of Mlists stand in a wheel: a slot is a list for some seconds, in no order, and setting one costs the same at a million as at
//! one. When the time of a slot comes, what is in it moves to an ordered set, which is short.

use std::collections::BTreeSet;

use crate::chain::{Chain, TIMERS};
use crate::event::ProcessId;
use crate::peer::PeerIndex;
use crate::process::ChannelIndex;
use crate::tree::{MlistIndex, Mlists};

/// An instant that never comes.
pub(crate) const NEVER: u64 = u64::MAX;

/// The time of a slot, milliseconds. One event moves the timers of a slot: those of the messages of eight seconds.
const SLOT_MS: u64 = 8_192;
/// Slots of the wheel: more than six days, so that timers pass it once. 8 octets each, 512 KiB in all.
const SLOTS: u64 = 1 << 16;

/// Who asked to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Due {
    /// The Mlist's delay or life ends, or its delay report is due.
    Mlist(MlistIndex),
    /// The peer's delay ends.
    Peer(PeerIndex),
    /// The channel may start processes again.
    Channel(ChannelIndex),
    /// The process was idle for long, or has been finishing for long.
    Process(ProcessId),
    /// A [`crate::Minimise`] begins or ends.
    Minimise,
}

/// All instants, in milliseconds since 1970.
#[derive(Debug)]
pub(crate) struct Timers {
    /// Timers of Mlists before `near_until`.
    near: BTreeSet<(u64, MlistIndex)>,
    /// The end of a slot.
    near_until: u64,
    /// The others, each in the slot of its time modulo [`SLOTS`].
    far: Box<[Chain<TIMERS>]>,
    /// The beginning of a slot: none of `far` is due before. [`NEVER`] when there are none.
    far_from: u64,
    /// Those of everything but Mlists.
    others: BTreeSet<(u64, Due)>,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            near: BTreeSet::new(),
            near_until: 0,
            far: vec![Chain::EMPTY; place(SLOTS - 1) + 1].into_boxed_slice(),
            far_from: NEVER,
            others: BTreeSet::new(),
        }
    }
}

/// The number of the slot of an instant, rounds included.
const fn slot(at: u64) -> u64 {
    at / SLOT_MS
}

/// Where the slot of this number is.
const fn place(slot: u64) -> usize {
    (slot % SLOTS) as usize
}

impl Timers {
    /// Moves the timer of `due`, which is no Mlist, from the instant `at` to `to`; either may be [`NEVER`].
    pub(crate) fn change(&mut self, due: Due, at: &mut u64, to: u64) {
        if *at == to {
            return;
        }
        if *at != NEVER {
            self.others.remove(&(*at, due));
        }
        if to != NEVER {
            self.others.insert((to, due));
        }
        *at = to;
    }

    /// Moves the timer of an Mlist to an instant; to [`NEVER`] takes it out.
    pub(crate) fn change_mlist(&mut self, mlists: &mut Mlists, index: MlistIndex, to: u64) {
        let at = mlists.get(index).timer_at;
        if at == to {
            return;
        }
        if at < self.near_until {
            self.near.remove(&(at, index));
        } else if at != NEVER {
            self.far[place(slot(at))].remove(mlists, index);
        }
        mlists.get_mut(index).timer_at = to;
        if to < self.near_until {
            self.near.insert((to, index));
        } else if to != NEVER {
            self.far[place(slot(to))].push(mlists, index);
            self.far_from = self.far_from.min(slot(to) * SLOT_MS);
        }
    }

    /// The earliest instant, or an earlier one at which to look for it: the beginning of a slot.
    pub(crate) fn next_at(&self) -> Option<u64> {
        let near = self.near.first().map(|entry| entry.0);
        let others = self.others.first().map(|entry| entry.0);
        let far = Some(self.far_from).filter(|&at| at != NEVER);
        [near, others, far].into_iter().flatten().min()
    }

    /// Takes out one timer that is due, the earliest of its kind. The owner of one that is no Mlist's has to be told that it
    /// has none any more.
    pub(crate) fn pop(&mut self, mlists: &mut Mlists, now: u64) -> Option<Due> {
        if self.others.first().is_some_and(|entry| entry.0 <= now) {
            return self.others.pop_first().map(|entry| entry.1);
        }
        if self.near_until <= now {
            self.come_near(mlists, now);
        }
        if self.near.first().is_some_and(|entry| entry.0 <= now) {
            let (_, index) = self.near.pop_first()?;
            mlists.get_mut(index).timer_at = NEVER;
            return Some(Due::Mlist(index));
        }
        None
    }

    /// Moves what is due up to the end of the present slot to the ordered set.
    fn come_near(&mut self, mlists: &mut Mlists, now: u64) {
        let behind = slot(now) + 1;
        self.near_until = behind.saturating_mul(SLOT_MS);
        if self.far_from >= self.near_until {
            return;
        }
        // After a round all slots have been looked at.
        let from = slot(self.far_from).max(behind.saturating_sub(SLOTS));
        for slot in from..behind {
            let chain = &mut self.far[place(slot)];
            let mut next = chain.first();
            while let Some(index) = next {
                next = Chain::<TIMERS>::behind(mlists, index);
                let at = mlists.get(index).timer_at;
                // Others are due a round later.
                if at < self.near_until {
                    chain.remove(mlists, index);
                    self.near.insert((at, index));
                }
            }
        }
        let next =
            (behind..behind.saturating_add(SLOTS)).find(|&slot| self.far[place(slot)].first().is_some());
        self.far_from = next.map_or(NEVER, |slot| slot.saturating_mul(SLOT_MS));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::testing::mlist;
    use proptest::prelude::*;

    /// Instants that matter: near, slots away, rounds away, and the end of time.
    fn instants() -> impl Strategy<Value = u64> {
        prop_oneof![
            0..3 * SLOT_MS,
            0..3 * SLOT_MS * SLOTS,
            (0..40_u64).prop_map(|slots| slots * SLOT_MS * (SLOTS / 8)),
            Just(NEVER),
            NEVER - 2 * SLOT_MS..NEVER,
        ]
    }

    proptest! {
        #[test]
        fn what_is_due_comes_in_the_order_of_time_and_nothing_else_does(
            steps in prop::collection::vec((0_usize..20, instants(), any::<bool>()), 1..120),
        ) {
            let mut mlists = Mlists::default();
            let all: Vec<MlistIndex> = (0..20).map(|number| mlists.insert(mlist(number))).collect();
            let mut timers = Timers::default();
            let mut expected = BTreeSet::new();
            let mut now = 0;
            for (number, instant, is_look) in steps {
                let index = all[number];
                if !is_look {
                    expected.retain(|&(_, known)| known != index);
                    if instant != NEVER {
                        expected.insert((instant, index));
                    }
                    timers.change_mlist(&mut mlists, index, instant);
                }
                // No look is missed: the next one is no later than the first timer.
                let first = expected.first().map(|&(at, _)| at);
                prop_assert!(timers.next_at().unwrap_or(NEVER) <= first.unwrap_or(NEVER));
                if !is_look {
                    continue;
                }
                now = now.max(instant.min(NEVER - 1));
                while let Some(due) = timers.pop(&mut mlists, now) {
                    let (at, index) = expected.pop_first().expect("what comes was set");
                    prop_assert_eq!(due, Due::Mlist(index));
                    prop_assert!(at <= now);
                    prop_assert_eq!(mlists.get(index).timer_at, NEVER);
                }
                prop_assert!(expected.first().is_none_or(|&(at, _)| at > now));
                // And no look comes at the same instant again.
                prop_assert!(timers.next_at().is_none_or(|at| at > now));
            }
        }
    }

    #[test]
    fn who_comes_back_when_told_to_finds_the_timer_within_two_looks() {
        let mut mlists = Mlists::default();
        let index = mlists.insert(mlist(1));
        let mut timers = Timers::default();
        let begin = 1_000_000_000_000;
        timers.pop(&mut mlists, begin);
        timers.change_mlist(&mut mlists, index, begin + 14_400_001);
        let first = timers.next_at().unwrap();
        assert!(first > begin + 14_400_001 - SLOT_MS, "one look at the beginning of the slot");
        assert_eq!(timers.pop(&mut mlists, first), None);
        assert_eq!(timers.next_at(), Some(begin + 14_400_001), "and one at the instant");
        assert_eq!(timers.pop(&mut mlists, begin + 14_400_001), Some(Due::Mlist(index)));
        assert_eq!(timers.next_at(), None);
    }
}
