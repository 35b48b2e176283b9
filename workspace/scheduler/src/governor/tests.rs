//! The governor alone, in a closed loop with peers that are modelled: as much mail waits as it lets go.

use super::*;
use proptest::prelude::*;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A message that the peer has taken, while more wait.
const fn taken(in_progress: u32) -> Ending {
    Ending { in_progress, is_pressed: true, is_deferred: false }
}

/// A peer: how long it takes while so many are in progress, and how many it lets in.
#[derive(Clone, Copy)]
struct Peer {
    service_us: fn(u32) -> u64,
    slots_max: u32,
}

const fn patient(service_us: fn(u32) -> u64) -> Peer {
    Peer { service_us, slots_max: u32::MAX }
}

/// What a run gave.
struct Run {
    completed: u64,
    refused: u32,
    slots: u32,
    most_in_progress: u32,
}

/// One peer under a governor, for some seconds. Service times vary by a fifth, from the seed.
struct Loop {
    governor: Governor,
    now_us: u64,
    in_progress: u32,
    ends: BinaryHeap<Reverse<(u64, bool)>>,
    chance: u64,
}

impl Loop {
    fn new(bounds: Bounds, seed: u64) -> Self {
        // In the middle of a day, not at its beginning.
        Self {
            governor: Governor::new(bounds),
            now_us: 1 << 50,
            in_progress: 0,
            ends: BinaryHeap::new(),
            chance: seed,
        }
    }

    fn now(&self) -> u64 {
        self.now_us / 1_000
    }

    fn run(&mut self, peer: Peer, seconds: u64) -> Run {
        let until = self.now_us + seconds * 1_000_000;
        let mut run = Run { completed: 0, refused: 0, slots: 0, most_in_progress: 0 };
        loop {
            self.governor.time_has_passed(self.now());
            while self.in_progress < self.governor.slots() {
                self.governor.occupied(self.now(), self.in_progress);
                self.in_progress += 1;
                let is_refused = self.in_progress > peer.slots_max;
                let took_us =
                    if is_refused { 2_000 } else { self.varied((peer.service_us)(self.in_progress)) };
                self.ends.push(Reverse((self.now_us + took_us, is_refused)));
                run.most_in_progress = run.most_in_progress.max(self.in_progress);
            }
            let Some(Reverse((at_us, is_refused))) = self.ends.pop() else { break };
            self.now_us = self.now_us.max(at_us);
            self.governor.occupied(self.now(), self.in_progress);
            self.in_progress -= 1;
            if is_refused {
                run.refused += 1;
                // Associations are kept for the next Mlist.
                let held = peer.slots_max.min(run.most_in_progress);
                assert!(self.governor.refused(self.now(), held));
            } else {
                run.completed += 1;
                self.governor.ended(self.now(), taken(self.in_progress));
            }
            if self.now_us >= until {
                break;
            }
        }
        run.slots = self.governor.slots();
        run
    }

    fn varied(&mut self, service_us: u64) -> u64 {
        self.chance =
            self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        service_us * (80 + (self.chance >> 33) % 41) / 100
    }
}

/// What the best of many fixed numbers gives.
fn best_fixed(peer: Peer, seconds: u64) -> (u64, u32) {
    [1, 2, 4, 8, 16, 32, 64]
        .into_iter()
        .filter(|&slots| slots <= peer.slots_max)
        .map(|slots| (Loop::new(Bounds::new(slots, slots), 1).run(peer, seconds).completed, slots))
        .max()
        .expect("one number is allowed")
}

/// A server with so many workers, each of which takes so long: more wait in a line.
fn workers(count: u64, service_us: u64, in_progress: u32) -> u64 {
    service_us * u64::from(in_progress).max(count) / count
}

#[test]
fn each_kind_of_peer_carries_nine_tenths_of_what_the_best_fixed_number_carries() {
    let kinds: [(&str, Peer); 7] = [
        ("fast", patient(|n| workers(4, 800, n))),
        ("50 ms away", patient(|_| 50_000)),
        ("500 ms away", patient(|_| 500_000)),
        ("two connections", Peer { service_us: |_| 50_000, slots_max: 2 }),
        ("four workers", patient(|n| workers(4, 20_000, n))),
        ("one worker, 20 ms away", patient(|n| 20_000 + workers(1, 5_000, n))),
        ("thrashing above eight", patient(|n| 20_000 * u64::from(n.max(8)).pow(2) / 64)),
    ];
    for seed in 1..=5 {
        for (name, peer) in kinds {
            let (best, at) = best_fixed(peer, 120);
            let run = Loop::new(Bounds::new(1, 64), seed).run(peer, 120);
            println!(
                "{name}: {} of {best} (by {at}), {} slots at the end, {} refused",
                run.completed, run.slots, run.refused
            );
            assert!(run.completed * 10 >= best * 9, "{name}, seed {seed}: {} of {best}", run.completed);
        }
    }
}

#[test]
fn a_peer_that_only_becomes_slower_is_not_given_what_it_cannot_use() {
    let run = Loop::new(Bounds::new(1, 64), 1).run(patient(|n| workers(4, 20_000, n)), 60);
    assert!((4..=16).contains(&run.slots), "{}", run.slots);
}

#[test]
fn a_peer_that_allows_two_gets_two_and_is_seldom_asked_for_more() {
    let peer = Peer { service_us: |_| 50_000, slots_max: 2 };
    let run = Loop::new(Bounds::new(1, 64), 1).run(peer, 3_600);
    // Two at the start; then one after 30 s, 60 s, … and every ten minutes: 4 + 6.
    assert!(run.slots <= 2 && run.refused <= 14, "{} slots, {} refused", run.slots, run.refused);
}

#[test]
fn a_peer_that_bears_more_than_it_did_is_found_to() {
    let mut closed = Loop::new(Bounds::new(1, 64), 1);
    assert_eq!(closed.run(Peer { service_us: |_| 50_000, slots_max: 2 }, 120).most_in_progress, 4);
    let later = closed.run(patient(|_| 50_000), 1_200);
    assert!(later.slots >= 32, "{}", later.slots);
}

#[test]
fn a_refusal_after_a_long_time_without_one_changes_nothing_and_a_second_one_does() {
    let mut closed = Loop::new(Bounds::new(1, 64), 1);
    closed.run(patient(|_| 50_000), 60);
    let (now, slots) = (closed.now(), closed.governor.slots());
    assert!(closed.governor.refused(now, slots - 1));
    assert_eq!(closed.governor.slots(), slots);
    assert!(closed.governor.refused(now, slots - 2));
    assert_eq!(closed.governor.slots(), slots - 2);
}

#[test]
fn a_peer_that_fails_alone_does_not_work_and_begins_anew() {
    let mut governor = Governor::new(Bounds::new(1, 64));
    assert!(!governor.refused(1_000, 0), "the peer holds none");
    for _ in 0..20 {
        governor.ended(1_000, taken(64));
    }
    assert_eq!(governor.slots(), START_SLOTS + 20);
    governor.failed();
    assert_eq!(governor.slots(), START_SLOTS);
    assert!(!governor.refused(1_000, 3), "what it held before its failure is no proof that it works");
    governor.works_again();
    assert_eq!(governor.slots(), START_SLOTS);
}

#[test]
fn a_peer_that_puts_off_most_messages_gets_fewer_and_not_fewer_than_it_begins_with() {
    let mut closed = Loop::new(Bounds::new(1, 64), 1);
    closed.run(patient(|_| 50_000), 30);
    for _ in 0..20_000 {
        closed.now_us += 1_000;
        closed.governor.ended(closed.now(), Ending { is_deferred: true, ..taken(closed.governor.slots()) });
    }
    assert_eq!(closed.governor.slots(), START_SLOTS);
}

#[test]
fn equal_bounds_fix_the_number() {
    let mut closed = Loop::new(Bounds::new(20, 20), 1);
    assert_eq!(closed.governor.slots(), 20);
    assert!(!closed.governor.refused(closed.now(), 19), "a refusal is a failure of the peer");
    closed.governor.failed();
    assert_eq!(closed.run(patient(|n| workers(1, 5_000, n)), 30).slots, 20);
}

#[test]
fn new_bounds_hold_at_once_and_a_higher_maximum_is_tried() {
    let mut closed = Loop::new(Bounds::new(1, 8), 1);
    closed.run(patient(|_| 50_000), 1);
    assert_eq!(closed.governor.slots(), 8);
    closed.governor.bound(closed.now(), Bounds::new(1, 64));
    assert!(closed.run(patient(|_| 50_000), 5).most_in_progress == 64);
    closed.governor.bound(closed.now(), Bounds::new(2, 3));
    assert_eq!(closed.governor.slots(), 3);
    closed.governor.bound(closed.now(), Bounds::new(6, 64));
    assert_eq!(closed.governor.slots(), 6);
}

/// Whatever is told, in whatever order.
#[derive(Clone, Copy, Debug)]
enum Told {
    Occupied(u32),
    Ended(Ending),
    Refused(u32),
    TimeHasPassed,
    Failed,
    WorksAgain,
    Bound(u32, u32),
}

fn told() -> impl Strategy<Value = Told> {
    let number = || prop_oneof![4 => 0..80_u32, 1 => Just(u32::MAX)];
    prop_oneof![
        3 => number().prop_map(Told::Occupied),
        9 => (number(), any::<bool>(), any::<bool>()).prop_map(|(in_progress, is_pressed, is_deferred)| {
            Told::Ended(Ending { in_progress, is_pressed, is_deferred })
        }),
        2 => number().prop_map(Told::Refused),
        1 => Just(Told::TimeHasPassed),
        1 => Just(Told::Failed),
        1 => Just(Told::WorksAgain),
        1 => (number(), number()).prop_map(|(min, max)| Told::Bound(min, max)),
    ]
}

proptest! {
    #[test]
    fn whatever_a_governor_is_told_it_stays_between_one_and_the_operators_maximum(
        steps in prop::collection::vec((told(), prop_oneof![0..2_000_u64, Just(u64::MAX / 2)], 1..90_u32), 0..200),
    ) {
        let mut bounds = Bounds::new(1, 64);
        let mut governor = Governor::new(bounds);
        let mut now = 0_u64;
        for (told, elapsed_ms, times) in steps {
            now = now.saturating_add(elapsed_ms);
            for _ in 0..times {
                match told {
                    Told::Occupied(count) => governor.occupied(now, count),
                    Told::Ended(ending) => {
                        let before = governor.slots();
                        prop_assert_eq!(governor.ended(now, ending), governor.slots() != before);
                    }
                    Told::Refused(holding) => {
                        governor.refused(now, holding);
                    }
                    Told::TimeHasPassed => governor.time_has_passed(now),
                    Told::Failed => governor.failed(),
                    Told::WorksAgain => governor.works_again(),
                    Told::Bound(min, max) => {
                        bounds = Bounds::new(min, max);
                        governor.bound(now, bounds);
                    }
                }
                prop_assert!((bounds.max.min(1)..=bounds.max).contains(&governor.slots()), "{:?}: {:?}", bounds, governor);
                now = now.saturating_add(3);
            }
        }
    }
}
