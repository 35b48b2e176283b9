//! Where a history is cut: at every flush, and torn between two of them.

use crate::campaign::history::History;
use crate::power_cut::{Cache, Cut, Disk};
use crate::write_log::{Entry, Request};
use sternpost_simulator::random::Random;

/// Cuts of a history without flushes that lie so far apart.
const UNFLUSHED_STEP: usize = 8;

/// The cuts of a history, in its order: for each flush one right before the next, with all lost that is in the cache, and one
/// anywhere before the next, with the cache torn, if there is anything in it. The seed says where, and how.
///
/// Right before the next flush everything was acknowledged that this one covers, so that a promise without a flush behind it
/// shows. What is lost is then exactly what the switch was never told to be safe: the durable state of that moment.
#[must_use]
pub fn of(history: &History, seed: u64) -> Vec<Cut> {
    let entries = history.log.entries();
    let mut random = Random::new(seed);
    let mut cuts = Vec::new();
    for (begin, end) in intervals(entries, history.ready_count) {
        cuts.push(Cut { entries_count: end, cache: Cache::Lost, disk: Disk::Honest });
        let is_volatile = |entry: &Entry| entry.request == Request::Write { durable: false };
        let Some(first) = entries[begin..end].iter().position(is_volatile) else { continue };
        let entries_count = begin + first + 1 + random.place(end - begin - first);
        cuts.push(Cut { entries_count, cache: Cache::Torn(random.next()), disk: Disk::Honest });
    }
    cuts
}

/// What lies between two flushes. A history that has none since the switch was ready is divided by chance of place.
fn intervals(entries: &[Entry], ready_count: usize) -> Vec<(usize, usize)> {
    let is_flush = |index: &usize| entries[*index].request == Request::Flush;
    let flushes: Vec<usize> = (0..entries.len()).filter(is_flush).collect();
    if flushes.last().is_none_or(|last| *last < ready_count) {
        let ends = (ready_count + 1..=entries.len()).step_by(UNFLUSHED_STEP);
        return ends.map(|end| (ready_count, end)).collect();
    }
    let begins = std::iter::once(0).chain(flushes.iter().map(|flush| flush + 1));
    let ends = flushes.iter().copied().chain([entries.len()]);
    begins.zip(ends).collect()
}

/// So many of the cuts, in their order, chosen by the seed.
#[must_use]
pub fn some(cuts: &[Cut], count: usize, seed: u64) -> Vec<usize> {
    let mut random = Random::new(seed);
    let mut chosen: Vec<usize> = Vec::new();
    // The rest is filled up from those that were not met; every place is as good as another.
    let mut left: Vec<usize> = (0..cuts.len()).collect();
    while chosen.len() < count && !left.is_empty() {
        chosen.push(left.swap_remove(random.place(left.len())));
    }
    chosen.sort_unstable();
    chosen
}
