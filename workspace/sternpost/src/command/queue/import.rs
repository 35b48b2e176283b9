//! `sternpost queue import`: exported messages back into a queue, under the ids that they had.
//!
//! A message is compared with its JSON before anything of it is sent, and is there whole or not at all. One that the queue
//! knows, living or dead, is left as it is.

use super::exported::{self, Exported};
use super::meter::Meter;
use super::upload::{self, Answer, UploadError, Uploads};
use crate::ask::{self, Which};
use crate::command::{CommandError, CommandResult, exit_code};
use crate::{output, place};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use sternpost_link::store::{CHUNK_OCTETS_MAX, Refusal, Standing};
use sternpost_message::MessageId;
use sternpost_platform::process;

/// An envelope of a hundred thousand recipients, each with a diagnostic.
const JSON_OCTETS_MAX: u64 = 256 << 20;

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

/// Why one message was not imported.
#[derive(Debug, thiserror::Error)]
enum ImportError {
    /// The file.
    #[error("{} cannot be read", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// It is no JSON.
    #[error("{} is no JSON; leave the file as sternpost queue export has written it", path.display())]
    Json { path: PathBuf, source: serde_json::Error },
    /// One of its fields.
    #[error("{}", path.display())]
    Field { path: PathBuf, source: exported::FieldError },
    /// Its content has another length.
    #[error(
        "{}: content_octets: the content has {found} octets and not {wanted}. Bring the file that was exported with it",
        path.display()
    )]
    Length { path: PathBuf, found: u64, wanted: u64 },
    /// Its content is another one.
    #[error(
        "{}: content_sha256: the content has another SHA-256. Bring the file that was exported with it",
        path.display()
    )]
    Content { path: PathBuf },
    /// It cannot be sent.
    #[error("{}", path.display())]
    Upload { path: PathBuf, source: UploadError },
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
}

impl Fate {
    const fn words(self) -> &'static str {
        match self {
            Self::Imported => "imported",
            Self::Living => "is in the queue already",
            Self::Dead => "was in this queue and is over; --as-new takes it all the same",
            Self::Over => "no recipient is left to whom it must go",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Imported => "imported",
            Self::Living => "living",
            Self::Dead => "dead",
            Self::Over => "over",
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
            Err(ImportError::Upload { source: UploadError::Destination(error), .. }) => return Err(*error),
            Err(error) => work.fail(&wanted.json, &error),
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

/// The messages below what was named, in the order in which they were accepted; and what cannot be read.
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
        for json in files {
            match read(&json) {
                Ok(exported) => wanted.push(Wanted { sequence: exported.sequence, json }),
                Err(error) => failed.push((json, without_path(&error))),
            }
        }
    }
    wanted.sort_unstable();
    wanted.dedup();
    (wanted, failed)
}

/// The JSON files that a name stands for.
fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.with_extension("json")]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // What is left of damaged messages lies beside the others, and is none.
        if name.ends_with(".json") && !name.ends_with(".damaged.json") {
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

fn read(json: &Path) -> Result<Exported, ImportError> {
    let failed = |source| ImportError::Read { path: json.to_owned(), source };
    let text =
        place::open_regular(json).and_then(|file| place::text_of(file, JSON_OCTETS_MAX)).map_err(failed)?;
    let value: Value =
        serde_json::from_str(&text).map_err(|source| ImportError::Json { path: json.to_owned(), source })?;
    exported::read(&value).map_err(|source| ImportError::Field { path: json.to_owned(), source })
}

/// The file is named before the words.
fn without_path(error: &ImportError) -> String {
    match error {
        ImportError::Field { source, .. } => source.to_string(),
        ImportError::Upload { source, .. } => output::chain(source),
        error => output::chain(error),
    }
}

impl Work<'_> {
    fn fail(&mut self, path: &Path, error: &ImportError) {
        self.failed.push((path.to_owned(), without_path(error)));
    }

    /// Sends one message, or says why it need not be sent.
    async fn message(&mut self, number: u64, json: &Path) -> Result<(), ImportError> {
        let upload_error = |source| ImportError::Upload { path: json.to_owned(), source };
        let exported = read(json)?;
        let old = exported.id;
        if exported.envelope.recipients.is_empty() {
            self.fates.push((old, None, Fate::Over));
            return Ok(());
        }
        let eml = json.with_extension("eml");
        let mut content = check(&eml, &exported)?;
        let id = if self.arguments.as_new { MessageId(process::random()) } else { old };
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
        let read_error = |source| ImportError::Read { path: eml.clone(), source };
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
        out.push_str(&format!("{imported} messages imported, {} not\n", self.failed.len()));
        out
    }
}

/// Compares a content with what was exported, and gives it from the beginning.
fn check(eml: &Path, exported: &Exported) -> Result<File, ImportError> {
    let failed = |source| ImportError::Read { path: eml.to_owned(), source };
    let mut file = place::open_regular(eml).map_err(failed)?;
    let found = file.metadata().map_err(failed)?.len();
    let wanted = exported.content_octets;
    if found != wanted {
        return Err(ImportError::Length { path: eml.to_owned(), found, wanted });
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
        return Err(ImportError::Content { path: eml.to_owned() });
    }
    io::Seek::rewind(&mut file).map_err(failed)?;
    Ok(file)
}
