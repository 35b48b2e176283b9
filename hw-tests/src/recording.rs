//! What the sources and sinks of a guest saw, beside the log of its drive's writes: which mail a power cut may not lose.
//!
//! While the guest runs, a thread notes the length of the log every now and then. So of every 250 and of every receipt it
//! is known between which entries of the log it came, if not exactly, then on the safe side: a 250 counts from the first
//! look *after* it was read, a receipt until the last look *before* it.

use crate::write_log::WriteLog;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use sternpost_load::{now_ns, sink, source};

/// Wait between two looks at the log's length.
const LOOK_AGAIN: Duration = Duration::from_micros(500);

/// One look: not before the first time, not after the second, the log had this length.
#[derive(Clone, Copy, Debug)]
struct Look {
    before_ns: u64,
    after_ns: u64,
    log_octets: u64,
}

/// A thread that watches the log grow.
#[derive(Debug)]
pub struct Watch {
    stopped: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Look>>,
}

impl Watch {
    /// Watches a log until it is told to stop.
    #[must_use]
    pub fn start(write_log: &Path) -> Self {
        let stopped = Arc::new(AtomicBool::new(false));
        let (theirs, path) = (Arc::clone(&stopped), write_log.to_owned());
        let thread = std::thread::spawn(move || {
            let mut looks: Vec<Look> = Vec::new();
            while !theirs.load(Ordering::Relaxed) {
                let before_ns = now_ns();
                let log_octets = path.metadata().map_or(0, |metadata| metadata.len());
                looks.push(Look { before_ns, after_ns: now_ns(), log_octets });
                std::thread::sleep(LOOK_AGAIN);
            }
            looks
        });
        Self { stopped, thread }
    }

    /// Ends the watch, after which nothing of what the sources and sinks saw may be added.
    ///
    /// # Panics
    /// When the thread has.
    #[must_use]
    pub fn stop(self, log: &WriteLog, sources: &[source::Report], sinks: &[sink::Report]) -> Recording {
        self.stopped.store(true, Ordering::Relaxed);
        let looks = self.thread.join().expect("looking at a file does not panic");
        Recording::new(&looks, log, sources, sinks)
    }
}

/// A message for a recipient, as sources and sinks name it.
pub type Pair = (String, String);

/// Where in the log of writes mail was accepted and received.
#[derive(Debug, Default)]
pub struct Recording {
    /// With so many entries on the disk the pair must be safe.
    accepted: BTreeMap<Pair, usize>,
    /// With so many entries on the disk the disk cannot know yet that the pair was transferred.
    received: BTreeMap<Pair, usize>,
}

impl Recording {
    fn new(looks: &[Look], log: &WriteLog, sources: &[source::Report], sinks: &[sink::Report]) -> Self {
        let mut recording = Self::default();
        for acceptance in sources.iter().flat_map(|source| &source.accepted) {
            let later = looks.partition_point(|look| look.before_ns < acceptance.accepted_ns);
            // What came after the last look is not judged.
            let Some(look) = looks.get(later) else { continue };
            let entries_count = log.entries_within(look.log_octets);
            for recipient in &acceptance.recipients {
                recording.accepted.insert((acceptance.id.clone(), recipient.clone()), entries_count);
            }
        }
        for receipt in sinks.iter().flat_map(|sink| &sink.receipts) {
            let Some(id) = &receipt.id else { continue };
            let later = looks.partition_point(|look| look.after_ns <= receipt.arrived_ns);
            let log_octets = later.checked_sub(1).map_or(0, |earlier| looks[earlier].log_octets);
            let entries_count = log.entries_within(log_octets);
            for recipient in &receipt.recipients {
                let first =
                    recording.received.entry((id.clone(), recipient.clone())).or_insert(entries_count);
                *first = entries_count.min(*first);
            }
        }
        recording
    }

    /// Pairs that were accepted in all.
    #[must_use]
    pub fn accepted_count(&self) -> usize {
        self.accepted.len()
    }

    /// What must come out of a disk that kept so many entries: accepted before, and not received before.
    #[must_use]
    pub fn owed(&self, entries_count: usize) -> BTreeSet<Pair> {
        let is_owed = |(pair, accepted): (&Pair, &usize)| {
            let is_received = self.received.get(pair).is_some_and(|&received| received < entries_count);
            (*accepted <= entries_count && !is_received).then(|| pair.clone())
        };
        self.accepted.iter().filter_map(is_owed).collect()
    }

    /// Whether a pair had been received when the disk kept so many entries: it may come again, once.
    #[must_use]
    pub fn was_received(&self, pair: &Pair, entries_count: usize) -> bool {
        self.received.get(pair).is_some_and(|&received| received < entries_count)
    }

    /// After how many entries the first pair was accepted, and after how many the last.
    #[must_use]
    pub fn span(&self) -> Option<(usize, usize)> {
        Some((*self.accepted.values().min()?, *self.accepted.values().max()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::write_log::testing::Writing;
    use sternpost_load::content::Integrity;
    use sternpost_load::sink::Receipt;
    use sternpost_load::source::Acceptance;

    fn accepted(id: &str, accepted_ns: u64) -> Acceptance {
        let recipients = vec!["a".to_owned()];
        let id = id.to_owned();
        Acceptance { id, recipients, sent_ns: 0, accepted_ns, octets: 1, priority: None, attempts_count: 1 }
    }

    fn received(id: &str, arrived_ns: u64) -> Receipt {
        Receipt {
            id: Some(id.to_owned()),
            arrived_ns,
            sent_ns: None,
            sender: String::new(),
            recipients: vec!["a".to_owned()],
            priority: None,
            octets: 1,
            integrity: Integrity::Intact,
            answered: true,
            content: None,
        }
    }

    #[test]
    fn mail_is_owed_from_its_250_until_its_receipt_and_never_too_early() {
        let file = tempfile::NamedTempFile::new().unwrap();
        // Entries end at 1,536, 2,048, 3,072 and 3,584 octets.
        Writing::default().write(0, 1, 1).flush().write(0, 1, 2).flush().finish(file.path());
        let log = WriteLog::open(file.path()).unwrap();
        let look = |ns, log_octets| Look { before_ns: ns, after_ns: ns + 5, log_octets };
        let looks = [look(100, 512), look(200, 2048), look(300, 2600), look(400, 3584)];
        let source = source::Report {
            accepted: vec![accepted("1", 150), accepted("2", 201), accepted("3", 999)],
            ..Default::default()
        };
        let sink =
            sink::Report { receipts: vec![received("1", 303), received("1", 350)], ..Default::default() };
        let recording = Recording::new(&looks, &log, &[source], &[sink]);
        let pair = |id: &str| (id.to_owned(), "a".to_owned());
        let owed = |count| recording.owed(count).into_iter().map(|(id, _)| id).collect::<Vec<_>>();
        // The first is accepted at the look at 200, which saw two entries; it was received after that look.
        assert_eq!([owed(0), owed(1)], [Vec::<String>::new(), Vec::new()]);
        assert_eq!(owed(2), ["1"]);
        // The second counts from the look at 300, which saw the third entry begun; the third was never looked after.
        assert_eq!(owed(3), ["2"]);
        assert_eq!(owed(4), ["2"]);
        assert!(recording.was_received(&pair("1"), 3) && !recording.was_received(&pair("1"), 2));
        assert_eq!((recording.accepted_count(), recording.span()), (2, Some((2, 3))));
    }
}
