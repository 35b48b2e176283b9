//! A source at work in a thread of its own, for tests and drivers that block.

use std::sync::Arc;
use std::thread::JoinHandle;

use crate::source::{self, Progress, Report, SourceOptions};

/// A source at work.
#[derive(Debug)]
pub struct Sending {
    /// How far it is.
    pub progress: Arc<Progress>,
    thread: JoinHandle<Report>,
}

/// Starts a source.
#[must_use]
pub fn start(options: SourceOptions) -> Sending {
    let progress = Arc::new(Progress::default());
    let theirs = Arc::clone(&progress);
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime needs a few descriptors").block_on(source::run_with(options, theirs))
    };
    Sending { progress, thread: std::thread::spawn(work) }
}

impl Sending {
    /// Whether it has done everything.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// What it did, when it has done everything.
    ///
    /// # Panics
    /// When the source did, or had no runtime.
    #[must_use]
    pub fn end(self) -> Report {
        self.thread.join().expect("a source does not panic")
    }

    /// Begins no further message, and gives what it did.
    #[must_use]
    pub fn stop(self) -> Report {
        self.progress.stop();
        self.end()
    }
}
