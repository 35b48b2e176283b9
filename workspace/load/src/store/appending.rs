//! Producers: tasks on one link, as the sessions of `smtp-server` are. Each appends a message, waits until it is durable,
//! and appends the next.

use super::lone::hello;
use crate::{now_ns, process};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};
use sternpost_channels::store_client::StoreClient;
use sternpost_link::store::{Append, CHUNK_OCTETS_MAX, Lane, Refusal};
use sternpost_link::{Appended as Answer, FrameError, Role};
use sternpost_message::{Envelope, Mailbox, MessageId, ReversePath, UnixMillis, sample};
use sternpost_platform::disk::trial::pattern;
use sternpost_platform::process::random;
use tokio::task::spawn_local;

/// Different contents: messages that follow each other are not the same.
const CONTENTS_COUNT: usize = 16;

/// A burst of appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Burst {
    /// What is appended first and not counted: memory is touched for the first time, batches find their size.
    pub warm_up: Duration,
    /// What is counted.
    pub time: Duration,
    /// The burst ends early with so many messages: the log must not run full.
    pub messages_max: u64,
}

/// What a burst has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Appended {
    /// From the append to the answer that it is durable, of every message that was counted, in no order.
    pub latencies_ns: Vec<u64>,
    /// The time in which these were answered.
    pub counted_ns: u64,
    /// All messages that became durable, with those of the warm-up.
    pub messages_count: u64,
    /// CPU time of this process in the whole burst.
    pub cpu_ns: u64,
    /// Messages that the store had no room for, to which a client would be told 452; each was followed by another one.
    pub full_count: u64,
    /// Why the first message failed that failed for another reason: it ends the burst.
    pub failed: Option<String>,
}

struct Content {
    octets: Vec<u8>,
    sha256: [u8; 32],
}

/// Producers on one link to a store.
pub struct Producers {
    client: Rc<StoreClient>,
    contents: Vec<Content>,
    envelope: Envelope,
    count: usize,
    /// The first half of every message's id.
    id_prefix: [u8; 8],
    appended: Cell<u64>,
    result: RefCell<Appended>,
}

impl Producers {
    /// Makes ready all that shall not be measured, and connects `count` producers of messages with so many octets of
    /// content. To be called on a `LocalSet`.
    pub async fn connect(socket: PathBuf, count: usize, content_octets: usize) -> Rc<Self> {
        let pages = pattern((CONTENTS_COUNT * 4096 + content_octets).next_multiple_of(4096));
        let contents = (0..CONTENTS_COUNT).map(|number| {
            let octets = pages.as_slice()[number * 4096..][..content_octets].to_vec();
            let sha256 = Sha256::digest(&octets).into();
            Content { octets, sha256 }
        });
        let producers = Rc::new(Self {
            client: StoreClient::start(socket, hello(Role::SmtpServer)),
            contents: contents.collect(),
            envelope: envelope(),
            count,
            id_prefix: random(),
            appended: Cell::new(0),
            result: RefCell::default(),
        });
        producers.client.ready().await;
        producers
    }

    /// Appends until the time is over and all has been answered.
    pub async fn run(self: Rc<Self>, burst: Burst) -> Appended {
        self.appended.set(0);
        let cpu_before_ns = process::thread_cpu_ns(std::process::id());
        let began = Instant::now();
        let counted_from = began + burst.warm_up;
        let until = counted_from + burst.time;
        let tasks: Vec<_> = (0..self.count)
            .map(|_| spawn_local(Rc::clone(&self).produce(counted_from, until, burst.messages_max)))
            .collect();
        for task in tasks {
            task.await.expect("a producer ends by itself");
        }
        let ended = Instant::now().min(until);
        let mut result = self.result.take();
        result.counted_ns = nanoseconds(ended.saturating_duration_since(counted_from));
        result.messages_count = self.appended.get() - result.full_count;
        result.cpu_ns = process::thread_cpu_ns(std::process::id()).saturating_sub(cpu_before_ns);
        result
    }

    async fn produce(self: Rc<Self>, counted_from: Instant, until: Instant, messages_max: u64) {
        loop {
            let begin = Instant::now();
            let number = self.appended.get();
            if begin >= until || number >= messages_max || self.result.borrow().failed.is_some() {
                return;
            }
            self.appended.set(number + 1);
            let answer = self.append(number).await;
            let end = Instant::now();
            let result = &mut *self.result.borrow_mut();
            match answer {
                Ok(None) if (counted_from..until).contains(&end) => {
                    result.latencies_ns.push(nanoseconds(end - begin));
                }
                Ok(None) => {}
                Ok(Some(Refusal::Full)) => result.full_count += 1,
                Ok(Some(other)) => result.failed = result.failed.take().or(Some(format!("{other:?}"))),
                Err(why) => result.failed = result.failed.take().or(Some(why.to_string())),
            }
        }
    }

    /// One message, in as many sets as `smtp-server` would make of it: a chunk in each, the envelope beside the last one.
    /// Gives why it was refused, if it was.
    async fn append(&self, number: u64) -> Result<Option<Refusal>, FrameError> {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.id_prefix);
        id[8..].copy_from_slice(&number.to_le_bytes());
        let message = MessageId(id);
        let content = &self.contents[usize::try_from(number).unwrap_or_default() % CONTENTS_COUNT];
        let mut answers = Vec::with_capacity(2);
        let mut rest = &*content.octets;
        for index in 0.. {
            let (octets, later) = rest.split_at(rest.len().min(CHUNK_OCTETS_MAX));
            rest = later;
            let mut records = vec![Append::Content { message, index, octets }];
            if rest.is_empty() {
                records.push(Append::Envelope {
                    message,
                    envelope: Box::new(self.envelope.clone()),
                    content_octets: content.octets.len() as u64,
                    content_sha256: content.sha256,
                });
            }
            answers.push(self.client.append(Lane::NonUrgent, &records)?);
            if rest.is_empty() {
                break;
            }
        }
        let chunks_count = answers.len();
        for answer in answers {
            // The client keeps its promise to answer for as long as it lives.
            if let Ok(Answer::Refused(refusal)) = answer.await {
                if chunks_count > 1 {
                    drop(self.client.append(Lane::NonUrgent, &[Append::DiscardPartial { message }])?);
                }
                // That of the first set that was refused is the reason; those behind it miss it.
                return Ok(Some(refusal));
            }
        }
        Ok(None)
    }
}

/// As `smtp-server` makes it for a message of one recipient.
fn envelope() -> Envelope {
    let sender = Mailbox::parse("first.sender@source.load.test").expect("a constant address is one");
    Envelope {
        sender: ReversePath::Mailbox(sender),
        accepted_at: UnixMillis(now_ns() / 1_000_000),
        client: "192.0.2.129:49152".to_owned(),
        ..sample::envelope(&["second.recipient@sink.load.test"], ("smtp", "relay.sink.load.test"))
    }
}

/// Nanoseconds of a time that is shorter than five centuries.
pub(super) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
