//! What a search comes to: where the mail of a domain goes, or why it goes nowhere.

use crate::{HostName, HostNameError, LookupFailure, Question, Remark, SecurityStatus};
use std::fmt;
use std::net::IpAddr;
use sternpost_message::{Diagnostic, EnhancedStatus};

/// How it is known that a host takes the mail of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// An MX record of this preference.
    Mx(u16),
    /// The domain has no MX record and is a host. RFC 5321, 5.1.
    ImplicitMx,
    /// The domain is an address literal. RFC 5321, 4.1.3.
    Literal,
}

impl Origin {
    /// Lower is better; a host that no MX record names is alone and has 0.
    #[must_use]
    pub const fn preference(self) -> u16 {
        match self {
            Self::Mx(preference) => preference,
            Self::ImplicitMx | Self::Literal => 0,
        }
    }
}

/// One host that takes the mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchanger {
    /// How it is known.
    pub origin: Origin,
    /// The name in the MX record, or the domain: what a certificate is compared with. None for an address literal.
    pub name: Option<HostName>,
    /// The name that has the addresses, if `name` is an alias of it.
    pub canonical: Option<String>,
    /// In the order in which they are tried; at least one.
    pub addresses: Vec<IpAddr>,
    /// Of the MX records, or of the proof that there are none. With `Secure` here DANE may rely on `name` (RFC 7672, 2.2.1).
    pub exchanger_status: SecurityStatus,
    /// Of the address records of both families. Only a `Secure` one is asked about TLSA records (RFC 7672, 2.2.2).
    pub address_status: SecurityStatus,
}

impl fmt::Display for Exchanger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.name, self.origin) {
            (Some(name), Origin::Mx(preference)) => write!(f, "{name} (MX {preference})"),
            (Some(name), _) => write!(f, "{name} (no MX)"),
            (None, _) => f.write_str("the address of the domain"),
        }
    }
}

/// Where the mail of a domain goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destinations {
    /// In the order in which they are tried; at least one.
    pub exchangers: Vec<Exchanger>,
    /// What led here.
    pub remarks: Vec<Remark>,
}

impl Destinations {
    /// Each address with the host that has it, in the order in which they are tried.
    pub fn attempts(&self) -> impl Iterator<Item = (&Exchanger, IpAddr)> {
        self.exchangers
            .iter()
            .flat_map(|exchanger| exchanger.addresses.iter().map(move |address| (exchanger, *address)))
    }
}

/// Why the mail of a domain goes nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// What stands behind the `@` is neither the name of a domain nor an address.
    #[error("the domain is no domain name: {0}")]
    NotADomain(HostNameError),
    /// NXDOMAIN.
    #[error("the domain does not exist")]
    NoSuchDomain,
    /// The domain says that it takes no mail. RFC 7505.
    #[error("the domain takes no mail (null MX)")]
    NullMx,
    /// The best mail exchanger is this switch, which has no route for the domain. RFC 5321, 5.1.
    #[error(
        "mail would loop: by its records this switch takes the mail of the domain, and has no route for it"
    )]
    Loop,
    /// The domain exists and has neither an MX record nor an address.
    #[error("the domain has neither a mail exchanger nor an address")]
    NoExchanger,
    /// There are records, and none leads to an address to which mail can go.
    #[error("no mail exchanger of the domain can be used")]
    NoUsableExchanger,
    /// The DNS did not answer a question that must be answered first.
    #[error("it cannot be found out where the mail of the domain goes: {0}: {1}")]
    LookupFailed(Question, LookupFailure),
}

/// The mail of a domain goes nowhere, for now or for ever.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct NoDestination {
    /// Why.
    pub reason: Reason,
    /// What led here.
    pub remarks: Vec<Remark>,
}

impl NoDestination {
    /// The code for replies and reports (RFC 3463; RFC 7505 for 5.1.10). Class 4: the mail waits and is tried again.
    #[must_use]
    pub const fn status(&self) -> EnhancedStatus {
        match self.reason {
            Reason::NotADomain(_) | Reason::NoSuchDomain => EnhancedStatus::new(5, 1, 2),
            Reason::NullMx => EnhancedStatus::new(5, 1, 10),
            Reason::Loop => EnhancedStatus::new(5, 4, 6),
            Reason::NoExchanger | Reason::NoUsableExchanger => EnhancedStatus::new(5, 4, 4),
            Reason::LookupFailed(..) => EnhancedStatus::new(4, 4, 3),
        }
    }

    /// Whether trying again later may help.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        self.status().class == 4
    }

    /// The reason with all that led to it, for the report and the operator.
    #[must_use]
    pub fn diagnostic(&self) -> Diagnostic {
        let mut text = self.reason.to_string();
        // A failure that is the reason has been said.
        let is_said = |remark: &&Remark| match (&self.reason, remark) {
            (Reason::LookupFailed(asked, _), Remark::Failed(question, _)) => asked == question,
            _ => false,
        };
        for remark in self.remarks.iter().filter(|remark| !is_said(remark)) {
            text.push_str("; ");
            text.push_str(&remark.to_string());
        }
        Diagnostic::own(self.status(), &text)
    }
}
