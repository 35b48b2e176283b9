//! `sternpost check-config`: reads tables as the switch would, and says what is wrong with each entry.

use super::{CommandError, CommandResult, exit_code};
use crate::bootstrap::{Bootstrap, Source};
use crate::output;
use serde_json::json;
use std::path::{Path, PathBuf};
use sternpost_config::{Loaded, Problem, entries_from_tables, load};

/// What is checked.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sternpost check-config --tables tables.toml\n  sternpost check-config --bootstrap bootstrap.toml --json\n\nThis reads tables only. What is wrong with a directory's entries stands in sternpost status and in the log.\n\nExit status: 0 nothing is wrong, 1 something is."
)]
pub(crate) struct Arguments {
    /// The tables
    #[arg(long, value_name = "FILE", required_unless_present = "bootstrap")]
    tables: Option<PathBuf>,
    /// The bootstrap that names the tables
    #[arg(long, value_name = "FILE", conflicts_with = "tables")]
    bootstrap: Option<PathBuf>,
    /// The node whose configuration is checked [default: the only one, or that of the bootstrap]
    #[arg(long)]
    node: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Checks and prints.
///
/// # Errors
/// When there are no tables that could be read.
pub(crate) fn run(arguments: &Arguments) -> CommandResult {
    let (path, identity) = match (&arguments.tables, &arguments.bootstrap) {
        (None, Some(path)) => {
            let bootstrap = Bootstrap::read(path)?;
            match bootstrap.source {
                Source::Tables(tables) => (tables, bootstrap.node),
                Source::Directory(_) => return Err(CommandError::NotTables { path: path.clone() }),
            }
        }
        (tables, _) => (tables.clone().unwrap_or_default(), String::new()),
    };
    let loaded = read_tables(&path, arguments.node.as_ref().unwrap_or(&identity))?;
    let is_good = loaded.problems.is_empty() && loaded.configuration.is_some();
    if arguments.json {
        output::print_json(&json!({
            "usable": loaded.configuration.is_some(),
            "problems": serde_json::to_value(&loaded.problems)?,
        }));
    } else {
        output::print(&text(&path, &loaded));
    }
    Ok(exit_code(is_good))
}

/// Reads a file of tables as the node sees it.
///
/// # Errors
/// `Read` and `Tables`.
pub(crate) fn read_tables(path: &Path, node_identity: &str) -> Result<Loaded, CommandError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| CommandError::Read { path: path.to_owned(), source })?;
    let entries = entries_from_tables(&text)
        .map_err(|source| CommandError::Tables { path: path.to_owned(), source })?;
    Ok(load(&entries, node_identity))
}

fn text(path: &Path, loaded: &Loaded) -> String {
    let mut out: String = loaded.problems.iter().map(problem_text).collect();
    out.push_str(&match (&loaded.configuration, loaded.problems.len()) {
        (None, count) => format!("{}: no configuration; problems: {count}\n", path.display()),
        (Some(configuration), 0) => format!(
            "{}: good. Node {}, listeners {}, channels {}, peers {}, routes {}\n",
            path.display(),
            output::printable(&configuration.node.name),
            configuration.listeners.len(),
            configuration.channels.len(),
            configuration.peers.len(),
            configuration.routes.len(),
        ),
        (Some(_), count) => format!("{}: usable without what is wrong; problems: {count}\n", path.display()),
    });
    out
}

/// A problem for people: which entry, what is wrong, what holds, what to do.
fn problem_text(problem: &Problem) -> String {
    let attribute = problem.attribute.as_deref().unwrap_or("the entry");
    let dn = if problem.dn.is_empty() { "the whole set" } else { &problem.dn };
    format!(
        "{}\n  {}: {} ({})\n  {}\n",
        output::printable(dn),
        output::printable(attribute),
        output::printable(&problem.reason),
        problem.effect,
        output::printable(&problem.what_to_do)
    )
}
