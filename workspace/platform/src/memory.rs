//! Shared memory: sealed memory that carries a whole value to another process, and content windows through which
//! the store shows content to a channel that can read but never write it.

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;

/// The largest set of entries that QMGR takes: 32 MiB, or 335 octets for each of 100,000 entries.
pub const ENTRIES_OCTETS_MAX: u64 = 32 << 20;

/// The largest view of the configuration that a role takes: 32 MiB, as much as the set that it is made of.
pub const VIEW_OCTETS_MAX: u64 = 32 << 20;

/// The largest details of one message that a channel takes: 16 MiB.
pub const DETAIL_OCTETS_MAX: u64 = 16 << 20;

/// The largest answer that a command takes: 256 MiB, for the configuration in force as JSON.
pub const ANSWER_OCTETS_MAX: u64 = 256 << 20;

/// Puts `octets` into memory that nobody can change any more.
///
/// # Errors
/// Those of `memfd_create` and `write`.
pub fn seal(octets: &[u8]) -> io::Result<OwnedFd> {
    let memory =
        rustix::fs::memfd_create("sternpost-sealed", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let file = File::from(memory);
    file.write_all_at(octets, 0)?;
    let memory = OwnedFd::from(file);
    rustix::fs::fcntl_add_seals(
        &memory,
        SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
    )?;
    Ok(memory)
}

/// Reads what [`seal`] was given, up to the bound for what it is.
///
/// # Errors
/// `InvalidData` when the memory is not sealed or larger than `octets_max`; then nothing was read.
pub fn unseal(memory: OwnedFd, octets_max: u64) -> io::Result<Vec<u8>> {
    let invalid = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text);
    let seals = rustix::fs::fcntl_get_seals(&memory)?;
    if !seals.contains(SealFlags::WRITE | SealFlags::SHRINK) {
        return Err(invalid("shared memory that its sender could still change"));
    }
    let file = File::from(memory);
    let octets = file.metadata()?.len();
    if octets > octets_max {
        return Err(invalid(&format!("shared memory of {octets} octets, more than {octets_max}")));
    }
    let mut value =
        vec![0; usize::try_from(octets).map_err(|_| invalid("shared memory larger than this machine"))?];
    file.read_exact_at(&mut value, 0)?;
    Ok(value)
}

/// A mapping of shared memory that lasts as long as this value.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    octets: usize,
}

impl Mapping {
    fn new(memory: BorrowedFd<'_>, octets: usize, protection: ProtFlags) -> io::Result<Self> {
        // SAFETY: the kernel chooses the address, so no existing mapping is replaced; `Drop` unmaps it once.
        let start = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), octets, protection, MapFlags::SHARED, memory, 0)
        }?;
        NonNull::new(start.cast())
            .map(|start| Self { start, octets })
            .ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `new` mapped exactly this range, and no slice of it outlives its window (they borrow it).
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.octets) };
    }
}

/// The store's end of a content window: cells of equal size that it fills while they are its own.
#[derive(Debug)]
pub struct WindowWriter {
    mapping: Mapping,
    cell_octets: usize,
    memory: OwnedFd,
}

impl WindowWriter {
    /// Makes a window of `cells_count` cells. A cell costs memory from its first use on, and only as far as it was
    /// filled.
    ///
    /// # Errors
    /// Those of `memfd_create`, `ftruncate`, `mmap` and `fcntl`.
    pub fn new(cells_count: u16, cell_octets: usize) -> io::Result<Self> {
        let memory =
            rustix::fs::memfd_create("sternpost-content", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        let octets = usize::from(cells_count) * cell_octets;
        rustix::fs::ftruncate(&memory, octets as u64)?;
        let mapping = Mapping::new(memory.as_fd(), octets, ProtFlags::READ | ProtFlags::WRITE)?;
        // From here on nobody can make another writable mapping, and nobody can shrink the memory under a reader.
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&memory, seals)?;
        Ok(Self { mapping, cell_octets, memory })
    }

    /// A descriptor for the reader.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn share(&self) -> io::Result<OwnedFd> {
        self.memory.try_clone()
    }

    /// The octets of one cell; none when there is no such cell.
    pub fn cell(&mut self, cell: u16) -> Option<&mut [u8]> {
        let start = usize::from(cell) * self.cell_octets;
        if start + self.cell_octets > self.mapping.octets {
            return None;
        }
        // SAFETY: the range lies in the mapping (checked above), which lives as long as `self`, and `&mut self` keeps
        // this process from a second reference. The reader's process looks at a cell only between the store's
        // `Content` and its own `Release` (PROTOCOL.md), and the store writes it only outside that time.
        Some(unsafe {
            std::slice::from_raw_parts_mut(self.mapping.start.add(start).as_ptr(), self.cell_octets)
        })
    }
}

/// The channel's end of a content window.
#[derive(Debug)]
pub struct WindowReader {
    mapping: Mapping,
    cell_octets: usize,
}

impl WindowReader {
    /// Maps the window that came from the store.
    ///
    /// # Errors
    /// `InvalidData` when the memory could shrink, could be written by others, or is smaller than it should be.
    pub fn new(memory: &OwnedFd, cells_count: u16, cell_octets: usize) -> io::Result<Self> {
        let seals = rustix::fs::fcntl_get_seals(memory)?;
        let octets = usize::from(cells_count) * cell_octets;
        if !seals.contains(SealFlags::SHRINK | SealFlags::FUTURE_WRITE)
            || rustix::fs::fstat(memory)?.st_size != i64::try_from(octets).unwrap_or(-1)
            || octets == 0
        {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a content window that is not sealed as it must be",
            ));
        }
        Ok(Self { mapping: Mapping::new(memory.as_fd(), octets, ProtFlags::READ)?, cell_octets })
    }

    /// The first `octets` of a cell that the store has filled and that was not released since; none when there is no
    /// such cell or it is shorter.
    #[must_use]
    pub fn cell(&self, cell: u16, octets: usize) -> Option<&[u8]> {
        let start = usize::from(cell) * self.cell_octets;
        if octets > self.cell_octets || start + self.cell_octets > self.mapping.octets {
            return None;
        }
        // SAFETY: the range lies in the mapping (checked above), which cannot shrink (seal) and lives as long as
        // `self`; the store leaves the cell alone until it is released, see `WindowWriter::cell`.
        Some(unsafe { std::slice::from_raw_parts(self.mapping.start.add(start).as_ptr(), octets) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_memory_gives_back_what_it_was_given() {
        assert_eq!(unseal(seal(b"a configuration").unwrap(), 15).unwrap(), b"a configuration");
        assert_eq!(unseal(seal(b"").unwrap(), 0).unwrap(), b"");
    }

    #[test]
    fn memory_beyond_the_bound_of_its_reader_is_refused() {
        let error = unseal(seal(b"a configuration").unwrap(), 14).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(error.to_string(), "shared memory of 15 octets, more than 14");
    }

    #[test]
    fn memory_that_could_still_change_is_refused() {
        let memory =
            rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        assert_eq!(unseal(memory, 0).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_reader_sees_what_the_writer_put_into_a_cell_and_cannot_write() {
        let mut writer = WindowWriter::new(4, 65_536).unwrap();
        writer.cell(3).unwrap()[..5].copy_from_slice(b"hello");
        let shared = writer.share().unwrap();
        let reader = WindowReader::new(&shared, 4, 65_536).unwrap();
        assert_eq!(reader.cell(3, 5).unwrap(), b"hello");
        assert!(reader.cell(4, 1).is_none() && writer.cell(4).is_none());
        assert!(File::from(shared).write_at(b"x", 0).is_err());
    }
}
