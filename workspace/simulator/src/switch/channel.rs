//! A channel process: what it holds and says of it is the product's ([`Holding`]), as are its appender and frames; modelled are
//! its links, the reading of a message, and the transfer.
//!
//! The rules that the model keeps are those of PROTOCOL.md: an Mlist is held until its outcomes are committed; what has no
//! answer is sent again to a store that has restarted; a fetch goes on where it stood; cells are released on the link on
//! which they came.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use sternpost_channels::holding::{Holding, Step};
use sternpost_config::HousekeeperView;
use sternpost_link::qmgr::{Assignment, FromQmgr};
use sternpost_link::store::{Absence, Append, FromStore, Lane, MessageDetail, Refusal, ToStore};
use sternpost_link::{Appender, ChannelKind, Frames, Hello, PROTOCOL_VERSION};
use sternpost_message::{
    Diagnostic, EnhancedStatus, MessageId, Outcome, RecipientRange, RecipientState, UnixMillis,
};
use sternpost_platform::wire::Wire;

use super::actions::Action;
use super::housekeeper::Closing;
use super::links::{Attached, End, Received, SharedCells};
use super::{Kept, Mistake, Owner, World};

const RECONNECT_MS: u64 = 20;
/// Wait before an outcome that the log's device did not take is recorded again.
const AGAIN_MS: u64 = 1_000;

/// One process.
pub(crate) struct Channel {
    pub(crate) pid: u32,
    pub(crate) own: Hello,
    pub(crate) kind: ChannelKind,
    pub(super) holding: Holding,
    store: Option<(u64, Rc<End>)>,
    is_welcome: bool,
    was_welcome: bool,
    cells: Option<SharedCells>,
    qmgr: Option<(u64, Rc<End>)>,
    reconnect_at: UnixMillis,
    pub(crate) appender: Appender<Recorded>,
    pub(crate) jobs: BTreeMap<u32, Job>,
    request_last: u32,
    releases: Vec<u16>,
    pub(crate) view: Option<HousekeeperView>,
    /// It does nothing until then.
    hangs_until: UnixMillis,
    /// Peers that failed when they were tried last.
    pub(super) failing: Vec<String>,
}

/// Which set of which job was recorded.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    pub(crate) job: u32,
    outcomes: Vec<(RecipientRange, Outcome)>,
    /// The report in the set.
    pub(crate) report: Option<MessageId>,
}

/// One Mlist on its way.
pub(crate) struct Job {
    pub(crate) assignment: Assignment,
    pub(crate) stage: Stage,
    pub(crate) detail: Option<Box<MessageDetail>>,
    /// Cells with content that was not looked at yet.
    pieces: VecDeque<Piece>,
    pub(crate) content: Vec<u8>,
    is_complete: bool,
    /// Why the message cannot be read; true when it is dead.
    pub(crate) failed: Option<(bool, String)>,
    octets_max: u64,
}

struct Piece {
    /// The window in which it lies, and the link on which that came. The mapping outlives both.
    cells: SharedCells,
    link: u64,
    cell: u16,
    octets: usize,
}

pub(crate) enum Stage {
    Reading,
    Transferring {
        until: UnixMillis,
        recipients: Vec<u32>,
    },
    /// Sets that wait for their answer, and those that are to be sent again.
    Recording {
        open: usize,
        again: Vec<(UnixMillis, Vec<(RecipientRange, Outcome)>)>,
    },
    /// The housekeeper's sets, one after the other.
    Closing(Closing),
    GivingBack {
        at: UnixMillis,
        why: &'static str,
    },
}

impl Channel {
    pub(crate) fn new(process: u64, pid: u32, channel: String, kind: ChannelKind, capacity: u32) -> Self {
        let own = Hello { version: PROTOCOL_VERSION, role: kind.role(), pid, process, channel, capacity };
        Self {
            pid,
            own,
            kind,
            holding: Holding::default(),
            store: None,
            is_welcome: false,
            was_welcome: false,
            cells: None,
            qmgr: None,
            reconnect_at: UnixMillis(0),
            appender: Appender::default(),
            jobs: BTreeMap::new(),
            request_last: 0,
            releases: Vec::new(),
            view: None,
            hangs_until: UnixMillis(0),
            failing: Vec::new(),
        }
    }

    pub(crate) fn is_awake(&self, now: UnixMillis) -> bool {
        self.hangs_until <= now
    }

    pub(crate) const fn hang(&mut self, until: UnixMillis) {
        self.hangs_until = until;
    }

    pub(crate) const fn wake_up(&mut self) {
        self.hangs_until = UnixMillis(0);
    }

    pub(crate) fn actions(&self, process: u64, now: UnixMillis, actions: &mut Vec<Action>) {
        if !self.is_awake(now) {
            return;
        }
        // The store must know the process before QMGR does.
        let wants_link = self.store.is_none() || (self.qmgr.is_none() && self.was_welcome);
        if wants_link && self.reconnect_at <= now {
            actions.push(Action::ChannelConnects(process));
        }
        if !self.releases.is_empty() && self.is_welcome {
            actions.push(Action::ChannelReleases(process));
        }
        for (job, work) in &self.jobs {
            if work.can_go_on(now) {
                actions.push(Action::ChannelWorks(process, *job));
            }
        }
    }

    pub(crate) fn due(&self) -> Option<UnixMillis> {
        let wants_link = self.store.is_none() || (self.qmgr.is_none() && self.was_welcome);
        let link = wants_link.then_some(self.reconnect_at);
        let jobs = self.jobs.values().filter_map(Job::due);
        jobs.chain(link).map(|due| due.max(self.hangs_until)).min()
    }

    pub(super) fn tell(&self, step: Option<Step>) {
        if let (Some(Step::Tell(frame)), Some((_, link))) = (step, &self.qmgr) {
            link.push(&frame).expect("what a channel says fits a datagram");
        }
    }

    fn ask(&self, frame: &ToStore<'_>) {
        if let Some((_, link)) = self.store.as_ref().filter(|_| self.is_welcome) {
            link.push(frame).expect("a question to the store fits a datagram");
        }
    }

    /// # Errors
    /// When the set does not fit a datagram.
    pub(crate) fn append(
        &mut self,
        records: &[Append<'_>],
        recorded: Recorded,
    ) -> Result<(), sternpost_link::FrameError> {
        let frame = self.appender.append(Lane::Outcome, records, recorded)?;
        if let Some((_, link)) = self.store.as_ref().filter(|_| self.is_welcome) {
            link.push_encoded(frame);
        }
        Ok(())
    }

    /// The reports of which the set has no answer.
    pub(crate) fn open_messages(&self) -> impl Iterator<Item = MessageId> {
        self.appender.contexts().filter_map(|recorded| recorded.report)
    }

    /// The work on an Mlist is done, and what became of its recipients is durable already.
    pub(crate) fn done_durably(&mut self, job: u32) {
        let Some(done) = self.jobs.remove(&job) else { return };
        let mlist = done.assignment.mlist;
        let step = self.holding.finished(mlist);
        self.tell(step);
        self.holding.release(mlist);
        self.forget_fetch(job, &done);
    }

    fn give_back(&mut self, job: u32, why: &str) {
        let Some(back) = self.jobs.remove(&job) else { return };
        let step = self.holding.give_back(back.assignment.mlist, why);
        self.tell(step);
        self.forget_fetch(job, &back);
    }

    /// Nobody reads the message any more.
    fn forget_fetch(&mut self, job: u32, forgotten: &Job) {
        if !forgotten.is_complete && forgotten.failed.is_none() {
            self.ask(&ToStore::Cancel { request: job });
        }
        forgotten.pieces.iter().for_each(|piece| self.release(piece));
    }

    /// A cell of an earlier link is not released on a later one.
    fn release(&mut self, piece: &Piece) {
        if self.store.as_ref().is_some_and(|(link, _)| *link == piece.link) {
            self.releases.push(piece.cell);
        }
    }
}

impl Job {
    fn can_go_on(&self, now: UnixMillis) -> bool {
        if !self.pieces.is_empty() {
            return true;
        }
        match &self.stage {
            Stage::Reading => self.failed.is_some() || (self.is_complete && self.detail.is_some()),
            _ => self.due().is_some_and(|due| due <= now),
        }
    }

    fn due(&self) -> Option<UnixMillis> {
        match &self.stage {
            Stage::Reading => None,
            Stage::Transferring { until, .. } => Some(*until),
            Stage::Recording { again, .. } => again.iter().map(|(at, _)| *at).min(),
            Stage::Closing(closing) => closing.due(),
            Stage::GivingBack { at, .. } => Some(*at),
        }
    }

    /// The assigned recipients that still wait, by what the store says of them.
    pub(super) fn pending(&self, detail: &MessageDetail, repeats: bool) -> Vec<u32> {
        let assigned = self.assignment.recipients.iter().flat_map(|range| range.first..range.end());
        let is_pending = |index: &u32| {
            let record = usize::try_from(*index).ok().and_then(|at| detail.recipients.get(at));
            record.is_some_and(|record| record.state == RecipientState::Pending || repeats)
        };
        assigned.filter(is_pending).collect()
    }
}

pub(super) fn own(class: u8, text: &str) -> Diagnostic {
    Diagnostic::own(EnhancedStatus::new(class, 3, 0), text)
}

impl World {
    fn with_channel<R>(&mut self, process: u64, act: impl FnOnce(&mut Self, &mut Channel) -> R) -> Option<R> {
        let mut channel = self.channels.remove(&process)?;
        let result = act(self, &mut channel);
        let is_over = channel.holding.is_over();
        self.channels.insert(process, channel);
        if is_over {
            self.channel_ends(process);
        }
        Some(result)
    }

    /// The process has drained: what it has pushed is sent before it ends.
    fn channel_ends(&mut self, process: u64) {
        for link in self.links.values() {
            if link.owners[0] == Owner::Channel(process) {
                while link.ends[0].has_unsent() {
                    link.ends[0].flush();
                }
            }
        }
        self.kill_channel(process, "exit status: 0");
    }

    pub(crate) fn channel_connects(&mut self, process: u64) -> Kept {
        let Some(channel) = self.channels.get(&process) else { return Ok(()) };
        let (pid, own) = (channel.pid, channel.own.clone());
        if channel.store.is_none() {
            let (link, end) = self.connect(Owner::Channel(process), pid, Owner::Store);
            end.push(&ToStore::Hello(own)).map_err(|error| error.to_string())?;
            if let Some(channel) = self.channels.get_mut(&process) {
                channel.store = Some((link, end));
            }
        } else {
            let greeting = channel.holding.greeting(&own);
            let (link, end) = self.connect(Owner::Channel(process), pid, Owner::Qmgr);
            end.push(&greeting).map_err(|error| error.to_string())?;
            if let Some(channel) = self.channels.get_mut(&process) {
                channel.qmgr = Some((link, end));
            }
        }
        Ok(())
    }

    pub(crate) fn channel_reads(
        &mut self,
        process: u64,
        link: u64,
        writer: Owner,
        received: Received,
    ) -> Kept {
        match received {
            Received::Datagram(datagram) => {
                let mut frames = Frames::open(&datagram.octets).map_err(|error| error.to_string())?;
                if writer == Owner::Store {
                    while let Some(frame) = frames.next_frame().map_err(|error| error.to_string())? {
                        let attached = datagram.attached.clone();
                        self.with_channel(process, |world, channel| {
                            world.channel_hears_store(channel, frame, attached)
                        })
                        .unwrap_or(Ok(()))?;
                    }
                } else {
                    while let Some(frame) = frames.next_frame().map_err(|error| error.to_string())? {
                        let attached = datagram.attached.clone();
                        self.with_channel(process, |world, channel| {
                            world.channel_hears_qmgr(channel, frame, attached)
                        })
                        .unwrap_or(Ok(()))?;
                    }
                }
                Ok(())
            }
            Received::End => {
                self.close(link, 0);
                let now = self.now();
                let Some(channel) = self.channels.get_mut(&process) else { return Ok(()) };
                channel.reconnect_at = now.plus_ms(RECONNECT_MS);
                if channel.store.as_ref().is_some_and(|(own, _)| *own == link) {
                    channel.store = None;
                    channel.is_welcome = false;
                    channel.cells = None;
                    channel.releases.clear();
                } else {
                    channel.qmgr = None;
                    channel.holding.lost();
                }
                Ok(())
            }
            Received::Nothing => Ok(()),
        }
    }

    fn channel_hears_qmgr(
        &mut self,
        channel: &mut Channel,
        frame: FromQmgr,
        attached: Option<Attached>,
    ) -> Kept {
        if let (FromQmgr::View { .. }, Some(Attached::Sealed(octets)), ChannelKind::Housekeeper) =
            (&frame, attached, channel.kind)
        {
            channel.view = postcard::from_bytes(&octets).ok();
        }
        self.note(|| format!("channel {} hears {frame:?}", channel.own.process));
        for step in channel.holding.take(frame) {
            match step {
                Step::Work(assignment) => self.channel_begins(channel, assignment)?,
                // What it does is finished; nothing of it waits unbegun.
                Step::Drain => {}
                step @ Step::Tell(_) => channel.tell(Some(step)),
            }
        }
        Ok(())
    }

    fn channel_begins(&mut self, channel: &mut Channel, assignment: Assignment) -> Kept {
        let message = assignment.mlist.message;
        self.invariant_nobody_is_tried_by_two_at_once(channel, &assignment)?;
        let octets_max = match channel.kind {
            ChannelKind::Housekeeper => sternpost_channels::housekeeper::closing::ORIGINAL_OCTETS_MAX,
            ChannelKind::Smtp | ChannelKind::Lmtp => u64::MAX,
        };
        channel.request_last += 1;
        let request = channel.request_last;
        channel.ask(&ToStore::Fetch { request, message, offset: 0, octets_max });
        let job = Job {
            assignment,
            stage: Stage::Reading,
            detail: None,
            pieces: VecDeque::new(),
            content: Vec::new(),
            is_complete: false,
            failed: None,
            octets_max,
        };
        channel.jobs.insert(request, job);
        Ok(())
    }

    /// A recipient that is assigned is at work nowhere else: neither in this process nor in another one. But for a message that QMGR
    /// was told to be over before the disk lost that: with the message QMGR has forgotten who was at work on it.
    fn invariant_nobody_is_tried_by_two_at_once(&self, channel: &Channel, new: &Assignment) -> Kept {
        let id = self.model.sequences.get(&new.mlist.message);
        if id.is_some_and(|id| self.model.messages[id].is_hit) {
            return Ok(());
        }
        let is_same = |job: &Job| {
            let is_at_work = !matches!(job.stage, Stage::Recording { .. } | Stage::GivingBack { .. });
            let overlaps = |old: &RecipientRange| {
                new.recipients.iter().any(|new| new.first < old.end() && old.first < new.end())
            };
            is_at_work && job.assignment.mlist == new.mlist && job.assignment.recipients.iter().any(overlaps)
        };
        let others = self.channels.values().chain([channel]);
        match others
            .filter(|channel| channel.jobs.values().any(is_same))
            .map(|channel| channel.own.process)
            .next()
        {
            Some(process) => {
                Err(format!("{} is assigned while process {process} is at work on it", new.mlist))
            }
            None => Ok(()),
        }
    }

    fn channel_hears_store(
        &mut self,
        channel: &mut Channel,
        frame: FromStore,
        attached: Option<Attached>,
    ) -> Kept {
        match frame {
            FromStore::Welcome { .. } => {
                if let Some(Attached::Cells(cells)) = attached {
                    channel.cells = Some(cells);
                }
                channel_is_welcome(channel);
            }
            FromStore::Committed { lane, number } => {
                let mut committed = Vec::new();
                channel.appender.committed(lane, number, |recorded| committed.push(recorded));
                for recorded in committed {
                    self.set_is_answered(channel, recorded, None)?;
                }
            }
            FromStore::Refused { lane, number, refusal } => {
                if let Some(recorded) = channel.appender.refused(lane, number) {
                    self.set_is_answered(channel, recorded, Some(&refusal))?;
                }
            }
            FromStore::Message { request, detail } => {
                let detail = detail.or_else(|| match attached {
                    Some(Attached::Sealed(octets)) => postcard::from_bytes(&octets).ok(),
                    _ => None,
                });
                if let Some(job) = channel.jobs.get_mut(&request) {
                    job.detail = job.detail.take().or(detail);
                }
            }
            FromStore::NoMessage { request, absence, why } => {
                if let Some(job) = channel.jobs.get_mut(&request) {
                    job.failed = Some((matches!(absence, Absence::Dead | Absence::Isolated), why));
                }
            }
            FromStore::Content { request, cell, octets, last } => {
                let octets = usize::try_from(octets).map_err(|error| error.to_string())?;
                let (Some(cells), Some((link, _))) = (channel.cells.clone(), &channel.store) else {
                    return Err("content comes before the window".to_owned());
                };
                match channel.jobs.get_mut(&request) {
                    Some(job) => {
                        job.is_complete |= last;
                        if octets > 0 {
                            job.pieces.push_back(Piece { cells, link: *link, cell, octets });
                        }
                    }
                    None if octets > 0 => channel.releases.push(cell),
                    None => {}
                }
            }
            // Those are for QMGR and for operators.
            _ => {}
        }
        Ok(())
    }

    fn set_is_answered(
        &mut self,
        channel: &mut Channel,
        recorded: Recorded,
        refusal: Option<&Refusal>,
    ) -> Kept {
        let now = self.now();
        let Recorded { job: number, outcomes, report } = recorded;
        let Some(job) = channel.jobs.get_mut(&number) else { return Ok(()) };
        let mlist = job.assignment.mlist;
        self.note(|| format!("the set of {mlist} is answered: {refusal:?}"));
        if let (Some(report), None) = (report, refusal) {
            self.model.acknowledged(report)?;
        }
        match &mut job.stage {
            Stage::Recording { open, again } => match refusal {
                Some(Refusal::Device | Refusal::Full) => again.push((now.plus_ms(AGAIN_MS), outcomes)),
                None | Some(_) => {
                    *open -= 1;
                    if *open == 0 {
                        channel.jobs.remove(&number);
                        channel.holding.release(mlist);
                        if self.mistake == Some(Mistake::RepeatedRecipient) {
                            self.transfers_once_more(mlist, &outcomes)?;
                        }
                    }
                }
            },
            Stage::Closing(_) if refusal.is_none() => self.housekeeper_goes_on(channel, number)?,
            Stage::Closing(_) => {
                let at = now.plus_ms(AGAIN_MS);
                job.stage = Stage::GivingBack { at, why: "the log did not take a report" };
            }
            Stage::Reading | Stage::Transferring { .. } | Stage::GivingBack { .. } => {}
        }
        Ok(())
    }

    pub(crate) fn channel_releases(&mut self, process: u64) -> Kept {
        if let Some(channel) = self.channels.get_mut(&process) {
            let cells = std::mem::take(&mut channel.releases);
            channel.ask(&ToStore::Release { cells });
        }
        Ok(())
    }

    pub(crate) fn channel_works(&mut self, process: u64, job: u32) -> Kept {
        self.with_channel(process, |world, channel| world.job_goes_on(channel, job)).unwrap_or(Ok(()))
    }

    fn job_goes_on(&mut self, channel: &mut Channel, number: u32) -> Kept {
        let now = self.now();
        let Some(job) = channel.jobs.get_mut(&number) else { return Ok(()) };
        if let Some(piece) = job.pieces.pop_front() {
            let read = piece.cells.read(piece.cell, piece.octets);
            job.content.extend(read.ok_or("a cell has fewer octets than the store says")?);
            channel.release(&piece);
            return Ok(());
        }
        match &mut job.stage {
            Stage::Reading if channel.kind == ChannelKind::Housekeeper => {
                self.housekeeper_begins(channel, number)
            }
            Stage::Reading => self.transfer_begins(channel, number),
            Stage::Transferring { recipients, .. } => {
                let recipients = std::mem::take(recipients);
                self.transfer_ends(channel, number, &recipients)
            }
            Stage::Recording { again, .. } => {
                let due = again.iter().position(|(at, _)| *at <= now);
                let Some((_, outcomes)) = due.map(|at| again.swap_remove(at)) else { return Ok(()) };
                let message = job.assignment.mlist.message;
                record(channel, number, message, outcomes)
            }
            Stage::Closing(_) => self.housekeeper_goes_on(channel, number),
            Stage::GivingBack { why, .. } => {
                let why = *why;
                channel.give_back(number, why);
                Ok(())
            }
        }
    }

    pub(crate) fn kill_channel(&mut self, process: u64, status: &str) {
        if self.channels.remove(&process).is_some() {
            self.note(|| format!("channel {process} ends: {status}"));
            self.close_ends_of(Owner::Channel(process));
            self.supervisor_reaps(process, status);
        }
    }
}

pub(super) fn record(
    channel: &mut Channel,
    job: u32,
    message: sternpost_message::MessageSequence,
    outcomes: Vec<(RecipientRange, Outcome)>,
) -> Kept {
    let records = [Append::Outcome { message, outcomes: outcomes.clone() }];
    channel
        .append(&records, Recorded { job, outcomes, report: None })
        .map_err(|error| format!("a set of outcomes is too large: {error}"))
}

impl Recorded {
    pub(crate) const fn of_report(job: u32, report: Option<MessageId>) -> Self {
        Self { job, outcomes: Vec::new(), report }
    }
}

/// A new link to the store: everything without an answer is sent again, and messages are read on from where they stood.
fn channel_is_welcome(channel: &mut Channel) {
    channel.is_welcome = true;
    channel.was_welcome = true;
    let Some((_, link)) = &channel.store else { return };
    for frame in channel.appender.unanswered() {
        link.push_encoded(frame);
    }
    for (request, job) in &mut channel.jobs {
        // Pieces of the last store's window are gone with it.
        let had_unread = !job.pieces.is_empty();
        job.pieces.clear();
        if job.failed.is_some() || !matches!(job.stage, Stage::Reading) {
            continue;
        }
        if !job.is_complete || had_unread || job.detail.is_none() {
            job.is_complete = false;
            let (offset, message) = (job.content.len() as u64, job.assignment.mlist.message);
            let octets_max = job.octets_max - offset;
            link.push(&ToStore::Fetch { request: *request, message, offset, octets_max })
                .expect("a question to the store fits a datagram");
        }
    }
}
