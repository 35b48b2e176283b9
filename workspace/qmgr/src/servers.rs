//! Each `smtp-server` that has a link to QMGR, and what it has said last of its connections: after an upgrade the one before goes
//! on with its sessions while the new one accepts, and what an operator sees are both.
//!
//! An `smtp-server` talks to the world and is not believed: one process has one link, there are [`SERVERS_MAX`] of them at most, and of
//! what they say nothing is kept but what is said of listeners of the configuration in force.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use sternpost_link::qmgr::ListenerConnections;

/// So many have a link at a time. Those of executables before leave for ten minutes at most, and a trial takes one: that makes ten
/// beside the one that accepts, and leaves room for some upgrades that wait for no trial.
const SERVERS_MAX: usize = 16;

/// Why one gets no link.
pub(crate) const TOO_MANY: &str = "16 smtp-servers have a link already; if status shows none that leaves after an upgrade, restart the switch";
const _: () = assert!(SERVERS_MAX == 16, "the text says so");

/// All of them, the one that has connected last behind the others.
#[derive(Debug)]
pub(crate) struct Servers<L> {
    servers: Vec<Server<L>>,
    /// The names of the listeners in force.
    listeners: BTreeSet<String>,
}

#[derive(Debug)]
struct Server<L> {
    link: Rc<L>,
    pid: u32,
    /// By the listener's name; nothing until it has said something.
    connections: BTreeMap<String, ListenerConnections>,
}

impl<L> Default for Servers<L> {
    fn default() -> Self {
        Self { servers: Vec::new(), listeners: BTreeSet::new() }
    }
}

impl<L> Servers<L> {
    /// The process `pid` has connected. Gives the link that it had until now, if it had one: it is to be closed.
    ///
    /// # Errors
    /// `TOO_MANY`.
    pub(crate) fn add(&mut self, pid: u32, link: Rc<L>) -> Result<Option<Rc<L>>, &'static str> {
        let before = self.servers.iter().position(|server| server.pid == pid);
        if before.is_none() && self.servers.len() >= SERVERS_MAX {
            return Err(TOO_MANY);
        }
        let before = before.map(|at| self.servers.remove(at).link);
        self.servers.push(Server { link, pid, connections: BTreeMap::new() });
        Ok(before)
    }

    /// One has gone, and its connections with it.
    pub(crate) fn remove(&mut self, link: &L) {
        self.servers.retain(|server| !std::ptr::eq(&raw const *server.link, link));
    }

    pub(crate) fn links(&self) -> impl Iterator<Item = &L> {
        self.servers.iter().map(|server| &*server.link)
    }

    /// These listeners are in force; what was said of others is forgotten.
    pub(crate) fn listen(&mut self, listeners: BTreeSet<String>) {
        self.listeners = listeners;
        for server in &mut self.servers {
            server.connections.retain(|listener, _| self.listeners.contains(listener));
        }
    }

    /// What the server of this link says takes the place of what it said before. Of a listener that it names twice the last word
    /// counts.
    pub(crate) fn said(&mut self, link: &L, connections: Vec<ListenerConnections>) {
        let server = self.servers.iter_mut().find(|server| std::ptr::eq(&raw const *server.link, link));
        if let Some(server) = server {
            let in_force = connections.into_iter().filter(|one| self.listeners.contains(&one.listener));
            server.connections = in_force.map(|one| (one.listener.clone(), one)).collect();
        }
    }

    /// The connections of each listener at all servers together, in the order of their names; how many there may be is what
    /// the last server says, which has the newest view.
    pub(crate) fn connections(&self) -> Vec<ListenerConnections> {
        let mut all: BTreeMap<&str, ListenerConnections> = BTreeMap::new();
        for (listener, one) in self.servers.iter().flat_map(|server| &server.connections) {
            let sum = all.entry(listener).or_default();
            *sum = ListenerConnections {
                urgent: sum.urgent.saturating_add(one.urgent),
                normal: sum.normal.saturating_add(one.normal),
                non_urgent: sum.non_urgent.saturating_add(one.non_urgent),
                refused: sum.refused.saturating_add(one.refused),
                ..one.clone()
            };
        }
        all.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(listener: &str, urgent: u32, max: u32) -> ListenerConnections {
        ListenerConnections {
            listener: listener.into(),
            urgent,
            max,
            refused: 1,
            ..ListenerConnections::default()
        }
    }

    fn listening(names: &[&str]) -> Servers<u8> {
        let mut servers = Servers::default();
        servers.listen(names.iter().map(|name| (*name).to_owned()).collect());
        servers
    }

    #[test]
    fn two_servers_are_summed_and_one_that_goes_takes_its_own_along() {
        let (before, now) = (Rc::new(1_u8), Rc::new(2_u8));
        let mut servers = listening(&["in", "also"]);
        assert_eq!(servers.add(11, Rc::clone(&before)), Ok(None));
        servers.said(&before, vec![connections("in", 3, 10), connections("also", 1, 4)]);
        assert_eq!(servers.add(12, Rc::clone(&now)), Ok(None));
        servers.said(&now, vec![connections("in", 9, 20)]);
        servers.said(&now, vec![connections("in", 4, 20)]);
        let sum = ListenerConnections { refused: 2, ..connections("in", 7, 20) };
        assert_eq!(servers.connections(), [connections("also", 1, 4), sum]);
        servers.said(&before, vec![connections("in", u32::MAX, 10)]);
        assert_eq!(servers.connections()[0].urgent, u32::MAX);
        servers.remove(&before);
        assert_eq!(servers.connections(), [connections("in", 4, 20)]);
        // Nobody any more.
        servers.said(&before, vec![connections("in", 3, 10)]);
        assert_eq!(servers.links().collect::<Vec<_>>(), [&2]);
        assert_eq!(servers.connections(), [connections("in", 4, 20)]);
    }

    #[test]
    fn of_what_a_server_says_each_listener_in_force_is_kept_once() {
        let server = Rc::new(1_u8);
        let mut servers = listening(&["in", "also"]);
        servers.add(11, Rc::clone(&server)).unwrap();
        let invented = (0..6_500).map(|number| connections(&format!("x{number}"), 1, 1));
        let repeated = (0..6_500).map(|urgent| connections("in", urgent, 10));
        servers.said(&server, invented.chain(repeated).chain([connections("also", 2, 4)]).collect());
        assert_eq!(servers.servers[0].connections.len(), 2);
        assert_eq!(servers.connections(), [connections("also", 2, 4), connections("in", 6_499, 10)]);
        servers.listen(["in".to_owned()].into());
        assert_eq!(servers.servers[0].connections.len(), 1);
        assert_eq!(servers.connections(), [connections("in", 6_499, 10)]);
    }

    #[test]
    fn a_process_has_one_link_the_last_and_one_process_too_many_has_none() {
        let mut servers = listening(&["in"]);
        let first = Rc::new(0_u8);
        assert_eq!(servers.add(100, Rc::clone(&first)), Ok(None));
        servers.said(&first, vec![connections("in", 5, 10)]);
        for link in 1..100 {
            assert_eq!(servers.add(100, Rc::new(link)), Ok(Some(Rc::new(link - 1))));
        }
        // What a link has said goes with it, and it has nothing to say any more.
        servers.said(&first, vec![connections("in", 5, 10)]);
        assert_eq!(servers.connections(), []);
        for pid in 1..16 {
            assert_eq!(servers.add(pid, Rc::new(100)), Ok(None), "{pid}");
        }
        assert_eq!(servers.add(16, Rc::new(100)), Err(TOO_MANY));
        assert_eq!(servers.links().count(), SERVERS_MAX);
        // One that has a place may connect anew, and one that ends leaves its place.
        let anew = Rc::new(101);
        assert_eq!(servers.add(15, Rc::clone(&anew)), Ok(Some(Rc::new(100))));
        servers.remove(&anew);
        assert_eq!(servers.add(16, Rc::new(102)), Ok(None));
    }
}
