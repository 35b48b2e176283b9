//! The queue fills up while a next hop is down: mail is refused for now, and taken again when there is room.

use std::time::Duration;
use sternpost_hw_tests::device::Device;
use sternpost_hw_tests::site::{LMTP_DOMAIN, load};
use sternpost_hw_tests::vm::BOOT_MAX;
use sternpost_load::sending;
use sternpost_load::source::SourceOptions;

/// Little more than what image, state partition and the smallest queue take (`image/overlay/usr/lib/repart.d`).
const DRIVE_OCTETS: u64 = 1100 << 20;
/// Larger than what the queue of such a drive can hold.
const MESSAGES_MAX: u64 = 4000;
const FILL_MAX: Duration = Duration::from_secs(600);
const DRAIN_MAX: Duration = Duration::from_secs(600);

#[test]
fn a_full_queue_refuses_for_now_and_accepts_again_when_it_has_drained() {
    let mut device = Device::with_drive("disk-full", DRIVE_OCTETS);
    let mut vm = device.boot_well("guest");
    device.site.mail_passes(vm.smtp());
    device.site.stop_lmtp();
    let sending = sending::start(SourceOptions {
        sessions_count: 4,
        messages_count: MESSAGES_MAX,
        octets: vec![1 << 20],
        recipients: vec![format!("user%d@{LMTP_DOMAIN}")],
        ..load(vm.smtp())
    });
    vm.wait_until("refusal by a full queue", FILL_MAX, |_| sending.progress.troubles_count() > 0);
    let report = sending.stop();
    println!("{} messages of 1 MiB accepted, then {:?}", report.accepted_count, report.troubles);
    assert!(report.refused.iter().all(|refusal| refusal.code == Some(452)), "{:?}", report.troubles);
    assert!(report.accepted_count > 10, "the queue held something");

    // A full queue does not keep a device from booting.
    vm.quit();
    let mut vm = device.boot_well("full");
    device.site.start_lmtp();
    let compared = device.site.settle(&[report], DRAIN_MAX);
    println!("{compared}");
    assert_eq!(compared.lost, 0, "{compared}");
    vm.wait_until("room for mail", BOOT_MAX, |vm| {
        let one = SourceOptions { octets: vec![1 << 20], ..load(vm.smtp()) };
        sending::start(one).end().refused.is_empty()
    });
    device.site.mail_passes(vm.smtp());
}
