//! The leaves of the tree: Mlists, in one store that never moves them, found by name or by index.

use std::hash::BuildHasher;

use hashbrown::HashTable;
use rustc_hash::FxBuildHasher;
use sternpost_message::{ErrorScope, MlistId, Precedence, UnixMillis};

use crate::chain::{KINDS, Links};
use crate::event::ProcessId;
use crate::peer::PeerIndex;
use crate::ranges::Ranges;

/// Where an Mlist is in [`Mlists`]. Given again after the Mlist is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct MlistIndex(u32);

impl MlistIndex {
    /// No Mlist's.
    pub(crate) const NONE: Self = Self(u32::MAX);
}

/// What an Mlist waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Its own back-off: in nobody's queue.
    Delayed,
    /// Its turn: in its peer's queue.
    Queued,
    /// A process works on it and it takes a slot.
    InProgress,
    /// The process is done with it; the durable outcome of some recipients is still to come.
    AwaitingOutcome,
}

/// What a channel has said of the peer when an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judged {
    /// Nothing yet.
    No,
    /// That it failed or refused, which has been counted.
    Yes,
    /// That it ended an association which had carried mail: the peer is not delayed by that.
    HungUp,
}

/// By whose fault an attempt has failed for somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    None,
    Peer,
    Message,
    Both,
}

impl Failure {
    pub(crate) const fn and(self, scope: ErrorScope) -> Self {
        match (self, scope) {
            (Self::None | Self::Peer, ErrorScope::Peer) => Self::Peer,
            (Self::None | Self::Message, ErrorScope::Message) => Self::Message,
            _ => Self::Both,
        }
    }

    /// The Mlist itself is delayed.
    pub(crate) const fn is_by_message(self) -> bool {
        matches!(self, Self::Message | Self::Both)
    }

    /// The peer has not answered for somebody.
    pub(crate) const fn is_by_peer(self) -> bool {
        matches!(self, Self::Peer | Self::Both)
    }
}

/// One Mlist. Two lines of a cache, and in no third one: what an event costs where a million wait is the lines that it touches.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Mlist {
    pub(crate) id: MlistId,
    pub(crate) accepted_at: UnixMillis,
    pub(crate) expires_at: u64,
    /// [`crate::timer::NEVER`] when done or not wanted.
    pub(crate) delay_report_at: u64,
    /// No attempt before this.
    pub(crate) retry_at: u64,
    /// Its entry in the timers, which set it.
    pub(crate) timer_at: u64,
    /// Its neighbours in its peer's queue and in a slot of the timers.
    pub(crate) links: [Links; KINDS],
    /// Who still needs an attempt, those under way included.
    pub(crate) pending: Ranges,
    /// Who was assigned and has no durable outcome yet.
    pub(crate) open: Ranges,
    /// Whose slot or word it waits for, unless it is `Delayed` or `Queued`.
    pub(crate) holder: ProcessId,
    pub(crate) peer: PeerIndex,
    /// The peer's count of failures when the attempt began.
    pub(crate) wave: u32,
    pub(crate) attempts: u16,
    pub(crate) precedence: Precedence,
    pub(crate) place: Place,
    /// Whether the attempt under way has failed for somebody.
    pub(crate) failure: Failure,
    /// What is known of the peer's part in that.
    pub(crate) judged: Judged,
    /// It came to its peer's queue when younger ones waited there.
    pub(crate) is_late: bool,
}

/// The bound of the design: 400 octets for an Mlist with one recipient, index entries included.
pub(crate) const MLIST_OCTETS_MAX: usize = 400;

/// An Mlist's share of every index, counted at the worst fill: the name → index table has 1 control octet and at
/// least 7/16 of its places in use just after it grew. Those that came late to their queue or whose timer is near stand in a
/// B-tree besides: its leaf has at least 5 of 11 places in use, and its inner nodes add less than a fifth.
pub(crate) const MLIST_OCTETS_WORST: usize = {
    let by_name = (size_of::<Named>() + 1) * 16 / 7;
    let late = size_of::<crate::queue::Aged>() * 11 / 5 * 6 / 5;
    let near = size_of::<(u64, MlistIndex)>() * 11 / 5 * 6 / 5;
    size_of::<Option<Mlist>>() + by_name + late + near
};
const _: () = assert!(MLIST_OCTETS_WORST <= MLIST_OCTETS_MAX);

/// Mlists in a block: a block is never moved, so that growing costs the same at a million as at none.
const BLOCK: usize = 1024;

/// An Mlist in the table of names: half of the hash of its name, so that the table grows without a look at the
/// Mlists, and its index.
#[derive(Clone, Copy, Debug)]
struct Named {
    hash: u32,
    index: u32,
}

/// The half of a hash that is kept.
fn hash_of(id: MlistId) -> u32 {
    (FxBuildHasher.hash_one(id) >> 32) as u32
}

/// What the table works with: it takes its octets from both ends of 64 bits.
const fn spread(hash: u32) -> u64 {
    (hash as u64) << 32 | hash as u64
}

/// All Mlists.
#[derive(Debug, Default)]
pub(crate) struct Mlists {
    blocks: Vec<Vec<Option<Mlist>>>,
    free: Vec<u32>,
    by_id: HashTable<Named>,
}

/// What is said of an index that is not in use.
const IN_USE: &str = "an index is forgotten together with its Mlist";

impl Mlists {
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// All of them, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Mlist> {
        self.blocks.iter().flatten().flatten()
    }

    pub(crate) fn find(&self, id: MlistId) -> Option<MlistIndex> {
        let hash = hash_of(id);
        let is_it = |named: &Named| named.hash == hash && self.get(MlistIndex(named.index)).id == id;
        self.by_id.find(spread(hash), is_it).map(|named| MlistIndex(named.index))
    }

    /// The Mlist at an index that is in use.
    pub(crate) fn get(&self, index: MlistIndex) -> &Mlist {
        let at = index.0 as usize;
        self.blocks[at / BLOCK][at % BLOCK].as_ref().expect(IN_USE)
    }

    /// The Mlist at an index that is in use.
    pub(crate) fn get_mut(&mut self, index: MlistIndex) -> &mut Mlist {
        let at = index.0 as usize;
        self.blocks[at / BLOCK][at % BLOCK].as_mut().expect(IN_USE)
    }

    /// Adds an Mlist whose name is not there yet.
    pub(crate) fn insert(&mut self, mlist: Mlist) -> MlistIndex {
        let hash = hash_of(mlist.id);
        let index = match self.free.pop() {
            Some(index) => {
                self.blocks[index as usize / BLOCK][index as usize % BLOCK] = Some(mlist);
                index
            }
            None => {
                if self.blocks.last().is_none_or(|block| block.len() == BLOCK) {
                    self.blocks.push(Vec::with_capacity(BLOCK));
                }
                let before = (self.blocks.len() - 1) * BLOCK;
                let block = self.blocks.last_mut().expect("a block was just pushed if there was none");
                block.push(Some(mlist));
                u32::try_from(before + block.len() - 1)
                    .ok()
                    .filter(|&index| index != MlistIndex::NONE.0)
                    .expect("4 billion Mlists need more memory than there is")
            }
        };
        self.by_id.insert_unique(spread(hash), Named { hash, index }, |named| spread(named.hash));
        MlistIndex(index)
    }

    /// Takes out an Mlist that is in no list.
    pub(crate) fn remove(&mut self, index: MlistIndex) -> Mlist {
        let at = index.0 as usize;
        let mlist = self.blocks[at / BLOCK][at % BLOCK].take().expect(IN_USE);
        let named = self.by_id.find_entry(spread(hash_of(mlist.id)), |named| named.index == index.0);
        if let Ok(named) = named {
            named.remove();
        }
        self.free.push(index.0);
        mlist
    }
}

/// Mlists for the tests of this crate.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::timer::NEVER;
    use sternpost_message::{MessageSequence, RouteIndex};

    pub(crate) fn mlist(message: u64) -> Mlist {
        Mlist {
            id: MlistId { message: MessageSequence(message), route: RouteIndex(0) },
            accepted_at: UnixMillis(0),
            expires_at: 0,
            delay_report_at: 0,
            retry_at: 0,
            timer_at: NEVER,
            links: [Links::NONE; KINDS],
            pending: Ranges::None,
            open: Ranges::None,
            holder: ProcessId(0),
            peer: PeerIndex(0),
            wave: 0,
            attempts: 0,
            precedence: Precedence::Routine,
            place: Place::Queued,
            failure: Failure::None,
            judged: Judged::No,
            is_late: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::mlist;
    use super::*;

    #[test]
    fn an_mlist_with_one_recipient_takes_at_most_400_octets() {
        // 128 itself, and the worst case of one entry in the table, one among the late and one among the near.
        assert_eq!(size_of::<Option<Mlist>>(), 128);
        assert_eq!(size_of::<crate::queue::Aged>(), 16);
        assert_eq!(size_of::<Named>(), 8);
        const { assert!(MLIST_OCTETS_WORST <= MLIST_OCTETS_MAX) }
        // No doubling: never more than a block beyond what is used.
        let mut mlists = Mlists::default();
        for message in 0..100_001 {
            mlists.insert(mlist(message));
        }
        let places: usize = mlists.blocks.iter().map(Vec::capacity).sum();
        assert!(places < mlists.len() + BLOCK, "{places}");
    }

    #[test]
    fn a_place_is_used_again_and_the_old_name_is_forgotten() {
        let mut mlists = Mlists::default();
        let first = mlists.insert(mlist(1));
        mlists.insert(mlist(2));
        assert_eq!(mlists.remove(first).id, mlist(1).id);
        assert_eq!(mlists.find(mlist(1).id), None);
        assert_eq!(mlists.insert(mlist(3)), first);
        assert_eq!((mlists.len(), mlists.get(first).id), (2, mlist(3).id));
    }
}
