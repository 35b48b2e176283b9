//! `[network]` of the site's bootstrap: the device's addresses, typed and checked as a whole.
//!
//! | key | value | bounds |
//! |---|---|---|
//! | `hostname` | the machine's name | a label of RFC 1123 |
//! | `dns` | name servers | addresses |
//! | `ntp` | time servers | names or addresses |
//! | `[[network.interface]]` | a wired interface, found by `name` or `mac` | one of the two |
//! | `[[network.vlan]]` | `parent`, `id`, perhaps `name` | `id` 1 … 4,094 |
//! | `[[network.bond]]` | `name`, `members`, `mode`, `miimon_ms` | |
//! | in each | `addresses`, `gateway4`, `gateway6`, `routes`, `dhcp`, `router_advertisements`, `mtu` | `mtu` 576 … 9,216 |
//!
//! Nothing of the text goes further than this file: what comes out is addresses, numbers and names of a few harmless
//! characters. Not here: what the network daemon reads (`networkd`).

use super::problem::Reading;
use ipnet::IpNet;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::ops::Range;
use std::str::FromStr;
use toml::Spanned;

const VLAN_ID_MIN: i64 = 1;
const VLAN_ID_MAX: i64 = 4_094;
/// RFC 791: what every host takes.
const MTU_MIN: i64 = 576;
/// RFC 8200, 5: the least for IPv6.
const MTU_MIN_IPV6: u32 = 1_280;
/// The largest that common hardware takes.
const MTU_MAX: i64 = 9_216;
const MIIMON_MS_DEFAULT: u32 = 100;
const MIIMON_MS_MAX: i64 = 60_000;
/// IFNAMSIZ without the zero.
const NAME_OCTETS_MAX: usize = 15;
/// More than any device has ports and networks.
const LINKS_MAX: usize = 256;
/// Of name servers, and of time servers. The C library asks three, and a file of networkd has all of them for each interface.
const SERVERS_MAX: usize = 16;
/// Of one interface.
const ADDRESSES_MAX: usize = 64;
/// Of one interface.
const ROUTES_MAX: usize = 256;

/// As the file says it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NetworkSection {
    hostname: Option<Spanned<String>>,
    #[serde(default)]
    dns: Vec<Spanned<String>>,
    #[serde(default)]
    ntp: Vec<Spanned<String>>,
    #[serde(default)]
    interface: Vec<Spanned<LinkSection>>,
    #[serde(default)]
    vlan: Vec<Spanned<LinkSection>>,
    #[serde(default)]
    bond: Vec<Spanned<LinkSection>>,
}

/// An interface of any kind: which keys it may have follows from the kind.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LinkSection {
    name: Option<Spanned<String>>,
    mac: Option<Spanned<String>>,
    parent: Option<Spanned<String>>,
    id: Option<Spanned<i64>>,
    members: Option<Spanned<Vec<String>>>,
    mode: Option<Spanned<BondMode>>,
    miimon_ms: Option<Spanned<i64>>,
    #[serde(default)]
    addresses: Vec<Spanned<String>>,
    gateway4: Option<Spanned<String>>,
    gateway6: Option<Spanned<String>>,
    #[serde(default)]
    routes: Vec<Spanned<RouteSection>>,
    #[serde(default)]
    dhcp: bool,
    router_advertisements: Option<bool>,
    mtu: Option<Spanned<i64>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RouteSection {
    to: String,
    via: String,
}

/// The device's network, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Network {
    pub(crate) hostname: Option<String>,
    pub(crate) dns: Vec<IpAddr>,
    /// Names or addresses.
    pub(crate) ntp: Vec<String>,
    /// None: every wired interface asks for addresses by DHCP and router advertisements.
    pub(crate) links: Vec<Link>,
}

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) kind: Kind,
    pub(crate) addressing: Addressing,
}

/// What an interface is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Hardware, found by its address if there is one, else by the kernel's name.
    Wired { name: Option<String>, mac: Option<Mac> },
    /// IEEE 802.1Q.
    Vlan { name: String, parent: String, id: u16 },
    /// Several that are one.
    Bond { name: String, members: Vec<String>, mode: BondMode, miimon_ms: u32 },
}

impl Kind {
    /// By what others may name it.
    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            Self::Wired { name, .. } => name.as_deref(),
            Self::Vlan { name, .. } | Self::Bond { name, .. } => Some(name),
        }
    }
}

/// The addresses of one interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Addressing {
    pub(crate) addresses: Vec<IpNet>,
    pub(crate) gateways: Vec<IpAddr>,
    pub(crate) routes: Vec<Route>,
    pub(crate) dhcp: bool,
    pub(crate) router_advertisements: bool,
    pub(crate) mtu: Option<u32>,
}

/// A way to a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) to: IpNet,
    pub(crate) via: IpAddr,
}

/// How a bond uses its members, in the kernel's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum BondMode {
    BalanceRr,
    ActiveBackup,
    BalanceXor,
    Broadcast,
    #[serde(rename = "802.3ad")]
    Lacp,
    BalanceTlb,
    BalanceAlb,
}

impl fmt::Display for BondMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BalanceRr => "balance-rr",
            Self::ActiveBackup => "active-backup",
            Self::BalanceXor => "balance-xor",
            Self::Broadcast => "broadcast",
            Self::Lacp => "802.3ad",
            Self::BalanceTlb => "balance-tlb",
            Self::BalanceAlb => "balance-alb",
        })
    }
}

/// The address of an interface's hardware.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mac([u8; 6]);

impl FromStr for Mac {
    type Err = ();

    /// Six octets in hexadecimal, with colons or hyphens between them; one interface, not a group.
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut octets = [0; 6];
        let mut parts = text.split([':', '-']);
        for octet in &mut octets {
            let digits =
                parts.next().filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()));
            *octet = u8::from_str_radix(digits.ok_or(())?, 16).map_err(|_| ())?;
        }
        if parts.next().is_some() || octets[0] & 1 == 1 || octets == [0; 6] {
            Err(())
        } else {
            Ok(Self(octets))
        }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Judges the section; what is wrong is noted in `reading`, and then the value is of no use.
pub(crate) fn check(mut section: NetworkSection, reading: &mut Reading<'_>) -> Network {
    at_most(SERVERS_MAX, &mut section.dns, "network.dns", reading);
    at_most(SERVERS_MAX, &mut section.ntp, "network.ntp", reading);
    for (key, links) in [
        ("network.interface", &mut section.interface),
        ("network.bond", &mut section.bond),
        ("network.vlan", &mut section.vlan),
    ] {
        for link in links.iter_mut().map(Spanned::get_mut) {
            at_most(ADDRESSES_MAX, &mut link.addresses, &format!("{key}.addresses"), reading);
            at_most(ROUTES_MAX, &mut link.routes, &format!("{key}.routes"), reading);
        }
    }
    let hostname = section.hostname.map(|name| {
        if !is_label(name.get_ref()) {
            let what = format!("{:?} is no host name", name.get_ref());
            reading.wrong(
                name.span(),
                "network.hostname",
                what,
                "Write letters, digits and hyphens, 63 at most.",
            );
        }
        name.into_inner()
    });
    let dns = section.dns.into_iter().filter_map(|server| {
        let address = server.get_ref().parse().ok().filter(is_host);
        if address.is_none() {
            let what = format!("{:?} is no address of a name server", server.get_ref());
            reading.wrong(server.span(), "network.dns", what, "Write addresses, such as \"192.0.2.53\".");
        }
        address
    });
    let dns = dns.collect();
    let mut ntp = Vec::new();
    for server in section.ntp {
        let is_name = server.get_ref().len() <= 253 && server.get_ref().split('.').all(is_label);
        if !is_name && server.get_ref().parse::<IpAddr>().is_err() {
            let what = format!("{:?} is neither a name nor an address", server.get_ref());
            reading.wrong(server.span(), "network.ntp", what, "Write names or addresses of time servers.");
        }
        ntp.push(server.into_inner());
    }
    let links_count = section.interface.len() + section.bond.len() + section.vlan.len();
    if links_count > LINKS_MAX {
        let first = section.interface.iter().chain(&section.bond).chain(&section.vlan).next();
        let span = first.map_or(0..0, Spanned::span);
        let what = format!("{links_count} interfaces are more than {LINKS_MAX}");
        reading.wrong(span, "network", what, "Leave out what this device does not have.");
        return Network::default();
    }
    let mut checker = Checker {
        reading,
        names: BTreeMap::new(),
        macs: BTreeSet::new(),
        addresses: BTreeSet::new(),
        tags: BTreeSet::new(),
        members: BTreeMap::new(),
        parents: BTreeSet::new(),
        default_gateways: BTreeSet::new(),
    };
    let mut links = Vec::with_capacity(links_count);
    // In this order: a bond is made of interfaces, and a VLAN stands on either.
    links.extend(section.interface.into_iter().map(|link| checker.wired(link)));
    links.extend(section.bond.into_iter().map(|link| checker.bond(link)));
    links.extend(section.vlan.into_iter().map(|link| checker.vlan(link)));
    checker.check_uses(&links);
    Network { hostname, dns, ntp, links: links.into_iter().map(|(link, _)| link).collect() }
}

/// What the interfaces so far have taken.
struct Checker<'r, 't> {
    reading: &'r mut Reading<'t>,
    /// Name of an interface that others may stand on, and its MTU.
    names: BTreeMap<String, Option<u32>>,
    macs: BTreeSet<Mac>,
    addresses: BTreeSet<IpAddr>,
    /// Parents and ids.
    tags: BTreeSet<(String, u16)>,
    /// Members of bonds, and which.
    members: BTreeMap<String, String>,
    parents: BTreeSet<String>,
    /// Whether there is a way out, by family (true: IPv6).
    default_gateways: BTreeSet<bool>,
}

type Placed = (Link, Range<usize>);

impl Checker<'_, '_> {
    fn wired(&mut self, section: Spanned<LinkSection>) -> Placed {
        let (span, mut section) = (section.span(), section.into_inner());
        let key = "network.interface";
        self.refuse_foreign(&section, key, &["name", "mac"]);
        let name = section.name.take().map(|name| self.name(name, key));
        let mac = section.mac.take().and_then(|text| {
            let mac = text.get_ref().parse().ok();
            match mac {
                None => {
                    let what = format!("{:?} is no hardware address of an interface", text.get_ref());
                    let what_to_do = "Write six octets, such as \"52:54:00:12:34:56\".";
                    self.reading.wrong(text.span(), "network.interface.mac", what, what_to_do);
                }
                Some(mac) if !self.macs.insert(mac) => {
                    let what = format!("{mac} stands there twice");
                    self.reading.wrong(text.span(), "network.interface.mac", what, "Keep one of the two.");
                }
                Some(_) => {}
            }
            mac
        });
        if name.is_none() && mac.is_none() {
            self.reading.wrong(span.clone(), key, "neither name nor mac", "Say which interface this is.");
        }
        let addressing = self.addressing(section, key, name.as_deref());
        (Link { kind: Kind::Wired { name, mac }, addressing }, span)
    }

    fn bond(&mut self, section: Spanned<LinkSection>) -> Placed {
        let (span, mut section) = (section.span(), section.into_inner());
        let key = "network.bond";
        self.refuse_foreign(&section, key, &["name", "members", "mode", "miimon_ms"]);
        let (name, name_span) = match section.name.take() {
            Some(name) => (name.get_ref().clone(), name.span()),
            None => {
                self.reading.wrong(span.clone(), key, "has no name", "Name the bond, such as \"bond0\".");
                (String::new(), span.clone())
            }
        };
        let members = section.members.take().map(|members| (members.span(), members.into_inner()));
        let (members_span, members) = members.unwrap_or_else(|| (span.clone(), Vec::new()));
        if members.is_empty() {
            let what_to_do = "List the names of the interfaces that it is made of.";
            self.reading.wrong(members_span.clone(), "network.bond.members", "is empty", what_to_do);
        }
        for member in &members {
            if !self.names.contains_key(member) {
                self.unknown(members_span.clone(), "network.bond.members", member);
            } else if let Some(other) = self.members.insert(member.clone(), name.clone()) {
                let what = format!("{member:?} is a member of {other:?} already");
                self.reading.wrong(
                    members_span.clone(),
                    "network.bond.members",
                    what,
                    "Keep it in one bond.",
                );
            }
        }
        let mode = section.mode.take().map_or(BondMode::ActiveBackup, Spanned::into_inner);
        let miimon_ms = section.miimon_ms.take().map_or(MIIMON_MS_DEFAULT, |value| {
            self.number(&value, "network.bond.miimon_ms", 1, MIIMON_MS_MAX)
        });
        // After its members: a bond is no member of itself.
        let name = if name.is_empty() { name } else { self.name(Spanned::new(name_span, name), key) };
        let addressing = self.addressing(section, key, Some(&name));
        (Link { kind: Kind::Bond { name, members, mode, miimon_ms }, addressing }, span)
    }

    fn vlan(&mut self, section: Spanned<LinkSection>) -> Placed {
        let (span, mut section) = (section.span(), section.into_inner());
        let key = "network.vlan";
        self.refuse_foreign(&section, key, &["name", "parent", "id"]);
        let parent = section.parent.take().map(|parent| (parent.span(), parent.into_inner()));
        let (parent_span, parent) = parent.unwrap_or_else(|| (span.clone(), String::new()));
        let parent_mtu = self.names.get(&parent).copied();
        if parent_mtu.is_none() {
            self.unknown(parent_span, "network.vlan.parent", &parent);
        }
        let id = match section.id.take() {
            Some(id) => {
                let number = self.number(&id, "network.vlan.id", VLAN_ID_MIN, VLAN_ID_MAX);
                let number = u16::try_from(number).unwrap_or(0);
                if !self.tags.insert((parent.clone(), number)) {
                    let what = format!("{number} stands there twice for {parent:?}");
                    self.reading.wrong(id.span(), "network.vlan.id", what, "Keep one of the two.");
                }
                number
            }
            None => {
                self.reading.wrong(
                    span.clone(),
                    "network.vlan",
                    "has no id",
                    "Write the VLAN's number, 1 to 4094.",
                );
                0
            }
        };
        let name =
            section.name.take().unwrap_or_else(|| Spanned::new(span.clone(), format!("{parent}.{id}")));
        // The parent's name may be wrong, and was told then.
        let name = if parent_mtu.is_none() { name.into_inner() } else { self.name(name, key) };
        self.parents.insert(parent.clone());
        let mtu_span = section.mtu.as_ref().map(Spanned::span);
        let addressing = self.addressing(section, key, None);
        if let (Some(mtu), Some(Some(most)), Some(span)) = (addressing.mtu, parent_mtu, mtu_span)
            && mtu > most
        {
            let what = format!("{mtu} is more than the {most} of {parent:?}");
            self.reading.wrong(
                span,
                "network.vlan.mtu",
                what,
                "Make it as small as the parent's, or the parent's larger.",
            );
        }
        (Link { kind: Kind::Vlan { name, parent, id }, addressing }, span)
    }

    /// A name that the kernel takes, and that nobody else has.
    fn name(&mut self, name: Spanned<String>, key: &str) -> String {
        let span = name.span();
        let name = name.into_inner();
        let is_harmless = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'.' | b'-' | b'_');
        let is_reserved = matches!(name.as_str(), "." | ".." | "lo" | "all" | "default");
        let key = format!("{key}.name");
        if name.is_empty() || name.len() > NAME_OCTETS_MAX || !name.bytes().all(is_harmless) || is_reserved {
            let what = format!("{name:?} is no name of an interface");
            let what_to_do = "Write at most 15 letters, digits, dots, hyphens and underscores.";
            self.reading.wrong(span, &key, what, what_to_do);
        } else if self.names.insert(name.clone(), None).is_some() {
            let what = format!("{name:?} stands there twice");
            self.reading.wrong(span, &key, what, "Give each interface one section.");
        }
        name
    }

    fn unknown(&mut self, span: Range<usize>, key: &str, name: &str) {
        let what = format!("there is no interface {name:?}");
        let what_to_do =
            "Add [[network.interface]] with this name (and its mac, to find it by), or correct the name.";
        self.reading.wrong(span, key, what, what_to_do);
    }

    /// Keys that belong to another kind of interface.
    fn refuse_foreign(&mut self, section: &LinkSection, key: &str, own: &[&str]) {
        let found = [
            ("mac", section.mac.as_ref().map(Spanned::span)),
            ("parent", section.parent.as_ref().map(Spanned::span)),
            ("id", section.id.as_ref().map(Spanned::span)),
            ("members", section.members.as_ref().map(Spanned::span)),
            ("mode", section.mode.as_ref().map(Spanned::span)),
            ("miimon_ms", section.miimon_ms.as_ref().map(Spanned::span)),
        ];
        for (name, span) in found {
            if let Some(span) = span.filter(|_| !own.contains(&name)) {
                let what = format!("{name:?} does not belong here");
                let what_to_do = "mac is for an interface, parent and id for a vlan, members, mode and miimon_ms for a bond.";
                self.reading.wrong(span, key, what, what_to_do);
            }
        }
    }

    fn addressing(&mut self, section: LinkSection, key: &str, name: Option<&str>) -> Addressing {
        let mut addresses = Vec::new();
        for text in section.addresses {
            if let Some(address) = self.address(&text, key) {
                addresses.push(address);
            }
        }
        let mut gateways = Vec::new();
        for (text, is_ipv6) in [(section.gateway4, false), (section.gateway6, true)] {
            let Some(text) = text else { continue };
            let key = format!("{key}.gateway{}", if is_ipv6 { 6 } else { 4 });
            gateways.extend(self.gateway(&text, &key, is_ipv6, &addresses));
        }
        let mut routes = Vec::new();
        for route in section.routes {
            routes.extend(self.route(&route, &format!("{key}.routes"), &addresses));
        }
        let mtu = section.mtu.map(|value| {
            let key = format!("{key}.mtu");
            let mtu = self.number(&value, &key, MTU_MIN, MTU_MAX);
            if mtu < MTU_MIN_IPV6 && addresses.iter().any(|net| net.addr().is_ipv6()) {
                let what = format!("{mtu} is too small for IPv6");
                self.reading.wrong(value.span(), &key, what, format!("Write {MTU_MIN_IPV6} or more."));
            }
            mtu
        });
        if let Some(entry) = name.and_then(|name| self.names.get_mut(name)) {
            *entry = mtu;
        }
        let router_advertisements = section.router_advertisements.unwrap_or(section.dhcp);
        Addressing { addresses, gateways, routes, dhcp: section.dhcp, router_advertisements, mtu }
    }

    fn address(&mut self, text: &Spanned<String>, key: &str) -> Option<IpNet> {
        let key = format!("{key}.addresses");
        let Ok(net) = text.get_ref().parse::<IpNet>() else {
            let what = format!("{:?} is no address with the length of its prefix", text.get_ref());
            let what_to_do = "Write it as \"192.0.2.10/24\" or \"2001:db8::10/64\".";
            self.reading.wrong(text.span(), &key, what, what_to_do);
            return None;
        };
        let is_whole_net = match net {
            IpNet::V4(net) => {
                net.prefix_len() < 31 && (net.addr() == net.network() || net.addr() == net.broadcast())
            }
            IpNet::V6(_) => false,
        };
        if !is_host(&net.addr()) || net.prefix_len() == 0 || is_whole_net {
            let what = format!("{net} is no address of a host");
            self.reading.wrong(text.span(), &key, what, "Write the address that this interface is to have.");
        } else if !self.addresses.insert(net.addr()) {
            let what = format!("{} stands there twice", net.addr());
            self.reading.wrong(text.span(), &key, what, "Give each address to one interface.");
        }
        Some(net)
    }

    fn gateway(
        &mut self,
        text: &Spanned<String>,
        key: &str,
        is_ipv6: bool,
        addresses: &[IpNet],
    ) -> Option<IpAddr> {
        let address = text.get_ref().parse().ok().filter(|address: &IpAddr| address.is_ipv6() == is_ipv6);
        let Some(address) = address.filter(is_host) else {
            let what =
                format!("{:?} is no IPv{} address of a router", text.get_ref(), if is_ipv6 { 6 } else { 4 });
            self.reading.wrong(
                text.span(),
                key,
                what,
                "Write the router's address, without a prefix length.",
            );
            return None;
        };
        self.check_reachable(text.span(), key, address, addresses);
        if !self.default_gateways.insert(is_ipv6) {
            let what = "there is a gateway for this family on another interface".to_owned();
            let what_to_do = "Keep one, and reach the other networks by routes.";
            self.reading.wrong(text.span(), key, what, what_to_do);
        }
        Some(address)
    }

    fn route(&mut self, route: &Spanned<RouteSection>, key: &str, addresses: &[IpNet]) -> Option<Route> {
        let RouteSection { to, via } = route.get_ref();
        let (Ok(to), Ok(via)) = (to.parse::<IpNet>(), via.parse::<IpAddr>()) else {
            let what = format!("to {to:?} via {via:?} is no route");
            let what_to_do = "Write { to = \"198.51.100.0/24\", via = \"192.0.2.254\" }.";
            self.reading.wrong(route.span(), key, what, what_to_do);
            return None;
        };
        if to.addr() != to.network() {
            let what = format!("{to} has bits behind the length of its prefix");
            self.reading.wrong(route.span(), key, what, format!("Did you mean {}?", to.trunc()));
        } else if to.addr().is_ipv6() != via.is_ipv6() {
            let what = format!("{to} and {via} are of two families");
            self.reading.wrong(route.span(), key, what, "Write two addresses of one family.");
        }
        self.check_reachable(route.span(), key, via, addresses);
        Some(Route { to, via })
    }

    /// A router is a neighbour: in a network of the interface, or with an address of the link itself.
    fn check_reachable(&mut self, span: Range<usize>, key: &str, router: IpAddr, addresses: &[IpNet]) {
        let is_link_local = matches!(router, IpAddr::V6(six) if six.is_unicast_link_local());
        if addresses.iter().any(|net| net.addr() == router) {
            let what = format!("{router} is the interface's own address");
            self.reading.wrong(span, key, what, "Write the address of the router.");
        } else if !is_link_local && !addresses.iter().any(|net| net.contains(&router)) {
            let what = format!("{router} is in none of the interface's networks");
            let what_to_do = "Correct it, or the length of the prefix of the interface's address.";
            self.reading.wrong(span, key, what, what_to_do);
        }
    }

    fn number(&mut self, value: &Spanned<i64>, key: &str, least: i64, most: i64) -> u32 {
        let number = *value.get_ref();
        if !(least..=most).contains(&number) {
            let what = format!("{number} is out of bounds");
            self.reading.wrong(value.span(), key, what, format!("Write a number from {least} to {most}."));
        }
        u32::try_from(number.clamp(least, most)).unwrap_or(0)
    }

    /// Every interface is there for something, and a member of a bond for nothing else.
    fn check_uses(&mut self, links: &[Placed]) {
        for (link, span) in links {
            let name = link.kind.name().unwrap_or_default();
            let Addressing { addresses, dhcp, router_advertisements, .. } = &link.addressing;
            let has_addresses = !addresses.is_empty() || *dhcp || *router_advertisements;
            let is_parent = self.parents.contains(name);
            match self.members.get(name) {
                Some(bond) if has_addresses || is_parent => {
                    let what =
                        format!("{name:?} is a member of {bond:?} and has addresses or VLANs of its own");
                    let what_to_do = "Give them to the bond.";
                    self.reading.wrong(span.clone(), "network.interface", what, what_to_do);
                }
                Some(_) => {}
                None if !has_addresses && !is_parent => {
                    let what = "an interface has neither addresses nor dhcp, and no VLAN or bond uses it";
                    let what_to_do = "Give it addresses = [...] or dhcp = true, or leave it out.";
                    self.reading.wrong(span.clone(), "network", what, what_to_do);
                }
                None => {}
            }
        }
    }
}

/// Notes a list that is too long, once, and forgets what is too much of it.
fn at_most<T>(count_max: usize, list: &mut Vec<Spanned<T>>, key: &str, reading: &mut Reading<'_>) {
    if let Some(first) = list.get(count_max) {
        let what = format!("{} are more than {count_max}", list.len());
        reading.wrong(first.span(), key, what, "Leave out what this device does not need.");
        list.truncate(count_max);
    }
}

/// A label of a host name. RFC 1123, 2.1.
fn is_label(text: &str) -> bool {
    let is_allowed = |octet: u8| octet.is_ascii_alphanumeric() || octet == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(is_allowed)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Whether one host can have this address on a network.
fn is_host(address: &IpAddr) -> bool {
    let is_broadcast = matches!(address, IpAddr::V4(four) if four.is_broadcast());
    !(address.is_unspecified() || address.is_multicast() || address.is_loopback() || is_broadcast)
}

#[cfg(test)]
#[path = "network_tests.rs"]
mod tests;
