//! Lives of a log, each from one seed: small mail and large, outcomes, writes that fail, cut power, until every segment
//! was used again.

use std::collections::VecDeque;
use std::ops::AddAssign;

use sternpost_message::{ErrorScope, MessageSequence, Outcome, RecipientRange};
use sternpost_queue::{Append, AppendSet, Lane, LogEvent, PAGE_OCTETS};

use super::mail::{diagnostic, id, own, plain, range, records, rich};
use super::random::Random;
use super::writing::Writing;

const SEGMENTS: u32 = 16;
/// How often each segment is used, about.
const ROUNDS: u64 = 2;
const CHUNK_OCTETS_MAX: usize = 65_536;
const UPLOADS_MAX: usize = 3;
const COME_BACK_LAST: u32 = 12;

/// What a log has lived through, to show that it was worth its while.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Summary {
    pub(crate) large: u32,
    pub(crate) discarded: u32,
    pub(crate) dead: u32,
    pub(crate) failed_writes: u32,
    pub(crate) power_cuts: u32,
    pub(crate) moved_records: u64,
    pub(crate) come_back: u32,
}

impl Summary {
    pub(crate) const fn is_eventful(&self) -> bool {
        let Self { large, discarded, dead, failed_writes, power_cuts, moved_records, .. } = *self;
        large > 0 && discarded > 0 && dead > 0 && failed_writes > 0 && power_cuts > 0 && moved_records > 0
    }
}

impl AddAssign for Summary {
    fn add_assign(&mut self, other: Self) {
        self.large += other.large;
        self.discarded += other.discarded;
        self.dead += other.dead;
        self.failed_writes += other.failed_writes;
        self.power_cuts += other.power_cuts;
        self.moved_records += other.moved_records;
        self.come_back += other.come_back;
    }
}

/// Whether messages that are forgotten come back under their ids, as an operator may bring them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ids {
    /// Each one is new.
    Once,
    /// Some are those of messages that came before.
    Again,
}

/// Lives until the log has gone round, and ends in the middle of things.
pub(crate) fn live(random: &mut Random, ids: Ids) -> (Vec<u8>, Summary) {
    let mut history = History {
        writing: Writing::with_segments(SEGMENTS),
        uploads: Vec::new(),
        next: 1,
        ids,
        summary: Summary::default(),
    };
    while history.writing.head_use() < ROUNDS * u64::from(SEGMENTS) {
        history = history.step(random);
    }
    if ids == Ids::Again {
        history.end_most_and_bring_some_back(random);
    }
    history.summary.moved_records += history.writing.log.status().moved_records;
    (history.writing.into_octets(), history.summary)
}

struct History {
    writing: Writing,
    /// Messages whose content comes chunk by chunk: what is still to come of each.
    uploads: Vec<VecDeque<Append<'static>>>,
    next: u32,
    ids: Ids,
    summary: Summary,
}

impl History {
    fn step(mut self, random: &mut Random) -> Self {
        match random.below(100) {
            0..25 => self.accept(random),
            25..45 => self.upload(random),
            45..90 => self.conclude(random),
            90..92 => self.discard(random),
            92..94 => self.fail_a_write(random),
            94..95 => return self.cut_power(random),
            _ => self.writing.now = self.writing.now.plus_ms(1000),
        }
        self
    }

    /// Whether the log took it. What it refuses when it is full or closed is refused to everybody.
    fn put(&mut self, lane: Lane, records: Vec<Append<'static>>) -> bool {
        let events = match self.writing.log.append(self.writing.now, lane, AppendSet { records }, 1) {
            Ok(()) => self.writing.settle(),
            Err(_) => return false,
        };
        let count = |wanted: fn(&LogEvent) -> bool| events.iter().filter(|event| wanted(event)).count();
        self.summary.dead += u32::try_from(count(|event| matches!(event, LogEvent::Dead { .. }))).unwrap();
        count(|event| matches!(event, LogEvent::Committed { .. })) > 0
    }

    fn new_message(
        &mut self,
        random: &mut Random,
        octets: usize,
        chunk_octets: usize,
    ) -> Vec<Append<'static>> {
        let number = self.number(random);
        let recipients = u32::try_from(1 + random.below(20)).unwrap();
        let envelope = if random.chance(50) { plain(number) } else { rich(number, recipients) };
        records(number, octets, chunk_octets, envelope)
    }

    /// Of a message that is new, or of one of the last that the log does not know any more.
    fn number(&mut self, random: &mut Random) -> u32 {
        if self.ids == Ids::Again && random.chance(80) {
            let number = self.next.saturating_sub(u32::try_from(random.below(50)).unwrap()).max(2);
            let is_under_way = self.writing.log.partials().any(|partial| partial.message == id(number));
            if !is_under_way && number <= self.next && !self.writing.log.knows(id(number)) {
                self.summary.come_back += 1;
                return number;
            }
        }
        self.next += 1;
        self.next
    }

    fn accept(&mut self, random: &mut Random) {
        let octets = random.one_of(&[0, 1, 500, 4_000, 30_000]);
        let octets = octets + random.below(octets + 1);
        let records = self.new_message(random, octets, 20_000);
        let lane = random.one_of(&[Lane::Urgent, Lane::Normal, Lane::NonUrgent]);
        self.put(lane, records);
    }

    /// One more chunk of a large message, or its envelope with the last one. Some are never completed.
    fn upload(&mut self, random: &mut Random) {
        if self.uploads.len() < UPLOADS_MAX {
            let octets = 70_000 + random.below(200_000);
            let chunk_octets = random.one_of(&[16_000, 40_001, CHUNK_OCTETS_MAX]);
            let upload = self.new_message(random, octets, chunk_octets).into();
            self.uploads.push(upload);
        }
        let at = random.below(self.uploads.len());
        let upload = &mut self.uploads[at];
        let is_last = upload.len() == 2;
        let records = upload.drain(..if is_last { 2 } else { 1 }).collect();
        let taken = self.put(Lane::NonUrgent, records);
        self.summary.large += u32::from(is_last && taken);
        if is_last || !taken || random.chance(5) {
            self.uploads.swap_remove(at);
        }
    }

    fn conclude(&mut self, random: &mut Random) {
        let living: Vec<MessageSequence> =
            self.writing.log.messages_from(MessageSequence(0)).map(|facts| facts.sequence).collect();
        if living.is_empty() {
            return;
        }
        let message = random.one_of(&living);
        let outcomes = (0..=random.below(3)).map(|_| outcome(random)).collect();
        self.put(Lane::Outcome, vec![Append::Outcome { message, outcomes }]);
    }

    fn end_most_and_bring_some_back(&mut self, random: &mut Random) {
        let living: Vec<MessageSequence> =
            self.writing.log.messages_from(MessageSequence(0)).map(|facts| facts.sequence).collect();
        // The oldest ones keep the segments in which the others have lived.
        for message in living.into_iter().skip(2) {
            let outcomes = vec![(range(0, u32::MAX), Outcome::Delivered(own(2, "kept")))];
            self.put(Lane::Outcome, vec![Append::Outcome { message, outcomes }]);
        }
        (0..COME_BACK_LAST).for_each(|_| self.accept(random));
    }

    fn discard(&mut self, random: &mut Random) {
        let partials: Vec<_> = self.writing.log.partials().map(|partial| partial.message).collect();
        if !partials.is_empty() {
            let message = random.one_of(&partials);
            let taken = self.put(Lane::Outcome, vec![Append::DiscardPartial { message }]);
            self.summary.discarded += u32::from(taken);
        }
    }

    /// The disk tells of an error, whatever has arrived.
    fn fail_a_write(&mut self, random: &mut Random) {
        self.summary.failed_writes += 1;
        self.writing.log.disk_mut().fails_after = Some(random.below(3 * PAGE_OCTETS));
        self.accept(random);
    }

    /// Of the write that is under way any sectors may have arrived.
    fn cut_power(mut self, random: &mut Random) -> Self {
        self.summary.power_cuts += 1;
        let records = self.new_message(random, 9_000, 3_000);
        // A log that is full takes nothing; then the power is cut after a write that has ended.
        let _ = self.writing.log.append(self.writing.now, Lane::Normal, AppendSet { records }, 1);
        self.writing.log.drive(self.writing.now);
        let percent = random.one_of(&[0, 50, 95, 100]);
        self.writing.log.disk_mut().tear(|| random.chance(percent));
        self.summary.moved_records += self.writing.log.status().moved_records;
        Self { writing: Writing::open(self.writing.into_octets()), ..self }
    }
}

/// An outcome for some recipients. Most are the last word on them.
fn outcome(random: &mut Random) -> (RecipientRange, Outcome) {
    let first = random.one_of(&[0, 0, 0, 1, 7]);
    let recipients = range(first, u32::try_from(1 + random.below(20)).unwrap());
    let text = "x".repeat(random.one_of(&[0, 20, 600]));
    let outcome = match random.below(10) {
        0..4 => Outcome::Delivered(own(2, &text)),
        4 if random.below(2) == 0 => Outcome::DeliveredReportOwed(own(2, &text)),
        4 => Outcome::RelayedReportOwed(diagnostic(2, &text)),
        5 => Outcome::Transferred(diagnostic(2, &text)),
        6 => Outcome::Failed(diagnostic(5, &text)),
        7 => Outcome::Reported { report: Some(id(7)), why: text },
        8 => {
            let scope = random.one_of(&[ErrorScope::Peer, ErrorScope::Message]);
            Outcome::Deferred { scope, diagnostic: diagnostic(4, &text) }
        }
        _ => Outcome::DelayReported,
    };
    (recipients, outcome)
}
