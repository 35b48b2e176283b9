//! What client and next hop saw, written down on the device of the log itself: each image of a cut carries its own oracle.
//!
//! The zone of the marks lies behind the log. A record is one sector: header, then lines of text, `accepted ID RECIPIENT` or
//! `received ID RECIPIENT`. Records are written in order from the zone's begin, without the page cache and *without a
//! flush*, because a flush would make the log's own writes durable by the way and hide a store that does not sync. Instead
//! the zone counts as memory that needs no flush: whatever was written there before a cut is there after it
//! ([`crate::write_log::WriteLog::take_as_durable`]).
//!
//! `accepted` is written after the client has read the 250; `received` before the next hop gives its reply, which waits until the
//! mark is written. So at every cut: an accepted mark says that the log owes the message, unless a received mark says that
//! the log may know already that it is gone.

use crate::recording::Pair;
use rustix::fs::OFlags;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use sternpost_load::sink::Receipt;
use sternpost_load::source::Acceptance;
use sternpost_load::witness::Witness;
use sternpost_queue::AlignedBuffer;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A record.
const SECTOR_OCTETS: usize = 512;
const MAGIC: u64 = u64::from_le_bytes(*b"SP MARKS");
/// Records that are written at once.
const RECORDS_MAX: usize = 8;

#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    magic: U64,
    /// From 0.
    number: U64,
    text_octets: U32,
    /// CRC32C of the two fields before it and of the text.
    crc: U32,
}
const HEADER_OCTETS: usize = size_of::<Header>();
const _: () = assert!(HEADER_OCTETS == 24);
const TEXT_OCTETS_MAX: usize = SECTOR_OCTETS - HEADER_OCTETS;

/// What somebody saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// The client has read the 250.
    Accepted,
    /// The next hop has read the message to its end, and is about to say 250.
    Received,
}

impl Seen {
    const fn word(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Received => "received",
        }
    }
}

fn crc(number: u64, text: &[u8]) -> u32 {
    let octets_count = u32::try_from(text.len()).unwrap_or(u32::MAX);
    let seed = crc32c::crc32c(&number.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(seed, &octets_count.to_le_bytes()), text)
}

fn record(number: u64, text: &str) -> [u8; SECTOR_OCTETS] {
    let header = Header {
        magic: MAGIC.into(),
        number: number.into(),
        text_octets: u32::try_from(text.len()).unwrap_or(u32::MAX).into(),
        crc: crc(number, text.as_bytes()).into(),
    };
    let mut sector = [0; SECTOR_OCTETS];
    sector[..HEADER_OCTETS].copy_from_slice(header.as_bytes());
    sector[HEADER_OCTETS..HEADER_OCTETS + text.len()].copy_from_slice(text.as_bytes());
    sector
}

/// Lines put together so that each text fits a record.
fn texts(seen: Seen, pairs: &[Pair]) -> Vec<String> {
    let mut texts = vec![String::new()];
    for (id, recipient) in pairs {
        let line = format!("{} {id} {recipient}\n", seen.word());
        assert!(line.len() <= TEXT_OCTETS_MAX, "addresses of this load are short");
        match texts.last_mut() {
            Some(text) if text.len() + line.len() <= TEXT_OCTETS_MAX => text.push_str(&line),
            _ => texts.push(line),
        }
    }
    texts
}

/// What stands in a zone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Messages for recipients whose 250 a client had read.
    pub accepted: BTreeSet<Pair>,
    /// Those that a next hop had received.
    pub received: BTreeSet<Pair>,
    /// Records.
    pub records_count: u64,
}

impl Marks {
    /// Reads a zone up to the first sector that is no record in order.
    #[must_use]
    pub fn read(zone: &[u8]) -> Self {
        let mut marks = Self::default();
        for (sector, number) in zone.chunks_exact(SECTOR_OCTETS).zip(0..) {
            let Some(text) = text(sector, number) else { break };
            marks.records_count += 1;
            for line in text.lines() {
                let mut words = line.split(' ');
                let (Some(word), Some(id), Some(recipient)) = (words.next(), words.next(), words.next())
                else {
                    continue;
                };
                let pairs =
                    if word == Seen::Accepted.word() { &mut marks.accepted } else { &mut marks.received };
                pairs.insert((id.to_owned(), recipient.to_owned()));
            }
        }
        marks
    }

    /// What the switch still has to hand on: accepted, and not received.
    pub fn owed(&self) -> impl Iterator<Item = &Pair> {
        self.accepted.difference(&self.received)
    }
}

fn text(sector: &[u8], number: u64) -> Option<&str> {
    let (header, rest) = Header::read_from_prefix(sector).ok()?;
    let text = rest.get(..usize::try_from(header.text_octets.get()).ok()?)?;
    let is_record =
        header.magic.get() == MAGIC && header.number.get() == number && header.crc.get() == crc(number, text);
    std::str::from_utf8(text).ok().filter(|_| is_record)
}

/// Writes marks.
#[derive(Debug)]
struct Zone {
    device: File,
    range: Range<u64>,
    records_count: u64,
    /// What went wrong first. Nothing is written after it.
    error: Option<io::Error>,
}

impl Zone {
    fn write(&mut self, seen: Seen, pairs: &[Pair]) {
        if self.error.is_none() {
            self.error = self.try_write(seen, pairs).err();
        }
    }

    fn try_write(&mut self, seen: Seen, pairs: &[Pair]) -> io::Result<()> {
        for texts in texts(seen, pairs).chunks(RECORDS_MAX) {
            let numbered = (self.records_count..).zip(texts);
            let octets: Vec<u8> = numbered.flat_map(|(number, text)| record(number, text)).collect();
            let at = self.range.start + self.records_count * SECTOR_OCTETS as u64;
            if at + octets.len() as u64 > self.range.end {
                return Err(io::ErrorKind::StorageFull.into());
            }
            // Without the page cache memory must be aligned; a buffer of the log is.
            let buffer = AlignedBuffer::from_octets(&octets);
            self.device.write_all_at(&buffer.as_slice()[..octets.len()], at)?;
            self.records_count += texts.len() as u64;
        }
        Ok(())
    }
}

/// Writes down what the witnesses see, while a load runs.
#[derive(Debug)]
pub struct Scribe {
    zone: Arc<Mutex<Zone>>,
    acceptances: Sender<Vec<Pair>>,
    writer: JoinHandle<()>,
}

fn locked(zone: &Mutex<Zone>) -> std::sync::MutexGuard<'_, Zone> {
    // It is whole after each statement.
    zone.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Scribe {
    /// Writes to a range of a device, from its begin on.
    ///
    /// # Errors
    /// What the system says of the device.
    pub fn start(device: &Path, range: Range<u64>) -> io::Result<Self> {
        let direct = i32::try_from(OFlags::DIRECT.bits()).map_err(io::Error::other)?;
        let device = File::options().write(true).custom_flags(direct).open(device)?;
        let zone = Arc::new(Mutex::new(Zone { device, range, records_count: 0, error: None }));
        let (acceptances, told) = mpsc::channel();
        let theirs = Arc::clone(&zone);
        let writer = std::thread::Builder::new()
            .name("acceptances".to_owned())
            .spawn(move || write_acceptances(&theirs, &told))?;
        Ok(Self { zone, acceptances, writer })
    }

    /// For a source: its 250s are written down by a thread of their own, many at a time when they come fast.
    #[must_use]
    pub fn on_acceptance(&self) -> Witness<Acceptance> {
        let acceptances = self.acceptances.clone();
        Witness::new(move |acceptance: &Acceptance| {
            let pairs =
                acceptance.recipients.iter().map(|recipient| (acceptance.id.clone(), recipient.clone()));
            // Nobody listens any more when the load is over: then it is not judged.
            let _ = acceptances.send(pairs.collect());
        })
    }

    /// For a sink: its reply waits until the receipt is written down.
    #[must_use]
    pub fn on_receipt(&self) -> Witness<Receipt> {
        let zone = Arc::clone(&self.zone);
        Witness::new(move |receipt: &Receipt| {
            let Some(id) = &receipt.id else { return };
            let pairs: Vec<Pair> =
                receipt.recipients.iter().map(|recipient| (id.clone(), recipient.clone())).collect();
            locked(&zone).write(Seen::Received, &pairs);
        })
    }

    /// Writes down what was told so far. All witnesses must be gone.
    ///
    /// # Errors
    /// The first thing that went wrong while marks were written: there are marks missing then.
    ///
    /// # Panics
    /// When the writing thread has.
    pub fn finish(self) -> io::Result<()> {
        drop(self.acceptances);
        self.writer.join().expect("writing marks does not panic");
        let mut zone = locked(&self.zone);
        zone.error.take().map_or(Ok(()), Err)
    }
}

/// Takes what has gathered while the last records were written. Ends with the last sender.
fn write_acceptances(zone: &Mutex<Zone>, told: &Receiver<Vec<Pair>>) {
    while let Ok(first) = told.recv() {
        let pairs: Vec<Pair> = std::iter::once(first).chain(told.try_iter()).flatten().collect();
        locked(zone).write(Seen::Accepted, &pairs);
    }
}

/// Makes zones for tests, as a scribe does.
#[cfg(test)]
pub(crate) fn encode(accepted: &[Pair], received: &[Pair]) -> Vec<u8> {
    let texts = texts(Seen::Accepted, accepted).into_iter().chain(texts(Seen::Received, received));
    (0..).zip(texts).flat_map(|(number, text)| record(number, &text)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(number: u32) -> Pair {
        (format!("run-{number:08}"), format!("user{number}@good.test"))
    }

    fn zone() -> (tempfile::NamedTempFile, Zone) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(32 * SECTOR_OCTETS as u64).unwrap();
        let device = file.reopen().unwrap();
        let range = SECTOR_OCTETS as u64..32 * SECTOR_OCTETS as u64;
        (file, Zone { device, range, records_count: 0, error: None })
    }

    #[test]
    fn marks_read_back_however_they_were_gathered() {
        let (file, mut zone) = zone();
        let pairs: Vec<Pair> = (0..60).map(pair).collect();
        zone.write(Seen::Accepted, &pairs[..1]);
        zone.write(Seen::Received, &pairs[..1]);
        zone.write(Seen::Accepted, &pairs[1..]);
        assert!(zone.error.is_none());
        let octets = std::fs::read(file.path()).unwrap();
        let marks = Marks::read(&octets[SECTOR_OCTETS..]);
        assert_eq!(marks.accepted, pairs.iter().cloned().collect());
        assert_eq!(marks.received, [pair(0)].into());
        assert_eq!(marks.owed().count(), 59);
        assert_eq!(marks.records_count, zone.records_count);
    }

    #[test]
    fn a_zone_is_read_up_to_what_is_no_record() {
        let (file, mut zone) = zone();
        for number in 0..3 {
            zone.write(Seen::Accepted, &[pair(number)]);
        }
        let whole = std::fs::read(file.path()).unwrap()[SECTOR_OCTETS..].to_vec();
        assert_eq!(Marks::read(&whole).records_count, 3);
        for at in [SECTOR_OCTETS, SECTOR_OCTETS + 9, SECTOR_OCTETS + 17, SECTOR_OCTETS + 40] {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            assert_eq!(Marks::read(&damaged).accepted, [pair(0)].into(), "{at}");
        }
        assert_eq!(Marks::read(&whole[SECTOR_OCTETS..]), Marks::default());
        assert_eq!(Marks::read(&[]), Marks::default());
    }

    #[test]
    fn a_zone_that_is_full_says_so() {
        let (_file, mut zone) = zone();
        for number in 0..100 {
            zone.write(Seen::Accepted, &[pair(number)]);
        }
        assert_eq!(zone.error.map(|error| error.kind()), Some(io::ErrorKind::StorageFull));
    }
}
