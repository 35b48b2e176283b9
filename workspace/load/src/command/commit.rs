//! The part of the bench that needs no mail: durable appends through the log against a raw log on the same file.
//!
//! Raw: batches of the same octets, written one after the other by the same disk, with nothing in them. The log: as many
//! producers as a batch has messages, each waiting until its message is durable, its outcome following lazily. Both in
//! turn on one zero-written file, so that the ratio says what format, checksums and bookkeeping cost.

use rustix::event::{PollFd, PollFlags, poll};
use serde::Serialize;
use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};
use sternpost_message::{
    BodyType, Diagnostic, EnhancedStatus, Envelope, Mailbox, MessageId, MessageSequence, Outcome, Precedence,
    Recipient, RecipientRange, ReversePath, Route, RouteIndex, UnixMillis,
};
use sternpost_platform::disk::{DiskBackend, LogDisk, open_log_disk};
use sternpost_platform::process::random;
use sternpost_queue::{
    AlignedBuffer, Append, AppendSet, Disk, Geometry, Lane, Log, LogEvent, Parameters, SEGMENT_OCTETS_MAX,
};

use super::tool::{Series, number};

/// Octets of a message's content.
const CONTENT_OCTETS: usize = 4_096;
/// What envelope, headers and outcome of a message add in the log, so that raw batches are not smaller than real ones.
const OVERHEAD_OCTETS: usize = 512;
/// Time of one run.
const RUN: Duration = Duration::from_millis(700);
const GEOMETRY: Geometry = Geometry { segment_octets: SEGMENT_OCTETS_MAX / 8, segments: 32 };
const PRODUCERS: [u64; 3] = [1, 16, 128];

/// Durable messages of 4 KiB a second.
#[derive(Debug, Serialize)]
pub(super) struct CommitRow {
    backend: &'static str,
    producers: u64,
    raw_per_s: Series,
    log_per_s: Series,
    log_to_raw: f64,
}

/// Measures every number of producers with both ways of writing, raw and log in turn.
pub(super) fn measure(directory: &Path, rounds: u32) -> Result<Vec<CommitRow>, Box<dyn Error>> {
    let path = directory.join("commit.log");
    let mut rows = Vec::new();
    for (name, backend) in [("dsync", DiskBackend::Dsync), ("io_uring", DiskBackend::IoUring)] {
        let mut disk = open_log_disk(&path, backend, GEOMETRY.octets())?;
        disk.zero(&mut |_, _| true)?;
        for producers in PRODUCERS {
            let (mut raws, mut logs) = (Vec::new(), Vec::new());
            for _ in 0..rounds {
                raws.push(raw(&mut disk, producers)?);
                let (rate, used) = log(disk, producers)?;
                logs.push(rate);
                disk = used;
            }
            let ratio = Series::of(raws.iter().zip(&logs).map(|(raw, log)| log / raw)).median;
            rows.push(CommitRow {
                backend: name,
                producers,
                raw_per_s: Series::of(raws),
                log_per_s: Series::of(logs),
                log_to_raw: ratio,
            });
        }
    }
    std::fs::remove_file(path)?;
    Ok(rows)
}

pub(super) fn print_table(rows: &[CommitRow]) {
    println!("{:<10} {:>9} {:<24} {:<24} {:>6}", "commits", "producers", "raw log/s", "log/s", "ratio");
    for row in rows {
        println!(
            "{:<10} {:>9} {:<24} {:<24} {:>6.2}",
            row.backend, row.producers, row.raw_per_s, row.log_per_s, row.log_to_raw
        );
    }
}

pub(super) fn wait(disk: &LogDisk) -> Result<(), Box<dyn Error>> {
    let readiness = disk.readiness();
    let timeout = rustix::time::Timespec { tv_sec: 10, tv_nsec: 0 };
    poll(&mut [PollFd::new(&readiness, PollFlags::IN)], Some(&timeout))?;
    Ok(())
}

fn raw(disk: &mut LogDisk, producers: u64) -> Result<f64, Box<dyn Error>> {
    let messages = usize::try_from(producers)?;
    let octets = (messages * (CONTENT_OCTETS + OVERHEAD_OCTETS)).next_multiple_of(4_096);
    let mut buffer = AlignedBuffer::with_capacity(octets);
    buffer.resize(octets)?;
    let room = disk.octets() / octets as u64;
    let (begin, mut count) = (Instant::now(), 0_u64);
    while begin.elapsed() < RUN {
        disk.start_write(count % room * octets as u64, buffer)?;
        buffer = loop {
            wait(disk)?;
            if let Some((back, written)) = disk.finish_write() {
                written?;
                break back;
            }
        };
        count += 1;
    }
    Ok(number(count * producers) / begin.elapsed().as_secs_f64())
}

fn log(disk: LogDisk, producers: u64) -> Result<(f64, LogDisk), Box<dyn Error>> {
    let disk = Log::create(disk, GEOMETRY, random())?;
    let (mut log, _) = Log::open(disk, Parameters::default(), UnixMillis(1))?;
    let content = vec![b'x'; CONTENT_OCTETS];
    let begin = Instant::now();
    let now = || UnixMillis(1 + u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX - 1));
    for producer in 0..producers {
        log.append(now(), Lane::NonUrgent, message(&content), producer)?;
    }
    let mut count = 0_u64;
    while begin.elapsed() < RUN {
        log.drive(now());
        while let Some(event) = log.poll() {
            match event {
                LogEvent::Committed { ticket } if ticket < producers => {
                    count += 1;
                    log.append(now(), Lane::NonUrgent, message(&content), ticket)?;
                }
                LogEvent::Accepted { sequence, .. } => {
                    log.append(now(), Lane::Outcome, outcome(sequence), producers)?;
                }
                LogEvent::Refused { error, .. } => return Err(error.into()),
                _ => {}
            }
        }
        log.drive(now());
        if log.is_writing() {
            wait(log.disk())?;
        }
    }
    let rate = number(count) / begin.elapsed().as_secs_f64();
    while log.is_writing() {
        wait(log.disk())?;
        log.drive(now());
        while log.poll().is_some() {}
    }
    Ok((rate, log.into_disk()))
}

fn message(content: &[u8]) -> AppendSet<'_> {
    let message = MessageId(random());
    let chunk = Append::Content { message, index: 0, octets: content.into() };
    let commit = Append::Envelope {
        message,
        envelope: envelope("sink", UnixMillis(1)),
        content_octets: CONTENT_OCTETS as u64,
        content_sha256: [0; 32],
    };
    AppendSet { records: vec![chunk, commit] }
}

/// One recipient behind one peer.
pub(super) fn envelope(peer: &str, accepted_at: UnixMillis) -> Envelope {
    let mailbox = |text| Mailbox::parse(text).expect("the addresses of this bench are addresses");
    Envelope {
        sender: ReversePath::Mailbox(mailbox("sender@source.test")),
        recipients: vec![Recipient {
            address: mailbox("recipient@sink.test"),
            route: RouteIndex(0),
            notify: None,
            original_recipient: None,
        }],
        routes: vec![Route { channel: "smtp".to_owned(), peer: peer.to_owned() }],
        accepted_at,
        precedence: Precedence::Routine,
        mt_priority: None,
        body: BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envelope_id: None,
        source: "bench".to_owned(),
        client: "127.0.0.1:25".to_owned(),
    }
}

fn outcome(message: MessageSequence) -> AppendSet<'static> {
    let diagnostic = Diagnostic::own(EnhancedStatus::new(2, 0, 0), "Ok");
    let outcomes = vec![(RecipientRange { first: 0, count: 1 }, Outcome::Transferred(diagnostic))];
    AppendSet { records: vec![Append::Outcome { message, outcomes }] }
}
