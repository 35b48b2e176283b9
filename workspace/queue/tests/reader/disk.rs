//! A disk in memory whose next write may fail, and what of that write arrives all the same.

use sternpost_queue::{AlignedBuffer, Disk, DiskError};

/// Writes are complete as soon as they are started.
pub(crate) struct VecDisk {
    pub(crate) octets: Vec<u8>,
    finished: Option<AlignedBuffer>,
    /// The next write fails, and so many of its octets arrive.
    pub(crate) fails_after: Option<usize>,
    failed: bool,
}

impl VecDisk {
    pub(crate) fn new(octets: Vec<u8>) -> Self {
        Self { octets, finished: None, fails_after: None, failed: false }
    }

    fn range(&self, offset: u64, octets: usize) -> Result<std::ops::Range<usize>, DiskError> {
        let start = usize::try_from(offset).unwrap();
        let range = start..start + octets;
        if range.end <= self.octets.len() { Ok(range) } else { Err(DiskError::Range { offset, octets }) }
    }
}

impl Disk for VecDisk {
    fn octets(&self) -> u64 {
        self.octets.len() as u64
    }

    fn block_octets(&self) -> u32 {
        512
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        into.copy_from_slice(&self.octets[self.range(offset, into.len())?]);
        Ok(())
    }

    fn start_write(&mut self, offset: u64, buffer: AlignedBuffer) -> Result<(), DiskError> {
        let range = self.range(offset, buffer.len())?;
        let fails_after = self.fails_after.take();
        self.failed = fails_after.is_some();
        let arrived = fails_after.unwrap_or(buffer.len()).min(buffer.len());
        self.octets[range][..arrived].copy_from_slice(&buffer.as_slice()[..arrived]);
        self.finished = Some(buffer);
        Ok(())
    }

    fn finish_write(&mut self) -> Option<(AlignedBuffer, Result<(), DiskError>)> {
        let failure = DiskError::Device { action: "write", offset: 0, reason: "on demand".to_owned() };
        let result = if self.failed { Err(failure) } else { Ok(()) };
        self.finished.take().map(|buffer| (buffer, result))
    }

    fn write_now(&mut self, offset: u64, buffer: &AlignedBuffer) -> Result<(), DiskError> {
        let range = self.range(offset, buffer.len())?;
        self.octets[range].copy_from_slice(buffer.as_slice());
        Ok(())
    }
}
