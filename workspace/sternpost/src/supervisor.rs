//! `sternpost run`: the small parent of all processes of the switch. One thread, never busy, and it outlives them all.
//!
//! It owns the run directory: the lock, the socket files `store.sock`, `qmgr.sock`, `signer.sock` and `supervisor.sock`, and the
//! listening sockets behind them and behind `smtp-server`. They stay open while a role restarts, so that a client
//! which connects meanwhile waits in the backlog instead of being refused.
//! [`Family`] decides what is started and stopped; this file carries it out. It never reads mail, the log or the
//! configuration, and never waits for a process.
//!
//! An upgrade (SIGUSR2) puts another executable into the place of this one, in the same process: the sockets stay open,
//! and the children stay children. See `handover`.

mod fallback;
mod family;
mod handover;
mod limits;
pub(crate) mod listeners_file;
mod listening;
mod paths;
mod service;
mod session;
mod spawn;
mod successor;
mod upgrade;
pub(crate) mod upgrade_file;

pub(crate) use listening::FOREIGN_ADDRESS;
pub(crate) use paths::{QMGR_SOCKET, SIGNER_SOCKET, STORE_SOCKET, SUPERVISOR_SOCKET};
pub(crate) use upgrade::check;

use crate::bootstrap::{Bootstrap, BootstrapError};
use crate::output;
use crate::role;
use fallback::Fallback;
use family::{Action, ChannelOrder, Event, Family, Start};
use handover::{Handover, HandoverError};
use listening::{Change, Listening};
use paths::RunDirectory;
use service::Service;
use session::{FromSession, SessionId};
use spawn::{Given, Spawner};
use std::collections::HashMap;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;
use sternpost_link::supervisor::{FromSupervisor, ToSupervisor};
use sternpost_link::{Hello, Role};
use sternpost_platform::child::{Child, Order};
use sternpost_platform::door::Door;
use sternpost_platform::link::{Link, Listener};
use sternpost_platform::process;
use successor::{Sound, Successor};
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use upgrade::{Beginning, Stage, Upgrades};

/// Why the supervisor could not start. Once it runs, nothing that a role does ends it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SupervisorError {
    /// The bootstrap.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// A folder could not be made or is open to others.
    #[error("the folder {} cannot be used", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another supervisor has the lock.
    #[error(
        "a switch already runs in {}; stop it, or give this one a run_directory of its own",
        run_directory.display()
    )]
    AlreadyRunning {
        /// The folder of both.
        run_directory: PathBuf,
    },
    /// The roles cannot have users of their own here.
    #[error(
        "role_users = \"separate\" needs {}: start the switch as root or give its unit these capabilities, \
         or let all processes be one user with role_users = \"same\"",
        lacking.join(", ")
    )]
    Users {
        /// Names of capabilities.
        lacking: Vec<&'static str>,
    },
    /// The log is not the store's.
    #[error("the log {} {what}", path.display())]
    LogOwner {
        /// File or device.
        path: PathBuf,
        /// What is wrong and what to do.
        what: String,
    },
    /// A path that cannot be handed to a role.
    #[error("the path of the log cannot be handed to the store")]
    Given(#[source] serde_json::Error),
    /// What the supervisor before this one has left.
    #[error("this executable cannot take over")]
    Handover(#[from] HandoverError),
    /// A socket could not be opened.
    #[error("the socket {} cannot be opened", path.display())]
    Socket {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The process itself cannot go on.
    #[error("the supervisor cannot {what}")]
    Process {
        /// What it cannot do.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// Runs the switch until SIGTERM or SIGINT has stopped it; `take_over` names what the executable before has left.
///
/// # Errors
/// What keeps the supervisor from starting, see [`SupervisorError`].
pub(crate) fn run(bootstrap_path: &Path, take_over: Option<RawFd>) -> Result<(), SupervisorError> {
    let mut fallback = match take_over.map(|number| Fallback::of(number, bootstrap_path)).transpose() {
        Ok(fallback) => fallback.flatten(),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::error!(
                event = "upgrade.no-way-back",
                error,
                "the executable before cannot be kept: if this one cannot begin, the switch ends"
            );
            None
        }
    };
    // A panic too: it would end the switch for a defect that no check of the executable has found.
    let result =
        std::panic::catch_unwind(AssertUnwindSafe(|| begin(bootstrap_path, take_over, &mut fallback)));
    let trouble = match &result {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(output::chain(error)),
        Err(_) => Some("it has panicked; see the log".to_owned()),
    };
    if let (Some(trouble), Some(fallback)) = (trouble, fallback.take()) {
        let why = format!("the new executable cannot begin: {trouble}");
        tracing::error!(event = "upgrade.back", why, "the executable before takes over again");
        let error = fallback.go_back(why);
        tracing::error!(
            event = "upgrade.lost",
            %error,
            "the executable before cannot be run either; the switch ends: put a good file in its place and start it"
        );
    }
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// `fallback` is what to go back to until the supervisor is ready.
fn begin(
    bootstrap_path: &Path,
    take_over: Option<RawFd>,
    fallback: &mut Option<Fallback>,
) -> Result<(), SupervisorError> {
    // Before anything else is opened.
    let (given, refusals) = match take_over {
        None => service::inherited_sockets(),
        Some(_) => (Vec::new(), Vec::new()),
    };
    let (listening, more_refusals) = Listening::with_given(given);
    for why in refusals.into_iter().chain(more_refusals) {
        tracing::warn!(event = "listener.given", why, "a socket of the service manager cannot be used");
    }
    let bootstrap = Bootstrap::read(bootstrap_path)?;
    let process = |what| move |source| SupervisorError::Process { what, source };
    let bootstrap_path = std::path::absolute(bootstrap_path).map_err(process("name its bootstrap"))?;
    paths::check_users(&bootstrap)?;
    let beginning = match take_over {
        None => upgrade::begin(&bootstrap, listening)?,
        Some(number) => upgrade::go_on(&bootstrap, Handover::take(number, &bootstrap)?)?,
    };
    let given = Given::of(&bootstrap).map_err(SupervisorError::Given)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(process("start its event loop"))?;
    tokio::task::LocalSet::new().block_on(&runtime, supervise(beginning, bootstrap_path, given, fallback))
}

/// The version of this executable.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What the driver waits for.
#[derive(Debug)]
enum Input {
    /// A process or the clock.
    Family(Event),
    /// A link to QMGR or an operator.
    Session(SessionId, FromSession),
    /// Whether an executable can take over.
    Checked(Successor, Result<Sound, String>),
}

async fn supervise(
    beginning: Beginning,
    bootstrap_path: PathBuf,
    given: Given,
    fallback: &mut Option<Fallback>,
) -> Result<(), SupervisorError> {
    let Beginning { run_directory, sockets, listening, family, children, upgrades } = beginning;
    let process = |what| move |source| SupervisorError::Process { what, source };
    let on = |kind| signal(kind).map_err(process("wait for signals"));
    let (mut terminate, mut interrupt, mut hangup, mut upgrade) = (
        on(SignalKind::terminate())?,
        on(SignalKind::interrupt())?,
        on(SignalKind::hangup())?,
        on(SignalKind::user_defined2())?,
    );
    let handed_socket = sockets.supervisor.try_clone().map_err(process("share its socket"))?;
    let listener = Listener::new(sockets.supervisor).map_err(process("listen to QMGR"))?;
    let (inputs, mut input) = mpsc::channel(64);
    let users = role::users(given.role_users(), rustix::process::geteuid().as_raw());
    let spawner = Spawner {
        bootstrap_path,
        run_directory: run_directory.path().to_owned(),
        given,
        store: sockets.store,
        qmgr: sockets.qmgr,
        signer: sockets.signer,
    };
    tokio::task::spawn_local(session::accept(listener, inputs.clone()));
    let mut supervisor = Supervisor {
        listen_retry_at: listening.has_failures().then(Instant::now),
        listen_look_at: None,
        family,
        spawner,
        listening,
        run_directory,
        socket: handed_socket,
        upgrades,
        children: HashMap::new(),
        sessions: HashMap::new(),
        door: Door::new(users),
        qmgr: None,
        service: Service::default(),
        inputs,
    };
    for (pid, words) in children {
        supervisor.adopt(pid, words);
    }
    supervisor.tell_of_listeners();
    if supervisor.upgrades.attempts_count == 0 {
        supervisor.tell_of_upgrade(Stage::NotInForce, "it was not upgraded since it was started".to_owned());
    }
    let mut signs_of_life = service::signs_of_life();
    process::hear_signals().map_err(process("hear signals"))?;
    *fallback = None;
    tracing::info!(run_directory = %supervisor.run_directory.path().display(), version = VERSION, "running");
    while !supervisor.carry_out() {
        supervisor.tell_of_taking_over();
        supervisor.service.tell(&supervisor.family.running(), &supervisor.listening.report());
        let wake_at = supervisor.wake_at();
        let wake = async {
            match wake_at {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        let sign_of_life = async {
            match &mut signs_of_life {
                Some(interval) => interval.tick().await,
                None => std::future::pending().await,
            }
        };
        let next = tokio::select! {
            Some(next) = input.recv() => next,
            _ = terminate.recv() => Input::Family(Event::Stop),
            _ = interrupt.recv() => Input::Family(Event::Stop),
            _ = upgrade.recv() => {
                supervisor.upgrade();
                continue;
            }
            _ = sign_of_life => {
                service::sign_of_life();
                continue;
            }
            // A terminal that goes away does not stop the switch.
            _ = hangup.recv() => continue,
            () = wake => Input::Family(Event::Wake),
        };
        if matches!(next, Input::Family(Event::Stop)) {
            supervisor.service.stop();
            if supervisor.upgrades.waiting.take().is_some() {
                // It stops already.
                continue;
            }
        }
        supervisor.apply(next);
    }
    supervisor.run_directory.remove_sockets();
    tracing::info!("stopped");
    Ok(())
}

/// A link, and as what it was let in.
struct Session {
    link: Rc<Link>,
    role: Option<Role>,
}

/// A child.
struct Known {
    orders: mpsc::UnboundedSender<Order>,
    /// The pipe of its last words, for a handover.
    words: Option<OwnedFd>,
}

/// Everything that the supervisor knows.
struct Supervisor {
    family: Family,
    spawner: Spawner,
    listening: Listening,
    listen_retry_at: Option<Instant>,
    /// When the listening sockets are looked at again, while processes share them that accept no more.
    listen_look_at: Option<Instant>,
    run_directory: RunDirectory,
    /// The listening socket behind `supervisor.sock`, for a handover.
    socket: OwnedFd,
    upgrades: Upgrades,
    /// By process id.
    children: HashMap<u32, Known>,
    sessions: HashMap<SessionId, Session>,
    /// Who may connect to the supervisor's socket.
    door: Door,
    /// The session that has said that it is QMGR.
    qmgr: Option<SessionId>,
    service: Service,
    inputs: mpsc::Sender<Input>,
}

impl Supervisor {
    fn wake_at(&self) -> Option<Instant> {
        self.family.wake_at().into_iter().chain(self.listen_retry_at).chain(self.listen_look_at).min()
    }

    fn apply(&mut self, input: Input) {
        let now = Instant::now();
        match input {
            Input::Family(event) => {
                if let Event::Ended { pid, .. } = &event {
                    self.children.remove(pid);
                    if self.family.accepts(*pid) {
                        self.mend_listening();
                    }
                }
                self.family.apply(now, event);
            }
            Input::Checked(successor, result) => self.checked(successor, result),
            Input::Session(id, FromSession::Opened(link)) => {
                self.sessions.insert(id, Session { link, role: None });
            }
            Input::Session(id, FromSession::Frame(frame)) => self.frame(id, frame),
            Input::Session(id, FromSession::Closed) => {
                self.sessions.remove(&id);
                if self.qmgr == Some(id) {
                    self.qmgr = None;
                }
            }
        }
        if !self.family.is_on_trial() {
            self.end_trial();
        }
        if self.listen_look_at.is_some_and(|at| at <= now) {
            self.mend_listening();
        }
        let look_at = self.listen_look_at.filter(|at| *at > now).unwrap_or(now + limits::LISTEN_LOOK);
        self.listen_look_at = self.family.is_one_leaving().then_some(look_at);
        if self.listen_retry_at.is_some_and(|at| at <= now) {
            let change = self.listening.retry();
            self.listening_changed(now, change);
        }
    }

    fn frame(&mut self, id: SessionId, frame: ToSupervisor) {
        let now = Instant::now();
        let Some(session) = self.sessions.get(&id) else { return };
        match (session.role, &frame) {
            (None, ToSupervisor::Hello(hello)) => return self.greet(id, hello.clone()),
            (Some(role), frame) if frame.is_business_of(role) => {}
            (role, _) => {
                let who = role.map_or("a process that has not said who it is", Role::name);
                let why = format!("{who} has sent what is not its business");
                self.door.refuse(&*session.link, &why);
                return;
            }
        }
        match frame {
            ToSupervisor::Hello(_) => {}
            ToSupervisor::Status => self.report(id),
            ToSupervisor::StartChannel { process, channel, kind, capacity } => {
                let order = ChannelOrder { process, channel, kind, capacity };
                self.family.apply(now, Event::StartChannel(order));
            }
            ToSupervisor::KillChannel { process } => {
                self.family.apply(now, Event::KillChannel { process });
            }
            ToSupervisor::Listen { listeners } => {
                let change = self.listening.set(listeners);
                self.listening_changed(now, change);
            }
        }
    }

    /// Lets in operators, and the one process that was started as QMGR.
    fn greet(&mut self, id: SessionId, hello: Hello) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some(hello) = self.door.admit(&*session.link, hello) else { return };
        let is_qmgr = self
            .family
            .running()
            .iter()
            .any(|process| process.role == Role::Qmgr && process.pid == hello.pid);
        match hello.role {
            Role::Operator => {}
            Role::Qmgr if is_qmgr => self.qmgr = Some(id),
            role => {
                let why = format!("it is no {} that the supervisor has started to lead it", role.name());
                return self.door.refuse(&*session.link, &why);
            }
        }
        session.role = Some(hello.role);
        self.report(id);
    }

    fn listening_changed(&mut self, now: Instant, change: Change) {
        self.listen_retry_at = self.listening.has_failures().then(|| now + limits::LISTEN_RETRY);
        for (listener, why) in change.failures {
            tracing::error!(listener, why, "cannot listen; tried again every second");
            self.tell(&FromSupervisor::ListenFailed { listener, why });
        }
        if change.changed {
            for socket in self.listening.report() {
                tracing::info!(listener = socket.listener, address = %socket.bound, "listening");
            }
            for address in self.listening.unused() {
                tracing::info!(event = "listener.unused", %address, "no listener uses this socket of the service manager; nobody is served there");
            }
            self.tell_of_listeners();
            self.family.apply(now, Event::ListeningChanged { is_empty: self.listening.is_empty() });
        }
    }

    /// The process that accepts has sockets that listen, whatever others that share them have done.
    fn mend_listening(&mut self) {
        let mended = self.listening.mend();
        for (address, what) in &mended {
            tracing::warn!(
                event = "listener.broken",
                %address,
                %what,
                "a process that shares this listening socket has broken it; it is mended, or tried again every second; no mail does this by \
                 itself: report it"
            );
        }
        if !mended.is_empty() {
            self.family.apply(Instant::now(), Event::SocketsBroken);
        }
        if self.listening.has_failures() {
            self.listen_retry_at = Some(Instant::now() + limits::LISTEN_RETRY);
        }
    }

    /// For the firewall, which opens what stands there and nothing else.
    fn tell_of_listeners(&self) {
        if let Err(error) = listeners_file::write(&self.spawner.run_directory, &self.listening.report()) {
            tracing::error!(
                event = "listener.file",
                error = &error as &dyn std::error::Error,
                "where the switch listens was not written; a firewall that follows it stays as it is"
            );
        }
    }

    /// Carries out what the family wants; true when nothing is left to do, ever.
    fn carry_out(&mut self) -> bool {
        while let Some(action) = self.family.poll() {
            match action {
                Action::Start(start) => self.start(start),
                Action::Terminate { pid } => self.order(pid, Order::Terminate),
                Action::Leave { pid } => self.order(pid, Order::Leave),
                Action::Kill { pid } => self.order(pid, Order::Kill),
                Action::Tell(frame) => self.tell(&frame),
                Action::GoBack { why } => self.go_back(why),
                Action::Finish => match self.upgrades.waiting.take() {
                    Some(waiting) => self.step_over_alone(&waiting),
                    None => return true,
                },
            }
        }
        false
    }

    fn start(&mut self, start: Start) {
        if matches!(start, Start::Kept(Role::SmtpServer)) {
            self.mend_listening();
        }
        let event = match self.spawner.spawn(&start, &self.listening) {
            Ok((pid, words)) => {
                self.adopt(pid, words.map(Into::into));
                Event::Started { start, pid }
            }
            Err(error) => Event::StartFailed { start, why: error.to_string() },
        };
        self.family.apply(Instant::now(), event);
    }

    /// Watches a child that is there.
    fn adopt(&mut self, pid: u32, words: Option<OwnedFd>) {
        let pipe = words.as_ref().and_then(|words| words.try_clone().ok());
        let pipe = pipe.and_then(|pipe| pipe::Receiver::from_owned_fd(pipe).ok());
        let (orders, receiver) = mpsc::unbounded_channel();
        self.children.insert(pid, Known { orders, words });
        tokio::task::spawn_local(spawn::reap(pid, Child::of(pid), pipe, receiver, self.inputs.clone()));
    }

    fn order(&self, pid: u32, order: Order) {
        if let Some(child) = self.children.get(&pid) {
            // The receiver is gone when the child has just been reaped: then it hears nothing.
            let _ = child.orders.send(order);
        }
    }

    fn tell(&self, frame: &FromSupervisor) {
        if let Some(Session { link, .. }) = self.qmgr.and_then(|qmgr| self.sessions.get(&qmgr))
            && let Err(error) = link.push(frame)
        {
            tracing::error!(%error, "QMGR could not be told");
        }
    }

    /// Answers a Hello or a question, and nothing else: QMGR takes what is absent from `Running` for gone, and an answer
    /// that it did not ask for could cross with its own `StartChannel`.
    fn report(&self, id: SessionId) {
        let running = FromSupervisor::Running {
            version: VERSION.to_owned(),
            processes: self.family.running(),
            listening: self.listening.report(),
            failed: self.listening.failed(),
            failing: self.family.failing(Instant::now()),
        };
        if let Some(Session { link, .. }) = self.sessions.get(&id)
            && let Err(error) = link.push(&running)
        {
            tracing::error!(%error, "what runs does not fit a frame");
        }
    }
}
