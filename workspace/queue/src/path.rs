//! Which uses of segments live and where they stand: the newest one, and from there backwards by what each one follows.
//!
//! Looks for uses that have lost their headers, and lists what it does not find. Not here: what the segments hold
//! (`recovery`), how batches are told from other octets (`scan`).

use std::collections::BTreeMap;

use crate::format::{
    BatchHeader, Follows, Footer, Geometry, PAGE, PAGE_OCTETS, Salt, SegmentHeader, Superblock,
};
use crate::log::BATCH_OCTETS_MAX;
use crate::recovery::{DamagedPart, OpenError, Recovered};
use crate::scan::{Found, Scan};
use crate::source::Source;
use crate::{AlignedBuffer, Disk};

/// Uses in which the batch is looked for that a use without header follows: those between have had failed writes alone.
const FOLLOWED_USES_MAX: usize = 4;

/// Segments behind the last one that shows a use that are searched all the same: two writes in a row may have failed, each in
/// a segment of its own, before a third one lost its first pages.
const SEARCHED_SEGMENTS_MAX: u32 = 4;

/// What is searched of such a segment: a second batch begins before.
const SEARCHED_OCTETS_MAX: u32 = (16 << 20) + PAGE;
const _: () = assert!(SEARCHED_OCTETS_MAX as usize > BATCH_OCTETS_MAX);

/// A use that lives.
#[derive(Clone)]
pub(crate) struct Located {
    pub(crate) segment: u32,
    pub(crate) use_number: u64,
    /// If it is lost: what the batches tell of it.
    pub(crate) header: SegmentHeader,
    pub(crate) header_is_lost: bool,
    /// The sequence behind which this use is void: what its successor follows. None at the head, or when the successor is
    /// lost and no index tells it.
    pub(crate) limit: Option<u64>,
    /// A write into it has failed: nothing was written behind that, however much room there was.
    pub(crate) was_given_up: bool,
    pub(crate) is_head: bool,
}

/// Where a use has left traces.
#[derive(Clone, Copy)]
struct Trace {
    segment: u32,
    header: Option<SegmentHeader>,
}

/// All uses that have left traces, living or not.
#[derive(Default)]
pub(crate) struct Survey {
    uses: BTreeMap<u64, Trace>,
}

impl Survey {
    fn below(&self, use_number: u64) -> impl Iterator<Item = (u64, Trace)> + '_ {
        self.uses.range(..use_number).rev().map(|(use_number, trace)| (*use_number, *trace))
    }

    fn segment_max(&self) -> Option<u32> {
        self.uses.values().map(|trace| trace.segment).max()
    }
}

impl Recovered {
    /// Reads the first two pages of all segments, and the rest of those that have lost them.
    pub(crate) fn survey<D: Disk>(
        &mut self,
        disk: &mut Source<D>,
        buffer: &mut AlignedBuffer,
    ) -> Result<Survey, OpenError> {
        let Superblock { secret, geometry, .. } = self.superblock;
        let (mut survey, mut silent) = (Survey::default(), Vec::new());
        for segment in 0..geometry.segments {
            disk.read(geometry.offset_of(segment, 0), &mut buffer.as_mut_slice()[..2 * PAGE_OCTETS])?;
            let header = SegmentHeader::decode(buffer.as_slice(), &secret, segment);
            let first = self.use_at(buffer.as_slice(), segment, PAGE);
            if header.is_none() && first.is_none() {
                silent.push(segment);
            }
            if let Some(use_number) = first {
                survey.uses.entry(use_number).or_insert(Trace { segment, header: None });
            }
            if let Some(header) = header {
                self.next_message = self.next_message.max(header.next_message);
                survey.uses.insert(header.use_number, Trace { segment, header: Some(header) });
            }
        }
        // Segments are used in the order of the disk at first: what lies far beyond was never written to.
        for segment in silent {
            if segment >= survey.segment_max().map_or(0, |used| used + 1) + SEARCHED_SEGMENTS_MAX {
                break;
            }
            if let Some(use_number) = self.search(disk, buffer, segment)? {
                survey.uses.entry(use_number).or_insert(Trace { segment, header: None });
            }
        }
        let newest = survey.uses.last_key_value().map_or(0, |(newest, _)| *newest);
        // Torn or not: its number is never given again.
        self.next_use = self.next_use.max(newest.saturating_add(1));
        Ok(survey)
    }

    /// The use of a batch whose header stands at `offset` of a segment's octets.
    fn use_at(&self, octets: &[u8], segment: u32, offset: u32) -> Option<u64> {
        let claimed = BatchHeader::claimed_use(octets.get(offset as usize..)?)?;
        BatchHeader::decode(octets, self.salt(segment, claimed), segment, claimed, offset).map(|_| claimed)
    }

    /// The newest use that has a batch in a segment. The second batch of a use begins no later than a whole batch behind page 1.
    fn search<D: Disk>(
        &mut self,
        disk: &mut Source<D>,
        buffer: &mut AlignedBuffer,
        segment: u32,
    ) -> Result<Option<u64>, OpenError> {
        let geometry = self.superblock.geometry;
        let end = geometry.segment_octets.min(SEARCHED_OCTETS_MAX);
        disk.read(geometry.offset_of(segment, 0), &mut buffer.as_mut_slice()[..end as usize])?;
        self.report.read_octets += u64::from(end);
        let offsets = (PAGE..end).step_by(PAGE_OCTETS);
        Ok(offsets.filter_map(|offset| self.use_at(buffer.as_slice(), segment, offset)).max())
    }

    /// The newest use, with or without header. None in an empty log.
    pub(crate) fn find_head<D: Disk>(
        &mut self,
        disk: &mut Source<D>,
        buffer: &mut AlignedBuffer,
        survey: &Survey,
    ) -> Result<Option<Located>, OpenError> {
        for (&use_number, &Trace { segment, header }) in survey.uses.iter().rev() {
            let limit = self.footer(disk, buffer, segment, use_number)?.map(|footer| footer.last.sequence);
            let found = self.scan_segment(disk, buffer, segment, use_number, header.as_ref())?;
            let counts = |batch: &&Found| limit.is_none_or(|limit| batch.header.sequence <= limit);
            let last = found.batches.iter().rfind(counts).map_or(0, |batch| batch.header.start_use);
            if let Some(header) = header {
                self.start_use = last.max(header.start_use);
                return Ok(Some(self.newest(survey, Located { limit, ..Located::head(header, false) })));
            }
            let Some(first) = found.batches.first().map(|batch| batch.header) else { continue };
            self.start_use = last;
            let header = self.told_by(disk, buffer, survey, &first)?;
            self.lost_header = Some(header);
            // A first batch alone may be a first write that the power cut before its header: nobody was told of it.
            if found.end > PAGE + first.octets() {
                self.tell_lost_header(segment);
            }
            return Ok(Some(self.newest(survey, Located { limit, ..Located::head(header, true) })));
        }
        Ok(None)
    }

    /// The newest use that shows itself. One with an index is not the newest that there was: an index is written when the next
    /// use has a durable batch. It is sealed then, and those behind it are listed.
    fn newest(&mut self, survey: &Survey, located: Located) -> Located {
        if located.limit.is_none() {
            return located;
        }
        let shown = survey.uses.last_key_value().map_or(0, |(newest, _)| *newest);
        self.tell_lost_uses(located.use_number, shown.max(located.use_number + 1) + 1);
        Located { is_head: false, ..located }
    }

    /// The living uses, newest first: from the head backwards by what each one follows.
    pub(crate) fn path<D: Disk>(
        &mut self,
        disk: &mut Source<D>,
        buffer: &mut AlignedBuffer,
        survey: &Survey,
        head: Located,
    ) -> Result<Vec<Located>, OpenError> {
        let mut above = head.use_number;
        let (mut wanted, mut limit) = head.follows();
        let mut was_given_up = head.follows_a_failure();
        let mut path = vec![head];
        while wanted >= self.start_use && wanted != 0 && wanted < above {
            above = wanted;
            let trace = survey.uses.get(&wanted).copied();
            let trace = trace.filter(|trace| path.iter().all(|other| other.segment != trace.segment));
            let header = match trace {
                Some(trace) => self.header_of(disk, buffer, survey, wanted, trace)?,
                None => None,
            };
            if let Some((header, header_is_lost)) = header {
                let located =
                    Located { limit, was_given_up, is_head: false, ..Located::head(header, header_is_lost) };
                (wanted, limit) = located.follows();
                was_given_up = located.follows_a_failure();
                path.push(located);
                continue;
            }
            let next = survey.below(wanted).next();
            self.tell_lost_uses(next.map_or(0, |(next, _)| next), wanted + 1);
            (wanted, limit, was_given_up) = (0, None, false);
            if let Some((next, trace)) = next {
                let footer = self.footer(disk, buffer, trace.segment, next)?;
                (wanted, limit) = (next, footer.map(|footer| footer.last.sequence));
            }
        }
        Ok(path)
    }

    /// The header of a use behind the head, and whether it is lost. None when no batch is left either.
    fn header_of<D: Disk>(
        &mut self,
        disk: &mut Source<D>,
        buffer: &mut AlignedBuffer,
        survey: &Survey,
        use_number: u64,
        trace: Trace,
    ) -> Result<Option<(SegmentHeader, bool)>, OpenError> {
        if let Some(header) = trace.header {
            return Ok(Some((header, false)));
        }
        let Scan { batches, trailing, .. } =
            self.scan_segment(disk, buffer, trace.segment, use_number, None)?;
        let Some(first) = batches.first().or(trailing.first()).map(|batch| batch.header) else {
            return Ok(None);
        };
        self.tell_lost_header(trace.segment);
        Ok(Some((self.told_by(disk, buffer, survey, &first)?, true)))
    }

    /// What a lost segment header said, as far as the first batch of its use tells.
    fn told_by<D: Disk>(
        &mut self,
        disk: &mut Source<D>,
        buffer: &mut AlignedBuffer,
        survey: &Survey,
        first: &BatchHeader,
    ) -> Result<SegmentHeader, OpenError> {
        let is_first = first.offset == PAGE;
        let named = if is_first { self.named_by(disk, buffer, survey, first)? } else { None };
        let follows = match named {
            Some(follows) => follows,
            None => self.presumably_before(disk, buffer, survey, first)?,
        };
        Ok(SegmentHeader {
            segment: first.segment,
            use_number: first.use_number,
            first_sequence: first.sequence,
            // The batch says which one it comes behind; it need not be the one that the header named.
            follows: Follows { crc: first.predecessor_crc, ..follows },
            start_use: first.start_use,
            next_message: first.next_message,
            opened_at_ms: first.written_at_ms,
        })
    }

    /// The batch that the first one of a use names by its CRC: the last good one before it. What stands behind that was
    /// refused.
    fn named_by<D: Disk>(
        &mut self,
        disk: &mut Source<D>,
        buffer: &mut AlignedBuffer,
        survey: &Survey,
        first: &BatchHeader,
    ) -> Result<Option<Follows>, OpenError> {
        let crc = first.predecessor_crc;
        if first.sequence == 1 {
            return Ok(Some(Follows::default()));
        }
        for (use_number, Trace { segment, header }) in survey.below(first.use_number).take(FOLLOWED_USES_MAX)
        {
            let footer = self.footer(disk, buffer, segment, use_number)?;
            if let Some(footer) = footer.filter(|footer| footer.last.crc == crc) {
                return Ok(Some(footer.last));
            }
            let found = self.scan_segment(disk, buffer, segment, use_number, header.as_ref())?;
            let named = found.batches.iter().find(|batch| batch.crc == crc);
            let named = named.map(|Found { header, crc, .. }| Follows {
                use_number,
                sequence: header.sequence,
                crc: *crc,
            });
            // A use of which no write succeeded is not followed: both follow the same batch.
            let followed = header.map(|header| header.follows).filter(|follows| follows.crc == crc);
            // Another one that names it came behind it in its use, and was refused. A first one of its use did not.
            let refused = || {
                let mut all = found.batches.iter().chain(&found.trailing);
                let refused =
                    all.find(|batch| batch.header.offset > PAGE && batch.header.predecessor_crc == crc)?;
                let sequence = refused.header.sequence.saturating_sub(1);
                Some(Follows { use_number, sequence, crc })
            };
            if let Some(follows) = named.or(followed).or_else(refused) {
                return Ok(Some(follows));
            }
        }
        Ok(None)
    }

    /// What a use follows if nothing names it: the use before it, to its end. Those between that have left no trace are listed.
    fn presumably_before<D: Disk>(
        &mut self,
        disk: &mut Source<D>,
        buffer: &mut AlignedBuffer,
        survey: &Survey,
        first: &BatchHeader,
    ) -> Result<Follows, OpenError> {
        let sequence = first.sequence.saturating_sub(1);
        let Some((use_number, trace)) = survey.below(first.use_number).next() else {
            return Ok(Follows::default());
        };
        self.tell_lost_uses(use_number, first.use_number);
        let footer = self.footer(disk, buffer, trace.segment, use_number)?;
        let unknown = Follows { use_number, sequence, crc: 0 };
        Ok(footer.map_or(unknown, |footer| footer.last))
    }

    fn tell_lost_header(&mut self, segment: u32) {
        let offset = self.superblock.geometry.offset_of(segment, 0);
        self.damage(offset, PAGE_OCTETS as u64, DamagedPart::SegmentHeader);
    }

    /// Lists the living uses between two. One of which every write failed is not told from one that is lost. No more of them have
    /// lived than there are segments, whatever a header claims.
    fn tell_lost_uses(&mut self, below: u64, above: u64) {
        let Geometry { segment_octets, segments } = self.superblock.geometry;
        let octets = u64::from(segment_octets);
        for _ in (below + 1).max(self.start_use).max(above.saturating_sub(segments.into()))..above {
            self.damage(0, octets, DamagedPart::Segment);
        }
    }

    /// The footer of a use, if its segment is sealed and has an index.
    pub(crate) fn footer<D: Disk>(
        &mut self,
        disk: &mut Source<D>,
        buffer: &mut AlignedBuffer,
        segment: u32,
        use_number: u64,
    ) -> Result<Option<Footer>, OpenError> {
        let Superblock { secret, geometry, .. } = self.superblock;
        let page = &mut buffer.as_mut_slice()[..PAGE_OCTETS];
        disk.read(geometry.offset_of(segment, geometry.footer_offset()), page)?;
        self.report.read_octets += PAGE_OCTETS as u64;
        let salt = Salt::of_index(&secret, segment, use_number);
        Ok(Footer::decode(page, salt, segment, use_number, geometry))
    }
}

impl Located {
    const fn head(header: SegmentHeader, header_is_lost: bool) -> Self {
        let SegmentHeader { segment, use_number, .. } = header;
        Self { segment, use_number, header, header_is_lost, limit: None, was_given_up: false, is_head: true }
    }

    /// Whether a batch stood between the one that this use follows and its own first one: its write had failed.
    const fn follows_a_failure(&self) -> bool {
        self.header.first_sequence > self.header.follows.sequence.saturating_add(1)
    }

    /// The use before it, and the sequence behind which that one is void.
    const fn follows(&self) -> (u64, Option<u64>) {
        (self.header.follows.use_number, Some(self.header.follows.sequence))
    }
}
