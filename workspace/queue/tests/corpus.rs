//! Runs the entry point for fuzzing over the corpus, whole and cut.

use std::path::Path;
use sternpost_queue::fuzz::fuzz_open;

/// Each run opens a log of 1 MiB: not every cut is worth one.
const CUT_STEP_OCTETS: usize = 7;

#[test]
fn the_log_survives_its_corpus() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/open");
    let files: Vec<_> = std::fs::read_dir(folder)
        .expect("the corpus is in the repository")
        .map(|entry| std::fs::read(entry.expect("a listed file").path()).expect("a file of the corpus"))
        .collect();
    assert!(!files.is_empty(), "the corpus is empty");
    for file in files {
        fuzz_open(&file);
        (0..file.len()).step_by(CUT_STEP_OCTETS).for_each(|end| fuzz_open(&file[..end]));
    }
}
