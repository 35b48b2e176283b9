//! What was told while a test ran: a subscriber of `tracing` that keeps every event.

use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// See the module.
#[derive(Clone, Default)]
pub(crate) struct Told(Arc<Mutex<Vec<Line>>>);

/// One event.
struct Line {
    level: Level,
    /// What its field `event` says.
    name: Option<String>,
    /// Its fields with their names.
    text: String,
}

impl Told {
    /// The names of the events that have one.
    pub(crate) fn names(&self) -> Vec<String> {
        self.0.lock().unwrap().iter().filter_map(|line| line.name.clone()).collect()
    }

    /// The levels of the events of this name.
    pub(crate) fn levels_of(&self, name: &str) -> Vec<Level> {
        self.of(name, |line| line.level)
    }

    /// The events of this name, each on one line.
    pub(crate) fn lines_of(&self, name: &str) -> Vec<String> {
        self.of(name, |line| line.text.clone())
    }

    fn of<T>(&self, name: &str, take: impl Fn(&Line) -> T) -> Vec<T> {
        let told = self.0.lock().unwrap();
        told.iter().filter(|line| line.name.as_deref() == Some(name)).map(take).collect()
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "event" {
            self.name = Some(format!("{value:?}").trim_matches('"').to_owned());
        }
        write!(self.text, "{field}={value:?} ").unwrap();
    }
}

impl Subscriber for Told {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line { level: *event.metadata().level(), name: None, text: String::new() };
        event.record(&mut line);
        self.0.lock().unwrap().push(line);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
