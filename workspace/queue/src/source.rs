//! A disk as recovery and the offline commands read it: as a whole, and page by page where it does not read the whole, if
//! they may do without some.
//!
//! A failed read may be an accident of the path to the device, and what is given up is lost for good; so whoever opens the
//! log tries again for some time before it allows that (`Parameters::isolates_unreadable`).

use std::collections::BTreeSet;

use crate::format::{PAGE, PAGE_OCTETS};
use crate::{AlignedBuffer, Disk, DiskError};

/// Attempts at one page before it is given up.
const PAGE_READS_MAX: u32 = 4;

/// See the module.
pub(crate) struct Source<D> {
    pub(crate) disk: D,
    isolates: bool,
    /// A page that the device has read: one that it no longer reads either tells that the device is away.
    good: Option<u64>,
    /// Pages that were given up.
    lost: BTreeSet<u64>,
}

impl<D: Disk> Source<D> {
    pub(crate) const fn new(disk: D, isolates: bool) -> Self {
        Self { disk, isolates, good: None, lost: BTreeSet::new() }
    }

    fn read_pages(&mut self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let mut last_error = None;
        let (mut at, mut rest) = (offset, into);
        while !rest.is_empty() {
            let page = at / u64::from(PAGE) * u64::from(PAGE);
            let skip = usize::try_from(at - page).unwrap_or(0);
            let (piece, behind) = rest.split_at_mut((PAGE_OCTETS - skip).min(rest.len()));
            match self.read_patiently(at, piece) {
                Ok(()) => self.good = Some(page),
                Err(error) => {
                    piece.fill(0);
                    self.lost.insert(page);
                    last_error = Some(error);
                }
            }
            at += piece.len() as u64;
            rest = behind;
        }
        match last_error {
            Some(error) if !self.is_there() => Err(error),
            _ => Ok(()),
        }
    }

    fn read_patiently(&mut self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let mut read = self.disk.read(offset, into);
        for _ in 1..PAGE_READS_MAX {
            if read.is_ok() {
                break;
            }
            read = self.disk.read(offset, into);
        }
        read
    }

    /// Whether the device still reads what it has read before.
    fn is_there(&mut self) -> bool {
        let mut page = [0; PAGE_OCTETS];
        self.good.is_some_and(|good| self.read_patiently(good, &mut page).is_ok())
    }

    /// Pages that were given up.
    pub(crate) const fn lost(&self) -> &BTreeSet<u64> {
        &self.lost
    }
}

impl<D: Disk> Disk for Source<D> {
    fn octets(&self) -> u64 {
        self.disk.octets()
    }

    fn block_octets(&self) -> u32 {
        self.disk.block_octets()
    }

    /// Pages that are given up are zero.
    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        match self.disk.read(offset, into) {
            Ok(()) => {
                self.good = Some(offset / u64::from(PAGE) * u64::from(PAGE));
                Ok(())
            }
            Err(DiskError::Device { .. }) if self.isolates => self.read_pages(offset, into),
            Err(error) => Err(error),
        }
    }

    fn start_write(&mut self, offset: u64, buffer: AlignedBuffer) -> Result<(), DiskError> {
        self.disk.start_write(offset, buffer)
    }

    fn finish_write(&mut self) -> Option<(AlignedBuffer, Result<(), DiskError>)> {
        self.disk.finish_write()
    }

    fn write_now(&mut self, offset: u64, buffer: &AlignedBuffer) -> Result<(), DiskError> {
        self.disk.write_now(offset, buffer)
    }
}
