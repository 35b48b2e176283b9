//! The battery-backed clock is wrong: years ahead, or at its beginning. What was accepted neither expires nor stays.

use std::time::Duration;
use sternpost_hw_tests::device::Device;
use sternpost_hw_tests::site::{LMTP_DOMAIN, load};
use sternpost_hw_tests::vm::{BOOT_MAX, VmOptions};
use sternpost_load::source::SourceOptions;

const DELIVERY_MAX: Duration = Duration::from_secs(120);

#[test]
fn waiting_mail_survives_a_clock_that_is_years_ahead_or_behind() {
    let mut device = Device::from_factory("clock-jump");
    let vm = device.boot_well("right");
    device.site.stop_lmtp();
    let send = |device: &Device, switch| {
        let recipients = vec![format!("user%d@{LMTP_DOMAIN}")];
        device.site.send(SourceOptions { recipients, messages_count: 20, ..load(switch) })
    };
    let mut sent = vec![send(&device, vm.smtp())];
    vm.quit();
    // systemd itself sets a clock back that is more than 15 years ahead of its making.
    for (name, clock) in [("ahead", "2036-06-01T12:00:00"), ("behind", "2001-01-01T00:00:00")] {
        let options = VmOptions { clock: Some(clock.to_owned()), ..device.options() };
        let mut vm = device.boot_with(name, &options);
        vm.milestone("boot is good", BOOT_MAX);
        sent.push(send(&device, vm.smtp()));
        vm.quit();
    }
    let vm = device.boot_well("right-again");
    device.site.start_lmtp();
    let compared = device.site.settle(&sent, DELIVERY_MAX);
    println!("{compared}");
    assert_eq!((compared.accepted, compared.lost), (60, 0), "{compared}");
    device.site.mail_passes(vm.smtp());
}
