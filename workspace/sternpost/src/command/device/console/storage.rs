//! Whether the device has its disk: the state partition in its place, a queue partition, and room for both.
//!
//! The device starts without them, for otherwise nobody would be there to say what is missing. Where is told by the image's part
//! of the bootstrap; a machine without one is no device.

use serde::Deserialize;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A partition that is not there by now does not come any more.
const PARTITION_MAX: Duration = Duration::from_secs(60);
/// What the image takes of a disk, from its beginning (`image/genimage.cfg`).
const SYSTEM_MIB: u64 = 1 + 3 * 128;
/// The least that state and queue take (`image/overlay/usr/lib/repart.d`).
const STATE_AND_QUEUE_MIB: u64 = 128 + 512;
/// The second table, at the end of the disk, as partitions begin at whole MiB.
const TABLE_MIB: u64 = 1;
/// The kernel counts a disk in sectors of this size, whatever its own are.
const SECTOR_OCTETS: u64 = 512;

/// The part of the bootstrap's image that is of interest here.
#[derive(Debug, Deserialize)]
struct DevicePart {
    state_directory: PathBuf,
    queue: QueuePart,
}

#[derive(Debug, Deserialize)]
struct QueuePart {
    path: PathBuf,
}

/// What is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Storage {
    /// Something is mounted for the state.
    has_state: bool,
    /// The queue partition has its name.
    has_queue: bool,
    /// The size of the disk that the system is on, where that can be told.
    disk_mib: Option<u64>,
}

impl Storage {
    /// Looks at what the image's part of the bootstrap names; none where there is no such file.
    pub(super) fn look(device: &Path) -> Option<Self> {
        let part: DevicePart = toml::from_str(&fs::read_to_string(device).ok()?).ok()?;
        Some(Self {
            has_state: is_mounted(&part.state_directory),
            has_queue: part.queue.path.exists(),
            disk_mib: disk_octets().map(|octets| octets >> 20),
        })
    }

    /// What somebody must do something about.
    pub(super) fn problems(&self, since_kernel_start: Duration) -> Vec<String> {
        let least_mib = SYSTEM_MIB + STATE_AND_QUEUE_MIB + TABLE_MIB;
        if let Some(disk_mib) = self.disk_mib.filter(|disk_mib| *disk_mib < least_mib)
            && !(self.has_state && self.has_queue)
        {
            return vec![format!(
                "the disk has {disk_mib} MiB, too few: behind the system's {SYSTEM_MIB} MiB state and queue need {STATE_AND_QUEUE_MIB}; use a disk of 2 GiB or more"
            )];
        }
        let mut problems = Vec::new();
        // Partitions come before the console, but for what their names take.
        if !self.has_queue && since_kernel_start >= PARTITION_MAX {
            problems.push(
                "there is no queue partition on a built-in disk, so no mail is taken: look at the disk, and start the device again"
                    .to_owned(),
            );
        }
        if !self.has_state {
            problems.push(
                "the state partition cannot be used: bootstrap and configuration are forgotten at the next start, the queue is not touched; leave the stick in, let the queue run empty, and replace the disk"
                    .to_owned(),
            );
        }
        problems
    }
}

/// Whether a file system of its own is at this place.
fn is_mounted(folder: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    let own = device(folder);
    own.is_some() && own != folder.parent().and_then(device)
}

/// The disk that the root's partition is on: below the kernel's device mapper is the partition, and that lies in its disk.
fn disk_octets() -> Option<u64> {
    let root = fs::metadata("/").ok()?.dev();
    let (major, minor) = (rustix::fs::major(root), rustix::fs::minor(root));
    let below = fs::read_dir(format!("/sys/dev/block/{major}:{minor}/slaves")).ok()?.flatten().next()?;
    let partition = fs::canonicalize(below.path()).ok()?;
    let sectors: u64 = fs::read_to_string(partition.parent()?.join("size")).ok()?.trim().parse().ok()?;
    sectors.checked_mul(SECTOR_OCTETS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATE: Duration = Duration::from_secs(61);

    #[test]
    fn a_whole_disk_is_no_problem_nor_is_a_queue_that_may_still_appear() {
        let storage = Storage { has_state: true, has_queue: true, disk_mib: Some(1_026) };
        assert!(storage.problems(LATE).is_empty());
        assert!(Storage { disk_mib: None, ..storage }.problems(LATE).is_empty());
        let without_queue = Storage { has_queue: false, ..storage };
        assert!(without_queue.problems(Duration::from_secs(59)).is_empty());
        let problems = without_queue.problems(LATE);
        assert!(
            matches!(&problems[..], [one] if one.starts_with("there is no queue partition")),
            "{problems:?}"
        );
    }

    #[test]
    fn a_disk_that_is_too_small_is_the_one_problem_and_a_lost_state_another() {
        let storage = Storage { has_state: false, has_queue: false, disk_mib: Some(1_025) };
        let too_small = "the disk has 1025 MiB, too few: behind the system's 385 MiB state and queue need 640; use a disk of 2 GiB or more";
        assert_eq!(storage.problems(Duration::ZERO), [too_small]);
        let lost = Storage { has_queue: true, disk_mib: Some(4_096), ..storage }.problems(Duration::ZERO);
        assert!(
            matches!(&lost[..], [one] if one.starts_with("the state partition cannot be used")),
            "{lost:?}"
        );
    }

    #[test]
    fn the_sizes_are_those_of_the_image() {
        let mib = |text: &str, key: &str| -> u64 {
            let values = text.lines().filter_map(|line| line.trim().strip_prefix(key)?.strip_suffix('M'));
            values.map(|value| value.parse::<u64>().unwrap()).sum()
        };
        let layout = include_str!("../../../../../../image/genimage.cfg");
        assert_eq!(mib(layout, "align = ") + mib(layout, "size = "), SYSTEM_MIB);
        let state = include_str!("../../../../../../image/overlay/usr/lib/repart.d/40-state.conf");
        let queue = include_str!("../../../../../../image/overlay/usr/lib/repart.d/50-queue.conf");
        assert_eq!(mib(state, "SizeMinBytes=") + mib(queue, "SizeMinBytes="), STATE_AND_QUEUE_MIB);
    }

    #[test]
    fn the_images_part_of_the_bootstrap_tells_where_to_look() {
        let device =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../image/overlay/etc/sternpost/device.toml");
        let storage = Storage::look(&device).unwrap();
        assert!(!storage.has_queue, "{storage:?}");
        assert_eq!(Storage::look(Path::new("/nowhere/device.toml")), None);
        assert!(is_mounted(Path::new("/proc")) && !is_mounted(Path::new("/proc/self")));
    }
}
