//! Says in words where what the reader says and what the queue says are not the same.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// One line for each place, with what either side says there. Empty if both say the same.
pub(crate) fn differences(reader: &Value, queue: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    compare("", Some(reader), Some(queue), &mut lines);
    lines
}

fn compare(place: &str, reader: Option<&Value>, queue: Option<&Value>, lines: &mut Vec<String>) {
    match (reader, queue) {
        _ if reader == queue => {}
        (Some(Value::Object(reader)), Some(Value::Object(queue))) => fields(place, reader, queue, lines),
        (Some(Value::Array(reader)), Some(Value::Array(queue))) => items(place, reader, queue, lines),
        (Some(reader), Some(queue)) => {
            lines.push(format!("{place}: the reader says {reader}, the queue {queue}"));
        }
        (Some(reader), None) => lines.push(format!("{place}: the reader alone has {reader}")),
        (None, Some(queue)) => lines.push(format!("{place}: the queue alone has {queue}")),
        (None, None) => unreachable!("then they are the same"),
    }
}

fn fields(place: &str, reader: &Map<String, Value>, queue: &Map<String, Value>, lines: &mut Vec<String>) {
    let names: BTreeSet<&String> = reader.keys().chain(queue.keys()).collect();
    for name in names {
        let place = if place.is_empty() { name.clone() } else { format!("{place} / {name}") };
        compare(&place, reader.get(name), queue.get(name), lines);
    }
}

fn items(place: &str, reader: &[Value], queue: &[Value], lines: &mut Vec<String>) {
    for number in 0..reader.len().max(queue.len()) {
        compare(&format!("{place} / {number}"), reader.get(number), queue.get(number), lines);
    }
}
