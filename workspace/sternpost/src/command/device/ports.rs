//! The wired ports of this machine, as the kernel shows them; and which of those that a bootstrap names are not there.

use super::state::PortName;
use std::collections::BTreeSet;
use std::path::Path;

/// Where the kernel shows interfaces.
pub(crate) const INTERFACES: &str = "/sys/class/net";
/// Where the device manager keeps what it knows of each.
pub(crate) const DEVICE_DATA: &str = "/run/udev/data";
/// `ARPHRD_ETHER` of the kernel.
const ETHERNET: &str = "1";
/// The other names of an interface, by which the network daemon finds it too.
const OTHER_NAMES: [&str; 3] = ["ID_NET_NAME_ONBOARD", "ID_NET_NAME_SLOT", "ID_NET_NAME_PATH"];

/// A wired port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) other_names: BTreeSet<String>,
    /// Its own, also while it belongs to a bond.
    pub(crate) mac: String,
    pub(crate) link: LinkState,
}

/// What is at the other end of the cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkState {
    Up,
    Down,
    /// Nobody has switched the port on.
    Off,
}

impl LinkState {
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Up => "link up",
            Self::Down => "no link",
            Self::Off => "not in use",
        }
    }
}

/// All wired ports by name. What the kernel does not say is left out.
pub(crate) fn all(interfaces: &Path, device_data: &Path) -> Vec<Port> {
    let Ok(entries) = std::fs::read_dir(interfaces) else { return Vec::new() };
    let mut ports: Vec<Port> =
        entries.flatten().filter_map(|entry| port(&entry.path(), device_data)).collect();
    ports.sort_by(|one, other| one.name.cmp(&other.name));
    ports
}

fn port(folder: &Path, device_data: &Path) -> Option<Port> {
    let read = |name: &str| Some(std::fs::read_to_string(folder.join(name)).ok()?.trim().to_owned());
    // What is made of other interfaces has no hardware behind it; what is wireless says so.
    if !folder.join("device").exists() || folder.join("wireless").exists() || read("type")? != ETHERNET {
        return None;
    }
    let data =
        std::fs::read_to_string(device_data.join(format!("n{}", read("ifindex")?))).unwrap_or_default();
    let other_names = OTHER_NAMES.into_iter().filter_map(|key| property(&data, key));
    Some(Port {
        name: folder.file_name()?.to_str()?.to_owned(),
        other_names: other_names.map(str::to_owned).collect(),
        mac: read("bonding_slave/perm_hwaddr").or_else(|| read("address"))?,
        link: match read("carrier").as_deref() {
            Some("1") => LinkState::Up,
            Some(_) => LinkState::Down,
            // The kernel refuses to read it while the port is off.
            None => LinkState::Off,
        },
    })
}

/// A property of a file of the device manager's data.
pub(super) fn property<'a>(data: &'a str, key: &str) -> Option<&'a str> {
    data.lines().find_map(|line| line.strip_prefix("E:")?.strip_prefix(key)?.strip_prefix('='))
}

/// A problem for each port that a bootstrap names and the machine does not have, which names those that it has.
pub(crate) fn missing(wanted: &[PortName], ports: &[Port]) -> Vec<String> {
    let has = |wanted: &PortName| {
        ports.iter().any(|port| match (&wanted.mac, &wanted.name) {
            (Some(mac), _) => port.mac.eq_ignore_ascii_case(mac),
            (None, Some(name)) => port.name == *name || port.other_names.contains(name),
            (None, None) => true,
        })
    };
    let names: Vec<_> = ports.iter().map(|port| format!("{} {}", port.name, port.mac)).collect();
    let has_words = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let problem = |wanted: &PortName| {
        let what = wanted.mac.as_ref().or(wanted.name.as_ref()).map_or("", String::as_str);
        format!(
            "this device has no port {what}, which [network] of the bootstrap names; it has: {has_words}; correct the bootstrap and start the machine again"
        )
    };
    wanted.iter().filter(|wanted| !has(wanted)).map(problem).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(root: &Path, name: &str, files: &[(&str, &str)]) {
        let folder = root.join(name);
        std::fs::create_dir(&folder).unwrap();
        for (name, text) in files {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("{text}\n")).unwrap();
        }
    }

    #[test]
    fn wired_ports_are_listed_with_their_own_address_and_what_is_at_their_cable() {
        let folder = tempfile::tempdir().unwrap();
        let (root, data) = (folder.path().join("net"), folder.path().join("data"));
        std::fs::create_dir_all(&root).unwrap();
        std::fs::create_dir_all(&data).unwrap();
        let hardware = |index: &'static str, mac: &'static str| {
            [("device/vendor", "0x1af4"), ("type", "1"), ("ifindex", index), ("address", mac)]
        };
        interface(&root, "eno1", &[&hardware("2", "52:54:00:00:00:01")[..], &[("carrier", "1")]].concat());
        interface(&root, "enp2s0", &[&hardware("3", "52:54:00:00:00:02")[..], &[("carrier", "0")]].concat());
        let member = [("bonding_slave/perm_hwaddr", "52:54:00:00:00:03")];
        interface(&root, "enp3s0", &[&hardware("4", "52:54:00:00:00:02")[..], &member].concat());
        interface(&root, "wlan0", &[&hardware("5", "52:54:00:00:00:05")[..], &[("wireless/x", "")]].concat());
        interface(&root, "bond0", &[("type", "1"), ("ifindex", "6"), ("address", "52:54:00:00:00:02")]);
        interface(&root, "lo", &[("type", "772"), ("ifindex", "1"), ("address", "00:00:00:00:00:00")]);
        std::fs::write(data.join("n2"), "I:1\nE:ID_NET_NAME_PATH=enp1s0\nE:ID_NET_NAME_MAC=enx1\n").unwrap();
        let ports = all(&root, &data);
        let shown: Vec<_> =
            ports.iter().map(|port| format!("{} {} {}", port.name, port.mac, port.link.words())).collect();
        let wanted = [
            "eno1 52:54:00:00:00:01 link up",
            "enp2s0 52:54:00:00:00:02 no link",
            "enp3s0 52:54:00:00:00:03 not in use",
        ];
        assert_eq!(shown, wanted);
        assert_eq!(all(&folder.path().join("no"), &data), []);

        let named = |name: &str| PortName { name: Some(name.into()), mac: None };
        let with_mac = |mac: &str| PortName { name: Some("outside".into()), mac: Some(mac.into()) };
        let there = [named("eno1"), named("enp1s0"), with_mac("52:54:00:00:00:03")];
        assert_eq!(missing(&there, &ports), Vec::<String>::new());
        let problems = missing(&[named("eth0"), with_mac("52:54:00:00:00:09")], &ports);
        assert_eq!(problems.len(), 2);
        assert!(problems[0].starts_with("this device has no port eth0, which [network]"), "{problems:?}");
        assert!(problems[0].contains("it has: eno1 52:54:00:00:00:01, enp2s0 "), "{problems:?}");
        assert!(problems[1].starts_with("this device has no port 52:54:00:00:00:09"), "{problems:?}");
    }
}
