//! Events in any order and with any numbers: what a confused driver or channel might say. Nothing panics, the sums stay
//! sums, and the tree still becomes empty.

use proptest::prelude::*;
use sternpost_message::{
    ErrorScope, MessageSequence, MlistId, Precedence, RecipientRange, RouteIndex, UnixMillis,
};
use sternpost_scheduler::journal::{Decoder, Encoder, Entry, Mismatch, Replay};
use sternpost_scheduler::{
    Action, ChannelLimits, Event, Limits, Minimise, MlistSpec, ProcessId, Reason, Reserves, Scheduler,
};

const MESSAGES: u64 = 6;
const PROCESSES: u64 = 6;

fn id() -> impl Strategy<Value = MlistId> {
    (0..MESSAGES).prop_map(|message| MlistId { message: MessageSequence(message), route: RouteIndex(0) })
}

fn process() -> impl Strategy<Value = ProcessId> {
    prop_oneof![9 => 0..PROCESSES, 1 => Just(u64::MAX)].prop_map(ProcessId)
}

fn name() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["", "smtp", "lmtp"]).prop_map(String::from)
}

fn ranges() -> impl Strategy<Value = Vec<RecipientRange>> {
    let range = (prop_oneof![0_u32..4, Just(u32::MAX)], prop_oneof![0_u32..4, Just(u32::MAX)])
        .prop_map(|(first, count)| RecipientRange { first, count });
    prop::collection::vec(range, 0..3)
}

fn number() -> impl Strategy<Value = u32> {
    prop_oneof![0_u32..4, Just(u32::MAX)]
}

fn instant() -> impl Strategy<Value = UnixMillis> {
    prop_oneof![0_u64..100, Just(u64::MAX)].prop_map(UnixMillis)
}

fn limits() -> impl Strategy<Value = Limits> {
    (number(), number(), number(), instant(), instant(), number(), number(), number()).prop_map(
        |(qmgr_maxchans, urgent, normal, step, max, processes_max, slots, peer_slots)| Limits {
            qmgr_maxchans,
            qmgr_reserve_urgent: urgent,
            qmgr_reserve_normal: normal,
            retry_step_ms: step.0,
            retry_max_ms: max.0,
            qmgr_chan_time1_ms: max.0,
            qmgr_chan_time2_ms: step.0,
            qmgr_chan_time3_ms: max.0,
            drain_timeout_ms: step.0,
            drain_time_max_ms: step.0.wrapping_mul(3),
            age_share_percent: urgent,
            minimise: vec![Minimise {
                name: "order".into(),
                channel: "smtp".into(),
                peer: (urgent == 0).then(|| "smtp".into()),
                lowest: Precedence::ALL[normal.min(5) as usize],
                from: step,
                until: max,
            }],
            channels: vec![ChannelLimits {
                // Enough to see more than one, not so many that a start of each takes long.
                processes_max: processes_max.min(50),
                slots_per_process: slots,
                slots_reserve: Reserves { urgent, normal },
                peer_slots_max: peer_slots,
                peer_slots_reserve: Reserves { urgent: normal, normal: urgent },
                idle_stop_ms: step.0,
                ..ChannelLimits::new("smtp", ["", "smtp"])
            }],
        },
    )
}

fn spec() -> impl Strategy<Value = MlistSpec> {
    let held_by = prop::option::weighted(0.3, process());
    (id(), name(), name(), 0_usize..6, ranges(), instant(), instant(), any::<u16>(), held_by).prop_map(
        |(id, channel, peer, level, recipients, expires_at, not_before, attempts, held_by)| MlistSpec {
            id,
            channel,
            peer,
            precedence: Precedence::ALL[level],
            recipients,
            accepted_at: UnixMillis(0),
            expires_at,
            delay_report_at: Some(not_before),
            attempts,
            not_before,
            held_by,
        },
    )
}

fn event() -> impl Strategy<Value = Event> {
    let scope = prop::sample::select(vec![ErrorScope::Peer, ErrorScope::Message]);
    prop_oneof![
        1 => limits().prop_map(Event::Configure),
        6 => spec().prop_map(Event::Queue),
        1 => Just(Event::Go),
        1 => (process(), name()).prop_map(|(process, channel)| Event::ProcessStarted { process, channel }),
        3 => (process(), name(), number())
            .prop_map(|(process, channel, capacity)| Event::ProcessAttached { process, channel, capacity }),
        1 => process().prop_map(|process| Event::ProcessGone { process }),
        1 => process().prop_map(|process| Event::Returned { process }),
        1 => process().prop_map(|process| Event::StartFailed { process }),
        1 => process().prop_map(|process| Event::Progress { process }),
        4 => (process(), id()).prop_map(|(process, mlist)| Event::Finished { process, mlist }),
        1 => (process(), id()).prop_map(|(process, mlist)| Event::Unassigned { process, mlist }),
        3 => (id(), ranges(), any::<bool>())
            .prop_map(|(mlist, recipients, worked)| Event::Settled { mlist, recipients, worked }),
        3 => (id(), ranges(), scope)
            .prop_map(|(mlist, recipients, scope)| Event::Deferred { mlist, recipients, scope }),
        2 => (name(), name(), prop::collection::vec(id(), 0..3), number(), any::<bool>()).prop_map(
            |(channel, peer, mlists, holding, has_carried)| {
                Event::PeerFailed { channel, peer, mlists, holding, has_carried }
            }
        ),
        1 => (name(), name()).prop_map(|(channel, peer)| Event::PeerWorked { channel, peer }),
        1 => id().prop_map(|mlist| Event::Remove { mlist }),
        1 => Just(Event::Wake),
    ]
}

fn check_sums(scheduler: &Scheduler) {
    let (counts, status) = (scheduler.counts(), scheduler.status());
    let all = scheduler.mlists_count();
    assert_eq!(
        counts.waiting + counts.in_progress + counts.awaiting_outcome,
        all,
        "invariant_each_is_somewhere"
    );
    let waiting: usize = status.channels.iter().map(|channel| channel.waiting).sum();
    let in_progress: usize = status.channels.iter().map(|channel| channel.in_progress).sum();
    let processes: u32 = status.channels.iter().map(|channel| channel.processes).sum();
    assert_eq!((waiting, in_progress, processes), (counts.waiting, counts.in_progress, status.processes));
    assert!(counts.assignable <= counts.runnable && counts.runnable <= counts.waiting);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_events_panics_or_strands_an_mlist(
        steps in prop::collection::vec((instant(), event()), 0..120)
    ) {
        let mut scheduler = Scheduler::new();
        let mut actions: Vec<Action> = Vec::new();
        let now = UnixMillis(0);
        for (at, event) in steps {
            // Time goes back and forth; the end of time would expire everything.
            scheduler.apply(UnixMillis(at.0.min(1_000)), event, &mut actions);
            check_sums(&scheduler);
            prop_assert!(actions.len() < 10_000);
        }
        scheduler.apply(now, Event::Configure(Limits { qmgr_maxchans: 0, ..Limits::default() }), &mut actions);
        for message in 0..MESSAGES {
            let mlist = MlistId { message: MessageSequence(message), route: RouteIndex(0) };
            scheduler.apply(now, Event::Remove { mlist }, &mut actions);
            if let Some(waiting) = scheduler.why(mlist) {
                let Reason::InProgress(process) = waiting.reason else {
                    panic!("{mlist} was removed and waits: {waiting:?}");
                };
                scheduler.apply(now, Event::ProcessGone { process }, &mut actions);
                scheduler.apply(now, Event::Returned { process }, &mut actions);
            }
        }
        prop_assert_eq!(scheduler.mlists_count(), 0);
        check_sums(&scheduler);
    }

    #[test]
    fn any_events_give_the_same_actions_again_and_a_changed_answer_is_found(
        steps in prop::collection::vec((instant(), event()), 0..120),
        changed in any::<prop::sample::Index>()
    ) {
        let mut scheduler = Scheduler::new();
        let mut encoder = Encoder::new(u64::MAX);
        encoder.begin("test", UnixMillis(0)).expect("there is no bound");
        let (mut answers, mut made) = (Vec::new(), 0);
        for (at, event) in steps {
            let now = UnixMillis(at.0.min(1_000));
            encoder.event(now, &event).expect("there is no bound");
            let mut actions = Vec::new();
            scheduler.apply(now, event, &mut actions);
            encoder.actions(&actions).expect("there is no bound");
            made += actions.len() as u64;
            answers.push(actions);
        }
        let mut decoder = Decoder::default();
        decoder.feed(encoder.octets());
        let entries: Vec<_> = std::iter::from_fn(|| decoder.next_entry().transpose())
            .collect::<Result<_, _>>()
            .expect("what was encoded is read");
        let mut replay = Replay::default();
        for entry in entries.clone() {
            prop_assert_eq!(replay.take(entry), Ok(()));
        }
        let summary = replay.end();
        prop_assert_eq!((summary.events, summary.actions), (answers.len() as u64, made));
        prop_assert_eq!(summary.unanswered, 0);
        // One answer less, anywhere.
        let answered: Vec<usize> = (0..answers.len()).filter(|&at| !answers[at].is_empty()).collect();
        if !answered.is_empty() {
            let at = *changed.get(&answered);
            let mut events = 0;
            let mut replay = Replay::default();
            let mut found = None;
            for entry in entries {
                events += usize::from(matches!(entry, Entry::Event { .. }));
                let taken = match entry {
                    Entry::Actions(mut actions) if events == at + 1 => {
                        actions.pop();
                        replay.take(Entry::Actions(actions))
                    }
                    entry => replay.take(entry),
                };
                if let Err(mismatch) = taken {
                    found = Some(mismatch);
                    break;
                }
            }
            let Some(Mismatch::Different(difference)) = found else { panic!("{found:?}") };
            prop_assert_eq!(difference.number, at as u64 + 1);
            prop_assert_eq!(difference.first_action(), difference.recorded.len());
        }
    }
}
