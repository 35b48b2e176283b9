//! What goes into the log: sets of records that commit together, and the numbers by which it behaves.

use std::borrow::Cow;

use sternpost_message::{CivilPriority, Envelope, MessageId, MessageSequence, Outcome, RecipientRange};

/// The numbers by which the log behaves. They change nothing on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// The largest batch, with the first page of a segment that it opens. Default 1 MiB; taken within 128 KiB and the segment,
    /// 16 MiB at most, in whole pages.
    pub batch_octets_max: usize,
    /// Acceptance stops when this share of the log lives. Default 70, 1 to 90.
    pub accept_share_max_percent: u8,
    /// How long outcomes that may wait do so for a shared sync. Default 100 ms.
    pub outcome_delay_ms_max: u64,
    /// How much of what was written last is kept in memory. Default 64 MiB.
    pub recent_content_octets_max: usize,
    /// How many ids of dead messages are remembered, so that a repeated append is recognised. Default 65,536.
    pub recent_ids_max: usize,
    /// When a message that has content but no envelope, and gets nothing more, is discarded. Default 1 hour.
    pub partial_timeout_ms: u64,
    /// The share of the log that such content may take, with what of it waits. Default 20.
    pub partial_share_max_percent: u8,
    /// How much content without envelope may wait for the disk. Default 32 MiB; taken as one batch at least.
    pub waiting_content_octets_max: u64,
    /// How long to wait between two probes of a disk that failed twice in a row, and between two attempts to move a record
    /// that the disk does not read. Default 1 s.
    pub probe_interval_ms: u64,
    /// Whether opening takes pages that the disk does not read, several times over, as damaged. Default no: opening fails
    /// then, and is worth another attempt, for the disk may come back.
    pub isolates_unreadable: bool,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            batch_octets_max: 1 << 20,
            accept_share_max_percent: 70,
            outcome_delay_ms_max: 100,
            recent_content_octets_max: 64 << 20,
            recent_ids_max: 65_536,
            partial_timeout_ms: 3_600_000,
            partial_share_max_percent: 20,
            waiting_content_octets_max: 32 << 20,
            probe_interval_ms: 1000,
            isolates_unreadable: false,
        }
    }
}

/// The queue in which a set waits for its batch. A batch is filled from the first lane to the last; sets of one lane
/// commit in the order given. All sets of one message belong into one lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// What became of recipients, with the reports that belong to it.
    Outcome,
    /// Urgent messages.
    Urgent,
    /// Normal messages.
    Normal,
    /// Non-urgent messages.
    NonUrgent,
}

impl Lane {
    /// Every lane, in the order in which a batch is filled.
    pub const ALL: [Self; 4] = [Self::Outcome, Self::Urgent, Self::Normal, Self::NonUrgent];

    pub(crate) const fn position(self) -> usize {
        match self {
            Self::Outcome => 0,
            Self::Urgent => 1,
            Self::Normal => 2,
            Self::NonUrgent => 3,
        }
    }
}

impl From<CivilPriority> for Lane {
    fn from(priority: CivilPriority) -> Self {
        match priority {
            CivilPriority::Urgent => Self::Urgent,
            CivilPriority::Normal => Self::Normal,
            CivilPriority::NonUrgent => Self::NonUrgent,
        }
    }
}

/// Records that commit together, in this order, or not at all.
///
/// A set with an envelope and outcomes is a conclusion drawn from them (a report, the children of a list). It is `Invalid`
/// if its outcomes change no recipient: then somebody drew it before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppendSet<'a> {
    /// The records.
    pub records: Vec<Append<'a>>,
}

/// One record to append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Append<'a> {
    /// A part of a message's content. A repetition of a chunk that is there changes nothing.
    Content {
        /// The message.
        message: MessageId,
        /// The place of the chunk, from 0.
        index: u32,
        /// 1 to 65,536 octets.
        octets: Cow<'a, [u8]>,
    },
    /// The message itself: from here on it is the switch's responsibility. Its chunks 0 … n came before, in the same
    /// lane, or stand before this record in the same set. A repetition (same id) makes no second message.
    Envelope {
        /// The message.
        message: MessageId,
        /// Who sends it to whom.
        envelope: Envelope,
        /// The sum of its chunks.
        content_octets: u64,
        /// SHA-256 of its content; trusted here, compared by `verify`.
        content_sha256: [u8; 32],
    },
    /// What became of recipients. For a message that is dead already it changes nothing.
    Outcome {
        /// The message.
        message: MessageSequence,
        /// Recipients and outcomes, applied in order.
        outcomes: Vec<(RecipientRange, Outcome)>,
    },
    /// Throws away content whose envelope will not come.
    DiscardPartial {
        /// The message that will not be.
        message: MessageId,
    },
}

/// Why a set is not in the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// There is no room for more mail; try again later. Outcomes are still taken.
    #[error("the log is full")]
    Full,
    /// Two writes in a row failed; nothing is taken until the disk answers again.
    #[error("the log is closed: its disk failed twice in a row")]
    Closed,
    /// The write that held the set failed: the set may not be taken as stored.
    #[error("the write failed")]
    Disk(#[source] crate::DiskError),
    /// The set breaks a rule: the mistake of whoever made it.
    #[error("the set is invalid: {0}")]
    Invalid(&'static str),
}
