//! Records that are damaged, or that the disk does not read, while the log is in use.

use std::ops::Range;

use sternpost_message::{Mailbox, ReversePath};

use super::*;
use crate::place::Place;
use crate::runs::Last;
use crate::unread::FAILED_READS_MAX;

const FIRST: MessageSequence = MessageSequence(1);

/// A log that keeps no content in memory, with one message of four chunks and three recipients: the first one failed, the
/// second one was deferred.
fn with_one_message() -> Log<MemoryDisk> {
    let parameters = Parameters { recent_content_octets_max: 0, ..Parameters::default() };
    let (mut log, _) = open_with(create(), parameters);
    put(&mut log, Lane::Normal, message(1, 70_000, 3), 1);
    put(&mut log, Lane::Outcome, outcome(FIRST, 0, 1, Outcome::Failed(diagnostic("no"))), 2);
    log.append(NOW, Lane::Outcome, outcome(FIRST, 1, 1, deferred("busy")), 3).unwrap();
    settle(&mut log, NOW.plus_ms(100));
    log
}

/// One message comes and goes at `now`. Gives the alarms.
fn pass_one(log: &mut Log<MemoryDisk>, now: UnixMillis) -> Vec<Alarm> {
    let sequence = MessageSequence(log.next_message);
    let set = message(u32::try_from(sequence.0).unwrap(), 30_000, 1);
    log.append(now, Lane::Normal, set, 9).unwrap();
    let mut events = settle(log, now);
    log.append(now, Lane::Outcome, outcome(sequence, 0, 1, discarded()), 9).unwrap();
    events.extend(settle(log, now));
    assert!(events.contains(&LogEvent::Dead { sequence }), "{events:?}, {:?}", log.status());
    alarms(events)
}

/// As many messages come and go at `now` as fill the log four times. Gives the alarms.
fn churn(log: &mut Log<MemoryDisk>, now: UnixMillis) -> Vec<Alarm> {
    (0..200).flat_map(|_| pass_one(log, now)).collect()
}

fn alarms(events: Vec<LogEvent>) -> Vec<Alarm> {
    let alarm = |event| match event {
        LogEvent::Alarm(alarm) => Some(alarm),
        _ => None,
    };
    events.into_iter().filter_map(alarm).collect()
}

fn discarded() -> Outcome {
    Outcome::Discarded { why: String::new() }
}

fn octets_of(place: Place) -> Range<usize> {
    let start = usize::try_from(GEOMETRY.offset_of(place.segment(), place.offset())).unwrap();
    start..start + place.octets() as usize
}

/// Where the words about a recipient stand.
fn words(log: &Log<MemoryDisk>, recipient: u32) -> Range<usize> {
    let runs = &log.index.get(FIRST).unwrap().runs;
    let run = runs.iter().find(|run| run.first == recipient).unwrap();
    let Last::Outcome(place) = run.last() else { panic!("{run:?}") };
    octets_of(place)
}

fn chunk(log: &Log<MemoryDisk>, index: usize) -> Range<usize> {
    octets_of(log.index.get(FIRST).unwrap().chunks()[index])
}

fn last_words(log: &mut Log<MemoryDisk>) -> Vec<Option<Diagnostic>> {
    log.message(FIRST).unwrap().unwrap().states.into_iter().map(|record| record.last).collect()
}

/// The turns in which reclaim asks for what the disk does not read, until one of them raises an alarm.
fn turns_until_an_alarm(log: &mut Log<MemoryDisk>) -> (u32, Vec<Alarm>) {
    for turn in 1..100 {
        let at = log.wake_at().expect("reclaim waits for the disk");
        log.drive(at);
        let alarms = alarms(std::iter::from_fn(|| log.poll()).collect());
        let goes_on = log.is_writing() || log.wake_at() == Some(at);
        settle(log, at);
        if !alarms.is_empty() {
            assert!(goes_on, "what comes behind the loss waits");
            return (turn, alarms);
        }
    }
    panic!("reclaim waits for ever");
}

fn churn_until_reclaim_rests(log: &mut Log<MemoryDisk>, now: UnixMillis) {
    for _ in 0..200 {
        assert_eq!(pass_one(log, now), []);
        if log.moves_rest_until.is_some() {
            return;
        }
    }
    panic!("reclaim never met what the disk does not read: {:?}", log.status());
}

#[test]
fn a_damaged_diagnostic_costs_its_words_and_never_the_message() {
    let mut log = with_one_message();
    let at = words(&log, 0).end - 1;
    log.disk_mut().octets[at] ^= 1;
    assert_eq!(last_words(&mut log), [None, Some(diagnostic("busy")), None]);

    let alarms = churn(&mut log, NOW.plus_ms(500));
    assert!(matches!(alarms[..], [Alarm::Unreadable { message, .. }] if message == id(1)), "{alarms:?}");
    assert!(log.status().moved_records > 0);
    let (mut log, report) = open(log.into_disk());
    assert_eq!((report.damage, report.damaged_messages), (vec![], vec![]));
    assert_eq!(last_words(&mut log), [None, Some(diagnostic("busy")), None]);
    assert_eq!(log.facts(FIRST).unwrap().report_owed, [RecipientRange { first: 0, count: 1 }]);
    assert_eq!(read(&mut log, FIRST), content(1, 70_000));
}

#[test]
fn what_the_disk_gives_wrong_once_is_not_lost() {
    let mut log = with_one_message();
    let envelope = octets_of(log.index.get(FIRST).unwrap().place);
    let (envelope, words, chunk) = (envelope.end - 1, words(&log, 1).end - 1, chunk(&log, 2).end - 1);
    log.disk_mut().slips = vec![chunk];
    assert_eq!(read(&mut log, FIRST), content(1, 70_000));
    log.disk_mut().slips = vec![envelope];
    assert!(log.message(FIRST).is_ok());
    log.disk_mut().slips = vec![envelope, words, chunk];
    assert_eq!(churn(&mut log, NOW.plus_ms(500)), []);
    assert_eq!(log.disk().slips, []);
    assert!(log.status().moved_records > 0);
    assert_eq!(read(&mut log, FIRST), content(1, 70_000));
    assert_eq!(last_words(&mut log)[1], Some(diagnostic("busy")));
}

#[test]
fn what_the_disk_does_not_read_for_a_while_is_moved_when_it_does() {
    let mut log = with_one_message();
    let now = NOW.plus_ms(500);
    log.disk_mut().bad = vec![words(&log, 1), chunk(&log, 2)];
    churn_until_reclaim_rests(&mut log, now);
    for _ in 2..FAILED_READS_MAX {
        let at = log.wake_at().unwrap();
        assert_eq!(settle(&mut log, at), []);
    }
    log.disk_mut().bad.clear();
    let at = log.wake_at().unwrap();
    assert_eq!(churn(&mut log, at), []);
    assert_eq!(read(&mut log, FIRST), content(1, 70_000));
    assert_eq!(last_words(&mut log), [Some(diagnostic("no")), Some(diagnostic("busy")), None]);
}

#[test]
fn a_diagnostic_that_the_disk_never_reads_is_left_out_and_its_message_moves() {
    let mut log = with_one_message();
    log.disk_mut().bad = vec![words(&log, 1)];
    assert!(matches!(log.message(FIRST), Err(ReadError::Disk(_))));
    churn_until_reclaim_rests(&mut log, NOW.plus_ms(500));
    let (turns, alarms) = turns_until_an_alarm(&mut log);
    // The fetch above and the churn were two of the failures.
    assert!(turns + 2 >= FAILED_READS_MAX, "{turns}");
    assert!(matches!(alarms[..], [Alarm::Unreadable { message, .. }] if message == id(1)), "{alarms:?}");
    assert_eq!(churn(&mut log, NOW.plus_ms(60_000)), []);
    assert_eq!(last_words(&mut log), [Some(diagnostic("no")), None, None]);
    assert_eq!(read(&mut log, FIRST), content(1, 70_000));
}

#[test]
fn a_chunk_that_the_disk_never_reads_costs_its_message_and_not_the_log() {
    let mut log = with_one_message();
    log.disk_mut().bad = vec![chunk(&log, 2)];
    churn_until_reclaim_rests(&mut log, NOW.plus_ms(500));
    assert_eq!(log.wake_at(), Some(NOW.plus_ms(1500)));
    let (turns, alarms) = turns_until_an_alarm(&mut log);
    assert_eq!(turns + 1, FAILED_READS_MAX);
    assert!(matches!(alarms[..], [Alarm::Unreadable { message, .. }] if message == id(1)), "{alarms:?}");
    assert_eq!(churn(&mut log, NOW.plus_ms(60_000)), []);
    assert_eq!(log.messages_from(MessageSequence(0)).count(), 0);
    assert_eq!(log.read_content(FIRST, 0, &mut [0; 70_000]), Err(ReadError::Missing(FIRST)));
    // An operator can still see it and throw it away.
    assert_eq!(log.message(FIRST).unwrap().unwrap().id, id(1));
    let (mut log, report) = open(log.into_disk());
    assert_eq!((report.damage, report.damaged_messages), (vec![], vec![(FIRST, id(1))]));
    put(&mut log, Lane::Outcome, outcome(FIRST, 0, 3, discarded()), 7);
    assert_eq!(log.status().living_octets, 0);
}

#[test]
fn an_envelope_that_the_disk_never_reads_costs_no_content_and_not_the_log() {
    let mut log = with_one_message();
    log.disk_mut().bad = vec![octets_of(log.index.get(FIRST).unwrap().place)];
    churn_until_reclaim_rests(&mut log, NOW.plus_ms(500));
    let (turns, alarms) = turns_until_an_alarm(&mut log);
    assert_eq!(turns + 1, FAILED_READS_MAX);
    let [Alarm::EnvelopeLost { message, octets_left, octets, .. }] = alarms[..] else { panic!("{alarms:?}") };
    assert_eq!((message, octets_left, octets), (id(1), 70_000, 70_000));
    assert_eq!(churn(&mut log, NOW.plus_ms(60_000)), []);
    assert!(log.is_damaged(FIRST));
    assert_eq!(log.message(FIRST), Err(ReadError::EnvelopeLost(FIRST)));
}

#[test]
fn a_message_without_envelope_is_kept_apart_through_moves_and_restarts_until_it_is_discarded() {
    let mut log = with_one_message();
    let at = octets_of(log.index.get(FIRST).unwrap().place).end - 1;
    log.disk_mut().octets[at] ^= 1;
    assert!(matches!(churn(&mut log, NOW.plus_ms(500))[..], [Alarm::EnvelopeLost { .. }]));
    for round in 1..=3 {
        let (reopened, report) = open(log.into_disk());
        log = reopened;
        assert_eq!((report.damage, report.damaged_messages), (vec![], vec![(FIRST, id(1))]), "{round}");
        assert_eq!(log.messages_from(MessageSequence(0)).count(), 0);
        let facts = log.facts(FIRST).unwrap();
        assert_eq!(
            (facts.accepted_at, &facts.report_owed[..]),
            (NOW, &[RecipientRange { first: 0, count: 1 }][..])
        );
        assert_eq!(log.message(FIRST), Err(ReadError::EnvelopeLost(FIRST)));
        let chunks = (0..4).flat_map(|chunk| log.read_chunk(FIRST, chunk).unwrap().unwrap().to_vec());
        assert_eq!(chunks.collect::<Vec<u8>>(), content(1, 70_000));
        assert_eq!(churn(&mut log, NOW.plus_ms(60_000)), []);
    }
    let mut inspection = inspect(MemoryDisk::new(log.disk().octets.clone()), &mut |_| {}).unwrap();
    let isolated = inspection.verify(&mut |_| {}).unwrap().isolated;
    assert_eq!(isolated, [IsolatedFacts { sequence: FIRST, id: id(1), why: Isolation::Envelope }]);
    put(&mut log, Lane::Outcome, outcome(FIRST, 0, 3, discarded()), 7);
    assert_eq!(log.status().living_octets, 0);
}

#[test]
fn a_stand_in_that_the_index_of_the_old_segment_knows_nothing_of_isolates_its_message() {
    let mut log = with_one_message();
    let at = octets_of(log.index.get(FIRST).unwrap().place).end - 1;
    log.disk_mut().octets[at] ^= 1;
    while pass_one(&mut log, NOW.plus_ms(500)).is_empty() {}
    // The old segment is not written again yet.
    let (mut log, report) = open(log.into_disk());
    assert_eq!(report.damaged_messages, [(FIRST, id(1))]);
    assert_eq!(log.message(FIRST), Err(ReadError::EnvelopeLost(FIRST)));
}

#[test]
fn the_address_of_a_stand_in_is_a_mailbox() {
    let detail = stand_in_of_three();
    let unknown = Mailbox::parse("unknown@invalid").unwrap();
    let addresses: Vec<_> = detail.envelope.recipients.iter().map(|recipient| &recipient.address).collect();
    assert_eq!(addresses, [&unknown; 3]);
    assert_eq!(detail.envelope.sender, ReversePath::Null);
}

/// What stands for the envelope of a message to three.
fn stand_in_of_three() -> MessageDetail {
    let log = with_one_message();
    let living = log.index.get(FIRST).unwrap();
    stand_in::detail(FIRST, living, log.index.routes_of(living))
}

#[test]
fn a_stand_in_keeps_routes_and_recipients_and_can_be_shortened_to_one() {
    let detail = stand_in_of_three();
    assert_eq!(detail.envelope.routes, envelope(3, NOW).routes);
    assert_eq!((detail.states.len(), detail.envelope.recipients.len()), (3, 3));
    let short = stand_in::shortened(detail);
    assert_eq!((short.states.len(), short.envelope.recipients.len()), (1, 1));
}
