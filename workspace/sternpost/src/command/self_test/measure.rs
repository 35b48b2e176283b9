//! The measuring: durable writes by method and batch, reading, the start of a process; each within its time.

use crate::command::role_trial;
use crate::profile::{Commit, Content};
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};
use sternpost_platform::disk::DiskOpenError;
pub(super) use sternpost_platform::disk::trial::Method;
use sternpost_platform::disk::trial::{TrialDisk, TrialPlace, WriteCache, fill, pattern};
use sternpost_queue::{AlignedBuffer, DiskError, PAGE_OCTETS};

/// Time for the whole, and for its parts.
pub(super) struct Budget {
    /// When nothing new is begun any more. A device that hangs may make the last write longer.
    total: Duration,
    prepare: Duration,
    /// Of one method with one size of batch.
    series: Duration,
    series_count_max: usize,
    sizes: &'static [u32],
    /// Starts of a process.
    starts_count: usize,
}

impl Budget {
    /// 5 s with the start of the command itself on a slow machine.
    pub(super) const BOOT: Self = Self {
        total: Duration::from_millis(4_000),
        prepare: Duration::from_millis(400),
        series: Duration::from_millis(180),
        series_count_max: 64,
        sizes: &[4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20],
        starts_count: 3,
    };
    /// 20 s.
    pub(super) const ON_REQUEST: Self = Self {
        total: Duration::from_secs(18),
        prepare: Duration::from_secs(1),
        series: Duration::from_millis(400),
        series_count_max: 1_000,
        sizes: &[4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20],
        starts_count: 9,
    };
}

/// Fewer than so many writes tell nothing.
const SERIES_COUNT_MIN: usize = 3;

/// Everything that was measured.
pub(super) struct Measurements {
    pub(super) series: Vec<Series>,
    read_octets_per_s: Option<f64>,
    /// What a flush adds to the smallest write, at the least.
    flush: Option<Duration>,
    pub(super) cpus_count: u32,
    pub(super) memory_octets: u64,
    pub(super) process_start: Duration,
    pub(super) remarks: Vec<String>,
}

/// One method with one size of batch.
pub(super) struct Series {
    pub(super) method: Method,
    pub(super) batch_octets: u32,
    count: usize,
    least: Duration,
    pub(super) tenth: Duration,
    median: Duration,
    p99: Duration,
    per_s: f64,
}

/// No durable write ended in time.
#[derive(Debug, thiserror::Error)]
#[error("the device made nothing durable in time; look at its health")]
pub(super) struct NothingMeasured;

/// Why measuring stopped.
#[derive(Debug, thiserror::Error)]
pub(super) enum MeasureError {
    /// The device.
    #[error("the device refuses the trial")]
    Disk(#[from] DiskError),
    /// The device once more, for another way of writing.
    #[error("the device cannot be opened again")]
    Open(#[source] DiskOpenError),
    /// A process.
    #[error("a process of this program cannot be started")]
    Start(#[from] io::Error),
}

/// Measures everything.
///
/// # Errors
/// `MeasureError`. A method that cannot be had is a remark.
pub(super) fn all(mut place: TrialPlace, budget: &Budget) -> Result<Measurements, MeasureError> {
    let deadline = Instant::now() + budget.total;
    let meter = Meter::new();
    let mut remarks = place.remarks().to_vec();
    meter.show("starting processes");
    let process_start = process_start(budget.starts_count, deadline)?;
    meter.show("preparing the place");
    place.prepare(budget.prepare)?;
    let largest = budget.sizes.iter().copied().max().unwrap_or_default();
    let mut buffer = pattern(usize::try_from(largest).unwrap_or(usize::MAX));
    let mut disks: Vec<(Method, TrialDisk)> = Vec::new();
    for method in [Method::IoUring, Method::Dsync, Method::Fdatasync] {
        match place.disk(method) {
            Ok(mut disk) => {
                disk.register(&buffer);
                disks.push((method, disk));
            }
            Err(error) => remarks.push(format!(
                "Nothing was written by {}: {}.",
                name(method),
                crate::output::chain(&error)
            )),
        }
    }
    let sizes: Vec<u32> =
        budget.sizes.iter().copied().filter(|octets| u64::from(*octets) <= place.octets()).collect();
    let mut measured = Vec::new();
    let mut flush = None;
    for octets in sizes {
        if Instant::now() < deadline {
            meter.show(&format!("writing batches of {} KiB", octets >> 10));
            fill(&mut buffer, usize::try_from(octets).unwrap_or(usize::MAX));
            buffer = round(&mut disks, buffer, budget, deadline, &mut measured)?;
        }
    }
    if Instant::now() < deadline {
        meter.show("asking for a flush");
        fill(&mut buffer, PAGE_OCTETS);
        flush = Some(flush_time(&place, buffer, budget, deadline, &mut measured)?);
    }
    for (_, disk) in &disks {
        remarks.extend(disk.remarks());
    }
    remarks.dedup();
    let read_octets_per_s = if Instant::now() < deadline {
        meter.show("reading");
        Some(per_second(place.octets(), place.time_reading()?))
    } else {
        remarks.push("The disk is so slow that not everything was measured in time.".to_owned());
        None
    };
    Ok(Measurements {
        series: measured,
        read_octets_per_s,
        flush,
        cpus_count: std::thread::available_parallelism()
            .map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX)),
        memory_octets: memory_octets(),
        process_start,
        remarks,
    })
}

/// Writes one size of batch by every method in turn, so that whatever else the machine does meets all of them.
fn round(
    disks: &mut [(Method, TrialDisk)],
    mut buffer: AlignedBuffer,
    budget: &Budget,
    deadline: Instant,
    measured: &mut Vec<Series>,
) -> Result<AlignedBuffer, DiskError> {
    let batch_octets = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
    let time_max = budget.series * u32::try_from(disks.len()).unwrap_or(u32::MAX);
    let began = Instant::now();
    let mut times = vec![Vec::new(); disks.len()];
    for turn in 0..=budget.series_count_max {
        let is_over = Instant::now() >= deadline || (turn > SERIES_COUNT_MIN && began.elapsed() >= time_max);
        if turn > 1 && is_over {
            break;
        }
        for ((_, disk), times) in disks.iter_mut().zip(&mut times) {
            let (back, time) = disk.write(buffer)?;
            buffer = back;
            // The first write wakes the device and the writer's thread.
            if turn > 0 {
                times.push(time);
            }
        }
    }
    for ((method, _), mut times) in disks.iter().zip(times) {
        let all: Duration = times.iter().sum();
        let (count, per_s) = (times.len(), per_second(times.len() as u64, all));
        let mut at = |percent| quantile(&mut times, percent);
        measured.push(Series {
            method: *method,
            batch_octets,
            count,
            least: at(0),
            tenth: at(10),
            median: at(50),
            p99: at(99),
            per_s,
        });
    }
    Ok(buffer)
}

/// What a flush adds to the smallest write: both in turn, and of both the least, which nothing else has delayed. A
/// write without one joins what was measured.
fn flush_time(
    place: &TrialPlace,
    buffer: AlignedBuffer,
    budget: &Budget,
    deadline: Instant,
    measured: &mut Vec<Series>,
) -> Result<Duration, MeasureError> {
    let disk = |method| place.disk(method).map(|disk| (method, disk)).map_err(MeasureError::Open);
    let mut both = [disk(Method::Fdatasync)?, disk(Method::Unsynced)?];
    let mut pair = Vec::new();
    round(&mut both, buffer, budget, deadline, &mut pair)?;
    let least = |method| {
        let found = pair.iter().find(|series: &&Series| series.method == method);
        found.map(|series| series.least).unwrap_or_default()
    };
    let flush = least(Method::Fdatasync).saturating_sub(least(Method::Unsynced));
    measured.extend(pair.into_iter().filter(|series| series.method == Method::Unsynced));
    Ok(flush)
}

/// Of no times, none.
fn quantile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times.get(times.len().saturating_sub(1) * percent / 100).copied().unwrap_or_default()
}

/// The least of several starts of this program, from the wish to the end.
fn process_start(count: usize, deadline: Instant) -> io::Result<Duration> {
    let mut times = Vec::new();
    while times.len() < count && (times.is_empty() || Instant::now() < deadline) {
        let began = Instant::now();
        role_trial::start_and_wait()?;
        times.push(began.elapsed());
    }
    Ok(quantile(&mut times, 0))
}

/// What the system has in all; 0 where it does not say.
fn memory_octets() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(u64::from(info.mem_unit))
}

fn per_second(count: u64, time: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let count = count as f64;
    count / time.max(Duration::from_nanos(1)).as_secs_f64()
}

pub(super) fn microseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e9).round() / 1e3
}

pub(super) const fn name(method: Method) -> &'static str {
    match method {
        Method::IoUring => "io_uring",
        Method::Dsync => "dsync",
        Method::Fdatasync => "fdatasync",
        Method::Unsynced => "unsynced",
    }
}

/// A flush that costs less than this beside its write did nothing that waits for a medium.
const FLUSH_TIME_MIN: Duration = Duration::from_micros(15);

impl Measurements {
    /// For the profile.
    pub(super) fn commits(&self) -> Vec<Commit> {
        let commit = |series: &Series| Commit {
            method: name(series.method).to_owned(),
            batch_octets: series.batch_octets,
            count: u32::try_from(series.count).unwrap_or(u32::MAX),
            p10_us: microseconds(series.tenth),
            p50_us: microseconds(series.median),
            p99_us: microseconds(series.p99),
            per_s: (series.per_s * 10.0).round() / 10.0,
        };
        self.series.iter().map(commit).collect()
    }

    /// For the profile.
    pub(super) fn content(&self) -> Content {
        let durable = self.series.iter().filter(|series| series.method != Method::Unsynced);
        let rates = durable.map(|series| series.per_s * f64::from(series.batch_octets));
        Content {
            write_octets_per_s: rates.fold(0.0, f64::max).round(),
            read_octets_per_s: self.read_octets_per_s.map(f64::round),
        }
    }

    /// What the time of a flush says about the cache behind it, where that can be told. A cache that keeps its content
    /// without power answers at once too, so this is a question and no verdict.
    pub(super) fn flush_remark(&self, cache: Option<WriteCache>) -> Option<String> {
        match cache {
            None => None,
            Some(WriteCache::WriteThrough) => Some(
                "The device says that it has no volatile write cache: a finished write is durable without a flush. \
                 If it has one all the same, mail is lost with the power."
                    .to_owned(),
            ),
            Some(WriteCache::WriteBack) => {
                let flush = self.flush?;
                (flush < FLUSH_TIME_MIN).then(|| {
                    format!(
                        "The device answers a flush in {:.0} µs, faster than a medium can. Either its cache survives the \
                         loss of power (capacitors, a battery), or it does not obey, and mail is lost with the power: \
                         make sure which.",
                        microseconds(flush)
                    )
                })
            }
        }
    }
}

/// Says on a terminal what is being measured.
struct Meter {
    is_terminal: bool,
}

impl Meter {
    fn new() -> Self {
        Self { is_terminal: io::stderr().is_terminal() }
    }

    fn show(&self, what: &str) {
        if self.is_terminal {
            let _ = write!(io::stderr(), "\rself test: {what}\x1b[K");
        }
    }

    fn clear(&self) {
        if self.is_terminal {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Meter {
    /// An error begins a line of its own.
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(flush_us: u64) -> Measurements {
        Measurements {
            series: Vec::new(),
            read_octets_per_s: None,
            flush: Some(Duration::from_micros(flush_us)),
            cpus_count: 1,
            memory_octets: 0,
            process_start: Duration::ZERO,
            remarks: Vec::new(),
        }
    }

    #[test]
    fn a_flush_that_costs_nothing_is_asked_about_and_an_honest_one_is_not() {
        let remark = with(5).flush_remark(Some(WriteCache::WriteBack)).unwrap();
        assert!(
            remark.starts_with("The device answers a flush in 5 µs, faster than a medium can."),
            "{remark}"
        );
        // Solid-state drives take hundreds, and on an emulated machine the way to the device alone takes longer.
        assert_eq!(with(90).flush_remark(Some(WriteCache::WriteBack)), None);
        assert_eq!(with(5).flush_remark(None), None, "nothing says whether a flush is needed");
        let through = with(5).flush_remark(Some(WriteCache::WriteThrough)).unwrap();
        assert!(through.starts_with("The device says that it has no volatile write cache"));
    }

    #[test]
    fn every_method_has_its_quantiles_and_its_rate() {
        let folder = tempfile::tempdir().unwrap();
        let mut place = TrialPlace::open(&folder.path().join("log"), None).unwrap();
        place.prepare(Duration::from_secs(2)).unwrap();
        let methods = [Method::Dsync, Method::Fdatasync];
        let mut disks: Vec<_> = methods.map(|method| (method, place.disk(method).unwrap())).into();
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut measured = Vec::new();
        let buffer = round(&mut disks, pattern(4_096), &Budget::BOOT, deadline, &mut measured).unwrap();
        assert_eq!(measured.iter().map(|series| series.method).collect::<Vec<_>>(), methods);
        for series in &measured {
            assert!((SERIES_COUNT_MIN..=Budget::BOOT.series_count_max).contains(&series.count));
            assert!(series.tenth > Duration::ZERO && series.tenth <= series.median);
            assert!(series.median <= series.p99 && series.per_s > 0.0);
        }
        // Past the deadline one write each is enough.
        round(&mut disks, buffer, &Budget::BOOT, Instant::now(), &mut measured).unwrap();
        assert_eq!((measured.len(), measured[3].count, measured[3].batch_octets), (4, 1, 4_096));
    }
}
