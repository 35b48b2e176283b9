//! `sternpost-load bench-space`: what it costs to keep survivors, and what a flash waits for meanwhile.
//!
//! *Write amplification*: on a log of 64 segments a share of the messages stays, the others die as soon as they are durable.
//! One in a hundred stays, and for each one that stays another one of those that stayed before dies, chosen at random: the
//! worst case for a log that is reclaimed in order. Counted are the octets that the log writes for each octet that came.
//!
//! *Flash*: while messages of 100 MiB stream in and survivors move, a message of the highest lane comes every few
//! milliseconds. What it waits is compared with what the largest batch of the same run took.

use serde::Serialize;
use std::collections::VecDeque;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use sternpost_load::process;
use sternpost_message::{
    Diagnostic, EnhancedStatus, MessageId, MessageSequence, Outcome as Word, RecipientRange, UnixMillis,
};
use sternpost_platform::disk::{DiskBackend, LogDisk, open_log_disk};
use sternpost_platform::process::random;
use sternpost_queue::{Append, AppendSet, Disk, Geometry, Lane, Log, LogEvent, Parameters};

use super::recovery::{envelope, wait};
use super::tool::{self, number};
use super::Outcome;

/// 256 MiB in 64 segments: the proportions of a log of 4 GiB, filled in seconds.
const GEOMETRY: Geometry = Geometry { segment_octets: 4 << 20, segments: 64 };
const CONTENT_OCTETS: usize = 4_096;
/// What the envelope of a message takes beside its content, as far as it counts as living.
const RECORDS_OCTETS: u64 = CONTENT_OCTETS as u64 + 432;
/// Messages under way at a time.
const PRODUCERS: u64 = 64;
const SHARES_PERCENT: [u64; 8] = [0, 10, 20, 30, 40, 50, 60, 66];
/// One message in so many stays.
const STAYS: u64 = 100;
/// Rounds of the log before the counting, and counted.
const ROUNDS: u64 = 3;

/// Measures write amplification by the share of the living, and what a flash waits.
#[derive(Debug, clap::Args)]
pub(crate) struct SpaceArguments {
    /// Where the run lives and the report goes: on the disk to be measured, with 1 GiB free.
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

#[derive(Clone, Copy, Debug, Serialize)]
struct FlashRow {
    flashes: u64,
    p50_ms: f64,
    p99_ms: f64,
    longest_ms: f64,
    /// The same on an idle log.
    idle_p50_ms: f64,
    /// The longest that one write took in the run.
    longest_batch_ms: f64,
    batch_p50_ms: f64,
    streamed_mib_per_s: f64,
    moved_records: u64,
}

impl SpaceArguments {
    pub(crate) fn run(self) -> Outcome {
        fs::create_dir_all(&self.directory)?;
        let path = self.directory.join("space.log");
        let load_average_before = process::load_average();
        let mut amplification = Vec::new();
        for share_percent in SHARES_PERCENT {
            let row = Churn::start(self.fresh(&path)?)?.run(share_percent)?;
            println!(
                "living {:>4.1} %  written/came {:>5.2}  {:>8.0} messages/s  longest {:>6.1} ms  refused {}",
                row.living_percent, row.amplification, row.messages_per_s, row.longest_ms, row.refused
            );
            amplification.push(row);
        }
        let flash = flash(self.fresh(&path)?, Duration::from_secs(self.seconds))?;
        println!(
            "flash among streams of 100 MiB: p50 {:.2} ms, p99 {:.2} ms, longest {:.2} ms ({} flashes; idle p50 {:.2} ms)\n\
             batches: p50 {:.2} ms, longest {:.2} ms; {:.0} MiB/s streamed, {} records moved",
            flash.p50_ms,
            flash.p99_ms,
            flash.longest_ms,
            flash.flashes,
            flash.idle_p50_ms,
            flash.batch_p50_ms,
            flash.longest_batch_ms,
            flash.streamed_mib_per_s,
            flash.moved_records
        );
        fs::remove_file(&path)?;
        fs::write(self.directory.join("amplification.svg"), plot(&amplification))?;
        let is_well = amplification.iter().all(|row| row.refused == 0);
        let report = Report { load_average_before, amplification, flash };
        tool::write_json(Some(&self.directory.join("report.json")), &report)?;
        Ok(is_well)
    }

    fn fresh(&self, path: &Path) -> Result<Log<LogDisk>, Box<dyn Error>> {
        let backend = if self.io_uring { DiskBackend::IoUring } else { DiskBackend::Dsync };
        let is_new = !path.exists();
        let mut disk = open_log_disk(path, backend, GEOMETRY.octets())?;
        if is_new {
            disk.zero(&mut |_, _| true)?;
        }
        let disk = Log::create(disk, GEOMETRY, random())?;
        Ok(Log::open(disk, Parameters::default(), UnixMillis(1))?.0)
    }
}

/// A log with a clock.
struct Running {
    log: Log<LogDisk>,
    began: Instant,
}

impl Running {
    fn now(&self) -> UnixMillis {
        UnixMillis(1 + u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX - 1))
    }

    /// Lets the log go on until it has something to say or nothing is under way.
    fn turn(&mut self) -> Result<Vec<LogEvent>, Box<dyn Error>> {
        self.log.drive(self.now());
        if self.log.is_writing() {
            wait(self.log.disk())?;
            self.log.drive(self.now());
        }
        Ok(std::iter::from_fn(|| self.log.poll()).collect())
    }
}

/// Messages that come and go.
struct Churn {
    running: Running,
    content: Vec<u8>,
    appended: u64,
    /// When each message under way was appended.
    under_way: std::collections::HashMap<u64, Instant>,
    stayed: Vec<MessageSequence>,
    accepted: u64,
    longest: Duration,
    refused: u64,
}

impl Churn {
    fn start(log: Log<LogDisk>) -> Result<Self, Box<dyn Error>> {
        Ok(Self {
            running: Running { log, began: Instant::now() },
            content: vec![b'x'; CONTENT_OCTETS],
            appended: 0,
            under_way: std::collections::HashMap::new(),
            stayed: Vec::new(),
            accepted: 0,
            longest: Duration::ZERO,
            refused: 0,
        })
    }

    fn run(mut self, share_percent: u64) -> Result<AmplificationRow, Box<dyn Error>> {
        let stay_max = GEOMETRY.octets() * share_percent / 100 / RECORDS_OCTETS;
        // All stay until there are as many as wanted; then they are replaced, for some rounds of the log before it counts.
        while (self.stayed.len() as u64) < stay_max {
            self.turn(stay_max, true)?;
        }
        let messages = ROUNDS * GEOMETRY.octets() / RECORDS_OCTETS;
        self.pass(messages, stay_max)?;
        let (before, began) = (self.running.log.status(), Instant::now());
        (self.longest, self.refused) = (Duration::ZERO, 0);
        let accepted = self.accepted;
        self.pass(messages, stay_max)?;
        let after = self.running.log.status();
        let came = number((self.accepted - accepted) * RECORDS_OCTETS);
        Ok(AmplificationRow {
            living_percent: 100.0 * number(after.living_octets) / number(GEOMETRY.octets()),
            amplification: number(after.written_octets - before.written_octets) / came,
            messages_per_s: number(self.accepted - accepted) / began.elapsed().as_secs_f64(),
            longest_ms: self.longest.as_secs_f64() * 1e3,
            refused: self.refused,
        })
    }

    fn pass(&mut self, messages: u64, stay_max: u64) -> Result<(), Box<dyn Error>> {
        let until = self.accepted + messages;
        while self.accepted < until {
            self.turn(stay_max, false)?;
        }
        Ok(())
    }

    fn turn(&mut self, stay_max: u64, all_stay: bool) -> Result<(), Box<dyn Error>> {
        while (self.under_way.len() as u64) < PRODUCERS {
            self.append()?;
        }
        for event in self.running.turn()? {
            match event {
                LogEvent::Committed { ticket } => {
                    if let Some(since) = self.under_way.remove(&ticket) {
                        self.longest = self.longest.max(since.elapsed());
                    }
                }
                LogEvent::Refused { ticket, .. } => {
                    self.under_way.remove(&ticket);
                    self.refused += 1;
                }
                LogEvent::Accepted { sequence, .. } => self.settle(sequence, stay_max, all_stay)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn append(&mut self) -> Result<(), Box<dyn Error>> {
        self.appended += 1;
        let message = MessageId(random());
        let chunk = Append::Content { message, index: 0, octets: (&self.content[..]).into() };
        let commit = Append::Envelope {
            message,
            envelope: envelope("sink", UnixMillis(1)),
            content_octets: CONTENT_OCTETS as u64,
            content_sha256: [0; 32],
        };
        let now = self.running.now();
        let set = AppendSet { records: vec![chunk, commit] };
        match self.running.log.append(now, Lane::NonUrgent, set, self.appended) {
            Ok(()) => drop(self.under_way.insert(self.appended, Instant::now())),
            Err(_) => self.refused += 1,
        }
        Ok(())
    }

    /// Lets an accepted message stay, in the place of another one, or die.
    fn settle(
        &mut self,
        sequence: MessageSequence,
        stay_max: u64,
        all_stay: bool,
    ) -> Result<(), Box<dyn Error>> {
        self.accepted += 1;
        if !(all_stay || self.accepted.is_multiple_of(STAYS)) || stay_max == 0 {
            return self.end(sequence);
        }
        if (self.stayed.len() as u64) < stay_max {
            self.stayed.push(sequence);
            return Ok(());
        }
        let at = usize::try_from(u64::from_le_bytes(random()) % stay_max)?;
        let other = std::mem::replace(&mut self.stayed[at], sequence);
        self.end(other)
    }

    fn end(&mut self, message: MessageSequence) -> Result<(), Box<dyn Error>> {
        let diagnostic = Diagnostic::own(EnhancedStatus::new(2, 0, 0), "Ok");
        let outcomes = vec![(RecipientRange { first: 0, count: 1 }, Word::Transferred(diagnostic))];
        let set = AppendSet { records: vec![Append::Outcome { message, outcomes }] };
        Ok(self.running.log.append(self.running.now(), Lane::Outcome, set, 0)?)
    }
}

/// Streams of 100 MiB and flashes between them, on a log of which half lives.
fn flash(log: Log<LogDisk>, time: Duration) -> Result<FlashRow, Box<dyn Error>> {
    const EVERY: Duration = Duration::from_millis(7);
    const STREAM_OCTETS: u64 = 40 << 20;
    const CHUNK_OCTETS: usize = 61_440;
    let mut churn = Churn::start(log)?;
    let stay_max = GEOMETRY.octets() * 35 / 100 / RECORDS_OCTETS;
    while (churn.stayed.len() as u64) < stay_max {
        churn.turn(stay_max, true)?;
    }
    let mut idle = Vec::new();
    while !churn.under_way.is_empty() {
        churn.running.turn()?.into_iter().for_each(|event| {
            if let LogEvent::Committed { ticket } = event {
                churn.under_way.remove(&ticket);
            }
        });
    }
    let mut running = churn.running;
    for ticket in 0..200 {
        let begin = Instant::now();
        append_flash(&mut running, ticket)?;
        while !running.turn()?.iter().any(|event| matches!(event, LogEvent::Committed { .. })) {}
        idle.push(begin.elapsed());
    }
    let chunk = vec![b'y'; CHUNK_OCTETS];
    let mut streams: VecDeque<(MessageId, u32, u64)> =
        (0..3).map(|_| (MessageId(random()), 0, 0)).collect();
    let before = running.log.status();
    let (mut flashes, mut batches) = (Vec::new(), Vec::new());
    let mut waiting: Option<(u64, Instant)> = None;
    let (began, mut next_flash, mut ticket) = (Instant::now(), Instant::now(), 1_u64 << 32);
    let mut open_chunks = 0_u32;
    while began.elapsed() < time {
        while open_chunks < 48 {
            let Some((message, index, octets)) = streams.pop_front() else { break };
            let is_over = octets >= STREAM_OCTETS;
            let record = if is_over {
                Append::DiscardPartial { message }
            } else {
                Append::Content { message, index, octets: (&chunk[..]).into() }
            };
            let lane = Lane::NonUrgent;
            let taken = running.log.append(running.now(), lane, AppendSet { records: vec![record] }, 1);
            let next = match (taken.is_ok(), is_over) {
                (true, false) => (message, index + 1, octets + CHUNK_OCTETS as u64),
                (true, true) => (MessageId(random()), 0, 0),
                (false, _) => (message, index, octets),
            };
            streams.push_back(next);
            if taken.is_err() {
                break;
            }
            open_chunks += 1;
        }
        if waiting.is_none() && Instant::now() >= next_flash {
            ticket += 1;
            waiting = Some((ticket, Instant::now()));
            append_flash(&mut running, ticket)?;
            next_flash = Instant::now() + EVERY;
        }
        let batch_began = Instant::now();
        for event in running.turn()? {
            match event {
                LogEvent::Committed { ticket: 1 } | LogEvent::Refused { ticket: 1, .. } => open_chunks -= 1,
                LogEvent::Committed { ticket } => {
                    if let Some((_, since)) = waiting.take_if(|(wanted, _)| *wanted == ticket) {
                        flashes.push(since.elapsed());
                    }
                }
                _ => {}
            }
        }
        batches.push(batch_began.elapsed());
    }
    let after = running.log.status();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let at = |times: &mut Vec<Duration>, percent: usize| {
        times.sort_unstable();
        times.get(times.len() * percent / 100).or(times.last()).copied().map_or(0.0, ms)
    };
    Ok(FlashRow {
        flashes: flashes.len() as u64,
        p50_ms: at(&mut flashes, 50),
        p99_ms: at(&mut flashes, 99),
        longest_ms: at(&mut flashes, 100),
        idle_p50_ms: at(&mut idle, 50),
        longest_batch_ms: at(&mut batches, 100),
        batch_p50_ms: at(&mut batches, 50),
        streamed_mib_per_s: number((after.written_octets - before.written_octets) >> 20)
            / began.elapsed().as_secs_f64(),
        moved_records: after.moved_records - before.moved_records,
    })
}

fn append_flash(running: &mut Running, ticket: u64) -> Result<(), Box<dyn Error>> {
    let message = MessageId(random());
    let content = vec![b'f'; CONTENT_OCTETS];
    let chunk = Append::Content { message, index: 0, octets: content.into() };
    let commit = Append::Envelope {
        message,
        envelope: envelope("flash", UnixMillis(1)),
        content_octets: CONTENT_OCTETS as u64,
        content_sha256: [0; 32],
    };
    let set = AppendSet { records: vec![chunk, commit] };
    Ok(running.log.append(running.now(), Lane::Urgent, set, ticket)?)
}

/// The curve: share of the living to the right, octets written for each that came upwards.
fn plot(rows: &[AmplificationRow]) -> String {
    const WIDTH: f64 = 560.0;
    const HEIGHT: f64 = 320.0;
    const LEFT: f64 = 50.0;
    const TOP: f64 = 30.0;
    let highest = rows.iter().map(|row| row.amplification).fold(2.0, f64::max).ceil();
    let place = |row: &AmplificationRow| {
        (LEFT + row.living_percent / 70.0 * WIDTH, TOP + HEIGHT - row.amplification / highest * HEIGHT)
    };
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{:.0}\" height=\"{:.0}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"18\">octets written for each octet that came, by the share of the log that lives</text>\n",
        WIDTH + LEFT + 30.0,
        HEIGHT + TOP + 40.0
    );
    // Writing to a String cannot fail.
    for percent in [0, 10, 20, 30, 40, 50, 60, 70] {
        let x = LEFT + f64::from(percent) / 70.0 * WIDTH;
        let _ = write!(
            text,
            "<path d=\"M{x:.1} {TOP}V{:.1}\" stroke=\"#ddd\"/><text x=\"{:.1}\" y=\"{:.1}\">{percent} %</text>\n",
            TOP + HEIGHT,
            x - 10.0,
            TOP + HEIGHT + 18.0
        );
    }
    let mut level = 0.0;
    while level <= highest {
        let y = TOP + HEIGHT - level / highest * HEIGHT;
        let _ = write!(
            text,
            "<path d=\"M{LEFT} {y:.1}H{:.1}\" stroke=\"#ddd\"/><text x=\"20\" y=\"{:.1}\">{level:.0}</text>\n",
            LEFT + WIDTH,
            y + 4.0
        );
        level += 1.0;
    }
    let points: Vec<String> = rows.iter().map(place).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = write!(
        text,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"#06c\" stroke-width=\"2\"/>\n",
        points.join(" ")
    );
    for row in rows {
        let (x, y) = place(row);
        let _ = write!(
            text,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"#06c\"/><text x=\"{:.1}\" y=\"{:.1}\">{:.2}</text>\n",
            x - 10.0,
            y - 8.0,
            row.amplification
        );
    }
    text.push_str("</svg>\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plot_has_a_point_for_each_row() {
        let row = |living_percent, amplification| AmplificationRow {
            living_percent,
            amplification,
            messages_per_s: 1.0,
            longest_ms: 1.0,
            refused: 0,
        };
        let plot = plot(&[row(0.0, 1.0), row(50.0, 2.5)]);
        assert_eq!(plot.matches("<circle").count(), 2);
        assert!(plot.contains(">2.50</text>") && plot.ends_with("</svg>\n"));
    }
}
