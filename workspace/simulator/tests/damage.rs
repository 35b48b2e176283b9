//! Damages one octet of a log and looks at what it costs.

use std::collections::BTreeMap;

use sternpost_message::{
    BodyType, Envelope, Mailbox, MessageId, MessageSequence, Precedence, Recipient, ReversePath, Route,
    RouteIndex, UnixMillis,
};
use sternpost_queue::{
    Append, AppendSet, Geometry, Lane, Log, LogEvent, Parameters, SEGMENT_OCTETS_MIN, SEGMENTS_MIN,
};
use sternpost_simulator::disk::FaultyDisk;
use sternpost_simulator::random::Random;

const GEOMETRY: Geometry = Geometry { segment_octets: SEGMENT_OCTETS_MIN, segments: SEGMENTS_MIN };
const NOW: UnixMillis = UnixMillis(1000);

fn envelope() -> Envelope {
    Envelope {
        sender: ReversePath::Null,
        recipients: vec![Recipient {
            address: Mailbox::parse("r@example.org").expect("a good address"),
            route: RouteIndex(0),
            notify: None,
            original_recipient: None,
        }],
        routes: vec![Route { channel: "smtp".to_owned(), peer: "a".to_owned() }],
        accepted_at: NOW,
        precedence: Precedence::Routine,
        mt_priority: None,
        body: BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envelope_id: None,
        source: "simulator".to_owned(),
        client: String::new(),
    }
}

/// A log with one message in each batch, and the contents.
fn filled(random: &mut Random) -> (FaultyDisk, BTreeMap<MessageSequence, Vec<u8>>) {
    let octets = usize::try_from(GEOMETRY.octets()).expect("it fits into memory");
    let disk =
        Log::create(FaultyDisk::new(octets, random.next()), GEOMETRY, [9; 16]).expect("the disk writes");
    let (mut log, _) = Log::open(disk, Parameters::default(), NOW).expect("it was just made");
    let mut contents = BTreeMap::new();
    for number in 0..20_u8 {
        let length = 1 + random.place(12_000);
        let content = random.octets(length);
        let message = MessageId([number; 16]);
        let chunk = Append::Content { message, index: 0, octets: (&content[..]).into() };
        let content_octets = content.len() as u64;
        let envelope =
            Append::Envelope { message, envelope: envelope(), content_octets, content_sha256: [0; 32] };
        log.append(NOW, Lane::Normal, AppendSet { records: vec![chunk, envelope] }, 1)
            .expect("there is room");
        log.drive(NOW);
        while log.is_writing() {
            log.drive(NOW);
        }
        while let Some(event) = log.poll() {
            if let LogEvent::Accepted { sequence, .. } = event {
                contents.insert(sequence, content.clone());
            }
        }
    }
    assert_eq!(contents.len(), 20);
    (log.into_disk(), contents)
}

#[test]
fn one_damaged_octet_costs_one_message_at_most_and_never_gives_wrong_content() {
    let mut noticed = 0;
    for seed in 0..120 {
        let mut random = Random::new(seed);
        let (mut disk, contents) = filled(&mut random);
        // Most of what was written stands in the superblocks and the first two segments.
        disk.damage(random.place(65_536 + 2 * GEOMETRY.segment_octets as usize));
        let (mut log, report) = Log::open(disk, Parameters::default(), NOW).unwrap();
        let living: Vec<MessageSequence> =
            log.messages_from(MessageSequence(0)).map(|facts| facts.sequence).collect();
        let is_told = !report.damage.is_empty() || report.torn_tail.is_some();
        noticed += u32::from(is_told);
        let lost = contents.len() - living.len();
        assert!(lost <= usize::from(is_told), "seed {seed}: {lost} messages lost, {report:?}");
        let mut refused = 0;
        for sequence in living {
            let expected = &contents[&sequence];
            let mut octets = vec![0; expected.len() + 1];
            match log.read_content(sequence, 0, &mut octets) {
                Ok(count) => assert_eq!(octets[..count], expected[..], "seed {seed}"),
                Err(_) => refused += 1,
            }
        }
        // A sealed segment is not read in full: its damage is noticed when somebody reads what it has hit.
        assert!(lost + refused <= 1, "seed {seed}: {lost} messages lost, {refused} unreadable");
        noticed += u32::from(refused > 0);
    }
    assert!(noticed >= 20, "only {noticed} of 120 octets mattered");
}

#[test]
fn what_the_device_damages_after_recovery_is_an_error_and_never_mail() {
    let mut random = Random::new(1);
    let (disk, contents) = filled(&mut random);
    let (mut log, _) = Log::open(disk, Parameters::default(), NOW).unwrap();
    for at in (65_536..65_536 + 2 * GEOMETRY.segment_octets as usize).step_by(997) {
        log.disk_mut().damage(at);
    }
    let mut refused = 0;
    for (sequence, expected) in contents {
        let mut octets = vec![0; expected.len()];
        match log.read_content(sequence, 0, &mut octets) {
            Ok(_) => assert_eq!(octets, expected),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 0);
}
