//! A connection inside TLS.

use crate::facts::alternative_names;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connection whose handshake is complete. Its end without TLS's own word of it is `UnexpectedEof`: what was cut off is no end.
#[derive(Debug)]
pub enum TlsStream {
    /// The other end has connected.
    Inbound(Box<tokio_rustls::server::TlsStream<TcpStream>>),
    /// This end has.
    Outbound(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

impl TlsStream {
    /// The names in the subjectAltName of the other end's certificate, in small letters: `email:` with an rfc822Name, `dns:` with
    /// a dNSName. Whether somebody vouches for them the facts of the handshake say. None where it has shown no certificate.
    #[must_use]
    pub fn peer_alternative_names(&self) -> Vec<String> {
        let certificates = match self {
            Self::Inbound(stream) => stream.get_ref().1.peer_certificates(),
            Self::Outbound(stream) => stream.get_ref().1.peer_certificates(),
        };
        certificates.and_then(<[_]>::first).map(alternative_names).unwrap_or_default()
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Inbound(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Outbound(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Inbound(stream) => Pin::new(stream).poll_write(context, octets),
            Self::Outbound(stream) => Pin::new(stream).poll_write(context, octets),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Inbound(stream) => Pin::new(stream).poll_flush(context),
            Self::Outbound(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Inbound(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Outbound(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
