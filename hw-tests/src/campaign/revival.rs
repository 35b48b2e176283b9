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
    wait_until_empty(&mut switch)?;
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
    let repeated_count = arrived.iter().filter(|pair| marks.received.contains(*pair)).count();
    Ok(Revived { owed_count: owed.len(), repeated_count })
}

/// Waits until no message lives. What is still there when the time is over shows as missing at the next hops.
fn wait_until_empty(switch: &mut Switch) -> Result<(), RevivalError> {
    let deadline = Instant::now() + DELIVERY_MAX;
    while Instant::now() < deadline {
        go_on()?;
        switch.check()?;
        if switch.status()?.store.messages == Some(0) {
            break;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    Ok(())
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

/// The first line that tells of damage, or of a log that does not do its work.
fn complaint(log: &str) -> Option<String> {
    const EVENTS: [&str; 4] = ["log.damage", "log.damaged-message", "log.alarm", "content.unreadable"];
    log.lines().find(|line| EVENTS.iter().any(|event| line.contains(event))).map(str::to_owned)
}
