//! The messages that are kept apart because a part of them is lost or damaged: neither handed out nor shown to QMGR, until
//! an operator restores or discards them.
//!
//! Nothing of it is in the log: what was lost is found again when the log is opened, and what is damaged when it is read.

use std::collections::BTreeMap;
use sternpost_message::{MessageSequence, UnixMillis};
use sternpost_queue::ReadError;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Isolated(BTreeMap<MessageSequence, Found>);

/// How a message was found.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) at: UnixMillis,
    pub(crate) why: String,
}

impl Isolated {
    /// Keeps a message apart. False when it is already.
    pub(crate) fn add(&mut self, message: MessageSequence, at: UnixMillis, why: &str) -> bool {
        if self.contains(message) {
            return false;
        }
        self.0.insert(message, Found { at, why: why.to_owned() });
        true
    }

    /// The message is over, or handed out again. False when it was not kept apart.
    pub(crate) fn remove(&mut self, message: MessageSequence) -> bool {
        self.0.remove(&message).is_some()
    }

    pub(crate) fn contains(&self, message: MessageSequence) -> bool {
        // Nearly always nothing is isolated, and this is asked for each message of a snapshot.
        !self.0.is_empty() && self.0.contains_key(&message)
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len() as u64
    }

    /// Those from a sequence on, ascending.
    pub(crate) fn from(&self, first: MessageSequence) -> impl Iterator<Item = (MessageSequence, &Found)> {
        self.0.range(first..).map(|(message, found)| (*message, found))
    }
}

/// Whether an error says that a part of a message is lost, and not that it cannot be read just now.
pub(crate) const fn is_loss(error: &ReadError) -> bool {
    matches!(error, ReadError::Damaged { .. } | ReadError::Missing(_) | ReadError::EnvelopeLost(_))
}
