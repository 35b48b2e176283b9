//! What happened in histories: to show that they were worth their while, and as what is measured.

use std::fmt;

use crate::disk::{FaultCounts, counted};

/// What happened in one history, or in many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Histories.
    pub histories: u64,
    /// Things that happened.
    pub steps: u64,
    /// Messages acknowledged.
    pub acknowledged: u64,
    /// Messages acknowledged in a set that repeated one without an answer.
    pub repeated: u64,
    /// Recipients handed over.
    pub handed_over: u64,
    /// Recipients handed over again: a transfer of which nothing durable was known.
    pub handed_over_again: u64,
    /// Recipients of whom a failure was reported.
    pub failure_reports: u64,
    /// Recipients of whom a delay was reported.
    pub delay_reports: u64,
    /// Losses of power, which end every process.
    pub power_cuts: u64,
    /// Deaths of the store, with the power or alone.
    pub store_deaths: u64,
    /// Deaths of the store with a write under way.
    pub store_deaths_in_flight: u64,
    /// Deaths of QMGR alone.
    pub qmgr_deaths: u64,
    /// Deaths of channel processes alone.
    pub channel_deaths: u64,
    /// Deaths of submitters alone.
    pub submitter_deaths: u64,
    /// Processes that stopped for a long time.
    pub hangs: u64,
    /// Links that broke between two living processes.
    pub broken_links: u64,
    /// Times that the store found QMGR too slow for the stream.
    pub overflows: u64,
    /// Openings of the log.
    pub opened: u64,
    /// Segments that were recovered by their index.
    pub segments_by_index: u64,
    /// Comparisons of QMGR's tree with the log.
    pub trees_compared: u64,
    /// Messages that a damage may have concerned.
    pub hit: u64,
    /// What the disk did.
    pub faults: FaultCounts,
}

impl Summary {
    /// Deaths of all kinds; that of the power counts as one, which is the store's.
    #[must_use]
    pub const fn crashes(&self) -> u64 {
        self.store_deaths + self.qmgr_deaths + self.channel_deaths + self.submitter_deaths
    }

    /// Both.
    pub const fn add(&mut self, other: &Self) {
        self.histories += other.histories;
        self.steps += other.steps;
        self.acknowledged += other.acknowledged;
        self.repeated += other.repeated;
        self.handed_over += other.handed_over;
        self.handed_over_again += other.handed_over_again;
        self.failure_reports += other.failure_reports;
        self.delay_reports += other.delay_reports;
        self.power_cuts += other.power_cuts;
        self.store_deaths += other.store_deaths;
        self.store_deaths_in_flight += other.store_deaths_in_flight;
        self.qmgr_deaths += other.qmgr_deaths;
        self.channel_deaths += other.channel_deaths;
        self.submitter_deaths += other.submitter_deaths;
        self.hangs += other.hangs;
        self.broken_links += other.broken_links;
        self.overflows += other.overflows;
        self.opened += other.opened;
        self.segments_by_index += other.segments_by_index;
        self.trees_compared += other.trees_compared;
        self.hit += other.hit;
        self.faults.add(&other.faults);
    }

    /// What is to happen often, by name.
    #[must_use]
    pub fn classes(&self) -> Vec<(&'static str, u64)> {
        let own = [
            ("power cuts", self.power_cuts),
            ("deaths of the store", self.store_deaths - self.power_cuts.min(self.store_deaths)),
            ("deaths of the store in a write", self.store_deaths_in_flight),
            ("deaths of QMGR", self.qmgr_deaths),
            ("deaths of channels", self.channel_deaths),
            ("deaths of submitters", self.submitter_deaths),
            ("hangs", self.hangs),
            ("broken links", self.broken_links),
            ("overflows of the stream", self.overflows),
        ];
        own.into_iter().chain(self.faults.classes()).collect()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} histories, {} steps: {} crashes, {} openings of the log, {} comparisons of the tree",
            self.histories,
            self.steps,
            self.crashes(),
            self.opened,
            self.trees_compared
        )?;
        writeln!(
            f,
            "{} messages acknowledged ({} by repetition), {} recipients handed over ({} again), {} failures and {} delays reported",
            self.acknowledged,
            self.repeated,
            self.handed_over,
            self.handed_over_again,
            self.failure_reports,
            self.delay_reports
        )?;
        write!(f, "{}; {} messages that a damage may have concerned", counted(&self.classes()), self.hit)
    }
}
