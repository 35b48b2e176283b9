//! What the log does not take: conclusions that were drawn before, and content faster than the disk.

use super::*;

/// The report `number` on recipient 0 of message 1, and the fact that it was made.
fn report(number: u32, closing: Outcome) -> AppendSet<'static> {
    let mut set = message(number, 400, 1);
    set.records.extend(outcome(MessageSequence(1), 0, 1, closing).records);
    set
}

fn failure_report(number: u32) -> AppendSet<'static> {
    report(number, Outcome::Reported { report: Some(id(number)), why: String::new() })
}

/// A log with one message; the first of its two recipients failed.
fn with_a_failure() -> Log<MemoryDisk> {
    let (mut log, _) = open(create());
    put(&mut log, Lane::Normal, message(1, 100, 2), 1);
    put(&mut log, Lane::Outcome, outcome(MessageSequence(1), 0, 1, Outcome::Failed(diagnostic("no"))), 2);
    log
}

fn ids(log: &Log<MemoryDisk>) -> Vec<MessageId> {
    log.messages_from(MessageSequence(0)).map(|facts| facts.id).collect()
}

fn is_invalid(event: &LogEvent, ticket: u64) -> bool {
    matches!(event, LogEvent::Refused { ticket: of, error: AppendError::Invalid(_) } if *of == ticket)
}

#[test]
fn a_second_report_of_the_same_failure_is_refused_and_a_repetition_of_the_first_is_not() {
    let mut log = with_a_failure();
    put(&mut log, Lane::Outcome, failure_report(10), 3);
    for _ in 0..2 {
        let events = put(&mut log, Lane::Outcome, failure_report(11), 4);
        assert!(events.len() == 1 && is_invalid(&events[0], 4), "{events:?}");
        assert_eq!(
            put(&mut log, Lane::Outcome, failure_report(10), 5).last(),
            Some(&LogEvent::Committed { ticket: 5 })
        );
        assert_eq!(ids(&log), [id(1), id(10)]);
        log = open(log.into_disk()).0;
    }
    // The same holds when the message is dead.
    put(&mut log, Lane::Outcome, outcome(MessageSequence(1), 1, 1, Outcome::Failed(diagnostic("no"))), 6);
    let closed = Outcome::Reported { report: None, why: "none".to_owned() };
    put(&mut log, Lane::Outcome, outcome(MessageSequence(1), 1, 1, closed), 7);
    let events = put(&mut log, Lane::Outcome, failure_report(12), 8);
    assert!(events.len() == 1 && is_invalid(&events[0], 8), "{events:?}");
}

#[test]
fn a_second_report_of_the_same_delay_is_refused() {
    let (mut log, _) = open(create());
    put(&mut log, Lane::Normal, message(1, 100, 2), 1);
    put(&mut log, Lane::Outcome, report(10, Outcome::DelayReported), 2);
    let events = put(&mut log, Lane::Outcome, report(11, Outcome::DelayReported), 3);
    assert!(events.len() == 1 && is_invalid(&events[0], 3), "{events:?}");
    assert_eq!(ids(&log), [id(1), id(10)]);
}

#[test]
fn of_two_reports_that_come_at_once_one_is_made() {
    // Both before a batch, and the second one while the first one is written.
    for drives in [0, 1] {
        let mut log = with_a_failure();
        log.append(NOW, Lane::Outcome, failure_report(10), 3).unwrap();
        (0..drives).for_each(|_| log.drive(NOW));
        log.append(NOW, Lane::Outcome, failure_report(11), 4).unwrap();
        let events = settle(&mut log, NOW);
        assert!(events.contains(&LogEvent::Committed { ticket: 3 }), "{events:?}");
        assert!(events.iter().any(|event| is_invalid(event, 4)), "{events:?}");
        assert_eq!(ids(&log), [id(1), id(10)]);
    }
}

#[test]
fn a_report_whose_write_fails_does_not_keep_another_one_out() {
    for drives in [0, 1] {
        let mut log = with_a_failure();
        log.disk_mut().failures = 1;
        log.append(NOW, Lane::Outcome, failure_report(10), 3).unwrap();
        (0..drives).for_each(|_| log.drive(NOW));
        log.append(NOW, Lane::Outcome, failure_report(11), 4).unwrap();
        let events = settle(&mut log, NOW);
        assert!(events.contains(&LogEvent::Committed { ticket: 4 }), "{events:?}");
        assert_eq!(ids(&log), [id(1), id(11)]);
    }
}

#[test]
fn a_report_waits_no_longer_for_an_outcome_than_that_one_may_wait() {
    let (mut log, _) = open(create());
    put(&mut log, Lane::Normal, message(1, 100, 2), 1);
    log.append(NOW, Lane::Outcome, outcome(MessageSequence(1), 0, 1, delivered()), 2).unwrap();
    settle(&mut log, NOW);
    log.append(NOW, Lane::Outcome, report(10, Outcome::DelayReported), 3).unwrap();
    assert_eq!(settle(&mut log, NOW), []);
    let at = log.wake_at().unwrap();
    let events = settle(&mut log, at);
    assert!(events.contains(&LogEvent::Committed { ticket: 2 }), "{events:?}");
    assert!(events.iter().any(|event| is_invalid(event, 3)), "{events:?}");
    assert_eq!(ids(&log), [id(1)]);
}

#[test]
fn a_set_that_ends_a_partial_message_and_brings_its_envelope_is_refused() {
    for at in [0, 1] {
        let (mut log, _) = open(create());
        let mut set = message(1, 100, 1);
        set.records.insert(at, Append::DiscardPartial { message: id(1) });
        assert!(matches!(log.append(NOW, Lane::Normal, set, 1), Err(AppendError::Invalid(_))));
        // Another message's may.
        let mut set = message(1, 100, 1);
        set.records.insert(at, Append::DiscardPartial { message: id(2) });
        put(&mut log, Lane::Normal, set, 2);
        assert_eq!(ids(&log), [id(1)]);
        assert_eq!(open(log.into_disk()).1.damaged_messages, []);
    }
}

#[test]
fn two_chunks_of_one_index_with_different_lengths_make_no_message() {
    let chunk = |octets: usize| Append::Content { message: id(1), index: 0, octets: vec![7; octets].into() };
    for (first, second) in [(100, 50), (50, 100)] {
        // The first one in the same set, and in one before.
        for sets in [0, 1] {
            let (mut log, _) = open(create());
            let mut records = vec![chunk(first)];
            if sets == 1 {
                put(&mut log, Lane::Normal, AppendSet { records: std::mem::take(&mut records) }, 1);
            }
            records.push(chunk(second));
            records.push(Append::Envelope {
                message: id(1),
                envelope: envelope(1, NOW),
                content_octets: 50,
                content_sha256: [0; 32],
            });
            let events = put(&mut log, Lane::Normal, AppendSet { records }, 2);
            assert!(events.len() == 1 && is_invalid(&events[0], 2), "{events:?}");
            assert_eq!(ids(&log), []);
        }
    }
}

fn only_content(number: u32) -> AppendSet<'static> {
    let octets = content(number, 20_000).into();
    AppendSet { records: vec![Append::Content { message: id(number), index: 0, octets }] }
}

/// Appends content without an envelope until it is refused; the disk writes nothing meanwhile.
fn pile_up(log: &mut Log<MemoryDisk>, first: u32) -> u32 {
    for number in first..first + 1000 {
        if let Err(error) = log.append(NOW, Lane::NonUrgent, only_content(number), number.into()) {
            assert_eq!(error, AppendError::Full);
            return number - first;
        }
    }
    panic!("{} octets wait", log.status().waiting_octets);
}

#[test]
fn content_that_waits_counts_in_the_share_of_partial_messages() {
    let (mut log, _) = open(create());
    let taken = pile_up(&mut log, 1);
    let octets_max = GEOMETRY.octets() / 5;
    assert!(taken > 10 && log.status().waiting_octets <= octets_max, "{taken}, {:?}", log.status());
    // What stands in a batch already counts too: one more would have gone beyond the share.
    assert!((octets_max - 20_100..=octets_max).contains(&log.partial_octets()), "{}", log.partial_octets());
    let events = settle(&mut log, NOW);
    assert_eq!(events.len(), usize::try_from(taken).unwrap(), "{events:?}");
    assert_eq!((log.status().waiting_octets, log.lanes.content_octets()), (0, 0));
    let octets: u64 = log.partials().map(|partial| partial.octets).sum();
    assert!(octets <= octets_max);
    assert!(pile_up(&mut log, 2000) <= 1);
}

#[test]
fn content_without_envelope_waits_in_bounded_memory_and_leaves_room_for_whole_messages() {
    let parameters = Parameters { waiting_content_octets_max: 0, ..Parameters::default() };
    let (mut log, _) = open_with(create(), parameters);
    let octets_max = log.set_octets_max() as u64;
    let taken = pile_up(&mut log, 1);
    assert!(taken > 4 && log.status().waiting_octets <= octets_max);
    log.append(NOW, Lane::Normal, message(3000, 5000, 1), 3000).unwrap();
    // A failed write takes the next batch along; what they held is counted no more.
    log.disk_mut().failures = 1;
    log.drive(NOW);
    let events = settle(&mut log, NOW);
    assert!(events.iter().any(|event| matches!(event, LogEvent::Refused { .. })), "{events:?}");
    assert!(pile_up(&mut log, 4000) > 4);
    settle(&mut log, NOW);
    assert_eq!((log.status().waiting_octets, log.lanes.content_octets()), (0, 0));
    assert!(pile_up(&mut log, 5000) > 0);
}

#[test]
fn whole_messages_that_wait_hold_back_who_sends_them_before_they_fill_the_memory() {
    const GEOMETRY: Geometry = Geometry { segment_octets: 16 << 20, segments: 16 };
    const SATURATED: u64 = 64 << 20;
    let disk = MemoryDisk::new(vec![0; usize::try_from(GEOMETRY.octets()).unwrap()]);
    let disk = Log::create(disk, GEOMETRY, [7; 16]).unwrap();
    let (mut log, _) = open_with(disk, Parameters::default());
    let mut number = 0;
    while !log.content_is_saturated() {
        assert!(log.status().waiting_octets < SATURATED);
        number += 1;
        log.append(NOW, Lane::Urgent, message(number, 60_000, 1), u64::from(number)).unwrap();
    }
    assert!(log.status().waiting_octets < SATURATED + 64_000, "{:?}", log.status());
    // Nobody is refused who has sent before he is held back, and it ends by itself.
    for _ in 0..64 {
        number += 1;
        log.append(NOW, Lane::Urgent, message(number, 60_000, 1), u64::from(number)).unwrap();
    }
    let events = settle(&mut log, NOW);
    let committed = events.iter().filter(|event| matches!(event, LogEvent::Committed { .. })).count();
    assert_eq!(committed, number as usize);
    assert!(!log.content_is_saturated());
}
