//! Fuzzes recordings of QMGR, as `sternpost queue replay` reads a file that somebody has sent.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| sternpost_scheduler::journal::fuzz_journal(octets));
