//! `upgrade.json` in the run directory: where the last upgrade stands, for `sternpost upgrade`, which may be of another
//! version than the supervisor and so does not ask it. Its presence says that the supervisor which it names can be upgraded.
//! A supervisor that is killed leaves it behind, so it names the process that has written it.

use crate::place::{self, Owner};
use std::io;
use std::path::Path;

/// Its name in the run directory.
pub(crate) const UPGRADE_FILE: &str = "upgrade.json";

/// What stands in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Upgraded {
    /// Who has written it; none when the kernel did not say it.
    pub(crate) by: Option<Instance>,
    /// Attempts since the switch was started.
    pub(crate) attempts_count: u32,
    /// Whether the last one has put another executable into force.
    pub(crate) has_taken_over: bool,
    /// Whether it stays so: neither a check, nor the end of what runs, nor a trial is under way.
    pub(crate) is_decided: bool,
    /// In words.
    pub(crate) says: String,
}

/// A process. Numbers are given again, but not with the same instant of birth; another program in its place changes neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Instance {
    pid: u32,
    /// Clock ticks from the start of the machine to its birth.
    born_ticks: u64,
}

impl Instance {
    /// The process that has this number now.
    ///
    /// # Errors
    /// When there is none; `InvalidData` when the kernel says something else than proc(5).
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        let line = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The second field is a name in parentheses and may hold anything; the instant is the 22nd.
        let ticks =
            line.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(19)?.parse().ok());
        let born_ticks = ticks.ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { pid, born_ticks })
    }

    /// Whether it is still there.
    pub(crate) fn lives(&self) -> bool {
        Self::of(self.pid).is_ok_and(|now| now == *self)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_another_one_of_the_same_number() {
        let own = Instance::of(std::process::id()).unwrap();
        assert!(own.lives() && own == Instance::of(std::process::id()).unwrap());
        assert!(!Instance { born_ticks: own.born_ticks + 1, ..own }.lives());
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        let born = Instance::of(pid).unwrap();
        child.wait().unwrap();
        assert!(!born.lives());
    }
}
