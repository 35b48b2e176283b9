//! Lives through random histories of the whole switch: every process dies at any point, links break, the disk has every fault
//! there is; and whatever was acknowledged comes to its end.
//!
//! `make simulate SEED=17 TRACE=1` shows one history, event by event.

use sternpost_simulator::search::{Broken, Extent, search};
use sternpost_simulator::switch::{Options, Summary, history};

const SEEDS: u64 = 2_000;

#[test]
fn invariant_no_promise_is_broken_by_deaths_broken_links_and_a_faulty_disk() {
    let mut sum = Summary::default();
    let live = |seed| history(seed, Options::default());
    let found = search(0, Extent::Seeds(SEEDS), live, |summary| sum.add(&summary), || {});
    if let Err(Broken { seed, why }) = found {
        panic!("seed {seed}: {why}; look at it with make simulate SEED={seed}");
    }
    println!("{sum}");
    // The histories are worth their while: each of these happens often.
    for (name, count) in sum.classes() {
        assert!(count >= SEEDS / 50, "only {count} {name}: {sum}");
    }
    let often = [
        ("acknowledged messages", sum.acknowledged, 10),
        ("recipients handed over", sum.handed_over, 20),
        ("openings of the log", sum.opened, 2),
        ("comparisons of the tree with the log", sum.trees_compared, 20),
    ];
    for (name, count, times) in often {
        assert!(count >= SEEDS * times, "only {count} {name}: {sum}");
    }
    let sometimes = [
        ("messages acknowledged by repetition", sum.repeated),
        ("recipients handed over again", sum.handed_over_again),
        ("failures reported", sum.failure_reports),
        ("delays reported", sum.delay_reports),
        ("messages that a damage concerned", sum.hit),
    ];
    for (name, count) in sometimes {
        assert!(count >= SEEDS / 2, "only {count} {name}: {sum}");
    }
}

#[test]
fn a_seed_names_one_history_of_the_switch() {
    let live = || history(5, Options::default());
    assert_eq!(live(), live());
}
