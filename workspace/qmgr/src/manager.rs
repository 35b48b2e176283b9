//! What QMGR knows, and what it does about what it hears. Everything here runs at once, on one thread, without
//! waiting: the links and timers are driven by `lib.rs`.
//!
//! Here: what it is made of, the supervisor, and the scheduler. [`tree`] follows the store, [`channels`] the roles.

mod channels;
mod tree;

use crate::generations::Generations;
use crate::lived::Clocks;
use crate::messages::Messages;
use crate::processes::{Holder, Process, Processes};
use crate::reasons::{Need, Reasons};
use crate::record::{Record, RecordError, Recording};
use crate::servers::Servers;
use rustc_hash::FxHashMap;
use std::rc::Rc;
use std::time::Duration;
use sternpost_link::qmgr::{Assignment, FromQmgr};
use sternpost_link::store::ToStore;
use sternpost_link::supervisor::{FromSupervisor, ToSupervisor};
use sternpost_link::{Hello, PROTOCOL_VERSION, Role};
use sternpost_message::{MlistId, NullHop, ROUTE_DELAY_REPORT, ROUTE_FINAL_REPORT, UnixMillis};
use sternpost_platform::clock::Timepiece;
use sternpost_platform::wire::Wire;
use sternpost_scheduler::{Action, Event, Intake, ProcessId, Scheduler};

/// Time that a running channel has to attach to a new QMGR.
const ATTACH_TIMEOUT_MS: u64 = 2_000;
/// Time that a process which this QMGR starts has for the same.
const START_TIMEOUT_MS: u64 = 30_000;
/// A channel is asked this often whether it lives …
const PING_INTERVAL_MS: u64 = 5_000;
/// … and killed when it has not answered for so long. Both by the clock that nobody sets: time that is set is no silence.
const PONG_TIMEOUT_MS: u64 = 30_000;
/// A channel whose peers have taken so much more makes progress: a message of any size is let finish over a link of 64 KiB
/// in `drain_timeout_s`, which is 110 octets a second by default. A peer that reads an octet now and then is not.
const PROGRESS_OCTETS: u64 = 64 << 10;

/// How far the tree is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tree {
    /// The store is away, or the channels have not all attached.
    Waiting,
    /// The store was asked for the snapshot.
    Snapshot,
    /// The snapshot is complete, and the processes count what they hold.
    Recounting,
    /// The count is complete and the store was asked for this mark.
    Marking(u64),
    /// The scheduler goes.
    Going,
}

/// Everything that QMGR knows.
#[derive(Debug)]
pub struct Manager<L: Wire, T: Timepiece> {
    /// All instants here and in the scheduler are of lived time.
    pub(crate) clocks: Clocks<T>,
    /// Who this QMGR is, for its greetings.
    own: Hello,
    pub(crate) scheduler: Scheduler,
    pub(crate) recording: Recording,
    reasons: Reasons,
    pub(crate) tree: Tree,
    pub(crate) generations: Generations,
    pub(crate) messages: Messages,
    pub(crate) processes: Processes<L>,
    /// The null hop that each Mlist of a probe goes to.
    probes: FxHashMap<MlistId, NullHop>,
    /// How it stands with the directory, in words.
    pub(crate) directory: String,
    /// Since when, in lived time.
    pub(crate) directory_since: UnixMillis,
    /// Since when changes do not arrive from it, in lived time; none while they do.
    pub(crate) directory_away_since: Option<UnixMillis>,
    store: Option<Rc<L>>,
    supervisor: Option<Rc<L>>,
    pub(crate) servers: Servers<L>,
    supervisor_has_spoken: bool,
    mark_last: u64,
    /// Marks that wait, and the process whose Mlists come back when they arrive.
    marks: Vec<(u64, ProcessId)>,
    /// What the store was told last of the flow control of intake.
    intake_said: Option<Intake>,
    /// Process ids of channels that ended before the snapshot: their last words come before the mark.
    ended: Vec<u32>,
    /// Mlists that their process no longer holds, as the count has shown.
    vanished: Vec<(ProcessId, MlistId)>,
    /// By the clock that nobody sets.
    last_ping_ms: u64,
}

impl<L: Wire, T: Timepiece> Manager<L, T> {
    /// A QMGR that knows nobody yet. `pid` is the process that it is.
    #[must_use]
    pub fn new(generations: Generations, clocks: Clocks<T>, pid: u32) -> Self {
        let own = Hello {
            version: PROTOCOL_VERSION,
            role: Role::Qmgr,
            pid,
            process: 0,
            channel: String::new(),
            capacity: 0,
        };
        let mut servers = Servers::default();
        servers.listen(generations.listeners());
        Self {
            own,
            last_ping_ms: clocks.counted_ms(),
            directory_since: clocks.now(),
            directory_away_since: Some(clocks.now()),
            clocks,
            scheduler: Scheduler::new(),
            recording: Recording::default(),
            reasons: Reasons::default(),
            tree: Tree::Waiting,
            generations,
            messages: Messages::default(),
            processes: Processes::default(),
            probes: FxHashMap::default(),
            directory: "no word from the directory yet".to_owned(),
            store: None,
            supervisor: None,
            servers,
            supervisor_has_spoken: false,
            mark_last: 0,
            marks: Vec::new(),
            intake_said: None,
            ended: Vec::new(),
            vanished: Vec::new(),
        }
    }

    /// Records from here on what the scheduler is given and answers. To be called before it is given anything.
    pub fn record_into(&mut self, record: Result<Record, RecordError>) {
        self.recording = Recording::of(record);
        self.recording.begin(self.clocks.wall());
    }

    /// Lets what was recorded go to its file when it is time for that. Gives the time until it is again.
    pub fn keep_record(&mut self) -> Option<Duration> {
        self.recording.keep();
        self.recording.due_in()
    }

    pub(crate) fn hello(&self) -> Hello {
        self.own.clone()
    }

    /// The mind, to look at it.
    pub const fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    /// How far the tree is built.
    pub const fn tree(&self) -> Tree {
        self.tree
    }

    /// Now, in lived time.
    pub fn now(&self) -> UnixMillis {
        self.clocks.now()
    }

    pub(crate) fn directory_says(&mut self, connected: bool, text: String) {
        self.directory_away_since =
            (!connected).then(|| self.directory_away_since.unwrap_or_else(|| self.clocks.now()));
        if self.directory != text {
            self.directory = text;
            self.directory_since = self.clocks.now();
        }
    }

    /// The link to the supervisor is there.
    pub fn supervisor_connected(&mut self, link: Rc<L>) {
        send(&*link, &ToSupervisor::Hello(self.hello()));
        self.supervisor = Some(link);
        self.listen();
    }

    /// The supervisor has said something.
    pub fn supervisor_said(&mut self, frame: FromSupervisor) {
        match frame {
            FromSupervisor::Running { processes, .. } => {
                let now = self.clocks.now();
                for running in processes.iter().filter(|running| running.role.is_channel()) {
                    let process = ProcessId(running.process);
                    if self.processes.get(process).is_none() {
                        let attach_by = now.plus_ms(ATTACH_TIMEOUT_MS);
                        let known = Process::new(running.name.clone(), running.pid, attach_by, false);
                        self.processes.insert(process, known);
                        self.apply(Event::ProcessStarted { process, channel: running.name.clone() });
                    }
                    self.channel_is(process, running.pid);
                }
                let gone: Vec<_> = self
                    .processes
                    .alive()
                    .map(|(process, ..)| process)
                    .filter(|process| !processes.iter().any(|running| running.process == process.0))
                    .collect();
                for process in gone {
                    self.process_ended(process, "it was gone when the supervisor was asked");
                }
                self.supervisor_has_spoken = true;
                self.subscribe_if_ready();
            }
            FromSupervisor::Started { process, pid } => self.channel_is(ProcessId(process), pid),
            FromSupervisor::StartFailed { process, why } => {
                tracing::error!(
                    event = "channel.start-failed",
                    process,
                    why,
                    "a channel process could not be started"
                );
                let process = ProcessId(process);
                let channel = self.processes.get(process).map(|known| known.channel.clone());
                self.processes.remove(process);
                self.apply(Event::StartFailed { process });
                self.say_hold_off(&channel.unwrap_or_default());
            }
            FromSupervisor::Exited { process, status, .. } => self.process_ended(ProcessId(process), &status),
            FromSupervisor::ListenFailed { listener, why } => {
                tracing::error!(event = "listener.failed", listener, why, "a listener does not listen");
            }
        }
    }

    fn process_ended(&mut self, process: ProcessId, status: &str) {
        let Some(known) = self.processes.get_mut(process) else { return };
        known.link = None;
        known.is_gone = true;
        let (attached, pid, channel) = (known.capacity.is_some(), known.pid, known.channel.clone());
        if known.is_draining {
            tracing::debug!(
                event = "channel.ended",
                channel = channel.as_str(),
                process = process.0,
                pid,
                status,
                "a channel process has ended"
            );
        } else {
            tracing::warn!(
                event = "channel.died",
                channel = channel.as_str(),
                process = process.0,
                pid,
                status,
                "a channel process has died; what it held is scheduled again"
            );
        }
        if !attached && !self.processes.holds_something(process) {
            self.processes.remove(process);
            self.apply(Event::StartFailed { process });
            self.say_hold_off(&channel);
            self.subscribe_if_ready();
            return;
        }
        self.apply(Event::ProcessGone { process });
        self.say_hold_off(&channel);
        self.subscribe_if_ready();
        self.mark_if_counted();
        // What it had sent to the store before it ended still counts; the mark comes behind it. Without a store, the
        // next snapshot tells.
        match self.mark(vec![pid]) {
            Some(token) => self.marks.push((token, process)),
            None => {
                self.processes.remove(process);
                self.apply(Event::Returned { process });
            }
        }
    }

    fn listen(&self) {
        let (Some(supervisor), Some(configuration)) = (&self.supervisor, self.generations.configuration())
        else {
            return;
        };
        let listeners = configuration
            .listeners
            .iter()
            .flat_map(|listener| listener.addresses.iter().map(|address| (listener.name.clone(), *address)))
            .collect();
        send(&**supervisor, &ToSupervisor::Listen { listeners });
    }

    /// Gives the scheduler an event and does what follows.
    pub(crate) fn apply(&mut self, event: Event) {
        let mut actions = Vec::new();
        let now = self.clocks.now();
        self.recording.event(now, &event);
        self.scheduler.apply(now, event, &mut actions);
        self.recording.actions(&actions);
        for action in actions {
            self.perform(action);
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::StartProcess { process, channel, precedence, waiting } => {
                let start = self.generations.channel_start(&channel);
                let (Some(supervisor), Some((kind, capacity))) = (&self.supervisor, start) else {
                    self.apply(Event::StartFailed { process });
                    return self.say_hold_off(&channel);
                };
                let number = process.0;
                let running = self.processes.count_of(&channel);
                let need = Need { precedence, waiting, running };
                self.reasons.started(self.clocks.counted_ms(), &channel, process, need);
                send(
                    &**supervisor,
                    &ToSupervisor::StartChannel { process: number, channel: channel.clone(), kind, capacity },
                );
                let attach_by = self.clocks.now().plus_ms(START_TIMEOUT_MS);
                self.processes.insert(process, Process::new(channel, 0, attach_by, true));
            }
            Action::Assign { process, mlist, peer, recipients, attempts, .. } => {
                let Some(link) = self.processes.get(process).and_then(|known| known.link.clone()) else {
                    return;
                };
                self.processes.hold(mlist, Holder::new(process, recipients.clone()));
                let peer = self.probes.get(&mlist).map_or_else(|| peer.to_string(), |hop| hop.peer());
                send(&*link, &FromQmgr::Assign(Assignment { mlist, peer, recipients, attempts }));
            }
            Action::StopProcess { process, reason } => {
                if let Some(known) = self.processes.get_mut(process) {
                    known.is_draining = true;
                    self.reasons.stopped(self.clocks.counted_ms(), &known.channel, process, reason);
                    if let Some(link) = &known.link {
                        send(&**link, &FromQmgr::Drain);
                    }
                }
            }
            Action::KillProcess { process, reason } => {
                let channel = self.processes.get(process).map_or("", |known| known.channel.as_str());
                tracing::warn!(
                    event = "channel.drain-timeout",
                    channel,
                    process = process.0,
                    why = %reason,
                    "a channel process was asked to stop and does not end; it is killed, and what it had under way is tried again"
                );
                self.kill(process);
            }
            Action::Expired { mlist, recipients } => {
                tracing::info!(event = "mlist.expired", %mlist, "an Mlist has expired; a failure report is owed");
                self.report(mlist.message, ROUTE_FINAL_REPORT, recipients);
            }
            Action::DelayReportDue { mlist, recipients } => {
                self.report(mlist.message, ROUTE_DELAY_REPORT, recipients);
            }
        }
    }

    /// Says when the next process of a channel may be started, if that is held off because processes failed.
    fn say_hold_off(&mut self, channel: &str) {
        if let Some(hold_off) = self.scheduler.held_off(channel) {
            let until = self.clocks.name(hold_off.until);
            self.reasons.held_off(self.clocks.counted_ms(), channel, hold_off, &until);
        }
    }

    /// What is due by time alone.
    pub fn wake(&mut self) {
        self.reasons.tell_the_rest(self.clocks.counted_ms());
        self.look_at_the_clock();
        let now = self.clocks.now();
        let late: Vec<_> =
            self.processes.unattached().filter(|(_, by)| *by <= now).map(|(process, _)| process).collect();
        for process in late {
            tracing::warn!(
                event = "channel.silent",
                process = process.0,
                "a channel process did not attach in time and is killed"
            );
            if let Some(known) = self.processes.get_mut(process) {
                known.attach_by = Some(now.plus_ms(ATTACH_TIMEOUT_MS));
            }
            self.kill(process);
        }
        if self.since_last_ping_ms() >= PING_INTERVAL_MS {
            self.ping();
        }
        self.apply(Event::Wake);
    }

    fn since_last_ping_ms(&self) -> u64 {
        self.clocks.counted_ms().saturating_sub(self.last_ping_ms)
    }

    fn ping(&mut self) {
        // A QMGR that was stopped itself has heard nobody, and asks again.
        let is_late = self.since_last_ping_ms() >= 2 * PING_INTERVAL_MS;
        let now_ms = self.clocks.counted_ms();
        self.last_ping_ms = now_ms;
        let mut silent = Vec::new();
        for (process, known) in self.processes.all_mut() {
            let Some(link) = &known.link else { continue };
            match known.asked_at_ms {
                Some(at_ms) if !is_late && now_ms.saturating_sub(at_ms) >= PONG_TIMEOUT_MS => {
                    silent.push(process);
                }
                Some(_) if !is_late => {}
                Some(_) | None => {
                    known.asked_at_ms = Some(now_ms);
                    send(&**link, &FromQmgr::Ping { token: process.0 });
                }
            }
        }
        for process in silent {
            tracing::warn!(
                event = "channel.hangs",
                process = process.0,
                "a channel process does not answer and is killed"
            );
            self.kill(process);
        }
    }

    /// When [`Self::wake`] must be called next.
    pub fn wake_at(&self) -> UnixMillis {
        let scheduler = self.scheduler.wake_at().map_or(u64::MAX, |at| at.0);
        let attach = self.processes.unattached().map(|(_, by)| by.0).min().unwrap_or(u64::MAX);
        let ping_ms = PING_INTERVAL_MS.saturating_sub(self.since_last_ping_ms());
        let ping = self.clocks.now().plus_ms(ping_ms);
        UnixMillis(scheduler.min(attach).min(ping.0))
    }

    /// Tells the store how much mail waits that is about to leave, when that has changed enough to matter: the flow
    /// control of intake needs the magnitude, not the count.
    pub fn tell_deliverable(&mut self) {
        let intake = self.scheduler.intake(self.clocks.now());
        let magnitude = |intake: &Intake| (intake.leaving.checked_ilog2(), intake.delay_ms);
        if let Some(store) = &self.store
            && self.intake_said.as_ref().map(magnitude) != Some(magnitude(&intake))
        {
            self.intake_said = Some(intake);
            let Intake { leaving, delay_ms } = intake;
            send(&**store, &ToStore::Deliverable { waiting: leaving, delay_ms });
        }
    }
}

/// Frames of ours are far smaller than a datagram; one that is not is a defect, and the link stays in order without.
pub(crate) fn send<F: serde::Serialize>(link: &impl Wire, frame: &F) {
    if let Err(error) = link.push(frame) {
        tracing::error!(error = &error as &dyn std::error::Error, "a frame was not sent");
    }
}

fn send_view(link: &impl Wire, generation: u64, view: &[u8]) {
    if let Err(error) = link.push_sealed(&FromQmgr::View { generation }, view) {
        tracing::error!(
            event = "view.not-sent",
            error = &error as &dyn std::error::Error,
            "a role did not get its view of the configuration"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Found;
    use std::cell::Cell;
    use sternpost_platform::link::Link;

    #[derive(Clone, Debug)]
    struct SetClock(Rc<Cell<u64>>);

    impl Timepiece for SetClock {
        fn wall(&self) -> UnixMillis {
            UnixMillis(self.counted_ms())
        }

        fn counted_ms(&self) -> u64 {
            self.0.get()
        }
    }

    #[test]
    fn the_channels_are_asked_whether_they_live_though_nothing_else_is_due() {
        let folder = tempfile::tempdir().unwrap();
        let clock = SetClock(Rc::new(Cell::new(1_000_000_000)));
        let clocks = Clocks::new(folder.path(), clock.clone());
        let generations = Generations::new("north".into(), folder.path(), Found::default());
        let mut manager = Manager::<Link, SetClock>::new(generations, clocks, 1);
        for _ in 0..3 {
            let due = manager.clocks.now().plus_ms(PING_INTERVAL_MS);
            clock.0.set(clock.0.get() + PING_INTERVAL_MS - 1);
            assert_eq!(manager.wake_at(), due);
            clock.0.set(clock.0.get() + 1);
            assert!(manager.wake_at() <= manager.clocks.now());
            manager.wake();
        }
    }
}
