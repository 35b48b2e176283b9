//! What the store does with what it hears: gives sets to the log, answers those that are durable, streams to QMGR, and
//! shows content to channels. Nothing here waits, reads a socket or a clock; `lib.rs` drives the links, the disk and the
//! time, and the simulator does the same with faulty ones.

mod operators;
#[cfg(test)]
mod tests;

use crate::client::{CLIENTS_MAX, Client, ClientId, Window, of_ticket, ticket};
use crate::device::Manner;
use crate::isolated::{Isolated, is_loss};
use crate::translate;
use crate::uploads::Uploads;
use operators::Order;
use rustc_hash::FxHashMap;
use std::borrow::Cow;
use std::rc::Rc;
use sternpost_link::store::{Absence, Append, FromStore, Lane, Refusal, Shown, StreamFrame, ToStore};
use sternpost_link::{DatagramError, Frames, Hello, PROTOCOL_VERSION, Role};
use sternpost_message::{MessageSequence, UnixMillis, chain};
use sternpost_platform::door::Door;
use sternpost_platform::wire::{Cells, Wire, WireError};
use sternpost_queue::{Alarm, AppendError, Disk, Log, LogEvent, Parameters, ReadError};

/// Unsent octets of the stream beyond which QMGR gets a new snapshot instead: the store never waits for QMGR.
const STREAM_OCTETS_MAX: usize = 8 << 20;
/// Unsent octets of the stream beyond which QMGR is not told that a message is gone that a channel has asked for: it will be
/// told when the channel asks for it again.
const HINTS_UNSENT_OCTETS_MAX: usize = 64 << 10;
/// Messages of a snapshot that are sent in one turn.
const SNAPSHOT_STEP: usize = 256;
/// Deliverable Mlists up to which intake is not slowed: what fifty sessions have under way while the log writes.
const DELIVERABLE_WINDOW: u64 = 64;
/// The longest that an acknowledgement waits for deliverable mail to leave first.
const INTAKE_DELAY_MS_MAX: u64 = 20;

/// The stream to QMGR.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) client: ClientId,
    /// While a snapshot is being sent: the first message that it has not reached. Events of messages from there on
    /// are not streamed, because the snapshot will tell their state.
    pub(crate) cursor: Option<MessageSequence>,
    /// The link was too slow: nothing is streamed until a new snapshot.
    pub(crate) overflowed: bool,
}

#[derive(Debug)]
struct Mark {
    token: u64,
    ended: Vec<u32>,
    /// Turns of the event loop still to wait, so that what lies in the sockets of ended processes has been read.
    turns: u8,
}

/// The store.
pub struct Service<D: Disk, L: Wire> {
    log: Log<D>,
    /// The time that it was told last.
    now: UnixMillis,
    /// Who this store is, for its welcome.
    own: Hello,
    stream: Option<Stream>,
    clients: FxHashMap<ClientId, Client<L>>,
    client_last: u64,
    marks: Vec<Mark>,
    manner: Manner,
    door: Door,
    deliverable: u64,
    /// When the acknowledgements that wait for deliverable mail go out at the latest.
    held_until: Option<UnixMillis>,
    isolated: Isolated,
    uploads: Uploads,
    /// What operators have ordered and is not durable yet, by the ticket of its set.
    orders: FxHashMap<u64, Order>,
    damaged_places_count: u64,
}

impl<D: Disk, L: Wire> Service<D, L> {
    /// A store over an open log, without clients. `pid` is the process that it is.
    #[must_use]
    pub fn new(log: Log<D>, pid: u32, manner: Manner, door: Door) -> Self {
        let own = Hello {
            version: PROTOCOL_VERSION,
            role: Role::Store,
            pid,
            process: 0,
            channel: String::new(),
            capacity: 0,
        };
        Self {
            log,
            now: UnixMillis(0),
            own,
            stream: None,
            clients: FxHashMap::default(),
            client_last: 0,
            marks: Vec::new(),
            manner,
            door,
            deliverable: 0,
            held_until: None,
            isolated: Isolated::default(),
            uploads: Uploads::new(&Parameters::default()),
            orders: FxHashMap::default(),
            damaged_places_count: 0,
        }
    }

    /// The log, to look at it.
    pub const fn log(&self) -> &Log<D> {
        &self.log
    }

    /// The log, for reading its messages back.
    pub const fn log_mut(&mut self) -> &mut Log<D> {
        &mut self.log
    }

    /// Whether a living message is kept apart, because a part of it is lost.
    #[must_use]
    pub fn is_isolated(&self, message: MessageSequence) -> bool {
        self.isolated.contains(message)
    }

    /// Somebody has connected.
    ///
    /// # Panics
    /// When the numbers of clients are used up: the store ends and begins anew.
    pub fn connected(&mut self, link: Rc<L>) -> ClientId {
        self.client_last += 1;
        assert!(self.client_last < CLIENTS_MAX, "a store begins anew before its tickets run out of clients");
        let id = ClientId(self.client_last);
        self.clients.insert(id, Client::new(link));
        id
    }

    /// A client's link has ended, and everything that it had sent was taken.
    pub fn lost(&mut self, id: ClientId) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.is_gone = true;
            client.window = None;
        }
        if self.stream.as_ref().is_some_and(|stream| stream.client == id) {
            self.stream = None;
            self.deliverable = 0;
        }
        self.uploads.lost(id);
        self.forget_if_done(id);
    }

    fn forget_if_done(&mut self, id: ClientId) {
        if self.clients.get(&id).is_some_and(|client| client.is_gone && client.open_sets == 0) {
            self.clients.remove(&id);
        }
    }

    /// Takes one datagram of a client. True when the client is QMGR and wants the stream.
    ///
    /// # Errors
    /// When it makes no sense: the link is to be closed.
    pub fn datagram(
        &mut self,
        now: UnixMillis,
        id: ClientId,
        datagram: &[u8],
    ) -> Result<bool, DatagramError> {
        self.now = now;
        let mut subscribed = false;
        let mut frames = Frames::open(datagram)?;
        while let Some(frame) = frames.next_frame::<ToStore<'_>>()? {
            subscribed |= self.frame(now, id, frame);
        }
        Ok(subscribed)
    }

    fn frame(&mut self, now: UnixMillis, id: ClientId, frame: ToStore<'_>) -> bool {
        let Some(client) = self.clients.get_mut(&id) else { return false };
        match (client.hello.as_ref().map(|hello| hello.role), &frame) {
            (None, ToStore::Hello(hello)) => {
                if let Some(hello) = self.door.admit(&*client.link, hello.clone()) {
                    client.greet(&self.own, hello);
                }
                return false;
            }
            (Some(role), frame) if frame.is_business_of(role) => {}
            (role, _) => {
                let who = role.map_or("a process that has not said who it is", Role::name);
                self.door.refuse(&*client.link, &format!("{who} has sent what is not its business"));
                return false;
            }
        }
        match frame {
            ToStore::Hello(_) => {}
            ToStore::Append { lane, number, records, peer } => {
                client.open_sets += 1;
                if let Err(refusal) = self.append(now, id, (lane, number), records, peer) {
                    self.refused(id, lane, number, refusal);
                }
            }
            ToStore::Fetch { request, message, offset, octets_max } => {
                self.fetch(id, request, message, offset, octets_max);
            }
            ToStore::Release { cells } => client.release(&cells),
            ToStore::Cancel { request } => {
                if let Some(window) = &mut client.window {
                    window.cancel(request);
                }
            }
            ToStore::Subscribe => {
                self.stream = Some(Stream { client: id, cursor: None, overflowed: true });
                return true;
            }
            ToStore::Mark { token, ended } => {
                self.marks.push(Mark { token, ended, turns: 2 });
            }
            ToStore::Deliverable { waiting } => self.deliverable = waiting,
            question => self.operator(id, &question),
        }
        false
    }

    fn append(
        &mut self,
        now: UnixMillis,
        id: ClientId,
        (lane, number): (Lane, u64),
        records: Cow<'_, [Append<'_>]>,
        peer: Option<&str>,
    ) -> Result<(), Refusal> {
        let ticket = ticket(id, lane, number);
        self.uploads.append(id, lane, &records, peer, (&self.log, now))?;
        if let Some(client) = self.clients.get(&id).filter(|client| client.is(Role::Operator))
            && let Some(order) = self.order(client, lane, &records)?
        {
            self.orders.insert(ticket, order);
        }
        let content = operators::only_content(&records);
        let message = match records.first() {
            Some(Append::Content { message, .. }) => Some(*message),
            _ => None,
        };
        let set = translate::set(records.into_owned());
        let appended = self.log.append(now, translate::lane(lane), set, ticket);
        if let (Err(AppendError::Full), Some(octets)) = (&appended, content) {
            message.into_iter().for_each(|message| self.uploads.no_room(message));
            self.partials_refused(octets);
        }
        appended.map_err(|error| translate::refusal(&error))
    }

    fn refused(&mut self, id: ClientId, lane: Lane, number: u64, refusal: Refusal) {
        if let Refusal::Invalid(why) = &refusal {
            tracing::error!(event = "append.invalid", why, "a client sent a set that contradicts the log");
        }
        self.order_has_ended(ticket(id, lane, number), false);
        if let Some(client) = self.clients.get_mut(&id) {
            client.open_sets -= 1;
            client.send(&FromStore::Refused { lane, number, refusal });
        }
        self.forget_if_done(id);
    }

    fn fetch(&mut self, id: ClientId, request: u32, message: MessageSequence, offset: u64, octets_max: u64) {
        let detail = self.log.message(message);
        let is_isolated = self.isolated.contains(message);
        let (absence, why) = match detail {
            Ok(Some(_)) if is_isolated => (Absence::Isolated, "the message is kept apart".to_owned()),
            Ok(Some(detail)) => {
                let Some(client) = self.clients.get_mut(&id) else { return };
                let end = detail.content_octets.min(offset.saturating_add(octets_max));
                let frame = FromStore::Message { request, detail: Some(Box::new(translate::detail(detail))) };
                if let Err(why) = client.send_detail(frame) {
                    client.send(&FromStore::NoMessage { request, absence: Absence::Unreadable, why });
                }
                match &mut client.window {
                    Some(window) if offset < end => window.fetch(request, message, offset, end),
                    _ => client.send(&FromStore::Content { request, cell: u16::MAX, octets: 0, last: true }),
                }
                return;
            }
            Ok(None) => {
                // Whoever wants it has been told of it by QMGR, who may not know that the log has lost it.
                if self.stream_has_room_for_hints() {
                    self.tell(message, || StreamFrame::Dead { message });
                }
                (Absence::Dead, "the message is no longer in the log".to_owned())
            }
            Err(error) if is_loss(&error) => {
                let why = chain(&error);
                self.isolate(message, &why);
                (Absence::Isolated, why)
            }
            Err(error) => (Absence::Unreadable, chain(&error)),
        };
        if let Some(client) = self.clients.get(&id) {
            client.send(&FromStore::NoMessage { request, absence, why });
        }
    }

    // ---- what the log says ----

    /// Lets the log go on and passes on what it says. Called when something was appended, when a write has ended, and
    /// when the log's time has come.
    pub fn drive(&mut self, now: UnixMillis) {
        self.now = now;
        self.log.drive(now);
        while let Some(event) = self.log.poll() {
            self.event(event);
        }
        self.acknowledge(now);
        self.show_content();
        self.look_at_partials();
        self.answer_marks();
    }

    /// Whether a client that sends content should wait, because so much of it waits for the disk that more would be refused
    /// soon. Outcomes and QMGR's business never do.
    #[must_use]
    pub fn holds_back(&self, id: ClientId) -> bool {
        let sends_content = |client: &Client<L>| client.is(Role::SmtpServer) || client.is(Role::Operator);
        self.log.content_is_saturated() && self.clients.get(&id).is_some_and(sends_content)
    }

    /// Between two datagrams: if the log's write has ended, lets the log go on and answers. True when there was one.
    pub fn take_end_of_write(&mut self, now: UnixMillis) -> bool {
        let before = self.log.batches_count();
        if self.log.is_writing() {
            self.log.drive(now);
        }
        if self.log.batches_count() == before {
            return false;
        }
        while let Some(event) = self.log.poll() {
            self.event(event);
        }
        self.acknowledge(now);
        true
    }

    /// When [`Self::drive`] must be called at the latest.
    #[must_use]
    pub fn wake_at(&self, now: UnixMillis) -> Option<UnixMillis> {
        let marks = (!self.marks.is_empty()).then(|| now.plus_ms(1));
        [self.log.wake_at(), self.held_until, marks, self.uploads.wake_at()].into_iter().flatten().min()
    }

    fn event(&mut self, event: LogEvent) {
        match event {
            LogEvent::Committed { ticket } => {
                let (id, lane, number) = of_ticket(ticket);
                self.order_has_ended(ticket, true);
                if let Some(client) = self.clients.get_mut(&id) {
                    client.open_sets -= 1;
                    let committed = &mut client.committed[lane.index()].0;
                    *committed = number.max(*committed);
                }
                self.forget_if_done(id);
            }
            LogEvent::Refused { ticket, error } => {
                let (id, lane, number) = of_ticket(ticket);
                // What was committed before it must be told before it.
                if let Some(client) = self.clients.get_mut(&id) {
                    client.acknowledge(lane);
                }
                self.refused(id, lane, number, translate::refusal(&error));
            }
            LogEvent::Accepted { sequence, facts } => {
                self.tell(sequence, || StreamFrame::Message(Box::new(translate::facts(facts))));
            }
            LogEvent::Outcome { sequence, outcomes } => {
                self.tell(sequence, || StreamFrame::Outcome {
                    message: sequence,
                    effects: translate::effects(&outcomes),
                });
            }
            LogEvent::Dead { sequence } => {
                self.isolated.remove(sequence);
                self.tell(sequence, || StreamFrame::Dead { message: sequence });
            }
            LogEvent::Alarm(alarm) => {
                tell_alarm(&alarm);
                self.heard(&alarm);
            }
        }
    }

    fn tell(&mut self, sequence: MessageSequence, frame: impl FnOnce() -> StreamFrame) {
        let Some(stream) = &mut self.stream else { return };
        if stream.overflowed || stream.cursor.is_some_and(|cursor| sequence >= cursor) {
            return;
        }
        let Some(client) = self.clients.get(&stream.client) else { return };
        if client.link.unsent_octets() > STREAM_OCTETS_MAX {
            tracing::warn!(event = "stream.overflow", "QMGR does not keep up; it will get a new snapshot");
            stream.overflowed = true;
            return;
        }
        client.send(&FromStore::Stream(frame()));
    }

    /// Whether QMGR's link has room for what QMGR would learn later too: nobody may fill it with questions.
    fn stream_has_room_for_hints(&self) -> bool {
        let qmgr = self.stream.as_ref().and_then(|stream| self.clients.get(&stream.client));
        qmgr.is_some_and(|qmgr| qmgr.link.unsent_octets() < HINTS_UNSENT_OCTETS_MAX)
    }

    /// Sends what was committed. While deliverable mail waits beyond a window, acknowledgements of new mail are held a
    /// little, so that intake follows delivery; those of outcomes and of urgent mail never are.
    fn acknowledge(&mut self, now: UnixMillis) {
        let hold = self.deliverable > DELIVERABLE_WINDOW && self.held_until.is_none_or(|until| now < until);
        let mut held = false;
        for client in self.clients.values_mut() {
            for lane in [Lane::Outcome, Lane::Urgent, Lane::Normal, Lane::NonUrgent] {
                let (committed, told) = client.committed[lane.index()];
                if committed == told {
                    continue;
                }
                if hold && matches!(lane, Lane::Normal | Lane::NonUrgent) {
                    held = true;
                } else {
                    client.acknowledge(lane);
                }
            }
        }
        self.held_until = match (held, self.held_until) {
            (false, _) => None,
            (true, Some(until)) => Some(until),
            (true, None) => Some(now.plus_ms(INTAKE_DELAY_MS_MAX)),
        };
    }

    fn show_content(&mut self) {
        let mut lost = Vec::new();
        for client in self.clients.values_mut() {
            // A report does without the words that it is about.
            let does_without = client.is(Role::Housekeeper);
            let Client { window: Some(window), link, .. } = client else { continue };
            show(&mut self.log, window, &**link, &mut |message, why| {
                lost.extend((!does_without).then_some((message, why)));
                !does_without
            });
        }
        for (message, why) in lost {
            self.isolate(message, &why);
        }
    }

    fn answer_marks(&mut self) {
        let Some(stream) = &self.stream else { return self.marks.clear() };
        let Some(qmgr) = self.clients.get(&stream.client) else { return };
        let clients = &self.clients;
        self.marks.retain_mut(|mark| {
            let is_ended = |client: &Client<L>| client.is_gone || mark.ended.contains(&client.pid());
            if mark.turns > 0 {
                mark.turns -= 1;
            } else if !clients.values().any(is_ended) {
                qmgr.send(&FromStore::Stream(StreamFrame::Mark { token: mark.token }));
                return false;
            }
            true
        });
    }

    /// Whether QMGR waits for a mark. Between two turns in which it does, everything that lies in the clients' sockets is to
    /// be read, and whoever waits to be accepted is to be accepted.
    #[must_use]
    pub fn has_marks(&self) -> bool {
        !self.marks.is_empty()
    }

    // ---- the snapshot ----

    /// Whether QMGR waits for a snapshot: it has asked for one, or was too slow for the stream.
    #[must_use]
    pub fn wants_snapshot(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| stream.overflowed)
    }

    /// Begins a snapshot; gives QMGR's link, which is to be empty before each step.
    pub fn begin_snapshot(&mut self) -> Option<Rc<L>> {
        let messages_count = self.log.status().living_messages;
        let stream = self.stream.as_mut()?;
        let client = self.clients.get(&stream.client)?;
        stream.overflowed = false;
        stream.cursor = Some(MessageSequence(0));
        client.send(&FromStore::Stream(StreamFrame::SnapshotBegin { messages_count }));
        Some(Rc::clone(&client.link))
    }

    /// Sends some more of the snapshot. True when it is complete.
    pub fn step_snapshot(&mut self) -> bool {
        let Some(stream) = &mut self.stream else { return true };
        let (Some(cursor), Some(client)) = (stream.cursor, self.clients.get(&stream.client)) else {
            return true;
        };
        let mut next = cursor;
        let mut count = 0;
        let whole = self.log.messages_from(cursor).filter(|facts| !self.isolated.contains(facts.sequence));
        for facts in whole.take(SNAPSHOT_STEP) {
            next = MessageSequence(facts.sequence.0 + 1);
            count += 1;
            client.send(&FromStore::Stream(StreamFrame::Message(Box::new(translate::facts(facts)))));
        }
        let is_complete = count < SNAPSHOT_STEP;
        stream.cursor = if is_complete { None } else { Some(next) };
        if is_complete {
            client.send(&FromStore::Stream(StreamFrame::SnapshotEnd));
        }
        is_complete
    }
}

/// Writes an alarm of the log down.
pub(crate) fn tell_alarm(alarm: &Alarm) {
    if alarm.is_good_news() {
        tracing::warn!(event = "log.alarm", "{alarm}");
    } else {
        tracing::error!(event = "log.alarm", "{alarm}");
    }
}

/// Fills free cells, one for each fetch in turn. What turns out to be lost is told to `lost`, which says whether its message is
/// to be kept apart.
fn show<D: Disk, L: Wire>(
    log: &mut Log<D>,
    window: &mut Window<L::Cells>,
    link: &L,
    lost: &mut dyn FnMut(MessageSequence, String) -> bool,
) {
    let mut at = 0;
    while at < window.fetches.len() {
        let Some(cell) = window.take_cell(at) else {
            at += 1;
            continue;
        };
        let (request, message, from, end) = {
            let fetch = &window.fetches[at];
            (fetch.request, fetch.message, fetch.at, fetch.end)
        };
        let read = window.memory.fill(cell, |octets| {
            let wanted = usize::try_from(end - from).unwrap_or(usize::MAX).min(octets.len());
            log.read_content(message, from, &mut octets[..wanted])
        });
        let Some(read) = read else { return };
        match read {
            Ok(read) if read > 0 => {
                let octets = u32::try_from(read).unwrap_or(u32::MAX);
                let last = from + read as u64 >= end;
                push(link, &FromStore::Content { request, cell, octets, last });
                window.fetches[at].at += read as u64;
                if last {
                    window.end_fetch(at);
                }
            }
            Err(ReadError::Unknown(_)) => {
                // It has come to its end while it was read, by an order or by another process.
                window.put_back(at, cell);
                window.end_fetch(at);
                let why = "the message is no longer in the log".to_owned();
                push(link, &FromStore::NoMessage { request, absence: Absence::Dead, why });
            }
            other => {
                let is_lost = other.as_ref().map_or_else(is_loss, |_| true);
                let why = other.map_or_else(|error| chain(&error), |_| "the content ends early".to_owned());
                tracing::error!(event = "content.unreadable", %message, why, "content cannot be read");
                window.put_back(at, cell);
                window.end_fetch(at);
                let is_isolated = is_lost && lost(message, why.clone());
                let absence = if is_isolated { Absence::Isolated } else { Absence::Unreadable };
                push(link, &FromStore::NoMessage { request, absence, why });
            }
        }
    }
}

fn push(link: &impl Wire, frame: &FromStore) {
    if let Err(error) = link.push(frame) {
        tracing::error!(error = &error as &dyn std::error::Error, "a frame was not sent");
    }
}

impl<L: Wire> Client<L> {
    fn send(&self, frame: &FromStore) {
        push(&*self.link, frame);
    }

    fn greet(&mut self, own: &Hello, hello: Hello) {
        if hello.role.is_channel() {
            if let Err(error) = self.greet_with_window(own, hello.capacity) {
                tracing::error!(
                    event = "window.failed",
                    error = &error as &dyn std::error::Error,
                    "a channel gets no content window"
                );
                self.link.close();
            }
        } else {
            self.send(&FromStore::Welcome { hello: own.clone(), cells_count: 0 });
        }
        self.hello = Some(hello);
    }

    fn greet_with_window(&mut self, own: &Hello, capacity: u32) -> Result<(), WireError> {
        let window = Window::new(capacity)?;
        let welcome = FromStore::Welcome { hello: own.clone(), cells_count: window.cells_count };
        self.link.push_cells(&welcome, &window.memory)?;
        self.window = Some(window);
        Ok(())
    }

    fn release(&mut self, cells: &[u16]) {
        let Some(window) = &mut self.window else { return };
        if !cells.iter().all(|cell| window.release(*cell)) {
            tracing::error!(
                event = "window.abused",
                pid = self.pid(),
                "a channel released a cell that it did not have"
            );
            self.link.close();
        }
    }

    /// Tells the client what was committed in a lane.
    fn acknowledge(&mut self, lane: Lane) {
        let (committed, told) = self.committed[lane.index()];
        if committed > told {
            self.committed[lane.index()].1 = committed;
            self.send(&FromStore::Committed { lane, number: committed });
        }
    }

    /// Sends a message's details: in the datagram, or in sealed memory when they do not fit. Else says why not.
    fn send_detail(&self, frame: FromStore) -> Result<(), String> {
        if self.link.push(&frame).is_ok() {
            return Ok(());
        }
        let (detail, frame) = match frame {
            FromStore::Message { request, detail: Some(detail) } => {
                (detail, FromStore::Message { request, detail: None })
            }
            FromStore::Shown(Shown::Detail(detail)) => (detail, FromStore::Shown(Shown::Attached)),
            _ => return Ok(()),
        };
        let octets = postcard::to_stdvec(&detail).map_err(|error| chain(&error))?;
        self.link.push_sealed(&frame, &octets).map_err(|error| chain(&error))
    }
}
