//! When something is due. Each Mlist, peer, channel and process has at most one instant here; its owner remembers
//! which, so that it can take it out again.

use std::collections::BTreeSet;

use crate::event::ProcessId;
use crate::peer::PeerIndex;
use crate::process::ChannelIndex;
use crate::tree::MlistIndex;

/// An instant that never comes.
pub(crate) const NEVER: u64 = u64::MAX;

/// Who asked to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Due {
    /// The Mlist's delay or life ends, or its delay report is due.
    Mlist(MlistIndex),
    /// The peer's delay ends.
    Peer(PeerIndex),
    /// The channel may start processes again.
    Channel(ChannelIndex),
    /// The process was idle for long.
    Process(ProcessId),
    /// A [`crate::Minimise`] begins or ends.
    Minimise,
}

/// All instants, in milliseconds since 1970. Mlists have a set of their own: its entries are 16 octets.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    mlists: BTreeSet<(u64, MlistIndex)>,
    others: BTreeSet<(u64, Due)>,
}

impl Timers {
    /// Moves the timer of `due` from the instant `at` to `to`; either may be [`NEVER`].
    pub(crate) fn change(&mut self, due: Due, at: &mut u64, to: u64) {
        if *at == to {
            return;
        }
        if *at != NEVER {
            match due {
                Due::Mlist(mlist) => self.mlists.remove(&(*at, mlist)),
                other => self.others.remove(&(*at, other)),
            };
        }
        if to != NEVER {
            match due {
                Due::Mlist(mlist) => self.mlists.insert((to, mlist)),
                other => self.others.insert((to, other)),
            };
        }
        *at = to;
    }

    /// The earliest instant.
    pub(crate) fn next_at(&self) -> Option<u64> {
        let mlists = self.mlists.first().map(|entry| entry.0);
        let others = self.others.first().map(|entry| entry.0);
        match (mlists, others) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Takes out one timer that is due; its owner has to be told that it has none any more.
    pub(crate) fn pop(&mut self, now: u64) -> Option<Due> {
        if self.others.first().is_some_and(|entry| entry.0 <= now) {
            return self.others.pop_first().map(|entry| entry.1);
        }
        if self.mlists.first().is_some_and(|entry| entry.0 <= now) {
            return self.mlists.pop_first().map(|entry| Due::Mlist(entry.1));
        }
        None
    }
}
