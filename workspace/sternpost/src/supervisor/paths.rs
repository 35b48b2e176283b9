//! The run directory: its lock, and the socket files in it.

use super::SupervisorError;
use super::handover::{self, Handover, HandoverError};
use super::listeners_file::LISTENERS_FILE;
use super::upgrade_file::UPGRADE_FILE;
use crate::bootstrap::{Bootstrap, RoleUsers};
use crate::roles::Roles;
use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use sternpost_platform::sandbox::{self, Identity};

/// Where the store listens, in the run directory.
pub(crate) const STORE_SOCKET: &str = "store.sock";
/// Where QMGR listens.
pub(crate) const QMGR_SOCKET: &str = "qmgr.sock";
/// Where the signer listens.
pub(crate) const SIGNER_SOCKET: &str = "signer.sock";
/// Where the supervisor listens.
pub(crate) const SUPERVISOR_SOCKET: &str = "supervisor.sock";
/// QMGR's folder in the state directory.
pub(crate) const QMGR_STATE: &str = "qmgr";
const LOCK: &str = "supervisor.lock";

/// The run directory, held by this process alone until this value is dropped.
#[derive(Debug)]
pub(crate) struct RunDirectory {
    path: PathBuf,
    sharing: Sharing,
    lock: File,
}

/// Who gets into the folders that all processes of the switch use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sharing {
    /// This user alone.
    Private,
    /// The group of all roles may pass through folders and connect to sockets.
    Group(u32),
}

impl Sharing {
    fn of(bootstrap: &Bootstrap) -> Self {
        match bootstrap.role_users {
            RoleUsers::Same => Self::Private,
            RoleUsers::Separate => Self::Group(Roles::of_this_build().group.gid),
        }
    }

    const fn folder_mode(self) -> u32 {
        match self {
            Self::Private => 0o700,
            Self::Group(_) => 0o750,
        }
    }

    /// Of folders on the way that are not there yet.
    const fn mode_above(self) -> u32 {
        match self {
            Self::Private => 0o700,
            Self::Group(_) => 0o755,
        }
    }

    const fn socket_mode(self) -> u32 {
        match self {
            Self::Private => 0o600,
            Self::Group(_) => 0o660,
        }
    }

    /// Hands it to the group. Whoever is not root has the group as its own, or gets the error.
    fn share(self, path: &Path, mode: u32) -> io::Result<()> {
        if let Self::Group(gid) = self
            && std::fs::metadata(path)?.gid() != gid
        {
            std::os::unix::fs::chown(path, None, Some(gid))?;
        }
        std::fs::set_permissions(path, Permissions::from_mode(mode))
    }
}

/// The listening sockets between the processes.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(crate) store: OwnedFd,
    pub(crate) qmgr: OwnedFd,
    pub(crate) signer: OwnedFd,
    pub(crate) supervisor: OwnedFd,
}

impl RunDirectory {
    /// Makes both folders if they are not there, and takes the lock.
    ///
    /// # Errors
    /// `Folder`, `AlreadyRunning`.
    pub(crate) fn take(bootstrap: &Bootstrap) -> Result<Self, SupervisorError> {
        let path = bootstrap.run_directory.clone();
        let sharing = Sharing::of(bootstrap);
        let of = |role| match bootstrap.role_users {
            RoleUsers::Same => None,
            RoleUsers::Separate => Roles::of_this_build().identity(role),
        };
        for folder in [&path, &bootstrap.state_directory] {
            make(folder, sharing)
                .map_err(|source| SupervisorError::Folder { path: folder.clone(), source })?;
        }
        let state = bootstrap.state_directory.join(QMGR_STATE);
        make_for(&state, of("qmgr")).map_err(|source| SupervisorError::Folder { path: state, source })?;
        make_credentials(bootstrap);
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
            Ok(()) => Ok(Self { path, sharing, lock }),
            Err(TryLockError::WouldBlock) => Err(SupervisorError::AlreadyRunning { run_directory: path }),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    /// With the lock and the sockets of the supervisor before.
    ///
    /// # Errors
    /// `Descriptor`.
    pub(super) fn taken_over(
        bootstrap: &Bootstrap,
        handover: &Handover,
    ) -> Result<(Self, Sockets), HandoverError> {
        let sockets = Sockets {
            store: handover::descriptor(handover.store)?,
            qmgr: handover::descriptor(handover.qmgr)?,
            signer: handover::descriptor(handover.signer)?,
            supervisor: handover::descriptor(handover.supervisor)?,
        };
        make_credentials(bootstrap);
        let sharing = Sharing::of(bootstrap);
        let lock = File::from(handover::descriptor(handover.lock)?);
        Ok((Self { path: bootstrap.run_directory.clone(), sharing, lock }, sockets))
    }

    /// The lock, for a handover.
    pub(super) fn lock(&self) -> (RawFd, BorrowedFd<'_>) {
        (self.lock.as_raw_fd(), self.lock.as_fd())
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the sockets, readable and writable for this user, and for the group of the roles if they have users. Files of a run that was killed are replaced.
    ///
    /// # Errors
    /// `Socket`.
    pub(crate) fn listen(&self) -> Result<Sockets, SupervisorError> {
        let open = |name| {
            let path = self.path.join(name);
            sternpost_platform::link::listen(&path)
                .and_then(|socket| {
                    self.sharing.share(&path, self.sharing.socket_mode())?;
                    Ok(socket)
                })
                .map_err(|source| SupervisorError::Socket { path, source })
        };
        Ok(Sockets {
            store: open(STORE_SOCKET)?,
            qmgr: open(QMGR_SOCKET)?,
            signer: open(SIGNER_SOCKET)?,
            supervisor: open(SUPERVISOR_SOCKET)?,
        })
    }

    /// Removes the socket files, and what said where the switch listens and what became of upgrades. The lock file stays: removing it would let two supervisors lock two files.
    pub(crate) fn remove_sockets(&self) {
        for name in
            [STORE_SOCKET, QMGR_SOCKET, SIGNER_SOCKET, SUPERVISOR_SOCKET, LISTENERS_FILE, UPGRADE_FILE]
        {
            let _ = std::fs::remove_file(self.path.join(name));
        }
    }
}

/// Whether the supervisor may do what `role_users = "separate"` asks of it, and the store may open its log.
///
/// # Errors
/// `Users`, `LogOwner`.
pub(crate) fn check_users(bootstrap: &Bootstrap) -> Result<(), SupervisorError> {
    if bootstrap.role_users == RoleUsers::Same {
        return Ok(());
    }
    let lacking = sandbox::lacks_for_users()
        .map_err(|source| SupervisorError::Process { what: "see what it may do", source })?;
    if !lacking.is_empty() {
        return Err(SupervisorError::Users { lacking });
    }
    let Some(store) = Roles::of_this_build().identity("store") else { return Ok(()) };
    match log_problem(&bootstrap.queue.path, store) {
        None => Ok(()),
        Some(what) => Err(SupervisorError::LogOwner { path: bootstrap.queue.path.clone(), what }),
    }
}

/// Why the store could not open the log, as far as that can be seen; what cannot be seen is for the store to say.
fn log_problem(path: &Path, Identity { uid, gid }: Identity) -> Option<String> {
    let may_write = |metadata: &std::fs::Metadata| {
        let mode = metadata.permissions().mode();
        metadata.uid() == uid || (metadata.gid() == gid && mode & 0o060 == 0o060) || mode & 0o006 == 0o006
    };
    match std::fs::metadata(path) {
        Ok(metadata) if may_write(&metadata) => None,
        Ok(metadata) => {
            let remedy = if metadata.file_type().is_block_device() {
                "let a udev rule give it to that user"
            } else {
                "hand it over with chown"
            };
            Some(format!("belongs to the user {} and not to the store's, {uid}; {remedy}", metadata.uid()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && !path.starts_with("/dev") => {
            let folder = path.parent()?;
            let metadata = std::fs::metadata(folder).ok()?;
            (!may_write(&metadata)).then(|| {
                format!(
                    "is not there, and the store cannot make it in {}; hand that folder to the user {uid} with chown",
                    folder.display()
                )
            })
        }
        Err(_) => None,
    }
}

/// The folder of the credentials. Only who wants TLS needs it, so nothing else waits for it.
fn make_credentials(bootstrap: &Bootstrap) {
    let signer = match bootstrap.role_users {
        RoleUsers::Same => None,
        RoleUsers::Separate => Roles::of_this_build().identity("signer"),
    };
    let path = &bootstrap.credentials;
    // On a device root has made it, for what no role is to change.
    let is_given = signer.is_some()
        && std::fs::metadata(path).is_ok_and(|it| it.uid() == 0 && it.permissions().mode() & 0o022 == 0);
    if is_given {
        return;
    }
    if let Err(error) = make_for(path, signer) {
        tracing::warn!(event = "credentials.no-folder", folder = %path.display(), %error, "the folder of the credentials cannot be used: mend it and start the switch again, until then it has no certificate");
    }
}

/// A folder for one role alone (none: for this user). Only root can make it somebody else's.
fn make_for(path: &Path, role: Option<Identity>) -> io::Result<()> {
    let Some(Identity { uid, gid }) = role else { return make(path, Sharing::Private) };
    let denied = |why| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    if rustix::process::geteuid().is_root() {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        std::os::unix::fs::chown(path, Some(uid), Some(gid))?;
    }
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return denied(format!(
                "it is not there; make it with install -d -o {uid} -g {gid} -m 700 {}",
                path.display()
            ));
        }
        Err(error) => return Err(error),
    };
    if metadata.uid() != uid || metadata.permissions().mode() & 0o022 != 0 {
        return denied(format!(
            "it must belong to the user {uid} and be open to no other; mend it with chown {uid}:{gid} and chmod 700"
        ));
    }
    Ok(())
}

/// A folder of this user; one that is there already must be ours and must not let others make files in it.
fn make(path: &Path, sharing: Sharing) -> io::Result<()> {
    let is_new = !path.exists();
    if let Some(above) = path.parent() {
        DirBuilder::new().recursive(true).mode(sharing.mode_above()).create(above)?;
    }
    DirBuilder::new().recursive(true).mode(sharing.folder_mode()).create(path)?;
    let metadata = std::fs::metadata(path)?;
    let denied = |why| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    let (owner, user) = (metadata.uid(), rustix::process::geteuid().as_raw());
    // Root may own what the roles share: the state directory holds a folder of each role's own, and nothing else.
    let is_roots = owner == 0 && sharing != Sharing::Private;
    if owner != user && !is_roots {
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
    match sharing {
        Sharing::Private => Ok(()),
        // A folder that others may pass through already stays as it is, and so does what is root's.
        Sharing::Group(_) if !is_new && (mode & 0o001 != 0 || (is_roots && user != 0)) => Ok(()),
        Sharing::Group(_) => sharing.share(path, sharing.folder_mode()),
    }
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
        let error = make(path, Sharing::Private).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(error.to_string().contains("belongs to the user"), "{error}");
    }
}
