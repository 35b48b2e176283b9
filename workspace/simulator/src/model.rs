//! What was promised: the model that a history compares the log with.
//!
//! It is told what was appended, what became durable and what was damaged. What follows from that stands in
//! `invariants`.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use sha2::{Digest, Sha256};
use sternpost_message::{
    Envelope, MessageId, MessageSequence, Outcome, Precedence, Recipient, RecipientRange, RecipientState,
    ReversePath, RouteIndex, UnixMillis, sample,
};
use sternpost_queue::{MessageDetail, MessageFacts, PartialFacts, RecoveryReport};

use crate::random::Random;

/// Whether the log has taken a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Never appended as a whole.
    Unknown,
    /// Appended, not answered; or refused, and the log was not seen to go on since.
    InDoubt,
    /// Durable.
    Accepted,
    /// It is not in the log and must never be.
    Void,
}

/// What is durable of one recipient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Recorded {
    pub(crate) state: RecipientState,
    pub(crate) attempts: u16,
    pub(crate) delay_reported: bool,
}

impl Recorded {
    /// As FORMAT.md says of outcomes: what is terminal stays, an attempt is counted.
    #[must_use]
    pub(crate) fn after(self, outcome: &Outcome) -> Self {
        if self.state.is_terminal() {
            return self;
        }
        let is_attempt = match outcome {
            _ if self.state.owes_success_report() => false,
            Outcome::Deferred { .. } => self.state == RecipientState::Pending,
            Outcome::Failed(_) => self.state != RecipientState::Failed,
            Outcome::Delivered(_)
            | Outcome::Transferred(_)
            | Outcome::DeliveredReportOwed(_)
            | Outcome::RelayedReportOwed(_) => true,
            Outcome::DelayReported | Outcome::Reported { .. } | Outcome::Discarded { .. } => false,
        };
        let is_told = matches!(outcome, Outcome::DelayReported) && self.state == RecipientState::Pending;
        Self {
            state: self.state.after(outcome.kind()),
            attempts: self.attempts.saturating_add(u16::from(is_attempt)),
            delay_reported: self.delay_reported || is_told,
        }
    }
}

/// A report that was appended together with an outcome: of whom, and of what kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ReportOf {
    pub(crate) message: MessageId,
    pub(crate) recipient: usize,
    pub(crate) is_delay: bool,
}

/// One message of the model.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) content: Rc<[u8]>,
    pub(crate) sha256: [u8; 32],
    pub(crate) envelope: Envelope,
    pub(crate) standing: Standing,
    pub(crate) sequence: Option<MessageSequence>,
    /// Somebody was told that it is in the log.
    pub(crate) is_acknowledged: bool,
    /// What is durable.
    pub(crate) recorded: Vec<Recorded>,
    /// Outcomes that were appended and not seen to be durable.
    pub(crate) doubts: Vec<(RecipientRange, Outcome)>,
    /// A part of what stands of it on the disk was damaged: it may be lost, apart, or as it was before.
    pub(crate) is_hit: bool,
}

impl Message {
    pub(crate) fn new(content: Vec<u8>, envelope: Envelope) -> Self {
        Self {
            sha256: Sha256::digest(&content).into(),
            content: content.into(),
            standing: Standing::Unknown,
            sequence: None,
            is_acknowledged: false,
            recorded: vec![Recorded::default(); envelope.recipients.len()],
            envelope,
            doubts: Vec::new(),
            is_hit: false,
        }
    }

    pub(crate) fn lives(&self) -> bool {
        self.standing == Standing::Accepted && !self.is_over()
    }

    /// Whether nothing remains to be done for any recipient.
    pub(crate) fn is_over(&self) -> bool {
        self.recorded.iter().all(|recorded| recorded.state.is_terminal())
    }

    /// Whether nothing may remain to be done, by what is durable or in doubt.
    pub(crate) fn may_be_over(&self) -> bool {
        let may_end = |at| self.possible(at).iter().any(|recorded| recorded.state.is_terminal());
        (0..self.recorded.len()).all(may_end)
    }

    fn apply(&mut self, range: RecipientRange, outcome: &Outcome) {
        let (Ok(first), Ok(end)) = (usize::try_from(range.first), usize::try_from(range.end())) else {
            return;
        };
        for recorded in self.recorded.iter_mut().take(end).skip(first) {
            *recorded = recorded.after(outcome);
        }
    }

    /// What may be found of a recipient: what is durable, or whatever the outcomes in doubt lead to.
    pub(crate) fn possible(&self, recipient: usize) -> Vec<Recorded> {
        let mut possible = vec![self.recorded[recipient]];
        for (range, outcome) in &self.doubts {
            let inside = usize::try_from(range.first).is_ok_and(|first| first <= recipient)
                && usize::try_from(range.end()).is_ok_and(|end| recipient < end);
            if inside {
                let more: Vec<_> = possible.iter().map(|recorded| recorded.after(outcome)).collect();
                possible.extend(more.into_iter().filter(|new| !possible.contains(new)).collect::<Vec<_>>());
            }
        }
        possible
    }
}

/// What an opening of the log has found.
pub(crate) struct Found {
    /// In the order of acceptance, as the scheduler would hear of it.
    pub(crate) facts: Vec<MessageFacts>,
    pub(crate) details: BTreeMap<MessageId, MessageDetail>,
    /// Messages that live and whose envelope or outcomes the disk does not give.
    pub(crate) unreadable: BTreeSet<MessageId>,
    pub(crate) partials: BTreeMap<MessageId, PartialFacts>,
    pub(crate) report: RecoveryReport,
}

/// All messages, by name and by number.
#[derive(Default)]
pub(crate) struct Model {
    pub(crate) messages: BTreeMap<MessageId, Message>,
    pub(crate) sequences: BTreeMap<MessageSequence, MessageId>,
    pub(crate) reports: BTreeMap<MessageId, Vec<ReportOf>>,
    /// The report that is in the log, by what it reports.
    pub(crate) reported: BTreeMap<ReportOf, MessageId>,
    pub(crate) refused: Vec<MessageId>,
    /// Something was damaged at some time.
    pub(crate) was_hit: bool,
    /// Something was damaged since the log was opened last …
    pub(crate) is_hit: bool,
    /// … what stood last in the log among it: its loss looks like a torn tail.
    pub(crate) is_tail_hit: bool,
    /// What the log itself has named as lost since; none where nobody hears it but the journal.
    pub(crate) alarmed: Option<BTreeSet<MessageId>>,
}

impl Model {
    pub(crate) fn get(&mut self, id: MessageId) -> Result<&mut Message, String> {
        self.messages.get_mut(&id).ok_or_else(|| format!("{id} was never appended"))
    }

    pub(crate) fn by_sequence(&mut self, sequence: MessageSequence) -> Result<&mut Message, String> {
        let id = *self.sequences.get(&sequence).ok_or_else(|| format!("{sequence} was never accepted"))?;
        self.get(id)
    }

    pub(crate) fn appended(&mut self, id: MessageId) {
        if let Some(message) = self.messages.get_mut(&id)
            && message.standing == Standing::Unknown
        {
            message.standing = Standing::InDoubt;
        }
    }

    pub(crate) fn in_doubt(&mut self, id: MessageId, outcomes: &[(RecipientRange, Outcome)]) {
        if let Some(message) = self.messages.get_mut(&id) {
            message.doubts.extend_from_slice(outcomes);
        }
    }

    /// A report of these was appended, together with the outcomes that say so.
    pub(crate) fn reports(&mut self, report: MessageId, of: Vec<ReportOf>) {
        self.reports.insert(report, of);
    }

    /// The envelope is durable.
    pub(crate) fn accepted(&mut self, id: MessageId, sequence: MessageSequence) -> Result<(), String> {
        let other = self.sequences.get(&sequence).copied().filter(|other| *other != id);
        if let Some(other) = other.filter(|other| !self.messages[other].is_hit) {
            return Err(format!("sequence {sequence} is given to {other} and {id}"));
        }
        let message = self.get(id)?;
        if message.standing != Standing::InDoubt && !message.is_hit {
            return Err(format!("{id} is accepted while it is {:?}", message.standing));
        }
        message.standing = Standing::Accepted;
        message.sequence = Some(sequence);
        self.sequences.insert(sequence, id);
        Ok(())
    }

    /// Somebody was told that the message is in the log.
    pub(crate) fn acknowledged(&mut self, id: MessageId) -> Result<(), String> {
        let message = self.get(id)?;
        message.is_acknowledged = true;
        if message.standing == Standing::Accepted || message.is_hit {
            Ok(())
        } else {
            Err(format!("{id} is acknowledged and is not durable: it is {:?}", message.standing))
        }
    }

    pub(crate) fn refused(&mut self, id: MessageId) {
        if let Some(message) = self.messages.get_mut(&id)
            && message.standing == Standing::InDoubt
        {
            self.refused.push(id);
        }
    }

    /// Something was committed after these were refused: they are void.
    pub(crate) fn refusals_are_final(&mut self) {
        for id in std::mem::take(&mut self.refused) {
            if let Some(message) = self.messages.get_mut(&id)
                && message.standing == Standing::InDoubt
            {
                message.standing = Standing::Void;
            }
        }
    }

    /// The answer has come to outcomes that were appended.
    pub(crate) fn no_longer_in_doubt(&mut self, id: MessageId, outcomes: &[(RecipientRange, Outcome)]) {
        let Some(message) = self.messages.get_mut(&id) else { return };
        for outcome in outcomes {
            if let Some(at) = message.doubts.iter().position(|doubt| doubt == outcome) {
                message.doubts.remove(at);
            }
        }
    }

    /// The log says that these outcomes have changed these recipients. It may have lost those before with a damage.
    pub(crate) fn changed(
        &mut self,
        sequence: MessageSequence,
        outcomes: &[(RecipientRange, Outcome)],
    ) -> Result<(), String> {
        for (range, outcome) in outcomes {
            if let Outcome::Reported { report: Some(report), .. } = outcome
                && self.get(*report)?.standing != Standing::Accepted
            {
                return Err(format!("report {report} is told of before it is there"));
            }
            let message = self.by_sequence(sequence)?;
            for recipient in range.first..range.end() {
                let at = usize::try_from(recipient).map_err(|error| error.to_string())?;
                let recorded = message.recorded.get(at).ok_or_else(|| format!("{sequence} has no {at}"))?;
                if recorded.state.is_terminal() && !message.is_hit {
                    return Err(format!("recipient {at} of {sequence} was terminal and changed"));
                }
            }
        }
        self.recorded(sequence, outcomes)
    }

    /// The log says that a message is over. Of one whose envelope was hit, nobody could read after a restart which of the doubtful
    /// outcomes the log knows: its index does.
    pub(crate) fn died(&mut self, sequence: MessageSequence) -> Result<(), String> {
        let message = self.by_sequence(sequence)?;
        if message.is_over() || message.is_hit {
            Ok(())
        } else {
            Err(format!("{sequence} died with work to do"))
        }
    }

    /// Outcomes are durable.
    pub(crate) fn recorded(
        &mut self,
        sequence: MessageSequence,
        outcomes: &[(RecipientRange, Outcome)],
    ) -> Result<(), String> {
        let message = self.by_sequence(sequence)?;
        for (range, outcome) in outcomes {
            message.apply(*range, outcome);
        }
        Ok(())
    }

    /// A place was damaged at which something stands of these.
    pub(crate) fn hit(&mut self, messages: impl IntoIterator<Item = MessageId>, is_tail: bool) {
        self.was_hit = true;
        self.is_hit = true;
        self.is_tail_hit |= is_tail;
        for id in messages {
            if let Some(message) = self.messages.get_mut(&id) {
                message.is_hit = true;
            }
        }
    }

    pub(crate) fn living(&self) -> Vec<(MessageId, MessageSequence)> {
        let living = self.sequences.iter().filter(|(sequence, id)| {
            let message = &self.messages[*id];
            message.lives() && message.sequence == Some(**sequence)
        });
        living.map(|(sequence, id)| (*id, *sequence)).collect()
    }

    pub(crate) fn any_living(&self, random: &mut Random) -> Option<(MessageId, MessageSequence)> {
        let living = self.living();
        // The old ones too, but mostly the young: that is how mail dies.
        let from = if random.chance(80) { living.len() / 4 } else { 0 };
        let young = &living[from..];
        (!young.is_empty()).then(|| young[random.place(young.len())])
    }

    pub(crate) fn any_accepted(&self, random: &mut Random) -> Option<MessageId> {
        // Of the last few: the log remembers the ids of what it still holds.
        let ids: Vec<MessageId> = self.living().into_iter().map(|(id, _)| id).collect();
        (!ids.is_empty()).then(|| ids[random.place(ids.len())])
    }

    pub(crate) fn any_owed_report(&self, random: &mut Random) -> Option<(MessageId, MessageSequence, usize)> {
        let owed = self.living().into_iter().filter_map(|(id, sequence)| {
            let recorded = &self.messages[&id].recorded;
            let at = recorded.iter().position(|recorded| recorded.state.owes_report())?;
            Some((id, sequence, at))
        });
        let owed: Vec<_> = owed.collect();
        (!owed.is_empty()).then(|| owed[random.place(owed.len())])
    }

    /// Takes what recovery found as durable from now on. It was compared before. `open`: messages that a client may send
    /// again.
    pub(crate) fn adopt(&mut self, found: &Found, open: &BTreeSet<MessageId>) {
        self.refused.clear();
        for (id, message) in &mut self.messages {
            match found.details.get(id) {
                Some(detail) => adopt_found(message, detail),
                None if found.unreadable.contains(id) => {}
                None if message.standing == Standing::InDoubt && open.contains(id) => {}
                None => adopt_absent(message),
            }
            message.doubts.clear();
        }
        self.sequences.retain(|sequence, id| {
            let message = &self.messages[id];
            message.sequence == Some(*sequence) || !message.is_hit
        });
        for (id, detail) in &found.details {
            self.sequences.insert(detail.sequence, *id);
        }
        self.is_hit = false;
        self.is_tail_hit = false;
        self.alarmed.iter_mut().for_each(BTreeSet::clear);
    }
}

fn adopt_found(message: &mut Message, detail: &MessageDetail) {
    message.standing = Standing::Accepted;
    message.sequence = Some(detail.sequence);
    for (recorded, found) in message.recorded.iter_mut().zip(&detail.states) {
        *recorded =
            Recorded { state: found.state, attempts: found.attempts, delay_reported: found.delay_reported };
    }
}

fn adopt_absent(message: &mut Message) {
    match message.standing {
        Standing::Unknown | Standing::Void => {}
        Standing::InDoubt => message.standing = Standing::Void,
        // Dead: by what the outcomes in doubt made of it; or lost, if it was hit.
        Standing::Accepted => {
            for at in 0..message.recorded.len() {
                let end = message.possible(at).into_iter().find(|recorded| recorded.state.is_terminal());
                let lost = Recorded { state: RecipientState::Discarded, ..message.recorded[at] };
                message.recorded[at] = end.unwrap_or(lost);
            }
        }
    }
}

/// An envelope with `recipients`, half of them by one route, half by another.
pub(crate) fn envelope(recipients: usize, accepted_at: UnixMillis) -> Envelope {
    let address = |number: usize| format!("r{number}@example.org");
    let recipient = |number: usize| Recipient {
        route: RouteIndex(u16::from(number % 2 == 1)),
        ..sample::recipient(&address(number))
    };
    Envelope {
        sender: ReversePath::Mailbox(sample::recipient(&address(0)).address),
        recipients: (0..recipients).map(recipient).collect(),
        routes: ["a", "b"].map(|peer| sample::route("smtp", peer)).into(),
        accepted_at,
        precedence: Precedence::ALL[recipients % Precedence::ALL.len()],
        source: "simulator".to_owned(),
        client: String::new(),
        ..sample::envelope(&[], ("smtp", "a"))
    }
}
