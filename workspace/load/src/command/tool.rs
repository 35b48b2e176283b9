//! What the drivers need of the system: children that never outlive us, JSON in and out, signals, numbers of a series.

use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::error::Error;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use sternpost_load::{process, sink, source};

/// Time that a child has between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(10);

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

/// A child process that is ended with this value: SIGTERM first, SIGKILL after the grace.
#[derive(Debug)]
pub(super) struct Guarded {
    child: Child,
    name: String,
}

impl Guarded {
    /// Starts a command so that the kernel ends it when we die without a word (`setpriv --pdeathsig`): whatever happens
    /// to a driver, nothing that it started stays behind.
    pub(super) fn start(
        program: &Path,
        arguments: &[&OsStr],
        adjust: impl FnOnce(&mut Command),
    ) -> Result<Self, Box<dyn Error>> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--"]).arg(program).args(arguments);
        adjust(&mut command);
        let child = command.spawn().map_err(|error| format!("setpriv {}: {error}", program.display()))?;
        Ok(Self { child, name: program.display().to_string() })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    pub(super) fn stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// An error when the child has ended already.
    pub(super) fn check(&mut self) -> Result<(), Box<dyn Error>> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(format!("{} ended: {status}", self.name).into()),
        }
    }

    /// Waits for the child to end by itself; false when the time is over.
    pub(super) fn wait(&mut self, limit: Duration) -> Result<bool, Box<dyn Error>> {
        let until = Instant::now() + limit;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > until {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(true)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        let family = process::family(self.child.id());
        let _ = signal(self.child.id(), Signal::TERM);
        let ended = self.wait(GRACE).unwrap_or(false);
        // Those that stayed, by pid: not every parent takes its children along (Postfix's master does not).
        for pid in family.into_iter().filter(|&pid| !ended || pid != self.child.id()) {
            let _ = signal(pid, Signal::KILL);
        }
        if !ended {
            let _ = self.child.wait();
        }
    }
}

/// Sends a signal to one process.
pub(super) fn signal(pid: u32, signal: Signal) -> Result<(), Box<dyn Error>> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or("not a pid")?;
    Ok(kill_process(pid, signal)?)
}

/// A free port of the loopback address: free now, and with nobody else looking for one, in a moment too.
pub(super) fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// Waits until something at the address says 220.
pub(super) fn wait_for_greeting(
    address: SocketAddr,
    child: &mut Guarded,
    limit: Duration,
) -> Result<(), Box<dyn Error>> {
    let until = Instant::now() + limit;
    loop {
        child.check()?;
        if let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) {
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            let mut line = String::new();
            let mut reader = BufReader::new(stream);
            if reader.read_line(&mut line).is_ok() && line.starts_with("220") {
                let _ = reader.get_mut().write_all(b"QUIT\r\n");
                return Ok(());
            }
        }
        if Instant::now() > until {
            return Err(format!("{address} did not say 220 within {} s", limit.as_secs()).into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
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

    #[test]
    fn a_guarded_child_ends_with_its_guard() {
        let guarded = Guarded::start(Path::new("sleep"), &[OsStr::new("60")], |_| {}).unwrap();
        let pid = guarded.pid();
        assert_eq!(process::family(pid).len(), 1);
        drop(guarded);
        assert!(process::family(pid).is_empty());
    }
}
