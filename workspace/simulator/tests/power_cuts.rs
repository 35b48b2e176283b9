//! Lives through random histories of the log alone, whose disk has every fault there is, and compares what comes back with
//! what was promised.
//!
//! `make simulate SEED=17` lives through one history alone, `make simulate SECONDS=600` through as many as there is time for.

use sternpost_simulator::history::{Options, Summary, history};
use sternpost_simulator::search::{Broken, Extent, search};

const SEEDS: u64 = 1_200;

#[test]
fn invariant_no_promise_is_broken_by_cut_power_failed_writes_damage_or_reclaim() {
    let mut sum = Summary::default();
    let live = |seed| history(seed, Options::default());
    let found = search(0, Extent::Seeds(SEEDS), live, |summary| sum.add(&summary), || {});
    if let Err(Broken { seed, why }) = found {
        panic!("seed {seed}: {why}; look at it with make simulate SEED={seed}");
    }
    println!("{sum}");
    // The histories are worth their while: each of these happens often.
    for (name, count) in sum.classes() {
        assert!(count >= SEEDS / 20, "only {count} {name}: {sum}");
    }
    assert!(sum.acknowledged >= SEEDS * 20 && sum.dead >= SEEDS * 10 && sum.hit >= SEEDS, "{sum}");
}

#[test]
fn a_seed_names_one_history() {
    assert_eq!(history(3, Options::default()), history(3, Options::default()));
}
