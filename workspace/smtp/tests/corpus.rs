//! Runs the entry points for fuzzing over the corpus, whole and cut, and over octets made up on the spot.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

use proptest::prelude::*;
use std::path::Path;
use sternpost_smtp::fuzz::{fuzz_client, fuzz_header_edit, fuzz_reply, fuzz_server};

/// The files of one entry point. A file begins with the two octets that the entry point reads as its choices.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(name);
    let files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
        .collect();
    assert!(!files.is_empty(), "the corpus of {name} is empty");
    files
}

fn run_over(name: &str, entry: fn(&[u8])) {
    for file in corpus(name) {
        (0..=file.len()).for_each(|end| entry(&file[..end]));
    }
}

#[test]
fn the_server_survives_its_corpus() {
    run_over("server", fuzz_server);
}

#[test]
fn the_client_survives_its_corpus() {
    run_over("client", fuzz_client);
}

#[test]
fn the_reply_reader_survives_its_corpus() {
    run_over("reply", fuzz_reply);
}

#[test]
fn the_header_edit_survives_its_corpus() {
    run_over("header_edit", fuzz_header_edit);
}

/// A file of the corpus with some octets replaced, taken out and put in.
fn mutated(name: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let edits = proptest::collection::vec((any::<prop::sample::Index>(), 0u8..3, any::<u8>()), 0..12);
    (prop::sample::select(corpus(name)), edits).prop_map(|(mut file, edits)| {
        for (at, edit, octet) in edits {
            let at = at.index(file.len());
            match edit {
                0 => file[at] = octet,
                1 if file.len() > 1 => drop(file.remove(at)),
                _ => file.insert(at, octet),
            }
        }
        file
    })
}

/// What a client may say, at the right time or the wrong one.
const COMMANDS: [&[u8]; 25] = [
    b"EHLO c\r\n",
    b"STARTTLS\r\n",
    b"HELO c\r\n",
    b"MAIL FROM:<a@b>\r\n",
    b"MAIL FROM:<a@b> SIZE=99999\r\n",
    b"RCPT TO:<c@d>\r\n",
    b"RCPT TO:<c@d> NOTIFY=NEVER\r\n",
    b"DATA\r\n",
    b"BDAT 6\r\n",
    b"BDAT 6 LAST\r\n",
    b"BDAT 0 LAST\r\n",
    b"BDAT 6 FIRST\r\n",
    b"BDAT 9999\r\n",
    b"RSET\r\n",
    b"NOOP\r\n",
    b"QUIT\r\n",
    b"VRFY x\r\n",
    b"FROB\r\n",
    b"line\r\n",
    b"..\r\n",
    b".\r\n",
    b".\n",
    b".\r",
    b"\0",
    &[b'x'; 600],
];

/// What a peer may answer, likewise.
const REPLIES: [&[u8]; 11] = [
    b"220 p\r\n",
    b"250-p\r\n250-CHUNKING\r\n250 PIPELINING\r\n",
    b"250-p\r\n250-STARTTLS\r\n250 PIPELINING\r\n",
    b"250 ok\r\n",
    b"250 ok\r\n",
    b"354 go\r\n",
    b"354 go\r\n",
    b"450 4.2.1 later\r\n",
    b"550 5.1.1 no\r\n",
    b"421 bye\r\n",
    b"garbage\r\n",
];

/// An entry point's two choices; one line at a time as often as in pieces of any size.
fn choices() -> impl Strategy<Value = [u8; 2]> {
    (any::<u8>(), prop_oneof![Just(0), any::<u8>()]).prop_map(|(choice, piece_octets)| [choice, piece_octets])
}

/// `lines` behind an entry point's two choices and a beginning that opens the session.
fn data(choices: [u8; 2], begin: &[u8], lines: &[&[u8]]) -> Vec<u8> {
    [&choices[..], begin, &lines.concat()].concat()
}

proptest! {
    #[test]
    fn the_server_survives_commands_in_any_order(
        choices in choices(),
        lines in proptest::collection::vec(prop::sample::select(&COMMANDS[..]), 0..60),
    ) {
        fuzz_server(&data(choices, b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n", &lines));
    }

    #[test]
    fn the_client_survives_replies_in_any_order(
        choices in choices(),
        offer in prop::sample::select(&REPLIES[1..3]),
        lines in proptest::collection::vec(prop::sample::select(&REPLIES[..9]), 0..60),
        last in prop::sample::select(&REPLIES[..]),
    ) {
        let begin = [REPLIES[0], offer].concat();
        fuzz_client(&data(choices, &begin, &[lines.concat().as_slice(), last]));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn the_server_survives_a_corpus_gone_wrong(data in mutated("server")) {
        fuzz_server(&data);
    }

    #[test]
    fn the_client_survives_a_corpus_gone_wrong(data in mutated("client")) {
        fuzz_client(&data);
    }

    #[test]
    fn the_header_edit_survives_a_corpus_gone_wrong(data in mutated("header_edit")) {
        fuzz_header_edit(&data);
    }

    #[test]
    fn the_reply_reader_survives_any_octets(data in proptest::collection::vec(any::<u8>(), 0..300)) {
        fuzz_reply(&data);
    }
}
