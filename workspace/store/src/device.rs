//! The log's device at start: opened, and made into a log when it is blank. What is not blank and no log is left alone.

use crate::{Options, StoreError};
use std::time::Duration;
use sternpost_platform::clock::Clock;
use sternpost_platform::disk::{DiskBackend, DiskOpenError, LogDisk, open_log_disk};
use sternpost_platform::process;
use sternpost_queue::{Disk, Geometry, Log, Parameters};

/// The store that died may have a write under way; its lock ends with it.
const LOCK_AGAIN: Duration = Duration::from_millis(20);
/// Content that is kept in memory after it was written: what a few hundred sessions have on its way out. What does not
/// fit is read from the log.
const RECENT_CONTENT_OCTETS_MAX: usize = 8 << 20;

/// Opens and recovers the log, or makes one.
///
/// # Errors
/// `StoreError::Device`, `Create` or `Recover`.
pub(crate) fn open(options: &Options, clock: &Clock) -> Result<(Log<LogDisk>, String), StoreError> {
    let geometry = Geometry { segment_octets: options.segment_octets, segments: options.segments };
    let mut disk = wait_for_device(options, geometry)?;
    for remark in disk.remarks() {
        tracing::warn!(event = "log.device.slower", remark, "the log's device is slower than it could be");
    }
    let backend = match disk.backend() {
        DiskBackend::IoUring => "io_uring, write linked to fdatasync",
        DiskBackend::Dsync | DiskBackend::Auto => "pwritev2 with RWF_DSYNC",
    };
    if is_blank(&mut disk)? {
        disk = create(disk, geometry, options)?;
    }
    let parameters =
        Parameters { recent_content_octets_max: RECENT_CONTENT_OCTETS_MAX, ..Parameters::default() };
    let (log, report) = Log::open(disk, parameters, clock.now()).map_err(StoreError::Recover)?;
    for damage in &report.damage {
        tracing::error!(
            event = "log.damage",
            offset = damage.offset,
            octets = damage.octets,
            part = %damage.what,
            "a part of the log is damaged; sternpost queue verify tells which messages it concerns"
        );
    }
    for (sequence, id) in &report.damaged_messages {
        tracing::error!(event = "log.damaged-message", %sequence, %id, "a part of a message is lost; it is kept apart");
    }
    tracing::info!(
        event = "log.recovered",
        backend,
        messages = report.living_messages,
        batches = report.batches,
        read_octets = report.read_octets,
        torn_tail = report.torn_tail,
        "the log is recovered"
    );
    Ok((log, backend.to_owned()))
}

fn wait_for_device(options: &Options, geometry: Geometry) -> Result<LogDisk, StoreError> {
    let mut has_waited = false;
    loop {
        match open_log_disk(&options.disk_path, options.backend, geometry.octets()) {
            Err(DiskOpenError::Locked(path)) => {
                if !has_waited {
                    tracing::info!(event = "log.locked", path = %path.display(), "waiting for the last store to end");
                    has_waited = true;
                }
                std::thread::sleep(LOCK_AGAIN);
            }
            opened => return opened.map_err(StoreError::Device),
        }
    }
}

/// Whether nothing was ever written where the superblocks stand. A damaged log is not blank, and is never made anew.
fn is_blank(disk: &mut LogDisk) -> Result<bool, StoreError> {
    let mut head = vec![0; usize::try_from(sternpost_queue::HEAD_OCTETS).unwrap_or(usize::MAX)];
    disk.read(0, &mut head).map_err(|error| StoreError::Recover(error.into()))?;
    Ok(head.iter().all(|octet| *octet == 0))
}

fn create(mut disk: LogDisk, geometry: Geometry, options: &Options) -> Result<LogDisk, StoreError> {
    tracing::info!(event = "log.create", path = %options.disk_path.display(), octets = geometry.octets(), "making a new log");
    // Zero-written octets cost no file-system metadata later: twice to eight times the speed of fresh ones.
    let mut tenth = 0;
    disk.zero(&mut |done, total| {
        if done * 10 / total.max(1) > tenth {
            tenth = done * 10 / total.max(1);
            tracing::info!(event = "log.zero", percent = tenth * 10, "writing zeroes");
        }
        true
    })
    .map_err(|error| StoreError::Create(error.into()))?;
    Log::create(disk, geometry, process::random()).map_err(StoreError::Create)
}
