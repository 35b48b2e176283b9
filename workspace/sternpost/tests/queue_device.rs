//! The log on a whole block device: made where the device says that it is new, refused where it does not, kept for good.
//!
//! On loop devices, which need root. Where there are none the rules are still tested below the descriptor
//! (`queue/src/layout.rs`, `platform/src/disk/trial.rs`).

mod switch;

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use switch::client::Client;
use switch::loop_device::LoopDevice;
use switch::mail::sink;
use switch::site::Site;
use switch::{PATIENCE, Switch, new_home, program, run, text};
use tempfile::TempDir;

/// What the repartitioning of a fresh disk writes. queue/FORMAT.md.
const MARKER: &[u8] = b"STERNPOST QUEUE BLANK 1\n";

/// A home for a switch whose bootstrap names the device.
fn home(disk: &LoopDevice, tables: &str) -> TempDir {
    let home = new_home();
    fs::write(home.path().join("tables.toml"), tables).expect("the folder of a test can be written");
    let device = disk.device().display();
    let text = format!(
        "run_directory = \"r\"\nstate_directory = \"s\"\n[queue]\npath = \"{device}\"\n\
         [tables]\npath = \"tables.toml\"\n"
    );
    fs::write(home.path().join("boot.toml"), text).expect("the folder of a test can be written");
    home
}

/// Starts the store as the supervisor does on this device and waits for its first words of refusal.
fn refusal(home: &Path) -> String {
    let log = home.join("stderr");
    let mut supervisor = Command::new(program())
        .args(["run", "--bootstrap"])
        .arg(home.join("boot.toml"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&log).expect("the folder of a test can be written"))
        .spawn()
        .expect("the binary under test can be started");
    let deadline = Instant::now() + PATIENCE;
    let said = loop {
        let said = fs::read_to_string(&log).unwrap_or_default();
        if let Some(line) = said.lines().find(|line| line.contains("cannot recover the log")) {
            break line.to_owned();
        }
        assert!(Instant::now() < deadline, "the store took what is no log: {said}");
        std::thread::sleep(Duration::from_millis(20));
    };
    switch::signal(supervisor.id(), rustix::process::Signal::TERM);
    supervisor.wait().expect("a child can be waited for");
    said
}

#[test]
fn a_log_fills_a_blank_device_but_for_its_trial_region_and_is_kept() {
    let mta = sink();
    let Some(disk) = LoopDevice::with_head(MARKER) else { return };
    let tables = Site::new().peer("mta", "smtp", mta.address(), &["smtp.test"]).tables();
    let mut switch = Switch::start_from(home(&disk, &tables));
    let status = switch.status();
    // 48 MiB: 3 MiB in reserve, segments of 4 MiB so that at least 8 fit.
    assert_eq!(
        (&status["store"]["segments"], &status["store"]["log_octets"]),
        (&11.into(), &(65_536 + 11 * (4 << 20)).into())
    );
    assert!(!switch.log().contains("log.zero"), "a device is not zeroed before the first 220");
    let hello = b"Subject: hello\r\n\r\nhello\r\n";
    let reply = Client::greet(switch.address()).message("<a@sender.test>", &["b@smtp.test"], hello);
    assert!(reply.starts_with("250 2.0.0 ") && mta.wait_for(1, PATIENCE), "{reply}");
    let secret = disk.octets(24, 16);
    switch.kill_supervisor();
    switch.launch();
    assert_eq!(disk.octets(24, 16), secret, "the log is the same one");
    assert!(disk.octets(LoopDevice::OCTETS - (1 << 20), 1 << 20).iter().all(|octet| *octet == 0));
}

#[test]
fn a_device_that_holds_something_else_is_refused_and_left_as_it_is() {
    let mut boot_sector = vec![0; 512];
    boot_sector[510..].copy_from_slice(&[0x55, 0xaa]);
    let other_marker = b"STERNPOST QUEUE BLANK 2\n";
    // Zeroes are what a drive gives for a head that it has lost.
    for head in [&boot_sector[..], other_marker, b"\x7fELF", b""] {
        let Some(disk) = LoopDevice::with_head(head) else { return };
        let before = disk.octets(0, 1 << 20);
        let home = home(&disk, &Site::new().tables());
        let said = refusal(home.path());
        let device = disk.device().display().to_string();
        assert!(said.contains(&device) && said.contains("this is no log"), "{said}");
        let remedy = "{ echo STERNPOST QUEUE BLANK 1; head -c 65512 /dev/zero; } | dd of=PATH bs=64K count=1 iflag=fullblock";
        assert!(said.contains(&format!("write the mark of a blank queue to it: {remedy}")), "{said}");
        assert_eq!(disk.octets(0, 1 << 20), before);
        let output = run(Command::new(program()).args(["queue", "verify", "--path"]).arg(disk.device()));
        assert!(!output.status.success(), "{}", text(&output.stdout));
    }
}

#[test]
fn the_remedy_of_the_refusal_marks_a_device() {
    let Some(disk) = LoopDevice::with_head(b"\x7fELF") else { return };
    let remedy = "{ echo STERNPOST QUEUE BLANK 1; head -c 65512 /dev/zero; } | \
                  dd of=\"$1\" bs=64K count=1 iflag=fullblock conv=notrunc";
    let output = run(Command::new("sh").args(["-c", remedy, "sh"]).arg(disk.device()));
    assert!(output.status.success(), "{}", text(&output.stderr));
    let mut marked = MARKER.to_vec();
    marked.resize(65_536, 0);
    assert_eq!(disk.octets(0, 65_536), marked);
}
