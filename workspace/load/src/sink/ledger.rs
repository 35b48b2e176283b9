//! What a sink received. One lock, held for the time of an insertion.

use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::watch;

use crate::content::Integrity;

/// One message that came in, in one transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// `X-Load-Id`; nothing for messages of another source.
    pub id: Option<String>,
    /// When its last octet was read, before the reply. Nanoseconds since the epoch.
    pub arrived_ns: u64,
    /// `X-Load-Sent-Ns`.
    pub sent_ns: Option<u64>,
    /// The reverse-path, empty for `<>`.
    pub sender: String,
    /// The recipients that were accepted.
    pub recipients: Vec<String>,
    /// The value of MT-PRIORITY (RFC 6710), when MAIL had one.
    pub priority: Option<i8>,
    /// Octets of the content.
    pub octets: u64,
    /// Whether the body is what its source made.
    pub integrity: Integrity,
    /// False when the sink closed before the reply, as told.
    pub answered: bool,
    /// Header and body, with [`super::SinkOptions::keep_content`].
    #[serde(skip)]
    pub content: Option<Vec<u8>>,
}

/// Totals of a sink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Transactions that brought content.
    pub received: u64,
    /// Different (load id, recipient) pairs. A message without load id counts for each recipient.
    pub distinct: u64,
    /// (load id, recipient) pairs that came once more.
    pub duplicated: u64,
    /// Receipts whose hash does not fit.
    pub damaged: u64,
    /// Receipts without a load id.
    pub unnamed: u64,
    /// Recipients refused, as told.
    pub rejected: u64,
    /// Connections taken.
    pub connections: u64,
    /// Connections greeted with 421, as told.
    #[serde(default)]
    pub turned_away: u64,
    /// Octets of content.
    pub octets: u64,
}

/// Everything that a sink knows.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Totals.
    pub counts: Counts,
    /// CPU time of the whole sink process since it started, in microseconds. Zero from a sink used as a library.
    #[serde(default)]
    pub cpu_us: u64,
    /// The receipts in the order of arrival.
    pub receipts: Vec<Receipt>,
}

#[derive(Debug)]
pub(super) struct Ledger {
    book: Mutex<Book>,
    counts: watch::Sender<Counts>,
}

#[derive(Debug, Default)]
struct Book {
    counts: Counts,
    receipts: Vec<Receipt>,
    /// Recipients by load id: the second copy of a pair is a duplicate.
    pairs: HashMap<String, HashSet<String>>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self { book: Mutex::default(), counts: watch::channel(Counts::default()).0 }
    }
}

impl Ledger {
    fn book(&self) -> MutexGuard<'_, Book> {
        // Every change under the lock is complete after its last statement: a poisoned book is still a true one.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn enter(&self, receipt: Receipt) {
        let counts = {
            let mut book = self.book();
            book.enter(receipt);
            book.counts
        };
        self.counts.send_replace(counts);
    }

    pub(super) fn reject(&self) {
        self.book().counts.rejected += 1;
    }

    pub(super) fn connect(&self) {
        self.book().counts.connections += 1;
    }

    pub(super) fn turn_away(&self) {
        self.book().counts.turned_away += 1;
    }

    pub(super) fn counts(&self) -> Counts {
        self.book().counts
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Counts> {
        self.counts.subscribe()
    }

    pub(super) fn receipts(&self) -> Vec<Receipt> {
        self.book().receipts.clone()
    }

    pub(super) fn report(&self) -> Report {
        let book = self.book();
        Report { counts: book.counts, cpu_us: 0, receipts: book.receipts.clone() }
    }

    pub(super) fn take_report(&self) -> Report {
        let book = std::mem::take(&mut *self.book());
        self.counts.send_replace(Counts::default());
        Report { counts: book.counts, cpu_us: 0, receipts: book.receipts }
    }

    pub(super) fn wait_until(&self, until: Instant, done: impl Fn(&Counts) -> bool) -> bool {
        loop {
            if done(&self.counts()) {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }
}

impl Book {
    fn enter(&mut self, receipt: Receipt) {
        self.counts.received += 1;
        self.counts.octets += receipt.octets;
        self.counts.damaged += u64::from(receipt.integrity == Integrity::Damaged);
        match &receipt.id {
            None => {
                self.counts.unnamed += 1;
                self.counts.distinct += receipt.recipients.len() as u64;
            }
            Some(id) => {
                let known = self.pairs.entry(id.clone()).or_default();
                for recipient in &receipt.recipients {
                    if known.insert(recipient.clone()) {
                        self.counts.distinct += 1;
                    } else {
                        self.counts.duplicated += 1;
                    }
                }
            }
        }
        self.receipts.push(receipt);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(id: Option<&str>, recipients: &[&str]) -> Receipt {
        Receipt {
            id: id.map(str::to_owned),
            arrived_ns: 1,
            sent_ns: None,
            sender: String::new(),
            recipients: recipients.iter().map(|&recipient| recipient.to_owned()).collect(),
            priority: None,
            octets: 10,
            integrity: Integrity::Intact,
            answered: true,
            content: None,
        }
    }

    #[test]
    fn the_same_message_for_another_recipient_is_no_duplicate() {
        let ledger = Ledger::default();
        ledger.enter(receipt(Some("m"), &["a@x", "b@x"]));
        ledger.enter(receipt(Some("m"), &["c@x"]));
        ledger.enter(receipt(Some("m"), &["a@x"]));
        ledger.enter(receipt(None, &["a@x"]));
        let counts = ledger.counts();
        assert_eq!((counts.received, counts.distinct, counts.duplicated, counts.unnamed), (4, 4, 1, 1));
        assert_eq!(ledger.take_report().receipts.len(), 4);
        assert_eq!(ledger.counts(), Counts::default());
    }
}
