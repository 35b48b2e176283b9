//! Runs the entry point for fuzzing over the corpus, whole and cut.

use std::path::Path;
use sternpost_config::fuzz::fuzz_tables;

#[test]
fn the_tables_survive_their_corpus() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/tables");
    let files: Vec<_> = std::fs::read_dir(folder)
        .expect("the corpus is in the repository")
        .map(|entry| std::fs::read(entry.expect("a listed file").path()).expect("a file of the corpus"))
        .collect();
    assert!(!files.is_empty(), "the corpus is empty");
    for file in files {
        (0..=file.len()).for_each(|end| fuzz_tables(&file[..end]));
    }
}
