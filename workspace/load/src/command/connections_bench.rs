//! `sternpost-load bench-connections`: what open connections cost the server, and who else pays for them.
//!
//! Many connections greet and then say nothing, in the clear or inside TLS, while some hundred sessions send. Memory is that of the
//! one process that serves them all. The rate is compared with that of the same switch without the silent ones, in the same run.

use serde::Serialize;
use std::collections::BTreeMap;
use std::error::Error;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use sternpost_load::dialogue::{Departure, PlayOptions, Script, play};
use sternpost_load::source::Tls;
use sternpost_load::{process, stream};
use sternpost_message::chain;
use sternpost_platform::process::raise_descriptor_limit;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Outcome;
use super::bench::{Load, MemoryWatch, QUEUE_ROOM, Sinks};
use super::switch::{Hop, Queue, Switch, tables};
use super::tool::{self, number};

/// What the process may take for all its connections.
const PSS_OCTETS_MAX: u64 = 200 << 20;
/// Connections that are made at the same time: fewer than a listening socket lets wait.
const TOGETHER: usize = 100;
/// Time for all of them to be there.
const OPEN_LIMIT: Duration = Duration::from_secs(120);
/// Time for all that a closed connection has to say.
const LOOK_MAX: Duration = Duration::from_secs(1);

const CLEAR: &str = "R: 220\nC: EHLO silent.load.test\nR: 250\n? silence 900000 ms\n";
const INSIDE: &str = "R: 220\nC: EHLO silent.load.test\nR: 250\nC: STARTTLS\nR: 220\n* tls\nC: EHLO silent.load.test\nR: 250\n\
                      ? silence 900000 ms\n";

/// Measures the server with thousands of open connections and writes target/bench/connections.json.
#[derive(Debug, clap::Args)]
pub(crate) struct ConnectionsArguments {
    /// The switch; a release build.
    #[arg(long, default_value = "target/release/sternpost")]
    sternpost: PathBuf,
    /// Where the run lives and the report goes.
    #[arg(long, default_value = "target/bench")]
    directory: PathBuf,
    /// Connections that are silent.
    #[arg(long, default_value_t = 5_000)]
    open: u32,
    /// Sessions that send, beside them.
    #[arg(long, default_value_t = 500)]
    sending: u32,
    /// Messages of 4 KiB in each run.
    #[arg(long, default_value_t = 10_000)]
    messages: u64,
    /// Seconds that one run may take.
    #[arg(long, default_value_t = 120)]
    limit: u64,
}

#[derive(Debug, Serialize)]
struct Report {
    load_average: f64,
    rows: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    inside_tls: bool,
    open: u32,
    sending: u32,
    processes: usize,
    /// Of the server without any connection, with those that are silent, and the most while the others send.
    pss_octets_idle: u64,
    pss_octets_open: u64,
    pss_octets_max: u64,
    opened_per_s: f64,
    alone_per_s: f64,
    beside_per_s: f64,
}

impl ConnectionsArguments {
    pub(crate) fn run(self) -> Outcome {
        raise_descriptor_limit()?;
        std::fs::create_dir_all(&self.directory)?;
        let directory = self.directory.canonicalize()?;
        let rows = [Tls::Off, Tls::StartTls].map(|tls| self.measure(&directory, tls));
        let report = Report {
            load_average: process::load_average(),
            rows: rows.into_iter().collect::<Result<_, _>>()?,
        };
        for row in &report.rows {
            print(row);
        }
        let path = directory.join("connections.json");
        tool::write_json(Some(&path), &report)?;
        println!("{}", path.display());
        Ok(report.rows.iter().all(|row| row.processes == 1 && row.pss_octets_max <= PSS_OCTETS_MAX))
    }

    fn measure(&self, directory: &Path, tls: Tls) -> Result<Row, Box<dyn Error>> {
        let mut sinks = Sinks::start(if tls == Tls::Off { &[] } else { &["--starttls"] })?;
        let hops = [Hop { domain: Sinks::domain(tls), channel: "smtp", address: sinks.relay.address() }];
        // The operator allows what is measured; all of it comes from one client.
        let limits = format!(
            "connections_max = {}\nconnections_per_client_max = 0\nclient_networks",
            self.open + self.sending + 100
        );
        let tables = tables(&hops).replace("client_networks", &limits);
        let home = directory.join("connections");
        let queue = Queue { path: home.join("state/log"), room: QUEUE_ROOM, backend: "auto" };
        let mut switch = Switch::start_on(&self.sternpost, &home, &queue, &tables)?;
        switch.put_credential("default", &stream::credential()?)?;
        let servers: Vec<u32> =
            switch.status()?.roles.iter().filter(|it| it.role == "smtp-server").map(|it| it.pid).collect();
        let server = *servers.first().ok_or("the switch has no smtp-server")?;

        let load = Load {
            sessions_count: self.sending,
            octets: 4096,
            messages_count: self.messages,
            rate_per_s: 0,
            tls,
        };
        let limit = Duration::from_secs(self.limit);
        let pss_octets_idle = process::usage(server).pss_octets;
        eprintln!("{} sessions alone, {tls:?}", self.sending);
        let alone = load.measure(switch.listener(), &mut sinks.relay, limit)?;
        eprintln!("{} silent connections", self.open);
        let begun = Instant::now();
        let silent = Silent::open(switch.listener(), self.open, tls)?;
        let opened_in = begun.elapsed();
        let pss_octets_open = process::usage(server).pss_octets;
        let memory = MemoryWatch::start(server);
        eprintln!("{} sessions beside them", self.sending);
        let beside = load.measure(switch.listener(), &mut sinks.relay, limit)?;
        let (pss_octets_max, processes) = memory.stop();
        silent.end()?;
        switch.check()?;
        Ok(Row {
            inside_tls: tls != Tls::Off,
            open: self.open,
            sending: self.sending,
            processes: processes.max(servers.len()),
            pss_octets_idle,
            pss_octets_open,
            pss_octets_max: pss_octets_max.max(pss_octets_open),
            opened_per_s: f64::from(self.open) / opened_in.as_secs_f64(),
            alone_per_s: alone.rate_per_s,
            beside_per_s: beside.rate_per_s,
        })
    }
}

fn print(row: &Row) {
    let mib = |octets: u64| number(octets) / f64::from(1 << 20);
    println!(
        "{}: {} open ({:.0}/s) and {} sending in {} process: PSS {:.1} MiB, {:.1} without any, at most {:.1}; {:.0} messages/s, {:.0} \
         without the open ones",
        if row.inside_tls { "inside TLS" } else { "in the clear" },
        row.open,
        row.opened_per_s,
        row.sending,
        row.processes,
        mib(row.pss_octets_open),
        mib(row.pss_octets_idle),
        mib(row.pss_octets_max),
        row.beside_per_s,
        row.alone_per_s,
    );
}

/// Connections that have greeted and say nothing.
struct Silent {
    runtime: Runtime,
    sessions: JoinSet<Result<(), Departure>>,
}

impl Silent {
    /// Returns when all of them are there.
    fn open(to: SocketAddr, count: u32, tls: Tls) -> Result<Self, Box<dyn Error>> {
        let script = if tls == Tls::Off { CLEAR } else { INSIDE };
        let script = Arc::new(Script::parse(script, &BTreeMap::new())?);
        // It stands still while the others send: these connections have nothing to do but to be there.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut sessions = JoinSet::new();
        let (there, mut are_there) = mpsc::unbounded_channel();
        let places = Arc::new(tokio::sync::Semaphore::new(TOGETHER));
        for _ in 0..count {
            let (script, there, places) = (Arc::clone(&script), there.clone(), Arc::clone(&places));
            let session = async move {
                // The semaphore is never closed.
                let mut place = places.acquire().await.ok();
                let options = PlayOptions { reply_timeout: OPEN_LIMIT, ..PlayOptions::to(to) };
                play(&script, &options, |line| {
                    if line.starts_with("? silence") {
                        place = None;
                        let _ = there.send(());
                    }
                })
                .await
            };
            sessions.spawn_on(session, runtime.handle());
        }
        drop(there);
        let waiting = async {
            for _ in 0..count {
                tokio::select! {
                    there = are_there.recv() => there.ok_or("a connection ended")?,
                    Some(ended) = sessions.join_next() => return Err(session_end(ended).into()),
                }
            }
            Ok::<_, Box<dyn Error>>(())
        };
        runtime.block_on(async { tokio::time::timeout(OPEN_LIMIT, waiting).await })??;
        Ok(Self { runtime, sessions })
    }

    /// Closes them. Every one must still have been there.
    fn end(mut self) -> Result<(), Box<dyn Error>> {
        let looking = async { tokio::time::timeout(LOOK_MAX, self.sessions.join_next()).await };
        let ended = self.runtime.block_on(looking).ok().flatten();
        self.runtime.block_on(self.sessions.shutdown());
        ended.map_or(Ok(()), |ended| Err(session_end(ended).into()))
    }
}

fn session_end(ended: Result<Result<(), Departure>, tokio::task::JoinError>) -> String {
    match ended {
        Ok(Err(departure)) => format!("a silent connection: {}", chain(&departure)),
        Ok(Ok(())) => "a silent connection has ended".to_owned(),
        Err(error) => error.to_string(),
    }
}
