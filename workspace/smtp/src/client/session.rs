//! The session's machine. Replies come in the order of the commands, so what is awaited is a queue; its front belongs
//! to the transaction at the front.

use super::commands::{self, DotStuffer};
use super::header_edit::HeaderEdit;
use super::{ClientPolicy, Extensions, Input, Output, Protocol, Tls, Transaction};
use crate::reply::{Reply, ReplyReader};
use crate::timer::Timer;
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use sternpost_message::{Diagnostic, EnhancedStatus, ErrorScope, Outcome, ReversePath};

/// One session with a peer, from the greeting to the end. Holds at most one reply and the commands and content of the
/// inputs since the last `poll`.
#[derive(Debug)]
pub struct ClientSession {
    policy: ClientPolicy,
    stage: Stage,
    /// What is said comes and goes under TLS.
    is_secured: bool,
    extensions: Extensions,
    reader: ReplyReader,
    /// What the peer still has to answer, oldest first.
    expected: VecDeque<Expected>,
    /// Commands of the latest transaction that was begun, not yet sent.
    plan: VecDeque<Step>,
    /// The transaction that is answered now, and those behind it.
    running: VecDeque<Running>,
    /// The peer may still hold a transaction that came to nothing.
    needs_reset: bool,
    is_quitting: bool,
    send: Vec<u8>,
    events: VecDeque<Output>,
    active: Instant,
    timer: Timer,
}

/// Named by what is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Greeting,
    Hello,
    /// HELO, because the peer does not know EHLO.
    PlainHello,
    StartTlsReply,
    /// The peer is ready, and the driver has to be told.
    HandshakeDue,
    Handshake,
    Transactions,
    QuitReply,
    Closing,
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Session,
    Reset,
    Mail,
    Rcpt(usize),
    Data,
    /// A piece of content by BDAT.
    Chunk,
    /// The end of the content, for all accepted recipients.
    ContentEnd,
    /// The end of the content, for one recipient (LMTP).
    RecipientEnd(usize),
    /// The end of nothing: the peer wanted content though it had accepted nobody. RFC 2920, 3.1.
    LoneDot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Reset,
    Mail,
    Rcpt(usize),
    Data,
}

#[derive(Debug)]
struct Running {
    transaction: Box<Transaction>,
    /// Its commands are in the plan or sent.
    begun: bool,
    /// Which recipients have their result.
    resolved: Vec<bool>,
    accepted: Vec<usize>,
    mail_accepted: bool,
    chunked: bool,
    /// The peer takes over what the sender wants to hear of. RFC 3461, 5.2.1.
    peer_reports: bool,
    content: Content,
    /// What the peer must not get as it is stored, or not without.
    edit: Option<HeaderEdit>,
    /// Octets that were handed in.
    octets_taken: u64,
    replies_due: usize,
}

#[derive(Clone, Copy, Debug)]
enum Content {
    /// Not asked for yet.
    Waiting,
    /// The driver hands it in.
    Open(DotStuffer),
    Sent,
    /// Nobody wants it (any more).
    Over,
}

impl ClientSession {
    /// A session that begins now, with the connection just made.
    #[must_use]
    pub fn new(now: Instant, policy: ClientPolicy) -> Self {
        Self::begin(now, policy, false)
    }

    /// A session that begins now, behind a handshake: implicit TLS, RFC 8314, section 3.3.
    #[must_use]
    pub fn secured(now: Instant, policy: ClientPolicy) -> Self {
        Self::begin(now, policy, true)
    }

    fn begin(now: Instant, policy: ClientPolicy, is_secured: bool) -> Self {
        let mut session = Self {
            policy,
            stage: Stage::Greeting,
            is_secured,
            extensions: Extensions::default(),
            reader: ReplyReader::default(),
            expected: VecDeque::from([Expected::Session]),
            plan: VecDeque::new(),
            running: VecDeque::new(),
            needs_reset: false,
            is_quitting: false,
            send: Vec::new(),
            events: VecDeque::new(),
            active: now,
            timer: Timer::default(),
        };
        session.set_timer();
        session
    }

    /// Takes one input, whole.
    pub fn handle(&mut self, now: Instant, input: Input<'_>) {
        if self.is_over() {
            if let Input::Transaction(transaction) = input {
                self.running.push_back(Running::new(transaction));
                self.defer_all(ErrorScope::Message, &own(4, 4, 2, "The connection had ended"));
            }
            return;
        }
        match input {
            Input::Octets(octets) => self.octets(now, octets),
            Input::Transaction(transaction) => {
                if self.expected.is_empty() && !self.awaits_handshake() {
                    self.active = now;
                }
                self.running.push_back(Running::new(transaction));
            }
            Input::Content(piece) => self.content(now, piece),
            Input::ContentEnd => self.content_end(now),
            Input::Secured => self.handshake_done(now),
            Input::HandshakeFailed(diagnostic) => {
                if self.stage == Stage::Handshake {
                    self.lose(&diagnostic);
                }
            }
            Input::Quit => self.is_quitting = true,
            Input::Wake => {
                if self.timer.rings(now) {
                    self.time_out();
                }
            }
            Input::PeerClosed => self.peer_closed(),
            Input::ContentFailed => {
                self.send.clear();
                self.defer_all(ErrorScope::Message, &own(4, 3, 0, "The content could not be read"));
                self.stage = Stage::Closing;
            }
        }
        self.advance(now);
        self.set_timer();
    }

    /// The next work, until there is none.
    pub fn poll(&mut self) -> Option<Output> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        if !self.send.is_empty() && !self.content_lacks_only_its_end() {
            return Some(Output::Send(std::mem::take(&mut self.send)));
        }
        match self.stage {
            Stage::Closing => {
                self.stage = Stage::Closed;
                Some(Output::Close)
            }
            Stage::HandshakeDue => {
                self.stage = Stage::Handshake;
                Some(Output::StartTls)
            }
            Stage::Closed => None,
            _ => self.timer.announce().map(Output::WakeAt),
        }
    }

    /// Whether a transaction handed in now would be begun without waiting for the end of another.
    #[must_use]
    pub fn can_take_transaction(&self) -> bool {
        let goes_on = !self.is_quitting && !self.is_over() && self.stage != Stage::QuitReply;
        goes_on
            && match self.running.front() {
                None => true,
                Some(front) => {
                    let content_is_on_its_way = matches!(front.content, Content::Open(_) | Content::Sent);
                    self.running.len() == 1 && self.chains() && content_is_on_its_way && !front.chunked
                }
            }
    }

    /// The peer has greeted and taken the EHLO, under TLS where there is TLS, and holds the association.
    #[must_use]
    pub fn is_admitted(&self) -> bool {
        self.stage == Stage::Transactions
    }

    /// Whether nothing is going on: the session waits for a transaction or for [`Input::Quit`].
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.stage == Stage::Transactions && self.running.is_empty() && self.expected.is_empty()
    }

    /// Whether what is said comes and goes under TLS.
    #[must_use]
    pub const fn is_secured(&self) -> bool {
        self.is_secured
    }

    /// What the peer offers; nothing before its EHLO reply, and nothing between the handshake and the next.
    #[must_use]
    pub const fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// Octets held between two calls. For invariants in tests.
    #[must_use]
    pub fn held_octets(&self) -> usize {
        self.reader.held_octets() + self.send.len()
    }

    /// The last piece leaves together with the final dot and the commands behind it: one write for a small message.
    fn content_lacks_only_its_end(&self) -> bool {
        self.running.front().is_some_and(|front| {
            matches!(front.content, Content::Open(_))
                && front.octets_taken > 0
                && front.octets_taken == front.transaction.content_octets
        })
    }

    const fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Closing | Stage::Closed)
    }

    const fn awaits_handshake(&self) -> bool {
        matches!(self.stage, Stage::HandshakeDue | Stage::Handshake)
    }

    const fn chains(&self) -> bool {
        self.policy.chain && self.extensions.pipelining
    }

    fn octets(&mut self, now: Instant, octets: &[u8]) {
        let mut rest = octets;
        while !rest.is_empty() && !self.is_over() {
            // Anybody on the way may have put it there: it must not be taken for what the peer says under TLS.
            if self.awaits_handshake() {
                let text = "The peer said something between its reply to STARTTLS and the handshake";
                return self.lose(&own(4, 7, 0, text));
            }
            match self.reader.read(rest) {
                Ok((taken, reply)) => {
                    rest = &rest[taken..];
                    if let Some(reply) = reply {
                        self.active = now;
                        self.reply(&reply);
                        self.advance(now);
                    }
                }
                Err(error) => self.lose(&own(4, 5, 0, &error.to_string())),
            }
        }
    }

    fn reply(&mut self, reply: &Reply) {
        // 421 may answer anything, and is the peer's last word (RFC 5321, 3.8).
        if reply.code == 421 && self.stage != Stage::QuitReply {
            return if self.is_idle() { self.stage = Stage::Closing } else { self.lose(&diagnostic(reply)) };
        }
        let Some(expected) = self.expected.pop_front() else { return self.unexpected(reply) };
        if expected == Expected::Session {
            return self.session_reply(reply);
        }
        if expected == Expected::Reset {
            return if reply.is_positive() {
                self.needs_reset = false;
            } else {
                self.lose(&diagnostic(reply));
            };
        }
        if let Some(front) = self.running.front_mut() {
            front.replies_due = front.replies_due.saturating_sub(1);
        }
        if reply.code / 100 == 3 && expected != Expected::Data
            || expected == Expected::Data && reply.is_positive()
        {
            return self.lose(&out_of_turn(reply));
        }
        match expected {
            Expected::Mail => self.mail_reply(reply),
            Expected::Rcpt(index) => self.rcpt_reply(index, reply),
            Expected::Data => self.data_reply(reply),
            Expected::Chunk if reply.is_positive() => {}
            Expected::Chunk => {
                self.resolve_rest(&self.outcome(reply));
                self.end_content(Content::Over);
                // RFC 3030, 2: after a failed BDAT the state is unknown until RSET.
                self.needs_reset = true;
            }
            Expected::ContentEnd => {
                let failed_chunk =
                    !reply.is_positive() && self.running.front().is_some_and(|front| front.chunked);
                self.needs_reset = self.needs_reset || failed_chunk;
                self.resolve_rest(&self.outcome(reply));
            }
            Expected::RecipientEnd(index) => self.resolve(index, self.outcome(reply)),
            Expected::LoneDot | Expected::Session | Expected::Reset => {}
        }
    }

    /// The greeting, and the replies to EHLO, LHLO, HELO and QUIT.
    fn session_reply(&mut self, reply: &Reply) {
        let is_lmtp = self.policy.protocol == Protocol::Lmtp;
        match self.stage {
            Stage::Greeting if reply.code == 220 => self.extended_hello(),
            Stage::Hello if reply.is_positive() => {
                self.extensions = Extensions::parse(&reply.text);
                let wants_tls = self.policy.tls != Tls::Never && !self.is_secured;
                if wants_tls && self.extensions.starttls {
                    self.command("STARTTLS", Stage::StartTlsReply);
                } else {
                    self.go_on("the peer does not offer STARTTLS");
                }
            }
            Stage::Hello if reply.code >= 500 && !is_lmtp => self.hello("HELO", Stage::PlainHello),
            Stage::PlainHello if reply.is_positive() => self.go_on("the peer knows no EHLO"),
            Stage::StartTlsReply if reply.code == 220 => self.stage = Stage::HandshakeDue,
            Stage::StartTlsReply if reply.code >= 400 => {
                self.go_on(&format!("the peer refused STARTTLS: {}", diagnostic(reply)));
            }
            // Whether the peer speaks TLS now or not, nobody can know.
            Stage::StartTlsReply => self.lose(&out_of_turn(reply)),
            Stage::Greeting | Stage::Hello | Stage::PlainHello => self.lose_politely(&diagnostic(reply)),
            Stage::QuitReply => self.stage = Stage::Closing,
            Stage::HandshakeDue | Stage::Handshake | Stage::Transactions | Stage::Closing | Stage::Closed => {
            }
        }
    }

    fn extended_hello(&mut self) {
        let verb = if self.policy.protocol == Protocol::Lmtp { "LHLO" } else { "EHLO" };
        self.hello(verb, Stage::Hello);
    }

    fn hello(&mut self, verb: &str, stage: Stage) {
        self.command(&format!("{verb} {}", self.policy.hostname), stage);
    }

    /// A command of the session, outside all transactions.
    fn command(&mut self, line: &str, stage: Stage) {
        self.send.extend_from_slice(line.as_bytes());
        self.send.extend_from_slice(b"\r\n");
        self.expected.push_back(Expected::Session);
        self.stage = stage;
    }

    /// To the transactions, as the session is: secured or not. `lack` is why there is no TLS where some was wanted.
    fn go_on(&mut self, lack: &str) {
        if self.policy.tls == Tls::Required && !self.is_secured {
            self.lose_politely(&own(4, 7, 10, &format!("TLS is required, and {lack}")));
        } else {
            self.stage = Stage::Transactions;
        }
    }

    /// RFC 3207, 4.2: what the peer has said before the handshake is forgotten, and EHLO said again.
    fn handshake_done(&mut self, now: Instant) {
        if self.stage != Stage::Handshake {
            return;
        }
        assert_eq!(self.held_octets(), 0, "the plain stream ended with the reply to STARTTLS");
        self.extensions = Extensions::default();
        self.is_secured = true;
        self.active = now;
        self.extended_hello();
    }

    /// A reply to nothing. While content is on its way it is the peer's early word about it.
    fn unexpected(&mut self, reply: &Reply) {
        let content_is_open =
            self.running.front().is_some_and(|front| matches!(front.content, Content::Open(_)));
        if content_is_open && reply.code >= 400 {
            self.resolve_rest(&self.outcome(reply));
        }
        self.send.clear();
        self.lose(&out_of_turn(reply));
    }

    fn mail_reply(&mut self, reply: &Reply) {
        if let (true, Some(front)) = (reply.is_positive(), self.running.front_mut()) {
            front.mail_accepted = true;
            return;
        }
        self.plan.clear();
        self.resolve_rest(&self.outcome(reply));
    }

    fn rcpt_reply(&mut self, index: usize, reply: &Reply) {
        // RFC 5321, 4.5.3.1.10: 552 for too many recipients is an old error, and transient.
        let too_many = reply.code == 552 && reply.enhanced == Some(EnhancedStatus::new(5, 5, 3));
        let outcome = if too_many {
            let status = EnhancedStatus::new(4, 5, 3);
            Outcome::Deferred {
                scope: ErrorScope::Message,
                diagnostic: Diagnostic { status, ..diagnostic(reply) },
            }
        } else {
            self.outcome(reply)
        };
        match self.running.front_mut() {
            Some(front) if reply.is_positive() && !front.resolved[index] => front.accepted.push(index),
            _ if reply.is_positive() => {}
            _ => self.resolve(index, outcome),
        }
    }

    fn data_reply(&mut self, reply: &Reply) {
        let Some(front) = self.running.front_mut() else { return };
        if reply.code >= 400 {
            self.needs_reset = front.mail_accepted;
            self.resolve_rest(&self.outcome(reply));
            return self.end_content(Content::Over);
        }
        if !front.accepted.is_empty() {
            return self.open_content();
        }
        front.content = Content::Over;
        if self.policy.protocol == Protocol::Lmtp {
            // RFC 2033, 4.2: it had to refuse, and no reply would follow the dot.
            return self.lose(&own(4, 5, 0, "The peer wants content though it accepted no recipient"));
        }
        self.send.extend_from_slice(b".\r\n");
        self.expect(Expected::LoneDot);
    }

    fn open_content(&mut self) {
        let Some(front) = self.running.front_mut() else { return };
        front.content = Content::Open(DotStuffer::new());
        self.events.push_back(Output::NeedContent { transaction: front.transaction.id });
    }

    fn end_content(&mut self, end: Content) {
        if let Some(front) = self.running.front_mut() {
            front.content = end;
        }
    }

    fn content(&mut self, now: Instant, piece: &[u8]) {
        let Some(front) = self.running.front_mut() else { return };
        let Content::Open(stuffer) = &mut front.content else { return };
        self.active = now;
        front.octets_taken += piece.len() as u64;
        let octets_max = front.transaction.content_octets;
        if front.octets_taken > octets_max && front.chunked {
            // The last chunk was already named as such: the message would end within itself.
            return self.content_differs();
        }
        let is_last = front.octets_taken == octets_max;
        let mut edited = Vec::new();
        let piece = match &mut front.edit {
            Some(edit) if !edit.is_done() => {
                edit.push(piece, &mut edited);
                if is_last {
                    edit.end(&mut edited);
                }
                edited.as_slice()
            }
            _ => piece,
        };
        if !front.chunked {
            return stuffer.push(piece, &mut self.send);
        }
        if piece.is_empty() && !is_last {
            return;
        }
        let last = if is_last { " LAST" } else { "" };
        self.send.extend_from_slice(format!("BDAT {}{last}\r\n", piece.len()).as_bytes());
        self.send.extend_from_slice(piece);
        if is_last {
            self.expect_content_end();
        } else {
            self.expect(Expected::Chunk);
        }
    }

    fn content_end(&mut self, now: Instant) {
        let Some(front) = self.running.front_mut() else { return };
        let Content::Open(stuffer) = front.content else { return };
        self.active = now;
        if front.octets_taken != front.transaction.content_octets {
            return self.content_differs();
        }
        if front.chunked {
            self.send.extend_from_slice(b"BDAT 0 LAST\r\n");
        } else {
            stuffer.end(&mut self.send);
        }
        self.expect_content_end();
    }

    /// What was handed in is not what was announced: nobody may take it for the message.
    fn content_differs(&mut self) {
        self.send.clear();
        self.defer_all(ErrorScope::Message, &own(4, 3, 0, "The content is not as long as it should be"));
        self.stage = Stage::Closing;
    }

    fn expect_content_end(&mut self) {
        self.end_content(Content::Sent);
        if self.policy.protocol == Protocol::Smtp {
            return self.expect(Expected::ContentEnd);
        }
        let accepted = self.running.front_mut().map(|front| std::mem::take(&mut front.accepted));
        for index in accepted.unwrap_or_default() {
            self.expect(Expected::RecipientEnd(index));
        }
    }

    /// Awaits a reply for the transaction at the front.
    fn expect(&mut self, expected: Expected) {
        self.expected.push_back(expected);
        if let Some(front) = self.running.front_mut() {
            front.replies_due += 1;
        }
    }

    /// Does whatever can be done now.
    fn advance(&mut self, now: Instant) {
        if self.stage != Stage::Transactions {
            return;
        }
        let was_waiting = !self.expected.is_empty();
        loop {
            self.begin_next();
            self.send_plan();
            if !self.settle() {
                break;
            }
        }
        if self.is_quitting && self.is_idle() {
            self.command("QUIT", Stage::QuitReply);
        }
        if !was_waiting && !self.expected.is_empty() {
            self.active = now;
        }
    }

    /// Begins the next transaction when it is its turn: alone, or behind the final dot of the one before.
    fn begin_next(&mut self) {
        while let Some(at) = self.running.iter().position(|running| !running.begun) {
            let may_begin = match at {
                0 => true,
                1 => {
                    let front = &self.running[0];
                    self.chains() && matches!(front.content, Content::Sent) && !front.chunked
                }
                _ => false,
            };
            if !may_begin {
                return;
            }
            let running = &mut self.running[at];
            let obstacle = commands::obstacle(&running.transaction, &self.extensions);
            let Some(diagnostic) = obstacle else {
                running.begun = true;
                let extensions = &self.extensions;
                running.peer_reports = extensions.dsn;
                running.edit = HeaderEdit::new(&running.transaction, extensions);
                let is_large = running.transaction.content_octets >= self.policy.bdat_octets_min;
                // How many replies follow a refused chunk under LMTP is nowhere said: there DATA is used.
                let may_chunk = extensions.chunking && self.policy.protocol == Protocol::Smtp;
                running.chunked = may_chunk && extensions.pipelining && is_large;
                self.plan.extend(self.needs_reset.then_some(Step::Reset));
                self.plan.push_back(Step::Mail);
                self.plan.extend((0..running.transaction.recipients.len()).map(Step::Rcpt));
                self.plan.extend((!running.chunked).then_some(Step::Data));
                return;
            };
            if let Some(mut running) = self.running.remove(at) {
                running.resolve_rest(&Outcome::Failed(diagnostic), &mut self.events);
                self.events.push_back(Output::TransactionDone { transaction: running.transaction.id });
            }
        }
    }

    /// Sends what may be sent: the whole group to a peer that pipelines, else one command.
    fn send_plan(&mut self) {
        let Some(at) = self.running.iter().rposition(|running| running.begun) else { return };
        while self.extensions.pipelining || self.expected.is_empty() {
            let Some(step) = self.plan.pop_front() else { return };
            let running = &mut self.running[at];
            let expected = match step {
                Step::Reset => {
                    self.send.extend_from_slice(b"RSET\r\n");
                    self.expected.push_back(Expected::Reset);
                    continue;
                }
                Step::Mail => {
                    let added = running.edit.as_ref().map_or(0, HeaderEdit::added_octets_max);
                    commands::mail(&running.transaction, added, &self.extensions, &mut self.send);
                    Expected::Mail
                }
                Step::Rcpt(index) => {
                    commands::rcpt(&running.transaction.recipients[index], &self.extensions, &mut self.send);
                    Expected::Rcpt(index)
                }
                Step::Data if !self.extensions.pipelining && running.accepted.is_empty() => continue,
                Step::Data => {
                    self.send.extend_from_slice(b"DATA\r\n");
                    Expected::Data
                }
            };
            running.replies_due += 1;
            self.expected.push_back(expected);
        }
    }

    /// Sees whether the transaction at the front goes on or is done. True when another may begin.
    fn settle(&mut self) -> bool {
        let Some(front) = self.running.front() else { return false };
        if !front.begun || front.replies_due > 0 || !self.plan.is_empty() {
            return false;
        }
        match front.content {
            Content::Open(_) => return false,
            Content::Waiting if front.chunked && !front.accepted.is_empty() => {
                self.open_content();
                return false;
            }
            // All recipients were refused, and the peer did not see the end of the transaction.
            Content::Waiting => self.needs_reset = front.mail_accepted,
            Content::Sent | Content::Over => {}
        }
        if let Some(mut front) = self.running.pop_front() {
            let silent = own(4, 5, 0, "The peer did not answer for this recipient");
            let outcome = Outcome::Deferred { scope: ErrorScope::Message, diagnostic: silent };
            front.resolve_rest(&outcome, &mut self.events);
            self.events.push_back(Output::TransactionDone { transaction: front.transaction.id });
        }
        true
    }

    fn resolve(&mut self, index: usize, outcome: Outcome) {
        if let Some(front) = self.running.front_mut() {
            front.resolve(index, outcome, &mut self.events);
        }
    }

    fn resolve_rest(&mut self, outcome: &Outcome) {
        if let Some(front) = self.running.front_mut() {
            front.resolve_rest(outcome, &mut self.events);
        }
    }

    /// What a reply to a command of a transaction means for a recipient.
    fn outcome(&self, reply: &Reply) -> Outcome {
        let diagnostic = diagnostic(reply);
        match (reply.code, self.policy.protocol) {
            (200..=299, Protocol::Smtp) => Outcome::Transferred(diagnostic),
            (200..=299, Protocol::Lmtp) => Outcome::Delivered(diagnostic),
            // RFC 3207, 4: it wants TLS first, and this session could not, or was not to. The message is not at fault.
            (530, _) if !self.is_secured => Outcome::Deferred { scope: ErrorScope::Peer, diagnostic },
            (500..=599, _) => Outcome::Failed(diagnostic),
            _ => Outcome::Deferred { scope: ErrorScope::Message, diagnostic },
        }
    }

    fn time_out(&mut self) {
        if self.stage == Stage::QuitReply {
            self.stage = Stage::Closing;
            return;
        }
        let awaited = match self.expected.front() {
            Some(Expected::Session) if self.stage == Stage::Greeting => "a greeting",
            Some(Expected::Session) if self.stage == Stage::StartTlsReply => "the reply to STARTTLS",
            Some(Expected::Session) => "the reply to EHLO",
            Some(Expected::Reset) => "the reply to RSET",
            Some(Expected::Mail) => "the reply to MAIL",
            Some(Expected::Rcpt(_)) => "the reply to RCPT",
            Some(Expected::Data) => "the reply to DATA",
            None if self.awaits_handshake() => "the TLS handshake",
            Some(Expected::Chunk) | None => "content to be taken",
            Some(Expected::ContentEnd | Expected::RecipientEnd(_) | Expected::LoneDot) => {
                "the reply to the content"
            }
        };
        self.lose(&own(4, 4, 2, &format!("Timed out waiting for {awaited}")));
    }

    fn peer_closed(&mut self) {
        if self.stage == Stage::QuitReply || self.is_idle() {
            self.stage = Stage::Closing;
            return;
        }
        self.send.clear();
        self.lose(&own(4, 4, 2, "The peer closed the connection"));
    }

    /// The session cannot go on, by the peer's doing.
    fn lose(&mut self, diagnostic: &Diagnostic) {
        // Whoever is told of the peer first knows what the results are worth.
        self.events.push_back(Output::Failed { diagnostic: diagnostic.clone() });
        self.defer_all(ErrorScope::Peer, diagnostic);
        self.stage = Stage::Closing;
    }

    /// As `lose`, from a peer that listens.
    fn lose_politely(&mut self, diagnostic: &Diagnostic) {
        self.lose(diagnostic);
        self.send.extend_from_slice(b"QUIT\r\n");
    }

    fn defer_all(&mut self, scope: ErrorScope, diagnostic: &Diagnostic) {
        self.plan.clear();
        self.expected.clear();
        for mut running in std::mem::take(&mut self.running) {
            let outcome = Outcome::Deferred { scope, diagnostic: diagnostic.clone() };
            running.resolve_rest(&outcome, &mut self.events);
            self.events.push_back(Output::TransactionDone { transaction: running.transaction.id });
        }
    }

    fn set_timer(&mut self) {
        let deadline = if self.is_over() { None } else { self.patience() };
        self.timer.set(deadline.and_then(|patience| self.active.checked_add(patience)));
    }

    fn patience(&self) -> Option<Duration> {
        let timeouts = &self.policy.timeouts;
        let content_is_open =
            self.running.front().is_some_and(|front| matches!(front.content, Content::Open(_)));
        match self.expected.front() {
            Some(Expected::Session) => Some(match self.stage {
                Stage::Greeting => timeouts.greeting,
                Stage::QuitReply => timeouts.quit,
                Stage::StartTlsReply => timeouts.starttls,
                _ => timeouts.hello,
            }),
            Some(Expected::Reset | Expected::Mail) => Some(timeouts.mail),
            Some(Expected::Rcpt(_)) => Some(timeouts.rcpt),
            Some(Expected::Data) => Some(timeouts.data_init),
            Some(Expected::Chunk) => Some(timeouts.data_block),
            Some(Expected::ContentEnd | Expected::RecipientEnd(_) | Expected::LoneDot) => {
                Some(timeouts.data_end)
            }
            None if self.awaits_handshake() => Some(timeouts.handshake),
            None => content_is_open.then_some(timeouts.data_block),
        }
    }
}

impl Running {
    fn new(transaction: Box<Transaction>) -> Self {
        Self {
            resolved: vec![false; transaction.recipients.len()],
            transaction,
            begun: false,
            accepted: Vec::new(),
            mail_accepted: false,
            chunked: false,
            peer_reports: false,
            content: Content::Waiting,
            edit: None,
            octets_taken: 0,
            replies_due: 0,
        }
    }

    /// The first result of a recipient stands.
    fn resolve(&mut self, index: usize, outcome: Outcome, events: &mut VecDeque<Output>) {
        if !std::mem::replace(&mut self.resolved[index], true) {
            let outcome = if self.success_report_is_owed(index) { owing(outcome) } else { outcome };
            events.push_back(Output::Result { transaction: self.transaction.id, recipient: index, outcome });
        }
    }

    /// Whether a success is to be told to the sender by us: who does not know DSN will not. RFC 3461, 5.2.2 and 5.2.3.
    fn success_report_is_owed(&self, index: usize) -> bool {
        let is_wanted = self.transaction.recipients[index].notify.is_some_and(|notify| notify.success);
        is_wanted && !self.peer_reports && self.transaction.sender != ReversePath::Null
    }

    fn resolve_rest(&mut self, outcome: &Outcome, events: &mut VecDeque<Output>) {
        for index in 0..self.resolved.len() {
            if !self.resolved[index] {
                self.resolve(index, outcome.clone(), events);
            }
        }
    }
}

/// The same outcome with its report to be made.
fn owing(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Delivered(diagnostic) => Outcome::DeliveredReportOwed(diagnostic),
        Outcome::Transferred(diagnostic) => Outcome::RelayedReportOwed(diagnostic),
        other => other,
    }
}

fn own(class: u8, subject: u16, detail: u16, text: &str) -> Diagnostic {
    Diagnostic::own(EnhancedStatus::new(class, subject, detail), text)
}

fn out_of_turn(reply: &Reply) -> Diagnostic {
    own(4, 5, 0, &format!("The peer answered out of turn: {}", diagnostic(reply)))
}

/// The peer's words. `remote` is the driver's to fill in.
fn diagnostic(reply: &Reply) -> Diagnostic {
    Diagnostic {
        status: reply.status(),
        reply_code: Some(reply.code),
        text: Diagnostic::one_line(&reply.text),
        remote: String::new(),
    }
}
