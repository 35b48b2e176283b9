//! The scheduler in random worlds keeps every rule after every event, from a seed; and in the scenarios of this tree their bounds.

use std::path::Path;

use sternpost_simulator::scheduling::{End, Options, Report, Scenario, broken_bounds, live, random_scenario};
use sternpost_simulator::search::{Broken, Extent, search};
use sternpost_simulator::trace::Tracing;

/// Worlds in `make test`. `make simulate-scheduler SECONDS=` looks at as many more as there is time for.
const SEEDS: u64 = 4_000;

fn lived(seed: u64, options: Options) -> Result<Report, String> {
    live(&random_scenario(seed), seed, options)
}

#[test]
fn invariant_every_rule_holds_after_every_event_and_everything_runs_in_the_end() {
    let (mut events, mut mlists, mut ends) = (0, 0, [0_u64; 4]);
    let add = |report: Report| {
        events += report.events;
        mlists += report.record.lived.len();
        for lived in &report.record.lived {
            ends[lived.end as usize] += 1;
        }
    };
    let found = search(0, Extent::Seeds(SEEDS), |seed| lived(seed, Options::default()), add, || {});
    if let Err(Broken { seed, why }) = found {
        panic!("seed {seed}: {why}\nlook at it with make simulate-scheduler SEED={seed}");
    }
    println!("{SEEDS} worlds, {events} events, {mlists} Mlists, ended {ends:?}");
    // The worlds are worth their while.
    assert!(events > SEEDS * 200 && mlists as u64 > SEEDS * 20, "{events} events, {mlists} Mlists");
    for end in [End::Transferred, End::Failed, End::Expired, End::Discarded] {
        assert!(ends[end as usize] > SEEDS / 20, "{end:?}: {ends:?}");
    }
}

#[test]
fn a_seed_names_one_world() {
    let told = |seed| {
        let options = Options { tracing: Tracing::Last(5), ..Options::default() };
        let report = lived(seed, options).expect("the seed keeps every rule");
        (report.events, report.record.lived)
    };
    assert_eq!(told(3), told(3));
}

/// A switch whose only process is in reserve for urgent mail, and one routine message.
const HOPELESS: &str = r#"
    title = "hopeless"
    end_s_max = 60
    limits = { qmgr_maxchans = 1, qmgr_reserve_urgent = 1 }
    channel = [{ name = "smtp" }]
    peer = [{ name = "peer", channel = "smtp" }]
    arrivals = [{ to = ["peer"], count = 1 }]
"#;

#[test]
fn mail_that_can_never_run_is_told_as_stranded_with_the_schedulers_reason() {
    let scenario = Scenario::parse(Path::new("hopeless.toml"), HOPELESS).expect("it is good");
    let why = live(&scenario, 1, Options::default()).expect_err("it has no place");
    assert!(why.contains("stranded: 1 Mlists") && why.contains("Maxchans"), "{why}");
}

/// Lives through a scenario of `scenarios/` with so many seeds, with every rule checked after every event.
fn keeps_its_bounds(name: &str, seeds: u64) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("scenarios/{name}.toml"));
    let scenario =
        Scenario::read(&path).unwrap_or_else(|error| panic!("{}", sternpost_message::chain(&error)));
    for seed in 1..=seeds {
        let report = live(&scenario, seed, Options::default())
            .unwrap_or_else(|why| panic!("{name} with seed {seed} breaks a rule {why}"));
        let broken = broken_bounds(&scenario, &report.record);
        assert!(broken.is_empty(), "{name} with seed {seed}: {broken:#?}");
    }
}

#[test]
fn a_burst_starts_processes_at_once_and_a_flash_in_it_waits_for_nothing() {
    keeps_its_bounds("burst", 5);
}

#[test]
fn a_slow_peer_takes_its_slots_and_delays_none_of_the_fast_ones() {
    keeps_its_bounds("slow-peer", 3);
}

#[test]
fn a_flash_finds_a_slot_while_routine_fills_all_that_it_may_have() {
    keeps_its_bounds("flash-in-flood", 3);
}

#[test]
fn peers_that_were_down_for_a_day_get_everything_within_an_hour() {
    keeps_its_bounds("down-for-a-day", 2);
}

#[test]
fn a_thousand_peers_with_a_hundred_mlists_each_take_turns() {
    // 100,000 Mlists cost seconds.
    keeps_its_bounds("thousand-peers", 1);
}

#[test]
fn a_peer_that_refuses_some_associations_gets_as_much_as_it_takes() {
    keeps_its_bounds("refusing-peer", 3);
}

#[test]
fn a_peer_that_chokes_on_its_slots_delays_itself_alone() {
    keeps_its_bounds("choking-peer", 3);
}

#[test]
fn every_scenario_of_the_tree_is_tested() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let this = include_str!("scheduling.rs");
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).expect("the folder of scenarios is there") {
        let name = entry.expect("a folder that was opened can be listed").file_name();
        let name = name.to_string_lossy().replace(".toml", "");
        assert!(this.contains(&format!("keeps_its_bounds(\"{name}\",")), "no test lives through {name}");
        count += 1;
    }
    assert!(count >= 5, "{count} scenarios");
}
