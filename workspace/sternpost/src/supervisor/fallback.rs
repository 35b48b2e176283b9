//! The way back of an executable that has taken over and cannot begin: the one before gets everything once more, as it had
//! handed it over, and goes on as if a role of the new one had not stayed.
//!
//! What begins owns the descriptors and closes them when it fails, so there is a copy of each until the supervisor is ready.
//! Not here: what happens later (`family` judges the roles of the new executable, `upgrade` goes back).

use super::handover::{Handover, HandoverError};
use super::successor::Successor;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use sternpost_platform::process;

/// Copies of everything that was handed over.
#[derive(Debug)]
pub(super) struct Fallback {
    handover: Handover,
    before: Successor,
    bootstrap: PathBuf,
    copies: Vec<OwnedFd>,
}

impl Fallback {
    /// Of what the executable before has handed over by this number; none when there is nothing to go back to. To be called
    /// before anything of it is taken.
    ///
    /// # Errors
    /// `HandoverError`.
    pub(super) fn of(number: RawFd, bootstrap: &Path) -> Result<Option<Self>, HandoverError> {
        let copy =
            |number| process::copy_of(number).map_err(|source| HandoverError::Descriptor { number, source });
        let memory = process::copy_of(number).map_err(HandoverError::Read)?;
        let mut handover = Handover::read(memory)?;
        let Some(before) = handover.before.take() else { return Ok(None) };
        let before = Successor::of(copy(before)?);
        // No copy of this executable is wanted, but that the one before does not inherit it.
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
        Ok(Some(Self { handover, before, bootstrap, copies }))
    }

    /// Puts the executable before into the place of this one. Returns only when that failed.
    pub(super) fn go_back(mut self, why: String) -> io::Error {
        self.handover.successor = Some(self.before.number());
        self.handover.went_back = Some(why);
        match self.handover.seal() {
            Ok(memory) => {
                let own = [memory.as_fd(), self.before.descriptor()];
                let descriptors: Vec<BorrowedFd<'_>> =
                    own.into_iter().chain(self.copies.iter().map(AsFd::as_fd)).collect();
                self.before.step_over(&self.bootstrap, &memory, descriptors)
            }
            Err(error) => error,
        }
    }
}
