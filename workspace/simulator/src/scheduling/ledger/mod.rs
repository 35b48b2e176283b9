//! What must hold after every event, from the events and the actions alone.
//!
//! The ledger hears each event and each action in its order, and keeps its own account of Mlists, peers, channels and
//! processes ([`book`]). It looks into nothing of the scheduler but what an operator may ask. A rule is told by its name in words:
//! - *no Mlist is lost or doubled*: what is assigned waits, with the recipients and attempts that it has; what came is there
//!   until it is over;
//! - *limits are never passed*: `qmgr_maxchans` and its reserves, `processes_max`, a process's capacity, slots and their
//!   reserves of a channel and of a peer;
//! - *precedence order is kept*: each assignment is the one that the rules name, age's share included;
//! - *back-off is exact*: no attempt before its time, and no slot free beside an Mlist that may have it, at any instant;
//! - *what is needed starts*: no place for a process free beside a channel that needs one and may have it;
//! - *nothing is late*: expiry, delay reports, and the scheduler's wish to be woken.

mod actions;
mod book;
mod events;
mod rest;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sternpost_message::{MlistId, Precedence};
use sternpost_scheduler::{Action, Event, Limits, ProcessId, Scheduler};

use book::{ChannelBook, Due, Leaf, PeerBook};

/// Levels of precedence.
pub(super) const LEVELS: usize = Precedence::ALL.len();

/// Whether a rule is kept, or in words which is not.
type Kept = Result<(), String>;

/// The account.
#[derive(Debug)]
pub(super) struct Ledger {
    now: u64,
    is_going: bool,
    limits: Limits,
    channels: Vec<ChannelBook>,
    peers: Vec<PeerBook>,
    channel_by_name: BTreeMap<String, usize>,
    peer_by_name: HashMap<(usize, String), usize>,
    /// Peers of which it is found out how many slots they bear.
    governed: Vec<usize>,
    leaves: HashMap<MlistId, Leaf>,
    /// The channel of each process.
    channel_of: HashMap<ProcessId, usize>,
    /// Delays and orders that end.
    due: BTreeSet<(u64, Due)>,
    /// Waiting Mlists by when they expire or are late.
    deadlines: BTreeSet<(u64, MlistId)>,
    /// Waiting Mlists by level.
    waiting: [u64; LEVELS],
    /// Mlists in progress, and with an outcome to come.
    in_progress: u64,
    awaiting: u64,
    /// Waiting Mlists of peers without delay or order.
    runnable: u64,
    /// Assignments so far.
    served: u64,
    /// A process was stopped in favour of another channel.
    has_made_room: bool,
}

impl Ledger {
    pub(super) fn new() -> Self {
        Self {
            now: 0,
            is_going: false,
            limits: Limits::default(),
            channels: Vec::new(),
            peers: Vec::new(),
            channel_by_name: BTreeMap::new(),
            peer_by_name: HashMap::new(),
            governed: Vec::new(),
            leaves: HashMap::new(),
            channel_of: HashMap::new(),
            due: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            waiting: [0; LEVELS],
            in_progress: 0,
            awaiting: 0,
            runnable: 0,
            served: 0,
            has_made_room: false,
        }
    }

    /// Before the scheduler hears of it.
    pub(super) fn hear(&mut self, now: u64, event: &Event) {
        self.now = now;
        self.take(event);
        self.go_on();
    }

    /// After the scheduler has heard of it and before its actions: what governed peers bear is the scheduler's own finding,
    /// of which the bounds are checked here and all that follows elsewhere.
    pub(super) fn hear_what_peers_bear(&mut self, scheduler: &Scheduler) -> Kept {
        for at in 0..self.governed.len() {
            let at = self.governed[at];
            let peer = &mut self.peers[at];
            let Some((before, reserve)) = peer.slots else { continue };
            let borne = scheduler.slots_borne(&self.channels[peer.channel].name, &peer.name).unwrap_or(0);
            let most = peer.bounds.1;
            if !(1..=most).contains(&borne) {
                return Err(format!("limits: {} is given {borne} slots of at most {most}", peer.name));
            }
            if borne != before {
                peer.slots = Some((borne, reserve));
                self.refresh(at);
            }
        }
        Ok(())
    }

    /// One action, before it is done.
    pub(super) fn check(&mut self, action: &Action) -> Kept {
        if self.is_going { self.judge(action) } else { Err(format!("before Go: {action:?}")) }
    }

    /// After all actions of an event: nothing that should have been done was left undone, and the scheduler says the same.
    pub(super) fn check_rest(&self, scheduler: &Scheduler, wake_at: Option<u64>) -> Kept {
        self.rest(scheduler, wake_at)
    }

    /// Every figure and every reason that an operator may ask for. O(Mlists + peers).
    pub(super) fn check_status(&self, scheduler: &Scheduler) -> Kept {
        self.status(scheduler)
    }

    /// Mlists that live.
    pub(super) fn count(&self) -> usize {
        self.leaves.len()
    }

    /// Mlists that wait, by level.
    pub(super) const fn waiting(&self) -> [u64; LEVELS] {
        self.waiting
    }

    /// Mlists that a process works on.
    pub(super) const fn in_progress(&self) -> u64 {
        self.in_progress
    }

    /// Processes that exist.
    pub(super) fn processes(&self) -> u64 {
        self.channels.iter().map(|channel| u64::from(channel.processes(|_| true))).sum()
    }
}
