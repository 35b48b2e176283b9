//! Where a run is recorded: a folder of the campaign's own, which it makes anew each time. Nobody else's is ever emptied.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The file that says whose a folder is.
const MARKER: &str = ".crash-campaign";
const MARKER_TEXT: &str = "This folder is emptied by the next run of crash-campaign.\n";

/// Why a run has no place.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Something is there that no run has made.
    #[error(
        "{} holds what is not the campaign's (it has no file {MARKER}), and is left as it is; give another --directory, or \
         remove it if nobody needs it",
        .0.display()
    )]
    NotOurs(PathBuf),
    /// The file system.
    #[error("{} cannot be made anew", path.display())]
    Make {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// An empty folder for a run: a new one, or one of an earlier run without what that has left.
///
/// # Errors
/// `PlaceError`: nothing was removed if it is `NotOurs`.
pub fn make_anew(folder: &Path) -> Result<(), PlaceError> {
    let failed = |source| PlaceError::Make { path: folder.to_owned(), source };
    if !is_ours_or_empty(folder).map_err(failed)? {
        return Err(PlaceError::NotOurs(folder.to_owned()));
    }
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    fs::create_dir_all(folder).map_err(failed)?;
    fs::write(folder.join(MARKER), MARKER_TEXT).map_err(failed)
}

fn is_ours_or_empty(folder: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(folder) {
        Ok(found) if !found.is_dir() => return Ok(false),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    }
    let is_marked = fs::symlink_metadata(folder.join(MARKER)).is_ok_and(|marker| marker.is_file());
    Ok(is_marked || fs::read_dir(folder)?.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_an_earlier_run_is_made_anew_and_nobody_elses_is() {
        let above = tempfile::tempdir().unwrap();
        let folder = above.path().join("runs/dsync");
        make_anew(&folder).unwrap();
        fs::write(folder.join("disk.img"), "old").unwrap();
        make_anew(&folder).unwrap();
        assert!(!folder.join("disk.img").exists());

        let foreign = above.path().join("dsync");
        fs::create_dir(&foreign).unwrap();
        fs::write(foreign.join("thesis"), "years").unwrap();
        let error = make_anew(&foreign).unwrap_err();
        assert!(error.to_string().contains("is left as it is"), "{error}");
        assert_eq!(fs::read(foreign.join("thesis")).unwrap(), b"years");

        let name = above.path().join("name");
        std::os::unix::fs::symlink(&folder, &name).unwrap();
        assert!(matches!(make_anew(&name), Err(PlaceError::NotOurs(_))), "a name that leads elsewhere");
        fs::remove_file(foreign.join("thesis")).unwrap();
        make_anew(&foreign).unwrap();
    }
}
