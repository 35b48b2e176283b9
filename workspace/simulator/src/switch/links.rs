//! Links that break when the seed says so: what a machine pushes waits in an outbox, what was sent waits at the other end,
//! and either may be lost with the link.
//!
//! The frames, and how they are packed into datagrams, are the real ones. An end is what the store's service and QMGR's
//! manager know as their link (`platform::wire`). Not here: who reads what when (the world).

use serde::Serialize;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::{Rc, Weak};
use sternpost_link::store::CELL_OCTETS;
use sternpost_link::{FrameError, Outbox};
use sternpost_platform::link::Peer;
use sternpost_platform::wire::{Cells, Wire, WireError};

use crate::random::Random;

/// What travels beside a datagram.
#[derive(Clone, Debug)]
pub(crate) enum Attached {
    Sealed(Rc<[u8]>),
    Cells(SharedCells),
}

/// What was sent in one piece.
#[derive(Debug)]
pub(crate) struct Datagram {
    pub(crate) octets: Vec<u8>,
    pub(crate) attached: Option<Attached>,
}

/// What a reader finds.
#[derive(Debug)]
pub(crate) enum Received {
    Datagram(Datagram),
    Nothing,
    /// The other end is gone, and everything that it had sent was read or is lost.
    End,
}

/// One end of a link.
#[derive(Debug)]
pub(crate) struct End {
    outbox: RefCell<Outbox>,
    attached: RefCell<VecDeque<(u64, Attached)>>,
    inbox: RefCell<VecDeque<Datagram>>,
    is_closed: Cell<bool>,
    /// The link broke: nothing comes any more, whatever the other end does.
    is_broken: Cell<bool>,
    /// Who is at the other end.
    peer_pid: u32,
    /// Octets beyond those in the outbox that it pretends to be slow with.
    pretended_octets: Cell<usize>,
    other: RefCell<Weak<Self>>,
    random: RefCell<Random>,
}

impl End {
    fn new(peer_pid: u32, seed: u64) -> Self {
        Self {
            outbox: RefCell::default(),
            attached: RefCell::default(),
            inbox: RefCell::default(),
            is_closed: Cell::new(false),
            is_broken: Cell::new(false),
            peer_pid,
            pretended_octets: Cell::new(0),
            other: RefCell::default(),
            random: RefCell::new(Random::new(seed)),
        }
    }

    /// Both ends of a new link between two processes.
    pub(crate) fn pair(pids: [u32; 2], random: &mut Random) -> [Rc<Self>; 2] {
        let ends = [Rc::new(Self::new(pids[1], random.next())), Rc::new(Self::new(pids[0], random.next()))];
        *ends[0].other.borrow_mut() = Rc::downgrade(&ends[1]);
        *ends[1].other.borrow_mut() = Rc::downgrade(&ends[0]);
        ends
    }

    fn other(&self) -> Option<Rc<Self>> {
        self.other.borrow().upgrade()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.get()
    }

    /// Whether something waits to be sent.
    pub(crate) fn has_unsent(&self) -> bool {
        !self.is_closed.get() && !self.outbox.borrow().is_empty()
    }

    /// Whether a reader would find something, be it the end.
    pub(crate) fn is_readable(&self) -> bool {
        !self.is_closed.get() && (!self.inbox.borrow().is_empty() || self.is_at_end())
    }

    fn is_at_end(&self) -> bool {
        self.is_broken.get() || self.other().is_none_or(|other| other.is_closed.get())
    }

    /// A frame that was encoded before.
    pub(crate) fn push_encoded(&self, frame: &[u8]) {
        if !self.is_closed.get() {
            let mut outbox = self.outbox.borrow_mut();
            outbox.push_encoded(frame);
            self.pushed(&mut outbox);
        }
    }

    /// A frame was pushed. Now and then it ends its datagram, so that a link may break behind any frame.
    fn pushed(&self, outbox: &mut Outbox) {
        let mut random = self.random.borrow_mut();
        if random.chance(30) {
            outbox.seal();
        }
    }

    /// Sends one datagram.
    pub(crate) fn flush(&self) {
        let mut outbox = self.outbox.borrow_mut();
        let number = outbox.front_number();
        let Some(octets) = outbox.front().map(<[u8]>::to_vec) else { return };
        outbox.pop();
        let mut waiting = self.attached.borrow_mut();
        let is_carrier = waiting.front().is_some_and(|(carrier, _)| *carrier == number);
        let attached = if is_carrier { waiting.pop_front().map(|(_, attached)| attached) } else { None };
        if self.is_broken.get() {
            return;
        }
        if let Some(other) = self.other().filter(|other| !other.is_closed.get()) {
            other.inbox.borrow_mut().push_back(Datagram { octets, attached });
        }
    }

    /// The next datagram.
    pub(crate) fn receive(&self) -> Received {
        if self.is_closed.get() {
            return Received::Nothing;
        }
        match self.inbox.borrow_mut().pop_front() {
            Some(datagram) => Received::Datagram(datagram),
            None if self.is_at_end() => Received::End,
            None => Received::Nothing,
        }
    }

    /// The link breaks between two processes that live on: what waits to be sent is lost, and of what was sent to this end
    /// only the first `unread` datagrams can still be read.
    pub(crate) fn break_off(&self, unread: usize) {
        self.is_broken.set(true);
        self.outbox.borrow_mut().clear();
        self.attached.borrow_mut().clear();
        self.inbox.borrow_mut().truncate(unread);
    }

    /// How many datagrams lie here.
    pub(crate) fn unread_count(&self) -> usize {
        self.inbox.borrow().len()
    }

    /// From now on the end says that it has so much more to send than it has.
    pub(crate) fn pretend_unsent(&self, octets: usize) {
        self.pretended_octets.set(octets);
    }
}

impl Wire for End {
    type Cells = SharedCells;

    fn push<F: Serialize>(&self, frame: &F) -> Result<(), FrameError> {
        if !self.is_closed.get() {
            let mut outbox = self.outbox.borrow_mut();
            outbox.push(frame)?;
            self.pushed(&mut outbox);
        }
        Ok(())
    }

    fn push_sealed<F: Serialize>(&self, frame: &F, value: &[u8]) -> Result<(), WireError> {
        self.push_with(frame, Attached::Sealed(value.into()))
    }

    fn push_cells<F: Serialize>(&self, frame: &F, cells: &SharedCells) -> Result<(), WireError> {
        self.push_with(frame, Attached::Cells(cells.clone()))
    }

    fn peer(&self) -> io::Result<Peer> {
        Ok(Peer { uid: 0, pid: self.peer_pid })
    }

    /// Now and then the other end takes nothing more.
    fn send_now(&self) {
        while self.has_unsent() && !self.random.borrow_mut().chance(30) {
            self.flush();
        }
    }

    fn unsent_octets(&self) -> usize {
        let sealed = |(_, attached): &(u64, Attached)| match attached {
            Attached::Sealed(value) => value.len(),
            Attached::Cells(_) => 0,
        };
        let sealed_octets: usize = self.attached.borrow().iter().map(sealed).sum();
        self.outbox.borrow().octets() + sealed_octets + self.pretended_octets.get()
    }

    fn close(&self) {
        self.is_closed.set(true);
        self.outbox.borrow_mut().clear();
        self.attached.borrow_mut().clear();
        self.inbox.borrow_mut().clear();
    }
}

impl End {
    fn push_with<F: Serialize>(&self, frame: &F, attached: Attached) -> Result<(), WireError> {
        if self.is_closed.get() {
            return Ok(());
        }
        let mut outbox = self.outbox.borrow_mut();
        outbox.seal();
        outbox.push(frame)?;
        outbox.seal();
        self.attached.borrow_mut().push_back((outbox.sealed_count(), attached));
        Ok(())
    }
}

/// A content window: the store fills cells, the channel reads them.
#[derive(Clone, Debug)]
pub(crate) struct SharedCells(Rc<RefCell<Vec<Vec<u8>>>>);

impl SharedCells {
    /// What stands at the front of a cell now.
    pub(crate) fn read(&self, cell: u16, octets: usize) -> Option<Vec<u8>> {
        self.0.borrow().get(usize::from(cell))?.get(..octets).map(<[u8]>::to_vec)
    }
}

impl Cells for SharedCells {
    fn new(cells_count: u16, cell_octets: usize) -> io::Result<Self> {
        debug_assert_eq!(cell_octets, CELL_OCTETS);
        Ok(Self(Rc::new(RefCell::new(vec![Vec::new(); usize::from(cells_count)]))))
    }

    fn fill<R>(&mut self, cell: u16, fill: impl FnOnce(&mut [u8]) -> R) -> Option<R> {
        let mut cells = self.0.borrow_mut();
        let octets = cells.get_mut(usize::from(cell))?;
        octets.resize(CELL_OCTETS, 0);
        Some(fill(octets))
    }
}
