//! Durable writes on a ring: a write linked to an `fdatasync`, from registered memory where that can be had.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use io_uring::register::Restriction;
use io_uring::{IoUring, opcode, squeue, types};
use rustix::event::EventfdFlags;
use sternpost_queue::{AlignedBuffer, DiskError};

use super::file::LogFile;
use super::{device_error, drain};

/// Two entries for a write and its sync.
const ENTRIES: u32 = 4;
/// The log fills one buffer while another is written; the others are for buffers of an earlier log on this disk.
const SLOTS: u16 = 4;
/// `IORING_REGISTER_BUFFERS_UPDATE` of linux/io_uring.h.
const REGISTER_BUFFERS_UPDATE: u8 = 16;
const WRITE: u64 = 1;
const SYNC: u64 = 2;
/// The sync behind a write begins when that has succeeded, and tells of both: one wake-up for a batch.
const LINKED_AND_SILENT: squeue::Flags = squeue::Flags::IO_LINK.union(squeue::Flags::SKIP_SUCCESS);

/// One write at a time, on one ring.
pub(super) struct UringDisk {
    /// First, so that it is dropped before the memory and the descriptor that it was told of.
    ring: IoUring,
    flight: Option<Flight>,
    /// Identities of the buffers in the registered slots.
    slots: Vec<u64>,
    /// Why memory is not registered.
    pub(super) remark: Option<String>,
    /// The ring refused a submission half-way: what it will still do is unknown, so nothing more is asked of it.
    broken: bool,
    readiness: OwnedFd,
    file: LogFile,
}

struct Flight {
    buffer: AlignedBuffer,
    offset: u64,
    /// Set when it failed, or wrote too little.
    written: Option<i32>,
    synced: Option<i32>,
}

impl UringDisk {
    pub(super) fn new(file: LogFile) -> io::Result<Self> {
        let ring = IoUring::builder().setup_r_disabled().build(ENTRIES)?;
        if !ring.params().is_feature_skip_cqe_on_success() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "this needs the io_uring of Linux 5.17"));
        }
        let readiness = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        ring.submitter().register_eventfd(readiness.as_raw_fd())?;
        let remark = ring
            .submitter()
            .register_buffers_sparse(u32::from(SLOTS))
            .err()
            .map(|error| format!("the ring takes no registered memory: {error}"));
        restrict(&ring)?;
        Ok(Self { ring, flight: None, slots: Vec::new(), remark, broken: false, readiness, file })
    }

    pub(super) const fn file(&self) -> &LogFile {
        &self.file
    }

    pub(super) fn readiness(&self) -> BorrowedFd<'_> {
        self.readiness.as_fd()
    }

    pub(super) const fn is_busy(&self) -> bool {
        self.flight.is_some()
    }

    /// The slot in which the buffer's memory is registered. None: it is written from where it is, which costs the
    /// kernel a look at its pages each time.
    fn slot(&self, buffer: &AlignedBuffer) -> Option<u16> {
        let slot = self.slots.iter().position(|known| *known == buffer.identity())?;
        u16::try_from(slot).ok()
    }

    /// Registers the memory of buffers, as far as there is room.
    pub(super) fn register_all(&mut self, buffers: &[AlignedBuffer]) {
        for buffer in buffers {
            let free = u16::try_from(self.slots.len()).ok().filter(|slot| *slot < SLOTS);
            let (None, Some(slot), None) = (&self.remark, free, self.slot(buffer)) else { continue };
            match self.register(slot, buffer) {
                Ok(()) => self.slots.push(buffer.identity()),
                Err(error) => {
                    let octets = buffer.capacity();
                    self.remark = Some(format!(
                        "{octets} octets of memory cannot be registered ({error}); see RLIMIT_MEMLOCK"
                    ));
                }
            }
        }
    }

    fn register(&self, slot: u16, buffer: &AlignedBuffer) -> io::Result<()> {
        let storage = buffer.storage();
        let vector = libc::iovec { iov_base: storage.as_ptr().cast_mut().cast(), iov_len: storage.len() };
        // SAFETY: the vector describes memory that lives now. The kernel pins its pages, so that a slot can outlive its
        // buffer without touching memory that was given back; a slot is used only with the buffer whose identity it
        // has, and a buffer's pages never change.
        unsafe { self.ring.submitter().register_buffers_update(u32::from(slot), &[vector], None) }
    }

    pub(super) fn start_write(&mut self, offset: u64, buffer: AlignedBuffer) -> Result<(), DiskError> {
        if self.flight.is_some() {
            return Err(DiskError::Busy);
        }
        if self.broken {
            return Err(device_error("write", offset, &"the ring is broken"));
        }
        let length =
            u32::try_from(buffer.len()).map_err(|_| DiskError::Range { offset, octets: buffer.len() })?;
        let descriptor = types::Fd(self.file.as_fd().as_raw_fd());
        let memory = buffer.as_slice().as_ptr();
        let write = match self.slot(&buffer) {
            Some(slot) => opcode::WriteFixed::new(descriptor, memory, length, slot).offset(offset).build(),
            None => opcode::Write::new(descriptor, memory, length).offset(offset).build(),
        };
        // A write that succeeds is not told of: the sync behind it is what everybody waits for.
        let write = write.flags(LINKED_AND_SILENT).user_data(WRITE);
        let sync = opcode::Fsync::new(descriptor).flags(types::FsyncFlags::DATASYNC).build().user_data(SYNC);
        // From here on the buffer belongs to the kernel, until both have completed.
        self.flight = Some(Flight { buffer, offset, written: None, synced: None });
        let submitted = self.push(&[write, sync]).and_then(|()| self.submit(0));
        submitted.map_err(|error| {
            self.broken = true;
            device_error("write", offset, &error)
        })
    }

    fn push(&mut self, entries: &[squeue::Entry]) -> io::Result<()> {
        // SAFETY: the entries point into the buffer in `flight` and name the descriptor in `file`; both stay until the
        // completions are seen: `finish_write` and `drop` see to it.
        unsafe { self.ring.submission().push_multiple(entries) }.map_err(io::Error::other)
    }

    /// Hands over all entries and waits for `completions`.
    fn submit(&mut self, completions: usize) -> io::Result<()> {
        loop {
            match self.ring.submit_and_wait(completions) {
                Ok(_) if self.ring.submission().is_empty() => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Looks for completions; whether the write under way has ended.
    fn collect(&mut self) -> bool {
        let Some(flight) = &mut self.flight else { return false };
        for completion in self.ring.completion() {
            match completion.user_data() {
                WRITE => flight.written = Some(completion.result()),
                _ => flight.synced = Some(completion.result()),
            }
        }
        // A write is told of only when it failed, and then the sync behind it is neither made nor told of.
        flight.written.is_some() || flight.synced.is_some()
    }

    pub(super) fn finish_write(&mut self) -> Option<(AlignedBuffer, Result<(), DiskError>)> {
        // Whoever asks while nothing has ended pays no system call; what has ended is told by the ring itself.
        if !self.collect() {
            return None;
        }
        drain(self.readiness());
        let Flight { buffer, offset, written, synced } = self.flight.take()?;
        let result = match (written, synced) {
            (Some(written), _) if written < 0 => Err(os_error(offset, written)),
            (Some(written), _) => {
                Err(device_error("write", offset, &format!("only {written} octets were written")))
            }
            (None, Some(synced)) if synced < 0 => Err(os_error(offset, synced)),
            (None, _) => Ok(()),
        };
        Some((buffer, result))
    }
}

/// Leaves a new ring the operations of this file and the registration of memory, and starts it. A filter of system
/// calls does not see what goes through a ring: one that could do everything would be a way around it.
fn restrict(ring: &IoUring) -> io::Result<()> {
    let operations = [opcode::Write::CODE, opcode::WriteFixed::CODE, opcode::Fsync::CODE];
    let mut restrictions: Vec<_> = operations.into_iter().map(Restriction::sqe_op).collect();
    restrictions.push(Restriction::sqe_flags_allowed(LINKED_AND_SILENT.bits()));
    restrictions.push(Restriction::register_op(REGISTER_BUFFERS_UPDATE));
    ring.submitter().register_restrictions(&mut restrictions)?;
    ring.submitter().register_enable_rings()
}

fn os_error(offset: u64, result: i32) -> DiskError {
    device_error("write", offset, &io::Error::from_raw_os_error(result.saturating_neg()))
}

impl Drop for UringDisk {
    /// Waits for the write under way: the kernel reads from the buffer until then.
    fn drop(&mut self) {
        while self.flight.is_some() && !self.collect() {
            if self.broken || self.submit(1).is_err() {
                // It cannot be known whether the kernel still reads: the memory is given up rather than given back.
                std::mem::forget(self.flight.take());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_of_the_log_refuses_every_other_operation() {
        let mut ring = match IoUring::builder().setup_r_disabled().build(ENTRIES) {
            Ok(ring) => ring,
            Err(error) => {
                // A kernel or a container without io_uring: the log is written without it.
                let known = [Some(libc::ENOSYS), Some(libc::EPERM)];
                return assert!(known.contains(&error.raw_os_error()), "{error}");
            }
        };
        restrict(&ring).unwrap();
        let path = c"/etc/passwd";
        let open = opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), path.as_ptr()).build().user_data(7);
        // SAFETY: the path is a constant, which outlives the operation.
        unsafe { ring.submission().push(&open) }.unwrap();
        ring.submit_and_wait(1).unwrap();
        let results: Vec<_> = ring.completion().map(|entry| (entry.user_data(), entry.result())).collect();
        assert_eq!(results, [(7, -libc::EACCES)]);
        let eventfd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        assert!(ring.submitter().register_eventfd(eventfd.as_raw_fd()).is_err());
    }
}
