//! Tables as the source: one file, read again when it changes.

use crate::{DirectoryStatus, Handover};
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
    use std::io::Read;
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| format!("cannot read the file: {error}"))?;
    file.take(OCTETS_MAX)
        .read_to_string(&mut text)
        .map_err(|error| format!("cannot read the file: {error}"))?;
    entries_from_tables(&text).map_err(|error| error.to_string())
}
