//! A connection to somebody else: in the clear, or inside TLS.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use sternpost_tls::TlsStream;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

const END_MAX: Duration = Duration::from_secs(1);

/// A connection.
#[derive(Debug)]
pub(crate) enum Stream {
    /// As it was made.
    Clear(TcpStream),
    /// Behind its handshake.
    Secured(TlsStream),
    /// Its handshake is under way, or has failed.
    Lost,
}

impl Stream {
    /// Reads what is there, or waits for it. A call that is dropped has read nothing.
    ///
    /// # Errors
    /// Those of the socket; inside TLS also `InvalidData` and, where the end was not said, `UnexpectedEof`.
    pub(crate) async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Clear(stream) => loop {
                stream.readable().await?;
                match stream.try_read(buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    other => return other,
                }
            },
            Self::Secured(stream) => stream.read(buffer).await,
            Self::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// Those of the socket.
    pub(crate) async fn write_all(&mut self, octets: &[u8]) -> io::Result<()> {
        match self {
            Self::Clear(stream) => stream.write_all(octets).await,
            Self::Secured(stream) => {
                stream.write_all(octets).await?;
                stream.flush().await
            }
            Self::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Says the end inside TLS, where it must be said (RFC 8446, 6.1), to whoever takes it within a second.
    pub(crate) async fn end(&mut self) {
        if let Self::Secured(stream) = self {
            let _ = tokio::time::timeout(END_MAX, stream.shutdown()).await;
        }
    }

    /// The connection in the clear, for its handshake; none when it is not in the clear.
    pub(crate) fn take_clear(&mut self) -> io::Result<TcpStream> {
        match std::mem::replace(self, Self::Lost) {
            Self::Clear(stream) => Ok(stream),
            Self::Secured(_) | Self::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Secured(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Lost => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}
