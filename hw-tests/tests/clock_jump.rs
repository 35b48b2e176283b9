//! The battery-backed clock is wrong: years ahead, or at its beginning. What was accepted neither expires nor stays.

use std::collections::BTreeSet;
use std::time::Duration;
use sternpost_hw_tests::device::Device;
use sternpost_hw_tests::site::{LMTP_DOMAIN, load};
use sternpost_hw_tests::vm::{BOOT_MAX, VmOptions};
use sternpost_load::sink::Receipt;
use sternpost_load::source::SourceOptions;

const DELIVERY_MAX: Duration = Duration::from_secs(120);

const AHEAD: &str = "2036";

/// Days in the trace lines by which the switch has accepted mail, as `22 Nov 2026`.
fn days_of_acceptance(receipts: &[Receipt]) -> BTreeSet<String> {
    let day = |receipt: &Receipt| {
        let content = receipt.content.as_ref().expect("the message store keeps what comes");
        let content = String::from_utf8_lossy(content);
        // RFC 5322 §3.3: day name, day, month, year.
        let (_, date) = content.strip_prefix("Received: ")?.split_once(';')?;
        Some(date.split_ascii_whitespace().skip(1).take(3).collect::<Vec<_>>().join(" "))
    };
    receipts
        .iter()
        .map(|receipt| day(receipt).expect("each message begins with the switch's trace"))
        .collect()
}

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
    for (name, clock) in
        [("ahead", format!("{AHEAD}-06-01T12:00:00")), ("behind", "2001-01-01T00:00:00".to_owned())]
    {
        let options = VmOptions { clock: Some(clock), ..device.options() };
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
    // The device believed its clock; what lies before the making of systemd is raised to that.
    let days = days_of_acceptance(&device.site.lmtp.received());
    println!("accepted on {days:?}");
    assert!(days.len() >= 3 && days.iter().any(|day| day.ends_with(AHEAD)), "{days:?}");
    device.site.mail_passes(vm.smtp());
}
