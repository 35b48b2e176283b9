//! How recovery reads: as a whole, and page by page where the disk does not read the whole, if it may do without some.
//!
//! A failed read may be an accident of the path to the device, and what is given up is lost for good; so whoever opens the
//! log tries again for some time before it allows that (`Parameters::isolates_unreadable`).

use std::collections::BTreeSet;

use crate::format::PAGE_OCTETS;
use crate::{Disk, DiskError};

/// Attempts at one page before it is given up.
const PAGE_READS_MAX: u32 = 4;

/// See the module.
pub(crate) struct Source<'a, D> {
    disk: &'a mut D,
    isolates: bool,
    /// The device has read something: it is there.
    has_read: bool,
    /// Pages that were given up.
    lost: BTreeSet<u64>,
}

impl<'a, D: Disk> Source<'a, D> {
    pub(crate) const fn new(disk: &'a mut D, isolates: bool) -> Self {
        Self { disk, isolates, has_read: false, lost: BTreeSet::new() }
    }

    pub(crate) const fn disk(&self) -> &D {
        self.disk
    }

    /// Reads from the beginning of a page. Pages that are given up are zero.
    pub(crate) fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        match self.disk.read(offset, into) {
            Ok(()) => {
                self.has_read = true;
                Ok(())
            }
            Err(DiskError::Device { .. }) if self.isolates => self.read_pages(offset, into),
            Err(error) => Err(error),
        }
    }

    fn read_pages(&mut self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let mut last_error = None;
        for (at, page) in (offset..).step_by(PAGE_OCTETS).zip(into.chunks_mut(PAGE_OCTETS)) {
            match (0..PAGE_READS_MAX)
                .find_map(|_| self.disk.read(at, page).map_err(|error| last_error = Some(error)).ok())
            {
                Some(()) => self.has_read = true,
                None => {
                    page.fill(0);
                    self.lost.insert(at);
                }
            }
        }
        // A device that reads nothing at all is away, and not damaged.
        match last_error {
            Some(error) if !self.has_read => Err(error),
            _ => Ok(()),
        }
    }

    /// Pages that were given up.
    pub(crate) const fn lost(&self) -> &BTreeSet<u64> {
        &self.lost
    }
}
