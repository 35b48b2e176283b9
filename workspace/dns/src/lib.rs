//! Where the mail of a domain goes by DNS (RFC 5321, section 5; RFC 7505).
//!
//! [`Search`] decides, without I/O: it asks [`Question`]s, takes [`Answer`]s, and comes to [`Destinations`] or to the reason why
//! there are none ([`NoDestination`]). [`Resolver`] puts the questions to the name servers that an operator has configured, never
//! to the system's, keeps answers for as long as they say, and validates them (DNSSEC) if it has trust anchors. Both say in
//! words which record led to what.
//!
//! Not here: routes that an operator gives by hand, connections to a mail exchanger, TLSA records.
#![forbid(unsafe_code)]

mod answer;
mod cache;
mod destinations;
mod name;
mod remark;
mod resolver;
mod search;

pub use answer::{Answer, LookupFailure, Question, Record, RecordKind, SecurityStatus};
pub use cache::{Cache, CacheBounds};
pub use destinations::{Destinations, Exchanger, NoDestination, Origin, Reason};
pub use name::{HostName, HostNameError};
pub use remark::Remark;
pub use resolver::{Resolver, Settings, SettingsError, Validation};
pub use search::{FamilyOrder, Loopback, Policy, Search, Step};
