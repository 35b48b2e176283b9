//! Readers: tasks on one link, as the associations of a channel are. Each fetches a message with its content through the
//! channel's window, gives the cells back, and fetches the next.

use super::appending::nanoseconds;
use super::lone::hello;
use crate::process;
use serde::{Deserialize, Serialize};
use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};
use sternpost_channels::store_client::{FetchError, StoreClient};
use sternpost_link::{Hello, Role};
use sternpost_message::MessageSequence;
use tokio::task::spawn_local;

/// Why a message was not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadingError {
    /// The store did not give it.
    #[error("message {0} was not read")]
    Fetch(MessageSequence, #[source] FetchError),
    /// The content is shorter than its envelope says, or longer.
    #[error("message {0} has {1} octets of content and not {2}")]
    Length(MessageSequence, u64, u64),
}

/// One pass over messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pass {
    /// No message is begun after it.
    pub time_max: Duration,
    /// Whether the first message follows the last.
    pub repeats: bool,
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reads {
    /// From the fetch to the last cell given back, of each message, in no order.
    pub latencies_ns: Vec<u64>,
    /// From the first fetch to the end of the last.
    pub time_ns: u64,
    /// Octets of content.
    pub octets: u64,
    /// CPU time of this process.
    pub cpu_ns: u64,
}

/// Readers on one link to a store.
pub struct Readers {
    client: Rc<StoreClient>,
    count: usize,
    messages: Vec<MessageSequence>,
    next: Cell<usize>,
    result: RefCell<Result<Reads, ReadingError>>,
}

impl Readers {
    /// Connects `count` readers of these messages, as one channel process with as many slots. To be called on a `LocalSet`.
    pub async fn connect(socket: PathBuf, count: usize, messages: Vec<MessageSequence>) -> Rc<Self> {
        let capacity = u32::try_from(count).unwrap_or(u32::MAX);
        let hello = Hello { process: 1, channel: "smtp".to_owned(), capacity, ..hello(Role::Channel) };
        let client = StoreClient::start(socket, hello);
        client.ready().await;
        let result = RefCell::new(Ok(Reads::default()));
        Rc::new(Self { client, count, messages, next: Cell::new(0), result })
    }

    /// Reads the messages in their order until the time is over: each once, or again and again.
    ///
    /// # Errors
    /// That of the first message that could not be read.
    pub async fn run(self: Rc<Self>, pass: Pass) -> Result<Reads, ReadingError> {
        let cpu_before_ns = process::thread_cpu_ns(std::process::id());
        let began = Instant::now();
        let until = began + pass.time_max;
        let read = || spawn_local(Rc::clone(&self).read(until, pass.repeats));
        let tasks: Vec<_> = (0..self.count).map(|_| read()).collect();
        for task in tasks {
            task.await.expect("a reader ends by itself");
        }
        let mut result = self.result.replace(Ok(Reads::default()))?;
        result.time_ns = nanoseconds(began.elapsed());
        result.cpu_ns = process::thread_cpu_ns(std::process::id()).saturating_sub(cpu_before_ns);
        Ok(result)
    }

    async fn read(self: Rc<Self>, until: Instant, repeats: bool) {
        let mut memory = Vec::new();
        while let Some(message) = self.next_message(until, repeats) {
            let begin = Instant::now();
            let octets = self.read_message(message, &mut memory).await;
            let latency_ns = nanoseconds(begin.elapsed());
            match (&mut *self.result.borrow_mut(), octets) {
                (Ok(reads), Ok(octets)) => {
                    reads.latencies_ns.push(latency_ns);
                    reads.octets += octets;
                }
                (first @ Ok(_), Err(error)) => *first = Err(error),
                (Err(_), _) => {}
            }
        }
    }

    fn next_message(&self, until: Instant, repeats: bool) -> Option<MessageSequence> {
        if self.result.borrow().is_err() || Instant::now() >= until {
            return None;
        }
        let at = self.next.get();
        self.next.set(at + 1);
        let at = if repeats { at % self.messages.len().max(1) } else { at };
        self.messages.get(at).copied()
    }

    /// Copies the content out of the window, as an association copies it to its socket.
    async fn read_message(
        &self,
        message: MessageSequence,
        memory: &mut Vec<u8>,
    ) -> Result<u64, ReadingError> {
        let failed = |error| ReadingError::Fetch(message, error);
        let fetched = self.client.fetch(message, u64::MAX);
        let detail = fetched.detail().await.map_err(failed)?;
        memory.clear();
        while let Some(piece) = fetched.piece().await.map_err(failed)? {
            memory.extend_from_slice(&piece);
        }
        let octets = memory.len() as u64;
        if octets != detail.content_octets {
            return Err(ReadingError::Length(message, octets, detail.content_octets));
        }
        Ok(octets)
    }
}
