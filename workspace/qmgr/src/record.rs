//! The recording: what the scheduler is given and answers, as journals in files. scheduler/JOURNAL.md.
//!
//! Each life of QMGR begins a file of its own, `NAME.1`, `NAME.2` and so on: its start reads nothing of what was recorded
//! before, and touches nothing that stands there already.
//!
//! It is a guest. It holds at most a piece and one event in memory, waits for nothing but `write`, leaves a part of the
//! file system free, and ends by itself when a write fails or is slow: QMGR decides as it would without it.

use serde_json::{Value, json};
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use sternpost_message::{UnixMillis, chain};
use sternpost_platform::space::{self, Space};
use sternpost_scheduler::journal::{EncodeError, Encoder};
use sternpost_scheduler::{Action, Event};

/// What is written at once, unless [`PIECE_AGE_MAX`] ends before.
const PIECE_OCTETS: usize = 64 << 10;
/// What was recorded is in the file by then.
const PIECE_AGE_MAX: Duration = Duration::from_millis(10);
/// A write that takes longer is the last one: decisions must not wait for a disk.
const WRITE_MAX: Duration = Duration::from_millis(250);
/// Files of one recording. A QMGR that ends again and again must not fill a folder.
const FILES_MAX: usize = 100;
/// What stays free of the file system: half of it, or this where half is more. In the folder `qmgr` of the state the last known good
/// configuration stands too, 32 MiB at most, and is written anew beside the old one.
const KEPT_FREE_OCTETS_MAX: u64 = 256 << 20;

/// Too little would stay free of the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "its file system has {} MiB free, and less than {} MiB would stay free: make room, or record elsewhere", free_octets >> 20, kept_octets >> 20
)]
pub struct NoRoom {
    /// What is free.
    pub free_octets: u64,
    /// What must stay free.
    pub kept_octets: u64,
}

/// Why nothing is recorded.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file could not be made, or what stands beside it not be looked at.
    #[error("{} cannot be {step}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
    /// There are as many files as there may be.
    #[error("the recording {} has {FILES_MAX} files: move them away to record anew", path.display())]
    ManyFiles {
        /// As the bootstrap names it.
        path: PathBuf,
    },
    /// The file system is too full.
    #[error("{} cannot be recorded into", path.display())]
    NoRoom {
        /// As the bootstrap names it.
        path: PathBuf,
        /// How full.
        source: NoRoom,
    },
    /// What there is has no room for as much as is written at once.
    #[error("the recording {} has reached record_octets_max: move its files away to record anew, or raise the bound", path.display())]
    Full {
        /// As the bootstrap names it.
        path: PathBuf,
    },
}

/// How a recording ended.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error("the file cannot be written")]
    Io(#[from] io::Error),
    #[error("a write has taken {} ms, and decisions would wait", .0.as_millis())]
    Slow(Duration),
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
}

/// Asks for the room of a file's file system.
type SpaceOf = fn(&File) -> io::Result<Space>;

/// The files of a recording by their numbers, oldest first. `path` is the name that the bootstrap gives.
///
/// # Errors
/// When their folder cannot be read.
pub fn recorded_files(path: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut prefix = path.file_name().unwrap_or_default().to_owned();
    prefix.push(".");
    let number = |name: OsString| {
        let number = name.as_encoded_bytes().strip_prefix(prefix.as_encoded_bytes())?;
        let number = std::str::from_utf8(number).ok()?;
        number.parse().ok().filter(|parsed: &u64| parsed.to_string() == number)
    };
    let mut files = Vec::new();
    for entry in folder_of(path).read_dir()? {
        let entry = entry?;
        files.extend(number(entry.file_name()).map(|number| (number, entry.path())));
    }
    files.sort_unstable();
    Ok(files)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A journal that is being written.
#[derive(Debug)]
pub struct Record {
    file: File,
    path: PathBuf,
    encoder: Encoder,
    space_of: SpaceOf,
    /// When the first of what is not in the file yet was recorded.
    since: Option<Instant>,
}

impl Record {
    /// Makes the next file of the recording that the bootstrap calls `path`. All of them together have at most
    /// `octets_max`.
    ///
    /// # Errors
    /// `RecordError`; then nothing was made.
    pub fn open(path: &Path, octets_max: u64) -> Result<Self, RecordError> {
        Self::open_in(path, octets_max, space::of)
    }

    fn open_in(path: &Path, octets_max: u64, space_of: SpaceOf) -> Result<Self, RecordError> {
        let failed = |step| move |source| RecordError::File { path: path.to_owned(), step, source };
        let unread = |source| RecordError::File { path: folder_of(path).to_owned(), step: "read", source };
        let before = recorded_files(path).map_err(unread)?;
        if before.len() >= FILES_MAX {
            return Err(RecordError::ManyFiles { path: path.to_owned() });
        }
        let lengths = before.iter().map(|(_, file)| file.symlink_metadata().map(|found| found.len()));
        let octets: u64 = lengths.sum::<io::Result<_>>().map_err(unread)?;
        let octets_max = octets_max.saturating_sub(octets);
        if octets_max < PIECE_OCTETS as u64 {
            return Err(RecordError::Full { path: path.to_owned() });
        }
        let space = File::open(folder_of(path)).and_then(|folder| space_of(&folder));
        let space = space.map_err(failed("asked for its room"))?;
        has_room(space, PIECE_OCTETS)
            .map_err(|source| RecordError::NoRoom { path: path.to_owned(), source })?;
        let number = before.last().map_or(1, |(number, _)| number.saturating_add(1));
        let mut own = path.as_os_str().to_owned();
        own.push(format!(".{number}"));
        let own = PathBuf::from(own);
        // Who may read it is the owner's to say: it names the peers of the site.
        let options = OpenOptions::new().write(true).create_new(true).mode(0o600).clone();
        let file = options.open(&own).map_err(|source| RecordError::File {
            path: own.clone(),
            step: "made",
            source,
        })?;
        Ok(Self { file, path: own, encoder: Encoder::new(octets_max), space_of, since: None })
    }

    fn write(&mut self) -> Result<(), WriteError> {
        self.since = None;
        let begin = Instant::now();
        has_room((self.space_of)(&self.file)?, self.encoder.octets().len())?;
        self.file.write_all(self.encoder.octets())?;
        self.encoder.clear();
        let took = begin.elapsed();
        if took > WRITE_MAX { Err(WriteError::Slow(took)) } else { Ok(()) }
    }
}

/// Whether so many octets more leave free what must stay free.
fn has_room(space: Space, octets: usize) -> Result<(), NoRoom> {
    let kept_octets = (space.octets / 2).min(KEPT_FREE_OCTETS_MAX);
    let wanted = kept_octets.saturating_add(octets as u64);
    // A file system without a bound of its own says 0 of both.
    if space.octets > 0 && space.free_octets < wanted {
        return Err(NoRoom { free_octets: space.free_octets, kept_octets });
    }
    Ok(())
}

impl Drop for Record {
    fn drop(&mut self) {
        // Nobody is left to be told of an error.
        let _ = self.write();
    }
}

/// A recording that may be off, or over.
#[derive(Debug, Default)]
pub(crate) enum Recording {
    /// Nobody wants one.
    #[default]
    Off,
    /// Under way.
    On(Record),
    /// Nothing is recorded any more, or nothing ever was.
    Ended {
        /// One sentence.
        why: String,
        /// It is as long as it may be, which is how a recording is meant to end.
        is_full: bool,
    },
}

impl Recording {
    /// Begins with a file that was ordered, or says why not.
    pub(crate) fn of(record: Result<Record, RecordError>) -> Self {
        match record {
            Ok(record) => {
                tracing::info!(
                    event = "record.begun",
                    file = %record.path.display(),
                    "QMGR records the events and decisions of its scheduler"
                );
                Self::On(record)
            }
            Err(error) => {
                tracing::error!(
                    event = "record.not-begun",
                    error = &error as &dyn std::error::Error,
                    "QMGR records nothing, and works all the same"
                );
                Self::Ended { why: chain(&error), is_full: matches!(error, RecordError::Full { .. }) }
            }
        }
    }

    /// For who looks: null when nobody wants one.
    pub(crate) fn status(&self) -> Value {
        match self {
            Self::Off => Value::Null,
            Self::On(record) => json!({ "state": "recording", "file": record.path.display().to_string() }),
            Self::Ended { why, is_full } => {
                json!({ "state": if *is_full { "full" } else { "failed" }, "why": why })
            }
        }
    }

    fn record(&mut self) -> Option<&mut Record> {
        match self {
            Self::On(record) => Some(record),
            Self::Off | Self::Ended { .. } => None,
        }
    }

    /// A fresh scheduler begins.
    pub(crate) fn begin(&mut self, wall: UnixMillis) {
        self.step(|encoder| encoder.begin(env!("CARGO_PKG_VERSION"), wall));
    }

    /// The scheduler is about to be given this. It is recorded before: what a scheduler ends by is what is looked for.
    pub(crate) fn event(&mut self, now: UnixMillis, event: &Event) {
        self.step(|encoder| encoder.event(now, event));
    }

    /// It has answered this.
    pub(crate) fn actions(&mut self, actions: &[Action]) {
        self.step(|encoder| encoder.actions(actions));
        if self.record().is_some_and(|record| record.encoder.octets().len() >= PIECE_OCTETS) {
            self.write();
        }
    }

    /// How long what was recorded may still stay in memory; none when nothing does.
    pub(crate) fn due_in(&self) -> Option<Duration> {
        let Self::On(record) = self else { return None };
        let since = record.since?;
        Some(PIECE_AGE_MAX.saturating_sub(since.elapsed()))
    }

    /// Writes what has stayed in memory for long enough.
    pub(crate) fn keep(&mut self) {
        if self.due_in().is_some_and(|wait| wait.is_zero()) {
            self.write();
        }
    }

    fn step(&mut self, enter: impl FnOnce(&mut Encoder) -> Result<(), EncodeError>) {
        let Some(record) = self.record() else { return };
        let entered = enter(&mut record.encoder);
        if record.since.is_none() && !record.encoder.octets().is_empty() {
            record.since = Some(Instant::now());
        }
        let Err(error) = entered else { return };
        self.write();
        // A write that has failed has ended it already.
        if let Some(record) = self.record() {
            tracing::warn!(
                event = "record.ended",
                file = %record.path.display(),
                why = %error,
                "QMGR records no more; it goes on without"
            );
            let why = format!("{}: {error}", record.path.display());
            *self = Self::Ended { why, is_full: error == EncodeError::Full };
        }
    }

    fn write(&mut self) {
        let Some(record) = self.record() else { return };
        let Err(error) = record.write() else { return };
        tracing::error!(
            event = "record.failed",
            file = %record.path.display(),
            error = &error as &dyn std::error::Error,
            "QMGR records no more, though the bound is not reached; it decides as before"
        );
        // What the file has not taken is not tried again.
        record.encoder.clear();
        let why = format!("{}: {}", record.path.display(), chain(&error));
        *self = Self::Ended { why, is_full: false };
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails here, with the place")]
mod tests {
    use super::*;
    use sternpost_scheduler::journal::{Decoder, Entry};

    fn read(path: &Path) -> Vec<Entry> {
        let mut decoder = Decoder::default();
        decoder.feed(&std::fs::read(path).unwrap());
        std::iter::from_fn(|| decoder.next_entry().transpose()).collect::<Result<_, _>>().unwrap()
    }

    fn numbered(path: &Path, number: u64) -> PathBuf {
        PathBuf::from(format!("{}.{number}", path.display()))
    }

    fn begun(path: &Path, octets_max: u64) -> Recording {
        let mut recording = Recording::of(Record::open(path, octets_max));
        recording.begin(UnixMillis(1));
        recording
    }

    #[test]
    fn what_is_recorded_is_in_the_file_soon_or_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        let mut recording = begun(&path, 100_000);
        recording.keep();
        assert!(recording.due_in().is_some_and(|wait| wait <= PIECE_AGE_MAX));
        while recording.due_in().is_some() {
            recording.keep();
        }
        let file = numbered(&path, 1);
        assert_eq!(read(&file).len(), 1);
        recording.event(UnixMillis(2), &Event::Go);
        drop(recording);
        assert_eq!(read(&file).len(), 2);
    }

    #[test]
    fn each_life_has_a_file_of_its_own_and_what_is_there_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        // Whatever it is: nothing reads it at a start.
        std::fs::write(numbered(&path, 9), "minutes of a meeting").unwrap();
        std::fs::create_dir(numbered(&path, 10)).unwrap();
        std::os::unix::fs::symlink(folder.path().join("elsewhere"), numbered(&path, 11)).unwrap();
        for name in ["events.journal", "events.007", "events.", "events.-1", "other.99", "events"] {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        drop(begun(&path, 100_000));
        let begun_beside = begun(&path, 100_000);
        drop(begun(&path, 100_000));
        drop(begun_beside);
        let numbers: Vec<_> = recorded_files(&path).unwrap().into_iter().map(|(number, _)| number).collect();
        assert_eq!(numbers, [9, 10, 11, 12, 13, 14]);
        for number in 12..15 {
            assert!(matches!(read(&numbered(&path, number))[..], [Entry::Begin { .. }]));
        }
        assert_eq!(std::fs::read(numbered(&path, 9)).unwrap(), b"minutes of a meeting");
        assert!(!folder.path().join("elsewhere").exists());
    }

    #[test]
    fn a_recording_ends_at_the_bound_of_all_its_files_and_is_not_taken_up_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        let octets_max = 140_000;
        drop(begun(&path, octets_max));
        let mut recording = begun(&path, octets_max);
        for at in 0..20_000 {
            recording.event(UnixMillis(at), &Event::Wake);
            recording.actions(&[]);
        }
        assert_eq!(recording.status()["state"], "full");
        assert_eq!(read(&numbered(&path, 2)).last(), Some(&Entry::Full));
        let lengths =
            recorded_files(&path).unwrap().into_iter().map(|(_, file)| file.metadata().unwrap().len());
        let octets: u64 = lengths.sum();
        assert!(octets <= octets_max && octets > 100_000, "{octets}");
        let refused = Recording::of(Record::open(&path, octets_max)).status();
        assert_eq!(refused["state"], "full", "{refused}");
        drop(begun(&path, 2 * octets_max));
        assert!(numbered(&path, 3).exists(), "a larger bound has room again");
    }

    #[test]
    fn a_recording_has_so_many_files_and_where_none_can_be_made_it_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        for number in 1..=FILES_MAX as u64 {
            std::fs::write(numbered(&path, number), "").unwrap();
        }
        assert!(matches!(Record::open(&path, 100_000), Err(RecordError::ManyFiles { .. })));
        std::fs::remove_file(numbered(&path, 1)).unwrap();
        assert!(Record::open(&path, 100_000).is_ok());
        let elsewhere = folder.path().join("absent").join("events");
        assert!(matches!(Record::open(&elsewhere, 100_000), Err(RecordError::File { .. })));
    }

    #[test]
    fn a_disk_that_takes_no_more_ends_the_recording_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let mut recording = begun(&folder.path().join("events"), 100_000);
        recording.record().unwrap().file = OpenOptions::new().write(true).open("/dev/full").unwrap();
        recording.write();
        assert_eq!(recording.status()["state"], "failed");
        recording.event(UnixMillis(1), &Event::Go);
        assert_eq!(recording.due_in(), None);
    }

    #[test]
    fn a_recording_leaves_half_of_a_small_file_system_and_256_mib_of_a_large_one() {
        const MIB: u64 = 1 << 20;
        // Octets of the file system, what is free, and whether one mebioctet more may be written.
        let rows = [
            (100 * MIB, 51 * MIB, true),
            (100 * MIB, 51 * MIB - 1, false),
            (1 << 40, 257 * MIB, true),
            (1 << 40, 257 * MIB - 1, false),
            // Without a bound of its own.
            (0, 0, true),
        ];
        for (octets, free_octets, is_room) in rows {
            let space = Space { octets, free_octets };
            assert_eq!(has_room(space, 1 << 20).is_ok(), is_room, "{space:?}");
        }
    }

    #[test]
    fn a_recording_that_would_fill_the_state_partition_ends_and_says_why() {
        const NEARLY_FULL: SpaceOf = |_| Ok(Space { octets: 120 << 20, free_octets: 60 << 20 });
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        let mut recording = begun(&path, 100_000);
        recording.write();
        let file = numbered(&path, 1);
        let recorded = std::fs::read(&file).unwrap();
        recording.event(UnixMillis(1), &Event::Go);
        recording.record().unwrap().space_of = NEARLY_FULL;
        recording.write();
        let status = recording.status();
        assert_eq!(status["state"], "failed");
        let why = status["why"].as_str().unwrap();
        assert!(why.contains("has 60 MiB free, and less than 60 MiB would stay free: make room"), "{why}");
        recording.event(UnixMillis(2), &Event::Go);
        drop(recording);
        assert_eq!(std::fs::read(&file).unwrap(), recorded, "no octet more");
        let status = Recording::of(Record::open_in(&path, 10_000_000, NEARLY_FULL)).status();
        assert!(!numbered(&path, 2).exists(), "none was made");
        let why = format!(
            "{} cannot be recorded into: its file system has 60 MiB free, and less than 60 MiB would stay free: make room, or record elsewhere",
            path.display()
        );
        assert_eq!(status, json!({ "state": "failed", "why": why }));
    }
}
