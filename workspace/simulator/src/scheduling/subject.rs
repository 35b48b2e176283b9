//! The scheduler between its driver and the ledger, and what may be wrong there: without this the rules would prove nothing.

use sternpost_message::{Precedence, UnixMillis};
use sternpost_scheduler::{Action, Event, Limits, ProcessId, Scheduler};

/// Something that is done wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// One assignment in twenty is never made.
    LostAssignment,
    /// One assignment in twenty is made with the next event.
    LateAssignment,
    /// One assignment in twenty is made twice.
    DoubledAssignment,
    /// Two assignments of one event are made in the other order.
    SwappedAssignments,
    /// One start of a process in five never happens.
    LostStart,
    /// One start of a process in five happens twice.
    DoubledStart,
    /// The scheduler does not hear of one Mlist in twenty.
    LostMlist,
    /// The scheduler takes every Mlist for routine.
    ForgottenPrecedence,
    /// The scheduler believes that each process takes one Mlist more than it said.
    OverfilledProcess,
    /// The scheduler believes in one slot more for each peer.
    OverfilledPeer,
    /// The scheduler knows no reserves.
    ForgottenReserves,
    /// The scheduler believes in one process more for the whole switch.
    OneProcessMore,
    /// Each back-off is 1 ms too short.
    ShortBackOff,
    /// Each back-off is 1 ms too long.
    LongBackOff,
    /// The scheduler does not hear that a process has died.
    UnheardDeath,
    /// The driver comes 1 ms late when the scheduler wants to be woken.
    LateWake,
}

/// Numbers behind this are those of processes that the scheduler knows nothing of.
const DOUBLED_PROCESS: u64 = 1 << 40;

/// The scheduler as the driver meets it.
#[derive(Debug)]
pub(super) struct Subject {
    scheduler: Scheduler,
    mistake: Option<Mistake>,
    /// Opportunities for the mistake so far.
    count: u64,
    /// Actions for the next event.
    kept: Vec<Action>,
}

impl Subject {
    pub(super) fn new(mistake: Option<Mistake>) -> Self {
        Self { scheduler: Scheduler::new(), mistake, count: 0, kept: Vec::new() }
    }

    /// What may be asked; nobody tells it anything here.
    pub(super) const fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    pub(super) fn wake_at(&self) -> Option<u64> {
        let late_ms = u64::from(self.mistake == Some(Mistake::LateWake));
        self.scheduler.wake_at().map(|at| at.0 + late_ms)
    }

    pub(super) fn apply(&mut self, now: u64, event: Event) -> Vec<Action> {
        let mut actions = std::mem::take(&mut self.kept);
        let Some(event) = self.hear(event) else { return actions };
        let first = actions.len();
        self.scheduler.apply(UnixMillis(now), event, &mut actions);
        let fresh = actions.split_off(first);
        self.act(fresh, &mut actions);
        actions
    }

    fn is_turn(&mut self, of: u64) -> bool {
        self.count += 1;
        self.count.is_multiple_of(of)
    }

    /// The event that the scheduler hears.
    fn hear(&mut self, mut event: Event) -> Option<Event> {
        let Some(mistake) = self.mistake else { return Some(event) };
        match (mistake, &mut event) {
            (Mistake::LostMlist, Event::Queue(_)) if self.is_turn(20) => return None,
            (Mistake::ForgottenPrecedence, Event::Queue(spec)) => spec.precedence = Precedence::Routine,
            (Mistake::OverfilledProcess, Event::ProcessAttached { capacity, .. }) => *capacity += 1,
            (Mistake::UnheardDeath, Event::ProcessGone { .. }) => return None,
            (_, Event::Configure(limits)) => misread(mistake, limits),
            _ => {}
        }
        Some(event)
    }

    /// The actions that the driver sees.
    fn act(&mut self, actions: Vec<Action>, seen: &mut Vec<Action>) {
        let is_assignment = |action: &Action| matches!(action, Action::Assign { .. });
        if self.mistake == Some(Mistake::SwappedAssignments) {
            let mut swapped = actions;
            let places: Vec<usize> =
                (0..swapped.len()).filter(|&at| is_assignment(&swapped[at])).take(2).collect();
            if let [first, second] = places[..] {
                swapped.swap(first, second);
            }
            return seen.append(&mut swapped);
        }
        for action in actions {
            match (self.mistake, &action) {
                (Some(Mistake::LostAssignment), Action::Assign { .. }) if self.is_turn(20) => {}
                (Some(Mistake::LateAssignment), Action::Assign { .. }) if self.is_turn(20) => {
                    self.kept.push(action);
                }
                (Some(Mistake::DoubledAssignment), Action::Assign { .. }) if self.is_turn(20) => {
                    seen.extend([action.clone(), action]);
                }
                (Some(Mistake::LostStart), Action::StartProcess { .. }) if self.is_turn(5) => {}
                (Some(Mistake::DoubledStart), Action::StartProcess { channel, precedence, waiting, .. })
                    if self.is_turn(5) =>
                {
                    let process = ProcessId(DOUBLED_PROCESS + self.count);
                    let (channel, precedence, waiting) = (channel.clone(), *precedence, *waiting);
                    let again = Action::StartProcess { process, channel, precedence, waiting };
                    seen.extend([action, again]);
                }
                _ => seen.push(action),
            }
        }
    }
}

/// The limits as the scheduler believes them to be.
fn misread(mistake: Mistake, limits: &mut Limits) {
    match mistake {
        Mistake::OneProcessMore => limits.qmgr_maxchans += 1,
        Mistake::ShortBackOff => {
            limits.retry_step_ms -= 1;
            limits.retry_max_ms -= 1;
        }
        Mistake::LongBackOff => {
            limits.retry_step_ms += 1;
            limits.retry_max_ms += 1;
        }
        Mistake::OverfilledPeer => {
            for channel in &mut limits.channels {
                channel.peer_slots_max += 1;
                for peer in &mut channel.peers {
                    peer.slots_max = peer.slots_max.map(|max| max + 1);
                }
            }
        }
        Mistake::ForgottenReserves => {
            (limits.qmgr_reserve_urgent, limits.qmgr_reserve_normal) = (0, 0);
            for channel in &mut limits.channels {
                (channel.slots_reserve, channel.peer_slots_reserve) = Default::default();
                for peer in &mut channel.peers {
                    peer.slots_reserve = None;
                }
            }
        }
        _ => {}
    }
}
