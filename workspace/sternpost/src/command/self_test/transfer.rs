//! Mail from a client to a server over the loopback, at rising concurrency: what the switch does for a message, in three
//! threads where it has three processes.
//!
//! One thread has the sessions of a channel, one those of the SMTP server, one writes: it gathers what waits into one
//! batch, makes it durable in the trial place, and only then the server says 250. So each message costs what protocol,
//! SHA-256, sockets and disk cost the switch, once each. Not in it: the links between processes, routing, QMGR, and
//! reading back. Nothing is queued, and nobody else can connect: each connection is accepted only from the socket that has
//! just been made for it, and then the listener is gone.

use super::meter::Meter;
use sha2::{Digest, Sha256};
use std::cell::RefCell;
use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream as Socket};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use sternpost_message::{BodyType, Mailbox, Outcome, ReversePath};
use sternpost_platform::disk::DiskOpenError;
use sternpost_platform::disk::trial::{Method, TrialDisk, TrialPlace};
use sternpost_queue::{AlignedBuffer, DiskError, PAGE_OCTETS};
use sternpost_smtp::Protocol;
use sternpost_smtp::client::{self, ClientPolicy, ClientSession, Transaction, TransactionRecipient};
use sternpost_smtp::server::{self, Answer, Question, ServerPolicy, ServerSession};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::LocalSet;

/// Octets of a message's content.
pub(super) const MESSAGE_OCTETS: usize = 4 << 10;
/// What stands beside the content in the log, about: the envelope, the headers of the records, the client's id.
const ENVELOPE_OCTETS: usize = 512;
/// Octets read at a time, as the SMTP server does.
const READ_OCTETS: usize = 32 << 10;
/// A level has begun when so many batches have ended since it was asked for: none of them began before.
const BATCHES_BEFORE: usize = 2;
/// A rate needs a batch to begin behind, and so many more.
const BATCHES_MIN: usize = 2;
/// A level on which so little passes is given up after this.
const LEVEL_TIME_MAX: Duration = Duration::from_secs(1);
/// On the loopback a connection is there at once, unless somebody else fills the listener's queue.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(1);
/// Between two looks at what has passed.
const LOOK: Duration = Duration::from_millis(5);

/// What is tried, and for how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// Associations at work at a time, rising.
    pub(super) levels: &'static [u32],
    /// How often all levels are gone through, so that whatever else the machine does meets all of them.
    pub(super) rounds: u32,
    /// Before a level counts, and while it counts.
    pub(super) warm: Duration,
    pub(super) window: Duration,
}

impl Plan {
    /// What it takes where nothing is slow.
    pub(super) fn time(&self) -> Duration {
        let levels = u32::try_from(self.levels.len()).unwrap_or(u32::MAX);
        (self.warm + self.window) * levels.saturating_mul(self.rounds)
    }
}

/// One level: the best of its rounds, as whatever else the machine does can only take away.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Level {
    pub(super) associations: u32,
    pub(super) per_s: f64,
    /// Messages of a batch, on average.
    pub(super) batch_messages: f64,
}

/// Why nothing was transferred.
#[derive(Debug, thiserror::Error)]
pub(super) enum TransferError {
    /// A socket of the loopback, or an event loop.
    #[error("no connection over the loopback")]
    Loopback(#[from] io::Error),
    /// The trial place.
    #[error("the trial place cannot be opened")]
    Open(#[from] DiskOpenError),
    /// The device.
    #[error("the device refuses the trial")]
    Disk(#[from] DiskError),
    /// A session of ours did not understand the other one, which would be a defect.
    #[error("an association has ended early: {0}")]
    Ended(String),
}

/// Measures the levels, as many as there is time for. A level on which nothing passes in time is left out.
///
/// # Errors
/// `TransferError`.
pub(super) fn measure(
    place: &TrialPlace,
    method: Method,
    batch_octets: u32,
    plan: &Plan,
    deadline: Instant,
    meter: &Meter,
) -> Result<Vec<Level>, TransferError> {
    let most = plan.levels.iter().copied().max().unwrap_or(1);
    let pairs = pairs(most)?;
    let (clients, servers): (Vec<Socket>, Vec<Socket>) = pairs.into_iter().unzip();
    let shared = Arc::new(Shared::default());
    let (level, at_work) = watch::channel(0);
    let (waiting, writes) = mpsc::unbounded_channel();
    thread::scope(|scope| {
        let writer = scope.spawn({
            let shared = Arc::clone(&shared);
            move || write(place, method, batch_octets, writes, &shared)
        });
        let server = scope.spawn(move || serve(servers, waiting));
        let client = scope.spawn({
            let shared = Arc::clone(&shared);
            move || send(clients, &at_work, &shared)
        });
        let levels = go_through(plan, deadline, &level, &shared, meter, || writer.is_finished());
        // Without a word on the level the clients leave, then the server has nobody, then the writer nothing.
        drop(level);
        let ends = [client.join(), server.join()]
            .map(|end| end.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        ends.into_iter().try_for_each(|end| end)?;
        match shared.ended_early() {
            Some(why) => Err(TransferError::Ended(why)),
            None => Ok(levels),
        }
    })
}

/// Connections of the loopback, both ends of each.
fn pairs(count: u32) -> io::Result<Vec<(Socket, Socket)>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let pair = |_| {
        let client = Socket::connect_timeout(&address, CONNECT_TIME_MAX)?;
        let own = client.local_addr()?;
        loop {
            let (server, peer) = listener.accept()?;
            // Whoever else has found the port goes away again.
            if peer == own {
                for socket in [&client, &server] {
                    socket.set_nodelay(true)?;
                    socket.set_nonblocking(true)?;
                }
                return Ok((client, server));
            }
        }
    };
    (0..count).map(pair).collect()
}

/// What the threads tell each other beside mail.
#[derive(Debug, Default)]
struct Shared {
    batches: Mutex<Vec<Batch>>,
    ended_early: Mutex<Option<String>>,
}

/// A batch that is durable.
#[derive(Clone, Copy, Debug)]
struct Batch {
    ended_at: Instant,
    messages: u32,
}

impl Shared {
    fn with_batches<T>(&self, look: impl FnOnce(&mut Vec<Batch>) -> T) -> T {
        look(&mut self.batches.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn ends_early(&self, why: String) {
        self.ended_early.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
    }

    fn ended_early(&self) -> Option<String> {
        self.ended_early.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Sets the levels one after the other, and looks at what passes.
fn go_through(
    plan: &Plan,
    deadline: Instant,
    level: &watch::Sender<u32>,
    shared: &Shared,
    meter: &Meter,
    is_over: impl Fn() -> bool,
) -> Vec<Level> {
    let mut found: Vec<Level> = Vec::new();
    for round in 1..=plan.rounds {
        for &associations in plan.levels {
            // The first level is tried in any case: of a disk that is slow, something is known then.
            if is_over() || (Instant::now() >= deadline && !found.is_empty()) {
                return found;
            }
            let step = format!("transferring, {associations} at a time, round {round} of {}", plan.rounds);
            meter.show(&step);
            level.send_replace(associations);
            let Some(now) = watch_level(plan, associations, shared, &is_over) else { continue };
            match found.iter_mut().find(|level| level.associations == associations) {
                Some(level) if level.per_s < now.per_s => *level = now,
                Some(_) => {}
                None => found.push(now),
            }
        }
    }
    found
}

/// What passes at one level; none when that is too little to tell.
fn watch_level(plan: &Plan, associations: u32, shared: &Shared, is_over: impl Fn() -> bool) -> Option<Level> {
    let began = Instant::now();
    shared.with_batches(Vec::clear);
    let goes_on = || began.elapsed() < LEVEL_TIME_MAX && !is_over();
    while goes_on() && (began.elapsed() < plan.warm || shared.with_batches(|all| all.len()) < BATCHES_BEFORE)
    {
        thread::sleep(LOOK);
    }
    // The last batch before is where the time begins.
    shared.with_batches(|all| drop(all.drain(..all.len().saturating_sub(1))));
    let counted = Instant::now();
    while goes_on()
        && (counted.elapsed() < plan.window || shared.with_batches(|all| all.len()) <= BATCHES_MIN)
    {
        thread::sleep(LOOK);
    }
    let batches = shared.with_batches(|all| all.clone());
    rate(&batches, Instant::now()).map(|(per_s, batch_messages)| Level {
        associations,
        per_s,
        batch_messages,
    })
}

/// Messages a second, and of a batch, behind the end of the first batch: what is in it began before. The time ends with the
/// last batch, for the next one is half done; but a silence until `now` that is longer than twice the time of a batch is
/// time in which nothing passed.
fn rate(batches: &[Batch], now: Instant) -> Option<(f64, f64)> {
    let (first, rest) = batches.split_first()?;
    let last = rest.last()?;
    let messages: f64 = rest.iter().map(|batch| f64::from(batch.messages)).sum();
    #[expect(clippy::cast_precision_loss, reason = "batches of a second")]
    let count = rest.len() as f64;
    let seconds = |from: Instant, until: Instant| until.saturating_duration_since(from).as_secs_f64();
    let mut time = seconds(first.ended_at, last.ended_at).max(1e-9);
    let silence = seconds(last.ended_at, now);
    if silence > 2.0 * time / count {
        time += silence;
    }
    Some((messages / time, messages / count))
}

/// A message that waits for its batch, and who waits for it.
struct Waiting {
    content: Vec<u8>,
    digest: [u8; 32],
    durable: oneshot::Sender<()>,
}

/// Makes durable what waits, all of it at once, until nobody is there any more.
fn write(
    place: &TrialPlace,
    method: Method,
    batch_octets: u32,
    mut writes: mpsc::UnboundedReceiver<Waiting>,
    shared: &Shared,
) -> Result<(), TransferError> {
    let octets = u64::from(batch_octets).min(place.octets()).max(2 * PAGE_OCTETS as u64);
    let mut buffer = AlignedBuffer::with_capacity(usize::try_from(octets).unwrap_or(usize::MAX));
    // A ring belongs to the thread that writes with it.
    let mut disk: TrialDisk = place.disk(method)?;
    disk.register(&buffer);
    let mut next = None;
    loop {
        let Some(first) = next.take().or_else(|| writes.blocking_recv()) else { return Ok(()) };
        let mut told = Vec::new();
        buffer.clear();
        let mut waiting = Some(first);
        while let Some(message) = waiting {
            let has_room = buffer.len() + message.content.len() + ENVELOPE_OCTETS <= buffer.capacity();
            if !has_room && !told.is_empty() {
                next = Some(message);
                break;
            }
            let mut envelope = [0; ENVELOPE_OCTETS];
            envelope[..32].copy_from_slice(&message.digest);
            let fits = buffer.extend(&message.content).and_then(|()| buffer.extend(&envelope));
            debug_assert!(fits.is_ok(), "a message is smaller than the smallest batch");
            told.push(message.durable);
            waiting = writes.try_recv().ok();
        }
        buffer.pad_to(PAGE_OCTETS);
        buffer = disk.write(buffer)?.0;
        let messages = u32::try_from(told.len()).unwrap_or(u32::MAX);
        shared.with_batches(|all| all.push(Batch { ended_at: Instant::now(), messages }));
        for durable in told {
            // Who does not wait any more has lost its connection.
            let _ = durable.send(());
        }
    }
}

/// An event loop of one thread, as each process of the switch has.
fn in_event_loop<F: Future>(work: impl FnOnce() -> F) -> io::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(LocalSet::new().block_on(&runtime, async { work().await }))
}

/// The SMTP server: a session for each connection, until all have gone.
fn serve(sockets: Vec<Socket>, waiting: mpsc::UnboundedSender<Waiting>) -> Result<(), TransferError> {
    let policy = Arc::new(ServerPolicy::new("self-test.invalid"));
    in_event_loop(|| async {
        let mut sessions = Vec::new();
        for socket in sockets {
            let stream = TcpStream::from_std(socket)?;
            let serving = Serving {
                stream,
                session: ServerSession::new(Instant::now(), Arc::clone(&policy)),
                waiting: waiting.clone(),
                content: Vec::new(),
                digest: Sha256::new(),
                is_closing: false,
            };
            sessions.push(tokio::task::spawn_local(serving.converse()));
        }
        drop(waiting);
        for session in sessions {
            // A connection that breaks is missed by the client's end, which says so.
            let _ = session.await;
        }
        Ok(())
    })?
}

struct Serving {
    stream: TcpStream,
    session: ServerSession,
    waiting: mpsc::UnboundedSender<Waiting>,
    content: Vec<u8>,
    digest: Sha256,
    is_closing: bool,
}

impl Serving {
    async fn converse(mut self) -> io::Result<()> {
        let mut buffer = vec![0; READ_OCTETS];
        loop {
            self.settle().await?;
            if self.is_closing {
                return Ok(());
            }
            let count = read(&self.stream, &mut buffer).await?;
            if count == 0 {
                return Ok(());
            }
            let mut octets = &buffer[..count];
            while !octets.is_empty() && !self.is_closing {
                let taken = self.session.handle(Instant::now(), server::Input::Octets(octets));
                octets = &octets[taken..];
                self.settle().await?;
            }
        }
    }

    async fn settle(&mut self) -> io::Result<()> {
        let mut out = Vec::new();
        while let Some(output) = self.session.poll() {
            match output {
                server::Output::Send(octets) => out.extend_from_slice(&octets),
                server::Output::Ask(question) => {
                    let answer = self.answer(&question).await?;
                    self.session.handle(Instant::now(), server::Input::Answer(answer));
                }
                server::Output::Content(octets) => {
                    self.digest.update(&octets);
                    self.content.extend_from_slice(&octets);
                }
                server::Output::StartTls | server::Output::Close => self.is_closing = true,
                // The patience of a session is minutes, and the test is over in seconds.
                server::Output::AuthenticationAborted
                | server::Output::TransactionAborted
                | server::Output::WakeAt(_) => {}
            }
        }
        if out.is_empty() { Ok(()) } else { self.stream.write_all(&out).await }
    }

    async fn answer(&mut self, question: &Question) -> io::Result<Answer> {
        if !matches!(question, Question::EndOfContent(_)) {
            return Ok(Answer::Accept);
        }
        let content = std::mem::take(&mut self.content);
        let (durable, is_durable) = oneshot::channel();
        let waiting = Waiting { content, digest: self.digest.finalize_reset().into(), durable };
        let is_gone = |_| io::Error::other("nothing is written any more");
        self.waiting.send(waiting).map_err(|_| io::Error::other("nothing is written any more"))?;
        is_durable.await.map_err(is_gone)?;
        Ok(Answer::AcceptText("Ok: durable".to_owned()))
    }
}

/// The channel: an association for each connection, of which so many are at work as the level says.
fn send(sockets: Vec<Socket>, at_work: &watch::Receiver<u32>, shared: &Shared) -> Result<(), TransferError> {
    let content: Rc<[u8]> = content().into();
    let early = Rc::new(RefCell::new(None));
    in_event_loop(|| async {
        let mut associations = Vec::new();
        for (number, socket) in (0..).zip(sockets) {
            let sending = Sending {
                stream: TcpStream::from_std(socket)?,
                session: ClientSession::new(
                    Instant::now(),
                    ClientPolicy::new("self-test.invalid", Protocol::Smtp),
                ),
                content: Rc::clone(&content),
                number,
                transaction_last: 0,
                at_work: at_work.clone(),
            };
            let early = Rc::clone(&early);
            associations.push(tokio::task::spawn_local(async move {
                if let Err(why) = sending.converse().await {
                    early.borrow_mut().get_or_insert(why);
                }
            }));
        }
        for association in associations {
            let _ = association.await;
        }
        if let Some(why) = early.take() {
            shared.ends_early(why);
        }
        Ok(())
    })?
}

struct Sending {
    stream: TcpStream,
    session: ClientSession,
    content: Rc<[u8]>,
    number: u32,
    transaction_last: u64,
    at_work: watch::Receiver<u32>,
}

impl Sending {
    /// Sends one message after the other while it is at work, until there are no levels any more.
    async fn converse(mut self) -> Result<(), String> {
        let mut buffer = vec![0; READ_OCTETS];
        loop {
            let is_at_work = *self.at_work.borrow() > self.number;
            if is_at_work && self.session.can_take_transaction() {
                self.transaction_last += 1;
                let transaction = transaction(self.transaction_last, self.content.len());
                self.session.handle(Instant::now(), client::Input::Transaction(Box::new(transaction)));
            }
            self.settle().await?;
            if is_at_work && self.session.can_take_transaction() {
                continue;
            }
            tokio::select! {
                biased;
                count = read(&self.stream, &mut buffer) => match count.map_err(|error| error.to_string())? {
                    0 => return Err("the server has closed".to_owned()),
                    count => self.session.handle(Instant::now(), client::Input::Octets(&buffer[..count])),
                },
                changed = self.at_work.changed() => if changed.is_err() { return Ok(()) },
            }
        }
    }

    async fn settle(&mut self) -> Result<(), String> {
        let mut out = Vec::new();
        while let Some(output) = self.session.poll() {
            match output {
                client::Output::Send(octets) => out.extend_from_slice(&octets),
                client::Output::NeedContent { .. } => {
                    let now = Instant::now();
                    self.session.handle(now, client::Input::Content(&self.content));
                    self.session.handle(now, client::Input::ContentEnd);
                }
                client::Output::Result { outcome: Outcome::Transferred(_), .. }
                | client::Output::TransactionDone { .. }
                | client::Output::WakeAt(_) => {}
                client::Output::Result { outcome, .. } => return Err(format!("{outcome:?}")),
                client::Output::Failed { diagnostic } => return Err(diagnostic.to_string()),
                client::Output::StartTls | client::Output::Close => {
                    return Err("the session has closed".to_owned());
                }
            }
        }
        if out.is_empty() {
            Ok(())
        } else {
            self.stream.write_all(&out).await.map_err(|error| error.to_string())
        }
    }
}

/// A message with a header and lines of text.
fn content() -> Vec<u8> {
    let mut content = b"From: <self-test@self-test.invalid>\r\nSubject: self test\r\n\r\n".to_vec();
    while content.len() + 80 <= MESSAGE_OCTETS {
        content.extend_from_slice(&[b'x'; 78]);
        content.extend_from_slice(b"\r\n");
    }
    content.resize(MESSAGE_OCTETS - 2, b'x');
    content.extend_from_slice(b"\r\n");
    content
}

fn transaction(id: u64, octets: usize) -> Transaction {
    let address = || Mailbox::parse("self-test@self-test.invalid").expect("it is an address");
    let recipient = TransactionRecipient { address: address(), notify: None, original_recipient: None };
    Transaction {
        id,
        sender: ReversePath::Mailbox(address()),
        recipients: vec![recipient],
        content_octets: octets as u64,
        body: BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envelope_id: None,
        mt_priority: None,
        mt_priority_is_given: false,
    }
}

async fn read(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        stream.readable().await?;
        match stream.try_read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    fn place(folder: &tempfile::TempDir) -> TrialPlace {
        let mut place = TrialPlace::open(&folder.path().join("log"), None).unwrap();
        place.prepare(Duration::from_secs(2)).unwrap();
        place
    }

    const SHORT: Plan = Plan {
        levels: &[1, 4],
        rounds: 2,
        warm: Duration::from_millis(5),
        window: Duration::from_millis(30),
    };

    #[test]
    fn mail_passes_at_each_level_and_a_batch_holds_no_more_than_are_at_work() {
        let folder = tempfile::tempdir().unwrap();
        let meter = Meter::new(Duration::ZERO);
        let deadline = Instant::now() + Duration::from_secs(60);
        let place = place(&folder);
        let levels = measure(&place, Method::Dsync, 1 << 20, &SHORT, deadline, &meter).unwrap();
        assert_eq!(levels.iter().map(|level| level.associations).collect::<Vec<_>>(), [1, 4]);
        for level in &levels {
            assert!(level.per_s > 0.0 && level.batch_messages >= 1.0, "{level:?}");
            // An association of the level before may still end its message: in a few of the batches, never in most.
            assert!(level.batch_messages <= f64::from(level.associations) + 0.5, "{level:?}");
        }
        // Past the deadline the first level is tried all the same, and no other one.
        let late = measure(&place, Method::Dsync, 1 << 20, &SHORT, Instant::now(), &meter).unwrap();
        assert_eq!(late.iter().map(|level| level.associations).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn a_batch_that_has_room_for_one_message_takes_one() {
        let folder = tempfile::tempdir().unwrap();
        let meter = Meter::new(Duration::ZERO);
        let deadline = Instant::now() + Duration::from_secs(60);
        let plan = Plan { levels: &[4], rounds: 1, ..SHORT };
        let levels = measure(&place(&folder), Method::Dsync, 8 << 10, &plan, deadline, &meter).unwrap();
        assert!((levels[0].batch_messages - 1.0).abs() < 1e-9, "{levels:?}");
    }

    #[test]
    fn a_connection_has_its_own_two_ends_on_the_loopback() {
        for (client, server) in pairs(3).unwrap() {
            let ends: [SocketAddr; 2] = [client.local_addr().unwrap(), server.local_addr().unwrap()];
            assert_eq!([server.peer_addr().unwrap(), client.peer_addr().unwrap()], ends);
            assert!(ends.iter().all(|end| end.ip().is_loopback()));
        }
    }

    #[test]
    fn a_message_is_as_large_as_it_is_said_to_be_and_ends_its_last_line() {
        let content = content();
        assert_eq!(content.len(), MESSAGE_OCTETS);
        assert!(content.ends_with(b"x\r\n"));
        assert!(content.split(|octet| *octet == b'\n').all(|line| line.len() <= 998));
    }

    #[test]
    fn a_rate_begins_behind_the_first_batch_and_counts_the_time_in_which_nothing_passes() {
        let began = Instant::now();
        let batch = |ms, messages| Batch { ended_at: began + Duration::from_millis(ms), messages };
        let at = |ms| began + Duration::from_millis(ms);
        assert_eq!(rate(&[], at(9)), None);
        assert_eq!(rate(&[batch(0, 9)], at(9)), None);
        let batches = [batch(0, 9), batch(10, 4), batch(20, 6)];
        assert_eq!(rate(&batches, at(38)), Some((500.0, 5.0)), "the next batch is under way");
        assert_eq!(rate(&batches, at(100)), Some((100.0, 5.0)), "all stood still");
    }
}
