//! The log without the store's process: what a command writes into it while no switch runs on it.
//!
//! It takes the lock that the store takes, and appends by the same rules. Not here: reading for its own sake, which needs no
//! lock of a writer (`sternpost queue` does it).

use crate::service::tell_alarm;
use crate::{StoreError, translate};
use std::path::{Path, PathBuf};
use std::time::Duration;
use sternpost_link::store::{Append, Lane, Refusal, Standing};
use sternpost_message::{MessageId, UnixMillis};
use sternpost_platform::clock::Clock;
use sternpost_platform::disk::{DiskBackend, DiskOpenError, LogDisk, open_log_disk};
use sternpost_queue::{Log, LogEvent, OpenError, Parameters};

/// How long an answer is waited for while nothing is written: longer than a place that the disk does not read is asked again.
const ANSWER_MAX_MS: u64 = 30_000;

/// The number of a set, and what became of it.
pub type Answer = (u64, Result<(), Refusal>);

/// A log that nobody else has open.
pub struct OfflineLog {
    log: Log<LogDisk>,
    clock: Clock,
    /// Sets without an answer.
    sets_open: usize,
    /// Messages of which a part was not found: content or envelope.
    isolated: Vec<MessageId>,
    path: PathBuf,
}

impl OfflineLog {
    /// Takes the log, as the store does at its start. None is made where there is none.
    ///
    /// # Errors
    /// `Device` when somebody else has it (a switch runs on it), `NoLog`, `Recover`.
    pub fn take(path: &Path) -> Result<Self, StoreError> {
        let look = |source| DiskOpenError::Step { step: "look at", path: path.to_owned(), source };
        if !path.try_exists().map_err(|error| StoreError::Device(look(error)))? {
            return Err(StoreError::NoLog { path: path.to_owned() });
        }
        let clock = Clock::default();
        let disk = open_log_disk(path, DiskBackend::Dsync, 0).map_err(StoreError::Device)?;
        let recover = |source| StoreError::Recover { path: path.to_owned(), source };
        if disk.is_blank().map_err(|error| recover(error.into()))? {
            return Err(recover(OpenError::NoLog));
        }
        let (log, report) = Log::open(disk, Parameters::default(), clock.now()).map_err(recover)?;
        let isolated = report.damaged_messages.iter().map(|(_, id)| *id).collect();
        Ok(Self { log, clock, sets_open: 0, isolated, path: path.to_owned() })
    }

    /// Where a message stands.
    #[must_use]
    pub fn standing(&self, message: MessageId) -> Standing {
        translate::standing(&self.log, message, |_| self.isolated.contains(&message))
    }

    /// Gives a set to the log; its answer comes with its number from [`Self::settle`].
    ///
    /// # Errors
    /// What the log refuses at once.
    pub fn append(&mut self, lane: Lane, records: Vec<Append<'_>>, number: u64) -> Result<(), Refusal> {
        let set = translate::set(records);
        let appended = self.log.append(self.clock.now(), translate::lane(lane), set, number);
        appended.map_err(|error| translate::refusal(&error))?;
        self.sets_open += 1;
        Ok(())
    }

    /// Writes what waits, and waits for it; also, for a while, for what the log puts off. Gives the number of each set that was
    /// answered, with the refusal of one that was refused.
    ///
    /// # Errors
    /// `Watch` when the end of a write cannot be waited for.
    pub fn settle(&mut self) -> Result<Vec<Answer>, StoreError> {
        let mut answers = Vec::new();
        let until = self.clock.now().plus_ms(ANSWER_MAX_MS);
        loop {
            self.log.drive(self.clock.now());
            let mut is_quiet = true;
            while let Some(event) = self.log.poll() {
                is_quiet = false;
                match event {
                    LogEvent::Committed { ticket } => answers.push((ticket, Ok(()))),
                    LogEvent::Refused { ticket, error } => {
                        answers.push((ticket, Err(translate::refusal(&error))));
                    }
                    LogEvent::Alarm(alarm) => tell_alarm(&alarm),
                    LogEvent::Accepted { .. } | LogEvent::Outcome { .. } | LogEvent::Dead { .. } => {}
                }
            }
            if self.log.is_writing() {
                self.log.disk().wait().map_err(StoreError::Watch)?;
            } else if is_quiet {
                let is_waited_for = |at: &UnixMillis| answers.len() < self.sets_open && *at <= until;
                let Some(later) = self.log.wake_at().filter(is_waited_for) else {
                    self.sets_open -= answers.len();
                    return Ok(answers);
                };
                std::thread::sleep(Duration::from_millis(later.since_ms(self.clock.now())));
            }
        }
    }

    /// File or device.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sternpost_message::{Diagnostic, EnhancedStatus, Outcome, RecipientRange, sample};
    use sternpost_queue::{Geometry, HEAD_OCTETS};

    #[test]
    fn a_log_is_neither_made_nor_taken_from_the_one_who_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        assert!(matches!(OfflineLog::take(&path), Err(StoreError::NoLog { .. })));
        assert!(!path.exists());
        std::fs::write(&path, vec![0; 2 * usize::try_from(HEAD_OCTETS).unwrap()]).unwrap();
        assert!(matches!(OfflineLog::take(&path), Err(StoreError::Recover { source: OpenError::NoLog, .. })));
        let circle = folder.path().join("circle");
        std::os::unix::fs::symlink(&circle, &circle).unwrap();
        assert!(matches!(OfflineLog::take(&circle), Err(StoreError::Device(_))));
        let geometry = Geometry { segment_octets: 1 << 20, segments: 8 };
        std::fs::write(&path, vec![0; usize::try_from(geometry.octets()).unwrap()]).unwrap();
        let disk = open_log_disk(&path, DiskBackend::Dsync, 0).unwrap();
        drop(Log::create(disk, geometry, [7; 16]).unwrap());
        let mut log = OfflineLog::take(&path).unwrap();
        assert!(matches!(OfflineLog::take(&path), Err(StoreError::Device(_))));
        let message = MessageId([1; 16]);
        assert_eq!(log.standing(message), Standing::Unknown);
        let content = Append::Content { message, index: 0, octets: b"octets" };
        log.append(Lane::Normal, vec![content], 7).unwrap();
        assert_eq!(log.settle().unwrap(), [(7, Ok(()))]);
        assert_eq!(log.standing(message), Standing::Partial);
    }

    #[test]
    fn what_the_log_puts_off_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let geometry = Geometry { segment_octets: 1 << 20, segments: 8 };
        std::fs::write(&path, vec![0; usize::try_from(geometry.octets()).unwrap()]).unwrap();
        let disk = open_log_disk(&path, DiskBackend::Dsync, 0).unwrap();
        drop(Log::create(disk, geometry, [7; 16]).unwrap());
        let mut log = OfflineLog::take(&path).unwrap();
        let message = MessageId([1; 16]);
        let content = Append::Content { message, index: 0, octets: b"octets" };
        log.append(Lane::Normal, vec![content, envelope(message)], 1).unwrap();
        assert_eq!(log.settle().unwrap(), [(1, Ok(()))]);
        let Standing::Living(sequence) = log.standing(message) else { panic!() };
        let diagnostic = Diagnostic::own(EnhancedStatus::new(2, 0, 0), "done");
        let everybody = RecipientRange { first: 0, count: 1 };
        let outcomes = vec![(everybody, Outcome::Delivered(diagnostic))];
        log.append(Lane::Outcome, vec![Append::Outcome { message: sequence, outcomes }], 2).unwrap();
        assert_eq!(log.settle().unwrap(), [(2, Ok(()))]);
        assert_eq!(log.standing(message), Standing::Dead);
    }

    fn envelope(message: MessageId) -> Append<'static> {
        let envelope = sample::envelope(&["a@b.example"], ("smtp", "hub"));
        Append::Envelope { message, envelope: Box::new(envelope), content_octets: 6, content_sha256: [0; 32] }
    }
}
