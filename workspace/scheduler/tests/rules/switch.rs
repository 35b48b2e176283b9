//! A scheduler with a notebook: what the rule tests say in one line.

use sternpost_message::{
    ErrorScope, MessageSequence, MlistId, Precedence, RecipientRange, RouteIndex, UnixMillis,
};
use sternpost_scheduler::{
    Action, ChannelLimits, Event, Limits, MlistSpec, NextProcess, ProcessId, Reason, Scheduler, StopReason,
};

/// The instant at which every test begins.
pub(crate) const START: u64 = 1_000_000;
/// How long an Mlist lives unless a test says otherwise.
pub(crate) const LIFE_MS: u64 = 100_000_000;

pub(crate) fn id(message: u64) -> MlistId {
    MlistId { message: MessageSequence(message), route: RouteIndex(0) }
}

/// A channel's word that a peer does not answer, about no attempt in particular.
pub(crate) fn peer_failed(peer: &str) -> Event {
    let (channel, peer) = ("smtp".into(), peer.into());
    Event::PeerFailed { channel, peer, mlists: Vec::new(), holding: 0, has_carried: false }
}

pub(crate) fn one() -> Vec<RecipientRange> {
    range(0, 1)
}

pub(crate) fn range(first: u32, count: u32) -> Vec<RecipientRange> {
    vec![RecipientRange { first, count }]
}

pub(crate) fn mlist(message: u64, channel: &str, peer: &str, precedence: Precedence) -> MlistSpec {
    MlistSpec {
        id: id(message),
        channel: channel.into(),
        peer: peer.into(),
        precedence,
        recipients: one(),
        accepted_at: UnixMillis(START),
        expires_at: UnixMillis(START + LIFE_MS),
        delay_report_at: None,
        attempts: 0,
        not_before: UnixMillis(0),
        held_by: None,
    }
}

/// A channel with these peers and without reserves.
pub(crate) fn channel(
    name: &str,
    processes_max: u32,
    slots_per_process: u32,
    peers: &[&str],
) -> ChannelLimits {
    ChannelLimits { processes_max, slots_per_process, ..ChannelLimits::new(name, peers.iter().copied()) }
}

pub(crate) fn limits(channels: Vec<ChannelLimits>) -> Limits {
    Limits {
        qmgr_maxchans: 10,
        qmgr_reserve_urgent: 0,
        qmgr_reserve_normal: 0,
        retry_step_ms: 1_000,
        retry_max_ms: 5_000,
        channels,
        ..Limits::default()
    }
}

/// The scheduler, the time and the actions of the last event.
pub(crate) struct Switch {
    pub(crate) scheduler: Scheduler,
    pub(crate) now: u64,
    pub(crate) actions: Vec<Action>,
}

impl Switch {
    /// Configured and before `Go`.
    pub(crate) fn reading(limits: Limits) -> Self {
        let mut switch = Self { scheduler: Scheduler::new(), now: START, actions: Vec::new() };
        switch.tell(Event::Configure(limits));
        switch
    }

    /// Configured and going.
    pub(crate) fn going(limits: Limits) -> Self {
        let mut switch = Self::reading(limits);
        switch.tell(Event::Go);
        switch
    }

    pub(crate) fn tell(&mut self, event: Event) -> &[Action] {
        self.actions.clear();
        self.scheduler.apply(UnixMillis(self.now), event, &mut self.actions);
        &self.actions
    }

    pub(crate) fn queue(
        &mut self,
        message: u64,
        channel: &str,
        peer: &str,
        precedence: Precedence,
    ) -> &[Action] {
        self.tell(Event::Queue(mlist(message, channel, peer, precedence)))
    }

    pub(crate) fn attach(&mut self, process: u64, channel: &str, capacity: u32) -> &[Action] {
        self.tell(Event::ProcessAttached { process: ProcessId(process), channel: channel.into(), capacity })
    }

    pub(crate) fn finish(&mut self, process: u64, message: u64) -> &[Action] {
        self.tell(Event::Finished { process: ProcessId(process), mlist: id(message) })
    }

    pub(crate) fn settle(&mut self, message: u64) -> &[Action] {
        self.tell(Event::Settled { mlist: id(message), recipients: one(), worked: true })
    }

    pub(crate) fn defer(&mut self, message: u64, scope: ErrorScope) -> &[Action] {
        self.tell(Event::Deferred { mlist: id(message), recipients: one(), scope })
    }

    pub(crate) fn wait_ms(&mut self, ms: u64) -> &[Action] {
        self.now += ms;
        self.tell(Event::Wake)
    }

    /// The messages that the last event assigned, in order.
    pub(crate) fn assigned(&self) -> Vec<u64> {
        self.actions
            .iter()
            .filter_map(|action| match action {
                Action::Assign { mlist, .. } => Some(mlist.message.0),
                _ => None,
            })
            .collect()
    }

    /// The processes that the last event started, with their channels.
    pub(crate) fn started(&self) -> Vec<(u64, &str)> {
        self.actions
            .iter()
            .filter_map(|action| match action {
                Action::StartProcess { process, channel, .. } => Some((process.0, channel.as_str())),
                _ => None,
            })
            .collect()
    }

    /// The processes that the last event asked to stop.
    pub(crate) fn stopped(&self) -> Vec<(u64, StopReason)> {
        self.actions
            .iter()
            .filter_map(|action| match action {
                Action::StopProcess { process, reason } => Some((process.0, *reason)),
                _ => None,
            })
            .collect()
    }

    /// What is decided about one more process of the first channel.
    pub(crate) fn next_process(&self) -> NextProcess {
        self.scheduler.status().channels[0].next_process
    }

    pub(crate) fn gone(&mut self, process: u64) -> &[Action] {
        self.tell(Event::ProcessGone { process: ProcessId(process) })
    }

    pub(crate) fn why(&self, message: u64) -> Reason {
        self.scheduler.why(id(message)).expect("the Mlist is in the tree").reason
    }

    pub(crate) fn until(&self, message: u64) -> Option<u64> {
        self.scheduler.why(id(message)).expect("the Mlist is in the tree").until.map(|at| at.0)
    }
}
