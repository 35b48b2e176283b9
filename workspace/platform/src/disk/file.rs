//! The descriptor below both ways of writing: opening, locking, reading, and writing at once.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FallocateFlags, FlockOperation, Mode, OFlags};
use rustix::io::{Errno, ReadWriteFlags};
use sternpost_queue::{AlignedBuffer, DiskError, HEAD_OCTETS, PAGE_OCTETS, is_blank_head, is_marked_head};

use super::{DiskOpenError, device_error, step_error};

/// The most that is read through a bounce buffer at once.
const BOUNCE_OCTETS: usize = 1 << 20;

const NO_SUCH_DEVICE: &str = "there is no such device; look at lsblk and correct [queue] path";
const FILE_BELOW_DEV: &str =
    "it is no device but a file in memory; remove it, look at lsblk and correct [queue] path";

/// An open, locked, synced file or device.
pub(super) struct LogFile {
    file: File,
    pub(super) octets: u64,
    pub(super) block_octets: u32,
    /// A block device, not a file.
    pub(super) is_device: bool,
    /// Where writing may begin: behind the log, for a trial.
    writable_from: u64,
    /// O_DIRECT: memory, offset and length of each transfer are aligned.
    pub(super) direct: bool,
    pub(super) remarks: Vec<String>,
}

impl LogFile {
    pub(super) fn open(path: &Path, octets: u64) -> Result<Self, DiskOpenError> {
        let failed = |step| move |source: io::Error| step_error(step, path, source);
        let errno = |step| move |source: Errno| failed(step)(source.into());
        let mut remarks = Vec::new();
        let (descriptor, direct) = open_descriptor(path, &mut remarks).map_err(failed("open"))?;
        match rustix::fs::flock(&descriptor, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(DiskOpenError::Locked(path.to_owned())),
            Err(error) => return Err(errno("lock")(error)),
        }
        let mut log = Self::measured(descriptor, path, direct, remarks)?;
        if !log.is_device && is_below_dev(path) {
            return Err(failed("open")(io::Error::new(io::ErrorKind::InvalidInput, FILE_BELOW_DEV)));
        }
        if !log.is_device && log.octets == 0 {
            grow(&log.file, octets, &mut log.remarks).map_err(failed("grow"))?;
            log.octets = octets;
        }
        // FORMAT.md, rule 6: what can be read from here on stays.
        log.file.sync_all().map_err(failed("sync"))?;
        let read_error = |error: DiskError| failed("read")(io::Error::other(error));
        if !log.is_device && log.octets < octets && log.is_blank().map_err(read_error)? {
            return Err(log.unfit(path, octets));
        }
        Ok(log)
    }

    /// Opens a device for a trial: unlocked, so that the store's lock is never in the way, and to be read alone until
    /// [`Self::write_behind`] says from where on it may be written.
    pub(super) fn open_for_trial(path: &Path) -> Result<Self, DiskOpenError> {
        let mut remarks = Vec::new();
        let (descriptor, direct) =
            open_descriptor(path, &mut remarks).map_err(|source| step_error("open", path, source))?;
        let log = Self::measured(descriptor, path, direct, remarks)?;
        Ok(Self { writable_from: log.octets, ..log })
    }

    /// Makes a file of `octets` that has no name and is gone with its descriptor, in the folder of `path`.
    pub(super) fn scratch_beside(path: &Path, octets: u64) -> Result<Self, DiskOpenError> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut remarks = Vec::new();
        let (descriptor, direct) = open_nameless(folder, &mut remarks)
            .map_err(|source| step_error("make a scratch file in", folder, source))?;
        let mut file = Self::measured(descriptor, folder, direct, remarks)?;
        grow(&file.file, octets, &mut file.remarks)
            .map_err(|source| step_error("make room for a scratch file in", folder, source))?;
        file.octets = octets;
        Ok(file)
    }

    fn measured(
        descriptor: OwnedFd,
        path: &Path,
        direct: bool,
        remarks: Vec<String>,
    ) -> Result<Self, DiskOpenError> {
        let errno = |step| move |source: Errno| step_error(step, path, source.into());
        let file = File::from(descriptor);
        let metadata = file.metadata().map_err(|source| step_error("look at", path, source))?;
        let is_device = !metadata.is_file();
        let (mut octets, mut block_octets) = (metadata.len(), 512);
        if is_device {
            octets = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0)).map_err(errno("measure"))?;
            block_octets = rustix::fs::ioctl_blkpbszget(&file).map_err(errno("measure the blocks of"))?;
        }
        let log = Self { file, octets, block_octets, is_device, writable_from: 0, direct, remarks };
        if block_octets == 0 || u32::try_from(PAGE_OCTETS).is_ok_and(|page| page % block_octets != 0) {
            return Err(log.unfit(path, octets));
        }
        Ok(log)
    }

    fn unfit(&self, path: &Path, wanted: u64) -> DiskOpenError {
        DiskOpenError::Unfit { path: path.to_owned(), octets: self.octets, block: self.block_octets, wanted }
    }

    /// The same disk once more, to be written behind `offset` alone.
    pub(super) fn write_behind(&self, offset: u64) -> io::Result<Self> {
        let file = self.file.try_clone()?;
        let remarks = self.remarks.clone();
        let Self { octets, block_octets, is_device, direct, .. } = *self;
        Ok(Self { file, octets, block_octets, is_device, writable_from: offset, direct, remarks })
    }

    /// The same disk once more through the page cache, to be written behind `offset` alone. None where it is written so
    /// anyhow.
    pub(super) fn buffered_behind(&self, offset: u64) -> io::Result<Option<Self>> {
        if !self.direct {
            return Ok(None);
        }
        // A clone shares the flags of its descriptor, and a nameless file has no other name than this one.
        let name = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let file = File::from(rustix::fs::open(name, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?);
        Ok(Some(Self { file, direct: false, ..self.write_behind(offset)? }))
    }

    /// Whether the octets in which a log tells what it is say that there never was one. A device must say it in words.
    pub(super) fn is_blank(&self) -> Result<bool, DiskError> {
        let mut head = vec![0; usize::try_from(self.octets.min(HEAD_OCTETS)).unwrap_or_default()];
        self.read(0, &mut head)?;
        Ok(if self.is_device { is_marked_head(&head) } else { is_blank_head(&head) })
    }

    /// Whether another process holds the lock of the log.
    pub(super) fn is_locked(&self) -> bool {
        is_locked(&self.file)
    }

    pub(super) fn metadata(&self) -> io::Result<std::fs::Metadata> {
        self.file.metadata()
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Whether a buffer may be written at `offset`.
    pub(super) fn check_write(&self, offset: u64, buffer: &AlignedBuffer) -> Result<(), DiskError> {
        let octets = buffer.len();
        let is_aligned = offset.is_multiple_of(PAGE_OCTETS as u64) && octets.is_multiple_of(PAGE_OCTETS);
        let fits = offset >= self.writable_from
            && offset.checked_add(octets as u64).is_some_and(|end| end <= self.octets);
        if is_aligned && fits && octets != 0 { Ok(()) } else { Err(DiskError::Range { offset, octets }) }
    }

    /// Writes durably, and waits.
    pub(super) fn write(&self, offset: u64, buffer: &AlignedBuffer) -> Result<(), DiskError> {
        self.write_with(offset, buffer, ReadWriteFlags::DSYNC)
    }

    /// Writes, and waits, but not until it is durable.
    pub(super) fn write_unsynced(&self, offset: u64, buffer: &AlignedBuffer) -> Result<(), DiskError> {
        self.write_with(offset, buffer, ReadWriteFlags::empty())
    }

    /// Makes durable what was written.
    pub(super) fn sync_data(&self) -> Result<(), DiskError> {
        self.file.sync_data().map_err(|error| device_error("sync", 0, &error))
    }

    fn write_with(
        &self,
        offset: u64,
        buffer: &AlignedBuffer,
        flags: ReadWriteFlags,
    ) -> Result<(), DiskError> {
        self.check_write(offset, buffer)?;
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            let rest = [IoSlice::new(&buffer.as_slice()[done..])];
            match rustix::io::pwritev2(&self.file, &rest, at, flags) {
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

/// Opens for reading and writing, without the page cache where that is possible: whether it is comes second.
fn open_descriptor(path: &Path, remarks: &mut Vec<String>) -> io::Result<(OwnedFd, bool)> {
    let below_dev = is_below_dev(path);
    // A file that is made in /dev stands in memory: what is accepted there is lost with the power.
    let create = if below_dev { OFlags::empty() } else { OFlags::CREATE };
    let flags = OFlags::RDWR | OFlags::CLOEXEC | create;
    let mode = Mode::RUSR | Mode::WUSR;
    match rustix::fs::open(path, flags | OFlags::DIRECT, mode) {
        Ok(descriptor) => Ok((descriptor, true)),
        Err(Errno::INVAL) => {
            remarks.push(format!("{} is written through the page cache: no O_DIRECT there", path.display()));
            Ok((rustix::fs::open(path, flags, mode)?, false))
        }
        Err(Errno::NOENT) if below_dev => Err(io::Error::new(io::ErrorKind::NotFound, NO_SUCH_DEVICE)),
        Err(error) => Err(error.into()),
    }
}

/// Whether another process holds the lock of a log. It is taken for an instant if nobody does.
pub(super) fn is_locked(log: &File) -> bool {
    let locked = rustix::fs::flock(log, FlockOperation::NonBlockingLockShared);
    if locked.is_ok() {
        // The descriptor's end gives the lock up too.
        let _ = rustix::fs::flock(log, FlockOperation::Unlock);
    }
    locked == Err(Errno::WOULDBLOCK)
}

/// A file without a name (O_TMPFILE), without the page cache where that is possible.
fn open_nameless(folder: &Path, remarks: &mut Vec<String>) -> io::Result<(OwnedFd, bool)> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::TMPFILE;
    let mode = Mode::RUSR | Mode::WUSR;
    match rustix::fs::open(folder, flags | OFlags::DIRECT, mode) {
        Ok(descriptor) => Ok((descriptor, true)),
        Err(Errno::INVAL) => {
            remarks
                .push(format!("{} is written through the page cache: no O_DIRECT there", folder.display()));
            Ok((rustix::fs::open(folder, flags, mode)?, false))
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether a path, or the place to which it is a link, belongs to a device.
fn is_below_dev(path: &Path) -> bool {
    path.starts_with("/dev") || std::fs::read_link(path).is_ok_and(|target| target.starts_with("/dev"))
}

/// Allocates blocks, so that the file system cannot run out of them later; where that is not known, only the length.
///
/// The length changes last and at once: a file whose growth was cut short still has none, and is grown the next time.
fn grow(file: &File, octets: u64, remarks: &mut Vec<String>) -> io::Result<()> {
    if octets == 0 {
        return Ok(());
    }
    match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, octets) {
        Ok(()) => {}
        Err(Errno::OPNOTSUPP) => {
            remarks.push("the file system does not reserve blocks: it may run full under the log".to_owned());
        }
        Err(error) => {
            // Gives back what was allocated. If that fails too, the first error tells more.
            let _ = file.set_len(0);
            return Err(error.into());
        }
    }
    file.set_len(octets)
}
