//! Fuzzes replies of SMTP, one by one.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| sternpost_smtp::fuzz::fuzz_reply(octets));
