//! A peer that a domain is: found by DNS, and named by whoever routes mail to the domain.

use crate::NullHop;

/// The peer of one domain whose hosts the DNS names. A route has it as its peer, `NAME:DOMAIN`: by the configured peer NAME,
/// which says how the mail of such domains goes. No configured peer has such a name: names have no colon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DomainPeer<'a> {
    /// The configured peer.
    pub by: &'a str,
    /// The domain in lower case, or an address literal with its brackets.
    pub domain: &'a str,
}

impl<'a> DomainPeer<'a> {
    /// The domain's peer that a route's peer is; none when the peer is a configured one or a null hop.
    #[must_use]
    pub fn of_peer(peer: &'a str) -> Option<Self> {
        let (by, domain) = peer.split_once(':')?;
        let is_one = !by.is_empty() && !domain.is_empty() && format!("{by}:") != NullHop::PREFIX;
        is_one.then_some(Self { by, domain })
    }

    /// The peer of a route to it.
    #[must_use]
    pub fn peer(self) -> String {
        format!("{}:{}", self.by, self.domain)
    }

    /// What the names of all domains' peers of a configured one begin with.
    #[must_use]
    pub fn prefix(by: &str) -> String {
        format!("{by}:")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domains_peer_is_named_by_the_configured_one_and_the_domain() {
        let rows = [
            ("internet:example.org", Some(("internet", "example.org"))),
            ("internet:[IPv6:2001:db8::1]", Some(("internet", "[IPv6:2001:db8::1]"))),
            ("internet", None),
            ("internet:", None),
            (":example.org", None),
            ("null:2525", None),
            ("", None),
        ];
        for (peer, parts) in rows {
            let found = DomainPeer::of_peer(peer);
            assert_eq!(found.map(|found| (found.by, found.domain)), parts, "{peer}");
            assert!(found.is_none_or(|found| found.peer() == peer), "{peer}");
        }
    }
}
