//! The store's process without a supervisor around it, as the bench of the queue starts it: what the bench measures is the
//! store of the switch, and its clients append and read whole messages.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;
use sternpost_load::store::{Appended, Burst, LogPlace, LoneStore, Pass, Producers, Readers, Reads};
use sternpost_message::MessageSequence;
use sternpost_platform::disk::{DiskBackend, open_log_disk};
use sternpost_queue::Geometry;
use tokio::task::LocalSet;

const STERNPOST: &str = env!("CARGO_BIN_EXE_sternpost");
/// No burst of a test lasts so long: it ends with its number of messages.
const LONG: Duration = Duration::from_secs(30);

fn on_loop<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    LocalSet::new().block_on(&runtime.expect("a test may have an event loop"), work)
}

fn append(store: &LoneStore, producers: usize, octets: usize, messages_max: u64) -> Appended {
    let burst = Burst { warm_up: Duration::ZERO, time: LONG, messages_max };
    on_loop(async { Producers::connect(store.socket(), producers, octets).await.run(burst).await })
}

fn read(store: &LoneStore, readers: usize, messages: Vec<MessageSequence>) -> Reads {
    let pass = Pass { time_max: LONG, repeats: false };
    on_loop(async {
        let readers = Readers::connect(store.socket(), readers, messages).await;
        Rc::clone(&readers).run(pass).await.expect("what was appended is there")
    })
}

fn place(folder: &Path) -> LogPlace {
    let geometry = Geometry { segment_octets: 1 << 20, segments: 32 };
    LogPlace {
        path: folder.join("log"),
        geometry,
        backend: DiskBackend::Dsync,
        batch_octets_max: Some(256 << 10),
    }
}

#[test]
fn messages_of_every_size_are_appended_and_read_with_no_switch_around_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let place = place(folder.path());
    place.make().unwrap();
    let store = LoneStore::start(Path::new(STERNPOST), folder.path(), &place).unwrap();
    for (octets, count) in [(1, 20), (4096, 100), (65_536, 20), (200_000, 4)] {
        let before = store.status().unwrap();
        let appended = append(&store, 8, octets, count);
        assert_eq!((&appended.failed, appended.full_count, appended.messages_count), (&None, 0, count));
        assert_eq!(appended.latencies_ns.len() as u64, count);
        assert!(appended.counted_ns > 0);
        let after = store.status().unwrap();
        assert_eq!(after.messages_count - before.messages_count, count);
        assert!(after.batches_count > before.batches_count);
        assert!(after.written_octets - before.written_octets >= octets as u64 * count);
        let messages = store.messages().unwrap();
        let new: Vec<_> = messages
            .iter()
            .filter(|message| message.content_octets == octets as u64)
            .map(|message| message.sequence)
            .collect();
        assert_eq!(new.len() as u64, count);
        for readers in [1, 64] {
            let reads = read(&store, readers, new.clone());
            assert_eq!((reads.latencies_ns.len() as u64, reads.octets), (count, octets as u64 * count));
        }
    }
    let kept = store.messages().unwrap();
    drop(store);
    let store = LoneStore::start(Path::new(STERNPOST), folder.path(), &place).unwrap();
    assert_eq!(store.messages().unwrap(), kept);
    let all: Vec<_> = kept.iter().map(|message| message.sequence).collect();
    let octets: u64 = kept.iter().map(|message| message.content_octets).sum();
    assert_eq!(read(&store, 64, all).octets, octets);
}

#[test]
fn a_log_that_is_made_anew_on_the_same_octets_is_empty() {
    let folder = tempfile::tempdir().unwrap();
    let place = place(folder.path());
    place.zero().unwrap();
    for _ in 0..2 {
        place.make().unwrap();
        let store = LoneStore::start(Path::new(STERNPOST), folder.path(), &place).unwrap();
        let status = store.status().unwrap();
        assert_eq!((status.messages_count, status.batches_count), (0, 0));
        assert_eq!((status.segments_count, status.batch_octets_max), (32, 256 << 10));
        assert_eq!(append(&store, 2, 4096, 10).failed, None);
        // Not every file system has O_DIRECT: then another file beside the log is opened with a remark.
        let beside = open_log_disk(&folder.path().join("beside"), DiskBackend::Dsync, 4096).unwrap();
        assert_eq!(store.reads_directly(), Some(beside.remarks().is_empty()));
    }
}

#[test]
fn a_store_that_cannot_begin_says_why_and_nobody_waits() {
    let folder = tempfile::tempdir().unwrap();
    let place = place(folder.path());
    std::fs::write(&place.path, [7; 8192]).unwrap();
    let error = LoneStore::start(Path::new(STERNPOST), folder.path(), &place).unwrap_err();
    assert!(error.to_string().contains("error: "), "{error}");
}
