//! Server side of SMTP (RFC 5321) and LMTP (RFC 2033), without sockets, clocks or threads.
//!
//! Octets and answers go in through [`ServerSession::handle`], work comes out of [`ServerSession::poll`]. Drain `poll`
//! after each `handle`. At most one question is open at a time, and while it is open no octets are taken: that is the
//! back-pressure. Each sender that was accepted is followed by exactly one [`Question::EndOfContent`] or
//! [`Output::TransactionAborted`].
//!
//! Replies to a pipelined group leave in one piece (RFC 2920, 3.2): they wait until the octets that the driver offered
//! are used up and no question is open. A driver whose answer takes long may call [`ServerSession::release_replies`].
//!
//! TLS begins with STARTTLS (RFC 3207) or before the session (RFC 8314: [`ServerSession::secured`]). STARTTLS is a
//! question, then [`Output::StartTls`], then the driver's handshake, and [`Input::Secured`] ends what was before it.
//! No octet that stands behind STARTTLS in the plain stream is ever obeyed: it ends the session.
//!
//! Authentication (RFC 4954) is a dialogue of questions: [`Question::Authenticate`], then [`Question::Respond`] for each
//! response, until the answer is no challenge. The session knows lines and base64; mechanisms, users and passwords are the
//! driver's, which says by [`ServerSession::offer_mechanisms`] what it can do.
//!
//! Not here: the handshake, who somebody is (`sasl`), what an address means (`submission`), where content goes (`store`), the trace header.

mod command;
mod content;
mod parameters;
pub mod replies;
mod session;

pub use session::ServerSession;

use crate::Protocol;
use crate::reply::Reply;
use std::fmt;
use std::time::{Duration, Instant};
use sternpost_message::{
    BodyType, EnhancedStatus, Mailbox, MtPriority, Notify, PriorityPolicy, Ret, ReversePath,
};

/// What becomes of content that holds CR or LF alone. RFC 5321, 2.3.8 forbids to send it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BareLineEndings {
    /// The message is refused with 550 5.5.2.
    #[default]
    Refuse,
    /// Each becomes CR LF. A line with one dot stays a line: nothing but CR LF . CR LF ends content.
    Normalise,
}

/// Whether a session that began in the clear goes on under TLS. RFC 3207.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartTls {
    /// STARTTLS is not announced and not known.
    #[default]
    Absent,
    /// As the client wishes. RFC 3207, section 4: the rule for a server that anybody may send mail to.
    Offered,
    /// Before the handshake there is no transaction: 530 5.7.0.
    Required,
}

/// Whether clients say who they are. RFC 4954.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Authentication {
    /// AUTH is not announced and not known.
    #[default]
    Absent,
    /// As the client wishes.
    Offered,
    /// Before it there is no transaction: 530 5.7.0.
    Required,
}

/// What a client says to prove who it is: a password may be in it, and it is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Response(pub Vec<u8>);

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Response({} octets)", self.0.len())
    }
}

/// The limits of a session.
#[derive(Clone, Debug)]
pub struct ServerPolicy {
    /// The name in the greeting and behind EHLO, and the domain of `<postmaster>`.
    pub hostname: String,
    /// SMTP; or LMTP, where the answer to [`Question::EndOfContent`] is said once for each recipient.
    pub protocol: Protocol,
    /// Largest content, in octets as it is stored. Announced by SIZE (RFC 1870).
    pub message_octets_max: u64,
    /// Recipients of one message. RFC 5321, 4.5.3.1.8 asks for at least 100.
    pub recipients_max: usize,
    /// The bad command that ends the session, counted from 1.
    pub errors_max: u32,
    /// Longest command line with its CR LF. RFC 5321, 4.5.3.1.4 asks for 512 and more with extensions.
    pub command_line_octets_max: usize,
    /// Longest line of content without its CR LF. RFC 5321, 4.5.3.1.6 asks for 998; real mail has longer ones.
    pub content_line_octets_max: usize,
    /// CR or LF alone in content.
    pub bare_line_endings: BareLineEndings,
    /// Time between two reads of a command. RFC 5321, 4.5.3.2.7 asks for at least five minutes.
    pub command_timeout: Duration,
    /// Time between two reads of content.
    pub data_timeout: Duration,
    /// Time from the reply to STARTTLS to the end of the handshake.
    pub handshake_timeout: Duration,
    /// Time for the whole session.
    pub session_timeout: Duration,
    /// Messages in one session.
    pub transactions_max: u32,
    /// What MT-PRIORITY is announced with (RFC 6710, section 3).
    pub priority_policy: PriorityPolicy,
    /// What becomes of STARTTLS. Of no meaning to a session that begins under TLS.
    pub starttls: StartTls,
    /// Whether AUTH is there, and whether mail needs it.
    pub authentication: Authentication,
}

impl ServerPolicy {
    /// The defaults, under a name.
    #[must_use]
    pub fn new(hostname: impl Into<String>) -> Self {
        Self {
            hostname: hostname.into(),
            protocol: Protocol::Smtp,
            message_octets_max: 100 * 1024 * 1024,
            recipients_max: 1000,
            errors_max: 20,
            command_line_octets_max: 2048,
            content_line_octets_max: 1024 * 1024,
            bare_line_endings: BareLineEndings::Refuse,
            command_timeout: Duration::from_secs(5 * 60),
            data_timeout: Duration::from_secs(3 * 60),
            handshake_timeout: Duration::from_secs(60),
            session_timeout: Duration::from_secs(24 * 60 * 60),
            transactions_max: 1_000_000,
            priority_policy: PriorityPolicy::default(),
            starttls: StartTls::Absent,
            authentication: Authentication::Absent,
        }
    }
}

/// What happens to a session.
#[derive(Debug)]
pub enum Input<'a> {
    /// Octets of the client.
    Octets(&'a [u8]),
    /// The answer to the open question. Without one it is ignored: the client may have gone meanwhile.
    Answer(Answer),
    /// A wake that was asked for, or any other: too many do no harm.
    Wake,
    /// The handshake asked for by [`Output::StartTls`] is done, and what comes next was said under TLS. Ignored when
    /// none was asked for. A handshake that failed is [`Input::PeerClosed`].
    Secured,
    /// The client closed or the connection broke.
    PeerClosed,
    /// End with 421 4.3.2: at once when nothing is going on, else at the next reply. A message whose end has come is
    /// still answered.
    Shutdown,
}

/// The answer to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Yes, in the session's words.
    Accept,
    /// Yes, in these words (behind `250 2.x.y`, `220 2.0.0` or 354).
    AcceptText(String),
    /// Yes, with this status, of class 2, in the place of ours, and in these words.
    AcceptAs(EnhancedStatus, String),
    /// Not yet: the client is to answer this challenge, which stands here without base64. To [`Question::Authenticate`] and
    /// [`Question::Respond`] alone; any other question it refuses with 451 4.3.0.
    Challenge(Vec<u8>),
    /// No. The code is 4xx or 5xx; 421 ends the session. Any other code leaves as 451 4.3.0.
    Reject(Reply),
}

/// Work for the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Octets for the client.
    Send(Vec<u8>),
    /// A question: answer it with [`Input::Answer`].
    Ask(Question),
    /// The next piece of the message, dots and framing taken off. It belongs to the latest accepted sender.
    Content(Vec<u8>),
    /// The message of the latest accepted sender will not be completed: forget it, with what came of its content.
    TransactionAborted,
    /// The client has given up the authentication that it had begun, or what it said cannot be read: there will be no response
    /// to the latest challenge.
    AuthenticationAborted,
    /// Perform the handshake once all is sent, then hand in [`Input::Secured`]. Until then no octets are taken, and any
    /// that are offered end the session. What the driver has read of the plain stream must not be offered afterwards.
    StartTls,
    /// Hand in [`Input::Wake`] at this instant, once. Replaces the wake asked for before.
    WakeAt(Instant),
    /// Close the connection once all is sent. The last output.
    Close,
}

/// What the session does not decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// May this sender send a message?
    Sender(MailFrom),
    /// Is there a way to this recipient?
    Recipient(RcptTo),
    /// May the content come? A refusal ends the transaction.
    StartContent,
    /// The message is complete: make it durable, then answer.
    EndOfContent(ContentSummary),
    /// Who is the client? AUTH with its mechanism, in capital letters, and its initial response, decoded. Accepted, it is
    /// authenticated until a handshake or the end.
    Authenticate {
        /// 1 to 20 capital letters, digits, hyphens and underscores (RFC 4422, section 3.1). Not necessarily one that is offered.
        mechanism: String,
        /// None where the client has sent none; empty where it has sent `=`.
        initial_response: Option<Response>,
    },
    /// The response to the latest challenge, decoded.
    Respond(Response),
    /// May the handshake begin? A refusal, 454 4.7.0 by RFC 3207, leaves the session in the clear.
    StartTls,
}

/// MAIL. RFC 5321, 4.1.1.2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailFrom {
    /// The reverse-path.
    pub sender: ReversePath,
    /// `SIZE`: octets that the client expects. RFC 1870.
    pub size: Option<u64>,
    /// `BODY`. RFC 6152.
    pub body: BodyType,
    /// `SMTPUTF8`. RFC 6531.
    pub smtputf8: bool,
    /// `RET`. RFC 3461.
    pub ret: Option<Ret>,
    /// `ENVID`, still xtext. RFC 3461.
    pub envelope_id: Option<String>,
    /// `MT-PRIORITY`. RFC 6710.
    pub mt_priority: Option<MtPriority>,
}

/// RCPT. RFC 5321, 4.1.1.3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RcptTo {
    /// The forward-path without a source route.
    pub address: Mailbox,
    /// `NOTIFY`. RFC 3461.
    pub notify: Option<Notify>,
    /// `ORCPT`, still `type;xtext`. RFC 3461.
    pub original_recipient: Option<String>,
}

/// What the session knows of the content once it is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentSummary {
    /// Octets of all pieces.
    pub octets: u64,
    /// Whether any octet is 0x80 or above.
    pub eight_bit: bool,
}
