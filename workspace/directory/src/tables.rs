//! Tables as the source: one file, read again when it changes.

use crate::{DirectoryStatus, Handover};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use sternpost_config::{Entry, entries_from_tables};
use tokio::sync::mpsc::Sender;

/// How often the file is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Larger than any sensible set of tables: 64 MiB. A device or an endless file is not read to its end.
const OCTETS_MAX: u64 = 64 << 20;

/// Hands over the entries of a TOML file, and again whenever its time, size or place on disk changes.
///
/// A file that is not of the right form (being edited, perhaps) hands over a status that says why, and no entries.
/// Returns when nobody takes handovers any more.
pub async fn watch_tables(path: PathBuf, handover: Sender<Handover>) {
    let mut known: Option<Result<Stamp, std::io::ErrorKind>> = None;
    let mut last: Option<Vec<Entry>> = None;
    while !handover.is_closed() {
        let found = Stamp::of(&path).map_err(|error| error.kind());
        if known.as_ref() != Some(&found) {
            let outcome = read(&path);
            let (connected, text) = match &outcome {
                Ok(entries) => (true, format!("{} tables read", entries.len())),
                Err(reason) => (false, reason.clone()),
            };
            let uri = path.display().to_string();
            if !connected {
                tracing::warn!(file = uri, reason = text, "the tables are not usable");
            }
            let status = DirectoryStatus { connected, since: crate::now(), uri, text };
            if handover.send(Handover::Status(status)).await.is_err() {
                return;
            }
            if let Ok(entries) = outcome
                && last.as_ref() != Some(&entries)
            {
                last = Some(entries.clone());
                if handover.send(Handover::Entries(entries)).await.is_err() {
                    return;
                }
            }
            // The stamp is from before reading: a change in between shows the next time.
            known = Some(found);
        }
        tokio::select! {
            () = tokio::time::sleep(POLL_INTERVAL) => {}
            () = handover.closed() => return,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    modified: SystemTime,
    octets: u64,
    /// An editor that writes a new file and renames it may keep time and size.
    inode: u64,
}

impl Stamp {
    fn of(path: &Path) -> std::io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        let inode = std::os::unix::fs::MetadataExt::ino(&metadata);
        Ok(Self { modified: metadata.modified()?, octets: metadata.len(), inode })
    }
}

fn read(path: &Path) -> Result<Vec<Entry>, String> {
    let file = std::fs::File::open(path).map_err(|error| format!("cannot read the file: {error}"))?;
    entries_from_tables(&read_text(file, OCTETS_MAX)?).map_err(|error| error.to_string())
}

/// All of it, or why not. One octet more than `octets_max` is asked for, so that a part is never taken for the whole:
/// what it leaves out would go out of service.
fn read_text(file: impl Read, octets_max: u64) -> Result<String, String> {
    let mut octets = Vec::new();
    file.take(octets_max.saturating_add(1))
        .read_to_end(&mut octets)
        .map_err(|error| format!("cannot read the file: {error}"))?;
    if octets.len() as u64 > octets_max {
        return Err(format!("the file has more than {} MiB", octets_max >> 20));
    }
    String::from_utf8(octets).map_err(|error| format!("cannot read the file: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_over_the_limit_is_refused_and_never_read_in_part() {
        let two_mib = vec![b'#'; 2 << 20];
        assert_eq!(read_text(&two_mib[..], 2 << 20).unwrap().len(), 2 << 20);
        assert_eq!(read_text(&two_mib[..], (2 << 20) - 1), Err("the file has more than 1 MiB".to_owned()));
        assert_eq!(read_text(std::io::repeat(b'#'), 2 << 20), Err("the file has more than 2 MiB".to_owned()));
    }

    #[test]
    fn a_character_cut_by_the_limit_is_told_as_the_limit() {
        assert_eq!(read_text("ä".as_bytes(), 1), Err("the file has more than 0 MiB".to_owned()));
        assert!(read_text(&[0xff][..], 1).unwrap_err().starts_with("cannot read the file: "));
    }

    #[test]
    fn a_file_of_tables_over_the_limit_gives_no_entries() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tables.toml");
        std::fs::write(&path, "\n").unwrap();
        assert!(read(&path).is_ok());
        // A hole: its octets take no room on the disk.
        std::fs::File::options().write(true).open(&path).unwrap().set_len(OCTETS_MAX + 1).unwrap();
        assert_eq!(read(&path), Err("the file has more than 64 MiB".to_owned()));
    }
}
