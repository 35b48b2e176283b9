//! `sternpost check-config`: reads tables as the switch would, or a site's file as a device would, and says what is wrong.

use super::device::desk::{self, Judged};
use super::{CommandError, CommandResult, exit_code};
use crate::bootstrap::{Bootstrap, Source};
use crate::output;
use serde_json::json;
use std::path::{Path, PathBuf};
use sternpost_config::{Loaded, Problem, entries_from_tables, load};

/// What is checked.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sternpost check-config --tables tables.toml\n  sternpost check-config --bootstrap bootstrap.toml --json\n  sternpost check-config --site sternpost.toml --serial CZC1234567\n\nThis reads tables, and what a site gives to a device; it changes nothing and asks nobody. What is wrong with a directory's entries stands in sternpost status and in the log.\n\nExit status: 0 nothing is wrong, 1 something is."
)]
pub(crate) struct Arguments {
    /// The tables
    #[arg(long, value_name = "FILE", required_unless_present_any = ["bootstrap", "site"])]
    tables: Option<PathBuf>,
    /// The bootstrap that names the tables
    #[arg(long, value_name = "FILE", conflicts_with = "tables")]
    bootstrap: Option<PathBuf>,
    /// The file that a site gives to a device, with what it names beside it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["tables", "bootstrap", "node"])]
    site: Option<PathBuf>,
    /// The serial number of the device
    #[arg(long, value_name = "TEXT", requires = "site")]
    serial: Option<String>,
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
    if let Some(path) = &arguments.site {
        return check_site(path, arguments);
    }
    let (path, identity) = match (&arguments.tables, &arguments.bootstrap) {
        (None, Some(path)) => {
            let bootstrap = Bootstrap::read(path)
                .map_err(|error| if is_of_a_device(path) { of_a_device(path) } else { error.into() })?;
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

fn check_site(path: &Path, arguments: &Arguments) -> CommandResult {
    let judged = desk::judge(path, arguments.serial.as_deref())?;
    let is_good = judged.is_ok();
    if arguments.json {
        output::print_json(&match &judged {
            Ok(Judged { node, directory, interfaces }) => json!({
                "usable": true, "problems": [], "node": node, "directory": directory, "interfaces": interfaces,
            }),
            Err(problems) => json!({ "usable": false, "problems": problems }),
        });
    } else {
        output::print(&site_text(path, &judged));
    }
    Ok(exit_code(is_good))
}

fn site_text(path: &Path, judged: &Result<Judged, Vec<String>>) -> String {
    let path = path.display();
    match judged {
        Ok(Judged { node, directory, interfaces }) => {
            let interfaces =
                if interfaces.is_empty() { "all by DHCP".to_owned() } else { interfaces.join(", ") };
            output::printable(&format!(
                "{path}: good. Node {}, directory {}, interfaces {interfaces}",
                node.as_deref().unwrap_or("by the serial number of the device"),
                directory.join(", "),
            )) + "\n"
        }
        Err(problems) => {
            let lines = problems.iter().map(|problem| output::printable(problem) + "\n");
            lines.collect::<String>() + &format!("{path}: problems: {}\n", problems.len())
        }
    }
}

/// Whether a file says where a directory is, and nothing of a log: a device has its own.
fn is_of_a_device(path: &Path) -> bool {
    let table = std::fs::read_to_string(path).ok().and_then(|text| text.parse::<toml::Table>().ok());
    table.is_some_and(|table| table.contains_key("directory") && !table.contains_key("queue"))
}

fn of_a_device(path: &Path) -> CommandError {
    CommandError::OfADevice { path: path.to_owned() }
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
