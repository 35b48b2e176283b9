//! How a message comes to be kept apart: a part of it was not found when the log was opened, or is found lost when it is read.

use super::Service;
use super::partials::PartialShare;
use crate::uploads::Uploads;
use sternpost_link::store::StreamFrame;
use sternpost_message::{MessageSequence, UnixMillis};
use sternpost_platform::wire::Wire;
use sternpost_queue::{self as queue, Disk};

impl<D: Disk, L: Wire> Service<D, L> {
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
        self.uploads = Uploads::new(parameters);
        self.partial_share = PartialShare::new(parameters);
        self.damaged_places_count = report.damage.len() as u64;
        for (sequence, _) in &report.damaged_messages {
            self.isolate(*sequence, "a part of it was not found when the log was opened");
        }
    }
}
