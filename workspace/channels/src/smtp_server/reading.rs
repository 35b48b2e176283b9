//! Room for what clients send, which a connection has only while there is something in it.
//!
//! Most connections are silent most of the time. With 32 KiB for each of them, thousands would fill the memory with nothing: so room is
//! taken when a socket is read, and goes back when it gave nothing or when the session has taken all.

use crate::stream::Stream;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Poll, ready};
use tokio::io::{AsyncRead as _, ReadBuf};

/// Octets read at a time. A message of 4 KiB comes in one read, a large one in pieces that the cache holds.
const READ_OCTETS: usize = 32 << 10;
/// Rooms that are kept while nobody needs them: 512 KiB.
const IDLE_MAX: usize = 16;

/// The rooms of all connections of a process.
#[derive(Debug, Default)]
pub(super) struct Rooms {
    idle: RefCell<Vec<Box<[u8]>>>,
}

impl Rooms {
    fn take(&self) -> Box<[u8]> {
        self.idle.borrow_mut().pop().unwrap_or_else(|| vec![0; READ_OCTETS].into_boxed_slice())
    }

    fn give_back(&self, room: Box<[u8]>) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < IDLE_MAX {
            idle.push(room);
        }
    }

    /// Reads what is there, or waits for it without having any room. A call that is dropped has read nothing.
    ///
    /// # Errors
    /// Those of the connection, and `UnexpectedEof` at its end.
    pub(super) async fn read(&self, stream: &mut Stream) -> io::Result<Unread<'_>> {
        let (room, count) = poll_fn(|context| {
            let mut room = self.take();
            let mut buffer = ReadBuf::new(&mut room);
            let polled = Pin::new(&mut *stream).poll_read(context, &mut buffer);
            let count = buffer.filled().len();
            match polled {
                Poll::Ready(Ok(())) if count > 0 => return Poll::Ready(Ok((room, count))),
                _ => self.give_back(room),
            }
            ready!(polled)?;
            Poll::Ready(Err(io::Error::from(io::ErrorKind::UnexpectedEof)))
        })
        .await?;
        Ok(Unread { rooms: self, room, rest: 0..count })
    }
}

/// What was read and the session has not taken yet. Never empty when it is new.
#[derive(Debug)]
pub(super) struct Unread<'a> {
    rooms: &'a Rooms,
    room: Box<[u8]>,
    rest: Range<usize>,
}

impl Unread<'_> {
    pub(super) fn octets(&self) -> &[u8] {
        &self.room[self.rest.clone()]
    }

    /// The session has taken the first of them. Says whether any are left.
    pub(super) fn took(&mut self, count: usize) -> bool {
        self.rest.start += count;
        !self.rest.is_empty()
    }
}

impl Drop for Unread<'_> {
    fn drop(&mut self) {
        self.rooms.give_back(std::mem::take(&mut self.room));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn a_connection_has_room_only_while_something_is_in_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut stream = Stream::Clear(listener.accept().await.unwrap().0);
        let rooms = Rooms::default();
        let idle_count = || rooms.idle.borrow().len();
        {
            let waiting = rooms.read(&mut stream);
            tokio::pin!(waiting);
            let polled = poll_fn(|context| Poll::Ready(waiting.as_mut().poll(context).is_pending())).await;
            assert!(polled && idle_count() == 1, "who waits has given its room back");
            client.write_all(b"EHLO c\r\n").await.unwrap();
            let mut unread = waiting.await.unwrap();
            assert_eq!((unread.octets(), idle_count()), (&b"EHLO c\r\n"[..], 0));
            assert!(unread.took(6) && unread.octets() == b"\r\n" && !unread.took(2));
        }
        assert_eq!(idle_count(), 1);
        drop(client);
        let end = rooms.read(&mut stream).await.unwrap_err();
        assert_eq!((end.kind(), idle_count()), (io::ErrorKind::UnexpectedEof, 1));
    }

    #[test]
    fn no_more_rooms_are_kept_than_a_few() {
        let rooms = Rooms::default();
        let all: Vec<_> = (0..40).map(|_| rooms.take()).collect();
        all.into_iter().for_each(|room| rooms.give_back(room));
        assert_eq!(rooms.idle.borrow().len(), IDLE_MAX);
    }
}
