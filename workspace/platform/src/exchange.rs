//! A question and its answer over a link, by a thread that waits for it.

use crate::link::connect_patiently;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{RecvFlags, SendFlags};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

/// One end of a link on which this thread asks and waits. For answers that take no longer than a turn of the event loop.
#[derive(Debug)]
pub struct Exchange(OwnedFd);

impl Exchange {
    /// Connects to the socket at `path`. From then on nothing is waited for longer than `patience`, the connection included.
    ///
    /// # Errors
    /// `NotFound` or `ConnectionRefused` while nobody listens there, `WouldBlock` when `patience` has passed.
    pub fn connect(path: &Path, patience: Duration) -> io::Result<Self> {
        let socket = connect_patiently(path, patience)?;
        rustix::io::ioctl_fionbio(&socket, false)?;
        set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(patience))?;
        Ok(Self(socket))
    }

    /// Sends one datagram.
    ///
    /// # Errors
    /// `WouldBlock` when `patience` has passed, `BrokenPipe` when the other end is gone.
    pub fn say(&self, datagram: &[u8]) -> io::Result<()> {
        rustix::io::retry_on_intr(|| rustix::net::send(&self.0, datagram, SendFlags::NOSIGNAL))?;
        Ok(())
    }

    /// Waits for one datagram, and gives its octets in `buffer`, which is to hold
    /// [`DATAGRAM_OCTETS_MAX`](sternpost_link::DATAGRAM_OCTETS_MAX).
    ///
    /// # Errors
    /// `WouldBlock` when `patience` has passed, `UnexpectedEof` when the other end is gone.
    pub fn hear(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match rustix::io::retry_on_intr(|| rustix::net::recv(&self.0, &mut *buffer, RecvFlags::empty()))? {
            (_, 0) => Err(io::ErrorKind::UnexpectedEof.into()),
            (_, octets) => Ok(octets),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::listen;

    #[test]
    fn who_gets_no_answer_has_waited_no_longer_than_its_patience() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listening = listen(&path).unwrap();
        let exchange = Exchange::connect(&path, Duration::from_millis(50)).unwrap();
        exchange.say(b"?").unwrap();
        let error = exchange.hear(&mut [0; 64]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(listening);
        assert_eq!(exchange.hear(&mut [0; 64]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}
