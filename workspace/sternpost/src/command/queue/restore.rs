//! `sternpost queue restore` and `discard`: what becomes of isolated messages, and the end of partial ones.
//!
//! An isolated message that can be read now, and whose content has its SHA-256, is handed out again. One of which a part is
//! lost for good is sent on as it is, under a new id and with a header field that says so, if the operator wants that; or it
//! is discarded.

use super::content::{self, CopyError, Found, Name, Part, Reading, Source};
use super::exported::{Missing, Remains};
use super::upload::{self, Answer, UploadError, Uploads};
use crate::ask::{self, Which};
use crate::command::{CommandError, CommandResult, exit_code};
use crate::output;
use serde_json::{Value, json};
use std::process::ExitCode;
use sternpost_link::store::{Append, FromStore, MessageDetail, Refusal, Standing, ToStore};
use sternpost_message::{Diagnostic, Envelope, MessageId, Outcome, RecipientRange};
use sternpost_platform::process;

/// Which messages are restored, and how.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sternpost queue restore 0f0e0d0c0b0a09080706050403020100\n  sternpost queue restore --as-is --yes 0f0e0d0c0b0a09080706050403020100\n\nAn isolated message that can be read again, with the SHA-256 that it had, is handed out again. With --as-is, what can be read\nof it is sent on as a new message, whose first header field says how much is lost, to the recipients that are still open; the\nisolated one ends. sternpost queue list --isolated shows which there are.\n\nA message of which an attempt is still under way may be delivered twice: when it is isolated, whoever had begun to send it goes\non.\n\nExit status: 0 all are restored, 1 one is not."
)]
pub(crate) struct Restoring {
    #[command(flatten)]
    which: Which,
    /// Send on what can be read of a message of which a part is lost
    #[arg(long)]
    as_is: bool,
    /// Do it: without, --as-is only says what is lost
    #[arg(long, requires = "as_is")]
    yes: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Queue ids
    #[arg(value_name = "ID", required = true)]
    ids: Vec<MessageId>,
}

/// Which messages are discarded, and why.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sternpost queue discard 0f0e0d0c0b0a09080706050403020100 --why \"lost with the old disk, its sender knows\"\n  sternpost queue discard 0f0e0d0c0b0a09080706050403020100 --why \"fills the queue\"\n\nEnds isolated messages, whose sender gets no report, and partial ones, whose sender gets 554 5.3.0 if it still sends. Messages\nthat are whole are not discarded. Who did it and why is an event (message.discarded) of the store.\n\nExit status: 0 all are discarded, 1 one is not."
)]
pub(crate) struct Discarding {
    #[command(flatten)]
    which: Which,
    /// The reason, for the record
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    why: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Queue ids
    #[arg(value_name = "ID", required = true)]
    ids: Vec<MessageId>,
}

fn reason(text: &str) -> Result<String, &'static str> {
    let line = Diagnostic::one_line(text.trim());
    if line.is_empty() { Err("say why, in a few words") } else { Ok(line) }
}

/// What became of one message that was named.
#[derive(Debug)]
struct Fate {
    id: MessageId,
    is_good: bool,
    words: String,
    new_id: Option<MessageId>,
}

/// Restores and says what became of each.
///
/// # Errors
/// When the store does not answer.
pub(super) fn restore(arguments: &Restoring) -> CommandResult {
    let fates = ask::on_loop(async {
        let mut source = Source::open(&arguments.which, None)?;
        let mut fates = Vec::new();
        for id in &arguments.ids {
            fates.push(restore_one(arguments, &mut source, *id).await?);
        }
        Ok::<_, CommandError>(fates)
    })?;
    Ok(tell(&fates, arguments.json))
}

/// Discards and says what became of each.
///
/// # Errors
/// When the store does not answer.
pub(super) fn discard(arguments: &Discarding) -> CommandResult {
    let fates = ask::on_loop(async {
        let mut uploads = Uploads::open(&arguments.which, None)?;
        let mut fates = Vec::new();
        for id in &arguments.ids {
            fates.push(discard_one(&mut uploads, *id, &arguments.why).await.map_err(upload::unwrapped)?);
        }
        Ok::<_, CommandError>(fates)
    })?;
    Ok(tell(&fates, arguments.json))
}

fn tell(fates: &[Fate], json: bool) -> ExitCode {
    if json {
        let value = |fate: &Fate| {
            json!({
                "id": fate.id.to_string(),
                "is_done": fate.is_good,
                "result": fate.words,
                "new_id": fate.new_id.map(|id| id.to_string()),
            })
        };
        output::print_json(&Value::Array(fates.iter().map(value).collect()));
    } else {
        for fate in fates {
            let line = format!("{}: {}", fate.id, output::printable(&fate.words));
            if fate.is_good { output::print(&line) } else { eprintln!("error: {line}") }
        }
    }
    exit_code(fates.iter().all(|fate| fate.is_good))
}

impl Fate {
    const fn good(id: MessageId, words: String) -> Self {
        Self { id, is_good: true, words, new_id: None }
    }

    const fn bad(id: MessageId, words: String) -> Self {
        Self { id, is_good: false, words, new_id: None }
    }
}

async fn restore_one(
    arguments: &Restoring,
    source: &mut Source,
    id: MessageId,
) -> Result<Fate, CommandError> {
    let sequence = match source.standing(id).await? {
        Standing::Isolated(sequence) => sequence,
        standing => return Ok(Fate::bad(id, not_isolated(standing).to_owned())),
    };
    let name = Name { id, sequence, is_isolated: true };
    let detail = match source.detail(name).await? {
        Found::Detail(detail) => detail,
        Found::Absent => return Ok(Fate::bad(id, not_isolated(Standing::Dead).to_owned())),
        Found::Unreadable(why) => {
            let words = format!(
                "its envelope cannot be read ({why}), so that it has no recipients; sternpost queue export --damaged writes \
                 what its content still has, and sternpost queue discard ends it"
            );
            return Ok(Fate::bad(id, words));
        }
    };
    let mut reading = Reading::of(sequence);
    let read = async {
        while reading.next(source).await?.is_some() {}
        Ok::<_, CopyError>(())
    };
    if let Err(error) = read.await {
        return copy_failed(id, error);
    }
    let remains = reading.end(detail.content_octets);
    if remains.is_whole(detail.content_octets, &detail.content_sha256) {
        return hand_out(source, id).await;
    }
    let (words, left) = (remains.words(), output::counted(remains.octets, "octet"));
    match (arguments.as_is, arguments.yes) {
        (false, _) => {
            Ok(Fate::bad(id, format!("{words}; --as-is sends on what is left ({left}), discard ends it")))
        }
        (true, false) => Ok(Fate::bad(id, format!("{words}; add --yes to send on what is left ({left})"))),
        (true, true) => match as_is(&arguments.which, source, &detail, &remains).await {
            Ok(fate) => Ok(fate),
            Err(AsIsError::Copy(error)) => copy_failed(id, error),
            Err(AsIsError::Upload(UploadError::Destination(error))) => Err(*error),
            Err(AsIsError::Upload(error)) => Ok(Fate::bad(id, output::chain(&error))),
        },
    }
}

const fn not_isolated(standing: Standing) -> &'static str {
    match standing {
        Standing::Living(_) => "it is not isolated; it is in the queue",
        Standing::Isolated(_) => "it is isolated",
        Standing::Partial => content::PARTIAL,
        Standing::Dead | Standing::Unknown => "it is not in the queue",
    }
}

fn copy_failed(id: MessageId, error: CopyError) -> Result<Fate, CommandError> {
    match error {
        CopyError::Source(error) => Err(*error),
        error => Ok(Fate::bad(id, error.to_string())),
    }
}

/// Tells the store that the message can be read.
async fn hand_out(source: &mut Source, id: MessageId) -> Result<Fate, CommandError> {
    let Source::Running(store) = source else { return Ok(Fate::bad(id, "no store runs on it".to_owned())) };
    let is_back = store
        .store_answer(&ToStore::Restore { message: id }, |frame| match frame {
            FromStore::Restored { is_back } => Some(is_back),
            _ => None,
        })
        .await?;
    Ok(if is_back {
        Fate::good(id, "it can be read, and is handed out again".to_owned())
    } else {
        let words = "it can be read, and the store takes it for lost until it is started again".to_owned();
        Fate::bad(id, words)
    })
}

enum AsIsError {
    Copy(CopyError),
    Upload(UploadError),
}

impl From<CopyError> for AsIsError {
    fn from(error: CopyError) -> Self {
        Self::Copy(error)
    }
}

impl From<UploadError> for AsIsError {
    fn from(error: UploadError) -> Self {
        Self::Upload(error)
    }
}

/// Sends on what is left of a message under a new id, and ends the old one in the same commit.
async fn as_is(
    which: &Which,
    source: &mut Source,
    detail: &MessageDetail,
    remains: &Remains,
) -> Result<Fate, AsIsError> {
    let mut uploads = Uploads::open(which, None).map_err(UploadError::from)?;
    let (id, envelope) = (MessageId(process::random()), open_envelope(detail));
    let mut upload = uploads.begin(id, 1, upload::lane(&envelope));
    let mut splice = Splice::default();
    let header = header(detail, remains);
    uploads.push(&mut upload, splice.octets(header.as_bytes()).1).await?;
    let mut reading = Reading::of(detail.sequence);
    let mut is_begun = false;
    while let Some(part) = reading.next(source).await? {
        match part {
            Part::Octets(octets) => {
                let (before, octets) = splice.octets(&octets);
                uploads.push(&mut upload, before).await?;
                uploads.push(&mut upload, octets).await?;
            }
            // Without its beginning there is no header, and what is left is body.
            Part::Lost if !is_begun => uploads.push(&mut upload, splice.octets(b"\r\n").1).await?,
            Part::Lost => splice.lost(),
        }
        is_begun = true;
    }
    uploads.push(&mut upload, splice.end()).await?;
    let why = format!("what is left of it was sent on as {id}");
    let outcomes = vec![(RecipientRange::EVERYBODY, Outcome::Discarded { why })];
    let end = Append::Outcome { message: detail.sequence, outcomes };
    uploads.commit(upload, envelope, None, Some(end)).await?;
    uploads.settle(0).await?;
    let refusal = uploads.answers().into_iter().find_map(|answer| match answer {
        Answer::Refused(_, refusal) => Some(refusal),
        Answer::Committed(_) => None,
    });
    Ok(match refusal {
        None => Fate {
            new_id: Some(id),
            ..Fate::good(detail.id, format!("what is left of it is sent on as {id}: {}", remains.words()))
        },
        Some(refusal) => {
            uploads.take_back(id).await?;
            Fate::bad(detail.id, upload::words(&refusal))
        }
    })
}

/// The envelope with the recipients that must still get the message.
fn open_envelope(detail: &MessageDetail) -> Envelope {
    let is_open = |at: usize| {
        let state = detail.recipients.get(at).map(|record| record.state);
        state.is_some_and(|state| !state.is_terminal() && !state.owes_success_report())
    };
    let recipients = detail.envelope.recipients.iter().enumerate();
    let recipients = recipients.filter(|(at, _)| is_open(*at)).map(|(_, recipient)| recipient.clone());
    Envelope { recipients: recipients.collect(), ..detail.envelope.clone() }
}

fn lost(count: u64, what: &str, place: &str) -> String {
    let are = if count == 1 { "is" } else { "are" };
    format!("{} {place} {are} lost;", output::counted(count, what))
}

/// Losses that are named one by one in the header.
const LOSSES_NAMED_MAX: usize = 16;

/// The header field that says what is lost. RFC 5322, 2.2: its lines are folded.
fn header(detail: &MessageDetail, remains: &Remains) -> String {
    let mut lines = vec![
        format!("X-Sternpost-Damaged: message {},", detail.id),
        format!("accepted {};", super::when(detail.envelope.accepted_at)),
    ];
    let loss = |missing: &Missing| match (missing.offset, missing.octets) {
        (Some(offset), Some(octets)) => lost(octets, "octet", &format!("from octet {offset} on")),
        (Some(offset), None) => lost(missing.chunks_count.into(), "part", &format!("from octet {offset} on")),
        _ => lost(missing.chunks_count.into(), "part", "further on"),
    };
    lines.extend(remains.missing.iter().take(LOSSES_NAMED_MAX).map(loss));
    if remains.missing.len() > LOSSES_NAMED_MAX {
        lines.push(format!("and {} more;", remains.missing.len() - LOSSES_NAMED_MAX));
    }
    if remains.missing.is_empty() {
        lines.push("its octets are not those that were accepted;".to_owned());
    }
    lines.push("sent on as it is by an operator of the switch".to_owned());
    format!("{}\r\n", lines.join("\r\n "))
}

/// Joins parts of a content between which something is lost: lines end where it was, and no CR or LF is left alone.
#[derive(Debug, Default)]
struct Splice {
    last: Option<u8>,
    is_after_loss: bool,
}

impl Splice {
    const fn lost(&mut self) {
        self.is_after_loss = true;
    }

    /// The next octets, and what must stand before them.
    fn octets<'a>(&mut self, octets: &'a [u8]) -> (&'static [u8], &'a [u8]) {
        let before = if self.is_after_loss { self.line_end() } else { &[] };
        // The CR of this LF was lost.
        let octets = octets.strip_prefix(b"\n").filter(|_| self.is_after_loss).unwrap_or(octets);
        self.is_after_loss = false;
        self.last = octets.last().or_else(|| before.last()).copied().or(self.last);
        (before, octets)
    }

    /// What must stand behind the last octets.
    fn end(&self) -> &'static [u8] {
        self.line_end()
    }

    const fn line_end(&self) -> &'static [u8] {
        match self.last {
            None | Some(b'\n') => &[],
            Some(b'\r') => b"\n",
            Some(_) => b"\r\n",
        }
    }
}

async fn discard_one(uploads: &mut Uploads, id: MessageId, why: &str) -> Result<Fate, UploadError> {
    let standing = uploads.standing(id).await?;
    let was_partial = match standing {
        Standing::Isolated(_) => false,
        Standing::Partial => true,
        standing => {
            let words = match standing {
                Standing::Living(_) => {
                    "it is whole and in the queue: only isolated and partial messages are discarded"
                }
                standing => not_isolated(standing),
            };
            return Ok(Fate::bad(id, words.to_owned()));
        }
    };
    match uploads.discard(id, why).await? {
        Err(Refusal::Full) => {
            Ok(Fate::bad(id, "the log has no room to write that down; try again".to_owned()))
        }
        Err(refusal) => Ok(Fate::bad(id, upload::words(&refusal))),
        // Its sender may have been faster.
        Ok(()) if was_partial && matches!(uploads.standing(id).await?, Standing::Living(_)) => {
            Ok(Fate::bad(id, "it was complete before it could be discarded, and is in the queue".to_owned()))
        }
        Ok(()) => Ok(Fate::good(id, "discarded".to_owned())),
    }
}

/// What the store says where a message stands, for those who ask why it waits.
///
/// # Errors
/// When it does not answer.
pub(super) async fn why_isolated(which: &Which, id: MessageId) -> Result<Option<String>, ask::AskError> {
    let mut store = ask::store(which)?;
    Ok(match content::standing(&mut store, id).await? {
        Standing::Isolated(_) => Some(
            "a part of it is lost: it is isolated, and not attempted. sternpost queue list --isolated says why, sternpost queue \
             restore and discard end that"
                .to_owned(),
        ),
        Standing::Partial => Some(content::PARTIAL.to_owned()),
        Standing::Living(_) | Standing::Dead | Standing::Unknown => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sternpost_link::store::RecipientRecord;
    use sternpost_message::{MessageSequence, RecipientState, sample};

    fn joined(parts: &[Option<&[u8]>]) -> String {
        let mut splice = Splice::default();
        let mut out = Vec::new();
        for part in parts {
            match part {
                Some(octets) => {
                    let (before, octets) = splice.octets(octets);
                    out.extend_from_slice(before);
                    out.extend_from_slice(octets);
                }
                None => splice.lost(),
            }
        }
        out.extend_from_slice(splice.end());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_end_where_something_is_lost_and_no_half_of_a_line_end_is_left() {
        let rows: [(&[Option<&[u8]>], &str); 6] = [
            (&[Some(b"one\r\n"), Some(b"two\r\n")], "one\r\ntwo\r\n"),
            (&[Some(b"one"), Some(b"\r\n")], "one\r\n"),
            (&[Some(b"on"), None, Some(b"o\r\n")], "on\r\no\r\n"),
            (&[Some(b"one\r"), None, Some(b"\ntwo")], "one\r\ntwo\r\n"),
            (&[Some(b"one\r\n"), None, None, Some(b"three\r")], "one\r\nthree\r\n"),
            (&[Some(b"one"), None], "one\r\n"),
        ];
        for (parts, wanted) in rows {
            assert_eq!(joined(parts), wanted, "{parts:?}");
        }
    }

    #[test]
    fn what_is_sent_on_says_what_is_lost_and_goes_to_those_who_lack_it() {
        let record = |state| RecipientRecord { state, attempts: 1, delay_reported: false, last: None };
        let detail = MessageDetail {
            id: MessageId([1; 16]),
            sequence: MessageSequence(1),
            envelope: sample::envelope(&["a@b.example", "c@b.example"], ("smtp", "hub")),
            content_octets: 30,
            content_sha256: [0; 32],
            recipients: vec![record(RecipientState::Delivered), record(RecipientState::Pending)],
        };
        let envelope = open_envelope(&detail);
        assert_eq!(envelope.recipients, [sample::recipient("c@b.example")]);
        let missing =
            Missing { first_chunk: 1, chunks_count: 1, offset: Some(10), octets: Some(20), why: "x".into() };
        let remains = Remains { missing: vec![missing], octets: 10, sha256: [0; 32] };
        let wanted = "X-Sternpost-Damaged: message 01010101010101010101010101010101,\r\n \
                      accepted 1970-01-01T00:00:00Z;\r\n 20 octets from octet 10 on are lost;\r\n \
                      sent on as it is by an operator of the switch\r\n";
        assert_eq!(header(&detail, &remains), wanted);
    }
}
