//! The store's process: the product's service over the faulty disk, driven by the world as `store/src/lib.rs` drives it.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use sternpost_link::store::Origin;
use sternpost_message::UnixMillis;
use sternpost_platform::disk::DiskBackend;
use sternpost_platform::door::{Door, Users};
use sternpost_queue::{Log, OpenError, Parameters};
use sternpost_store::{ClientId, Manner, Service};

use super::actions::Action;
use super::links::{End, Received};
use super::{Kept, Owner, World};
use crate::disk::{Closed, FaultyDisk};
use crate::{invariants, opening};

/// Openings that find a sector unreadable, a second apart, until the store does without it.
const OPENINGS_MAX: u32 = 8;
/// Drives after which it may be due again at once: reclaim goes on in the next turn when it has given something up.
const RESTLESS_MAX: u32 = 200;
/// More than the store lets wait for QMGR.
const UNSENT_OCTETS: usize = 9 << 20;
/// Time between the death of a process and the next one, at most.
const RESTART_MS_MAX: u64 = 300;

/// The process, or the wait for it.
pub(crate) enum Store {
    Down { restart_at: UnixMillis, openings: u32 },
    Up(Box<Up>),
}

/// A store that runs.
pub(crate) struct Up {
    pid: u32,
    service: Service<FaultyDisk, End>,
    /// By link.
    clients: BTreeMap<u64, ClientId>,
    /// Something has come that the log is to look at.
    has_news: bool,
    /// QMGR's link while a snapshot is being sent.
    snapshot: Option<Rc<End>>,
    /// QMGR's link while it pretends to be slow.
    slow: Option<Rc<End>>,
    /// Drives in a row after which it was due again at once.
    restless: u32,
}

impl Default for Store {
    fn default() -> Self {
        Self::Down { restart_at: UnixMillis(0), openings: 0 }
    }
}

impl Store {
    pub(crate) const fn is_up(&self) -> bool {
        matches!(self, Self::Up(_))
    }

    pub(crate) const fn pid(&self) -> u32 {
        match self {
            Self::Up(up) => up.pid,
            Self::Down { .. } => 0,
        }
    }

    pub(crate) const fn service(&self) -> Option<&Service<FaultyDisk, End>> {
        match self {
            Self::Up(up) => Some(&up.service),
            Self::Down { .. } => None,
        }
    }

    /// When it has something to do that is not a write's end.
    pub(crate) fn due(&self) -> Option<UnixMillis> {
        match self {
            Self::Down { restart_at, .. } => Some(*restart_at),
            // The service looks at the instant only for marks, which are looked at whenever there are any.
            Self::Up(up) => up.service.wake_at(UnixMillis(0)).filter(|at| at.0 > 1),
        }
    }

    /// Whether a snapshot is being sent, or waits to be.
    pub(crate) fn owes_a_snapshot(&self) -> bool {
        matches!(self, Self::Up(up) if up.snapshot.is_some() || up.service.wants_snapshot())
    }
}

fn parameters(openings: u32) -> Parameters {
    Parameters {
        recent_content_octets_max: 40_000,
        partial_timeout_ms: 30_000,
        isolates_unreadable: openings + 1 >= OPENINGS_MAX,
        ..Parameters::default()
    }
}

impl World {
    pub(crate) fn store_actions(&self, now: UnixMillis, actions: &mut Vec<Action>) {
        match &self.store {
            Store::Down { restart_at, .. } => {
                let is_free = !self.medium.is_writing() || self.medium.ignores_locks();
                if *restart_at <= now && is_free {
                    actions.push(Action::StoreStart);
                }
            }
            Store::Up(up) => {
                let is_due = || up.service.wake_at(now).is_some_and(|at| at <= now);
                if up.has_news || up.service.has_marks() || self.medium.has_finished() || is_due() {
                    actions.push(Action::StoreDrive);
                }
                let is_next = match &up.snapshot {
                    Some(link) => link.is_closed() || !link.has_unsent(),
                    None => up.service.wants_snapshot(),
                };
                if is_next {
                    actions.push(Action::StoreSnapshot);
                }
            }
        }
    }

    pub(crate) fn start_store(&mut self) -> Kept {
        let Store::Down { openings, .. } = self.store else { return Ok(()) };
        let now = self.now();
        let disk = match self.medium.open() {
            Ok(disk) => disk,
            Err(Closed::Locked) => return Ok(()),
            Err(Closed::Sync) => {
                self.note(|| "the store cannot sync its device");
                self.store = Store::Down { restart_at: now.plus_ms(1_000), openings };
                return Ok(());
            }
        };
        match Log::open(disk, parameters(openings), now) {
            Ok((log, report)) => self.store_is_open(log, report, openings),
            Err(OpenError::Disk(error)) if openings + 1 < OPENINGS_MAX => {
                self.note(|| format!("the log cannot be opened: {error}"));
                self.store = Store::Down { restart_at: now.plus_ms(1_000), openings: openings + 1 };
                Ok(())
            }
            Err(error) => Err(format!("the log cannot be opened: {error}")),
        }
    }

    /// Compares what was found with what was promised, and begins to serve.
    fn store_is_open(
        &mut self,
        mut log: Log<FaultyDisk>,
        report: sternpost_queue::RecoveryReport,
        openings: u32,
    ) -> Kept {
        self.summary.opened += 1;
        self.note(|| format!("the store opens the log: {report:?}"));
        let found = opening::found(&mut log, report)?;
        self.summary.segments_by_index += found.report.segments_by_index;
        invariants::after_opening(&self.model, &found)?;
        opening::invariant_indexes_say_what_records_say(&self.medium, &self.model, &found)?;
        if self.random.chance(25) {
            let now = self.now();
            opening::invariant_recovery_is_idempotent(&self.medium, &found, parameters(openings), now)?;
        }
        let submitted = self.submitters.iter().flat_map(super::Submitter::open_messages);
        let reported = self.channels.values().flat_map(super::Channel::open_messages);
        let open: BTreeSet<_> = submitted.chain(reported).collect();
        self.model.adopt(&found, &open);
        for (id, detail) in &found.details {
            let message = self.model.messages[id].clone();
            opening::invariant_content_is_what_came_in(
                &mut log,
                &mut self.random,
                detail.sequence,
                &message,
            )?;
        }
        self.reports_are_known(found.details.keys().copied())?;
        let pid = self.new_pid();
        let manner = Manner {
            backend: DiskBackend::Dsync,
            backend_from: Origin::Default,
            batch_octets_max: u32::try_from(log.batch_octets_max()).unwrap_or(u32::MAX),
            batch_from: Origin::Default,
        };
        let mut service = Service::new(log, pid, manner, Door::new(Users::Same(0)));
        service.recovered(self.now(), &found.report, &parameters(openings));
        self.store = Store::Up(Box::new(Up {
            pid,
            service,
            clients: BTreeMap::new(),
            has_news: true,
            snapshot: None,
            slow: None,
            restless: 0,
        }));
        Ok(())
    }

    /// The process dies; what it had begun to write goes on.
    pub(crate) fn kill_store(&mut self) -> Kept {
        if let Store::Up(up) = &self.store {
            self.summary.store_deaths += 1;
            self.summary.store_deaths_in_flight += u64::from(up.service.log().is_writing());
            // What reclaim gives up while the log is in use, the log tells its operator and not the next opening.
            self.model.is_tail_hit |= self.model.is_hit && up.service.log().status().moved_records > 0;
        }
        let restart_at = self.now().plus_ms(self.random.below(RESTART_MS_MAX));
        self.store = Store::Down { restart_at, openings: 0 };
        self.close_ends_of(Owner::Store);
        self.take_landed()
    }

    pub(crate) fn store_accepts(&mut self, link: u64) -> Kept {
        let now = self.now();
        let (Store::Up(up), Some(accepted)) = (&mut self.store, self.links.get_mut(&link)) else {
            return Ok(());
        };
        accepted.is_accepted = true;
        let client = up.service.connected(now, Rc::clone(&accepted.ends[1]));
        up.clients.insert(link, client);
        up.has_news = true;
        Ok(())
    }

    pub(crate) fn store_reads(&mut self, link: u64, received: Received) -> Kept {
        let now = self.now();
        let Store::Up(up) = &mut self.store else { return Ok(()) };
        let Some(client) = up.clients.get(&link).copied() else { return Ok(()) };
        up.has_news = true;
        match received {
            Received::Datagram(datagram) => {
                up.service
                    .datagram(now, client, &datagram.octets)
                    .map_err(|error| format!("a client sent nonsense to the store: {error}"))?;
                if self.links.get(&link).is_some_and(|link| link.ends[1].is_closed()) {
                    return Err(format!("the store has refused {:?}", self.links[&link].owners[0]));
                }
            }
            Received::End => {
                up.service.lost(client);
                up.clients.remove(&link);
                self.close(link, 1);
            }
            Received::Nothing => {}
        }
        Ok(())
    }

    pub(crate) fn drive_store(&mut self) -> Kept {
        let is_whole_turn = match &self.store {
            Store::Up(up) => up.service.has_marks() || self.random.chance(20),
            Store::Down { .. } => return Ok(()),
        };
        if is_whole_turn {
            self.read_everything_that_the_store_can()?;
        }
        let now = self.now();
        let Store::Up(up) = &mut self.store else { return Ok(()) };
        up.has_news = false;
        let wanted = up.service.wants_snapshot();
        up.service.drive(now);
        if up.service.wants_snapshot()
            && let Some(slow) = up.slow.take()
        {
            slow.pretend_unsent(0);
            self.summary.overflows += u64::from(!wanted);
        }
        let is_due = !up.service.has_marks() && up.service.wake_at(now).is_some_and(|at| at <= now);
        up.restless = if is_due { up.restless + 1 } else { 0 };
        if up.restless > RESTLESS_MAX {
            return Err("the store goes round and round without a thing to do".to_owned());
        }
        self.note(|| "the store drives its log");
        self.take_landed()
    }

    /// A turn of the event loop: whoever waits is accepted, and all sockets are read.
    fn read_everything_that_the_store_can(&mut self) -> Kept {
        let waiting: Vec<u64> = self
            .links
            .iter()
            .filter(|(_, link)| link.owners[1] == Owner::Store && !link.is_accepted)
            .map(|(id, _)| *id)
            .collect();
        for link in waiting {
            self.store_accepts(link)?;
        }
        let links: Vec<u64> =
            self.links.iter().filter(|(_, link)| link.owners[1] == Owner::Store).map(|(id, _)| *id).collect();
        for link in links {
            while self.links.get(&link).is_some_and(|link| link.ends[1].is_readable()) {
                self.read(link, 1)?;
            }
        }
        Ok(())
    }

    pub(crate) fn step_snapshot(&mut self) -> Kept {
        let Store::Up(up) = &mut self.store else { return Ok(()) };
        if up.snapshot.is_none() {
            up.snapshot = up.service.begin_snapshot();
        } else if up.service.step_snapshot() {
            up.snapshot = None;
        }
        self.note(|| "the store sends some of a snapshot");
        Ok(())
    }

    /// QMGR seems not to keep up with the stream, until the store has noticed.
    pub(crate) fn pretend_that_qmgr_is_slow(&mut self) {
        let link = self.links.values().find(|link| link.owners == [Owner::Qmgr, Owner::Store]);
        if let (Store::Up(up), Some(link)) = (&mut self.store, link.filter(|link| link.is_accepted)) {
            link.ends[1].pretend_unsent(UNSENT_OCTETS);
            up.slow = Some(Rc::clone(&link.ends[1]));
        }
    }
}
