//! What operators ask of the store beyond a list: where a message stands, its content piece by piece, what is isolated or
//! partial; and what they order: that a message is handed out again, or ends.
//!
//! Each order is an event with the user and the process that gave it, when it is durable.

use super::Service;
use crate::client::{Client, ClientId, ticket};
use crate::isolated::is_loss;
use crate::{translate, uploads};
use sternpost_link::store::{
    Append, FromStore, IsolatedMessage, Lane, PartialMessage, Piece, Refusal, Shown, Standing, StoreStatus,
    StreamFrame, ToStore,
};
use sternpost_message::{MessageId, MessageSequence, Outcome, RecipientRange, UnixMillis, chain};
use sternpost_platform::wire::Wire;
use sternpost_queue::{self as queue, AppendSet, Disk};

/// Answers that an operator has not read, beyond which it gets no more: it asks for one thing at a time.
const UNREAD_OCTETS_MAX: usize = 1 << 20;

/// An order that is on its way into the log.
#[derive(Debug)]
pub(super) struct Order {
    event: &'static str,
    message: MessageId,
    /// Nobody says why mail is imported.
    why: Option<String>,
    uid: u32,
    pid: u32,
    /// It ends a message that is not complete.
    is_of_a_partial: bool,
}

impl Order {
    fn new(client: &Client<impl Wire>, event: &'static str, message: MessageId, why: Option<&str>) -> Self {
        let uid = client.link.peer().map_or(u32::MAX, |peer| peer.uid);
        Self { event, message, why: why.map(str::to_owned), uid, pid: client.pid(), is_of_a_partial: false }
    }

    /// It is durable.
    fn tell(&self) {
        let Self { event, message, why, uid, pid, .. } = self;
        let why = why.as_deref();
        tracing::warn!(event, id = %message, why, uid, pid, "an operator has changed what is in the queue");
    }

    /// It is durable, and has changed nothing.
    fn tell_late(&self) {
        let Self { message, why, uid, pid, .. } = self;
        let why = why.as_deref();
        tracing::warn!(
            event = "message.not_discarded",
            id = %message,
            why,
            uid,
            pid,
            "an operator's order to discard a message came too late: its sender had sent all of it, and it was accepted"
        );
    }
}

impl<D: Disk, L: Wire> Service<D, L> {
    /// Answers a frame that only operators send. The others are not meant for it.
    pub(super) fn operator(&mut self, id: ClientId, frame: &ToStore<'_>) {
        let Some(client) = self.clients.get(&id) else { return };
        if client.link.unsent_octets() > UNREAD_OCTETS_MAX {
            return self.door.refuse(&*client.link, "it asks and does not read the answers");
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
            partials_octets: uploads::partial_octets(&self.log),
            partials_are_full: self.uploads.is_full(),
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

    fn standing(&self, message: MessageId) -> Standing {
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

    // ---- what is kept apart ----

    /// Keeps a living message apart: from now on it is not handed out, and QMGR hears that it need not wait for it.
    pub(super) fn isolate(&mut self, message: MessageSequence, why: &str) {
        let Some(facts) = self.log.facts(message) else { return };
        if !self.isolated.add(message, self.now, why) {
            return;
        }
        tracing::error!(
            event = "message.isolated",
            id = %facts.id,
            sequence = %message,
            why,
            "a part of a message is lost; it is kept apart and not attempted (sternpost queue list --isolated)"
        );
        self.tell(message, || StreamFrame::Isolated { message });
    }

    /// An alarm of the log may speak of a living message that has lost a part.
    pub(super) fn heard(&mut self, alarm: &queue::Alarm) {
        use queue::Alarm::{EnvelopeLost, Unreadable};
        let (Unreadable { message, .. } | EnvelopeLost { message, .. }) = alarm else { return };
        if let Some(sequence) = self.log.find(*message).filter(|sequence| self.log.is_damaged(*sequence)) {
            self.isolate(sequence, &alarm.to_string());
        }
    }

    /// What recovery has found, before anybody has connected.
    pub fn recovered(
        &mut self,
        now: UnixMillis,
        report: &queue::RecoveryReport,
        parameters: &queue::Parameters,
    ) {
        self.now = now;
        self.uploads = uploads::Uploads::new(parameters);
        self.damaged_places_count = report.damage.len() as u64;
        for (sequence, _) in &report.damaged_messages {
            self.isolate(*sequence, "a part of it was not found when the log was opened");
        }
    }

    fn restore(&mut self, id: ClientId, message: MessageId) {
        let sequence = self.log.find(message).filter(|sequence| !self.log.is_damaged(*sequence));
        let is_back = sequence.is_some_and(|sequence| self.isolated.remove(sequence));
        if let (true, Some(sequence), Some(client)) = (is_back, sequence, self.clients.get(&id)) {
            Order::new(client, "message.restored", message, Some("it can be read again")).tell();
            if let Some(facts) = self.log.facts(sequence) {
                self.tell(sequence, || StreamFrame::Message(Box::new(translate::facts(facts))));
            }
        }
        if let Some(client) = self.clients.get(&id) {
            client.send(&FromStore::Restored { is_back });
        }
    }

    /// Ends an isolated or a partial message.
    fn discard(&mut self, id: ClientId, number: u64, message: MessageId, why: &str) {
        let now = self.now;
        let standing = self.standing(message);
        let (lane, record) = match standing {
            Standing::Isolated(sequence) => {
                let outcomes = vec![(RecipientRange::EVERYBODY, Outcome::Discarded { why: why.to_owned() })];
                (Lane::Outcome, queue::Append::Outcome { message: sequence, outcomes })
            }
            // Behind the chunks that wait, or they would begin it anew.
            Standing::Partial => {
                let lane = self.uploads.discard(message, now).unwrap_or(Lane::Outcome);
                (lane, queue::Append::DiscardPartial { message })
            }
            Standing::Living(_) => {
                return self.refuse_order(id, number, "the message is whole: it is not isolated");
            }
            Standing::Dead | Standing::Unknown => {
                return self.refuse_order(id, number, "no message of this id is isolated or partial");
            }
        };
        let Some(client) = self.clients.get_mut(&id) else { return };
        client.open_sets += 1;
        let is_of_a_partial = standing == Standing::Partial;
        let order = Order { is_of_a_partial, ..Order::new(client, "message.discarded", message, Some(why)) };
        let ticket = ticket(id, Lane::Outcome, number);
        let set = AppendSet { records: vec![record] };
        self.orders.insert(ticket, order);
        if let Err(error) = self.log.append(now, translate::lane(lane), set, ticket) {
            self.refused(id, Lane::Outcome, number, translate::refusal(&error));
        }
    }

    fn refuse_order(&mut self, id: ClientId, number: u64, why: &str) {
        if let Some(client) = self.clients.get(&id) {
            let refusal = Refusal::Invalid(why.to_owned());
            client.send(&FromStore::Refused { lane: Lane::Outcome, number, refusal });
        }
    }

    /// Looks at what an operator appends: only an isolated message may be ended by it. Gives what is to be told when it is
    /// durable.
    ///
    /// # Errors
    /// `Invalid`.
    pub(super) fn order(
        &self,
        client: &Client<L>,
        lane: Lane,
        records: &[Append<'_>],
    ) -> Result<Option<Order>, Refusal> {
        let mut order = None;
        for record in records {
            match record {
                Append::Outcome { message, outcomes } => {
                    let facts = self.log.facts(*message).filter(|_| self.isolated.contains(*message));
                    let Some(facts) = facts else {
                        return Err(Refusal::Invalid("only an isolated message ends by an order".to_owned()));
                    };
                    let why = outcomes.iter().find_map(|(_, outcome)| match outcome {
                        Outcome::Discarded { why } => Some(why.as_str()),
                        _ => None,
                    });
                    order = Some(Order::new(client, "message.discarded", facts.id, why));
                }
                // A probe is no message of anybody's.
                Append::Envelope { message, .. } if lane != Lane::Outcome && order.is_none() => {
                    order = Some(Order::new(client, "message.imported", *message, None));
                }
                _ => {}
            }
        }
        Ok(order)
    }

    /// A set is durable, or it was refused.
    pub(super) fn order_has_ended(&mut self, ticket: u64, is_durable: bool) {
        if self.orders.is_empty() {
            return;
        }
        let Some(order) = self.orders.remove(&ticket) else { return };
        let standing = self.standing(order.message);
        // What an order has ended is forgotten; what was accepted before it is known, living or dead.
        let was_accepted = !matches!(standing, Standing::Partial | Standing::Unknown);
        match is_durable {
            true if order.is_of_a_partial && was_accepted => order.tell_late(),
            true => return order.tell(),
            false => {}
        }
        let is_ordered_again = || {
            let mut others = self.orders.values();
            others.any(|other| other.is_of_a_partial && other.message == order.message)
        };
        // One that was refused behind another one that has ended the message undoes nothing.
        if order.is_of_a_partial && standing != Standing::Unknown && !is_ordered_again() {
            self.uploads.undo_discard(order.message);
        }
    }

    // ---- the share of partial messages ----

    /// Content without envelope was refused: says once that its share is full.
    pub(super) fn partials_refused(&mut self, octets: u64) {
        if self.uploads.is_full_now(&self.log, octets, self.now) {
            tracing::error!(
                event = "log.alarm",
                "messages that are not complete fill their {} % of the log; content of others gets 452 until there is room \
                 (sternpost queue list --partials shows whose they are)",
                self.uploads.share_max_percent()
            );
        }
    }

    /// Says once that there is room again.
    pub(super) fn look_at_partials(&mut self) {
        if self.uploads.has_room_again(&self.log, self.now) {
            tracing::warn!(event = "log.alarm", "messages that are not complete have room again");
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

/// Whether a set brings content and no envelope.
pub(super) fn only_content(records: &[Append<'_>]) -> Option<u64> {
    records.iter().try_fold(0, |sum, record| match record {
        Append::Content { octets, .. } => Some(sum + octets.len() as u64),
        _ => None,
    })
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
