//! The way back of an executable that has taken over and cannot begin: the one that has handed over gets everything once more, as it
//! was, and goes on as if a role of the new one had not stayed. Its processes run, so it is that one and no other: one that was
//! before it may speak another protocol. Where it was on trial it is so again, and keeps its own way back.
//!
//! What begins owns the descriptors and closes them when it fails, so there is a copy of each until the supervisor is ready.
//! Not here: what happens later (`family` judges the roles of the new executable, `upgrade` goes back).

use super::handover::{Handover, HandoverError};
use super::successor::Successor;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use sternpost_link::PROTOCOL_VERSION;
use sternpost_platform::process;

/// Copies of everything that was handed over.
#[derive(Debug)]
pub(super) struct Fallback {
    handover: Handover,
    to: Successor,
    bootstrap: PathBuf,
    copies: Vec<OwnedFd>,
}

impl Fallback {
    /// Of what was handed over by this number; none when there is nothing to go back to. To be called before anything of it is
    /// taken.
    ///
    /// # Errors
    /// `HandoverError`.
    pub(super) fn of(number: RawFd, bootstrap: &Path) -> Result<Option<Self>, HandoverError> {
        let copy =
            |number| process::copy_of(number).map_err(|source| HandoverError::Descriptor { number, source });
        let memory = process::copy_of(number).map_err(HandoverError::Read)?;
        let mut handover = Handover::read(memory)?;
        let Some(to) = turn_back(&mut handover)? else { return Ok(None) };
        let to = Successor::of(copy(to)?);
        // No copy of this executable is wanted, but that the one that gets everything back does not inherit it.
        handover.successor.take().map(copy).transpose()?;
        let mut copies: Vec<(RawFd, OwnedFd)> = Vec::new();
        for number in handover.numbers() {
            // One socket may serve several listeners.
            if !copies.iter().any(|(original, _)| original == number) {
                copies.push((*number, copy(*number)?));
            }
        }
        for number in handover.numbers() {
            if let Some((_, copy)) = copies.iter().find(|(original, _)| original == number) {
                *number = copy.as_raw_fd();
            }
        }
        let bootstrap = handover.bootstrap.clone().unwrap_or_else(|| bootstrap.to_owned());
        let copies = copies.into_iter().map(|(_, copy)| copy).collect();
        Ok(Some(Self { handover, to, bootstrap, copies }))
    }

    /// Puts the executable that has handed over into the place of this one. Returns only when that failed.
    pub(super) fn go_back(mut self, why: String) -> io::Error {
        self.handover.successor = Some(self.to.number());
        self.handover.went_back = Some(why);
        match self.handover.seal() {
            Ok(memory) => {
                let own = [memory.as_fd(), self.to.descriptor()];
                let descriptors: Vec<BorrowedFd<'_>> =
                    own.into_iter().chain(self.copies.iter().map(AsFd::as_fd)).collect();
                self.to.step_over(&self.bootstrap, &memory, descriptors)
            }
            Err(error) => error,
        }
    }
}

/// Makes of what an executable has handed over what it gets back. Gives the number of that executable; none when it is not there.
///
/// # Errors
/// `Protocol`.
fn turn_back(handover: &mut Handover) -> Result<Option<RawFd>, HandoverError> {
    if let Some(on_trial) = handover.on_trial.take() {
        return Ok(Some(on_trial));
    }
    let Some(before) = handover.before.take() else { return Ok(None) };
    match handover.before_link.take() {
        Some(theirs) if theirs != PROTOCOL_VERSION && !handover.processes.is_empty() => {
            Err(HandoverError::Protocol { theirs })
        }
        _ => Ok(Some(before)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::handover::tests::{bootstrap, handover};
    use super::*;

    #[test]
    fn who_has_handed_over_gets_everything_back_and_never_one_of_another_protocol_than_what_runs() {
        let folder = tempfile::tempdir().unwrap();
        let own = bootstrap(folder.path(), "log");
        let other = Some(PROTOCOL_VERSION - 1);
        let turned = |on_trial, before_link, runs: bool| {
            let mut handed = handover(&own);
            (handed.on_trial, handed.before_link) = (on_trial, before_link);
            if !runs {
                handed.processes.clear();
            }
            let to = turn_back(&mut handed);
            assert_eq!((handed.on_trial, handed.processes.is_empty()), (None, !runs));
            (to.map_err(|error| error.to_string()), handed.before, handed.before_link)
        };
        // On trial: it is so again, with the same way back.
        assert_eq!(turned(Some(21), other, true), (Ok(Some(21)), Some(20), other));
        assert_eq!(turned(Some(21), other, false), (Ok(Some(21)), Some(20), other));
        // Not on trial: nothing is left to go back to.
        for link in [None, Some(PROTOCOL_VERSION)] {
            assert_eq!(turned(None, link, true), (Ok(Some(20)), None, None));
        }
        assert_eq!(turned(None, other, false), (Ok(Some(20)), None, None));
        let refused = turned(None, other, true).0.unwrap_err();
        assert!(refused.contains("speaks version") && refused.contains("of the protocol"), "{refused}");
        let mut none = handover(&own);
        none.before = None;
        assert_eq!(turn_back(&mut none).unwrap(), None);
    }
}
