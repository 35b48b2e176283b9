//! Postfix as Debian packs it, unpacked beside and never installed: a foreign judge for the switch and for this crate.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

/// Why there is no Postfix.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// A directory could not be made, read or renamed.
    #[error("{path}")]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// `apt-get download` or `dpkg-deb -x` failed: no archive can be reached, most likely.
    #[error("{command}: {output}")]
    Command {
        /// The command.
        command: &'static str,
        /// The end of what it said.
        output: String,
    },
}

/// The unpacked package.
#[derive(Clone, Debug)]
pub struct Postfix {
    root: PathBuf,
}

impl Postfix {
    /// Postfix below `directory/root`; downloads and unpacks the package unless it is there. No script of the package
    /// runs, and no service starts.
    ///
    /// # Errors
    /// `Command` when the package cannot be had, `File` when the directory cannot be written.
    pub fn unpack(directory: &Path) -> Result<Self, UnpackError> {
        let root = directory.join("root");
        if root.join("usr/sbin/smtp-source").is_file() {
            return Ok(Self { root });
        }
        // Unpacked under another name and renamed, so that `root` is whole or not there.
        static ATTEMPTS: AtomicU64 = AtomicU64::new(0);
        let attempt = ATTEMPTS.fetch_add(1, Ordering::Relaxed);
        let new = directory.join(format!("new-{}-{attempt}", std::process::id()));
        let file = |source| UnpackError::File { path: new.clone(), source };
        fs::create_dir_all(&new).map_err(file)?;
        // Not by apt's own user: it could not write here.
        run("apt-get download", &new, &["apt-get", "-o", "APT::Sandbox::User=root", "download", "postfix"])?;
        let mut entries = fs::read_dir(&new).map_err(file)?.flatten().map(|entry| entry.path());
        let package = entries.find(|path| path.extension().is_some_and(|extension| extension == "deb"));
        let package = package.unwrap_or_else(|| new.join("postfix.deb"));
        let arguments = [OsStr::new("dpkg-deb"), OsStr::new("-x"), package.as_os_str(), OsStr::new("root")];
        run("dpkg-deb -x", &new, &arguments)?;
        match fs::rename(new.join("root"), &root) {
            // Another process was faster: its copy is as good.
            Err(_) if root.join("usr/sbin/smtp-source").is_file() => {}
            result => result.map_err(file)?,
        }
        fs::remove_dir_all(&new).map_err(file)?;
        Ok(Self { root })
    }

    /// The place of the package's files.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where its libraries are: for LD_LIBRARY_PATH.
    #[must_use]
    pub fn libraries(&self) -> PathBuf {
        self.root.join("usr/lib/postfix")
    }

    /// One of its programs in usr/sbin, with an environment in which it finds its libraries.
    #[must_use]
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.root.join("usr/sbin").join(name));
        command.env("LD_LIBRARY_PATH", self.libraries());
        command
    }
}

fn run<T: AsRef<OsStr>>(name: &'static str, directory: &Path, arguments: &[T]) -> Result<(), UnpackError> {
    let (program, arguments) = arguments.split_first().expect("every caller names a program");
    let output = Command::new(program).args(arguments).current_dir(directory).stdin(Stdio::null()).output();
    let output = output.map_err(|error| UnpackError::Command { command: name, output: error.to_string() })?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.trim().lines().last().unwrap_or("no output").to_owned();
    Err(UnpackError::Command { command: name, output: last })
}
