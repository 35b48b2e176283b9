//! Sources and sinks for tests that block.

use super::{PATIENCE, wait_for};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use sternpost_load::matching::{Tally, tally};
use sternpost_load::sink::{Protocol, Sink, SinkOptions};
use sternpost_load::source::{Progress, Report, Retry, SourceOptions, run_with};

/// Load that outlives every death of the switch.
pub(crate) const RETRY: Retry = Retry { delay: Duration::from_millis(50), limit: Duration::from_secs(120) };

/// An SMTP sink that keeps what it gets.
pub(crate) fn sink() -> Sink {
    sink_with(|_| {})
}

/// An SMTP sink with other options.
pub(crate) fn sink_with(change: impl FnOnce(&mut SinkOptions)) -> Sink {
    let mut options = SinkOptions { keep_content: true, ..SinkOptions::default() };
    change(&mut options);
    Sink::start(options).expect("loopback has free ports")
}

/// An LMTP sink.
pub(crate) fn lmtp_sink() -> Sink {
    sink_with(|options| options.protocol = Protocol::Lmtp)
}

/// A sink at an address that was somebody else's before.
pub(crate) fn sink_at(address: SocketAddr) -> Sink {
    wait_for("port that is free again", || {
        Sink::start(SinkOptions { listen: address, keep_content: true, ..SinkOptions::default() }).ok()
    })
}

/// An address at which nobody listens.
pub(crate) fn nobody() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has free ports");
    listener.local_addr().expect("a listener has an address")
}

/// Messages from `sender@sender.test` to one recipient.
pub(crate) fn to(address: SocketAddr, recipient: &str) -> SourceOptions {
    SourceOptions {
        sender: "sender@sender.test".into(),
        recipients: vec![recipient.into()],
        ..SourceOptions::to(address)
    }
}

/// A source at work.
#[derive(Debug)]
pub(crate) struct Sending {
    pub(crate) progress: Arc<Progress>,
    thread: JoinHandle<Report>,
}

/// Starts a source.
pub(crate) fn start(options: SourceOptions) -> Sending {
    let progress = Arc::new(Progress::default());
    let theirs = Arc::clone(&progress);
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime needs a few descriptors").block_on(run_with(options, theirs))
    };
    Sending { progress, thread: std::thread::spawn(work) }
}

impl Sending {
    /// What it did, when it has done everything.
    pub(crate) fn end(self) -> Report {
        self.thread.join().expect("a source does not panic")
    }

    /// Begins no further message, and gives what it did.
    pub(crate) fn stop(self) -> Report {
        self.progress.stop();
        self.end()
    }
}

/// Sends everything; all of it must be accepted.
pub(crate) fn send(options: SourceOptions) -> Report {
    let report = start(options).end();
    assert_eq!(report.refused, [], "{:?}", report.troubles);
    report
}

/// Waits for everything that was accepted, and compares.
pub(crate) fn compare(sources: &[Report], sinks: &[&Sink]) -> Tally {
    let accepted: u64 = sources.iter().map(|source| source.accepted_count).sum();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let is_over = Instant::now() > deadline;
        let distinct: u64 = sinks.iter().map(|sink| sink.counts().distinct).sum();
        // Enough pairs need not be the right ones: mail whose 250 was not read counts among them.
        if distinct >= accepted || is_over {
            let reports: Vec<_> = sinks.iter().map(|sink| sink.report()).collect();
            let compared = tally(sources, &reports);
            if compared.lost == 0 || is_over {
                assert_eq!(compared.damaged, 0, "{compared}");
                return compared;
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
