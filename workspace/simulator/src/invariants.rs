//! What must hold after every crash and restart, each a sentence. Both kinds of histories ask the same.
//!
//! A message that an injected damage may concern is exempt from what cannot be kept for it on one disk, and from nothing
//! else: it is never handed out with other content, and its loss is listed. All others do not notice the damage.
//!
//! Holds, processing steps and lists that are expanded once are in the design and not in the product (no record, frame or
//! event knows them yet). When they come: a hold is a part of [`invariant_priorities_and_attempts_survive`], and "no list is
//! expanded twice" is a sibling of [`invariant_no_report_is_sent_twice`], for a list's children commit with the outcome of
//! their parent as a report does.

use sternpost_message::{MessageId, RecipientState};
use sternpost_queue::MessageDetail;

use crate::model::{Found, Message, Model, Recorded, Standing};

type Kept = Result<(), String>;

/// All that an opened log must keep.
pub(crate) fn after_opening(model: &Model, found: &Found) -> Kept {
    invariant_content_is_no_record(model, found)?;
    invariant_acknowledged_mail_is_there_once(model, found)?;
    invariant_nothing_dead_comes_back(model, found)?;
    invariant_terminal_recipients_stay_terminal(model, found)?;
    invariant_priorities_and_attempts_survive(model, found)?;
    invariant_no_report_is_sent_twice(model, found)?;
    invariant_damage_is_isolated_and_listed(model, found)
}

/// What lives, with what is known of it and was not hit by a damage.
fn intact<'a>(
    model: &'a Model,
    found: &'a Found,
) -> impl Iterator<Item = (MessageId, &'a Message, &'a MessageDetail)> {
    found.details.iter().filter_map(|(id, detail)| {
        let message = model.messages.get(id).filter(|message| !message.is_hit)?;
        Some((*id, message, detail))
    })
}

/// Nothing is in the log that nobody has put there as a message: neither from content that looks like records nor from what
/// stood in a segment before.
fn invariant_content_is_no_record(model: &Model, found: &Found) -> Kept {
    for id in found.details.keys().chain(found.partials.keys()).chain(&found.unreadable) {
        if !model.messages.contains_key(id) {
            return Err(format!("{id} was never appended and is in the log"));
        }
    }
    for (id, message, _) in intact(model, found) {
        if matches!(message.standing, Standing::Unknown | Standing::Void) {
            return Err(format!("{id} is {:?} and lives", message.standing));
        }
    }
    Ok(())
}

/// Every message that is durable is there, under its number, with its envelope, bit for bit, and once.
fn invariant_acknowledged_mail_is_there_once(model: &Model, found: &Found) -> Kept {
    if found.facts.len() != found.details.len() + found.unreadable.len() {
        return Err("a message is in the log under two numbers".to_owned());
    }
    for (id, message, detail) in intact(model, found) {
        if message.sequence.is_some_and(|sequence| sequence != detail.sequence) {
            return Err(format!("{id} is there under another number"));
        }
        if let Some(other) = model.sequences.get(&detail.sequence).filter(|other| **other != id)
            && !model.messages[other].is_hit
        {
            return Err(format!("number {} was given to {id} and {other}", detail.sequence));
        }
        if detail.content_sha256 != message.sha256
            || detail.content_octets != message.content.len() as u64
            || *detail.envelope != message.envelope
        {
            return Err(format!("{id} is not what was appended"));
        }
    }
    for (id, message) in model.messages.iter().filter(|(_, message)| !message.is_hit) {
        let is_there = found.details.contains_key(id);
        if message.standing == Standing::Accepted && !is_there && !message.may_be_over() {
            let was = if message.is_acknowledged { "acknowledged" } else { "durable" };
            return Err(format!("{id} was {was}, was not dead, and is gone"));
        }
    }
    for id in found.partials.keys() {
        let message = &model.messages[id];
        if message.standing == Standing::Accepted && !message.is_hit {
            return Err(format!("{id} is a message and came back as a partial one"));
        }
    }
    Ok(())
}

/// What was durably dead stays dead.
fn invariant_nothing_dead_comes_back(model: &Model, found: &Found) -> Kept {
    match intact(model, found).find(|(_, message, _)| message.is_over()) {
        Some((id, ..)) => Err(format!("{id} was dead and lives")),
        None => Ok(()),
    }
}

/// No recipient is in a state that no durable or doubtful outcome leads to: least of all back from a terminal one, from
/// where it would be attempted again.
fn invariant_terminal_recipients_stay_terminal(model: &Model, found: &Found) -> Kept {
    for (id, message, detail) in intact(model, found) {
        for (at, is) in detail.states.iter().enumerate() {
            if !message.possible(at).iter().any(|recorded| recorded.state == is.state) {
                let was = message.recorded[at].state;
                return Err(format!("recipient {at} of {id} was durably {was:?} and is {:?}", is.state));
            }
        }
    }
    Ok(())
}

/// Precedence, attempts and the word that a delay was reported are what they were.
fn invariant_priorities_and_attempts_survive(model: &Model, found: &Found) -> Kept {
    for facts in &found.facts {
        let message = &model.messages[&facts.id];
        if facts.precedence != message.envelope.precedence {
            return Err(format!("{} is {:?} and was not", facts.id, facts.precedence));
        }
    }
    for (id, message, detail) in intact(model, found) {
        for (at, is) in detail.states.iter().enumerate() {
            let is = Recorded { state: is.state, attempts: is.attempts, delay_reported: is.delay_reported };
            let possible = message.possible(at);
            if !possible.contains(&is) {
                return Err(format!("recipient {at} of {id} is {is:?}, and only {possible:?} is possible"));
            }
        }
    }
    Ok(())
}

/// A report is in the log together with the fact that it was made, or not at all; so nobody makes a second one.
fn invariant_no_report_is_sent_twice(model: &Model, found: &Found) -> Kept {
    for (report, of) in &model.reports {
        let was_accepted = model.messages[report].standing == Standing::Accepted;
        let is_there = found.details.contains_key(report);
        for of in of {
            let (Some(message), Some(detail)) =
                (model.messages.get(&of.message), found.details.get(&of.message))
            else {
                continue;
            };
            if message.is_hit || model.messages[report].is_hit {
                continue;
            }
            let recorded = &detail.states[of.recipient];
            let is_told = if of.is_delay {
                recorded.delay_reported || recorded.state != RecipientState::Pending
            } else {
                recorded.state.is_terminal()
            };
            if (is_there || was_accepted) && !is_told {
                return Err(format!(
                    "report {report} is there and recipient {} of {} does not know it",
                    of.recipient, of.message
                ));
            }
        }
    }
    Ok(())
}

/// What was damaged is named, by the place or by the message, and nothing is named that was not damaged.
fn invariant_damage_is_isolated_and_listed(model: &Model, found: &Found) -> Kept {
    let report = &found.report;
    for (_, id) in &report.damaged_messages {
        if !model.messages.get(id).is_some_and(|message| message.is_hit) {
            return Err(format!("{id} is said to be damaged and was not hit"));
        }
    }
    if let Some(id) = found.unreadable.iter().find(|id| !model.messages[id].is_hit) {
        return Err(format!("{id} cannot be read and was not hit"));
    }
    if !model.was_hit && !report.damage.is_empty() {
        return Err(format!("damage is listed where none was done: {report:?}"));
    }
    if !model.is_hit {
        return Ok(());
    }
    let is_listed = !report.damage.is_empty() || report.torn_tail.is_some() || model.is_tail_hit;
    let is_missed = |message: &Message| message.is_hit && message.lives() && !message.may_be_over();
    for (id, _) in model.messages.iter().filter(|(_, message)| is_missed(message)) {
        let is_named = model.alarmed.as_ref().is_none_or(|alarmed| alarmed.contains(id))
            || report.damaged_messages.iter().any(|(_, named)| named == id);
        // Who reads by indexes learns of a damage when he reads what it has hit.
        let is_there = found.details.contains_key(id) || found.unreadable.contains(id);
        if !is_there && !is_listed && !is_named {
            return Err(format!("{id} is lost by a damage that nobody has listed: {report:?}"));
        }
    }
    Ok(())
}
