//! From a disk to what lives on it. The decision table stands in FORMAT.md.
//!
//! Reads only; [`crate::Log::open`] does the two repairs that there are (a lost superblock, a lost header of the head).

use std::collections::VecDeque;
use std::sync::Arc;

use sternpost_message::{MessageId, MessageSequence, UnixMillis};
use zerocopy::FromBytes;

use crate::append::Parameters;
use crate::batch::to_u32;
use crate::claim::Claim;
use crate::entry::Entry;
use crate::format::{
    BatchHeader, ContentHead, Follows, Footer, Geometry, HEAD_OCTETS, HEADER, Kind, MessageHead, PAGE,
    PAGE_OCTETS, RECORD_HEADER_OCTETS, SUPERBLOCK_B_OFFSET, Salt, SegmentHeader, Superblock, VERSION,
    split_record,
};
use crate::index::{Effect, Index, MessageEffect};
use crate::path::Located;
use crate::place::Place;
use crate::reader::{decode_message, decode_outcome, is_sound};
use crate::runs::Runs;
use crate::scan::{Body, Found, Scan, scan};
use crate::seal::{Gathered, Seals};
use crate::source::Source;
use crate::{AlignedBuffer, Disk, DiskError, Progress};

/// Why a log was not opened. Nothing was written then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The disk did not read or write.
    #[error("the log cannot be read")]
    Disk(#[from] DiskError),
    /// Neither superblock is valid.
    #[error(
        "this is no log. Is the path right? It is the file or device that [queue] path of the bootstrap names; on the disk of a \
         device the partition named queue"
    )]
    NoLog,
    /// Written by another version.
    #[error(
        "the log has version {0}, and this build reads version {VERSION} alone: run the build that wrote it until its queue is \
         empty, then give this one a blank log"
    )]
    Version(u32),
    /// A copy that has not all of the log, say.
    #[error(
        "the log has {octets} octets, and this file or device {} fewer: it is cut short. Bring the whole copy; to save what is \
         here, lengthen a copy of it: truncate -s {octets} COPY",
        octets.saturating_sub(*found_octets)
    )]
    CutShort {
        /// What the log was made with.
        octets: u64,
        /// What there is.
        found_octets: u64,
    },
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
    /// A page that the disk did not read in many attempts.
    #[error("unreadable")]
    Unreadable,
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
    /// Segments that live.
    pub segments: u64,
    /// Those of them whose index was read instead of their batches.
    pub segments_by_index: u64,
    /// Batches read and applied.
    pub batches: u64,
    /// Records read and applied.
    pub records: u64,
    /// Octets read.
    pub read_octets: u64,
    /// Messages that live.
    pub living_messages: u64,
    /// Where on the disk a last batch stood that was not complete: never acknowledged, dropped.
    pub torn_tail: Option<u64>,
    /// Places that do not hold what was written there.
    pub damage: Vec<Damage>,
    /// Messages of which a part is lost. They are kept apart: listed, and never handed out.
    pub damaged_messages: Vec<(MessageSequence, MessageId)>,
}

/// How the sealed segments are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// By their indexes, where these are whole.
    ByIndex,
    /// Every batch, every octet.
    InFull,
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
    /// The header of the head, if it is to be written again.
    pub(crate) lost_header: Option<SegmentHeader>,
    pub(crate) index: Index,
    pub(crate) uses: Vec<u64>,
    /// Living segments, oldest first, and how far they are filled.
    pub(crate) ring: VecDeque<(u32, u32)>,
    pub(crate) head: Option<Head>,
    pub(crate) last: Follows,
    pub(crate) start_use: u64,
    pub(crate) next_use: u64,
    pub(crate) next_sequence: u64,
    pub(crate) next_message: u64,
    pub(crate) seals: Seals,
    pub(crate) report: RecoveryReport,
    /// Messages that an index knows, and where their envelopes stood.
    lost_envelopes: Vec<(MessageSequence, Place)>,
    /// The ids that the heads of damaged envelopes name.
    claimed: Vec<MessageId>,
    /// Partial messages one of which may belong to a damaged envelope that does not say whose it was.
    pub(crate) kept_partials: Vec<MessageId>,
}

/// What the log on `disk` says of itself. Reads the superblocks, and writes nothing.
///
/// # Errors
/// As for opening the log.
pub fn geometry(disk: &mut impl Disk) -> Result<Geometry, OpenError> {
    read_superblock(&mut Source::new(disk, true)).map(|(superblock, _)| superblock.geometry)
}

/// Reads both superblocks.
fn read_superblock<D: Disk>(source: &mut Source<D>) -> Result<(Superblock, Option<u64>), OpenError> {
    let mut page = [0; PAGE_OCTETS];
    if source.octets() < HEAD_OCTETS {
        return Err(too_short(source));
    }
    let a = source.read(0, &mut page).map(|()| Superblock::decode(&page));
    source.read(SUPERBLOCK_B_OFFSET, &mut page)?;
    // The first page that is asked for cannot tell a bad page from a device that is away; the second one can.
    let a = match a {
        Err(error) if source.lost().is_empty() => return Err(error.into()),
        a => a.ok().flatten(),
    };
    let b = Superblock::decode(&page);
    let (superblock, lost) = match (a, b) {
        (Some(a), Some(b)) => (if b.generation > a.generation { b } else { a }, None),
        (Some(a), None) => (a, Some(SUPERBLOCK_B_OFFSET)),
        (None, Some(b)) => (b, Some(0)),
        (None, None) => return Err(OpenError::NoLog),
    };
    check(&superblock, source)?;
    Ok((superblock, lost))
}

/// Whether a log with this superblock can be on this disk.
fn check<D: Disk>(superblock: &Superblock, source: &Source<D>) -> Result<(), OpenError> {
    if !superblock.version_is_known() {
        return Err(OpenError::Version(superblock.version));
    }
    let (geometry, found_octets, block) = (superblock.geometry, source.octets(), source.block_octets());
    let block_fits = block != 0 && PAGE.is_multiple_of(block);
    if !geometry.is_sound() || !block_fits {
        return Err(OpenError::Geometry(geometry, found_octets, block));
    }
    let octets = geometry.octets();
    if octets > found_octets { Err(OpenError::CutShort { octets, found_octets }) } else { Ok(()) }
}

/// What is wrong with a disk that has no room for both superblocks: the first of them may tell what it was.
fn too_short<D: Disk>(source: &mut Source<D>) -> OpenError {
    let mut page = [0; PAGE_OCTETS];
    if source.octets() < PAGE_OCTETS as u64 {
        return OpenError::NoLog;
    }
    if let Err(error) = source.read(0, &mut page) {
        return error.into();
    }
    let wrong = Superblock::decode(&page).and_then(|superblock| check(&superblock, source).err());
    wrong.unwrap_or(OpenError::NoLog)
}

/// Reads everything that lives.
///
/// If the source allows it, pages that the disk does not read are damage, and no reason to stop.
pub(crate) fn recover<D: Disk>(
    disk: &mut Source<D>,
    parameters: &Parameters,
    reading: Reading,
    progress: &mut dyn FnMut(Progress),
) -> Result<Recovered, OpenError> {
    let (superblock, lost_superblock) = read_superblock(disk)?;
    let geometry = superblock.geometry;
    let mut recovered = Recovered {
        superblock,
        lost_superblock,
        lost_header: None,
        index: Index::new(geometry.segments, parameters.recent_ids_max),
        uses: vec![0; geometry.segments as usize],
        ring: VecDeque::new(),
        head: None,
        last: Follows::default(),
        start_use: 1,
        next_use: 1,
        next_sequence: 1,
        next_message: 1,
        seals: Seals::default(),
        report: RecoveryReport::default(),
        lost_envelopes: Vec::new(),
        claimed: Vec::new(),
        kept_partials: Vec::new(),
    };
    if let Some(offset) = lost_superblock {
        recovered.damage(offset, PAGE_OCTETS as u64, DamagedPart::Superblock);
    }
    let mut buffer = AlignedBuffer::with_capacity(geometry.segment_octets as usize);
    buffer.resize(geometry.segment_octets as usize).expect("the buffer was made for a segment");
    let survey = recovered.survey(disk, &mut buffer)?;
    let Some(head) = recovered.find_head(disk, &mut buffer, &survey)? else { return Ok(recovered) };
    let newest = head.clone();
    let path = recovered.path(disk, &mut buffer, &survey, head)?;
    let total = path.len() as u64;
    for (done, located) in (1..).zip(path.iter().rev()) {
        if reading == Reading::InFull
            || located.is_head
            || !recovered.read_index(disk, &mut buffer, located)?
        {
            recovered.replay(disk, &mut buffer, located)?;
        }
        progress(Progress { done, total });
    }
    for page in disk.lost() {
        recovered.damage(*page, PAGE_OCTETS as u64, DamagedPart::Unreadable);
    }
    recovered.finish(&newest);
    Ok(recovered)
}

impl Recovered {
    pub(crate) fn damage(&mut self, offset: u64, octets: u64, what: DamagedPart) {
        self.report.damage.push(Damage { offset, octets, what });
    }

    pub(crate) fn salt(&self, segment: u32, use_number: u64) -> Salt {
        Salt::of_use(&self.superblock.secret, segment, use_number)
    }

    /// What a segment holds of a use.
    pub(crate) fn scan_segment<D: Disk>(
        &mut self,
        disk: &mut Source<D>,
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

    /// Applies the index of a sealed segment. False when it has none that is whole, or that covers what it should.
    fn read_index<D: Disk>(
        &mut self,
        disk: &mut Source<D>,
        buffer: &mut AlignedBuffer,
        located: &Located,
    ) -> Result<bool, OpenError> {
        let Some((footer, body)) = self.index_of(disk, buffer, located)? else { return Ok(false) };
        let Some(entries) = self.entries(&footer, &body) else { return Ok(false) };
        let mut at = UnixMillis(0);
        for entry in entries {
            let after = entry.sequence().map_or(0, |sequence| sequence.saturating_add(1));
            self.next_message = self.next_message.max(after);
            entry.apply(&mut self.index, located.segment, &mut at);
        }
        self.next_message = self.next_message.max(footer.next_message);
        self.report.segments_by_index += 1;
        self.took(located, footer.end, footer.last);
        Ok(true)
    }

    /// Footer and entries of a sealed segment's index, if it has its CRC and covers what it should.
    fn index_of<D: Disk>(
        &mut self,
        disk: &mut Source<D>,
        buffer: &mut AlignedBuffer,
        located: &Located,
    ) -> Result<Option<(Footer, Vec<u8>)>, OpenError> {
        let Located { segment, use_number, limit, .. } = *located;
        let Superblock { secret, geometry, .. } = self.superblock;
        let Some(footer) = self.footer(disk, buffer, segment, use_number)? else { return Ok(None) };
        if limit.is_some_and(|limit| limit != footer.last.sequence) {
            return Ok(None);
        }
        let body = &mut buffer.as_mut_slice()[..footer.body_octets as usize];
        disk.read(geometry.offset_of(segment, footer.offset), body)?;
        self.report.read_octets += body.len() as u64;
        let is_whole = Salt::of_index(&secret, segment, use_number).crc(body) == footer.body_crc;
        Ok(is_whole.then(|| (footer, body.to_vec())))
    }

    /// The entries of an index, if they are as its footer says.
    fn entries<'a>(&self, footer: &Footer, body: &'a [u8]) -> Option<Vec<Entry<'a>>> {
        let entries = Entry::read_all(body, footer.segment, self.superblock.geometry);
        entries.filter(|entries| entries.len() as u64 == u64::from(footer.entries))
    }

    /// A use was read.
    fn took(&mut self, located: &Located, end: u32, last: Follows) {
        let Located { segment, use_number, .. } = *located;
        self.report.segments += 1;
        self.last = last;
        self.uses[segment as usize] = use_number;
        let filled = if located.was_given_up { self.superblock.geometry.segment_octets } else { end };
        self.ring.push_back((segment, filled));
        self.head = Some(Head { segment, use_number, offset: end });
    }

    /// Applies the batches of one use. Where an envelope is damaged and the use has an index, that tells of its message.
    fn replay<D: Disk>(
        &mut self,
        disk: &mut Source<D>,
        buffer: &mut AlignedBuffer,
        located: &Located,
    ) -> Result<(), OpenError> {
        let Located { segment, use_number, limit, is_head, .. } = *located;
        let index = if is_head { None } else { self.index_of(disk, buffer, located)? };
        let spare = index.as_ref().and_then(|(footer, body)| self.entries(footer, body));
        let found = self.scan_segment(disk, buffer, segment, use_number, Some(&located.header))?;
        let damage_before = self.report.damage.len();
        let last_sequence = self.tell_missing(&found, located);
        let first_sequence = located.header.first_sequence;
        let mut gathered = Gathered { segment, use_number, end: PAGE, first_sequence, ..Gathered::default() };
        let mut last = self.last;
        // What stands behind the last whole batch is a torn tail, unless a successor tells that it was good.
        let trailing = if limit.is_some() { &found.trailing[..] } else { &[] };
        for batch in found.batches.iter().chain(trailing) {
            let at = self.superblock.geometry.offset_of(segment, batch.header.offset);
            if limit.is_some_and(|limit| batch.header.sequence > limit) {
                break;
            }
            if batch.body == Body::Lost {
                self.damage(at, u64::from(batch.header.octets()), DamagedPart::Batches);
            } else {
                self.apply(batch, buffer.as_slice(), &mut gathered, spare.as_deref());
            }
            last = Follows { use_number, sequence: batch.header.sequence, crc: batch.crc };
        }
        self.took(located, found.end, last);
        let is_whole = self.report.damage.len() == damage_before && !located.header_is_lost;
        if is_head {
            self.report.torn_tail = found
                .trailing
                .first()
                .map(|batch| self.superblock.geometry.offset_of(segment, batch.header.offset));
            self.seals.go_on(gathered);
        } else if is_whole && limit == Some(last_sequence) {
            self.seals.seal(gathered, last);
        }
        Ok(())
    }

    /// Reports where batches should be and none is. Gives the sequence of the last batch that there is.
    fn tell_missing(&mut self, found: &Scan, located: &Located) -> u64 {
        let Located { segment, limit, .. } = *located;
        let geometry = self.superblock.geometry;
        // Without a successor that says more, what stands behind the last whole batch is a tail that nobody was promised.
        let trailing = if limit.is_some() { &found.trailing[..] } else { &[] };
        let within = |batch: &&Found| limit.is_none_or(|limit| batch.header.sequence <= limit);
        let seen = found.batches.iter().chain(trailing).rfind(within);
        let end = seen.map_or(PAGE, |batch| batch.header.offset + batch.header.octets());
        for (start, end) in found.gaps.iter().filter(|(start, _)| *start < end) {
            self.damage(geometry.offset_of(segment, *start), u64::from(end - start), DamagedPart::Batches);
        }
        let before = located.header.first_sequence.saturating_sub(1);
        let last_sequence = seen.map_or(before, |batch| batch.header.sequence);
        if limit.is_some_and(|limit| last_sequence < limit) {
            let octets = geometry.segment_octets.saturating_sub(end);
            self.damage(geometry.offset_of(segment, end), u64::from(octets), DamagedPart::Batches);
        }
        last_sequence
    }

    /// Applies the records of a batch whose record headers are good. `spare`: what the index of its segment says.
    fn apply(&mut self, batch: &Found, octets: &[u8], gathered: &mut Gathered, spare: Option<&[Entry<'_>]>) {
        let header = &batch.header;
        self.report.batches += 1;
        self.next_message = self.next_message.max(header.next_message);
        let at = UnixMillis(header.written_at_ms);
        let salt = self.salt(header.segment, header.use_number);
        let mut entries = Entry::Written { at_ms: at.0 }.write(std::mem::take(&mut gathered.entries));
        let mut rest = batch.body_in(octets);
        let mut offset = header.offset + HEADER;
        while let Some((record, body, taken)) = split_record(rest) {
            let place = Place::new(header.segment, offset, to_u32(RECORD_HEADER_OCTETS + body.len()));
            let is_good = batch.body == Body::Whole || record.body_crc.get() == salt.crc(body);
            let kind = Kind::from_number(record.kind.get()).filter(|_| is_good);
            match kind.and_then(|kind| self.decode(kind, body, place)) {
                Some(effect) => {
                    self.report.records += 1;
                    entries = Entry::of(&effect).write(entries);
                    self.index.apply(effect, at, &mut None);
                }
                None => {
                    let disk_offset = self.superblock.geometry.offset_of(header.segment, offset);
                    self.damage(disk_offset, taken as u64, DamagedPart::Record);
                    let kind = Kind::from_number(record.kind.get());
                    if matches!(kind, Some(Kind::Envelope | Kind::Moved)) {
                        match spare {
                            Some(entries) => self.take_entry(entries, body, place),
                            None => self.take_claim(body, place, header),
                        }
                    }
                }
            }
            for (claim, found) in self.index.take_believed() {
                entries = Entry::of_arrival(&claim.arrival(found), Claim::routes()).write(entries);
            }
            rest = &rest[taken..];
            offset += to_u32(taken);
        }
        gathered.entries = entries;
        gathered.end = header.offset + header.octets();
        gathered.next_message = header.next_message;
    }

    /// An envelope is damaged, and the index of its segment tells what it was: a message, or one that is gone.
    fn take_entry(&mut self, entries: &[Entry<'_>], body: &[u8], place: Place) {
        let here = entries.iter().find(|entry| entry.is_of_message_at(place));
        self.lost_envelopes
            .extend(here.and_then(Entry::sequence).map(|number| (MessageSequence(number), place)));
        let head = MessageHead::read_from_prefix(body).ok();
        let is_gone = |entry: &&Entry<'_>| {
            head.as_ref().is_some_and(|(head, _)| entry.is_end_of(head.message, head.sequence.get()))
        };
        if let Some(entry) = here.or_else(|| entries.iter().find(is_gone)) {
            entry.clone().apply(&mut self.index, place.segment(), &mut UnixMillis(0));
        }
    }

    /// An envelope is damaged, and nothing else tells of its message: its head may.
    fn take_claim(&mut self, body: &[u8], place: Place, header: &BatchHeader) {
        let at = UnixMillis(header.written_at_ms);
        let claim = Claim::read(body, place, at, self.superblock.geometry)
            .filter(|claim| (1..header.next_message).contains(&claim.sequence.0));
        self.claimed.push(claim.as_ref().map_or(MessageId([0; 16]), |claim| claim.message));
        claim.into_iter().for_each(|claim| self.index.claim(claim));
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
                if !is_sound(&head, &envelope, self.superblock.geometry) {
                    return None;
                }
                let moved = kind == Kind::Moved;
                let runs = if moved { Runs::restored(&envelope, &states) } else { Runs::new(&envelope) };
                let sequence = MessageSequence(head.sequence.get());
                self.next_message = self.next_message.max(sequence.0.saturating_add(1));
                Effect::Message(Box::new(MessageEffect {
                    message: MessageId(head.message),
                    sequence,
                    envelope: Arc::new(envelope),
                    content_octets: head.content_octets.get(),
                    chunks: head.chunks.get(),
                    place,
                    runs,
                    moved,
                    told: Vec::new(),
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

    /// Everything is read: where the log goes on, and what is damaged.
    fn finish(&mut self, newest: &Located) {
        // The head may have a header and no batch; then the next batch is the one that the header announces.
        let announced = Some(newest.header).filter(|header| self.last.use_number != header.use_number);
        // Behind a sealed segment the log goes on in another one.
        self.head = self.head.take().filter(|_| newest.is_head);
        if let Some(header) = announced {
            self.last = header.follows;
        }
        let after_last = self.last.sequence.saturating_add(1);
        self.next_sequence = announced.map_or(after_last, |header| header.first_sequence);
        self.tell_damaged();
        if self.claimed.iter().any(|id| !self.index.knows(*id)) {
            self.kept_partials = self.index.partials().map(|partial| partial.message).collect();
        }
        self.report.living_messages = self.index.living_count();
    }

    /// Reports the messages of which a part is lost: of the content, or the envelope.
    fn tell_damaged(&mut self) {
        let mut damaged = self.index.settle();
        let lost = self.lost_envelopes.iter();
        let lost =
            lost.filter(|(sequence, place)| self.index.get(*sequence).is_some_and(|it| it.place == *place));
        damaged.extend(lost.map(|(sequence, _)| *sequence));
        damaged.sort_unstable();
        damaged.dedup();
        for sequence in damaged {
            let id = self.index.get(sequence).map_or(MessageId([0; 16]), |living| living.id);
            self.report.damaged_messages.push((sequence, id));
        }
    }
}
