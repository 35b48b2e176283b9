//! Batches and segments that recovery has to look for, because something that led to them is lost.

use super::*;
use crate::format::{Follows, PAGE, SegmentHeader};

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

/// A log of living messages of 20,000 octets in six segments, and their numbers.
fn six_segments() -> (Log<MemoryDisk>, Vec<u32>) {
    let (mut log, _) = open(create());
    let mut numbers = vec![];
    while log.status().live_segments < 6 || log.head.unwrap().offset < 20 * PAGE {
        let number = u32::try_from(numbers.len()).unwrap() + 1;
        numbers.push(number);
        put(&mut log, Lane::Normal, message(number, 20_000, 1), 1);
    }
    (log, numbers)
}

fn front(segment: u32) -> usize {
    usize::try_from(GEOMETRY.offset_of(segment, 0)).unwrap()
}

fn lost_header(segment: u32) -> (u64, u64, DamagedPart) {
    (front(segment) as u64, PAGE_OCTETS as u64, DamagedPart::SegmentHeader)
}

/// In both manners of reading.
fn recover_both(octets: &[u8]) -> [(Vec<MessageId>, RecoveryReport); 2] {
    let (log, by_index) = open(MemoryDisk::new(octets.to_vec()));
    let in_full = inspect(MemoryDisk::new(octets.to_vec()), &mut |_| {}).unwrap();
    let all = in_full.messages().map(|facts| facts.id).collect();
    [(ids(&log), by_index), (all, in_full.report().clone())]
}

#[test]
fn neighbouring_segments_without_headers_are_found_by_their_batches() {
    let (log, numbers) = six_segments();
    let mut octets = log.into_disk().octets;
    for lost in [&[2, 3][..], &[1, 2, 3, 4], &[0, 1], &[4, 5], &[0, 1, 2, 3, 4, 5]] {
        let saved = octets.clone();
        lost.iter().for_each(|segment| octets[front(*segment)] ^= 1);
        for (found, report) in recover_both(&octets) {
            assert_eq!(found, numbers.iter().map(|number| id(*number)).collect::<Vec<_>>(), "{lost:?}");
            let mut told = damage(&report);
            told.sort_unstable_by_key(|(offset, ..)| *offset);
            assert_eq!(told, lost.iter().map(|segment| lost_header(*segment)).collect::<Vec<_>>());
        }
        octets = saved;
    }
}

#[test]
fn a_segment_that_has_lost_header_and_first_batch_is_found_by_the_others() {
    let (log, numbers) = six_segments();
    let octets = log.into_disk().octets;
    for segment in 0..6 {
        let mut octets = octets.clone();
        octets[front(segment)..front(segment) + 2 * PAGE_OCTETS].fill(0);
        for (found, report) in recover_both(&octets) {
            // The index of a sealed segment tells of the lost batch; it is missed when its records are read.
            let count = numbers.len() - usize::from(segment == 5 || report.segments_by_index == 0);
            assert!(found.len() == count, "segment {segment}: {report:?}");
            assert!(damage(&report).contains(&lost_header(segment)), "segment {segment}: {report:?}");
        }
    }
}

#[test]
fn each_segment_of_which_nothing_is_left_is_listed() {
    let (log, numbers) = six_segments();
    let mut octets = log.into_disk().octets;
    octets[front(2)..front(4)].fill(0);
    let whole = (0, u64::from(GEOMETRY.segment_octets), DamagedPart::Segment);
    for (found, report) in recover_both(&octets) {
        assert!(found.len() < numbers.len() && found.contains(&id(1)));
        assert_eq!(damage(&report), [whole, whole]);
    }
}

#[test]
fn the_lost_header_of_the_open_segment_is_written_again_even_if_it_holds_one_batch() {
    let (mut log, _) = open(create());
    put(&mut log, Lane::Normal, message(1, 20_000, 1), 1);
    let mut disk = log.into_disk();
    disk.octets[front(0)] ^= 1;
    let (log, report) = open(disk);
    // It may also be a first write that the power cut: nobody was told of that one.
    assert_eq!((ids(&log), report.damage), (vec![id(1)], vec![]));
    let header = log.into_disk().octets[front(0)..][..8].to_vec();
    assert_eq!(header, b"STERNSEG");
}

#[test]
fn a_refused_batch_before_a_lost_header_stays_refused() {
    let (mut log, _) = open(create());
    put(&mut log, Lane::Normal, message(1, 20_000, 1), 1);
    log.disk_mut().failures = 1;
    put(&mut log, Lane::Normal, message(2, 20_000, 1), 2);
    put(&mut log, Lane::Normal, message(3, 20_000, 1), 3);
    put(&mut log, Lane::Normal, message(4, 20_000, 1), 4);
    let head = log.head.unwrap().segment;
    let mut octets = log.into_disk().octets;
    octets[front(head)] ^= 1;
    for (found, report) in recover_both(&octets) {
        assert_eq!(found, [id(1), id(3), id(4)]);
        assert_eq!(damage(&report), [lost_header(head)]);
    }
}

#[test]
fn a_refused_batch_stays_refused_when_the_good_one_before_it_and_the_header_behind_it_are_lost() {
    let (mut log, _) = open(create());
    put(&mut log, Lane::Normal, message(1, 5_000, 1), 1);
    let good = head_at(&log);
    put(&mut log, Lane::Normal, message(2, 5_000, 1), 2);
    log.disk_mut().failures = 1;
    put(&mut log, Lane::Normal, message(3, 5_000, 1), 3);
    put(&mut log, Lane::Normal, message(4, 5_000, 1), 4);
    put(&mut log, Lane::Normal, message(5, 5_000, 1), 5);
    let head = log.head.unwrap().segment;
    let mut octets = log.into_disk().octets;
    // The index of the first segment would tell of the good one.
    let footer = front(0) + GEOMETRY.footer_offset() as usize;
    for lost in [front(head), good, footer] {
        octets[lost] ^= 1;
    }
    for (found, report) in recover_both(&octets) {
        assert_eq!(found, [id(1), id(4), id(5)], "{report:?}");
        let places: Vec<u64> = damage(&report).iter().map(|(offset, ..)| *offset).collect();
        assert!(places.contains(&(front(head) as u64)) && places.contains(&(good as u64)), "{report:?}");
    }
}

#[test]
fn a_log_of_one_segment_behind_a_failed_one_is_found_by_its_second_batch() {
    let (mut log, _) = open(create());
    log.disk_mut().failures = 1;
    put(&mut log, Lane::Normal, message(1, 5_000, 1), 1);
    put(&mut log, Lane::Normal, message(2, 5_000, 1), 2);
    put(&mut log, Lane::Normal, message(3, 5_000, 1), 3);
    assert_eq!(log.head.unwrap().segment, 1);
    let mut octets = log.into_disk().octets;
    // Nothing of the failed write has arrived.
    octets[front(0)..front(1) + 2 * PAGE_OCTETS].fill(0);
    for (found, report) in recover_both(&octets) {
        assert_eq!(found, [id(3)], "{report:?}");
    }
}

#[test]
fn a_segment_that_a_failed_write_has_ended_counts_as_filled_after_a_restart_too() {
    let (mut log, _) = open(create());
    put(&mut log, Lane::Normal, message(1, 5_000, 1), 1);
    log.disk_mut().failures = 1;
    put(&mut log, Lane::Normal, message(2, 5_000, 1), 2);
    put(&mut log, Lane::Normal, message(3, 5_000, 1), 3);
    let (log, _) = open(log.into_disk());
    // Otherwise moving what lives in it would not seem worth while, and a log with such segments would have no room.
    assert_eq!(log.space.filled_octets(0), GEOMETRY.segment_octets);
    assert!(log.space.filled_octets(1) < GEOMETRY.segment_octets);
}

#[test]
fn of_failed_writes_that_have_opened_segments_none_is_taken_for_damage() {
    let (mut log, _) = open(create());
    put(&mut log, Lane::Normal, message(1, 5_000, 1), 1);
    log.disk_mut().failures = 3;
    put(&mut log, Lane::Normal, message(2, 5_000, 1), 2);
    put(&mut log, Lane::Normal, message(3, 5_000, 1), 3);
    // The log is closed now, and its probe fails too.
    settle(&mut log, NOW.plus_ms(2_000));
    assert_eq!(log.status().write_errors, 3);
    let mut octets = log.into_disk().octets;
    // Of both headers nothing has arrived, and all of the batches.
    for segment in [1, 2] {
        octets[front(segment)..front(segment) + PAGE_OCTETS].fill(0);
    }
    for (found, report) in recover_both(&octets) {
        assert_eq!((found, damage(&report)), (vec![id(1)], vec![]), "{report:?}");
    }
}

#[test]
fn newest_segments_that_are_lost_are_missed_and_the_log_goes_on_behind_them() {
    let (log, numbers) = six_segments();
    let (geometry, head) = (log.shelf.geometry, log.head.unwrap());
    let mut disk = log.into_disk();
    for segment in [head.segment - 1, head.segment] {
        let at = usize::try_from(geometry.offset_of(segment, 0)).unwrap();
        disk.octets[at..at + geometry.segment_octets as usize].fill(0);
    }
    let (mut log, report) = open(disk);
    let lost: Vec<_> = report.damage.iter().map(|damage| damage.what).collect();
    assert_eq!(lost, [DamagedPart::Segment]);
    let left = ids(&log);
    assert!(!left.is_empty() && left.len() < numbers.len());
    assert_eq!(left, numbers[..left.len()].iter().map(|number| id(*number)).collect::<Vec<_>>());
    put(&mut log, Lane::Normal, message(7_777, 100, 1), 1);
    assert_eq!(log.head.unwrap().use_number, head.use_number - 1, "not in the segment that is sealed");
    let (log, report) = open(log.into_disk());
    assert_eq!(report.damage, []);
    assert_eq!(ids(&log), [&left[..], &[id(7_777)]].concat());
}

#[test]
fn no_more_segments_are_said_to_be_lost_than_the_log_has() {
    let (mut log, _) = open(create());
    put(&mut log, Lane::Normal, message(1, 100, 1), 1);
    let mut disk = log.into_disk();
    let header = SegmentHeader {
        segment: 3,
        use_number: 10_000_000,
        first_sequence: 50,
        follows: Follows { use_number: 9_999_999, sequence: 49, crc: 0 },
        start_use: 1,
        next_message: 1,
        opened_at_ms: 0,
    };
    let at = usize::try_from(GEOMETRY.offset_of(3, 0)).unwrap();
    disk.octets[at..at + 128].copy_from_slice(&header.encode(&[7; 16]));
    let report = inspect(disk, &mut |_| {}).unwrap().report().clone();
    assert_eq!(report.damage.len(), GEOMETRY.segments as usize);
    assert!(report.damage.iter().all(|damage| damage.what == DamagedPart::Segment));
}
