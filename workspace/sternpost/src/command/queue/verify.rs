//! `sternpost queue verify`: every octet of a log that counts, read and compared. Nothing is written.

use super::meter::{Meter, per_second};
use super::{offline, when};
use crate::command::{CommandError, CommandResult, exit_code};
use crate::output;
use serde_json::{Value, json};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use sternpost_queue::{
    DamagedPart, DamagedPlace, DamagedRecord, Inspection, IsolatedFacts, RecordCounts, RecordKind,
    Verification,
};

/// The exit status for a log that cannot be read.
const UNREADABLE: u8 = 2;

/// Checks a whole log and says what it is like. What keeps it from being read is said too, and has an exit status of its own.
pub(super) fn verify(path: &Path, json: bool) -> CommandResult {
    match look(path) {
        Ok((value, is_good)) => {
            output::print(&if json { output::json(&value) } else { text(path, &value, is_good) });
            Ok(exit_code(is_good))
        }
        Err(error) => {
            eprintln!("error: {}", output::chain(&error));
            Ok(ExitCode::from(UNREADABLE))
        }
    }
}

fn look(path: &Path) -> Result<(Value, bool), CommandError> {
    let started = Instant::now();
    let mut inspection = offline::searched(path)?;
    let mut meter = Meter::new("messages compared with their SHA-256");
    let found = inspection
        .verify(&mut |progress| meter.show(progress.done, progress.total))
        .map_err(offline::failed(path))?;
    meter.clear();
    let is_good = found.damage.is_empty() && found.isolated.is_empty();
    Ok((value(&inspection, &found, started.elapsed()), is_good))
}

fn value<D: sternpost_queue::Disk>(
    inspection: &Inspection<D>,
    found: &Verification,
    elapsed: Duration,
) -> Value {
    let geometry = inspection.geometry();
    let (first, last) = found.written.unzip();
    let RecordCounts { chunks, envelopes, outcomes, moved, discarded, others } = found.records;
    json!({
        "segments": geometry.segments,
        "segment_octets": geometry.segment_octets,
        "segments_living": found.segments_living,
        "segments_free": geometry.segments.saturating_sub(found.segments_living),
        "batches": found.batches,
        "records": chunks + envelopes + outcomes + moved + discarded + others,
        "records_by_kind": {
            "content": chunks,
            "envelope": envelopes,
            "outcome": outcomes,
            "moved": moved,
            "discarded": discarded,
            "other": others,
        },
        "written_first": first.map(when),
        "written_last": last.map(when),
        "messages": inspection.report().living_messages,
        "messages_octets": inspection.messages().map(|message| message.content_octets).sum::<u64>(),
        "partials": inspection.partials().count(),
        "partials_octets": inspection.partials().map(|partial| partial.octets).sum::<u64>(),
        "torn_tail": inspection.report().torn_tail,
        "read_octets": found.read_octets,
        "elapsed_ms": u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
        "read_octets_per_s": per_second(found.read_octets, elapsed),
        "damage": found.damage.iter().map(place).collect::<Vec<_>>(),
        "isolated": found.isolated.iter().map(isolated).collect::<Vec<_>>(),
    })
}

fn place(place: &DamagedPlace) -> Value {
    json!({
        "what": place.damage.what.to_string(),
        // Where a segment stood that is not found, nothing on the disk says.
        "offset": (place.damage.what != DamagedPart::Segment).then_some(place.damage.offset),
        "octets": place.damage.octets,
        "records": place.records.iter().map(record).collect::<Vec<_>>(),
    })
}

fn record(record: &DamagedRecord) -> Value {
    json!({
        "what": words(record.kind),
        "offset": record.offset,
        "octets": record.octets,
        "message": record.message.map(|id| id.to_string()),
        "is_whole": record.is_whole,
    })
}

fn words(kind: RecordKind) -> String {
    match kind {
        RecordKind::BatchHeader => "batch header".to_owned(),
        RecordKind::Chunk(index) => format!("content chunk {index}"),
        RecordKind::Envelope => "envelope".to_owned(),
        RecordKind::Outcome => "outcome".to_owned(),
        RecordKind::Moved => "moved envelope".to_owned(),
        RecordKind::Discarded => "end of a partial message".to_owned(),
        RecordKind::Unknown => "unknown".to_owned(),
    }
}

fn isolated(isolated: &IsolatedFacts) -> Value {
    json!({
        "id": isolated.id.to_string(),
        "sequence": isolated.sequence.0,
        "why": isolated.why.to_string(),
    })
}

fn text(path: &Path, value: &Value, is_good: bool) -> String {
    let Value::Object(mut fields) = value.clone() else { return String::new() };
    let damage = fields.remove("damage").unwrap_or_default();
    let isolated = fields.remove("isolated").unwrap_or_default();
    let torn_tail = fields.get("torn_tail").and_then(Value::as_u64);
    let verdict = match (is_good, torn_tail) {
        (false, _) => "DAMAGED",
        (true, None) => "every octet that counts is as it was written",
        (true, Some(_)) => {
            "every octet that counts is as it was written, but for a last batch that is not complete"
        }
    };
    let mut out = format!("{}: {verdict}\n{}", path.display(), output::indented(&Value::Object(fields)));
    if let Some(offset) = torn_tail {
        out.push_str(&format!("\n{}\n", torn_words(offset)));
    }
    let cell = |row: &Value, key: &str| match &row[key] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let rows_of = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut rows = Vec::new();
    for place in rows_of(&damage) {
        let offset = if place["offset"].is_null() { "unknown".to_owned() } else { cell(&place, "offset") };
        rows.push(vec![offset, cell(&place, "octets"), cell(&place, "what")]);
        for record in rows_of(&place["records"]) {
            let state = if record["is_whole"] == true { "whole, lost with its batch" } else { "damaged" };
            let what = format!("  {}", cell(&record, "what"));
            let (offset, octets) = (cell(&record, "offset"), cell(&record, "octets"));
            rows.push(vec![offset, octets, what, cell(&record, "message"), state.to_owned()]);
        }
    }
    if !rows.is_empty() {
        let header = ["OFFSET", "OCTETS", "DAMAGED", "MESSAGE", "STATE"];
        out.push_str(&format!("\n{}", output::table(&header, &rows)));
    }
    let rows: Vec<_> = rows_of(&isolated).iter().map(|row| vec![cell(row, "id"), cell(row, "why")]).collect();
    if !rows.is_empty() {
        out.push_str(&format!("\n{}", output::table(&["ISOLATED", "WHY"], &rows)));
    }
    out
}

/// FORMAT.md, "Recovery".
fn torn_words(offset: u64) -> String {
    format!(
        "torn_tail: the last batch, at octet {offset}, was not complete when the power went or the store ended. Nobody was told that\n\
         what is in it was accepted; the next start drops it. Damage of the last batch that was acknowledged would look the same."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_log_is_an_error_and_stays_as_it_is() {
        let log = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(log.path(), vec![7; 100_000]).unwrap();
        let error = look(log.path()).unwrap_err();
        assert!(output::chain(&error).contains("this is no log"), "{error}");
        assert_eq!(verify(log.path(), true).unwrap(), ExitCode::from(UNREADABLE));
        assert_eq!(std::fs::read(log.path()).unwrap(), vec![7; 100_000]);
    }

    #[test]
    fn damage_is_shown_with_its_place_and_the_messages_that_it_concerns() {
        let value = json!({
            "batches": 3,
            "damage": [{
                "what": "batches", "offset": 69_632, "octets": 4_096,
                "records": [
                    {"what": "content chunk 0", "offset": 69_760, "octets": 99, "message": "0f", "is_whole": false},
                    {"what": "unknown", "offset": 69_864, "octets": 8, "message": null, "is_whole": true},
                ],
            }],
            "isolated": [{"id": "0f", "sequence": 1, "why": "its envelope is damaged"}],
        });
        let wanted = "log: DAMAGED\nbatches: 3\n\n\
            OFFSET  OCTETS  DAMAGED            MESSAGE  STATE\n\
            69632   4096    batches\n\
            69760   99        content chunk 0  0f       damaged\n\
            69864   8         unknown                   whole, lost with its batch\n\n\
            ISOLATED  WHY\n0f        its envelope is damaged\n";
        assert_eq!(text(Path::new("log"), &value, false), wanted);
    }
}
