//! Faulty disks and whole histories from one seed; the tidy rules of the house.
//!
//! Development only: nobody depends on this crate. A test names a seed; the seed names everything that happens.
#![forbid(unsafe_code)]

pub mod disk;
pub mod format;
pub mod history;
mod invariants;
pub mod ledger;
mod model;
mod opening;
pub mod random;
pub mod scheduling;
pub mod search;
pub mod switch;
pub mod trace;
mod wear;
