//! The session's machine: what may come when, and what is answered.

mod authentication;
mod starttls;

use super::command::{Chunk, Command};
use super::content::{ContentReader, Framing, Progress, wire_octets_max};
use super::{
    Answer, Authentication, ContentSummary, Input, Output, Question, ServerPolicy, StartTls, parameters,
    replies,
};
use crate::Protocol;
use crate::reply::Reply;
use crate::timer::Timer;
use memchr::memchr;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;
use sternpost_message::{Diagnostic, EnhancedStatus};

/// The driver's words in a positive reply: 512 octets (RFC 5321, 4.5.3.1.5) less codes and CR LF.
const WORDS_OCTETS_MAX: usize = 500;
/// What [`ServerSession::protocol`] says before the first sender.
const PROTOCOL_UNKNOWN: &str = "SMTP";

/// One SMTP session, from the greeting to the end. Holds at most one command line, the replies of one piece of input
/// and the content of one piece of input.
#[derive(Debug)]
pub struct ServerSession {
    policy: Arc<ServerPolicy>,
    state: State,
    /// The start of a command line whose end has not come.
    line: Vec<u8>,
    /// The line is too long: its octets are dropped up to its end.
    line_overflows: bool,
    events: VecDeque<Output>,
    replies: Vec<u8>,
    replies_released: bool,
    /// The driver holds octets that were offered and not taken.
    input_waits: bool,
    question: Option<Asked>,
    /// What is said comes and goes under TLS.
    is_secured: bool,
    /// STARTTLS was refused for now.
    tls_was_refused: bool,
    /// What AUTH is announced with; empty where it is not.
    mechanisms: String,
    is_authenticated: bool,
    client: Option<Client>,
    transaction: Option<Transaction>,
    /// A step of a transaction was refused: what a pipelining client sent behind it is out of place, yet no error.
    refused: bool,
    content: Option<ContentReader>,
    /// Replies behind the end of the content: one; in LMTP one for each recipient.
    replies_due: usize,
    protocol: &'static str,
    errors: u32,
    transactions: u32,
    is_shutting_down: bool,
    started: Instant,
    active: Instant,
    timer: Timer,
}

/// Named by what is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Command,
    /// The response to a challenge.
    Response,
    /// The content of DATA.
    Content,
    /// The content of one BDAT.
    ChunkOctets {
        remaining: u64,
        is_last: bool,
    },
    /// The end of a chunk that goes to nobody, and the reply behind it.
    ChunkEnd {
        remaining: u64,
        /// None when the refusal is already said.
        reply: Option<&'static str>,
    },
    /// The reply to STARTTLS is still to leave.
    HandshakeDue,
    Handshake,
    /// Nothing but the last poll.
    Closing,
    Closed,
}

#[derive(Debug)]
enum Asked {
    StartTls,
    Authentication,
    Sender { smtputf8: bool },
    Recipient,
    StartContent(Start),
    EndOfContent,
}

#[derive(Clone, Copy, Debug)]
enum Start {
    Data,
    Chunk(Chunk),
}

#[derive(Debug)]
struct Client {
    name: String,
    extended: bool,
}

#[derive(Debug)]
struct Transaction {
    smtputf8: bool,
    recipients: usize,
}

impl ServerSession {
    /// A session that begins now, in the clear. Its greeting waits in [`Self::poll`].
    #[must_use]
    pub fn new(now: Instant, policy: Arc<ServerPolicy>) -> Self {
        Self::begin(now, policy, false)
    }

    /// A session that begins now, behind a handshake: implicit TLS, RFC 8314, section 3.3.
    #[must_use]
    pub fn secured(now: Instant, policy: Arc<ServerPolicy>) -> Self {
        Self::begin(now, policy, true)
    }

    fn begin(now: Instant, policy: Arc<ServerPolicy>, is_secured: bool) -> Self {
        let name = if policy.protocol == Protocol::Lmtp { "LMTP" } else { "ESMTP" };
        let greeting = format!("220 {} {name} Sternpost\r\n", policy.hostname);
        let mut session = Self {
            policy,
            state: State::Command,
            line: Vec::new(),
            line_overflows: false,
            events: VecDeque::new(),
            replies: greeting.into_bytes(),
            replies_released: false,
            input_waits: false,
            question: None,
            is_secured,
            tls_was_refused: false,
            mechanisms: String::new(),
            is_authenticated: false,
            client: None,
            transaction: None,
            refused: false,
            content: None,
            replies_due: 1,
            protocol: PROTOCOL_UNKNOWN,
            errors: 0,
            transactions: 0,
            is_shutting_down: false,
            started: now,
            active: now,
            timer: Timer::default(),
        };
        session.set_timer();
        session
    }

    /// Takes one input and gives the octets taken of [`Input::Octets`]: all of them, unless a question is open or the
    /// session is ending. The driver keeps the rest and offers it again after the answer. A driver that reads on while
    /// a question is open offers what it reads, though nothing is taken: that it is there decides about STARTTLS.
    pub fn handle(&mut self, now: Instant, input: Input<'_>) -> usize {
        let mut taken = 0;
        match input {
            _ if matches!(self.state, State::Closing | State::Closed) => return 0,
            Input::Octets(octets) => taken = self.octets(now, octets),
            Input::Answer(answer) => {
                self.active = now;
                self.answer(&answer);
            }
            Input::Secured => self.handshake_done(now),
            Input::Wake => self.wake(now),
            Input::PeerClosed => self.close_silently(),
            Input::Shutdown => {
                self.is_shutting_down = true;
                if self.is_idle() {
                    self.close_with(replies::SHUTTING_DOWN);
                }
            }
        }
        self.set_timer();
        taken
    }

    /// The next work, until there is none.
    pub fn poll(&mut self) -> Option<Output> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        let is_closing = self.state == State::Closing;
        let is_held = (self.question.is_some() || self.input_waits) && !self.replies_released;
        if !self.replies.is_empty() && (is_closing || !is_held) {
            return Some(Output::Send(std::mem::take(&mut self.replies)));
        }
        self.replies_released = false;
        match self.state {
            State::Closing => {
                self.state = State::Closed;
                Some(Output::Close)
            }
            State::HandshakeDue => {
                self.state = State::Handshake;
                Some(Output::StartTls)
            }
            State::Closed => None,
            _ => self.timer.announce().map(Output::WakeAt),
        }
    }

    /// Whether octets would be taken: no question is open, no handshake awaited, and the session goes on.
    #[must_use]
    pub const fn wants_input(&self) -> bool {
        self.question.is_none()
            && !self.awaits_handshake()
            && !matches!(self.state, State::Closing | State::Closed)
    }

    const fn awaits_handshake(&self) -> bool {
        matches!(self.state, State::HandshakeDue | State::Handshake)
    }

    /// Lets replies out although a question is open or octets wait: for a driver whose answer takes long.
    pub const fn release_replies(&mut self) {
        self.replies_released = true;
    }

    /// How the message of the latest sender came, for the `with` clause of its trace header. RFC 3848, RFC 6531 4.3.
    #[must_use]
    pub const fn protocol(&self) -> &'static str {
        self.protocol
    }

    /// Whether what is said comes and goes under TLS.
    #[must_use]
    pub const fn is_secured(&self) -> bool {
        self.is_secured
    }

    /// Whether the client has said who it is, and nothing has made that void.
    #[must_use]
    pub const fn is_authenticated(&self) -> bool {
        self.is_authenticated
    }

    /// Has these mechanisms announced from the next EHLO on, in this order. To be said when the session begins and behind
    /// every handshake, which makes it forget them: what can be offered depends on the connection.
    pub fn offer_mechanisms<'a>(&mut self, names: impl IntoIterator<Item = &'a str>) {
        self.mechanisms = names.into_iter().collect::<Vec<_>>().join(" ");
    }

    /// The name that the client gave itself.
    #[must_use]
    pub fn helo(&self) -> Option<&str> {
        self.client.as_ref().map(|client| client.name.as_str())
    }

    /// Octets held between two calls. For invariants in tests.
    #[must_use]
    pub fn held_octets(&self) -> usize {
        self.line.len() + self.replies.len()
    }

    fn is_idle(&self) -> bool {
        let between_commands = self.state == State::Command && self.line.is_empty() && !self.line_overflows;
        between_commands && self.question.is_none() && self.transaction.is_none() && !self.input_waits
    }

    fn octets(&mut self, now: Instant, octets: &[u8]) -> usize {
        if !octets.is_empty() {
            // No word of ours: the client, if there is one, speaks TLS by now.
            if self.awaits_handshake() {
                self.close_silently();
            }
            self.active = now;
        }
        let mut taken = 0;
        while taken < octets.len() && self.wants_input() {
            let rest = &octets[taken..];
            taken += match self.state {
                State::Command | State::Response => self.command_octets(rest),
                State::Content => self.content_octets(rest),
                State::ChunkOctets { remaining, is_last } => self.chunk_octets(rest, remaining, is_last),
                State::ChunkEnd { remaining, reply } => self.drop_chunk(rest, remaining, reply),
                State::HandshakeDue | State::Handshake | State::Closing | State::Closed => 0,
            };
        }
        self.input_waits = taken < octets.len();
        taken
    }

    /// Reads up to the end of one command line.
    fn command_octets(&mut self, octets: &[u8]) -> usize {
        let Some(length) = memchr(b'\n', octets) else {
            self.hold_line(octets);
            return octets.len();
        };
        let piece = &octets[..=length];
        if self.line.is_empty() && !self.line_overflows {
            if piece.len() > self.line_octets_max(piece) {
                self.line_too_long();
            } else {
                self.line(piece);
            }
        } else {
            self.hold_line(piece);
            if std::mem::take(&mut self.line_overflows) {
                self.line_too_long();
            } else {
                let mut line = std::mem::take(&mut self.line);
                self.line(&line);
                line.clear();
                self.line = line;
            }
        }
        piece.len()
    }

    fn hold_line(&mut self, octets: &[u8]) {
        if self.line.len() + octets.len() > self.line_octets_max(octets) {
            self.line_overflows = true;
        }
        if self.line_overflows {
            self.line.clear();
        } else {
            self.line.extend_from_slice(octets);
        }
    }

    /// One whole line with its LF.
    fn line(&mut self, line: &[u8]) {
        let bare = line.strip_suffix(b"\r\n");
        if self.state == State::Response {
            return match bare {
                Some(line) => self.response(line),
                None => self.end_authentication(replies::LINE_ENDS_BARE),
            };
        }
        let Some(line) = bare else { return self.error(replies::LINE_ENDS_BARE) };
        let first = self.comes_first();
        match (Command::parse(line), first) {
            (Ok(Command::Bdat(chunk)), Some(first)) => self.begin_dropping(chunk, first),
            (Ok(command), Some(first)) if !command.is_served_first(self.needs_tls_first()) => {
                self.out_of_place(first);
            }
            (Err(replies::NOT_IMPLEMENTED), Some(first)) => self.out_of_place(first),
            (Ok(command), _) => self.command(command),
            (Err(replies::CHUNK_WITHOUT_SIZE), _) => self.close_with(replies::CHUNK_WITHOUT_SIZE),
            (Err(reply), _) => self.error(reply),
        }
    }

    fn command(&mut self, command: Command<'_>) {
        let is_lmtp = self.policy.protocol == Protocol::Lmtp;
        match command {
            // RFC 2033, 4.1: each protocol refuses the greeting of the other.
            Command::Ehlo(_) | Command::Helo(_) if is_lmtp => self.error(replies::NOT_IMPLEMENTED),
            Command::Lhlo(_) if !is_lmtp => self.error(replies::NOT_IMPLEMENTED),
            Command::Ehlo(name) | Command::Lhlo(name) => self.hello(name, true),
            Command::Helo(name) => self.hello(name, false),
            Command::Mail(text) => self.mail(text),
            Command::Rcpt(text) => self.rcpt(text),
            Command::Data => match self.content_refusal() {
                Some(refusal) => self.out_of_place(refusal),
                None if self.content.is_some() => self.out_of_place(replies::CHUNKS_OPEN),
                None => self.ask(Question::StartContent, Asked::StartContent(Start::Data)),
            },
            Command::Bdat(chunk) => self.bdat(chunk),
            Command::Rset => {
                self.reset();
                self.say(replies::RESET);
            }
            Command::Noop => self.say(replies::NOOP),
            Command::Vrfy => self.say(replies::NOT_VERIFIED),
            Command::Help => self.say(replies::HELP),
            Command::Quit => self.close_with(replies::CLOSING),
            Command::StartTls(argument) => self.start_tls(argument),
            Command::Auth(argument) => self.authenticate(argument),
        }
    }

    /// RFC 5321, 4.1.4: a second EHLO resets like RSET.
    fn hello(&mut self, name: &str, extended: bool) {
        self.reset();
        self.client = Some(Client { name: name.to_owned(), extended });
        let hostname = &self.policy.hostname;
        // How many replies follow a refused chunk in LMTP is nowhere said.
        let chunking = if self.policy.protocol == Protocol::Lmtp { "" } else { "250-CHUNKING\r\n" };
        // RFC 3207, 4.2: under TLS it is not offered again.
        let offers_tls = self.policy.starttls != StartTls::Absent && !self.is_secured;
        let starttls = if offers_tls { "250-STARTTLS\r\n" } else { "" };
        let offers_auth = self.policy.authentication != Authentication::Absent
            && !self.mechanisms.is_empty()
            && !self.is_authenticated
            && !self.needs_tls_first();
        let auth = if offers_auth { format!("250-AUTH {}\r\n", self.mechanisms) } else { String::new() };
        let reply = if extended {
            format!(
                "250-{hostname}\r\n250-PIPELINING\r\n250-SIZE {}\r\n250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n\
                 250-SMTPUTF8\r\n{chunking}{starttls}{auth}250-DSN\r\n250 MT-PRIORITY {}",
                self.policy.message_octets_max,
                self.policy.priority_policy.name()
            )
        } else {
            format!("250 {hostname}")
        };
        self.say(&reply);
    }

    fn mail(&mut self, text: &str) {
        let Some(client) = &self.client else { return self.out_of_place(replies::HELLO_FIRST) };
        if self.transaction.is_some() {
            return self.out_of_place(replies::MAIL_TWICE);
        }
        let extended = client.extended;
        self.refused = false;
        match parameters::mail_from(text, extended, &self.policy) {
            Ok(_) if self.transactions >= self.policy.transactions_max => {
                self.close_with(replies::TOO_MANY_TRANSACTIONS);
            }
            Ok(mail) => {
                let smtputf8 = mail.smtputf8;
                // RFC 3848 has no name for HELO under TLS, nor for one that has authenticated before.
                self.protocol = match (self.policy.protocol, smtputf8) {
                    (Protocol::Smtp, _) if !extended => "SMTP",
                    (Protocol::Smtp, false) => self.keyword(["ESMTP", "ESMTPA", "ESMTPS", "ESMTPSA"]),
                    (Protocol::Smtp, true) => {
                        self.keyword(["UTF8SMTP", "UTF8SMTPA", "UTF8SMTPS", "UTF8SMTPSA"])
                    }
                    (Protocol::Lmtp, false) => self.keyword(["LMTP", "LMTPA", "LMTPS", "LMTPSA"]),
                    (Protocol::Lmtp, true) => {
                        self.keyword(["UTF8LMTP", "UTF8LMTPA", "UTF8LMTPS", "UTF8LMTPSA"])
                    }
                };
                self.ask(Question::Sender(mail), Asked::Sender { smtputf8 });
            }
            Err(refusal) => self.refuse_parameter(refusal),
        }
    }

    /// Of four words the one for a client that has authenticated (the second), is under TLS (the third), or both.
    const fn keyword(&self, words: [&'static str; 4]) -> &'static str {
        words[self.is_authenticated as usize + 2 * self.is_secured as usize]
    }

    fn rcpt(&mut self, text: &str) {
        let Some(transaction) = &self.transaction else { return self.out_of_place(replies::MAIL_FIRST) };
        if self.content.is_some() {
            return self.out_of_place(replies::CHUNKS_OPEN);
        }
        let extended = self.client.as_ref().is_some_and(|client| client.extended);
        match parameters::rcpt_to(text, extended, transaction.smtputf8, &self.policy) {
            Ok(_) if transaction.recipients >= self.policy.recipients_max => {
                self.say(replies::TOO_MANY_RECIPIENTS);
            }
            Ok(rcpt) => self.ask(Question::Recipient(rcpt), Asked::Recipient),
            Err(refusal) => self.refuse_parameter(refusal),
        }
    }

    /// A wrong parameter is an error; a message too large or an address that cannot be is a fact.
    fn refuse_parameter(&mut self, refusal: &'static str) {
        self.refused = true;
        match refusal {
            replies::TOO_LARGE | replies::NEEDS_SMTPUTF8 => self.say(refusal),
            _ => self.error(refusal),
        }
    }

    /// Why no content may come now.
    fn content_refusal(&self) -> Option<&'static str> {
        match &self.transaction {
            None => Some(replies::MAIL_FIRST),
            Some(transaction) if transaction.recipients == 0 => Some(replies::NO_RECIPIENTS),
            Some(_) => None,
        }
    }

    fn bdat(&mut self, chunk: Chunk) {
        let refusal = if chunk.is_malformed { Some(replies::BDAT_SYNTAX) } else { self.content_refusal() };
        match refusal {
            Some(refusal) => self.begin_dropping(chunk, refusal),
            None if self.content.is_some() => self.begin_chunk(chunk),
            None => self.ask(Question::StartContent, Asked::StartContent(Start::Chunk(chunk))),
        }
    }

    fn begin_chunk(&mut self, chunk: Chunk) {
        self.state = State::ChunkOctets { remaining: chunk.octets, is_last: chunk.is_last };
        if chunk.octets == 0 {
            self.end_chunk(Vec::new(), chunk.is_last);
        }
    }

    /// The octets of a refused chunk come all the same: they are read, and never taken for commands.
    fn begin_dropping(&mut self, chunk: Chunk, reply: &'static str) {
        if chunk.octets > wire_octets_max(self.policy.message_octets_max) {
            return self.close_with(replies::TOO_MUCH_REFUSED);
        }
        self.state = State::ChunkEnd { remaining: chunk.octets, reply: Some(reply) };
        if chunk.octets == 0 {
            self.drop_chunk(&[], 0, Some(reply));
        }
    }

    fn drop_chunk(&mut self, octets: &[u8], remaining: u64, reply: Option<&'static str>) -> usize {
        let taken = usize::try_from(remaining).map_or(octets.len(), |remaining| remaining.min(octets.len()));
        let remaining = remaining - taken as u64;
        self.state = State::ChunkEnd { remaining, reply };
        if remaining == 0 {
            self.state = State::Command;
            match reply {
                None => {}
                Some(replies::BDAT_SYNTAX) => {
                    self.end_failed();
                    self.error(replies::BDAT_SYNTAX);
                }
                Some(refusal) => self.out_of_place(refusal),
            }
        }
        taken
    }

    fn content_octets(&mut self, octets: &[u8]) -> usize {
        let mut out = Vec::with_capacity(octets.len() + 2);
        let (taken, progress) = self.read_content(octets, &mut out);
        match progress {
            Progress::More => self.give_content(out),
            Progress::TooMuch => self.close_with(replies::TOO_MUCH_REFUSED),
            Progress::End => {
                self.state = State::Command;
                self.end_content(out);
            }
        }
        taken
    }

    fn chunk_octets(&mut self, octets: &[u8], remaining: u64, is_last: bool) -> usize {
        let due = usize::try_from(remaining).map_or(octets.len(), |remaining| remaining.min(octets.len()));
        let mut out = Vec::with_capacity(due + 2);
        let (taken, progress) = self.read_content(&octets[..due], &mut out);
        let remaining = remaining - taken as u64;
        self.state = State::ChunkOctets { remaining, is_last };
        if progress == Progress::TooMuch {
            self.close_with(replies::TOO_MUCH_REFUSED);
        } else if remaining == 0 {
            self.end_chunk(out, is_last);
        } else {
            self.give_content(out);
        }
        taken
    }

    fn read_content(&mut self, octets: &[u8], out: &mut Vec<u8>) -> (usize, Progress) {
        let Some(content) = &mut self.content else { return (octets.len(), Progress::More) };
        let read = content.read(octets, out);
        if content.fault().is_some() {
            self.abort();
        }
        read
    }

    fn end_chunk(&mut self, mut out: Vec<u8>, is_last: bool) {
        self.state = State::Command;
        let Some(content) = &mut self.content else { return };
        if is_last {
            content.end_chunks(&mut out);
        }
        match content.fault() {
            None if is_last => self.end_content(out),
            None => {
                self.give_content(out);
                self.say(replies::CHUNK_ACCEPTED);
            }
            Some(fault) => {
                let reply = fault.reply();
                self.end_failed();
                if is_last { self.say_of_content(reply) } else { self.say(reply) }
            }
        }
    }

    fn give_content(&mut self, out: Vec<u8>) {
        if !out.is_empty() {
            self.events.push_back(Output::Content(out));
        }
    }

    /// The message is complete, or what was wrong with it is now said.
    fn end_content(&mut self, out: Vec<u8>) {
        let Some(content) = self.content.take() else { return };
        if let Some(fault) = content.fault() {
            self.abort();
            return self.say_of_content(fault.reply());
        }
        self.give_content(out);
        self.transaction = None;
        let summary = ContentSummary { octets: content.octets(), eight_bit: content.eight_bit() };
        self.ask(Question::EndOfContent(summary), Asked::EndOfContent);
    }

    fn ask(&mut self, question: Question, asked: Asked) {
        if self.is_shutting_down && !matches!(asked, Asked::EndOfContent) {
            return self.close_with(replies::SHUTTING_DOWN);
        }
        self.events.push_back(Output::Ask(question));
        self.question = Some(asked);
    }

    fn answer(&mut self, answer: &Answer) {
        let Some(asked) = self.question.take() else { return };
        if matches!(asked, Asked::Authentication) {
            return self.answer_authentication(answer);
        }
        let no_answer;
        let answer = if matches!(answer, Answer::Challenge(_)) {
            no_answer = Answer::Reject(Reply::new(451, Some(EnhancedStatus::new(4, 3, 0)), "Local error"));
            &no_answer
        } else {
            answer
        };
        if matches!(asked, Asked::EndOfContent) {
            return self.answer_end_of_content(answer);
        }
        if matches!(asked, Asked::StartTls) {
            return self.answer_start_tls(answer);
        }
        if let Answer::Reject(reply) = answer {
            return self.reject(&asked, reply);
        }
        match asked {
            Asked::Sender { smtputf8 } => {
                self.transactions += 1;
                self.transaction = Some(Transaction { smtputf8, recipients: 0 });
                self.accept(replies::SENDER_ACCEPTED, answer);
            }
            Asked::Recipient => {
                if let Some(transaction) = &mut self.transaction {
                    transaction.recipients += 1;
                }
                self.accept(replies::RECIPIENT_ACCEPTED, answer);
            }
            Asked::StartContent(Start::Data) => {
                self.count_replies();
                self.content = Some(self.content_reader(Framing::Dots));
                self.state = State::Content;
                self.accept(replies::START_CONTENT, answer);
            }
            Asked::StartContent(Start::Chunk(chunk)) => {
                self.count_replies();
                self.content = Some(self.content_reader(Framing::Counted));
                self.begin_chunk(chunk);
            }
            Asked::EndOfContent | Asked::StartTls | Asked::Authentication => {}
        }
    }

    /// The message was accepted or refused by the driver: that is said in any case, also on the way down.
    fn answer_end_of_content(&mut self, answer: &Answer) {
        let is_shutting_down = std::mem::take(&mut self.is_shutting_down);
        for _ in 0..self.replies_due {
            match answer {
                Answer::Reject(reply) => self.say_rejection(reply),
                _ => self.accept(replies::MESSAGE_ACCEPTED, answer),
            }
            if self.state == State::Closing {
                break;
            }
        }
        if is_shutting_down && self.state != State::Closing {
            self.close_with(replies::SHUTTING_DOWN);
        }
    }

    fn reject(&mut self, asked: &Asked, reply: &Reply) {
        self.refused = true;
        if let Asked::StartContent(start) = asked {
            self.end_failed();
            if let Start::Chunk(chunk) = start {
                return self.reject_chunk(*chunk, reply);
            }
        }
        self.say_rejection(reply);
    }

    /// The chunk's octets are on their way; the refusal is said at once, and a 503 would be one reply too many.
    fn reject_chunk(&mut self, chunk: Chunk, reply: &Reply) {
        self.say_rejection(reply);
        if self.state == State::Command && chunk.octets > 0 {
            if chunk.octets > wire_octets_max(self.policy.message_octets_max) {
                return self.close_with(replies::TOO_MUCH_REFUSED);
            }
            self.state = State::ChunkEnd { remaining: chunk.octets, reply: None };
        }
    }

    /// RFC 2033, 4.2: behind the content every accepted recipient has a reply of its own.
    fn count_replies(&mut self) {
        let recipients = self.transaction.as_ref().map_or(1, |transaction| transaction.recipients);
        self.replies_due = if self.policy.protocol == Protocol::Lmtp { recipients } else { 1 };
    }

    /// The reply to the content as a whole, as often as it is due.
    fn say_of_content(&mut self, reply: &'static str) {
        for _ in 0..self.replies_due {
            self.say(reply);
            if self.state == State::Closing {
                break;
            }
        }
    }

    fn content_reader(&self, framing: Framing) -> ContentReader {
        let policy = &self.policy;
        let line_octets_max = policy.content_line_octets_max;
        ContentReader::new(framing, policy.bare_line_endings, policy.message_octets_max, line_octets_max)
    }

    /// Says yes. The words of the answer replace ours behind the codes, and its status ours.
    fn accept(&mut self, reply: &'static str, answer: &Answer) {
        let (status, words) = match answer {
            Answer::AcceptText(words) => (None, words),
            Answer::AcceptAs(status, words) => (Some(status), words),
            Answer::Accept | Answer::Challenge(_) | Answer::Reject(_) => return self.say(reply),
        };
        let mut line = Diagnostic::one_line(words);
        while line.len() > WORDS_OCTETS_MAX {
            line.pop();
        }
        match status {
            // 354 has no status.
            _ if reply.starts_with("354") => self.say(&format!("{}{line}", &reply[..4])),
            Some(status) => self.say(&format!("{}{status} {line}", &reply[..4])),
            None => self.say(&format!("{}{line}", &reply[..10])),
        }
    }

    fn say_rejection(&mut self, reply: &Reply) {
        match reply.code {
            421 => {
                self.abort();
                reply.encode_into(&mut self.replies);
                self.state = State::Closing;
            }
            400..=599 if !self.is_shutting_down => reply.encode_into(&mut self.replies),
            _ => self.say(replies::LOCAL_ERROR),
        }
    }

    /// One reply; on the way down it is the last, and another.
    fn say(&mut self, reply: &str) {
        if self.is_shutting_down {
            return self.close_with(replies::SHUTTING_DOWN);
        }
        self.replies.extend_from_slice(reply.as_bytes());
        self.replies.extend_from_slice(b"\r\n");
    }

    /// A command that is wrong in itself.
    fn error(&mut self, reply: &'static str) {
        self.errors += 1;
        if self.errors >= self.policy.errors_max {
            self.close_with(replies::TOO_MANY_ERRORS);
        } else {
            self.say(reply);
        }
    }

    /// A command at the wrong time. Behind a refusal it is what pipelining does (RFC 2920, 3.1), else an error.
    fn out_of_place(&mut self, reply: &'static str) {
        if self.refused { self.say(reply) } else { self.error(reply) }
    }

    fn close_with(&mut self, reply: &'static str) {
        self.abort();
        self.replies.extend_from_slice(reply.as_bytes());
        self.replies.extend_from_slice(b"\r\n");
        self.state = State::Closing;
    }

    /// There is nobody to say anything to.
    fn close_silently(&mut self) {
        self.question = None;
        self.replies.clear();
        self.abort();
        self.state = State::Closing;
    }

    fn reset(&mut self) {
        self.abort();
        self.content = None;
        self.refused = false;
    }

    /// The transaction is over; what a pipelining client sends for it is out of place, not wrong.
    fn end_failed(&mut self) {
        self.abort();
        self.content = None;
        self.refused = true;
    }

    fn abort(&mut self) {
        if self.transaction.take().is_some() {
            self.events.push_back(Output::TransactionAborted);
        }
    }

    fn wake(&mut self, now: Instant) {
        if !self.timer.rings(now) {
            return;
        }
        if self.awaits_handshake() {
            return self.close_silently();
        }
        let session_end = self.started.checked_add(self.policy.session_timeout);
        if session_end.is_some_and(|end| end <= now) {
            self.close_with(replies::SESSION_TIMEOUT);
        } else if matches!(self.state, State::Command | State::Response) {
            self.close_with(replies::COMMAND_TIMEOUT);
        } else {
            self.close_with(replies::CONTENT_TIMEOUT);
        }
    }

    /// While a question is open the driver is at work and nothing is late.
    fn set_timer(&mut self) {
        let patience = match self.state {
            State::Command | State::Response => self.policy.command_timeout,
            State::HandshakeDue | State::Handshake => self.policy.handshake_timeout,
            _ => self.policy.data_timeout,
        };
        let ends = [self.active.checked_add(patience), self.started.checked_add(self.policy.session_timeout)];
        let deadline = if self.question.is_none() { ends.into_iter().flatten().min() } else { None };
        self.timer.set(deadline);
    }
}
