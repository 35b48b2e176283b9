//! `sternpost queue import`: exported messages back into a queue, under the ids that they had.
//!
//! A message is compared with its JSON before anything of it is sent, and is there whole or not at all. One that the queue
//! knows, living or dead, is left as it is.

use super::exported::{self, Exported};
use super::meter::Meter;
use super::upload::{self, Answer, UploadError, Uploads};
use crate::ask::{self, Which};
use crate::command::{CommandError, CommandResult, exit_code};
use crate::output::{self, counted};
use crate::place;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use sternpost_link::store::{CHUNK_OCTETS_MAX, Refusal, Standing};
use sternpost_message::MessageId;
use sternpost_platform::process;

/// The JSON of a message that the queue can take: its envelope fits a frame of 64 KiB, which has room for eight thousand
/// recipients, and each of them has a diagnostic of a KiB or two. In memory a JSON has many times its octets.
const JSON_OCTETS_MAX: u64 = 16 << 20;

/// What is imported, and where to.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sternpost queue import /backup/mail\n  sternpost queue import 0f0e0d0c0b0a09080706050403020100.json\n  sternpost queue import --path /var/lib/sternpost/queue.log /backup/mail\n\nEach message keeps its id, its age and its routes; it goes to the recipients that were not yet terminal, and is attempted at\nonce, as often as a new one. A message that the queue has, or had not long ago, is left as it is and said.\n\nExit status: 0 all that was named is in the queue, or was; 1 something is not."
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    which: Which,
    /// Write into this log instead of asking the store; the switch must not run
    #[arg(long, value_name = "LOG", conflicts_with_all = ["run_directory", "bootstrap"])]
    path: Option<PathBuf>,
    /// Give each message a new id: also what this queue knows is then taken, and may arrive twice
    #[arg(long)]
    as_new: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Folders of exported messages, or single ones (ID.json, with ID.eml beside it)
    #[arg(value_name = "DIR-OR-FILE", required = true)]
    from: Vec<PathBuf>,
}

/// Why one message was not imported, and which of its files says so.
#[derive(Debug)]
struct ImportError {
    path: PathBuf,
    why: Why,
}

/// See there.
#[derive(Debug, thiserror::Error)]
enum Why {
    /// The file.
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    /// The file is not one of those that an export writes.
    #[error(
        "an exported message is ID.json, with ID.eml beside it, or a folder of such files; name one of these"
    )]
    Name,
    /// A content without its JSON.
    #[error("its JSON (ID.json) is not beside it; bring the file that was exported with it")]
    Alone,
    /// It is longer than that of any message that can be imported.
    #[error(
        "it has {}, and the JSON of a message that the queue takes has {} MiB at most; name the file that was exported",
        counted(*octets, "octet"),
        JSON_OCTETS_MAX >> 20
    )]
    Large { octets: u64 },
    /// It is no JSON.
    #[error("it is no JSON; leave the file as sternpost queue export has written it")]
    Json(#[source] serde_json::Error),
    /// One of its fields.
    #[error(transparent)]
    Field(exported::FieldError),
    /// Its content has another length.
    #[error(
        "content_octets: the content has {} and not {wanted}. Bring the file that was exported with it",
        counted(*found, "octet")
    )]
    Length { found: u64, wanted: u64 },
    /// Its content is another one.
    #[error("content_sha256: the content has another SHA-256. Bring the file that was exported with it")]
    Content,
    /// Another message of this id was taken before it.
    #[error(
        "its id is that of another message that is named too, and that was taken; --as-new takes this one under an id of its own"
    )]
    Other,
    /// It cannot be sent.
    #[error(transparent)]
    Upload(UploadError),
}

impl Why {
    fn of(self, path: &Path) -> ImportError {
        ImportError { path: path.to_owned(), why: self }
    }
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Imported,
    /// It lives in this queue.
    Living,
    /// It lived in this queue not long ago.
    Dead,
    /// No recipient needs an attempt.
    Over,
    /// The same message was named before.
    Twice,
}

impl Fate {
    const fn words(self) -> &'static str {
        match self {
            Self::Imported => "imported",
            Self::Living => "is in the queue already",
            Self::Dead => "was in this queue and is over; --as-new takes it all the same",
            Self::Over => "no recipient is left to whom it must go",
            Self::Twice => "is named twice; the first was taken",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Imported => "imported",
            Self::Living => "living",
            Self::Dead => "dead",
            Self::Over => "over",
            Self::Twice => "twice",
        }
    }
}

/// One message that is asked for: its JSON, and its place in the order of acceptance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Wanted {
    sequence: u64,
    json: PathBuf,
}

/// What is done, and what is on its way.
struct Work<'a> {
    arguments: &'a Arguments,
    uploads: Uploads,
    /// Messages that were sent and not answered, by number: file, id, and the id that they get.
    open: BTreeMap<u64, (PathBuf, MessageId, MessageId)>,
    /// Those that were sent under their own ids, with their SHA-256, and not refused.
    taken: HashMap<MessageId, [u8; 32]>,
    fates: Vec<(MessageId, Option<MessageId>, Fate)>,
    octets: u64,
    failed: Vec<(PathBuf, String)>,
    is_full: bool,
    meter: Meter,
}

/// Imports and says what was done.
///
/// # Errors
/// When nobody answers, or the log cannot be opened.
pub(super) fn run(arguments: &Arguments) -> CommandResult {
    let (wanted, failed) = gather(&arguments.from);
    let work = ask::on_loop(import(arguments, wanted, failed))?;
    for (path, why) in &work.failed {
        eprintln!("error: {}", output::printable(&format!("{}: {why}", path.display())));
    }
    output::print(&if arguments.json { output::json(&work.value()) } else { work.words() });
    Ok(exit_code(work.failed.is_empty()))
}

async fn import(
    arguments: &Arguments,
    wanted: Vec<Wanted>,
    failed: Vec<(PathBuf, String)>,
) -> Result<Work<'_>, CommandError> {
    let mut work = Work {
        arguments,
        uploads: Uploads::open(&arguments.which, arguments.path.as_deref())?,
        open: BTreeMap::new(),
        taken: HashMap::new(),
        fates: Vec::new(),
        octets: 0,
        failed,
        is_full: false,
        meter: Meter::new("messages imported"),
    };
    for (number, wanted) in (1..).zip(wanted) {
        // What comes behind a queue that is full would be refused as well.
        if work.is_full {
            work.failed.push((wanted.json, upload::words(&Refusal::Full)));
            continue;
        }
        match work.message(number, &wanted.json).await {
            Err(ImportError { why: Why::Upload(UploadError::Destination(error)), .. }) => return Err(*error),
            Err(error) => work.failed.push(said(error)),
            Ok(()) => {}
        }
        work.take_answers().await?;
        work.meter.count(work.fates.len() as u64, work.octets);
    }
    work.uploads.settle(0).await.map_err(upload::unwrapped)?;
    work.take_answers().await?;
    for (_, (path, ..)) in std::mem::take(&mut work.open) {
        work.failed.push((path, "the log has not answered; run the command again".to_owned()));
    }
    work.meter.clear();
    Ok(work)
}

/// The messages below what was named, in the order in which they were accepted; and what is none that can be imported.
fn gather(from: &[PathBuf]) -> (Vec<Wanted>, Vec<(PathBuf, String)>) {
    let (mut wanted, mut failed) = (Vec::new(), Vec::new());
    for path in from {
        let files = match files(path) {
            Ok(files) => files,
            Err(error) => {
                failed.push((path.clone(), output::chain(&error)));
                continue;
            }
        };
        for file in files {
            match json_of(&file).and_then(|json| Ok(Wanted { sequence: read(&json)?.sequence, json })) {
                Ok(message) => wanted.push(message),
                Err(error) => failed.push(said(error)),
            }
        }
    }
    wanted.sort_unstable();
    wanted.dedup();
    failed.sort_unstable();
    failed.dedup();
    (wanted, failed)
}

/// The files of messages that a name stands for: each JSON, and each content that has none beside it.
fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        if is_json(&path) || (is_content(&path) && !path.with_extension("json").exists()) {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "no exported message (ID.json) is in this folder",
        ));
    }
    Ok(files)
}

fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "json")
}

fn is_content(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "eml")
}

/// The JSON of a message of which one file is named.
fn json_of(file: &Path) -> Result<PathBuf, ImportError> {
    let json = file.with_extension("json");
    if !is_json(file) && !is_content(file) {
        return Err(Why::Name.of(file));
    }
    if is_content(file) && !json.exists() {
        return Err(Why::Alone.of(file));
    }
    Ok(json)
}

fn read(json: &Path) -> Result<Exported, ImportError> {
    let read_error = |error| Why::Read(error).of(json);
    let file = place::open_regular(json).map_err(read_error)?;
    let octets = file.metadata().map_err(read_error)?.len();
    if octets > JSON_OCTETS_MAX {
        return Err(Why::Large { octets }.of(json));
    }
    let text = place::text_of(file, JSON_OCTETS_MAX).map_err(read_error)?;
    let value: Value = serde_json::from_str(&text).map_err(|error| Why::Json(error).of(json))?;
    exported::read(&value).map_err(|error| Why::Field(error).of(json))
}

/// The file that an error names, and its words.
fn said(error: ImportError) -> (PathBuf, String) {
    (error.path, output::chain(&error.why))
}

impl Work<'_> {
    /// Sends one message, or says why it need not be sent.
    async fn message(&mut self, number: u64, json: &Path) -> Result<(), ImportError> {
        let upload_error = |error| Why::Upload(error).of(json);
        let exported = read(json)?;
        let old = exported.id;
        if exported.envelope.recipients.is_empty() {
            self.fates.push((old, None, Fate::Over));
            return Ok(());
        }
        let eml = json.with_extension("eml");
        let mut content = check(&eml, &exported)?;
        let id = if self.arguments.as_new { MessageId(process::random()) } else { old };
        if let Some(taken) = self.taken.get(&id) {
            if *taken != exported.content_sha256 {
                return Err(Why::Other.of(json));
            }
            self.fates.push((old, None, Fate::Twice));
            return Ok(());
        }
        let standing = self.uploads.standing(id).await.map_err(|error| upload_error(error.into()))?;
        let known = match standing {
            Standing::Living(_) | Standing::Isolated(_) => Some(Fate::Living),
            Standing::Dead => Some(Fate::Dead),
            // A chunk that is there stays as it is: what is left of another attempt must not become a part of this message.
            Standing::Partial => {
                self.uploads.take_back(id).await.map_err(upload_error)?;
                None
            }
            Standing::Unknown => None,
        };
        if let Some(fate) = known {
            self.fates.push((old, None, fate));
            return Ok(());
        }
        let mut upload = self.uploads.begin(id, number, upload::lane(&exported.envelope));
        let mut piece = vec![0; CHUNK_OCTETS_MAX];
        let read_error = |error| Why::Read(error).of(&eml);
        let sent = async {
            loop {
                let count = content.read(&mut piece).map_err(read_error)?;
                if count == 0 {
                    break;
                }
                self.uploads.push(&mut upload, &piece[..count]).await.map_err(upload_error)?;
                if self.uploads.is_refused(number) {
                    return Ok(());
                }
            }
            let committed =
                self.uploads.commit(upload, exported.envelope, Some(exported.content_sha256), None).await;
            committed.map_err(upload_error)
        };
        if let Err(error) = sent.await {
            self.uploads.take_back(id).await.map_err(upload_error)?;
            return Err(error);
        }
        self.octets += exported.content_octets;
        self.taken.insert(id, exported.content_sha256);
        self.open.insert(number, (json.to_owned(), old, id));
        Ok(())
    }

    /// Takes what was answered.
    async fn take_answers(&mut self) -> Result<(), CommandError> {
        loop {
            let answers = self.uploads.answers();
            if answers.is_empty() {
                return Ok(());
            }
            for answer in answers {
                self.answer(answer).await?;
            }
        }
    }

    async fn answer(&mut self, answer: Answer) -> Result<(), CommandError> {
        match answer {
            Answer::Committed(number) => {
                if let Some((_, old, id)) = self.open.remove(&number) {
                    self.fates.push((old, (id != old).then_some(id), Fate::Imported));
                }
            }
            Answer::Refused(number, refusal) => {
                // The first reason is the one that the others follow from.
                let Some((path, _, id)) = self.open.remove(&number) else { return Ok(()) };
                self.taken.remove(&id);
                self.is_full |= refusal == Refusal::Full;
                self.failed.push((path, upload::words(&refusal)));
                self.uploads.take_back(id).await.map_err(upload::unwrapped)?;
            }
        }
        Ok(())
    }

    fn value(&self) -> Value {
        let fate = |(id, new, fate): &(MessageId, Option<MessageId>, Fate)| json!({ "id": id.to_string(), "new_id": new.map(|id| id.to_string()), "result": fate.name() });
        let failed = |(path, why): &(PathBuf, String)| json!({ "file": path.to_string_lossy(), "why": why });
        json!({
            "messages": self.fates.iter().map(fate).collect::<Vec<_>>(),
            "content_octets": self.octets,
            "failed": self.failed.iter().map(failed).collect::<Vec<_>>(),
        })
    }

    fn words(&self) -> String {
        let mut out = String::new();
        for (id, new, fate) in &self.fates {
            let new = new.map_or_else(String::new, |new| format!(" as {new}"));
            out.push_str(&format!("{id}: {}{new}\n", fate.words()));
        }
        let imported = self.fates.iter().filter(|(_, _, fate)| *fate == Fate::Imported).count();
        let messages = counted(imported as u64, "message");
        out.push_str(&format!("{messages} imported, {} not\n", self.failed.len()));
        out
    }
}

/// Compares a content with what was exported, and gives it from the beginning.
fn check(eml: &Path, exported: &Exported) -> Result<File, ImportError> {
    let failed = |error| Why::Read(error).of(eml);
    let mut file = place::open_regular(eml).map_err(failed)?;
    let found = file.metadata().map_err(failed)?.len();
    let wanted = exported.content_octets;
    if found != wanted {
        return Err(Why::Length { found, wanted }.of(eml));
    }
    let mut digest = Sha256::new();
    let mut piece = vec![0; CHUNK_OCTETS_MAX];
    loop {
        match file.read(&mut piece).map_err(failed)? {
            0 => break,
            count => digest.update(&piece[..count]),
        }
    }
    let sha256: [u8; 32] = digest.finalize().into();
    if sha256 != exported.content_sha256 {
        return Err(Why::Content.of(eml));
    }
    io::Seek::rewind(&mut file).map_err(failed)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_json_that_is_longer_than_any_message_needs_is_refused_before_it_is_read_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let json = folder.path().join("0f0e0d0c0b0a09080706050403020100.json");
        let refused = |octets| {
            File::create(&json).unwrap().set_len(octets).unwrap();
            said(read(&json).unwrap_err()).1
        };
        assert!(refused(JSON_OCTETS_MAX).starts_with("it is no JSON"));
        let wanted = "it has 16777217 octets, and the JSON of a message that the queue takes has 16 MiB at most; name the \
                      file that was exported";
        assert_eq!(refused(JSON_OCTETS_MAX + 1), wanted);
    }
}
