//! Durable appends: one case with its rounds, what follows from them, and how they are shown.

use serde::Serialize;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::time::Duration;
use sternpost_load::process;
use sternpost_load::store::Burst;

use super::super::store_client::Client;
use super::figures::{BatchSize, Quantiles, difference, ratio};
use super::raw::{self, Method};
use super::spool::{self, Filed};
use super::{Bench, GEOMETRY, Series, kib, number, series};

/// One method's raw writes.
const RAW_TIME: Duration = Duration::from_millis(200);
/// The store's warm-up and its burst.
const WARM_UP: Duration = Duration::from_millis(200);
const STORE_TIME: Duration = Duration::from_millis(1_200);
const SPOOL_TIME: Duration = Duration::from_millis(800);
/// Of the log: acceptance stops at 70 %.
const LOG_SHARE_MAX_PER_CENT: u64 = 55;
/// The old way is measured with small messages alone: what a file costs is what it costs beside its content.
const SPOOL_OCTETS: usize = 4_096;
/// Messages from which the octets of one are learnt.
const LEARN_MESSAGES: u64 = 16;

/// What a message takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct MessageSize {
    content_octets: usize,
    /// Of its records in the log: content, envelope, what stands around them.
    log_octets: u64,
    batch_octets_max: u64,
}

impl MessageSize {
    /// Asks the store.
    pub(super) fn learn(bench: &Bench, content_octets: usize) -> Result<Self, Box<dyn Error>> {
        let store = bench.store_on_new_log()?;
        let client = Client::producers(&store.socket(), 1, content_octets)?;
        let time = Duration::from_secs(10);
        Client::append(&mut [client], Burst { warm_up: Duration::ZERO, time, messages_max: LEARN_MESSAGES })?;
        let status = store.status()?;
        Ok(Self {
            content_octets,
            log_octets: status.living_octets / status.messages_count.max(1),
            batch_octets_max: u64::from(status.batch_octets_max),
        })
    }
}

/// One case and what its rounds have shown.
pub(super) struct AppendCase {
    size: MessageSize,
    producers: u32,
    processes: u32,
    rounds: Vec<Round>,
}

struct Round {
    store: StoreSample,
    raw: RawSample,
    raw_same_batch: RawSample,
    filed: Option<(f64, Quantiles)>,
}

#[derive(Clone, Copy)]
struct StoreSample {
    per_s: f64,
    latency: Quantiles,
    batch: BatchSize,
    store_cpu_us: f64,
    client_cpu_us: f64,
    full_count: u64,
}

struct RawSample {
    batch: BatchSize,
    /// Messages in a second, and how long one write took.
    methods: BTreeMap<Method, (f64, Quantiles)>,
}

impl fmt::Display for AppendCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AppendCase { size, producers, processes, .. } = self;
        write!(f, "{producers} x {} appended", kib(number(size.content_octets as u64)))?;
        if *processes > 1 { write!(f, " by {processes} processes") } else { Ok(()) }
    }
}

impl AppendCase {
    pub(super) const fn new(size: MessageSize, producers: u32, processes: u32) -> Self {
        Self { size, producers, processes, rounds: Vec::new() }
    }

    /// One round.
    pub(super) fn measure(&mut self, bench: &Bench) -> Result<(), Box<dyn Error>> {
        let size = self.size;
        let all = BatchSize::of_all(u64::from(self.producers), size.log_octets, size.batch_octets_max);
        let raw = measure_raw(bench, all)?;
        let store = self.measure_store(bench)?;
        let raw_same_batch = measure_raw(bench, store.batch)?;
        let filed = (size.content_octets == SPOOL_OCTETS && self.processes == 1)
            .then(|| spool::file(&bench.home.join("spool"), self.producers, size.content_octets, SPOOL_TIME))
            .transpose()?
            .map(|Filed { per_s, latencies_ns }| (per_s, Quantiles::of(latencies_ns)));
        self.rounds.push(Round { store, raw, raw_same_batch, filed });
        Ok(())
    }

    fn measure_store(&self, bench: &Bench) -> Result<StoreSample, Box<dyn Error>> {
        let store = bench.store_on_new_log()?;
        let each = self.producers / self.processes;
        let connect = |_| Client::producers(&store.socket(), each, self.size.content_octets);
        let mut clients = (0..self.processes).map(connect).collect::<Result<Vec<_>, _>>()?;
        let room = GEOMETRY.octets() * LOG_SHARE_MAX_PER_CENT / 100 / self.size.log_octets.max(1);
        let burst =
            Burst { warm_up: WARM_UP, time: STORE_TIME, messages_max: room / u64::from(self.processes) };
        let (before, cpu_before_ns) = (store.status()?, process::thread_cpu_ns(store.pid()));
        let appended = Client::append(&mut clients, burst)?;
        let cpu_ns = process::thread_cpu_ns(store.pid()).saturating_sub(cpu_before_ns);
        let after = store.status()?;
        let messages: u64 = appended.iter().map(|appended| appended.messages_count).sum();
        let client_cpu_ns: u64 = appended.iter().map(|appended| appended.cpu_ns).sum();
        let rate = |appended: &sternpost_load::store::Appended| {
            number(appended.latencies_ns.len() as u64) / (number(appended.counted_ns.max(1)) / 1e9)
        };
        let each_us = |ns: u64| number(ns) / 1e3 / number(messages.max(1));
        Ok(StoreSample {
            per_s: appended.iter().map(rate).sum(),
            latency: Quantiles::of(
                appended.iter().flat_map(|appended| appended.latencies_ns.iter().copied()),
            ),
            batch: BatchSize::mean(
                after.written_octets - before.written_octets,
                after.batches_count - before.batches_count,
                messages,
            ),
            store_cpu_us: each_us(cpu_ns),
            client_cpu_us: each_us(client_cpu_ns),
            full_count: appended.iter().map(|appended| appended.full_count).sum(),
        })
    }

    pub(super) fn row(&self) -> AppendRow {
        let raw = RawFigures::of(self.rounds.iter().map(|round| &round.raw));
        let raw_same_batch = RawFigures::of(self.rounds.iter().map(|round| &round.raw_same_batch));
        let per_s: Vec<f64> = self.rounds.iter().map(|round| round.store.per_s).collect();
        let filed: Vec<(f64, Quantiles)> = self.rounds.iter().filter_map(|round| round.filed).collect();
        let filed_per_s: Vec<f64> = filed.iter().map(|(per_s, _)| *per_s).collect();
        let store = |value: fn(&StoreSample) -> f64| series(&self.rounds, |round| value(&round.store));
        AppendRow {
            octets: self.size.content_octets,
            producers: self.producers,
            processes: self.processes,
            store: StoreFigures {
                per_s: store(|store| store.per_s),
                p50_us: store(|store| store.latency.p50_us),
                p99_us: store(|store| store.latency.p99_us),
                batch_octets: store(|store| number(store.batch.octets)),
                batch_messages: store(|store| store.batch.messages),
                store_cpu_us: store(|store| store.store_cpu_us),
                client_cpu_us: store(|store| store.client_cpu_us),
                full_count: self.rounds.iter().map(|round| round.store.full_count).sum(),
            },
            store_to_raw: ratio(&per_s, &raw.best_rounds),
            store_to_raw_same_batch: ratio(&per_s, &raw_same_batch.best_rounds),
            store_to_file_per_message: (!filed.is_empty()).then(|| ratio(&per_s, &filed_per_s)),
            raw,
            raw_same_batch,
            file_per_message: (!filed.is_empty()).then(|| FileFigures {
                per_s: Series::of(filed_per_s),
                p50_us: series(&filed, |(_, latency)| latency.p50_us),
                p99_us: series(&filed, |(_, latency)| latency.p99_us),
            }),
        }
    }

    /// What the store adds to the latency of the disk, where one producer is alone.
    pub(super) fn lonely(&self) -> Option<LonelyRow> {
        if self.producers != 1 {
            return None;
        }
        let latencies = |method: Method| -> Vec<f64> {
            let rounds = self.rounds.iter();
            rounds.filter_map(|round| Some(round.raw_same_batch.methods.get(&method)?.1.p50_us)).collect()
        };
        let median = |method: &Method| Series::of(latencies(*method)).median;
        let method = Method::ALL
            .into_iter()
            .filter(|method| !latencies(*method).is_empty())
            .min_by(|one, other| median(one).total_cmp(&median(other)))?;
        let store: Vec<f64> = self.rounds.iter().map(|round| round.store.latency.p50_us).collect();
        let raw = latencies(method);
        Some(LonelyRow {
            octets: self.size.content_octets,
            batch_octets: series(&self.rounds, |round| number(round.store.batch.octets)),
            raw_method: method,
            difference_us: difference(&store, &raw),
            store_p50_us: Series::of(store),
            raw_p50_us: Series::of(raw),
        })
    }
}

fn measure_raw(bench: &Bench, batch: BatchSize) -> Result<RawSample, Box<dyn Error>> {
    let mut methods = BTreeMap::new();
    for method in Method::ALL {
        let octets = usize::try_from(batch.octets)?;
        if let Some(burst) = raw::write(&bench.place.path, method, octets, RAW_TIME)? {
            let per_s = burst.writes_per_s * batch.messages;
            methods.insert(method, (per_s, Quantiles::of(burst.latencies_ns)));
        }
    }
    Ok(RawSample { batch, methods })
}

/// One case in the report.
#[derive(Debug, Serialize)]
pub(super) struct AppendRow {
    octets: usize,
    producers: u32,
    processes: u32,
    store: StoreFigures,
    /// A batch of a message of each producer.
    raw: RawFigures,
    /// As large as the store's batches were in the mean, with as many messages in them.
    raw_same_batch: RawFigures,
    file_per_message: Option<FileFigures>,
    store_to_raw: f64,
    store_to_raw_same_batch: f64,
    store_to_file_per_message: Option<f64>,
}

#[derive(Debug, Serialize)]
struct StoreFigures {
    per_s: Series,
    /// From the append to the acknowledgement.
    p50_us: Series,
    p99_us: Series,
    batch_octets: Series,
    batch_messages: Series,
    /// Of one message.
    store_cpu_us: Series,
    client_cpu_us: Series,
    /// Messages that it had no room for in memory, in all rounds: 452 for a client.
    full_count: u64,
}

#[derive(Debug, Serialize)]
struct RawFigures {
    batch_octets: Series,
    batch_messages: Series,
    /// The store's largest batch has no room for a message of each producer.
    is_capped: bool,
    /// Messages in a second.
    per_s: BTreeMap<Method, Series>,
    best: Method,
    best_per_s: Series,
    /// Of one write by the best method.
    best_p50_us: Series,
    best_p99_us: Series,
    #[serde(skip)]
    best_rounds: Vec<f64>,
}

#[derive(Debug, Serialize)]
struct FileFigures {
    per_s: Series,
    p50_us: Series,
    p99_us: Series,
}

/// What one append costs that has the store to itself.
#[derive(Debug, Serialize)]
pub(super) struct LonelyRow {
    octets: usize,
    batch_octets: Series,
    store_p50_us: Series,
    raw_p50_us: Series,
    raw_method: Method,
    difference_us: f64,
}

impl RawFigures {
    fn of<'a>(samples: impl Iterator<Item = &'a RawSample>) -> Self {
        let samples: Vec<&RawSample> = samples.collect();
        let values = |method: Method, value: fn(&(f64, Quantiles)) -> f64| -> Vec<f64> {
            samples.iter().filter_map(|sample| sample.methods.get(&method).map(value)).collect()
        };
        let rate = |method| values(method, |(per_s, _)| *per_s);
        let there = Method::ALL.into_iter().filter(|method| !rate(*method).is_empty());
        let per_s: BTreeMap<Method, Series> =
            there.map(|method| (method, Series::of(rate(method)))).collect();
        let best = per_s.iter().max_by(|(_, one), (_, other)| one.median.total_cmp(&other.median));
        let best = best.map_or(Method::Dsync, |(method, _)| *method);
        Self {
            batch_octets: series(&samples, |sample| number(sample.batch.octets)),
            batch_messages: series(&samples, |sample| sample.batch.messages),
            is_capped: samples.iter().any(|sample| sample.batch.is_capped),
            best,
            best_per_s: Series::of(rate(best)),
            best_p50_us: Series::of(values(best, |(_, latency)| latency.p50_us)),
            best_p99_us: Series::of(values(best, |(_, latency)| latency.p99_us)),
            best_rounds: rate(best),
            per_s,
        }
    }
}

pub(super) fn print(rows: &[AppendRow]) {
    if rows.is_empty() {
        return;
    }
    println!(
        "{:<20} {:<24} {:>8} {:>9} {:>9} {:>6} {:>6}  {:<35} {:>6} {:>6} {:>7}",
        "appends",
        "store/s",
        "p50 us",
        "p99 us",
        "batch",
        "cpu us",
        "client",
        "raw/s: all, same batch",
        "/raw",
        "/same",
        "/files"
    );
    for row in rows {
        let AppendRow { octets, producers, processes, store, raw, raw_same_batch, .. } = row;
        let processes = if *processes > 1 { format!(" in {processes}") } else { String::new() };
        let name = format!("{producers} x {}{processes}", kib(number(*octets as u64)));
        let limit = |raw: &RawFigures| {
            let star = if raw.is_capped { "*" } else { "" };
            format!("{:.0}{star} {}", raw.best_per_s.median, raw.best.name())
        };
        let files =
            row.store_to_file_per_message.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.1}"));
        println!(
            "{:<20} {:<24} {:>8.0} {:>9.0} {:>9} {:>6.1} {:>6.1}  {:<35} {:>6.2} {:>6.2} {:>7}",
            name,
            store.per_s,
            store.p50_us.median,
            store.p99_us.median,
            kib(store.batch_octets.median),
            store.store_cpu_us.median,
            store.client_cpu_us.median,
            format!("{}, {}", limit(raw), limit(raw_same_batch)),
            row.store_to_raw,
            row.store_to_raw_same_batch,
            files
        );
    }
    for row in rows.iter().filter(|row| row.store.full_count > 0) {
        let AppendRow { producers, octets, store, .. } = row;
        let size = kib(number(*octets as u64));
        println!(
            "{producers} x {size}: the store refused {} messages (452) and took others",
            store.full_count
        );
    }
    if rows.iter().any(|row| row.raw.is_capped) {
        println!(
            "* a raw batch is no larger than the store's largest, which has not a message of each producer"
        );
    }
}

pub(super) fn print_lonely(rows: &[LonelyRow]) {
    for row in rows {
        println!(
            "lonely {:<13} store p50 {:.0} us, raw {} p50 {:.0} us by {}: {:+.0} us",
            kib(number(row.octets as u64)),
            row.store_p50_us.median,
            kib(row.batch_octets.median),
            row.raw_p50_us.median,
            row.raw_method.name(),
            row.difference_us
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(dsync_per_s: f64, ring_per_s: Option<f64>) -> RawSample {
        let quantiles = Quantiles { p50_us: 1e6 / dsync_per_s, p99_us: 0.0 };
        let mut methods = BTreeMap::from([(Method::Dsync, (dsync_per_s, quantiles))]);
        methods.extend(ring_per_s.map(|per_s| (Method::IoUring, (per_s, quantiles))));
        RawSample { batch: BatchSize::of_all(16, 4_600, 1 << 20), methods }
    }

    fn case(producers: u32) -> AppendCase {
        let size = MessageSize { content_octets: 4096, log_octets: 4_600, batch_octets_max: 1 << 20 };
        let round = |per_s: f64, raw: RawSample, raw_same_batch: RawSample| {
            let latency = Quantiles { p50_us: 2e6 / per_s, p99_us: 0.0 };
            let batch = BatchSize::mean(8 * 40_960, 8, 64);
            let store =
                StoreSample { per_s, latency, batch, store_cpu_us: 5.0, client_cpu_us: 4.0, full_count: 0 };
            Round { store, raw, raw_same_batch, filed: Some((per_s / 20.0, latency)) }
        };
        let mut case = AppendCase::new(size, producers, 1);
        case.rounds = vec![
            round(1_000.0, raw(2_000.0, Some(1_900.0)), raw(1_250.0, Some(1_000.0))),
            round(500.0, raw(1_000.0, Some(1_010.0)), raw(625.0, Some(500.0))),
            round(900.0, raw(1_800.0, Some(1_700.0)), raw(1_125.0, Some(1_000.0))),
        ];
        case
    }

    #[test]
    fn the_store_is_compared_with_the_best_method_of_its_round() {
        let row = case(16).row();
        assert_eq!(row.raw.best, Method::Dsync);
        assert_eq!((row.store_to_raw, row.store_to_raw_same_batch), (0.5, 0.8));
        assert_eq!(row.store_to_file_per_message, Some(20.0));
        assert_eq!(row.raw.per_s[&Method::IoUring].median, 1_700.0);
        assert!(!row.raw.is_capped);
    }

    #[test]
    fn one_producer_alone_is_compared_by_its_latency() {
        assert!(case(16).lonely().is_none());
        let row = case(1).lonely().unwrap();
        // 2,222 us of the store against 889 us of a raw write, in the round of the medians.
        assert_eq!(row.difference_us.round(), 1_333.0);
        assert_eq!((row.octets, row.raw_method), (4096, Method::Dsync));
    }

    #[test]
    fn a_kernel_without_a_ring_has_no_figures_of_one() {
        let mut case = case(16);
        for round in &mut case.rounds {
            round.raw.methods.remove(&Method::IoUring);
        }
        let row = case.row();
        assert_eq!(row.raw.per_s.keys().collect::<Vec<_>>(), [&Method::Dsync]);
        assert_eq!(row.store_to_raw, 0.5);
    }
}
