//! Directory entries or tables in, one typed [`Configuration`] and a list of [`Problem`]s out.
//!
//! The way of a change: `directory` hands over a whole set of [`Entry`]s; [`next`] compares it with what is in force
//! and answers with a [`Step`]; the roles get their views ([`SmtpServerView`], [`ChannelView`], [`HousekeeperView`]).
//! [`ATTRIBUTES`] is the one table from which bounds, defaults, the LDAP schema, the manual and the reference documentation come.
//!
//! Nothing here does I/O: fetching is `directory`, the last known good file too. Nothing here panics on an entry.
#![forbid(unsafe_code)]

mod attribute;
mod authentication;
mod by_name;
mod domain;
mod entry;
mod example;
pub mod fuzz;
mod generation;
mod instant;
mod ldif;
mod load;
mod manual;
mod model;
mod network;
mod reader;
mod report_text;
mod schema;
mod tables;
mod tls;
mod trust;
mod user;
mod view;

pub use attribute::{ATTRIBUTES, Attribute, Class, Closed, Syntax, Values};
pub use authentication::{AuthenticationPolicy, ListenerAuthentication, Mechanism};
pub use domain::{DomainPattern, DomainPatternError};
pub use entry::{Entry, dn_is_under, normalised_dn};
pub use example::{EXAMPLE_LDIF, ExampleAdditions, ExampleParameters, example_tree, example_tree_with};
pub use generation::{InForce, Removals, Step, next};
pub use instant::Instant;
pub use ldif::entries_to_ldif;
pub use load::{Effect, Loaded, Problem, load};
pub use manual::{MANUAL_PAGE, MANUAL_SECTION, attribute_help, manual_page};
pub use model::{
    AddressFamilies, BareLineEndings, Channel, ChannelKind, Configuration, Dns, DnsRouting, GroupHost,
    HOUSEKEEPER, Listener, Minimise, NextHop, Node, Peer, PeerAddress, Qmgr, Reports, ReportsTo, RouteRule,
};
pub use network::{Network, NetworkError, NetworkPrecedence, NetworkPrecedenceError};
pub use report_text::{
    FilledLine, LanguageTag, Placeholder, ReportEvent, ReportText, SUBJECT_OCTETS_MAX, TEMPLATE_OCTETS_MAX,
    Template, TemplateError, built_in_report_texts,
};
pub use schema::{SCHEMA_LDIF, reference, schema_ldif, schema_update_ldif};
pub use tables::{TableError, entries_from_tables, entries_to_tables};
pub use tls::{
    ClientCertificates, ListenerTls, ListenerTlsPolicy, PeerReference, PeerTls, PeerTlsPolicy, TlsVersion,
};
pub use trust::{Trust, TrustScope};
pub use user::{CertificateName, ConcealmentSecret, User, Verifier};
pub use view::{
    ChannelView, Destination, HousekeeperView, ReportSource, ResolverView, RouteTable, SmtpServerView,
};
