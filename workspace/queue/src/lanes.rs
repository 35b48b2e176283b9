//! The sets that wait for a batch, each in its lane, and how much they hold.
//!
//! Decides nothing: which set goes next is the matter of `filling`, which one may come in that of `log`.

use std::collections::VecDeque;

use crate::append::Lane;
use crate::set::WaitingSet;

/// See the module.
#[derive(Default)]
pub(crate) struct Lanes {
    lanes: [VecDeque<WaitingSet<'static>>; 4],
    octets: u64,
    content_octets: u64,
}

impl Lanes {
    /// What the waiting sets take in batches.
    pub(crate) const fn octets(&self) -> u64 {
        self.octets
    }

    /// The share of sets that bring content without an envelope.
    pub(crate) const fn content_octets(&self) -> u64 {
        self.content_octets
    }

    /// Whether anything waits but outcomes.
    pub(crate) fn mail_waits(&self) -> bool {
        self.lanes[Lane::Urgent.position()..].iter().any(|lane| !lane.is_empty())
    }

    /// Whether a set of this lane would be the next one.
    pub(crate) fn is_next(&self, lane: Lane) -> bool {
        self.lanes[..=lane.position()].iter().all(VecDeque::is_empty)
    }

    pub(crate) fn push_back(&mut self, set: WaitingSet<'static>) {
        self.came(&set);
        self.lanes[set.lane.position()].push_back(set);
    }

    /// Puts a set that was taken back to its place.
    pub(crate) fn push_front(&mut self, set: WaitingSet<'static>) {
        self.came(&set);
        self.lanes[set.lane.position()].push_front(set);
    }

    pub(crate) fn pop_front(&mut self, lane: Lane) -> Option<WaitingSet<'static>> {
        let set = self.lanes[lane.position()].pop_front()?;
        self.went(&set);
        Some(set)
    }

    /// Takes out the sets that are `wanted`, lane by lane; the others keep their order.
    pub(crate) fn take_all(&mut self, wanted: impl Fn(&WaitingSet<'_>) -> bool) -> Vec<WaitingSet<'static>> {
        let mut taken = Vec::new();
        for lane in &mut self.lanes {
            for set in std::mem::take(lane) {
                if wanted(&set) {
                    taken.push(set);
                } else {
                    lane.push_back(set);
                }
            }
        }
        for set in &taken {
            self.went(set);
        }
        taken
    }

    fn came(&mut self, set: &WaitingSet<'_>) {
        self.octets += set.need.octets as u64;
        self.content_octets += content_octets(set);
    }

    fn went(&mut self, set: &WaitingSet<'_>) {
        self.octets -= set.need.octets as u64;
        self.content_octets -= content_octets(set);
    }
}

const fn content_octets(set: &WaitingSet<'_>) -> u64 {
    if set.only_content { set.need.octets as u64 } else { 0 }
}
