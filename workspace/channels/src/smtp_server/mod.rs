//! The SMTP server: one process, many connections, each a task with a session of its own.
//!
//! The sockets are opened by the supervisor and outlive this process. Not here: the dialogue (`sternpost-smtp`), what a
//! message means (`sternpost-submission`), disks (the store).

mod connection;
mod upload;

use crate::RoleError;
use crate::store_client::StoreClient;
use connection::Connection;
use rustc_hash::FxHashMap;
use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use sternpost_config::{BareLineEndings, Listener, SmtpServerView};
use sternpost_link::qmgr::{FromQmgr, ToQmgr};
use sternpost_link::{Frames, Hello, PROTOCOL_VERSION, Role};
use sternpost_platform::clock::Clock;
use sternpost_platform::link::{Link, connect};
use sternpost_platform::memory;
use sternpost_smtp::server::{self, ServerPolicy};
use sternpost_submission::{Policy, RouteAnswer, Routing};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{LocalSet, spawn_local};

/// What the supervisor sends when another executable has taken over: accept no more, and end with the last session.
const LEAVE: fn() -> SignalKind = SignalKind::user_defined1;
/// Time that open sessions have to end when the process is asked to stop.
const STOP_LIMIT: Duration = Duration::from_secs(8);

/// What the SMTP server is started with.
#[derive(Debug)]
pub struct Options {
    /// Where the sockets of the other processes are.
    pub run_directory: PathBuf,
    /// The listening sockets.
    pub listeners: Vec<ListenerSocket>,
}

/// A listening socket and the listeners that it serves.
#[derive(Debug)]
pub struct ListenerSocket {
    /// The socket.
    pub socket: OwnedFd,
    /// The listeners' names, each with the one address that is its own; none stands for all others. A client that has
    /// reached an address of nobody is not served.
    pub listeners: Vec<(String, Option<IpAddr>)>,
}

impl ListenerSocket {
    /// Whose client one is that has reached `address`.
    fn listener_of(listeners: &[(String, Option<IpAddr>)], address: IpAddr) -> Option<&str> {
        let find = |wanted| listeners.iter().find(|(_, only)| *only == wanted).map(|(name, _)| name.as_str());
        find(Some(address.to_canonical())).or_else(|| find(None))
    }
}

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) store: Rc<StoreClient>,
    pub(crate) clock: Clock,
    view: RefCell<Option<Rc<View>>>,
    view_changed: Notify,
    connections: Cell<u32>,
    /// Connections of each listener, and of each network that counts as one client.
    by_listener: RefCell<FxHashMap<String, u32>>,
    by_client: RefCell<FxHashMap<IpAddr, u32>>,
    pub(crate) stopping: watch::Sender<bool>,
    /// Another process accepts now; the sessions of this one go on.
    leaving: watch::Sender<bool>,
    connection_ended: Notify,
}

/// A generation of the configuration, prepared for use.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) view: SmtpServerView,
    listeners: FxHashMap<String, Rc<Prepared>>,
}

/// One listener's policies.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) listener: Listener,
    pub(crate) session: Arc<ServerPolicy>,
    /// For clients in the listener's networks, and for all others.
    pub(crate) listed: Arc<Policy>,
    pub(crate) unlisted: Arc<Policy>,
}

impl View {
    fn new(view: SmtpServerView) -> Self {
        let prepare = |listener: &Listener| {
            let mut session = ServerPolicy::new(view.node.hostname.clone());
            session.message_octets_max = listener.message_octets_max;
            session.recipients_max = usize::try_from(listener.recipients_max).unwrap_or(usize::MAX);
            session.errors_max = listener.errors_max;
            session.command_timeout = Duration::from_secs(u64::from(listener.command_timeout_s));
            session.data_timeout = Duration::from_secs(u64::from(listener.data_timeout_s));
            session.bare_line_endings = match listener.bare_line_endings {
                BareLineEndings::Refuse => server::BareLineEndings::Refuse,
                BareLineEndings::Normalise => server::BareLineEndings::Normalise,
            };
            let policy = |client_is_listed| {
                Arc::new(Policy {
                    hostname: view.node.hostname.clone(),
                    listener: listener.name.clone(),
                    client_is_listed,
                    recipients_max: session.recipients_max,
                    received_headers_max: listener.received_headers_max,
                    message_octets_max: listener.message_octets_max,
                    postmaster: Some(view.node.postmaster.clone()),
                })
            };
            let (listed, unlisted) = (policy(true), policy(false));
            Rc::new(Prepared { listener: listener.clone(), session: Arc::new(session), listed, unlisted })
        };
        let listeners =
            view.listeners.iter().map(|listener| (listener.name.clone(), prepare(listener))).collect();
        Self { view, listeners }
    }
}

impl Routing for View {
    fn route(&self, domain_lower_case: &str) -> Option<RouteAnswer<'_>> {
        self.view.routes.destination(domain_lower_case).map(|destination| RouteAnswer {
            channel: destination.channel,
            peer: destination.peer,
            open_to_all: destination.open_to_all,
        })
    }
}

/// Runs the SMTP server until it is asked to end.
///
/// # Errors
/// `RoleError`.
pub fn run(options: Options) -> Result<(), RoleError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RoleError::Runtime)?;
    LocalSet::new().block_on(&runtime, serve(options))
}

async fn serve(options: Options) -> Result<(), RoleError> {
    let hello = Hello {
        version: PROTOCOL_VERSION,
        role: Role::SmtpServer,
        pid: std::process::id(),
        process: 0,
        channel: String::new(),
        capacity: 0,
    };
    let server = Rc::new(Server {
        store: StoreClient::start(options.run_directory.join("store.sock"), hello.clone()),
        clock: Clock::default(),
        view: RefCell::default(),
        view_changed: Notify::new(),
        connections: Cell::new(0),
        by_listener: RefCell::default(),
        by_client: RefCell::default(),
        stopping: watch::Sender::new(false),
        leaving: watch::Sender::new(false),
        connection_ended: Notify::new(),
    });
    spawn_local(Rc::clone(&server).keep_qmgr(hello, options.run_directory.join("qmgr.sock")));
    let mut terminate = signal(SignalKind::terminate()).map_err(RoleError::Signal)?;
    let mut leave = signal(LEAVE()).map_err(RoleError::Signal)?;
    // Without a configuration there is nothing to say to a client; it waits in the socket's queue.
    server.store.ready().await;
    while server.view.borrow().is_none() {
        server.view_changed.notified().await;
    }
    let (broken, mut is_broken) = mpsc::channel(1);
    for ListenerSocket { socket, listeners } in options.listeners {
        let socket = std::net::TcpListener::from(socket);
        socket.set_nonblocking(true).map_err(RoleError::Socket)?;
        let listener = TcpListener::from_std(socket).map_err(RoleError::Socket)?;
        spawn_local(Rc::clone(&server).accept(listeners, listener, broken.clone()));
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = leave.recv() => {
            server.leaving.send_replace(true);
            tracing::info!(event = "server.leaving", sessions = server.connections.get(), "another process accepts now");
            tokio::select! {
                _ = terminate.recv() => {}
                () = server.all_ended() => return Ok(()),
            }
        }
        Some(error) = is_broken.recv() => return Err(RoleError::Broken(error)),
    }
    server.stopping.send_replace(true);
    if tokio::time::timeout(STOP_LIMIT, server.all_ended()).await.is_err() {
        tracing::warn!(
            event = "server.stop",
            sessions = server.connections.get(),
            "sessions were still open at the end"
        );
    }
    Ok(())
}

impl Server {
    pub(crate) fn view(&self) -> Option<Rc<View>> {
        self.view.borrow().clone()
    }

    async fn all_ended(&self) {
        while self.connections.get() > 0 {
            self.connection_ended.notified().await;
        }
    }

    async fn keep_qmgr(self: Rc<Self>, hello: Hello, path: PathBuf) {
        loop {
            if let Ok(link) = connect(&path).and_then(Link::new) {
                let greeted = link.push(&ToQmgr::Hello(hello.clone()));
                debug_assert!(greeted.is_ok(), "a greeting is small");
                let end = link
                    .read_until_end(|datagram, mut attached| {
                        let mut frames = Frames::open(datagram)?;
                        while let Some(frame) = frames.next_frame::<FromQmgr>()? {
                            self.take(&link, &frame, &mut attached);
                        }
                        Ok(())
                    })
                    .await;
                tracing::info!(event = "qmgr.lost", reason = %end, "QMGR has gone; accepting goes on");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn take(&self, link: &Link, frame: &FromQmgr, attached: &mut Option<OwnedFd>) {
        match frame {
            FromQmgr::View { generation } => {
                let view = attached
                    .take()
                    .and_then(|memory| memory::unseal(memory, memory::VIEW_OCTETS_MAX).ok())
                    .and_then(|octets| postcard::from_bytes::<SmtpServerView>(&octets).ok());
                match view {
                    Some(view) => {
                        *self.view.borrow_mut() = Some(Rc::new(View::new(view)));
                        self.view_changed.notify_one();
                    }
                    None => tracing::error!(
                        event = "view.unreadable",
                        generation,
                        "the view of the configuration cannot be read"
                    ),
                }
            }
            FromQmgr::Ping { token } => drop(link.push(&ToQmgr::Pong { token: *token, sent_octets: 0 })),
            FromQmgr::Welcome(_)
            | FromQmgr::Assign(_)
            | FromQmgr::Drain
            | FromQmgr::Recount { .. }
            | FromQmgr::Answer
            | FromQmgr::NoAnswer { .. } => {}
        }
    }

    async fn accept(
        self: Rc<Self>,
        listeners: Vec<(String, Option<IpAddr>)>,
        listener: TcpListener,
        broken: mpsc::Sender<io::Error>,
    ) {
        let (mut stopping, mut leaving) = (self.stopping.subscribe(), self.leaving.subscribe());
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = leaving.wait_for(|leaving| *leaving) => return,
                _ = stopping.wait_for(|stopping| *stopping) => return,
            };
            match accepted {
                Ok((stream, client)) => {
                    // One whose address is not known any more has gone.
                    let reached = stream.local_addr().ok();
                    let name = reached.and_then(|at| ListenerSocket::listener_of(&listeners, at.ip()));
                    if let Some(name) = name {
                        self.connected(name, stream, client);
                    }
                }
                // The socket is in no state to accept (EINVAL), and no wait will change that.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    let _ = broken.send(error).await;
                    return;
                }
                Err(error) => {
                    // Out of descriptors, most likely: those that wait stay in the socket's queue.
                    tracing::warn!(
                        event = "accept.failed",
                        error = &error as &dyn std::error::Error,
                        "cannot accept a connection"
                    );
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    fn connected(self: &Rc<Self>, name: &str, stream: TcpStream, client: SocketAddr) {
        let prepared = self.view().and_then(|view| view.listeners.get(name).cloned());
        let Some(prepared) = prepared else { return };
        let network = client_network(client.ip());
        let from_client = self.by_client.borrow().get(&network).copied().unwrap_or(0);
        let of_listener = self.by_listener.borrow().get(name).copied().unwrap_or(0);
        let listener = &prepared.listener;
        let connections_max = listener.connections_max.unwrap_or(Listener::CONNECTIONS_MAX_DEFAULT);
        let refusal = if of_listener >= connections_max {
            Some("421 4.3.2 too many connections, try again later\r\n")
        } else if listener.connections_per_client_max > 0
            && from_client >= listener.connections_per_client_max
        {
            Some("421 4.7.0 too many connections from your address, try again later\r\n")
        } else {
            None
        };
        if let Some(refusal) = refusal {
            spawn_local(refuse(stream, refusal));
            return;
        }
        self.connections.set(self.connections.get() + 1);
        *self.by_client.borrow_mut().entry(network).or_insert(0) += 1;
        *self.by_listener.borrow_mut().entry(name.to_owned()).or_insert(0) += 1;
        let name = name.to_owned();
        let server = Rc::clone(self);
        spawn_local(async move {
            Connection::new(Rc::clone(&server), prepared, stream, client).converse().await;
            server.disconnected(&name, network);
        });
    }

    fn disconnected(&self, listener: &str, network: IpAddr) {
        self.connections.set(self.connections.get() - 1);
        release(&mut self.by_client.borrow_mut(), &network);
        release(&mut self.by_listener.borrow_mut(), listener);
        self.connection_ended.notify_one();
    }
}

fn release<K, Q>(counts: &mut FxHashMap<K, u32>, key: &Q) -> bool
where
    K: std::borrow::Borrow<Q> + std::hash::Hash + Eq,
    Q: std::hash::Hash + Eq + ?Sized,
{
    let Some(count) = counts.get_mut(key) else { return false };
    *count -= 1;
    *count == 0 && counts.remove(key).is_some()
}

/// What counts as one client: an IPv4 address, or the /64 of an IPv6 address, which one host may have to itself.
fn client_network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(six) => IpAddr::V6((six.to_bits() & (u128::MAX << 64)).into()),
        four @ IpAddr::V4(_) => four,
    }
}

async fn refuse(mut stream: TcpStream, refusal: &'static str) {
    // Five seconds are more than a reply of one line needs; a client that does not take it has lost interest.
    let told = tokio::time::timeout(Duration::from_secs(5), stream.write_all(refusal.as_bytes())).await;
    tracing::debug!(told = told.is_ok(), "a connection was refused");
}
