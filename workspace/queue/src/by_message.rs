//! Tables by message id. A client chooses the ids of his messages, so they are hashed with a key that is random in each
//! process: with a hash that he knows he would make all of his meet in one place, and each look at them long.
//!
//! Nothing may depend on the order in which such a table is gone through.

use std::collections::{HashMap, HashSet};
use std::hash::RandomState;

use sternpost_message::MessageId;

/// A value for each message.
pub(crate) type ByMessage<V> = HashMap<MessageId, V, RandomState>;
/// Some messages.
pub(crate) type MessageIds = HashSet<MessageId, RandomState>;

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::BuildHasher;

    #[test]
    fn which_ids_meet_in_a_table_is_another_question_in_each_table() {
        let tables = [MessageIds::default(), MessageIds::default()];
        let hashes = tables.map(|table| {
            let hash = |octet| table.hasher().hash_one(MessageId([octet; 16]));
            (0..8).map(hash).collect::<Vec<_>>()
        });
        assert_ne!(hashes[0], hashes[1]);
    }
}
