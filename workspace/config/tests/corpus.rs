//! Runs the entry points for fuzzing over their corpora, whole and cut.

use std::path::Path;
use sternpost_config::fuzz::{fuzz_certificates, fuzz_tables};

fn survives(corpus: &str, fuzz: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(corpus);
    let files: Vec<_> = std::fs::read_dir(folder)
        .expect("the corpus is in the repository")
        .map(|entry| std::fs::read(entry.expect("a listed file").path()).expect("a file of the corpus"))
        .collect();
    assert!(!files.is_empty(), "the corpus is empty");
    for file in files {
        (0..=file.len()).for_each(|end| fuzz(&file[..end]));
    }
}

#[test]
fn the_tables_survive_their_corpus() {
    survives("tables", fuzz_tables);
}

#[test]
fn the_certificates_survive_their_corpus() {
    survives("certificates", fuzz_certificates);
}
