//! What becomes of an operator's order that the log refuses, or that comes too late, and of a channel's questions; and in what
//! words the store tells of its disk.

mod limits;

use super::stream::{HINTS_UNSENT_OCTETS_MAX, STREAM_OCTETS_MAX};
use super::*;
use crate::told::Told;
use std::cell::{Cell, RefCell};
use std::io;
use sternpost_link::FrameError;
use sternpost_link::store::Origin;
use sternpost_message::{MessageId, sample};
use sternpost_platform::disk::DiskBackend;
use sternpost_platform::door::Users;
use sternpost_platform::link::Peer;
use sternpost_platform::wire::Cells;
use sternpost_queue::memory::MemoryDisk;
use sternpost_queue::{Geometry, HEAD_OCTETS};
use tracing::Level;

const MESSAGE: MessageId = MessageId([1; 16]);

/// A link that remembers what was sent, as it is said.
#[derive(Debug, Default)]
struct TestLink {
    sent: RefCell<Vec<String>>,
    unsent_octets: Cell<usize>,
    is_closed: Cell<bool>,
}

#[derive(Debug)]
struct NoCells;

impl Cells for NoCells {
    fn new(_: u16, _: usize) -> io::Result<Self> {
        Ok(Self)
    }

    fn fill<R>(&mut self, _: u16, _: impl FnOnce(&mut [u8]) -> R) -> Option<R> {
        None
    }
}

impl Wire for TestLink {
    type Cells = NoCells;

    fn push<F: serde::Serialize>(&self, frame: &F) -> Result<(), FrameError> {
        let octets = postcard::to_stdvec(frame).unwrap();
        self.unsent_octets.set(self.unsent_octets.get() + octets.len());
        let frame: FromStore = postcard::from_bytes(&octets).unwrap();
        self.sent.borrow_mut().push(format!("{frame:?}"));
        Ok(())
    }

    fn push_sealed<F: serde::Serialize>(&self, frame: &F, _: &[u8]) -> Result<(), WireError> {
        Ok(self.push(frame)?)
    }

    fn push_cells<F: serde::Serialize>(&self, frame: &F, _: &NoCells) -> Result<(), WireError> {
        Ok(self.push(frame)?)
    }

    fn peer(&self) -> io::Result<Peer> {
        Ok(Peer { uid: 0, pid: 7 })
    }

    fn send_now(&self) {}

    fn unsent_octets(&self) -> usize {
        self.unsent_octets.get()
    }

    fn close(&self) {
        self.is_closed.set(true);
    }
}

/// A store with a sender, of whose message one chunk is durable, and an operator.
struct Store {
    service: Service<MemoryDisk, TestLink>,
    now: UnixMillis,
    sender: (ClientId, Rc<TestLink>),
    operator: (ClientId, Rc<TestLink>),
}

impl Store {
    fn new() -> Self {
        let geometry = Geometry { segment_octets: 1 << 20, segments: 8 };
        let octets = vec![0; usize::try_from(geometry.octets() + HEAD_OCTETS).unwrap()];
        let disk = Log::create(MemoryDisk::new(octets), geometry, [7; 16]).unwrap();
        let now = UnixMillis(1_000_000);
        // Nothing is read from memory.
        let parameters = Parameters { recent_content_octets_max: 0, ..Parameters::default() };
        let log = Log::open(disk, parameters, now).unwrap().0;
        let manner = Manner {
            backend: DiskBackend::Dsync,
            backend_from: Origin::Default,
            batch_octets_max: 1 << 20,
            batch_from: Origin::Default,
        };
        let mut service = Service::new(log, 1, manner, Door::new(Users::Same(0)));
        let (sender, operator) =
            (connect(&mut service, Role::SmtpServer), connect(&mut service, Role::Operator));
        let mut store = Self { service, now, sender, operator };
        store.send(1, Append::Content { message: MESSAGE, index: 0, octets: b"octets" });
        store.settle();
        assert!(store.heard_by_sender().contains("Committed"));
        store
    }

    fn disk(&mut self) -> &mut MemoryDisk {
        self.service.log_mut().disk_mut()
    }

    fn send(&mut self, number: u64, record: Append<'_>) {
        let records = vec![record].into();
        let set = ToStore::Append { lane: Lane::Normal, number, records, peer: Some("192.0.2.1:4711") };
        self.service.frame(self.now, self.sender.0, set);
    }

    fn discard(&mut self, number: u64) {
        let frame = ToStore::Discard { number, message: MESSAGE, why: "fills the queue" };
        self.service.frame(self.now, self.operator.0, frame);
    }

    /// Drives for five seconds, in which a closed log opens again if it can.
    fn settle(&mut self) {
        for _ in 0..100 {
            self.now = self.now.plus_ms(50);
            self.service.drive(self.now);
        }
    }

    fn heard_by_sender(&self) -> String {
        self.sender.1.sent.take().concat()
    }

    fn heard_by_operator(&self) -> String {
        self.operator.1.sent.take().concat()
    }
}

fn connect(service: &mut Service<MemoryDisk, TestLink>, role: Role) -> (ClientId, Rc<TestLink>) {
    connect_as(service, hello(role))
}

fn connect_as(service: &mut Service<MemoryDisk, TestLink>, hello: Hello) -> (ClientId, Rc<TestLink>) {
    let link = Rc::new(TestLink::default());
    let id = service.connected(UnixMillis(0), Rc::clone(&link));
    service.frame(UnixMillis(0), id, ToStore::Hello(hello));
    (id, link)
}

fn hello(role: Role) -> Hello {
    Hello { version: PROTOCOL_VERSION, role, pid: 7, process: 0, channel: String::new(), capacity: 0 }
}

fn envelope() -> Append<'static> {
    let envelope = sample::envelope(&["a@b.example"], ("smtp", "hub"));
    let (envelope, content_sha256) = (Box::new(envelope), [0; 32]);
    Append::Envelope { message: MESSAGE, envelope, content_octets: 6, content_sha256 }
}

#[test]
fn a_message_whose_discard_the_log_has_refused_comes_in_as_if_nobody_had_said_anything() {
    let mut store = Store::new();
    store.heard_by_operator();
    store.disk().failures = u32::MAX;
    // The first two are refused by the disk, the third one by a log that is closed.
    for number in 1..=3 {
        store.discard(number);
        store.service.drive(store.now);
        store.service.drive(store.now);
        assert!(store.heard_by_operator().contains("Refused"), "{number}");
    }
    assert_eq!(store.service.log().status().write_errors, 2);
    store.disk().failures = 0;
    store.settle();
    store.send(2, envelope());
    store.settle();
    let heard = store.heard_by_sender();
    assert!(heard.contains("Committed") && !heard.contains("Refused"), "{heard}");
    assert!(store.service.log().find(MESSAGE).is_some());
}

#[test]
fn an_order_that_came_behind_the_end_of_the_message_is_told_as_such() {
    let told = Told::default();
    let mut store = Store::new();
    store.disk().hangs = true;
    store.send(2, envelope());
    store.service.drive(store.now);
    store.service.drive(store.now.plus_ms(50));
    assert!(store.service.log().is_writing());
    store.discard(1);
    store.disk().hangs = false;
    tracing::subscriber::with_default(told.clone(), || store.settle());
    assert!(store.heard_by_operator().contains("Committed"));
    assert!(store.service.log().find(MESSAGE).is_some());
    assert_eq!(told.names(), ["message.not_discarded"]);
}

#[test]
fn an_order_that_has_ended_a_message_is_told_and_its_sender_hears_of_it() {
    let told = Told::default();
    let mut store = Store::new();
    store.discard(1);
    tracing::subscriber::with_default(told.clone(), || store.settle());
    assert_eq!(told.names(), ["message.discarded"]);
    store.send(2, envelope());
    assert!(store.heard_by_sender().contains("Discarded"));
}

#[test]
fn questions_of_a_channel_about_what_is_gone_do_not_fill_the_link_of_qmgr() {
    let mut store = Store::new();
    let (qmgr, qmgr_link) = connect(&mut store.service, Role::Qmgr);
    let (channel, channel_link) = connect(&mut store.service, Role::Channel);
    assert!(store.service.frame(store.now, qmgr, ToStore::Subscribe));
    store.service.begin_snapshot().unwrap();
    assert!(store.service.step_snapshot());
    for (unsent_octets, told_count) in [(0, 1), (HINTS_UNSENT_OCTETS_MAX, 0), (STREAM_OCTETS_MAX + 1, 0)] {
        qmgr_link.unsent_octets.set(unsent_octets);
        qmgr_link.sent.take();
        let message = MessageSequence(77);
        store.service.frame(
            store.now,
            channel,
            ToStore::Fetch { request: 1, message, offset: 0, octets_max: 9 },
        );
        assert!(channel_link.sent.take().concat().contains("no longer in the log"));
        assert_eq!(qmgr_link.sent.take().len(), told_count, "{unsent_octets} octets unsent");
        assert!(!store.service.wants_snapshot());
    }
}

#[test]
fn what_the_disk_does_not_read_is_told_in_the_disks_own_words() {
    let mut store = Store::new();
    let (channel, channel_link) = connect(&mut store.service, Role::Channel);
    store.send(2, envelope());
    store.settle();
    let message = store.service.log().find(MESSAGE).unwrap();
    store.heard_by_operator();
    store.disk().bad.push(0..usize::MAX);
    let asked = [ToStore::Show { message: MESSAGE }, ToStore::ReadPiece { message, chunk: 0, offset: 0 }];
    for question in asked {
        store.service.frame(store.now, store.operator.0, question);
        let heard = store.heard_by_operator();
        assert!(is_told_with_its_cause(&heard), "{heard}");
    }
    let fetch = ToStore::Fetch { request: 1, message, offset: 0, octets_max: 9 };
    store.service.frame(store.now, channel, fetch);
    let heard = channel_link.sent.take().concat();
    assert!(is_told_with_its_cause(&heard), "{heard}");
}

fn is_told_with_its_cause(heard: &str) -> bool {
    heard.contains("Unreadable")
        && heard.contains("the log cannot be read: read at ")
        && heard.contains("failed: on demand")
}

#[test]
fn a_log_that_opens_again_is_told_as_a_warning_and_its_failures_are_told_as_errors() {
    let told = Told::default();
    let mut store = Store::new();
    tracing::subscriber::with_default(told.clone(), || {
        store.disk().failures = u32::MAX;
        for number in 1..=2 {
            store.discard(number);
            store.service.drive(store.now);
            store.service.drive(store.now);
        }
        store.disk().failures = 0;
        store.settle();
    });
    // Two writes have failed, and so the log was closed.
    assert_eq!(told.levels_of("log.alarm"), [Level::ERROR, Level::ERROR, Level::ERROR, Level::WARN]);
}
