//! The example tree that `sternpost provision init` writes and the demonstration loads.

use crate::ldif::push_line;
use crate::{DomainPattern, Network};
use std::net::SocketAddr;

/// The template, as it stands in `provisioning/example/site.ldif`.
pub const EXAMPLE_LDIF: &str = include_str!("../../../provisioning/example/site.ldif");

/// What a site says about itself.
#[derive(Clone, Debug)]
pub struct ExampleParameters {
    /// The node's `cn`: its identity in the bootstrap. Letters, digits, dots, hyphens and underscores.
    pub node: String,
    /// The node's domain name.
    pub hostname: String,
    /// Where clients connect.
    pub listener: SocketAddr,
    /// Where mail for `smtp_domains` goes.
    pub smtp_peer: SocketAddr,
    /// Where mail for `lmtp_domains` goes.
    pub lmtp_peer: SocketAddr,
    /// Domains of the SMTP peer, at least one.
    pub smtp_domains: Vec<DomainPattern>,
    /// Domains of the LMTP peer, at least one.
    pub lmtp_domains: Vec<DomainPattern>,
}

/// What a site may say besides.
#[derive(Clone, Debug, Default)]
pub struct ExampleAdditions {
    /// Other names of the node, such as the serial number of its machine. One line each, without an at sign.
    pub identities: Vec<String>,
    /// Further addresses where clients connect.
    pub listeners: Vec<SocketAddr>,
    /// Clients that may send out, besides this machine.
    pub client_networks: Vec<Network>,
}

/// The example tree below `base_dn` (which it does not make), as LDIF (RFC 2849).
#[must_use]
pub fn example_tree(base_dn: &str, parameters: &ExampleParameters) -> String {
    example_tree_with(base_dn, parameters, &ExampleAdditions::default())
}

/// As [`example_tree`], with additions.
#[must_use]
pub fn example_tree_with(
    base_dn: &str,
    parameters: &ExampleParameters,
    additions: &ExampleAdditions,
) -> String {
    let text = |pattern: &DomainPattern| pattern.to_string();
    let smtp_domains: Vec<String> = parameters.smtp_domains.iter().map(text).collect();
    let lmtp_domains: Vec<String> = parameters.lmtp_domains.iter().map(text).collect();
    let listeners = std::iter::once(&parameters.listener).chain(&additions.listeners);
    let listeners: Vec<String> = listeners.map(ToString::to_string).collect();
    let client_networks: Vec<String> = additions.client_networks.iter().map(ToString::to_string).collect();
    let single = [
        ("@BASE_DN@", base_dn.to_owned()),
        ("@NODE@", parameters.node.clone()),
        ("@HOSTNAME@", parameters.hostname.clone()),
        ("@SMTP_PEER@", parameters.smtp_peer.to_string()),
        ("@LMTP_PEER@", parameters.lmtp_peer.to_string()),
    ];
    let mut out = String::with_capacity(EXAMPLE_LDIF.len() * 2);
    for line in EXAMPLE_LDIF.lines() {
        let lists = [
            ("@IDENTITY@", &additions.identities),
            ("@LISTENER@", &listeners),
            ("@CLIENT_NETWORK@", &client_networks),
            ("@SMTP_DOMAIN@", &smtp_domains),
            ("@LMTP_DOMAIN@", &lmtp_domains),
        ];
        if let Some((placeholder, values)) =
            lists.into_iter().find(|(placeholder, _)| line.contains(placeholder))
        {
            // A line with a list is written once for each of its values, and not at all where there is none.
            for value in values {
                push_line(&mut out, &line.replace(placeholder, value));
            }
            continue;
        }
        let line = single
            .iter()
            .fold(line.to_owned(), |line, (placeholder, value)| line.replace(placeholder, value));
        push_line(&mut out, &line);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_placeholder_is_left_and_each_domain_has_its_line() {
        let pattern = |text: &str| text.parse::<DomainPattern>().unwrap();
        let tree = example_tree(
            "dc=lab",
            &ExampleParameters {
                node: "relay-1".into(),
                hostname: "relay.example".into(),
                listener: "127.0.0.1:2525".parse().unwrap(),
                smtp_peer: "127.0.0.1:2526".parse().unwrap(),
                lmtp_peer: "127.0.0.1:2527".parse().unwrap(),
                smtp_domains: vec![pattern("out.example"), pattern(".out.example")],
                lmtp_domains: vec![pattern("пример.рф")],
            },
        );
        assert!(!tree.contains('@'), "{tree}");
        assert!(tree.contains("sternpostDomain: out.example\nsternpostDomain: .out.example\n"));
        assert!(tree.contains("sternpostDomain:: 0L/RgNC40LzQtdGALtGA0YQ="), "{tree}");
    }
}
