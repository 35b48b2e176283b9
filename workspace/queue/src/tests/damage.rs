//! What can still be read of a damaged log.

use super::*;
use crate::place::Place;

/// Sets of 30,000 octets and more fill a batch each, so that damage of one hits no other.
const ALONE: usize = 50_000;

/// Where on the disk something stands.
fn at(place: Place) -> u64 {
    GEOMETRY.offset_of(place.segment(), place.offset())
}

fn flip(disk: &mut MemoryDisk, offset: u64) {
    disk.octets[usize::try_from(offset).unwrap()] ^= 1;
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
