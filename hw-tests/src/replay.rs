//! Many cuts of one log of writes, from its begin to its end: one image in memory is carried along.
//!
//! What is durable is written to the image once. What a single cut leaves beyond that, and whatever is written to the image
//! while somebody looks at it, is undone after the look. The disk is the same that [`Cut::make_disk`] makes.

use crate::power_cut::{Cut, Left, PowerCutError};
use crate::write_log::{Entry, Request, WriteLog};
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use sternpost_queue::{AlignedBuffer, Disk, DiskError};
use sternpost_simulator::random::Random;

/// Runs of zeroes of this length need not be written to a new file.
const GRAIN_OCTETS: usize = 1 << 16;

/// What stands on a disk, and what stood there before.
pub struct Image {
    octets: Vec<u8>,
    /// What was overwritten while it is remembered, in the order of the writes.
    overwritten: Option<Vec<(usize, Vec<u8>)>>,
    finished: Option<AlignedBuffer>,
}

impl Image {
    /// An image of these octets.
    #[must_use]
    pub const fn new(octets: Vec<u8>) -> Self {
        Self { octets, overwritten: None, finished: None }
    }

    /// What stands on it.
    #[must_use]
    pub fn content(&self) -> &[u8] {
        &self.octets
    }

    /// Writes to it since somebody looks at it.
    #[must_use]
    pub fn writes_count(&self) -> usize {
        self.overwritten.as_ref().map_or(0, Vec::len)
    }

    fn range(&self, offset: u64, octets: usize) -> Result<Range<usize>, DiskError> {
        let start = usize::try_from(offset).ok();
        start
            .and_then(|start| Some(start..start.checked_add(octets)?))
            .filter(|range| range.end <= self.octets.len())
            .ok_or(DiskError::Range { offset, octets })
    }

    fn write(&mut self, offset: u64, octets: &[u8]) -> Result<(), DiskError> {
        let range = self.range(offset, octets.len())?;
        if let Some(overwritten) = &mut self.overwritten {
            overwritten.push((range.start, self.octets[range.clone()].to_vec()));
        }
        self.octets[range].copy_from_slice(octets);
        Ok(())
    }

    fn undo(&mut self) {
        for (start, octets) in self.overwritten.take().into_iter().flatten().rev() {
            self.octets[start..start + octets.len()].copy_from_slice(&octets);
        }
        self.finished = None;
    }

    /// Writes a file with holes: the image, and nothing up to `length`.
    ///
    /// # Errors
    /// Whatever the system says.
    pub fn save(&self, path: &Path, length: u64) -> io::Result<()> {
        let file = File::create(path)?;
        for (grain, begin) in self.octets.chunks(GRAIN_OCTETS).zip((0..).step_by(GRAIN_OCTETS)) {
            if grain.iter().any(|&octet| octet != 0) {
                file.write_all_at(grain, begin)?;
            }
        }
        file.set_len(length)
    }
}

/// Each write is complete as soon as it was started.
impl Disk for &mut Image {
    fn octets(&self) -> u64 {
        self.octets.len() as u64
    }

    fn block_octets(&self) -> u32 {
        512
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        into.copy_from_slice(&self.octets[self.range(offset, into.len())?]);
        Ok(())
    }

    fn start_write(&mut self, offset: u64, buffer: AlignedBuffer) -> Result<(), DiskError> {
        self.write_now(offset, &buffer)?;
        self.finished = Some(buffer);
        Ok(())
    }

    fn finish_write(&mut self) -> Option<(AlignedBuffer, Result<(), DiskError>)> {
        Some((self.finished.take()?, Ok(())))
    }

    fn write_now(&mut self, offset: u64, buffer: &AlignedBuffer) -> Result<(), DiskError> {
        self.write(offset, buffer.as_slice())
    }
}

/// An image on its way along a log.
pub struct Replay<'a> {
    log: &'a WriteLog,
    image: Image,
    /// So many entries are in the image for good.
    settled_count: usize,
    /// So many entries count as durable even without a flush.
    durable_min: usize,
    /// Writes that the disk may have dropped for good although a flush came later, and the number that names what it did.
    dropped: (BTreeSet<usize>, u64),
}

impl<'a> Replay<'a> {
    /// Begins with the disk as it was when the log began.
    #[must_use]
    pub const fn new(log: &'a WriteLog, base: Vec<u8>) -> Self {
        let dropped = (BTreeSet::new(), 0);
        Self { log, image: Image::new(base), settled_count: 0, durable_min: 0, dropped }
    }

    /// Takes the first entries as durable, whatever was flushed.
    #[must_use]
    pub const fn with_durable(mut self, entries_count: usize) -> Self {
        self.durable_min = entries_count;
        self
    }

    /// Takes these entries as what a disk may drop when a flush fails, which no later flush brings back: all, nothing or
    /// some sectors of each is there, as the seed says.
    #[must_use]
    pub fn with_dropped(mut self, entries: BTreeSet<usize>, seed: u64) -> Self {
        self.dropped = (entries, seed);
        self
    }

    /// Shows the image that a cut leaves. Cuts come in the order of what is durable at them.
    ///
    /// # Errors
    /// `Log` when data cannot be read, `Beyond` when the log speaks of a place that the image does not have.
    ///
    /// # Panics
    /// When an earlier cut comes after a later one.
    pub fn after<T>(&mut self, cut: &Cut, look: impl FnOnce(&mut Image) -> T) -> Result<T, PowerCutError> {
        let entries = self.log.entries();
        let durable_count =
            cut.durable_count(entries).max(self.durable_min.min(cut.entries_count)).min(entries.len());
        assert!(self.settled_count <= durable_count, "cuts come in the order of what is durable");
        for (index, entry) in entries.iter().enumerate().take(durable_count).skip(self.settled_count) {
            let left = self.settled(index, entry);
            self.apply(entry, &left)?;
        }
        self.settled_count = durable_count;
        self.image.overwritten = Some(Vec::new());
        for (_, entry, left) in cut.leavings(entries, durable_count, durable_count) {
            self.apply(entry, &left)?;
        }
        let seen = look(&mut self.image);
        self.image.undo();
        Ok(seen)
    }

    /// What is left for good of an entry that a flush has covered.
    fn settled(&self, index: usize, entry: &Entry) -> Left {
        let (dropped, seed) = &self.dropped;
        if !dropped.contains(&index) {
            return Left::Whole;
        }
        Left::of(entry, &mut Random::new(seed.wrapping_add(index as u64)))
    }

    fn apply(&mut self, entry: &Entry, left: &Left) -> Result<(), PowerCutError> {
        match entry.request {
            Request::Write { .. } if *left != Left::Nothing => {
                let data = self.log.data(entry)?;
                for (offset, octets) in left.pieces(entry.offset, &data) {
                    self.image.write(offset, octets)?;
                }
            }
            Request::Discard if *left == Left::Whole => {
                let octets = usize::try_from(entry.octets).unwrap_or(usize::MAX);
                self.image.range(entry.offset, octets)?;
                self.image.write(entry.offset, &vec![0; octets])?;
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::power_cut::{Cache, Disk as Device};
    use crate::write_log::testing::{DISCARD, FUA, SECTOR, Writing};

    const SECTORS: usize = 16;

    fn history() -> Writing {
        Writing::default()
            .write(0, 4, b'a')
            .flush()
            .write(2, 4, b'b')
            .entry(9, 1, FUA, &[b'f'; SECTOR])
            .write(4, 8, b'c')
            .flush()
            .entry(0, 2, DISCARD, &[])
            .write(1, 1, b'd')
            .flush()
            .write(0, 3, b'e')
    }

    struct Lab {
        folder: tempfile::TempDir,
        log: WriteLog,
    }

    impl Lab {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            history().finish(&folder.path().join("log"));
            std::fs::write(folder.path().join("base"), Self::base()).unwrap();
            let log = WriteLog::open(&folder.path().join("log")).unwrap();
            Self { folder, log }
        }

        fn base() -> Vec<u8> {
            vec![b'.'; SECTORS * SECTOR]
        }

        fn made(&self, cut: &Cut) -> Vec<u8> {
            let disk = self.folder.path().join("disk");
            cut.make_disk(&self.folder.path().join("base"), &self.log, &disk).unwrap();
            std::fs::read(disk).unwrap()
        }
    }

    fn cut(entries_count: usize, cache: Cache) -> Cut {
        Cut { entries_count, cache, disk: Device::Honest }
    }

    /// The first octet of each sector.
    fn letters(image: &mut Image) -> String {
        image.content().chunks(SECTOR).map(|sector| char::from(sector[0])).collect()
    }

    #[test]
    fn an_image_carried_along_is_the_disk_that_each_cut_makes() {
        let lab = Lab::new();
        let mut replay = Replay::new(&lab.log, Lab::base());
        for entries_count in 0..=lab.log.entries().len() {
            let caches = [Cache::Lost, Cache::Kept].into_iter().chain((0..40).map(Cache::Torn));
            for cut in caches.map(|cache| cut(entries_count, cache)) {
                let made = lab.made(&cut);
                let same = replay.after(&cut, |image| {
                    let same = image.content() == made;
                    // Whoever looks may write, and the next one does not see it.
                    let mut disk = image;
                    disk.write_now(0, &AlignedBuffer::from_octets(b"scribble")).unwrap();
                    same
                });
                assert!(same.unwrap(), "{cut:?}");
            }
        }
    }

    #[test]
    fn what_a_failed_flush_dropped_no_later_flush_brings_back() {
        let lab = Lab::new();
        let mut seen = BTreeSet::new();
        for seed in 0..200 {
            let mut replay = Replay::new(&lab.log, Lab::base()).with_dropped([0].into(), seed);
            let image = replay.after(&cut(6, Cache::Lost), letters).unwrap();
            assert!(image.ends_with("bbcccccccc...."), "{image}");
            seen.insert(image[..2].to_owned());
        }
        assert_eq!(seen.iter().map(String::as_str).collect::<Vec<_>>(), ["..", ".a", "a.", "aa"]);
    }

    #[test]
    fn what_lies_before_the_history_is_durable_without_a_flush() {
        let lab = Lab::new();
        let mut replay = Replay::new(&lab.log, Lab::base()).with_durable(3);
        assert_eq!(replay.after(&cut(5, Cache::Lost), letters).unwrap(), "aabbbb...f......");
    }

    #[test]
    fn a_saved_image_has_its_octets_and_its_length() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        let mut octets = vec![0; 3 * GRAIN_OCTETS];
        octets[GRAIN_OCTETS + 5] = 7;
        Image::new(octets.clone()).save(&path, 4 * GRAIN_OCTETS as u64).unwrap();
        octets.resize(4 * GRAIN_OCTETS, 0);
        assert!(std::fs::read(&path).unwrap() == octets);
        assert!(crate::sparse::used_octets(&path).unwrap() <= GRAIN_OCTETS as u64);
    }
}
