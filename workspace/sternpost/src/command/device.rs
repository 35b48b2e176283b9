//! `sternpost device …`: what makes a machine the appliance. Run by the units of the image, not by people.

mod bootstrap;
mod console;
pub(crate) mod desk;
mod firewall;
pub(crate) mod identity;
mod joined;
mod network;
mod networkd;
mod ports;
mod problem;
mod resolver;
mod site;
mod state;
mod stick;

use super::CommandResult;
use std::io;
use std::path::{Path, PathBuf};

/// What the image's units run.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Collect the site's bootstrap (USB stick, credential, kept) and put it and the network into force
    #[command(
        after_help = "Examples:\n  sternpost device bootstrap\n  sternpost device bootstrap --once\n\nOn a desk, sternpost check-config --site sternpost.toml judges a file and changes nothing.\n\nExit status with --once: 0 there is one in force, 1 there is none."
    )]
    Bootstrap(bootstrap::Arguments),
    /// Show how the switch is on a screen, or line by line on a serial console, until it is stopped
    #[command(
        after_help = "Examples:\n  sternpost device console\n  sternpost device console --lines --run-directory /run/sternpost"
    )]
    Console(console::Arguments),
    /// Open the ports of the configured listeners and no other
    #[command(
        after_help = "Examples:\n  sternpost device firewall\n  sternpost device firewall --print\n  sternpost device firewall --base --print"
    )]
    Firewall(firewall::Arguments),
    /// Write resolv.conf with the name servers that the network has
    #[command(after_help = "Example:\n  sternpost device resolver")]
    Resolver(resolver::Arguments),
}

/// Why a command of the device failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeviceError {
    /// The image's part of the bootstrap.
    #[error(transparent)]
    Join(#[from] joined::JoinError),
    /// A file or folder could not be written.
    #[error("{} cannot be written", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The supervisor's file is not of its form.
    #[error("{} cannot be used; the packet filter stays as it is", path.display())]
    Listeners {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The packet filter was not changed.
    #[error("the packet filter stays as it is: {what}")]
    Filter {
        /// What happened, in the words of `nft`.
        what: String,
    },
    /// A file could not be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl DeviceError {
    fn write(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Write { path: path.to_owned(), source }
    }
}

/// Runs one.
///
/// # Errors
/// See [`DeviceError`].
pub(crate) fn run(command: &Command) -> CommandResult {
    match command {
        Command::Bootstrap(arguments) => bootstrap::run(arguments),
        Command::Console(arguments) => console::run(arguments),
        Command::Firewall(arguments) => firewall::run(arguments),
        Command::Resolver(arguments) => resolver::run(arguments),
    }
}
