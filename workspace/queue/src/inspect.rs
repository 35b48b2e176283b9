//! Reading a log without writing to it: for `sternpost queue list`, `show` and `verify`.

use sha2::{Digest, Sha256};
use sternpost_message::{MessageId, MessageSequence};

use crate::Disk;
use crate::append::Parameters;
use crate::event::{MessageDetail, MessageFacts, PartialFacts, ReadError};
use crate::format::{CHUNK_OCTETS_MAX, Geometry};
use crate::index::Index;
use crate::reader::Shelf;
use crate::recovery::{Damage, DamagedPart, OpenError, Reading, RecoveryReport, recover};

/// How far a long reading is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Segments, or messages, that are done.
    pub done: u64,
    /// Of how many.
    pub total: u64,
}

/// A log that is only read. Opens nothing, repairs nothing.
pub struct Inspection<D> {
    shelf: Shelf<D>,
    index: Index,
    report: RecoveryReport,
}

/// Reads the whole living range of the log on `disk`, checking every CRC.
///
/// # Errors
/// `OpenError` when this is no log, or the disk cannot be read.
pub fn inspect<D: Disk>(mut disk: D, progress: &mut dyn FnMut(Progress)) -> Result<Inspection<D>, OpenError> {
    let recovered = recover(&mut disk, 0, Reading::InFull, progress)?;
    let superblock = recovered.superblock;
    let parameters = Parameters { recent_content_octets_max: 0, ..Parameters::default() };
    let mut shelf = Shelf::new(disk, superblock.geometry, superblock.secret, &parameters);
    shelf.uses = recovered.uses;
    Ok(Inspection { shelf, index: recovered.index, report: recovered.report })
}

impl<D: Disk> Inspection<D> {
    /// How the device is divided.
    pub const fn geometry(&self) -> Geometry {
        self.shelf.geometry
    }

    /// What was found on the way, damage among it.
    pub const fn report(&self) -> &RecoveryReport {
        &self.report
    }

    /// The living messages, ascending.
    pub fn messages(&self) -> impl Iterator<Item = MessageFacts> + '_ {
        self.index.living_from(0).map(|(sequence, living)| self.index.facts_of(sequence, living))
    }

    /// Content without envelope.
    pub fn partials(&self) -> impl Iterator<Item = PartialFacts> + '_ {
        self.index.partials()
    }

    /// The living message of this id.
    pub fn find(&self, id: MessageId) -> Option<MessageSequence> {
        self.index.find(id)
    }

    /// Envelope and recipients of a living message.
    ///
    /// # Errors
    /// `ReadError` when its records cannot be read back.
    pub fn message(&mut self, sequence: MessageSequence) -> Result<Option<MessageDetail>, ReadError> {
        self.shelf.detail(&self.index, sequence)
    }

    /// Copies content from `offset` on; gives how many octets.
    ///
    /// # Errors
    /// As [`crate::Log::read_content`].
    pub fn read_content(
        &mut self,
        sequence: MessageSequence,
        offset: u64,
        into: &mut [u8],
    ) -> Result<usize, ReadError> {
        self.shelf.content(&self.index, sequence, offset, into)
    }

    /// Compares the content of every living message with its SHA-256. All damage of the log comes back, that of the
    /// report included; none means that everything is as it was written.
    ///
    /// # Errors
    /// `Disk` when the device does not read at all; damage is no error.
    pub fn verify(&mut self, progress: &mut dyn FnMut(Progress)) -> Result<Vec<Damage>, ReadError> {
        let mut damage = self.report.damage.clone();
        let sequences: Vec<_> = self.index.living_from(0).map(|(sequence, _)| sequence).collect();
        let total = sequences.len() as u64;
        for (done, sequence) in (1..).zip(sequences) {
            if !self.content_is_whole(sequence)? {
                let place = self.index.get(sequence).map(|living| living.place).unwrap_or_default();
                let offset = self.shelf.geometry.offset_of(place.segment(), place.offset());
                let octets = self.index.get(sequence).map_or(0, |living| living.content_octets());
                damage.push(Damage { offset, octets, what: DamagedPart::Content });
            }
            progress(Progress { done, total });
        }
        Ok(damage)
    }

    fn content_is_whole(&mut self, sequence: MessageSequence) -> Result<bool, ReadError> {
        let detail = match self.message(sequence) {
            Ok(Some(detail)) => detail,
            Err(ReadError::Disk(error)) => return Err(error.into()),
            Ok(None) | Err(_) => return Ok(false),
        };
        let mut hash = Sha256::new();
        let mut piece = vec![0; CHUNK_OCTETS_MAX];
        let mut offset = 0;
        while offset < detail.content_octets {
            match self.read_content(sequence, offset, &mut piece) {
                Ok(0) => break,
                Ok(count) => {
                    hash.update(&piece[..count]);
                    offset += count as u64;
                }
                Err(ReadError::Disk(error)) => return Err(error.into()),
                Err(_) => return Ok(false),
            }
        }
        let sha256: [u8; 32] = hash.finalize().into();
        Ok(offset == detail.content_octets && sha256 == detail.content_sha256)
    }
}
