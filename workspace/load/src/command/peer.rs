//! `sternpost-load bench-peer`: the switch beside Postfix, both between Postfix's own `smtp-source -d` and `smtp-sink`.
//!
//! Postfix is Debian's package, unpacked below target/peer and never installed: its master runs in a mount namespace of
//! its own, in which the users that it insists on exist, with a private configuration and queue. Everything that decides
//! on durability and concurrency is as Postfix has it by default. Rounds are interleaved; the sinks count.

use serde::Serialize;
use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::OsStr;
use std::fs;
use std::io::Read as _;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};
use sternpost_load::source::Tls;
use sternpost_load::{postfix, process};

use super::Outcome;
use super::bench::{self, Load, QUEUE_ROOM};
use super::switch::{Hop, Switch, empty};
use super::tool::{self, Guarded, Series, SinkProcess, number};

/// Numbers of the users that Postfix needs, in its namespace only.
const POSTFIX_ID: u32 = 61_101;
const POSTDROP_ID: u32 = 61_102;

/// Time after a run for what the switch still writes: its cost belongs to the run.
const SETTLE: Duration = Duration::from_millis(500);

/// Measures the switch beside Postfix and writes target/bench/peer.json. Needs root (a mount namespace).
#[derive(Debug, clap::Args)]
pub(crate) struct PeerArguments {
    /// The switch; a release build.
    #[arg(long, default_value = "target/release/sternpost")]
    sternpost: PathBuf,
    /// Where Postfix is unpacked and runs.
    #[arg(long, default_value = "target/peer")]
    directory: PathBuf,
    /// Where the report goes.
    #[arg(long, default_value = "target/bench")]
    report: PathBuf,
    /// Rounds; every value is the median of them.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Messages of one run through the switch, and of one without any; Postfix gets a fifth.
    #[arg(long, default_value_t = 10_000)]
    messages: u64,
    /// Seconds that one run may take.
    #[arg(long, default_value_t = 60)]
    limit: u64,
}

const SESSIONS: [u32; 3] = [1, 10, 50];

/// Which of the three ways from source to sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Way {
    Direct,
    Postfix,
    Sternpost,
}

#[derive(Clone, Copy, Debug)]
struct Measured {
    rate_per_s: f64,
    cpu_us: f64,
    ends_us: f64,
}

#[derive(Debug, Serialize)]
struct Row {
    rate_per_s: Series,
    cpu_us: Series,
    source_and_sink_cpu_us: Series,
    cpu_to_source_and_sink: Series,
}

#[derive(Debug, Serialize)]
struct Latencies {
    /// Taken with our own source and sink, in runs of their own.
    sternpost_p50_ms: Series,
    postfix_p50_ms: Series,
}

#[derive(Debug, Serialize)]
struct Report {
    rounds: u32,
    load_average_before: f64,
    load_average_after: f64,
    tcp_congestion_control: String,
    /// By sessions: the switch's rate by Postfix's (medians).
    relay_to_postfix: BTreeMap<u32, f64>,
    /// By sessions: CPU of the switch by that of source and sink in the same runs (median).
    cpu_to_source_and_sink: BTreeMap<u32, f64>,
    rows: BTreeMap<u32, BTreeMap<Way, Row>>,
    latency: BTreeMap<&'static str, Latencies>,
}

impl PeerArguments {
    pub(crate) fn run(self) -> Outcome {
        if !rustix::process::geteuid().is_root() {
            return Err("Postfix needs root for its users and its mount namespace".into());
        }
        fs::create_dir_all(&self.directory)?;
        fs::create_dir_all(&self.report)?;
        let directory = self.directory.canonicalize()?;
        let limit = Duration::from_secs(self.limit);
        let tools = Tools { package: postfix::Postfix::unpack(&directory)? };
        let load_average_before = process::load_average();
        let rows = self.throughput(&directory, &tools, limit)?;
        let latency = self.latency(&directory, &tools, limit)?;
        let report = Report {
            rounds: self.rounds,
            load_average_before,
            load_average_after: process::load_average(),
            tcp_congestion_control: bench::congestion_control(),
            relay_to_postfix: by_sessions(&rows, |ways| {
                ways[&Way::Sternpost].rate_per_s.median / ways[&Way::Postfix].rate_per_s.median
            }),
            cpu_to_source_and_sink: by_sessions(&rows, |ways| {
                ways[&Way::Sternpost].cpu_to_source_and_sink.median
            }),
            rows,
            latency,
        };
        print_table(&report);
        let path = self.report.join("peer.json");
        tool::write_json(Some(&path), &report)?;
        println!("{}", path.display());
        Ok(true)
    }

    fn throughput(
        &self,
        directory: &Path,
        tools: &Tools,
        limit: Duration,
    ) -> Result<BTreeMap<u32, BTreeMap<Way, Row>>, Box<dyn Error>> {
        let sinks =
            [Way::Direct, Way::Postfix, Way::Sternpost].map(|way| tools.sink().map(|sink| (way, sink)));
        let mut sinks = sinks.into_iter().collect::<Result<BTreeMap<Way, CountingSink>, _>>()?;
        let postfix = Postfix::start(tools, &directory.join("postfix"), sinks[&Way::Postfix].address)?;
        let hops = [Hop { domain: "sink.test", channel: "smtp", address: sinks[&Way::Sternpost].address }];
        let mut switch = Switch::start(&self.sternpost, &directory.join("switch"), QUEUE_ROOM, &hops)?;
        let mut runs: BTreeMap<(u32, Way), Vec<Measured>> = BTreeMap::new();
        for round in 1..=self.rounds {
            for sessions_count in SESSIONS {
                for (&way, sink) in &mut sinks {
                    eprintln!("round {round} of {}: {sessions_count} sessions, {way:?}", self.rounds);
                    let (to, pid) = match way {
                        Way::Direct => (sink.address, None),
                        Way::Postfix => (postfix.address, Some(postfix.guarded.pid())),
                        Way::Sternpost => (switch.listener(), Some(switch.pid())),
                    };
                    let count = if way == Way::Postfix { self.messages / 5 } else { self.messages }.max(1);
                    let measured = tools.measure(to, sink, pid, sessions_count, count, limit)?;
                    runs.entry((sessions_count, way)).or_default().push(measured);
                    switch.check()?;
                }
            }
        }
        let mut rows: BTreeMap<u32, BTreeMap<Way, Row>> = BTreeMap::new();
        for ((sessions_count, way), runs) in runs {
            rows.entry(sessions_count).or_default().insert(way, Row::of(&runs));
        }
        Ok(rows)
    }

    /// 250 to receipt, by our own source and sink: Postfix's do not know when a message came.
    fn latency(
        &self,
        directory: &Path,
        tools: &Tools,
        limit: Duration,
    ) -> Result<BTreeMap<&'static str, Latencies>, Box<dyn Error>> {
        let mut sinks = [SinkProcess::start(&[])?, SinkProcess::start(&[])?];
        let postfix = Postfix::start(tools, &directory.join("postfix"), sinks[0].address())?;
        let hops = [Hop { domain: "sink.test", channel: "smtp", address: sinks[1].address() }];
        let switch = Switch::start(&self.sternpost, &directory.join("switch"), QUEUE_ROOM, &hops)?;
        let ways = [postfix.address, switch.listener()];
        let mut latency = BTreeMap::new();
        for (name, sessions_count, messages_count, rate_per_s) in
            [("idle", 1, 200, 100), ("1", 1, 1000, 0), ("10", 10, 1000, 0), ("50", 50, 1000, 0)]
        {
            let load = Load { sessions_count, octets: 4096, messages_count, rate_per_s, tls: Tls::Off };
            let mut p50_ms: [Vec<f64>; 2] = Default::default();
            for round in 1..=self.rounds.min(3) {
                eprintln!("latency, round {round}: {name}");
                for ((to, sink), p50_ms) in ways.into_iter().zip(&mut sinks).zip(&mut p50_ms) {
                    p50_ms.push(load.measure(to, sink, limit)?.latency.p50_ms);
                }
            }
            let [postfix_p50_ms, sternpost_p50_ms] = p50_ms.map(Series::of);
            latency.insert(name, Latencies { sternpost_p50_ms, postfix_p50_ms });
        }
        Ok(latency)
    }
}

fn by_sessions(
    rows: &BTreeMap<u32, BTreeMap<Way, Row>>,
    value: impl Fn(&BTreeMap<Way, Row>) -> f64,
) -> BTreeMap<u32, f64> {
    rows.iter().map(|(&sessions_count, ways)| (sessions_count, value(ways))).collect()
}

impl Row {
    fn of(runs: &[Measured]) -> Self {
        Self {
            rate_per_s: Series::of(runs.iter().map(|run| run.rate_per_s)),
            cpu_us: Series::of(runs.iter().map(|run| run.cpu_us)),
            source_and_sink_cpu_us: Series::of(runs.iter().map(|run| run.ends_us)),
            cpu_to_source_and_sink: Series::of(runs.iter().map(|run| run.cpu_us / run.ends_us.max(1.0))),
        }
    }
}

fn print_table(report: &Report) {
    println!(
        "median (least-most) of {} rounds of 4 KiB; load average {:.2} before, {:.2} after; TCP {}",
        report.rounds, report.load_average_before, report.load_average_after, report.tcp_congestion_control
    );
    let ends = "source+sink us";
    println!("{:<9} {:<10} {:<22} {:<18} {ends:<18} ratio", "sessions", "", "messages/s", "switch us");
    for (sessions_count, ways) in &report.rows {
        for (way, row) in ways {
            println!(
                "{sessions_count:<9} {:<10} {:<22} {:<18} {:<18} {:.2}",
                format!("{way:?}"),
                row.rate_per_s,
                row.cpu_us,
                row.source_and_sink_cpu_us,
                row.cpu_to_source_and_sink.median
            );
        }
        println!(
            "{sessions_count:<9} the switch is {:.1} times Postfix",
            report.relay_to_postfix[sessions_count]
        );
    }
    println!("250 to receipt, p50 in ms, by our own source and sink");
    for (name, Latencies { sternpost_p50_ms, postfix_p50_ms }) in &report.latency {
        println!("{name:<9} Sternpost {sternpost_p50_ms:<22} Postfix {postfix_p50_ms}");
    }
}

/// Postfix's own source and sink.
#[derive(Debug)]
struct Tools {
    package: postfix::Postfix,
}

impl Tools {
    fn start(&self, name: &str, arguments: &[&str], output: Stdio) -> Result<Guarded, Box<dyn Error>> {
        let arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
        let program = self.package.root().join("usr/sbin").join(name);
        Ok(Guarded::start(&program, &arguments, |command| {
            command.env("LD_LIBRARY_PATH", self.package.libraries()).stdin(Stdio::null()).stdout(output);
        })?)
    }

    fn sink(&self) -> Result<CountingSink, Box<dyn Error>> {
        let address = tool::free_address()?;
        let mut guarded =
            self.start("smtp-sink", &["-u", "nobody", "-c", &address.to_string(), "1024"], Stdio::piped())?;
        let mut output = guarded.stdout().ok_or("smtp-sink has no output")?;
        let count = Arc::new(AtomicU64::new(0));
        let theirs = Arc::clone(&count);
        // It ends with the sink's output.
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let mut piece = [0; 4096];
            while let Ok(octets_count @ 1..) = output.read(&mut piece) {
                text.extend_from_slice(&piece[..octets_count]);
                if let Some((count, used)) = last_count(&text) {
                    theirs.store(count, Ordering::Relaxed);
                    text.drain(..used);
                }
            }
        });
        guarded.wait_for_greeting(address, Duration::from_secs(10))?;
        Ok(CountingSink { guarded, address, count })
    }

    /// One run of `smtp-source`, until all has come to the sink.
    fn measure(
        &self,
        to: SocketAddr,
        sink: &mut CountingSink,
        switch: Option<u32>,
        sessions_count: u32,
        messages_count: u64,
        limit: Duration,
    ) -> Result<Measured, Box<dyn Error>> {
        let count_before = sink.count.load(Ordering::Relaxed);
        let switch_before_us = switch.map_or(0, process::cpu_us);
        let sink_before_us = process::cpu_us(sink.guarded.pid());
        let waited_before_us = process::waited_cpu_us();
        let begin = Instant::now();
        let (sessions, messages, to) =
            (sessions_count.to_string(), messages_count.to_string(), to.to_string());
        let arguments = [
            &["-d", "-l", "4096", "-f", "source@load.test", "-t", "user@sink.test"][..],
            &["-s", &sessions, "-m", &messages, &to],
        ];
        let mut source = self.start("smtp-source", &arguments.concat(), Stdio::null())?;
        let ended = source.wait(limit)?;
        // Its CPU time is ours to know only now that it has been waited for.
        let source_us = process::waited_cpu_us().saturating_sub(waited_before_us);
        let want = count_before + messages_count;
        while sink.count.load(Ordering::Relaxed) < want {
            sink.guarded.check()?;
            if begin.elapsed() > limit || !ended {
                let came = sink.count.load(Ordering::Relaxed) - count_before;
                return Err(format!("only {came} of {messages_count} came through {to} in time").into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let duration_s = begin.elapsed().as_secs_f64();
        std::thread::sleep(SETTLE);
        let messages = number(messages_count);
        let sink_us = process::cpu_us(sink.guarded.pid()).saturating_sub(sink_before_us);
        let switch_us = switch.map_or(0, process::cpu_us).saturating_sub(switch_before_us);
        Ok(Measured {
            rate_per_s: messages / duration_s,
            cpu_us: number(switch_us) / messages,
            ends_us: number(source_us + sink_us) / messages,
        })
    }
}

/// `smtp-sink -c` and the number that it shows.
#[derive(Debug)]
struct CountingSink {
    guarded: Guarded,
    address: SocketAddr,
    count: Arc<AtomicU64>,
}

/// The last complete `mesg=N` in the counters of `smtp-sink -c`, and the octets up to it. A number is complete when
/// something follows, or (the sink writes whole lines) at the end of a write.
fn last_count(text: &[u8]) -> Option<(u64, usize)> {
    const KEY: &[u8] = b"mesg=";
    let at = text.windows(KEY.len()).rposition(|octets| octets == KEY)? + KEY.len();
    let digits: Vec<u8> = text[at..].iter().copied().take_while(u8::is_ascii_digit).collect();
    let count = std::str::from_utf8(&digits).ok()?.parse().ok()?;
    // The key stays: should digits have been cut off, they come with the next piece.
    Some((count, at - KEY.len()))
}

/// A running Postfix that relays everything to one address.
#[derive(Debug)]
struct Postfix {
    guarded: Guarded,
    address: SocketAddr,
}

impl Postfix {
    fn start(tools: &Tools, home: &Path, sink: SocketAddr) -> Result<Self, Box<dyn Error>> {
        empty(home)?;
        let address = tool::free_address()?;
        Self::configure(tools, home, address, sink)?;
        let script = "mount --bind \"$1/passwd\" /etc/passwd && mount --bind \"$1/group\" /etc/group && \
            exec \"$2/usr/lib/postfix/sbin/master\" -d -c \"$1/etc\"";
        let arguments = ["-m", "--propagation", "private", "sh", "-c", script, "sh"]
            .map(OsStr::new)
            .into_iter()
            .chain([home.as_os_str(), tools.package.root().as_os_str()]);
        let arguments: Vec<&OsStr> = arguments.collect();
        let mut guarded = Guarded::start(Path::new("unshare"), &arguments, |command| {
            command
                .env("LD_LIBRARY_PATH", tools.package.libraries())
                .stdin(Stdio::null())
                .stdout(Stdio::null());
        })?;
        guarded.wait_for_greeting(address, Duration::from_secs(20))?;
        Ok(Self { guarded, address })
    }

    fn configure(
        tools: &Tools,
        home: &Path,
        address: SocketAddr,
        sink: SocketAddr,
    ) -> Result<(), Box<dyn Error>> {
        let accounts = [
            ("passwd", format!("postfix:x:{POSTFIX_ID}:{POSTFIX_ID}::/nonexistent:/usr/sbin/nologin\n")),
            ("group", format!("postfix:x:{POSTFIX_ID}:\npostdrop:x:{POSTDROP_ID}:\n")),
        ];
        for (name, more) in accounts {
            let text = fs::read_to_string(Path::new("/etc").join(name))?;
            let kept =
                text.lines().filter(|line| !line.starts_with("postfix:") && !line.starts_with("postdrop:"));
            let kept = kept.fold(String::new(), |text, line| text + line + "\n");
            fs::write(home.join(name), kept + &more)?;
        }
        let etc = home.join("etc");
        fs::create_dir_all(&etc)?;
        let (home_text, root) = (home.display(), tools.package.root().display());
        let main = format!(
            "compatibility_level = 3.6\nqueue_directory = {home_text}/queue\ndata_directory = {home_text}/data\n\
             command_directory = {root}/usr/sbin\ndaemon_directory = {root}/usr/lib/postfix/sbin\n\
             shlib_directory = {root}/usr/lib/postfix\nmeta_directory = {home_text}/etc\n\
             mail_owner = postfix\nsetgid_group = postdrop\n\
             import_environment = MAIL_CONFIG MAIL_DEBUG MAIL_LOGTAG TZ LANG=C LD_LIBRARY_PATH\n\
             inet_interfaces = loopback-only\ninet_protocols = ipv4\nmyhostname = peer.load.test\n\
             mydestination =\nlocal_recipient_maps =\nalias_maps =\nalias_database =\n\
             mynetworks = 127.0.0.0/8\nrelayhost = [{}]:{}\n",
            sink.ip(),
            sink.port()
        );
        fs::write(etc.join("main.cf"), main)?;
        fs::write(etc.join("master.cf"), format!("{address} inet n - n - - smtpd\n{MASTER}"))?;
        for name in ["main.cf", "master.cf"] {
            // Postfix waits for a file that was changed just now: it might still be being written.
            let file = fs::File::options().write(true).open(etc.join(name))?;
            file.set_modified(SystemTime::now() - Duration::from_secs(60))?;
        }
        let directories = "active bounce corrupt defer deferred flush hold incoming private saved trace";
        for name in directories.split(' ').map(|name| format!("queue/{name}")).chain(["data".to_owned()]) {
            directory(&home.join(name), POSTFIX_ID, 0, 0o700)?;
        }
        directory(&home.join("queue/maildrop"), POSTFIX_ID, POSTDROP_ID, 0o1730)?;
        directory(&home.join("queue/public"), POSTFIX_ID, POSTDROP_ID, 0o710)?;
        directory(&home.join("queue/pid"), 0, 0, 0o755)
    }
}

fn directory(path: &Path, user: u32, group: u32, mode: u32) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(path)?;
    chown(path, Some(user), Some(group))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}

/// The services of Debian's master.cf that relaying needs, none of them in a chroot.
const MASTER: &str = "\
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
local unix - n n - - local
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_counter_is_read_even_when_its_digits_come_in_two_pieces() {
        let mut text = b"sess=1 quit=0 mesg=12\rsess=1 quit=0 mesg=1".to_vec();
        let (count, used) = last_count(&text).unwrap();
        assert_eq!(count, 1);
        text.drain(..used);
        text.extend_from_slice(b"3\r");
        assert_eq!(last_count(&text).unwrap().0, 13);
        assert_eq!(last_count(b"mesg="), None);
    }
}
