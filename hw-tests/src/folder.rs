//! The folder of one test, `target/hw-tests/NAME`: consoles stay there, disks go with the test.

use std::fs;
use std::path::{Path, PathBuf};

/// What stays when the test is over.
const KEPT: [&str; 3] = ["log", "txt", "json"];

/// A folder.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// An empty folder of this name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/hw-tests").join(name);
        // It may not be there; if it cannot be emptied, the next line fails.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("target/ can be written");
        Self { path: path.canonicalize().expect("a folder that was just made is there") }
    }

    /// A file in it.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            let path = entry.path();
            let is_kept = path.extension().is_some_and(|ending| KEPT.iter().any(|kept| ending == *kept));
            // A file that cannot be removed now is removed by the next run.
            let _ = match path.is_dir() {
                true => fs::remove_dir_all(&path),
                false if is_kept => Ok(()),
                false => fs::remove_file(&path),
            };
        }
    }
}
