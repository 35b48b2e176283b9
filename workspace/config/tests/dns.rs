//! Peers whose hosts the DNS names, and the resolver that is asked.

use std::net::IpAddr;
use sternpost_config::{
    AddressFamilies, ChannelView, Configuration, DnsRouting, Effect, GroupHost, Loaded, NextHop, PeerAddress,
    RouteTable, entries_from_tables, load,
};

const TABLES: &str = r#"
[node]
hostname = "relay.example"
name_servers = ["192.0.2.53:53", "[2001:db8::53]:5353"]
own_names = ["mx.relay.example"]
own_addresses = ["198.51.100.1"]
#node

[[listener]]
name = "inbound"
addresses = ["0.0.0.0:25", "192.0.2.1:25"]

[[channel]]
name = "smtp"
kind = "smtp"

[[channel]]
name = "lmtp"
kind = "lmtp"

[[peer]]
name = "internet"
channel = "smtp"
next_hop = "dns"
#peer

[[peer]]
name = "partner"
channel = "smtp"
address = "192.0.2.25:25"

[[route]]
domain = "*"
peer = "internet"

[[route]]
domain = [".partner.example", "partner.example"]
peer = "partner"
"#;

fn loaded(toml: &str) -> (Option<Configuration>, Vec<(Option<String>, Effect)>) {
    let entries = entries_from_tables(toml).expect("the tables of a test are well-formed");
    let Loaded { configuration, problems, .. } = load(&entries, "");
    (configuration, problems.into_iter().map(|problem| (problem.attribute, problem.effect)).collect())
}

fn good(toml: &str) -> Configuration {
    let (configuration, problems) = loaded(toml);
    assert_eq!(problems, []);
    configuration.expect("the node is good")
}

#[test]
fn a_domain_that_is_routed_to_a_peer_by_dns_is_a_peer_of_its_own() {
    let configuration = good(TABLES);
    let table = RouteTable::new(&configuration.routes, &configuration.peers);
    let rows = [
        ("far.example", "internet:far.example", false),
        ("FAR.Example", "internet:far.example", false),
        ("[IPv6:2001:db8::1]", "internet:[ipv6:2001:db8::1]", false),
        ("partner.example", "partner", true),
        ("a.partner.example", "partner", true),
    ];
    for (domain, peer, open_to_all) in rows {
        let destination = table.destination(domain).expect("there is a route for everything");
        assert_eq!((&*destination.peer, destination.open_to_all), (peer, open_to_all), "{domain}");
        assert_eq!(destination.channel, "smtp");
    }
}

#[test]
fn a_channel_finds_the_peer_of_a_domain_and_is_told_whom_to_ask_and_who_is_this_switch() {
    let configuration = good(&TABLES.replace("#peer", "dns_port = 2525\ndns_families = \"ipv4-first\""));
    let view = ChannelView::new(&configuration, "smtp").expect("the channel is there");
    let peer = view.peer("internet:far.example").expect("the configuration has its like");
    let families = AddressFamilies::Ipv4First;
    let routing = DnsRouting { port: 2525, families, addresses_max: 8, loopback: false };
    assert_eq!((peer.name.as_str(), &peer.next_hop), ("internet:far.example", &NextHop::Dns(routing)));
    for name in ["internet", "partner:far.example", "other:far.example", "internet:"] {
        assert_eq!(view.peer(name), None, "{name}");
    }
    assert!(view.peer("partner").is_some());
    let resolver = view.resolver.expect("a peer is found by DNS");
    assert_eq!(resolver.dns.name_servers.len(), 2);
    assert_eq!((resolver.dns.timeout_s, resolver.dns.own_names), (5, vec!["mx.relay.example".to_owned()]));
    let own: Vec<IpAddr> = ["192.0.2.1", "198.51.100.1"].map(|ip| ip.parse().expect("an address")).into();
    assert_eq!(resolver.own_addresses, own);
    let lmtp = ChannelView::new(&configuration, "lmtp").expect("the channel is there");
    assert_eq!(lmtp.resolver, None, "no peer of it is found by DNS");
}

#[test]
fn what_cannot_be_is_said_with_its_attribute_and_its_effect() {
    let peer = |lines: &str| TABLES.replace("#peer", lines);
    let node = |lines: &str| TABLES.replace("#node", lines);
    let key = ". 300 IN DNSKEY 257 3 8 AwEAAaz/tAm8yTn4Mfeh";
    let rows = [
        (
            peer("next_hop = \"mx\"").replacen("next_hop = \"dns\"", "", 1),
            "sternpostNextHop",
            Effect::Dropped,
        ),
        (peer("dns_port = 0"), "sternpostDnsPort", Effect::Dropped),
        (peer("dns_families = \"both\""), "sternpostDnsFamilies", Effect::Dropped),
        (peer("dns_addresses_max = 65"), "sternpostDnsAddressesMax", Effect::Dropped),
        (peer("address = \"192.0.2.1:25\""), "sternpostAddress", Effect::Ignored),
        (
            peer("peer_tls = \"verified\"\npeer_tls_names = \"a.example\""),
            "sternpostPeerTlsNames",
            Effect::Ignored,
        ),
        (TABLES.replace("next_hop = \"dns\"", ""), "sternpostAddress", Effect::Dropped),
        (
            TABLES.replace("192.0.2.25:25\"", "192.0.2.25:25\"\ndns_port = 26"),
            "sternpostDnsPort",
            Effect::Ignored,
        ),
        (TABLES.replacen("channel = \"smtp\"", "channel = \"lmtp\"", 1), "sternpostNextHop", Effect::Dropped),
        (TABLES.replace("\"internet\"", "\"null\""), "cn", Effect::Dropped),
        (TABLES.replace("192.0.2.53:53", "192.0.2.53:0"), "sternpostNameServers", Effect::FailsClosed),
        (TABLES.replace("192.0.2.53:53", "ns.example"), "sternpostNameServers", Effect::FailsClosed),
        (
            TABLES.replace("\"192.0.2.53:53\", \"[2001:db8::53]:5353\"", ""),
            "sternpostNameServers",
            Effect::FailsClosed,
        ),
        (
            node("dns_trust_anchors = [\"example. IN DNSKEY 257 3 8 AwEAAaz\"]"),
            "sternpostDnsTrustAnchors",
            Effect::Dropped,
        ),
        (
            node(&format!("dns_trust_anchors = [\"{key}\", \". IN DS 1 8 2 00\"]")),
            "sternpostDnsTrustAnchors",
            Effect::Dropped,
        ),
    ];
    for (tables, attribute, effect) in rows {
        let (_, problems) = loaded(&tables);
        assert!(problems.contains(&(Some(attribute.to_owned()), effect)), "{attribute}: {problems:?}");
    }
    let configuration = good(&node(&format!("dns_trust_anchors = [\"{key}\"]")));
    assert_eq!(configuration.node.dns.trust_anchors, [key]);
}

#[test]
fn the_hosts_of_a_group_are_read_with_preference_and_weight_and_what_is_no_host_is_said() {
    let group = |hosts: &str| {
        let lines = format!("next_hop = \"group\"\ngroup_hosts = [{hosts}]");
        TABLES.replace("address = \"192.0.2.25:25\"", &lines)
    };
    let configuration = good(&group("\"10 5 192.0.2.1:25\", \"20 1 [2001:db8::1]:2525\""));
    let host = |preference, weight, address: &str| GroupHost {
        preference,
        weight,
        address: PeerAddress(address.parse().expect("an address")),
    };
    let hosts = vec![host(10, 5, "192.0.2.1:25"), host(20, 1, "[2001:db8::1]:2525")];
    let peer = configuration.peer("partner").expect("it is good");
    assert_eq!(peer.next_hop, NextHop::Group(hosts));
    assert_eq!(peer.tls.references.len(), 2, "a certificate may have the address of either");
    for hosts in [
        "",
        "\"192.0.2.1:25\"",
        "\"10 0 192.0.2.1:25\"",
        "\"10 1001 192.0.2.1:25\"",
        "\"+1 1 192.0.2.1:25\"",
        "\"10 1 192.0.2.1:0\"",
        "\"10 1 192.0.2.1:25 x\"",
        "\"10 1 mx.example:25\"",
    ] {
        let (configuration, problems) = loaded(&group(hosts));
        let expected = (Some("sternpostGroupHosts".to_owned()), Effect::Dropped);
        assert!(problems.contains(&expected), "{hosts}: {problems:?}");
        assert_eq!(configuration.expect("the node is good").peer("partner"), None, "{hosts}");
    }
    let lines = "192.0.2.25:25\"\ngroup_hosts = \"1 1 192.0.2.1:25\"";
    let (_, problems) = loaded(&TABLES.replace("192.0.2.25:25\"", lines));
    assert_eq!(problems, [(Some("sternpostGroupHosts".to_owned()), Effect::Ignored)]);
}
