//! `sternpost-load bench-space`: what it costs to keep survivors, and what a flash waits for meanwhile.
//!
//! *Write amplification*: on a log of 64 segments a share of the messages stays, the others die as soon as they are durable.
//! One in a hundred stays, and for each one that stays another one of those that stayed before dies, chosen at random: the
//! worst case for a log that is reclaimed in order. Counted are the octets that the log writes for each octet that came.
//!
//! *Flash*: while messages of 100 MiB stream in and survivors move, a message of the highest lane comes every few
//! milliseconds. What it waits is compared with what the largest batch of the same run took.

mod churn;
mod flash;
mod plot;

use serde::Serialize;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use sternpost_load::process;
use sternpost_message::UnixMillis;
use sternpost_platform::disk::{DiskBackend, LogDisk, open_log_disk};
use sternpost_platform::process::random;
use sternpost_queue::{Geometry, Log, Parameters};

use self::churn::Churn;
use self::flash::FlashRow;
use self::plot::plot;
use super::Outcome;
use super::tool;

/// 256 MiB in 64 segments: the proportions of a log of 4 GiB, filled in seconds.
const GEOMETRY: Geometry = Geometry { segment_octets: 4 << 20, segments: 64 };
/// For messages of 100 MiB: what is on its way in may take a fifth.
const FLASH_GEOMETRY: Geometry = Geometry { segment_octets: 32 << 20, segments: 64 };
const CONTENT_OCTETS: usize = 4_096;
/// What the envelope of a message takes beside its content, as far as it counts as living.
const RECORDS_OCTETS: u64 = CONTENT_OCTETS as u64 + 432;
const SHARES_PERCENT: [u64; 8] = [0, 10, 20, 30, 40, 50, 60, 66];

/// Measures write amplification by the share of the living, and what a flash waits.
#[derive(Debug, clap::Args)]
pub(crate) struct SpaceArguments {
    /// Where the run lives and the report goes: on the disk to be measured, with 3 GiB free.
    #[arg(long, default_value = "target/bench-space")]
    directory: PathBuf,
    /// How the log is written.
    #[arg(long, default_value_t = false)]
    io_uring: bool,
    /// Seconds of the flash's part.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
}

#[derive(Debug, Serialize)]
struct Report {
    load_average_before: f64,
    amplification: Vec<AmplificationRow>,
    flash: FlashRow,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct AmplificationRow {
    /// Share of the log that lives, in percent, when the counting ended.
    living_percent: f64,
    /// Octets written for each octet that came.
    amplification: f64,
    messages_per_s: f64,
    /// The longest that a message waited until it was durable.
    longest_ms: f64,
    refused: u64,
}

impl SpaceArguments {
    pub(crate) fn run(self) -> Outcome {
        fs::create_dir_all(&self.directory)?;
        let path = self.directory.join("space.log");
        let load_average_before = process::load_average();
        let mut amplification = Vec::new();
        for share_percent in SHARES_PERCENT {
            let row = Churn::start(self.fresh(&path, GEOMETRY)?).run(share_percent)?;
            println!(
                "living {:>4.1} %  written/came {:>5.2}  {:>8.0} messages/s  longest {:>6.1} ms  refused {}",
                row.living_percent, row.amplification, row.messages_per_s, row.longest_ms, row.refused
            );
            amplification.push(row);
        }
        let flash = flash::measure(self.fresh(&path, FLASH_GEOMETRY)?, Duration::from_secs(self.seconds))?;
        println!(
            "flash among {} streams of 100 MiB: p50 {:.2} ms, p99 {:.2} ms, longest {:.2} ms ({} flashes, {} refused; idle p50 {:.2} ms)\n\
             the batch that it met: p50 {:.2} ms, longest {:.2} ms; behind that: p50 {:.2} ms, p99 {:.2} ms, longest {:.2} ms\n\
             {:.0} MiB/s streamed, {} records moved",
            flash.streams,
            flash.p50_ms,
            flash.p99_ms,
            flash.longest_ms,
            flash.flashes,
            flash.refused,
            flash.idle_p50_ms,
            flash.met_batch_p50_ms,
            flash.met_batch_longest_ms,
            flash.behind_p50_ms,
            flash.behind_p99_ms,
            flash.behind_longest_ms,
            flash.streamed_mib_per_s,
            flash.moved_records
        );
        fs::remove_file(&path)?;
        fs::write(self.directory.join("amplification.svg"), plot(&amplification))?;
        let is_well = amplification.iter().all(|row| row.refused == 0) && flash.refused == 0;
        let report = Report { load_average_before, amplification, flash };
        tool::write_json(Some(&self.directory.join("report.json")), &report)?;
        Ok(is_well)
    }

    fn fresh(&self, path: &Path, geometry: Geometry) -> Result<Log<LogDisk>, Box<dyn Error>> {
        let backend = if self.io_uring { DiskBackend::IoUring } else { DiskBackend::Dsync };
        let is_large_enough = path.metadata().is_ok_and(|file| file.len() >= geometry.octets());
        if !is_large_enough && path.exists() {
            fs::remove_file(path)?;
        }
        let mut disk = open_log_disk(path, backend, geometry.octets())?;
        if !is_large_enough {
            disk.zero(&mut |_, _| true)?;
        }
        let disk = Log::create(disk, geometry, random())?;
        Ok(Log::open(disk, Parameters::default(), UnixMillis(1))?.0)
    }
}
