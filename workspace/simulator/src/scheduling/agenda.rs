//! What is going to happen, in the order of time; at one instant in the order in which it was entered.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// One entry: when, its number, what.
type Entry<T> = Reverse<(u64, u64, T)>;

/// Things to come.
#[derive(Debug)]
pub(super) struct Agenda<T: Ord> {
    entries: BinaryHeap<Entry<T>>,
    count: u64,
}

impl<T: Ord> Agenda<T> {
    pub(super) const fn new() -> Self {
        Self { entries: BinaryHeap::new(), count: 0 }
    }

    pub(super) fn enter(&mut self, at: u64, what: T) {
        self.count += 1;
        self.entries.push(Reverse((at, self.count, what)));
    }

    pub(super) fn next_at(&self) -> Option<u64> {
        self.entries.peek().map(|Reverse((at, ..))| *at)
    }

    pub(super) fn next(&mut self) -> Option<(u64, T)> {
        self.entries.pop().map(|Reverse((at, _, what))| (at, what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_at_one_instant_happens_in_the_order_in_which_it_was_entered() {
        let mut agenda = Agenda::new();
        for (at, what) in [(5, 'c'), (3, 'b'), (3, 'a'), (1, 'z')] {
            agenda.enter(at, what);
        }
        assert_eq!(agenda.next_at(), Some(1));
        let order: Vec<char> = std::iter::from_fn(|| agenda.next()).map(|(_, what)| what).collect();
        assert_eq!(order, ['z', 'b', 'a', 'c']);
    }
}
