//! The log's device at start: opened, and made into a log when it is blank. What is not blank and no log is left alone.

use crate::manner::Manner;
use crate::{Options, StoreError};
use std::time::{Duration, Instant};
use sternpost_link::store::Origin;
use sternpost_platform::clock::Clock;
use sternpost_platform::disk::{DiskBackend, DiskOpenError, LogDisk, open_log_disk};
use sternpost_platform::process;
use sternpost_queue::{
    Damage, DamagedPart, Disk, Geometry, Log, OpenError, Parameters, Progress, RecoveryReport,
    SEGMENT_OCTETS_MAX,
};

/// 16 × 64 MiB = 1 GiB: fits the smallest disk of a machine, and holds a day of a small site's mail.
const FILE_SEGMENTS_DEFAULT: u32 = 16;
/// The store that died may have a write under way; its lock ends with it.
const LOCK_AGAIN: Duration = Duration::from_millis(20);
/// Whoever waits for a large log sees that it gets on.
const ANNOUNCE_AGAIN: Duration = Duration::from_secs(1);
/// Openings of a log that the device does not read, before it is opened without what is not read: as many as the log itself
/// tries to read a record (FORMAT.md).
const OPENINGS_MAX: u32 = 8;
/// Between two of them. Seven seconds in all are longer than the reset of a controller takes.
const OPEN_AGAIN: Duration = Duration::from_secs(1);
/// Content that is kept in memory after it was written: what a few hundred sessions have on its way out. What does not
/// fit is read from the log.
const RECENT_CONTENT_OCTETS_MAX: usize = 8 << 20;

/// A log that is open.
pub(crate) struct Opened {
    pub(crate) log: Log<LogDisk>,
    pub(crate) manner: Manner,
    pub(crate) parameters: Parameters,
    /// What was found on the way.
    pub(crate) report: RecoveryReport,
}

/// Opens and recovers the log, or makes one.
///
/// # Errors
/// `StoreError::Device`, `Create`, `TooSmall`, `Foreign` or `Recover`.
pub(crate) fn open(options: &Options, clock: &Clock) -> Result<Opened, StoreError> {
    let mut manner = Manner::of(options);
    let for_file = Geometry {
        segment_octets: options.segment_octets.unwrap_or(SEGMENT_OCTETS_MAX),
        segments: options.segments.unwrap_or(FILE_SEGMENTS_DEFAULT),
    };
    let mut disk = take(options, &mut manner, for_file)?;
    // What cannot be read is not blank; what it is says the opening.
    if disk.is_blank().unwrap_or(false) {
        let geometry = if disk.is_block_device() { for_device(&disk, options)? } else { for_file };
        disk = create(disk, geometry, options)?;
    }
    let mut parameters = Parameters {
        recent_content_octets_max: RECENT_CONTENT_OCTETS_MAX,
        batch_octets_max: usize::try_from(manner.batch_octets_max).unwrap_or(usize::MAX),
        partial_timeout_ms: options
            .partial_timeout_s
            .map_or(Parameters::default().partial_timeout_ms, |seconds| u64::from(seconds) * 1_000),
        ..Parameters::default()
    };
    let again = || wait_for_device(options, manner.backend, for_file);
    let (mut log, report) = recover(disk, &mut parameters, options, clock, again)?;
    // The ring learns of the memory now, for the filter will let it learn of no more.
    log.with_buffers(LogDisk::register);
    // A small segment allows less than was asked for.
    manner.batch_octets_max = u32::try_from(log.batch_octets_max()).unwrap_or(u32::MAX);
    tell_opened(&log, &report, manner, options);
    Ok(Opened { log, manner, parameters, report })
}

/// Takes the device, written as was chosen; without a ring where the self test alone wants one that there is not.
fn take(options: &Options, manner: &mut Manner, geometry: Geometry) -> Result<LogDisk, StoreError> {
    match wait_for_device(options, manner.backend, geometry) {
        // A recommendation is no order: the kernel may have rings for the self test and none for this process.
        Err(StoreError::Device(DiskOpenError::Ring(error))) if manner.backend_from == Origin::SelfTest => {
            tracing::warn!(
                event = "log.no-ring",
                %error,
                "the self test recommends io_uring, which this process cannot have; writing with RWF_DSYNC"
            );
            (manner.backend, manner.backend_from) = (DiskBackend::Dsync, Origin::Default);
            wait_for_device(options, manner.backend, geometry)
        }
        taken => taken,
    }
}

/// Recovers the log, in several attempts while its device does not read; the last of them without what is not read.
fn recover(
    mut disk: LogDisk,
    parameters: &mut Parameters,
    options: &Options,
    clock: &Clock,
    again: impl Fn() -> Result<LogDisk, StoreError>,
) -> Result<(Log<LogDisk>, RecoveryReport), StoreError> {
    let mut announced = Instant::now();
    let mut announce = |progress: Progress| {
        if announced.elapsed() >= ANNOUNCE_AGAIN {
            announced = Instant::now();
            let Progress { done, total } = progress;
            tracing::info!(event = "log.recovering", done, total, "reading the living segments of the log");
        }
    };
    let mut opening = 1;
    loop {
        parameters.isolates_unreadable = opening >= OPENINGS_MAX;
        match Log::open_with_progress(disk, *parameters, clock.now(), &mut announce) {
            Err(OpenError::Disk(error)) if opening < OPENINGS_MAX => {
                tracing::warn!(event = "log.unread", opening, %error, "the log's device does not read; trying again");
                std::thread::sleep(OPEN_AGAIN);
                opening += 1;
                disk = again()?;
            }
            opened => return opened.map_err(|error| refused(options, error)),
        }
    }
}

/// Says what was opened, and what of it is not as somebody may think.
fn tell_opened(log: &Log<LogDisk>, report: &RecoveryReport, manner: Manner, options: &Options) {
    for remark in log.disk().remarks() {
        tracing::warn!(event = "log.device.slower", remark, "the log's device is slower than it could be");
    }
    let kept = log.status().geometry;
    if options.segment_octets.is_some_and(|asked| asked != kept.segment_octets)
        || options.segments.is_some_and(|asked| asked != kept.segments)
    {
        tracing::warn!(
            event = "log.geometry",
            "the log keeps the {} segments of {} octets with which it was made; [queue] of the bootstrap says otherwise",
            kept.segments,
            kept.segment_octets
        );
    }
    report.damage.iter().for_each(tell_damage);
    tracing::info!(
        event = "log.recovered",
        backend = manner.words(),
        batch_octets_max = manner.batch_octets_max,
        messages = report.living_messages,
        segments = report.segments,
        segments_by_index = report.segments_by_index,
        batches = report.batches,
        read_octets = report.read_octets,
        torn_tail = report.torn_tail,
        "the log is recovered"
    );
}

/// Why the log was not opened. To what is not blank and no log a person must say what it is; the commands, which may be given
/// any path, say less.
fn refused(options: &Options, source: OpenError) -> StoreError {
    let path = options.disk_path.clone();
    match source {
        OpenError::NoLog => StoreError::Foreign { path },
        source => StoreError::Recover { path, source },
    }
}

/// The geometry of a new log on a device: what the operator asked for, else what fills it.
fn for_device(disk: &LogDisk, options: &Options) -> Result<Geometry, StoreError> {
    let geometry = match options.segments {
        Some(segments) => {
            let segment_octets = options.segment_octets.unwrap_or(SEGMENT_OCTETS_MAX);
            Some(Geometry { segment_octets, segments }).filter(|asked| asked.octets() <= disk.octets())
        }
        None => Geometry::filling(disk.octets(), options.segment_octets),
    };
    geometry.ok_or_else(|| StoreError::TooSmall { path: options.disk_path.clone(), octets: disk.octets() })
}

fn wait_for_device(
    options: &Options,
    backend: DiskBackend,
    geometry: Geometry,
) -> Result<LogDisk, StoreError> {
    let mut has_waited = false;
    loop {
        match open_log_disk(&options.disk_path, backend, geometry.octets()) {
            Err(DiskOpenError::Locked(path)) => {
                if !has_waited {
                    tracing::warn!(
                        event = "log.locked",
                        path = %path.display(),
                        "waiting for whoever has the log: the last store, or a command that reads it without the switch \
                         (sternpost queue with --path)"
                    );
                    has_waited = true;
                }
                std::thread::sleep(LOCK_AGAIN);
            }
            opened => return opened.map_err(StoreError::Device),
        }
    }
}

fn create(mut disk: LogDisk, geometry: Geometry, options: &Options) -> Result<LogDisk, StoreError> {
    tracing::info!(event = "log.create", path = %options.disk_path.display(), octets = geometry.octets(), "making a new log");
    // Zero-written octets cost no file-system metadata later: twice to eight times the speed of fresh ones. A device has
    // no file system, and what else stands on it is no record (FORMAT.md): there the first 220 does not wait for it.
    if !disk.is_block_device() {
        let mut tenth = 0;
        disk.zero(&mut |done, total| {
            if done * 10 / total.max(1) > tenth {
                tenth = done * 10 / total.max(1);
                tracing::info!(event = "log.zero", percent = tenth * 10, "writing zeroes");
            }
            true
        })
        .map_err(|error| StoreError::Create(error.into()))?;
    }
    Log::create(disk, geometry, process::random()).map_err(StoreError::Create)
}

fn tell_damage(damage: &Damage) {
    let part = damage.what;
    if part == DamagedPart::Segment {
        return tracing::error!(
            event = "log.damage",
            octets = damage.octets,
            %part,
            "a segment of the log is not found: what was accepted in it is lost, and nothing on the disk names it; the senders' own \
             records do"
        );
    }
    tracing::error!(
        event = "log.damage",
        offset = damage.offset,
        octets = damage.octets,
        %part,
        "a part of the log is damaged; with the switch stopped, sternpost queue verify tells which messages it concerns"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Recommended;
    use crate::told::Told;
    use std::os::fd::OwnedFd;
    use std::path::Path;
    use sternpost_platform::door::Users;
    use sternpost_platform::sandbox::Filter;

    const MADE: Geometry = Geometry { segment_octets: 1 << 20, segments: 9 };

    fn options(path: &Path, asked: Geometry) -> Options {
        Options {
            listening: OwnedFd::from(std::fs::File::open("/dev/null").unwrap()),
            disk_path: path.to_owned(),
            backend: DiskBackend::Auto,
            segment_octets: Some(asked.segment_octets),
            segments: Some(asked.segments),
            batch_octets_max: None,
            partial_timeout_s: None,
            users: Users::Same(0),
            recommended: Recommended::default(),
            filter: Filter::new(&[], &[]).unwrap(),
        }
    }

    /// Opens the log with the geometry of the bootstrap; gives the log's own, and the lines of the geometry.
    fn open_as(path: &Path, asked: Geometry) -> Result<(Geometry, Vec<String>), StoreError> {
        let options = options(path, asked);
        let told = Told::default();
        let opened = tracing::subscriber::with_default(told.clone(), || open(&options, &Clock::default()));
        let log = opened?.log;
        Ok((log.status().geometry, told.lines_of("log.geometry")))
    }

    #[test]
    fn a_log_keeps_its_geometry_and_says_so_when_the_bootstrap_asks_for_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        assert_eq!(open_as(&path, MADE).unwrap(), (MADE, Vec::new()));
        assert_eq!(open_as(&path, MADE).unwrap(), (MADE, Vec::new()));
        for segments in [8, 20] {
            let (kept, said) = open_as(&path, Geometry { segments, ..MADE }).unwrap();
            assert_eq!(kept, MADE);
            assert_eq!(said.len(), 1, "{said:?}");
            let sentence = "the log keeps the 9 segments of 1048576 octets with which it was made; \
                            [queue] of the bootstrap says otherwise";
            assert!(said[0].contains(sentence), "{said:?}");
            assert_eq!(std::fs::metadata(&path).unwrap().len(), MADE.octets());
        }
    }

    #[test]
    fn what_is_neither_blank_nor_a_log_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        for octets in [&b"minutes of the meeting"[..], &[7; 200_000]] {
            std::fs::write(&path, octets).unwrap();
            assert!(matches!(open_as(&path, MADE), Err(StoreError::Foreign { .. })));
            assert_eq!(std::fs::read(&path).unwrap(), octets);
        }
    }

    #[test]
    fn a_log_whose_first_64_kib_are_cleared_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, vec![7; usize::try_from(MADE.octets()).unwrap()]).unwrap();
        assert!(open_as(&path, MADE).is_err());
        let mut octets = std::fs::read(&path).unwrap();
        octets[..64 << 10].fill(0);
        std::fs::write(&path, octets).unwrap();
        assert_eq!(open_as(&path, MADE).unwrap().0, MADE);
    }

    #[test]
    fn the_operator_goes_before_the_self_test_and_the_self_test_before_the_default() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let asked = |backend, batch_octets_max, recommended| {
            let options = Options { backend, batch_octets_max, recommended, ..options(&path, MADE) };
            let Opened { log, manner, .. } = open(&options, &Clock::default()).unwrap();
            assert_eq!(log.batch_octets_max(), manner.batch_octets_max as usize);
            assert_eq!(log.disk().backend(), manner.backend);
            (manner.backend, manner.backend_from, manner.batch_octets_max, manner.batch_from)
        };
        let none = Recommended::default();
        let found = |backend| Recommended { backend: Some(backend), batch_octets_max: Some(192 << 10) };
        use DiskBackend::{Auto, Dsync};
        assert_eq!(asked(Auto, None, none), (Dsync, Origin::Default, 1 << 20, Origin::Default));
        assert_eq!(asked(Auto, None, found(Dsync)), (Dsync, Origin::SelfTest, 192 << 10, Origin::SelfTest));
        let ring = DiskBackend::IoUring;
        assert_eq!(
            asked(Dsync, Some(256 << 10), found(ring)),
            (Dsync, Origin::Operator, 256 << 10, Origin::Operator)
        );
        // Where the kernel gives no ring, the recommendation is not followed, and the log is open all the same.
        let (backend, from, ..) = asked(Auto, None, found(ring));
        assert!([(ring, Origin::SelfTest), (Dsync, Origin::Default)].contains(&(backend, from)));
    }
}
