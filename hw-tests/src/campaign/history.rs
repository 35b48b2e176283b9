//! One run of the switch under load, with everything that its log's device was told.
//!
//! Two sources send: one message in a dozen to a next hop that says 450 for a while, and messages for two recipients, one
//! of them there. So mail lives long, is moved by reclaim, and dies at last: half-way the route leads to a next hop that takes it.

use crate::campaign::marks::Scribe;
use crate::campaign::{DEVICE_OCTETS, IMAGE_OCTETS, Interrupted, ROOM, ZONE, go_on};
use crate::logged_device::{Flushes, LoggedDevice, LoggedDeviceError};
use crate::power_cut::Cut;
use crate::write_log::{Request, WriteLog, WriteLogError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use sternpost_load::sending;
use sternpost_load::sink::{Protocol, RejectRule, Sink, SinkError, SinkOptions};
use sternpost_load::source::{Report, Retry, SourceOptions};
use sternpost_load::switch::{Hop, Queue, Switch, SwitchError, tables};
use sternpost_queue::{BLANK_MARKER, HEAD_OCTETS};

/// Takes mail by SMTP at once.
const PROMPT: &str = "prompt.test";
/// Takes mail by LMTP at once.
const STORE: &str = "store.test";
/// Says 450 at first.
const LATE: &str = "late.test";

/// Octets of the messages, in turn: from a bare header, which names the message, to some hundred KiB; 47 KiB on average.
const SIZES: [usize; 12] = [1, 4096, 600, 65_536, 2000, 300_000, 1, 20_000, 1024, 150_000, 8192, 30_000];
const SESSIONS: u32 = 12;
/// Slow enough that most batches carry few messages: more of them, and more flushes to cut at.
const RATE_PER_S: f64 = 350.0;
/// The other source sends a twelfth of that, in the same time, each message to two.
const PAIRS_SHARE: u64 = 12;
const PAIRS_RATE_PER_S: f64 = 30.0;
const RETRY: Retry = Retry { delay: Duration::from_millis(50), limit: Duration::from_secs(60) };

/// Longer than any load takes.
const LOAD_MAX: Duration = Duration::from_secs(120);
/// Time for the mail that waited, when all is sent. It need not be over: what waits is judged as well.
const SETTLE_MAX: Duration = Duration::from_secs(5);

/// Files in the folder of a history.
const WRITES: &str = "device.writes";
const SWITCH_LOG: &str = "switch.log";
const KEPT_FILE: &str = "history.json";
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What is recorded.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The switch.
    pub program: PathBuf,
    /// How it writes its log.
    pub backend: &'static str,
    /// What becomes of its flushes.
    pub flushes: Flushes,
    /// Messages of the larger source.
    pub messages_count: u64,
}

impl Plan {
    fn failing(&self) -> &[u32] {
        if let Flushes::FailingAt(numbers) = &self.flushes { numbers } else { &[] }
    }
}

/// What is needed beside the log of writes and that of the switch to cut a history again.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    /// Octets of the log of writes when the switch was ready.
    ready_octets: u64,
    /// Numbers of the flushes that failed.
    failing: Vec<u32>,
}

/// Why nothing was recorded.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// Nobody wants it any more.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// No device.
    #[error("the device cannot be had")]
    Device(#[from] LoggedDeviceError),
    /// No switch.
    #[error("the switch does not run")]
    Switch(#[from] SwitchError),
    /// No next hop.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// The zone of the marks.
    #[error("the marks cannot be written")]
    Marks(#[source] io::Error),
    /// A folder for the switch.
    #[error("no folder can be made for the switch")]
    Home(#[source] io::Error),
    /// The folder of the history.
    #[error("the folder of the history cannot be read or written")]
    Folder(#[source] io::Error),
    /// The log of writes.
    #[error(transparent)]
    Log(#[from] WriteLogError),
    /// The store does not answer.
    #[error("the store does not say how it is; the switch's log ends:\n{log}")]
    Silent {
        /// What the switch said.
        log: String,
    },
    /// The switch takes no mail.
    #[error("the load did not get on within {} s: {accepted_count} messages were accepted; its log ends:\n{log}", LOAD_MAX.as_secs())]
    TooSlow {
        /// How far it was.
        accepted_count: u64,
        /// What the switch said.
        log: String,
    },
}

/// What was recorded.
#[derive(Debug)]
pub struct History {
    /// Everything that the device was told.
    pub log: WriteLog,
    /// So many of its requests had been answered when the switch was ready for mail.
    pub ready_count: usize,
    /// What the switch wrote to its log: batches, and parts of indexes between them.
    pub batches: Vec<Batch>,
    /// Those of them whose write has failed, by what the store said, as places in `batches`.
    pub failed: BTreeSet<usize>,
    /// What the sources did.
    pub sources: Vec<Report>,
    /// What the switch said while it ran.
    pub switch_log: String,
    /// Writes that failed, as the store counted them.
    pub write_errors_count: u64,
}

impl History {
    /// The disk as it was when the history began: marked as blank.
    #[must_use]
    pub fn base() -> Vec<u8> {
        let mut base = head();
        base.resize(usize::try_from(IMAGE_OCTETS).unwrap_or(usize::MAX), 0);
        base
    }

    /// Runs the switch on a device that is recorded in `folder`, and leaves the log of its writes there.
    ///
    /// # Errors
    /// `HistoryError` says what did not come about.
    pub fn record(plan: &Plan, folder: &Path) -> Result<Self, HistoryError> {
        let write_log = folder.join(WRITES);
        let (disk, flushes) = (folder.join("device.img"), &plan.flushes);
        let device = LoggedDevice::start(&head(), DEVICE_OCTETS, &disk, &write_log, flushes)?;
        let scribe = Scribe::start(device.path(), ZONE).map_err(HistoryError::Marks)?;
        let hops = Hops::start(&scribe)?;
        let home = tempfile::Builder::new().prefix("sp").tempdir().map_err(HistoryError::Home)?;
        let queue = Queue { path: device.path().to_owned(), room: ROOM, backend: plan.backend };
        let mut switch =
            Switch::start_on(&plan.program, &home.path().join("switch"), &queue, &hops.tables(true))?;
        let ready_octets = write_log.metadata().map_or(0, |metadata| metadata.len());
        let sources = load(plan, &mut switch, &hops, &scribe)?;
        let write_errors_count = settled(&mut switch)?;
        let switch_log = switch.log();
        // In the order in which each uses the other.
        drop(switch);
        drop(hops);
        scribe.finish().map_err(HistoryError::Marks)?;
        device.stop();
        let kept = Kept { ready_octets, failing: plan.failing().to_vec() };
        let kept = serde_json::to_vec(&kept).map_err(io::Error::other);
        kept.and_then(|text| fs::write(folder.join(KEPT_FILE), text)).map_err(HistoryError::Folder)?;
        fs::write(folder.join(SWITCH_LOG), &switch_log).map_err(HistoryError::Folder)?;
        Ok(Self { sources, write_errors_count, ..Self::reopen(folder)? })
    }

    /// Reads what an earlier run has left in its folder: enough to be cut again, not what sources and store counted.
    ///
    /// # Errors
    /// `Folder` and `Log`.
    pub fn reopen(folder: &Path) -> Result<Self, HistoryError> {
        let read = |name| fs::read_to_string(folder.join(name)).map_err(HistoryError::Folder);
        let kept: Kept = serde_json::from_str(&read(KEPT_FILE)?)
            .map_err(|error| HistoryError::Folder(io::Error::other(error)))?;
        let switch_log = read(SWITCH_LOG)?;
        let mut log = WriteLog::open(&folder.join(WRITES))?;
        log.take_as_durable(&ZONE);
        let ready_count = log.entries_within(kept.ready_octets);
        let batches = batches(&log);
        let failed = failed_batches(&log, &batches, &switch_log, &kept.failing);
        let (sources, write_errors_count) = (Vec::new(), 0);
        Ok(Self { log, ready_count, batches, failed, sources, switch_log, write_errors_count })
    }

    /// Pairs of messages and recipients with a 250.
    #[must_use]
    pub fn accepted_count(&self) -> u64 {
        self.sources.iter().map(|source| source.accepted_count).sum()
    }

    /// Flushes that reached the disk.
    #[must_use]
    pub fn flushes_count(&self) -> usize {
        self.log.entries().iter().filter(|entry| entry.request == Request::Flush).count()
    }

    /// The requests of batches behind which no flush came.
    #[must_use]
    pub fn unflushed(&self) -> BTreeSet<usize> {
        self.batches
            .iter()
            .filter(|batch| !batch.is_flushed)
            .flat_map(|batch| batch.entries.clone())
            .collect()
    }

    /// Whether the write at this place of `batches` is no batch but a part of the index of a segment that was full before:
    /// it stands in another segment than the one that was opened last.
    #[must_use]
    pub fn is_of_an_index(&self, place: usize) -> bool {
        is_of_an_index(&self.batches[..=place])
    }

    /// How often at least two batches failed in a row. Parts of indexes count neither as failed nor as what went well
    /// between two: nobody waits for them.
    #[must_use]
    pub fn rows_of_failures(&self) -> usize {
        let places = (0..self.batches.len()).filter(|place| !self.is_of_an_index(*place));
        let has_failed: Vec<bool> = places.map(|place| self.failed.contains(&place)).collect();
        has_failed.chunk_by(|one, next| one == next).filter(|row| row[0] && row.len() >= 2).count()
    }

    /// Whether what a cut must have kept ends with a batch whose writing went well. Behind one that failed the disk may have
    /// it and the log makes it void (a flush may fail behind another one that did not): such a state is no past of what comes.
    #[must_use]
    pub fn ends_well(&self, cut: &Cut) -> bool {
        let durable_count = cut.durable_count(self.log.entries());
        let behind = self.batches.partition_point(|batch| batch.entries[0] < durable_count);
        behind.checked_sub(1).is_none_or(|last| !self.failed.contains(&last))
    }

    /// Lines of the switch's log that hold these words.
    #[must_use]
    pub fn lines_with(&self, words: &str) -> usize {
        self.switch_log.lines().filter(|line| line.contains(words)).count()
    }
}

/// The first octets of the device.
fn head() -> Vec<u8> {
    let mut head = BLANK_MARKER.to_vec();
    head.resize(usize::try_from(HEAD_OCTETS).unwrap_or(usize::MAX), 0);
    head
}

/// The next hops.
struct Hops {
    prompt: Sink,
    store: Sink,
    /// Refuses for now.
    refusing: Sink,
    /// Where the same mail is taken in the end.
    late: Sink,
}

impl Hops {
    fn start(scribe: &Scribe) -> Result<Self, SinkError> {
        let taking = |protocol| SinkOptions {
            protocol,
            on_receipt: Some(scribe.on_receipt()),
            ..SinkOptions::default()
        };
        let refusal = RejectRule { pattern: String::new(), code: 450 };
        Ok(Self {
            prompt: Sink::start(taking(Protocol::Smtp))?,
            store: Sink::start(taking(Protocol::Lmtp))?,
            refusing: Sink::start(SinkOptions {
                reject_recipients: vec![refusal],
                ..taking(Protocol::Smtp)
            })?,
            late: Sink::start(taking(Protocol::Smtp))?,
        })
    }

    fn tables(&self, refuses: bool) -> String {
        let late = if refuses { &self.refusing } else { &self.late };
        site(self.prompt.address(), self.store.address(), late.address())
    }
}

/// Tables of a site with these next hops, which tries again every second.
#[must_use]
pub fn site(prompt: SocketAddr, store: SocketAddr, late: SocketAddr) -> String {
    let hop = |domain, channel, address| Hop { domain, channel, address };
    let hops = [hop(PROMPT, "smtp", prompt), hop(STORE, "lmtp", store), hop(LATE, "smtp", late)];
    tables(&hops) + "\n[qmgr]\nretry_step_s = 1\nretry_max_s = 1\n"
}

/// Sends everything; half-way the late next hop begins to take mail.
fn load(plan: &Plan, switch: &mut Switch, hops: &Hops, scribe: &Scribe) -> Result<Vec<Report>, HistoryError> {
    let options = |messages_count, rate_per_s| SourceOptions {
        sessions_count: SESSIONS,
        messages_count,
        octets: SIZES.to_vec(),
        retry: Some(RETRY),
        rate_per_s: Some(rate_per_s),
        reply_timeout: Duration::from_secs(20),
        on_acceptance: Some(scribe.on_acceptance()),
        ..SourceOptions::to(switch.listener())
    };
    // Prime to the number of sizes, so that mail of every size goes everywhere.
    let domains = [PROMPT, STORE].repeat(6).into_iter().chain([LATE]);
    let recipients = domains.map(|domain| format!("user%d@{domain}")).collect();
    let single = SourceOptions { recipients, ..options(plan.messages_count, RATE_PER_S) };
    let double = SourceOptions {
        recipients: vec![format!("both%d@{PROMPT}"), format!("both%d@{LATE}")],
        recipients_count: 2,
        sessions_count: 2,
        ..options(plan.messages_count / PAIRS_SHARE, PAIRS_RATE_PER_S)
    };
    let sendings = [sending::start(single), sending::start(double)];
    let deadline = Instant::now() + LOAD_MAX;
    let mut refuses = true;
    while !sendings.iter().all(sending::Sending::is_over) {
        go_on()?;
        switch.check()?;
        let accepted_count = sendings[0].progress.accepted_count();
        if refuses && accepted_count > plan.messages_count / 2 {
            switch.replace_tables(&hops.tables(false))?;
            refuses = false;
        }
        if Instant::now() > deadline {
            return Err(HistoryError::TooSlow { accepted_count, log: end_of(&switch.log()) });
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    Ok(sendings.into_iter().map(sending::Sending::end).collect())
}

fn end_of(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

/// Gives the mail that waits some time. Writes failed, as the store counts them then.
fn settled(switch: &mut Switch) -> Result<u64, HistoryError> {
    let deadline = Instant::now() + SETTLE_MAX;
    loop {
        go_on()?;
        switch.check()?;
        let store = switch.status()?.store;
        let is_empty = store.messages == Some(0);
        let is_over = Instant::now() > deadline;
        match store.write_errors {
            Some(errors) if is_empty || is_over => return Ok(errors),
            None if is_over => return Err(HistoryError::Silent { log: end_of(&switch.log()) }),
            _ => {}
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// The batches whose write has failed, given the numbers of the flushes that did: those at whose places the store's alarms
/// say so, in the same order. A store that says nothing, or something else, has none.
fn failed_batches(log: &WriteLog, batches: &[Batch], switch_log: &str, numbers: &[u32]) -> BTreeSet<usize> {
    let is_flush = |index: &usize| log.entries()[*index].request == Request::Flush;
    let flushes: Vec<usize> = (0..log.entries().len()).filter(is_flush).collect();
    let offsets = switch_log.lines().filter_map(|line| {
        let (_, rest) = line.split_once("a write to segment ")?;
        rest.split_once(" at offset ")?.1.split(' ').next()?.parse::<u64>().ok()
    });
    let found = numbers.iter().zip(0..).zip(offsets).filter_map(|((number, failures), offset)| {
        // Failed flushes are not in the log: so many are before this one.
        let behind = usize::try_from(*number).ok()?.checked_sub(1 + failures)?;
        let end = flushes.get(behind).copied().unwrap_or(usize::MAX);
        batches.iter().rposition(|batch| batch.offset == offset && batch.entries[0] < end)
    });
    found.collect()
}

/// One write of the store, most often a batch: one request, or several where the block layer has cut it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Its requests, by their places in the log of writes.
    pub entries: Vec<usize>,
    /// Where it begins on the device.
    pub offset: u64,
    /// Whether a flush came before the next one.
    pub is_flushed: bool,
}

impl Batch {
    /// The segment in which it lies; none before the first one.
    #[must_use]
    pub fn segment(&self) -> Option<u64> {
        Some(self.offset.checked_sub(HEAD_OCTETS)? / ROOM.segment_octets)
    }

    /// Whether it opens its segment.
    #[must_use]
    pub fn opens_segment(&self) -> bool {
        self.segment().is_some_and(|segment| self.offset == HEAD_OCTETS + segment * ROOM.segment_octets)
    }
}

/// Whether the last of these writes stands in another segment than the one that was opened last.
fn is_of_an_index(writes: &[Batch]) -> bool {
    let open = writes.iter().rev().find(|write| write.opens_segment());
    open.is_some_and(|open| writes.last().is_some_and(|last| last.segment() != open.segment()))
}

/// What was written before the zone, put together: a batch is written from its begin to its end and lies in one segment.
fn batches(log: &WriteLog) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    let mut end = None;
    for (index, entry) in log.entries().iter().enumerate() {
        match (entry.request, batches.last_mut()) {
            (Request::Flush, Some(last)) => {
                last.is_flushed = true;
                end = None;
            }
            (Request::Write { durable: false }, last) => {
                let new = Batch { entries: vec![index], offset: entry.offset, is_flushed: false };
                match last {
                    Some(last) if end == Some(entry.offset) && new.segment() == last.segment() => {
                        last.entries.push(index);
                    }
                    _ => batches.push(new),
                }
                end = Some(entry.offset + entry.octets);
            }
            _ => {}
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::power_cut::{Cache, Disk};
    use crate::write_log::testing::Writing;

    const SECTORS: u64 = HEAD_OCTETS / 512;
    const SEGMENT_SECTORS: u64 = ROOM.segment_octets / 512;

    #[test]
    fn requests_are_put_together_to_batches_and_each_has_its_flush_or_none() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let zone = ZONE.start / 512;
        Writing::default()
            .write(64, 8, 1)
            .flush()
            .write(SECTORS, 8, 2)
            .write(zone, 1, 9)
            .write(SECTORS + 8, 8, 2)
            .flush()
            .write(SECTORS + SEGMENT_SECTORS - 8, 8, 3)
            .write(SECTORS + SEGMENT_SECTORS, 8, 4)
            .flush()
            .finish(file.path());
        let mut log = WriteLog::open(file.path()).unwrap();
        log.take_as_durable(&ZONE);
        let batches = batches(&log);
        let seen: Vec<_> =
            batches.iter().map(|batch| (&batch.entries[..], batch.segment(), batch.is_flushed)).collect();
        assert_eq!(
            seen,
            [
                (&[0][..], None, true),
                (&[2, 4][..], Some(0), true),
                (&[6][..], Some(0), false),
                (&[7][..], Some(1), true)
            ]
        );
        assert!(batches[1].opens_segment() && !batches[2].opens_segment() && batches[3].opens_segment());
    }

    #[test]
    fn a_write_to_a_segment_that_is_not_open_is_of_an_index() {
        let write = |offset| Batch { entries: vec![0], offset, is_flushed: true };
        let (first, second) = (HEAD_OCTETS, HEAD_OCTETS + ROOM.segment_octets);
        let writes =
            [write(first), write(first + 4096), write(second), write(second - 8192), write(second + 4096)];
        let of_an_index = |count: &usize| is_of_an_index(&writes[..*count]);
        assert_eq!((1..=writes.len()).filter(of_an_index).collect::<Vec<_>>(), [4]);
    }

    #[test]
    fn a_failed_batch_is_found_by_its_alarm_whether_its_first_flush_failed_or_one_behind_it() {
        let folder = tempfile::tempdir().unwrap();
        let fresh = SECTORS + SEGMENT_SECTORS;
        // The first batch is good, the third flush fails behind the second one, the fourth before there was any.
        Writing::default()
            .write(SECTORS, 8, 1)
            .flush()
            .write(SECTORS + 8, 8, 2)
            .flush()
            .write(fresh, 8, 3)
            .write(fresh + SEGMENT_SECTORS, 8, 4)
            .flush()
            .finish(&folder.path().join(WRITES));
        let alarm =
            |sector: u64| format!("a write to segment 7 at offset {} of the log failed\n", sector * 512);
        fs::write(folder.path().join(SWITCH_LOG), alarm(SECTORS + 8) + &alarm(fresh)).unwrap();
        let kept = Kept { ready_octets: 0, failing: vec![3, 4] };
        fs::write(folder.path().join(KEPT_FILE), serde_json::to_vec(&kept).unwrap()).unwrap();
        let history = History::reopen(folder.path()).unwrap();
        assert_eq!(history.failed, [1, 2].into());
        assert_eq!(history.rows_of_failures(), 1);
        // Two failures, of which the second one is of a part of the index of the segment before.
        let mut batches = history.batches.clone();
        batches.swap(1, 2);
        let history = History { batches, failed: [1, 2].into(), ..history };
        assert_eq!((history.is_of_an_index(2), history.rows_of_failures()), (true, 0));
        let history = History::reopen(folder.path()).unwrap();
        assert_eq!(history.unflushed(), [4].into());
        let cut = |entries_count| Cut { entries_count, cache: Cache::Lost, disk: Disk::Honest };
        let ends_well: Vec<bool> = (0..=7).map(|count| history.ends_well(&cut(count))).collect();
        assert_eq!(ends_well, [true, true, true, true, false, false, false, true]);
    }
}
