//! The world: disks, shared memory, sockets, clocks, processes, sandboxes.
//!
//! The only crate with `unsafe`, each piece a few lines long with its reason beside it. Not here: decisions. Nothing in
//! this crate knows mail.

pub mod child;
pub mod clock;
pub mod disk;
pub mod door;
pub mod exchange;
pub mod link;
pub mod memory;
pub mod process;
pub mod sandbox;
pub mod space;
pub mod tcp;
pub mod wire;
