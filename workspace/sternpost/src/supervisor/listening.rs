//! The listening TCP sockets: opened and closed at QMGR's word, open in the supervisor as long as they are wanted, so
//! that a client which connects while `smtp-server` restarts waits in the backlog.

use super::limits::LISTEN_BACKLOG;
use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use sternpost_link::supervisor::ListeningSocket;

/// Listener and configured address.
type Key = (String, SocketAddr);

/// The set that is wanted, and what of it is open.
#[derive(Debug, Default)]
pub(crate) struct Listening {
    open: BTreeMap<Key, Open>,
    /// Wanted, but could not be opened; with what was said about it.
    failed: BTreeMap<Key, String>,
}

#[derive(Debug)]
struct Open {
    socket: TcpListener,
    bound: SocketAddr,
}

/// What an attempt did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    /// Whether other sockets are open than before.
    pub(crate) changed: bool,
    /// Listeners that could not be opened and why; those of which the same was said before are left out.
    pub(crate) failures: Vec<(String, String)>,
}

impl Listening {
    /// Opens what is wanted and not open, closes what is open and not wanted. Called on a tokio runtime.
    pub(crate) fn set(&mut self, wanted: Vec<Key>) -> Change {
        let open_count = self.open.len();
        // Closing comes first: a wider address may take the place of a narrower one with the same port.
        self.open.retain(|key, _| wanted.contains(key));
        let mut change = Change { changed: self.open.len() != open_count, failures: Vec::new() };
        let old_failures = std::mem::take(&mut self.failed);
        for key in wanted {
            if self.open.contains_key(&key) {
                continue;
            }
            match open(key.1) {
                Ok(socket) => {
                    change.changed = true;
                    self.open.insert(key, socket);
                }
                Err(error) => {
                    let why = format!("{}: {error}{}", key.1, what_to_do(&error));
                    if old_failures.get(&key) != Some(&why) {
                        change.failures.push((key.0.clone(), why.clone()));
                    }
                    self.failed.insert(key, why);
                }
            }
        }
        change
    }

    /// Tries again what could not be opened.
    pub(crate) fn retry(&mut self) -> Change {
        self.set(self.open.keys().chain(self.failed.keys()).cloned().collect())
    }

    /// Whether something that is wanted is not open.
    pub(crate) fn has_failures(&self) -> bool {
        !self.failed.is_empty()
    }

    /// Whether no socket is open.
    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// The listeners' names and descriptors.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = (&str, BorrowedFd<'_>)> {
        self.open.iter().map(|((listener, _), open)| (listener.as_str(), open.socket.as_fd()))
    }

    /// What is open, for QMGR and operators.
    pub(crate) fn report(&self) -> Vec<ListeningSocket> {
        let socket = |((listener, configured), open): (&Key, &Open)| ListeningSocket {
            listener: listener.clone(),
            configured: *configured,
            bound: open.bound,
        };
        self.open.iter().map(socket).collect()
    }
}

/// What a person can do about it, as the end of a sentence.
fn what_to_do(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE or root",
        io::ErrorKind::AddrInUse => "; another program listens there, see ss -ltnp",
        _ => "",
    }
}

fn open(address: SocketAddr) -> io::Result<Open> {
    let socket = match address {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
        SocketAddr::V6(_) => {
            // `[::]:25` stands for IPv6 alone, so that `0.0.0.0:25` may stand beside it.
            let socket = tokio::net::TcpSocket::new_v6()?;
            rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
            socket
        }
    };
    // Connections of an earlier run that are still dying do not keep the port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let socket = socket.listen(LISTEN_BACKLOG)?.into_std()?;
    Ok(Open { bound: socket.local_addr()?, socket })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any_port() -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_socket_that_stays_wanted_stays_open_and_keeps_its_port() {
        let mut listening = Listening::default();
        assert!(listening.set(vec![("in".into(), any_port())]).changed);
        let bound = listening.report()[0].bound;
        assert_ne!(bound.port(), 0);
        let change = listening.set(vec![("in".into(), any_port()), ("second".into(), any_port())]);
        assert_eq!(change, Change { changed: true, failures: vec![] });
        assert_eq!(listening.report()[0].bound, bound);
        assert!(!listening.set(vec![("second".into(), any_port()), ("in".into(), any_port())]).changed);
        std::net::TcpStream::connect(bound).unwrap();
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_socket_that_is_not_wanted_any_more_is_closed() {
        let mut listening = Listening::default();
        listening.set(vec![("in".into(), any_port())]);
        let bound = listening.report()[0].bound;
        assert!(listening.set(Vec::new()).changed && listening.is_empty());
        assert!(std::net::TcpStream::connect(bound).is_err());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn every_address_of_both_families_can_be_listened_on_with_one_port() {
        let mut listening = Listening::default();
        listening.set(vec![("in".into(), "0.0.0.0:0".parse().unwrap())]);
        let port = listening.report()[0].bound.port();
        let six = SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), port);
        let change = listening.set(vec![("in".into(), "0.0.0.0:0".parse().unwrap()), ("in".into(), six)]);
        assert_eq!(change, Change { changed: true, failures: vec![] });
    }

    #[test]
    fn a_port_that_needs_a_privilege_is_reported_with_the_privilege() {
        let said = what_to_do(&io::Error::from(io::ErrorKind::PermissionDenied));
        assert!(said.contains("CAP_NET_BIND_SERVICE"), "{said}");
        assert_eq!(what_to_do(&io::Error::from(io::ErrorKind::AddrNotAvailable)), "");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_port_in_use_is_reported_once_and_opened_when_it_is_free() {
        let other = TcpListener::bind(any_port()).unwrap();
        let taken = other.local_addr().unwrap();
        let mut listening = Listening::default();
        let change = listening.set(vec![("in".into(), taken), ("free".into(), any_port())]);
        assert!(change.changed && listening.has_failures());
        assert_eq!(change.failures.len(), 1);
        assert!(change.failures[0].1.starts_with(&taken.to_string()), "{change:?}");
        assert!(change.failures[0].1.ends_with("another program listens there, see ss -ltnp"), "{change:?}");
        assert_eq!(listening.retry(), Change::default());
        drop(other);
        assert!(listening.retry().changed && !listening.has_failures());
        assert_eq!(listening.descriptors().count(), 2);
    }
}
