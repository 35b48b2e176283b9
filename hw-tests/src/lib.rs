//! Boots the image in QEMU, as a machine on its own disk, between a real directory and the sources and sinks of `load`.
//!
//! The tests below `tests/` speak in sentences; each boots its own [`vm::Vm`] from `target/image` (`make image`), with a
//! [`site::Site`] on loopback, which the guest reaches through user-mode networking as 10.0.2.2. Power cuts are made from
//! the log of a disk's writes ([`write_log`], [`power_cut`]): a killed QEMU proves nothing, for the host's page cache
//! survives it.
//!
//! The [`campaign`] needs no guest: it runs the switch on this host, with its log on a [`logged_device`], and recovers
//! hundreds of cuts of that device by the queue crate.
//!
//! Development only: nobody depends on this crate. Nothing but the campaign knows what the switch is made of: the rest sees
//! a serial console, ports, and a disk.
#![forbid(unsafe_code)]

pub mod campaign;
pub mod console;
pub mod device;
pub mod folder;
pub mod gpt;
pub mod image;
pub mod logged_device;
pub mod loop_device;
pub mod power_cut;
pub mod qmp;
pub mod recording;
pub mod replay;
pub mod site;
pub mod sparse;
pub mod vm;
pub mod write_log;
