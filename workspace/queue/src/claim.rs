//! What the head of a damaged envelope claims, and when it is believed: if the log agrees. Then a message stands for what is
//! left, apart from all others, as in `stand_in`.
//!
//! The kind and the place of a record stand in a header that has a CRC of its own; its body has one that is wrong, so a bit of
//! the head may be the wrong one too. But where content of this very id is there without its message, the damage is elsewhere.

use sternpost_message::{MessageId, MessageSequence, Precedence, RecipientState, UnixMillis};
use zerocopy::FromBytes;

use crate::format::{Geometry, MessageHead};
use crate::index::Arrival;
use crate::place::Place;
use crate::runs::{Known, Runs};

/// Octets that a recipient takes at least: an address of three with its length, route, NOTIFY, ORCPT.
const RECIPIENT_OCTETS_MIN: usize = 7;
/// Chunks of which a damaged head is believed, if no more are found: 256 MiB of content.
const CHUNKS_MAX: u32 = 4096;
/// There is no such channel.
const CHANNEL: &str = "unknown";

/// See the module.
#[derive(Clone)]
pub(crate) struct Claim {
    pub(crate) message: MessageId,
    pub(crate) sequence: MessageSequence,
    content_octets: u64,
    chunks: u32,
    /// No fewer than the message has: nobody can count them.
    recipients: u32,
    place: Place,
    /// When its batch was written.
    pub(crate) at: UnixMillis,
}

impl Claim {
    /// What the body of an envelope or a moved record at `place` still says.
    pub(crate) fn read(body: &[u8], place: Place, at: UnixMillis, geometry: Geometry) -> Option<Self> {
        let (head, _) = MessageHead::read_from_prefix(body).ok()?;
        Some(Self {
            message: MessageId(head.message),
            sequence: MessageSequence(head.sequence.get()),
            content_octets: head.content_octets.get().min(geometry.octets()),
            chunks: head.chunks.get(),
            recipients: u32::try_from(body.len() / RECIPIENT_OCTETS_MIN).ok()?,
            place,
            at,
        })
    }

    /// Where the damaged record stands.
    pub(crate) const fn place(&self) -> Place {
        self.place
    }

    /// The message that stands for it, of which chunks below `found` are there: of one chunk more than it can have, so that it is
    /// isolated.
    pub(crate) fn arrival(&self, found: u32) -> Arrival {
        let known =
            Known { state: RecipientState::Pending, attempts: 0, delay_reported: false, has_words: false };
        let mut runs = Runs::default();
        runs.add(self.recipients, 0, known);
        Arrival {
            message: self.message,
            sequence: self.sequence,
            accepted_at: self.at,
            precedence: Precedence::Routine,
            content_octets: self.content_octets,
            chunks: self.chunks.max(found).min(CHUNKS_MAX) + 1,
            place: self.place,
            runs,
            moved: true,
            told: Vec::new(),
        }
    }

    /// Of all its recipients: the one that nobody knows.
    pub(crate) fn routes() -> impl Iterator<Item = (&'static str, &'static str)> {
        [(CHANNEL, "")].into_iter()
    }
}
