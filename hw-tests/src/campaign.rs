//! The crash campaign: the real switch under load on a block device whose writes are logged, cut at every flush and torn
//! between, each cut recovered and compared with what had been acknowledged.
//!
//! [`history`] records a run, [`cuts`] chooses where to cut it, [`judge`] recovers an image and compares it with the [`marks`] that it
//! carries, [`revival`] starts the switch on some of the images, [`place`] gives a run its folder. The binary `crash-campaign` says
//! in which order (`make crash-campaign`).
//!
//! The log is known here by the public interface of the queue crate alone, never by its octets.

pub mod cuts;
pub mod history;
pub mod judge;
pub mod marks;
pub mod place;
pub mod revival;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use sternpost_load::switch::QueueRoom;

/// The log: the smallest segments that there are, so few that a load of some seconds goes round several times.
pub const ROOM: QueueRoom = QueueRoom { segment_octets: 1 << 20, segments_count: 24 };

/// Where the marks stand: behind the log, which ends below 25 MiB, with room for 16,384 records.
pub const ZONE: Range<u64> = 32 << 20..40 << 20;

/// What of the device is written at all, and is therefore kept of an image.
pub const IMAGE_OCTETS: u64 = ZONE.end;

/// The device. Its last 64 MiB may be the trial region of the self test (FORMAT.md), which nobody runs here.
pub const DEVICE_OCTETS: u64 = IMAGE_OCTETS + (64 << 20);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Somebody at the terminal has had enough.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// Ends whatever waits at its next look, so that everything is cleared away in order.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Whether to go on.
///
/// # Errors
/// `Interrupted` from [`interrupt`] on.
pub fn go_on() -> Result<(), Interrupted> {
    if INTERRUPTED.load(Ordering::Relaxed) { Err(Interrupted) } else { Ok(()) }
}
