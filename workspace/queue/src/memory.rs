//! A disk in memory that fails only when a test wants it: for the fuzz entry points, and for the tests of this crate and of others.

use crate::{AlignedBuffer, Disk, DiskError};
use std::ops::Range;

/// What a write takes along or leaves alone.
const SECTOR_OCTETS: u32 = 512;

/// Writes are complete as soon as they are started.
#[derive(Debug, Default)]
pub struct MemoryDisk {
    /// What stands on it.
    pub octets: Vec<u8>,
    /// How many of the next writes fail, though all of each arrives.
    pub failures: u32,
    /// The next write fails, and so many of its octets arrive.
    pub fails_after: Option<usize>,
    /// Writes do not end, until it is taken back.
    pub hangs: bool,
    /// What is not read.
    pub bad: Vec<Range<usize>>,
    /// What the next reading gives wrong, and only that one.
    pub slips: Vec<usize>,
    finished: Option<AlignedBuffer>,
    /// The write under way has arrived in part.
    is_cut: bool,
    /// Where the last write began, and what stood there before.
    overwritten: (usize, Vec<u8>),
}

impl MemoryDisk {
    /// One without faults.
    #[must_use]
    pub fn new(octets: Vec<u8>) -> Self {
        Self { octets, ..Self::default() }
    }

    /// Of the last write only those sectors have arrived for which `arrived` says so.
    pub fn tear(&mut self, mut arrived: impl FnMut() -> bool) {
        let (start, before) = std::mem::take(&mut self.overwritten);
        for (sector, at) in
            before.chunks(SECTOR_OCTETS as usize).zip((start..).step_by(SECTOR_OCTETS as usize))
        {
            if !arrived() {
                self.octets[at..at + sector.len()].copy_from_slice(sector);
            }
        }
    }

    fn range(&self, offset: u64, octets: usize) -> Result<Range<usize>, DiskError> {
        let start = usize::try_from(offset).ok();
        start
            .and_then(|start| Some(start..start.checked_add(octets)?))
            .filter(|range| range.end <= self.octets.len())
            .ok_or(DiskError::Range { offset, octets })
    }
}

impl Disk for MemoryDisk {
    fn octets(&self) -> u64 {
        self.octets.len() as u64
    }

    fn block_octets(&self) -> u32 {
        SECTOR_OCTETS
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let range = self.range(offset, into.len())?;
        if self.bad.iter().any(|bad| bad.start < range.end && range.start < bad.end) {
            return Err(DiskError::Device { action: "read", offset, reason: "on demand".to_owned() });
        }
        into.copy_from_slice(&self.octets[range.start..range.end]);
        for at in self.slips.extract_if(.., |at| range.contains(at)) {
            into[at - range.start] ^= 1;
        }
        Ok(())
    }

    fn start_write(&mut self, offset: u64, buffer: AlignedBuffer) -> Result<(), DiskError> {
        let range = self.range(offset, buffer.len())?;
        let fails_after = self.fails_after.take();
        self.is_cut = fails_after.is_some();
        let arrived = fails_after.unwrap_or(buffer.len()).min(buffer.len());
        self.overwritten = (range.start, self.octets[range.clone()].to_vec());
        self.octets[range][..arrived].copy_from_slice(&buffer.as_slice()[..arrived]);
        self.finished = Some(buffer);
        Ok(())
    }

    fn finish_write(&mut self) -> Option<(AlignedBuffer, Result<(), DiskError>)> {
        if self.hangs {
            return None;
        }
        let buffer = self.finished.take()?;
        let fails = self.is_cut || self.failures > 0;
        self.failures = self.failures.saturating_sub(1);
        let failure = || DiskError::Device { action: "write", offset: 0, reason: "on demand".to_owned() };
        Some((buffer, if fails { Err(failure()) } else { Ok(()) }))
    }

    fn write_now(&mut self, offset: u64, buffer: &AlignedBuffer) -> Result<(), DiskError> {
        let range = self.range(offset, buffer.len())?;
        self.octets[range].copy_from_slice(buffer.as_slice());
        Ok(())
    }
}
