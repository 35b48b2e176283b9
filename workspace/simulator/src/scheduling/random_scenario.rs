//! A small world that the seed makes: limits, channels, peers, arrivals, and everything that can go wrong.
//!
//! Small, so that limits are met, levels compete and places are short. In the end nothing goes wrong any more and everything
//! has to run.

use std::collections::BTreeMap;

use sternpost_message::Precedence;
use sternpost_scheduler::Limits;

use crate::random::Random;

use super::scenario::{
    Arrivals, ChannelKind, Expect, KeptFree, PeerKind, Scenario, SwitchLimits, Trouble, Window, order,
};

/// The time in which things go wrong, seconds.
const TROUBLE_S_MAX: u64 = 90;
/// The longest time from a first attempt to the last of everything once nothing goes wrong, seconds. At most 500 Mlists one
/// after the other, each of which starts a process (1 s), waits for a turn (3 s), for `qmgr_chan_time1` to `3` (9 s) and for its
/// peer (3 s, ten times that for slow ones): 500 × 43 s; and delays before that, 60 s.
const CALM_S_MAX: u64 = 500 * 43 + 60;

/// The scenario of a seed.
#[must_use]
pub fn random_scenario(seed: u64) -> Scenario {
    // Another stream than that of the world.
    let mut random = Random::new(seed ^ 0x5ced_0000_0000_0000);
    let random = &mut random;
    let trouble_s = 5 + random.below(TROUBLE_S_MAX - 5);
    let channels: Vec<ChannelKind> =
        ["smtp", "lmtp", "x400"][..=random.place(3)].iter().map(|name| channel(name, random)).collect();
    let peers: Vec<PeerKind> =
        (0..=random.below(4)).map(|number| peer(number, &channels, trouble_s, random)).collect();
    let arrivals = (0..=random.below(3)).map(|_| arrivals(&peers, trouble_s, random)).collect();
    let mut scenario = Scenario {
        name: format!("seed {seed}"),
        title: format!("the world of seed {seed}"),
        end_s_max: trouble_s + CALM_S_MAX,
        limits: switch_limits(random),
        channels,
        peers,
        arrivals,
        expect: Expect::default(),
        trouble: Trouble::default(),
    };
    scenario.trouble = trouble(&scenario, trouble_s, random);
    scenario
}

/// One of these, each as often as the others.
fn one_of<T: Copy>(random: &mut Random, of: &[T]) -> T {
    of[random.place(of.len())]
}

fn kept(random: &mut Random) -> KeptFree {
    KeptFree { urgent: one_of(random, &[0, 0, 1, 2]), normal: one_of(random, &[0, 0, 1, 2]) }
}

fn small(random: &mut Random, below: u32) -> u32 {
    one_of(random, &[0, 1, 2, 3, 4, 5, 6, 7]) % below
}

fn switch_limits(random: &mut Random) -> SwitchLimits {
    SwitchLimits {
        qmgr_maxchans: 1 + small(random, 7),
        qmgr_reserve_urgent: one_of(random, &[0, 0, 1, 2]),
        qmgr_reserve_normal: one_of(random, &[0, 0, 1, 2]),
        qmgr_chan_time1_ms: one_of(random, &[0, 0, 700, 3_000]),
        qmgr_chan_time2_ms: one_of(random, &[0, 0, 200, 1_000]),
        qmgr_chan_time3_ms: one_of(random, &[0, 0, 900, 3_000]),
        age_share_percent: one_of(random, &[0, 0, 0, 10, 50]),
        retry_step_ms: one_of(random, &[300, 1_000, 5_000]),
        retry_max_ms: one_of(random, &[1_000, 3_500, 20_000]),
    }
}

fn channel(name: &str, random: &mut Random) -> ChannelKind {
    let capacity = one_of(random, &[1, 1, 2, 4, 10]);
    ChannelKind {
        name: name.into(),
        processes_max: 1 + small(random, 4),
        capacity,
        capacity_announced: one_of(random, &[None, None, Some(capacity + 1), Some(1)]),
        slots_reserve: kept(random),
        peer_slots_max: one_of(random, &[1, 2, 3, 5, 10]),
        peer_slots_min: one_of(random, &[u32::MAX, u32::MAX, 1, 2]),
        peer_slots_reserve: kept(random),
        idle_stop_ms: one_of(random, &[0, 500, 3_000, 20_000]),
        start_ms: one_of(random, &[1, 50, 1_000]),
        start_failure_percent: one_of(random, &[0, 0, 20, 60]),
        death_after_ms: one_of(random, &[None, None, Some(1_000), Some(10_000)]),
        commit_ms: one_of(random, &[0, 1, 5, 100]),
        give_back_percent: one_of(random, &[0, 0, 5, 30]),
        late_word_percent: one_of(random, &[0, 0, 20]),
    }
}

fn peer(number: u64, channels: &[ChannelKind], trouble_s: u64, random: &mut Random) -> PeerKind {
    let from_s = random.below(trouble_s);
    let window = Window { from_s, until_s: from_s + 1 + random.below(30) };
    PeerKind {
        name: format!("kind{number}"),
        channel: channels[random.place(channels.len())].name.clone(),
        count: 1 + small(random, 3),
        slots_max: one_of(random, &[None, None, Some(1), Some(4)]),
        slots_reserve: if random.chance(25) { Some(kept(random)) } else { None },
        connect_ms: one_of(random, &[1, 10, 200]),
        connect_failure_ms: one_of(random, &[1, 300, 2_000]),
        service_ms: one_of(random, &[1, 10, 100, 500, 3_000]),
        jitter_percent: one_of(random, &[0, 10, 90]),
        workers: one_of(random, &[None, None, Some(1), Some(3)]),
        slowdown_percent: one_of(random, &[0, 0, 20]),
        associations_max: one_of(random, &[None, None, Some(1), Some(2)]),
        down: if random.chance(40) { vec![window] } else { Vec::new() },
        message_error_percent: one_of(random, &[0, 0, 10, 40]),
        peer_error_percent: one_of(random, &[0, 0, 10, 40]),
        failure_percent: one_of(random, &[0, 0, 5]),
    }
}

fn arrivals(peers: &[PeerKind], trouble_s: u64, random: &mut Random) -> Arrivals {
    let mut to: Vec<String> =
        peers.iter().map(|kind| kind.name.clone()).filter(|_| random.chance(60)).collect();
    if to.is_empty() {
        to.push(peers[random.place(peers.len())].name.clone());
    }
    let from_s = random.below(trouble_s);
    let until_s = (from_s + 1 + random.below(30)).min(trouble_s);
    let is_burst = random.chance(40);
    let reached: u32 = peers.iter().filter(|kind| to.contains(&kind.name)).map(|kind| kind.count).sum();
    let count = 1 + random.below(40);
    Arrivals {
        to,
        from_s,
        until_s,
        rate_per_s: if is_burst { 0.0 } else { count as f64 / (until_s - from_s).max(1) as f64 },
        count: if is_burst { count } else { 0 },
        precedence_percent: levels(random),
        recipients: one_of(random, &[1, 1, 3]),
        peers_per_message: one_of(random, &[1, 1, 3]).min(reached),
        life_s: one_of(random, &[5, 30, 86_400, 86_400]),
        delay_report_s: one_of(random, &[None, Some(3), Some(20)]),
    }
}

/// One level alone, or some of them.
fn levels(random: &mut Random) -> BTreeMap<String, u64> {
    let mut percent = BTreeMap::new();
    let parts = one_of(random, &[1, 4, 10]);
    for _ in 0..parts {
        let level = one_of(random, &Precedence::ALL);
        *percent.entry(level.name().to_owned()).or_insert(0) += 100 / parts;
    }
    percent
}

fn trouble(scenario: &Scenario, trouble_s: u64, random: &mut Random) -> Trouble {
    let trouble_ms = trouble_s * 1_000;
    let changes = (0..random.below(4)).map(|_| {
        let at = random.below(trouble_ms);
        (at, changed(scenario, trouble_ms, random))
    });
    let changes = changes.collect();
    let discards = (0..random.below(4)).map(|_| random.below(trouble_ms)).collect();
    Trouble { changes, discards, end: Some((trouble_ms, calm(scenario))) }
}

/// The limits as an operator may have changed them: other numbers, orders to wait, channels and peers that are gone.
fn changed(scenario: &Scenario, trouble_ms: u64, random: &mut Random) -> Limits {
    let mut other = scenario.clone();
    other.limits = switch_limits(random);
    for kind in &mut other.channels {
        let fresh = channel(&kind.name, random);
        *kind = ChannelKind { name: kind.name.clone(), ..fresh };
    }
    let mut limits = other.limits();
    if random.chance(20) {
        limits.channels.remove(random.place(limits.channels.len()));
    }
    for channel in &mut limits.channels {
        channel.peers.retain(|_| random.chance(90));
    }
    for _ in 0..one_of(random, &[0, 0, 1, 2]) {
        let kind = &scenario.peers[random.place(scenario.peers.len())];
        let peer = if random.chance(50) { kind.names().next() } else { None };
        let from = random.below(trouble_ms);
        let lowest = one_of(random, &Precedence::ALL);
        limits.minimise.push(order(&kind.channel, peer, lowest, from, from + 1 + random.below(20_000)));
    }
    limits
}

/// The limits under which everything can run: the first ones, with a place for every level.
fn calm(scenario: &Scenario) -> Limits {
    let mut limits = scenario.limits();
    limits.qmgr_maxchans += limits.qmgr_reserve_urgent + limits.qmgr_reserve_normal;
    limits
}
