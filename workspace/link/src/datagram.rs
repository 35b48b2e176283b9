//! Frames packed into datagrams. A datagram is a header of 8 octets and one or more frames; a frame is its length in
//! 4 octets, little-endian, and a `postcard` body.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::PROTOCOL_VERSION;

/// The largest datagram. Above about 212 kB (`net.core.wmem_default`) the kernel refuses one; 64 KiB stays well below.
pub const DATAGRAM_OCTETS_MAX: usize = 65_536;

/// The largest body of one frame.
pub const FRAME_OCTETS_MAX: usize = DATAGRAM_OCTETS_MAX - size_of::<DatagramHeader>() - size_of::<U32>();

const MAGIC: [u8; 2] = *b"SP";

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct DatagramHeader {
    magic: [u8; 2],
    version: U16,
    frames_count: U16,
    reserved: U16,
}
const _: () = assert!(size_of::<DatagramHeader>() == 8);

/// A datagram that is not ours: the link is closed, for nothing behind it can be trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DatagramError {
    /// Shorter than its header, or the wrong first octets.
    #[error("a datagram without the header of a Sternpost link")]
    Header,
    /// Another version of the protocol.
    #[error(
        "the peer speaks version {theirs} of the protocol and this process version {PROTOCOL_VERSION}; restart both from one executable"
    )]
    Version {
        /// What the datagram says.
        theirs: u16,
    },
    /// A frame that ends behind its datagram, or octets behind the last frame.
    #[error("a datagram whose frames do not add up to its length")]
    Length,
    /// A body that is no frame of this link.
    #[error("frame {index} of a datagram is not one of this link's frames")]
    Body {
        /// Its place in the datagram, from 0.
        index: u16,
    },
}

/// A frame that cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Larger than a datagram.
    #[error("a frame of more than {FRAME_OCTETS_MAX} octets")]
    TooLarge,
}

/// What waits to be sent on one link: frames go in, full datagrams come out.
#[derive(Debug, Default)]
pub struct Outbox {
    sealed: VecDeque<Vec<u8>>,
    open: Vec<u8>,
    open_frames: u16,
    sealed_octets: usize,
    sealed_count: u64,
    popped_count: u64,
    spare: Vec<Vec<u8>>,
}

impl Outbox {
    /// Appends one frame; it travels in the order of the calls.
    ///
    /// # Errors
    /// `TooLarge`: nothing was appended.
    pub fn push<F: Serialize>(&mut self, frame: &F) -> Result<(), FrameError> {
        if self.open.len() > DATAGRAM_OCTETS_MAX - 1024 || self.open_frames == u16::MAX {
            self.seal();
        }
        self.open_if_closed();
        let start = self.open.len();
        self.open.extend_from_slice(&[0; 4]);
        let buffer = std::mem::take(&mut self.open);
        self.open = postcard::to_extend(frame, buffer).map_err(|_| FrameError::TooLarge)?;
        let body = self.open.len() - start - 4;
        let Some(length) = u32::try_from(body).ok().filter(|_| body <= FRAME_OCTETS_MAX) else {
            self.open.truncate(start);
            return Err(FrameError::TooLarge);
        };
        self.open[start..start + 4].copy_from_slice(&length.to_le_bytes());
        if self.open.len() > DATAGRAM_OCTETS_MAX {
            // The frame does not fit behind the others: it begins the next datagram.
            let last = self.open.split_off(start);
            self.seal();
            self.open_if_closed();
            self.open.extend_from_slice(&last);
        }
        self.open_frames += 1;
        Ok(())
    }

    /// Appends a frame that was encoded before (see [`crate::Appender`]).
    pub fn push_encoded(&mut self, frame: &[u8]) {
        if self.open.len() + 4 + frame.len() > DATAGRAM_OCTETS_MAX || self.open_frames == u16::MAX {
            self.seal();
        }
        self.open_if_closed();
        let length = u32::try_from(frame.len()).expect("an encoded frame is at most FRAME_OCTETS_MAX long");
        self.open.extend_from_slice(&length.to_le_bytes());
        self.open.extend_from_slice(frame);
        self.open_frames += 1;
    }

    /// Ends the open datagram, so that the next frame begins another one.
    pub fn seal(&mut self) {
        if self.open_frames == 0 {
            return;
        }
        let header = DatagramHeader {
            magic: MAGIC,
            version: U16::new(PROTOCOL_VERSION),
            frames_count: U16::new(self.open_frames),
            reserved: U16::new(0),
        };
        self.open[..8].copy_from_slice(header.as_bytes());
        self.sealed_octets += self.open.len();
        self.sealed_count += 1;
        let next = self.spare.pop().unwrap_or_default();
        self.sealed.push_back(std::mem::replace(&mut self.open, next));
        self.open_frames = 0;
    }

    /// The next datagram to send; ends the open one when no other is left.
    pub fn front(&mut self) -> Option<&[u8]> {
        if self.sealed.is_empty() {
            self.seal();
        }
        self.sealed.front().map(Vec::as_slice)
    }

    /// Forgets the datagram that [`Self::front`] gave: it was sent.
    pub fn pop(&mut self) {
        if let Some(mut sent) = self.sealed.pop_front() {
            self.sealed_octets -= sent.len();
            self.popped_count += 1;
            sent.clear();
            if self.spare.len() < 2 {
                self.spare.push(sent);
            }
        }
    }

    /// How many datagrams were sealed so far: the number of the newest one, counted from 1.
    #[must_use]
    pub const fn sealed_count(&self) -> u64 {
        self.sealed_count
    }

    /// The number of the datagram that [`Self::front`] gives, counted from 1.
    #[must_use]
    pub const fn front_number(&self) -> u64 {
        self.popped_count + 1
    }

    /// Octets that wait, for back-pressure.
    #[must_use]
    pub fn octets(&self) -> usize {
        self.sealed_octets + self.open.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sealed.is_empty() && self.open_frames == 0
    }

    /// Forgets everything: the link is gone.
    pub fn clear(&mut self) {
        self.popped_count = self.sealed_count;
        self.sealed.clear();
        self.sealed_octets = 0;
        self.open.clear();
        self.open_frames = 0;
    }

    fn open_if_closed(&mut self) {
        if self.open_frames == 0 {
            self.open.clear();
            self.open.resize(size_of::<DatagramHeader>(), 0);
        }
    }
}

/// The frames of one datagram, in order.
#[derive(Debug)]
pub struct Frames<'a> {
    rest: &'a [u8],
    index: u16,
    count: u16,
}

impl<'a> Frames<'a> {
    /// Opens a datagram as it was received.
    ///
    /// # Errors
    /// `Header` or `Version`; the lengths of the frames are checked as they are read.
    pub fn open(datagram: &'a [u8]) -> Result<Self, DatagramError> {
        let (header, rest) = DatagramHeader::ref_from_prefix(datagram).map_err(|_| DatagramError::Header)?;
        if header.magic != MAGIC {
            return Err(DatagramError::Header);
        }
        if header.version.get() != PROTOCOL_VERSION {
            return Err(DatagramError::Version { theirs: header.version.get() });
        }
        Ok(Self { rest, index: 0, count: header.frames_count.get() })
    }

    /// The next frame, or none behind the last one.
    ///
    /// # Errors
    /// `Length` or `Body`; the link must then be closed.
    pub fn next_frame<F: Deserialize<'a>>(&mut self) -> Result<Option<F>, DatagramError> {
        if self.index == self.count {
            return if self.rest.is_empty() { Ok(None) } else { Err(DatagramError::Length) };
        }
        let (length, rest) = self.rest.split_first_chunk::<4>().ok_or(DatagramError::Length)?;
        let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| DatagramError::Length)?;
        if length > rest.len() {
            return Err(DatagramError::Length);
        }
        let (body, rest) = rest.split_at(length);
        let frame = read_frame(body).ok_or(DatagramError::Body { index: self.index })?;
        self.rest = rest;
        self.index += 1;
        Ok(Some(frame))
    }
}

/// Reads one frame's body; none when it is not exactly one frame of type `F`.
#[must_use]
pub fn read_frame<'a, F: Deserialize<'a>>(body: &'a [u8]) -> Option<F> {
    match postcard::take_from_bytes(body) {
        Ok((frame, [])) => Some(frame),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn unpack(outbox: &mut Outbox) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(datagram) = outbox.front() {
            assert!(datagram.len() <= DATAGRAM_OCTETS_MAX);
            let mut frames = Frames::open(datagram).unwrap();
            while let Some(frame) = frames.next_frame::<Vec<u8>>().unwrap() {
                all.push(frame);
            }
            outbox.pop();
        }
        all
    }

    #[test]
    fn small_frames_share_a_datagram() {
        let mut outbox = Outbox::default();
        for number in 0..100_u8 {
            outbox.push(&vec![number; 100]).unwrap();
        }
        let datagram = outbox.front().unwrap().to_vec();
        assert_eq!(datagram.len(), 8 + 100 * (4 + 101));
        assert_eq!(unpack(&mut outbox).len(), 100);
        assert!(outbox.is_empty() && outbox.front().is_none());
    }

    #[test]
    fn a_frame_larger_than_a_datagram_is_refused_and_the_others_travel() {
        let mut outbox = Outbox::default();
        outbox.push(&vec![1_u8; 10]).unwrap();
        assert_eq!(outbox.push(&vec![2_u8; DATAGRAM_OCTETS_MAX]), Err(FrameError::TooLarge));
        outbox.push(&vec![3_u8; 10]).unwrap();
        assert_eq!(unpack(&mut outbox), [vec![1; 10], vec![3; 10]]);
    }

    #[test]
    fn another_version_is_named_in_the_error() {
        let mut outbox = Outbox::default();
        outbox.push(&1_u8).unwrap();
        let mut datagram = outbox.front().unwrap().to_vec();
        datagram[2] = 9;
        assert_eq!(Frames::open(&datagram).unwrap_err(), DatagramError::Version { theirs: 9 });
    }

    proptest! {
        #[test]
        fn frames_of_every_size_arrive_in_order(sizes in prop::collection::vec(0_usize..70_000, 0..20)) {
            let mut outbox = Outbox::default();
            let mut sent = Vec::new();
            for (number, size) in sizes.into_iter().enumerate() {
                let frame = vec![u8::try_from(number).unwrap(); size];
                if outbox.push(&frame).is_ok() {
                    sent.push(frame);
                }
            }
            prop_assert_eq!(unpack(&mut outbox), sent);
        }
    }
}
