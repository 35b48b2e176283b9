//! `sternpost self-test`: measures what the disk and the machine bear, derives values and says why.
//!
//! Writes behind the log or beside it, never in it; the mail that it transfers goes from a thread of its own to another
//! one; it may run while the switch does. The arithmetic is `scheduler::self_test`'s, the file `profile`'s.

mod chart;
mod measure;
mod meter;
mod processors;
mod table;
mod transfer;

use super::{CommandError, CommandResult};
use crate::bootstrap::{Backend, Machine, Queue, SelfTest};
use crate::output;
use crate::place::{self, Owner};
use crate::profile::{self, Profile};
use measure::{Budget, Measurements};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use sternpost_platform::disk::trial::{TrialPlace, WriteCache};
use sternpost_queue::{Geometry, SEGMENT_OCTETS_MAX};
use sternpost_scheduler::self_test::{Curve, Measured, Point, derive};

/// What is measured, for how long, and where the profile goes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sternpost self-test --bootstrap /etc/sternpost/bootstrap.toml\n  sternpost self-test --queue /dev/sternpost/queue --json\n  sternpost self-test --queue /dev/sternpost/queue --svg curve.svg\n\nIt writes behind the log of a device, or in a scratch file beside a log that is a file, and never in the log.\nNo mail is sent: what is transferred goes from this process to itself.\nExit status: 0 it was measured, 1 it could not be."
)]
pub(crate) struct Arguments {
    /// The bootstrap; `[queue]` and `[self_test]` are enough
    #[arg(long, value_name = "FILE", conflicts_with = "queue", required_unless_present = "queue")]
    bootstrap: Option<PathBuf>,
    /// The log, a file or block device, instead of a bootstrap
    #[arg(long, value_name = "PATH")]
    queue: Option<PathBuf>,
    /// Write the profile to this file too
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// Draw throughput by concurrency into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// As at boot: 5 seconds at most instead of 20
    #[arg(long)]
    boot: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Measures, prints, and writes the profile.
///
/// # Errors
/// When nothing can be measured, or a profile cannot be written.
pub(crate) fn run(arguments: &Arguments) -> CommandResult {
    let (queue, files) = match (&arguments.bootstrap, &arguments.queue) {
        (Some(bootstrap), _) => {
            let machine = Machine::read(bootstrap)?;
            (machine.queue, machine.self_test)
        }
        (None, path) => (Queue::at(absolute(path.as_deref().unwrap_or(Path::new("")))?), SelfTest::default()),
    };
    let budget = if arguments.boot { Budget::BOOT } else { Budget::ON_REQUEST };
    let tested = test(&queue, &budget);
    if let Some(path) = &files.profile {
        profile::tell_failure(path, tested.as_ref().err().map(|error| error as _))?;
    }
    let Tested { mut profile, is_in_use } = tested?;
    if let Some(path) = &arguments.profile {
        profile.write(path)?;
    }
    if let Some(path) = &arguments.svg {
        draw(path, &profile)?;
    }
    match &files.profile {
        // What runs has begun with the old values, and what was measured beside it is no measure of the machine.
        Some(path) if is_in_use => {
            let path = path.display();
            profile.remarks.push(format!("The profile {path} was left as it is, because a switch runs."));
        }
        Some(path) => {
            profile.write(path)?;
            // What is in force matters more than what was.
            if let Some(history) = &files.history
                && let Err(error) = profile.keep(history)
            {
                profile.remarks.push(format!("The history was not kept: {}.", output::chain(&error)));
            }
        }
        None => {}
    }
    if arguments.json {
        output::print_json(&serde_json::to_value(&profile)?);
    } else {
        output::print(&table::text(&profile, &overruled(&queue)));
    }
    Ok(ExitCode::SUCCESS)
}

fn absolute(path: &Path) -> Result<PathBuf, CommandError> {
    std::path::absolute(path).map_err(|source| CommandError::Read { path: path.to_owned(), source })
}

/// What the test has given.
struct Tested {
    profile: Profile,
    /// A switch runs on the log.
    is_in_use: bool,
}

fn test(queue: &Queue, budget: &Budget) -> Result<Tested, CommandError> {
    let planned = queue.segments.map(|segments| Geometry {
        segment_octets: queue.segment_octets.unwrap_or(SEGMENT_OCTETS_MAX),
        segments,
    });
    let place = TrialPlace::open(&queue.path, planned).map_err(failed(&queue.path))?;
    let is_in_use = place.is_in_use();
    if is_in_use {
        // The switch goes first. Where the system refuses that, both have their turns.
        let _ = rustix::process::nice(NICE_BESIDE_A_SWITCH);
    }
    let cache = place.cache();
    let words =
        if place.is_device() { "the trial region behind the log" } else { "a scratch file beside the log" };
    let found = measure::all(place, budget).map_err(failed(&queue.path))?;
    let curve = found.transfer.as_ref().map(|(_, levels)| Curve::of(&points(levels)));
    let values = derive(&Measured {
        commits: &measure::commit_times(&found.series),
        transfers_per_s: curve.as_ref().map(|curve| curve.as_ref().map_or(0.0, Curve::per_s_max)),
        cpus_count: found.cpus_count,
        memory_octets: found.memory_octets,
        process_start: found.process_start,
    });
    let values = values.ok_or(measure::NothingMeasured).map_err(failed(&queue.path))?;
    let remarks = remarks(&found, cache, is_in_use);
    let found = found.for_profile(curve.flatten().as_ref());
    let profile = Profile::new(queue.path.clone(), words.to_owned(), found, values, remarks);
    Ok(Tested { profile, is_in_use })
}

/// Far behind what is as urgent as usual.
const NICE_BESIDE_A_SWITCH: i32 = 10;

fn points(levels: &[transfer::Level]) -> Vec<Point> {
    levels.iter().map(|level| Point { associations: level.associations, per_s: level.per_s }).collect()
}

fn draw(path: &Path, profile: &Profile) -> Result<(), CommandError> {
    let written = place::put(path, chart::svg(profile).as_bytes(), Owner::PUBLIC);
    written.map_err(|source| CommandError::Write { path: path.to_owned(), source })
}

fn failed<E: std::error::Error + 'static>(path: &Path) -> impl Fn(E) -> CommandError {
    move |error| CommandError::SelfTest { path: path.to_owned(), source: Box::new(error) }
}

/// What a person should know, in sentences.
fn remarks(found: &Measurements, cache: Option<WriteCache>, is_in_use: bool) -> Vec<String> {
    let mut remarks = found.remarks.clone();
    if is_in_use {
        remarks.push("A switch runs on this log: the figures are what is left beside its mail.".to_owned());
    }
    if let Some(remark) = found.flush_remark(cache) {
        remarks.push(remark);
    }
    remarks
}

/// Which values the bootstrap overrules.
fn overruled(queue: &Queue) -> Vec<String> {
    let mut sentences = Vec::new();
    if queue.backend != Backend::Auto {
        sentences.push("[queue] backend of the bootstrap goes before the method found here.".to_owned());
    }
    if queue.batch_octets_max.is_some() {
        sentences
            .push("[queue] batch_octets_max of the bootstrap goes before the batch found here.".to_owned());
    }
    sentences
}
