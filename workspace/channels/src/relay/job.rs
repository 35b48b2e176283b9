//! Mlists on their way through one process: waiting for an association with their peer, and then being transferred.

use crate::store_client::Fetched;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;
use sternpost_link::qmgr::Assignment;
use sternpost_link::store::MessageDetail;
use sternpost_message::{
    DomainPeer, MlistId, NullHop, Outcome, PriorityPolicy, RecipientIndex, RecipientState,
};
use sternpost_smtp::client::{Transaction, TransactionRecipient};
use tokio::sync::Notify;

/// One Mlist.
#[derive(Debug)]
pub(crate) struct Job {
    assignment: Assignment,
    pub(crate) fetched: Fetched,
    /// The recipients that are attempted, in the order of the transaction.
    recipients: Vec<RecipientIndex>,
    outcomes: Vec<Option<Outcome>>,
}

impl Job {
    pub(crate) fn new(assignment: Assignment, fetched: Fetched) -> Self {
        Self { assignment, fetched, recipients: Vec::new(), outcomes: Vec::new() }
    }

    pub(crate) const fn mlist(&self) -> MlistId {
        self.assignment.mlist
    }

    /// Makes the transaction of this Mlist: its recipients that are still pending. None when there are none.
    ///
    /// RFC 6710, 4.2: also a message of which nobody has said a priority has one, that of its level.
    pub(crate) fn transaction(
        &mut self,
        id: u64,
        detail: MessageDetail,
        levels: PriorityPolicy,
    ) -> Option<Transaction> {
        let MessageDetail { envelope, content_octets, recipients: records, .. } = detail;
        let pending = |index: &RecipientIndex| {
            usize::try_from(index.0)
                .ok()
                .and_then(|index| records.get(index))
                .is_some_and(|record| record.state == RecipientState::Pending)
        };
        self.recipients = self
            .assignment
            .recipients
            .iter()
            .flat_map(|range| range.first..range.end())
            .map(RecipientIndex)
            .filter(pending)
            .collect();
        self.outcomes = vec![None; self.recipients.len()];
        let recipients: Vec<_> = self
            .recipients
            .iter()
            .filter_map(|index| envelope.recipients.get(usize::try_from(index.0).ok()?))
            .map(|recipient| TransactionRecipient {
                address: recipient.address.clone(),
                notify: recipient.notify,
                original_recipient: recipient.original_recipient.clone(),
            })
            .collect();
        (!recipients.is_empty()).then_some(Transaction {
            id,
            sender: envelope.sender,
            recipients,
            content_octets,
            body: envelope.body,
            smtputf8: envelope.smtputf8,
            ret: envelope.ret,
            envelope_id: envelope.envelope_id,
            mt_priority: Some(envelope.mt_priority.unwrap_or_else(|| levels.value(envelope.precedence))),
            mt_priority_is_given: envelope.mt_priority.is_some(),
        })
    }

    /// Notes what became of the recipient at `place` of the transaction.
    pub(crate) fn result(&mut self, place: usize, outcome: Outcome) {
        if let Some(slot) = self.outcomes.get_mut(place) {
            *slot = Some(outcome);
        }
    }

    /// Every recipient with its outcome; `otherwise` for those that have none.
    pub(crate) fn outcomes(&mut self, otherwise: impl Fn() -> Outcome) -> Vec<(RecipientIndex, Outcome)> {
        if self.recipients.is_empty() {
            // The message could not even be read: the outcome is that of everything assigned.
            let assigned = self.assignment.recipients.iter().flat_map(|range| range.first..range.end());
            return assigned.map(|index| (RecipientIndex(index), otherwise())).collect();
        }
        let outcomes = self.outcomes.drain(..).map(|outcome| outcome.unwrap_or_else(&otherwise));
        self.recipients.iter().copied().zip(outcomes).collect()
    }
}

/// How an association stands with the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The peer has neither let it in nor refused it.
    Opening,
    /// The peer has let it in and holds it.
    Admitted,
    /// It is refused, has ended, or is about to.
    Over,
}

/// The Mlists of one peer that wait in this process, and the associations with it.
#[derive(Debug)]
pub(crate) struct PeerJobs {
    pub(crate) name: String,
    /// The switch's own probe goes there, and no mail.
    pub(crate) is_null_hop: bool,
    /// Somebody's mail has named it.
    pub(crate) is_of_a_domain: bool,
    waiting: RefCell<VecDeque<Job>>,
    associations: Cell<u32>,
    /// Associations that have nothing to do.
    idle: Cell<usize>,
    opening: Cell<u32>,
    admitted: Cell<u32>,
    arrived: Notify,
    /// The last attempt to reach the peer failed.
    pub(crate) is_failing: Cell<bool>,
    /// Until when its mail goes in the clear because TLS has failed.
    clear_until: Cell<Option<Instant>>,
}

impl PeerJobs {
    pub(crate) fn new(name: &str) -> Rc<Self> {
        Rc::new(Self {
            name: name.to_owned(),
            is_null_hop: NullHop::of_peer(name).is_some(),
            is_of_a_domain: DomainPeer::of_peer(name).is_some(),
            waiting: RefCell::default(),
            associations: Cell::new(0),
            idle: Cell::new(0),
            opening: Cell::new(0),
            admitted: Cell::new(0),
            arrived: Notify::new(),
            is_failing: Cell::new(false),
            clear_until: Cell::new(None),
        })
    }

    /// Whether TLS has failed a short while ago.
    pub(crate) fn is_in_the_clear(&self, now: Instant) -> bool {
        self.clear_until.get().is_some_and(|until| now < until)
    }

    /// Its mail may not go in the clear.
    pub(crate) fn try_tls_again(&self) {
        self.clear_until.set(None);
    }

    pub(crate) fn go_in_the_clear(&self, until: Instant) {
        self.clear_until.set(Some(until));
    }

    /// Queues a job. True when one more association should be opened for it; it is counted already.
    pub(crate) fn push(&self, job: Job, associations_max: u32) -> bool {
        let mut waiting = self.waiting.borrow_mut();
        waiting.push_back(job);
        self.arrived.notify_one();
        let wanted = waiting.len() > self.idle.get() && self.associations.get() < associations_max.max(1);
        if wanted {
            self.associations.set(self.associations.get() + 1);
        }
        wanted
    }

    /// The Mlist that waits longest.
    pub(crate) fn first(&self) -> Option<MlistId> {
        self.waiting.borrow().front().map(Job::mlist)
    }

    /// The job that waits longest.
    pub(crate) fn take(&self) -> Option<Job> {
        let job = self.waiting.borrow_mut().pop_front();
        if job.is_some() && !self.waiting.borrow().is_empty() {
            // One bell may have rung for several jobs.
            self.arrived.notify_one();
        }
        job
    }

    /// Whether an association has nothing to do. One that is busy leaves what comes to it: behind a message under way it
    /// would wait for the peer's reply to that one.
    pub(crate) fn has_idle(&self) -> bool {
        self.idle.get() > 0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    pub(crate) fn take_all(&self) -> Vec<Job> {
        self.waiting.borrow_mut().drain(..).collect()
    }

    /// Waits until a job may have arrived.
    pub(crate) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Tells one of those that wait for a job.
    pub(crate) fn ring(&self) {
        self.arrived.notify_one();
    }

    pub(crate) fn wake_all(&self) {
        self.arrived.notify_waiters();
    }

    /// Associations that the peer has neither let in nor refused yet.
    pub(crate) fn opening(&self) -> u32 {
        self.opening.get()
    }

    /// An association stands otherwise now. Gives how many the peer holds, where that has changed.
    pub(crate) fn stands(&self, before: Standing, now: Standing) -> Option<u32> {
        if before == now {
            return None;
        }
        for (standing, count) in [(Standing::Opening, &self.opening), (Standing::Admitted, &self.admitted)] {
            count.set(count.get() + u32::from(now == standing) - u32::from(before == standing));
        }
        [before, now].contains(&Standing::Admitted).then(|| self.admitted.get())
    }

    pub(crate) fn set_idle(&self, was: bool, is: bool) {
        match (was, is) {
            (false, true) => self.idle.set(self.idle.get() + 1),
            (true, false) => {
                self.idle.set(self.idle.get() - 1);
                // What was left to this one is now for those that are busy.
                if !self.is_empty() {
                    self.arrived.notify_one();
                }
            }
            _ => {}
        }
    }

    /// Whether nothing waits and no association is there to take it.
    pub(crate) fn is_unused(&self) -> bool {
        self.is_empty() && self.associations.get() == 0
    }

    pub(crate) fn association_ended(&self) {
        self.associations.set(self.associations.get() - 1);
    }
}
