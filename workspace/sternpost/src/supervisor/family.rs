//! Which processes should run, which do, and what to do about the difference. A machine without I/O.
//!
//! Events go in through `apply`, actions come out of `poll`. The driver carries out each action before the next event;
//! it answers [`Action::Start`] with [`Event::Started`] or [`Event::StartFailed`].
//! Kept roles (store, QMGR, directory, `smtp-server`) are started again when they end; channel processes are not: QMGR
//! hears of the end and decides.

use super::limits::{
    CHANNEL_STOP_MAX, DIRECTORY_STOP_MAX, HoldOff, LONG_LIFE, QMGR_STOP_MAX, SMTP_SERVER_STOP_MAX,
    STORE_STOP_MAX,
};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};
use sternpost_link::supervisor::{Failing, FromSupervisor, Running};
use sternpost_link::{ChannelKind, Role};

/// A channel process as QMGR orders it.
#[derive(Clone, Debug, PartialEq, Eq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// One of the roles that are always there.
    Kept(Role),
    /// A channel process.
    Channel(ChannelOrder),
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
    /// Everything is to end, `smtp-server` first and the store last; said twice, without waiting.
    Stop,
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
    /// SIGKILL.
    Kill { pid: u32 },
    /// Send this to QMGR, if it is there: what it misses it learns from `Running` after its Hello.
    Tell(FromSupervisor),
    /// Nothing runs any more.
    Finish,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    No,
    Asked { kill_at: Instant },
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
        if self.ending == Ending::No {
            self.ending = Ending::Asked { kill_at };
            actions.push_back(Action::Terminate { pid: self.pid });
        }
    }

    fn kill_if_due(&mut self, now: Instant, actions: &mut VecDeque<Action>) {
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
    /// Short lives in a row that nobody has asked to end, and why the last one did.
    failures: (u32, String),
}

impl Kept {
    fn has_failed(&mut self, why: String) {
        self.failures = (self.failures.0.saturating_add(1), why);
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
    Store,
}

impl Stage {
    const ALL: [Self; 5] = [Self::SmtpServer, Self::Channels, Self::Qmgr, Self::Directory, Self::Store];

    /// The kept role of the stage, and how long it may take to end.
    const fn role_and_limit(self) -> (Role, Duration) {
        match self {
            Self::SmtpServer => (Role::SmtpServer, SMTP_SERVER_STOP_MAX),
            Self::Channels => (Role::Channel, CHANNEL_STOP_MAX),
            Self::Qmgr => (Role::Qmgr, QMGR_STOP_MAX),
            Self::Directory => (Role::Directory, DIRECTORY_STOP_MAX),
            Self::Store => (Role::Store, STORE_STOP_MAX),
        }
    }
}

/// All processes of the switch but the supervisor.
#[derive(Debug)]
pub(crate) struct Family {
    kept: [Kept; 4],
    /// By the scheduler's number.
    channels: BTreeMap<u64, ChannelProcess>,
    smtp_server_is_wanted: bool,
    is_stopping: bool,
    is_finished: bool,
    actions: VecDeque<Action>,
}

impl Family {
    /// Nothing runs; store, QMGR and directory are due.
    pub(crate) fn new(now: Instant) -> Self {
        let kept = |role, start_at| Kept {
            role,
            process: None,
            start_at,
            starts_count: 0,
            hold_off: HoldOff::default(),
            failures: (0, String::new()),
        };
        let mut family = Self {
            kept: [
                kept(Role::Store, Some(now)),
                kept(Role::Qmgr, Some(now)),
                kept(Role::Directory, Some(now)),
                kept(Role::SmtpServer, None),
            ],
            channels: BTreeMap::new(),
            smtp_server_is_wanted: false,
            is_stopping: false,
            is_finished: false,
            actions: VecDeque::new(),
        };
        family.apply(now, Event::Wake);
        family
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
            Event::Stop => self.stop(now),
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
            Ending::Asked { kill_at } => Some(kill_at),
            Ending::No | Ending::Killed => None,
        });
        starts.chain(kills).min()
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
        kept.chain(channels).collect()
    }

    /// The kept roles that do not stay: such a one is not there, or has not lived long yet.
    pub(crate) fn failing(&self, now: Instant) -> Vec<Failing> {
        let lives_long = |process: &Process| now.saturating_duration_since(process.started) >= LONG_LIFE;
        let failing = self.kept.iter().filter(|kept| {
            kept.failures.0 > 0
                && !kept.process.as_ref().is_some_and(lives_long)
                && (kept.role != Role::SmtpServer || self.smtp_server_is_wanted)
        });
        failing
            .map(|kept| Failing {
                role: kept.role,
                ends_count: kept.failures.0,
                why: kept.failures.1.clone(),
            })
            .collect()
    }

    fn processes(&self) -> impl Iterator<Item = &Process> {
        let kept = self.kept.iter().filter_map(|kept| kept.process.as_ref());
        kept.chain(self.channels.values().map(|channel| &channel.process))
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
                    kept.has_failed(why);
                }
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
                if life >= LONG_LIFE {
                    kept.failures.0 = 0;
                } else {
                    kept.has_failed(status);
                }
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
        }
        if self.is_stopping {
            self.stop_next(now);
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

    fn stop(&mut self, now: Instant) {
        if self.is_stopping {
            tracing::warn!("told to stop twice: what has been asked to end is killed");
            for process in self.kept.iter_mut().filter_map(|kept| kept.process.as_mut()) {
                hasten(process, now);
            }
            self.channels.values_mut().for_each(|channel| hasten(&mut channel.process, now));
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
            for process in
                self.kept.iter_mut().filter(|kept| kept.role == role).filter_map(|kept| kept.process.as_mut())
            {
                is_over = false;
                process.ask_to_end(kill_at, &mut self.actions);
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
