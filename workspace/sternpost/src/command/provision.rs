//! `sternpost provision`: what an installer loads into the directory.

use super::CommandResult;
use crate::output;
use serde_json::json;
use std::net::SocketAddr;
use std::process::ExitCode;
use sternpost_config::{
    DomainPattern, ExampleAdditions, ExampleParameters, Network, SCHEMA_LDIF, example_tree_with,
    schema_update_ldif,
};

/// What is written.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Write the schema as LDIF for OpenLDAP's cn=config
    #[command(
        after_help = "Examples:\n  sternpost provision schema | ldapadd -H ldapi:/// -Y EXTERNAL\n  sternpost provision schema --update 'cn={4}sternpost,cn=schema,cn=config' | ldapmodify -H ldapi:/// -Y EXTERNAL"
    )]
    Schema {
        /// Write a modification that brings the older schema of this name up to date
        #[arg(long, value_name = "DN", value_parser = base_dn)]
        update: Option<String>,
        /// Print {"ldif": …}
        #[arg(long)]
        json: bool,
    },
    /// Write an example tree as LDIF: one node, one listener, an SMTP and an LMTP peer, their routes
    #[command(
        after_help = "Example:\n  sternpost provision init --base-dn dc=example,dc=org --node north --hostname mx.example.org \\\n    --smtp-peer 192.0.2.1:25 --smtp-domain example.net --lmtp-peer 127.0.0.1:24 --lmtp-domain example.org"
    )]
    Init(Box<Init>),
}

/// The example's values.
#[derive(Debug, clap::Args)]
pub(crate) struct Init {
    /// The entry below which the tree is made; it must exist
    #[arg(long, value_name = "DN", value_parser = base_dn)]
    base_dn: String,
    /// The node's name
    #[arg(long, value_parser = node_name)]
    node: String,
    /// The node's domain name
    #[arg(long, value_parser = domain_name)]
    hostname: String,
    /// Another name of the node: the serial number of its machine; may be repeated
    #[arg(long, value_name = "TEXT", value_parser = identity)]
    identity: Vec<String>,
    /// Where clients connect; may be repeated, for example for `[::]:25`
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:25")]
    listener: Vec<SocketAddr>,
    /// Clients that may send to every domain, besides the machine itself; may be repeated
    #[arg(long, value_name = "ADDRESS/PREFIX")]
    client_network: Vec<Network>,
    /// Where mail for the SMTP domains goes
    #[arg(long, value_name = "ADDRESS:PORT")]
    smtp_peer: SocketAddr,
    /// Where mail for the LMTP domains goes
    #[arg(long, value_name = "ADDRESS:PORT")]
    lmtp_peer: SocketAddr,
    /// A domain of the SMTP peer; may be repeated
    #[arg(long, value_name = "DOMAIN", required = true)]
    smtp_domain: Vec<DomainPattern>,
    /// A domain of the LMTP peer; may be repeated
    #[arg(long, value_name = "DOMAIN", required = true)]
    lmtp_domain: Vec<DomainPattern>,
    /// Print {"ldif": …}
    #[arg(long)]
    json: bool,
}

/// Only what stays one line of LDIF and can name an entry.
fn base_dn(text: &str) -> Result<String, String> {
    if text.contains('=') && !text.chars().any(char::is_control) {
        Ok(text.to_owned())
    } else {
        Err("write a DN without control characters, for example dc=example,dc=org".to_owned())
    }
}

/// Only what needs no escape in a DN.
fn node_name(text: &str) -> Result<String, String> {
    let is_plain = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'.' | b'-' | b'_');
    if !text.is_empty() && text.bytes().all(is_plain) {
        Ok(text.to_owned())
    } else {
        Err("a node's name has letters, digits, dots, hyphens and underscores".to_owned())
    }
}

fn identity(text: &str) -> Result<String, String> {
    if text.trim().is_empty() || text.chars().any(|letter| letter.is_control() || letter == '@') {
        Err("an identity is one line without an at sign, such as a serial number".to_owned())
    } else {
        Ok(text.trim().to_owned())
    }
}

fn domain_name(text: &str) -> Result<String, String> {
    match text.parse() {
        Ok(DomainPattern::Exact(name)) => Ok(name),
        _ => Err("write a domain name, for example mx.example.org".to_owned()),
    }
}

/// Prints the LDIF.
pub(crate) fn run(command: Command) -> CommandResult {
    let (ldif, json) = match command {
        Command::Schema { update: None, json } => (SCHEMA_LDIF.to_owned(), json),
        Command::Schema { update: Some(dn), json } => (schema_update_ldif(&dn), json),
        Command::Init(init) => {
            let init = *init;
            let (first, further) = init.listener.split_first().expect("the option has a default");
            let additions = ExampleAdditions {
                identities: init.identity,
                listeners: further.to_vec(),
                client_networks: init.client_network,
            };
            let parameters = ExampleParameters {
                node: init.node,
                hostname: init.hostname,
                listener: *first,
                smtp_peer: init.smtp_peer,
                lmtp_peer: init.lmtp_peer,
                smtp_domains: init.smtp_domain,
                lmtp_domains: init.lmtp_domain,
            };
            (example_tree_with(&init.base_dn, &parameters, &additions), init.json)
        }
    };
    if json {
        output::print_json(&json!({ "ldif": ldif }));
    } else {
        output::print(&ldif);
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_dn_is_one_line_that_names_an_entry() {
        assert_eq!(base_dn("dc=example,dc=org").unwrap(), "dc=example,dc=org");
        for text in ["", "example.org", "dc=example\ndc: x", "dc=exam\u{7f}ple"] {
            assert!(base_dn(text).is_err(), "{text:?}");
        }
    }
}
