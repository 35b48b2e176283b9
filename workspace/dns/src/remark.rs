//! What led to a decision, record by record, in words for operators.

use crate::{HostName, HostNameError, LookupFailure, Question};
use std::fmt;
use std::net::IpAddr;

/// One step of the way to a decision. `Display` is the sentence for operators: one line, without its full stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remark {
    /// A name is an alias (CNAME) and was followed.
    Alias {
        /// What was asked about.
        name: HostName,
        /// What has the records.
        canonical: String,
    },
    /// There is no MX record; the domain is its own mail exchanger. RFC 5321, 5.1.
    ImplicitMx(HostName),
    /// An exchanger of the MX records is no host name: that record is left out.
    NotAHostName {
        /// As the zone has it.
        exchanger: String,
        /// Of the record.
        preference: u16,
        /// What is wrong.
        error: HostNameError,
    },
    /// An exchanger is this switch, by its name or by an address.
    Own {
        /// The exchanger.
        name: HostName,
        /// The address that is ours; none when the name is.
        address: Option<IpAddr>,
    },
    /// The exchangers that are left out since one of their preference, or of a better one, is this switch. RFC 5321, 5.1.
    Discarded {
        /// This preference and every worse one.
        preference: u16,
        /// How many.
        count: usize,
    },
    /// More exchangers than are kept.
    ExchangersCut {
        /// The best of them.
        kept: usize,
        /// What the zone has.
        found: usize,
    },
    /// More addresses of one exchanger than are kept.
    AddressesCut {
        /// Of whom.
        name: HostName,
        /// The first of each family.
        kept: usize,
        /// What the zone has.
        found: usize,
    },
    /// An address to which no mail can go: multicast, broadcast, link-local, or an IPv4 address in an AAAA record.
    UnusableAddress {
        /// Of whom.
        name: String,
        /// The address.
        address: IpAddr,
    },
    /// An address of a family that is switched off.
    FamilyOff(IpAddr),
    /// The exchanger has no address.
    NoAddress(HostName),
    /// The exchanger does not exist.
    NoSuchExchanger(HostName),
    /// A question without an answer.
    Failed(Question, LookupFailure),
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alias { name, canonical } => write!(f, "{name} is an alias (CNAME) of {canonical}"),
            Self::ImplicitMx(domain) => {
                write!(f, "{domain} has no MX record and is its own mail exchanger")
            }
            Self::NotAHostName { exchanger, preference, error } => {
                write!(f, "MX {preference} {exchanger} is left out, for it is no host name: {error}")
            }
            Self::Own { name, address: None } => write!(f, "{name} is a name of this switch"),
            Self::Own { name, address: Some(address) } => {
                write!(f, "{name} has the address {address}, which is this switch's")
            }
            Self::Discarded { preference, count } => {
                write!(
                    f,
                    "mail exchangers of preference {preference} and worse are left out, for this switch is one of them: {count}"
                )
            }
            Self::ExchangersCut { kept, found } => {
                write!(f, "of {found} mail exchangers the best {kept} are kept")
            }
            Self::AddressesCut { name, kept, found } => {
                write!(f, "of {found} addresses of {name} {kept} are kept")
            }
            Self::UnusableAddress { name, address } => {
                write!(f, "{name} has the address {address}, to which no mail can go")
            }
            Self::FamilyOff(address) => write!(f, "{address} is of a family that is switched off"),
            Self::NoAddress(name) => write!(f, "{name} has no address"),
            Self::NoSuchExchanger(name) => write!(f, "{name} does not exist"),
            Self::Failed(question, failure) => write!(f, "{question}: {failure}"),
        }
    }
}

/// The remarks of one search. A hostile zone gives a reason for thousands; these are as many as anybody reads.
#[derive(Debug, Default)]
pub(crate) struct Remarks(Vec<Remark>);

impl Remarks {
    const COUNT_MAX: usize = 64;

    pub(crate) fn push(&mut self, remark: Remark) {
        if self.0.len() < Self::COUNT_MAX {
            self.0.push(remark);
        }
    }

    pub(crate) fn into_vec(self) -> Vec<Remark> {
        self.0
    }
}
