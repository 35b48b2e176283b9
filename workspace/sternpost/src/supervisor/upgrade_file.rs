//! `upgrade.json` in the run directory: what became of the last upgrade, for `sternpost upgrade`, which may be of another
//! version than the supervisor and so does not ask it. Its presence says that the supervisor can be upgraded.

use crate::place::{self, Owner};
use std::io;
use std::path::Path;

/// Its name in the run directory.
pub(crate) const UPGRADE_FILE: &str = "upgrade.json";

/// What stands in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Upgraded {
    /// Attempts since the switch was started.
    pub(crate) attempts_count: u32,
    /// Whether the last one has put another executable into force.
    pub(crate) has_taken_over: bool,
    /// In words.
    pub(crate) says: String,
}

/// Puts the file in the place of the one before.
///
/// # Errors
/// Those of the file system.
pub(crate) fn write(run_directory: &Path, upgraded: &Upgraded) -> io::Result<()> {
    place::put(&run_directory.join(UPGRADE_FILE), &serde_json::to_vec(upgraded)?, Owner::PUBLIC)
}

/// Reads it.
///
/// # Errors
/// Those of the file system; `InvalidData` when it is not what `write` writes.
pub(crate) fn read(run_directory: &Path) -> io::Result<Upgraded> {
    Ok(serde_json::from_slice(&std::fs::read(run_directory.join(UPGRADE_FILE))?)?)
}
