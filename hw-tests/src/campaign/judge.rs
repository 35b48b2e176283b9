//! What a log must be after a cut, and whether it is.
//!
//! | rule | why it is sound |
//! |---|---|
//! | a recipient that has an accepted mark is pending in a living message, or has a received mark | the outcome that ends it is written after the next hop's reply, and that after the mark |
//! | a recipient that is done on the disk has a received mark | the same, from the other side |
//! | each living message is whole: by the SHA-256 of its envelope, and by the one that its sender wrote into it | |
//! | no two living messages have one load id | no process dies while the history is recorded: what is sent again was refused, and what was refused is void |
//! | nothing is damaged, nothing lives that no source has sent | |
//! | what lived in a durable state and not in a later one is not alive at any cut behind that, and who was done is not pending again | states follow the order of the log; one that is durable is the past of every later cut |
//! | reading, opening, opening again, and opening after the log has gone on find the same | |
//!
//! A durable state is what a cut leaves that loses all that no flush covers, if the last write before it went well
//! ([`crate::campaign::history::History::ends_well`]). Every later cut has at least this.

use crate::campaign::ZONE;
use crate::campaign::marks::Marks;
use crate::recording::Pair;
use crate::replay::Image;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use sternpost_load::content::{Inspector, Integrity};
use sternpost_message::{Envelope, MessageId, MessageSequence, RecipientState, UnixMillis, chain, sample};
use sternpost_queue::{
    Alarm, Append, AppendError, AppendSet, CHUNK_OCTETS_MAX, Damage, DamagedPart, Disk, Inspection, Lane,
    Log, LogEvent, MessageDetail, MessageFacts, OpenError, Parameters, ReadError, RecoveryReport, inspect,
    is_marked_head,
};

/// The time of every recovery, in the year 2096. Nothing that is judged depends on it.
const NOW: UnixMillis = UnixMillis(4_000_000_000_000);
/// No content without envelope is swept, whenever it was written. In the year 35,000 or so.
const PARTIAL_TIMEOUT_MS: u64 = 1 << 50;
/// The message with which the log goes on after a recovery.
const PROBE: MessageId = MessageId([0x5a; 16]);
const PROBE_OCTETS: usize = 5000;
/// The log moves survivors while it goes on, batch by batch; so many are more than it has segments' worth of.
const TURNS_MAX: u32 = 1000;

/// What is wrong after a cut.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// There was a log, or mail was accepted, and there is none now.
    #[error("there is no log any more")]
    NoLog(#[source] OpenError),
    /// Recovery found a place that does not hold what was written.
    #[error("{} octets at {} are damaged ({})", .0.octets, .0.offset, .0.what)]
    Damaged(Damage),
    /// Recovery found a message of which a part is missing.
    #[error("message {0} ({1}) is there in part")]
    InPart(MessageSequence, MessageId),
    /// A living message cannot be read.
    #[error("message {0} cannot be read")]
    Unreadable(MessageSequence, #[source] ReadError),
    /// It is not what was sent.
    #[error("message {0} is not whole")]
    NotWhole(MessageSequence),
    /// Nobody has sent it.
    #[error("message {0} has no load id")]
    Stranger(MessageSequence),
    /// Accepted, not received, and not to be tried any more.
    #[error("LOST: {} for {} was accepted, no next hop had received it, and it is not pending", .0.0, .0.1)]
    Lost(Pair),
    /// Done before anybody had it.
    #[error("{} for {} is done on the disk, and no next hop had received it", .0.0, .0.1)]
    DoneTooEarly(Pair),
    /// Two messages live that were one.
    #[error("{0} lives twice")]
    Twice(String),
    /// It was not in a durable state any more.
    #[error("message {0} ({1}) was gone and durably so, and lives again")]
    Risen(MessageSequence, MessageId),
    /// A recipient had been done in a durable state.
    #[error("recipient {1} of message {0} was done and durably so, and is pending again")]
    PendingAgain(MessageSequence, usize),
    /// A second look differs from the first.
    #[error("{0} finds another state than reading it")]
    Differs(&'static str),
    /// The log does not go on.
    #[error("the log does not take mail after its recovery: {0}")]
    Stuck(String),
}

/// A living message.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Living {
    facts: MessageFacts,
    detail: MessageDetail,
    /// CRC32C of its content, by which one look is compared with another.
    content_crc: u32,
}

/// What its content says of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    load_id: Option<String>,
    /// Its body is what its sender made.
    is_intact: bool,
}

/// What a log says that lives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    living: BTreeMap<MessageSequence, Living>,
    /// Content without an envelope: message and octets.
    partials: BTreeSet<(MessageId, u64)>,
}

/// A log that was opened, for reading or for writing.
trait Opened {
    fn list(&self) -> Vec<MessageFacts>;
    fn partials(&self) -> BTreeSet<(MessageId, u64)>;
    fn detail(&mut self, sequence: MessageSequence) -> Result<Option<MessageDetail>, ReadError>;
    fn content(
        &mut self,
        sequence: MessageSequence,
        offset: u64,
        into: &mut [u8],
    ) -> Result<usize, ReadError>;
}

impl<D: Disk> Opened for Inspection<D> {
    fn list(&self) -> Vec<MessageFacts> {
        self.messages().collect()
    }

    fn partials(&self) -> BTreeSet<(MessageId, u64)> {
        self.partials().map(|partial| (partial.message, partial.octets)).collect()
    }

    fn detail(&mut self, sequence: MessageSequence) -> Result<Option<MessageDetail>, ReadError> {
        self.message(sequence)
    }

    fn content(
        &mut self,
        sequence: MessageSequence,
        offset: u64,
        into: &mut [u8],
    ) -> Result<usize, ReadError> {
        self.read_content(sequence, offset, into)
    }
}

impl<D: Disk> Opened for Log<D> {
    fn list(&self) -> Vec<MessageFacts> {
        self.messages_from(MessageSequence(0)).collect()
    }

    fn partials(&self) -> BTreeSet<(MessageId, u64)> {
        self.partials().map(|partial| (partial.message, partial.octets)).collect()
    }

    fn detail(&mut self, sequence: MessageSequence) -> Result<Option<MessageDetail>, ReadError> {
        self.message(sequence)
    }

    fn content(
        &mut self,
        sequence: MessageSequence,
        offset: u64,
        into: &mut [u8],
    ) -> Result<usize, ReadError> {
        self.read_content(sequence, offset, into)
    }
}

impl State {
    /// Looks at everything. `content` sees the content of each message, piece by piece, and an empty piece at its end.
    fn of(
        log: &mut impl Opened,
        content: &mut dyn FnMut(&MessageDetail, &[u8]),
        faults: &mut Vec<Fault>,
    ) -> Self {
        let mut state = Self { partials: log.partials(), ..Self::default() };
        for facts in log.list() {
            let sequence = facts.sequence;
            match Living::read(log, facts, content) {
                Ok(living) => {
                    state.living.insert(sequence, living);
                }
                Err(error) => faults.push(Fault::Unreadable(sequence, error)),
            }
        }
        state
    }
}

impl Living {
    fn read(
        log: &mut impl Opened,
        facts: MessageFacts,
        content: &mut dyn FnMut(&MessageDetail, &[u8]),
    ) -> Result<Self, ReadError> {
        let sequence = facts.sequence;
        let detail = log.detail(sequence)?.ok_or(ReadError::Unknown(sequence))?;
        let content_crc = Self::read_content(log, &detail, content);
        content(&detail, &[]);
        Ok(Self { facts, detail, content_crc: content_crc? })
    }

    fn read_content(
        log: &mut impl Opened,
        detail: &MessageDetail,
        content: &mut dyn FnMut(&MessageDetail, &[u8]),
    ) -> Result<u32, ReadError> {
        let mut piece = vec![0; CHUNK_OCTETS_MAX];
        let (mut offset, mut crc) = (0, 0);
        while offset < detail.content_octets {
            let count = log.content(detail.sequence, offset, &mut piece)?;
            if count == 0 {
                return Err(ReadError::Missing(detail.sequence));
            }
            crc = crc32c::crc32c_append(crc, &piece[..count]);
            content(detail, &piece[..count]);
            offset += count as u64;
        }
        Ok(crc)
    }

    /// Its recipients as sources and sinks name them, and whether they are still to be handed on.
    fn recipients(&self) -> impl Iterator<Item = (String, bool)> {
        let recipients = self.detail.envelope.recipients.iter().zip(&self.detail.states);
        recipients.map(|(recipient, record)| {
            (recipient.address.to_string(), record.state == RecipientState::Pending)
        })
    }
}

/// Reads contents to their end. What a content tells is read once: whatever has the same SHA-256 tells the same.
#[derive(Debug, Default)]
struct Reader {
    told: HashMap<[u8; 32], Told>,
    hash: Sha256,
    inspector: Option<Inspector>,
    not_whole: Vec<MessageSequence>,
}

impl Reader {
    fn take(&mut self, detail: &MessageDetail, piece: &[u8]) {
        let is_known = self.told.contains_key(&detail.content_sha256);
        let inspector = || Inspector::new(true, false);
        if !piece.is_empty() {
            self.hash.update(piece);
            if !is_known {
                self.inspector.get_or_insert_with(inspector).take(piece);
            }
            return;
        }
        let sha256: [u8; 32] = std::mem::take(&mut self.hash).finalize().into();
        let inspected = self.inspector.take().unwrap_or_else(inspector).finish();
        if sha256 != detail.content_sha256 {
            self.not_whole.push(detail.sequence);
        } else if !is_known {
            let is_intact = inspected.integrity == Integrity::Intact;
            self.told.insert(sha256, Told { load_id: inspected.load_id, is_intact });
        }
    }
}

/// What durable states have shown so far. By the messages' ids: the sequence of a message that was refused is given again.
#[derive(Clone, Debug, Default)]
struct Past {
    /// What lived in the last one: which recipients were done.
    living: BTreeMap<MessageId, Vec<bool>>,
    /// What lived in one and not in a later one: dead, or refused and void.
    gone: HashSet<MessageId>,
}

/// What was found after a cut in which nothing is wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Messages that live.
    pub living_count: usize,
    /// Accepted marks in the image.
    pub accepted_count: usize,
    /// Those without a received mark.
    pub owed_count: usize,
    /// Whether the log took mail after its recovery; otherwise it had no room.
    pub went_on: bool,
}

/// Judges the cuts of one history, from its begin to its end.
#[derive(Debug, Default)]
pub struct Judge {
    reader: Reader,
    past: Past,
    /// A durable state had a log.
    had_log: bool,
    /// A durable state had both superblocks.
    had_superblocks: bool,
}

impl Judge {
    /// Judges what a cut left, and writes to it on the way. `is_durable`: it is a durable state.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn judge(&mut self, image: &mut Image, is_durable: bool) -> Result<Seen, Vec<Fault>> {
        let marks = marks_of(image);
        let mut faults = Vec::new();
        // The switch makes its log of a blank device, and takes no mail before.
        let may_be_blank = !self.had_log && marks.accepted.is_empty() && is_blank(image);
        let mut inspection = match inspect(&mut *image, &mut |_| {}) {
            Ok(inspection) => inspection,
            Err(OpenError::NoLog) if may_be_blank => return Ok(Seen::default()),
            Err(error) => return Err(vec![Fault::NoLog(error)]),
        };
        let has_superblocks = self.look_at_damage(inspection.report(), &marks, &mut faults);
        let reader = &mut self.reader;
        let state = State::of(&mut inspection, &mut |detail, piece| reader.take(detail, piece), &mut faults);
        drop(inspection);
        faults.extend(self.reader.not_whole.drain(..).map(Fault::NotWhole));
        self.look_at_messages(&state, &marks, &mut faults);
        self.past.compare(&state, &mut faults);
        let went_on = open_again(image, &state, &mut faults);
        if is_durable {
            self.had_log = true;
            self.had_superblocks |= has_superblocks;
            self.past.learn(&state);
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let (accepted_count, owed_count) = (marks.accepted.len(), marks.owed().count());
        Ok(Seen { living_count: state.living.len(), accepted_count, owed_count, went_on })
    }

    /// Whether both superblocks are there. Of a log that is just being made one may be torn: FORMAT.md writes B, then A.
    fn look_at_damage(&self, report: &RecoveryReport, marks: &Marks, faults: &mut Vec<Fault>) -> bool {
        let is_superblock = |damage: &&Damage| damage.what == DamagedPart::Superblock;
        let is_new = !self.had_superblocks && marks.accepted.is_empty();
        let damage = report.damage.iter().filter(|damage| !(is_new && is_superblock(damage)));
        faults.extend(damage.cloned().map(Fault::Damaged));
        faults.extend(report.damaged_messages.iter().map(|(sequence, id)| Fault::InPart(*sequence, *id)));
        !report.damage.iter().any(|damage| is_superblock(&damage))
    }

    fn look_at_messages(&self, state: &State, marks: &Marks, faults: &mut Vec<Fault>) {
        let mut ids = BTreeSet::new();
        let mut pending: BTreeSet<Pair> = BTreeSet::new();
        for (sequence, living) in &state.living {
            // What is not whole tells nothing, and has been told of.
            let Some(told) = self.reader.told.get(&living.detail.content_sha256) else { continue };
            if !told.is_intact {
                faults.push(Fault::NotWhole(*sequence));
            }
            let Some(id) = &told.load_id else {
                faults.push(Fault::Stranger(*sequence));
                continue;
            };
            if !ids.insert(id) {
                faults.push(Fault::Twice(id.clone()));
            }
            for (recipient, is_pending) in living.recipients() {
                let pair = (id.clone(), recipient);
                if is_pending {
                    pending.insert(pair);
                } else if !marks.received.contains(&pair) {
                    faults.push(Fault::DoneTooEarly(pair));
                }
            }
        }
        faults.extend(marks.owed().filter(|pair| !pending.contains(*pair)).cloned().map(Fault::Lost));
    }
}

/// The marks that an image carries.
#[must_use]
pub fn marks_of(image: &Image) -> Marks {
    let place = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
    Marks::read(image.content().get(place(ZONE.start)..place(ZONE.end)).unwrap_or_default())
}

fn is_blank(image: &Image) -> bool {
    let head = usize::try_from(sternpost_queue::HEAD_OCTETS).unwrap_or(usize::MAX);
    image.content().get(..head).is_some_and(is_marked_head)
}

impl Past {
    fn compare(&self, state: &State, faults: &mut Vec<Fault>) {
        for (sequence, living) in &state.living {
            let id = living.detail.id;
            if self.gone.contains(&id) {
                faults.push(Fault::Risen(*sequence, id));
            }
            let done = self.living.get(&id).into_iter().flatten();
            for (index, ((_, is_pending), was_done)) in living.recipients().zip(done).enumerate() {
                if is_pending && *was_done {
                    faults.push(Fault::PendingAgain(*sequence, index));
                }
            }
        }
    }

    fn learn(&mut self, state: &State) {
        let done = |living: &Living| living.recipients().map(|(_, is_pending)| !is_pending).collect();
        let living: BTreeMap<_, _> =
            state.living.values().map(|living| (living.detail.id, done(living))).collect();
        let before = std::mem::replace(&mut self.living, living);
        self.gone.extend(before.into_keys().filter(|id| !self.living.contains_key(id)));
    }
}

/// Opens the log for writing, lets it go on, and opens it once more. Whether it had room to go on.
fn open_again(image: &mut Image, state: &State, faults: &mut Vec<Fault>) -> bool {
    let writes_count = image.writes_count();
    let Some(mut log) = open_alike(image, "opening it", state, faults) else { return false };
    // What opening has not changed is opened alike the next time; reading was the first time.
    if log.disk().writes_count() != writes_count {
        drop(log);
        let again = open_alike(image, "opening it again", state, faults);
        let Some(again) = again else { return false };
        log = again;
    }
    let went_on = match go_on(log) {
        Ok(went_on) => went_on,
        Err(why) => {
            faults.push(Fault::Stuck(why));
            return false;
        }
    };
    let Some(mut log) = open(image, faults) else { return went_on };
    let mut after = State::of(&mut log, &mut |_, _| {}, faults);
    let has_probe = log.find(PROBE).is_some_and(|sequence| after.living.remove(&sequence).is_some());
    if has_probe != went_on || after != *state {
        faults.push(Fault::Differs("opening it after it has gone on"));
    }
    went_on
}

/// Opens the log, which must find what reading it found.
fn open_alike<'a>(
    image: &'a mut Image,
    how: &'static str,
    state: &State,
    faults: &mut Vec<Fault>,
) -> Option<Log<&'a mut Image>> {
    let mut log = open(image, faults)?;
    if State::of(&mut log, &mut |_, _| {}, faults) != *state {
        faults.push(Fault::Differs(how));
    }
    Some(log)
}

fn open<'a>(image: &'a mut Image, faults: &mut Vec<Fault>) -> Option<Log<&'a mut Image>> {
    let parameters = Parameters { partial_timeout_ms: PARTIAL_TIMEOUT_MS, ..Parameters::default() };
    match Log::open(image, parameters, NOW) {
        Ok((log, report)) => {
            // A superblock that was lost is repaired by the first opening; the inspection before has told of it.
            let damage = report.damage.iter().filter(|damage| damage.what != DamagedPart::Superblock);
            faults.extend(damage.cloned().map(Fault::Damaged));
            Some(log)
        }
        Err(error) => {
            faults.push(Fault::NoLog(error));
            None
        }
    }
}

/// Appends one message and waits until it is durable. False when there is no room for mail.
fn go_on(mut log: Log<&mut Image>) -> Result<bool, String> {
    match log.append(NOW, Lane::Normal, probe(), 1) {
        Ok(()) => {}
        Err(AppendError::Full) => return Ok(false),
        Err(error) => return Err(chain(&error)),
    }
    let mut answer = None;
    for _ in 0..TURNS_MAX {
        log.drive(NOW);
        while let Some(event) = log.poll() {
            match event {
                LogEvent::Committed { .. } => answer = Some(Ok(true)),
                LogEvent::Refused { error: AppendError::Full, .. } => answer = Some(Ok(false)),
                LogEvent::Refused { error, .. } => answer = Some(Err(chain(&error))),
                LogEvent::Alarm(alarm) if is_fault(&alarm) => return Err(alarm.to_string()),
                LogEvent::Alarm(_)
                | LogEvent::Accepted { .. }
                | LogEvent::Outcome { .. }
                | LogEvent::Dead { .. } => {}
            }
        }
        if !log.is_writing() {
            break;
        }
    }
    answer.unwrap_or_else(|| Err("no answer".to_owned()))
}

/// Whether an alarm says that something is lost, or that writing failed, which an image never does. A full log is none.
const fn is_fault(alarm: &Alarm) -> bool {
    match alarm {
        Alarm::Unreadable { .. }
        | Alarm::EnvelopeLost { .. }
        | Alarm::WriteFailed { .. }
        | Alarm::IndexFailed { .. }
        | Alarm::Closed => true,
        Alarm::Reopened | Alarm::Full { .. } | Alarm::Resumed => false,
    }
}

/// A message as a client would bring one.
fn probe() -> AppendSet<'static> {
    let octets: Vec<u8> = (0..u8::MAX).cycle().take(PROBE_OCTETS).collect();
    let content_sha256 = Sha256::digest(&octets).into();
    let content_octets = octets.len() as u64;
    let envelope = Envelope {
        accepted_at: NOW,
        source: "probe".to_owned(),
        ..sample::envelope(&["recipient@probe.test"], ("smtp", "probe"))
    };
    let content = Append::Content { message: PROBE, index: 0, octets: octets.into() };
    let envelope = Append::Envelope { message: PROBE, envelope, content_octets, content_sha256 };
    AppendSet { records: vec![content, envelope] }
}

#[cfg(test)]
mod tests;
