//! Fuzzes the edit of a header section on its way to a peer.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| sternpost_smtp::fuzz::fuzz_header_edit(octets));
