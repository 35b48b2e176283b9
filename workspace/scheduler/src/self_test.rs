//! What follows from the self test's measurements: three values, each with one sentence of reason. Arithmetic alone.
//!
//! Who measures, and who obeys: the binary and its roles. What an operator has set goes before all of this.

use std::time::Duration;

/// How the log is written durably.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMethod {
    /// A write linked to an `fdatasync` on a ring.
    IoUring,
    /// `pwritev2` with `RWF_DSYNC`.
    Dsync,
}

impl WriteMethod {
    /// As it is called in a bootstrap.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::IoUring => "io_uring",
            Self::Dsync => "dsync",
        }
    }
}

/// What one durable write of a batch took, by one method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitTime {
    /// How.
    pub method: WriteMethod,
    /// Octets of the batch.
    pub batch_octets: u32,
    /// What it takes where nothing else is in the way: the lowest tenth, as a median would measure what else the
    /// processors do.
    pub time: Duration,
}

/// What the self test has found out about the machine.
#[derive(Clone, Copy, Debug)]
pub struct Measured<'a> {
    /// Durable writes, in any order. Those of a method that cannot be had are absent.
    pub commits: &'a [CommitTime],
    /// Processors that may be used.
    pub cpus_count: u32,
    /// Memory of the machine.
    pub memory_octets: u64,
    /// From the wish for a process to its end, when it has nothing to do. The least of several.
    pub process_start: Duration,
}

/// A value, and the sentence that says why it is not another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Derived<T> {
    /// The value.
    pub value: T,
    /// One sentence for people.
    pub reason: String,
}

/// The three values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Values {
    /// How the log is written.
    pub method: Derived<WriteMethod>,
    /// The largest batch of the log, in octets: [`BATCH_OCTETS_MIN`] to [`BATCH_OCTETS_MAX`].
    pub batch_octets: Derived<u32>,
    /// Channel processes in all (`qmgr_maxchans`): [`CHANNEL_PROCESSES_MIN`] to [`CHANNEL_PROCESSES_MAX`].
    pub channel_processes_max: Derived<u32>,
}

/// The smallest limit of a batch with which the log works: a set with one chunk of content and its envelope.
pub const BATCH_OCTETS_MIN: u32 = 128 << 10;
/// The largest limit of a batch: beyond it a device gains nothing.
pub const BATCH_OCTETS_MAX: u32 = 1 << 20;
/// One for each kind of channel, and one that the reserves for urgent mail may keep.
pub const CHANNEL_PROCESSES_MIN: u32 = 4;
/// The bound of `qmgr_maxchans`.
pub const CHANNEL_PROCESSES_MAX: u32 = 4_096;

/// A flash that comes while a batch is being written waits for it: no longer than this, if the device can.
const BATCH_TIME_MAX: Duration = Duration::from_millis(10);
/// A ring must be so much faster than the plain call to be preferred: less is noise, and would change from boot to boot.
const RING_SHARE_MAX: f64 = 0.95;
/// A channel process spends most of its time waiting for peers.
const PROCESSES_PER_CPU: u64 = 8;
/// What a channel process takes at its peak, its window of content included.
const PROCESS_OCTETS: u64 = 8 << 20;
/// Of the memory, what channel processes may take: the rest is for the queue, the log's content and the system.
const MEMORY_SHARE: u64 = 4;
/// All processes that are allowed must be startable within this time, or a burst of mail spends it on starting them.
const START_TIME_MAX: Duration = Duration::from_secs(2);
/// Commits a second that each process must find the disk able to give, should no two share one.
const COMMITS_PER_PROCESS_PER_S: u64 = 10;

/// Derives the values; none when no durable write was measured.
#[must_use]
pub fn derive(measured: &Measured<'_>) -> Option<Values> {
    let method = method(measured.commits)?;
    let mut curve: Vec<(u32, Duration)> = measured
        .commits
        .iter()
        .filter(|commit| commit.method == method.value)
        .map(|commit| (commit.batch_octets, commit.time))
        .collect();
    curve.sort_unstable();
    let (_, smallest) = *curve.first()?;
    let batch_octets = batch(&curve, smallest);
    let channel_processes_max = channel_processes(measured, smallest);
    Some(Values { method, batch_octets, channel_processes_max })
}

/// The ring if it takes clearly less time over the batches that both have written, else the plain call.
fn method(commits: &[CommitTime]) -> Option<Derived<WriteMethod>> {
    let time = |method, octets| {
        let found = commits.iter().find(|commit| commit.method == method && commit.batch_octets == octets);
        found.map(|commit| commit.time)
    };
    let pairs: Vec<(u32, Duration, Duration)> = commits
        .iter()
        .filter(|commit| commit.method == WriteMethod::IoUring)
        .filter_map(|ring| {
            let plain = time(WriteMethod::Dsync, ring.batch_octets)?;
            Some((ring.batch_octets, ring.time, plain))
        })
        .collect();
    let Some((octets, ring, plain)) = pairs.iter().min_by_key(|(octets, ..)| *octets) else {
        let only = commits.first()?.method;
        let name = only.name();
        return Some(Derived { value: only, reason: format!("{name} is the only method that works here") });
    };
    // The geometric mean weighs a batch of 4 KiB as much as one of 1 MiB.
    let logarithms: f64 = pairs.iter().map(|(_, ring, plain)| (seconds(*ring) / seconds(*plain)).ln()).sum();
    #[expect(clippy::cast_precision_loss, reason = "a handful of batches")]
    let share = (logarithms / pairs.len() as f64).exp();
    let value = if share <= RING_SHARE_MAX { WriteMethod::IoUring } else { WriteMethod::Dsync };
    let reason = format!(
        "over all batches io_uring takes {share:.2} of the time of dsync ({} against {} for {}), and is taken from {RING_SHARE_MAX} down",
        Milliseconds(*ring),
        Milliseconds(*plain),
        Octets(*octets)
    );
    Some(Derived { value, reason })
}

/// The largest batch within the time, by straight lines between those that were measured.
fn batch(curve: &[(u32, Duration)], smallest: Duration) -> Derived<u32> {
    // Where the smallest write already takes most of the time, splitting helps nobody: then half as much again.
    let time_max = BATCH_TIME_MAX.max(smallest.saturating_mul(3) / 2);
    let mut fits = BATCH_OCTETS_MIN;
    let mut before: Option<(u32, Duration)> = None;
    for &(octets, time) in curve {
        if time > time_max {
            if let Some((octets_before, time_before)) = before {
                let share = seconds(time_max - time_before) / seconds(time - time_before);
                let more = f64::from(octets - octets_before) * share;
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a part of a difference of two u32"
                )]
                let more = more as u32;
                fits = octets_before + more;
            }
            break;
        }
        fits = octets;
        before = Some((octets, time));
    }
    // Whole pages of the log, sixteen at a time, so that noise does not show.
    let value = (fits / (64 << 10) * (64 << 10)).clamp(BATCH_OCTETS_MIN, BATCH_OCTETS_MAX);
    let largest = curve.last().map_or((0, smallest), |last| *last);
    let why = if value == BATCH_OCTETS_MAX {
        "the largest batch of the log".to_owned()
    } else if time_max > BATCH_TIME_MAX {
        format!(
            "the smallest write alone takes {}, and a batch at most half as much again",
            Milliseconds(smallest)
        )
    } else {
        format!("the device writes so much in {}", Milliseconds(time_max))
    };
    let reason =
        format!("{} fit: {why} ({} take {})", Octets(value), Octets(largest.0), Milliseconds(largest.1));
    Derived { value, reason }
}

/// The least of what processors, memory, disk and the cost of starting a process bear.
fn channel_processes(measured: &Measured<'_>, smallest: Duration) -> Derived<u32> {
    let cpus = u64::from(measured.cpus_count.max(1));
    let by_cpus = cpus * PROCESSES_PER_CPU;
    let by_memory = measured.memory_octets / MEMORY_SHARE / PROCESS_OCTETS;
    let by_disk = whole(Duration::from_secs(1), smallest) / COMMITS_PER_PROCESS_PER_S;
    let by_start = whole(START_TIME_MAX, measured.process_start).saturating_mul(cpus);
    let bounds = [
        (by_cpus, format!("{PROCESSES_PER_CPU} for each of {cpus} processors")),
        (
            by_memory,
            format!(
                "a quarter of {} of memory at {} each",
                Octets64(measured.memory_octets),
                Octets64(PROCESS_OCTETS)
            ),
        ),
        (
            by_disk,
            format!("{COMMITS_PER_PROCESS_PER_S} commits a second for each at {}", Milliseconds(smallest)),
        ),
        (
            by_start,
            format!(
                "{} s to start them all at {} each",
                START_TIME_MAX.as_secs(),
                Milliseconds(measured.process_start)
            ),
        ),
    ];
    let least = bounds.iter().map(|(bound, _)| *bound).min().unwrap_or_default();
    let value = u32::try_from(least).unwrap_or(u32::MAX).clamp(CHANNEL_PROCESSES_MIN, CHANNEL_PROCESSES_MAX);
    let said = |(bound, why): &(u64, String)| format!("{why}: {bound}");
    let (deciding, others): (Vec<_>, Vec<_>) = bounds.iter().partition(|(bound, _)| *bound == least);
    let join = |some: &[&(u64, String)]| some.iter().map(|bound| said(bound)).collect::<Vec<_>>().join(", ");
    let reason = match () {
        () if u64::from(value) > least => {
            format!("{value} are the fewest that serve every kind of channel ({})", join(&deciding))
        }
        () if others.is_empty() => join(&deciding),
        () => format!("{} (more by the others: {})", join(&deciding), join(&others)),
    };
    Derived { value, reason }
}

/// How often a time goes into another.
fn whole(time: Duration, each: Duration) -> u64 {
    u64::try_from(time.as_nanos() / each.as_nanos().max(1)).unwrap_or(u64::MAX)
}

/// Never zero, so that it may be divided by.
fn seconds(time: Duration) -> f64 {
    time.max(Duration::from_nanos(1)).as_secs_f64()
}

/// A time for people.
struct Milliseconds(Duration);

impl std::fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = self.0.as_secs_f64() * 1_000.0;
        match ms {
            ms if ms < 10.0 => write!(f, "{ms:.2} ms"),
            ms if ms < 100.0 => write!(f, "{ms:.1} ms"),
            ms => write!(f, "{ms:.0} ms"),
        }
    }
}

/// A size for people.
struct Octets(u32);

impl std::fmt::Display for Octets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Octets64(self.0.into()).fmt(f)
    }
}

/// A size for people.
struct Octets64(u64);

impl std::fmt::Display for Octets64 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            octets if octets >= 1 << 20 && octets.is_multiple_of(1 << 20) || octets >= 100 << 20 => {
                write!(f, "{} MiB", octets >> 20)
            }
            octets => write!(f, "{} KiB", octets >> 10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: [u32; 5] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];

    /// A disk that takes `fixed_us` for each write and writes `mib_per_s`.
    fn disk(method: WriteMethod, fixed_us: f64, mib_per_s: f64) -> Vec<CommitTime> {
        let time = |octets: u32| fixed_us / 1e6 + f64::from(octets) / (mib_per_s * 1_048_576.0);
        let commit = |batch_octets| CommitTime {
            method,
            batch_octets,
            time: Duration::from_secs_f64(time(batch_octets)),
        };
        SIZES.into_iter().map(commit).collect()
    }

    fn machine(commits: &[CommitTime]) -> Measured<'_> {
        Measured { commits, cpus_count: 2, memory_octets: 4 << 30, process_start: Duration::from_millis(4) }
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
                    cpus_count: 0,
                    memory_octets: u64::MAX,
                    process_start: time,
                };
                let values = derive(&measured).unwrap();
                assert!((BATCH_OCTETS_MIN..=BATCH_OCTETS_MAX).contains(&values.batch_octets.value));
            }
        }
    }
}
