//! Which processes should run, which do, and what to do about the difference. A machine without I/O.
//!
//! Events go in through `apply`, actions come out of `poll`. The driver carries out each action before the next event;
//! it answers [`Action::Start`] with [`Event::Started`] or [`Event::StartFailed`].
//! Kept roles (store, QMGR, directory, signer, `smtp-server`) are started again when they end; channel processes are not: QMGR
//! hears of the end and decides. After an upgrade ([`Family::taken_over`]) the processes of the executable before are
//! replaced: the kept roles at once, channel processes when they have finished what they have, and an `smtp-server` when
//! its last session has ended.

use super::limits::{
    CHANNEL_STOP_MAX, DIRECTORY_STOP_MAX, Ends, HoldOff, LONG_LIFE, LOOP_COUNT_SHOWN, QMGR_STOP_MAX,
    SIGNER_STOP_MAX, SMTP_SERVER_LEAVE_MAX, SMTP_SERVER_STOP_MAX, STORE_STOP_MAX, UPGRADE_FAILURES_MAX,
    UPGRADE_TRIAL,
};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};
use sternpost_link::supervisor::{Failing, FromSupervisor, Running};
use sternpost_link::{ChannelKind, Role};

/// A channel process as QMGR orders it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct ChannelOrder {
    /// The scheduler's number.
    pub(crate) process: u64,
    /// The channel's name.
    pub(crate) channel: String,
    /// What it does.
    pub(crate) kind: ChannelKind,
    /// Mlists that it may take at a time.
    pub(crate) capacity: u32,
}

/// What to start.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum Start {
    /// One of the roles that are always there.
    Kept(Role),
    /// A channel process.
    Channel(ChannelOrder),
}

/// A process that another supervisor has started, in this process before.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Adopted {
    /// What it was started as.
    pub(crate) start: Start,
    /// Its number.
    pub(crate) pid: u32,
    /// How often its role had been started.
    pub(crate) starts_count: u32,
    /// An `smtp-server` that has been leaving already, and for how many milliseconds more it may.
    pub(crate) leaves_within_ms: Option<u64>,
}

/// What happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// A process runs.
    Started { start: Start, pid: u32 },
    /// A process could not be made.
    StartFailed { start: Start, why: String },
    /// A process has ended.
    Ended { pid: u32, status: String },
    /// QMGR wants a channel process.
    StartChannel(ChannelOrder),
    /// QMGR wants one gone.
    KillChannel { process: u64 },
    /// Other listening sockets are open than before: `smtp-server` is to run on them, or not at all.
    ListeningChanged { is_empty: bool },
    /// A listening socket was broken, for everybody who shares it, and is mended.
    SocketsBroken,
    /// Everything is to end, `smtp-server` first and the store last; said twice, without waiting.
    Stop,
    /// The same for another executable, for which new clients wait: sessions may end by themselves first.
    StopForAnother,
    /// The time that [`Family::wake_at`] gave has come.
    Wake,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Make a process.
    Start(Start),
    /// SIGTERM.
    Terminate { pid: u32 },
    /// Have it take nothing new, and end when its last session has ended.
    Leave { pid: u32 },
    /// SIGKILL.
    Kill { pid: u32 },
    /// Send this to QMGR, if it is there: what it misses it learns from `Running` after its Hello.
    Tell(FromSupervisor),
    /// Roles of the new executable do not stay: put the one before back into force, and say why.
    GoBack { why: String },
    /// Nothing runs any more.
    Finish,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    No,
    /// It finishes what it has for as long as it takes: QMGR sees to it that this ends.
    Finishing,
    /// It is asked at that instant: it leaves, and sessions may end by themselves until then.
    Leaving {
        ask_at: Instant,
    },
    Asked {
        kill_at: Instant,
    },
    Killed,
}

/// A process that runs.
#[derive(Debug)]
struct Process {
    pid: u32,
    started: Instant,
    ending: Ending,
}

impl Process {
    fn new(pid: u32, now: Instant) -> Self {
        Self { pid, started: now, ending: Ending::No }
    }

    /// Asks it to end, once.
    fn ask_to_end(&mut self, kill_at: Instant, actions: &mut VecDeque<Action>) {
        if matches!(self.ending, Ending::No | Ending::Finishing | Ending::Leaving { .. }) {
            self.ending = Ending::Asked { kill_at };
            actions.push_back(Action::Terminate { pid: self.pid });
        }
    }

    /// Has it leave, and asks it to end at that instant if it has not by then.
    fn leave_by(&mut self, ask_at: Instant, actions: &mut VecDeque<Action>) {
        match &mut self.ending {
            Ending::No => {
                self.ending = Ending::Leaving { ask_at };
                actions.push_back(Action::Leave { pid: self.pid });
            }
            Ending::Leaving { ask_at: before } => *before = ask_at.min(*before),
            Ending::Finishing | Ending::Asked { .. } | Ending::Killed => {}
        }
    }

    fn kill_if_due(&mut self, now: Instant, actions: &mut VecDeque<Action>) {
        if matches!(self.ending, Ending::Leaving { ask_at } if ask_at <= now) {
            self.ask_to_end(now + SMTP_SERVER_STOP_MAX, actions);
        }
        if matches!(self.ending, Ending::Asked { kill_at } if kill_at <= now) {
            self.ending = Ending::Killed;
            actions.push_back(Action::Kill { pid: self.pid });
        }
    }
}

/// A role that is always there.
#[derive(Debug)]
struct Kept {
    role: Role,
    process: Option<Process>,
    start_at: Option<Instant>,
    starts_count: u32,
    hold_off: HoldOff,
    /// Short lives in a row that nobody has asked to end, and why the last life that ended by itself did.
    failures: (u32, String),
    /// When it has ended by itself.
    ends: Ends,
}

impl Kept {
    fn new(role: Role, start_at: Option<Instant>) -> Self {
        Self {
            role,
            process: None,
            start_at,
            starts_count: 0,
            hold_off: HoldOff::default(),
            failures: (0, String::new()),
            ends: Ends::default(),
        }
    }

    /// It has ended by itself, or was not to be started, after a life of `life`.
    fn has_failed(&mut self, now: Instant, life: Duration, why: String) {
        let count = if life >= LONG_LIFE { 0 } else { self.failures.0.saturating_add(1) };
        self.failures = (count, why);
        if let Some(ends_in_hour) = self.ends.note(now) {
            let next_start_ms = self.start_at.map_or(0, |at| at.saturating_duration_since(now).as_millis());
            tracing::error!(
                event = "role.loop",
                role = self.role.name(),
                ends_in_hour,
                ends_in_a_row = self.failures.0,
                why = self.failures.1,
                next_start_ms,
                "a role ends again and again"
            );
        }
    }
}

#[derive(Debug)]
struct ChannelProcess {
    order: ChannelOrder,
    process: Process,
}

/// What ends together, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    SmtpServer,
    Channels,
    Qmgr,
    Directory,
    Signer,
    Store,
}

impl Stage {
    const ALL: [Self; 6] =
        [Self::SmtpServer, Self::Channels, Self::Qmgr, Self::Directory, Self::Signer, Self::Store];

    /// The kept role of the stage, and how long it may take to end.
    const fn role_and_limit(self) -> (Role, Duration) {
        match self {
            Self::SmtpServer => (Role::SmtpServer, SMTP_SERVER_STOP_MAX),
            Self::Channels => (Role::Channel, CHANNEL_STOP_MAX),
            Self::Qmgr => (Role::Qmgr, QMGR_STOP_MAX),
            Self::Directory => (Role::Directory, DIRECTORY_STOP_MAX),
            Self::Signer => (Role::Signer, SIGNER_STOP_MAX),
            Self::Store => (Role::Store, STORE_STOP_MAX),
        }
    }
}

/// All processes of the switch but the supervisor.
#[derive(Debug)]
pub(crate) struct Family {
    kept: [Kept; 5],
    /// By the scheduler's number.
    channels: BTreeMap<u64, ChannelProcess>,
    /// Each `smtp-server` of an executable before whose sessions go on.
    leaving: Vec<Process>,
    /// Until when a role that does not stay puts the executable before back into force.
    trial_until: Option<Instant>,
    smtp_server_is_wanted: bool,
    is_stopping: bool,
    /// Each `smtp-server` leaves before it is asked to end.
    lets_sessions_end: bool,
    is_finished: bool,
    actions: VecDeque<Action>,
}

impl Family {
    /// Nothing runs; store, QMGR, directory and signer are due.
    pub(crate) fn new(now: Instant) -> Self {
        let mut family = Self::of_nobody(now);
        family.apply(now, Event::Wake);
        family
    }

    fn of_nobody(now: Instant) -> Self {
        Self {
            kept: [
                Kept::new(Role::Store, Some(now)),
                Kept::new(Role::Qmgr, Some(now)),
                Kept::new(Role::Directory, Some(now)),
                Kept::new(Role::Signer, Some(now)),
                Kept::new(Role::SmtpServer, None),
            ],
            channels: BTreeMap::new(),
            leaving: Vec::new(),
            trial_until: None,
            smtp_server_is_wanted: false,
            is_stopping: false,
            lets_sessions_end: false,
            is_finished: false,
            actions: VecDeque::new(),
        }
    }

    /// These run, of the executable before; each is replaced. With a trial, that executable can be gone back to.
    pub(crate) fn taken_over(
        now: Instant,
        adopted: Vec<Adopted>,
        smtp_server_is_wanted: bool,
        has_trial: bool,
    ) -> Self {
        let mut family = Self::of_nobody(now);
        family.trial_until = has_trial.then(|| now + UPGRADE_TRIAL);
        family.smtp_server_is_wanted = smtp_server_is_wanted;
        for Adopted { start, pid, starts_count, leaves_within_ms } in adopted {
            let mut process = Process::new(pid, now);
            match start {
                Start::Kept(Role::SmtpServer) => {
                    let is_news = leaves_within_ms.is_none();
                    let within = leaves_within_ms.map_or(SMTP_SERVER_LEAVE_MAX, Duration::from_millis);
                    process.ending = Ending::Leaving { ask_at: now + within };
                    family.leaving.push(process);
                    if is_news {
                        family.actions.push_back(Action::Leave { pid });
                        if let Some(kept) = family.kept(Role::SmtpServer) {
                            kept.starts_count = starts_count;
                        }
                    }
                }
                Start::Kept(role) => {
                    let limit = Stage::ALL.iter().map(|stage| stage.role_and_limit());
                    let limit = limit.filter(|(of, _)| *of == role).map(|(_, limit)| limit).next();
                    process.ask_to_end(now + limit.unwrap_or_default(), &mut family.actions);
                    if let Some(kept) = family.kept(role) {
                        kept.process = Some(process);
                        kept.starts_count = starts_count;
                        kept.start_at = None;
                    }
                }
                Start::Channel(order) => {
                    process.ending = Ending::Finishing;
                    family.actions.push_back(Action::Terminate { pid });
                    family.channels.insert(order.process, ChannelProcess { order, process });
                }
            }
        }
        if let Some(kept) = family.kept(Role::SmtpServer) {
            kept.start_at = smtp_server_is_wanted.then_some(now);
        }
        family.apply(now, Event::Wake);
        family
    }

    /// What runs, for a supervisor that takes over.
    pub(crate) fn hand_over(&self, now: Instant) -> Vec<Adopted> {
        let kept = self.kept.iter().filter_map(|kept| {
            let (start, pid) = (Start::Kept(kept.role), kept.process.as_ref()?.pid);
            Some(Adopted { start, pid, starts_count: kept.starts_count, leaves_within_ms: None })
        });
        let leaving = self.leaving.iter().map(|process| {
            let within = match process.ending {
                Ending::Leaving { ask_at } => ask_at.saturating_duration_since(now),
                _ => Duration::ZERO,
            };
            let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
            let start = Start::Kept(Role::SmtpServer);
            Adopted { start, pid: process.pid, starts_count: 0, leaves_within_ms: Some(within_ms) }
        });
        let channels = self.channels.values().map(|channel| {
            let (start, pid) = (Start::Channel(channel.order.clone()), channel.process.pid);
            Adopted { start, pid, starts_count: 1, leaves_within_ms: None }
        });
        kept.chain(leaving).chain(channels).collect()
    }

    /// Takes one event.
    pub(crate) fn apply(&mut self, now: Instant, event: Event) {
        match event {
            Event::Started { start, pid } => self.started(now, start, pid),
            Event::StartFailed { start, why } => self.start_failed(now, start, why),
            Event::Ended { pid, status } => self.ended(now, pid, status),
            Event::StartChannel(order) => self.start_channel(order),
            Event::KillChannel { process } => {
                // One that is not there has ended: QMGR was told, or finds it absent from `Running`.
                if let Some(channel) = self.channels.get_mut(&process)
                    && channel.process.ending != Ending::Killed
                {
                    channel.process.ending = Ending::Killed;
                    self.actions.push_back(Action::Kill { pid: channel.process.pid });
                }
            }
            Event::ListeningChanged { is_empty } => self.listening_changed(now, !is_empty),
            Event::SocketsBroken => self.sockets_broken(now),
            Event::Stop => self.stop(now),
            Event::StopForAnother => {
                self.lets_sessions_end = true;
                self.stop(now);
            }
            Event::Wake => {}
        }
        self.wake(now);
    }

    /// The next action.
    pub(crate) fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Event::Wake`] is wanted, at the latest.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        let starts = self.kept.iter().filter_map(|kept| kept.start_at);
        let kills = self.processes().filter_map(|process| match process.ending {
            Ending::Asked { kill_at: at } | Ending::Leaving { ask_at: at } => Some(at),
            Ending::No | Ending::Finishing | Ending::Killed => None,
        });
        starts.chain(kills).chain(self.trial_until).min()
    }

    /// What runs.
    pub(crate) fn running(&self) -> Vec<Running> {
        let kept = self.kept.iter().filter_map(|kept| {
            kept.process.as_ref().map(|process| Running {
                role: kept.role,
                name: kept.role.name().to_owned(),
                process: 0,
                pid: process.pid,
                starts_count: kept.starts_count,
            })
        });
        let channels = self.channels.values().map(|channel| Running {
            role: channel.order.kind.role(),
            name: channel.order.channel.clone(),
            process: channel.order.process,
            pid: channel.process.pid,
            starts_count: 1,
        });
        let leaving = self.leaving.iter().map(|process| Running {
            role: Role::SmtpServer,
            name: format!("{} (leaving)", Role::SmtpServer.name()),
            process: 0,
            pid: process.pid,
            starts_count: 1,
        });
        kept.chain(channels).chain(leaving).collect()
    }

    /// Whether other processes than the one that accepts share the listening sockets.
    pub(crate) const fn is_one_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// Whether this is the `smtp-server` that accepts.
    pub(crate) fn accepts(&self, pid: u32) -> bool {
        let mut servers = self.kept.iter().filter(|kept| kept.role == Role::SmtpServer);
        servers.any(|kept| kept.process.as_ref().is_some_and(|process| process.pid == pid))
    }

    /// Whether the executable before can still be gone back to.
    pub(crate) const fn is_on_trial(&self) -> bool {
        self.trial_until.is_some()
    }

    /// Whether the roles that are always there run, and none of them is one that is being replaced.
    pub(crate) fn is_renewed(&self) -> bool {
        let always =
            self.kept.iter().filter(|kept| kept.role != Role::SmtpServer || self.smtp_server_is_wanted);
        let mut running = always.map(|kept| kept.process.as_ref());
        running.all(|process| process.is_some_and(|process| process.ending == Ending::No))
    }

    /// The kept roles that do not stay: such a one is not there, or has not lived long yet, or has ended by itself too
    /// often within the hour.
    pub(crate) fn failing(&self, now: Instant) -> Vec<Failing> {
        let lives_long = |process: &Process| now.saturating_duration_since(process.started) >= LONG_LIFE;
        let failing = self.kept.iter().filter_map(|kept| {
            let is_short_lived = kept.failures.0 > 0 && !kept.process.as_ref().is_some_and(lives_long);
            let ends_in_hour = kept.ends.count(now);
            let is_wanted = kept.role != Role::SmtpServer || self.smtp_server_is_wanted;
            if !is_wanted || !(is_short_lived || ends_in_hour >= LOOP_COUNT_SHOWN) {
                return None;
            }
            let next_start = kept.start_at.map(|at| at.saturating_duration_since(now));
            Some(Failing {
                role: kept.role,
                ends_count: if is_short_lived { kept.failures.0 } else { 0 },
                ends_in_hour: u32::try_from(ends_in_hour).unwrap_or(u32::MAX),
                next_start_ms: next_start.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
                why: kept.failures.1.clone(),
            })
        });
        failing.collect()
    }

    fn processes(&self) -> impl Iterator<Item = &Process> {
        let kept = self.kept.iter().filter_map(|kept| kept.process.as_ref());
        kept.chain(self.channels.values().map(|channel| &channel.process)).chain(&self.leaving)
    }

    fn kept(&mut self, role: Role) -> Option<&mut Kept> {
        self.kept.iter_mut().find(|kept| kept.role == role)
    }

    fn started(&mut self, now: Instant, start: Start, pid: u32) {
        match start {
            Start::Kept(role) => {
                tracing::info!(role = role.name(), child = pid, "started");
                if let Some(kept) = self.kept(role) {
                    kept.starts_count = kept.starts_count.saturating_add(1);
                    kept.process = Some(Process::new(pid, now));
                }
            }
            Start::Channel(order) => {
                tracing::info!(channel = order.channel, process = order.process, child = pid, "started");
                self.actions.push_back(Action::Tell(FromSupervisor::Started { process: order.process, pid }));
                self.channels
                    .insert(order.process, ChannelProcess { order, process: Process::new(pid, now) });
            }
        }
    }

    fn start_failed(&mut self, now: Instant, start: Start, why: String) {
        match start {
            Start::Kept(role) => {
                tracing::error!(role = role.name(), why, "could not be started");
                if let Some(kept) = self.kept(role) {
                    kept.start_at = Some(now + kept.hold_off.after(Duration::ZERO));
                    kept.has_failed(now, Duration::ZERO, why);
                }
                self.judge(now);
            }
            Start::Channel(order) => {
                tracing::error!(
                    channel = order.channel,
                    process = order.process,
                    why,
                    "could not be started"
                );
                self.refuse(order.process, why);
            }
        }
    }

    fn refuse(&mut self, process: u64, why: String) {
        self.actions.push_back(Action::Tell(FromSupervisor::StartFailed { process, why }));
    }

    fn start_channel(&mut self, order: ChannelOrder) {
        if self.is_stopping {
            self.refuse(order.process, "the switch is stopping".to_owned());
        } else if self.channels.contains_key(&order.process) {
            self.refuse(order.process, "a channel process of that number runs".to_owned());
        } else {
            self.actions.push_back(Action::Start(Start::Channel(order)));
        }
    }

    fn ended(&mut self, now: Instant, pid: u32, status: String) {
        let is_this = |process: &Process| process.pid == pid;
        let (is_stopping, smtp_server_is_wanted) = (self.is_stopping, self.smtp_server_is_wanted);
        if let Some(kept) = self.kept.iter_mut().find(|kept| kept.process.as_ref().is_some_and(is_this)) {
            let Some(process) = kept.process.take() else { return };
            let role = kept.role.name();
            let life = now.saturating_duration_since(process.started);
            if is_stopping || (kept.role == Role::SmtpServer && !smtp_server_is_wanted) {
                tracing::info!(role, child = pid, status, "ended as it was told");
            } else if process.ending == Ending::No {
                let wait = kept.hold_off.after(life);
                tracing::error!(
                    role,
                    child = pid,
                    status,
                    life_s = life.as_secs(),
                    hold_off_ms = wait.as_millis(),
                    "ended"
                );
                kept.start_at = Some(now + wait);
                kept.has_failed(now, life, status);
                self.judge(now);
            } else {
                tracing::info!(role, child = pid, status, "ended as it was told, is started again");
                kept.start_at = Some(now);
            }
        } else if let Some((&number, _)) = self.channels.iter().find(|(_, channel)| is_this(&channel.process))
        {
            if let Some(ChannelProcess { order, process }) = self.channels.remove(&number) {
                let life_s = now.saturating_duration_since(process.started).as_secs();
                tracing::info!(
                    channel = order.channel,
                    process = number,
                    child = pid,
                    status,
                    life_s,
                    "ended"
                );
            }
            self.actions.push_back(Action::Tell(FromSupervisor::Exited { process: number, pid, status }));
        } else if let Some(at) = self.leaving.iter().position(is_this) {
            self.leaving.swap_remove(at);
            tracing::info!(child = pid, status, "the smtp-server of the executable before has ended");
        }
        if self.is_stopping {
            self.stop_next(now);
        }
    }

    /// Whether the new executable is one with which the roles stay.
    fn judge(&mut self, now: Instant) {
        if self.is_stopping || self.trial_until.is_none_or(|until| until <= now) {
            return;
        }
        let worst = self.kept.iter().find(|kept| kept.failures.0 >= UPGRADE_FAILURES_MAX);
        if let Some(kept) = worst {
            let why =
                format!("{} of the new executable does not stay: {}", kept.role.name(), kept.failures.1);
            self.actions.push_back(Action::GoBack { why });
        }
    }

    fn listening_changed(&mut self, now: Instant, is_wanted: bool) {
        if self.is_stopping {
            return;
        }
        self.smtp_server_is_wanted = is_wanted;
        let Some(at) = self.kept.iter().position(|kept| kept.role == Role::SmtpServer) else { return };
        let kept = &mut self.kept[at];
        match &mut kept.process {
            Some(process) => process.ask_to_end(now + SMTP_SERVER_STOP_MAX, &mut self.actions),
            None if !is_wanted => kept.start_at = None,
            // A hold-off that runs already is not cut short.
            None => kept.start_at = kept.start_at.or(Some(now)),
        }
    }

    /// Any `smtp-server` of an executable before may have done it and could do it again, so all of them are killed, with their
    /// sessions. The one that accepts holds the broken sockets: it is replaced, and its end is then no failure of its executable.
    /// With none leaving nothing is done here, and an end of that server counts as its own failure.
    fn sockets_broken(&mut self, now: Instant) {
        if self.leaving.is_empty() || self.is_stopping {
            return;
        }
        for process in self.leaving.iter_mut().filter(|process| process.ending != Ending::Killed) {
            tracing::warn!(
                event = "listener.kill",
                child = process.pid,
                "an smtp-server of the executable before shares a socket that was broken; it is killed"
            );
            process.ending = Ending::Killed;
            self.actions.push_back(Action::Kill { pid: process.pid });
        }
        let server = self.kept.iter_mut().find(|kept| kept.role == Role::SmtpServer);
        if let Some(process) = server.and_then(|kept| kept.process.as_mut()) {
            process.ask_to_end(now + SMTP_SERVER_STOP_MAX, &mut self.actions);
        }
    }

    fn stop(&mut self, now: Instant) {
        if self.is_stopping {
            tracing::warn!("told to stop twice: what has been asked to end is killed");
            for process in self.kept.iter_mut().filter_map(|kept| kept.process.as_mut()) {
                hasten(process, now);
            }
            self.channels.values_mut().for_each(|channel| hasten(&mut channel.process, now));
            self.leaving.iter_mut().for_each(|process| hasten(process, now));
            return;
        }
        tracing::info!("stopping");
        self.is_stopping = true;
        self.kept.iter_mut().for_each(|kept| kept.start_at = None);
        self.stop_next(now);
    }

    /// Asks the first stage that still has a process to end; with none left, it is finished.
    fn stop_next(&mut self, now: Instant) {
        for stage in Stage::ALL {
            let (role, limit) = stage.role_and_limit();
            let kill_at = now + limit;
            let mut is_over = true;
            let leaving: &mut [Process] =
                if stage == Stage::SmtpServer { &mut self.leaving } else { Default::default() };
            let kept = self.kept.iter_mut().filter(|kept| kept.role == role);
            for process in kept.filter_map(|kept| kept.process.as_mut()).chain(leaving) {
                is_over = false;
                if stage == Stage::SmtpServer && self.lets_sessions_end {
                    process.leave_by(kill_at, &mut self.actions);
                } else {
                    process.ask_to_end(kill_at, &mut self.actions);
                }
            }
            if stage == Stage::Channels {
                for channel in self.channels.values_mut() {
                    is_over = false;
                    channel.process.ask_to_end(kill_at, &mut self.actions);
                }
            }
            if !is_over {
                return;
            }
        }
        if !self.is_finished {
            self.is_finished = true;
            self.actions.push_back(Action::Finish);
        }
    }

    /// Starts what is due and kills what was asked to end long enough ago.
    fn wake(&mut self, now: Instant) {
        self.trial_until = self.trial_until.filter(|until| *until > now);
        for kept in &mut self.kept {
            if kept.process.is_none() && kept.start_at.is_some_and(|start_at| start_at <= now) {
                kept.start_at = None;
                self.actions.push_back(Action::Start(Start::Kept(kept.role)));
            }
            if let Some(process) = &mut kept.process {
                process.kill_if_due(now, &mut self.actions);
            }
        }
        for channel in self.channels.values_mut() {
            channel.process.kill_if_due(now, &mut self.actions);
        }
        for process in &mut self.leaving {
            process.kill_if_due(now, &mut self.actions);
        }
    }
}

fn hasten(process: &mut Process, now: Instant) {
    if matches!(process.ending, Ending::Asked { .. }) {
        process.ending = Ending::Asked { kill_at: now };
    }
}

#[cfg(test)]
#[path = "family_tests.rs"]
mod tests;
