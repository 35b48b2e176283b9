//! The self test finds another drive and chooses other values.

use sternpost_hw_tests::device::Device;
use sternpost_hw_tests::vm::{BOOT_MAX, VmOptions};

/// A drive that writes 4 MiB a second: 128 KiB, the smallest batch that there is, take it 32 ms.
const REQUESTS_PER_S: u64 = 1024;

/// The numbers in a line, thousands separated by commas or not.
fn numbers(text: &str) -> Vec<u64> {
    let plain: String = text.chars().filter(|letter| *letter != ',').collect();
    let words = plain.split(|letter: char| !letter.is_ascii_digit());
    words.filter_map(|word| word.parse().ok()).collect()
}

#[test]
fn on_a_slow_drive_the_self_test_chooses_smaller_batches_and_mail_passes() {
    let device = Device::from_factory("slow-disk");
    let mut vm = device.boot("fast");
    let fast = vm.milestone("self test: ", BOOT_MAX);
    vm.milestone("boot is good", BOOT_MAX);
    vm.quit();
    let options = VmOptions { requests_per_s_max: Some(REQUESTS_PER_S), ..device.options() };
    let mut vm = device.boot_with("slow", &options);
    let slow = vm.milestone("self test: ", 2 * BOOT_MAX);
    println!("fast: {}\nslow: {}", fast.words, slow.words);
    assert!(numbers(&slow.words)[0] < numbers(&fast.words)[0], "{} {}", fast.words, slow.words);
    vm.milestone("boot is good", BOOT_MAX);
    device.site.mail_passes(vm.smtp());
}
