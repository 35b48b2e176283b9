//! What the log asks of a device. `platform` has the real ones, `simulator` the faulty one.

use crate::AlignedBuffer;

/// Why a device did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// The range lies beyond the device, or is not aligned as the call demands.
    #[error("{octets} octets at {offset} are not a range of this disk")]
    Range {
        /// Where it began.
        offset: u64,
        /// How long it was.
        octets: usize,
    },
    /// The device or its driver said no.
    #[error("{action} at {offset} failed: {reason}")]
    Device {
        /// `read` or `write`.
        action: &'static str,
        /// Where.
        offset: u64,
        /// The driver's words.
        reason: String,
    },
    /// A write was started while another one was under way.
    #[error("a write is under way already")]
    Busy,
}

/// A device of fixed size, with one durable write at a time.
///
/// Whoever makes a `Disk` has already synced the device: what can be read when the log is opened stays readable after
/// a loss of power (FORMAT.md, rule 6), and has made sure that nobody else writes to it.
pub trait Disk {
    /// The size.
    fn octets(&self) -> u64;

    /// The physical block, a divisor of 4,096.
    fn block_octets(&self) -> u32;

    /// Reads `into.len()` octets from `offset`; neither need be aligned. Must not be asked for octets of a write that
    /// is under way.
    ///
    /// # Errors
    /// `Range`, or `Device`: then `into` holds anything.
    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), DiskError>;

    /// Starts one durable write of the buffer's octets in use (whole pages, at a page): data and sync are complete
    /// before it is reported. The buffer belongs to the operation until `finish_write` gives it back.
    ///
    /// # Errors
    /// `Busy` and `Range` when nothing was started: the buffer is lost then.
    fn start_write(&mut self, offset: u64, buffer: AlignedBuffer) -> Result<(), DiskError>;

    /// The end of the write under way, if it has come; does not wait.
    fn finish_write(&mut self) -> Option<(AlignedBuffer, Result<(), DiskError>)>;

    /// Writes durably and waits for it. Only while no other write is under way.
    ///
    /// # Errors
    /// As `start_write`, and `Device`.
    fn write_now(&mut self, offset: u64, buffer: &AlignedBuffer) -> Result<(), DiskError>;
}

impl<D: Disk> Disk for &mut D {
    fn octets(&self) -> u64 {
        (**self).octets()
    }

    fn block_octets(&self) -> u32 {
        (**self).block_octets()
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        (**self).read(offset, into)
    }

    fn start_write(&mut self, offset: u64, buffer: AlignedBuffer) -> Result<(), DiskError> {
        (**self).start_write(offset, buffer)
    }

    fn finish_write(&mut self) -> Option<(AlignedBuffer, Result<(), DiskError>)> {
        (**self).finish_write()
    }

    fn write_now(&mut self, offset: u64, buffer: &AlignedBuffer) -> Result<(), DiskError> {
        (**self).write_now(offset, buffer)
    }
}
