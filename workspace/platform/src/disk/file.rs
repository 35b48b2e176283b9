//! The descriptor below both ways of writing: opening, locking, reading, and writing at once.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{FallocateFlags, FlockOperation, Mode, OFlags};
use rustix::io::{Errno, ReadWriteFlags};
use sternpost_queue::{AlignedBuffer, DiskError, PAGE_OCTETS};

use super::{DiskOpenError, device_error};

/// The most that is read through a bounce buffer at once.
const BOUNCE_OCTETS: usize = 1 << 20;

/// An open, locked, synced file or device.
pub(super) struct LogFile {
    file: File,
    pub(super) octets: u64,
    pub(super) block_octets: u32,
    /// O_DIRECT: memory, offset and length of each transfer are aligned.
    direct: bool,
    pub(super) remarks: Vec<String>,
}

impl LogFile {
    pub(super) fn open(path: &Path, octets: u64) -> Result<Self, DiskOpenError> {
        let failed =
            |step| move |source: io::Error| DiskOpenError::Step { step, path: path.to_owned(), source };
        let errno = |step| move |source: Errno| failed(step)(source.into());
        let mut remarks = Vec::new();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let (descriptor, direct) = match rustix::fs::open(path, flags | OFlags::DIRECT, mode) {
            Ok(descriptor) => (descriptor, true),
            Err(Errno::INVAL) => {
                remarks
                    .push(format!("{} is written through the page cache: no O_DIRECT there", path.display()));
                (rustix::fs::open(path, flags, mode).map_err(errno("open"))?, false)
            }
            Err(error) => return Err(errno("open")(error)),
        };
        match rustix::fs::flock(&descriptor, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(DiskOpenError::Locked(path.to_owned())),
            Err(error) => return Err(errno("lock")(error)),
        }
        let file = File::from(descriptor);
        let metadata = file.metadata().map_err(failed("look at"))?;
        let mut block_octets = 512;
        let mut size = metadata.len();
        if metadata.is_file() {
            if size < octets {
                grow(&file, octets, &mut remarks).map_err(failed("grow"))?;
                size = octets;
            }
        } else {
            size = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0)).map_err(errno("measure"))?;
            block_octets = rustix::fs::ioctl_blkpbszget(&file).map_err(errno("measure the blocks of"))?;
        }
        let blocks_fit =
            block_octets != 0 && u32::try_from(PAGE_OCTETS).is_ok_and(|page| page % block_octets == 0);
        if size < octets || !blocks_fit {
            let path = path.to_owned();
            return Err(DiskOpenError::Unfit { path, octets: size, block: block_octets, wanted: octets });
        }
        // FORMAT.md, rule 6: what can be read from here on stays.
        file.sync_all().map_err(failed("sync"))?;
        Ok(Self { file, octets: size, block_octets, direct, remarks })
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Whether a buffer may be written at `offset`.
    pub(super) fn check_write(&self, offset: u64, buffer: &AlignedBuffer) -> Result<(), DiskError> {
        let octets = buffer.len();
        let is_aligned = offset.is_multiple_of(PAGE_OCTETS as u64) && octets.is_multiple_of(PAGE_OCTETS);
        let fits = offset.checked_add(octets as u64).is_some_and(|end| end <= self.octets);
        if is_aligned && fits && octets != 0 { Ok(()) } else { Err(DiskError::Range { offset, octets }) }
    }

    /// Writes durably, and waits.
    pub(super) fn write(&self, offset: u64, buffer: &AlignedBuffer) -> Result<(), DiskError> {
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            let rest = [IoSlice::new(&buffer.as_slice()[done..])];
            match rustix::io::pwritev2(&self.file, &rest, at, ReadWriteFlags::DSYNC) {
                Ok(0) => return Err(device_error("write", at, &"nothing was written")),
                // The part that was written is durable; the log treats the write as one.
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(error) => return Err(device_error("write", at, &error)),
            }
        }
        Ok(())
    }

    pub(super) fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let range = DiskError::Range { offset, octets: into.len() };
        if offset.checked_add(into.len() as u64).is_none_or(|end| end > self.octets) {
            return Err(range);
        }
        let page = PAGE_OCTETS as u64;
        let is_aligned = into.as_ptr().addr().is_multiple_of(PAGE_OCTETS)
            && into.len().is_multiple_of(PAGE_OCTETS)
            && offset.is_multiple_of(page);
        if is_aligned || !self.direct {
            return self.read_exact(offset, into);
        }
        let mut bounce = AlignedBuffer::with_capacity((into.len() + 2 * PAGE_OCTETS).min(BOUNCE_OCTETS));
        let mut done = 0;
        while done < into.len() {
            let at = offset + done as u64;
            let start = at / page * page;
            let skip = usize::try_from(at - start).unwrap_or_default();
            // The last page of a file may be cut short: its length need not be a multiple of a page.
            let wanted = (skip + into.len() - done).next_multiple_of(PAGE_OCTETS).min(bounce.capacity());
            bounce.resize(wanted).map_err(|_| range.clone())?;
            let got = self.read_some(start, bounce.as_mut_slice())?;
            let count = got.saturating_sub(skip).min(into.len() - done);
            if count == 0 {
                return Err(device_error("read", at, &"the file ends there"));
            }
            into[done..done + count].copy_from_slice(&bounce.as_slice()[skip..skip + count]);
            done += count;
        }
        Ok(())
    }

    fn read_exact(&self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let mut done = 0;
        while done < into.len() {
            let at = offset + done as u64;
            match self.read_some(at, &mut into[done..])? {
                0 => return Err(device_error("read", at, &"the file ends there")),
                count => done += count,
            }
        }
        Ok(())
    }

    fn read_some(&self, offset: u64, into: &mut [u8]) -> Result<usize, DiskError> {
        loop {
            match rustix::io::pread(&self.file, &mut *into, offset) {
                Ok(count) => return Ok(count),
                Err(Errno::INTR) => {}
                Err(error) => return Err(device_error("read", offset, &error)),
            }
        }
    }
}

/// Allocates blocks, so that the file system cannot run out of them later; where that is not known, only the length.
fn grow(file: &File, octets: u64, remarks: &mut Vec<String>) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, octets) {
        Err(Errno::OPNOTSUPP) => {
            remarks.push("the file system does not reserve blocks: it may run full under the log".to_owned());
            file.set_len(octets)
        }
        other => Ok(other?),
    }
}
