//! What stands for an envelope that is lost, so that what is left of its message goes on living: kept apart, through moves
//! and restarts, until an operator saves and discards it.
//!
//! It is a moved record like any other. Recipients, their states, routes, age and precedence are those that the index knows;
//! the addresses are lost. It tells of one chunk more than there is: whoever reads the log finds a message of which a part
//! is missing, which is isolated (FORMAT.md).

use std::sync::Arc;

use sternpost_message::{
    BodyType, Envelope, Mailbox, MessageSequence, Recipient, ReversePath, Route, RouteIndex,
};

use crate::ReadError;
use crate::event::MessageDetail;
use crate::format::RecipientRecord;
use crate::living::{Living, content_octets};

/// The source of no message that was accepted: listeners and roles have names of one word.
const SOURCE: &str = "the envelope is lost";
/// RFC 2606, 2: nobody has it.
const ADDRESS: &str = "unknown@invalid";

/// Whether an envelope only stands for one that is lost.
pub(crate) fn is_stand_in(envelope: &Envelope) -> bool {
    envelope.source == SOURCE
}

/// What is known of a message without its envelope. `routes`: those of its recipients, in the order of the envelope.
pub(crate) fn detail(sequence: MessageSequence, living: &Living, routes: Vec<Route>) -> MessageDetail {
    let runs = || living.runs.iter().flat_map(|run| (0..run.count).map(move |_| run));
    let address = Mailbox::parse(ADDRESS).expect("a constant that a test reads");
    let recipients = runs().map(|run| Recipient {
        address: address.clone(),
        route: RouteIndex(run.route),
        notify: None,
        original_recipient: None,
    });
    let states = runs().map(|run| RecipientRecord {
        state: run.state,
        attempts: run.attempts,
        last: None,
        delay_reported: run.delay_reported,
    });
    let envelope = Envelope {
        sender: ReversePath::Null,
        recipients: recipients.collect(),
        routes,
        accepted_at: living.accepted_at,
        precedence: living.precedence,
        mt_priority: None,
        body: BodyType::EightBitMime,
        smtputf8: false,
        ret: None,
        envelope_id: None,
        source: SOURCE.to_owned(),
        client: String::new(),
        tls: None,
        identity: None,
    };
    MessageDetail {
        id: living.id,
        sequence,
        envelope: Arc::new(envelope),
        content_octets: living.content_octets(),
        content_sha256: [0; 32],
        states: states.collect(),
    }
}

/// The same with the first of its recipients that are not terminal alone, should so many not fit into a batch.
pub(crate) fn shortened(mut detail: MessageDetail) -> MessageDetail {
    let first = detail.states.iter().position(|record| !record.state.is_terminal()).unwrap_or_default();
    detail.states = detail.states.split_off(first);
    detail.states.truncate(1);
    let envelope = Arc::make_mut(&mut detail.envelope);
    envelope.recipients = envelope.recipients.split_off(first);
    envelope.recipients.truncate(1);
    detail
}

/// Refuses what only stands for an envelope.
///
/// # Errors
/// `EnvelopeLost`.
pub(crate) fn refuse(detail: Option<MessageDetail>) -> Result<Option<MessageDetail>, ReadError> {
    match detail {
        Some(detail) if is_stand_in(&detail.envelope) => Err(ReadError::EnvelopeLost(detail.sequence)),
        detail => Ok(detail),
    }
}

/// Octets of its content whose records have not been found damaged.
pub(crate) fn octets_left(living: &Living) -> u64 {
    living.chunks().iter().map(|place| content_octets(*place)).sum()
}
