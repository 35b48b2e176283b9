//! What follows from the self test's measurements: values, each with one sentence of reason. Arithmetic alone.
//!
//! Who measures, and who obeys: the binary and its roles. What an operator has set goes before all of this.
//!
//! The totals follow from the best throughput of the curve and not from the place of its knee: a slower disk needs more
//! associations at once to reach less, and a total that followed the knee would grow as a disk gets worse.

mod curve;

pub use curve::{Choice, Curve, Law, Point, Rule, SHARE_OF_BEST};
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
    /// Messages a second over the loopback at the best concurrency; 0 when none passed in time, none when that could not be tried.
    pub transfers_per_s: Option<f64>,
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

/// The values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Values {
    /// How the log is written.
    pub method: Derived<WriteMethod>,
    /// The largest batch of the log, in octets: [`BATCH_OCTETS_MIN`] to [`BATCH_OCTETS_MAX`].
    pub batch_octets: Derived<u32>,
    /// Channel processes in all (`qmgr_maxchans`): [`CHANNEL_PROCESSES_MIN`] to [`CHANNEL_PROCESSES_MAX`].
    pub channel_processes_max: Derived<u32>,
    /// What follows from throughput; none when it could not be tried.
    pub totals: Option<Totals>,
}

/// How much may be open at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Totals {
    /// Association slots of all channel processes together.
    pub association_slots_max: Derived<u32>,
    /// Its share for each process: [`SLOTS_PER_PROCESS_MIN`] to [`SLOTS_PER_PROCESS_MAX`].
    pub slots_per_process: Derived<u32>,
    /// Connections of SMTP clients, on all listeners together: [`CONNECTIONS_MIN`] to [`CONNECTIONS_MAX`].
    pub connections_max: Derived<u32>,
}

/// The smallest limit of a batch with which the log works: a set with one chunk of content and its envelope.
pub const BATCH_OCTETS_MIN: u32 = 128 << 10;
/// The largest limit of a batch: beyond it a device gains nothing.
pub const BATCH_OCTETS_MAX: u32 = 1 << 20;
/// One for each kind of channel, and one that the reserves for urgent mail may keep.
pub const CHANNEL_PROCESSES_MIN: u32 = 4;
/// The bound of `qmgr_maxchans`.
pub const CHANNEL_PROCESSES_MAX: u32 = 4_096;
/// A few peers that are slow to answer must not take the last slot of a process.
pub const SLOTS_PER_PROCESS_MIN: u32 = 16;
/// The bound of `slots_per_process`.
pub const SLOTS_PER_PROCESS_MAX: u32 = 4_096;
/// Four times what one client may open by default: no client takes more than a quarter, and a disk that is slow keeps
/// connections open for longer, so it needs no fewer.
pub const CONNECTIONS_MIN: u32 = 400;
/// The bound of `connections_max`.
pub const CONNECTIONS_MAX: u32 = 65_535;

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
/// Of what passes over the loopback the switch reaches about so much: the links between its processes, routing, QMGR and
/// reading back cost it as much again.
const SWITCH_SHARE: f64 = 0.5;
/// An association is taken up by a message for so long where the peer is some way off: six round trips of 40 ms.
const TRANSFER_TIME: Duration = Duration::from_millis(250);
/// A client that is some way off, connects for one message and leaves stays for so long.
const SESSION_TIME: Duration = Duration::from_secs(1);
/// What a slot takes at its peak: two cells of 64 KiB in its process's window of content.
const SLOT_OCTETS: u64 = 128 << 10;
/// What a connection takes at its peak: 32 KiB that it reads at a time, a chunk of 60 KiB, and its session.
const CONNECTION_OCTETS: u64 = 128 << 10;

/// Derives the values; none when no durable write was measured.
#[must_use]
pub fn derive(measured: &Measured<'_>) -> Option<Values> {
    let (method, batch_octets) = writing(measured.commits)?;
    let smallest = curve_of(measured.commits, method.value).first()?.1;
    let channel_processes_max = channel_processes(measured, smallest);
    let totals = measured
        .transfers_per_s
        .map(|per_s| totals(per_s, channel_processes_max.value, measured.memory_octets));
    Some(Values { method, batch_octets, channel_processes_max, totals })
}

/// How the log is best written, and in which batches; none when no durable write was measured.
#[must_use]
pub fn writing(commits: &[CommitTime]) -> Option<(Derived<WriteMethod>, Derived<u32>)> {
    let method = method(commits)?;
    let curve = curve_of(commits, method.value);
    let batch_octets = batch(&curve, curve.first()?.1);
    Some((method, batch_octets))
}

/// The times of one method, by rising batch.
fn curve_of(commits: &[CommitTime], method: WriteMethod) -> Vec<(u32, Duration)> {
    let of_method = commits.iter().filter(|commit| commit.method == method);
    let mut curve: Vec<(u32, Duration)> =
        of_method.map(|commit| (commit.batch_octets, commit.time)).collect();
    curve.sort_unstable();
    curve
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
    let by_disk = whole(Duration::from_secs(1), smallest) / COMMITS_PER_PROCESS_PER_S;
    let by_start = whole(START_TIME_MAX, measured.process_start).saturating_mul(cpus);
    let bounds = [
        (cpus * PROCESSES_PER_CPU, format!("{PROCESSES_PER_CPU} for each of {cpus} processors")),
        of_memory(measured.memory_octets, PROCESS_OCTETS),
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
    let fewest = (CHANNEL_PROCESSES_MIN, "the fewest that serve every kind of channel");
    least(&bounds, fewest, CHANNEL_PROCESSES_MAX)
}

/// What is open while so many messages pass each second is the rate times what each of them takes (Little's law).
fn totals(per_s: f64, processes: u32, memory_octets: u64) -> Totals {
    let per_s = per_s * SWITCH_SHARE;
    let of_rate = |each: Duration, what: &str| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a float becomes the nearest u64"
        )]
        let open = (per_s * each.as_secs_f64()) as u64;
        (
            open,
            format!("{per_s:.0} messages/s, half of the best, that each take {what} {}", Milliseconds(each)),
        )
    };
    let fewest = (
        processes.saturating_mul(SLOTS_PER_PROCESS_MIN),
        "the fewest of which slow peers do not take the last one",
    );
    let most = processes.saturating_mul(SLOTS_PER_PROCESS_MAX);
    let bounds = [of_rate(TRANSFER_TIME, "an association for"), of_memory(memory_octets, SLOT_OCTETS)];
    let association_slots_max = least(&bounds, fewest, most);
    let share = association_slots_max.value / processes.max(1);
    let slots_per_process = Derived {
        value: share.clamp(SLOTS_PER_PROCESS_MIN, SLOTS_PER_PROCESS_MAX),
        reason: format!("{} slots are shared by {processes} channel processes", association_slots_max.value),
    };
    let bounds = [of_rate(SESSION_TIME, "a connection for"), of_memory(memory_octets, CONNECTION_OCTETS)];
    let fewest = (CONNECTIONS_MIN, "four times what one client may have by default");
    let connections_max = least(&bounds, fewest, CONNECTIONS_MAX);
    Totals { association_slots_max, slots_per_process, connections_max }
}

/// How many of these the share of the memory holds.
fn of_memory(memory_octets: u64, each: u64) -> (u64, String) {
    let why = format!("a quarter of {} of memory at {} each", Octets64(memory_octets), Octets64(each));
    (memory_octets / MEMORY_SHARE / each, why)
}

/// The least of these bounds, but no less than `fewest`, which is what its words say, and no more than `most`.
fn least(bounds: &[(u64, String)], fewest: (u32, &str), most: u32) -> Derived<u32> {
    let least = bounds.iter().map(|(bound, _)| *bound).min().unwrap_or_default();
    let value = u32::try_from(least).unwrap_or(u32::MAX).clamp(fewest.0, most.max(fewest.0));
    let said = |(bound, why): &(u64, String)| format!("{why}: {bound}");
    let (deciding, others): (Vec<_>, Vec<_>) = bounds.iter().partition(|(bound, _)| *bound == least);
    let join = |some: &[&(u64, String)]| some.iter().map(|bound| said(bound)).collect::<Vec<_>>().join(", ");
    let reason = match () {
        () if u64::from(value) > least => format!("{value} are {} ({})", fewest.1, join(&deciding)),
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
mod tests;
