//! Durable writes by a thread of its own: `pwritev2` with `RWF_DSYNC`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use rustix::event::EventfdFlags;
use sternpost_queue::{AlignedBuffer, DiskError};

use super::file::LogFile;
use super::{device_error, drain};

type Finished = (AlignedBuffer, Result<(), DiskError>);

/// One write at a time, on one thread.
pub(super) struct DsyncDisk {
    shared: Arc<Shared>,
    /// None only while it is dropped: that ends the thread.
    jobs: Option<SyncSender<(u64, AlignedBuffer)>>,
    finished: Receiver<Finished>,
    thread: Option<JoinHandle<()>>,
    busy: bool,
}

struct Shared {
    file: LogFile,
    readiness: OwnedFd,
}

impl DsyncDisk {
    pub(super) fn new(file: LogFile) -> io::Result<Self> {
        let readiness = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared = Arc::new(Shared { file, readiness });
        let (jobs, taken) = sync_channel::<(u64, AlignedBuffer)>(1);
        let (done, finished) = sync_channel::<Finished>(1);
        let writer = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("log-writer".to_owned()).spawn(move || {
            for (offset, buffer) in taken {
                let result = writer.file.write(offset, &buffer);
                if done.send((buffer, result)).is_err() {
                    return;
                }
                // It can fail only when 2^64 - 2 ends of writes were not looked at.
                let _ = rustix::io::write(&writer.readiness, &1_u64.to_ne_bytes());
            }
        })?;
        Ok(Self { shared, jobs: Some(jobs), finished, thread: Some(thread), busy: false })
    }

    pub(super) fn file(&self) -> &LogFile {
        &self.shared.file
    }

    pub(super) fn readiness(&self) -> BorrowedFd<'_> {
        self.shared.readiness.as_fd()
    }

    pub(super) const fn is_busy(&self) -> bool {
        self.busy
    }

    pub(super) fn start_write(&mut self, offset: u64, buffer: AlignedBuffer) -> Result<(), DiskError> {
        if self.busy {
            return Err(DiskError::Busy);
        }
        let gone = || device_error("write", offset, &"the writer's thread is gone");
        self.jobs.as_ref().ok_or_else(gone)?.send((offset, buffer)).map_err(|_| gone())?;
        self.busy = true;
        Ok(())
    }

    pub(super) fn finish_write(&mut self) -> Option<Finished> {
        if !self.busy {
            return None;
        }
        // Whoever asks while nothing has ended pays no system call. The thread signals after it has handed over, so at
        // worst an end is told of that was seen already.
        let finished = self.finished.try_recv().ok()?;
        drain(self.readiness());
        self.busy = false;
        Some(finished)
    }
}

impl Drop for DsyncDisk {
    /// Waits for the write under way; the lock goes with the descriptor, after that.
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // A writer that panicked has nothing under way.
            let _ = thread.join();
        }
    }
}
