//! Frames between the store and its clients: `smtp-server`, the channels, QMGR, operators.

use crate::{Hello, Role};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use sternpost_message::{
    Envelope, ErrorScope, MessageId, MessageSequence, Outcome, Precedence, RecipientRange, RecipientState,
    RouteIndex, UnixMillis,
};

/// The largest content chunk: fifteen pages, which leaves a datagram room for an envelope of 4 KiB beside it.
pub const CHUNK_OCTETS_MAX: usize = 61_440;

/// The largest piece of content in [`FromStore::Piece`].
pub const PIECE_OCTETS_MAX: usize = CHUNK_OCTETS_MAX;

/// The largest cell of a content window, and so the largest piece of content that a channel gets at a time.
pub const CELL_OCTETS: usize = 65_536;

/// The order in which a set is committed against other sets of the same client: sets of one lane keep their order,
/// a set of a higher lane may overtake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Lane {
    /// Outcomes: they free the next hop's slots and never wait behind content.
    Outcome,
    /// Flash and override.
    Urgent,
    /// Priority and immediate.
    Normal,
    /// Routine and deferred.
    NonUrgent,
}

impl Lane {
    /// How many there are.
    pub const COUNT: usize = 4;

    /// The lane of a message.
    #[must_use]
    pub const fn of(precedence: Precedence) -> Self {
        match precedence {
            Precedence::Flash | Precedence::Override => Self::Urgent,
            Precedence::Priority | Precedence::Immediate => Self::Normal,
            Precedence::Routine | Precedence::Deferred => Self::NonUrgent,
        }
    }

    /// 0 to 3.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// One record of an append set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Append<'a> {
    /// Octets of a message's content. Chunks of one message are numbered from 0 without a gap, all in one lane.
    Content {
        /// The message that they belong to.
        message: MessageId,
        /// Their place.
        index: u32,
        /// 1 to [`CHUNK_OCTETS_MAX`] octets.
        #[serde(borrow, with = "serde_bytes")]
        octets: &'a [u8],
    },
    /// The commit point of a message: its content came before, or comes in the same set.
    Envelope {
        /// The message.
        message: MessageId,
        /// Its envelope.
        envelope: Box<Envelope>,
        /// Octets of the whole content.
        content_octets: u64,
        /// SHA-256 of the whole content.
        content_sha256: [u8; 32],
    },
    /// What became of recipients.
    Outcome {
        /// The message.
        message: MessageSequence,
        /// Recipients and their outcome.
        outcomes: Vec<(RecipientRange, Outcome)>,
    },
    /// The content received so far will get no envelope.
    DiscardPartial {
        /// The message.
        message: MessageId,
    },
}

/// Why the store did not take a set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// The log has no room for new messages until others have left: 452 4.3.1.
    Full,
    /// The device did not take the write: 451 4.3.0. The set is not stored.
    Device,
    /// The set contradicts the log (a gap in the content, an unknown message): an error of the client.
    Invalid(String),
    /// An operator has discarded the message while it came in: 554 5.3.0.
    Discarded,
    /// Nothing came of the message for so long that what had come of it was thrown away: 451 4.4.2.
    Expired,
}

/// Frames to the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToStore<'a> {
    /// First.
    Hello(Hello),
    /// A set of records that commits together.
    Append {
        /// Its lane.
        lane: Lane,
        /// Its number in the lane, from 1 without a gap.
        number: u64,
        /// The records.
        #[serde(borrow)]
        records: Cow<'a, [Append<'a>]>,
        /// Who sends the content, where it comes without its envelope: for the list of partial messages. The store keeps
        /// it in memory, so each such set has it.
        #[serde(borrow)]
        peer: Option<&'a str>,
    },
    /// Asks for a message: the answer is [`FromStore::Message`], then its content in [`FromStore::Content`].
    Fetch {
        /// A number of the client's own, unique among its open requests.
        request: u32,
        /// The message.
        message: MessageSequence,
        /// The first octet wanted.
        offset: u64,
        /// Octets wanted at most; the content ends earlier if it is shorter.
        octets_max: u64,
    },
    /// The client has read these cells of its content window.
    Release {
        /// The cells.
        cells: Vec<u16>,
    },
    /// The client wants no more of a message that it fetched.
    Cancel {
        /// The request.
        request: u32,
    },
    /// QMGR asks for a snapshot of the living and then the stream.
    Subscribe,
    /// Asks for [`StreamFrame::Mark`] once everything that clients have sent so far is durable or refused, and
    /// everything that the ended processes had sent has been read.
    Mark {
        /// Comes back.
        token: u64,
        /// Process ids of clients that have ended.
        ended: Vec<u32>,
    },
    /// QMGR says how much deliverable mail waits, for the flow control of intake.
    Deliverable {
        /// Mlists that could be processed now if a slot were free; 0 when intake has no reason to wait for them.
        waiting: u64,
        /// The longest that an acknowledgement of new mail should wait for them, milliseconds. The store has a maximum
        /// of its own.
        delay_ms: u32,
    },
    /// An operator asks for living messages.
    List {
        /// The first sequence wanted.
        from: MessageSequence,
        /// How many at most; 1 to 256.
        count_max: u32,
    },
    /// An operator asks for one message's details.
    Show {
        /// Its id.
        message: MessageId,
    },
    /// An operator asks for the log's figures.
    Status,
    /// An operator asks where a message stands.
    Find {
        /// Its id.
        message: MessageId,
    },
    /// An operator asks for a piece of content: the answer is [`FromStore::Piece`]. One at a time, so that neither end holds
    /// more than a datagram of it.
    ReadPiece {
        /// The message.
        message: MessageSequence,
        /// The chunk, from 0.
        chunk: u32,
        /// The first octet wanted of it.
        offset: u32,
    },
    /// An operator asks for the messages that are kept apart.
    ListIsolated {
        /// The first sequence wanted.
        from: MessageSequence,
        /// How many at most; 1 to 256.
        count_max: u32,
    },
    /// An operator asks for the partial messages, in the order of their ids.
    ListPartials {
        /// The id behind which to begin; none for the first.
        behind: Option<MessageId>,
        /// How many at most; 1 to 256.
        count_max: u32,
    },
    /// An operator has read an isolated message whole: it is to be handed out again.
    Restore {
        /// Its id.
        message: MessageId,
    },
    /// An operator ends an isolated message, or a partial one. It is answered as a set of the lane of outcomes is.
    Discard {
        /// The number of this set in the lane of outcomes.
        number: u64,
        /// The message.
        message: MessageId,
        /// In the operator's words.
        why: &'a str,
    },
}

/// Where a message stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// The log does not know it, or does not remember it any more.
    Unknown,
    /// There is content of it and no envelope.
    Partial,
    /// It lives.
    Living(MessageSequence),
    /// It lives and is kept apart.
    Isolated(MessageSequence),
    /// It lived not long ago.
    Dead,
}

impl Append<'_> {
    /// Whether a role has records of this kind to write. An operator's are those of a probe, of a message that is brought back,
    /// and the end of what one was made of.
    #[must_use]
    pub fn is_business_of(&self, role: Role) -> bool {
        match self {
            Self::Content { .. } | Self::Envelope { .. } => {
                matches!(role, Role::SmtpServer | Role::Housekeeper | Role::Operator)
            }
            Self::Outcome { outcomes, .. } if role == Role::Operator => {
                outcomes.iter().all(|(_, outcome)| matches!(outcome, Outcome::Discarded { .. }))
            }
            Self::Outcome { .. } => role.is_channel(),
            Self::DiscardPartial { .. } => matches!(role, Role::SmtpServer),
        }
    }
}

impl ToStore<'_> {
    /// Whether this is a role's business. A Hello is for who may say it, and once.
    #[must_use]
    pub fn is_business_of(&self, role: Role) -> bool {
        match self {
            Self::Hello(_) => false,
            // The room that is kept for outcomes, and for the reports that follow from them, is not for what strangers send.
            Self::Append { lane: Lane::Outcome, .. } if role == Role::SmtpServer => false,
            Self::Append { records, .. } => records.iter().all(|record| record.is_business_of(role)),
            Self::Fetch { .. } | Self::Release { .. } | Self::Cancel { .. } => role.is_channel(),
            Self::Subscribe | Self::Mark { .. } | Self::Deliverable { .. } => role == Role::Qmgr,
            Self::List { .. }
            | Self::Show { .. }
            | Self::Status
            | Self::Find { .. }
            | Self::ReadPiece { .. }
            | Self::ListIsolated { .. }
            | Self::ListPartials { .. }
            | Self::Restore { .. }
            | Self::Discard { .. } => role == Role::Operator,
        }
    }
}

/// One recipient as the log has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipientRecord {
    /// Where it stands.
    pub state: RecipientState,
    /// Attempts that ended in a deferral.
    pub attempts: u16,
    /// Whether the sender was told of the delay.
    pub delay_reported: bool,
    /// What was said last; none if nothing.
    pub last: Option<sternpost_message::Diagnostic>,
}

/// A message as the log has it, without its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageDetail {
    /// Its name.
    pub id: MessageId,
    /// Its place.
    pub sequence: MessageSequence,
    /// Its envelope.
    pub envelope: Envelope,
    /// Octets of the content.
    pub content_octets: u64,
    /// SHA-256 of the content, as whoever brought it has said.
    pub content_sha256: [u8; 32],
    /// The recipients, as in the envelope.
    pub recipients: Vec<RecipientRecord>,
}

/// A message that is kept apart: a part of it is lost or damaged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IsolatedMessage {
    /// What is known of it.
    pub facts: MessageFacts,
    /// When this store has found it so.
    pub found_at: UnixMillis,
    /// What is wrong with it.
    pub why: String,
}

/// Content that has no envelope yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartialMessage {
    /// The message that it may become.
    pub message: MessageId,
    /// Octets so far.
    pub octets: u64,
    /// When the first of them were committed.
    pub first_seen_at: UnixMillis,
    /// Who sends it; none where this store has not heard of it since it began.
    pub peer: Option<String>,
}

/// What an operator gets of a message's content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Piece {
    /// Octets of the chunk from the place on that was asked for; none behind the message's last chunk.
    Octets {
        /// At most [`PIECE_OCTETS_MAX`].
        #[serde(with = "serde_bytes")]
        octets: Vec<u8>,
        /// Whether the chunk ends with them.
        ends_chunk: bool,
    },
    /// The chunk is lost or damaged.
    Lost {
        /// Why.
        why: String,
    },
    /// The chunk cannot be read now.
    Unreadable {
        /// Why.
        why: String,
    },
    /// The message does not live (any more).
    Dead,
}

/// Why there is nothing of a message to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Absence {
    /// It is over. QMGR hears so, too.
    Dead,
    /// A part of it is lost or damaged: it is kept apart. QMGR hears so, too.
    Isolated,
    /// It cannot be read now.
    Unreadable,
}

/// Frames from the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromStore {
    /// First. A channel gets its content window with this datagram, a sealed shared memory of `cells_count` cells.
    Welcome {
        /// Who answers.
        hello: Hello,
        /// Cells of [`CELL_OCTETS`] octets in the window; 0 without one.
        cells_count: u16,
    },
    /// Every set of the lane up to this number is durable, but those that were refused.
    Committed {
        /// The lane.
        lane: Lane,
        /// The number.
        number: u64,
    },
    /// One set was not stored.
    Refused {
        /// The lane.
        lane: Lane,
        /// The number.
        number: u64,
        /// Why.
        refusal: Refusal,
    },
    /// The answer to a fetch. One that does not fit a datagram has no `detail`: the encoded [`MessageDetail`] is in the
    /// attached sealed memory.
    Message {
        /// The request.
        request: u32,
        /// The message, unless attached.
        detail: Option<Box<MessageDetail>>,
    },
    /// The message is not there (any more), or cannot be read.
    NoMessage {
        /// The request.
        request: u32,
        /// Whether there is anything to wait for.
        absence: Absence,
        /// Why.
        why: String,
    },
    /// A piece of content lies in a cell.
    Content {
        /// The request.
        request: u32,
        /// The cell.
        cell: u16,
        /// Octets in it, 1 to [`CELL_OCTETS`]; 0 only where nothing is left from the offset on: then `cell` is no cell.
        octets: u32,
        /// Whether it is the last piece.
        last: bool,
    },
    /// For QMGR.
    Stream(StreamFrame),
    /// The answer to [`ToStore::List`]: fewer messages than were asked for when more do not fit a datagram.
    Listed {
        /// Living messages from `from` on.
        messages: Vec<MessageFacts>,
        /// Where to go on; none when there are no more.
        next: Option<MessageSequence>,
    },
    /// The answer to [`ToStore::Show`]. One that does not fit a datagram is in the attached sealed memory, as for
    /// [`Self::Message`].
    Shown(Shown),
    /// The answer to [`ToStore::Status`].
    Status(StoreStatus),
    /// The answer to [`ToStore::Find`].
    Found(Standing),
    /// The answer to [`ToStore::ReadPiece`].
    Piece(Piece),
    /// The answer to [`ToStore::ListIsolated`]: fewer than were asked for when more do not fit a datagram.
    IsolatedListed {
        /// Isolated messages from the sequence on that was asked for.
        messages: Vec<IsolatedMessage>,
        /// Where to go on; none when there are no more.
        next: Option<MessageSequence>,
    },
    /// The answer to [`ToStore::ListPartials`].
    PartialsListed {
        /// Partial messages.
        partials: Vec<PartialMessage>,
        /// Behind which to go on; none when there are no more.
        next: Option<MessageId>,
    },
    /// The answer to [`ToStore::Restore`].
    Restored {
        /// Whether it is handed out again; else it was not isolated.
        is_back: bool,
    },
}

/// See [`FromStore::Shown`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shown {
    /// The message.
    Detail(Box<MessageDetail>),
    /// The message's encoded [`MessageDetail`] is attached.
    Attached,
    /// It does not live.
    Absent,
    /// It lives, and its envelope cannot be read.
    Unreadable {
        /// Why.
        why: String,
    },
}

/// The Mlist of one route, as a snapshot or an acceptance has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MlistFacts {
    /// The route's place in the envelope.
    pub route: RouteIndex,
    /// Its channel.
    pub channel: String,
    /// Its peer MTA.
    pub peer: String,
    /// The recipients that still need an attempt; at least one.
    pub pending: Vec<RecipientRange>,
    /// The most attempts that one of them has behind it.
    pub attempts: u16,
}

/// What QMGR needs to know of a living message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageFacts {
    /// Its name.
    pub id: MessageId,
    /// Its place.
    pub sequence: MessageSequence,
    /// When it was accepted.
    pub accepted_at: UnixMillis,
    /// How it is ranked.
    pub precedence: Precedence,
    /// Octets of its content.
    pub content_octets: u64,
    /// Whether the sender was told of a delay.
    pub delay_reported: bool,
    /// The Mlists that have pending recipients, ascending by route.
    pub mlists: Vec<MlistFacts>,
    /// Recipients for whom nothing but a report remains to be made: of their failure, or of their success.
    pub report_owed: Vec<RecipientRange>,
}

/// What an outcome did, in the form that QMGR needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// Handed over (delivered or transferred).
    Worked,
    /// Handed over; a report of that is owed.
    WorkedReportOwed,
    /// Not now.
    Deferred(ErrorScope),
    /// Failed; a report is owed.
    Failed,
    /// The delay was reported.
    DelayReported,
    /// Reported or discarded: nothing more is owed.
    Closed,
}

/// The stream for QMGR, in the order of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamFrame {
    /// A snapshot begins: forget everything.
    SnapshotBegin {
        /// How many messages it will have, about (for progress).
        messages_count: u64,
    },
    /// A living message: of the snapshot, or just accepted.
    Message(Box<MessageFacts>),
    /// The snapshot is complete.
    SnapshotEnd,
    /// Outcomes became durable.
    Outcome {
        /// The message.
        message: MessageSequence,
        /// Recipients and what happened to them.
        effects: Vec<(RecipientRange, Effect)>,
    },
    /// Every recipient is terminal and every report durable: the message is gone.
    Dead {
        /// The message.
        message: MessageSequence,
    },
    /// A part of the message is lost or damaged: it is kept apart, and not attempted until [`Self::Message`] brings it back.
    Isolated {
        /// The message.
        message: MessageSequence,
    },
    /// The answer to [`ToStore::Mark`].
    Mark {
        /// Its token.
        token: u64,
    },
}

/// The log's figures.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStatus {
    /// Living messages.
    pub messages_count: u64,
    /// Octets of the living, in the log.
    pub living_octets: u64,
    /// Octets of the log.
    pub log_octets: u64,
    /// Segments that are free.
    pub segments_free_count: u32,
    /// Segments in all.
    pub segments_count: u32,
    /// Partially received messages.
    pub partials_count: u64,
    /// Octets of their content.
    pub partials_octets: u64,
    /// Whether they fill their share, so that large messages are refused.
    pub partials_are_full: bool,
    /// Messages that are kept apart because a part of them is lost or damaged.
    pub isolated_count: u64,
    /// Places of the log that did not hold what was written there when it was opened.
    pub damaged_places_count: u64,
    /// Whether new messages are refused.
    pub is_full: bool,
    /// Batches written since the start.
    pub batches_count: u64,
    /// Octets of them.
    pub written_octets: u64,
    /// Writes that failed since the start.
    pub write_errors_count: u64,
    /// How the disk is written, in words.
    pub backend: String,
    /// The same as it is called in a bootstrap: `io_uring` or `dsync`.
    pub method: String,
    /// Who has chosen it.
    pub method_from: Origin,
    /// Octets of the largest batch.
    pub batch_octets_max: u32,
    /// Who has chosen that.
    pub batch_from: Origin,
}

/// Who has chosen a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// Nobody: it is the software's.
    #[default]
    Default,
    /// The self test, by what it measured.
    SelfTest,
    /// A person, in the bootstrap or the directory.
    Operator,
}

impl Origin {
    /// In words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::SelfTest => "self test",
            Self::Operator => "operator",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_of_strangers_does_not_travel_in_the_lane_of_outcomes() {
        let message = MessageId([1; 16]);
        let records =
            [Append::Content { message, index: 0, octets: b"x" }, Append::DiscardPartial { message }];
        for record in records {
            let append =
                |lane| ToStore::Append { lane, number: 1, records: vec![record.clone()].into(), peer: None };
            for lane in [Lane::Urgent, Lane::Normal, Lane::NonUrgent] {
                assert!(append(lane).is_business_of(Role::SmtpServer), "{lane:?}");
            }
            assert!(!append(Lane::Outcome).is_business_of(Role::SmtpServer));
        }
        let records = vec![Append::Content { message, index: 0, octets: b"x" }];
        let report = ToStore::Append { lane: Lane::Outcome, number: 1, records: records.into(), peer: None };
        assert!(report.is_business_of(Role::Housekeeper) && !report.is_business_of(Role::Channel));
    }
}
