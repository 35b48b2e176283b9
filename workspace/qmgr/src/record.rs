//! The recording: what the scheduler is given and answers, as a journal in a file. scheduler/JOURNAL.md.
//!
//! It is a guest. It holds at most a piece and one event in memory, waits for nothing but `write`, and ends by
//! itself when that fails or is slow: QMGR decides as it would without it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use sternpost_message::UnixMillis;
use sternpost_scheduler::journal::{Decoder, EncodeError, Encoder, JournalError};
use sternpost_scheduler::{Action, Event};

/// What is written at once, unless [`PIECE_AGE_MAX`] ends before.
const PIECE_OCTETS: usize = 64 << 10;
/// What was recorded is in the file by then.
const PIECE_AGE_MAX: Duration = Duration::from_millis(10);
/// A write that takes longer is the last one: decisions must not wait for a disk.
const WRITE_MAX: Duration = Duration::from_millis(250);

/// Why nothing is recorded.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file could not be opened, made, read or cut.
    #[error("{} cannot be {step}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Something else stands in its place.
    #[error("{} is no regular file: name one that is, or that is not there yet", path.display())]
    NotAFile {
        /// Which.
        path: PathBuf,
    },
    /// Another process records into it.
    #[error("another process records into {}", path.display())]
    InUse {
        /// Which.
        path: PathBuf,
    },
    /// What it holds is no journal, or not one to go on with. It is left as it is.
    #[error("{} is left as it is: move it away to record anew", path.display())]
    Held {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        source: JournalError,
    },
    /// It has no room for as much as is written at once.
    #[error("{} has reached record_octets_max: move it away to record anew, or raise the bound", path.display())]
    Full {
        /// Which.
        path: PathBuf,
    },
}

/// A journal that is being written.
#[derive(Debug)]
pub struct Record {
    file: File,
    path: PathBuf,
    encoder: Encoder,
    /// When the first of what is not in the file yet was recorded.
    since: Option<Instant>,
}

impl Record {
    /// Opens or makes the file, and goes on behind what it holds.
    ///
    /// # Errors
    /// `RecordError`; then the file is as it was.
    pub fn open(path: &Path, octets_max: u64) -> Result<Self, RecordError> {
        let failed = |step| move |source| RecordError::File { path: path.to_owned(), step, source };
        // Who may read it is the owner's to say: it names the peers of the site.
        let options =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).clone();
        let mut file = options.open(path).map_err(failed("opened"))?;
        if !file.metadata().map_err(failed("looked at"))?.is_file() {
            return Err(RecordError::NotAFile { path: path.to_owned() });
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(RecordError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(failed("locked")(source)),
        }
        let decoder = read_to_end(&mut file).map_err(failed("read"))?;
        let decoder = decoder.map_err(|source| RecordError::Held { path: path.to_owned(), source })?;
        let place = decoder.place();
        let encoder = if place.octets == 0 {
            Encoder::new(octets_max)
        } else if place.octets.saturating_add(PIECE_OCTETS as u64) > octets_max {
            return Err(RecordError::Full { path: path.to_owned() });
        } else {
            Encoder::after(place, octets_max)
        };
        if decoder.torn_octets() > 0 {
            file.set_len(place.octets).map_err(failed("cut at its last whole entry"))?;
        }
        file.seek(SeekFrom::Start(place.octets)).map_err(failed("written to"))?;
        Ok(Self { file, path: path.to_owned(), encoder, since: None })
    }

    /// Its file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn write(&mut self) -> io::Result<()> {
        self.since = None;
        let begin = Instant::now();
        self.file.write_all(self.encoder.octets())?;
        self.encoder.clear();
        let took = begin.elapsed();
        if took > WRITE_MAX {
            let words = format!("a write has taken {} ms, and decisions would wait", took.as_millis());
            return Err(io::Error::new(io::ErrorKind::TimedOut, words));
        }
        Ok(())
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // Nobody is left to be told of an error.
        let _ = self.file.write_all(self.encoder.octets());
    }
}

/// Reads a journal from where the file stands.
fn read_to_end(file: &mut File) -> io::Result<Result<Decoder, JournalError>> {
    let mut decoder = Decoder::default();
    let mut piece = vec![0; PIECE_OCTETS];
    loop {
        let count = match file.read(&mut piece) {
            Ok(0) => return Ok(Ok(decoder)),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        decoder.feed(&piece[..count]);
        loop {
            match decoder.next_entry() {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => return Ok(Err(error)),
            }
        }
    }
}

/// A recording that may be off, or over.
#[derive(Debug, Default)]
pub(crate) struct Recording(Option<Record>);

impl Recording {
    pub(crate) fn of(record: Record) -> Self {
        Self(Some(record))
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
        if self.0.as_ref().is_some_and(|record| record.encoder.octets().len() >= PIECE_OCTETS) {
            self.write();
        }
    }

    /// How long what was recorded may still stay in memory; none when nothing does.
    pub(crate) fn due_in(&self) -> Option<Duration> {
        let since = self.0.as_ref()?.since?;
        Some(PIECE_AGE_MAX.saturating_sub(since.elapsed()))
    }

    /// Writes what has stayed in memory for long enough.
    pub(crate) fn keep(&mut self) {
        if self.due_in().is_some_and(|wait| wait.is_zero()) {
            self.write();
        }
    }

    fn step(&mut self, enter: impl FnOnce(&mut Encoder) -> Result<(), EncodeError>) {
        let Some(record) = &mut self.0 else { return };
        let entered = enter(&mut record.encoder);
        if record.since.is_none() && !record.encoder.octets().is_empty() {
            record.since = Some(Instant::now());
        }
        let Err(error) = entered else { return };
        self.write();
        // A write that has failed has ended it already.
        if let Some(record) = self.0.take() {
            tracing::warn!(
                event = "record.ended",
                file = %record.path.display(),
                why = %error,
                "QMGR records no more; it goes on without"
            );
        }
    }

    fn write(&mut self) {
        let Some(record) = &mut self.0 else { return };
        let Err(error) = record.write() else { return };
        tracing::error!(
            event = "record.failed",
            file = %record.path.display(),
            error = &error as &dyn std::error::Error,
            "QMGR records no more, because its file cannot be written; it goes on without"
        );
        if let Some(mut record) = self.0.take() {
            // What the file has not taken is not tried again.
            record.encoder.clear();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails here, with the place")]
mod tests {
    use super::*;
    use sternpost_scheduler::journal::Entry;

    fn read(path: &Path) -> Vec<Entry> {
        let mut decoder = Decoder::default();
        decoder.feed(&std::fs::read(path).unwrap());
        std::iter::from_fn(|| decoder.next_entry().transpose()).collect::<Result<_, _>>().unwrap()
    }

    fn begun(path: &Path, octets_max: u64) -> Recording {
        let mut recording = Recording::of(Record::open(path, octets_max).unwrap());
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
        assert_eq!(read(&path).len(), 1);
        recording.event(UnixMillis(2), &Event::Go);
        drop(recording);
        assert_eq!(read(&path).len(), 2);
    }

    #[test]
    fn the_next_life_goes_on_behind_a_torn_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        drop(begun(&path, 100_000));
        let mut torn = std::fs::read(&path).unwrap();
        torn.extend_from_within(16..20);
        std::fs::write(&path, torn).unwrap();
        drop(begun(&path, 100_000));
        assert_eq!(read(&path).len(), 2);
    }

    #[test]
    fn a_recording_ends_at_its_bound_and_is_not_taken_up_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        let octets_max = 70_000;
        let mut recording = begun(&path, octets_max);
        for at in 0..10_000 {
            recording.event(UnixMillis(at), &Event::Wake);
            recording.actions(&[]);
        }
        assert!(recording.0.is_none());
        assert_eq!(read(&path).last(), Some(&Entry::Full));
        assert!(std::fs::metadata(&path).unwrap().len() <= octets_max);
        assert!(matches!(Record::open(&path, octets_max), Err(RecordError::Full { .. })));
        drop(begun(&path, 2 * octets_max));
        assert!(
            matches!(read(&path)[..], [.., Entry::Full, Entry::Begin { .. }]),
            "a larger bound has room again"
        );
    }

    #[test]
    fn what_is_no_journal_or_is_in_use_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        std::fs::write(&path, "minutes of a meeting").unwrap();
        assert!(matches!(Record::open(&path, 10_000), Err(RecordError::Held { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), b"minutes of a meeting");
        let other = folder.path().join("other");
        let _held = Record::open(&other, 100_000).unwrap();
        assert!(matches!(Record::open(&other, 100_000), Err(RecordError::InUse { .. })));
        assert!(matches!(Record::open(Path::new("/dev/null"), 10_000), Err(RecordError::NotAFile { .. })));
        assert!(matches!(Record::open(folder.path(), 10_000), Err(RecordError::File { .. })));
    }

    #[test]
    fn a_disk_that_takes_no_more_ends_the_recording_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let mut recording = begun(&folder.path().join("events"), 10_000);
        recording.0.as_mut().unwrap().file = OpenOptions::new().write(true).open("/dev/full").unwrap();
        recording.write();
        assert!(recording.0.is_none());
        recording.event(UnixMillis(1), &Event::Go);
        assert_eq!(recording.due_in(), None);
    }
}
