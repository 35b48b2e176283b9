//! Faulty disks and whole histories from one seed; the tidy rules of the house.
//!
//! Development only: nobody depends on this crate. A test names a seed; the seed names everything that happens.
#![forbid(unsafe_code)]

pub mod disk;
pub mod history;
mod model;
pub mod random;
