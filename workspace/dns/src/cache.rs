//! Answers that are kept for as long as they say, within bounds: pure, time is an argument.
//!
//! The library has a cache too, which is off: it forgets the proof that a signed name does not exist at once, and keeps no
//! failure (RFC 9520).

use crate::{Answer, Question};
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// How long and how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheBounds {
    /// Answers that are kept; 0 keeps none. One of the resolver's has at most 64 records, mostly below 4 KiB.
    pub answers_max: usize,
    /// A record is kept at least so long, whatever it says. More than some seconds breaks zones that are being moved.
    pub ttl_min: Duration,
    /// And at most so long.
    pub ttl_max: Duration,
    /// That there is nothing is kept at most so long; what the zone says stands in its SOA record (RFC 2308, section 5).
    pub negative_ttl_max: Duration,
    /// A failure is kept so long: from 1 s to 5 min (RFC 9520, section 3.2).
    pub failure_ttl: Duration,
}

impl Default for CacheBounds {
    fn default() -> Self {
        Self {
            answers_max: 4096,
            ttl_min: Duration::ZERO,
            ttl_max: Duration::from_secs(24 * 3600),
            // RFC 2308, section 5: one to three hours work well.
            negative_ttl_max: Duration::from_secs(3 * 3600),
            failure_ttl: Duration::from_secs(5),
        }
    }
}

impl CacheBounds {
    /// How long `answer` is kept, which itself says `ttl`: none when a zone does not say how long there is nothing (RFC 2308,
    /// section 5: such an answer is not kept).
    fn ttl(&self, answer: &Answer, ttl: Option<Duration>) -> Duration {
        match answer {
            // Not `clamp`, which panics when the bounds are upside down.
            Answer::Found { .. } => ttl.unwrap_or_default().max(self.ttl_min).min(self.ttl_max),
            Answer::NoRecord { .. } | Answer::NoSuchName { .. } => {
                ttl.unwrap_or_default().min(self.negative_ttl_max)
            }
            Answer::Failed(_) => self.failure_ttl,
        }
    }
}

/// Answers by question.
#[derive(Debug)]
pub struct Cache {
    bounds: CacheBounds,
    entries: HashMap<Question, Entry>,
    /// Which goes first when there is no room: what will be stale first.
    by_end: BTreeMap<(Instant, u64), Question>,
    /// Tells entries apart that end at the same instant.
    serial: u64,
}

#[derive(Debug)]
struct Entry {
    answer: Answer,
    /// The key in `by_end`.
    end: (Instant, u64),
}

impl Cache {
    /// An empty one.
    #[must_use]
    pub fn new(bounds: CacheBounds) -> Self {
        Self { bounds, entries: HashMap::new(), by_end: BTreeMap::new(), serial: 0 }
    }

    /// The answer, if it is not stale at `now`.
    #[must_use]
    pub fn get(&self, now: Instant, question: &Question) -> Option<Answer> {
        self.entries.get(question).filter(|entry| now < entry.end.0).map(|entry| entry.answer.clone())
    }

    /// Keeps an answer that came at `now` and says that it holds for `ttl`.
    pub fn put(&mut self, now: Instant, question: &Question, answer: &Answer, ttl: Option<Duration>) {
        if let Some(old) = self.entries.remove(question) {
            self.by_end.remove(&old.end);
        }
        let ttl = self.bounds.ttl(answer, ttl);
        let Some(end) = now.checked_add(ttl).filter(|_| !ttl.is_zero() && self.bounds.answers_max > 0) else {
            return;
        };
        while self.entries.len() >= self.bounds.answers_max {
            let Some((_, oldest)) = self.by_end.pop_first() else { break };
            self.entries.remove(&oldest);
        }
        self.serial += 1;
        let end = (end, self.serial);
        self.by_end.insert(end, question.clone());
        self.entries.insert(question.clone(), Entry { answer: answer.clone(), end });
    }

    /// How many answers are kept, stale ones among them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HostName, LookupFailure, Record, RecordKind, SecurityStatus};
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn question(number: u32) -> Question {
        Question { name: HostName::parse(&format!("h{number}.example")).unwrap(), kind: RecordKind::A }
    }

    fn found() -> Answer {
        let records = vec![Record::Address("192.0.2.1".parse().unwrap())];
        Answer::Found { records, canonical: None, status: SecurityStatus::Insecure }
    }

    fn nothing() -> Answer {
        Answer::NoSuchName { status: SecurityStatus::Insecure }
    }

    /// How many whole seconds `answer` is kept, of the first 100,000 that are looked at by halving.
    fn kept_s(bounds: &CacheBounds, answer: &Answer, ttl: Option<u64>) -> u32 {
        let mut cache = Cache::new(bounds.clone());
        let now = Instant::now();
        cache.put(now, &question(1), answer, ttl.map(Duration::from_secs));
        let (mut low, mut high) = (0, 100_000);
        while low < high {
            let middle = (low + high) / 2;
            if cache.get(now + SECOND * middle, &question(1)).is_some() {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    #[test]
    fn records_are_kept_for_their_ttl_within_the_bounds() {
        let bounds = CacheBounds { ttl_min: SECOND * 10, ttl_max: SECOND * 100, ..CacheBounds::default() };
        for (ttl, kept) in [(0, 10), (9, 10), (50, 50), (101, 100), (u64::MAX, 100)] {
            assert_eq!(kept_s(&bounds, &found(), Some(ttl)), kept, "TTL {ttl}");
        }
        assert_eq!(kept_s(&CacheBounds::default(), &found(), Some(0)), 0);
    }

    #[test]
    fn rfc_2308_that_there_is_nothing_is_kept_as_the_soa_says_and_not_without_one() {
        let bounds = CacheBounds { negative_ttl_max: SECOND * 100, ..CacheBounds::default() };
        for (ttl, kept) in [(Some(0), 0), (Some(60), 60), (Some(3600), 100), (None, 0)] {
            assert_eq!(kept_s(&bounds, &nothing(), ttl), kept, "TTL {ttl:?}");
        }
    }

    #[test]
    fn rfc_9520_a_failure_is_kept_for_a_moment() {
        let failed = Answer::Failed(LookupFailure::Timeout);
        assert_eq!(kept_s(&CacheBounds::default(), &failed, None), 5);
    }

    #[test]
    fn bounds_that_are_upside_down_keep_by_the_upper_one() {
        let bounds = CacheBounds { ttl_min: SECOND * 100, ttl_max: SECOND * 10, ..CacheBounds::default() };
        assert_eq!(kept_s(&bounds, &found(), Some(50)), 10);
    }

    #[test]
    fn a_full_cache_gives_up_what_would_be_stale_first() {
        let mut cache = Cache::new(CacheBounds { answers_max: 2, ..CacheBounds::default() });
        let now = Instant::now();
        for (number, ttl) in [(1, 30), (2, 10), (3, 20)] {
            cache.put(now, &question(number), &found(), Some(SECOND * ttl));
        }
        assert_eq!(cache.get(now, &question(2)), None);
        assert!(cache.get(now, &question(1)).is_some() && cache.get(now, &question(3)).is_some());
    }

    #[test]
    fn a_cache_without_room_keeps_nothing() {
        let mut cache = Cache::new(CacheBounds { answers_max: 0, ..CacheBounds::default() });
        cache.put(Instant::now(), &question(1), &found(), Some(SECOND));
        assert!(cache.is_empty());
    }

    proptest! {
        #[test]
        fn invariant_the_cache_keeps_its_bound_and_its_two_indexes_agree(
            steps in proptest::collection::vec((0u32..12, 0u64..30, 0u64..5), 0..200),
        ) {
            let mut cache = Cache::new(CacheBounds { answers_max: 5, ..CacheBounds::default() });
            let mut now = Instant::now();
            for (number, ttl, pause) in steps {
                now += Duration::from_secs(pause);
                cache.put(now, &question(number), &found(), Some(Duration::from_secs(ttl)));
                prop_assert!(cache.len() <= 5);
                prop_assert_eq!(cache.len(), cache.by_end.len());
                prop_assert_eq!(cache.get(now, &question(number)).is_some(), ttl > 0);
            }
        }
    }
}
