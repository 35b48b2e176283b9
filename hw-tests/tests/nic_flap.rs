//! The network cable is pulled and put back.

use std::time::{Duration, Instant};
use sternpost_hw_tests::device::Device;
use sternpost_hw_tests::site::endless_load;

/// Between two messages under this load there is never so long a pause.
const STILL: Duration = Duration::from_secs(3);
const STILL_MAX: Duration = Duration::from_secs(30);
/// From the cable's return to mail: TCP may have doubled its timer meanwhile.
const RESUME_MAX: Duration = Duration::from_secs(90);
const FLAPS: usize = 3;

#[test]
fn mail_resumes_when_the_cable_is_back_and_nothing_is_lost() {
    let device = Device::from_factory("nic-flap");
    let mut vm = device.boot_well("guest");
    let sending = endless_load(vm.smtp(), 4, 40.0);
    for flap in 1..=FLAPS {
        let accepted = sending.progress.accepted_count();
        vm.wait_until("mail before the cable is pulled", RESUME_MAX, |_| {
            sending.progress.accepted_count() > accepted + 40
        });
        vm.set_link(false);
        let mut last = (sending.progress.accepted_count(), Instant::now());
        vm.wait_until("silence without a cable", STILL_MAX, |_| {
            let count = sending.progress.accepted_count();
            if count != last.0 {
                last = (count, Instant::now());
            }
            last.1.elapsed() > STILL
        });
        vm.set_link(true);
        let back = Instant::now();
        vm.wait_until("mail when the cable is back", RESUME_MAX, |_| {
            sending.progress.accepted_count() > last.0 + 40
        });
        println!("flap {flap}: mail again after {:.1} s", back.elapsed().as_secs_f64());
    }
    let report = sending.stop();
    let compared = device.site.settle(&[report], RESUME_MAX);
    println!("{compared}");
    assert_eq!(compared.lost, 0, "{compared}");
}
