//! The switch is started on the disk that a cut has left, and hands on all that it owes.

use crate::campaign::history::site;
use crate::campaign::marks::Marks;
use crate::campaign::{DEVICE_OCTETS, Interrupted, ROOM, go_on};
use crate::loop_device::{LoopDevice, LoopDeviceError};
use crate::recording::Pair;
use crate::replay::Image;
use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};
use sternpost_load::content::Integrity;
use sternpost_load::sink::{Protocol, Sink, SinkError, SinkOptions};
use sternpost_load::switch::{Queue, Switch, SwitchError};

/// Time from the start to the last message that is owed.
const DELIVERY_MAX: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// What is told of pairs that did not come.
const EXAMPLES_MAX: usize = 5;
/// Events that tell of damage, or of a log that does not do its work.
const COMPLAINTS: [&str; 4] = ["log.damage", "message.isolated", "log.alarm", "content.unreadable"];

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum RevivalError {
    /// Nobody wants it any more.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// The image cannot be written.
    #[error("the image of the cut cannot be written")]
    Image(#[from] io::Error),
    /// No device.
    #[error(transparent)]
    Device(#[from] LoopDeviceError),
    /// The switch does not run on it.
    #[error("the switch does not run on the image")]
    Switch(#[from] SwitchError),
    /// No next hop.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// Mail that was accepted did not come.
    #[error("LOST: {count} of {owed_count} did not come within {} s, among them {examples:?}", DELIVERY_MAX.as_secs())]
    Lost {
        /// How many.
        count: usize,
        /// Of how many.
        owed_count: usize,
        /// Some of them.
        examples: Vec<Pair>,
    },
    /// A message came that is not what was sent.
    #[error("{0} messages came that are not what was sent")]
    Damaged(usize),
    /// A message came twice.
    #[error("{} for {} came twice", .0.0, .0.1)]
    Twice(Pair),
    /// The switch has an event in its log that it must not have.
    #[error("the switch says: {0}")]
    Complaint(String),
    /// Nothing is missing, and the queue does not become empty.
    #[error("{left_count} messages are still in the queue after {} s", DELIVERY_MAX.as_secs())]
    Left {
        /// How many.
        left_count: u64,
    },
    /// The store does not answer.
    #[error("the store does not say whether its queue is empty")]
    Silent,
}

/// What the switch handed on.
#[derive(Clone, Copy, Debug)]
pub struct Revived {
    /// What it owed.
    pub owed_count: usize,
    /// What came although it had been received before the cut: that was not durable yet.
    pub repeated_count: usize,
}

/// Starts the switch on an image, which is written to `disk`, and waits for what it owes and until nothing waits any more.
///
/// # Errors
/// `RevivalError` says what went wrong; the disk is as the switch has left it.
pub fn revive(
    program: &Path,
    image: &Image,
    marks: &Marks,
    backend: &'static str,
    disk: &Path,
) -> Result<Revived, RevivalError> {
    image.save(disk, DEVICE_OCTETS)?;
    let device = LoopDevice::over(disk)?;
    let sink = |protocol| Sink::start(SinkOptions { protocol, ..SinkOptions::default() });
    let hops = [sink(Protocol::Smtp)?, sink(Protocol::Lmtp)?, sink(Protocol::Smtp)?];
    let [prompt, store, late] = [&hops[0], &hops[1], &hops[2]].map(Sink::address);
    let home = tempfile::Builder::new().prefix("sp").tempdir()?;
    let queue = Queue { path: device.path().to_owned(), room: ROOM, backend };
    let mut switch =
        Switch::start_on(program, &home.path().join("switch"), &queue, &site(prompt, store, late))?;
    let owed: BTreeSet<&Pair> = marks.owed().collect();
    let left_count = wait_until_empty(&mut switch)?;
    let arrived = arrived(&hops)?;
    let missing: Vec<Pair> =
        owed.iter().filter(|pair| !arrived.contains(**pair)).map(|&pair| pair.clone()).collect();
    if !missing.is_empty() {
        let (count, owed_count) = (missing.len(), owed.len());
        return Err(RevivalError::Lost {
            count,
            owed_count,
            examples: missing.into_iter().take(EXAMPLES_MAX).collect(),
        });
    }
    if let Some(line) = complaint(&switch.log()) {
        return Err(RevivalError::Complaint(line));
    }
    if left_count > 0 {
        return Err(RevivalError::Left { left_count });
    }
    let repeated_count = arrived.iter().filter(|pair| marks.received.contains(*pair)).count();
    Ok(Revived { owed_count: owed.len(), repeated_count })
}

/// Waits until no message lives. Gives how many still do when the time is over: why, the next hops and the log may tell.
fn wait_until_empty(switch: &mut Switch) -> Result<u64, RevivalError> {
    let deadline = Instant::now() + DELIVERY_MAX;
    loop {
        go_on()?;
        switch.check()?;
        let left_count = switch.status()?.store.messages;
        if left_count == Some(0) || Instant::now() >= deadline {
            return left_count.ok_or(RevivalError::Silent);
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// What came to the next hops: whole, and once.
fn arrived(hops: &[Sink]) -> Result<BTreeSet<Pair>, RevivalError> {
    let mut arrived = BTreeSet::new();
    let mut damaged_count = 0;
    for receipt in hops.iter().flat_map(Sink::received) {
        damaged_count += usize::from(receipt.integrity != Integrity::Intact);
        let id = receipt.id.unwrap_or_default();
        for recipient in receipt.recipients {
            let pair = (id.clone(), recipient);
            if !arrived.insert(pair.clone()) {
                return Err(RevivalError::Twice(pair));
            }
        }
    }
    if damaged_count > 0 { Err(RevivalError::Damaged(damaged_count)) } else { Ok(arrived) }
}

/// The first line of the switch's log that tells of damage, or of a log that does not do its work.
fn complaint(log: &str) -> Option<String> {
    let complains = |line: &&str| COMPLAINTS.iter().any(|event| line.contains(&written(event)));
    log.lines().find(complains).map(str::to_owned)
}

/// An event as it stands in a line.
fn written(event: &str) -> String {
    format!("event=\"{event}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the store says these things.
    const STORE: [&str; 4] = [
        include_str!("../../../workspace/store/src/device.rs"),
        include_str!("../../../workspace/store/src/service.rs"),
        include_str!("../../../workspace/store/src/service/content.rs"),
        include_str!("../../../workspace/store/src/service/isolation.rs"),
    ];

    #[test]
    fn whatever_is_complained_of_is_an_event_of_the_store() {
        for event in COMPLAINTS {
            let said = format!("event = \"{event}\"");
            assert!(STORE.iter().any(|text| text.contains(&said)), "{event}");
        }
    }

    #[test]
    fn a_message_that_is_there_in_part_is_a_complaint_and_a_log_that_was_read_is_none() {
        let recovered = "2026-11-22T18:44:05.123456Z store[4711]  INFO the log is recovered event=\"log.recovered\" \
                         backend=\"dsync\" messages=1 segments=2";
        let isolated = "2026-11-22T18:44:05.123999Z store[4711] ERROR a part of a message is lost; it is kept apart and \
                        not attempted (sternpost queue list --isolated) event=\"message.isolated\" \
                        id=5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a sequence=7 \
                        why=\"a part of it was not found when the log was opened\"";
        assert_eq!(complaint(recovered), None);
        assert_eq!(complaint(&format!("{recovered}\n{isolated}\n")), Some(isolated.to_owned()));
    }
}
