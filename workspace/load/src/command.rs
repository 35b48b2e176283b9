//! The subcommands, one module each.

mod bench;
mod connections_bench;
mod demo;
mod dialogue;
mod peer;
mod queue_bench;
mod recovery;
mod scheduler_bench;
mod sink;
mod soak;
mod source;
mod space;
mod store_client;
mod tally;
mod tool;
mod tuning_bench;

use std::error::Error;
use sternpost_load::switch;

/// Result of a subcommand: whether all went well, or why it was not carried out.
type Outcome = Result<bool, Box<dyn Error>>;

/// Load for a mail switch: an SMTP/LMTP source and sink that count every message, and the drivers built on them.
#[derive(Debug, clap::Parser)]
#[command(name = "sternpost-load", version)]
pub(crate) enum Command {
    /// Sends test messages and prints which of them got a 250, and when.
    Source(source::SourceArguments),
    /// Receives messages and prints which came, and when.
    Sink(sink::SinkArguments),
    /// Says what a text file says, and compares what the server answers.
    Dialogue(dialogue::DialogueArguments),
    /// Compares what sources were promised with what sinks received.
    Match(tally::MatchArguments),
    /// Measures the switch: rate, CPU, latency, memory.
    Bench(bench::BenchArguments),
    /// Measures the server with thousands of open connections, in the clear and inside TLS.
    BenchConnections(connections_bench::ConnectionsArguments),
    /// Measures the store alone: durable appends and reads, against the disk below and against files.
    BenchQueue(queue_bench::QueueArguments),
    /// Measures the switch beside Postfix, with Postfix's own source and sink.
    BenchPeer(peer::PeerArguments),
    /// Measures the start of the switch on a queue of a million messages.
    BenchRecovery(recovery::RecoveryArguments),
    /// Measures QMGR's mind alone: events a second, stalls and memory, up to a million Mlists.
    BenchScheduler(scheduler_bench::SchedulerArguments),
    /// Measures what it costs to keep survivors, and what a flash waits for meanwhile.
    BenchSpace(space::SpaceArguments),
    /// Measures what the switch finds out by itself against fixed settings, and the wait of a flash behind a full queue.
    BenchTuning(tuning_bench::TuningArguments),
    /// Runs the switch at full load for an hour while some of the mail waits.
    Soak(soak::SoakArguments),
    /// Shows the switch at work while its processes are killed and its routes change.
    Demo(demo::DemoArguments),
    /// Appends to a store or reads from it: what `bench-queue` starts.
    #[command(hide = true)]
    StoreClient(store_client::ClientArguments),
}

impl Command {
    pub(crate) fn run(self) -> Outcome {
        match self {
            Self::Source(arguments) => arguments.run(),
            Self::Sink(arguments) => arguments.run(),
            Self::Dialogue(arguments) => arguments.run(),
            Self::Match(arguments) => arguments.run(),
            Self::Bench(arguments) => arguments.run(),
            Self::BenchConnections(arguments) => arguments.run(),
            Self::BenchQueue(arguments) => arguments.run(),
            Self::BenchPeer(arguments) => arguments.run(),
            Self::BenchRecovery(arguments) => arguments.run(),
            Self::BenchScheduler(arguments) => arguments.run(),
            Self::BenchSpace(arguments) => arguments.run(),
            Self::BenchTuning(arguments) => arguments.run(),
            Self::Soak(arguments) => arguments.run(),
            Self::Demo(arguments) => arguments.run(),
            Self::StoreClient(arguments) => arguments.run(),
        }
    }
}

/// A size as people write it: `4096`, `64KiB`, `1MiB`.
fn octets(text: &str) -> Result<usize, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "" | "B" => 1,
        "K" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        unit => return Err(format!("{unit:?}: a size ends in nothing, KiB or MiB")),
    };
    let number: usize = digits.parse().map_err(|error| format!("{text:?} is no size: {error}"))?;
    number.checked_mul(factor).ok_or_else(|| format!("{text:?} is too large"))
}

/// Runs a future to its end on a runtime of its own.
fn block_on<T>(future: impl Future<Output = T>) -> std::io::Result<T> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        Command::command().debug_assert();
    }

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!(octets("4096"), Ok(4096));
        assert_eq!(octets("64KiB"), Ok(65536));
        assert_eq!(octets("1MiB"), Ok(1 << 20));
        assert!(octets("4kb").is_err());
        assert!(octets("KiB").is_err());
    }
}
