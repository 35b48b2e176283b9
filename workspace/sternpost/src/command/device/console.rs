//! `sternpost device console`: how the switch is, for whoever stands before the machine. A full screen on a virtual
//! terminal, lines on anything else; both in words that can be read out on the telephone.
//!
//! It asks the sockets of the run directory and reads files, each of which may be absent, and writes to its terminal. It
//! obeys nothing but Enter, which draws again. What is shown is decided in `words`, from what `facts` has gathered.

mod facts;
mod storage;
mod words;

use super::CommandResult;
use super::state::FOLDER_DEFAULT;
use facts::Facts;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};
use sternpost_platform::clock::since_kernel_start;
use words::Told;

/// Between two looks for a console of lines until the boot is good: milestones are told when they are reached.
const LOOK_AGAIN_AT_BOOT: Duration = Duration::from_millis(250);
/// Between two looks later.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Between two status blocks on a console of lines.
const BLOCK_INTERVAL_MIN: Duration = Duration::from_secs(5);
/// Rows that every terminal has.
const ROWS_LEAST: usize = 24;
/// Milestones that a screen shows below the status, at most.
const LINES_SHOWN: usize = 8;

/// Where to look, and how to show it.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The folder of the switch's sockets
    #[arg(long, value_name = "FOLDER", default_value = crate::bootstrap::RUN_DIRECTORY_DEFAULT)]
    run_directory: PathBuf,
    /// The device's run folder
    #[arg(long, value_name = "FOLDER", default_value = FOLDER_DEFAULT)]
    device_directory: PathBuf,
    /// The image's part of the bootstrap; where there is none, nothing is said of the disk
    #[arg(long, value_name = "FILE", default_value = "/etc/sternpost/device.toml")]
    device: PathBuf,
    /// What the self test has found
    #[arg(long, value_name = "FILE", default_value = "/run/sternpost-self-test/profile.json")]
    self_test: PathBuf,
    /// What the health check writes when the boot is good
    #[arg(long, value_name = "FILE", default_value = "/run/sternpost-health/good")]
    good: PathBuf,
    /// Write lines, on whatever terminal
    #[arg(long, conflicts_with = "screen")]
    lines: bool,
    /// Draw a screen, on whatever terminal [default: on a virtual terminal]
    #[arg(long)]
    screen: bool,
}

/// Shows until it is stopped.
///
/// # Errors
/// None: what cannot be read is shown as absent, and a terminal that does not take what is written may come back.
pub(crate) fn run(arguments: &Arguments) -> CommandResult {
    let enters = enters();
    let mut console = Console::new(arguments);
    loop {
        let facts = Facts::gather(arguments);
        console.show(&facts, since_kernel_start());
        let tells_boot = facts.good_at_s.is_none() && !console.is_screen;
        let pause = if tells_boot { LOOK_AGAIN_AT_BOOT } else { LOOK_AGAIN };
        match enters.recv_timeout(pause) {
            Ok(()) => console.redraw(),
            Err(RecvTimeoutError::Timeout) => {}
            // Nobody can press Enter here.
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(pause),
        }
    }
}

/// Says when Enter is pressed; what else is typed is thrown away.
fn enters() -> mpsc::Receiver<()> {
    let (sender, receiver) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        // A line of any length takes no memory.
        let mut input = std::io::stdin().lock();
        while let Ok(octets) = input.fill_buf() {
            let (count, has_enter) = (octets.len(), octets.contains(&b'\n'));
            if count == 0 {
                return;
            }
            input.consume(count);
            // One that waits already stands for this one too.
            if has_enter && matches!(sender.try_send(()), Err(mpsc::TrySendError::Disconnected(()))) {
                return;
            }
        }
    });
    receiver
}

/// Rows of the terminal; those that every terminal has, where it does not say.
fn rows() -> usize {
    let rows = rustix::termios::tcgetwinsize(std::io::stdout()).map_or(0, |size| size.ws_row);
    if rows == 0 { ROWS_LEAST } else { usize::from(rows) }
}

/// One terminal.
struct Console {
    is_screen: bool,
    told: Told,
    has_shown_table: bool,
    /// Milestones, the newest last.
    lines: Vec<String>,
    /// What is on the screen, or the last block.
    shown: Vec<String>,
    shown_at: Option<Instant>,
}

impl Console {
    fn new(arguments: &Arguments) -> Self {
        let terminal = std::fs::read_link("/proc/self/fd/1").unwrap_or_default();
        let number = terminal.to_str().and_then(|path| path.strip_prefix("/dev/tty"));
        let is_virtual = number.is_some_and(|number| number.parse::<u8>().is_ok());
        let is_screen = arguments.screen || (is_virtual && !arguments.lines);
        Self {
            is_screen,
            told: Told::default(),
            has_shown_table: false,
            lines: Vec::new(),
            shown: Vec::new(),
            shown_at: None,
        }
    }

    fn redraw(&mut self) {
        self.shown.clear();
        self.shown_at = None;
    }

    fn show(&mut self, facts: &Facts, now: Duration) {
        let lines = self.told.milestones(facts, now);
        let mut text = String::new();
        if self.is_screen {
            self.lines.extend(lines);
            let surplus = self.lines.len().saturating_sub(LINES_SHOWN);
            self.lines.drain(..surplus);
            let screen = words::fitted(words::status(facts), &self.lines, rows());
            if screen != self.shown {
                text = words::screen(&screen);
                self.shown = screen;
            }
        } else {
            for line in lines {
                text.push_str(&line);
                text.push('\n');
            }
            if let Some((profile, _)) = &facts.self_test
                && !std::mem::replace(&mut self.has_shown_table, true)
            {
                text.push_str(&words::block(&words::self_test_table(profile)));
            }
            let block = words::status(facts);
            let is_due = self.shown_at.is_none_or(|at| at.elapsed() >= BLOCK_INTERVAL_MIN);
            if is_due && words::differ(&block, &self.shown) {
                text.push_str(&words::block(&block));
                self.shown = block;
                self.shown_at = Some(Instant::now());
            }
        }
        let mut out = std::io::stdout().lock();
        // A terminal that is gone may come back; there is nobody to tell.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}
