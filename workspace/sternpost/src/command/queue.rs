//! `sternpost queue`: the living messages, as the running store has them or as the log has them offline.

mod content;
mod export;
mod exported;
mod import;
mod list;
mod meter;
mod offline;
mod restore;
mod upload;
mod verify;

use super::{CommandResult, exit_code};
use crate::ask::{self, AskError, Which};
use crate::output;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;
use sternpost_link::qmgr::Question;
use sternpost_link::store::{FromStore, MessageDetail, MessageFacts, Standing, ToStore};
use sternpost_message::{Envelope, MessageId, MessageSequence, RecipientRange, UnixMillis};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
pub(crate) use upload::UploadError;

/// The most that one frame of the store's answer may list.
const PAGE_MESSAGES: u32 = 256;

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
            let messages = ask::on_loop(listed(which, *limit))?;
            print_list(&messages.iter().map(Listed::of_facts).collect::<Vec<_>>(), *json);
            list::remark(which)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Show { id, path: Some(path), json, .. } => offline::show(path, *id, *json),
        Command::Show { which, id, json, .. } => {
            let found = ask::on_loop(shown(which, *id))?;
            Ok(match found {
                Ok(detail) => print_detail(&detail, *json),
                Err(standing) => print_absent(*id, standing, *json),
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

/// A message in full; of one that is not in the queue, where it stands.
async fn shown(which: &Which, id: MessageId) -> Result<Result<Box<MessageDetail>, Standing>, AskError> {
    let mut store = ask::store(which)?;
    Ok(match store.store_detail(id).await? {
        Some(detail) => Ok(detail),
        None => Err(content::standing(&mut store, id).await?),
    })
}

/// Asks the store page by page.
async fn listed(which: &Which, limit: usize) -> Result<Vec<MessageFacts>, AskError> {
    let mut store = ask::store(which)?;
    let mut messages = Vec::new();
    let mut from = Some(MessageSequence(0));
    while let Some(first) = from
        && messages.len() < limit
    {
        let count_max =
            u32::try_from(limit - messages.len()).map_or(PAGE_MESSAGES, |count| count.min(PAGE_MESSAGES));
        let (mut page, next) = store
            .store_answer(&ToStore::List { from: first, count_max }, |frame| match frame {
                FromStore::Listed { messages, next } => Some((messages, next)),
                _ => None,
            })
            .await?;
        messages.append(&mut page);
        // A store that names the same place again would be asked for ever.
        from = next.filter(|next| *next > first);
    }
    messages.truncate(limit);
    Ok(messages)
}

/// One line of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Listed {
    id: MessageId,
    sequence: MessageSequence,
    accepted_at: UnixMillis,
    precedence: &'static str,
    content_octets: u64,
    recipients_pending: u64,
    recipients_failed: u64,
    attempts: u16,
    /// `channel/peer`, of the routes on which recipients wait.
    routes: Vec<String>,
}

fn recipients_count(ranges: &[RecipientRange]) -> u64 {
    ranges.iter().map(|range| u64::from(range.count)).sum()
}

impl Listed {
    fn of_facts(facts: &MessageFacts) -> Self {
        Self {
            id: facts.id,
            sequence: facts.sequence,
            accepted_at: facts.accepted_at,
            precedence: facts.precedence.name(),
            content_octets: facts.content_octets,
            recipients_pending: facts.mlists.iter().map(|mlist| recipients_count(&mlist.pending)).sum(),
            recipients_failed: recipients_count(&facts.failed),
            attempts: facts.mlists.iter().map(|mlist| mlist.attempts).max().unwrap_or(0),
            routes: facts.mlists.iter().map(|mlist| format!("{}/{}", mlist.channel, mlist.peer)).collect(),
        }
    }

    fn json(&self) -> Value {
        json!({
            "id": self.id.to_string(),
            "sequence": self.sequence.0,
            "accepted_at": when(self.accepted_at),
            "precedence": self.precedence,
            "content_octets": self.content_octets,
            "recipients_pending": self.recipients_pending,
            "recipients_failed": self.recipients_failed,
            "attempts": self.attempts,
            "routes": self.routes,
        })
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            when(self.accepted_at),
            self.precedence.to_owned(),
            self.content_octets.to_string(),
            self.recipients_pending.to_string(),
            self.recipients_failed.to_string(),
            self.attempts.to_string(),
            self.routes.join(", "),
        ]
    }
}

const HEADER: [&str; 8] =
    ["ID", "ACCEPTED", "PRECEDENCE", "OCTETS", "PENDING", "FAILED", "ATTEMPTS", "CHANNEL/PEER"];

fn print_list(messages: &[Listed], json: bool) {
    if json {
        output::print_json(&Value::Array(messages.iter().map(Listed::json).collect()));
    } else {
        let rows: Vec<_> = messages.iter().map(Listed::row).collect();
        output::print(&output::table(&HEADER, &rows));
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

fn print_detail(detail: &MessageDetail, json: bool) -> ExitCode {
    let value = detail_json(detail);
    output::print(&if json { output::json(&value) } else { detail_text(&value) });
    exit_code(true)
}

fn print_absent(id: MessageId, standing: Standing, json: bool) -> ExitCode {
    if json {
        output::print_json(&Value::Null);
    } else {
        output::print(&match standing {
            Standing::Partial => {
                format!("{id}: {}; sternpost queue list --partials shows it", content::PARTIAL)
            }
            _ => format!("{id} is not in the queue: it was handed over or discarded, or never accepted"),
        });
    }
    exit_code(false)
}

fn detail_json(detail: &MessageDetail) -> Value {
    let Envelope {
        sender,
        recipients,
        routes,
        accepted_at,
        precedence,
        mt_priority,
        body,
        smtputf8,
        ret,
        envelope_id,
        source,
        client,
    } = &detail.envelope;
    let recipient = |(at, recipient): (usize, &sternpost_message::Recipient)| {
        let record = detail.recipients.get(at);
        let route = routes.get(usize::from(recipient.route.0));
        json!({
            "address": recipient.address.as_str(),
            "state": record.map(|record| record.state.name()),
            "attempts": record.map(|record| record.attempts),
            "delay_reported": record.map(|record| record.delay_reported),
            "last": record.and_then(|record| record.last.as_ref()).map(ToString::to_string),
            "remote": record.and_then(|record| record.last.as_ref()).map(|last| last.remote.clone()),
            "channel": route.map(|route| &route.channel),
            "peer": route.map(|route| &route.peer),
        })
    };
    json!({
        "id": detail.id.to_string(),
        "sequence": detail.sequence.0,
        "accepted_at": when(*accepted_at),
        "sender": sender.to_string(),
        "precedence": precedence.name(),
        "mt_priority": mt_priority.map(sternpost_message::MtPriority::get),
        "content_octets": detail.content_octets,
        "body": exported::body_name(*body),
        "smtputf8": smtputf8,
        "ret": ret.map(exported::ret_name),
        "envelope_id": envelope_id,
        "source": source,
        "client": client,
        "recipients": recipients.iter().enumerate().map(recipient).collect::<Vec<_>>(),
    })
}

fn detail_text(value: &Value) -> String {
    let Value::Object(mut fields) = value.clone() else { return String::new() };
    let recipients = fields.remove("recipients").unwrap_or(Value::Null);
    fields.retain(|_, value| !value.is_null());
    let cell = |row: &Value, key: &str| match &row[key] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let keys = ["address", "state", "attempts", "channel", "peer", "last"];
    let rows: Vec<Vec<String>> = recipients
        .as_array()
        .map_or(&[] as &[Value], Vec::as_slice)
        .iter()
        .map(|row| keys.iter().map(|key| cell(row, key)).collect())
        .collect();
    let header = ["RECIPIENT", "STATE", "ATTEMPTS", "CHANNEL", "PEER", "LAST"];
    format!("{}\n{}", output::indented(&Value::Object(fields)), output::table(&header, &rows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sternpost_link::store::{MlistFacts, RecipientRecord};
    use sternpost_message::{Diagnostic, EnhancedStatus, Precedence, RecipientState, RouteIndex, sample};

    #[test]
    fn a_line_counts_only_what_waits() {
        let range = |first, count| RecipientRange { first, count };
        let mlist = |route, peer: &str, pending: Vec<RecipientRange>, attempts| MlistFacts {
            route: RouteIndex(route),
            channel: "smtp".into(),
            peer: peer.into(),
            pending,
            attempts,
        };
        let facts = MessageFacts {
            id: MessageId([1; 16]),
            sequence: MessageSequence(4),
            accepted_at: UnixMillis(1_500),
            precedence: Precedence::Flash,
            content_octets: 4_096,
            delay_reported: false,
            mlists: vec![mlist(0, "a", vec![range(5, 1)], 7), mlist(1, "b", vec![range(0, 2)], 3)],
            failed: vec![range(3, 1)],
        };
        let line = Listed::of_facts(&facts).row();
        let wanted = [
            "01010101010101010101010101010101",
            "1970-01-01T00:00:01.5Z",
            "flash",
            "4096",
            "3",
            "1",
            "7",
            "smtp/a, smtp/b",
        ];
        assert_eq!(line, wanted);
    }

    #[test]
    fn a_message_is_shown_with_what_was_said_of_each_recipient() {
        let detail = MessageDetail {
            id: MessageId([2; 16]),
            sequence: MessageSequence(1),
            envelope: sample::envelope(&["a@b.example"], ("smtp", "hub")),
            content_octets: 10,
            content_sha256: [0; 32],
            recipients: vec![RecipientRecord {
                state: RecipientState::Pending,
                attempts: 2,
                delay_reported: false,
                last: Some(Diagnostic::own(EnhancedStatus::new(4, 4, 1), "no answer")),
            }],
        };
        let text = detail_text(&detail_json(&detail));
        assert!(text.contains("sender: <>\n") && !text.contains("envelope_id"), "{text}");
        assert!(text.contains("a@b.example  pending  2         smtp     hub   4.4.1 no answer\n"), "{text}");
    }
}
