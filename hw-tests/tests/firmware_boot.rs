//! From the firmware on: UEFI, systemd-boot, the UKI, and a root that dm-verity vouches for.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::Duration;
use sternpost_hw_tests::device::Device;
use sternpost_hw_tests::vm::{BOOT_MAX, Start, VmOptions};

/// Firmware and boot loader, emulated on a machine that has other work too.
const FIRMWARE_BOOT_MAX: Duration = Duration::from_secs(300);

/// Offset of the partition with this label, in octets.
fn partition_offset(device: &Device, label: &str) -> u64 {
    let output = Command::new("sfdisk").arg("--json").arg(device.drive()).output();
    let output = output.expect("sfdisk is installed (.ci/packages)");
    let table: serde_json::Value = serde_json::from_slice(&output.stdout).expect("sfdisk speaks JSON");
    let partitions = table["partitiontable"]["partitions"].as_array().expect("the image has partitions");
    let found = partitions.iter().find(|partition| partition["name"] == label);
    let start = found.and_then(|partition| partition["start"].as_u64());
    start.unwrap_or_else(|| panic!("there is no partition {label}: {partitions:?}")) * 512
}

#[test]
fn the_firmware_finds_the_image_and_mail_passes() {
    let device = Device::from_factory("firmware-boot");
    let mut vm = device.boot_with("guest", &VmOptions { start: Start::Firmware, ..device.options() });
    let good = vm.milestone("boot is good", FIRMWARE_BOOT_MAX);
    println!("boot is good {:.2} s after the kernel's start", good.seconds);
    device.site.mail_passes(vm.smtp());
}

#[test]
fn one_flipped_bit_in_the_system_partition_ends_the_boot_before_the_switch_runs() {
    let device = Device::from_factory("flipped-bit");
    // The time of its making in the superblock of squashfs: nothing but dm-verity looks at it.
    let offset = partition_offset(&device, "system-a") + 8;
    let drive = File::options().read(true).write(true).open(device.drive()).expect("the drive was just made");
    let mut octet = [0];
    drive.read_exact_at(&mut octet, offset).expect("the partition lies on the drive");
    drive.write_all_at(&[octet[0] ^ 1], offset).expect("the drive can be written");
    drop(drive);
    let mut vm = device.boot("guest");
    // QEMU ends instead of starting the machine again.
    vm.wait_for_end("end of a machine whose system is damaged", BOOT_MAX);
    let console = vm.console().end(2000);
    assert!(console.contains("dm-verity device corrupted"), "{console}");
    assert!(vm.milestones().is_empty(), "the switch ran: {:?}", vm.milestones());
}
