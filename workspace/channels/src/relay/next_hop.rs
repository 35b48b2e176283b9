//! Where a peer is: its hosts in the order in which they are tried, and what led to each.
//!
//! A peer with an address is there and nowhere else. A group has several hosts, which share the associations by their weights. A peer
//! that stands for a domain is looked up whenever an association opens; the resolver keeps the answers for as long as they say.

use rustc_hash::FxHashMap;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use sternpost_config::{
    AddressFamilies, ChannelView, Dns, DnsRouting, GroupHost, NextHop, Peer, ResolverView,
};
use sternpost_dns::{
    Destinations, Exchanger, FamilyOrder, HostName, Loopback, NoDestination, Origin, Policy, Resolver,
    SecurityStatus, Settings, Validation,
};
use sternpost_message::{Diagnostic, DomainPeer, EnhancedStatus, chain};

/// RFC 3463, 3.4: the directory server has failed, which is the DNS here.
const LOOKUP_FAILED: EnhancedStatus = EnhancedStatus::new(4, 4, 3);
/// RFC 3463, 3.5.
const MAIL_LOOPS: EnhancedStatus = EnhancedStatus::new(5, 4, 6);

/// A host of a group that has failed is tried last for this long: each association would wait for it first otherwise.
const LAST_FOR: Duration = Duration::from_secs(60);

/// One host of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) address: SocketAddr,
    /// For people and reports: the host's name first, what led to it behind.
    pub(super) words: String,
    /// The peer may have others.
    pub(super) is_one_of_several: bool,
    /// What is said of a host that the DNS has named.
    pub(super) found: Option<Found>,
}

/// A host that the DNS has named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Names that its certificate may have. The domain is the sender's word; the host's own name stands here, first, if DNSSEC
    /// proves that it is the domain's (RFC 9525, 6.1).
    pub(super) references: Vec<String>,
    /// Its name, as it is told whom we want.
    pub(super) name: Option<String>,
    /// Lower is better.
    pub(super) preference: u16,
    /// Whether the loopback of this machine is somebody else.
    may_be_loopback: bool,
}

impl Host {
    /// Where an entry says.
    fn configured(peer: &Peer, address: SocketAddr) -> Self {
        Self { address, words: format!("{} ({address})", peer.name), is_one_of_several: false, found: None }
    }

    /// One of several that an entry gives.
    fn of_a_group(peer: &Peer, host: GroupHost) -> Self {
        let GroupHost { preference, weight, address } = host;
        let words = format!("{} ({address}, preference {preference}, weight {weight})", peer.name);
        Self { address: address.0, words, is_one_of_several: true, found: None }
    }

    /// Whether a connection from `local` to the host has come back to this machine: a listener on every address of the machine
    /// does not say which these are.
    pub(super) fn is_this_machine(&self, local: IpAddr) -> bool {
        let is_own = local.to_canonical() == self.address.ip().to_canonical();
        self.found.as_ref().is_some_and(|found| is_own && !(found.may_be_loopback && local.is_loopback()))
    }
}

/// There is nobody to whom mail could go.
#[derive(Debug)]
pub(super) struct Nowhere {
    pub(super) diagnostic: Diagnostic,
    /// Trying again later does not help.
    pub(super) is_final: bool,
}

impl Nowhere {
    fn for_now(why: &str) -> Self {
        Self { diagnostic: Diagnostic::own(LOOKUP_FAILED, why), is_final: false }
    }

    /// All that were tried lead back here.
    pub(super) fn looped(why: &str) -> Self {
        Self { diagnostic: Diagnostic::own(MAIL_LOOPS, why), is_final: true }
    }
}

impl From<NoDestination> for Nowhere {
    fn from(reason: NoDestination) -> Self {
        Self { diagnostic: reason.diagnostic(), is_final: !reason.is_transient() }
    }
}

/// The resolver of a process, made anew with what it keeps when the configuration changes what it is told.
#[derive(Debug, Default)]
pub(super) struct Lookup {
    resolver: RefCell<Option<(Dns, Result<Resolver, String>)>>,
    seeds: RandomState,
    /// Hosts of groups that have failed a short while ago, and when. No more than the groups have.
    failed: RefCell<FxHashMap<SocketAddr, Instant>>,
}

impl Lookup {
    /// The hosts of a peer, at least one, in the order in which they are tried.
    ///
    /// # Errors
    /// `Nowhere` when there are none, with all that led to that.
    pub(super) async fn hosts(&self, peer: &Peer, view: &ChannelView) -> Result<Vec<Host>, Nowhere> {
        let routing = match &peer.next_hop {
            NextHop::Address(address) => return Ok(vec![Host::configured(peer, address.0)]),
            NextHop::Group(hosts) => {
                let mut hosts = in_order(hosts, self.seed());
                // Stable: among those that failed, and among the others, the order stays.
                hosts.sort_by_key(|host| self.has_failed(host.address.0));
                return Ok(hosts.into_iter().map(|host| Host::of_a_group(peer, host)).collect());
            }
            NextHop::Dns(routing) => routing,
        };
        let domain = DomainPeer::of_peer(&peer.name).map_or("", |domain| domain.domain);
        let Some(resolver_view) = &view.resolver else {
            return Err(Nowhere::for_now("no resolver is configured"));
        };
        let resolver = self.resolver(&resolver_view.dns).map_err(|why| {
            Nowhere::for_now(&format!("it cannot be found out where the mail of the domain goes: {why}"))
        })?;
        let policy = policy(&view.node.hostname, resolver_view, routing);
        let found = resolver.destinations(domain, &policy, self.seed()).await;
        match found {
            Ok(found) => {
                log(domain, &found);
                Ok(hosts(domain, routing, &found))
            }
            Err(reason) => {
                let why = reason.diagnostic().text;
                tracing::info!(event = "dns.nowhere", domain, why, "the mail of a domain goes nowhere");
                Err(reason.into())
            }
        }
    }

    /// A number that nobody can foretell.
    fn seed(&self) -> u64 {
        self.seeds.hash_one(Instant::now())
    }

    fn has_failed(&self, address: SocketAddr) -> bool {
        self.failed.borrow().get(&address).is_some_and(|at| at.elapsed() < LAST_FOR)
    }

    /// A host did not let an association in.
    pub(super) fn failed(&self, peer: &Peer, host: &Host) {
        if matches!(peer.next_hop, NextHop::Group(_)) {
            let mut failed = self.failed.borrow_mut();
            failed.retain(|_, at| at.elapsed() < LAST_FOR);
            failed.insert(host.address, Instant::now());
        }
    }

    fn resolver(&self, dns: &Dns) -> Result<Resolver, String> {
        let mut kept = self.resolver.borrow_mut();
        if let Some((told, resolver)) = &*kept
            && is_asked_alike(told, dns)
        {
            return resolver.clone();
        }
        let made = Resolver::new(&settings(dns)).map_err(|error| chain(&error));
        if let Err(why) = &made {
            tracing::error!(
                event = "dns.unusable",
                why,
                "no mail goes by DNS: its configuration makes no resolver"
            );
        }
        *kept = Some((dns.clone(), made.clone()));
        made
    }
}

/// The hosts of a group, the lowest preference first; those of equal preference in the order of a draw in which each has as many
/// lots as its weight.
fn in_order(hosts: &[GroupHost], seed: u64) -> Vec<GroupHost> {
    let mut left = hosts.to_vec();
    left.sort_by_key(|host| host.preference);
    let mut drawn = Vec::with_capacity(left.len());
    let mut state = seed;
    while let Some(best) = left.first().map(|host| host.preference) {
        let equal = left.iter().take_while(|host| host.preference == best);
        let lots: u64 = equal.map(|host| u64::from(host.weight)).sum();
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        // The high bits of such a generator are the good ones. A weight is at least 1.
        let mut lot = (state >> 33) % lots.max(1);
        let at = left.iter().position(|host| match lot.checked_sub(host.weight.into()) {
            Some(rest) => {
                lot = rest;
                false
            }
            None => true,
        });
        drawn.push(left.remove(at.unwrap_or(0)));
    }
    drawn
}

/// Whether two configurations ask the same in the same way, so that what is kept still holds.
fn is_asked_alike(a: &Dns, b: &Dns) -> bool {
    (&a.name_servers, a.timeout_s, &a.trust_anchors) == (&b.name_servers, b.timeout_s, &b.trust_anchors)
}

fn settings(dns: &Dns) -> Settings {
    Settings {
        name_servers: dns.name_servers.clone(),
        attempt_timeout: Duration::from_secs(dns.timeout_s.into()),
        validation: if dns.trust_anchors.is_empty() {
            Validation::Off
        } else {
            Validation::TrustAnchors(dns.trust_anchors.join("\n"))
        },
        ..Settings::default()
    }
}

fn policy(hostname: &str, view: &ResolverView, routing: &DnsRouting) -> Policy {
    let names = view.dns.own_names.iter().map(String::as_str).chain([hostname]);
    // A name that no DNS can have is asked about by nobody.
    let own_names: BTreeSet<HostName> = names.filter_map(|name| HostName::parse(name).ok()).collect();
    Policy {
        own_names,
        own_addresses: view.own_addresses.iter().copied().collect(),
        loopback: if routing.loopback { Loopback::Other } else { Loopback::Own },
        family_order: match routing.families {
            AddressFamilies::Interleaved => FamilyOrder::Interleaved,
            AddressFamilies::Ipv6First => FamilyOrder::Ipv6First,
            AddressFamilies::Ipv4First => FamilyOrder::Ipv4First,
            AddressFamilies::Ipv6Only => FamilyOrder::Ipv6Only,
            AddressFamilies::Ipv4Only => FamilyOrder::Ipv4Only,
        },
        // One exchanger with many addresses leaves half of the attempts to the others.
        addresses_max: addresses_max(routing).div_ceil(2),
        ..Policy::default()
    }
}

fn addresses_max(routing: &DnsRouting) -> usize {
    usize::try_from(routing.addresses_max).unwrap_or(usize::MAX).max(1)
}

fn hosts(domain: &str, routing: &DnsRouting, found: &Destinations) -> Vec<Host> {
    let host = |(exchanger, address): (&Exchanger, IpAddr)| {
        let address = SocketAddr::new(address, routing.port);
        let name = exchanger.name.as_ref().map(ToString::to_string);
        let led_by = match exchanger.origin {
            Origin::Mx(preference) => format!("MX {preference} of {domain}"),
            Origin::ImplicitMx => format!("{domain} has no MX"),
            Origin::Literal => "the address is the domain".to_owned(),
        };
        let alias =
            exchanger.canonical.as_ref().map_or_else(String::new, |name| format!(", alias of {name}"));
        let shown = name.as_deref().unwrap_or(domain);
        let proven = name.clone().filter(|_| exchanger.exchanger_status == SecurityStatus::Secure);
        let named = HostName::parse(domain).ok().map(|domain| domain.to_string());
        let mut references: Vec<String> = proven.into_iter().chain(named).collect();
        references.dedup();
        Host {
            address,
            words: format!("{shown} ({address}, {led_by}{alias})"),
            is_one_of_several: true,
            found: Some(Found {
                references,
                name,
                preference: exchanger.origin.preference(),
                may_be_loopback: routing.loopback,
            }),
        }
    };
    found.attempts().map(host).take(addresses_max(routing)).collect()
}

fn log(domain: &str, found: &Destinations) {
    let exchangers: Vec<String> = found.exchangers.iter().map(ToString::to_string).collect();
    let remarks: Vec<String> = found.remarks.iter().map(ToString::to_string).collect();
    tracing::debug!(
        event = "dns.found",
        domain,
        exchangers = exchangers.join(", "),
        remarks = remarks.join("; "),
        "the DNS says where the mail of a domain goes"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use sternpost_config::PeerAddress;

    const ROUTING: DnsRouting =
        DnsRouting { port: 25, families: AddressFamilies::Interleaved, addresses_max: 3, loopback: false };

    fn exchanger(name: &str, preference: u16, status: SecurityStatus, addresses: &[&str]) -> Exchanger {
        Exchanger {
            origin: Origin::Mx(preference),
            name: Some(HostName::parse(name).unwrap()),
            canonical: None,
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            exchanger_status: status,
            address_status: status,
        }
    }

    #[test]
    fn the_hosts_of_a_domain_say_which_record_led_to_them_and_are_not_more_than_may_be_tried() {
        let exchangers = vec![
            exchanger("a.mx.test", 10, SecurityStatus::Insecure, &["2001:db8::1", "192.0.2.1"]),
            exchanger("b.mx.test", 20, SecurityStatus::Secure, &["192.0.2.2", "192.0.2.3"]),
        ];
        let hosts = hosts("far.test", &ROUTING, &Destinations { exchangers, remarks: Vec::new() });
        let words: Vec<_> = hosts.iter().map(|host| host.words.as_str()).collect();
        assert_eq!(
            words,
            [
                "a.mx.test ([2001:db8::1]:25, MX 10 of far.test)",
                "a.mx.test (192.0.2.1:25, MX 10 of far.test)",
                "b.mx.test (192.0.2.2:25, MX 20 of far.test)",
            ]
        );
    }

    #[test]
    fn the_hosts_of_a_group_come_by_preference_and_share_by_weight() {
        let host = |preference, weight, last| GroupHost {
            preference,
            weight,
            address: PeerAddress(SocketAddr::from(([192, 0, 2, last], 25))),
        };
        let group = [host(20, 1, 9), host(10, 3, 1), host(10, 1, 2)];
        let seeds = RandomState::new();
        let mut firsts = [0_u32; 2];
        for number in 0..4_000 {
            let order = in_order(&group, seeds.hash_one(number));
            let preferences: Vec<_> = order.iter().map(|host| host.preference).collect();
            assert_eq!(preferences, [10, 10, 20]);
            firsts[usize::from(order[0].weight == 1)] += 1;
        }
        // 3,000 are expected; ten standard deviations are 274.
        assert!((2_726..=3_274).contains(&firsts[0]), "{firsts:?}");
    }

    #[test]
    fn a_certificate_has_the_name_of_the_domain_or_that_of_a_host_which_dnssec_proves() {
        let references = |status| {
            let exchangers = vec![exchanger("a.mx.test", 10, status, &["192.0.2.1"])];
            let found = Destinations { exchangers, remarks: Vec::new() };
            hosts("far.test", &ROUTING, &found)[0].found.clone().unwrap().references
        };
        assert_eq!(references(SecurityStatus::Indeterminate), ["far.test"]);
        assert_eq!(references(SecurityStatus::Insecure), ["far.test"]);
        assert_eq!(references(SecurityStatus::Secure), ["a.mx.test", "far.test"]);
    }

    #[test]
    fn a_connection_that_ends_at_the_address_from_which_it_comes_is_to_this_machine() {
        let host = |loopback, address: &str| {
            let exchangers = vec![exchanger("a.mx.test", 10, SecurityStatus::Insecure, &[address])];
            let found = Destinations { exchangers, remarks: Vec::new() };
            hosts("far.test", &DnsRouting { loopback, ..ROUTING }, &found).remove(0)
        };
        let local = |address: &str| address.parse::<IpAddr>().unwrap();
        assert!(host(false, "192.0.2.1").is_this_machine(local("192.0.2.1")));
        assert!(host(true, "192.0.2.1").is_this_machine(local("::ffff:192.0.2.1")));
        assert!(!host(false, "192.0.2.1").is_this_machine(local("192.0.2.9")));
        assert!(!host(true, "127.0.0.1").is_this_machine(local("127.0.0.1")));
    }
}
