//! Messages that come and go on one log, a share of which stays.

use std::collections::HashMap;
use std::error::Error;
use std::time::{Duration, Instant};
use sternpost_message::{
    Diagnostic, EnhancedStatus, MessageId, MessageSequence, Outcome, RecipientRange, UnixMillis,
};
use sternpost_platform::disk::LogDisk;
use sternpost_platform::process::random;
use sternpost_queue::{Append, AppendSet, Lane, Log, LogEvent};

use super::super::recovery::{WRITE_LIMIT, envelope, wait};
use super::super::tool::number;
use super::{AmplificationRow, CONTENT_OCTETS, GEOMETRY, RECORDS_OCTETS};

/// Messages under way at a time.
const PRODUCERS: u64 = 64;
/// One message in so many stays.
const STAYS: u64 = 100;
/// Rounds of the log before the counting, and counted.
const ROUNDS: u64 = 3;

/// A log with a clock.
pub(super) struct Running {
    pub(super) log: Log<LogDisk>,
    pub(super) began: Instant,
}

impl Running {
    pub(super) fn now(&self) -> UnixMillis {
        UnixMillis(1 + u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX - 1))
    }

    /// Lets the log go on until it has something to say or nothing is under way.
    pub(super) fn turn(&mut self) -> Result<Vec<LogEvent>, Box<dyn Error>> {
        self.log.drive(self.now());
        if self.log.is_writing() {
            wait(self.log.disk(), WRITE_LIMIT)?;
            self.log.drive(self.now());
        }
        Ok(std::iter::from_fn(|| self.log.poll()).collect())
    }

    /// Lets a message die.
    pub(super) fn end(&mut self, message: MessageSequence) -> Result<(), Box<dyn Error>> {
        let diagnostic = Diagnostic::own(EnhancedStatus::new(2, 0, 0), "Ok");
        let outcomes = vec![(RecipientRange { first: 0, count: 1 }, Outcome::Transferred(diagnostic))];
        let set = AppendSet { records: vec![Append::Outcome { message, outcomes }] };
        Ok(self.log.append(self.now(), Lane::Outcome, set, 0)?)
    }
}

/// Messages that come and go.
pub(super) struct Churn {
    pub(super) running: Running,
    content: Vec<u8>,
    appended: u64,
    /// When each message under way was appended.
    pub(super) under_way: HashMap<u64, Instant>,
    pub(super) stayed: Vec<MessageSequence>,
    accepted: u64,
    longest: Duration,
    refused: u64,
}

impl Churn {
    pub(super) fn start(log: Log<LogDisk>) -> Self {
        Self {
            running: Running { log, began: Instant::now() },
            content: vec![b'x'; CONTENT_OCTETS],
            appended: 0,
            under_way: HashMap::new(),
            stayed: Vec::new(),
            accepted: 0,
            longest: Duration::ZERO,
            refused: 0,
        }
    }

    pub(super) fn run(mut self, share_percent: u64) -> Result<AmplificationRow, Box<dyn Error>> {
        let stay_max = GEOMETRY.octets() * share_percent / 100 / RECORDS_OCTETS;
        // All stay until there are as many as wanted; then they are replaced, for some rounds of the log before it counts.
        while (self.stayed.len() as u64) < stay_max {
            self.turn(stay_max, true)?;
        }
        let messages = ROUNDS * GEOMETRY.octets() / RECORDS_OCTETS;
        self.pass(messages, stay_max)?;
        let (before, began) = (self.running.log.status(), Instant::now());
        (self.longest, self.refused) = (Duration::ZERO, 0);
        let accepted = self.accepted;
        self.pass(messages, stay_max)?;
        let after = self.running.log.status();
        let came = number((self.accepted - accepted) * RECORDS_OCTETS);
        Ok(AmplificationRow {
            living_percent: 100.0 * number(after.living_octets) / number(GEOMETRY.octets()),
            amplification: number(after.written_octets - before.written_octets) / came,
            messages_per_s: number(self.accepted - accepted) / began.elapsed().as_secs_f64(),
            longest_ms: self.longest.as_secs_f64() * 1e3,
            refused: self.refused,
        })
    }

    fn pass(&mut self, messages: u64, stay_max: u64) -> Result<(), Box<dyn Error>> {
        let until = self.accepted + messages;
        while self.accepted < until {
            self.turn(stay_max, false)?;
        }
        Ok(())
    }

    pub(super) fn turn(&mut self, stay_max: u64, all_stay: bool) -> Result<(), Box<dyn Error>> {
        // A log that refuses is let go on: it makes room.
        while (self.under_way.len() as u64) < PRODUCERS && self.append()? {}
        for event in self.running.turn()? {
            match event {
                LogEvent::Committed { ticket } => {
                    if let Some(since) = self.under_way.remove(&ticket) {
                        self.longest = self.longest.max(since.elapsed());
                    }
                }
                LogEvent::Refused { ticket, .. } => {
                    self.under_way.remove(&ticket);
                    self.refused += 1;
                }
                LogEvent::Accepted { sequence, .. } => self.settle(sequence, stay_max, all_stay)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Waits until nothing is under way.
    pub(super) fn settle_all(&mut self) -> Result<(), Box<dyn Error>> {
        while !self.under_way.is_empty() {
            for event in self.running.turn()? {
                if let LogEvent::Committed { ticket } | LogEvent::Refused { ticket, .. } = event {
                    self.under_way.remove(&ticket);
                }
            }
        }
        Ok(())
    }

    /// False when the log has no room.
    fn append(&mut self) -> Result<bool, Box<dyn Error>> {
        self.appended += 1;
        let message = MessageId(random());
        let chunk = Append::Content { message, index: 0, octets: (&self.content[..]).into() };
        let commit = Append::Envelope {
            message,
            envelope: envelope("sink", UnixMillis(1)),
            content_octets: CONTENT_OCTETS as u64,
            content_sha256: [0; 32],
        };
        let now = self.running.now();
        let set = AppendSet { records: vec![chunk, commit] };
        let is_taken = self.running.log.append(now, Lane::NonUrgent, set, self.appended).is_ok();
        if is_taken {
            self.under_way.insert(self.appended, Instant::now());
        } else {
            self.refused += 1;
        }
        Ok(is_taken)
    }

    /// Lets an accepted message stay, in the place of another one, or die.
    fn settle(
        &mut self,
        sequence: MessageSequence,
        stay_max: u64,
        all_stay: bool,
    ) -> Result<(), Box<dyn Error>> {
        self.accepted += 1;
        if !(all_stay || self.accepted.is_multiple_of(STAYS)) || stay_max == 0 {
            return self.running.end(sequence);
        }
        if (self.stayed.len() as u64) < stay_max {
            self.stayed.push(sequence);
            return Ok(());
        }
        let at = usize::try_from(u64::from_le_bytes(random()) % stay_max)?;
        let other = std::mem::replace(&mut self.stayed[at], sequence);
        self.running.end(other)
    }
}
