//! Files that are there whole or not at all: written beside their place and renamed.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Who owns a file and who may do what with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mode: u32,
}

impl Owner {
    /// For everybody to read.
    pub(crate) const PUBLIC: Self = Self { uid: 0, gid: 0, mode: 0o644 };
    /// For root alone.
    pub(crate) const PRIVATE: Self = Self { uid: 0, gid: 0, mode: 0o600 };
}

/// Writes a file in the place of the one before. Whoever is not root cannot give files away, and keeps them.
///
/// # Errors
/// Those of the file system; the file is then the one before.
pub(crate) fn put(path: &Path, octets: &[u8], owner: Owner) -> io::Result<()> {
    let mut writing = Writing::beside(path)?;
    writing.file.write_all(octets)?;
    give(&writing.file, owner)?;
    writing.finish(path)?;
    sync_names(path)
}

/// A file that is being written beside its place, readable for its owner alone. Dropping it takes it away.
#[derive(Debug)]
pub(crate) struct Writing {
    new: PathBuf,
    file: File,
    is_finished: bool,
}

impl Writing {
    /// Begins a file beside the place of another one, or of itself.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn beside(path: &Path) -> io::Result<Self> {
        let name = format!(".{}.new", path.file_name().unwrap_or_default().to_string_lossy());
        let new = path.with_file_name(name);
        // What a run that was killed has left.
        let _ = std::fs::remove_file(&new);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        Ok(Self { new, file, is_finished: false })
    }

    /// Puts it into a place of the same folder. The names of the folder are for [`sync_names`].
    ///
    /// # Errors
    /// Those of the file system; the file is then gone, and what was in its place is there.
    pub(crate) fn finish(mut self, path: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        std::fs::rename(&self.new, path)?;
        self.is_finished = true;
        Ok(())
    }

    /// Closes it, to be put into its place with others by [`put_all`].
    pub(crate) fn close_for(mut self, place: PathBuf) -> Written {
        self.is_finished = true;
        Written { new: self.new.clone(), place, is_in_place: false }
    }
}

/// A file that was written beside its place and closed. Dropping it takes it away.
#[derive(Debug)]
pub(crate) struct Written {
    new: PathBuf,
    place: PathBuf,
    is_in_place: bool,
}

impl Drop for Written {
    fn drop(&mut self) {
        if !self.is_in_place {
            let _ = std::fs::remove_file(&self.new);
        }
    }
}

/// Puts files of one folder into their places, in order: one sync of the file system for all of them, where one for each would
/// be a commit of its journal each.
///
/// # Errors
/// Those of the file system; then the first of the files are in their places, and the rest is gone.
pub(crate) fn put_all(files: Vec<Written>) -> io::Result<()> {
    let Some(first) = files.first() else { return Ok(()) };
    rustix::fs::syncfs(File::open(folder_of(&first.place))?)?;
    for mut file in files {
        std::fs::rename(&file.new, &file.place)?;
        file.is_in_place = true;
    }
    Ok(())
}

impl Write for Writing {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.file.write(octets)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if !self.is_finished {
            let _ = std::fs::remove_file(&self.new);
        }
    }
}

/// Lets the names of the folder in which `path` is survive the loss of power.
///
/// # Errors
/// Those of the file system.
pub(crate) fn sync_names(path: &Path) -> io::Result<()> {
    File::open(folder_of(path))?.sync_all()
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a folder, or changes the one that is there.
///
/// # Errors
/// Those of the file system.
pub(crate) fn folder(path: &Path, owner: Owner) -> io::Result<()> {
    std::fs::create_dir_all(path)?;
    let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::NOFOLLOW;
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    give(&OpenOptions::new().read(true).custom_flags(flags).open(path)?, owner)
}

/// To what is open, whatever has its name by now: the folder may be another user's.
fn give(file: &File, owner: Owner) -> io::Result<()> {
    let Owner { uid, gid, mode } = owner;
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::fchown(file, Some(uid), Some(gid))?;
    }
    file.set_permissions(Permissions::from_mode(mode))
}

/// A file of at most `octets_max`; none when it is not there.
///
/// # Errors
/// Those of the file system; `InvalidData` when it is larger or no text.
pub(crate) fn read_text(path: &Path, octets_max: u64) -> io::Result<Option<String>> {
    match File::open(path) {
        Ok(file) => text_of(file, octets_max).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A file that somebody else has put there, to be read: what has its name may be a pipe or a device that never ends.
///
/// # Errors
/// Those of the file system; `InvalidInput` when it is no regular file.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    // Without, a pipe is not open before somebody writes to it.
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file; copy what is meant into one"))
}

/// The text of a file of at most `octets_max`.
///
/// # Errors
/// Those of the file system; `InvalidData` when it is larger or no text.
pub(crate) fn text_of(file: File, octets_max: u64) -> io::Result<String> {
    use std::io::Read as _;
    let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let mut octets = Vec::new();
    file.take(octets_max + 1).read_to_end(&mut octets)?;
    if octets.len() as u64 > octets_max {
        return Err(invalid(format!("it is larger than {octets_max} octets")));
    }
    String::from_utf8(octets).map_err(|_| invalid("it is no text in UTF-8".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_with_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        put(&path, b"one", Owner::PRIVATE).unwrap();
        std::fs::write(folder.path().join(".f.new"), "left by a run that was killed").unwrap();
        put(&path, b"two", Owner::PUBLIC).unwrap();
        assert_eq!(read_text(&path, 3).unwrap().as_deref(), Some("two"));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_is_not_finished_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let mut writing = Writing::beside(&path).unwrap();
        writing.write_all(b"half").unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        drop(writing);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let mut writing = Writing::beside(&path).unwrap();
        writing.write_all(b"whole").unwrap();
        writing.finish(&folder.path().join("g")).unwrap();
        assert_eq!(std::fs::read(folder.path().join("g")).unwrap(), b"whole");
    }

    #[test]
    fn many_files_come_into_their_places_together_or_leave_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        let written = |name: &str| {
            let mut writing = Writing::beside(&place(name)).unwrap();
            writing.write_all(name.as_bytes()).unwrap();
            writing.close_for(place(name))
        };
        drop(vec![written("a"), written("b")]);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        put_all(vec![written("a"), written("b")]).unwrap();
        assert_eq!(std::fs::read(place("b")).unwrap(), b"b");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
        put_all(Vec::new()).unwrap();
    }

    #[test]
    fn a_folder_whose_name_leads_elsewhere_gives_nothing_away() {
        let above = tempfile::tempdir().unwrap();
        let (elsewhere, name) = (above.path().join("elsewhere"), above.path().join("name"));
        std::fs::create_dir(&elsewhere).unwrap();
        std::fs::set_permissions(&elsewhere, Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &name).unwrap();
        folder(&name, Owner { mode: 0o755, ..Owner::PUBLIC }).unwrap_err();
        assert_eq!(std::fs::metadata(&elsewhere).unwrap().permissions().mode() & 0o777, 0o700);
        std::fs::remove_file(&name).unwrap();
        folder(&name, Owner { mode: 0o755, ..Owner::PUBLIC }).unwrap();
        assert_eq!(std::fs::metadata(&name).unwrap().permissions().mode() & 0o777, 0o755);
    }

    #[test]
    fn what_never_ends_is_not_opened_as_a_file_of_another() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, place("pipe"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
        std::os::unix::fs::symlink("/dev/zero", place("zero")).unwrap();
        for name in ["pipe", "zero", "."] {
            assert_eq!(open_regular(&place(name)).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{name}");
        }
        assert_eq!(open_regular(&place("absent")).unwrap_err().kind(), io::ErrorKind::NotFound);
        std::fs::write(place("f"), "text").unwrap();
        std::os::unix::fs::symlink("f", place("name")).unwrap();
        assert_eq!(text_of(open_regular(&place("name")).unwrap(), 4).unwrap(), "text");
    }

    #[test]
    fn what_is_too_large_or_no_text_is_refused_and_what_is_absent_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        assert_eq!(read_text(&path, 3).unwrap(), None);
        std::fs::write(&path, "four").unwrap();
        assert_eq!(read_text(&path, 3).unwrap_err().kind(), io::ErrorKind::InvalidData);
        std::fs::write(&path, [0xff]).unwrap();
        assert_eq!(read_text(&path, 3).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
