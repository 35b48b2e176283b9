//! What a whole reading finds in a damaged log, and what can still be read of it.

use super::*;
use crate::place::Place;

/// Sets of 30,000 octets and more fill a batch each, so that damage of one hits no other.
const ALONE: usize = 50_000;
/// In a record: its CRC. The headers of a batch's records hold together or not at all, so damage here is the whole batch's.
const IN_RECORD_HEADER: u64 = 8;

fn inspected(disk: MemoryDisk) -> Inspection<MemoryDisk> {
    inspect(disk, &mut |_| {}).unwrap()
}

fn discarded() -> Outcome {
    Outcome::Discarded { why: String::new() }
}

/// Where on the disk something stands.
fn at(place: Place) -> u64 {
    GEOMETRY.offset_of(place.segment(), place.offset())
}

fn flip(disk: &mut MemoryDisk, offset: u64) {
    disk.octets[usize::try_from(offset).unwrap()] ^= 1;
}

/// Three messages in a batch each.
fn with_three() -> Log<MemoryDisk> {
    let (mut log, _) = open(create());
    for number in 1..=3 {
        put(&mut log, Lane::Normal, message(number, ALONE, 2), 1);
    }
    log
}

fn read(inspection: &mut Inspection<MemoryDisk>, number: u32) -> Vec<Result<Vec<u8>, ReadError>> {
    let sequence = inspection.find(id(number)).unwrap();
    let chunk = |chunk| inspection.read_chunk(sequence, chunk).transpose();
    (0..).map_while(chunk).map(|chunk| chunk.map(|octets| octets.to_vec())).collect()
}

#[test]
fn a_log_that_is_whole_is_counted_and_nothing_is_wrong() {
    let (mut log, _) = open(create());
    put(&mut log, Lane::Normal, message(1, 5_000, 1), 1);
    put(&mut log, Lane::Normal, message(2, 45_000, 2), 2);
    put(&mut log, Lane::Outcome, outcome(MessageSequence(1), 0, 1, Outcome::Failed(diagnostic("no"))), 3);
    let mut partial = message(3, 100, 1);
    partial.records.truncate(1);
    put(&mut log, Lane::Normal, partial, 4);
    put(&mut log, Lane::Normal, AppendSet { records: vec![Append::DiscardPartial { message: id(3) }] }, 5);
    let found = inspected(log.into_disk()).verify(&mut |_| {}).unwrap();
    assert_eq!((found.damage, found.isolated), (Vec::new(), Vec::new()));
    assert_eq!((found.batches, found.segments_living), (5, 1));
    let records = RecordCounts { chunks: 5, envelopes: 2, outcomes: 1, moved: 0, discarded: 1, others: 0 };
    assert_eq!(found.records, records);
    assert_eq!(found.written, Some((NOW, NOW)));
}

#[test]
fn verify_compares_content_with_its_sha256() {
    let (mut log, _) = open(create());
    put(&mut log, Lane::Normal, message(1, 5000, 1), 1);
    let mut set = message(2, 5000, 1);
    if let Some(Append::Envelope { content_sha256, .. }) = set.records.last_mut() {
        content_sha256[0] ^= 1;
    }
    put(&mut log, Lane::Normal, set, 2);
    let mut inspection = inspected(log.into_disk());
    assert_eq!(inspection.messages().count(), 2);
    let found = inspection.verify(&mut |_| {}).unwrap();
    let parts: Vec<_> = found.damage.iter().map(|place| place.damage.what).collect();
    assert_eq!(parts, [DamagedPart::Content]);
    let isolated = IsolatedFacts { sequence: MessageSequence(2), id: id(2), why: Isolation::Sha256 };
    assert_eq!(found.isolated, [isolated]);
}

#[test]
fn a_record_that_damage_has_hit_is_named_with_its_place_and_its_message_and_costs_no_other() {
    // A batch with another one behind it in its segment, and the last one of a segment.
    for number in [1, 2] {
        let log = with_three();
        let sequence = MessageSequence(u64::from(number));
        let chunk = log.index.get(sequence).unwrap().chunks()[1];
        let mut disk = log.into_disk();
        flip(&mut disk, at(chunk) + 1_000);
        let mut inspection = inspected(disk);
        let found = inspection.verify(&mut |_| {}).unwrap();
        let [place] = &found.damage[..] else { panic!("{:?}", found.damage) };
        assert_eq!((place.damage.offset, place.damage.what), (at(chunk), DamagedPart::Record));
        let octets = place.damage.octets;
        assert_eq!(octets, u64::from(chunk.octets()).next_multiple_of(8));
        let record = DamagedRecord {
            offset: at(chunk),
            octets,
            kind: RecordKind::Chunk(1),
            message: Some(id(number)),
            is_whole: false,
        };
        assert_eq!(place.records, [record]);
        let why = Isolation::Content { lost_count: 1, chunks_count: 3, first: 1 };
        assert_eq!(found.isolated, [IsolatedFacts { sequence, id: id(number), why }]);
        // The chunk is all that is not there.
        assert_eq!((found.batches, found.records.chunks, found.records.envelopes), (3, 8, 3));
        assert_eq!(inspection.strays().count(), 0);
        let chunks = read(&mut inspection, number);
        assert_eq!(chunks.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
    }
}

#[test]
fn records_that_are_damaged_side_by_side_are_named_one_by_one() {
    let log = with_three();
    let chunks = log.index.get(MessageSequence(1)).unwrap().chunks().to_vec();
    let mut disk = log.into_disk();
    flip(&mut disk, at(chunks[0]) + 1_000);
    flip(&mut disk, at(chunks[1]) + 1_000);
    let found = inspected(disk).verify(&mut |_| {}).unwrap();
    let named: Vec<_> = found
        .damage
        .iter()
        .flat_map(|place| &place.records)
        .map(|record| (record.offset, record.kind))
        .collect();
    let wanted = [(at(chunks[0]), RecordKind::Chunk(0)), (at(chunks[1]), RecordKind::Chunk(1))];
    assert_eq!((found.damage.len(), &named[..]), (2, &wanted[..]));
}

#[test]
fn a_message_whose_envelope_is_damaged_in_the_newest_segment_is_isolated_with_its_content() {
    let mut log = with_three();
    put(&mut log, Lane::Normal, message(4, ALONE, 2), 1);
    let envelope = log.index.get(MessageSequence(3)).unwrap().place;
    let mut disk = log.into_disk();
    flip(&mut disk, at(envelope) + 100);
    let mut inspection = inspected(disk);
    let found = inspection.verify(&mut |_| {}).unwrap();
    let named: Vec<_> = found
        .damage
        .iter()
        .flat_map(|place| &place.records)
        .map(|record| (record.kind, record.message))
        .collect();
    assert_eq!(named, [(RecordKind::Envelope, Some(id(3)))]);
    let isolated = IsolatedFacts { sequence: MessageSequence(3), id: id(3), why: Isolation::Envelope };
    assert_eq!((found.isolated, inspection.partials().count()), (vec![isolated], 0));
    let chunks: Vec<u8> = read(&mut inspection, 3).into_iter().filter_map(Result::ok).flatten().collect();
    assert_eq!(chunks, content(3, ALONE));
}

#[test]
fn each_record_of_a_batch_whose_record_headers_are_damaged_is_named_with_its_place_and_its_message() {
    let log = with_three();
    let living = log.index.get(MessageSequence(2)).unwrap();
    let (chunk, envelope, batch) = (living.chunks()[1], living.place, living.chunks()[0].offset() - 128);
    let mut disk = log.into_disk();
    flip(&mut disk, at(chunk) + IN_RECORD_HEADER);
    let found = inspected(disk).verify(&mut |_| {}).unwrap();
    let [place] = &found.damage[..] else { panic!("{:?}", found.damage) };
    assert_eq!(place.damage.what, DamagedPart::Batches);
    assert_eq!(place.damage.offset, GEOMETRY.offset_of(chunk.segment(), batch));
    let records: Vec<_> = place
        .records
        .iter()
        .map(|record| (record.kind, record.offset, record.octets, record.message, record.is_whole))
        .collect();
    let wanted =
        |kind, place: Place, is_whole| (kind, at(place), u64::from(place.octets()), Some(id(2)), is_whole);
    assert_eq!(records[0].0, RecordKind::Chunk(0));
    let (damaged, whole) =
        (wanted(RecordKind::Chunk(1), chunk, false), wanted(RecordKind::Envelope, envelope, true));
    assert_eq!(records[1].0, damaged.0);
    assert_eq!((records[1].1, records[1].3, records[1].4), (damaged.1, damaged.3, damaged.4));
    assert_eq!((records.len(), records[3]), (4, whole));
    assert_eq!(
        found.isolated,
        [IsolatedFacts { sequence: MessageSequence(2), id: id(2), why: Isolation::Stray }]
    );
}

#[test]
fn a_message_that_only_a_damaged_batch_knows_can_be_read_as_far_as_it_is_whole() {
    let log = with_three();
    let chunk = log.index.get(MessageSequence(2)).unwrap().chunks()[1];
    let mut disk = log.into_disk();
    flip(&mut disk, at(chunk) + IN_RECORD_HEADER);
    let mut inspection = inspected(disk);
    assert_eq!(inspection.find(id(2)), None);
    inspection.search(&mut |_| {}).unwrap();
    let chunks = read(&mut inspection, 2);
    let wanted = content(2, ALONE);
    assert_eq!(chunks.len(), 3);
    assert_eq!(chunks[0].as_deref().unwrap(), &wanted[..20_000]);
    assert!(chunks[1].is_err(), "{:?}", chunks[1]);
    assert_eq!(chunks[2].as_deref().unwrap(), &wanted[40_000..]);
    let detail = inspection.message(MessageSequence(2)).unwrap().unwrap();
    assert_eq!((detail.id, detail.states.len(), detail.content_octets), (id(2), 2, ALONE as u64));
}

#[test]
fn a_batch_whose_header_alone_is_damaged_gives_back_all_its_records() {
    let log = with_three();
    let batch = log.index.get(MessageSequence(2)).unwrap().chunks()[0];
    let mut disk = log.into_disk();
    flip(&mut disk, at(batch) - 100);
    let mut inspection = inspected(disk);
    inspection.search(&mut |_| {}).unwrap();
    let read: Vec<u8> = read(&mut inspection, 2).into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(read, content(2, ALONE));
    let found = inspection.verify(&mut |_| {}).unwrap();
    assert_eq!(found.damage.len(), 1);
    let records: Vec<_> =
        found.damage[0].records.iter().map(|record| (record.kind, record.is_whole)).collect();
    assert_eq!(records[0], (RecordKind::BatchHeader, false));
    assert!(records[1..5].iter().all(|(_, is_whole)| *is_whole), "{records:?}");
    // The batch was the last one of its segment: nothing says that there was no other behind it.
    assert_eq!(records[5..], [(RecordKind::Unknown, false)]);
}

#[test]
fn a_living_message_gets_a_chunk_back_from_a_batch_that_is_damaged_elsewhere() {
    let (mut log, _) = open(create());
    let mut set = message(1, ALONE, 1);
    let rest = set.records.split_off(2);
    // Chunk 1 of the message shares its batch with what is damaged.
    let mut shared = message(2, 1_000, 1);
    shared.records.extend(set.records.split_off(1));
    put(&mut log, Lane::Normal, set, 1);
    put(&mut log, Lane::Normal, shared, 2);
    put(&mut log, Lane::Normal, AppendSet { records: rest }, 3);
    let other = log.index.get(MessageSequence(1)).unwrap().chunks()[0];
    let mut disk = log.into_disk();
    flip(&mut disk, at(other) + IN_RECORD_HEADER);
    let mut inspection = inspected(disk);
    let lost = read(&mut inspection, 1);
    assert!(lost[1].is_err() && lost[2].is_ok());
    inspection.search(&mut |_| {}).unwrap();
    let found: Vec<u8> = read(&mut inspection, 1).into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(found, content(1, ALONE));
    let why = Isolation::Content { lost_count: 1, chunks_count: 3, first: 1 };
    let isolated = inspection.verify(&mut |_| {}).unwrap().isolated;
    assert!(
        isolated.contains(&IsolatedFacts { sequence: MessageSequence(2), id: id(1), why }),
        "{isolated:?}"
    );
}

#[test]
fn a_message_of_a_damaged_batch_that_is_over_is_no_stray() {
    let mut log = with_three();
    put(&mut log, Lane::Outcome, outcome(MessageSequence(2), 0, 1, discarded()), 4);
    let half = |log: &Log<MemoryDisk>| log.index.get(MessageSequence(2)).unwrap().chunks()[0];
    let chunk = half(&log);
    let mut copy = MemoryDisk::new(log.disk().octets.clone());
    flip(&mut copy, at(chunk) + IN_RECORD_HEADER);
    let mut inspection = inspected(copy);
    inspection.search(&mut |_| {}).unwrap();
    let states: Vec<_> =
        inspection.strays().flat_map(|stray| stray.states.iter().map(|record| record.state.name())).collect();
    assert_eq!(states, ["discarded", "pending"]);
    put(&mut log, Lane::Outcome, outcome(MessageSequence(2), 1, 1, discarded()), 5);
    let mut disk = log.into_disk();
    flip(&mut disk, at(chunk) + IN_RECORD_HEADER);
    let mut inspection = inspected(disk);
    inspection.search(&mut |_| {}).unwrap();
    assert_eq!(inspection.strays().count(), 0);
}

#[test]
fn content_that_looks_like_records_hides_none_of_what_stands_behind_it_in_a_damaged_batch() {
    let geometry = Geometry { segment_octets: 1 << 20, segments: 8 };
    let octets = usize::try_from(geometry.octets()).unwrap();
    let disk = Log::create(MemoryDisk::new(vec![0; octets]), geometry, [7; 16]).unwrap();
    let (mut log, _) = open(disk);
    // At each eight octets: an envelope of 700,000 octets.
    let looks_like_records = [2_u32.to_le_bytes(), 700_000_u32.to_le_bytes()].concat().repeat(8_192);
    let hider = Append::Content { message: id(1), index: 0, octets: looks_like_records.into() };
    log.append(NOW, Lane::Normal, AppendSet { records: vec![hider] }, 1).unwrap();
    log.append(NOW, Lane::Normal, message(2, 800_000, 1), 2).unwrap();
    settle(&mut log, NOW);
    put(&mut log, Lane::Normal, message(3, 1_000, 1), 3);
    let hider = log.index.partial(id(1)).unwrap().chunks[&0];
    let envelope = log.index.get(log.find(id(2)).unwrap()).unwrap().place;
    assert_eq!(hider.segment(), envelope.segment());
    let mut disk = log.into_disk();
    let start = usize::try_from(geometry.offset_of(hider.segment(), hider.offset())).unwrap();
    // Its header and that of its batch.
    disk.octets[start - 100] ^= 1;
    disk.octets[start + 4] ^= 1;
    let mut inspection = inspected(disk);
    inspection.search(&mut |_| {}).unwrap();
    let found: Vec<u8> = read(&mut inspection, 2).into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(found, content(2, 800_000));
}

#[test]
fn a_torn_tail_is_nobodys_message() {
    let log = with_three();
    let chunk = log.index.get(MessageSequence(3)).unwrap().chunks()[0];
    let mut disk = log.into_disk();
    flip(&mut disk, at(chunk) + 1_000);
    let mut inspection = inspected(disk);
    let found = inspection.verify(&mut |_| {}).unwrap();
    assert!(inspection.report().torn_tail.is_some());
    assert_eq!((found.damage, found.isolated), (Vec::new(), Vec::new()));
}

#[test]
fn any_octet_that_is_damaged_is_survived_and_costs_no_other_batch() {
    let log = with_three();
    let whole = log.into_disk().octets;
    for offset in (65_536..65_536 + 3 * 60_000).step_by(331) {
        let mut disk = MemoryDisk::new(whole.clone());
        flip(&mut disk, offset);
        let mut inspection = inspected(disk);
        inspection.search(&mut |_| {}).unwrap();
        let readable = (1..=3)
            .filter(|number| {
                inspection.find(id(*number)).is_some()
                    && read(&mut inspection, *number).iter().all(Result::is_ok)
            })
            .count();
        assert!(readable >= 2, "{offset}: {readable}");
    }
}

#[test]
fn the_log_in_use_gives_the_chunks_that_are_whole() {
    let parameters = Parameters { recent_content_octets_max: 0, ..Parameters::default() };
    let (mut log, _) = open_with(create(), parameters);
    put(&mut log, Lane::Normal, message(1, ALONE, 1), 1);
    let chunk = log.index.get(MessageSequence(1)).unwrap().chunks()[1];
    flip(log.disk_mut(), at(chunk) + 1_000);
    let sequence = MessageSequence(1);
    assert_eq!(log.read_chunk(sequence, 0).unwrap().as_deref(), Some(&content(1, ALONE)[..20_000]));
    assert!(matches!(log.read_chunk(sequence, 1), Err(ReadError::Damaged { .. })));
    assert!(log.read_chunk(sequence, 2).unwrap().is_some());
    assert_eq!(log.read_chunk(sequence, 3).unwrap(), None);
    assert_eq!(log.read_chunk(MessageSequence(9), 0), Err(ReadError::Unknown(MessageSequence(9))));
    assert!(!log.is_damaged(sequence));
}

#[test]
fn a_record_that_the_disk_gives_right_again_is_read_again() {
    let parameters = Parameters { recent_content_octets_max: 0, ..Parameters::default() };
    let (mut log, _) = open_with(create(), parameters);
    put(&mut log, Lane::Normal, message(1, 10_000, 1), 1);
    let sequence = MessageSequence(1);
    let living = log.index.get(sequence).unwrap();
    let (chunk, envelope) = (living.chunks()[0], living.place);
    flip(log.disk_mut(), at(chunk) + 1_000);
    assert!(matches!(log.read_chunk(sequence, 0), Err(ReadError::Damaged { .. })));
    flip(log.disk_mut(), at(chunk) + 1_000);
    assert_eq!(log.read_chunk(sequence, 0).unwrap().as_deref(), Some(&content(1, 10_000)[..]));
    flip(log.disk_mut(), at(envelope) + 100);
    assert!(matches!(log.message(sequence), Err(ReadError::Damaged { .. })));
    flip(log.disk_mut(), at(envelope) + 100);
    assert!(log.message(sequence).unwrap().is_some());
}

#[test]
fn a_page_that_is_not_read_costs_verify_the_messages_on_it_and_a_device_that_is_away_ends_it() {
    let log = with_three();
    let places: Vec<_> =
        (1..=3).map(|number| log.index.get(MessageSequence(number)).unwrap().place).collect();
    let bad = usize::try_from(at(places[1])).unwrap();
    let disk = log.into_disk();
    let octets = disk.octets.len();
    let isolated = IsolatedFacts { sequence: MessageSequence(2), id: id(2), why: Isolation::Envelope };
    let mut inspection = inspected(disk);
    inspection.disk_mut().bad.push(bad..bad + 1);
    let found = inspection.verify(&mut |_| {}).unwrap();
    assert_eq!(found.isolated, [isolated]);
    let page = PAGE_OCTETS as u64;
    let unread = found.damage.iter().filter(|place| place.damage.what == DamagedPart::Unreadable);
    let unread: Vec<_> = unread.map(|place| (place.damage.offset, place.damage.octets)).collect();
    assert_eq!(unread, [(bad as u64 / page * page, page)]);
    inspection.disk_mut().bad.push(0..octets);
    assert!(matches!(inspection.verify(&mut |_| {}), Err(ReadError::Disk(_))));
}

#[test]
fn a_damaged_envelope_in_a_sealed_segment_isolates_its_message_also_for_who_reads_every_record() {
    let (mut log, _) = open(create());
    let mut number = 0;
    while log.status().live_segments < 3 {
        number += 1;
        put(&mut log, Lane::Normal, message(number, 30_000, 2), 1);
    }
    put(&mut log, Lane::Outcome, outcome(MessageSequence(2), 0, 1, Outcome::Failed(diagnostic("no"))), 1);
    let facts = log.facts(MessageSequence(2)).unwrap();
    let end_of_body = at(log.index.get(MessageSequence(2)).unwrap().place) + 60;
    let mut disk = log.into_disk();
    flip(&mut disk, end_of_body);
    let mut inspection = inspected(disk);
    assert_eq!(inspection.report().damaged_messages, [(MessageSequence(2), id(2))]);
    assert!(
        inspection.messages().any(|seen| seen == facts),
        "routes and states are those that the index tells"
    );
    assert!(read(&mut inspection, 2).iter().all(Result::is_ok), "its content is still there");
    let found = inspection.verify(&mut |_| {}).unwrap();
    let isolated = IsolatedFacts { sequence: MessageSequence(2), id: id(2), why: Isolation::Envelope };
    assert_eq!(found.isolated, [isolated]);
    assert_eq!(found.damage.iter().map(|place| place.damage.what).collect::<Vec<_>>(), [DamagedPart::Record]);
}
