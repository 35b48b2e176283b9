//! What waits for its turn at a peer on one level, oldest message first.

use std::collections::BTreeSet;

use crate::chain::{Chain, QUEUE};
use crate::tree::{MlistIndex, Mlists};

/// An Mlist in the order of age: its message, its route, and where it is.
pub(crate) type Aged = (u64, u16, MlistIndex);

/// Mlists of one level.
///
/// Messages nearly always come in the order of their age, and the oldest one goes first: a list, in which both cost the
/// same however long it is. What comes back when younger ones wait already has its place in a set beside it.
#[derive(Debug)]
pub(crate) struct Queue {
    in_order: Chain<QUEUE>,
    late: BTreeSet<Aged>,
    len: usize,
    oldest: Option<Aged>,
}

impl Queue {
    pub(crate) const fn new() -> Self {
        Self { in_order: Chain::EMPTY, late: BTreeSet::new(), len: 0, oldest: None }
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) const fn oldest(&self) -> Option<Aged> {
        self.oldest
    }

    /// Adds an Mlist that is in no queue.
    pub(crate) fn insert(&mut self, mlists: &mut Mlists, index: MlistIndex) {
        let this = aged(mlists, index);
        let is_late = self.in_order.last().is_some_and(|last| aged(mlists, last) > this);
        mlists.get_mut(index).is_late = is_late;
        if is_late {
            self.late.insert(this);
        } else {
            self.in_order.push(mlists, index);
        }
        self.len += 1;
        self.oldest = Some(self.oldest.map_or(this, |oldest| oldest.min(this)));
    }

    /// Takes out an Mlist of this queue.
    pub(crate) fn remove(&mut self, mlists: &mut Mlists, index: MlistIndex) {
        let this = aged(mlists, index);
        if mlists.get(index).is_late {
            self.late.remove(&this);
        } else {
            self.in_order.remove(mlists, index);
        }
        self.len -= 1;
        if self.oldest == Some(this) {
            let first = self.in_order.first().map(|first| aged(mlists, first));
            self.oldest = first.into_iter().chain(self.late.first().copied()).min();
        }
    }
}

fn aged(mlists: &Mlists, index: MlistIndex) -> Aged {
    let id = mlists.get(index).id;
    (id.message.0, id.route.0, index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::testing::mlist;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_oldest_is_known_in_whatever_order_mlists_come_and_go(steps in prop::collection::vec(0_usize..40, 0..400)) {
            let mut mlists = Mlists::default();
            let all: Vec<MlistIndex> = (0..40).map(|number| mlists.insert(mlist(number))).collect();
            let mut queue = Queue::new();
            let mut expected = BTreeSet::new();
            for step in steps {
                let index = all[step];
                let this = aged(&mlists, index);
                if expected.remove(&this) {
                    queue.remove(&mut mlists, index);
                } else {
                    expected.insert(this);
                    queue.insert(&mut mlists, index);
                }
                prop_assert_eq!(queue.oldest(), expected.first().copied());
                prop_assert_eq!(queue.len(), expected.len());
            }
        }
    }
}
