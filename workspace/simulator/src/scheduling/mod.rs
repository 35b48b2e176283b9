//! The scheduler in virtual time, among channels, processes and peers that are models, from one seed.
//!
//! [`Scheduler`](sternpost_scheduler::Scheduler) is the product's. Around it a world goes from one thing that happens to the
//! next: it does every action (starts processes, lets them work, stops them) and tells every event, in order, with the
//! latencies and failures of a [`Scenario`]. Beside it a ledger, kept from the events and actions alone, says after each
//! event whether a rule was broken; a record keeps what every peer had in progress and got, over time.
//!
//! A scenario is read from a file, or made of a seed ([`random_scenario`]). No clock, no thread: a day is over when
//! nothing of it is left to happen.

mod agenda;
mod arrivals;
mod chart;
mod expect;
mod ledger;
mod page;
mod peers;
mod random_scenario;
mod record;
mod scenario;
mod subject;
mod world;

pub use expect::broken_bounds;
pub use page::{page, table};
pub use random_scenario::random_scenario;
pub use record::{End, Figures, Lived, Moment, Record};
pub use scenario::{
    Arrivals, Bounds, ChannelKind, Expect, KeptFree, PeerKind, Scenario, ScenarioError, SwitchLimits,
    Trouble, Window,
};
pub use subject::Mistake;

use crate::trace::Tracing;

/// The virtual clock begins here, in milliseconds since 1970.
const BEGINNING_MS: u64 = 1_000_000_000_000;

/// How a run differs from the ordinary one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The scheduler, or its driver, does something wrong.
    pub mistake: Option<Mistake>,
    /// Which lines are wanted of what happens.
    pub tracing: Tracing,
}

/// What came of a run.
#[derive(Debug)]
pub struct Report {
    /// Events that the scheduler was told.
    pub events: u64,
    /// What each Mlist and each peer lived through.
    pub record: Record,
}

/// Lives through a scenario.
///
/// # Errors
/// The rule that was broken, in words, when, and the last lines of what happened, as far as they were wanted.
pub fn live(scenario: &Scenario, seed: u64, options: Options) -> Result<Report, String> {
    world::World::new(scenario, seed, options).live()
}
