//! The words of the switch: addresses, envelopes, priorities, identifiers and outcomes; and how an error is said.
//!
//! Every other crate speaks in these types. Nothing here does I/O, reads a clock or knows a protocol's framing.
//! Types that are stored in the log or sent between processes derive `serde`; their field order is part of
//! `queue/FORMAT.md` and `link/PROTOCOL.md`.
#![forbid(unsafe_code)]

mod address;
mod chain;
mod domain_peer;
mod envelope;
mod header;
mod id;
mod null_hop;
mod outcome;
mod priority;
mod priority_field;
mod priority_policy;
#[cfg(feature = "sample")]
pub mod sample;
mod sender_pattern;
mod tls_facts;

pub use address::{
    ADDRESS_OCTETS_MAX, AddressError, DOMAIN_OCTETS_MAX, LOCAL_PART_OCTETS_MAX, Mailbox, ReversePath,
};
pub use chain::chain;
pub use domain_peer::DomainPeer;
pub use envelope::{BodyType, Envelope, Notify, Recipient, Ret, Route};
pub use header::{GAP_OCTETS_MAX, HeaderPart, HeaderReader};
pub use id::{
    MessageId, MessageSequence, MlistId, ROUTE_DELAY_REPORT, ROUTE_FINAL_REPORT, RecipientIndex,
    RecipientRange, RouteIndex, UnixMillis,
};
pub use null_hop::NullHop;
pub use outcome::{Diagnostic, EnhancedStatus, ErrorScope, Outcome, OutcomeKind, RecipientState};
pub use priority::{CivilPriority, MtPriority, Precedence, PriorityError};
pub use priority_field::{FIELD_VALUE_OCTETS_MAX, PriorityField};
pub use priority_policy::PriorityPolicy;
pub use sender_pattern::SenderPattern;
pub use tls_facts::{PeerCertificate, TlsFacts};
