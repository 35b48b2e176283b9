//! Reading single records back: envelopes with their states, and content, from recent memory or from the disk.
//!
//! Every record that comes from the disk is checked against its own CRC, so that what the device damaged after
//! recovery is an error and never mail.

use std::cell::Cell;
use std::sync::Arc;

use sternpost_message::{
    Diagnostic, Envelope, MessageId, MessageSequence, Outcome, RecipientRange, RouteIndex, UnixMillis,
};
use zerocopy::FromBytes;

use crate::append::Parameters;
use crate::event::{MessageDetail, ReadError};
use crate::format::{
    ContentHead, Geometry, Kind, MessageHead, OutcomeHead, RecipientRecord, RecordHeader, Salt,
};
use crate::index::Index;
use crate::living::{Living, content_octets};
use crate::place::Place;
use crate::recent::RecentBatches;
use crate::runs::Last;
use crate::unread::Unread;
use crate::{Disk, DiskError};

/// Up to here an envelope and its chunk are read at once; it costs no more than one of them.
const READ_TOGETHER_OCTETS_MAX: u32 = 128 << 10;

/// The disk with the geometry that makes its octets readable.
pub(crate) struct Shelf<D> {
    pub(crate) disk: D,
    pub(crate) geometry: Geometry,
    pub(crate) secret: [u8; 16],
    /// The use number of each segment; 0 where nothing was written yet.
    pub(crate) uses: Vec<u64>,
    pub(crate) recent: RecentBatches,
    pub(crate) unread: Unread,
    /// The last that was read by itself.
    window: Window,
    /// The last that was read for moving. It outlasts what is read by itself meanwhile.
    ahead: Window,
}

/// What was read from the disk: a record is asked for in small pieces, and the next one often stands beside it.
#[derive(Default)]
struct Window {
    segment: u32,
    offset: u32,
    octets: Vec<u8>,
    /// The record in it whose CRC was compared last.
    checked: Cell<Place>,
    /// A record in it does not have its CRC. The disk may give it right the next time, so it is asked again.
    is_damaged: Cell<bool>,
}

impl Window {
    fn holds(&self, place: Place) -> bool {
        let end = u64::from(self.offset) + self.octets.len() as u64;
        !self.is_damaged.get()
            && self.segment == place.segment()
            && self.offset <= place.offset()
            && u64::from(place.offset()) + u64::from(place.octets()) <= end
    }

    fn get(&self, place: Place) -> &[u8] {
        let from = (place.offset() - self.offset) as usize;
        &self.octets[from..from + place.octets() as usize]
    }

    /// Whether a record in it has its CRC. If not, it is read again by who asks for it next.
    fn is_as_written(&self, place: Place, kinds: &[Kind], salt: Salt) -> bool {
        let is_good = self.checked.get() == place
            || body_of(self.get(place), kinds)
                .is_some_and(|(header, body)| header.body_crc.get() == salt.crc(body));
        self.checked.set(if is_good { place } else { Place::default() });
        self.is_damaged.set(!is_good);
        is_good
    }

    /// Reads it anew. Nothing of it may be on its way to the disk.
    fn fill(
        &mut self,
        disk: &mut impl Disk,
        geometry: Geometry,
        (segment, offset, octets): (u32, u32, u32),
    ) -> Result<(), DiskError> {
        self.checked.set(Place::default());
        self.is_damaged.set(false);
        self.octets.resize(octets as usize, 0);
        let read = disk.read(geometry.offset_of(segment, offset), &mut self.octets);
        if read.is_err() {
            self.octets.clear();
        }
        (self.segment, self.offset) = (segment, offset);
        read
    }
}

impl<D: Disk> Shelf<D> {
    pub(crate) fn new(disk: D, geometry: Geometry, secret: [u8; 16], parameters: &Parameters) -> Self {
        let uses = vec![0; geometry.segments as usize];
        let recent = RecentBatches::new(parameters.recent_content_octets_max);
        let unread = Unread::new(parameters.probe_interval_ms);
        Self {
            disk,
            geometry,
            secret,
            uses,
            recent,
            unread,
            window: Window::default(),
            ahead: Window::default(),
        }
    }

    /// The body of a whole record of one of `kinds`, whose CRC is right.
    fn record(
        &mut self,
        sequence: MessageSequence,
        place: Place,
        kinds: &[Kind],
    ) -> Result<&[u8], ReadError> {
        if place.is_missing() {
            return Err(ReadError::Missing(sequence));
        }
        if self.recent.get(place).is_none() {
            self.load(sequence, place)?;
            if !self.is_as_written(place, kinds) {
                // The disk, or the way to it, may have erred once; what is damaged is so the second time too.
                self.load(sequence, place)?;
                if !self.is_as_written(place, kinds) {
                    return Err(damaged(sequence, place));
                }
            }
        }
        let octets = self.recent.get(place).or_else(|| Some(self.window_of(place)?.get(place)));
        octets
            .and_then(|octets| body_of(octets, kinds))
            .map(|(_, body)| body)
            .ok_or_else(|| damaged(sequence, place))
    }

    fn window_of(&self, place: Place) -> Option<&Window> {
        [&self.ahead, &self.window].into_iter().find(|window| window.holds(place))
    }

    /// Whether a window holds a record of one of `kinds` with its CRC.
    fn is_as_written(&self, place: Place, kinds: &[Kind]) -> bool {
        let salt = Salt::of_use(&self.secret, place.segment(), self.uses[place.segment() as usize]);
        self.window_of(place).is_some_and(|window| window.is_as_written(place, kinds, salt))
    }

    /// Makes sure that a window holds a record.
    fn load(&mut self, sequence: MessageSequence, place: Place) -> Result<(), ReadError> {
        if self.window_of(place).is_some() {
            return Ok(());
        }
        let range = (place.segment(), place.offset(), place.octets());
        if let Err(error) = self.window.fill(&mut self.disk, self.geometry, range) {
            return Err(if self.unread.failed(place) { damaged(sequence, place) } else { error.into() });
        }
        self.unread.succeeded(place);
        Ok(())
    }

    /// Whether a record is read without the disk.
    pub(crate) fn has(&self, place: Place) -> bool {
        self.recent.get(place).is_some() || self.window_of(place).is_some()
    }

    /// Reads from a place on what is to be moved. Nothing of it may be on its way to the disk.
    pub(crate) fn read_ahead(&mut self, segment: u32, offset: u32, octets: u32) -> Result<(), DiskError> {
        self.ahead.fill(&mut self.disk, self.geometry, (segment, offset, octets))
    }

    /// Reads a small message's envelope and the chunk before it at once: they were written together.
    fn read_together(&mut self, living: &Living) {
        let [chunk] = living.chunks() else { return };
        let end = living.place.offset() + living.place.octets();
        let is_near = chunk.segment() == living.place.segment()
            && chunk.offset() < living.place.offset()
            && end - chunk.offset() <= READ_TOGETHER_OCTETS_MAX;
        if is_near
            && !self.has(living.place)
            && !self.unread.knows(*chunk)
            && !self.unread.knows(living.place)
        {
            // If it fails, each record is read by itself, and the failure is that record's.
            let range = (chunk.segment(), chunk.offset(), end - chunk.offset());
            drop(self.window.fill(&mut self.disk, self.geometry, range));
        }
    }

    /// The head, envelope and states of a living message as its record has them.
    fn message_record(
        &mut self,
        sequence: MessageSequence,
        place: Place,
    ) -> Result<DecodedMessage, ReadError> {
        // Which of the two it is only the record itself says.
        let body = self.record(sequence, place, &[Kind::Envelope, Kind::Moved])?;
        decode_message(body).ok_or_else(|| damaged(sequence, place))
    }

    /// See [`crate::Log::message`].
    pub(crate) fn detail(
        &mut self,
        index: &Index,
        sequence: MessageSequence,
    ) -> Result<Option<MessageDetail>, ReadError> {
        let Some(living) = index.get(sequence) else { return Ok(None) };
        self.read_together(living);
        let (head, envelope, old) = self.message_record(sequence, living.place)?;
        let (envelope, content_sha256) = (Arc::new(envelope), head.content_sha256);
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
        let body = self.record(sequence, place, &[Kind::Outcome])?;
        decode_outcome(body).map(|(_, outcomes)| outcomes).ok_or_else(|| damaged(sequence, place))
    }

    /// The content of one chunk.
    pub(crate) fn chunk(
        &mut self,
        sequence: MessageSequence,
        id: MessageId,
        index: u32,
        place: Place,
    ) -> Result<&[u8], ReadError> {
        let body = self.record(sequence, place, &[Kind::Content])?;
        ContentHead::read_from_prefix(body)
            .ok()
            .filter(|(head, _)| head.id() == id && head.index.get() == index)
            .map(|(_, octets)| octets)
            .ok_or_else(|| damaged(sequence, place))
    }

    /// A segment is written anew: what was read from it, or was not, no longer stands there.
    pub(crate) fn forget_segment(&mut self, segment: u32) {
        self.window.octets.clear();
        self.ahead.octets.clear();
        self.recent.forget_segment(segment);
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

/// Header and body of a record of one of `kinds`. The padding behind it is not there.
fn body_of<'a>(octets: &'a [u8], kinds: &[Kind]) -> Option<(RecordHeader, &'a [u8])> {
    let (header, body) = RecordHeader::read_from_prefix(octets).ok()?;
    let is_wanted = Kind::from_number(header.kind.get()).is_some_and(|kind| kinds.contains(&kind));
    (is_wanted && body.len() == header.body_octets.get() as usize).then_some((header, body))
}

const fn damaged(sequence: MessageSequence, place: Place) -> ReadError {
    ReadError::Damaged { sequence, segment: place.segment(), offset: place.offset() }
}

/// The last diagnostic that a recipient got from these outcomes.
fn last_diagnostic(outcomes: &[(RecipientRange, Outcome)], recipient: u32) -> Option<Diagnostic> {
    outcomes
        .iter()
        .rev()
        .filter(|(range, _)| range.first <= recipient && recipient < range.end())
        .find_map(|(_, outcome)| outcome.diagnostic().cloned())
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

/// Whether what a message record says can be: chunks that a log can hold, recipients, and a route for each. One that says
/// something else is damaged, although its CRC is right.
pub(crate) fn is_sound(head: &MessageHead, envelope: &Envelope, geometry: Geometry) -> bool {
    let is_known = |route: RouteIndex| usize::from(route.0) < envelope.routes.len();
    u64::from(head.chunks.get()) <= geometry.chunks_max()
        && !envelope.recipients.is_empty()
        && envelope.recipients.iter().all(|recipient| is_known(recipient.route))
}

/// An outcome record's body.
pub(crate) fn decode_outcome(body: &[u8]) -> Option<(OutcomeHead, Vec<(RecipientRange, Outcome)>)> {
    let (head, rest) = OutcomeHead::read_from_prefix(body).ok()?;
    Some((head, postcard::from_bytes(rest).ok()?))
}
