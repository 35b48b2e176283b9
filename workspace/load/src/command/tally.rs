//! `sternpost-load match`.

use std::path::PathBuf;
use sternpost_load::{matching, sink, source};

use super::{Outcome, tool};

/// Compares what sources were promised with what sinks received. Exit status 1 when mail was lost or damaged.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: sternpost-load match --source source.json --sink smtp.json --sink lmtp.json"
)]
pub(crate) struct MatchArguments {
    /// What `sternpost-load source` wrote. May be given several times.
    #[arg(long, required = true)]
    source: Vec<PathBuf>,
    /// What `sternpost-load sink` wrote. May be given several times.
    #[arg(long, required = true)]
    sink: Vec<PathBuf>,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

impl MatchArguments {
    pub(crate) fn run(self) -> Outcome {
        let sources: Vec<source::Report> =
            self.source.iter().map(|path| tool::read_json(path)).collect::<Result<_, _>>()?;
        let sinks: Vec<sink::Report> =
            self.sink.iter().map(|path| tool::read_json(path)).collect::<Result<_, _>>()?;
        let tally = matching::tally(&sources, &sinks);
        if self.json {
            tool::print_json(&tally)?;
        } else {
            print!("{tally}");
        }
        Ok(tally.lost == 0 && tally.damaged == 0)
    }
}
