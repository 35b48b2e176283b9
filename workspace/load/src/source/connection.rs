//! The client's end of one connection: replies come out, commands are gathered until they are flushed.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::stream::Stream;
use crate::wire::line;

/// Octets of one reply; a server that says more is broken.
const REPLY_OCTETS_MAX: usize = 64 * 1024;

/// A reply, its lines put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) code: u16,
    pub(super) text: String,
}

impl Reply {
    pub(super) fn accepts(&self) -> bool {
        (200..300).contains(&self.code)
    }

    pub(super) fn is_transient(&self) -> bool {
        (400..500).contains(&self.code)
    }
}

/// Why a connection ended before its time.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error("no connection")]
    Connect(#[source] std::io::Error),
    #[error("no TLS")]
    Handshake(#[source] std::io::Error),
    #[error("the connection broke")]
    Broken(#[source] std::io::Error),
    #[error("the server closed the connection")]
    Closed,
    #[error("no answer in time")]
    TimedOut,
    #[error("the server does not speak SMTP")]
    Nonsense,
    #[error("the server does not want to talk ({})", .0.code)]
    Unwilling(Reply),
}

#[derive(Debug)]
pub(super) struct Connection {
    stream: Stream,
    to: IpAddr,
    input: Vec<u8>,
    input_used: usize,
    output: Vec<u8>,
    limit: Duration,
}

impl Connection {
    pub(super) async fn open(to: SocketAddr, limit: Duration) -> Result<Self, ConnectionError> {
        let stream = timeout(limit, TcpStream::connect(to)).await;
        let stream = stream.map_err(|_| ConnectionError::TimedOut)?.map_err(ConnectionError::Connect)?;
        stream.set_nodelay(true).map_err(ConnectionError::Connect)?;
        let stream = Stream::Clear(stream);
        let input = Vec::with_capacity(4096);
        Ok(Self { stream, to: to.ip(), input, input_used: 0, output: Vec::new(), limit })
    }

    /// The handshake. What came before it in the clear is not for the session behind it (RFC 3207, 4.2).
    pub(super) async fn secure(&mut self) -> Result<(), ConnectionError> {
        if self.input_used < self.input.len() {
            return Err(ConnectionError::Nonsense);
        }
        let done = timeout(self.limit, self.stream.connect(self.to)).await;
        done.map_err(|_| ConnectionError::TimedOut)?.map_err(ConnectionError::Handshake)?;
        Ok(())
    }

    /// Puts octets behind those that wait.
    pub(super) fn put(&mut self, octets: &[u8]) {
        self.output.extend_from_slice(octets);
    }

    /// Sends what waits.
    pub(super) async fn flush(&mut self) -> Result<(), ConnectionError> {
        let sending = async {
            self.stream.write_all(&self.output).await?;
            self.stream.flush().await
        };
        let sent = timeout(self.limit, sending).await;
        sent.map_err(|_| ConnectionError::TimedOut)?.map_err(ConnectionError::Broken)?;
        self.output.clear();
        // A message of 1 MiB shall not keep its room on each of many idle sessions.
        self.output.shrink_to(256 * 1024);
        Ok(())
    }

    /// Sends what waits, then reads one reply.
    pub(super) async fn reply(&mut self) -> Result<Reply, ConnectionError> {
        if !self.output.is_empty() {
            self.flush().await?;
        }
        let mut text = String::new();
        loop {
            while let Some((line, octets_count)) = line(&self.input[self.input_used..]) {
                let line = String::from_utf8_lossy(line).into_owned();
                self.input_used += octets_count;
                let code =
                    line.get(..3).and_then(|code| code.parse().ok()).ok_or(ConnectionError::Nonsense)?;
                if !text.is_empty() {
                    text.push('\n');
                }
                text.push_str(line.get(4..).unwrap_or(""));
                if line.as_bytes().get(3) != Some(&b'-') {
                    return Ok(Reply { code, text });
                }
                if text.len() > REPLY_OCTETS_MAX {
                    return Err(ConnectionError::Nonsense);
                }
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Result<(), ConnectionError> {
        self.input.drain(..self.input_used);
        self.input_used = 0;
        if self.input.len() > REPLY_OCTETS_MAX {
            return Err(ConnectionError::Nonsense);
        }
        let count = timeout(self.limit, self.stream.read_buf(&mut self.input)).await;
        match count.map_err(|_| ConnectionError::TimedOut)?.map_err(ConnectionError::Broken)? {
            0 => Err(ConnectionError::Closed),
            _ => Ok(()),
        }
    }
}
