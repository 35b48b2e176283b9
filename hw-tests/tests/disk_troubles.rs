//! A disk that is not as it should be: the device does what can be done without it, and says what is wrong.

use rustix::fs::{FallocateFlags, fallocate};
use std::fs::File;
use std::os::unix::fs::FileExt;
use sternpost_hw_tests::device::Device;
use sternpost_hw_tests::gpt;
use sternpost_hw_tests::vm::{BOOT_MAX, VmOptions};

/// Less than system, state and the smallest queue take.
const SMALL_DRIVE_OCTETS: u64 = 900 << 20;
/// Behind the superblock, with blocks of 1,024 or 4,096 octets: the group descriptors.
const GROUP_DESCRIPTORS: std::ops::Range<u64> = 2_048..8_192;

/// More than any console here has.
const LINES_MAX: usize = 1_000;

/// A device that has run once, its drive, and where a partition of it is.
fn after_first_boot(name: &str, partition: &str) -> (Device, File, std::ops::Range<u64>) {
    let device = Device::from_factory(name);
    device.boot_well("first").quit();
    let range = gpt::partition(&device.drive(), partition).expect("the drive can be read");
    let drive = File::options().read(true).write(true).open(device.drive()).expect("the drive is there");
    (device, drive, range.expect("the first boot makes state and queue"))
}

#[test]
fn mail_flows_without_the_state_partition() {
    let (device, drive, state) = after_first_boot("state-lost", "state");
    let length = state.end - state.start;
    fallocate(&drive, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, state.start, length)
        .expect("the file system of a test has holes");
    let mut vm = device.boot("without-state");
    vm.milestone("problem: the state partition cannot be used", BOOT_MAX);
    vm.milestone("boot is good", BOOT_MAX);
    device.site.mail_passes(vm.smtp());
}

#[test]
fn a_state_partition_that_wants_answers_of_its_repairer_is_repaired() {
    let (device, drive, state) = after_first_boot("state-damaged", "state");
    let zeroes = vec![0; usize::try_from(GROUP_DESCRIPTORS.end - GROUP_DESCRIPTORS.start).expect("small")];
    drive.write_all_at(&zeroes, state.start + GROUP_DESCRIPTORS.start).expect("the drive can be written");
    // Only what was kept there tells this boot of its directory.
    let mut vm = device.boot_with("damaged", &VmOptions { bootstrap: None, ..device.options() });
    vm.milestone("boot is good", BOOT_MAX);
    device.site.mail_passes(vm.smtp());
}

#[test]
fn a_queue_partition_that_holds_something_else_is_named_and_left_as_it_is() {
    let (device, drive, queue) = after_first_boot("queue-overwritten", "queue");
    let foreign = b"what somebody else has put here ".repeat(1 << 12);
    drive.write_all_at(&foreign, queue.start).expect("the drive can be written");
    let mut vm = device.boot("overwritten");
    vm.milestone("problem: the part store of the switch ends again and again: exit status: 1: ", BOOT_MAX);
    vm.quit();
    let mut found = vec![0; foreign.len()];
    drive.read_exact_at(&mut found, queue.start).expect("the drive can be read");
    assert!(found == foreign, "the store has written to a partition that it does not know");
}

#[test]
fn a_disk_that_is_too_small_is_named_on_the_console() {
    let device = Device::with_drive("disk-too-small", SMALL_DRIVE_OCTETS);
    let mut vm = device.boot("guest");
    vm.milestone("problem: the disk has 900 MiB, ", BOOT_MAX);
}

#[test]
fn a_machine_that_does_not_find_its_system_says_so_on_the_console() {
    let device = Device::from_factory("no-system");
    let drive = device.folder.join("empty.img");
    File::create(&drive).and_then(|file| file.set_len(1 << 30)).expect("the folder of a test can be written");
    let mut vm = device.boot_with("guest", &VmOptions { disk: drive, ..device.options() });
    let words = "sternpost: the system partition cannot be used: no disk has a partition with the UUID";
    vm.wait_until("word of the initramfs", BOOT_MAX, |vm| vm.console().end(LINES_MAX).contains(words));
}
