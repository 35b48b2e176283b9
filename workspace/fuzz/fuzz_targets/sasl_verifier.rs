//! Fuzzes verifiers of passwords, as they stand in a directory.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| sternpost_sasl::fuzz::fuzz_verifier(octets));
