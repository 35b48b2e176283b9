//! A block device of this host whose writes and flushes are written down, and whose flushes can fail: without KVM, without
//! device-mapper.
//!
//! `qemu-storage-daemon` keeps the log of writes (`blklogwrites`, read by `write_log`) and shows the disk as a file by FUSE;
//! a loop device makes a block device of the file. A sync of the block device comes out as a FLUSH behind the writes that
//! it covers, whether it was an `fdatasync`, an `RWF_DSYNC` or an `fsync` on a ring.
//!
//! Requests reach the daemon one at a time ([`LoopDevice`]). Debian 12's (QEMU 7.2) reads the next request from FUSE into the buffer
//! of the write under way: what is written would not be what was sent.

use crate::loop_device::{LoopDevice, LoopDeviceError};
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use sternpost_load::guarded::{Guarded, GuardedError};
use tempfile::TempDir;

const DAEMON: &str = "qemu-storage-daemon";
/// Time for the daemon to show the file, and for its mount to go.
const DAEMON_MAX: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// EIO.
const INPUT_OUTPUT_ERROR: u32 = 5;

/// What becomes of the device's flushes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flushes {
    /// They reach the disk.
    Obeyed,
    /// They are answered and never reach the disk: as if the writer had not asked.
    Ignored,
    /// Those with these numbers fail with EIO and do not reach the disk. The first flush has number 1.
    FailingAt(Vec<u32>),
}

/// Why there is no such device.
#[derive(Debug, thiserror::Error)]
pub enum LoggedDeviceError {
    /// A file could not be made.
    #[error("{}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The daemon does not run.
    #[error("{DAEMON} does not run ({said})")]
    Daemon {
        /// What it said.
        said: String,
        /// How it ended.
        source: GuardedError,
    },
    /// The daemon does not show the file.
    #[error("{DAEMON} shows no file at {}: {said}", mount.display())]
    NoFile {
        /// Where it should be.
        mount: PathBuf,
        /// What the daemon said.
        said: String,
    },
    /// There is no block device.
    #[error(transparent)]
    Loop(#[from] LoopDeviceError),
}

/// A device, until it is dropped.
#[derive(Debug)]
pub struct LoggedDevice {
    // In the order in which they go: the device lets go of the file, the daemon of its mount.
    device: LoopDevice,
    _daemon: Daemon,
}

impl LoggedDevice {
    /// A device of `octets` that begins with `head` and is zero behind it. The disk lies at `disk`, the log of its writes
    /// at `write_log`.
    ///
    /// # Errors
    /// `LoggedDeviceError` says which step failed; what is missing on this machine, [`missing`] tells before.
    pub fn start(
        head: &[u8],
        octets: u64,
        disk: &Path,
        write_log: &Path,
        flushes: &Flushes,
    ) -> Result<Self, LoggedDeviceError> {
        let file_error = |path: &Path| {
            let path = path.to_owned();
            move |source| LoggedDeviceError::File { path, source }
        };
        fs::write(disk, head).map_err(file_error(disk))?;
        let file = File::options().write(true).open(disk).map_err(file_error(disk))?;
        file.set_len(octets).map_err(file_error(disk))?;
        File::create(write_log).map_err(file_error(write_log))?;
        let daemon = Daemon::start(&nodes(disk, write_log, flushes), octets)?;
        let device = LoopDevice::over(&daemon.mount)?;
        Ok(Self { device, _daemon: daemon })
    }

    /// Where the device is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.device.path()
    }

    /// Ends the device. Nobody may use it any more.
    pub fn stop(self) {
        drop(self);
    }
}

/// The daemon's block nodes, from the disk up; the last one is the device.
fn nodes(disk: &Path, write_log: &Path, flushes: &Flushes) -> Vec<Value> {
    let is_deaf = *flushes == Flushes::Ignored;
    let mut nodes = vec![
        json!({ "driver": "file", "node-name": "disk", "filename": disk }),
        json!({ "driver": "file", "node-name": "log", "filename": write_log }),
        json!({ "driver": "blklogwrites", "node-name": "logged", "file": "disk", "log": "log",
                "cache": { "no-flush": is_deaf } }),
    ];
    if let Flushes::FailingAt(numbers) = flushes {
        // Above the log of writes, which would take down a failed flush like any other. The state counts the flushes.
        let last = numbers.iter().max().copied().unwrap_or_default();
        let count = |state| json!({ "event": "flush_to_disk", "state": state, "new_state": state + 1 });
        let fail = |&number: &u32| json!({ "event": "flush_to_disk", "iotype": "flush", "errno": INPUT_OUTPUT_ERROR, "state": number, "once": true });
        nodes.push(json!({ "driver": "blkdebug", "node-name": "failing", "image": "logged",
                           "set-state": (1..=last).map(count).collect::<Vec<_>>(),
                           "inject-error": numbers.iter().map(fail).collect::<Vec<_>>() }));
        // Events are those of a node's parent.
        nodes.push(json!({ "driver": "raw", "node-name": "counted", "file": "failing" }));
    }
    nodes
}

#[derive(Debug)]
struct Daemon {
    guarded: Option<Guarded>,
    mount: PathBuf,
    folder: TempDir,
}

impl Daemon {
    fn start(nodes: &[Value], octets: u64) -> Result<Self, LoggedDeviceError> {
        let temporary = |source| LoggedDeviceError::File { path: std::env::temp_dir(), source };
        let folder = tempfile::Builder::new().prefix("sp").tempdir().map_err(temporary)?;
        let mount = folder.path().join("disk");
        File::create(&mount).map_err(temporary)?;
        let errors = File::create(folder.path().join("errors")).map_err(temporary)?;
        let top = nodes.last().map_or(&Value::Null, |node| &node["node-name"]);
        let export =
            json!({ "type": "fuse", "id": "disk", "node-name": top, "mountpoint": mount, "writable": true });
        let mut arguments: Vec<String> = Vec::new();
        for node in nodes {
            arguments.extend(["--blockdev".to_owned(), node.to_string()]);
        }
        arguments.extend(["--export".to_owned(), export.to_string()]);
        let arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
        let mut daemon = Self { guarded: None, mount, folder };
        let guarded = Guarded::start(Path::new(DAEMON), &arguments, |command| {
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
            // An interrupt at the terminal is for us alone: what uses the device ends before it.
            std::os::unix::process::CommandExt::process_group(command, 0);
        });
        daemon.guarded = Some(guarded.map_err(|source| daemon.error(source))?);
        daemon.wait_for_file(octets)?;
        Ok(daemon)
    }

    fn wait_for_file(&mut self, octets: u64) -> Result<(), LoggedDeviceError> {
        let deadline = Instant::now() + DAEMON_MAX;
        while self.mount.metadata().map_or(0, |metadata| metadata.len()) != octets {
            if let Some(Err(source)) = self.guarded.as_mut().map(Guarded::check) {
                return Err(self.error(source));
            }
            if Instant::now() > deadline {
                return Err(LoggedDeviceError::NoFile { mount: self.mount.clone(), said: self.said() });
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    fn error(&self, source: GuardedError) -> LoggedDeviceError {
        LoggedDeviceError::Daemon { said: self.said(), source }
    }

    fn said(&self) -> String {
        fs::read_to_string(self.folder.path().join("errors")).unwrap_or_default().trim().to_owned()
    }

    fn is_mounted(&self) -> bool {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        mounts.lines().any(|line| line.split(' ').nth(1).is_some_and(|place| Path::new(place) == self.mount))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // On SIGTERM it unmounts by itself. One that was killed leaves a mount behind that answers nobody.
        drop(self.guarded.take());
        if self.is_mounted() {
            let unmounted = Command::new("umount").arg("--lazy").arg(&self.mount).status();
            if !unmounted.is_ok_and(|status| status.success()) {
                eprintln!("{} stays mounted", self.mount.display());
            }
        }
    }
}

/// What this machine lacks for such a device, in sentences; none when it has everything.
#[must_use]
pub fn missing() -> Vec<String> {
    let mut missing = Vec::new();
    if !rustix::process::geteuid().is_root() {
        missing.push("root, who attaches loop devices and mounts: run it as root".to_owned());
    }
    let programs = [
        (DAEMON, "qemu-system-common"),
        ("losetup", "mount"),
        ("setpriv", "util-linux"),
        ("umount", "mount"),
    ];
    for (program, package) in programs {
        if Command::new(program)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_err()
        {
            missing.push(format!("the program {program}, of Debian's package {package}: .ci/packages crash"));
        }
    }
    if File::options().read(true).write(true).open("/dev/fuse").is_err() {
        missing.push("/dev/fuse: load the kernel's module fuse, or give the container the device".to_owned());
    }
    let free = Command::new("losetup").arg("--find").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !free.is_ok_and(|status| status.success()) {
        missing.push("a free loop device: losetup --find must name one".to_owned());
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_flush_that_fails_has_its_own_rule_and_the_flushes_before_it_are_counted() {
        let nodes = nodes(Path::new("d"), Path::new("l"), &Flushes::FailingAt(vec![2, 4]));
        let names: Vec<_> = nodes.iter().map(|node| node["node-name"].as_str().unwrap()).collect();
        assert_eq!(names, ["disk", "log", "logged", "failing", "counted"]);
        assert_eq!(nodes[3]["set-state"].as_array().unwrap().len(), 4);
        assert_eq!(nodes[3]["inject-error"][1]["state"], 4);
    }
}
