//! `sternpost man`: the manual pages, made of the commands as they are parsed and of the table of attributes.

use super::{CommandError, CommandResult};
use crate::output;
use clap::CommandFactory;
use clap_mangen::Man;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use sternpost_config::{MANUAL_PAGE, MANUAL_SECTION, manual_page};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Where to.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sternpost man --to /usr/local/share/man\n  sternpost man --to pages && man -l pages/man5/sternpost-configuration.5"
)]
pub(crate) struct Arguments {
    /// The folder of manual pages; its folders man1 and man5 are made if they are not there
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Writes a page for each command, and sternpost-configuration(5).
///
/// # Errors
/// When one cannot be written.
pub(crate) fn run(arguments: &Arguments) -> CommandResult {
    let mut written = Vec::new();
    let mut command = crate::Arguments::command().disable_help_subcommand(true);
    command.build();
    pages(&command, &arguments.to.join("man1"), &mut written)?;
    let name = format!("{MANUAL_PAGE}.{MANUAL_SECTION}");
    let folder = arguments.to.join(format!("man{MANUAL_SECTION}"));
    write(&folder, &name, manual_page(VERSION).as_bytes(), &mut written)?;
    if arguments.json {
        output::print_json(&json!({ "written": written }));
    } else {
        output::print(&format!("{} manual pages are in {}\n", written.len(), arguments.to.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// The pages of a command and of those below it; not of what people do not type.
fn pages(command: &clap::Command, folder: &Path, written: &mut Vec<PathBuf>) -> Result<(), CommandError> {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        pages(below, folder, written)?;
    }
    let man = Man::new(command.clone()).source(format!("sternpost {VERSION}")).manual("Sternpost");
    let mut page = Vec::new();
    man.render(&mut page).map_err(|source| CommandError::Write { path: folder.to_owned(), source })?;
    write(folder, &man.get_filename(), &page, written)
}

fn write(folder: &Path, name: &str, page: &[u8], written: &mut Vec<PathBuf>) -> Result<(), CommandError> {
    let path = folder.join(name);
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&path, page))
        .map_err(|source| CommandError::Write { path: path.clone(), source })?;
    written.push(path);
    Ok(())
}
