//! The site's bootstrap on a USB stick that is labelled STERNPOST.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use sternpost_hw_tests::device::Device;
use sternpost_hw_tests::vm::{BOOT_MAX, VmOptions};
use sternpost_hw_tests::{gpt, sparse};

/// Room of the stick in KiB.
const STICK_KIB: &str = "16384";

/// A stick as an installer makes it: FAT, the label, and one file.
fn stick(device: &Device) -> PathBuf {
    let (stick, file) = (device.folder.join("stick.img"), device.folder.join("sternpost.toml"));
    std::fs::write(&file, device.site.bootstrap()).expect("the folder of a test can be written");
    let image = stick.to_string_lossy().into_owned();
    run(
        "mformat",
        &["-C", "-i", &image, "-T", &sectors(STICK_KIB), "-h", "64", "-s", "32", "-v", "STERNPOST", "::"],
    );
    run("mcopy", &["-i", &image, &file.to_string_lossy(), "::sternpost.toml"]);
    stick
}

fn sectors(kib: &str) -> String {
    (kib.parse::<u64>().expect("a number") * 2).to_string()
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.expect("mtools, fdisk and e2fsprogs are installed (.ci/packages)");
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A stick with partitions of the names and types of ours (`image/overlay/usr/lib/repart.d`), a file system on the one, zeroes
/// on the other.
fn stick_like_a_device(device: &Device) -> PathBuf {
    let stick = device.folder.join("like-a-device.img");
    let table = "label: gpt\n\
        start=2048, size=262144, name=state, type=E2606E28-03F3-4E88-B2CE-E89EA27E87A1\n\
        start=264192, size=1048576, name=queue, type=667DB936-F149-4725-B8DE-07581C4C3C1B\n";
    let script = device.folder.join("table.txt");
    std::fs::write(&script, table).expect("the folder of a test can be written");
    let file = File::create(&stick).expect("the folder of a test can be written");
    file.set_len(700 << 20).expect("the folder of a test can be written");
    let image = stick.to_string_lossy();
    run(
        "sh",
        &[
            "-ec",
            "PATH=$PATH:/usr/sbin:/sbin; sfdisk -q \"$1\" <\"$2\"",
            "sh",
            &image,
            &script.to_string_lossy(),
        ],
    );
    let at = format!("offset={}", 2048 * 512);
    run("sh", &["-ec", "PATH=$PATH:/usr/sbin:/sbin; mkfs.ext4 -q -E \"$1\" \"$2\" 128M", "sh", &at, &image]);
    stick
}

#[test]
fn a_stick_with_partitions_like_the_devices_is_left_alone() {
    let device = Device::from_factory("usb-like-a-device");
    let stick = stick_like_a_device(&device);
    let before = device.folder.join("before.img");
    sparse::copy(&stick, &before).expect("the folder of a test can be written");
    let mut vm = device.boot_with("guest", &VmOptions { sticks: vec![stick.clone()], ..device.options() });
    vm.milestone("boot is good", BOOT_MAX);
    device.site.mail_passes(vm.smtp());
    vm.quit();
    // A mount would have written the time of the mount, a store its log.
    run("cmp", &[&before.to_string_lossy(), &stick.to_string_lossy()]);
    assert!(gpt::partition(&device.drive(), "queue").expect("the drive can be read").is_some());
}

#[test]
fn a_stick_that_is_there_at_the_first_boot_is_needed_only_once() {
    let device = Device::from_factory("usb-at-boot");
    let with_stick = VmOptions { bootstrap: None, sticks: vec![stick(&device)], ..device.options() };
    let mut vm = device.boot_with("with-stick", &with_stick);
    vm.milestone("boot is good", BOOT_MAX);
    device.site.mail_passes(vm.smtp());
    vm.quit();
    let mut vm = device.boot_with("without-stick", &VmOptions { bootstrap: None, ..device.options() });
    vm.milestone("boot is good", BOOT_MAX);
    device.site.mail_passes(vm.smtp());
}

#[test]
fn a_stick_that_is_put_in_later_needs_no_reboot() {
    let device = Device::from_factory("usb-later");
    let mut vm = device.boot_with("guest", &VmOptions { bootstrap: None, ..device.options() });
    vm.milestone("waiting: ", BOOT_MAX);
    vm.plug_in(&stick(&device), "late");
    vm.milestone("boot is good", BOOT_MAX);
    device.site.mail_passes(vm.smtp());
}
