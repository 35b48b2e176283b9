//! `make simulate-scheduler`: the scheduler in virtual time. Lives through scenarios and draws what came of them; or through
//! random worlds, for some time or the one of a seed.
//!
//! Exit status 1 when a rule was broken or a scenario's bound was not kept, 2 when a scenario cannot be read.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use sternpost_simulator::scheduling::{
    Options, Report, Scenario, broken_bounds, live, page, random_scenario, table,
};
use sternpost_simulator::search::{Broken, Extent, safely, search};
use sternpost_simulator::trace::Tracing;

/// Lines of a world that broke a rule which are shown.
const LINES: usize = 60;

/// Lives through scenarios, or random worlds, of the scheduler in virtual time.
#[derive(Parser)]
struct Arguments {
    /// Files or folders of scenarios; those of the source tree, if none is given.
    scenarios: Vec<PathBuf>,
    /// The seed of the scenarios.
    #[arg(long, default_value_t = 1)]
    scenario_seed: u64,
    /// Writes an SVG page and a CSV table of the peers for each scenario into this folder.
    #[arg(long, default_value = "target/simulate-scheduler")]
    out: PathBuf,
    /// Lives through the random world of this seed instead, and shows what happened last if a rule is broken.
    #[arg(long)]
    seed: Option<u64>,
    /// Prints everything that happens there.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Lives through random worlds for so many seconds instead.
    #[arg(long)]
    seconds: Option<u64>,
    /// The first of their seeds.
    #[arg(long, default_value_t = 0)]
    first: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match (arguments.seed, arguments.seconds) {
        (Some(seed), _) => status(replay(seed, arguments.trace)),
        (None, Some(seconds)) => status(explore(arguments.first, seconds)),
        (None, None) => draw_all(&arguments),
    }
}

fn status(is_kept: bool) -> ExitCode {
    if is_kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// True when every rule was kept.
fn replay(seed: u64, is_traced: bool) -> bool {
    let tracing = if is_traced { Tracing::Print } else { Tracing::Last(LINES) };
    let options = Options { tracing, ..Options::default() };
    match safely(|| live(&random_scenario(seed), seed, options)) {
        Ok(report) => println!("seed {seed}: {} events, {} Mlists", report.events, report.record.lived.len()),
        Err(why) => {
            println!("seed {seed} {why}");
            return false;
        }
    }
    true
}

/// True when every rule was kept.
fn explore(first: u64, seconds: u64) -> bool {
    println!("random worlds from seed {first} on, for {seconds} s");
    let begin = Instant::now();
    let (mut worlds, mut events, mut mlists) = (0_u64, 0, 0);
    let add = |report: Report| {
        worlds += 1;
        events += report.events;
        mlists += report.record.lived.len();
    };
    let one = |seed| live(&random_scenario(seed), seed, Options::default());
    let found = search(first, Extent::Time(Duration::from_secs(seconds)), one, add, || {});
    let took_s = begin.elapsed().as_secs_f64();
    println!("{worlds} worlds in {took_s:.0} s, {events} events, {mlists} Mlists");
    match found {
        Ok(()) => true,
        Err(Broken { seed, why }) => {
            println!("seed {seed} breaks a rule {why}");
            println!("again, with what happened last: make simulate-scheduler SEED={seed}");
            replay(seed, false)
        }
    }
}

fn draw_all(arguments: &Arguments) -> ExitCode {
    let scenarios = match read_all(&arguments.scenarios) {
        Ok(scenarios) => scenarios,
        Err(error) => {
            eprintln!("simulate-scheduler: {error}");
            return ExitCode::from(2);
        }
    };
    if let Err(error) = std::fs::create_dir_all(&arguments.out) {
        eprintln!("simulate-scheduler: {} cannot be made: {error}", arguments.out.display());
        return ExitCode::from(2);
    }
    let mut is_kept = true;
    for scenario in scenarios {
        match draw(&scenario, arguments) {
            Ok(broken) => {
                for bound in &broken {
                    println!("  NOT KEPT: {bound}");
                }
                is_kept &= broken.is_empty();
            }
            Err(why) => {
                println!("{} {why}", scenario.name);
                is_kept = false;
            }
        }
    }
    status(is_kept)
}

/// The bounds that were not kept.
fn draw(scenario: &Scenario, arguments: &Arguments) -> Result<Vec<String>, String> {
    let begin = Instant::now();
    let options = Options { tracing: Tracing::Last(LINES), ..Options::default() };
    let report = safely(|| live(scenario, arguments.scenario_seed, options))?;
    let took_s = begin.elapsed().as_secs_f64();
    println!("{}: {} events in {took_s:.1} s", scenario.name, report.events);
    print!("{}", table(scenario, &report.record));
    let svg = arguments.out.join(format!("{}.svg", scenario.name));
    let csv = arguments.out.join(format!("{}.csv", scenario.name));
    write(&svg, &page(scenario, &report.record))?;
    write(&csv, &report.record.peers_as_csv(&scenario.peer_names()))?;
    println!("  {}, {}", svg.display(), csv.display());
    Ok(broken_bounds(scenario, &report.record))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("{} cannot be written: {error}", path.display()))
}

/// The scenarios of these files and folders, by name.
fn read_all(paths: &[PathBuf]) -> Result<Vec<Scenario>, String> {
    let own = [Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios")];
    let paths = if paths.is_empty() { &own[..] } else { paths };
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            let entries = std::fs::read_dir(path)
                .map_err(|error| format!("{} cannot be listed: {error}", path.display()))?;
            let toml = entries.flatten().map(|entry| entry.path());
            files.extend(toml.filter(|path| path.extension().is_some_and(|extension| extension == "toml")));
        } else {
            files.push(path.clone());
        }
    }
    files.sort();
    let read = |path: &PathBuf| Scenario::read(path).map_err(|error| sternpost_message::chain(&error));
    files.iter().map(read).collect()
}
