//! The directory goes away, for a while or over a boot: mail flows by the configuration that was last known to be good.

use std::time::Duration;
use sternpost_hw_tests::device::Device;
use sternpost_hw_tests::site::{Site, load, shared_dn};
use sternpost_hw_tests::vm::{BOOT_MAX, Credential, Vm, VmOptions};
use sternpost_load::sending;
use sternpost_load::source::SourceOptions;

/// A change is in force after this, the reconnection included.
const CHANGE_MAX: Duration = Duration::from_secs(60);

/// Routes a domain that was unknown so far to the SMTP hop, and waits until it is taken.
fn route_is_added(site: &Site, vm: &mut Vm, domain: &str) {
    site.replace(&shared_dn("to-next-hop"), &[("sternpostDomain", domain)]);
    let recipients = vec![format!("user@{domain}")];
    let to = SourceOptions { recipients, ..load(vm.smtp()) };
    vm.wait_until("change of the directory in force", CHANGE_MAX, |_| {
        sending::start(to.clone()).end().refused.is_empty()
    });
}

#[test]
fn mail_flows_while_the_directory_is_away_and_later_changes_arrive() {
    let mut device = Device::from_factory("directory-outage");
    // The other way to give a virtual machine its bootstrap.
    let credential = Some(Credential::FwCfg(device.site.bootstrap()));
    let mut vm = device.boot_with("first-boot", &VmOptions { bootstrap: credential, ..device.options() });
    vm.milestone("boot is good", BOOT_MAX);
    device.site.slapd.kill();
    device.site.mail_passes(vm.smtp());
    device.site.slapd.restart();
    route_is_added(&device.site, &mut vm, "later.test");
    device.site.replace(&shared_dn("to-next-hop"), &[("sternpostDomain", "smtp.test")]);
    route_is_added(&device.site, &mut vm, "smtp.test");
    device.site.slapd.kill();
    vm.quit();

    let mut vm = device.boot("without-directory");
    let configured = vm.milestone("configured: ", BOOT_MAX);
    println!("{:.2} s: {}", configured.seconds, configured.words);
    assert!(configured.words.contains("last known good"), "{}", configured.words);
    vm.milestone("boot is good", BOOT_MAX);
    device.site.mail_passes(vm.smtp());
    device.site.slapd.restart();
    route_is_added(&device.site, &mut vm, "again.test");
}
