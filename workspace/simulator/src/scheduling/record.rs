//! What came of a run: the life of each Mlist, and what the tree and each peer had in progress and got, over time.
//!
//! Time is cut into at most [`BUCKETS_MAX`] buckets of equal length; when a run gets longer, two become one. So a day costs
//! what a second costs.

use std::fmt::Write as _;

use sternpost_message::Precedence;

use super::BEGINNING_MS;

/// Buckets of time.
const BUCKETS_MAX: usize = 240;

/// How an Mlist ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Every recipient was transferred.
    Transferred,
    /// Some recipients failed for good.
    Failed,
    /// Its time was over.
    Expired,
    /// An operator discarded it.
    Discarded,
}

/// The life of an Mlist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lived {
    /// The kind of its peer: where it stands in the scenario.
    pub kind: usize,
    /// Its rank.
    pub level: Precedence,
    /// From its acceptance to its first assignment, milliseconds.
    pub wait_ms: Option<u64>,
    /// From its acceptance to its end, milliseconds.
    pub over_ms: u64,
    /// How it ended.
    pub end: End,
}

/// Figures of some Mlists, milliseconds; 0 where there are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// How many.
    pub count: u64,
    /// Of those, the ones of which every recipient was transferred.
    pub transferred: u64,
    /// From acceptance to the first assignment: of half, of 99 of a hundred, and of all of those that were assigned.
    pub wait_ms: [u64; 3],
    /// From acceptance to the end, of those that were transferred.
    pub over_ms: [u64; 3],
}

/// A peer in one bucket of time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moment {
    /// When the bucket begins, milliseconds from the beginning.
    pub at_ms: u64,
    /// Mlists in progress there, on average.
    pub in_progress_mean: f64,
    /// Attempts that ended.
    pub attempts: u64,
    /// How long they took, on average, milliseconds; 0 when there are none.
    pub attempt_ms_mean: f64,
    /// Mlists transferred.
    pub transferred_per_s: f64,
    /// Attempts that ended with an error of the peer.
    pub errors: u64,
}

/// A value over time.
#[derive(Clone, Debug, Default)]
pub(super) struct Gauge {
    /// The sum of value × milliseconds in each bucket.
    sums: Vec<u64>,
    value: u64,
    since: u64,
    pub(super) max: u64,
}

impl Gauge {
    fn set(&mut self, now: u64, value: u64, bucket_ms: u64) {
        if value == self.value {
            return;
        }
        self.fill(now, bucket_ms);
        self.value = value;
        self.max = self.max.max(value);
    }

    fn fill(&mut self, now: u64, bucket_ms: u64) {
        while self.since < now {
            let bucket = place(self.since / bucket_ms);
            let until = ((self.since / bucket_ms + 1) * bucket_ms).min(now);
            at(&mut self.sums, bucket, |sum| *sum += self.value * (until - self.since));
            self.since = until;
        }
    }

    /// The mean of each bucket.
    pub(super) fn means(&self, bucket_ms: u64) -> Vec<f64> {
        self.sums.iter().map(|sum| *sum as f64 / bucket_ms as f64).collect()
    }
}

/// What one peer lived through.
#[derive(Clone, Debug, Default)]
pub(super) struct PeerRecord {
    pub(super) in_progress: Gauge,
    /// Mlists transferred, in each bucket.
    pub(super) transferred: Vec<u64>,
    /// Attempts that ended, and how long they took together, milliseconds.
    pub(super) attempts: Vec<u64>,
    pub(super) attempts_ms: Vec<u64>,
    /// Attempts that ended with an error of the peer.
    pub(super) errors: Vec<u64>,
    /// When the first attempt began and the last transfer ended, milliseconds from the beginning.
    pub(super) first_ms: Option<u64>,
    pub(super) last_ms: u64,
}

/// Everything that is kept of a run. Times are milliseconds from its beginning.
#[derive(Clone, Debug)]
pub struct Record {
    /// Every Mlist that is over, in the order of their ends.
    pub lived: Vec<Lived>,
    /// The length of a bucket.
    pub(super) bucket_ms: u64,
    pub(super) waiting: [Gauge; Precedence::ALL.len()],
    pub(super) waiting_max: u64,
    pub(super) in_progress: Gauge,
    pub(super) processes: Gauge,
    pub(super) peers: Vec<PeerRecord>,
    /// The last end.
    pub(super) end_ms: u64,
}

/// An attempt that has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) took_ms: u64,
    pub(super) is_transferred: bool,
    pub(super) is_peers_error: bool,
}

impl Record {
    pub(super) fn new(peers: usize) -> Self {
        Self {
            lived: Vec::new(),
            bucket_ms: 1,
            waiting: Default::default(),
            waiting_max: 0,
            in_progress: Gauge::default(),
            processes: Gauge::default(),
            peers: vec![PeerRecord::default(); peers],
            end_ms: 0,
        }
    }

    /// The state of the tree from this instant on.
    pub(super) fn tree(
        &mut self,
        now: u64,
        waiting: [u64; Precedence::ALL.len()],
        in_progress: u64,
        processes: u64,
    ) {
        let now = self.go_on(now);
        for (gauge, value) in self.waiting.iter_mut().zip(waiting) {
            gauge.set(now, value, self.bucket_ms);
        }
        self.waiting_max = self.waiting_max.max(waiting.iter().sum());
        self.in_progress.set(now, in_progress, self.bucket_ms);
        self.processes.set(now, processes, self.bucket_ms);
    }

    /// An attempt has begun, or ended: so many are in progress at the peer.
    pub(super) fn peer(&mut self, now: u64, peer: usize, in_progress: u32, ended: Option<Ended>) {
        let now = self.go_on(now);
        let bucket_ms = self.bucket_ms;
        let peer = &mut self.peers[peer];
        peer.in_progress.set(now, in_progress.into(), bucket_ms);
        peer.first_ms.get_or_insert(now);
        let Some(ended) = ended else { return };
        let bucket = place(now / bucket_ms);
        at(&mut peer.attempts, bucket, |count| *count += 1);
        at(&mut peer.attempts_ms, bucket, |sum| *sum += ended.took_ms);
        if ended.is_transferred {
            at(&mut peer.transferred, bucket, |count| *count += 1);
            peer.last_ms = now;
        }
        if ended.is_peers_error {
            at(&mut peer.errors, bucket, |count| *count += 1);
        }
    }

    pub(super) fn over(&mut self, now: u64, lived: Lived) {
        self.end_ms = now - BEGINNING_MS;
        self.lived.push(lived);
    }

    /// Nothing more comes.
    pub(super) fn close(&mut self, now: u64) {
        let now = self.go_on(now);
        let trees = self.waiting.iter_mut().chain([&mut self.in_progress, &mut self.processes]);
        for gauge in trees.chain(self.peers.iter_mut().map(|peer| &mut peer.in_progress)) {
            gauge.fill(now, self.bucket_ms);
        }
    }

    /// The time from the beginning, for which there is a bucket.
    fn go_on(&mut self, now: u64) -> u64 {
        let now = now - BEGINNING_MS;
        while place(now / self.bucket_ms) >= BUCKETS_MAX {
            self.bucket_ms *= 2;
            let trees = self.waiting.iter_mut().chain([&mut self.in_progress, &mut self.processes]);
            for gauge in trees.chain(self.peers.iter_mut().map(|peer| &mut peer.in_progress)) {
                join_pairs(&mut gauge.sums);
            }
            for peer in &mut self.peers {
                let counts =
                    [&mut peer.transferred, &mut peer.attempts, &mut peer.attempts_ms, &mut peer.errors];
                counts.into_iter().for_each(join_pairs);
            }
        }
        now
    }

    /// The figures of those Mlists that are meant.
    #[must_use]
    pub fn figures(&self, is_meant: impl Fn(&Lived) -> bool) -> Figures {
        let meant: Vec<&Lived> = self.lived.iter().filter(|lived| is_meant(lived)).collect();
        let transferred: Vec<&&Lived> = meant.iter().filter(|lived| lived.end == End::Transferred).collect();
        Figures {
            count: meant.len() as u64,
            transferred: transferred.len() as u64,
            wait_ms: percentiles(meant.iter().filter_map(|lived| lived.wait_ms).collect()),
            over_ms: percentiles(transferred.iter().map(|lived| lived.over_ms).collect()),
        }
    }

    /// Sums of these peers: attempts, errors of the peer, Mlists transferred.
    pub(super) fn totals(&self, peers: &[usize]) -> [u64; 3] {
        let sum = |of: fn(&PeerRecord) -> &Vec<u64>| {
            peers.iter().map(|&peer| of(&self.peers[peer]).iter().sum::<u64>()).sum()
        };
        [sum(|peer| &peer.attempts), sum(|peer| &peer.errors), sum(|peer| &peer.transferred)]
    }

    /// Mlists transferred a second by these peers together, from the first attempt to the last transfer.
    pub(super) fn rate(&self, peers: &[usize]) -> f64 {
        let [_, _, transferred] = self.totals(peers);
        transferred as f64 * 1_000.0 / self.span_ms(peers) as f64
    }

    /// What a peer had in progress and got, in each bucket in which something was in progress or ended. Peers are numbered in
    /// the order of the scenario.
    pub fn peer_over_time(&self, peer: usize) -> impl Iterator<Item = Moment> + '_ {
        let peer = &self.peers[peer];
        let bucket_ms = self.bucket_ms;
        (0..BUCKETS_MAX).filter_map(move |bucket| {
            let of = |counts: &[u64]| counts.get(bucket).copied().unwrap_or(0);
            let (sum, attempts) = (of(&peer.in_progress.sums), of(&peer.attempts));
            (sum + attempts > 0).then(|| Moment {
                at_ms: bucket as u64 * bucket_ms,
                in_progress_mean: sum as f64 / bucket_ms as f64,
                attempts,
                attempt_ms_mean: of(&peer.attempts_ms) as f64 / attempts.max(1) as f64,
                transferred_per_s: of(&peer.transferred) as f64 * 1_000.0 / bucket_ms as f64,
                errors: of(&peer.errors),
            })
        })
    }

    /// The same of all peers, as a table.
    #[must_use]
    pub fn peers_as_csv(&self, names: &[String]) -> String {
        let mut text =
            "peer,at_ms,in_progress_mean,attempts,attempt_ms_mean,transferred_per_s,errors\n".to_owned();
        for (peer, name) in names.iter().enumerate() {
            for moment in self.peer_over_time(peer) {
                let Moment { at_ms, in_progress_mean, attempts, attempt_ms_mean, transferred_per_s, errors } =
                    moment;
                // Writing to a String cannot fail.
                let _ = writeln!(
                    text,
                    "{name},{at_ms},{in_progress_mean:.3},{attempts},{attempt_ms_mean:.1},{transferred_per_s:.3},{errors}"
                );
            }
        }
        text
    }

    /// What was in progress at each of these peers, on average, from the first attempt to the last transfer.
    pub(super) fn in_progress_mean(&self, peers: &[usize]) -> f64 {
        let sum: u64 = peers.iter().flat_map(|&peer| &self.peers[peer].in_progress.sums).sum();
        sum as f64 / (self.span_ms(peers) * peers.len().max(1) as u64) as f64
    }

    /// From the first attempt to the last transfer of any of these peers; at least 1 ms.
    fn span_ms(&self, peers: &[usize]) -> u64 {
        let first = peers.iter().filter_map(|&peer| self.peers[peer].first_ms).min().unwrap_or(0);
        let last = peers.iter().map(|&peer| self.peers[peer].last_ms).max().unwrap_or(0);
        last.saturating_sub(first).max(1)
    }
}

/// Of half, of 99 of a hundred, of all.
fn percentiles(mut values: Vec<u64>) -> [u64; 3] {
    values.sort_unstable();
    let of = |percent: usize| {
        let at = (values.len() * percent).div_ceil(100).saturating_sub(1);
        values.get(at).copied().unwrap_or(0)
    };
    [of(50), of(99), of(100)]
}

fn place(bucket: u64) -> usize {
    usize::try_from(bucket).unwrap_or(usize::MAX)
}

/// Changes an entry of a list that grows.
fn at(list: &mut Vec<u64>, place: usize, change: impl FnOnce(&mut u64)) {
    if list.len() <= place {
        list.resize(place + 1, 0);
    }
    change(&mut list[place]);
}

fn join_pairs(list: &mut Vec<u64>) {
    *list = list.chunks(2).map(|pair| pair.iter().sum()).collect();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_keeps_sums_and_means_however_long_a_run_becomes() {
        let mut record = Record::new(1);
        for second in 0..10_000 {
            let now = BEGINNING_MS + second * 1_000;
            record.peer(now, 0, 3, None);
            let ended = Ended { took_ms: 500, is_transferred: true, is_peers_error: false };
            record.peer(now + 500, 0, 1, Some(ended));
        }
        record.close(BEGINNING_MS + 10_000_000);
        let peer = &record.peers[0];
        assert!(peer.in_progress.sums.len() <= BUCKETS_MAX);
        assert_eq!(peer.in_progress.sums.iter().sum::<u64>(), 10_000 * (3 * 500 + 500));
        assert_eq!(record.totals(&[0]), [10_000, 0, 10_000]);
        assert_eq!(peer.in_progress.max, 3);
        let means = peer.in_progress.means(record.bucket_ms);
        assert!(means[..means.len() - 1].iter().all(|mean| (1.9..2.1).contains(mean)), "{means:?}");
        assert!((record.rate(&[0]) - 1.0).abs() < 0.001);
        let csv = record.peers_as_csv(&["a".into()]);
        assert_eq!(csv.lines().count(), 1 + means.len());
    }

    #[test]
    fn percentiles_are_of_the_smallest_value_that_so_many_do_not_exceed() {
        assert_eq!(percentiles((1..=200).collect()), [100, 198, 200]);
        assert_eq!(percentiles(vec![7]), [7, 7, 7]);
        assert_eq!(percentiles(Vec::new()), [0, 0, 0]);
    }
}
