//! What comes out of the log: events in log order, and views of what lives in it.

use std::sync::Arc;

use sternpost_message::{
    Envelope, MessageId, MessageSequence, Outcome, Precedence, RecipientRange, Route, RouteIndex, UnixMillis,
};

use crate::format::Geometry;
use crate::{AppendError, RecipientRecord};

/// Something that is durable now, or that went wrong. Events of one batch come in the order of its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogEvent {
    /// The set of this ticket survives the loss of power.
    Committed {
        /// As given to `append`.
        ticket: u64,
    },
    /// The set of this ticket is not in the log.
    Refused {
        /// As given to `append`.
        ticket: u64,
        /// Why.
        error: AppendError,
    },
    /// A new message.
    Accepted {
        /// Its place in the order of acceptance.
        sequence: MessageSequence,
        /// What the scheduler needs to know of it.
        facts: MessageFacts,
    },
    /// Outcomes that changed something, cut down to the recipients that they changed.
    Outcome {
        /// The message.
        sequence: MessageSequence,
        /// Recipients and outcomes, in order.
        outcomes: Vec<(RecipientRange, Outcome)>,
    },
    /// Nothing remains to be done for any recipient. The message can no longer be read.
    Dead {
        /// The message.
        sequence: MessageSequence,
    },
    /// An operator should know.
    Alarm(Alarm),
}

/// What an operator should know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Alarm {
    /// A write failed; the log goes on in a fresh segment.
    #[error(
        "a write to segment {segment} at offset {offset} of the log failed ({reason}); its senders were told to try again"
    )]
    WriteFailed {
        /// The segment.
        segment: u32,
        /// Where on the disk.
        offset: u64,
        /// The driver's words: they do not say again where.
        reason: String,
    },
    /// A part of a segment's index was not written. Nobody waits for it.
    #[error(
        "a write to segment {segment} at offset {offset} of the log failed ({reason}); it was a part of the segment's index: the next \
         start reads the segment in full"
    )]
    IndexFailed {
        /// The segment.
        segment: u32,
        /// Where on the disk.
        offset: u64,
        /// The driver's words.
        reason: String,
    },
    /// Two writes in a row failed.
    #[error("the log is closed: its disk failed twice in a row; it is tried again by itself")]
    Closed,
    /// A probe succeeded after `Closed`.
    #[error("the log is open again: its disk answers")]
    Reopened,
    /// No more mail is accepted.
    #[error(
        "the log is full ({living_percent} % living, {free_segments} segments free); mail is refused until there is room"
    )]
    Full {
        /// Share of the log that lives.
        living_percent: u8,
        /// Segments that can be written.
        free_segments: u32,
    },
    /// Mail is accepted again after `Full`.
    #[error("the log has room again")]
    Resumed,
    /// A part of a message could not be read while it was moved, and is given up: content (the message is not handed out
    /// any more), or no more than the words of its last outcomes.
    #[error("a part of message {message} cannot be read: {reason}")]
    Unreadable {
        /// Its name.
        message: MessageId,
        /// Why.
        reason: String,
    },
    /// An envelope could not be read while it was moved, and is given up. The message is not handed out any more; what is
    /// left of its content stays until it is discarded.
    #[error(
        "the envelope of message {message} is lost ({reason}): its sender and its recipients are not known any more; \
         {octets_left} of the {octets} octets of its content are kept apart under its id, \
         sternpost queue export --damaged saves them and sternpost queue discard ends them"
    )]
    EnvelopeLost {
        /// Its name.
        message: MessageId,
        /// Of its content, as far as its records have not been found damaged.
        octets_left: u64,
        /// Of its content when it was accepted.
        octets: u64,
        /// Why.
        reason: String,
    },
}

impl Alarm {
    /// Whether it says that something is over of which another alarm has told.
    #[must_use]
    pub const fn is_good_news(&self) -> bool {
        match self {
            Self::Reopened | Self::Resumed => true,
            Self::WriteFailed { .. }
            | Self::IndexFailed { .. }
            | Self::Closed
            | Self::Full { .. }
            | Self::Unreadable { .. }
            | Self::EnvelopeLost { .. } => false,
        }
    }
}

/// What the scheduler needs to know of a living message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageFacts {
    /// Its name.
    pub id: MessageId,
    /// Its place in the order of acceptance.
    pub sequence: MessageSequence,
    /// How it is ranked.
    pub precedence: Precedence,
    /// When it was accepted.
    pub accepted_at: UnixMillis,
    /// Octets of its content.
    pub content_octets: u64,
    /// Whether the sender was told of a delay of any recipient.
    pub delay_reported: bool,
    /// The routes that have pending recipients, ascending by index.
    pub routes: Vec<RouteFacts>,
    /// Recipients for whom nothing but a report remains to be made.
    pub report_owed: Vec<RecipientRange>,
}

/// The pending recipients of one route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteFacts {
    /// The route's position in the envelope.
    pub index: RouteIndex,
    /// Channel and peer MTA; one copy is shared by all messages.
    pub route: Arc<Route>,
    /// Its pending recipients, ascending.
    pub pending: Vec<RecipientRange>,
    /// The most attempts that any of them has behind it.
    pub attempts: u16,
}

/// All that the log knows of a living message but its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageDetail {
    /// Its name.
    pub id: MessageId,
    /// Its place in the order of acceptance.
    pub sequence: MessageSequence,
    /// The envelope as it was accepted.
    pub envelope: Arc<Envelope>,
    /// Octets of its content.
    pub content_octets: u64,
    /// SHA-256 of its content, as told by whoever appended it.
    pub content_sha256: [u8; 32],
    /// One record for each recipient of the envelope, in its order.
    pub states: Vec<RecipientRecord>,
}

/// Content that has no envelope yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialFacts {
    /// The message that it may become.
    pub message: MessageId,
    /// Octets so far.
    pub octets: u64,
    /// When the first chunk was committed.
    pub first_seen_at: UnixMillis,
}

/// The state of the log in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogStatus {
    /// How the device is divided.
    pub geometry: Geometry,
    /// Segments that can be written.
    pub free_segments: u32,
    /// Segments between the log's start and its head.
    pub live_segments: u32,
    /// Octets of records that live.
    pub living_octets: u64,
    /// Messages that live.
    pub living_messages: u64,
    /// Memory that the log needs to know of them.
    pub living_memory_octets: u64,
    /// Messages without envelope.
    pub partials: u64,
    /// Octets that wait for a batch.
    pub waiting_octets: u64,
    /// Batches written since the log was opened.
    pub batches: u64,
    /// Octets written since then: batches, and parts of indexes.
    pub written_octets: u64,
    /// Records moved by reclaim since the log was opened.
    pub moved_records: u64,
    /// Writes that failed since the log was opened.
    pub write_errors: u64,
    /// Whether mail is accepted now.
    pub accepts: bool,
    /// The last log sequence that is durable.
    pub sequence: u64,
}

/// Why content or an envelope cannot be read back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The message does not live (any more).
    #[error("message {0} does not live in the log")]
    Unknown(MessageSequence),
    /// Its record does not have the CRC that it was written with, or does not decode, or the disk did not read it in many
    /// attempts.
    #[error("a record of message {sequence} in segment {segment} at {offset} is damaged")]
    Damaged {
        /// The message.
        sequence: MessageSequence,
        /// Where.
        segment: u32,
        /// Where in the segment.
        offset: u32,
    },
    /// A part of it was lost.
    #[error("a part of message {0} is lost")]
    Missing(MessageSequence),
    /// Its envelope was lost, and is not there any more. What is left of its content can be read.
    #[error("the envelope of message {0} is lost")]
    EnvelopeLost(MessageSequence),
    /// The disk did not read.
    #[error("the log cannot be read")]
    Disk(#[from] crate::DiskError),
}
