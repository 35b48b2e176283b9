//! `sternpost config show` and `sternpost config confirm`.

use super::{CommandResult, check_config, exit_code};
use crate::ask::{self, Which};
use crate::output;
use serde_json::json;
use std::path::PathBuf;
use sternpost_link::qmgr::Question;

/// What is done with the configuration.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show the configuration in force, or the one that tables would give
    #[command(
        after_help = "Examples:\n  sternpost config show --json\n  sternpost config show --tables tables.toml\n\nExit status with --tables: 0 nothing is wrong, 1 something is."
    )]
    Show {
        #[command(flatten)]
        which: Which,
        /// Read these tables instead of asking a switch
        #[arg(long, value_name = "FILE", conflicts_with_all = ["run_directory", "bootstrap"])]
        tables: Option<PathBuf>,
        /// With --tables: the node [default: the only one]
        #[arg(long, default_value = "", requires = "tables", hide_default_value = true)]
        node: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Put a change into force that is held because it removes much
    #[command(after_help = "Example:\n  sternpost config confirm --bootstrap /etc/sternpost/bootstrap.toml")]
    Confirm {
        #[command(flatten)]
        which: Which,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Asks or reads, and prints.
///
/// # Errors
/// When nobody answers, or the tables cannot be read.
pub(crate) fn run(command: &Command) -> CommandResult {
    let (answer, json, is_good) = match command {
        Command::Show { tables: Some(tables), node, json, .. } => {
            let loaded = check_config::read_tables(tables, node)?;
            let is_good = loaded.configuration.is_some() && loaded.problems.is_empty();
            // The shape of a running switch's answer, which has a generation besides.
            let shown = json!({
                "configuration": serde_json::to_value(&loaded.configuration)?,
                "problems": serde_json::to_value(&loaded.problems)?,
            });
            (shown, *json, is_good)
        }
        Command::Show { which, json, .. } => {
            (ask::on_loop(ask::qmgr(which, Question::Configuration))?, *json, true)
        }
        Command::Confirm { which, json } => {
            (ask::on_loop(ask::qmgr(which, Question::ConfirmConfiguration))?, *json, true)
        }
    };
    if json {
        output::print_json(&answer);
    } else {
        output::print(&output::indented(&answer));
    }
    Ok(exit_code(is_good))
}
