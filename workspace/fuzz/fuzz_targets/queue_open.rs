//! Fuzzes a log as it could stand on a damaged disk.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| sternpost_queue::fuzz::fuzz_open(octets));
