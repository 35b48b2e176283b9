//! What operators order: that an isolated message is handed out again, or that an isolated or a partial one ends.
//!
//! Each order is an event with the user and the process that gave it, when it is durable.

use super::Service;
use crate::client::{Client, ClientId, ticket};
use crate::translate;
use sternpost_link::store::{Append, FromStore, Lane, Refusal, Standing, StreamFrame};
use sternpost_message::{MessageId, Outcome, RecipientRange};
use sternpost_platform::wire::Wire;
use sternpost_queue::{self as queue, AppendSet, Disk};

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
    pub(super) fn restore(&mut self, id: ClientId, message: MessageId) {
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
    pub(super) fn discard(&mut self, id: ClientId, number: u64, message: MessageId, why: &str) {
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
}
