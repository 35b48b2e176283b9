//! What stands around a guest: a directory that knows it, next hops for its mail, and sources.
//!
//! Everything listens on the host's loopback; the guest reaches it at 10.0.2.2 through QEMU's user-mode networking, and
//! sees the sources come from there.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};
use sternpost_config::{DomainPattern, ExampleParameters, example_tree};
use sternpost_directory::testing::{BASE_DN, SWITCH_DN, Slapd};
use sternpost_load::matching::{Tally, tally};
use sternpost_load::sending::{self, Sending};
use sternpost_load::sink::{Protocol, Sink, SinkError, SinkOptions};
use sternpost_load::source::{Report, Retry, SourceOptions};
use tempfile::TempDir;

/// The host's loopback, as a guest calls it.
const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

/// The node's serial number, by which the directory knows it.
pub const SERIAL_NUMBER: &str = "SP-0001";
/// Mail for this domain goes to [`Site::smtp`].
pub const SMTP_DOMAIN: &str = "smtp.test";
/// Mail for this domain goes to [`Site::lmtp`].
pub const LMTP_DOMAIN: &str = "lmtp.test";

/// Sources repeat what was not accepted for so long.
pub const RETRY: Retry = Retry { delay: Duration::from_millis(200), limit: Duration::from_secs(300) };

/// A site.
#[derive(Debug)]
pub struct Site {
    /// The directory, with TLS.
    pub slapd: Slapd,
    /// The next hop for [`SMTP_DOMAIN`].
    pub smtp: Sink,
    /// The message store for [`LMTP_DOMAIN`].
    pub lmtp: Sink,
    lmtp_address: SocketAddr,
    _folder: TempDir,
}

impl Default for Site {
    fn default() -> Self {
        Self::new()
    }
}

impl Site {
    /// A site whose directory runs and knows one node with one listener, two peers and the routes to them.
    #[must_use]
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("sp").tempdir().expect("a folder for slapd can be made");
        let slapd = Slapd::start(folder.path(), true);
        let smtp = Sink::start(SinkOptions::default()).expect("loopback has free ports");
        let lmtp =
            lmtp_sink(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), false).expect("loopback has free ports");
        let domains = |text: &str| vec![text.parse::<DomainPattern>().expect("the domain of a test is one")];
        let parameters = ExampleParameters {
            node: SERIAL_NUMBER.to_owned(),
            hostname: "switch.test".to_owned(),
            listener: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 25)),
            smtp_peer: as_the_guest_sees(smtp.address()),
            lmtp_peer: as_the_guest_sees(lmtp.address()),
            smtp_domains: domains(SMTP_DOMAIN),
            lmtp_domains: domains(LMTP_DOMAIN),
        };
        slapd.add_ldif(&example_tree(BASE_DN, &parameters));
        let lmtp_address = lmtp.address();
        let site = Self { slapd, smtp, lmtp, lmtp_address, _folder: folder };
        site.replace(&listener_dn(), &[("sternpostClientNetworks", "10.0.2.0/24")]);
        site.replace(&shared_dn("qmgr"), &[("sternpostRetryStepS", "1"), ("sternpostRetryMaxS", "5")]);
        site
    }

    /// What an installer writes: where the directory is and how the node shows who it is.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        let read = |path| std::fs::read_to_string(path).expect("slapd has made its files");
        let port = self.slapd.ldaps_uri().rsplit_once(':').map(|(_, port)| port.to_owned());
        let port = port.expect("the URI of a test has a port");
        let (anchor, password) = (read(self.slapd.trust_anchor()), read(self.slapd.password_file()));
        let password = password.trim_end();
        format!(
            "[directory]\nuris = [\"ldaps://{HOST}:{port}\"]\nbase_dn = \"{BASE_DN}\"\n\
             trust_anchor_pem = \"\"\"\n{anchor}\"\"\"\n\
             bind = {{ simple = {{ dn = \"{SWITCH_DN}\", password = \"{password}\" }} }}\n\n\
             [directory.timings]\nwhoami_interval_ms = 1000\nwhoami_timeout_ms = 5000\nretry_ms_min = 200\nretry_ms_max = 2000\n"
        )
    }

    /// The message store goes: what is for it waits. What it had received is forgotten.
    pub fn stop_lmtp(&mut self) {
        // The old one frees its port when it is dropped; this one is at a port that nobody was told.
        let elsewhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        self.lmtp = lmtp_sink(elsewhere, false).expect("loopback has free ports");
    }

    /// The message store is back at its old port, and keeps what comes.
    ///
    /// # Panics
    /// When somebody else has taken the port meanwhile.
    pub fn start_lmtp(&mut self) {
        self.lmtp = lmtp_sink(self.lmtp_address, true).expect("the port of the message store is still free");
    }

    /// Replaces attributes of an entry, each by one value.
    pub fn replace(&self, dn: &str, values: &[(&str, &str)]) {
        let changes: String =
            values.iter().map(|(name, value)| format!("replace: {name}\n{name}: {value}\n-\n")).collect();
        self.slapd.modify_ldif(&format!("dn: {dn}\nchangetype: modify\n{changes}"));
    }

    /// Sends everything; all of it must be accepted.
    #[must_use]
    pub fn send(&self, options: SourceOptions) -> Report {
        let report = sending::start(options).end();
        assert_eq!(report.refused, [], "{:?}", report.troubles);
        report
    }

    /// Sends a few messages in turn to each next hop, and waits until they have come, whole and once.
    ///
    /// Only these are looked at: one of an earlier boot may come again at any time, when it had been transferred as the
    /// power went and that was not durable yet.
    pub fn mail_passes(&self, switch: SocketAddr) {
        for (octets, count) in [(4096, 6), (200_000, 2)] {
            let report =
                self.send(SourceOptions { octets: vec![octets], messages_count: count, ..load(switch) });
            let compared = self.settle(std::slice::from_ref(&report), Duration::from_secs(60));
            assert_eq!(compared.lost, 0, "{compared}");
            for sink in [&self.smtp, &self.lmtp] {
                assert_eq!(came_count(&report, sink), count / 2, "{compared}");
            }
        }
    }

    /// Waits for everything that was accepted, and compares. Nothing may be damaged.
    #[must_use]
    pub fn settle(&self, sources: &[Report], limit: Duration) -> Tally {
        let deadline = Instant::now() + limit;
        loop {
            let compared = tally(sources, &[self.smtp.report(), self.lmtp.report()]);
            if compared.lost == 0 || Instant::now() > deadline {
                assert_eq!(compared.damaged, 0, "{compared}");
                return compared;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What the sinks have received so far, counted.
    #[must_use]
    pub fn arrived_count(&self) -> u64 {
        self.smtp.counts().distinct + self.lmtp.counts().distinct
    }
}

fn lmtp_sink(listen: SocketAddr, keep_content: bool) -> Result<Sink, SinkError> {
    Sink::start(SinkOptions { protocol: Protocol::Lmtp, listen, keep_content, ..SinkOptions::default() })
}

/// How often messages of this source came to a sink.
fn came_count(source: &Report, sink: &Sink) -> u64 {
    let ours: HashSet<&str> = source.accepted.iter().map(|acceptance| acceptance.id.as_str()).collect();
    let receipts = sink.report().receipts;
    receipts.iter().filter(|receipt| receipt.id.as_deref().is_some_and(|id| ours.contains(id))).count() as u64
}

/// Messages of 4 KiB in turn for either next hop, each for a recipient of its own.
#[must_use]
pub fn load(switch: SocketAddr) -> SourceOptions {
    SourceOptions {
        sender: "sender@sender.test".to_owned(),
        recipients: vec![format!("user%d@{SMTP_DOMAIN}"), format!("user%d@{LMTP_DOMAIN}")],
        ..SourceOptions::to(switch)
    }
}

/// Load in some sessions that goes on until it is stopped and repeats what is refused.
#[must_use]
pub fn endless_load(switch: SocketAddr, sessions_count: u32, rate_per_s: f64) -> Sending {
    sending::start(SourceOptions {
        sessions_count,
        messages_count: u64::MAX,
        messages_per_connection: Some(50),
        retry: Some(RETRY),
        rate_per_s: Some(rate_per_s),
        reply_timeout: Duration::from_secs(20),
        ..load(switch)
    })
}

/// The entry of the node's one listener.
#[must_use]
pub fn listener_dn() -> String {
    format!("cn=inbound,cn={SERIAL_NUMBER},ou=nodes,ou=sternpost,{BASE_DN}")
}

/// An entry that all nodes share.
#[must_use]
pub fn shared_dn(name: &str) -> String {
    format!("cn={name},ou=shared,ou=sternpost,{BASE_DN}")
}

/// A port of the host's loopback, as a guest reaches it.
#[must_use]
pub fn as_the_guest_sees(address: SocketAddr) -> SocketAddr {
    SocketAddr::from((HOST, address.port()))
}
