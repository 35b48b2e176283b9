//! `sternpost device firewall`: the packet filter of the device. Nothing comes in but what the network itself needs and
//! connections to the listeners that are configured.
//!
//! Run by a unit whenever the supervisor's `listeners.json` changes. The rules are made of addresses and ports alone: no text of
//! the configuration gets into them. They replace the ones before in one step. `--base` are the rules for the time when
//! no listener is known; the image's `firewall-base.nft`, which is in force before the network is up, is what it prints.

use super::{CommandResult, DeviceError};
use crate::place;
use crate::supervisor::listeners_file::{CHANGED_FILE, LISTENERS_FILE, Listeners};
use crate::{logging, output};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

/// Far more than the listeners of any node take.
const LISTENERS_OCTETS_MAX: u64 = 1 << 20;

/// Which rules, and for whom.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The folder with the supervisor's listeners.json; without that file nothing is open
    #[arg(long, value_name = "FOLDER", default_value = crate::bootstrap::RUN_DIRECTORY_DEFAULT)]
    run_directory: PathBuf,
    /// The program that takes the rules
    #[arg(long, value_name = "FILE", default_value = "/usr/sbin/nft")]
    nft: PathBuf,
    /// The rules for the time when no listener is known
    #[arg(long)]
    base: bool,
    /// Print the rules instead of putting them into force
    #[arg(long)]
    print: bool,
}

/// Puts the rules into force.
///
/// # Errors
/// `Read`, `Listeners`, `Filter`: what was in force stays.
pub(crate) fn run(arguments: &Arguments) -> CommandResult {
    if !arguments.base && !arguments.print {
        forget_change(arguments)?;
    }
    let open = if arguments.base { BTreeSet::new() } else { listening(arguments)? };
    let rules = rules(&open);
    if arguments.print {
        output::print(&rules);
        return Ok(ExitCode::SUCCESS);
    }
    logging::start("firewall");
    apply(arguments, &rules)?;
    let open: Vec<_> = open.iter().map(ToString::to_string).collect();
    tracing::info!(event = "device.firewall", open = open.join(" "), "the packet filter is in force");
    Ok(ExitCode::SUCCESS)
}

/// Takes the mark of a change away before the listeners are read: one that comes later leaves a new mark.
fn forget_change(arguments: &Arguments) -> Result<(), DeviceError> {
    let path = arguments.run_directory.join(CHANGED_FILE);
    match std::fs::remove_file(&path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(DeviceError::Read { path, source })
        }
        _ => Ok(()),
    }
}

/// Where the switch listens.
fn listening(arguments: &Arguments) -> Result<BTreeSet<SocketAddr>, DeviceError> {
    let path = arguments.run_directory.join(LISTENERS_FILE);
    let text = place::read_text(&path, LISTENERS_OCTETS_MAX)
        .map_err(|source| DeviceError::Read { path: path.clone(), source })?;
    let Some(text) = text else { return Ok(BTreeSet::new()) };
    let listeners: Listeners =
        serde_json::from_str(&text).map_err(|source| DeviceError::Listeners { path, source })?;
    Ok(listeners.listeners.iter().map(|open| SocketAddr::new(open.address, open.port)).collect())
}

/// Gives the rules to `nft`, which takes all of them or none.
fn apply(arguments: &Arguments, rules: &str) -> Result<(), DeviceError> {
    let failed = |error: std::io::Error| DeviceError::Filter {
        what: format!("{} cannot be used: {error}", arguments.nft.display()),
    };
    let mut child = Command::new(&arguments.nft)
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    // It reads all before it says anything: neither of the two waits for the other.
    let written = child.stdin.take().map_or(Ok(()), |mut input| input.write_all(rules.as_bytes()));
    let output = child.wait_with_output().map_err(failed)?;
    if !output.status.success() {
        let what = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(DeviceError::Filter { what: format!("{}: {}", output.status, output::printable(&what)) });
    }
    written.map_err(failed)
}

/// The rules that let in connections to these places.
fn rules(open: &BTreeSet<SocketAddr>) -> String {
    let mut listeners = String::new();
    // The loopback interface is open as a whole.
    for place in open.iter().filter(|place| !place.ip().is_loopback()) {
        let port = place.port();
        let matched = match place.ip() {
            IpAddr::V4(four) if four.is_unspecified() => "meta nfproto ipv4".to_owned(),
            IpAddr::V6(six) if six.is_unspecified() => "meta nfproto ipv6".to_owned(),
            IpAddr::V4(four) => format!("ip daddr {four}"),
            IpAddr::V6(six) => format!("ip6 daddr {six}"),
        };
        let _ = writeln!(listeners, "        {matched} tcp dport {port} accept");
    }
    format!("{HEAD}{listeners}{TAIL}")
}

/// The table is made, so that deleting it never fails, and then replaced: `nft` does all of it in one step.
const HEAD: &str = "# Made by sternpost device firewall: nothing comes in but what the network itself needs, and connections to the
# listeners that are configured. Taken as a whole, or not at all.
table inet sternpost
delete table inet sternpost
table inet sternpost {
    chain input {
        type filter hook input priority filter; policy drop;
        ct state established,related accept
        ct state invalid drop
        iifname \"lo\" accept
        # An address is reached through its own interface alone.
        fib daddr . iif type != { local, broadcast, multicast } drop
        icmp type { destination-unreachable, time-exceeded, parameter-problem } accept
        icmp type echo-request limit rate 10/second burst 20 packets accept
        icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem } accept
        icmpv6 type { nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } ip6 hoplimit 255 accept
        icmpv6 type mld-listener-query accept
        icmpv6 type echo-request limit rate 10/second burst 20 packets accept
        udp sport 67 udp dport 68 accept
        udp sport 547 udp dport 546 accept
";

const TAIL: &str = "    }
    chain forward {
        type filter hook forward priority filter; policy drop;
    }
}
";

#[cfg(test)]
mod tests {
    use super::*;

    fn places(places: &[&str]) -> BTreeSet<SocketAddr> {
        places.iter().map(|place| place.parse().unwrap()).collect()
    }

    #[test]
    fn the_listeners_are_open_and_nothing_else() {
        let rules = rules(&places(&[
            "[::]:25",
            "0.0.0.0:25",
            "192.0.2.1:587",
            "[2001:db8::1]:26",
            "127.0.0.1:24",
            "[::1]:24",
        ]));
        let listeners = "        meta nfproto ipv4 tcp dport 25 accept\n        ip daddr 192.0.2.1 tcp dport 587 accept\n        \
                         meta nfproto ipv6 tcp dport 25 accept\n        ip6 daddr 2001:db8::1 tcp dport 26 accept\n";
        assert_eq!(rules, format!("{HEAD}{listeners}{TAIL}"));
    }

    #[test]
    fn the_images_rules_for_the_start_are_these() {
        let file = include_str!("../../../../../image/overlay/usr/share/sternpost/firewall-base.nft");
        assert_eq!(file, rules(&BTreeSet::new()), "write it with: sternpost device firewall --base --print");
    }
}
