//! What the index of a segment says of its records: enough to know what lives, nothing of content and words.
//!
//! Owns the encoding (postcard, FORMAT.md) and the rule of what may be left out. Not here: where an index stands and
//! when it is written (`seal`).

use rustc_hash::FxHashSet;
use serde::{Deserialize, Serialize};
use sternpost_message::{
    MessageId, MessageSequence, OutcomeKind, Precedence, RecipientRange, RecipientState, UnixMillis,
};

use crate::format::Geometry;
use crate::index::{Arrival, Effect, Index};
use crate::place::{ALIGNMENT, Place, RECORD_OCTETS_MAX, SEGMENTS_MAX};
use crate::runs::{Known, Last, Runs};

/// Where a record stands in the segment of the index: its offset in units of 8 octets, its octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Spot {
    offset: u32,
    octets: u32,
}

/// Consecutive recipients of whom the same is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EntryRun {
    count: u32,
    route: u16,
    state: RecipientState,
    attempts: u16,
    delay_reported: bool,
    has_words: bool,
}

/// One entry. Entries stand in the order of their records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Entry<'a> {
    /// The entries behind it are of a batch that was written at that time.
    Written { at_ms: u64 },
    /// A content chunk.
    Content { message: [u8; 16], index: u32, owner: u64, spot: Spot },
    /// An envelope or a moved record, with the routes of the envelope.
    Message {
        message: [u8; 16],
        sequence: u64,
        accepted_at_ms: u64,
        precedence: Precedence,
        content_octets: u64,
        chunks: u32,
        spot: Spot,
        moved: bool,
        #[serde(borrow)]
        routes: Vec<(&'a str, &'a str)>,
        runs: Vec<EntryRun>,
    },
    /// An outcome.
    Outcome { sequence: u64, spot: Spot, changes: Vec<(RecipientRange, OutcomeKind)> },
    /// The end of a partial message.
    Discarded { message: [u8; 16] },
    /// Stands for records of a message that is dead since: its envelope is in this segment.
    Gone { message: [u8; 16], sequence: u64 },
    /// Stands for outcomes of a message that is dead since: its envelope is in an earlier segment.
    Dead { sequence: u64 },
}

/// Octets that the entry of a batch's time takes at most.
pub(crate) const WRITTEN_ENTRY_OCTETS_MAX: usize = 1 + 10;
/// The same for a chunk: kind, id, index, owner, spot.
pub(crate) const CONTENT_ENTRY_OCTETS_MAX: usize = 1 + 16 + 5 + 10 + 10;
/// The same for the end of a partial message.
pub(crate) const DISCARDED_ENTRY_OCTETS_MAX: usize = 17;

/// Octets that the entry of a message takes at most, with routes of `routes_octets` letters.
pub(crate) const fn message_entry_octets_max(
    routes: usize,
    routes_octets: usize,
    recipients: usize,
) -> usize {
    96 + routes * 6 + routes_octets + recipients * 15
}

/// Octets that the entry of an outcome takes at most.
pub(crate) const fn outcome_entry_octets_max(ranges: usize) -> usize {
    32 + ranges * 11
}

impl<'a> Entry<'a> {
    /// The entry of a record.
    pub(crate) fn of(effect: &'a Effect) -> Self {
        match effect {
            Effect::Content { message, index, owner, place } => {
                Self::Content { message: message.0, index: *index, owner: *owner, spot: Spot::of(*place) }
            }
            Effect::Told { message, index, place } => {
                Self::Content { message: message.0, index: *index, owner: 0, spot: Spot::of(*place) }
            }
            Effect::Message(effect) => Self::Message {
                message: effect.message.0,
                sequence: effect.sequence.0,
                accepted_at_ms: effect.envelope.accepted_at.0,
                precedence: effect.envelope.precedence,
                content_octets: effect.content_octets,
                chunks: effect.chunks,
                spot: Spot::of(effect.place),
                moved: effect.moved,
                routes: effect.envelope.routes.iter().map(|route| (&*route.channel, &*route.peer)).collect(),
                runs: entry_runs(&effect.runs),
            },
            Effect::Outcome { sequence, outcomes, place } => Self::Outcome {
                sequence: sequence.0,
                spot: Spot::of(*place),
                changes: outcomes.iter().map(|(range, outcome)| (*range, outcome.kind())).collect(),
            },
            Effect::Discarded { message } => Self::Discarded { message: message.0 },
        }
    }

    /// The entry of a message that stands for a damaged record.
    pub(crate) fn of_arrival(arrival: &Arrival, routes: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        Self::Message {
            message: arrival.message.0,
            sequence: arrival.sequence.0,
            accepted_at_ms: arrival.accepted_at.0,
            precedence: arrival.precedence,
            content_octets: arrival.content_octets,
            chunks: arrival.chunks,
            spot: Spot::of(arrival.place),
            moved: arrival.moved,
            routes: routes.collect(),
            runs: entry_runs(&arrival.runs),
        }
    }

    /// Adds its octets to those before it.
    pub(crate) fn write(&self, octets: Vec<u8>) -> Vec<u8> {
        postcard::to_extend(self, octets).expect("an entry has nothing that postcard does not take")
    }

    /// All entries of an index; none when an octet is not as it should be.
    pub(crate) fn read_all(mut octets: &'a [u8], segment: u32, geometry: Geometry) -> Option<Vec<Self>> {
        let mut entries = Vec::new();
        while !octets.is_empty() {
            let (entry, rest): (Self, _) = postcard::take_from_bytes(octets).ok()?;
            if !entry.is_sound(segment, geometry) {
                return None;
            }
            entries.push(entry);
            octets = rest;
        }
        Some(entries)
    }

    /// Whether its numbers are possible. A CRC vouches for the rest.
    fn is_sound(&self, segment: u32, geometry: Geometry) -> bool {
        match self {
            Self::Content { spot, .. } | Self::Outcome { spot, .. } => spot.is_within(segment, geometry),
            Self::Message { spot, chunks, routes, runs, .. } => {
                spot.is_within(segment, geometry)
                    && u64::from(*chunks) <= geometry.chunks_max()
                    && runs.iter().all(|run| usize::from(run.route) < routes.len() && run.count > 0)
                    && runs
                        .iter()
                        .try_fold(0_u32, |sum, run| sum.checked_add(run.count))
                        .is_some_and(|sum| sum > 0)
            }
            Self::Written { .. } | Self::Discarded { .. } | Self::Gone { .. } | Self::Dead { .. } => true,
        }
    }

    /// What recovery makes of it. `at`: when the batch was written that the last `Written` has told of.
    pub(crate) fn apply(self, index: &mut Index, segment: u32, at: &mut UnixMillis) {
        match self {
            Self::Written { at_ms } => *at = UnixMillis(at_ms),
            Self::Content { message, index: number, owner, spot } => {
                index.take_content(MessageId(message), number, owner, spot.place(segment), *at);
            }
            Self::Message {
                message,
                sequence,
                accepted_at_ms,
                precedence,
                content_octets,
                chunks,
                spot,
                moved,
                routes,
                runs,
            } => {
                let arrival = Arrival {
                    message: MessageId(message),
                    sequence: MessageSequence(sequence),
                    accepted_at: UnixMillis(accepted_at_ms),
                    precedence,
                    content_octets,
                    chunks,
                    place: spot.place(segment),
                    runs: known_runs(&runs),
                    moved,
                    told: Vec::new(),
                };
                index.take_message(arrival, routes.into_iter(), &mut None);
            }
            Self::Outcome { sequence, spot, changes } => {
                index.take_changes(MessageSequence(sequence), &changes, spot.place(segment));
            }
            Self::Discarded { message } => index.drop_partial(MessageId(message)),
            Self::Gone { message, sequence } => {
                index.take_gone(MessageSequence(sequence), MessageId(message));
            }
            Self::Dead { sequence } => index.bury(MessageSequence(sequence)),
        }
    }

    /// The number that no message may have which is accepted later.
    pub(crate) const fn sequence(&self) -> Option<u64> {
        match self {
            Self::Message { sequence, .. } | Self::Gone { sequence, .. } => Some(*sequence),
            _ => None,
        }
    }

    /// Whether it is of an envelope, or of a moved record, at this place.
    pub(crate) fn is_of_message_at(&self, place: Place) -> bool {
        matches!(self, Self::Message { spot, .. } if spot.place(place.segment()) == place)
    }

    /// Whether it says that a message of this id or of this sequence is over.
    pub(crate) fn is_end_of(&self, id: [u8; 16], number: u64) -> bool {
        matches!(self, Self::Gone { message, sequence } if *message == id || *sequence == number)
    }

    /// What is left of it when the index is written and `index` knows what has become of its message; none when nothing
    /// is. `said` are the messages of which an entry has said that they are over.
    fn kept(self, index: &Index, said: &mut FxHashSet<u64>) -> Option<Self> {
        let lives = |sequence: u64| index.get(MessageSequence(sequence)).is_some();
        match self {
            Self::Content { message, owner: 0, .. } => {
                let id = MessageId(message);
                (index.partial(id).is_some() || index.find(id).is_some()).then_some(self)
            }
            Self::Content { owner, .. } => lives(owner).then_some(self),
            Self::Message { message, sequence, .. } if !lives(sequence) => {
                said.insert(sequence).then_some(Self::Gone { message, sequence })
            }
            Self::Outcome { sequence, .. } if !lives(sequence) => {
                said.insert(sequence).then_some(Self::Dead { sequence })
            }
            other => Some(other),
        }
    }
}

/// The entries of a segment's records without what is over, and how many they are. What is left has the same effect, for what
/// is dead stays dead: FORMAT.md, "The index of a segment".
pub(crate) fn condense(octets: &[u8], index: &Index) -> (Vec<u8>, u32) {
    let (mut kept, mut count) = (Vec::with_capacity(octets.len() / 4), 0);
    let mut said = FxHashSet::default();
    let mut written = None;
    let mut rest = octets;
    while let Ok((entry, next)) = postcard::take_from_bytes::<Entry<'_>>(rest) {
        rest = next;
        if matches!(entry, Entry::Written { .. }) {
            written = Some(entry);
            continue;
        }
        let Some(entry) = entry.kept(index, &mut said) else { continue };
        // Only for partial messages it matters when they were written.
        let time = written.take_if(|_| matches!(entry, Entry::Content { owner: 0, .. }));
        for entry in time.into_iter().chain([entry]) {
            kept = entry.write(kept);
            count += 1;
        }
    }
    (kept, count)
}

fn entry_runs(runs: &Runs) -> Vec<EntryRun> {
    let entry = |run: &crate::runs::Run| EntryRun {
        count: run.count,
        route: run.route,
        state: run.state,
        attempts: run.attempts,
        delay_reported: run.delay_reported,
        has_words: run.last() != Last::None,
    };
    runs.iter().map(entry).collect()
}

fn known_runs(runs: &[EntryRun]) -> Runs {
    let mut known = Runs::default();
    for run in runs {
        let EntryRun { count, route, state, attempts, delay_reported, has_words } = *run;
        known.add(count, route, Known { state, attempts, delay_reported, has_words });
    }
    known
}

impl Spot {
    fn of(place: Place) -> Self {
        Self { offset: place.offset() / ALIGNMENT, octets: place.octets() }
    }

    fn is_within(self, segment: u32, geometry: Geometry) -> bool {
        let end = u64::from(self.offset) * u64::from(ALIGNMENT) + u64::from(self.octets);
        segment < SEGMENTS_MAX
            && self.octets > 0
            && self.octets as usize <= RECORD_OCTETS_MAX
            && end <= u64::from(geometry.segment_octets)
    }

    fn place(self, segment: u32) -> Place {
        Place::new(segment, self.offset * ALIGNMENT, self.octets)
    }
}
