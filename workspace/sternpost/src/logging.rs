//! Logs to stderr: time, role and process id, level, event. `STERNPOST_LOG` sets what is shown (`debug`,
//! `sternpost_qmgr=trace,info`), default `info`.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

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
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_timer(Prefix { role: role.to_owned(), pid: std::process::id() })
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    if let Some(error) = error {
        tracing::warn!(%error, "{LEVEL} is not understood; info is shown");
    }
}
