//! `make crash-campaign`: the switch under load on a device whose writes are logged; hundreds of power cuts, each recovered
//! and compared with what had been acknowledged.
//!
//! For each way of writing the log: a run whose flushes are obeyed, cut at every flush and torn between, with the switch
//! started on some of the cuts; and a run in which flushes fail. At the end the campaign is tested itself: a run whose
//! flushes never reach the disk must fail it. Prints `N passed, 0 failed`; exit status 1 when something failed, 77 when this
//! machine lacks what it takes.
#![forbid(unsafe_code)]

use clap::Parser as _;
use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;
use sternpost_hw_tests::campaign::history::{History, Plan};
use sternpost_hw_tests::campaign::judge::{Fault, Judge, Seen, marks_of};
use sternpost_hw_tests::campaign::revival::revive;
use sternpost_hw_tests::campaign::{self, cuts, place};
use sternpost_hw_tests::campaign::{DEVICE_OCTETS, ROOM};
use sternpost_hw_tests::logged_device::{Flushes, missing};
use sternpost_hw_tests::power_cut::{Cache, Cut};
use sternpost_hw_tests::replay::{Image, Replay};
use sternpost_load::source::Report;
use sternpost_message::chain;
use tokio::signal::unix::{SignalKind, signal};

/// What `.ci/test` takes for "nothing was looked at".
const LACKING: u8 = 77;
/// Cuts on which the switch itself is started.
const REVIVALS: usize = 5;
/// Cuts of a run in the short form, and in the test of the campaign.
const SHORT_CUTS: usize = 40;
/// Failed cuts whose image is kept, and faults of one that are told.
const KEPT_MAX: usize = 5;
const FAULTS_TOLD_MAX: usize = 5;
/// Flushes that fail: one alone, two in a row, four in a row. Most are those of batches; some may be of an index.
const FAILING: [u32; 7] = [20, 40, 41, 60, 61, 62, 63];

/// Cuts the power of the switch's log hundreds of times under load, and looks for mail that was acknowledged and is lost.
#[derive(Debug, clap::Parser)]
struct Arguments {
    /// The switch; without it the one that was built beside this program.
    #[arg(long)]
    sternpost: Option<PathBuf>,
    /// Where the runs are recorded, each in a folder that it makes anew. What a failed one needs to be looked at stays there.
    #[arg(long, default_value = "target/crash-campaign")]
    directory: PathBuf,
    /// Names the places and kinds of the cuts; another one each time, unless it is given.
    #[arg(long)]
    seed: Option<u64>,
    /// Half a minute's worth: some of the cuts of two runs, one of them revived, and the test of the campaign.
    #[arg(long)]
    short: bool,
    /// Judges the cuts of a run that was recorded in this folder before.
    #[arg(long, value_name = "FOLDER")]
    again: Option<PathBuf>,
    /// With --again: this one alone. What an earlier cut would have to say of it is not asked.
    #[arg(long, requires = "again")]
    cut: Option<usize>,
}

impl Arguments {
    fn program(&self) -> Result<PathBuf, Box<dyn Error>> {
        let beside = || std::env::current_exe().map(|own| own.with_file_name("sternpost"));
        let program = self.sternpost.clone().map_or_else(beside, Ok)?;
        let missing =
            |error| format!("{}: {error}; build it: cargo build --release -p sternpost", program.display());
        Ok(program.canonicalize().map_err(missing)?)
    }
}

/// Sees to it that an interrupt ends the campaign in order: processes, device and mount go, and temporary folders.
fn heed_signals() -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _inside = runtime.enter();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        campaign::interrupt();
    })?;
    Ok(())
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let missing = missing();
    if arguments.again.is_none() && !missing.is_empty() {
        eprintln!("crash-campaign: this machine lacks");
        missing.iter().for_each(|what| eprintln!("  {what}"));
        return ExitCode::from(LACKING);
    }
    if let Err(error) = heed_signals() {
        eprintln!("crash-campaign: an interrupt will leave things behind: {error}");
    }
    let seed = arguments.seed.unwrap_or_else(sternpost_load::now_ns);
    println!("seed {seed}");
    let mut campaign = Campaign { arguments, seed, passed: 0, failed: 0 };
    if let Err(error) = campaign.run() {
        eprintln!("crash-campaign: {}", chain(error.as_ref()));
        campaign.failed += 1;
    }
    println!("{} passed, {} failed", campaign.passed, campaign.failed);
    if campaign.failed == 0 && campaign.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

struct Campaign {
    arguments: Arguments,
    seed: u64,
    passed: usize,
    failed: usize,
}

/// What became of the cuts of one history.
#[derive(Debug, Default)]
struct Outcome {
    passed: usize,
    failed: usize,
    /// Failed because acknowledged mail was lost, or the whole log.
    lost: usize,
    most: Seen,
    went_on: usize,
}

impl Campaign {
    fn run(&mut self) -> Result<(), Box<dyn Error>> {
        if let Some(folder) = self.arguments.again.clone() {
            let history = History::reopen(&folder)?;
            let all = cuts::of(&history, self.seed);
            let numbers = 0..all.len();
            let chosen = match self.arguments.cut {
                Some(number) => numbers.filter(|&one| one == number).collect(),
                None => numbers.collect::<Vec<usize>>(),
            };
            return self.cut(&history, &folder, &all, &chosen);
        }
        if self.arguments.short {
            self.obeyed("dsync", 900, Some(SHORT_CUTS), 1)?;
            self.failing("io_uring", 600, Some(SHORT_CUTS))?;
        } else {
            for backend in ["dsync", "io_uring"] {
                self.obeyed(backend, 1800, None, REVIVALS)?;
                self.failing(backend, 1000, None)?;
            }
        }
        self.ignored("dsync")
    }

    /// A run whose flushes are obeyed.
    fn obeyed(
        &mut self,
        backend: &'static str,
        messages_count: u64,
        cuts_count: Option<usize>,
        revivals: usize,
    ) -> Result<(), Box<dyn Error>> {
        let (folder, history) = self.record(backend, backend, Flushes::Obeyed, messages_count)?;
        let failed_before = self.failed;
        let unflushed = history.batches.iter().filter(|batch| !batch.is_flushed).count();
        // The batch under way when the switch was stopped may lack its flush.
        self.check(
            unflushed <= 1,
            &format!("{} batches, each with its flush behind it", history.batches.len()),
        );
        let rounds = history.batches.iter().filter(|batch| batch.opens_segment()).count()
            / ROOM.segments_count as usize;
        let rounds_min = if self.arguments.short { 1 } else { 3 };
        self.check(rounds >= rounds_min, &format!("the log went round {rounds} times"));
        let all = cuts::of(&history, self.seed);
        let chosen = cuts::some(&all, cuts_count.unwrap_or(all.len()), self.seed);
        self.cut(&history, &folder, &all, &chosen)?;
        self.revive(&history, &folder, backend, &cuts::some(&all, revivals, self.seed ^ 1), &all)?;
        self.clean(&folder, failed_before)
    }

    /// A run in which flushes fail. What they covered may be lost for ever.
    fn failing(
        &mut self,
        backend: &'static str,
        messages_count: u64,
        cuts_count: Option<usize>,
    ) -> Result<(), Box<dyn Error>> {
        let name = format!("{backend}-failing-flushes");
        let (folder, history) =
            self.record(&name, backend, Flushes::FailingAt(FAILING.to_vec()), messages_count)?;
        let failed_before = self.failed;
        let failures = FAILING.len();
        let failed = &history.failed;
        self.check(
            failed.len() == failures,
            &format!("{failures} failed flushes, an alarm for each batch that one covered"),
        );
        self.check(history.write_errors_count == failures as u64, "the store has counted them");
        let goes_on = |&index: &usize| {
            let segment = history.batches[index].segment();
            // An index that is not written is missed by nobody; others may be written before the next batch.
            let next = (index + 1..history.batches.len()).find(|next| !history.is_of_an_index(*next));
            let next = next.map(|next| &history.batches[next]);
            history.is_of_an_index(index)
                || next.is_some_and(|next| next.opens_segment() && next.segment() != segment)
        };
        self.check(failed.iter().all(goes_on), "behind each the log goes on in a fresh segment");
        let rows = history.rows_of_failures();
        self.check(
            rows > 0 && history.lines_with("the log is closed") == rows,
            &format!("two in a row close the log ({rows} times)"),
        );
        self.check(history.lines_with("the log is open again") == rows, "its probe opens it again");
        let was_told = |source: &Report| source.troubles.contains_key("451");
        self.check(history.sources.iter().any(was_told), "senders were told 451, and sent again");
        let all = cuts::of(&history, self.seed);
        let chosen = cuts::some(&all, cuts_count.unwrap_or(all.len()), self.seed);
        self.cut(&history, &folder, &all, &chosen)?;
        self.clean(&folder, failed_before)
    }

    /// The test of the campaign: a run whose flushes never reach the disk must fail it.
    fn ignored(&mut self, backend: &'static str) -> Result<(), Box<dyn Error>> {
        let (folder, history) = self.record("no-sync", backend, Flushes::Ignored, 300)?;
        let failed_before = self.failed;
        let all = cuts::of(&history, self.seed);
        let chosen = cuts::some(&all, SHORT_CUTS, self.seed);
        let outcome = judge_all(&history, &all, &chosen, self.seed, |_, _, _, _| {})?;
        self.check(
            history.flushes_count() == 0 && outcome.lost > 0 && outcome.failed > outcome.passed,
            &format!(
                "a writer whose syncs do not reach the disk fails the campaign: {} of {} cuts fail, {} of them for lost mail",
                outcome.failed,
                chosen.len(),
                outcome.lost
            ),
        );
        self.clean(&folder, failed_before)
    }

    fn record(
        &self,
        name: &str,
        backend: &'static str,
        flushes: Flushes,
        messages_count: u64,
    ) -> Result<(PathBuf, History), Box<dyn Error>> {
        let folder = self.arguments.directory.join(name);
        place::make_anew(&folder)?;
        let folder = folder.canonicalize()?;
        let program = self.arguments.program()?;
        let begin = Instant::now();
        let history = History::record(&Plan { program, backend, flushes, messages_count }, &folder)?;
        println!(
            "{name}: {} messages accepted, {} requests to the device, {} flushes on the disk, {:.1} s",
            history.accepted_count(),
            history.log.entries().len(),
            history.flushes_count(),
            begin.elapsed().as_secs_f64()
        );
        let refused: usize = history.sources.iter().map(|source| source.refused.len()).sum();
        if refused > 0 {
            return Err(format!("{refused} messages were refused for good: the load is none").into());
        }
        Ok((folder, history))
    }

    fn check(&mut self, is_good: bool, what: &str) {
        if is_good {
            self.passed += 1;
        } else {
            self.failed += 1;
        }
        println!("  {} {what}", if is_good { "ok    " } else { "FAILED" });
    }

    /// Judges the chosen cuts.
    fn cut(
        &mut self,
        history: &History,
        folder: &Path,
        all: &[Cut],
        chosen: &[usize],
    ) -> Result<(), Box<dyn Error>> {
        let (begin, seed) = (Instant::now(), self.seed);
        let mut told = 0;
        let outcome = judge_all(history, all, chosen, seed, |number, cut, image, faults| {
            told += 1;
            if told <= KEPT_MAX {
                tell(folder, seed, number, cut, image, faults);
            }
        })?;
        self.passed += outcome.passed;
        self.failed += outcome.failed;
        println!(
            "  {} {} cuts: {} passed, {} failed, {} lost mail; up to {} messages alive, {} accepted, {} owed; {} went on; {:.1} s",
            if outcome.failed == 0 { "ok    " } else { "FAILED" },
            chosen.len(),
            outcome.passed,
            outcome.failed,
            outcome.lost,
            outcome.most.living_count,
            outcome.most.accepted_count,
            outcome.most.owed_count,
            outcome.went_on,
            begin.elapsed().as_secs_f64()
        );
        Ok(())
    }

    /// Starts the switch on some cuts.
    fn revive(
        &mut self,
        history: &History,
        folder: &Path,
        backend: &'static str,
        chosen: &[usize],
        all: &[Cut],
    ) -> Result<(), Box<dyn Error>> {
        let program = self.arguments.program()?;
        let mut replay = replay(history, self.seed);
        for &number in chosen {
            let disk = folder.join(format!("revived-{number}.img"));
            let revived = replay
                .after(&all[number], |image| revive(&program, image, &marks_of(image), backend, &disk))?;
            match revived {
                Ok(revived) => {
                    let what = format!(
                        "the switch starts on cut {number} and hands on all {} that it owes ({} once more)",
                        revived.owed_count, revived.repeated_count
                    );
                    self.check(true, &what);
                    fs::remove_file(&disk)?;
                }
                Err(error) => {
                    self.check(
                        false,
                        &format!(
                            "the switch starts on cut {number} of seed {}: {}; {}",
                            self.seed,
                            chain(&error),
                            disk.display()
                        ),
                    );
                }
            }
        }
        Ok(())
    }

    /// Removes the large files of a run in which nothing has failed.
    fn clean(&self, folder: &Path, failed_before: usize) -> Result<(), Box<dyn Error>> {
        if self.failed > failed_before {
            println!(
                "  {} has what is needed to look at it; to judge its cuts again: crash-campaign --again {} --seed {}",
                folder.display(),
                folder.display(),
                self.seed
            );
            return Ok(());
        }
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|ending| ending == "img" || ending == "writes") {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

/// Carries an image along a history. What a failed flush covered may be dropped, as the seed says.
fn replay(history: &History, seed: u64) -> Replay<'_> {
    let replay = Replay::new(&history.log, History::base());
    if history.flushes_count() == 0 {
        return replay.with_durable(history.ready_count);
    }
    replay.with_dropped(history.unflushed(), seed)
}

/// Judges cuts and gives those that fail to `failed`.
fn judge_all(
    history: &History,
    all: &[Cut],
    chosen: &[usize],
    seed: u64,
    mut failed: impl FnMut(usize, &Cut, &Image, &[Fault]),
) -> Result<Outcome, Box<dyn Error>> {
    let mut replay = replay(history, seed);
    let mut judge = Judge::default();
    let mut outcome = Outcome::default();
    for (done, &number) in chosen.iter().enumerate() {
        campaign::go_on()?;
        let cut = all[number];
        let judged = replay.after(&cut, |image| {
            let judged = judge.judge(image, cut.cache == Cache::Lost && history.ends_well(&cut));
            if let Err(faults) = &judged {
                failed(number, &cut, image, faults);
            }
            judged
        })?;
        outcome.add(judged);
        show(done + 1, chosen.len());
    }
    Ok(outcome)
}

impl Outcome {
    fn add(&mut self, judged: Result<Seen, Vec<Fault>>) {
        match judged {
            Ok(seen) => {
                self.passed += 1;
                self.went_on += usize::from(seen.went_on);
                self.most.living_count = self.most.living_count.max(seen.living_count);
                self.most.accepted_count = self.most.accepted_count.max(seen.accepted_count);
                self.most.owed_count = self.most.owed_count.max(seen.owed_count);
            }
            Err(faults) => {
                self.failed += 1;
                self.lost += usize::from(faults.iter().any(is_loss));
            }
        }
    }
}

/// Whether mail is gone.
const fn is_loss(fault: &Fault) -> bool {
    matches!(fault, Fault::Lost(_) | Fault::NoLog(_))
}

/// Tells of a cut that failed, and keeps its image.
fn tell(folder: &Path, seed: u64, number: usize, cut: &Cut, image: &Image, faults: &[Fault]) {
    let path = folder.join(format!("cut-{number}.img"));
    let kept = match image.save(&path, DEVICE_OCTETS) {
        Ok(()) => path.display().to_string(),
        Err(error) => format!("its image cannot be kept: {error}"),
    };
    println!("  cut {number} of seed {seed} ({cut:?}); {kept}");
    // What is lost first; each once, for several looks may have found it.
    let faults: BTreeSet<(bool, String)> =
        faults.iter().map(|fault| (!is_loss(fault), chain(fault))).collect();
    for (_, fault) in faults.iter().take(FAULTS_TOLD_MAX) {
        println!("    {fault}");
    }
    if faults.len() > FAULTS_TOLD_MAX {
        println!("    and {} more", faults.len() - FAULTS_TOLD_MAX);
    }
}

fn show(done: usize, total: usize) {
    if std::io::stderr().is_terminal() {
        eprint!("\r{done} of {total} cuts \r");
        // Progress that cannot be shown is no reason to stop.
        let _ = std::io::stderr().flush();
    }
}
