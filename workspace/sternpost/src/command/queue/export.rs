//! `sternpost queue export`: messages as files, content octet for octet and envelope as JSON, for `import` and for people.
//!
//! Each file is written beside its place, synced and renamed, the JSON last: a message whose JSON is there is there whole. Many
//! small messages share a sync.

use super::content::{self, CopyError, Found, Name, Part, Reading, Source};
use super::meter::Meter;
use super::{exported, offline};
use crate::ask::{self, Which};
use crate::command::{CommandError, CommandResult, exit_code};
use crate::output::{self, counted};
use crate::place::{self, Writing, Written};
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use sternpost_link::store::Standing;
use sternpost_message::{MessageId, MessageSequence};

/// What is written before it is synced and put into its places.
const UNSYNCED_MESSAGES_MAX: usize = 256;
const UNSYNCED_OCTETS_MAX: u64 = 64 << 20;

/// What is exported, and where to.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sternpost queue export --to /backup/mail\n  sternpost queue export --to . 0f0e0d0c0b0a09080706050403020100\n  sternpost queue export --path /var/lib/sternpost/queue.log --to /backup/mail --damaged\n\nA message is ID.eml, its content octet for octet, and ID.json, its envelope with the state of each recipient. The queue keeps\nwhat is exported. A damaged message is ID.damaged.eml, what can be read of it, and ID.damaged.json, which says what is lost.\n\nExit status: 0 all is exported, 1 a message is not, isolated ones were left out, or the log at --path is damaged."
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    which: Which,
    /// Read this log instead of asking the store; the switch must not run
    #[arg(long, value_name = "LOG", conflicts_with_all = ["run_directory", "bootstrap"])]
    path: Option<PathBuf>,
    /// The folder for the files; made if it is not there
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Export isolated messages too, as far as they can be read
    #[arg(long)]
    damaged: bool,
    /// Overwrite files that are there
    #[arg(long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Queue ids; without any, all messages
    #[arg(value_name = "ID")]
    ids: Vec<MessageId>,
}

/// What was done.
#[derive(Default)]
struct Done {
    exported: Vec<MessageId>,
    damaged: Vec<MessageId>,
    octets: u64,
    failed: Vec<(MessageId, String)>,
    isolated_left_out: u64,
    /// Where mail may have stood of which nothing can be told.
    damaged_places: u64,
    /// Why the rest was not tried any more.
    stopped: Option<String>,
}

/// Why one message was not exported.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    /// See there.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// It is not there.
    #[error("it is not in the queue")]
    Absent,
    /// There will be nothing to export before its sender has sent the rest.
    #[error("{}", content::PARTIAL)]
    Partial,
    /// A part of it is lost, and damaged ones are not asked for.
    #[error("{0}; --damaged exports what is left of it")]
    Damaged(String),
    /// A file is there.
    #[error("{} is there already; --force overwrites it", .0.display())]
    Exists(PathBuf),
    /// A file cannot be written.
    #[error("{} cannot be written", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// Exports and says what was done.
///
/// # Errors
/// When nobody answers, the log cannot be read, or the folder cannot be made.
pub(super) fn run(arguments: &Arguments) -> CommandResult {
    let done = ask::on_loop(export(arguments))?;
    done.warn(arguments);
    output::print(&if arguments.json { output::json(&done.value()) } else { done.words(&arguments.to) });
    Ok(exit_code(done.is_all(arguments)))
}

async fn export(arguments: &Arguments) -> Result<Done, CommandError> {
    let mut source = Source::open(&arguments.which, arguments.path.as_deref())?;
    let failed = |source| CommandError::Write { path: arguments.to.clone(), source };
    if !arguments.to.is_dir() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&arguments.to).map_err(failed)?;
    }
    let mut work = Work {
        arguments,
        done: Done { damaged_places: source.damaged_places(), ..Done::default() },
        unsynced: Vec::new(),
        unsynced_octets: 0,
        placed: Placed::default(),
        meter: Meter::new("messages exported"),
    };
    let written = work.all(&mut source).await;
    work.meter.clear();
    match written {
        Err(CommandError::Write { path, source }) => work.stop(&path, &source),
        written => written?,
    }
    Ok(work.done)
}

struct Work<'a> {
    arguments: &'a Arguments,
    done: Done,
    /// Files that are not in their places yet.
    unsynced: Vec<Written>,
    unsynced_octets: u64,
    placed: Placed,
    meter: Meter,
}

/// What is in its place.
#[derive(Clone, Copy, Default)]
struct Placed {
    exported_count: usize,
    damaged_count: usize,
    octets: u64,
}

impl Work<'_> {
    /// Exports what was asked for.
    ///
    /// # Errors
    /// As [`Self::export`].
    async fn all(&mut self, source: &mut Source) -> Result<(), CommandError> {
        if self.arguments.ids.is_empty() {
            self.living(source).await?;
            self.isolated(source).await?;
        }
        let ids: BTreeSet<_> = self.arguments.ids.iter().copied().collect();
        for id in ids {
            let why = match source.standing(id).await? {
                Standing::Living(sequence) => {
                    self.export(source, Name { id, sequence, is_isolated: false }).await?;
                    continue;
                }
                Standing::Isolated(sequence) => {
                    self.export(source, Name { id, sequence, is_isolated: true }).await?;
                    continue;
                }
                Standing::Partial => ExportError::Partial,
                Standing::Dead | Standing::Unknown => ExportError::Absent,
            };
            self.done.failed.push((id, why.to_string()));
        }
        self.finish()
    }

    async fn living(&mut self, source: &mut Source) -> Result<(), CommandError> {
        let mut from = Some(MessageSequence(0));
        while let Some(first) = from {
            let (names, next) = source.living(first).await?;
            for name in names {
                self.export(source, name).await?;
            }
            // A store that names the same place again would be asked for ever.
            from = next.filter(|next| *next > first);
        }
        Ok(())
    }

    async fn isolated(&mut self, source: &mut Source) -> Result<(), CommandError> {
        let isolated = source.isolated().await?;
        if !self.arguments.damaged {
            self.done.isolated_left_out = isolated.len() as u64;
            return Ok(());
        }
        // What was found damaged while it was exported with the living is there already.
        let known: HashSet<_> = self.done.exported.iter().chain(&self.done.damaged).copied().collect();
        for name in isolated.into_iter().filter(|name| !known.contains(&name.id)) {
            self.export(source, name).await?;
        }
        Ok(())
    }

    /// Exports one message. That it cannot be exported does not keep the others.
    ///
    /// # Errors
    /// When nobody answers any more, or nothing can be written.
    async fn export(&mut self, source: &mut Source, name: Name) -> Result<(), CommandError> {
        match self.message(source, name).await {
            Ok((is_whole, octets)) => {
                let list = if is_whole { &mut self.done.exported } else { &mut self.done.damaged };
                list.push(name.id);
                self.done.octets += octets;
                self.unsynced_octets += octets;
                if self.unsynced.len() >= 2 * UNSYNCED_MESSAGES_MAX
                    || self.unsynced_octets >= UNSYNCED_OCTETS_MAX
                {
                    self.put_all()?;
                }
            }
            // Nothing was asked for by its name, and nothing is left of it to export.
            Err(ExportError::Copy(CopyError::Over) | ExportError::Absent)
                if self.arguments.ids.is_empty() => {}
            Err(ExportError::Copy(CopyError::Source(error))) => return Err(*error),
            Err(ExportError::Write { path, source }) => return Err(CommandError::Write { path, source }),
            Err(error) => self.done.failed.push((name.id, output::chain(&error))),
        }
        let done = self.done.exported.len() + self.done.damaged.len();
        self.meter.count(done as u64, self.done.octets);
        Ok(())
    }

    /// Exports one message. Whether it is whole, and how many octets of content were written.
    async fn message(&mut self, source: &mut Source, name: Name) -> Result<(bool, u64), ExportError> {
        let is_wanted_damaged = self.arguments.damaged;
        let detail = match source.detail(name).await.map_err(CopyError::from)? {
            Found::Detail(detail) => Ok(detail),
            Found::Absent => return Err(ExportError::Absent),
            Found::Unreadable(why) if is_wanted_damaged => Err(why),
            Found::Unreadable(why) => return Err(ExportError::Damaged(why)),
        };
        let (whole, whole_json) = (self.place(name.id, "eml")?, self.place(name.id, "json")?);
        let mut content = Writing::beside(&whole).map_err(write_error(&whole))?;
        let content_octets = detail.as_ref().map_or(0, |detail| detail.content_octets);
        let mut reading = Reading::of(name.sequence);
        while let Some(part) = reading.next(source).await? {
            if let Part::Octets(octets) = part {
                content.write_all(&octets).map_err(write_error(&whole))?;
            }
        }
        let remains = reading.end(content_octets);
        let is_whole = detail
            .as_ref()
            .is_ok_and(|detail| remains.is_whole(detail.content_octets, &detail.content_sha256));
        if !is_whole && !is_wanted_damaged {
            return Err(ExportError::Damaged(remains.words()));
        }
        let value = match &detail {
            Ok(detail) => exported::write(detail, (!is_whole).then_some(&remains)),
            Err(why) => exported::write_without_envelope(name.id, name.sequence.0, why, &remains),
        };
        let (content_place, json_place) = if is_whole {
            (whole, whole_json)
        } else {
            (self.place(name.id, "damaged.eml")?, self.place(name.id, "damaged.json")?)
        };
        let mut json = Writing::beside(&json_place).map_err(write_error(&json_place))?;
        json.write_all(format!("{}\n", output::json(&value)).as_bytes()).map_err(write_error(&json_place))?;
        self.unsynced.extend([content.close_for(content_place), json.close_for(json_place)]);
        Ok((is_whole, remains.octets))
    }

    /// Puts what is complete into its place.
    fn put_all(&mut self) -> Result<(), CommandError> {
        self.unsynced_octets = 0;
        let failed = |source| CommandError::Write { path: self.arguments.to.clone(), source };
        place::put_all(std::mem::take(&mut self.unsynced)).map_err(failed)?;
        let Done { exported, damaged, octets, .. } = &self.done;
        self.placed =
            Placed { exported_count: exported.len(), damaged_count: damaged.len(), octets: *octets };
        Ok(())
    }

    /// The same, and their names survive the loss of power.
    fn finish(&mut self) -> Result<(), CommandError> {
        self.put_all()?;
        let failed = |source| CommandError::Write { path: self.arguments.to.clone(), source };
        place::sync_names(&self.arguments.to.join("any")).map_err(failed)
    }

    /// Nothing more can be written. What is complete comes into its place all the same.
    fn stop(&mut self, path: &Path, source: &io::Error) {
        // A second failure says nothing new.
        let _ = self.finish();
        let Placed { exported_count, damaged_count, octets } = self.placed;
        self.done.exported.truncate(exported_count);
        self.done.damaged.truncate(damaged_count);
        self.done.octets = octets;
        let is_full = matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        let what_to_do = if is_full { "make room" } else { "mend that" };
        self.done.stopped = Some(format!(
            "{} cannot be written: {source}; the rest is not exported: {what_to_do} and run the command again (--force overwrites \
             what is there), or export into another folder",
            path.display()
        ));
    }

    /// The place of a file that may be written.
    fn place(&self, id: MessageId, extension: &str) -> Result<PathBuf, ExportError> {
        let place = self.arguments.to.join(format!("{id}.{extension}"));
        if !self.arguments.force && fs::symlink_metadata(&place).is_ok() {
            return Err(ExportError::Exists(place));
        }
        Ok(place)
    }
}

fn write_error(path: &Path) -> impl Fn(io::Error) -> ExportError {
    move |source| ExportError::Write { path: path.to_owned(), source }
}

impl Done {
    /// Whether all that was asked for is exported. Who asks for some messages by name does not ask for what is lost.
    fn is_all(&self, arguments: &Arguments) -> bool {
        let is_lost = self.damaged_places > 0 && arguments.ids.is_empty();
        self.failed.is_empty() && self.isolated_left_out == 0 && self.stopped.is_none() && !is_lost
    }

    /// Says on standard error what is not exported.
    fn warn(&self, arguments: &Arguments) {
        for (id, why) in &self.failed {
            eprintln!("error: {id}: {}", output::printable(why));
        }
        if let Some(why) = &self.stopped {
            eprintln!("error: {}", output::printable(why));
        }
        if self.isolated_left_out > 0 {
            let (were, them) = if self.isolated_left_out == 1 { ("was", "it") } else { ("were", "them") };
            let messages = counted(self.isolated_left_out, "isolated message");
            eprintln!("warning: {messages} {were} left out; --damaged exports {them} too");
        }
        if let Some(path) = arguments.path.as_ref().filter(|_| self.damaged_places > 0) {
            eprintln!("warning: {}", offline::damage_words(path, self.damaged_places, "exported"));
        }
    }

    fn value(&self) -> Value {
        let ids = |ids: &[MessageId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
        let failed = |(id, why): &(MessageId, String)| json!({ "id": id.to_string(), "why": why });
        json!({
            "exported": ids(&self.exported),
            "damaged": ids(&self.damaged),
            "content_octets": self.octets,
            "failed": self.failed.iter().map(failed).collect::<Vec<_>>(),
            "isolated_left_out": self.isolated_left_out,
            "damaged_places": self.damaged_places,
            "stopped": self.stopped,
        })
    }

    fn words(&self, to: &Path) -> String {
        let damaged = match self.damaged.len() {
            0 => String::new(),
            count => format!(", {count} of them damaged"),
        };
        let messages = counted((self.exported.len() + self.damaged.len()) as u64, "message");
        format!("{messages} with {} exported to {}{damaged}", counted(self.octets, "octet"), to.display())
    }
}
