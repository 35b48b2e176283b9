//! The limit of the disk: batches of the store's size, one write under way at a time, each durable before the next, with
//! nothing in between.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Advice, Mode, OFlags, fadvise};
use rustix::io::ReadWriteFlags;
use serde::Serialize;
use std::error::Error;
use std::fs::File;
use std::io::{self, IoSlice};
use std::path::Path;
use std::time::{Duration, Instant};
use sternpost_platform::disk::trial::pattern;
use sternpost_platform::disk::{DiskBackend, DiskOpenError, LogDisk, open_log_disk};
use sternpost_queue::{AlignedBuffer, Disk as _};

use super::figures::nanoseconds;

/// How a batch is made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Method {
    /// O_DIRECT, `pwritev2` with RWF_DSYNC.
    Dsync,
    /// O_DIRECT, a write linked to an `fdatasync` on a ring, from registered memory.
    IoUring,
    /// O_DIRECT, a write, then `fdatasync`.
    Fdatasync,
    /// Through the page cache: a write, then `fdatasync`.
    CachedFdatasync,
}

impl Method {
    pub(super) const ALL: [Self; 4] = [Self::Dsync, Self::IoUring, Self::Fdatasync, Self::CachedFdatasync];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Dsync => "dsync",
            Self::IoUring => "io_uring",
            Self::Fdatasync => "fdatasync",
            Self::CachedFdatasync => "cached",
        }
    }
}

/// What one method has done in a moment.
#[derive(Clone, Debug, Default)]
pub(super) struct RawBurst {
    pub(super) writes_per_s: f64,
    pub(super) latencies_ns: Vec<u64>,
}

/// Writes batches of so many octets from the beginning of the file, again and again. None where the kernel has no ring.
pub(super) fn write(
    path: &Path,
    method: Method,
    octets: usize,
    time: Duration,
) -> Result<Option<RawBurst>, Box<dyn Error>> {
    let Some(mut writer) = Writer::open(path, method)? else { return Ok(None) };
    let mut buffer = pattern(octets);
    writer.register(&buffer);
    let batches_count = std::fs::metadata(path)?.len() / buffer.len() as u64;
    let mut latencies_ns = Vec::new();
    let began = Instant::now();
    for number in 0.. {
        let begin = Instant::now();
        if begin - began >= time {
            break;
        }
        buffer = writer.write(number % batches_count.max(1) * buffer.len() as u64, buffer)?;
        latencies_ns.push(nanoseconds(begin.elapsed()));
    }
    let writes_per_s = super::number(latencies_ns.len() as u64) / began.elapsed().as_secs_f64();
    writer.end()?;
    Ok(Some(RawBurst { writes_per_s, latencies_ns }))
}

enum Writer {
    Ring(Box<LogDisk>),
    Calls { file: File, method: Method },
}

impl Writer {
    fn open(path: &Path, method: Method) -> Result<Option<Self>, Box<dyn Error>> {
        if method == Method::IoUring {
            return match open_log_disk(path, DiskBackend::IoUring, 0) {
                Ok(disk) => Ok(Some(Self::Ring(Box::new(disk)))),
                Err(DiskOpenError::Ring(_)) => Ok(None),
                Err(error) => Err(error.into()),
            };
        }
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let direct = if method == Method::CachedFdatasync { OFlags::empty() } else { OFlags::DIRECT };
        let file = match rustix::fs::open(path, flags | direct, Mode::empty()) {
            // A file system without O_DIRECT: the store writes through its page cache too.
            Err(rustix::io::Errno::INVAL) => rustix::fs::open(path, flags, Mode::empty())?,
            opened => opened?,
        };
        Ok(Some(Self::Calls { file: file.into(), method }))
    }

    fn register(&mut self, buffer: &AlignedBuffer) {
        if let Self::Ring(disk) = self {
            disk.register(std::slice::from_ref(buffer));
        }
    }

    fn write(&mut self, offset: u64, buffer: AlignedBuffer) -> Result<AlignedBuffer, Box<dyn Error>> {
        match self {
            Self::Ring(disk) => write_by_ring(disk, offset, buffer),
            Self::Calls { file, method } => {
                write_by_calls(file, *method, offset, &buffer)?;
                Ok(buffer)
            }
        }
    }

    /// What went through the page cache leaves it: a direct write over it would have to wait for that.
    fn end(self) -> io::Result<()> {
        match self {
            Self::Calls { file, method: Method::CachedFdatasync } => {
                Ok(fadvise(&file, 0, None, Advice::DontNeed)?)
            }
            _ => Ok(()),
        }
    }
}

fn write_by_calls(file: &File, method: Method, offset: u64, buffer: &AlignedBuffer) -> io::Result<()> {
    let flags = if method == Method::Dsync { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
    let written = rustix::io::pwritev2(file, &[IoSlice::new(buffer.as_slice())], offset, flags)?;
    if written != buffer.len() {
        return Err(io::Error::other(format!("only {written} of {} octets were written", buffer.len())));
    }
    if method == Method::Dsync { Ok(()) } else { file.sync_data() }
}

fn write_by_ring(
    disk: &mut LogDisk,
    offset: u64,
    buffer: AlignedBuffer,
) -> Result<AlignedBuffer, Box<dyn Error>> {
    disk.start_write(offset, buffer)?;
    loop {
        poll(&mut [PollFd::from_borrowed_fd(disk.readiness(), PollFlags::IN)], None)?;
        if let Some((buffer, written)) = disk.finish_write() {
            written?;
            return Ok(buffer);
        }
    }
}

/// Has the system forget what it holds of the file in its page cache.
pub(super) fn forget_cache(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    Ok(fadvise(&file, 0, None, Advice::DontNeed)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_writes_what_it_is_given_and_begins_again_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        for method in Method::ALL {
            std::fs::write(&path, [0; 20_480]).unwrap();
            let Some(burst) = write(&path, method, 8192, Duration::from_millis(50)).unwrap() else {
                assert_eq!(method, Method::IoUring, "only a ring may be missing");
                continue;
            };
            assert!(burst.writes_per_s > 0.0 && !burst.latencies_ns.is_empty());
            let octets = std::fs::read(&path).unwrap();
            assert_eq!(octets[..8192], *pattern(8192).as_slice());
            assert_eq!(octets[16_384..], [0; 4096], "no batch is cut at the end of the file");
        }
    }
}
