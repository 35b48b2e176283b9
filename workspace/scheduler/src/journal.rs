//! The journal of a run: every event that a scheduler was given, with the actions that it answered, as octets.
//!
//! JOURNAL.md describes them. An [`Encoder`] makes them from what QMGR applies, a [`Decoder`] reads them again, and a
//! [`Replay`] gives them to a fresh scheduler and compares. Not here: files (`qmgr` writes them, `sternpost queue replay`
//! reads them).

mod decoder;
mod replay;

use serde::{Deserialize, Serialize};
use sternpost_message::UnixMillis;

use crate::{Action, Event};

pub use decoder::{Decoder, JournalError, Place, fuzz_journal};
pub use replay::{Difference, Mismatch, Replay, Started, Summary};

/// The first octets of a journal.
const MAGIC: [u8; 8] = *b"SPEVENTS";
/// The version of the format that this build writes, and the only one that it reads.
pub const VERSION: u16 = 2;
/// Magic, version, two octets of zero, CRC.
const HEADER_OCTETS: usize = 16;
/// Length, its CRC, the CRC of the body.
const FRAME_HEADER_OCTETS: usize = 12;
/// The largest body of a frame. The largest event is a configuration, which comes from at most 32 MiB of entries of the directory.
pub const BODY_OCTETS_MAX: usize = 32 << 20;
/// What [`Entry::Full`] takes with its header.
const FULL_OCTETS: u64 = FRAME_HEADER_OCTETS as u64 + 1;

/// One entry of a journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// A scheduler without tree and configuration takes the place of the one before, if there was one.
    Begin {
        /// The build that records.
        build: String,
        /// What the wall clock said.
        wall: UnixMillis,
    },
    /// It was given this event …
    Event {
        /// … at this instant, of lived time.
        now: UnixMillis,
        /// Which.
        event: Event,
    },
    /// What it answered to the event before. An event without answer has no such entry.
    Actions(Vec<Action>),
    /// The recording has reached its bound: the run went on without it.
    Full,
}

/// The same as [`Entry`], of what somebody else owns.
#[derive(Serialize)]
enum Entered<'a> {
    Begin { build: &'a str, wall: UnixMillis },
    Event { now: UnixMillis, event: &'a Event },
    Actions(&'a [Action]),
    Full,
}

/// Why no further entry is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The journal has its largest size; its last entry says so.
    #[error("the journal has reached its largest size")]
    Full,
    /// One entry is larger than any reader takes.
    #[error("an event or its actions take more than {BODY_OCTETS_MAX} octets")]
    TooLarge,
}

/// Makes a journal. What it has made is taken away by the driver, piece by piece.
#[derive(Debug)]
pub struct Encoder {
    /// Made and not taken away.
    octets: Vec<u8>,
    /// Where the next frame begins, and the CRC of the frame before.
    place: Place,
    octets_max: u64,
    is_full: bool,
}

impl Encoder {
    /// A journal of at most `octets_max` octets.
    #[must_use]
    pub fn new(octets_max: u64) -> Self {
        let mut octets = MAGIC.to_vec();
        octets.extend_from_slice(&VERSION.to_le_bytes());
        octets.extend_from_slice(&[0; 2]);
        let crc = crc32c::crc32c(&octets);
        octets.extend_from_slice(&crc.to_le_bytes());
        let place = Place { octets: HEADER_OCTETS as u64, crc };
        Self { octets, place, octets_max, is_full: false }
    }

    /// A fresh scheduler begins.
    ///
    /// # Errors
    /// `Full`, `TooLarge`.
    pub fn begin(&mut self, build: &str, wall: UnixMillis) -> Result<(), EncodeError> {
        self.append(&Entered::Begin { build, wall })
    }

    /// The scheduler is about to be given this event.
    ///
    /// # Errors
    /// `Full`, `TooLarge`.
    pub fn event(&mut self, now: UnixMillis, event: &Event) -> Result<(), EncodeError> {
        self.append(&Entered::Event { now, event })
    }

    /// It has answered with these actions.
    ///
    /// # Errors
    /// `Full`, `TooLarge`.
    pub fn actions(&mut self, actions: &[Action]) -> Result<(), EncodeError> {
        if actions.is_empty() {
            return if self.is_full { Err(EncodeError::Full) } else { Ok(()) };
        }
        self.append(&Entered::Actions(actions))
    }

    /// What was made since it was taken away last.
    #[must_use]
    pub fn octets(&self) -> &[u8] {
        &self.octets
    }

    /// They are taken away.
    pub fn clear(&mut self) {
        self.octets.clear();
    }

    fn append(&mut self, entry: &Entered<'_>) -> Result<(), EncodeError> {
        if self.is_full {
            return Err(EncodeError::Full);
        }
        let (begin, before) = (self.octets.len(), self.place);
        self.frame(entry)?;
        if self.place.octets.saturating_add(FULL_OCTETS) <= self.octets_max {
            return Ok(());
        }
        self.octets.truncate(begin);
        self.place = before;
        self.is_full = true;
        if before.octets + FULL_OCTETS <= self.octets_max {
            self.frame(&Entered::Full)?;
        }
        Err(EncodeError::Full)
    }

    /// Appends one frame, or nothing.
    fn frame(&mut self, entry: &Entered<'_>) -> Result<(), EncodeError> {
        let begin = self.octets.len();
        let mut octets = std::mem::take(&mut self.octets);
        octets.extend_from_slice(&[0; FRAME_HEADER_OCTETS]);
        octets =
            postcard::to_extend(entry, octets).expect("an entry has nothing that postcard does not take");
        let body = begin + FRAME_HEADER_OCTETS;
        let length = octets.len() - body;
        if length > BODY_OCTETS_MAX {
            octets.truncate(begin);
            self.octets = octets;
            return Err(EncodeError::TooLarge);
        }
        let length = u32::try_from(length).expect("a body is below 4 GiB").to_le_bytes();
        let of_length = crc32c::crc32c_append(self.place.crc, &length);
        let of_body = crc32c::crc32c_append(of_length, &octets[body..]);
        octets[begin..begin + 4].copy_from_slice(&length);
        octets[begin + 4..begin + 8].copy_from_slice(&of_length.to_le_bytes());
        octets[begin + 8..body].copy_from_slice(&of_body.to_le_bytes());
        self.place = Place { octets: self.place.octets + (octets.len() - begin) as u64, crc: of_body };
        self.octets = octets;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sternpost_message::{ErrorScope, MessageSequence, MlistId, RecipientRange, RouteIndex};

    fn mlist() -> MlistId {
        MlistId { message: MessageSequence(7), route: RouteIndex(1) }
    }

    fn deferred() -> Event {
        let recipients = vec![RecipientRange { first: 0, count: 2 }];
        Event::Deferred { mlist: mlist(), recipients, scope: ErrorScope::Peer }
    }

    fn late() -> Vec<Action> {
        vec![Action::DelayReportDue { mlist: mlist(), recipients: Vec::new() }]
    }

    fn example(octets_max: u64) -> Encoder {
        let mut encoder = Encoder::new(octets_max);
        encoder.begin("0.1.0", UnixMillis(5)).unwrap();
        encoder.event(UnixMillis(6), &deferred()).unwrap();
        encoder.actions(&late()).unwrap();
        encoder
    }

    fn entries(octets: &[u8]) -> Result<Vec<Entry>, JournalError> {
        let mut decoder = Decoder::default();
        decoder.feed(octets);
        std::iter::from_fn(|| decoder.next_entry().transpose()).collect()
    }

    fn expected() -> Vec<Entry> {
        vec![
            Entry::Begin { build: "0.1.0".into(), wall: UnixMillis(5) },
            Entry::Event { now: UnixMillis(6), event: deferred() },
            Entry::Actions(late()),
        ]
    }

    #[test]
    fn what_was_entered_is_read_again() {
        let mut encoder = example(1_000);
        assert_eq!(entries(encoder.octets()).unwrap(), expected());
        encoder.actions(&[]).unwrap();
        assert_eq!(entries(encoder.octets()).unwrap().len(), 3, "no answer takes no room");
    }

    #[test]
    fn cutting_the_octets_anywhere_gives_the_same_entries() {
        let octets = example(1_000).octets().to_vec();
        for cut in 0..=octets.len() {
            let mut decoder = Decoder::default();
            let mut found = Vec::new();
            for part in [&octets[..cut], &octets[cut..]] {
                decoder.feed(part);
                while let Some(entry) = decoder.next_entry().unwrap() {
                    found.push(entry);
                }
            }
            assert_eq!(found, expected(), "{cut}");
            assert_eq!((decoder.torn_octets(), decoder.place().octets), (0, octets.len() as u64));
        }
    }

    #[test]
    fn a_torn_end_gives_what_is_whole() {
        let octets = example(1_000).octets().to_vec();
        for cut in HEADER_OCTETS..octets.len() {
            let mut decoder = Decoder::default();
            decoder.feed(&octets[..cut]);
            let whole: Vec<_> = std::iter::from_fn(|| decoder.next_entry().unwrap()).collect();
            assert!(whole.len() < 3 && decoder.place().octets + decoder.torn_octets() == cut as u64);
            assert_eq!(whole[..], expected()[..whole.len()], "{cut}");
        }
    }

    #[test]
    fn an_octet_that_is_changed_anywhere_is_noticed() {
        let octets = example(1_000).octets().to_vec();
        for at in 0..octets.len() {
            let mut changed = octets.clone();
            changed[at] ^= 0x40;
            let error = entries(&changed).unwrap_err();
            let wanted = match at {
                0..8 => matches!(error, JournalError::Foreign),
                8..10 => matches!(error, JournalError::Version { .. }),
                10..HEADER_OCTETS => matches!(error, JournalError::Header),
                _ => matches!(error, JournalError::Damaged { .. }),
            };
            assert!(wanted, "octet {at}: {error}");
        }
    }

    #[test]
    fn a_frame_that_is_taken_out_or_moved_is_noticed() {
        let mut encoder = Encoder::new(1_000);
        let mut ends = vec![encoder.octets().len()];
        for at in 0..3 {
            encoder.event(UnixMillis(at), &Event::Wake).unwrap();
            ends.push(encoder.octets().len());
        }
        let octets = encoder.octets();
        let (first, second) = (&octets[ends[0]..ends[1]], &octets[ends[1]..ends[2]]);
        let rest = &octets[ends[2]..];
        let head = &octets[..ends[0]];
        for parts in [vec![head, second, rest], vec![head, first, rest], vec![head, second, first, rest]] {
            let error = entries(&parts.concat()).unwrap_err();
            assert!(matches!(error, JournalError::Damaged { .. }), "{error}");
        }
    }

    #[test]
    fn a_journal_never_exceeds_its_bound_and_says_that_it_is_full() {
        let whole = example(u64::MAX).octets().len();
        for octets_max in HEADER_OCTETS..whole + usize::try_from(FULL_OCTETS).unwrap() {
            let mut encoder = Encoder::new(octets_max as u64);
            let steps = [
                encoder.begin("0.1.0", UnixMillis(5)),
                encoder.event(UnixMillis(6), &deferred()),
                encoder.actions(&late()),
            ];
            assert_eq!(steps[2], Err(EncodeError::Full), "{octets_max}");
            assert_eq!(encoder.actions(&[]), Err(EncodeError::Full));
            assert!(encoder.octets().len() <= octets_max);
            let taken = steps.iter().filter(|step| step.is_ok()).count();
            let found = entries(encoder.octets()).unwrap();
            assert_eq!(found[..taken], expected()[..taken]);
            let has_room = octets_max >= HEADER_OCTETS + usize::try_from(FULL_OCTETS).unwrap();
            assert_eq!(found.get(taken), has_room.then_some(&Entry::Full), "{octets_max}");
        }
    }

    #[test]
    fn what_is_empty_has_not_even_begun() {
        let mut decoder = Decoder::default();
        assert_eq!(decoder.next_entry(), Ok(None));
        assert_eq!(decoder.place().octets, 0);
        decoder.feed(&MAGIC);
        assert_eq!(decoder.next_entry(), Ok(None));
        assert_eq!((decoder.place().octets, decoder.torn_octets()), (0, 8));
        assert_eq!(entries(b"something else, and long enough"), Err(JournalError::Foreign));
        // A short file of another kind is told apart by what it has.
        assert_eq!(entries(b"hello"), Err(JournalError::Foreign));
    }
}
