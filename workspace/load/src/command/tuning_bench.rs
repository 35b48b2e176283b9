//! `sternpost-load bench-tuning`: what the switch finds out by itself, against the best and the worst of fixed settings.
//!
//! For each kind of peer the switch runs once as the self test and the governor tune it and once for each setting of a grid
//! (associations with the peer, processes of the channel), while more mail comes than the peer takes. Two windows of the same
//! length are counted: the first one from a cold start, with the finding out in it, and the one behind it. The second is judged, because
//! a switch runs for months; the first is told. Then the wait of a flash: alone, and while a hundred thousand routine
//! messages wait for the same peer and all of its associations are busy.

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
/// For a hundred and fifty thousand messages of 4 KiB.
const ROOM: QueueRoom = QueueRoom { segment_octets: 64 << 20, segments_count: 24 };
/// For what a slow peer is sent.
const ROOM_SLOW: QueueRoom = QueueRoom { segment_octets: 32 << 20, segments_count: 16 };
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
    /// Length of each of the two windows of a run.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Times that everything is run, one setting after the other; medians count.
    #[arg(long, default_value_t = 1)]
    rounds: u32,
    /// Kinds of peer; all of them unless some are named.
    #[arg(long, value_delimiter = ',', value_parser = KINDS.map(|kind| kind.name))]
    kinds: Vec<String>,
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
    room: QueueRoom,
}

const KINDS: [Kind; 4] = [
    Kind { name: "fast", sink: &[], rate_per_s: None, room: ROOM },
    Kind { name: "50-ms", sink: &["--delay-ms", "50"], rate_per_s: Some(2_500.0), room: ROOM_SLOW },
    Kind { name: "500-ms", sink: &["--delay-ms", "500"], rate_per_s: Some(400.0), room: ROOM_SLOW },
    Kind {
        name: "two-connections",
        sink: &["--delay-ms", "20", "--connections-max", "2"],
        rate_per_s: Some(300.0),
        room: ROOM_SLOW,
    },
];

/// Messages a second that a peer has received.
#[derive(Clone, Copy, Debug)]
struct Received {
    from_start_per_s: f64,
    settled_per_s: f64,
}

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
    /// Of the first window, the finding out included.
    from_start: Compared,
    /// Of the second.
    settled: Compared,
}

/// What is found against the fixed settings.
#[derive(Debug, Serialize)]
struct Compared {
    best_fixed: String,
    found_to_best: f64,
    worst_fixed: String,
    found_to_worst: f64,
}

#[derive(Debug, Serialize)]
struct SettingReport {
    setting: String,
    from_start_per_s: Series,
    settled_per_s: Series,
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
        let is_wanted =
            |kind: &&Kind| self.kinds.is_empty() || self.kinds.iter().any(|name| name == kind.name);
        let kinds: Vec<&Kind> = KINDS.iter().filter(is_wanted).collect();
        let mut received: Vec<Vec<Vec<Received>>> = kinds.iter().map(|_| Vec::new()).collect();
        for round in 1..=self.rounds {
            for (kind, received) in kinds.iter().zip(&mut received) {
                for (at, setting) in Setting::all().enumerate() {
                    let per_s = self.carry(&directory, kind, setting)?;
                    println!(
                        "{round}: {:>16} {:>8} {:>9.1} messages/s from the start, {:>9.1} settled",
                        kind.name,
                        setting.name(),
                        per_s.from_start_per_s,
                        per_s.settled_per_s
                    );
                    if received.len() == at {
                        received.push(Vec::new());
                    }
                    received[at].push(per_s);
                }
            }
        }
        let kinds: Vec<KindReport> =
            kinds.iter().zip(&received).map(|(kind, received)| kind_report(kind, received)).collect();
        for kind in &kinds {
            for (window, compared) in [("from the start", &kind.from_start), ("settled", &kind.settled)] {
                println!(
                    "{:>16} {window:>14}: {:.2} of the best ({}), {:.1} times the worst ({})",
                    kind.kind,
                    compared.found_to_best,
                    compared.best_fixed,
                    compared.found_to_worst,
                    compared.worst_fixed
                );
            }
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
        let is_good = kinds.iter().all(|kind| kind.settled.found_to_best >= SHARE_MIN)
            && flash.as_ref().is_none_or(|flash| flash.is_within);
        let cpus_count = std::thread::available_parallelism().map_or(1, usize::from);
        let report = Report { load_average_before, cpus_count, seconds: self.seconds, kinds, flash };
        tool::write_json(Some(&directory.join("report.json")), &report)?;
        Ok(is_good)
    }

    /// What the peer received from a cold start, and then.
    fn carry(&self, directory: &Path, kind: &Kind, setting: Setting) -> Result<Received, Box<dyn Error>> {
        let mut sink = SinkProcess::start(kind.sink)?;
        let switch = self.start(directory, &site(&sink, setting), setting, kind.room)?;
        let sending = sending::start(SourceOptions {
            sessions_count: 16,
            messages_count: u64::MAX,
            rate_per_s: kind.rate_per_s,
            ..SourceOptions::to(switch.listener())
        });
        if !sink.wait_for(1, START_LIMIT)? {
            return Err("nothing has come to the sink".into());
        }
        let mut window = || -> Result<f64, Box<dyn Error>> {
            let (begin, before) = (Instant::now(), sink.counts()?.distinct);
            std::thread::sleep(Duration::from_secs(self.seconds));
            let (after, elapsed) = (sink.counts()?.distinct, begin.elapsed());
            Ok(number(after - before) / elapsed.as_secs_f64())
        };
        let received = Received { from_start_per_s: window()?, settled_per_s: window()? };
        let _ = sending.stop();
        Ok(received)
    }

    /// A switch in an empty home, tuned as the setting says; for the found one by its self test.
    fn start(
        &self,
        directory: &Path,
        site: &str,
        setting: Setting,
        room: QueueRoom,
    ) -> Result<Switch, Box<dyn Error>> {
        let home = directory.join("home");
        empty(&home)?;
        fs::create_dir_all(home.join("state"))?;
        let tables_path = home.join("tables.toml");
        fs::write(&tables_path, site)?;
        let mut source = format!("[tables]\npath = \"{}\"\n", tables_path.display());
        if setting == Setting::Found {
            let profile = home.join("profile.json");
            source += &format!("\n[self_test]\nprofile = \"{}\"\n", profile.display());
            self.self_test(&home, &source, room)?;
        }
        Ok(Switch::start_with(&self.sternpost, &home, room, &source)?)
    }

    fn self_test(&self, home: &Path, source: &str, room: QueueRoom) -> Result<(), Box<dyn Error>> {
        let path = home.join("self-test.toml");
        fs::write(&path, sternpost_load::switch::bootstrap_of(home, room, source))?;
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
        let switch = self.start(directory, &(site.clone() + order), Setting::Found, ROOM)?;
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

/// `received` has the rounds of each setting, in the order of [`Setting::all`].
fn kind_report(kind: &Kind, received: &[Vec<Received>]) -> KindReport {
    let settings: Vec<SettingReport> = Setting::all()
        .zip(received)
        .map(|(setting, rounds)| SettingReport {
            setting: setting.name(),
            from_start_per_s: Series::of(rounds.iter().map(|round| round.from_start_per_s)),
            settled_per_s: Series::of(rounds.iter().map(|round| round.settled_per_s)),
        })
        .collect();
    KindReport {
        kind: kind.name,
        from_start: Compared::of(&settings, |report| report.from_start_per_s.median),
        settled: Compared::of(&settings, |report| report.settled_per_s.median),
        settings,
    }
}

impl Compared {
    /// The first setting is the found one.
    fn of(settings: &[SettingReport], median: impl Fn(&SettingReport) -> f64) -> Self {
        let by_median = |a: &&SettingReport, b: &&SettingReport| median(a).total_cmp(&median(b));
        let fixed = || settings.iter().skip(1);
        let (best, worst) = (fixed().max_by(by_median), fixed().min_by(by_median));
        let found = settings.first().map_or(0.0, &median);
        let name =
            |report: Option<&SettingReport>| report.map_or_else(String::new, |report| report.setting.clone());
        let share =
            |report: Option<&SettingReport>| report.map_or(0.0, |report| found / median(report).max(0.001));
        Self {
            best_fixed: name(best),
            found_to_best: share(best),
            worst_fixed: name(worst),
            found_to_worst: share(worst),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_is_compared_with_the_best_and_the_worst_of_the_grid() {
        let rounds = |rates: &[(f64, f64)]| -> Vec<Received> {
            rates
                .iter()
                .map(|&(from_start_per_s, settled_per_s)| Received { from_start_per_s, settled_per_s })
                .collect()
        };
        let mut received: Vec<Vec<Received>> = Setting::all().map(|_| rounds(&[(50.0, 50.0)])).collect();
        received[0] = rounds(&[(40.0, 80.0), (60.0, 95.0), (50.0, 90.0)]);
        received[2] = rounds(&[(100.0, 100.0)]);
        received[5] = rounds(&[(20.0, 10.0), (20.0, 30.0), (20.0, 20.0)]);
        let report = kind_report(&KINDS[0], &received);
        for (compared, to_best, to_worst) in [(&report.settled, 0.9, 4.5), (&report.from_start, 0.5, 2.5)] {
            assert_eq!((compared.best_fixed.as_str(), compared.worst_fixed.as_str()), ("1 × 4", "16 × 1"));
            assert!((compared.found_to_best - to_best).abs() < 1e-9, "{compared:?}");
            assert!((compared.found_to_worst - to_worst).abs() < 1e-9, "{compared:?}");
        }
    }
}
