//! A disk in memory that fails only when a test wants it: for the fuzz entry points and this crate's own tests.

use crate::{AlignedBuffer, Disk, DiskError};

/// Writes are complete as soon as they are started.
pub(crate) struct MemoryDisk {
    pub(crate) octets: Vec<u8>,
    finished: Option<AlignedBuffer>,
    /// How many of the next writes fail.
    #[cfg(test)]
    pub(crate) failures: u32,
    /// What is not read.
    #[cfg(test)]
    pub(crate) bad: Vec<std::ops::Range<usize>>,
    /// What the next reading gives wrong, and only that one.
    #[cfg(test)]
    pub(crate) slips: Vec<usize>,
}

impl MemoryDisk {
    pub(crate) fn new(octets: Vec<u8>) -> Self {
        Self {
            octets,
            finished: None,
            #[cfg(test)]
            failures: 0,
            #[cfg(test)]
            bad: Vec::new(),
            #[cfg(test)]
            slips: Vec::new(),
        }
    }

    fn range(&self, offset: u64, octets: usize) -> Result<std::ops::Range<usize>, DiskError> {
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
        512
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let range = self.range(offset, into.len())?;
        #[cfg(test)]
        if self.bad.iter().any(|bad| bad.start < range.end && range.start < bad.end) {
            return Err(DiskError::Device { action: "read", offset, reason: "on demand".to_owned() });
        }
        into.copy_from_slice(&self.octets[range.start..range.end]);
        #[cfg(test)]
        for at in self.slips.extract_if(.., |at| range.contains(at)) {
            into[at - range.start] ^= 1;
        }
        Ok(())
    }

    fn start_write(&mut self, offset: u64, buffer: AlignedBuffer) -> Result<(), DiskError> {
        self.write_now(offset, &buffer)?;
        self.finished = Some(buffer);
        Ok(())
    }

    fn finish_write(&mut self) -> Option<(AlignedBuffer, Result<(), DiskError>)> {
        let buffer = self.finished.take()?;
        #[cfg(test)]
        if self.failures > 0 {
            self.failures -= 1;
            let error = DiskError::Device { action: "write", offset: 0, reason: "on demand".to_owned() };
            return Some((buffer, Err(error)));
        }
        Some((buffer, Ok(())))
    }

    fn write_now(&mut self, offset: u64, buffer: &AlignedBuffer) -> Result<(), DiskError> {
        let range = self.range(offset, buffer.len())?;
        self.octets[range].copy_from_slice(buffer.as_slice());
        Ok(())
    }
}
