//! Fuzzes the replies of a peer MTA, as the client reads them.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| sternpost_smtp::fuzz::fuzz_client(octets));
