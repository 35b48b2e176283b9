//! Fuzzes datagrams of our own links, as each link reads them.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| sternpost_link::fuzz::fuzz_datagram(octets));
