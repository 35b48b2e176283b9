//! What lives in the log, and where: a function of its records, the same while writing and while recovering.
//!
//! Owns messages, partial messages, remembered ids and the count of living octets in each segment. Keeps no content
//! and no envelope, reads nothing: places on disk instead.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use sternpost_message::{
    Envelope, MessageId, MessageSequence, Outcome, Precedence, RecipientRange, Route, UnixMillis,
};

use crate::LogEvent;
use crate::event::{MessageFacts, PartialFacts, RouteFacts};
use crate::format::{RECORD_ALIGNMENT, RecipientRecord};
use crate::recent_ids::RecentIds;
use crate::runs::{Last, Runs};

/// Where a record is: segment, octet in the segment, octets of header and body. All zero: it is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) segment: u32,
    pub(crate) offset: u32,
    pub(crate) octets: u32,
}

impl Place {
    /// What the record takes in its batch.
    pub(crate) fn padded_octets(self) -> u64 {
        u64::from(self.octets).next_multiple_of(RECORD_ALIGNMENT as u64)
    }

    pub(crate) const fn is_missing(self) -> bool {
        self.octets == 0
    }
}

/// What one durable record does.
#[derive(Clone, Debug)]
pub(crate) enum Effect {
    /// A chunk. `owner` 0: from outside, else moved for that message.
    Content { message: MessageId, index: u32, owner: u64, place: Place },
    /// An envelope, or a moved one with the states that it had.
    Message(Box<MessageEffect>),
    /// The envelope that reclaim wrote anew while the log is in use: only its place is new.
    Moved { sequence: MessageSequence, place: Place },
    /// Outcomes.
    Outcome { sequence: MessageSequence, outcomes: Arc<[(RecipientRange, Outcome)]>, place: Place },
    /// No envelope will come.
    Discarded { message: MessageId },
}

/// See [`Effect::Message`].
#[derive(Clone, Debug)]
pub(crate) struct MessageEffect {
    pub(crate) message: MessageId,
    pub(crate) sequence: MessageSequence,
    pub(crate) envelope: Arc<Envelope>,
    pub(crate) content_octets: u64,
    pub(crate) chunks: u32,
    pub(crate) place: Place,
    /// Set in a moved record.
    pub(crate) states: Option<Vec<(RecipientRange, RecipientRecord)>>,
}

/// A living message.
pub(crate) struct Living {
    pub(crate) id: MessageId,
    pub(crate) content_octets: u64,
    pub(crate) accepted_at: UnixMillis,
    /// The envelope, or the moved record.
    pub(crate) place: Place,
    pub(crate) chunks: Box<[Place]>,
    pub(crate) routes: Box<[Arc<Route>]>,
    pub(crate) runs: Runs,
    pub(crate) precedence: Precedence,
    /// A part of its content is lost.
    pub(crate) damaged: bool,
}

/// Content without envelope.
#[derive(Default)]
pub(crate) struct Partial {
    pub(crate) chunks: BTreeMap<u32, Place>,
    pub(crate) octets: u64,
    pub(crate) first_seen_at: UnixMillis,
    pub(crate) changed_at: UnixMillis,
}

/// Who may have a record in a segment. Found out when the segment is reclaimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Resident {
    Message(u64),
    Partial(MessageId),
}

/// One segment's share of what lives.
#[derive(Default)]
pub(crate) struct SegmentShare {
    pub(crate) living_octets: u64,
    pub(crate) residents: VecDeque<Resident>,
}

impl SegmentShare {
    fn add(&mut self, resident: Resident) {
        if self.residents.back() != Some(&resident) {
            self.residents.push_back(resident);
        }
    }
}

/// See the module.
pub(crate) struct Index {
    living: BTreeMap<u64, Living>,
    ids: FxHashMap<MessageId, u64>,
    dead_ids: RecentIds,
    partials: FxHashMap<MessageId, Partial>,
    partial_octets: u64,
    routes: FxHashSet<Arc<Route>>,
    routes_purge_at: usize,
    pub(crate) segments: Vec<SegmentShare>,
    living_octets: u64,
    /// Recovery only: moved chunks whose message was not seen yet.
    orphans: FxHashMap<u64, Vec<(u32, Place)>>,
}

impl Index {
    pub(crate) fn new(segments: u32, recent_ids_max: usize) -> Self {
        Self {
            living: BTreeMap::new(),
            ids: FxHashMap::default(),
            dead_ids: RecentIds::new(recent_ids_max),
            partials: FxHashMap::default(),
            partial_octets: 0,
            routes: FxHashSet::default(),
            routes_purge_at: 1024,
            segments: (0..segments).map(|_| SegmentShare::default()).collect(),
            living_octets: 0,
            orphans: FxHashMap::default(),
        }
    }

    pub(crate) fn get(&self, sequence: MessageSequence) -> Option<&Living> {
        self.living.get(&sequence.0)
    }

    pub(crate) fn find(&self, id: MessageId) -> Option<MessageSequence> {
        self.ids.get(&id).copied().map(MessageSequence)
    }

    /// Whether a message of this id lives or is remembered.
    pub(crate) fn knows(&self, id: MessageId) -> bool {
        self.ids.contains_key(&id) || self.dead_ids.contains(id)
    }

    pub(crate) fn partial(&self, id: MessageId) -> Option<&Partial> {
        self.partials.get(&id)
    }

    pub(crate) fn partials(&self) -> impl Iterator<Item = PartialFacts> + '_ {
        self.partials.iter().map(|(message, partial)| PartialFacts {
            message: *message,
            octets: partial.octets,
            first_seen_at: partial.first_seen_at,
        })
    }

    /// Partial messages, with the instant of their last change.
    pub(crate) fn partial_changes(&self) -> impl Iterator<Item = (MessageId, UnixMillis)> + '_ {
        self.partials.iter().map(|(message, partial)| (*message, partial.changed_at))
    }

    pub(crate) const fn partial_octets(&self) -> u64 {
        self.partial_octets
    }

    pub(crate) const fn living_octets(&self) -> u64 {
        self.living_octets
    }

    pub(crate) fn living_count(&self) -> u64 {
        self.living.len() as u64
    }

    pub(crate) fn partials_count(&self) -> u64 {
        self.partials.len() as u64
    }

    pub(crate) fn living_from(&self, first: u64) -> impl Iterator<Item = (MessageSequence, &Living)> {
        self.living.range(first..).map(|(sequence, living)| (MessageSequence(*sequence), living))
    }

    pub(crate) fn facts_from(&self, first: u64) -> impl Iterator<Item = MessageFacts> + '_ {
        self.living_from(first)
            .filter(|(_, living)| !living.damaged)
            .map(|(sequence, living)| living.facts(sequence))
    }

    /// Applies one record that is durable. What it changed goes to `events`, except during recovery.
    pub(crate) fn apply(
        &mut self,
        effect: Effect,
        at: UnixMillis,
        events: &mut Option<&mut VecDeque<LogEvent>>,
    ) {
        match effect {
            Effect::Content { message, index, owner, place } => {
                self.apply_content(message, index, owner, place, at);
            }
            Effect::Message(message) => self.apply_message(*message, events),
            Effect::Moved { sequence, place } => self.apply_moved(sequence, place),
            Effect::Outcome { sequence, outcomes, place } => {
                self.apply_outcome(sequence, &outcomes, place, events);
            }
            Effect::Discarded { message } => self.drop_partial(message),
        }
    }

    fn apply_content(&mut self, id: MessageId, index: u32, owner: u64, place: Place, at: UnixMillis) {
        let sequence = if owner == 0 { self.ids.get(&id).copied() } else { Some(owner) };
        if let Some(sequence) = sequence {
            let Some(living) = self.living.get_mut(&sequence) else {
                if owner != 0 && !self.dead_ids.contains(id) {
                    self.orphans.entry(owner).or_default().push((index, place));
                }
                return;
            };
            if let Some(chunk) = usize::try_from(index).ok().and_then(|index| living.chunks.get_mut(index)) {
                let old = std::mem::replace(chunk, place);
                self.account(old, place);
                self.segments[place.segment as usize].add(Resident::Message(sequence));
            }
            return;
        }
        if self.dead_ids.contains(id) {
            return;
        }
        let partial = self.partials.entry(id).or_insert_with(|| Partial {
            first_seen_at: at,
            changed_at: at,
            ..Partial::default()
        });
        let old = partial.chunks.insert(index, place).unwrap_or_default();
        // A chunk that was only moved is no sign of life from its sender.
        if old.is_missing() {
            partial.changed_at = at;
        }
        let (gained, lost) = (content_octets(place), content_octets(old));
        partial.octets = partial.octets + gained - lost;
        self.partial_octets = self.partial_octets + gained - lost;
        self.account(old, place);
        self.segments[place.segment as usize].add(Resident::Partial(id));
    }

    fn apply_message(&mut self, effect: MessageEffect, events: &mut Option<&mut VecDeque<LogEvent>>) {
        let MessageEffect { message: id, sequence, envelope, content_octets, chunks, place, states } = effect;
        let moved = states.is_some();
        let runs = match states {
            None => Runs::new(&envelope),
            Some(states) => Runs::restored(&envelope, &states),
        };
        if let Some(living) = self.living.get_mut(&sequence.0) {
            let old = std::mem::replace(&mut living.place, place);
            living.runs = runs;
            self.account(old, place);
            self.segments[place.segment as usize].add(Resident::Message(sequence.0));
            return;
        }
        let mut places = vec![Place::default(); chunks as usize];
        if let Some(partial) = self.partials.remove(&id) {
            self.partial_octets -= partial.octets;
            for (index, place) in partial.chunks {
                match places.get_mut(index as usize) {
                    Some(chunk) => *chunk = place,
                    None => self.account(place, Place::default()),
                }
            }
        }
        for (index, place) in self.orphans.remove(&sequence.0).unwrap_or_default() {
            if let Some(chunk) = places.get_mut(index as usize) {
                let old = std::mem::replace(chunk, place);
                self.account(old, place);
            }
        }
        self.account(Place::default(), place);
        for place in places.iter().chain([&place]).filter(|place| !place.is_missing()) {
            self.segments[place.segment as usize].add(Resident::Message(sequence.0));
        }
        let living = Living {
            id,
            content_octets,
            accepted_at: envelope.accepted_at,
            place,
            chunks: places.into_boxed_slice(),
            routes: envelope.routes.iter().map(|route| self.intern(route)).collect(),
            runs,
            precedence: envelope.precedence,
            damaged: false,
        };
        if let Some(events) = events.as_mut().filter(|_| !moved) {
            events.push_back(LogEvent::Accepted { sequence, facts: living.facts(sequence) });
        }
        let dead = living.runs.is_dead();
        self.ids.insert(id, sequence.0);
        self.living.insert(sequence.0, living);
        if dead {
            self.bury(sequence);
        }
    }

    fn apply_moved(&mut self, sequence: MessageSequence, place: Place) {
        let Some(living) = self.living.get_mut(&sequence.0) else { return };
        let old = std::mem::replace(&mut living.place, place);
        living.runs.settle();
        self.account(old, place);
        self.segments[place.segment as usize].add(Resident::Message(sequence.0));
    }

    fn apply_outcome(
        &mut self,
        sequence: MessageSequence,
        outcomes: &[(RecipientRange, Outcome)],
        place: Place,
        events: &mut Option<&mut VecDeque<LogEvent>>,
    ) {
        let Some(living) = self.living.get_mut(&sequence.0) else { return };
        let mut changed = Vec::new();
        for (range, outcome) in outcomes {
            for range in living.runs.apply(*range, outcome, Last::Outcome(place)) {
                changed.push((range, outcome.clone()));
            }
        }
        let dead = living.runs.is_dead();
        if let Some(events) = events {
            if !changed.is_empty() {
                events.push_back(LogEvent::Outcome { sequence, outcomes: changed });
            }
            if dead {
                events.push_back(LogEvent::Dead { sequence });
            }
        }
        if dead {
            self.bury(sequence);
        }
    }

    fn bury(&mut self, sequence: MessageSequence) {
        let Some(living) = self.living.remove(&sequence.0) else { return };
        self.ids.remove(&living.id);
        self.dead_ids.insert(living.id);
        for place in living.chunks.iter().chain([&living.place]) {
            self.account(*place, Place::default());
        }
    }

    fn drop_partial(&mut self, id: MessageId) {
        let Some(partial) = self.partials.remove(&id) else { return };
        self.partial_octets -= partial.octets;
        for place in partial.chunks.into_values() {
            self.account(place, Place::default());
        }
    }

    /// Moves the count of living octets from one place to another; a missing place counts nothing.
    fn account(&mut self, old: Place, new: Place) {
        let (lost, gained) = (old.padded_octets(), new.padded_octets());
        let share = &mut self.segments[old.segment as usize].living_octets;
        *share = share.checked_sub(lost).expect("what leaves a segment was counted when it came");
        self.segments[new.segment as usize].living_octets += gained;
        self.living_octets = self.living_octets + gained - lost;
    }

    fn intern(&mut self, route: &Route) -> Arc<Route> {
        if let Some(known) = self.routes.get(route) {
            return Arc::clone(known);
        }
        if self.routes.len() >= self.routes_purge_at {
            self.routes.retain(|route| Arc::strong_count(route) > 1);
            self.routes_purge_at = (self.routes.len() * 2).max(1024);
        }
        let route = Arc::new(route.clone());
        self.routes.insert(Arc::clone(&route));
        route
    }

    /// Ends recovery: marks the messages of whose content a part was not found, and gives their numbers.
    pub(crate) fn settle(&mut self) -> Vec<MessageSequence> {
        self.orphans = FxHashMap::default();
        let mut damaged = Vec::new();
        for (sequence, living) in &mut self.living {
            let found: u64 = living.chunks.iter().map(|place| content_octets(*place)).sum();
            living.damaged =
                living.chunks.iter().any(|place| place.is_missing()) || found != living.content_octets;
            if living.damaged {
                damaged.push(MessageSequence(*sequence));
            }
        }
        damaged
    }

    /// A chunk cannot be read back: its message is damaged from now on, and the place no longer counts.
    pub(crate) fn lose_chunk(&mut self, owner: MessageSequence, id: MessageId, index: u32) {
        let old = if let Some(living) = self.living.get_mut(&owner.0) {
            living.damaged = true;
            living.chunks.get_mut(index as usize).map(std::mem::take)
        } else if let Some(partial) = self.partials.get_mut(&id) {
            let old = partial.chunks.remove(&index);
            let lost = old.map_or(0, content_octets);
            partial.octets -= lost;
            self.partial_octets -= lost;
            old
        } else {
            None
        };
        self.account(old.unwrap_or_default(), Place::default());
    }

    /// An envelope cannot be read back: nothing is left that could be switched.
    pub(crate) fn lose_message(&mut self, sequence: MessageSequence) {
        self.bury(sequence);
    }

    /// The residents of `segment`, found by looking at everything. For a segment whose own list does not explain its
    /// count; linear in what lives.
    pub(crate) fn rebuild_residents(&mut self, segment: u32) {
        let messages = self
            .living
            .iter()
            .filter(|(_, living)| {
                living.chunks.iter().chain([&living.place]).any(|place| place.segment == segment)
            })
            .map(|(sequence, _)| Resident::Message(*sequence));
        let partials = self
            .partials
            .iter()
            .filter(|(_, partial)| partial.chunks.values().any(|place| place.segment == segment))
            .map(|(id, _)| Resident::Partial(*id));
        self.segments[segment as usize].residents = messages.chain(partials).collect();
    }
}

impl Living {
    pub(crate) fn facts(&self, sequence: MessageSequence) -> MessageFacts {
        let routes = self.runs.pending_by_route().into_iter().filter_map(|(index, pending, attempts)| {
            let route = self.routes.get(usize::from(index.0))?;
            Some(RouteFacts { index, route: Arc::clone(route), pending, attempts })
        });
        MessageFacts {
            id: self.id,
            sequence,
            precedence: self.precedence,
            accepted_at: self.accepted_at,
            content_octets: self.content_octets,
            delay_reported: self.runs.delay_was_reported(),
            routes: routes.collect(),
            failed: self.runs.failed(),
        }
    }
}

/// Octets of content in a chunk's record.
pub(crate) fn content_octets(place: Place) -> u64 {
    u64::from(place.octets).saturating_sub(crate::format::CONTENT_OVERHEAD_OCTETS as u64)
}
