//! What peers say about where they are, and what the node says about whom it asks.

use crate::load::{Effect, Hostname};
use crate::model::{AddressFamilies, ChannelKind, Dns, DnsRouting, NextHop, PeerAddress};
use crate::reader::Reader;
use std::net::SocketAddr;
use std::str::FromStr;
use sternpost_message::{DomainPeer, NullHop};

pub(super) const NAME_SERVERS: &str =
    "Give the address and the port of a recursive name server, such as 192.0.2.53:53 or [2001:db8::53]:53.";
const ADDRESS: &str = "Give an address and a port, such as 192.0.2.1:25 or [2001:db8::1]:25.";
const HOSTS: &str =
    "Give a preference, a weight from 1 to 1000, and an address with a port, such as 10 5 192.0.2.1:25.";

/// Reads where a peer of this name is, on a channel of this kind.
pub(super) fn read(reader: &mut Reader<'_>, name: &str, kind: Option<ChannelKind>) -> Option<NextHop> {
    let found_by: FoundBy = reader.one("next_hop", "Say address, group or dns.")?;
    note_ignored(reader, found_by);
    match found_by {
        FoundBy::Address => {
            if !reader.says("address") {
                reader.wrong(Some("sternpostAddress"), "is missing".into(), ADDRESS);
                return None;
            }
            let address: PeerAddress = reader.one("address", ADDRESS)?;
            if address.0.port() == 0 {
                reader.wrong(Some("sternpostAddress"), "port 0 is nobody's".into(), ADDRESS);
            }
            Some(NextHop::Address(address))
        }
        FoundBy::Group => {
            if !reader.says("group_hosts") {
                reader.wrong(Some("sternpostGroupHosts"), "is missing".into(), HOSTS);
            }
            Some(NextHop::Group(reader.many("group_hosts", HOSTS)))
        }
        FoundBy::Dns => {
            if DomainPeer::prefix(name) == NullHop::PREFIX {
                reader.wrong(Some("cn"), "names the switch's own probes".into(), "Give the peer another cn.");
            }
            if kind == Some(ChannelKind::Lmtp) {
                reader.wrong(
                    Some("sternpostNextHop"),
                    "mail is delivered by LMTP where an address says, never by DNS".into(),
                    "Give a channel of the kind smtp, or say address or group.",
                );
            }
            Some(NextHop::Dns(dns_routing(reader)))
        }
    }
}

fn dns_routing(reader: &mut Reader<'_>) -> DnsRouting {
    const FAMILIES: &str = "Say interleaved, ipv6-first, ipv4-first, ipv6-only or ipv4-only.";
    DnsRouting {
        // The bounds of the table are those of a port.
        port: u16::try_from(reader.number32("dns_port")).unwrap_or_default(),
        families: reader.one("dns_families", FAMILIES).unwrap_or_default(),
        addresses_max: reader.number32("dns_addresses_max"),
        loopback: reader.one("dns_loopback", "Say TRUE or FALSE.").unwrap_or(false),
    }
}

/// Whoever gives an address or a port believes that mail goes there.
fn note_ignored(reader: &mut Reader<'_>, found_by: FoundBy) {
    let rows = [
        ("address", FoundBy::Address, "address"),
        ("group_hosts", FoundBy::Group, "group"),
        ("dns_port", FoundBy::Dns, "dns"),
        ("dns_families", FoundBy::Dns, "dns"),
        ("dns_addresses_max", FoundBy::Dns, "dns"),
        ("dns_loopback", FoundBy::Dns, "dns"),
    ];
    for (key, counts_for, word) in rows {
        if counts_for != found_by && reader.says(key) {
            let reason = format!("it counts where sternpostNextHop is {word}");
            reader.note_key(key, reason, "Leave it out, or change sternpostNextHop.", Effect::Ignored);
        }
    }
}

/// Reads whom the node asks, and who it is itself.
pub(super) fn resolver(reader: &mut Reader<'_>) -> Dns {
    const ANCHORS: &str =
        "Give a DNSKEY record of the root zone as in a zone file, such as . IN DNSKEY 257 3 8 AwEAA….";
    let servers: Vec<SocketAddr> = reader.many("name_servers", NAME_SERVERS);
    let (name_servers, nobody): (Vec<_>, Vec<_>) =
        servers.into_iter().partition(|server| server.port() != 0 && !server.ip().is_unspecified());
    for server in nobody {
        let reason = format!("{server} is nobody's address");
        reader.note_key("name_servers", reason, NAME_SERVERS, Effect::FailsClosed);
    }
    let anchors: Vec<RootKey> = reader.many("dns_trust_anchors", ANCHORS);
    let names: Vec<Hostname> = reader.many("own_names", "Give a domain name, such as mx.example.org.");
    Dns {
        name_servers,
        timeout_s: reader.number32("dns_timeout_s"),
        trust_anchors: anchors.into_iter().map(|RootKey(text)| text).collect(),
        own_names: names.into_iter().map(|hostname| hostname.name).collect(),
        own_addresses: reader.many("own_addresses", "Give an address, such as 192.0.2.1 or 2001:db8::1."),
    }
}

/// How the hosts of a peer are found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FoundBy {
    Address,
    Group,
    Dns,
}

impl FromStr for FoundBy {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "address" => Ok(Self::Address),
            "group" => Ok(Self::Group),
            "dns" => Ok(Self::Dns),
            _ => Err(()),
        }
    }
}

impl FromStr for AddressFamilies {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "interleaved" => Ok(Self::Interleaved),
            "ipv6-first" => Ok(Self::Ipv6First),
            "ipv4-first" => Ok(Self::Ipv4First),
            "ipv6-only" => Ok(Self::Ipv6Only),
            "ipv4-only" => Ok(Self::Ipv4Only),
            _ => Err(()),
        }
    }
}

/// A DNSKEY record of the root zone (RFC 4034, 2.2), as far as its shape tells; the resolver reads it whole.
struct RootKey(String);

impl FromStr for RootKey {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut fields = text.split_ascii_whitespace();
        let is_of_the_root = fields.next() == Some(".");
        let is_type = |field: &&str| field.eq_ignore_ascii_case("DNSKEY");
        let data: Vec<&str> = fields.skip_while(|field| !is_type(field)).skip(1).collect();
        let is_number = |field: &&str| field.parse::<u16>().is_ok();
        let is_key = data.len() >= 4 && data[..3].iter().all(is_number);
        // A record on one line, and no directive or comment of a zone file.
        let is_one_record = !text.contains(['\n', '(', ')', ';', '$']);
        if is_of_the_root && is_key && is_one_record { Ok(Self(text.to_owned())) } else { Err(()) }
    }
}
