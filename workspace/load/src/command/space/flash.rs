//! Streams of 100 MiB and flashes between them, on a log of which a third lives.

use serde::Serialize;
use std::collections::VecDeque;
use std::error::Error;
use std::time::{Duration, Instant};
use sternpost_load::quantiles::nearest_rank;
use sternpost_message::{MessageId, UnixMillis, chain};
use sternpost_platform::disk::LogDisk;
use sternpost_platform::process::random;
use sternpost_queue::{Append, AppendSet, Lane, Log, LogEvent};

use super::super::recovery::{WRITE_LIMIT, envelope, wait};
use super::super::tool::number;
use super::churn::{Churn, Running};
use super::{CONTENT_OCTETS, RECORDS_OCTETS};

/// Between two flashes.
const EVERY: Duration = Duration::from_millis(7);
const STREAM_OCTETS: u64 = 100 << 20;
const CHUNK_OCTETS: usize = 61_440;
/// Three sessions with sixteen unanswered chunks each.
const STREAMS: usize = 3;
const CHUNKS_OPEN_MAX: u32 = 48;
/// Share of the log that lives, in percent.
const LIVING_PERCENT: u64 = 35;
const IDLE_FLASHES: u64 = 200;
/// The ticket of all chunks, and of what ends a stream; those of flashes are above.
const CHUNK: u64 = 1;

/// What flashes have waited.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct FlashRow {
    /// Those that became durable.
    pub(super) flashes: u64,
    /// Those that did not.
    pub(super) refused: u64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) longest_ms: f64,
    /// The same on an idle log.
    pub(super) idle_p50_ms: f64,
    /// How long the batches took, from end to end, that were under way when a flash came: long ones are met more often.
    pub(super) met_batch_p50_ms: f64,
    pub(super) met_batch_longest_ms: f64,
    /// What a flash waited behind the end of the batch that it met: its own batch, and whatever went before it.
    pub(super) behind_p50_ms: f64,
    pub(super) behind_p99_ms: f64,
    pub(super) behind_longest_ms: f64,
    /// Messages of 100 MiB that came as a whole.
    pub(super) streams: u64,
    /// What they brought, and those that did not end.
    pub(super) streamed_mib_per_s: f64,
    pub(super) moved_records: u64,
}

/// One message on its way in: its id, its next chunk, its octets so far.
struct Stream {
    message: MessageId,
    index: u32,
    octets: u64,
}

impl Stream {
    fn new() -> Self {
        Self { message: MessageId(random()), index: 0, octets: 0 }
    }
}

/// A flash on its way to the disk.
struct Flash {
    ticket: u64,
    came: Instant,
    /// When the batch that it met came to its end; none while that is being written.
    met_ended: Option<Instant>,
}

/// The log with what is under way.
struct Mixture {
    running: Running,
    streams: VecDeque<Stream>,
    chunk: Vec<u8>,
    chunks_open: u32,
    next_flash: Instant,
    /// The flash under way.
    flash: Option<Flash>,
    ticket_last: u64,
    flashes: Vec<Duration>,
    flashes_refused: u64,
    met_batches: Vec<Duration>,
    behind: Vec<Duration>,
    /// How many batches had ended when one was seen to end last, and when that was.
    batch_ended: (u64, Instant),
    streams_ended: u64,
    chunks_came: u64,
}

/// Measures for so long.
pub(super) fn measure(log: Log<LogDisk>, time: Duration) -> Result<FlashRow, Box<dyn Error>> {
    let stay_max = log.status().geometry.octets() * LIVING_PERCENT / 100 / RECORDS_OCTETS;
    let mut churn = Churn::start(log);
    while (churn.stayed.len() as u64) < stay_max {
        churn.turn(stay_max, true)?;
    }
    churn.settle_all()?;
    let mut mixture = Mixture {
        running: churn.running,
        streams: (0..STREAMS).map(|_| Stream::new()).collect(),
        chunk: vec![b'y'; CHUNK_OCTETS],
        chunks_open: 0,
        next_flash: Instant::now(),
        flash: None,
        ticket_last: CHUNK,
        flashes: Vec::new(),
        flashes_refused: 0,
        met_batches: Vec::new(),
        behind: Vec::new(),
        batch_ended: (0, Instant::now()),
        streams_ended: 0,
        chunks_came: 0,
    };
    let mut idle = mixture.idle()?;
    let (before, began) = (mixture.running.log.status(), Instant::now());
    while began.elapsed() < time {
        mixture.turn()?;
    }
    let (after, lasted) = (mixture.running.log.status(), began.elapsed());
    let Mixture { mut flashes, mut met_batches, mut behind, .. } = mixture;
    Ok(FlashRow {
        flashes: flashes.len() as u64,
        refused: mixture.flashes_refused,
        p50_ms: quantile_ms(&mut flashes, 50),
        p99_ms: quantile_ms(&mut flashes, 99),
        longest_ms: quantile_ms(&mut flashes, 100),
        idle_p50_ms: quantile_ms(&mut idle, 50),
        met_batch_p50_ms: quantile_ms(&mut met_batches, 50),
        met_batch_longest_ms: quantile_ms(&mut met_batches, 100),
        behind_p50_ms: quantile_ms(&mut behind, 50),
        behind_p99_ms: quantile_ms(&mut behind, 99),
        behind_longest_ms: quantile_ms(&mut behind, 100),
        streams: mixture.streams_ended,
        streamed_mib_per_s: number((mixture.chunks_came * CHUNK_OCTETS as u64) >> 20) / lasted.as_secs_f64(),
        moved_records: after.moved_records - before.moved_records,
    })
}

fn quantile_ms(times: &mut [Duration], percent: usize) -> f64 {
    times.sort_unstable();
    nearest_rank(times, percent).map_or(0.0, |time| time.as_secs_f64() * 1e3)
}

impl Mixture {
    /// What flashes wait when nothing else is there.
    fn idle(&mut self) -> Result<Vec<Duration>, Box<dyn Error>> {
        let mut times = Vec::new();
        for _ in 0..IDLE_FLASHES {
            let begin = Instant::now();
            let ticket = self.append_flash()?;
            while !self.is_durable(ticket)? {}
            times.push(begin.elapsed());
        }
        Ok(times)
    }

    /// Lets the log go on; whether it has this flash now.
    ///
    /// # Errors
    /// When it has refused it: nothing can be measured then.
    fn is_durable(&mut self, flash: u64) -> Result<bool, Box<dyn Error>> {
        let mut is_durable = false;
        for event in self.running.turn()? {
            match event {
                LogEvent::Committed { ticket } => is_durable |= ticket == flash,
                LogEvent::Refused { ticket, error } if ticket == flash => return Err(error.into()),
                _ => {}
            }
        }
        Ok(is_durable)
    }

    /// One chunk comes, or the write under way is waited for: as in the store, which looks for the end of a write between two
    /// datagrams.
    fn turn(&mut self) -> Result<(), Box<dyn Error>> {
        let until_flash = self.next_flash.saturating_duration_since(Instant::now());
        if self.flash.is_none() && until_flash.is_zero() {
            let ticket = self.append_flash()?;
            self.flash = Some(Flash { ticket, came: Instant::now(), met_ended: None });
            self.next_flash = Instant::now() + EVERY;
        }
        let has_come = self.chunks_open < CHUNKS_OPEN_MAX && self.append_chunk();
        let log = &self.running.log;
        if !has_come && log.is_writing() {
            wait(log.disk(), if self.flash.is_none() { until_flash } else { WRITE_LIMIT })?;
        }
        if !has_come || log.is_writing() {
            self.drive()?;
        }
        Ok(())
    }

    /// Lets the log go on.
    fn drive(&mut self) -> Result<(), Box<dyn Error>> {
        loop {
            self.running.log.drive(self.running.now());
            self.hear()?;
            self.see_batches();
            if !self.running.log.goes_on() {
                return Ok(());
            }
        }
    }

    /// Takes what the log says.
    fn hear(&mut self) -> Result<(), Box<dyn Error>> {
        while let Some(event) = self.running.log.poll() {
            match event {
                LogEvent::Committed { ticket: CHUNK } | LogEvent::Refused { ticket: CHUNK, .. } => {
                    self.chunks_open -= 1;
                }
                LogEvent::Committed { ticket } => {
                    if let Some(flash) = self.flash.take_if(|flash| flash.ticket == ticket) {
                        self.flashes.push(flash.came.elapsed());
                        self.behind.push(flash.met_ended.unwrap_or(flash.came).elapsed());
                    }
                }
                LogEvent::Refused { ticket, error } if self.is_under_way(ticket) => {
                    self.flash = None;
                    self.flashes_refused += 1;
                    eprintln!("a flash was refused: {}", chain(&error));
                }
                LogEvent::Accepted { sequence, .. } => self.running.end(sequence)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes the time of the end of a batch.
    fn see_batches(&mut self) {
        let (batches, now) = (self.running.log.batches_count(), Instant::now());
        let (ended_count, ended) = self.batch_ended;
        if batches != ended_count {
            self.batch_ended = (batches, now);
            if let Some(flash) = self.flash.as_mut().filter(|flash| flash.met_ended.is_none()) {
                flash.met_ended = Some(now);
                self.met_batches.push(now - ended);
            }
        }
    }

    fn is_under_way(&self, flash: u64) -> bool {
        self.flash.as_ref().is_some_and(|under_way| under_way.ticket == flash)
    }

    /// The next chunk of the next stream, or its envelope. False when the log has no room for it now.
    fn append_chunk(&mut self) -> bool {
        let Some(mut stream) = self.streams.pop_front() else { return false };
        let message = stream.message;
        let is_over = stream.octets >= STREAM_OCTETS;
        let record = if is_over {
            Append::Envelope {
                message,
                envelope: envelope("sink", UnixMillis(1)),
                content_octets: stream.octets,
                content_sha256: [0; 32],
            }
        } else {
            Append::Content { message, index: stream.index, octets: (&self.chunk[..]).into() }
        };
        let set = AppendSet { records: vec![record] };
        let is_taken = self.running.log.append(self.running.now(), Lane::NonUrgent, set, CHUNK).is_ok();
        if is_taken && is_over {
            stream = Stream::new();
            self.streams_ended += 1;
        } else if is_taken {
            stream.index += 1;
            stream.octets += CHUNK_OCTETS as u64;
            self.chunks_came += 1;
        }
        self.streams.push_back(stream);
        self.chunks_open += u32::from(is_taken);
        is_taken
    }

    fn append_flash(&mut self) -> Result<u64, Box<dyn Error>> {
        self.ticket_last += 1;
        let message = MessageId(random());
        let chunk = Append::Content { message, index: 0, octets: vec![b'f'; CONTENT_OCTETS].into() };
        let commit = Append::Envelope {
            message,
            envelope: envelope("flash", UnixMillis(1)),
            content_octets: CONTENT_OCTETS as u64,
            content_sha256: [0; 32],
        };
        let set = AppendSet { records: vec![chunk, commit] };
        self.running.log.append(self.running.now(), Lane::Urgent, set, self.ticket_last)?;
        Ok(self.ticket_last)
    }
}
