//! Reading a log without writing to it: for `sternpost queue list`, `show`, `verify` and `export`.
//!
//! [`inspect`] reads what lives as the store would. [`Inspection::search`] then looks at every record for itself, and
//! [`Inspection::verify`] at the content of every message.

mod findings;
mod sums;
mod walk;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use sternpost_message::{MessageId, MessageSequence, UnixMillis};

use crate::append::Parameters;
use crate::event::{MessageDetail, MessageFacts, PartialFacts, ReadError};
use crate::format::{Geometry, SegmentHeader};
use crate::index::Index;
use crate::place::Place;
use crate::reader::Shelf;
use crate::recovery::{Damage, DamagedPart, OpenError, Reading, RecoveryReport, recover};
use crate::source::Source;
use crate::{AlignedBuffer, Disk, stand_in};

use crate::format::{PAGE_OCTETS, Salt};
use findings::Findings;
pub use findings::{DamagedPlace, DamagedRecord, RecordCounts, RecordKind};
use sums::Sums;
use walk::{Segment, Sight};

/// How far a long reading is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Segments, or messages, that are done.
    pub done: u64,
    /// Of how many.
    pub total: u64,
}

/// A message that cannot be handed out as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IsolatedFacts {
    /// Its place in the order of acceptance.
    pub sequence: MessageSequence,
    /// Its name.
    pub id: MessageId,
    /// What is wrong with it.
    pub why: Isolation,
}

/// Why a message is kept apart.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Isolation {
    /// Chunks of its content are lost.
    #[error(
        "{lost_count} of the {chunks_count} chunks of its content are lost, the first of them chunk {first}"
    )]
    Content {
        /// How many.
        lost_count: u32,
        /// Of how many.
        chunks_count: u32,
        /// The first of them, from 0.
        first: u32,
    },
    /// Each record of it is as it was written, and its content is not.
    #[error("its content does not have its SHA-256")]
    Sha256,
    /// What is known of it stands in a damaged batch.
    #[error("it is known from a damaged batch alone, so that the switch may not know it")]
    Stray,
    /// Its envelope cannot be read.
    #[error("its envelope is damaged")]
    Envelope,
}

/// What a whole reading has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verification {
    /// Segments between the log's start and its head.
    pub segments_living: u32,
    /// Batches in them that are whole.
    pub batches: u64,
    /// The records of these batches.
    pub records: RecordCounts,
    /// Octets that were read from the disk for all that, more than once where something was compared more than once.
    pub read_octets: u64,
    /// When the first and the last of the batches were written.
    pub written: Option<(UnixMillis, UnixMillis)>,
    /// All damage, that of the report included; none means that everything is as it was written.
    pub damage: Vec<DamagedPlace>,
    /// Messages that are concerned.
    pub isolated: Vec<IsolatedFacts>,
}

/// A log that is only read. Opens nothing, repairs nothing.
pub struct Inspection<D> {
    shelf: Shelf<Source<D>>,
    index: Index,
    report: RecoveryReport,
    /// Made by [`Self::search`].
    findings: Option<Findings>,
}

/// Reads the whole living range of the log on `disk`, checking every CRC. Pages that the disk does not read in several attempts
/// are damage, here and in what is read later.
///
/// # Errors
/// `OpenError` when this is no log, or the disk cannot be read.
pub fn inspect<D: Disk>(disk: D, progress: &mut dyn FnMut(Progress)) -> Result<Inspection<D>, OpenError> {
    let parameters = Parameters { recent_content_octets_max: 0, ..Parameters::default() };
    let mut source = Source::new(disk, true);
    // As many ids as for opening: which of them are remembered decides what a damaged log still says of a message.
    let recovered = recover(&mut source, &parameters, Reading::InFull, progress)?;
    let superblock = recovered.superblock;
    let mut shelf = Shelf::new(source, superblock.geometry, superblock.secret, &parameters);
    shelf.uses = recovered.uses;
    Ok(Inspection { shelf, index: recovered.index, report: recovered.report, findings: None })
}

impl<D: Disk> Inspection<D> {
    /// The disk, for a test to let it go bad.
    #[cfg(test)]
    pub(crate) const fn disk_mut(&mut self) -> &mut D {
        &mut self.shelf.disk.disk
    }

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

    /// The messages that only damaged batches know, ascending; none before [`Self::search`].
    pub fn strays(&self) -> impl Iterator<Item = &MessageDetail> {
        self.findings.iter().flat_map(Findings::strays)
    }

    /// The message of this id, living or stray.
    pub fn find(&self, id: MessageId) -> Option<MessageSequence> {
        self.index.find(id).or_else(|| self.findings.as_ref()?.find(id))
    }

    /// Envelope and recipients of a message.
    ///
    /// # Errors
    /// `ReadError` when its records cannot be read back.
    pub fn message(&mut self, sequence: MessageSequence) -> Result<Option<MessageDetail>, ReadError> {
        let stray = self.findings.as_ref().and_then(|findings| findings.get(sequence));
        let detail = match stray {
            Some(stray) => Some(stray.clone()),
            None => self.shelf.detail(&self.index, sequence)?,
        };
        stand_in::refuse(detail)
    }

    /// Copies content of a living message from `offset` on; gives how many octets.
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

    /// The content of one chunk; none behind the last. What the log has lost is looked for in damaged batches, when they have
    /// been searched.
    ///
    /// # Errors
    /// As [`crate::Log::read_chunk`].
    pub fn read_chunk(
        &mut self,
        sequence: MessageSequence,
        chunk: u32,
    ) -> Result<Option<Arc<[u8]>>, ReadError> {
        let living = self.index.get(sequence);
        let stray = self
            .findings
            .as_ref()
            .and_then(|findings| Some((findings.get(sequence)?.id, findings.chunks_of(sequence)?)));
        let (id, known) = match (living, stray) {
            (Some(living), _) => {
                let place = usize::try_from(chunk).ok().and_then(|chunk| living.chunks().get(chunk));
                let Some(place) = place else { return Ok(None) };
                (living.id, Some(*place).filter(|place| !place.is_missing()))
            }
            (None, Some((_, chunks))) if chunk >= chunks => return Ok(None),
            (None, Some((id, _))) => {
                let partial = self.index.partial(id);
                (id, partial.and_then(|partial| partial.chunks.get(&chunk).copied()))
            }
            (None, None) => return Err(ReadError::Unknown(sequence)),
        };
        let salvaged = || self.findings.as_ref()?.chunk(id, chunk);
        let place = known.or_else(salvaged).unwrap_or_default();
        self.shelf.chunk(sequence, id, chunk, place).map(|octets| Some(octets.into()))
    }

    /// Looks at every record of the living range, and for whole ones in what is damaged.
    ///
    /// # Errors
    /// `Disk` when the device does not read; damage is no error.
    pub fn search(&mut self, progress: &mut dyn FnMut(Progress)) -> Result<(), ReadError> {
        let mut findings = Findings::default();
        let geometry = self.shelf.geometry;
        let mut buffer = AlignedBuffer::with_capacity(geometry.segment_octets as usize);
        buffer.resize(geometry.segment_octets as usize).expect("the buffer was made for a segment");
        let uses = self.uses_in_order();
        let total = uses.len() as u64;
        let mut limits = Vec::with_capacity(uses.len());
        for pair in uses.windows(2) {
            limits.push(self.limit_of(pair[0].0, pair[1].1)?);
        }
        limits.push(None);
        for (done, ((use_number, number), limit)) in (1..).zip(uses.into_iter().zip(limits)) {
            self.shelf.disk.read(geometry.offset_of(number, 0), buffer.as_mut_slice())?;
            findings.read_octets += buffer.len() as u64;
            let salt = Salt::of_use(&self.shelf.secret, number, use_number);
            let octets = buffer.as_slice();
            let segment = Segment { octets, salt, number, use_number, limit, sums: Sums::new(octets) };
            segment.walk(&self.damage_in(number), &mut |sight| match sight {
                Sight::Batch(header) => findings.batch(header.written_at_ms),
                Sight::Record(record) => {
                    let place = Place::new(number, record.offset, record.octets);
                    findings.record(&record, place, geometry, &self.index);
                }
            });
            progress(Progress { done, total });
        }
        findings.settle(&self.index);
        self.findings = Some(findings);
        Ok(())
    }

    /// The living segments by their use numbers: use and segment, oldest first.
    fn uses_in_order(&self) -> Vec<(u64, u32)> {
        let uses = (0..).zip(&self.shelf.uses);
        let mut uses: Vec<_> =
            uses.filter(|(_, used)| **used != 0).map(|(segment, used)| (*used, segment)).collect();
        uses.sort_unstable();
        uses
    }

    /// The last batch of a use that counts: the one that the use behind it follows.
    fn limit_of(&mut self, use_number: u64, next: u32) -> Result<Option<u64>, ReadError> {
        let mut page = [0; PAGE_OCTETS];
        self.shelf.disk.read(self.shelf.geometry.offset_of(next, 0), &mut page)?;
        let header = SegmentHeader::decode(&page, &self.shelf.secret, next);
        Ok(header
            .filter(|header| header.follows.use_number == use_number)
            .map(|header| header.follows.sequence))
    }

    /// The ranges of a segment in which recovery has missed batches or records.
    fn damage_in(&self, segment: u32) -> Vec<Range<u32>> {
        let start = self.shelf.geometry.offset_of(segment, 0);
        let octets = u64::from(self.shelf.geometry.segment_octets);
        let is_missed = |what| matches!(what, DamagedPart::Batches | DamagedPart::Record);
        let missed = self.report.damage.iter().filter(|damage| is_missed(damage.what));
        let mut ranges: Vec<_> = missed
            .filter(|damage| (start..start + octets).contains(&damage.offset))
            .filter_map(|damage| {
                let from = u32::try_from(damage.offset - start).ok()?;
                let to = u32::try_from((damage.offset - start + damage.octets).min(octets)).ok()?;
                Some(from..to)
            })
            .collect();
        ranges.sort_unstable_by_key(|range| range.start);
        ranges
    }

    /// Searches, if that was not done yet, and compares the content of every living message with its SHA-256.
    ///
    /// # Errors
    /// `Disk` when the device does not read at all; damage is no error.
    pub fn verify(&mut self, progress: &mut dyn FnMut(Progress)) -> Result<Verification, ReadError> {
        if self.findings.is_none() {
            self.search(&mut |_| {})?;
        }
        let mut damage = Vec::new();
        let mut isolated = Vec::new();
        let sequences: Vec<_> = self.index.living_from(0).map(|(sequence, _)| sequence).collect();
        let total = sequences.len() as u64;
        let mut read_octets = self.report.read_octets;
        for (done, sequence) in (1..).zip(sequences) {
            let Some((id, place, octets)) =
                self.index.get(sequence).map(|living| (living.id, living.place, living.content_octets()))
            else {
                continue;
            };
            read_octets += octets;
            if let Some(why) = self.isolation(sequence)? {
                if why == Isolation::Sha256 {
                    let offset = self.shelf.geometry.offset_of(place.segment(), place.offset());
                    damage.push(Damage { offset, octets, what: DamagedPart::Content });
                }
                isolated.push(IsolatedFacts { sequence, id, why });
            }
            progress(Progress { done, total });
        }
        let strays = self.strays().map(|stray| IsolatedFacts {
            sequence: stray.sequence,
            id: stray.id,
            why: Isolation::Stray,
        });
        isolated.extend(strays);
        damage.extend(self.report.damage.iter().cloned());
        damage.extend(self.unreadable_since());
        let segments_living = self.shelf.uses.iter().filter(|used| **used != 0).count();
        let findings = self.findings.as_ref().expect("it was searched above");
        Ok(Verification {
            segments_living: crate::batch::to_u32(segments_living),
            batches: findings.batches,
            records: findings.records,
            read_octets: read_octets + findings.read_octets,
            written: findings.written,
            damage: findings.places(&damage),
            isolated,
        })
    }

    /// Pages that the disk has not read since the report was made.
    fn unreadable_since(&self) -> impl Iterator<Item = Damage> {
        let pages = self.shelf.disk.lost().iter().map(|page| Damage {
            offset: *page,
            octets: PAGE_OCTETS as u64,
            what: DamagedPart::Unreadable,
        });
        let known = self.report.damage.iter().filter(|damage| damage.what == DamagedPart::Unreadable);
        let known: BTreeSet<(u64, u64)> = known.map(|damage| (damage.offset, damage.octets)).collect();
        pages.filter(move |damage| !known.contains(&(damage.offset, damage.octets)))
    }

    /// What is wrong with a living message, if anything is.
    fn isolation(&mut self, sequence: MessageSequence) -> Result<Option<Isolation>, ReadError> {
        let detail = match self.message(sequence) {
            Ok(Some(detail)) => detail,
            Err(ReadError::Disk(error)) => return Err(error.into()),
            Ok(None) | Err(_) => return Ok(Some(Isolation::Envelope)),
        };
        let chunks_count = self.index.get(sequence).map_or(0, |living| living.chunks().len());
        let chunks_count = crate::batch::to_u32(chunks_count);
        let mut hash = Sha256::new();
        let (mut octets, mut lost_count, mut first) = (0, 0, 0);
        for chunk in 0..chunks_count {
            let missing = self.index.get(sequence).is_some_and(|living| {
                living.chunks().get(chunk as usize).is_some_and(|place| place.is_missing())
            });
            // What stands in a damaged batch is lost for the switch, though it can be exported.
            let read =
                if missing { Err(ReadError::Missing(sequence)) } else { self.read_chunk(sequence, chunk) };
            match read {
                Ok(part) => {
                    let part = part.unwrap_or_default();
                    hash.update(&part);
                    octets += part.len() as u64;
                }
                Err(ReadError::Disk(error)) => return Err(error.into()),
                Err(_) => {
                    first = if lost_count == 0 { chunk } else { first };
                    lost_count += 1;
                }
            }
        }
        if lost_count > 0 {
            return Ok(Some(Isolation::Content { lost_count, chunks_count, first }));
        }
        let sha256: [u8; 32] = hash.finalize().into();
        let is_whole = octets == detail.content_octets && sha256 == detail.content_sha256;
        Ok((!is_whole).then_some(Isolation::Sha256))
    }
}
