//! Reading a journal: octets in, entries out, and where the last whole one ends.

use super::{BODY_OCTETS_MAX, Entry, FRAME_HEADER_OCTETS, HEADER_OCTETS, MAGIC, VERSION};

/// The end of a frame, or of the header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Octets of the journal up to there.
    pub octets: u64,
    /// The CRC that the next frame continues.
    pub(super) crc: u32,
}

/// Why octets are no journal, or from where on they are none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// Other first octets.
    #[error("this is no journal of events")]
    Foreign,
    /// Another version of the format.
    #[error(
        "the journal is of version {found}, and this build reads version {VERSION}: use the build that has written it"
    )]
    Version {
        /// What it says.
        found: u16,
    },
    /// The header's CRC is wrong.
    #[error("the header of the journal is damaged")]
    Header,
    /// A frame's CRC is wrong: it was changed, or the frame before it was taken out.
    #[error(
        "the journal is damaged at octet {octet}, behind {entries} whole entries: something was changed or taken out there"
    )]
    Damaged {
        /// Where the frame begins.
        octet: u64,
        /// Entries in front of it.
        entries: u64,
    },
    /// The frame is whole, and its body is no entry of this version.
    #[error(
        "the journal holds at octet {octet}, behind {entries} entries, what this build does not know: use the build that has written it"
    )]
    Unknown {
        /// Where the frame begins.
        octet: u64,
        /// Entries in front of it.
        entries: u64,
    },
}

/// Reads a journal. After an error there is nothing more to read.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// What of the buffer was read.
    read: usize,
    place: Place,
    entries: u64,
}

impl Decoder {
    /// Takes more octets. What it holds stays below one frame and one piece, if [`Self::next_entry`] is asked until it gives none.
    pub fn feed(&mut self, octets: &[u8]) {
        self.buffer.drain(..self.read);
        self.read = 0;
        self.buffer.extend_from_slice(octets);
    }

    /// The next entry; none before more octets have come.
    ///
    /// # Errors
    /// What is not a journal, from where on.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, JournalError> {
        if self.place.octets == 0 && !self.header()? {
            return Ok(None);
        }
        let rest = &self.buffer[self.read..];
        let damaged = JournalError::Damaged { octet: self.place.octets, entries: self.entries };
        let Some((header, rest)) = rest.split_at_checked(FRAME_HEADER_OCTETS) else { return Ok(None) };
        let word =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (length, of_length, of_body) = (word(0) as usize, word(4), word(8));
        if crc32c::crc32c_append(self.place.crc, &header[..4]) != of_length || length > BODY_OCTETS_MAX {
            return Err(damaged);
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        if crc32c::crc32c_append(of_length, body) != of_body {
            return Err(damaged);
        }
        let unknown = JournalError::Unknown { octet: self.place.octets, entries: self.entries };
        let Ok((entry, [])) = postcard::take_from_bytes::<Entry>(body) else { return Err(unknown) };
        self.read += FRAME_HEADER_OCTETS + length;
        self.place.octets += (FRAME_HEADER_OCTETS + length) as u64;
        self.place.crc = of_body;
        self.entries += 1;
        Ok(Some(entry))
    }

    /// Where the last whole frame ends; 0 octets before the header is whole.
    #[must_use]
    pub const fn place(&self) -> Place {
        self.place
    }

    /// Octets behind it that are no whole frame.
    #[must_use]
    pub const fn torn_octets(&self) -> u64 {
        (self.buffer.len() - self.read) as u64
    }

    /// Whether the header is read.
    fn header(&mut self) -> Result<bool, JournalError> {
        let rest = &self.buffer[self.read..];
        let known = rest.len().min(MAGIC.len());
        if rest[..known] != MAGIC[..known] {
            return Err(JournalError::Foreign);
        }
        let Some(header) = rest.get(..HEADER_OCTETS) else { return Ok(false) };
        let found = u16::from_le_bytes([header[8], header[9]]);
        if found != VERSION {
            return Err(JournalError::Version { found });
        }
        let crc = crc32c::crc32c(&header[..12]);
        if header[10..12] != [0; 2] || header[12..] != crc.to_le_bytes() {
            return Err(JournalError::Header);
        }
        self.read += HEADER_OCTETS;
        self.place = Place { octets: HEADER_OCTETS as u64, crc };
        Ok(true)
    }
}

/// Entry point for fuzzing: octets as a foreign file could hold them. Each body is also read as if its CRC were right, and what
/// is understood is given to a scheduler.
pub fn fuzz_journal(octets: &[u8]) {
    /// Entries that a scheduler is given of one input.
    const ENTRIES_MAX: usize = 1_000;
    let mut decoder = Decoder::default();
    decoder.feed(octets);
    while let Ok(Some(_)) = decoder.next_entry() {}
    assert!(decoder.place().octets + decoder.torn_octets() == octets.len() as u64);
    let mut replay = super::Replay::default();
    let mut rest = octets.get(HEADER_OCTETS..).unwrap_or_default();
    for _ in 0..ENTRIES_MAX {
        let Some((header, behind)) = rest.split_at_checked(FRAME_HEADER_OCTETS) else { return };
        let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let Some((body, behind)) = behind.split_at_checked(length) else { return };
        rest = behind;
        let Ok(entry) = postcard::from_bytes::<Entry>(body) else { continue };
        if replay.take(entry).is_err() {
            return;
        }
    }
}
