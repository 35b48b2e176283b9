//! Peers as models: what becomes of an attempt, and when.
//!
//! A peer connects after a fixed time unless it is down or has as many associations as it takes. Its workers take what has
//! come in that order, so that beyond `workers` associations the latency grows and the throughput does not; with
//! `slowdown_percent` the throughput falls. What it had in progress when it goes down is lost.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::random::Random;

use super::BEGINNING_MS;
use super::scenario::PeerKind;

/// What became of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fate {
    /// The peer has the message.
    Transferred,
    /// It refused the message for good.
    Failed,
    /// It refused some recipients for now: an error of the message.
    MessageError,
    /// It refused everything for now, in the dialogue.
    PeerError,
    /// It has as many associations as it takes.
    Refused,
    /// It did not answer, or went away.
    Unreachable,
}

/// An attempt as the peer's model sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    pub(super) ends_at: u64,
    pub(super) fate: Fate,
    /// The peer has taken the association.
    pub(super) is_standing: bool,
}

/// One peer.
#[derive(Debug)]
pub(super) struct Peer {
    /// Where its kind stands in the scenario.
    pub(super) kind: usize,
    pub(super) name: String,
    /// Attempts under way: associations that stand, are being made or refused.
    pub(super) in_progress: u32,
    /// Associations that it has taken.
    associations: u32,
    /// The last attempt ended with an error of the peer.
    pub(super) is_silent: bool,
    /// When each of its workers is free.
    workers: BinaryHeap<Reverse<u64>>,
}

impl Peer {
    pub(super) fn new(kind: usize, name: String, workers: Option<u32>) -> Self {
        let workers = (0..workers.unwrap_or(0)).map(|_| Reverse(0)).collect();
        Self { kind, name, in_progress: 0, associations: 0, is_silent: false, workers }
    }

    /// Associations that it has taken.
    pub(super) const fn associations(&self) -> u32 {
        self.associations
    }

    /// An attempt that begins now, and is under way until [`Peer::end`].
    pub(super) fn attempt(&mut self, now: u64, kind: &PeerKind, random: &mut Random) -> Attempt {
        let is_full = kind.associations_max.is_some_and(|max| self.associations >= max);
        self.in_progress += 1;
        let connected_at = now + around(kind.connect_ms, kind.jitter_percent, random);
        if is_down(kind, now) || is_down(kind, connected_at) {
            let ends_at = now + around(kind.connect_failure_ms, kind.jitter_percent, random);
            return Attempt { ends_at, fate: Fate::Unreachable, is_standing: false };
        }
        if is_full {
            return Attempt { ends_at: connected_at, fate: Fate::Refused, is_standing: false };
        }
        self.associations += 1;
        let beyond = kind.workers.map_or(0, |workers| self.associations.saturating_sub(workers));
        let service_ms = kind.service_ms * (100 + kind.slowdown_percent * u64::from(beyond)) / 100;
        let begins_at = self.workers.pop().map_or(connected_at, |Reverse(free_at)| free_at.max(connected_at));
        let ends_at = begins_at + around(service_ms, kind.jitter_percent, random);
        if kind.workers.is_some() {
            self.workers.push(Reverse(ends_at));
        }
        if let Some(lost_at) = goes_down(kind, connected_at, ends_at) {
            return Attempt { ends_at: lost_at, fate: Fate::Unreachable, is_standing: true };
        }
        Attempt { ends_at, fate: fate(kind, random), is_standing: true }
    }

    /// An attempt has ended, or was given up.
    pub(super) fn end(&mut self, is_standing: bool) {
        self.in_progress -= 1;
        self.associations -= u32::from(is_standing);
    }
}

fn fate(kind: &PeerKind, random: &mut Random) -> Fate {
    let drawn = random.below(100);
    let message = kind.message_error_percent;
    let peer = message + kind.peer_error_percent;
    if drawn < message {
        Fate::MessageError
    } else if drawn < peer {
        Fate::PeerError
    } else if drawn < peer + kind.failure_percent {
        Fate::Failed
    } else {
        Fate::Transferred
    }
}

/// The time, longer or shorter by up to so much; at least 1 ms, for nothing ends in the instant in which it begins.
fn around(ms: u64, jitter_percent: u64, random: &mut Random) -> u64 {
    let spread = ms * jitter_percent / 100;
    let drawn = if spread == 0 { 0 } else { random.below(2 * spread + 1) };
    (ms - spread + drawn).max(1)
}

fn is_down(kind: &PeerKind, at: u64) -> bool {
    down_times(kind).any(|(from, until)| (from..until).contains(&at))
}

/// When it goes down between two instants.
fn goes_down(kind: &PeerKind, after: u64, until: u64) -> Option<u64> {
    down_times(kind).map(|(from, _)| from).filter(|from| (after + 1..=until).contains(from)).min()
}

fn down_times(kind: &PeerKind) -> impl Iterator<Item = (u64, u64)> + '_ {
    let instant = |s: u64| BEGINNING_MS + s * 1_000;
    kind.down.iter().map(move |window| (instant(window.from_s), instant(window.until_s)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduling::Window;

    const NOW: u64 = BEGINNING_MS;

    fn attempts(kind: &PeerKind, count: u32) -> Vec<(u64, Fate)> {
        let mut peer = Peer::new(0, "a".into(), kind.workers);
        let mut random = Random::new(1);
        (0..count)
            .map(|_| peer.attempt(NOW, kind, &mut random))
            .map(|attempt| (attempt.ends_at - NOW, attempt.fate))
            .collect()
    }

    #[test]
    fn beyond_its_workers_a_peer_takes_what_comes_in_turn() {
        let kind = PeerKind { connect_ms: 1, service_ms: 10, workers: Some(2), ..PeerKind::default() };
        let ends: Vec<u64> = attempts(&kind, 5).into_iter().map(|attempt| attempt.0).collect();
        assert_eq!(ends, [11, 11, 21, 21, 31]);
    }

    #[test]
    fn each_association_too_many_makes_the_work_of_a_peer_that_loses_itself_longer() {
        let kind = PeerKind {
            connect_ms: 1,
            service_ms: 10,
            workers: Some(1),
            slowdown_percent: 50,
            ..PeerKind::default()
        };
        // 10, then 15, then 20 ms of work.
        let ends: Vec<u64> = attempts(&kind, 3).into_iter().map(|attempt| attempt.0).collect();
        assert_eq!(ends, [11, 26, 46]);
    }

    #[test]
    fn a_peer_with_a_limit_of_associations_refuses_the_next_one() {
        let kind = PeerKind { connect_ms: 3, associations_max: Some(2), ..PeerKind::default() };
        let results = attempts(&kind, 3);
        assert_eq!(results[1].1, Fate::Transferred);
        assert_eq!(results[2], (3, Fate::Refused));
        // What is refused takes no place: there is one for the next as soon as one of the two has gone.
        let mut peer = Peer::new(0, "a".into(), None);
        let mut random = Random::new(1);
        let taken: Vec<bool> = (0..4).map(|_| peer.attempt(NOW, &kind, &mut random).is_standing).collect();
        assert_eq!(taken, [true, true, false, false]);
        peer.end(true);
        assert!(peer.attempt(NOW, &kind, &mut random).is_standing);
        assert_eq!(peer.in_progress, 4);
    }

    #[test]
    fn a_peer_that_is_down_fails_after_its_time_and_one_that_goes_down_loses_what_it_has() {
        let mut kind = PeerKind {
            connect_ms: 1,
            connect_failure_ms: 700,
            service_ms: 5_000,
            down: vec![Window { from_s: 0, until_s: 10 }],
            ..PeerKind::default()
        };
        assert_eq!(attempts(&kind, 1), [(700, Fate::Unreachable)]);
        kind.down = vec![Window { from_s: 2, until_s: 3 }];
        assert_eq!(attempts(&kind, 1), [(2_000, Fate::Unreachable)]);
        kind.down = vec![Window { from_s: 6, until_s: 7 }];
        assert_eq!(attempts(&kind, 1), [(5_001, Fate::Transferred)]);
    }

    #[test]
    fn errors_come_as_often_as_the_file_says() {
        let kind = PeerKind {
            message_error_percent: 10,
            peer_error_percent: 20,
            failure_percent: 30,
            ..PeerKind::default()
        };
        let results = attempts(&kind, 10_000);
        let count = |wanted| results.iter().filter(|(_, result)| *result == wanted).count();
        // The spread of 10,000 draws is at most √(10,000 × ½ × ½) = 50; five times that.
        for (wanted, expected) in [
            (Fate::MessageError, 1_000),
            (Fate::PeerError, 2_000),
            (Fate::Failed, 3_000),
            (Fate::Transferred, 4_000),
        ] {
            assert!(count(wanted).abs_diff(expected) < 250, "{wanted:?}: {}", count(wanted));
        }
    }
}
