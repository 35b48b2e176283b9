//! `sternpost-load sink`: prints `{"address": …}` first, then a report when it ends or is asked.

use std::io::BufRead as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use sternpost_load::process;
use sternpost_load::sink::{Extension, Protocol, RejectRule, Report, Sink, SinkOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::{Outcome, octets, tool};

/// Receives messages: SMTP, or LMTP with --lmtp.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Ends on SIGTERM, SIGINT, after --expect, or at the end of standard input with --control.\n\
    With --control each line of standard input is a question: `count` prints the counts, `report` prints everything and \
    begins again.\nExample: sternpost-load sink --expect 1000 > sink.json"
)]
pub(crate) struct SinkArguments {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Speak LMTP instead of SMTP.
    #[arg(long)]
    lmtp: bool,
    /// Offer STARTTLS.
    #[arg(long)]
    starttls: bool,
    /// Do not offer this extension (PIPELINING, CHUNKING, MT-PRIORITY ...). May be given several times.
    #[arg(long, value_name = "KEYWORD")]
    without: Vec<Extension>,
    /// The SIZE limit.
    #[arg(long, default_value = "256MiB", value_parser = octets)]
    size: usize,
    /// Do not verify bodies.
    #[arg(long)]
    no_verify: bool,
    /// Wait before each reply to content, in milliseconds.
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
    /// Refuse recipients that match, as [CODE:]PATTERN (450:slow*, 550:bad). May be given several times.
    #[arg(long, value_name = "RULE")]
    reject_rcpt: Vec<RejectRule>,
    /// Greet with 421 whoever connects while there are so many connections.
    #[arg(long, value_name = "N")]
    connections_max: Option<usize>,
    /// Close each connection after so many messages.
    #[arg(long, value_name = "N")]
    drop_after: Option<u64>,
    /// Close without a reply after every N-th message.
    #[arg(long, value_name = "N")]
    close_before_reply: Option<u64>,
    /// End when so many different (message, recipient) pairs have come.
    #[arg(long, value_name = "N")]
    expect: Option<u64>,
    /// Obey standard input.
    #[arg(long)]
    control: bool,
    /// Write the final report there instead of to standard output.
    #[arg(long)]
    output: Option<PathBuf>,
}

impl SinkArguments {
    pub(crate) fn run(self) -> Outcome {
        let sink = Sink::start(SinkOptions {
            protocol: if self.lmtp { Protocol::Lmtp } else { Protocol::Smtp },
            listen: self.listen,
            offers_tls: self.starttls,
            without: self.without,
            message_octets_max: self.size as u64,
            verify: !self.no_verify,
            keep_content: false,
            delay: Duration::from_millis(self.delay_ms),
            reject_recipients: self.reject_rcpt,
            connections_max: self.connections_max,
            drop_after_count: self.drop_after,
            close_before_reply_count: self.close_before_reply,
            on_receipt: None,
        })?;
        tool::print_json(&serde_json::json!({ "address": sink.address() }))?;
        super::block_on(wait(&sink, self.expect, self.control))??;
        let counts = sink.counts();
        eprintln!(
            "{} messages received, {} twice, {} damaged",
            counts.received, counts.duplicated, counts.damaged
        );
        tool::write_json(self.output.as_deref(), &with_cpu(sink.stop()))?;
        Ok(counts.damaged == 0)
    }
}

async fn wait(sink: &Sink, expect: Option<u64>, control: bool) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (questions, mut asked) = mpsc::channel(1);
    // Without --control it is held here unused, so that the channel does not end.
    let _held = if control { None } else { Some(questions.clone()) };
    if control {
        // Standard input has no readiness to wait for: a thread reads it, and ends with the process.
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                if questions.blocking_send(line).is_err() {
                    break;
                }
            }
        });
    }
    let reached = async {
        match expect {
            Some(count) => while !sink.arrived(count, Duration::from_secs(3600)).await {},
            None => std::future::pending().await,
        }
    };
    tokio::pin!(reached);
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            () = &mut reached => return Ok(()),
            question = asked.recv() => match question.as_deref() {
                None => return Ok(()),
                Some("count") => tool::print_json(&sink.counts())?,
                Some("report") => tool::print_json(&with_cpu(sink.take_report()))?,
                Some(other) => eprintln!("sternpost-load: {other:?} is neither `count` nor `report`"),
            },
        }
    }
}

fn with_cpu(report: Report) -> Report {
    Report { cpu_us: process::own_cpu_us(), ..report }
}
