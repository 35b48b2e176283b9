//! The channels: the processes that bring mail into the switch and take it out.
//!
//! `smtp_server` accepts, `relay` transfers (SMTP) and delivers (LMTP), `housekeeper` reports what failed. They share
//! the skeleton: a link to the store, a link to QMGR, a view of the configuration, drain and stop. Not here: the
//! dialogue (`smtp`), what an arriving message means (`submission`), when and where to (QMGR), disks (the store).
#![forbid(unsafe_code)]

mod channel;
pub mod holding;
pub mod housekeeper;
pub mod relay;
pub mod report;
mod signer_client;
pub mod smtp_server;
pub mod store_client;
mod stream;
mod tls;

pub use channel::ChannelOptions;

use std::io;

/// Why a role could not run.
#[derive(Debug, thiserror::Error)]
pub enum RoleError {
    /// The event loop could not be made.
    #[error("cannot start the event loop")]
    Runtime(#[source] io::Error),
    /// A socket could not be used.
    #[error("cannot use a socket")]
    Socket(#[source] io::Error),
    /// A socket that strangers connect to listens no more: its owner has to mend it.
    #[error("a listening socket does not listen any more")]
    Broken(#[source] io::Error),
    /// Signals could not be watched.
    #[error("cannot watch for signals")]
    Signal(#[source] io::Error),
}
