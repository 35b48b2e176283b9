//! Fuzzes mailboxes where the SMTP server reads them: as sender and as recipient.
#![no_main]

use sternpost_smtp::fuzz::fuzz_server;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| {
    let choices: &[u8] = &[0, u8::MAX];
    fuzz_server(&[choices, b"EHLO c\r\nMAIL FROM:<", octets, b">\r\nRCPT TO:<", octets, b">\r\n"].concat());
});
