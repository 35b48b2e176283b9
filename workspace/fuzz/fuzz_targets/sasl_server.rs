//! Fuzzes the server of SASL: what a client may send.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| sternpost_sasl::fuzz::fuzz_server(octets));
