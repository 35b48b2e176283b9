//! Reads the mailboxes of the corpus, whole and cut: what is understood reads back as the same.

use std::path::Path;
use sternpost_message::Mailbox;

#[test]
fn every_mailbox_of_the_corpus_reads_back_or_is_refused() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/mailbox");
    let mut understood_count = 0;
    for entry in std::fs::read_dir(folder).expect("the corpus is in the repository") {
        let path = entry.expect("a listed file").path();
        let text = std::fs::read_to_string(path).expect("a file of the corpus is UTF-8");
        let cuts = text.char_indices().map(|(at, _)| at).chain([text.len()]);
        for mailbox in cuts.filter_map(|end| Mailbox::parse(&text[..end]).ok()) {
            understood_count += 1;
            assert_eq!(mailbox.as_str(), format!("{}@{}", mailbox.local_part(), mailbox.domain()));
            assert_eq!(Mailbox::parse(mailbox.as_str()), Ok(mailbox));
        }
    }
    assert!(understood_count > 0, "the corpus has a good mailbox");
}
