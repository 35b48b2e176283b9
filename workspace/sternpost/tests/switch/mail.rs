//! Sources and sinks for tests that block.

use super::{PATIENCE, wait_for};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};
use sternpost_load::matching::{Tally, tally};
pub(crate) use sternpost_load::sending::{Sending, start};
use sternpost_load::sink::{Protocol, Sink, SinkOptions};
use sternpost_load::source::{Report, Retry, SourceOptions};

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
