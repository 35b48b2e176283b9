//! Flips one bit after the other of everything that FORMAT.md describes, and looks at what it costs: the messages whose records
//! stand in the same batch at most, listed; all others are there as they were.
//!
//! Which octets are which field is read from FORMAT.md itself.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use sternpost_message::{
    Diagnostic, EnhancedStatus, Envelope, ErrorScope, MessageId, MessageSequence, Outcome, Precedence,
    RecipientRange, UnixMillis, sample,
};
use sternpost_queue::{
    Append, AppendSet, Geometry, Lane, Log, LogEvent, MessageDetail, Parameters, RecoveryReport,
    SEGMENT_OCTETS_MIN, inspect,
};
use sternpost_simulator::disk::{FaultyDisk, Landed, Medium};
use sternpost_simulator::format::{self, PAGE_OCTETS, Spoken};
use sternpost_simulator::ledger::Ledger;
use sternpost_simulator::random::Random;

const FORMAT: &str = include_str!("../../queue/FORMAT.md");
const GEOMETRY: Geometry = Geometry { segment_octets: SEGMENT_OCTETS_MIN, segments: 8 };
const NOW: UnixMillis = UnixMillis(1000);

// ---- what FORMAT.md says ----

/// A field of a structure on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Field {
    name: String,
    offset: usize,
    octets: usize,
}

/// The rows `offset | octets | field` of the first table below a heading.
fn table(heading: &str) -> Vec<Field> {
    let behind = FORMAT.split(heading).nth(1).unwrap_or_else(|| panic!("FORMAT.md has a part {heading}"));
    let rows =
        behind.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let fields: Vec<Field> = rows
        .filter_map(|row| {
            let mut cells = row.split('|').skip(1).map(str::trim);
            let (offset, octets) = (cells.next()?.parse().ok()?, cells.next()?.parse().ok()?);
            Some(Field { name: cells.next()?.to_owned(), offset, octets })
        })
        .collect();
    assert!(fields.len() > 2, "a table of fields stands below {heading}");
    fields
}

/// Fields that are listed in a sentence: `message id 16, owner u64, …`, up to what has no fixed length.
fn sentence(words: &str) -> Vec<Field> {
    let mut offset = 0;
    let sized = |part: &str| {
        let (name, size) = part.trim().rsplit_once(' ')?;
        let octets = match size {
            "u16" => 2,
            "u32" => 4,
            "u64" => 8,
            other => other.parse().ok()?,
        };
        Some((name.to_owned(), octets))
    };
    words
        .split([',', '.'])
        .map_while(sized)
        .map(|(name, octets)| {
            offset += octets;
            Field { name, offset: offset - octets, octets }
        })
        .collect()
}

/// The fields of the body of each kind of record, by its number.
fn bodies() -> BTreeMap<u16, (String, Vec<Field>)> {
    let head =
        FORMAT.split("Message head (80 octets): ").nth(1).expect("FORMAT.md describes the message head");
    let head = sentence(&head.lines().take(2).collect::<Vec<_>>().join(" "));
    assert_eq!(head.last().map(|last| last.offset + last.octets), Some(80), "{head:?}");
    let rows = FORMAT.split("| kind | name | body |").nth(1).expect("FORMAT.md has a table of kinds");
    rows.lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .filter_map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let (kind, name, body) = (cells.get(1)?.parse().ok()?, *cells.get(2)?, *cells.get(3)?);
            let fields = if body.contains("*message head*") { head.clone() } else { sentence(body) };
            Some((kind, (name.to_owned(), fields)))
        })
        .collect()
}

fn field<'a>(fields: &'a [Field], name: &str) -> &'a Field {
    fields.iter().find(|field| field.name.starts_with(name)).unwrap_or_else(|| panic!("{name} in {fields:?}"))
}

#[test]
fn the_simulator_reads_the_offsets_of_format_md() {
    let header = table("### Batch: header");
    let offsets = [
        ("log sequence", format::batch::SEQUENCE),
        ("use number", format::batch::USE_NUMBER),
        ("segment index", format::batch::SEGMENT),
        ("page within", format::batch::PAGE),
        ("body octets", format::batch::BODY_OCTETS),
        ("salted CRC32C of the headers", format::batch::RECORDS_CRC),
        ("CRC of the header of the last", format::batch::PREDECESSOR_CRC),
        ("start", format::batch::START),
        ("salted CRC32C of octets", format::batch::CRC),
    ];
    for (name, offset) in offsets {
        assert_eq!(field(&header, name).offset, offset, "{name}");
    }
    assert_eq!(field(&table("### Superblock"), "log secret").offset, format::superblock::SECRET);
    let footer = table("### The index of a segment");
    assert_eq!(field(&footer, "where in the segment the entries").offset, format::footer::ENTRIES);
    assert_eq!(field(&footer, "their octets").offset, format::footer::ENTRIES_OCTETS);
    let kinds: Vec<u16> = bodies().into_keys().collect();
    assert_eq!(kinds, [1, 2, 3, 4, 5], "a new kind of record wants a row here and a reader in the simulator");
}

// ---- a log with everything in it ----

fn envelope(number: u8) -> Envelope {
    let recipients = (0..1 + number % 3).map(|local| sample::recipient(&format!("r{local}@example.org")));
    Envelope {
        recipients: recipients.collect(),
        accepted_at: NOW,
        precedence: Precedence::ALL[usize::from(number) % Precedence::ALL.len()],
        source: "simulator".to_owned(),
        client: String::new(),
        ..sample::envelope(&[], ("smtp", "a"))
    }
}

/// The writer of the log, one batch for each set.
struct Writer {
    medium: Medium,
    log: Log<FaultyDisk>,
    now: UnixMillis,
    landed: Vec<Landed>,
    contents: BTreeMap<MessageId, Vec<u8>>,
    sequences: BTreeMap<u8, MessageSequence>,
}

impl Writer {
    fn new(seed: u64) -> Self {
        let octets = usize::try_from(GEOMETRY.octets()).expect("it fits into memory");
        let medium = Medium::new(octets, seed);
        let disk = medium.open().expect("nobody has it open");
        drop(Log::create(disk, GEOMETRY, [9; 16]).expect("the disk writes"));
        let (log, _) = open(&medium);
        let (contents, sequences) = (BTreeMap::new(), BTreeMap::new());
        Self { medium, log, now: NOW, landed: Vec::new(), contents, sequences }
    }

    fn put(&mut self, records: Vec<Append<'_>>) {
        self.log.append(self.now, Lane::Outcome, AppendSet { records }, 1).expect("there is room");
        self.settle();
    }

    fn settle(&mut self) {
        for _ in 0..3 {
            self.now = self.now.plus_ms(200);
            self.medium.advance(self.now);
            self.log.drive(self.now);
        }
        self.landed.extend(self.medium.take_landed().0);
        while let Some(event) = self.log.poll() {
            if let LogEvent::Accepted { sequence, facts } = event {
                self.sequences.insert(facts.id.0[0], sequence);
            }
        }
    }

    /// A message of two chunks; the second one comes with the envelope.
    fn message(&mut self, number: u8, random: &mut Random, octets: usize) {
        let message = MessageId([number; 16]);
        let content = random.octets(octets);
        let half = octets / 2;
        let chunk = |index, octets: &[u8]| Append::Content { message, index, octets: octets.to_vec().into() };
        self.put(vec![chunk(0, &content[..half])]);
        let envelope = Append::Envelope {
            message,
            envelope: envelope(number),
            content_octets: octets as u64,
            content_sha256: [number; 32],
        };
        self.put(vec![chunk(1, &content[half..]), envelope]);
        self.contents.insert(message, content);
    }

    fn outcome(&mut self, number: u8, outcome: Outcome) {
        let message = self.sequences[&number];
        let outcomes = vec![(RecipientRange { first: 0, count: 9 }, outcome)];
        self.put(vec![Append::Outcome { message, outcomes }]);
    }
}

fn open(medium: &Medium) -> (Log<FaultyDisk>, RecoveryReport) {
    let parameters = Parameters { recent_content_octets_max: 0, ..Parameters::default() };
    Log::open(medium.open().expect("nobody has it open"), parameters, NOW)
        .expect("damage is no reason not to open")
}

/// A log with every kind of record, in several segments, and what it holds.
struct Filled {
    image: Vec<u8>,
    ledger: Ledger,
    landed: Vec<Landed>,
    contents: BTreeMap<MessageId, Vec<u8>>,
    details: BTreeMap<MessageId, MessageDetail>,
}

fn filled() -> Filled {
    let mut random = Random::new(7);
    let mut writer = Writer::new(1);
    let diagnostic = || Diagnostic::own(EnhancedStatus::new(4, 0, 0), "some words");
    let deferred = || Outcome::Deferred { scope: ErrorScope::Message, diagnostic: diagnostic() };
    for number in 1..=4 {
        writer.message(number, &mut random, 3_000);
        writer.outcome(number, deferred());
    }
    // What lives short makes room short, until reclaim has moved the first messages.
    for number in 5..=250 {
        writer.message(number, &mut random, 20_000);
        writer.outcome(number, Outcome::Delivered(diagnostic()));
        writer.contents.remove(&MessageId([number; 16]));
        if writer.log.status().moved_records > 0 && number % 8 == 0 {
            break;
        }
    }
    assert!(writer.log.status().moved_records > 0, "reclaim has moved something");
    for number in 251..=254 {
        writer.message(number, &mut random, 2_000);
        writer.outcome(number, deferred());
    }
    let partial = MessageId([255; 16]);
    writer.put(vec![Append::Content { message: partial, index: 0, octets: vec![1; 500].into() }]);
    writer.put(vec![Append::DiscardPartial { message: partial }]);
    writer.message(0, &mut random, 1_000);
    let mut ledger = Ledger::default();
    writer.landed.iter().for_each(|landed| drop(ledger.wrote(landed)));
    let image = writer.medium.image();
    let (mut log, report) = open(&Medium::of_image(image.clone(), 0));
    assert_eq!((report.damage.len(), report.torn_tail), (0, None));
    let details = details(&mut log);
    assert!(details.keys().eq(writer.contents.keys()), "nine messages live");
    Filled { image, ledger, landed: writer.landed, contents: writer.contents, details }
}

fn details(log: &mut Log<FaultyDisk>) -> BTreeMap<MessageId, MessageDetail> {
    let sequences: Vec<MessageSequence> =
        log.messages_from(MessageSequence(0)).map(|facts| facts.sequence).collect();
    let mut details = BTreeMap::new();
    for sequence in sequences {
        if let Ok(Some(detail)) = log.message(sequence) {
            details.insert(detail.id, detail);
        }
    }
    details
}

impl Filled {
    /// Every place to flip a bit at, with its name: each octet of each field of each structure, and some of what follows.
    fn places(&self) -> Vec<(String, usize)> {
        let mut places = Vec::new();
        let mut add = |structure: &str, at: u64, fields: &[Field]| {
            for field in fields {
                for octet in 0..field.octets {
                    let at = usize::try_from(at).expect("a place in memory") + field.offset + octet;
                    places.push((format!("{structure}: {}, octet {octet}", field.name), at));
                }
            }
        };
        let superblock = table("### Superblock");
        for at in format::SUPERBLOCKS {
            add("superblock", at, &superblock);
        }
        let (segment, batch) = (table("### Segment header"), table("### Batch: header"));
        let (record, bodies) = (table("### Record: header"), bodies());
        let mut kinds: BTreeMap<u16, usize> = BTreeMap::new();
        let living = self.ledger.living();
        let mut batches = 0;
        for landed in &self.landed {
            let write = format::read_write(&landed.octets);
            let at = landed.offset + write.header_octets as u64;
            if !living.iter().any(|place| place.start == at) {
                continue;
            }
            if write.header_octets > 0 {
                add("segment header", landed.offset, &segment);
            }
            batches += 1;
            if write.header_octets > 0 || batches % 20 == 0 {
                add("batch header", at, &batch);
            }
            for record_found in write.batches.iter().flat_map(|batch| &batch.records) {
                let seen = kinds.entry(record_found.kind).or_default();
                *seen += 1;
                // Two of each kind.
                if *seen != 1 && *seen != 3 {
                    continue;
                }
                let (name, body) = &bodies[&record_found.kind];
                let record_at = at + record_found.place.start as u64;
                add(&format!("header of {name}"), record_at, &record);
                let body_at = record_at + format::RECORD_HEADER_OCTETS as u64;
                add(name, body_at, body);
                let (first, last) =
                    (body.last().map_or(0, |last| last.offset + last.octets), record_found.place.len());
                let rest = last - format::RECORD_HEADER_OCTETS - 1;
                let behind = [first, (first + rest) / 2, rest];
                let behind =
                    behind.map(|offset| Field { name: "what follows".to_owned(), offset, octets: 1 });
                add(name, body_at, &behind[..if rest > first { 3 } else { 0 }]);
            }
        }
        for (at, entries) in self.indexes() {
            add("footer", at, &table("### The index of a segment"));
            let octets = usize::try_from(entries.end - entries.start).expect("a place in memory");
            add("index", entries.start, &[Field { name: "entries".to_owned(), offset: 0, octets }]);
        }
        let seen: Vec<u16> = kinds.into_keys().collect();
        assert_eq!(seen, bodies.into_keys().collect::<Vec<_>>(), "every kind of record is in the log");
        places
    }

    /// Where the footers of two indexes stand, and their entries.
    fn indexes(&self) -> Vec<(u64, Range<u64>)> {
        let segment = |index: u32| {
            let start = format::HEAD_OCTETS + u64::from(index) * u64::from(GEOMETRY.segment_octets);
            let footer = start + u64::from(GEOMETRY.segment_octets) - PAGE_OCTETS as u64;
            let octets = &self.image[usize::try_from(footer).ok()?..];
            let entries = start + u64::from(format::u32_at(octets, format::footer::ENTRIES)?);
            let length = u64::from(format::u32_at(octets, format::footer::ENTRIES_OCTETS)?);
            octets.starts_with(format::FOOTER_MAGIC).then_some((footer, entries..entries + length))
        };
        let indexes: Vec<_> = (0..GEOMETRY.segments).filter_map(segment).take(2).collect();
        assert_eq!(indexes.len(), 2, "there are sealed segments");
        indexes
    }

    fn hit(&self, at: usize) -> BTreeSet<MessageId> {
        self.ledger.clone().harm(&(at as u64..at as u64 + 1)).messages
    }

    /// What was not hit is there as it was; and whatever is handed out is what came in.
    fn compare(&self, name: &str, hit: &BTreeSet<MessageId>, log: &mut Log<FaultyDisk>) -> bool {
        let found = details(log);
        for (id, detail) in self.details.iter().filter(|(id, _)| !hit.contains(*id)) {
            assert_eq!(found.get(id), Some(detail), "{name}: {id} was not hit");
        }
        for (id, detail) in &found {
            let expected = self.contents.get(id).unwrap_or_else(|| panic!("{name}: {id} came back"));
            let mut octets = vec![0; expected.len() + 1];
            match log.read_content(detail.sequence, 0, &mut octets) {
                Ok(count) => assert_eq!(octets[..count], expected[..], "{name}: {id}"),
                Err(error) => assert!(hit.contains(id), "{name}: {id} was not hit: {error}"),
            }
        }
        found == self.details
    }
}

#[test]
fn a_flipped_bit_in_any_field_costs_what_stands_in_its_batch_at_most_and_is_listed() {
    let filled = filled();
    let places = filled.places();
    assert!(places.len() > 1_000, "{} places", places.len());
    for (number, (name, at)) in places.iter().enumerate() {
        let mut image = filled.image.clone();
        image[*at] ^= 1 << (number % 8);
        let medium = Medium::of_image(image, 0);
        let hit = filled.hit(*at);
        let (mut log, report) = open(&medium);
        // A dead message of which the damage has hit the end may come back: then it is whole, or listed.
        let back: BTreeSet<MessageId> =
            details(&mut log).into_keys().filter(|id| !filled.details.contains_key(id)).collect();
        assert!(back.is_subset(&hit), "{name}: {back:?} came back and were not hit");
        if back.is_empty() {
            filled.compare(name, &hit, &mut log);
        }
        for (_, id) in &report.damaged_messages {
            assert!(hit.contains(id), "{name}: {id} is said to be damaged and was not hit");
        }
        drop(log);
        let read = inspect(medium.open().expect("nobody has it open"), &mut |_| {}).expect("it can be read");
        let listed = [&report, read.report()];
        let is_listed = listed.iter().any(|report| !report.damage.is_empty() || report.torn_tail.is_some());
        let is_of_an_index = name.starts_with("footer") || name.starts_with("index");
        assert!(is_listed || is_of_an_index, "{name} at {at}: a bit was flipped and nobody says so");
        assert!(!(is_listed && is_of_an_index), "{name} at {at}: nothing depends on an index");
        let repaired = report.damage.iter().filter(|damage| read.report().damage.contains(damage)).count();
        assert!(
            repaired + 1 >= report.damage.len(),
            "{name}: opening mends a superblock or a header, nothing else"
        );
    }
}

#[test]
fn a_bit_that_flips_while_the_log_is_in_use_is_an_error_and_never_mail() {
    let filled = filled();
    let medium = Medium::of_image(filled.image.clone(), 0);
    let (mut log, _) = open(&medium);
    let mut noticed = 0;
    for (name, at) in filled.places() {
        medium.damage(at);
        let hit = filled.hit(at);
        noticed += usize::from(!filled.compare(&name, &hit, &mut log));
        medium.put(at, &filled.image[at..=at]);
    }
    assert!(noticed > 50, "only {noticed} bits mattered to what was read back");
}

#[test]
fn content_may_be_anything_that_the_log_itself_has_written() {
    let filled = filled();
    let mut writer = Writer::new(2);
    // The same secret, and copies of headers, batches, segments and superblocks at the places of pages.
    let mut random = Random::new(3);
    for number in 1..=60 {
        let page = random.place(filled.image.len() / PAGE_OCTETS - 16);
        let octets = filled.image[page * PAGE_OCTETS..][..1 + random.place(60_000)].to_vec();
        let message = MessageId([number; 16]);
        let chunk = Append::Content { message, index: 0, octets: octets.clone().into() };
        let content_octets = octets.len() as u64;
        let envelope =
            Append::Envelope { message, envelope: envelope(0), content_octets, content_sha256: [0; 32] };
        writer.put(vec![chunk, envelope]);
        writer.contents.insert(message, octets);
        if number > 6 {
            let diagnostic = Diagnostic::own(EnhancedStatus::new(2, 0, 0), "taken");
            writer.outcome(number - 6, Outcome::Transferred(diagnostic));
            writer.contents.remove(&MessageId([number - 6; 16]));
        }
        let (mut log, report) = open(&writer.medium.twin());
        assert_eq!((report.damage.len(), report.torn_tail), (0, None));
        let found = details(&mut log);
        assert!(found.keys().eq(writer.contents.keys()), "{:?}", found.keys());
    }
    let spoken = filled.landed.iter().flat_map(|landed| format::read_write(&landed.octets).batches);
    assert!(
        spoken.flat_map(|batch| batch.records).any(|record| matches!(record.spoken, Spoken::Outcome { .. }))
    );
}
