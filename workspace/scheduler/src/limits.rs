//! What an operator sets. Names, units, bounds and defaults stand in the table of attributes of `config`; here any
//! value is safe, and those outside the bounds only serve badly. The order of fields is part of JOURNAL.md.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sternpost_message::{CivilPriority, Precedence, UnixMillis};

/// The operator's limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Channel processes in total, those that start or drain included; and at most as many more that leave.
    pub qmgr_maxchans: u32,
    /// Processes of `qmgr_maxchans` that only urgent mail may start.
    pub qmgr_reserve_urgent: u32,
    /// Processes of `qmgr_maxchans` that only normal and urgent mail may start.
    pub qmgr_reserve_normal: u32,
    /// After the last process of a channel has gone, none is started for this long, milliseconds.
    pub qmgr_chan_time1_ms: u64,
    /// After a start none is started on the same channel for this long, milliseconds.
    pub qmgr_chan_time2_ms: u64,
    /// The same while fewer Mlists wait than the channel's processes have slots, milliseconds. What is shorter than
    /// `qmgr_chan_time2_ms` counts as that.
    pub qmgr_chan_time3_ms: u64,
    /// A process that was asked to stop is killed when it has made no progress for this long, milliseconds.
    pub drain_timeout_ms: u64,
    /// It is killed after this time whatever progress it makes, milliseconds. What is shorter than `drain_timeout_ms` counts
    /// as that.
    pub drain_time_max_ms: u64,
    /// Of a hundred assignments of a channel, how many go to the message accepted first, whatever its precedence.
    /// 0 is strict precedence.
    pub age_share_percent: u32,
    /// Back-off: the time added with each failed attempt, milliseconds.
    pub retry_step_ms: u64,
    /// Back-off: the longest time between two attempts, milliseconds.
    pub retry_max_ms: u64,
    /// Where mail of lower precedence has to wait.
    pub minimise: Vec<Minimise>,
    /// The channels that are configured. Mail for any other waits.
    pub channels: Vec<ChannelLimits>,
}

impl Default for Limits {
    /// Without channels.
    fn default() -> Self {
        Self {
            qmgr_maxchans: 16,
            qmgr_reserve_urgent: 1,
            qmgr_reserve_normal: 1,
            qmgr_chan_time1_ms: 0,
            qmgr_chan_time2_ms: 0,
            qmgr_chan_time3_ms: 0,
            drain_timeout_ms: 600_000,
            drain_time_max_ms: 3_600_000,
            age_share_percent: 0,
            retry_step_ms: 60_000,
            retry_max_ms: 3_600_000,
            minimise: Vec::new(),
            channels: Vec::new(),
        }
    }
}

/// The limits of one channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelLimits {
    /// The channel's name.
    pub name: String,
    /// Processes of this channel at a time, and at most as many more that leave; urgent mail does not count those that finish.
    pub processes_max: u32,
    /// Mlists that one process is expected to work on at a time; its handshake says how many it does.
    pub slots_per_process: u32,
    /// What is kept free of the `processes_max` × `slots_per_process` slots that the channel has when all its
    /// processes run; see [`Reserves`].
    pub slots_reserve: Reserves,
    /// Mlists in progress for one peer MTA at a time, at most.
    pub peer_slots_max: u32,
    /// The fewest that it is given when it bears less; as many as `peer_slots_max` or more: the number is fixed.
    pub peer_slots_min: u32,
    /// What is kept free of `peer_slots_max`.
    pub peer_slots_reserve: Reserves,
    /// A process without work for this long is stopped, milliseconds.
    pub idle_stop_ms: u64,
    /// The peer MTAs that are configured on the channel. Mail for any other waits.
    pub peers: Vec<PeerLimits>,
}

impl ChannelLimits {
    /// A channel with room for most, that reaches these peers, keeps nothing in reserve and gives each peer a fixed
    /// number.
    #[must_use]
    pub fn new<'a>(name: &str, peers: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            name: name.into(),
            processes_max: 2,
            slots_per_process: 50,
            slots_reserve: Reserves::default(),
            peer_slots_max: 20,
            peer_slots_min: u32::MAX,
            peer_slots_reserve: Reserves::default(),
            idle_stop_ms: 60_000,
            peers: peers.into_iter().map(PeerLimits::new).collect(),
        }
    }
}

/// The limits of one peer MTA on a channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerLimits {
    /// The peer's name. One that ends in a colon stands for every peer whose name begins with it, but for those that have limits
    /// of their own: each has these limits, and is forgotten when it has no Mlist.
    pub name: String,
    /// Mlists in progress at a time, instead of the channel's `peer_slots_max`.
    pub slots_max: Option<u32>,
    /// The fewest, instead of the channel's `peer_slots_min`.
    pub slots_min: Option<u32>,
    /// What is kept free of them, instead of the channel's `peer_slots_reserve`.
    pub slots_reserve: Option<Reserves>,
}

impl PeerLimits {
    /// A peer with the limits that its channel gives.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), slots_max: None, slots_min: None, slots_reserve: None }
    }
}

/// Places that lower levels leave free.
///
/// While a channel has fewer slots than the reserve was made for, the reserve shrinks in proportion (rounded up, the
/// urgent one first), and never takes the last slot: a channel of capacity 1 still serves everybody, and urgent mail
/// gets its own process there, from `qmgr_reserve_urgent`. Of a peer's slots it takes the smaller half at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserves {
    /// For urgent mail alone.
    pub urgent: u32,
    /// Further ones, for normal and urgent mail.
    pub normal: u32,
}

impl Reserves {
    /// What is left of the reserves where there are `total` of the `full` places for which they were made.
    pub(crate) fn scaled(self, total: u32, full: u32) -> Self {
        let scaled = |reserve: u32| {
            let full = u64::from(full.max(total).max(1));
            let scaled = (u64::from(reserve) * u64::from(total)).div_ceil(full);
            u32::try_from(scaled).unwrap_or(u32::MAX)
        };
        let spare = total.saturating_sub(1);
        let urgent = scaled(self.urgent).min(spare);
        Self { urgent, normal: scaled(self.normal).min(spare - urgent) }
    }

    /// What is left of the reserves of a peer that bears `total`: the smaller half of them at most, the urgent one
    /// first, so that one that bears two gets two.
    pub(crate) fn within_half(self, total: u32) -> Self {
        let spare = total.saturating_sub(1) / 2;
        let urgent = self.urgent.min(spare);
        Self { urgent, normal: self.normal.min(spare - urgent) }
    }

    /// How far mail of this level may fill `total` places: non-urgent leaves both reserves free, normal one, urgent
    /// none.
    pub(crate) const fn limit(self, total: u32, priority: CivilPriority) -> u32 {
        match priority {
            CivilPriority::Urgent => total,
            CivilPriority::Normal => total.saturating_sub(self.urgent),
            CivilPriority::NonUrgent => total.saturating_sub(self.urgent).saturating_sub(self.normal),
        }
    }
}

/// For a time, mail below a precedence waits on a channel: what a military network orders as MINIMIZE.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Minimise {
    /// What the operator calls it.
    pub name: Arc<str>,
    /// The channel.
    pub channel: String,
    /// The peer MTA, if it does not hold for all of them; see [`PeerLimits::name`].
    pub peer: Option<String>,
    /// The lowest precedence that is still assigned there.
    pub lowest: Precedence,
    /// From when on.
    pub from: UnixMillis,
    /// It is over then.
    pub until: UnixMillis,
}

impl Minimise {
    /// Whether it holds now for this peer of this channel.
    pub(crate) fn holds(&self, now: u64, channel: &str, peer: &str) -> bool {
        (self.from.0..self.until.0).contains(&now)
            && self.channel == channel
            && self.peer.as_deref().is_none_or(|name| name == peer || family_of(peer) == Some(name))
    }
}

/// What a peer's name begins with, up to its first colon, if more stands behind that: see [`PeerLimits::name`].
pub(crate) fn family_of(peer: &str) -> Option<&str> {
    let end = peer.find(':')? + 1;
    (end < peer.len()).then(|| &peer[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn non_urgent_leaves_both_reserves_normal_one_and_urgent_none() {
        let row = |priority| Reserves { urgent: 2, normal: 3 }.limit(10, priority);
        assert_eq!(row(CivilPriority::NonUrgent), 5);
        assert_eq!(row(CivilPriority::Normal), 8);
        assert_eq!(row(CivilPriority::Urgent), 10);
        assert_eq!(Reserves { urgent: 2, normal: 3 }.limit(3, CivilPriority::NonUrgent), 0);
    }

    #[test]
    fn the_reserves_of_a_peer_take_the_smaller_half_at_most() {
        let left = |total| Reserves { urgent: 2, normal: 1 }.within_half(total);
        let rows = [(0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 1, 0), (5, 2, 0), (7, 2, 1), (100, 2, 1)];
        for (total, urgent, normal) in rows {
            assert_eq!(left(total), Reserves { urgent, normal }, "{total}");
        }
    }

    #[test]
    fn slot_reserves_shrink_with_the_slots_and_never_take_the_last_one() {
        // (slots now, slots with all processes, urgent, normal) → (urgent, normal)
        let rows = [
            ((100, 100, 10, 5), (10, 5)),
            ((50, 100, 10, 5), (5, 3)),
            ((200, 100, 10, 5), (10, 5)),
            ((2, 8, 1, 1), (1, 0)),
            ((3, 8, 1, 1), (1, 1)),
            ((1, 8, 1, 1), (0, 0)),
            ((0, 8, 1, 1), (0, 0)),
            ((4, 4, 9, 9), (3, 0)),
            ((4, 0, 1, 0), (1, 0)),
        ];
        for ((total, full, urgent, normal), (urgent_left, normal_left)) in rows {
            let wanted = Reserves { urgent: urgent_left, normal: normal_left };
            assert_eq!(Reserves { urgent, normal }.scaled(total, full), wanted, "{total} of {full}");
        }
    }
}
