//! A next hop that takes everything, remembers it, and misbehaves only as told: SMTP (RFC 5321) or LMTP (RFC 2033).
//!
//! [`Sink::start`] gives it a thread and a runtime of its own, so that a test may block, or stop its own runtime, while
//! mail arrives. What arrived is counted by load id and recipient; the octets are not kept unless asked for.
//!
//! Not here: authentication, any delivery.

mod dialogue;
mod driver;
mod ledger;

use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

use crate::stream;
use crate::witness::Witness;
pub use dialogue::Extension;
use ledger::Ledger;
pub use ledger::{Counts, Receipt, Report};

/// Which of the two protocols a sink or a source speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// RFC 5321.
    #[default]
    Smtp,
    /// RFC 2033: LHLO, and one reply for each recipient after the content.
    Lmtp,
}

/// How a sink is reached, what it offers and how it misbehaves. `SinkOptions::default()` is a well-behaved SMTP sink on a
/// free port of the loopback address.
#[derive(Clone, Debug)]
pub struct SinkOptions {
    /// The protocol.
    pub protocol: Protocol,
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Offers STARTTLS (RFC 3207), with a certificate that signs itself.
    pub offers_tls: bool,
    /// Extensions that are *not* offered, and whose parameters are then refused.
    pub without: Vec<Extension>,
    /// The limit that SIZE announces (octets), kept as well.
    pub message_octets_max: u64,
    /// Computes the hash of every body.
    pub verify: bool,
    /// Keeps header and body of every message in [`Receipt::content`].
    pub keep_content: bool,
    /// Wait before each reply to content.
    pub delay: Duration,
    /// Recipients that are refused: the first rule that matches decides.
    pub reject_recipients: Vec<RejectRule>,
    /// So many connections at a time: one more is greeted with 421 and closed.
    pub connections_max: Option<usize>,
    /// Closes each connection, without waiting for QUIT, when it has brought this many messages.
    pub drop_after_count: Option<u64>,
    /// Takes every n-th message of the sink, then closes without a word. Such a message *is* recorded as a receipt:
    /// its sender cannot know, must send it again, and the second copy shows as a duplicate.
    pub close_before_reply_count: Option<u64>,
    /// Told of every receipt before its reply goes, which waits for it.
    pub on_receipt: Option<Witness<Receipt>>,
}

impl Default for SinkOptions {
    fn default() -> Self {
        Self {
            protocol: Protocol::Smtp,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            offers_tls: false,
            without: Vec::new(),
            message_octets_max: 256 << 20,
            verify: true,
            keep_content: false,
            delay: Duration::ZERO,
            reject_recipients: Vec::new(),
            connections_max: None,
            drop_after_count: None,
            close_before_reply_count: None,
            on_receipt: None,
        }
    }
}

/// Which recipients a sink refuses, and with which reply code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectRule {
    /// A piece of the address; `*` stands for any octets between two pieces.
    pub pattern: String,
    /// 450 or 550, or any other code of class 4 or 5.
    pub code: u16,
}

impl std::str::FromStr for RejectRule {
    type Err = String;

    /// `[CODE:]PATTERN`; without a code it is 550.
    fn from_str(text: &str) -> Result<Self, String> {
        let (code, pattern) = text.split_once(':').unwrap_or(("550", text));
        let code = code.parse().ok().filter(|code| (400..600).contains(code));
        let code =
            code.ok_or_else(|| format!("{text:?}: a reply code from 400 to 599 goes before the colon"))?;
        Ok(Self { pattern: pattern.to_owned(), code })
    }
}

impl RejectRule {
    fn matches(&self, recipient: &str) -> bool {
        let mut rest = recipient;
        self.pattern.split('*').all(|piece| match rest.find(piece) {
            Some(at) => {
                rest = &rest[at + piece.len()..];
                true
            }
            None => false,
        })
    }
}

/// Why a sink did not start.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The address is taken or not ours.
    #[error("the sink cannot listen on {address}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// No certificate.
    #[error("the sink has no certificate")]
    Certificate(#[source] std::io::Error),
    /// No thread or no runtime.
    #[error("the sink has no thread to run in")]
    Thread(#[source] std::io::Error),
}

/// A running sink. Dropping it closes the listener and all its connections.
#[derive(Debug)]
pub struct Sink {
    address: SocketAddr,
    ledger: Arc<Ledger>,
    stop: watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Sink {
    /// Starts a sink; it takes connections when this returns.
    ///
    /// # Errors
    /// `Listen` when the address cannot be had, `Certificate` when none can be made, `Thread` when the system has no thread to give.
    pub fn start(options: SinkOptions) -> Result<Self, SinkError> {
        let listen = |source| SinkError::Listen { address: options.listen, source };
        let listener = TcpListener::bind(options.listen).map_err(listen)?;
        listener.set_nonblocking(true).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(SinkError::Thread)?;
        let tls =
            options.offers_tls.then(stream::server_config).transpose().map_err(SinkError::Certificate)?;
        let ledger = Arc::new(Ledger::default());
        let (stop, stopped) = watch::channel(false);
        let theirs = Arc::clone(&ledger);
        let thread = std::thread::Builder::new()
            .name("load-sink".to_owned())
            .spawn(move || runtime.block_on(driver::serve(listener, options, tls, theirs, stopped)))
            .map_err(SinkError::Thread)?;
        Ok(Self { address, ledger, stop, thread: Some(thread) })
    }

    /// Where it listens: the port is never 0.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A copy of everything received so far, in the order of arrival.
    #[must_use]
    pub fn received(&self) -> Vec<Receipt> {
        self.ledger.receipts()
    }

    /// The counts so far: cheap, unlike `received`.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.ledger.counts()
    }

    /// Everything so far with its counts, to be written down as JSON.
    #[must_use]
    pub fn report(&self) -> Report {
        self.ledger.report()
    }

    /// Forgets everything so far and hands it out: one run ends, the next begins on the same address.
    #[must_use]
    pub fn take_report(&self) -> Report {
        self.ledger.take_report()
    }

    /// Blocks until `count` different (load id, recipient) pairs have arrived, or the time is over (false).
    #[must_use]
    pub fn wait_for(&self, count: u64, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        self.ledger.wait_until(until, |counts| counts.distinct >= count)
    }

    /// As [`Sink::wait_for`], without blocking the caller's runtime.
    pub async fn arrived(&self, count: u64, limit: Duration) -> bool {
        let mut counts = self.ledger.subscribe();
        let reached = async { counts.wait_for(|counts| counts.distinct >= count).await.is_ok() };
        tokio::time::timeout(limit, reached).await.unwrap_or(false)
    }

    /// Closes the listener and every connection, and returns what was received.
    #[must_use]
    pub fn stop(mut self) -> Report {
        self.end();
        self.ledger.take_report()
    }

    fn end(&mut self) {
        // No receiver is left when the thread has ended already: nothing to stop then.
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reject_rule_matches_pieces_of_the_address_in_order() {
        let rule: RejectRule = "450:bad*@smtp".parse().unwrap();
        assert_eq!(rule.code, 450);
        assert!(rule.matches("very-bad-user@smtp.test"));
        assert!(!rule.matches("user@smtp.bad"));
        let rule: RejectRule = "user9@".parse().unwrap();
        assert_eq!(rule.code, 550);
        assert!("250:x".parse::<RejectRule>().is_err());
    }

    #[test]
    fn a_sink_that_is_dropped_frees_its_port() {
        let sink = Sink::start(SinkOptions::default()).unwrap();
        let address = sink.address();
        assert_ne!(address.port(), 0);
        drop(sink);
        let again = Sink::start(SinkOptions { listen: address, ..SinkOptions::default() }).unwrap();
        assert_eq!(again.address(), address);
    }
}
