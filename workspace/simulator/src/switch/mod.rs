//! A whole switch from one seed: submitters, store, QMGR, channels and housekeeper, each of which dies and starts again at any
//! point, around one faulty disk, over links that break.
//!
//! The store's service, QMGR's manager and scheduler, what a channel holds and says of it, what the housekeeper writes, the
//! appender and every frame are those of the product. Modelled are who drives them (one event after the other, in an order
//! that the seed chooses), the supervisor, clients that submit, the work of a channel that transfers, and its peers.
//!
//! Time is virtual: it goes on a little now and then, and to the next thing that is due when nothing else can happen.
//! Beside everything runs the truth: what the writes that the disk has taken say ([`ledger`](crate::ledger)), what clients were
//! told, what peers have got. What must hold stands in `invariants` and in `tree`.

mod actions;
mod channel;
mod housekeeper;
mod links;
mod peers;
mod qmgr;
mod store;
mod submitter;
mod summary;
mod supervisor;
mod transfer;
mod tree;
mod trouble;
mod truth;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use sternpost_message::UnixMillis;
use sternpost_queue::{Geometry, Log, SEGMENT_OCTETS_MIN};

use crate::disk::{Habits, Medium};
use crate::ledger::Ledger;
use crate::model::Model;
use crate::random::Random;
use crate::trace::{Trace, Tracing};

use actions::Action;
use channel::Channel;
use links::End;
use peers::Peers;
use qmgr::Qmgr;
use store::Store;
use submitter::Submitter;
pub use summary::Summary;
use supervisor::Supervisor;

/// Whether something holds, or in words what does not.
pub(crate) type Kept = Result<(), String>;

/// Something that a part of the switch does wrong: what the tests of the test are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// QMGR does not hear of one message in ten.
    ForgottenMlist,
    /// A channel transfers to every recipient that it is given once more before it says what became of it, and again after
    /// that is durable.
    RepeatedRecipient,
    /// The housekeeper appends the report alone, and what it reports on by itself.
    TornReport,
}

/// How a history differs from the ordinary one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The disk is not as good as it should be.
    pub habits: Habits,
    /// A part of the switch is not as good as it should be.
    pub mistake: Option<Mistake>,
    /// More mail may come than the log has room for.
    pub overfills: bool,
    /// Which lines are wanted of what happens.
    pub tracing: Tracing,
}

/// Who has one end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    Store,
    Qmgr,
    Supervisor,
    Submitter(usize),
    Channel(u64),
}

/// A link; end 0 is the one that connected.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) ends: [Rc<End>; 2],
    pub(crate) owners: [Owner; 2],
    /// The process behind the socket has accepted it.
    pub(crate) is_accepted: bool,
}

/// Everything there is.
pub(crate) struct World {
    pub(crate) random: Random,
    pub(crate) clock: Rc<Cell<u64>>,
    pub(crate) medium: Medium,
    pub(crate) ledger: Ledger,
    pub(crate) model: Model,
    pub(crate) links: BTreeMap<u64, Link>,
    pub(crate) store: Store,
    pub(crate) qmgr: Qmgr,
    pub(crate) supervisor: Supervisor,
    pub(crate) submitters: Vec<Submitter>,
    pub(crate) channels: BTreeMap<u64, Channel>,
    pub(crate) peers: Peers,
    pub(crate) mistake: Option<Mistake>,
    /// Nothing goes wrong any more and nothing new comes: what there is comes to its end.
    pub(crate) is_concluding: bool,
    /// The disk damages what it has made durable.
    pub(crate) is_harmful: bool,
    /// Octets of content that may live before the submitters wait.
    living_octets_max: usize,
    pub(crate) summary: Summary,
    pub(crate) trace: Trace,
    link_last: u64,
    pid_last: u32,
    id_last: u64,
}

/// Share of the log that may live in an ordinary history: the segments are small, and what their ends waste is much.
const LIVING_PERCENT_MAX: usize = 20;

/// The virtual clock begins here, in milliseconds since 1970.
const BEGINNING_MS: u64 = 1_000_000_000;

/// Lives through the history of `seed`.
///
/// # Errors
/// The promise that was broken, in words, and the last lines of the trace if they were wanted.
pub fn history(seed: u64, options: Options) -> Result<Summary, String> {
    let mut world = World::new(seed, options)?;
    match world.live() {
        Ok(()) => Ok(world.summary),
        Err(why) => {
            let lines: Vec<String> = world.trace.into_lines().collect();
            Err(if lines.is_empty() { why } else { format!("{}\n{why}", lines.join("\n")) })
        }
    }
}

impl World {
    fn new(seed: u64, options: Options) -> Result<Self, String> {
        let mut random = Random::new(seed);
        let segments = u32::try_from(10 + random.below(6)).map_err(|error| error.to_string())?;
        let geometry = Geometry { segment_octets: SEGMENT_OCTETS_MIN, segments };
        let octets = usize::try_from(geometry.octets()).map_err(|error| error.to_string())?;
        let medium = Medium::new(octets, random.next());
        let disk = medium.open().map_err(|closed| format!("a new disk is {closed:?}"))?;
        drop(Log::create(disk, geometry, [7; 16]).map_err(|error| error.to_string())?);
        medium.set_habits(options.habits);
        let is_harmful = random.chance(40);
        let clock = Rc::new(Cell::new(BEGINNING_MS));
        let submitters = (0..1 + random.place(3)).map(|_| Submitter::default()).collect();
        Ok(Self {
            peers: Peers::new(&mut random),
            random,
            clock,
            medium,
            ledger: Ledger::default(),
            model: Model::default(),
            links: BTreeMap::new(),
            store: Store::default(),
            qmgr: Qmgr::default(),
            supervisor: Supervisor::default(),
            submitters,
            channels: BTreeMap::new(),
            mistake: options.mistake,
            is_concluding: false,
            is_harmful,
            living_octets_max: if options.overfills { usize::MAX } else { octets * LIVING_PERCENT_MAX / 100 },
            summary: Summary::default(),
            trace: Trace::new(options.tracing),
            link_last: 0,
            pid_last: 1,
            id_last: 0,
        })
    }

    fn live(&mut self) -> Kept {
        let steps = 600 + self.random.below(1_800);
        for _ in 0..steps {
            if self.random.below(1_000) < 8 {
                self.trouble()?;
            }
            self.step()?;
        }
        self.conclude()?;
        self.summary.histories = 1;
        self.summary.faults = self.medium.counts();
        self.summary.hit = self.model.messages.values().filter(|message| message.is_hit).count() as u64;
        Ok(())
    }

    pub(crate) fn now(&self) -> UnixMillis {
        UnixMillis(self.clock.get())
    }

    pub(crate) fn new_pid(&mut self) -> u32 {
        self.pid_last += 1;
        self.pid_last
    }

    pub(crate) fn note<D: std::fmt::Display>(&mut self, line: impl FnOnce() -> D) {
        self.trace.note(UnixMillis(self.clock.get() - BEGINNING_MS), line);
    }

    /// One thing happens, of those that can; if none can, time goes on to the next.
    fn step(&mut self) -> Kept {
        self.summary.steps += 1;
        let actions = self.actions();
        if actions.is_empty() {
            return self.rest();
        }
        let action = actions[self.random.place(actions.len())];
        self.act(action)?;
        if self.random.chance(15) {
            let ms = self.random.below(3);
            self.pass(ms)?;
        }
        Ok(())
    }

    /// Whether the submitters may take more mail.
    pub(crate) fn has_room(&self) -> bool {
        let living = self.model.messages.values().filter(|message| message.lives());
        living.map(|message| message.content.len() + 1_000).sum::<usize>() <= self.living_octets_max
    }

    /// Nothing can happen now.
    fn rest(&mut self) -> Kept {
        self.compare_tree()?;
        let now = self.now();
        let next = self.due().map_or(1, |due| due.since_ms(now).max(1));
        self.pass(next)
    }

    fn pass(&mut self, ms: u64) -> Kept {
        self.clock.set(self.clock.get() + ms);
        self.medium.advance(self.now());
        self.take_landed()
    }

    /// Everything comes to its end: no more trouble, no more mail, peers that take everything. Before that the power is cut once
    /// more, so that what is damaged is set apart.
    fn conclude(&mut self) -> Kept {
        self.is_concluding = true;
        self.medium.heal();
        self.peers.mend();
        for channel in self.channels.values_mut() {
            channel.wake_up();
        }
        self.cut_power()?;
        let until = self.now().plus_ms(CONCLUSION_MS_MAX);
        for _ in 0..CONCLUSION_STEPS_MAX {
            if self.is_over() {
                return self.invariant_every_acknowledged_message_has_come_to_its_end();
            }
            if self.now() > until {
                break;
            }
            self.step()?;
        }
        Err(format!("mail is stranded: {}", self.describe_what_is_left()))
    }
}

/// Virtual time in which everything must come to its end: longer than the age at which mail is given up.
const CONCLUSION_MS_MAX: u64 = 600_000;
/// A bound for a switch that goes round in circles.
const CONCLUSION_STEPS_MAX: u64 = 400_000;

// What `act` is given; here, so that the list of what can happen is read with what happens.
impl World {
    fn act(&mut self, action: Action) -> Kept {
        match action {
            Action::Flush(link, side) => {
                self.note(|| format!("link {link} sends from side {side}"));
                self.links[&link].ends[side].flush();
                Ok(())
            }
            Action::Read(link, side) => self.read(link, side),
            Action::StoreStart => self.start_store(),
            Action::StoreAccept(link) => self.store_accepts(link),
            Action::StoreDrive => self.drive_store(),
            Action::StoreSnapshot => self.step_snapshot(),
            Action::QmgrStart => self.start_qmgr(),
            Action::QmgrAccept(link) => self.qmgr_accepts(link),
            Action::QmgrTurn => self.turn_qmgr(),
            Action::Submitter(number) => self.submitter_acts(number),
            Action::ChannelConnects(process) => self.channel_connects(process),
            Action::ChannelWorks(process, job) => self.channel_works(process, job),
            Action::ChannelReleases(process) => self.channel_releases(process),
        }
    }
}
