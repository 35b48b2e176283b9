//! The bounds of a scenario against what came of it.

use super::record::Record;
use super::scenario::{Bounds, Scenario};

/// What came of some of the Mlists.
struct Came {
    /// 0 when there were none.
    wait_ms: [u64; 3],
    over_ms: [u64; 3],
    transferred: u64,
    /// These are known of peers, not of precedences.
    attempts: Option<u64>,
    errors: Option<u64>,
    in_progress_max: Option<u64>,
    in_progress_mean: Option<f64>,
    transferred_per_s: Option<f64>,
}

/// Each bound that was not kept, in words; none when all were.
#[must_use]
pub fn broken_bounds(scenario: &Scenario, record: &Record) -> Vec<String> {
    let mut broken = Vec::new();
    let expect = &scenario.expect;
    let all = record.figures(|_| true);
    if expect.all_transferred && all.transferred < all.count {
        broken.push(format!("{} of {} Mlists were not transferred", all.count - all.transferred, all.count));
    }
    let end_s = record.end_ms.div_ceil(1_000);
    at_most(&mut broken, "the end, seconds", Some(end_s), expect.end_s_max);
    at_most(&mut broken, "Mlists that wait", Some(record.waiting_max), expect.waiting_max);
    at_most(&mut broken, "processes", Some(record.processes.max), expect.processes_max);
    for (level, bounds) in &expect.precedence {
        let figures = record.figures(|lived| lived.level.name() == level);
        let came = Came {
            wait_ms: figures.wait_ms,
            over_ms: figures.over_ms,
            transferred: figures.transferred,
            attempts: None,
            errors: None,
            in_progress_max: None,
            in_progress_mean: None,
            transferred_per_s: None,
        };
        compare(&mut broken, level, bounds, &came, all.transferred);
    }
    for (name, bounds) in &expect.peer {
        let peers = peers_of(scenario, name);
        let kind = scenario.peers.iter().position(|kind| kind.name == *name);
        let figures = record.figures(|lived| Some(lived.kind) == kind);
        let [attempts, errors, _] = record.totals(&peers);
        let came = Came {
            wait_ms: figures.wait_ms,
            over_ms: figures.over_ms,
            transferred: figures.transferred,
            attempts: Some(attempts),
            errors: Some(errors),
            in_progress_mean: Some(record.in_progress_mean(&peers)),
            in_progress_max: peers.iter().map(|&peer| record.peers[peer].in_progress.max).max(),
            transferred_per_s: Some(record.rate(&peers)),
        };
        compare(&mut broken, name, bounds, &came, all.transferred);
    }
    broken
}

/// The places of a kind's peers in the record.
pub(super) fn peers_of(scenario: &Scenario, name: &str) -> Vec<usize> {
    let mut first = 0;
    for kind in &scenario.peers {
        let next = first + kind.count as usize;
        if kind.name == name {
            return (first..next).collect();
        }
        first = next;
    }
    Vec::new()
}

fn compare(broken: &mut Vec<String>, name: &str, bounds: &Bounds, came: &Came, all: u64) {
    let about = |what: &str| format!("{name}: {what}");
    at_most(broken, &about("wait, half of them, ms"), Some(came.wait_ms[0]), bounds.wait_ms_p50_max);
    at_most(broken, &about("wait, 99 of a hundred, ms"), Some(came.wait_ms[1]), bounds.wait_ms_p99_max);
    at_most(broken, &about("over, 99 of a hundred, ms"), Some(came.over_ms[1]), bounds.over_ms_p99_max);
    at_most(broken, &about("attempts"), came.attempts, bounds.attempts_max);
    at_least(broken, &about("attempts"), came.attempts, bounds.attempts_min);
    at_most(broken, &about("in progress"), came.in_progress_max, bounds.in_progress_max);
    let mean = &about("in progress, mean");
    at_most(broken, mean, came.in_progress_mean, bounds.in_progress_mean_max);
    at_most(broken, &about("errors of the peer"), came.errors, bounds.errors_max);
    at_least(broken, &about("transferred a second"), came.transferred_per_s, bounds.transferred_per_s_min);
    let share = came.transferred as f64 * 100.0 / all.max(1) as f64;
    at_least(broken, &about("share, percent"), Some(share), bounds.share_percent_min);
    at_most(broken, &about("share, percent"), Some(share), bounds.share_percent_max);
}

fn at_most<T: PartialOrd + std::fmt::Display>(
    broken: &mut Vec<String>,
    what: &str,
    came: Option<T>,
    max: Option<T>,
) {
    if let Some(max) = max {
        match came {
            Some(came) if came <= max => {}
            Some(came) => broken.push(format!("{what}: {came:.1}, and at most {max:.1} are expected")),
            None => broken.push(format!("{what}: this is known of peers alone, remove the bound")),
        }
    }
}

fn at_least<T: PartialOrd + std::fmt::Display>(
    broken: &mut Vec<String>,
    what: &str,
    came: Option<T>,
    min: Option<T>,
) {
    if let Some(min) = min {
        match came {
            Some(came) if came >= min => {}
            Some(came) => broken.push(format!("{what}: {came:.1}, and at least {min:.1} are expected")),
            None => broken.push(format!("{what}: this is known of peers alone, remove the bound")),
        }
    }
}
