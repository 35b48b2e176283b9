//! The store by itself: its real process without a switch around it, and clients that append as `smtp-server` does and
//! read as a channel does, by the code with which those two do it.
//!
//! For measuring, not for judging: what was accepted and what was lost is told by source and sink, which know nothing of
//! the switch's own protocol.

mod appending;
mod lone;
mod reading;

pub use appending::{Appended, Burst, Producers};
pub use lone::{LogPlace, LoneError, LoneStore};
pub use reading::{Pass, Readers, ReadingError, Reads};
