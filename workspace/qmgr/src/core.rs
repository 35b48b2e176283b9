//! What QMGR knows, and what it does about what it hears. Everything here runs at once, on one thread, without
//! waiting: the links and timers are driven by `lib.rs`.
//!
//! The tree is built in steps, after each start of QMGR or of the store:
//!
//! 1. the supervisor says which channel processes run;
//! 2. each of them attaches and says which Mlists it holds, or is killed after two seconds;
//! 3. the store sends a snapshot of the living, then the stream;
//! 4. the processes count once more what they hold, for an outcome that became durable before the snapshot came to its
//!    message is in the snapshot and was not told apart;
//! 5. the store's mark comes back: every outcome that a channel was told to be durable is in the tree, and what a
//!    process holds no longer waits again;
//! 6. only now the scheduler goes.

use crate::departures::Departures;
use crate::generations::{Generations, REPORTS};
use crate::messages::{Consequence, Messages};
use crate::processes::{Holder, Process, Processes};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};
use sternpost_config::{Entry, HOUSEKEEPER};
use sternpost_link::qmgr::{Assignment, FromQmgr, ToQmgr};
use sternpost_link::store::{Effect, MessageFacts, StreamFrame, ToStore};
use sternpost_link::supervisor::{FromSupervisor, ToSupervisor};
use sternpost_link::{Hello, PROTOCOL_VERSION, Role};
use sternpost_message::{
    MessageSequence, MlistId, ROUTE_DELAY_REPORT, ROUTE_FAILURE_REPORT, RecipientRange, RouteIndex,
    UnixMillis,
};
use sternpost_platform::clock::Clock;
use sternpost_platform::link::Link;
use sternpost_platform::memory;
use sternpost_scheduler::{Action, Event, MlistSpec, ProcessId, Scheduler};

/// Time that a running channel has to attach to a new QMGR.
const ATTACH_TIMEOUT_MS: u64 = 2_000;
/// Time that a process which this QMGR starts has for the same.
const START_TIMEOUT_MS: u64 = 30_000;
/// A channel is asked this often whether it lives …
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// … and killed when it has not answered for so long. Both by the monotonic clock: time that is set is no silence.
const PONG_TIMEOUT: Duration = Duration::from_secs(30);

/// How far the tree is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tree {
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
pub(crate) struct Core {
    pub(crate) clock: Clock,
    pub(crate) scheduler: Scheduler,
    pub(crate) tree: Tree,
    pub(crate) generations: Generations,
    pub(crate) messages: Messages,
    pub(crate) processes: Processes,
    pub(crate) directory: String,
    store: Option<Rc<Link>>,
    supervisor: Option<Rc<Link>>,
    servers: Vec<Rc<Link>>,
    supervisor_has_spoken: bool,
    mark_last: u64,
    /// Marks that wait, and the process whose Mlists come back when they arrive.
    marks: Vec<(u64, ProcessId)>,
    deliverable_said: u64,
    departures: Departures,
    /// Process ids of channels that ended before the snapshot: their last words come before the mark.
    ended: Vec<u32>,
    /// Mlists that their process no longer holds, as the count has shown.
    vanished: Vec<(ProcessId, MlistId)>,
    last_ping: Instant,
}

impl Core {
    pub(crate) fn new(generations: Generations) -> Self {
        Self {
            clock: Clock::default(),
            scheduler: Scheduler::new(),
            tree: Tree::Waiting,
            generations,
            messages: Messages::default(),
            processes: Processes::default(),
            directory: "no word from the directory yet".to_owned(),
            store: None,
            supervisor: None,
            servers: Vec::new(),
            supervisor_has_spoken: false,
            mark_last: 0,
            marks: Vec::new(),
            deliverable_said: 0,
            departures: Departures::default(),
            ended: Vec::new(),
            vanished: Vec::new(),
            last_ping: Instant::now(),
        }
    }

    pub(crate) fn hello() -> Hello {
        Hello {
            version: PROTOCOL_VERSION,
            role: Role::Qmgr,
            pid: std::process::id(),
            process: 0,
            channel: String::new(),
            capacity: 0,
        }
    }

    // ---- the store ----

    pub(crate) fn store_connected(&mut self, link: Rc<Link>) {
        send(&link, &ToStore::Hello(Self::hello()));
        self.store = Some(link);
        self.tree = Tree::Waiting;
        self.deliverable_said = 0;
        self.subscribe_if_ready();
    }

    pub(crate) fn store_lost(&mut self) {
        self.store = None;
        self.tree = Tree::Waiting;
        self.marks.clear();
    }

    fn subscribe_if_ready(&mut self) {
        if self.tree != Tree::Waiting || !self.supervisor_has_spoken || self.processes.is_one_awaited() {
            return;
        }
        if let Some(store) = &self.store {
            send(store, &ToStore::Subscribe);
            self.tree = Tree::Snapshot;
        }
    }

    pub(crate) fn stream(&mut self, frame: StreamFrame) {
        match frame {
            StreamFrame::SnapshotBegin { messages_count } => {
                tracing::info!(
                    event = "tree.snapshot",
                    messages_count,
                    "building the tree from the store's snapshot"
                );
                self.begin_tree();
            }
            StreamFrame::Message(facts) => self.message(&facts),
            StreamFrame::SnapshotEnd => {
                self.tree = Tree::Recounting;
                let token = self.mark_last;
                self.processes.begin_recount(|link| send(link, &FromQmgr::Recount { token }));
                self.mark_if_counted();
            }
            StreamFrame::Outcome { message, effects } => {
                let mut consequences = Vec::new();
                for (recipients, effect) in effects {
                    self.messages.consequences(message, recipients, effect, &mut consequences);
                    if effect == Effect::Failed {
                        tracing::info!(event = "recipient.failed", %message, "recipients failed; a report is owed");
                    }
                }
                for consequence in consequences {
                    self.follow(message, consequence);
                }
            }
            StreamFrame::Dead { message } => {
                if let Some(dead) = self.messages.remove(message) {
                    for mlist in dead.mlists(message) {
                        self.processes.forget(mlist);
                        self.apply(Event::Remove { mlist });
                    }
                }
            }
            StreamFrame::Mark { token } => self.marked(token),
        }
    }

    fn begin_tree(&mut self) {
        self.tree = Tree::Snapshot;
        self.messages.clear();
        self.marks.clear();
        self.scheduler = Scheduler::new();
        self.vanished.clear();
        self.ended = self.processes.forget_the_dead();
        let limits = self.generations.limits();
        if let Some(limits) = limits {
            self.apply(Event::Configure(limits));
        }
        for (process, channel, capacity) in self.processes.alive() {
            self.apply(Event::ProcessStarted { process, channel: channel.clone() });
            if let Some(capacity) = capacity {
                self.apply(Event::ProcessAttached { process, channel, capacity });
            }
        }
    }

    fn mark(&mut self, ended: Vec<u32>) -> Option<u64> {
        let store = self.store.as_ref()?;
        self.mark_last += 1;
        send(store, &ToStore::Mark { token: self.mark_last, ended });
        Some(self.mark_last)
    }

    fn mark_if_counted(&mut self) {
        if self.tree != Tree::Recounting || self.processes.is_recounting() {
            return;
        }
        let ended = std::mem::take(&mut self.ended);
        if let Some(token) = self.mark(ended) {
            self.tree = Tree::Marking(token);
        }
    }

    fn marked(&mut self, token: u64) {
        if self.tree == Tree::Marking(token) {
            self.tree = Tree::Going;
            for (process, mlist) in std::mem::take(&mut self.vanished) {
                if self.processes.given_back(process, mlist) {
                    self.apply(Event::Unassigned { process, mlist });
                }
            }
            tracing::info!(event = "tree.going", "the tree is complete; scheduling begins");
            self.apply(Event::Go);
        }
        if let Some(at) = self.marks.iter().position(|(waiting, _)| *waiting == token) {
            let (_, process) = self.marks.swap_remove(at);
            self.processes.remove(process);
            self.apply(Event::Returned { process });
        }
    }

    fn message(&mut self, facts: &MessageFacts) {
        self.messages.insert(facts);
        for mlist in &facts.mlists {
            let spec =
                self.spec(facts.sequence, mlist.route, &mlist.channel, &mlist.peer, mlist.pending.clone());
            if let Some(mut spec) = spec {
                spec.attempts = mlist.attempts;
                if facts.delay_reported {
                    spec.delay_report_at = None;
                }
                self.queue(spec);
            }
        }
        if !facts.failed.is_empty() {
            self.report(facts.sequence, ROUTE_FAILURE_REPORT, facts.failed.clone());
        }
    }

    /// Queues an Mlist; what a channel already holds of it is in progress there.
    fn queue(&mut self, spec: MlistSpec) {
        let Some(holder) = self.processes.holder(spec.id) else { return self.apply(Event::Queue(spec)) };
        let (held, rest) = split(&spec.recipients, &holder.recipients);
        let (process, finished) = (holder.process, holder.finished);
        let mlist = spec.id;
        self.processes.holds_only(mlist, &held);
        if !held.is_empty() {
            self.apply(Event::Queue(MlistSpec { recipients: held, held_by: Some(process), ..spec.clone() }));
            if finished {
                self.apply(Event::Finished { process, mlist });
            }
        } else if finished {
            self.processes.forget(mlist);
        }
        if !rest.is_empty() {
            self.apply(Event::Queue(MlistSpec { recipients: rest, ..spec }));
        }
    }

    fn spec(
        &self,
        message: MessageSequence,
        route: RouteIndex,
        channel: &str,
        peer: &str,
        recipients: Vec<RecipientRange>,
    ) -> Option<MlistSpec> {
        let known = self.messages.get(message)?;
        let qmgr = self.generations.configuration().map(|configuration| &configuration.qmgr);
        let after_s = |seconds: u32| known.accepted_at.plus_ms(u64::from(seconds) * 1_000);
        let is_report = matches!(route, ROUTE_FAILURE_REPORT | ROUTE_DELAY_REPORT);
        Some(MlistSpec {
            id: MlistId { message, route },
            channel: channel.to_owned(),
            peer: peer.to_owned(),
            precedence: known.precedence,
            recipients,
            accepted_at: known.accepted_at,
            // A report that is owed never expires.
            expires_at: match qmgr {
                Some(qmgr) if !is_report => after_s(qmgr.expire_after_s),
                _ => UnixMillis(u64::MAX),
            },
            delay_report_at: qmgr
                .filter(|qmgr| !is_report && qmgr.delay_report_after_s > 0)
                .map(|qmgr| after_s(qmgr.delay_report_after_s)),
            attempts: 0,
            not_before: UnixMillis(0),
            held_by: None,
        })
    }

    fn report(&mut self, message: MessageSequence, route: RouteIndex, recipients: Vec<RecipientRange>) {
        if let Some(spec) = self.spec(message, route, HOUSEKEEPER, REPORTS, recipients) {
            self.queue(spec);
        }
    }

    fn follow(&mut self, message: MessageSequence, consequence: Consequence) {
        match consequence {
            Consequence::Settled { mlist, recipients, worked } => {
                if worked {
                    self.departures.count(self.clock.now());
                }
                self.processes.outcome(mlist, recipients);
                self.apply(Event::Settled { mlist, recipients: vec![recipients], worked });
            }
            Consequence::Deferred { mlist, recipients, scope } => {
                self.processes.outcome(mlist, recipients);
                self.apply(Event::Deferred { mlist, recipients: vec![recipients], scope });
            }
            Consequence::ReportOwed { recipients } => {
                self.report(message, ROUTE_FAILURE_REPORT, vec![recipients]);
            }
        }
    }

    // ---- the supervisor ----

    pub(crate) fn supervisor_connected(&mut self, link: Rc<Link>) {
        send(&link, &ToSupervisor::Hello(Self::hello()));
        self.supervisor = Some(link);
        self.listen();
    }

    pub(crate) fn supervisor_said(&mut self, frame: FromSupervisor) {
        match frame {
            FromSupervisor::Running { processes, .. } => {
                let now = self.clock.now();
                for running in processes.iter().filter(|running| running.role == Role::Channel) {
                    let process = ProcessId(running.process);
                    if self.processes.get(process).is_none() {
                        let attach_by = now.plus_ms(ATTACH_TIMEOUT_MS);
                        let known = Process::new(running.name.clone(), running.pid, attach_by, false);
                        self.processes.insert(process, known);
                        self.apply(Event::ProcessStarted { process, channel: running.name.clone() });
                    }
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
            FromSupervisor::Started { process, pid } => self.processes.started(ProcessId(process), pid),
            FromSupervisor::StartFailed { process, why } => {
                tracing::error!(
                    event = "channel.start-failed",
                    process,
                    why,
                    "a channel process could not be started"
                );
                self.processes.remove(ProcessId(process));
                self.apply(Event::StartFailed { process: ProcessId(process) });
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
                channel,
                process = process.0,
                pid,
                status,
                "a channel process has ended"
            );
        } else {
            tracing::warn!(
                event = "channel.died",
                channel,
                process = process.0,
                pid,
                status,
                "a channel process has died; what it held is scheduled again"
            );
        }
        if !attached && !self.processes.holds_something(process) {
            self.processes.remove(process);
            self.apply(Event::StartFailed { process });
            self.subscribe_if_ready();
            return;
        }
        self.apply(Event::ProcessGone { process });
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
        send(supervisor, &ToSupervisor::Listen { listeners });
    }

    // ---- channels, servers, the directory ----

    /// A channel process shakes hands. One whose channel is no longer configured gets no view: it ends what it holds.
    pub(crate) fn channel_connected(&mut self, hello: &Hello, link: &Rc<Link>) {
        let process = ProcessId(hello.process);
        if self.processes.get(process).is_none() {
            let attach_by = self.clock.now().plus_ms(ATTACH_TIMEOUT_MS);
            self.processes.insert(process, Process::new(hello.channel.clone(), hello.pid, attach_by, false));
            self.apply(Event::ProcessStarted { process, channel: hello.channel.clone() });
        }
        if let Some(known) = self.processes.get_mut(process) {
            known.link = Some(Rc::clone(link));
            known.pid = hello.pid;
        }
        send(link, &FromQmgr::Welcome(Self::hello()));
        match self.generations.channel_view(&hello.channel) {
            Some(view) => send_view(link, self.generations.generation, &view),
            None => {
                tracing::warn!(
                    event = "channel.unknown",
                    channel = hello.channel,
                    "a process of a channel that is not configured; it is drained"
                );
                send(link, &FromQmgr::Drain);
            }
        }
    }

    pub(crate) fn channel_said(&mut self, hello: &Hello, frame: ToQmgr) {
        let process = ProcessId(hello.process);
        match frame {
            ToQmgr::Held { mlists } => {
                if self.processes.get(process).is_some_and(|known| known.capacity.is_some()) {
                    self.processes.recounted(process, mlists.into_iter().map(|(mlist, _)| mlist));
                } else {
                    for (mlist, recipients) in mlists {
                        self.processes.hold(mlist, Holder::new(process, recipients));
                    }
                }
            }
            ToQmgr::Counted { .. } => {
                let vanished = self.processes.end_recount(process);
                self.vanished.extend(vanished.into_iter().map(|mlist| (process, mlist)));
                self.mark_if_counted();
            }
            ToQmgr::Draining => {
                if let Some(known) = self.processes.get_mut(process) {
                    known.is_draining = true;
                }
                self.apply(Event::ProcessAttached { process, channel: hello.channel.clone(), capacity: 0 });
            }
            ToQmgr::Attached => {
                if let Some(known) = self.processes.get_mut(process) {
                    known.capacity = Some(hello.capacity);
                    known.attach_by = None;
                }
                let (channel, capacity) = (hello.channel.clone(), hello.capacity);
                self.apply(Event::ProcessAttached { process, channel, capacity });
                self.subscribe_if_ready();
            }
            ToQmgr::Finished { mlist } => {
                self.processes.finished(process, mlist);
                self.apply(Event::Finished { process, mlist });
            }
            ToQmgr::Unassigned { mlist, why } => {
                tracing::debug!(event = "mlist.unassigned", %mlist, why, "a channel gave an Mlist back");
                self.processes.given_back(process, mlist);
                self.apply(Event::Unassigned { process, mlist });
            }
            ToQmgr::PeerFailed { peer, why } => {
                tracing::info!(
                    event = "peer.failed",
                    channel = hello.channel,
                    peer,
                    why,
                    "a peer MTA does not work"
                );
                self.apply(Event::PeerFailed { channel: hello.channel.clone(), peer });
            }
            ToQmgr::PeerWorked { peer } => {
                self.apply(Event::PeerWorked { channel: hello.channel.clone(), peer });
            }
            ToQmgr::Pong { .. } => {
                if let Some(known) = self.processes.get_mut(process) {
                    known.asked_at = None;
                }
            }
            ToQmgr::Hello(_) | ToQmgr::Entries { .. } | ToQmgr::DirectoryStatus { .. } | ToQmgr::Ask(_) => {}
        }
    }

    /// The link of a channel has ended; its process must end too.
    pub(crate) fn channel_lost(&mut self, hello: &Hello) {
        let process = ProcessId(hello.process);
        if let Some(known) = self.processes.get_mut(process) {
            known.link = None;
            self.kill(process);
        }
    }

    fn kill(&self, process: ProcessId) {
        if let Some(supervisor) = &self.supervisor {
            send(supervisor, &ToSupervisor::KillChannel { process: process.0 });
        }
    }

    pub(crate) fn server_connected(&mut self, link: &Rc<Link>) {
        send(link, &FromQmgr::Welcome(Self::hello()));
        if let Some(view) = self.generations.smtp_server_view() {
            send_view(link, self.generations.generation, &view);
        }
        self.servers.push(Rc::clone(link));
    }

    pub(crate) fn server_lost(&mut self, link: &Rc<Link>) {
        self.servers.retain(|server| !Rc::ptr_eq(server, link));
    }

    pub(crate) fn entries(&mut self, memory: OwnedFd) {
        let octets = memory::unseal(memory, memory::ENTRIES_OCTETS_MAX).map_err(|error| error.to_string());
        let entries = octets.and_then(|octets| {
            postcard::from_bytes::<Vec<Entry>>(&octets).map_err(|error| error.to_string())
        });
        match entries {
            Ok(entries) => {
                if self.generations.take(entries) {
                    self.new_generation();
                }
            }
            Err(error) => tracing::error!(
                event = "configuration.unreadable",
                error,
                "the directory role sent entries that cannot be read"
            ),
        }
    }

    /// Puts a held change into force.
    pub(crate) fn confirm(&mut self) -> bool {
        let confirmed = self.generations.confirm();
        if confirmed {
            self.new_generation();
        }
        confirmed
    }

    /// Gives everybody what the generation in force has for them.
    pub(crate) fn new_generation(&mut self) {
        if let Some(view) = self.generations.smtp_server_view() {
            for server in &self.servers {
                send_view(server, self.generations.generation, &view);
            }
        }
        for process in self.processes.all() {
            if let (Some(link), Some(view)) = (&process.link, self.generations.channel_view(&process.channel))
            {
                send_view(link, self.generations.generation, &view);
            }
        }
        self.listen();
        // Last: what the scheduler assigns now must find its peer in the view.
        let limits = self.generations.limits();
        if let Some(limits) = limits {
            self.apply(Event::Configure(limits));
        }
    }

    // ---- the scheduler ----

    /// Gives the scheduler an event and does what follows.
    pub(crate) fn apply(&mut self, event: Event) {
        let mut actions = Vec::new();
        self.scheduler.apply(self.clock.now(), event, &mut actions);
        for action in actions {
            self.perform(action);
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::StartProcess { process, channel } => {
                let start = self.generations.channel_start(&channel);
                let (Some(supervisor), Some((kind, capacity))) = (&self.supervisor, start) else {
                    return self.apply(Event::StartFailed { process });
                };
                let (number, kind) = (process.0, kind.to_owned());
                send(
                    supervisor,
                    &ToSupervisor::StartChannel { process: number, channel: channel.clone(), kind, capacity },
                );
                let attach_by = self.clock.now().plus_ms(START_TIMEOUT_MS);
                self.processes.insert(process, Process::new(channel, 0, attach_by, true));
            }
            Action::Assign { process, mlist, peer, recipients, attempts, .. } => {
                let Some(link) = self.processes.get(process).and_then(|known| known.link.clone()) else {
                    return;
                };
                self.processes.hold(mlist, Holder::new(process, recipients.clone()));
                send(
                    &link,
                    &FromQmgr::Assign(Assignment { mlist, peer: peer.to_string(), recipients, attempts }),
                );
            }
            Action::StopProcess { process, reason } => {
                if let Some(known) = self.processes.get_mut(process) {
                    known.is_draining = true;
                    tracing::debug!(
                        event = "channel.stop",
                        channel = known.channel,
                        process = process.0,
                        ?reason,
                        "a channel process is asked to stop"
                    );
                    if let Some(link) = &known.link {
                        send(link, &FromQmgr::Drain);
                    }
                }
            }
            Action::Expired { mlist, recipients } => {
                tracing::info!(event = "mlist.expired", %mlist, "an Mlist has expired; a failure report is owed");
                self.report(mlist.message, ROUTE_FAILURE_REPORT, recipients);
            }
            Action::DelayReportDue { mlist, recipients } => {
                self.report(mlist.message, ROUTE_DELAY_REPORT, recipients);
            }
        }
    }

    /// What is due by time alone.
    pub(crate) fn wake(&mut self) {
        let now = self.clock.now();
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
        if self.last_ping.elapsed() >= PING_INTERVAL {
            self.ping();
        }
        self.apply(Event::Wake);
    }

    fn ping(&mut self) {
        // A QMGR that was stopped itself has heard nobody, and asks again.
        let is_late = self.last_ping.elapsed() >= 2 * PING_INTERVAL;
        self.last_ping = Instant::now();
        let mut silent = Vec::new();
        for (process, known) in self.processes.all_mut() {
            let Some(link) = &known.link else { continue };
            match known.asked_at {
                Some(at) if !is_late && at.elapsed() >= PONG_TIMEOUT => silent.push(process),
                Some(_) if !is_late => {}
                Some(_) | None => {
                    known.asked_at = Some(self.last_ping);
                    send(link, &FromQmgr::Ping { token: process.0 });
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
    pub(crate) fn wake_at(&self) -> UnixMillis {
        let scheduler = self.scheduler.wake_at().map_or(u64::MAX, |at| at.0);
        let attach = self.processes.unattached().map(|(_, by)| by.0).min().unwrap_or(u64::MAX);
        let ping = PING_INTERVAL.saturating_sub(self.last_ping.elapsed());
        let ping = self.clock.now().plus_ms(u64::try_from(ping.as_millis()).unwrap_or(u64::MAX) + 1);
        UnixMillis(scheduler.min(attach).min(ping.0))
    }

    /// Tells the store how much mail waits that is about to leave, when that has changed enough to matter: the flow
    /// control of intake needs the magnitude, not the count. Mail that would not leave within a second (a dead or slow
    /// next hop) is not counted, so that it never slows intake.
    pub(crate) fn tell_deliverable(&mut self) {
        let now = self.clock.now();
        let waiting = if self.tree == Tree::Going { self.scheduler.counts().runnable as u64 } else { 0 };
        let leaving = if waiting <= self.departures.per_second(now) { waiting } else { 0 };
        if leaving.checked_ilog2() != self.deliverable_said.checked_ilog2()
            && let Some(store) = &self.store
        {
            self.deliverable_said = leaving;
            send(store, &ToStore::Deliverable { waiting: leaving });
        }
    }
}

/// The part of `recipients` that lies in `within`, and the rest.
fn split(
    recipients: &[RecipientRange],
    within: &[RecipientRange],
) -> (Vec<RecipientRange>, Vec<RecipientRange>) {
    let (inside, outside): (Vec<_>, Vec<_>) = recipients
        .iter()
        .flat_map(|range| range.first..range.end())
        .map(sternpost_message::RecipientIndex)
        .partition(|index| within.iter().any(|range| range.contains(*index)));
    (RecipientRange::pack(inside), RecipientRange::pack(outside))
}

/// Frames of ours are far smaller than a datagram; one that is not is a defect, and the link stays in order without.
pub(crate) fn send<F: serde::Serialize>(link: &Link, frame: &F) {
    if let Err(error) = link.push(frame) {
        tracing::error!(error = &error as &dyn std::error::Error, "a frame was not sent");
    }
}

fn send_view(link: &Link, generation: u64, view: &[u8]) {
    let sent = memory::seal(view).map_err(|error| error.to_string()).and_then(|memory| {
        link.push_with(&FromQmgr::View { generation }, memory).map_err(|error| error.to_string())
    });
    if let Err(error) = sent {
        tracing::error!(event = "view.not-sent", error, "a role did not get its view of the configuration");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipients_split_into_those_held_and_the_rest() {
        let range = |first, count| RecipientRange { first, count };
        let (held, rest) = split(&[range(0, 4), range(8, 2)], &[range(1, 2), range(9, 5)]);
        assert_eq!(held, [range(1, 2), range(9, 1)]);
        assert_eq!(rest, [range(0, 1), range(3, 1), range(8, 1)]);
    }
}
