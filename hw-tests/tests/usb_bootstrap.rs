//! The site's bootstrap on a USB stick that is labelled STERNPOST.

use std::path::PathBuf;
use std::process::Command;
use sternpost_hw_tests::device::Device;
use sternpost_hw_tests::vm::{BOOT_MAX, VmOptions};

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
    let output = output.expect("mtools are installed (.ci/packages)");
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
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
