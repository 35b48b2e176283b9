//! A set of recipients as ranges. Without an allocation while it is one range, as for nearly every Mlist.

use sternpost_message::RecipientRange;

/// Ranges in ascending order that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Ranges {
    /// Nobody.
    #[default]
    None,
    /// One range.
    One(RecipientRange),
    /// At least two. Boxed: an Mlist of one range pays 16 octets for the set, not 24.
    #[expect(
        clippy::box_collection,
        reason = "the set is embedded in every Mlist; 8 octets for the pointer, not 24"
    )]
    Many(Box<Vec<RecipientRange>>),
}

impl Ranges {
    /// The set of everybody in `ranges`, which may overlap and come in any order.
    pub(crate) fn of(ranges: &[RecipientRange]) -> Self {
        let mut set = Self::None;
        set.extend(ranges);
        set
    }

    pub(crate) const fn is_empty(&self) -> bool {
        matches!(self, Self::None)
    }

    pub(crate) fn as_slice(&self) -> &[RecipientRange] {
        match self {
            Self::None => &[],
            Self::One(range) => std::slice::from_ref(range),
            Self::Many(ranges) => ranges,
        }
    }

    /// Adds everybody in `ranges`.
    pub(crate) fn extend(&mut self, ranges: &[RecipientRange]) {
        for &range in ranges.iter().filter(|range| range.count > 0) {
            self.insert(range);
        }
    }

    fn insert(&mut self, range: RecipientRange) {
        if self.is_empty() {
            *self = Self::One(range);
            return;
        }
        let mut all = std::mem::take(self).into_vec();
        // Those that overlap or touch the new one melt into it.
        let from = all.partition_point(|old| old.end() < range.first);
        let to = all.partition_point(|old| old.first <= range.end());
        let melted = all[from..to]
            .iter()
            .fold(range, |sum, old| between(sum.first.min(old.first), sum.end().max(old.end())));
        all.splice(from..to, [melted]);
        *self = Self::from_vec(all);
    }

    /// Takes out everybody in `ranges`. Says whether somebody was in the set.
    pub(crate) fn remove_all(&mut self, ranges: &[RecipientRange]) -> bool {
        let mut met = false;
        for &range in ranges.iter().filter(|range| range.count > 0) {
            met |= self.remove(range);
        }
        met
    }

    fn remove(&mut self, range: RecipientRange) -> bool {
        match self {
            Self::None => return false,
            Self::One(only) if range.first <= only.first && range.end() >= only.end() => {
                *self = Self::None;
                return true;
            }
            _ => {}
        }
        let mut all = std::mem::take(self).into_vec();
        let from = all.partition_point(|old| old.end() <= range.first);
        let to = all.partition_point(|old| old.first < range.end());
        let met = from < to;
        if met {
            let left = between(all[from].first, range.first);
            let right = between(range.end(), all[to - 1].end());
            let kept = [left, right].into_iter().filter(|part| part.count > 0);
            all.splice(from..to, kept);
        }
        *self = Self::from_vec(all);
        met
    }

    /// Whether somebody is in both sets.
    pub(crate) fn meets(&self, ranges: &[RecipientRange]) -> bool {
        let all = self.as_slice();
        ranges.iter().filter(|range| range.count > 0).any(|range| {
            let at = all.partition_point(|old| old.end() <= range.first);
            all.get(at).is_some_and(|old| old.first < range.end())
        })
    }

    fn into_vec(self) -> Vec<RecipientRange> {
        match self {
            Self::None => Vec::new(),
            Self::One(range) => vec![range],
            Self::Many(ranges) => *ranges,
        }
    }

    fn from_vec(all: Vec<RecipientRange>) -> Self {
        match all.as_slice() {
            [] => Self::None,
            [only] => Self::One(*only),
            _ => Self::Many(Box::new(all)),
        }
    }
}

/// The range `first .. end`, empty when `end` is not behind `first`.
const fn between(first: u32, end: u32) -> RecipientRange {
    RecipientRange { first, count: end.saturating_sub(first) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use sternpost_message::RecipientIndex;

    fn range(first: u32, count: u32) -> RecipientRange {
        RecipientRange { first, count }
    }

    proptest! {
        #[test]
        fn a_set_of_ranges_is_a_set_of_recipients(
            steps in proptest::collection::vec((any::<bool>(), 0_u32..40, 0_u32..8), 0..40)
        ) {
            let mut set = Ranges::None;
            let mut oracle = BTreeSet::new();
            for (add, first, count) in steps {
                let touched: BTreeSet<u32> = (first..first + count).collect();
                prop_assert_eq!(set.meets(&[range(first, count)]), !oracle.is_disjoint(&touched));
                if add {
                    set.extend(&[range(first, count)]);
                    oracle.extend(touched);
                } else {
                    let met = set.remove_all(&[range(first, count)]);
                    prop_assert_eq!(met, !oracle.is_disjoint(&touched));
                    oracle.retain(|index| !touched.contains(index));
                }
                let packed = RecipientRange::pack(oracle.iter().copied().map(RecipientIndex));
                prop_assert_eq!(set.as_slice(), packed.as_slice());
            }
        }
    }

    #[test]
    fn the_largest_recipient_does_not_wrap() {
        let mut set = Ranges::of(&[range(u32::MAX - 1, 9), range(3, 1)]);
        assert!(set.remove_all(&[range(0, u32::MAX)]));
        assert!(set.is_empty());
    }
}
