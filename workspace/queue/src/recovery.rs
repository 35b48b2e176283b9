//! From a disk to what lives on it. The decision table stands in FORMAT.md.
//!
//! Reads only; [`crate::Log::open`] does the one repair that there is (a lost superblock).

use std::collections::VecDeque;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use sternpost_message::{MessageId, MessageSequence, UnixMillis};
use zerocopy::FromBytes;

use crate::format::{
    BatchHeader, CONTENT_OVERHEAD_OCTETS, ContentHead, Follows, Geometry, HEAD_OCTETS, HEADER, HEADER_OCTETS,
    Kind, PAGE, PAGE_OCTETS, RECORD_HEADER_OCTETS, SUPERBLOCK_B_OFFSET, Salt, SegmentHeader, Superblock,
    split_record,
};
use crate::index::{Effect, Index, MessageEffect, Place};
use crate::reader::{decode_message, decode_outcome};
use crate::{AlignedBuffer, Disk, DiskError};

/// Why a log was not opened. Nothing was written then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The disk did not read or write.
    #[error("the log cannot be read")]
    Disk(#[from] DiskError),
    /// Neither superblock is valid.
    #[error(
        "this is no log: neither superblock is valid. If it held one, somebody has to look at it before it is lost for good. If \
         nothing on it is wanted, write the mark of a blank queue to it: {{ echo STERNPOST QUEUE BLANK 1; head -c 65512 \
         /dev/zero; }} | dd of=PATH bs=64K count=1 iflag=fullblock conv=notrunc"
    )]
    NoLog,
    /// Written by a later version.
    #[error("the log has version {0}, which is not known")]
    Version(u32),
    /// The superblock's geometry does not fit the disk.
    #[error("the log's geometry ({0:?}) does not fit a disk of {1} octets with blocks of {2}")]
    Geometry(Geometry, u64, u32),
}

/// A place that does not hold what was written there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where on the disk.
    pub offset: u64,
    /// How long.
    pub octets: u64,
    /// What was there.
    pub what: DamagedPart,
}

/// What a damaged place held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DamagedPart {
    /// A superblock; the other one was good.
    #[error("superblock")]
    Superblock,
    /// The first page of a segment; its batches were found without it.
    #[error("segment header")]
    SegmentHeader,
    /// A whole segment that the log went through. The place says only that it is not known.
    #[error("whole segment")]
    Segment,
    /// One batch or more.
    #[error("batches")]
    Batches,
    /// A record in a batch that is otherwise good.
    #[error("record")]
    Record,
    /// The content of a living message does not have its SHA-256. Found by `verify` alone.
    #[error("content")]
    Content,
}

/// What opening a log found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Batches applied.
    pub batches: u64,
    /// Records applied.
    pub records: u64,
    /// Octets read.
    pub read_octets: u64,
    /// Messages that live.
    pub living_messages: u64,
    /// Where on the disk a last batch stood that was not complete: never acknowledged, dropped.
    pub torn_tail: Option<u64>,
    /// Places that do not hold what was written there.
    pub damage: Vec<Damage>,
    /// Messages of whose content a part is lost. They are kept apart: listed, and never handed out.
    pub damaged_messages: Vec<(MessageSequence, MessageId)>,
}

/// Where the next batch goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) segment: u32,
    pub(crate) use_number: u64,
    pub(crate) offset: u32,
}

/// All that a writer or an inspector goes on from.
pub(crate) struct Recovered {
    pub(crate) superblock: Superblock,
    /// The offset of the superblock to rewrite.
    pub(crate) lost_superblock: Option<u64>,
    pub(crate) index: Index,
    pub(crate) uses: Vec<u64>,
    /// Living segments, oldest first.
    pub(crate) ring: VecDeque<u32>,
    pub(crate) head: Option<Head>,
    pub(crate) last: Follows,
    pub(crate) start_use: u64,
    pub(crate) next_use: u64,
    pub(crate) next_sequence: u64,
    pub(crate) next_message: u64,
    pub(crate) report: RecoveryReport,
}

/// What the log on `disk` says of itself. Reads the superblocks, and writes nothing.
///
/// # Errors
/// As for opening the log.
pub fn geometry(disk: &mut impl Disk) -> Result<Geometry, OpenError> {
    read_superblock(disk).map(|(superblock, _)| superblock.geometry)
}

/// Reads both superblocks.
fn read_superblock(disk: &mut impl Disk) -> Result<(Superblock, Option<u64>), OpenError> {
    let mut page = [0; PAGE_OCTETS];
    let (octets, block) = (disk.octets(), disk.block_octets());
    if octets < HEAD_OCTETS {
        return Err(OpenError::NoLog);
    }
    disk.read(0, &mut page)?;
    let a = Superblock::decode(&page);
    disk.read(SUPERBLOCK_B_OFFSET, &mut page)?;
    let b = Superblock::decode(&page);
    let (superblock, lost) = match (a, b) {
        (Some(a), Some(b)) => (if b.generation > a.generation { b } else { a }, None),
        (Some(a), None) => (a, Some(SUPERBLOCK_B_OFFSET)),
        (None, Some(b)) => (b, Some(0)),
        (None, None) => return Err(OpenError::NoLog),
    };
    if !superblock.version_is_known() {
        return Err(OpenError::Version(superblock.version));
    }
    let geometry = superblock.geometry;
    let block_fits = block != 0 && PAGE.is_multiple_of(block);
    if !geometry.is_sound() || geometry.octets() > octets || !block_fits {
        return Err(OpenError::Geometry(geometry, octets, block));
    }
    Ok((superblock, lost))
}

/// One batch found in a segment.
struct Found {
    header: BatchHeader,
    crc: u32,
    body_is_valid: bool,
}

/// What a segment holds of one use.
struct Scan {
    /// Batches with a valid header, ascending; the last one's body is valid.
    batches: Vec<Found>,
    /// Ranges in which no batch was found although there is one behind them.
    gaps: Vec<(u32, u32)>,
    /// Batches behind the last good one whose header is valid and whose body is not.
    trailing: Vec<Found>,
    /// The octet behind the last good batch.
    end: u32,
}

/// Finds the batches of one use in the octets of its segment. `before`: sequence and CRC that the first one follows,
/// if the segment's header is there to tell.
fn scan(octets: &[u8], salt: Salt, segment: u32, use_number: u64, before: Option<(u64, u32)>) -> Scan {
    let length = crate::batch::to_u32(octets.len());
    let mut before = before;
    let decode = |offset: u32, before: Option<(u64, u32)>| {
        BatchHeader::decode(octets, salt, segment, use_number, offset).filter(|(header, _)| match before {
            None => true,
            Some((sequence, crc)) => {
                header.sequence > sequence
                    && (header.sequence - 1 != sequence || header.predecessor_crc == crc)
            }
        })
    };
    let mut found = Scan { batches: Vec::new(), gaps: Vec::new(), trailing: Vec::new(), end: PAGE };
    let mut offset = PAGE;
    while offset < length {
        let Some((header, crc)) = decode(offset, before) else {
            let next = (offset..length).step_by(PAGE_OCTETS).skip(1).find(|at| decode(*at, before).is_some());
            let Some(next) = next else { break };
            found.gaps.push((offset, next));
            offset = next;
            continue;
        };
        let body_at = offset as usize + HEADER_OCTETS;
        let body = &octets[body_at..body_at + header.body_octets as usize];
        let batch = Found { header, crc, body_is_valid: salt.crc(body) == header.body_crc };
        before = Some((header.sequence, crc));
        offset = offset.saturating_add(header.octets());
        if batch.body_is_valid {
            found.batches.append(&mut found.trailing);
            found.batches.push(batch);
            found.end = offset.min(length);
        } else {
            found.trailing.push(batch);
        }
    }
    // A gap behind the last good batch ends at one whose body is not valid: that is no damage before the tail.
    let end = found.end;
    found.gaps.retain(|(start, _)| *start < end);
    found
}

/// A use that lives.
struct Located {
    segment: u32,
    use_number: u64,
    header: Option<SegmentHeader>,
    /// The sequence behind which this use is void: what its successor follows. None at the head, or when the successor's
    /// header is lost.
    limit: Option<u64>,
}

/// Reads everything that lives.
pub(crate) fn recover<D: Disk>(
    disk: &mut D,
    recent_ids_max: usize,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Recovered, OpenError> {
    let (superblock, lost_superblock) = read_superblock(disk)?;
    let geometry = superblock.geometry;
    let mut recovered = Recovered {
        superblock,
        lost_superblock,
        index: Index::new(geometry.segments, recent_ids_max),
        uses: vec![0; geometry.segments as usize],
        ring: VecDeque::new(),
        head: None,
        last: Follows::default(),
        start_use: 1,
        next_use: 1,
        next_sequence: 1,
        next_message: 1,
        report: RecoveryReport::default(),
    };
    if let Some(offset) = lost_superblock {
        recovered.damage(offset, PAGE_OCTETS as u64, DamagedPart::Superblock);
    }
    let mut page = [0; PAGE_OCTETS];
    let mut headers = Vec::new();
    for segment in 0..geometry.segments {
        disk.read(geometry.offset_of(segment, 0), &mut page)?;
        headers.extend(SegmentHeader::decode(&page, &superblock.secret, segment));
    }
    let Some(newest) = headers.iter().max_by_key(|header| header.use_number).copied() else {
        return Ok(recovered);
    };
    for header in &headers {
        recovered.next_message = recovered.next_message.max(header.next_message);
        recovered.next_use = recovered.next_use.max(header.use_number.saturating_add(1));
    }
    let mut buffer = AlignedBuffer::with_capacity(geometry.segment_octets as usize);
    buffer.resize(geometry.segment_octets as usize).expect("the buffer was made for a segment");

    let head_scan =
        recovered.scan_segment(disk, &mut buffer, newest.segment, newest.use_number, Some(&newest))?;
    recovered.start_use = head_scan
        .batches
        .last()
        .map_or(newest.start_use, |batch| batch.header.start_use.max(newest.start_use));
    let path = recovered.path(disk, &headers, newest)?;
    let total = path.len() as u64;
    for (done, located) in (1..).zip(path.iter().rev()) {
        recovered.replay(disk, &mut buffer, located)?;
        progress(done, total);
    }
    recovered.finish(newest);
    Ok(recovered)
}

impl Recovered {
    fn damage(&mut self, offset: u64, octets: u64, what: DamagedPart) {
        self.report.damage.push(Damage { offset, octets, what });
    }

    fn salt(&self, segment: u32, use_number: u64) -> Salt {
        Salt::of_use(&self.superblock.secret, segment, use_number)
    }

    fn scan_segment<D: Disk>(
        &mut self,
        disk: &mut D,
        buffer: &mut AlignedBuffer,
        segment: u32,
        use_number: u64,
        header: Option<&SegmentHeader>,
    ) -> Result<Scan, OpenError> {
        disk.read(self.superblock.geometry.offset_of(segment, 0), buffer.as_mut_slice())?;
        self.report.read_octets += buffer.len() as u64;
        let before = header.map(|header| (header.first_sequence.saturating_sub(1), header.follows.crc));
        Ok(scan(buffer.as_slice(), self.salt(segment, use_number), segment, use_number, before))
    }

    /// The living uses, newest first: from the head backwards by what each one follows.
    fn path<D: Disk>(
        &mut self,
        disk: &mut D,
        headers: &[SegmentHeader],
        newest: SegmentHeader,
    ) -> Result<Vec<Located>, OpenError> {
        let by_use: FxHashMap<u64, SegmentHeader> =
            headers.iter().map(|header| (header.use_number, *header)).collect();
        let mut below: Vec<u64> = by_use.keys().copied().collect();
        below.sort_unstable();
        let lower = |bound: u64| below[..below.partition_point(|known| *known < bound)].last().copied();
        let mut path = vec![Located {
            segment: newest.segment,
            use_number: newest.use_number,
            header: Some(newest),
            limit: None,
        }];
        let mut wanted = (newest.follows.use_number, Some(newest.follows.sequence));
        let mut above = newest.use_number;
        while wanted.0 >= self.start_use && wanted.0 != 0 && wanted.0 < above {
            let (use_number, limit) = wanted;
            above = use_number;
            if let Some(header) = by_use.get(&use_number) {
                path.push(Located { segment: header.segment, use_number, header: Some(*header), limit });
                wanted = (header.follows.use_number, Some(header.follows.sequence));
                continue;
            }
            let segment_octets = u64::from(self.superblock.geometry.segment_octets);
            match self.probe(disk, use_number, &path)? {
                Some(segment) => {
                    let offset = self.superblock.geometry.offset_of(segment, 0);
                    self.damage(offset, PAGE_OCTETS as u64, DamagedPart::SegmentHeader);
                    path.push(Located { segment, use_number, header: None, limit });
                }
                None => self.damage(0, segment_octets, DamagedPart::Segment),
            }
            wanted = (lower(use_number).unwrap_or(0), None);
        }
        Ok(path)
    }

    /// The segment whose first batch belongs to `use_number`, whatever its header says.
    fn probe<D: Disk>(
        &self,
        disk: &mut D,
        use_number: u64,
        taken: &[Located],
    ) -> Result<Option<u32>, OpenError> {
        let geometry = self.superblock.geometry;
        let mut pages = vec![0; geometry.segment_octets as usize];
        for segment in
            (0..geometry.segments).filter(|segment| taken.iter().all(|other| other.segment != *segment))
        {
            disk.read(geometry.offset_of(segment, PAGE), &mut pages[PAGE_OCTETS..PAGE_OCTETS * 2])?;
            let salt = self.salt(segment, use_number);
            if BatchHeader::decode(&pages, salt, segment, use_number, PAGE).is_some() {
                return Ok(Some(segment));
            }
        }
        Ok(None)
    }

    /// Applies the batches of one use.
    fn replay<D: Disk>(
        &mut self,
        disk: &mut D,
        buffer: &mut AlignedBuffer,
        located: &Located,
    ) -> Result<(), OpenError> {
        let Located { segment, use_number, limit, .. } = *located;
        let found = self.scan_segment(disk, buffer, segment, use_number, located.header.as_ref())?;
        let at = |offset: u32| self.superblock.geometry.offset_of(segment, offset);
        let mut damage: Vec<_> =
            found.gaps.iter().map(|(start, end)| (at(*start), u64::from(end - start))).collect();
        let is_head = located.limit.is_none() && self.next_use == use_number + 1;
        let within = |batch: &&Found| limit.is_none_or(|limit| batch.header.sequence <= limit);
        let lost_trailing = found.trailing.iter().filter(|batch| limit.is_some() && within(batch));
        let lost =
            found.batches.iter().filter(|batch| !batch.body_is_valid && within(batch)).chain(lost_trailing);
        damage.extend(lost.map(|batch| (at(batch.header.offset), u64::from(batch.header.octets()))));
        let seen = found.batches.iter().chain(&found.trailing).rfind(within);
        let last_sequence = seen.map_or_else(
            || located.header.map_or(0, |header| header.first_sequence.saturating_sub(1)),
            |batch| batch.header.sequence,
        );
        if limit.is_some_and(|limit| last_sequence < limit) {
            let start =
                found.trailing.last().map_or(found.end, |batch| batch.header.offset + batch.header.octets());
            let octets = self.superblock.geometry.segment_octets - start;
            damage.push((at(start), u64::from(octets)));
        }
        if is_head {
            self.report.torn_tail = found.trailing.first().map(|batch| at(batch.header.offset));
        }
        for (offset, octets) in damage {
            self.damage(offset, octets, DamagedPart::Batches);
        }
        for batch in found.batches.iter().filter(|batch| batch.body_is_valid && within(batch)) {
            let start = batch.header.offset as usize + HEADER_OCTETS;
            let body = &buffer.as_slice()[start..start + batch.header.body_octets as usize];
            self.apply(&batch.header, body);
            self.last = Follows { use_number, sequence: batch.header.sequence, crc: batch.crc };
        }
        self.uses[segment as usize] = use_number;
        self.ring.push_back(segment);
        self.head = Some(Head { segment, use_number, offset: found.end });
        Ok(())
    }

    fn apply(&mut self, header: &BatchHeader, body: &[u8]) {
        self.report.batches += 1;
        self.next_message = self.next_message.max(header.next_message);
        let at = UnixMillis(header.written_at_ms);
        let mut rest = body;
        let mut offset = header.offset + HEADER;
        while !rest.is_empty() {
            let Some((record, octets, taken)) = split_record(rest) else {
                let disk_offset = self.superblock.geometry.offset_of(header.segment, offset);
                self.damage(disk_offset, rest.len() as u64, DamagedPart::Record);
                return;
            };
            let length = crate::batch::to_u32(RECORD_HEADER_OCTETS + octets.len());
            let place = Place { segment: header.segment, offset, octets: length };
            let effect =
                Kind::from_number(record.kind.get()).and_then(|kind| self.decode(kind, octets, place));
            match effect {
                Some(effect) => {
                    self.report.records += 1;
                    self.index.apply(effect, at, &mut None);
                }
                None => {
                    let disk_offset = self.superblock.geometry.offset_of(header.segment, offset);
                    self.damage(disk_offset, taken as u64, DamagedPart::Record);
                }
            }
            rest = &rest[taken..];
            offset += crate::batch::to_u32(taken);
        }
    }

    fn decode(&mut self, kind: Kind, body: &[u8], place: Place) -> Option<Effect> {
        Some(match kind {
            Kind::Content => {
                let (head, octets) = ContentHead::read_from_prefix(body).ok()?;
                if octets.is_empty() {
                    return None;
                }
                Effect::Content {
                    message: head.id(),
                    index: head.index.get(),
                    owner: head.owner.get(),
                    place,
                }
            }
            Kind::Envelope | Kind::Moved => {
                let (head, envelope, states) = decode_message(body)?;
                // No log holds more chunks than headers of chunks.
                let chunks_max = self.superblock.geometry.octets() / CONTENT_OVERHEAD_OCTETS as u64;
                if u64::from(head.chunks.get()) > chunks_max || envelope.recipients.is_empty() {
                    return None;
                }
                let sequence = MessageSequence(head.sequence.get());
                self.next_message = self.next_message.max(sequence.0.saturating_add(1));
                Effect::Message(Box::new(MessageEffect {
                    message: MessageId(head.message),
                    sequence,
                    envelope: Arc::new(envelope),
                    content_octets: head.content_octets.get(),
                    chunks: head.chunks.get(),
                    place,
                    states: (kind == Kind::Moved).then_some(states),
                }))
            }
            Kind::Outcome => {
                let (head, outcomes) = decode_outcome(body)?;
                Effect::Outcome {
                    sequence: MessageSequence(head.sequence.get()),
                    outcomes: outcomes.into(),
                    place,
                }
            }
            Kind::Discarded => {
                let (id, _) = <[u8; 16]>::read_from_prefix(body).ok()?;
                Effect::Discarded { message: MessageId(id) }
            }
        })
    }

    fn finish(&mut self, newest: SegmentHeader) {
        // The head may have a header and no batch; then the next batch is the one that the header announces.
        let head_has_batches = self.last.use_number == newest.use_number;
        if !head_has_batches {
            self.last = newest.follows;
        }
        let after_last = self.last.sequence.saturating_add(1);
        self.next_sequence = if head_has_batches { after_last } else { newest.first_sequence };
        for sequence in self.index.settle() {
            let id = self.index.get(sequence).map_or(MessageId([0; 16]), |living| living.id);
            self.report.damaged_messages.push((sequence, id));
        }
        self.report.living_messages = self.index.living_count();
    }
}
