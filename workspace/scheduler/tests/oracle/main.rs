//! Random events, and after each of them everything that has to hold: the scheduler beside an oracle.

mod model;

use model::{Life, Model, Place, ranges_of};
use proptest::prelude::*;
use sternpost_message::{
    ErrorScope, MessageSequence, MlistId, Precedence, RecipientRange, RouteIndex, UnixMillis,
};
use sternpost_scheduler::{
    ChannelLimits, Event, Limits, Minimise, MlistSpec, PeerLimits, ProcessId, Reserves, Scheduler,
};

const CHANNELS: [&str; 2] = ["smtp", "lmtp"];
const PEERS: [&str; 3] = ["a", "b", "c"];
/// The instant at which every history begins.
const START: u64 = 1_000_000;

/// What may happen. Numbers choose among what there is.
#[derive(Clone, Debug)]
enum Step {
    Configure(Limits),
    Queue {
        channel: usize,
        peer: usize,
        level: usize,
        recipients: u32,
        life_ms: u64,
        late_ms: Option<u64>,
        wait_ms: u64,
    },
    AddRecipients(usize),
    Go,
    Attach {
        which: usize,
        capacity: u32,
    },
    AttachStranger {
        channel: usize,
        capacity: u32,
    },
    /// The process says by itself that it takes nothing any more.
    Leave(usize),
    StartFailed(usize),
    Die(usize),
    Returned(usize),
    Finish(usize),
    Unassign(usize),
    Outcome {
        which: usize,
        first: u32,
        count: u32,
        kind: u8,
    },
    Progress(usize),
    PeerWorked {
        channel: usize,
        peer: usize,
    },
    /// `which` of those in progress ended by it, if there is one.
    PeerFailed {
        channel: usize,
        peer: usize,
        which: usize,
        holding: u32,
        has_carried: bool,
    },
    Remove(usize),
    Wait(u64),
}

fn reserves() -> impl Strategy<Value = Reserves> {
    (0_u32..3, 0_u32..3).prop_map(|(urgent, normal)| Reserves { urgent, normal })
}

fn peers() -> impl Strategy<Value = Vec<PeerLimits>> {
    let first = (prop::option::of(1_u32..3), prop::option::of(0_u32..4), prop::option::of(reserves()));
    (1_usize..4, first).prop_map(|(count, (slots_max, slots_min, slots_reserve))| {
        let mut peers: Vec<PeerLimits> = PEERS[..count].iter().copied().map(PeerLimits::new).collect();
        peers[0].slots_max = slots_max;
        peers[0].slots_min = slots_min;
        peers[0].slots_reserve = slots_reserve;
        peers
    })
}

fn channel() -> impl Strategy<Value = ChannelLimits> {
    let peer_slots = (1_u32..9, prop_oneof![Just(1_u32), Just(u32::MAX)]);
    (1_u32..4, 1_u32..4, reserves(), peer_slots, reserves(), peers()).prop_map(
        |(processes_max, slots_per_process, slots_reserve, peer_slots, peer_slots_reserve, peers)| {
            ChannelLimits {
                processes_max,
                slots_per_process,
                slots_reserve,
                peer_slots_max: peer_slots.0,
                peer_slots_min: peer_slots.1,
                peer_slots_reserve,
                idle_stop_ms: 5_000,
                peers,
                ..ChannelLimits::new("", [])
            }
        },
    )
}

fn minimise() -> impl Strategy<Value = Minimise> {
    let peer = prop::option::of(Just("a".to_owned()));
    (peer, 0_usize..6, 0_u64..30_000, 0_u64..10_000).prop_map(|(peer, level, from, length)| Minimise {
        name: "order".into(),
        channel: "smtp".into(),
        peer,
        lowest: Precedence::ALL[level],
        from: UnixMillis(START + from),
        until: UnixMillis(START + from + length),
    })
}

fn limits() -> impl Strategy<Value = Limits> {
    let times = (0_u64..3_000, 0_u64..1_000, 0_u64..3_000);
    let orders = prop::collection::vec(minimise(), 0..2);
    let age = prop_oneof![2 => Just(0_u32), 1 => 1_u32..60];
    (1_u32..7, reserves(), times, age, orders, prop::collection::vec(channel(), 1..3)).prop_map(
        |(qmgr_maxchans, reserve, (time1, time2, time3), age_share_percent, minimise, mut channels)| {
            for (channel, name) in channels.iter_mut().zip(CHANNELS) {
                channel.name = name.into();
            }
            Limits {
                qmgr_maxchans,
                qmgr_reserve_urgent: reserve.urgent,
                qmgr_reserve_normal: reserve.normal,
                qmgr_chan_time1_ms: time1,
                qmgr_chan_time2_ms: time2,
                qmgr_chan_time3_ms: time3,
                drain_timeout_ms: 2_500,
                drain_time_max_ms: 4_000,
                age_share_percent,
                retry_step_ms: 1_000,
                retry_max_ms: 3_500,
                minimise,
                channels,
            }
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let queue = (
        0_usize..2,
        0_usize..3,
        0_usize..6,
        1_u32..5,
        1_000_u64..60_000,
        prop::option::of(1_u64..9_000),
        0_u64..900,
    )
        .prop_map(|(channel, peer, level, recipients, life_ms, late_ms, wait_ms)| Step::Queue {
            channel,
            peer,
            level,
            recipients,
            life_ms,
            late_ms,
            wait_ms: wait_ms.saturating_sub(600),
        });
    prop_oneof![
        1 => limits().prop_map(Step::Configure),
        12 => queue,
        1 => any::<usize>().prop_map(Step::AddRecipients),
        2 => Just(Step::Go),
        6 => (any::<usize>(), 1_u32..4).prop_map(|(which, capacity)| Step::Attach { which, capacity }),
        1 => (0_usize..2, 0_u32..4).prop_map(|(channel, capacity)| Step::AttachStranger { channel, capacity }),
        1 => any::<usize>().prop_map(Step::Leave),
        1 => any::<usize>().prop_map(Step::StartFailed),
        2 => any::<usize>().prop_map(Step::Die),
        2 => any::<usize>().prop_map(Step::Returned),
        6 => any::<usize>().prop_map(Step::Finish),
        1 => any::<usize>().prop_map(Step::Unassign),
        1 => any::<usize>().prop_map(Step::Progress),
        12 => (any::<usize>(), 0_u32..4, 1_u32..5, 0_u8..8)
            .prop_map(|(which, first, count, kind)| Step::Outcome { which, first, count, kind }),
        1 => (0_usize..2, 0_usize..3).prop_map(|(channel, peer)| Step::PeerWorked { channel, peer }),
        3 => (0_usize..2, 0_usize..3, any::<usize>(), 0_u32..4, prop::bool::weighted(0.2)).prop_map(
            |(channel, peer, which, holding, has_carried)| Step::PeerFailed { channel, peer, which, holding, has_carried }
        ),
        1 => any::<usize>().prop_map(Step::Remove),
        5 => (0_u64..4_000).prop_map(Step::Wait),
    ]
}

/// The scheduler and its oracle.
struct Pair {
    scheduler: Scheduler,
    model: Model,
    messages: u64,
}

impl Pair {
    fn tell(&mut self, event: &Event) {
        self.model.take(event);
        let mut actions = Vec::new();
        self.scheduler.apply(UnixMillis(self.model.now), event.clone(), &mut actions);
        self.model.hear(&self.scheduler);
        for action in &actions {
            self.model.check(action);
        }
        self.model.check_rest(&self.scheduler);
    }

    fn process(&self, which: usize, lives: &[Life]) -> Option<ProcessId> {
        let fit: Vec<ProcessId> = self
            .model
            .workers
            .iter()
            .filter(|worker| lives.contains(&worker.1.life))
            .map(|worker| *worker.0)
            .collect();
        (!fit.is_empty()).then(|| fit[which % fit.len()])
    }

    fn mlist(&self, which: usize, test: impl Fn(Place) -> bool) -> Option<MlistId> {
        let fit: Vec<MlistId> =
            self.model.leaves.iter().filter(|leaf| test(leaf.1.place)).map(|leaf| *leaf.0).collect();
        (!fit.is_empty()).then(|| fit[which % fit.len()])
    }

    /// An Mlist in progress, and where.
    fn busy(&self, which: usize) -> Option<(ProcessId, MlistId)> {
        let mlist = self.mlist(which, |place| matches!(place, Place::InProgress(_)))?;
        match self.model.leaves[&mlist].place {
            Place::InProgress(process) => Some((process, mlist)),
            _ => None,
        }
    }

    fn event(&mut self, step: Step) -> Option<Event> {
        Some(match step {
            Step::Configure(limits) => Event::Configure(limits),
            Step::Queue { channel, peer, level, recipients, life_ms, late_ms, wait_ms } => {
                self.messages += 1;
                let now = UnixMillis(self.model.now);
                Event::Queue(MlistSpec {
                    id: MlistId { message: MessageSequence(self.messages), route: RouteIndex(0) },
                    channel: CHANNELS[channel].into(),
                    peer: PEERS[peer].into(),
                    precedence: Precedence::ALL[level],
                    recipients: vec![RecipientRange { first: 0, count: recipients }],
                    accepted_at: now,
                    expires_at: now.plus_ms(life_ms),
                    delay_report_at: late_ms.map(|ms| now.plus_ms(ms)),
                    attempts: 0,
                    not_before: now.plus_ms(wait_ms),
                    held_by: None,
                })
            }
            Step::AddRecipients(which) => {
                let mut spec = self.model.leaves[&self.mlist(which, |_| true)?].spec.clone();
                spec.recipients = vec![RecipientRange { first: 6, count: 2 }];
                Event::Queue(spec)
            }
            Step::Go => Event::Go,
            Step::Attach { which, capacity } => {
                let process = self.process(which, &[Life::Starting])?;
                let channel = self.model.workers[&process].channel.clone();
                Event::ProcessAttached { process, channel, capacity }
            }
            Step::AttachStranger { channel, capacity } => {
                let process = ProcessId(self.model.workers.keys().last().map_or(0, |last| last.0) + 3);
                Event::ProcessAttached { process, channel: CHANNELS[channel].into(), capacity }
            }
            Step::Leave(which) => {
                let process = self.process(which, &[Life::Attached, Life::Draining])?;
                let channel = self.model.workers[&process].channel.clone();
                Event::ProcessAttached { process, channel, capacity: 0 }
            }
            Step::StartFailed(which) => {
                Event::StartFailed { process: self.process(which, &[Life::Starting])? }
            }
            Step::Die(which) => {
                Event::ProcessGone { process: self.process(which, &[Life::Attached, Life::Draining])? }
            }
            Step::Returned(which) => Event::Returned { process: self.process(which, &[Life::Gone])? },
            Step::Finish(which) => {
                let (process, mlist) = self.busy(which)?;
                Event::Finished { process, mlist }
            }
            Step::Unassign(which) => {
                let (process, mlist) = self.busy(which)?;
                Event::Unassigned { process, mlist }
            }
            Step::Outcome { which, first, count, kind } => {
                // Mostly of Mlists that a process has; sometimes of any.
                let mlist = self.mlist(which, |place| kind == 7 || place != Place::Waiting)?;
                let recipients = vec![RecipientRange { first, count }];
                match kind {
                    0..=2 | 7 => Event::Settled { mlist, recipients, worked: true },
                    3 => Event::Settled { mlist, recipients, worked: false },
                    4 | 5 => Event::Deferred { mlist, recipients, scope: ErrorScope::Message },
                    _ => Event::Deferred { mlist, recipients, scope: ErrorScope::Peer },
                }
            }
            Step::Progress(which) => Event::Progress { process: self.process(which, &[Life::Draining])? },
            Step::PeerWorked { channel, peer } => {
                Event::PeerWorked { channel: CHANNELS[channel].into(), peer: PEERS[peer].into() }
            }
            Step::PeerFailed { channel, peer, which, holding, has_carried } => {
                let mlists: Vec<MlistId> = self.busy(which).map(|(_, mlist)| mlist).into_iter().collect();
                let of_it = mlists.first().map(|mlist| self.model.leaves[mlist].key());
                let (channel, peer) =
                    of_it.unwrap_or_else(|| (CHANNELS[channel].to_owned(), PEERS[peer].to_owned()));
                // A peer that has just failed holds nothing.
                let has_failed = self.model.has_failed(&(channel.clone(), peer.clone()));
                let holding = if has_failed { 0 } else { holding };
                Event::PeerFailed { channel, peer, mlists, holding, has_carried }
            }
            Step::Remove(which) => Event::Remove { mlist: self.mlist(which, |_| true)? },
            Step::Wait(ms) => {
                self.model.now += ms;
                Event::Wake
            }
        })
    }

    /// Slots are granted, everything works: the tree has to become empty.
    fn run_out(&mut self) {
        let mut limits = self.model.limits.clone();
        limits.qmgr_maxchans = 9;
        limits.minimise.clear();
        let governed = |name: &&str| ChannelLimits { peer_slots_min: 1, ..ChannelLimits::new(name, PEERS) };
        limits.channels = CHANNELS.iter().map(governed).collect();
        self.tell(&Event::Configure(limits));
        self.tell(&Event::Go);
        for _ in 0..200 {
            if self.model.leaves.is_empty() {
                return;
            }
            while let Some(process) = self.process(0, &[Life::Gone]) {
                self.tell(&Event::Returned { process });
                self.model.workers.remove(&process);
            }
            while let Some(process) = self.process(0, &[Life::Starting]) {
                let channel = self.model.workers[&process].channel.clone();
                self.tell(&Event::ProcessAttached { process, channel, capacity: 50 });
            }
            while let Some(process) = self.process(0, &[Life::Draining]) {
                self.tell(&Event::ProcessGone { process });
            }
            while let Some(mlist) = self.mlist(0, |place| place != Place::Waiting) {
                if let Place::InProgress(process) = self.model.leaves[&mlist].place {
                    self.tell(&Event::Finished { process, mlist });
                }
                if let Some(leaf) = self.model.leaves.get(&mlist) {
                    let recipients = ranges_of(&leaf.open);
                    self.tell(&Event::Settled { mlist, recipients, worked: true });
                }
            }
            // On to what comes next, if nothing runs; at most to the end of a delay.
            self.model.now += 500;
            self.tell(&Event::Wake);
        }
        panic!("invariant_every_runnable_mlist_runs: {:?}", self.model.leaves);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_scheduler_keeps_its_rules(
        first in limits(), going in any::<bool>(), steps in prop::collection::vec(step(), 1..150)
    ) {
        let mut model = Model::default();
        model.now = START;
        let mut pair = Pair { scheduler: Scheduler::new(), model, messages: 0 };
        pair.tell(&Event::Configure(first));
        if going {
            pair.tell(&Event::Go);
        }
        for step in steps {
            if let Some(event) = pair.event(step) {
                pair.tell(&event);
                if let Event::Returned { process } = event {
                    pair.model.workers.remove(&process);
                }
            }
        }
        pair.run_out();
    }
}
