//! One association with a peer MTA: connects, holds the dialogue, transfers one Mlist after the other, and ends when
//! nothing more comes.

use super::Relay;
use super::job::{Job, PeerJobs, Standing};
use crate::store_client::{FetchError, Piece};
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};
use sternpost_config::{ChannelKind, ChannelView, Peer};
use sternpost_link::qmgr::ToQmgr;
use sternpost_link::store::MessageDetail;
use sternpost_message::{Diagnostic, EnhancedStatus, ErrorScope, MlistId, Outcome};
use sternpost_platform::tcp;
use sternpost_smtp::client::{ClientPolicy, ClientSession, ClientTimeouts, Input, Output, Protocol};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// An association without work is kept this long for the next Mlist.
const IDLE_MAX: Duration = Duration::from_secs(5);
/// A null hop is on this machine and waits for its probe: it greets at once, or is no longer there.
const NULL_HOP_MAX: Duration = Duration::from_secs(10);
/// Octets that wait in the kernel for a slow peer: with more, a transfer that gets on would look like one that does not.
const UNSENT_OCTETS_MAX: u32 = 128 << 10;
/// Octets read from the peer at a time; replies are short.
const READ_OCTETS: usize = 4_096;

/// Serves the peer until no job has come for a while, or the peer does not work.
pub(crate) async fn serve(relay: Rc<Relay>, jobs: Rc<PeerJobs>) {
    loop {
        let Some((view, peer)) =
            relay.view().and_then(|view| super::peer(&view, &jobs.name).map(|peer| (view, peer)))
        else {
            give_back(&relay, &jobs, "the peer is not configured");
            break;
        };
        jobs.stands(Standing::Over, Standing::Opening);
        match connect(&peer, &view).await {
            Ok(stream) => Association::new(&relay, &jobs, &peer, &view, stream).converse().await,
            Err(error) => refused(&relay, &jobs, &peer, &error),
        }
        // QMGR decides when a peer that failed is tried again. One that merely closed gets a new association at once.
        if jobs.is_failing.get() {
            give_back(&relay, &jobs, "the peer does not work");
        }
        if jobs.is_empty() {
            break;
        }
    }
    relay.association_ended(&jobs);
}

async fn connect(peer: &Peer, view: &ChannelView) -> io::Result<TcpStream> {
    let limit = Duration::from_secs(u64::from(view.channel.connect_timeout_s));
    let stream = tokio::time::timeout(limit, TcpStream::connect(peer.address.0))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer in time"))??;
    stream.set_nodelay(true)?;
    if let Err(error) = tcp::limit_unsent(&stream, UNSENT_OCTETS_MAX) {
        // Only progress is seen later then.
        let error = &error as &dyn std::error::Error;
        tracing::debug!(
            event = "association.unlimited",
            error,
            "what the kernel holds back cannot be limited"
        );
    }
    Ok(stream)
}

/// The peer did not take the connection: one attempt failed; the other Mlists go back untouched.
fn refused(relay: &Relay, jobs: &PeerJobs, peer: &Peer, error: &io::Error) {
    jobs.stands(Standing::Opening, Standing::Over);
    let why = format!("cannot connect to {}: {error}", peer.address);
    let attempted = jobs.first().into_iter().collect();
    peer_failed(relay, jobs, &why, attempted, false);
    if let Some(mut job) = jobs.take() {
        let outcomes = job.outcomes(|| {
            let mut diagnostic = Diagnostic::own(EnhancedStatus::new(4, 4, 1), &why);
            diagnostic.remote = format!("{} ({})", peer.name, peer.address);
            Outcome::Deferred { scope: ErrorScope::Peer, diagnostic }
        });
        relay.done(jobs, job.mlist(), outcomes);
    }
    give_back(relay, jobs, &why);
}

/// Tells QMGR, and that these attempts have ended by it. An association that had carried something before it broke says
/// nothing about the next one, which is made at once. Of a null hop QMGR hears nothing: its name stands for all of them.
fn peer_failed(relay: &Relay, jobs: &PeerJobs, why: &str, mlists: Vec<MlistId>, has_carried: bool) {
    if !has_carried {
        jobs.is_failing.set(true);
    }
    if !jobs.is_null_hop {
        relay.channel.peer_failed(ToQmgr::PeerFailed {
            peer: jobs.name.clone(),
            why: why.to_owned(),
            mlists,
            opening: jobs.opening(),
            has_carried,
        });
    }
}

fn give_back(relay: &Relay, jobs: &PeerJobs, why: &str) {
    for job in jobs.take_all() {
        relay.channel.unassigned(job.mlist(), why);
    }
}

struct Association<'a> {
    relay: &'a Relay,
    jobs: &'a PeerJobs,
    /// The peer as it was configured when the connection was made, and the view in which it was last seen so.
    peer: Peer,
    view: Rc<ChannelView>,
    stream: TcpStream,
    session: ClientSession,
    /// For diagnostics.
    remote: String,
    /// Jobs whose transaction the session has: one, or two when they are chained.
    under_way: Vec<(u64, Job)>,
    /// A job whose message is being read from the store.
    next: Option<Job>,
    transaction_last: u64,
    /// The transaction that wants content.
    feeding: Option<u64>,
    wake_at: Option<Instant>,
    idle_since: Option<Instant>,
    standing: Standing,
    /// The peer has answered for a recipient.
    has_carried: bool,
    is_closing: bool,
}

/// What an association waits for.
enum Arrival {
    Octets(usize),
    PeerClosed,
    Piece(Result<Option<Piece>, FetchError>),
    Detail(Result<Box<MessageDetail>, FetchError>),
    Job,
    Wake,
}

impl<'a> Association<'a> {
    fn new(
        relay: &'a Relay,
        jobs: &'a PeerJobs,
        peer: &Peer,
        view: &Rc<ChannelView>,
        stream: TcpStream,
    ) -> Self {
        let protocol = if view.channel.kind == ChannelKind::Lmtp { Protocol::Lmtp } else { Protocol::Smtp };
        let mut policy = ClientPolicy::new(view.node.hostname.clone(), protocol);
        policy.bdat_octets_min = view.channel.bdat_octets_min;
        if jobs.is_null_hop {
            // Whoever listens there now may be somebody else, who never says a word.
            policy.timeouts =
                ClientTimeouts { greeting: NULL_HOP_MAX, hello: NULL_HOP_MAX, ..policy.timeouts };
        }
        Self {
            relay,
            jobs,
            peer: peer.clone(),
            view: Rc::clone(view),
            stream,
            session: ClientSession::new(Instant::now(), policy),
            remote: format!("{} ({})", peer.name, peer.address),
            under_way: Vec::new(),
            next: None,
            transaction_last: 0,
            feeding: None,
            wake_at: None,
            idle_since: None,
            standing: Standing::Opening,
            has_carried: false,
            is_closing: false,
        }
    }

    async fn converse(mut self) {
        let mut buffer = [0; READ_OCTETS];
        loop {
            if self.settle().await.is_err() {
                self.session.handle(Instant::now(), Input::PeerClosed);
                let _ = self.settle().await;
                break;
            }
            if self.is_closing {
                break;
            }
            if self.may_take() {
                if self.is_outdated() {
                    self.session.handle(Instant::now(), Input::Quit);
                    continue;
                }
                self.next = self.jobs.take();
                self.set_idle(self.is_idle());
            }
            let arrival = self.arrival(&mut buffer).await;
            let now = Instant::now();
            match arrival {
                Arrival::Octets(count) => self.session.handle(now, Input::Octets(&buffer[..count])),
                Arrival::PeerClosed => self.session.handle(now, Input::PeerClosed),
                Arrival::Piece(piece) => self.feed(now, piece),
                Arrival::Detail(detail) => self.begin(now, detail),
                // Where one that is idle takes it, it hears of it.
                Arrival::Job if !self.may_take() => self.jobs.ring(),
                Arrival::Job => {}
                Arrival::Wake if self.idle_since.is_some_and(|since| now >= since + IDLE_MAX) => {
                    self.session.handle(now, Input::Quit);
                }
                Arrival::Wake => {
                    // A wake rings once; the session asks for the next one when it wants one.
                    self.wake_at = None;
                    self.session.handle(now, Input::Wake);
                }
            }
        }
        self.set_idle(false);
        self.stand(Standing::Over);
        if let Some(job) = self.next.take() {
            self.relay.channel.unassigned(job.mlist(), "the association has ended");
        }
        // The session has answered every transaction; one that it still has would be a defect of ours.
        for (_, job) in std::mem::take(&mut self.under_way) {
            self.complete(job);
        }
    }

    /// Whether it has nothing to do.
    fn is_idle(&self) -> bool {
        self.session.is_idle() && self.next.is_none()
    }

    /// Whether a job that waits is for this association.
    fn may_take(&self) -> bool {
        self.next.is_none()
            && self.session.can_take_transaction()
            && (self.session.is_idle() || !self.jobs.has_idle())
    }

    /// Whether the peer has another address now, or is gone: what waits must not go where this association leads.
    fn is_outdated(&mut self) -> bool {
        let Some(view) = self.relay.view() else { return true };
        if Rc::ptr_eq(&view, &self.view) {
            return false;
        }
        let is_same =
            super::peer(&view, &self.peer.name).is_some_and(|peer| peer.address == self.peer.address);
        if is_same {
            self.view = view;
        }
        !is_same
    }

    /// Does what the session asks, until it asks for nothing more.
    async fn settle(&mut self) -> io::Result<()> {
        let mut out: Vec<u8> = Vec::new();
        while let Some(output) = self.session.poll() {
            match output {
                Output::Send(octets) if out.is_empty() => out = octets,
                Output::Send(octets) => out.extend_from_slice(&octets),
                Output::NeedContent { transaction } => self.feeding = Some(transaction),
                Output::Result { transaction, recipient, outcome } => {
                    self.result(transaction, recipient, outcome);
                }
                Output::TransactionDone { transaction } => self.transaction_done(transaction),
                Output::WakeAt(at) => self.wake_at = Some(at),
                Output::Failed { diagnostic } => {
                    self.stand(Standing::Over);
                    let under_way = self.under_way.iter().map(|(_, job)| job.mlist());
                    let mlists = under_way.chain(self.next.as_ref().map(Job::mlist)).collect();
                    peer_failed(self.relay, self.jobs, &diagnostic.to_string(), mlists, self.has_carried);
                }
                Output::StartTls | Output::Close => self.is_closing = true,
            }
        }
        if self.session.is_admitted() {
            self.stand(Standing::Admitted);
        } else if self.standing == Standing::Admitted {
            self.stand(Standing::Over);
        }
        self.set_idle(self.is_idle());
        if out.is_empty() {
            return Ok(());
        }
        let limit =
            self.wake_at.map_or(Duration::from_secs(60), |at| at.saturating_duration_since(Instant::now()));
        tokio::time::timeout(limit, self.stream.write_all(&out))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        self.relay.channel.sent(out.len());
        Ok(())
    }

    async fn arrival(&mut self, buffer: &mut [u8]) -> Arrival {
        let idle_until = self.idle_since.map(|since| since + IDLE_MAX);
        let wake_at = [self.wake_at, idle_until].into_iter().flatten().min();
        let feeding = self.feeding.and_then(|id| self.under_way.iter().find(|(own, _)| *own == id));
        let may_take = self.may_take();
        tokio::select! {
            biased;
            arrival = read(&self.stream, buffer) => arrival,
            piece = async { match feeding { Some((_, job)) => job.fetched.piece().await, None => std::future::pending().await } },
                if feeding.is_some() => Arrival::Piece(piece),
            detail = async { match &self.next { Some(job) => job.fetched.detail().await, None => std::future::pending().await } },
                if self.next.is_some() && self.session.can_take_transaction() => Arrival::Detail(detail),
            () = self.jobs.arrived(), if may_take => Arrival::Job,
            () = sleep_until(wake_at) => Arrival::Wake,
        }
    }

    fn begin(&mut self, now: Instant, detail: Result<Box<MessageDetail>, FetchError>) {
        let Some(mut job) = self.next.take() else { return };
        match detail {
            Ok(detail) => {
                self.transaction_last += 1;
                let id = self.transaction_last;
                match job.transaction(id, *detail, self.view.node.priority_policy) {
                    Some(transaction) => {
                        self.under_way.push((id, job));
                        self.session.handle(now, Input::Transaction(Box::new(transaction)));
                    }
                    None => self.relay.channel.done(job.mlist(), Vec::new()),
                }
            }
            // The word of its end is on its way to QMGR.
            Err(FetchError::Gone) => self.relay.channel.done(job.mlist(), Vec::new()),
            Err(FetchError::Unreadable(why)) => {
                tracing::error!(event = "message.unreadable", mlist = %job.mlist(), why, "a message cannot be read");
                self.unreadable(job, &why);
            }
        }
    }

    fn feed(&mut self, now: Instant, piece: Result<Option<Piece>, FetchError>) {
        match piece {
            Ok(Some(piece)) => {
                self.session.handle(now, Input::Content(&piece));
                if piece.is_last {
                    self.feeding = None;
                    drop(piece);
                    self.session.handle(now, Input::ContentEnd);
                }
            }
            Ok(None) => {
                self.feeding = None;
                self.session.handle(now, Input::ContentEnd);
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(
                    event = "message.unreadable",
                    error,
                    "the content of a message cannot be read"
                );
                self.feeding = None;
                self.session.handle(now, Input::ContentFailed);
            }
        }
    }

    fn result(&mut self, transaction: u64, recipient: usize, mut outcome: Outcome) {
        match &mut outcome {
            Outcome::Delivered(diagnostic)
            | Outcome::Transferred(diagnostic)
            | Outcome::Deferred { diagnostic, .. }
            | Outcome::Failed(diagnostic) => diagnostic.remote.clone_from(&self.remote),
            Outcome::DelayReported | Outcome::Reported { .. } | Outcome::Discarded { .. } => {}
        }
        let is_of_the_peer = matches!(outcome, Outcome::Deferred { scope: ErrorScope::Peer, .. });
        self.has_carried |= !is_of_the_peer;
        if !is_of_the_peer && self.jobs.is_failing.replace(false) && !self.jobs.is_null_hop {
            self.relay.channel.peer_worked(&self.jobs.name);
        }
        if let Some((_, job)) = self.under_way.iter_mut().find(|(id, _)| *id == transaction) {
            tracing::debug!(event = "recipient.outcome", mlist = %job.mlist(), recipient, ?outcome, "an attempt has ended");
            job.result(recipient, outcome);
        }
    }

    fn transaction_done(&mut self, transaction: u64) {
        if self.feeding == Some(transaction) {
            self.feeding = None;
        }
        if let Some(at) = self.under_way.iter().position(|(id, _)| *id == transaction) {
            let (_, job) = self.under_way.remove(at);
            self.complete(job);
        }
    }

    fn complete(&self, mut job: Job) {
        let outcomes = job.outcomes(|| Outcome::Deferred {
            scope: ErrorScope::Message,
            diagnostic: Diagnostic::own(EnhancedStatus::new(4, 3, 0), "the session ended without an answer"),
        });
        self.relay.done(self.jobs, job.mlist(), outcomes);
    }

    fn unreadable(&self, mut job: Job, why: &str) {
        let outcomes = job.outcomes(|| Outcome::Deferred {
            scope: ErrorScope::Message,
            diagnostic: Diagnostic::own(EnhancedStatus::new(4, 3, 0), why),
        });
        self.relay.done(self.jobs, job.mlist(), outcomes);
    }

    fn stand(&mut self, standing: Standing) {
        let before = std::mem::replace(&mut self.standing, standing);
        if let Some(admitted) = self.jobs.stands(before, standing)
            && !self.jobs.is_null_hop
        {
            self.relay.channel.peer_holds(&self.jobs.name, admitted);
        }
    }

    fn set_idle(&mut self, is_idle: bool) {
        self.jobs.set_idle(self.idle_since.is_some(), is_idle);
        self.idle_since = if is_idle { self.idle_since.or_else(|| Some(Instant::now())) } else { None };
    }
}

async fn read(stream: &TcpStream, buffer: &mut [u8]) -> Arrival {
    loop {
        if stream.readable().await.is_err() {
            return Arrival::PeerClosed;
        }
        match stream.try_read(buffer) {
            Ok(0) => return Arrival::PeerClosed,
            Ok(count) => return Arrival::Octets(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Arrival::PeerClosed,
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
