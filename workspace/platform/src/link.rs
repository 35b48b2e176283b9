//! A link: one `SOCK_SEQPACKET` socket to another process of the switch, driven by tokio on one thread.
//!
//! Frames are pushed from anywhere and sent by the link's own flusher task, whose turn comes behind the tasks that were ready with
//! the one that pushed: what these produce travels in one datagram. Not here: what frames mean (`sternpost-link` and the roles).

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use serde::Serialize;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};
use sternpost_link::{DATAGRAM_OCTETS_MAX, DatagramError, FrameError, Outbox};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

/// Connections that wait while the listening process restarts or is busy.
const BACKLOG: i32 = 128;
/// What the datagrams of one link may cost before the others have their turn. An honest datagram takes microseconds; a socket
/// that never empties keeps a turn for as long as the event loop's own budget lasts, and that counts datagrams, not time.
const TURN_MAX: Duration = Duration::from_millis(1);

/// Opens a listening socket at `path`; a socket file that an earlier run left there is replaced.
///
/// # Errors
/// Those of `socket`, `bind` and `listen`; a path of more than 107 octets is refused by the kernel.
pub fn listen(path: &Path) -> io::Result<OwnedFd> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = seqpacket()?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Connects to the socket at `path`.
///
/// # Errors
/// `NotFound` or `ConnectionRefused` while nobody listens there, `WouldBlock` while as many connections wait as may.
pub fn connect(path: &Path) -> io::Result<OwnedFd> {
    let socket = seqpacket()?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Connects to the socket at `path`, and while as many connections wait there as may, waits its turn; the thread
/// sleeps meanwhile.
///
/// # Errors
/// Those of [`connect`]; `WouldBlock` says that `patience` has passed.
pub fn connect_patiently(path: &Path, patience: Duration) -> io::Result<OwnedFd> {
    let socket = seqpacket()?;
    rustix::io::ioctl_fionbio(&socket, false)?;
    // The time a connection may wait for its turn is that of sending: unix(7), socket(7) SO_SNDTIMEO.
    set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    set_socket_timeout(&socket, Timeout::Send, None)?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    Ok(socket)
}

fn seqpacket() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?)
}

fn watch(socket: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names the same open descriptor for as long as it lives, and `AsyncFd` owns it.
    Ok(unsafe { AsyncFd::register_with_interest(socket, interest) }?)
}

/// A descriptor that becomes readable when something has happened elsewhere, and that somebody else reads.
#[derive(Debug)]
pub struct Readiness(AsyncFd<OwnedFd>);

impl Readiness {
    /// # Errors
    /// When the descriptor cannot be watched.
    pub fn new(descriptor: OwnedFd) -> io::Result<Self> {
        watch(descriptor, Interest::READABLE).map(Self)
    }

    /// Waits until it has become readable again since the last call.
    ///
    /// # Errors
    /// When the event loop has ended.
    pub async fn changed(&self) -> io::Result<()> {
        self.0.readable().await?.clear_ready();
        Ok(())
    }
}

/// A listening socket under tokio.
#[derive(Debug)]
pub struct Listener(AsyncFd<OwnedFd>);

impl Listener {
    /// Takes over a listening socket, for example an inherited one.
    ///
    /// # Errors
    /// When the descriptor cannot be watched.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self(watch(socket, Interest::READABLE)?))
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    /// Those of `accept` that are not passing.
    pub async fn accept(&self) -> io::Result<OwnedFd> {
        loop {
            let mut guard = self.0.readable().await?;
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match guard.try_io(|socket| Ok(rustix::net::accept_with(socket.get_ref(), flags)?)) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }
}

/// One datagram, in the buffer that was given, and the descriptor that came with it.
#[derive(Debug)]
pub struct Received {
    /// Octets of the buffer that it fills.
    pub octets: usize,
    /// The descriptor, if one came.
    pub attached: Option<OwnedFd>,
}

/// Who is at the other end of a link: whoever connected it (SO_PEERCRED).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its user.
    pub uid: u32,
    /// Its process id; 0 for a process that this one's namespace does not show.
    pub pid: u32,
}

/// How a link ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkEnd {
    /// The other end closed it.
    #[error("the other end closed the link")]
    Closed,
    /// The other end sent something that is not of this protocol.
    #[error("the other end broke the protocol")]
    Nonsense(#[source] DatagramError),
    /// The socket failed.
    #[error("the link failed")]
    Failed(#[source] io::Error),
}

/// One end of a link.
#[derive(Debug)]
pub struct Link {
    socket: AsyncFd<OwnedFd>,
    out: RefCell<Out>,
    wake: Notify,
    closed: Cell<bool>,
    /// Nobody reads at the other end any more. What it has sent before is still to be read here.
    deaf: Cell<bool>,
}

#[derive(Debug, Default)]
struct Out {
    outbox: Outbox,
    attached: VecDeque<Attached>,
    /// Octets that they hold.
    attached_octets: usize,
}

/// A descriptor that waits, with the number of the datagram that carries it.
#[derive(Debug)]
struct Attached {
    carrier: u64,
    descriptor: OwnedFd,
    /// Octets that it holds for this one datagram.
    octets: usize,
}

impl Out {
    fn clear(&mut self) {
        self.outbox.clear();
        self.attached.clear();
        self.attached_octets = 0;
    }
}

impl Link {
    /// Takes over a connected socket and starts its flusher on the current thread's `LocalSet`.
    ///
    /// # Errors
    /// When the descriptor cannot be watched.
    pub fn new(socket: OwnedFd) -> io::Result<Rc<Self>> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        let link = Rc::new(Self {
            socket: watch(socket, Interest::READABLE)?,
            out: RefCell::default(),
            wake: Notify::new(),
            closed: Cell::new(false),
            deaf: Cell::new(false),
        });
        tokio::task::spawn_local(Self::flush_forever(Rc::downgrade(&link)));
        Ok(link)
    }

    /// Queues one frame. On a link that has ended it is dropped: the reader sees the end.
    ///
    /// # Errors
    /// `TooLarge`: nothing was queued.
    pub fn push<F: Serialize>(&self, frame: &F) -> Result<(), FrameError> {
        if self.takes() {
            self.out.borrow_mut().outbox.push(frame)?;
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Queues a frame that was encoded before.
    pub fn push_encoded(&self, frame: &[u8]) {
        if self.takes() {
            self.out.borrow_mut().outbox.push_encoded(frame);
            self.wake.notify_one();
        }
    }

    /// Queues one frame in a datagram of its own, with a descriptor.
    ///
    /// # Errors
    /// `TooLarge`: nothing was queued.
    pub fn push_with<F: Serialize>(&self, frame: &F, attached: OwnedFd) -> Result<(), FrameError> {
        self.push_holding(frame, attached, 0)
    }

    /// The same; the descriptor holds so many octets until it is sent.
    pub(crate) fn push_holding<F: Serialize>(
        &self,
        frame: &F,
        descriptor: OwnedFd,
        octets: usize,
    ) -> Result<(), FrameError> {
        if self.takes() {
            let mut out = self.out.borrow_mut();
            out.outbox.seal();
            out.outbox.push(frame)?;
            out.outbox.seal();
            let carrier = out.outbox.sealed_count();
            out.attached.push_back(Attached { carrier, descriptor, octets });
            out.attached_octets += octets;
            self.wake.notify_one();
        }
        Ok(())
    }

    fn takes(&self) -> bool {
        !self.closed.get() && !self.deaf.get()
    }

    /// Who is at the other end, as the kernel has noted it when the link was made.
    ///
    /// # Errors
    /// Those of `getsockopt`.
    pub fn peer(&self) -> io::Result<Peer> {
        peer(self.socket.get_ref().as_fd())
    }

    /// Octets that wait to be sent, with those in sealed memory.
    #[must_use]
    pub fn unsent_octets(&self) -> usize {
        let out = self.out.borrow();
        out.outbox.octets() + out.attached_octets
    }

    /// Receives the next datagram into `buffer`, which holds [`DATAGRAM_OCTETS_MAX`] octets. Everything that the other
    /// end had sent before it ended comes before the end does.
    ///
    /// # Errors
    /// `UnexpectedEof` when the other end has closed the link; `InvalidData` when a datagram was cut.
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        debug_assert!(buffer.len() >= DATAGRAM_OCTETS_MAX, "a datagram fits its buffer");
        loop {
            if self.closed.get() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let mut guard = self.socket.readable().await?;
            match guard.try_io(|socket| receive(socket.get_ref().as_fd(), buffer)) {
                Ok(Ok(received)) if received.octets == 0 => {
                    self.close();
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                // A process that ends without having read everything resets its links. The kernel says so once, before
                // it gives what that process had sent.
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => {}
                Ok(Err(error)) => {
                    self.close();
                    return Err(error);
                }
                Ok(Ok(received)) => return Ok(received),
                Err(_would_block) => {}
            }
        }
    }

    /// Hands every datagram to `take` until the link ends, and says how it ended: the other end closed it, a datagram
    /// made no sense, or `take` wants no more.
    pub async fn read_until_end(
        &self,
        mut take: impl FnMut(&[u8], Option<OwnedFd>) -> Result<(), DatagramError>,
    ) -> LinkEnd {
        self.read_in_turns(|datagram, attached| take(datagram, attached).map(|()| false), async || {}).await
    }

    /// The same; where `take` says so, and when its turn has lasted a millisecond, `between` has to come to its end before the next
    /// datagram is read.
    pub async fn read_in_turns(
        &self,
        mut take: impl FnMut(&[u8], Option<OwnedFd>) -> Result<bool, DatagramError>,
        mut between: impl AsyncFnMut(),
    ) -> LinkEnd {
        let mut buffer = vec![0; DATAGRAM_OCTETS_MAX];
        let mut turn_began = None;
        loop {
            let received = {
                let mut receiving = pin!(self.receive(&mut buffer));
                poll_fn(|context| {
                    let polled = receiving.as_mut().poll(context);
                    if polled.is_pending() {
                        // The others have their turn.
                        turn_began = None;
                    }
                    polled
                })
                .await
            };
            let began = *turn_began.get_or_insert_with(Instant::now);
            match received {
                Ok(received) => match take(&buffer[..received.octets], received.attached) {
                    Ok(false) if began.elapsed() < TURN_MAX => {}
                    Ok(_) => {
                        turn_began = None;
                        between().await;
                    }
                    Err(error) => {
                        self.close();
                        return LinkEnd::Nonsense(error);
                    }
                },
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return LinkEnd::Closed,
                Err(error) => return LinkEnd::Failed(error),
            }
        }
    }

    /// Ends the link: the other end sees it, and nothing more is sent.
    pub fn close(&self) {
        self.closed.set(true);
        let _ = rustix::net::shutdown(self.socket.get_ref(), rustix::net::Shutdown::Both);
        self.out.borrow_mut().clear();
        self.wake.notify_one();
    }

    /// Waits until everything that was pushed has been sent, or the link is closed.
    pub async fn flushed(&self) {
        while !self.closed.get() && !self.out.borrow().outbox.is_empty() {
            self.wake.notify_one();
            tokio::task::yield_now().await;
            if !self.out.borrow().outbox.is_empty() && self.writable().await.is_err() {
                return;
            }
        }
    }

    async fn flush_forever(link: std::rc::Weak<Self>) {
        loop {
            let Some(strong) = link.upgrade() else { return };
            if strong.closed.get() {
                return;
            }
            match strong.flush().await {
                Ok(()) => {}
                // The other end has gone, and its last words may still lie in the socket: the reader finds the end.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
                {
                    strong.deaf.set(true);
                    strong.out.borrow_mut().clear();
                    return;
                }
                Err(_) => return strong.close(),
            }
            strong.wake.notified().await;
        }
    }

    async fn flush(&self) -> io::Result<()> {
        loop {
            match self.flush_now() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable().await?,
                other => return other,
            }
        }
    }

    /// Sends as much of what is queued as the socket takes, without waiting for a turn of the event loop.
    pub fn send_now(&self) {
        // What hinders it is found again in the link's own turn, which knows what to make of it.
        let _ = self.flush_now();
    }

    /// Waits until the socket takes something. Only then is it watched for that: else each datagram that the other end reads
    /// would wake this one.
    async fn writable(&self) -> io::Result<()> {
        let socket = watch(self.socket.get_ref().try_clone()?, Interest::WRITABLE)?;
        socket.writable().await?.retain_ready();
        Ok(())
    }

    fn flush_now(&self) -> io::Result<()> {
        let mut out = self.out.borrow_mut();
        let Out { outbox, attached, attached_octets } = &mut *out;
        loop {
            let number = outbox.front_number();
            let Some(datagram) = outbox.front() else { return Ok(()) };
            let descriptor = attached
                .front()
                .filter(|waits| waits.carrier == number)
                .map(|waits| waits.descriptor.as_fd());
            send(self.socket.get_ref().as_fd(), datagram, descriptor)?;
            if let Some(sent) = attached.pop_front_if(|waits| waits.carrier == number) {
                *attached_octets -= sent.octets;
            }
            outbox.pop();
        }
    }
}

fn send(socket: BorrowedFd<'_>, datagram: &[u8], attached: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let Some(attached) = attached else {
        rustix::net::send(socket, datagram, SendFlags::NOSIGNAL)?;
        return Ok(());
    };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [attached];
    let fits = ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    debug_assert!(fits, "the space was made for one descriptor");
    rustix::net::sendmsg(socket, &[IoSlice::new(datagram)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Who is at the other end of a socket: who connected it, or, for whoever did, the process that listens.
///
/// # Errors
/// Those of `getsockopt`.
pub fn peer(socket: BorrowedFd<'_>) -> io::Result<Peer> {
    let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let size = size_of::<libc::ucred>();
    let mut octets = libc::socklen_t::try_from(size).expect("twelve octets");
    // Not by rustix, whose process ids are never 0, as that of a peer in another namespace is.
    // SAFETY: the kernel writes at most `octets` octets to `credentials`, which has that size and lives until the call
    // returns; every pattern of its three numbers is valid.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            std::ptr::from_mut(&mut credentials).cast(),
            &raw mut octets,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if usize::try_from(octets) != Ok(size) {
        return Err(io::Error::other("the socket has no credentials"));
    }
    Ok(Peer { uid: credentials.uid, pid: u32::try_from(credentials.pid).unwrap_or(0) })
}

fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(buffer)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    if message.flags.intersects(rustix::net::ReturnFlags::TRUNC | rustix::net::ReturnFlags::CTRUNC) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a datagram that was cut, or that lost its descriptor",
        ));
    }
    let attached = ancillary
        .drain()
        .find_map(|part| if let RecvAncillaryMessage::ScmRights(mut fds) = part { fds.next() } else { None });
    Ok(Received { octets: message.bytes, attached })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sternpost_link::Frames;

    #[tokio::test(flavor = "current_thread")]
    async fn frames_and_descriptors_arrive_in_order() {
        tokio::task::LocalSet::new()
            .run_until(async {
                let folder = tempfile::tempdir().unwrap();
                let path = folder.path().join("s");
                let listener = Listener::new(listen(&path).unwrap()).unwrap();
                let here = Link::new(connect(&path).unwrap()).unwrap();
                let there = Link::new(listener.accept().await.unwrap()).unwrap();
                here.push(&1_u32).unwrap();
                here.push(&2_u32).unwrap();
                here.push_with(&3_u32, crate::memory::seal(b"words").unwrap()).unwrap();
                here.push(&4_u32).unwrap();
                let mut buffer = vec![0; DATAGRAM_OCTETS_MAX];
                let mut seen = Vec::new();
                while seen.len() < 4 {
                    let received = there.receive(&mut buffer).await.unwrap();
                    let mut frames = Frames::open(&buffer[..received.octets]).unwrap();
                    while let Some(number) = frames.next_frame::<u32>().unwrap() {
                        seen.push((number, received.attached.is_some()));
                    }
                }
                assert_eq!(seen, [(1, false), (2, false), (3, true), (4, false)]);
                here.close();
                let end = there.receive(&mut buffer).await.unwrap_err();
                assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
            })
            .await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_waits_in_sealed_memory_counts_until_it_is_sent() {
        tokio::task::LocalSet::new()
            .run_until(async {
                let folder = tempfile::tempdir().unwrap();
                let path = folder.path().join("s");
                let listener = Listener::new(listen(&path).unwrap()).unwrap();
                let here = Link::new(connect(&path).unwrap()).unwrap();
                let _there = listener.accept().await.unwrap();
                for closes in [false, true] {
                    crate::wire::Wire::push_sealed(&*here, &1_u32, &[7; 100_000]).unwrap();
                    assert!((100_000..100_100).contains(&here.unsent_octets()), "{}", here.unsent_octets());
                    if closes {
                        here.close();
                    }
                    here.flushed().await;
                    assert_eq!(here.unsent_octets(), 0, "{closes}");
                }
            })
            .await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_link_whose_datagrams_cost_much_has_one_turn_like_every_other() {
        tokio::task::LocalSet::new()
            .run_until(async {
                let folder = tempfile::tempdir().unwrap();
                let path = folder.path().join("s");
                let listener = Listener::new(listen(&path).unwrap()).unwrap();
                let floods = connect(&path).unwrap();
                let there = Link::new(listener.accept().await.unwrap()).unwrap();
                for number in 0..20 {
                    send(floods.as_fd(), &datagram(number), None).unwrap();
                }
                drop(floods);
                let turns = Rc::new(Cell::new(0));
                let counts = Rc::clone(&turns);
                tokio::task::spawn_local(async move {
                    loop {
                        counts.set(counts.get() + 1);
                        tokio::task::yield_now().await;
                    }
                });
                let mut seen = Vec::new();
                let take = |_: &[u8], _| {
                    seen.push(turns.get());
                    let began = Instant::now();
                    while began.elapsed() < TURN_MAX {}
                    Ok(false)
                };
                let end = there.read_in_turns(take, tokio::task::yield_now).await;
                assert!(matches!(end, LinkEnd::Closed), "{end:?}");
                assert!(seen.len() == 20 && seen.is_sorted_by(|before, after| before < after), "{seen:?}");
            })
            .await;
    }

    #[test]
    fn a_command_waits_its_turn_where_many_connections_wait() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listening = listen(&path).unwrap();
        let mut waiting = Vec::new();
        let full = loop {
            match connect(&path) {
                Ok(socket) => waiting.push(socket),
                Err(error) => break error,
            }
            assert!(waiting.len() <= 1_000, "as many as like may wait");
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        let short = connect_patiently(&path, Duration::from_millis(20)).unwrap_err();
        assert_eq!(short.kind(), io::ErrorKind::WouldBlock);
        std::thread::scope(|threads| {
            let here = threads.spawn(|| connect_patiently(&path, Duration::from_secs(60)));
            rustix::net::accept(&listening).unwrap();
            let here = here.join().unwrap().unwrap();
            assert!(rustix::fs::fcntl_getfl(&here).unwrap().contains(rustix::fs::OFlags::NONBLOCK));
        });
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_reader_that_is_slow_loses_nothing() {
        tokio::task::LocalSet::new()
            .run_until(async {
                let folder = tempfile::tempdir().unwrap();
                let path = folder.path().join("s");
                let listener = Listener::new(listen(&path).unwrap()).unwrap();
                let here = Link::new(connect(&path).unwrap()).unwrap();
                let there = Link::new(listener.accept().await.unwrap()).unwrap();
                for number in 0..2_000_u32 {
                    here.push(&(number, vec![7_u8; 1_000])).unwrap();
                }
                let mut buffer = vec![0; DATAGRAM_OCTETS_MAX];
                let mut next = 0;
                while next < 2_000 {
                    let received = there.receive(&mut buffer).await.unwrap();
                    let mut frames = Frames::open(&buffer[..received.octets]).unwrap();
                    while let Some((number, _)) = frames.next_frame::<(u32, Vec<u8>)>().unwrap() {
                        assert_eq!(number, next);
                        next += 1;
                    }
                }
            })
            .await;
    }

    /// One datagram with one frame.
    fn datagram(number: u32) -> Vec<u8> {
        let mut outbox = Outbox::default();
        outbox.push(&number).unwrap();
        outbox.front().unwrap().to_vec()
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_last_words_of_a_process_that_has_not_read_everything_are_read() {
        for pushes_behind_the_end in [false, true] {
            tokio::task::LocalSet::new()
                .run_until(async {
                    let folder = tempfile::tempdir().unwrap();
                    let path = folder.path().join("s");
                    let listener = Listener::new(listen(&path).unwrap()).unwrap();
                    let killed = connect(&path).unwrap();
                    let there = Link::new(listener.accept().await.unwrap()).unwrap();
                    there.push(&1_u32).unwrap();
                    there.flushed().await;
                    for number in [7, 8] {
                        send(killed.as_fd(), &datagram(number), None).unwrap();
                    }
                    drop(killed);
                    if pushes_behind_the_end {
                        there.push(&2_u32).unwrap();
                        there.flushed().await;
                    }
                    let mut buffer = vec![0; DATAGRAM_OCTETS_MAX];
                    for number in [7, 8] {
                        let received = there.receive(&mut buffer).await.unwrap();
                        assert_eq!(buffer[..received.octets], datagram(number)[..]);
                    }
                    let end = there.receive(&mut buffer).await.unwrap_err();
                    assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
                })
                .await;
        }
    }
}
