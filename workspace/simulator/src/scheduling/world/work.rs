//! Channel processes and their attempts: from the order to start to the end, from an assignment to its durable outcome.

use std::collections::BTreeSet;

use sternpost_message::{ErrorScope, MlistId, RecipientIndex, RecipientRange};
use sternpost_scheduler::{Event, ProcessId};

use super::super::peers::Fate;
use super::super::record::{End, Ended};
use super::super::scenario::ChannelKind;
use super::{Kept, What, World};

/// A process that ends says so to the supervisor after this, milliseconds.
const EXIT_MS: u64 = 1;

/// A channel process.
#[derive(Debug)]
pub(super) struct Process {
    /// Where its channel stands in the scenario.
    channel: usize,
    /// Attempts under way, and those that it has not said to be finished.
    attempts: BTreeSet<u64>,
    /// Outcomes that it has appended and that are not durable.
    outcomes: u32,
    /// The instant at which the last of them is.
    outcome_at: u64,
    /// Mlists that it is going to give back.
    given_back: u32,
    pub(super) is_stopping: bool,
    is_exiting: bool,
}

/// An attempt.
#[derive(Debug)]
pub(super) struct Attempt {
    process: ProcessId,
    mlist: MlistId,
    peer: usize,
    recipients: Vec<u32>,
    begun_at: u64,
    fate: Fate,
    is_standing: bool,
    has_ended: bool,
    /// It is said to be finished after its outcome is durable.
    is_told_late: bool,
}

impl World {
    pub(super) fn start(&mut self, process: ProcessId, channel: &str) {
        let Some(at) = self.channels.iter().position(|kind| kind.name == channel) else { return };
        let kind = &self.channels[at];
        let fails = self.random.chance(kind.start_failure_percent);
        let ready_at = self.now + kind.start_ms.max(1);
        self.agenda.enter(ready_at, if fails { What::StartFailure(process) } else { What::Attach(process) });
        if let Some(after_ms) = kind.death_after_ms {
            self.agenda.enter(ready_at + self.random.below(2 * after_ms) + 1, What::Death(process));
        }
        let started = Process {
            channel: at,
            attempts: BTreeSet::new(),
            outcomes: 0,
            outcome_at: 0,
            given_back: 0,
            is_stopping: false,
            is_exiting: false,
        };
        self.processes.insert(process, started);
    }

    pub(super) fn attach(&mut self, process: ProcessId) -> Kept {
        let Some(known) = self.processes.get(&process) else { return Ok(()) };
        let kind = &self.channels[known.channel];
        let capacity = kind.capacity_announced.unwrap_or(kind.capacity);
        self.tell(Event::ProcessAttached { process, channel: kind.name.clone(), capacity })
    }

    pub(super) fn start_failure(&mut self, process: ProcessId) -> Kept {
        self.processes.remove(&process);
        self.tell(Event::StartFailed { process })
    }

    /// A process gets an Mlist.
    pub(super) fn work(&mut self, process: ProcessId, mlist: MlistId, ranges: &[RecipientRange]) -> Kept {
        let Some(truth) = self.mlists.get_mut(&mlist) else {
            return Err(format!("{mlist} is assigned and is over"));
        };
        let Some(known) = self.processes.get_mut(&process) else {
            return Err(format!("{mlist} is assigned to {process:?}, which is not there"));
        };
        truth.wait_ms.get_or_insert(self.now - truth.accepted_at);
        let channel: &ChannelKind = &self.channels[known.channel];
        if self.random.chance(channel.give_back_percent) {
            known.given_back += 1;
            self.agenda.enter(self.now + 1, What::GiveBack(process, mlist));
            return Ok(());
        }
        let at = truth.peer;
        let peer = &mut self.peers[at];
        let attempt = peer.attempt(self.now, &self.kinds[peer.kind], &mut self.peers_random[at]);
        self.record.peer(self.now, at, peer.in_progress, None);
        self.attempts_count += 1;
        known.attempts.insert(self.attempts_count);
        self.agenda.enter(attempt.ends_at, What::End(self.attempts_count));
        let begun = Attempt {
            process,
            mlist,
            peer: at,
            recipients: ranges.iter().flat_map(|range| range.first..range.end()).collect(),
            begun_at: self.now,
            fate: attempt.fate,
            is_standing: attempt.is_standing,
            has_ended: false,
            is_told_late: self.random.chance(channel.late_word_percent),
        };
        self.attempts.insert(self.attempts_count, begun);
        Ok(())
    }

    /// An attempt ends: the process appends its outcome, says at once what it knows of the peer, and that the slot is free.
    pub(super) fn end(&mut self, number: u64) -> Kept {
        let Some(attempt) = self.attempts.get_mut(&number) else { return Ok(()) };
        let Some(process) = self.processes.get_mut(&attempt.process) else { return Ok(()) };
        attempt.has_ended = true;
        let (fate, at, is_told_late) = (attempt.fate, attempt.peer, attempt.is_told_late);
        let mlist = attempt.mlist;
        let commit_ms = self.channels[process.channel].commit_ms;
        process.outcomes += 1;
        process.outcome_at = process.outcome_at.max(self.now + commit_ms);
        self.agenda.enter(self.now + commit_ms, What::Outcome(number));
        let is_peers_error = matches!(fate, Fate::PeerError | Fate::Refused | Fate::Unreachable);
        let ended = Ended {
            took_ms: self.now - attempt.begun_at,
            is_transferred: fate == Fate::Transferred,
            is_peers_error,
        };
        let peer = &mut self.peers[at];
        peer.end(attempt.is_standing);
        self.record.peer(self.now, at, peer.in_progress, Some(ended));
        let was_silent = std::mem::replace(&mut peer.is_silent, is_peers_error);
        // One that is gone holds nobody.
        let holding = if fate == Fate::Unreachable { 0 } else { peer.associations() };
        let (channel, peer) = (self.kinds[peer.kind].channel.clone(), peer.name.clone());
        if is_peers_error {
            self.tell(Event::PeerFailed { channel, peer, mlists: vec![mlist], holding, has_carried: false })?;
        } else if was_silent {
            self.tell(Event::PeerWorked { channel, peer })?;
        }
        if is_told_late {
            self.agenda.enter(self.now + commit_ms + 1, What::Finish(number));
            return Ok(());
        }
        self.finish(number)
    }

    pub(super) fn finish(&mut self, number: u64) -> Kept {
        let Some(attempt) = self.attempts.get(&number) else { return Ok(()) };
        let (process, mlist) = (attempt.process, attempt.mlist);
        let Some(known) = self.processes.get_mut(&process) else { return Ok(()) };
        known.attempts.remove(&number);
        if attempt.is_told_late {
            self.attempts.remove(&number);
        }
        self.exit_if_done(process);
        self.tell(Event::Finished { process, mlist })
    }

    /// What became of an attempt is durable.
    pub(super) fn outcome(&mut self, number: u64) -> Kept {
        let Some(attempt) = self.attempts.get(&number) else { return Ok(()) };
        let (process, mlist, fate) = (attempt.process, attempt.mlist, attempt.fate);
        let mut done = attempt.recipients.clone();
        let deferred = match fate {
            Fate::Transferred | Fate::Failed => Vec::new(),
            // Some of them, and one at least.
            Fate::MessageError => done.split_off(self.random.place(done.len())),
            Fate::PeerError | Fate::Refused | Fate::Unreachable => std::mem::take(&mut done),
        };
        let is_told_late = attempt.is_told_late;
        let known = self.processes.get_mut(&process);
        // A dead process says nothing more.
        if !is_told_late || known.is_none() {
            self.attempts.remove(&number);
        }
        if let Some(known) = known {
            known.outcomes -= 1;
        }
        self.exit_if_done(process);
        if !done.is_empty() {
            self.settle(mlist, &done, fate == Fate::Failed);
            self.tell(Event::Settled { mlist, recipients: ranges(&done), worked: true })?;
        }
        if deferred.is_empty() {
            return Ok(());
        }
        let scope = if fate == Fate::MessageError { ErrorScope::Message } else { ErrorScope::Peer };
        self.tell(Event::Deferred { mlist, recipients: ranges(&deferred), scope })
    }

    fn settle(&mut self, mlist: MlistId, recipients: &[u32], has_failed: bool) {
        let Some(truth) = self.mlists.get_mut(&mlist) else { return };
        truth.open.retain(|recipient| !recipients.contains(recipient));
        truth.has_failed |= has_failed;
        if truth.open.is_empty() {
            let end = if truth.has_failed { End::Failed } else { End::Transferred };
            self.over(mlist, end);
        }
    }

    pub(super) fn give_back(&mut self, process: ProcessId, mlist: MlistId) -> Kept {
        let Some(known) = self.processes.get_mut(&process) else { return Ok(()) };
        known.given_back -= 1;
        self.exit_if_done(process);
        self.tell(Event::Unassigned { process, mlist })
    }

    /// A process that was asked to stop ends when it has nothing to do and nothing to say.
    pub(super) fn exit_if_done(&mut self, process: ProcessId) {
        let Some(known) = self.processes.get_mut(&process) else { return };
        let is_done = known.attempts.is_empty() && known.outcomes == 0 && known.given_back == 0;
        if known.is_stopping && is_done && !known.is_exiting {
            known.is_exiting = true;
            self.agenda.enter(self.now + EXIT_MS, What::Exit(process));
        }
    }

    pub(super) fn exit(&mut self, process: ProcessId) -> Kept {
        if self.processes.remove(&process).is_none() {
            return Ok(());
        }
        self.tell(Event::ProcessGone { process })?;
        self.tell(Event::Returned { process })
    }

    /// A process dies: what it has under way is lost, what it has appended becomes durable.
    pub(super) fn death(&mut self, process: ProcessId) -> Kept {
        if self.is_concluding {
            return Ok(());
        }
        let Some(dead) = self.processes.remove(&process) else { return Ok(()) };
        for number in dead.attempts {
            let has_ended = self.attempts.get(&number).is_some_and(|attempt| attempt.has_ended);
            if !has_ended && let Some(attempt) = self.attempts.remove(&number) {
                let peer = &mut self.peers[attempt.peer];
                peer.end(attempt.is_standing);
                self.record.peer(self.now, attempt.peer, peer.in_progress, None);
            }
        }
        self.agenda.enter(self.now.max(dead.outcome_at) + 1, What::Return(process));
        self.tell(Event::ProcessGone { process })
    }
}

/// As the log says it.
fn ranges(recipients: &[u32]) -> Vec<RecipientRange> {
    RecipientRange::pack(recipients.iter().copied().map(RecipientIndex))
}
