//! The judge notices each thing that may be wrong, and nothing else.

use super::*;
use crate::campaign::{IMAGE_OCTETS, ROOM, marks};
use sternpost_load::content::Composer;
use sternpost_load::wire::DotReader;
use sternpost_message::{Diagnostic, EnhancedStatus, Outcome, RecipientRange};
use sternpost_queue::{BLANK_MARKER, Geometry};

const FIRST: &str = "user1@good.test";
const SECOND: &str = "user2@good.test";

/// A log in the making.
struct Lab {
    image: Image,
    next: u8,
}

impl Lab {
    fn blank() -> Self {
        let mut octets = vec![0; usize::try_from(IMAGE_OCTETS).unwrap()];
        octets[..BLANK_MARKER.len()].copy_from_slice(BLANK_MARKER);
        Self { image: Image::new(octets), next: 1 }
    }

    fn new() -> Self {
        let mut lab = Self::blank();
        let segment_octets = u32::try_from(ROOM.segment_octets).unwrap();
        let geometry = Geometry { segment_octets, segments: ROOM.segments_count };
        Log::create(&mut lab.image, geometry, [7; 16]).unwrap();
        lab
    }

    fn append(&mut self, set: AppendSet<'_>) {
        let mut log = open(&mut self.image, &mut Vec::new()).unwrap();
        log.append(NOW, Lane::Outcome, set, 1).unwrap();
        log.drive(NOW.plus_ms(1000));
        log.drive(NOW.plus_ms(1000));
        let events: Vec<_> = std::iter::from_fn(|| log.poll()).collect();
        assert!(events.contains(&LogEvent::Committed { ticket: 1 }), "{events:?}");
    }

    /// A message of the load to both recipients; `spoil` may change it on its way.
    fn message(&mut self, load_id: &str, spoil: impl FnOnce(&mut Vec<u8>)) -> MessageSequence {
        let message = MessageId([self.next; 16]);
        self.next += 1;
        let mut content = Vec::new();
        let wire = Composer::new("run", &[]).compose(load_id, 3000, "a@load.test", FIRST, 1).wire;
        DotReader::default().take(&wire, |octets| content.extend_from_slice(octets));
        spoil(&mut content);
        let AppendSet { mut records } = probe();
        let Some(Append::Envelope { mut envelope, .. }) = records.pop() else { unreachable!() };
        envelope.recipients = [FIRST, SECOND].map(sample::recipient).into();
        let (content_octets, content_sha256) = (content.len() as u64, Sha256::digest(&content).into());
        let content = Append::Content { message, index: 0, octets: content.into() };
        let envelope = Append::Envelope { message, envelope, content_octets, content_sha256 };
        self.append(AppendSet { records: vec![content, envelope] });
        open(&mut self.image, &mut Vec::new()).unwrap().find(message).unwrap()
    }

    fn transferred(&mut self, message: MessageSequence, first: u32) {
        let outcome = Outcome::Transferred(Diagnostic::own(EnhancedStatus::new(2, 0, 0), "taken"));
        let outcomes = vec![(RecipientRange { first, count: 1 }, outcome)];
        self.append(AppendSet { records: vec![Append::Outcome { message, outcomes }] });
    }

    /// The image with these marks.
    fn with(&self, accepted: &[Pair], received: &[Pair]) -> Image {
        let mut octets = self.image.content().to_vec();
        let zone = marks::encode(accepted, received);
        let begin = usize::try_from(ZONE.start).unwrap();
        octets[begin..begin + zone.len()].copy_from_slice(&zone);
        Image::new(octets)
    }
}

fn pair(load_id: &str, recipient: &str) -> Pair {
    (load_id.to_owned(), recipient.to_owned())
}

fn judge(image: &mut Image) -> Result<Seen, Vec<Fault>> {
    Judge::default().judge(image, true)
}

#[test]
fn a_log_that_keeps_its_promises_passes() {
    let mut lab = Lab::new();
    let sequence = lab.message("run-1", |_| {});
    lab.message("run-2", |_| {});
    lab.transferred(sequence, 0);
    let accepted = [pair("run-1", FIRST), pair("run-1", SECOND), pair("run-2", SECOND)];
    let seen = judge(&mut lab.with(&accepted, &accepted[..1])).unwrap();
    assert_eq!(seen, Seen { living_count: 2, accepted_count: 3, owed_count: 2, went_on: true });
}

#[test]
fn what_was_accepted_and_is_not_in_the_log_is_lost_unless_a_next_hop_has_it() {
    let mut lab = Lab::new();
    lab.message("run-1", |_| {});
    let accepted = [pair("run-1", FIRST), pair("run-9", FIRST)];
    let faults = judge(&mut lab.with(&accepted, &[])).unwrap_err();
    assert_eq!(faults, [Fault::Lost(accepted[1].clone())]);
    assert!(judge(&mut lab.with(&accepted, &accepted[1..])).is_ok());
}

#[test]
fn a_recipient_that_is_done_before_anybody_had_the_message_is_found() {
    let mut lab = Lab::new();
    let sequence = lab.message("run-1", |_| {});
    lab.transferred(sequence, 1);
    let faults = judge(&mut lab.with(&[pair("run-1", SECOND)], &[])).unwrap_err();
    let done = pair("run-1", SECOND);
    assert_eq!(faults, [Fault::DoneTooEarly(done.clone()), Fault::Lost(done)]);
}

#[test]
fn a_message_that_lives_twice_or_was_never_sent_is_found() {
    let mut lab = Lab::new();
    lab.message("run-1", |_| {});
    lab.message("run-1", |content| content.splice(..0, *b"X-Hop: 2\r\n").for_each(drop));
    assert_eq!(judge(&mut lab.with(&[], &[])).unwrap_err(), [Fault::Twice("run-1".to_owned())]);
    let mut lab = Lab::new();
    let sequence = lab.message("run-1", |content| *content = b"Subject: none of ours\r\n\r\n".to_vec());
    let faults = judge(&mut lab.with(&[], &[])).unwrap_err();
    assert_eq!(faults, [Fault::NotWhole(sequence), Fault::Stranger(sequence)]);
}

#[test]
fn a_message_that_is_not_what_was_sent_is_found() {
    let mut lab = Lab::new();
    let sequence = lab.message("run-1", |content| *content.last_mut().unwrap() ^= 1);
    assert_eq!(judge(&mut lab.with(&[], &[])).unwrap_err(), [Fault::NotWhole(sequence)]);
}

#[test]
fn what_was_dead_or_done_and_durably_so_must_not_come_back() {
    let mut lab = Lab::new();
    let sequence = lab.message("run-1", |_| {});
    let everything = [pair("run-1", FIRST), pair("run-1", SECOND)];
    let living = lab.with(&everything, &everything).content().to_vec();
    lab.transferred(sequence, 0);
    let half = lab.with(&everything, &everything).content().to_vec();
    lab.transferred(sequence, 1);
    let dead = lab.with(&everything, &everything).content().to_vec();
    // A judge writes to what it looks at.
    let image = |octets: &Vec<u8>| Image::new(octets.clone());
    let mut judge = Judge::default();
    for octets in [&living, &half, &dead] {
        assert!(judge.judge(&mut image(octets), true).is_ok());
    }
    assert_eq!(
        judge.judge(&mut image(&half), false).unwrap_err(),
        [Fault::Risen(sequence, MessageId([1; 16]))]
    );
    let mut judge = Judge::default();
    assert!(judge.judge(&mut image(&half), true).is_ok());
    let faults = judge.judge(&mut image(&living), false).unwrap_err();
    assert_eq!(faults, [Fault::PendingAgain(sequence, 0)]);
}

#[test]
fn damage_is_found_and_what_it_took_is_lost() {
    let mut lab = Lab::new();
    lab.message("run-1", |_| {});
    lab.message("run-2", |_| {});
    let mut octets = lab.with(&[pair("run-1", FIRST), pair("run-2", FIRST)], &[]).content().to_vec();
    // In the content of the first message, behind the header page, the batch's header and the record's.
    let place = usize::try_from(sternpost_queue::HEAD_OCTETS).unwrap() + 4096 + 500;
    octets[place] ^= 1;
    let faults = judge(&mut Image::new(octets)).unwrap_err();
    assert!(faults.iter().any(|fault| matches!(fault, Fault::Damaged(_))), "{faults:?}");
    assert!(faults.contains(&Fault::Lost(pair("run-1", FIRST))), "{faults:?}");
    assert!(!faults.contains(&Fault::Lost(pair("run-2", FIRST))), "{faults:?}");
}

#[test]
fn a_blank_device_is_right_until_there_was_a_log_or_mail_was_accepted() {
    let lab = Lab::blank();
    assert_eq!(judge(&mut lab.with(&[], &[])), Ok(Seen::default()));
    let faults = judge(&mut lab.with(&[pair("run-1", FIRST)], &[])).unwrap_err();
    assert_eq!(faults, [Fault::NoLog(OpenError::NoLog)]);
    let mut after = Judge::default();
    assert!(after.judge(&mut Lab::new().with(&[], &[]), true).is_ok());
    assert_eq!(after.judge(&mut lab.with(&[], &[]), false), Err(vec![Fault::NoLog(OpenError::NoLog)]));
}

#[test]
fn one_superblock_is_enough_while_the_log_is_made_and_not_later() {
    let whole = Lab::new().with(&[], &[]).content().to_vec();
    let mut half = whole.clone();
    half[..4096].fill(0);
    let image = |octets: &Vec<u8>| Image::new(octets.clone());
    let mut judge = Judge::default();
    for octets in [&half, &half, &whole] {
        assert!(judge.judge(&mut image(octets), true).is_ok());
    }
    let faults = judge.judge(&mut image(&half), false).unwrap_err();
    assert!(
        matches!(faults[..], [Fault::Damaged(Damage { what: DamagedPart::Superblock, .. })]),
        "{faults:?}"
    );
}
