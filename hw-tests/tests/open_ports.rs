//! What answers from outside: the configured listener and nothing else, of all TCP ports that there are.

use sternpost_hw_tests::device::Device;

/// Ports that are tried at once; each takes two descriptors of QEMU and one of ours.
const BATCH: usize = 400;

#[test]
fn no_port_but_the_configured_one_answers() {
    let device = Device::from_factory("open-ports");
    let mut vm = device.boot_well("guest");
    let ports: Vec<u16> = (1..=u16::MAX).collect();
    let open: Vec<u16> = ports.chunks(BATCH).flat_map(|batch| vm.open_ports(batch)).collect();
    assert_eq!(open, [25]);
}
