//! `sternpost-load bench-queue`, and the key `queue` of the report of `bench`: durable appends through the store's real process,
//! between the limit of its disk and the old way, a file for each message; and reads as a channel makes them.
//!
//! One file, written with zeroes once; on it, in each round and for each case in turn: raw writes of as many messages as
//! there are producers, the store on a log made anew, raw writes as large as the store's batches have been, and the files.
//! Ratios are taken within a round; every value is the median of the rounds. The store runs without a switch around it, so
//! that nothing but its client has a share of the processors; the log is never filled, so that nothing has to be moved.

mod appends;
mod figures;
mod raw;
mod reads;
mod spool;

use serde::Serialize;
use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;
use sternpost_load::process;
use sternpost_load::store::{LogPlace, LoneStore};
use sternpost_platform::disk::DiskBackend;
use sternpost_queue::{Geometry, SEGMENT_OCTETS_MAX};

use self::appends::{AppendCase, AppendRow, LonelyRow};
use self::figures::Quantiles;
use self::raw::Method;
use self::reads::ReadRow;
use super::tool::{self, Series, number};
use super::{Outcome, octets};

/// Room for what the fastest disk takes in one burst, with as much again: 2 GiB.
const GEOMETRY: Geometry = Geometry { segment_octets: SEGMENT_OCTETS_MAX, segments: 32 };
/// Batches by which the method is chosen, from one small message to a full batch.
const CHOICE_OCTETS: [usize; 4] = [8 << 10, 64 << 10, 256 << 10, 1 << 20];
const CHOICE_TIME: Duration = Duration::from_millis(50);
const CHOICE_TURNS: u32 = 5;
/// io_uring must be this much faster to be chosen, as the self test has it.
const RING_SHARE_MAX: f64 = 0.95;

/// Measures the store alone: durable appends, reads, the disk below, and files as the old way.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: sternpost-load bench-queue --rounds 1 --producers 16,128 --octets 4KiB --only appends"
)]
pub(crate) struct QueueArguments {
    /// The switch; a release build.
    #[arg(long, default_value = "target/release/sternpost")]
    sternpost: PathBuf,
    /// Where the run lives and the report goes: on the disk to be measured, with 3 GiB free.
    #[arg(long, default_value = "target/bench")]
    directory: PathBuf,
    /// Rounds; every value is the median of them.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// How many append at a time.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 128, 1024])]
    producers: Vec<u32>,
    /// Octets of a message's content.
    #[arg(long, value_delimiter = ',', default_values = ["4KiB", "64KiB"], value_parser = octets)]
    octets: Vec<usize>,
    /// How the store writes its log; left out: as a self test would choose.
    #[arg(long, value_enum)]
    method: Option<StoreMethod>,
    /// Octets of the store's largest batch; left out: as the store has it.
    #[arg(long)]
    batch_octets: Option<u32>,
    /// A part of the measurement.
    #[arg(long, value_enum)]
    only: Option<Part>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum StoreMethod {
    Dsync,
    #[value(name = "io_uring")]
    IoUring,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Appends,
    Reads,
}

/// The key `queue` of the report.
#[derive(Debug, Serialize)]
pub(super) struct QueueReport {
    rounds: u32,
    load_average_before: f64,
    /// With the threads of the files, which wait for the disk.
    load_average_after: f64,
    log_octets: u64,
    /// How the store has written its log.
    method: String,
    batch_octets_max: u32,
    /// Whether the store reads and writes past the page cache.
    direct: Option<bool>,
    appends: Vec<AppendRow>,
    lonely: Vec<LonelyRow>,
    reads: Vec<ReadRow>,
}

/// What all parts work with.
struct Bench {
    sternpost: PathBuf,
    home: PathBuf,
    place: LogPlace,
}

impl Bench {
    /// The store on an empty log.
    fn store_on_new_log(&self) -> Result<LoneStore, Box<dyn Error>> {
        self.place.make()?;
        self.store()
    }

    fn store(&self) -> Result<LoneStore, Box<dyn Error>> {
        Ok(LoneStore::start(&self.sternpost, &self.home, &self.place)?)
    }
}

impl QueueArguments {
    /// The part of `bench`.
    pub(super) fn within(sternpost: PathBuf, directory: PathBuf, rounds: u32) -> Self {
        Self {
            sternpost,
            directory,
            rounds,
            producers: vec![1, 16, 128, 1024],
            octets: vec![4096, 65536],
            method: None,
            batch_octets: None,
            only: None,
        }
    }

    pub(crate) fn run(self) -> Outcome {
        let report = self.measure()?;
        report.print();
        let path = self.directory.join("queue.json");
        tool::write_json(Some(&path), &report)?;
        println!("{}", path.display());
        Ok(true)
    }

    /// Measures, and leaves nothing behind.
    pub(super) fn measure(&self) -> Result<QueueReport, Box<dyn Error>> {
        let sternpost = self.sternpost.canonicalize();
        let sternpost =
            sternpost.map_err(|_| format!("{} is not there: build it first", self.sternpost.display()))?;
        std::fs::create_dir_all(&self.directory)?;
        let home = self.directory.canonicalize()?.join("queue");
        super::switch::empty(&home)?;
        let place = LogPlace {
            path: home.join("log"),
            geometry: GEOMETRY,
            backend: DiskBackend::Dsync,
            batch_octets_max: self.batch_octets,
        };
        let bench = Bench { sternpost, home, place };
        let report = self.measure_in(bench);
        std::fs::remove_dir_all(self.directory.join("queue"))?;
        report
    }

    fn measure_in(&self, mut bench: Bench) -> Result<QueueReport, Box<dyn Error>> {
        let load_average_before = process::load_average();
        eprintln!("writing a file of {} MiB with zeroes", GEOMETRY.octets() >> 20);
        bench.place.zero()?;
        bench.place.backend = match self.method {
            Some(StoreMethod::Dsync) => DiskBackend::Dsync,
            Some(StoreMethod::IoUring) => DiskBackend::IoUring,
            None => choose_method(&bench)?,
        };
        let store = bench.store_on_new_log()?;
        let (status, direct) = (store.status()?, store.reads_directly());
        drop(store);
        let appends = if self.only == Some(Part::Reads) { Vec::new() } else { self.append_cases(&bench)? };
        let mut appends = appends;
        let mut reads =
            if self.only == Some(Part::Appends) { Vec::new() } else { reads::cases(&self.octets) };
        for round in 1..=self.rounds {
            for case in &mut appends {
                eprintln!("round {round} of {}: {case}", self.rounds);
                case.measure(&bench)?;
            }
            for case in &mut reads {
                eprintln!("round {round} of {}: {case}", self.rounds);
                case.measure(&bench)?;
            }
        }
        Ok(QueueReport {
            rounds: self.rounds,
            load_average_before,
            load_average_after: process::load_average(),
            log_octets: GEOMETRY.octets(),
            method: status.method,
            batch_octets_max: status.batch_octets_max,
            direct,
            appends: appends.iter().map(AppendCase::row).collect(),
            lonely: appends.iter().filter_map(AppendCase::lonely).collect(),
            reads: reads.iter().flat_map(reads::ReadCase::rows).collect(),
        })
    }

    /// Each size by each number of producers; and 16 producers of small messages in four processes.
    fn append_cases(&self, bench: &Bench) -> Result<Vec<AppendCase>, Box<dyn Error>> {
        let mut cases = Vec::new();
        for &octets in &self.octets {
            let size = appends::MessageSize::learn(bench, octets)?;
            for &producers in &self.producers {
                cases.push(AppendCase::new(size, producers, 1));
                if producers == 16 && octets == 4096 {
                    cases.push(AppendCase::new(size, producers, 4));
                }
            }
        }
        Ok(cases)
    }
}

/// The method that a self test would recommend on this disk, by what is in the middle of many writes: it must not depend on
/// what a neighbour does just now, or two runs could not be compared.
fn choose_method(bench: &Bench) -> Result<DiskBackend, Box<dyn Error>> {
    let mut times_us = [0.0; 2];
    for octets in CHOICE_OCTETS {
        let mut latencies_ns = [Vec::new(), Vec::new()];
        for _ in 0..CHOICE_TURNS {
            for (latencies_ns, method) in latencies_ns.iter_mut().zip([Method::IoUring, Method::Dsync]) {
                match raw::write(&bench.place.path, method, octets, CHOICE_TIME)? {
                    Some(burst) => latencies_ns.extend(burst.latencies_ns),
                    None => return Ok(DiskBackend::Dsync),
                }
            }
        }
        for (time_us, latencies_ns) in times_us.iter_mut().zip(latencies_ns) {
            *time_us += Quantiles::of(latencies_ns).p50_us;
        }
    }
    let [ring_us, dsync_us] = times_us;
    Ok(if ring_us <= RING_SHARE_MAX * dsync_us { DiskBackend::IoUring } else { DiskBackend::Dsync })
}

impl QueueReport {
    pub(super) fn print(&self) {
        println!(
            "queue: median (least-most) of {} rounds; load average {:.2} before, {:.2} after; store by {}, batches up to {} KiB",
            self.rounds,
            self.load_average_before,
            self.load_average_after,
            self.method,
            self.batch_octets_max >> 10
        );
        appends::print(&self.appends);
        appends::print_lonely(&self.lonely);
        reads::print(&self.reads);
    }
}

/// Octets as a column shows them.
fn kib(octets: f64) -> String {
    format!("{:.0} KiB", octets / 1024.0)
}

/// The middle one of a value of each sample.
fn series<T>(samples: &[T], value: impl Fn(&T) -> f64) -> Series {
    Series::of(samples.iter().map(value))
}
