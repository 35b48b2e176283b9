//! The device behind a [`Medium`](super::Medium): what reaches it, what it keeps, what it loses.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use sternpost_message::UnixMillis;
use sternpost_queue::{AlignedBuffer, DiskError, PAGE_OCTETS};

use super::{FaultCounts, Habits, Landed, SECTOR_OCTETS, Unreadable, WriteFault};
use crate::format;
use crate::random::Random;

/// The pages of the two superblocks. No log survives the loss of both, so that one fault hits one of them at most, and
/// another one does so only when the first was mended.
pub(super) const SUPERBLOCKS: [usize; 2] = [0, 32_768];

/// Behind both.
const SUPERBLOCKS_END: usize = SUPERBLOCKS[1] + PAGE_OCTETS;

type Sector = [u8; SECTOR_OCTETS];

pub(super) struct Device {
    pub(super) durable: Vec<u8>,
    /// Written and not synced: read by everybody, and gone with the power or not.
    pub(super) cache: BTreeMap<usize, Sector>,
    pub(super) flight: Option<Flight>,
    /// Writes whose process is gone.
    pub(super) orphans: Vec<Flight>,
    pub(super) holder: u64,
    pub(super) now: UnixMillis,
    pub(super) random: Random,
    pub(super) habits: Habits,
    pub(super) armed: VecDeque<WriteFault>,
    /// Every sync fails.
    pub(super) has_failed: bool,
    pub(super) unreadable: BTreeMap<usize, Unreadable>,
    pub(super) counts: FaultCounts,
    pub(super) landed: Vec<Landed>,
    pub(super) harmed: Vec<Range<u64>>,
    /// One superblock was hit and not written since.
    pub(super) is_on_one_superblock: bool,
}

pub(super) struct Flight {
    pub(super) offset: usize,
    pub(super) buffer: AlignedBuffer,
    pub(super) ends_at: UnixMillis,
    pub(super) fault: Option<WriteFault>,
    pub(super) result: Option<Result<(), DiskError>>,
}

impl Device {
    pub(super) fn advance(&mut self, now: UnixMillis) {
        self.now = self.now.max(now);
        if let Some(mut flight) = self.flight.take() {
            if flight.result.is_none() && flight.ends_at <= self.now {
                flight.result = Some(self.land(&flight));
            }
            self.flight = Some(flight);
        }
        let mut orphans = std::mem::take(&mut self.orphans);
        orphans.retain(|flight| {
            let stays = flight.ends_at > self.now;
            if !stays {
                self.counts.landed_late += 1;
                // Nobody hears how it went.
                drop(self.land(flight));
            }
            stays
        });
        self.orphans = orphans;
    }

    /// The write reaches the medium, or does not.
    pub(super) fn land(&mut self, flight: &Flight) -> Result<(), DiskError> {
        let Flight { offset, buffer, fault, .. } = flight;
        let (offset, octets) = (*offset, buffer.as_slice());
        let is_synced = matches!(fault, Some(WriteFault::Misdirected))
            || (matches!(fault, None | Some(WriteFault::Stall(_))) && !self.has_failed);
        let result = match fault {
            None | Some(WriteFault::Stall(_)) if self.has_failed => self.land_unsynced(offset, octets),
            None | Some(WriteFault::Stall(_)) => {
                self.land_well(offset, octets);
                Ok(())
            }
            Some(WriteFault::Torn) => {
                self.counts.torn_writes += 1;
                self.tear(offset, octets);
                Err("the write failed")
            }
            Some(WriteFault::Sync) => self.land_unsynced(offset, octets),
            Some(WriteFault::Full) => {
                self.counts.full += 1;
                Err("no space left on device")
            }
            Some(WriteFault::Misdirected) => {
                self.counts.misdirected += 1;
                self.misdirect(offset, octets);
                Ok(())
            }
        };
        if fault != &Some(WriteFault::Full) {
            self.landed.push(Landed { offset: offset as u64, octets: octets.into(), is_certain: is_synced });
        }
        if *fault == Some(WriteFault::Misdirected) {
            let place = offset as u64;
            self.harmed.push(place..place + octets.len() as u64);
        }
        result.map_err(|reason| DiskError::Device {
            action: "write",
            offset: offset as u64,
            reason: reason.to_owned(),
        })
    }

    pub(super) fn land_well(&mut self, offset: usize, octets: &[u8]) {
        if self.habits.lies {
            self.keep(offset, octets);
            return;
        }
        self.store(offset, octets);
        // A flush takes everything along; a write that is forced alone takes nothing.
        if self.random.chance(50) {
            self.sync();
        }
    }

    pub(super) fn land_unsynced(&mut self, offset: usize, octets: &[u8]) -> Result<(), &'static str> {
        self.counts.failed_syncs += 1;
        for (at, part) in (offset..).step_by(SECTOR_OCTETS).zip(octets.chunks(SECTOR_OCTETS)) {
            match self.random.below(3) {
                0 => self.store(at, part),
                1 => self.keep(at, part),
                _ => {}
            }
        }
        if self.habits.hides_failed_syncs { Ok(()) } else { Err("the sync failed") }
    }

    pub(super) fn misdirect(&mut self, offset: usize, octets: &[u8]) {
        let pages = (self.durable.len() - octets.len()) / PAGE_OCTETS;
        let mut target = self.random.place(pages + 1) * PAGE_OCTETS;
        if target == offset {
            target -= PAGE_OCTETS;
        }
        if !self.may_hit(&(target..target + octets.len())) {
            target = SUPERBLOCKS_END;
        }
        self.store(target, octets);
        self.harmed.push(target as u64..(target + octets.len()) as u64);
    }

    /// Whether a place may be damaged; notes it for the superblocks.
    pub(super) fn may_hit(&mut self, place: &Range<usize>) -> bool {
        let hits = SUPERBLOCKS.map(|at| at < place.end && place.start < at + PAGE_OCTETS);
        match hits {
            [false, false] => true,
            [true, true] => false,
            _ => !std::mem::replace(&mut self.is_on_one_superblock, true),
        }
    }

    /// Durable.
    pub(super) fn store(&mut self, offset: usize, octets: &[u8]) {
        self.durable[offset..offset + octets.len()].copy_from_slice(octets);
        self.supersede(offset, octets.len());
    }

    /// In the cache.
    pub(super) fn keep(&mut self, offset: usize, octets: &[u8]) {
        self.supersede(offset, octets.len());
        for (sector, part) in (offset / SECTOR_OCTETS..).zip(octets.chunks(SECTOR_OCTETS)) {
            self.cache.insert(sector, part.try_into().expect("writes are whole sectors"));
        }
    }

    /// What was cached or not readable there is written anew.
    pub(super) fn supersede(&mut self, offset: usize, octets: usize) {
        let sectors = offset / SECTOR_OCTETS..(offset + octets) / SECTOR_OCTETS;
        if !self.cache.is_empty() {
            self.cache.retain(|sector, _| !sectors.contains(sector));
        }
        if !self.unreadable.is_empty() {
            self.unreadable.retain(|sector, _| !sectors.contains(sector));
        }
    }

    pub(super) fn sync(&mut self) {
        for (sector, octets) in std::mem::take(&mut self.cache) {
            let start = sector * SECTOR_OCTETS;
            self.durable[start..start + SECTOR_OCTETS].copy_from_slice(&octets);
        }
    }

    pub(super) fn cut_power(&mut self) {
        if !self.cache.is_empty() {
            let cache = std::mem::take(&mut self.cache);
            let before = cache.len();
            let mut kept = 0;
            let mut was_taken = false;
            let mut is_reordered = false;
            let percent = [0, 50, 100][self.random.place(3)];
            for (sector, octets) in cache {
                if self.random.chance(percent) {
                    let start = sector * SECTOR_OCTETS;
                    self.durable[start..start + SECTOR_OCTETS].copy_from_slice(&octets);
                    kept += 1;
                    is_reordered |= was_taken;
                } else {
                    was_taken = true;
                }
            }
            self.counts.lost_unsynced += u64::from(kept < before);
            self.counts.reordered_unsynced += u64::from(is_reordered);
        }
        let flights: Vec<Flight> = self.flight.take().into_iter().chain(self.orphans.drain(..)).collect();
        for flight in flights.iter().filter(|flight| flight.result.is_none()) {
            self.counts.cut_writes += 1;
            self.tear(flight.offset, flight.buffer.as_slice());
            let octets = flight.buffer.as_slice().into();
            self.landed.push(Landed { offset: flight.offset as u64, octets, is_certain: false });
        }
        self.armed.clear();
    }

    /// Writes a part: all, nothing, a prefix, or any subset of the sectors; each is as likely as the next.
    pub(super) fn tear(&mut self, offset: usize, octets: &[u8]) {
        let kind = self.random.below(4);
        let sectors = octets.len() / SECTOR_OCTETS;
        let prefix = self.random.place(sectors + 1);
        for (sector, part) in octets.chunks(SECTOR_OCTETS).enumerate() {
            let arrives = match kind {
                0 => true,
                1 => false,
                2 => sector < prefix,
                _ => self.random.chance(50),
            };
            if arrives {
                self.store(offset + sector * SECTOR_OCTETS, part);
            }
        }
    }

    pub(super) fn rot(&mut self, sectors: Range<usize>) -> Option<Range<u64>> {
        let place = sectors.start * SECTOR_OCTETS..sectors.end * SECTOR_OCTETS;
        if !self.may_hit(&place) {
            return None;
        }
        for sector in sectors.clone() {
            if let Some(octets) = self.cache.remove(&sector) {
                let start = sector * SECTOR_OCTETS;
                self.durable[start..start + SECTOR_OCTETS].copy_from_slice(&octets);
            }
        }
        match self.random.below(4) {
            0 | 1 => {
                self.counts.zeroed += 1;
                self.durable[place.clone()].fill(0);
            }
            2 => {
                self.counts.rotted += 1;
                for sector in sectors {
                    let (octet, bit) = (self.random.place(SECTOR_OCTETS), self.random.below(8));
                    self.durable[sector * SECTOR_OCTETS + octet] ^= 1 << bit;
                }
            }
            _ => {
                self.counts.rotted += 1;
                let noise = self.random.octets(place.len());
                self.durable[place.clone()].copy_from_slice(&noise);
            }
        }
        Some(place.start as u64..place.end as u64)
    }

    pub(super) fn copy(&self, start: usize, into: &mut [u8]) {
        let end = start + into.len();
        into.copy_from_slice(&self.durable[start..end]);
        for (sector, octets) in self.cache.range(start / SECTOR_OCTETS..end.div_ceil(SECTOR_OCTETS)) {
            let cached = sector * SECTOR_OCTETS;
            let (from, to) = (start.max(cached), end.min(cached + SECTOR_OCTETS));
            into[from - start..to - start].copy_from_slice(&octets[from - cached..to - cached]);
        }
    }

    pub(super) fn place(&self, offset: u64, octets: usize) -> Result<usize, DiskError> {
        usize::try_from(offset)
            .ok()
            .filter(|start| start.checked_add(octets).is_some_and(|end| end <= self.durable.len()))
            .ok_or(DiskError::Range { offset, octets })
    }

    pub(super) fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let start = self.place(offset, into.len())?;
        let end = start + into.len();
        if let Some(flight) = self.flight.as_ref().filter(|flight| flight.result.is_none()) {
            assert!(
                end <= flight.offset || flight.offset + flight.buffer.len() <= start,
                "a read of octets that are being written"
            );
        }
        let sectors = start / SECTOR_OCTETS..end.div_ceil(SECTOR_OCTETS);
        let mut bad = self.unreadable.range_mut(sectors);
        if let Some((sector, unreadable)) = bad.next() {
            let sector = *sector;
            let is_over = match unreadable {
                Unreadable::Times(times) => {
                    *times = times.saturating_sub(1);
                    *times == 0
                }
                Unreadable::ForEver => false,
            };
            if is_over {
                self.unreadable.remove(&sector);
            }
            self.counts.failed_reads += 1;
            let offset = (sector * SECTOR_OCTETS) as u64;
            return Err(DiskError::Device { action: "read", offset, reason: "a bad sector".to_owned() });
        }
        self.copy(start, into);
        if self.habits.revives {
            self.revive(start, into);
        }
        Ok(())
    }

    /// Whole segments are read when the log is opened.
    pub(super) fn revive(&self, start: usize, into: &mut [u8]) {
        let (secret, segment_octets) = (&self.durable[format::superblock::SECRET..][..16], into.len());
        let head = usize::try_from(format::HEAD_OCTETS).expect("a place in memory");
        if start >= head && segment_octets > 2 * PAGE_OCTETS && (start - head).is_multiple_of(segment_octets)
        {
            format::revive(into, secret, (start - head) / segment_octets);
        }
    }
}
