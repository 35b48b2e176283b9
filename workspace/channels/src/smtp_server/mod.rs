//! The SMTP server: one process, many connections, each a task with a session of its own.
//!
//! How many connections there may be is a matter of who connects: the last ones are kept for clients that may ask for urgent
//! mail, see `admission.rs`.
//!
//! The sockets are opened by the supervisor and outlive this process. Not here: the dialogue (`sternpost-smtp`), what a
//! message means (`sternpost-submission`), disks (the store).

mod admission;
mod authentication;
mod connection;
mod reading;
mod tls;
mod upload;

use crate::RoleError;
use crate::signer_client::SignerClient;
use crate::store_client::StoreClient;
use admission::Admission;
use authentication::{Gate, UserTable};
use connection::Connection;
use reading::Rooms;
use rustc_hash::FxHashMap;
use std::cell::RefCell;
use std::convert::Infallible;
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
use sternpost_message::Precedence;
use sternpost_platform::clock::Clock;
use sternpost_platform::link::{Link, connect};
use sternpost_platform::memory;
use sternpost_sasl::Authenticator;
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

/// The time between two words to QMGR about connections.
const CONNECTIONS_TOLD_EVERY: Duration = Duration::from_millis(500);

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
    signer: Rc<SignerClient>,
    pub(crate) clock: Clock,
    gate: Gate,
    rooms: Rooms,
    view: RefCell<Option<Rc<View>>>,
    view_changed: Notify,
    admission: RefCell<Admission>,
    /// Something has changed about who is connected, or how many may be.
    admission_changed: Notify,
    pub(crate) stopping: watch::Sender<bool>,
    /// Another process accepts now; the sessions of this one go on.
    leaving: watch::Sender<bool>,
    connection_ended: Notify,
}

/// A generation of the configuration, prepared for use.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) view: SmtpServerView,
    users: Arc<UserTable>,
    listeners: FxHashMap<String, Rc<Prepared>>,
}

/// One listener's policies.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) listener: Listener,
    pub(crate) session: Arc<ServerPolicy>,
    tls: tls::ListenerTls,
    /// Where clients authenticate.
    authenticator: Option<Arc<Authenticator>>,
    /// For clients in the listener's networks, and for all others; each by the highest precedence that a client may ask
    /// for.
    listed: [Arc<Policy>; Precedence::ALL.len()],
    unlisted: [Arc<Policy>; Precedence::ALL.len()],
    /// What anybody may ask for.
    ordinary: Precedence,
}

impl Prepared {
    fn new(
        listener: &Listener,
        view: &SmtpServerView,
        users: &Arc<UserTable>,
        signer: &SignerClient,
    ) -> Self {
        let node = &view.node;
        let tls = tls::ListenerTls::new(listener, &view.trusts, signer);
        let mut session = ServerPolicy::new(node.hostname.clone());
        session.message_octets_max = listener.message_octets_max;
        session.recipients_max = usize::try_from(listener.recipients_max).unwrap_or(usize::MAX);
        session.errors_max = listener.errors_max;
        session.command_timeout = Duration::from_secs(u64::from(listener.command_timeout_s));
        session.data_timeout = Duration::from_secs(u64::from(listener.data_timeout_s));
        session.bare_line_endings = match listener.bare_line_endings {
            BareLineEndings::Refuse => server::BareLineEndings::Refuse,
            BareLineEndings::Normalise => server::BareLineEndings::Normalise,
        };
        session.priority_policy = node.priority_policy;
        session.starttls = tls.starttls();
        session.authentication = authentication::of(&listener.authentication);
        let authenticator = authentication::authenticator(&listener.authentication, users, &view.concealment);
        let ordinary = node.priority_policy.ordinary();
        let policy = |client_is_listed, precedence_max| {
            // RFC 6758, 7: of a client that is not trusted, a field says nothing.
            let is_trusted = precedence_max > ordinary;
            Arc::new(Policy {
                hostname: node.hostname.clone(),
                listener: listener.name.clone(),
                client_is_listed,
                is_submission: listener.authentication.is_submission,
                recipients_max: session.recipients_max,
                received_headers_max: listener.received_headers_max,
                message_octets_max: listener.message_octets_max,
                postmaster: Some(node.postmaster.clone()),
                priority_policy: node.priority_policy,
                precedence_max,
                priority_fields: if is_trusted { listener.priority_fields.clone() } else { Vec::new() },
            })
        };
        let listed = Precedence::ALL.map(|precedence_max| policy(true, precedence_max));
        let unlisted = Precedence::ALL.map(|precedence_max| policy(false, precedence_max));
        let session = Arc::new(session);
        Self { listener: listener.clone(), session, tls, authenticator, listed, unlisted, ordinary }
    }

    /// The highest precedence that a client may ask for.
    fn precedence_max_of(&self, client: IpAddr) -> Precedence {
        self.listener.precedence_max_of(client, self.ordinary)
    }

    /// What holds for the messages of a client that has authenticated as a user: it may use every route.
    fn policy_for_user(&self, client: IpAddr) -> &Arc<Policy> {
        &self.listed[self.precedence_max_of(client) as usize]
    }

    /// What holds for a client's messages.
    pub(crate) fn policy_for(&self, client: IpAddr) -> &Arc<Policy> {
        let policies = if self.listener.lists(client) { &self.listed } else { &self.unlisted };
        &policies[self.precedence_max_of(client) as usize]
    }
}

impl View {
    fn new(view: SmtpServerView, signer: &SignerClient) -> Self {
        let users = Arc::new(UserTable::new(&view.users));
        let prepare = |listener| Rc::new(Prepared::new(listener, &view, &users, signer));
        let listeners =
            view.listeners.iter().map(|listener| (listener.name.clone(), prepare(listener))).collect();
        Self { view, users, listeners }
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
        signer: SignerClient::start(options.run_directory.join("signer.sock"), hello.clone()),
        clock: Clock::default(),
        gate: Gate::default(),
        rooms: Rooms::default(),
        view: RefCell::default(),
        view_changed: Notify::new(),
        admission: RefCell::default(),
        admission_changed: Notify::new(),
        stopping: watch::Sender::new(false),
        leaving: watch::Sender::new(false),
        connection_ended: Notify::new(),
    });
    spawn_local(Rc::clone(&server).keep_credentials());
    let mut terminate = signal(SignalKind::terminate()).map_err(RoleError::Signal)?;
    let mut leave = signal(LEAVE()).map_err(RoleError::Signal)?;
    // Without a configuration there is nothing to say to a client; it waits in the socket's queue.
    server.store.ready().await;
    server.signer.ready().await;
    spawn_local(Rc::clone(&server).keep_qmgr(hello, options.run_directory.join("qmgr.sock")));
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
            tracing::info!(event = "server.leaving", sessions = server.admission.borrow().open_count(), "another process accepts now");
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
            sessions = server.admission.borrow().open_count(),
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
        while self.admission.borrow().open_count() > 0 {
            self.connection_ended.notified().await;
        }
    }

    fn put_into_force(&self, view: SmtpServerView) {
        *self.view.borrow_mut() = Some(Rc::new(View::new(view, &self.signer)));
    }

    /// Has new connections use the credentials that are there now.
    async fn keep_credentials(self: Rc<Self>) {
        loop {
            self.signer.changed().await;
            if let Some(view) = self.view() {
                self.put_into_force(view.view.clone());
            }
        }
    }

    async fn keep_qmgr(self: Rc<Self>, hello: Hello, path: PathBuf) {
        loop {
            if let Ok(link) = connect(&path).and_then(Link::new) {
                let greeted = link.push(&ToQmgr::Hello(hello.clone()));
                debug_assert!(greeted.is_ok(), "a greeting is small");
                let read = link.read_until_end(|datagram, mut attached| {
                    let mut frames = Frames::open(datagram)?;
                    while let Some(frame) = frames.next_frame::<FromQmgr>()? {
                        self.take(&link, &frame, &mut attached);
                    }
                    Ok(())
                });
                let end = tokio::select! {
                    end = read => end,
                    never = self.tell_connections(&link) => match never {},
                };
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
                        self.put_into_force(view);
                        self.view_changed.notify_one();
                        self.admission_changed.notify_one();
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
        let class = prepared.precedence_max_of(client.ip()).civil();
        let admitted = self.admission.borrow_mut().admit(&prepared.listener, class, client.ip());
        self.admission_changed.notify_one();
        let place = match admitted {
            Ok(place) => place,
            Err(refusal) => {
                // Inside TLS, where it would have to be said, it costs what it is to spare.
                if !prepared.tls.is_immediate() {
                    spawn_local(refuse(stream, refusal));
                }
                return;
            }
        };
        let server = Rc::clone(self);
        spawn_local(async move {
            Connection::new(Rc::clone(&server), prepared, stream, client).converse().await;
            server.admission.borrow_mut().release(place);
            server.admission_changed.notify_one();
            server.connection_ended.notify_one();
        });
    }

    /// Tells QMGR how it stands with connections, for who looks: when it has changed, and not too often.
    async fn tell_connections(&self, link: &Link) -> Infallible {
        loop {
            // A QMGR that does not listen is told when it does.
            if let Some(view) = self.view().filter(|_| link.unsent_octets() == 0) {
                let listeners = self.admission.borrow().status(&view.view.listeners);
                // More listeners than fit a datagram are told of by nobody; they work all the same.
                drop(link.push(&ToQmgr::Connections { listeners }));
            }
            tokio::time::sleep(CONNECTIONS_TOLD_EVERY).await;
            self.admission_changed.notified().await;
        }
    }
}

async fn refuse(mut stream: TcpStream, refusal: &'static str) {
    // Five seconds are more than a reply of one line needs; a client that does not take it has lost interest.
    let told = tokio::time::timeout(Duration::from_secs(5), stream.write_all(refusal.as_bytes())).await;
    tracing::debug!(told = told.is_ok(), "a connection was refused");
}
