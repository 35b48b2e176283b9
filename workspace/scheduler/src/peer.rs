//! The middle of the tree: a peer MTA on a channel, its queues (one for each precedence) and its delay.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use sternpost_message::{MlistId, Precedence};

use crate::flow::Passed;
use crate::process::ChannelIndex;
use crate::timer::NEVER;
use crate::tree::MlistIndex;

/// Where a peer is in the scheduler's list. Never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PeerIndex(pub(crate) u32);

/// Precedence levels.
pub(crate) const LEVELS: usize = Precedence::ALL.len();

/// How the runnable peers of a channel are ranked: highest precedence, fewest in progress, served longest ago; among
/// those never served, by their oldest message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    pub(crate) top: Reverse<Precedence>,
    pub(crate) in_progress: u32,
    pub(crate) served: u64,
    pub(crate) oldest: (u64, u16),
    pub(crate) peer: PeerIndex,
}

/// One peer MTA on one channel.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) name: Arc<str>,
    pub(crate) channel: ChannelIndex,
    /// Mlists in progress at a time; `None` when the peer is not configured.
    pub(crate) slots_max: Option<u32>,
    /// What could run, oldest message first, by [`Precedence`]. 24 octets each while empty.
    queues: [BTreeSet<(u64, u16, MlistIndex)>; LEVELS],
    pub(crate) queued_count: usize,
    /// Mlists that wait for their own back-off.
    pub(crate) delayed_count: usize,
    pub(crate) in_progress: u32,
    /// When it was served last, as a count of assignments.
    pub(crate) served: u64,
    /// Failures in a row.
    pub(crate) errors: u32,
    /// Its delay ends then; 0 when it has none.
    pub(crate) retry_at: u64,
    /// Its entry in the timers.
    pub(crate) timer_at: u64,
    /// Failures that counted, ever. An attempt of an earlier wave began before the present delay.
    pub(crate) wave: u32,
    /// Whether an attempt has begun since the last failure that counted.
    pub(crate) tried: bool,
    /// What has come and gone of it since the last look of the flow control.
    pub(crate) passed: Passed,
    /// More waited for it then than had left in a second.
    pub(crate) is_behind: bool,
    /// What it has in its channel's sums and set: see [`Peer::offer`].
    pub(crate) offered: Offer,
}

/// What a peer offers to its channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offer {
    /// Its place among the runnable peers, if something can be assigned.
    pub(crate) rank: Option<Rank>,
    /// Mlists that wait for a slot or a process only.
    pub(crate) runnable_count: usize,
    /// How many of them the peer's own limit lets go, by lowest level taken: `[0]` counts every level, `[5]`
    /// override alone.
    pub(crate) assignable: [u32; LEVELS],
}

impl Peer {
    pub(crate) fn new(name: Arc<str>, channel: ChannelIndex) -> Self {
        Self {
            name,
            channel,
            slots_max: None,
            queues: std::array::from_fn(|_| BTreeSet::new()),
            queued_count: 0,
            delayed_count: 0,
            in_progress: 0,
            served: 0,
            errors: 0,
            retry_at: 0,
            timer_at: NEVER,
            wave: 0,
            tried: false,
            passed: Passed::default(),
            is_behind: false,
            offered: Offer::default(),
        }
    }

    pub(crate) fn enqueue(&mut self, precedence: Precedence, id: MlistId, index: MlistIndex) {
        if self.queues[precedence as usize].insert((id.message.0, id.route.0, index)) {
            self.queued_count += 1;
        }
    }

    pub(crate) fn dequeue(&mut self, precedence: Precedence, id: MlistId, index: MlistIndex) {
        if self.queues[precedence as usize].remove(&(id.message.0, id.route.0, index)) {
            self.queued_count -= 1;
        }
    }

    /// The oldest Mlist of a level.
    pub(crate) fn oldest_of(&self, precedence: Precedence) -> Option<MlistIndex> {
        self.queues[precedence as usize].first().map(|entry| entry.2)
    }

    /// The oldest queued Mlist of any level.
    pub(crate) fn oldest(&self) -> Option<MlistIndex> {
        self.queues.iter().filter_map(BTreeSet::first).min().map(|entry| entry.2)
    }

    /// Mlists that may be added to what is in progress.
    pub(crate) fn slots_free(&self) -> u32 {
        self.slots_max.map_or(0, |max| max.saturating_sub(self.in_progress))
    }

    /// What the peer offers at this instant.
    pub(crate) fn offer(&self, index: PeerIndex, now: u64, channel_is_configured: bool) -> Offer {
        if !channel_is_configured || self.slots_max.is_none() || self.retry_at > now || self.queued_count == 0
        {
            return Offer::default();
        }
        let mut offer = Offer { rank: None, runnable_count: self.queued_count, assignable: [0; LEVELS] };
        let free = self.slots_free();
        let mut count = 0_usize;
        for precedence in Precedence::ALL.into_iter().rev() {
            let queue = &self.queues[precedence as usize];
            count += queue.len();
            if free > 0
                && offer.rank.is_none()
                && let Some(&(message, route, _)) = queue.first()
            {
                offer.rank = Some(Rank {
                    top: Reverse(precedence),
                    in_progress: self.in_progress,
                    served: self.served,
                    oldest: (message, route),
                    peer: index,
                });
            }
            offer.assignable[precedence as usize] = u32::try_from(count).unwrap_or(u32::MAX).min(free);
        }
        offer
    }
}
