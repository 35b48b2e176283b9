//! Fuzzes the certificates of a trust entry.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| sternpost_config::fuzz::fuzz_certificates(octets));
