//! Entry points for fuzzing: any octets, no panic.

use std::sync::OnceLock;

use sternpost_message::{
    BodyType, Envelope, Mailbox, MessageId, MessageSequence, Precedence, Recipient, ReversePath, Route,
    RouteIndex, UnixMillis,
};

use crate::batch::{Batch, Berth, Seal};
use crate::format::{Follows, PAGE};
use crate::memory::MemoryDisk;
use crate::{
    AlignedBuffer, Append, AppendSet, Disk, Geometry, Lane, Log, Parameters, SEGMENT_OCTETS_MIN,
    SEGMENTS_MIN, inspect,
};

const GEOMETRY: Geometry = Geometry { segment_octets: SEGMENT_OCTETS_MIN, segments: SEGMENTS_MIN };
const SECRET: [u8; 16] = *b"not much of one.";

/// Opens a small log into which `data` was patched, reads all of it and goes on writing.
///
/// The first octet chooses: even, the rest are patches of an image with a few messages (two octets: which 16 octets;
/// one: how many octets follow; those octets); odd, the rest is the body of a batch whose CRCs are right.
pub fn fuzz_open(data: &[u8]) {
    let Some((choice, rest)) = data.split_first() else { return };
    let octets = if choice % 2 == 0 { patched(rest) } else { with_body(rest) };
    use_all(octets);
}

fn patched(mut patches: &[u8]) -> Vec<u8> {
    let mut octets = image().to_vec();
    while let [high, low, count, rest @ ..] = patches {
        // Most of what is there to be broken stands in the first segments.
        let at = usize::from(u16::from_be_bytes([*high, *low])) * 16;
        let (patch, next) = rest.split_at(rest.len().min(usize::from(*count)));
        if let Some(target) = octets.get_mut(at..at + patch.len()) {
            target.copy_from_slice(patch);
        }
        patches = next;
    }
    octets
}

fn with_body(body: &[u8]) -> Vec<u8> {
    let mut octets = image().to_vec();
    let berth = Berth {
        segment: 7,
        use_number: 9,
        offset: PAGE,
        opens: true,
        octets_max: SEGMENT_OCTETS_MIN as usize,
        segment_rest: SEGMENT_OCTETS_MIN as usize,
        entries_octets: 0,
    };
    let mut batch = Batch::new(AlignedBuffer::with_capacity(berth.octets_max), berth, &SECRET);
    batch.add_raw(&body[..body.len().min(SEGMENT_OCTETS_MIN as usize / 2)]);
    let seal =
        Seal { sequence: 1, follows: Follows::default(), start_use: 9, next_message: 1, now: UnixMillis(1) };
    let buffer = batch.seal(&SECRET, &seal).buffer;
    let at = usize::try_from(GEOMETRY.offset_of(7, 0)).unwrap_or_default();
    octets[at..at + buffer.len()].copy_from_slice(buffer.as_slice());
    octets
}

fn use_all(octets: Vec<u8>) {
    let now = UnixMillis(1_000_000);
    if let Ok(mut inspection) = inspect(MemoryDisk::new(octets.clone()), &mut |_| {}) {
        let _ = inspection.verify(&mut |_| {});
    }
    let Ok((mut log, _)) = Log::open(MemoryDisk::new(octets), Parameters::default(), now) else { return };
    let sequences: Vec<MessageSequence> =
        log.messages_from(MessageSequence(0)).map(|facts| facts.sequence).collect();
    let mut piece = [0; 512];
    for sequence in sequences {
        let _ = log.message(sequence);
        let _ = log.read_content(sequence, 0, &mut piece);
    }
    fill(&mut log, now);
}

/// Appends a few messages and drives them home.
fn fill<D: Disk>(log: &mut Log<D>, now: UnixMillis) {
    for number in 0..12_u8 {
        let message = MessageId([number; 16]);
        let content = Append::Content { message, index: 0, octets: vec![number; 9000].into() };
        let envelope =
            Append::Envelope { message, envelope: envelope(), content_octets: 9000, content_sha256: [0; 32] };
        let set = AppendSet { records: vec![content, envelope] };
        let _ = log.append(now, Lane::Normal, set, u64::from(number));
        log.drive(now);
        log.drive(now);
        while log.poll().is_some() {}
    }
}

fn envelope() -> Envelope {
    let address = Mailbox::parse("a@example.org").expect("a good address");
    Envelope {
        sender: ReversePath::Null,
        recipients: vec![Recipient { address, route: RouteIndex(0), notify: None, original_recipient: None }],
        routes: vec![Route { channel: "smtp".to_owned(), peer: "peer".to_owned() }],
        accepted_at: UnixMillis(1),
        precedence: Precedence::Routine,
        mt_priority: None,
        body: BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envelope_id: None,
        source: String::new(),
        client: String::new(),
        tls: None,
        identity: None,
    }
}

fn image() -> &'static [u8] {
    static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let octets = usize::try_from(GEOMETRY.octets()).unwrap_or_default();
        let disk = Log::create(MemoryDisk::new(vec![0; octets]), GEOMETRY, SECRET)
            .expect("memory takes every write");
        let (mut log, _) = Log::open(disk, Parameters::default(), UnixMillis(1)).expect("it was just made");
        fill(&mut log, UnixMillis(1));
        log.into_disk().octets
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_octets_on_the_disk_are_opened_or_refused(data in proptest::collection::vec(any::<u8>(), 0..400)) {
            fuzz_open(&data);
        }

        #[test]
        fn any_record_with_a_good_crc_is_taken_or_reported(
            kind in 0_u8..7,
            length in 0_u32..200,
            body in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut data = vec![1, kind, 0, 0, 0];
            data.extend_from_slice(&length.to_le_bytes());
            data.extend_from_slice(&[0; 8]);
            data.extend_from_slice(&body);
            fuzz_open(&data);
        }
    }
}
