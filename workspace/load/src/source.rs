//! A source of test messages that remembers the moment of every 250, and can outlive the deaths of the switch.
//!
//! Each session takes the next message, sends it, and goes on. With [`SourceOptions::retry`] a message that got a 4xx or
//! whose connection broke is sent again under the same load id, for those recipients that have no 250 yet: what the
//! switch had accepted without being able to say so shows as a duplicate at the sink, never as a new message.
//!
//! Not here: authentication, DNS. It speaks to one address.

mod connection;
mod session;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::content::Composer;
use crate::sink::Protocol;
use crate::witness::Witness;
use crate::{now_ns, process};

/// Sizes from 1 KiB to 1 MiB as they come in ordinary mail: many small, few large (97 KiB on average), in octets.
pub const SIZES_MIX: [usize; 16] = {
    let kib = [1, 4, 2, 8, 4, 16, 1, 32, 4, 64, 2, 8, 128, 4, 256, 1024];
    let mut octets = [0; 16];
    let mut at = 0;
    while at < kib.len() {
        octets[at] = kib[at] * 1024;
        at += 1;
    }
    octets
};

/// How much a session sends before it waits for an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pipelining {
    /// One command, one reply: what Postfix's `smtp-source` does.
    Off,
    /// MAIL, RCPT and DATA go together (RFC 2920), when the server offers PIPELINING.
    #[default]
    Group,
    /// Also the next MAIL, RCPT and DATA right behind the final dot.
    Chain,
}

/// Whether a source sends inside TLS. Whose certificate the server shows makes no difference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tls {
    /// In the clear.
    #[default]
    Off,
    /// RFC 3207. A server that does not offer it gets no mail.
    StartTls,
    /// From the first octet on (RFC 8314, 3).
    Immediate,
}

/// How long and how often a message is tried again.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// Wait before the next attempt, and before the next connection.
    pub delay: Duration,
    /// From a message's first attempt on; then it is given up.
    pub limit: Duration,
}

/// What to send where. `SourceOptions::to(address)` sends one message of 4 KiB.
#[derive(Clone, Debug)]
pub struct SourceOptions {
    /// The server.
    pub to: SocketAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// Whether inside TLS.
    pub tls: Tls,
    /// Concurrent sessions; at least one.
    pub sessions_count: u32,
    /// Messages in all.
    pub messages_count: u64,
    /// Sizes in octets, taken in turn; without any it is 4 KiB. See [`SIZES_MIX`].
    pub octets: Vec<usize>,
    /// The reverse-path.
    pub sender: String,
    /// Address templates, taken in turn: `%d` becomes the message's number, `%r` the recipient's number in the message.
    pub recipients: Vec<String>,
    /// Recipients of each message; at least one. Without `%r` in a template the number goes before the address.
    pub recipients_count: u32,
    /// MT-PRIORITY values, taken in turn, while the server offers it (RFC 6710).
    pub priorities: Vec<i8>,
    /// What is sent together.
    pub pipelining: Pipelining,
    /// Messages on one connection; `None`: as many as it bears.
    pub messages_per_connection: Option<u64>,
    /// Sends again what was not accepted. `None`: one attempt.
    pub retry: Option<Retry>,
    /// At most so many new messages a second over all sessions. `None`: as fast as it goes.
    pub rate_per_s: Option<f64>,
    /// Time that a connection or a reply may take.
    pub reply_timeout: Duration,
    /// Told of every 250 when it was read.
    pub on_acceptance: Option<Witness<Acceptance>>,
}

impl SourceOptions {
    /// One message of 4 KiB in one session.
    #[must_use]
    pub fn to(address: SocketAddr) -> Self {
        Self {
            to: address,
            protocol: Protocol::Smtp,
            tls: Tls::Off,
            sessions_count: 1,
            messages_count: 1,
            octets: vec![4096],
            sender: "source@load.test".to_owned(),
            recipients: vec!["user@sink.test".to_owned()],
            recipients_count: 1,
            priorities: Vec::new(),
            pipelining: Pipelining::Group,
            messages_per_connection: None,
            retry: None,
            rate_per_s: None,
            reply_timeout: Duration::from_secs(60),
            on_acceptance: None,
        }
    }
}

impl Default for SourceOptions {
    fn default() -> Self {
        Self::to(SocketAddr::from((Ipv4Addr::LOCALHOST, 25)))
    }
}

/// A 250 after content: from here on the switch is responsible for these recipients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acceptance {
    /// `X-Load-Id`.
    pub id: String,
    /// Those that the 250 speaks of.
    pub recipients: Vec<String>,
    /// When the content began to leave. Nanoseconds since the epoch.
    pub sent_ns: u64,
    /// When the 250 was read.
    pub accepted_ns: u64,
    /// Octets asked for.
    pub octets: usize,
    /// MT-PRIORITY, when one was sent.
    pub priority: Option<i8>,
    /// Attempts up to this one.
    pub attempts_count: u32,
}

/// A recipient without a 250 at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// `X-Load-Id`.
    pub id: String,
    /// The recipient.
    pub recipient: String,
    /// The last reply code; nothing when the connection broke instead.
    pub code: Option<u16>,
    /// The last reply, or what became of the connection.
    pub text: String,
}

/// What a run did. Each recipient of each message is either in `accepted` or in `refused`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The beginning of all load ids of this run.
    pub run: String,
    /// Messages begun.
    pub messages_count: u64,
    /// Messages begun, times their recipients.
    pub submitted_count: u64,
    /// (message, recipient) pairs with a 250.
    pub accepted_count: u64,
    /// First message to last 250, in seconds.
    pub duration_s: f64,
    /// Messages with a 250 in a second of `duration_s`.
    pub rate_per_s: f64,
    /// CPU time of this whole process during the run, in microseconds.
    pub cpu_us: u64,
    /// Connections that came about.
    pub connections_count: u64,
    /// Attempts after a message's first.
    pub retries_count: u64,
    /// What went wrong on the way, and how often: reply codes, broken connections. With `retry`, all may end well.
    pub troubles: BTreeMap<String, u64>,
    /// Every 250.
    pub accepted: Vec<Acceptance>,
    /// Everything else.
    pub refused: Vec<Refusal>,
}

/// A look at a run while it goes on, and a way to end it early.
#[derive(Debug, Default)]
pub struct Progress {
    accepted: AtomicU64,
    troubles: AtomicU64,
    stopped: AtomicBool,
}

impl Progress {
    /// Pairs with a 250 so far.
    #[must_use]
    pub fn accepted_count(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Replies that refused something, and connections that broke, so far.
    #[must_use]
    pub fn troubles_count(&self) -> u64 {
        self.troubles.load(Ordering::Relaxed)
    }

    /// Begins no further message; those under way are finished.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

/// Sends what the options say and returns when every message has met its fate.
pub async fn run(options: SourceOptions) -> Report {
    run_with(options, Arc::new(Progress::default())).await
}

/// As [`run`], to be watched.
pub async fn run_with(options: SourceOptions, progress: Arc<Progress>) -> Report {
    let run = run_name();
    let composer = Composer::new(&run, &options.octets);
    let sessions_count = options.sessions_count.max(1);
    let cpu_us = process::own_cpu_us();
    let begin = Instant::now();
    let report = Report { run, ..Report::default() };
    let shared = Arc::new(Shared {
        options,
        composer,
        progress,
        begin,
        next: AtomicU64::new(0),
        log: Mutex::new(Log { report, last: begin }),
    });
    let mut sessions = JoinSet::new();
    for _ in 0..sessions_count {
        sessions.spawn(session::run(Arc::clone(&shared)));
    }
    while sessions.join_next().await.is_some() {}
    let mut log = shared.log.lock().unwrap_or_else(PoisonError::into_inner);
    let last = log.last;
    let mut report = std::mem::take(&mut log.report);
    report.duration_s = last.duration_since(begin).as_secs_f64();
    if report.duration_s > 0.0 {
        #[allow(clippy::cast_precision_loss, reason = "a rate needs no 53 bits")]
        let accepted_count = report.accepted.len() as f64;
        report.rate_per_s = accepted_count / report.duration_s;
    }
    report.cpu_us = process::own_cpu_us().saturating_sub(cpu_us);
    report
}

/// Eight hexadecimal digits from clock and process, and a counter for several runs in one process.
fn run_name() -> String {
    static RUNS: AtomicU64 = AtomicU64::new(0);
    let mixed = (now_ns() / 1000) ^ (u64::from(std::process::id()) << 32);
    let folded = (mixed ^ (mixed >> 32)) & 0xffff_ffff;
    format!("{folded:08x}{:02x}", RUNS.fetch_add(1, Ordering::Relaxed))
}

/// What the sessions of a run have in common.
#[derive(Debug)]
struct Shared {
    options: SourceOptions,
    composer: Composer,
    progress: Arc<Progress>,
    begin: Instant,
    next: AtomicU64,
    log: Mutex<Log>,
}

#[derive(Debug)]
struct Log {
    report: Report,
    /// The last 250.
    last: Instant,
}

/// A message on its way, with the recipients that have no final reply yet.
#[derive(Debug)]
struct Job {
    id: String,
    octets: usize,
    priority: Option<i8>,
    recipients: Vec<String>,
    attempts_count: u32,
    begun: Option<Instant>,
    /// Not to be tried before.
    due: Instant,
}

impl Shared {
    /// The next message of the run, if there is one.
    fn next_job(&self) -> Option<Job> {
        if self.progress.stopped.load(Ordering::Relaxed) {
            return None;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if number >= self.options.messages_count {
            return None;
        }
        let options = &self.options;
        let after = match options.rate_per_s {
            #[allow(clippy::cast_precision_loss, reason = "a moment in a run needs no 53 bits")]
            Some(rate) if rate > 0.0 => Duration::from_secs_f64((number as f64 / rate).min(86_400.0)),
            _ => Duration::ZERO,
        };
        let job = Job {
            id: self.composer.id(number),
            octets: in_turn(&options.octets, number).copied().unwrap_or(4096),
            priority: in_turn(&options.priorities, number).copied(),
            recipients: (0..options.recipients_count.max(1)).map(|at| self.recipient(number, at)).collect(),
            attempts_count: 0,
            begun: None,
            due: self.begin + after,
        };
        self.log(|log| {
            log.report.messages_count += 1;
            log.report.submitted_count += job.recipients.len() as u64;
        });
        Some(job)
    }

    fn recipient(&self, number: u64, at: u32) -> String {
        let template = in_turn(&self.options.recipients, number + u64::from(at));
        let template = template.map_or("user@sink.test", String::as_str);
        let address = template.replace("%d", &number.to_string()).replace("%r", &at.to_string());
        if self.options.recipients_count > 1 && !template.contains("%r") {
            return format!("{at}-{address}");
        }
        address
    }

    fn log<T>(&self, write: impl FnOnce(&mut Log) -> T) -> T {
        // Entries are whole after each statement: a poisoned log is still a true one.
        write(&mut self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn trouble(&self, what: String) {
        self.progress.troubles.fetch_add(1, Ordering::Relaxed);
        self.log(|log| *log.report.troubles.entry(what).or_default() += 1);
    }

    fn accept(&self, job: &Job, recipients: Vec<String>, sent_ns: u64, accepted_ns: u64) {
        let count = recipients.len() as u64;
        let acceptance = Acceptance {
            id: job.id.clone(),
            recipients,
            sent_ns,
            accepted_ns,
            octets: job.octets,
            priority: job.priority,
            attempts_count: job.attempts_count,
        };
        if let Some(witness) = &self.options.on_acceptance {
            witness.tell(&acceptance);
        }
        self.log(|log| {
            log.last = Instant::now();
            log.report.accepted_count += count;
            log.report.accepted.push(acceptance);
        });
        self.progress.accepted.fetch_add(count, Ordering::Relaxed);
    }

    fn refuse(&self, job: &Job, recipients: Vec<String>, code: Option<u16>, text: &str) {
        self.log(|log| {
            for recipient in recipients {
                let (id, text) = (job.id.clone(), text.to_owned());
                log.report.refused.push(Refusal { id, recipient, code, text });
            }
        });
    }
}

fn in_turn<T>(values: &[T], number: u64) -> Option<&T> {
    let count = values.len() as u64;
    let at = number.checked_rem(count)?;
    // `at` is below a length that is a usize.
    values.get(usize::try_from(at).ok()?)
}

#[cfg(test)]
#[path = "source/tests.rs"]
mod tests;
