//! What a TCP socket can be told beyond the standard library.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Lets so many octets at most wait in the kernel that were not sent yet (`TCP_NOTSENT_LOWAT`). What is on its way to
/// the peer does not count, so that a fast and long path is still filled; but whoever writes hears within so many
/// octets that the peer does not take any more.
///
/// # Errors
/// Those of `setsockopt`.
pub fn limit_unsent(socket: &impl AsFd, octets: u32) -> io::Result<()> {
    let descriptor = socket.as_fd().as_raw_fd();
    let length = libc::socklen_t::try_from(size_of::<u32>()).unwrap_or_default();
    // SAFETY: the descriptor is open as long as it is borrowed; the kernel reads `length` octets of `octets`, which lives
    // until the call is over.
    let result = unsafe {
        libc::setsockopt(
            descriptor,
            libc::IPPROTO_TCP,
            libc::TCP_NOTSENT_LOWAT,
            std::ptr::from_ref(&octets).cast(),
            length,
        )
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_peer_that_does_not_read_is_noticed_after_little() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        rustix::net::sockopt::set_socket_recv_buffer_size(&listener, 16 << 10).unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let _peer = listener.accept().unwrap();
        limit_unsent(&stream, 64 << 10).unwrap();
        stream.set_nonblocking(true).unwrap();
        let mut taken = 0;
        let refused = loop {
            match stream.write(&[0; 16 << 10]) {
                Ok(octets) => taken += octets,
                Err(error) => break error,
            }
        };
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        assert!(taken < 512 << 10, "{taken}");
    }
}
