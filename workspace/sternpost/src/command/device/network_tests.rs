//! Networks that are right, and each thing that can be wrong with one.

use super::*;

fn judged(text: &str) -> Result<Network, String> {
    let section: NetworkSection = toml::from_str(text).map_err(|error| error.to_string())?;
    let mut reading = Reading::new("stick", text);
    let network = check(section, &mut reading);
    reading
        .finish(Some(network))
        .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

#[test]
fn a_network_of_every_kind_is_read() {
    let network = judged(
        "hostname = \"mx-1\"\ndns = [\"192.0.2.53\", \"2001:db8::53\"]\nntp = [\"ntp.example.org\"]\n\
         [[interface]]\nname = \"eth0\"\naddresses = [\"192.0.2.10/24\"]\ngateway4 = \"192.0.2.1\"\n\
         [[interface]]\nmac = \"52:54:00:12:34:56\"\ndhcp = true\n\
         [[interface]]\nname = \"eth2\"\n[[interface]]\nname = \"eth3\"\n\
         [[bond]]\nname = \"bond0\"\nmembers = [\"eth2\", \"eth3\"]\n\
         [[vlan]]\nparent = \"bond0\"\nid = 4094\naddresses = [\"2001:db8::10/64\"]\ngateway6 = \"2001:db8::1\"\n",
    )
    .unwrap();
    assert_eq!(network.links.len(), 6);
    assert!(network.links[1].addressing.router_advertisements, "DHCP comes with router advertisements");
    let bond = Kind::Bond {
        name: "bond0".into(),
        members: vec!["eth2".into(), "eth3".into()],
        mode: BondMode::ActiveBackup,
        miimon_ms: 100,
    };
    assert_eq!(network.links[4].kind, bond);
    assert_eq!(
        network.links[5].kind,
        Kind::Vlan { name: "bond0.4094".into(), parent: "bond0".into(), id: 4094 }
    );
}

#[test]
fn a_list_that_no_device_needs_is_one_problem_however_long_it_is() {
    let list = |count: usize, item: &str| format!("[{}]", vec![format!("\"{item}\""); count].join(", "));
    let addresses = |count: usize| {
        let each = (0..count).map(|number| format!("\"10.0.{}.{}/8\"", number / 200, number % 200 + 1));
        format!("[[interface]]\nname = \"eth0\"\naddresses = [{}]\n", each.collect::<Vec<_>>().join(", "))
    };
    let routes = |count: usize| {
        let route =
            |number| format!("[[interface.routes]]\nto = \"172.16.0.{number}/32\"\nvia = \"10.0.0.9\"\n");
        format!("{}{}", addresses(1), (0..count).map(route).collect::<String>())
    };
    let rows = [
        (format!("dns = {}\n", list(40_000, "")), "network.dns: 40000 are more than 16."),
        (format!("ntp = {}\n", list(17, "ntp.example.org")), "network.ntp: 17 are more than 16."),
        (addresses(65), "network.interface.addresses: 65 are more than 64."),
        (routes(257), "network.interface.routes: 257 are more than 256."),
    ];
    for (text, expected) in rows {
        let said = judged(&text).unwrap_err();
        assert!(said.contains(expected) && said.len() < 8_000, "{said}");
    }
    judged(&format!("dns = {}\n", list(16, "::2"))).unwrap();
    judged(&addresses(64)).unwrap();
}

#[test]
fn what_is_wrong_is_named_with_line_key_and_what_to_do() {
    let eth = "[[interface]]\nname = \"eth0\"\n";
    let addressed = "[[interface]]\nname = \"eth0\"\naddresses = [\"192.0.2.10/24\"]\n";
    let rows = [
        ("hostname = \"a.b\"\n".to_owned(), "stick:1: network.hostname: \"a.b\" is no host name."),
        ("dns = [\n\"ns\"]\n".to_owned(), "stick:2: network.dns: \"ns\" is no address of a name server."),
        ("ntp = [\"a b\"]\n".to_owned(), "stick:1: network.ntp: \"a b\" is neither a name nor an address."),
        ("[[interface]]\ndhcp = true\n".to_owned(), "stick:1: network.interface: neither name nor mac."),
        (
            "[[interface]]\nname = \"e\\nDHCP=yes\"\ndhcp = true\n".to_owned(),
            "stick:2: network.interface.name: \"e\\nDHCP=yes\" is no name",
        ),
        (
            "[[interface]]\nmac = \"01:00:5e:00:00:01\"\ndhcp = true\n".to_owned(),
            "stick:2: network.interface.mac: ",
        ),
        (format!("{addressed}{addressed}"), "stick:5: network.interface.name: \"eth0\" stands there twice."),
        (
            format!("{addressed}[[interface]]\nname = \"eth1\"\naddresses = [\n\"192.0.2.10/25\"]\n"),
            "stick:7: network.interface.addresses: 192.0.2.10 stands there twice.",
        ),
        (eth.to_owned(), "stick:1: network: an interface has neither addresses nor dhcp"),
        (
            format!("{eth}addresses = [\"192.0.2.10\"]\n"),
            "stick:3: network.interface.addresses: \"192.0.2.10\" is no address with",
        ),
        (format!("{eth}addresses = [\"192.0.2.0/24\"]\n"), "192.0.2.0/24 is no address of a host."),
        (format!("{eth}addresses = [\"127.0.0.1/8\"]\n"), "127.0.0.1/8 is no address of a host."),
        (
            format!("{addressed}gateway4 = \"198.51.100.1\"\n"),
            "stick:4: network.interface.gateway4: 198.51.100.1 is in none of the interface's networks.",
        ),
        (format!("{addressed}gateway4 = \"192.0.2.10\"\n"), "192.0.2.10 is the interface's own address."),
        (format!("{addressed}gateway6 = \"192.0.2.1\"\n"), "\"192.0.2.1\" is no IPv6 address of a router."),
        (
            format!(
                "{addressed}gateway4 = \"192.0.2.1\"\n[[interface]]\nname = \"eth1\"\naddresses = [\"198.51.100.9/24\"]\ngateway4 = \"198.51.100.1\"\n"
            ),
            "stick:8: network.interface.gateway4: there is a gateway for this family on another interface.",
        ),
        (
            format!("{addressed}routes = [{{ to = \"198.51.100.1/24\", via = \"192.0.2.1\" }}]\n"),
            "198.51.100.1/24 has bits behind the length of its prefix. Did you mean 198.51.100.0/24?",
        ),
        (
            format!("{addressed}mtu = 575\n"),
            "stick:4: network.interface.mtu: 575 is out of bounds. Write a number from 576 to 9216.",
        ),
        (format!("{eth}addresses = [\"2001:db8::1/64\"]\nmtu = 1000\n"), "1000 is too small for IPv6."),
        (
            format!("{addressed}[[vlan]]\nparent = \"eth9\"\nid = 3\ndhcp = true\n"),
            "stick:5: network.vlan.parent: there is no interface \"eth9\".",
        ),
        (
            format!("{addressed}[[vlan]]\nparent = \"eth0\"\nid = 4095\ndhcp = true\n"),
            "stick:6: network.vlan.id: 4095 is out of bounds. Write a number from 1 to 4094.",
        ),
        (
            format!(
                "{addressed}[[vlan]]\nparent = \"eth0\"\nid = 3\ndhcp = true\n[[vlan]]\nname = \"v\"\nparent = \"eth0\"\nid = 3\ndhcp = true\n"
            ),
            "stick:11: network.vlan.id: 3 stands there twice for \"eth0\".",
        ),
        (
            format!("{addressed}mtu = 1400\n[[vlan]]\nparent = \"eth0\"\nid = 3\nmtu = 1500\ndhcp = true\n"),
            "1500 is more than the 1400 of \"eth0\".",
        ),
        (format!("{addressed}id = 3\n"), "stick:4: network.interface: \"id\" does not belong here."),
        (
            format!("{addressed}[[bond]]\nname = \"b\"\nmembers = [\"eth0\"]\ndhcp = true\n"),
            "\"eth0\" is a member of \"b\" and has addresses",
        ),
        (
            format!("{eth}[[bond]]\nname = \"b\"\nmembers = [\"b\"]\ndhcp = true\n"),
            "network.bond.members: there is no interface \"b\".",
        ),
        (
            format!(
                "{eth}[[bond]]\nname = \"b\"\nmembers = [\"eth0\"]\ndhcp = true\n[[bond]]\nname = \"c\"\nmembers = [\"eth0\"]\ndhcp = true\n"
            ),
            "\"eth0\" is a member of \"b\" already.",
        ),
        (format!("{eth}[[bond]]\nname = \"b\"\nmode = \"fast\"\n"), "unknown variant `fast`"),
        (format!("{eth}adresses = []\n"), "unknown field `adresses`"),
    ];
    for (text, message) in rows {
        let error = judged(&text).expect_err(&text);
        assert!(error.contains(message), "{text}\n{error}\nwanted: {message}");
    }
}

#[test]
fn a_hardware_address_is_one_interface() {
    assert_eq!("52:54:00:AB:cd:01".parse::<Mac>().unwrap().to_string(), "52:54:00:ab:cd:01");
    for text in [
        "",
        "52:54:00:ab:cd",
        "52:54:00:ab:cd:01:02",
        "5:54:0:ab:cd:001",
        "+2:54:00:ab:cd:01",
        "00:00:00:00:00:00",
    ] {
        assert!(text.parse::<Mac>().is_err(), "{text}");
    }
}
