//! A disk in memory whose next write may fail, whose last write may turn out to be torn, and whose pages may be lost.

use sternpost_queue::{AlignedBuffer, Disk, DiskError, PAGE_OCTETS};

/// Writes are complete as soon as they are started.
pub(crate) struct VecDisk {
    pub(crate) octets: Vec<u8>,
    finished: Option<AlignedBuffer>,
    /// The next write fails, and so many of its octets arrive.
    pub(crate) fails_after: Option<usize>,
    failed: bool,
    /// Where the last write began, and what stood there before.
    overwritten: (usize, Vec<u8>),
    /// Where pages stand that cannot be read.
    unreadable: Vec<u64>,
}

const SECTOR_OCTETS: usize = 512;

impl VecDisk {
    pub(crate) fn new(octets: Vec<u8>) -> Self {
        Self {
            octets,
            finished: None,
            fails_after: None,
            failed: false,
            overwritten: (0, Vec::new()),
            unreadable: Vec::new(),
        }
    }

    /// A disk that does not read the pages at some offsets.
    pub(crate) fn without(octets: Vec<u8>, unreadable: Vec<u64>) -> Self {
        let mut disk = Self::new(octets);
        disk.unreadable = unreadable;
        disk
    }

    /// Of the last write only those sectors have arrived for which `arrived` says so.
    pub(crate) fn tear(&mut self, mut arrived: impl FnMut() -> bool) {
        let (start, before) = std::mem::take(&mut self.overwritten);
        for (sector, at) in before.chunks(SECTOR_OCTETS).zip((start..).step_by(SECTOR_OCTETS)) {
            if !arrived() {
                self.octets[at..at + sector.len()].copy_from_slice(sector);
            }
        }
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
        u32::try_from(SECTOR_OCTETS).unwrap()
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let range = self.range(offset, into.len())?;
        let (end, page) = (offset + into.len() as u64, PAGE_OCTETS as u64);
        if self.unreadable.iter().any(|lost| (offset.saturating_sub(page - 1)..end).contains(lost)) {
            return Err(DiskError::Device { action: "read", offset, reason: "on demand".to_owned() });
        }
        into.copy_from_slice(&self.octets[range]);
        Ok(())
    }

    fn start_write(&mut self, offset: u64, buffer: AlignedBuffer) -> Result<(), DiskError> {
        let range = self.range(offset, buffer.len())?;
        let fails_after = self.fails_after.take();
        self.failed = fails_after.is_some();
        let arrived = fails_after.unwrap_or(buffer.len()).min(buffer.len());
        self.overwritten = (range.start, self.octets[range.clone()].to_vec());
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
