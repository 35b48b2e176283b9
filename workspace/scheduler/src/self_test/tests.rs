//! That each value follows from what was measured, and in the right direction.

use super::*;

const SIZES: [u32; 5] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];

/// A disk that takes `fixed_us` for each write and writes `mib_per_s`.
fn disk(method: WriteMethod, fixed_us: f64, mib_per_s: f64) -> Vec<CommitTime> {
    let time = |octets: u32| fixed_us / 1e6 + f64::from(octets) / (mib_per_s * 1_048_576.0);
    let commit =
        |batch_octets| CommitTime { method, batch_octets, time: Duration::from_secs_f64(time(batch_octets)) };
    SIZES.into_iter().map(commit).collect()
}

fn machine(commits: &[CommitTime]) -> Measured<'_> {
    Measured {
        commits,
        transfers_per_s: Some(12_000.0),
        cpus_count: 2,
        memory_octets: 4 << 30,
        process_start: Duration::from_millis(4),
    }
}

fn values(fixed_us: f64, mib_per_s: f64) -> Values {
    derive(&machine(&disk(WriteMethod::Dsync, fixed_us, mib_per_s))).unwrap()
}

#[test]
fn an_ordinary_machine_gets_the_defaults() {
    let values = values(400.0, 800.0);
    assert_eq!(values.batch_octets.value, BATCH_OCTETS_MAX);
    assert_eq!(values.channel_processes_max.value, 16, "{}", values.channel_processes_max.reason);
}

#[test]
fn a_slower_disk_never_gets_a_larger_batch() {
    for fixed_us in [50.0, 1_000.0, 6_000.0, 9_000.0, 20_000.0] {
        let mut before = u32::MAX;
        for mib_per_s in [2_000.0, 500.0, 150.0, 80.0, 40.0, 20.0, 10.0, 5.0, 1.0] {
            let batch = values(fixed_us, mib_per_s).batch_octets.value;
            assert!(batch <= before && (BATCH_OCTETS_MIN..=BATCH_OCTETS_MAX).contains(&batch));
            before = batch;
        }
        assert_eq!(before, BATCH_OCTETS_MIN, "a disk of 1 MiB/s");
    }
    let mut before = u32::MAX;
    for slowness in 1..60 {
        let batch = values(500.0 * f64::from(slowness), 100.0 / f64::from(slowness)).batch_octets.value;
        assert!(batch <= before, "{slowness} times as slow");
        before = batch;
    }
}

#[test]
fn a_batch_takes_ten_milliseconds_at_most_where_the_disk_can() {
    // 1 ms + 40 MiB/s: 360 KiB in 10 ms, of which whole 64 KiB count.
    let values = values(1_000.0, 40.0);
    assert_eq!(values.batch_octets.value, 320 << 10);
    assert!(values.batch_octets.reason.starts_with("320 KiB fit: the device writes so much in 10.0 ms"));
}

#[test]
fn a_disk_that_is_slow_for_every_write_still_gets_batches() {
    // 50 writes a second, however large: splitting them would only lose time.
    let values = values(20_000.0, 200.0);
    assert_eq!(values.batch_octets.value, BATCH_OCTETS_MAX);
    assert_eq!(values.channel_processes_max.value, 4);
    assert!(
        values.channel_processes_max.reason.contains("4 are the fewest")
            || values.channel_processes_max.reason.contains("10 commits a second"),
        "{}",
        values.channel_processes_max.reason
    );
}

#[test]
fn each_bound_of_the_processes_works_in_its_direction() {
    let fast = disk(WriteMethod::Dsync, 100.0, 800.0);
    let of = |change: &dyn Fn(&mut Measured<'_>)| {
        let mut measured = machine(&fast);
        change(&mut measured);
        derive(&measured).unwrap().channel_processes_max.value
    };
    assert_eq!(of(&|_| {}), 16);
    assert_eq!(of(&|m| m.cpus_count = 8), 64);
    assert_eq!(of(&|m| m.cpus_count = 1), 8);
    assert_eq!(of(&|m| m.memory_octets = 384 << 20), 12);
    assert_eq!(of(&|m| m.process_start = Duration::from_millis(400)), 10);
    assert_eq!(of(&|m| m.memory_octets = 0), CHANNEL_PROCESSES_MIN);
    assert_eq!(of(&|m| (m.cpus_count, m.memory_octets) = (u32::MAX, u64::MAX)), 953);
    let slow = disk(WriteMethod::Dsync, 9_000.0, 800.0);
    let processes = derive(&machine(&slow)).unwrap().channel_processes_max;
    assert_eq!(processes.value, 11);
    assert!(
        processes.reason.starts_with("10 commits a second for each at 9.00 ms: 11 (more by"),
        "{processes:?}"
    );
}

#[test]
fn an_emulated_machine_twenty_times_as_slow_keeps_its_values() {
    let commits = disk(WriteMethod::Dsync, 2_000.0, 150.0);
    let emulated = Measured {
        commits: &commits,
        transfers_per_s: Some(300.0),
        cpus_count: 2,
        memory_octets: 490 << 20,
        process_start: Duration::from_millis(150),
    };
    let values = derive(&emulated).unwrap();
    assert_eq!((values.batch_octets.value, values.channel_processes_max.value), (BATCH_OCTETS_MAX, 15));
}

#[test]
fn a_ring_is_taken_when_it_is_clearly_faster() {
    let both = |ring_us: f64| {
        let mut commits = disk(WriteMethod::Dsync, 500.0, 400.0);
        commits.extend(disk(WriteMethod::IoUring, ring_us, 400.0));
        derive(&machine(&commits)).unwrap().method
    };
    assert_eq!(both(300.0).value, WriteMethod::IoUring);
    assert_eq!(both(490.0).value, WriteMethod::Dsync);
    assert_eq!(both(900.0).value, WriteMethod::Dsync);
    assert!(both(300.0).reason.contains("of the time of dsync (0.31 ms against 0.51 ms for 4 KiB)"));
    let alone = derive(&machine(&disk(WriteMethod::Dsync, 500.0, 400.0))).unwrap().method;
    assert_eq!(alone.value, WriteMethod::Dsync);
    assert_eq!(alone.reason, "dsync is the only method that works here");
}

#[test]
fn nothing_follows_from_nothing_and_no_figure_panics() {
    assert_eq!(derive(&machine(&[])), None);
    for time in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX / 4] {
        for batch_octets in [0, 1, u32::MAX] {
            let commit = |method| CommitTime { method, batch_octets, time };
            let commits =
                [commit(WriteMethod::IoUring), commit(WriteMethod::Dsync), commit(WriteMethod::Dsync)];
            let measured = Measured {
                commits: &commits,
                transfers_per_s: None,
                cpus_count: 0,
                memory_octets: u64::MAX,
                process_start: time,
            };
            let values = derive(&measured).unwrap();
            assert!((BATCH_OCTETS_MIN..=BATCH_OCTETS_MAX).contains(&values.batch_octets.value));
        }
    }
}

#[test]
fn what_is_open_at_a_time_follows_from_the_throughput_within_its_bounds() {
    let fast = disk(WriteMethod::Dsync, 100.0, 800.0);
    let of = |change: &dyn Fn(&mut Measured<'_>)| {
        let mut measured = machine(&fast);
        change(&mut measured);
        let totals = derive(&measured).unwrap().totals.unwrap();
        let Totals { association_slots_max: slots, slots_per_process: share, connections_max: connections } =
            totals;
        ([slots.value, share.value, connections.value], [slots.reason, share.reason, connections.reason])
    };
    let (values, [slots, share, connections]) = of(&|_| {});
    assert_eq!(values, [1_500, 93, 6_000]);
    assert!(
        slots.starts_with(
            "6000 messages/s, half of the best, that each take an association for 250 ms: 1500 (more by"
        ),
        "{slots}"
    );
    assert_eq!(share, "1500 slots are shared by 16 channel processes");
    assert!(
        connections
            .starts_with("6000 messages/s, half of the best, that each take a connection for 1000 ms: 6000"),
        "{connections}"
    );
    assert_eq!(of(&|m| m.memory_octets = 490 << 20).0, [980, 65, 980]);
    let (values, [slots, _, connections]) = of(&|m| m.transfers_per_s = Some(0.0));
    assert_eq!(values, [256, 16, CONNECTIONS_MIN]);
    assert!(
        slots.starts_with("256 are the fewest of which slow peers do not take the last one (0 messages/s"),
        "{slots}"
    );
    assert!(
        connections.starts_with("400 are four times what one client may have by default (0 messages/s"),
        "{connections}"
    );
    assert_eq!(
        of(&|m| (m.transfers_per_s, m.memory_octets) = (Some(1e300), u64::MAX)).0,
        [65_536, 4_096, 65_535]
    );
    assert_eq!(of(&|m| m.transfers_per_s = Some(f64::NAN)).0, [256, 16, CONNECTIONS_MIN]);
}

#[test]
fn without_a_transfer_there_are_no_totals_and_the_rest_follows_all_the_same() {
    let commits = disk(WriteMethod::Dsync, 400.0, 800.0);
    let with = derive(&machine(&commits)).unwrap();
    let without = derive(&Measured { transfers_per_s: None, ..machine(&commits) }).unwrap();
    assert_eq!(Values { totals: None, ..with }, without);
}

/// What a machine relays whose processors bear `most_per_s`, with group commit: all that waits shares the next write.
fn relayed(most_per_s: f64, commit_us: f64) -> Vec<Point> {
    [1_u32, 2, 4, 8, 16, 32, 64]
        .map(|associations| {
            let waiting = commit_us / 1e6 + f64::from(associations) / most_per_s;
            Point { associations, per_s: f64::from(associations) / waiting }
        })
        .into()
}

#[test]
fn a_slower_disk_never_gets_a_larger_total() {
    for most_per_s in [150.0, 900.0, 9_000.0, 50_000.0] {
        let mut before: Option<[u32; 4]> = None;
        for step in 0..60 {
            let commit_us = 40.0 * 1.15_f64.powi(step);
            let commits = disk(WriteMethod::Dsync, commit_us, 200.0 / 1.1_f64.powi(step));
            let curve = Curve::of(&relayed(most_per_s, commit_us)).unwrap();
            let measured = Measured { transfers_per_s: Some(curve.per_s_max()), ..machine(&commits) };
            let values = derive(&measured).unwrap();
            let totals = values.totals.unwrap();
            let now = [
                values.batch_octets.value,
                values.channel_processes_max.value,
                totals.association_slots_max.value,
                totals.connections_max.value,
            ];
            if let Some(before) = before {
                assert!(
                    now.iter().zip(before).all(|(now, before)| *now <= before),
                    "{commit_us}: {before:?} {now:?}"
                );
            }
            let in_force = totals.slots_per_process.value * values.channel_processes_max.value;
            assert!(in_force <= totals.association_slots_max.value, "{totals:?}");
            before = Some(now);
        }
    }
}
