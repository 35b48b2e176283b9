//! The run directory: its lock, and the socket files in it.

use super::SupervisorError;
use super::listeners_file::LISTENERS_FILE;
use crate::bootstrap::Bootstrap;
use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Where the store listens, in the run directory.
pub(crate) const STORE_SOCKET: &str = "store.sock";
/// Where QMGR listens.
pub(crate) const QMGR_SOCKET: &str = "qmgr.sock";
/// Where the supervisor listens.
pub(crate) const SUPERVISOR_SOCKET: &str = "supervisor.sock";
const LOCK: &str = "supervisor.lock";

/// The run directory, held by this process alone until this value is dropped.
#[derive(Debug)]
pub(crate) struct RunDirectory {
    path: PathBuf,
    _lock: File,
}

/// The listening sockets between the processes.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(crate) store: OwnedFd,
    pub(crate) qmgr: OwnedFd,
    pub(crate) supervisor: OwnedFd,
}

impl RunDirectory {
    /// Makes both folders if they are not there, and takes the lock.
    ///
    /// # Errors
    /// `Folder`, `AlreadyRunning`.
    pub(crate) fn take(bootstrap: &Bootstrap) -> Result<Self, SupervisorError> {
        let path = bootstrap.run_directory.clone();
        for folder in [&path, &bootstrap.state_directory] {
            make_private(folder)
                .map_err(|source| SupervisorError::Folder { path: folder.clone(), source })?;
        }
        let lock_path = path.join(LOCK);
        let failed = |source| SupervisorError::Folder { path: path.clone(), source };
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(lock_path)
            .map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(SupervisorError::AlreadyRunning { run_directory: path }),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the sockets, readable and writable for this user alone. Files of a run that was killed are replaced.
    ///
    /// # Errors
    /// `Socket`.
    pub(crate) fn listen(&self) -> Result<Sockets, SupervisorError> {
        let open = |name| {
            let path = self.path.join(name);
            sternpost_platform::link::listen(&path)
                .and_then(|socket| {
                    std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
                    Ok(socket)
                })
                .map_err(|source| SupervisorError::Socket { path, source })
        };
        Ok(Sockets {
            store: open(STORE_SOCKET)?,
            qmgr: open(QMGR_SOCKET)?,
            supervisor: open(SUPERVISOR_SOCKET)?,
        })
    }

    /// Removes the socket files and what said where the switch listens. The lock file stays: removing it would let two supervisors lock two files.
    pub(crate) fn remove_sockets(&self) {
        for name in [STORE_SOCKET, QMGR_SOCKET, SUPERVISOR_SOCKET, LISTENERS_FILE] {
            let _ = std::fs::remove_file(self.path.join(name));
        }
    }
}

/// A folder for this user alone; one that is there already must be ours and must not let others make files in it.
fn make_private(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let metadata = std::fs::metadata(path)?;
    let denied = |why| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    let (owner, user) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner != user {
        return denied(format!(
            "it belongs to the user {owner} and this is the user {user}; hand it over with chown {user}"
        ));
    }
    let mode = metadata.permissions().mode();
    if mode & 0o022 != 0 {
        return denied(format!(
            "others may write to it (mode {:o}); make it private with chmod 700",
            mode & 0o7777
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bootstrap(folder: &Path) -> Bootstrap {
        let path = folder.join("boot.toml");
        let text = "run_directory = \"run\"\nstate_directory = \"state/deep\"\n[queue]\npath = \"log\"\n[tables]\npath = \"t\"\n";
        std::fs::write(&path, text).unwrap();
        Bootstrap::read(&path).unwrap()
    }

    #[test]
    fn a_second_supervisor_is_refused_until_the_first_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let bootstrap = bootstrap(folder.path());
        let first = RunDirectory::take(&bootstrap).unwrap();
        let error = RunDirectory::take(&bootstrap).unwrap_err();
        assert!(matches!(error, SupervisorError::AlreadyRunning { .. }), "{error}");
        drop(first);
        RunDirectory::take(&bootstrap).unwrap();
    }

    #[test]
    fn the_folders_and_sockets_are_private_and_the_sockets_are_removed_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let bootstrap = bootstrap(folder.path());
        let run_directory = RunDirectory::take(&bootstrap).unwrap();
        let _sockets = run_directory.listen().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(run_directory.path()), 0o700);
        assert_eq!(mode(&bootstrap.state_directory), 0o700);
        let socket = run_directory.path().join(STORE_SOCKET);
        assert_eq!(mode(&socket), 0o600);
        run_directory.remove_sockets();
        assert!(!socket.exists());
    }

    #[test]
    fn a_folder_in_which_others_write_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let bootstrap = bootstrap(folder.path());
        std::fs::create_dir(&bootstrap.run_directory).unwrap();
        std::fs::set_permissions(&bootstrap.run_directory, Permissions::from_mode(0o777)).unwrap();
        let error = RunDirectory::take(&bootstrap).unwrap_err();
        assert!(matches!(error, SupervisorError::Folder { .. }), "{error}");
    }

    #[test]
    fn a_folder_of_somebody_else_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(folder.path(), Some(65_534), None).unwrap();
            folder.path()
        } else {
            // It belongs to root.
            Path::new("/")
        };
        let error = make_private(path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(error.to_string().contains("belongs to the user"), "{error}");
    }
}
