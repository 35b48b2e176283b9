//! A whole life of a log from one seed: mail, outcomes, large content, restarts, cut power, failed writes, reclaim.
//!
//! Beside the log runs a model of what was promised. Whatever the disk does, the log has to keep the promises:
//! mail that was acknowledged is there once and unchanged, what is durably dead stays dead, what is durably terminal
//! stays terminal, nothing that was never appended appears, and opening twice finds the same.

use std::collections::{BTreeMap, HashMap};

use sternpost_message::{
    Diagnostic, EnhancedStatus, ErrorScope, MessageId, MessageSequence, Outcome, RecipientRange,
    RecipientState, UnixMillis,
};
use sternpost_queue::{
    Append, AppendError, AppendSet, Geometry, Lane, Log, LogEvent, MessageFacts, Parameters, PartialFacts,
    SEGMENT_OCTETS_MIN, inspect,
};

use crate::disk::FaultyDisk;
use crate::model::{Message, Model, envelope};
use crate::random::Random;

/// How a history differs from the ordinary one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The disk acknowledges writes that it has not made durable.
    pub lying_disk: bool,
}

/// What happened, to show that a history was worth its while.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Messages acknowledged.
    pub acknowledged: u64,
    /// Messages that died.
    pub dead: u64,
    /// Times that the power was cut.
    pub power_cuts: u64,
    /// Times that it was cut with a write under way.
    pub cuts_in_flight: u64,
    /// Times that the log was opened.
    pub opened: u64,
    /// Torn last batches that recovery dropped.
    pub torn: u64,
    /// Segments that were recovered by their index.
    pub segments_by_index: u64,
    /// Records that reclaim moved.
    pub moved: u64,
    /// Writes that failed.
    pub failed_writes: u64,
    /// Appends refused because the log was full.
    pub full: u64,
}

/// What a ticket stands for.
enum Ticket {
    Content(MessageId),
    Message(MessageId),
    Outcome,
    Discard(MessageId),
}

/// A large message on its way in.
struct Upload {
    id: MessageId,
    lane: Lane,
    next: usize,
}

struct Driver {
    random: Random,
    log: Option<Log<FaultyDisk>>,
    now: UnixMillis,
    model: Model,
    tickets: HashMap<u64, Ticket>,
    uploads: Vec<Upload>,
    next_ticket: u64,
    next_id: u64,
    summary: Summary,
    octets: usize,
}

const CHUNK: usize = 16_000;

/// Lives through the history of `seed`.
///
/// # Errors
/// The promise that was broken, in words.
pub fn history(seed: u64, options: Options) -> Result<Summary, String> {
    let mut random = Random::new(seed);
    let segment_octets = if seed % 16 == 15 { 1 << 20 } else { SEGMENT_OCTETS_MIN };
    let segments = u32::try_from(8 + random.below(5)).map_err(|error| error.to_string())?;
    let geometry = Geometry { segment_octets, segments };
    let octets = usize::try_from(geometry.octets()).map_err(|error| error.to_string())?;
    let mut disk =
        Log::create(FaultyDisk::new(octets, random.next()), geometry, [random.next().to_le_bytes()[0]; 16])
            .map_err(|error| error.to_string())?;
    if options.lying_disk {
        disk.lie();
    }
    let mut driver = Driver {
        random,
        log: None,
        now: UnixMillis(1_000_000),
        model: Model::default(),
        tickets: HashMap::new(),
        uploads: Vec::new(),
        next_ticket: 1,
        next_id: 1,
        summary: Summary::default(),
        octets,
    };
    driver.open(disk)?;
    for _ in 0..driver.random.below(500) + 300 {
        driver.step()?;
    }
    driver.cut_power()?;
    driver.settle()?;
    driver.check_all_content()?;
    driver.summary.moved += driver.log().status().moved_records;
    Ok(driver.summary)
}

impl Driver {
    fn log(&mut self) -> &mut Log<FaultyDisk> {
        self.log.as_mut().expect("a log is open between two restarts")
    }

    fn step(&mut self) -> Result<(), String> {
        self.now = self.now.plus_ms(self.random.below(30));
        match self.random.below(1000) {
            0..300 => self.append_message(),
            300..340 => self.begin_upload(),
            340..480 => self.go_on_with_upload()?,
            480..740 => self.append_outcome()?,
            740..760 => self.append_report(),
            760..770 => self.repeat_message(),
            770..780 => self.discard_partial(),
            780..960 => self.drive()?,
            960..970 => self.read_one()?,
            970..976 => {
                let writes = u32::from(self.random.chance(30)) + 1;
                self.log().disk_mut().fail(writes);
            }
            976..986 => self.cut_power()?,
            986..990 => self.end_process()?,
            _ => self.settle()?,
        }
        Ok(())
    }

    // What is appended.

    fn new_id(&mut self) -> MessageId {
        self.next_id += 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.random.next().to_le_bytes());
        id[8..].copy_from_slice(&self.next_id.to_le_bytes());
        MessageId(id)
    }

    /// Content: noise, or a true copy of what stands on the disk, batches and all.
    fn content(&mut self, octets: usize) -> Vec<u8> {
        if self.random.chance(30) {
            let pages = self.octets / 4096 - octets.div_ceil(4096) - 1;
            let offset = self.random.place(pages) * 4096;
            let shift = if self.random.chance(50) { 0 } else { self.random.place(4096) };
            return self.log().disk().octets_at(offset + shift, octets).to_vec();
        }
        self.random.octets(octets)
    }

    fn new_message(&mut self, octets: usize) -> MessageId {
        let id = self.new_id();
        let content = self.content(octets);
        let recipients = if self.random.chance(10) { 1 + self.random.place(40) } else { 1 };
        self.model.messages.insert(id, Message::new(content, recipients));
        id
    }

    fn chunks(message: &Message, id: MessageId) -> Vec<Append<'static>> {
        let chunks = message.content.chunks(CHUNK).zip(0..);
        chunks
            .map(|(octets, index)| Append::Content { message: id, index, octets: octets.to_vec().into() })
            .collect()
    }

    fn envelope(&self, id: MessageId, message: &Message) -> Append<'static> {
        Append::Envelope {
            message: id,
            envelope: envelope(message.states.len(), self.now),
            content_octets: message.content.len() as u64,
            content_sha256: message.sha256,
        }
    }

    fn append(&mut self, lane: Lane, records: Vec<Append<'static>>, ticket: Ticket) -> bool {
        let number = self.next_ticket;
        self.next_ticket += 1;
        let now = self.now;
        match self.log().append(now, lane, AppendSet { records }, number) {
            Ok(()) => {
                self.tickets.insert(number, ticket);
                true
            }
            Err(error) => {
                self.summary.full += u64::from(error == AppendError::Full);
                false
            }
        }
    }

    fn lane(&mut self) -> Lane {
        [Lane::Urgent, Lane::Normal, Lane::NonUrgent][self.random.place(3)]
    }

    fn append_message(&mut self) {
        let octets = self.random.place(if self.random.clone().chance(20) { 40_000 } else { 3000 });
        let id = self.new_message(octets);
        let message = &self.model.messages[&id];
        let mut records = Self::chunks(message, id);
        records.push(self.envelope(id, message));
        let lane = self.lane();
        if self.append(lane, records, Ticket::Message(id)) {
            self.model.appended(id);
        }
    }

    fn begin_upload(&mut self) {
        if self.uploads.len() < 3 {
            let octets = 20_000 + self.random.place(150_000);
            let id = self.new_message(octets);
            let lane = self.lane();
            self.uploads.push(Upload { id, lane, next: 0 });
        }
    }

    fn go_on_with_upload(&mut self) -> Result<(), String> {
        if self.uploads.is_empty() {
            return self.drive();
        }
        let at = self.random.place(self.uploads.len());
        let Upload { id, lane, next } = self.uploads[at];
        let message = &self.model.messages[&id];
        let chunks = Self::chunks(message, id);
        let envelope = self.envelope(id, message);
        let is_last = next + 1 >= chunks.len();
        let mut records: Vec<Append<'static>> = chunks.into_iter().skip(next).take(1).collect();
        let ticket = if is_last {
            records.push(envelope);
            Ticket::Message(id)
        } else {
            Ticket::Content(id)
        };
        let taken = self.append(lane, records, ticket);
        if is_last || !taken {
            self.uploads.swap_remove(at);
        } else {
            self.uploads[at].next += 1;
        }
        if is_last && taken {
            self.model.appended(id);
        }
        Ok(())
    }

    /// A client that did not hear the answer says it again.
    fn repeat_message(&mut self) {
        let Some(id) = self.model.any_accepted(&mut self.random) else { return };
        let message = &self.model.messages[&id];
        let mut records = Self::chunks(message, id);
        records.push(self.envelope(id, message));
        self.append(Lane::Normal, records, Ticket::Message(id));
    }

    fn append_outcome(&mut self) -> Result<(), String> {
        let Some((id, sequence)) = self.model.any_living(&mut self.random) else { return self.drive() };
        let recipients = self.model.messages[&id].states.len();
        let first = self.random.place(recipients);
        let count = 1 + self.random.place(recipients - first);
        let outcome = self.outcome();
        let range = RecipientRange {
            first: u32::try_from(first).map_err(|error| error.to_string())?,
            count: u32::try_from(count).map_err(|error| error.to_string())?,
        };
        let outcomes = vec![(range, outcome)];
        let records = vec![Append::Outcome { message: sequence, outcomes: outcomes.clone() }];
        if self.append(Lane::Outcome, records, Ticket::Outcome) {
            self.model.in_doubt(id, outcomes);
        }
        Ok(())
    }

    fn outcome(&mut self) -> Outcome {
        let text = format!("words of {}", self.random.next());
        let diagnostic = Diagnostic::own(EnhancedStatus::new(2, 0, 0), &text);
        match self.random.below(10) {
            0..4 => Outcome::Delivered(diagnostic),
            4..6 => Outcome::Transferred(diagnostic),
            6 => Outcome::Failed(diagnostic),
            7 => Outcome::Discarded { why: text },
            8 => Outcome::Reported { report: None, why: text },
            _ => Outcome::Deferred { scope: ErrorScope::Message, diagnostic },
        }
    }

    /// A report and the fact that it was made commit together.
    fn append_report(&mut self) {
        let Some((id, sequence, recipient)) = self.model.any_failed(&mut self.random) else { return };
        let report = self.new_message(500);
        let message = &self.model.messages[&report];
        let mut records = Self::chunks(message, report);
        records.push(self.envelope(report, message));
        let outcome = Outcome::Reported { report: Some(report), why: String::new() };
        let outcomes = vec![(RecipientRange { first: recipient, count: 1 }, outcome)];
        records.push(Append::Outcome { message: sequence, outcomes: outcomes.clone() });
        if self.append(Lane::Outcome, records, Ticket::Message(report)) {
            self.model.appended(report);
            self.model.reports(id, report, recipient);
            self.model.in_doubt(id, outcomes);
        }
    }

    fn discard_partial(&mut self) {
        // A chunk that still waits in another lane would begin the partial message anew.
        let mut busy: Vec<MessageId> = self.uploads.iter().map(|upload| upload.id).collect();
        busy.extend(self.tickets.values().filter_map(|ticket| match ticket {
            Ticket::Content(id) | Ticket::Message(id) => Some(*id),
            Ticket::Outcome | Ticket::Discard(_) => None,
        }));
        let partial = self.log().partials().map(|partial| partial.message).find(|id| !busy.contains(id));
        if let Some(message) = partial {
            self.append(Lane::Outcome, vec![Append::DiscardPartial { message }], Ticket::Discard(message));
        }
    }

    // What happens then.

    fn drive(&mut self) -> Result<(), String> {
        let now = self.now;
        self.log().drive(now);
        self.take_events()
    }

    /// Drives until all is answered.
    fn settle(&mut self) -> Result<(), String> {
        for _ in 0..2000 {
            self.now = self.now.plus_ms(100);
            self.drive()?;
            if self.tickets.is_empty() && !self.log().is_writing() {
                return Ok(());
            }
        }
        Err(format!("{} sets are never answered: {:?}", self.tickets.len(), self.log().status()))
    }

    fn take_events(&mut self) -> Result<(), String> {
        while let Some(event) = self.log().poll() {
            match event {
                LogEvent::Accepted { sequence, facts } => self.model.accepted(facts.id, sequence)?,
                LogEvent::Outcome { sequence, outcomes } => self.model.changed(sequence, &outcomes)?,
                LogEvent::Dead { sequence } => {
                    self.summary.dead += 1;
                    self.model.died(sequence)?;
                }
                LogEvent::Committed { ticket } => self.committed(ticket)?,
                LogEvent::Refused { ticket, error } => self.refused(ticket, &error)?,
                LogEvent::Alarm(_) => {}
            }
        }
        Ok(())
    }

    fn committed(&mut self, ticket: u64) -> Result<(), String> {
        self.model.refusals_are_final();
        match self.tickets.remove(&ticket).ok_or_else(|| format!("ticket {ticket} is answered twice"))? {
            Ticket::Message(id) => {
                self.summary.acknowledged += 1;
                self.model.acknowledged(id)
            }
            Ticket::Outcome | Ticket::Content(_) => Ok(()),
            Ticket::Discard(id) => {
                let is_there = self.log().partials().any(|partial| partial.message == id);
                if is_there { Err(format!("{id} was discarded and is there")) } else { Ok(()) }
            }
        }
    }

    fn refused(&mut self, ticket: u64, error: &AppendError) -> Result<(), String> {
        let ticket =
            self.tickets.remove(&ticket).ok_or_else(|| format!("ticket {ticket} is answered twice"))?;
        match ticket {
            Ticket::Message(id) => self.model.refused(id),
            Ticket::Content(_) => {}
            // A refused outcome may still be found on the disk after a restart; until then nothing came of it.
            Ticket::Outcome | Ticket::Discard(_) => {}
        }
        if matches!(error, AppendError::Disk(_)) {
            self.summary.failed_writes += 1;
        }
        Ok(())
    }

    fn read_one(&mut self) -> Result<(), String> {
        let Some((id, sequence)) = self.model.any_living(&mut self.random) else { return Ok(()) };
        let message = self.model.messages[&id].clone();
        self.check_content(sequence, &message)
    }

    fn check_content(&mut self, sequence: MessageSequence, message: &Message) -> Result<(), String> {
        let mut octets = vec![0; message.content.len() + 1];
        let mut done = 0;
        loop {
            let piece = (1 + self.random.place(20_000)).min(octets.len() - done);
            let target = &mut octets[done..done + piece];
            let log = self.log.as_mut().expect("a log is open between two restarts");
            let read = log.read_content(sequence, done as u64, target);
            match read.map_err(|error| format!("content of {sequence}: {error}"))? {
                0 => break,
                count => done += count,
            }
        }
        if octets[..done] == message.content[..] {
            Ok(())
        } else {
            Err(format!("content of {sequence} is not what came in"))
        }
    }

    fn check_all_content(&mut self) -> Result<(), String> {
        for (id, sequence) in self.model.living() {
            let message = self.model.messages[&id].clone();
            self.check_content(sequence, &message)?;
        }
        Ok(())
    }

    fn cut_power(&mut self) -> Result<(), String> {
        self.summary.power_cuts += 1;
        self.summary.cuts_in_flight += u64::from(self.log().is_writing());
        self.summary.moved += self.log().status().moved_records;
        let mut disk = self.log.take().expect("a log is open between two restarts").into_disk();
        disk.cut_power();
        self.open(disk)
    }

    fn end_process(&mut self) -> Result<(), String> {
        self.summary.moved += self.log().status().moved_records;
        let mut disk = self.log.take().expect("a log is open between two restarts").into_disk();
        disk.end_process();
        self.open(disk)
    }

    /// Opens the log and compares what it finds with what was promised.
    fn open(&mut self, disk: FaultyDisk) -> Result<(), String> {
        self.summary.opened += 1;
        self.tickets.clear();
        self.uploads.clear();
        let mut disk = disk;
        let read_only = inspect(ByReference(&mut disk), &mut |_| {}).map_err(|error| error.to_string())?;
        let seen: Vec<MessageFacts> = read_only.messages().collect();
        let seen_partials = by_name(read_only.partials());
        let parameters = Parameters { recent_content_octets_max: 100_000, ..Parameters::default() };
        let (log, report) = Log::open(disk, parameters, self.now).map_err(|error| error.to_string())?;
        self.summary.torn += u64::from(report.torn_tail.is_some());
        if !report.damage.is_empty() || !report.damaged_messages.is_empty() {
            return Err(format!("recovery found damage where none was done: {report:?}"));
        }
        let found: Vec<MessageFacts> = log.messages_from(MessageSequence(0)).collect();
        // One has read every batch, the other one the indexes.
        if found != seen || by_name(log.partials()) != seen_partials {
            return Err("two recoveries of one disk found different mail".to_owned());
        }
        self.summary.segments_by_index += report.segments_by_index;
        self.log = Some(log);
        let mut details = BTreeMap::new();
        for facts in found {
            let detail =
                self.log().message(facts.sequence).map_err(|error| format!("{}: {error}", facts.id))?;
            let detail = detail.ok_or_else(|| format!("{} lives and is not there", facts.id))?;
            details.insert(facts.id, detail);
        }
        let partials: Vec<MessageId> = self.log().partials().map(|partial| partial.message).collect();
        self.model.recovered(&details, &partials)?;
        if self.random.chance(25) {
            self.check_all_content()?;
        }
        Ok(())
    }
}

fn by_name(partials: impl Iterator<Item = PartialFacts>) -> BTreeMap<MessageId, PartialFacts> {
    partials.map(|partial| (partial.message, partial)).collect()
}

/// Lends a disk to an inspection.
struct ByReference<'a>(&'a mut FaultyDisk);

impl sternpost_queue::Disk for ByReference<'_> {
    fn octets(&self) -> u64 {
        self.0.octets()
    }

    fn block_octets(&self) -> u32 {
        self.0.block_octets()
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), sternpost_queue::DiskError> {
        self.0.read(offset, into)
    }

    fn start_write(
        &mut self,
        _: u64,
        _: sternpost_queue::AlignedBuffer,
    ) -> Result<(), sternpost_queue::DiskError> {
        panic!("an inspection wrote")
    }

    fn finish_write(
        &mut self,
    ) -> Option<(sternpost_queue::AlignedBuffer, Result<(), sternpost_queue::DiskError>)> {
        panic!("an inspection wrote")
    }

    fn write_now(
        &mut self,
        _: u64,
        _: &sternpost_queue::AlignedBuffer,
    ) -> Result<(), sternpost_queue::DiskError> {
        panic!("an inspection wrote")
    }
}

/// Whether nothing remains to be done.
pub(crate) fn is_over(states: &[RecipientState]) -> bool {
    states.iter().all(|state| state.is_terminal())
}
