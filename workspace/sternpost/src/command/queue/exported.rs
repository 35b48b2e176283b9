//! A message beside its content, as `sternpost queue export` writes it and `import` reads it: one JSON object.
//!
//! | field | what |
//! |---|---|
//! | `format` | `"sternpost message 1"` |
//! | `id`, `sequence` | the queue id, and the place in the order of acceptance |
//! | `accepted_at` | RFC 3339, UTC |
//! | `sender` | the reverse-path with its angle brackets |
//! | `precedence`, `mt_priority`, `body`, `smtputf8`, `ret`, `envelope_id` | as the message was submitted |
//! | `source`, `client` | the listener that took it, and who brought it |
//! | `content_octets`, `content_sha256` | of the content, hexadecimal |
//! | `recipients` | of each: `address`, `channel`, `peer`, `notify`, `original_recipient`, `state`, `attempts`, `delay_reported`, `last` |
//! | `missing`, `content_found_octets`, `content_found_sha256` | of a damaged message alone: which chunks are lost, and what is left |

use super::detail::{self, body_name, ret_name};
use crate::output;
use serde_json::{Map, Value, json};
use sternpost_link::store::MessageDetail;
use sternpost_message::{
    BodyType, Diagnostic, Envelope, Mailbox, MessageId, MtPriority, Notify, NullHop, PeerCertificate,
    Precedence, Recipient, RecipientState, Ret, ReversePath, Route, RouteIndex, TlsFacts, UnixMillis,
};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// What `format` says.
const FORMAT: &str = "sternpost message 1";
/// No text of an envelope is longer. RFC 5321, 4.5.3.1.6, with room.
const TEXT_OCTETS_MAX: usize = 2_000;
/// The highest two stand for reports.
const ROUTES_MAX: usize = 65_534;

/// Chunks that follow each other and are lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Missing {
    /// The first of them, from 0.
    pub(super) first_chunk: u32,
    pub(super) chunks_count: u32,
    /// Where they stand in the content, if that can be told.
    pub(super) offset: Option<u64>,
    /// How much is lost with them, if that can be told.
    pub(super) octets: Option<u64>,
    pub(super) why: String,
}

impl Missing {
    fn json(&self) -> Value {
        json!({
            "first_chunk": self.first_chunk,
            "chunks": self.chunks_count,
            "offset": self.offset,
            "octets": self.octets,
            "why": self.why,
        })
    }
}

/// What was found of a content that is not whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remains {
    pub(super) missing: Vec<Missing>,
    pub(super) octets: u64,
    pub(super) sha256: [u8; 32],
}

/// A message as it was exported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Exported {
    pub(super) id: MessageId,
    pub(super) sequence: u64,
    /// Of the recipients that are not terminal, and no others.
    pub(super) envelope: Envelope,
    /// The recipients that are.
    pub(super) terminal_count: usize,
    pub(super) content_octets: u64,
    pub(super) content_sha256: [u8; 32],
}

/// What is wrong with the JSON of a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {what}. {what_to_do}")]
pub(super) struct FieldError {
    field: String,
    what: String,
    what_to_do: &'static str,
}

const AS_EXPORTED: &str = "Leave the file as sternpost queue export has written it.";

/// Writes a message; with what remains of it if it is damaged.
pub(super) fn write(detail: &MessageDetail, remains: Option<&Remains>) -> Value {
    let mut value = detail::fields(detail);
    value["format"] = FORMAT.into();
    value["content_sha256"] = output::hex(&detail.content_sha256).into();
    value["recipients"] = detail::recipients(detail, add_wishes);
    if let Some(remains) = remains {
        add_remains(&mut value, remains);
    }
    value
}

/// Writes what is known of a message whose envelope cannot be read.
pub(super) fn write_without_envelope(id: MessageId, sequence: u64, why: &str, remains: &Remains) -> Value {
    let mut value = json!({
        "format": FORMAT,
        "id": id.to_string(),
        "sequence": sequence,
        "envelope_lost": why,
    });
    add_remains(&mut value, remains);
    value
}

fn add_remains(value: &mut Value, remains: &Remains) {
    value["missing"] = remains.missing.iter().map(Missing::json).collect();
    value["content_found_octets"] = remains.octets.into();
    value["content_found_sha256"] = output::hex(&remains.sha256).into();
}

/// What a recipient asked for, and in parts what was said of it last.
fn add_wishes(row: &mut Value, recipient: &Recipient, last: Option<&Diagnostic>) {
    let notify = recipient.notify.map(|Notify { success, failure, delay }| {
        let words = [("success", success), ("failure", failure), ("delay", delay)];
        words.iter().filter(|(_, is_wanted)| *is_wanted).map(|(word, _)| *word).collect::<Vec<_>>()
    });
    row["notify"] = notify.into();
    row["original_recipient"] = recipient.original_recipient.clone().into();
    row["last"] = last.map_or(Value::Null, |last| {
        json!({
            "status": last.status.to_string(),
            "reply_code": last.reply_code,
            "text": last.text,
            "remote": last.remote,
        })
    });
}

/// Reads a message.
///
/// # Errors
/// The first field that is wrong.
pub(super) fn read(value: &Value) -> Result<Exported, FieldError> {
    let all = Fields { prefix: String::new(), fields: value.as_object() };
    if all.text("format")? != FORMAT {
        return Err(all.wrong("format", format!("is not {FORMAT:?}"), AS_EXPORTED));
    }
    if all.get("missing").is_some() || all.get("envelope_lost").is_some() {
        return Err(all.wrong(
            "missing",
            "a part of this message is lost".to_owned(),
            "What is left of it cannot be imported; while the queue has it, sternpost queue restore --as-is sends it on.",
        ));
    }
    let (recipients, routes, terminal_count) = read_recipients(&all)?;
    let envelope = Envelope {
        sender: all.read("sender", "a path in angle brackets", |value| path(value.as_str()?))?,
        recipients,
        routes,
        accepted_at: all
            .read("accepted_at", "a time as RFC 3339 has it", |value| instant(value.as_str()?))?,
        precedence: all.read("precedence", "one of the six levels by its name", |value| {
            let name = value.as_str()?;
            Precedence::ALL.into_iter().find(|precedence| precedence.name() == name)
        })?,
        mt_priority: all.optional("mt_priority", "a whole number from -9 to 9", |value| {
            MtPriority::new(i8::try_from(value.as_i64()?).ok()?).ok()
        })?,
        body: all.read("body", "7BIT or 8BITMIME", |value| {
            let name = value.as_str()?;
            [BodyType::SevenBit, BodyType::EightBitMime].into_iter().find(|body| body_name(*body) == name)
        })?,
        smtputf8: all.read("smtputf8", "true or false", Value::as_bool)?,
        ret: all.optional("ret", "FULL or HDRS", |value| {
            let name = value.as_str()?;
            [Ret::Full, Ret::Headers].into_iter().find(|ret| ret_name(*ret) == name)
        })?,
        envelope_id: all.optional("envelope_id", "one line of text", line)?,
        source: all.read("source", "one line of text", line)?,
        client: all.read("client", "one line of text", line)?,
        tls: all.optional("tls", "the TLS by which it came, as it was exported", tls)?,
        identity: all.optional("identity", "one line of text", line)?.map(String::into_boxed_str),
    };
    Ok(Exported {
        id: all.read("id", "32 hexadecimal digits", |value| value.as_str()?.parse().ok())?,
        sequence: all.read("sequence", "a whole number", Value::as_u64)?,
        envelope,
        terminal_count,
        content_octets: all.read("content_octets", "a whole number", Value::as_u64)?,
        content_sha256: all
            .read("content_sha256", "64 hexadecimal digits", |value| sha256(value.as_str()?))?,
    })
}

/// The TLS by which a message came.
fn tls(value: &Value) -> Option<Box<TlsFacts>> {
    let optional = |value: &Value, read: fn(&Value) -> Option<String>| match value {
        Value::Null => Some(None),
        other => read(other).map(Some),
    };
    let certificate = |value: &Value| {
        Some(PeerCertificate {
            subject: line(&value["subject"])?,
            fingerprint: sha256(value["sha256"].as_str()?)?,
            is_verified: value["verified"].as_bool()?,
        })
    };
    Some(Box::new(TlsFacts {
        version: line(&value["version"])?,
        cipher_suite: line(&value["cipher_suite"])?,
        group: optional(&value["group"], line)?,
        peer: match &value["client_certificate"] {
            Value::Null => None,
            other => Some(certificate(other)?),
        },
    }))
}

/// The recipients that must still get it, the routes that lead to them, and how many others there are. One who has got it and
/// whose report is owed counts among the others: another delivery is worse than a report that is missed.
fn read_recipients(all: &Fields<'_>) -> Result<(Vec<Recipient>, Vec<Route>, usize), FieldError> {
    let rows = all.read("recipients", "a list of objects", Value::as_array)?;
    let (mut recipients, mut routes, mut terminal_count) = (Vec::new(), Vec::<Route>::new(), 0);
    for (at, row) in rows.iter().enumerate() {
        let one = Fields { prefix: format!("recipients[{at}]."), fields: row.as_object() };
        let state = one.read("state", "the name of a state", |value| state(value.as_str()?))?;
        if state.is_terminal() || state.owes_success_report() {
            terminal_count += 1;
            continue;
        }
        let route = Route {
            channel: one.read("channel", "the name of a channel", line)?,
            peer: one.read("peer", "the name of a peer", line)?,
        };
        if NullHop::of_peer(&route.peer).is_some() {
            let what = "leads to the hop of a probe".to_owned();
            return Err(one.wrong("peer", what, "A probe is over; do not import it."));
        }
        let place = routes.iter().position(|known| *known == route).unwrap_or(routes.len());
        if place == routes.len() {
            routes.push(route);
        }
        let place = u16::try_from(place).ok().filter(|place| usize::from(*place) < ROUTES_MAX);
        let too_many = || one.wrong("peer", "is one too many".to_owned(), "Split the message.");
        recipients.push(Recipient {
            address: one.read("address", "a mailbox", |value| Mailbox::parse(value.as_str()?).ok())?,
            route: RouteIndex(place.ok_or_else(too_many)?),
            notify: one.optional("notify", "a list of success, failure and delay", notify)?,
            original_recipient: one.optional("original_recipient", "one line of text", line)?,
        });
    }
    Ok((recipients, routes, terminal_count))
}

/// The fields of an object, with the place of the object in the file.
struct Fields<'a> {
    prefix: String,
    fields: Option<&'a Map<String, Value>>,
}

impl<'a> Fields<'a> {
    fn get(&self, field: &str) -> Option<&'a Value> {
        self.fields?.get(field)
    }

    fn wrong(&self, field: &str, what: String, what_to_do: &'static str) -> FieldError {
        FieldError { field: format!("{}{field}", self.prefix), what, what_to_do }
    }

    fn text(&self, field: &str) -> Result<&'a str, FieldError> {
        self.read(field, "a text", Value::as_str)
    }

    fn read<T>(
        &self,
        field: &str,
        wanted: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<T, FieldError> {
        let Some(value) = self.get(field) else {
            return Err(self.wrong(field, "is missing".to_owned(), AS_EXPORTED));
        };
        read(value).ok_or_else(|| self.wrong(field, format!("is not {wanted}"), AS_EXPORTED))
    }

    fn optional<T>(
        &self,
        field: &str,
        wanted: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, FieldError> {
        match self.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(_) => self.read(field, wanted, read).map(Some),
        }
    }
}

/// One line of bounded text: what stands in an envelope ends up in commands and headers.
fn line(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    (text.len() <= TEXT_OCTETS_MAX && !text.chars().any(char::is_control)).then(|| text.to_owned())
}

fn path(text: &str) -> Option<ReversePath> {
    match text.strip_prefix('<')?.strip_suffix('>')? {
        "" => Some(ReversePath::Null),
        mailbox => Mailbox::parse(mailbox).ok().map(ReversePath::Mailbox),
    }
}

fn instant(text: &str) -> Option<UnixMillis> {
    let nanoseconds = OffsetDateTime::parse(text, &Rfc3339).ok()?.unix_timestamp_nanos();
    u64::try_from(nanoseconds / 1_000_000).ok().map(UnixMillis)
}

fn sha256(text: &str) -> Option<[u8; 32]> {
    let mut octets = [0; 32];
    if text.len() != 64 || !text.bytes().all(|octet| octet.is_ascii_hexdigit()) {
        return None;
    }
    for (at, octet) in octets.iter_mut().enumerate() {
        *octet = u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).ok()?;
    }
    Some(octets)
}

fn state(name: &str) -> Option<RecipientState> {
    use RecipientState::{
        Delivered, DeliveredReportOwed, Discarded, Failed, Pending, RelayedReportOwed, Reported, Transferred,
    };
    [Pending, Failed, Delivered, Transferred, Reported, Discarded, DeliveredReportOwed, RelayedReportOwed]
        .into_iter()
        .find(|state| state.name() == name)
}

fn notify(value: &Value) -> Option<Notify> {
    let mut notify = Notify::NEVER;
    for word in value.as_array()? {
        match word.as_str()? {
            "success" => notify.success = true,
            "failure" => notify.failure = true,
            "delay" => notify.delay = true,
            _ => return None,
        }
    }
    Some(notify)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sternpost_link::store::RecipientRecord;
    use sternpost_message::{EnhancedStatus, MessageSequence};

    fn detail() -> MessageDetail {
        let recipient = |address: &str, route| Recipient {
            address: Mailbox::parse(address).unwrap(),
            route: RouteIndex(route),
            notify: Some(Notify { success: false, failure: true, delay: true }),
            original_recipient: Some("rfc822;x+2B@y.example".to_owned()),
        };
        let route = |peer: &str| Route { channel: "smtp".to_owned(), peer: peer.to_owned() };
        let record = |state, last: Option<&str>| RecipientRecord {
            state,
            attempts: 3,
            delay_reported: true,
            last: last.map(|text| Diagnostic::own(EnhancedStatus::new(4, 4, 1), text)),
        };
        MessageDetail {
            id: MessageId([0xab; 16]),
            sequence: MessageSequence(77),
            envelope: Envelope {
                sender: ReversePath::Mailbox(Mailbox::parse("s@example.org").unwrap()),
                recipients: vec![
                    recipient("a@example.org", 0),
                    recipient("b@example.org", 1),
                    recipient("c@example.org", 0),
                ],
                routes: vec![route("north"), route("south")],
                accepted_at: UnixMillis(1_790_000_000_123),
                precedence: Precedence::Flash,
                mt_priority: Some(MtPriority::new(-4).unwrap()),
                body: BodyType::EightBitMime,
                smtputf8: true,
                ret: Some(Ret::Headers),
                envelope_id: Some("Q+2B".to_owned()),
                source: "inbound".to_owned(),
                client: "192.0.2.1:4711".to_owned(),
                tls: Some(Box::new(TlsFacts {
                    version: "TLSv1.3".to_owned(),
                    cipher_suite: "TLS_AES_128_GCM_SHA256".to_owned(),
                    group: Some("X25519".to_owned()),
                    peer: Some(PeerCertificate {
                        subject: "CN=client".to_owned(),
                        fingerprint: [7; 32],
                        is_verified: true,
                    }),
                })),
                identity: Some("alice".into()),
            },
            content_octets: 5,
            content_sha256: [0x1f; 32],
            recipients: vec![
                record(RecipientState::Transferred, None),
                record(RecipientState::Pending, Some("later")),
                record(RecipientState::Failed, Some("no")),
            ],
        }
    }

    #[test]
    fn what_is_written_reads_back_without_the_recipients_that_are_terminal() {
        let detail = detail();
        let value = write(&detail, None);
        assert_eq!(value["recipients"][1]["last"]["text"], "later");
        let exported = read(&value).unwrap();
        let mut envelope = detail.envelope;
        // The first recipient is terminal, and its route no longer the first.
        envelope.recipients.remove(0);
        envelope.routes.reverse();
        for (recipient, route) in envelope.recipients.iter_mut().zip(0..) {
            recipient.route = RouteIndex(route);
        }
        let wanted = Exported {
            id: detail.id,
            sequence: 77,
            envelope,
            terminal_count: 1,
            content_octets: 5,
            content_sha256: [0x1f; 32],
        };
        assert_eq!(exported, wanted);
    }

    #[test]
    fn what_is_wrong_is_named_by_its_field() {
        let rows = [
            ("/format", json!("eml"), "format: is not \"sternpost message 1\". Leave"),
            ("/id", json!("0f"), "id: is not 32 hexadecimal digits. Leave"),
            ("/sender", json!("s@example.org"), "sender: is not a path in angle brackets. "),
            ("/accepted_at", json!("yesterday"), "accepted_at: is not a time"),
            ("/precedence", json!("urgent"), "precedence: is not one of the six"),
            ("/mt_priority", json!(10), "mt_priority: is not a whole number from -9"),
            ("/client", json!("a\r\nb"), "client: is not one line of text"),
            ("/content_sha256", json!("zz"), "content_sha256: is not 64"),
            ("/recipients", json!({}), "recipients: is not a list"),
            ("/recipients/1", json!(7), "recipients[1].state: is missing. Leave"),
            ("/recipients/1/address", json!("b"), "recipients[1].address: is not a mailbox"),
            ("/recipients/2/notify", json!(["always"]), "recipients[2].notify: is not a list of"),
            ("/recipients/2/peer", json!("null:25"), "recipients[2].peer: leads to the hop of a probe"),
        ];
        let good = write(&detail(), None);
        for (place, value, words) in rows {
            let mut bad = good.clone();
            *bad.pointer_mut(place).unwrap() = value;
            let error = read(&bad).unwrap_err().to_string();
            assert!(error.starts_with(words), "{place}: {error}");
        }
        assert!(read(&json!([])).unwrap_err().to_string().starts_with("format: is missing"));
    }

    #[test]
    fn what_remains_of_a_damaged_message_is_no_message() {
        let missing = Missing {
            first_chunk: 1,
            chunks_count: 2,
            offset: Some(10),
            octets: None,
            why: "damaged".into(),
        };
        let remains = Remains { missing: vec![missing], octets: 3, sha256: [0; 32] };
        let value = write(&detail(), Some(&remains));
        assert_eq!(value["missing"][0]["first_chunk"], 1);
        assert!(read(&value).unwrap_err().to_string().contains("a part of this message is lost"));
        let value = write_without_envelope(MessageId([1; 16]), 3, "damaged", &remains);
        assert!(read(&value).is_err());
    }
}
