//! The envelope: what the switch knows of a message apart from its content.

use crate::{Mailbox, MtPriority, Precedence, ReversePath, RouteIndex, TlsFacts, UnixMillis};
use serde::{Deserialize, Serialize};

/// What the octets of the content may be. RFC 6152 and RFC 3030.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum BodyType {
    /// Lines of US-ASCII. The default when the client says nothing.
    #[default]
    SevenBit,
    /// Lines of octets (`BODY=8BITMIME`).
    EightBitMime,
}

/// How much of the message a report carries. RFC 3461, section 4.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Ret {
    /// The whole message.
    Full,
    /// The header section.
    Headers,
}

/// When the sender wants to hear of a recipient. RFC 3461, section 4.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Notify {
    /// On delivery or transfer.
    pub success: bool,
    /// On failure.
    pub failure: bool,
    /// On delay.
    pub delay: bool,
}

impl Notify {
    /// `NOTIFY=NEVER`.
    pub const NEVER: Self = Self { success: false, failure: false, delay: false };
}

/// Where a recipient goes next: a channel and, on it, a peer MTA. Names of configuration entries.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Route {
    /// The channel's name.
    pub channel: String,
    /// The peer MTA's name.
    pub peer: String,
}

/// One recipient of a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipient {
    /// The forward-path of RCPT TO.
    pub address: Mailbox,
    /// Its route, an index into [`Envelope::routes`].
    pub route: RouteIndex,
    /// `NOTIFY`, if given.
    pub notify: Option<Notify>,
    /// `ORCPT` as received (`type;xtext`), if given.
    pub original_recipient: Option<String>,
}

/// The envelope of one message. Immutable once committed; what changes about it is recorded as outcomes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// The reverse-path.
    pub sender: ReversePath,
    /// The recipients, at least one.
    pub recipients: Vec<Recipient>,
    /// Their routes without repetition, at least one and fewer than [`crate::ROUTE_DELAY_REPORT`].
    pub routes: Vec<Route>,
    /// When the switch accepted the message.
    pub accepted_at: UnixMillis,
    /// How the scheduler ranks it.
    pub precedence: Precedence,
    /// `MT-PRIORITY`, if given.
    pub mt_priority: Option<MtPriority>,
    /// `BODY`.
    pub body: BodyType,
    /// Whether the client gave `SMTPUTF8`: addresses or header fields may hold UTF-8. RFC 6531.
    pub smtputf8: bool,
    /// `RET`, if given.
    pub ret: Option<Ret>,
    /// `ENVID` as received (xtext), if given.
    pub envelope_id: Option<String>,
    /// Where it came from: the listener's name, or the role that made it (`housekeeper`).
    pub source: String,
    /// The client's address, or empty when the switch made the message itself.
    pub client: String,
    /// The TLS by which it came, if it did.
    pub tls: Option<Box<TlsFacts>>,
    /// Who the client has authenticated as: the name of a user of the configuration. None where it has not.
    pub identity: Option<Box<str>>,
}
