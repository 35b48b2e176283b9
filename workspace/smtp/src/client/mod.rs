//! Client side of SMTP (RFC 5321) and LMTP (RFC 2033), without sockets, clocks or threads.
//!
//! Octets, transactions and content go in through [`ClientSession::handle`], work comes out of [`ClientSession::poll`].
//! Drain `poll` after each `handle`. Each transaction is answered by one [`Output::Result`] for each recipient and
//! then one [`Output::TransactionDone`], whatever happens to the connection: when it dies between the final dot and
//! the reply, the message may have arrived, and is deferred all the same. A duplicate is possible, a loss never.
//!
//! Commands go out in groups where the peer pipelines (RFC 2920), and with `chain` the next transaction's commands
//! stand directly behind the final dot of the one before.
//!
//! The content goes out as it is handed in, but for the fields that say a priority (see `header_edit`).
//!
//! TLS begins behind the first EHLO (RFC 3207: [`Output::StartTls`], the driver's handshake, [`Input::Secured`]) or
//! before the session (RFC 8314: [`ClientSession::secured`]). Nothing of a transaction is said before that is settled,
//! and nothing that the peer said before the handshake is believed behind it.
//!
//! Not here: the handshake and what a certificate is worth, authentication, whom to connect to, when to try again
//! (`scheduler`).

mod commands;
mod extensions;
pub(crate) mod header_edit;
mod session;

pub use crate::Protocol;
pub use extensions::Extensions;
pub use session::ClientSession;

use std::time::{Duration, Instant};
use sternpost_message::{BodyType, Diagnostic, Mailbox, MtPriority, Notify, Outcome, Ret, ReversePath};

/// How long each reply may take. RFC 5321, 4.5.3.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientTimeouts {
    /// The greeting.
    pub greeting: Duration,
    /// The reply to EHLO, LHLO or HELO.
    pub hello: Duration,
    /// The reply to STARTTLS, for which RFC 5321 has no row: as long as for DATA, whose reply, too, says only that
    /// something may begin.
    pub starttls: Duration,
    /// The handshake: a few round trips and no mail.
    pub handshake: Duration,
    /// The reply to MAIL (and to RSET).
    pub mail: Duration,
    /// The reply to each RCPT.
    pub rcpt: Duration,
    /// The 354 behind DATA.
    pub data_init: Duration,
    /// Between two pieces of content: the driver offers the next when the socket has taken the last.
    pub data_block: Duration,
    /// The reply behind the content.
    pub data_end: Duration,
    /// The reply to QUIT. Nothing depends on it.
    pub quit: Duration,
}

impl Default for ClientTimeouts {
    fn default() -> Self {
        let minutes = |count: u64| Duration::from_secs(count * 60);
        Self {
            greeting: minutes(5),
            hello: minutes(5),
            starttls: minutes(2),
            handshake: minutes(1),
            mail: minutes(5),
            rcpt: minutes(5),
            data_init: minutes(2),
            data_block: minutes(3),
            data_end: minutes(10),
            quit: Duration::from_secs(5),
        }
    }
}

/// What a session that begins in the clear does about STARTTLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tls {
    /// Nothing.
    #[default]
    Never,
    /// TLS where the peer offers it and does not refuse it, else the session goes on in the clear. A handshake that
    /// fails ends the session all the same: whether the peer is tried again without is the driver's to say.
    Opportunistic,
    /// TLS or no transaction.
    Required,
}

/// How a session behaves.
#[derive(Clone, Debug)]
pub struct ClientPolicy {
    /// The name behind EHLO or LHLO.
    pub hostname: String,
    /// SMTP or LMTP.
    pub protocol: Protocol,
    /// How long each reply may take.
    pub timeouts: ClientTimeouts,
    /// Send the next transaction's commands behind the final dot when the peer pipelines.
    pub chain: bool,
    /// Content of at least this many octets goes by BDAT where an SMTP peer has CHUNKING and PIPELINING. Below, DATA
    /// costs no more.
    pub bdat_octets_min: u64,
    /// Whether TLS comes first. Of no meaning to a session that begins under TLS.
    pub tls: Tls,
}

impl ClientPolicy {
    /// The defaults, under a name.
    #[must_use]
    pub fn new(hostname: impl Into<String>, protocol: Protocol) -> Self {
        Self {
            hostname: hostname.into(),
            protocol,
            timeouts: ClientTimeouts::default(),
            chain: true,
            bdat_octets_min: 64 * 1024,
            tls: Tls::Never,
        }
    }
}

/// One message for some recipients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// The driver's own number, given back in the outputs.
    pub id: u64,
    /// The reverse-path.
    pub sender: ReversePath,
    /// At least one.
    pub recipients: Vec<TransactionRecipient>,
    /// Octets of the content that will be handed in, exactly.
    pub content_octets: u64,
    /// What the content may hold.
    pub body: BodyType,
    /// Whether addresses or header fields may hold UTF-8.
    pub smtputf8: bool,
    /// `RET`.
    pub ret: Option<Ret>,
    /// `ENVID`, xtext.
    pub envelope_id: Option<String>,
    /// The message's priority: `MT-PRIORITY` where the peer offers it (RFC 6710, 4.2).
    pub mt_priority: Option<MtPriority>,
    /// Whether somebody has asked for it: then a peer that does not offer MT-PRIORITY gets it as a field of the content
    /// (RFC 6758, 3.3). Else only in the place of such a field, and of one that says more.
    pub mt_priority_is_given: bool,
}

/// One recipient of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionRecipient {
    /// The forward-path.
    pub address: Mailbox,
    /// `NOTIFY`.
    pub notify: Option<Notify>,
    /// `ORCPT`, `type;xtext`.
    pub original_recipient: Option<String>,
}

/// What happens to a session.
#[derive(Debug)]
pub enum Input<'a> {
    /// Octets of the peer. All are taken.
    Octets(&'a [u8]),
    /// The next message; when [`ClientSession::can_take_transaction`], else it waits for its turn.
    Transaction(Box<Transaction>),
    /// The next piece of the content that was asked for. Ignored when none is wanted (any more).
    Content(&'a [u8]),
    /// No more content.
    ContentEnd,
    /// The handshake asked for by [`Output::StartTls`] is done, and what comes next was said under TLS. Ignored when
    /// none was asked for.
    Secured,
    /// It failed, for this reason: the session ends. Ignored when none was asked for.
    HandshakeFailed(Diagnostic),
    /// End with QUIT once nothing is going on.
    Quit,
    /// A wake that was asked for, or any other: too many do no harm.
    Wake,
    /// The peer closed or the connection broke.
    PeerClosed,
    /// The content cannot be read on our side: the connection ends without completing the message.
    ContentFailed,
}

/// Work for the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Octets for the peer.
    Send(Vec<u8>),
    /// Perform the handshake, then hand in [`Input::Secured`] or [`Input::HandshakeFailed`]. Octets that come before are
    /// the end of the session.
    StartTls,
    /// Hand in all content of this transaction, in [`Input::Content`] pieces, and then [`Input::ContentEnd`]; stop when
    /// the transaction is done meanwhile. Said once. Content by BDAT has one chunk for each piece: let them be large.
    NeedContent {
        /// The transaction's number.
        transaction: u64,
    },
    /// What became of one recipient. `remote` in the diagnostic is left empty for the driver.
    Result {
        /// The transaction's number.
        transaction: u64,
        /// The index in [`Transaction::recipients`].
        recipient: usize,
        /// `Transferred`, `Delivered`, `Deferred` or `Failed`; or one of the first two with a report owed, where the sender
        /// wants to hear of a success and the peer does not know DSN (RFC 3461, 5.2.2; LMTP: 5.2.3).
        outcome: Outcome,
    },
    /// All recipients of the transaction have their result.
    TransactionDone {
        /// The transaction's number.
        transaction: u64,
    },
    /// Hand in [`Input::Wake`] at this instant, once. Replaces the wake asked for before.
    WakeAt(Instant),
    /// The session came to an end that concerns the peer: refused, broken or silent. [`Output::Close`] follows.
    Failed {
        /// Why, for [`sternpost_message::ErrorScope::Peer`].
        diagnostic: Diagnostic,
    },
    /// Close the connection once all is sent. The last output, but for the results of a transaction handed in later.
    Close,
}
