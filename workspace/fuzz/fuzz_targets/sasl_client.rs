//! Fuzzes the client of SASL: what a server may send.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| sternpost_sasl::fuzz::fuzz_client(octets));
