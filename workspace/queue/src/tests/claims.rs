//! Envelopes that are damaged where no index tells of their messages: what their heads claim.

use std::sync::Arc;

use zerocopy::IntoBytes;

use super::*;
use crate::claim::Claim;
use crate::format::MessageHead;
use crate::index::{Effect, Index, MessageEffect};
use crate::place::Place;
use crate::runs::Runs;

/// In a record, behind its header and its message head: the envelope.
const IN_ENVELOPE: u64 = 16 + 80 + 3;
/// Behind its header: the message's id.
const IN_ID: u64 = 16 + 3;
/// Behind that: the highest octet of its sequence.
const IN_SEQUENCE: u64 = 16 + 16 + 7;

fn flip(disk: &mut MemoryDisk, place: Place, within: u64) {
    let at = GEOMETRY.offset_of(place.segment(), place.offset()) + within;
    disk.octets[usize::try_from(at).unwrap()] ^= 1;
}

fn place_of(log: &Log<MemoryDisk>, number: u32) -> Place {
    log.index.get(log.find(id(number)).unwrap()).unwrap().place
}

/// Two messages of three chunks, and where the envelope of the first one stands.
fn with_two() -> (Log<MemoryDisk>, Place) {
    let (mut log, _) = open(create());
    put(&mut log, Lane::Normal, message(1, 50_000, 3), 1);
    put(&mut log, Lane::Normal, message(2, 50_000, 1), 1);
    let place = place_of(&log, 1);
    (log, place)
}

fn discard_all(log: &mut Log<MemoryDisk>, sequence: MessageSequence) {
    let discarded = Outcome::Discarded { why: String::new() };
    put(log, Lane::Outcome, outcome(sequence, 0, u32::MAX, discarded), 2);
}

/// Messages come and go until the first one's envelope stands elsewhere.
fn move_first(log: &mut Log<MemoryDisk>, first: MessageSequence) {
    let place = log.index.get(first).unwrap().place;
    for number in 100.. {
        put(log, Lane::Normal, message(number, 30_000, 1), 1);
        let sequence = log.find(id(number)).unwrap();
        discard_all(log, sequence);
        if log.index.get(first).unwrap().place != place {
            return;
        }
    }
}

/// What is left of a message that is isolated.
fn chunks(log: &mut Log<MemoryDisk>, sequence: MessageSequence) -> Vec<u8> {
    (0..)
        .map_while(|chunk| log.read_chunk(sequence, chunk).ok().flatten())
        .flat_map(|octets| octets.to_vec())
        .collect()
}

fn assert_isolated(log: &mut Log<MemoryDisk>, report: &RecoveryReport, number: u32, octets: usize) {
    let sequence = MessageSequence(number.into());
    assert_eq!(report.damaged_messages, [(sequence, id(number))]);
    assert!(log.is_damaged(sequence) && log.partials().count() == 0);
    assert!(log.messages_from(MessageSequence(0)).all(|facts| facts.id != id(number)));
    assert_eq!(chunks(log, sequence), content(number, octets));
}

#[test]
fn a_message_whose_envelope_is_damaged_in_the_newest_segment_stays_isolated_until_an_operator_discards_it() {
    let (mut log, place) = with_two();
    // One of its three recipients has it.
    put(&mut log, Lane::Outcome, outcome(MessageSequence(1), 0, 1, delivered()), 2);
    settle(&mut log, NOW.plus_ms(1000));
    let mut disk = log.into_disk();
    flip(&mut disk, place, IN_ENVELOPE);
    let (mut log, report) = open(disk);
    assert_eq!(report.damage.len(), 1);
    assert_isolated(&mut log, &report, 1, 50_000);
    settle(&mut log, NOW.plus_ms(2 * 3_600_000));
    let (mut log, report) = open(log.into_disk());
    assert_isolated(&mut log, &report, 1, 50_000);
    discard_all(&mut log, MessageSequence(1));
    let (log, report) = open(log.into_disk());
    assert_eq!((report.damage.len(), report.damaged_messages.len(), log.partials().count()), (1, 0, 0));
}

#[test]
fn it_stays_isolated_when_its_segment_has_its_index_and_when_it_is_moved() {
    let (log, place) = with_two();
    let mut disk = log.into_disk();
    flip(&mut disk, place, IN_ENVELOPE);
    let (mut log, _) = open(disk);
    for number in 10.. {
        put(&mut log, Lane::Normal, message(number, 20_000, 1), 1);
        let sequence = log.find(id(number)).unwrap();
        discard_all(&mut log, sequence);
        if log.status().live_segments == 3 {
            break;
        }
    }
    let (mut log, report) = open(log.into_disk());
    assert_eq!((report.segments_by_index, report.damage.len()), (2, 0));
    assert_isolated(&mut log, &report, 1, 50_000);
    move_first(&mut log, MessageSequence(1));
    let (mut log, report) = open(log.into_disk());
    assert_isolated(&mut log, &report, 1, 50_000);
}

#[test]
fn a_message_whose_moved_record_is_damaged_in_the_newest_segment_is_isolated_with_its_content() {
    for octets in [3_000, 50_000] {
        let (mut log, _) = open(create());
        put(&mut log, Lane::Normal, message(1, octets, 1), 1);
        move_first(&mut log, MessageSequence(1));
        let place = place_of(&log, 1);
        // The segment of its first place is passed.
        assert!(log.head.is_some_and(|head| head.segment == place.segment()));
        let mut disk = log.into_disk();
        flip(&mut disk, place, IN_ENVELOPE);
        let (mut log, report) = open(disk);
        assert_isolated(&mut log, &report, 1, octets);
    }
}

#[test]
fn a_sound_record_of_the_id_or_of_the_number_takes_the_place_of_a_claim() {
    let (claimed, chunk) = (id(1), Place::new(2, 4096, 48 + 3_000));
    let body = MessageHead {
        message: claimed.0,
        sequence: 7.into(),
        content_octets: 3_000.into(),
        chunks: 1.into(),
        envelope_octets: 0.into(),
        states_octets: 0.into(),
        reserved: 0.into(),
        content_sha256: [0; 32],
    };
    let claim = Claim::read(body.as_bytes(), Place::new(2, 8192, 300), NOW, GEOMETRY).unwrap();
    let message = |message, sequence| {
        let (envelope, runs) = (Arc::new(envelope(1, NOW)), Runs::new(&envelope(1, NOW)));
        let (sequence, place, told) = (MessageSequence(sequence), Place::new(3, 4096, 300), Vec::new());
        let (content_octets, chunks) = (3_000, 1);
        let effect = MessageEffect {
            message,
            sequence,
            envelope,
            content_octets,
            chunks,
            place,
            runs,
            moved: true,
            told,
        };
        Effect::Message(Box::new(effect))
    };
    let mut index = Index::new(12, 10);
    index.claim(claim.clone());
    // Nothing agrees with it, and then a sound record has its number, twice.
    for _ in 0..2 {
        index.apply(message(id(2), 7), NOW, &mut None);
        index.take_content(id(2), 0, 7, chunk, NOW);
    }
    assert_eq!((index.find(id(2)), index.settle()), (Some(MessageSequence(7)), vec![]));
    for (sound, number, partials) in [(claimed, 7, 0), (claimed, 8, 0), (id(2), 7, 1)] {
        let mut index = Index::new(12, 10);
        index.claim(claim.clone());
        assert!(index.get(MessageSequence(7)).is_none(), "nothing agrees");
        index.take_content(claimed, 0, 7, chunk, NOW);
        assert_eq!(index.get(MessageSequence(7)).map(|living| living.chunks().len()), Some(2));
        index.apply(message(sound, number), NOW, &mut None);
        assert_eq!((index.find(sound), index.partials_count()), (Some(MessageSequence(number)), partials));
        let damaged = index.settle();
        assert_eq!((damaged.len(), index.living_count()), (usize::from(sound != claimed), 1));
    }
}

#[test]
fn content_is_not_swept_when_the_id_of_a_damaged_envelope_is_what_was_hit() {
    let (log, place) = with_two();
    let mut disk = log.into_disk();
    flip(&mut disk, place, IN_ID);
    for _ in 0..2 {
        let (mut log, report) = open(disk);
        assert_eq!((report.damage.len(), report.damaged_messages.len()), (1, 0));
        // This one has come since.
        let mut set = message(3, 100, 1);
        set.records.truncate(1);
        put(&mut log, Lane::Normal, set, 1);
        settle(&mut log, NOW.plus_ms(2 * 3_600_000));
        settle(&mut log, NOW.plus_ms(3 * 3_600_000));
        let partials: Vec<_> = log.partials().map(|partial| partial.message).collect();
        assert_eq!(partials, [id(1)]);
        disk = log.into_disk();
    }
    let (mut log, _) = open(disk);
    put(&mut log, Lane::Normal, AppendSet { records: vec![Append::DiscardPartial { message: id(1) }] }, 5);
    assert_eq!(log.partials().count(), 0);
}

#[test]
fn a_number_that_its_batch_cannot_have_given_is_not_believed() {
    let (log, place) = with_two();
    let mut disk = log.into_disk();
    flip(&mut disk, place, IN_SEQUENCE);
    let (mut log, report) = open(disk);
    assert_eq!((report.damage.len(), report.living_messages, report.damaged_messages), (1, 1, vec![]));
    // It may be the id that is damaged, so the content is not swept.
    settle(&mut log, NOW.plus_ms(2 * 3_600_000));
    assert_eq!(log.partials().map(|partial| partial.message).collect::<Vec<_>>(), [id(1)]);
}

#[test]
fn a_message_that_was_over_when_its_segment_got_its_index_stays_so_when_everything_is_read() {
    let (mut log, place) = with_two();
    discard_all(&mut log, MessageSequence(1));
    for number in 10.. {
        put(&mut log, Lane::Normal, message(number, 20_000, 1), 1);
        let sequence = log.find(id(number)).unwrap();
        discard_all(&mut log, sequence);
        if log.status().live_segments == 3 {
            break;
        }
    }
    let mut disk = log.into_disk();
    flip(&mut disk, place, IN_ENVELOPE);
    let found = inspect(disk, &mut |_| {}).unwrap();
    let report = found.report();
    assert_eq!((report.damage.len(), report.living_messages, report.damaged_messages.len()), (1, 1, 0));
    assert_eq!(found.partials().count(), 0);
}
