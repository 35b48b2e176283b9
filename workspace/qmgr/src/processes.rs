//! The channel processes that QMGR leads, and which of them holds which Mlist.

use rustc_hash::FxHashMap;
use std::rc::Rc;
use sternpost_message::{MlistId, RecipientRange, UnixMillis};
use sternpost_platform::link::Link;
use sternpost_scheduler::ProcessId;

/// One channel process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) channel: String,
    /// 0 until the supervisor has said it.
    pub(crate) pid: u32,
    pub(crate) link: Option<Rc<Link>>,
    /// Announced when it attached; none before.
    pub(crate) capacity: Option<u32>,
    /// A process that runs and must say what it holds before the tree is built, and until when.
    pub(crate) attach_by: Option<UnixMillis>,
    pub(crate) is_draining: bool,
    /// It has ended; what it held is not back yet.
    pub(crate) is_gone: bool,
    pub(crate) pong_at: UnixMillis,
}

impl Process {
    pub(crate) fn new(channel: String, pid: u32, attach_by: Option<UnixMillis>) -> Self {
        Self {
            channel,
            pid,
            link: None,
            capacity: None,
            attach_by,
            is_draining: false,
            is_gone: false,
            pong_at: UnixMillis(u64::MAX),
        }
    }
}

/// Who has an Mlist, from its assignment until the outcomes of all assigned recipients are durable.
#[derive(Debug)]
pub(crate) struct Holder {
    pub(crate) process: ProcessId,
    pub(crate) recipients: Vec<RecipientRange>,
    /// Its slot is free; the outcomes are on their way.
    pub(crate) finished: bool,
    open_count: u32,
}

impl Holder {
    pub(crate) fn new(process: ProcessId, recipients: Vec<RecipientRange>) -> Self {
        let open_count = recipients.iter().map(|range| range.count).sum();
        Self { process, recipients, finished: false, open_count }
    }
}

/// All channel processes.
#[derive(Debug, Default)]
pub(crate) struct Processes {
    processes: FxHashMap<ProcessId, Process>,
    holders: FxHashMap<MlistId, Holder>,
}

impl Processes {
    pub(crate) fn insert(&mut self, process: ProcessId, known: Process) {
        self.processes.insert(process, known);
    }

    pub(crate) fn get(&self, process: ProcessId) -> Option<&Process> {
        self.processes.get(&process)
    }

    pub(crate) fn get_mut(&mut self, process: ProcessId) -> Option<&mut Process> {
        self.processes.get_mut(&process)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Process> {
        self.processes.values()
    }

    /// Forgets a process and what it held.
    pub(crate) fn remove(&mut self, process: ProcessId) {
        if self.processes.remove(&process).is_some() {
            self.holders.retain(|_, holder| holder.process != process);
        }
    }

    /// Forgets every process that has ended: a new snapshot says what became of what it held.
    pub(crate) fn forget_the_dead(&mut self) {
        let dead: Vec<_> =
            self.processes.iter().filter(|(_, known)| known.is_gone).map(|(process, _)| *process).collect();
        for process in dead {
            self.remove(process);
        }
    }

    pub(crate) fn started(&mut self, process: ProcessId, pid: u32) {
        if let Some(known) = self.processes.get_mut(&process) {
            known.pid = pid;
        }
    }

    /// The processes that have not ended, with their channel and, when they are attached, capacity.
    pub(crate) fn alive(&self) -> impl Iterator<Item = (ProcessId, String, Option<u32>)> + use<> {
        let alive: Vec<_> = self
            .processes
            .iter()
            .filter(|(_, known)| !known.is_gone)
            .map(|(process, known)| (*process, known.channel.clone(), known.capacity))
            .collect();
        alive.into_iter()
    }

    /// The processes that the tree waits for, and until when.
    pub(crate) fn awaited(&self) -> impl Iterator<Item = (ProcessId, UnixMillis)> {
        self.processes.iter().filter_map(|(process, known)| Some((*process, known.attach_by?)))
    }

    /// The processes that have not answered for `timeout_ms`.
    pub(crate) fn unanswering(&self, now: UnixMillis, timeout_ms: u64) -> impl Iterator<Item = ProcessId> {
        self.processes
            .iter()
            .filter(move |(_, known)| known.link.is_some() && now.since_ms(known.pong_at) > timeout_ms)
            .map(|(process, _)| *process)
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

    /// The process is done with the Mlist.
    pub(crate) fn finished(&mut self, process: ProcessId, mlist: MlistId) {
        if let Some(holder) = self.holders.get_mut(&mlist).filter(|holder| holder.process == process) {
            holder.finished = true;
            if holder.open_count == 0 {
                self.holders.remove(&mlist);
            }
        }
    }

    /// An outcome of recipients of the Mlist is durable.
    pub(crate) fn outcome(&mut self, mlist: MlistId, recipients: RecipientRange) {
        if let Some(holder) = self.holders.get_mut(&mlist) {
            holder.open_count = holder.open_count.saturating_sub(recipients.count);
            if holder.open_count == 0 && holder.finished {
                self.holders.remove(&mlist);
            }
        }
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
            let mut processes = Processes::default();
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
    fn a_process_that_is_removed_holds_nothing() {
        let mut processes = Processes::default();
        processes.insert(ProcessId(1), Process::new("smtp".to_owned(), 5, None));
        processes.hold(MLIST, Holder::new(ProcessId(1), vec![RECIPIENTS]));
        processes.remove(ProcessId(1));
        assert!(processes.holder(MLIST).is_none());
    }
}
