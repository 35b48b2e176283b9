//! The stream to QMGR: what happens to messages, in the order of the log; a snapshot of those that live before it, and marks in
//! it.

use super::Service;
use crate::client::{Client, ClientId};
use crate::translate;
use std::rc::Rc;
use sternpost_link::store::{FromStore, StreamFrame};
use sternpost_message::MessageSequence;
use sternpost_platform::wire::Wire;
use sternpost_queue::Disk;

/// Unsent octets of the stream beyond which QMGR gets a new snapshot instead: the store never waits for QMGR.
pub(super) const STREAM_OCTETS_MAX: usize = 8 << 20;
/// Unsent octets of the stream beyond which QMGR is not told that a message is gone that a channel has asked for: it will be
/// told when the channel asks for it again.
pub(super) const HINTS_UNSENT_OCTETS_MAX: usize = 64 << 10;
/// Messages of a snapshot that are sent in one turn.
const SNAPSHOT_STEP: usize = 256;

/// The stream to QMGR.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) client: ClientId,
    /// While a snapshot is being sent: the first message that it has not reached. Events of messages from there on
    /// are not streamed, because the snapshot will tell their state.
    pub(super) cursor: Option<MessageSequence>,
    /// The link was too slow: nothing is streamed until a new snapshot.
    pub(super) overflowed: bool,
}

/// QMGR waits until everything is read that ended processes have sent.
#[derive(Debug)]
pub(super) struct Mark {
    pub(super) token: u64,
    pub(super) ended: Vec<u32>,
    /// Turns of the event loop still to wait, so that what lies in the sockets of ended processes has been read.
    pub(super) turns: u8,
}

impl<D: Disk, L: Wire> Service<D, L> {
    /// Streams what has happened to a message, unless the snapshot will tell it.
    pub(super) fn tell(&mut self, sequence: MessageSequence, frame: impl FnOnce() -> StreamFrame) {
        let Some(stream) = &mut self.stream else { return };
        if stream.overflowed || stream.cursor.is_some_and(|cursor| sequence >= cursor) {
            return;
        }
        let Some(client) = self.clients.get(&stream.client) else { return };
        if client.link.unsent_octets() > STREAM_OCTETS_MAX {
            tracing::warn!(event = "stream.overflow", "QMGR does not keep up; it will get a new snapshot");
            stream.overflowed = true;
            return;
        }
        client.send(&FromStore::Stream(frame()));
    }

    /// Whether QMGR's link has room for what QMGR would learn later too: nobody may fill it with questions.
    pub(super) fn stream_has_room_for_hints(&self) -> bool {
        let qmgr = self.stream.as_ref().and_then(|stream| self.clients.get(&stream.client));
        qmgr.is_some_and(|qmgr| qmgr.link.unsent_octets() < HINTS_UNSENT_OCTETS_MAX)
    }

    pub(super) fn answer_marks(&mut self) {
        let Some(stream) = &self.stream else { return self.marks.clear() };
        let Some(qmgr) = self.clients.get(&stream.client) else { return };
        let clients = &self.clients;
        self.marks.retain_mut(|mark| {
            let is_ended = |client: &Client<L>| client.is_gone || mark.ended.contains(&client.pid());
            if mark.turns > 0 {
                mark.turns -= 1;
            } else if !clients.values().any(is_ended) {
                qmgr.send(&FromStore::Stream(StreamFrame::Mark { token: mark.token }));
                return false;
            }
            true
        });
    }

    /// Whether QMGR waits for a mark. Between two turns in which it does, everything that lies in the clients' sockets is to
    /// be read, and whoever waits to be accepted is to be accepted.
    #[must_use]
    pub fn has_marks(&self) -> bool {
        !self.marks.is_empty()
    }

    // ---- the snapshot ----

    /// Whether QMGR waits for a snapshot: it has asked for one, or was too slow for the stream.
    #[must_use]
    pub fn wants_snapshot(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| stream.overflowed)
    }

    /// Begins a snapshot; gives QMGR's link, which is to be empty before each step.
    pub fn begin_snapshot(&mut self) -> Option<Rc<L>> {
        let messages_count = self.log.status().living_messages;
        let stream = self.stream.as_mut()?;
        let client = self.clients.get(&stream.client)?;
        stream.overflowed = false;
        stream.cursor = Some(MessageSequence(0));
        client.send(&FromStore::Stream(StreamFrame::SnapshotBegin { messages_count }));
        Some(Rc::clone(&client.link))
    }

    /// Sends some more of the snapshot. True when it is complete.
    pub fn step_snapshot(&mut self) -> bool {
        let Some(stream) = &mut self.stream else { return true };
        let (Some(cursor), Some(client)) = (stream.cursor, self.clients.get(&stream.client)) else {
            return true;
        };
        let mut next = cursor;
        let mut count = 0;
        let whole = self.log.messages_from(cursor).filter(|facts| !self.isolated.contains(facts.sequence));
        for facts in whole.take(SNAPSHOT_STEP) {
            next = MessageSequence(facts.sequence.0 + 1);
            count += 1;
            client.send(&FromStore::Stream(StreamFrame::Message(Box::new(translate::facts(facts)))));
        }
        let is_complete = count < SNAPSHOT_STEP;
        stream.cursor = if is_complete { None } else { Some(next) };
        if is_complete {
            client.send(&FromStore::Stream(StreamFrame::SnapshotEnd));
        }
        is_complete
    }
}
