//! QMGR's time: lived time from the system's clocks, and the file that keeps the jumps of the wall clock for the next
//! life. The arithmetic is `scheduler`'s.

use serde_json::{Value, json};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use sternpost_message::{MessageSequence, UnixMillis};
use sternpost_platform::clock::Timepiece;
use sternpost_scheduler::{Jump, LivedTime};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The clocks, and the jumps of one of them.
#[derive(Debug)]
pub struct Clocks<T> {
    timepiece: T,
    lived: LivedTime,
    file: PathBuf,
    newest: MessageSequence,
}

impl<T: Timepiece> Clocks<T> {
    /// Begins, with the jumps that an earlier life has kept in the state directory.
    pub fn new(state_directory: &Path, timepiece: T) -> Self {
        let file = state_directory.join("clock-jumps.json");
        let jumps = match load(&file) {
            Ok(jumps) => jumps,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                tracing::error!(event = "clock.jumps.unreadable", error = &error as &dyn std::error::Error, file = %file.display(), "how the clock was set in an earlier life is not known; mail of that time may be given up early");
                Vec::new()
            }
        };
        let lived = LivedTime::new(timepiece.wall(), timepiece.counted_ms(), jumps);
        Self { timepiece, lived, file, newest: MessageSequence(0) }
    }

    /// Now, in lived time.
    pub fn now(&self) -> UnixMillis {
        self.lived.now(self.counted_ms())
    }

    /// What the wall clock says.
    pub(crate) fn wall(&self) -> UnixMillis {
        self.timepiece.wall()
    }

    /// Milliseconds by the clock that nobody sets.
    pub(crate) fn counted_ms(&self) -> u64 {
        self.timepiece.counted_ms()
    }

    /// When this process began, in lived time.
    pub(crate) const fn started(&self) -> UnixMillis {
        self.lived.started()
    }

    /// Looks whether the wall clock was set. True when it was.
    pub(crate) fn observe(&mut self) -> bool {
        let (wall, counted_ms) = (self.timepiece.wall(), self.counted_ms());
        let Some(jump) = self.lived.observe(wall, counted_ms, self.newest) else {
            return false;
        };
        tracing::warn!(
            event = "clock.jump",
            before = rfc3339(jump.before),
            after = rfc3339(jump.after),
            "the clock was set; the age of the mail that waits does not change by it"
        );
        self.save();
        true
    }

    /// When a message was accepted, in lived time.
    pub(crate) fn accepted(&mut self, message: MessageSequence, stamp: UnixMillis) -> UnixMillis {
        self.newest = self.newest.max(message);
        let (at, has_changed) = self.lived.accepted(message, stamp, self.timepiece.counted_ms());
        if has_changed {
            self.save();
        }
        at
    }

    /// Forgets the jumps that concern no living message.
    pub(crate) fn forget_before(&mut self, oldest: MessageSequence) {
        if self.lived.forget_before(oldest) {
            self.save();
        }
    }

    /// The lived instant that people mean by an instant of the wall clock.
    pub(crate) fn lived_of(&self, wall: UnixMillis) -> UnixMillis {
        self.lived.lived_of(wall)
    }

    /// A lived instant for people.
    pub(crate) fn name(&self, lived: UnixMillis) -> String {
        rfc3339(self.lived.wall_of(lived))
    }

    fn save(&self) {
        if let Err(error) = save(&self.file, self.lived.jumps()) {
            tracing::error!(event = "clock.jumps.not-saved", error = &error as &dyn std::error::Error, file = %self.file.display(), "after a restart, mail accepted before the clock was set may be given up early");
        }
    }
}

fn rfc3339(at: UnixMillis) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.0) * 1_000_000)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{} ms", at.0))
}

fn load(file: &Path) -> io::Result<Vec<Jump>> {
    let jump = |value: &Value| {
        let number = |key: &str| value[key].as_u64();
        Some(Jump {
            through: MessageSequence(number("through")?),
            before: UnixMillis(number("before_ms")?),
            counted_from: UnixMillis(number("counted_from_ms")?),
            after: UnixMillis(number("after_ms")?),
        })
    };
    let value: Value = serde_json::from_slice(&std::fs::read(file)?)?;
    value
        .as_array()
        .and_then(|jumps| jumps.iter().map(jump).collect())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it is no list of jumps"))
}

fn save(file: &Path, jumps: &[Jump]) -> io::Result<()> {
    let jump = |jump: &Jump| {
        json!({
            "through": jump.through.0,
            "before_ms": jump.before.0,
            "counted_from_ms": jump.counted_from.0,
            "after_ms": jump.after.0,
        })
    };
    let value = Value::Array(jumps.iter().map(jump).collect());
    let new = file.with_extension("new");
    let mut written = std::fs::File::create(&new)?;
    written.write_all(value.to_string().as_bytes())?;
    written.sync_all()?;
    std::fs::rename(new, file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sternpost_platform::clock::SystemClocks;

    #[test]
    fn jumps_are_read_back_as_they_were_kept_and_a_damaged_file_is_told_apart_from_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("clock-jumps.json");
        assert_eq!(load(&file).unwrap_err().kind(), io::ErrorKind::NotFound);
        let jump = Jump {
            through: MessageSequence(7),
            before: UnixMillis(1_000),
            counted_from: UnixMillis(0),
            after: UnixMillis(1_700_000_000_000),
        };
        save(&file, &[jump]).unwrap();
        assert_eq!(load(&file).unwrap(), [jump]);
        for damaged in ["", "{}", "[{}]", "[{\"through\": -1}]"] {
            std::fs::write(&file, damaged).unwrap();
            assert_ne!(load(&file).unwrap_err().kind(), io::ErrorKind::NotFound, "{damaged}");
            assert_eq!(Clocks::new(folder.path(), SystemClocks).lived.jumps(), []);
        }
    }
}
