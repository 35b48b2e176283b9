//! Where the partitions of a disk are (UEFI 2.10, 5.3: the GUID Partition Table).

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

const SECTOR_OCTETS: u64 = 512;
/// The entries begin at the third sector.
const ENTRIES_AT: u64 = 2 * SECTOR_OCTETS;
const ENTRIES_COUNT: u64 = 128;
const ENTRY_OCTETS: usize = 128;
/// 36 units of UTF-16 at the end of an entry.
const NAME: Range<usize> = 56..128;

/// The octets of the partition that has this name, if there is one.
///
/// # Errors
/// Whatever the system says of the disk.
pub fn partition(disk: &Path, name: &str) -> io::Result<Option<Range<u64>>> {
    let disk = File::open(disk)?;
    for number in 0..ENTRIES_COUNT {
        let mut entry = [0; ENTRY_OCTETS];
        disk.read_exact_at(&mut entry, ENTRIES_AT + number * ENTRY_OCTETS as u64)?;
        let units = entry[NAME].chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
        let units: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
        if units == name.encode_utf16().collect::<Vec<_>>() {
            let first = u64::from_le_bytes(entry[32..40].try_into().map_err(io::Error::other)?);
            let last = u64::from_le_bytes(entry[40..48].try_into().map_err(io::Error::other)?);
            return Ok(Some(first * SECTOR_OCTETS..(last + 1) * SECTOR_OCTETS));
        }
    }
    Ok(None)
}
