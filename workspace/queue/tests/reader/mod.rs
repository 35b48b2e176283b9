//! What the tests of FORMAT.md are made of: a disk in memory, a log that the queue itself writes on it, and the
//! comparison of what `format_reader.py` says of that log with what the queue says.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here, with the place")]

pub(crate) mod comparison;
pub(crate) mod difference;
pub(crate) mod disk;
pub(crate) mod mail;
pub(crate) mod writing;
