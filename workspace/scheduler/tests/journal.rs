//! The format of journals: a written one that every build of its version reads, and the parser over its corpus.
//! `UPDATE_CORPUS=1` writes the journal anew, for a new version of the format.

use std::path::{Path, PathBuf};
use sternpost_message::{
    ErrorScope, MessageSequence, MlistId, Precedence, RecipientRange, RouteIndex, UnixMillis,
};
use sternpost_scheduler::journal::{Decoder, Encoder, Entry, Mismatch, Replay, VERSION, fuzz_journal};
use sternpost_scheduler::{
    Action, ChannelLimits, Event, Limits, Minimise, MlistSpec, PeerLimits, ProcessId, Reserves, Scheduler,
    StopReason,
};

const SMTP: &str = "smtp";

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/journal")
}

fn id(message: u64) -> MlistId {
    MlistId { message: MessageSequence(message), route: RouteIndex(0) }
}

fn everybody() -> Vec<RecipientRange> {
    vec![RecipientRange { first: 0, count: 2 }]
}

fn spec(message: u64, precedence: Precedence) -> MlistSpec {
    MlistSpec {
        id: id(message),
        channel: SMTP.into(),
        peer: "mta".into(),
        precedence,
        recipients: everybody(),
        accepted_at: UnixMillis(1_000),
        expires_at: UnixMillis(100_000),
        delay_report_at: Some(UnixMillis(60_000)),
        attempts: 0,
        not_before: UnixMillis(0),
        held_by: None,
    }
}

fn limits() -> Limits {
    let peer = PeerLimits {
        name: "mta".into(),
        slots_max: Some(3),
        slots_min: Some(1),
        slots_reserve: Some(Reserves { urgent: 1, normal: 0 }),
    };
    let order = Minimise {
        name: "exercise".into(),
        channel: SMTP.into(),
        peer: Some("mta".into()),
        lowest: Precedence::Priority,
        from: UnixMillis(50_000),
        until: UnixMillis(51_000),
    };
    Limits {
        minimise: vec![order],
        channels: vec![ChannelLimits {
            peers: vec![peer],
            idle_stop_ms: 100,
            ..ChannelLimits::new(SMTP, [])
        }],
        ..Limits::default()
    }
}

/// One run with every kind of event and of action.
fn run() -> Vec<(u64, Event)> {
    let (one, two) = (ProcessId(1), ProcessId(2));
    let attached = |process| Event::ProcessAttached { process, channel: SMTP.into(), capacity: 2 };
    vec![
        (1_000, Event::Configure(limits())),
        (1_000, Event::ProcessStarted { process: one, channel: SMTP.into() }),
        (1_000, Event::Queue(MlistSpec { held_by: Some(one), ..spec(1, Precedence::Routine) })),
        (1_000, Event::Go),
        (1_010, attached(one)),
        (1_020, Event::Queue(spec(2, Precedence::Flash))),
        (1_030, Event::Queue(spec(3, Precedence::Deferred))),
        (1_040, Event::PeerWorked { channel: SMTP.into(), peer: "mta".into() }),
        (1_050, Event::Finished { process: one, mlist: id(1) }),
        (1_060, Event::Settled { mlist: id(1), recipients: everybody(), worked: true }),
        (1_070, Event::Unassigned { process: one, mlist: id(2) }),
        (
            1_080,
            Event::PeerFailed {
                channel: SMTP.into(),
                peer: "mta".into(),
                mlists: vec![id(3)],
                holding: 0,
                has_carried: false,
            },
        ),
        (1_090, Event::Deferred { mlist: id(3), recipients: everybody(), scope: ErrorScope::Peer }),
        (1_100, Event::ProcessGone { process: one }),
        (1_110, Event::Returned { process: one }),
        (62_000, Event::Wake),
        (62_010, Event::StartFailed { process: two }),
        (64_000, Event::Wake),
        (64_010, attached(ProcessId(3))),
        (64_020, Event::Remove { mlist: id(3) }),
        (200_000, Event::ProcessGone { process: ProcessId(3) }),
        (200_010, Event::Returned { process: ProcessId(3) }),
        (200_020, attached(ProcessId(9))),
        (200_500, Event::Wake),
        (
            200_510,
            Event::Queue(MlistSpec { expires_at: UnixMillis(10_000_000), ..spec(4, Precedence::Routine) }),
        ),
        (200_520, Event::Configure(Limits { channels: Vec::new(), ..limits() })),
        (200_530, Event::Progress { process: ProcessId(9) }),
        (900_000, Event::Wake),
    ]
}

fn recorded() -> (Vec<u8>, Vec<Action>) {
    let mut encoder = Encoder::new(u64::MAX);
    encoder.begin("0.1.0", UnixMillis(1_700_000_000_000)).expect("there is no bound");
    let (mut scheduler, mut all) = (Scheduler::new(), Vec::new());
    for (now, event) in run() {
        let now = UnixMillis(now);
        encoder.event(now, &event).expect("there is no bound");
        let mut actions = Vec::new();
        scheduler.apply(now, event, &mut actions);
        encoder.actions(&actions).expect("there is no bound");
        all.extend(actions);
    }
    (encoder.octets().to_vec(), all)
}

fn entries(octets: &[u8]) -> Vec<Entry> {
    let mut decoder = Decoder::default();
    decoder.feed(octets);
    std::iter::from_fn(|| decoder.next_entry().transpose())
        .collect::<Result<_, _>>()
        .expect("a journal of this version is read")
}

#[test]
fn a_journal_that_was_written_once_is_written_and_replayed_the_same_by_every_build_of_its_version() {
    let path = corpus().join(format!("version-{VERSION}.journal"));
    let (octets, actions) = recorded();
    if std::env::var_os("UPDATE_CORPUS").is_some() {
        std::fs::write(&path, &octets).expect("the corpus can be written");
    }
    let written = std::fs::read(&path).expect("the corpus has a journal of this version");
    assert!(written == octets, "events, actions or the format have changed: see JOURNAL.md, \"The version\"");
    let mut replay = Replay::default();
    for entry in entries(&written) {
        replay.take(entry).expect("the same decisions");
    }
    let summary = replay.end();
    assert_eq!((summary.events, summary.actions), (run().len() as u64, actions.len() as u64));
    assert_eq!((summary.begins, summary.unanswered, summary.expired), (1, 0, 1));
    assert_eq!((summary.lived_ms, summary.kills), (899_000, 1));
    let flash = (SMTP.to_owned(), std::cmp::Reverse(Precedence::Flash));
    assert!(summary.assignments[&flash] >= 2 && summary.starts[&flash].count >= 1, "{summary:?}");
    assert_eq!(summary.stops[&StopReason::Idle], 1);
}

#[test]
fn the_run_has_every_kind_of_action() {
    let (_, actions) = recorded();
    let has = |wanted: fn(&Action) -> bool| actions.iter().any(wanted);
    assert!(has(|action| matches!(action, Action::StartProcess { .. })));
    assert!(has(|action| matches!(action, Action::Assign { .. })));
    assert!(has(|action| matches!(action, Action::StopProcess { .. })));
    assert!(has(|action| matches!(action, Action::KillProcess { .. })));
    assert!(has(|action| matches!(action, Action::Expired { .. })));
    assert!(has(|action| matches!(action, Action::DelayReportDue { .. })));
}

#[test]
fn an_event_that_is_changed_or_left_out_with_right_checks_shows_in_the_decisions() {
    let entries = entries(&recorded().0);
    let queued =
        |entry: &Entry| matches!(entry, Entry::Event { event: Event::Queue(spec), .. } if spec.id == id(2));
    let at = entries.iter().position(queued).expect("the run queues it");
    let mut changed = entries.clone();
    let Entry::Event { event: Event::Queue(spec), .. } = &mut changed[at] else { unreachable!("as found") };
    spec.attempts = 1;
    let mut left_out = entries;
    left_out.remove(at);
    for (journal, number) in [(changed, 6), (left_out, 5)] {
        let mut replay = Replay::default();
        let found = journal.into_iter().find_map(|entry| replay.take(entry).err());
        let Some(Mismatch::Different(difference)) = found else { panic!("{found:?}") };
        assert_eq!(difference.number, number, "{difference:?}");
    }
}

#[test]
fn entries_in_an_order_that_no_recording_has_are_refused() {
    let event = Entry::Event { now: UnixMillis(1), event: Event::Wake };
    let begin = Entry::Begin { build: "0.1.0".into(), wall: UnixMillis(0) };
    let rows = [
        (vec![event.clone()], "an event before a scheduler has begun"),
        (vec![begin.clone(), Entry::Actions(Vec::new())], "actions without their event"),
        (vec![begin, event.clone(), Entry::Full, event], "an event before a scheduler has begun"),
    ];
    for (entries, words) in rows {
        let mut replay = Replay::default();
        let found = entries.into_iter().find_map(|entry| replay.take(entry).err());
        assert!(matches!(found, Some(Mismatch::Order { what, .. }) if what == words), "{found:?}");
    }
}

#[test]
fn the_parser_survives_the_corpus_whole_and_cut() {
    let files: Vec<_> = std::fs::read_dir(corpus())
        .expect("the corpus is in the repository")
        .map(|entry| std::fs::read(entry.expect("a listed file").path()).expect("a file of the corpus"))
        .collect();
    assert!(!files.is_empty(), "the corpus is empty");
    for file in files {
        (0..=file.len()).for_each(|end| fuzz_journal(&file[..end]));
    }
}
