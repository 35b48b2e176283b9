//! The world around the scheduler: one thing after the other happens, is told as an event, and what the scheduler answers is
//! done.
//!
//! Every stream of arrivals and every peer has numbers of its own from the seed, so that what comes is the same however the
//! scheduler decides.

mod work;

use std::collections::HashMap;

use sternpost_message::{MlistId, Precedence, UnixMillis};
use sternpost_scheduler::{Action, Event, ProcessId};

use crate::random::Random;
use crate::trace::Trace;

use super::agenda::Agenda;
use super::arrivals::Stream;
use super::ledger::Ledger;
use super::peers::Peer;
use super::record::{End, Lived, Record};
use super::scenario::{Arrivals, ChannelKind, PeerKind, Scenario, Trouble};
use super::subject::Subject;
use super::{BEGINNING_MS, Options, Report};
use work::{Attempt, Process};

/// Whether something holds, or in words what does not.
type Kept = Result<(), String>;

/// What is going to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// The next message of a stream.
    Arrival(usize),
    /// A process shakes hands, or fails to.
    Attach(ProcessId),
    StartFailure(ProcessId),
    /// An attempt ends; its process says so; what became of it is durable.
    End(u64),
    Finish(u64),
    Outcome(u64),
    /// A process gives an Mlist back.
    GiveBack(ProcessId, MlistId),
    /// A process that has finished ends, one dies, and everything that it has said is known.
    Exit(ProcessId),
    Death(ProcessId),
    Return(ProcessId),
    /// Other limits.
    Change(usize),
    /// An operator discards an Mlist.
    Discard,
    /// Nothing goes wrong any more.
    Conclusion,
}

/// An Mlist as it really is.
#[derive(Debug)]
struct Truth {
    peer: usize,
    level: Precedence,
    accepted_at: u64,
    wait_ms: Option<u64>,
    /// Recipients with which nobody is done.
    open: Vec<u32>,
    has_failed: bool,
}

/// Everything there is.
pub(super) struct World {
    now: u64,
    end_at_max: u64,
    subject: Subject,
    ledger: Ledger,
    record: Record,
    agenda: Agenda<What>,
    trace: Trace,
    /// For what processes and operators do.
    random: Random,
    channels: Vec<ChannelKind>,
    kinds: Vec<PeerKind>,
    peers: Vec<Peer>,
    /// The numbers of each peer.
    peers_random: Vec<Random>,
    streams: Vec<(Arrivals, Stream)>,
    streams_open: usize,
    mlists: HashMap<MlistId, Truth>,
    processes: HashMap<ProcessId, Process>,
    attempts: HashMap<u64, Attempt>,
    attempts_count: u64,
    messages: u64,
    events: u64,
    trouble: Trouble,
    first_limits: Option<sternpost_scheduler::Limits>,
    is_concluding: bool,
}

impl World {
    pub(super) fn new(scenario: &Scenario, seed: u64, options: Options) -> Self {
        let mut random = Random::new(seed);
        let mut peers = Vec::new();
        let mut places = Vec::new();
        for (at, kind) in scenario.peers.iter().enumerate() {
            let first = peers.len();
            peers.extend(kind.names().map(|name| Peer::new(at, name, kind.workers)));
            places.push((first..peers.len()).collect::<Vec<_>>());
        }
        let streams: Vec<_> = scenario
            .arrivals
            .iter()
            .map(|arrivals| (arrivals.clone(), Stream::new(scenario, arrivals, &places, random.next())))
            .collect();
        Self {
            now: BEGINNING_MS,
            end_at_max: BEGINNING_MS + scenario.end_s_max * 1_000,
            subject: Subject::new(options.mistake),
            ledger: Ledger::new(),
            record: Record::new(peers.len()),
            agenda: Agenda::new(),
            trace: Trace::new(options.tracing),
            channels: scenario.channels.clone(),
            kinds: scenario.peers.clone(),
            peers_random: peers.iter().map(|_| Random::new(random.next())).collect(),
            peers,
            streams_open: streams.len(),
            streams,
            mlists: HashMap::new(),
            processes: HashMap::new(),
            attempts: HashMap::new(),
            attempts_count: 0,
            messages: 0,
            events: 0,
            trouble: scenario.trouble.clone(),
            first_limits: Some(scenario.limits()),
            is_concluding: false,
            random,
        }
    }

    pub(super) fn live(mut self) -> Result<Report, String> {
        match self.go() {
            Ok(()) => {
                self.record.close(self.now);
                Ok(Report { events: self.events, record: self.record })
            }
            Err(why) => {
                let at = self.now - BEGINNING_MS;
                let lines: Vec<String> = self.trace.into_lines().collect();
                let lines = if lines.is_empty() { String::new() } else { format!("\n{}", lines.join("\n")) };
                Err(format!("after {at} ms: {why}{lines}"))
            }
        }
    }

    fn go(&mut self) -> Kept {
        self.enter_what_is_known();
        let limits = self.first_limits.take().unwrap_or_default();
        self.tell(Event::Configure(limits))?;
        self.tell(Event::Go)?;
        while !self.is_over() {
            let (next, wake) = (self.agenda.next_at(), self.subject.wake_at());
            let Some(at) = next.into_iter().chain(wake).min() else { return Err(self.stranded()) };
            if at > self.end_at_max {
                return Err(self.stranded());
            }
            self.now = at.max(self.now);
            if next == Some(at)
                && let Some((_, what)) = self.agenda.next()
            {
                self.happen(what)?;
            } else {
                self.tell(Event::Wake)?;
            }
        }
        self.ledger.check_status(self.subject.scheduler())
    }

    fn enter_what_is_known(&mut self) {
        for at in 0..self.streams.len() {
            self.await_arrival(at);
        }
        for (at, (ms, _)) in self.trouble.changes.iter().enumerate() {
            self.agenda.enter(BEGINNING_MS + ms, What::Change(at));
        }
        for ms in &self.trouble.discards {
            self.agenda.enter(BEGINNING_MS + ms, What::Discard);
        }
        if let Some((ms, _)) = &self.trouble.end {
            self.agenda.enter(BEGINNING_MS + ms, What::Conclusion);
        }
    }

    fn await_arrival(&mut self, at: usize) {
        let (arrivals, stream) = &self.streams[at];
        match stream.next_at(arrivals) {
            Some(instant) => self.agenda.enter(instant, What::Arrival(at)),
            None => self.streams_open -= 1,
        }
    }

    /// Everything has come and everything is over.
    fn is_over(&self) -> bool {
        let is_calm = self.trouble.end.is_none() || self.is_concluding;
        is_calm && self.streams_open == 0 && self.ledger.count() == 0
    }

    fn stranded(&self) -> String {
        let scheduler = self.subject.scheduler();
        let first = self.mlists.keys().min();
        let why = first.map(|mlist| format!("; {mlist}: {:?}", scheduler.why(*mlist)));
        format!("stranded: {} Mlists are not over{}", self.ledger.count(), why.unwrap_or_default())
    }

    fn happen(&mut self, what: What) -> Kept {
        match what {
            What::Arrival(at) => self.arrival(at),
            What::Attach(process) => self.attach(process),
            What::StartFailure(process) => self.start_failure(process),
            What::End(attempt) => self.end(attempt),
            What::Finish(attempt) => self.finish(attempt),
            What::Outcome(attempt) => self.outcome(attempt),
            What::GiveBack(process, mlist) => self.give_back(process, mlist),
            What::Exit(process) => self.exit(process),
            What::Death(process) => self.death(process),
            What::Return(process) => self.tell(Event::Returned { process }),
            What::Change(at) => self.tell(Event::Configure(self.trouble.changes[at].1.clone())),
            What::Discard => self.discard(),
            What::Conclusion => self.conclude(),
        }
    }

    fn arrival(&mut self, at: usize) -> Kept {
        self.messages += 1;
        let (arrivals, stream) = &mut self.streams[at];
        let (peers, kinds) = (&self.peers, &self.kinds);
        let name = |peer: usize| (kinds[peers[peer].kind].channel.clone(), peers[peer].name.clone());
        let mlists = stream.next(arrivals, self.now, self.messages, name);
        for (peer, spec) in mlists {
            let truth = Truth {
                peer,
                level: spec.precedence,
                accepted_at: self.now,
                wait_ms: None,
                open: spec.recipients.iter().flat_map(|range| range.first..range.end()).collect(),
                has_failed: false,
            };
            self.mlists.insert(spec.id, truth);
            self.tell(Event::Queue(spec))?;
        }
        self.await_arrival(at);
        Ok(())
    }

    /// Discards one that lives.
    fn discard(&mut self) -> Kept {
        let mut living: Vec<MlistId> = self.mlists.keys().copied().collect();
        if living.is_empty() {
            return Ok(());
        }
        living.sort_unstable();
        let mlist = living[self.random.place(living.len())];
        self.over(mlist, End::Discarded);
        self.tell(Event::Remove { mlist })
    }

    fn conclude(&mut self) -> Kept {
        self.is_concluding = true;
        for kind in &mut self.kinds {
            kind.down.clear();
            kind.associations_max = None;
            (kind.message_error_percent, kind.peer_error_percent) = (0, 0);
        }
        for channel in &mut self.channels {
            (channel.start_failure_percent, channel.give_back_percent) = (0, 0);
        }
        match self.trouble.end.take() {
            Some((ms, limits)) => {
                self.trouble.end = Some((ms, sternpost_scheduler::Limits::default()));
                self.tell(Event::Configure(limits))
            }
            None => Ok(()),
        }
    }

    /// Tells the scheduler, does what it answers, and looks whether every rule was kept.
    fn tell(&mut self, event: Event) -> Kept {
        self.events += 1;
        let since = UnixMillis(self.now - BEGINNING_MS);
        self.trace.note(since, || format!("{event:?}"));
        self.ledger.hear(self.now, &event);
        let actions = self.subject.apply(self.now, event);
        self.ledger.hear_what_peers_bear(self.subject.scheduler())?;
        for action in actions {
            self.trace.note(since, || format!("    {action:?}"));
            self.ledger.check(&action)?;
            self.obey(action)?;
        }
        let scheduler = self.subject.scheduler();
        self.ledger.check_rest(scheduler, self.subject.wake_at())?;
        // The whole status costs O(Mlists + peers): so rarely that an event costs a little on average.
        let rarely = 4 + (self.ledger.count() / 4 + self.peers.len()) as u64;
        if self.events.is_multiple_of(rarely) {
            self.ledger.check_status(scheduler)?;
        }
        let ledger = &self.ledger;
        self.record.tree(self.now, ledger.waiting(), ledger.in_progress(), ledger.processes());
        Ok(())
    }

    fn obey(&mut self, action: Action) -> Kept {
        match action {
            Action::StartProcess { process, channel, .. } => self.start(process, &channel),
            Action::KillProcess { process, .. } => self.death(process)?,
            Action::Assign { process, mlist, recipients, .. } => self.work(process, mlist, &recipients)?,
            Action::StopProcess { process, .. } => {
                if let Some(known) = self.processes.get_mut(&process) {
                    known.is_stopping = true;
                }
                self.exit_if_done(process);
            }
            Action::Expired { mlist, .. } => self.over(mlist, End::Expired),
            Action::DelayReportDue { .. } => {}
        }
        Ok(())
    }

    /// An Mlist is over.
    fn over(&mut self, mlist: MlistId, end: End) {
        let Some(truth) = self.mlists.remove(&mlist) else { return };
        let lived = Lived {
            kind: self.peers[truth.peer].kind,
            level: truth.level,
            wait_ms: truth.wait_ms,
            over_ms: self.now - truth.accepted_at,
            end,
        };
        self.record.over(self.now, lived);
    }
}
