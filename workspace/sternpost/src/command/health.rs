//! `sternpost health`: is the switch good? It looks at the configuration, the queue and the listeners, and lets a probe
//! of its own pass through every kind of channel that the configuration has.
//!
//! An update of the device is kept or rolled back by this answer. So it asks for what the *switch* can do by itself: that
//! peers are down, the directory is away or the queue is full of waiting mail does not make it bad.
//! Not here: whether an operator should look at something (`status`).

pub(crate) mod lacking;
mod looks;
mod null_hop;
mod probe;

use super::{CommandError, CommandResult};
use crate::ask::{self, AskError, Which};
use crate::output;
use crate::place::{self, Owner};
use lacking::Since;
use serde_json::{Value, json};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};
use sternpost_platform::clock;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Pause between two looks while the switch is not good yet.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Which switch, how long it may take, and where the answer goes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sternpost health\n  sternpost health --wait 60 --json\n  sternpost health --wait 300 --boot\n\nExit status: 0 the switch is good, 1 it is not, 2 it cannot be told."
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    which: Which,
    /// Keep looking until the switch is good, for so long at most, and say what is missing whenever that changes
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait: u64,
    /// Write to FILE when the switch became good, for the console and for what waits for a good boot, and until then
    /// what is lacking to FILE.lacking
    #[arg(
        long,
        value_name = "FILE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "/run/sternpost-health/good"
    )]
    boot: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// How something stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Good,
    Bad,
    /// Nobody could say.
    Unknown,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    /// What, in a word or two: `configuration`, `listener inbound`.
    what: String,
    state: State,
    /// A sentence.
    says: String,
}

impl Finding {
    fn good(what: impl Into<String>, says: impl Into<String>) -> Self {
        Self { what: what.into(), state: State::Good, says: says.into() }
    }

    fn bad(what: impl Into<String>, says: impl Into<String>) -> Self {
        Self { what: what.into(), state: State::Bad, says: says.into() }
    }

    fn unknown(what: impl Into<String>, says: impl Into<String>) -> Self {
        Self { what: what.into(), state: State::Unknown, says: says.into() }
    }

    /// A process that does not answer is bad; a question that this process could not put says nothing of the switch.
    fn of_error(what: impl Into<String>, error: &AskError) -> Self {
        let says = output::chain(error);
        match error {
            AskError::Bootstrap(_) | AskError::Connect { .. } | AskError::Runtime { .. } => {
                Self::unknown(what, says)
            }
            AskError::NotRunning { .. }
            | AskError::Ended { .. }
            | AskError::NotUnderstood { .. }
            | AskError::Answer { .. }
            | AskError::Silent { .. }
            | AskError::Refused { .. } => Self::bad(what, says),
        }
    }

    fn json(&self) -> Value {
        let good = match self.state {
            State::Good => Value::Bool(true),
            State::Bad => Value::Bool(false),
            State::Unknown => Value::Null,
        };
        json!({ "what": self.what, "good": good, "says": self.says })
    }
}

/// How the whole stands: bad as soon as a part is.
fn state(findings: &[Finding]) -> State {
    let has = |state| findings.iter().any(|finding| finding.state == state);
    if has(State::Bad) {
        State::Bad
    } else if has(State::Unknown) {
        State::Unknown
    } else {
        State::Good
    }
}

/// Looks until the switch is good or the time is over, and prints what was found.
///
/// # Errors
/// When the file of `--boot` cannot be written.
pub(crate) fn run(arguments: &Arguments) -> CommandResult {
    let findings = ask::on_loop(watch(arguments))?;
    let state = state(&findings);
    if arguments.json {
        output::print_json(&as_json(&findings));
    } else {
        output::print(&text(&findings));
    }
    if let (State::Good, Some(path)) = (state, &arguments.boot) {
        tell_good(path, &findings).map_err(|source| CommandError::Write { path: path.clone(), source })?;
    }
    Ok(ExitCode::from(match state {
        State::Good => 0,
        State::Bad => 1,
        State::Unknown => 2,
    }))
}

/// The findings of the last look.
///
/// # Errors
/// When what is lacking cannot be written.
async fn watch(arguments: &Arguments) -> Result<Vec<Finding>, CommandError> {
    let deadline = Instant::now().checked_add(Duration::from_secs(arguments.wait));
    let (mut said, mut since) = (String::new(), Since::default());
    loop {
        let begin = clock::since_kernel_start();
        let findings = looks::all(&arguments.which).await;
        let is_over = deadline.is_some_and(|deadline| Instant::now() + LOOK_AGAIN > deadline);
        if let (true, Some(good)) = (state(&findings) != State::Good, &arguments.boot) {
            let path = lacking::beside(good);
            let written = write(&path, &json!(since.lacking(&findings, begin)));
            written.map_err(|source| CommandError::Write { path, source })?;
        }
        if state(&findings) == State::Good || is_over {
            return Ok(findings);
        }
        let missing = missing(&findings);
        if said != missing {
            // Where JSON is wanted, it stands alone on standard output.
            if arguments.json {
                eprintln!("waiting: {missing}");
            } else {
                output::print(&format!("waiting: {missing}"));
            }
            said = missing;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// What is not good yet, in one line.
fn missing(findings: &[Finding]) -> String {
    let missing = findings.iter().filter(|finding| finding.state != State::Good);
    let parts: Vec<_> = missing.map(|finding| format!("{}: {}", finding.what, finding.says)).collect();
    output::printable(&parts.join("; "))
}

fn as_json(findings: &[Finding]) -> Value {
    let good = match state(findings) {
        State::Good => Value::Bool(true),
        State::Bad => Value::Bool(false),
        State::Unknown => Value::Null,
    };
    json!({ "good": good, "findings": findings.iter().map(Finding::json).collect::<Vec<_>>() })
}

fn text(findings: &[Finding]) -> String {
    let word = |state| match state {
        State::Good => "good",
        State::Bad => "BAD",
        State::Unknown => "?",
    };
    let row =
        |finding: &Finding| vec![finding.what.clone(), word(finding.state).to_owned(), finding.says.clone()];
    let table = output::table(&["PART", "STATE", "WHY"], &findings.iter().map(row).collect::<Vec<_>>());
    let verdict = match state(findings) {
        State::Good => "the switch is good",
        State::Bad => "the switch is not good",
        State::Unknown => "whether the switch is good cannot be told",
    };
    format!("{table}\n{verdict}\n")
}

/// Writes when the switch was found good, and that nothing is lacking any more.
fn tell_good(path: &Path, findings: &[Finding]) -> io::Result<()> {
    let now = OffsetDateTime::from(SystemTime::now());
    let value = json!({
        "at": now.format(&Rfc3339).map_err(io::Error::other)?,
        "since_kernel_start_s": clock::since_kernel_start().as_secs_f64(),
        "good": true,
        "findings": findings.iter().map(Finding::json).collect::<Vec<_>>(),
    });
    write(path, &value)?;
    match std::fs::remove_file(lacking::beside(path)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn write(path: &Path, value: &Value) -> io::Result<()> {
    place::put(path, format!("{value:#}\n").as_bytes(), Owner::PUBLIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_part_makes_the_whole_bad_and_one_unknown_part_makes_it_unknown() {
        let (good, bad, unknown) =
            (Finding::good("a", "x"), Finding::bad("b", "y"), Finding::unknown("c", "z"));
        assert_eq!(state(std::slice::from_ref(&good)), State::Good);
        assert_eq!(state(&[good.clone(), unknown.clone()]), State::Unknown);
        let all = [good, bad, unknown];
        assert_eq!(state(&all), State::Bad);
        assert_eq!(missing(&all), "b: y; c: z");
        assert_eq!(as_json(&all)["good"], false);
        assert_eq!(as_json(&all)["findings"][2], json!({ "what": "c", "good": null, "says": "z" }));
    }

    #[test]
    fn what_is_not_running_is_bad_and_what_may_not_be_asked_is_unknown() {
        let path = || PathBuf::from("/run/sternpost/store.sock");
        let source = io::Error::from(io::ErrorKind::PermissionDenied);
        assert_eq!(Finding::of_error("queue", &AskError::NotRunning { path: path() }).state, State::Bad);
        let denied = Finding::of_error("queue", &AskError::Connect { path: path(), source });
        assert_eq!(denied.state, State::Unknown);
        assert!(denied.says.contains("permission denied"), "{denied:?}");
    }

    #[test]
    fn the_word_of_a_good_boot_is_written_whole_and_replaced_and_nothing_is_lacking_any_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("good");
        for says in ["generation 1", "generation 2"] {
            std::fs::write(lacking::beside(&path), "[]").unwrap();
            tell_good(&path, &[Finding::good("configuration", says)]).unwrap();
            let read: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            assert_eq!((&read["good"], &read["findings"][0]["says"]), (&json!(true), &json!(says)));
            assert!(read["since_kernel_start_s"].as_f64().is_some_and(|seconds| seconds > 0.0), "{read}");
            assert!(OffsetDateTime::parse(read["at"].as_str().unwrap(), &Rfc3339).is_ok(), "{read}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
