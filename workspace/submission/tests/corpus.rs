//! Runs the entry point for fuzzing over the corpus, whole and cut.

use std::path::Path;
use sternpost_submission::fuzz_header_scan;

#[test]
fn the_header_scan_survives_its_corpus() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/header_scan");
    let files: Vec<_> = std::fs::read_dir(folder)
        .expect("the corpus is in the repository")
        .map(|entry| std::fs::read(entry.expect("a listed file").path()).expect("a file of the corpus"))
        .collect();
    assert!(!files.is_empty(), "the corpus is empty");
    for file in files {
        (0..=file.len()).for_each(|end| fuzz_header_scan(&file[..end]));
    }
}
