//! Fuzzes the configuration as a file of tables.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| sternpost_config::fuzz::fuzz_tables(octets));
