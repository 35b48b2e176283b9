//! The truth beside the switch: what the disk has taken, what was damaged, and what that makes of each message.

use std::ops::Range;

use sternpost_message::{MessageId, MessageSequence};

use super::{Kept, World};
use crate::format::{self, Spoken};

impl World {
    /// Learns what the disk has taken since, and what of it was damaged.
    pub(crate) fn take_landed(&mut self) -> Kept {
        let (landed, harmed) = self.medium.take_landed();
        for write in &landed {
            let spoken = self.ledger.wrote(write);
            self.note(|| {
                let end = if write.is_certain { "durable" } else { "perhaps there" };
                format!(
                    "{} octets at {} are {end}: {}",
                    write.octets.len(),
                    write.offset,
                    format::speech(&spoken)
                )
            });
            for spoken in spoken {
                self.learn(spoken, write.is_certain)?;
            }
        }
        for place in harmed {
            self.harm(&place);
        }
        Ok(())
    }

    fn learn(&mut self, spoken: Spoken, is_certain: bool) -> Kept {
        match spoken {
            Spoken::Message { id, sequence, is_moved: false } if is_certain => {
                if !self.model.messages.contains_key(&id) {
                    return Err(format!("{id} was never appended and is written as a message"));
                }
                self.model.accepted(id, MessageSequence(sequence))?;
                self.reports_are_known([id])
            }
            Spoken::Outcome { sequence, outcomes } => {
                let sequence = MessageSequence(sequence);
                let Some(id) = self.model.sequences.get(&sequence).copied() else {
                    return if self.model.was_hit {
                        Ok(())
                    } else {
                        Err(format!("an outcome is written for {sequence}, which no message has"))
                    };
                };
                if is_certain {
                    self.model.recorded(sequence, &outcomes)
                } else {
                    self.model.in_doubt(id, &outcomes);
                    Ok(())
                }
            }
            Spoken::Message { .. }
            | Spoken::Chunk { .. }
            | Spoken::Discarded { .. }
            | Spoken::Other { .. } => Ok(()),
        }
    }

    /// A place was damaged.
    pub(crate) fn harm(&mut self, place: &Range<u64>) {
        let hit = self.ledger.harm(place);
        self.note(|| format!("damage at {place:?} of the disk: {hit:?}"));
        self.model.hit(hit.messages, hit.is_tail);
    }

    /// Of these messages those that are reports are now in the log: no recipient has two of one kind.
    pub(crate) fn reports_are_known(&mut self, ids: impl IntoIterator<Item = MessageId>) -> Kept {
        for id in ids {
            for of in self.model.reports.get(&id).cloned().unwrap_or_default() {
                let before = *self.model.reported.entry(of).or_insert(id);
                let is_hit = [before, id, of.message].iter().any(|id| self.model.messages[id].is_hit);
                if before != id && !is_hit {
                    return Err(format!(
                        "recipient {} of {} is reported twice: by {before} and by {id}",
                        of.recipient, of.message
                    ));
                }
                if before == id {
                    let count = if of.is_delay {
                        &mut self.summary.delay_reports
                    } else {
                        &mut self.summary.failure_reports
                    };
                    *count += 1;
                }
            }
        }
        Ok(())
    }

    /// Somebody begins to transfer to a recipient: none that is durably done with, of a message of which nobody has damaged
    /// anything.
    pub(crate) fn invariant_no_recipient_that_is_done_with_is_attempted(
        &self,
        id: MessageId,
        recipient: usize,
    ) -> Kept {
        let message = self
            .model
            .messages
            .get(&id)
            .ok_or_else(|| format!("{id} is transferred and was never appended"))?;
        match message.recorded.get(recipient) {
            Some(recorded)
                if (recorded.state.is_terminal() || recorded.state.owes_success_report())
                    && !message.is_hit =>
            {
                Err(format!("recipient {recipient} of {id} is durably {:?} and is attempted", recorded.state))
            }
            Some(_) => Ok(()),
            None => Err(format!("{id} has no recipient {recipient}")),
        }
    }

    /// At the end: whoever was told that a message is in the switch was told the truth, for each recipient has got it, or
    /// somebody was told why not.
    pub(crate) fn invariant_every_acknowledged_message_has_come_to_its_end(&self) -> Kept {
        for (id, message) in &self.model.messages {
            if !message.is_acknowledged || message.is_hit {
                continue;
            }
            for (at, recorded) in message.recorded.iter().enumerate() {
                use sternpost_message::RecipientState::{
                    Delivered, DeliveredReportOwed, Discarded, Failed, Pending, RelayedReportOwed, Reported,
                    Transferred,
                };
                let is_well = match recorded.state {
                    Delivered | Transferred => self.peers.has_got(*id, at),
                    Reported => true,
                    Pending | Failed | Discarded | DeliveredReportOwed | RelayedReportOwed => false,
                };
                if !is_well {
                    return Err(format!(
                        "recipient {at} of {id} is {:?} in the end, and has not got it",
                        recorded.state
                    ));
                }
            }
        }
        Ok(())
    }
}
