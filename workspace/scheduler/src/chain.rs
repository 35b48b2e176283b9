//! Lists that go through the Mlists themselves: adding and taking out cost the same at a million as at one, and allocate
//! nothing.
//!
//! An Mlist has a pair of links for each kind of list, and is in one list of a kind at most.

use crate::tree::{MlistIndex, Mlists};

/// The kind of [`crate::queue::Queue`].
pub(crate) const QUEUE: usize = 0;
/// The kind of [`crate::timer::Timers`].
pub(crate) const TIMERS: usize = 1;
/// How many kinds there are.
pub(crate) const KINDS: usize = 2;

/// The neighbours of an Mlist in a list; [`MlistIndex::NONE`] at its ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Links {
    before: MlistIndex,
    behind: MlistIndex,
}

impl Links {
    /// Of one that is in no list.
    pub(crate) const NONE: Self = Self { before: MlistIndex::NONE, behind: MlistIndex::NONE };
}

/// A list of Mlists. Whoever owns it knows which Mlists are in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chain<const KIND: usize> {
    first: MlistIndex,
    last: MlistIndex,
}

impl<const KIND: usize> Chain<KIND> {
    /// Without Mlists.
    pub(crate) const EMPTY: Self = Self { first: MlistIndex::NONE, last: MlistIndex::NONE };

    pub(crate) fn first(&self) -> Option<MlistIndex> {
        (self.first != MlistIndex::NONE).then_some(self.first)
    }

    pub(crate) fn last(&self) -> Option<MlistIndex> {
        (self.last != MlistIndex::NONE).then_some(self.last)
    }

    /// The one behind an Mlist of this list.
    pub(crate) fn behind(mlists: &Mlists, index: MlistIndex) -> Option<MlistIndex> {
        let behind = mlists.get(index).links[KIND].behind;
        (behind != MlistIndex::NONE).then_some(behind)
    }

    /// Adds an Mlist that is in no list of this kind, as the last.
    pub(crate) fn push(&mut self, mlists: &mut Mlists, index: MlistIndex) {
        mlists.get_mut(index).links[KIND] = Links { before: self.last, behind: MlistIndex::NONE };
        match self.last() {
            Some(last) => mlists.get_mut(last).links[KIND].behind = index,
            None => self.first = index,
        }
        self.last = index;
    }

    /// Takes out an Mlist of this list.
    pub(crate) fn remove(&mut self, mlists: &mut Mlists, index: MlistIndex) {
        let Links { before, behind } = std::mem::replace(&mut mlists.get_mut(index).links[KIND], Links::NONE);
        if before == MlistIndex::NONE {
            self.first = behind;
        } else {
            mlists.get_mut(before).links[KIND].behind = behind;
        }
        if behind == MlistIndex::NONE {
            self.last = before;
        } else {
            mlists.get_mut(behind).links[KIND].before = before;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::testing::mlist;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_chain_is_the_list_of_what_was_added_and_not_taken_out(steps in prop::collection::vec(0_usize..12, 0..200)) {
            let mut mlists = Mlists::default();
            let all: Vec<MlistIndex> = (0..12).map(|number| mlists.insert(mlist(number))).collect();
            let mut chains = [Chain::<QUEUE>::EMPTY, Chain::EMPTY];
            let mut other = Chain::<TIMERS>::EMPTY;
            let mut expected: [Vec<MlistIndex>; 2] = [Vec::new(), Vec::new()];
            for step in steps {
                let index = all[step];
                // Each Mlist has its list of a kind; the other kind does not disturb it.
                let (chain, list) = (&mut chains[step % 2], &mut expected[step % 2]);
                if let Some(at) = list.iter().position(|&known| known == index) {
                    list.remove(at);
                    chain.remove(&mut mlists, index);
                    other.remove(&mut mlists, index);
                } else {
                    list.push(index);
                    chain.push(&mut mlists, index);
                    other.push(&mut mlists, index);
                }
                for (chain, list) in chains.iter().zip(&expected) {
                    let found: Vec<MlistIndex> =
                        std::iter::successors(chain.first(), |&at| Chain::<QUEUE>::behind(&mlists, at)).collect();
                    prop_assert_eq!(&found, list);
                    prop_assert_eq!(chain.last(), list.last().copied());
                }
            }
        }
    }
}
