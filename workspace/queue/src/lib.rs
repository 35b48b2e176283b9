//! The log: one circular file or device in which mail survives the loss of power.
//!
//! Sets of records go in through [`Log::append`], durable facts come out of [`Log::poll`]; [`Log::drive`] moves it on.
//! Generic over a [`Disk`]; takes `now` as an argument. The bytes are in `FORMAT.md`.
//! Not here: files, rings and threads (`platform::disk`), who may append what (`store`), when a message is attempted
//! (`scheduler`), what a report says (`channels`).
#![forbid(unsafe_code)]

mod append;
mod batch;
mod buffer;
mod by_message;
mod claim;
mod consequence;
mod disk;
mod entry;
mod event;
mod express;
mod filling;
mod format;
pub mod fuzz;
mod index;
mod inspect;
mod lanes;
mod layout;
mod living;
mod log;
pub mod memory;
mod pace;
mod parts;
mod path;
mod place;
mod reader;
mod recent;
mod recent_ids;
mod reclaim;
mod recovery;
mod routes;
mod runs;
mod scan;
mod seal;
mod set;
mod source;
mod staging;
mod stand_in;
#[cfg(test)]
mod tests;
mod unread;
mod writer;

pub use append::{Append, AppendError, AppendSet, Lane, Parameters};
pub use buffer::{AlignedBuffer, BufferFull};
pub use disk::{Disk, DiskError};
pub use event::{
    Alarm, LogEvent, LogStatus, MessageDetail, MessageFacts, PartialFacts, ReadError, RouteFacts,
};
pub use format::{
    CHUNK_OCTETS_MAX, Geometry, HEAD_OCTETS, PAGE_OCTETS, RecipientRecord, SEGMENT_OCTETS_MAX,
    SEGMENT_OCTETS_MIN, SEGMENTS_MIN,
};
pub use inspect::{
    DamagedPlace, DamagedRecord, Inspection, IsolatedFacts, Isolation, Progress, RecordCounts, RecordKind,
    Verification, inspect,
};
pub use layout::{BLANK_MARKER, is_blank_head, is_marked_head};
pub use log::{CreateError, Log};
pub use recovery::{Damage, DamagedPart, OpenError, RecoveryReport, geometry};
