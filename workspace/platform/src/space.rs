//! How much room a file system has.

use std::fs::File;
use std::io;

/// The room of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// All of it, in octets; 0 where the file system has no bound of its own.
    pub octets: u64,
    /// What of it this user may still fill, in octets.
    pub free_octets: u64,
}

/// The room of the file system on which a file stands.
///
/// # Errors
/// Those of `fstatfs`.
pub fn of(file: &File) -> io::Result<Space> {
    let said = rustix::fs::fstatvfs(file)?;
    let octets = |blocks: u64| blocks.saturating_mul(said.f_frsize);
    Ok(Space { octets: octets(said.f_blocks), free_octets: octets(said.f_bavail) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_has_no_more_free_than_it_has() {
        let file = tempfile::tempfile().unwrap();
        let space = of(&file).unwrap();
        assert!(space.octets > 0 && space.free_octets <= space.octets, "{space:?}");
    }
}
