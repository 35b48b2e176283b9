//! The routes that living messages name, each kept once: a million messages to one peer share one.

use std::hash::{BuildHasher, BuildHasherDefault};
use std::sync::Arc;

use hashbrown::HashTable;
use rustc_hash::FxHasher;
use sternpost_message::Route;

/// A route's place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RouteId(u32);

struct Named {
    route: Arc<Route>,
    /// Messages that name it.
    users: u64,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Routes {
    named: Vec<Option<Named>>,
    unused: Vec<u32>,
    by_name: HashTable<u32>,
}

impl Routes {
    pub(crate) fn get(&self, id: RouteId) -> Option<&Arc<Route>> {
        self.named.get(id.0 as usize)?.as_ref().map(|named| &named.route)
    }

    /// The id of a route, for one more message.
    pub(crate) fn take(&mut self, channel: &str, peer: &str) -> RouteId {
        let hash = hash(channel, peer);
        let same = |at: &u32| {
            self.named[*at as usize]
                .as_ref()
                .is_some_and(|named| named.route.channel == channel && named.route.peer == peer)
        };
        if let Some(at) = self.by_name.find(hash, same).copied() {
            if let Some(named) = &mut self.named[at as usize] {
                named.users += 1;
            }
            return RouteId(at);
        }
        let route = Arc::new(Route { channel: channel.to_owned(), peer: peer.to_owned() });
        let named = Some(Named { route, users: 1 });
        let at = match self.unused.pop() {
            Some(at) => {
                self.named[at as usize] = named;
                at
            }
            None => {
                self.named.push(named);
                u32::try_from(self.named.len() - 1).expect("each route takes more than 64 octets of memory")
            }
        };
        let named = &self.named;
        self.by_name.insert_unique(hash, at, |at| {
            named[*at as usize].as_ref().map_or(0, |named| hash_of(&named.route))
        });
        RouteId(at)
    }

    /// One message fewer names it.
    pub(crate) fn give_back(&mut self, id: RouteId) {
        let Some(slot) = self.named.get_mut(id.0 as usize) else { return };
        let Some(named) = slot else { return };
        named.users -= 1;
        if named.users > 0 {
            return;
        }
        let hash = hash_of(&named.route);
        if let Ok(entry) = self.by_name.find_entry(hash, |at| *at == id.0) {
            entry.remove();
        }
        *slot = None;
        self.unused.push(id.0);
    }
}

fn hash_of(route: &Route) -> u64 {
    hash(&route.channel, &route.peer)
}

fn hash(channel: &str, peer: &str) -> u64 {
    BuildHasherDefault::<FxHasher>::default().hash_one((channel, peer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_kept_once_and_as_long_as_somebody_names_it() {
        let mut routes = Routes::default();
        let first = routes.take("smtp", "a");
        let second = routes.take("smtp", "b");
        assert_ne!(first, second);
        assert_eq!(routes.take("smtp", "a"), first);
        routes.give_back(first);
        assert_eq!(routes.get(first).map(|route| route.peer.as_str()), Some("a"));
        routes.give_back(first);
        assert!(routes.get(first).is_none());
        assert_eq!(routes.take("lmtp", "c"), first, "the place is used again");
        assert_eq!(routes.by_name.len(), 2);
    }
}
