//! `sternpost queue list --isolated` and `--partials`: what is kept apart, and what is not complete.

use super::listed::Listed;
use super::{offline, when};
use crate::ask::{self, AskError, Asking, Which};
use crate::command::{CommandError, CommandResult};
use crate::output;
use serde_json::{Value, json};
use std::path::Path;
use std::process::ExitCode;
use sternpost_link::store::{FromStore, IsolatedMessage, PartialMessage, ToStore};
use sternpost_message::{MessageId, MessageSequence, UnixMillis};
use sternpost_platform::clock::Clock;
use sternpost_store::translate;

/// Lists the isolated messages of the running store, or of a log.
///
/// # Errors
/// When nobody answers, or the log cannot be read.
pub(super) fn list_isolated(which: &Which, path: Option<&Path>, limit: usize, json: bool) -> CommandResult {
    let mut rows = match path {
        None => {
            let listed = ask::on_loop(async { isolated(&mut ask::store(which)?).await })?;
            listed.iter().map(Row::of_store).collect::<Vec<_>>()
        }
        Some(path) => {
            let mut inspection = offline::searched(path)?;
            offline::warn_of_damage(path, inspection.report());
            let found = inspection.verify(&mut |_| {}).map_err(offline::failed(path))?;
            let row = |facts: &sternpost_queue::IsolatedFacts| {
                let living = inspection.messages().find(|message| message.sequence == facts.sequence);
                Row::of_log(facts, living.map(|living| Listed::of_facts(&translate::facts(living))))
            };
            found.isolated.iter().map(row).collect()
        }
    };
    rows.truncate(limit);
    if json {
        output::print_json(&Value::Array(rows.iter().map(Row::json).collect()));
    } else {
        let header = ["ID", "ACCEPTED", "OCTETS", "OPEN", "CHANNEL/PEER", "WHY"];
        output::print(&output::table(&header, &rows.iter().map(Row::cells).collect::<Vec<_>>()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Lists the partial messages of the running store, or of a log.
///
/// # Errors
/// When nobody answers, or the log cannot be read.
pub(super) fn list_partials(which: &Which, path: Option<&Path>, limit: usize, json: bool) -> CommandResult {
    let mut partials = match path {
        None => ask::on_loop(async { partials(&mut ask::store(which)?).await })?,
        Some(path) => {
            let inspection = offline::open(path)?;
            offline::warn_of_damage(path, inspection.report());
            let partial = |facts: sternpost_queue::PartialFacts| PartialMessage {
                message: facts.message,
                octets: facts.octets,
                first_seen_at: facts.first_seen_at,
                peer: None,
            };
            inspection.partials().map(partial).collect::<Vec<_>>()
        }
    };
    partials.sort_by_key(|partial| partial.first_seen_at);
    partials.truncate(limit);
    let now = Clock::default().now();
    if json {
        output::print_json(&Value::Array(partials.iter().map(|one| partial_json(one, now)).collect()));
    } else {
        let rows: Vec<_> = partials.iter().map(|partial| partial_cells(partial, now)).collect();
        output::print(&output::table(&["ID", "OCTETS", "SINCE", "AGE", "PEER"], &rows));
    }
    Ok(ExitCode::SUCCESS)
}

/// Says on standard error that there is more than what was listed.
///
/// # Errors
/// When nobody answers.
pub(super) fn remark(which: &Which) -> Result<(), CommandError> {
    let status = ask::on_loop(ask::store_status(which))?;
    let (isolated, partials) = (status.isolated_count, status.partials_count);
    if isolated > 0 {
        let (are, them) = if isolated == 1 { ("is", "it") } else { ("are", "them") };
        let messages = output::counted(isolated, "isolated message");
        eprintln!("note: {messages} {are} not listed; --isolated lists {them}");
    }
    if partials > 0 {
        let (are, them) = if partials == 1 { ("is", "it") } else { ("are", "them") };
        let messages = output::counted(partials, "message");
        eprintln!("note: {messages} {are} not complete yet; --partials lists {them}");
    }
    Ok(())
}

/// All isolated messages of the running store.
///
/// # Errors
/// When it does not answer.
pub(super) async fn isolated(store: &mut Asking) -> Result<Vec<IsolatedMessage>, AskError> {
    let question = |from, count_max| ToStore::ListIsolated { from, count_max };
    let page = |frame| match frame {
        FromStore::IsolatedListed { messages, next } => Some((messages, next)),
        _ => None,
    };
    store.store_list(MessageSequence(0), usize::MAX, question, page).await
}

async fn partials(store: &mut Asking) -> Result<Vec<PartialMessage>, AskError> {
    let question = |behind, count_max| ToStore::ListPartials { behind, count_max };
    let page = |frame| match frame {
        FromStore::PartialsListed { partials, next } => Some((partials, next.map(Some))),
        _ => None,
    };
    store.store_list(None, usize::MAX, question, page).await
}

/// An isolated message.
struct Row {
    id: MessageId,
    sequence: MessageSequence,
    why: String,
    /// When the running store has found it.
    found_at: Option<UnixMillis>,
    /// None where only a damaged batch knows it.
    listed: Option<Listed>,
}

impl Row {
    fn of_store(message: &IsolatedMessage) -> Self {
        Self {
            id: message.facts.id,
            sequence: message.facts.sequence,
            why: message.why.clone(),
            found_at: Some(message.found_at),
            listed: Some(Listed::of_facts(&message.facts)),
        }
    }

    fn of_log(facts: &sternpost_queue::IsolatedFacts, listed: Option<Listed>) -> Self {
        Self { id: facts.id, sequence: facts.sequence, why: facts.why.to_string(), found_at: None, listed }
    }

    fn json(&self) -> Value {
        let mut value = self
            .listed
            .as_ref()
            .map_or_else(|| json!({ "id": self.id.to_string(), "sequence": self.sequence.0 }), Listed::json);
        value["why"] = self.why.as_str().into();
        value["found_at"] = self.found_at.map(when).into();
        value
    }

    fn cells(&self) -> Vec<String> {
        let listed = self.listed.as_ref();
        let cell = |text: fn(&Listed) -> String| listed.map_or_else(|| "unknown".to_owned(), text);
        vec![
            self.id.to_string(),
            cell(|listed| when(listed.accepted_at)),
            cell(|listed| listed.content_octets.to_string()),
            cell(|listed| (listed.recipients_pending + listed.recipients_unreported).to_string()),
            cell(|listed| listed.routes.join(", ")),
            self.why.clone(),
        ]
    }
}

fn partial_json(partial: &PartialMessage, now: UnixMillis) -> Value {
    json!({
        "id": partial.message.to_string(),
        "octets": partial.octets,
        "first_seen_at": when(partial.first_seen_at),
        "age_s": now.since_ms(partial.first_seen_at) / 1_000,
        "peer": partial.peer,
    })
}

fn partial_cells(partial: &PartialMessage, now: UnixMillis) -> Vec<String> {
    vec![
        partial.message.to_string(),
        partial.octets.to_string(),
        when(partial.first_seen_at),
        format!("{} s", now.since_ms(partial.first_seen_at) / 1_000),
        partial.peer.clone().unwrap_or_else(|| "unknown".to_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partial_message_whose_sender_is_not_known_says_so() {
        let mut partial = PartialMessage {
            message: MessageId([3; 16]),
            octets: 61_440,
            first_seen_at: UnixMillis(1_000),
            peer: None,
        };
        let now = UnixMillis(8_999);
        assert_eq!(partial_cells(&partial, now)[3..], ["7 s", "unknown"]);
        assert_eq!(partial_json(&partial, now)["peer"], Value::Null);
        partial.peer = Some("192.0.2.1:4711".to_owned());
        assert_eq!(partial_cells(&partial, now)[4], "192.0.2.1:4711");
    }
}
