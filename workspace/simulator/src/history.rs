//! A whole life of a log from one seed: mail, outcomes, large content, restarts, cut power, every fault of the disk, reclaim.
//!
//! Beside the log runs a model of what was promised. Whatever the disk does, the log has to keep the promises: they stand in
//! `invariants`. Here one process drives the log itself; the whole switch around it lives in [`switch`](crate::switch).

mod summary;

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use sternpost_message::{
    Diagnostic, EnhancedStatus, ErrorScope, MessageId, MessageSequence, Outcome, RecipientRange, UnixMillis,
};
use sternpost_queue::{
    Alarm, Append, AppendError, AppendSet, Geometry, Lane, Log, LogEvent, OpenError, Parameters,
    RecoveryReport, SEGMENT_OCTETS_MIN,
};

use crate::disk::{Closed, FaultyDisk, Habits, Medium, WriteFault};
use crate::format;
use crate::invariants;
use crate::ledger::Ledger;
use crate::model::{Message, Model, ReportOf, envelope};
use crate::opening;
use crate::random::Random;
use crate::trace::{Trace, Tracing};
use crate::wear;
pub use summary::Summary;

/// How a history differs from the ordinary one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The disk is not as good as it should be: what the tests of the test are about.
    pub habits: Habits,
    /// Which lines are wanted of what happens.
    pub tracing: Tracing,
}

/// What a ticket stands for.
enum Ticket {
    Content(MessageId),
    Message(MessageId, Option<(MessageId, Vec<(RecipientRange, Outcome)>)>),
    Outcome(MessageId, Vec<(RecipientRange, Outcome)>),
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
    medium: Medium,
    ledger: Ledger,
    log: Option<Log<FaultyDisk>>,
    now: UnixMillis,
    model: Model,
    tickets: HashMap<u64, Ticket>,
    uploads: Vec<Upload>,
    next_ticket: u64,
    next_id: u64,
    summary: Summary,
    trace: Trace,
    /// The disk damages what it has made durable.
    is_harmful: bool,
}

const CHUNK: usize = 16_000;

fn parameters() -> Parameters {
    Parameters { recent_content_octets_max: 100_000, ..Parameters::default() }
}

/// Openings that find a sector unreadable, a second apart, until the store does without it.
const OPENINGS_MAX: u32 = 8;

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
    let medium = Medium::new(octets, random.next());
    let disk = medium.open().map_err(|closed| format!("a new disk is {closed:?}"))?;
    let disk = Log::create(disk, geometry, [random.next().to_le_bytes()[0]; 16])
        .map_err(|error| error.to_string())?;
    drop(disk);
    medium.set_habits(options.habits);
    let is_harmful = random.chance(50);
    let mut driver = Driver {
        random,
        medium,
        ledger: Ledger::default(),
        log: None,
        now: UnixMillis(1_000_000),
        model: Model { alarmed: Some(BTreeSet::new()), ..Model::default() },
        tickets: HashMap::new(),
        uploads: Vec::new(),
        next_ticket: 1,
        next_id: 1,
        summary: Summary::default(),
        trace: Trace::new(options.tracing),
        is_harmful,
    };
    match driver.live() {
        Ok(()) => Ok(driver.summary),
        Err(why) => {
            let lines: Vec<String> = driver.trace.into_lines().collect();
            Err(if lines.is_empty() { why } else { format!("{}\n{why}", lines.join("\n")) })
        }
    }
}

impl Driver {
    fn live(&mut self) -> Result<(), String> {
        self.open()?;
        for _ in 0..self.random.below(500) + 300 {
            self.step()?;
        }
        self.medium.heal();
        self.cut_power()?;
        self.settle()?;
        self.check_all_content()?;
        self.summary.moved += self.log().status().moved_records;
        self.summary.histories = 1;
        self.summary.faults = self.medium.counts();
        self.summary.hit = self.model.messages.values().filter(|message| message.is_hit).count() as u64;
        Ok(())
    }

    fn log(&mut self) -> &mut Log<FaultyDisk> {
        self.log.as_mut().expect("a log is open between two restarts")
    }

    fn step(&mut self) -> Result<(), String> {
        self.pass(self.random.clone().below(30));
        match self.random.below(1000) {
            0..300 => self.append_message(),
            300..340 => self.begin_upload(),
            340..480 => self.go_on_with_upload()?,
            480..740 => self.append_outcome()?,
            740..760 => self.append_report(),
            760..770 => self.repeat_message(),
            770..780 => self.discard_partial(),
            780..950 => self.drive()?,
            950..960 => self.read_one()?,
            960..976 => self.trouble()?,
            976..986 => self.cut_power()?,
            986..990 => self.end_process()?,
            _ => self.settle()?,
        }
        Ok(())
    }

    /// Time goes on, for the device too.
    fn pass(&mut self, ms: u64) {
        self.now = self.now.plus_ms(ms);
        self.medium.advance(self.now);
        self.take_landed();
    }

    fn take_landed(&mut self) {
        let (landed, harmed) = self.medium.take_landed();
        for write in &landed {
            let spoken = self.ledger.wrote(write);
            self.trace.note(self.now, || {
                let (offset, octets) = (write.offset, write.octets.len());
                let headers: Vec<_> = format::read_write(&write.octets)
                    .batches
                    .iter()
                    .map(|batch| (batch.use_number, batch.sequence, batch.start_use))
                    .collect();
                format!(
                    "landed {octets} at {offset}, certain: {}, (use, sequence, start) {headers:?}: {}",
                    write.is_certain,
                    format::speech(&spoken)
                )
            });
        }
        for place in harmed {
            self.harm(&place);
        }
    }

    // What goes wrong.

    fn trouble(&mut self) -> Result<(), String> {
        let trouble = self.random.below(if self.is_harmful { 16 } else { 11 });
        self.trace.note(self.now, || format!("trouble {trouble}"));
        match trouble {
            0..3 => {
                let fault = [WriteFault::Torn, WriteFault::Sync, WriteFault::Full][self.random.place(3)];
                for _ in 0..=u64::from(self.random.chance(30)) {
                    self.medium.arm(fault);
                }
            }
            3..5 => self.medium.arm(WriteFault::Sync),
            5 => self.medium.arm(WriteFault::Stall(1000 + self.random.below(60_000))),
            6 => self.medium.fail_for_ever(true),
            7..10 => self.medium.fail_for_ever(false),
            10 => drop(wear::fail_reads(&mut self.random, &self.ledger, &self.medium, false)),
            11..13 => self.medium.arm(WriteFault::Misdirected),
            13 => {
                let place = wear::rot(&mut self.random, &self.ledger, &self.medium);
                self.harm_if(place);
            }
            14 => {
                let place = wear::rot_superblock(&mut self.random, &self.medium);
                self.harm_if(place);
            }
            _ => {
                let place = wear::fail_reads(&mut self.random, &self.ledger, &self.medium, true);
                self.harm_if(place);
            }
        }
        Ok(())
    }

    /// A place was damaged, or none.
    fn harm_if(&mut self, place: Option<Range<u64>>) {
        if let Some(place) = place {
            self.harm(&place);
        }
    }

    fn harm(&mut self, place: &Range<u64>) {
        let hit = self.ledger.harm(place);
        self.trace.note(self.now, || format!("harm at {place:?}: {hit:?}"));
        self.model.hit(hit.messages, hit.is_tail);
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
            let pages = self.medium.octets() / 4096 - octets.div_ceil(4096) - 1;
            let offset = self.random.place(pages) * 4096;
            let shift = if self.random.chance(50) { 0 } else { self.random.place(4096) };
            return self.medium.octets_at(offset + shift, octets);
        }
        self.random.octets(octets)
    }

    fn new_message(&mut self, octets: usize) -> MessageId {
        let id = self.new_id();
        let content = self.content(octets);
        let recipients = if self.random.chance(10) { 1 + self.random.place(40) } else { 1 };
        let envelope = envelope(recipients, self.now);
        self.model.messages.insert(id, Message::new(content, envelope));
        id
    }

    fn chunks(message: &Message, id: MessageId) -> Vec<Append<'static>> {
        let chunks = message.content.chunks(CHUNK).zip(0..);
        chunks
            .map(|(octets, index)| Append::Content { message: id, index, octets: octets.to_vec().into() })
            .collect()
    }

    fn envelope(id: MessageId, message: &Message) -> Append<'static> {
        Append::Envelope {
            message: id,
            envelope: message.envelope.clone(),
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
        records.push(Self::envelope(id, message));
        let lane = self.lane();
        if self.append(lane, records, Ticket::Message(id, None)) {
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
        let envelope = Self::envelope(id, message);
        let is_last = next + 1 >= chunks.len();
        let mut records: Vec<Append<'static>> = chunks.into_iter().skip(next).take(1).collect();
        let ticket = if is_last {
            records.push(envelope);
            Ticket::Message(id, None)
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
        records.push(Self::envelope(id, message));
        self.append(Lane::Normal, records, Ticket::Message(id, None));
    }

    fn append_outcome(&mut self) -> Result<(), String> {
        let Some((id, sequence)) = self.model.any_living(&mut self.random) else { return self.drive() };
        let recipients = self.model.messages[&id].recorded.len();
        let first = self.random.place(recipients);
        let count = 1 + self.random.place(recipients - first);
        let outcome = self.outcome();
        let range = RecipientRange {
            first: u32::try_from(first).map_err(|error| error.to_string())?,
            count: u32::try_from(count).map_err(|error| error.to_string())?,
        };
        let outcomes = vec![(range, outcome)];
        let records = vec![Append::Outcome { message: sequence, outcomes: outcomes.clone() }];
        if self.append(Lane::Outcome, records, Ticket::Outcome(id, outcomes.clone())) {
            self.model.in_doubt(id, &outcomes);
        }
        Ok(())
    }

    fn outcome(&mut self) -> Outcome {
        let text = format!("words of {}", self.random.next());
        let diagnostic = Diagnostic::own(EnhancedStatus::new(2, 0, 0), &text);
        match self.random.below(10) {
            0..3 => Outcome::Delivered(diagnostic),
            3 => Outcome::DeliveredReportOwed(diagnostic),
            4 => Outcome::RelayedReportOwed(diagnostic),
            5 => Outcome::Transferred(diagnostic),
            6 => Outcome::Failed(diagnostic),
            7 => Outcome::Discarded { why: text },
            8 => Outcome::Reported { report: None, why: text },
            _ => Outcome::Deferred { scope: ErrorScope::Message, diagnostic },
        }
    }

    /// A report and the fact that it was made commit together.
    fn append_report(&mut self) {
        let Some((id, sequence, recipient)) = self.model.any_owed_report(&mut self.random) else { return };
        let report = self.new_message(500);
        let message = &self.model.messages[&report];
        let mut records = Self::chunks(message, report);
        records.push(Self::envelope(report, message));
        let outcome = Outcome::Reported { report: Some(report), why: String::new() };
        let first = u32::try_from(recipient).expect("an envelope has few recipients");
        let outcomes = vec![(RecipientRange { first, count: 1 }, outcome)];
        records.push(Append::Outcome { message: sequence, outcomes: outcomes.clone() });
        if self.append(Lane::Outcome, records, Ticket::Message(report, Some((id, outcomes.clone())))) {
            self.model.appended(report);
            self.model.reports(report, vec![ReportOf { message: id, recipient, is_delay: false }]);
            self.model.in_doubt(id, &outcomes);
        }
    }

    fn discard_partial(&mut self) {
        // A chunk that still waits in another lane would begin the partial message anew.
        let mut busy: Vec<MessageId> = self.uploads.iter().map(|upload| upload.id).collect();
        busy.extend(self.tickets.values().filter_map(|ticket| match ticket {
            Ticket::Content(id) | Ticket::Message(id, _) => Some(*id),
            Ticket::Outcome(..) | Ticket::Discard(_) => None,
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
        self.take_landed();
        self.take_events()
    }

    /// Drives until all is answered.
    fn settle(&mut self) -> Result<(), String> {
        for _ in 0..2000 {
            let until = self.medium.wake_at().map_or(100, |at| at.since_ms(self.now).max(100));
            self.pass(until);
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
                LogEvent::Alarm(Alarm::Unreadable { message, .. } | Alarm::EnvelopeLost { message, .. }) => {
                    self.alarm(message)?;
                }
                LogEvent::Alarm(_) => {}
            }
        }
        Ok(())
    }

    fn committed(&mut self, ticket: u64) -> Result<(), String> {
        self.model.refusals_are_final();
        match self.tickets.remove(&ticket).ok_or_else(|| format!("ticket {ticket} is answered twice"))? {
            Ticket::Message(id, of) => {
                self.summary.acknowledged += 1;
                if let Some((of, outcomes)) = of {
                    self.model.no_longer_in_doubt(of, &outcomes);
                }
                self.model.acknowledged(id)
            }
            Ticket::Outcome(id, outcomes) => {
                self.model.no_longer_in_doubt(id, &outcomes);
                Ok(())
            }
            Ticket::Content(_) => Ok(()),
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
            Ticket::Message(id, _) => self.model.refused(id),
            // A refused outcome may still be found on the disk after a restart; until then nothing came of it.
            Ticket::Content(_) | Ticket::Outcome(..) | Ticket::Discard(_) => {}
        }
        if matches!(error, AppendError::Disk(_)) {
            self.summary.failed_writes += 1;
        }
        Ok(())
    }

    /// The log itself has found that something of a message is lost.
    fn alarm(&mut self, id: MessageId) -> Result<(), String> {
        self.model.alarmed.get_or_insert_default().insert(id);
        let message = self.model.get(id)?;
        if message.is_hit { Ok(()) } else { Err(format!("{id} is said to be lost and was not hit")) }
    }

    fn read_one(&mut self) -> Result<(), String> {
        let Some((id, sequence)) = self.model.any_living(&mut self.random) else { return Ok(()) };
        let message = self.model.messages[&id].clone();
        self.check_content(id, sequence, &message)
    }

    fn check_content(
        &mut self,
        id: MessageId,
        sequence: MessageSequence,
        message: &Message,
    ) -> Result<(), String> {
        let log = self.log.as_mut().expect("a log is open between two restarts");
        if message.is_hit && log.find(id) != Some(sequence) {
            return Ok(());
        }
        opening::invariant_content_is_what_came_in(log, &mut self.random, sequence, message)
    }

    fn check_all_content(&mut self) -> Result<(), String> {
        for (id, sequence) in self.model.living() {
            let message = self.model.messages[&id].clone();
            self.check_content(id, sequence, &message)?;
        }
        Ok(())
    }

    // Ends and beginnings.

    fn cut_power(&mut self) -> Result<(), String> {
        self.summary.power_cuts += 1;
        self.summary.cuts_in_flight += u64::from(self.log().is_writing());
        self.trace.note(self.now, || "the power is cut");
        self.end();
        self.medium.cut_power();
        self.take_landed();
        self.open()
    }

    fn end_process(&mut self) -> Result<(), String> {
        self.summary.kills += 1;
        self.trace.note(self.now, || "the process is killed");
        self.end();
        self.open()
    }

    fn end(&mut self) {
        self.summary.moved += self.log().status().moved_records;
        self.log = None;
        self.tickets.clear();
        self.uploads.clear();
    }

    /// The device, once the last write of the last process has ended and it syncs.
    fn device(&mut self) -> FaultyDisk {
        loop {
            match self.medium.open() {
                Ok(disk) => return disk,
                Err(Closed::Locked) => {
                    let until = self.medium.wake_at().map_or(1, |at| at.since_ms(self.now));
                    self.pass(until);
                }
                // Somebody has put the cable right.
                Err(Closed::Sync) => self.medium.fail_for_ever(false),
            }
        }
    }

    /// Opens the log as the store does: a disk that does not read is tried again, and at last done without.
    fn open_log(&mut self) -> Result<(Log<FaultyDisk>, RecoveryReport), String> {
        let mut parameters = parameters();
        for opening in 1.. {
            parameters.isolates_unreadable = opening >= OPENINGS_MAX;
            let disk = self.device();
            match Log::open(disk, parameters, self.now) {
                Err(OpenError::Disk(_)) if opening < OPENINGS_MAX => self.pass(1000),
                opened => return opened.map_err(|error| error.to_string()),
            }
        }
        Err("there are enough numbers".to_owned())
    }

    /// Opens the log and compares what it finds with what was promised.
    fn open(&mut self) -> Result<(), String> {
        self.summary.opened += 1;
        let (mut log, report) = self.open_log()?;
        self.summary.torn += u64::from(report.torn_tail.is_some());
        self.trace.note(self.now, || format!("opened: {report:?}"));
        let found = opening::found(&mut log, report)?;
        self.log = Some(log);
        self.summary.segments_by_index += found.report.segments_by_index;
        invariants::after_opening(&self.model, &found)?;
        opening::invariant_indexes_say_what_records_say(&self.medium, &self.model, &found)?;
        if self.random.chance(25) {
            opening::invariant_recovery_is_idempotent(&self.medium, &found, parameters(), self.now)?;
        }
        self.model.adopt(&found, &BTreeSet::new());
        if self.random.chance(25) {
            self.check_all_content()?;
        }
        Ok(())
    }
}
