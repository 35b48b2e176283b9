//! Tables as the source.

use std::path::Path;
use std::time::Duration;
use sternpost_directory::{Handover, watch_tables};
use tokio::sync::mpsc::{Receiver, channel};

const PATIENCE: Duration = Duration::from_secs(30);

async fn one(handovers: &mut Receiver<Handover>) -> Handover {
    tokio::time::timeout(PATIENCE, handovers.recv())
        .await
        .expect("something comes")
        .expect("the watch goes on")
}

async fn status(handovers: &mut Receiver<Handover>) -> (bool, String) {
    match one(handovers).await {
        Handover::Status(status) => (status.connected, status.text),
        Handover::Entries(entries) => panic!("{entries:?}"),
    }
}

async fn hostname(handovers: &mut Receiver<Handover>) -> String {
    assert!(status(handovers).await.0);
    match one(handovers).await {
        Handover::Entries(entries) => entries[0].values("sternpostHostname")[0].clone(),
        Handover::Status(status) => panic!("{status:?}"),
    }
}

fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).expect("the folder of a test can be written");
    std::fs::rename(beside, path).expect("the folder of a test can be written");
}

#[tokio::test]
async fn a_file_is_read_again_when_it_changes_and_a_bad_one_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tables.toml");
    let (sender, mut handovers) = channel(16);
    let task = tokio::spawn(watch_tables(path.clone(), sender));
    let (connected, text) = status(&mut handovers).await;
    assert!(!connected && text.contains("cannot read the file"), "{text}");

    replace(&path, "[node]\nhostname = \"a.example\"");
    assert_eq!(hostname(&mut handovers).await, "a.example");

    replace(&path, "[node]\nhostname = ");
    let (connected, text) = status(&mut handovers).await;
    assert!(!connected && text.starts_with("line 2"), "{text}");

    // The same size as the first one: the place on disk tells.
    replace(&path, "[node]\nhostname = \"b.example\"");
    assert_eq!(hostname(&mut handovers).await, "b.example");

    drop(handovers);
    tokio::time::timeout(PATIENCE, task).await.expect("it ends").unwrap();
}
