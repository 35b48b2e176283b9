//! `sternpost-load bench-recovery`: how long a switch with a full queue takes from its start until it schedules, and what
//! memory that needs.
//!
//! A log is filled with living messages of real content, written past the page cache. Then the real switch is started on
//! it, with a peer that refuses every connection. The instants come from the switch's own events.

use rustix::event::{PollFd, PollFlags, poll};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};
use sternpost_load::{content::Composer, process};
use sternpost_message::{Envelope, Mailbox, MessageId, ReversePath, UnixMillis, sample};
use sternpost_platform::disk::{DiskBackend, LogDisk, open_log_disk};
use sternpost_platform::process::random;
use sternpost_queue::{Append, AppendSet, Geometry, Lane, Log, LogEvent, Parameters, SEGMENT_OCTETS_MAX};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Outcome;
use super::switch::{Hop, QueueRoom, Switch, empty, tables};
use super::tool::{self, number};

/// Time that the switch has to build its tree.
const TREE_LIMIT: Duration = Duration::from_secs(120);
/// The most that the recovery of a million messages may take, and QMGR's memory.
const SECONDS_MAX: f64 = 10.0;
const QMGR_OCTETS_MAX: u64 = 400 << 20;
/// Appends that wait for the same sync while the log is filled.
const WAITING: u64 = 256;

/// Starts the switch on a queue of many living messages and measures until it schedules them.
#[derive(Debug, clap::Args)]
pub(crate) struct RecoveryArguments {
    /// The switch; a release build.
    #[arg(long, default_value = "target/release/sternpost")]
    sternpost: PathBuf,
    /// Where the run lives and the report goes.
    #[arg(long, default_value = "target/bench-recovery")]
    directory: PathBuf,
    /// Living messages.
    #[arg(long, default_value_t = 1_000_000)]
    messages: u64,
    /// Octets of each.
    #[arg(long, default_value = "4KiB", value_parser = super::octets)]
    octets: usize,
}

#[derive(Debug, Serialize)]
struct Report {
    messages: u64,
    octets: usize,
    log_octets: u64,
    filled_in_s: f64,
    load_average_before: f64,
    /// From the start of the switch until its log was read.
    log_read_s: f64,
    /// From the start of the switch until QMGR schedules.
    scheduling_s: f64,
    qmgr_pss_octets: u64,
    store_pss_octets: u64,
    store_memory_octets_per_message: f64,
    segments: u64,
    segments_by_index: u64,
}

impl RecoveryArguments {
    pub(crate) fn run(self) -> Outcome {
        let directory = std::path::absolute(&self.directory)?;
        let home = directory.join("switch");
        empty(&home)?;
        fs::create_dir_all(home.join("state"))?;
        let path = home.join("state/log");
        // The living may take 70 % of the log.
        let log_octets = self.messages * (self.octets as u64 + 640) * 100 / 65;
        let segments = u32::try_from(log_octets / u64::from(SEGMENT_OCTETS_MAX) + 8)?;
        let geometry = Geometry { segment_octets: SEGMENT_OCTETS_MAX, segments };
        let load_average_before = process::load_average();
        eprintln!("filling a log of {} MiB with {} messages", geometry.octets() >> 20, self.messages);
        let begin = Instant::now();
        let memory = self.fill(&path, geometry)?;
        let filled_in_s = begin.elapsed().as_secs_f64();

        // A port that nobody listens on.
        let address = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?;
        let hop = Hop { domain: "sink.test", channel: "smtp", address };
        let tables_path = home.join("tables.toml");
        fs::write(&tables_path, tables(&[hop]))?;
        let source = format!("[tables]\npath = \"{}\"\n", tables_path.display());
        let room = QueueRoom { segment_octets: u64::from(SEGMENT_OCTETS_MAX), segments_count: segments };
        eprintln!("starting the switch on it");
        let started_at = SystemTime::now();
        let switch = Switch::start_with(&self.sternpost, &home, room, &source)?;
        let log_read_s = wait_for(&home, "log.recovered", started_at)?.0;
        let scheduling_s = wait_for(&home, "tree.going", started_at)?.0;
        let (_, line) = wait_for(&home, "log.recovered", started_at)?;
        let roles = switch.status()?.roles;
        let pss = |role: &str| {
            let found = roles.iter().find(|process| process.role == role);
            found.map_or(0, |process| process::usage(process.pid).pss_octets)
        };
        let report = Report {
            messages: self.messages,
            octets: self.octets,
            log_octets: geometry.octets(),
            filled_in_s,
            load_average_before,
            log_read_s,
            scheduling_s,
            qmgr_pss_octets: pss("qmgr"),
            store_pss_octets: pss("store"),
            store_memory_octets_per_message: number(memory) / number(self.messages),
            segments: field(&line, "segments"),
            segments_by_index: field(&line, "segments_by_index"),
        };
        drop(switch);
        fs::remove_file(&path)?;
        println!(
            "{} messages of {} octets: log read after {:.1} s ({} of {} segments by index), scheduling after {:.1} s\n\
             QMGR {} MiB, store {} MiB, {:.0} octets of the store's memory for a living message",
            report.messages,
            report.octets,
            report.log_read_s,
            report.segments_by_index,
            report.segments,
            report.scheduling_s,
            report.qmgr_pss_octets >> 20,
            report.store_pss_octets >> 20,
            report.store_memory_octets_per_message
        );
        tool::write_json(Some(&directory.join("report.json")), &report)?;
        let is_well = report.scheduling_s <= SECONDS_MAX && report.qmgr_pss_octets <= QMGR_OCTETS_MAX;
        Ok(is_well || self.messages > 1_000_000)
    }

    /// Writes the messages. Gives the memory that the log keeps for them.
    fn fill(&self, path: &Path, geometry: Geometry) -> Result<u64, Box<dyn Error>> {
        let disk = open_log_disk(path, DiskBackend::Dsync, geometry.octets())?;
        let disk = Log::create(disk, geometry, random())?;
        let (mut log, _) = Log::open(disk, Parameters::default(), now()?)?;
        let composer = Composer::new("recovery", &[self.octets]);
        let (mut made, mut committed) = (0, 0);
        while committed < self.messages {
            while made < self.messages && made < committed + WAITING {
                made += 1;
                log.append(now()?, Lane::Normal, self.message(&composer, made)?, made)?;
            }
            log.drive(now()?);
            if log.is_writing() {
                wait(log.disk(), WRITE_LIMIT)?;
                log.drive(now()?);
            }
            while let Some(event) = log.poll() {
                match event {
                    LogEvent::Committed { .. } => committed += 1,
                    LogEvent::Refused { error, .. } => return Err(error.into()),
                    _ => {}
                }
            }
        }
        // What is still to be written is the index of the last sealed segment.
        while log.is_writing() {
            wait(log.disk(), WRITE_LIMIT)?;
            log.drive(now()?);
        }
        Ok(log.status().living_memory_octets)
    }

    fn message(&self, composer: &Composer, number: u64) -> Result<AppendSet<'static>, Box<dyn Error>> {
        let id = composer.id(number);
        let composed = composer.compose(&id, self.octets, "sender@source.test", "recipient@sink.test", 0);
        let content_sha256 = Sha256::digest(&composed.wire).into();
        let content_octets = composed.wire.len() as u64;
        let message = MessageId(random());
        let envelope =
            Append::Envelope { message, envelope: envelope("peer0", now()?), content_octets, content_sha256 };
        let chunks = composed.wire.chunks(sternpost_queue::CHUNK_OCTETS_MAX).zip(0..);
        let mut records: Vec<Append<'static>> = chunks
            .map(|(octets, index)| Append::Content { message, index, octets: octets.to_vec().into() })
            .collect();
        records.push(envelope);
        Ok(AppendSet { records })
    }
}

fn now() -> Result<UnixMillis, Box<dyn Error>> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(UnixMillis(u64::try_from(since.as_millis())?))
}

/// Waits until the switch has told of `event`; gives the seconds since `started_at`, and the line.
fn wait_for(home: &Path, event: &str, started_at: SystemTime) -> Result<(f64, String), Box<dyn Error>> {
    let path = home.join("switch.log");
    let until = Instant::now() + TREE_LIMIT;
    loop {
        let text = fs::read_to_string(&path)?;
        if let Some(line) = text.lines().find(|line| line.contains(&format!("\"{event}\""))) {
            let stamp = line.split_ascii_whitespace().next().unwrap_or_default();
            let at = OffsetDateTime::parse(stamp, &Rfc3339)?;
            return Ok(((at - OffsetDateTime::from(started_at)).as_seconds_f64(), line.to_owned()));
        }
        if Instant::now() > until {
            return Err(format!("the switch did not say {event} within {TREE_LIMIT:?}").into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The number behind `name=` in a line of the switch's log.
fn field(line: &str, name: &str) -> u64 {
    let marked = line.split_ascii_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    marked.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// How long a write may take.
pub(super) const WRITE_LIMIT: Duration = Duration::from_secs(10);

/// Waits for the end of a write, so long at most.
pub(super) fn wait(disk: &LogDisk, limit: Duration) -> Result<(), Box<dyn Error>> {
    let readiness = disk.readiness();
    let timeout = rustix::time::Timespec::try_from(limit)?;
    poll(&mut [PollFd::new(&readiness, PollFlags::IN)], Some(&timeout))?;
    Ok(())
}

/// One recipient behind one peer.
pub(super) fn envelope(peer: &str, accepted_at: UnixMillis) -> Envelope {
    let sender = Mailbox::parse("sender@source.test").expect("the addresses of this bench are addresses");
    Envelope {
        sender: ReversePath::Mailbox(sender),
        accepted_at,
        source: "bench".to_owned(),
        client: "127.0.0.1:25".to_owned(),
        ..sample::envelope(&["recipient@sink.test"], ("smtp", peer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_read_from_a_line_of_the_log() {
        let line =
            "2026-01-01T00:00:00Z  INFO store: x event=\"log.recovered\" segments=12 segments_by_index=11";
        assert_eq!((field(line, "segments"), field(line, "segments_by_index")), (12, 11));
        assert_eq!(field(line, "batches"), 0);
    }
}
