//! The ids of messages that died not long ago.

use std::collections::VecDeque;

use sternpost_message::MessageId;

use crate::by_message::MessageIds;

/// The last ids put in, up to a bound.
pub(crate) struct RecentIds {
    ids: MessageIds,
    order: VecDeque<MessageId>,
    max: usize,
}

impl RecentIds {
    pub(crate) fn new(max: usize) -> Self {
        Self { ids: MessageIds::default(), order: VecDeque::new(), max }
    }

    pub(crate) fn contains(&self, id: MessageId) -> bool {
        self.ids.contains(&id)
    }

    pub(crate) fn insert(&mut self, id: MessageId) {
        if !self.ids.insert(id) {
            return;
        }
        self.order.push_back(id);
        while self.order.len() > self.max {
            if let Some(oldest) = self.order.pop_front() {
                self.ids.remove(&oldest);
            }
        }
    }

    /// It lives after all.
    pub(crate) fn remove(&mut self, id: MessageId) {
        if self.ids.remove(&id) {
            self.order.retain(|other| *other != id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_id_is_forgotten_first() {
        let mut recent = RecentIds::new(2);
        for octet in [1, 2, 2, 3] {
            recent.insert(MessageId([octet; 16]));
        }
        assert!(!recent.contains(MessageId([1; 16])));
        assert!(recent.contains(MessageId([2; 16])) && recent.contains(MessageId([3; 16])));
    }
}
