//! The indexes of sealed segments, and a head whose header is lost.

use super::*;
use crate::format::{Footer, PAGE, Salt};

const SECRET: [u8; 16] = [7; 16];

/// A log whose messages of 20,000 octets fill some segments; all but every fifth die at once.
fn with_sealed_segments() -> Log<MemoryDisk> {
    let (mut log, _) = open(create());
    for number in 1..=20_u32 {
        put(&mut log, Lane::Normal, message(number, 20_000, 2), 1);
        let sequence = MessageSequence(number.into());
        if number % 5 == 0 {
            put(&mut log, Lane::Outcome, outcome(sequence, 0, 1, Outcome::Failed(diagnostic("no"))), 2);
        } else {
            let discarded = Outcome::Discarded { why: String::new() };
            put(&mut log, Lane::Outcome, outcome(sequence, 0, 2, discarded), 2);
        }
    }
    assert!(log.status().live_segments >= 4, "{:?}", log.status());
    log
}

/// The footers on the disk: segment, footer, and where its entries stand on the disk.
fn footers(disk: &MemoryDisk, uses: &[u64]) -> Vec<(u32, Footer, usize)> {
    let footer = |(segment, use_number): (u32, &u64)| {
        let at = usize::try_from(GEOMETRY.offset_of(segment, GEOMETRY.footer_offset())).unwrap();
        let salt = Salt::of_index(&SECRET, segment, *use_number);
        let footer =
            Footer::decode(&disk.octets[at..at + PAGE_OCTETS], salt, segment, *use_number, GEOMETRY)?;
        let entries = usize::try_from(GEOMETRY.offset_of(segment, footer.offset)).unwrap();
        Some((segment, footer, entries))
    };
    (0..).zip(uses).filter_map(footer).collect()
}

fn lived(log: &Log<MemoryDisk>) -> Vec<MessageFacts> {
    log.messages_from(MessageSequence(0)).collect()
}

#[test]
fn each_segment_but_the_open_one_gets_an_index_and_recovery_reads_no_batch_of_it() {
    let log = with_sealed_segments();
    let (uses, facts, live) = (log.shelf.uses.clone(), lived(&log), log.status().live_segments);
    let disk = log.into_disk();
    assert_eq!(footers(&disk, &uses).len(), usize::try_from(live).unwrap() - 1);
    let (log, report) = open(disk);
    assert_eq!((report.segments, report.segments_by_index), (live.into(), u64::from(live) - 1));
    assert!(live >= 5 && report.batches < 5, "{report:?}");
    assert_eq!(lived(&log), facts);
}

#[test]
fn an_index_says_nothing_of_what_was_over_when_it_was_written() {
    let log = with_sealed_segments();
    let uses = log.shelf.uses.clone();
    for (segment, footer, _) in footers(&log.into_disk(), &uses) {
        // Five messages with chunk, envelope and outcome: one lives, the others are one entry each.
        assert!(footer.entries <= 10 && footer.body_octets < 400, "segment {segment}: {footer:?}");
    }
}

#[test]
fn a_damaged_index_is_not_missed_and_is_written_again() {
    let log = with_sealed_segments();
    let (uses, facts) = (log.shelf.uses.clone(), lived(&log));
    let mut disk = log.into_disk();
    let known = footers(&disk, &uses);
    for (at, (segment, _, entries)) in known.iter().enumerate() {
        let footer = usize::try_from(GEOMETRY.offset_of(*segment, GEOMETRY.footer_offset())).unwrap();
        disk.octets[[entries + 3, footer + 60, footer + 10][at % 3]] ^= 0x10;
    }
    let (mut log, report) = open(disk);
    assert_eq!((report.segments_by_index, report.damage.len()), (0, 0));
    assert_eq!(lived(&log), facts);
    settle(&mut log, NOW);
    let disk = log.into_disk();
    assert_eq!(footers(&disk, &uses).len(), known.len());
    let (log, report) = open(disk);
    assert_eq!(report.segments_by_index, known.len() as u64);
    assert_eq!(lived(&log), facts);
}

#[test]
fn an_index_that_the_disk_does_not_take_costs_nobody_his_answer() {
    let (mut log, _) = open(create());
    let mut number = 0;
    while log.status().live_segments < 2 {
        number += 1;
        log.append(NOW, Lane::Normal, message(number, 20_000, 1), 1).unwrap();
        log.drive(NOW);
        while log.flight.is_some() {
            log.drive(NOW);
        }
    }
    // The part is under way, or about to be.
    log.disk_mut().failures = 1;
    let events = settle(&mut log, NOW);
    assert!(
        events.iter().any(|event| matches!(event, LogEvent::Alarm(Alarm::IndexFailed { segment: 0, .. })))
    );
    assert!(!events.iter().any(|event| matches!(event, LogEvent::Refused { .. })), "{events:?}");
    let events = put(&mut log, Lane::Normal, message(1000, 20_000, 1), 7);
    assert!(events.contains(&LogEvent::Committed { ticket: 7 }));
    let (log, report) = open(log.into_disk());
    assert_eq!((report.damage.len(), report.living_messages), (0, u64::from(number) + 1));
    assert_eq!(log.messages_from(MessageSequence(0)).count(), usize::try_from(number).unwrap() + 1);
}

#[test]
fn the_newest_segment_is_found_by_its_batches_when_its_header_is_lost() {
    let log = with_sealed_segments();
    let (facts, head) = (lived(&log), log.head.unwrap());
    assert!(head.offset > 2 * PAGE);
    let mut disk = log.into_disk();
    let at = usize::try_from(GEOMETRY.offset_of(head.segment, 0)).unwrap();
    disk.octets[at..at + PAGE_OCTETS].fill(0);
    let (mut log, report) = open(disk);
    let told: Vec<_> = report.damage.iter().map(|damage| (damage.offset, damage.what)).collect();
    assert_eq!(told, [(at as u64, DamagedPart::SegmentHeader)]);
    assert_eq!(lived(&log), facts);
    put(&mut log, Lane::Normal, message(500, 20_000, 1), 1);
    assert_eq!(open(log.into_disk()).1.living_messages, facts.len() as u64 + 1);
}

/// Seven messages came and ended, `forgotten` the last to come and the first to end; the log remembers four.
fn with_a_forgotten_id(forgotten: u32) -> Log<MemoryDisk> {
    let (mut log, _) = open_with(create(), remembers_four());
    let numbers = || 1..=6;
    for number in numbers().chain([forgotten]) {
        put(&mut log, Lane::Normal, message(number, 2_000, 1), 1);
    }
    for number in [forgotten].into_iter().chain(numbers()) {
        let sequence = log.find(id(number)).unwrap();
        let discarded = Outcome::Discarded { why: String::new() };
        put(&mut log, Lane::Outcome, outcome(sequence, 0, 1, discarded), 2);
    }
    assert!(!log.knows(id(forgotten)));
    log
}

fn remembers_four() -> Parameters {
    Parameters { recent_ids_max: 4, ..Parameters::default() }
}

#[test]
fn a_message_whose_id_has_lived_before_is_whole_after_a_restart_that_remembers_its_first_life() {
    let mut log = with_a_forgotten_id(21);
    // Its first life gets into an index, in which its death stands at the place of its envelope: behind those of the others.
    for number in 100.. {
        put(&mut log, Lane::Normal, message(number, 9_000, 1), 1);
        if log.status().live_segments == 2 {
            break;
        }
    }
    let mut set = message(21, 50_000, 1);
    let envelope = AppendSet { records: vec![set.records.pop().unwrap()] };
    put(&mut log, Lane::Normal, set, 3);
    put(&mut log, Lane::Normal, envelope, 4);
    let second = log.find(id(21)).unwrap();
    let (mut log, report) = open_with(log.into_disk(), remembers_four());
    assert_eq!((report.segments_by_index, &report.damaged_messages[..]), (1, &[][..]));
    assert_eq!(log.find(id(21)), Some(second));
    assert_eq!(read(&mut log, second), content(21, 50_000));
}
