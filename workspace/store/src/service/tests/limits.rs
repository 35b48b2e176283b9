//! What a client may take of the store: answers that it does not read, messages that it reads at a time.

use super::*;

/// A store with a channel of this capacity, and a message of so many recipients that its details have forty thousand octets.
fn with_large_details(capacity: u32) -> (Store, ClientId, Rc<TestLink>, MessageSequence) {
    let mut store = Store::new();
    let (channel, link) = connect_as(&mut store.service, Hello { capacity, ..hello(Role::Channel) });
    let addresses: Vec<String> =
        (0..500).map(|number| format!("{}{number}@b.example", "a".repeat(60))).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let envelope = Box::new(sample::envelope(&addresses, ("smtp", "hub")));
    let content_sha256 = [0; 32];
    store.send(2, Append::Envelope { message: MESSAGE, envelope, content_octets: 6, content_sha256 });
    store.settle();
    let message = store.service.log().find(MESSAGE).unwrap();
    (store, channel, link, message)
}

const fn fetch(request: u32, message: MessageSequence, offset: u64) -> ToStore<'static> {
    ToStore::Fetch { request, message, offset, octets_max: 9 }
}

#[test]
fn questions_that_are_worth_more_than_was_read_are_answered_as_the_answers_are_read() {
    // A window of 128 cells.
    let (mut store, channel, link, message) = with_large_details(64);
    for request in 1..=128 {
        store.service.frame(store.now, channel, fetch(request, message, 6));
    }
    let (mut answered, mut readings) = (0, 0);
    loop {
        assert!(link.unsent_octets.get() < (1 << 20) + 65_536, "{} octets", link.unsent_octets.get());
        answered += link.sent.take().iter().filter(|frame| frame.starts_with("Message")).count();
        if !store.service.owes_answers(channel) {
            break;
        }
        // It reads.
        link.unsent_octets.set(0);
        readings += 1;
        store.service.drive(store.now);
    }
    assert_eq!((answered, link.is_closed.get()), (128, false));
    assert!(readings >= 4, "{readings}");
}

#[test]
fn a_channel_that_fetches_more_messages_than_its_window_has_cells_is_refused() {
    for offset in [0, 6] {
        // A window of eight cells, and answers that are never read.
        let (mut store, channel, link, message) = with_large_details(4);
        link.unsent_octets.set(2 << 20);
        for request in 1..=8 {
            store.service.frame(store.now, channel, fetch(request, message, offset));
            assert!(!link.is_closed.get(), "{request}");
        }
        store.service.frame(store.now, channel, ToStore::Cancel { request: 3 });
        store.service.frame(store.now, channel, fetch(9, message, offset));
        assert!(!link.is_closed.get());
        store.service.frame(store.now, channel, fetch(10, message, offset));
        assert!(link.is_closed.get());
    }
}

#[test]
fn a_client_that_does_not_read_what_it_is_answered_is_refused_and_nothing_behind_that_is_taken() {
    let mut store = Store::new();
    let sender = Rc::clone(&store.sender.1);
    let octets_max = 8 << 20;
    sender.unsent_octets.set(octets_max);
    store.send(2, Append::Content { message: MESSAGE, index: 1, octets: b"more" });
    assert!(!sender.is_closed.get());
    sender.unsent_octets.set(octets_max + 1);
    store.send(3, Append::Content { message: MESSAGE, index: 2, octets: b"more" });
    assert!(sender.is_closed.get());
    // A link that is closed forgets what waits.
    sender.unsent_octets.set(0);
    store.send(4, Append::Content { message: MESSAGE, index: 2, octets: b"more" });
    store.settle();
    assert_eq!(store.service.log().partials().map(|partial| partial.octets).sum::<u64>(), 10);

    let (qmgr, link) = connect(&mut store.service, Role::Qmgr);
    link.unsent_octets.set(octets_max + 1);
    assert!(store.service.frame(store.now, qmgr, ToStore::Subscribe));
    assert!(!link.is_closed.get());
}

#[test]
fn a_process_has_so_many_links_and_a_new_one_when_an_old_one_has_ended() {
    let mut store = Store::new();
    let now = store.now;
    let connect = |service: &mut Service<MemoryDisk, TestLink>| {
        let link = Rc::new(TestLink::default());
        (service.connected(now, Rc::clone(&link)), link.is_closed.get())
    };
    // The sender and the operator of the store are links of the same process.
    for number in 3..=16 {
        assert!(!connect(&mut store.service).1, "{number}");
    }
    for _ in 0..2 {
        assert!(connect(&mut store.service).1);
    }
    // What the others have sent is not lost for it.
    assert!(!store.sender.1.is_closed.get());
    store.service.lost(store.operator.0);
    assert!(!connect(&mut store.service).1);
    assert!(connect(&mut store.service).1);
}

#[test]
fn a_link_that_does_not_say_who_it_is_is_closed_after_five_seconds() {
    let mut store = Store::new();
    let link = Rc::new(TestLink::default());
    let start = store.now;
    store.service.connected(start, Rc::clone(&link));
    // The log wakes for the partial message before that.
    store.service.drive(start.plus_ms(4_999));
    assert!(!link.is_closed.get());
    for late_ms in 0..3 {
        assert!(!link.is_closed.get());
        let now = start.plus_ms(5_000 + late_ms);
        assert_eq!(store.service.wake_at(now), Some(now));
        store.service.drive(now);
    }
    assert!(link.is_closed.get() && !store.sender.1.is_closed.get());
    assert!(store.service.wake_at(start).is_none_or(|at| at > start.plus_ms(5_003)));
}

#[test]
fn a_channel_process_that_connects_anew_has_the_new_window_alone() {
    let (mut store, older, older_link, message) = with_large_details(4);
    let (newer, newer_link) = connect(&mut store.service, Role::Channel);
    for client in [older, newer] {
        store.service.frame(store.now, client, fetch(1, message, 6));
    }
    assert!(!older_link.sent.take().concat().contains("Message"));
    assert!(newer_link.sent.take().concat().contains("Message"));
    assert!(!older_link.is_closed.get());
}
