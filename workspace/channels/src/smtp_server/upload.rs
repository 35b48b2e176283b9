//! A message's content on its way into the log: cut into chunks, hashed, and committed with its envelope.
//!
//! A message that fits one chunk travels with its envelope in one set. Of a large one no more than a window is on its
//! way at a time, so that a session's memory does not grow with the message.

use crate::store_client::StoreClient;
use sha2::{Digest, Sha256};
use std::collections::VecDeque;
use std::rc::Rc;
use sternpost_link::Appended;
use sternpost_link::store::{Append, CHUNK_OCTETS_MAX, Lane, Refusal};
use sternpost_message::{Envelope, MessageId};
use tokio::sync::oneshot;

/// Chunks without an answer at a time: 16 × 60 KiB keep a log that commits every few milliseconds busy.
const CHUNKS_IN_FLIGHT_MAX: usize = 16;
/// The last chunk and the envelope travel in one datagram when they have no more octets together than this; it leaves
/// a datagram room for the lengths between them.
const LAST_SET_OCTETS_MAX: usize = 62 << 10;

#[derive(Debug)]
pub(super) struct Upload {
    store: Rc<StoreClient>,
    id: MessageId,
    /// The lane of every set of the message: all of one message travel in one. PROTOCOL.md.
    lane: Lane,
    /// Who sends it: the store lists partial messages with it.
    peer: String,
    digest: Sha256,
    octets: u64,
    chunk: Vec<u8>,
    chunks_sent: u32,
    in_flight: VecDeque<oneshot::Receiver<Appended>>,
    refused: Option<Refusal>,
}

impl Upload {
    pub(super) fn new(store: Rc<StoreClient>, id: MessageId, lane: Lane, peer: String) -> Self {
        Self {
            store,
            id,
            lane,
            peer,
            digest: Sha256::new(),
            octets: 0,
            chunk: Vec::new(),
            chunks_sent: 0,
            in_flight: VecDeque::new(),
            refused: None,
        }
    }

    /// Takes the next octets. Waits while too many chunks are on their way.
    pub(super) async fn push(&mut self, mut octets: &[u8]) {
        self.digest.update(octets);
        self.octets += octets.len() as u64;
        while !octets.is_empty() {
            if self.chunk.len() == CHUNK_OCTETS_MAX {
                self.send_chunk().await;
            }
            let room = CHUNK_OCTETS_MAX - self.chunk.len();
            let (now, later) = octets.split_at(octets.len().min(room));
            self.chunk.extend_from_slice(now);
            octets = later;
        }
    }

    async fn send_chunk(&mut self) {
        while self.in_flight.len() >= CHUNKS_IN_FLIGHT_MAX {
            self.await_oldest().await;
        }
        // Once refused, the rest of the content is only swallowed.
        if self.refused.is_none() {
            let room = self.store.chunk_room(self.lane).await;
            let record = Append::Content { message: self.id, index: self.chunks_sent, octets: &self.chunk };
            match self.store.append_from(self.lane, &[record], Some(&self.peer), room) {
                Ok(answer) => self.in_flight.push_back(answer),
                Err(error) => self.refused = Some(Refusal::Invalid(error.to_string())),
            }
            self.chunks_sent += 1;
        }
        self.chunk.clear();
    }

    async fn await_oldest(&mut self) {
        if let Some(answer) = self.in_flight.pop_front()
            && let Ok(Appended::Refused(refusal)) = answer.await
        {
            self.refused = self.refused.take().or(Some(refusal));
        }
    }

    /// Commits the message. The answer comes when it survives the loss of power, or will not.
    pub(super) async fn commit(mut self, envelope: Envelope) -> Appended {
        if self.chunk.len() + encoded_octets_max(&envelope) > LAST_SET_OCTETS_MAX {
            self.send_chunk().await;
        }
        let content_sha256 = std::mem::take(&mut self.digest).finalize().into();
        let mut records = Vec::with_capacity(2);
        if !self.chunk.is_empty() {
            records.push(Append::Content { message: self.id, index: self.chunks_sent, octets: &self.chunk });
        }
        records.push(Append::Envelope {
            message: self.id,
            envelope: Box::new(envelope),
            content_octets: self.octets,
            content_sha256,
        });
        if self.refused.is_some() {
            return self.give_up().await;
        }
        let answer = match self.store.append(self.lane, &records) {
            Ok(answer) => answer,
            Err(error) => {
                self.refused = Some(Refusal::Invalid(error.to_string()));
                return self.give_up().await;
            }
        };
        while !self.in_flight.is_empty() {
            self.await_oldest().await;
        }
        match answer.await {
            Ok(Appended::Committed) => Appended::Committed,
            // The envelope of a message whose chunk was refused is refused too; the chunk's reason is the better one.
            Ok(Appended::Refused(refusal)) => {
                let refusal = self.refused.take().unwrap_or(refusal);
                self.discard().await;
                Appended::Refused(refusal)
            }
            Err(_) => Appended::Refused(Refusal::Device),
        }
    }

    async fn give_up(mut self) -> Appended {
        let refusal = self.refused.take().unwrap_or(Refusal::Device);
        self.discard().await;
        Appended::Refused(refusal)
    }

    /// Forgets the message; what the store has of it goes.
    pub(super) async fn discard(mut self) {
        // A client that begins one message after the other without ending any is held to the same window.
        while !self.in_flight.is_empty() {
            self.await_oldest().await;
        }
        if self.chunks_sent > 0 {
            // Nobody waits for the answer: without it the store sweeps the content after a time-out.
            drop(self.store.append(self.lane, &[Append::DiscardPartial { message: self.id }]));
        }
    }
}

/// An upper bound of the octets of an encoded envelope: its texts, and sixteen for the fields beside each of them.
fn encoded_octets_max(envelope: &Envelope) -> usize {
    let recipients: usize = envelope
        .recipients
        .iter()
        .map(|recipient| {
            recipient.address.as_str().len()
                + recipient.original_recipient.as_ref().map_or(0, String::len)
                + 16
        })
        .sum();
    let routes: usize = envelope.routes.iter().map(|route| route.channel.len() + route.peer.len() + 16).sum();
    let others =
        envelope.envelope_id.as_ref().map_or(0, String::len) + envelope.source.len() + envelope.client.len();
    recipients + routes + others + 512
}
