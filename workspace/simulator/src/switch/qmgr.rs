//! QMGR's process: the product's manager, driven by the world as `qmgr/src/lib.rs` drives it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use sternpost_config::Entry;
use sternpost_link::qmgr::ToQmgr;
use sternpost_link::store::{FromStore, StreamFrame};
use sternpost_link::{Frames, Hello};
use sternpost_message::UnixMillis;
use sternpost_platform::clock::Timepiece;
use sternpost_qmgr::{Clocks, Found, Generations, Manager, Tree};

use super::actions::Action;
use super::links::{End, Received};
use super::peers::TABLES;
use super::{Kept, Mistake, Owner, World};

/// Time between the death of a process and the next one, at most.
const RESTART_MS_MAX: u64 = 400;
const RECONNECT_MS: u64 = 20;

/// The virtual clock, for both of QMGR's.
#[derive(Debug)]
pub(crate) struct VirtualClock(Rc<Cell<u64>>);

impl Timepiece for VirtualClock {
    fn wall(&self) -> UnixMillis {
        UnixMillis(self.0.get())
    }

    fn counted_ms(&self) -> u64 {
        self.0.get()
    }
}

/// The process, or the wait for it.
pub(crate) enum Qmgr {
    Down { restart_at: UnixMillis },
    Up(Box<Up>),
}

/// A QMGR that runs.
pub(crate) struct Up {
    pid: u32,
    manager: Manager<End, VirtualClock>,
    /// Who has said Hello, by link.
    greeted: BTreeMap<u64, Hello>,
    store_at: Option<UnixMillis>,
    /// Something has happened since the last turn.
    has_news: bool,
}

impl Default for Qmgr {
    fn default() -> Self {
        Self::Down { restart_at: UnixMillis(0) }
    }
}

thread_local! {
    /// The configuration is the same in every history.
    static ENTRIES: Vec<Entry> = sternpost_config::entries_from_tables(TABLES).expect("the tables are well formed");
}

impl Qmgr {
    pub(crate) const fn is_up(&self) -> bool {
        matches!(self, Self::Up(_))
    }

    pub(crate) const fn pid(&self) -> u32 {
        match self {
            Self::Up(up) => up.pid,
            Self::Down { .. } => 0,
        }
    }

    pub(crate) fn manager(&self) -> Option<&Manager<End, VirtualClock>> {
        match self {
            Self::Up(up) => Some(&up.manager),
            Self::Down { .. } => None,
        }
    }

    pub(crate) fn due(&self) -> Option<UnixMillis> {
        match self {
            Self::Down { restart_at } => Some(*restart_at),
            Self::Up(up) => [Some(up.manager.wake_at()), up.store_at].into_iter().flatten().min(),
        }
    }
}

impl World {
    pub(crate) fn qmgr_actions(&self, now: UnixMillis, actions: &mut Vec<Action>) {
        match &self.qmgr {
            Qmgr::Down { restart_at } if *restart_at <= now => actions.push(Action::QmgrStart),
            Qmgr::Down { .. } => {}
            Qmgr::Up(up) => {
                if up.has_news || up.manager.wake_at() <= now || up.store_at.is_some_and(|at| at <= now) {
                    actions.push(Action::QmgrTurn);
                }
            }
        }
    }

    pub(crate) fn start_qmgr(&mut self) -> Kept {
        let pid = self.new_pid();
        let nowhere = Path::new("/nonexistent");
        let mut generations = Generations::new("north".to_owned(), nowhere, Found::default());
        if !generations.begin_with(ENTRIES.with(Clone::clone)) {
            return Err("the configuration is not in force".to_owned());
        }
        let clocks = Clocks::new(nowhere, VirtualClock(Rc::clone(&self.clock)));
        let manager = Manager::new(generations, clocks, pid);
        let store_at = Some(self.now());
        self.qmgr =
            Qmgr::Up(Box::new(Up { pid, manager, greeted: BTreeMap::new(), store_at, has_news: true }));
        self.note(|| "QMGR begins");
        let (_, supervisor) = self.connect(Owner::Qmgr, pid, Owner::Supervisor);
        self.with_manager(|manager| manager.supervisor_connected(supervisor));
        Ok(())
    }

    fn with_manager(&mut self, act: impl FnOnce(&mut Manager<End, VirtualClock>)) {
        if let Qmgr::Up(up) = &mut self.qmgr {
            up.has_news = true;
            act(&mut up.manager);
        }
    }

    pub(crate) fn turn_qmgr(&mut self) -> Kept {
        let now = self.now();
        let Qmgr::Up(up) = &mut self.qmgr else { return Ok(()) };
        if up.store_at.take_if(|at| *at <= now).is_some() {
            let pid = up.pid;
            let (_, store) = self.connect(Owner::Qmgr, pid, Owner::Store);
            self.with_manager(|manager| manager.store_connected(store));
            return Ok(());
        }
        up.has_news = false;
        up.manager.tell_deliverable();
        if up.manager.wake_at() <= now {
            up.manager.wake();
        }
        self.note(|| "QMGR takes a turn");
        Ok(())
    }

    pub(crate) fn qmgr_accepts(&mut self, link: u64) -> Kept {
        if let Some(link) = self.links.get_mut(&link) {
            link.is_accepted = true;
        }
        Ok(())
    }

    pub(crate) fn qmgr_reads(&mut self, link: u64, writer: Owner, received: Received) -> Kept {
        let datagram = match received {
            Received::Datagram(datagram) => datagram,
            Received::End => return self.qmgr_has_lost(link, writer),
            Received::Nothing => return Ok(()),
        };
        let nonsense = |error| format!("QMGR cannot read what {writer:?} has sent: {error}");
        let mut frames = Frames::open(&datagram.octets).map_err(nonsense)?;
        match writer {
            Owner::Store => {
                while let Some(frame) = frames.next_frame::<FromStore>().map_err(nonsense)? {
                    if let FromStore::Stream(frame) = frame
                        && !self.is_forgotten(&frame)
                    {
                        self.note(|| format!("QMGR hears {frame:?}"));
                        self.with_manager(|manager| manager.stream(frame));
                    }
                }
            }
            Owner::Supervisor => {
                while let Some(frame) = frames.next_frame().map_err(nonsense)? {
                    self.with_manager(|manager| manager.supervisor_said(frame));
                }
            }
            Owner::Channel(_) => {
                while let Some(frame) = frames.next_frame::<ToQmgr>().map_err(nonsense)? {
                    self.qmgr_hears_channel(link, frame)?;
                }
            }
            Owner::Qmgr | Owner::Submitter(_) => {}
        }
        Ok(())
    }

    fn is_forgotten(&self, frame: &StreamFrame) -> bool {
        self.mistake == Some(Mistake::ForgottenMlist)
            && matches!(frame, StreamFrame::Message(facts) if facts.sequence.0.is_multiple_of(10))
    }

    fn qmgr_hears_channel(&mut self, link: u64, frame: ToQmgr) -> Kept {
        let Qmgr::Up(up) = &mut self.qmgr else { return Ok(()) };
        let end = match self.links.get(&link) {
            Some(link) => Rc::clone(&link.ends[1]),
            None => return Ok(()),
        };
        up.has_news = true;
        match (up.greeted.get(&link).cloned(), frame) {
            (None, ToQmgr::Hello(hello)) => {
                // One that QMGR does not know as its number is refused, as by the door.
                match up.manager.channel_connected(&hello, &end) {
                    Ok(()) => drop(up.greeted.insert(link, hello)),
                    Err(_) => self.close(link, 1),
                }
            }
            (Some(hello), frame) => {
                self.note(|| format!("QMGR hears {frame:?} of channel {}", hello.process));
                self.with_manager(|manager| manager.channel_said(&hello, frame));
            }
            (None, frame) => return Err(format!("a channel says {frame:?} before it greets")),
        }
        Ok(())
    }

    fn qmgr_has_lost(&mut self, link: u64, writer: Owner) -> Kept {
        self.close(link, 1);
        self.close(link, 0);
        let now = self.now();
        match writer {
            Owner::Store => {
                self.with_manager(Manager::store_lost);
                if let Qmgr::Up(up) = &mut self.qmgr {
                    up.store_at = Some(now.plus_ms(RECONNECT_MS));
                }
            }
            Owner::Channel(_) => {
                let hello = match &mut self.qmgr {
                    Qmgr::Up(up) => up.greeted.remove(&link),
                    Qmgr::Down { .. } => None,
                };
                if let Some(hello) = hello {
                    self.with_manager(|manager| manager.channel_lost(&hello));
                }
            }
            Owner::Supervisor | Owner::Qmgr | Owner::Submitter(_) => {}
        }
        Ok(())
    }

    pub(crate) fn kill_qmgr(&mut self) {
        let restart_at = self.now().plus_ms(self.random.below(RESTART_MS_MAX));
        self.note(|| "QMGR dies");
        self.qmgr = Qmgr::Down { restart_at };
        self.close_ends_of(Owner::Qmgr);
        self.supervisor.qmgr_is_gone();
    }

    /// Whether QMGR's tree is complete and all that the store had to say has reached it.
    pub(crate) fn tree_is_told(&self) -> bool {
        let is_going = self.qmgr.manager().is_some_and(|manager| manager.tree() == Tree::Going);
        let stream = self.links.values().find(|link| link.owners == [Owner::Qmgr, Owner::Store]);
        is_going
            && self.store.is_up()
            && !self.store.owes_a_snapshot()
            && stream.is_some_and(|link| {
                link.is_accepted && !link.ends[1].has_unsent() && !link.ends[0].is_readable()
            })
    }
}
