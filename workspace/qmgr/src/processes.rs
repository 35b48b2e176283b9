//! The channel processes that QMGR leads, and which of them holds which Mlist.

use rustc_hash::FxHashMap;
use std::rc::Rc;
use sternpost_message::{MlistId, RecipientRange, UnixMillis};
use sternpost_scheduler::ProcessId;

/// One channel process.
#[derive(Debug)]
pub(crate) struct Process<L> {
    pub(crate) channel: String,
    /// 0 until the supervisor or the kernel has said it.
    pub(crate) pid: u32,
    pub(crate) link: Option<Rc<L>>,
    /// Announced when it attached; none before.
    pub(crate) capacity: Option<u32>,
    /// Until when it must attach; none when it has.
    pub(crate) attach_by: Option<UnixMillis>,
    /// This QMGR started it, so that it can hold nothing yet: the tree does not wait for it.
    pub(crate) is_ours: bool,
    pub(crate) is_draining: bool,
    /// It has ended; what it held is not back yet.
    pub(crate) is_gone: bool,
    /// When it was asked whether it lives, as long as it has not answered; by the clock that nobody sets.
    pub(crate) asked_at_ms: Option<u64>,
    /// Octets that it has sent to peers, as they were when it was last found to make progress.
    pub(crate) progress_octets: u64,
    /// Associations that each peer holds of it.
    associations: FxHashMap<String, u32>,
    /// What it has counted, since it was asked to; none when it has not been.
    pub(crate) recount: Option<Recount>,
}

/// A count under way.
#[derive(Debug)]
pub(crate) struct Recount {
    token: u64,
    /// The Mlists that the process said to hold.
    mlists: Vec<MlistId>,
}

impl<L> Process<L> {
    pub(crate) fn new(channel: String, pid: u32, attach_by: UnixMillis, is_ours: bool) -> Self {
        Self {
            channel,
            pid,
            link: None,
            capacity: None,
            attach_by: Some(attach_by),
            is_ours,
            is_draining: false,
            is_gone: false,
            asked_at_ms: None,
            progress_octets: 0,
            associations: FxHashMap::default(),
            recount: None,
        }
    }
}

/// Who has an Mlist, from its assignment until the outcomes of all assigned recipients are durable.
#[derive(Debug)]
pub(crate) struct Holder {
    pub(crate) process: ProcessId,
    /// Those who were assigned and have no durable outcome yet.
    pub(crate) recipients: Vec<RecipientRange>,
    /// Its slot is free; the outcomes are on their way.
    pub(crate) finished: bool,
}

impl Holder {
    pub(crate) const fn new(process: ProcessId, recipients: Vec<RecipientRange>) -> Self {
        Self { process, recipients, finished: false }
    }
}

/// All channel processes.
#[derive(Debug)]
pub(crate) struct Processes<L> {
    processes: FxHashMap<ProcessId, Process<L>>,
    holders: FxHashMap<MlistId, Holder>,
}

impl<L> Default for Processes<L> {
    fn default() -> Self {
        Self { processes: FxHashMap::default(), holders: FxHashMap::default() }
    }
}

impl<L> Processes<L> {
    pub(crate) fn insert(&mut self, process: ProcessId, known: Process<L>) {
        self.processes.insert(process, known);
    }

    pub(crate) fn get(&self, process: ProcessId) -> Option<&Process<L>> {
        self.processes.get(&process)
    }

    pub(crate) fn get_mut(&mut self, process: ProcessId) -> Option<&mut Process<L>> {
        self.processes.get_mut(&process)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Process<L>> {
        self.processes.values()
    }

    /// Forgets a process and what it held.
    pub(crate) fn remove(&mut self, process: ProcessId) {
        if self.processes.remove(&process).is_some() {
            self.holders.retain(|_, holder| holder.process != process);
        }
    }

    /// Forgets every process that has ended: a new snapshot says what became of what it held. Gives their process ids.
    pub(crate) fn forget_the_dead(&mut self) -> Vec<u32> {
        let dead: Vec<_> = self
            .processes
            .iter()
            .filter(|(_, known)| known.is_gone)
            .map(|(process, known)| (*process, known.pid))
            .collect();
        for (process, _) in &dead {
            self.remove(*process);
        }
        dead.into_iter().map(|(_, pid)| pid).collect()
    }

    /// A peer, which is known, holds so many associations of a process.
    pub(crate) fn peer_holds(&mut self, process: ProcessId, peer: String, associations: u32) {
        let Some(known) = self.processes.get_mut(&process) else { return };
        if associations == 0 {
            known.associations.remove(&peer);
        } else {
            known.associations.insert(peer, associations);
        }
    }

    /// Associations that a peer of the channel holds, of all processes that have not ended.
    pub(crate) fn held_by_peer(&self, channel: &str, peer: &str) -> u32 {
        self.processes
            .values()
            .filter(|known| !known.is_gone && known.channel == channel)
            .filter_map(|known| known.associations.get(peer))
            .fold(0, |sum, associations| sum.saturating_add(*associations))
    }

    /// How many processes of the channel have not ended, those that start or finish included.
    pub(crate) fn count_of(&self, channel: &str) -> usize {
        self.processes.values().filter(|known| !known.is_gone && known.channel == channel).count()
    }

    /// The processes that have not ended, with their channel and, when they are attached, capacity.
    pub(crate) fn alive(&self) -> impl Iterator<Item = (ProcessId, String, Option<u32>)> + use<L> {
        let alive: Vec<_> = self
            .processes
            .iter()
            .filter(|(_, known)| !known.is_gone)
            .map(|(process, known)| {
                // One that was asked to stop takes nothing any more.
                let capacity = if known.is_draining { Some(0) } else { known.capacity };
                (*process, known.channel.clone(), capacity)
            })
            .collect();
        alive.into_iter()
    }

    /// The processes that have not attached, and until when they must.
    pub(crate) fn unattached(&self) -> impl Iterator<Item = (ProcessId, UnixMillis)> {
        self.processes.iter().filter_map(|(process, known)| Some((*process, known.attach_by?)))
    }

    /// Whether a process that may hold Mlists has not said so yet.
    pub(crate) fn is_one_awaited(&self) -> bool {
        self.processes.values().any(|known| !known.is_ours && known.attach_by.is_some())
    }

    /// Asks for the count of what each attached process holds. A count that is under way is not waited for.
    pub(crate) fn begin_recount(&mut self, token: u64, mut ask: impl FnMut(&L)) {
        for known in self.processes.values_mut() {
            known.recount = None;
            if let (Some(link), Some(_)) = (&known.link, known.capacity) {
                known.recount = Some(Recount { token, mlists: Vec::new() });
                ask(link);
            }
        }
    }

    /// What a process that is being asked says to hold.
    pub(crate) fn recounted(&mut self, process: ProcessId, mlists: impl Iterator<Item = MlistId>) {
        if let Some(counted) = self.processes.get_mut(&process).and_then(|known| known.recount.as_mut()) {
            counted.mlists.extend(mlists);
        }
    }

    /// A process has said all: the Mlists that it should hold and does not. Their outcomes are durable. What it has said
    /// until now belongs to an earlier count if the token does.
    pub(crate) fn end_recount(&mut self, process: ProcessId, token: u64) -> Vec<MlistId> {
        let Some(known) = self.processes.get_mut(&process) else { return Vec::new() };
        match &mut known.recount {
            Some(recount) if recount.token != token => {
                recount.mlists.clear();
                return Vec::new();
            }
            _ => {}
        }
        let Some(counted) = known.recount.take() else { return Vec::new() };
        let counted: rustc_hash::FxHashSet<_> = counted.mlists.into_iter().collect();
        let of_process = self.holders.iter().filter(|(_, holder)| holder.process == process);
        of_process.map(|(mlist, _)| *mlist).filter(|mlist| !counted.contains(mlist)).collect()
    }

    /// Whether a process has not answered the last recount.
    pub(crate) fn is_recounting(&self) -> bool {
        self.processes.values().any(|known| !known.is_gone && known.recount.is_some())
    }

    pub(crate) fn all_mut(&mut self) -> impl Iterator<Item = (ProcessId, &mut Process<L>)> {
        self.processes.iter_mut().map(|(process, known)| (*process, known))
    }

    /// Whether the process holds anything.
    pub(crate) fn holds_something(&self, process: ProcessId) -> bool {
        self.holders.values().any(|holder| holder.process == process)
    }

    pub(crate) fn hold(&mut self, mlist: MlistId, holder: Holder) {
        self.holders.insert(mlist, holder);
    }

    pub(crate) fn holder(&self, mlist: MlistId) -> Option<&Holder> {
        self.holders.get(&mlist)
    }

    pub(crate) fn holders_count(&self) -> usize {
        self.holders.len()
    }

    pub(crate) fn forget(&mut self, mlist: MlistId) {
        self.holders.remove(&mlist);
    }

    /// The process gave the Mlist back. False when another one has it.
    pub(crate) fn given_back(&mut self, process: ProcessId, mlist: MlistId) -> bool {
        let is_holder = self.holders.get(&mlist).is_some_and(|holder| holder.process == process);
        if is_holder {
            self.holders.remove(&mlist);
        }
        is_holder
    }

    /// What is still open of an Mlist that a snapshot has shown.
    pub(crate) fn holds_only(&mut self, mlist: MlistId, recipients: &[RecipientRange]) {
        if let Some(holder) = self.holders.get_mut(&mlist) {
            holder.recipients = recipients.to_vec();
        }
    }

    /// The process is done with the Mlist.
    pub(crate) fn finished(&mut self, process: ProcessId, mlist: MlistId) {
        if let Some(holder) = self.holders.get_mut(&mlist).filter(|holder| holder.process == process) {
            holder.finished = true;
            if holder.recipients.is_empty() {
                self.holders.remove(&mlist);
            }
        }
    }

    /// An outcome of recipients of the Mlist is durable. It may be that of others than the holder was given: their failures
    /// are reported meanwhile.
    pub(crate) fn outcome(&mut self, mlist: MlistId, recipients: RecipientRange) {
        if let Some(holder) = self.holders.get_mut(&mlist) {
            take_out(&mut holder.recipients, recipients);
            if holder.recipients.is_empty() && holder.finished {
                self.holders.remove(&mlist);
            }
        }
    }
}

/// Takes everybody in `gone` out of `ranges`.
fn take_out(ranges: &mut Vec<RecipientRange>, gone: RecipientRange) {
    let left = |range: &RecipientRange| {
        let first =
            RecipientRange { count: gone.first.min(range.end()).saturating_sub(range.first), ..*range };
        let behind = gone.end().max(range.first);
        let second = RecipientRange { first: behind, count: range.end().saturating_sub(behind) };
        [first, second]
    };
    match &mut ranges[..] {
        [only] if gone.first <= only.first && only.end() <= gone.end() => ranges.clear(),
        _ => *ranges = ranges.iter().flat_map(left).filter(|range| range.count > 0).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sternpost_message::{MessageSequence, RouteIndex};

    const MLIST: MlistId = MlistId { message: MessageSequence(1), route: RouteIndex(0) };
    const RECIPIENTS: RecipientRange = RecipientRange { first: 0, count: 2 };

    #[test]
    fn an_mlist_is_held_until_it_is_finished_and_its_outcomes_are_durable() {
        for outcome_first in [true, false] {
            let mut processes = Processes::<()>::default();
            processes.hold(MLIST, Holder::new(ProcessId(1), vec![RECIPIENTS]));
            if outcome_first {
                processes.outcome(MLIST, RECIPIENTS);
            } else {
                processes.finished(ProcessId(1), MLIST);
            }
            assert!(processes.holder(MLIST).is_some());
            processes.finished(ProcessId(1), MLIST);
            processes.outcome(MLIST, RECIPIENTS);
            assert!(processes.holder(MLIST).is_none());
        }
    }

    #[test]
    fn outcomes_of_others_on_the_same_route_take_nothing_from_the_holder() {
        let range = |first, count| RecipientRange { first, count };
        let mut processes = Processes::<()>::default();
        processes.hold(MLIST, Holder::new(ProcessId(1), vec![range(4, 3), range(9, 1)]));
        for other in [range(0, 4), range(7, 2), range(10, 5)] {
            processes.outcome(MLIST, other);
        }
        processes.finished(ProcessId(1), MLIST);
        assert_eq!(processes.holder(MLIST).map(|holder| holder.recipients.len()), Some(2));
        processes.outcome(MLIST, range(5, 1));
        let left = processes.holder(MLIST).map(|holder| holder.recipients.clone());
        assert_eq!(left, Some(vec![range(4, 1), range(6, 1), range(9, 1)]));
        processes.outcome(MLIST, range(0, 20));
        assert!(processes.holder(MLIST).is_none());
    }

    #[test]
    fn a_recount_finds_what_a_process_no_longer_holds() {
        let mut processes = Processes::<()>::default();
        let mut known = Process::new("smtp".to_owned(), 5, UnixMillis(9), false);
        known.recount = Some(Recount { token: 2, mlists: Vec::new() });
        processes.insert(ProcessId(1), known);
        let other = MlistId { message: MessageSequence(2), route: RouteIndex(0) };
        for mlist in [MLIST, other] {
            processes.hold(mlist, Holder::new(ProcessId(1), vec![RECIPIENTS]));
        }
        // The end of an earlier count, of which the beginning came before this one began.
        processes.recounted(ProcessId(1), [MLIST].into_iter());
        assert_eq!(processes.end_recount(ProcessId(1), 1), []);
        assert!(processes.is_recounting());
        processes.recounted(ProcessId(1), [other].into_iter());
        assert_eq!(processes.end_recount(ProcessId(1), 2), [MLIST]);
        assert!(!processes.is_recounting());
    }

    #[test]
    fn a_process_that_is_removed_holds_nothing() {
        let mut processes = Processes::<()>::default();
        processes.insert(ProcessId(1), Process::new("smtp".to_owned(), 5, UnixMillis(9), true));
        processes.hold(MLIST, Holder::new(ProcessId(1), vec![RECIPIENTS]));
        processes.remove(ProcessId(1));
        assert!(processes.holder(MLIST).is_none());
    }

    #[test]
    fn what_a_peer_holds_is_the_sum_of_the_processes_of_its_channel_that_live() {
        let mut processes = Processes::<()>::default();
        for (number, channel) in [(1, "smtp"), (2, "smtp"), (3, "lmtp"), (4, "smtp")] {
            let known = Process::new(channel.to_owned(), 5, UnixMillis(9), true);
            processes.insert(ProcessId(number), known);
            processes.peer_holds(ProcessId(number), "a".to_owned(), 3);
        }
        processes.peer_holds(ProcessId(2), "a".to_owned(), 1);
        processes.peer_holds(ProcessId(2), "b".to_owned(), 2);
        processes.get_mut(ProcessId(4)).expect("it is there").is_gone = true;
        assert_eq!((processes.held_by_peer("smtp", "a"), processes.held_by_peer("smtp", "b")), (4, 2));
        processes.peer_holds(ProcessId(2), "a".to_owned(), 0);
        processes.remove(ProcessId(1));
        assert_eq!((processes.held_by_peer("smtp", "a"), processes.held_by_peer("lmtp", "a")), (0, 3));
    }
}
