//! The image is written onto a drive that has been in use.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;
use sternpost_hw_tests::device::Device;
use sternpost_hw_tests::gpt;
use sternpost_hw_tests::site::{LMTP_DOMAIN, load};
use sternpost_hw_tests::vm::VmOptions;
use sternpost_load::source::SourceOptions;

/// What `dd bs=1M skip=1 seek=1 count=384` copies, in MiB: the partitions of the image, without the table before them.
const COPIED_MIB: std::ops::Range<u64> = 1..385;
const MESSAGES: u64 = 12;
const DELIVERY_MAX: Duration = Duration::from_secs(120);

#[test]
fn the_system_written_again_behind_the_table_keeps_state_and_mail() {
    let mut device = Device::from_factory("image-again");
    device.site.stop_lmtp();
    let vm = device.boot_well("before");
    let report = device.site.send(SourceOptions {
        messages_count: MESSAGES,
        recipients: vec![format!("user%d@{LMTP_DOMAIN}")],
        ..load(vm.smtp())
    });
    vm.quit();

    let image = device.image.folder().join("sternpost.img");
    let of_image = |name| gpt::partition(&image, name).expect("the image can be read").expect("it is there");
    assert_eq!(of_image("esp").start, COPIED_MIB.start << 20);
    assert_eq!(of_image("system-b").end, COPIED_MIB.end << 20);
    let (image, drive) = (File::open(&image), File::options().read(true).write(true).open(device.drive()));
    let (image, drive) = (image.expect("the image is there"), drive.expect("the drive is there"));
    let mut piece = vec![0; 1 << 20];
    // A system that differs, as that of another version does: without the copy nothing boots.
    for mib in COPIED_MIB {
        drive.write_all_at(&piece, mib << 20).expect("the drive can be written");
    }
    for mib in COPIED_MIB {
        image.read_exact_at(&mut piece, mib << 20).expect("the image can be read");
        drive.write_all_at(&piece, mib << 20).expect("the drive can be written");
    }

    // The directory is known from what was kept.
    device.site.start_lmtp();
    let vm = device.boot_with("after", &VmOptions { bootstrap: None, ..device.options() });
    let compared = device.site.settle(&[report], DELIVERY_MAX);
    assert_eq!((compared.lost, compared.duplicated), (0, 0), "{compared}");
    vm.quit();
}
