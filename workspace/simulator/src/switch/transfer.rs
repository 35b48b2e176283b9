//! The work of a channel that transfers: to peers that answer or do not, and what it records of each recipient. Modelled.

use sternpost_link::qmgr::ToQmgr;
use sternpost_message::{Envelope, ErrorScope, MessageId, MlistId, Outcome, RecipientRange, ReversePath};

use super::channel::{Channel, Stage, own, record};
use super::{Kept, Mistake, World};

/// Whether the sender asks to be told of a success.
fn wants_success_report(envelope: &Envelope, recipient: u32) -> bool {
    let recipient = usize::try_from(recipient).ok().and_then(|at| envelope.recipients.get(at));
    let is_asked = recipient.and_then(|recipient| recipient.notify).is_some_and(|notify| notify.success);
    is_asked && envelope.sender != ReversePath::Null
}

impl World {
    pub(super) fn transfer_begins(&mut self, channel: &mut Channel, number: u32) -> Kept {
        let now = self.now();
        let repeats = self.mistake == Some(Mistake::RepeatedRecipient) && self.random.chance(30);
        let Some(job) = channel.jobs.get_mut(&number) else { return Ok(()) };
        if let Some((is_gone, why)) = job.failed.clone() {
            // Dead: the word of its end is on its way to QMGR. Else it is tried again later.
            let outcomes = if is_gone {
                Vec::new()
            } else {
                let outcome = Outcome::Deferred { scope: ErrorScope::Message, diagnostic: own(4, &why) };
                job.assignment.recipients.iter().map(|range| (*range, outcome.clone())).collect()
            };
            return self.transfer_is_done(channel, number, &outcomes);
        }
        let Some(detail) = job.detail.take() else { return Ok(()) };
        let message = &self.model.messages[&detail.id];
        if job.content[..] != message.content[..] {
            return Err(format!("{} is handed out with other content than came in", detail.id));
        }
        if detail.envelope != message.envelope {
            return Err(format!("{} is handed out with another envelope than came in", detail.id));
        }
        let recipients = job.pending(&detail, repeats);
        let (id, mlist) = (detail.id, job.assignment.mlist);
        job.detail = Some(detail);
        if recipients.is_empty() {
            return self.transfer_is_done(channel, number, &[]);
        }
        let until = now.plus_ms(1 + self.random.below(150));
        self.note(|| format!("{mlist}: a transfer of {id} to {recipients:?} begins"));
        for recipient in &recipients {
            let recipient = usize::try_from(*recipient).map_err(|error| error.to_string())?;
            self.invariant_no_recipient_that_is_done_with_is_attempted(id, recipient)?;
        }
        if let Some(job) = channel.jobs.get_mut(&number) {
            job.stage = Stage::Transferring { until, recipients };
        }
        Ok(())
    }

    pub(super) fn transfer_ends(&mut self, channel: &mut Channel, number: u32, recipients: &[u32]) -> Kept {
        let Some(job) = channel.jobs.get(&number) else { return Ok(()) };
        let (peer, mlist) = (job.assignment.peer.clone(), job.assignment.mlist);
        let Some(detail) = &job.detail else { return Ok(()) };
        let (id, envelope) = (detail.id, detail.envelope.clone());
        let answers = self.peers.answers(&peer, self.now());
        let was_failing = channel.failing.contains(&peer);
        let mut outcomes: Vec<(RecipientRange, Outcome)> = Vec::new();
        for recipient in recipients {
            let outcome = if answers {
                let wants = wants_success_report(&envelope, *recipient);
                self.peers.outcome(&mut self.random, &channel.own.channel, wants)
            } else {
                Outcome::Deferred { scope: ErrorScope::Peer, diagnostic: own(4, "the peer does not answer") }
            };
            if outcome.kind().is_handed_over() {
                let at = usize::try_from(*recipient).map_err(|error| error.to_string())?;
                self.hand_over(id, at);
            }
            match outcomes.last_mut() {
                Some((range, last)) if range.end() == *recipient && *last == outcome => range.count += 1,
                _ => outcomes.push((RecipientRange { first: *recipient, count: 1 }, outcome)),
            }
        }
        if !answers {
            let frame = ToQmgr::PeerFailed {
                peer: peer.clone(),
                why: "it does not answer".to_owned(),
                mlists: vec![mlist],
                opening: 0,
                has_carried: false,
            };
            channel.tell(channel.holding.tell(frame));
            channel.failing.push(peer);
        } else if was_failing {
            channel.failing.retain(|failing| *failing != peer);
            channel.tell(channel.holding.tell(ToQmgr::PeerWorked { peer }));
        }
        self.transfer_is_done(channel, number, &outcomes)
    }

    fn hand_over(&mut self, id: MessageId, recipient: usize) {
        self.summary.handed_over += 1;
        self.summary.handed_over_again += u64::from(self.peers.takes(id, recipient));
    }

    /// Transfers to recipients that are done with: a mistake.
    pub(super) fn transfers_once_more(
        &mut self,
        mlist: MlistId,
        outcomes: &[(RecipientRange, Outcome)],
    ) -> Kept {
        let Some(id) = self.model.sequences.get(&mlist.message).copied() else { return Ok(()) };
        for recipient in outcomes.iter().flat_map(|(range, _)| range.first..range.end()) {
            let at = usize::try_from(recipient).map_err(|error| error.to_string())?;
            self.invariant_no_recipient_that_is_done_with_is_attempted(id, at)?;
            self.hand_over(id, at);
        }
        Ok(())
    }

    /// The slot is free at once; the Mlist is held until what became of its recipients is durable.
    fn transfer_is_done(
        &mut self,
        channel: &mut Channel,
        number: u32,
        outcomes: &[(RecipientRange, Outcome)],
    ) -> Kept {
        let Some(job) = channel.jobs.get_mut(&number) else { return Ok(()) };
        let mlist = job.assignment.mlist;
        let per_set = 1 + self.random.place(40);
        let sets: Vec<Vec<_>> = outcomes.chunks(per_set).map(<[_]>::to_vec).collect();
        job.stage = Stage::Recording { open: sets.len(), again: Vec::new() };
        let step = channel.holding.finished(mlist);
        channel.tell(step);
        if sets.is_empty() {
            channel.jobs.remove(&number);
            channel.holding.release(mlist);
        }
        for set in sets {
            record(channel, number, mlist.message, set)?;
        }
        Ok(())
    }
}
