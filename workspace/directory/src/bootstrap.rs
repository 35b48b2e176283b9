//! What must be known before the directory can be read.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// Where the directory is and how the node shows who it is. One small file, or a table of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bootstrap {
    /// `ldaps://host[:port]` or `ldap://host[:port]`, tried in this order. At least one.
    pub uris: Vec<String>,
    /// The certificates (PEM) that vouch for the servers. Required for TLS: the system's own are never used.
    #[serde(default)]
    pub trust_anchor: Option<PathBuf>,
    /// Who the node is to the directory.
    pub bind: Bind,
    /// Whether `ldap://` goes over to TLS before anything is said. RFC 4511, 4.14.
    #[serde(default)]
    pub start_tls: bool,
    /// Whether `ldap://` may stay without TLS. Only to a loopback address, whatever stands here.
    #[serde(default)]
    pub allow_plaintext: bool,
    /// The entry below which everything of ours stands.
    pub base_dn: String,
    /// The node's identity: the `cn` or a `sternpostIdentity` of its entry.
    #[serde(default)]
    pub node: String,
    /// How long things may take.
    #[serde(default)]
    pub timings: Timings,
}

/// How the node shows who it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Bind {
    /// A name and a password. RFC 4513, 5.1.3.
    Simple {
        /// The name.
        dn: String,
        /// The file whose first line is the password. Read for each bind, so that it may be replaced.
        password_file: PathBuf,
    },
    /// SASL EXTERNAL with a certificate. RFC 4513, 5.2.3. Needs TLS.
    External {
        /// The certificate and those that vouch for it (PEM).
        certificate: PathBuf,
        /// Its key (PEM).
        key: PathBuf,
    },
}

/// How long things may take, in milliseconds. The defaults suit a directory across a wide-area network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timings {
    /// Connection, TLS and bind together. Default 10,000.
    pub connect_timeout_ms: u64,
    /// How often the server is asked for a sign of life. Default 10,000.
    pub whoami_interval_ms: u64,
    /// How long it may take to give one. Default 5,000.
    pub whoami_timeout_ms: u64,
    /// How long reading all entries may take in all. Default 60,000.
    pub refresh_timeout_ms: u64,
    /// How often a server without RFC 4533 is read. Default 30,000.
    pub poll_interval_ms: u64,
    /// The wait after all servers failed once; doubled each time. Default 500.
    pub retry_ms_min: u64,
    /// Its bound. Default 30,000.
    pub retry_ms_max: u64,
    /// A set is handed over when nothing changed for so long. Default 300.
    pub quiet_ms: u64,
    /// It is handed over at the latest so long after its first change. Default 1,500.
    pub change_ms_max: u64,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            connect_timeout_ms: 10_000,
            whoami_interval_ms: 10_000,
            whoami_timeout_ms: 5_000,
            refresh_timeout_ms: 60_000,
            poll_interval_ms: 30_000,
            retry_ms_min: 500,
            retry_ms_max: 30_000,
            quiet_ms: 300,
            change_ms_max: 1_500,
        }
    }
}

impl Timings {
    /// The name of a time that is zero and would make the watch busy; none is the good answer.
    pub(crate) fn zero(&self) -> Option<&'static str> {
        [
            ("connect_timeout_ms", self.connect_timeout_ms),
            ("whoami_interval_ms", self.whoami_interval_ms),
            ("whoami_timeout_ms", self.whoami_timeout_ms),
            ("refresh_timeout_ms", self.refresh_timeout_ms),
            ("poll_interval_ms", self.poll_interval_ms),
            ("retry_ms_min", self.retry_ms_min),
            ("retry_ms_max", self.retry_ms_max),
        ]
        .into_iter()
        .find_map(|(name, milliseconds)| (milliseconds == 0).then_some(name))
    }

    pub(crate) const fn quiet(&self) -> Duration {
        Duration::from_millis(self.quiet_ms)
    }

    pub(crate) const fn change_max(&self) -> Duration {
        Duration::from_millis(self.change_ms_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_an_installer_is_read() {
        let text = r#"
            uris = ["ldaps://192.0.2.1", "ldaps://192.0.2.2"]
            trust_anchor = "/etc/sternpost/ca.pem"
            bind = { simple = { dn = "cn=relay-1,dc=example", password_file = "/etc/sternpost/password" } }
            base_dn = "ou=sternpost,dc=example"
            node = "relay-1"
        "#;
        let bootstrap: Bootstrap = toml::from_str(text).unwrap();
        assert_eq!(bootstrap.timings, Timings::default());
        assert!(!bootstrap.allow_plaintext);
        assert!(matches!(bootstrap.bind, Bind::Simple { .. }));
        assert_eq!(toml::from_str::<Bootstrap>(&toml::to_string(&bootstrap).unwrap()).unwrap(), bootstrap);
        assert!(toml::from_str::<Bootstrap>(&text.replace("node =", "nod =")).is_err());
    }
}
