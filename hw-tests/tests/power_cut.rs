//! The power goes under load, at and between the flushes of the drive: what was acknowledged is delivered after.
//!
//! One guest runs from the factory on with its whole drive behind a log of writes. Each cut makes the disk that a loss of
//! power at that point may have left, and boots it. A killed QEMU would prove nothing.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use sternpost_hw_tests::device::Device;
use sternpost_hw_tests::image::DISK_OCTETS;
use sternpost_hw_tests::power_cut::{Cache, Cut, Disk};
use sternpost_hw_tests::recording::{Pair, Recording, Watch};
use sternpost_hw_tests::site::{endless_load, load};
use sternpost_hw_tests::vm::{BOOT_MAX, VmOptions};
use sternpost_hw_tests::write_log::{Request, WriteLog};
use sternpost_load::sink::Receipt;
use sternpost_load::source::{Acceptance, SourceOptions};
use sternpost_simulator::random::Random;

/// How long the load lasts, and how fast it comes.
const LOAD: Duration = Duration::from_secs(15);
const LOAD_RATE_PER_S: f64 = 60.0;
const SESSIONS: u32 = 6;

/// Time from a good boot to the last message that is owed.
const DELIVERY_MAX: Duration = Duration::from_secs(120);
/// When markers behind it have arrived, nothing more comes after this.
const SILENCE: Duration = Duration::from_secs(8);

/// A guest's history, ready to be cut anywhere.
struct History {
    device: Device,
    log: WriteLog,
    recording: Recording,
    /// The number that names the places of the cuts.
    seed: u64,
}

/// What became of the mail after a cut.
struct Aftermath {
    owed_count: usize,
    lost: BTreeSet<Pair>,
    repeated_count: usize,
    boot_s: f64,
}

impl History {
    /// Boots an image from the factory, and loads it while one of its next hops is down.
    fn record(name: &str) -> Self {
        let mut device = Device::from_factory(name);
        let writes = device.folder.join("recorded.writes");
        let options = VmOptions { write_log: Some(writes.clone()), ..device.options() };
        let mut vm = device.boot_with("recorded", &options);
        vm.milestone("boot is good", BOOT_MAX);
        device.site.mail_passes(vm.smtp());
        let _ = (device.site.smtp.take_report(), device.site.lmtp.take_report());
        // What is for the message store waits, what is for the other hop flows.
        device.site.stop_lmtp();
        let watch = Watch::start(&writes);
        let sending = endless_load(vm.smtp(), SESSIONS, LOAD_RATE_PER_S);
        let end = Instant::now() + LOAD;
        vm.wait_until("load", LOAD + BOOT_MAX, |_| Instant::now() > end);
        let report = sending.stop();
        vm.quit();
        let log = WriteLog::open(&writes).expect("QEMU has kept a log");
        let recording = watch.stop(&log, &[report], &[device.site.smtp.take_report()]);
        device.site.start_lmtp();
        let seed = sternpost_load::now_ns();
        println!(
            "{} messages accepted, {} entries in the log of writes, seed {seed}",
            recording.accepted_count(),
            log.entries().len()
        );
        assert!(recording.accepted_count() > 100, "the load is one");
        Self { device, log, recording, seed }
    }

    /// Where the load ran.
    fn span(&self) -> (usize, usize) {
        self.recording.span().expect("mail was accepted")
    }

    /// Cuts under load: in turn right behind a flush with all that is in the cache lost, and anywhere with the cache torn.
    fn cuts(&self, count: usize) -> Vec<Cut> {
        let (begin, end) = self.span();
        let is_flush = |&index: &usize| self.log.entries()[index - 1].request == Request::Flush;
        let flushes: Vec<usize> = (begin..=end).filter(is_flush).collect();
        assert!(flushes.len() > count, "{} flushes under load are too few", flushes.len());
        let mut random = Random::new(self.seed);
        let cut = |index: usize| {
            let cache = Cache::Torn(random.next());
            let anywhere = begin + random.place(end - begin);
            let (entries_count, cache) = match index % 3 {
                0 => (flushes[random.place(flushes.len())], Cache::Lost),
                1 => (anywhere, Cache::Lost),
                _ => (anywhere, cache),
            };
            Cut { entries_count, cache, disk: Disk::Honest }
        };
        (0..count).map(cut).collect()
    }

    fn disk(&self, cut: &Cut) -> PathBuf {
        let Device { image, folder, .. } = &self.device;
        let (base, disk) = (folder.join("factory.img"), folder.join("cut.img"));
        if !base.exists() {
            image.write_disk(&base, DISK_OCTETS);
        }
        cut.make_disk(&base, &self.log, &disk).expect("the disk of a cut can be made");
        disk
    }

    /// Boots the disk of a cut and waits for what it owes. What does not come although later mail does is lost.
    fn after(&self, cut: &Cut, name: &str) -> Aftermath {
        let owed = self.recording.owed(cut.entries_count);
        let options = VmOptions { disk: self.disk(cut), ..self.device.options() };
        let mut vm = self.device.boot_with(name, &options);
        let good = vm.milestone("boot is good", BOOT_MAX);
        let markers = self.device.site.send(SourceOptions { messages_count: 2, ..load(vm.smtp()) });
        let (mut missing, mut arrived) = (owed.clone(), BTreeSet::new());
        let (mut arrived_count, mut last_arrival) = (0, Instant::now());
        vm.wait_until("mail that is owed", DELIVERY_MAX, |_| {
            if self.device.site.arrived_count() != arrived_count {
                (arrived_count, last_arrival) = (self.device.site.arrived_count(), Instant::now());
                arrived = self.received();
                missing.retain(|pair| !arrived.contains(pair));
            }
            let has_come = |marker: &Acceptance| arrived.iter().any(|(id, _)| *id == marker.id);
            let have_markers = markers.accepted.iter().all(has_come);
            have_markers && (missing.is_empty() || last_arrival.elapsed() > SILENCE)
        });
        let repeated = arrived.iter().filter(|pair| self.recording.was_received(pair, cut.entries_count));
        let aftermath = Aftermath {
            owed_count: owed.len(),
            repeated_count: repeated.count(),
            boot_s: good.seconds,
            lost: missing,
        };
        vm.quit();
        let _ = (self.device.site.smtp.take_report(), self.device.site.lmtp.take_report());
        aftermath
    }

    fn received(&self) -> BTreeSet<Pair> {
        let reports = [self.device.site.smtp.received(), self.device.site.lmtp.received()];
        let pairs = |receipt: &Receipt| {
            let id = receipt.id.clone()?;
            Some(
                receipt
                    .recipients
                    .iter()
                    .map(|recipient| (id.clone(), recipient.clone()))
                    .collect::<Vec<_>>(),
            )
        };
        reports.iter().flatten().filter_map(pairs).flatten().collect()
    }

    /// Cuts the power so often; nothing may be lost.
    fn cut_often(&self, count: usize) {
        println!(
            "{:>4} {:>8} {:>6} {:>6} {:>5} {:>9}  cache",
            "cut", "entries", "owed", "twice", "lost", "good boot"
        );
        let mut owed_count = 0;
        for (index, cut) in self.cuts(count).iter().enumerate() {
            let after = self.after(cut, &format!("cut-{index}"));
            println!(
                "{index:>4} {:>8} {:>6} {:>6} {:>5} {:>7.1} s  {:?}",
                cut.entries_count,
                after.owed_count,
                after.repeated_count,
                after.lost.len(),
                after.boot_s,
                cut.cache
            );
            assert!(after.lost.is_empty(), "seed {}, {cut:?}: lost {:?}", self.seed, after.lost);
            owed_count += after.owed_count;
        }
        assert!(owed_count > count, "the cuts owed mail");
    }

    /// Cuts the power so often before the device was ever ready: it must come up all the same, as from the factory.
    fn cut_the_first_boot(&self, count: usize) {
        let (begin, _) = self.span();
        let mut random = Random::new(self.seed);
        for index in 0..count {
            let (entries_count, cache) = (random.place(begin), Cache::Torn(random.next()));
            let cut = Cut { entries_count, cache, disk: Disk::Honest };
            let after = self.after(&cut, &format!("first-boot-{index}"));
            println!(
                "{entries_count:>6} of {begin} entries of the first boot: good after {:.1} s",
                after.boot_s
            );
        }
    }

    /// The same judge over a drive that answers flushes and obeys none: it must find mail lost.
    fn cut_a_deaf_disk(&self) {
        let (begin, end) = self.span();
        let cut = Cut { entries_count: end, cache: Cache::Lost, disk: Disk::DeafFrom(begin) };
        let after = self.after(&cut, "deaf");
        println!("a drive that is deaf to flushes: {} of {} lost", after.lost.len(), after.owed_count);
        assert!(!after.lost.is_empty(), "the judge has noticed nothing");
    }
}

#[test]
fn mail_accepted_before_power_loss_is_delivered_after() {
    let history = History::record("power-cut");
    history.cut_often(3);
    history.cut_a_deaf_disk();
}

#[test]
fn fifty_power_cuts_under_load_lose_nothing_and_six_in_the_first_boot_leave_a_device_that_boots() {
    let history = History::record("power-cut-fifty");
    history.cut_often(50);
    history.cut_the_first_boot(6);
}
