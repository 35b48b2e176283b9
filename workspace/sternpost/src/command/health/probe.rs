//! The probe: one message of the switch's own that goes the whole way of mail. It is durable in the log, hangs on QMGR's
//! tree, is transferred by a channel process of each kind, and its outcomes are durable.
//!
//! It leads to null hops that this process serves, so that nothing of it leaves the machine. One of its recipients
//! is refused there, so that the housekeeper has to close it: its sender is null, so that nobody is reported to.
//! It has the highest precedence, and is written from the room that is kept for outcomes: a queue that is full of waiting
//! mail takes it too.

use super::null_hop::{Expected, Serving};
use super::{Finding, looks};
use crate::ask::{self, AskError, Asking, Which};
use sha2::{Digest, Sha256};
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};
use sternpost_config::{ChannelKind, Configuration};
use sternpost_link::qmgr::Question;
use sternpost_link::store::{Append, FromStore, Lane, MessageDetail, Refusal, ToStore};
use sternpost_message::{
    BodyType, Envelope, Mailbox, MessageId, Precedence, Recipient, RecipientState, ReversePath, Route,
    RouteIndex,
};
use sternpost_platform::clock::Clock;
use sternpost_platform::process;
use sternpost_smtp::Protocol;
use tokio::sync::Notify;

/// Time for the whole way. Three processes have to start at most; a slow device takes a few seconds for it.
const PROBE_MAX: Duration = Duration::from_secs(20);
/// Pause between two looks at where its recipients stand.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// No domain of anybody's. RFC 2606, 2.
const DOMAIN: &str = "probe.invalid";
/// What is said of the housekeeper is said under this name.
const HOUSEKEEPER: &str = "housekeeper";

/// A channel on the probe's way.
struct Leg<'a> {
    channel: &'a str,
    serving: Serving,
    /// The recipient that passes.
    recipient: usize,
}

impl Leg<'_> {
    fn what(&self) -> String {
        format!("channel {}", self.channel)
    }
}

/// A probe that is made and not sent.
struct Probe<'a> {
    id: MessageId,
    legs: Vec<Leg<'a>>,
    /// The recipient that fails.
    fails: usize,
    envelope: Envelope,
    content: Vec<u8>,
}

/// Sends one probe through a channel of each kind that transfers, and says how it went.
pub(super) async fn all(which: &Which, configuration: &Configuration, findings: &mut Vec<Finding>) {
    let channels = channels(configuration);
    if channels.is_empty() {
        findings
            .push(Finding::good("channels", "none is configured that transfers; there is nothing to probe"));
        return;
    }
    let bell = Rc::new(Notify::new());
    let probe = match make(&channels, &bell).await {
        Ok(probe) => probe,
        Err(error) => {
            let says = format!("no port of the loopback can be had for the probe: {error}");
            findings.push(Finding::unknown("channels", says));
            return;
        }
    };
    if let Err(error) = follow(which, &probe, &bell, findings).await {
        findings.push(Finding::of_error("channels", &error));
    }
}

/// The first channel by name of each kind that transfers.
fn channels(configuration: &Configuration) -> Vec<(&str, Protocol)> {
    let of_kind = |kind, protocol| {
        let names = configuration.channels.iter().filter(|channel| channel.kind == kind);
        names.map(|channel| (channel.name.as_str(), protocol)).min_by_key(|(name, _)| *name)
    };
    let kinds = [(ChannelKind::Smtp, Protocol::Smtp), (ChannelKind::Lmtp, Protocol::Lmtp)];
    kinds.into_iter().filter_map(|(kind, protocol)| of_kind(kind, protocol)).collect()
}

async fn make<'a>(channels: &[(&'a str, Protocol)], bell: &Rc<Notify>) -> io::Result<Probe<'a>> {
    let id = MessageId(process::random());
    let token = MessageId(process::random());
    let content = format!(
        "From: sternpost health <null@{DOMAIN}>\r\nSubject: probe\r\nMessage-ID: <{id}.{token}@{DOMAIN}>\r\n\r\n\
         The switch has sent this to itself.\r\n"
    )
    .into_bytes();
    let address = |name: &str| {
        Mailbox::parse(&format!("{name}.{token}@{DOMAIN}")).expect("a word and 32 digits are a local part")
    };
    let recipient = |address, route| Recipient {
        address,
        route: RouteIndex(route),
        notify: None,
        original_recipient: None,
    };
    let fails = address("fails");
    let mut recipients = vec![recipient(fails.clone(), 0)];
    let mut routes = Vec::new();
    let mut legs = Vec::new();
    for ((channel, protocol), route) in channels.iter().zip(0..) {
        let passes = address(if *protocol == Protocol::Lmtp { "lmtp" } else { "smtp" });
        let expected = Expected {
            passes: passes.clone(),
            fails: (route == 0).then(|| fails.clone()),
            content_sha256: Sha256::digest(&content).into(),
        };
        let serving = Serving::start(*protocol, expected, Rc::clone(bell)).await?;
        routes.push(Route { channel: (*channel).to_owned(), peer: serving.hop.peer() });
        legs.push(Leg { channel, serving, recipient: recipients.len() });
        recipients.push(recipient(passes, route));
    }
    let envelope = Envelope {
        sender: ReversePath::Null,
        recipients,
        routes,
        accepted_at: Clock::default().now(),
        precedence: Precedence::Override,
        mt_priority: None,
        body: BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envelope_id: None,
        source: "health".to_owned(),
        client: String::new(),
        tls: None,
        identity: None,
    };
    Ok(Probe { id, legs, fails: 0, envelope, content })
}

/// Makes the probe durable.
async fn submit(store: &mut Asking, probe: &Probe<'_>) -> Result<Result<(), Refusal>, AskError> {
    let records = vec![
        Append::Content { message: probe.id, index: 0, octets: &probe.content },
        Append::Envelope {
            message: probe.id,
            envelope: Box::new(probe.envelope.clone()),
            content_octets: probe.content.len() as u64,
            content_sha256: Sha256::digest(&probe.content).into(),
        },
    ];
    store
        .store_answer(
            &ToStore::Append { lane: Lane::Outcome, number: 1, records: records.into(), peer: None },
            |frame| match frame {
                FromStore::Committed { lane: Lane::Outcome, .. } => Some(Ok(())),
                FromStore::Refused { refusal, .. } => Some(Err(refusal)),
                _ => None,
            },
        )
        .await
}

async fn follow(
    which: &Which,
    probe: &Probe<'_>,
    bell: &Notify,
    findings: &mut Vec<Finding>,
) -> Result<(), AskError> {
    let started = Instant::now();
    let mut store = ask::store(which)?;
    if let Err(refusal) = submit(&mut store, probe).await? {
        let why = match refusal {
            Refusal::Full => "it is full".to_owned(),
            Refusal::Device => "its device does not take writes".to_owned(),
            Refusal::Invalid(why) => why,
            Refusal::Discarded | Refusal::Expired => "it was thrown away".to_owned(),
        };
        findings.push(Finding::bad(looks::QUEUE, format!("the log did not take a probe: {why}")));
        return Ok(());
    }
    let mut failures: Vec<Option<String>> = vec![None; probe.legs.len()];
    let mut detail;
    loop {
        // Where it stands in the log; none when it is dead.
        detail = store.store_detail(probe.id).await?;
        let Some(detail) = &detail else { break };
        // What has failed is closed, and the message dead, as soon as the housekeeper has seen it.
        for (leg, failure) in probe.legs.iter().zip(&mut failures) {
            *failure = failure.take().or_else(|| failed(detail, leg));
        }
        if started.elapsed() >= PROBE_MAX {
            break;
        }
        // The log has no bell of its own for whoever asks.
        let _ = tokio::time::timeout(LOOK_AGAIN, bell.notified()).await;
    }
    let why = match &detail {
        Some(_) => ask::qmgr(which, Question::Why { message: probe.id }).await.ok(),
        None => None,
    };
    let waits = waits(why.as_ref());
    for (leg, failure) in probe.legs.iter().zip(failures) {
        findings.push(match (leg.serving.passed_at(), failure) {
            (Some(at), _) => {
                let took_ms = at.saturating_duration_since(started).as_millis();
                Finding::good(leg.what(), format!("a probe passed through it in {took_ms} ms"))
            }
            (None, Some(why)) => Finding::bad(leg.what(), format!("it did not transfer a probe: {why}")),
            (None, None) if detail.is_some() => {
                Finding::bad(leg.what(), format!("no probe passed through it: {waits}"))
            }
            (None, None) => {
                let says = "it did not transfer a probe; its log says why (event probe.failed)";
                Finding::bad(leg.what(), says)
            }
        });
    }
    findings.push(match &detail {
        None => Finding::good(HOUSEKEEPER, "it closed the recipient of the probe that was refused"),
        Some(detail) if state(detail, probe.fails) == Some(RecipientState::Failed) => {
            Finding::bad(HOUSEKEEPER, format!("it did not close the probe: {waits}"))
        }
        Some(_) => Finding::unknown(HOUSEKEEPER, "it was given nothing to do"),
    });
    Ok(())
}

fn state(detail: &MessageDetail, recipient: usize) -> Option<RecipientState> {
    detail.recipients.get(recipient).map(|record| record.state)
}

/// Why the probe failed on this leg, if it did.
fn failed(detail: &MessageDetail, leg: &Leg<'_>) -> Option<String> {
    let record = detail.recipients.get(leg.recipient)?;
    let has_failed = matches!(record.state, RecipientState::Failed | RecipientState::Reported);
    let why = || record.last.as_ref().map_or_else(|| "it expired".to_owned(), ToString::to_string);
    has_failed.then(why)
}

/// QMGR's reasons why something of the probe waits.
fn waits(why: Option<&serde_json::Value>) -> String {
    let mlists = why.and_then(|why| why["mlists"].as_array());
    let reasons: Vec<_> = mlists.into_iter().flatten().filter_map(|mlist| mlist["reason"].as_str()).collect();
    if reasons.is_empty() {
        format!("not within {} s", PROBE_MAX.as_secs())
    } else {
        format!("not within {} s: {}", PROBE_MAX.as_secs(), reasons.join(", "))
    }
}
