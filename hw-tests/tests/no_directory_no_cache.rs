//! A device that does not know who it is says what it lacks and how to give it, and goes on by itself when it is there.

use std::time::{Duration, Instant};
use sternpost_hw_tests::device::Device;
use sternpost_hw_tests::vm::{BOOT_MAX, VmOptions};

/// How long a device is watched that has nothing to go by.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn without_directory_and_cache_the_console_says_what_is_missing_until_the_directory_appears() {
    let mut device = Device::from_factory("no-directory-no-cache");
    device.site.slapd.stop();
    let mut vm = device.boot("guest");
    let waiting = vm.milestone("waiting: ", BOOT_MAX);
    println!("{:.2} s: {}", waiting.seconds, waiting.words);
    assert!(waiting.words.contains("directory") && waiting.words.contains("10.0.2.2"), "{}", waiting.words);
    assert_eq!(vm.greeting(), None, "no mail is taken without a configuration");
    device.site.slapd.restart();
    vm.milestone("boot is good", BOOT_MAX);
    device.site.mail_passes(vm.smtp());
}

#[test]
fn without_a_bootstrap_the_console_says_how_to_give_one() {
    let device = Device::from_factory("no-bootstrap");
    let mut vm = device.boot_with("guest", &VmOptions { bootstrap: None, ..device.options() });
    let waiting = vm.milestone("waiting: ", BOOT_MAX);
    println!("{:.2} s: {}", waiting.seconds, waiting.words);
    assert!(
        waiting.words.contains("STERNPOST") && waiting.words.contains("sternpost.toml"),
        "{}",
        waiting.words
    );
    assert_eq!(vm.greeting(), None, "no mail is taken without a bootstrap");
    // It goes on waiting: nothing ends, and nothing starts without it.
    let end = Instant::now() + PATIENCE;
    vm.wait_until("end of its patience", 2 * PATIENCE, |_| Instant::now() > end);
    let further: Vec<_> = vm.milestones().into_iter().map(|milestone| milestone.words).collect();
    let is_of_a_running_switch = |words: &String| {
        ["configured", "listening", "boot is good"].iter().any(|begin| words.starts_with(begin))
    };
    assert!(!further.iter().any(is_of_a_running_switch), "{further:?}");
    assert_eq!(vm.greeting(), None);
}
