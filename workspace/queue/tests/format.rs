//! FORMAT.md is complete and true: a reader that knows nothing else finds in a log what the queue finds, in both ways of
//! looking, whatever the log holds and however it is damaged.
//!
//! `compare` is the judge: messages with envelopes, contents and states, partial and isolated messages, damage, torn tail.
//! What a test adds is that the log holds what its name says. `STERNPOST_SEED=17 cargo test -p sternpost-queue --test format`
//! flips that bit alone and lives that history alone in the last three.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here, with the place")]

mod reader;

use std::ops::Range;
use std::sync::OnceLock;

use reader::comparison::{Way, compare, compare_without, ids, read, told};
use reader::damage::{damage, page};
use reader::difference::differences;
use reader::history::{Ids, Summary, live};
use reader::mail::{content, diagnostic, id, message, plain, range, rich};
use reader::random::Random;
use reader::writing::{
    SEGMENT_OCTETS, UNWRITTEN, Writing, batches_of, every_shape, find, segment_at, segments_by_age, use_of,
    well_used,
};
use serde_json::{Value, json};
use sternpost_message::{ErrorScope, Outcome};
use sternpost_queue::memory::MemoryDisk;
use sternpost_queue::{Alarm, AppendSet, Lane, LogEvent, PAGE_OCTETS, inspect};

const SUPERBLOCK_B: usize = 32_768;
/// Bits that are flipped, one in each log.
const FLIPS: u64 = 8;
/// Lives of a log, each from one seed.
const LIVES: u64 = 2;
/// Places of each of these logs that are damaged, one after the other.
const DAMAGES: usize = 4;

/// A log in which everything was moved: made once, for it is the same in each test.
fn used() -> Vec<u8> {
    static USED: OnceLock<Vec<u8>> = OnceLock::new();
    USED.get_or_init(well_used).clone()
}

/// A log in which nothing was moved: all but the last segment are sealed and have their indexes.
fn sealed() -> Vec<u8> {
    let mut writing = Writing::new();
    every_shape(&mut writing);
    writing.pass_segments(1);
    writing.into_octets()
}

fn whats(said: &Value) -> Vec<String> {
    told(&said["damage"]).into_iter().map(|(what, ..)| what).collect()
}

/// Messages that cannot be handed out although all their chunks were found.
fn unreadable(said: &Value) -> usize {
    said["messages"].as_array().unwrap().iter().filter(|message| !message["problem"].is_null()).count()
}

fn assert_both_ways_agree(in_full: &Value, by_index: &Value) {
    for part in ["messages", "partials", "isolated", "next_message_sequence", "geometry"] {
        assert_eq!(in_full[part], by_index[part]);
    }
}

fn all_counted(counts: &Value) -> bool {
    counts.as_object().unwrap().values().all(|count| *count != 0)
}

fn damaged(octets: &[u8], place: Range<usize>) -> Vec<u8> {
    let mut octets = octets.to_vec();
    octets[place].iter_mut().for_each(|octet| *octet ^= 0x3c);
    octets
}

/// Where the nth batch of a segment stands.
fn batch_at(octets: &[u8], segment: usize, nth: usize) -> Range<usize> {
    let batches = batches_of(octets, segment);
    batches[nth]..batches.get(nth + 1).copied().unwrap_or(segment_at(segment + 1))
}

/// Whether a part of the log speaks of a message: by its id in a record of it, or by its sequence in an outcome.
fn speaks_of(part: &[u8], message: &Value) -> bool {
    let number = u32::from_str_radix(&message["id"].as_str().unwrap()[..8], 16).unwrap();
    let (name, sequence) = (id(number).0, message["sequence"].as_u64().unwrap().to_le_bytes());
    part.windows(16).any(|octets| octets == name) || part.chunks_exact(8).any(|octets| octets == sequence)
}

/// Compares as `compare`, and looks whether every message is as it was of which nothing stands in the batches that were hit.
fn compare_what_stays(whole: &[u8], hit: &[u8], batches: &[Range<usize>]) -> (Value, Value) {
    let before = read(whole, Way::InFull).unwrap();
    let is_hit = |message: &&Value| batches.iter().any(|batch| speaks_of(&whole[batch.clone()], message));
    let (in_full, by_index) = compare(hit);
    for message in before["messages"].as_array().unwrap().iter().filter(|message| !is_hit(message)) {
        for said in [&in_full, &by_index] {
            assert!(said["messages"].as_array().unwrap().contains(message), "{message} is not as it was");
        }
    }
    (in_full, by_index)
}

/// The segments that live, oldest first.
fn living_segments(octets: &[u8]) -> Vec<usize> {
    let living = read(octets, Way::InFull).unwrap()["segments"].as_array().unwrap().len();
    let segments = segments_by_age(octets);
    segments[segments.len() - living..].to_vec()
}

#[test]
fn a_disagreement_is_told_with_its_place_and_what_either_side_says() {
    let reader = json!({ "same": 1, "messages": { "7": { "to": ["a", "b"], "size": 3 }, "8": {} } });
    let queue = json!({ "same": 1, "messages": { "7": { "to": ["a"], "size": 4 } }, "torn": null });
    let expected = [
        "messages / 7 / size: the reader says 3, the queue 4",
        "messages / 7 / to / 1: the reader alone has \"b\"",
        "messages / 8: the reader alone has {}",
        "torn: the queue alone has null",
    ];
    assert_eq!(differences(&reader, &queue), expected);
    assert!(differences(&queue, &queue).is_empty());
}

#[test]
fn a_stranger_finds_every_message_with_every_field_and_every_outcome() {
    let mut writing = Writing::new();
    every_shape(&mut writing);
    let (in_full, by_index) = compare(&writing.into_octets());
    assert_both_ways_agree(&in_full, &by_index);
    assert_eq!((ids(&in_full["messages"]).len(), ids(&in_full["partials"]).len()), (7, 2));
    let records = &in_full["records"];
    assert!(
        ["content", "envelope", "outcome", "discarded"].iter().all(|kind| records[kind] != 0),
        "{records}"
    );
    let is_told = |message: &Value| message["sha256_told"] == message["sha256_computed"];
    assert!(in_full["messages"].as_array().unwrap().iter().all(is_told));
}

#[test]
fn a_stranger_follows_messages_that_were_moved_into_segments_that_were_used_again() {
    let octets = used();
    assert!(use_of(&octets, 0) > 10);
    let (in_full, by_index) = compare(&octets);
    assert_both_ways_agree(&in_full, &by_index);
    assert_eq!((ids(&in_full["messages"]).len(), ids(&in_full["partials"]).len()), (9, 4));
    assert!(all_counted(&in_full["records"]), "{}", in_full["records"]);
    assert!(all_counted(&by_index["index_entries"]), "{}", by_index["index_entries"]);
}

#[test]
fn an_empty_log_holds_nothing() {
    let (in_full, _) = compare(&Writing::new().into_octets());
    assert_eq!(in_full["segments"].as_array().unwrap().len(), 0);
    assert_eq!(in_full["next_message_sequence"], 1);
}

#[test]
fn a_log_goes_on_behind_the_message_sequence_that_a_stranger_expects() {
    let octets = used();
    let expected = read(&octets, Way::ByIndex).unwrap()["next_message_sequence"].as_u64().unwrap();
    let sequence = Writing::open(octets).accept(message(1000, 9, plain(1000)));
    let left_out = sequence.0.checked_sub(expected).unwrap();
    assert!(left_out >= 1 << 20 && left_out.is_multiple_of(1 << 20), "{left_out}");
}

#[test]
fn words_that_do_not_fit_when_their_message_is_moved_are_left_out_and_states_are_not() {
    let mut writing = Writing::new();
    let sequence = writing.accept(message(1, 5, rich(1, 300)));
    for first in (0..300).step_by(100) {
        let deferred = |at: u32| {
            let diagnostic = diagnostic(4, &format!("{at} {}", "is a long story ".repeat(30)));
            (range(first + at, 1), Outcome::Deferred { scope: ErrorScope::Peer, diagnostic })
        };
        writing.conclude(sequence, (0..100).map(deferred).collect());
    }
    writing.pass_segments(16);
    let (in_full, by_index) = compare(&writing.into_octets());
    assert_both_ways_agree(&in_full, &by_index);
    let recipients = in_full["messages"][0]["recipients"].as_array().unwrap();
    assert!(recipients.iter().all(|recipient| recipient["attempts"] == 1 && recipient["last"].is_null()));
}

/// The write of a set fails after so many octets. Whether it would have opened a segment.
fn write_and_fail(writing: &mut Writing, arrived: usize, set: AppendSet<'_>) -> bool {
    writing.log.disk_mut().fails_after = Some(arrived);
    let events = writing.put(Lane::Normal, set);
    let [LogEvent::Alarm(Alarm::WriteFailed { segment, offset, .. }), LogEvent::Refused { .. }] = events[..]
    else {
        panic!("{events:?}");
    };
    offset == segment_at(segment as usize) as u64
}

#[test]
fn what_a_failed_write_has_left_behind_is_void_whole_torn_or_absent() {
    for arrived in [0, 512, PAGE_OCTETS, usize::MAX] {
        let mut writing = Writing::new();
        every_shape(&mut writing);
        writing.pass_segments(1);
        let opened = write_and_fail(&mut writing, arrived, message(900, 9_000, plain(900)));
        assert!(!opened, "the batch was to fail in the middle of a segment");
        writing.accept(message(901, 9_000, plain(901)));
        writing.pass_segments(1);
        let (in_full, by_index) = compare(&writing.into_octets());
        assert_both_ways_agree(&in_full, &by_index);
        let found = |number| ids(&in_full["messages"]).contains(&id(number).to_string());
        assert_eq!((found(900), found(901), whats(&in_full)), (false, true, vec![]), "{arrived}");
    }
}

/// A log, and the same log one write later, when that write has opened a segment.
fn around_an_opening() -> (Vec<u8>, Vec<u8>) {
    let mut writing = Writing::open(sealed());
    let mut after = writing.log.disk().octets.clone();
    for number in 700.. {
        let before = std::mem::take(&mut after);
        let free = writing.log.status().free_segments;
        writing.accept(message(number, 30_000, plain(number)));
        after.clone_from(&writing.log.disk().octets);
        if writing.log.status().free_segments < free {
            return (before, after);
        }
    }
    unreachable!("a segment has room for four of them at most")
}

#[test]
fn a_segment_whose_first_write_failed_is_void_and_the_next_one_follows_the_one_before() {
    let (before, _) = around_an_opening();
    let mut writing = Writing::open(before);
    assert!(write_and_fail(&mut writing, usize::MAX, message(800, 90_000, plain(800))));
    // If power is cut now, nobody can tell that the batch was refused.
    let (in_full, _) = compare(&writing.log.disk().octets);
    assert!(ids(&in_full["messages"]).contains(&id(800).to_string()));
    writing.pass_segments(1);
    let (in_full, _) = compare(&writing.into_octets());
    assert!(!ids(&in_full["messages"]).contains(&id(800).to_string()));
    assert_eq!(whats(&in_full), [""; 0]);
}

#[test]
fn of_a_header_page_and_its_first_batch_the_page_alone_holds_nothing_and_the_batch_alone_all() {
    let (before, after) = around_an_opening();
    let opened = segment_at(*segments_by_age(&after).last().unwrap());
    let pages =
        [(opened..opened + PAGE_OCTETS, &before), (opened + PAGE_OCTETS..opened + SEGMENT_OCTETS, &after)];
    for (arrived, expected) in pages {
        let mut octets = before.clone();
        octets[arrived.clone()].copy_from_slice(&after[arrived]);
        let (in_full, by_index) = compare(&octets);
        assert_both_ways_agree(&in_full, &by_index);
        let expected = read(expected, Way::InFull).unwrap();
        assert_eq!((&in_full["messages"], whats(&in_full)), (&expected["messages"], vec![]));
    }
}

#[test]
fn a_torn_tail_is_dropped_and_is_no_damage() {
    let octets = used();
    let head = *segments_by_age(&octets).last().unwrap();
    let batch = *batches_of(&octets, head).last().unwrap();
    let places = [
        // There is a header and no record; a body is not what it was; there is no header.
        (batch + 128..batch + PAGE_OCTETS, true),
        (batch + 150..batch + 151, true),
        (batch..batch + 512, false),
    ];
    for (place, is_told) in places {
        let (in_full, _) = compare(&damaged(&octets, place.clone()));
        assert_eq!((in_full["torn_tail"].is_object(), whats(&in_full)), (is_told, vec![]), "{place:?}");
    }
}

#[test]
fn the_log_goes_on_over_a_torn_tail() {
    let mut writing = Writing::new();
    every_shape(&mut writing);
    let octets = writing.into_octets();
    let head = *segments_by_age(&octets).last().unwrap();
    let batch = *batches_of(&octets, head).last().unwrap();
    let mut writing = Writing::open(damaged(&octets, batch + 140..batch + 141));
    writing.accept(message(800, 100, plain(800)));
    let (in_full, by_index) = compare(&writing.into_octets());
    assert_both_ways_agree(&in_full, &by_index);
    assert_eq!((in_full["torn_tail"].is_null(), whats(&in_full)), (true, vec![]));
}

#[test]
fn one_superblock_is_enough_and_none_is_no_log() {
    let octets = sealed();
    for lost in [0, SUPERBLOCK_B] {
        let octets = damaged(&octets, lost + 30..lost + 31);
        let (in_full, _) = compare(&octets);
        assert_eq!(told(&in_full["damage"]), [("superblock".to_owned(), lost as u64, PAGE_OCTETS as u64)]);
        // Opening repairs it, by a block of the next generation.
        let (repaired, _) = compare(&Writing::open(octets).into_octets());
        assert_eq!((whats(&repaired), &repaired["geometry"]["generation"]), (vec![], &Value::from(2)));
    }
    let mut octets = damaged(&damaged(&octets, 30..31), SUPERBLOCK_B..SUPERBLOCK_B + 1);
    assert!(read(&octets, Way::InFull).unwrap_err().contains("not a log"));
    octets[..segment_at(0)].fill(0);
    assert!(read(&octets, Way::InFull).unwrap_err().contains("blank"));
}

#[test]
fn a_log_of_another_version_or_with_segments_beyond_its_device_is_refused_in_words() {
    let with = |at: usize, number: u8| {
        let mut octets = sealed();
        for block in [0, SUPERBLOCK_B] {
            octets[block + at] = number;
            let crc = crc32c::crc32c(&octets[block..block + 124]);
            octets[block + 124..block + 128].copy_from_slice(&crc.to_le_bytes());
        }
        octets
    };
    for (octets, words) in [(with(8, 1), "version 1"), (with(44, 11), "11 segments")] {
        assert!(inspect(MemoryDisk::new(octets.clone()), &mut |_| {}).is_err());
        let said = read(&octets, Way::InFull).unwrap_err();
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn a_segment_whose_header_is_lost_is_found_by_its_first_batch() {
    let octets = used();
    // Every other segment, the head among them; then the others; then all.
    for (first, step) in [(0, 2), (1, 2), (0, 1)] {
        let lost: Vec<usize> =
            living_segments(&octets).into_iter().rev().skip(first).step_by(step).map(segment_at).collect();
        let octets = lost.iter().fold(octets.clone(), |octets, at| damaged(&octets, *at..at + PAGE_OCTETS));
        let (in_full, by_index) = compare(&octets);
        assert_both_ways_agree(&in_full, &by_index);
        assert_eq!(whats(&in_full), vec!["segment header"; lost.len()]);
    }
}

#[test]
fn a_log_whose_headers_are_all_lost_lacks_nothing() {
    let octets = sealed();
    let segments = segments_by_age(&octets);
    let lost = segments.iter().map(|segment| segment_at(*segment));
    let (in_full, by_index) = compare(&lost.fold(octets.clone(), |octets, at| damaged(&octets, at..at + 1)));
    assert_both_ways_agree(&in_full, &by_index);
    assert_eq!(whats(&in_full), vec!["segment header"; segments.len()]);
    assert_eq!(in_full["messages"], read(&octets, Way::InFull).unwrap()["messages"]);
}

#[test]
fn a_segment_without_header_and_first_batch_is_found_by_any_batch() {
    let octets = used();
    for segment in living_segments(&octets) {
        let at = segment_at(segment);
        let places = [batch_at(&octets, segment, 0)];
        let (in_full, _) = compare_what_stays(&octets, &damaged(&octets, at..at + PAGE_OCTETS + 1), &places);
        assert!(whats(&in_full).contains(&"segment header".to_owned()), "segment {segment}");
    }
}

#[test]
fn neighbouring_segments_that_are_lost_as_a_whole_are_listed_one_by_one() {
    let octets = used();
    let lost = living_segments(&octets)[1..3].to_vec();
    let octets = lost
        .iter()
        .fold(octets, |octets, segment| damaged(&octets, segment_at(*segment)..segment_at(segment + 1)));
    let (in_full, _) = compare(&octets);
    assert_eq!(whats(&in_full), ["whole segment"; 2]);
}

#[test]
fn a_page_that_is_not_read_costs_what_stood_on_it() {
    let octets = used();
    let living = living_segments(&octets);
    let at = |segment: usize, page: usize| (segment_at(living[segment]) + page * PAGE_OCTETS) as u64;
    let last = living.len() - 1;
    let pages = SEGMENT_OCTETS / PAGE_OCTETS;
    let rows = [
        // A superblock; a header; a first batch; both; in the middle; a footer; and of the head.
        vec![SUPERBLOCK_B as u64],
        vec![at(1, 0)],
        vec![at(1, 1), at(3, 0)],
        vec![at(1, 0), at(1, 1), at(2, 7)],
        vec![at(0, pages - 1), at(2, pages - 2)],
        vec![0, at(last, 0), at(last, 2)],
    ];
    for unreadable in rows {
        let (in_full, _) = compare_without(&octets, &unreadable);
        let told = whats(&in_full).into_iter().filter(|what| what == "unreadable");
        assert_eq!(told.count(), unreadable.len(), "{unreadable:?}");
    }
}

#[test]
fn a_segment_that_is_lost_as_a_whole_costs_what_stood_in_it() {
    let octets = used();
    let at = segment_at(living_segments(&octets)[1]);
    let (in_full, _) = compare(&damaged(&octets, at..at + SEGMENT_OCTETS));
    assert_eq!(whats(&in_full), ["whole segment"]);
}

#[test]
fn a_damaged_record_costs_itself_and_is_found_in_full_or_when_it_is_read_back() {
    let octets = sealed();
    let rows = [
        // What is damaged; how many messages cannot be handed out by index, and are isolated in full.
        (&content(104, 47_311)[20_000..20_032], 1),
        (b"QQ104+3D", 1),
        ("köln104-3@".as_bytes(), 1),
        (b"452 the greylist", 0),
    ];
    for (wanted, count) in rows {
        let (in_full, by_index) = compare(&damaged(&octets, find(&octets, wanted)));
        let words = wanted.escape_ascii();
        assert_eq!((whats(&in_full).len(), whats(&by_index).len()), (1, 0), "{words}");
        assert_eq!((unreadable(&by_index), ids(&in_full["isolated"]).len()), (count, count), "{words}");
    }
}

#[test]
fn an_index_that_is_damaged_is_done_without() {
    let octets = used();
    let by_index = |said: &Value| {
        said["segments"].as_array().unwrap().iter().filter(|segment| segment["read"] == "by index").count()
    };
    let intact = by_index(&read(&octets, Way::ByIndex).unwrap());
    // Behind the footer, where nobody reads; in the footer; in the entries. One segment each.
    let places = [1, PAGE_OCTETS - 70, 2 * PAGE_OCTETS];
    let segments = living_segments(&octets).into_iter().zip(places);
    let octets = segments.fold(octets, |octets, (segment, before_end)| {
        let at = segment_at(segment + 1) - before_end;
        damaged(&octets, at..at + 1)
    });
    let (in_full, said) = compare(&octets);
    assert_both_ways_agree(&in_full, &said);
    assert_eq!((by_index(&said), whats(&in_full)), (intact - 2, vec![]));
}

#[test]
fn a_damaged_batch_costs_itself_wherever_it_stands() {
    let octets = used();
    let alive = ids(&read(&octets, Way::InFull).unwrap()["messages"]);
    let mut lost = Vec::new();
    // Its header, the header of a record, the body of one. Each round takes another batch of each living segment.
    for round in 0..5 {
        let (mut hit, mut places) = (octets.clone(), Vec::new());
        for (nth, segment) in living_segments(&octets).into_iter().enumerate() {
            let batches = batches_of(&octets, segment);
            let batch = [0, 1, batches.len() / 2, batches.len() - 2, batches.len() - 1][(nth + round) % 5];
            let at = batches[batch] + [20, 130, 150][(nth + round) % 3];
            hit = damaged(&hit, at..at + 1);
            places.push(batch_at(&octets, segment, batch));
        }
        let left = ids(&compare_what_stays(&octets, &hit, &places).0["messages"]);
        lost.extend(alive.iter().filter(|id| !left.contains(id)));
    }
    assert!(!lost.is_empty(), "no round has hit a message that lives");
}

#[test]
fn a_damaged_envelope_that_no_index_knows_isolates_its_message_if_its_head_is_right() {
    let mut writing = Writing::new();
    every_shape(&mut writing);
    let octets = without_indexes(writing.into_octets());
    // Of no chunk, one and three; the last one is concluded in part.
    for (number, isolated) in [(1, 0), (2, 1), (4, 1), (103, 1)] {
        let name = if number < 100 { format!("r{number}@plain") } else { format!("köln{number}-0@") };
        let address = find(&octets, name.as_bytes());
        let (in_full, _) = compare(&damaged(&octets, address.start..address.start + 1));
        let found = ids(&in_full["isolated"]);
        assert_eq!((found.len(), ids(&in_full["partials"]).len()), (isolated, 2), "{number}");
        assert_eq!(whats(&in_full), ["record"]);
    }
    // Its id.
    let address = find(&octets, b"r4@plain");
    let head = octets[..address.start].windows(16).rposition(|octets| octets == id(4).0).unwrap();
    let (in_full, _) = compare(&damaged(&octets, head..head + 1));
    assert_eq!((ids(&in_full["isolated"]).len(), ids(&in_full["partials"]).len()), (0, 3));
}

#[test]
fn a_damaged_moved_record_that_no_index_knows_isolates_its_message() {
    let octets = without_indexes(used());
    for number in [2, 4] {
        let address = find_moved(&octets, format!("r{number}@plain").as_bytes());
        let (in_full, _) = compare(&damaged(&octets, address));
        assert_eq!(
            (ids(&in_full["isolated"]), whats(&in_full)),
            (vec![id(number).to_string()], vec!["record".to_owned()])
        );
    }
}

/// No segment has a footer.
fn without_indexes(octets: Vec<u8>) -> Vec<u8> {
    segments_by_age(&octets).into_iter().fold(octets, |octets, segment| {
        let footer = segment_at(segment + 1) - PAGE_OCTETS;
        damaged(&octets, footer..footer + 8)
    })
}

/// Where the newest of several copies stands: the one in the youngest segment that has one.
fn find_moved(octets: &[u8], wanted: &[u8]) -> Range<usize> {
    let segments = segments_by_age(octets).into_iter().rev();
    let mut places = segments.filter_map(|segment| {
        let start = segment_at(segment);
        let batches = batches_of(octets, segment);
        let end = batches.last()? + PAGE_OCTETS;
        let at = octets[start..end].windows(wanted.len()).rposition(|window| window == wanted)?;
        Some(start + at..start + at + 1)
    });
    places.next().unwrap()
}

#[test]
fn batches_that_are_damaged_side_by_side_are_gone_together() {
    let octets = used();
    let batches = batches_of(&octets, living_segments(&octets)[1]);
    let (in_full, _) = compare(&damaged(&octets, batches[1]..batches[2] + 1));
    let place = ("batches".to_owned(), batches[1] as u64, (batches[3] - batches[1]) as u64);
    assert_eq!(told(&in_full["damage"]), [place]);
}

fn seed_asked_for() -> Option<u64> {
    std::env::var("STERNPOST_SEED").ok().and_then(|text| text.parse().ok())
}

/// The seeds of a test that runs with so many of them, or the one that is asked for.
fn seeds(count: u64) -> Range<u64> {
    seed_asked_for().map_or(0..count, |seed| seed..seed + 1)
}

#[test]
fn one_flipped_bit_anywhere_costs_a_stranger_what_it_costs_the_queue() {
    for seed in seeds(FLIPS) {
        let (mut octets, mut random) = (used(), Random::new(seed));
        let is_used = |octet: u8| octet != UNWRITTEN && octet != 0;
        let at =
            std::iter::repeat_with(|| random.below(octets.len())).find(|at| is_used(octets[*at])).unwrap();
        println!("seed {seed}: octet {at}");
        octets[at] ^= 1 << (seed % 8);
        compare(&octets);
    }
}

#[test]
fn a_stranger_understands_what_a_long_life_has_left_whole_and_damaged() {
    let mut total = Summary::default();
    for seed in seeds(LIVES) {
        let mut random = Random::new(seed);
        let (mut octets, summary) = live(&mut random, Ids::Once);
        println!("seed {seed}: {summary:?}");
        total += summary;
        let (in_full, by_index) = compare(&octets);
        assert_both_ways_agree(&in_full, &by_index);
        for _ in 0..DAMAGES {
            println!("{}", damage(&mut octets, &mut random));
            compare(&octets);
        }
        let lost = [(); 3].map(|()| page(&octets, &mut random) as u64);
        println!("not read: {lost:?}");
        compare_without(&octets, &lost);
    }
    assert!(total.is_eventful() || seed_asked_for().is_some(), "these lives were too quiet: {total:?}");
}

#[test]
fn a_stranger_understands_a_life_in_which_messages_come_back_under_their_ids() {
    let mut total = Summary::default();
    for seed in seeds(LIVES) {
        let (octets, summary) = live(&mut Random::new(seed), Ids::Again);
        println!("seed {seed}: {summary:?}");
        total += summary;
        let (in_full, by_index) = compare(&octets);
        assert_both_ways_agree(&in_full, &by_index);
        assert_eq!((whats(&in_full), &in_full["isolated"]), (vec![], &json!([])));
    }
    assert!(total.come_back > 10 || seed_asked_for().is_some(), "too few came back: {total:?}");
}
