//! `sternpost queue`: the living messages, as the running store has them or as the log has them offline.

mod content;
mod detail;
mod export;
mod exported;
mod import;
mod list;
mod listed;
mod meter;
mod offline;
mod replay;
mod restore;
mod upload;
mod verify;

use super::CommandResult;
use crate::ask::{self, AskError, Which};
use crate::output;
use listed::Listed;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;
use sternpost_link::qmgr::Question;
use sternpost_message::{MessageId, UnixMillis};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
pub(crate) use upload::UploadError;

/// What is looked at.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List living messages, in the order of acceptance; or isolated ones, or partial ones
    #[command(
        after_help = "Examples:\n  sternpost queue list\n  sternpost queue list --limit 1000 --json\n  sternpost queue list --isolated\n  sternpost queue list --partials\n  sternpost queue list --path /var/lib/sternpost/queue.log"
    )]
    List {
        #[command(flatten)]
        which: Which,
        /// Read this log instead of asking the store; the switch must not run
        #[arg(long, value_name = "LOG", conflicts_with_all = ["run_directory", "bootstrap"])]
        path: Option<PathBuf>,
        /// List the messages of which a part is lost, and which are kept apart
        #[arg(long, conflicts_with = "partials")]
        isolated: bool,
        /// List the messages of which only a part has come, with who sends each
        #[arg(long)]
        partials: bool,
        /// How many at most
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a message: its envelope, and where each recipient stands
    #[command(after_help = "Example:\n  sternpost queue show 0f0e0d0c0b0a09080706050403020100")]
    Show {
        #[command(flatten)]
        which: Which,
        /// The queue id, 32 hexadecimal digits
        id: MessageId,
        /// Read this log instead of asking the store; the switch must not run
        #[arg(long, value_name = "LOG", conflicts_with_all = ["run_directory", "bootstrap"])]
        path: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Say why a message waits
    #[command(after_help = "Example:\n  sternpost queue why 0f0e0d0c0b0a09080706050403020100")]
    Why {
        #[command(flatten)]
        which: Which,
        /// The queue id, 32 hexadecimal digits
        id: MessageId,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Write messages to files: content and envelope
    Export(export::Arguments),
    /// Put exported messages back
    Import(import::Arguments),
    /// Hand out isolated messages again
    Restore(restore::Restoring),
    /// End isolated messages, and partial ones
    Discard(restore::Discarding),
    /// Give a recording of the queue manager to a fresh scheduler, and say whether it decides the same
    #[command(
        after_help = "Examples:\n  sternpost queue replay /var/lib/sternpost/qmgr/events\n  sternpost queue replay events.2 --json\n\nA recording is made by a switch with [qmgr] record in its bootstrap: a file for each start of its queue manager, events.1, events.2 and so on. Here no switch is needed.\nExit status: 0 the same decisions, 1 others, or the recording is damaged or none."
    )]
    Replay {
        /// One file of the recording, or its name without a number: then all of them, one behind the other
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Read a whole log and check every octet that counts; the switch must not run
    #[command(
        after_help = "Examples:\n  sternpost queue verify --path /var/lib/sternpost/queue.log\n  sternpost queue verify --path /dev/sternpost/queue --json\n\nExit status: 0 no damage, 1 damage, 2 the log cannot be read. Damaged records are named with their offset on the device, and\nwith the message that each concerns. What can be saved of such messages: sternpost queue export --damaged."
    )]
    Verify {
        /// The log
        #[arg(long, value_name = "LOG")]
        path: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Looks and prints.
///
/// # Errors
/// When nobody answers, or the log cannot be read.
pub(crate) fn run(command: &Command) -> CommandResult {
    match command {
        Command::List { which, path, isolated: true, limit, json, .. } => {
            list::list_isolated(which, path.as_deref(), *limit, *json)
        }
        Command::List { which, path, partials: true, limit, json, .. } => {
            list::list_partials(which, path.as_deref(), *limit, *json)
        }
        Command::List { path: Some(path), limit, json, .. } => offline::list(path, *limit, *json),
        Command::List { which, limit, json, .. } => {
            let messages = ask::on_loop(listed::listed(which, *limit))?;
            listed::print_list(&messages.iter().map(Listed::of_facts).collect::<Vec<_>>(), *json);
            list::remark(which)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Show { id, path: Some(path), json, .. } => offline::show(path, *id, *json),
        Command::Show { which, id, json, .. } => {
            let found = ask::on_loop(detail::shown(which, *id))?;
            Ok(match found {
                Ok(detail) => detail::print_detail(&detail, *json),
                Err(standing) => detail::print_absent(*id, standing, *json),
            })
        }
        Command::Why { which, id, json } => {
            let answer = ask::on_loop(why(which, *id))?;
            if *json {
                output::print_json(&answer);
            } else {
                output::print(&output::indented(&answer));
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Export(arguments) => export::run(arguments),
        Command::Import(arguments) => import::run(arguments),
        Command::Restore(arguments) => restore::restore(arguments),
        Command::Discard(arguments) => restore::discard(arguments),
        Command::Replay { file, json } => replay::replay(file, *json),
        Command::Verify { path, json } => verify::verify(path, *json),
    }
}

/// QMGR's reasons; of a message that QMGR has not, the store's.
async fn why(which: &Which, id: MessageId) -> Result<Value, AskError> {
    match ask::qmgr(which, Question::Why { message: id }).await {
        Err(AskError::Refused { who, why }) => match restore::why_isolated(which, id).await? {
            Some(why) => Ok(json!({ "id": id.to_string(), "why": why })),
            None => Err(AskError::Refused { who, why }),
        },
        answer => answer,
    }
}

/// RFC 3339, UTC.
fn when(instant: UnixMillis) -> String {
    let nanoseconds = i128::from(instant.0) * 1_000_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanoseconds)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{} ms", instant.0))
}
