//! Reading single records back: envelopes with their states, and content, from recent memory or from the disk.
//!
//! Every record that comes from the disk is checked against its own CRC, so that what the device damaged after
//! recovery is an error and never mail.

use std::collections::VecDeque;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use sternpost_message::{
    Diagnostic, Envelope, MessageId, MessageSequence, Outcome, RecipientRange, UnixMillis,
};
use zerocopy::FromBytes;

use crate::Disk;
use crate::append::Parameters;
use crate::event::{MessageDetail, ReadError};
use crate::format::{
    CONTENT_OVERHEAD_OCTETS, ContentHead, Geometry, Kind, MessageHead, OutcomeHead, RecipientRecord, Salt,
    split_record,
};
use crate::index::Index;
use crate::living::{Living, content_octets};
use crate::place::Place;
use crate::runs::Last;
use crate::unread::Unread;

/// The disk with the geometry that makes its octets readable.
pub(crate) struct Shelf<D> {
    pub(crate) disk: D,
    pub(crate) geometry: Geometry,
    pub(crate) secret: [u8; 16],
    /// The use number of each segment; 0 where nothing was written yet.
    pub(crate) uses: Vec<u64>,
    pub(crate) recent: Recent,
    pub(crate) unread: Unread,
    /// The chunk that was read last, because content is read in small pieces.
    last_chunk: Option<(Place, Arc<[u8]>)>,
}

impl<D: Disk> Shelf<D> {
    pub(crate) fn new(disk: D, geometry: Geometry, secret: [u8; 16], parameters: &Parameters) -> Self {
        let uses = vec![0; geometry.segments as usize];
        let recent = Recent::new(parameters.recent_content_octets_max);
        let unread = Unread::new(parameters.probe_interval_ms);
        Self { disk, geometry, secret, uses, recent, unread, last_chunk: None }
    }

    /// A whole record of one of `kinds`, header and all, whose CRC is right.
    fn record(
        &mut self,
        sequence: MessageSequence,
        place: Place,
        kinds: &[Kind],
    ) -> Result<Vec<u8>, ReadError> {
        if place.is_missing() {
            return Err(ReadError::Missing(sequence));
        }
        let mut octets = vec![0; place.octets() as usize];
        if let Err(error) =
            self.disk.read(self.geometry.offset_of(place.segment(), place.offset()), &mut octets)
        {
            return Err(if self.unread.failed(place) { damaged(sequence, place) } else { error.into() });
        }
        self.unread.succeeded(place);
        // The padding is not read; a record ends at a multiple of 8 only on disk.
        octets.resize(octets.len().next_multiple_of(crate::format::RECORD_ALIGNMENT), 0);
        let salt = Salt::of_use(&self.secret, place.segment(), self.uses[place.segment() as usize]);
        let valid = split_record(&octets).is_some_and(|(header, body, _)| {
            Kind::from_number(header.kind.get()).is_some_and(|kind| kinds.contains(&kind))
                && header.body_crc.get() == salt.crc(body)
        });
        octets.truncate(place.octets() as usize);
        if valid { Ok(octets) } else { Err(damaged(sequence, place)) }
    }

    /// The head, envelope and states of a living message as its record has them.
    fn message_record(
        &mut self,
        sequence: MessageSequence,
        place: Place,
    ) -> Result<DecodedMessage, ReadError> {
        // Which of the two it is only the record itself says.
        let record = self.record(sequence, place, &[Kind::Envelope, Kind::Moved])?;
        let body = &record[crate::format::RECORD_HEADER_OCTETS..];
        decode_message(body).ok_or_else(|| damaged(sequence, place))
    }

    /// See [`crate::Log::message`].
    pub(crate) fn detail(
        &mut self,
        index: &Index,
        sequence: MessageSequence,
    ) -> Result<Option<MessageDetail>, ReadError> {
        let Some(living) = index.get(sequence) else { return Ok(None) };
        let moved = living.runs.iter().any(|run| run.last() == Last::Moved);
        let recent = self.recent.envelope(living.id).filter(|_| !moved);
        let (envelope, content_sha256, old) = match recent {
            Some((envelope, sha256)) => (envelope, sha256, Vec::new()),
            None => {
                let (head, envelope, states) = self.message_record(sequence, living.place)?;
                (Arc::new(envelope), head.content_sha256, states)
            }
        };
        let states = self.states(sequence, living, envelope.recipients.len(), &old)?;
        let content_octets = living.content_octets();
        Ok(Some(MessageDetail { id: living.id, sequence, envelope, content_octets, content_sha256, states }))
    }

    /// When it is worth while to ask for the message's records again, if the disk did not read one of them just now.
    pub(crate) fn detail_rests_until(&self, living: &Living) -> Option<UnixMillis> {
        let outcomes = living.runs.iter().filter_map(|run| match run.last() {
            Last::Outcome(place) => Some(place),
            Last::None | Last::Moved => None,
        });
        outcomes.chain([living.place]).filter_map(|place| self.unread.rests_until(place)).max()
    }

    /// The states are known; only the words of the last outcomes are read, and do without those that are lost.
    fn states(
        &mut self,
        sequence: MessageSequence,
        living: &Living,
        recipients: usize,
        moved: &[(RecipientRange, RecipientRecord)],
    ) -> Result<Vec<RecipientRecord>, ReadError> {
        let mut states = Vec::with_capacity(recipients);
        let mut cached: Option<(Place, Vec<(RecipientRange, Outcome)>)> = None;
        for run in living.runs.iter() {
            if let Last::Outcome(place) = run.last()
                && cached.as_ref().is_none_or(|(known, _)| *known != place)
            {
                let outcomes = match self.outcomes(sequence, place) {
                    Err(ReadError::Damaged { .. } | ReadError::Missing(_)) => Vec::new(),
                    other => other?,
                };
                cached = Some((place, outcomes));
            }
            for recipient in run.first..run.first + run.count {
                let last = match run.last() {
                    Last::None => None,
                    Last::Moved => moved
                        .get(moved.partition_point(|(range, _)| range.end() <= recipient))
                        .and_then(|(_, record)| record.last.clone()),
                    Last::Outcome(_) => {
                        cached.as_ref().and_then(|(_, outcomes)| last_diagnostic(outcomes, recipient))
                    }
                };
                let (state, attempts, delay_reported) = (run.state, run.attempts, run.delay_reported);
                states.push(RecipientRecord { state, attempts, last, delay_reported });
            }
        }
        Ok(states)
    }

    fn outcomes(
        &mut self,
        sequence: MessageSequence,
        place: Place,
    ) -> Result<Vec<(RecipientRange, Outcome)>, ReadError> {
        let record = self.record(sequence, place, &[Kind::Outcome])?;
        let body = &record[crate::format::RECORD_HEADER_OCTETS..];
        decode_outcome(body).map(|(_, outcomes)| outcomes).ok_or_else(|| damaged(sequence, place))
    }

    /// The content of one chunk.
    pub(crate) fn chunk(
        &mut self,
        sequence: MessageSequence,
        id: MessageId,
        index: u32,
        place: Place,
    ) -> Result<Arc<[u8]>, ReadError> {
        if let Some(octets) = self.recent.chunk(id, index) {
            return Ok(octets);
        }
        if let Some((known, octets)) = &self.last_chunk
            && *known == place
        {
            return Ok(Arc::clone(octets));
        }
        let record = self.record(sequence, place, &[Kind::Content])?;
        let head = ContentHead::read_from_prefix(&record[crate::format::RECORD_HEADER_OCTETS..]);
        if !head.is_ok_and(|(head, _)| head.id() == id && head.index.get() == index) {
            return Err(damaged(sequence, place));
        }
        let octets: Arc<[u8]> = record[CONTENT_OVERHEAD_OCTETS..].into();
        self.last_chunk = Some((place, Arc::clone(&octets)));
        Ok(octets)
    }

    /// A segment is written anew: what was read from it, or was not, no longer stands there.
    pub(crate) fn forget_segment(&mut self, segment: u32) {
        self.last_chunk = None;
        self.unread.forget_segment(segment);
    }

    /// See [`crate::Log::read_content`].
    pub(crate) fn content(
        &mut self,
        index: &Index,
        sequence: MessageSequence,
        offset: u64,
        into: &mut [u8],
    ) -> Result<usize, ReadError> {
        let living = index.get(sequence).ok_or(ReadError::Unknown(sequence))?;
        let mut chunk_start = 0;
        let mut done = 0;
        for (number, place) in (0..).zip(living.chunks()) {
            if place.is_missing() {
                return Err(ReadError::Missing(sequence));
            }
            let chunk_end = chunk_start + content_octets(*place);
            let at = offset + done as u64;
            if at < chunk_end && done < into.len() {
                let octets = self.chunk(sequence, living.id, number, *place)?;
                let skip = usize::try_from(at - chunk_start).map_err(|_| ReadError::Missing(sequence))?;
                let part = octets.get(skip..).unwrap_or_default();
                let count = part.len().min(into.len() - done);
                into[done..done + count].copy_from_slice(&part[..count]);
                done += count;
            }
            if done == into.len() {
                break;
            }
            chunk_start = chunk_end;
        }
        Ok(done)
    }
}

const fn damaged(sequence: MessageSequence, place: Place) -> ReadError {
    ReadError::Damaged { sequence, segment: place.segment(), offset: place.offset() }
}

/// The last diagnostic that a recipient got from these outcomes.
fn last_diagnostic(outcomes: &[(RecipientRange, Outcome)], recipient: u32) -> Option<Diagnostic> {
    outcomes.iter().rev().filter(|(range, _)| range.first <= recipient && recipient < range.end()).find_map(
        |(_, outcome)| match outcome {
            Outcome::Delivered(diagnostic)
            | Outcome::Transferred(diagnostic)
            | Outcome::Failed(diagnostic)
            | Outcome::Deferred { diagnostic, .. } => Some(diagnostic.clone()),
            Outcome::DelayReported | Outcome::Reported { .. } | Outcome::Discarded { .. } => None,
        },
    )
}

/// A message record's body: head, envelope, states.
type DecodedMessage = (MessageHead, Envelope, Vec<(RecipientRange, RecipientRecord)>);

/// Decodes an envelope or a moved record.
pub(crate) fn decode_message(body: &[u8]) -> Option<DecodedMessage> {
    let (head, rest) = MessageHead::read_from_prefix(body).ok()?;
    let (envelope, states) = rest.split_at_checked(head.envelope_octets.get() as usize)?;
    let states = states.get(..head.states_octets.get() as usize)?;
    let envelope: Envelope = postcard::from_bytes(envelope).ok()?;
    let states = if states.is_empty() { Vec::new() } else { postcard::from_bytes(states).ok()? };
    Some((head, envelope, states))
}

/// An outcome record's body.
pub(crate) fn decode_outcome(body: &[u8]) -> Option<(OutcomeHead, Vec<(RecipientRange, Outcome)>)> {
    let (head, rest) = OutcomeHead::read_from_prefix(body).ok()?;
    Some((head, postcard::from_bytes(rest).ok()?))
}

/// Envelopes and content that were written a moment ago, up to a bound; the oldest message goes first.
pub(crate) struct Recent {
    messages: FxHashMap<MessageId, RecentMessage>,
    order: VecDeque<MessageId>,
    octets: usize,
    octets_max: usize,
}

#[derive(Default)]
struct RecentMessage {
    chunks: Vec<(u32, Arc<[u8]>)>,
    envelope: Option<(Arc<Envelope>, [u8; 32])>,
    octets: usize,
}

/// What a remembered message costs beside its content: envelope, map and lists.
const RECENT_MESSAGE_OCTETS: usize = 512;

impl Recent {
    fn new(octets_max: usize) -> Self {
        Self { messages: FxHashMap::default(), order: VecDeque::new(), octets: 0, octets_max }
    }

    fn entry(&mut self, id: MessageId) -> &mut RecentMessage {
        self.messages.entry(id).or_insert_with(|| {
            self.order.push_back(id);
            self.octets += RECENT_MESSAGE_OCTETS;
            RecentMessage { octets: RECENT_MESSAGE_OCTETS, ..RecentMessage::default() }
        })
    }

    pub(crate) fn add_chunk(&mut self, id: MessageId, index: u32, octets: Arc<[u8]>) {
        let length = octets.len();
        let entry = self.entry(id);
        entry.chunks.push((index, octets));
        entry.octets += length;
        self.octets += length;
        self.shrink();
    }

    pub(crate) fn add_envelope(&mut self, id: MessageId, envelope: Arc<Envelope>, sha256: [u8; 32]) {
        self.entry(id).envelope = Some((envelope, sha256));
        self.shrink();
    }

    pub(crate) fn forget(&mut self, id: MessageId) {
        if let Some(message) = self.messages.remove(&id) {
            self.octets -= message.octets;
        }
        // Names of the forgotten stay in the order until they reach its front; they must not pile up behind a survivor.
        if self.order.len() > 1024 + 2 * self.messages.len() {
            let messages = &self.messages;
            self.order.retain(|id| messages.contains_key(id));
        }
    }

    fn shrink(&mut self) {
        while self.octets > self.octets_max {
            let Some(oldest) = self.order.pop_front() else { return };
            if let Some(message) = self.messages.remove(&oldest) {
                self.octets -= message.octets;
            }
        }
    }

    fn chunk(&self, id: MessageId, index: u32) -> Option<Arc<[u8]>> {
        let chunks = &self.messages.get(&id)?.chunks;
        // Chunks come in order nearly always.
        let guess = chunks.get(index as usize).filter(|(known, _)| *known == index);
        guess
            .or_else(|| chunks.iter().find(|(known, _)| *known == index))
            .map(|(_, octets)| Arc::clone(octets))
    }

    fn envelope(&self, id: MessageId) -> Option<(Arc<Envelope>, [u8; 32])> {
        self.messages.get(&id)?.envelope.clone()
    }
}
