//! `sternpost-load bench-scheduler`: what QMGR's mind costs alone, from ten thousand Mlists to a million over ten thousand
//! peers.
//!
//! The scheduler is driven in this process, as QMGR drives it: it is told what is durable, and does not know that nothing is sent.
//! While so many Mlists wait as before, messages come and go: each is queued, assigned to one of some processes, finished and
//! settled, and one in a hundred fails for now and waits for itself. Then all peers are down and back at once, which is
//! when one event causes the most. Each event is timed by itself; the clock that is passed in is a count and no clock.

use super::Outcome;
use super::tool::{self, number};
use serde::Serialize;
use std::fs;
use std::hash::{DefaultHasher, Hasher as _};
use std::path::PathBuf;
use std::time::Instant;
use sternpost_load::process;
use sternpost_message::{
    ErrorScope, MessageSequence, MlistId, Precedence, RecipientRange, RouteIndex, UnixMillis,
};
use sternpost_scheduler::{Action, ChannelLimits, Event, Limits, MlistSpec, ProcessId, Scheduler};

/// What the largest size has to keep.
const EVENTS_PER_SECOND_MIN: f64 = 500_000.0;
const MEMORY_OCTETS_MAX: u64 = 400 << 20;
const STATUS_MS_MAX: f64 = 10.0;
const STALL_MS_MAX: f64 = 50.0;

/// Mlists of each peer on average.
const PER_PEER: u64 = 100;
const PROCESSES: u32 = 8;
const SLOTS: u32 = 64;
const BEGIN: u64 = 1_000_000_000_000;
const LIFE_MS: u64 = 432_000_000;
const RETRY_STEP_MS: u64 = 60_000;

/// Drives the scheduler alone at rising sizes.
#[derive(Debug, clap::Args)]
pub(crate) struct SchedulerArguments {
    /// Where the report goes.
    #[arg(long, default_value = "target/bench-scheduler")]
    directory: PathBuf,
    /// Mlists that wait, in turn; the first size has to keep the limits.
    #[arg(long, value_delimiter = ',', default_value = "1000000,100000,10000")]
    mlists: Vec<u64>,
    /// Messages that come and go at each size.
    #[arg(long, default_value_t = 300_000)]
    messages: u64,
}

#[derive(Debug, Serialize)]
struct Report {
    load_average_before: f64,
    sizes: Vec<Size>,
    /// Time of an event at the first size, in those of the last.
    largest_to_smallest: f64,
}

/// What was measured at one size.
#[derive(Debug, Serialize)]
struct Size {
    mlists: u64,
    peers: u64,
    /// The snapshot: each Mlist told once, before scheduling begins.
    snapshot_events_per_s: f64,
    /// Messages come and go.
    events_per_s: f64,
    event_p99_us: f64,
    event_longest_ms: f64,
    /// All peers fail, and are back at the same instant.
    down_and_back_longest_ms: f64,
    status_ms: f64,
    why_us: f64,
    /// Growth of this process by the tree; of the first size only, for the others take what it has left.
    memory_octets: Option<u64>,
}

/// A scheduler, what it has assigned, and how long its events took.
struct Bench {
    scheduler: Scheduler,
    now: u64,
    peers: Vec<String>,
    next: u64,
    in_progress: Vec<(ProcessId, MlistId)>,
    actions: Vec<Action>,
    took_ns: Vec<u32>,
}

impl Bench {
    fn new(mlists: u64, took_ns: Vec<u32>) -> Self {
        let peers: Vec<String> =
            (0..(mlists / PER_PEER).max(1)).map(|peer| format!("mta-{peer}.example.net")).collect();
        let mut bench = Self {
            scheduler: Scheduler::new(),
            now: BEGIN,
            peers,
            next: 0,
            in_progress: Vec::new(),
            actions: Vec::new(),
            took_ns,
        };
        let limits = Limits {
            qmgr_maxchans: PROCESSES,
            retry_step_ms: RETRY_STEP_MS,
            channels: vec![ChannelLimits {
                processes_max: PROCESSES,
                slots_per_process: SLOTS,
                ..ChannelLimits::new("smtp", bench.peers.iter().map(String::as_str))
            }],
            ..Limits::default()
        };
        bench.tell(Event::Configure(limits));
        bench
    }

    /// One event, timed with all that follows from it.
    fn tell(&mut self, event: Event) {
        let begin = Instant::now();
        self.scheduler.apply(UnixMillis(self.now), event, &mut self.actions);
        self.took_ns.push(u32::try_from(begin.elapsed().as_nanos()).unwrap_or(u32::MAX));
        for action in self.actions.drain(..) {
            if let Action::Assign { process, mlist, .. } = action {
                self.in_progress.push((process, mlist));
            }
        }
    }

    /// The next message: mostly routine, one in fifty above; peers in no order.
    fn queue_next(&mut self) {
        self.next += 1;
        let (next, peers_count) = (self.next, self.peers.len() as u64);
        let at = usize::try_from(mixed(next) % peers_count).unwrap_or(0);
        let precedence = match next % 50 {
            0 => Precedence::Flash,
            1 => Precedence::Immediate,
            _ => Precedence::Routine,
        };
        self.tell(Event::Queue(MlistSpec {
            id: MlistId { message: MessageSequence(next), route: RouteIndex(0) },
            channel: "smtp".into(),
            peer: self.peers[at].clone(),
            precedence,
            recipients: vec![RecipientRange { first: 0, count: 1 }],
            accepted_at: UnixMillis(self.now),
            expires_at: UnixMillis(self.now + LIFE_MS),
            delay_report_at: Some(UnixMillis(self.now + LIFE_MS / 30)),
            attempts: 0,
            not_before: UnixMillis(0),
            held_by: None,
        }));
    }

    /// One of those in progress ends.
    fn end_one(&mut self, deferred: Option<ErrorScope>) {
        if self.in_progress.is_empty() {
            return;
        }
        let at = usize::try_from(mixed(self.now + self.next) % self.in_progress.len() as u64).unwrap_or(0);
        let (process, mlist) = self.in_progress.swap_remove(at);
        let recipients = vec![RecipientRange { first: 0, count: 1 }];
        self.tell(Event::Finished { process, mlist });
        self.tell(match deferred {
            Some(scope) => Event::Deferred { mlist, recipients, scope },
            None => Event::Settled { mlist, recipients, worked: true },
        });
    }

    /// The times since the last call, in ascending order.
    fn taken(&mut self) -> Vec<u32> {
        let mut taken: Vec<u32> = self.took_ns.drain(..).collect();
        taken.sort_unstable();
        taken
    }
}

/// A number that looks like chance, the same in every run.
fn mixed(number: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write_u64(number);
    hasher.finish()
}

fn per_second(taken: &[u32]) -> f64 {
    let total: u64 = taken.iter().map(|&ns| u64::from(ns)).sum();
    number(taken.len() as u64) * 1e9 / number(total.max(1))
}

fn longest_ms(taken: &[u32]) -> f64 {
    taken.last().map_or(0.0, |&ns| f64::from(ns) / 1e6)
}

/// One size, and the growth of this process by its tree.
fn measure(mlists: u64, messages: u64) -> (Size, u64) {
    let own_octets = || process::usage(std::process::id()).pss_octets;
    // The list of times is there before the tree is.
    let mut took_ns = vec![0; usize::try_from(mlists.max(messages * 3) + 1_000).unwrap_or(0)];
    took_ns.clear();
    let before = own_octets();
    let mut bench = Bench::new(mlists, took_ns);
    for _ in 0..mlists {
        bench.queue_next();
    }
    let memory_octets = own_octets().saturating_sub(before);
    let snapshot_events_per_s = per_second(&bench.taken());

    bench.tell(Event::Go);
    for process in 1..=PROCESSES {
        let process = ProcessId(process.into());
        bench.tell(Event::ProcessAttached { process, channel: "smtp".into(), capacity: SLOTS });
    }
    bench.taken();
    for message in 0..messages {
        bench.now += message % 2;
        bench.queue_next();
        bench.end_one((message % 100 == 99).then_some(ErrorScope::Message));
    }
    let taken = bench.taken();
    let (events_per_s, event_longest_ms) = (per_second(&taken), longest_ms(&taken));
    let event_p99_us = taken.get(taken.len() * 99 / 100).map_or(0.0, |&ns| f64::from(ns) / 1e3);

    let down_and_back_longest_ms = down_and_back(&mut bench);
    let begin = Instant::now();
    let status = bench.scheduler.status();
    let status_ms = begin.elapsed().as_secs_f64() * 1e3;
    assert_eq!(status.channels[0].peers.len(), bench.peers.len(), "the status has every peer");
    let asked = 1_000_u64;
    let begin = Instant::now();
    let known = (0..asked)
        .filter(|&number| {
            let message = MessageSequence(mixed(number) % bench.next);
            bench.scheduler.why(MlistId { message, route: RouteIndex(0) }).is_some()
        })
        .count();
    let why_us = begin.elapsed().as_secs_f64() * 1e6 / number(asked);
    assert!(known > 0, "some of those that wait are asked for");
    let size = Size {
        mlists,
        peers: bench.peers.len() as u64,
        snapshot_events_per_s,
        events_per_s,
        event_p99_us,
        event_longest_ms,
        down_and_back_longest_ms,
        status_ms,
        why_us,
        memory_octets: None,
    };
    (size, memory_octets)
}

/// Everything that is tried fails by its peer until nothing more can be tried; then all of them are due at one instant,
/// and everything that is assigned goes. The longest event.
fn down_and_back(bench: &mut Bench) -> f64 {
    while !bench.in_progress.is_empty() {
        bench.end_one(Some(ErrorScope::Peer));
    }
    bench.now += RETRY_STEP_MS * 10;
    bench.tell(Event::Wake);
    for _ in 0..bench.peers.len() * 2 {
        bench.end_one(None);
    }
    longest_ms(&bench.taken())
}

impl SchedulerArguments {
    pub(crate) fn run(self) -> Outcome {
        let load_average_before = process::load_average();
        println!(
            "{:>9} {:>7} {:>12} {:>12} {:>9} {:>12} {:>14} {:>10} {:>9} {:>9}",
            "mlists",
            "peers",
            "snapshot/s",
            "events/s",
            "p99 us",
            "longest ms",
            "down+back ms",
            "status ms",
            "why us",
            "memory"
        );
        let mut sizes: Vec<Size> = Vec::new();
        for &mlists in &self.mlists {
            let (mut size, octets) = measure(mlists, self.messages);
            size.memory_octets = sizes.is_empty().then_some(octets);
            let memory = size.memory_octets.map_or("-".to_owned(), |octets| format!("{} MiB", octets >> 20));
            println!(
                "{:>9} {:>7} {:>12.0} {:>12.0} {:>9.1} {:>12.2} {:>14.2} {:>10.2} {:>9.2} {memory:>9}",
                size.mlists,
                size.peers,
                size.snapshot_events_per_s,
                size.events_per_s,
                size.event_p99_us,
                size.event_longest_ms,
                size.down_and_back_longest_ms,
                size.status_ms,
                size.why_us,
            );
            sizes.push(size);
        }
        let ratio = |largest: &Size, smallest: &Size| smallest.events_per_s / largest.events_per_s;
        let largest_to_smallest = sizes.first().zip(sizes.last()).map_or(1.0, |(a, b)| ratio(a, b));
        println!("an event at the first size takes {largest_to_smallest:.2} times what it takes at the last");
        let is_good = sizes.first().is_none_or(|size| {
            size.events_per_s >= EVENTS_PER_SECOND_MIN
                && size.memory_octets.is_none_or(|octets| octets <= MEMORY_OCTETS_MAX)
                && size.status_ms < STATUS_MS_MAX
                && size.down_and_back_longest_ms.max(size.event_longest_ms) < STALL_MS_MAX
        });
        fs::create_dir_all(&self.directory)?;
        let report = Report { load_average_before, sizes, largest_to_smallest };
        tool::write_json(Some(&self.directory.join("report.json")), &report)?;
        Ok(is_good)
    }
}
