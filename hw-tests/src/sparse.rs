//! Copies of disks that take no more room than what stands on them.

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const PIECE_OCTETS: u64 = 1 << 20;
/// Runs of zeroes of this length become holes.
const GRAIN_OCTETS: usize = 1 << 16;

/// Copies a file; holes stay holes, and long runs of zeroes become some.
///
/// # Errors
/// Whatever the system says of either file.
pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let source = File::open(from)?;
    let length = source.metadata()?.len();
    let target = File::create(to)?;
    target.set_len(length)?;
    let mut piece = vec![0; usize::try_from(PIECE_OCTETS).map_err(io::Error::other)?];
    let mut at = 0;
    while at < length {
        at = match seek(&source, SeekFrom::Data(at)) {
            Ok(at) => at,
            // No data is left.
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = seek(&source, SeekFrom::Hole(at))?;
        while at < end {
            let count = usize::try_from((end - at).min(PIECE_OCTETS)).map_err(io::Error::other)?;
            source.read_exact_at(&mut piece[..count], at)?;
            for grain in piece[..count].chunks(GRAIN_OCTETS) {
                if grain.iter().any(|&octet| octet != 0) {
                    target.write_all_at(grain, at)?;
                }
                at += grain.len() as u64;
            }
        }
    }
    Ok(())
}

/// Octets that a file takes on its disk.
///
/// # Errors
/// What the system says of the file.
pub fn used_octets(path: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    // st_blocks counts units of 512 octets, whatever the file system.
    Ok(path.metadata()?.blocks() * 512)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_the_same_octets_and_its_holes() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("a"), folder.path().join("b"));
        let file = File::create(&from).unwrap();
        file.set_len(40 << 20).unwrap();
        file.write_all_at(b"begin", 0).unwrap();
        file.write_all_at(&vec![0; 8 << 20], 4 << 20).unwrap();
        file.write_all_at(&vec![7; 3 << 20], (20 << 20) - 5).unwrap();
        file.write_all_at(b"end", (40 << 20) - 3).unwrap();
        copy(&from, &to).unwrap();
        assert!(std::fs::read(&from).unwrap() == std::fs::read(&to).unwrap());
        assert!(used_octets(&to).unwrap() < 5 << 20, "{}", used_octets(&to).unwrap());
    }
}
