//! The middle of the tree: a peer MTA on a channel, its queues (one for each precedence) and its delay.

use std::cmp::Reverse;
use std::sync::Arc;

use sternpost_message::{CivilPriority, Precedence};

use crate::flow::Passed;
use crate::governor::{Bounds, Governor};
use crate::limits::Reserves;
use crate::process::ChannelIndex;
use crate::queue::Queue;
use crate::timer::NEVER;
use crate::tree::{MlistIndex, Mlists};

/// Where a peer is in the scheduler's list. Given again after the peer is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PeerIndex(pub(crate) u32);

/// Precedence levels.
pub(crate) const LEVELS: usize = Precedence::ALL.len();

/// How the runnable peers of a channel are ranked: highest precedence, fewest in progress, served longest ago; among
/// those never served, which come first, by their oldest message. 24 octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    pub(crate) top: Reverse<Precedence>,
    pub(crate) in_progress: u32,
    served: u64,
    oldest_of_unserved: (u64, u16),
    pub(crate) peer: PeerIndex,
}

/// One peer MTA on one channel.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) name: Arc<str>,
    pub(crate) channel: ChannelIndex,
    /// Mlists in progress at a time; `None` when the peer is not configured.
    pub(crate) slots: Option<PeerSlots>,
    /// How many of them it bears.
    pub(crate) governor: Governor,
    /// The lowest level that is not told to wait by a [`crate::Minimise`].
    pub(crate) lowest: Precedence,
    /// What could run, by [`Precedence`].
    queues: [Queue; LEVELS],
    pub(crate) queued_count: usize,
    /// Mlists on the peer, wherever they are.
    pub(crate) mlists_count: usize,
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

/// How many Mlists a peer may have in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PeerSlots {
    /// At a time.
    pub(crate) max: u32,
    /// Kept free of them.
    pub(crate) reserve: Reserves,
}

/// What a peer offers to its channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offer {
    /// Its place among the runnable peers, if something can be assigned.
    pub(crate) rank: Option<Rank>,
    /// Mlists that wait for a slot or a process only.
    pub(crate) runnable_count: usize,
    /// There are more than the peer's own limits let go.
    pub(crate) is_pressed: bool,
    /// How many of them the peer's own limits let go, by lowest level taken: `[0]` counts every level, `[5]`
    /// override alone.
    pub(crate) assignable: [u32; LEVELS],
    /// The one of those accepted first, where age has a share of the assignments.
    pub(crate) eldest: Option<Eldest>,
}

/// The Mlist of a peer that age would choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Eldest {
    pub(crate) accepted: (u64, u16),
    pub(crate) peer: PeerIndex,
    pub(crate) precedence: Precedence,
}

impl Peer {
    pub(crate) fn new(name: Arc<str>, channel: ChannelIndex) -> Self {
        Self {
            name,
            channel,
            slots: None,
            governor: Governor::new(Bounds::new(0, 0)),
            lowest: Precedence::ALL[0],
            queues: [const { Queue::new() }; LEVELS],
            queued_count: 0,
            mlists_count: 0,
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

    /// Adds an Mlist that is in no queue.
    pub(crate) fn enqueue(&mut self, mlists: &mut Mlists, index: MlistIndex) {
        self.queues[mlists.get(index).precedence as usize].insert(mlists, index);
        self.queued_count += 1;
    }

    /// Takes out an Mlist that is in the queue of its level.
    pub(crate) fn dequeue(&mut self, mlists: &mut Mlists, index: MlistIndex) {
        self.queues[mlists.get(index).precedence as usize].remove(mlists, index);
        self.queued_count -= 1;
    }

    /// The oldest Mlist of a level.
    pub(crate) fn oldest_of(&self, precedence: Precedence) -> Option<MlistIndex> {
        self.queues[precedence as usize].oldest().map(|entry| entry.2)
    }

    /// The oldest queued Mlist of any level.
    pub(crate) fn oldest(&self) -> Option<MlistIndex> {
        self.queues.iter().filter_map(Queue::oldest).min().map(|entry| entry.2)
    }

    /// How many Mlists may be in progress for one of this level to be added below that.
    pub(crate) fn slots_limit(&self, priority: CivilPriority) -> u32 {
        self.slots.map_or(0, |slots| {
            let borne = self.governor.slots().min(slots.max);
            slots.reserve.within_half(borne).limit(borne, priority)
        })
    }

    /// Mlists of this level that may be added to what is in progress.
    pub(crate) fn room(&self, priority: CivilPriority) -> u32 {
        self.slots_limit(priority).saturating_sub(self.in_progress)
    }

    /// What the peer offers at this instant.
    pub(crate) fn offer(&self, index: PeerIndex, now: u64, terms: Terms) -> Offer {
        let mut offer = Offer::default();
        if !terms.channel_is_configured
            || self.slots.is_none()
            || self.retry_at > now
            || self.queued_count == 0
        {
            return offer;
        }
        let mut taken = 0_u32;
        for precedence in Precedence::ALL.into_iter().rev() {
            let queue = &self.queues[precedence as usize];
            if let Some((message, route, _)) = queue.oldest()
                && precedence >= self.lowest
            {
                offer.runnable_count += queue.len();
                let room = self.room(precedence.civil());
                let count = u32::try_from(queue.len()).unwrap_or(u32::MAX);
                taken += count.min(room.saturating_sub(taken));
                let accepted = (message, route);
                if room > 0 && offer.rank.is_none() {
                    offer.rank = Some(Rank {
                        top: Reverse(precedence),
                        in_progress: self.in_progress,
                        served: self.served,
                        oldest_of_unserved: if self.served == 0 { accepted } else { (0, 0) },
                        peer: index,
                    });
                }
                if room > 0 && terms.age_has_a_share {
                    let this = Eldest { accepted, peer: index, precedence };
                    offer.eldest = Some(offer.eldest.map_or(this, |other| other.min(this)));
                }
            }
            offer.assignable[precedence as usize] = taken;
        }
        offer.is_pressed = offer.runnable_count > taken as usize;
        offer
    }
}

/// What a peer's offer depends on besides the peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) channel_is_configured: bool,
    /// `age_share_percent` is not 0.
    pub(crate) age_has_a_share: bool,
}
