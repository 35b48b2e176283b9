//! Fuzzes an SMTP client, as the server reads it.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| sternpost_smtp::fuzz::fuzz_server(octets));
