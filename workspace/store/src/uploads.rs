//! Partial messages as far as the log does not know them: who sends each, and which of them an operator has discarded.
//!
//! All of it is in memory: after a restart of the store the sender of a partial message is not known until its next chunk.

use crate::client::ClientId;
use std::collections::{HashMap, HashSet};
use sternpost_link::store::{Append, Lane, Refusal};
use sternpost_message::{MessageId, UnixMillis};
use sternpost_queue::{Disk, Log, Parameters};

/// Senders that are remembered beside those of the partial messages in the log, before the others are forgotten.
const UPLOADS_SPARE: usize = 4_096;
/// A peer's name is an address; what is longer is cut.
const PEER_CHARACTERS_MAX: usize = 80;

/// The content of one message on its way in.
#[derive(Debug)]
struct Upload {
    /// None where an operator has discarded it before the store has heard of its sender.
    sender: Option<Sender>,
    /// What else comes of it is refused so: its sender was told that it is discarded, or the log had no room for a part of it.
    refusal: Option<Refusal>,
    /// An operator has discarded it, and the log has not refused that.
    is_discarded: bool,
    /// When it was last heard of.
    last_at: UnixMillis,
}

/// Who sends it, and in which lane.
#[derive(Debug)]
struct Sender {
    client: ClientId,
    lane: Lane,
    peer: Box<str>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Uploads {
    by_message: HashMap<MessageId, Upload>,
    /// When the log throws away content of which nothing more comes.
    timeout_ms: u64,
}

impl Upload {
    fn is_sent_by(&self, client: ClientId) -> bool {
        self.sender.as_ref().is_some_and(|sender| sender.client == client)
    }

    fn is_refused(&self) -> bool {
        self.is_discarded || self.refusal.is_some()
    }

    fn peer(&self) -> Option<&str> {
        self.sender.as_ref().map(|sender| &*sender.peer)
    }
}

impl Uploads {
    pub(crate) fn new(parameters: &Parameters) -> Self {
        Self { by_message: HashMap::default(), timeout_ms: parameters.partial_timeout_ms }
    }

    /// A client appends. Notes who sends content without envelope, and refuses what an operator has discarded meanwhile or what
    /// lacks a part that was refused.
    pub(crate) fn append<D: Disk>(
        &mut self,
        client: ClientId,
        lane: Lane,
        records: &[Append<'_>],
        peer: Option<&str>,
        (log, now): (&Log<D>, UnixMillis),
    ) -> Result<(), Refusal> {
        if let (Some(peer), Some(Append::Content { message, index, .. })) = (peer, records.first())
            && self.begins(*message, *index, client)
        {
            self.make_room(log);
            let peer = peer.chars().take(PEER_CHARACTERS_MAX).collect::<String>().into_boxed_str();
            let sender = Some(Sender { client, lane, peer });
            self.by_message
                .insert(*message, Upload { sender, refusal: None, is_discarded: false, last_at: now });
        }
        if self.by_message.is_empty() {
            return Ok(());
        }
        for record in records {
            match record {
                Append::Content { message, .. } | Append::Envelope { message, .. } => {
                    self.goes_on(*message, log, now)?;
                }
                Append::DiscardPartial { .. } | Append::Outcome { .. } => {}
            }
            match record {
                Append::Envelope { message, .. } | Append::DiscardPartial { message } => {
                    self.by_message.remove(message);
                }
                Append::Content { .. } | Append::Outcome { .. } => {}
            }
        }
        Ok(())
    }

    /// Whether a message begins with this chunk. One that was discarded, or broken off, may begin anew, but not by the client
    /// that sends it already: an import under the same id does.
    fn begins(&self, message: MessageId, chunk: u32, client: ClientId) -> bool {
        self.by_message.get(&message).is_none_or(|upload| chunk == 0 && !upload.is_sent_by(client))
    }

    fn make_room<D: Disk>(&mut self, log: &Log<D>) {
        let partials = usize::try_from(log.status().partials).unwrap_or(usize::MAX);
        if self.by_message.len() >= partials.saturating_mul(2).saturating_add(UPLOADS_SPARE) {
            let known: HashSet<_> = log.partials().map(|partial| partial.message).collect();
            let is_refused = |upload: &Upload| upload.is_refused() && upload.sender.is_some();
            self.by_message.retain(|message, upload| is_refused(upload) || known.contains(message));
        }
    }

    /// More of a message has come, of which some is there: unless that is so no longer.
    fn goes_on<D: Disk>(&mut self, message: MessageId, log: &Log<D>, now: UnixMillis) -> Result<(), Refusal> {
        let Some(upload) = self.by_message.get_mut(&message) else { return Ok(()) };
        if upload.is_discarded {
            upload.refusal = Some(Refusal::Discarded);
        }
        if let Some(refusal) = &upload.refusal {
            return Err(refusal.clone());
        }
        let pause_ms = now.since_ms(upload.last_at);
        if pause_ms >= self.timeout_ms && !log.partials().any(|partial| partial.message == message) {
            let peer = upload.peer();
            tracing::warn!(event = "partial.expired", id = %message, peer, pause_ms, "a message came too slowly");
            return Err(Refusal::Expired);
        }
        upload.last_at = now;
        Ok(())
    }

    /// An operator discards a partial message: what else comes of it is refused. Gives the lane in which it comes, behind
    /// which its end must go.
    pub(crate) fn discard(&mut self, message: MessageId, now: UnixMillis) -> Option<Lane> {
        let unknown = Upload { sender: None, refusal: None, is_discarded: false, last_at: now };
        let upload = self.by_message.entry(message).or_insert(unknown);
        upload.is_discarded = true;
        upload.sender.as_ref().map(|sender| sender.lane)
    }

    /// The log has refused what an operator has ordered, or the message was complete before: it goes on as if nobody had said
    /// anything, unless its sender has heard of it.
    pub(crate) fn undo_discard(&mut self, message: MessageId) {
        let Some(upload) = self.by_message.get_mut(&message) else { return };
        upload.is_discarded = false;
        if upload.sender.is_none() && upload.refusal.is_none() {
            self.by_message.remove(&message);
        }
    }

    /// The log has no room for this part of a message: those behind it are missed by nobody.
    pub(crate) fn no_room(&mut self, message: MessageId) {
        if let Some(upload) = self.by_message.get_mut(&message) {
            upload.refusal.get_or_insert(Refusal::Full);
        }
    }

    /// The client's link has ended: nothing more comes of what was discarded.
    pub(crate) fn lost(&mut self, client: ClientId) {
        self.by_message.retain(|_, upload| !upload.is_refused() || !upload.is_sent_by(client));
    }

    pub(crate) fn peer(&self, message: MessageId) -> Option<&str> {
        self.by_message.get(&message)?.peer()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sternpost_queue::memory::MemoryDisk;
    use sternpost_queue::{Geometry, HEAD_OCTETS};

    fn log() -> Log<MemoryDisk> {
        let geometry = Geometry { segment_octets: 1 << 20, segments: 8 };
        let octets = usize::try_from(geometry.octets() + HEAD_OCTETS).unwrap();
        let disk = Log::create(MemoryDisk::new(vec![0; octets]), geometry, [7; 16]).unwrap();
        Log::open(disk, Parameters::default(), UnixMillis(0)).unwrap().0
    }

    #[test]
    fn a_message_of_which_a_part_was_refused_is_refused_for_the_same_reason() {
        let (log, now) = (log(), UnixMillis(1_000));
        let mut uploads = Uploads::new(&Parameters::default());
        let take = |uploads: &mut Uploads, index| {
            let content = [Append::Content { message: MessageId([1; 16]), index, octets: b"x" }];
            uploads.append(ClientId(1), Lane::Normal, &content, Some("192.0.2.1:4711"), (&log, now))
        };
        assert_eq!(take(&mut uploads, 0), Ok(()));
        uploads.no_room(MessageId([1; 16]));
        assert_eq!(take(&mut uploads, 1), Err(Refusal::Full));
        let end = [Append::DiscardPartial { message: MessageId([1; 16]) }];
        assert_eq!(uploads.append(ClientId(1), Lane::Normal, &end, None, (&log, now)), Ok(()));
        assert!(uploads.by_message.is_empty());
    }

    #[test]
    fn what_was_discarded_stays_so_for_its_sender_and_may_be_begun_anew_by_another() {
        let log = log();
        let mut uploads = Uploads::new(&Parameters::default());
        let (sender, another, now) = (ClientId(1), ClientId(2), UnixMillis(1_000));
        let take = |uploads: &mut Uploads, client, id: u8, index| {
            let content = [Append::Content { message: MessageId([id; 16]), index, octets: b"x" }];
            uploads.append(client, Lane::Normal, &content, Some("192.0.2.1:4711"), (&log, now))
        };
        let (known, unknown) = (MessageId([1; 16]), MessageId([2; 16]));
        assert_eq!(take(&mut uploads, sender, 1, 0), Ok(()));
        assert_eq!(uploads.peer(known), Some("192.0.2.1:4711"));
        assert_eq!(uploads.discard(known, now), Some(Lane::Normal));
        // The store was started again since the sender of this one was last heard of.
        assert_eq!(uploads.discard(unknown, now), None);
        uploads.lost(another);
        for id in [1, 2] {
            assert_eq!(take(&mut uploads, sender, id, 3), Err(Refusal::Discarded));
            assert_eq!(take(&mut uploads, another, id, 0), Ok(()));
            assert_eq!(take(&mut uploads, another, id, 1), Ok(()));
        }
    }
}
