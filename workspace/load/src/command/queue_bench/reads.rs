//! Reads as a channel makes them: a fetch of envelope and content through the window, of messages that were appended just
//! now, and of messages that a store has found on its disk when it started.

use serde::Serialize;
use std::error::Error;
use std::fmt;
use std::fs;
use std::time::Duration;
use sternpost_load::process;
use sternpost_load::store::{Burst, LoneStore, Pass, Reads};
use sternpost_message::MessageSequence;

use super::super::store_client::Client;
use super::figures::Quantiles;
use super::raw::forget_cache;
use super::{Bench, Series, kib, number, series};

const READERS: [u32; 2] = [1, 64];
/// What is read from memory: less than the 8 MiB of content that the store keeps.
const RECENT_OCTETS: u64 = 4 << 20;
/// What a message has beside its content, at most.
const MESSAGE_OCTETS: u64 = 1 << 10;
/// What is read from the disk, by each number of readers its own half.
const COLD_OCTETS: u64 = 96 << 20;
/// Producers of what is read, and the time that they have.
const PRODUCERS: u32 = 128;
const APPEND_TIME: Duration = Duration::from_secs(10);
const MEMORY_TIME: Duration = Duration::from_millis(400);
/// Reading from the disk ends with the last message, or here.
const COLD_TIME_MAX: Duration = Duration::from_millis(1_000);

/// Where the content is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kept {
    Memory,
    Disk,
}

/// The messages of one size and what the rounds have shown.
pub(super) struct ReadCase {
    octets: usize,
    rounds: Vec<(Kept, u32, Sample)>,
}

#[derive(Clone, Copy)]
struct Sample {
    per_s: f64,
    octets_per_s: f64,
    latency: Quantiles,
    store_cpu_us: f64,
    /// What the store has read from its device for one message.
    disk_octets: f64,
}

pub(super) fn cases(octets: &[usize]) -> Vec<ReadCase> {
    octets.iter().map(|&octets| ReadCase { octets, rounds: Vec::new() }).collect()
}

impl fmt::Display for ReadCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} read", kib(number(self.octets as u64)))
    }
}

impl ReadCase {
    /// One round.
    pub(super) fn measure(&mut self, bench: &Bench) -> Result<(), Box<dyn Error>> {
        let store = bench.store_on_new_log()?;
        self.append(&store, COLD_OCTETS)?;
        let cold = sequences(&store)?;
        self.append(&store, RECENT_OCTETS)?;
        let all = sequences(&store)?;
        for readers in READERS {
            let pass = Pass { time_max: MEMORY_TIME, repeats: true };
            let sample = read(&store, readers, &all[cold.len()..], pass)?;
            self.rounds.push((Kept::Memory, readers, sample));
        }
        drop(store);
        forget_cache(&bench.place.path)?;
        let store = bench.store()?;
        let pass = Pass { time_max: COLD_TIME_MAX, repeats: false };
        for (readers, half) in READERS.into_iter().zip(cold.chunks(cold.len().div_ceil(READERS.len()))) {
            let sample = read(&store, readers, half, pass)?;
            self.rounds.push((Kept::Disk, readers, sample));
        }
        Ok(())
    }

    /// Appends messages that take so many octets together.
    fn append(&self, store: &LoneStore, octets: u64) -> Result<(), Box<dyn Error>> {
        let messages_max = octets / (self.octets as u64 + MESSAGE_OCTETS);
        let client = Client::producers(&store.socket(), PRODUCERS, self.octets)?;
        Client::append(&mut [client], Burst { warm_up: Duration::ZERO, time: APPEND_TIME, messages_max })?;
        Ok(())
    }

    pub(super) fn rows(&self) -> Vec<ReadRow> {
        let cases =
            [Kept::Memory, Kept::Disk].into_iter().flat_map(|from| READERS.map(|count| (from, count)));
        cases
            .map(|(from, readers)| {
                let of_case = self.rounds.iter().filter(|round| (round.0, round.1) == (from, readers));
                let samples: Vec<Sample> = of_case.map(|round| round.2).collect();
                let value = |value: fn(&Sample) -> f64| series(&samples, value);
                ReadRow {
                    octets: self.octets,
                    from,
                    readers,
                    per_s: value(|sample| sample.per_s),
                    mib_per_s: value(|sample| sample.octets_per_s / f64::from(1 << 20)),
                    p50_us: value(|sample| sample.latency.p50_us),
                    p99_us: value(|sample| sample.latency.p99_us),
                    store_cpu_us: value(|sample| sample.store_cpu_us),
                    disk_octets: value(|sample| sample.disk_octets),
                }
            })
            .collect()
    }
}

fn sequences(store: &LoneStore) -> Result<Vec<MessageSequence>, Box<dyn Error>> {
    Ok(store.messages()?.iter().map(|message| message.sequence).collect())
}

fn read(
    store: &LoneStore,
    readers: u32,
    messages: &[MessageSequence],
    pass: Pass,
) -> Result<Sample, Box<dyn Error>> {
    let mut client = Client::readers(&store.socket(), readers, messages)?;
    let (cpu_before_ns, disk_before) = (process::thread_cpu_ns(store.pid()), device_octets(store.pid()));
    let Reads { latencies_ns, time_ns, octets, .. } = client.read(pass)?;
    let cpu_ns = process::thread_cpu_ns(store.pid()).saturating_sub(cpu_before_ns);
    let disk_octets = device_octets(store.pid()).saturating_sub(disk_before);
    let (count, time_s) = (number((latencies_ns.len() as u64).max(1)), number(time_ns.max(1)) / 1e9);
    Ok(Sample {
        per_s: count / time_s,
        octets_per_s: number(octets) / time_s,
        latency: Quantiles::of(latencies_ns),
        store_cpu_us: number(cpu_ns) / 1e3 / count,
        disk_octets: number(disk_octets) / count,
    })
}

/// What a process has had read from devices. Zero where /proc does not tell.
fn device_octets(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let octets = text.lines().find_map(|line| line.strip_prefix("read_bytes: "));
    octets.and_then(|octets| octets.parse().ok()).unwrap_or(0)
}

/// One case in the report.
#[derive(Debug, Serialize)]
pub(super) struct ReadRow {
    octets: usize,
    from: Kept,
    readers: u32,
    per_s: Series,
    mib_per_s: Series,
    /// From the fetch to the last cell given back.
    p50_us: Series,
    p99_us: Series,
    /// Of one message.
    store_cpu_us: Series,
    /// What the store has read from its device for one message: nothing if it had it in memory.
    disk_octets: Series,
}

pub(super) fn print(rows: &[ReadRow]) {
    if rows.is_empty() {
        return;
    }
    println!(
        "{:<28} {:<24} {:<20} {:>8} {:>9} {:>6} {:>10}",
        "reads", "store/s", "MiB/s", "p50 us", "p99 us", "cpu us", "from disk"
    );
    for row in rows {
        let from = match row.from {
            Kept::Memory => "memory",
            Kept::Disk => "disk",
        };
        let name = format!("{} x {} from {from}", row.readers, kib(number(row.octets as u64)));
        println!(
            "{:<28} {:<24} {:<20} {:>8.0} {:>9.0} {:>6.1} {:>10}",
            name,
            row.per_s,
            row.mib_per_s,
            row.p50_us.median,
            row.p99_us.median,
            row.store_cpu_us.median,
            kib(row.disk_octets.median)
        );
    }
}
