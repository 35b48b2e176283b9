//! The arithmetic: median and tail, ratios, and how large a raw batch must be.

use serde::Serialize;
use std::time::Duration;
use sternpost_load::quantiles::nearest_rank;

use super::super::tool::Series;
use super::number;

/// Octets of a batch's own header, FORMAT.md.
const BATCH_HEADER_OCTETS: u64 = 128;
/// A batch is whole pages, FORMAT.md.
const PAGE_OCTETS: u64 = 4096;

/// Half were faster, and one in a hundred was slower.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Quantiles {
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
}

impl Quantiles {
    /// By nearest rank, of times in nanoseconds in any order. Zero without any.
    pub(super) fn of(times_ns: impl IntoIterator<Item = u64>) -> Self {
        let mut times_ns: Vec<u64> = times_ns.into_iter().collect();
        times_ns.sort_unstable();
        let at = |percent| nearest_rank(&times_ns, percent).map_or(0.0, |ns| number(ns) / 1e3);
        Self { p50_us: at(50), p99_us: at(99) }
    }
}

/// The batches that a disk must write for so many messages.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct BatchSize {
    /// Octets of one write.
    pub(super) octets: u64,
    /// Messages in it.
    pub(super) messages: f64,
    /// Whether the store's largest batch holds fewer messages than there are producers.
    pub(super) is_capped: bool,
}

impl BatchSize {
    /// One batch with a message of each producer, or as many as the store's largest batch has room for.
    pub(super) fn of_all(producers: u64, message_octets: u64, batch_octets_max: u64) -> Self {
        let room = batch_octets_max.saturating_sub(BATCH_HEADER_OCTETS) / message_octets.max(1);
        let messages = producers.min(room.max(1));
        let octets = (BATCH_HEADER_OCTETS + messages * message_octets).next_multiple_of(PAGE_OCTETS);
        Self { octets, messages: number(messages), is_capped: messages < producers }
    }

    /// The mean of what was written, to the nearest page: a few batches have a page more, where they open a segment, and the
    /// indexes of full segments count with them. A batch holds less than one message where a message takes several.
    pub(super) fn mean(written_octets: u64, batches: u64, messages: u64) -> Self {
        let batches = batches.max(1);
        let pages = (written_octets / batches + PAGE_OCTETS / 2) / PAGE_OCTETS;
        let octets = pages.max(1) * PAGE_OCTETS;
        Self { octets, messages: number(messages) / number(batches), is_capped: false }
    }
}

/// The middle one of what each round says of two values. One where nothing can be said, so that no ratio is infinite.
pub(super) fn ratio(above: &[f64], below: &[f64]) -> f64 {
    let ratios = above.iter().zip(below).map(|(above, below)| if *below > 0.0 { above / below } else { 1.0 });
    Series::of(ratios).median
}

/// The middle one of the differences of each round.
pub(super) fn difference(minuend: &[f64], subtrahend: &[f64]) -> f64 {
    Series::of(minuend.iter().zip(subtrahend).map(|(minuend, subtrahend)| minuend - subtrahend)).median
}

/// Nanoseconds of a time that is shorter than five centuries.
pub(super) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_were_faster_and_one_in_a_hundred_was_slower() {
        assert_eq!(Quantiles::of([]), Quantiles { p50_us: 0.0, p99_us: 0.0 });
        assert_eq!(Quantiles::of([7_000]), Quantiles { p50_us: 7.0, p99_us: 7.0 });
        assert_eq!(Quantiles::of([2_000, 1_000]), Quantiles { p50_us: 1.0, p99_us: 2.0 });
        let hundred = (1..=100).rev().map(|us| us * 1_000);
        assert_eq!(Quantiles::of(hundred), Quantiles { p50_us: 50.0, p99_us: 99.0 });
    }

    #[test]
    fn a_batch_has_a_message_of_each_producer_in_whole_pages() {
        let batch = BatchSize::of_all(1, 4_600, 1 << 20);
        assert_eq!(batch, BatchSize { octets: 8_192, messages: 1.0, is_capped: false });
        let batch = BatchSize::of_all(16, 4_600, 1 << 20);
        assert_eq!(batch, BatchSize { octets: 73_728, messages: 16.0, is_capped: false });
    }

    #[test]
    fn a_batch_is_no_larger_than_the_stores_largest() {
        let batch = BatchSize::of_all(1_024, 4_600, 1 << 20);
        assert!(batch.is_capped && batch.octets <= 1 << 20);
        assert_eq!(batch.messages, 227.0);
        // A message that takes more than one batch is one batch's worth here.
        let batch = BatchSize::of_all(3, 300_000, 128 << 10);
        assert_eq!((batch.messages, batch.is_capped), (1.0, true));
    }

    #[test]
    fn the_mean_batch_is_what_was_written() {
        let batch = BatchSize::mean(3 * 40_960, 3, 24);
        assert_eq!(batch, BatchSize { octets: 40_960, messages: 8.0, is_capped: false });
        // Two batches for each message.
        assert_eq!(BatchSize::mean(10 * 4_096, 10, 5).messages, 0.5);
        // One of a hundred batches has opened a segment.
        assert_eq!(BatchSize::mean(100 * 8_192 + 4_096, 100, 100).octets, 8_192);
        assert_eq!(BatchSize::mean(0, 0, 0).octets, 4_096);
    }

    #[test]
    fn a_ratio_is_taken_within_a_round() {
        // The disk was twice as fast in the second round, for both.
        assert_eq!(ratio(&[50.0, 100.0, 60.0], &[100.0, 200.0, 60.0]), 0.5);
        assert_eq!(ratio(&[1.0], &[0.0]), 1.0);
        assert_eq!(difference(&[120.0, 300.0, 90.0], &[100.0, 100.0, 100.0]), 20.0);
    }
}
