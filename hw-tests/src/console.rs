//! The serial console of a guest: everything that it prints, line by line, with the moment at which it came.
//!
//! QEMU writes the console into a file, which stays behind when a test fails. A thread follows the file.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Wait between two looks at the file.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// One line, without escape sequences and line end.
#[derive(Clone, Debug)]
pub struct Line {
    /// What was printed.
    pub text: String,
    /// When its end was seen.
    pub at: Instant,
}

impl Line {
    /// A milestone `sternpost: SECONDS s: WORDS` as seconds since the kernel's start, and words.
    #[must_use]
    pub fn milestone(&self) -> Option<(f64, &str)> {
        let (_, rest) = self.text.split_once("sternpost: ")?;
        let (seconds, words) = rest.split_once(" s: ")?;
        Some((seconds.parse().ok()?, words))
    }
}

/// A console that is being followed.
#[derive(Debug)]
pub struct Console {
    path: PathBuf,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    lines: Mutex<Vec<Line>>,
    more: Condvar,
    stopped: AtomicBool,
}

impl Shared {
    fn lines(&self) -> MutexGuard<'_, Vec<Line>> {
        // Lines are whole after each push: a poisoned list is still a true one.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Console {
    /// Follows a file that is there.
    #[must_use]
    pub fn follow(path: &Path) -> Self {
        let file = File::open(path).expect("the console's file was made before QEMU started");
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = std::thread::spawn(move || follow(file, &theirs));
        Self { path: path.to_owned(), shared, thread: Some(thread) }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All lines so far.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        self.shared.lines().clone()
    }

    /// The first line that `is_it` likes, waiting for it until `deadline`, in pieces of time so
    /// that the caller can look after other things: `None` when there is none yet.
    #[must_use]
    pub fn find(&self, deadline: Instant, is_it: &dyn Fn(&Line) -> bool) -> Option<Line> {
        let mut lines = self.shared.lines();
        loop {
            if let Some(line) = lines.iter().find(|line| is_it(line)) {
                return Some(line.clone());
            }
            let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
            lines = self.shared.more.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The table of the self test: the lines from its heading to the empty one behind it. Empty while it is not whole.
    #[must_use]
    pub fn self_test_table(&self) -> Vec<String> {
        let lines = self.shared.lines();
        let mut framed = lines.iter().filter_map(|line| line.text.strip_prefix('|')).map(str::trim);
        let heading = framed.by_ref().find(|line| line.starts_with("DURABLE WRITE"));
        let mut table: Vec<String> = heading.into_iter().map(str::to_owned).collect();
        for line in framed {
            if line.is_empty() {
                return table;
            }
            table.push(line.to_owned());
        }
        Vec::new()
    }

    /// The last lines, for a message.
    #[must_use]
    pub fn end(&self, count: usize) -> String {
        let lines = self.shared.lines();
        let from = lines.len().saturating_sub(count);
        lines[from..].iter().map(|line| line.text.as_str()).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has nothing to say when it panics: the console is gone then.
            let _ = thread.join();
        }
    }
}

fn follow(mut file: File, shared: &Shared) {
    let mut open = Vec::new();
    let mut piece = vec![0; 64 * 1024];
    loop {
        // Read once more after the end: what QEMU wrote last is of interest too.
        let is_last = shared.stopped.load(Ordering::Relaxed);
        while let Ok(count @ 1..) = file.read(&mut piece) {
            open.extend_from_slice(&piece[..count]);
            while let Some(end) = open.iter().position(|&octet| octet == b'\n') {
                let line: Vec<u8> = open.drain(..=end).collect();
                shared.lines().push(Line { text: plain(&line), at: Instant::now() });
                shared.more.notify_all();
            }
        }
        if is_last {
            return;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// A line without carriage returns and escape sequences (ECMA-48: CSI up to its final octet, others two octets).
fn plain(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut out = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\u{1b}' if letters.next() == Some('[') => {
                for letter in letters.by_ref() {
                    if ('@'..='~').contains(&letter) {
                        break;
                    }
                }
            }
            '\u{1b}' | '\r' | '\n' => {}
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_line_comes_without_what_moves_the_cursor() {
        assert_eq!(
            plain(b"\x1b[2J\x1b[1;31msternpost: 8.42 s:\x1b[0m self test\r\n"),
            "sternpost: 8.42 s: self test"
        );
        assert_eq!(plain(b"\x1bcx\n"), "x");
    }

    #[test]
    fn a_milestone_is_seconds_and_words_whatever_stands_before() {
        let line = |text: &str| Line { text: text.to_owned(), at: Instant::now() };
        assert_eq!(line("sternpost: 12.31 s: boot is good").milestone(), Some((12.31, "boot is good")));
        assert_eq!(line("[  9.1] x: sternpost: 7.00 s: waiting: y").milestone(), Some((7.0, "waiting: y")));
        assert_eq!(line("sternpost: soon: x").milestone(), None);
    }

    #[test]
    fn a_line_is_found_when_its_end_has_come() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let console = Console::follow(file.path());
        let soon = || Instant::now() + Duration::from_millis(50);
        file.write_all(b"one\ntw").unwrap();
        let is = |word: &'static str| move |line: &Line| line.text == word;
        let patience = Instant::now() + Duration::from_secs(20);
        assert!(console.find(patience, &is("one")).is_some());
        assert!(console.find(soon(), &is("two")).is_none());
        file.write_all(b"o\n").unwrap();
        assert!(console.find(patience, &is("two")).is_some());
        assert_eq!(console.end(1), "two");
        file.write_all(
            b"| State\n| DURABLE WRITE  BATCH\n| dsync  4 KiB\nsomebody else\n| method dsync: x\n",
        )
        .unwrap();
        assert!(console.find(patience, &is("| method dsync: x")).is_some());
        assert!(console.self_test_table().is_empty(), "its end has not come");
        file.write_all(b"| \n| Sternpost\n").unwrap();
        assert!(console.find(patience, &is("| Sternpost")).is_some());
        assert_eq!(console.self_test_table(), ["DURABLE WRITE  BATCH", "dsync  4 KiB", "method dsync: x"]);
    }
}
