//! QMGR's tree and the store: the snapshot, the stream, the mark.
//!
//! The tree is built in steps, after each start of QMGR or of the store:
//!
//! 1. the supervisor says which channel processes run;
//! 2. each of them attaches and says which Mlists it holds, or is killed after two seconds;
//! 3. the store sends a snapshot of the living, then the stream;
//! 4. the processes count once more what they hold, for an outcome that became durable before the snapshot came to its
//!    message is in the snapshot and was not told apart;
//! 5. the store's mark comes back: every outcome that a channel was told to be durable is in the tree, and what a
//!    process holds no longer waits again;
//! 6. only now the scheduler goes.

use super::{Manager, Tree, send};
use crate::generations::{NULL_HOPS, REPORTS};
use crate::messages::Consequence;
use std::rc::Rc;
use sternpost_config::HOUSEKEEPER;
use sternpost_link::qmgr::FromQmgr;
use sternpost_link::store::{Effect, MessageFacts, StreamFrame, ToStore};
use sternpost_message::{
    MessageSequence, MlistId, NullHop, ROUTE_DELAY_REPORT, ROUTE_FINAL_REPORT, RecipientRange, RouteIndex,
    UnixMillis,
};
use sternpost_platform::clock::Timepiece;
use sternpost_platform::wire::Wire;
use sternpost_scheduler::{Event, MlistSpec, Scheduler};

/// Nothing is given up so soon after QMGR has begun, unless it is given up sooner after its acceptance.
const NOTHING_EXPIRES_MS: u64 = 3_600_000;

impl<L: Wire, T: Timepiece> Manager<L, T> {
    /// The link to the store is there.
    pub fn store_connected(&mut self, link: Rc<L>) {
        send(&*link, &ToStore::Hello(self.hello()));
        self.store = Some(link);
        self.tree = Tree::Waiting;
        self.intake_said = None;
        self.subscribe_if_ready();
    }

    /// The link to the store has ended.
    pub fn store_lost(&mut self) {
        self.store = None;
        self.tree = Tree::Waiting;
        self.marks.clear();
    }

    pub(super) fn subscribe_if_ready(&mut self) {
        if self.tree != Tree::Waiting || !self.supervisor_has_spoken || self.processes.is_one_awaited() {
            return;
        }
        if let Some(store) = &self.store {
            send(&**store, &ToStore::Subscribe);
            self.tree = Tree::Snapshot;
        }
    }

    /// The store has streamed something.
    pub fn stream(&mut self, frame: StreamFrame) {
        match frame {
            StreamFrame::SnapshotBegin { messages_count } => {
                tracing::info!(
                    event = "tree.snapshot",
                    messages_count,
                    "building the tree from the store's snapshot"
                );
                self.begin_tree();
            }
            StreamFrame::Message(facts) => self.message(&facts),
            StreamFrame::SnapshotEnd => {
                self.tree = Tree::Recounting;
                self.clocks.forget_before(self.messages.oldest().unwrap_or(MessageSequence(u64::MAX)));
                self.mark_last += 1;
                let token = self.mark_last;
                self.processes.begin_recount(token, |link| send(link, &FromQmgr::Recount { token }));
                self.mark_if_counted();
            }
            StreamFrame::Outcome { message, effects } => {
                let mut consequences = Vec::new();
                for (recipients, effect) in effects {
                    self.messages.consequences(message, recipients, effect, &mut consequences);
                    if effect == Effect::Failed {
                        tracing::info!(event = "recipient.failed", %message, "recipients failed; a report is owed");
                    }
                }
                for consequence in consequences {
                    self.follow(message, consequence);
                }
            }
            StreamFrame::Dead { message } => self.forget(message),
            StreamFrame::Isolated { message } => {
                tracing::warn!(event = "message.isolated", %message, "a damaged message is attempted no more");
                self.forget(message);
            }
            StreamFrame::Mark { token } => self.marked(token),
        }
    }

    /// Nothing more is to be done for a message, or nothing can be: a process that works on it is let finish.
    fn forget(&mut self, message: MessageSequence) {
        let Some(known) = self.messages.remove(message) else { return };
        for mlist in known.mlists(message) {
            self.probes.remove(&mlist);
            self.processes.forget(mlist);
            self.apply(Event::Remove { mlist });
        }
    }

    pub(super) fn begin_tree(&mut self) {
        self.tree = Tree::Snapshot;
        self.messages.clear();
        self.probes.clear();
        self.marks.clear();
        self.scheduler = Scheduler::new();
        self.recording.begin(self.clocks.wall());
        self.vanished.clear();
        self.ended = self.processes.forget_the_dead();
        let limits = self.generations.limits(|wall| self.clocks.lived_of(wall));
        if let Some(limits) = limits {
            self.apply(Event::Configure(limits));
        }
        for (process, channel, capacity) in self.processes.alive() {
            self.apply(Event::ProcessStarted { process, channel: channel.clone() });
            if let Some(capacity) = capacity {
                self.apply(Event::ProcessAttached { process, channel, capacity });
            }
        }
    }

    pub(super) fn mark(&mut self, ended: Vec<u32>) -> Option<u64> {
        let store = self.store.as_ref()?;
        self.mark_last += 1;
        send(&**store, &ToStore::Mark { token: self.mark_last, ended });
        Some(self.mark_last)
    }

    pub(super) fn mark_if_counted(&mut self) {
        if self.tree != Tree::Recounting || self.processes.is_recounting() {
            return;
        }
        let ended = std::mem::take(&mut self.ended);
        if let Some(token) = self.mark(ended) {
            self.tree = Tree::Marking(token);
        }
    }

    pub(super) fn marked(&mut self, token: u64) {
        if self.tree == Tree::Marking(token) {
            self.tree = Tree::Going;
            for (process, mlist) in std::mem::take(&mut self.vanished) {
                if self.processes.given_back(process, mlist) {
                    self.apply(Event::Unassigned { process, mlist });
                }
            }
            tracing::info!(event = "tree.going", "the tree is complete; scheduling begins");
            self.apply(Event::Go);
        }
        if let Some(at) = self.marks.iter().position(|(waiting, _)| *waiting == token) {
            let (_, process) = self.marks.swap_remove(at);
            self.processes.remove(process);
            self.apply(Event::Returned { process });
        }
    }

    /// A wall clock that was set has changed what stamps mean: the tree is built anew from the store's.
    pub(super) fn look_at_the_clock(&mut self) {
        if self.clocks.observe()
            && self.tree != Tree::Waiting
            && let Some(store) = &self.store
        {
            send(&**store, &ToStore::Subscribe);
            self.tree = Tree::Snapshot;
        }
    }

    pub(super) fn message(&mut self, facts: &MessageFacts) {
        self.look_at_the_clock();
        let accepted_at = self.clocks.accepted(facts.sequence, facts.accepted_at);
        self.messages.insert(facts, accepted_at);
        for mlist in &facts.mlists {
            let hop = NullHop::of_peer(&mlist.peer);
            // One name stands for all null hops: the scheduler keeps every name that it has heard.
            let peer = if hop.is_some() { NULL_HOPS } else { &mlist.peer };
            let spec = self.spec(facts.sequence, mlist.route, &mlist.channel, peer, mlist.pending.clone());
            if let Some(mut spec) = spec {
                if let Some(hop) = hop {
                    self.probes.insert(spec.id, hop);
                    spec.expires_at = accepted_at.plus_ms(NullHop::EXPIRES_AFTER_MS);
                    spec.delay_report_at = None;
                }
                spec.attempts = mlist.attempts;
                if facts.delay_reported {
                    spec.delay_report_at = None;
                }
                self.queue(spec);
            }
        }
        if !facts.report_owed.is_empty() {
            let owed = facts.report_owed.clone();
            let spec = self.spec(facts.sequence, ROUTE_FINAL_REPORT, HOUSEKEEPER, REPORTS, owed);
            if let Some(spec) = spec {
                self.queue(spec);
            }
        }
    }

    /// Queues an Mlist with everybody who waits for it; what a channel already holds of it is in progress there, and it
    /// holds nobody else any more.
    fn queue(&mut self, spec: MlistSpec) {
        if let Some(holder) = self.processes.holder(spec.id) {
            let (held, _) = split(&spec.recipients, &holder.recipients);
            let is_over = held.is_empty() && holder.finished;
            self.processes.holds_only(spec.id, &held);
            if is_over {
                self.processes.forget(spec.id);
            }
        }
        self.queue_more(spec);
    }

    /// Queues recipients who come to an Mlist. A channel that has it goes on with those that it was given.
    fn queue_more(&mut self, spec: MlistSpec) {
        let Some(holder) = self.processes.holder(spec.id) else { return self.apply(Event::Queue(spec)) };
        let (held, rest) = split(&spec.recipients, &holder.recipients);
        let (process, finished) = (holder.process, holder.finished);
        let mlist = spec.id;
        if !held.is_empty() {
            self.apply(Event::Queue(MlistSpec { recipients: held, held_by: Some(process), ..spec.clone() }));
            if finished {
                self.apply(Event::Finished { process, mlist });
            }
        }
        if !rest.is_empty() {
            self.apply(Event::Queue(MlistSpec { recipients: rest, ..spec }));
        }
    }

    pub(super) fn spec(
        &self,
        message: MessageSequence,
        route: RouteIndex,
        channel: &str,
        peer: &str,
        recipients: Vec<RecipientRange>,
    ) -> Option<MlistSpec> {
        let known = self.messages.get(message)?;
        let qmgr = self.generations.configuration().map(|configuration| &configuration.qmgr);
        let after_s = |seconds: u32| known.accepted_at.plus_ms(u64::from(seconds) * 1_000);
        // A clock that was wrong when the device began may be set before anything is given up by it, and what has waited
        // through a long outage gets one more chance.
        let not_before = |seconds: u32| {
            self.clocks.started().plus_ms((u64::from(seconds) * 1_000).min(NOTHING_EXPIRES_MS))
        };
        let is_report = matches!(route, ROUTE_FINAL_REPORT | ROUTE_DELAY_REPORT);
        Some(MlistSpec {
            id: MlistId { message, route },
            channel: channel.to_owned(),
            peer: peer.to_owned(),
            precedence: known.precedence,
            recipients,
            accepted_at: known.accepted_at,
            // A report that is owed never expires.
            expires_at: match qmgr {
                Some(qmgr) if !is_report => after_s(qmgr.expire_after_s).max(not_before(qmgr.expire_after_s)),
                _ => UnixMillis(u64::MAX),
            },
            delay_report_at: qmgr
                .filter(|qmgr| !is_report && qmgr.delay_report_after_s > 0)
                .map(|qmgr| after_s(qmgr.delay_report_after_s)),
            attempts: 0,
            not_before: UnixMillis(0),
            held_by: None,
        })
    }

    pub(super) fn report(
        &mut self,
        message: MessageSequence,
        route: RouteIndex,
        recipients: Vec<RecipientRange>,
    ) {
        if let Some(spec) = self.spec(message, route, HOUSEKEEPER, REPORTS, recipients) {
            self.queue_more(spec);
        }
    }

    pub(super) fn follow(&mut self, message: MessageSequence, consequence: Consequence) {
        match consequence {
            Consequence::Settled { mlist, recipients, worked } => {
                self.processes.outcome(mlist, recipients);
                self.apply(Event::Settled { mlist, recipients: vec![recipients], worked });
            }
            Consequence::Deferred { mlist, recipients, scope } => {
                self.processes.outcome(mlist, recipients);
                self.apply(Event::Deferred { mlist, recipients: vec![recipients], scope });
            }
            Consequence::ReportOwed { recipients } => {
                self.report(message, ROUTE_FINAL_REPORT, vec![recipients]);
            }
        }
    }
}

/// The part of `recipients` that lies in `within`, and the rest.
fn split(
    recipients: &[RecipientRange],
    within: &[RecipientRange],
) -> (Vec<RecipientRange>, Vec<RecipientRange>) {
    let (inside, outside): (Vec<_>, Vec<_>) = recipients
        .iter()
        .flat_map(|range| range.first..range.end())
        .map(sternpost_message::RecipientIndex)
        .partition(|index| within.iter().any(|range| range.contains(*index)));
    (RecipientRange::pack(inside), RecipientRange::pack(outside))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipients_split_into_those_held_and_the_rest() {
        let range = |first, count| RecipientRange { first, count };
        let (held, rest) = split(&[range(0, 4), range(8, 2)], &[range(1, 2), range(9, 5)]);
        assert_eq!(held, [range(1, 2), range(9, 1)]);
        assert_eq!(rest, [range(0, 1), range(3, 1), range(8, 1)]);
    }
}
