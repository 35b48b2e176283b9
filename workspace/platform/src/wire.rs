//! What the machines of the store and of QMGR need of a link: to send on it, and to end it. [`Link`] is the real one.
//!
//! The machines are generic over it, so that the simulator can drive them by links that break when a seed says so.
//! Not here: reading (what arrives is handed to the machines), making links and accepting them (their drivers).

use crate::link::{Link, Peer};
use crate::memory::{self, WindowWriter};
use serde::Serialize;
use std::fmt::Debug;
use std::io;
use sternpost_link::FrameError;

/// Why a frame with something attached was not queued.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The frame itself.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The shared memory that was to travel with it.
    #[error("shared memory could not be made")]
    Memory(#[from] io::Error),
}

/// The sending end of one link. Frames travel in the order in which they are pushed.
pub trait Wire: Debug {
    /// What the peer sees content through.
    type Cells: Cells;

    /// Queues one frame. On a link that has ended it is dropped: the reader sees the end.
    ///
    /// # Errors
    /// `TooLarge`: nothing was queued.
    fn push<F: Serialize>(&self, frame: &F) -> Result<(), FrameError>;

    /// Queues one frame in a datagram of its own, with `value` in memory that nobody can change any more.
    ///
    /// # Errors
    /// `WireError`: nothing was queued.
    fn push_sealed<F: Serialize>(&self, frame: &F, value: &[u8]) -> Result<(), WireError>;

    /// Queues one frame in a datagram of its own, with the reader's end of a content window.
    ///
    /// # Errors
    /// `WireError`: nothing was queued.
    fn push_cells<F: Serialize>(&self, frame: &F, cells: &Self::Cells) -> Result<(), WireError>;

    /// Who is at the other end, as the kernel has noted it when the link was made.
    ///
    /// # Errors
    /// When the kernel does not say.
    fn peer(&self) -> io::Result<Peer>;

    /// Sends as much of what is queued as the other end takes at once. The rest, and everything else, goes by itself soon.
    fn send_now(&self);

    /// Octets that wait to be sent, with those in sealed memory.
    fn unsent_octets(&self) -> usize;

    /// Ends the link: the other end sees it, and nothing more is sent.
    fn close(&self);
}

/// The store's end of a content window: cells of equal size that it fills while they are its own.
pub trait Cells: Debug + Sized {
    /// A window of `cells_count` cells.
    ///
    /// # Errors
    /// When there is no memory for it.
    fn new(cells_count: u16, cell_octets: usize) -> io::Result<Self>;

    /// Shows the octets of one cell to `fill`; none when there is no such cell.
    fn fill<R>(&mut self, cell: u16, fill: impl FnOnce(&mut [u8]) -> R) -> Option<R>;
}

impl Wire for Link {
    type Cells = WindowWriter;

    fn push<F: Serialize>(&self, frame: &F) -> Result<(), FrameError> {
        Self::push(self, frame)
    }

    fn push_sealed<F: Serialize>(&self, frame: &F, value: &[u8]) -> Result<(), WireError> {
        Ok(self.push_holding(frame, memory::seal(value)?, value.len())?)
    }

    fn push_cells<F: Serialize>(&self, frame: &F, cells: &WindowWriter) -> Result<(), WireError> {
        Ok(self.push_with(frame, cells.share()?)?)
    }

    fn peer(&self) -> io::Result<Peer> {
        Self::peer(self)
    }

    fn send_now(&self) {
        Self::send_now(self);
    }

    fn unsent_octets(&self) -> usize {
        Self::unsent_octets(self)
    }

    fn close(&self) {
        Self::close(self);
    }
}

impl Cells for WindowWriter {
    fn new(cells_count: u16, cell_octets: usize) -> io::Result<Self> {
        Self::new(cells_count, cell_octets)
    }

    fn fill<R>(&mut self, cell: u16, fill: impl FnOnce(&mut [u8]) -> R) -> Option<R> {
        self.cell(cell).map(fill)
    }
}
