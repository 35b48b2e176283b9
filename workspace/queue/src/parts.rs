//! Content chunk by chunk, for whoever wants what can be read of a message of which a part is lost.

use std::sync::Arc;

use sternpost_message::MessageSequence;

use crate::event::ReadError;
use crate::{Disk, Log};

impl<D: Disk> Log<D> {
    /// The content of one chunk of a living message, isolated or not; none behind the last.
    ///
    /// # Errors
    /// `Unknown` when the message does not live; `Missing` or `Damaged` when the chunk is lost; `Disk` when it cannot be read
    /// now.
    pub fn read_chunk(
        &mut self,
        sequence: MessageSequence,
        chunk: u32,
    ) -> Result<Option<Arc<[u8]>>, ReadError> {
        let living = self.index.get(sequence).ok_or(ReadError::Unknown(sequence))?;
        let Some(place) = usize::try_from(chunk).ok().and_then(|chunk| living.chunks().get(chunk)) else {
            return Ok(None);
        };
        let (id, place) = (living.id, *place);
        self.shelf.chunk(sequence, id, chunk, place).map(|octets| Some(octets.into()))
    }

    /// Whether a part of a living message was missed when the log was opened, or lost since. What is damaged and was not read
    /// yet is not known here.
    #[must_use]
    pub fn is_damaged(&self, sequence: MessageSequence) -> bool {
        self.index.get(sequence).is_some_and(|living| living.damaged)
    }
}
