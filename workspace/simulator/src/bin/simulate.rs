//! `make simulate`: lives through histories of the log and of the whole switch, from random seeds for some time, or from one.
//!
//! Prints how many there were, how often processes died and what the disk did; of a history that breaks a promise the seed,
//! the promise, and what happened last. Exit status 1 then.
#![forbid(unsafe_code)]

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use sternpost_simulator::search::{Broken, Extent, safely, search};
use sternpost_simulator::trace::Tracing;
use sternpost_simulator::{history, switch};

/// Lines of a failed history that are shown.
const LINES: usize = 80;

/// Lives through histories of the log and of the whole switch.
#[derive(Parser)]
struct Arguments {
    /// Replays the two histories of this seed and shows what came of them.
    #[arg(long)]
    seed: Option<u64>,
    /// Prints everything that happens in the history of the switch (with --seed).
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Searches for so many seconds, from a random seed on.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Lets more mail in than the log has room for.
    #[arg(long)]
    overfill: bool,
}

/// What came of many seeds.
#[derive(Default)]
struct Sum {
    log: history::Summary,
    switch: switch::Summary,
}

impl Arguments {
    fn switch_options(&self, tracing: Tracing) -> switch::Options {
        switch::Options { overfills: self.overfill, tracing, ..switch::Options::default() }
    }

    /// Both histories of a seed.
    fn live(&self, seed: u64) -> Result<(history::Summary, switch::Summary), String> {
        let log = history::history(seed, history::Options::default())
            .map_err(|why| format!("in the history of the log: {why}"))?;
        let switch = switch::history(seed, self.switch_options(Tracing::Off))
            .map_err(|why| format!("in the history of the switch: {why}"))?;
        Ok((log, switch))
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let kept = match arguments.seed {
        Some(seed) => replay(&arguments, seed),
        None => explore(&arguments),
    };
    if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// True when every promise was kept.
fn replay(arguments: &Arguments, seed: u64) -> bool {
    let lines = if arguments.trace { Tracing::Print } else { Tracing::Last(LINES) };
    let log = safely(|| {
        history::history(
            seed,
            history::Options { tracing: Tracing::Last(LINES), ..history::Options::default() },
        )
    });
    match &log {
        Ok(summary) => println!("the log: {summary:?}"),
        Err(why) => println!("the log: {why}"),
    }
    let switch = safely(|| switch::history(seed, arguments.switch_options(lines)));
    match &switch {
        Ok(summary) => println!("the switch: {summary}"),
        Err(why) => println!("the switch: {why}"),
    }
    log.is_ok() && switch.is_ok()
}

/// True when every promise was kept.
fn explore(arguments: &Arguments) -> bool {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Seeds that a person can type.
    let first = u64::try_from(since_epoch.as_millis() % 1_000_000_000_000).unwrap_or(0) * 1_000;
    println!("seeds from {first} on, for {} s", arguments.seconds);
    let begin = Instant::now();
    let sum = Mutex::new(Sum::default());
    let count = AtomicU64::new(0);
    let add = |(log, switch): (history::Summary, switch::Summary)| {
        if let Ok(mut sum) = sum.lock() {
            sum.log.add(&log);
            sum.switch.add(&switch);
        }
        count.fetch_add(1, Ordering::Relaxed);
    };
    let mut told = Instant::now();
    let look = || {
        if std::io::stdout().is_terminal() && told.elapsed() >= Duration::from_secs(1) {
            told = Instant::now();
            let (seeds, seconds) = (count.load(Ordering::Relaxed), begin.elapsed().as_secs());
            print!("\r{seconds} of {} s, {seeds} seeds", arguments.seconds);
            drop(std::io::stdout().flush());
        }
    };
    let extent = Extent::Time(Duration::from_secs(arguments.seconds));
    let found = search(first, extent, |seed| arguments.live(seed), add, look);
    if std::io::stdout().is_terminal() {
        println!();
    }
    let seeds = count.load(Ordering::Relaxed);
    let seconds = begin.elapsed().as_secs_f64();
    let sum = sum.into_inner().unwrap_or_default();
    println!("{seeds} seeds in {seconds:.0} s: {:.0} seeds/s", seeds as f64 / seconds.max(0.001));
    println!("crashes: {}", sum.log.crashes() + sum.switch.crashes());
    println!("the log: {}", sum.log);
    println!("the switch: {}", sum.switch);
    match found {
        Ok(()) => {
            println!("acknowledged and lost: 0");
            true
        }
        Err(Broken { seed, why }) => {
            println!("seed {seed} breaks a promise {why}");
            println!("again, with what happened last: make simulate SEED={seed}");
            replay(arguments, seed);
            false
        }
    }
}
