//! The measuring: durable writes by method and batch, reading, the start of a process, and in the files beside this one
//! processors and transfer; each within its time.

use super::meter::Meter;
use super::processors::{self, Processors};
use super::transfer::{self, Level, TransferError};
use crate::command::role_trial;
use crate::profile::{Commit, Content, Found, Machine, Processor, Transfer, TransferPoint};
use std::io;
use std::time::{Duration, Instant};
use sternpost_platform::disk::DiskOpenError;
pub(super) use sternpost_platform::disk::trial::Method;
use sternpost_platform::disk::trial::{TrialDisk, TrialPlace, WriteCache, fill, pattern};
use sternpost_queue::{AlignedBuffer, DiskError, PAGE_OCTETS};
use sternpost_scheduler::self_test::{CommitTime, Curve, WriteMethod, writing};

/// Time for the whole, and for its parts.
pub(super) struct Budget {
    /// When nothing new is begun any more. A device that hangs may make the last write longer.
    total: Duration,
    prepare: Duration,
    /// Of one method with one size of batch.
    series: Duration,
    series_count_max: usize,
    sizes: &'static [u32],
    methods: &'static [Method],
    /// Of each thing that a processor does.
    processor: Duration,
    transfer: transfer::Plan,
    /// Starts of a process.
    starts_count: usize,
}

impl Budget {
    /// 5 s with the start of the command itself on a slow machine.
    pub(super) const BOOT: Self = Self {
        total: Duration::from_millis(4_000),
        prepare: Duration::from_millis(400),
        series: Duration::from_millis(90),
        series_count_max: 64,
        sizes: &[4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20],
        methods: &[Method::IoUring, Method::Dsync, Method::Fdatasync],
        processor: Duration::from_millis(50),
        transfer: transfer::Plan {
            levels: &[1, 2, 4, 8, 16, 32, 64],
            rounds: 2,
            warm: Duration::from_millis(15),
            window: Duration::from_millis(60),
        },
        starts_count: 3,
    };
    /// 20 s.
    pub(super) const ON_REQUEST: Self = Self {
        total: Duration::from_secs(18),
        prepare: Duration::from_secs(1),
        series: Duration::from_millis(180),
        series_count_max: 1_000,
        sizes: &[4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20],
        methods: &[Method::IoUring, Method::Dsync, Method::Fdatasync, Method::Buffered],
        processor: Duration::from_millis(400),
        transfer: transfer::Plan {
            levels: &[1, 2, 4, 8, 16, 32, 64, 128],
            rounds: 3,
            warm: Duration::from_millis(40),
            window: Duration::from_millis(160),
        },
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
    /// What is left of it for whoever asks; none where the system does not say.
    pub(super) memory_available_octets: Option<u64>,
    pub(super) process_start: Duration,
    /// None when that could not be measured, which is a remark.
    pub(super) processors: Option<Processors>,
    /// By which method mail was transferred, and each level on which enough passed. None when it could not be tried, which
    /// is a remark.
    pub(super) transfer: Option<(Method, Vec<Level>)>,
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
/// `MeasureError`. What can be done without is a remark.
pub(super) fn all(mut place: TrialPlace, budget: &Budget) -> Result<Measurements, MeasureError> {
    let deadline = Instant::now() + budget.total;
    // However slow the disk is, time stays for what follows on its writes.
    let writing_deadline = deadline - budget.transfer.time() - budget.processor * 3;
    let meter = Meter::new(budget.total);
    let mut remarks = place.remarks().to_vec();
    meter.show("starting processes");
    let process_start = process_start(budget.starts_count, writing_deadline)?;
    meter.show("preparing the place");
    place.prepare(budget.prepare)?;
    let (series, flush) = durable_writes(&place, budget, writing_deadline, &meter, &mut remarks)?;
    let read_octets_per_s = if Instant::now() < writing_deadline {
        meter.show("reading");
        Some(per_second(place.octets(), place.time_reading()?))
    } else {
        remarks.push("The disk is so slow that not everything was measured in time.".to_owned());
        None
    };
    meter.show("shaking hands, hashing and copying");
    let processors = kept(processors::measure(budget.processor), "No processor was measured", &mut remarks);
    let transfer = match writing(&commit_times(&series)) {
        None => None,
        Some((method, batch_octets)) => {
            let method = match method.value {
                WriteMethod::IoUring => Method::IoUring,
                WriteMethod::Dsync => Method::Dsync,
            };
            let plan = &budget.transfer;
            let levels = match transfer::measure(&place, method, batch_octets.value, plan, deadline, &meter) {
                // A device that refuses this write would refuse the log's.
                Err(TransferError::Disk(error)) => return Err(error.into()),
                levels => levels,
            };
            kept(levels, "No mail was transferred over the loopback", &mut remarks)
                .map(|levels| (method, levels))
        }
    };
    Ok(Measurements {
        series,
        read_octets_per_s,
        flush,
        cpus_count: std::thread::available_parallelism()
            .map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX)),
        memory_octets: memory_octets(),
        memory_available_octets: memory_available_octets(),
        process_start,
        processors,
        transfer,
        remarks,
    })
}

/// What could be measured; else a remark.
fn kept<T, E: std::error::Error>(
    found: Result<T, E>,
    otherwise: &str,
    remarks: &mut Vec<String>,
) -> Option<T> {
    found.map_err(|error| remarks.push(format!("{otherwise}: {}.", crate::output::chain(&error)))).ok()
}

/// Every method with every size of batch, and what a flush adds.
fn durable_writes(
    place: &TrialPlace,
    budget: &Budget,
    deadline: Instant,
    meter: &Meter,
    remarks: &mut Vec<String>,
) -> Result<(Vec<Series>, Option<Duration>), MeasureError> {
    let largest = budget.sizes.iter().copied().max().unwrap_or_default();
    let mut buffer = pattern(usize::try_from(largest).unwrap_or(usize::MAX));
    let mut disks: Vec<(Method, TrialDisk)> = Vec::new();
    // Where nothing is written past the page cache, every method is the buffered one already, and a remark says so.
    for &method in budget.methods.iter().filter(|method| place.is_direct() || **method != Method::Buffered) {
        let disk = kept(place.disk(method), &format!("Nothing was written by {}", name(method)), remarks);
        if let Some(mut disk) = disk {
            disk.register(&buffer);
            disks.push((method, disk));
        }
    }
    let sizes = budget.sizes.iter().copied().filter(|octets| u64::from(*octets) <= place.octets());
    let (mut measured, mut flush) = (Vec::new(), None);
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
        flush = Some(flush_time(place, buffer, budget, deadline, &mut measured)?);
    }
    for (_, disk) in &disks {
        remarks.extend(disk.remarks());
    }
    remarks.dedup();
    Ok((measured, flush))
}

/// The times by which the log may be written.
pub(super) fn commit_times(series: &[Series]) -> Vec<CommitTime> {
    let time = |series: &Series| {
        let method = match series.method {
            Method::IoUring => WriteMethod::IoUring,
            Method::Dsync => WriteMethod::Dsync,
            Method::Fdatasync | Method::Buffered | Method::Unsynced => return None,
        };
        Some(CommitTime { method, batch_octets: series.batch_octets, time: series.tenth })
    };
    series.iter().filter_map(time).collect()
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

/// What the system says it could give without taking from others.
fn memory_available_octets() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

pub(super) fn per_second(count: u64, time: Duration) -> f64 {
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
        Method::Buffered => "buffered",
        Method::Unsynced => "unsynced",
    }
}

/// A flush that costs less than this beside its write did nothing that waits for a medium.
const FLUSH_TIME_MIN: Duration = Duration::from_micros(15);

impl Measurements {
    /// For the profile, with what the arithmetic has made of the transfer.
    pub(super) fn for_profile(&self, curve: Option<&Curve>) -> Found {
        let tenth = |rate: f64| (rate * 10.0).round() / 10.0;
        let processor = self.processors.map(|processors| Processor {
            tls_server_per_s: tenth(processors.tls_server_per_s),
            tls_client_per_s: tenth(processors.tls_client_per_s),
            sha256_octets_per_s: processors.sha256_octets_per_s.round(),
            copy_octets_per_s: processors.copy_octets_per_s.round(),
        });
        let transfer = self.transfer.as_ref().map(|(method, levels)| {
            let points = levels.iter().map(|level| TransferPoint {
                associations: level.associations,
                per_s: tenth(level.per_s),
                batch_messages: tenth(level.batch_messages),
            });
            let message_octets = u32::try_from(transfer::MESSAGE_OCTETS).unwrap_or(u32::MAX);
            Transfer::new(message_octets, name(*method), points.collect(), curve)
        });
        let machine = Machine {
            cpus_count: self.cpus_count,
            memory_octets: self.memory_octets,
            memory_available_octets: self.memory_available_octets,
            process_start_us: microseconds(self.process_start),
        };
        Found { machine, commits: self.commits(), content: self.content(), processor, transfer }
    }

    fn commits(&self) -> Vec<Commit> {
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

    fn content(&self) -> Content {
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
            memory_available_octets: None,
            process_start: Duration::ZERO,
            processors: None,
            transfer: None,
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
