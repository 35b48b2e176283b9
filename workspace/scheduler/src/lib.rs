//! The mind of QMGR: which Mlist goes to which channel process, and when. A machine without I/O.
//!
//! It owns the tree *channel → peer MTA → Mlist* of everything that waits or is in progress. [`Event`]s go in
//! through [`Scheduler::apply`], [`Action`]s come out, in the order in which they have to be done. Time is an
//! argument, in milliseconds since 1970, from a clock that never goes back (an instant before the last one counts as
//! the last one); [`Scheduler::wake_at`] says when to come back without an event.
//!
//! The same events at the same instants give the same actions: nothing here depends on the order of a map, on chance or on
//! a clock. A [`journal`] of a run relies on that.
//!
//! Not here: the log and its stream, sockets, the supervisor (`qmgr` drives this machine), and what a report says
//! (`housekeeper`).
//!
//! # The rules
//! - **Order.** Within a channel a slot goes to the Mlist of the highest precedence; among equals to the peer with
//!   the fewest Mlists in progress, then to the one served longest ago, there to the message accepted first. Of a
//!   hundred assignments, `age_share_percent` go to the message accepted first whatever its precedence. While a
//!   [`Minimise`] holds, mail below its level waits.
//! - **Processes.** Non-urgent mail starts one only below `qmgr_maxchans` − `qmgr_reserve_urgent` −
//!   `qmgr_reserve_normal`, normal mail below `qmgr_maxchans` − `qmgr_reserve_urgent`, urgent mail below
//!   `qmgr_maxchans`. A process is started when an Mlist that could run finds no slot that it may use and the
//!   processes that are being started are not expected to take it; for the highest precedence first, among equals on
//!   the channel with the fewest, then on the one that started its last one longest ago. Processes that *leave*,
//!   because another than this tree has asked them to stop (an upgrade), hinder no start: as many of them as a channel's
//!   `processes_max` do not count against that, and as many as `qmgr_maxchans` not against that.
//! - **Times.** After a start the channel starts none for `qmgr_chan_time2`, and for `qmgr_chan_time3` while fewer
//!   Mlists wait than it has slots; after its last process has gone, none for `qmgr_chan_time1`. Urgent mail does
//!   not wait for any of the three.
//! - **Failures.** What fails to start, or dies unasked, makes its channel wait 1 s longer each time (up to 60 s)
//!   before the next start, until a process of it has finished an Mlist.
//! - **Balance.** A channel that needs a process and finds no place gets one of another's: an idle one at once, else
//!   one that is asked to finish what it has; the place is that channel's, unless urgent mail needs it. A channel gives a
//!   busy one to urgent mail when only lower mail waits for itself; to other mail that is not below what waits for itself
//!   when it has served for a while, while it has two more than the other, or when the other has none.
//! - **Slots.** The same reserves hold for the slots of a channel's attached processes, and for those of a peer. An
//!   Mlist goes to the process with most free slots.
//! - **Idle processes** stop after the channel's `idle_stop_ms`, or at once when another channel needs their place.
//! - **What a peer bears** is found while it is served, between the operator's bounds: see `governor.rs`.
//! - **Back-off** is linear up to a maximum: of the peer (by its failures in a row) or of the Mlist (by its failed
//!   attempts), as the error says.
//! - **Configured** are the channels and peers that [`Limits`] names; mail for any other waits. A peer has to be
//!   listed even if it has no limit of its own.
//!
//! # Cost
//! An event costs the same however many Mlists wait, O(log n) in peers that can run, and a constant in channels and
//! processes, of which there are few: Mlists stand in lists through themselves, and in ordered sets only those that came late
//! to their queue or are due within seconds. What is left of the number is that more memory is not in a cache.
//! [`Event::Configure`], the instants at which an order to wait begins or ends, and [`Scheduler::intake`] once a second
//! cost O(peers). An Mlist of one range of recipients allocates nothing of its own and takes at most 400 octets with its
//! share of every index. Names of channels and peers are kept for good once heard.
#![forbid(unsafe_code)]

mod attempt;
mod backoff;
mod chain;
mod decide;
mod event;
mod flow;
mod governor;
pub mod journal;
mod limits;
mod lived;
mod peer;
mod process;
mod queue;
mod ranges;
pub mod self_test;
mod status;
mod timer;
mod tree;

use std::sync::Arc;

use rustc_hash::FxHashMap;
use sternpost_message::{MlistId, Precedence, UnixMillis};

pub use event::{Action, Event, KillReason, MlistSpec, ProcessId, StopReason};
pub use flow::Intake;
pub use limits::{ChannelLimits, Limits, Minimise, PeerLimits, Reserves};
pub use lived::{JUMP_MS_MIN, JUMPS_COUNT_MAX, Jump, LivedTime};
pub use process::Start;
pub use status::{
    ChannelStatus, Counts, HoldOff, MlistStatus, NextProcess, PeerStatus, Reason, Status, Waiting,
    Whereabouts,
};

use chain::{KINDS, Links};
use governor::Bounds;
use limits::family_of;
use peer::{Offer, Peer, PeerIndex, PeerSlots, Terms};
use process::{Channel, ChannelIndex, Process};
use timer::{Due, NEVER, Timers};
use tree::{Failure, Judged, Mlist, MlistIndex, Mlists, Place};

/// QMGR's tree and everything that it needs to decide.
#[derive(Debug)]
pub struct Scheduler {
    now: u64,
    /// [`Event::Go`] has come.
    is_going: bool,
    /// The limits that hold; their channels have moved into `channels`.
    limits: Limits,
    channels: Vec<Channel>,
    channel_by_name: FxHashMap<Arc<str>, ChannelIndex>,
    peers: Vec<Peer>,
    /// Places in `peers` that nobody has.
    peers_free: Vec<PeerIndex>,
    /// Peers of a family that have lost their last Mlist in this step, or came without one.
    peers_empty: Vec<PeerIndex>,
    mlists: Mlists,
    processes: FxHashMap<ProcessId, Process>,
    /// The next new process gets the number behind this one.
    process_last: u64,
    /// Processes that exist: those not `Gone`.
    processes_count: u32,
    timers: Timers,
    flow: flow::Flow,
    /// The entry in the timers of the next [`Minimise`] that begins or ends.
    minimise_at: u64,
    counts: Counts,
    /// The channel for which a place was made that is not free yet.
    promised: Option<ChannelIndex>,
    /// Assignments so far.
    served: u64,
    /// Channels where something changed since Mlists were assigned last.
    dirty: Vec<ChannelIndex>,
    /// Processes may exceed their limits: the limits or the processes changed.
    is_surplus_possible: bool,
}

impl Default for Scheduler {
    fn default() -> Self {
        Self::new()
    }
}

impl Scheduler {
    /// An empty tree without configuration, waiting for its snapshot.
    #[must_use]
    pub fn new() -> Self {
        Self {
            now: 0,
            is_going: false,
            limits: Limits::default(),
            channels: Vec::new(),
            channel_by_name: FxHashMap::default(),
            peers: Vec::new(),
            peers_free: Vec::new(),
            peers_empty: Vec::new(),
            mlists: Mlists::default(),
            processes: FxHashMap::default(),
            process_last: 0,
            processes_count: 0,
            timers: Timers::default(),
            flow: flow::Flow::default(),
            minimise_at: NEVER,
            counts: Counts::default(),
            promised: None,
            served: 0,
            dirty: Vec::new(),
            is_surplus_possible: false,
        }
    }

    /// Takes one event and appends what follows from it to `actions`.
    ///
    /// Events about an Mlist or process that is not known (any more) change nothing.
    pub fn apply(&mut self, now: UnixMillis, event: Event, actions: &mut Vec<Action>) {
        self.now = self.now.max(now.0);
        self.take(event);
        if self.is_going {
            self.fire_timers(actions);
            self.decide(actions);
        }
        self.forget_peers();
    }

    /// When something is due that no event announces: call [`Scheduler::apply`] with [`Event::Wake`] then. It may
    /// turn out that there is nothing to do yet.
    #[must_use]
    pub fn wake_at(&self) -> Option<UnixMillis> {
        if self.is_going { self.timers.next_at().map(UnixMillis) } else { None }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Configure(limits) => self.configure(limits),
            Event::Queue(spec) => self.queue(&spec),
            Event::Go => {
                self.is_going = true;
                self.is_surplus_possible = true;
            }
            Event::ProcessStarted { process, channel } => self.process_started(process, &channel),
            Event::ProcessAttached { process, channel, capacity } => {
                self.process_attached(process, &channel, capacity);
            }
            Event::ProcessGone { process } => self.process_gone(process),
            Event::StartFailed { process } => self.process_gone(process),
            Event::Returned { process } => self.returned(process),
            Event::Progress { process } => self.progressed(process),
            Event::Finished { process, mlist } => self.finished(process, mlist),
            Event::Unassigned { process, mlist } => self.unassigned(process, mlist),
            Event::Settled { mlist, recipients, worked } => self.settled(mlist, &recipients, worked),
            Event::Deferred { mlist, recipients, scope } => self.deferred(mlist, &recipients, scope),
            Event::PeerFailed { channel, peer, mlists, holding, has_carried } => {
                let peer = self.peer(&channel, &peer);
                self.association_lost(peer, &mlists, holding, has_carried);
            }
            Event::PeerWorked { channel, peer } => {
                let peer = self.peer(&channel, &peer);
                self.peer_worked(peer);
            }
            Event::Remove { mlist } => self.discard(mlist),
            Event::Wake => {}
        }
    }

    fn configure(&mut self, mut limits: Limits) {
        for peer in &mut self.peers {
            peer.slots = None;
        }
        for channel in &mut self.channels {
            channel.limits = None;
        }
        for mut channel_limits in std::mem::take(&mut limits.channels) {
            let channel = self.channel(&channel_limits.name);
            for peer_limits in std::mem::take(&mut channel_limits.peers) {
                let peer = self.peer_of(channel, &peer_limits.name);
                let max = peer_limits.slots_max.unwrap_or(channel_limits.peer_slots_max);
                let min = peer_limits.slots_min.unwrap_or(channel_limits.peer_slots_min);
                let peer = &mut self.peers[peer.0 as usize];
                peer.governor.bound(self.now, Bounds::new(min, max));
                peer.slots = Some(PeerSlots {
                    max,
                    reserve: peer_limits.slots_reserve.unwrap_or(channel_limits.peer_slots_reserve),
                });
            }
            self.channels[channel.0 as usize].limits = Some(channel_limits);
        }
        for index in (0..self.peers.len()).map(|index| PeerIndex(index_of(index))) {
            self.take_after_family(index);
        }
        self.limits = limits;
        self.minimise();
        let mut processes: Vec<ProcessId> = self.processes.keys().copied().collect();
        processes.sort_unstable();
        for process in processes {
            self.with_process(process, |_| {});
        }
        for index in 0..self.channels.len() {
            self.mark_dirty(ChannelIndex(index_of(index)));
        }
        self.is_surplus_possible = true;
    }

    /// Finds what each peer may be given at this instant, and when that changes.
    fn minimise(&mut self) {
        let now = self.now;
        for index in 0..self.peers.len() {
            self.minimise_peer(PeerIndex(index_of(index)));
        }
        let turns = self.limits.minimise.iter().flat_map(|order| [order.from.0, order.until.0]);
        let next = turns.filter(|&at| at > now).min().unwrap_or(NEVER);
        self.timers.change(Due::Minimise, &mut self.minimise_at, next);
    }

    fn minimise_peer(&mut self, index: PeerIndex) {
        let peer = &mut self.peers[index.0 as usize];
        let channel = &self.channels[peer.channel.0 as usize];
        let holds = |order: &&Minimise| order.holds(self.now, &channel.name, &peer.name);
        let in_force = self.limits.minimise.iter().filter(holds);
        peer.lowest = in_force.map(|order| order.lowest).max().unwrap_or(Precedence::ALL[0]);
        self.refresh_peer(index);
    }

    /// The orders that make mail of this level to this peer wait.
    fn orders_to_wait<'a>(
        &'a self,
        peer: &'a Peer,
        precedence: Precedence,
    ) -> impl Iterator<Item = &'a Minimise> {
        let channel = &self.channels[peer.channel.0 as usize];
        self.limits.minimise.iter().filter(move |order| {
            precedence < order.lowest && order.holds(self.now, &channel.name, &peer.name)
        })
    }

    fn queue(&mut self, spec: &MlistSpec) {
        let recipients = ranges::Ranges::of(&spec.recipients);
        if recipients.is_empty() {
            return;
        }
        let index = if let Some(index) = self.mlists.find(spec.id) {
            self.mlists.get_mut(index).pending.extend(recipients.as_slice());
            index
        } else {
            let channel = self.channel(&spec.channel);
            let peer = self.peer_of(channel, &spec.peer);
            let index = self.mlists.insert(Mlist {
                id: spec.id,
                accepted_at: spec.accepted_at,
                expires_at: spec.expires_at.0,
                delay_report_at: spec.delay_report_at.map_or(NEVER, |at| at.0),
                retry_at: spec.not_before.0,
                timer_at: NEVER,
                links: [Links::NONE; KINDS],
                pending: recipients.clone(),
                open: ranges::Ranges::None,
                holder: ProcessId(0),
                peer,
                wave: 0,
                attempts: spec.attempts,
                precedence: spec.precedence,
                place: Place::Delayed,
                failure: Failure::None,
                judged: Judged::No,
                is_late: false,
            });
            self.peers[peer.0 as usize].mlists_count += 1;
            if self.is_going {
                let passed = &mut self.peers[peer.0 as usize].passed;
                passed.arrived = passed.arrived.saturating_add(1);
            }
            self.enter(index);
            index
        };
        if let Some(process) = spec.held_by
            && matches!(self.mlists.get(index).place, Place::Delayed | Place::Queued)
        {
            self.take_out(index);
            self.hold(index, process, recipients);
        }
    }

    /// Lets everything happen whose time has come.
    fn fire_timers(&mut self, actions: &mut Vec<Action>) {
        while let Some(due) = self.timers.pop(&mut self.mlists, self.now) {
            match due {
                Due::Mlist(mlist) => self.mlist_is_due(mlist, actions),
                Due::Peer(index) => {
                    let peer = &mut self.peers[index.0 as usize];
                    peer.timer_at = NEVER;
                    if peer.offered.is_pressed {
                        peer.governor.time_has_passed(self.now);
                    }
                    self.refresh_peer(index);
                    self.set_peer_timer(index);
                }
                Due::Channel(channel) => {
                    self.channels[channel.0 as usize].timer_at = NEVER;
                    self.mark_dirty(channel);
                }
                Due::Process(process) => self.process_is_due(process, actions),
                Due::Minimise => {
                    self.minimise_at = NEVER;
                    self.minimise();
                }
            }
        }
    }

    fn mlist_is_due(&mut self, index: MlistIndex, actions: &mut Vec<Action>) {
        let now = self.now;
        let mlist = self.mlists.get_mut(index);
        if matches!(mlist.place, Place::InProgress | Place::AwaitingOutcome) {
            // Its timer is set again when it waits again.
            return;
        }
        if mlist.expires_at <= now {
            actions.push(Action::Expired { mlist: mlist.id, recipients: mlist.pending.as_slice().to_vec() });
            self.leave(index);
            self.forget(index);
            return;
        }
        if mlist.delay_report_at <= now {
            mlist.delay_report_at = NEVER;
            let recipients = mlist.pending.as_slice().to_vec();
            actions.push(Action::DelayReportDue { mlist: mlist.id, recipients });
        }
        self.leave(index);
        self.enter(index);
    }

    /// Puts an Mlist that no process has where it waits: into its peer's queue, or to its own delay.
    fn enter(&mut self, index: MlistIndex) {
        let mlist = self.mlists.get_mut(index);
        let peer_index = mlist.peer;
        let peer = &mut self.peers[peer_index.0 as usize];
        let mut due_at = mlist.expires_at.min(mlist.delay_report_at);
        if mlist.retry_at > self.now {
            mlist.place = Place::Delayed;
            due_at = due_at.min(mlist.retry_at);
            peer.delayed_count += 1;
        } else {
            mlist.place = Place::Queued;
            peer.enqueue(&mut self.mlists, index);
        }
        self.timers.change_mlist(&mut self.mlists, index, due_at);
        self.counts.waiting += 1;
        self.refresh_peer(peer_index);
    }

    /// Takes a waiting Mlist out of where it waits. Its timer stays: most attempts end well before it.
    fn leave(&mut self, index: MlistIndex) {
        self.take_out(index);
        self.refresh_peer(self.mlists.get(index).peer);
    }

    /// The same for one that a process gets in the same step: what the peer offers is found when it has it.
    fn take_out(&mut self, index: MlistIndex) {
        let mlist = self.mlists.get(index);
        let peer = &mut self.peers[mlist.peer.0 as usize];
        match mlist.place {
            Place::Delayed => peer.delayed_count -= 1,
            Place::Queued => peer.dequeue(&mut self.mlists, index),
            Place::InProgress | Place::AwaitingOutcome => return,
        }
        self.counts.waiting -= 1;
    }

    /// Drops an Mlist that waits nowhere and that no process has.
    fn forget(&mut self, index: MlistIndex) {
        self.timers.change_mlist(&mut self.mlists, index, NEVER);
        let peer_index = self.mlists.remove(index).peer;
        let peer = &mut self.peers[peer_index.0 as usize];
        peer.mlists_count -= 1;
        if peer.mlists_count == 0 && family_of(&peer.name).is_some() {
            self.peers_empty.push(peer_index);
        }
    }

    fn discard(&mut self, id: MlistId) {
        let Some(index) = self.mlists.find(id) else { return };
        let mlist = self.mlists.get_mut(index);
        match mlist.place {
            Place::Delayed | Place::Queued => {
                self.leave(index);
                self.forget(index);
            }
            Place::InProgress => {
                mlist.pending = ranges::Ranges::None;
                mlist.open = ranges::Ranges::None;
            }
            Place::AwaitingOutcome => {
                mlist.pending = ranges::Ranges::None;
                self.conclude(index);
            }
        }
    }

    /// Brings the channel's sums and sets up to date with what the peer offers now.
    fn refresh_peer(&mut self, index: PeerIndex) {
        let peer = &mut self.peers[index.0 as usize];
        let channel_index = peer.channel;
        let channel = &mut self.channels[channel_index.0 as usize];
        let terms = Terms {
            channel_is_configured: channel.limits.is_some(),
            age_has_a_share: self.limits.age_share_percent > 0,
        };
        let offer = peer.offer(index, self.now, terms);
        let before = std::mem::replace(&mut peer.offered, offer);
        if before == offer {
            return;
        }
        if before.rank != offer.rank {
            if let Some(rank) = before.rank {
                channel.runnable.remove(&rank);
            }
            if let Some(rank) = offer.rank {
                channel.runnable.insert(rank);
            }
        }
        if before.eldest != offer.eldest {
            if let Some(eldest) = before.eldest {
                channel.eldest.remove(&eldest);
            }
            if let Some(eldest) = offer.eldest {
                channel.eldest.insert(eldest);
            }
        }
        for (sum, (new, old)) in
            channel.assignable.iter_mut().zip(offer.assignable.iter().zip(before.assignable))
        {
            *sum = *sum + u64::from(*new) - u64::from(old);
        }
        channel.runnable_count = channel.runnable_count + offer.runnable_count - before.runnable_count;
        self.counts.runnable = self.counts.runnable + offer.runnable_count - before.runnable_count;
        if peer.is_behind {
            self.flow.behind_count = self.flow.behind_count + offer.runnable_count - before.runnable_count;
        }
        self.counts.assignable =
            self.counts.assignable + offer.assignable[0] as usize - before.assignable[0] as usize;
        self.mark_dirty(channel_index);
    }

    fn mark_dirty(&mut self, index: ChannelIndex) {
        let channel = &mut self.channels[index.0 as usize];
        if !channel.is_dirty {
            channel.is_dirty = true;
            self.dirty.push(index);
        }
    }

    fn channel(&mut self, name: &str) -> ChannelIndex {
        if let Some(&channel) = self.channel_by_name.get(name) {
            return channel;
        }
        let channel = ChannelIndex(index_of(self.channels.len()));
        let name: Arc<str> = name.into();
        self.channels.push(Channel::new(Arc::clone(&name)));
        self.channel_by_name.insert(name, channel);
        channel
    }

    /// Whether the channel has such a peer: it was configured, or an Mlist for it has been queued.
    #[must_use]
    pub fn has_peer(&self, channel: &str, peer: &str) -> bool {
        let channel = self.channel_by_name.get(channel);
        channel.is_some_and(|channel| self.channels[channel.0 as usize].peer_by_name.contains_key(peer))
    }

    fn peer(&mut self, channel: &str, peer: &str) -> PeerIndex {
        let channel = self.channel(channel);
        self.peer_of(channel, peer)
    }

    fn peer_of(&mut self, channel_index: ChannelIndex, name: &str) -> PeerIndex {
        let channel = &mut self.channels[channel_index.0 as usize];
        if let Some(&peer) = channel.peer_by_name.get(name) {
            return peer;
        }
        let name: Arc<str> = name.into();
        let peer = Peer::new(Arc::clone(&name), channel_index);
        let index = match self.peers_free.pop() {
            Some(index) => {
                self.peers[index.0 as usize] = peer;
                index
            }
            None => {
                self.peers.push(peer);
                PeerIndex(index_of(self.peers.len() - 1))
            }
        };
        let is_of_a_family = family_of(&name).is_some();
        channel.peer_by_name.insert(name, index);
        if is_of_a_family {
            self.peers_empty.push(index);
            self.take_after_family(index);
            self.minimise_peer(index);
        }
        index
    }

    /// Gives a peer without limits of its own those of its family, if that has some.
    fn take_after_family(&mut self, index: PeerIndex) {
        let peer = &self.peers[index.0 as usize];
        let Some(family) = family_of(&peer.name).filter(|_| peer.slots.is_none()) else { return };
        let Some(family) = self.channels[peer.channel.0 as usize].peer_by_name.get(family) else { return };
        let family = &self.peers[family.0 as usize];
        let (slots, bounds) = (family.slots, family.governor.bounds());
        let peer = &mut self.peers[index.0 as usize];
        peer.slots = slots;
        peer.governor.bound(self.now, bounds);
    }

    /// Forgets the peers of families that have nothing left: whoever can send mail can make names.
    fn forget_peers(&mut self) {
        while let Some(index) = self.peers_empty.pop() {
            self.refresh_peer(index);
            let peer = &mut self.peers[index.0 as usize];
            let channel = &mut self.channels[peer.channel.0 as usize];
            // It may stand here twice, or have got an Mlist since.
            if peer.mlists_count > 0 || channel.peer_by_name.get(&peer.name) != Some(&index) {
                continue;
            }
            debug_assert_eq!((peer.in_progress, peer.offered), (0, Offer::default()), "it has no Mlist");
            channel.peer_by_name.remove(&peer.name);
            self.timers.change(Due::Peer(index), &mut peer.timer_at, NEVER);
            *peer = Peer::new("".into(), peer.channel);
            self.peers_free.push(index);
        }
    }
}

/// The index of an entry of a list.
fn index_of(at: usize) -> u32 {
    u32::try_from(at).expect("4 billion names need more memory than there is")
}
