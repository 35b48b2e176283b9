//! What the supervisor starts: one role in this process, until it ends. The adapters between the command line and the
//! crates of the roles; nothing is decided here.

mod directory;

use crate::bootstrap::{Backend, Bootstrap, BootstrapError, Queue, RoleUsers, Source};
use crate::logging;
use crate::profile;
use crate::roles::{Roles, RolesError};
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;
use sternpost_channels::smtp_server::ListenerSocket;
use sternpost_link::{self as link, ChannelKind};
use sternpost_platform::disk::DiskBackend;
use sternpost_platform::door::Users;
use sternpost_platform::process;
use sternpost_platform::sandbox::{self, Filter, FilterError, KeepError};

/// A role and what it is given.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Role {
    /// The one writer of the log
    Store(Store),
    /// The queue manager
    Qmgr(Qmgr),
    /// The client of the configuration directory
    Directory(Reading),
    /// The holder of the private keys
    Signer(Signer),
    /// The SMTP server
    SmtpServer(SmtpServer),
    /// A channel process
    Channel(Channel),
    /// A channel process that ends at once: the self test measures how long a start takes
    Trial(Tie),
}

/// What ties a role to its supervisor.
#[derive(Debug, clap::Args)]
pub(crate) struct Tie {
    /// The supervisor's process id: a role whose parent is another one ends at once
    #[arg(long)]
    supervisor: Option<u32>,
    /// The folder of the sockets
    #[arg(long)]
    run_directory: PathBuf,
}

/// By which users a role that others connect to knows them.
#[derive(Debug, clap::Args)]
pub(crate) struct Trusting {
    /// Whether the roles are the supervisor's user, or each one of its own
    #[arg(long, value_parser = role_users)]
    role_users: RoleUsers,
    /// The supervisor's user
    #[arg(long)]
    supervisor_user: u32,
}

impl Trusting {
    fn users(&self) -> Users {
        users(self.role_users, self.supervisor_user)
    }
}

/// Who may connect to a socket of the run directory as what: by the table, operators as root, the supervisor's user, and the one
/// that the table gives the commands.
pub(crate) fn users(role_users: RoleUsers, supervisor_user: u32) -> Users {
    if role_users == RoleUsers::Same {
        return Users::Same(supervisor_user);
    }
    let roles = Roles::of_this_build();
    let user = |role: &str| roles.identity(role).map(|identity| identity.uid);
    let by_name = [
        (link::Role::Store, "store"),
        (link::Role::Qmgr, "qmgr"),
        (link::Role::Directory, "directory"),
        (link::Role::Signer, "signer"),
        (link::Role::SmtpServer, "smtp-server"),
        (link::Role::Channel, "smtp"),
        (link::Role::Channel, "lmtp"),
        (link::Role::Housekeeper, "housekeeper"),
    ];
    Users::Separate {
        operators: [0, supervisor_user].into_iter().chain(user("health")).chain(user("console")).collect(),
        roles: by_name.into_iter().filter_map(|(role, name)| Some((role, user(name)?))).collect(),
    }
}

/// The store's log and socket.
#[derive(Debug, clap::Args)]
pub(crate) struct Store {
    #[command(flatten)]
    tie: Tie,
    /// The section [queue] of the bootstrap, in JSON
    #[arg(long, value_parser = queue)]
    queue: Queue,
    #[command(flatten)]
    users: Trusting,
    /// How the self test would write it
    #[arg(long, value_parser = profile::Method::parse)]
    found_method: Option<profile::Method>,
    /// Octets of the largest batch that the self test found
    #[arg(long)]
    found_batch_octets: Option<u32>,
    /// The inherited listening socket
    #[arg(long)]
    listen_fd: RawFd,
}

/// QMGR's folder, name and socket.
#[derive(Debug, clap::Args)]
pub(crate) struct Qmgr {
    #[command(flatten)]
    tie: Tie,
    /// The folder of the last known good configuration
    #[arg(long)]
    state: PathBuf,
    /// The node's identity
    #[arg(long)]
    node: String,
    #[command(flatten)]
    users: Trusting,
    /// Channel processes in all that the self test found
    #[arg(long)]
    found_channel_processes: Option<u32>,
    /// The name, without a number, of the files into which the scheduler's events are recorded
    #[arg(long, requires = "record_octets_max")]
    record: Option<PathBuf>,
    /// Their largest size together
    #[arg(long)]
    record_octets_max: Option<u32>,
    /// Associations of one of them
    #[arg(long)]
    found_slots_per_process: Option<u32>,
    /// Connections on all listeners together that it found
    #[arg(long)]
    found_connections: Option<u32>,
    /// The inherited listening socket
    #[arg(long)]
    listen_fd: RawFd,
}

/// The signer's folder and socket.
#[derive(Debug, clap::Args)]
pub(crate) struct Signer {
    #[command(flatten)]
    tie: Tie,
    /// The folder of the certificates with their private keys
    #[arg(long)]
    credentials: PathBuf,
    #[command(flatten)]
    users: Trusting,
    /// The inherited listening socket
    #[arg(long)]
    listen_fd: RawFd,
}

/// A role that reads the bootstrap.
#[derive(Debug, clap::Args)]
pub(crate) struct Reading {
    #[command(flatten)]
    tie: Tie,
    /// The bootstrap
    #[arg(long)]
    bootstrap: PathBuf,
    /// The node's identity: the machine's serial number is not this user's to read
    #[arg(long)]
    node: String,
}

/// The SMTP server's sockets.
#[derive(Debug, clap::Args)]
pub(crate) struct SmtpServer {
    #[command(flatten)]
    tie: Tie,
    /// An inherited listening socket: LISTENER=DESCRIPTOR
    #[arg(long, value_parser = listener)]
    listen: Vec<(String, RawFd)>,
    /// The same, for the clients that have reached one address of the socket: LISTENER@ADDRESS=DESCRIPTOR
    #[arg(long, value_parser = listener_at)]
    listen_at: Vec<((String, IpAddr), RawFd)>,
}

/// A channel process.
#[derive(Debug, clap::Args)]
pub(crate) struct Channel {
    #[command(flatten)]
    tie: Tie,
    /// The channel's name
    #[arg(long)]
    name: String,
    /// smtp, lmtp or housekeeper
    #[arg(long, value_parser = kind)]
    kind: ChannelKind,
    /// The scheduler's number
    #[arg(long)]
    process: u64,
    /// Mlists at a time
    #[arg(long)]
    capacity: u32,
}

fn queue(text: &str) -> Result<Queue, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

fn role_users(text: &str) -> Result<RoleUsers, String> {
    [RoleUsers::Same, RoleUsers::Separate]
        .into_iter()
        .find(|users| users.name() == text)
        .ok_or_else(|| "write same or separate".to_owned())
}

fn kind(text: &str) -> Result<ChannelKind, String> {
    [ChannelKind::Smtp, ChannelKind::Lmtp, ChannelKind::Housekeeper]
        .into_iter()
        .find(|kind| kind.name() == text)
        .ok_or_else(|| "write smtp, lmtp or housekeeper".to_owned())
}

/// A listener's name may hold any character, also `=`.
fn listener(text: &str) -> Result<(String, RawFd), String> {
    text.rsplit_once('=')
        .and_then(|(name, number)| Some((name.to_owned(), number.parse().ok()?)))
        .ok_or_else(|| "write LISTENER=DESCRIPTOR".to_owned())
}

/// An address holds no `@`, so the last one ends the name.
fn listener_at(text: &str) -> Result<((String, IpAddr), RawFd), String> {
    listener(text)
        .ok()
        .and_then(|(place, number)| {
            let (name, address) = place.rsplit_once('@')?;
            Some(((name.to_owned(), address.parse().ok()?), number))
        })
        .ok_or_else(|| "write LISTENER@ADDRESS=DESCRIPTOR".to_owned())
}

/// Why a role has ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RoleError {
    /// The bootstrap.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// The parent is gone, or never was.
    #[error("the supervisor that started this role is gone")]
    Orphan,
    /// The process could not be set up.
    #[error("this role cannot be tied to its supervisor")]
    Tie {
        /// Why.
        source: io::Error,
    },
    /// Privileges could not be given up.
    #[error("this role cannot give up its privileges")]
    Sandbox {
        /// Why.
        source: io::Error,
    },
    /// The table of roles has no filter for it.
    #[error(transparent)]
    Roles(#[from] RolesError),
    /// The kernel would not take the filter.
    #[error("this role cannot run without its filter of system calls")]
    Filter(#[from] FilterError),
    /// The kernel knows Landlock and refused.
    #[error("this role cannot be kept to its places")]
    Keep(#[from] KeepError),
    /// A descriptor that the supervisor should have left open.
    #[error("descriptor {number} was not inherited")]
    Inherited {
        /// Its number.
        number: RawFd,
        /// Why.
        source: io::Error,
    },
    /// The directory role could not start.
    #[error("the directory role cannot run")]
    Directory {
        /// Why.
        source: io::Error,
    },
    /// The role itself.
    #[error("{role} has ended")]
    Ended {
        /// Which.
        role: &'static str,
        /// Why.
        source: Box<dyn std::error::Error>,
    },
}

/// Runs a role until it ends.
///
/// # Errors
/// Why it ended.
pub(crate) fn run(role: Role) -> Result<(), RoleError> {
    match role {
        Role::Store(arguments) => store(arguments),
        Role::Qmgr(arguments) => qmgr(arguments),
        Role::Directory(arguments) => {
            begin(&arguments.tie, "directory")?;
            let mut source = Bootstrap::read(&arguments.bootstrap)?.source;
            close_door("directory", &directory::places(&source))?;
            if let Source::Directory(directory) = &mut source {
                directory.node = arguments.node;
            }
            directory::run(source, &arguments.tie.run_directory)
                .map_err(|source| RoleError::Directory { source })
        }
        Role::Signer(arguments) => signer(arguments),
        Role::SmtpServer(arguments) => smtp_server(arguments),
        Role::Channel(arguments) => channel(arguments),
        Role::Trial(tie) => {
            begin(&tie, "trial")?;
            close_door("smtp", &[])
        }
    }
}

/// Names the process, starts its log, ties its life to the supervisor's, and takes the descriptors that it may have.
fn begin(tie: &Tie, name: &str) -> Result<(), RoleError> {
    process::set_name(&format!("sp-{name}"));
    logging::start(name);
    process::end_with_parent().map_err(|source| RoleError::Tie { source })?;
    // The supervisor may have died before the line above took effect: then the parent is another process by now.
    if tie.supervisor.is_some_and(|supervisor| std::os::unix::process::parent_id() != supervisor) {
        return Err(RoleError::Orphan);
    }
    sandbox::renounce().map_err(|source| RoleError::Sandbox { source })?;
    match process::raise_descriptor_limit() {
        Ok(descriptors) => tracing::debug!(descriptors, "descriptors that this role may have open"),
        Err(error) => tracing::warn!(%error, "the limit of open descriptors stays as it is"),
    }
    Ok(())
}

/// The filter of a role's system calls, compiled from the table.
fn filter(role: &str) -> Result<Filter, RoleError> {
    if !Filter::is_known_here() {
        tracing::warn!(
            event = "sandbox.no-filter",
            "this role runs without a filter of system calls: there is none for this architecture"
        );
    }
    Ok(Roles::of_this_build().filter(role)?)
}

/// From here on this process makes no system call that its role has no use for, and opens nothing but its places; `words`
/// say what those of the table stand for. The store, which opens its log first and then nothing, does it by itself.
fn close_door(role: &str, words: &[(&str, Vec<PathBuf>)]) -> Result<(), RoleError> {
    if !sandbox::keep_to(&Roles::of_this_build().places(role, words)?)? {
        tracing::debug!(event = "sandbox.no-landlock", "this kernel does not keep a process to its places");
    }
    Ok(filter(role)?.install()?)
}

fn inherited(number: RawFd) -> Result<OwnedFd, RoleError> {
    process::inherited(number).map_err(|source| RoleError::Inherited { number, source })
}

fn ended<E: std::error::Error + 'static>(role: &'static str) -> impl Fn(E) -> RoleError {
    move |error| RoleError::Ended { role, source: Box::new(error) }
}

fn store(arguments: Store) -> Result<(), RoleError> {
    // The number is taken before anything else is opened.
    let listening = inherited(arguments.listen_fd)?;
    begin(&arguments.tie, "store")?;
    let filter = filter("store")?;
    let queue = arguments.queue;
    let backend = match queue.backend {
        Backend::Auto => DiskBackend::Auto,
        Backend::IoUring => DiskBackend::IoUring,
        Backend::Dsync => DiskBackend::Dsync,
    };
    sternpost_store::run(sternpost_store::Options {
        listening,
        disk_path: queue.path,
        backend,
        segment_octets: queue.segment_octets,
        segments: queue.segments,
        batch_octets_max: queue.batch_octets_max,
        partial_timeout_s: queue.partial_timeout_s,
        recommended: sternpost_store::Recommended {
            backend: arguments.found_method.map(|method| match method {
                profile::Method::IoUring => DiskBackend::IoUring,
                profile::Method::Dsync => DiskBackend::Dsync,
            }),
            batch_octets_max: arguments.found_batch_octets,
        },
        users: arguments.users.users(),
        filter,
    })
    .map_err(ended("store"))
}

fn qmgr(arguments: Qmgr) -> Result<(), RoleError> {
    let listening = inherited(arguments.listen_fd)?;
    begin(&arguments.tie, "qmgr")?;
    // Opened before the door is closed: it may lie anywhere where this user may write.
    let record = arguments.record.zip(arguments.record_octets_max);
    let record = record.map(|(path, octets_max)| sternpost_qmgr::Record::open(&path, octets_max.into()));
    close_door("qmgr", &[("<state>/qmgr", vec![arguments.state.clone()])])?;
    sternpost_qmgr::run(sternpost_qmgr::Options {
        listening,
        run_directory: arguments.tie.run_directory,
        state_directory: arguments.state,
        node: arguments.node,
        users: arguments.users.users(),
        record,
        found: sternpost_qmgr::Found {
            channel_processes_max: arguments.found_channel_processes,
            slots_per_process: arguments.found_slots_per_process,
            connections_max: arguments.found_connections,
        },
    })
    .map_err(ended("qmgr"))
}

fn signer(arguments: Signer) -> Result<(), RoleError> {
    let listening = inherited(arguments.listen_fd)?;
    begin(&arguments.tie, "signer")?;
    close_door("signer", &[("<credentials>", vec![arguments.credentials.clone()])])?;
    let users = arguments.users.users();
    sternpost_signer::run(sternpost_signer::Options { listening, folder: arguments.credentials, users })
        .map_err(ended("signer"))
}

fn smtp_server(arguments: SmtpServer) -> Result<(), RoleError> {
    // Listeners of single addresses share a descriptor, which is taken once.
    let mut by_number: BTreeMap<RawFd, Vec<(String, Option<IpAddr>)>> = BTreeMap::new();
    let whole = arguments.listen.into_iter().map(|(name, number)| (number, (name, None)));
    let parts = arguments.listen_at.into_iter().map(|((name, at), number)| (number, (name, Some(at))));
    for (number, listener) in whole.chain(parts) {
        by_number.entry(number).or_default().push(listener);
    }
    let listeners = by_number
        .into_iter()
        .map(|(number, listeners)| Ok(ListenerSocket { socket: inherited(number)?, listeners }))
        .collect::<Result<Vec<_>, RoleError>>()?;
    begin(&arguments.tie, "smtp-server")?;
    close_door("smtp-server", &[])?;
    let run_directory = arguments.tie.run_directory;
    sternpost_channels::smtp_server::run(sternpost_channels::smtp_server::Options {
        run_directory,
        listeners,
    })
    .map_err(ended("smtp-server"))
}

fn channel(arguments: Channel) -> Result<(), RoleError> {
    begin(&arguments.tie, &arguments.name)?;
    close_door(arguments.kind.name(), &[])?;
    let options = sternpost_channels::ChannelOptions {
        run_directory: arguments.tie.run_directory,
        channel: arguments.name,
        kind: arguments.kind,
        process: arguments.process,
        capacity: arguments.capacity,
    };
    let run = match arguments.kind {
        ChannelKind::Smtp | ChannelKind::Lmtp => sternpost_channels::relay::run,
        ChannelKind::Housekeeper => sternpost_channels::housekeeper::run,
    };
    run(&options).map_err(ended("channel"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_may_have_any_name() {
        assert_eq!(listener("a=b, c=9").unwrap(), ("a=b, c".to_owned(), 9));
        assert!(listener("in").is_err() && listener("in=x").is_err());
        let at = "192.0.2.1".parse().unwrap();
        assert_eq!(listener_at("a@b@192.0.2.1=9").unwrap(), (("a@b".to_owned(), at), 9));
        assert!(listener_at("in=9").is_err() && listener_at("in@x=9").is_err());
    }
}
