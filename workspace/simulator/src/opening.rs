//! What is looked at whenever a log was opened, in both kinds of histories.

use std::collections::{BTreeMap, BTreeSet};

use sternpost_message::{MessageId, MessageSequence, UnixMillis};
use sternpost_queue::{
    Log, MessageDetail, MessageFacts, Parameters, PartialFacts, ReadError, RecoveryReport, inspect,
};

use crate::disk::{FaultyDisk, Medium};
use crate::model::{Found, Message, Model};
use crate::random::Random;

/// Attempts at something that the disk does not read for a moment.
const READS_MAX: u32 = 4;

/// What the log says that it holds.
pub(crate) fn found(log: &mut Log<FaultyDisk>, report: RecoveryReport) -> Result<Found, String> {
    let facts: Vec<MessageFacts> = log.messages_from(MessageSequence(0)).collect();
    let mut details = BTreeMap::new();
    let mut unreadable = BTreeSet::new();
    for facts in &facts {
        match detail(log, facts.sequence) {
            Ok(Some(detail)) => drop(details.insert(facts.id, detail)),
            Ok(None) => return Err(format!("{} lives and is not there", facts.id)),
            Err(_) => drop(unreadable.insert(facts.id)),
        }
    }
    let partials = log.partials().map(|partial| (partial.message, partial)).collect();
    Ok(Found { facts, details, unreadable, partials, report })
}

fn detail(log: &mut Log<FaultyDisk>, sequence: MessageSequence) -> Result<Option<MessageDetail>, ReadError> {
    for _ in 1..READS_MAX {
        match log.message(sequence) {
            Err(ReadError::Disk(_)) => {}
            other => return other,
        }
    }
    log.message(sequence)
}

/// Reading every record finds what opening the log by its indexes has found. Of what was hit one may know less than the other:
/// who reads by indexes does not see damage that nobody has asked for.
pub(crate) fn invariant_indexes_say_what_records_say(
    medium: &Medium,
    model: &Model,
    found: &Found,
) -> Result<(), String> {
    let twin = medium.twin();
    let disk = twin.open().map_err(|closed| format!("a copy of the disk is {closed:?}"))?;
    let read = inspect(disk, &mut |_| {}).map_err(|error| error.to_string())?;
    let is_exempt = |id: &MessageId| model.messages.get(id).is_some_and(|message| message.is_hit);
    let seen: Vec<MessageFacts> = read.messages().filter(|facts| !is_exempt(&facts.id)).collect();
    if !seen.iter().eq(found.facts.iter().filter(|facts| !is_exempt(&facts.id))) {
        return Err("recovery by index and in full have found different mail".to_owned());
    }
    // An old copy of a chunk may be damaged, of which only the records would tell when it was first seen.
    let shown = |facts: PartialFacts| {
        let first_seen_at = if model.was_hit { UnixMillis(0) } else { facts.first_seen_at };
        PartialFacts { first_seen_at, ..facts }
    };
    let in_full = read.partials().filter(|facts| !is_exempt(&facts.message)).map(shown);
    let in_full: BTreeMap<_, _> = in_full.map(|facts| (facts.message, facts)).collect();
    let by_index = found.partials.values().filter(|facts| !is_exempt(&facts.message)).copied().map(shown);
    let by_index: BTreeMap<_, _> = by_index.map(|facts| (facts.message, facts)).collect();
    if in_full != by_index {
        return Err(format!(
            "recovery by index has found the partial messages {by_index:?}, in full {in_full:?}"
        ));
    }
    Ok(())
}

/// Opening the log once more, as after a crash before the first write, finds the same.
pub(crate) fn invariant_recovery_is_idempotent(
    medium: &Medium,
    found: &Found,
    parameters: Parameters,
    now: UnixMillis,
) -> Result<(), String> {
    let disk = medium.twin().open().map_err(|closed| format!("a copy of the disk is {closed:?}"))?;
    let parameters = Parameters { isolates_unreadable: true, ..parameters };
    let (again, report) = Log::open(disk, parameters, now).map_err(|error| error.to_string())?;
    if !again.messages_from(MessageSequence(0)).eq(found.facts.iter().cloned()) {
        return Err("opening the log twice has found different mail".to_owned());
    }
    if report.damaged_messages != found.report.damaged_messages {
        return Err("opening the log twice has found different damage".to_owned());
    }
    Ok(())
}

/// What is handed out is what came in, however it is cut into pieces. Of a message that was hit nothing may be handed out at
/// all.
pub(crate) fn invariant_content_is_what_came_in(
    log: &mut Log<FaultyDisk>,
    random: &mut Random,
    sequence: MessageSequence,
    message: &Message,
) -> Result<(), String> {
    let mut octets = vec![0; message.content.len() + 1];
    let mut done = 0;
    let mut failures = 0;
    loop {
        let piece = (1 + random.place(20_000)).min(octets.len() - done);
        match log.read_content(sequence, done as u64, &mut octets[done..done + piece]) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(_) if message.is_hit => return Ok(()),
            Err(ReadError::Disk(_)) if failures < READS_MAX => failures += 1,
            Err(error) => return Err(format!("content of {sequence}: {error}")),
        }
    }
    if octets[..done] == message.content[..] {
        Ok(())
    } else {
        Err(format!("content of {sequence} is not what came in"))
    }
}
