//! Asks the reader and the queue the same questions.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use sternpost_message::{
    BodyType, Diagnostic, Envelope, MessageSequence, Notify, PeerCertificate, Recipient, Ret, TlsFacts,
    UnixMillis,
};
use sternpost_queue::memory::MemoryDisk;
use sternpost_queue::{
    Damage, Inspection, Log, MessageDetail, MessageFacts, PAGE_OCTETS, Parameters, PartialFacts, ReadError,
    RecipientRecord, RecoveryReport, inspect,
};

use super::difference::differences;

/// The two ways of finding what lives.
#[derive(Clone, Copy)]
pub(crate) enum Way {
    InFull,
    ByIndex,
}

impl Way {
    const fn option(self) -> &'static str {
        match self {
            Self::InFull => "--in-full",
            Self::ByIndex => "--by-index",
        }
    }
}

/// What the reader prints of a log, or its words about why it does not.
pub(crate) fn read(octets: &[u8], way: Way) -> Result<Value, String> {
    read_without(octets, &[], way)
}

/// The same of a device that does not read the pages at some offsets.
fn read_without(octets: &[u8], unreadable: &[u64], way: Way) -> Result<Value, String> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(octets).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/format_reader.py");
    let output = Command::new("python3")
        .args(["-B".as_ref(), script.as_os_str(), way.option().as_ref(), file.path().as_os_str()])
        .args(unreadable.iter().map(|page| format!("--unreadable={page}")))
        .output()
        .expect("python3 is on every machine that tests the switch");
    if !output.status.success() {
        return Err(String::from_utf8(output.stderr).unwrap());
    }
    Ok(serde_json::from_slice(&output.stdout).unwrap())
}

/// What both ways of the reader say, after each was compared with what the queue says.
pub(crate) fn compare(octets: &[u8]) -> (Value, Value) {
    compare_without(octets, &[])
}

/// The same of a device that does not read the pages at some offsets.
pub(crate) fn compare_without(octets: &[u8], unreadable: &[u64]) -> (Value, Value) {
    let disk = || {
        let mut disk = MemoryDisk::new(octets.to_vec());
        let starts = unreadable.iter().map(|start| usize::try_from(*start).unwrap());
        disk.bad = starts.map(|start| start..start + PAGE_OCTETS).collect();
        disk
    };
    let mut inspection = inspect(disk(), &mut |_| {}).unwrap();
    let report = inspection.report().clone();
    let in_full = compare_with(&mut inspection, &report, octets, unreadable, Way::InFull);
    let parameters = Parameters { isolates_unreadable: true, ..Parameters::default() };
    let (mut log, report) = Log::open(disk(), parameters, UnixMillis(1_800_000_000_000)).unwrap();
    let by_index = compare_with(&mut log, &report, octets, unreadable, Way::ByIndex);
    (in_full, by_index)
}

/// What a log can be asked, whoever has opened it.
trait Asked {
    /// Messages of which no part is missing.
    fn whole(&self, report: &RecoveryReport) -> Vec<MessageFacts>;
    fn isolated(&self, report: &RecoveryReport) -> Vec<MessageFacts>;
    fn partial_messages(&self) -> Vec<PartialFacts>;
    fn detail(&mut self, sequence: MessageSequence) -> Result<Option<MessageDetail>, ReadError>;
    fn content(&mut self, sequence: MessageSequence, into: &mut [u8]) -> Result<usize, ReadError>;
}

impl Asked for Inspection<MemoryDisk> {
    fn whole(&self, report: &RecoveryReport) -> Vec<MessageFacts> {
        self.messages().filter(|facts| !is_isolated(report, facts)).collect()
    }

    fn isolated(&self, report: &RecoveryReport) -> Vec<MessageFacts> {
        self.messages().filter(|facts| is_isolated(report, facts)).collect()
    }

    fn partial_messages(&self) -> Vec<PartialFacts> {
        self.partials().collect()
    }

    fn detail(&mut self, sequence: MessageSequence) -> Result<Option<MessageDetail>, ReadError> {
        self.message(sequence)
    }

    fn content(&mut self, sequence: MessageSequence, into: &mut [u8]) -> Result<usize, ReadError> {
        self.read_content(sequence, 0, into)
    }
}

impl Asked for Log<MemoryDisk> {
    fn whole(&self, _: &RecoveryReport) -> Vec<MessageFacts> {
        self.messages_from(MessageSequence(0)).collect()
    }

    fn isolated(&self, report: &RecoveryReport) -> Vec<MessageFacts> {
        report.damaged_messages.iter().map(|(sequence, _)| self.facts(*sequence).unwrap()).collect()
    }

    fn partial_messages(&self) -> Vec<PartialFacts> {
        self.partials().collect()
    }

    fn detail(&mut self, sequence: MessageSequence) -> Result<Option<MessageDetail>, ReadError> {
        self.message(sequence)
    }

    fn content(&mut self, sequence: MessageSequence, into: &mut [u8]) -> Result<usize, ReadError> {
        self.read_content(sequence, 0, into)
    }
}

fn is_isolated(report: &RecoveryReport, facts: &MessageFacts) -> bool {
    report.damaged_messages.contains(&(facts.sequence, facts.id))
}

fn compare_with(
    log: &mut impl Asked,
    report: &RecoveryReport,
    octets: &[u8],
    unreadable: &[u64],
    way: Way,
) -> Value {
    let said = read_without(octets, unreadable, way).unwrap_or_else(|words| disagree(octets, way, &[words]));
    let differences = differences(&comparable(&said), &found(log, report));
    if !differences.is_empty() {
        disagree(octets, way, &differences);
    }
    said
}

/// Ends the test with what differs. The log is kept, so that the reader can be asked again.
fn disagree(octets: &[u8], way: Way, differences: &[String]) -> ! {
    let mut file = tempfile::Builder::new()
        .prefix("disagreement-")
        .suffix(".log")
        .tempfile_in(env!("CARGO_TARGET_TMPDIR"))
        .unwrap();
    file.write_all(octets).unwrap();
    let (_, path) = file.keep().unwrap();
    let (option, path) = (way.option(), path.display());
    let differences = differences.join("\n  ");
    panic!("format_reader.py {option} {path} and the queue do not find the same:\n  {differences}");
}

/// What of the reader's words the queue says too, lists as tables by name.
fn comparable(said: &Value) -> Value {
    let segments = said["segments"].as_array().unwrap();
    let by_index = segments.iter().filter(|segment| segment["read"] == "by index").count();
    let records: u64 = said["records"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
    json!({
        "segments": segments.len(),
        "segments read by index": by_index,
        "batches": said["batches"],
        "records": records,
        "torn tail at": said["torn_tail"]["offset"],
        "damage": by_place(told(&said["damage"])),
        "messages": by_name(shown(&said["messages"])),
        "isolated": by_name(shown(&said["isolated"])),
        "partials": by_name(said["partials"].as_array().unwrap().clone()),
    })
}

/// The same in the words of the queue.
fn found(log: &mut impl Asked, report: &RecoveryReport) -> Value {
    let (isolated, whole) = (log.isolated(report), log.whole(report));
    let isolated = isolated.iter().map(|facts| message(log, facts)).collect();
    let whole = whole.iter().map(|facts| message(log, facts)).collect();
    json!({
        "segments": report.segments,
        "segments read by index": report.segments_by_index,
        "batches": report.batches,
        "records": report.records,
        "torn tail at": report.torn_tail,
        "damage": by_place(places(&report.damage)),
        "messages": by_name(whole),
        "isolated": by_name(isolated),
        "partials": by_name(partials(log)),
    })
}

/// Messages by id, and by sequence if they have one.
fn by_name(messages: Vec<Value>) -> Value {
    let name = |message: &Value| match message.get("sequence") {
        Some(sequence) => format!("{sequence} ({})", message["id"].as_str().unwrap()),
        None => message["id"].as_str().unwrap().to_owned(),
    };
    messages.into_iter().map(|message| (name(&message), message)).collect::<Map<String, Value>>().into()
}

/// How many octets are damaged at each place.
fn by_place(places: Places) -> Value {
    let mut table = Map::new();
    for (what, offset, octets) in places {
        let found = table.entry(format!("{what} at {offset}")).or_insert_with(|| json!([]));
        found.as_array_mut().unwrap().push(octets.into());
    }
    table.into()
}

/// The reader's messages without its words about what cannot be read.
fn shown(messages: &Value) -> Vec<Value> {
    let mut messages = messages.as_array().unwrap().clone();
    for message in &mut messages {
        message["problem"] = Value::from(!message["problem"].is_null());
    }
    messages
}

/// A message in the words of the queue.
fn message(log: &mut impl Asked, facts: &MessageFacts) -> Value {
    let detail = log.detail(facts.sequence).ok().map(|detail| detail.expect("it lives"));
    let content = read_whole(log, facts).filter(|_| detail.is_some());
    let sha256 = content.map(|octets| hex(&Sha256::digest(&octets)));
    json!({
        "id": facts.id.to_string(),
        "sequence": facts.sequence.0,
        "content_octets": facts.content_octets,
        "envelope": detail.as_ref().map(|detail| envelope(&detail.envelope)),
        "sha256_told": detail.as_ref().map(|detail| hex(&detail.content_sha256)),
        "sha256_computed": sha256,
        "problem": sha256.is_none(),
        "recipients": detail.map(|detail| detail.states.iter().map(record).collect::<Vec<_>>()),
    })
}

fn read_whole(log: &mut impl Asked, facts: &MessageFacts) -> Option<Vec<u8>> {
    let mut octets = vec![0; usize::try_from(facts.content_octets).unwrap()];
    let count = log.content(facts.sequence, &mut octets).ok()?;
    (count == octets.len()).then_some(octets)
}

fn envelope(envelope: &Envelope) -> Value {
    let routes = envelope.routes.iter().map(|route| json!({ "channel": route.channel, "peer": route.peer }));
    json!({
        "sender": envelope.sender.mailbox().map(ToString::to_string),
        "recipients": envelope.recipients.iter().map(recipient).collect::<Vec<_>>(),
        "routes": routes.collect::<Vec<_>>(),
        "accepted_at_ms": envelope.accepted_at.0,
        "precedence": envelope.precedence.name(),
        "mt_priority": envelope.mt_priority.map(|priority| priority.get()),
        "body": match envelope.body {
            BodyType::SevenBit => "7BIT",
            BodyType::EightBitMime => "8BITMIME",
        },
        "smtputf8": envelope.smtputf8,
        "ret": envelope.ret.map(|ret| match ret {
            Ret::Full => "FULL",
            Ret::Headers => "HDRS",
        }),
        "envid": envelope.envelope_id,
        "source": envelope.source,
        "client": envelope.client,
        "tls": envelope.tls.as_deref().map(tls),
        "identity": envelope.identity,
    })
}

fn tls(tls: &TlsFacts) -> Value {
    let certificate = |peer: &PeerCertificate| {
        let sha256: String = peer.fingerprint.iter().map(|octet| format!("{octet:02x}")).collect();
        json!({ "subject": peer.subject, "sha256": sha256, "verified": peer.is_verified })
    };
    json!({
        "version": tls.version,
        "cipher_suite": tls.cipher_suite,
        "group": tls.group,
        "client_certificate": tls.peer.as_ref().map(certificate),
    })
}

fn recipient(recipient: &Recipient) -> Value {
    let notify = |notify: Notify| json!({ "success": notify.success, "failure": notify.failure, "delay": notify.delay });
    json!({
        "address": recipient.address.to_string(),
        "route": recipient.route.0,
        "notify": recipient.notify.map(notify),
        "orcpt": recipient.original_recipient,
    })
}

fn record(record: &RecipientRecord) -> Value {
    let last = |last: &Diagnostic| {
        json!({
            "status": last.status.to_string(),
            "reply_code": last.reply_code,
            "text": last.text,
            "remote": last.remote,
        })
    };
    json!({
        "state": record.state.name(),
        "attempts": record.attempts,
        "delay_reported": record.delay_reported,
        "last": record.last.as_ref().map(last),
    })
}

fn partials(log: &impl Asked) -> Vec<Value> {
    let shown = |partial: PartialFacts| {
        let PartialFacts { message, octets, first_seen_at } = partial;
        json!({ "id": message.to_string(), "octets": octets, "first_seen_ms": first_seen_at.0 })
    };
    log.partial_messages().into_iter().map(shown).collect()
}

/// Damage in one order: what, where, how much.
type Places = Vec<(String, u64, u64)>;

pub(crate) fn told(damage: &Value) -> Places {
    let place = |damage: &Value| {
        let what = damage["what"].as_str().unwrap().to_owned();
        (what, damage["offset"].as_u64().unwrap(), damage["octets"].as_u64().unwrap())
    };
    let mut places: Places = damage.as_array().unwrap().iter().map(place).collect();
    places.sort_unstable();
    places
}

fn places(damage: &[Damage]) -> Places {
    let mut places: Places =
        damage.iter().map(|damage| (damage.what.to_string(), damage.offset, damage.octets)).collect();
    places.sort_unstable();
    places
}

/// The ids of messages, partial or whole, as the reader shows them.
pub(crate) fn ids(messages: &Value) -> Vec<String> {
    messages.as_array().unwrap().iter().map(|message| message["id"].as_str().unwrap().to_owned()).collect()
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}
