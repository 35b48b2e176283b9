//! The log looked at without the store: opened for reading only, so that nothing is repaired, moved or created.
//!
//! Not while a switch runs on it: what is read would change on the way.

use super::detail::{print_absent, print_detail};
use super::listed::{Listed, print_list};
use super::meter::Meter;
use crate::command::{CommandError, CommandResult};
use crate::output::{self, counted};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::ExitCode;
use sternpost_link::store::Standing;
use sternpost_message::MessageId;
use sternpost_queue::{AlignedBuffer, DamagedPart, Disk, DiskError, Inspection, RecoveryReport, inspect};
use sternpost_store::translate;

/// Why a file or device cannot be looked at as a log.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlaceError {
    /// Nothing has this name.
    #[error(
        "nothing is there. Is the path right? It is the file or device that [queue] path of the bootstrap names; on the disk of a \
         device the partition named queue"
    )]
    Absent,
    /// It is somebody else's.
    #[error("permission denied; run the command as root, or as the user that owns the log")]
    Forbidden,
    /// A folder, a pipe, a terminal.
    #[error(
        "it is neither a file nor a block device. Is the path right? It is the file or device that [queue] path of the bootstrap \
         names; on the disk of a device the partition named queue"
    )]
    Kind,
    /// A store, or a command that writes, has it.
    #[error("a switch runs on it; ask that one without --path, or stop it")]
    InUse,
    /// The system refuses.
    #[error(transparent)]
    Io(io::Error),
}

impl From<io::Error> for PlaceError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Absent,
            io::ErrorKind::PermissionDenied => Self::Forbidden,
            _ => Self::Io(error),
        }
    }
}

/// Opens the file or device of a log on which no switch runs, locked for a reader.
///
/// # Errors
/// `PlaceError`; nothing was made or changed then.
pub(super) fn open_place(path: &Path, how: &mut OpenOptions) -> Result<File, PlaceError> {
    // Without, a pipe is not open before somebody writes to it.
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    // What is a folder is told as such, however it should be opened.
    let kind = std::fs::metadata(path)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(PlaceError::Kind);
    }
    let file = how.custom_flags(flags).open(path)?;
    match file.try_lock_shared() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(PlaceError::InUse),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

/// Lists what a log holds.
pub(super) fn list(path: &Path, limit: usize, json: bool) -> CommandResult {
    let inspection = open(path)?;
    warn_of_damage(path, inspection.report());
    warn_of_isolated(path, inspection.report());
    let messages: Vec<_> =
        inspection.messages().take(limit).map(|facts| Listed::of_facts(&translate::facts(facts))).collect();
    print_list(&messages, json);
    Ok(ExitCode::SUCCESS)
}

/// Shows one message of a log.
pub(super) fn show(path: &Path, id: MessageId, json: bool) -> CommandResult {
    let mut inspection = open(path)?;
    warn_of_damage(path, inspection.report());
    let detail = match inspection.find(id) {
        None => None,
        Some(sequence) => inspection.message(sequence).map_err(failed(path))?,
    };
    Ok(match detail {
        Some(detail) => print_detail(&translate::detail(detail), json),
        None => print_absent(id, absent(&inspection, id), json),
    })
}

/// Where a message stands that the log does not have.
pub(super) fn absent(inspection: &Inspection<ReadOnlyDisk>, id: MessageId) -> Standing {
    let is_partial = inspection.partials().any(|partial| partial.message == id);
    if is_partial { Standing::Partial } else { Standing::Unknown }
}

/// Places that may have held mail. A superblock and a header of a segment have none.
pub(super) fn damaged_places(report: &RecoveryReport) -> u64 {
    let holds_mail = |what| !matches!(what, DamagedPart::Superblock | DamagedPart::SegmentHeader);
    report.damage.iter().filter(|damage| holds_mail(damage.what)).count() as u64
}

/// That places are damaged, and what is therefore not done with what stood there.
pub(super) fn damage_words(path: &Path, places: u64, not_done: &str) -> String {
    let (are, them) = if places == 1 { ("is", "it") } else { ("are", "them") };
    format!(
        "{} of this log {are} damaged; what stood there is not {not_done}; sternpost queue verify --path {} names {them}",
        counted(places, "place"),
        output::printable(&path.display().to_string())
    )
}

/// Says on standard error that mail may be missing in what is listed.
pub(super) fn warn_of_damage(path: &Path, report: &RecoveryReport) {
    let places = damaged_places(report);
    if places > 0 {
        eprintln!("warning: {}", damage_words(path, places, "listed"));
    }
}

fn warn_of_isolated(path: &Path, report: &RecoveryReport) {
    let count = report.damaged_messages.len() as u64;
    if count > 0 {
        let messages = counted(count, "message");
        let path = output::printable(&path.display().to_string());
        eprintln!(
            "warning: a part of {messages} is lost; sternpost queue list --isolated --path {path} says which"
        );
    }
}

pub(super) fn failed<E: std::error::Error + 'static>(path: &Path) -> impl Fn(E) -> CommandError {
    move |error| CommandError::Log { path: path.to_owned(), source: Box::new(error) }
}

pub(super) fn open(path: &Path) -> Result<Inspection<ReadOnlyDisk>, CommandError> {
    let disk = ReadOnlyDisk::open(path).map_err(failed(path))?;
    let mut meter = Meter::new("segments read");
    let inspection =
        inspect(disk, &mut |progress| meter.show(progress.done, progress.total)).map_err(failed(path))?;
    meter.clear();
    Ok(inspection)
}

/// The same, and searched for what its damaged batches still have.
pub(super) fn searched(path: &Path) -> Result<Inspection<ReadOnlyDisk>, CommandError> {
    let mut inspection = open(path)?;
    let mut meter = Meter::new("segments searched");
    inspection.search(&mut |progress| meter.show(progress.done, progress.total)).map_err(failed(path))?;
    meter.clear();
    Ok(inspection)
}

/// A file or device that is never written.
#[derive(Debug)]
pub(super) struct ReadOnlyDisk {
    file: File,
    octets: u64,
    block_octets: u32,
}

impl ReadOnlyDisk {
    fn open(path: &Path) -> Result<Self, PlaceError> {
        let mut file = open_place(path, File::options().read(true))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_on_which_a_switch_runs_is_left_alone() {
        let log = tempfile::NamedTempFile::new().unwrap();
        log.as_file().try_lock().unwrap();
        assert!(matches!(ReadOnlyDisk::open(log.path()), Err(PlaceError::InUse)));
        log.as_file().unlock().unwrap();
        ReadOnlyDisk::open(log.path()).unwrap();
    }

    #[test]
    fn damage_is_counted_where_mail_may_have_stood_and_said_in_one_sentence() {
        let damage = |what| sternpost_queue::Damage { offset: 0, octets: 4_096, what };
        let parts = [DamagedPart::Superblock, DamagedPart::SegmentHeader, DamagedPart::Batches];
        let report = RecoveryReport { damage: parts.map(damage).to_vec(), ..RecoveryReport::default() };
        assert_eq!(damaged_places(&report), 1);
        let words = |places| damage_words(Path::new("/q/log"), places, "exported");
        let one = "1 place of this log is damaged; what stood there is not exported; sternpost queue verify --path /q/log names it";
        assert_eq!(words(1), one);
        assert!(
            words(2).starts_with("2 places of this log are damaged;") && words(2).ends_with("names them")
        );
    }
}
