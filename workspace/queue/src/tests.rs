//! The log as its owner sees it. What it does when the disk fails, or its owner insists, is in `faults` and `limits`; what
//! is found in a damaged one, in `damage`.

mod claims;
mod damage;
mod express;
mod faults;
mod finding;
mod limits;
mod seals;
mod space;

use sternpost_message::{
    Diagnostic, EnhancedStatus, Envelope, ErrorScope, MessageId, MessageSequence, Outcome, Recipient,
    RecipientRange, RouteIndex, UnixMillis, chain, sample,
};

use crate::memory::MemoryDisk;
use crate::*;

pub(crate) fn envelope(recipients: usize, accepted_at: UnixMillis) -> Envelope {
    let recipient = |number: usize| Recipient {
        route: RouteIndex(u16::try_from(number % 2).unwrap()),
        ..sample::recipient(&format!("r{number}@example.org"))
    };
    Envelope {
        recipients: (0..recipients).map(recipient).collect(),
        routes: ["a", "b"].map(|peer| sample::route("smtp", peer)).into(),
        accepted_at,
        source: "listener".to_owned(),
        ..sample::envelope(&[], ("smtp", "a"))
    }
}

pub(crate) const GEOMETRY: Geometry = Geometry { segment_octets: SEGMENT_OCTETS_MIN, segments: 12 };
const NOW: UnixMillis = UnixMillis(1_000);

pub(crate) fn id(number: u32) -> MessageId {
    let mut id = [0x55; 16];
    id[..4].copy_from_slice(&number.to_be_bytes());
    MessageId(id)
}

fn content(number: u32, octets: usize) -> Vec<u8> {
    (0_u32..).map(|at| (at.wrapping_mul(31) ^ number.wrapping_mul(7)).to_le_bytes()[0]).take(octets).collect()
}

fn message(number: u32, octets: usize, recipients: usize) -> AppendSet<'static> {
    use sha2::Digest;
    let content = content(number, octets);
    let content_sha256 = sha2::Sha256::digest(&content).into();
    let chunks = content.chunks(20_000).zip(0..);
    let mut records: Vec<Append<'static>> = chunks
        .map(|(chunk, index)| Append::Content { message: id(number), index, octets: chunk.to_vec().into() })
        .collect();
    records.push(Append::Envelope {
        message: id(number),
        envelope: envelope(recipients, NOW),
        content_octets: octets as u64,
        content_sha256,
    });
    AppendSet { records }
}

pub(crate) fn outcome(
    sequence: MessageSequence,
    first: u32,
    count: u32,
    outcome: Outcome,
) -> AppendSet<'static> {
    AppendSet {
        records: vec![Append::Outcome {
            message: sequence,
            outcomes: vec![(RecipientRange { first, count }, outcome)],
        }],
    }
}

fn diagnostic(text: &str) -> Diagnostic {
    Diagnostic::own(EnhancedStatus::new(2, 0, 0), text)
}

fn delivered() -> Outcome {
    Outcome::Delivered(diagnostic("kept"))
}

fn deferred(text: &str) -> Outcome {
    Outcome::Deferred { scope: ErrorScope::Peer, diagnostic: diagnostic(text) }
}

fn create() -> MemoryDisk {
    let octets = usize::try_from(GEOMETRY.octets()).unwrap();
    Log::create(MemoryDisk::new(vec![0xa5; octets]), GEOMETRY, [7; 16]).unwrap()
}

fn open(disk: MemoryDisk) -> (Log<MemoryDisk>, RecoveryReport) {
    open_with(disk, Parameters::default())
}

fn open_with(disk: MemoryDisk, parameters: Parameters) -> (Log<MemoryDisk>, RecoveryReport) {
    try_open(disk, parameters).unwrap()
}

fn try_open(
    disk: MemoryDisk,
    parameters: Parameters,
) -> Result<(Log<MemoryDisk>, RecoveryReport), OpenError> {
    Log::open(disk, parameters, NOW)
}

/// Drives until nothing happens any more; gives what happened.
fn settle(log: &mut Log<MemoryDisk>, now: UnixMillis) -> Vec<LogEvent> {
    let mut events = Vec::new();
    loop {
        log.drive(now);
        let before = events.len();
        events.extend(std::iter::from_fn(|| log.poll()));
        if events.len() == before && !log.is_writing() {
            return events;
        }
    }
}

fn put(log: &mut Log<MemoryDisk>, lane: Lane, set: AppendSet<'_>, ticket: u64) -> Vec<LogEvent> {
    log.append(NOW, lane, set, ticket).unwrap();
    settle(log, NOW)
}

fn read(log: &mut Log<MemoryDisk>, sequence: MessageSequence) -> Vec<u8> {
    let mut octets = Vec::new();
    let mut piece = [0; 7777];
    loop {
        let count = log.read_content(sequence, octets.len() as u64, &mut piece).unwrap();
        if count == 0 {
            return octets;
        }
        octets.extend_from_slice(&piece[..count]);
    }
}

#[test]
fn a_message_is_committed_read_back_and_found_again_after_a_restart() {
    let (mut log, _) = open(create());
    let events = put(&mut log, Lane::Normal, message(1, 50_000, 3), 77);
    let [LogEvent::Accepted { sequence, facts }, LogEvent::Committed { ticket: 77 }] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!((sequence.0, facts.routes.len(), facts.routes[0].pending.len()), (1, 2, 2));
    assert_eq!(read(&mut log, *sequence), content(1, 50_000));
    let detail = log.message(*sequence).unwrap();

    let (mut log, report) = open(log.into_disk());
    assert_eq!((report.living_messages, report.damage.len(), report.torn_tail), (1, 0, None));
    assert_eq!(log.find(id(1)), Some(*sequence));
    assert_eq!(log.facts(*sequence).as_ref(), Some(facts));
    assert_eq!(read(&mut log, *sequence), content(1, 50_000));
    assert_eq!(log.message(*sequence).unwrap(), detail);
}

#[test]
fn outcomes_end_recipients_and_the_last_one_ends_the_message() {
    let (mut log, _) = open(create());
    put(&mut log, Lane::Normal, message(1, 100, 2), 1);
    let sequence = MessageSequence(1);
    put(&mut log, Lane::Outcome, outcome(sequence, 0, 1, Outcome::Failed(diagnostic("no"))), 2);
    assert_eq!(log.facts(sequence).unwrap().report_owed, [RecipientRange { first: 0, count: 1 }]);
    log.append(NOW, Lane::Outcome, outcome(sequence, 1, 1, deferred("busy")), 3).unwrap();
    settle(&mut log, NOW.plus_ms(1000));
    let detail = log.message(sequence).unwrap().unwrap();
    assert_eq!(detail.states[0].last, Some(diagnostic("no")));
    assert_eq!((detail.states[1].attempts, detail.states[1].last.clone()), (1, Some(diagnostic("busy"))));

    let (mut log, _) = open(log.into_disk());
    assert_eq!(log.message(sequence).unwrap().unwrap(), detail);
    let reported = Outcome::Reported { report: None, why: "null sender".to_owned() };
    put(&mut log, Lane::Outcome, outcome(sequence, 0, 1, reported), 4);
    log.append(NOW, Lane::Outcome, outcome(sequence, 0, 2, delivered()), 5).unwrap();
    let events = settle(&mut log, NOW.plus_ms(1000));
    let one = vec![(RecipientRange { first: 1, count: 1 }, delivered())];
    assert_eq!(
        events,
        [
            LogEvent::Outcome { sequence, outcomes: one },
            LogEvent::Dead { sequence },
            LogEvent::Committed { ticket: 5 }
        ]
    );
    assert_eq!(log.status().living_octets, 0);
    let (mut log, report) = open(log.into_disk());
    assert_eq!((report.living_messages, log.message(sequence)), (0, Ok(None)));
    assert_eq!(put(&mut log, Lane::Normal, message(1, 100, 2), 6), [LogEvent::Committed { ticket: 6 }]);
    assert_eq!(log.messages_from(MessageSequence(0)).count(), 0);
}

#[test]
fn outcomes_that_may_wait_share_a_sync_with_others_or_wait_no_longer_than_they_may() {
    let (mut log, _) = open(create());
    put(&mut log, Lane::Normal, message(1, 100, 2), 1);
    log.append(NOW, Lane::Outcome, outcome(MessageSequence(1), 0, 1, delivered()), 2).unwrap();
    assert!(settle(&mut log, NOW).is_empty());
    assert_eq!(log.wake_at(), Some(NOW.plus_ms(100)));
    assert!(settle(&mut log, NOW.plus_ms(99)).is_empty());
    assert_eq!(settle(&mut log, NOW.plus_ms(100)).len(), 2);
    log.append(NOW, Lane::Outcome, outcome(MessageSequence(1), 1, 1, delivered()), 3).unwrap();
    let events = put(&mut log, Lane::NonUrgent, message(2, 100, 1), 4);
    assert!(events.contains(&LogEvent::Committed { ticket: 3 }));
    assert_eq!(log.wake_at(), None);
}

#[test]
fn a_set_with_an_unknown_chunk_is_refused_and_changes_nothing() {
    let (mut log, _) = open(create());
    let mut set = message(1, 50_000, 1);
    set.records.remove(1);
    let events = put(&mut log, Lane::Normal, set, 9);
    assert!(
        matches!(events[..], [LogEvent::Refused { ticket: 9, error: AppendError::Invalid(_) }]),
        "{events:?}"
    );
    assert_eq!(log.status().living_octets, 0);
}

#[test]
fn content_that_comes_before_its_envelope_is_a_partial_message_until_then_or_until_it_is_late() {
    let (mut log, _) = open(create());
    for number in [1, 2] {
        let mut set = message(number, 50_000, 1);
        let envelope = set.records.pop().unwrap();
        put(&mut log, Lane::Normal, set, 1);
        if number == 1 {
            assert_eq!(log.partials().next().map(|partial| partial.octets), Some(50_000));
            log = open(log.into_disk()).0;
            assert_eq!(log.partials().next().map(|partial| partial.first_seen_at), Some(NOW));
            put(&mut log, Lane::Normal, AppendSet { records: vec![envelope] }, 2);
            let sequence = log.messages_from(MessageSequence(0)).next().unwrap().sequence;
            assert_eq!(read(&mut log, sequence), content(1, 50_000));
        }
    }
    assert_eq!(log.partials().count(), 1);
    settle(&mut log, NOW.plus_ms(3_600_000));
    assert_eq!(log.partials().count(), 0);
    assert_eq!(open(log.into_disk()).0.partials().count(), 0);
}

#[test]
fn one_old_message_survives_many_rounds_of_the_log_with_its_state() {
    let (mut log, _) = open(create());
    put(&mut log, Lane::Normal, message(1, 70_000, 2), 1);
    let old = MessageSequence(1);
    put(&mut log, Lane::Outcome, outcome(old, 0, 1, Outcome::Failed(diagnostic("no"))), 2);
    log.append(NOW, Lane::Outcome, outcome(old, 1, 1, deferred("busy")), 3).unwrap();
    settle(&mut log, NOW.plus_ms(500));
    for number in 2..300 {
        let events = put(&mut log, Lane::Normal, message(number, 30_000, 1), 4);
        let sequence = events.iter().find_map(|event| match event {
            LogEvent::Accepted { sequence, .. } => Some(*sequence),
            _ => None,
        });
        let sequence = sequence.unwrap_or_else(|| panic!("message {number}: {events:?}, {:?}", log.status()));
        log.append(NOW, Lane::Outcome, outcome(sequence, 0, 1, delivered()), 5).unwrap();
        settle(&mut log, NOW.plus_ms(500));
        if number % 50 == 0 {
            log = open(log.into_disk()).0;
        }
    }
    assert!(log.status().moved_records > 0);
    assert_eq!(log.status().living_messages, 1);
    let (mut log, report) = open(log.into_disk());
    assert_eq!(report.damage, []);
    assert_eq!(log.partials().count(), 0);
    assert_eq!(read(&mut log, old), content(1, 70_000));
    let states = log.message(old).unwrap().unwrap().states;
    assert_eq!(states[0].last, Some(diagnostic("no")));
    assert_eq!((states[1].attempts, states[1].last.clone()), (1, Some(diagnostic("busy"))));
}

#[test]
fn a_full_log_refuses_mail_takes_outcomes_and_resumes_by_itself() {
    let (mut log, _) = open(create());
    let mut accepted = Vec::new();
    let mut number = 0;
    loop {
        number += 1;
        assert!(number < 1000, "the log never filled");
        if log.append(NOW, Lane::Normal, message(number, 20_000, 1), 1).is_err() {
            break;
        }
        let events = settle(&mut log, NOW);
        if events.iter().any(|event| matches!(event, LogEvent::Refused { .. })) {
            break;
        }
        accepted.extend(events.into_iter().filter_map(|event| match event {
            LogEvent::Accepted { sequence, .. } => Some(sequence),
            _ => None,
        }));
    }
    let status = log.status();
    assert!(!status.accepts);
    assert!(status.living_octets * 100 / GEOMETRY.octets() > 45, "{status:?}");
    let mut resumed = false;
    for sequence in accepted {
        log.append(NOW, Lane::Outcome, outcome(sequence, 0, 1, delivered()), 2).unwrap();
        let events = settle(&mut log, NOW.plus_ms(500));
        assert!(events.contains(&LogEvent::Dead { sequence }), "{events:?}");
        resumed |= events.contains(&LogEvent::Alarm(Alarm::Resumed));
    }
    assert!(resumed && log.status().accepts, "{:?}", log.status());
}

#[test]
fn a_failed_write_refuses_its_sets_and_the_log_goes_on_elsewhere() {
    let (mut log, _) = open(create());
    put(&mut log, Lane::Normal, message(1, 1000, 1), 1);
    log.disk_mut().failures = 1;
    let events = put(&mut log, Lane::Normal, message(2, 1000, 1), 2);
    assert!(
        matches!(
            &events[..],
            [
                LogEvent::Alarm(Alarm::WriteFailed { .. }),
                LogEvent::Refused { ticket: 2, error: AppendError::Disk(_) }
            ]
        ),
        "{events:?}"
    );
    let said = [events[0].clone(), events[1].clone()].map(|event| match event {
        LogEvent::Alarm(alarm) => alarm.to_string(),
        LogEvent::Refused { error, .. } => chain(&error),
        _ => String::new(),
    });
    assert!(
        said[0].ends_with("of the log failed (on demand); its senders were told to try again"),
        "{said:?}"
    );
    assert_eq!(said[1], "the write failed: write at 0 failed: on demand");
    put(&mut log, Lane::Normal, message(3, 1000, 1), 3);
    // The failed batch reached the disk all the same: it is void.
    let (log, report) = open(log.into_disk());
    assert_eq!(report.damage, []);
    let ids: Vec<_> = log.messages_from(MessageSequence(0)).map(|facts| facts.id).collect();
    assert_eq!(ids, [id(1), id(3)]);
}

#[test]
fn two_failures_in_a_row_close_the_log_until_a_probe_succeeds() {
    let (mut log, _) = open(create());
    log.disk_mut().failures = 3;
    put(&mut log, Lane::Normal, message(1, 1000, 1), 1);
    put(&mut log, Lane::Normal, message(2, 1000, 1), 2);
    assert_eq!(log.append(NOW, Lane::Normal, message(3, 1000, 1), 3), Err(AppendError::Closed));
    settle(&mut log, NOW.plus_ms(1000));
    assert_eq!(log.append(NOW, Lane::Normal, message(3, 1000, 1), 3), Err(AppendError::Closed));
    let events = settle(&mut log, NOW.plus_ms(2000));
    assert_eq!(events, [LogEvent::Alarm(Alarm::Reopened)]);
    assert_eq!(put(&mut log, Lane::Normal, message(3, 1000, 1), 3).len(), 2);
    assert_eq!(open(log.into_disk()).1.living_messages, 1);
}

#[test]
fn a_lost_superblock_is_rewritten_from_the_other_one() {
    let mut disk = create();
    disk.octets[..PAGE_OCTETS].fill(0);
    let (log, report) = open(disk);
    assert_eq!(report.damage.len(), 1);
    let (_, report) = open(log.into_disk());
    assert_eq!(report.damage, []);
    let mut disk = create();
    disk.octets[..PAGE_OCTETS].fill(0);
    disk.octets[32_768..32_768 + PAGE_OCTETS].fill(0);
    assert_eq!(try_open(disk, Parameters::default()).err(), Some(OpenError::NoLog));
}

#[test]
fn damage_in_the_middle_is_reported_and_costs_only_what_it_hit() {
    let (mut log, _) = open(create());
    let mut offsets = Vec::new();
    for number in 1..=3 {
        offsets.push(log.head.map_or(4096, |head| head.offset));
        put(&mut log, Lane::Normal, message(number, 5000, 1), 1);
    }
    let mut disk = log.into_disk();
    let second = usize::try_from(GEOMETRY.offset_of(0, offsets[1])).unwrap();
    let header = (second + 20, second, DamagedPart::Batches);
    let content = (second + 5000, second + 128, DamagedPart::Record);
    for (at, start, what) in [header, content] {
        let old = disk.octets[at];
        disk.octets[at] ^= 1;
        let (log, report) = open(disk);
        let told: Vec<_> = report.damage.iter().map(|damage| (damage.offset, damage.what)).collect();
        assert_eq!(told, [(start as u64, what)]);
        assert_eq!(report.damaged_messages.len(), usize::from(what == DamagedPart::Record));
        let ids: Vec<_> = log.messages_from(MessageSequence(0)).map(|facts| facts.id).collect();
        assert_eq!(ids, [id(1), id(3)]);
        disk = log.into_disk();
        disk.octets[at] = old;
    }
    let third = usize::try_from(GEOMETRY.offset_of(0, offsets[2])).unwrap();
    disk.octets[third + 3000] ^= 1;
    let (_, report) = open(disk);
    assert_eq!((report.torn_tail, report.damage.len(), report.living_messages), (Some(third as u64), 0, 2));
}

#[test]
fn a_lost_segment_header_costs_nothing() {
    let (mut log, _) = open(create());
    for number in 1..=12 {
        put(&mut log, Lane::Normal, message(number, 40_000, 1), 1);
    }
    assert!(log.status().live_segments >= 3);
    let mut disk = log.into_disk();
    let second = usize::try_from(GEOMETRY.offset_of(1, 0)).unwrap();
    disk.octets[second..second + PAGE_OCTETS].fill(0);
    let (_, report) = open(disk);
    assert_eq!((report.living_messages, report.damage.len()), (12, 1));
    assert_eq!(report.damage[0].what, DamagedPart::SegmentHeader);
}

fn committed(events: Vec<LogEvent>) -> Vec<u64> {
    let ticket = |event| match event {
        LogEvent::Committed { ticket } => Some(ticket),
        _ => None,
    };
    events.into_iter().filter_map(ticket).collect()
}

#[test]
fn urgent_mail_and_outcomes_go_before_what_waits_for_room_in_a_batch() {
    let (mut log, _) = open(create());
    put(&mut log, Lane::Normal, message(1, 100, 1), 0);
    // More than a batch takes: 20 × 20,000 octets.
    for ticket in 100..120 {
        log.append(NOW, Lane::NonUrgent, message(ticket, 20_000, 1), ticket.into()).unwrap();
    }
    for (ticket, lane) in [(4, Lane::NonUrgent), (3, Lane::Normal), (2, Lane::Urgent)] {
        log.append(NOW, lane, message(ticket, 100, 1), ticket.into()).unwrap();
    }
    log.append(NOW, Lane::Outcome, outcome(MessageSequence(1), 0, 1, delivered()), 1).unwrap();
    let tickets = committed(settle(&mut log, NOW));
    let place = |ticket| tickets.iter().position(|known| *known == ticket).unwrap();
    assert!([1, 2, 3].iter().all(|ticket| place(*ticket) < place(104)), "{tickets:?}");
    assert!(place(119) < place(4), "{tickets:?}");
}
