//! A disk in memory that does what real ones do: it finishes writes late, refuses some, loses power, tears, and lies.

use sternpost_queue::{AlignedBuffer, Disk, DiskError};

use crate::random::Random;

/// What a device writes at once or not at all.
const SECTOR_OCTETS: usize = 512;

/// A disk whose power can be cut.
///
/// A write is volatile until it is finished. Cutting the power keeps any subset of the sectors of a write under way.
pub struct FaultyDisk {
    durable: Vec<u8>,
    /// What the device says is written while it only holds it in its cache: writes of a disk that lies.
    cached: Vec<(usize, Vec<u8>)>,
    flight: Option<(usize, AlignedBuffer)>,
    random: Random,
    /// How often `finish_write` says that the write goes on.
    delay: u64,
    lies: bool,
    /// How many of the next writes fail, after any part of them was written.
    failures: u32,
    reads_fail: bool,
}

impl FaultyDisk {
    /// A disk of `octets` that hold anything.
    #[must_use]
    pub fn new(octets: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        Self {
            durable: random.octets(octets),
            cached: Vec::new(),
            flight: None,
            random,
            delay: 0,
            lies: false,
            failures: 0,
            reads_fail: false,
        }
    }

    /// From now on the disk finishes writes that it has not made durable.
    pub const fn lie(&mut self) {
        self.lies = true;
    }

    /// The next `writes` fail.
    pub const fn fail(&mut self, writes: u32) {
        self.failures = writes;
    }

    /// Whether reads fail from now on.
    pub const fn fail_reads(&mut self, fail: bool) {
        self.reads_fail = fail;
    }

    /// Cuts the power and restores it: of what was not durable any subset of sectors is there.
    pub fn cut_power(&mut self) {
        for (offset, octets) in std::mem::take(&mut self.cached) {
            self.tear(offset, &octets);
        }
        if let Some((offset, buffer)) = self.flight.take() {
            self.tear(offset, buffer.as_slice());
        }
        self.delay = 0;
        self.failures = 0;
    }

    /// The process ends while the device goes on: what was written arrives.
    pub fn end_process(&mut self) {
        if let Some((offset, buffer)) = self.flight.take() {
            self.store(offset, buffer.as_slice());
        }
        self.delay = 0;
    }

    /// Flips one bit of what the device holds.
    pub fn damage(&mut self, offset: usize) {
        self.durable[offset] ^= 1 << self.random.below(8);
    }

    /// The octets as the device has them.
    #[must_use]
    pub fn octets_at(&self, offset: usize, octets: usize) -> &[u8] {
        &self.durable[offset..offset + octets]
    }

    fn tear(&mut self, offset: usize, octets: &[u8]) {
        // All, nothing, a prefix, or any subset: each is as likely as the next.
        let kind = self.random.below(4);
        let sectors = octets.len() / SECTOR_OCTETS;
        let prefix = self.random.below(sectors as u64 + 1);
        for (sector, part) in (0_u64..).zip(octets.chunks(SECTOR_OCTETS)) {
            let arrives = match kind {
                0 => true,
                1 => false,
                2 => sector < prefix,
                _ => self.random.chance(50),
            };
            if arrives {
                let start =
                    offset + usize::try_from(sector).expect("a sector of a write in memory") * SECTOR_OCTETS;
                self.durable[start..start + part.len()].copy_from_slice(part);
            }
        }
    }

    fn store(&mut self, offset: usize, octets: &[u8]) {
        self.durable[offset..offset + octets.len()].copy_from_slice(octets);
    }

    fn place(&self, offset: u64, octets: usize) -> Result<usize, DiskError> {
        usize::try_from(offset)
            .ok()
            .filter(|start| start.checked_add(octets).is_some_and(|end| end <= self.durable.len()))
            .ok_or(DiskError::Range { offset, octets })
    }
}

impl Disk for FaultyDisk {
    fn octets(&self) -> u64 {
        self.durable.len() as u64
    }

    fn block_octets(&self) -> u32 {
        512
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let start = self.place(offset, into.len())?;
        if self.reads_fail {
            return Err(DiskError::Device { action: "read", offset, reason: "on demand".to_owned() });
        }
        let end = start + into.len();
        if let Some((flight, buffer)) = &self.flight {
            assert!(
                end <= *flight || flight + buffer.len() <= start,
                "a read of octets that are being written"
            );
        }
        into.copy_from_slice(&self.durable[start..end]);
        for (cached, octets) in &self.cached {
            let (from, to) = (start.max(*cached), end.min(cached + octets.len()));
            if from < to {
                into[from - start..to - start].copy_from_slice(&octets[from - cached..to - cached]);
            }
        }
        Ok(())
    }

    fn start_write(&mut self, offset: u64, buffer: AlignedBuffer) -> Result<(), DiskError> {
        if self.flight.is_some() {
            return Err(DiskError::Busy);
        }
        assert!(offset.is_multiple_of(4096) && buffer.len().is_multiple_of(4096), "a write is aligned");
        let start = self.place(offset, buffer.len())?;
        self.flight = Some((start, buffer));
        self.delay = self.random.below(4);
        Ok(())
    }

    fn finish_write(&mut self) -> Option<(AlignedBuffer, Result<(), DiskError>)> {
        self.flight.as_ref()?;
        if self.delay > 0 {
            self.delay -= 1;
            return None;
        }
        let (offset, buffer) = self.flight.take()?;
        if self.failures > 0 {
            self.failures -= 1;
            self.tear(offset, buffer.as_slice());
            let error =
                DiskError::Device { action: "write", offset: offset as u64, reason: "on demand".to_owned() };
            return Some((buffer, Err(error)));
        }
        if self.lies {
            self.cached.push((offset, buffer.as_slice().to_vec()));
        } else {
            self.store(offset, buffer.as_slice());
        }
        Some((buffer, Ok(())))
    }

    fn write_now(&mut self, offset: u64, buffer: &AlignedBuffer) -> Result<(), DiskError> {
        let start = self.place(offset, buffer.len())?;
        self.store(start, buffer.as_slice());
        Ok(())
    }
}
