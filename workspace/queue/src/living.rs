//! The living messages in memory: at most 128 octets each, in the order of acceptance, found by number and by id.
//!
//! Nearly every message has one chunk and one route; it takes 80 octets in a page of its neighbours and 13 to 26 in the
//! table of ids. The others keep a box beside. Knows nothing of segments or records.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use sternpost_message::{MessageId, MessageSequence, Precedence, UnixMillis};

use crate::place::Place;
use crate::routes::RouteId;
use crate::runs::Runs;

/// A living message.
pub(crate) struct Living {
    pub(crate) id: MessageId,
    pub(crate) accepted_at: UnixMillis,
    /// The envelope, or the moved record.
    pub(crate) place: Place,
    pub(crate) runs: Runs,
    shape: Shape,
    pub(crate) precedence: Precedence,
    /// A part of it is lost: content or envelope.
    pub(crate) damaged: bool,
    /// Its number within its page.
    number: u16,
}
const _: () = assert!(size_of::<Living>() == 80);

/// Content and routes.
enum Shape {
    /// One chunk, which is there and is all of the content; one route.
    Plain { route: RouteId, chunk: Place },
    /// Anything else.
    Wide(Box<Wide>),
}

struct Wide {
    content_octets: u64,
    chunks: Box<[Place]>,
    routes: Box<[RouteId]>,
}

impl Living {
    pub(crate) fn new(
        id: MessageId,
        accepted_at: UnixMillis,
        precedence: Precedence,
        place: Place,
        runs: Runs,
        content: Content,
    ) -> Self {
        let Content { octets, chunks, routes } = content;
        let shape = match (&chunks[..], &routes[..]) {
            ([chunk], [route]) if !chunk.is_missing() && content_octets(*chunk) == octets => {
                Shape::Plain { route: *route, chunk: *chunk }
            }
            _ => Shape::Wide(Box::new(Wide {
                content_octets: octets,
                chunks: chunks.into_boxed_slice(),
                routes: routes.into_boxed_slice(),
            })),
        };
        Self { id, accepted_at, place, runs, shape, precedence, damaged: false, number: 0 }
    }

    pub(crate) fn content_octets(&self) -> u64 {
        match &self.shape {
            Shape::Plain { chunk, .. } => content_octets(*chunk),
            Shape::Wide(wide) => wide.content_octets,
        }
    }

    pub(crate) fn chunks(&self) -> &[Place] {
        match &self.shape {
            Shape::Plain { chunk, .. } => std::slice::from_ref(chunk),
            Shape::Wide(wide) => &wide.chunks,
        }
    }

    pub(crate) fn routes(&self) -> &[RouteId] {
        match &self.shape {
            Shape::Plain { route, .. } => std::slice::from_ref(route),
            Shape::Wide(wide) => &wide.routes,
        }
    }

    /// A moved record tells of so many chunks. Those that the message never had are missed: `stand_in`.
    pub(crate) fn miss_chunks(&mut self, chunks: u32) {
        if self.chunks().len() >= chunks as usize {
            return;
        }
        let (content_octets, mut places) = (self.content_octets(), self.chunks().to_vec());
        places.resize(chunks as usize, Place::default());
        let (chunks, routes) = (places.into_boxed_slice(), self.routes().into());
        self.shape = Shape::Wide(Box::new(Wide { content_octets, chunks, routes }));
        self.damaged = true;
    }

    /// Puts a chunk elsewhere, or nowhere; gives its old place. None when the message has no such chunk.
    pub(crate) fn set_chunk(&mut self, index: u32, place: Place) -> Option<Place> {
        if let Shape::Plain { route, chunk } = self.shape {
            if place.octets() == chunk.octets() && index == 0 {
                self.shape = Shape::Plain { route, chunk: place };
                return Some(chunk);
            }
            self.shape = Shape::Wide(Box::new(Wide {
                content_octets: content_octets(chunk),
                chunks: Box::new([chunk]),
                routes: Box::new([route]),
            }));
        }
        let Shape::Wide(wide) = &mut self.shape else { return None };
        let chunk = wide.chunks.get_mut(usize::try_from(index).ok()?)?;
        Some(std::mem::replace(chunk, place))
    }
}

/// What a message is made of beside its envelope. Routes in the order of the envelope.
pub(crate) struct Content {
    pub(crate) octets: u64,
    pub(crate) chunks: Vec<Place>,
    pub(crate) routes: Vec<RouteId>,
}

/// Octets of content in a chunk's record.
pub(crate) fn content_octets(place: Place) -> u64 {
    u64::from(place.octets()).saturating_sub(crate::format::CONTENT_OVERHEAD_OCTETS as u64)
}

/// Messages that share a page, and one more at most: what is moved in memory when one of them dies is 256 × 80 octets.
const PAGE_MESSAGES: usize = 256;
/// Neighbouring pages with no more of them become one.
const JOINED_MESSAGES_MAX: usize = 192;

/// One id's place in the table: a part of its hash, so that growing the table touches no message, and the number.
#[derive(Clone, Copy)]
struct Named {
    hash: u32,
    sequence: [u32; 2],
}

impl Named {
    fn new(hash: u32, sequence: u64) -> Self {
        Self { hash, sequence: halves(sequence) }
    }

    fn sequence(self) -> u64 {
        u64::from(self.sequence[0]) | u64::from(self.sequence[1]) << 32
    }

    /// The table takes the lowest bits for the place and the highest for a tag.
    fn hash(hash: u32) -> u64 {
        u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// The lower 32 bits and the upper ones.
const fn halves(number: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = number.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

/// Neighbours, ascending. A living message's `number` is counted from the page's first sequence.
type Page = VecDeque<Living>;

/// All living messages.
#[derive(Default)]
pub(crate) struct LivingMessages {
    /// By their first sequences: that of a message that lives, or has lived. However few of those that came are left, pages are
    /// filled, for neighbours with few messages become one.
    pages: BTreeMap<u64, Page>,
    by_id: HashTable<Named>,
    /// Ids are random, but a client may choose them: nobody knows which of them meet in the table.
    key: RandomState,
}

impl LivingMessages {
    pub(crate) fn count(&self) -> u64 {
        self.by_id.len() as u64
    }

    pub(crate) fn get(&self, sequence: u64) -> Option<&Living> {
        let (first, page) = self.pages.range(..=sequence).next_back()?;
        page.get(found(page, sequence - first)?)
    }

    pub(crate) fn get_mut(&mut self, sequence: u64) -> Option<&mut Living> {
        let (first, page) = self.pages.range_mut(..=sequence).next_back()?;
        page.get_mut(found(page, sequence - first)?)
    }

    /// The part of an id's hash that its place keeps.
    fn hash_part(&self, id: MessageId) -> u32 {
        let [hash, _] = halves(self.key.hash_one(id));
        hash
    }

    pub(crate) fn find(&self, id: MessageId) -> Option<u64> {
        let hash = self.hash_part(id);
        let is_it = |named: &Named| {
            named.hash == hash && self.get(named.sequence()).is_some_and(|living| living.id == id)
        };
        self.by_id.find(Named::hash(hash), is_it).map(|named| named.sequence())
    }

    /// Adds a message; its number and its id are new.
    pub(crate) fn insert(&mut self, sequence: u64, mut living: Living) {
        let named = Named::new(self.hash_part(living.id), sequence);
        let (first, page) = self.page_for(sequence);
        living.number = number_in(first, sequence).expect("a page was chosen that reaches so far");
        let at = page.partition_point(|other| other.number < living.number);
        page.insert(at, living);
        self.by_id.insert_unique(Named::hash(named.hash), named, |named| Named::hash(named.hash));
    }

    /// The page for a new message, which may be a new one, and its first sequence.
    fn page_for(&mut self, sequence: u64) -> (u64, &mut Page) {
        let before = self.pages.range(..=sequence).next_back();
        let has_room = |(first, page): (&u64, &Page)| {
            let has_room = page.len() < PAGE_MESSAGES && number_in(*first, sequence).is_some();
            has_room.then_some(*first)
        };
        let first = match before.and_then(has_room) {
            Some(first) => first,
            None => {
                self.part(sequence);
                sequence
            }
        };
        (first, self.pages.entry(first).or_default())
    }

    /// Makes a page begin at `sequence`, with those behind it that stood in the page before.
    fn part(&mut self, sequence: u64) {
        let Some((first, page)) = self.pages.range_mut(..=sequence).next_back() else { return };
        let first = *first;
        let Some(shift) = number_in(first, sequence) else { return };
        let mut behind = page.split_off(page.partition_point(|living| living.number < shift));
        if page.is_empty() {
            self.pages.remove(&first);
        }
        if !behind.is_empty() {
            behind.iter_mut().for_each(|living| living.number -= shift);
            self.pages.insert(sequence, behind);
        }
    }

    pub(crate) fn remove(&mut self, sequence: u64) -> Option<Living> {
        let (first, page) = self.pages.range_mut(..=sequence).next_back()?;
        let first = *first;
        let living = page.remove(found(page, sequence - first)?)?;
        let left = page.len();
        if left == 0 {
            self.pages.remove(&first);
        } else if left * 3 <= page.capacity() * 2 {
            page.shrink_to(left + left / 8);
        }
        // Now and then is enough.
        if left.is_power_of_two() && left <= JOINED_MESSAGES_MAX {
            self.join_behind(first);
            let before = self.pages.range(..first).next_back().map(|(before, _)| *before);
            before.into_iter().for_each(|before| self.join_behind(before));
        }
        let hash = self.hash_part(living.id);
        let named = self.by_id.find_entry(Named::hash(hash), |named| named.sequence() == sequence);
        if let Ok(named) = named {
            named.remove();
        }
        Some(living)
    }

    /// Makes one page of this one and the next, if both together have few messages.
    fn join_behind(&mut self, first: u64) {
        let mut both = self.pages.range(first..).take(2);
        let (Some((_, page)), Some((next, behind))) = (both.next(), both.next()) else { return };
        let next = *next;
        let reaches =
            behind.back().is_some_and(|last| number_in(first, next + u64::from(last.number)).is_some());
        if !reaches || page.len() + behind.len() > JOINED_MESSAGES_MAX {
            return;
        }
        let (Some(behind), Some(shift)) = (self.pages.remove(&next), number_in(first, next)) else { return };
        let Some(page) = self.pages.get_mut(&first) else { return };
        page.reserve_exact(behind.len());
        page.extend(behind.into_iter().map(|living| Living { number: living.number + shift, ..living }));
    }

    /// From `first` on, ascending.
    pub(crate) fn from(&self, first: u64) -> impl Iterator<Item = (MessageSequence, &Living)> {
        let first_page = self.pages.range(..=first).next_back().map_or(first, |(page, _)| *page);
        self.pages.range(first_page..).flat_map(move |(page, messages)| {
            let skipped = messages.partition_point(|living| page + u64::from(living.number) < first);
            messages.range(skipped..).map(|living| (sequence_at(*page, living.number), living))
        })
    }

    /// Each one, to be changed.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (MessageSequence, &mut Living)> {
        self.pages.iter_mut().flat_map(|(page, messages)| {
            messages.iter_mut().map(|living| (sequence_at(*page, living.number), living))
        })
    }

    /// Memory that the messages take, but for the boxes of the few wide ones and the nodes of the tree (48 octets for a page).
    pub(crate) fn octets(&self) -> u64 {
        let pages: usize = self.pages.values().map(VecDeque::capacity).sum();
        let table = self.by_id.capacity() * 8 / 7 * (size_of::<Named>() + 1);
        (pages * size_of::<Living>() + table) as u64
    }
}

/// Where the message of a number stands in a page.
fn found(page: &Page, number: u64) -> Option<usize> {
    let number = u16::try_from(number).ok()?;
    page.binary_search_by_key(&number, |living| living.number).ok()
}

/// A sequence as a number of the page that begins at `first`, if it reaches so far.
fn number_in(first: u64, sequence: u64) -> Option<u16> {
    u16::try_from(sequence.checked_sub(first)?).ok()
}

fn sequence_at(first: u64, number: u16) -> MessageSequence {
    MessageSequence(first + u64::from(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::Routes;
    use sternpost_message::Precedence;

    fn living(number: u64, chunks: usize, routes: &mut Routes) -> Living {
        let chunk = Place::new(1, 4096, 4096 + 48);
        let content = Content {
            octets: chunks as u64 * content_octets(chunk),
            chunks: vec![chunk; chunks],
            routes: vec![routes.take("smtp", "a")],
        };
        let envelope = crate::tests::envelope(1, UnixMillis(0));
        let id = MessageId(u128::from(number).to_be_bytes());
        Living::new(id, UnixMillis(0), Precedence::Routine, chunk, Runs::new(&envelope), content)
    }

    #[test]
    fn messages_are_found_by_number_and_by_id_and_told_in_order_from_anywhere() {
        let mut routes = Routes::default();
        let mut all = LivingMessages::default();
        let numbers: Vec<u64> = (0..5000).map(|number| number * 7 % 5003 + 1).collect();
        for number in &numbers {
            all.insert(*number, living(*number, 1, &mut routes));
        }
        for number in numbers.iter().filter(|number| *number % 3 != 0) {
            assert!(all.remove(*number).is_some() && all.remove(*number).is_none());
        }
        let mut left: Vec<u64> = numbers.into_iter().filter(|number| number % 3 == 0).collect();
        left.sort_unstable();
        for first in [0, 1, 255, 256, 257, 2500, 6000] {
            let told: Vec<u64> = all.from(first).map(|(sequence, _)| sequence.0).collect();
            let expected: Vec<u64> = left.iter().copied().filter(|number| *number >= first).collect();
            assert_eq!(told, expected, "from {first}");
        }
        assert_eq!(all.count(), left.len() as u64);
        for number in 1..5003_u64 {
            let id = MessageId(u128::from(number).to_be_bytes());
            let lives = left.binary_search(&number).is_ok();
            assert_eq!(all.find(id), lives.then_some(number));
            assert_eq!(all.get(number).map(|living| living.id), lives.then_some(id));
        }
    }

    #[test]
    fn which_ids_meet_is_another_question_in_each_table() {
        let tables = [LivingMessages::default(), LivingMessages::default()];
        let hash_parts = |table: &LivingMessages| {
            let hash_part = |number: u128| table.hash_part(MessageId(number.to_be_bytes()));
            (0..1_000).map(hash_part).collect::<std::collections::BTreeSet<u32>>()
        };
        let [one, other] = tables.each_ref().map(hash_parts);
        assert!(one != other && one.len() > 990 && other.len() > 990);
    }

    #[test]
    fn a_message_of_one_chunk_and_one_route_takes_128_octets_at_most() {
        let mut routes = Routes::default();
        let mut all = LivingMessages::default();
        let count = 300_000;
        for number in 0..count {
            all.insert(number, living(number, 1, &mut routes));
        }
        assert!(all.octets() / count <= 128, "{} octets each", all.octets() / count);
        assert!(all.from(0).all(|(_, living)| matches!(living.shape, Shape::Plain { .. })));
    }

    #[test]
    fn of_one_in_a_hundred_that_is_left_each_takes_as_little() {
        let mut routes = Routes::default();
        let mut all = LivingMessages::default();
        let under_way = 3_000;
        for number in 0..1_000_000_u64 {
            all.insert(number, living(number, 1, &mut routes));
            if let Some(ended) = number.checked_sub(under_way).filter(|ended| ended % 100 != 7) {
                assert!(all.remove(ended).is_some());
            }
        }
        let count = all.count();
        let octets = all.octets() + all.pages.len() as u64 * 48;
        assert!(count > 10_000 && octets / count <= 128, "{} octets each of {count}", octets / count);
        assert!(all.pages.values().all(|page| page.len() <= PAGE_MESSAGES));
        let told: Vec<u64> = all.from(0).map(|(sequence, _)| sequence.0).take(9_000).collect();
        assert!(told.iter().copied().eq((0..9_000).map(|number| number * 100 + 7)));
        assert!(told.iter().all(|number| all.get(*number).is_some() && all.get(number + 1).is_none()));
    }

    #[test]
    fn messages_that_come_in_any_order_far_apart_and_between_others_are_found() {
        let mut routes = Routes::default();
        let mut all = LivingMessages::default();
        let mut known = std::collections::BTreeSet::new();
        let mut state = 1_u64;
        for turn in 0..60_000_u64 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Crowded near the front, thin and beyond the reach of a page behind.
            let number = if turn % 3 == 0 { (state >> 33) % 1_000_000 } else { (state >> 33) % 4_000 };
            if known.insert(number) {
                all.insert(number, living(number, 1, &mut routes));
            } else {
                known.remove(&number);
                assert!(all.remove(number).is_some());
            }
        }
        assert!(all.from(0).map(|(sequence, _)| sequence.0).eq(known.iter().copied()));
        for first in [0, 1, 2_000, 3_999, 70_000, 999_999] {
            let told = all.from(first).map(|(sequence, _)| sequence.0);
            assert!(told.eq(known.range(first..).copied()), "from {first}");
        }
        for number in 0..4_000 {
            assert_eq!(all.get(number).is_some(), known.contains(&number));
        }
        for number in std::mem::take(&mut known) {
            assert!(all.remove(number).is_some());
        }
        assert!(all.count() == 0 && all.pages.is_empty());
    }

    #[test]
    fn a_chunk_moves_and_is_lost_in_either_shape() {
        let mut routes = Routes::default();
        for chunks in [1, 3] {
            let mut living = living(1, chunks, &mut routes);
            let octets = living.content_octets();
            let old = living.chunks()[0];
            let new = Place::new(2, 8192, old.octets());
            assert_eq!(living.set_chunk(0, new), Some(old));
            assert_eq!(living.set_chunk(0, Place::default()), Some(new));
            assert_eq!(living.set_chunk(9, new), None);
            assert!(living.chunks()[0].is_missing());
            assert_eq!((living.content_octets(), living.routes().len()), (octets, 1));
        }
    }
}
