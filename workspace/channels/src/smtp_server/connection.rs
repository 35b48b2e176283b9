//! One connection: octets from the socket go into the session, and the session's questions are answered by the
//! submission library and the store.

use super::authentication::reply;
use super::reading::Unread;
use super::upload::Upload;
use super::{Prepared, Server};
use crate::stream::Stream;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use sternpost_link::Appended;
use sternpost_link::store::{Lane, Refusal};
use sternpost_message::{EnhancedStatus, MessageId, TlsFacts};
use sternpost_platform::process;
use sternpost_sasl as sasl;
use sternpost_smtp::reply::Reply;
use sternpost_smtp::server::{
    Answer, ContentSummary, Input, MailFrom, Output, Question, RcptTo, Response, ServerSession,
};
use sternpost_submission::{
    ContentFacts, ForwardPath, Identity, MailFacts, Policy, Rank, RecipientFacts, SessionFacts, Submission,
    Verdict,
};
use tokio::net::TcpStream;

/// An envelope with more octets of recipients does not fit a datagram to the store beside its first content: further
/// recipients are asked to come in another transaction.
const RECIPIENTS_OCTETS_MAX: usize = 40 << 10;
/// Content of all connections that the store has not answered, beyond which no new content is taken: a store that is
/// away or slow must not fill this process.
const UNANSWERED_OCTETS_MAX: usize = 32 << 20;
/// Content that comes more slowly than this, after the grace, is not waited for: it would occupy the log's share for
/// partially received messages.
const CONTENT_OCTETS_PER_S_MIN: u64 = 1_024;
const CONTENT_GRACE: Duration = Duration::from_secs(120);
/// A client that takes no replies for so long has gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// One who is told why the connection is closed, and takes nothing, is not waited for.
const LAST_WORD_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) struct Connection {
    server: Rc<Server>,
    prepared: Rc<Prepared>,
    policy: Arc<Policy>,
    stream: Stream,
    /// Once the connection is inside TLS.
    tls: Option<Box<TlsFacts>>,
    /// The names in the client's certificate.
    names: Vec<String>,
    /// The authentication that awaits a response.
    exchange: Option<Box<sasl::Exchange>>,
    /// Whom the client has authenticated as: the name of a user.
    identity: Option<String>,
    client: SocketAddr,
    session: ServerSession,
    transaction: Option<Transaction>,
    wake_at: Option<Instant>,
    is_closing: bool,
}

/// One message on its way in.
struct Transaction {
    submission: Submission,
    id: MessageId,
    recipients_octets: usize,
    content: Content,
    /// When the content began, and how much of it has come.
    content_since: Instant,
    content_octets: u64,
}

/// Where the content is.
enum Content {
    /// It has not begun.
    Awaited,
    /// Its header section may still say how the message is ranked, and with that its lane, and what stands before it: at most [`RANK_OCTETS_MAX`](sternpost_submission::RANK_OCTETS_MAX) and one read.
    Held(Vec<u8>),
    /// It is on its way to the store.
    Uploaded(Box<Upload>),
}

impl Transaction {
    fn is_too_slow(&self) -> bool {
        let allowed = CONTENT_GRACE + Duration::from_secs(self.content_octets / CONTENT_OCTETS_PER_S_MIN);
        !matches!(self.content, Content::Awaited) && self.content_since.elapsed() > allowed
    }

    /// The upload, which begins with the trace header and what was held; none before the content or while its header
    /// section may still rank the message.
    async fn upload(&mut self, server: &Server, client: SocketAddr) -> Option<&mut Upload> {
        if let Content::Held(held) = &mut self.content
            && self.submission.beginning_is_known()
        {
            let held = std::mem::take(held);
            let beginning = self.submission.beginning(server.clock.now(), self.id);
            let lane = Lane::of(self.submission.rank().precedence);
            let mut upload = Upload::new(Rc::clone(&server.store), self.id, lane, client.to_string());
            upload.push(&beginning).await;
            upload.push(&held).await;
            self.content = Content::Uploaded(Box::new(upload));
        }
        match &mut self.content {
            Content::Uploaded(upload) => Some(upload),
            Content::Awaited | Content::Held(_) => None,
        }
    }
}

impl Connection {
    pub(super) fn new(
        server: Rc<Server>,
        prepared: Rc<Prepared>,
        stream: TcpStream,
        client: SocketAddr,
    ) -> Self {
        let policy = Arc::clone(prepared.policy_for(client.ip()));
        let begin = if prepared.tls.is_immediate() { ServerSession::secured } else { ServerSession::new };
        let session = begin(Instant::now(), Arc::clone(&prepared.session));
        // Replies are whole groups already; waiting for more would only delay them.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(error = &error as &dyn std::error::Error, "a connection broke before it began");
        }
        let mut connection = Self {
            server,
            prepared,
            policy,
            stream: Stream::Clear(stream),
            tls: None,
            names: Vec::new(),
            exchange: None,
            identity: None,
            client,
            session,
            transaction: None,
            wake_at: None,
            is_closing: false,
        };
        connection.offer_mechanisms();
        connection
    }

    /// Has the session announce what can be offered on this connection as it is.
    fn offer_mechanisms(&mut self) {
        let Some(authenticator) = &self.prepared.authenticator else { return };
        let offered = self.facts().offered(authenticator.policy());
        self.session.offer_mechanisms(offered.into_iter().map(sasl::Mechanism::name));
    }

    /// The connection as far as it counts for who the client is.
    fn facts(&self) -> sasl::Connection<'_> {
        sasl::Connection { network: self.client.ip().into(), tls: self.tls.as_deref(), names: &self.names }
    }

    pub(super) async fn converse(mut self) {
        if self.prepared.tls.is_immediate() {
            if self.handshake().await.is_err() {
                return;
            }
            self.offer_mechanisms();
        }
        let mut stopping = self.server.stopping.subscribe();
        let server = Rc::clone(&self.server);
        let mut unread: Option<Unread<'_>> = None;
        let mut is_told = false;
        loop {
            if self.settle().await.is_err() {
                self.session.handle(Instant::now(), Input::PeerClosed);
                let _ = self.settle().await;
                return;
            }
            if self.is_closing {
                return self.stream.end().await;
            }
            if self.transaction.as_ref().is_some_and(Transaction::is_too_slow) {
                let told = self
                    .send(b"421 4.4.2 the content comes too slowly, closing\r\n", LAST_WORD_TIMEOUT)
                    .await;
                tracing::info!(event = "content.too-slow", client = %self.client, told = told.is_ok(), "a client was too slow");
                self.session.handle(Instant::now(), Input::PeerClosed);
                let _ = self.settle().await;
                return;
            }
            if let Some(mut octets) = unread.take() {
                let count = self.session.handle(Instant::now(), Input::Octets(octets.octets()));
                unread = octets.took(count).then_some(octets);
                continue;
            }
            let wake_at = self.wake_at;
            let input = tokio::select! {
                biased;
                read = server.rooms.read(&mut self.stream) => match read {
                    Ok(octets) => {
                        unread = Some(octets);
                        continue;
                    }
                    Err(_) => Input::PeerClosed,
                },
                () = sleep_until(wake_at) => {
                    // A wake rings once; the session asks for the next one when it wants one.
                    self.wake_at = None;
                    Input::Wake
                }
                _ = stopping.wait_for(|stopping| *stopping), if !is_told => {
                    is_told = true;
                    Input::Shutdown
                }
            };
            self.session.handle(Instant::now(), input);
        }
    }

    /// Does what the session asks until it asks for nothing more, and sends what it says.
    async fn settle(&mut self) -> io::Result<()> {
        let mut out: Vec<u8> = Vec::new();
        while let Some(output) = self.session.poll() {
            match output {
                Output::Send(octets) if out.is_empty() => out = octets,
                Output::Send(octets) => out.extend_from_slice(&octets),
                Output::Ask(question) => {
                    let answer = self.answer(question).await;
                    self.session.handle(Instant::now(), Input::Answer(answer));
                }
                Output::Content(octets) => self.content(&octets).await,
                Output::TransactionAborted => self.abort().await,
                Output::AuthenticationAborted => self.exchange = None,
                Output::StartTls => {
                    self.send(&std::mem::take(&mut out), WRITE_TIMEOUT).await?;
                    self.handshake().await?;
                    self.session.handle(Instant::now(), Input::Secured);
                    // RFC 3207, 4.2: it was said in the clear.
                    (self.exchange, self.identity) = (None, None);
                    self.policy = Arc::clone(self.prepared.policy_for(self.client.ip()));
                    self.offer_mechanisms();
                }
                Output::WakeAt(at) => self.wake_at = Some(at),
                Output::Close => self.is_closing = true,
            }
        }
        if out.is_empty() { Ok(()) } else { self.send(&out, WRITE_TIMEOUT).await }
    }

    async fn send(&mut self, octets: &[u8], limit: Duration) -> io::Result<()> {
        let sent = tokio::time::timeout(limit, self.stream.write_all(octets)).await;
        sent.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    /// The handshake with the client.
    ///
    /// # Errors
    /// The connection is of no use any more.
    async fn handshake(&mut self) -> io::Result<()> {
        let (client, listener) = (self.client, &self.prepared.listener.name);
        let inbound = self.prepared.tls.inbound().ok_or(io::ErrorKind::NotConnected)?;
        let stream = self.stream.take_clear()?;
        let limit = self.prepared.session.handshake_timeout;
        let secured = tokio::time::timeout(limit, inbound.accept(stream)).await;
        match secured.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok((stream, facts)) => {
                tracing::debug!(event = "tls.established", %client, listener, version = facts.version, cipher_suite = facts.cipher_suite, "a client is inside TLS");
                self.names = stream.peer_alternative_names();
                self.stream = Stream::Secured(stream);
                self.tls = Some(Box::new(facts));
                Ok(())
            }
            Err(error) => {
                tracing::debug!(event = "tls.failed", %client, listener, error = &error as &dyn std::error::Error, "a handshake with a client has failed");
                Err(error)
            }
        }
    }

    async fn answer(&mut self, question: Question) -> Answer {
        match question {
            Question::StartTls => match self.prepared.tls.inbound() {
                Some(_) => Answer::Accept,
                None => reject(454, 4, 7, 0, "TLS is not available now, try again later"),
            },
            Question::Authenticate { mechanism, initial_response } => {
                self.authenticate(&mechanism, initial_response).await
            }
            Question::Respond(Response(octets)) => self.respond(&octets).await,
            Question::Sender(mail) => self.sender(mail),
            Question::Recipient(rcpt) => self.recipient(rcpt),
            Question::StartContent => self.start_content().await,
            Question::EndOfContent(summary) => self.end_of_content(summary).await,
        }
    }

    /// Begins an authentication with the users that there are now, and not those of when the connection was made.
    async fn authenticate(&mut self, mechanism: &str, initial_response: Option<Response>) -> Answer {
        let view = self.server.view();
        let prepared = view.and_then(|view| view.listeners.get(&self.prepared.listener.name).cloned());
        let prepared = prepared.unwrap_or_else(|| Rc::clone(&self.prepared));
        let Some(authenticator) = &prepared.authenticator else { return reply(sasl::Refusal::Mechanism) };
        let (facts, gate) = (self.facts(), &self.server.gate);
        let initial_response = initial_response.as_ref().map(|Response(octets)| octets.as_slice());
        let step = gate
            .step(|now, attempts| authenticator.begin(now, attempts, &facts, mechanism, initial_response));
        let step = step.await;
        self.concluded(step).await
    }

    async fn respond(&mut self, response: &[u8]) -> Answer {
        let Some(exchange) = self.exchange.take() else { return out_of_order() };
        let step = self.server.gate.step(|now, attempts| exchange.respond(now, attempts, response)).await;
        self.concluded(step).await
    }

    async fn concluded(&mut self, step: Option<sasl::Step>) -> Answer {
        let (client, listener) = (self.client, &self.prepared.listener.name);
        match step {
            None => {
                tracing::warn!(event = "authentication.busy", %client, listener, "more clients authenticate than can be served; one was told to come again");
                reject(454, 4, 7, 0, "too many authentications are under way, try again later")
            }
            Some(sasl::Step::Challenge { challenge, exchange }) => {
                self.exchange = Some(exchange);
                Answer::Challenge(challenge)
            }
            Some(sasl::Step::Done(sasl::Outcome::Accepted(sasl::Identity::User { name, mechanism }))) => {
                let known = self.server.view().and_then(|view| view.users.identity(&name));
                let Some(identity) = known else { return reply(sasl::Refusal::Credentials) };
                tracing::info!(event = "authentication.accepted", %client, listener, identity = identity.name, %mechanism, "a client has authenticated");
                self.identity = Some(identity.name.clone());
                self.policy = Arc::clone(self.prepared.policy_for_user(client.ip()));
                Answer::Accept
            }
            Some(sasl::Step::Done(sasl::Outcome::Accepted(sasl::Identity::Anonymous { trace }))) => {
                tracing::info!(event = "authentication.anonymous", %client, listener, trace, "a client is nobody in particular");
                Answer::Accept
            }
            Some(sasl::Step::Done(sasl::Outcome::Refused { why, reply_delay })) => {
                tracing::info!(event = "authentication.refused", %client, listener, why = %why, delay_ms = u64::try_from(reply_delay.as_millis()).unwrap_or(u64::MAX), "a client could not authenticate");
                let mut stopping = self.server.stopping.subscribe();
                tokio::select! {
                    () = tokio::time::sleep(reply_delay) => {}
                    _ = stopping.wait_for(|stopping| *stopping) => {}
                }
                reply(why)
            }
        }
    }

    /// The user that the client has authenticated as, as the configuration has him now.
    fn identity(&self) -> Result<Option<Arc<Identity>>, Answer> {
        let Some(name) = &self.identity else { return Ok(None) };
        match self.server.view().and_then(|view| view.users.identity_of(name)) {
            Some(identity) => Ok(Some(identity)),
            None => {
                Err(reject(550, 5, 7, 1, "The user that you have authenticated as is not there any more"))
            }
        }
    }

    fn sender(&mut self, mail: MailFrom) -> Answer {
        let identity = match self.identity() {
            Ok(identity) => identity,
            Err(refusal) => return refusal,
        };
        let helo = self.session.helo().unwrap_or_default().to_owned();
        let session = SessionFacts {
            client: self.client.to_string(),
            helo,
            protocol: self.session.protocol(),
            tls: self.tls.clone(),
            identity,
        };
        let mut submission = Submission::new(Arc::clone(&self.policy), session);
        let verdict = submission.sender(MailFacts {
            sender: mail.sender,
            size: mail.size,
            body: mail.body,
            smtputf8: mail.smtputf8,
            ret: mail.ret,
            envelope_id: mail.envelope_id,
            mt_priority: mail.mt_priority,
        });
        self.transaction = Some(Transaction {
            submission,
            id: MessageId(process::random()),
            recipients_octets: 0,
            content: Content::Awaited,
            content_since: Instant::now(),
            content_octets: 0,
        });
        answer(verdict)
    }

    fn recipient(&mut self, rcpt: RcptTo) -> Answer {
        let Some(view) = self.server.view() else { return reject(451, 4, 3, 0, "no configuration") };
        let Some(transaction) = &mut self.transaction else { return out_of_order() };
        let octets =
            rcpt.address.as_str().len() + rcpt.original_recipient.as_ref().map_or(0, String::len) + 16;
        if transaction.recipients_octets + octets > RECIPIENTS_OCTETS_MAX {
            return reject(452, 4, 5, 3, "too many recipients in one transaction");
        }
        let verdict = transaction.submission.recipient(
            RecipientFacts {
                address: ForwardPath::Mailbox(rcpt.address),
                notify: rcpt.notify,
                original_recipient: rcpt.original_recipient,
            },
            &*view,
        );
        if verdict.is_accept() {
            transaction.recipients_octets += octets;
        }
        answer(verdict)
    }

    async fn start_content(&mut self) -> Answer {
        let Some(transaction) = &mut self.transaction else { return out_of_order() };
        if self.server.store.unanswered_octets() > UNANSWERED_OCTETS_MAX {
            return reject(451, 4, 3, 2, "the queue does not keep up, try again later");
        }
        transaction.content = Content::Held(Vec::new());
        transaction.content_since = Instant::now();
        transaction.upload(&self.server, self.client).await;
        Answer::Accept
    }

    async fn content(&mut self, octets: &[u8]) {
        let Some(transaction) = &mut self.transaction else { return };
        transaction.submission.content(octets);
        transaction.content_octets += octets.len() as u64;
        if let Some(upload) = transaction.upload(&self.server, self.client).await {
            upload.push(octets).await;
        } else if let Content::Held(held) = &mut transaction.content {
            held.extend_from_slice(octets);
        }
    }

    async fn end_of_content(&mut self, summary: ContentSummary) -> Answer {
        let now = self.server.clock.now();
        let Some(mut transaction) = self.transaction.take() else { return out_of_order() };
        transaction.submission.end_content();
        transaction.upload(&self.server, self.client).await;
        let Transaction { submission, id, content: Content::Uploaded(upload), .. } = transaction else {
            return out_of_order();
        };
        let accepted = match submission.finish(now, ContentFacts { eight_bit: summary.eight_bit }) {
            Ok(accepted) => accepted,
            Err(rejection) => {
                upload.discard().await;
                return Answer::Reject(Reply::new(rejection.code, Some(rejection.status), rejection.text));
            }
        };
        let (client, octets, rank) = (self.client, summary.octets, accepted.rank);
        match upload.commit(accepted.envelope).await {
            Appended::Committed => {
                // RFC 6710, 4.1: the priority that was received is logged.
                let priority = rank.asked.map(|asked| asked.priority.get());
                let by = rank.asked.map(|asked| asked.by.name());
                tracing::debug!(event = "message.accepted", %id, %client, octets, precedence = rank.precedence.name(), priority, by, listener = self.prepared.listener.name, "accepted");
                accepted_reply(id, &rank)
            }
            Appended::Refused(Refusal::Full) => reject(452, 4, 3, 1, "the queue is full, try again later"),
            Appended::Refused(Refusal::Device) => {
                reject(451, 4, 3, 0, "the message could not be stored, try again later")
            }
            Appended::Refused(Refusal::Discarded) => {
                tracing::info!(event = "message.discarded", %id, %client, octets, "a message was discarded while it came in");
                reject(554, 5, 3, 0, "the message was discarded by an operator")
            }
            Appended::Refused(Refusal::Expired) => {
                reject(451, 4, 4, 2, "the content came too slowly, try again later")
            }
            Appended::Refused(Refusal::Invalid(why)) => {
                tracing::error!(event = "message.invalid", %id, why, "the store refused a message");
                reject(451, 4, 3, 0, "the message could not be stored, try again later")
            }
        }
    }

    async fn abort(&mut self) {
        if let Some(Transaction { content: Content::Uploaded(upload), .. }) = self.transaction.take() {
            upload.discard().await;
        }
    }
}

fn answer(verdict: Verdict) -> Answer {
    match verdict {
        Verdict::Accept => Answer::Accept,
        Verdict::Reject(rejection) => {
            Answer::Reject(Reply::new(rejection.code, Some(rejection.status), rejection.text))
        }
    }
}

/// RFC 6710, 4.1: a client that gets less than it has asked for is told so by the status and the first word.
fn accepted_reply(id: MessageId, rank: &Rank) -> Answer {
    match rank.priority.filter(|_| rank.is_lowered()) {
        Some(priority) => Answer::AcceptAs(
            EnhancedStatus::new(2, 3, 6),
            format!("{priority} is the priority here. Ok: queued as {id}"),
        ),
        None => Answer::AcceptText(format!("Ok: queued as {id}")),
    }
}

fn reject(code: u16, class: u8, subject: u16, detail: u16, text: &str) -> Answer {
    Answer::Reject(Reply::new(code, Some(EnhancedStatus::new(class, subject, detail)), text))
}

/// The session keeps the order of commands, so this is never said while it does.
fn out_of_order() -> Answer {
    reject(503, 5, 5, 1, "commands out of order")
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
