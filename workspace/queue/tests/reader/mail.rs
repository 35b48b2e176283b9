//! Messages and outcomes with everything that FORMAT.md has a field for.

use sha2::{Digest, Sha256};
use sternpost_message::{
    BodyType, Diagnostic, EnhancedStatus, Envelope, ErrorScope, Mailbox, MessageId, MtPriority, Notify,
    Outcome, PeerCertificate, Precedence, Recipient, RecipientRange, Ret, ReversePath, RouteIndex, TlsFacts,
    UnixMillis,
    sample::{self, route},
};
use sternpost_queue::{Append, AppendSet};

pub(crate) fn id(number: u32) -> MessageId {
    let mut id = [0x5a; 16];
    id[..4].copy_from_slice(&number.to_be_bytes());
    MessageId(id)
}

/// Content that no other message has, and that no two places of it share.
pub(crate) fn content(number: u32, octets: usize) -> Vec<u8> {
    (0_u32..)
        .flat_map(|at| (at.wrapping_mul(0x9e37_79b9) ^ number.wrapping_mul(0x85eb_ca6b)).to_le_bytes())
        .take(octets)
        .collect()
}

fn recipient(address: &str, route: u16) -> Recipient {
    Recipient { route: RouteIndex(route), ..sample::recipient(address) }
}

/// No optional field is set. The first address is `r<number>@plain.example`.
pub(crate) fn plain(number: u32) -> Envelope {
    Envelope {
        accepted_at: UnixMillis(1_700_000_000_000 + u64::from(number)),
        source: "housekeeper".to_owned(),
        client: String::new(),
        ..sample::envelope(&[&format!("r{number}@plain.example")], ("smtp", "a"))
    }
}

/// So many recipients on three routes, and every optional field is set, not always to the same.
pub(crate) fn rich(number: u32, recipients: u32) -> Envelope {
    let sets = [Notify::NEVER, Notify { success: true, failure: true, delay: false }];
    let recipients = (0..recipients).map(|at| Recipient {
        notify: (at % 3 > 0).then(|| sets[at as usize % 2]),
        original_recipient: (at % 2 == 0).then(|| format!("utf-8;empfänger+2B{at}")),
        ..recipient(&format!("köln{number}-{at}@грузия.example"), u16::try_from(at / 3 % 3).unwrap())
    });
    let steps = u8::try_from(number % 19).unwrap();
    Envelope {
        sender: ReversePath::Mailbox(Mailbox::parse("jürgen@sender.example").unwrap()),
        recipients: recipients.collect(),
        routes: vec![route("smtp", "relay-one"), route("lmtp", "магазин"), route("smtp", "[192.0.2.7]")],
        accepted_at: UnixMillis(1_700_000_000_000 + u64::from(number)),
        precedence: Precedence::ALL[number as usize % 6],
        mt_priority: Some(MtPriority::new(steps.cast_signed() - 9).unwrap()),
        body: BodyType::EightBitMime,
        smtputf8: true,
        ret: Some(if number.is_multiple_of(2) { Ret::Full } else { Ret::Headers }),
        envelope_id: Some(format!("QQ{number}+3D")),
        source: "inside".to_owned(),
        client: "2001:db8::17".to_owned(),
        tls: Some(Box::new(TlsFacts {
            version: "TLSv1.3".to_owned(),
            cipher_suite: "TLS_AES_256_GCM_SHA384".to_owned(),
            group: number.is_multiple_of(2).then(|| "X25519".to_owned()),
            peer: (!number.is_multiple_of(3)).then(|| PeerCertificate {
                subject: "CN=köln.example".to_owned(),
                fingerprint: [steps; 32],
                is_verified: number % 3 == 1,
            }),
        })),
        identity: number.is_multiple_of(5).then(|| format!("user.{number}").into_boxed_str()),
    }
}

/// Chunks of `chunk_octets`, the last one shorter, and the envelope behind them.
pub(crate) fn records(
    number: u32,
    octets: usize,
    chunk_octets: usize,
    envelope: Envelope,
) -> Vec<Append<'static>> {
    let content = content(number, octets);
    let content_sha256 = Sha256::digest(&content).into();
    let chunks = content.chunks(chunk_octets).zip(0..);
    let mut records: Vec<Append<'static>> = chunks
        .map(|(chunk, index)| Append::Content { message: id(number), index, octets: chunk.to_vec().into() })
        .collect();
    let content_octets = octets as u64;
    records.push(Append::Envelope { message: id(number), envelope, content_octets, content_sha256 });
    records
}

/// Content in chunks of 20,000 octets, and the envelope.
pub(crate) fn message(number: u32, octets: usize, envelope: Envelope) -> AppendSet<'static> {
    AppendSet { records: records(number, octets, 20_000, envelope) }
}

/// The same without its envelope.
pub(crate) fn partial(number: u32, octets: usize) -> AppendSet<'static> {
    let mut set = message(number, octets, plain(number));
    set.records.pop();
    set
}

/// In the words of a peer, the text unlike any other.
pub(crate) fn diagnostic(class: u8, text: &str) -> Diagnostic {
    Diagnostic {
        status: EnhancedStatus::new(class, 4, 300),
        reply_code: Some(u16::from(class) * 100 + 51),
        text: text.to_owned(),
        remote: "mx.грузия.example [192.0.2.25]".to_owned(),
    }
}

/// In our own words.
pub(crate) fn own(class: u8, text: &str) -> Diagnostic {
    Diagnostic::own(EnhancedStatus::new(class, 0, 0), text)
}

pub(crate) fn range(first: u32, count: u32) -> RecipientRange {
    RecipientRange { first, count }
}

/// All kinds of outcomes, for the recipients of a message that has 16 of them; some are left pending, some failed, one with a report owed.
pub(crate) fn every_outcome() -> Vec<(RecipientRange, Outcome)> {
    let deferred = |scope, text: &str| Outcome::Deferred { scope, diagnostic: diagnostic(4, text) };
    vec![
        (range(0, 12), deferred(ErrorScope::Peer, "451 come back later")),
        (range(2, 3), deferred(ErrorScope::Message, "452 the greylist wants you again")),
        (range(3, 2), Outcome::DelayReported),
        (range(5, 1), Outcome::Delivered(own(2, "kept in the store of Jürgen"))),
        (range(6, 1), Outcome::Transferred(diagnostic(2, "250 2.0.0 queued as 4711"))),
        (range(7, 5), Outcome::Failed(diagnostic(5, "550 5.1.1 nobody here has this name"))),
        (range(8, 1), Outcome::Reported { report: Some(id(999)), why: String::new() }),
        (range(9, 1), Outcome::Reported { report: None, why: "NOTIFY=NEVER".to_owned() }),
        (range(10, 1), Outcome::Discarded { why: "an operator did not want it".to_owned() }),
        (
            range(12, 1),
            Outcome::RelayedReportOwed(diagnostic(2, "250 2.0.0 taken, and nobody will tell of it")),
        ),
        (range(13, 2), Outcome::DeliveredReportOwed(own(2, "kept"))),
        (range(14, 1), Outcome::Reported { report: Some(id(998)), why: String::new() }),
        (range(12, 2), Outcome::Failed(diagnostic(5, "550 it was handed over before"))),
        // What comes too late, and for whom there is nobody.
        (range(5, 3), Outcome::DelayReported),
        (range(5, 2), deferred(ErrorScope::Peer, "451 it was delivered before")),
        (range(11, 9), Outcome::DelayReported),
        (range(40, u32::MAX), Outcome::Failed(own(5, "there is no such recipient"))),
    ]
}
