//! One association with a peer MTA: connects, holds the dialogue, transfers one Mlist after the other, and ends when
//! nothing more comes.

use super::Relay;
use super::job::{Job, PeerJobs, Standing};
use super::next_hop::{Host, Nowhere};
use super::tls::AssociationTls;
use crate::store_client::{FetchError, Piece};
use crate::stream::Stream;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};
use sternpost_config::{ChannelKind, ChannelView, Peer, PeerTlsPolicy};
use sternpost_link::qmgr::ToQmgr;
use sternpost_link::store::MessageDetail;
use sternpost_message::{Diagnostic, EnhancedStatus, ErrorScope, MlistId, Outcome, chain};
use sternpost_platform::tcp;
use sternpost_smtp::client::{ClientPolicy, ClientSession, ClientTimeouts, Input, Output, Protocol};
use sternpost_tls::Outbound;
use tokio::net::TcpStream;

/// An association without work is kept this long for the next Mlist.
const IDLE_MAX: Duration = Duration::from_secs(5);
/// A null hop is on this machine and waits for its probe: it greets at once, or is no longer there.
const NULL_HOP_MAX: Duration = Duration::from_secs(10);
/// Octets that wait in the kernel for a slow peer: with more, a transfer that gets on would look like one that does not.
const UNSENT_OCTETS_MAX: u32 = 128 << 10;
/// After a handshake has failed with a peer to whom mail may go in the clear, it does so for this long.
const CLEAR_FOR: Duration = Duration::from_secs(10 * 60);
/// The reply of a peer that wants TLS first (RFC 3207, 4).
const TLS_FIRST: u16 = 530;
/// RFC 3463, 3.8.
const CRYPTOGRAPHIC_FAILURE: EnhancedStatus = EnhancedStatus::new(4, 7, 5);
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
        let hosts = relay.lookup.hosts(&peer, &view).await;
        jobs.stands(Standing::Opening, Standing::Over);
        match hosts {
            Ok(hosts) => attempt(&relay, &jobs, &peer, &view, hosts).await,
            Err(nowhere) => nobody(&relay, &jobs, &nowhere),
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

/// One association, with the first host of the peer that lets it in.
async fn attempt(relay: &Relay, jobs: &PeerJobs, peer: &Peer, view: &Rc<ChannelView>, hosts: Vec<Host>) {
    let mut hosts = VecDeque::from(hosts);
    let mut failures: Vec<Diagnostic> = Vec::new();
    while let Some(host) = hosts.pop_front() {
        jobs.stands(Standing::Over, Standing::Opening);
        let opened = open(relay, jobs, peer, &host, view).await;
        if opened.is_err() {
            jobs.stands(Standing::Opening, Standing::Over);
        }
        let failure = match opened {
            Ok(connection) => {
                let is_last = hosts.is_empty();
                let association = Association::new(relay, jobs, peer, &host, is_last, view, connection);
                match association.converse().await {
                    None => return,
                    Some(failure) => failure,
                }
            }
            Err(NotOpen::Failed(failure)) => failure,
            Err(NotOpen::ThisMachine) => {
                // RFC 5321, 5.1: nor to those that are worse, which would send it here.
                let preference = |host: &Host| host.found.as_ref().map(|found| found.preference);
                hosts.retain(|other| preference(other) < preference(&host));
                let why = format!("{} is this machine: mail would loop", host.words);
                if failures.is_empty() && hosts.is_empty() {
                    return nobody(relay, jobs, &Nowhere::looped(&why));
                }
                Diagnostic {
                    remote: host.words.clone(),
                    ..Diagnostic::own(EnhancedStatus::new(4, 4, 1), &why)
                }
            }
        };
        relay.lookup.failed(peer, &host);
        if !hosts.is_empty() {
            tracing::info!(
                event = "host.failed",
                peer = peer.name,
                host = host.words,
                why = failure.text,
                "a host of a peer does not work; the next one is tried"
            );
        }
        failures.push(failure);
        if jobs.is_empty() {
            // Another association has taken what was there.
            return;
        }
    }
    if let Some(failure) = together(failures) {
        refused(relay, jobs, &failure);
    }
}

/// What several hosts have failed by: the last one, with the words of all.
fn together(mut failures: Vec<Diagnostic>) -> Option<Diagnostic> {
    let last = failures.pop()?;
    if failures.is_empty() {
        return Some(last);
    }
    let texts: Vec<&str> = failures.iter().chain([&last]).map(|failure| failure.text.as_str()).collect();
    let text = Diagnostic::one_line(&texts.join("; "));
    Some(Diagnostic { text, reply_code: None, ..last })
}

/// There is no host: the mail fails, or waits like that of a peer that does not work.
fn nobody(relay: &Relay, jobs: &PeerJobs, nowhere: &Nowhere) {
    if !nowhere.is_final {
        return refused(relay, jobs, &nowhere.diagnostic);
    }
    while let Some(mut job) = jobs.take() {
        let outcomes = job.outcomes(|| Outcome::Failed(nowhere.diagnostic.clone()));
        relay.done(jobs, job.mlist(), outcomes);
    }
}

/// Why there is no connection with a host.
enum NotOpen {
    Failed(Diagnostic),
    /// It leads back here.
    ThisMachine,
}

/// A connection with a host of the peer, inside TLS where that begins with the first octet.
///
/// # Errors
/// Why there is none.
async fn open(
    relay: &Relay,
    jobs: &PeerJobs,
    peer: &Peer,
    host: &Host,
    view: &ChannelView,
) -> Result<(Stream, AssociationTls), NotOpen> {
    let failed = |status, why: String| {
        NotOpen::Failed(Diagnostic { remote: host.words.clone(), ..Diagnostic::own(status, &why) })
    };
    if peer.tls.policy == PeerTlsPolicy::Mutual {
        relay.signer.ready().await;
    }
    let may_be_clear = !peer.tls.policy.is_required();
    let tls = if may_be_clear && jobs.is_in_the_clear(Instant::now()) {
        AssociationTls::never()
    } else {
        AssociationTls::new(peer, host, view, &relay.signer)
    };
    let outbound = match tls.outbound() {
        Ok(outbound) => outbound,
        Err(_) if tls.may_go_in_the_clear() => None,
        Err(error) => {
            let why = format!("TLS with {} cannot be done: {}", peer.name, chain(error));
            return Err(failed(CRYPTOGRAPHIC_FAILURE, why));
        }
    };
    let stream = connect(host, view).await.map_err(|error| {
        failed(EnhancedStatus::new(4, 4, 1), format!("cannot connect to {}: {error}", place(host)))
    })?;
    if stream.local_addr().is_ok_and(|local| host.is_this_machine(local.ip())) {
        return Err(NotOpen::ThisMachine);
    }
    let stream = match outbound.filter(|_| tls.is_immediate()) {
        None => Stream::Clear(stream),
        Some(outbound) => {
            let secured = secure(peer, host, outbound, stream).await;
            secured.map_err(|why| failed(CRYPTOGRAPHIC_FAILURE, why))?
        }
    };
    Ok((stream, tls))
}

/// The handshake.
///
/// # Errors
/// Why it has failed, for people.
async fn secure(peer: &Peer, host: &Host, outbound: &Outbound, stream: TcpStream) -> Result<Stream, String> {
    let limit = ClientTimeouts::default().handshake;
    let secured = tokio::time::timeout(limit, outbound.connect(stream)).await;
    match secured.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok((stream, facts)) => {
            tracing::debug!(
                event = "tls.established",
                peer = peer.name,
                version = facts.version,
                cipher_suite = facts.cipher_suite,
                is_verified = facts.peer.as_ref().is_some_and(|peer| peer.is_verified),
                "an association is inside TLS"
            );
            Ok(Stream::Secured(stream))
        }
        Err(error) => Err(format!("the TLS handshake with {} has failed: {}", place(host), chain(&error))),
    }
}

/// What a failure calls the host: by its address, and by what led to it where there may be others.
fn place(host: &Host) -> String {
    if host.is_one_of_several { host.words.clone() } else { host.address.to_string() }
}

async fn connect(host: &Host, view: &ChannelView) -> io::Result<TcpStream> {
    let limit = Duration::from_secs(u64::from(view.channel.connect_timeout_s));
    let stream = tokio::time::timeout(limit, TcpStream::connect(host.address))
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

/// There is no connection with the peer: one attempt failed; the other Mlists go back untouched.
fn refused(relay: &Relay, jobs: &PeerJobs, diagnostic: &Diagnostic) {
    let why = diagnostic.text.clone();
    let attempted = jobs.first().into_iter().collect();
    peer_failed(relay, jobs, &why, attempted, false);
    if let Some(mut job) = jobs.take() {
        let outcomes =
            job.outcomes(|| Outcome::Deferred { scope: ErrorScope::Peer, diagnostic: diagnostic.clone() });
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
    host: Host,
    /// No other host is tried when this one does not let it in.
    is_last: bool,
    /// Why the next host is to be tried.
    fallen: Option<Diagnostic>,
    stream: Stream,
    tls: AssociationTls,
    session: ClientSession,
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
    /// TLS has failed, and the peer is to get its mail without.
    goes_in_the_clear: bool,
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
        host: &Host,
        is_last: bool,
        view: &Rc<ChannelView>,
        (stream, tls): (Stream, AssociationTls),
    ) -> Self {
        let protocol = if view.channel.kind == ChannelKind::Lmtp { Protocol::Lmtp } else { Protocol::Smtp };
        let mut policy = ClientPolicy::new(view.node.hostname.clone(), protocol);
        policy.bdat_octets_min = view.channel.bdat_octets_min;
        if jobs.is_null_hop {
            // Whoever listens there now may be somebody else, who never says a word.
            policy.timeouts =
                ClientTimeouts { greeting: NULL_HOP_MAX, hello: NULL_HOP_MAX, ..policy.timeouts };
        }
        policy.tls = tls.starttls();
        let begin = if tls.is_immediate() { ClientSession::secured } else { ClientSession::new };
        Self {
            relay,
            jobs,
            peer: peer.clone(),
            view: Rc::clone(view),
            host: host.clone(),
            is_last,
            fallen: None,
            stream,
            tls,
            session: begin(Instant::now(), policy),
            under_way: Vec::new(),
            next: None,
            transaction_last: 0,
            feeding: None,
            wake_at: None,
            idle_since: None,
            standing: Standing::Opening,
            has_carried: false,
            goes_in_the_clear: false,
            is_closing: false,
        }
    }

    /// Holds the dialogue to its end. Gives the failure of a host after which the next one is to be tried.
    async fn converse(mut self) -> Option<Diagnostic> {
        let mut buffer = [0; READ_OCTETS];
        loop {
            if self.settle().await.is_err() {
                self.session.handle(Instant::now(), Input::PeerClosed);
                let _ = self.settle().await;
                break;
            }
            if self.is_closing {
                self.stream.end().await;
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
        for (_, job) in std::mem::take(&mut self.under_way) {
            if self.goes_in_the_clear {
                // No transaction has begun before TLS.
                self.relay.channel.unassigned(job.mlist(), "the peer gets it in the clear");
            } else {
                // The session has answered every transaction; one that it still has would be a defect of ours.
                self.complete(job);
            }
        }
        self.fallen
    }

    /// Whether it has nothing to do.
    fn is_idle(&self) -> bool {
        self.session.is_idle() && self.next.is_none()
    }

    /// Whether a job that waits is for this association.
    fn may_take(&self) -> bool {
        self.next.is_none()
            && (self.is_last || self.standing == Standing::Admitted)
            && self.session.can_take_transaction()
            && (self.session.is_idle() || !self.jobs.has_idle())
    }

    /// Whether the peer has another address or other TLS now, or is gone: what waits must not go where this association leads.
    fn is_outdated(&mut self) -> bool {
        let Some(view) = self.relay.view() else { return true };
        if Rc::ptr_eq(&view, &self.view) {
            return false;
        }
        let is_same = super::peer(&view, &self.peer.name).is_some_and(|peer| {
            let trusts = |view: &ChannelView| -> Vec<Vec<u8>> {
                self.peer.tls.trust.certificates(&view.trusts).map(<[u8]>::to_vec).collect()
            };
            let believes_the_same = !peer.tls.policy.is_verified() || trusts(&view) == trusts(&self.view);
            peer.next_hop == self.peer.next_hop && peer.tls == self.peer.tls && believes_the_same
        });
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
                Output::StartTls => {
                    self.send(&std::mem::take(&mut out)).await?;
                    self.handshake().await;
                }
                Output::WakeAt(at) => self.wake_at = Some(at),
                // Before it is let in it has taken nothing, unless there is no other host.
                Output::Failed { diagnostic } if !self.is_last && self.standing == Standing::Opening => {
                    self.stand(Standing::Over);
                    let text = format!("{}: {diagnostic}", self.host.words);
                    let text = Diagnostic::one_line(&text);
                    self.fallen = Some(Diagnostic { remote: self.host.words.clone(), text, ..diagnostic });
                }
                Output::Failed { diagnostic } => {
                    self.stand(Standing::Over);
                    let under_way = self.under_way.iter().map(|(_, job)| job.mlist());
                    let mlists = under_way.chain(self.next.as_ref().map(Job::mlist)).collect();
                    peer_failed(self.relay, self.jobs, &diagnostic.to_string(), mlists, self.has_carried);
                }
                Output::Close => self.is_closing = true,
            }
        }
        if self.session.is_admitted() {
            self.stand(Standing::Admitted);
        } else if self.standing == Standing::Admitted {
            self.stand(Standing::Over);
        }
        self.set_idle(self.is_idle());
        if out.is_empty() { Ok(()) } else { self.send(&out).await }
    }

    async fn send(&mut self, out: &[u8]) -> io::Result<()> {
        let limit =
            self.wake_at.map_or(Duration::from_secs(60), |at| at.saturating_duration_since(Instant::now()));
        tokio::time::timeout(limit, self.stream.write_all(out))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        self.relay.channel.sent(out.len());
        Ok(())
    }

    /// STARTTLS was taken.
    async fn handshake(&mut self) {
        let secured = match (self.tls.outbound(), self.stream.take_clear()) {
            (Ok(Some(outbound)), Ok(stream)) => secure(&self.peer, &self.host, outbound, stream).await,
            // The session asks for TLS where it can be done, once, in the clear.
            (Ok(_), Ok(_)) => Err("TLS is not to be done".to_owned()),
            (Err(error), _) => Err(chain(error)),
            (_, Err(error)) => Err(error.to_string()),
        };
        match secured {
            Ok(stream) => {
                self.stream = stream;
                self.session.handle(Instant::now(), Input::Secured);
            }
            // RFC 7435, 3: whom nobody has asked to be sure of is sent to as it can be.
            Err(why) if self.tls.may_go_in_the_clear() => {
                tracing::warn!(
                    event = "tls.failed",
                    peer = self.peer.name,
                    why,
                    clear_for_s = CLEAR_FOR.as_secs(),
                    "TLS with a peer has failed; its mail goes in the clear for a while"
                );
                self.jobs.go_in_the_clear(Instant::now() + CLEAR_FOR);
                self.goes_in_the_clear = true;
                self.is_closing = true;
            }
            Err(why) => {
                let diagnostic = Diagnostic::own(CRYPTOGRAPHIC_FAILURE, &why);
                self.session.handle(Instant::now(), Input::HandshakeFailed(diagnostic));
            }
        }
    }

    async fn arrival(&mut self, buffer: &mut [u8]) -> Arrival {
        let idle_until = self.idle_since.map(|since| since + IDLE_MAX);
        let wake_at = [self.wake_at, idle_until].into_iter().flatten().min();
        let feeding = self.feeding.and_then(|id| self.under_way.iter().find(|(own, _)| *own == id));
        let may_take = self.may_take();
        tokio::select! {
            biased;
            read = self.stream.read(buffer) => match read {
                Ok(count) if count > 0 => Arrival::Octets(count),
                Ok(_) => Arrival::PeerClosed,
                Err(error) => {
                    if error.kind() == io::ErrorKind::InvalidData {
                        let why = chain(&error);
                        tracing::warn!(event = "tls.broken", peer = self.peer.name, why, "TLS with a peer has broken behind the handshake");
                    }
                    Arrival::PeerClosed
                }
            },
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
            | Outcome::DeliveredReportOwed(diagnostic)
            | Outcome::RelayedReportOwed(diagnostic)
            | Outcome::Deferred { diagnostic, .. }
            | Outcome::Failed(diagnostic) => diagnostic.remote.clone_from(&self.host.words),
            Outcome::DelayReported | Outcome::Reported { .. } | Outcome::Discarded { .. } => {}
        }
        let is_of_the_peer = matches!(outcome, Outcome::Deferred { scope: ErrorScope::Peer, .. });
        if matches!(&outcome, Outcome::Deferred { diagnostic, .. } if diagnostic.reply_code == Some(TLS_FIRST))
        {
            self.jobs.try_tls_again();
        }
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

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
