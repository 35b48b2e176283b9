//! A connection of a source, a sink or a dialogue: in the clear, or inside TLS.
//!
//! Nobody is verified here: source and sink know who the other one is. A client makes its configuration for each connection, so that
//! no session of TLS is resumed and every handshake is a whole one.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use sternpost_message::TlsFacts;
use sternpost_tls::{Authentication, Outbound, ServerName, TlsStream, VersionMin};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The name in a certificate that is made here.
const NAME: &str = "sink.load.test";

/// A connection.
#[derive(Debug)]
pub(crate) enum Stream {
    /// As it was made.
    Clear(TcpStream),
    /// Behind its handshake.
    Tls(TlsStream),
    /// Closed, or spoilt by a handshake.
    Gone,
}

impl Stream {
    /// The handshake as a client.
    ///
    /// # Errors
    /// `NotConnected` when the connection is not in the clear, and those of the handshake.
    pub(crate) async fn connect(&mut self, to: IpAddr) -> io::Result<TlsFacts> {
        let stream = self.take_clear()?;
        let name = ServerName::IpAddress(to.into());
        let outbound = Outbound::new(name, Authentication::Anybody, VersionMin::Tls12, None);
        let (stream, facts) = outbound.map_err(io::Error::other)?.connect(stream).await?;
        *self = Self::Tls(stream);
        Ok(facts)
    }

    /// The handshake as a server.
    ///
    /// # Errors
    /// As [`Stream::connect`].
    pub(crate) async fn accept(&mut self, config: &Arc<ServerConfig>) -> io::Result<()> {
        let stream = self.take_clear()?;
        let stream = TlsAcceptor::from(Arc::clone(config)).accept(stream).await?;
        *self = Self::Tls(TlsStream::Inbound(Box::new(stream)));
        Ok(())
    }

    fn take_clear(&mut self) -> io::Result<TcpStream> {
        match std::mem::replace(self, Self::Gone) {
            Self::Clear(stream) => Ok(stream),
            Self::Tls(_) | Self::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

/// A certificate that signs itself and its key, for a sink.
///
/// # Errors
/// Those of the libraries, which have none for this name.
pub(crate) fn server_config() -> io::Result<Arc<ServerConfig>> {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).map_err(io::Error::other)?;
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let chain = vec![CertificateDer::from(made.cert)];
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(io::Error::other)?;
    let config = builder.with_no_client_auth().with_single_cert(chain, key).map_err(io::Error::other)?;
    Ok(Arc::new(config))
}

/// The same as text, for a switch.
///
/// # Errors
/// Those of the library, which has none for this name.
pub fn credential() -> io::Result<String> {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).map_err(io::Error::other)?;
    Ok(made.cert.pem() + &made.signing_key.serialize_pem())
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Gone => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Clear(stream) => Pin::new(stream).poll_write(context, octets),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, octets),
            Self::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
            Self::Gone => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Gone => Poll::Ready(Ok(())),
        }
    }
}
