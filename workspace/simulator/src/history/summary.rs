//! What happened in histories of the log.

use std::fmt;

use crate::disk::{FaultCounts, counted};

/// What happened, to show that a history was worth its while.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Histories.
    pub histories: u64,
    /// Messages acknowledged.
    pub acknowledged: u64,
    /// Messages that died.
    pub dead: u64,
    /// Times that the power was cut.
    pub power_cuts: u64,
    /// Times that it was cut with a write under way.
    pub cuts_in_flight: u64,
    /// Times that the process was killed.
    pub kills: u64,
    /// Times that the log was opened.
    pub opened: u64,
    /// Torn last batches that recovery dropped.
    pub torn: u64,
    /// Segments that were recovered by their index.
    pub segments_by_index: u64,
    /// Records that reclaim moved.
    pub moved: u64,
    /// Sets that a failed write took along.
    pub failed_writes: u64,
    /// Appends refused because the log was full.
    pub full: u64,
    /// Messages that a damage may have concerned.
    pub hit: u64,
    /// What the disk did.
    pub faults: FaultCounts,
}

impl Summary {
    /// Crashes: losses of power and deaths of the process.
    #[must_use]
    pub const fn crashes(&self) -> u64 {
        self.power_cuts + self.kills
    }

    /// Both.
    pub const fn add(&mut self, other: &Self) {
        self.histories += other.histories;
        self.acknowledged += other.acknowledged;
        self.dead += other.dead;
        self.power_cuts += other.power_cuts;
        self.cuts_in_flight += other.cuts_in_flight;
        self.kills += other.kills;
        self.opened += other.opened;
        self.torn += other.torn;
        self.segments_by_index += other.segments_by_index;
        self.moved += other.moved;
        self.failed_writes += other.failed_writes;
        self.full += other.full;
        self.hit += other.hit;
        self.faults.add(&other.faults);
    }

    /// What is to happen often, by name.
    #[must_use]
    pub fn classes(&self) -> Vec<(&'static str, u64)> {
        let own = [
            ("power cuts", self.power_cuts),
            ("power cuts in a write", self.cuts_in_flight),
            ("kills", self.kills),
            ("torn tails", self.torn),
            ("segments recovered by their index", self.segments_by_index),
            ("records moved", self.moved),
            ("sets refused with a failed write", self.failed_writes),
            ("sets refused by a full log", self.full),
        ];
        own.into_iter().chain(self.faults.classes()).collect()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} histories: {} crashes, {} openings, {} messages acknowledged, {} died; {}; {} messages that a damage may have concerned",
            self.histories,
            self.crashes(),
            self.opened,
            self.acknowledged,
            self.dead,
            counted(&self.classes()),
            self.hit
        )
    }
}
