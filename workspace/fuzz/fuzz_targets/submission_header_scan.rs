//! Fuzzes the header section of a message, whole and cut.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| sternpost_submission::fuzz_header_scan(octets));
