//! Memory that a disk can take as it is: aligned to a page, of fixed capacity, filled from the front.
//!
//! Owned by the write that it was given to until that write is finished. Its address never changes, so that a
//! driver may register it once.

use std::sync::atomic::{AtomicU64, Ordering};

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::format::PAGE_OCTETS;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
struct Page([u8; PAGE_OCTETS]);

/// What is to be added does not fit into what is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the buffer is full")]
pub struct BufferFull;

/// Page-aligned octets with a fixed capacity.
pub struct AlignedBuffer {
    identity: u64,
    pages: Vec<Page>,
    length: usize,
}

impl AlignedBuffer {
    /// An empty buffer for `octets`, rounded up to whole pages.
    #[must_use]
    pub fn with_capacity(octets: usize) -> Self {
        let pages = (0..octets.div_ceil(PAGE_OCTETS)).map(|_| Page::new_zeroed()).collect();
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self { identity: NEXT.fetch_add(1, Ordering::Relaxed), pages, length: 0 }
    }

    /// A buffer that holds `octets`, rounded up with zeroes to whole pages.
    #[must_use]
    pub fn from_octets(octets: &[u8]) -> Self {
        let mut buffer = Self::with_capacity(octets.len());
        buffer.storage_mut()[..octets.len()].copy_from_slice(octets);
        buffer.length = buffer.capacity();
        buffer
    }

    /// A number that no other buffer of this process has or will have, unlike its address: by this a driver recognises
    /// memory that it registered.
    #[must_use]
    pub const fn identity(&self) -> u64 {
        self.identity
    }

    /// How many octets fit, a multiple of a page.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.pages.len() * PAGE_OCTETS
    }

    /// How many octets are in use.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Whether none is in use.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The octets in use.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.storage()[..self.length]
    }

    /// The octets in use.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        let length = self.length;
        &mut self.storage_mut()[..length]
    }

    /// The whole memory, used or not: what a driver registers.
    #[must_use]
    pub fn storage(&self) -> &[u8] {
        self.pages.as_bytes()
    }

    fn storage_mut(&mut self) -> &mut [u8] {
        self.pages.as_mut_bytes()
    }

    /// Empties the buffer; its octets stay until they are overwritten.
    pub const fn clear(&mut self) {
        self.length = 0;
    }

    /// Adds `octets` at the end.
    ///
    /// # Errors
    /// `BufferFull` when they do not fit; nothing is added then.
    pub fn extend(&mut self, octets: &[u8]) -> Result<(), BufferFull> {
        let end =
            self.length.checked_add(octets.len()).filter(|end| *end <= self.capacity()).ok_or(BufferFull)?;
        let start = self.length;
        self.storage_mut()[start..end].copy_from_slice(octets);
        self.length = end;
        Ok(())
    }

    /// Sets the length; octets that come into use are zero.
    ///
    /// # Errors
    /// `BufferFull` beyond the capacity.
    pub fn resize(&mut self, length: usize) -> Result<(), BufferFull> {
        if length > self.capacity() {
            return Err(BufferFull);
        }
        if length > self.length {
            let start = self.length;
            self.storage_mut()[start..length].fill(0);
        }
        self.length = length;
        Ok(())
    }

    /// Fills with zeroes up to the next multiple of `octets`, a divisor of a page.
    pub fn pad_to(&mut self, octets: usize) {
        let length = self.length.next_multiple_of(octets);
        self.resize(length).expect("the capacity is a multiple of a page, so the padding fits");
    }
}

impl std::fmt::Debug for AlignedBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBuffer({} of {} octets)", self.length, self.capacity())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_aligned_bounded_and_padded_with_zeroes() {
        let mut buffer = AlignedBuffer::with_capacity(5000);
        assert_eq!(buffer.capacity(), 8192);
        assert_eq!(buffer.storage().as_ptr().addr() % PAGE_OCTETS, 0);
        buffer.extend(&[7; 8192]).unwrap();
        assert_eq!(buffer.extend(&[1]), Err(BufferFull));
        buffer.clear();
        buffer.extend(&[9; 3]).unwrap();
        buffer.pad_to(PAGE_OCTETS);
        assert_eq!(buffer.len(), PAGE_OCTETS);
        assert!(buffer.as_slice()[3..].iter().all(|octet| *octet == 0));
    }
}
