//! A set on its way into a batch: checked for what can be checked alone, encoded, measured.

use std::borrow::Cow;
use std::sync::Arc;

use sternpost_message::{Envelope, MessageId, MessageSequence, Outcome, RecipientRange, UnixMillis};

use crate::append::{Append, AppendError, AppendSet, Lane};
use crate::batch::{Berth, DISCARDED_NEED, Need, content_need, message_need, outcome_need};
use crate::format::CHUNK_OCTETS_MAX;

/// What a recipient's state takes in a moved record when its diagnostic is left out: range, state, counters.
const STATE_OCTETS_MAX: usize = 24;

/// A set that waits, or is being written.
pub(crate) struct WaitingSet<'a> {
    /// None: the log's own.
    pub(crate) ticket: Option<u64>,
    pub(crate) lane: Lane,
    pub(crate) records: Vec<WaitingRecord<'a>>,
    /// What it takes.
    pub(crate) need: Need,
    pub(crate) came_at: UnixMillis,
    /// It may wait for others: it holds nothing but outcomes whose loss costs a duplicate.
    pub(crate) lazy: bool,
    /// It brings mail or content into the log.
    pub(crate) accepts: bool,
    /// It brings content into the log, and no envelope.
    pub(crate) only_content: bool,
    /// It holds an envelope that follows from its outcomes.
    pub(crate) is_consequence: bool,
}

/// One record of a waiting set.
pub(crate) enum WaitingRecord<'a> {
    Content { message: MessageId, index: u32, octets: Cow<'a, [u8]> },
    Envelope(Box<WaitingEnvelope>),
    Outcome { message: MessageSequence, outcomes: Arc<[(RecipientRange, Outcome)]>, encoded: Vec<u8> },
    Discard { message: MessageId },
}

pub(crate) struct WaitingEnvelope {
    pub(crate) message: MessageId,
    pub(crate) envelope: Arc<Envelope>,
    pub(crate) encoded: Vec<u8>,
    pub(crate) content_octets: u64,
    pub(crate) content_sha256: [u8; 32],
}

impl<'a> WaitingSet<'a> {
    /// Checks and encodes. `empty`: a batch of its own at the front of a segment, into which a set fits at least.
    pub(crate) fn new(
        set: AppendSet<'a>,
        lane: Lane,
        ticket: Option<u64>,
        now: UnixMillis,
        empty: &Berth,
    ) -> Result<Self, AppendError> {
        let has = |wanted: fn(&Append<'a>) -> bool| set.records.iter().any(wanted);
        let has_envelope = has(|record| matches!(record, Append::Envelope { .. }));
        let has_outcome = has(|record| matches!(record, Append::Outcome { .. }));
        if ends_what_it_brings(&set.records) {
            return Err(AppendError::Invalid("it ends a partial message and brings its envelope"));
        }
        let mut waiting = Self {
            ticket,
            lane,
            records: Vec::with_capacity(set.records.len()),
            need: Need::default(),
            came_at: now,
            lazy: !set.records.is_empty(),
            accepts: false,
            only_content: false,
            is_consequence: has_envelope && has_outcome,
        };
        for record in set.records {
            let (record, need) = waiting.encode(record, empty)?;
            waiting.need += need;
            waiting.records.push(record);
        }
        if !empty.takes(waiting.need) {
            return Err(AppendError::Invalid("it does not fit into one batch"));
        }
        // What belongs to an outcome (a report, say) is written from the same reserve.
        waiting.accepts &= lane != Lane::Outcome;
        waiting.only_content = waiting.accepts && !has_envelope;
        Ok(waiting)
    }

    /// The same, with content of its own.
    pub(crate) fn into_owned(self) -> WaitingSet<'static> {
        let records = self.records.into_iter().map(|record| match record {
            WaitingRecord::Content { message, index, octets } => {
                WaitingRecord::Content { message, index, octets: Cow::Owned(octets.into_owned()) }
            }
            WaitingRecord::Envelope(envelope) => WaitingRecord::Envelope(envelope),
            WaitingRecord::Outcome { message, outcomes, encoded } => {
                WaitingRecord::Outcome { message, outcomes, encoded }
            }
            WaitingRecord::Discard { message } => WaitingRecord::Discard { message },
        });
        WaitingSet { records: records.collect(), ..self }
    }

    fn encode(
        &mut self,
        record: Append<'a>,
        empty: &Berth,
    ) -> Result<(WaitingRecord<'a>, Need), AppendError> {
        match record {
            Append::Content { message, index, octets } => {
                if octets.is_empty() || octets.len() > CHUNK_OCTETS_MAX {
                    return Err(AppendError::Invalid("a chunk has 1 to 65,536 octets"));
                }
                (self.lazy, self.accepts) = (false, true);
                let need = content_need(octets.len());
                Ok((WaitingRecord::Content { message, index, octets }, need))
            }
            Append::Envelope { message, envelope, content_octets, content_sha256 } => {
                check(&envelope)?;
                (self.lazy, self.accepts) = (false, true);
                let encoded = encode(&envelope)?;
                let need = message_need(&envelope, encoded.len());
                let states_octets = envelope.recipients.len() * STATE_OCTETS_MAX;
                if !empty.takes(Need { octets: need.octets + states_octets, ..need }) {
                    return Err(AppendError::Invalid("the envelope does not fit into one batch"));
                }
                let envelope = Arc::new(envelope);
                let waiting = WaitingEnvelope { message, envelope, encoded, content_octets, content_sha256 };
                Ok((WaitingRecord::Envelope(Box::new(waiting)), need))
            }
            Append::Outcome { message, outcomes } => {
                self.lazy &= outcomes.iter().all(|(_, outcome)| may_wait(outcome));
                let encoded = encode(&outcomes)?;
                let need = outcome_need(outcomes.len(), encoded.len());
                Ok((WaitingRecord::Outcome { message, outcomes: outcomes.into(), encoded }, need))
            }
            Append::DiscardPartial { message } => {
                self.lazy = false;
                Ok((WaitingRecord::Discard { message }, DISCARDED_NEED))
            }
        }
    }
}

/// Whether a partial message ends in the set that brings its envelope: the order of the records would decide what is left of it.
fn ends_what_it_brings(records: &[Append<'_>]) -> bool {
    let ended = |record: &Append<'_>| match record {
        Append::DiscardPartial { message } => Some(*message),
        _ => None,
    };
    records.iter().filter_map(ended).any(|ended| {
        records.iter().any(|record| matches!(record, Append::Envelope { message, .. } if *message == ended))
    })
}

/// Losing one of these costs a duplicate or an attempt, never a message.
const fn may_wait(outcome: &Outcome) -> bool {
    outcome.kind().is_handed_over() || matches!(outcome, Outcome::Deferred { .. })
}

fn check(envelope: &Envelope) -> Result<(), AppendError> {
    if envelope.recipients.is_empty() {
        return Err(AppendError::Invalid("an envelope has a recipient"));
    }
    if envelope.routes.is_empty()
        || envelope.routes.len() >= usize::from(sternpost_message::ROUTE_DELAY_REPORT.0)
    {
        return Err(AppendError::Invalid("an envelope has a route, and not too many"));
    }
    let known = |route: sternpost_message::RouteIndex| usize::from(route.0) < envelope.routes.len();
    if !envelope.recipients.iter().all(|recipient| known(recipient.route)) {
        return Err(AppendError::Invalid("a recipient's route stands in its envelope"));
    }
    Ok(())
}

pub(crate) fn encode(body: &impl serde::Serialize) -> Result<Vec<u8>, AppendError> {
    postcard::to_stdvec(body).map_err(|_| AppendError::Invalid("it cannot be encoded"))
}
