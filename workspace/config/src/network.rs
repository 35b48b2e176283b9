//! Networks in the notation of RFC 4632 and RFC 4291: an address, a slash, the length of the prefix.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use sternpost_message::{Precedence, PriorityError};

/// A set of addresses with a common prefix. IPv4-mapped IPv6 addresses count as the IPv4 addresses that they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    address: IpAddr,
    /// 0 to 32 or 128, by family.
    prefix: u8,
}

/// Why a network was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// Not an address before the slash.
    #[error("a network is an address and a prefix length, such as 192.0.2.0/24 or 2001:db8::/32")]
    Address,
    /// Longer than the address.
    #[error("the prefix length is at most 32 for IPv4 and 128 for IPv6")]
    Prefix,
    /// Bits behind the prefix: the author meant something else.
    #[error("the address has bits behind the prefix length: the network is another one than it seems")]
    HostBits,
}

impl Network {
    /// The network of one `prefix` length that begins at `address`.
    ///
    /// # Errors
    /// `Prefix` when it is longer than the address, `HostBits` when the address has bits behind it.
    pub fn new(address: IpAddr, prefix: u8) -> Result<Self, NetworkError> {
        let (bits, octets) = bits_of(address);
        if prefix > octets * 8 {
            return Err(NetworkError::Prefix);
        }
        if masked(bits, prefix) != bits {
            return Err(NetworkError::HostBits);
        }
        Ok(Self { address, prefix })
    }

    /// Whether `address` is in the network.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let (network, network_octets) = bits_of(self.address);
        let (bits, octets) = bits_of(address.to_canonical());
        network_octets == octets && masked(bits, self.prefix) == network
    }
}

/// The address left-aligned in 128 bits, and its length in octets.
fn bits_of(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, 4),
        IpAddr::V6(address) => (address.to_bits(), 16),
    }
}

fn masked(bits: u128, prefix: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).map_or(0, |mask| bits & mask)
}

impl FromStr for Network {
    type Err = NetworkError;

    /// `address/prefix`, or an address alone for itself.
    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, prefix) =
            text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().map_err(|_| NetworkError::Address)?;
        let (_, octets) = bits_of(address);
        let mut prefix = match prefix {
            None => octets * 8,
            Some(digits) if digits.bytes().all(|octet| octet.is_ascii_digit()) => {
                digits.parse().map_err(|_| NetworkError::Prefix)?
            }
            Some(_) => return Err(NetworkError::Address),
        };
        // ::ffff:192.0.2.0/120 is 192.0.2.0/24.
        let canonical = address.to_canonical();
        if canonical != address && prefix >= 96 {
            prefix -= 96;
            return Self::new(canonical, prefix);
        }
        Self::new(address, prefix)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl TryFrom<String> for Network {
    type Error = NetworkError;

    fn try_from(text: String) -> Result<Self, NetworkError> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

/// A network whose clients may ask for a precedence, written `192.0.2.0/24 flash`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NetworkPrecedence {
    /// The clients.
    pub network: Network,
    /// The highest precedence that they may ask for.
    pub precedence: Precedence,
}

/// Why a network with a precedence was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkPrecedenceError {
    /// Not two words.
    #[error("a grant is a network and a precedence with a blank between, such as 192.0.2.0/24 flash")]
    Words,
    /// The first word.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The second word.
    #[error(transparent)]
    Precedence(#[from] PriorityError),
}

impl FromStr for NetworkPrecedence {
    type Err = NetworkPrecedenceError;

    fn from_str(text: &str) -> Result<Self, NetworkPrecedenceError> {
        let mut words = text.split_ascii_whitespace();
        let (Some(network), Some(precedence), None) = (words.next(), words.next(), words.next()) else {
            return Err(NetworkPrecedenceError::Words);
        };
        Ok(Self { network: network.parse()?, precedence: precedence.parse()? })
    }
}

impl fmt::Display for NetworkPrecedence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.network, self.precedence)
    }
}

impl TryFrom<String> for NetworkPrecedence {
    type Error = NetworkPrecedenceError;

    fn try_from(text: String) -> Result<Self, NetworkPrecedenceError> {
        text.parse()
    }
}

impl From<NetworkPrecedence> for String {
    fn from(grant: NetworkPrecedence) -> Self {
        grant.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_address_is_in_the_networks_that_share_its_prefix() {
        let rows = [
            ("192.0.2.0/24", "192.0.2.255", true),
            ("192.0.2.0/24", "192.0.3.0", false),
            ("192.0.2.0/24", "::ffff:192.0.2.7", true),
            ("::ffff:192.0.2.0/120", "192.0.2.7", true),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("::/0", "2001:db8::1", true),
            ("::/0", "::ffff:192.0.2.7", false),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
        ];
        for (network, address, inside) in rows {
            let network: Network = network.parse().unwrap();
            assert_eq!(network.contains(address.parse().unwrap()), inside, "{network} {address}");
        }
    }

    #[test]
    fn a_grant_is_a_network_and_a_precedence() {
        let grant: NetworkPrecedence = "192.0.2.0/24 \t flash".parse().unwrap();
        assert_eq!((grant.precedence, grant.to_string().as_str()), (Precedence::Flash, "192.0.2.0/24 flash"));
        for text in
            ["192.0.2.0/24", "flash 192.0.2.0/24", "192.0.2.1/24 flash", "192.0.2.0/24 FLASH", "::/0 flash x"]
        {
            assert!(text.parse::<NetworkPrecedence>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_network_is_refused_with_a_reason() {
        let rows = [
            ("192.0.2.1/24", NetworkError::HostBits),
            ("192.0.2.0/33", NetworkError::Prefix),
            ("192.0.2.0/999", NetworkError::Prefix),
            ("192.0.2.0/", NetworkError::Prefix),
            ("192.0.2.0/+8", NetworkError::Address),
            ("::/129", NetworkError::Prefix),
            ("example.org", NetworkError::Address),
            ("", NetworkError::Address),
        ];
        for (text, error) in rows {
            assert_eq!(text.parse::<Network>(), Err(error), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_network_reads_back_and_contains_its_own_address(bits: u32, prefix in 0u8..=32) {
            let first = if prefix == 0 { 0 } else { bits & (u32::MAX << (32 - prefix)) };
            let network = Network::new(std::net::Ipv4Addr::from_bits(first).into(), prefix).unwrap();
            prop_assert_eq!(network.to_string().parse::<Network>(), Ok(network));
            prop_assert!(network.contains(std::net::Ipv4Addr::from_bits(bits).into()));
        }

        #[test]
        fn any_text_gives_a_network_or_an_error(text in "[0-9a-f.:/]{0,24}") {
            let _ = text.parse::<Network>();
        }
    }
}
