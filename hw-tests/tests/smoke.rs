//! The image from the factory: it boots, asks the directory who it is, tests itself, and switches mail.

use std::time::{Duration, Instant};
use sternpost_hw_tests::device::Device;
use sternpost_hw_tests::vm::{BOOT_MAX, Vm};
use sternpost_load::process::load_average;

/// What an installer sees, in this order.
const MILESTONES: [&str; 4] = ["self test: ", "configured: ", "listening: inbound on ", "boot is good"];

/// Kernel start → 220 at the second boot. The device is held to it with two cores of its own.
const SMTP_AFTER_S_MAX: f64 = 30.0;
/// Processors that the guest can have for itself.
const PROCESSORS: f64 = 2.0;

/// MemTotal − MemAvailable of an idle device with 512 MiB.
const MEMORY_OCTETS_MAX: u64 = 96 << 20;

/// Ports that services of an operating system use, and those around ours.
const COMMON_PORTS: [u16; 24] = [
    20, 21, 22, 23, 24, 53, 80, 110, 111, 123, 143, 161, 199, 389, 443, 465, 514, 587, 636, 2525, 5355, 8080,
    9090, 19531,
];

/// Waits for the milestones in their order, and gives seconds from kernel start to each, and to the first 220.
fn reach_all(vm: &mut Vm) -> (Vec<(String, f64)>, f64) {
    let smtp = vm.wait_for_smtp(BOOT_MAX);
    let milestones: Vec<_> = MILESTONES.iter().map(|words| vm.milestone(words, BOOT_MAX)).collect();
    let smtp_s = smtp.duration_since(milestones[0].kernel_start()).as_secs_f64();
    let reached: Vec<_> = milestones.into_iter().map(|reached| (reached.words, reached.seconds)).collect();
    assert!(reached.is_sorted_by(|a, b| a.1 <= b.1), "{reached:?}");
    (reached, smtp_s)
}

fn show(boot: &str, reached: &[(String, f64)], smtp_s: f64, mail_s: f64) {
    println!("{boot}, seconds from kernel start:");
    for (words, seconds) in reached {
        println!("  {seconds:>7.2}  {words}");
    }
    println!("  {smtp_s:>7.2}  220 read by a client");
    println!("  {mail_s:>7.2}  first mail through");
}

#[test]
fn a_device_from_the_factory_boots_tests_itself_and_switches_mail() {
    let device = Device::from_factory("smoke");
    let mut vm = device.boot("first-boot");
    let (reached, smtp_s) = reach_all(&mut vm);
    let kernel_start = vm.milestone(MILESTONES[0], BOOT_MAX).kernel_start();
    device.site.mail_passes(vm.smtp());
    show("first boot", &reached, smtp_s, seconds_since(kernel_start));
    assert_eq!(vm.open_ports(&COMMON_PORTS), Vec::<u16>::new(), "only the listener is open");
    assert_eq!(vm.open_ports(&[25]), [25]);
    vm.quit();

    let mut vm = device.boot("second-boot");
    let (reached, smtp_s) = reach_all(&mut vm);
    let kernel_start = vm.milestone(MILESTONES[0], BOOT_MAX).kernel_start();
    device.site.mail_passes(vm.smtp());
    show("second boot", &reached, smtp_s, seconds_since(kernel_start));
    // Where others compute too, the guest gets its share alone.
    let share = (load_average() / PROCESSORS).max(1.0);
    assert!(smtp_s < SMTP_AFTER_S_MAX * share, "220 after {smtp_s:.1} s, load average {:.1}", load_average());
    let (after_boot, memory) = (vm.memory(), vm.idle_memory());
    println!(
        "memory in use of {:.1} MiB: {:.1} just after the boot, {:.1} when idle",
        mib(memory.total_octets),
        mib(after_boot.used_octets()),
        mib(memory.used_octets())
    );
    assert!(memory.used_octets() <= MEMORY_OCTETS_MAX, "{memory:?}");
}

fn seconds_since(moment: Instant) -> f64 {
    Instant::now().saturating_duration_since(moment).max(Duration::ZERO).as_secs_f64()
}

#[allow(clippy::cast_precision_loss, reason = "a figure for people needs no 53 bits")]
fn mib(octets: u64) -> f64 {
    octets as f64 / f64::from(1 << 20)
}
