//! What lives in the log, and where: a function of its records, the same while writing and while recovering.
//!
//! Owns messages, partial messages, remembered ids and the count of living octets in each segment. Keeps no content
//! and no envelope, reads nothing: places on disk instead.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use rustc_hash::FxHashMap;
use sternpost_message::{
    Envelope, MessageId, MessageSequence, Outcome, OutcomeKind, Precedence, RecipientRange, Route, UnixMillis,
};

use crate::LogEvent;
use crate::claim::Claim;
use crate::event::{MessageFacts, PartialFacts, RouteFacts};
use crate::living::{Content, Living, LivingMessages, content_octets};
use crate::place::Place;
use crate::recent_ids::RecentIds;
use crate::routes::Routes;
use crate::runs::{Last, Runs};

/// What one durable record does.
#[derive(Clone, Debug)]
pub(crate) enum Effect {
    /// A chunk. `owner` 0: from outside, else moved for that message.
    Content { message: MessageId, index: u32, owner: u64, place: Place },
    /// A chunk of a message whose envelope stands behind it in its set, and tells of it.
    Told { message: MessageId, index: u32, place: Place },
    /// An envelope, or a moved one.
    Message(Box<MessageEffect>),
    /// Outcomes.
    Outcome { sequence: MessageSequence, outcomes: Arc<[(RecipientRange, Outcome)]>, place: Place },
    /// No envelope will come.
    Discarded { message: MessageId },
}

impl Effect {
    /// Puts its records elsewhere.
    pub(crate) fn move_places(&mut self, moved: impl Fn(Place) -> Place) {
        match self {
            Self::Content { place, .. } | Self::Told { place, .. } | Self::Outcome { place, .. } => {
                *place = moved(*place);
            }
            Self::Message(message) => {
                message.place = moved(message.place);
                message.told.iter_mut().for_each(|place| *place = moved(*place));
            }
            Self::Discarded { .. } => {}
        }
    }
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
    /// As they are in the record: all pending, or those of a moved message.
    pub(crate) runs: Runs,
    pub(crate) moved: bool,
    /// Its chunks from 0 on, if they stand before it in its set: [`Effect::Told`].
    pub(crate) told: Vec<Place>,
}

/// A message as its record tells of it, or the index of its segment.
pub(crate) struct Arrival {
    pub(crate) message: MessageId,
    pub(crate) sequence: MessageSequence,
    pub(crate) accepted_at: UnixMillis,
    pub(crate) precedence: Precedence,
    pub(crate) content_octets: u64,
    pub(crate) chunks: u32,
    pub(crate) place: Place,
    pub(crate) runs: Runs,
    pub(crate) moved: bool,
    /// Its chunks from 0 on, as far as they are not known from before.
    pub(crate) told: Vec<Place>,
}

/// Content without envelope.
#[derive(Default)]
pub(crate) struct Partial {
    pub(crate) chunks: BTreeMap<u32, Place>,
    pub(crate) octets: u64,
    pub(crate) first_seen_at: UnixMillis,
    pub(crate) changed_at: UnixMillis,
}

/// Who has a record in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Resident {
    Message(u64),
    Partial(MessageId),
}

/// See the module.
pub(crate) struct Index {
    living: LivingMessages,
    dead_ids: RecentIds,
    /// In the order of their ids: sweeping goes through them, and must not depend on a hash.
    partials: BTreeMap<MessageId, Partial>,
    partial_octets: u64,
    routes: Routes,
    segment_octets: Vec<u64>,
    living_octets: u64,
    /// Recovery only: moved chunks whose message was not seen yet.
    orphans: FxHashMap<u64, Vec<(MessageId, u32, Place)>>,
    /// Recovery only: what damaged envelopes claim, by message sequence.
    claims: FxHashMap<u64, Claim>,
    /// Claims that became messages since they were asked for.
    believed: Vec<(Claim, u32)>,
}

impl Index {
    pub(crate) fn new(segments: u32, recent_ids_max: usize) -> Self {
        Self {
            living: LivingMessages::default(),
            dead_ids: RecentIds::new(recent_ids_max),
            partials: BTreeMap::new(),
            partial_octets: 0,
            routes: Routes::default(),
            segment_octets: vec![0; segments as usize],
            living_octets: 0,
            orphans: FxHashMap::default(),
            claims: FxHashMap::default(),
            believed: Vec::new(),
        }
    }

    pub(crate) fn get(&self, sequence: MessageSequence) -> Option<&Living> {
        self.living.get(sequence.0)
    }

    pub(crate) fn find(&self, id: MessageId) -> Option<MessageSequence> {
        self.living.find(id).map(MessageSequence)
    }

    /// Whether a message of this id lives or is remembered.
    pub(crate) fn knows(&self, id: MessageId) -> bool {
        self.living.find(id).is_some() || self.dead_ids.contains(id)
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

    /// What of it stands in one segment.
    pub(crate) fn living_octets_in(&self, segment: u32) -> u64 {
        self.segment_octets[segment as usize]
    }

    pub(crate) fn living_count(&self) -> u64 {
        self.living.count()
    }

    /// Memory that the living messages take.
    pub(crate) fn memory_octets(&self) -> u64 {
        self.living.octets()
    }

    pub(crate) fn partials_count(&self) -> u64 {
        self.partials.len() as u64
    }

    pub(crate) fn living_from(&self, first: u64) -> impl Iterator<Item = (MessageSequence, &Living)> {
        self.living.from(first)
    }

    pub(crate) fn facts_from(&self, first: u64) -> impl Iterator<Item = MessageFacts> + '_ {
        self.living_from(first)
            .filter(|(_, living)| !living.damaged)
            .map(|(sequence, living)| self.facts_of(sequence, living))
    }

    pub(crate) fn facts(&self, sequence: MessageSequence) -> Option<MessageFacts> {
        self.get(sequence).map(|living| self.facts_of(sequence, living))
    }

    /// What the scheduler needs to know of a message.
    pub(crate) fn facts_of(&self, sequence: MessageSequence, living: &Living) -> MessageFacts {
        let routes = living.runs.pending_by_route().into_iter().filter_map(|(index, pending, attempts)| {
            let route = self.routes.get(*living.routes().get(usize::from(index.0))?)?;
            Some(RouteFacts { index, route: Arc::clone(route), pending, attempts })
        });
        MessageFacts {
            id: living.id,
            sequence,
            precedence: living.precedence,
            accepted_at: living.accepted_at,
            content_octets: living.content_octets(),
            delay_reported: living.runs.delay_was_reported(),
            routes: routes.collect(),
            report_owed: living.runs.report_owed(),
        }
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
                self.take_content(message, index, owner, place, at);
            }
            Effect::Message(effect) => {
                let MessageEffect {
                    message,
                    sequence,
                    envelope,
                    content_octets,
                    chunks,
                    place,
                    runs,
                    moved,
                    told,
                } = *effect;
                let (accepted_at, precedence) = (envelope.accepted_at, envelope.precedence);
                let routes = envelope.routes.iter().map(|route| (&*route.channel, &*route.peer));
                let arrival = Arrival {
                    message,
                    sequence,
                    accepted_at,
                    precedence,
                    content_octets,
                    chunks,
                    place,
                    runs,
                    moved,
                    told,
                };
                self.take_message(arrival, routes, events);
            }
            Effect::Told { .. } => {}
            Effect::Outcome { sequence, outcomes, place } => {
                self.take_outcomes(sequence, &outcomes, place, events);
            }
            Effect::Discarded { message } => self.drop_partial(message),
        }
    }

    pub(crate) fn take_content(
        &mut self,
        id: MessageId,
        index: u32,
        owner: u64,
        place: Place,
        at: UnixMillis,
    ) {
        let sequence = if owner == 0 { self.living.find(id) } else { Some(owner) };
        if let Some(sequence) = sequence {
            match self.living.get_mut(sequence) {
                Some(living) => {
                    if let Some(old) = living.set_chunk(index, place) {
                        self.account(old, place);
                    }
                }
                None if owner != 0 => {
                    self.orphans.entry(owner).or_default().push((id, index, place));
                    self.believe(owner);
                }
                None => {}
            }
            return;
        }
        // A remembered id does not matter: the writer takes no chunk of one, so what stands behind a death is another life.
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
    }

    pub(crate) fn take_message<'a>(
        &mut self,
        arrival: Arrival,
        routes: impl Iterator<Item = (&'a str, &'a str)>,
        events: &mut Option<&mut VecDeque<LogEvent>>,
    ) {
        let Arrival {
            message,
            sequence,
            accepted_at,
            precedence,
            content_octets,
            chunks,
            place,
            runs,
            moved,
            told,
        } = arrival;
        self.give_way(message, sequence);
        if let Some(living) = self.living.get_mut(sequence.0) {
            let old = std::mem::replace(&mut living.place, place);
            living.runs = runs;
            living.miss_chunks(chunks);
            let is_dead = living.runs.is_dead();
            self.account(old, place);
            if is_dead {
                self.bury(sequence);
            }
            return;
        }
        let chunks = self.gather(message, sequence, chunks, told);
        self.account(Place::default(), place);
        let routes = routes.map(|(channel, peer)| self.routes.take(channel, peer)).collect();
        let content = Content { octets: content_octets, chunks, routes };
        let is_dead = runs.is_dead();
        let living = Living::new(message, accepted_at, precedence, place, runs, content);
        if let Some(events) = events.as_mut().filter(|_| !moved) {
            events.push_back(LogEvent::Accepted { sequence, facts: self.facts_of(sequence, &living) });
        }
        self.living.insert(sequence.0, living);
        if is_dead {
            self.bury(sequence);
        }
    }

    /// The chunks of a new message: those that it tells of, or those that are known from before.
    fn gather(
        &mut self,
        message: MessageId,
        sequence: MessageSequence,
        chunks: u32,
        told: Vec<Place>,
    ) -> Vec<Place> {
        let mut places = told;
        for place in &places {
            self.account(Place::default(), *place);
        }
        if places.len() == chunks as usize && self.partials.is_empty() && self.orphans.is_empty() {
            return places;
        }
        places.resize(chunks as usize, Place::default());
        if let Some(partial) = self.partials.remove(&message) {
            self.partial_octets -= partial.octets;
            for (index, place) in partial.chunks {
                match places.get_mut(index as usize) {
                    Some(chunk) if chunk.is_missing() => *chunk = place,
                    _ => self.account(place, Place::default()),
                }
            }
        }
        for (_, index, place) in self.orphans.remove(&sequence.0).unwrap_or_default() {
            if let Some(chunk) = places.get_mut(index as usize) {
                let old = std::mem::replace(chunk, place);
                self.account(old, place);
            }
        }
        places
    }

    fn take_outcomes(
        &mut self,
        sequence: MessageSequence,
        outcomes: &[(RecipientRange, Outcome)],
        place: Place,
        events: &mut Option<&mut VecDeque<LogEvent>>,
    ) {
        let Some(living) = self.living.get_mut(sequence.0) else { return };
        let mut changed = Vec::new();
        for (range, outcome) in outcomes {
            let ranges = living.runs.apply(*range, outcome.kind(), Last::Outcome(place));
            changed.extend(ranges.into_iter().map(|range| (range, outcome.clone())));
        }
        let is_dead = living.runs.is_dead();
        if let Some(events) = events {
            if !changed.is_empty() {
                events.push_back(LogEvent::Outcome { sequence, outcomes: changed });
            }
            if is_dead {
                events.push_back(LogEvent::Dead { sequence });
            }
        }
        if is_dead {
            self.bury(sequence);
        }
    }

    /// Outcomes as the index of a segment tells of them.
    pub(crate) fn take_changes(
        &mut self,
        sequence: MessageSequence,
        changes: &[(RecipientRange, OutcomeKind)],
        place: Place,
    ) {
        let Some(living) = self.living.get_mut(sequence.0) else { return };
        for (range, kind) in changes {
            living.runs.apply(*range, *kind, Last::Outcome(place));
        }
        if living.runs.is_dead() {
            self.bury(sequence);
        }
    }

    /// Nothing remains to be done for the message, whatever was known of it.
    pub(crate) fn bury(&mut self, sequence: MessageSequence) {
        let Some(living) = self.living.remove(sequence.0) else { return };
        self.dead_ids.insert(living.id);
        for place in living.chunks().iter().chain([&living.place]) {
            self.account(*place, Place::default());
        }
        for route in living.routes() {
            self.routes.give_back(*route);
        }
    }

    /// A message came and went, or went: what is there of it is dead.
    pub(crate) fn take_gone(&mut self, sequence: MessageSequence, message: MessageId) {
        self.give_way(message, sequence);
        self.bury(sequence);
        self.drop_partial(message);
        self.dead_ids.insert(message);
    }

    /// An envelope is damaged, whose head claims something. It becomes a message when the log agrees, now or later.
    pub(crate) fn claim(&mut self, claim: Claim) {
        let sequence = claim.sequence;
        if self.get(sequence).is_none() && self.find(claim.message).is_none() {
            self.claims.insert(sequence.0, claim);
            self.believe(sequence.0);
        }
    }

    /// Makes a message of a claim if chunks of its id are there without one.
    fn believe(&mut self, sequence: u64) {
        let is_new =
            |claim: &&Claim| self.get(claim.sequence).is_none() && self.find(claim.message).is_none();
        let Some(claim) = self.claims.get(&sequence).filter(is_new) else { return };
        let partial = self.partials.get(&claim.message).into_iter().flat_map(|partial| partial.chunks.keys());
        let orphans = self.orphans.get(&sequence).into_iter().flatten();
        let orphans = orphans.filter(|(id, ..)| *id == claim.message).map(|(_, index, _)| index);
        let Some(last) = partial.chain(orphans).max() else { return };
        let (claim, found) = (claim.clone(), last.saturating_add(1));
        self.take_message(claim.arrival(found), Claim::routes(), &mut None);
        // No record was that sound.
        self.claims.insert(sequence, claim.clone());
        self.believed.push((claim, found));
    }

    /// The claims that became messages since the last time, with the number of the chunk behind those that were there.
    pub(crate) fn take_believed(&mut self) -> Vec<(Claim, u32)> {
        std::mem::take(&mut self.believed)
    }

    /// A sound record tells of a message: what stands for a damaged one under its id or its number gives way to it.
    fn give_way(&mut self, message: MessageId, sequence: MessageSequence) {
        if self.claims.is_empty() {
            return;
        }
        for number in [self.find(message), Some(sequence)].into_iter().flatten() {
            let Some(claim) = self.claims.remove(&number.0) else { continue };
            let stand_in = self.get(number).filter(|living| living.place == claim.place());
            let Some(chunks) = stand_in.map(|living| living.chunks().to_vec()) else { continue };
            self.bury(number);
            self.dead_ids.remove(claim.message);
            for (index, place) in (0..).zip(chunks).filter(|(_, place)| !place.is_missing()) {
                self.take_content(claim.message, index, 0, place, claim.at);
            }
        }
    }

    pub(crate) fn drop_partial(&mut self, id: MessageId) {
        let Some(partial) = self.partials.remove(&id) else { return };
        self.partial_octets -= partial.octets;
        for place in partial.chunks.into_values() {
            self.account(place, Place::default());
        }
    }

    /// Moves the count of living octets from one place to another; a missing place counts nothing.
    fn account(&mut self, old: Place, new: Place) {
        let (lost, gained) = (old.padded_octets(), new.padded_octets());
        let share = &mut self.segment_octets[old.segment() as usize];
        *share = share.checked_sub(lost).expect("what leaves a segment was counted when it came");
        self.segment_octets[new.segment() as usize] += gained;
        self.living_octets = self.living_octets + gained - lost;
    }

    /// Ends recovery: marks the messages of which a part was not found, and gives their numbers.
    pub(crate) fn settle(&mut self) -> Vec<MessageSequence> {
        self.orphans = FxHashMap::default();
        self.claims = FxHashMap::default();
        let mut damaged = Vec::new();
        for (sequence, living) in self.living.iter_mut() {
            let found: u64 = living.chunks().iter().map(|place| content_octets(*place)).sum();
            living.damaged =
                living.chunks().iter().any(|place| place.is_missing()) || found != living.content_octets();
            if living.damaged {
                damaged.push(sequence);
            }
        }
        damaged
    }

    /// A chunk cannot be read back: its message is damaged from now on, and the place no longer counts.
    pub(crate) fn lose_chunk(&mut self, owner: MessageSequence, id: MessageId, index: u32) {
        let old = if let Some(living) = self.living.get_mut(owner.0) {
            living.damaged = true;
            living.set_chunk(index, Place::default())
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

    /// An envelope cannot be read back: its message is damaged from now on.
    pub(crate) fn lose_envelope(&mut self, sequence: MessageSequence) {
        if let Some(living) = self.living.get_mut(sequence.0) {
            living.damaged = true;
        }
    }

    /// The routes that a message names, in the order of its envelope.
    pub(crate) fn routes_of(&self, living: &Living) -> Vec<Route> {
        living
            .routes()
            .iter()
            .filter_map(|id| self.routes.get(*id).map(|route| Route::clone(route)))
            .collect()
    }

    /// Whoever has a record in `segment`, in the order of the first one. Linear in what lives: 5 ms for a million
    /// messages, once for each segment that is reclaimed.
    pub(crate) fn residents(&self, segment: u32) -> VecDeque<Resident> {
        let first = |places: &mut dyn Iterator<Item = Place>| {
            places.filter(|place| place.segment() == segment && !place.is_missing()).map(Place::offset).min()
        };
        let messages = self.living.from(0).filter_map(|(sequence, living)| {
            let at = first(&mut living.chunks().iter().copied().chain([living.place]))?;
            Some((at, Resident::Message(sequence.0)))
        });
        let partials = self.partials.iter().filter_map(|(id, partial)| {
            Some((first(&mut partial.chunks.values().copied())?, Resident::Partial(*id)))
        });
        let mut residents: Vec<(u32, Resident)> = messages.chain(partials).collect();
        residents.sort_unstable();
        residents.into_iter().map(|(_, resident)| resident).collect()
    }
}
