//! What the store does with what it hears: gives sets to the log, answers those that are durable, streams to QMGR, and
//! shows content to channels. Nothing here waits, reads a socket or a clock; `lib.rs` drives the links, the disk and the
//! time, and the simulator does the same with faulty ones.

mod content;
mod isolation;
mod operators;
mod orders;
mod partials;
mod stream;
#[cfg(test)]
mod tests;

use crate::client::{Asked, CLIENTS_MAX, Client, ClientId, LINKS_PER_PROCESS_MAX, Window, of_ticket, ticket};
use crate::isolated::Isolated;
use crate::manner::Manner;
use crate::translate;
use crate::uploads::Uploads;
use orders::Order;
use partials::PartialShare;
use rustc_hash::FxHashMap;
use std::borrow::Cow;
use std::rc::Rc;
use sternpost_link::store::{Append, FromStore, Lane, Refusal, StreamFrame, ToStore};
use sternpost_link::{DatagramError, Frames, Hello, PROTOCOL_VERSION, Role};
use sternpost_message::{MessageSequence, UnixMillis};
use sternpost_platform::door::Door;
use sternpost_platform::wire::{Wire, WireError};
use sternpost_queue::{Alarm, AppendError, Disk, Log, LogEvent, Parameters};
use stream::{Mark, Stream};

/// Deliverable Mlists up to which intake is not slowed: what fifty sessions have under way while the log writes.
const DELIVERABLE_WINDOW: u64 = 64;
/// The longest that an acknowledgement waits for deliverable mail to leave first, whatever QMGR says.
const INTAKE_DELAY_MS_MAX: u64 = 200;
/// Answers that a client has not read, beyond which it has broken the protocol. QMGR gets a new snapshot instead (`stream`).
const ANSWERS_UNSENT_OCTETS_MAX: usize = 8 << 20;

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
    /// How long acknowledgements wait for it.
    intake_delay_ms: u64,
    /// When the acknowledgements that wait for deliverable mail go out at the latest.
    held_until: Option<UnixMillis>,
    isolated: Isolated,
    uploads: Uploads,
    partial_share: PartialShare,
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
            intake_delay_ms: 0,
            held_until: None,
            isolated: Isolated::default(),
            uploads: Uploads::new(&Parameters::default()),
            partial_share: PartialShare::new(&Parameters::default()),
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

    /// Somebody has connected. Whose process has as many links as it may is refused; what lies unread in the others stays.
    ///
    /// # Panics
    /// When the numbers of clients are used up: the store ends and begins anew.
    pub fn connected(&mut self, now: UnixMillis, link: Rc<L>) -> ClientId {
        self.client_last += 1;
        assert!(self.client_last < CLIENTS_MAX, "a store begins anew before its tickets run out of clients");
        let id = ClientId(self.client_last);
        let client = Client::new(now, link);
        let links_count = client.process.map_or(0, |process| self.links_count(process));
        self.clients.insert(id, client);
        if links_count >= LINKS_PER_PROCESS_MAX {
            self.refuse(id, "its process has as many links as it may");
        }
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
        let Some(client) = self.clients.get_mut(&id).filter(|client| !client.is_refused) else {
            return false;
        };
        let is_bounded = client.hello.as_ref().is_some_and(|hello| hello.role != Role::Qmgr);
        if is_bounded && client.link.unsent_octets() > ANSWERS_UNSENT_OCTETS_MAX {
            self.refuse(id, "it does not read what it is answered");
            return false;
        }
        match (client.hello.as_ref().map(|hello| hello.role), &frame) {
            (None, ToStore::Hello(hello)) => {
                if let Some(hello) = self.door.admit(&*client.link, hello.clone()) {
                    self.greet(id, hello);
                }
                return false;
            }
            (Some(role), frame) if frame.is_business_of(role) => {}
            (role, _) => {
                let who = role.map_or("a process that has not said who it is", Role::name);
                self.refuse(id, &format!("{who} has sent what is not its business"));
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
                self.fetch(id, Asked { request, message, offset, octets_max });
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
            ToStore::Deliverable { waiting, delay_ms } => {
                self.deliverable = waiting;
                self.intake_delay_ms = u64::from(delay_ms).min(INTAKE_DELAY_MS_MAX);
            }
            question => self.operator(id, &question),
        }
        false
    }

    fn links_count(&self, process: u32) -> usize {
        self.clients.values().filter(|client| client.is_link_of(process)).count()
    }

    /// Takes a client that is who it says. A process has one window: through the link that it had before it made this one, a
    /// channel reads nothing any more.
    fn greet(&mut self, id: ClientId, hello: Hello) {
        let process = self.clients.get(&id).and_then(|client| client.process);
        if let Some(process) = process.filter(|_| hello.role.is_channel()) {
            let before = self.clients.values_mut().filter(|client| client.is_link_of(process));
            before.for_each(|client| client.window = None);
        }
        if let Some(client) = self.clients.get_mut(&id) {
            client.greet(&self.own, hello);
        }
    }

    /// Closes the links that have not said in time who they are.
    fn end_silent_links(&mut self, now: UnixMillis) {
        let is_silent = |(id, client): (&ClientId, &mut Client<L>)| client.is_silent(now).then_some(*id);
        let silent: Vec<ClientId> = self.clients.iter_mut().filter_map(is_silent).collect();
        for id in silent {
            self.refuse(id, "it has not said who it is");
        }
    }

    /// Closes a client's link for what it did.
    fn refuse(&mut self, id: ClientId, why: &str) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.is_refused = true;
            self.door.refuse(&*client.link, why);
        }
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
        let content = partials::only_content(&records);
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

    // ---- what the log says ----

    /// Lets the log go on and passes on what it says. Called when something was appended, when a write has ended, and
    /// when the log's time has come.
    pub fn drive(&mut self, now: UnixMillis) {
        self.now = now;
        self.go_on(now);
        self.end_silent_links(now);
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
            self.go_on(now);
        }
        self.log.batches_count() != before
    }

    /// Lets the log go on, and answers who waited for it.
    fn go_on(&mut self, now: UnixMillis) {
        loop {
            self.log.drive(now);
            while let Some(event) = self.log.poll() {
                self.event(event);
            }
            self.acknowledge(now);
            if !self.log.goes_on() {
                return;
            }
            self.clients.values().for_each(|client| client.link.send_now());
        }
    }

    /// When [`Self::drive`] must be called at the latest.
    #[must_use]
    pub fn wake_at(&self, now: UnixMillis) -> Option<UnixMillis> {
        let marks = (!self.marks.is_empty()).then(|| now.plus_ms(1));
        let hello = self.clients.values().filter_map(Client::hello_due).min();
        let own = [self.held_until, marks, hello, self.partial_share.wake_at()];
        own.into_iter().chain([self.log.wake_at()]).flatten().min()
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
            (true, None) => Some(now.plus_ms(self.intake_delay_ms)),
        };
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
}
