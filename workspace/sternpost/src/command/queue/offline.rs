//! The log looked at without the store: opened for reading only, so that nothing is repaired, moved or created.
//!
//! Not while a switch runs on it: what is read would change on the way.

use super::{Listed, print_detail, print_list};
use crate::command::{CommandError, CommandResult, exit_code};
use crate::output;
use serde_json::{Value, json};
use std::fs::{File, TryLockError};
use std::io::{self, IsTerminal, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use sternpost_link::store::{MessageDetail, RecipientRecord};
use sternpost_message::MessageId;
use sternpost_queue::{AlignedBuffer, Damage, Disk, DiskError, Inspection, MessageFacts, Progress, inspect};

/// Lists what a log holds.
pub(super) fn list(path: &Path, limit: usize, json: bool) -> CommandResult {
    let inspection = open(path)?;
    warn_of_damage(&inspection);
    let messages: Vec<_> = inspection.messages().take(limit).map(|facts| listed(&facts)).collect();
    print_list(&messages, json);
    Ok(ExitCode::SUCCESS)
}

/// Shows one message of a log.
pub(super) fn show(path: &Path, id: MessageId, json: bool) -> CommandResult {
    let mut inspection = open(path)?;
    warn_of_damage(&inspection);
    let detail = match inspection.find(id) {
        None => None,
        Some(sequence) => inspection.message(sequence).map_err(failed(path))?,
    };
    print_detail(id, detail.map(detail_of).as_ref(), json)
}

/// Checks a whole log.
pub(super) fn verify(path: &Path, json: bool) -> CommandResult {
    let mut inspection = open(path)?;
    let mut meter = Meter::new("messages compared with their SHA-256");
    let damage = inspection.verify(&mut |progress| meter.show(progress)).map_err(failed(path))?;
    meter.clear();
    let report = inspection.report();
    let is_good = damage.is_empty() && report.damaged_messages.is_empty();
    let value = json!({
        "segments": inspection.geometry().segments,
        "segment_octets": inspection.geometry().segment_octets,
        "batches": report.batches,
        "records": report.records,
        "read_octets": report.read_octets,
        "messages": report.living_messages,
        "partials": inspection.partials().count(),
        "torn_tail": report.torn_tail,
        "damage": damage.iter().map(damage_json).collect::<Vec<_>>(),
        "damaged_messages": report.damaged_messages.iter().map(|(_, id)| id.to_string()).collect::<Vec<_>>(),
    });
    if json {
        output::print_json(&value);
    } else {
        let verdict = if is_good { "every octet that counts is as it was written" } else { "DAMAGED" };
        output::print(&format!("{}: {verdict}\n{}", path.display(), output::indented(&value)));
    }
    Ok(exit_code(is_good))
}

fn listed(facts: &MessageFacts) -> Listed {
    Listed {
        id: facts.id,
        sequence: facts.sequence,
        accepted_at: facts.accepted_at,
        precedence: facts.precedence.name(),
        content_octets: facts.content_octets,
        recipients_pending: facts.routes.iter().map(|route| super::recipients_count(&route.pending)).sum(),
        recipients_failed: super::recipients_count(&facts.failed),
        attempts: facts.routes.iter().map(|route| route.attempts).max().unwrap_or(0),
        routes: facts
            .routes
            .iter()
            .map(|route| format!("{}/{}", route.route.channel, route.route.peer))
            .collect(),
    }
}

fn detail_of(detail: sternpost_queue::MessageDetail) -> MessageDetail {
    let record = |record: sternpost_queue::RecipientRecord| RecipientRecord {
        state: record.state,
        attempts: record.attempts,
        delay_reported: record.delay_reported,
        last: record.last,
    };
    MessageDetail {
        id: detail.id,
        sequence: detail.sequence,
        envelope: (*detail.envelope).clone(),
        content_octets: detail.content_octets,
        recipients: detail.states.into_iter().map(record).collect(),
    }
}

fn damage_json(damage: &Damage) -> Value {
    json!({ "what": damage.what.to_string(), "offset": damage.offset, "octets": damage.octets })
}

fn warn_of_damage(inspection: &Inspection<ReadOnlyDisk>) {
    let report = inspection.report();
    let count = report.damage.len() + report.damaged_messages.len();
    if count > 0 {
        eprintln!("warning: {count} damaged places; sternpost queue verify --path LOG names them");
    }
}

fn failed<E: std::error::Error + 'static>(path: &Path) -> impl Fn(E) -> CommandError {
    move |error| CommandError::Log { path: path.to_owned(), source: Box::new(error) }
}

fn open(path: &Path) -> Result<Inspection<ReadOnlyDisk>, CommandError> {
    let disk = ReadOnlyDisk::open(path).map_err(failed(path))?;
    let mut meter = Meter::new("segments read");
    let inspection = inspect(disk, &mut |progress| meter.show(progress)).map_err(failed(path))?;
    meter.clear();
    Ok(inspection)
}

/// A file or device that is never written.
#[derive(Debug)]
struct ReadOnlyDisk {
    file: File,
    octets: u64,
    block_octets: u32,
}

impl ReadOnlyDisk {
    fn open(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        match file.try_lock_shared() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let what_to_do = "a switch runs on it; ask that one without --path, or stop it";
                return Err(io::Error::new(io::ErrorKind::WouldBlock, what_to_do));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let metadata = file.metadata()?;
        // A block device has no length of its own in its metadata, but an end.
        let octets = if metadata.file_type().is_block_device() {
            file.seek(SeekFrom::End(0))?
        } else {
            metadata.size()
        };
        Ok(Self { file, octets, block_octets: 4_096 })
    }
}

impl Disk for ReadOnlyDisk {
    fn octets(&self) -> u64 {
        self.octets
    }

    fn block_octets(&self) -> u32 {
        self.block_octets
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        self.file.read_exact_at(into, offset).map_err(|error| DiskError::Device {
            action: "read",
            offset,
            reason: error.to_string(),
        })
    }

    fn start_write(&mut self, offset: u64, _buffer: AlignedBuffer) -> Result<(), DiskError> {
        Err(read_only(offset))
    }

    fn finish_write(&mut self) -> Option<(AlignedBuffer, Result<(), DiskError>)> {
        None
    }

    fn write_now(&mut self, offset: u64, _buffer: &AlignedBuffer) -> Result<(), DiskError> {
        Err(read_only(offset))
    }
}

fn read_only(offset: u64) -> DiskError {
    DiskError::Device { action: "write", offset, reason: "the log is open for reading only".to_owned() }
}

/// Shows on a terminal how far a long reading is, four times a second.
struct Meter {
    what: &'static str,
    shown_at: Option<Instant>,
    started: Instant,
    is_terminal: bool,
}

impl Meter {
    fn new(what: &'static str) -> Self {
        Self { what, shown_at: None, started: Instant::now(), is_terminal: io::stderr().is_terminal() }
    }

    fn show(&mut self, progress: Progress) {
        let last = self.shown_at.unwrap_or(self.started);
        if self.is_terminal && last.elapsed() >= Duration::from_millis(250) {
            self.shown_at = Some(Instant::now());
            let _ = write!(io::stderr(), "\r{} of {} {}\x1b[K", progress.done, progress.total, self.what);
        }
    }

    fn clear(&self) {
        if self.shown_at.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_on_which_a_switch_runs_is_left_alone() {
        let log = tempfile::NamedTempFile::new().unwrap();
        log.as_file().try_lock().unwrap();
        let error = ReadOnlyDisk::open(log.path()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        log.as_file().unlock().unwrap();
        ReadOnlyDisk::open(log.path()).unwrap();
    }

    #[test]
    fn a_file_that_is_no_log_is_an_error_and_stays_as_it_is() {
        let log = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(log.path(), vec![7; 100_000]).unwrap();
        let error = verify(log.path(), true).unwrap_err();
        assert!(output::chain(&error).contains("this is no log"), "{error}");
        assert_eq!(std::fs::read(log.path()).unwrap(), vec![7; 100_000]);
    }
}
