//! A message in full: as `sternpost queue show` prints it, and the fields that an export has as well.

use super::{content, when};
use crate::ask::{self, AskError, Which};
use crate::command::exit_code;
use crate::output;
use serde_json::{Value, json};
use std::process::ExitCode;
use sternpost_link::store::{MessageDetail, Standing};
use sternpost_message::{BodyType, Diagnostic, Envelope, MessageId, MtPriority, Recipient, Ret, TlsFacts};

/// A message in full; of one that is not in the queue, where it stands.
///
/// # Errors
/// When the store does not answer.
pub(super) async fn shown(
    which: &Which,
    id: MessageId,
) -> Result<Result<Box<MessageDetail>, Standing>, AskError> {
    let mut store = ask::store(which)?;
    Ok(match store.store_detail(id).await? {
        Some(detail) => Ok(detail),
        None => Err(content::standing(&mut store, id).await?),
    })
}

/// Prints it.
pub(super) fn print_detail(detail: &MessageDetail, json: bool) -> ExitCode {
    let value = value_of(detail);
    output::print(&if json { output::json(&value) } else { text(&value) });
    exit_code(true)
}

/// Says where a message stands that is not in the queue.
pub(super) fn print_absent(id: MessageId, standing: Standing, json: bool) -> ExitCode {
    if json {
        output::print_json(&Value::Null);
    } else {
        output::print(&match standing {
            Standing::Partial => {
                format!("{id}: {}; sternpost queue list --partials shows it", content::PARTIAL)
            }
            _ => format!("{id} is not in the queue: it was handed over or discarded, or never accepted"),
        });
    }
    exit_code(false)
}

/// The TLS by which a message came.
fn tls_value(tls: &TlsFacts) -> Value {
    let peer = tls.peer.as_ref().map(|peer| {
        json!({ "subject": peer.subject, "sha256": output::hex(&peer.fingerprint), "verified": peer.is_verified })
    });
    json!({
        "version": tls.version,
        "cipher_suite": tls.cipher_suite,
        "group": tls.group,
        "client_certificate": peer,
    })
}

/// As JSON.
fn value_of(detail: &MessageDetail) -> Value {
    let mut value = fields(detail);
    value["recipients"] = recipients(detail, |row, _, last| {
        row["last"] = last.map(ToString::to_string).into();
        row["remote"] = last.map(|last| last.remote.clone()).into();
    });
    value
}

/// What is told of a message wherever it is told in full, but for its recipients.
pub(super) fn fields(detail: &MessageDetail) -> Value {
    let Envelope {
        sender,
        recipients: _,
        routes: _,
        accepted_at,
        precedence,
        mt_priority,
        body,
        smtputf8,
        ret,
        envelope_id,
        source,
        client,
        tls,
        identity,
    } = &detail.envelope;
    json!({
        "id": detail.id.to_string(),
        "sequence": detail.sequence.0,
        "accepted_at": when(*accepted_at),
        "sender": sender.to_string(),
        "precedence": precedence.name(),
        "mt_priority": mt_priority.map(MtPriority::get),
        "content_octets": detail.content_octets,
        "body": body_name(*body),
        "smtputf8": smtputf8,
        "ret": ret.map(ret_name),
        "envelope_id": envelope_id,
        "source": source,
        "client": client,
        "tls": tls.as_deref().map(tls_value),
        "identity": identity,
    })
}

/// What is told of each recipient; `more` adds what is told here alone, of itself and of what was said of it last.
pub(super) fn recipients(
    detail: &MessageDetail,
    more: impl Fn(&mut Value, &Recipient, Option<&Diagnostic>),
) -> Value {
    let row = |(at, recipient): (usize, &Recipient)| {
        let record = detail.recipients.get(at);
        let route = detail.envelope.routes.get(usize::from(recipient.route.0));
        let mut row = json!({
            "address": recipient.address.as_str(),
            "channel": route.map(|route| &route.channel),
            "peer": route.map(|route| &route.peer),
            "state": record.map(|record| record.state.name()),
            "attempts": record.map(|record| record.attempts),
            "delay_reported": record.map(|record| record.delay_reported),
        });
        more(&mut row, recipient, record.and_then(|record| record.last.as_ref()));
        row
    };
    detail.envelope.recipients.iter().enumerate().map(row).collect()
}

pub(super) const fn body_name(body: BodyType) -> &'static str {
    match body {
        BodyType::SevenBit => "7BIT",
        BodyType::EightBitMime => "8BITMIME",
    }
}

pub(super) const fn ret_name(ret: Ret) -> &'static str {
    match ret {
        Ret::Full => "FULL",
        Ret::Headers => "HDRS",
    }
}

/// For people.
fn text(value: &Value) -> String {
    let Value::Object(mut fields) = value.clone() else { return String::new() };
    let recipients = fields.remove("recipients").unwrap_or(Value::Null);
    fields.retain(|_, value| !value.is_null());
    let cell = |row: &Value, key: &str| match &row[key] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let keys = ["address", "state", "attempts", "channel", "peer", "last"];
    let rows: Vec<Vec<String>> = recipients
        .as_array()
        .map_or(&[] as &[Value], Vec::as_slice)
        .iter()
        .map(|row| keys.iter().map(|key| cell(row, key)).collect())
        .collect();
    let header = ["RECIPIENT", "STATE", "ATTEMPTS", "CHANNEL", "PEER", "LAST"];
    format!("{}\n{}", output::indented(&Value::Object(fields)), output::table(&header, &rows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sternpost_link::store::RecipientRecord;
    use sternpost_message::{EnhancedStatus, MessageSequence, RecipientState, sample};

    #[test]
    fn a_message_is_shown_with_what_was_said_of_each_recipient() {
        let detail = MessageDetail {
            id: MessageId([2; 16]),
            sequence: MessageSequence(1),
            envelope: sample::envelope(&["a@b.example"], ("smtp", "hub")),
            content_octets: 10,
            content_sha256: [0; 32],
            recipients: vec![RecipientRecord {
                state: RecipientState::Pending,
                attempts: 2,
                delay_reported: false,
                last: Some(Diagnostic::own(EnhancedStatus::new(4, 4, 1), "no answer")),
            }],
        };
        let text = text(&value_of(&detail));
        assert!(text.contains("sender: <>\n") && !text.contains("envelope_id"), "{text}");
        assert!(text.contains("a@b.example  pending  2         smtp     hub   4.4.1 no answer\n"), "{text}");
    }
}
