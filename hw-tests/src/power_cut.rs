//! Which disks a power cut may leave behind, made from a log of writes.
//!
//! A disk with a write cache owes nothing but what was answered before a flush, or was written with FUA. Of everything
//! else it may have kept any part, down to single sectors. A *cut* names the last request that reached the disk and what
//! became of the cache; from the same base, log and cut it always makes the same disk.
//!
//! Not here: reading the log (`write_log`), many cuts of one log (`replay`), what the switch has to make of the disk
//! (tests/power_cut.rs, `campaign`).

use crate::sparse;
use crate::write_log::{Entry, Request, WriteLog, WriteLogError};
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use sternpost_queue::DiskError;
use sternpost_simulator::random::Random;

/// Disks keep or lose whole sectors.
const SECTOR_OCTETS: usize = 512;

/// What a cut makes of the requests that no flush has made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// The disk had written them all.
    Kept,
    /// None had left the cache.
    Lost,
    /// Of each a part: all, nothing, the beginning, or some of its sectors. The number names which.
    Torn(u64),
}

/// Whether the disk did what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    /// A flush makes durable what was answered before.
    Honest,
    /// From this entry on flushes and FUA are answered and not obeyed: as if nobody had asked for durability. It shows
    /// that a judge would notice a switch that does not sync.
    DeafFrom(usize),
}

/// A loss of power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The requests that reached the disk: so many of the log's first.
    pub entries_count: usize,
    /// What became of the cache.
    pub cache: Cache,
    /// What the disk made of flushes.
    pub disk: Disk,
}

/// Why a disk could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PowerCutError {
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] WriteLogError),
    /// The disk cannot be written.
    #[error("the disk after the power cut cannot be made at {}", path.display())]
    Disk {
        /// The disk.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The log speaks of a place that the disk does not have.
    #[error("the log of writes belongs to a larger disk")]
    Beyond(#[from] DiskError),
}

impl Cut {
    /// How many entries the disk must have kept: those before the last flush that it obeyed.
    #[must_use]
    pub fn durable_count(&self, entries: &[Entry]) -> usize {
        let obeyed = match self.disk {
            Disk::Honest => self.entries_count,
            Disk::DeafFrom(count) => count.min(self.entries_count),
        };
        let is_flush = |entry: &Entry| entry.request == Request::Flush;
        entries[..obeyed].iter().rposition(is_flush).unwrap_or(0)
    }

    /// Makes the disk: `base` as it was when the log began, and what the cut left of the log.
    ///
    /// # Errors
    /// `Log` when data cannot be read, `Disk` when the disk cannot be written.
    pub fn make_disk(&self, base: &Path, log: &WriteLog, disk: &Path) -> Result<(), PowerCutError> {
        let failed = |source| PowerCutError::Disk { path: disk.to_owned(), source };
        sparse::copy(base, disk).map_err(failed)?;
        let file = File::options().read(true).write(true).open(disk).map_err(failed)?;
        let durable_count = self.durable_count(log.entries());
        for (_, entry, left) in self.leavings(log.entries(), 0, durable_count) {
            match entry.request {
                Request::Write { .. } => {
                    let data = log.data(entry)?;
                    for (offset, octets) in left.pieces(entry.offset, &data) {
                        file.write_all_at(octets, offset).map_err(failed)?;
                    }
                }
                // The harshest reading: nothing of it can be read again.
                Request::Discard if left == Left::Whole => {
                    let holes = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                    fallocate(&file, holes, entry.offset, entry.octets).map_err(|e| failed(e.into()))?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// What the cut leaves of the entries from `from` on, of which the first `durable_count` of the log are durable. `from`
    /// is not behind these: what is left of an entry follows from the cut alone.
    pub(crate) fn leavings<'a>(
        &self,
        entries: &'a [Entry],
        from: usize,
        durable_count: usize,
    ) -> impl Iterator<Item = (usize, &'a Entry, Left)> {
        let Self { cache, .. } = *self;
        let mut random = Random::new(if let Cache::Torn(seed) = cache { seed } else { 0 });
        let deaf_from = if let Disk::DeafFrom(count) = self.disk { count } else { usize::MAX };
        let end = self.entries_count.min(entries.len());
        entries[..end].iter().enumerate().skip(from).map(move |(index, entry)| {
            let is_fua = entry.request == Request::Write { durable: true } && index < deaf_from;
            let is_durable = index < durable_count || is_fua;
            let left = match cache {
                Cache::Kept => Left::Whole,
                _ if is_durable => Left::Whole,
                Cache::Lost => Left::Nothing,
                Cache::Torn(_) => Left::of(entry, &mut random),
            };
            (index, entry, left)
        })
    }
}

/// What is left of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    Whole,
    Nothing,
    /// Some sectors of a write, named by their index in it.
    Sectors(Vec<usize>),
}

impl Left {
    /// Chosen by chance.
    pub(crate) fn of(entry: &Entry, random: &mut Random) -> Self {
        let sectors_count = usize::try_from(entry.octets / SECTOR_OCTETS as u64).unwrap_or(usize::MAX);
        match random.below(4) {
            0 => Self::Whole,
            1 => Self::Nothing,
            _ if !matches!(entry.request, Request::Write { .. }) || sectors_count < 2 => Self::Whole,
            2 => Self::Sectors((0..1 + random.place(sectors_count - 1)).collect()),
            _ => Self::Sectors((0..sectors_count).filter(|_| random.chance(50)).collect()),
        }
    }

    /// What of a write at `offset` reached the disk, and where.
    pub(crate) fn pieces<'a>(&self, offset: u64, data: &'a [u8]) -> Vec<(u64, &'a [u8])> {
        let sector = |&sector: &usize| {
            let begin = sector * SECTOR_OCTETS;
            (offset + begin as u64, &data[begin..begin + SECTOR_OCTETS])
        };
        match self {
            Self::Whole => vec![(offset, data)],
            Self::Nothing => Vec::new(),
            Self::Sectors(sectors) => sectors.iter().map(sector).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::write_log::testing::{FUA, SECTOR, Writing};

    const SECTORS: usize = 64;

    struct Lab {
        folder: tempfile::TempDir,
        log: WriteLog,
    }

    impl Lab {
        fn new(writing: Writing) -> Self {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("base"), vec![b'.'; SECTORS * SECTOR]).unwrap();
            writing.finish(&folder.path().join("log"));
            let log = WriteLog::open(&folder.path().join("log")).unwrap();
            Self { folder, log }
        }

        /// The first octet of each sector after the cut; a sector has only equal octets.
        fn after(&self, cut: Cut) -> String {
            let disk = self.folder.path().join("disk");
            cut.make_disk(&self.folder.path().join("base"), &self.log, &disk).unwrap();
            let octets = std::fs::read(disk).unwrap();
            assert_eq!(octets.len(), SECTORS * SECTOR);
            let sector = |sector: &[u8]| {
                assert!(sector.iter().all(|&octet| octet == sector[0]), "a sector is torn");
                char::from(sector[0])
            };
            octets.chunks(SECTOR).map(sector).collect()
        }

        fn cut(&self, entries_count: usize, cache: Cache) -> String {
            self.after(Cut { entries_count, cache, disk: Disk::Honest })
        }
    }

    fn begins(disk: &str, with: &str) {
        assert!(disk.starts_with(with), "{disk}");
    }

    #[test]
    fn what_was_written_before_a_flush_is_on_every_disk_after_it() {
        let lab = Lab::new(
            Writing::default()
                .write(0, 4, b'a')
                .flush()
                .write(2, 4, b'b')
                .write(8, 8, b'c')
                .flush()
                .write(0, 1, b'd'),
        );
        for seed in 0..200 {
            begins(&lab.cut(5, Cache::Torn(seed)), "aabbbb..cccccccc.");
            begins(&lab.cut(2, Cache::Torn(seed)), "aaaa.");
        }
        begins(&lab.cut(4, Cache::Kept), "aabbbb..cccccccc.");
        begins(&lab.cut(4, Cache::Lost), "aaaa.");
        begins(&lab.cut(6, Cache::Lost), "aabbbb..cccccccc.");
        begins(&lab.cut(0, Cache::Kept), "....");
    }

    #[test]
    fn what_no_flush_made_durable_is_lost_kept_and_torn_in_every_way() {
        let lab = Lab::new(Writing::default().write(0, 4, b'a').flush().write(0, 4, b'b'));
        let seen: std::collections::BTreeSet<String> =
            (0..400).map(|seed| lab.cut(3, Cache::Torn(seed))[..4].to_owned()).collect();
        for disk in ["aaaa", "bbbb", "bbba", "baaa", "abab", "aaab"] {
            assert!(seen.contains(disk), "{disk} is not among {seen:?}");
        }
        assert_eq!(lab.cut(3, Cache::Torn(7)), lab.cut(3, Cache::Torn(7)));
    }

    #[test]
    fn a_write_with_fua_is_durable_alone() {
        let lab = Lab::new(Writing::default().write(0, 2, b'a').entry(2, 2, FUA, &[b'f'; 1024]));
        begins(&lab.cut(2, Cache::Lost), "..ff..");
    }

    #[test]
    fn a_deaf_disk_loses_what_was_flushed() {
        let lab = Lab::new(Writing::default().write(0, 2, b'a').flush().write(2, 2, b'b').flush());
        let cut = |count| Cut { entries_count: 4, cache: Cache::Lost, disk: Disk::DeafFrom(count) };
        begins(&lab.after(cut(0)), "....");
        begins(&lab.after(cut(2)), "aa..");
        begins(&lab.after(cut(4)), "aabb");
    }

    #[test]
    fn what_was_discarded_reads_as_nothing() {
        let lab = Lab::new(Writing::default().entry(0, 8, crate::write_log::testing::DISCARD, &[]).flush());
        begins(&lab.cut(2, Cache::Lost), "\0\0\0\0\0\0\0\0.");
    }
}
