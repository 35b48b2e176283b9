//! What the drivers need of the system: JSON in and out, our own source and sink as processes, numbers of a series.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::error::Error;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};
use sternpost_load::{sink, source};

pub(super) use sternpost_load::guarded::Guarded;

/// Prints one line of JSON.
pub(super) fn print_json(value: &impl Serialize) -> std::io::Result<()> {
    let mut text = serde_json::to_string(value)?;
    text.push('\n');
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Writes JSON to a file, or to standard output.
pub(super) fn write_json(path: Option<&Path>, value: &impl Serialize) -> Result<(), Box<dyn Error>> {
    let Some(path) = path else { return Ok(print_json(value)?) };
    let text = serde_json::to_string_pretty(value)? + "\n";
    Ok(fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?)
}

/// Reads a file of JSON.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, String> {
    let text = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))
}

/// A free port of the loopback address: free now, and with nobody else looking for one, in a moment too.
pub(super) fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// A sink of ours in a process of its own, so that its CPU time is its own.
#[derive(Debug)]
pub(super) struct SinkProcess {
    guarded: Guarded,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
    address: SocketAddr,
}

impl SinkProcess {
    pub(super) fn start(arguments: &[&str]) -> Result<Self, Box<dyn Error>> {
        let own = std::env::current_exe()?;
        let arguments: Vec<&OsStr> = ["sink", "--control"].iter().chain(arguments).map(OsStr::new).collect();
        let mut guarded = Guarded::start(&own, &arguments, |command| {
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        })?;
        let questions = guarded.stdin().ok_or("the sink has no input")?;
        let mut answers = BufReader::new(guarded.stdout().ok_or("the sink has no output")?);
        let first: serde_json::Value = answer(&mut answers)?;
        let address = first["address"].as_str().ok_or("the sink named no address")?.parse()?;
        Ok(Self { guarded, questions, answers, address })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn pid(&self) -> u32 {
        self.guarded.pid()
    }

    pub(super) fn counts(&mut self) -> Result<sink::Counts, Box<dyn Error>> {
        self.questions.write_all(b"count\n")?;
        answer(&mut self.answers)
    }

    /// Everything since the last report.
    pub(super) fn report(&mut self) -> Result<sink::Report, Box<dyn Error>> {
        self.guarded.check()?;
        self.questions.write_all(b"report\n")?;
        answer(&mut self.answers)
    }

    /// Waits until so many different pairs have come; false when the time is over.
    pub(super) fn wait_for(&mut self, count: u64, limit: Duration) -> Result<bool, Box<dyn Error>> {
        let until = Instant::now() + limit;
        while self.counts()?.distinct < count {
            if Instant::now() > until {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(true)
    }
}

fn answer<T: DeserializeOwned>(answers: &mut impl std::io::BufRead) -> Result<T, Box<dyn Error>> {
    let mut line = String::new();
    answers.read_line(&mut line)?;
    Ok(serde_json::from_str(&line).map_err(|error| format!("the sink's answer: {error}"))?)
}

/// Runs a source of ours in a process of its own and returns its report.
pub(super) fn run_source(to: SocketAddr, arguments: &[&str]) -> Result<source::Report, Box<dyn Error>> {
    let own = std::env::current_exe()?;
    let to = to.to_string();
    let first = ["source", "--to", &to];
    let arguments: Vec<&OsStr> = first.iter().chain(arguments).map(OsStr::new).collect();
    let mut guarded = Guarded::start(&own, &arguments, |command| {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    })?;
    let output = guarded.stdout().ok_or("the source has no output")?;
    Ok(serde_json::from_reader(BufReader::new(output))
        .map_err(|error| format!("the source's report: {error}"))?)
}

/// A series of measurements: the middle one, and how far the others lie apart.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Series {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Series {
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match values.len() {
            0 => 0.0,
            count if count % 2 == 1 => values[middle],
            _ => f64::midpoint(values[middle - 1], values[middle]),
        };
        let end = |value: Option<&f64>| value.copied().unwrap_or(0.0);
        Self { median, min: end(values.first()), max: end(values.last()) }
    }
}

impl std::fmt::Display for Series {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = if self.max < 100.0 { 2 } else { 0 };
        let text = format!("{:.digits$} ({:.digits$}-{:.digits$})", self.median, self.min, self.max);
        f.pad(&text)
    }
}

/// A count as a number to calculate with.
pub(super) fn number(count: u64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "measurements need no 53 bits")]
    let number = count as f64;
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_series_lies_between_its_middle_two() {
        let series = Series::of([4.0, 1.0, 2.0, 3.0]);
        assert_eq!((series.median, series.min, series.max), (2.5, 1.0, 4.0));
        assert_eq!(Series::of([]).median, 0.0);
    }
}
