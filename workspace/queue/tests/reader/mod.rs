//! What the tests of FORMAT.md are made of: a disk in memory, a log that the queue itself writes on it, what can happen
//! to such a log, and the comparison of what `format_reader.py` says of it with what the queue says.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here, with the place")]

pub(crate) mod comparison;
pub(crate) mod damage;
pub(crate) mod difference;
pub(crate) mod history;
pub(crate) mod mail;
pub(crate) mod random;
pub(crate) mod writing;
