//! `sternpost-load source`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use sternpost_load::sink::Protocol;
use sternpost_load::source::{self, Pipelining, Retry, SIZES_MIX, SourceOptions, Tls};

use super::{Outcome, octets, tool};

/// Sends test messages to one address.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: sternpost-load source --to 127.0.0.1:2525 --sessions 10 --messages 1000 --octets mix"
)]
pub(crate) struct SourceArguments {
    /// Where to send, as ADDRESS:PORT.
    #[arg(long)]
    to: SocketAddr,
    /// Speak LMTP instead of SMTP.
    #[arg(long)]
    lmtp: bool,
    /// Send inside TLS, behind STARTTLS.
    #[arg(long)]
    starttls: bool,
    /// Send inside TLS, from the first octet on.
    #[arg(long, conflicts_with = "starttls")]
    tls_immediate: bool,
    /// Concurrent sessions.
    #[arg(long, default_value_t = 1)]
    sessions: u32,
    /// Messages in all.
    #[arg(long, default_value_t = 1)]
    messages: u64,
    /// Sizes, taken in turn (4096, 64KiB, 1MiB), or `mix` for 1 KiB to 1 MiB as in ordinary mail.
    #[arg(long, default_value = "4KiB", value_delimiter = ',')]
    octets: Vec<String>,
    /// The reverse-path.
    #[arg(long, default_value = "source@load.test")]
    sender: String,
    /// Recipient templates, taken in turn: %d is the message's number, %r the recipient's.
    #[arg(long, default_value = "user@sink.test")]
    rcpt: Vec<String>,
    /// Recipients of each message.
    #[arg(long, default_value_t = 1)]
    recipients: u32,
    /// MT-PRIORITY values (-9 to 9), taken in turn.
    #[arg(long, value_delimiter = ',', allow_hyphen_values = true, value_parser = clap::value_parser!(i8).range(-9..=9))]
    priority: Vec<i8>,
    /// off: one command, one reply; group: MAIL to DATA together; chain: also behind the final dot.
    #[arg(long, default_value = "group")]
    pipelining: Together,
    /// Messages on one connection [default: as many as it bears].
    #[arg(long)]
    per_connection: Option<u64>,
    /// Repeat what got a 4xx or a broken connection for so many seconds, under the same load id.
    #[arg(long, value_name = "SECONDS")]
    retry: Option<u64>,
    /// At most so many messages a second.
    #[arg(long)]
    rate: Option<f64>,
    /// Seconds that a reply may take.
    #[arg(long, default_value_t = 60)]
    timeout: u64,
    /// Write the JSON there instead of to standard output.
    #[arg(long)]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Together {
    Off,
    Group,
    Chain,
}

impl SourceArguments {
    pub(crate) fn run(self) -> Outcome {
        let mut sizes = Vec::new();
        for size in &self.octets {
            if size == "mix" {
                sizes.extend(SIZES_MIX);
            } else {
                sizes.push(octets(size)?);
            }
        }
        let delay = Duration::from_millis(100);
        let retry = self.retry.map(|limit_s| Retry { delay, limit: Duration::from_secs(limit_s) });
        let options = SourceOptions {
            to: self.to,
            protocol: if self.lmtp { Protocol::Lmtp } else { Protocol::Smtp },
            tls: match (self.starttls, self.tls_immediate) {
                (true, _) => Tls::StartTls,
                (false, true) => Tls::Immediate,
                (false, false) => Tls::Off,
            },
            sessions_count: self.sessions,
            messages_count: self.messages,
            octets: sizes,
            sender: self.sender,
            recipients: self.rcpt,
            recipients_count: self.recipients,
            priorities: self.priority,
            pipelining: match self.pipelining {
                Together::Off => Pipelining::Off,
                Together::Group => Pipelining::Group,
                Together::Chain => Pipelining::Chain,
            },
            messages_per_connection: self.per_connection,
            retry,
            rate_per_s: self.rate,
            reply_timeout: Duration::from_secs(self.timeout),
            on_acceptance: None,
        };
        let report = super::block_on(source::run(options))?;
        eprintln!(
            "{} of {} accepted in {:.2} s: {:.0} messages/s, {} refused",
            report.accepted_count,
            report.submitted_count,
            report.duration_s,
            report.rate_per_s,
            report.refused.len()
        );
        tool::write_json(self.output.as_deref(), &report)?;
        Ok(report.refused.is_empty())
    }
}
