//! The configuration in force, typed. Units stand in the names, bounds and defaults in the comments and, binding,
//! in [`crate::ATTRIBUTES`].

use crate::{
    DomainPattern, Instant, LanguageTag, ListenerAuthentication, ListenerTls, Network, NetworkPrecedence,
    PeerTls, ReportText, Trust, User,
};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use sternpost_message::{CivilPriority, Mailbox, Precedence, PriorityField, PriorityPolicy};

/// The name of the channel that makes reports. It exists in every configuration.
pub const HOUSEKEEPER: &str = "housekeeper";

/// All that a node is told from outside. Names are unique in their list; every name that is referred to exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// This node.
    pub node: Node,
    /// Who vouches for clients and peers. May be empty.
    pub trusts: Vec<Trust>,
    /// Where mail comes in. May be empty.
    pub listeners: Vec<Listener>,
    /// How mail goes out. Holds at least [`HOUSEKEEPER`].
    pub channels: Vec<Channel>,
    /// To whom mail goes.
    pub peers: Vec<Peer>,
    /// Which domain goes to whom. Each pattern once.
    pub routes: Vec<RouteRule>,
    /// Totals and timings.
    pub qmgr: Qmgr,
    /// Orders that mail of low precedence waits.
    pub minimise: Vec<Minimise>,
    /// Who may authenticate. May be empty.
    pub users: Vec<User>,
    /// What senders are told.
    pub reports: Reports,
}

impl Configuration {
    /// The rule for a domain, most specific first. Reads the whole list: the views have a prebuilt table.
    #[must_use]
    pub fn route(&self, domain: &str) -> Option<&RouteRule> {
        let domain = domain.to_lowercase();
        self.routes.iter().filter(|rule| rule.domain.matches(&domain)).max_by_key(|rule| match &rule.domain {
            DomainPattern::Exact(_) => usize::MAX,
            DomainPattern::Below(suffix) => suffix.len(),
            DomainPattern::Any => 0,
        })
    }

    /// The channel of that name.
    #[must_use]
    pub fn channel(&self, name: &str) -> Option<&Channel> {
        self.channels.iter().find(|channel| channel.name == name)
    }

    /// The peer of that name.
    #[must_use]
    pub fn peer(&self, name: &str) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.name == name)
    }
}

/// The node itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// The entry's name.
    pub name: String,
    /// The name that the node gives in its greeting, in EHLO and in trace headers: a domain name. Required.
    pub hostname: String,
    /// Who reads what goes wrong, and the address that reports show as theirs (their sender is null).
    /// Default `postmaster@hostname`.
    pub postmaster: Mailbox,
    /// The levels of MT-PRIORITY, here and towards others. RFC 6710, 9.2: one for a whole network. Default STANAG4406.
    pub priority_policy: PriorityPolicy,
    /// Whom the node asks where mail goes by DNS.
    pub dns: Dns,
}

/// The resolver of the node, and what it must know of itself lest mail comes back to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Recursive name servers with their ports. May be empty: no mail goes by DNS then.
    pub name_servers: Vec<SocketAddr>,
    /// Wait for an answer of a name server, in seconds: 1 to 60, default 5.
    pub timeout_s: u32,
    /// DNSKEY records of the root zone by which answers are validated, each in the text of a zone file. None: they are not.
    pub trust_anchors: Vec<String>,
    /// Names of mail exchangers, besides the hostname, that are this switch.
    pub own_names: Vec<String>,
    /// Addresses, besides those of the listeners, at which mail reaches this switch.
    pub own_addresses: Vec<IpAddr>,
}

/// What becomes of a CR or LF that stands alone in a message (RFC 5321, 2.3.8 forbids it).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum BareLineEndings {
    /// The message is refused.
    #[default]
    Refuse,
    /// The message is stored with CRLF in its place.
    Normalise,
}

/// A place where SMTP clients connect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Its name in logs and trace headers.
    pub name: String,
    /// Address and port, at least one. Port 0 lets the system choose.
    pub addresses: Vec<SocketAddr>,
    /// Clients that may use routes that are not open to all (the smart host `*`). Default none.
    pub client_networks: Vec<Network>,
    /// Largest message, in octets: 65,536 to 17,179,869,184, default 115,343,360 (110 MiB: 100 MiB and room).
    pub message_octets_max: u64,
    /// Recipients of one message: 100 (RFC 5321, 4.5.3.1.8) to 100,000, default 1,000.
    pub recipients_max: u32,
    /// Connections at a time, if the operator says: 1 to 65,535. Else a share of what the self test found, or
    /// [`Self::CONNECTIONS_MAX_DEFAULT`].
    pub connections_max: Option<u32>,
    /// Connections at a time from one client, on all listeners together, if the operator says: 0 (no limit) to 65,535.
    /// Else [`Self::CONNECTIONS_PER_CLIENT_MAX_DEFAULT`], or less where the self test found few for all.
    pub connections_per_client_max: Option<u32>,
    /// Commands in error before the connection is closed: 1 to 1,000, default 20.
    pub errors_max: u32,
    /// Default refuse.
    pub bare_line_endings: BareLineEndings,
    /// Wait for a command, in seconds: 1 to 3,600, default 300 (RFC 5321, 4.5.3.2.7).
    pub command_timeout_s: u32,
    /// Wait for more content, in seconds: 1 to 3,600, default 180 (RFC 5321, 4.5.3.2.5).
    pub data_timeout_s: u32,
    /// `Received` fields beyond which a message is taken to loop: 10 to 1,000, default 50.
    pub received_headers_max: u32,
    /// The highest precedence that `client_networks` may ask for. Default override; one that cannot be read is that of ordinary
    /// mail.
    #[serde(with = "crate::by_name")]
    pub precedence_max: Precedence,
    /// Clients that may ask for a precedence, wherever else they may send. Default none.
    pub precedence_networks: Vec<NetworkPrecedence>,
    /// The header fields by which trusted clients may ask, the first one first. Default none.
    pub priority_fields: Vec<PriorityField>,
    /// Of the connections, those that only clients may take that may ask for urgent mail: 0 to 65,535, default 10. Both
    /// reserves take the smaller half of the connections at most; see also [`Self::connections_reserves_in_force`].
    pub connections_reserve_urgent: u32,
    /// Of the connections, those that only clients may take that may ask for more than non-urgent mail, beyond the above:
    /// 0 to 65,535, default 10.
    pub connections_reserve_normal: u32,
    /// Whether and how clients speak TLS.
    pub tls: ListenerTls,
    /// Whether and how clients say who they are.
    pub authentication: ListenerAuthentication,
    /// The language of reports on mail that came here, if it is another one.
    pub report_language: Option<LanguageTag>,
    /// Whose mail is reported on. Default everybody's.
    pub reports_to: ReportsTo,
}

impl Listener {
    /// Connections at a time where neither an operator nor a self test has said how many.
    pub const CONNECTIONS_MAX_DEFAULT: u32 = 1_000;
    /// Connections of one client where neither an operator nor a self test has said how many.
    pub const CONNECTIONS_PER_CLIENT_MAX_DEFAULT: u32 = 100;

    /// Whether a client may use routes that are not open to all.
    #[must_use]
    pub fn lists(&self, client: IpAddr) -> bool {
        self.client_networks.iter().any(|network| network.contains(client))
    }

    /// The highest precedence that a client may ask for; `ordinary`, which anybody has, where nothing grants more. What
    /// grants less to the client networks counts for them.
    #[must_use]
    pub fn precedence_max_of(&self, client: IpAddr, ordinary: Precedence) -> Precedence {
        let as_listed = self.lists(client).then_some(self.precedence_max);
        let granted = self.precedence_networks.iter().filter(|grant| grant.network.contains(client));
        granted.map(|grant| grant.precedence).chain(as_listed).max().unwrap_or(ordinary)
    }

    /// The highest precedence that any client may ask for.
    #[must_use]
    pub fn precedence_max_of_all(&self, ordinary: Precedence) -> Precedence {
        let as_listed = (!self.client_networks.is_empty()).then_some(self.precedence_max);
        let granted = self.precedence_networks.iter().map(|grant| grant.precedence);
        granted.chain(as_listed).fold(ordinary, Precedence::max)
    }

    /// The reserves of connections for urgent and for normal mail that somebody can use; one that nobody can would only make
    /// the rest smaller, and is 0.
    #[must_use]
    pub fn connections_reserves_in_force(&self, ordinary: Precedence) -> (u32, u32) {
        let highest = self.precedence_max_of_all(ordinary).civil();
        let kept = |reserve, class| if highest >= class { reserve } else { 0 };
        (
            kept(self.connections_reserve_urgent, CivilPriority::Urgent),
            kept(self.connections_reserve_normal, CivilPriority::Normal),
        )
    }

    /// How many connections may be open, where nothing better is known the default.
    #[must_use]
    pub const fn connections_max_in_force(&self) -> u32 {
        match self.connections_max {
            Some(max) => max,
            None => Self::CONNECTIONS_MAX_DEFAULT,
        }
    }

    /// How many connections one client may have open, where nothing better is known the default; 0 is no limit.
    #[must_use]
    pub const fn connections_per_client_max_in_force(&self) -> u32 {
        match self.connections_per_client_max {
            Some(max) => max,
            None => Self::CONNECTIONS_PER_CLIENT_MAX_DEFAULT,
        }
    }

    /// How many connections may be open when one of this class is let in: all for urgent mail, without the reserves for
    /// the others. At least one, and the larger half for non-urgent mail.
    #[must_use]
    pub const fn connections_max_of(&self, class: CivilPriority) -> u32 {
        let max = self.connections_max_in_force();
        let half = max / 2;
        let urgent = min(self.connections_reserve_urgent, half);
        let normal = min(self.connections_reserve_normal, half - urgent);
        match class {
            CivilPriority::Urgent => max,
            CivilPriority::Normal => max - urgent,
            CivilPriority::NonUrgent => max - urgent - normal,
        }
    }
}

const fn min(a: u32, b: u32) -> u32 {
    if a < b { a } else { b }
}

/// Which clients' mail is reported on to its sender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReportsTo {
    /// Every client's.
    #[default]
    Everybody,
    /// That of the listener's client networks.
    ClientNetworks,
    /// Nobody's.
    Nobody,
}

/// What senders are told of their mail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reports {
    /// The language where nothing else says one. Default English.
    pub language: LanguageTag,
    /// Whether the header of the mail says it. Default false.
    pub language_from_mail: bool,
    /// Who gets a copy of each report of a failure.
    pub copies: Option<Mailbox>,
    /// The most reports to senders of one domain in an hour: 0 (no limit) to 1,000,000, default 1,000.
    pub per_domain_hour_max: u32,
    /// Whether senders of mail that has failed authentication get reports. Default true.
    pub unauthenticated: bool,
    /// The texts beside those in the box. Each language and kind once.
    pub texts: Vec<ReportText>,
}

/// What a channel does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChannelKind {
    /// Transfers to other MTAs.
    Smtp,
    /// Delivers to message stores. RFC 2033.
    Lmtp,
    /// Makes reports. Exactly one, named [`HOUSEKEEPER`].
    Housekeeper,
}

/// A kind of work that processes of their own do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Channel {
    /// Its name, which peers refer to.
    pub name: String,
    /// What it does. Required.
    pub kind: ChannelKind,
    /// Processes at a time: 1 to 256, default 4.
    pub processes_max: u32,
    /// Associations that one process serves at a time, if the operator says: 1 to 4,096. Else what the self test found,
    /// or [`Self::SLOTS_PER_PROCESS_DEFAULT`].
    pub slots_per_process: Option<u32>,
    /// Association slots of the channel that only urgent mail may take: 0 to 65,536, default 4.
    pub slots_reserve_urgent: u32,
    /// Association slots of the channel that non-urgent mail may not take, beyond the above: 0 to 65,536, default 4.
    /// Both reserves together are less than all slots.
    pub slots_reserve_normal: u32,
    /// The most associations with one peer at a time: 1 to 10,000, default 20.
    pub associations_per_peer_max: u32,
    /// The fewest: 1 to 10,000, default 1. How many a peer bears is found between the two.
    pub associations_per_peer_min: u32,
    /// Of the associations with one peer, those that only urgent mail may take: 0 to 10,000, default 1. Both reserves
    /// take the smaller half of the associations at most.
    pub associations_per_peer_reserve_urgent: u32,
    /// Of the associations with one peer, those that non-urgent mail may not take, beyond the above: 0 to 10,000,
    /// default 0.
    pub associations_per_peer_reserve_normal: u32,
    /// Wait for a connection, in seconds: 1 to 600, default 30.
    pub connect_timeout_s: u32,
    /// Time without work after which a process ends, in seconds: 1 to 86,400, default 60.
    pub idle_stop_s: u32,
    /// Smallest message that goes by BDAT where the peer offers it, in octets: 0 to 17,179,869,184, default 65,536.
    pub bdat_octets_min: u64,
}

impl Channel {
    /// Associations of one process where neither an operator nor a self test has said how many.
    pub const SLOTS_PER_PROCESS_DEFAULT: u32 = 64;
}

/// An address and a port, written `192.0.2.1:25` or `[2001:db8::1]:25`. Names are not known yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PeerAddress(pub SocketAddr);

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for PeerAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        text.parse().map(Self).map_err(|_| "an address and a port, such as 192.0.2.1:25 or [2001:db8::1]:25")
    }
}

/// The families of addresses that are used, and which come first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AddressFamilies {
    /// Both in turn, IPv6 first.
    #[default]
    Interleaved,
    /// IPv6, then IPv4.
    Ipv6First,
    /// IPv4, then IPv6.
    Ipv4First,
    /// IPv6 alone.
    Ipv6Only,
    /// IPv4 alone.
    Ipv4Only,
}

/// How the hosts of a domain are used that the DNS names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsRouting {
    /// The port of every host: 1 to 65,535, default 25.
    pub port: u16,
    /// Default interleaved.
    pub families: AddressFamilies,
    /// Addresses that are tried before the mail waits: 1 to 64, default 8.
    pub addresses_max: u32,
    /// Whether records may lead to the loopback of this machine. Default false: that is this switch.
    pub loopback: bool,
}

/// One of several hosts of a peer, written `10 5 192.0.2.1:25`: preference, weight, address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupHost {
    /// Hosts of the lowest are tried first, as mail exchangers are.
    pub preference: u16,
    /// The share of the associations that it gets among those of the same preference: 1 to 1,000.
    pub weight: u16,
    /// Where it is; its port is not 0.
    pub address: PeerAddress,
}

impl FromStr for GroupHost {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        const WANTED: &str =
            "a preference, a weight from 1 to 1000, and an address with a port, such as 10 5 192.0.2.1:25";
        let mut words = text.split_ascii_whitespace();
        let mut number = || {
            let word = words.next()?;
            word.bytes().all(|octet| octet.is_ascii_digit()).then(|| word.parse().ok())?
        };
        let (Some(preference), Some(weight)) = (number(), number()) else { return Err(WANTED) };
        let address: Option<PeerAddress> = words.next().and_then(|word| word.parse().ok());
        match (address, words.next()) {
            (Some(address), None) if address.0.port() != 0 && (1..=1_000).contains(&weight) => {
                Ok(Self { preference, weight, address })
            }
            _ => Err(WANTED),
        }
    }
}

/// Where a peer is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NextHop {
    /// Where its entry says.
    Address(PeerAddress),
    /// At one of these hosts, of which there is at least one: any of them takes the mail.
    Group(Vec<GroupHost>),
    /// Where the DNS says: the entry stands for every domain that is routed to it, each a peer of its own
    /// ([`sternpost_message::DomainPeer`]) with what the entry says.
    Dns(DnsRouting),
}

impl NextHop {
    /// The addresses that the entry gives.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = PeerAddress> + '_ {
        let (one, group): (Option<PeerAddress>, &[GroupHost]) = match self {
            Self::Address(address) => (Some(*address), &[]),
            Self::Group(hosts) => (None, hosts),
            Self::Dns(_) => (None, &[]),
        };
        one.into_iter().chain(group.iter().map(|host| host.address))
    }
}

/// A peer MTA or message store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its name, which routes refer to.
    pub name: String,
    /// The channel that talks to it. Required; not the housekeeper.
    pub channel: String,
    /// Where it is.
    pub next_hop: NextHop,
    /// The most associations at a time: 1 to 10,000, default the channel's `associations_per_peer_max`.
    pub associations_max: Option<u32>,
    /// The fewest: 1 to 10,000, default the channel's `associations_per_peer_min`.
    pub associations_min: Option<u32>,
    /// Those of them that only urgent mail may take: 0 to 10,000, default the channel's
    /// `associations_per_peer_reserve_urgent`.
    pub associations_reserve_urgent: Option<u32>,
    /// Those of them that non-urgent mail may not take, beyond the above: 0 to 10,000, default the channel's
    /// `associations_per_peer_reserve_normal`.
    pub associations_reserve_normal: Option<u32>,
    /// Whether and how mail goes there by TLS.
    pub tls: PeerTls,
}

impl Peer {
    /// Whether the peer stands for the domains that are routed to it.
    #[must_use]
    pub const fn is_by_dns(&self) -> bool {
        matches!(self.next_hop, NextHop::Dns(_))
    }
}

/// Which peer gets the mail of a domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRule {
    /// The domain or domains. Required.
    pub domain: DomainPattern,
    /// The peer. Required.
    pub peer: String,
    /// Whether only clients in the listener's `client_networks` may use the route. Default false.
    /// A route for every domain is never open to all, whatever stands here.
    pub client_networks_only: bool,
}

impl RouteRule {
    /// Whether every client may use the route.
    #[must_use]
    pub fn is_open_to_all(&self) -> bool {
        !self.client_networks_only && self.domain != DomainPattern::Any
    }
}

/// Totals and timings of the queue manager.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Qmgr {
    /// Channel processes at a time, if the operator says: 1 to 4,096. Else what the self test found, or
    /// [`Self::MAXCHANS_DEFAULT`].
    pub qmgr_maxchans: Option<u32>,
    /// Processes that only urgent mail may start: 0 to 4,095, default 1.
    pub qmgr_reserve_urgent: u32,
    /// Processes that non-urgent mail may not start, beyond the above: 0 to 4,095, default 1.
    /// Both reserves together are less than `qmgr_maxchans`, if there is one.
    pub qmgr_reserve_normal: u32,
    /// After the last process of a channel has gone none is started for this long, in milliseconds: 0 to 3,600,000,
    /// default 1,000. Not for urgent mail. So long, and 1,000 at least, channels take turns that share one process.
    pub qmgr_chan_time1_ms: u32,
    /// After a start none is started on the same channel for this long, in milliseconds: 0 to 3,600,000, default 50.
    /// Not for urgent mail.
    pub qmgr_chan_time2_ms: u32,
    /// The same while less waits than the channel's processes have slots, in milliseconds: 0 to 3,600,000, default 500.
    /// What is less than `qmgr_chan_time2_ms` counts as that.
    pub qmgr_chan_time3_ms: u32,
    /// Of what a channel is given, so much goes by age and not by precedence, in percent: 0 (strict) to 50, default 0.
    pub qmgr_age_share_percent: u32,
    /// The wait grows by this with each failed attempt, in seconds: 1 to 86,400, default 60.
    pub retry_step_s: u32,
    /// The longest wait, in seconds: 1 to 604,800, default 3,600. Not less than the step.
    pub retry_max_s: u32,
    /// A channel process that was asked to stop is killed when it has made no progress for this long, in seconds: 10 to
    /// 86,400, default 600, which is the longest time that RFC 5321, 4.5.3.2.6 leaves a peer for the reply to the content.
    pub drain_timeout_s: u32,
    /// Such a process is killed after this time whatever progress it makes, in seconds: 10 to 604,800, default 3,600. What is
    /// less than `drain_timeout_s` counts as that.
    pub drain_time_max_s: u32,
    /// Age at which a message is given up, in seconds: 1 to 31,536,000, default 432,000 (5 days).
    pub expire_after_s: u32,
    /// Age at which the sender is told of a delay, in seconds: 0 (never) to 31,536,000, default 14,400 (4 hours).
    pub delay_report_after_s: u32,
}

impl Qmgr {
    /// Channel processes at a time where neither an operator nor a self test has said how many.
    pub const MAXCHANS_DEFAULT: u32 = 16;
}

/// An order that mail below a precedence waits: what a military network calls MINIMIZE.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Minimise {
    /// Its name.
    pub name: String,
    /// The lowest precedence that goes on. Required.
    #[serde(with = "crate::by_name")]
    pub lowest: Precedence,
    /// The channel where it holds, if not everywhere.
    pub channel: Option<String>,
    /// The peer where it holds, if not at all of them.
    pub peer: Option<String>,
    /// From when on, by the wall clock; at once without it.
    pub from: Option<Instant>,
    /// Until when; without it until the entry is gone.
    pub until: Option<Instant>,
}
