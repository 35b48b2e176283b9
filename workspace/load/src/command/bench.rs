//! `sternpost-load bench`: the switch between our source and our sink, and the two without it, in turn.
//!
//! Rate: messages by the time from the first that left to the last that arrived. CPU: all processes of the switch, from
//! before the first message until all its outcomes had time to be written. Each value is the median of the rounds.

mod handshakes;

use serde::Serialize;
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use sternpost_load::source::Tls;
use sternpost_load::{matching, process, sink, source, stream};

use handshakes::{Handshakes, HandshakesReport};

use super::queue_bench::{QueueArguments, QueueReport};
use super::switch::{Hop, QueueRoom, Switch};
use super::tool::{self, Series, SinkProcess, number};
use super::{Outcome, tool::run_source};

/// Time for outcomes that wait for a shared sync: their cost belongs to the run.
const SETTLE: Duration = Duration::from_millis(500);

/// Room of the measured queue: 512 MiB, more than any run brings.
pub(super) const QUEUE_ROOM: QueueRoom = QueueRoom { segment_octets: 8 << 20, segments_count: 64 };

/// Measures the switch and writes target/bench/report.json.
#[derive(Debug, clap::Args)]
pub(crate) struct BenchArguments {
    /// The switch; a release build.
    #[arg(long, default_value = "target/release/sternpost")]
    sternpost: PathBuf,
    /// Where the run lives and the report goes.
    #[arg(long, default_value = "target/bench")]
    directory: PathBuf,
    /// Rounds; every value is the median of them.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Messages of 4 KiB in one run of 10 sessions; the others are in proportion.
    #[arg(long, default_value_t = 10_000)]
    messages: u64,
    /// Seconds that one run may take.
    #[arg(long, default_value_t = 120)]
    limit: u64,
}

struct Case {
    name: &'static str,
    sessions_count: u32,
    octets: usize,
    /// Of the messages of the largest case.
    share_per_cent: u64,
    /// New messages in a second; 0: as fast as it goes.
    rate_per_s: u64,
    /// Of both sides.
    tls: Tls,
}

const CASES: [Case; 6] = [
    Case {
        name: "1 x 4 KiB",
        sessions_count: 1,
        octets: 4096,
        share_per_cent: 40,
        rate_per_s: 0,
        tls: Tls::Off,
    },
    Case {
        name: "10 x 4 KiB",
        sessions_count: 10,
        octets: 4096,
        share_per_cent: 100,
        rate_per_s: 0,
        tls: Tls::Off,
    },
    Case {
        name: "50 x 4 KiB",
        sessions_count: 50,
        octets: 4096,
        share_per_cent: 100,
        rate_per_s: 0,
        tls: Tls::Off,
    },
    Case {
        name: "10 x 64 KiB",
        sessions_count: 10,
        octets: 65536,
        share_per_cent: 20,
        rate_per_s: 0,
        tls: Tls::Off,
    },
    Case {
        name: "10 x 4 KiB, TLS",
        sessions_count: 10,
        octets: 4096,
        share_per_cent: 100,
        rate_per_s: 0,
        tls: Tls::StartTls,
    },
    Case {
        name: "idle, 4 KiB",
        sessions_count: 1,
        octets: 4096,
        share_per_cent: 4,
        rate_per_s: 200,
        tls: Tls::Off,
    },
];

/// One run.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Measured {
    pub(super) rate_per_s: f64,
    pub(super) source_us: f64,
    pub(super) sink_us: f64,
    pub(super) latency: matching::Latency,
    pub(super) lost_count: u64,
}

#[derive(Debug, Serialize)]
struct Row {
    case: &'static str,
    sessions: u32,
    octets: usize,
    messages: u64,
    relay_per_s: Series,
    direct_per_s: Series,
    switch_cpu_us: Series,
    source_cpu_us: Series,
    sink_cpu_us: Series,
    cpu_to_source_and_sink: f64,
    latency_p50_ms: Series,
    latency_p99_ms: Series,
    lost: u64,
}

#[derive(Debug, Serialize)]
struct Report {
    rounds: u32,
    load_average_before: f64,
    load_average_after: f64,
    tcp_congestion_control: String,
    peak_pss_octets: u64,
    processes: usize,
    rows: Vec<Row>,
    connections: HandshakesReport,
    queue: QueueReport,
}

impl BenchArguments {
    pub(crate) fn run(self) -> Outcome {
        std::fs::create_dir_all(&self.directory)?;
        let directory = self.directory.canonicalize()?;
        let limit = Duration::from_secs(self.limit);
        let load_average_before = process::load_average();
        let mut clear = Sinks::start(&[])?;
        let mut tls = Sinks::start(&["--starttls"])?;
        let hops = [
            Hop { domain: Sinks::domain(Tls::Off), channel: "smtp", address: clear.relay.address() },
            Hop { domain: Sinks::domain(Tls::StartTls), channel: "smtp", address: tls.relay.address() },
        ];
        let mut switch = Switch::start(&self.sternpost, &directory.join("switch"), QUEUE_ROOM, &hops)?;
        switch.put_credential("default", &stream::credential()?)?;
        let mut handshakes = Handshakes::default();
        let memory = MemoryWatch::start(switch.pid());

        let mut relays: Vec<Vec<(Measured, f64)>> = CASES.iter().map(|_| Vec::new()).collect();
        let mut directs: Vec<Vec<Measured>> = CASES.iter().map(|_| Vec::new()).collect();
        for round in 1..=self.rounds {
            for (at, case) in CASES.iter().enumerate() {
                eprintln!("round {round} of {}: {}", self.rounds, case.name);
                let messages_count = (self.messages * case.share_per_cent / 100).max(1);
                let sinks = if case.tls == Tls::Off { &mut clear } else { &mut tls };
                let direct_to = sinks.direct.address();
                directs[at].push(measure(direct_to, &mut sinks.direct, case, messages_count, limit)?);
                let before_us = process::cpu_us(switch.pid());
                let relay = measure(switch.listener(), &mut sinks.relay, case, messages_count, limit)?;
                std::thread::sleep(SETTLE);
                switch.check()?;
                let cpu_us = process::cpu_us(switch.pid()).saturating_sub(before_us);
                relays[at].push((relay, number(cpu_us) / number(messages_count)));
            }
            eprintln!("round {round} of {}: connections", self.rounds);
            let direct = (tls.direct.address(), tls.direct.pid());
            handshakes.measure((switch.listener(), switch.pid()), direct)?;
        }
        let rows = CASES.iter().enumerate().map(|(at, case)| {
            row(case, (self.messages * case.share_per_cent / 100).max(1), &relays[at], &directs[at])
        });
        let rows = rows.collect();
        let (peak_pss_octets, processes) = memory.stop();
        drop(switch);
        let queue = QueueArguments::within(self.sternpost, directory.clone(), self.rounds).measure()?;
        let report = Report {
            rounds: self.rounds,
            load_average_before,
            load_average_after: process::load_average(),
            tcp_congestion_control: congestion_control(),
            peak_pss_octets,
            processes,
            rows,
            connections: handshakes.report(),
            queue,
        };
        print_table(&report);
        let path = directory.join("report.json");
        tool::write_json(Some(&path), &report)?;
        println!("{}", path.display());
        Ok(report.rows.iter().all(|row| row.lost == 0))
    }
}

/// The sink behind the switch, and the one that is sent to without it.
pub(super) struct Sinks {
    pub(super) relay: SinkProcess,
    direct: SinkProcess,
}

impl Sinks {
    pub(super) fn start(arguments: &[&str]) -> Result<Self, Box<dyn Error>> {
        Ok(Self { relay: SinkProcess::start(arguments)?, direct: SinkProcess::start(arguments)? })
    }

    /// Whose mail goes to a sink that offers TLS, and whose to one that does not.
    pub(super) fn domain(tls: Tls) -> &'static str {
        if tls == Tls::Off { "sink.test" } else { "tls.sink.test" }
    }
}

fn measure(
    to: std::net::SocketAddr,
    sink: &mut SinkProcess,
    case: &Case,
    messages_count: u64,
    limit: Duration,
) -> Result<Measured, Box<dyn Error>> {
    let load = Load {
        sessions_count: case.sessions_count,
        octets: case.octets,
        messages_count,
        rate_per_s: case.rate_per_s,
        tls: case.tls,
    };
    load.measure(to, sink, limit)
}

/// One run of source and sink.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) sessions_count: u32,
    pub(super) octets: usize,
    pub(super) messages_count: u64,
    pub(super) rate_per_s: u64,
    pub(super) tls: Tls,
}

impl Load {
    /// Sends to `to`, waits until all has arrived at the sink, and compares.
    pub(super) fn measure(
        self,
        to: std::net::SocketAddr,
        sink: &mut SinkProcess,
        limit: Duration,
    ) -> Result<Measured, Box<dyn Error>> {
        let cpu_before_us = sink.report()?.cpu_us;
        let [sessions, octets, messages, rate] =
            [u64::from(self.sessions_count), self.octets as u64, self.messages_count, self.rate_per_s]
                .map(|number| number.to_string());
        let mut arguments = vec!["--sessions", &*sessions, "--octets", &*octets, "--messages", &*messages];
        if self.rate_per_s > 0 {
            arguments.extend(["--rate", &*rate]);
        }
        let recipient = format!("user@{}", Sinks::domain(self.tls));
        arguments.extend(["--rcpt", &*recipient]);
        match self.tls {
            Tls::Off => {}
            Tls::StartTls => arguments.push("--starttls"),
            Tls::Immediate => arguments.push("--tls-immediate"),
        }
        let source = run_source(to, &arguments)?;
        if let Some(refusal) = source.refused.first() {
            return Err(
                format!("{} messages refused, the first: {}", source.refused.len(), refusal.text).into()
            );
        }
        let complete = sink.wait_for(self.messages_count, limit)?;
        let sink = sink.report()?;
        if !complete {
            let came = sink.counts.distinct;
            eprintln!("only {came} of {} arrived within {} s", self.messages_count, limit.as_secs());
        }
        Ok(measured(&source, sink, cpu_before_us))
    }
}

fn measured(source: &source::Report, sink: sink::Report, sink_before_us: u64) -> Measured {
    let first_ns = source.accepted.iter().map(|acceptance| acceptance.sent_ns).min().unwrap_or(0);
    let last_ns = sink.receipts.iter().map(|receipt| receipt.arrived_ns).max().unwrap_or(0);
    let duration_s = number(last_ns.saturating_sub(first_ns).max(1)) / 1e9;
    let messages = number(source.messages_count.max(1));
    let (received, sink_us) =
        (number(sink.counts.received), number(sink.cpu_us.saturating_sub(sink_before_us)));
    let tally = matching::tally(std::slice::from_ref(source), &[sink]);
    Measured {
        rate_per_s: received / duration_s,
        source_us: number(source.cpu_us) / messages,
        sink_us: sink_us / messages,
        latency: tally.latency,
        lost_count: tally.lost,
    }
}

fn row(case: &Case, messages: u64, relays: &[(Measured, f64)], directs: &[Measured]) -> Row {
    let series = |value: fn(&Measured) -> f64| Series::of(relays.iter().map(|(relay, _)| value(relay)));
    let ends_us = |(relay, _): &(Measured, f64)| (relay.source_us + relay.sink_us).max(1.0);
    Row {
        case: case.name,
        sessions: case.sessions_count,
        octets: case.octets,
        messages,
        relay_per_s: series(|relay| relay.rate_per_s),
        direct_per_s: Series::of(directs.iter().map(|direct| direct.rate_per_s)),
        switch_cpu_us: Series::of(relays.iter().map(|(_, cpu_us)| *cpu_us)),
        source_cpu_us: series(|relay| relay.source_us),
        sink_cpu_us: series(|relay| relay.sink_us),
        cpu_to_source_and_sink: Series::of(relays.iter().map(|relay| relay.1 / ends_us(relay))).median,
        latency_p50_ms: series(|relay| relay.latency.p50_ms),
        latency_p99_ms: series(|relay| relay.latency.p99_ms),
        lost: relays.iter().map(|(relay, _)| relay.lost_count).sum(),
    }
}

fn print_table(report: &Report) {
    println!(
        "median (least-most) of {} rounds; load average {:.2} before, {:.2} after; TCP {}",
        report.rounds, report.load_average_before, report.load_average_after, report.tcp_congestion_control
    );
    println!(
        "{:<16} {:<20} {:<20} {:<16} {:>8} {:>8} {:>6}  {:<18} {:<18} {:>4}",
        "", "relay/s", "direct/s", "switch us", "source", "sink", "ratio", "p50 ms", "p99 ms", "lost"
    );
    for row in &report.rows {
        println!(
            "{:<16} {:<20} {:<20} {:<16} {:>8.0} {:>8.0} {:>6.2}  {:<18} {:<18} {:>4}",
            row.case,
            row.relay_per_s,
            row.direct_per_s,
            row.switch_cpu_us,
            row.source_cpu_us.median,
            row.sink_cpu_us.median,
            row.cpu_to_source_and_sink,
            row.latency_p50_ms,
            row.latency_p99_ms,
            row.lost
        );
    }
    let mib = number(report.peak_pss_octets) / f64::from(1 << 20);
    report.connections.print();
    println!("peak memory of the switch: {mib:.1} MiB (PSS of {} processes)", report.processes);
    report.queue.print();
}

/// The congestion control of this machine: it shows in the CPU of everything that sends.
pub(super) fn congestion_control() -> String {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control");
    text.map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// Looks at the memory of a family of processes now and then and remembers the most.
pub(super) struct MemoryWatch {
    shared: Arc<Watched>,
    thread: std::thread::JoinHandle<usize>,
}

#[derive(Default)]
struct Watched {
    peak_octets: AtomicU64,
    ended: AtomicBool,
}

impl MemoryWatch {
    pub(super) fn start(pid: u32) -> Self {
        let shared = Arc::new(Watched::default());
        let theirs = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let mut processes_count = 0;
            while !theirs.ended.load(Ordering::Relaxed) {
                let usage = process::usage(pid);
                processes_count = processes_count.max(usage.processes_count);
                theirs.peak_octets.fetch_max(usage.pss_octets, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(500));
            }
            processes_count
        });
        Self { shared, thread }
    }

    /// The most memory, and the most processes.
    pub(super) fn stop(self) -> (u64, usize) {
        self.shared.ended.store(true, Ordering::Relaxed);
        let processes_count = self.thread.join().unwrap_or(0);
        (self.shared.peak_octets.load(Ordering::Relaxed), processes_count)
    }
}
