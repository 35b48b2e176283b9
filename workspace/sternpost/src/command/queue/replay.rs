//! `sternpost queue replay`: a recording of QMGR, which may be several files, into fresh schedulers. No switch is asked, and
//! nothing is written.

use super::meter::Meter;
use super::when;
use crate::command::{CommandError, CommandResult, exit_code};
use crate::output;
use crate::place;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use sternpost_scheduler::journal::{Decoder, Difference, JournalError, Mismatch, Replay, Summary};

/// What is read at once.
const PIECE_OCTETS: usize = 1 << 20;
/// Octets that a progress is counted in.
const MEBIOCTET: u64 = 1 << 20;

/// What came out.
#[derive(Debug)]
struct Found {
    summary: Summary,
    mismatch: Option<Mismatch>,
    damage: Option<JournalError>,
    /// Files looked at.
    files_count: usize,
    /// The last of them.
    last_file: PathBuf,
    /// Octets up to the last entry that was replayed, of all files; the place in `damage` is within `last_file`.
    octets: u64,
    /// Octets behind the last whole entry, of all files.
    torn_octets: u64,
    took: Duration,
}

/// Replays a recording and says what came out.
pub(super) fn replay(path: &Path, json: bool) -> CommandResult {
    let mut paths: Vec<PathBuf> = sternpost_qmgr::recorded_files(path)
        .map_err(|source| CommandError::Read { path: path.to_owned(), source })?
        .into_iter()
        .map(|(_, file)| file)
        .filter(|file| file.is_file())
        .collect();
    if paths.is_empty() {
        paths.push(path.to_owned());
    }
    let (mut files, mut length) = (Vec::new(), 0);
    for path in paths {
        let failed = |source| CommandError::Read { path: path.clone(), source };
        let file = place::open_regular(&path).map_err(failed)?;
        length += file.metadata().map_err(failed)?.len();
        files.push((path, file));
    }
    let mut meter = Meter::new("MiB replayed");
    let found = look(files, |octets| meter.show(octets / MEBIOCTET, length / MEBIOCTET))?;
    meter.clear();
    // Of what has no header there is nothing to tell.
    if let (0, Some(source)) = (found.octets, &found.damage) {
        return Err(CommandError::Recording { path: found.last_file, source: source.clone() });
    }
    let is_good = found.mismatch.is_none() && found.damage.is_none() && found.summary.events > 0;
    let value = value(&found);
    output::print(&if json { output::json(&value) } else { text(path, &found, value) });
    Ok(exit_code(is_good))
}

/// Reads to the end, or to what differs or is damaged.
fn look(files: Vec<(PathBuf, File)>, mut show: impl FnMut(u64)) -> Result<Found, CommandError> {
    let begin = Instant::now();
    let mut found = Found {
        summary: Summary::default(),
        mismatch: None,
        damage: None,
        files_count: 0,
        last_file: PathBuf::new(),
        octets: 0,
        torn_octets: 0,
        took: Duration::ZERO,
    };
    let mut replay = Replay::default();
    for (path, file) in files {
        found.files_count += 1;
        found.last_file.clone_from(&path);
        look_at(file, &mut replay, &mut found, &mut show)
            .map_err(|source| CommandError::Read { path, source })?;
        if found.mismatch.is_some() || found.damage.is_some() {
            break;
        }
    }
    if found.files_count == 1 && found.octets == 0 && found.torn_octets > 0 {
        // Not even a header.
        found.damage = found.damage.or(Some(JournalError::Header));
        found.torn_octets = 0;
    }
    found.summary = replay.end();
    found.took = begin.elapsed();
    Ok(found)
}

/// The same of one file.
fn look_at(
    mut journal: impl Read,
    replay: &mut Replay,
    found: &mut Found,
    show: &mut impl FnMut(u64),
) -> io::Result<()> {
    let mut decoder = Decoder::default();
    let mut piece = vec![0; PIECE_OCTETS];
    let before = found.octets;
    'pieces: loop {
        let count = match journal.read(&mut piece) {
            Ok(0) => {
                found.torn_octets += decoder.torn_octets();
                break;
            }
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        decoder.feed(&piece[..count]);
        loop {
            match decoder.next_entry() {
                Ok(Some(entry)) => {
                    if let Err(mismatch) = replay.take(entry) {
                        found.mismatch = Some(mismatch);
                        break 'pieces;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    found.damage = Some(error);
                    break 'pieces;
                }
            }
        }
        show(before + decoder.place().octets);
    }
    found.octets = before + decoder.place().octets;
    Ok(())
}

fn value(found: &Found) -> Value {
    let summary = &found.summary;
    let of_channel = |(channel, precedence): &(String, std::cmp::Reverse<sternpost_message::Precedence>)| {
        (channel.clone(), precedence.0.name())
    };
    let assignments = summary.assignments.iter().map(|(key, count)| {
        let (channel, precedence) = of_channel(key);
        json!({ "channel": channel, "precedence": precedence, "count": count })
    });
    let starts = summary.starts.iter().map(|(key, started)| {
        let (channel, precedence) = of_channel(key);
        json!({
            "channel": channel,
            "for_precedence": precedence,
            "count": started.count,
            "for_waiting_max": started.waiting_max,
        })
    });
    let stops = summary.stops.iter();
    let stops = stops.map(|(reason, count)| json!({ "reason": reason.to_string(), "count": count }));
    let is_whole = found.mismatch.is_none() && found.damage.is_none();
    json!({
        "files": found.files_count,
        "stopped_in": (!is_whole).then(|| found.last_file.display().to_string()),
        "octets": found.octets,
        "torn_octets": found.torn_octets,
        "builds": summary.builds,
        "began_at": summary.began_at.map(when),
        "schedulers": summary.begins,
        "events": summary.events,
        "actions": summary.actions,
        "not_compared": summary.unanswered,
        "lived_ms": summary.lived_ms,
        "replayed_in_ms": u64::try_from(found.took.as_millis()).unwrap_or(u64::MAX),
        "is_full": summary.is_full,
        "damage": found.damage.as_ref().map(ToString::to_string),
        "difference": found.mismatch.as_ref().map(mismatch),
        "assignments": assignments.collect::<Vec<_>>(),
        "starts": starts.collect::<Vec<_>>(),
        "stops": stops.collect::<Vec<_>>(),
        "kills": summary.kills,
        "expired": summary.expired,
        "delay_reports": summary.delay_reports,
    })
}

fn mismatch(mismatch: &Mismatch) -> Value {
    let Mismatch::Different(difference) = mismatch else {
        return json!({ "why": mismatch.to_string() });
    };
    let Difference { number, now, event, recorded, replayed } = &**difference;
    let said = |actions: &[sternpost_scheduler::Action]| {
        actions.iter().map(|action| format!("{action:?}")).collect::<Vec<_>>()
    };
    json!({
        "why": mismatch.to_string(),
        "event": number,
        "at": when(*now),
        "said": format!("{event:?}"),
        "first_action": difference.first_action() + 1,
        "recorded": said(recorded),
        "replayed": said(replayed),
    })
}

fn text(path: &Path, found: &Found, value: Value) -> String {
    let Value::Object(mut fields) = value else { return String::new() };
    let tables: Vec<_> = ["assignments", "starts", "stops"]
        .into_iter()
        .map(|name| fields.remove(name).and_then(|rows| rows.as_array().cloned()).unwrap_or_default())
        .collect();
    let verdict = match (&found.damage, &found.mismatch) {
        (Some(_), _) => "DAMAGED; up to there the same decisions",
        (None, Some(Mismatch::Different(_))) => "OTHER DECISIONS than were recorded",
        (None, Some(Mismatch::Order { .. })) => "no recording that a switch has written",
        (None, None) if found.summary.events == 0 => "no event was recorded",
        (None, None) => "the same decisions",
    };
    let is_of_the_last = found.mismatch.is_some() || found.damage.is_some();
    let of = if is_of_the_last { &found.last_file } else { path };
    let mut out = format!("{}: {verdict}\n{}", of.display(), output::indented(&Value::Object(fields)));
    if found.torn_octets > 0 {
        out.push_str(
            "\ntorn_octets: the end of a file is no whole entry. So it is where QMGR was killed, or the file was copied while it grew.\n",
        );
    }
    let builds = &found.summary.builds;
    let own = env!("CARGO_PKG_VERSION");
    if found.mismatch.is_some() && builds.iter().any(|build| build != own) {
        out.push_str(&format!(
            "\nThis is build {own}: a build that decides otherwise on purpose differs from what another has recorded.\n"
        ));
    }
    let cell = |row: &Value, key: &str| row[key].as_str().map_or_else(|| row[key].to_string(), str::to_owned);
    let columns: [(&[&str], &[&str]); 3] = [
        (&["ASSIGNED", "CHANNEL", "PRECEDENCE"], &["count", "channel", "precedence"]),
        (
            &["STARTED", "CHANNEL", "FOR PRECEDENCE", "MOST WAITING"],
            &["count", "channel", "for_precedence", "for_waiting_max"],
        ),
        (&["STOPPED", "BECAUSE"], &["count", "reason"]),
    ];
    for (rows, (header, keys)) in tables.iter().zip(columns) {
        if !rows.is_empty() {
            let rows: Vec<_> =
                rows.iter().map(|row| keys.iter().map(|key| cell(row, key)).collect()).collect();
            out.push_str(&format!("\n{}", output::table(header, &rows)));
        }
    }
    out
}
