//! A block device for a test: a loop device over a file with holes. Needs root and losetup.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Set by .ci/test where there are no loop devices, which it says.
const WITHOUT: &str = "STERNPOST_NO_LOOP_DEVICES";

/// A block device, given back at the end.
pub(crate) struct LoopDevice {
    folder: TempDir,
    device: PathBuf,
}

impl LoopDevice {
    /// Its size.
    pub(crate) const OCTETS: u64 = 48 << 20;

    /// A device that begins with these octets; none where this machine gives none and `WITHOUT` says that this is known.
    pub(crate) fn with_head(head: &[u8]) -> Option<Self> {
        let folder = super::new_home();
        let path = folder.path().join("disk");
        let file = File::create(&path).expect("the folder of a test can be written");
        file.set_len(Self::OCTETS).expect("a file can have holes");
        file.write_all_at(head, 0).expect("a file can be written");
        // Another test may take the free device in between: then the next free one.
        for _ in 0..20 {
            let Ok(output) = Command::new("losetup").args(["--find", "--show"]).arg(&path).output() else {
                break;
            };
            if output.status.success() {
                return Some(Self { folder, device: super::text(&output.stdout).trim().into() });
            }
        }
        assert!(
            std::env::var_os(WITHOUT).is_some(),
            "this machine gives no loop device: run as root, or set {WITHOUT} to go without these tests"
        );
        None
    }

    /// Where it is.
    pub(crate) fn device(&self) -> &Path {
        &self.device
    }

    /// What stands on it.
    pub(crate) fn octets(&self, from: u64, count: usize) -> Vec<u8> {
        let mut octets = vec![0; count];
        let device = File::open(&self.device).expect("a device of a test can be read");
        device.read_exact_at(&mut octets, from).expect("the device is as large");
        octets
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let detached = Command::new("losetup").arg("--detach").arg(&self.device).status();
        if !detached.is_ok_and(|status| status.success()) {
            eprintln!("{} stays behind, with {}", self.device.display(), self.folder.path().display());
        }
    }
}
