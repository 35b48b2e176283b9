//! Logs: to the journal where stderr is the journal, else to stderr with time, role and process id, level, event.
//! `STERNPOST_LOG` sets what is shown (`debug`, `sternpost_qmgr=trace,info`), default `info`.
//!
//! In the journal each field of an event is a field of its own (`EVENT=`, the event's id; `CHANNEL=`, `ERROR=`, …), and
//! `SYSLOG_IDENTIFIER` is `sternpost-` and the role.

use std::io::{self, IsTerminal};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// systemd names the socket behind stdout or stderr here, if it is the journal's: device and inode.
const JOURNAL_STREAM: &str = "JOURNAL_STREAM";

/// The environment variable that sets what is shown.
const LEVEL: &str = "STERNPOST_LOG";

/// The start of each line.
struct Prefix {
    role: String,
    pid: u32,
}

impl FormatTime for Prefix {
    fn format_time(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
        SystemTime.format_time(writer)?;
        write!(writer, " {}[{}]", self.role, self.pid)
    }
}

/// Starts the log of this process. To be called once.
pub(crate) fn start(role: &str) {
    let filter = std::env::var(LEVEL).unwrap_or_else(|_| "info".to_owned());
    let (filter, error) = match EnvFilter::try_new(&filter) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error)),
    };
    match journal(role) {
        Some(Ok(journal)) => tracing_subscriber::registry().with(filter).with(journal).init(),
        not_there => {
            tracing_subscriber::fmt()
                .with_env_filter(filter)
                .with_timer(Prefix { role: role.to_owned(), pid: std::process::id() })
                .with_target(false)
                .with_ansi(io::stderr().is_terminal())
                .with_writer(io::stderr)
                .init();
            if let Some(Err(error)) = not_there {
                tracing::warn!(event = "log.no-journal", %error, "the journal does not answer; it gets text without fields");
            }
        }
    }
    if let Some(error) = error {
        tracing::warn!(%error, "{LEVEL} is not understood; info is shown");
    }
}

/// A way to the journal, if stderr leads there.
///
/// # Errors
/// Those of a journal that does not answer.
fn journal(role: &str) -> Option<io::Result<tracing_journald::Layer>> {
    let stream = std::env::var(JOURNAL_STREAM).ok()?;
    let status = rustix::fs::fstat(io::stderr()).ok()?;
    if !is_stream(&stream, status.st_dev, status.st_ino) {
        return None;
    }
    Some(
        tracing_journald::layer()
            .map(|layer| layer.with_field_prefix(None).with_syslog_identifier(format!("sternpost-{role}"))),
    )
}

/// Whether `JOURNAL_STREAM` speaks of this descriptor: a process may have been given another one since.
fn is_stream(stream: &str, device: u64, inode: u64) -> bool {
    let numbers = stream.split_once(':').map(|(device, inode)| (device.parse(), inode.parse()));
    numbers == Some((Ok(device), Ok(inode)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_is_where_device_and_inode_say_so() {
        assert!(is_stream("9:4711", 9, 4_711));
        for other in ["", "9", "9:4712", "4711:9", "x:4711", "9:4711:1"] {
            assert!(!is_stream(other, 9, 4_711), "{other}");
        }
    }
}
