//! One guest: a QEMU with the image's kernel or firmware, a disk, a network card and a serial console.
//!
//! It is emulated (TCG) unless `STERNPOST_HW_ACCEL` names another accelerator: `/dev/kvm` may be there and hang. A guest
//! ends with its owner, and with the thread that booted it. Every function panics when the guest disappoints the test;
//! the message names the console's log.

use crate::console::{Console, Line};
use crate::folder::Folder;
use crate::image::Image;
use crate::qmp::{Qmp, QmpError};
use crate::site::SERIAL_NUMBER;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The accelerator, if not TCG.
const ACCELERATOR_VARIABLE: &str = "STERNPOST_HW_ACCEL";
/// Further words for the kernel's command line, for whoever looks for a fault: `systemd.log_target=console` and the like.
const KERNEL_WORDS_VARIABLE: &str = "STERNPOST_HW_KERNEL_WORDS";

/// Longer than any boot on a machine that has other work too.
pub const BOOT_MAX: Duration = Duration::from_secs(180);
/// No guest lives longer.
const LIFE_MAX: Duration = Duration::from_secs(20 * 60);
/// Wait between two looks at something that cannot be waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Time for one greeting: user-mode networking takes connections for ports at which nobody listens yet.
const GREETING_MAX: Duration = Duration::from_secs(2);
/// A guest that answers a SYN does so within this.
const ANSWER_TO_SYN_MAX: Duration = Duration::from_secs(30);
/// Two SYNs that came together are answered within this.
const ANSWER_BEHIND_MAX: Duration = Duration::from_millis(300);
/// Kernel arguments for an emulated machine; image/run has them too.
const EMULATED: &str = include_str!("../../image/cmdline.emulated");
/// The guest's address in QEMU's user-mode network.
const GUEST: &str = "10.0.2.15";
/// A guest tells of its memory once a second.
const MEMORY_TOLD_MAX: Duration = Duration::from_secs(30);
/// A guest is idle that has not given back so much for so long. After a boot it does so for half a minute, in pieces.
const IDLE_CHANGE_OCTETS: u64 = 1 << 20;
const IDLE_FOR: Duration = Duration::from_secs(10);
const IDLE_MAX: Duration = Duration::from_secs(240);
/// Lines of the console that a failed test shows.
const LINES_SHOWN: usize = 60;

const FIRMWARE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const FIRMWARE_VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// How a guest gets to its kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// QEMU loads kernel and initrd from the image's folder.
    Kernel,
    /// UEFI finds a boot loader on the disk.
    Firmware,
}

/// How the machine hands the site's bootstrap to the guest, as the systemd credential `sternpost.bootstrap`.
#[derive(Clone, Debug)]
pub enum Credential {
    /// SMBIOS strings of type 11.
    Smbios(String),
    /// QEMU's `fw_cfg`.
    FwCfg(String),
}

/// A machine before it is switched on. `VmOptions::new(disk)` is what most tests want.
#[derive(Clone, Debug)]
pub struct VmOptions {
    /// Its drive.
    pub disk: PathBuf,
    /// Where the drive writes down what it is told (`write_log`).
    pub write_log: Option<PathBuf>,
    /// Requests a second that the drive carries out at most; one counts for each 4 KiB that it speaks of.
    pub requests_per_s_max: Option<u64>,
    /// Where the kernel comes from.
    pub start: Start,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// SMBIOS serial number.
    pub serial_number: String,
    /// The site's bootstrap.
    pub bootstrap: Option<Credential>,
    /// The host's loopback port that leads to port 25 of the guest; 0 takes a free one.
    pub smtp_port: u16,
    /// What the battery-backed clock says at first (UTC, `2031-01-31T00:00:00`), if not the host's time.
    pub clock: Option<String>,
    /// USB sticks that are there from the beginning.
    pub sticks: Vec<PathBuf>,
}

impl VmOptions {
    /// A machine of 512 MiB with this drive and the site's serial number, whose port 25 can be reached.
    #[must_use]
    pub fn new(disk: PathBuf) -> Self {
        Self {
            disk,
            write_log: None,
            requests_per_s_max: None,
            start: Start::Kernel,
            memory_mib: 512,
            serial_number: SERIAL_NUMBER.to_owned(),
            bootstrap: None,
            smtp_port: 0,
            clock: None,
            sticks: Vec::new(),
        }
    }
}

/// A line that says how far the guest is.
#[derive(Clone, Debug)]
pub struct Milestone {
    /// Seconds since the guest's kernel started.
    pub seconds: f64,
    /// What was reached.
    pub words: String,
    /// When the host saw it.
    pub at: Instant,
}

impl Milestone {
    /// When the guest's kernel started.
    #[must_use]
    pub fn kernel_start(&self) -> Instant {
        self.at.checked_sub(Duration::from_secs_f64(self.seconds)).unwrap_or(self.at)
    }
}

/// A guest's memory.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// MemTotal.
    pub total_octets: u64,
    /// MemAvailable: what programs may still have, the kernel's caches included.
    pub available_octets: u64,
}

impl Memory {
    /// What is in use and cannot be had.
    #[must_use]
    pub const fn used_octets(&self) -> u64 {
        self.total_octets.saturating_sub(self.available_octets)
    }
}

/// A guest that was switched on.
#[derive(Debug)]
pub struct Vm {
    name: String,
    process: Child,
    console: Console,
    qmp: Qmp,
    smtp: SocketAddr,
    switched_on: Instant,
    _sockets: tempfile::TempDir,
}

impl Vm {
    /// Switches a machine on. Its console goes into `NAME.log` of the folder.
    #[must_use]
    pub fn boot(image: &Image, folder: &Folder, name: &str, options: &VmOptions) -> Self {
        let sockets =
            tempfile::Builder::new().prefix("sp").tempdir().expect("a folder for sockets can be made");
        let console_path = folder.join(&format!("{name}.log"));
        File::create(&console_path).expect("the folder of a test can be written");
        let errors_path = folder.join(&format!("{name}.qemu.txt"));
        let errors = File::create(&errors_path).expect("the folder of a test can be written");
        let control = sockets.path().join("qmp");
        // The kernel ends QEMU when the thread ends that booted it: no guest outlives its test.
        let mut process = Command::new("setpriv");
        process.args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"]);
        process.args(arguments(image, folder, name, options));
        process.arg("-chardev").arg(format!("file,id=console,path={}", escaped(&console_path)));
        process.args(["-serial", "chardev:console"]);
        process
            .arg("-chardev")
            .arg(format!("socket,id=control,server=on,wait=off,path={}", escaped(&control)));
        process.args(["-mon", "chardev=control,mode=control"]);
        let mut process = process
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .expect("setpriv and qemu-system-x86_64 are installed (.ci/packages)");
        let switched_on = Instant::now();
        let mut qmp = loop {
            if let Ok(qmp) = Qmp::connect(&control) {
                break qmp;
            }
            let ended = process.try_wait().expect("a child can be waited for");
            let said = || fs::read_to_string(&errors_path).unwrap_or_default();
            assert!(ended.is_none(), "{name}: QEMU has ended: {}", said());
            assert!(switched_on.elapsed() < BOOT_MAX, "{name}: QEMU does not answer: {}", said());
            std::thread::sleep(LOOK_AGAIN);
        };
        let network = qmp.monitor("info usernet").expect("QEMU tells its networks");
        let [(25, smtp_port)] = forwarded_ports(&network)[..] else {
            panic!("{name}: not one port: {network}")
        };
        let smtp = SocketAddr::from((Ipv4Addr::LOCALHOST, smtp_port));
        let console = Console::follow(&console_path);
        Self { name: name.to_owned(), process, console, qmp, smtp, switched_on, _sockets: sockets }
    }

    /// What it prints.
    #[must_use]
    pub const fn console(&self) -> &Console {
        &self.console
    }

    /// Where the host reaches port 25 of the guest.
    #[must_use]
    pub const fn smtp(&self) -> SocketAddr {
        self.smtp
    }

    /// Waits for the milestone whose words begin so.
    pub fn milestone(&mut self, words: &str, limit: Duration) -> Milestone {
        let begins = |line: &Line| line.milestone().is_some_and(|(_, said)| said.starts_with(words));
        let mut found = None;
        self.wait_until(&format!("{words:?} on the console"), limit, |vm| {
            found = vm.console.find(Instant::now() + LOOK_AGAIN, &begins);
            found.is_some()
        });
        let line = found.expect("the wait ends when a line was found");
        let (seconds, words) = line.milestone().expect("the line was chosen for its milestone");
        Milestone { seconds, words: words.to_owned(), at: line.at }
    }

    /// Waits for the table of the self test, and gives its lines.
    pub fn self_test_table(&mut self, limit: Duration) -> Vec<String> {
        let mut table = Vec::new();
        self.wait_until("table of the self test on the console", limit, |vm| {
            table = vm.console.self_test_table();
            !table.is_empty()
        });
        table
    }

    /// All milestones so far.
    #[must_use]
    pub fn milestones(&self) -> Vec<Milestone> {
        let milestone = |line: &Line| {
            let (seconds, words) = line.milestone()?;
            Some(Milestone { seconds, words: words.to_owned(), at: line.at })
        };
        self.console.lines().iter().filter_map(milestone).collect()
    }

    /// Waits until a condition holds, and looks after the guest meanwhile.
    pub fn wait_until(&mut self, what: &str, limit: Duration, mut holds: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + limit;
        while !holds(self) {
            if let Some(status) = self.process.try_wait().expect("a child can be waited for") {
                self.fail(&format!("the guest has ended ({status}) before there was {what}"));
            }
            if Instant::now() > deadline || self.switched_on.elapsed() > LIFE_MAX {
                self.fail(&format!("no {what} within {limit:?}"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Fails the test with a reason, the end of the console and where all of it stands.
    pub fn fail(&self, reason: &str) -> ! {
        panic!(
            "{}: {reason}\n---- the end of {} ----\n{}\n----",
            self.name,
            self.console.path().display(),
            self.console.end(LINES_SHOWN)
        );
    }

    /// What the server at port 25 says first, if one answers in time.
    #[must_use]
    pub fn greeting(&self) -> Option<String> {
        let mut stream = TcpStream::connect(self.smtp).ok()?;
        stream.set_read_timeout(Some(GREETING_MAX)).ok()?;
        let mut text = [0; 512];
        let count = stream.read(&mut text).ok().filter(|&count| count > 0)?;
        Some(String::from_utf8_lossy(&text[..count]).into_owned())
    }

    /// Waits until port 25 greets with 220, and gives the moment.
    pub fn wait_for_smtp(&mut self, limit: Duration) -> Instant {
        self.wait_until("greeting at port 25", limit, |vm| {
            vm.greeting().is_some_and(|text| text.starts_with("220"))
        });
        Instant::now()
    }

    /// A command of QMP.
    pub fn qmp(&mut self, command: &str, arguments: &Value) -> Value {
        let answer = self.qmp.execute(command, arguments);
        answer.unwrap_or_else(|error| self.fail(&error.to_string()))
    }

    /// The ports among these at which the guest takes connections. User-mode networking answers for every forwarded
    /// port itself; whether the guest did too is in its table of connections.
    ///
    /// Each time port 25 is knocked at behind all others, and the answer of the others is awaited until it has answered.
    pub fn open_ports(&mut self, ports: &[u16]) -> Vec<u16> {
        const SMTP: u16 = 25;
        let others = ports.iter().copied().filter(|&port| port != SMTP);
        let knocked: Vec<u16> = others.chain([SMTP]).collect();
        let before = forwarded_ports(&self.monitor("info usernet"));
        for port in &knocked {
            let said = self.monitor(&format!("hostfwd_add net0 tcp:127.0.0.1:0-:{port}"));
            assert!(said.trim().is_empty(), "{}: port {port}: {said}", self.name);
        }
        let mut forwarded = forwarded_ports(&self.monitor("info usernet"));
        forwarded.retain(|pair| !before.contains(pair));
        forwarded.sort_by_key(|&(guest, _)| guest == SMTP);
        let connections: Vec<_> = forwarded
            .iter()
            .filter_map(|(_, host)| TcpStream::connect((Ipv4Addr::LOCALHOST, *host)).ok())
            .collect();
        assert_eq!(connections.len(), knocked.len(), "{}: user-mode networking takes them all", self.name);
        let mut open = std::collections::BTreeSet::new();
        self.wait_until("answer of port 25", ANSWER_TO_SYN_MAX, |vm| {
            open.extend(taken_ports(&vm.monitor("info usernet")));
            open.contains(&SMTP)
        });
        // What was asked before is answered before, or in the same breath.
        std::thread::sleep(ANSWER_BEHIND_MAX);
        open.extend(taken_ports(&self.monitor("info usernet")));
        drop(connections);
        for (_, host) in forwarded {
            self.monitor(&format!("hostfwd_remove net0 tcp:127.0.0.1:{host}"));
        }
        open.into_iter().filter(|port| ports.contains(port)).collect()
    }

    /// The guest's memory as it says itself, by the balloon.
    pub fn memory(&mut self) -> Memory {
        let path = "/machine/peripheral/balloon";
        let every_second = json!({ "path": path, "property": "guest-stats-polling-interval", "value": 1 });
        self.qmp("qom-set", &every_second);
        let last_update = |vm: &mut Self| {
            vm.qmp("qom-get", &json!({ "path": path, "property": "guest-stats" }))["last-update"].as_u64()
        };
        // What the driver said when it began stands there until it is asked anew.
        let before = last_update(self);
        let mut memory = None;
        self.wait_until("word of the guest about its memory", MEMORY_TOLD_MAX, |vm| {
            let told = vm.qmp("qom-get", &json!({ "path": path, "property": "guest-stats" }));
            let octets = |name: &str| told["stats"][name].as_u64().filter(|&octets| octets != u64::MAX);
            let octets = octets("stat-total-memory").zip(octets("stat-available-memory"));
            memory = octets.map(|(total_octets, available_octets)| Memory { total_octets, available_octets });
            told["last-update"].as_u64() > before.map(|update| update + 1) && memory.is_some()
        });
        memory.expect("the wait ends when it is known")
    }

    /// The guest's memory when it is idle: when it has given nothing back for a while that is worth mention.
    pub fn idle_memory(&mut self) -> Memory {
        let deadline = Instant::now() + IDLE_MAX;
        let (mut least, mut since) = (self.memory().used_octets(), Instant::now());
        loop {
            let memory = self.memory();
            if memory.used_octets() + IDLE_CHANGE_OCTETS < least {
                (least, since) = (memory.used_octets(), Instant::now());
            } else if since.elapsed() >= IDLE_FOR {
                return memory;
            }
            if Instant::now() > deadline {
                self.fail(&format!("it gives memory back for longer than {IDLE_MAX:?}: {memory:?}"));
            }
        }
    }

    fn monitor(&mut self, line: &str) -> String {
        let answer = self.qmp.monitor(line);
        answer.unwrap_or_else(|error| self.fail(&error.to_string()))
    }

    /// Pulls the network cable, or puts it back.
    pub fn set_link(&mut self, is_up: bool) {
        self.qmp("set_link", &json!({ "name": "nic0", "up": is_up }));
    }

    /// Puts a stick into a USB port of the running machine.
    pub fn plug_in(&mut self, stick: &std::path::Path, id: &str) {
        let node =
            json!({ "driver": "raw", "node-name": id, "file": { "driver": "file", "filename": stick } });
        self.qmp("blockdev-add", &node);
        let device =
            json!({ "driver": "usb-storage", "bus": "usb.0", "drive": id, "id": id, "removable": true });
        self.qmp("device_add", &device);
    }

    /// Waits until the guest ends by itself.
    pub fn wait_for_end(&mut self, what: &str, limit: Duration) -> ExitStatus {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.process.try_wait().expect("a child can be waited for") {
                return status;
            }
            if Instant::now() > deadline {
                self.fail(&format!("no {what} within {limit:?}"));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Ends QEMU without a word to the guest. Requests under way are carried out, and the log of writes is complete.
    pub fn quit(mut self) {
        match self.qmp.execute("quit", &Value::Null) {
            // It may be gone before its answer is read.
            Ok(_) | Err(QmpError::Socket { .. }) => {}
            Err(error @ QmpError::Refused { .. }) => self.fail(&error.to_string()),
        }
        self.wait_for_end("end of QEMU", Duration::from_secs(30));
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // Errors are of no use here: the process is gone then.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("{}: the console is kept in {}", self.name, self.console.path().display());
        }
    }
}

/// The machine as QEMU's arguments, without console and control socket.
fn arguments(image: &Image, folder: &Folder, name: &str, options: &VmOptions) -> Vec<String> {
    let mut arguments: Vec<String> = Vec::new();
    let mut add = |words: &[&str]| arguments.extend(words.iter().map(|&word| word.to_owned()));
    add(&[
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
        "-machine",
        "q35",
        "-smp",
        "2",
    ]);
    match std::env::var(ACCELERATOR_VARIABLE) {
        Ok(accelerator) => add(&["-accel", &accelerator, "-cpu", "host"]),
        Err(_) => add(&["-accel", "tcg,thread=multi", "-cpu", "max"]),
    }
    add(&["-m", &options.memory_mib.to_string()]);
    add(&["-smbios", &format!("type=1,serial={}", options.serial_number)]);
    match options.start {
        Start::Kernel => {
            let further = std::env::var(KERNEL_WORDS_VARIABLE).unwrap_or_default();
            let emulated = EMULATED.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
            let words = format!("{} {emulated} {further}", image.command_line());
            add(&[
                "-kernel",
                &image.kernel().to_string_lossy(),
                "-initrd",
                &image.initrd().to_string_lossy(),
            ]);
            add(&["-append", words.trim()]);
        }
        Start::Firmware => {
            let variables = folder.join(&format!("{name}.variables"));
            fs::copy(FIRMWARE_VARIABLES, &variables).expect("the package ovmf is installed (.ci/packages)");
            add(&["-drive", &format!("if=pflash,unit=0,format=raw,readonly=on,file={FIRMWARE}")]);
            add(&["-drive", &format!("if=pflash,unit=1,format=raw,file={}", escaped(&variables))]);
        }
    }
    match &options.bootstrap {
        None => {}
        Some(Credential::Smbios(text)) => {
            let text = BASE64_STANDARD.encode(text);
            add(&[
                "-smbios",
                &format!("type=11,value=io.systemd.credential.binary:sternpost.bootstrap={text}"),
            ]);
        }
        Some(Credential::FwCfg(text)) => {
            let path = folder.join(&format!("{name}.bootstrap"));
            fs::write(&path, text).expect("the folder of a test can be written");
            let file = escaped(&path);
            add(&["-fw_cfg", &format!("name=opt/io.systemd.credentials/sternpost.bootstrap,file={file}")]);
        }
    }
    if let Some(clock) = &options.clock {
        add(&["-rtc", &format!("base={clock}")]);
    }
    add(&["-netdev", &format!("user,id=net0,hostfwd=tcp:127.0.0.1:{}-:25", options.smtp_port)]);
    add(&["-device", "virtio-net-pci,netdev=net0,id=nic0,romfile="]);
    add(&["-device", "virtio-rng-pci", "-device", "virtio-balloon-pci,id=balloon"]);
    add(&["-device", "i6300esb", "-watchdog-action", "reset", "-device", "qemu-xhci,id=usb"]);
    drive(options, &mut add);
    for (index, stick) in options.sticks.iter().enumerate() {
        let node = format!("stick{index}");
        let file = json!({ "driver": "file", "filename": stick });
        add(&["-blockdev", &json!({ "driver": "raw", "node-name": node, "file": file }).to_string()]);
        add(&["-device", &format!("usb-storage,bus=usb.0,drive={node},id={node},removable=on")]);
    }
    arguments
}

/// The drive: a file, on it the log of writes and the brake, where they are asked for.
fn drive(options: &VmOptions, add: &mut impl FnMut(&[&str])) {
    let file = json!({ "driver": "file", "filename": options.disk });
    let mut top = json!({ "driver": "raw", "file": file });
    if let Some(log) = &options.write_log {
        File::create(log).expect("the folder of a test can be written");
        let log = json!({ "driver": "raw", "file": { "driver": "file", "filename": log } });
        top = json!({ "driver": "blklogwrites", "file": top, "log": log });
    }
    if let Some(requests_per_s) = options.requests_per_s_max {
        let limits = json!({ "iops-total": requests_per_s, "iops-size": 4096 });
        let group = json!({ "qom-type": "throttle-group", "id": "brake", "limits": limits });
        add(&["-object", &group.to_string()]);
        top = json!({ "driver": "throttle", "throttle-group": "brake", "file": top });
    }
    top["node-name"] = json!("drive0");
    add(&["-blockdev", &top.to_string(), "-device", "virtio-blk-pci,drive=drive0,id=disk0,serial=drive0"]);
}

/// A path as a value of QEMU's options: a comma is doubled.
fn escaped(path: &std::path::Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

/// Port of the guest and of the host, from `info usernet`.
fn forwarded_ports(text: &str) -> Vec<(u16, u16)> {
    let ports = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match words[..] {
            ["TCP[HOST_FORWARD]", _, _, host, _, guest, ..] => {
                Some((guest.parse().ok()?, host.parse().ok()?))
            }
            _ => None,
        }
    };
    text.lines().filter_map(ports).collect()
}

/// Ports of the guest with a connection that came from outside and that the guest has taken, from `info usernet`.
fn taken_ports(text: &str) -> Vec<u16> {
    let port = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match words[..] {
            ["TCP[ESTABLISHED]", _, _, _, GUEST, guest, ..] => guest.parse().ok(),
            _ => None,
        }
    };
    text.lines().filter_map(port).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarded_and_open_ports_are_read_from_qemus_table() {
        let text = "Hub -1 (net0):\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\n  \
                    TCP[HOST_FORWARD]  12       127.0.0.1 41235       10.0.2.15    25     0     0\n  \
                    TCP[HOST_FORWARD]  13       127.0.0.1 33333       10.0.2.15    22     0     0\n  \
                    TCP[SYN_SENT]      14       127.0.0.1 33333       10.0.2.15    22     0     0\n  \
                    TCP[ESTABLISHED]   15       127.0.0.1 41235       10.0.2.15    25     0     0\n  \
                    TCP[ESTABLISHED]   16       10.0.2.15 49152        10.0.2.2 33343     0     0\n";
        assert_eq!(forwarded_ports(text), [(25, 41235), (22, 33333)]);
        assert_eq!(taken_ports(text), [25]);
    }
}
