//! The commands, one module each. A command prints what it found and gives its exit status.

pub(crate) mod check_config;
pub(crate) mod config;
pub(crate) mod credentials;
pub(crate) mod device;
pub(crate) mod health;
pub(crate) mod man;
pub(crate) mod provision;
pub(crate) mod queue;
mod role_trial;
pub(crate) mod self_test;
pub(crate) mod status;
pub(crate) mod upgrade;
pub(crate) mod verifier;

use crate::ask::AskError;
use crate::bootstrap::BootstrapError;
use crate::profile::ProfileError;
use crate::role::RoleError;
use crate::supervisor::SupervisorError;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// Nobody answered.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The bootstrap.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// A command of the device.
    #[error(transparent)]
    Device(#[from] device::DeviceError),
    /// The switch could not be upgraded.
    #[error(transparent)]
    Upgrade(#[from] upgrade::UpgradeError),
    /// The supervisor could not start.
    #[error(transparent)]
    Supervisor(#[from] SupervisorError),
    /// A role has ended in an error.
    #[error(transparent)]
    Role(#[from] RoleError),
    /// A file could not be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("{} cannot be written", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Tables that are not of the right form.
    #[error("{} cannot be used", path.display())]
    Tables {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: sternpost_config::TableError,
    },
    /// The configuration is in the directory and not in a file.
    #[error(
        "the bootstrap {} names a directory, not tables; a running switch shows its problems with sternpost status",
        path.display()
    )]
    NotTables {
        /// The bootstrap.
        path: PathBuf,
    },
    /// A device's file in the place of a host's.
    #[error(
        "{} is what a site writes for a device, and no bootstrap of a host: check it with sternpost check-config --site {}",
        path.display(),
        path.display()
    )]
    OfADevice {
        /// The file.
        path: PathBuf,
    },
    /// A value that cannot be shown.
    #[error("what was found cannot be written as JSON")]
    Json(#[from] serde_json::Error),
    /// Nothing could be measured.
    #[error("the self test of {} has failed", path.display())]
    SelfTest {
        /// The log.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error>,
    },
    /// The profile could not be written.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// A message cannot be sent to the store.
    #[error(transparent)]
    Upload(queue::UploadError),
    /// A recording that cannot be replayed.
    #[error("{} cannot be replayed", path.display())]
    Recording {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: sternpost_scheduler::journal::JournalError,
    },
    /// No verifier could be made.
    #[error(transparent)]
    Verifier(#[from] verifier::PasswordError),
    /// The log could not be read.
    #[error("the log {} cannot be read", path.display())]
    Log {
        /// File or device.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error>,
    },
    /// Nothing could be written into the log.
    #[error("the log {} cannot be written to", path.display())]
    LogWrite {
        /// File or device.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error>,
    },
}

/// What every command gives.
pub(crate) type CommandResult = Result<ExitCode, CommandError>;

/// 0 when nothing is wrong, else 1.
fn exit_code(is_good: bool) -> ExitCode {
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
