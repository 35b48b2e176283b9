//! Messages on their way into the queue from a command: through the running store, with the flow control of every client, or
//! into a log that no store has open.
//!
//! A message is one commit: its last set has the envelope, and until then nothing of it is anybody's mail.

use super::{content, offline};
use crate::ask::{self, Asking, Which};
use crate::command::CommandError;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::path::Path;
use sternpost_link::store::{Append, CHUNK_OCTETS_MAX, FromStore, Lane, Refusal, Standing, ToStore};
use sternpost_link::{Appender, FRAME_OCTETS_MAX, FrameError};
use sternpost_message::{Envelope, MessageId};
use sternpost_store::StoreError;
use sternpost_store::offline::OfflineLog;

/// Sets without an answer: what keeps a log that commits every few milliseconds busy, at most 4 MiB of chunks.
const SETS_OPEN_MAX: usize = 64;

/// Where messages go.
pub(super) enum Destination {
    /// The store of a running switch.
    Running(Box<Running>),
    /// A log on which no switch runs.
    Log(Box<OfflineLog>),
}

/// A set of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Set {
    /// The number that the message was given.
    message: u64,
    /// It has the envelope.
    commits: bool,
}

/// What became of a message, or of a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The message of this number is in the queue.
    Committed(u64),
    /// A set of the message was refused. Others of it may be refused too, for want of this one.
    Refused(u64, Refusal),
}

/// A link to the store with what it has not answered.
pub(super) struct Running {
    store: Asking,
    appender: Appender<Set>,
    open: usize,
    answers: Vec<Answer>,
}

/// Messages on their way, each by a number.
pub(super) struct Uploads {
    destination: Destination,
    answers: Vec<Answer>,
    sets_open: usize,
}

impl Set {
    /// As the log's ticket.
    const fn ticket(self) -> u64 {
        self.message << 1 | self.commits as u64
    }

    const fn of_ticket(ticket: u64) -> Self {
        Self { message: ticket >> 1, commits: ticket & 1 == 1 }
    }

    /// What is to be told of it.
    fn answer(self, result: Result<(), Refusal>) -> Option<Answer> {
        match result {
            Ok(()) => self.commits.then_some(Answer::Committed(self.message)),
            Err(refusal) => Some(Answer::Refused(self.message, refusal)),
        }
    }
}

/// One message on its way.
pub(super) struct Upload {
    id: MessageId,
    number: u64,
    lane: Lane,
    digest: Sha256,
    octets: u64,
    chunk: Vec<u8>,
    chunks_sent: u32,
}

/// What else commits with a message.
pub(super) type Consequence<'a> = Option<Append<'a>>;

/// Why a message cannot be sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    /// Its envelope is larger than a set may be.
    #[error("its envelope does not fit: it has too many recipients for one message")]
    TooLarge,
    /// What was read now is not what was read before.
    #[error("its content has changed while it was read")]
    Changed,
    /// Nobody answers.
    #[error(transparent)]
    Destination(#[from] Box<CommandError>),
}

impl From<FrameError> for UploadError {
    fn from(_: FrameError) -> Self {
        Self::TooLarge
    }
}

impl From<CommandError> for UploadError {
    fn from(error: CommandError) -> Self {
        Self::Destination(Box::new(error))
    }
}

impl Uploads {
    /// To the running store, or into the log at `path`.
    ///
    /// # Errors
    /// When nobody answers, or the log cannot be opened.
    pub(super) fn open(which: &Which, path: Option<&Path>) -> Result<Self, CommandError> {
        let destination = match path {
            None => Destination::Running(Box::new(Running {
                store: ask::store(which)?,
                appender: Appender::default(),
                open: 0,
                answers: Vec::new(),
            })),
            Some(path) => Destination::Log(Box::new(take(path)?)),
        };
        Ok(Self { destination, answers: Vec::new(), sets_open: 0 })
    }

    /// Where a message stands, behind all that was answered.
    ///
    /// # Errors
    /// When nobody answers.
    pub(super) async fn standing(&mut self, id: MessageId) -> Result<Standing, CommandError> {
        match &mut self.destination {
            Destination::Running(running) => running.standing(id).await,
            Destination::Log(log) => Ok(log.standing(id)),
        }
    }

    /// Begins a message.
    pub(super) fn begin(&self, id: MessageId, number: u64, lane: Lane) -> Upload {
        let (digest, chunk) = (Sha256::new(), Vec::with_capacity(CHUNK_OCTETS_MAX));
        Upload { id, number, lane, digest, octets: 0, chunk, chunks_sent: 0 }
    }

    /// Sends more of a message's content.
    ///
    /// # Errors
    /// When nobody answers.
    pub(super) async fn push(&mut self, upload: &mut Upload, mut octets: &[u8]) -> Result<(), UploadError> {
        upload.digest.update(octets);
        upload.octets += octets.len() as u64;
        while !octets.is_empty() {
            if upload.chunk.len() == CHUNK_OCTETS_MAX {
                self.send_chunk(upload).await?;
            }
            let (now, later) = octets.split_at(octets.len().min(CHUNK_OCTETS_MAX - upload.chunk.len()));
            upload.chunk.extend_from_slice(now);
            octets = later;
        }
        Ok(())
    }

    async fn send_chunk(&mut self, upload: &mut Upload) -> Result<(), UploadError> {
        let record = Append::Content { message: upload.id, index: upload.chunks_sent, octets: &upload.chunk };
        let set = Set { message: upload.number, commits: false };
        self.append(upload.lane, vec![record], set).await?;
        upload.chunks_sent += 1;
        upload.chunk.clear();
        Ok(())
    }

    /// Commits a message, with what follows from it. Its answers come from [`Self::settle`]: one for each of its sets.
    ///
    /// # Errors
    /// `TooLarge`; `Changed` when the content is not the one that is wanted; when nobody answers.
    pub(super) async fn commit(
        &mut self,
        mut upload: Upload,
        envelope: Envelope,
        wanted_sha256: Option<[u8; 32]>,
        consequence: Consequence<'_>,
    ) -> Result<(), UploadError> {
        let content_sha256 = std::mem::take(&mut upload.digest).finalize().into();
        if wanted_sha256.is_some_and(|wanted| wanted != content_sha256) {
            return Err(UploadError::Changed);
        }
        let (message, content_octets) = (upload.id, upload.octets);
        let envelope =
            Append::Envelope { message, envelope: Box::new(envelope), content_octets, content_sha256 };
        let mut last: Vec<Append<'_>> = vec![envelope];
        last.extend(consequence);
        let octets = postcard::to_stdvec(&last).map_or(usize::MAX, |octets| octets.len());
        if octets + 64 > FRAME_OCTETS_MAX {
            return Err(UploadError::TooLarge);
        }
        // What is left of the content travels along if there is room, with the lengths between them.
        if upload.chunk.len() + octets + 128 > FRAME_OCTETS_MAX {
            self.send_chunk(&mut upload).await?;
        }
        if !upload.chunk.is_empty() {
            let index = upload.chunks_sent;
            last.insert(0, Append::Content { message, index, octets: &upload.chunk });
        }
        self.append(upload.lane, last, Set { message: upload.number, commits: true }).await
    }

    async fn append(&mut self, lane: Lane, records: Vec<Append<'_>>, set: Set) -> Result<(), UploadError> {
        self.settle(SETS_OPEN_MAX - 1).await?;
        match &mut self.destination {
            Destination::Running(running) => {
                let frame = running.appender.append_from(lane, &records, Some(PEER), set)?;
                running.store.say_encoded(frame);
                running.open += 1;
            }
            Destination::Log(log) => match log.append(lane, records, set.ticket()) {
                Ok(()) => self.sets_open += 1,
                Err(refusal) => self.answers.extend(set.answer(Err(refusal))),
            },
        }
        Ok(())
    }

    /// Waits until no more than so many sets are without an answer.
    ///
    /// # Errors
    /// When nobody answers.
    pub(super) async fn settle(&mut self, open_max: usize) -> Result<(), UploadError> {
        match &mut self.destination {
            Destination::Running(running) => {
                while running.open > open_max {
                    running.turn().await?;
                }
                self.answers.append(&mut running.answers);
            }
            Destination::Log(log) if self.sets_open > open_max => {
                let settled = log.settle();
                let failed = |error| {
                    let path = log.path().to_owned();
                    UploadError::from(CommandError::LogWrite { path, source: Box::new(error) })
                };
                let answers = settled.map_err(failed)?.into_iter();
                self.sets_open = 0;
                self.answers
                    .extend(answers.filter_map(|(ticket, result)| Set::of_ticket(ticket).answer(result)));
            }
            Destination::Log(_) => {}
        }
        Ok(())
    }

    /// The answers that have come.
    pub(super) fn answers(&mut self) -> Vec<Answer> {
        std::mem::take(&mut self.answers)
    }

    /// Whether a set of the message was refused: the rest need not be sent.
    pub(super) fn is_refused(&self, number: u64) -> bool {
        self.answers.iter().any(|answer| matches!(answer, Answer::Refused(refused, _) if *refused == number))
    }

    /// Takes back what has come of a message that was not committed.
    ///
    /// # Errors
    /// When nobody answers.
    pub(super) async fn take_back(&mut self, id: MessageId) -> Result<(), UploadError> {
        self.settle(0).await?;
        match &mut self.destination {
            Destination::Running(running) => {
                if running.standing(id).await? == Standing::Partial {
                    // Refused, it is swept with time.
                    let _ = running.discard(id, "it was not imported as a whole").await?;
                }
            }
            Destination::Log(log) => {
                let record = Append::DiscardPartial { message: id };
                let set = Set { message: NOBODY, commits: false };
                if log.standing(id) == Standing::Partial
                    && log.append(Lane::Outcome, vec![record], set.ticket()).is_ok()
                {
                    self.sets_open += 1;
                    self.settle(0).await?;
                }
            }
        }
        Ok(())
    }

    /// Discards an isolated or partial message of the running store.
    ///
    /// # Errors
    /// When nobody answers.
    pub(super) async fn discard(
        &mut self,
        id: MessageId,
        why: &str,
    ) -> Result<Result<(), Refusal>, UploadError> {
        match &mut self.destination {
            Destination::Running(running) => running.discard(id, why).await,
            Destination::Log(_) => Ok(Err(Refusal::Invalid("no store runs on it".to_owned()))),
        }
    }
}

/// Takes the log at `path`, to write into it. What is no log's place is named as for reading.
fn take(path: &Path) -> Result<OfflineLog, CommandError> {
    let failed = |source| CommandError::LogWrite { path: path.to_owned(), source };
    offline::open_place(path, File::options().read(true).write(true))
        .map_err(|error| failed(error.into()))?;
    OfflineLog::take(path).map_err(|error| {
        failed(match error {
            // It names the path too.
            StoreError::Recover { source, .. } => source.into(),
            StoreError::Device(error) => error.into(),
            error => error.into(),
        })
    })
}

/// No message has this number.
const NOBODY: u64 = u64::MAX >> 1;
/// How a message that a command brings is shown while it is partial.
const PEER: &str = "sternpost queue";

impl Running {
    /// Takes what the store says next.
    async fn turn(&mut self) -> Result<Option<Standing>, CommandError> {
        let (appender, answers, open) = (&mut self.appender, &mut self.answers, &mut self.open);
        let mut found = None;
        self.store
            .store_says(|frame| match frame {
                FromStore::Committed { lane, number } => appender.committed(lane, number, |set: Set| {
                    answers.extend(set.answer(Ok(())));
                    *open -= 1;
                }),
                FromStore::Refused { lane, number, refusal } => {
                    if let Some(set) = appender.refused(lane, number) {
                        answers.extend(set.answer(Err(refusal)));
                        *open -= 1;
                    }
                }
                FromStore::Found(standing) => found = Some(standing),
                _ => {}
            })
            .await?;
        Ok(found)
    }

    async fn standing(&mut self, id: MessageId) -> Result<Standing, CommandError> {
        if self.open == 0 {
            return Ok(content::standing(&mut self.store, id).await?);
        }
        self.store.say(&ToStore::Find { message: id })?;
        loop {
            if let Some(standing) = self.turn().await? {
                return Ok(standing);
            }
        }
    }

    async fn discard(&mut self, id: MessageId, why: &str) -> Result<Result<(), Refusal>, UploadError> {
        let frame = self.appender.discard(id, why, Set { message: NOBODY, commits: true })?;
        self.store.say_encoded(frame);
        self.open += 1;
        loop {
            self.turn().await?;
            let is_of_it =
                |answer: &Answer| matches!(answer, Answer::Committed(NOBODY) | Answer::Refused(NOBODY, _));
            if let Some(at) = self.answers.iter().position(is_of_it) {
                return Ok(match self.answers.swap_remove(at) {
                    Answer::Committed(_) => Ok(()),
                    Answer::Refused(_, refusal) => Err(refusal),
                });
            }
        }
    }
}

impl std::fmt::Debug for Upload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upload").field("id", &self.id).field("octets", &self.octets).finish_non_exhaustive()
    }
}

/// A refusal in words, with what to do.
pub(super) fn words(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Full => {
            "the queue has no room for it; run the command again when it has: what is there already is recognised".to_owned()
        }
        Refusal::Device => "the queue's device did not take it; look at the events of the store".to_owned(),
        Refusal::Discarded => "an operator has discarded it meanwhile".to_owned(),
        Refusal::Expired => "it came too slowly, and what had come of it was thrown away".to_owned(),
        Refusal::Invalid(why) => why.clone(),
    }
}

/// The lane of a message.
pub(super) const fn lane(envelope: &Envelope) -> Lane {
    Lane::of(envelope.precedence)
}

/// The error of whoever sends nothing, or cannot go on without.
pub(super) fn unwrapped(error: UploadError) -> CommandError {
    match error {
        UploadError::Destination(error) => *error,
        error @ (UploadError::TooLarge | UploadError::Changed) => CommandError::Upload(error),
    }
}
