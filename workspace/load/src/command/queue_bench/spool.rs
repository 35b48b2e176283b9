//! The old way: a file for each message. Each thread writes content and envelope into a new file, syncs it, gives it its
//! name, and syncs the folder, before it takes the next message.

use rustix::fs::{CWD, Mode, OFlags, openat, renameat, unlinkat};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use sternpost_platform::disk::trial::pattern;

use super::figures::nanoseconds;

/// What an envelope file of one recipient has: sender, recipient, client, times.
const ENVELOPE_OCTETS: usize = 400;
/// A thread that makes system calls needs no more.
const STACK_OCTETS: usize = 128 << 10;

/// What was filed.
#[derive(Clone, Debug, Default)]
pub(super) struct Filed {
    pub(super) per_s: f64,
    pub(super) latencies_ns: Vec<u64>,
}

/// Files messages in a folder of its own by so many threads, and removes it.
pub(super) fn file(
    folder: &Path,
    threads_count: u32,
    content_octets: usize,
    time: Duration,
) -> io::Result<Filed> {
    std::fs::create_dir_all(folder)?;
    let filed = file_in(folder, threads_count, content_octets, time);
    // Removing is not measured; that it is durable is waited for, so that the next measurement does not pay for it.
    std::fs::remove_dir_all(folder)?;
    if let Some(parent) = folder.parent() {
        File::open(parent)?.sync_all()?;
    }
    filed
}

fn file_in(folder: &Path, threads_count: u32, content_octets: usize, time: Duration) -> io::Result<Filed> {
    let message = pattern((content_octets + ENVELOPE_OCTETS).next_multiple_of(4096));
    let message = &message.as_slice()[..content_octets + ENVELOPE_OCTETS];
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(CWD, folder, flags, Mode::empty())?;
    let ended = AtomicBool::new(false);
    let began = Instant::now();
    let results = thread::scope(|threads| {
        let spool = Spool { directory: directory.as_fd(), message, ended: &ended };
        let started: Vec<_> = (0..threads_count)
            .map(|thread| {
                let builder = thread::Builder::new().stack_size(STACK_OCTETS);
                builder.spawn_scoped(threads, move || spool.work(thread, began + time))
            })
            .collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| thread.join().expect("a thread ends by itself");
        started.into_iter().map(|started| started.and_then(join)).collect::<io::Result<Vec<_>>>()
    });
    let latencies_ns: Vec<u64> = results?.into_iter().flatten().collect();
    let per_s = super::number(latencies_ns.len() as u64) / began.elapsed().as_secs_f64();
    Ok(Filed { per_s, latencies_ns })
}

#[derive(Clone, Copy)]
struct Spool<'a> {
    directory: BorrowedFd<'a>,
    message: &'a [u8],
    /// Another thread has failed.
    ended: &'a AtomicBool,
}

impl Spool<'_> {
    fn work(self, thread: u32, until: Instant) -> io::Result<Vec<u64>> {
        let mut latencies_ns = Vec::new();
        for number in 0_u64.. {
            let begin = Instant::now();
            if begin >= until || self.ended.load(Ordering::Relaxed) {
                break;
            }
            if let Err(error) = self.file_one(thread, number) {
                self.ended.store(true, Ordering::Relaxed);
                return Err(error);
            }
            latencies_ns.push(nanoseconds(begin.elapsed()));
        }
        Ok(latencies_ns)
    }

    fn file_one(self, thread: u32, number: u64) -> io::Result<()> {
        let (new, name) = (format!("{thread}.{number}.new"), format!("{thread}.{number}"));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut file = File::from(openat(self.directory, &*new, flags, Mode::RUSR | Mode::WUSR)?);
        let filed = file.write_all(self.message).and_then(|()| file.sync_all());
        if let Err(error) = filed {
            let _ = unlinkat(self.directory, &*new, rustix::fs::AtFlags::empty());
            return Err(error);
        }
        renameat(self.directory, &*new, self.directory, &*name)?;
        Ok(rustix::fs::fsync(self.directory)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_is_a_file_with_its_name_and_the_folder_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let directory = File::open(folder.path()).unwrap();
        let ended = AtomicBool::new(false);
        let spool = Spool { directory: directory.as_fd(), message: b"content and envelope", ended: &ended };
        spool.file_one(3, 7).unwrap();
        assert_eq!(std::fs::read(folder.path().join("3.7")).unwrap(), b"content and envelope");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let spool = folder.path().join("spool");
        let filed = file(&spool, 3, 4096, Duration::from_millis(50)).unwrap();
        assert!(filed.per_s > 0.0 && filed.latencies_ns.len() >= 3);
        assert!(!spool.exists());
    }
}
