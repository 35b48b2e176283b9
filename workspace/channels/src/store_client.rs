//! A role's link to the store: appends that are answered when they are durable, and messages to read.
//!
//! The store may restart at any time. The link is then made anew, appends without an answer are sent again (the store
//! knows repetitions by their ids), and open fetches go on where they stood. The role notices a pause.

use rustc_hash::FxHashMap;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use sternpost_link::store::{Absence, Append, CELL_OCTETS, FromStore, Lane, MessageDetail, ToStore};
use sternpost_link::{Appended, Appender, FrameError, Frames, Hello};
use sternpost_message::MessageSequence;
use sternpost_platform::link::{Link, connect};
use sternpost_platform::memory::{self, WindowReader};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

/// Pause before a link that has ended, or was not to be had, is made anew.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);
/// Chunks of large messages without an answer, of all sessions of this process: 8 MiB. What is urgent comes behind them on the
/// link, and waits no longer than the disk takes to write them.
const CHUNKS_ON_THEIR_WAY_MAX: usize = 136;

/// Why a message cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// It is dead, or kept apart. QMGR hears so from the store: the Mlist is over without an outcome.
    #[error("the message is over, or kept apart")]
    Gone,
    /// The store cannot read it, at least not now.
    #[error("the message cannot be read: {0}")]
    Unreadable(String),
}

/// The link to the store.
#[derive(Debug)]
pub struct StoreClient {
    path: PathBuf,
    hello: Hello,
    inner: RefCell<Inner>,
    /// Rings when a link is up.
    connected: Notify,
    /// Rings when cells wait to be released.
    released: Notify,
    /// Room for chunks of large messages.
    chunks: Arc<Semaphore>,
}

/// Who waits for the answer to an append.
#[derive(Debug)]
struct Waiting {
    answer: oneshot::Sender<Appended>,
    /// Free again with the answer.
    _room: Option<OwnedSemaphorePermit>,
}

#[derive(Debug, Default)]
struct Inner {
    link: Option<Rc<Link>>,
    appender: Appender<Waiting>,
    window: Option<Rc<WindowReader>>,
    /// Counts the links: a cell of an earlier one is not released on a later one.
    epoch: u64,
    fetches: FxHashMap<u32, Rc<Reading>>,
    request_last: u32,
    release: Vec<u16>,
}

/// What has arrived of a message that is being read.
#[derive(Debug)]
struct Reading {
    message: MessageSequence,
    octets_max: u64,
    state: RefCell<ReadingState>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct ReadingState {
    detail: Option<Box<MessageDetail>>,
    pieces: VecDeque<Piece>,
    /// Octets that have arrived.
    octets: u64,
    is_complete: bool,
    failed: Option<FetchError>,
}

/// A message that is being read.
#[derive(Debug)]
pub struct Fetched {
    client: Rc<StoreClient>,
    request: u32,
    reading: Rc<Reading>,
}

/// A piece of content, in a cell of the window; dropping it gives the cell back.
#[derive(Debug)]
pub struct Piece {
    client: Rc<StoreClient>,
    window: Rc<WindowReader>,
    epoch: u64,
    cell: u16,
    octets: usize,
    /// Whether nothing comes behind it.
    pub is_last: bool,
}

impl StoreClient {
    /// A link that is made, kept and made anew on the current thread's `LocalSet`.
    pub fn start(path: PathBuf, hello: Hello) -> Rc<Self> {
        let client = Rc::new(Self {
            path,
            hello,
            inner: RefCell::default(),
            connected: Notify::new(),
            released: Notify::new(),
            chunks: Arc::new(Semaphore::new(CHUNKS_ON_THEIR_WAY_MAX)),
        });
        tokio::task::spawn_local(Rc::clone(&client).keep());
        tokio::task::spawn_local(Rc::clone(&client).release_cells());
        client
    }

    /// Waits until the link is up for the first time.
    pub async fn ready(&self) {
        while self.inner.borrow().link.is_none() {
            self.connected.notified().await;
        }
        self.connected.notify_one();
    }

    /// Appends records that commit together; the answer comes when they are durable or refused.
    ///
    /// # Errors
    /// `TooLarge` when they do not fit one datagram.
    pub fn append(
        &self,
        lane: Lane,
        records: &[Append<'_>],
    ) -> Result<oneshot::Receiver<Appended>, FrameError> {
        self.append_from(lane, records, None, None)
    }

    /// Waits for room for a chunk of a large message. Urgent ones need none.
    pub(crate) async fn chunk_room(&self, lane: Lane) -> Option<OwnedSemaphorePermit> {
        if matches!(lane, Lane::Outcome | Lane::Urgent) {
            return None;
        }
        Arc::clone(&self.chunks).acquire_owned().await.ok()
    }

    /// As [`Self::append`], for content that a peer sends while its envelope is not there; `room` is free again with the answer.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub(crate) fn append_from(
        &self,
        lane: Lane,
        records: &[Append<'_>],
        peer: Option<&str>,
        room: Option<OwnedSemaphorePermit>,
    ) -> Result<oneshot::Receiver<Appended>, FrameError> {
        let (answer, answered) = oneshot::channel();
        let mut inner = self.inner.borrow_mut();
        let Inner { link, appender, .. } = &mut *inner;
        let frame = appender.append_from(lane, records, peer, Waiting { answer, _room: room })?;
        if let Some(link) = link {
            link.push_encoded(frame);
        }
        Ok(answered)
    }

    /// Octets of all appends that the store has not answered.
    pub(crate) fn unanswered_octets(&self) -> usize {
        self.inner.borrow().appender.octets()
    }

    /// Begins to read a message: its details, then at most `octets_max` of its content.
    pub fn fetch(self: &Rc<Self>, message: MessageSequence, octets_max: u64) -> Fetched {
        let reading =
            Rc::new(Reading { message, octets_max, state: RefCell::default(), arrived: Notify::new() });
        let mut inner = self.inner.borrow_mut();
        inner.request_last = inner.request_last.wrapping_add(1);
        let request = inner.request_last;
        inner.fetches.insert(request, Rc::clone(&reading));
        if let Some(link) = &inner.link {
            send(link, &ToStore::Fetch { request, message, offset: 0, octets_max });
        }
        Fetched { client: Rc::clone(self), request, reading }
    }

    async fn keep(self: Rc<Self>) {
        loop {
            let link = match connect(&self.path).and_then(Link::new) {
                Ok(link) => link,
                Err(error) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "the store is not there yet");
                    tokio::time::sleep(RECONNECT_PAUSE).await;
                    continue;
                }
            };
            send(&link, &ToStore::Hello(self.hello.clone()));
            let end = link
                .read_until_end(|datagram, mut attached| {
                    let mut frames = Frames::open(datagram)?;
                    while let Some(frame) = frames.next_frame::<FromStore>()? {
                        self.take(&link, frame, &mut attached);
                    }
                    Ok(())
                })
                .await;
            tracing::info!(event = "store.lost", reason = %end, "the store has gone; waiting for it");
            {
                let mut inner = self.inner.borrow_mut();
                inner.link = None;
                inner.window = None;
                inner.release.clear();
            }
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
    }

    fn take(self: &Rc<Self>, link: &Rc<Link>, frame: FromStore, attached: &mut Option<OwnedFd>) {
        match frame {
            FromStore::Welcome { cells_count, .. } => self.welcome(link, cells_count, attached.take()),
            FromStore::Committed { lane, number } => {
                let answer = |waiting: Waiting| drop(waiting.answer.send(Appended::Committed));
                self.inner.borrow_mut().appender.committed(lane, number, answer);
            }
            FromStore::Refused { lane, number, refusal } => {
                if let Some(waiting) = self.inner.borrow_mut().appender.refused(lane, number) {
                    drop(waiting.answer.send(Appended::Refused(refusal)));
                }
            }
            FromStore::Message { request, detail } => {
                let detail = detail.or_else(|| unseal_detail(attached.take()?));
                self.with_reading(request, |state| match detail {
                    Some(detail) => state.detail = state.detail.take().or(Some(detail)),
                    None => state.failed = Some(FetchError::Unreadable("the store's answer".to_owned())),
                });
            }
            FromStore::NoMessage { request, absence, why } => {
                let error = match absence {
                    Absence::Dead | Absence::Isolated => FetchError::Gone,
                    Absence::Unreadable => FetchError::Unreadable(why),
                };
                self.with_reading(request, |state| state.failed = Some(error));
            }
            FromStore::Content { request, cell, octets, last } => self.content(request, cell, octets, last),
            FromStore::Stream(_)
            | FromStore::Listed { .. }
            | FromStore::Shown(_)
            | FromStore::Status(_)
            | FromStore::Found(_)
            | FromStore::Piece(_)
            | FromStore::IsolatedListed { .. }
            | FromStore::PartialsListed { .. }
            | FromStore::Restored { .. } => {}
        }
    }

    fn welcome(&self, link: &Rc<Link>, cells_count: u16, attached: Option<OwnedFd>) {
        let mut inner = self.inner.borrow_mut();
        inner.epoch += 1;
        inner.window =
            attached.and_then(|memory| match WindowReader::new(&memory, cells_count, CELL_OCTETS) {
                Ok(window) => Some(Rc::new(window)),
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "the store's content window cannot be used"
                    );
                    None
                }
            });
        if cells_count > 0 && inner.window.is_none() {
            // Without its window this process could read nothing; the next link may bring one.
            return link.close();
        }
        for frame in inner.appender.unanswered() {
            link.push_encoded(frame);
        }
        for (request, reading) in &inner.fetches {
            let mut state = reading.state.borrow_mut();
            // Pieces of the last store's window are gone with it, but for those in use.
            let unread: u64 = state.pieces.iter().map(|piece| piece.octets as u64).sum();
            state.pieces.clear();
            state.octets -= unread;
            if !state.is_complete || unread > 0 {
                state.is_complete = false;
                let (offset, message) = (state.octets, reading.message);
                let octets_max = reading.octets_max - offset;
                send(link, &ToStore::Fetch { request: *request, message, offset, octets_max });
            }
        }
        inner.link = Some(Rc::clone(link));
        self.connected.notify_one();
    }

    fn with_reading(&self, request: u32, act: impl FnOnce(&mut ReadingState)) {
        let reading = self.inner.borrow().fetches.get(&request).cloned();
        if let Some(reading) = reading {
            act(&mut reading.state.borrow_mut());
            reading.arrived.notify_one();
        }
    }

    fn content(self: &Rc<Self>, request: u32, cell: u16, octets: u32, is_last: bool) {
        let (window, epoch) = {
            let inner = self.inner.borrow();
            (inner.window.clone(), inner.epoch)
        };
        let octets = usize::try_from(octets).unwrap_or(usize::MAX);
        let piece = window.filter(|_| octets > 0).map(|window| Piece {
            client: Rc::clone(self),
            window,
            epoch,
            cell,
            octets,
            is_last,
        });
        // A piece of a message that nobody reads any more is dropped here, and its cell goes back.
        self.with_reading(request, |state| {
            state.octets += octets as u64;
            state.is_complete |= is_last;
            state.pieces.extend(piece);
        });
    }

    async fn release_cells(self: Rc<Self>) {
        loop {
            self.released.notified().await;
            // What the rest of this turn releases goes along.
            tokio::task::yield_now().await;
            let mut inner = self.inner.borrow_mut();
            let cells = std::mem::take(&mut inner.release);
            if let Some(link) = inner.link.as_ref().filter(|_| !cells.is_empty()) {
                send(link, &ToStore::Release { cells });
            }
        }
    }
}

fn unseal_detail(memory: OwnedFd) -> Option<Box<MessageDetail>> {
    memory::unseal(memory, memory::DETAIL_OCTETS_MAX)
        .ok()
        .and_then(|octets| postcard::from_bytes(&octets).ok())
}

fn send(link: &Link, frame: &ToStore<'_>) {
    if let Err(error) = link.push(frame) {
        tracing::error!(error = &error as &dyn std::error::Error, "a frame was not sent");
    }
}

impl Fetched {
    /// The message's details.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub async fn detail(&self) -> Result<Box<MessageDetail>, FetchError> {
        loop {
            {
                let mut state = self.reading.state.borrow_mut();
                if let Some(detail) = state.detail.take() {
                    return Ok(detail);
                }
                if let Some(why) = &state.failed {
                    return Err(why.clone());
                }
            }
            self.reading.arrived.notified().await;
        }
    }

    /// The next piece of the content, or none behind the last.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub async fn piece(&self) -> Result<Option<Piece>, FetchError> {
        loop {
            {
                let mut state = self.reading.state.borrow_mut();
                if let Some(piece) = state.pieces.pop_front() {
                    return Ok(Some(piece));
                }
                if let Some(why) = &state.failed {
                    return Err(why.clone());
                }
                if state.is_complete {
                    return Ok(None);
                }
            }
            self.reading.arrived.notified().await;
        }
    }
}

impl Drop for Fetched {
    fn drop(&mut self) {
        let mut inner = self.client.inner.borrow_mut();
        inner.fetches.remove(&self.request);
        let state = &mut *self.reading.state.borrow_mut();
        if !state.is_complete
            && state.failed.is_none()
            && let Some(link) = &inner.link
        {
            send(link, &ToStore::Cancel { request: self.request });
        }
        let unread = std::mem::take(&mut state.pieces);
        drop(inner);
        drop(unread);
    }
}

impl Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.window.cell(self.cell, self.octets).unwrap_or_default()
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        // The window of a store that has gone needs nothing back. `try_borrow`: a piece may be dropped while the link
        // is being made anew, and then belongs to the old window.
        if let Ok(mut inner) = self.client.inner.try_borrow_mut()
            && inner.epoch == self.epoch
            && inner.window.is_some()
        {
            inner.release.push(self.cell);
            self.client.released.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};
    use sternpost_link::{PROTOCOL_VERSION, Role};
    use sternpost_message::MessageId;

    #[test]
    fn chunks_of_all_sessions_share_their_room_and_urgent_ones_need_none() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let hello = Hello {
                version: PROTOCOL_VERSION,
                role: Role::SmtpServer,
                pid: 1,
                process: 1,
                channel: String::new(),
                capacity: 0,
            };
            let client = StoreClient::start("nobody listens here".into(), hello);
            let record = Append::Content { message: MessageId([1; 16]), index: 0, octets: b"x" };
            for _ in 0..CHUNKS_ON_THEIR_WAY_MAX {
                let room = client.chunk_room(Lane::Normal).await;
                drop(client.append_from(Lane::Normal, std::slice::from_ref(&record), None, room).unwrap());
            }
            let mut next = pin!(client.chunk_room(Lane::Normal));
            let mut context = Context::from_waker(Waker::noop());
            assert!(next.as_mut().poll(&mut context).is_pending());
            assert!(client.chunk_room(Lane::Urgent).await.is_none());
            // The store answers the first one.
            client.inner.borrow_mut().appender.committed(Lane::Normal, 1, drop);
            assert!(matches!(next.as_mut().poll(&mut context), Poll::Ready(Some(_))));
        });
    }
}
