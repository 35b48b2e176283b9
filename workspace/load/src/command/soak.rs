//! `sternpost-load soak`: the real switch at full load for as long as it is told, while one message in a hundred waits for a
//! peer that puts it off.
//!
//! What must hold for the whole time: no message is refused, the log keeps its size, there is no quarter of a second without an
//! answer to anybody and nobody waits a second for one, memory grows by what waits alone. In the end the peer takes its mail:
//! every message has come once, and the queue is empty.

use serde::Serialize;
use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use sternpost_load::process;
use sternpost_load::quantiles::nearest_rank;
use sternpost_load::sending;
use sternpost_load::sink::{RejectRule, Sink, SinkOptions};
use sternpost_load::source::{Acceptance, SourceOptions};
use sternpost_load::witness::Witness;

use super::Outcome;
use super::switch::{Hop, Queue, QueueRoom, Switch, tables};
use super::tool::{self, number};

/// One message in so many is put off.
const PUT_OFF: usize = 100;
/// Messages of one source; then its report is looked through and forgotten.
const SLICE: u64 = 50_000;
const LOOK_AGAIN: Duration = Duration::from_millis(500);
const LINE_EVERY: Duration = Duration::from_secs(60);
/// Time between two attempts at what is put off.
const RETRY_S: u64 = 300;
/// Time for the queue to become empty, once the peer takes mail.
const DRAIN_LIMIT: Duration = Duration::from_secs(RETRY_S * 2 + 300);
/// The longest that nobody may get an answer.
const STALL_MS_MAX: f64 = 250.0;
/// The longest that one message may wait for its answer.
const WAIT_MS_MAX: f64 = 1000.0;
/// Memory of all processes for a message that waits. QMGR takes 360 octets of it, the store 110 where all neighbours of a message
/// wait too; where one in a hundred does, an hour of this load has shown 1,000 in all. A quarter more is too much.
const WAITING_OCTETS_MAX: u64 = 1280;
/// What memory may be larger by although nothing more waits: buffers of sessions, and what the allocator holds.
const MEMORY_GROWTH_OCTETS_MAX: u64 = 32 << 20;

/// Runs the switch at full load while some of the mail waits, and says whether everything stayed as it must.
#[derive(Debug, clap::Args)]
pub(crate) struct SoakArguments {
    /// The switch; a release build.
    #[arg(long, default_value = "target/release/sternpost")]
    sternpost: PathBuf,
    /// Where the run lives and the report goes.
    #[arg(long, default_value = "target/soak")]
    directory: PathBuf,
    /// How long.
    #[arg(long, default_value_t = 3600)]
    seconds: u64,
    /// Concurrent sessions.
    #[arg(long, default_value_t = 32)]
    sessions: u32,
    /// Octets of a message.
    #[arg(long, default_value = "4KiB", value_parser = super::octets)]
    octets: usize,
    /// Octets of one of the 64 segments of the log. At twelve thousand messages per second, 41 % of it live after an hour.
    #[arg(long, default_value = "64MiB", value_parser = super::octets)]
    segment_octets: usize,
}

/// What was seen so far, by those who got answers.
#[derive(Debug, Default)]
struct Answers {
    /// When the last one came. Nanoseconds since the epoch; 0 while no source is at work.
    last_ns: AtomicU64,
    /// Between two answers, whoever got them, in nanoseconds.
    longest_gap_ns: AtomicU64,
    /// Waits for an answer in microseconds, of the minute.
    waits_us: Mutex<Vec<u32>>,
    /// The longest of all of them.
    longest_wait_us: AtomicU64,
}

impl Answers {
    fn came(&self, acceptance: &Acceptance) {
        let now = acceptance.accepted_ns;
        let last = self.last_ns.swap(now, Ordering::Relaxed);
        if last != 0 {
            self.longest_gap_ns.fetch_max(now.saturating_sub(last), Ordering::Relaxed);
        }
        let wait = u32::try_from(now.saturating_sub(acceptance.sent_ns) / 1000).unwrap_or(u32::MAX);
        self.longest_wait_us.fetch_max(u64::from(wait), Ordering::Relaxed);
        self.waits_us.lock().unwrap_or_else(PoisonError::into_inner).push(wait);
    }

    /// The waits since the last call, in ascending order.
    fn take_waits(&self) -> Vec<u32> {
        let mut waits = std::mem::take(&mut *self.waits_us.lock().unwrap_or_else(PoisonError::into_inner));
        waits.sort_unstable();
        waits
    }
}

/// A minute of the run.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Line {
    second: u64,
    messages_per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    longest_ms: f64,
    waiting: u64,
    living_percent: f64,
    segments_free: u64,
    pss_octets: u64,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    seconds: f64,
    load_average_before: f64,
    accepted: u64,
    messages_per_s: f64,
    refused: u64,
    /// Refusals that passed, and connections that broke.
    troubles: u64,
    /// Received by the peer that takes everything.
    received: u64,
    /// Accepted for the peer that puts everything off.
    put_off: u64,
    /// Received by that one when it took mail.
    put_off_received: u64,
    /// Received twice, by either.
    duplicated: u64,
    /// The longest time in which no session got an answer.
    longest_gap_ms: f64,
    /// The longest that one message waited for its answer.
    longest_wait_ms: f64,
    living_percent_max: f64,
    log_octets_before: u64,
    log_octets_after: u64,
    /// From the moment when the peer took mail until the queue was empty.
    drained_in_s: Option<f64>,
    minutes: Vec<Line>,
}

/// The run while it goes on.
struct Soak {
    switch: Switch,
    prompt: Sink,
    answers: Arc<Answers>,
    begin: Instant,
    line_begin: Instant,
    line_accepted: u64,
    report: Report,
}

impl SoakArguments {
    pub(crate) fn run(self) -> Outcome {
        let directory = std::path::absolute(&self.directory)?;
        let home = directory.join("switch");
        let prompt = Sink::start(SinkOptions { verify: false, ..SinkOptions::default() })?;
        let put_off = RejectRule { pattern: String::new(), code: 450 };
        let refusing = late(SinkOptions { reject_recipients: vec![put_off], ..SinkOptions::default() })?;
        let late_address = refusing.address();
        let hops = [("sink.test", prompt.address()), ("late.test", late_address)]
            .map(|(domain, address)| Hop { domain, channel: "smtp", address });
        let tables =
            format!("{}\n[qmgr]\nretry_step_s = {RETRY_S}\nretry_max_s = {RETRY_S}\n", tables(&hops));
        let room = QueueRoom { segment_octets: self.segment_octets as u64, segments_count: 64 };
        let queue = Queue { path: home.join("state/log"), room, backend: "auto" };
        let switch = Switch::start_on(&self.sternpost, &home, &queue, &tables)?;
        let log_octets_before = fs::metadata(&queue.path)?.len();
        let mut soak = Soak::new(switch, prompt, log_octets_before);
        soak.pass(&self)?;
        drop(refusing);
        let late = late(SinkOptions { listen: late_address, ..SinkOptions::default() })?;
        soak.drain(&late)?;
        soak.report.log_octets_after = fs::metadata(&queue.path)?.len();
        let Soak { report, switch, .. } = soak;
        drop(switch);
        fs::remove_file(&queue.path)?;
        report.print();
        tool::write_json(Some(&directory.join("report.json")), &report)?;
        Ok(report.is_well())
    }

    /// The next messages.
    fn source(&self, to: SocketAddr, answers: &Arc<Answers>) -> SourceOptions {
        let mut recipients = vec!["user%d@sink.test".to_owned(); PUT_OFF - 1];
        recipients.push("user%d@late.test".to_owned());
        let answers = Arc::clone(answers);
        SourceOptions {
            sessions_count: self.sessions,
            messages_count: SLICE,
            octets: vec![self.octets],
            recipients,
            on_acceptance: Some(Witness::new(move |acceptance| answers.came(acceptance))),
            ..SourceOptions::to(to)
        }
    }
}

/// The peer that some mail waits for.
fn late(options: SinkOptions) -> Result<Sink, Box<dyn Error>> {
    Ok(Sink::start(SinkOptions { verify: false, ..options })?)
}

impl Soak {
    fn new(switch: Switch, prompt: Sink, log_octets_before: u64) -> Self {
        let report =
            Report { log_octets_before, load_average_before: process::load_average(), ..Report::default() };
        let (begin, answers) = (Instant::now(), Arc::default());
        Self { switch, prompt, answers, begin, line_begin: begin, line_accepted: 0, report }
    }

    /// Sends for as long as was asked.
    fn pass(&mut self, arguments: &SoakArguments) -> Result<(), Box<dyn Error>> {
        let time = Duration::from_secs(arguments.seconds);
        println!("second  messages/s   p50 ms   p99 ms  longest   waiting  living  free  memory");
        while self.begin.elapsed() < time {
            let sending = sending::start(arguments.source(self.switch.listener(), &self.answers));
            while !sending.is_over() {
                std::thread::sleep(LOOK_AGAIN);
                self.look(sending.progress.accepted_count())?;
                if self.begin.elapsed() >= time {
                    sending.progress.stop();
                }
            }
            let slice = sending.end();
            self.answers.last_ns.store(0, Ordering::Relaxed);
            let is_late =
                |acceptance: &&Acceptance| acceptance.recipients.iter().any(|to| to.ends_with("@late.test"));
            self.report.put_off += slice.accepted.iter().filter(is_late).count() as u64;
            self.report.accepted += slice.accepted_count;
            self.report.refused += slice.refused.len() as u64;
            self.report.troubles += slice.troubles.values().sum::<u64>();
            self.take_received();
        }
        self.report.seconds = self.begin.elapsed().as_secs_f64();
        self.report.messages_per_s = number(self.report.accepted) / self.report.seconds;
        self.report.longest_gap_ms = number(self.answers.longest_gap_ns.load(Ordering::Relaxed)) / 1e6;
        self.report.longest_wait_ms = number(self.answers.longest_wait_us.load(Ordering::Relaxed)) / 1e3;
        Ok(())
    }

    fn take_received(&mut self) {
        let counts = self.prompt.take_report().counts;
        self.report.received += counts.distinct;
        self.report.duplicated += counts.duplicated;
    }

    /// Looks at the log, and once a minute at everything. `in_slice`: messages accepted since the last source began.
    fn look(&mut self, in_slice: u64) -> Result<(), Box<dyn Error>> {
        self.switch.check()?;
        let store = self.switch.status()?.store;
        let share = |part: u64, whole: u64| 100.0 * number(part) / number(whole.max(1));
        let living_percent = share(store.living_octets, store.log_octets);
        self.report.living_percent_max = self.report.living_percent_max.max(living_percent);
        if self.line_begin.elapsed() < LINE_EVERY {
            return Ok(());
        }
        let waits = self.answers.take_waits();
        let quantile_ms = |percent| nearest_rank(&waits, percent).map_or(0.0, |us| f64::from(us) / 1e3);
        let accepted = self.report.accepted + in_slice;
        let line = Line {
            second: self.begin.elapsed().as_secs(),
            messages_per_s: number(accepted - self.line_accepted) / self.line_begin.elapsed().as_secs_f64(),
            p50_ms: quantile_ms(50),
            p99_ms: quantile_ms(99),
            longest_ms: quantile_ms(100),
            waiting: store.messages.unwrap_or(0),
            living_percent,
            segments_free: store.segments_free,
            pss_octets: process::usage(self.switch.pid()).pss_octets,
        };
        println!(
            "{:>6} {:>11.0} {:>8.1} {:>8.1} {:>8.0} {:>9} {:>5.1} % {:>5} {:>4} MiB",
            line.second,
            line.messages_per_s,
            line.p50_ms,
            line.p99_ms,
            line.longest_ms,
            line.waiting,
            line.living_percent,
            line.segments_free,
            line.pss_octets >> 20
        );
        (self.line_begin, self.line_accepted) = (Instant::now(), accepted);
        self.report.minutes.push(line);
        Ok(())
    }

    /// Waits until the queue is empty, now that the late peer takes mail.
    fn drain(&mut self, late: &Sink) -> Result<(), Box<dyn Error>> {
        println!("the peer takes its mail now; what waits is tried again every {RETRY_S} s");
        let begin = Instant::now();
        while begin.elapsed() < DRAIN_LIMIT {
            self.switch.check()?;
            if self.switch.status()?.store.messages == Some(0) {
                self.report.drained_in_s = Some(begin.elapsed().as_secs_f64());
                break;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        self.take_received();
        self.report.put_off_received = late.counts().distinct;
        self.report.duplicated += late.counts().duplicated;
        Ok(())
    }
}

impl Report {
    fn print(&self) {
        println!(
            "{:.0} s: {} messages accepted ({:.0}/s), {} refused, {} troubles; living {:.1} % at most; the log had {} octets and \
             has {}\n\
             longest time without an answer to anybody {:.1} ms, longest wait of one message {:.1} ms; memory grew by {}\n\
             received {} of {}, and {} of {} that were put off, {} twice; {}",
            self.seconds,
            self.accepted,
            self.messages_per_s,
            self.refused,
            self.troubles,
            self.living_percent_max,
            self.log_octets_before,
            self.log_octets_after,
            self.longest_gap_ms,
            self.longest_wait_ms,
            if self.memory_is_bounded() { "what waits" } else { "MORE than what waits" },
            self.received,
            self.accepted - self.put_off,
            self.put_off_received,
            self.put_off,
            self.duplicated,
            self.drained_in_s.map_or_else(
                || "the queue is NOT empty".to_owned(),
                |seconds| format!("the queue was empty {seconds:.0} s after the peer had begun to take mail")
            ),
        );
    }

    fn is_well(&self) -> bool {
        self.refused == 0
            && self.duplicated == 0
            && self.received + self.put_off_received == self.accepted
            && self.longest_gap_ms <= STALL_MS_MAX
            && self.longest_wait_ms <= WAIT_MS_MAX
            && self.memory_is_bounded()
            && self.log_octets_before == self.log_octets_after
            && self.drained_in_s.is_some()
    }

    /// Whether the last minute has no more memory than the first and what waits since. A run of less than two minutes says
    /// nothing of it.
    fn memory_is_bounded(&self) -> bool {
        let (Some(first), Some(last)) = (self.minutes.first(), self.minutes.last()) else { return true };
        let waits_octets = last.waiting.saturating_sub(first.waiting) * WAITING_OCTETS_MAX;
        last.pss_octets <= first.pss_octets + waits_octets + MEMORY_GROWTH_OCTETS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minute(waiting: u64, pss_mib: u64) -> Line {
        Line { waiting, pss_octets: pss_mib << 20, ..Line::default() }
    }

    fn good() -> Report {
        let minutes = vec![minute(7_000, 46), minute(138_000, 168)];
        let report = Report { accepted: 9, received: 8, put_off_received: 1, minutes, ..Report::default() };
        Report { longest_gap_ms: 250.0, longest_wait_ms: 1000.0, drained_in_s: Some(1.0), ..report }
    }

    #[test]
    fn whatever_is_promised_is_judged() {
        assert!(good().is_well());
        let spoilt: [fn(&mut Report); 8] = [
            |report| report.refused = 1,
            |report| report.duplicated = 1,
            |report| report.received -= 1,
            |report| report.longest_gap_ms = 250.1,
            |report| report.longest_wait_ms = 1000.1,
            |report| report.minutes.push(minute(138_000, 400)),
            |report| report.log_octets_after += 1,
            |report| report.drained_in_s = None,
        ];
        for (row, spoil) in spoilt.iter().enumerate() {
            let mut report = good();
            spoil(&mut report);
            assert!(!report.is_well(), "row {row}");
        }
    }

    #[test]
    fn memory_may_grow_by_what_waits_and_by_nothing_else() {
        let of =
            |minutes: &[Line]| Report { minutes: minutes.to_vec(), ..Report::default() }.memory_is_bounded();
        assert!(of(&[]) && of(&[minute(0, 500)]));
        assert!(of(&[minute(0, 40), minute(1 << 20, 40 + 1280 + 32)]));
        assert!(!of(&[minute(0, 40), minute(1 << 20, 40 + 1280 + 33)]));
        // Less waits than before: only the slack is left.
        assert!(!of(&[minute(1 << 20, 40), minute(0, 40 + 33)]));
    }
}
