//! `sternpost-load demo`: mail of all sizes and priorities flows to an SMTP and an LMTP hop while a route changes and
//! QMGR, the store and a channel are killed. At the end every message is accounted for.
//!
//! The configuration comes from a directory (slapd, with the example tree) or, with `--tables`, from a file.

use serde::Serialize;
use std::error::Error;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use sternpost_config::{ExampleParameters, example_tree};
use sternpost_directory::testing::{BASE_DN, Slapd};
use sternpost_load::matching::{self, Tally};
use sternpost_load::process;
use sternpost_load::sink::{Protocol, Sink, SinkOptions};
use sternpost_load::source::{self, Progress, Retry, SIZES_MIX, SourceOptions};

use super::Outcome;
use super::switch::{Hop, QueueRoom, Switch, empty, tables};
use super::tool;

/// The node's identity in the example tree.
const NODE: &str = "switch-1";

const SMTP_DOMAIN: &str = "smtp.test";
const LMTP_DOMAIN: &str = "lmtp.test";

/// Room of the queue: 256 MiB, a little more than the mail of the demonstration.
const QUEUE_ROOM: QueueRoom = QueueRoom { segment_octets: 4 << 20, segments_count: 64 };

/// MT-PRIORITY of non-urgent, normal and urgent mail.
const PRIORITIES: [i8; 3] = [-4, 0, 4];

/// Shows the switch at work. Exit status 1 when a message was lost.
#[derive(Debug, clap::Args)]
pub(crate) struct DemoArguments {
    /// The switch; a release build.
    #[arg(long, default_value = "target/release/sternpost")]
    sternpost: PathBuf,
    /// Where it runs and the report goes.
    #[arg(long, default_value = "target/demo")]
    directory: PathBuf,
    /// Configure by a file instead of a directory server.
    #[arg(long)]
    tables: bool,
    /// Messages.
    #[arg(long, default_value_t = 2000)]
    messages: u64,
    /// New messages in a second.
    #[arg(long, default_value_t = 200.0)]
    rate: f64,
    /// Seconds in which everything must have arrived, from the last 250 on.
    #[arg(long, default_value_t = 120)]
    limit: u64,
}

#[derive(Debug, Serialize)]
struct Report {
    submitted: u64,
    accepted: u64,
    /// Arrived at either hop.
    delivered: u64,
    /// Of these, at the two SMTP hops.
    transferred_smtp: u64,
    /// Of these, at the LMTP hop.
    delivered_lmtp: u64,
    /// Of those at SMTP hops, by the route as changed.
    rerouted: u64,
    duplicated: u64,
    lost: u64,
    refused: u64,
    damaged: u64,
    unacknowledged: u64,
    retries: u64,
    latency_p50_ms: f64,
    latency_p99_ms: f64,
    messages_per_s: f64,
    duration_s: f64,
    load_average: f64,
    configuration: &'static str,
    events: Vec<String>,
    lost_examples: Vec<String>,
}

/// The three hops: SMTP before and after the change of the route, LMTP.
struct Hops {
    first: Sink,
    second: Sink,
    lmtp: Sink,
}

impl DemoArguments {
    pub(crate) fn run(self) -> Outcome {
        std::fs::create_dir_all(&self.directory)?;
        let directory = self.directory.canonicalize()?;
        let lmtp = SinkOptions { protocol: Protocol::Lmtp, ..SinkOptions::default() };
        let hops = Hops {
            first: Sink::start(SinkOptions::default())?,
            second: Sink::start(SinkOptions::default())?,
            lmtp: Sink::start(lmtp)?,
        };
        say("starting the switch");
        let mut site = Site::start(&self, &directory, &hops)?;
        let begin = Instant::now();
        let progress = Arc::new(Progress::default());
        let options = SourceOptions {
            sessions_count: 8,
            messages_count: self.messages,
            octets: SIZES_MIX.to_vec(),
            recipients: vec![format!("user%d@{SMTP_DOMAIN}"), format!("user%d@{LMTP_DOMAIN}")],
            priorities: PRIORITIES.to_vec(),
            retry: Some(Retry { delay: Duration::from_millis(100), limit: Duration::from_secs(self.limit) }),
            rate_per_s: Some(self.rate),
            reply_timeout: Duration::from_secs(30),
            ..SourceOptions::to(site.switch.listener())
        };
        let theirs = Arc::clone(&progress);
        let sending = std::thread::spawn(move || super::block_on(source::run_with(options, theirs)));
        let events = self.disturb(&mut site, &hops, &progress, &sending)?;
        while !sending.is_finished() {
            self.show(&progress, &hops);
            std::thread::sleep(Duration::from_millis(200));
        }
        let source = sending.join().map_err(|_| "the source panicked")??;
        let last = Instant::now();
        let tally = loop {
            let sinks = [hops.first.report(), hops.second.report(), hops.lmtp.report()];
            let tally = matching::tally(std::slice::from_ref(&source), &sinks);
            if tally.lost == 0 || last.elapsed() > Duration::from_secs(self.limit) {
                break tally;
            }
            self.show(&progress, &hops);
            std::thread::sleep(Duration::from_millis(200));
        };
        let duration_s = begin.elapsed().as_secs_f64();
        say(if tally.lost == 0 { "everything has arrived" } else { "not everything has arrived in time" });
        site.switch.check()?;
        let report = self.report(&source, tally, hops, events, duration_s);
        drop(site);
        print_table(&report);
        let path = directory.join("report.json");
        tool::write_json(Some(&path), &report)?;
        println!("{}", path.display());
        Ok(report.lost == 0 && report.damaged == 0)
    }

    /// What happens while mail flows, each at its share of the messages.
    fn disturb(
        &self,
        site: &mut Site,
        hops: &Hops,
        progress: &Progress,
        sending: &std::thread::JoinHandle<std::io::Result<source::Report>>,
    ) -> Result<Vec<String>, Box<dyn Error>> {
        let mut events = Vec::new();
        for (per_cent, event) in [(20, "route"), (35, "qmgr"), (50, "store"), (65, "smtp")] {
            while progress.accepted_count() * 100 < self.messages * per_cent && !sending.is_finished() {
                self.show(progress, hops);
                std::thread::sleep(Duration::from_millis(20));
            }
            let accepted = progress.accepted_count();
            let text = if event == "route" {
                site.change_route(hops)?;
                format!("after {accepted} messages: {SMTP_DOMAIN} goes to another hop")
            } else {
                let pid = site.kill(event)?;
                format!("after {accepted} messages: {event} (pid {pid}) killed")
            };
            say(&text);
            events.push(text);
        }
        Ok(events)
    }

    fn show(&self, progress: &Progress, hops: &Hops) {
        if std::io::stderr().is_terminal() {
            let arrived: u64 =
                [&hops.first, &hops.second, &hops.lmtp].map(|sink| sink.counts().distinct).iter().sum();
            eprint!(
                "\r{:>6} of {} accepted, {arrived:>6} arrived ",
                progress.accepted_count(),
                self.messages
            );
            // Progress that cannot be shown is no reason to stop.
            let _ = std::io::stderr().flush();
        }
    }

    fn report(
        &self,
        source: &source::Report,
        tally: Tally,
        hops: Hops,
        events: Vec<String>,
        duration_s: f64,
    ) -> Report {
        let [first, second, lmtp] = [hops.first, hops.second, hops.lmtp].map(Sink::stop);
        Report {
            submitted: tally.submitted,
            accepted: tally.accepted,
            delivered: tally.delivered,
            transferred_smtp: first.counts.distinct + second.counts.distinct,
            delivered_lmtp: lmtp.counts.distinct,
            rerouted: second.counts.distinct,
            duplicated: tally.duplicated,
            lost: tally.lost,
            refused: source.refused.len() as u64,
            damaged: tally.damaged,
            unacknowledged: tally.unacknowledged,
            retries: source.retries_count,
            latency_p50_ms: tally.latency.p50_ms,
            latency_p99_ms: tally.latency.p99_ms,
            messages_per_s: tool::number(tally.delivered) / duration_s.max(0.001),
            duration_s,
            load_average: process::load_average(),
            configuration: if self.tables { "tables" } else { "directory" },
            events,
            lost_examples: tally.lost_examples,
        }
    }
}

/// The switch and where its configuration comes from. The switch ends first.
struct Site {
    switch: Switch,
    slapd: Option<Slapd>,
}

impl Site {
    fn start(arguments: &DemoArguments, directory: &Path, hops: &Hops) -> Result<Self, Box<dyn Error>> {
        let home = directory.join("switch");
        if arguments.tables {
            let switch =
                Switch::start(&arguments.sternpost, &home, QUEUE_ROOM, &table_hops(hops, &hops.first))?;
            return Ok(Self { switch, slapd: None });
        }
        let slapd_home = directory.join("slapd");
        empty(&slapd_home)?;
        empty(&home)?;
        let slapd = Slapd::start(&slapd_home, false);
        slapd.add_ldif(&example_tree(
            BASE_DN,
            &ExampleParameters {
                node: NODE.to_owned(),
                hostname: "switch.load.test".to_owned(),
                listener: std::net::SocketAddr::from(([127, 0, 0, 1], 0)),
                smtp_peer: hops.first.address(),
                lmtp_peer: hops.lmtp.address(),
                smtp_domains: vec![SMTP_DOMAIN.parse()?],
                lmtp_domains: vec![LMTP_DOMAIN.parse()?],
            },
        ));
        #[derive(Serialize)]
        struct Source {
            directory: sternpost_directory::Bootstrap,
        }
        let source = toml::to_string(&Source { directory: slapd.bootstrap(NODE) })?;
        let switch = Switch::start_with(&arguments.sternpost, &home, QUEUE_ROOM, &source)?;
        Ok(Self { switch, slapd: Some(slapd) })
    }

    /// Sends the SMTP domain to the second hop.
    fn change_route(&self, hops: &Hops) -> Result<(), Box<dyn Error>> {
        let Some(slapd) = &self.slapd else {
            return Ok(self.switch.replace_tables(&tables(&table_hops(hops, &hops.second)))?);
        };
        let shared = format!("ou=shared,ou=sternpost,{BASE_DN}");
        slapd.add_ldif(&format!(
            "dn: cn=second-hop,{shared}\nobjectClass: sternpostPeer\ncn: second-hop\nsternpostChannel: smtp\n\
             sternpostAddress: {}\n",
            hops.second.address()
        ));
        slapd.modify_ldif(&format!(
            "dn: cn=to-next-hop,{shared}\nchangetype: modify\nreplace: sternpostPeer\nsternpostPeer: second-hop\n"
        ));
        Ok(())
    }

    /// Kills a role; one that is just being restarted is waited for.
    fn kill(&mut self, role: &str) -> Result<u32, Box<dyn Error>> {
        let until = Instant::now() + Duration::from_secs(15);
        loop {
            self.switch.check()?;
            match self.switch.kill(role) {
                Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(50)),
                killed => return Ok(killed?),
            }
        }
    }
}

fn table_hops(hops: &Hops, smtp: &Sink) -> [Hop; 2] {
    [
        Hop { domain: SMTP_DOMAIN, channel: "smtp", address: smtp.address() },
        Hop { domain: LMTP_DOMAIN, channel: "lmtp", address: hops.lmtp.address() },
    ]
}

fn say(text: &str) {
    let begin = if std::io::stderr().is_terminal() { "\r\x1b[K" } else { "" };
    eprintln!("{begin}{text}");
}

fn print_table(report: &Report) {
    let rows = [
        ("submitted", report.submitted),
        ("accepted (250)", report.accepted),
        ("transferred (SMTP)", report.transferred_smtp),
        ("  by the changed route", report.rerouted),
        ("delivered (LMTP)", report.delivered_lmtp),
        ("duplicated", report.duplicated),
        ("lost", report.lost),
        ("refused", report.refused),
        ("damaged", report.damaged),
    ];
    for (name, count) in rows {
        println!("{name:<24}{count:>10}");
    }
    println!(
        "{:<24}{:>10.2} ms p50, {:.2} ms p99",
        "250 to receipt", report.latency_p50_ms, report.latency_p99_ms
    );
    println!("{:<24}{:>10.0} in {:.1} s", "messages/s", report.messages_per_s, report.duration_s);
    for example in &report.lost_examples {
        println!("lost: {example}");
    }
}
