//! What a client says about a message. The syntax was checked by the protocol; here it is only meaning.

use std::sync::Arc;
use sternpost_message::{BodyType, Mailbox, MtPriority, Notify, Ret, ReversePath, SenderPattern, TlsFacts};

/// The session in which a message comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionFacts {
    /// The client's address.
    pub client: String,
    /// What it calls itself.
    pub helo: String,
    /// The keyword of the trace header's `with`: `SMTP`, `ESMTP`, `ESMTPS`, `LMTP` … (RFC 3848); the UTF8 keywords follow from
    /// `SMTPUTF8` by themselves.
    pub protocol: &'static str,
    /// Its TLS, if it is inside.
    pub tls: Option<Box<TlsFacts>>,
    /// Who the client is, if it has authenticated as a user.
    pub identity: Option<Arc<Identity>>,
}

/// Somebody who has authenticated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The name that the configuration has for him.
    pub name: String,
    /// What he may send as, besides the null sender. RFC 6409, section 6.1.
    pub senders: Vec<SenderPattern>,
}

/// MAIL FROM with its parameters. RFC 5321, section 4.1.1.2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailFacts {
    /// The reverse-path.
    pub sender: ReversePath,
    /// `SIZE` in octets, if given. RFC 1870.
    pub size: Option<u64>,
    /// `BODY`. RFC 6152.
    pub body: BodyType,
    /// Whether `SMTPUTF8` was given. RFC 6531.
    pub smtputf8: bool,
    /// `RET`, if given. RFC 3461, section 4.3.
    pub ret: Option<Ret>,
    /// `ENVID` as received (xtext), if given. RFC 3461, section 4.4.
    pub envelope_id: Option<String>,
    /// `MT-PRIORITY`, if given. RFC 6710.
    pub mt_priority: Option<MtPriority>,
}

impl MailFacts {
    /// A sender without any parameter.
    #[must_use]
    pub const fn from_sender(sender: ReversePath) -> Self {
        Self {
            sender,
            size: None,
            body: BodyType::SevenBit,
            smtputf8: false,
            ret: None,
            envelope_id: None,
            mt_priority: None,
        }
    }
}

/// The forward-path of RCPT TO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardPath {
    /// `<postmaster>` in any case, without a domain: the one such address. RFC 5321, section 4.1.1.3.
    Postmaster,
    /// A mailbox.
    Mailbox(Mailbox),
}

/// RCPT TO with its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecipientFacts {
    /// The forward-path.
    pub address: ForwardPath,
    /// `NOTIFY`, if given. RFC 3461, section 4.1.
    pub notify: Option<Notify>,
    /// `ORCPT` as received (`type;xtext`), if given. RFC 3461, section 4.2.
    pub original_recipient: Option<String>,
}

impl RecipientFacts {
    /// A mailbox without any parameter.
    #[must_use]
    pub const fn to_mailbox(mailbox: Mailbox) -> Self {
        Self { address: ForwardPath::Mailbox(mailbox), notify: None, original_recipient: None }
    }
}

/// What the protocol learned of the content while it streamed by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContentFacts {
    /// Whether an octet above 127 occurred.
    pub eight_bit: bool,
}
