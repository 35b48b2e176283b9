//! What the console says, made of facts and of what it has said before. No I/O and no clock.

use super::super::ports;
use super::facts::Facts;
use crate::output::{self, printable};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;

/// Columns that every terminal has.
const COLUMNS: usize = 79;
/// Where the values of the status begin.
const LABEL_COLUMNS: usize = 15;
/// What a block has before each line.
const FRAME_COLUMNS: usize = 2;
/// What is missing for less than this is on its way.
const WAIT_MIN: Duration = Duration::from_secs(2);
/// As `WAIT_MIN`, while the directory is connected: its entries are on their way.
const ENTRIES_WAIT_MIN: Duration = Duration::from_secs(15);
/// Between two words about what is missing, when the words change all the time.
const WAIT_INTERVAL_MIN: Duration = Duration::from_secs(10);
/// What is not good for less than this may be on its way; a slow device takes a few seconds for each part.
const LACKING_MIN: Duration = Duration::from_secs(15);
/// A role that has ended once may have been stopped by somebody.
const ENDS_MIN: u64 = 3;
/// A directory that is away for less is restarted, or its cable changed.
const DIRECTORY_AWAY_MIN: Duration = Duration::from_secs(60);
/// Problems that are told at a look: the rest is for `sternpost status`.
const PROBLEMS_MAX: usize = 8;

/// What was said already: each milestone is said once.
#[derive(Debug, Default)]
pub(super) struct Told {
    self_test: bool,
    generation: u64,
    listeners: BTreeSet<String>,
    good: bool,
    problems: BTreeSet<String>,
    missing_since: Option<Duration>,
    waiting: Option<(String, Duration)>,
    last: Duration,
}

impl Told {
    /// The milestones that were reached since the last look, each with seconds since the kernel's start.
    pub(super) fn milestones(&mut self, facts: &Facts, now: Duration) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some((profile, age)) = &facts.self_test
            && !std::mem::replace(&mut self.self_test, true)
        {
            let words = format!("self test: {}", self_test(profile));
            lines.push(self.line(now.saturating_sub(*age), &words));
        }
        if let Some(configuration) = Configuration::of(facts)
            && configuration.generation != self.generation
        {
            self.generation = configuration.generation;
            let words =
                format!("configured: generation {} {}", configuration.generation, configuration.source);
            lines.push(self.line(now, &words));
        }
        let listeners: BTreeSet<_> = listeners(facts).collect();
        for listener in listeners.difference(&self.listeners.clone()) {
            lines.push(self.line(now, &format!("listening: {listener}")));
        }
        // One that is closed and opened again is told again. A supervisor that is away for a moment closes nothing.
        if facts.status.is_some() {
            self.listeners = listeners;
        }
        if let Some(seconds) = facts.good_at_s
            && !std::mem::replace(&mut self.good, true)
        {
            lines.push(self.line(Duration::try_from_secs_f64(seconds).unwrap_or(now), "boot is good"));
        }
        lines.extend(self.waiting(facts, now));
        for problem in problems(facts).into_iter().take(PROBLEMS_MAX) {
            if self.problems.insert(problem.clone()) {
                lines.push(self.line(now, &format!("problem: {problem}")));
            }
        }
        lines
    }

    fn waiting(&mut self, facts: &Facts, now: Duration) -> Option<String> {
        let Some(missing) = missing(facts) else {
            (self.missing_since, self.waiting) = (None, None);
            return None;
        };
        let since = *self.missing_since.get_or_insert(now);
        let is_due = match &self.waiting {
            None => missing.wait_min.is_none_or(|least| now.saturating_sub(since) >= least),
            Some((said, at)) => *said != missing.words && now.saturating_sub(*at) >= WAIT_INTERVAL_MIN,
        };
        if !is_due {
            return None;
        }
        let line = self.line(now, &format!("waiting: {}", missing.words));
        self.waiting = Some((missing.words, now));
        Some(line)
    }

    /// A line for a point in time, which is never before that of the line above.
    fn line(&mut self, at: Duration, words: &str) -> String {
        self.last = self.last.max(at);
        format!("sternpost: {:.2} s: {}", self.last.as_secs_f64(), printable(words))
    }
}

struct Configuration {
    generation: u64,
    source: String,
}

impl Configuration {
    fn of(facts: &Facts) -> Option<Self> {
        let qmgr = &facts.status.as_ref()?["qmgr"];
        let generation = qmgr["configuration"]["generation"].as_u64().filter(|number| *number > 0)?;
        let directory = qmgr["directory"].as_str().unwrap_or("unknown");
        let source = if qmgr["directory_connected"] == true {
            format!("from the directory ({directory})")
        } else {
            format!("from the last known good configuration (the directory: {directory})")
        };
        Some(Self { generation, source })
    }
}

struct Missing {
    words: String,
    /// How long it may be missing before it is worth a word; none when nobody but a person will bring it.
    wait_min: Option<Duration>,
}

/// What the switch waits for, if it waits for somebody to do something.
fn missing(facts: &Facts) -> Option<Missing> {
    if let Some(state) = &facts.device
        && state.source.is_none()
    {
        let problems = state.problems.iter().chain(&state.needs).map(String::as_str).collect::<Vec<_>>();
        return Some(Missing { words: problems.join("; "), wait_min: None });
    }
    let status = facts.status.as_ref()?;
    let qmgr = &status["qmgr"];
    if qmgr["configuration"]["generation"].as_u64() != Some(0) {
        return None;
    }
    let unusable: Vec<_> = configuration_problems(&qmgr["configuration"]["unusable"]).collect();
    let why = if unusable.is_empty() {
        qmgr["directory"].as_str().unwrap_or("no word from it").to_owned()
    } else {
        unusable.join("; ")
    };
    let node = facts.device.as_ref().and_then(|state| state.node.as_deref()).unwrap_or("this node");
    let words = format!(
        "no configuration from the directory for the node {node} yet: {why}; look at the directory and at the way there; it is asked again and again"
    );
    let is_on_its_way = qmgr["directory_connected"] == true && unusable.is_empty();
    Some(Missing { words, wait_min: Some(if is_on_its_way { ENTRIES_WAIT_MIN } else { WAIT_MIN }) })
}

/// `batches of 524,288 octets, written by dsync, at most 8 channel processes`.
fn self_test(profile: &Value) -> String {
    let values = &profile["values"];
    let number = |name: &str| values[name]["value"].as_u64().map_or_else(|| "?".to_owned(), thousands);
    format!(
        "batches of {} octets, written by {}, at most {} channel processes",
        number("batch_octets"),
        values["method"]["value"].as_str().unwrap_or("?"),
        number("channel_processes_max"),
    )
}

/// What the self test has measured, why each value is what it is, and an empty line.
pub(super) fn self_test_table(profile: &Value) -> Vec<String> {
    let rows: Vec<Vec<String>> = profile["commits"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|commit| {
            let milliseconds = |key: &str| {
                commit[key].as_f64().map_or_else(|| "?".to_owned(), |us| format!("{:.2} ms", us / 1e3))
            };
            vec![
                commit["method"].as_str().unwrap_or("?").to_owned(),
                commit["batch_octets"]
                    .as_u64()
                    .map_or_else(|| "?".to_owned(), |octets| format!("{} KiB", octets >> 10)),
                milliseconds("p10_us"),
                milliseconds("p50_us"),
                milliseconds("p99_us"),
                commit["per_s"].as_f64().map_or_else(|| "?".to_owned(), |rate| format!("{rate:.0}/s")),
            ]
        })
        .collect();
    let table = output::table(&["DURABLE WRITE", "BATCH", "P10", "P50", "P99", "RATE"], &rows);
    let mut lines: Vec<String> = table.lines().map(printable).collect();
    let names = [
        "method",
        "batch_octets",
        "channel_processes_max",
        "association_slots_max",
        "slots_per_process",
        "connections_max",
    ];
    // Of what could not be measured there is no value.
    for (name, value) in
        names.iter().map(|name| (name, &profile["values"][name])).filter(|(_, value)| !value.is_null())
    {
        let is =
            value["value"].as_str().map(str::to_owned).or_else(|| value["value"].as_u64().map(thousands));
        let reason = value["reason"].as_str().unwrap_or("it was not said why");
        let words = format!("{name} {}: {reason}", is.as_deref().unwrap_or("?"));
        lines.extend(output::wrapped(&printable(&words), COLUMNS - FRAME_COLUMNS));
    }
    lines.push(String::new());
    lines
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn listeners(facts: &Facts) -> impl Iterator<Item = String> {
    let listeners = facts.status.as_ref().and_then(|status| status["listeners"].as_array());
    listeners.into_iter().flatten().filter_map(|listener| {
        Some(format!("{} on {}", listener["name"].as_str()?, listener["address"].as_str()?))
    })
}

fn configuration_problems(problems: &Value) -> impl Iterator<Item = String> {
    problems.as_array().into_iter().flatten().map(|problem| {
        let word = |key: &str| problem[key].as_str().unwrap_or_default();
        let attribute = problem["attribute"].as_str().map(|name| format!("{name} ")).unwrap_or_default();
        format!("{}: {attribute}{}. {}", word("dn"), word("reason"), word("what_to_do"))
    })
}

/// What somebody must look at, the most urgent first.
fn problems(facts: &Facts) -> Vec<String> {
    let mut problems = facts.storage.clone();
    if let Some(state) = facts.device.as_ref().filter(|state| state.source.is_some()) {
        problems.extend(state.problems.iter().cloned());
    }
    let Some(status) = &facts.status else { return problems };
    problems.extend(failing(status));
    if let Some(state) = &facts.device {
        problems.extend(ports::missing(&state.ports, &facts.ports));
    }
    if facts.self_test.is_none() {
        let why = facts.self_test_failure.as_deref().unwrap_or("it was stopped before its end").trim();
        problems.push(format!(
            "the self test has given no values, the built-in ones hold: {why}; look at the disk, and start the device again"
        ));
    }
    if status["store"]["full"] == true {
        problems.push(format!(
            "the queue is full: new mail is refused until there is room; {}",
            most_waiting(&status["qmgr"]["scheduler"])
        ));
    }
    if status["store"]["write_errors"].as_u64().is_some_and(|count| count > 0) {
        problems.push("the disk has refused writes: replace it soon".to_owned());
    }
    if let Some(count) = status["store"]["isolated"].as_u64().filter(|count| *count > 0) {
        problems.push(format!(
            "{count} messages are damaged on the disk and kept apart: replace the disk soon, and save what is left of them on a host"
        ));
    }
    if status["store"]["damaged_places"].as_u64().is_some_and(|count| count > 0) {
        problems.push(
            "parts of the queue were lost on the disk, perhaps with mail: replace the disk soon, and look on a host what is lost"
                .to_owned(),
        );
    }
    if status["store"]["partials_full"] == true {
        problems.push(
            "mail that is not complete fills its share of the queue: large messages are refused until it is, or is given up"
                .to_owned(),
        );
    }
    for failed in status["listeners_failed"].as_array().into_iter().flatten() {
        let word = |key: &str| failed[key].as_str().unwrap_or_default();
        problems.push(format!("the listener {} cannot listen: {}", word("name"), word("why")));
    }
    let (qmgr, configuration) = (&status["qmgr"], &status["qmgr"]["configuration"]);
    let away_s = qmgr["directory_away"]["for_s"].as_u64().map(Duration::from_secs);
    if away_s.is_some_and(|away| away >= DIRECTORY_AWAY_MIN) && missing(facts).is_none() {
        problems.push(format!(
            "the directory does not answer since {} ({}): the switch runs by what it knew; mend the directory or the way to it",
            qmgr["directory_away"]["since"].as_str().unwrap_or("?"),
            qmgr["directory"].as_str().unwrap_or("no word from it"),
        ));
    }
    if let Some(reason) = configuration["held"]["reason"].as_str() {
        problems.push(format!(
            "a change of the directory is held: {reason}; undo it there; if it is meant, remove the entries one at a time, each some seconds after the other"
        ));
    }
    problems.extend(configuration_problems(&configuration["unusable"]));
    problems.extend(configuration_problems(&configuration["problems"]));
    problems.extend(not_good(facts));
    problems
}

/// The roles that end again and again, and what they have said of it.
fn failing(status: &Value) -> impl Iterator<Item = String> {
    let failing = status["roles_failing"].as_array().into_iter().flatten();
    failing.filter(|failing| failing["ends"].as_u64().is_some_and(|ends| ends >= ENDS_MIN)).map(|failing| {
        let word = |key: &str| failing[key].as_str().unwrap_or_default();
        format!("the part {} of the switch ends again and again: {}", word("role"), word("why"))
    })
}

/// The peer for which most waits. Its count is not among the words: they would change all the time.
fn most_waiting(scheduler: &Value) -> String {
    let channels = scheduler["channels"].as_array().into_iter().flatten();
    let peers = channels.flat_map(|channel| channel["peers"].as_array().into_iter().flatten());
    let waiting = |peer: &&Value| peer["waiting"].as_u64().unwrap_or(0);
    let most = peers.filter(|peer| waiting(peer) > 0).max_by_key(waiting);
    match most.and_then(|peer| peer["name"].as_str()) {
        Some(peer) => format!("most waits for the peer {peer}: look whether it can be reached"),
        None => "nothing waits for a peer, so it should end by itself".to_owned(),
    }
}

/// What keeps the health check from finding the switch good, but for what is said already.
fn not_good(facts: &Facts) -> impl Iterator<Item = String> {
    let does_not_stay = facts.status.as_ref().is_some_and(|status| failing(status).next().is_some());
    let is_expected = facts.good_at_s.is_none() && missing(facts).is_none() && !does_not_stay;
    let failed = facts.status.as_ref().and_then(|status| status["listeners_failed"].as_array());
    let is_said = move |says: &str| {
        failed
            .into_iter()
            .flatten()
            .any(|failed| failed["why"].as_str().is_some_and(|why| says.contains(why)))
    };
    let lacking = facts
        .lacking
        .iter()
        .filter(move |(lacking, age)| is_expected && *age >= LACKING_MIN && !is_said(&lacking.says));
    lacking.map(|(lacking, _)| format!("not good yet: {}: {}", lacking.what, lacking.says))
}

/// The state in one word, and why.
fn state(facts: &Facts) -> (&'static str, String) {
    let told = |word, why: &str| (word, why.to_owned());
    if let Some(missing) = missing(facts) {
        let why = if missing.wait_min.is_none() { "for a bootstrap" } else { "for its configuration" };
        return told("WAITING", why);
    }
    let Some(status) = &facts.status else {
        return if facts.good_at_s.is_some() {
            told("STOPPED", "the switch does not answer")
        } else {
            told("STARTING", "the switch does not run yet")
        };
    };
    if !status["store"]["error"].is_null() || !status["qmgr"]["error"].is_null() {
        return match failing(status).next() {
            None => told("STARTING", "store or queue manager do not answer yet"),
            Some(_) => told("STOPPED", "a part of the switch ends again and again, see below"),
        };
    }
    if listeners(facts).next().is_none() {
        return told("STARTING", "nobody listens for mail yet");
    }
    if not_good(facts).next().is_some() {
        return told("STARTING", "the health check does not pass, see below");
    }
    match (problems(facts).len(), facts.good_at_s) {
        (0, None) => told("STARTING", "the health check is under way"),
        (0, Some(_)) => told("RUNNING", "all is well"),
        (1, _) => told("RUNNING", "one problem, see below"),
        (count, _) => ("RUNNING", format!("{count} problems, the first below")),
    }
}

/// The status, a line for each thing.
pub(super) fn status(facts: &Facts) -> Vec<String> {
    let mut lines = vec![format!("Sternpost {}", env!("CARGO_PKG_VERSION"))];
    let mut line = |label: &str, value: &str| {
        // On a screen a long value goes on in the next lines, below its beginning.
        for (at, piece) in output::wrapped(&printable(value), COLUMNS - LABEL_COLUMNS).into_iter().enumerate()
        {
            let label = if at == 0 { label } else { "" };
            lines.push(format!("{label:LABEL_COLUMNS$}{piece}").trim_end().to_owned());
        }
    };
    let (word, why) = state(facts);
    line("State", &format!("{word}: {why}"));
    let device = facts.device.as_ref();
    line("Node", device.and_then(|state| state.node.as_deref()).unwrap_or("not known yet"));
    let unknown = if device.is_some() { "none" } else { "not known yet" };
    line("Serial number", facts.serial.as_deref().unwrap_or(unknown));
    if let Some(source) = device.and_then(|state| state.source.as_deref()) {
        line("Bootstrap", source);
    }
    let mut label = "Ports";
    for port in &facts.ports {
        line(label, &format!("{} {} {}", port.name, port.mac, port.link.words()));
        label = "";
    }
    if facts.ports.is_empty() {
        line(label, "none");
    }
    label = "Addresses";
    for (interface, addresses) in &facts.addresses {
        line(label, &format!("{interface} {}", addresses.join(" ")));
        label = "";
    }
    if facts.addresses.is_empty() {
        line(label, "none");
    }
    if let Some(status) = &facts.status {
        let directory = status["qmgr"]["directory"].as_str().unwrap_or("not known");
        line("Directory", directory);
        match Configuration::of(facts) {
            Some(Configuration { generation, source }) => {
                let source = source.split(" (").next().unwrap_or_default();
                line("Configuration", &format!("generation {generation} {source}"));
            }
            None => line("Configuration", "none in force"),
        }
        let listeners: Vec<_> = listeners(facts).collect();
        line(
            "Listening",
            if listeners.is_empty() { "nowhere".to_owned() } else { listeners.join(", ") }.as_str(),
        );
    }
    if let Some((profile, _)) = &facts.self_test {
        line("Self test", &self_test(profile));
    }
    if let Some(status) = &facts.status {
        let number = |part: &str, key: &str| status[part][key].as_u64().map(thousands);
        if let Some(messages) = number("store", "messages") {
            let waiting =
                status["qmgr"]["scheduler"]["waiting"].as_u64().map_or_else(|| "?".to_owned(), thousands);
            let free = number("store", "segments_free").unwrap_or_default();
            let all = number("store", "segments").unwrap_or_default();
            let value =
                format!("{messages} messages, {waiting} lists waiting, {free} of {all} segments free");
            line(QUEUE, &value);
        }
    }
    if let Some(missing) = missing(facts) {
        line("Waiting", &missing.words);
    }
    if let Some(problem) = problems(facts).first() {
        line("Problem", problem);
    }
    lines
}

/// The label of a line that changes all the time.
const QUEUE: &str = "Queue";

/// Whether somebody should see it again: the counts of the queue alone are no news.
pub(super) fn differ(new: &[String], old: &[String]) -> bool {
    let lasting = |lines: &[String]| -> Vec<String> {
        lines.iter().filter(|line| !line.starts_with(QUEUE)).cloned().collect()
    };
    lasting(new) != lasting(old)
}

/// A status block between other lines.
pub(super) fn block(lines: &[String]) -> String {
    lines.iter().map(|line| format!("| {line}\n")).collect()
}

/// What fits a screen of so many rows: the status, and the newest milestones in what is left below it. One row stays
/// free for the cursor: a line feed there would move the first row, which says the state, off the screen.
pub(super) fn fitted(mut status: Vec<String>, milestones: &[String], rows: usize) -> Vec<String> {
    let rows = rows.saturating_sub(1);
    // With an empty line between.
    let room = rows.saturating_sub(status.len() + 1).min(milestones.len());
    if room > 0 {
        status.push(String::new());
        status.extend_from_slice(&milestones[milestones.len() - room..]);
    }
    status.truncate(rows);
    status
}

/// A whole screen: from the upper left corner, each line cleared behind its end, and all below.
pub(super) fn screen(lines: &[String]) -> String {
    let mut out = String::from("\u{1b}[H");
    for line in lines {
        out.extend(line.chars().take(COLUMNS));
        out.push_str("\u{1b}[K\n");
    }
    out.push_str("\u{1b}[J");
    out
}

#[cfg(test)]
#[path = "words_tests.rs"]
mod tests;
