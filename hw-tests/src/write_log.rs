//! What a disk was told, in order: the log that QEMU's `blklogwrites` keeps, in the format of Linux's dm-log-writes.
//!
//! A sector of superblock, then for each request a sector of header and its data. Everything is little-endian. The
//! superblock is written with each flush and counts the entries until then (before the first flush there are zeroes); the
//! log is therefore read to its end, which is where no header stands any more. A request is in the log before its sender
//! hears that it is done.
//!
//! Not here: which disks a power cut may leave (`power_cut`).

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First octets of a log.
const MAGIC: u64 = u64::from_le_bytes(*b"rhswfsj\0");
const VERSION: u64 = 1;
/// Entries speak of sectors of the size in the superblock; QEMU writes 512 unless told.
const SECTOR_OCTETS_MIN: u32 = 512;
const SECTOR_OCTETS_MAX: u32 = 4096;

const FLUSH: u64 = 1 << 0;
const FUA: u64 = 1 << 1;
const DISCARD: u64 = 1 << 2;
const MARK: u64 = 1 << 3;
const FLAGS: u64 = FLUSH | FUA | DISCARD | MARK;

#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawSuperblock {
    magic: U64,
    version: U64,
    entries_count: U64,
    sector_octets: U32,
}
const _: () = assert!(size_of::<RawSuperblock>() == 28);

impl RawSuperblock {
    /// As QEMU has it in mind until a flush writes it.
    fn without_flush() -> Self {
        let (magic, version) = (MAGIC.into(), VERSION.into());
        Self { magic, version, entries_count: 0.into(), sector_octets: SECTOR_OCTETS_MIN.into() }
    }
}

#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawEntry {
    sector: U64,
    sectors_count: U64,
    flags: U64,
    data_octets: U64,
}
const _: () = assert!(size_of::<RawEntry>() == 32);

/// What a request asked of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Data for the place at which the entry speaks; with `durable` (FUA) it may not be lost once it was answered.
    Write {
        /// FUA.
        durable: bool,
    },
    /// What was answered before may not be lost any more.
    Flush,
    /// The content of the place is of no interest any more.
    Discard,
    /// A name that somebody wrote into the log. It asks nothing of the disk.
    Mark,
}

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What was asked.
    pub request: Request,
    /// Where on the disk, in octets.
    pub offset: u64,
    /// How much of it, in octets.
    pub octets: u64,
    /// Where its header stands in the log.
    log_begin: u64,
    /// Where its data stands in the log.
    data_at: u64,
    /// The log's length with this entry as its last.
    pub log_octets: u64,
}

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum WriteLogError {
    /// Open, read or stat failed.
    #[error("the log of writes {} cannot be read", path.display())]
    Read {
        /// The log.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It begins with something else.
    #[error("{} is no log of writes: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
}

/// A log of writes, read once.
#[derive(Debug)]
pub struct WriteLog {
    path: PathBuf,
    file: File,
    entries: Vec<Entry>,
}

impl WriteLog {
    /// Reads the headers of all entries; the data stays on the disk.
    ///
    /// # Errors
    /// `Read` when the system refuses; `Format` when the file is no log, or counts more entries than it has.
    pub fn open(path: &Path) -> Result<Self, WriteLogError> {
        let read = |source| WriteLogError::Read { path: path.to_owned(), source };
        let format = |reason: String| WriteLogError::Format { path: path.to_owned(), reason };
        let file = File::open(path).map_err(read)?;
        let length = file.metadata().map_err(read)?.len();
        let mut raw = [0; size_of::<RawSuperblock>()];
        file.read_exact_at(&mut raw, 0).map_err(read)?;
        let has_no_flush = raw.iter().all(|&octet| octet == 0);
        let mut superblock: RawSuperblock = zerocopy::transmute!(raw);
        if has_no_flush {
            superblock = RawSuperblock::without_flush();
        }
        if superblock.magic.get() != MAGIC || superblock.version.get() != VERSION {
            return Err(format("it does not begin with magic and version 1 of dm-log-writes".to_owned()));
        }
        let sector_octets = superblock.sector_octets.get();
        if !sector_octets.is_power_of_two()
            || !(SECTOR_OCTETS_MIN..=SECTOR_OCTETS_MAX).contains(&sector_octets)
        {
            return Err(format(format!("its sectors have {sector_octets} octets")));
        }
        let mut log = Self { path: path.to_owned(), file, entries: Vec::new() };
        let mut at = u64::from(sector_octets);
        while let Some(entry) = log.entry_at(at, u64::from(sector_octets), length)? {
            at = entry.log_octets;
            log.entries.push(entry);
        }
        if has_no_flush && log.entries.is_empty() {
            return Err(format("it has neither a superblock nor a request".to_owned()));
        }
        let counted = superblock.entries_count.get();
        if (log.entries.len() as u64) < counted {
            let found = log.entries.len();
            return Err(format(format!("the superblock counts {counted} entries, and {found} are there")));
        }
        Ok(log)
    }

    /// The entry at an offset of the log. `None` where the log ends: nothing, zeroes or half of an entry.
    fn entry_at(&self, at: u64, sector_octets: u64, length: u64) -> Result<Option<Entry>, WriteLogError> {
        if at.saturating_add(sector_octets) > length {
            return Ok(None);
        }
        let mut raw = [0; size_of::<RawEntry>()];
        self.file.read_exact_at(&mut raw, at).map_err(|source| self.read_error(source))?;
        let raw: RawEntry = zerocopy::transmute!(raw);
        let (flags, data_octets) = (raw.flags.get(), raw.data_octets.get());
        let (offset, octets) = match (
            raw.sector.get().checked_mul(sector_octets),
            raw.sectors_count.get().checked_mul(sector_octets),
        ) {
            (Some(offset), Some(octets)) if offset.checked_add(octets).is_some() => (offset, octets),
            _ => return Ok(None),
        };
        let request = match flags {
            flags if flags & !FLAGS != 0 => return Ok(None),
            flags if flags & DISCARD != 0 => Request::Discard,
            flags if flags & MARK != 0 => Request::Mark,
            flags if octets == 0 && flags & FLUSH != 0 => Request::Flush,
            // Nothing was written here: the next entry was on its way when its neighbours were done.
            _ if octets == 0 => return Ok(None),
            flags => Request::Write { durable: flags & FUA != 0 },
        };
        let data_in_log = match request {
            Request::Write { .. } => octets,
            Request::Mark => data_octets.next_multiple_of(sector_octets),
            Request::Flush | Request::Discard => 0,
        };
        let data_at = at + sector_octets;
        let Some(log_octets) = data_at.checked_add(data_in_log).filter(|&end| end <= length) else {
            return Ok(None);
        };
        Ok(Some(Entry { request, offset, octets, log_begin: at, data_at, log_octets }))
    }

    fn read_error(&self, source: io::Error) -> WriteLogError {
        WriteLogError::Read { path: self.path.clone(), source }
    }

    /// All requests in the order of the log.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Takes the writes that lie within a range as such with FUA: what they wrote is never lost. For a part of a disk that
    /// somebody wrote without asking for durability, so as not to make other writes durable by the way.
    pub fn take_as_durable(&mut self, range: &Range<u64>) {
        for entry in &mut self.entries {
            let is_within = range.start <= entry.offset && entry.offset + entry.octets <= range.end;
            if let (Request::Write { durable }, true) = (&mut entry.request, is_within) {
                *durable = true;
            }
        }
    }

    /// How many entries a log of this length had, the last of which may have been half written. Whoever looked at the
    /// length while the log grew knows that all requests answered until then are among these.
    #[must_use]
    pub fn entries_within(&self, log_octets: u64) -> usize {
        self.entries.partition_point(|entry| entry.log_begin < log_octets)
    }

    /// The data of a write.
    ///
    /// # Errors
    /// `Read`, also for an entry of another log.
    pub fn data(&self, entry: &Entry) -> Result<Vec<u8>, WriteLogError> {
        let too_large = |_| self.read_error(io::ErrorKind::FileTooLarge.into());
        let mut data = vec![0; usize::try_from(entry.octets).map_err(too_large)?];
        self.file.read_exact_at(&mut data, entry.data_at).map_err(|source| self.read_error(source))?;
        Ok(data)
    }
}

/// Writes logs for tests, as QEMU does.
#[cfg(test)]
pub(crate) mod testing {
    use super::{MAGIC, RawEntry, RawSuperblock, VERSION};
    use std::path::Path;
    use zerocopy::IntoBytes;

    pub(crate) const SECTOR: usize = 512;
    pub(crate) const FLUSH: u64 = super::FLUSH;
    pub(crate) const FUA: u64 = super::FUA;
    pub(crate) const DISCARD: u64 = super::DISCARD;
    pub(crate) const MARK: u64 = super::MARK;

    /// A log in memory.
    #[derive(Default)]
    pub(crate) struct Writing {
        pub(crate) octets: Vec<u8>,
        entries_count: u64,
    }

    impl Writing {
        fn push_sector(&mut self, head: &[u8]) {
            self.octets.extend_from_slice(head);
            self.octets.resize(self.octets.len().next_multiple_of(SECTOR), 0);
        }

        /// An entry; its data is for `sectors_count` sectors.
        pub(crate) fn entry(mut self, sector: u64, sectors_count: u64, flags: u64, data: &[u8]) -> Self {
            if self.octets.is_empty() {
                self.octets.resize(SECTOR, 0);
            }
            let data_octets = (data.len() as u64).into();
            let raw = RawEntry {
                sector: sector.into(),
                sectors_count: sectors_count.into(),
                flags: flags.into(),
                data_octets,
            };
            self.push_sector(raw.as_bytes());
            self.push_sector(data);
            self.entries_count += 1;
            self
        }

        /// `sectors_count` sectors full of one octet.
        pub(crate) fn write(self, sector: u64, sectors_count: u64, octet: u8) -> Self {
            let data = vec![octet; usize::try_from(sectors_count).unwrap() * SECTOR];
            self.entry(sector, sectors_count, 0, &data)
        }

        pub(crate) fn flush(self) -> Self {
            self.entry(0, 0, FLUSH, &[])
        }

        /// Puts the superblock before it all, and everything into a file.
        pub(crate) fn finish(mut self, path: &Path) {
            let superblock = RawSuperblock {
                magic: MAGIC.into(),
                version: VERSION.into(),
                entries_count: self.entries_count.into(),
                sector_octets: 512.into(),
            };
            self.octets.resize(self.octets.len().max(SECTOR), 0);
            self.octets[..size_of::<RawSuperblock>()].copy_from_slice(superblock.as_bytes());
            std::fs::write(path, &self.octets).unwrap();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{DISCARD, FUA, MARK, Writing};
    use super::*;

    fn file() -> tempfile::NamedTempFile {
        tempfile::NamedTempFile::new().unwrap()
    }

    #[test]
    fn every_kind_of_request_reads_back() {
        let file = file();
        let log = Writing::default().write(8, 2, 7).flush().entry(1, 1, FUA, &[9; 512]);
        log.entry(4, 16, DISCARD, &[]).entry(0, 0, MARK, b"here").write(0, 1, 3).finish(file.path());
        let log = WriteLog::open(file.path()).unwrap();
        let requests: Vec<_> = log.entries().iter().map(|e| (e.request, e.offset, e.octets)).collect();
        assert_eq!(
            requests,
            [
                (Request::Write { durable: false }, 8 * 512, 1024),
                (Request::Flush, 0, 0),
                (Request::Write { durable: true }, 512, 512),
                (Request::Discard, 4 * 512, 16 * 512),
                (Request::Mark, 0, 0),
                (Request::Write { durable: false }, 0, 512),
            ]
        );
        assert_eq!(log.data(&log.entries()[0]).unwrap(), [7; 1024]);
        assert_eq!(log.data(&log.entries()[2]).unwrap(), [9; 512]);
        assert_eq!(log.data(&log.entries()[5]).unwrap(), [3; 512]);
    }

    #[test]
    fn the_log_ends_before_an_entry_that_is_not_whole() {
        let file = file();
        Writing::default().write(8, 2, 7).flush().finish(file.path());
        let whole = std::fs::metadata(file.path()).unwrap().len();
        // Header and half of the data of a third entry, which no superblock counts yet.
        let mut octets = Writing::default().write(0, 4, 1).octets.split_off(512);
        octets.truncate(512 + 700);
        let mut text = std::fs::read(file.path()).unwrap();
        text.extend_from_slice(&octets);
        for tail in [text.clone(), [&text[..], &[0; 4096]].concat()] {
            std::fs::write(file.path(), tail).unwrap();
            let log = WriteLog::open(file.path()).unwrap();
            assert!(log.entries().len() >= 2);
            assert_eq!(log.entries()[1].log_octets, whole);
        }
    }

    #[test]
    fn a_length_seen_while_the_log_grew_names_the_entries_that_were_answered() {
        let file = file();
        Writing::default().write(8, 1, 7).flush().write(0, 1, 1).finish(file.path());
        let log = WriteLog::open(file.path()).unwrap();
        // Superblock, then 1,024 octets, 512, 1,024.
        for (octets, count) in
            [(0, 0), (512, 0), (513, 1), (1536, 1), (1537, 2), (2048, 2), (2049, 3), (9999, 3)]
        {
            assert_eq!(log.entries_within(octets), count, "{octets}");
        }
    }

    #[test]
    fn writes_within_a_range_can_be_taken_as_durable() {
        let file = file();
        Writing::default().write(8, 2, 7).write(9, 2, 7).write(7, 2, 7).flush().finish(file.path());
        let mut log = WriteLog::open(file.path()).unwrap();
        log.take_as_durable(&(8 * 512..10 * 512));
        let requests: Vec<_> = log.entries().iter().map(|entry| entry.request).collect();
        let [durable, not] = [true, false].map(|durable| Request::Write { durable });
        assert_eq!(requests, [durable, not, not, Request::Flush]);
    }

    #[test]
    fn a_log_that_never_saw_a_flush_has_no_superblock_and_is_read_all_the_same() {
        let file = file();
        Writing::default().write(8, 2, 7).write(0, 1, 1).finish(file.path());
        let mut octets = std::fs::read(file.path()).unwrap();
        octets[..512].fill(0);
        std::fs::write(file.path(), octets).unwrap();
        assert_eq!(WriteLog::open(file.path()).unwrap().entries().len(), 2);
    }

    #[test]
    fn another_file_is_refused_and_so_is_a_log_that_lacks_entries() {
        let file = file();
        for text in [&b""[..], b"short", &[0; 4096]] {
            std::fs::write(file.path(), text).unwrap();
            assert!(WriteLog::open(file.path()).is_err());
        }
        Writing::default().write(8, 1, 7).flush().finish(file.path());
        let mut octets = std::fs::read(file.path()).unwrap();
        octets.truncate(512 + 1024);
        std::fs::write(file.path(), octets).unwrap();
        let error = WriteLog::open(file.path()).unwrap_err();
        assert!(error.to_string().contains("counts 2 entries, and 1"), "{error}");
    }
}
