//! The listening TCP sockets: opened and closed at QMGR's word, open in the supervisor as long as they are wanted, so
//! that a client which connects while `smtp-server` restarts waits in the backlog.
//!
//! Sockets that the service manager opened before this process began (socket activation) are used in the place of
//! ones of our own, and are never closed: the manager keeps its copy, and binding the port again would fail. One that
//! is bound to every address of its family serves the listeners of single addresses too; `smtp-server` tells them
//! apart by the address that the client has reached. Not here: who may be reached (the firewall, from
//! `listeners.json`).

use super::handover::{self, HandedListener, HandoverError};
use super::limits::LISTEN_BACKLOG;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use sternpost_link::supervisor::{FailedListener, ListeningSocket};

/// Listener and configured address.
type Key = (String, SocketAddr);

/// The set that is wanted, and what of it is open.
#[derive(Debug, Default)]
pub(crate) struct Listening {
    /// Opened by the service manager, whether somebody uses them or not.
    given: Vec<Given>,
    open: BTreeMap<Key, Open>,
    /// Wanted, but could not be opened; with what was said about it.
    failed: BTreeMap<Key, String>,
}

/// A socket that was open before this process began.
#[derive(Debug)]
struct Given {
    socket: Rc<TcpListener>,
    bound: SocketAddr,
}

#[derive(Debug)]
struct Open {
    socket: Rc<TcpListener>,
    /// Where this listener can be reached: of a given socket for all addresses, the listener's own.
    bound: SocketAddr,
    /// The one address that it serves of a socket for all addresses.
    only: Option<IpAddr>,
}

/// A socket for `smtp-server`.
#[derive(Debug)]
pub(crate) struct Served<'a> {
    pub(crate) listener: &'a str,
    /// The clients of this listener are those that have reached this address; none stands for all.
    pub(crate) only: Option<IpAddr>,
    pub(crate) descriptor: BorrowedFd<'a>,
}

/// What a process that shared a socket had done to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// It did not listen any more.
    Deaf,
    /// Whoever accepts on it would have waited with all its sessions.
    Blocking,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deaf => "it did not listen any more",
            Self::Blocking => "O_NONBLOCK was off",
        })
    }
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
    /// With the sockets that the service manager has opened, and what is wrong with those that cannot be used.
    pub(crate) fn with_given(sockets: Vec<OwnedFd>) -> (Self, Vec<String>) {
        let mut listening = Self::default();
        let mut refusals = Vec::new();
        for socket in sockets {
            match given(socket) {
                Ok(given) => listening.given.push(given),
                Err(why) => refusals.push(why),
            }
        }
        (listening, refusals)
    }

    /// With the sockets that a supervisor before this one has handed over.
    ///
    /// # Errors
    /// `Descriptor`.
    pub(super) fn taken_over(
        given_numbers: &[RawFd],
        listeners: &[HandedListener],
    ) -> Result<Self, HandoverError> {
        let mut sockets: BTreeMap<RawFd, Rc<TcpListener>> = BTreeMap::new();
        let opened = listeners.iter().filter_map(|listener| Some(listener.open?.0));
        for number in given_numbers.iter().copied().chain(opened) {
            // One socket may serve several listeners; its descriptor is taken once.
            if let Entry::Vacant(place) = sockets.entry(number) {
                place.insert(Rc::new(TcpListener::from(handover::descriptor(number)?)));
            }
        }
        let mut listening = Self::default();
        for number in given_numbers {
            let socket = Rc::clone(&sockets[number]);
            let bound = socket
                .local_addr()
                .map_err(|source| HandoverError::Descriptor { number: *number, source })?;
            listening.given.push(Given { socket, bound });
        }
        for HandedListener { listener, configured, open } in listeners {
            let key = (listener.clone(), *configured);
            match open {
                Some((number, bound, only)) => {
                    let socket = Rc::clone(&sockets[number]);
                    listening.open.insert(key, Open { socket, bound: *bound, only: *only });
                }
                None => drop(listening.failed.insert(key, String::new())),
            }
        }
        Ok(listening)
    }

    /// The numbers of the service manager's sockets, and every listener with that of its socket.
    pub(super) fn hand_over(&self) -> (Vec<RawFd>, Vec<HandedListener>) {
        let given = self.given.iter().map(|given| given.socket.as_raw_fd()).collect();
        let open = self.open.iter().map(|((listener, configured), open)| HandedListener {
            listener: listener.clone(),
            configured: *configured,
            open: Some((open.socket.as_raw_fd(), open.bound, open.only)),
        });
        let failed = self.failed.keys().map(|(listener, configured)| HandedListener {
            listener: listener.clone(),
            configured: *configured,
            open: None,
        });
        (given, open.chain(failed).collect())
    }

    /// Every socket, perhaps more than once.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let given = self.given.iter().map(|given| given.socket.as_fd());
        given.chain(self.open.values().map(|open| open.socket.as_fd()))
    }

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
            match self.given(key.1).map_or_else(|| open(key.1), Ok) {
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

    /// Has each socket work that does not any more: what a process that shares it does to it, it does for everybody. An own
    /// socket that does not listen is replaced, so that whoever holds the one before can do nothing more to it; one of the
    /// service manager, which keeps its copy, listens again. To be called before a process gets the sockets, on a tokio
    /// runtime. Gives the addresses concerned; what could not be mended has failed, and is tried again with a new socket.
    pub(crate) fn mend(&mut self) -> Vec<(SocketAddr, Broken)> {
        let mut mended = Vec::new();
        let given =
            self.given.iter().map(|given| (Rc::clone(&given.socket), given.bound)).collect::<Vec<_>>();
        let is_given = |socket: &Rc<TcpListener>| given.iter().any(|(given, _)| Rc::ptr_eq(given, socket));
        let own = self.open.values().filter(|open| !is_given(&open.socket));
        let own = own.map(|open| (Rc::clone(&open.socket), open.bound)).collect::<Vec<_>>();
        for (socket, bound) in given.iter().cloned().chain(own) {
            let result = if !listens(&socket) {
                mended.push((bound, Broken::Deaf));
                if is_given(&socket) { listen_again(&socket, bound) } else { self.replace(&socket, bound) }
            } else if !is_nonblocking(&socket) {
                mended.push((bound, Broken::Blocking));
                socket.set_nonblocking(true)
            } else {
                continue;
            };
            if let Err(error) = result {
                let broken = self.open.extract_if(.., |_, open| Rc::ptr_eq(&open.socket, &socket));
                let why =
                    |key: &Key| format!("{}: its socket was broken and cannot listen again: {error}", key.1);
                self.failed.extend(broken.map(|(key, _)| (key.clone(), why(&key))));
            }
        }
        mended
    }

    /// Puts a new socket into the place of one that nobody listens on.
    fn replace(&mut self, socket: &Rc<TcpListener>, bound: SocketAddr) -> io::Result<()> {
        let new = open(bound)?;
        for open in self.open.values_mut().filter(|open| Rc::ptr_eq(&open.socket, socket)) {
            open.socket = Rc::clone(&new.socket);
        }
        Ok(())
    }

    /// Whether something that is wanted is not open.
    pub(crate) fn has_failures(&self) -> bool {
        !self.failed.is_empty()
    }

    /// Whether no socket is open.
    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// What `smtp-server` is to serve. A descriptor comes once for each listener that shares it.
    pub(crate) fn served(&self) -> impl Iterator<Item = Served<'_>> {
        self.open.iter().map(|((listener, _), open)| Served {
            listener,
            only: open.only,
            descriptor: open.socket.as_fd(),
        })
    }

    /// The addresses of given sockets that no listener uses: nobody accepts there.
    pub(crate) fn unused(&self) -> impl Iterator<Item = SocketAddr> {
        let is_used = |given: &Given| self.open.values().any(|open| Rc::ptr_eq(&open.socket, &given.socket));
        self.given.iter().filter(move |given| !is_used(given)).map(|given| given.bound)
    }

    /// A given socket for an address: its own, or one for every address of its family.
    fn given(&self, address: SocketAddr) -> Option<Open> {
        let find = |wanted: IpAddr| {
            let wanted = SocketAddr::new(wanted, address.port());
            let is_it = |given: &&Given| given.bound == wanted && listens(&given.socket);
            self.given.iter().find(is_it).map(|given| Rc::clone(&given.socket))
        };
        if let Some(socket) = find(address.ip()) {
            return Some(Open { socket, bound: address, only: None });
        }
        let every = match address {
            SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        };
        Some(Open { socket: find(every)?, bound: address, only: Some(address.ip()) })
    }

    /// What is wanted and is not open, for operators.
    pub(crate) fn failed(&self) -> Vec<FailedListener> {
        let failed = |((listener, configured), why): (&Key, &String)| FailedListener {
            listener: listener.clone(),
            configured: *configured,
            why: why.clone(),
        };
        self.failed.iter().map(failed).collect()
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

/// What a person can do about an address that is none of this machine's.
pub(crate) const FOREIGN_ADDRESS: &str = "this machine does not have the address: correct the addresses of the listener, or give it to the machine (on a device: [network] of its bootstrap)";

/// What a person can do about it, as the end of a sentence.
fn what_to_do(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE or root".to_owned(),
        io::ErrorKind::AddrInUse => {
            "; another listener or program has the port (on a host: see ss -ltnp)".to_owned()
        }
        io::ErrorKind::AddrNotAvailable => format!("; {FOREIGN_ADDRESS}"),
        _ => String::new(),
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
    Ok(Open { bound: socket.local_addr()?, socket: Rc::new(socket), only: None })
}

/// Whether the kernel takes connections on it.
fn listens(socket: &TcpListener) -> bool {
    rustix::net::sockopt::socket_acceptconn(socket).unwrap_or(false)
}

/// Whether who accepts on it gets an answer at once. A client can go before it is accepted: `accept` would wait for the next.
fn is_nonblocking(socket: &TcpListener) -> bool {
    rustix::fs::fcntl_getfl(socket).is_ok_and(|flags| flags.contains(rustix::fs::OFlags::NONBLOCK))
}

/// Takes a socket out of whatever it was made to do, and has it listen where it did.
fn listen_again(socket: &TcpListener, bound: SocketAddr) -> io::Result<()> {
    rustix::net::connect_unspec(socket)?;
    // A port that the kernel had chosen is no longer this socket's; one that was asked for is, and cannot be had again.
    match rustix::net::bind(socket, &bound) {
        Err(rustix::io::Errno::INVAL) => {}
        result => result?,
    }
    rustix::net::listen(socket, i32::try_from(LISTEN_BACKLOG).unwrap_or(i32::MAX))?;
    socket.set_nonblocking(true)
}

/// # Errors
/// Why it is no socket for mail, in words.
fn given(socket: OwnedFd) -> Result<Given, String> {
    use rustix::net::sockopt;
    let wrong = |error: rustix::io::Errno| format!("a descriptor is no socket ({error})");
    let is_stream = sockopt::socket_type(&socket).map_err(wrong)? == rustix::net::SocketType::STREAM;
    if !is_stream || !sockopt::socket_acceptconn(&socket).map_err(wrong)? {
        return Err("a socket is none that listens for TCP connections".to_owned());
    }
    let socket = TcpListener::from(socket);
    let bound = socket.local_addr().map_err(|error| format!("a socket has no internet address ({error})"))?;
    if bound.is_ipv6() && !sockopt::ipv6_v6only(&socket).unwrap_or(false) {
        return Err(format!("{bound} takes IPv4 too; set BindIPv6Only=ipv6-only in the socket unit"));
    }
    socket.set_nonblocking(true).map_err(|error| format!("{bound} cannot be used ({error})"))?;
    Ok(Given { socket: Rc::new(socket), bound })
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
        let six = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
        let change = listening.set(vec![("in".into(), "0.0.0.0:0".parse().unwrap()), ("in".into(), six)]);
        assert_eq!(change, Change { changed: true, failures: vec![] });
    }

    #[test]
    fn a_port_that_needs_a_privilege_is_reported_with_the_privilege() {
        let said = what_to_do(&io::Error::from(io::ErrorKind::PermissionDenied));
        assert!(said.contains("CAP_NET_BIND_SERVICE"), "{said}");
        assert_eq!(what_to_do(&io::Error::from(io::ErrorKind::OutOfMemory)), "");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_address_that_the_machine_does_not_have_is_said_to_be_so() {
        let mut listening = Listening::default();
        // RFC 5737: nobody's.
        let change = listening.set(vec![("in".into(), "192.0.2.99:0".parse().unwrap())]);
        assert!(change.failures[0].1.contains("this machine does not have the address"), "{change:?}");
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
        assert!(change.failures[0].1.ends_with("has the port (on a host: see ss -ltnp)"), "{change:?}");
        assert_eq!(listening.retry(), Change::default());
        drop(other);
        assert!(listening.retry().changed && !listening.has_failures());
        assert_eq!(listening.served().count(), 2);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_socket_that_a_process_has_broken_listens_again_where_it_did() {
        let given = TcpListener::bind(any_port()).unwrap();
        let (mut listening, refusals) = Listening::with_given(vec![given.try_clone().unwrap().into()]);
        assert!(refusals.is_empty());
        listening.set(vec![("given".into(), given.local_addr().unwrap()), ("own".into(), any_port())]);
        let places: Vec<_> = listening.report().iter().map(|socket| socket.bound).collect();
        assert_eq!(listening.mend(), []);
        let elsewhere = TcpListener::bind(any_port()).unwrap().local_addr().unwrap();
        for connect_out in [false, true] {
            for served in listening.served() {
                rustix::net::shutdown(served.descriptor, rustix::net::Shutdown::Read).unwrap();
                if connect_out {
                    // Nobody listens there: what counts is that the socket was used.
                    let _ = rustix::net::connect(served.descriptor, &elsewhere);
                }
            }
            assert!(places.iter().all(|place| std::net::TcpStream::connect(place).is_err()));
            assert_eq!(listening.mend().len(), 2);
            assert_eq!(listening.report().iter().map(|socket| socket.bound).collect::<Vec<_>>(), places);
            assert!(places.iter().all(|place| std::net::TcpStream::connect(place).is_ok()));
            assert!(!listening.has_failures());
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn who_holds_a_socket_that_was_broken_can_do_nothing_to_the_one_in_its_place() {
        // A port that was asked for, as 25 is: one that the kernel had chosen would not be kept by a socket that was shut down.
        let bound = TcpListener::bind(any_port()).unwrap().local_addr().unwrap();
        let mut listening = Listening::default();
        listening.set(vec![("own".into(), bound)]);
        let held = listening.served().next().unwrap().descriptor.try_clone_to_owned().unwrap();
        rustix::net::shutdown(&held, rustix::net::Shutdown::Read).unwrap();
        assert_eq!(listening.mend(), [(bound, Broken::Deaf)]);
        // Once more, by the one that was kept; nor can it listen in the place of the new one.
        assert!(rustix::net::listen(&held, 1).is_err());
        rustix::net::shutdown(&held, rustix::net::Shutdown::Read).ok();
        std::net::TcpStream::connect(bound).unwrap();
        assert_eq!(listening.mend(), []);
        assert!(!listening.has_failures() && listening.report()[0].bound == bound);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_socket_on_which_who_accepts_would_wait_is_found_and_set_right() {
        let given = TcpListener::bind(any_port()).unwrap();
        let (mut listening, _) = Listening::with_given(vec![given.try_clone().unwrap().into()]);
        listening.set(vec![("given".into(), given.local_addr().unwrap()), ("own".into(), any_port())]);
        assert_eq!(listening.mend(), [], "the service manager's sockets are set right when they come");
        for served in listening.served() {
            TcpListener::from(served.descriptor.try_clone_to_owned().unwrap())
                .set_nonblocking(false)
                .unwrap();
        }
        let mended = listening.mend();
        assert!(mended.len() == 2 && mended.iter().all(|(_, what)| *what == Broken::Blocking), "{mended:?}");
        assert_eq!(listening.mend(), []);
        assert!(given.accept().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock));
    }

    fn listening_with(address: &str) -> (Listening, u16) {
        let socket = TcpListener::bind(address).unwrap();
        let port = socket.local_addr().unwrap().port();
        let (listening, refusals) = Listening::with_given(vec![socket.into()]);
        assert!(refusals.is_empty(), "{refusals:?}");
        (listening, port)
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_given_socket_is_used_in_the_place_of_an_own_one_and_outlives_its_listener() {
        let (mut listening, port) = listening_with("127.0.0.1:0");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        assert_eq!(listening.unused().collect::<Vec<_>>(), [address]);
        assert!(listening.set(vec![("in".into(), address)]).changed && !listening.has_failures());
        assert_eq!(listening.unused().count(), 0);
        assert!(listening.set(Vec::new()).changed && listening.is_empty());
        assert_eq!(listening.unused().collect::<Vec<_>>(), [address]);
        std::net::TcpStream::connect(address).unwrap();
        assert!(listening.set(vec![("again".into(), address)]).changed && !listening.has_failures());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_given_socket_for_every_address_serves_the_listeners_of_single_ones() {
        let (mut listening, port) = listening_with("0.0.0.0:0");
        let at = |last| SocketAddr::from(([127, 0, 0, last], port));
        let change = listening.set(vec![("inside".into(), at(1)), ("outside".into(), at(2))]);
        assert_eq!(change, Change { changed: true, failures: vec![] });
        let only: Vec<_> = listening.served().map(|served| (served.listener, served.only)).collect();
        assert_eq!(only, [("inside", Some(at(1).ip())), ("outside", Some(at(2).ip()))]);
        let bound: Vec<_> = listening.report().iter().map(|socket| socket.bound).collect();
        assert_eq!(bound, [at(1), at(2)]);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_is_no_listening_socket_is_refused_in_words() {
        let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let both_families = TcpListener::bind("[::]:0").unwrap();
        let (listening, refusals) =
            Listening::with_given(vec![datagrams.into(), file.into(), both_families.into()]);
        assert_eq!(listening.unused().count(), 0);
        assert_eq!(refusals.len(), 3, "{refusals:?}");
        assert!(refusals[2].contains("BindIPv6Only"), "{refusals:?}");
    }
}
