//! Durable writes for measuring, where they harm no mail: behind the log on a device, in a scratch file beside a file.
//!
//! Never writes in the log, and holds no lock that a store needs: the switch may run. What is measured and what follows
//! from it is the self test's matter.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use sternpost_queue::{AlignedBuffer, Disk, DiskError, Geometry, OpenError, geometry};

use super::dsync::DsyncDisk;
use super::file::LogFile;
use super::uring::UringDisk;
use super::{Backend, DiskOpenError, LogDisk, device_error, step_error};

/// The most that a trial writes over: larger than any cache of a file system's metadata, small enough to be prepared
/// in a moment.
const PLACE_OCTETS_MAX: u64 = 8 << 20;
/// One step of preparing it.
const PREPARE_STEP_OCTETS: usize = 256 << 10;

/// How a trial writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// As the log with [`super::DiskBackend::IoUring`].
    IoUring,
    /// As the log with [`super::DiskBackend::Dsync`].
    Dsync,
    /// A write, then `fdatasync`: how a program without either would do it.
    Fdatasync,
    /// The same through the page cache, without O_DIRECT.
    Buffered,
    /// A write that is not made durable: what a flush adds is the difference.
    Unsynced,
}

/// Why nothing can be measured.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// A step failed.
    #[error("nothing can be measured")]
    Open(#[from] DiskOpenError),
    /// Neither a log nor blank.
    #[error("{} cannot be measured on", path.display())]
    Foreign {
        /// The device.
        path: PathBuf,
        /// What it is not.
        source: OpenError,
    },
    /// The log has the whole device.
    #[error(
        "the log takes the whole device {}: there is no trial region behind it to measure in. A log that is made without \
         [queue] segments in the bootstrap leaves one",
        path.display()
    )]
    NoRegion {
        /// The device.
        path: PathBuf,
    },
}

/// Where a trial writes.
pub struct TrialPlace {
    file: LogFile,
    begin: u64,
    octets: u64,
    is_in_use: bool,
    cache: Option<WriteCache>,
    path: PathBuf,
}

/// What the device says of the cache behind its writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteCache {
    /// It needs flushes.
    WriteBack,
    /// It says that a finished write is durable without a flush.
    WriteThrough,
}

impl TrialPlace {
    /// Finds the trial region of the device at `path`, or makes a scratch file in the folder of a file. `planned` is the
    /// geometry of the log that will be made on a blank device; none: the one that fills it.
    ///
    /// # Errors
    /// `TrialError`; nothing was written then.
    pub fn open(path: &Path, planned: Option<Geometry>) -> Result<Self, TrialError> {
        let is_device = std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device());
        if is_device { Self::behind_log(path, planned) } else { Self::beside_log(path) }
    }

    fn behind_log(path: &Path, planned: Option<Geometry>) -> Result<Self, TrialError> {
        let file = LogFile::open_for_trial(path)?;
        let is_in_use = file.is_locked();
        let failed = |source| step_error("read", path, source);
        let again = || file.write_behind(file.octets).map_err(failed);
        let is_blank = file.is_blank().map_err(|error| failed(io::Error::other(error)))?;
        let log = if is_blank {
            planned.or_else(|| Geometry::filling(file.octets, None))
        } else {
            let mut disk = LogDisk { backend: Backend::Dsync(DsyncDisk::new(again()?).map_err(failed)?) };
            let found = geometry(&mut disk);
            Some(found.map_err(|source| TrialError::Foreign { path: path.to_owned(), source })?)
        };
        let region = log.and_then(|log| log.trial_region(file.octets));
        let (begin, octets) = region.ok_or_else(|| TrialError::NoRegion { path: path.to_owned() })?;
        let octets = octets.min(PLACE_OCTETS_MAX);
        let cache = write_cache(std::fs::metadata(path).map(|metadata| metadata.rdev()));
        Ok(Self { file, begin, octets, is_in_use, cache, path: path.to_owned() })
    }

    fn beside_log(path: &Path) -> Result<Self, TrialError> {
        let is_in_use = File::open(path).is_ok_and(|log| super::file::is_locked(&log));
        let file = LogFile::scratch_beside(path, PLACE_OCTETS_MAX)?;
        let cache = write_cache(file.metadata().map(|metadata| metadata.dev()));
        Ok(Self { file, begin: 0, octets: PLACE_OCTETS_MAX, is_in_use, cache, path: path.to_owned() })
    }

    /// Whether a store works on the log: then the figures are what is left beside it.
    #[must_use]
    pub const fn is_in_use(&self) -> bool {
        self.is_in_use
    }

    /// Whether it is the trial region of a device, not a scratch file.
    #[must_use]
    pub const fn is_device(&self) -> bool {
        self.file.is_device
    }

    /// Whether it is written past the page cache; else every method goes through it.
    #[must_use]
    pub const fn is_direct(&self) -> bool {
        self.file.direct
    }

    /// Octets that may be written over.
    #[must_use]
    pub const fn octets(&self) -> u64 {
        self.octets
    }

    /// What the device says of its cache, where it says so.
    #[must_use]
    pub const fn cache(&self) -> Option<WriteCache> {
        self.cache
    }

    /// What is slower than it could be, in sentences.
    #[must_use]
    pub fn remarks(&self) -> &[String] {
        &self.file.remarks
    }

    /// Writes everything once, so that what is measured changes no metadata of a file system or of a thin device; ends
    /// early after `time_max`, and then the place is as large as what was written, at least 256 KiB.
    ///
    /// # Errors
    /// What the device said.
    pub fn prepare(&mut self, time_max: Duration) -> Result<(), DiskError> {
        let began = Instant::now();
        let file = self.writable()?;
        let step = self.octets.min(PREPARE_STEP_OCTETS as u64);
        let buffer = pattern(usize::try_from(step).unwrap_or(PREPARE_STEP_OCTETS));
        let mut done = 0;
        while done + step <= self.octets && (done == 0 || began.elapsed() < time_max) {
            file.write_unsynced(self.begin + done, &buffer)?;
            done += step;
        }
        self.octets = done;
        file.sync_data()
    }

    /// Opens it for one way of writing.
    ///
    /// # Errors
    /// `Ring` when the kernel gives none; `Step`, also for `Buffered` where every method goes through the page cache.
    pub fn disk(&self, method: Method) -> Result<TrialDisk, DiskOpenError> {
        let failed = |source| step_error("measure on", &self.path, source);
        let file = match method {
            Method::Buffered => self.file.buffered_behind(self.begin).and_then(|file| {
                file.ok_or_else(|| {
                    io::Error::new(io::ErrorKind::Unsupported, "every way goes through the page cache")
                })
            }),
            _ => self.file.write_behind(self.begin),
        }
        .map_err(failed)?;
        let writer = match method {
            Method::IoUring => Writer::Log(Box::new(LogDisk {
                backend: Backend::Uring(Box::new(UringDisk::new(file).map_err(DiskOpenError::Ring)?)),
            })),
            Method::Dsync => Writer::Log(Box::new(LogDisk {
                backend: Backend::Dsync(DsyncDisk::new(file).map_err(failed)?),
            })),
            Method::Fdatasync | Method::Buffered => Writer::Plain { file, syncs: true },
            Method::Unsynced => Writer::Plain { file, syncs: false },
        };
        Ok(TrialDisk { writer, begin: self.begin, octets: self.octets, next: 0 })
    }

    /// How long reading everything takes, 1 MiB at a time, past the page cache where that is possible.
    ///
    /// # Errors
    /// What the device said.
    pub fn time_reading(&self) -> Result<Duration, DiskError> {
        let step = self.octets.min(1 << 20);
        let mut buffer = pattern(usize::try_from(step).unwrap_or(PREPARE_STEP_OCTETS));
        let began = Instant::now();
        let mut done = 0;
        while done + step <= self.octets {
            self.file.read(self.begin + done, buffer.as_mut_slice())?;
            done += step;
        }
        Ok(began.elapsed())
    }

    fn writable(&self) -> Result<LogFile, DiskError> {
        self.file.write_behind(self.begin).map_err(|error| device_error("write", self.begin, &error))
    }
}

/// One way of writing on a place. Writes follow each other as in the log, and begin again at the end.
pub struct TrialDisk {
    writer: Writer,
    begin: u64,
    octets: u64,
    next: u64,
}

enum Writer {
    Log(Box<LogDisk>),
    Plain { file: LogFile, syncs: bool },
}

impl TrialDisk {
    /// Writes a buffer as large as a batch and gives it back with the time that this took.
    ///
    /// # Errors
    /// What the device said; `Range` when the place has no room for the buffer.
    pub fn write(&mut self, mut buffer: AlignedBuffer) -> Result<(AlignedBuffer, Duration), DiskError> {
        let octets = buffer.len() as u64;
        if octets > self.octets {
            return Err(DiskError::Range { offset: self.begin, octets: buffer.len() });
        }
        if self.next + octets > self.octets {
            self.next = 0;
        }
        let offset = self.begin + self.next;
        self.next += octets;
        let began = Instant::now();
        match &mut self.writer {
            Writer::Log(disk) => {
                disk.start_write(offset, buffer)?;
                buffer = finish(disk, offset)?;
            }
            Writer::Plain { file, syncs } => {
                file.write_unsynced(offset, &buffer)?;
                if *syncs {
                    file.sync_data()?;
                }
            }
        }
        Ok((buffer, began.elapsed()))
    }

    /// Tells a ring of the memory that will be written from, as the store does.
    pub fn register(&mut self, buffer: &AlignedBuffer) {
        if let Writer::Log(disk) = &mut self.writer {
            disk.register(std::slice::from_ref(buffer));
        }
    }

    /// What is slower than it could be, in sentences.
    #[must_use]
    pub fn remarks(&self) -> Vec<String> {
        match &self.writer {
            Writer::Log(disk) => disk.remarks(),
            Writer::Plain { .. } => Vec::new(),
        }
    }
}

fn finish(disk: &mut LogDisk, offset: u64) -> Result<AlignedBuffer, DiskError> {
    loop {
        if let Some((buffer, written)) = disk.finish_write() {
            return written.map(|()| buffer);
        }
        let readiness = disk.readiness();
        match poll(&mut [PollFd::from_borrowed_fd(readiness, PollFlags::IN)], None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(device_error("wait for", offset, &error)),
        }
    }
}

/// A batch of octets that no device can shorten: a sequence of xorshift.
#[must_use]
pub fn pattern(octets: usize) -> AlignedBuffer {
    let mut buffer = AlignedBuffer::with_capacity(octets);
    fill(&mut buffer, octets);
    buffer
}

/// The same in a buffer that is there: whole pages, as many as it has room for.
pub fn fill(buffer: &mut AlignedBuffer, octets: usize) {
    let octets = octets.min(buffer.capacity()) / 4096 * 4096;
    let fits = buffer.resize(octets);
    debug_assert!(fits.is_ok(), "no more than its capacity is asked for");
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for word in buffer.as_mut_slice().chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
}

/// What sysfs says of the device with this number; of a partition's disk. None where nothing does.
fn write_cache(device: io::Result<u64>) -> Option<WriteCache> {
    let device = device.ok()?;
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let folder = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
    let said = read("queue/write_cache").or_else(|| read("../queue/write_cache"))?;
    match said.trim() {
        "write back" => Some(WriteCache::WriteBack),
        "write through" => Some(WriteCache::WriteThrough),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sternpost_queue::BLANK_MARKER;

    const EVERY: [Method; 5] =
        [Method::IoUring, Method::Dsync, Method::Fdatasync, Method::Buffered, Method::Unsynced];

    #[test]
    fn a_trial_beside_a_file_leaves_the_log_and_the_folder_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, [7; 9000]).unwrap();
        let mut place = TrialPlace::open(&path, None).unwrap();
        assert!(!place.is_in_use() && !place.is_device());
        place.prepare(Duration::from_secs(5)).unwrap();
        assert!(place.octets() >= PREPARE_STEP_OCTETS as u64);
        for method in EVERY {
            let mut disk = match place.disk(method) {
                Err(DiskOpenError::Ring(error)) => {
                    eprintln!("no ring here: {error}");
                    continue;
                }
                Err(error) if method == Method::Buffered && !place.is_direct() => {
                    eprintln!("no O_DIRECT here: {error}");
                    continue;
                }
                disk => disk.unwrap(),
            };
            let mut buffer = pattern(64 << 10);
            disk.register(&buffer);
            for _ in 0..200 {
                buffer = disk.write(buffer).unwrap().0;
            }
            let too_large = usize::try_from(place.octets()).unwrap() + 4096;
            assert!(matches!(disk.write(pattern(too_large)), Err(DiskError::Range { .. })));
        }
        assert!(place.time_reading().unwrap() > Duration::ZERO);
        drop(place);
        assert_eq!(std::fs::read(&path).unwrap(), [7; 9000]);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_trial_says_that_a_store_has_the_log_and_leaves_it_its_lock() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let log = super::super::open_log_disk(&path, super::super::DiskBackend::Dsync, 1 << 20).unwrap();
        assert!(TrialPlace::open(&path, None).unwrap().is_in_use());
        drop(log);
        let place = TrialPlace::open(&path, None).unwrap();
        assert!(!place.is_in_use());
        super::super::open_log_disk(&path, super::super::DiskBackend::Dsync, 1 << 20).unwrap();
    }

    #[test]
    fn the_mark_of_a_blank_device_is_blank() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut octets = BLANK_MARKER.to_vec();
        octets.resize(1 << 20, 0);
        std::fs::write(&path, &octets).unwrap();
        let disk = super::super::open_log_disk(&path, super::super::DiskBackend::Dsync, 1 << 20).unwrap();
        assert!(disk.is_blank().unwrap() && !disk.is_block_device());
        drop(disk);
        octets[40_000] = 1;
        std::fs::write(&path, &octets).unwrap();
        let disk = super::super::open_log_disk(&path, super::super::DiskBackend::Dsync, 1 << 20).unwrap();
        assert!(!disk.is_blank().unwrap());
    }

    #[test]
    fn a_pattern_has_no_page_twice() {
        let buffer = pattern(64 << 10);
        let pages: std::collections::HashSet<&[u8]> = buffer.as_slice().chunks(4096).collect();
        assert_eq!(pages.len(), 16);
    }
}
