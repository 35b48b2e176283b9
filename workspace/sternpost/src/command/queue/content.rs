//! Messages and their content, as the running store gives them or as a log has them: one way to read both, chunk by chunk.

use super::exported::{Missing, Remains};
use super::offline::{self, ReadOnlyDisk};
use crate::ask::{self, Asking, Which};
use crate::command::CommandError;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use sternpost_link::store::{FromStore, MessageDetail, Piece, Standing, ToStore};
use sternpost_message::{MessageId, MessageSequence, NullHop};
use sternpost_queue::{Inspection, ReadError};
use sternpost_store::translate;

/// What is said of a message that is not complete.
pub(super) const PARTIAL: &str = "it is partial: its sender has not sent all of it";

/// A message that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) id: MessageId,
    pub(super) sequence: MessageSequence,
    pub(super) is_isolated: bool,
}

/// Where messages are read from.
pub(super) enum Source {
    /// The store of a running switch.
    Running(Box<Asking>),
    /// A log on which no switch runs.
    Log(Box<LogSource>),
}

/// A log that was searched for what its damaged batches still have.
pub(super) struct LogSource {
    path: PathBuf,
    inspection: Inspection<ReadOnlyDisk>,
}

/// Why a message was not copied.
#[derive(Debug, thiserror::Error)]
pub(super) enum CopyError {
    /// It came to its end meanwhile.
    #[error("it is over meanwhile")]
    Over,
    /// A part of it cannot be read now.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// Nobody answers, or the log cannot be read.
    #[error(transparent)]
    Source(#[from] Box<CommandError>),
}

impl From<CommandError> for CopyError {
    fn from(error: CommandError) -> Self {
        Self::Source(Box::new(error))
    }
}

/// The envelope of a message.
pub(super) enum Found {
    Detail(Box<MessageDetail>),
    /// It is not there (any more).
    Absent,
    /// It lives, and its envelope cannot be read.
    Unreadable(String),
}

impl Source {
    /// The running store, or the log at `path`.
    ///
    /// # Errors
    /// When nobody answers, or the log cannot be read.
    pub(super) fn open(which: &Which, path: Option<&Path>) -> Result<Self, CommandError> {
        Ok(match path {
            None => Self::Running(Box::new(ask::store(which)?)),
            Some(path) => {
                let inspection = offline::searched(path)?;
                Self::Log(Box::new(LogSource { path: path.to_owned(), inspection }))
            }
        })
    }

    /// Where mail may have stood of which nothing can be told any more. What the running store has lost so is in its log's events.
    pub(super) fn damaged_places(&self) -> u64 {
        match self {
            Self::Running(_) => 0,
            Self::Log(log) => offline::damaged_places(log.inspection.report()),
        }
    }

    /// Where a message stands.
    ///
    /// # Errors
    /// When nobody answers.
    pub(super) async fn standing(&mut self, id: MessageId) -> Result<Standing, CommandError> {
        match self {
            Self::Running(store) => Ok(standing(store, id).await?),
            Self::Log(log) => Ok(match log.inspection.find(id) {
                Some(sequence) if log.is_isolated(sequence) => Standing::Isolated(sequence),
                Some(sequence) => Standing::Living(sequence),
                None => offline::absent(&log.inspection, id),
            }),
        }
    }

    /// The messages of which nothing is known to be lost, from `from` on, without those of probes; and where to go on.
    ///
    /// # Errors
    /// When nobody answers.
    pub(super) async fn living(
        &mut self,
        from: MessageSequence,
    ) -> Result<(Vec<Name>, Option<MessageSequence>), CommandError> {
        let name = |id, sequence| Name { id, sequence, is_isolated: false };
        match self {
            Self::Running(store) => {
                let question = ToStore::List { from, count_max: ask::PAGE_MAX };
                let (messages, next) = store
                    .store_answer(&question, |frame| match frame {
                        FromStore::Listed { messages, next } => Some((messages, next)),
                        _ => None,
                    })
                    .await?;
                let is_probe = |peer: &str| NullHop::of_peer(peer).is_some();
                let messages = messages
                    .iter()
                    .filter(|facts| !facts.mlists.iter().any(|mlist| is_probe(&mlist.peer)))
                    .map(|facts| name(facts.id, facts.sequence));
                Ok((messages.collect(), next))
            }
            Self::Log(log) => {
                let is_probe = |peer: &str| NullHop::of_peer(peer).is_some();
                let messages = log
                    .inspection
                    .messages()
                    .filter(|facts| !facts.routes.iter().any(|route| is_probe(&route.route.peer)))
                    .filter(|facts| !log.is_isolated(facts.sequence))
                    .map(|facts| name(facts.id, facts.sequence));
                Ok((messages.collect(), None))
            }
        }
    }

    /// The messages of which a part is known to be lost.
    ///
    /// # Errors
    /// When nobody answers.
    pub(super) async fn isolated(&mut self) -> Result<Vec<Name>, CommandError> {
        match self {
            Self::Running(store) => {
                let name = |id, sequence| Name { id, sequence, is_isolated: true };
                let listed = super::list::isolated(store).await?;
                Ok(listed.iter().map(|one| name(one.facts.id, one.facts.sequence)).collect())
            }
            Self::Log(log) => Ok(log.isolated()),
        }
    }

    /// A message's envelope and recipients.
    ///
    /// # Errors
    /// When nobody answers, or the disk does not read.
    pub(super) async fn detail(&mut self, name: Name) -> Result<Found, CommandError> {
        match self {
            Self::Running(store) => match store.store_detail(name.id).await {
                Ok(Some(detail)) => Ok(Found::Detail(detail)),
                Ok(None) => Ok(Found::Absent),
                Err(ask::AskError::Refused { why, .. }) => Ok(Found::Unreadable(why)),
                Err(error) => Err(error.into()),
            },
            Self::Log(log) => match log.inspection.message(name.sequence) {
                Ok(Some(detail)) => Ok(Found::Detail(Box::new(translate::detail(detail)))),
                Ok(None) => Ok(Found::Absent),
                Err(error @ ReadError::Disk(_)) => Err(offline::failed(&log.path)(error)),
                Err(error) => Ok(Found::Unreadable(error.to_string())),
            },
        }
    }

    async fn piece(
        &mut self,
        message: MessageSequence,
        chunk: u32,
        offset: u32,
    ) -> Result<Piece, CommandError> {
        match self {
            Self::Running(store) => {
                let question = ToStore::ReadPiece { message, chunk, offset };
                let piece = store.store_answer(&question, |frame| match frame {
                    FromStore::Piece(piece) => Some(piece),
                    _ => None,
                });
                Ok(piece.await?)
            }
            Self::Log(log) => Ok(translate::piece(log.inspection.read_chunk(message, chunk), offset)),
        }
    }
}

/// A message's content on its way out, part by part.
pub(super) struct Reading {
    message: MessageSequence,
    chunk: u32,
    /// Octets of the chunk that were read.
    offset: u32,
    digest: Sha256,
    octets: u64,
    missing: Vec<Missing>,
}

/// What a content consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Some of it, in order.
    Octets(Vec<u8>),
    /// A chunk that is lost.
    Lost,
}

impl Reading {
    /// From the beginning.
    pub(super) fn of(message: MessageSequence) -> Self {
        Self { message, chunk: 0, offset: 0, digest: Sha256::new(), octets: 0, missing: Vec::new() }
    }

    /// The next part, or none behind the last.
    ///
    /// # Errors
    /// `CopyError`; that a part is lost is none.
    pub(super) async fn next(&mut self, source: &mut Source) -> Result<Option<Part>, CopyError> {
        loop {
            match source.piece(self.message, self.chunk, self.offset).await? {
                Piece::Octets { octets, .. } if octets.is_empty() && self.offset == 0 => return Ok(None),
                Piece::Octets { octets, ends_chunk } => {
                    self.took(&octets, ends_chunk);
                    if !octets.is_empty() {
                        return Ok(Some(Part::Octets(octets)));
                    }
                }
                Piece::Lost { why } => {
                    self.lost(why);
                    return Ok(Some(Part::Lost));
                }
                Piece::Unreadable { why } => return Err(CopyError::Unreadable(why)),
                Piece::Dead => return Err(CopyError::Over),
            }
        }
    }

    fn took(&mut self, octets: &[u8], ends_chunk: bool) {
        self.digest.update(octets);
        self.octets += octets.len() as u64;
        self.offset += u32::try_from(octets.len()).unwrap_or(u32::MAX);
        if ends_chunk {
            (self.chunk, self.offset) = (self.chunk + 1, 0);
        }
    }

    fn lost(&mut self, why: String) {
        let chunk = self.chunk;
        (self.chunk, self.offset) = (chunk + 1, 0);
        match self.missing.last_mut() {
            Some(last) if last.first_chunk + last.chunks_count == chunk => last.chunks_count += 1,
            before => {
                // What lies behind a loss of unknown length has no place that could be told.
                let offset = before.is_none().then_some(self.octets);
                self.missing.push(Missing { first_chunk: chunk, chunks_count: 1, offset, octets: None, why });
            }
        }
    }

    /// What was read, of a content that should have so many octets.
    pub(super) fn end(mut self, content_octets: u64) -> Remains {
        if let [only] = &mut self.missing[..] {
            only.octets = content_octets.checked_sub(self.octets);
        }
        Remains { missing: self.missing, octets: self.octets, sha256: self.digest.finalize().into() }
    }
}

impl LogSource {
    fn is_isolated(&self, sequence: MessageSequence) -> bool {
        let is_stray = || self.inspection.strays().any(|stray| stray.sequence == sequence);
        self.inspection.report().damaged_messages.iter().any(|(known, _)| *known == sequence) || is_stray()
    }

    fn isolated(&self) -> Vec<Name> {
        let name = |id, sequence| Name { id, sequence, is_isolated: true };
        let damaged = self.inspection.report().damaged_messages.iter();
        let damaged = damaged.map(|(sequence, id)| name(*id, *sequence));
        damaged.chain(self.inspection.strays().map(|stray| name(stray.id, stray.sequence))).collect()
    }
}

/// Asks the store where a message stands.
///
/// # Errors
/// When it does not answer.
pub(super) async fn standing(store: &mut Asking, id: MessageId) -> Result<Standing, ask::AskError> {
    store
        .store_answer(&ToStore::Find { message: id }, |frame| match frame {
            FromStore::Found(standing) => Some(standing),
            _ => None,
        })
        .await
}

impl Remains {
    /// Whether it is the whole content.
    pub(super) fn is_whole(&self, content_octets: u64, content_sha256: &[u8; 32]) -> bool {
        self.missing.is_empty() && self.octets == content_octets && self.sha256 == *content_sha256
    }

    /// What is wrong with it, in words.
    pub(super) fn words(&self) -> String {
        let lost: u64 = self.missing.iter().map(|missing| u64::from(missing.chunks_count)).sum();
        let Some(first) = self.missing.first() else {
            return "its content does not have its SHA-256".to_owned();
        };
        let place = first.offset.map_or_else(String::new, |offset| format!(", from octet {offset} on"));
        let chunk = first.first_chunk;
        match lost {
            1 => format!("1 chunk of its content is lost, chunk {chunk}{place}"),
            lost => format!("{lost} chunks of its content are lost, the first of them chunk {chunk}{place}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading() -> Reading {
        Reading::of(MessageSequence(1))
    }

    #[test]
    fn what_is_lost_is_named_by_chunks_and_where_that_can_be_told_by_octets() {
        let mut one = reading();
        one.took(b"0123456789", true);
        one.lost("damaged".to_owned());
        one.lost("damaged".to_owned());
        one.took(b"x", true);
        let remains = one.end(31);
        let missing = |first_chunk, chunks_count, offset, octets| Missing {
            first_chunk,
            chunks_count,
            offset,
            octets,
            why: "damaged".to_owned(),
        };
        assert_eq!(remains.missing, [missing(1, 2, Some(10), Some(20))]);
        assert_eq!(
            remains.words(),
            "2 chunks of its content are lost, the first of them chunk 1, from octet 10 on"
        );
        let mut two = reading();
        two.lost("damaged".to_owned());
        assert_eq!(
            Remains { missing: two.missing.clone(), octets: 0, sha256: [0; 32] }.words(),
            "1 chunk of its content is lost, chunk 0, from octet 0 on"
        );
        two.took(b"0123456789", true);
        two.lost("damaged".to_owned());
        let remains = two.end(100);
        assert_eq!(remains.missing, [missing(0, 1, Some(0), None), missing(2, 1, None, None)]);
        assert!(!remains.is_whole(10, &remains.sha256));
    }
}
