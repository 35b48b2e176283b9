//! Cuts the power at random instants of random histories and compares what comes back with what was promised.
//!
//! `STERNPOST_SEED=17 cargo test -p sternpost-simulator --test power_cuts` lives through one history alone.

use std::panic::{AssertUnwindSafe, catch_unwind};

use sternpost_simulator::history::{Options, Summary, history};

const SEEDS: u64 = 400;

fn seeds() -> std::ops::Range<u64> {
    match std::env::var("STERNPOST_SEED").ok().and_then(|text| text.parse::<u64>().ok()) {
        Some(seed) => seed..seed + 1,
        None => 0..SEEDS,
    }
}

/// One history; a panic of the log is a broken promise too.
fn live(seed: u64, options: Options) -> Result<Summary, String> {
    catch_unwind(AssertUnwindSafe(|| history(seed, options)))
        .unwrap_or_else(|_| Err("the log panicked".to_owned()))
}

#[test]
fn invariant_no_promise_is_broken_by_cut_power_failed_writes_or_reclaim() {
    let mut sum = Summary::default();
    for seed in seeds() {
        let summary = live(seed, Options::default()).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        sum.acknowledged += summary.acknowledged;
        sum.dead += summary.dead;
        sum.cuts_in_flight += summary.cuts_in_flight;
        sum.power_cuts += summary.power_cuts;
        sum.opened += summary.opened;
        sum.torn += summary.torn;
        sum.segments_by_index += summary.segments_by_index;
        sum.moved += summary.moved;
        sum.failed_writes += summary.failed_writes;
        sum.full += summary.full;
    }
    println!("{sum:?}");
    if seeds().count() > 1 {
        // The histories are worth their while: each of these happens often.
        for count in [
            sum.acknowledged,
            sum.dead,
            sum.cuts_in_flight,
            sum.torn,
            sum.segments_by_index,
            sum.moved,
            sum.failed_writes,
            sum.full,
        ] {
            assert!(count >= SEEDS / 2, "{sum:?}");
        }
    }
}

#[test]
fn a_writer_whose_sync_is_removed_fails_the_same_test() {
    let caught = (0..20).filter(|seed| live(*seed, Options { lying_disk: true }).is_err()).count();
    assert!(caught >= 15, "only {caught} of 20 histories noticed that nothing was durable");
}

#[test]
fn a_seed_names_one_history() {
    assert_eq!(history(3, Options::default()), history(3, Options::default()));
}
