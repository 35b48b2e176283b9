//! The tables of a site, built from what a test says about it.

use std::fmt::Write;
use std::net::SocketAddr;

/// A site: one node, one listener, channels `smtp` and `lmtp`, and the peers that a test adds.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    client_networks: &'static str,
    node: String,
    listener: String,
    channel: String,
    qmgr: String,
    reports: String,
    peers: String,
}

impl Site {
    /// A site without peers that tries again after one second, and lets every client of this machine in.
    pub(crate) fn new() -> Self {
        Self {
            client_networks: "client_networks = [\"127.0.0.0/8\"]\n",
            node: String::new(),
            listener: String::new(),
            channel: String::new(),
            qmgr: "retry_step_s = 1\nretry_max_s = 1\n".into(),
            reports: String::new(),
            peers: String::new(),
        }
    }

    /// Adds a peer and the routes to it.
    pub(crate) fn peer(self, name: &str, channel: &str, address: SocketAddr, domains: &[&str]) -> Self {
        self.peer_with(name, channel, address, domains, "")
    }

    /// Adds a peer with further lines of its table.
    pub(crate) fn peer_with(
        mut self,
        name: &str,
        channel: &str,
        address: SocketAddr,
        domains: &[&str],
        lines: &str,
    ) -> Self {
        write!(
            self.peers,
            "\n[[peer]]\nname = \"{name}\"\nchannel = \"{channel}\"\naddress = \"{address}\"\n{lines}\n\
             [[route]]\npeer = \"{name}\"\ndomain = {domains:?}\n"
        )
        .expect("a String takes every text");
        self
    }

    /// Adds a peer that stands for domains, whose hosts this name server names, and the routes to it.
    pub(crate) fn peer_by_dns(
        mut self,
        name: &str,
        name_server: SocketAddr,
        domains: &[&str],
        lines: &str,
    ) -> Self {
        self.node = format!("name_servers = [\"{name_server}\"]\ndns_timeout_s = 1\n");
        write!(
            self.peers,
            "\n[[peer]]\nname = \"{name}\"\nchannel = \"smtp\"\nnext_hop = \"dns\"\n{lines}\n\
             [[route]]\npeer = \"{name}\"\ndomain = {domains:?}\n"
        )
        .expect("a String takes every text");
        self
    }

    /// Adds a peer that is a group of hosts, and the routes to it.
    pub(crate) fn group(mut self, name: &str, domains: &[&str], hosts: &[String]) -> Self {
        write!(
            self.peers,
            "\n[[peer]]\nname = \"{name}\"\nchannel = \"smtp\"\nnext_hop = \"group\"\ngroup_hosts = {hosts:?}\n\n\
             [[route]]\npeer = \"{name}\"\ndomain = {domains:?}\n"
        )
        .expect("a String takes every text");
        self
    }

    /// Adds a line to the listener's table.
    pub(crate) fn listener(mut self, line: &str) -> Self {
        self.listener.push_str(line);
        self.listener.push('\n');
        self
    }

    /// Adds a line to the tables of both channels.
    pub(crate) fn channel(mut self, line: &str) -> Self {
        self.channel.push_str(line);
        self.channel.push('\n');
        self
    }

    /// Puts other lines in the place of QMGR's.
    pub(crate) fn qmgr(mut self, lines: &str) -> Self {
        lines.clone_into(&mut self.qmgr);
        self
    }

    /// Adds lines to the table of reports, or tables of report texts behind it.
    pub(crate) fn reports(mut self, lines: &str) -> Self {
        self.reports.push_str(lines);
        self
    }

    /// Lists no client.
    pub(crate) fn without_client_networks(mut self) -> Self {
        self.client_networks = "";
        self
    }

    /// The tables.
    pub(crate) fn tables(&self) -> String {
        let Self { client_networks, node, listener, channel, qmgr, reports, peers } = self;
        format!(
            "[node]\nhostname = \"switch.test\"\npostmaster = \"postmaster@sender.test\"\n{node}\n\
             [[listener]]\nname = \"inbound\"\naddresses = [\"127.0.0.1:0\"]\n{client_networks}{listener}\n\
             [[channel]]\nname = \"smtp\"\nkind = \"smtp\"\n{channel}\n\
             [[channel]]\nname = \"lmtp\"\nkind = \"lmtp\"\n{channel}\n[qmgr]\n{qmgr}\n[reports]\n{reports}\n{peers}"
        )
    }
}
