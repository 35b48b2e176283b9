//! The null hop: where the switch's own probe goes instead of to a peer MTA.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;

/// A next hop that no configuration names: a port of this machine, served by the process that sent the probe and for
/// as long as it waits. A route names it as its peer, `null:PORT`. The address is the loopback's whatever the name
/// says, so that nobody can make a channel connect to anywhere else by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NullHop(NonZeroU16);

impl NullHop {
    /// What a route's peer begins with when it is a null hop. No configured peer has such a name: names have no colon.
    pub const PREFIX: &str = "null:";

    /// The age at which a probe is given up, in milliseconds. Who sent it has long gone.
    pub const EXPIRES_AFTER_MS: u64 = 60_000;

    /// The null hop at this port.
    #[must_use]
    pub const fn new(port: NonZeroU16) -> Self {
        Self(port)
    }

    /// The null hop that a route's peer is; none when the peer is a configured one.
    #[must_use]
    pub fn of_peer(peer: &str) -> Option<Self> {
        let port = peer.strip_prefix(Self::PREFIX)?;
        let is_plain = !port.starts_with('0') && port.bytes().all(|octet| octet.is_ascii_digit());
        if is_plain { port.parse().ok().map(Self) } else { None }
    }

    /// The peer of a route to it.
    #[must_use]
    pub fn peer(self) -> String {
        format!("{}{}", Self::PREFIX, self.0)
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(self) -> SocketAddr {
        SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), self.0.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_null_hop_is_named_by_its_port_and_is_on_this_machine_alone() {
        let hop = NullHop::of_peer("null:2525").unwrap();
        assert_eq!(hop.peer(), "null:2525");
        assert_eq!(hop.address(), "127.0.0.1:2525".parse().unwrap());
        assert!(hop.address().ip().is_loopback());
        for other in [
            "",
            "null",
            "null:",
            "null:0",
            "null:025",
            "null:+25",
            "null:65536",
            "null:25 ",
            "NULL:25",
            "null:192.0.2.1:25",
            "mta",
        ] {
            assert_eq!(NullHop::of_peer(other), None, "{other}");
        }
    }
}
