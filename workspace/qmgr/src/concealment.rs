//! The secret by which `smtp-server` conceals which users there are: made once, kept for the life of the switch.
//!
//! With another secret unknown users would seem to have another salt, and known ones the same as before. So it lies beside the
//! last known good configuration, and only QMGR's user reads it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use sternpost_config::ConcealmentSecret;
use sternpost_platform::process;

/// The name of the file: 32 octets.
const FILE: &str = "concealment-secret";

/// The secret of this switch. One that cannot be kept serves until QMGR ends, and that is said.
pub(crate) fn secret(state_directory: &Path) -> ConcealmentSecret {
    let path = state_directory.join(FILE);
    let made = match read(&path) {
        Ok(secret) => return secret,
        Err(_) => ConcealmentSecret(process::random()),
    };
    if let Err(error) = write(&path, &made) {
        tracing::warn!(
            event = "concealment.not-saved",
            error = &error as &dyn std::error::Error,
            file = %path.display(),
            "the secret that conceals users cannot be kept: after a restart a stranger may tell unknown names from known ones"
        );
    }
    made
}

fn read(path: &Path) -> io::Result<ConcealmentSecret> {
    let mut secret = ConcealmentSecret::default();
    File::open(path)?.read_exact(&mut secret.0)?;
    Ok(secret)
}

/// Whole or not at all: it is written beside its place and renamed.
fn write(path: &Path, secret: &ConcealmentSecret) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(&secret.0)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_secret_is_made_once_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let first = secret(folder.path());
        assert_ne!(first, ConcealmentSecret::default());
        assert_eq!(secret(folder.path()), first);
        let mode = std::fs::metadata(folder.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_ne!(secret(tempfile::tempdir().unwrap().path()), first);
    }

    #[test]
    fn a_file_that_is_cut_short_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), [0; 31]).unwrap();
        let made = secret(folder.path());
        assert_eq!(secret(folder.path()), made);
    }

    #[test]
    fn without_a_folder_there_is_a_secret_all_the_same() {
        assert_ne!(secret(Path::new("/nowhere/at/all")), ConcealmentSecret::default());
    }
}
