//! `sternpost-load bench-tuning`: what the switch finds out by itself, against the best and the worst of fixed settings.
//!
//! For each kind of peer the switch runs once as the self test and the governor tune it and once for each setting of a grid
//! (associations with the peer, processes of the channel), from a cold start each time, while more mail comes than
//! the peer takes. What counts is what the peer has received in the same time, the finding out included. Then the wait of a flash:
//! alone, and while a hundred thousand routine messages wait for the same peer and all of its associations are busy.

use super::Outcome;
use super::tool::{self, Series, SinkProcess, number};
use serde::Serialize;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use sternpost_load::matching::Latency;
use sternpost_load::sending;
use sternpost_load::source::SourceOptions;
use sternpost_load::switch::{Hop, QueueRoom, Switch, empty, tables};
use sternpost_load::{process, source};

/// What the found setting must carry of the best fixed one.
const SHARE_MIN: f64 = 0.9;
/// Associations of the grid.
const ASSOCIATIONS: [u32; 4] = [1, 4, 16, 64];
/// Processes of the grid.
const PROCESSES: [u32; 2] = [1, 4];
/// Slots of a channel that routine may not take, by default: a fixed setting has them besides its associations.
const RESERVED: u32 = 8;
/// The most associations that the governor may find.
const ASSOCIATIONS_MAX: u32 = 64;
const ROOM: QueueRoom = QueueRoom { segment_octets: 64 << 20, segments_count: 24 };
/// MT-PRIORITY of a flash by the policy STANAG4406 (RFC 6710, appendix B).
const FLASH: i8 = 4;
const FLASHES: u64 = 200;
const FLASHES_PER_S: f64 = 20.0;
const START_LIMIT: Duration = Duration::from_secs(60);

/// Compares what is found with what could be set.
#[derive(Debug, clap::Args)]
pub(crate) struct TuningArguments {
    /// The switch; a release build.
    #[arg(long, default_value = "target/release/sternpost")]
    sternpost: PathBuf,
    /// Where the runs live and the report goes: on the disk that the queue will have.
    #[arg(long, default_value = "target/bench-tuning")]
    directory: PathBuf,
    /// Length of each run.
    #[arg(long, default_value_t = 12)]
    seconds: u64,
    /// Times that everything is run, one setting after the other; medians count.
    #[arg(long, default_value_t = 1)]
    rounds: u32,
    /// Routine messages that wait while a flash is timed; 0 leaves that out.
    #[arg(long, default_value_t = 100_000)]
    waiting: u64,
}

/// A kind of peer.
struct Kind {
    name: &'static str,
    sink: &'static [&'static str],
    /// Messages a second that come: more than it takes.
    rate_per_s: Option<f64>,
}

const KINDS: [Kind; 4] = [
    Kind { name: "fast", sink: &[], rate_per_s: None },
    Kind { name: "50 ms", sink: &["--delay-ms", "50"], rate_per_s: Some(2_500.0) },
    Kind { name: "500 ms", sink: &["--delay-ms", "500"], rate_per_s: Some(400.0) },
    Kind {
        name: "two connections",
        sink: &["--delay-ms", "20", "--connections-max", "2"],
        rate_per_s: Some(300.0),
    },
];

/// How the switch is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setting {
    /// By itself.
    Found,
    Fixed {
        associations: u32,
        processes: u32,
    },
}

impl Setting {
    fn all() -> impl Iterator<Item = Self> {
        let fixed = ASSOCIATIONS.into_iter().flat_map(|associations| {
            PROCESSES.into_iter().map(move |processes| Self::Fixed { associations, processes })
        });
        std::iter::once(Self::Found).chain(fixed)
    }

    fn name(self) -> String {
        match self {
            Self::Found => "found".to_owned(),
            Self::Fixed { associations, processes } => format!("{associations} × {processes}"),
        }
    }

    /// What it says of the channel.
    fn channel(self) -> String {
        match self {
            Self::Found => format!("associations_per_peer_max = {ASSOCIATIONS_MAX}\n"),
            Self::Fixed { associations, processes } => format!(
                "associations_per_peer_max = {associations}\nassociations_per_peer_min = {associations}\n\
                 processes_max = {processes}\nslots_per_process = {}\n",
                associations + RESERVED
            ),
        }
    }
}

#[derive(Debug, Serialize)]
struct Report {
    load_average_before: f64,
    cpus_count: usize,
    seconds: u64,
    kinds: Vec<KindReport>,
    flash: Option<Flash>,
}

#[derive(Debug, Serialize)]
struct KindReport {
    kind: &'static str,
    settings: Vec<SettingReport>,
    best_fixed: String,
    found_to_best: f64,
    worst_fixed: String,
    found_to_worst: f64,
}

#[derive(Debug, Serialize)]
struct SettingReport {
    setting: String,
    received_per_s: Series,
}

/// From the 250 of a flash to its receipt.
#[derive(Debug, Serialize)]
struct Flash {
    idle: Latency,
    waiting_before: u64,
    waiting_after: u64,
    behind_routine: Latency,
    /// The time of one message with the peer.
    one_message_ms: f64,
    is_within: bool,
}

impl TuningArguments {
    pub(crate) fn run(self) -> Outcome {
        let load_average_before = process::load_average();
        let directory = std::path::absolute(&self.directory)?;
        empty(&directory)?;
        let mut received: Vec<Vec<Vec<f64>>> = KINDS.iter().map(|_| Vec::new()).collect();
        for round in 1..=self.rounds {
            for (kind, received) in KINDS.iter().zip(&mut received) {
                for (at, setting) in Setting::all().enumerate() {
                    let per_s = self.carry(&directory, kind, setting)?;
                    println!("{round}: {:>16} {:>8} {per_s:>9.1} messages/s", kind.name, setting.name());
                    if received.len() == at {
                        received.push(Vec::new());
                    }
                    received[at].push(per_s);
                }
            }
        }
        let kinds: Vec<KindReport> =
            KINDS.iter().zip(&received).map(|(kind, received)| kind_report(kind, received)).collect();
        for kind in &kinds {
            println!(
                "{:>16}: {:.2} of the best ({}), {:.1} times the worst ({})",
                kind.kind, kind.found_to_best, kind.best_fixed, kind.found_to_worst, kind.worst_fixed
            );
        }
        let flash = if self.waiting > 0 { Some(self.flash(&directory)?) } else { None };
        if let Some(flash) = &flash {
            println!(
                "a flash: idle p50 {:.2} p99 {:.2} ms; behind {} routine p50 {:.2} p99 {:.2} longest {:.2} ms",
                flash.idle.p50_ms,
                flash.idle.p99_ms,
                flash.waiting_after,
                flash.behind_routine.p50_ms,
                flash.behind_routine.p99_ms,
                flash.behind_routine.max_ms
            );
        }
        let is_good = kinds.iter().all(|kind| kind.found_to_best >= SHARE_MIN)
            && flash.as_ref().is_none_or(|flash| flash.is_within);
        let cpus_count = std::thread::available_parallelism().map_or(1, usize::from);
        let report = Report { load_average_before, cpus_count, seconds: self.seconds, kinds, flash };
        tool::write_json(Some(&directory.join("report.json")), &report)?;
        Ok(is_good)
    }

    /// Messages a second that the peer received from a cold start.
    fn carry(&self, directory: &Path, kind: &Kind, setting: Setting) -> Result<f64, Box<dyn Error>> {
        let mut sink = SinkProcess::start(kind.sink)?;
        let switch = self.start(directory, &site(&sink, setting), setting)?;
        let sending = sending::start(SourceOptions {
            sessions_count: 16,
            messages_count: u64::MAX,
            rate_per_s: kind.rate_per_s,
            ..SourceOptions::to(switch.listener())
        });
        if !sink.wait_for(1, START_LIMIT)? {
            return Err("nothing has come to the sink".into());
        }
        let (begin, before) = (Instant::now(), sink.counts()?.distinct);
        std::thread::sleep(Duration::from_secs(self.seconds));
        let (after, elapsed) = (sink.counts()?.distinct, begin.elapsed());
        let _ = sending.stop();
        Ok(number(after - before) / elapsed.as_secs_f64())
    }

    /// A switch in an empty home, tuned as the setting says; for the found one by its self test.
    fn start(&self, directory: &Path, site: &str, setting: Setting) -> Result<Switch, Box<dyn Error>> {
        let home = directory.join("home");
        empty(&home)?;
        fs::create_dir_all(home.join("state"))?;
        let tables_path = home.join("tables.toml");
        fs::write(&tables_path, site)?;
        let mut source = format!("[tables]\npath = \"{}\"\n", tables_path.display());
        if setting == Setting::Found {
            let profile = home.join("profile.json");
            source += &format!("\n[self_test]\nprofile = \"{}\"\n", profile.display());
            self.self_test(&home, &source)?;
        }
        Ok(Switch::start_with(&self.sternpost, &home, ROOM, &source)?)
    }

    fn self_test(&self, home: &Path, source: &str) -> Result<(), Box<dyn Error>> {
        let path = home.join("self-test.toml");
        fs::write(&path, sternpost_load::switch::bootstrap_of(home, ROOM, source))?;
        let status = Command::new(&self.sternpost)
            .args(["self-test", "--boot", "--bootstrap"])
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        if status.success() { Ok(()) } else { Err("the self test has failed".into()) }
    }

    /// Flashes one after the other: on an idle switch, and behind routine for the same peer.
    fn flash(&self, directory: &Path) -> Result<Flash, Box<dyn Error>> {
        const DELAY_MS: u32 = 20;
        let delay = DELAY_MS.to_string();
        let mut sink = SinkProcess::start(&["--delay-ms", &delay])?;
        let site = site(&sink, Setting::Found);
        // Routine waits until there is enough of it: a peer that took some would slow those who send.
        let order = "\n[[minimise]]\nname = \"fill\"\nlowest_precedence = \"flash\"\n";
        let switch = self.start(directory, &(site.clone() + order), Setting::Found)?;
        let idle = flashes(&switch, &mut sink)?;
        // More than leave while the flashes go.
        let routine = SourceOptions {
            sessions_count: 16,
            messages_count: self.waiting + self.waiting / 2,
            ..SourceOptions::to(switch.listener())
        };
        let sent = sending::start(routine).end();
        let waiting = |switch: &Switch| switch.status().map(|status| status.store.messages.unwrap_or(0));
        let waiting_before = waiting(&switch)?;
        switch.replace_tables(&site)?;
        // All associations are busy long before the thousandth.
        if !sink.wait_for(1_000, START_LIMIT)? {
            return Err("the routine mail does not go".into());
        }
        let behind_routine = flashes(&switch, &mut sink)?;
        let waiting_after = waiting(&switch)?;
        if waiting_after < self.waiting {
            return Err(format!("{waiting_after} of {} were still waiting", sent.accepted_count).into());
        }
        let one_message_ms = f64::from(DELAY_MS);
        let is_within = behind_routine.p99_ms <= 2.0 * idle.p99_ms + one_message_ms;
        Ok(Flash { idle, waiting_before, waiting_after, behind_routine, one_message_ms, is_within })
    }
}

/// The tables of a site with one peer.
fn site(sink: &SinkProcess, setting: Setting) -> String {
    let hop = Hop { domain: "sink.test", channel: "smtp", address: sink.address() };
    let kind = "kind = \"smtp\"\n";
    tables(&[hop]).replacen(kind, &format!("{kind}{}", setting.channel()), 1)
}

/// The wait of each flash, from its 250 to its receipt.
fn flashes(switch: &Switch, sink: &mut SinkProcess) -> Result<Latency, Box<dyn Error>> {
    sink.report()?;
    let report: source::Report = sending::start(SourceOptions {
        messages_count: FLASHES,
        rate_per_s: Some(FLASHES_PER_S),
        priorities: vec![FLASH],
        recipients: vec!["flash@sink.test".to_owned()],
        ..SourceOptions::to(switch.listener())
    })
    .end();
    // The last one may still be on its way.
    std::thread::sleep(Duration::from_secs(2));
    let receipts = sink.report()?;
    let tally = sternpost_load::matching::tally(&[report], &[receipts]);
    if tally.delivered < FLASHES {
        return Err(format!("{} of {FLASHES} flashes came within two seconds", tally.delivered).into());
    }
    Ok(tally.latency)
}

fn kind_report(kind: &Kind, received: &[Vec<f64>]) -> KindReport {
    let settings: Vec<SettingReport> = Setting::all()
        .zip(received)
        .map(|(setting, received)| SettingReport {
            setting: setting.name(),
            received_per_s: Series::of(received.iter().copied()),
        })
        .collect();
    let median = |report: &&SettingReport| report.received_per_s.median;
    let by_median = |a: &&SettingReport, b: &&SettingReport| median(a).total_cmp(&median(b));
    let fixed = || settings.iter().skip(1);
    let name =
        |report: Option<&SettingReport>| report.map_or_else(String::new, |report| report.setting.clone());
    let (best, worst) = (fixed().max_by(by_median), fixed().min_by(by_median));
    let found = settings.first().map_or(0.0, |report| report.received_per_s.median);
    let share =
        |report: Option<&SettingReport>| report.map_or(0.0, |report| found / median(&report).max(0.001));
    KindReport {
        kind: kind.name,
        best_fixed: name(best),
        found_to_best: share(best),
        worst_fixed: name(worst),
        found_to_worst: share(worst),
        settings,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_is_compared_with_the_best_and_the_worst_of_the_grid() {
        let mut received: Vec<Vec<f64>> = Setting::all().map(|_| vec![50.0]).collect();
        received[0] = vec![80.0, 95.0, 90.0];
        received[2] = vec![100.0];
        received[5] = vec![10.0, 30.0, 20.0];
        let report = kind_report(&KINDS[0], &received);
        assert_eq!((report.best_fixed.as_str(), report.worst_fixed.as_str()), ("1 × 4", "16 × 1"));
        assert!((report.found_to_best - 0.9).abs() < 1e-9 && (report.found_to_worst - 4.5).abs() < 1e-9);
    }
}
