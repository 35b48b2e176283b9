//! What is asked of the DNS, and what comes back.

use crate::HostName;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The types of record that decide where mail goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKind {
    /// Mail exchangers. RFC 1035, 3.3.9.
    Mx,
    /// IPv4 addresses. RFC 1035, 3.4.1.
    A,
    /// IPv6 addresses. RFC 3596, 2.1.
    Aaaa,
}

impl fmt::Display for RecordKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mx => "MX",
            Self::A => "A",
            Self::Aaaa => "AAAA",
        })
    }
}

/// One question to the DNS.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Question {
    /// Of what.
    pub name: HostName,
    /// Which records.
    pub kind: RecordKind,
}

impl Question {
    /// The answer that stands in an RFC: nobody is asked about these names.
    ///
    /// `localhost` is this host (RFC 6761, 6.3); `invalid` (6.4) and `onion` (RFC 7686, 2) do not exist. The other names of
    /// RFC 6761 (`test`, `example`) are asked about like any other: a closed network may have them.
    #[must_use]
    pub fn special_answer(&self) -> Option<Answer> {
        let status = SecurityStatus::Indeterminate;
        if self.name.is_in("invalid") || self.name.is_in("onion") {
            return Some(Answer::NoSuchName { status });
        }
        if !self.name.is_in("localhost") {
            return None;
        }
        let address = match self.kind {
            RecordKind::Mx => return Some(Answer::NoRecord { status }),
            RecordKind::A => IpAddr::from(Ipv4Addr::LOCALHOST),
            RecordKind::Aaaa => IpAddr::from(Ipv6Addr::LOCALHOST),
        };
        Some(Answer::Found { records: vec![Record::Address(address)], canonical: None, status })
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.kind, self.name)
    }
}

/// One record of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A mail exchanger.
    Mx {
        /// Lower is better.
        preference: u16,
        /// As the zone has it, in presentation format (RFC 1035, 5.1): not always the name of a host.
        exchanger: String,
    },
    /// An address.
    Address(IpAddr),
}

/// What DNSSEC says of an answer (RFC 4033, section 5). A bogus one is no answer: [`LookupFailure::Bogus`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SecurityStatus {
    /// Nobody has looked: validation is off, or the answer stands in an RFC.
    Indeterminate,
    /// It is proven that this part of the tree is not signed.
    Insecure,
    /// A chain of signatures leads from a trust anchor to it, or to the proof that there is nothing.
    Secure,
}

impl SecurityStatus {
    /// What can be said of two answers together: what can be said of the weaker one.
    #[must_use]
    pub fn weaker(self, other: Self) -> Self {
        self.min(other)
    }
}

/// Why a question has no answer. All of this may pass: the mail waits (RFC 5321, 5.1).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupFailure {
    /// No name server answered in time.
    #[error("no name server answered in time")]
    Timeout,
    /// A name server answered that it cannot, or will not.
    #[error("the name server answered {0}")]
    Refused(String),
    /// No name server could be reached.
    #[error("no name server can be reached: {0}")]
    Unreachable(String),
    /// The signatures of the answer are wrong or missing (RFC 4033, section 5).
    #[error("the answer is bogus: DNSSEC cannot prove it")]
    Bogus,
    /// The question was not put.
    #[error("nobody was asked")]
    NotAsked,
    /// What came back is no answer.
    #[error("the answer cannot be used: {0}")]
    Unusable(String),
}

/// What the DNS said to one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Records.
    Found {
        /// In the order in which they came.
        records: Vec<Record>,
        /// The name that has them, if the name that was asked about is an alias (CNAME). Presentation format, lower case.
        canonical: Option<String>,
        /// Of the records and of every CNAME on the way.
        status: SecurityStatus,
    },
    /// The name exists and has no such record. RFC 2308, 2.2.
    NoRecord {
        /// Of the proof of that.
        status: SecurityStatus,
    },
    /// The name does not exist. RFC 2308, 2.1.
    NoSuchName {
        /// Of the proof of that.
        status: SecurityStatus,
    },
    /// Nobody could say.
    Failed(LookupFailure),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(name: &str, kind: RecordKind) -> Option<Answer> {
        Question { name: HostName::parse(name).unwrap(), kind }.special_answer()
    }

    #[test]
    fn rfc_6761_localhost_is_this_host_and_has_no_mail_exchanger() {
        let status = SecurityStatus::Indeterminate;
        let address = |text: &str| {
            let records = vec![Record::Address(text.parse().unwrap())];
            Some(Answer::Found { records, canonical: None, status })
        };
        assert_eq!(ask("localhost", RecordKind::A), address("127.0.0.1"));
        assert_eq!(ask("a.localhost", RecordKind::Aaaa), address("::1"));
        assert_eq!(ask("localhost", RecordKind::Mx), Some(Answer::NoRecord { status }));
    }

    #[test]
    fn rfc_6761_and_rfc_7686_invalid_and_onion_do_not_exist_and_test_is_asked_about() {
        let nowhere = Some(Answer::NoSuchName { status: SecurityStatus::Indeterminate });
        assert_eq!(ask("mail.invalid", RecordKind::Mx), nowhere);
        assert_eq!(ask("mail.onion", RecordKind::A), nowhere);
        assert_eq!(ask("mail.test", RecordKind::Mx), None);
    }
}
