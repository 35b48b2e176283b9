//! What a submission asks of the configuration.

use std::borrow::Cow;
use sternpost_message::{Mailbox, Precedence, PriorityField, PriorityPolicy};

/// Answers which route a domain has. Implemented over the configuration by whoever drives a submission.
pub trait Routing {
    /// The route of `domain_lower_case`: a domain name in lower case, or an address literal with its brackets.
    /// None when no route is configured, not even a default one.
    fn route(&self, domain_lower_case: &str) -> Option<RouteAnswer<'_>>;
}

/// A route and who may use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteAnswer<'a> {
    /// The channel's name.
    pub channel: &'a str,
    /// The peer MTA's name.
    pub peer: Cow<'a, str>,
    /// Whether any client may send there. False for a way out (the smart host, `*`): only clients of the listed
    /// networks may use it, or the switch would be an open relay.
    pub open_to_all: bool,
}

/// The rules of one listener as they hold for one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The name of this switch in its trace header.
    pub hostname: String,
    /// The listener's name, the envelope's `source`.
    pub listener: String,
    /// Whether the client's address lies in a network whose clients may send anywhere.
    pub client_is_listed: bool,
    /// Whether users submit here (RFC 6409): nobody who has not authenticated may send, and what is missing in a header is added.
    pub is_submission: bool,
    /// Recipients of one message. RFC 5321, section 4.5.3.1.8 asks for at least 100.
    pub recipients_max: usize,
    /// `Received` fields of an arriving message; one more is a loop. RFC 5321, section 6.3 asks for at least 100.
    pub received_headers_max: u32,
    /// Content of one message, in octets; `u64::MAX` when there is no limit.
    pub message_octets_max: u64,
    /// Where mail to `<postmaster>`, without a domain or at `hostname`, goes; none when nobody is configured.
    pub postmaster: Option<Mailbox>,
    /// The levels of the priorities here.
    pub priority_policy: PriorityPolicy,
    /// The highest precedence that the client may ask for.
    pub precedence_max: Precedence,
    /// The header fields by which it may ask, the first one first; none for a client that is not trusted.
    pub priority_fields: Vec<PriorityField>,
}
