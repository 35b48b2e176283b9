//! A device in memory that does what real ones do: it finishes writes late or much later, refuses some, has no room, loses
//! power, tears writes between any two sectors, forgets what was not synced, puts a write where it does not belong, lets
//! sectors rot, does not read others, and lies if it is told to.
//!
//! A [`Medium`] is the device itself, which outlives every process; a [`FaultyDisk`] is the device as one process has opened
//! it, and is a [`Disk`]. Time is told to the medium. Every choice comes from its seed. Not here: which fault happens when
//! (the histories), and what stands where (`ledger`).

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::rc::Rc;

use sternpost_message::UnixMillis;
use sternpost_queue::{AlignedBuffer, Disk, DiskError, PAGE_OCTETS};

use crate::format;
use crate::random::Random;

/// What a device writes at once or not at all.
pub const SECTOR_OCTETS: usize = 512;

const SECTORS_PER_PAGE: usize = PAGE_OCTETS / SECTOR_OCTETS;

/// The pages of the two superblocks. No log survives the loss of both, so that one fault hits one of them at most, and
/// another one does so only when the first was mended.
const SUPERBLOCKS: [usize; 2] = [0, 32_768];

/// Behind both.
const SUPERBLOCKS_END: usize = SUPERBLOCKS[1] + PAGE_OCTETS;

/// The longest that an ordinary write takes.
const WRITE_MS_MAX: u64 = 4;

/// What may befall a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteFault {
    /// The device says no after it has written any part.
    Torn,
    /// The write is complete and its sync fails: each sector is durable, or in the cache, or nowhere.
    Sync,
    /// There is no room: nothing is written.
    Full,
    /// It takes so many milliseconds.
    Stall(u64),
    /// It is reported as durable, and stands elsewhere.
    Misdirected,
}

/// How long a sector is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// So many times.
    Times(u32),
    /// Until it is written again.
    ForEver,
}

/// How often each fault has happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Writes of which a part arrived, cut off by the power.
    pub cut_writes: u64,
    /// Writes that the device refused after a part.
    pub torn_writes: u64,
    /// Syncs that failed.
    pub failed_syncs: u64,
    /// Times that the power took sectors which were written and not synced.
    pub lost_unsynced: u64,
    /// Times that it left some of them and took others which were written before.
    pub reordered_unsynced: u64,
    /// Writes for which there was no room.
    pub full: u64,
    /// Writes that took long.
    pub stalls: u64,
    /// Writes that went elsewhere.
    pub misdirected: u64,
    /// Places whose bits rotted.
    pub rotted: u64,
    /// Places that became zero.
    pub zeroed: u64,
    /// Reads that failed.
    pub failed_reads: u64,
    /// Writes that landed after the process that began them was gone.
    pub landed_late: u64,
}

impl FaultCounts {
    /// Both.
    pub const fn add(&mut self, other: &Self) {
        self.cut_writes += other.cut_writes;
        self.torn_writes += other.torn_writes;
        self.failed_syncs += other.failed_syncs;
        self.lost_unsynced += other.lost_unsynced;
        self.reordered_unsynced += other.reordered_unsynced;
        self.full += other.full;
        self.stalls += other.stalls;
        self.misdirected += other.misdirected;
        self.rotted += other.rotted;
        self.zeroed += other.zeroed;
        self.failed_reads += other.failed_reads;
        self.landed_late += other.landed_late;
    }

    /// Each with its name.
    #[must_use]
    pub const fn classes(&self) -> [(&'static str, u64); 12] {
        [
            ("writes cut by the power", self.cut_writes),
            ("torn writes", self.torn_writes),
            ("failed syncs", self.failed_syncs),
            ("losses of what was not synced", self.lost_unsynced),
            ("losses of what was written before what stayed", self.reordered_unsynced),
            ("writes to a full device", self.full),
            ("stalls", self.stalls),
            ("misdirected writes", self.misdirected),
            ("rotten places", self.rotted),
            ("places that became zero", self.zeroed),
            ("failed reads", self.failed_reads),
            ("writes that landed after their process", self.landed_late),
        ]
    }
}

/// What the device does by its nature, and a good one does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Habits {
    /// It reports writes as durable that it keeps in its cache.
    pub lies: bool,
    /// It reports writes as durable whose sync has failed.
    pub hides_failed_syncs: bool,
    /// It may be opened while a write of the last process is under way.
    pub knows_no_lock: bool,
    /// What stands behind the last batch of a segment it shows as if it had been written there in this use: as a recovery sees
    /// it that takes no notice of salts, uses and sequences.
    pub revives: bool,
}

/// A write that has reached the medium, or would have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Landed {
    /// Where it was to go.
    pub offset: u64,
    /// What it was.
    pub octets: Rc<[u8]>,
    /// It is durable, or should be: a device that lies has said so. Otherwise any part of it may be there.
    pub is_certain: bool,
}

/// Why a process cannot open the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// A write of the last process is under way.
    Locked,
    /// The sync with which opening begins has failed.
    Sync,
}

type Sector = [u8; SECTOR_OCTETS];

/// A device. Clones are the same one.
#[derive(Clone)]
pub struct Medium(Rc<RefCell<Device>>);

struct Device {
    durable: Vec<u8>,
    /// Written and not synced: read by everybody, and gone with the power or not.
    cache: BTreeMap<usize, Sector>,
    flight: Option<Flight>,
    /// Writes whose process is gone.
    orphans: Vec<Flight>,
    holder: u64,
    now: UnixMillis,
    random: Random,
    habits: Habits,
    armed: VecDeque<WriteFault>,
    /// Every sync fails.
    has_failed: bool,
    unreadable: BTreeMap<usize, Unreadable>,
    counts: FaultCounts,
    landed: Vec<Landed>,
    harmed: Vec<Range<u64>>,
    /// One superblock was hit and not written since.
    is_on_one_superblock: bool,
}

struct Flight {
    offset: usize,
    buffer: AlignedBuffer,
    ends_at: UnixMillis,
    fault: Option<WriteFault>,
    result: Option<Result<(), DiskError>>,
}

impl Medium {
    /// A device of `octets` that hold anything.
    #[must_use]
    pub fn new(octets: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let durable = random.octets(octets);
        Self::made(durable, random)
    }

    /// A device that holds this.
    #[must_use]
    pub fn of_image(image: Vec<u8>, seed: u64) -> Self {
        Self::made(image, Random::new(seed))
    }

    fn made(durable: Vec<u8>, random: Random) -> Self {
        Self(Rc::new(RefCell::new(Device {
            durable,
            cache: BTreeMap::new(),
            flight: None,
            orphans: Vec::new(),
            holder: 0,
            now: UnixMillis(0),
            random,
            habits: Habits::default(),
            armed: VecDeque::new(),
            has_failed: false,
            unreadable: BTreeMap::new(),
            counts: FaultCounts::default(),
            landed: Vec::new(),
            harmed: Vec::new(),
            is_on_one_superblock: false,
        })))
    }

    /// From now on it is such a device.
    pub fn set_habits(&self, habits: Habits) {
        self.0.borrow_mut().habits = habits;
    }

    /// Opens the device for one process, whose sync makes everything durable that can be read. Who had it open has it no
    /// more.
    ///
    /// # Errors
    /// Why not now.
    pub fn open(&self) -> Result<FaultyDisk, Closed> {
        let mut device = self.0.borrow_mut();
        if !device.orphans.is_empty() && !device.habits.knows_no_lock {
            return Err(Closed::Locked);
        }
        if device.has_failed {
            device.counts.failed_syncs += 1;
            return Err(Closed::Sync);
        }
        if !device.habits.lies {
            device.sync();
        }
        device.holder += 1;
        Ok(FaultyDisk { device: Rc::clone(&self.0), holder: device.holder })
    }

    /// It is `now`: what was to have happened by then has happened.
    pub fn advance(&self, now: UnixMillis) {
        self.0.borrow_mut().advance(now);
    }

    /// When something happens next by itself.
    #[must_use]
    pub fn wake_at(&self) -> Option<UnixMillis> {
        let device = self.0.borrow();
        let flight = device.flight.iter().filter(|flight| flight.result.is_none());
        flight.chain(&device.orphans).map(|flight| flight.ends_at).min()
    }

    /// Whether a write is under way whose end nobody has taken.
    #[must_use]
    pub fn is_writing(&self) -> bool {
        let device = self.0.borrow();
        device.flight.is_some() || !device.orphans.is_empty()
    }

    /// Whether a write has ended whose process has not taken its end.
    #[must_use]
    pub fn has_finished(&self) -> bool {
        self.0.borrow().flight.as_ref().is_some_and(|flight| flight.result.is_some())
    }

    /// Whether it may be opened while a write of the last process is under way.
    #[must_use]
    pub fn ignores_locks(&self) -> bool {
        self.0.borrow().habits.knows_no_lock
    }

    /// The next write, after those for which something is in store already, meets this.
    pub fn arm(&self, fault: WriteFault) {
        self.0.borrow_mut().armed.push_back(fault);
    }

    /// Every sync fails from now on, or none does.
    pub fn fail_for_ever(&self, fails: bool) {
        self.0.borrow_mut().has_failed = fails;
    }

    /// A sector is not read. One of a page at a time: whoever reads that page again comes to an end.
    pub fn fail_reads(&self, offset: u64, unreadable: Unreadable) {
        let sector = usize::try_from(offset).expect("a place in memory") / SECTOR_OCTETS;
        let page = sector / SECTORS_PER_PAGE * SECTORS_PER_PAGE;
        let mut device = self.0.borrow_mut();
        if device.unreadable.range(page..page + SECTORS_PER_PAGE).next().is_none() {
            device.unreadable.insert(sector, unreadable);
        }
    }

    /// Nothing that was in store befalls a write any more, and a read only where a sector is bad for ever. What has happened
    /// has happened.
    pub fn heal(&self) {
        let mut device = self.0.borrow_mut();
        device.armed.clear();
        device.unreadable.retain(|_, unreadable| *unreadable == Unreadable::ForEver);
        device.has_failed = false;
    }

    /// Cuts the power and restores it: of what was not durable any subset of sectors is there.
    pub fn cut_power(&self) {
        self.0.borrow_mut().cut_power();
    }

    /// Flips one bit of what the device holds.
    pub fn damage(&self, offset: usize) {
        let mut device = self.0.borrow_mut();
        let bit = device.random.below(8);
        device.durable[offset] ^= 1 << bit;
    }

    /// Puts octets where they stand durably.
    pub fn put(&self, offset: usize, octets: &[u8]) {
        self.0.borrow_mut().durable[offset..offset + octets.len()].copy_from_slice(octets);
    }

    /// Lets sectors rot: a bit of each, or all to zeroes, or to noise. Gives the place; none where nothing may.
    #[must_use]
    pub fn rot(&self, sectors: Range<usize>) -> Option<Range<u64>> {
        self.0.borrow_mut().rot(sectors)
    }

    /// The octets as a process would read them, whether it can or not.
    #[must_use]
    pub fn octets_at(&self, offset: usize, octets: usize) -> Vec<u8> {
        let device = self.0.borrow();
        let mut into = vec![0; octets];
        device.copy(offset, &mut into);
        into
    }

    /// All that is durable.
    #[must_use]
    pub fn image(&self) -> Vec<u8> {
        self.0.borrow().durable.clone()
    }

    /// Another device that holds what a process would read from this one, and does not read what this one never reads.
    #[must_use]
    pub fn twin(&self) -> Self {
        let device = self.0.borrow();
        let mut image = vec![0; device.durable.len()];
        device.copy(0, &mut image);
        let twin = Self::made(image, device.random.clone());
        let never = device.unreadable.iter().filter(|(_, unreadable)| **unreadable == Unreadable::ForEver);
        twin.0.borrow_mut().unreadable = never.map(|(sector, unreadable)| (*sector, *unreadable)).collect();
        twin
    }

    /// The size.
    #[must_use]
    pub fn octets(&self) -> usize {
        self.0.borrow().durable.len()
    }

    /// How often each fault has happened.
    #[must_use]
    pub fn counts(&self) -> FaultCounts {
        self.0.borrow().counts
    }

    /// The writes that have landed since the last call, and the places that were damaged with what they held: by writes
    /// that went elsewhere.
    #[must_use]
    pub fn take_landed(&self) -> (Vec<Landed>, Vec<Range<u64>>) {
        let mut device = self.0.borrow_mut();
        (std::mem::take(&mut device.landed), std::mem::take(&mut device.harmed))
    }
}

impl Device {
    fn advance(&mut self, now: UnixMillis) {
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
    fn land(&mut self, flight: &Flight) -> Result<(), DiskError> {
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

    fn land_well(&mut self, offset: usize, octets: &[u8]) {
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

    fn land_unsynced(&mut self, offset: usize, octets: &[u8]) -> Result<(), &'static str> {
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

    fn misdirect(&mut self, offset: usize, octets: &[u8]) {
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
    fn may_hit(&mut self, place: &Range<usize>) -> bool {
        let hits = SUPERBLOCKS.map(|at| at < place.end && place.start < at + PAGE_OCTETS);
        match hits {
            [false, false] => true,
            [true, true] => false,
            _ => !std::mem::replace(&mut self.is_on_one_superblock, true),
        }
    }

    /// Durable.
    fn store(&mut self, offset: usize, octets: &[u8]) {
        self.durable[offset..offset + octets.len()].copy_from_slice(octets);
        self.supersede(offset, octets.len());
    }

    /// In the cache.
    fn keep(&mut self, offset: usize, octets: &[u8]) {
        self.supersede(offset, octets.len());
        for (sector, part) in (offset / SECTOR_OCTETS..).zip(octets.chunks(SECTOR_OCTETS)) {
            self.cache.insert(sector, part.try_into().expect("writes are whole sectors"));
        }
    }

    /// What was cached or not readable there is written anew.
    fn supersede(&mut self, offset: usize, octets: usize) {
        let sectors = offset / SECTOR_OCTETS..(offset + octets) / SECTOR_OCTETS;
        if !self.cache.is_empty() {
            self.cache.retain(|sector, _| !sectors.contains(sector));
        }
        if !self.unreadable.is_empty() {
            self.unreadable.retain(|sector, _| !sectors.contains(sector));
        }
    }

    fn sync(&mut self) {
        for (sector, octets) in std::mem::take(&mut self.cache) {
            let start = sector * SECTOR_OCTETS;
            self.durable[start..start + SECTOR_OCTETS].copy_from_slice(&octets);
        }
    }

    fn cut_power(&mut self) {
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
    fn tear(&mut self, offset: usize, octets: &[u8]) {
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

    fn rot(&mut self, sectors: Range<usize>) -> Option<Range<u64>> {
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
        match self.random.below(3) {
            0 => {
                self.counts.zeroed += 1;
                self.durable[place.clone()].fill(0);
            }
            1 => {
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

    fn copy(&self, start: usize, into: &mut [u8]) {
        let end = start + into.len();
        into.copy_from_slice(&self.durable[start..end]);
        for (sector, octets) in self.cache.range(start / SECTOR_OCTETS..end.div_ceil(SECTOR_OCTETS)) {
            let cached = sector * SECTOR_OCTETS;
            let (from, to) = (start.max(cached), end.min(cached + SECTOR_OCTETS));
            into[from - start..to - start].copy_from_slice(&octets[from - cached..to - cached]);
        }
    }

    fn place(&self, offset: u64, octets: usize) -> Result<usize, DiskError> {
        usize::try_from(offset)
            .ok()
            .filter(|start| start.checked_add(octets).is_some_and(|end| end <= self.durable.len()))
            .ok_or(DiskError::Range { offset, octets })
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
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
    fn revive(&self, start: usize, into: &mut [u8]) {
        let (secret, segment_octets) = (&self.durable[format::superblock::SECRET..][..16], into.len());
        let head = usize::try_from(format::HEAD_OCTETS).expect("a place in memory");
        if start >= head && segment_octets > 2 * PAGE_OCTETS && (start - head).is_multiple_of(segment_octets)
        {
            format::revive(into, secret, (start - head) / segment_octets);
        }
    }
}

/// The device as one process has it.
pub struct FaultyDisk {
    device: Rc<RefCell<Device>>,
    holder: u64,
}

impl FaultyDisk {
    /// The device itself.
    #[must_use]
    pub fn medium(&self) -> Medium {
        Medium(Rc::clone(&self.device))
    }
}

impl Drop for FaultyDisk {
    /// The process ends while the device goes on: what was written arrives, sooner or later.
    fn drop(&mut self) {
        let mut device = self.device.borrow_mut();
        if device.holder == self.holder
            && let Some(flight) = device.flight.take_if(|flight| flight.result.is_none())
        {
            device.orphans.push(flight);
        }
        if device.holder == self.holder {
            device.flight = None;
        }
    }
}

impl Disk for FaultyDisk {
    fn octets(&self) -> u64 {
        self.device.borrow().durable.len() as u64
    }

    fn block_octets(&self) -> u32 {
        512
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        self.device.borrow_mut().read(offset, into)
    }

    fn start_write(&mut self, offset: u64, buffer: AlignedBuffer) -> Result<(), DiskError> {
        let mut device = self.device.borrow_mut();
        if device.flight.is_some() {
            return Err(DiskError::Busy);
        }
        assert!(offset.is_multiple_of(4096) && buffer.len().is_multiple_of(4096), "a write is aligned");
        let start = device.place(offset, buffer.len())?;
        let fault = device.armed.pop_front();
        let takes_ms = match fault {
            Some(WriteFault::Stall(ms)) => {
                device.counts.stalls += 1;
                ms
            }
            _ => device.random.below(WRITE_MS_MAX + 1),
        };
        let ends_at = device.now.plus_ms(takes_ms);
        device.flight = Some(Flight { offset: start, buffer, ends_at, fault, result: None });
        Ok(())
    }

    fn finish_write(&mut self) -> Option<(AlignedBuffer, Result<(), DiskError>)> {
        let mut device = self.device.borrow_mut();
        let now = device.now;
        device.advance(now);
        let flight = device.flight.take_if(|flight| flight.result.is_some())?;
        Some((flight.buffer, flight.result?))
    }

    fn write_now(&mut self, offset: u64, buffer: &AlignedBuffer) -> Result<(), DiskError> {
        let mut device = self.device.borrow_mut();
        let start = device.place(offset, buffer.len())?;
        if device.has_failed {
            device.counts.failed_syncs += 1;
            return Err(DiskError::Device { action: "write", offset, reason: "the sync failed".to_owned() });
        }
        if SUPERBLOCKS.contains(&start) {
            device.is_on_one_superblock = false;
        }
        device.land_well(start, buffer.as_slice());
        Ok(())
    }
}
