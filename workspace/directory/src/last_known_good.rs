//! The last known good configuration: the entries in force, on disk, so that the switch boots without its directory.
//!
//! The file: one line `sternpost-last-known-good 1 <SHA-256 of the rest, hexadecimal> <octets of the rest>`, then the
//! entries as JSON. It is written beside its place, synced, renamed, and the folder synced: after a loss of power it
//! is the old one or the new one, and what is neither does not load. Verifiers of passwords may be in it: its owner alone
//! reads it.

use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use sternpost_config::Entry;

const MAGIC: &str = "sternpost-last-known-good 1";

/// Larger than any configuration: 256 MiB.
const OCTETS_MAX: u64 = 256 << 20;

/// Why the file could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum LastKnownGoodError {
    /// There is none yet: the first boot.
    #[error("there is no last known good configuration at {0}")]
    Missing(PathBuf),
    /// The disk said no.
    #[error("cannot {step} {path}")]
    File {
        /// What was being done.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what was written.
    #[error("{path} is damaged: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How that shows.
        reason: &'static str,
    },
}

/// Replaces the file; once it returns, the new one survives the loss of power.
///
/// # Errors
/// `File`: the old file is still there.
pub fn save(path: &Path, entries: &[Entry]) -> Result<(), LastKnownGoodError> {
    let failed = |step| move |source| LastKnownGoodError::File { step, path: path.to_owned(), source };
    let body = serde_json::to_vec_pretty(entries).map_err(|error| failed("encode")(error.into()))?;
    let head = format!("{MAGIC} {} {}\n", digest(&body), body.len());
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&beside).map_err(failed("create a file beside"))?;
    file.write_all(head.as_bytes()).map_err(failed("write"))?;
    file.write_all(&body).map_err(failed("write"))?;
    file.sync_all().map_err(failed("sync"))?;
    std::fs::rename(&beside, path).map_err(failed("replace"))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync the folder of"))
}

/// Reads the file and checks that it is what was written.
///
/// # Errors
/// `Missing` at the first boot, `Damaged` when a single octet differs.
pub fn load(path: &Path) -> Result<Vec<Entry>, LastKnownGoodError> {
    let damaged = |reason| LastKnownGoodError::Damaged { path: path.to_owned(), reason };
    let file = File::open(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => LastKnownGoodError::Missing(path.to_owned()),
        _ => LastKnownGoodError::File { step: "open", path: path.to_owned(), source },
    })?;
    let mut octets = Vec::new();
    file.take(OCTETS_MAX).read_to_end(&mut octets).map_err(|source| LastKnownGoodError::File {
        step: "read",
        path: path.to_owned(),
        source,
    })?;
    let line_end =
        octets.iter().position(|&octet| octet == b'\n').ok_or_else(|| damaged("it has no first line"))?;
    let (head, body) = (&octets[..line_end], &octets[line_end + 1..]);
    let wanted = format!("{MAGIC} {} {}", digest(body), body.len());
    if head != wanted.as_bytes() {
        return Err(damaged("its checksum, length or version is another"));
    }
    serde_json::from_slice(body).map_err(|_| damaged("it holds no entries"))
}

fn digest(octets: &[u8]) -> String {
    Sha256::digest(octets).iter().map(|octet| format!("{octet:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<Entry> {
        vec![Entry {
            uuid: "u".into(),
            dn: "cn=a,dc=lab".into(),
            attributes: [("cn".to_owned(), vec!["a".to_owned(), "ä\n".to_owned()])].into(),
        }]
    }

    #[test]
    fn what_was_saved_is_loaded_and_replaces_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("last-known-good");
        assert!(matches!(load(&path), Err(LastKnownGoodError::Missing(_))));
        save(&path, &[]).unwrap();
        save(&path, &entries()).unwrap();
        assert_eq!(load(&path).unwrap(), entries());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_with_any_octet_changed_or_cut_off_does_not_load() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("last-known-good");
        save(&path, &entries()).unwrap();
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            assert!(matches!(load(&path), Err(LastKnownGoodError::Damaged { .. })), "octet {at}");
            std::fs::write(&path, &good[..at]).unwrap();
            assert!(matches!(load(&path), Err(LastKnownGoodError::Damaged { .. })), "{at} octets");
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        let path = Path::new("/nonexistent/last-known-good");
        assert!(matches!(save(path, &[]), Err(LastKnownGoodError::File { .. })));
    }
}
