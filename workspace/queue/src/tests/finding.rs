//! Batches and segments that recovery has to look for, because something that led to them is lost.

use super::*;
use crate::format::PAGE;
/// Where the next batch will be written.
fn head_at(log: &Log<MemoryDisk>) -> usize {
    let head = log.head.unwrap();
    usize::try_from(GEOMETRY.offset_of(head.segment, head.offset)).unwrap()
}

fn ids(log: &Log<MemoryDisk>) -> Vec<MessageId> {
    log.messages_from(MessageSequence(0)).map(|facts| facts.id).collect()
}

fn damage(report: &RecoveryReport) -> Vec<(u64, u64, DamagedPart)> {
    report.damage.iter().map(|damage| (damage.offset, damage.octets, damage.what)).collect()
}

#[test]
fn what_is_left_of_a_torn_write_hides_no_batch_that_was_written_over_it() {
    let (mut log, _) = open(create());
    put(&mut log, Lane::Normal, message(1, 100, 1), 1);
    let at = head_at(&log);
    put(&mut log, Lane::Normal, message(2, 50_000, 1), 2);
    let mut disk = log.into_disk();
    disk.octets[at + 40_000] ^= 1;
    let (mut log, report) = open(disk);
    assert_eq!(report.torn_tail, Some(at as u64));
    let torn = log.disk().octets[at..at + PAGE_OCTETS].to_vec();
    put(&mut log, Lane::Normal, message(3, 100, 1), 3);
    let end = head_at(&log);
    put(&mut log, Lane::Normal, message(4, 100, 1), 4);
    let mut disk = log.into_disk();
    // The write of the third message is lost.
    disk.octets[at..at + PAGE_OCTETS].copy_from_slice(&torn);
    let (log, report) = open(disk);
    assert_eq!(ids(&log), [id(1), id(4)]);
    assert_eq!(damage(&report), [(at as u64, (end - at) as u64, DamagedPart::Batches)]);
}

#[test]
fn of_two_damaged_batches_at_the_end_of_a_sealed_segment_both_are_listed() {
    let (mut log, _) = open(create());
    let (mut number, mut places) = (0, vec![]);
    while log.status().live_segments < 2 {
        number += 1;
        places.push(log.head.map_or(PAGE as usize, |_| head_at(&log)));
        put(&mut log, Lane::Normal, message(number, 9_000, 1), 1);
    }
    // The last one opened the second segment.
    let [.., lost, broken, _] = places[..] else { panic!("{places:?}") };
    let mut disk = log.into_disk();
    disk.octets[lost] ^= 1;
    disk.octets[broken + 8_000] ^= 1;
    let found = inspect(disk, &mut |_| {}).unwrap();
    let told = damage(found.report());
    assert_eq!(told[0], (lost as u64, (broken - lost) as u64, DamagedPart::Batches));
    assert_eq!((told.len(), told[1].2), (2, DamagedPart::Record));
    assert!((broken as u64..broken as u64 + 9_000).contains(&told[1].0), "{told:?}");
}

#[test]
fn a_page_that_is_not_read_costs_what_stood_on_it_if_the_opening_may_do_without() {
    let (mut log, _) = open(create());
    let mut places = vec![];
    for number in 1..=3 {
        put(&mut log, Lane::Normal, message(number, 100, 1), 1);
        places.push(head_at(&log));
    }
    let mut disk = log.into_disk();
    // The second message's page and superblock A.
    disk.bad = vec![places[0]..places[0] + 1, 0..1];
    let isolates_unreadable = Parameters { isolates_unreadable: true, ..Parameters::default() };
    let octets = disk.octets.clone();
    assert!(matches!(try_open(disk, Parameters::default()), Err(OpenError::Disk(_))));
    let mut disk = MemoryDisk::new(octets);
    disk.bad = vec![places[0]..places[0] + 1, 0..1];
    let (log, report) = open_with(disk, isolates_unreadable);
    assert_eq!(ids(&log), [id(1), id(3)]);
    let (page, at) = (PAGE_OCTETS as u64, places[0] as u64);
    let told = [
        (0, page, DamagedPart::Superblock),
        (at, page, DamagedPart::Batches),
        (0, page, DamagedPart::Unreadable),
    ];
    assert!(told.iter().all(|told| damage(&report).contains(told)), "{report:?}");
    // A disk of which nothing is read is away, and not damaged.
    let mut disk = log.into_disk();
    disk.bad.push(0..disk.octets.len());
    assert!(matches!(try_open(disk, isolates_unreadable), Err(OpenError::Disk(_))));
}
