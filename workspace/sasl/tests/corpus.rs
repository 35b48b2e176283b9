//! Runs the entry points for fuzzing over the corpus, whole, cut and changed, and over octets made up on the spot.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

use proptest::prelude::*;
use std::path::Path;
use sternpost_sasl::fuzz::{fuzz_client, fuzz_server, fuzz_verifier};

/// The files of one entry point. A file of an exchange begins with the octet that chooses its mechanism.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(name);
    let files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
        .collect();
    assert!(!files.is_empty(), "the corpus of {name} is empty");
    files
}

/// Each file up to each of its octets, with every choice of mechanism and connection for the whole of it.
fn run_over(name: &str, entry: fn(&[u8])) {
    for file in corpus(name) {
        (0..=file.len()).for_each(|end| entry(&file[..end]));
        for choice in 0..=u8::MAX {
            entry(&[&[choice], &file[1.min(file.len())..]].concat());
        }
    }
}

#[test]
fn the_sasl_server_survives_its_corpus() {
    run_over("server", fuzz_server);
}

#[test]
fn the_sasl_client_survives_its_corpus() {
    run_over("client", fuzz_client);
}

#[test]
fn the_verifiers_survive_their_corpus() {
    run_over("verifier", fuzz_verifier);
}

/// A file of the corpus with some octets replaced, taken out and put in.
fn mutated(name: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let edits = proptest::collection::vec((any::<prop::sample::Index>(), 0u8..3, any::<u8>()), 0..6);
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

/// Pieces of SCRAM and PLAIN, in whatever order.
const PIECES: [&[u8]; 24] = [
    b"n",
    b"y",
    b"p=",
    b",",
    b",",
    b",",
    b",",
    b"=",
    b"a=",
    b"n=user",
    b"m=1",
    b"r=",
    b"r={nonce}",
    b"c=biws",
    b"p=",
    b"v=",
    b"e=",
    b"s=c2FsdHNhbHQ=",
    b"i=4096",
    b"\0",
    b"\n",
    b"\n",
    b"\xff",
    b"=2C",
];

proptest! {
    #[test]
    fn the_sasl_server_survives_any_octets(data in proptest::collection::vec(any::<u8>(), 0..300)) {
        fuzz_server(&data);
    }

    #[test]
    fn the_sasl_client_survives_any_octets(data in proptest::collection::vec(any::<u8>(), 0..300)) {
        fuzz_client(&data);
    }

    #[test]
    fn both_ends_survive_the_pieces_of_their_messages_in_any_order(
        choice in any::<u8>(),
        pieces in proptest::collection::vec(prop::sample::select(&PIECES[..]), 0..30),
    ) {
        let data = [&[choice], pieces.concat().as_slice()].concat();
        fuzz_server(&data);
        fuzz_client(&data);
    }

    #[test]
    fn the_sasl_server_survives_a_corpus_gone_wrong(data in mutated("server")) {
        fuzz_server(&data);
    }

    #[test]
    fn the_sasl_client_survives_a_corpus_gone_wrong(data in mutated("client")) {
        fuzz_client(&data);
    }

    #[test]
    fn the_verifiers_survive_a_corpus_gone_wrong(data in mutated("verifier")) {
        fuzz_verifier(&data);
    }
}
