//! Disks for the log: a file or block device, written durably by io_uring or by a thread with `RWF_DSYNC`.
//!
//! Owns the descriptor, its exclusive lock and the one write under way. Knows nothing of what is written.
//! Both ways write the same octets; which is faster depends on the device.

mod dsync;
mod file;
pub mod trial;
mod uring;

use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags};
use sternpost_queue::{AlignedBuffer, Disk, DiskError};

use dsync::DsyncDisk;
use file::LogFile;
use uring::UringDisk;

/// How durable writes are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskBackend {
    /// The same as `Dsync`, which is never far behind.
    Auto,
    /// A write linked to an `fdatasync` on a ring.
    IoUring,
    /// A thread that calls `pwritev2` with `RWF_DSYNC`.
    Dsync,
}

impl DiskBackend {
    /// As it is called in a bootstrap.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::IoUring => "io_uring",
            Self::Dsync => "dsync",
        }
    }
}

/// Why a log's disk was not opened.
#[derive(Debug, thiserror::Error)]
pub enum DiskOpenError {
    /// A step failed.
    #[error("cannot {step} {path}")]
    Step {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Another process holds the lock, or its last write has not ended yet.
    #[error("{} is in use by a switch or by another command; stop it, or wait for its end", .0.display())]
    Locked(PathBuf),
    /// Blank and too small for a new log, or its blocks are too large.
    #[error(
        "{path} has {octets} octets in blocks of {block}; {wanted} octets in blocks of at most 4096 are needed"
    )]
    Unfit {
        /// The device.
        path: PathBuf,
        /// Its size.
        octets: u64,
        /// Its physical block.
        block: u32,
        /// What was asked for.
        wanted: u64,
    },
    /// The ring was asked for and cannot be had.
    #[error("io_uring cannot be used")]
    Ring(#[source] io::Error),
}

enum Backend {
    Uring(Box<UringDisk>),
    Dsync(DsyncDisk),
}

/// The log's disk. Dropping it waits for the write under way, then gives up the lock.
pub struct LogDisk {
    backend: Backend,
}

/// Opens the disk at `path`, locks it and syncs what earlier writes left.
///
/// A regular file is made if it is not there, but never in `/dev`; an empty one is grown to `octets` (its blocks are
/// allocated, not yet written), and one that is blank must have as many. A device, and what is not blank, is opened as
/// large as it is: a log knows its own geometry. Zero octets: as large as it is.
///
/// # Errors
/// `DiskOpenError` names the step; `Locked` is worth another try in a moment.
pub fn open_log_disk(path: &Path, backend: DiskBackend, octets: u64) -> Result<LogDisk, DiskOpenError> {
    let file = LogFile::open(path, octets)?;
    let backend = match backend {
        DiskBackend::IoUring => Backend::Uring(Box::new(UringDisk::new(file).map_err(DiskOpenError::Ring)?)),
        DiskBackend::Auto | DiskBackend::Dsync => {
            let failed = |source| step_error("start the writer of", path, source);
            Backend::Dsync(DsyncDisk::new(file).map_err(failed)?)
        }
    };
    Ok(LogDisk { backend })
}

impl LogDisk {
    /// Becomes readable when the write under way has ended; `finish_write` makes it unreadable again. Fit for
    /// `tokio::io::unix::AsyncFd`.
    pub fn readiness(&self) -> BorrowedFd<'_> {
        match &self.backend {
            Backend::Uring(disk) => disk.readiness(),
            Backend::Dsync(disk) => disk.readiness(),
        }
    }

    /// Waits until the write under way has ended, for whoever has nothing else to do. Only while one is.
    ///
    /// # Errors
    /// Those of `poll`.
    pub fn wait(&self) -> io::Result<()> {
        let readiness = self.readiness();
        loop {
            match rustix::event::poll(&mut [PollFd::new(&readiness, PollFlags::IN)], None) {
                Err(rustix::io::Errno::INTR) => {}
                other => return Ok(other.map(drop)?),
            }
        }
    }

    /// How it writes: never `Auto`.
    pub const fn backend(&self) -> DiskBackend {
        match &self.backend {
            Backend::Uring(_) => DiskBackend::IoUring,
            Backend::Dsync(_) => DiskBackend::Dsync,
        }
    }

    /// Tells the ring of memory that will be written from, where there is a ring. Memory that it was not told of is
    /// written all the same, a little slower.
    pub fn register(&mut self, buffers: &[AlignedBuffer]) {
        if let Backend::Uring(disk) = &mut self.backend {
            disk.register_all(buffers);
        }
    }

    /// What is slower than it could be, in sentences: no O_DIRECT, no registered memory.
    pub fn remarks(&self) -> Vec<String> {
        let mut remarks = self.file().remarks.clone();
        if let Backend::Uring(disk) = &self.backend {
            remarks.extend(disk.remark.clone());
        }
        remarks
    }

    /// Whether it is a block device, not a file.
    pub fn is_block_device(&self) -> bool {
        self.file().is_device
    }

    /// Whether the head says that there never was a log: it has the mark of a blank device, or is a file's and zero (FORMAT.md). A
    /// damaged log is not blank.
    ///
    /// # Errors
    /// What the device said.
    pub fn is_blank(&self) -> Result<bool, DiskError> {
        self.file().is_blank()
    }

    /// Overwrites everything with zeroes, 4 MiB at a time, so that later writes change no file-system metadata. For
    /// a fresh disk, before a log is made on it. `progress` gets octets done and in total, and ends the work by
    /// returning false.
    ///
    /// # Errors
    /// What the device said.
    pub fn zero(&mut self, progress: &mut dyn FnMut(u64, u64) -> bool) -> Result<(), DiskError> {
        const STEP_OCTETS: usize = 4 << 20;
        let mut zeroes = AlignedBuffer::with_capacity(STEP_OCTETS);
        let total = self.octets() / 4096 * 4096;
        let mut done = 0;
        while done < total {
            let step = usize::try_from(total - done).unwrap_or(STEP_OCTETS).min(STEP_OCTETS);
            zeroes.resize(step).map_err(|_| DiskError::Range { offset: done, octets: step })?;
            self.write_now(done, &zeroes)?;
            done += step as u64;
            if !progress(done, total) {
                break;
            }
        }
        Ok(())
    }

    fn file(&self) -> &LogFile {
        match &self.backend {
            Backend::Uring(disk) => disk.file(),
            Backend::Dsync(disk) => disk.file(),
        }
    }
}

impl Disk for LogDisk {
    fn octets(&self) -> u64 {
        self.file().octets
    }

    fn block_octets(&self) -> u32 {
        self.file().block_octets
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        self.file().read(offset, into)
    }

    fn start_write(&mut self, offset: u64, buffer: AlignedBuffer) -> Result<(), DiskError> {
        self.file().check_write(offset, &buffer)?;
        match &mut self.backend {
            Backend::Uring(disk) => disk.start_write(offset, buffer),
            Backend::Dsync(disk) => disk.start_write(offset, buffer),
        }
    }

    fn finish_write(&mut self) -> Option<(AlignedBuffer, Result<(), DiskError>)> {
        match &mut self.backend {
            Backend::Uring(disk) => disk.finish_write(),
            Backend::Dsync(disk) => disk.finish_write(),
        }
    }

    fn write_now(&mut self, offset: u64, buffer: &AlignedBuffer) -> Result<(), DiskError> {
        let busy = match &self.backend {
            Backend::Uring(disk) => disk.is_busy(),
            Backend::Dsync(disk) => disk.is_busy(),
        };
        if busy {
            return Err(DiskError::Busy);
        }
        self.file().write(offset, buffer)
    }
}

fn step_error(step: &'static str, path: &Path, source: io::Error) -> DiskOpenError {
    DiskOpenError::Step { step, path: path.to_owned(), source }
}

fn device_error(action: &'static str, offset: u64, reason: &dyn std::fmt::Display) -> DiskError {
    DiskError::Device { action, offset, reason: reason.to_string() }
}

/// Makes a readiness descriptor unreadable again.
fn drain(readiness: BorrowedFd<'_>) {
    // An error means that it was not readable, which is what is wanted.
    let _ = rustix::io::read(readiness, &mut [0; 8]);
}

#[cfg(test)]
mod tests;
