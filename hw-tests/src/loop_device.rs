//! A block device over a file. It goes with its last user, whatever becomes of us. Needs root and losetup.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Another program may take the free device between the look for it and its use: then the next free one.
const ATTEMPTS_MAX: u32 = 20;

/// Why there is no device.
#[derive(Debug, thiserror::Error)]
pub enum LoopDeviceError {
    /// losetup cannot be started, or refuses.
    #[error("losetup gives no device for {}: {said}", file.display())]
    Losetup {
        /// What the device was to be made of.
        file: PathBuf,
        /// What it said.
        said: String,
    },
    /// The device was made and cannot be used.
    #[error("{} cannot be prepared", path.display())]
    Prepare {
        /// The device, or its place in sysfs.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A block device.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    /// Keeps the device, which is told to go with its last user.
    _user: File,
}

impl LoopDevice {
    /// A device over a file, with a write cache that flushes empty. Its requests are carried out one at a time.
    ///
    /// The kernel does so without direct I/O: one worker thread, which waits for each request. With direct I/O several are
    /// under way at once, and below them may be a program that does not bear that (`logged_device`).
    ///
    /// # Errors
    /// `Losetup` without root or when no device is free; `Prepare`.
    pub fn over(file: &Path) -> Result<Self, LoopDeviceError> {
        let path = attach(file)?;
        let failed = |path: &Path, source| LoopDeviceError::Prepare { path: path.to_owned(), source };
        let user = File::open(&path).map_err(|source| failed(&path, source));
        // Detaches at once if nobody uses the device; else, as now, when the last user is gone.
        run(Command::new("losetup").arg("--detach").arg(&path), file)?;
        let device = Self { _user: user?, path };
        let name = device.path.file_name().unwrap_or_default();
        let cache = Path::new("/sys/block").join(name).join("queue/write_cache");
        // Somebody may have told this device before us that it has no cache; it would keep every flush to itself.
        fs::write(&cache, "write back").map_err(|source| failed(&cache, source))?;
        Ok(device)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn attach(file: &Path) -> Result<PathBuf, LoopDeviceError> {
    let mut attempts_count = 0;
    loop {
        attempts_count += 1;
        let mut command = Command::new("losetup");
        match run(command.args(["--find", "--show", "--direct-io=off"]).arg(file), file) {
            Err(error) if attempts_count == ATTEMPTS_MAX => return Err(error),
            Err(_) => {}
            Ok(path) => return Ok(path.trim().into()),
        }
    }
}

fn run(command: &mut Command, file: &Path) -> Result<String, LoopDeviceError> {
    let failed = |said: String| LoopDeviceError::Losetup { file: file.to_owned(), said };
    let output = command.output().map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
