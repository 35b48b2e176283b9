//! A word on a USB stick that is there and brings no bootstrap: its file system is not of the kind that is mounted, or
//! the file has another name. Read from what kernel and device manager show; the stick itself is not touched.

use super::ports::property;
use super::site::FILE_NAME;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Where the kernel shows disks and partitions.
pub(super) const BLOCK_DEVICES: &str = "/sys/class/block";
/// Names of files that are told.
const NAMES_MAX: usize = 8;

/// What is wrong with the stick, if one is there; `usb` is where one with the right label is mounted.
pub(super) fn word(usb: &Path, block_devices: &Path, device_data: &Path) -> Option<String> {
    if is_mounted(usb) {
        return (!usb.join(FILE_NAME).exists()).then(|| without_file(usb));
    }
    let found = on_usb(block_devices, device_data);
    // One with the right label is about to be mounted.
    if found.is_empty() || found.iter().any(|found| found.is_vfat && found.label == "STERNPOST") {
        return None;
    }
    let found: Vec<_> = found.iter().map(Found::words).collect();
    Some(format!(
        "a USB stick is there, but no FAT file system labelled STERNPOST on it; it has: {}",
        found.join(", ")
    ))
}

/// Whether a file system is mounted there.
pub(super) fn is_mounted(folder: &Path) -> bool {
    let device = |path: &Path| path.metadata().map(|metadata| metadata.dev()).ok();
    let above = folder.parent().and_then(device);
    matches!((device(folder), above), (Some(own), Some(above)) if own != above)
}

fn without_file(usb: &Path) -> String {
    let entries = std::fs::read_dir(usb).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    let count = names.len();
    names.truncate(NAMES_MAX);
    let mut has = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
    if count > NAMES_MAX {
        has.push_str(&format!(" and {} more", count - NAMES_MAX));
    }
    format!(
        "the USB stick STERNPOST has no {FILE_NAME} in its root; it has: {has} (is the name's ending hidden where it was written?)"
    )
}

/// A file system, or a disk without any.
struct Found {
    name: String,
    is_vfat: bool,
    /// `FAT`, `exfat`, …; empty when none is known.
    kind: String,
    label: String,
}

impl Found {
    fn words(&self) -> String {
        let kind = match (self.kind.as_str(), self.is_vfat) {
            ("", _) => "no file system that is known",
            (_, true) => "FAT",
            (kind, false) => kind,
        };
        let label =
            if self.label.is_empty() { "no label".to_owned() } else { format!("label {}", self.label) };
        if self.kind.is_empty() {
            format!("{} {kind}", self.name)
        } else {
            format!("{} {kind} with {label}", self.name)
        }
    }
}

/// File systems on USB; a disk that has partitions is told by these.
fn on_usb(block_devices: &Path, device_data: &Path) -> Vec<Found> {
    let entries = std::fs::read_dir(block_devices).into_iter().flatten().flatten();
    let mut found: Vec<Found> = entries
        .filter_map(|entry| {
            let read = |name: &str| std::fs::read_to_string(entry.path().join(name)).ok();
            let data = std::fs::read_to_string(device_data.join(format!("b{}", read("dev")?.trim()))).ok()?;
            let is_usb = property(&data, "ID_BUS") == Some("usb");
            // A reader without a medium; a disk with a table of partitions.
            let is_empty = read("size")?.trim() == "0" || property(&data, "ID_TYPE") != Some("disk");
            let is_whole = !entry.path().join("partition").exists();
            let has_partitions = is_whole && property(&data, "ID_PART_TABLE_TYPE").is_some();
            if !is_usb || is_empty || has_partitions {
                return None;
            }
            let text = |key: &str| property(&data, key).unwrap_or_default().to_owned();
            let kind = text("ID_FS_TYPE");
            Some(Found {
                name: entry.file_name().to_string_lossy().into_owned(),
                is_vfat: kind == "vfat",
                kind,
                label: text("ID_FS_LABEL"),
            })
        })
        .collect();
    found.sort_by(|one, other| one.name.cmp(&other.name));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Lab(tempfile::TempDir);

    impl Lab {
        fn new() -> Self {
            let lab = Self(tempfile::tempdir().unwrap());
            for folder in ["usb", "block", "data"] {
                std::fs::create_dir(lab.0.path().join(folder)).unwrap();
            }
            lab
        }

        fn disk(&self, name: &str, dev: &str, is_partition: bool, data: &str) {
            let folder = self.0.path().join("block").join(name);
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join("dev"), format!("{dev}\n")).unwrap();
            std::fs::write(folder.join("size"), "2048\n").unwrap();
            if is_partition {
                std::fs::write(folder.join("partition"), "1\n").unwrap();
            }
            let data = format!("S:disk/by-id/x\nE:ID_TYPE=disk\n{data}");
            std::fs::write(self.0.path().join("data").join(format!("b{dev}")), data).unwrap();
        }

        fn word(&self) -> Option<String> {
            let at = |name: &str| self.0.path().join(name);
            word(&at("usb"), &at("block"), &at("data"))
        }
    }

    #[test]
    fn a_stick_of_another_kind_is_told_with_what_it_has() {
        let lab = Lab::new();
        lab.disk("sda", "8:0", false, "E:ID_BUS=ata\nE:ID_FS_TYPE=ext4\n");
        assert_eq!(lab.word(), None);
        lab.disk("sdb", "8:16", false, "E:ID_BUS=usb\nE:ID_PART_TABLE_TYPE=dos\n");
        lab.disk(
            "sdb1",
            "8:17",
            true,
            "E:ID_BUS=usb\nE:ID_PART_TABLE_TYPE=dos\nE:ID_FS_TYPE=exfat\nE:ID_FS_LABEL=STERNPOST\n",
        );
        lab.disk("sdb2", "8:18", true, "E:ID_BUS=usb\nE:ID_FS_TYPE=vfat\n");
        let wanted = "a USB stick is there, but no FAT file system labelled STERNPOST on it; it has: sdb1 exfat with label STERNPOST, sdb2 FAT with no label";
        assert_eq!(lab.word().as_deref(), Some(wanted));
        // Where one is right, it is mounted in a moment.
        lab.disk("sdc", "8:32", false, "E:ID_BUS=usb\nE:ID_FS_TYPE=vfat\nE:ID_FS_LABEL=STERNPOST\n");
        assert_eq!(lab.word(), None);
    }

    #[test]
    fn a_stick_without_the_file_is_told_with_the_files_that_it_has() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("sternpost.toml.txt"), "").unwrap();
        let said = without_file(folder.path());
        assert!(
            said.starts_with(
                "the USB stick STERNPOST has no sternpost.toml in its root; it has: sternpost.toml.txt ("
            ),
            "{said}"
        );
        // A folder of the same file system is no stick.
        assert!(!is_mounted(folder.path()) && is_mounted(Path::new("/proc")));
    }
}
