//! What systemd-networkd reads, made of the device's network. A pure function; its files lie in `/run/systemd/network`.
//!
//! Addresses that were given stay when a cable is pulled and put back, and are there before it is put in: a listener of
//! one address can be opened at any time. The identity for DHCP is the hardware address: this machine has no other that
//! outlives a reboot.

use super::network::{Addressing, BondMode, Kind, Link, Network};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

/// A file's name and its text.
pub(crate) type Files = BTreeMap<String, String>;

/// The beginning of each name: only files of ours are replaced.
pub(crate) const PREFIX: &str = "70-sternpost-";

const HEAD: &str = "# Made from the site's bootstrap at each start.\n";

/// The files for a network. One without interfaces asks for addresses on every wired interface.
pub(crate) fn files(network: &Network) -> Files {
    let mut files = Files::new();
    if network.links.is_empty() {
        let everywhere = Addressing { dhcp: true, router_advertisements: true, ..Addressing::default() };
        let text = format!("{HEAD}[Match]\nType=ether\n{}", addressing(&everywhere, network, &[]));
        files.insert(format!("{PREFIX}every.network"), text);
    }
    for (number, link) in network.links.iter().enumerate() {
        add(&mut files, number, link, network);
    }
    files
}

fn add(files: &mut Files, number: usize, link: &Link, network: &Network) {
    let stem = format!("{PREFIX}{number:03}");
    let found_by = match &link.kind {
        // Of the hardware itself: a VLAN on it and the bond above have the same current address.
        Kind::Wired { mac: Some(mac), .. } => format!("PermanentMACAddress={mac}"),
        Kind::Wired { name, mac: None } => format!("Name={}", name.as_deref().unwrap_or_default()),
        Kind::Vlan { name, .. } | Kind::Bond { name, .. } => format!("Name={name}"),
    };
    let device = match &link.kind {
        Kind::Wired { .. } => None,
        Kind::Vlan { name, id, .. } => Some(format!("[NetDev]\nName={name}\nKind=vlan\n\n[VLAN]\nId={id}\n")),
        Kind::Bond { name, mode, miimon_ms, .. } => {
            let mut text = format!(
                "[NetDev]\nName={name}\nKind=bond\n\n[Bond]\nMode={mode}\nMIIMonitorSec={miimon_ms}ms\n"
            );
            if *mode == BondMode::Lacp {
                text.push_str("LACPTransmitRate=fast\n");
            }
            Some(text)
        }
    };
    if let Some(device) = device {
        files.insert(format!("{stem}.netdev"), format!("{HEAD}{device}"));
    }
    let mut above = Vec::new();
    if let Some(name) = link.kind.name() {
        for other in &network.links {
            match &other.kind {
                Kind::Vlan { name: vlan, parent, .. } if parent == name => above.push(format!("VLAN={vlan}")),
                Kind::Bond { name: bond, members, .. } if members.iter().any(|member| member == name) => {
                    above.push(format!("Bond={bond}"));
                }
                _ => {}
            }
        }
    }
    let text = format!("{HEAD}[Match]\n{found_by}\n{}", addressing(&link.addressing, network, &above));
    files.insert(format!("{stem}.network"), text);
}

fn addressing(addressing: &Addressing, network: &Network, above: &[String]) -> String {
    let Addressing { addresses, gateways, routes, dhcp, router_advertisements, mtu } = addressing;
    let mut text = String::new();
    let mut line = |line: &str| {
        text.push_str(line);
        text.push('\n');
    };
    if let Some(mtu) = mtu {
        line(&format!("\n[Link]\nMTUBytes={mtu}"));
    }
    line("\n[Network]");
    let yes_or_no = |is: bool| if is { "yes" } else { "no" };
    line(&format!("DHCP={}", yes_or_no(*dhcp)));
    line(&format!("IPv6AcceptRA={}", yes_or_no(*router_advertisements)));
    let has_ipv6 = *router_advertisements || *dhcp || addresses.iter().any(|net| net.addr().is_ipv6());
    line(&format!("LinkLocalAddressing={}", if has_ipv6 { "ipv6" } else { "no" }));
    line("LLDP=no");
    if !*dhcp {
        line("ConfigureWithoutCarrier=yes\nIgnoreCarrierLoss=yes");
    }
    above.iter().for_each(|above| line(above));
    addresses.iter().for_each(|address| line(&format!("Address={address}")));
    network.dns.iter().for_each(|server| line(&format!("DNS={server}")));
    network.ntp.iter().for_each(|server| line(&format!("NTP={server}")));
    let uses = |key: &str, is_static: bool| format!("{key}={}", yes_or_no(!is_static));
    if *dhcp {
        let (dns, ntp) = (uses("UseDNS", !network.dns.is_empty()), uses("UseNTP", !network.ntp.is_empty()));
        line(&format!("\n[DHCPv4]\nClientIdentifier=mac\nUseHostname=no\nUseDomains=no\n{dns}\n{ntp}"));
        line(&format!("\n[DHCPv6]\nDUIDType=link-layer\nUseHostname=no\nUseDomains=no\n{dns}\n{ntp}"));
    }
    if *router_advertisements {
        line(&format!("\n[IPv6AcceptRA]\nUseDomains=no\n{}", uses("UseDNS", !network.dns.is_empty())));
    }
    gateways.iter().for_each(|gateway| line(&format!("\n[Route]\nGateway={gateway}")));
    routes
        .iter()
        .for_each(|route| line(&format!("\n[Route]\nDestination={}\nGateway={}", route.to, route.via)));
    text
}

/// `resolv.conf` for the switch's own look-ups. At most three servers: the C library reads no more.
pub(crate) fn resolv_conf(servers: &[IpAddr]) -> String {
    let mut text = String::from("# Made by sternpost device. Name servers of the bootstrap, else of DHCP.\n");
    for server in servers.iter().take(3) {
        let _ = writeln!(text, "nameserver {server}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::network::{NetworkSection, check};
    use super::super::problem::Reading;
    use super::*;

    fn made(text: &str) -> Files {
        let section: NetworkSection = toml::from_str(text).unwrap();
        let mut reading = Reading::new("test", text);
        let network = check(section, &mut reading);
        let network = reading.finish(Some(network)).unwrap_or_else(|problems| panic!("{problems:?}"));
        files(&network)
    }

    #[test]
    fn without_interfaces_every_wired_one_asks_for_addresses() {
        let files = made("dns = []\n");
        let text = "# Made from the site's bootstrap at each start.\n[Match]\nType=ether\n\n[Network]\nDHCP=yes\n\
                    IPv6AcceptRA=yes\nLinkLocalAddressing=ipv6\nLLDP=no\n\n[DHCPv4]\nClientIdentifier=mac\nUseHostname=no\n\
                    UseDomains=no\nUseDNS=yes\nUseNTP=yes\n\n[DHCPv6]\nDUIDType=link-layer\nUseHostname=no\n\
                    UseDomains=no\nUseDNS=yes\nUseNTP=yes\n\n[IPv6AcceptRA]\nUseDomains=no\nUseDNS=yes\n";
        assert_eq!(files, Files::from([("70-sternpost-every.network".to_owned(), text.to_owned())]));
    }

    #[test]
    fn static_addresses_need_no_cable_and_survive_its_loss() {
        let files = made(
            "dns = [\"192.0.2.53\"]\nntp = [\"ntp.example\"]\n[[interface]]\nname = \"eth0\"\nmtu = 1400\n\
             addresses = [\"192.0.2.10/24\", \"2001:db8::10/64\"]\ngateway4 = \"192.0.2.1\"\ngateway6 = \"fe80::1\"\n\
             routes = [{ to = \"198.51.100.0/24\", via = \"192.0.2.254\" }]\n",
        );
        let text = "# Made from the site's bootstrap at each start.\n[Match]\nName=eth0\n\n[Link]\nMTUBytes=1400\n\n[Network]\nDHCP=no\n\
                    IPv6AcceptRA=no\nLinkLocalAddressing=ipv6\nLLDP=no\nConfigureWithoutCarrier=yes\n\
                    IgnoreCarrierLoss=yes\nAddress=192.0.2.10/24\nAddress=2001:db8::10/64\nDNS=192.0.2.53\n\
                    NTP=ntp.example\n\n[Route]\nGateway=192.0.2.1\n\n[Route]\nGateway=fe80::1\n\n[Route]\n\
                    Destination=198.51.100.0/24\nGateway=192.0.2.254\n";
        assert_eq!(files["70-sternpost-000.network"], text);
        assert_eq!(files.len(), 1);
    }

    #[test]
    fn a_vlan_on_a_bond_of_interfaces_found_by_their_hardware_is_six_files() {
        let files = made(
            "[[interface]]\nname = \"a\"\nmac = \"52:54:00:00:00:0A\"\n[[interface]]\nname = \"b\"\nmac = \"52-54-00-00-00-0b\"\n\
             [[bond]]\nname = \"bond0\"\nmembers = [\"a\", \"b\"]\nmode = \"802.3ad\"\nmiimon_ms = 50\n\
             [[vlan]]\nparent = \"bond0\"\nid = 7\naddresses = [\"192.0.2.10/24\"]\n",
        );
        assert_eq!(files.len(), 6, "{files:#?}");
        let a = &files["70-sternpost-000.network"];
        assert!(
            a.contains("[Match]\nPermanentMACAddress=52:54:00:00:00:0a\n") && a.contains("\nBond=bond0\n"),
            "{a}"
        );
        let bond = &files["70-sternpost-002.netdev"];
        assert!(bond.ends_with("[NetDev]\nName=bond0\nKind=bond\n\n[Bond]\nMode=802.3ad\nMIIMonitorSec=50ms\nLACPTransmitRate=fast\n"), "{bond}");
        assert!(files["70-sternpost-002.network"].contains("\nVLAN=bond0.7\n"));
        let vlan = &files["70-sternpost-003.netdev"];
        assert!(vlan.ends_with("[NetDev]\nName=bond0.7\nKind=vlan\n\n[VLAN]\nId=7\n"), "{vlan}");
        let addressed = &files["70-sternpost-003.network"];
        assert!(
            addressed.contains("[Match]\nName=bond0.7\n") && addressed.contains("\nAddress=192.0.2.10/24\n")
        );
        assert!(addressed.contains("\nLinkLocalAddressing=no\n"), "no IPv6 where nobody asked for it");
    }

    #[test]
    fn no_more_name_servers_are_written_than_are_read() {
        let servers: Vec<IpAddr> = (1..=4).map(|last| IpAddr::from([192, 0, 2, last])).collect();
        let text = resolv_conf(&servers);
        assert!(
            text.ends_with("nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n"),
            "{text}"
        );
    }
}
