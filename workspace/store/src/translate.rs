//! Between the words of the links and those of the log. Two sets of types, because the log's format and the links'
//! protocol change at different times for different reasons.

use crate::isolated::is_loss;
use crate::manner::Manner;
use std::sync::Arc;
use sternpost_link::store as link;
use sternpost_message::{MessageId, MessageSequence, Outcome, RecipientRange, chain};
use sternpost_queue as queue;

pub(crate) const fn lane(lane: link::Lane) -> queue::Lane {
    match lane {
        link::Lane::Outcome => queue::Lane::Outcome,
        link::Lane::Urgent => queue::Lane::Urgent,
        link::Lane::Normal => queue::Lane::Normal,
        link::Lane::NonUrgent => queue::Lane::NonUrgent,
    }
}

pub(crate) fn set(records: Vec<link::Append<'_>>) -> queue::AppendSet<'_> {
    let records = records
        .into_iter()
        .map(|record| match record {
            link::Append::Content { message, index, octets } => {
                queue::Append::Content { message, index, octets: octets.into() }
            }
            link::Append::Envelope { message, envelope, content_octets, content_sha256 } => {
                queue::Append::Envelope { message, envelope: *envelope, content_octets, content_sha256 }
            }
            link::Append::Outcome { message, outcomes } => queue::Append::Outcome { message, outcomes },
            link::Append::DiscardPartial { message } => queue::Append::DiscardPartial { message },
        })
        .collect();
    queue::AppendSet { records }
}

pub(crate) fn refusal(error: &queue::AppendError) -> link::Refusal {
    match error {
        queue::AppendError::Full => link::Refusal::Full,
        queue::AppendError::Closed | queue::AppendError::Disk(_) => link::Refusal::Device,
        queue::AppendError::Invalid(why) => link::Refusal::Invalid((*why).to_owned()),
    }
}

/// A message in short.
#[must_use]
pub fn facts(facts: queue::MessageFacts) -> link::MessageFacts {
    link::MessageFacts {
        id: facts.id,
        sequence: facts.sequence,
        accepted_at: facts.accepted_at,
        precedence: facts.precedence,
        content_octets: facts.content_octets,
        delay_reported: facts.delay_reported,
        mlists: facts
            .routes
            .into_iter()
            .map(|route| link::MlistFacts {
                route: route.index,
                channel: route.route.channel.clone(),
                peer: route.route.peer.clone(),
                pending: route.pending,
                attempts: route.attempts,
            })
            .collect(),
        report_owed: facts.report_owed,
    }
}

/// A message in full.
#[must_use]
pub fn detail(detail: queue::MessageDetail) -> link::MessageDetail {
    link::MessageDetail {
        id: detail.id,
        sequence: detail.sequence,
        envelope: Arc::unwrap_or_clone(detail.envelope),
        content_octets: detail.content_octets,
        content_sha256: detail.content_sha256,
        recipients: detail
            .states
            .into_iter()
            .map(|record| link::RecipientRecord {
                state: record.state,
                attempts: record.attempts,
                delay_reported: record.delay_reported,
                last: record.last,
            })
            .collect(),
    }
}

/// A piece of a chunk that was read, from an offset in it on.
#[must_use]
pub fn piece(read: Result<Option<Arc<[u8]>>, queue::ReadError>, offset: u32) -> link::Piece {
    match read {
        Ok(octets) => {
            let octets = octets.as_deref().unwrap_or_default();
            let rest = octets.get(offset as usize..).unwrap_or_default();
            let taken = rest.len().min(link::PIECE_OCTETS_MAX);
            link::Piece::Octets { octets: rest[..taken].to_vec(), ends_chunk: taken == rest.len() }
        }
        Err(queue::ReadError::Unknown(_)) => link::Piece::Dead,
        Err(error) if is_loss(&error) => link::Piece::Lost { why: chain(&error) },
        Err(error) => link::Piece::Unreadable { why: chain(&error) },
    }
}

/// Where a message stands in a log; which ones are kept apart says `is_isolated`.
pub(crate) fn standing<D: queue::Disk>(
    log: &queue::Log<D>,
    message: MessageId,
    is_isolated: impl Fn(MessageSequence) -> bool,
) -> link::Standing {
    match log.find(message) {
        Some(sequence) if is_isolated(sequence) => link::Standing::Isolated(sequence),
        Some(sequence) => link::Standing::Living(sequence),
        None if log.knows(message) => link::Standing::Dead,
        None if log.partials().any(|partial| partial.message == message) => link::Standing::Partial,
        None => link::Standing::Unknown,
    }
}

pub(crate) fn effects(outcomes: &[(RecipientRange, Outcome)]) -> Vec<(RecipientRange, link::Effect)> {
    let effect = |outcome: &Outcome| match outcome {
        Outcome::Delivered(_) | Outcome::Transferred(_) => link::Effect::Worked,
        Outcome::DeliveredReportOwed(_) | Outcome::RelayedReportOwed(_) => link::Effect::WorkedReportOwed,
        Outcome::Deferred { scope, .. } => link::Effect::Deferred(*scope),
        Outcome::Failed(_) => link::Effect::Failed,
        Outcome::DelayReported => link::Effect::DelayReported,
        Outcome::Reported { .. } | Outcome::Discarded { .. } => link::Effect::Closed,
    };
    outcomes.iter().map(|(range, outcome)| (*range, effect(outcome))).collect()
}

/// The log's figures, without those that the service has of its own.
pub(crate) fn status(status: &queue::LogStatus, manner: &Manner) -> link::StoreStatus {
    link::StoreStatus {
        messages_count: status.living_messages,
        living_octets: status.living_octets,
        log_octets: status.geometry.octets(),
        segments_free_count: status.free_segments,
        segments_count: status.geometry.segments,
        partials_count: status.partials,
        is_full: !status.accepts,
        batches_count: status.batches,
        written_octets: status.written_octets,
        write_errors_count: status.write_errors,
        backend: manner.words().to_owned(),
        method: manner.backend.name().to_owned(),
        method_from: manner.backend_from,
        batch_octets_max: manner.batch_octets_max,
        batch_from: manner.batch_from,
        ..link::StoreStatus::default()
    }
}
