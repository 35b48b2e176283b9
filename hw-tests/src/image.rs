//! The image under test, and disks made of it.

use crate::sparse;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// What `make image` leaves behind, as far as a boot needs it.
const FILES: [&str; 4] = ["sternpost.img", "vmlinuz", "initrd", "cmdline"];

/// Where the image lies, if not in `target/image`.
const FOLDER_VARIABLE: &str = "STERNPOST_IMAGE";

/// Room of the disk that a guest gets, as of a small drive.
pub const DISK_OCTETS: u64 = 4 << 30;

/// The image.
#[derive(Clone, Debug)]
pub struct Image {
    folder: PathBuf,
}

impl Image {
    /// The image of this checkout, or of `STERNPOST_IMAGE`.
    ///
    /// # Panics
    /// When it is not there; the message says how to make it.
    #[must_use]
    pub fn find() -> Self {
        let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/image");
        let folder = std::env::var_os(FOLDER_VARIABLE).map_or_else(default, PathBuf::from);
        for file in FILES {
            let path = folder.join(file);
            assert!(
                path.is_file(),
                "{} is not there: run `make image` first, or name another folder by {FOLDER_VARIABLE}",
                path.display()
            );
        }
        Self { folder }
    }

    /// Where it lies.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The kernel.
    #[must_use]
    pub fn kernel(&self) -> PathBuf {
        self.folder.join("vmlinuz")
    }

    /// What the kernel unpacks to find its root.
    #[must_use]
    pub fn initrd(&self) -> PathBuf {
        self.folder.join("initrd")
    }

    /// The kernel's command line.
    #[must_use]
    pub fn command_line(&self) -> String {
        let text = fs::read_to_string(self.folder.join("cmdline")).expect("the image's files can be read");
        text.trim().to_owned()
    }

    /// A new disk with the image on it, of `octets` in all, as it leaves the factory.
    pub fn write_disk(&self, path: &Path, octets: u64) {
        sparse::copy(&self.folder.join("sternpost.img"), path).expect("the folder of a test can be written");
        let disk = File::options().write(true).open(path).expect("the disk was just made");
        let image_octets = disk.metadata().expect("an open file has a length").len();
        assert!(image_octets <= octets, "the image has {image_octets} octets, more than a disk of {octets}");
        disk.set_len(octets).expect("the folder of a test can be written");
    }
}
