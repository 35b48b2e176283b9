//! Each `smtp-server` that has a link to QMGR, and what it has said last of its connections: after an upgrade the one before goes
//! on with its sessions while the new one accepts, and what an operator sees are both.

use std::rc::Rc;
use sternpost_link::qmgr::ListenerConnections;

/// All of them, the one that has connected last behind the others.
#[derive(Debug)]
pub(crate) struct Servers<L> {
    servers: Vec<Server<L>>,
}

#[derive(Debug)]
struct Server<L> {
    link: Rc<L>,
    /// Nothing until it has said something.
    connections: Vec<ListenerConnections>,
}

impl<L> Default for Servers<L> {
    fn default() -> Self {
        Self { servers: Vec::new() }
    }
}

impl<L> Servers<L> {
    pub(crate) fn add(&mut self, link: Rc<L>) {
        self.servers.push(Server { link, connections: Vec::new() });
    }

    /// One has gone, and its connections with it.
    pub(crate) fn remove(&mut self, link: &L) {
        self.servers.retain(|server| !std::ptr::eq(&raw const *server.link, link));
    }

    pub(crate) fn links(&self) -> impl Iterator<Item = &L> {
        self.servers.iter().map(|server| &*server.link)
    }

    /// What the server of this link says takes the place of what it said before.
    pub(crate) fn said(&mut self, link: &L, connections: Vec<ListenerConnections>) {
        let server = self.servers.iter_mut().find(|server| std::ptr::eq(&raw const *server.link, link));
        if let Some(server) = server {
            server.connections = connections;
        }
    }

    /// The connections of each listener at all servers together, in the order of their names; how many there may be is what
    /// the last server says, which has the newest view.
    pub(crate) fn connections(&self) -> Vec<ListenerConnections> {
        let mut all: Vec<ListenerConnections> = Vec::new();
        for one in self.servers.iter().flat_map(|server| &server.connections) {
            match all.iter_mut().find(|sum| sum.listener == one.listener) {
                Some(sum) => {
                    *sum = ListenerConnections {
                        urgent: sum.urgent.saturating_add(one.urgent),
                        normal: sum.normal.saturating_add(one.normal),
                        non_urgent: sum.non_urgent.saturating_add(one.non_urgent),
                        refused: sum.refused.saturating_add(one.refused),
                        ..one.clone()
                    };
                }
                None => all.push(one.clone()),
            }
        }
        all.sort_unstable_by(|one, other| one.listener.cmp(&other.listener));
        all
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

    #[test]
    fn two_servers_are_summed_and_one_that_goes_takes_its_own_along() {
        let (before, now) = (Rc::new(1_u8), Rc::new(2_u8));
        let mut servers = Servers::default();
        servers.add(Rc::clone(&before));
        servers.said(&before, vec![connections("in", 3, 10), connections("gone", 1, 4)]);
        servers.add(Rc::clone(&now));
        servers.said(&now, vec![connections("in", 9, 20)]);
        servers.said(&now, vec![connections("in", 4, 20)]);
        let sum = ListenerConnections { refused: 2, ..connections("in", 7, 20) };
        assert_eq!(servers.connections(), [connections("gone", 1, 4), sum]);
        servers.said(&before, vec![connections("in", u32::MAX, 10)]);
        assert_eq!(servers.connections()[0].urgent, u32::MAX);
        servers.remove(&before);
        assert_eq!(servers.connections(), [connections("in", 4, 20)]);
        // Nobody any more.
        servers.said(&before, vec![connections("in", 3, 10)]);
        assert_eq!(servers.links().collect::<Vec<_>>(), [&2]);
        assert_eq!(servers.connections(), [connections("in", 4, 20)]);
    }
}
