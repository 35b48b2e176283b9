//! What was promised: the model that a history compares the log with.

use std::collections::{BTreeMap, HashMap};

use sha2::{Digest, Sha256};
use sternpost_message::{
    BodyType, Envelope, Mailbox, MessageId, MessageSequence, Outcome, Precedence, Recipient, RecipientRange,
    RecipientState, ReversePath, Route, RouteIndex, UnixMillis,
};
use sternpost_queue::MessageDetail;

use crate::history::is_over;
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

/// One message of the model.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) content: Vec<u8>,
    pub(crate) sha256: [u8; 32],
    pub(crate) standing: Standing,
    pub(crate) sequence: Option<MessageSequence>,
    /// Durable states.
    pub(crate) states: Vec<RecipientState>,
    /// Outcomes that were appended and not seen to be durable.
    doubts: Vec<(RecipientRange, Outcome)>,
    /// Reports that were appended together with the outcome of a recipient.
    reports: Vec<(MessageId, usize)>,
}

impl Message {
    pub(crate) fn new(content: Vec<u8>, recipients: usize) -> Self {
        Self {
            sha256: Sha256::digest(&content).into(),
            content,
            standing: Standing::Unknown,
            sequence: None,
            states: vec![RecipientState::Pending; recipients],
            doubts: Vec::new(),
            reports: Vec::new(),
        }
    }

    fn lives(&self) -> bool {
        self.standing == Standing::Accepted && !is_over(&self.states)
    }

    /// The states that a recipient may be in: the durable one, or any that an outcome in doubt leads to.
    fn possible(&self, recipient: usize) -> Vec<RecipientState> {
        let mut possible = vec![self.states[recipient]];
        for (range, outcome) in &self.doubts {
            let inside = usize::try_from(range.first).is_ok_and(|first| first <= recipient)
                && usize::try_from(range.end()).is_ok_and(|end| recipient < end);
            if inside {
                let more: Vec<_> = possible.iter().map(|state| state.after(outcome.kind())).collect();
                possible.extend(more);
            }
        }
        possible
    }
}

/// All messages, by name and by number.
#[derive(Default)]
pub(crate) struct Model {
    pub(crate) messages: HashMap<MessageId, Message>,
    sequences: BTreeMap<MessageSequence, MessageId>,
    refused: Vec<MessageId>,
}

impl Model {
    fn get(&mut self, id: MessageId) -> Result<&mut Message, String> {
        self.messages.get_mut(&id).ok_or_else(|| format!("{id} was never appended"))
    }

    fn by_sequence(&mut self, sequence: MessageSequence) -> Result<&mut Message, String> {
        let id = *self.sequences.get(&sequence).ok_or_else(|| format!("{sequence} was never accepted"))?;
        self.get(id)
    }

    pub(crate) fn appended(&mut self, id: MessageId) {
        if let Some(message) = self.messages.get_mut(&id) {
            message.standing = Standing::InDoubt;
        }
    }

    pub(crate) fn in_doubt(&mut self, id: MessageId, outcomes: Vec<(RecipientRange, Outcome)>) {
        if let Some(message) = self.messages.get_mut(&id) {
            message.doubts.extend(outcomes);
        }
    }

    pub(crate) fn reports(&mut self, id: MessageId, report: MessageId, recipient: u32) {
        if let (Some(message), Ok(recipient)) = (self.messages.get_mut(&id), usize::try_from(recipient)) {
            message.reports.push((report, recipient));
        }
    }

    pub(crate) fn accepted(&mut self, id: MessageId, sequence: MessageSequence) -> Result<(), String> {
        if let Some(other) = self.sequences.insert(sequence, id) {
            return Err(format!("sequence {sequence} is given to {other} and {id}"));
        }
        let message = self.get(id)?;
        if message.standing != Standing::InDoubt {
            return Err(format!("{id} is accepted while it is {:?}", message.standing));
        }
        message.standing = Standing::Accepted;
        message.sequence = Some(sequence);
        Ok(())
    }

    pub(crate) fn acknowledged(&mut self, id: MessageId) -> Result<(), String> {
        let message = self.get(id)?;
        if message.standing == Standing::Accepted {
            Ok(())
        } else {
            Err(format!("{id} is acknowledged unseen"))
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

    pub(crate) fn changed(
        &mut self,
        sequence: MessageSequence,
        outcomes: &[(RecipientRange, Outcome)],
    ) -> Result<(), String> {
        for (_, outcome) in outcomes {
            if let Outcome::Reported { report: Some(report), .. } = outcome
                && self.get(*report)?.standing != Standing::Accepted
            {
                return Err(format!("report {report} is told of before it is there"));
            }
        }
        let message = self.by_sequence(sequence)?;
        for (range, outcome) in outcomes {
            for recipient in range.first..range.end() {
                let at = usize::try_from(recipient).map_err(|error| error.to_string())?;
                let state =
                    message.states.get_mut(at).ok_or_else(|| format!("{sequence} has no recipient {at}"))?;
                if state.is_terminal() {
                    return Err(format!("recipient {at} of {sequence} was terminal and changed"));
                }
                *state = state.after(outcome.kind());
            }
        }
        Ok(())
    }

    pub(crate) fn died(&mut self, sequence: MessageSequence) -> Result<(), String> {
        let message = self.by_sequence(sequence)?;
        if is_over(&message.states) { Ok(()) } else { Err(format!("{sequence} died with work to do")) }
    }

    pub(crate) fn living(&self) -> Vec<(MessageId, MessageSequence)> {
        let living = self.sequences.iter().filter(|(_, id)| self.messages[*id].lives());
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

    pub(crate) fn any_failed(&self, random: &mut Random) -> Option<(MessageId, MessageSequence, u32)> {
        let failed = self.living().into_iter().filter_map(|(id, sequence)| {
            let states = &self.messages[&id].states;
            let at = states.iter().position(|state| *state == RecipientState::Failed)?;
            Some((id, sequence, u32::try_from(at).ok()?))
        });
        let failed: Vec<_> = failed.collect();
        (!failed.is_empty()).then(|| failed[random.place(failed.len())])
    }

    /// Compares with what recovery found, and takes it as durable from now on.
    pub(crate) fn recovered(
        &mut self,
        found: &BTreeMap<MessageId, MessageDetail>,
        partials: &[MessageId],
    ) -> Result<(), String> {
        self.refused.clear();
        for (id, detail) in found {
            self.check_found(*id, detail)?;
        }
        for (id, message) in &mut self.messages {
            if !found.contains_key(id) {
                Self::check_absent(*id, message)?;
            }
            message.doubts.clear();
        }
        for id in partials {
            let message = self.get(*id)?;
            if message.standing == Standing::Accepted {
                return Err(format!("{id} is a message and came back as a partial one"));
            }
        }
        self.check_reports(found)
    }

    fn check_found(&mut self, id: MessageId, detail: &MessageDetail) -> Result<(), String> {
        let known = self.sequences.get(&detail.sequence).copied();
        let message = self.messages.get_mut(&id).ok_or_else(|| format!("{id} was never appended"))?;
        match message.standing {
            Standing::Accepted if message.sequence != Some(detail.sequence) => {
                return Err(format!("{id} is there under another number"));
            }
            Standing::Accepted | Standing::InDoubt => {}
            Standing::Unknown | Standing::Void => {
                return Err(format!("{id} is {:?} and lives", message.standing));
            }
        }
        if known.is_some_and(|other| other != id) {
            return Err(format!("number {} was given twice", detail.sequence));
        }
        if is_over(&message.states) {
            return Err(format!("{id} was dead and lives"));
        }
        if detail.content_sha256 != message.sha256 || detail.states.len() != message.states.len() {
            return Err(format!("{id} is not what was appended"));
        }
        for (at, record) in detail.states.iter().enumerate() {
            if !message.possible(at).contains(&record.state) {
                let (was, is) = (message.states[at], record.state);
                return Err(format!("recipient {at} of {id} was durably {was:?} and is {is:?}"));
            }
            message.states[at] = record.state;
        }
        message.standing = Standing::Accepted;
        message.sequence = Some(detail.sequence);
        self.sequences.insert(detail.sequence, id);
        Ok(())
    }

    fn check_absent(id: MessageId, message: &mut Message) -> Result<(), String> {
        match message.standing {
            Standing::Unknown | Standing::Void => {}
            Standing::InDoubt => message.standing = Standing::Void,
            Standing::Accepted => {
                let may_be_dead = (0..message.states.len())
                    .all(|at| message.possible(at).iter().any(|state| state.is_terminal()));
                if !may_be_dead {
                    return Err(format!("{id} was acknowledged, was not dead, and is gone"));
                }
                // Dead: whatever the outcomes in doubt made of it.
                for state in message.states.iter_mut().filter(|state| !state.is_terminal()) {
                    *state = RecipientState::Discarded;
                }
            }
        }
        Ok(())
    }

    /// A report is there only together with the fact that it was made.
    fn check_reports(&self, found: &BTreeMap<MessageId, MessageDetail>) -> Result<(), String> {
        for (id, detail) in found {
            for (report, at) in &self.messages[id].reports {
                let is_accepted = self.messages[report].standing == Standing::Accepted;
                if is_accepted && !detail.states[*at].state.is_terminal() {
                    return Err(format!("report {report} is there, recipient {at} of {id} is not reported"));
                }
            }
        }
        Ok(())
    }
}

/// An envelope with `recipients`, half of them by one route, half by another.
pub(crate) fn envelope(recipients: usize, accepted_at: UnixMillis) -> Envelope {
    let address = |number: usize| Mailbox::parse(&format!("r{number}@example.org")).expect("a good address");
    let recipient = |number: usize| Recipient {
        address: address(number),
        route: RouteIndex(u16::from(number % 2 == 1)),
        notify: None,
        original_recipient: None,
    };
    let route = |peer: &str| Route { channel: "smtp".to_owned(), peer: peer.to_owned() };
    Envelope {
        sender: ReversePath::Mailbox(address(0)),
        recipients: (0..recipients).map(recipient).collect(),
        routes: vec![route("a"), route("b")],
        accepted_at,
        precedence: Precedence::Routine,
        mt_priority: None,
        body: BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envelope_id: None,
        source: "simulator".to_owned(),
        client: String::new(),
    }
}
