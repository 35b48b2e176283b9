//! What is urgent overtakes the batch that is being filled.

use super::*;

/// Eight batches in a segment.
const ROOMY: Geometry = Geometry { segment_octets: 8 * SEGMENT_OCTETS_MIN, segments: 12 };
const BATCH: Parameters = Parameters {
    batch_octets_max: SEGMENT_OCTETS_MIN as usize,
    accept_share_max_percent: 70,
    outcome_delay_ms_max: 100,
    recent_content_octets_max: 0,
    recent_ids_max: 1000,
    partial_timeout_ms: 3_600_000,
    partial_share_max_percent: 20,
    waiting_content_octets_max: 32 << 20,
    probe_interval_ms: 1000,
    isolates_unreadable: false,
};

fn empty() -> Log<MemoryDisk> {
    let octets = usize::try_from(ROOMY.octets()).unwrap();
    open_with(Log::create(MemoryDisk::new(vec![0xa5; octets]), ROOMY, [7; 16]).unwrap(), BATCH).0
}

/// A log that writes a batch while 70,000 octets stand in the next one: messages 1 and 2.
fn busy() -> Log<MemoryDisk> {
    let mut log = empty();
    log.append(NOW, Lane::Normal, message(1, 400, 1), 1).unwrap();
    log.drive(NOW);
    assert!(log.is_writing());
    log.append(NOW, Lane::Normal, message(2, 70_000, 1), 2).unwrap();
    log
}

fn committed(events: &[LogEvent]) -> Vec<u64> {
    let ticket = |event: &LogEvent| match event {
        LogEvent::Committed { ticket } => Some(*ticket),
        _ => None,
    };
    events.iter().filter_map(ticket).collect()
}

/// Ends the write under way; gives the tickets that it has committed.
fn end_write(log: &mut Log<MemoryDisk>) -> Vec<u64> {
    log.drive(NOW);
    let events: Vec<LogEvent> = std::iter::from_fn(|| log.poll()).collect();
    committed(&events)
}

fn assert_whole(log: &mut Log<MemoryDisk>, sizes: &[(u32, usize)]) {
    for (number, octets) in sizes {
        let sequence = log.find(id(*number)).unwrap_or_else(|| panic!("message {number} is lost"));
        assert!(read(log, sequence) == content(*number, *octets), "message {number}");
        assert_eq!(log.message(sequence).unwrap().unwrap().envelope, envelope(1, NOW).into());
    }
}

#[test]
fn an_urgent_message_is_durable_before_content_that_came_earlier() {
    let mut log = busy();
    log.append(NOW, Lane::Urgent, message(3, 400, 1), 3).unwrap();
    log.append(NOW, Lane::Normal, message(4, 400, 1), 4).unwrap();
    log.append(NOW, Lane::Urgent, message(5, 400, 1), 5).unwrap();
    assert_eq!(end_write(&mut log), [1]);
    assert_eq!(end_write(&mut log), [3, 5]);
    // The next one has to wait for what was overtaken.
    log.append(NOW, Lane::Urgent, message(6, 400, 1), 6).unwrap();
    assert_eq!(end_write(&mut log), [2, 4]);
    assert_eq!(end_write(&mut log), [6]);
    let sizes = [(1, 400), (2, 70_000), (3, 400), (4, 400), (5, 400), (6, 400)];
    assert_whole(&mut log, &sizes);
    let (mut log, report) = open_with(log.into_disk(), BATCH);
    assert_eq!((report.living_messages, report.damage, report.torn_tail), (6, vec![], None));
    assert_whole(&mut log, &sizes);
}

#[test]
fn a_small_batch_is_not_overtaken_and_an_urgent_one_keeps_content_away() {
    let mut log = empty();
    log.append(NOW, Lane::Normal, message(1, 400, 1), 1).unwrap();
    log.drive(NOW);
    log.append(NOW, Lane::Normal, message(2, 400, 1), 2).unwrap();
    log.append(NOW, Lane::Urgent, message(3, 400, 1), 3).unwrap();
    log.append(NOW, Lane::Normal, message(4, 70_000, 1), 4).unwrap();
    let rounds: Vec<_> = (0..3).map(|_| end_write(&mut log)).collect();
    assert_eq!(rounds, [vec![1], vec![2, 3], vec![4]]);
}

#[test]
fn nothing_overtakes_a_part_of_its_own_message() {
    let mut log = busy();
    let mut records = message(3, 30_000, 1).records;
    let rest = AppendSet { records: records.split_off(1) };
    // A client may break the rule of one lane for each message.
    log.append(NOW, Lane::Normal, AppendSet { records }, 3).unwrap();
    log.append(NOW, Lane::Urgent, rest, 4).unwrap();
    log.append(NOW, Lane::Urgent, message(2, 70_000, 1), 5).unwrap();
    let rounds: Vec<_> = (0..3).map(|_| end_write(&mut log)).collect();
    assert_eq!(rounds, [vec![1], vec![2, 3, 4], vec![5]]);
    assert_whole(&mut log, &[(2, 70_000), (3, 30_000)]);
    assert_eq!(log.status().living_messages, 3);
}

#[test]
fn an_outcome_overtakes_nothing() {
    let mut log = busy();
    end_write(&mut log);
    log.append(NOW, Lane::Normal, message(3, 70_000, 1), 3).unwrap();
    log.append(NOW, Lane::Urgent, outcome(MessageSequence(1), 0, 1, delivered()), 4).unwrap();
    let rounds: Vec<_> = (0..2).map(|_| end_write(&mut log)).collect();
    assert_eq!(rounds, [vec![2], vec![3, 4]]);
}

#[test]
fn a_second_copy_in_the_overtaken_batch_changes_nothing() {
    let mut log = busy();
    log.append(NOW, Lane::Urgent, message(3, 400, 1), 3).unwrap();
    log.append(NOW, Lane::Normal, message(3, 400, 1), 4).unwrap();
    let rounds: Vec<_> = (0..3).map(|_| end_write(&mut log)).collect();
    assert_eq!(rounds, [vec![1], vec![3], vec![2, 4]]);
    assert_eq!(log.status().living_messages, 3);
}

#[test]
fn a_refused_set_leaves_the_overtaken_batch_where_it_was() {
    let mut log = busy();
    let Some(Append::Envelope { message, envelope, content_sha256, .. }) = message(3, 400, 1).records.pop()
    else {
        panic!("the envelope comes last");
    };
    let lie = Append::Envelope { message, envelope, content_octets: 7, content_sha256 };
    log.append(NOW, Lane::Urgent, AppendSet { records: vec![lie] }, 3).unwrap();
    let refused =
        std::iter::from_fn(|| log.poll()).any(|event| matches!(event, LogEvent::Refused { ticket: 3, .. }));
    assert!(refused && log.express.is_none());
    assert_eq!(log.filling.as_ref().map(|batch| batch.berth.offset), log.head.map(|head| head.offset));
    let rounds: Vec<_> = (0..2).map(|_| end_write(&mut log)).collect();
    assert_eq!(rounds, [vec![1], vec![2]]);
    assert_whole(&mut log, &[(1, 400), (2, 70_000)]);
}

#[test]
fn a_failed_write_takes_along_what_waits_behind_it() {
    for failing in [1, 3] {
        let mut log = busy();
        log.append(NOW, Lane::Urgent, message(3, 400, 1), 3).unwrap();
        if failing == 3 {
            end_write(&mut log);
        }
        log.disk_mut().failures = 1;
        log.drive(NOW);
        let refused = std::iter::from_fn(|| log.poll()).filter_map(|event| match event {
            LogEvent::Refused { ticket, error: AppendError::Disk(_) } => Some(ticket),
            _ => None,
        });
        let expected = if failing == 1 { vec![1, 3, 2] } else { vec![3, 2] };
        assert_eq!(refused.collect::<Vec<_>>(), expected);
        assert_eq!(
            put(&mut log, Lane::Normal, message(4, 400, 1), 4).last(),
            Some(&LogEvent::Committed { ticket: 4 })
        );
        let (log, report) = open_with(log.into_disk(), BATCH);
        assert_eq!(report.damage, []);
        assert_eq!(log.find(id(2)).or(log.find(id(3))), None);
    }
}

#[test]
fn wherever_the_segment_ends_each_message_is_where_the_log_says() {
    let mut log = empty();
    let mut state = 1_u64;
    let mut overtaken = 0;
    let mut sizes = Vec::new();
    for number in 1..=3000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let random = usize::try_from(state >> 40).unwrap();
        let (lane, octets) = if random.is_multiple_of(7) {
            (Lane::Urgent, random % 6_000 + 1)
        } else {
            (Lane::Normal, random % 40_000 + 1)
        };
        log.append(NOW, lane, message(number, octets, 1), u64::from(number)).unwrap();
        sizes.push((number, octets));
        overtaken += u32::from(log.express.is_some());
        if random.is_multiple_of(5) {
            end_write(&mut log);
        }
        if sizes.len() == 100 {
            settle(&mut log, NOW);
            assert_whole(&mut log, &sizes);
            let (again, report) = open_with(log.into_disk(), BATCH);
            assert_eq!((report.damage, report.torn_tail), (vec![], None));
            log = again;
            assert_whole(&mut log, &sizes);
            for (number, _) in sizes.drain(..) {
                let sequence = log.find(id(number)).unwrap();
                log.append(NOW, Lane::Outcome, outcome(sequence, 0, 1, delivered()), 0).unwrap();
            }
            settle(&mut log, NOW.plus_ms(100));
        }
    }
    assert!(overtaken > 300, "{overtaken}");
}

#[test]
fn the_end_of_a_batch_is_told_before_survivors_are_read_for_the_next_one() {
    let mut log = empty();
    // One in ten stays, so that survivors move in the end.
    for number in 1..5000 {
        log.append(NOW, Lane::Normal, message(number, 30_000, 1), 7).unwrap();
        let moved = log.status().moved_records;
        log.drive(NOW);
        let events: Vec<LogEvent> = std::iter::from_fn(|| log.poll()).collect();
        if log.goes_on() {
            assert!(committed(&events).contains(&7) && !log.is_writing() && log.wake_at() == Some(NOW));
            log.drive(NOW);
            assert!(log.is_writing() && !log.goes_on() && log.status().moved_records == moved);
            // A part of an index may go first.
            (0..3).for_each(|_| log.drive(NOW));
            assert!(log.status().moved_records > moved);
            return;
        }
        for event in events {
            if let LogEvent::Accepted { sequence, .. } = event
                && !sequence.0.is_multiple_of(10)
            {
                let end = outcome(sequence, 0, 1, Outcome::Discarded { why: String::new() });
                log.append(NOW, Lane::Outcome, end, 8).unwrap();
            }
        }
    }
    panic!("survivors never moved: {:?}", log.status());
}
