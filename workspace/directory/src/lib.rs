//! Where the configuration comes from: an LDAP directory, or tables; and the last good one on disk.
//!
//! [`watch`] keeps a whole set of entries up to date and hands it over when it is at rest; [`watch_tables`] does the
//! same for a file. What a set means is decided in `sternpost-config`, whether it goes into force in QMGR.
//!
//! Invariants: a set is handed over whole or not at all. Nothing that a server sends ends the watch: the LDAP client
//! runs in a task of its own, and its panics (known replies of two octets cause them) end in a reconnect. This is
//! why the process that runs the watch must unwind. A set has at most 100,000 entries and 64 MiB, and reading it has
//! one deadline; beyond either the session fails, and what was handed over stays. Bounded in time only: the size of
//! one LDAP message, which the client library collects in memory before we see it. An endless one ends with
//! `connect_timeout_ms` before the bind and with the next sign of life after it; the process needs a memory limit of
//! its own for what comes until then.
#![forbid(unsafe_code)]

mod bootstrap;
mod connection;
mod content;
pub mod last_known_good;
mod poll;
mod search;
mod session;
mod tables;
#[cfg(feature = "testing")]
pub mod testing;
mod watch;

pub use bootstrap::{Bind, Bootstrap, Timings};
pub use connection::{DirectoryError, Part};
pub use tables::watch_tables;
pub use watch::watch;

use sternpost_config::Entry;
use sternpost_message::UnixMillis;

/// What a watch has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handover {
    /// A whole set, at rest.
    Entries(Vec<Entry>),
    /// How the source is.
    Status(DirectoryStatus),
}

/// How the source of the configuration is. Said on each change.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DirectoryStatus {
    /// Whether changes arrive.
    pub connected: bool,
    /// Since when.
    pub since: UnixMillis,
    /// The server, or the file.
    pub uri: String,
    /// What happened, for people.
    pub text: String,
}

/// The wall clock.
fn now() -> UnixMillis {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}
