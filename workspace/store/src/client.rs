//! One client of the store: its link, what it waits for, and the window through which it reads content.

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use sternpost_link::store::{CELL_OCTETS, Lane};
use sternpost_link::{Hello, Role};
use sternpost_message::{MessageSequence, UnixMillis};
use sternpost_platform::wire::{Cells, Wire};

/// Cells that one fetch may fill before the client has released the first of them.
const CELLS_PER_FETCH: u16 = 4;

/// Unsent octets beyond which a channel gets no more details of messages until it has read some. What it fetches is its own
/// choice, and the details of one message may have as many octets as its envelope: a datagram of questions would be worth
/// hundreds of MiB.
const DETAILS_UNSENT_OCTETS_MAX: usize = 1 << 20;

/// The number of a client, never given twice by one store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(pub(crate) u64);

/// The clients that one store may have after each other: what a ticket has room for. At ten commands a second they last
/// nineteen days; then the store ends and begins anew, which its clients notice as a pause.
pub(crate) const CLIENTS_MAX: u64 = 1 << 24;

/// Links that one process may have at a time. A channel has one, and one more whose end was not read yet when it was made
/// anew; a command of operators has three at most. Descriptors and what is answered are the store's, for all.
pub(crate) const LINKS_PER_PROCESS_MAX: usize = 16;

/// The time that a link has for its Hello, which honest clients send when they connect.
const HELLO_MS_MAX: u64 = 5_000;

/// What a ticket of the log stands for: 24 bits of client, 2 of lane, 38 of number. A client that appends a hundred
/// thousand sets a second runs out of numbers after a month.
pub(crate) fn ticket(client: ClientId, lane: Lane, number: u64) -> u64 {
    (client.0 << 40) | ((lane.index() as u64) << 38) | (number & ((1 << 38) - 1))
}

/// The reverse of [`ticket`].
pub(crate) fn of_ticket(ticket: u64) -> (ClientId, Lane, u64) {
    let lane = match (ticket >> 38) & 3 {
        0 => Lane::Outcome,
        1 => Lane::Urgent,
        2 => Lane::Normal,
        _ => Lane::NonUrgent,
    };
    (ClientId(ticket >> 40), lane, ticket & ((1 << 38) - 1))
}

/// A message that a client wants to read and has no answer to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) request: u32,
    pub(crate) message: MessageSequence,
    /// The first octet wanted, and how many at most.
    pub(crate) offset: u64,
    pub(crate) octets_max: u64,
}

/// A message that a client reads.
#[derive(Debug)]
pub(crate) struct Fetch {
    pub(crate) request: u32,
    pub(crate) message: MessageSequence,
    /// The next octet to send, and the first that is not wanted.
    pub(crate) at: u64,
    pub(crate) end: u64,
    /// The cells that it fills now.
    cells: Vec<u16>,
}

/// The window of a channel: which cells are free, and which fetches want some.
#[derive(Debug)]
pub(crate) struct Window<C> {
    pub(crate) memory: C,
    /// Last in, first out: a cell that was just read is still in the processor's cache.
    free: Vec<u16>,
    /// What is not answered, because the client has not read the answers before.
    asked: VecDeque<Asked>,
    pub(crate) fetches: VecDeque<Fetch>,
    /// Cells of fetches that are complete or cancelled, on their way back.
    orphans: u16,
    pub(crate) cells_count: u16,
}

impl<C: Cells> Window<C> {
    /// A window with one cell for each Mlist that the channel takes at a time and as many again, so that every
    /// fetch always gets on.
    pub(crate) fn new(capacity: u32) -> io::Result<Self> {
        let cells_count = u16::try_from(capacity.saturating_mul(2)).unwrap_or(u16::MAX).clamp(8, 8_192);
        Ok(Self {
            memory: C::new(cells_count, CELL_OCTETS)?,
            free: (0..cells_count).rev().collect(),
            asked: VecDeque::new(),
            fetches: VecDeque::new(),
            orphans: 0,
            cells_count,
        })
    }

    /// Takes a question. False when as many are open as there are cells: twice as many as the channel takes Mlists at a time.
    pub(crate) fn ask(&mut self, asked: Asked) -> bool {
        let has_room = self.asked.len() + self.fetches.len() < usize::from(self.cells_count);
        if has_room {
            self.asked.push_back(asked);
        }
        has_room
    }

    pub(crate) fn fetch(&mut self, request: u32, message: MessageSequence, at: u64, end: u64) {
        self.fetches.push_back(Fetch { request, message, at, end, cells: Vec::new() });
    }

    pub(crate) fn cancel(&mut self, request: u32) {
        if let Some(at) = self.fetches.iter().position(|fetch| fetch.request == request) {
            self.end_fetch(at);
        } else {
            self.asked.retain(|asked| asked.request != request);
        }
    }

    /// Forgets a fetch; its cells come back when the client has read them.
    pub(crate) fn end_fetch(&mut self, at: usize) {
        if let Some(fetch) = self.fetches.remove(at) {
            self.orphans += u16::try_from(fetch.cells.len()).unwrap_or(u16::MAX);
        }
    }

    /// A cell for the fetch at place `at`, unless it has its share or none is free.
    pub(crate) fn take_cell(&mut self, at: usize) -> Option<u16> {
        let fetch = self.fetches.get_mut(at)?;
        // While cells are scarce each fetch has one, so that all get on.
        // Fetches of several cells take half of all at most: there are twice as many cells as fetches, so those that
        // are left suffice for one each.
        let share = if self.free.len() > usize::from(self.cells_count / 2) { CELLS_PER_FETCH } else { 1 };
        if fetch.cells.len() >= usize::from(share) {
            return None;
        }
        let cell = self.free.pop()?;
        fetch.cells.push(cell);
        Some(cell)
    }

    /// Takes back a cell that was not filled.
    pub(crate) fn put_back(&mut self, at: usize, cell: u16) {
        if let Some(fetch) = self.fetches.get_mut(at) {
            fetch.cells.retain(|own| *own != cell);
            self.free.push(cell);
        }
    }

    /// The client has read a cell. False when it had none such: a client that lies.
    pub(crate) fn release(&mut self, cell: u16) -> bool {
        for fetch in &mut self.fetches {
            if let Some(at) = fetch.cells.iter().position(|own| *own == cell) {
                fetch.cells.swap_remove(at);
                self.free.push(cell);
                return true;
            }
        }
        if self.orphans == 0 || cell >= self.cells_count || self.free.contains(&cell) {
            return false;
        }
        self.orphans -= 1;
        self.free.push(cell);
        true
    }
}

/// One client.
#[derive(Debug)]
pub(crate) struct Client<L: Wire> {
    pub(crate) link: Rc<L>,
    /// The process that has connected; none where the kernel does not say it, as of one in another namespace.
    pub(crate) process: Option<u32>,
    /// When it is closed if it has not said who it is; and turns of the event loop still to wait then, so that a Hello that lies
    /// in its socket while the store had to wait for its machine is read.
    hello_due_at: UnixMillis,
    hello_turns: u8,
    pub(crate) hello: Option<Hello>,
    pub(crate) window: Option<Window<L::Cells>>,
    /// Sets given to the log and not answered by it.
    pub(crate) open_sets: u64,
    /// For each lane the newest number committed and the newest one told.
    pub(crate) committed: [(u64, u64); Lane::COUNT],
    /// Its link has ended.
    pub(crate) is_gone: bool,
    /// Its link was closed for what it did: nothing that it has sent behind that is taken.
    pub(crate) is_refused: bool,
}

impl<L: Wire> Client<L> {
    pub(crate) fn new(now: UnixMillis, link: Rc<L>) -> Self {
        let process = link.peer().ok().map(|peer| peer.pid).filter(|pid| *pid != 0);
        Self {
            link,
            process,
            hello_due_at: now.plus_ms(HELLO_MS_MAX),
            hello_turns: 2,
            hello: None,
            window: None,
            open_sets: 0,
            committed: [(0, 0); Lane::COUNT],
            is_gone: false,
            is_refused: false,
        }
    }

    /// Whether it is a living link of this process.
    pub(crate) fn is_link_of(&self, process: u32) -> bool {
        !self.is_gone && !self.is_refused && self.process == Some(process)
    }

    /// When its link is closed, unless it says by then who it is.
    pub(crate) fn hello_due(&self) -> Option<UnixMillis> {
        let waits = self.hello.is_none() && !self.is_gone && !self.is_refused;
        waits.then_some(self.hello_due_at)
    }

    /// Whether its time is over, and that of the turns behind it. Asked once in each.
    pub(crate) fn is_silent(&mut self, now: UnixMillis) -> bool {
        if self.hello_due().is_none_or(|due| now < due) {
            return false;
        }
        let is_over = self.hello_turns == 0;
        self.hello_turns = self.hello_turns.saturating_sub(1);
        self.hello_due_at = now.plus_ms(1);
        is_over
    }

    /// Whether it has said that it is this role.
    pub(crate) fn is(&self, role: Role) -> bool {
        self.hello.as_ref().is_some_and(|hello| hello.role == role)
    }

    /// Whether it has asked for messages and has no answer yet.
    pub(crate) fn is_owed_answers(&self) -> bool {
        self.window.as_ref().is_some_and(|window| !window.asked.is_empty())
    }

    /// What it has asked for and is to be answered now. Nothing while it does not read the answers that it has.
    pub(crate) fn next_asked(&mut self) -> Option<Asked> {
        if self.link.unsent_octets() > DETAILS_UNSENT_OCTETS_MAX {
            return None;
        }
        self.window.as_mut()?.asked.pop_front()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.hello.as_ref().map_or(0, |hello| hello.pid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sternpost_platform::memory::WindowWriter;

    #[test]
    fn a_ticket_names_client_lane_and_number() {
        for lane in [Lane::Outcome, Lane::Urgent, Lane::Normal, Lane::NonUrgent] {
            assert_eq!(of_ticket(ticket(ClientId(77), lane, 123_456)), (ClientId(77), lane, 123_456));
        }
    }

    #[test]
    fn cells_come_back_in_any_order_and_only_once() {
        let mut window = Window::<WindowWriter>::new(4).unwrap();
        window.fetch(1, MessageSequence(1), 0, 10);
        let cells: Vec<_> = std::iter::from_fn(|| window.take_cell(0)).collect();
        assert_eq!(cells.len(), usize::from(CELLS_PER_FETCH));
        assert!(window.release(cells[2]) && !window.release(cells[2]));
        window.end_fetch(0);
        assert!(window.release(cells[0]) && window.release(cells[1]) && window.release(cells[3]));
        assert!(!window.release(cells[0]) && !window.release(999));
        assert_eq!(window.free.len(), usize::from(window.cells_count));
    }

    #[test]
    fn every_fetch_gets_a_cell_while_others_have_theirs() {
        for capacity in [4, 16, 64, 2_048, 4_096] {
            let mut window = Window::<WindowWriter>::new(capacity).unwrap();
            for request in 0..capacity {
                window.fetch(request, MessageSequence(1), 0, 10);
            }
            for at in 0..window.fetches.len() {
                while window.take_cell(at).is_some() {}
            }
            let without = window.fetches.iter().filter(|fetch| fetch.cells.is_empty()).count();
            assert_eq!(without, 0, "capacity {capacity}");
        }
    }
}
