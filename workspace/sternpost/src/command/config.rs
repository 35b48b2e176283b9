//! `sternpost config show`, `sternpost config confirm` and `sternpost config attributes`.

use super::{CommandResult, check_config, exit_code};
use crate::ask::{self, Which};
use crate::output;
use serde_json::{Value, json};
use std::path::PathBuf;
use sternpost_config::{ATTRIBUTES, Attribute, Class, Syntax, attribute_help};
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
    /// Show what can be configured: each attribute with its unit, default and bounds
    #[command(
        after_help = "Examples:\n  sternpost config attributes\n  sternpost config attributes retry_step_s\n  sternpost config attributes sternpostQmgr\n\nsternpost man writes all of it as a manual page, sternpost-configuration(5)."
    )]
    Attributes {
        /// One attribute, by its name in the directory or its key in tables; or a class, or a table
        #[arg(value_name = "NAME")]
        name: Option<String>,
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
        Command::Attributes { name, json } => return Ok(exit_code(attributes(name.as_deref(), *json))),
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

/// Prints the table of attributes or a part of it. Whether there was something to print.
fn attributes(name: Option<&str>, json: bool) -> bool {
    let found = find(name);
    if let (Some(name), true) = (name, found.is_empty()) {
        let near: Vec<&str> = near(name).map(|attribute| attribute.name).collect();
        let near =
            if near.is_empty() { String::new() } else { format!(" Like it are: {}.", near.join(", ")) };
        eprintln!(
            "error: no attribute, key, class or table is called {}.{near} sternpost config attributes shows all",
            output::printable(name)
        );
        return false;
    }
    if json {
        output::print_json(&Value::Array(found.into_iter().map(value).collect()));
    } else {
        output::print(&found.into_iter().map(attribute_help).collect::<Vec<_>>().join("\n"));
    }
    true
}

fn find(name: Option<&str>) -> Vec<&'static Attribute> {
    let Some(name) = name else { return ATTRIBUTES.iter().collect() };
    let by_class =
        Class::ALL.into_iter().find(|class| class.table() == name || class.name().eq_ignore_ascii_case(name));
    let one: Vec<_> = Class::ALL.into_iter().filter_map(|class| Attribute::find(class, name)).collect();
    // `channel` is a key and a table: the table is what has more to say.
    by_class.map_or(one, |class| class.attributes().collect())
}

/// Attributes whose key has the text in it.
fn near(name: &str) -> impl Iterator<Item = &'static Attribute> {
    let name = name.to_ascii_lowercase();
    ATTRIBUTES.iter().filter(move |attribute| {
        !name.is_empty()
            && (attribute.key().contains(&name) || attribute.name.to_ascii_lowercase().contains(&name))
    })
}

fn value(attribute: &Attribute) -> Value {
    let is_number = attribute.syntax == Syntax::Integer;
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    json!({
        "name": attribute.name,
        "key": attribute.key(),
        "class": attribute.class.name(),
        "table": attribute.class.table(),
        "is_required": attribute.values.required(),
        "is_single": attribute.values.single(),
        "unit": text(attribute.unit),
        "default": text(attribute.default),
        "min": is_number.then_some(attribute.min),
        "max": is_number.then_some(attribute.max),
        "description": attribute.description,
    })
}
