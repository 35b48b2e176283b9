//! What each role gets to see: its part of the configuration and no more. The views travel between processes.

use crate::{
    AuthenticationPolicy, Channel, ClientCertificates, ConcealmentSecret, Configuration, Dns, DomainPattern,
    HOUSEKEEPER, LanguageTag, Listener, Network, Node, Peer, Qmgr, ReportText, Reports, ReportsTo, RouteRule,
    Trust, TrustScope, User, built_in_report_texts,
};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::HashMap;
use std::net::IpAddr;
use sternpost_message::DomainPeer;

/// The routes by domain, prebuilt: a look-up costs one hash per label of the domain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<RoutedRule>", into = "Vec<RoutedRule>")]
pub struct RouteTable {
    rules: Vec<RoutedRule>,
    /// Exact domains, and suffixes with their leading dot, to an index into `rules`.
    by_domain: HashMap<String, usize>,
    /// The smart host.
    any: Option<usize>,
}

/// A rule with what its peer says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct RoutedRule {
    rule: RouteRule,
    /// The channel of its peer.
    channel: String,
    /// Its peer stands for the domains.
    is_by_dns: bool,
}

/// Where the mail of a domain goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination<'a> {
    /// The channel's name.
    pub channel: &'a str,
    /// The peer's name: one that is configured, or that of the domain's own (see [`DomainPeer`]).
    pub peer: Cow<'a, str>,
    /// Whether every client may send there; else only those that the listener lists.
    pub open_to_all: bool,
}

impl RouteTable {
    /// The table of these routes. A route to a peer that is not there is left out.
    #[must_use]
    pub fn new(routes: &[RouteRule], peers: &[Peer]) -> Self {
        let by_name: HashMap<&str, &Peer> = peers.iter().map(|peer| (peer.name.as_str(), peer)).collect();
        let routed = |rule: &RouteRule| {
            by_name.get(rule.peer.as_str()).map(|peer| RoutedRule {
                rule: rule.clone(),
                channel: peer.channel.clone(),
                is_by_dns: peer.is_by_dns(),
            })
        };
        Self::from(routes.iter().filter_map(routed).collect::<Vec<_>>())
    }

    /// The rule for a domain: the domain itself, else the longest suffix, else the smart host.
    #[must_use]
    pub fn route(&self, domain: &str) -> Option<&RouteRule> {
        self.find(domain).map(|routed| &routed.rule)
    }

    /// The destination of a domain, by the same order.
    #[must_use]
    pub fn destination(&self, domain: &str) -> Option<Destination<'_>> {
        let RoutedRule { rule, channel, is_by_dns } = self.find(domain)?;
        let peer = if *is_by_dns {
            let domain = domain.to_lowercase();
            Cow::Owned(DomainPeer { by: &rule.peer, domain: &domain }.peer())
        } else {
            Cow::Borrowed(rule.peer.as_str())
        };
        Some(Destination { channel, peer, open_to_all: rule.is_open_to_all() })
    }

    fn find(&self, domain: &str) -> Option<&RoutedRule> {
        let domain = if domain.bytes().any(|octet| octet.is_ascii_uppercase() || !octet.is_ascii()) {
            Cow::Owned(domain.to_lowercase())
        } else {
            Cow::Borrowed(domain)
        };
        let below = || {
            domain
                .match_indices('.')
                .filter(|&(at, _)| at > 0)
                .find_map(|(at, _)| self.by_domain.get(&domain[at..]))
        };
        // A domain never begins with a dot; without the check such text would hit a suffix.
        let exact = if domain.starts_with('.') { None } else { self.by_domain.get(domain.as_ref()) };
        exact.or_else(below).or(self.any.as_ref()).map(|&index| &self.rules[index])
    }
}

impl From<Vec<RoutedRule>> for RouteTable {
    fn from(rules: Vec<RoutedRule>) -> Self {
        let mut table = Self { by_domain: HashMap::with_capacity(rules.len()), any: None, rules };
        for (index, routed) in table.rules.iter().enumerate() {
            match &routed.rule.domain {
                DomainPattern::Exact(key) | DomainPattern::Below(key) => {
                    table.by_domain.insert(key.clone(), index);
                }
                DomainPattern::Any => table.any = Some(index),
            }
        }
        table
    }
}

impl From<RouteTable> for Vec<RoutedRule> {
    fn from(table: RouteTable) -> Self {
        table.rules
    }
}

/// The trust entries that count in one of these places.
fn trusts_of<'a>(trusts: &[Trust], places: impl Iterator<Item = &'a TrustScope>) -> Vec<Trust> {
    let places: Vec<&TrustScope> = places.collect();
    let counts = |trust: &&Trust| places.iter().any(|place| place.holds(&trust.name));
    trusts.iter().filter(counts).cloned().collect()
}

/// What `smtp-server` gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SmtpServerView {
    /// The node.
    pub node: Node,
    /// All listeners, with the numbers of connections that are in force.
    pub listeners: Vec<Listener>,
    /// Who vouches for the clients of those listeners that ask for a certificate.
    pub trusts: Vec<Trust>,
    /// Who may authenticate to those listeners that ask for it. No other role gets a user.
    pub users: Vec<User>,
    /// By what users that are not there are concealed; whoever hands out the view fills it in.
    pub concealment: ConcealmentSecret,
    /// All routes.
    pub routes: RouteTable,
    /// All peers.
    pub peers: Vec<Peer>,
}

impl SmtpServerView {
    /// The part of a configuration that the role gets. Of each listener `connections` says how many it may have open,
    /// and how many one client may; a reserve that nobody can use is not kept.
    #[must_use]
    pub fn new(configuration: &Configuration, connections: impl Fn(&Listener) -> (u32, u32)) -> Self {
        let with_numbers = |listener: &Listener| {
            let (max, per_client_max) = connections(listener);
            let (urgent, normal) =
                listener.connections_reserves_in_force(configuration.node.priority_policy.ordinary());
            Listener {
                connections_max: Some(max),
                connections_per_client_max: Some(per_client_max),
                connections_reserve_urgent: urgent,
                connections_reserve_normal: normal,
                ..listener.clone()
            }
        };
        let asks = |listener: &&Listener| listener.tls.client_certificates != ClientCertificates::None;
        let places = configuration.listeners.iter().filter(asks).map(|listener| &listener.tls.client_trust);
        let authenticates =
            |listener: &Listener| listener.authentication.policy != AuthenticationPolicy::None;
        let users = if configuration.listeners.iter().any(authenticates) {
            configuration.users.clone()
        } else {
            Vec::new()
        };
        Self {
            users,
            concealment: ConcealmentSecret::default(),
            node: configuration.node.clone(),
            trusts: trusts_of(&configuration.trusts, places),
            listeners: configuration.listeners.iter().map(with_numbers).collect(),
            routes: RouteTable::new(&configuration.routes, &configuration.peers),
            peers: configuration.peers.clone(),
        }
    }

    /// The rule for a domain, most specific first.
    #[must_use]
    pub fn route(&self, domain: &str) -> Option<&RouteRule> {
        self.routes.route(domain)
    }
}

/// What a process of an SMTP or LMTP channel gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelView {
    /// The node.
    pub node: Node,
    /// The channel.
    pub channel: Channel,
    /// The channel's peers.
    pub peers: Vec<Peer>,
    /// Who vouches for those of them that are verified.
    pub trusts: Vec<Trust>,
    /// For those of them whose hosts are found by DNS, if there are any.
    pub resolver: Option<ResolverView>,
}

/// What is asked of the DNS, and who is this switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolverView {
    /// Whom to ask, and names of this switch besides the node's.
    pub dns: Dns,
    /// Addresses of this switch, those of its listeners included.
    pub own_addresses: Vec<IpAddr>,
}

impl ResolverView {
    fn new(configuration: &Configuration) -> Self {
        let listening = configuration.listeners.iter().flat_map(|listener| &listener.addresses);
        let listening =
            listening.map(|address| address.ip().to_canonical()).filter(|ip| !ip.is_unspecified());
        let configured = configuration.node.dns.own_addresses.iter().map(IpAddr::to_canonical);
        let mut own_addresses: Vec<IpAddr> = configured.chain(listening).collect();
        own_addresses.sort_unstable();
        own_addresses.dedup();
        Self { dns: configuration.node.dns.clone(), own_addresses }
    }
}

impl ChannelView {
    /// The part of a configuration that a process of the channel gets; none when there is no such channel.
    #[must_use]
    pub fn new(configuration: &Configuration, channel: &str) -> Option<Self> {
        let peers = || configuration.peers.iter().filter(|peer| peer.channel == channel);
        let places = peers().filter(|peer| peer.tls.policy.is_verified()).map(|peer| &peer.tls.trust);
        Some(Self {
            trusts: trusts_of(&configuration.trusts, places),
            node: configuration.node.clone(),
            channel: configuration.channel(channel)?.clone(),
            peers: peers().cloned().collect(),
            resolver: peers().any(Peer::is_by_dns).then(|| ResolverView::new(configuration)),
        })
    }

    /// The peer of that name, if the configuration has it, or the one that stands for the domain of that name.
    #[must_use]
    pub fn peer(&self, name: &str) -> Option<Cow<'_, Peer>> {
        let configured = |name: &str| self.peers.iter().find(|peer| peer.name == name);
        match DomainPeer::of_peer(name) {
            None => configured(name).filter(|peer| !peer.is_by_dns()).map(Cow::Borrowed),
            Some(domain) => {
                let by = configured(domain.by).filter(|peer| peer.is_by_dns())?;
                Some(Cow::Owned(Peer { name: name.to_owned(), ..by.clone() }))
            }
        }
    }
}

/// What the housekeeper gets: it routes the reports that it makes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HousekeeperView {
    /// The node.
    pub node: Node,
    /// The channel.
    pub channel: Channel,
    /// All routes.
    pub routes: RouteTable,
    /// All peers.
    pub peers: Vec<Peer>,
    /// The timings that reports speak of.
    pub qmgr: Qmgr,
    /// What is said to whom.
    pub reports: Reports,
    /// The texts: those of the configuration, and behind them those in the box.
    pub texts: Vec<ReportText>,
    /// Of each listener its name, the language of its reports, whose mail is reported on, and its client networks.
    pub sources: Vec<ReportSource>,
}

/// A listener, as it concerns reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportSource {
    /// Its name.
    pub name: String,
    /// The language, if it has one of its own.
    pub language: Option<LanguageTag>,
    /// Whose mail is reported on.
    pub reports_to: ReportsTo,
    /// Its client networks.
    pub client_networks: Vec<Network>,
}

impl HousekeeperView {
    /// The part of a configuration that the role gets; none when the configuration was not made by [`crate::load()`]
    /// and has no housekeeper.
    #[must_use]
    pub fn new(configuration: &Configuration) -> Option<Self> {
        Some(Self {
            node: configuration.node.clone(),
            channel: configuration.channel(HOUSEKEEPER)?.clone(),
            routes: RouteTable::new(&configuration.routes, &configuration.peers),
            peers: configuration.peers.clone(),
            qmgr: configuration.qmgr.clone(),
            reports: Reports { texts: Vec::new(), ..configuration.reports.clone() },
            texts: configuration.reports.texts.iter().cloned().chain(built_in_report_texts()).collect(),
            sources: configuration.listeners.iter().map(source).collect(),
        })
    }
}

fn source(listener: &Listener) -> ReportSource {
    ReportSource {
        name: listener.name.clone(),
        language: listener.report_language.clone(),
        reports_to: listener.reports_to,
        client_networks: listener.client_networks.clone(),
    }
}
