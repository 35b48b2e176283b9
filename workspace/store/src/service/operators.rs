//! What operators ask of the store: what is in the queue, what is isolated or partial, where a message stands, and its content
//! piece by piece. What they order is in `orders`.

use super::{Service, partials};
use crate::client::{Client, ClientId};
use crate::isolated::is_loss;
use crate::translate;
use sternpost_link::store::{
    FromStore, IsolatedMessage, PartialMessage, Piece, Shown, Standing, StoreStatus, ToStore,
};
use sternpost_message::{MessageId, MessageSequence, chain};
use sternpost_platform::wire::Wire;
use sternpost_queue::{self as queue, Disk};

/// Answers that an operator has not read, beyond which it gets no more: it asks for one thing at a time.
const UNREAD_OCTETS_MAX: usize = 1 << 20;

impl<D: Disk, L: Wire> Service<D, L> {
    /// Answers a frame that only operators send. The others are not meant for it.
    pub(super) fn operator(&mut self, id: ClientId, frame: &ToStore<'_>) {
        let Some(client) = self.clients.get(&id) else { return };
        if client.link.unsent_octets() > UNREAD_OCTETS_MAX {
            return self.refuse(id, "it asks and does not read the answers");
        }
        match *frame {
            ToStore::List { from, count_max } => {
                client.list(count_max, |count| self.listed(from, count));
            }
            ToStore::ListIsolated { from, count_max } => {
                client.list(count_max, |count| self.isolated_listed(from, count));
            }
            ToStore::ListPartials { behind, count_max } => {
                client.list(count_max, |count| self.partials_listed(behind, count));
            }
            ToStore::Status => client.send(&FromStore::Status(self.status())),
            ToStore::Find { message } => client.send(&FromStore::Found(self.standing(message))),
            ToStore::Show { message } => self.show(id, message),
            ToStore::ReadPiece { message, chunk, offset } => self.read_piece(id, message, chunk, offset),
            ToStore::Restore { message } => self.restore(id, message),
            ToStore::Discard { number, message, why } => self.discard(id, number, message, why),
            _ => {}
        }
    }

    fn status(&self) -> StoreStatus {
        StoreStatus {
            partials_octets: partials::octets(&self.log),
            partials_are_full: self.partial_share.is_full(),
            isolated_count: self.isolated.count(),
            damaged_places_count: self.damaged_places_count,
            ..translate::status(&self.log.status(), &self.manner)
        }
    }

    fn listed(&self, from: MessageSequence, count: usize) -> FromStore {
        let messages = self.log.messages_from(from).filter(|facts| !self.isolated.contains(facts.sequence));
        let (messages, next) = page(messages.map(translate::facts), count, |facts| facts.sequence);
        FromStore::Listed { messages, next }
    }

    fn isolated_listed(&self, from: MessageSequence, count: usize) -> FromStore {
        let messages = self.isolated.from(from).filter_map(|(sequence, found)| {
            let facts = translate::facts(self.log.facts(sequence)?);
            Some(IsolatedMessage { facts, found_at: found.at, why: found.why.clone() })
        });
        let (messages, next) = page(messages, count, |message| message.facts.sequence);
        FromStore::IsolatedListed { messages, next }
    }

    fn partials_listed(&self, behind: Option<MessageId>, count: usize) -> FromStore {
        let mut facts: Vec<_> =
            self.log.partials().filter(|partial| behind.is_none_or(|id| partial.message > id)).collect();
        facts.sort_unstable_by_key(|partial| partial.message);
        let next = (facts.len() > count).then(|| facts[count - 1].message);
        facts.truncate(count);
        let partial = |facts: queue::PartialFacts| PartialMessage {
            message: facts.message,
            octets: facts.octets,
            first_seen_at: facts.first_seen_at,
            peer: self.uploads.peer(facts.message).map(str::to_owned),
        };
        FromStore::PartialsListed { partials: facts.into_iter().map(partial).collect(), next }
    }

    /// Where a message stands.
    pub(super) fn standing(&self, message: MessageId) -> Standing {
        translate::standing(&self.log, message, |sequence| self.isolated.contains(sequence))
    }

    fn show(&mut self, id: ClientId, message: MessageId) {
        let sequence = self.log.find(message);
        let shown = match sequence.map(|sequence| self.log.message(sequence)) {
            None | Some(Ok(None)) => Shown::Absent,
            Some(Ok(Some(detail))) => Shown::Detail(Box::new(translate::detail(detail))),
            Some(Err(error)) => {
                let why = chain(&error);
                if let Some(sequence) = sequence.filter(|_| is_loss(&error)) {
                    self.isolate(sequence, &why);
                }
                Shown::Unreadable { why }
            }
        };
        let Some(client) = self.clients.get(&id) else { return };
        if let Err(why) = client.send_detail(FromStore::Shown(shown)) {
            client.send(&FromStore::Shown(Shown::Unreadable { why }));
        }
    }

    fn read_piece(&mut self, id: ClientId, message: MessageSequence, chunk: u32, offset: u32) {
        let piece = translate::piece(self.log.read_chunk(message, chunk), offset);
        if let Piece::Lost { why } = &piece {
            self.isolate(message, why);
        }
        if let Some(client) = self.clients.get(&id) {
            client.send(&FromStore::Piece(piece));
        }
    }
}

/// The first of a list, and the place of the one behind them.
fn page<T, P>(list: impl Iterator<Item = T>, count: usize, place: impl Fn(&T) -> P) -> (Vec<T>, Option<P>) {
    let mut first: Vec<_> = list.take(count + 1).collect();
    let next = first.get(count).map(place);
    first.truncate(count);
    (first, next)
}

impl<L: Wire> Client<L> {
    /// Answers with as many as were asked for, or as fit a datagram.
    fn list(&self, count_max: u32, listed: impl Fn(usize) -> FromStore) {
        let mut count = usize::try_from(count_max.clamp(1, 256)).unwrap_or(1);
        while let Err(error) = self.link.push(&listed(count)) {
            if count == 1 {
                let error = &error as &dyn std::error::Error;
                return tracing::error!(error, "a message's facts do not fit a datagram");
            }
            count /= 2;
        }
    }
}
