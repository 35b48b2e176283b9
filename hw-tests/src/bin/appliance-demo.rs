//! `make demo`: the appliance at work. The image boots in QEMU, is configured by a real directory and tests itself; mail of
//! all priorities flows to an SMTP and an LMTP hop while a route changes; the power is cut once and the device boots again.
//! At the end every message is accounted for. Exit status 1 when one was lost.
//!
//! The power cut is the harsh one: what the drive had in its cache and no flush had made durable is gone (`power_cut`).
#![forbid(unsafe_code)]

use serde_json::json;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use sternpost_hw_tests::device::Device;
use sternpost_hw_tests::image::DISK_OCTETS;
use sternpost_hw_tests::power_cut::{Cache, Cut, Disk};
use sternpost_hw_tests::site::{LMTP_DOMAIN, RETRY, SMTP_DOMAIN, as_the_guest_sees, load, shared_dn};
use sternpost_hw_tests::vm::{BOOT_MAX, Vm, VmOptions};
use sternpost_hw_tests::write_log::WriteLog;
use sternpost_load::matching::tally;
use sternpost_load::sending::{self, Sending};
use sternpost_load::sink::{Sink, SinkOptions};
use sternpost_load::source::{Progress, Report, SourceOptions};

const MESSAGES: u64 = 1000;
const RATE_PER_S: f64 = 40.0;
/// What happens after so many messages.
const ROUTE_CHANGES_AT: u64 = 250;
const POWER_FAILS_AT: u64 = 600;
/// MT-PRIORITY of non-urgent, normal and urgent mail.
const PRIORITIES: [i8; 3] = [-4, 0, 4];
/// Time in which everything must have arrived, from the last 250 on.
const ARRIVAL_MAX: Duration = Duration::from_secs(180);

fn main() -> ExitCode {
    let mut device = Device::from_factory("demo");
    let second_hop = Sink::start(SinkOptions::default()).expect("loopback has free ports");
    let factory = device.folder.join("factory.img");
    device.image.write_disk(&factory, DISK_OCTETS);
    let writes = device.folder.join("drive.writes");

    say("switching the device on: first boot from the factory image, emulated processor, 512 MiB");
    let options = VmOptions { write_log: Some(writes.clone()), ..device.options() };
    let mut vm = device.boot_with("first-boot", &options);
    let first_boot = follow_boot(&mut vm, &device);
    say(&format!(
        "{MESSAGES} messages to an SMTP and an LMTP hop, {RATE_PER_S} a second, {} priorities",
        PRIORITIES.len()
    ));
    let smtp_port = vm.smtp().port();
    let sending = sending::start(SourceOptions {
        sessions_count: 6,
        messages_count: MESSAGES,
        octets: vec![1024, 4096, 4096, 16 * 1024, 4096, 64 * 1024],
        priorities: PRIORITIES.to_vec(),
        messages_per_connection: Some(50),
        retry: Some(RETRY),
        rate_per_s: Some(RATE_PER_S),
        reply_timeout: Duration::from_secs(20),
        ..load(vm.smtp())
    });
    let progress = Arc::clone(&sending.progress);
    let sinks = [&device.site.smtp, &device.site.lmtp, &second_hop];
    await_accepted(&mut vm, &progress, &sinks, ROUTE_CHANGES_AT);
    let second = as_the_guest_sees(second_hop.address()).to_string();
    device.site.replace(&shared_dn("next-hop"), &[("sternpostAddress", &second)]);
    say(&format!("the directory is changed: mail for {SMTP_DOMAIN} goes to another hop"));
    vm.wait_until("mail at the other hop", BOOT_MAX, |_| second_hop.counts().distinct > 0);
    await_accepted(&mut vm, &progress, &sinks, POWER_FAILS_AT);
    // Killed, it flushes nothing more: the log of writes ends with what the guest had made durable.
    drop(vm);
    say("the power is cut; what the drive's cache held is gone");

    let log = WriteLog::open(&writes).expect("QEMU has kept a log of the drive's writes");
    let cut = Cut { entries_count: log.entries().len(), cache: Cache::Lost, disk: Disk::Honest };
    cut.make_disk(&factory, &log, &device.drive()).expect("the drive after the power cut can be made");
    say("switching it on again");
    let mut vm = device.boot_with("second-boot", &VmOptions { smtp_port, ..device.options() });
    let second_boot = follow_boot(&mut vm, &device);
    let is_good = finish(&mut vm, &device, sending, &second_hop, &first_boot, &second_boot);
    // Nothing else is to be done with the site.
    device.site.slapd.stop();
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Seconds from the kernel's start to what an installer waits for.
struct Boot {
    milestones: Vec<(String, f64)>,
    first_message: Report,
}

/// Shows each milestone when it comes, then sends the first message.
fn follow_boot(vm: &mut Vm, device: &Device) -> Boot {
    let mut milestones = Vec::new();
    let mut kernel_start = Instant::now();
    for (name, words) in [("self test", "self test: "), ("configured", "configured: ")] {
        let reached = vm.milestone(words, BOOT_MAX);
        kernel_start = reached.kernel_start();
        say(&format!("{:>7.2} s  {}", reached.seconds, reached.words));
        milestones.push((name.to_owned(), reached.seconds));
        if name == "self test" {
            vm.self_test_table(BOOT_MAX).iter().for_each(|line| say(&format!("           {line}")));
        }
    }
    let mut add = |name: &str| {
        let seconds = kernel_start.elapsed().as_secs_f64();
        say(&format!("{seconds:>7.2} s  {name}"));
        milestones.push((name.to_owned(), seconds));
    };
    vm.wait_for_smtp(BOOT_MAX);
    add("first 220");
    let before = device.site.arrived_count();
    let recipients = vec![format!("first@{LMTP_DOMAIN}")];
    let first_message = device.site.send(SourceOptions { recipients, ..load(vm.smtp()) });
    vm.wait_until("first message", ARRIVAL_MAX, |_| device.site.arrived_count() > before);
    add("first message through");
    let good = vm.milestone("boot is good", BOOT_MAX);
    say(&format!("{:>7.2} s  {}", good.seconds, good.words));
    milestones.push(("boot is good".to_owned(), good.seconds));
    Boot { milestones, first_message }
}

/// Waits for so many 250s, and shows how far it is.
fn await_accepted(vm: &mut Vm, progress: &Progress, sinks: &[&Sink], count: u64) {
    vm.wait_until("mail", ARRIVAL_MAX, |_| {
        show(progress, sinks);
        progress.accepted_count() >= count
    });
}

fn show(progress: &Progress, sinks: &[&Sink]) {
    if std::io::stderr().is_terminal() {
        let arrived: u64 = sinks.iter().map(|sink| sink.counts().distinct).sum();
        eprint!("\r{:>6} of {MESSAGES} accepted, {arrived:>6} arrived ", progress.accepted_count());
        // Progress that cannot be shown is no reason to stop.
        let _ = std::io::stderr().flush();
    }
}

/// Waits for the rest, prints the account and writes it down. True when nothing was lost or damaged.
fn finish(
    vm: &mut Vm,
    device: &Device,
    sending: Sending,
    second_hop: &Sink,
    first_boot: &Boot,
    second_boot: &Boot,
) -> bool {
    let sinks = [&device.site.smtp, &device.site.lmtp, second_hop];
    await_accepted(vm, &Arc::clone(&sending.progress), &sinks, MESSAGES);
    let source = sending.end();
    let (refused_count, retries_count) = (source.refused.len(), source.retries_count);
    let sources = [source, first_boot.first_message.clone(), second_boot.first_message.clone()];
    let last = Instant::now();
    let mut counted = None;
    vm.wait_until("last mail", 2 * ARRIVAL_MAX, |_| {
        let account = tally(&sources, &sinks.map(Sink::report));
        let is_over = account.lost == 0 || last.elapsed() > ARRIVAL_MAX;
        counted = Some(account);
        is_over
    });
    let account = counted.expect("the wait looks once at least");
    say(if account.lost == 0 { "everything has arrived" } else { "not everything has arrived in time" });
    println!("\n{account}");
    println!("{:<24}{:>12}", "by the changed route", second_hop.counts().distinct);
    println!("{:<24}{:>12}", "repeated by the source", retries_count);
    println!("\n{:<24}{:>12}{:>14}", "seconds from kernel start", "first boot", "after the cut");
    for ((name, first), (_, second)) in first_boot.milestones.iter().zip(&second_boot.milestones) {
        println!("{name:<24}{first:>12.2}{second:>14.2}");
    }
    let times = |boot: &Boot| boot.milestones.iter().cloned().collect::<std::collections::BTreeMap<_, _>>();
    let report = json!({
        "tally": account,
        "rerouted": second_hop.counts().distinct,
        "retries": retries_count,
        "refused": refused_count,
        "first_boot_s": times(first_boot),
        "boot_after_cut_s": times(second_boot),
        "load_average": sternpost_load::process::load_average(),
    });
    let path = device.folder.join("report.json");
    std::fs::write(&path, format!("{report:#}\n")).expect("the demonstration's folder can be written");
    println!("\n{}", path.display());
    account.lost == 0 && account.damaged == 0 && refused_count == 0
}

fn say(text: &str) {
    let begin = if std::io::stderr().is_terminal() { "\r\x1b[K" } else { "" };
    eprintln!("{begin}{text}");
}
