//! A device in memory that does what real ones do: it finishes writes late or much later, refuses some, has no room, loses
//! power, tears writes between any two sectors, forgets what was not synced, puts a write where it does not belong, lets
//! sectors rot, does not read others, and lies if it is told to.
//!
//! A [`Medium`] is the device itself, which outlives every process; a [`FaultyDisk`] is the device as one process has opened
//! it, and is a [`Disk`]. Time is told to the medium. Every choice comes from its seed. Not here: which fault happens when
//! (the histories), and what stands where (`ledger`).

mod device;
mod fault;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::rc::Rc;

use sternpost_message::UnixMillis;
use sternpost_queue::{AlignedBuffer, Disk, DiskError, PAGE_OCTETS};

use crate::random::Random;
use device::{Device, Flight, SUPERBLOCKS};
pub(crate) use fault::counted;
pub use fault::{FaultCounts, Habits, Unreadable, WriteFault};

/// What a device writes at once or not at all.
pub const SECTOR_OCTETS: usize = 512;

const SECTORS_PER_PAGE: usize = PAGE_OCTETS / SECTOR_OCTETS;

/// The longest that an ordinary write takes.
const WRITE_MS_MAX: u64 = 4;

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

/// A device. Clones are the same one.
#[derive(Clone)]
pub struct Medium(Rc<RefCell<Device>>);

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

/// The device as one process has it.
pub struct FaultyDisk {
    device: Rc<RefCell<Device>>,
    holder: u64,
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
