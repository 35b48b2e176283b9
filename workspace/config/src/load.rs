//! A set of entries to a configuration and what was wrong with the set.
//!
//! Which entries count: those below the node's own entry, and those below no node's entry (shared by several
//! switches). An own entry goes before a shared one of the same class and name.
//! An entry that is wrong is left out and reported, the rest is configured. Where leaving out would open a door, the
//! table says what holds instead ([`crate::Closed`]).

mod authentication;
mod next_hop;
mod reports;
mod tls;

use crate::model::{
    BareLineEndings, Channel, ChannelKind, Configuration, HOUSEKEEPER, Listener, Minimise, Node, Peer, Qmgr,
    Reports, RouteRule,
};
use crate::reader::Reader;
use crate::user::user;
use crate::{Class, DomainPattern, Entry, Instant, Trust, dn_is_under, normalised_dn};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use sternpost_message::{Mailbox, Precedence, PriorityField};

const PRECEDENCE: &str = "Say deferred, routine, priority, immediate, flash or override, in small letters.";
const PRECEDENCE_MAX: &str =
    "Say deferred, routine, ordinary, priority, immediate, flash or override, in small letters.";
const PRIORITY_FIELDS: &str = "Give some of mt-priority, mmhs-primary-precedence, mmhs-copy-precedence, priority and x-priority \
     with blanks between, each once, or none. Importance is no such field (RFC 6758, 3.1).";

/// What became of an entry that has a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// The entry is not in force.
    Dropped,
    /// An earlier version of the entry is in force.
    KeptLastGood,
    /// The entry is in force; what the attribute would allow is not allowed.
    FailsClosed,
    /// The entry is in force; the attribute says nothing.
    Ignored,
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dropped => "the entry is not in force",
            Self::KeptLastGood => "the last good version stays in force",
            Self::FailsClosed => "the value does not count",
            Self::Ignored => "the attribute is ignored",
        })
    }
}

/// Something that a person must put right in the directory or the tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The entry's uuid; empty when the problem is that of the whole set.
    pub uuid: String,
    /// The entry.
    pub dn: String,
    /// The attribute, when it is one attribute's.
    pub attribute: Option<String>,
    /// What is wrong, as the end of a sentence that begins with the attribute.
    pub reason: String,
    /// What to do, as a sentence.
    pub what_to_do: String,
    /// What holds until it is done.
    pub effect: Effect,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.dn)?;
        if let Some(attribute) = &self.attribute {
            write!(f, "{attribute}: ")?;
        }
        write!(f, "{} ({}). {}", self.reason, self.effect, self.what_to_do)
    }
}

/// What came of a set of entries.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration; none when the node's own entry is missing or wrong.
    pub configuration: Option<Configuration>,
    /// What is wrong, in no particular order.
    pub problems: Vec<Problem>,
    /// The uuids of the entries that are in force.
    pub used: BTreeSet<String>,
    /// The uuids of the entries that are not in force because they are wrong.
    pub wrong: BTreeSet<String>,
}

/// Reads a set of entries as the node sees it.
///
/// `node_identity` is matched with the `cn` and `sternpostIdentity` of the node entries, without regard to case.
/// Empty, it stands for the only node entry of the set (tables have no other).
#[must_use]
pub fn load(entries: &[Entry], node_identity: &str) -> Loaded {
    let mut loading = Loading::default();
    let configuration = loading.configuration(entries, node_identity);
    Loaded { configuration, problems: loading.problems, used: loading.used, wrong: loading.wrong }
}

/// The entry of the node itself, if there is exactly one that fits.
pub(crate) fn own_node<'a>(entries: &'a [Entry], identity: &str) -> Result<&'a Entry, String> {
    let mut own = entries.iter().filter(|entry| {
        let mut names = entry.values("cn").iter().chain(entry.values("sternpostIdentity"));
        entry.class() == Some(Class::Node)
            && (identity.is_empty() || names.any(|name| name.eq_ignore_ascii_case(identity)))
    });
    match (own.next(), own.next()) {
        (Some(entry), None) => Ok(entry),
        (None, _) if identity.is_empty() => Err("there is no node entry".into()),
        (None, _) => Err(format!("there is no node entry with the cn or sternpostIdentity {identity:?}")),
        (Some(first), Some(second)) => {
            Err(format!("{} and {} are both node entries of {identity:?}", first.dn, second.dn))
        }
    }
}

/// The entries of our classes that count for the node, own ones first, each group in the order of their DNs: what a
/// set says does not depend on the order in which it came.
pub(crate) fn visible<'a>(entries: &'a [Entry], own: &Entry) -> Vec<(Class, &'a Entry)> {
    let own_dn = normalised_dn(&own.dn);
    let other_nodes: Vec<String> = entries
        .iter()
        .filter(|entry| entry.class() == Some(Class::Node) && entry.uuid != own.uuid)
        .map(|entry| normalised_dn(&entry.dn))
        .collect();
    let mut visible: Vec<_> = entries
        .iter()
        .filter_map(|entry| Some((entry.class()?, normalised_dn(&entry.dn), entry)))
        .filter(|(class, dn, entry)| match class {
            Class::Node => entry.uuid == own.uuid,
            _ => !other_nodes.iter().any(|node| dn_is_under(dn, node)),
        })
        .collect();
    visible.sort_by_cached_key(|(class, dn, _)| (*class, !dn_is_under(dn, &own_dn), dn.clone()));
    visible.into_iter().map(|(class, _, entry)| (class, entry)).collect()
}

#[derive(Default)]
struct Loading {
    problems: Vec<Problem>,
    used: BTreeSet<String>,
    wrong: BTreeSet<String>,
}

impl Loading {
    fn configuration(&mut self, entries: &[Entry], node_identity: &str) -> Option<Configuration> {
        let own = match own_node(entries, node_identity) {
            Ok(own) => own,
            Err(reason) => {
                self.problems.push(Problem {
                    uuid: String::new(),
                    dn: String::new(),
                    attribute: None,
                    reason,
                    what_to_do:
                        "Make one node entry for this node, or correct the identity in the bootstrap.".into(),
                    effect: Effect::Dropped,
                });
                return None;
            }
        };
        let own_dn = normalised_dn(&own.dn);
        let visible = visible(entries, own);
        let of = |wanted: Class| {
            visible
                .iter()
                .filter(move |(class, _)| *class == wanted)
                .map(|(_, entry)| *entry)
                .collect::<Vec<_>>()
        };

        let node = self.named(Class::Node, &of(Class::Node), &own_dn, node).into_values().next();
        // Without a node there is no configuration, whatever its listeners are.
        let ordinary = node.as_ref().map(|node| node.priority_policy).unwrap_or_default().ordinary();
        let trusts = self.named(Class::Trust, &of(Class::Trust), &own_dn, trust);
        let listeners = self.named(Class::Listener, &of(Class::Listener), &own_dn, |reader| {
            listener(reader, ordinary, &trusts)
        });
        let mut channels = self.named(Class::Channel, &of(Class::Channel), &own_dn, channel);
        if !channels.contains_key(HOUSEKEEPER) {
            let default = Entry {
                attributes: [
                    ("cn".to_owned(), vec![HOUSEKEEPER.to_owned()]),
                    ("sternpostkind".to_owned(), vec![HOUSEKEEPER.to_owned()]),
                ]
                .into(),
                ..Entry::default()
            };
            let mut reader = Reader::new(&default, Class::Channel, &mut self.problems);
            channels.extend(channel(&mut reader).map(|channel| (HOUSEKEEPER.to_owned(), channel)));
        }
        let peers =
            self.named(Class::Peer, &of(Class::Peer), &own_dn, |reader| peer(reader, &channels, &trusts));
        let routes = self.named(Class::Route, &of(Class::Route), &own_dn, |reader| route(reader, &peers));
        let orders = self.named(Class::Minimise, &of(Class::Minimise), &own_dn, |reader| {
            minimise(reader, &channels, &peers)
        });
        let mut taken = BTreeSet::new();
        let users = self.named(Class::User, &of(Class::User), &own_dn, |reader| user(reader, &mut taken));
        let qmgr = match of(Class::Qmgr).as_slice() {
            [] => qmgr(&mut Reader::new(&Entry::default(), Class::Qmgr, &mut self.problems)),
            entries => {
                let read = self.named(Class::Qmgr, entries, &own_dn, qmgr).into_values().next();
                read.or_else(|| qmgr(&mut Reader::new(&Entry::default(), Class::Qmgr, &mut self.problems)))
            }
        };
        let mut seen = reports::Seen::new();
        let texts = self.named(Class::ReportText, &of(Class::ReportText), &own_dn, |reader| {
            reports::text(reader, &mut seen)
        });
        let reports = match of(Class::Reports).as_slice() {
            [] => None,
            entries => self.named(Class::Reports, entries, &own_dn, reports::reports).into_values().next(),
        };
        let reports = reports.or_else(|| {
            reports::reports(&mut Reader::new(&Entry::default(), Class::Reports, &mut self.problems))
        });
        let node = node?;
        if node.dns.name_servers.is_empty() && peers.values().any(Peer::is_by_dns) {
            self.problems.push(Problem {
                uuid: own.uuid.clone(),
                dn: own.dn.clone(),
                attribute: Some("sternpostNameServers".into()),
                reason: "a peer finds its hosts by DNS and nobody is there to be asked, so its mail waits"
                    .into(),
                what_to_do: next_hop::NAME_SERVERS.into(),
                effect: Effect::FailsClosed,
            });
        }
        Some(Configuration {
            node,
            trusts: trusts.into_values().collect(),
            listeners: listeners.into_values().collect(),
            channels: channels.into_values().collect(),
            peers: peers.into_values().collect(),
            routes: self.without_repetition(&of(Class::Route), &own_dn, routes),
            qmgr: qmgr?,
            minimise: orders.into_values().collect(),
            users: users.into_values().collect(),
            reports: Reports { texts: texts.into_values().collect(), ..reports? },
        })
    }

    /// Reads all entries of a class, by name. The first of a name counts; that a shared entry gives way to an own
    /// one is meant, anything else is a problem.
    fn named<T>(
        &mut self,
        class: Class,
        entries: &[&Entry],
        own_dn: &str,
        mut read: impl FnMut(&mut Reader<'_>) -> Option<T>,
    ) -> BTreeMap<String, T> {
        let mut by_name = BTreeMap::new();
        let mut own_names = HashSet::new();
        for entry in entries {
            let is_own = dn_is_under(&normalised_dn(&entry.dn), own_dn);
            let mut reader = Reader::new(entry, class, &mut self.problems);
            let name = match class {
                // One of its kind, whatever it is called.
                Class::Qmgr | Class::Reports => String::new(),
                Class::Route => entry.uuid.clone(),
                _ => reader.name(),
            };
            if !is_own && own_names.contains(&name) {
                continue;
            }
            if by_name.contains_key(&name) {
                reader.wrong(
                    Some("cn"),
                    format!("there is another {} of that name", class.table()),
                    "Give each its own name, or remove one.",
                );
            }
            // An own entry takes its name even when it is wrong: the shared one must not step in by surprise.
            if is_own {
                own_names.insert(name.clone());
            }
            let value = read(&mut reader);
            match reader.finish(value) {
                Some(value) => {
                    by_name.insert(name, value);
                    self.used.insert(entry.uuid.clone());
                }
                None => {
                    self.wrong.insert(entry.uuid.clone());
                }
            }
        }
        by_name
    }

    /// Each domain once: an own route before a shared one (which is meant), else the first by DN (which is reported).
    /// The rest of the entry stays.
    fn without_repetition(
        &mut self,
        entries: &[&Entry],
        own_dn: &str,
        mut routes: BTreeMap<String, Vec<RouteRule>>,
    ) -> Vec<RouteRule> {
        let mut seen: BTreeMap<DomainPattern, (&str, bool)> = BTreeMap::new();
        let mut rules = Vec::new();
        for entry in entries {
            let is_own = dn_is_under(&normalised_dn(&entry.dn), own_dn);
            for rule in routes.remove(&entry.uuid).unwrap_or_default() {
                match seen.get(&rule.domain) {
                    None => {
                        seen.insert(rule.domain.clone(), (&entry.dn, is_own));
                        rules.push(rule);
                    }
                    Some(&(dn, _)) if dn == entry.dn => {}
                    Some(&(_, first_is_own)) if first_is_own && !is_own => {}
                    Some((dn, _)) => self.problems.push(Problem {
                        uuid: entry.uuid.clone(),
                        dn: entry.dn.clone(),
                        attribute: Some("sternpostDomain".into()),
                        reason: format!("{} has a route already, {dn}, which counts", rule.domain),
                        what_to_do: "Leave the domain in one of the two.".into(),
                        effect: Effect::Ignored,
                    }),
                }
            }
        }
        rules
    }
}

fn node(reader: &mut Reader<'_>) -> Option<Node> {
    const HOSTNAME: &str = "Give the domain name of the node, such as relay.example.org.";
    let name = reader.name();
    let hostname: Hostname = reader.one("hostname", HOSTNAME)?;
    let postmaster: Option<MailboxText> =
        reader.one("postmaster", "Give a mailbox, such as postmaster@example.org.");
    let postmaster = match postmaster {
        Some(MailboxText(mailbox)) => mailbox,
        None => hostname.postmaster,
    };
    let priority_policy = reader.one("priority_policy", "Say STANAG4406, MIXER or NSEP, in capital letters.");
    Some(Node {
        name,
        hostname: hostname.name,
        postmaster,
        priority_policy: priority_policy.unwrap_or_default(),
        dns: next_hop::resolver(reader),
    })
}

fn trust(reader: &mut Reader<'_>) -> Option<Trust> {
    Some(Trust { name: reader.name(), certificates: reader.certificates("trust_certificates") })
}

fn listener(
    reader: &mut Reader<'_>,
    ordinary: Precedence,
    trusts: &BTreeMap<String, Trust>,
) -> Option<Listener> {
    let name = reader.name();
    let tls = tls::listener(reader, trusts);
    let addresses: Vec<SocketAddr> =
        reader.many("addresses", "Give an address and a port, such as 0.0.0.0:25 or [::]:25.");
    let listener = Listener {
        name,
        addresses,
        client_networks: reader.many(
            "client_networks",
            "Give an address and a prefix length without further bits, such as 192.0.2.0/24 or 2001:db8::/32.",
        ),
        message_octets_max: reader.number("message_octets_max"),
        recipients_max: reader.number32("recipients_max"),
        connections_max: reader.number32_if_any("connections_max"),
        connections_per_client_max: reader.number32_if_any("connections_per_client_max"),
        errors_max: reader.number32("errors_max"),
        bare_line_endings: reader
            .one("bare_line_endings", "Say refuse or normalise.")
            .unwrap_or(BareLineEndings::Refuse),
        command_timeout_s: reader.number32("command_timeout_s"),
        data_timeout_s: reader.number32("data_timeout_s"),
        received_headers_max: reader.number32("received_headers_max"),
        precedence_max: reader
            .one("precedence_max", PRECEDENCE_MAX)
            .and_then(|PrecedenceMax(level)| level)
            .unwrap_or(ordinary),
        precedence_networks: reader.many(
            "precedence_networks",
            "Give a network, a blank and a precedence, such as 192.0.2.0/24 flash.",
        ),
        priority_fields: reader
            .one("priority_fields", PRIORITY_FIELDS)
            .map_or_else(Vec::new, |FieldOrder(fields)| fields),
        connections_reserve_urgent: reader.number32("connections_reserve_urgent"),
        connections_reserve_normal: reader.number32("connections_reserve_normal"),
        authentication: authentication::listener(reader, &tls),
        tls,
        report_language: reader.one_if_any("listener_report_language", "Give a language tag of RFC 5646, such as de."),
        reports_to: reader
            .one("reports_to", "Say everybody, client-networks or nobody.")
            .unwrap_or_default(),
    };
    // A default that helps nobody is no mistake of an installer's.
    let (urgent, normal) = listener.connections_reserves_in_force(ordinary);
    let rows = [
        ("sternpostConnectionsReserveUrgent", urgent, listener.connections_reserve_urgent, Precedence::Flash),
        (
            "sternpostConnectionsReserveNormal",
            normal,
            listener.connections_reserve_normal,
            Precedence::Priority,
        ),
    ];
    for (attribute, kept, configured, from) in rows {
        if kept < configured && !reader.entry.values(attribute).is_empty() {
            reader.note(
                Some(attribute),
                format!(
                    "no client of this listener may ask for {from} or more, so no connection is kept for one"
                ),
                "Raise sternpostPrecedenceMax, or name clients in sternpostClientNetworks or sternpostPrecedenceNetworks; else leave the attribute out.",
                Effect::Ignored,
            );
        }
    }
    Some(listener)
}

fn channel(reader: &mut Reader<'_>) -> Option<Channel> {
    let name = reader.name();
    let kind: Option<ChannelKind> = reader.one("kind", "Say smtp, lmtp or housekeeper.");
    if let Some(kind) = kind
        && (kind == ChannelKind::Housekeeper) != (name == HOUSEKEEPER)
    {
        reader.wrong(
            Some("sternpostKind"),
            format!("a channel is a housekeeper if, and only if, its name is {HOUSEKEEPER}"),
            "Rename the channel or change its kind.",
        );
    }
    let channel = Channel {
        name,
        kind: kind?,
        processes_max: reader.number32("processes_max"),
        slots_per_process: reader.number32_if_any("slots_per_process"),
        slots_reserve_urgent: reader.number32("slots_reserve_urgent"),
        slots_reserve_normal: reader.number32("slots_reserve_normal"),
        associations_per_peer_max: reader.number32("associations_per_peer_max"),
        associations_per_peer_min: reader.number32("associations_per_peer_min"),
        associations_per_peer_reserve_urgent: reader.number32("associations_per_peer_reserve_urgent"),
        associations_per_peer_reserve_normal: reader.number32("associations_per_peer_reserve_normal"),
        connect_timeout_s: reader.number32("connect_timeout_s"),
        idle_stop_s: reader.number32("idle_stop_s"),
        bdat_octets_min: reader.number("bdat_octets_min"),
    };
    // What a self test finds is made large enough for the reserves; an operator who says nothing has the default.
    let each = channel.slots_per_process.unwrap_or(Channel::SLOTS_PER_PROCESS_DEFAULT);
    let slots = u64::from(channel.processes_max) * u64::from(each);
    let reserves = u64::from(channel.slots_reserve_urgent) + u64::from(channel.slots_reserve_normal);
    // With the defaults of 4 + 4 a channel of few slots would be wrong without having said a word about reserves.
    let says_reserves = ["sternpostSlotsReserveUrgent", "sternpostSlotsReserveNormal"]
        .iter()
        .any(|name| !reader.entry.values(name).is_empty());
    if reserves < slots {
        return Some(channel);
    }
    if says_reserves {
        reader.wrong(
            Some("sternpostSlotsReserveUrgent"),
            format!("the reserves ({reserves}) leave nothing of the {slots} slots for other mail"),
            "Make the reserves smaller, or the channel larger.",
        );
        return None;
    }
    Some(Channel { slots_reserve_urgent: 0, slots_reserve_normal: 0, ..channel })
}

fn peer(
    reader: &mut Reader<'_>,
    channels: &BTreeMap<String, Channel>,
    trusts: &BTreeMap<String, Trust>,
) -> Option<Peer> {
    let name = reader.name();
    let channel: Option<String> = reader.one("channel", "Give the cn of a channel.");
    match channel.as_ref().map(|name| channels.get(name)) {
        Some(None) => reader.wrong(
            Some("sternpostChannel"),
            format!("there is no channel {:?} in force", channel.as_deref().unwrap_or_default()),
            "Give the cn of a channel, or make or correct the channel.",
        ),
        Some(Some(channel)) if channel.kind == ChannelKind::Housekeeper => {
            reader.wrong(
                Some("sternpostChannel"),
                "the housekeeper has no peers".into(),
                "Give another channel.",
            );
        }
        _ => {}
    }
    let kind = channel.as_ref().and_then(|name| channels.get(name)).map(|channel| channel.kind);
    let next_hop = next_hop::read(reader, &name, kind);
    let tls = tls::peer(reader, next_hop.as_ref(), trusts);
    Some(Peer {
        name,
        associations_max: reader.number32_if_any("associations_max"),
        associations_min: reader.number32_if_any("associations_min"),
        associations_reserve_urgent: reader.number32_if_any("associations_reserve_urgent"),
        associations_reserve_normal: reader.number32_if_any("associations_reserve_normal"),
        channel: channel?,
        next_hop: next_hop?,
        tls,
    })
}

fn route(reader: &mut Reader<'_>, peers: &BTreeMap<String, Peer>) -> Option<Vec<RouteRule>> {
    let domains: Vec<DomainPattern> = reader
        .many("domain", "Give a domain (example.org), all below one (.example.org) or every domain (*).");
    let peer: Option<String> = reader.one("peer", "Give the cn of a peer.");
    if let Some(peer) = peer.as_deref().filter(|&peer| !peers.contains_key(peer)) {
        reader.wrong(
            Some("sternpostPeer"),
            format!("there is no peer {peer:?} in force"),
            "Give the cn of a peer, or make or correct the peer.",
        );
    }
    let client_networks_only: bool = reader.one("client_networks_only", "Say TRUE or FALSE.").unwrap_or(true);
    let peer = peer?;
    Some(
        domains
            .into_iter()
            .map(|domain| RouteRule { domain, peer: peer.clone(), client_networks_only })
            .collect(),
    )
}

fn qmgr(reader: &mut Reader<'_>) -> Option<Qmgr> {
    let qmgr = Qmgr {
        qmgr_maxchans: reader.number32_if_any("qmgr_maxchans"),
        qmgr_reserve_urgent: reader.number32("qmgr_reserve_urgent"),
        qmgr_reserve_normal: reader.number32("qmgr_reserve_normal"),
        qmgr_chan_time1_ms: reader.number32("qmgr_chan_time1"),
        qmgr_chan_time2_ms: reader.number32("qmgr_chan_time2"),
        qmgr_chan_time3_ms: reader.number32("qmgr_chan_time3"),
        qmgr_age_share_percent: reader.number32("qmgr_age_share"),
        retry_step_s: reader.number32("retry_step_s"),
        retry_max_s: reader.number32("retry_max_s"),
        drain_timeout_s: reader.number32("drain_timeout_s"),
        drain_time_max_s: reader.number32("drain_time_max_s"),
        expire_after_s: reader.number32("expire_after_s"),
        delay_report_after_s: reader.number32("delay_report_after_s"),
    };
    let reserves = qmgr.qmgr_reserve_urgent + qmgr.qmgr_reserve_normal;
    if qmgr.qmgr_maxchans.is_some_and(|maxchans| reserves >= maxchans) {
        reader.wrong(
            Some("sternpostQmgrMaxchans"),
            "the reserves leave no process for other mail".into(),
            "Make the reserves smaller, or sternpostQmgrMaxchans larger.",
        );
    }
    if qmgr.retry_max_s < qmgr.retry_step_s {
        reader.wrong(
            Some("sternpostRetryMaxS"),
            "the longest wait is shorter than the first".into(),
            "Make it at least as long as sternpostRetryStepS.",
        );
    }
    Some(qmgr)
}

fn minimise(
    reader: &mut Reader<'_>,
    channels: &BTreeMap<String, Channel>,
    peers: &BTreeMap<String, Peer>,
) -> Option<Minimise> {
    const TIME: &str =
        "Give a time in UTC such as 20261123180000Z, or with an offset such as 20261123190000+0100.";
    let name = reader.name();
    let lowest: Option<Precedence> = reader.one("lowest_precedence", PRECEDENCE);
    let channel: Option<String> = reader.one_if_any("minimise_channel", "Give the cn of a channel.");
    if let Some(channel) = channel.as_deref().filter(|&channel| !channels.contains_key(channel)) {
        reader.wrong(
            Some("sternpostMinimiseChannel"),
            format!("there is no channel {channel:?} in force"),
            "Give the cn of a channel, or make or correct the channel.",
        );
    }
    let peer: Option<String> = reader.one_if_any("minimise_peer", "Give the cn of a peer.");
    match peer.as_deref().map(|peer| (peer, peers.get(peer))) {
        Some((name, None)) => reader.wrong(
            Some("sternpostMinimisePeer"),
            format!("there is no peer {name:?} in force"),
            "Give the cn of a peer, or make or correct the peer.",
        ),
        Some((name, Some(found))) if channel.as_ref().is_some_and(|channel| *channel != found.channel) => {
            reader.wrong(
                Some("sternpostMinimisePeer"),
                format!("the peer {name:?} is not one of that channel"),
                "Leave the channel out, or give a peer of it.",
            );
        }
        _ => {}
    }
    let from: Option<Instant> = reader.one_if_any("minimise_from", TIME);
    let until: Option<Instant> = reader.one_if_any("minimise_until", TIME);
    if from.zip(until).is_some_and(|(from, until)| until <= from) {
        reader.wrong(
            Some("sternpostMinimiseUntil"),
            "it ends before it begins, or at once".into(),
            "Make it later than sternpostMinimiseFrom.",
        );
    }
    Some(Minimise { name, lowest: lowest?, channel, peer, from, until })
}

/// A domain name, checked by the grammar of addresses.
struct Hostname {
    name: String,
    postmaster: Mailbox,
}

impl FromStr for Hostname {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let postmaster = Mailbox::parse(&format!("postmaster@{text}")).map_err(|_| ())?;
        if text.starts_with('[') || !text.is_ascii() || postmaster.domain() != text {
            return Err(());
        }
        Ok(Self { name: text.to_owned(), postmaster })
    }
}

/// A level, or none for that of ordinary mail.
struct PrecedenceMax(Option<Precedence>);

impl FromStr for PrecedenceMax {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if text == "ordinary" {
            return Ok(Self(None));
        }
        text.parse().map(|level| Self(Some(level))).map_err(|_| ())
    }
}

/// Fields, each once, in the order that counts.
struct FieldOrder(Vec<PriorityField>);

impl FromStr for FieldOrder {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if text == "none" {
            return Ok(Self(Vec::new()));
        }
        let mut fields: Vec<PriorityField> = Vec::new();
        for word in text.split_ascii_whitespace() {
            let field = word.parse().map_err(|_| ())?;
            if fields.contains(&field) {
                return Err(());
            }
            fields.push(field);
        }
        if fields.is_empty() { Err(()) } else { Ok(Self(fields)) }
    }
}

struct MailboxText(Mailbox);

impl FromStr for MailboxText {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Mailbox::parse(text).map(Self).map_err(|_| ())
    }
}

impl FromStr for BareLineEndings {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "refuse" => Ok(Self::Refuse),
            "normalise" => Ok(Self::Normalise),
            _ => Err(()),
        }
    }
}

impl FromStr for ChannelKind {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "smtp" => Ok(Self::Smtp),
            "lmtp" => Ok(Self::Lmtp),
            "housekeeper" => Ok(Self::Housekeeper),
            _ => Err(()),
        }
    }
}
